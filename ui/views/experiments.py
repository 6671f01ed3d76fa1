"""experiments: the table of live tests, from the queue to the launch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from evorank.graph.state import Experiment
from evorank.ui.source import Snapshot
from evorank.ui.views import table
from evorank.ui.views.common import (
    ExperimentLine,
    View,
    experiment_line,
    in_words,
    plan_metrics,
    state_of,
)

__all__ = ["Experiments", "Query", "Tests", "experiments", "matching"]

PHASES = ("live", "training", "validated", "proposed")
RESULTS = ("launched", "superseded", "no_launch", "aborted", "rejected", "failed", "withdrawn")
"""From what came furthest to what came least far."""


class Tests(table.Columns):
    """Which live tests."""

    state: str | None = Field(
        default=None, description="How it ended, `waiting` for an approval, or its phase"
    )
    proposed_by: str | None = None
    category: str | None = None
    run: str | None = None


class Query(Tests, table.Query):
    """What the table of live tests shows."""

    sort: Literal["open", "newest", "oldest", "lift", "state"] = Field(
        default="open", description="open: open ones first, in the queue's order; lift: of the north star"
    )


class Experiments(View):
    """A page of live tests."""

    surface: str
    online: bool = Field(description="Whether the surface has live traffic")
    query: Query
    total: int = Field(description="Live tests that match")
    pages: int
    rows: list[ExperimentLine]
    choices: dict[str, list[str]]


def experiments(snapshot: Snapshot, query: Query | None = None) -> Experiments:
    query = query or Query()
    tests = _table(snapshot)
    page = tests.page(query)
    return Experiments(
        surface=snapshot.surface,
        online=bool(snapshot.spec and snapshot.spec.online),
        query=query.model_copy(update={"page": page.number}),
        total=page.total,
        pages=page.pages,
        rows=[experiment_line(each, snapshot) for each in page.rows],
        choices=tests.choices(),
    )


def matching(snapshot: Snapshot, query: Query) -> list[Experiment]:
    """All live tests of a query, in its order."""
    return _table(snapshot).matching(query)


def _table(snapshot: Snapshot) -> table.Table[Experiment]:
    places = {entry.experiment: number for number, entry in enumerate(snapshot.entries)}

    def value(test: Experiment, column: str) -> object:
        return state_of(test, snapshot) if column == "state" else getattr(test, column)

    def open_first(test: Experiment) -> tuple[int, int]:
        if test.result:
            return len(PHASES), 0
        return PHASES.index(test.phase), places.get(test.id, 0)

    orders: dict[str, Callable[[Experiment], Any]] = {
        "open": open_first,
        "lift": _lift,
        "state": lambda test: RESULTS.index(test.result) if test.result else len(RESULTS),
    }
    # What was completed and has no result yet is being decided at this moment.
    shown = [each for each in snapshot.experiments if each.phase != "completed" or each.result]
    shown.sort(key=lambda each: places.get(each.id, -1))
    return table.Table(shown, Tests, value, lambda test: _text(test, snapshot), orders)


def _text(test: Experiment, snapshot: Snapshot) -> str:
    """`snapshot.texts` keeps what of it never changes, as all are searched at every key."""
    text = snapshot.texts.get(test.id)
    if text is None:
        told = (test.id, test.attempt or "", test.fingerprint, test.hypothesis, test.proposed_by)
        text = snapshot.texts[test.id] = " ".join((*told, in_words(test.changes, 2000))).lower()
    return f"{text} {test.reason.lower()} {state_of(test, snapshot)}"


def _lift(test: Experiment) -> tuple[int, float]:
    """The north star is the plan's first success metric."""
    metrics = plan_metrics(test)
    for effect in test.effects:
        metric = metrics.get(str(effect["metric"]), {})
        if metric.get("success") and effect.get("lift") is not None:
            return 0, float(effect["lift"]) * (-1.0 if metric.get("higher_is_better", True) else 1.0)
    return 1, 0.0
