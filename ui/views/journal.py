"""journal: the table of attempts. Only what differs from production is shown, never the configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from evorank.graph.state import Attempt
from evorank.ui.source import Snapshot
from evorank.ui.views import table
from evorank.ui.views.common import AttemptLine, View, attempt_line, in_words
from evorank.ui.views.progress import Filter

__all__ = ["Journal", "Query", "journal", "matching"]


class Query(Filter, table.Query):
    """What the journal's table shows."""

    sort: Literal["newest", "oldest", "gain", "outcome", "seconds", "cpu"] = "newest"


class Journal(View):
    """A page of attempts."""

    surface: str
    query: Query
    total: int = Field(description="Attempts that match")
    pages: int
    rows: list[AttemptLine]
    choices: dict[str, list[str]]


def journal(snapshot: Snapshot, query: Query | None = None) -> Journal:
    query = query or Query()
    attempts = _table(snapshot)
    page = attempts.page(query)
    return Journal(
        surface=snapshot.surface,
        query=query.model_copy(update={"page": page.number}),
        total=page.total,
        pages=page.pages,
        rows=[attempt_line(attempt, snapshot) for attempt in page.rows],
        choices=attempts.choices(),
    )


def matching(snapshot: Snapshot, query: Query) -> list[Attempt]:
    """All attempts of a query, in its order."""
    return _table(snapshot).matching(query)


def _table(snapshot: Snapshot) -> table.Table[Attempt]:
    return table.Table(
        snapshot.attempts, Filter, getattr, lambda attempt: _text(attempt, snapshot.texts), _ORDERS
    )


def _text(attempt: Attempt, texts: dict[str, str]) -> str:
    """`texts`: what was put together before, as thousands are searched at every key."""
    text = texts.get(attempt.id)
    if text is None:
        change = in_words(attempt.changes or attempt.patch, 2000)
        told = (attempt.id, attempt.fingerprint or "", attempt.hypothesis, attempt.reason, attempt.persona)
        text = texts[attempt.id] = " ".join((*told, attempt.model, attempt.outcome, change)).lower()
    return text


def _gain(attempt: Attempt) -> tuple[int, float]:
    comparison = attempt.comparison
    if comparison is None:
        return 1, 0.0
    sign = 1.0 if comparison["lower_is_better"] else -1.0
    return 0, sign * float(comparison["difference"])


_OUTCOMES = ("better", "cheaper", "equal", "inconclusive", "worse", "duplicate", "refused", "failed")
_ORDERS: dict[str, Callable[[Attempt], Any]] = {
    "gain": _gain,
    "outcome": lambda attempt: _OUTCOMES.index(attempt.outcome),
    "seconds": lambda attempt: -attempt.seconds,
    "cpu": lambda attempt: -attempt.usage.cpu_seconds,
}
