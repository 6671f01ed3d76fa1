"""The process that runs agents' SQL: an in-memory copy of the training period, and nothing else to reach.

Started by `run_sql_query.py`. Three walls, each enough alone: the statement is screened (`sql_screen.py`);
DuckDB has no file, no file system, no extension and a locked configuration; and what must not be seen or
harmed is not in this process. Limits on time and memory end a query, at worst with the process.
"""

from __future__ import annotations

import json
import math
import os
import resource
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

from evorank.tools.sql_screen import Refused, screen

CELL = 200
"""Characters of one value."""

LOCKS = (
    "SET threads = 1",
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


def answer(connection: duckdb.DuckDBPyConnection, request: dict[str, Any]) -> dict[str, Any]:
    """{"columns", "rows", "truncated", "seconds"}, or {"refused": reason}."""
    started = time.perf_counter()
    limit = float(request["seconds"])
    watch = threading.Timer(limit, connection.interrupt)
    watch.daemon = True
    watch.start()
    try:
        statement = screen(request["sql"], connection)
        cursor = connection.execute(statement)
        columns = [str(column[0]) for column in cursor.description or []]
        rows, truncated = _bounded(cursor, int(request["rows"]), int(request["characters"]))
    except Refused as refused:
        return {"refused": str(refused)}
    except duckdb.InterruptException:
        return {"refused": f"The query took longer than {limit:g} seconds. Aggregate, sample or filter more."}
    except (duckdb.OutOfMemoryException, MemoryError):
        return {"refused": "The query needed too much memory. Aggregate, sample or filter more."}
    except duckdb.Error as error:
        return {"refused": f"DuckDB refused the query: {' '.join(str(error).split())[:600]}"}
    except (ValueError, OverflowError) as error:  # a value Python cannot hold, such as the year 290000
        return {"refused": f"The result cannot be shown ({error}). CAST it to VARCHAR."}
    finally:
        watch.cancel()
    seconds = time.perf_counter() - started
    return {"columns": columns, "rows": rows, "truncated": truncated, "seconds": seconds}


def _bounded(cursor: duckdb.DuckDBPyConnection, most: int, characters: int) -> tuple[list[list[Any]], bool]:
    """Rows up to both limits, values plain and short, and whether anything was left out."""
    rows: list[list[Any]] = []
    used, cut = 0, False
    for record in cursor.fetchmany(most + 1):
        if len(rows) == most:
            return rows, True
        row = []
        for value in record:
            short = _plain(value)
            cut |= isinstance(short, str) and short.endswith("…")
            row.append(short)
        used += sum(len(str(value)) + 3 for value in row)
        if used > characters and rows:
            return rows, True
        rows.append(row)
    return rows, cut


def _plain(value: Any) -> Any:
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
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def _limit_memory(extra: int) -> None:
    """A last bound on address space, for what DuckDB does not count: then an allocation fails, or we do."""
    with suppress(OSError, ValueError):
        with open("/proc/self/statm") as stream:
            size = int(stream.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + extra, size + extra))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main(descriptor: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes the pipe
    pipe = Connection(descriptor)
    try:
        first = json.loads(pipe.recv_bytes())
        try:
            connection = open_copy(first["table"], first["first_row"], first["memory"])
            found = connection.execute("SELECT COUNT(*) FROM log").fetchone()
        except duckdb.Error as error:
            pipe.send_bytes(json.dumps({"refused": f"The log could not be loaded: {error}"}).encode())
            return
        _limit_memory(first["memory"] + (1 << 30))
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
