"""The Experiment Journal: what every attempt and live test tried and what came of it, failures included.

One attempt, or one experiment, is one LangGraph thread whose newest checkpoint holds it as plain JSON in the
channel `record`; its metadata (`graph`, `surface`, `kind`, `run`) is what one filters by. It is read through
the saver's public interface, so any LangGraph tool can read it, too. Attempts are appended here and do not
change; experiments are written by the graph that moves them, under `store.saver`.

Limits: all records are kept in memory once read, about 10 KB each.
"""

from __future__ import annotations

import gc
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from pydantic import BaseModel, ValidationError

from evorank.graph.state import Attempt, Experiment
from evorank.graph.store import Access, Store
from evorank.model.errors import JournalError

__all__ = ["Journal", "thread_id"]

Kept = TypeVar("Kept", bound=BaseModel)
_NAMESPACE = uuid.UUID("7f1c9c0e-6a0b-5d0e-9a54-6d2f5e0b9a11")


def thread_id(run: str, step: int | None = None, fork: str = "") -> str:
    """The thread of a run, or of one of its steps, or of another try of a step that somebody named: the same
    before and after a crash, so that each is recorded once. A step's thread is also its `Attempt.id`."""
    parts = [run, *([] if step is None else [str(step)]), *([fork] if fork else [])]
    return str(uuid.uuid5(_NAMESPACE, "/".join(parts)))


class Journal:
    """The journal of a store. Safe to share between threads, and between processes by the store's name.

    Appending takes the write lock first and its checkpoint id second, so attempts' ids grow in the order
    of commits, over all processes. That is what lets a reader keep one watermark and never miss a record
    that was being written while it read. Experiments are written by LangGraph, whose ids are times of many
    clocks; of them a reader keeps which checkpoint of each thread it read last.

    Raises JournalError as the store does, and for records that this version does not understand.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._attempts: dict[str, Attempt] = {}
        self._order: dict[str, str] = {}
        self._watermark = ""
        self._experiments: dict[str, tuple[str, Experiment | None]] = {}
        """Thread -> its newest checkpoint and what that holds."""

    @classmethod
    def open(cls, home: Path, create: bool = True, url: str | None = None) -> Journal:
        """The journal of an evorank home, or of the server that `url` names; see `Store.open`."""
        return cls(Store.open(home, url, create))

    def append(self, record: Attempt | Experiment) -> bool:
        """Add one record, on disk when this returns. False (and no change) if its id is there already: that
        of an experiment whose graph runs under this store's saver always is, since its thread is its record.
        """
        return self.extend([record]) == 1

    def extend(self, records: Sequence[Attempt | Experiment]) -> int:
        """Add records, all of them or, after an error or a crash, none; how many were not there yet."""
        with self.store.transaction() as access:
            return sum(self._add(access, record) for record in records)

    def _add(self, access: Access, record: Attempt | Experiment) -> bool:
        config: RunnableConfig = {"configurable": {"thread_id": record.id, "checkpoint_ns": ""}}
        if access.saver.get_tuple(config) is not None:
            return False
        checkpoint = empty_checkpoint()
        newest = access.execute(
            f"SELECT max(checkpoint_id) FROM checkpoints WHERE {self.store.kind_of} = 'attempt'"
        )
        checkpoint["id"] = _after(newest[0][0] or "", checkpoint["id"])
        checkpoint["channel_values"] = {"record": record.model_dump(mode="json")}
        checkpoint["channel_versions"] = {"record": 1}
        graph = "offline" if record.kind == "attempt" else "online"
        metadata: Any = {"source": "update", "step": 0, "parents": {}, "graph": graph}
        metadata |= {"surface": record.surface, "kind": record.kind, "run": record.run or ""}
        access.saver.put(config, checkpoint, metadata, {"record": 1})
        return True

    def attempts(
        self, surface: str | None = None, run: str | None = None, until: str | None = None
    ) -> list[Attempt]:
        """Attempts in the order they were appended, by any process; treat them as read-only.

        `until` is a `watermark()`: leave out what was appended after it. Reads from disk only what is
        new since the last call.
        """
        with self._lock:
            self._read_new()
            return [
                attempt
                for identifier, attempt in self._attempts.items()
                if (surface is None or attempt.surface == surface)
                and (run is None or attempt.run == run)
                and (until is None or self._order[identifier] <= until)
            ]

    def get(self, identifier: str) -> Attempt | None:
        """One attempt by its id, or None."""
        with self._lock:
            self._read_new()
            return self._attempts.get(identifier)

    def watermark(self) -> str:
        """A mark after everything appended so far: "" for an empty journal, otherwise a checkpoint id."""
        with self._lock:
            self._read_new()
            return self._watermark

    def before(self, identifier: str) -> str:
        """The watermark just before an attempt was appended; KeyError for an unknown id."""
        with self._lock:
            self._read_new()
            mine = self._order[identifier]
            return max((order for order in self._order.values() if order < mine), default="")

    def experiments(self, surface: str | None = None) -> list[Experiment]:
        """Experiments as they are now, in the order they began; treat them as read-only.

        Reads from disk only those that moved since the last call.
        """
        with self._lock:
            self._read_moved()
            found = [experiment for _, experiment in self._experiments.values() if experiment is not None]
            return [each for each in found if surface is None or each.surface == surface]

    def close(self) -> None:
        """Close the store; the journal cannot be used afterwards. Nothing is pending: appends are durable."""
        self.store.close()

    def _read_new(self) -> None:
        """What was appended behind the watermark, and no more, through the saver's public interface."""
        with self.store.reading() as access, _collector_paused():
            count, newest = access.execute(
                "SELECT count(*), max(checkpoint_id) FROM checkpoints"
                f" WHERE {self.store.kind_of} = 'attempt' AND checkpoint_id > ?",
                self._watermark,
            )[0]
            if not count:
                return
            # Others may append meanwhile: `before` leaves those for the next time.
            until: RunnableConfig = {"configurable": {"checkpoint_id": f"{newest}z"}}
            fresh = []
            for entry in access.saver.list(None, filter={"kind": "attempt"}, before=until, limit=count):
                where = entry.config["configurable"]
                attempt = self._parse(Attempt, where["thread_id"], entry.checkpoint)
                fresh.append((where["checkpoint_id"], attempt))
        for order, attempt in reversed(fresh):
            self._attempts[attempt.id] = attempt
            self._order[attempt.id] = order
            self._watermark = order

    def _read_moved(self) -> None:
        """Threads whose newest checkpoint is another than the one that was read."""
        with self.store.reading() as access, _collector_paused():
            threads = access.execute(
                "SELECT thread_id, min(checkpoint_id), max(checkpoint_id) FROM checkpoints"
                f" WHERE {self.store.kind_of} = 'experiment' AND checkpoint_ns = '' GROUP BY thread_id"
            )
            for thread, _, newest in sorted(threads, key=lambda row: (row[1], row[0])):
                if thread not in self._experiments or self._experiments[thread][0] != newest:
                    self._experiments[thread] = (newest, self._newest(access, thread, newest))

    def _newest(self, access: Access, thread: str, checkpoint_id: str) -> Experiment | None:
        """None where its graph was started and has not written a record yet."""
        where = {"thread_id": thread, "checkpoint_ns": "", "checkpoint_id": checkpoint_id}
        found = access.saver.get_tuple({"configurable": where})
        if found is None or "record" not in found.checkpoint["channel_values"]:
            return None
        return self._parse(Experiment, thread, found.checkpoint)

    def _parse(self, kind: type[Kept], thread: str, checkpoint: Any) -> Kept:
        try:
            return kind.model_validate(checkpoint["channel_values"]["record"])
        except (KeyError, TypeError, ValidationError) as error:
            raise JournalError(
                f"{self.store.name}: thread {thread} does not hold an {kind.__name__.lower()} that this "
                f"version understands ({str(error).splitlines()[0]}). Was it written by a newer evorank? "
                "Nothing was changed; upgrade, or start with another --home."
            ) from error


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A cold read makes a million small objects, none of them garbage or in a cycle; walking them again and
    again is what the cyclic collector would spend more than half of the time on."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _after(newest: str, candidate: str) -> str:
    """A checkpoint id later than the newest one, even when the clock was set back.

    Ids are UUIDv6: their first 48 bits are the high part of the time, so adding one there is 0.4 ms.
    """
    return candidate if candidate > newest else str(uuid.UUID(int=uuid.UUID(newest).int + (1 << 80)))
