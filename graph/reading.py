"""reading: one day of a live test, from the platform's tables or from its own estimates, and what follows.

Tables are judged as planned (tools/abtest): sequential guardrails every day, the north star once. A platform
that hands out estimates only is read once, at the horizon, by its intervals; how it made them is kept too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from evorank.model.errors import PlatformError
from evorank.surfaces.platform import Estimate, Platform
from evorank.tools.abtest.decision import read_daily, read_horizon
from evorank.tools.abtest.guardrails import Look, before
from evorank.tools.abtest.plan import Metric, Plan, naive_utc
from evorank.tools.abtest.sufficient import collect, newest_row

__all__ = ["Seen", "read"]

DAY = timedelta(days=1)


@dataclass(frozen=True)
class Seen:
    """What one reading found, as JSON."""

    until: datetime
    users: list[int]
    """Exposed to production and to the candidate."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    looks: list[dict[str, Any]] = field(default_factory=list)
    effects: list[dict[str, Any]] = field(default_factory=list)
    decision: dict[str, Any] | None = None

    def as_record(self) -> dict[str, Any]:
        """What the journal keeps of every day."""
        return {
            "until": self.until.isoformat(),
            "users": self.users,
            "failures": self.failures,
            "looks": self.looks,
        }


def read(
    plan: Plan,
    platform: Platform,
    now: datetime,
    readings: Sequence[dict[str, Any]],
    *,
    conclude: bool = True,
) -> Seen:
    """Read the test up to `now`; `readings` are those before. PlatformError, LogError: it cannot be read.

    Whoever comes after the horizon reads up to the horizon. Without `conclude` only guardrails are looked at.
    Nothing is read before the last day's rows have arrived: late tables, or a clock that is ahead, would make
    a horizon of the days that there are.
    """
    until = min(naive_utc(now), plan.end) if conclude else naive_utc(now)
    estimates = platform.estimates(plan.experiment_id)
    if estimates is not None:
        return _of_estimates(plan, estimates, until, conclude)
    history = [Look.model_validate(look) for past in readings for look in past["looks"]]
    with platform.connect() as connection:
        newest = newest_row(connection, plan, until)
        if newest is not None and newest < until.replace(hour=0, minute=0, second=0, microsecond=0) - DAY:
            raise PlatformError(
                f"no metric table has a row after {newest:%Y-%m-%d %H:%M}, but it is to be read up to "
                f"{until:%Y-%m-%d %H:%M} (UTC). Are the tables late, or is the clock ahead? "
                "Nothing was read; the next tick tries again."
            )
        statistics = collect(connection, plan, platform.exposures, until, before(history, until))
    judge = read_horizon if conclude and until >= plan.end else read_daily
    found = judge(plan, statistics, history)
    return Seen(
        until,
        [statistics.users_control, statistics.users_candidate],
        [failure.model_dump(mode="json") for failure in found.failures],
        [look.model_dump(mode="json") for look in found.looks],
        [effect.model_dump(mode="json") for effect in found.effects],
        found.decision.model_dump(mode="json") if found.decision else None,
    )


def _of_estimates(plan: Plan, estimates: Sequence[Estimate], until: datetime, conclude: bool) -> Seen:
    """Judged at the horizon only: an interval that is read daily breaks its promise."""
    known = {estimate.metric: estimate for estimate in estimates}
    users = [
        max((getattr(each, f"users_{arm}") for each in estimates), default=0)
        for arm in ("control", "candidate")
    ]
    if not conclude or until < plan.end:
        return Seen(until, users)
    effects = [each.model_dump(mode="json") for each in estimates]
    missing = [metric.name for metric in plan.metrics if metric.name not in known]
    if missing:
        reason = f"The platform gives no estimate of {', '.join(missing)}, so nothing can be decided."
        return Seen(until, users, effects=effects, decision=_decision("abort", "data_quality", reason))
    narrow = [each.metric for each in estimates if each.level < plan.success_level - 1e-9]
    if narrow:
        reason = (
            f"The intervals of {', '.join(narrow)} are below the {plan.success_level:.1%} that "
            f"{len(plan.successes)} success metrics need. Set the platform's confidence level to it."
        )
        return Seen(until, users, effects=effects, decision=_decision("abort", "data_quality", reason))
    unsafe = [m for m in plan.guardrails if not _safe(known[m.name], m)]
    if unsafe:
        reason = f"Harm beyond the margin is not ruled out: {_told(known, unsafe)}."
        return Seen(
            until, users, effects=effects, decision=_decision("no_launch", "guardrail_not_shown", reason)
        )
    winners = [m for m in plan.successes if _superior(known[m.name], m)]
    if not winners:
        reason = f"No success metric is superior: {_told(known, plan.successes)}."
        return Seen(
            until, users, effects=effects, decision=_decision("no_launch", "no_superior_metric", reason)
        )
    reason = f"Superior: {_told(known, winners)}."
    return Seen(until, users, effects=effects, decision=_decision("launch", "superior_and_safe", reason))


def _superior(found: Estimate, metric: Metric) -> bool:
    return found.low > 0 if metric.higher_is_better else found.high < 0


def _safe(found: Estimate, metric: Metric) -> bool:
    assert metric.margin is not None
    return (found.low if metric.higher_is_better else -found.high) > -metric.margin


def _told(known: dict[str, Estimate], metrics: Sequence[Metric]) -> str:
    return "; ".join(
        f"{m.name} {known[m.name].lift:+.2%} ({known[m.name].low:+.2%} to {known[m.name].high:+.2%})"
        for m in metrics
    )


def _decision(outcome: str, rule: str, reason: str) -> dict[str, Any]:
    return {"outcome": outcome, "rule": rule, "reason": reason}
