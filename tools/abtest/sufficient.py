"""Sufficient statistics of a test from one DuckDB query over its exposure and metric tables.

All that the judgement needs of millions of users is, per arm and metric, a count, five means and their
covariances; no row leaves the warehouse. A user counts from their first exposure, in the arm they were
exposed to. Users exposed to both arms are dropped (and counted), since neither arm may claim them.

    exposures: user_id, timestamp (UTC), experiment_id, variation_id
    metrics:   user_id, timestamp (UTC), and the columns that a metric's SQL names
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.errors import LogError
from evorank.tools.abtest.effects import correlation
from evorank.tools.abtest.moments import COLUMNS, LAST_COLUMNS, Moments
from evorank.tools.abtest.plan import Metric, Plan, naive_utc
from evorank.tools.abtest.query import pairs, query

if TYPE_CHECKING:
    import duckdb

__all__ = ["ArmStatistics", "MetricStatistics", "Statistics", "collect", "newest_row"]


class ArmStatistics(BaseModel):
    """One metric in one arm."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    users: int = Field(ge=0, description="Exposed to this arm alone, with or without rows")
    with_rows: int = Field(ge=0, description="Of these, users with at least one row since their exposure")
    mean: list[float] = Field(description=f"Means per user of {', '.join(COLUMNS)}")
    cov: list[list[float]] = Field(description="Sample covariances of the same, users - 1 in the denominator")

    @classmethod
    def of(cls, moments: Moments, with_rows: int) -> ArmStatistics:
        return cls(
            users=int(moments.n), with_rows=with_rows, mean=moments.mean.tolist(), cov=moments.cov.tolist()
        )

    @property
    def moments(self) -> Moments:
        return Moments(np.asarray(float(self.users)), np.asarray(self.mean), np.asarray(self.cov))


class MetricStatistics(BaseModel):
    """One metric in both arms."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    control: ArmStatistics
    candidate: ArmStatistics
    memory: float | None = Field(
        default=None,
        description="Correlation of a guardrail's z with that of the look before: what looking again adds. "
        "None: there was no look before, or it had no variation. 0 is safe where it cannot be known",
    )


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


def collect(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    exposures: str,
    until: datetime,
    last: datetime | None = None,
) -> Statistics:
    """Read the test up to `until`, in one query. `last` is the `until` of the look before, if there was one.

    `exposures` is what stands behind FROM, trusted like the metrics' SQL. LogError: a table or column that is
    missing or of a wrong type, or values that are not finite.
    """
    import duckdb

    until = naive_utc(until)
    values: dict[str, Any] = {
        "experiment": plan.experiment_id,
        "start": plan.start,
        "until": until,
        "before": plan.start - timedelta(days=plan.pre_days),
        "control": plan.control,
        "candidate": plan.candidate,
    }
    size = len(COLUMNS)
    if last is not None:
        values["last"] = naive_utc(last)
        size += len(LAST_COLUMNS)
    try:
        rows = connection.execute(query(plan.metrics, exposures, size), values).fetchall()
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
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
        metrics={metric.name: _statistics(metric, found, size) for metric in plan.metrics},
    )


def newest_row(connection: duckdb.DuckDBPyConnection, plan: Plan, until: datetime) -> datetime | None:
    """Time (UTC) of the newest row before `until` in any metric table; None: there is none. LogError: a table
    is missing, or has no `timestamp`."""
    import duckdb

    moment = "CAST(_r.timestamp AS TIMESTAMP)"
    parts = [
        f"SELECT max({moment}) AS _at FROM {source} AS _r WHERE {moment} < $until"
        for source in dict.fromkeys(metric.source for metric in plan.metrics)
    ]
    try:
        row = connection.execute(
            f"SELECT max(_at) FROM ({' UNION ALL '.join(parts)})", {"until": naive_utc(until)}
        ).fetchone()
    except duckdb.Error as error:
        raise _unreadable(plan, error) from error
    return row[0] if row else None


def _unreadable(plan: Plan, error: Exception) -> LogError:
    return LogError(
        f"The tables of experiment {plan.experiment_id!r} cannot be read: {error}. Exposures need "
        "user_id, timestamp, experiment_id, variation_id; metrics user_id, timestamp and what "
        "their SQL names."
    )


def _statistics(
    metric: Metric, found: Mapping[tuple[str, str], Sequence[Any]], size: int
) -> MetricStatistics:
    """One metric's rows, without the columns of the look before: all they tell is one correlation."""
    (rows0, control), (rows1, candidate) = (
        _moments(metric.name, found.get((metric.name, arm)), size) for arm in ("control", "candidate")
    )
    memory = math.nan
    if size > len(COLUMNS) and metric.margin is not None:
        memory = float(correlation(control, candidate, metric.threshold))
    return MetricStatistics(
        control=ArmStatistics.of(control.now, rows0),
        candidate=ArmStatistics.of(candidate.now, rows1),
        memory=memory if math.isfinite(memory) else None,
    )


def _moments(metric: str, row: Sequence[Any] | None, size: int) -> tuple[int, Moments]:
    """Users with rows, and the moments, of one row of the query's answer; no row is no user."""
    if row is None:
        return 0, Moments(np.asarray(0.0), np.zeros(size), np.zeros((size, size)))
    users, with_rows, *numbers = row
    if not np.isfinite(numbers).all():
        raise LogError(
            f"Metric {metric!r} must be finite for every user; NULL counts as 0, infinity as nothing."
        )
    cov = np.zeros((size, size))
    for (i, j), value in zip(pairs(size), numbers[size:], strict=True):
        cov[i, j] = cov[j, i] = value * users / max(users - 1, 1)
    return with_rows, Moments(np.asarray(float(users)), np.asarray(numbers[:size]), cov)
