"""A run of both loops that is killed again and again on a living world ends as one that was left alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evorank.graph.journal import Journal
from evorank.graph.runs import Summary
from evorank.surfaces.simulated.create import create
from evorank.surfaces.surface import save_surface

HERE = Path(__file__).parent
WORLD = "evorank.surfaces.simulated"
KILLED = -9


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home with a small world whose tests last a week and are never too weak."""
    home = tmp_path_factory.mktemp("world") / "home"
    spec = create(home, "small", "home", users=300, days=14).spec
    assert spec.online is not None
    easy = {"wanted_lift": 9.0, "minimum_rows": 100, "horizon_days": 7, "pre_days": 7, "holdback": 0.0}
    metrics = tuple(each for each in spec.online.metrics if each.success)
    online = spec.online.model_copy(update=easy | {"metrics": metrics})
    save_surface(home, spec.model_copy(update={"online": online}))
    return home


def lives(home: Path, pool: str, *places: str) -> list[list[str]]:
    """Exit code and the world's day after each process; the last one is not killed."""
    done = subprocess.run(
        [sys.executable, str(HERE / "evolver.py"), str(home), pool, *places, ""],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    ended = [line.split()[:2] for line in done.stdout.splitlines()]
    assert [code for code, _ in ended] == [str(KILLED)] * len(places) + ["0"], done.stdout + done.stderr
    return ended


def told(home: Path) -> dict[str, Any]:
    """What must be the same. Attempts of the second batch need not: a process that starts on a later day
    takes the newest log, one that goes on keeps its own for a week."""
    (path,) = (home / "runs").glob("*/summary.json")
    summary = Summary.model_validate_json(path.read_text())
    assert summary.stopped is None
    journal = Journal.open(home)
    attempts = journal.attempts()
    (tested,) = (each for each in journal.experiments("small") if each.proposed_by == "ada")
    journal.close()
    assert sorted(attempt.step for attempt in attempts) == list(range(summary.steps))
    traffic = json.loads((home / "surfaces" / "small" / "platform.json").read_text())
    return {
        "first batch": {each.step: (each.fingerprint, each.outcome) for each in attempts if each.step < 2},
        "tested": (tested.id, tested.result, tested.times),
        "readings": [each["users"] for each in tested.readings],
        "days": summary.days,
        "traffic": {name: each["state"] for name, each in traffic["experiments"].items()},
        "effects": sorted(traffic["keys"]),
    }


@pytest.mark.heavy
def test_a_run_that_is_killed_on_the_way_loses_nothing_repeats_nothing_and_lets_no_more_days_pass(
    world, lent, tmp_path
):
    calm, wild = tmp_path / "calm", tmp_path / "wild"
    shutil.copytree(world, calm)
    shutil.copytree(world, wild)
    ((_, last),) = lives(calm, lent)
    places = [
        "evorank.graph.journal:Journal.append before 2",
        "evorank.graph.journal:Journal.append after 1",
        f"{WORLD}.world:World.save before 1",
        f"{WORLD}.world:World.save after 1",
        "langgraph.checkpoint.sqlite:SqliteSaver.put before 9",
        "langgraph.checkpoint.sqlite:SqliteSaver.put after 2",
    ]
    ended = lives(wild, lent, *places)
    assert ended[-1][1] == last
    found, expected = told(wild), told(calm)
    assert expected["days"] >= 6
    assert expected["traffic"], "nothing was tested on people"
    assert found == expected
