"""spending: every call to a chat model with what it cost, on whose account, and the budget that it must keep.

Kept apart from attempts, because a call costs something too when its attempt dies half-way, and because a
strategist is asked on nobody's attempt.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Usage
from evorank.graph.store import Store

__all__ = ["Account", "Budget", "Call", "Limits", "Spending", "by_model"]


class Account(BaseModel):
    """On whose account something is asked."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    run: str | None = None
    """None: a person's, or cron's."""
    step: int | None = None
    """None: not for one attempt."""
    persona: str = ""


class Call(Account):
    """One question and its answer, repairs counted as questions of their own."""

    surface: str
    role: str
    """evorank.graph.models.Role, or `hello`: whether a model is there at all."""
    model: str
    at: str
    """ISO 8601, UTC."""
    seconds: float = 0.0
    """From the question to the answer, retries and waits included."""
    usage: Usage = Field(default_factory=Usage)


class Spending:
    """The calls of one surface. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface
        self._totals: dict[str | None, Usage] = {}
        self._lock = threading.RLock()

    def note(self, account: Account, role: str, model: str, usage: Usage, seconds: float) -> None:
        """Write a call down."""
        call = Call(
            **account.model_dump(),
            surface=self.surface,
            role=role,
            model=model,
            at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            seconds=round(seconds, 3),
            usage=usage,
        )
        with self._lock:
            with self.store.transaction() as access:
                access.execute(
                    "INSERT INTO evorank_calls (id, surface, run, at, data) VALUES (?, ?, ?, ?, ?)",
                    *(
                        f"{time.time_ns():020d}-{uuid.uuid4().hex[:12]}",
                        self.surface,
                        account.run,
                        call.at,
                        call.model_dump_json(),
                    ),
                )
            if account.run in self._totals:
                self._totals[account.run] += usage

    def calls(self, run: str | None, step: int | None = None) -> list[Call]:
        """The calls of a run, or of one of its steps, in the order of their answers."""
        of_run, values = ("run IS NULL", ()) if run is None else ("run = ?", (run,))
        with self.store.reading() as access:
            rows = access.execute(
                f"SELECT data FROM evorank_calls WHERE surface = ? AND {of_run} ORDER BY id",
                *(self.surface, *values),
            )
        calls = [Call.model_validate_json(data) for (data,) in rows]
        return [call for call in calls if step is None or call.step == step]

    def catch_up(self, known: dict[str, Call]) -> None:
        """Add to id -> call what is not there yet, of all runs, in the order of the answers; reads what is
        new, and everything where a clock that is behind has written."""
        newest = max((call.at for call in known.values()), default="")
        with self.store.reading() as access:
            ((count,),) = access.execute("SELECT count(*) FROM evorank_calls WHERE surface = ?", self.surface)
            if count == len(known):
                return
            for since in (newest, ""):
                rows = access.execute(
                    "SELECT id, data FROM evorank_calls WHERE surface = ? AND at >= ? ORDER BY at, id",
                    *(self.surface, since),
                )
                known |= {mark: Call.model_validate_json(data) for mark, data in rows if mark not in known}
                if len(known) >= count:
                    return

    def total(self, run: str | None) -> Usage:
        """What a run has cost so far: as this process knows it, since no other carries the run out."""
        with self._lock:
            if run not in self._totals:
                self._totals[run] = sum((call.usage for call in self.calls(run)), Usage())
            return self._totals[run]


def by_model(calls: Iterable[Call]) -> list[dict[str, Any]]:
    """What was spent per persona and model: {"persona", "model", "usage"}, in the order of their names."""
    sums: dict[tuple[str, str], Usage] = {}
    for call in calls:
        key = (call.persona or call.role, call.model)
        sums[key] = sums.get(key, Usage()) + call.usage
    return [{"persona": who, "model": model, "usage": usage} for (who, model), usage in sorted(sums.items())]


class Limits(Protocol):
    """What a budget needs of a context. None: no limit."""

    max_calls: int | None
    max_tokens: int | None
    max_usd: float | None
    max_minutes: float | None


class Budget:
    """What a run may spend on chat models, and how long this process may work on it."""

    def __init__(self, limits: Limits, spending: Spending) -> None:
        self.limits, self.spending = limits, spending
        self.begin()

    def begin(self) -> None:
        """Minutes count from here."""
        self._begun = time.monotonic()

    def spent(self, run: str | None) -> str | None:
        """Which limit is reached, as `budget: ...`; None: none is, or it is no run's account."""
        limits = self.limits
        if run is None:
            return None
        total = self.spending.total(run)
        tokens = (total.input_tokens or 0) + (total.output_tokens or 0)
        minutes = (time.monotonic() - self._begun) / 60
        # A sum with a hole in it cannot be kept below a limit.
        if limits.max_tokens is not None and total.unreported:
            return (
                f"budget: {total.unreported} answers came without their tokens: --max-tokens cannot be kept"
            )
        if limits.max_usd is not None and total.unpriced:
            return f"budget: {total.unpriced} answers came without their cost: --max-usd cannot be kept"
        spent: Sequence[tuple[float, float | None, str]] = (
            (total.calls, limits.max_calls, "{:,.0f} of {:,.0f} calls spent"),
            (tokens, limits.max_tokens, "{:,.0f} of {:,.0f} tokens spent"),
            (total.usd or 0.0, limits.max_usd, "{:,.4g} of {:,.4g} dollars spent"),
            (minutes, limits.max_minutes, "{:,.1f} of {:,.1f} minutes spent"),
        )
        for amount, limit, told in spent:
            if limit is not None and amount >= limit:
                return f"budget: {told.format(amount, limit)}"
        return None
