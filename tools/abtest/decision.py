"""The launch rule: what follows from a test, in one of three words, with the rule that fired.

    abort      the data cannot be trusted, or a guardrail is broken beyond what daily looking explains
    launch     at the horizon: a success metric is superior, every guardrail is non-inferior
    no_launch  at the horizon: anything else

The rule and its corrections are those of Schultzberg, Ankargren, Frånberg (2024): success metrics share the
error rate because any one suffices; guardrails do not, because all must pass. Before the horizon only `abort`
can happen: a test is never stopped because it looks good, and never because an estimate looks bad.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.effects import Effect, effect
from evorank.tools.abtest.guardrails import Look, look
from evorank.tools.abtest.plan import Metric, Plan
from evorank.tools.abtest.quality import Failure, check
from evorank.tools.abtest.sufficient import Statistics

__all__ = ["Decision", "Reading", "non_inferior", "read_daily", "read_horizon", "superior"]

Rule = Literal[
    "data_quality", "guardrail_broken", "no_superior_metric", "guardrail_not_shown", "superior_and_safe"
]


class Decision(BaseModel):
    """What follows, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    outcome: Literal["launch", "no_launch", "abort"]
    rule: Rule = Field(description="What fired first, in the order quality, guardrails, success")
    reason: str = Field(description="In words, with the numbers")


class Reading(BaseModel):
    """One day's reading of a live test, as the journal keeps it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    statistics: Statistics
    failures: list[Failure] = Field(description="What is wrong with the data")
    looks: list[Look] = Field(description="One for each guardrail")
    effects: list[Effect] = Field(description="Empty before the horizon: the north star is read once")
    decision: Decision | None = Field(description="None: the test goes on")


def superior(found: Effect, metric: Metric) -> bool:
    """The whole interval of the difference is on the good side of zero."""
    return found.low > 0 if metric.higher_is_better else found.high < 0


def non_inferior(found: Effect, metric: Metric) -> bool:
    """Harm beyond the margin is outside the interval of the lift; not shown where there is no lift."""
    if found.lift_low is None or found.lift_high is None or metric.margin is None:
        return False
    return (found.lift_low if metric.higher_is_better else -found.lift_high) > -metric.margin


def read_daily(plan: Plan, statistics: Statistics, history: Sequence[Look]) -> Reading:
    """Look at data quality and guardrails, and at nothing else. `history` holds all earlier looks, and
    `statistics` were read with `last` = `guardrails.before(history, until)`."""
    failures = check(plan, statistics)
    looks = [] if failures else [look(plan, metric, statistics, history) for metric in plan.guardrails]
    return Reading(
        statistics=statistics,
        failures=failures,
        looks=looks,
        effects=[],
        decision=_stop(failures, looks),
    )


def read_horizon(plan: Plan, statistics: Statistics, history: Sequence[Look]) -> Reading:
    """The final reading, once, at the planned horizon; `history` as for `read_daily`.

    ValueError before the horizon: peeking is what makes intervals lie.
    """
    if statistics.until < plan.end:
        raise ValueError(f"the horizon is {plan.end}, the data ends at {statistics.until}: not yet")
    daily = read_daily(plan, statistics, history)
    effects = [
        each
        for metric in plan.metrics
        if (each := effect(metric.name, statistics.metrics[metric.name], _level(plan, metric))) is not None
    ]
    decision = daily.decision or _conclude(plan, {each.metric: each for each in effects})
    return daily.model_copy(update={"effects": effects, "decision": decision})


def _level(plan: Plan, metric: Metric) -> float:
    """A metric in both roles has the wider interval: one interval, one story."""
    return plan.success_level if metric.success else plan.level


def _stop(failures: Sequence[Failure], looks: Sequence[Look]) -> Decision | None:
    if failures:
        told = " ".join(failure.reason for failure in failures)
        return Decision(outcome="abort", rule="data_quality", reason=f"The data cannot be trusted. {told}")
    broken = [each for each in looks if each.broken]
    if broken:
        told = "; ".join(str(each) for each in broken)
        return Decision(
            outcome="abort",
            rule="guardrail_broken",
            reason=f"Harm beyond the margin, after allowing for every look so far: {told}.",
        )
    return None


def _conclude(plan: Plan, effects: dict[str, Effect]) -> Decision:
    for metric in plan.guardrails:
        found = effects.get(metric.name)
        if found is None or not non_inferior(found, metric):
            seen = str(found) if found else f"{metric.name} has no estimate"
            return Decision(
                outcome="no_launch",
                rule="guardrail_not_shown",
                reason=f"Harm of more than {metric.margin:.2%} is not ruled out: {seen}.",
            )
    winners = [m for m in plan.successes if m.name in effects and superior(effects[m.name], m)]
    if not winners:
        told = "; ".join(str(effects.get(m.name) or f"{m.name} has no estimate") for m in plan.successes)
        return Decision(
            outcome="no_launch", rule="no_superior_metric", reason=f"No success metric is superior: {told}."
        )
    told = "; ".join(str(effects[m.name]) for m in winners)
    safe = "; ".join(str(effects[m.name]) for m in plan.guardrails)
    return Decision(
        outcome="launch",
        rule="superior_and_safe",
        reason=f"Superior: {told}. " + (f"Within the margin: {safe}." if safe else "No guardrail was set."),
    )
