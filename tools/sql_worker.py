"""The process that runs agents' SQL: an in-memory copy of the training period, and nothing else to reach.

Started by `run_sql_query.py`. Three walls, each enough alone: the statement is screened (`sql_screen.py`);
DuckDB has no file, no file system, no extension and a locked configuration; and the process itself is locked
by the kernel (`evaluator/lock.py`) once it has its copy. What must not be seen is in none of them. Limits on
time and memory end a query, at worst with the process.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from datetime import date, datetime
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any

import duckdb

from evorank.model.errors import LockError
from evorank.tools.evaluator.lock import Limits, lock
from evorank.tools.sql_screen import Refused, screen

GRACE = 3.0
"""Seconds a query may ignore its interruption; the parent kills sooner, if it is still there."""
BESIDE = 1 << 30
"""Bytes for what DuckDB does not count as its memory: then an allocation fails, or the process."""

LOCKS = (
    "SET threads = 1",
    "SET async_threads = 0",
    "SET temp_directory = ''",
    "SET max_temp_directory_size = '0B'",
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET allow_persistent_secrets = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)


def open_copy(table: str, first_row: int, memory: int) -> duckdb.DuckDBPyConnection:
    """A locked in-memory database with the table `log`: the rows of `table` from `first_row` on."""
    connection = duckdb.connect(":memory:")
    # No index of the whole log: `row` is a position, and positions of other periods say nothing.
    connection.execute(
        f"CREATE TABLE log AS SELECT * FROM {table} WHERE row >= {int(first_row)} ORDER BY row"
    )
    held = connection.execute("SELECT COALESCE(SUM(memory_usage_bytes), 0) FROM duckdb_memory()").fetchone()
    connection.execute(f"SET memory_limit = '{int(held[0] if held else 0) + memory}B'")
    for statement in LOCKS:
        connection.execute(statement)
    return connection


def lock_up(connection: duckdb.DuckDBPyConnection, memory: int) -> None:
    """For ever: no file at all. `memory` is what a query may use, in bytes. LockError if threads are left.

    CPU has no limit of its own: it would add up over queries until one that is innocent dies of it; every
    query has a wall limit. Nor does the process die with the *thread* that started it, which may be a
    short-lived one: it ends with its pipe. Where a layer is missing, the other two walls stand.
    """
    _see_every_type(connection)
    limits = Limits(cpu_seconds=None, memory=memory + BESIDE)
    lock(limits, threads=True, degraded=True, dies_with_parent=False)


def _see_every_type(connection: duckdb.DuckDBPyConnection) -> None:
    """DuckDB imports Python modules when a value first needs them: while there are still files."""
    for value in (
        "NULL, TRUE, 1, 1.5, 1.5::DECIMAL(4,2), 'x', 'x'::BLOB, uuid(), 1::HUGEINT",
        "DATE '2020-02-01', TIME '10:00', TIMESTAMP '2020-02-01 10:00:00', INTERVAL 1 DAY",
        "[1], {'a': 1}, MAP {'a': 1}",
        "now()",
        "TIMETZ '10:00:00+01'",
    ):
        with suppress(duckdb.Error):  # one that cannot be shown, for want of a module, never will
            for row in connection.execute(f"SELECT {value}").fetchall():
                json.dumps([_plain(cell, 10) for cell in row])


class _Watch:
    """Interrupts a query at its limit, and ends the process if that is ignored."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, seconds: float) -> None:
        self._interrupt = threading.Timer(seconds, connection.interrupt)
        self._end = threading.Timer(seconds + GRACE, os._exit, (1,))
        for timer in (self._interrupt, self._end):
            timer.daemon = True
            timer.start()

    def cancel(self) -> None:
        self._interrupt.cancel()
        self._end.cancel()


def answer(connection: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> dict[str, Any]:
    """{"columns", "rows", "truncated", "seconds"}, or {"refused": reason}."""
    started = time.perf_counter()
    limit = float(request["seconds"])
    watch = _Watch(connection, limit)
    try:
        statement = screen(request["sql"], connection)
        cursor = connection.execute(statement)
        columns = [str(column[0]) for column in cursor.description or []]
        limits = int(request["rows"]), int(request["characters"]), int(request["cell"])
        rows, truncated = _bounded(cursor, *limits)
    except Refused as refused:
        return {"refused": str(refused)}
    except duckdb.InterruptException:
        return {"refused": f"The query took longer than {limit:g} seconds. Aggregate, sample or filter more."}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {"refused": "The query needed too much memory. Aggregate, sample or filter more."}
    except duckdb.Error as error:
        # What follows such words is a traceback of Python, which is of no use to the author of SQL.
        said = " ".join(str(error).split(", due to the following Python exception")[0].split())
        hint = " CAST the value to VARCHAR." if "Required module" in said else ""
        return {"refused": f"DuckDB refused the query: {said[:600]}{hint}"}
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as the year 290000
        return {"refused": f"The result cannot be shown ({error}). CAST it to VARCHAR."}
    finally:
        watch.cancel()
    seconds = time.perf_counter() - started
    return {"columns": columns, "rows": rows, "truncated": truncated, "seconds": seconds}


def _bounded(
    cursor: duckdb.DuckDBPyConnection, most: int, characters: int, cell: int
) -> tuple[list[list[Any]], bool]:
    """Rows up to the limits, values plain and short, and whether anything was left out."""
    rows: list[list[Any]] = []
    used, cut = 0, False
    for record in cursor.fetchmany(most + 1):
        if len(rows) == most:
            return rows, True
        row = []
        for value in record:
            short = _plain(value, cell)
            cut |= isinstance(short, str) and short.endswith("…")
            row.append(short)
        used += sum(len(str(value)) + 3 for value in row)
        if used > characters and rows:
            return rows, True
        rows.append(row)
    return rows, cut


def _plain(value: Any, longest: int) -> Any:
    """A value that JSON can hold and a prompt can afford."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 53 else str(value)
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else str(value)
    text = value.isoformat() if isinstance(value, datetime | date) else str(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    pipe = Connection(descriptor)
    try:
        first = json.loads(pipe.recv_bytes())
        try:
            connection = open_copy(first["table"], first["first_row"], first["memory"])
            found = connection.execute("SELECT COUNT(*) FROM log").fetchone()
            lock_up(connection, first["memory"])
        except (duckdb.Error, LockError) as error:
            pipe.send_bytes(json.dumps({"refused": f"The log could not be loaded: {error}"}).encode())
            return
        pipe.send_bytes(json.dumps({"rows": found[0] if found else 0}).encode())
        while True:
            request = json.loads(pipe.recv_bytes())
            pipe.send_bytes(json.dumps(answer(connection, request)).encode())
    except (EOFError, OSError):
        pass
    finally:
        os._exit(0)


if __name__ == "__main__":
    main(int(sys.argv[1]))
