"""The daily look at a guardrail: does the harm exceed its margin beyond what looking every day explains?

The null is that the candidate's harm is within the margin, relative to production. It is tested as
candidate - (1 - margin) · control (1 + margin where lower is better), which needs no division by production's
mean, against a group-sequential bound (`sequential`). A point estimate is never a reason to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.effects import Comparison, compare
from evorank.tools.abtest.plan import Metric, Plan
from evorank.tools.abtest.sequential import boundaries, pocock_spending
from evorank.tools.abtest.sufficient import Statistics

__all__ = ["Look", "harm", "look"]


class Look(BaseModel):
    """One guardrail on one day. Its history is all that the next look needs."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: str
    until: datetime = Field(description="Data before this moment (UTC) was read")
    fraction: float = Field(description="Calendar time used, 0..1")
    margin: float = Field(description="Relative harm that is acceptable")
    lift: float | None = Field(description="Estimate, candidate / production - 1; not a reason to stop")
    information: float | None = Field(
        description="1 / (relative standard error)²; None: too few users or no variation yet, not tested"
    )
    z: float | None = Field(description="Harm beyond the margin, in standard errors; positive is bad")
    bound: float | None = Field(description="z at or above it breaks the guardrail; None: not tested today")
    broken: bool

    def __str__(self) -> str:
        shown = f"{self.metric} {self.lift:+.2%}" if self.lift is not None else self.metric
        if self.z is None or self.bound is None:
            return f"{shown}, not tested yet"
        return f"{shown}, z {self.z:.2f} of {self.bound:.2f} for harm beyond {self.margin:.2%}"


def harm(found: Comparison, metric: Metric) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(z, information) of the harm beyond the metric's margin; z is nan and information 0 without
    variation."""
    ratio = 1.0 - metric.sign * (metric.margin or 0.0)
    beyond, error, _ = found.contrast(ratio)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(error > 0, -metric.sign * beyond / error, np.nan)
        information = np.where(error > 0, (found.control / error) ** 2, 0.0)
    return z, information


def look(plan: Plan, metric: Metric, statistics: Statistics, history: Sequence[Look]) -> Look:
    """Look at one guardrail. Looks of `history` at or after `statistics.until` are ignored: a repeated tick
    finds what it found."""
    if metric.margin is None:
        raise ValueError(f"{metric.name!r} has no margin, so it is not a guardrail")
    arms = statistics.metrics[metric.name]
    before = sorted(
        (past for past in history if past.metric == metric.name and past.until < statistics.until),
        key=lambda past: past.until,
    )
    fraction = plan.fraction(statistics.until)
    lift = z = bound = information = None
    if min(arms.control.users, arms.candidate.users) >= plan.minimum_users:
        found = compare(arms.control.moments, arms.candidate.moments)
        score, known = (float(each) for each in harm(found, metric))
        estimate = float(found.lift()[0])
        lift = estimate if math.isfinite(estimate) else None
        if math.isfinite(score) and known > 0:
            z, information = score, known
            tested = [past for past in before if past.information is not None]
            path = np.array([*(past.information for past in tested), information], dtype=np.float64)
            clock = np.array([*(past.fraction for past in tested), fraction])
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
