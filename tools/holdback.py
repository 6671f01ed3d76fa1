"""The audit of all launches together: users whom no launch ever reached, against everybody else.

Each launch was justified by a test of its own, read once; winners' estimates are biased upwards (only those
that looked good were launched), and gains may fade. The holdback answers what the surface gained in total:
the same statistics as a test's (`abtest`), over all time since the first launch, with one arm small.

Its limits: the lift is the average since the first launch, so a recent launch counts for its time only. The
interval is that of one look: whoever watches it daily will see it exclude zero too often. Metrics do not
share the error rate, because nothing is decided here. Candidates are live for some of the rest, and count
with it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from evorank.model.logs.sources import literal
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import HOLDBACK
from evorank.tools.abtest.effects import Effect, effect
from evorank.tools.abtest.plan import Plan, naive_utc
from evorank.tools.abtest.quality import Failure, check
from evorank.tools.abtest.sufficient import collect

if TYPE_CHECKING:
    import duckdb

__all__ = ["Audit", "audit"]


class Audit(BaseModel):
    """What all launches gained together, as `report` shows it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    since: datetime = Field(description="The first launch (UTC)")
    until: datetime
    users_holdback: int
    users_rest: int
    effects: list[Effect] = Field(
        description="One for each success metric: `control` is the holdback, `candidate` everybody else"
    )
    failures: list[Failure] = Field(
        description="What is wrong with the data; then no effect is to be believed"
    )

    def __str__(self) -> str:
        if self.failures:
            return "Not to be believed: " + " ".join(failure.reason for failure in self.failures)
        told = "; ".join(str(each) for each in self.effects) or "too few users to say anything"
        days = (self.until - self.since).days
        return f"Over {days} days, {self.users_rest} users against {self.users_holdback} held back: {told}."


def audit(
    connection: duckdb.DuckDBPyConnection,
    online: Online,
    exposures: str,
    since: datetime,
    until: datetime,
    first_test: datetime | None = None,
    level: float = 0.95,
) -> Audit:
    """Cumulative lift of the rest over the holdback from `since` (the first launch) to `until`.

    `exposures` and the metrics' sources resolve in `connection`, as in `abtest.sufficient.collect`; both
    arms must be exposed alike, at each user's first visit after `since`, else the sample ratio says so. A
    user counts from that visit.

    CUPED by the `online.pre_days` before `first_test`, when the loop had not touched anybody. Give it: tests
    showed what was launched to many of the rest before, and a pre-period that holds a gain takes it away
    again. None: there was no test before `since`. Intervals are two-sided at `level`, each on its own.

    ValueError: a surface without holdback, or times in another order. LogError: tables that cannot be read.
    """
    if online.holdback <= 0:
        raise ValueError("the surface has no holdback: nobody is left to compare with")
    since, until = naive_utc(since), naive_utc(until)
    touched = naive_utc(first_test) if first_test is not None else since
    if not touched <= since < until:
        raise ValueError(
            f"the first test, the first launch and `until` must come in this order, got {touched}, {since} "
            f"and {until}"
        )
    day = timedelta(days=1)
    plan = Plan(
        experiment_id=HOLDBACK,
        start=since,
        horizon_days=7 * max(1, -(-(until - since) // (7 * day))),
        pre_days=online.pre_days + -(-(since - touched) // day) if online.pre_days else 0,
        metrics=tuple(_without(metric, touched, since) for metric in online.metrics if metric.success),
        level=level,
    )
    statistics = collect(connection, plan, exposures, until)
    found = (effect(name, each, level) for name, each in statistics.metrics.items())
    return Audit(
        since=since,
        until=until,
        users_holdback=statistics.users_control,
        users_rest=statistics.users_candidate,
        effects=[each for each in found if each is not None],
        failures=check(plan, statistics, online.holdback, ("the holdback", "the rest")),
    )


def _without(metric: Metric, begin: datetime, end: datetime) -> Metric:
    """The metric without its rows of [begin, end): of whole days, where a row is a day."""
    if begin == end:
        return metric
    if metric.grain == "day":
        begin, end = (each.replace(hour=0, minute=0, second=0, microsecond=0) for each in (begin, end))
    during = (
        f"CAST(timestamp AS TIMESTAMP) >= TIMESTAMP {literal(str(begin))} "
        f"AND CAST(timestamp AS TIMESTAMP) < TIMESTAMP {literal(str(end))}"
    )
    return metric.model_copy(update={"source": f"(SELECT * FROM {metric.source} WHERE NOT ({during}))"})
