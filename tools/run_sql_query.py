"""run_sql_query: an agent's look at the log. Training period only, one SELECT, bounded in every direction.

The SQL never runs in this process; `sql_worker.py` says why it can do no harm where it does. What comes back
is checked here, as if the SQL had won there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from evorank.model.data import Dataset
from evorank.model.errors import RefusedQuery, ToolError

if TYPE_CHECKING:
    from evorank.tools.workbench import Workbench

__all__ = ["Limits", "QueryResult", "SqlProcess", "run_sql_query"]

COPY_ROWS = 5_000_000
"""Longer training periods are copied from their most recent rows only; the result says so."""
LOADING_SECONDS = 300.0
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""All that the process sees of an environment, but for where code lies: only one thread can be locked."""


@dataclass(frozen=True)
class Limits:
    """What one query may take: `rows` and `characters` of result, `cell` characters of one value, wall
    `seconds`, `memory` in bytes."""

    rows: int = 50
    characters: int = 6_000
    cell: int = 200
    seconds: float = 20.0
    memory: int = 1 << 30


class QueryResult(BaseModel):
    """A small table."""

    model_config = ConfigDict(extra="forbid")
    columns: list[str]
    rows: list[list[Any]]
    truncated: bool = Field(description="Whether rows or characters were left out")
    seconds: float
    note: str = Field(default="", description="What the reader must know of the data queried")

    def as_markdown(self) -> str:
        """The table as GitHub Markdown, with what was left out said below it."""
        lines = [_line(self.columns), _line(["---"] * len(self.columns)), *map(_line, self.rows)]
        if self.truncated:
            lines.append(f"\n(cut after {len(self.rows)} rows; aggregate or add LIMIT)")
        if self.note:
            lines.append(f"\n({self.note})")
        return "\n".join(lines)


def run_sql_query(sql: str, bench: Workbench, limits: Limits | None = None) -> QueryResult:
    """Run one SELECT over `log`, the training period of the surface, and return a small table.

    RefusedQuery says which rule or limit the query broke; the log cannot be harmed, and the next query works.
    """
    return bench.sql.run(sql, limits or Limits())


class SqlProcess:
    """The warm process behind `run_sql_query`: started with the first query, replaced after a death."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection | None = None
        self._note = ""
        self._memory = 0
        self._end: weakref.finalize[Any, Any] | None = None

    def run(self, sql: str, limits: Limits) -> QueryResult:
        request = {
            "sql": sql,
            "rows": limits.rows,
            "characters": limits.characters,
            "cell": limits.cell,
            "seconds": limits.seconds,
        }
        with self._lock:
            if self._pipe is None or self._memory != limits.memory:
                self._stop()
                self._start(limits.memory)
            # At its limit the query is interrupted; where DuckDB does not listen, the process is killed.
            found = self._ask(request, limits.seconds + 1.0, f"took longer than {limits.seconds:g} seconds")
        if "refused" in found:
            raise RefusedQuery(str(found["refused"])[:1_000])
        try:
            return _checked(QueryResult(**found, note=self._note), limits)
        except (TypeError, ValueError) as error:
            self.close()
            raise RefusedQuery("The query gave no table, and its process was ended.") from error

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _start(self, memory: int) -> None:
        ours, theirs = socket.socketpair()
        environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
        environment |= ONE_THREAD
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "evorank.tools.sql_worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
            )
        self._process, self._pipe, self._memory = process, Connection(ours.detach()), memory
        self._end = weakref.finalize(self, _end, process)
        rows = self._dataset.schema.training_rows
        first = max(0, rows - COPY_ROWS)
        self._note = f"the most recent {COPY_ROWS:,} of {rows:,} training rows" if first else ""
        table = self._dataset.training_table()
        loaded = self._ask(
            {"table": table, "first_row": first, "memory": memory}, LOADING_SECONDS, "took too long to load"
        )
        if "refused" in loaded:
            self._stop()
            raise ToolError(loaded["refused"])

    def _ask(self, request: dict[str, Any], limit: float, late: str) -> dict[str, Any]:
        assert self._pipe is not None
        try:
            self._pipe.send_bytes(json.dumps(request).encode())
            if not self._pipe.poll(limit):
                self._stop()
                raise RefusedQuery(f"The query {late} and was killed. Aggregate, sample or filter more.")
            found = json.loads(self._pipe.recv_bytes(1 << 24))
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (EOFError, OSError, ValueError) as error:
            self._stop()
            raise RefusedQuery(
                "The query ended its process: it needed too much memory. Aggregate, sample or filter more."
            ) from error
        return found

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._end is not None:
            self._end()
        self._process = self._pipe = self._end = None


def _checked(result: QueryResult, limits: Limits) -> QueryResult:
    """The result, if it is the small table that was asked for; else ValueError."""
    plain = str | int | float | None
    if len(result.rows) > limits.rows:
        raise ValueError(f"{len(result.rows)} rows")
    for row in result.rows:
        if len(row) != len(result.columns):
            raise ValueError(f"{len(row)} values for {len(result.columns)} columns")
        if not all(isinstance(value, plain) and len(str(value)) <= limits.cell for value in row):
            raise ValueError("a value that is long or not plain")
    return result


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(OSError):
        process.kill()
    process.wait()


def _line(cells: list[Any]) -> str:
    shown = ["" if cell is None else str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells]
    return "| " + " | ".join(shown) + " |"
