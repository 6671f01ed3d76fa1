"""Sufficient statistics of a test from one DuckDB query over its exposure and metric tables.

All that the judgement needs of millions of users is, per arm and metric, a count, five means and their
covariances; no row leaves the warehouse. A user counts from their first exposure, in the arm they were
exposed to. Users exposed to both arms are dropped (and counted), since neither arm may claim them.

    exposures: user_id, timestamp (UTC), experiment_id, variation_id
    metrics:   user_id, timestamp (UTC), and the columns that a metric's SQL names
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.errors import LogError
from evorank.tools.abtest.plan import Metric, Plan

if TYPE_CHECKING:
    import duckdb

__all__ = ["COLUMNS", "ArmStatistics", "MetricStatistics", "Moments", "Statistics", "collect"]

COLUMNS = ("value", "denominator", "pre_value", "pre_denominator", "has_pre")
"""What is known of a user. A mean is a ratio whose denominator is 1 for everybody; has_pre is 1 for users
with rows in the pre-period, whose other pre columns are 0 without."""
_SIZE = len(COLUMNS)


@dataclass(frozen=True)
class Moments:
    """Means and sample covariances of COLUMNS over the users of an arm; leading axes are experiments."""

    n: npt.NDArray[np.float64]
    """Users [...]."""
    mean: npt.NDArray[np.float64]
    """[..., 5]."""
    cov: npt.NDArray[np.float64]
    """[..., 5, 5], with n - 1 in the denominator."""

    @classmethod
    def of(cls, users: npt.NDArray[Any]) -> Moments:
        """From a table of users [..., n, 5]."""
        users = np.asarray(users, np.float64)
        n = users.shape[-2]
        mean = users.mean(axis=-2)
        centred = users - mean[..., None, :]
        cov = np.swapaxes(centred, -1, -2) @ centred / max(n - 1, 1)
        return cls(np.full(mean.shape[:-1], float(n)), mean, cov)

    @classmethod
    def from_sums(cls, n: Any, sums: Any, products: Any) -> Moments:
        """From raw sums [..., 5] and sums of products [..., 5, 5], as other platforms keep them."""
        n, sums, products = (np.asarray(each, np.float64) for each in (n, sums, products))
        mean = sums / np.maximum(n, 1.0)[..., None]
        outer = sums[..., :, None] * mean[..., None, :]
        return cls(n, mean, (products - outer) / np.maximum(n - 1.0, 1.0)[..., None, None])


class ArmStatistics(BaseModel):
    """One metric in one arm."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    users: int = Field(ge=0, description="Exposed to this arm alone, with or without rows")
    with_rows: int = Field(ge=0, description="Of these, users with at least one row since their exposure")
    mean: list[float] = Field(description=f"Means per user of {', '.join(COLUMNS)}")
    cov: list[list[float]] = Field(description="Sample covariances of the same, users - 1 in the denominator")

    @property
    def moments(self) -> Moments:
        return Moments(np.asarray(float(self.users)), np.asarray(self.mean), np.asarray(self.cov))


class MetricStatistics(BaseModel):
    """One metric in both arms."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    control: ArmStatistics
    candidate: ArmStatistics


class Statistics(BaseModel):
    """All that one reading of a test saw. Small, and enough to judge it again without the data."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    experiment_id: str
    until: datetime = Field(description="Rows before this moment (UTC) were read")
    users_control: int = Field(ge=0, description="Users exposed to production alone")
    users_candidate: int = Field(ge=0, description="Users exposed to the candidate alone")
    crossed: int = Field(default=0, ge=0, description="Users exposed to more than one arm; dropped")
    unknown: int = Field(
        default=0, ge=0, description="Users exposed to an arm the plan does not know; dropped"
    )
    unusable: int = Field(default=0, ge=0, description="Exposure rows without user, time or arm; dropped")
    metrics: dict[str, MetricStatistics]


def collect(connection: duckdb.DuckDBPyConnection, plan: Plan, exposures: str, until: datetime) -> Statistics:
    """Read the test up to `until`, in one query.

    `exposures` is what stands behind FROM, trusted like the metrics' SQL. LogError: a table or column that is
    missing or of a wrong type, or values that are not finite.
    """
    import duckdb

    until = until.astimezone(UTC).replace(tzinfo=None) if until.tzinfo else until
    values = {
        "experiment": plan.experiment_id,
        "start": plan.start,
        "until": until,
        "before": plan.start - timedelta(days=plan.pre_days),
        "control": plan.control,
        "candidate": plan.candidate,
    }
    try:
        rows = connection.execute(_query(plan.metrics, exposures), values).fetchall()
    except duckdb.Error as error:
        raise LogError(
            f"The tables of experiment {plan.experiment_id!r} cannot be read: {error}. Exposures need "
            "user_id, timestamp, experiment_id, variation_id; metrics user_id, timestamp and what "
            "their SQL names."
        ) from error
    counts = {name: int(count) for metric, name, count, *_ in rows if metric is None}
    found = {(metric, arm): rest for metric, arm, *rest in rows if metric is not None}
    return Statistics(
        experiment_id=plan.experiment_id,
        until=until,
        users_control=counts["control"],
        users_candidate=counts["candidate"],
        crossed=counts["crossed"],
        unknown=counts["unknown"],
        unusable=counts["unusable"],
        metrics={
            metric.name: MetricStatistics(
                control=_arm(metric.name, found.get((metric.name, "control"))),
                candidate=_arm(metric.name, found.get((metric.name, "candidate"))),
            )
            for metric in plan.metrics
        },
    )


def _arm(metric: str, row: Sequence[Any] | None) -> ArmStatistics:
    if row is None:
        return ArmStatistics(users=0, with_rows=0, mean=[0.0] * _SIZE, cov=[[0.0] * _SIZE] * _SIZE)
    users, with_rows, *numbers = row
    if not np.isfinite(numbers).all():
        raise LogError(
            f"Metric {metric!r} must be finite for every user; NULL counts as 0, infinity as nothing."
        )
    mean, triangle = numbers[:_SIZE], iter(numbers[_SIZE:])
    cov = np.zeros((_SIZE, _SIZE))
    for i, j in _PAIRS:
        cov[i, j] = cov[j, i] = next(triangle) * users / max(users - 1, 1)
    return ArmStatistics(users=users, with_rows=with_rows, mean=mean, cov=cov.tolist())


_PAIRS = [(i, j) for i in range(_SIZE) for j in range(i, _SIZE)]


def _query(metrics: Sequence[Metric], exposures: str) -> str:
    """The whole reading as one statement: exposed users, one scan per metric table, then the moments."""
    tables: dict[tuple[str, str], list[Metric]] = {}
    for metric in metrics:
        tables.setdefault((metric.source, metric.grain), []).append(metric)
    parts, readings = [_EXPOSED.format(exposures=exposures)], [_COUNTS]
    for number, ((source, grain), members) in enumerate(tables.items()):
        clock = "CAST(_r.timestamp AS TIMESTAMP)"
        day = f"date_trunc('day', {clock})"
        at, since = (day, "date_trunc('day', {})") if grain == "day" else (clock, "{}")
        aggregates = "".join(
            f", CAST(({metric.value}) AS DOUBLE) AS {metric.name}__v"
            f", CAST(({metric.denominator or '1'}) AS DOUBLE) AS {metric.name}__d"
            for metric in members
        )
        during = f"{at} >= {since.format('_u._first')}"
        parts.append(
            f"""per_{number} AS MATERIALIZED (
    SELECT _user, _during{aggregates} FROM (
        SELECT _r.*, _u._user, {during} AS _during
        FROM {source} AS _r JOIN unit AS _u ON CAST(_r.user_id AS VARCHAR) = _u._user
        WHERE {clock} < $until AND ({during} OR ({clock} >= $before AND {at} < {since.format("$start")}))
    ) GROUP BY _user, _during)"""
        )
        for metric in members:
            one = "" if metric.denominator else "1.0 AS "
            pre_one = "1.0 AS " if not metric.denominator else ""
            value, denominator = f"{metric.name}__v", f"{metric.name}__d"
            columns = (
                f"coalesce(_a.{value}, 0) AS c0, {one or f'coalesce(_a.{denominator}, 0) AS '}c1, "
                f"coalesce(_b.{value}, 0) AS c2, {pre_one or f'coalesce(_b.{denominator}, 0) AS '}c3, "
                "CAST(_b._user IS NOT NULL AS DOUBLE) AS c4"
            )
            means = ", ".join(f"avg(c{i})" for i in range(_SIZE))
            covariances = ", ".join(f"covar_pop(c{i}, c{j})" for i, j in _PAIRS)
            readings.append(
                f"""SELECT '{metric.name}', _arm, count(*), count(_seen), {means}, {covariances}
FROM (SELECT _u._arm, _a._user AS _seen, {columns} FROM unit AS _u
    LEFT JOIN per_{number} AS _a ON _a._user = _u._user AND _a._during
    LEFT JOIN per_{number} AS _b ON _b._user = _u._user AND NOT _b._during) GROUP BY _arm"""
            )
    return "WITH " + ",\n".join(parts) + "\n" + "\nUNION ALL\n".join(readings)


_EXPOSED = """shown AS MATERIALIZED (
    SELECT CAST(user_id AS VARCHAR) AS _user, CAST(variation_id AS VARCHAR) AS _arm,
           CAST(timestamp AS TIMESTAMP) AS _at
    FROM {exposures} AS _e WHERE CAST(experiment_id AS VARCHAR) = $experiment
        AND (_at IS NULL OR (_at >= $start AND _at < $until))),
exposed AS MATERIALIZED (
    SELECT _user, min(_at) AS _first, count(DISTINCT _arm) AS _arms, min(_arm) AS _arm
    FROM shown WHERE _user IS NOT NULL AND _arm IS NOT NULL AND _at IS NOT NULL GROUP BY _user),
unit AS MATERIALIZED (
    SELECT _user, _first, CASE _arm WHEN $control THEN 'control' ELSE 'candidate' END AS _arm
    FROM exposed WHERE _arms = 1 AND _arm IN ($control, $candidate))"""

_BLANK = ", ".join(["NULL"] * (1 + _SIZE + len(_PAIRS)))
_COUNTS = "\nUNION ALL\n".join(
    f"SELECT NULL AS metric, '{name}' AS arm, (SELECT count(*) FROM {condition}) AS users, {_BLANK}"
    for name, condition in {
        "control": "unit WHERE _arm = 'control'",
        "candidate": "unit WHERE _arm = 'candidate'",
        "crossed": "exposed WHERE _arms > 1",
        "unknown": "exposed WHERE _arms = 1 AND _arm NOT IN ($control, $candidate)",
        "unusable": "shown WHERE _user IS NULL OR _arm IS NULL OR _at IS NULL",
    }.items()
)
