"""The daily look at a guardrail: does the harm exceed its margin beyond what looking every day explains?

The null is that the candidate's harm is within the margin, relative to production. It is tested as
candidate - (1 - margin) · control (1 + margin where lower is better), which needs no division by production's
mean, against a group-sequential bound (`sequential`). A point estimate is never a reason to stop.

How much two looks have in common is measured on the users themselves (`effects.correlation`). Taking
1 / error² for information, as trials do, is wrong here: users keep entering and outcomes keep adding up, so a
new look is newer than its error tells, and 6.2% of A/A tests on active days were aborted instead of 5.1%
(`benchmarks/abtest.py`, both for 5%). Between looks further apart correlations are taken to multiply; that is
an approximation, and costs about 0.1 of those percent.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.effects import Comparison, compare
from evorank.tools.abtest.plan import Metric, Plan, naive_utc
from evorank.tools.abtest.sequential import boundaries, pocock_spending
from evorank.tools.abtest.sufficient import Statistics

__all__ = ["Look", "before", "grown", "harm", "look"]


class Look(BaseModel):
    """One guardrail on one day. Its history is all that the next look needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: str
    until: datetime = Field(description="Data before this moment (UTC) was read")
    fraction: float = Field(description="Calendar time used, 0..1")
    margin: float = Field(description="Relative harm that is acceptable")
    lift: float | None = Field(description="Estimate, candidate / production - 1; not a reason to stop")
    information: float | None = Field(
        description="Statistical time, 1 at the first tested look; None: too few users or no variation yet"
    )
    z: float | None = Field(description="Harm beyond the margin, in standard errors; positive is bad")
    bound: float | None = Field(description="z at or above it breaks the guardrail; None: not tested today")
    broken: bool

    def __str__(self) -> str:
        shown = f"{self.metric} {self.lift:+.2%}" if self.lift is not None else self.metric
        if self.z is None or self.bound is None:
            return f"{shown}, not tested today"
        return f"{shown}, z {self.z:.2f} against {self.bound:.2f} for harm beyond {self.margin:.2%}"


def before(history: Sequence[Look], until: datetime) -> datetime | None:
    """The `last` to read a test with: when it was looked at before `until`. A repeated tick finds what it
    found."""
    return max((past.until for past in history if past.until < naive_utc(until)), default=None)


def harm(found: Comparison, metric: Metric) -> npt.NDArray[np.float64]:
    """z of the harm beyond the metric's margin, positive is bad [...]; nan without variation."""
    beyond, error, _ = found.contrast(metric.threshold)
    return np.asarray(np.where(error > 0, -metric.sign * beyond / np.where(error > 0, error, 1.0), np.nan))


def grown(information: Any, memory: Any) -> npt.NDArray[np.float64]:
    """Information after a look whose z has the correlation `memory` with the look before, from that
    look's."""
    return np.asarray(information / np.clip(memory, 0.1, 1.0) ** 2)


def look(plan: Plan, metric: Metric, statistics: Statistics, history: Sequence[Look]) -> Look:
    """Look at one guardrail; `statistics` were read with `last` = `before(history, until)`."""
    if metric.margin is None:
        raise ValueError(f"{metric.name!r} has no margin, so it is not a guardrail")
    arms = statistics.metrics[metric.name]
    past = sorted(
        (each for each in history if each.metric == metric.name and each.until < statistics.until),
        key=lambda each: each.until,
    )
    tested = [(each.information, each.fraction) for each in past if each.information is not None]
    fraction = plan.fraction(statistics.until)
    lift = z = bound = information = None
    if min(arms.control.users, arms.candidate.users) >= plan.minimum_users:
        found = compare(arms.control.moments, arms.candidate.moments)
        score, estimate = float(harm(found, metric)), float(found.lift()[0])
        lift = estimate if math.isfinite(estimate) else None
        if math.isfinite(score):
            if tested and arms.memory is None:
                raise ValueError("a test that was looked at is read with `last` = before(history, until)")
            z = score
            information = float(grown(tested[-1][0], arms.memory)) if tested else 1.0
            path, clock = np.array([*tested, (information, fraction)]).T
            limit = float(boundaries(path, pocock_spending(clock, plan.guardrail_alpha))[-1])
            bound = limit if math.isfinite(limit) else None
    return Look(
        metric=metric.name,
        until=statistics.until,
        fraction=fraction,
        margin=metric.margin,
        lift=lift,
        information=information,
        z=z,
        bound=bound,
        broken=z is not None and bound is not None and z >= bound,
    )
