"""One table in time order from any log: sources joined, time understood, features and signals selected."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from evorank.model.errors import LogError
from evorank.model.logs import sources
from evorank.model.logs.sources import explained, literal, unknown_column
from evorank.model.logs.sources import identifier as q
from evorank.model.logs.spec import History, LogSpec

__all__ = ["SortedLog", "sorted_log"]

_SCALES = {"s": 1_000_000, "ms": 1_000, "us": 1}


@dataclass(frozen=True)
class SortedLog:
    """The sorted Parquet file: `rows` usable rows, columns by name -> DuckDB type, what was met."""

    rows: int
    columns: dict[str, str]
    report: dict[str, Any]


def sorted_log(connection: duckdb.DuckDBPyConnection, spec: LogSpec, path: Path) -> SortedLog:
    """Write the log in time order to `path` with `row`, `time`, `day` and the columns the spec names.

    Rows without user, item or time are dropped and counted. LogError: it cannot be read, or nothing is left.
    """
    base = sources.relation(connection, spec, "log")
    known = _describe(connection, base)
    _check_columns(spec, known)
    time, unit = _time(connection, spec, base)
    day = f"CAST({time} + to_seconds({round(spec.utc_offset_hours * 3600)}) AS DATE)"
    own = [q(name) for name in known if name in ("time", "day")]
    rest = f"* EXCLUDE ({', '.join(own)})" if own else "*"
    where = f" WHERE ({spec.where})" if spec.where else ""
    with explained("log.where", list(known)):
        connection.execute(f"DESCRIBE SELECT * FROM {base}{where}")
    if spec.last_days is not None:
        where = _recent(connection, base, where, day, spec.last_days)
    # Order is judged before the joins, which may shuffle rows.
    late = f"coalesce({time} < lag({time}) OVER (), false)"
    base = f"(SELECT {rest}, {time} AS time, {day} AS day, {late} AS __late FROM {base}{where})"
    timed, known, shadowed = _joined(connection, spec, base, known)
    # Expressions are bound to an empty table of the same shape: binding to CSV files sniffs them anew.
    connection.execute(f"CREATE TEMP TABLE shape AS SELECT * FROM {timed} LIMIT 0")
    columns = _columns(connection, spec, [name for name in known if name not in ("time", "day")])
    selected = ", ".join(f"({sql}) AS {q(name)}" for name, sql in columns.items())
    ties = ", ".join(q(name) for name in dict.fromkeys([spec.user, spec.item, *spec.signals]))
    bad = " OR ".join(f"{q(name)} IS NULL" for name in ["time", spec.user, spec.item])
    with explained("log", list(known)):
        connection.execute(
            f"COPY (SELECT row_number() OVER () - 1 AS row, * FROM ("
            f"SELECT time, day, {selected}, ({bad}) AS __bad, __late FROM {timed} "
            f"ORDER BY __bad, time, {ties})) TO {literal(str(path))} (FORMAT parquet, ROW_GROUP_SIZE 100000)"
        )
    file = f"read_parquet({literal(str(path))})"
    total, dropped, late, first, last = connection.execute(
        f"SELECT count(*), count_if(__bad), count_if(__late), min(time), max(time) FROM {file}"
    ).fetchone() or (0, 0, 0, None, None)
    if not total or total == dropped:
        why = f"all {total} rows lack a user, item or time" if total else "it has no rows"
        where = f", or change `where` ({spec.where})" if spec.where else ""
        raise LogError(
            f"log.path {spec.paths()[0]} is empty: {why}. Check `user`, `item`, `time`, `time_unit`{where}."
        )
    types = {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {file}").fetchall()}
    if spec.time_unit == "auto" and first.year < 1990:
        raise LogError(
            f"log.time {spec.time!r} read as {unit!r} begins at {first}: that is not a time. Give "
            "`time_unit` or "
            "`time_format`, or name the column that holds the timestamp."
        )
    report = {
        "source_rows": total,
        "dropped_rows": dropped,
        "out_of_order_rows": late,
        "time_unit": unit,
        "first": str(first),
        "last": str(last),
        "shadowed_columns": shadowed,
    }
    return SortedLog(total - dropped, {name: types[name] for name in columns}, report)


def _recent(connection: duckdb.DuckDBPyConnection, base: str, where: str, day: str, days: int) -> str:
    """`where` for the last `days` days that the log reaches back from its last row. Rows without a time
    stay, to be counted."""
    with explained("log.last_days"):
        (last,) = connection.execute(f"SELECT max({day}) FROM {base}{where}").fetchone() or (None,)
    if last is None:
        return where
    first = last - datetime.timedelta(days=days - 1)
    return f"{f'{where} AND' if where else ' WHERE'} coalesce({day} >= DATE '{first}', true)"


def _joined(
    connection: duckdb.DuckDBPyConnection, spec: LogSpec, query: str, known: dict[str, str]
) -> tuple[str, dict[str, str], list[str]]:
    """SQL of the log with its side tables, all columns with types, and side columns that the log has too."""
    shadowed: list[str] = []
    for i, side in enumerate(spec.sides):
        field, on = f"log.sides[{i}]", side.on or side.key
        if on not in known:
            raise LogError(unknown_column(f"{field}.on", on, list(known)))
        table = sources.relation(connection, side, field)
        columns = _describe(connection, table)
        if side.key not in columns:
            raise LogError(unknown_column(f"{field}.key", side.key, list(columns)))
        key = q(side.key)
        twice = connection.execute(
            f"SELECT {key} FROM {table} GROUP BY 1 HAVING count(*) > 1 LIMIT 1"
        ).fetchone()
        if twice:
            raise LogError(
                f"{field}.key {side.key!r} must be unique, but {twice[0]!r} has several rows in "
                f"{side.paths()[0]}. "
                "Aggregate the table first, or name another key."
            )
        shadowed += [name for name in columns if name in known and name != side.key]
        new = {
            name: kind for name, kind in columns.items() if name not in known and name not in ("time", "day")
        }
        taken = ", ".join(f"s.{q(name)}" for name in new)
        same = columns[side.key] == known[on]
        match = f"l.{q(on)} = s.{key}" if same else f"CAST(l.{q(on)} AS VARCHAR) = CAST(s.{key} AS VARCHAR)"
        query = f"(SELECT l.*{', ' + taken if taken else ''} FROM {query} l LEFT JOIN {table} s ON {match})"
        known = known | new
    return query, known, shadowed


def _describe(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    return {row[0]: row[1] for row in connection.execute(f"DESCRIBE SELECT * FROM {query}").fetchall()}


def _check_columns(spec: LogSpec, known: dict[str, str]) -> None:
    named = {
        "user": [spec.user],
        "item": [spec.item],
        "time": [spec.time],
        "signals": spec.signals,
        "keep": spec.keep,
    }
    for field, names in named.items():
        for name in names:
            if name not in known:
                raise LogError(unknown_column(f"log.{field}", name, list(known)))
    if twice := [name for name, count in Counter([*spec.signals, *spec.keep]).items() if count > 1]:
        raise LogError(f"log.signals and log.keep name {twice[0]!r} twice; once is enough.")


def _time(connection: duckdb.DuckDBPyConnection, spec: LogSpec, joined: str) -> tuple[str, str]:
    """SQL of the time as TIMESTAMP (UTC), NULL where it cannot be read, and the unit it was taken in."""
    column = q(spec.time)
    kind = str(
        connection.execute(f"SELECT typeof({column}) FROM {joined} LIMIT 1").fetchall() or "[('BIGINT',)]"
    )
    kind, unit = kind.strip("[]()',"), spec.time_unit
    if kind.startswith(("TIMESTAMP", "DATE")):
        if unit not in ("auto", "timestamp"):
            raise LogError(f'log.time_unit must be "auto" or "timestamp" for a {kind}, got {unit!r}.')
        return f"CAST({column} AS TIMESTAMP)", "timestamp"
    if kind == "VARCHAR" and unit in ("auto", "text", "timestamp"):
        if spec.time_format:
            return f"try_strptime({column}, {literal(spec.time_format)})", "text"
        return f"CAST(TRY_CAST({column} AS TIMESTAMPTZ) AS TIMESTAMP)", "text"
    if unit in ("text", "timestamp"):
        if not spec.time_format:
            raise LogError(
                f"log.time_unit is {unit!r}, but {spec.time!r} holds {kind}. Use s, ms, us, ns or auto."
            )
        return f"try_strptime(CAST({column} AS VARCHAR), {literal(spec.time_format)})", "text"
    number = f"TRY_CAST({column} AS DOUBLE)"
    if unit == "auto":
        (middle,) = connection.execute(
            f"SELECT median(abs(x)) FROM (SELECT {number} AS x FROM {joined} LIMIT 10000) WHERE isfinite(x)"
        ).fetchone() or (None,)
        size = float(middle or 0)
        unit = "s" if size < 1e11 else "ms" if size < 1e14 else "us" if size < 1e17 else "ns"
    whole = f"TRY_CAST({column} AS BIGINT)"  # a double holds microseconds only to about a quarter of one
    micros = f"{whole} // 1000" if unit == "ns" else f"CAST(round({number} * {_SCALES[unit]}) AS BIGINT)"
    if unit in ("ms", "us") and "INT" in kind:
        micros = f"{whole} * {_SCALES[unit]}"
    return f"CASE WHEN isfinite({number}) AND abs({number}) < 9e18 THEN make_timestamp({micros}) END", unit


def _columns(connection: duckdb.DuckDBPyConnection, spec: LogSpec, known: list[str]) -> dict[str, str]:
    """Columns of the log by name -> SQL. Feature expressions are bound where the signals do not exist."""
    columns = {spec.user: q(spec.user), spec.item: q(spec.item)}
    columns |= {name: q(name) for name in [*spec.signals, *spec.keep]}
    hidden = ", ".join(q(name) for name in spec.signals)
    blind = f"(SELECT * EXCLUDE ({hidden}) FROM shape)"
    known = [*known, "time", "day"]
    visible = [name for name in known if name not in spec.signals]
    for feature in spec.features:
        field = f"log.features.{feature.name}"
        if isinstance(feature, History):
            continue
        column = feature.column or feature.name
        sql = q(column) if column in known else column
        if feature.column is None and column not in known:
            raise LogError(unknown_column(f"{field}.column", column, visible))
        with explained(f"{field}.column (features never see signals)", visible):
            connection.execute(f"DESCRIBE SELECT ({sql}) AS x FROM {blind}")
        if columns.get(feature.name, sql) != sql:
            raise LogError(
                f"{field} would replace the column {feature.name!r} of the log. Give the feature another "
                "name."
            )
        columns[feature.name] = sql
    named = ", ".join(f"({sql}) AS {q(name)}" for name, sql in columns.items())
    present = f"(SELECT time, day, {named} FROM shape)"
    for feature in spec.features:
        if isinstance(feature, History) and feature.where:
            with explained(f"log.features.{feature.name}.where", list(columns)):
                connection.execute(f"DESCRIBE SELECT CAST(({feature.where}) AS BOOLEAN) FROM {present}")
    return columns
