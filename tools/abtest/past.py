"""What a test may be expected to see: its power, from the surface's own past and by the query that reads
tests.

The past stands for the test. It had no trend that the test will not have, is all that is assumed; a holiday
in either is not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.errors import LogError
from evorank.model.logs.sources import literal
from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.power import PowerReport, plan_power
from evorank.tools.abtest.sufficient import collect

if TYPE_CHECKING:
    import duckdb

__all__ = ["ExpectedPower", "expected_power"]


class ExpectedPower(BaseModel):
    """What a test can be expected to see, and what that expectation rests on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    report: PowerReport | None = Field(
        description="None: there is less than a week of past, so it is unknown"
    )
    window_days: int = Field(ge=0, description="Days of past traffic that stand for the test")
    pre_days: int = Field(ge=0, description="Days before these that stand for its pre-period (CUPED)")
    basis: str = Field(description="In a sentence, with what makes it pessimistic")

    @property
    def underpowered(self) -> list[str]:
        """Why the test may not answer its question; what is unknown is a reason to ask as well."""
        return [self.basis] if self.report is None else self.report.underpowered


def expected_power(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    slot_share: float,
    coverage: float | Sequence[float],
    wanted: float,
) -> ExpectedPower:
    """Power of `plan` as the traffic before `plan.start` suggests; the metrics' sources resolve in
    `connection`.

    The days just before the start stand for the test, and those before them for its pre-period: as long as
    the plan's own, users counted from their first row as they will be from their first exposure, by the very
    query that reads tests. `slot_share` is the share of all users in the test's slot; `coverage` the share of
    these that takes part, on every day or on the first, second ... (the last stays); two equal arms.

    Too little past errs on the safe side. A shorter pre-period explains less. Where not even the horizon is
    known, its whole weeks stand for it, without CUPED: a user varies less over a longer time, and nobody is
    added to the users seen by then. Below a week: unknown. LogError: a source that cannot be read.
    """
    known = _days_known(connection, plan)
    window = min(plan.horizon_days, known // 7 * 7)
    if window == 0:
        said = f"The metrics of this surface go back {known} days, less than a week: power is unknown."
        return ExpectedPower(report=None, window_days=0, pre_days=0, basis=said)
    pre = min(plan.pre_days, known - window) if window == plan.horizon_days else 0
    begin = plan.start - timedelta(days=window)
    past_plan = plan.model_copy(
        update={"experiment_id": "past", "start": begin, "horizon_days": window, "pre_days": pre}
    )
    seen = (
        "(SELECT _s.user_id, min(_s.timestamp) AS timestamp, 'past' AS experiment_id, "
        f"{literal(plan.control)} AS variation_id FROM ({_activity(plan, begin)}) AS _s GROUP BY _s.user_id)"
    )
    statistics = collect(connection, past_plan, seen, plan.start)
    past = {name: found.control.moments for name, found in statistics.metrics.items()}
    arrivals = _arrivals(connection, plan, begin, window, coverage) * slot_share / 2
    arrivals = np.concatenate([arrivals, np.full(plan.horizon_days - window, arrivals[-1])])
    short = []
    if window < plan.horizon_days:
        short.append(f"shorter than the {plan.horizon_days} days of the test, hence pessimistic")
    if pre < plan.pre_days:
        short.append(f"with {pre} instead of {plan.pre_days} days of pre-period, hence pessimistic")
    said = f"Measured on the {window} days before {plan.start:%Y-%m-%d}" + "".join(
        f", {why}" for why in short
    )
    return ExpectedPower(
        report=plan_power(plan, past, arrivals.tolist(), wanted),
        window_days=window,
        pre_days=pre,
        basis=said + ".",
    )


def _activity(plan: Plan, begin: datetime | None = None) -> str:
    """SQL of (user_id, timestamp) of everything any metric counts before the start: who came, and when.

    Tables that hold a row for every exposed user tell that; tables of rare events do only where there are no
    others.
    """
    expected = {metric.source for metric in plan.metrics if metric.rows_expected}
    sources = sorted(expected or {metric.source for metric in plan.metrics})
    when = f"CAST(timestamp AS TIMESTAMP) < TIMESTAMP {literal(str(plan.start))}"
    if begin is not None:
        when += f" AND CAST(timestamp AS TIMESTAMP) >= TIMESTAMP {literal(str(begin))}"
    return " UNION ALL ".join(
        "SELECT CAST(user_id AS VARCHAR) AS user_id, CAST(timestamp AS TIMESTAMP) AS timestamp "
        f"FROM {source} WHERE {when} AND user_id IS NOT NULL"
        for source in sources
    )


def _days_known(connection: duckdb.DuckDBPyConnection, plan: Plan) -> int:
    """Whole days before the start since the first row."""
    (first,) = _rows(connection, f"SELECT min(timestamp) FROM ({_activity(plan)})")[0]
    return 0 if first is None else (plan.start - first).days


def _arrivals(
    connection: duckdb.DuckDBPyConnection,
    plan: Plan,
    begin: datetime,
    window: int,
    coverage: float | Sequence[float],
) -> npt.NDArray[np.float64]:
    """Users exposed within d + 1 days, were the whole surface one slot [window].

    Who enters the coverage on day j is exposed when they next come: so the users who came on j or later are
    counted, once for each step of the ramp, with its height.
    """
    ramp = np.atleast_1d(np.asarray(coverage, np.float64))[:window]
    found = np.zeros(window)
    day = f"date_diff('day', TIMESTAMP {literal(str(begin))}::DATE, timestamp::DATE)"
    for start, step in enumerate(np.diff(ramp, prepend=0.0)):
        if step > 0:
            first = _rows(
                connection,
                f"SELECT least(first, {window - 1}), count(*) FROM (SELECT min({day}) AS first FROM "
                f"({_activity(plan, begin)}) WHERE {day} >= {start} GROUP BY user_id) GROUP BY 1",
            )
            came = np.bincount([row[0] for row in first], [row[1] for row in first], window)
            found += step * np.cumsum(came)
    return found


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    import duckdb

    try:
        return connection.execute(sql).fetchall()
    except duckdb.Error as error:
        raise LogError(
            f"The past of the metrics cannot be read: {error}. Their sources need user_id and timestamp."
        ) from error
