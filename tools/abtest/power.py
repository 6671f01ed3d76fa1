"""What a test can see at all: the smallest effect it would find, and the days that a given effect takes.

Normal approximation on the scale of log(candidate / production), on which both arms have the same error if an
effect multiplies what users do: a lift L is found with probability `power` if |log(1 + L)| is at least
(z of level + z of power) · variation · sqrt(2 / users). Non-inferiority is the same with the margin as the
effect. What a user varies by comes from the surface's own past, CUPED included.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.effects import compare
from evorank.tools.abtest.moments import Moments
from evorank.tools.abtest.plan import Plan

__all__ = [
    "MetricPower",
    "PowerReport",
    "days_to_detect",
    "detectable",
    "plan_power",
    "power_of",
    "variation",
]


def variation(past: Moments, *, cuped: bool = True) -> float:
    """Standard deviation of one user's contribution over the mean, after CUPED, from past traffic.

    `past` describes users over as many days as the test will last. inf where the mean is not positive.
    """
    found = compare(past, past, cuped=cuped)
    if not float(found.control) > 0:
        return math.inf
    _, error, _ = found.contrast()
    return float(error) * math.sqrt(float(past.n) / 2.0) / float(found.control)


def detectable(variation: float, users: float, power: float = 0.8, level: float = 0.95) -> float:
    """Smallest true lift > 0 found with `power`; `users` per arm."""
    from scipy.special import ndtri

    if users <= 0:
        return math.inf
    needed = float(ndtri(0.5 + level / 2.0) + ndtri(power)) * variation * math.sqrt(2.0 / users)
    return math.expm1(needed) if needed < 100 else math.inf


def power_of(effect: float, variation: float, users: float, level: float = 0.95) -> float:
    """Probability that a true lift `effect` (> -1) is found, in its own direction; `users` per arm."""
    from scipy.special import ndtr, ndtri

    if users <= 0 or not math.isfinite(variation):
        return 0.0
    if variation == 0:
        return float(effect != 0)
    found = abs(math.log1p(effect)) / (variation * math.sqrt(2.0 / users))
    return float(ndtr(found - ndtri(0.5 + level / 2.0)))


def days_to_detect(
    effect: float, variation: float, arrivals: Sequence[float], power: float = 0.8, level: float = 0.95
) -> int | None:
    """Whole weeks, in days, until `effect` would be found; None if not within `arrivals`.

    arrivals[d] are the distinct users per arm seen within d + 1 days: traffic times coverage / 2, and
    concave, because users come back. `variation` is taken as constant; it falls with time for most metrics.
    """
    for day in range(7, len(arrivals) + 1, 7):
        if power_of(effect, variation, arrivals[day - 1], level) >= power:
            return day
    return None


class MetricPower(BaseModel):
    """One metric of a planned test."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: str
    role: str = Field(description="success or guardrail")
    users: int = Field(description="Per arm, expected at the horizon")
    variation: float | None = Field(description="Standard deviation of a user over the mean, after CUPED")
    variance_reduction: float = Field(description="What CUPED is expected to remove, 0..1")
    detectable: float | None = Field(description="Smallest lift found with the plan's power")
    wanted: float = Field(description="The lift to find (success), or to rule out (guardrail: its margin)")
    power: float = Field(
        description="Probability to find `wanted`, or to show harm below the margin if there is none"
    )
    days: int | None = Field(
        description="Whole weeks of this traffic that `wanted` takes; None: longer than known"
    )
    enough: bool

    def __str__(self) -> str:
        if self.detectable is None:
            return f"{self.metric}: its past has no positive mean, so nothing relative can be planned"
        need = f", {self.days} days would do" if self.days else ""
        aim = "find a lift of" if self.role == "success" else "rule out a lift of"
        return (
            f"{self.metric}: {self.power:.0%} to {aim} {self.wanted:+.2%} with {self.users} users per arm "
            f"(detectable: {self.detectable:.2%}{'' if self.enough else need})"
        )


class PowerReport(BaseModel):
    """Whether a planned test can answer its question. `underpowered` says why not, and is a reason to ask."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metrics: list[MetricPower]

    @property
    def underpowered(self) -> list[str]:
        return [str(metric) for metric in self.metrics if not metric.enough]


def plan_power(plan: Plan, past: dict[str, Moments], arrivals: Sequence[float], wanted: float) -> PowerReport:
    """Power of each metric of `plan` at its horizon, from the `past` of each, to find the lift `wanted`.

    `wanted` has the sign of a gain. `arrivals` as in `days_to_detect`, at least as long as the horizon. A
    metric that is success and guardrail is listed as both.
    """
    if len(arrivals) < plan.horizon_days:
        raise ValueError(
            f"`arrivals` must cover the {plan.horizon_days} days of the horizon, got {len(arrivals)}"
        )
    users = float(arrivals[plan.horizon_days - 1])
    found = []
    for metric in plan.metrics:
        own, raw = variation(past[metric.name]), variation(past[metric.name], cuped=False)
        roles = [("success", wanted, plan.success_level)] if metric.success else []
        roles += [("guardrail", metric.threshold - 1.0, plan.level)] if metric.margin is not None else []
        for role, target, level in roles:
            chance = power_of(target, own, users, level)
            smallest = detectable(own, users, plan.power, level)
            found.append(
                MetricPower(
                    metric=metric.name,
                    role=role,
                    users=int(users),
                    variation=own if math.isfinite(own) else None,
                    variance_reduction=1.0 - (own / raw) ** 2 if 0 < raw < math.inf else 0.0,
                    detectable=smallest if math.isfinite(smallest) else None,
                    wanted=target,
                    power=chance,
                    days=days_to_detect(target, own, arrivals, plan.power, level)
                    if np.isfinite(own)
                    else None,
                    enough=bool(chance >= plan.power),
                )
            )
    return PowerReport(metrics=found)
