"""The Experiment Journal: what every attempt tried and what came of it, failures included.

One attempt is one LangGraph thread whose only checkpoint holds the attempt as plain JSON in the channel
`record`; its metadata (`graph`, `surface`, `kind`, `run`) is what one filters by. The file is an ordinary
`SqliteSaver` file, so any LangGraph tool can read it, and it does not matter what checkpointer the graph
itself runs under.

Limits: append-only, one file on one machine (SQLite in WAL mode does not work on network drives), and all
records are kept in memory once read: about 10 KB each.
"""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple, empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver
from pydantic import ValidationError

from evorank.graph.state import Attempt
from evorank.model.errors import ConfigurationError, JournalError

__all__ = ["JOURNAL_FILE", "Journal", "explained", "thread_id"]

JOURNAL_FILE = "journal.sqlite"
BUSY_SECONDS = 30.0
Entries: TypeAlias = Generator[CheckpointTuple, None, None]
_NAMESPACE = uuid.UUID("7f1c9c0e-6a0b-5d0e-9a54-6d2f5e0b9a11")


def thread_id(run: str, step: int | None = None) -> str:
    """The thread of a run, or of one of its steps: the same before and after a crash, so that a step is
    recorded once. A step's thread is also its `Attempt.id`."""
    return str(uuid.uuid5(_NAMESPACE, run if step is None else f"{run}/{step}"))


class Journal:
    """The journal file of one home. Safe to share between threads, and between processes by its path.

    Appending takes SQLite's write lock first and its checkpoint id second, so ids grow in the order of
    commits, over all processes. That is what lets a reader keep one watermark and never miss a record
    that was being written while it read.

    Raises JournalError, on opening and in every method, when the file is corrupt, cannot be written, is
    locked for longer than 30 seconds, or the disk is full. A damaged file is never touched.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock = threading.RLock()
        self._attempts: dict[str, Attempt] = {}
        self._order: dict[str, str] = {}
        self._watermark = ""
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, check_same_thread=False)
            self._saver = SqliteSaver(self._connection)
            self._prepare()

    @classmethod
    def open(cls, home: Path, create: bool = True) -> Journal:
        """The journal of an evorank home. With `create` false, ConfigurationError where there is none yet."""
        path = Path(home) / JOURNAL_FILE
        if not create and not path.exists():
            raise ConfigurationError(f"`--home {home}` holds no journal yet. Run first: evorank run")
        return cls(path)

    def append(self, record: Attempt) -> bool:
        """Add one attempt, on disk when this returns. False (and no change) if its id is there already."""
        config: RunnableConfig = {"configurable": {"thread_id": record.id, "checkpoint_ns": ""}}
        with self._lock, self._explained(), self._transaction():
            if self._saver.get_tuple(config) is not None:
                return False
            checkpoint = empty_checkpoint()
            newest = self._connection.execute("SELECT max(checkpoint_id) FROM checkpoints").fetchone()[0]
            checkpoint["id"] = _after(newest or "", checkpoint["id"])
            checkpoint["channel_values"] = {"record": record.model_dump(mode="json")}
            checkpoint["channel_versions"] = {"record": 1}
            metadata: Any = {"source": "update", "step": 0, "parents": {}, "graph": "offline"}
            metadata |= {"surface": record.surface, "kind": record.kind, "run": record.run}
            self._saver.put(config, checkpoint, metadata, {"record": 1})
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

    def close(self) -> None:
        """Close the file; the journal cannot be used afterwards. Nothing is pending: appends are durable."""
        with self._lock:
            self._connection.close()

    def _read_new(self) -> None:
        """Newest first down to the watermark, through the saver's public interface."""
        fresh: list[tuple[str, Attempt]] = []
        entries = self._saver.list(None, filter={"kind": "attempt"})
        # Closing the generator early gives the saver's lock back.
        with (
            self._explained(),
            _collector_paused(),
            closing(cast(Generator[CheckpointTuple, None, None], entries)),
        ):
            for entry in entries:
                where = entry.config["configurable"]
                if where["checkpoint_id"] <= self._watermark:
                    break
                fresh.append((where["checkpoint_id"], self._parse(where["thread_id"], entry.checkpoint)))
        for order, attempt in reversed(fresh):
            self._attempts[attempt.id] = attempt
            self._order[attempt.id] = order
            self._watermark = order

    def _parse(self, thread: str, checkpoint: Any) -> Attempt:
        try:
            return Attempt.model_validate(checkpoint["channel_values"]["record"])
        except (KeyError, TypeError, ValidationError) as error:
            raise JournalError(
                f"{self.path}: thread {thread} does not hold an attempt that this version understands "
                f"({str(error).splitlines()[0]}). Was it written by a newer evorank? Nothing was changed; "
                "upgrade, or start with another --home."
            ) from error

    def _prepare(self) -> None:
        """Create the tables. Switching to WAL ignores the busy timeout: processes starting at once retry."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._saver.setup()
                # Newest-first reads stop at the watermark; without this they would sort the whole table.
                self._connection.execute(
                    "CREATE INDEX IF NOT EXISTS evorank_order ON checkpoints (checkpoint_id)"
                )
                self._connection.commit()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # put() commits; anything else has nothing to keep
                self._connection.rollback()

    def _explained(self) -> AbstractContextManager[None]:
        return explained(self.path)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite says of a file into a JournalError that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{path}: {_advice(error)} ({error}).") from error


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


def _advice(error: Exception) -> str:
    text = str(error)
    if "full" in text or "No space left" in text:
        return "the disk is full; free some space and run again with --resume, everything recorded is safe"
    if "locked" in text or "busy" in text:
        return f"locked by another process for over {BUSY_SECONDS:.0f} seconds; is a backup or a viewer open?"
    if "not a database" in text or "malformed" in text:
        return (
            "the journal is corrupt and was left as it is; move it away (or restore a copy) and run again, "
            "`sqlite3 FILE .recover` often saves the records"
        )
    if "readonly" in text or "unable to open" in text or isinstance(error, OSError):
        return "the journal cannot be opened for writing; check the path and its permissions"
    return "the journal could not be read or written"
