"""Steering, notes and the dry run as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evorank.cli import app
from evorank.graph.journal import Journal, thread_id
from evorank.graph.notes import Finding, Kept, Notes
from evorank.graph.state import Attempt
from evorank.surfaces.simulated.create import create


def cli(*arguments: str, home: Path, check: int = 0) -> str:
    """What a command prints, in this process: all that would start anything else is tested elsewhere."""
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--home", str(home)])
    assert done.exit_code == check, f"exit {done.exit_code}\n{done.output}\n{done.exception}"
    return done.output


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_directive_is_added_listed_and_removed(home):
    assert "s1 is in force on surface simulated" in cli("steer", "add", "focus on long sessions", home=home)
    cli("steer", "add", "no code", "--persona", "architecture", "--until", "20", home=home)
    shown = cli("steer", "list", home=home)
    assert "s1   focus on long sessions\n     in force, in 0 steps so far" in shown
    assert "s2   no code\n     0 of 20 steps  architecture only" in shown
    assert "s1 is in force no longer: focus on long sessions" in cli("steer", "remove", "s1", home=home)
    assert [each["id"] for each in json.loads(cli("steer", "list", "--json", home=home))] == ["s2"]
    every = json.loads(cli("steer", "list", "--all", "--json", home=home))
    assert [bool(each["ended"]) for each in every] == [True, False]
    assert "nothing is asked of proposals on surface films" in cli(
        "steer", "list", "--surface", "films", home=home
    )


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["add", "be brave", "--persona", "plumber"], "`--persona` must be one of architecture, linter"),
        (["add", "be brave", "--until", "soon"], "`--until` must be a day such as 2026-03-01"),
        (["add", " "], "1 to 1000 characters"),
        (["remove", "s7"], "`s7` names no directive of surface 'simulated'. There are: none"),
    ],
)
def test_what_cannot_be_is_one_line_and_exit_code_2(home, words, says):
    told = cli("steer", *words, home=home, check=2)
    assert says in told
    assert told.count("\n") == 1


def test_notes_are_shown_with_the_attempts_that_they_cite(home):
    journal = Journal.open(home)
    known = {"run": "r", "step": 3, "surface": "simulated", "data_version": "d", "persona": "optimizer"}
    journal.append(Attempt(id=thread_id("r", 3), outcome="worse", steering=["s1"], **known))
    note = {"surface": "simulated", "run": "r", "before": 4, "mark": "m", "covers": 4, "model": "scripted"}
    cites = [thread_id("r", 3)]
    works = [Finding(claim="Lower rates gain.", cites=cites)]
    Notes(journal.store, "simulated").keep(Kept(works=works, dropped=2, steps={cites[0]: 3}, **note))
    journal.close()
    shown = cli("journal", "insights", home=home)
    assert "run r, 4 attempts, by scripted" in shown
    assert f"works: Lower rates gain.\n    {cites[0][:8]}\n" in shown
    assert "2 claims were dropped" in shown
    (found,) = json.loads(cli("journal", "insights", "--json", home=home))
    assert found["works"] == [{"claim": "Lower rates gain.", "cites": cites}]
    assert json.loads(cli("journal", "insights", "--surface", "films", "--json", home=home)) == []
    assert "steered by s1" in cli("journal", "show", cites[0][:8], home=home)


def test_a_dry_run_prints_prompts_tokens_and_cost_and_runs_nothing(home):
    create(home, "simulated", "home", users=300, days=24)
    told = cli("run", "--dry-run", "--steps", "20", "--proposals", "2/1/1", home=home)
    assert "=== think, optimizer: " in told
    assert '{"explore": 2, "exploit": 1, "innovate": 1}' in told
    assert "20 steps: 5 explore, 5 think, 20 code, 20 review, 1 insight" in told
    assert "out, by embedded engineer: about $0.00" in told
    assert "counted as one token for 3 characters" in told
    assert not (home / "runs").exists()
    found = json.loads(cli("run", "--dry-run", "--json", home=home))
    assert found["calls"]["code"] == 50
    assert "--resume" in cli("run", "--dry-run", "--resume", "latest", home=home, check=2)
