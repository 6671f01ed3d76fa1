"""The schedule: which experiments a surface has open, what each waits for, and what it serves.

One row per experiment: its phase, its place in the queue, when it is due, and who works on it just now. What
an experiment *found* is in its thread (`Journal.experiments`); a row says only what to do next. Here too:
what people asked of experiments, and through `Versions` what the surface serves.

Every write is one transaction, so any number of ticks, on any number of machines, may run at once.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from types import EllipsisType
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict

from evorank.graph.leases import Leases
from evorank.graph.state import Phase
from evorank.graph.store import Access, Store
from evorank.graph.versions import Version, Versions
from evorank.model.errors import ConfigurationError, JournalError

__all__ = ["CLOCK_TOLERANCE", "Action", "ActionName", "Entry", "Schedule", "Version"]

ActionName = Literal["approve", "abort", "pause", "resume", "rollback"]
"""What a person can ask of an experiment. `abort` takes one from the queue, too; `rollback` takes its launch
back."""
CLOCK_TOLERANCE = timedelta(minutes=1)
"""Two ticks that read the time at once write it in any order, and machines differ by seconds."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Entry(_Record):
    """An experiment's row."""

    experiment: str
    fingerprint: str
    data: dict[str, Any]
    """The experiment as it was proposed: Experiment.model_dump(mode="json")."""
    phase: Phase
    position: int
    """Place in the queue, 1 is next; 0: no longer in it."""
    due: datetime | None
    """Surface time, UTC, before which there is nothing to do; None: none."""
    paused: bool
    waiting: str
    """What it waits for; "": nothing."""
    opened_at: datetime
    """Wall clock, UTC."""
    closed_at: datetime | None
    version: int
    """Grows with every lease: an owner whose lease is another's by now has an older one."""


class Action(_Record):
    """What somebody asked of an experiment."""

    id: int
    experiment: str
    action: ActionName
    by: str
    reason: str
    at: datetime
    """Wall clock, UTC."""


class Schedule(Versions):
    """The schedule of one surface. Safe to share between threads; processes share the store.

    Raises ConfigurationError for what a caller may not ask (an unknown experiment, a Φ that was tested, a
    clock that went back), JournalError where the store fails or a lease is not, or no longer, held.
    """

    def __init__(self, store: Store, surface: str) -> None:
        super().__init__(store, surface)
        self._leases = Leases(store)
        self._guard = threading.Lock()

    # -- the queue

    def add(self, experiment: str, fingerprint: str, data: dict[str, Any], *, again: bool = False) -> bool:
        """Put an experiment at the end of the queue. False, and no change, if this id is open already.

        ConfigurationError, naming the earlier one and how it ended, if this Φ is or was in an experiment
        against the same production (`data["production"]`); one that was withdrawn does not count. `again`:
        it is meant to be tested once more, only the id must be new.
        """
        with self.store.transaction() as access:
            found = access.execute(
                "SELECT experiment, closed_at, surface FROM evorank_schedule WHERE experiment = ?"
                " OR (surface = ? AND production = ? AND fingerprint = ?) ORDER BY place",
                *(experiment, self.surface, data["production"], fingerprint),
            )
            for earlier, closed_at, surface in found:
                if earlier == experiment and (closed_at is None or again):
                    return False
                result = _result(access, earlier) if closed_at else None
                if earlier == experiment or not (again or result == "withdrawn"):
                    state = f"ended: {result or 'without a result'}" if closed_at else "is still open"
                    raise ConfigurationError(
                        f"this Φ ({fingerprint[:12]}) is in experiment {earlier} of surface `{surface}` "
                        f"against the same production, which {state}. Nothing was queued; change the delta, "
                        "or propose it again once production is another."
                    )
            access.execute(
                "INSERT INTO evorank_schedule"
                " (experiment, surface, fingerprint, production, data, phase, place, opened_at)"
                " SELECT ?, ?, ?, ?, ?, 'proposed', coalesce(max(place), 0) + 1, ? FROM evorank_schedule",
                *(experiment, self.surface, fingerprint, data["production"], json.dumps(data)),
                access.stamp,
            )
        return True

    def entries(self, open_only: bool = True) -> list[Entry]:
        """The experiments, those of the queue in their order, others by when they came."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT experiment, fingerprint, data, phase, due, paused, waiting, opened_at, closed_at,"
                " version FROM evorank_schedule WHERE surface = ?"
                f"{' AND closed_at IS NULL' if open_only else ''}"
                " ORDER BY place",
                self.surface,
            )
        entries, position = [], 0
        for identifier, phi, data, phase, due, paused, waiting, opened_at, closed_at, version in rows:
            queued = phase == "proposed" and closed_at is None
            position += queued
            entries.append(
                Entry(
                    experiment=identifier,
                    fingerprint=phi,
                    data=json.loads(data),
                    phase=phase,
                    position=position if queued else 0,
                    due=due and datetime.fromisoformat(due),
                    paused=bool(paused),
                    waiting=waiting,
                    opened_at=datetime.fromisoformat(opened_at),
                    closed_at=closed_at and datetime.fromisoformat(closed_at),
                    version=version,
                )
            )
        return entries

    def move(self, experiment: str, position: int) -> None:
        """Give an experiment of the queue another place in it; 1 is next."""
        with self.store.transaction() as access:
            rows = access.execute(
                "SELECT experiment, place FROM evorank_schedule"
                " WHERE surface = ? AND phase = 'proposed' AND closed_at IS NULL ORDER BY place",
                self.surface,
            )
            order = [identifier for identifier, _ in rows]
            if experiment not in order:
                self._row(access, experiment)
                raise ConfigurationError(f"experiment {experiment} is no longer in the queue.")
            if not 1 <= position <= len(order):
                raise ConfigurationError(f"`position` must lie in 1..{len(order)}, got {position}.")
            order.remove(experiment)
            order.insert(position - 1, experiment)
            for identifier, (_, place) in zip(order, rows, strict=True):
                access.execute(
                    "UPDATE evorank_schedule SET place = ? WHERE experiment = ?", place, identifier
                )

    # -- working on an experiment

    @contextmanager
    def lease(self, experiment: str, owner: str, seconds: float = 900) -> Iterator[bool]:
        """Work on an experiment alone: true if nobody else does. Given back at the end.

        Goes by the wall clock (the server's, where there is one): a lease that ran out, or whose process
        is gone, may be taken by somebody else, and then the earlier owner's `set` is refused.
        """
        with self._guard:
            with self.store.reading() as access:
                self._row(access, experiment)
            mine = self._leases.take(experiment, owner, seconds)
        if not mine:
            yield False
            return
        try:
            yield True
        except BaseException:
            with suppress(JournalError):  # it runs out by itself; what went wrong before says more
                self._leases.give_back(experiment)
            raise
        self._leases.give_back(experiment)

    def renew(self, experiment: str, seconds: float = 900) -> None:
        """Keep a lease for so long from now. JournalError if somebody else has it."""
        with self.store.transaction() as access:
            self._row(access, experiment)
            self._leases.write(access, experiment, {"expires": access.time + seconds})

    def set(
        self,
        experiment: str,
        *,
        phase: Phase | None = None,
        due: datetime | EllipsisType | None = ...,
        waiting: str | None = None,
        paused: bool | None = None,
        closed: bool = False,
    ) -> None:
        """Note where an experiment is; what is not given stays. JournalError unless its lease is held here:
        but for `paused` alone, which needs none.
        """
        with self.store.transaction() as access:
            self._row(access, experiment)
            given: dict[str, Any] = {"phase": phase, "waiting": waiting}
            changes = {name: value for name, value in given.items() if value is not None}
            if not isinstance(due, EllipsisType):
                changes["due"] = due and _utc(due, "due")
            if closed:
                changes["closed_at"] = access.stamp
            if paused is not None:
                access.execute(
                    "UPDATE evorank_schedule SET paused = ? WHERE experiment = ?", int(paused), experiment
                )
            if changes:
                self._leases.write(access, experiment, changes)

    def _row(self, access: Access, experiment: str) -> str | None:
        """When it was closed; ConfigurationError where there is no such experiment."""
        rows = access.execute(
            "SELECT closed_at FROM evorank_schedule WHERE experiment = ? AND surface = ?",
            *(experiment, self.surface),
        )
        if not rows:
            raise ConfigurationError(f"surface `{self.surface}` has no experiment {experiment}.")
        closed: str | None = rows[0][0]
        return closed

    # -- what people ask for

    def request(self, experiment: str, action: ActionName, by: str, reason: str) -> int:
        """Ask something of an open experiment, or the rollback of one that was launched; the next tick does
        it. The request's id."""
        if action not in get_args(ActionName):
            raise ConfigurationError(
                f"`action` must be one of {', '.join(get_args(ActionName))}, got {action!r}."
            )
        with self.store.transaction() as access:
            closed = self._row(access, experiment)
            result = _result(access, experiment) or "closed" if closed else None
            if action == "rollback" and result != "launched":
                raise ConfigurationError(
                    f"experiment {experiment} was not launched ({result or 'it is open'}): "
                    "nothing to roll back."
                )
            if closed and action != "rollback":
                raise ConfigurationError(
                    f"experiment {experiment} ended ({result}, {closed[:19]}): nothing to {action}."
                )
            rows = access.execute(
                "INSERT INTO evorank_actions (id, experiment, action, requested_by, reason, at)"
                " SELECT coalesce(max(id), 0) + 1, ?, ?, ?, ?, ? FROM evorank_actions RETURNING id",
                *(experiment, action, by, reason, access.stamp),
            )
        identifier: int = rows[0][0]
        return identifier

    def pending(self, experiment: str) -> list[Action]:
        """What was asked of an experiment and is not consumed yet, oldest first."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT id, experiment, action, requested_by, reason, at FROM evorank_actions"
                " WHERE experiment = ? AND consumed_at IS NULL ORDER BY id",
                experiment,
            )
        return [_action(row) for row in rows]

    def rollbacks(self) -> list[Action]:
        """Launches of this surface that somebody wants taken back, and nobody has yet, oldest first."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT a.id, a.experiment, a.action, a.requested_by, a.reason, a.at FROM evorank_actions a"
                " JOIN evorank_schedule s ON s.experiment = a.experiment"
                " WHERE s.surface = ? AND a.action = 'rollback' AND a.consumed_at IS NULL ORDER BY a.id",
                self.surface,
            )
        return [_action(row) for row in rows]

    def consume(self, action_id: int) -> bool:
        """Take a request off the list: true for exactly one caller."""
        with self.store.transaction() as access:
            taken = access.execute(
                "UPDATE evorank_actions SET consumed_at = ? WHERE id = ? AND consumed_at IS NULL"
                " RETURNING id",
                *(access.stamp, action_id),
            )
        return bool(taken)

    # -- time

    def now(self) -> datetime | None:
        """The surface's time when somebody last looked at it; None: nobody did."""
        with self.store.reading() as access:
            rows = access.execute("SELECT now FROM evorank_clocks WHERE surface = ?", self.surface)
        return datetime.fromisoformat(rows[0][0]) if rows else None

    def clock(self, now: datetime, *, was_ahead: bool = False) -> None:
        """Remember the surface's time. ConfigurationError if it went back by more than a minute, unless
        somebody says that it `was_ahead` before: what is remembered of later times is then of now."""
        wanted = _utc(now, "now")
        with self.store.transaction() as access:
            rows = access.execute("SELECT now FROM evorank_clocks WHERE surface = ?", self.surface)
            before = datetime.fromisoformat(rows[0][0]) if rows else now
            if now < before - CLOCK_TOLERANCE and not was_ahead:
                raise ConfigurationError(
                    f"surface `{self.surface}`: the clock jumped back from {before.isoformat()} to "
                    f"{now.isoformat()}. Live tests go by it: set it right, nothing was done. If it is right "
                    "now and was ahead before: python cli.py online tick --clock-was-ahead"
                )
            if was_ahead:
                access.execute(
                    "UPDATE evorank_models SET trained = ? WHERE surface = ? AND trained > ?",
                    *(wanted, self.surface, wanted),
                )
            if now > before or was_ahead or not rows:
                access.execute(
                    "INSERT INTO evorank_clocks (surface, now) VALUES (?, ?)"
                    " ON CONFLICT (surface) DO UPDATE SET now = excluded.now",
                    *(self.surface, wanted),
                )


def _action(row: tuple[Any, ...]) -> Action:
    return Action(**dict(zip(Action.model_fields, row, strict=True)))


def _utc(moment: datetime, field: str) -> str:
    if moment.tzinfo is None:
        raise ConfigurationError(f"`{field}` needs a time zone, got {moment.isoformat()}. Use UTC.")
    return moment.astimezone(UTC).isoformat()


def _result(access: Access, experiment: str) -> str | None:
    """How an experiment ended, from its own thread; None: it says nothing of it."""
    found = access.saver.get_tuple({"configurable": {"thread_id": experiment, "checkpoint_ns": ""}})
    record = found.checkpoint["channel_values"].get("record") if found is not None else None
    return record["result"] if record else None
