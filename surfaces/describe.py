"""What is in a surface's log: `surface describe`. For people; it judges nothing.

Means and shares of the test period are shown so that a broken split is seen; labels are never computed.
"""

from __future__ import annotations

from typing import Any

import duckdb
import numpy.typing as npt

from evorank.model.data import PERIODS, Dataset, Period
from evorank.model.logs.sources import identifier as q
from evorank.model.system import Feature
from evorank.surfaces.surface import Surface

__all__ = ["describe", "sample_step", "sampled"]

_SAMPLE = 100_000
"""Training rows that single features are judged on."""


def describe(surface: Surface) -> dict[str, Any]:
    """Everything about a surface as JSON: log, periods with the mean of every signal, features, north star.

    Shares lie in [0, 1]. Cold = rows whose user (item) has no row in the training period. A scan or two of
    the log: about a second per million rows.
    """
    dataset, spec = surface.dataset(), surface.spec
    with dataset.connect("test") as connection:
        periods = {period: _period(connection, dataset, period) for period in PERIODS}
        user, item = q(spec.log.user), q(spec.log.item)
        items, duplicates = connection.execute(
            f"SELECT (SELECT count(DISTINCT {item}) FROM log), (SELECT count(*) FROM (SELECT {user} = "
            f"lag({user}) "
            f"OVER () AND {item} = lag({item}) OVER () AND time = lag(time) OVER () AS same FROM log) "
            "WHERE same)"
        ).fetchone() or (0, 0)
        counts = connection.execute(
            f"SELECT median(n), avg(CAST(n < 5 AS INTEGER)) FROM (SELECT count(*) AS n FROM log "
            f"WHERE row < {dataset.schema.training_rows} GROUP BY {user})"
        ).fetchone() or (0, 0)
    return {
        "name": surface.name,
        "description": spec.description,
        "directory": str(surface.directory),
        "data_version": dataset.key,
        "log": {
            "paths": spec.log.paths(),
            "rows": len(dataset),
            "users": dataset.user_count,
            "items": items,
            "rows_per_user_median": counts[0],
            "share_of_users_below_5_rows": counts[1],
            "duplicate_rows": duplicates,
            **dataset.report,
        },
        "periods": periods,
        "features": [_feature(dataset, feature) for feature in dataset.schema.features],
        "columns": dict(dataset.schema.columns),
        "north_star": spec.north_star.model_dump() if spec.north_star else None,
        "reward_persona_off": surface.reward_persona_off,
        "guardrails": [guardrail.model_dump() for guardrail in spec.guardrails],
        "system": spec.system,
        "production": surface.production(),
    }


def _period(connection: duckdb.DuckDBPyConnection, dataset: Dataset, period: Period) -> dict[str, Any]:
    rows, spec = dataset.bounds[period], dataset.spec
    table = f"(SELECT * FROM log WHERE row >= {rows.start} AND row < {rows.stop})"
    train = f"(SELECT * FROM log WHERE row < {dataset.schema.training_rows})"
    first, last, days, users = connection.execute(
        f"SELECT min(time), max(time), count(DISTINCT day), count(DISTINCT {q(spec.user)}) FROM {table}"
    ).fetchone() or (None, None, 0, 0)
    facts = {
        "rows": rows.stop - rows.start,
        "first": str(first),
        "last": str(last),
        "days": days,
        "users": users,
        "signals": {name: _signal(connection, dataset, table, name) for name in spec.signals},
    }
    if period != "train":
        for what, column in (("user", spec.user), ("item", spec.item)):
            cold = connection.execute(
                f"SELECT count(*) FROM {table} l ANTI JOIN (SELECT DISTINCT {q(column)} AS id FROM "
                f"{train}) t "
                f"ON l.{q(column)} = t.id"
            ).fetchone() or (0,)
            facts[f"cold_{what}_share"] = cold[0] / facts["rows"]
    return facts


def _signal(connection: duckdb.DuckDBPyConnection, dataset: Dataset, table: str, name: str) -> dict[str, Any]:
    """Mean, deviation and extremes of a numeric signal (for 0 / 1: the rate); of others what is missing."""
    kind, column = dataset.schema.columns[name], q(name)
    if kind.startswith(("VARCHAR", "TIMESTAMP", "DATE", "TIME", "BLOB")) or kind.endswith(("]", ")")):
        missing = connection.execute(f"SELECT count(*) - count({column}) FROM {table}").fetchone() or (0,)
        return {"type": kind, "missing": missing[0]}
    if kind.startswith("DECIMAL"):
        column = f"CAST({column} AS DOUBLE)"
    row = (
        connection.execute(
            f"SELECT avg(x) FILTER (isfinite(x)), stddev_pop(x) FILTER (isfinite(x)), min(x), max(x), "
            f"count(*) - count(x), count_if(NOT isfinite(x)) FROM (SELECT CAST({column} AS DOUBLE) AS x "
            f"FROM {table})"
        ).fetchone()
        or (None,) * 6
    )
    names = ("mean", "deviation", "minimum", "maximum", "missing", "not_finite")
    return {"type": kind, **dict(zip(names, row, strict=True))}


def _feature(dataset: Dataset, feature: Feature) -> dict[str, Any]:
    """Shape of a feature, and the share of training and validation rows where it says nothing (code 0)."""
    values = sampled(dataset, "train", feature.name)
    unknown: dict[str, float | None] = {"train": None, "validation": None}
    if feature.kind != "numeric":
        for period in PERIODS[:2]:
            codes = sampled(dataset, period, feature.name)
            unknown[period] = float((codes.reshape(len(codes), -1) == 0).all(axis=1).mean())
    return {
        "name": feature.name,
        "kind": feature.kind,
        "size": feature.size,
        "length": feature.length,
        "of": feature.of,
        "constant": feature.kind != "history" and bool((values == values[0]).all()),
        "missing_share": _missing(dataset, feature),
        "unknown_share_train": unknown["train"],
        "unknown_share_validation": unknown["validation"],
    }


def _missing(dataset: Dataset, feature: Feature) -> float:
    return float(dataset.report["missing"].get(feature.name, 0)) / len(dataset)


def sampled(dataset: Dataset, period: Period, name: str) -> npt.NDArray[Any]:
    rows = dataset.bounds[period]
    return dataset.rows(slice(rows.start, rows.stop, sample_step(rows))).column(name)


def sample_step(rows: slice) -> int:
    return max(1, int(rows.stop - rows.start) // _SAMPLE)
