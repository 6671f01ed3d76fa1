from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

# `both_loops`, and the graph's `planted` and `tiny`, help these tests; they are no test modules.
sys.path.insert(0, str(Path(__file__).parent))

from both_loops import live

from evorank.graph.context import Context, close_sessions
from evorank.graph.journal import Journal, thread_id
from evorank.graph.state import Attempt
from evorank.surfaces.surface import alone
from evorank.ui.source import Source


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A home in which both loops ran, once for all processes of the tests. Treat it as read-only."""
    own = tmp_path_factory.getbasetemp()
    home = (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "finished"
    with alone(home.with_suffix(".lock")):
        if not home.exists():
            draft = own / "draft"
            live(draft)
            draft.rename(home)
    return home


@pytest.fixture
def home(finished, tmp_path):
    """A copy of it, to write into."""
    shutil.copytree(finished, tmp_path / "home")
    yield tmp_path / "home"
    close_sessions()


@pytest.fixture(scope="session")
def source(finished):
    found = Source(Context(surface="tiny", home=str(finished)))
    yield found
    found.close()


@pytest.fixture(scope="session")
def attempt():
    """Makes one journal record: attempt(step, gain=0.01, width=0.002, outcome="better", ...)."""

    def make(step: int = 0, gain: float | None = None, width: float = 0.002, **fields: Any) -> Attempt:
        comparison = None
        if gain is not None:
            comparison = {
                "metric": "log_loss", "lower_is_better": True, "difference": -gain, "low": -gain - width,
                "high": -gain + width, "verdict": fields.get("outcome", "equal"), "margin": 0.001,
                "seeds": [0, 1], "effort": "full", "rows": 1000, "reason": "", "production": {},
                "candidate": {},
            }  # fmt: skip
        known: dict[str, Any] = {
            "id": thread_id(fields.get("run", "r"), step),
            "run": "r",
            "step": step,
            "surface": "simulated",
            "data_version": "d1",
            "persona": "optimizer",
            "category": "explore",
            "hypothesis": f"idea {step}",
            "production": "p1",
            "patch": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * step}],
            "outcome": "equal" if gain is not None else "refused",
            "comparison": comparison,
        }
        return Attempt(**(known | fields))

    return make


@pytest.fixture
def source_of(tmp_path):
    """Makes a home with these attempts and reads it: source_of(attempts) -> Source."""
    made: list[Source] = []

    def make(attempts, surface: str = "simulated") -> Source:
        journal = Journal.open(tmp_path / "hand")
        journal.extend(attempts)
        journal.close()
        made.append(Source(Context(surface=surface, home=str(tmp_path / "hand"))))
        return made[-1]

    yield make
    for each in made:
        each.close()
