from __future__ import annotations

from typing import Any

import pytest

from evorank.graph.journal import thread_id
from evorank.graph.state import Attempt


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
