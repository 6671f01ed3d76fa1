"""Experiments of elsewhere: taken whole or not at all, told as what they are, and learned from."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kept import keep
from scripted import rates

from evorank.graph.context import open_session
from evorank.graph.export import export
from evorank.graph.imports import import_file
from evorank.graph.journal import Journal
from evorank.graph.knowledge import briefing as briefed
from evorank.graph.offline import graph
from evorank.graph.state import Experiment, Step
from evorank.model.errors import ConfigurationError
from evorank.personas.embedded.engineer import EmbeddedEngineer
from evorank.prompts import render
from evorank.prompts.answers import Proposal
from evorank.surfaces.surface import open_surface

LR = "/optimizer/args/lr"
WIDE = [{"op": "replace", "path": "/architecture/embedding_dim", "value": "many"}]


def line(value: Any = 0.02, **fields: Any) -> dict[str, Any]:
    known = {"hypothesis": f"rate {value}", "by": "ada", "when": "2025-03-01", "outcome": "better"}
    return known | {"changes": [{"op": "replace", "path": LR, "value": value}]} | fields


def lift(value: float, **fields: Any) -> dict[str, Any]:
    known = {"metric": "active_days", "better_is": "higher", "lift": value}
    return known | {"low": value - 0.01, "high": value + 0.01} | fields


@pytest.fixture
def take(home, tmp_path):
    """Imports lines into the home: take(line, line ...) -> (new, all)."""
    journals: list[Journal] = []

    def make(*lines: Any, file: Path | None = None, home: Path = home) -> tuple[int, int]:
        if file is None:
            file = tmp_path / "past.jsonl"
            file.write_text("".join(x if isinstance(x, str) else json.dumps(x) + "\n" for x in lines))
        journals.append(Journal.open(home))
        return import_file(file, open_surface(home, "tiny"), journals[-1])

    yield make
    for journal in journals:
        journal.close()


def records(home: Path):
    journal = Journal.open(home)
    try:
        return journal.attempts()
    finally:
        journal.close()


def test_an_imported_experiment_says_who_when_and_what_and_is_no_measurement_of_ours(take, home):
    metrics = [lift(0.02), {"metric": "log_loss", "better_is": "lower", "difference": -0.01}]
    assert take(line(outcome="launched", metrics=metrics, why="it held for a year")) == (1, 1)
    (found,) = records(home)
    assert (found.imported.by, found.imported.when, found.imported.result) == (
        "ada",
        "2025-03-01",
        "launched",
    )
    assert (found.persona, found.outcome, found.reason) == ("optimizer", "better", "it held for a year")
    assert found.phi["optimizer"]["args"]["lr"] == 0.02
    assert found.comparison is None
    assert not found.won, "it goes live by no other way than being measured here"


def test_the_same_experiment_is_added_once(take):
    assert take(line(0.02), line(0.03)) == (2, 2)
    assert take(line(0.03), line(0.04), line(0.04)) == (1, 2)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("not json\n", "not JSON"),
        ("[1]\n", "must be a JSON object"),
        (line(outcome="great"), "`outcome`"),
        (line(owner="ada"), "`owner`"),
        ({"hypothesis": "x"}, "`changes`"),
        (line(when="last week"), "`when`"),
        (line(changes=WIDE), "/architecture/embedding_dim must be"),
        (line(changes=[{"op": "replace", "path": "/optimiser/x", "value": 1}]), "Did you mean 'optimizer'"),
        (line(changes=[{"op": "replace", "path": LR, "value": 0.1}], against={}), "/optimizer"),
        (line(metrics=[{"metric": "m", "better_is": "lower"}]), "either `difference`"),
        (line(metrics=[lift(0.02, low=0.03)]), "does not hold"),
        (line(metrics=[lift(0.02, high=None)]), "both `low` and `high`"),
        (line(metrics=[lift(float("nan"))]), "finite"),
    ],
)
def test_a_bad_line_is_named_by_its_number_and_nothing_is_imported(take, home, bad, words):
    with pytest.raises(ConfigurationError) as error:
        take(line(0.02), bad, line(0.03))
    assert "line 2: " in str(error.value)
    assert words in str(error.value)
    assert str(error.value).count("line ") == 1
    assert records(home) == []


def test_every_bad_line_is_told_at_once(take):
    with pytest.raises(ConfigurationError, match=r"2 lines:\n  line 1: .*\n  line 3: "):
        take(line(changes=WIDE), line(0.02), "{\n")


def test_what_was_refused_elsewhere_may_be_no_valid_configuration_here(take, home):
    take(line(changes=WIDE, outcome="refused", why="the trainer crashed"))
    (found,) = records(home)
    assert (found.outcome, found.phi, found.patch[0]["value"]) == ("refused", None, "many")


def test_changes_against_another_configuration_say_so_in_prompts(take, home, context):
    old = open_surface(home, "tiny").production()
    old["optimizer"]["batch_size"] = 32
    take(line(0.02, against=old))
    (shown,) = lines_of(prompt(context))
    assert shown["against"]
    assert [change["path"] for change in shown["delta"]] == [LR]


def test_csv_holds_nested_fields_as_json_text(take, home, tmp_path):
    file = tmp_path / "past.csv"
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["hypothesis", "changes", "by", "outcome", "metrics"])
        changes = json.dumps(line()["changes"])
        writer.writerow(["two\nlines", changes, "ada", "no_launch", json.dumps([lift(0.001)])])
        writer.writerow(["plain", changes, "bob", "worse", ""])
    assert take(file=file) == (2, 2)
    assert {each.imported.by: each.outcome for each in records(home)} == {
        "ada": "inconclusive",
        "bob": "worse",
    }
    file.write_text(file.read_text() + 'short,"[]"\nplain,oops,bob,worse,\n')
    with pytest.raises(ConfigurationError, match=r"line 5: .*columns(.|\n)*line 6: .*`changes`"):
        take(file=file)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_an_export_is_imported_elsewhere_and_comes_back_as_the_same(
    take, home, template, tmp_path, context, ending
):
    graph.invoke({"steps": 1}, context=context(rates(0.05)))
    take(line(0.02, outcome="launched", metrics=[lift(0.02)]))
    ours = open_session(context()).journal.attempts()
    export(ours, tmp_path / f"a.{ending}")
    assert take(file=tmp_path / f"a.{ending}") == (0, 2), "at home, everything is known"
    (tmp_path / "other" / "surfaces").mkdir(parents=True)
    (tmp_path / "other" / "surfaces" / "tiny").symlink_to(template / "surfaces" / "tiny")
    assert take(file=tmp_path / f"a.{ending}", home=tmp_path / "other") == (2, 2)
    there = records(tmp_path / "other")
    assert [each.id for each in there] == [each.id for each in ours]
    measured, told = there
    assert measured.imported.by.startswith("optimizer, ")
    assert measured.imported.metrics[0].difference == ours[0].comparison["difference"]
    assert (measured.phi, measured.comparison, measured.won) == (ours[0].phi, None, False)
    assert told.imported == ours[1].imported
    export(there, tmp_path / f"b.{ending}")
    assert take(file=tmp_path / f"b.{ending}", home=tmp_path / "other") == (0, 2)


def test_experiments_of_another_home_are_read_with_their_effects(take, home, tmp_path):
    production = open_surface(home, "tiny").production()
    metric = {"name": "visits", "success": True, "higher_is_better": True}
    effect = {"metric": "visits", "lift": 0.05, "lift_low": 0.03, "lift_high": 0.07}
    experiment = Experiment(
        id="0f0e0d0c-0000-5000-8000-000000000000", surface="there", proposed_by="ada", hypothesis="a step",
        production="p", changes=line()["changes"], phi=production, fingerprint="f", phase="completed",
        result="launched", reason="It won.", plan={"metrics": [metric]}, effects=[effect],
    )  # fmt: skip
    for ending in ("jsonl", "csv"):
        file = tmp_path / f"experiments.{ending}"
        export([experiment], file)
        assert take(file=file) == ((1, 1) if ending == "jsonl" else (0, 1))
    (found,) = records(home)
    assert (found.imported.by, found.imported.result, found.outcome) == ("ada", "launched", "better")
    assert found.imported.metrics[0].lift == 0.05


# -- what prompts and the embedded engineer make of it


def prompt(context, step: int = 0, journal: bool = True):
    session = open_session(context())
    at = Step(run="r", step=step, persona="optimizer", since=session.journal.watermark())
    briefing = briefed(at, session, "optimizer", wanted={"explore": 1})
    return briefing if journal else replace(briefing, journal=[])


def lines_of(briefing) -> list[dict[str, Any]]:
    text = render.think(briefing)[1].text
    block = text.split("### Attempts")[1].split("```jsonl\n")[1].split("```")[0]
    return [json.loads(each) for each in block.splitlines() if each.strip()]


def test_prompts_tell_what_is_reported_apart_from_what_was_measured(take, home, context):
    take(line(0.02, outcome="launched", metrics=[lift(0.02)]), line(0.5, outcome="worse"))
    graph.invoke({"steps": 1, "run": "earlier"}, context=context(rates(0.05)))
    text = render.think(prompt(context))[1].text
    assert "nobody measured it here" in text
    first, *_ = shown = lines_of(prompt(context))
    assert first["imported"] == {"by": "ada", "when": "2025-03-01"}
    assert first["online"]["verdict"] == "won"
    assert first["online"]["success"]["active_days"]["lift"] == 0.02
    assert ["imported" in each for each in shown].count(True) == 2
    assert "nobody measured it here" not in render.think(prompt(context, journal=False))[1].text


def test_a_thousand_reports_do_not_crowd_out_what_was_measured_here(take, context):
    graph.invoke({"steps": 1, "run": "earlier"}, context=context(rates(0.09)))
    take(*(line(0.001 + n / 1e5, outcome="no_launch", metrics=[lift(0.001)]) for n in range(300)))
    shown = lines_of(replace(prompt(context), prompt_tokens=20_000))
    assert 20 < len(shown) < 200
    assert [each for each in shown if "imported" not in each]


def test_the_embedded_engineer_tries_what_won_elsewhere_and_leaves_alone_what_lost(take, context):
    def hypotheses() -> list[str]:
        told = [prompt(context, step) for step in range(12)]
        engineer = EmbeddedEngineer(seed=0).with_structured_output(Proposal)
        return [engineer.invoke(render.think(each)).hypothesis for each in told]

    before = hypotheses()
    take(line(0.0123, outcome="better"))
    after = hypotheses()
    assert not any("0.0123" in each for each in before)
    found = [each for each in after if "`/optimizer/args/lr` := `0.0123`" in each]
    assert found
    assert all("ada" in each and "nobody has measured it here" in each for each in found)
    take(line(0.0123, outcome="aborted", by="bob", metrics=[lift(-0.05)]))
    assert not any("`/optimizer/args/lr` := `0.0123`" in each for each in hypotheses())


def test_what_is_reported_may_be_measured_here(take, context):
    take(line(0.05, outcome="better"))
    graph.invoke({"steps": 1, "run": "r"}, context=context(rates(0.05)))
    (found,) = open_session(context()).journal.attempts(run="r")
    assert found.comparison is not None
    assert found.outcome != "duplicate"


def test_a_launch_elsewhere_is_no_launch_here(take, context):
    take(line(outcome="launched", metrics=[lift(0.02)]))
    session = open_session(context())
    keep(
        session, Experiment(id="e", surface="tiny", proposed_by="x", production="p", phi={}, fingerprint="f")
    )
    assert [each.id for each in session.journal.experiments("tiny")] == ["e"]
