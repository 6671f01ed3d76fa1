"""journal: the table of attempts, or of live tests: filtered, sorted, searched and cut into pages here.

Only what differs from production is shown, never the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from evorank.graph.state import Attempt, Experiment
from evorank.ui.source import Snapshot
from evorank.ui.views.common import (
    AttemptLine,
    ExperimentLine,
    View,
    attempt_line,
    experiment_line,
    in_words,
)
from evorank.ui.views.progress import Filter, choices

__all__ = ["Experiments", "Journal", "Order", "Query", "experiments", "journal", "matching"]

Order = Literal["newest", "oldest", "gain", "outcome", "seconds", "cpu"]
PAGE = 50


class Query(Filter):
    """What the table shows."""

    q: str = Field(default="", max_length=500, description="Words that must all occur, case ignored")
    sort: Order = "newest"
    page: int = Field(default=1, ge=1, le=1_000_000)
    per: int = Field(default=PAGE, ge=1, le=500, description="Rows of a page")


class Journal(View):
    """A page of attempts."""

    surface: str
    query: Query
    total: int = Field(description="Attempts that match")
    pages: int
    rows: list[AttemptLine]
    choices: dict[str, list[str]]


class Experiments(View):
    """All live tests."""

    surface: str
    online: bool
    rows: list[ExperimentLine]


def journal(snapshot: Snapshot, query: Query | None = None) -> Journal:
    query = query or Query()
    found = matching(snapshot, query)
    pages = max(1, -(-len(found) // query.per))
    query = query.model_copy(update={"page": min(query.page, pages)})
    begin = (query.page - 1) * query.per
    return Journal(
        surface=snapshot.surface,
        query=query,
        total=len(found),
        pages=pages,
        rows=[attempt_line(attempt, snapshot) for attempt in found[begin : begin + query.per]],
        choices=choices(snapshot.attempts),
    )


def matching(snapshot: Snapshot, query: Query) -> list[Attempt]:
    """All attempts of a query, in its order."""
    chosen = Filter(**query.model_dump(include=set(Filter.model_fields)))
    words = query.q.lower().split()
    found = [
        attempt
        for attempt in snapshot.attempts
        if chosen.takes(attempt) and (not words or _holds(attempt, words, snapshot.texts))
    ]
    if query.sort == "oldest":
        return found
    found.reverse()
    if query.sort != "newest":
        found.sort(key=_KEYS[query.sort])
    return found


def _holds(attempt: Attempt, words: Sequence[str], texts: dict[str, str]) -> bool:
    """`texts`: what was put together before, as thousands are searched at every key."""
    text = texts.get(attempt.id)
    if text is None:
        change = in_words(attempt.changes or attempt.patch, 2000)
        told = (attempt.id, attempt.fingerprint or "", attempt.hypothesis, attempt.reason, attempt.persona)
        text = texts[attempt.id] = " ".join((*told, attempt.model, attempt.outcome, change)).lower()
    return all(word in text for word in words)


def _gain(attempt: Attempt) -> tuple[int, float]:
    comparison = attempt.comparison
    if comparison is None:
        return 1, 0.0
    sign = 1.0 if comparison["lower_is_better"] else -1.0
    return 0, sign * float(comparison["difference"])


_ORDER = ("better", "cheaper", "equal", "inconclusive", "worse", "duplicate", "refused", "failed")
_KEYS: dict[str, Callable[[Attempt], Any]] = {
    "gain": _gain,
    "outcome": lambda attempt: _ORDER.index(attempt.outcome),
    "seconds": lambda attempt: -attempt.seconds,
    "cpu": lambda attempt: -attempt.usage.cpu_seconds,
}


def experiments(snapshot: Snapshot) -> Experiments:
    """Open ones first, in the queue's order; then those that ended, newest first."""
    places = {entry.experiment: number for number, entry in enumerate(snapshot.entries)}
    phases = ("live", "training", "validated", "proposed")

    def order(each: Experiment) -> tuple[int, int]:
        place = places.get(each.id, 0)
        return (len(phases), -place) if each.result else (phases.index(each.phase), place)

    rows = sorted(
        (each for each in snapshot.experiments if each.phase != "completed" or each.result), key=order
    )
    return Experiments(
        surface=snapshot.surface,
        online=bool(snapshot.spec and snapshot.spec.online),
        rows=[experiment_line(each, snapshot) for each in rows],
    )
