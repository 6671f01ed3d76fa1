"""What an A/B platform reads of a simulated world: exposures, and a row for each active user and day.

One Parquet file a day of each, beside the log; whole or not at all. Days that are not over are not shown: a
process that died in the middle of one leaves files that the next one replaces.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np

from evorank.model.logs import sources
from evorank.model.logs.sources import literal
from evorank.surfaces.simulated.traffic import DayReport, Vector

__all__ = ["DayTables"]

_TABLES = {
    "days": "user_id BIGINT, timestamp TIMESTAMP, active INTEGER, sessions BIGINT, impressions BIGINT, "
    "clicks BIGINT, watch_s DOUBLE, satisfied_s DOUBLE, likes BIGINT, hates BIGINT, forwards BIGINT, "
    "follows BIGINT, comments BIGINT, engaged BIGINT, top_creator_impressions BIGINT, arm VARCHAR",
    "exposures": "user_id BIGINT, timestamp TIMESTAMP, experiment_id VARCHAR, variation_id VARCHAR",
}
TOP_SHARE, TOP_DAYS = 0.05, 14
"""Top creators: this share of those who were shown at all in so many days before, by impressions."""


class DayTables:
    """The folders `days/` and `exposures/` of a surface, made from its `log/`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, report: DayReport, arms: Sequence[str], variations: Mapping[str, Vector]) -> None:
        """Write a day whose log lies in `log/pending`. `arms`: names by number; `variations`: by experiment,
        the variation of each user of the report (0, 1; -1: takes no part), exposed at the first impression.

        LogError: the disk is full.
        """
        users = report.users
        today = f"read_parquet({literal(str(self._directory / 'log' / 'pending' / _name(report.date)))})"
        with sources.connect() as connection, sources.explained("tables of the day"):
            connection.register("users", {name: users[name] for name in users if name != "arm"})
            connection.register("arms", {"user_id": users["user_id"], "arm": np.asarray(arms)[users["arm"]]})
            connection.execute(
                f"CREATE TABLE seen AS SELECT user_id, min(time_ms) AS first, "
                f"count(*) FILTER (author_id IN ({self._top_creators(report.date)})) AS top "
                f"FROM {today} GROUP BY user_id"
            )
            columns = [column.split()[0] for column in _TABLES["days"].split(", ")]
            own = {"timestamp": f"TIMESTAMP '{report.date}'", "active": "1", "top_creator_impressions": "top"}
            listed = ", ".join(f"{own.get(name, name)} AS {name}" for name in columns)
            self._copy(
                connection,
                f"SELECT {listed} FROM users JOIN arms USING (user_id) JOIN seen USING (user_id) "
                "ORDER BY user_id",
                "days",
                report.date,
            )
            connection.execute(f"CREATE TABLE exposed ({_TABLES['exposures']})")
            for experiment, variation in variations.items():
                connection.register("varied", {"user_id": users["user_id"], "variation": variation})
                connection.execute(
                    "INSERT INTO exposed SELECT user_id, make_timestamp(first * 1000), $1, variation "
                    "FROM varied JOIN seen USING (user_id) WHERE variation >= 0",
                    [experiment],
                )
            self._copy(
                connection,
                "FROM exposed ORDER BY experiment_id, timestamp, user_id",
                "exposures",
                report.date,
            )

    @contextmanager
    def connect(self, before: datetime.date) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection with the views `days` and `exposures` over the days before `before`."""
        with sources.connect() as connection:
            for table, columns in _TABLES.items():
                connection.execute(f"CREATE TABLE {table}_none ({columns})")
                files = [f for f in (self._directory / table).glob("day=*.parquet") if _day(f) < before]
                found = literal(sorted(map(str, files)))
                source = f"read_parquet({found})" if files else f"{table}_none"
                connection.execute(f"CREATE VIEW {table} AS SELECT * FROM {source}")
            yield connection

    def _top_creators(self, day: datetime.date) -> str:
        """SQL of the creators who were shown most over the days before."""
        files = [
            str(file)
            for file in sorted((self._directory / "log").glob("day=*.parquet"))
            if 0 < (day - _day(file)).days <= TOP_DAYS
        ]
        if not files:
            return "NULL"
        return (
            f"SELECT author_id FROM (SELECT author_id, "
            f"row_number() OVER (ORDER BY count(*) DESC, author_id) AS place, count(*) OVER () AS many "
            f"FROM read_parquet({literal(files)}) GROUP BY author_id) WHERE place <= ceil({TOP_SHARE} * many)"
        )

    def _copy(
        self, connection: duckdb.DuckDBPyConnection, query: str, table: str, day: datetime.date
    ) -> None:
        folder = self._directory / table
        folder.mkdir(exist_ok=True)
        partial = folder / f".{_name(day)}.{os.getpid()}.tmp"
        try:
            connection.execute(f"COPY ({query}) TO {literal(str(partial))} (FORMAT parquet)")
            partial.replace(folder / _name(day))
        finally:
            partial.unlink(missing_ok=True)


def _name(day: datetime.date) -> str:
    return f"day={day.isoformat()}.parquet"


def _day(file: Path) -> datetime.date:
    return datetime.date.fromisoformat(file.stem.removeprefix("day="))
