"""How much the candidate changes a metric: difference and lift with their intervals. It does not decide.

A metric is R = mean(value) / mean(denominator) over the users of an arm (a plain mean has denominator 1).
Ratios are linearised (delta method; Deng, Knoblich, Lu 2018), which makes every metric a mean of one number
per user. CUPED (Deng, Xu, Kohavi, Walker 2013) subtracts what the pre-period predicts:

    a = R - θ · (pre - pooled pre),   pre = (R of the pre-period, share of users that have one)

with θ regressed within arms and pooled over them. The second covariate lets users without a pre-period differ
from the others instead of passing for users who did nothing; θ is about production's noise, so an effect of
the candidate cannot leak into it. Quantiles are Student's t with Welch-Satterthwaite degrees of freedom.

The interval of the lift a₁/a₀ - 1 is the delta method on log(a₁/a₀): it stays above -100%, and is
given only where both arms' means are clearly positive, more than three errors from zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.abtest.moments import Moments

if TYPE_CHECKING:
    from evorank.tools.abtest.sufficient import MetricStatistics

__all__ = ["Comparison", "Effect", "compare", "correlation", "effect"]

Array = npt.NDArray[np.float64]
_CLEAR = 3.0


@dataclass(frozen=True)
class Comparison:
    """Two arms, adjusted and ready for any contrast. Leading axes [...] are experiments."""

    control: Array
    """CUPED-adjusted metric of production [...]."""
    candidate: Array
    """The same of the candidate."""
    theta: Array
    """Coefficients of the two covariates [..., 2]; zeros without a pre-period."""
    forms: tuple[Array, Array]
    """Linear forms of COLUMNS whose means are (metric, covariates) but for a constant, per arm [..., 3,
    5]."""
    spread: tuple[Array, Array]
    """Their covariance over users, per arm [..., 3, 3]."""
    users: tuple[Array, Array]

    def weights(self, ratio: Any = 1.0) -> tuple[Array, Array]:
        """What each of the forms contributes to candidate - ratio * control, per arm [..., 3].

        The pooled pre-period mean is random as well; with a ratio other than 1 it does not cancel.
        """
        n0, n1 = self.users
        ratio = np.broadcast_to(np.asarray(ratio, np.float64), n0.shape)
        rest = (1.0 - ratio) / np.maximum(n0 + n1, 1.0)
        own, pre = (-ratio, np.ones_like(ratio)), (ratio + rest * n0, rest * n1 - 1.0)
        first, second = (
            np.concatenate([own[arm][..., None], pre[arm][..., None] * self.theta], axis=-1) for arm in (0, 1)
        )
        return first, second

    def contrast(self, ratio: Any = 1.0) -> tuple[Array, Array, Array]:
        """candidate - ratio * control, its standard error, and its degrees of freedom.

        1 gives the difference, 1 - margin the test of non-inferiority.
        """
        n0, n1 = self.users
        v0, v1 = (
            np.maximum(np.einsum("...i,...ij,...j->...", w, spread, w), 0.0) / np.maximum(n, 1.0)
            for w, spread, n in zip(self.weights(ratio), self.spread, self.users, strict=True)
        )
        below = v0**2 / np.maximum(n0 - 1.0, 1.0) + v1**2 / np.maximum(n1 - 1.0, 1.0)
        safe = np.where(below > 0, below, 1.0)
        degrees = np.where(below > 0, (v0 + v1) ** 2 / safe, np.maximum(n0 + n1 - 2.0, 1.0))
        return self.candidate - ratio * self.control, np.sqrt(v0 + v1), degrees

    def lift(self) -> tuple[Array, Array, Array]:
        """candidate / control - 1, the standard error of log(candidate / control), degrees of freedom.

        nan where a mean is not clearly positive: a share of nothing is not a number.
        """
        clear = np.ones_like(self.control, dtype=bool)
        for mean, n, spread in zip((self.control, self.candidate), self.users, self.spread, strict=True):
            clear &= mean > _CLEAR * np.sqrt(spread[..., 0, 0] / np.maximum(n, 1.0))
        ratio = np.where(clear, self.candidate, np.nan) / np.where(clear, self.control, np.nan)
        _, error, degrees = self.contrast(ratio)
        return ratio - 1.0, error / np.where(clear, self.candidate, np.nan), degrees


def compare(control: Moments, candidate: Moments, *, cuped: bool = True) -> Comparison:
    """Linearise both arms, pool θ over them, adjust. Without a pre-period θ is 0 and nothing changes."""
    (r0, j0), (r1, j1) = _linearised(control), _linearised(candidate)
    s0, s1 = (j @ arm.cov @ np.swapaxes(j, -1, -2) for j, arm in ((j0, control), (j1, candidate)))
    n0, n1 = control.n, candidate.n
    theta = np.zeros((*n0.shape, 2))
    if cuped:
        weight0, weight1 = (np.maximum(n - 1.0, 0.0)[..., None, None] for n in (n0, n1))
        pooled = (weight0 * s0 + weight1 * s1) / np.maximum(weight0 + weight1, 1.0)
        theta = _coefficients(pooled)
    total = np.maximum(n0 + n1, 1.0)[..., None]
    pre0, pre1 = r0[..., 1:], r1[..., 1:]
    common = (n0[..., None] * pre0 + n1[..., None] * pre1) / total
    adjusted = [r[..., 0] - ((r[..., 1:] - common) * theta).sum(axis=-1) for r in (r0, r1)]
    return Comparison(adjusted[0], adjusted[1], theta, (j0, j1), (s0, s1), (n0, n1))


def _linearised(arm: Moments) -> tuple[Array, Array]:
    """(metric, pre metric, has_pre) [..., 3] and their gradients in COLUMNS [..., 3, 5]."""
    value, denominator, pre, pre_denominator, has_pre = np.moveaxis(arm.mean, -1, 0)
    jacobian = np.zeros((*arm.mean.shape[:-1], 3, 5))
    found = []
    for row, (top, bottom) in enumerate(((value, denominator), (pre, pre_denominator))):
        held = bottom > 0
        safe = np.where(held, bottom, 1.0)
        ratio = np.where(held, top / safe, 0.0)
        jacobian[..., row, 2 * row] = np.where(held, 1.0 / safe, 0.0)
        jacobian[..., row, 2 * row + 1] = np.where(held, -ratio / safe, 0.0)
        found.append(ratio)
    jacobian[..., 2, 4] = 1.0
    return np.stack([*found, has_pre], axis=-1), jacobian


def _coefficients(spread: Array) -> Array:
    """Least squares of the metric on the covariates [..., 2]; a covariate that never varies gets 0."""
    scale = np.sqrt(np.maximum(np.diagonal(spread, axis1=-2, axis2=-1), 0.0))
    safe = np.where(scale > 0, scale, 1.0)
    correlation = spread / safe[..., :, None] / safe[..., None, :]
    inverse = np.linalg.pinv(correlation[..., 1:, 1:], rcond=1e-9, hermitian=True)
    standardised = (inverse @ correlation[..., 1:, :1])[..., 0]
    return np.asarray(standardised * safe[..., :1] / safe[..., 1:])


def correlation(control: Moments, candidate: Moments, ratio: Any = 1.0) -> Array:
    """Correlation of the contrast with itself at the look before [...]; nan where either has no variation.

    Moments of COLUMNS + LAST_COLUMNS. Users who were not exposed at the look before are new information, and
    so is what the others did since; how much, only the users themselves can tell.
    """
    found, before = compare(control.now, candidate.now), compare(control.last, candidate.last)
    shared, own, past = (np.zeros(control.n.shape) for _ in range(3))
    for arm, moments in enumerate((control, candidate)):
        # Influence of a user on the contrast: now g · columns / n, then h · last columns / (users of then).
        g = np.einsum("...i,...ij->...j", found.weights(ratio)[arm], found.forms[arm])
        h = np.einsum("...i,...ij->...j", before.weights(ratio)[arm], before.forms[arm])
        centre = -(h * moments.last.mean).sum(axis=-1)
        g = g / np.maximum(found.users[arm], 1.0)[..., None]
        h = np.concatenate([h, centre[..., None]], axis=-1) / np.maximum(before.users[arm], 1.0)[..., None]
        size, users = g.shape[-1], np.maximum(moments.n - 1.0, 0.0)
        blocks = (
            moments.cov[..., :size, size:],
            moments.cov[..., :size, :size],
            moments.cov[..., size:, size:],
        )
        shared += users * np.einsum("...i,...ij,...j->...", g, blocks[0], h)
        own += users * np.einsum("...i,...ij,...j->...", g, blocks[1], g)
        past += users * np.einsum("...i,...ij,...j->...", h, blocks[2], h)
    scale = np.sqrt(np.maximum(own, 0.0) * np.maximum(past, 0.0))
    return np.asarray(np.where(scale > 0, shared / np.where(scale > 0, scale, 1.0), np.nan))


class Effect(BaseModel):
    """One metric of one test, as the journal keeps it. Intervals are two-sided at `level`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: str
    level: float = Field(description="Confidence level of both intervals")
    users_control: int
    users_candidate: int
    control: float = Field(description="The metric in production, in its own unit, CUPED-adjusted")
    candidate: float = Field(description="The same for the candidate")
    difference: float = Field(description="candidate - control")
    low: float
    high: float
    lift: float | None = Field(description="candidate / control - 1; None unless both are clearly positive")
    lift_low: float | None
    lift_high: float | None
    p_value: float = Field(description="Two-sided, of no difference")
    variance_reduction: float = Field(description="Share of the variance that CUPED removed, 0..1")

    def __str__(self) -> str:
        sure = f"{100 * self.level:.4g}%"
        if self.lift is None or self.lift_low is None or self.lift_high is None:
            shown, ends = f"{self.difference:+.4g}", f"{self.low:+.4g} to {self.high:+.4g}"
        else:
            shown, ends = f"{self.lift:+.2%}", f"{self.lift_low:+.2%} to {self.lift_high:+.2%}"
        return f"{self.metric} {shown} ({sure} interval {ends})"


def effect(
    metric: str, statistics: MetricStatistics, level: float = 0.95, *, cuped: bool = True
) -> Effect | None:
    """The effect on one metric; None where an arm has fewer than two users or no user has a denominator."""
    from scipy.special import stdtr, stdtrit

    arms = statistics.control.moments, statistics.candidate.moments
    if min(arm.n for arm in arms) < 2 or min(arm.mean[1] for arm in arms) <= 0:
        return None
    found = compare(*arms, cuped=cuped)
    difference, error, degrees = (float(each) for each in found.contrast())
    lift, log_error, lift_degrees = (float(each) for each in found.lift())
    half = float(stdtrit(degrees, 0.5 + level / 2.0)) * error
    factor = math.exp(float(stdtrit(lift_degrees, 0.5 + level / 2.0)) * log_error) if lift == lift else None
    raw = float(compare(*arms, cuped=False).contrast()[1])
    p_value = 2.0 * float(stdtr(degrees, -abs(difference) / error)) if error > 0 else float(difference == 0)
    return Effect(
        metric=metric,
        level=level,
        users_control=statistics.control.users,
        users_candidate=statistics.candidate.users,
        control=float(found.control),
        candidate=float(found.candidate),
        difference=difference,
        low=difference - half,
        high=difference + half,
        lift=lift if factor is not None else None,
        lift_low=(1.0 + lift) / factor - 1.0 if factor is not None else None,
        lift_high=(1.0 + lift) * factor - 1.0 if factor is not None else None,
        p_value=p_value,
        variance_reduction=max(0.0, 1.0 - (error / raw) ** 2) if raw > 0 else 0.0,
    )
