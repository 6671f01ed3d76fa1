"""The picture of an ablation: a line and a name for each variant, production at the top, no number lost."""

from __future__ import annotations

from itertools import pairwise
from xml.etree import ElementTree

import pytest

from evorank.graph.ablation import Ablation, Score, line_of
from evorank.ui.ablation import ROOM, picture

SVG = "{http://www.w3.org/2000/svg}"


def ablation(**losses: list[list[float | None]]) -> Ablation:
    scores = [
        Score(variant=name, seed=seed, losses=run, test=1.0)
        for name, runs in losses.items()
        for seed, run in enumerate(runs)
    ]
    first = next(iter(losses))
    return Ablation(
        study="history",
        surface="films",
        ideas=len(scores[0].losses),
        runs=len(losses[first]),
        model="embedded",
        production="p",
        data_version="d",
        folder="f",
        lines=[line_of(name, scores, first) for name in losses],
        scores=scores,
    )


def drawn(found: Ablation) -> ElementTree.Element:
    return ElementTree.fromstring(picture(found))


def test_each_variant_has_a_line_that_begins_at_production_and_ends_at_its_best() -> None:
    root = drawn(ablation(full=[[0.99, 0.98], [0.97, None]], none=[[1.1, 0.99], [None, None]]))
    curves = [each.get("d", "") for each in root.iter(f"{SVG}path") if "curve" in each.get("class", "")]
    assert len(curves) == 2
    top = f"M{ROOM.left:g} {ROOM.top:g}"
    assert all(curve.startswith(top) for curve in curves)
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert "full −2.50%" in texts
    assert "none −0.50%" in texts


def test_names_at_the_end_of_lines_do_not_cover_each_other() -> None:
    root = drawn(ablation(a=[[0.99]], b=[[0.99]], c=[[0.9901]], d=[[0.98]]))
    places = sorted(
        float(each.get("y", 0)) for each in root.iter(f"{SVG}text") if each.get("class") == "name"
    )
    assert len(places) == 4
    assert all(b - a >= 14.9 for a, b in pairwise(places))


@pytest.mark.parametrize("losses", [[[1.5]], [[None, None]]])
def test_where_nothing_was_better_than_production_there_is_still_a_picture(losses) -> None:
    assert "best loss so far" in picture(ablation(full=losses))


def test_one_run_has_no_interval_and_says_so() -> None:
    assert "1 run" in picture(ablation(full=[[0.9]]))
    assert "2 independent runs" in picture(ablation(full=[[0.9], [0.8]]))
