"""The store of one machine: a SQLite file in WAL mode, which any number of processes read and write.

Limits: WAL mode does not work on network drives. One process writes at a time, the others wait for it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver

from evorank.graph import store
from evorank.graph.store import TABLES, Access, CheckedSaver, Store, kind_indexes
from evorank.model.errors import JournalError

__all__ = ["SqliteStore", "connect", "explained"]


class _FileSaver(CheckedSaver, SqliteSaver):
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        super().__init__(connection)
        self.name, self._path = str(path), path

    def explained(self) -> AbstractContextManager[None]:
        return explained(self._path)


class _Inside(SqliteSaver):
    """A saver on a connection whose transactions somebody else begins and ends."""

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        with super().cursor(transaction=False) as cursor:
            yield cursor


class SqliteStore(Store):
    """A file in WAL mode, on two connections: graphs commit on theirs whenever they like, and would commit
    half of a transaction if they shared it."""

    kind_of = "json_extract(CAST(metadata AS TEXT), '$.kind')"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        self._lock = threading.RLock()
        with explained(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = connect(self.path)
            self._connection.isolation_level = None
            self._inside = _Inside(self._connection)
            try:
                self._prepare()
                graphs = connect(self.path)
            except BaseException:
                self._connection.close()
                raise
        self._graphs = graphs
        self.saver = _FileSaver(graphs, self.path)

    @contextmanager
    def transaction(self) -> Iterator[Access]:
        with self._lock, explained(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._access()
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[Access]:
        with self._lock, explained(self.path):
            yield self._access()

    def mark(self) -> str:
        with self.reading() as access:  # a connection's own writes are no other version to it
            return f"{access.execute('PRAGMA data_version')[0][0]}/{self._connection.total_changes}"

    def close(self) -> None:
        with self._lock:
            self._connection.close()
            self._graphs.close()

    def _access(self) -> Access:
        return Access(self._run, self._inside, time.time)

    def _run(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def _prepare(self) -> None:
        """Create the tables. Switching to WAL ignores the busy timeout: processes starting at once retry."""
        deadline = time.monotonic() + store.BUSY_SECONDS
        while True:
            try:
                self._inside.setup()
                with self.transaction() as access:
                    for statement in (*TABLES, *self._indexes()):
                        access.execute(statement)
                return
            except (sqlite3.OperationalError, JournalError) as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _indexes(self) -> Iterator[str]:
        yield from kind_indexes(self.kind_of)
        yield "DROP INDEX IF EXISTS evorank_order"  # what the journal read by before experiments were in it


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for its turn, and that threads may share if they take turns."""
    return sqlite3.connect(path, timeout=store.BUSY_SECONDS, check_same_thread=False)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns what SQLite says of a file into a JournalError that says what to do."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"{path}: {_advice(error)} ({error}).") from error


def _advice(error: Exception) -> str:
    text = str(error)
    if "full" in text or "No space left" in text:
        return "the disk is full; free some space and run again with --resume, everything recorded is safe"
    if "locked" in text or "busy" in text:
        waited = f"over {store.BUSY_SECONDS:.0f} seconds"
        return f"locked by another process for {waited}; is a backup or a viewer open?"
    if "not a database" in text or "malformed" in text:
        return (
            "the journal is corrupt and was left as it is; move it away (or restore a copy) and run again, "
            "`sqlite3 FILE .recover` often saves the records"
        )
    if "readonly" in text or "unable to open" in text or isinstance(error, OSError):
        return "the journal cannot be opened for writing; check the path and its permissions"
    return "the journal could not be read or written"
