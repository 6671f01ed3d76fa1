"""One database for what must outlive a process: checkpoints, the journal, live tests and their exposures.

A SQLite file in the home unless a PostgreSQL server is named. Both behave as one: a write transaction has
the whole database to itself, so what is read inside it is still true when it commits.

Limits: a file is for the processes of one machine (`sqlite.py`); several machines share a server
(`postgres.py`, extra `postgres`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
)

from evorank.model.errors import ConfigurationError, JournalError

__all__ = ["BUSY_SECONDS", "JOURNAL_FILE", "TABLES", "Access", "CheckedSaver", "Store", "kind_indexes"]

JOURNAL_FILE = "journal.sqlite"
BUSY_SECONDS = 30.0
POSTGRES = ("postgresql://", "postgres://")

TABLES = (
    """CREATE TABLE IF NOT EXISTS evorank_schedule (
        experiment TEXT PRIMARY KEY,
        surface TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        production TEXT NOT NULL,
        data TEXT NOT NULL,
        phase TEXT NOT NULL,
        place INTEGER NOT NULL,
        due TEXT,
        paused INTEGER NOT NULL DEFAULT 0,
        waiting TEXT NOT NULL DEFAULT '',
        opened_at TEXT NOT NULL,
        closed_at TEXT,
        owner TEXT,
        expires DOUBLE PRECISION,
        version INTEGER NOT NULL DEFAULT 0
    )""",
    "CREATE INDEX IF NOT EXISTS evorank_tested ON evorank_schedule (surface, production, fingerprint)",
    """CREATE TABLE IF NOT EXISTS evorank_actions (
        id INTEGER PRIMARY KEY,
        experiment TEXT NOT NULL REFERENCES evorank_schedule (experiment),
        action TEXT NOT NULL,
        requested_by TEXT NOT NULL,
        reason TEXT NOT NULL,
        at TEXT NOT NULL,
        consumed_at TEXT
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_versions (
        surface TEXT NOT NULL,
        version INTEGER NOT NULL,
        idempotency_key TEXT NOT NULL,
        phi TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        artifact TEXT NOT NULL,
        experiment TEXT,
        why TEXT NOT NULL,
        at TEXT NOT NULL,
        PRIMARY KEY (surface, version),
        UNIQUE (surface, idempotency_key)
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_models (
        surface TEXT NOT NULL,
        version INTEGER NOT NULL,
        artifact TEXT NOT NULL,
        trained TEXT NOT NULL,
        number INTEGER NOT NULL,
        PRIMARY KEY (surface, version, artifact)
    )""",
    "CREATE TABLE IF NOT EXISTS evorank_clocks (surface TEXT PRIMARY KEY, now TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS evorank_ideas (
        surface TEXT NOT NULL,
        idea TEXT NOT NULL,
        place INTEGER NOT NULL,
        data TEXT NOT NULL,
        taken_by TEXT,
        PRIMARY KEY (surface, idea)
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_rankings (
        surface TEXT NOT NULL,
        number INTEGER NOT NULL,
        question TEXT NOT NULL,
        answer TEXT,
        usage TEXT NOT NULL,
        run TEXT,
        at TEXT NOT NULL,
        PRIMARY KEY (surface, number)
    )""",
    "CREATE TABLE IF NOT EXISTS evorank_traffic (surface TEXT PRIMARY KEY, data TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS evorank_exposures (
        surface TEXT NOT NULL,
        batch INTEGER NOT NULL,
        user_id TEXT NOT NULL,
        timestamp TEXT NOT NULL,
        experiment_id TEXT NOT NULL,
        variation_id TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS evorank_exposed ON evorank_exposures (surface, batch)",
    """CREATE TABLE IF NOT EXISTS evorank_batches (
        surface TEXT NOT NULL,
        batch INTEGER NOT NULL,
        idempotency_key TEXT NOT NULL,
        exposures INTEGER NOT NULL,
        digest TEXT NOT NULL,
        at TEXT NOT NULL,
        PRIMARY KEY (surface, batch),
        UNIQUE (surface, idempotency_key)
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_calls (
        id TEXT PRIMARY KEY,
        surface TEXT NOT NULL,
        run TEXT,
        at TEXT NOT NULL,
        data TEXT NOT NULL
    )""",
    "CREATE INDEX IF NOT EXISTS evorank_calls_of_run ON evorank_calls (surface, run)",
    """CREATE TABLE IF NOT EXISTS evorank_exchanges (
        id TEXT NOT NULL,
        surface TEXT NOT NULL,
        run TEXT NOT NULL,
        step INTEGER NOT NULL,
        data BYTEA NOT NULL,
        PRIMARY KEY (surface, id)
    )""",
    "CREATE INDEX IF NOT EXISTS evorank_exchanges_of_step ON evorank_exchanges (surface, run, step)",
    """CREATE TABLE IF NOT EXISTS evorank_steering (
        surface TEXT NOT NULL,
        number INTEGER NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (surface, number)
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_notes (
        surface TEXT NOT NULL,
        run TEXT NOT NULL,
        before INTEGER NOT NULL,
        mark TEXT NOT NULL,
        usable INTEGER NOT NULL,
        at TEXT NOT NULL,
        data TEXT NOT NULL,
        PRIMARY KEY (surface, run, before)
    )""",
    """CREATE TABLE IF NOT EXISTS evorank_inspections (
        attempt TEXT NOT NULL,
        number INTEGER NOT NULL,
        delta TEXT NOT NULL,
        surface TEXT NOT NULL,
        run TEXT NOT NULL,
        data TEXT NOT NULL,
        asked_at TEXT NOT NULL,
        answer TEXT,
        answered_at TEXT,
        PRIMARY KEY (attempt, number, delta)
    )""",
)
"""What `schedule.py`, `versions.py`, `ideas.py`, `rankings.py`, `ledger.py`, `spending.py`, `exchanges.py`,
`steering.py`, `notes.py` and `inspections.py` keep, in words that SQLite and PostgreSQL share. Times are ISO
8601 in UTC."""


@dataclass(frozen=True)
class Access:
    """What a transaction may do: SQL with `?` for values, checkpoints, and the time that leases go by."""

    run: Callable[[str, tuple[Any, ...]], list[tuple[Any, ...]]]
    saver: BaseCheckpointSaver[Any]
    clock: Callable[[], float]

    def execute(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows of a statement; of a write, those it asks for with RETURNING."""
        return self.run(sql, values)

    @cached_property
    def time(self) -> float:
        """Unix seconds, of the one clock that everybody who shares the store goes by."""
        return self.clock()

    @property
    def stamp(self) -> str:
        """That time in ISO 8601, UTC."""
        return datetime.fromtimestamp(self.time, UTC).isoformat()


class CheckedSaver(BaseCheckpointSaver[Any]):
    """Mixin for a saver: its errors become JournalErrors, and a thread's history never forks in silence.

    LangGraph goes by checkpoint ids, which are times. A machine whose clock is behind would write a state
    that nobody reads back, and the next process would do the step again; that is refused instead. So is a
    state that follows from one that is no longer the newest: a process that stood still for so long that
    another took its experiment over must not undo what that one did.
    """

    name: str = ""

    def explained(self) -> AbstractContextManager[None]:
        raise NotImplementedError

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        with self.explained():
            return super().get_tuple(config)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        with self.explained():
            yield from super().list(config, filter=filter, before=before, limit=limit)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        where = config["configurable"]
        thread = {"thread_id": where["thread_id"], "checkpoint_ns": where.get("checkpoint_ns", "")}
        newest = self.get_tuple({"configurable": thread})
        if newest is not None and checkpoint["id"] < newest.config["configurable"]["checkpoint_id"]:
            raise JournalError(
                f"{self.name}: the clock of this machine is behind the one that wrote thread "
                f"{thread['thread_id']} last, at {newest.checkpoint['ts']}. Set the clock right and go on; "
                "nothing was written."
            )
        if (
            newest is not None
            and where.get("checkpoint_id") != newest.config["configurable"]["checkpoint_id"]
        ):
            raise JournalError(
                f"{self.name}: another process has moved thread {thread['thread_id']} on meanwhile, at "
                f"{newest.checkpoint['ts']}. Nothing was written; what that one did counts."
            )
        with self.explained():
            return super().put(config, checkpoint, metadata, new_versions)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        with self.explained():
            super().put_writes(config, writes, task_id, task_path)


class Store(ABC):
    """An open database. Safe to share between threads, and between processes by its name.

    Raises JournalError, on opening and in every method, when it is corrupt, cannot be reached or written,
    is locked for longer than 30 seconds, or the disk is full. A damaged file is never touched.
    """

    name: str
    """Path or URL, without a password: for messages."""
    saver: BaseCheckpointSaver[Any]
    """For graphs whose threads shall be found by `Journal`: compile with it."""
    kind_of: ClassVar[str]
    """SQL of a checkpoint's metadata field `kind`, as the indexes have it."""

    @staticmethod
    def open(home: Path, url: str | None = None, create: bool = True) -> Store:
        """The store of a home: its file, or the server that `url` names (postgresql://USER@HOST/DATABASE).

        ConfigurationError for another kind of URL, for a missing extra, and with `create` false where
        there is no journal yet. Earlier versions' files are opened as they are and get the new tables.
        """
        if url is None:
            path = Path(home) / JOURNAL_FILE
            if not create and not path.exists():
                raise ConfigurationError(f"`--home {home}` holds no journal yet. Run first: evorank run")
            from evorank.graph.sqlite import SqliteStore

            return SqliteStore(path)
        if not url.startswith(POSTGRES):
            kind = url.split(":", 1)[0] if "://" in url else "something else"
            raise ConfigurationError(
                f"`store` must be postgresql://USER@HOST/DATABASE, got {kind!r}; leave it out to use "
                f"{JOURNAL_FILE} in the home."
            )
        try:
            from evorank.graph.postgres import PostgresStore
        except ImportError as error:
            raise ConfigurationError(
                f"`store` needs a package that is not installed ({error.name}). "
                'Try: pip install "evorank[postgres]"'
            ) from None
        return PostgresStore(url, create)

    @abstractmethod
    def transaction(self) -> AbstractContextManager[Access]:
        """A write transaction: alone in the database, committed at the end, undone by an exception."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Access]:
        """For reading: waits for nobody who writes."""

    @abstractmethod
    def mark(self) -> str:
        """Another text whenever anybody has written since, and now and then for nothing. Cheap."""

    @abstractmethod
    def close(self) -> None:
        """Close it; it cannot be used afterwards. Nothing is pending: what was committed is on disk."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def kind_indexes(kind_of: str) -> Iterator[str]:
    """New attempts are found by their id, experiments by their thread, without looking at the others."""
    on = f"ON checkpoints (({kind_of}), "
    yield f"CREATE INDEX IF NOT EXISTS evorank_kind {on} checkpoint_id)"
    yield f"CREATE INDEX IF NOT EXISTS evorank_threads {on} thread_id, checkpoint_ns, checkpoint_id)"
