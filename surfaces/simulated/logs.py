"""A simulated log on disk: one Parquet file per day, written through DuckDB, whole or not at all.

A day is complete only when its delayed signals are known: `returned_next_day` takes until the next day
begins. Until then it lies in `pending/`, outside the glob that a surface reads: a world that is stopped and
continued loses nothing, and no file that was read ever changes.
"""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import numpy as np

from evorank.model.logs import sources
from evorank.model.logs.sources import literal
from evorank.surfaces.simulated.traffic import LOGGED, LogColumns, LogSink, Vector

__all__ = ["GLOB", "LogWriter", "replay"]

GLOB = "log/day=*.parquet"
"""What `LogSpec.path` names, relative to the surface's folder."""


def replay(
    directory: Path, sink: LogSink, after: datetime.date | None = None, before: datetime.date | None = None
) -> None:
    """Let `sink` hear the days in `directory` again that come `after` a day and `before` another, the pending
    one included.

    For what must be up to date in a new process: the histories of a live encoder, the rates of `Counting`.
    """
    files = {
        _day(file): file for folder in ("", "pending") for file in (directory / folder).glob("day=*.parquet")
    }
    for day, file in sorted(files.items()):
        if (after is not None and day <= after) or (before is not None and day >= before):
            continue
        with sources.connect() as connection, sources.explained("simulated log"):
            found = connection.execute(
                f"SELECT * REPLACE (CAST(coalesce(survey_score, 0) AS TINYINT) AS survey_score) "
                f"FROM read_parquet({literal(str(file))}) ORDER BY time_ms, user_id, position"
            ).fetchnumpy()
        found.pop("returned_next_day", None)
        columns = {name: np.ma.getdata(values) for name, values in found.items()}
        sink.begin_day(day, np.unique(columns["user_id"]))  # who opens the app sees a video at least
        sink.write(columns)
        sink.end_day()


def _day(file: Path) -> datetime.date:
    return datetime.date.fromisoformat(file.stem.removeprefix("day="))


class LogWriter:
    """A `LogSink` that writes `day=YYYY-MM-DD.parquet` into `directory`. LogError: the disk is full."""

    def __init__(self, directory: Path) -> None:
        self._directory = Path(directory)
        self._day: datetime.date | None = None
        self._blocks: list[LogColumns] = []

    def begin_day(self, day: datetime.date, active: Vector) -> None:
        """Complete what is pending with who came today, and start anew. A day begun again is replaced."""
        with sources.explained("simulated log"):
            self._pending.mkdir(parents=True, exist_ok=True)
            for file in sorted(self._pending.glob("day=*.parquet")):
                before = _day(file)
                if before < day:
                    self._complete(file, active if (day - before).days == 1 else active[:0])
        self._day, self._blocks = day, []

    def write(self, columns: LogColumns) -> None:
        """Keep a block until the day ends; a day of 20,000 users is some 10 MB."""
        self._blocks.append(columns)

    def end_day(self) -> None:
        """Write the day to `pending/`, in time order."""
        blocks, self._blocks = self._blocks, []
        if not blocks or self._day is None:
            return
        columns = {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
        with sources.connect() as connection, sources.explained("simulated log"):
            connection.register("today", columns)
            query = f"{LOGGED} today ORDER BY time_ms, user_id, position"
            self._copy(connection, query, self._pending / self._name(self._day))

    @property
    def _pending(self) -> Path:
        return self._directory / "pending"

    def _complete(self, file: Path, active: Vector) -> None:
        with sources.connect() as connection:
            connection.register("came", {"user_id": active.astype(np.int64)})
            query = (
                f"SELECT d.*, CAST(came.user_id IS NOT NULL AS TINYINT) AS returned_next_day "
                f"FROM read_parquet({literal(str(file))}) d LEFT JOIN came USING (user_id) "
                "ORDER BY time_ms, user_id, position"
            )
            self._copy(connection, query, self._directory / file.name)
        file.unlink()

    @staticmethod
    def _name(day: datetime.date) -> str:
        return f"day={day.isoformat()}.parquet"

    @staticmethod
    def _copy(connection: Any, query: str, target: Path) -> None:
        partial = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            connection.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet)")
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
