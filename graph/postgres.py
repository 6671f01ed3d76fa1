"""The store of several machines: a PostgreSQL server.

A write transaction takes one advisory lock, so that writers take turns here as they do in a SQLite file, and
the rest of the code needs to be right for one case only. Leases go by the server's clock: the machines' own
need not agree. Connections come from a small pool that replaces those that broke.

Limits: writers take turns, at some hundreds of short transactions a second. Keep the password out of the
URL (PGPASSWORD, or ~/.pgpass); one that is in it is never shown, and never written to the home.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import psycopg
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import ConnectionPool

from evorank.graph import store
from evorank.graph.store import TABLES, Access, CheckedSaver, Store, kind_indexes
from evorank.model.errors import ConfigurationError, JournalError

__all__ = ["PostgresStore"]

WRITERS, SETUP = 7_265_001, 7_265_002
"""Advisory locks: one writer at a time, and one that creates tables."""
CONNECTIONS = 4
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000, "application_name": "evorank"}
"""Unless the URL says otherwise: seconds to connect, milliseconds until a silent server counts as gone."""

KIND = "metadata->>'kind'"
STATEMENTS = (
    *TABLES,
    "CREATE INDEX IF NOT EXISTS evorank_order ON checkpoints (checkpoint_id)",
    *kind_indexes(KIND),
)


class PostgresStore(Store):
    """A database on a server, shared by everybody who names it."""

    kind_of = KIND

    def __init__(self, url: str, create: bool = True) -> None:
        try:
            where: dict[str, Any] = PATIENCE | conninfo_to_dict(url)
        except psycopg.Error:  # its text quotes the URL
            raise ConfigurationError(
                "`store` is not a PostgreSQL URL that can be read. Write "
                "postgresql://USER@HOST:PORT/DATABASE, with %40 for an @ in a name or password."
            ) from None
        self.name = _shown(where)
        self._redacted = _hiding(where.get("password"))
        with self._explained():
            # Not from the pool: it would try for half a minute and then not say why.
            with psycopg.connect(**where, autocommit=True) as connection:
                if not _is_set_up(connection):
                    if not create:
                        raise ConfigurationError(
                            f"`--store {self.name}` holds no journal yet. Run first: evorank run"
                        )
                    self._prepare(connection)
            self._pool: ConnectionPool[Any] = ConnectionPool(
                kwargs=where | {"autocommit": True},
                min_size=1,
                max_size=CONNECTIONS,
                timeout=store.BUSY_SECONDS,
                check=ConnectionPool.check_connection,
                open=True,
            )
        self.saver = _PoolSaver(self)

    @contextmanager
    def transaction(self) -> Iterator[Access]:
        with self._explained(), self._pool.connection() as connection, connection.transaction():
            patience = f"{1000 * store.BUSY_SECONDS:.0f}ms"
            connection.execute("SELECT set_config('lock_timeout', %s, true)", [patience])
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [WRITERS])
            yield _access(connection)

    @contextmanager
    def reading(self) -> Iterator[Access]:
        with self._explained(), self._pool.connection() as connection:
            yield _access(connection)

    def mark(self) -> str:
        with self.reading() as access:
            return str(access.execute("SELECT pg_current_wal_lsn()")[0][0])

    def close(self) -> None:
        self._pool.close()

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        """Create the tables, one process at a time.

        Others ask again and again instead of waiting in a statement: LangGraph creates indexes concurrently,
        which waits for every statement that began before it.
        """
        deadline = time.monotonic() + store.BUSY_SECONDS
        while not _rows(connection, "SELECT pg_try_advisory_lock(?)", (SETUP,))[0][0]:
            if time.monotonic() > deadline:
                raise JournalError(f"{self.name}: another process has been creating its tables for too long.")
            time.sleep(0.05)
        PostgresSaver(connection).setup()
        for statement in STATEMENTS:
            connection.execute(statement)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns what psycopg says into a JournalError that says what to do, without the password."""
        try:
            yield
        except psycopg.Error as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            told = JournalError(f"{self.name}: {_advice(error)} ({self._redacted(said)}).")
            raise told from (error if self._redacted(str(error)) == str(error) else None)


class _PoolSaver(CheckedSaver, PostgresSaver):
    def __init__(self, of: PostgresStore) -> None:
        super().__init__(of._pool)
        self.name, self._of = of.name, of

    def explained(self) -> AbstractContextManager[None]:
        return self._of._explained()


def _access(connection: psycopg.Connection[Any]) -> Access:
    def run(sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        return _rows(connection, sql, values)

    def clock() -> float:
        return float(_rows(connection, "SELECT extract(epoch FROM clock_timestamp())", ())[0][0])

    return Access(run, PostgresSaver(connection), clock)


def _rows(connection: psycopg.Connection[Any], sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    cursor = connection.execute(sql.replace("?", "%s"), values)
    return cursor.fetchall() if cursor.description else []


def _is_set_up(connection: psycopg.Connection[Any]) -> bool:
    """Whether there is nothing to create: a user who may only read and write rows can then work here."""
    names = [re.findall(r"IF NOT EXISTS (\w+)", statement)[0] for statement in STATEMENTS]
    there = "SELECT bool_and(to_regclass(name) IS NOT NULL) FROM unnest(?::text[]) AS name"
    if not _rows(connection, there, (["checkpoint_migrations", *names],))[0][0]:
        return False
    newest = _rows(connection, "SELECT max(v) FROM checkpoint_migrations", ())[0][0]
    return newest is not None and newest >= len(PostgresSaver.MIGRATIONS) - 1


def _shown(where: dict[str, Any]) -> str:
    user = f"{where['user']}@" if "user" in where else ""
    port = f":{where['port']}" if "port" in where else ""
    return f"postgresql://{user}{where.get('host', '')}{port}/{where.get('dbname', '')}"


def _hiding(secret: str | None) -> Callable[[str], str]:
    """A closure, so that no attribute holds the password where a printed object would show it."""
    return lambda text: text.replace(secret, "***") if secret else text


def _advice(error: psycopg.Error) -> str:
    if isinstance(error, psycopg.errors.DiskFull):
        return "the server's disk is full; free some space and run again, everything recorded is safe"
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return f"locked by another process for over {store.BUSY_SECONDS:.0f} seconds"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return "this user may not do that; let its owner grant CREATE on the schema, or create the tables"
    if "authentication" in str(error) or "no password" in str(error):
        return "the server does not accept this user and password"
    if isinstance(error, psycopg.OperationalError):
        return "the server cannot be reached, or went away; nothing that was recorded is lost"
    return "the journal could not be read or written"
