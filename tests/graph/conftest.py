from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from evorank.graph.context import Context, close_sessions
from evorank.graph.journal import thread_id
from evorank.graph.state import Attempt
from evorank.tools.evaluator.local import LocalPool

# `scripted` and `tiny` are helpers of these tests and of the processes they start, not test modules.
sys.path.insert(0, str(Path(__file__).parent))

from tiny import Watched, make_surface


@pytest.fixture
def attempt():
    """Makes one journal record: attempt(step, run="r", outcome="worse", ...)."""

    def make(step: int = 0, run: str = "r", **fields: Any) -> Attempt:
        known: dict[str, Any] = {
            "id": thread_id(run, step),
            "run": run,
            "step": step,
            "surface": "simulated",
            "data_version": "d1",
            "persona": "optimizer",
            "category": "explore",
            "hypothesis": "a smaller step settles lower",
            "patch": [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.01 * step}],
            "outcome": "worse",
        }
        return Attempt(**(known | fields))

    return make


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """A home with the encoded surface "tiny" and nothing else."""
    home = tmp_path_factory.mktemp("template")
    make_surface(home)
    return home


@pytest.fixture
def home(template, tmp_path):
    """A home of a test's own, without a journal."""
    shutil.copytree(template, tmp_path / "home")
    yield tmp_path / "home"
    close_sessions()


@pytest.fixture(scope="session")
def pool():
    """Real worker processes, shared because they take seconds to start."""
    with LocalPool(1) as pool:
        yield pool


@pytest.fixture
def trainings(pool):
    """The pool, with every training written down."""
    return Watched(pool)


@pytest.fixture
def context(home, trainings):
    """Makes a context on the tiny surface: one step at a time, the optimizer persona only."""

    def make(chat_model=None, **fields: Any) -> Context:
        known: dict[str, Any] = {
            "surface": "tiny",
            "home": str(home),
            "personas": ["optimizer"],
            "parallel": 1,
            "seeds": 2,
            "chat_model": chat_model,
            "pool": trainings,
        }
        return Context(**(known | fields))

    return make
