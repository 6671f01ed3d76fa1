"""Charts are well-formed, named, small, and show what they were given where they say they do."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from datetime import datetime, timedelta

import pytest

from evorank.ui import charts, effects
from evorank.ui.svg import Scale, figure, group, mark, number, signed, text, tick_text, ticks
from evorank.ui.tree import tree
from evorank.ui.views.attempt import attempt_view
from evorank.ui.views.common import OUTCOMES, EffectLine
from evorank.ui.views.compare import compare
from evorank.ui.views.experiment import Day, Point, Series
from evorank.ui.views.lineage import lineage
from evorank.ui.views.progress import progress
from evorank.ui.views.rates import rate

NASTY = "\"><script>alert(1)</script>&<b a='1'"


def parsed(drawing: str) -> ET.Element:
    """The SVG as XML, as a parser that forgives nothing reads it."""
    root = ET.fromstring(drawing)
    assert root.tag == "svg"
    assert root.get("aria-label")
    assert root.get("role") in ("img", "group")
    assert root.find("desc").text
    assert "script" not in {each.tag for each in root.iter()}
    assert not [
        name for each in root.iter() for name in each.attrib if name.startswith("on") or name == "style"
    ]
    return root


def link(identifier: str) -> str:
    return f"/attempts/{identifier}"


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (0, 1, ["0", "+0.2", "+0.4", "+0.6", "+0.8", "+1.0"]),
        (-0.013, 0.004, ["−0.010", "−0.005", "0"]),
        (0, 12_000, ["0", "+5,000", "+10,000"]),
    ],
)
def test_ticks_are_round_and_have_the_digits_that_tell_them_apart(low, high, shown):
    assert tick_text(ticks(low, high, 4 if high != 1 else 5)) == shown


def test_a_range_of_nothing_and_numbers_that_are_none_break_no_chart():
    assert ticks(1, 1) == [1]
    assert ticks(0, float("inf")) == [0]
    assert Scale(1, 1, 0, 10)(1) == 0
    assert number(3.0) == "3"
    assert number(3.14159) == "3.1"
    assert signed(-0.5, percent=True) == "−50.0%"


def test_every_outcome_has_a_mark_of_its_own_shape():
    shapes = {
        outcome: mark(outcome, 0, 0).split("class=")[0] + mark(outcome, 0, 0).split(" d=")[-1]
        for outcome in OUTCOMES
    }
    assert len(set(shapes.values())) == len(OUTCOMES)


def test_whatever_is_written_into_a_chart_stays_text():
    drawn = figure(1, 1, NASTY, NASTY, [text(0, 0, NASTY, NASTY), group([], NASTY, NASTY)])
    root = parsed(drawn)
    assert root.get("aria-label") == NASTY
    assert root.find("text").text == NASTY
    assert root.find("a").get("href") == NASTY
    assert root.find("a/title").text == NASTY


def test_progress_puts_better_candidates_higher_and_says_each(source_of, attempt):
    found = [
        attempt(0, gain=-0.01, outcome="worse"),
        attempt(1, gain=0.01, outcome="better"),
        attempt(2, gain=0.02, width=0.03, outcome="inconclusive"),
        attempt(3, outcome="refused", reason=NASTY, hypothesis=NASTY),
    ]
    view = progress(source_of(found).snapshot())
    (panel,) = view.panels
    root = parsed(charts.progress(view, panel, link))
    marks = {each.get("href"): each for each in root.iter("a")}
    assert set(marks) == {link(each.id) for each in found[:3]}
    assert "worse, step 0, optimizer" in marks[link(found[0].id)].find("title").text
    heights = [float(marks[link(each.id)].findall("path")[-1].get("d").split()[1]) for each in found[:2]]
    assert heights[1] < heights[0], "more is up"
    (best,) = [each for each in root.iter("path") if each.get("class") == "best"]
    assert best.get("d").count("M") == 1
    below = parsed(charts.failures(view, link))
    assert NASTY in below.find("a/title").text


def test_the_line_of_what_is_sure_begins_anew_with_each_production(source_of, attempt):
    found = [
        attempt(0, gain=0.02, outcome="better", production="p1"),
        attempt(1, gain=0.04, outcome="better", production="p1"),
        attempt(2, gain=0.01, outcome="better", production="p2"),
        attempt(3, gain=0.01, width=0.02, outcome="inconclusive", production="p2"),
    ]
    view = progress(source_of(found).snapshot())
    stretches = view.panels[0].best
    assert [(each.begin, each.end) for each in stretches] == [(0, 2), (2, 4)]
    gains = [[round(gain, 3) for _, gain in each.steps] for each in stretches]
    assert gains == [[0, 0.018, 0.038], [0, 0.008]]
    assert [launch.place for launch in view.launches] == [0, 2]


def test_one_wild_estimate_does_not_flatten_all_others(source_of, attempt):
    found = [attempt(step, gain=step / 10_000, width=1e-4) for step in range(40)] + [attempt(40, gain=-50.0)]
    view = progress(source_of(found).snapshot())
    shown = [each.text for each in parsed(charts.progress(view, view.panels[0], link)).iter("text")]
    assert "+0.002" in shown


def test_intervals_are_seen_whole_also_where_none_of_them_won(source_of, attempt):
    found = [attempt(step, gain=step / 10_000, width=0.005, outcome="inconclusive") for step in range(4)]
    view = progress(source_of(found).snapshot())
    root = parsed(charts.progress(view, view.panels[0], link))
    whiskers = [each for each in root.iter("line") if (each.get("class") or "").startswith("whisker")]
    assert len(whiskers) == 3 * len(found), "a line, and a bar at each of its ends that is not cut off"


def test_one_long_interval_does_not_flatten_all_others(source_of, attempt):
    found = [attempt(step, gain=step / 10_000, width=0.005, outcome="inconclusive") for step in range(4)]
    found.append(attempt(4, gain=0.0001, width=9.0, outcome="inconclusive"))
    view = progress(source_of(found).snapshot())
    shown = [each.text for each in parsed(charts.progress(view, view.panels[0], link)).iter("text")]
    assert "+0.01" in shown


def test_only_what_people_saw_has_a_ring_in_the_graph(source_of, attempt):
    view = lineage(source_of([attempt(step, gain=0.01, outcome="better") for step in range(3)]).snapshot())
    (generation,) = view.generations
    seen, queued, _ = generation.candidates
    seen.experiment, seen.result, seen.live = "one", "no_launch", True
    queued.experiment, queued.result = "two", "proposed"
    root = parsed(tree(view, link))
    rings = [each.get("class") for each in root.iter("circle") if "ring" in (each.get("class") or "")]
    assert rings == ["ring r-no_launch"]
    assert any("live test: proposed" in each.text for each in root.iter("title"))


def test_a_journal_of_ten_thousand_is_a_small_drawing(source_of, attempt):
    found = [attempt(step, gain=(step % 11 - 5) / 1000, outcome=OUTCOMES[step % 5]) for step in range(10_000)]
    view = progress(source_of(found).snapshot())
    assert len(view.panels[0].candidates) == view.window
    assert view.first == 10_000 - view.window
    assert len(charts.progress(view, view.panels[0], link)) < 200_000
    root = parsed(charts.strip(view))
    assert sum(each.get("d").count("M") for each in root.iter("path")) == 10_000
    graph = tree(lineage(source_of([]).snapshot()), link)
    assert len(graph) < 200_000
    assert "led nowhere" in graph


def test_a_forest_shows_zero_the_margin_and_on_which_side_an_interval_is():
    def row(low, lift, high, **fields):
        known = {"metric": "m", "role": "success", "higher_is_better": True, "basis": "fixed"}
        return EffectLine(lift=lift, low=low, high=high, **(known | fields))

    rows = [
        row(0.01, 0.02, 0.03),
        row(-0.03, -0.02, -0.01),
        row(-0.03, -0.02, -0.01, higher_is_better=False),
        row(-0.01, 0.0, 0.01, role="guardrail", margin=0.02),
        row(-0.05, -0.01, 0.03, role="guardrail", margin=0.02),
        row(-0.05, -0.04, -0.03, role="guardrail", margin=0.02),
        row(None, None, None),
    ]
    assert [each.verdict for each in rows] == ["good", "bad", "good", "safe", "open", "bad", "open"]
    root = parsed(effects.forest(rows, "t"))
    assert len(list(root.iter("circle"))) == 6
    assert len([each for each in root.iter("line") if each.get("class") == "margin"]) == 3
    (zero,) = [each for each in root.iter("line") if each.get("class") == "zero"]
    left, right = (float(each.get("cx")) for each in list(root.iter("circle"))[1::-1])
    assert left < float(zero.get("x1")) < right
    parsed(effects.forest([], "nothing"))


def test_a_guardrail_over_time_shows_interval_margin_boundary_and_the_day_it_broke():
    begin = datetime(2026, 1, 5)
    points = [
        Point(
            until=begin + timedelta(days=day),
            lift=-0.01 * day,
            low=-0.01 * day - 0.05,
            high=0.05,
            boundary=-0.06,
            broken=day == 6,
        )
        for day in range(7)
    ]
    points.insert(0, Point(until=begin, lift=None, low=None, high=None, boundary=None, broken=False))
    series = Series(metric="m", description="", higher_is_better=True, margin=-0.02, points=points)
    root = parsed(effects.over_time(series))
    classes = [each.get("class") for each in root.iter()]
    assert classes.count("band") == 1
    assert classes.count("boundary") == 1
    assert classes.count("margin") == 1
    assert [each for each in classes if each and each.startswith("estimate ")].count("estimate bad") == 1
    assert "sequential interval" in list(root.iter("title"))[-1].text
    final = EffectLine(
        metric="m", role="guardrail", higher_is_better=True, lift=0.0, low=-0.01, high=0.01, basis="fixed"
    )
    read = parsed(effects.over_time(series.model_copy(update={"final": final})))
    assert "at the horizon" in list(read.iter("title"))[-1].text
    parsed(effects.over_time(series.model_copy(update={"points": points[:1]})))


def test_users_by_arm_and_learning_curves_name_both_lines(source_of, attempt):
    day = datetime(2026, 1, 5)
    seen = [
        Day(until=day + timedelta(days=n), control=100 * n, candidate=101 * n, p=0.9, failures=[])
        for n in range(3)
    ]
    for days in (seen, seen[:1]):
        said = [each.text for each in parsed(effects.arms(days)).iter("text")]
        assert {"control", "candidate"} <= set(said)
    trained = attempt(0, gain=0.01, outcome="better")
    trained.comparison["curves"] = {"candidate": [[1, 0.9], [100, 0.5]], "production": [[1, 0.9], [100, 0.5]]}
    view = attempt_view(trained, source_of([trained]).snapshot())
    places = [
        each for each in parsed(effects.curves(view)).iter("text") if each.text in ("candidate", "production")
    ]
    assert abs(float(places[0].get("y")) - float(places[1].get("y"))) >= 12, "names do not lie on each other"


def test_rates_outcomes_and_swarms_are_drawn_of_anything(source_of, attempt):
    found = [
        attempt(step, gain=0.001 * step, outcome=OUTCOMES[step % 5], persona="ab"[step % 2])
        for step in range(20)
    ]
    snapshot = source_of(found).snapshot()
    parsed(charts.rate(rate("all", snapshot.attempts)))
    parsed(charts.rate(rate("none", [])))
    assert len(list(parsed(charts.outcomes(rate("all", snapshot.attempts))).iter("rect"))) == 5
    view = compare(snapshot, "persona")
    assert len(list(parsed(charts.swarm(view.sides, "log_loss", link)).iter("a"))) == 20
    assert charts.swarm(view.sides, "alignment", link) == ""
