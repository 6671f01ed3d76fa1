"""What a ranking would have earned on traffic that was shown something else: evidence, never an A/B result.

Impressions with known propensities can be reweighted to another ranking: w = P(it would have shown this item
here) / P(this item was shown here). Two estimators of the mean reward of an impression, on the same rows:

* SNIPS, sum(w r) / sum(w) (Swaminathan & Joachims 2015, "The self-normalized estimator for counterfactual
  learning"): needs no model, and no more than the right propensities;
* doubly robust, mean(q(π)) + sum(w (r - q)) / sum(w) (Dudík, Langford, Li 2011; its second part normalised as
  in SNIPS): q is a model of the reward and q(π) what it expects of the ranking. Right if either is right, and
  narrower the better q is. q must not have seen the users it is asked about (Chernozhukov et al. 2018).

Intervals are the delta method on each row's influence, summed by user (Liang & Zeger 1986), with Student's
t and as many degrees of freedom as users carry the variance (Satterthwaite 1946): few heavy weights are few
users. Weights are taken as known; in `replay` they come from the same rows, and 94 to 96 of 100 intervals
covered the truth.

What it cannot see: anything that comes after the impression. People scroll as they scrolled, and come back as
they came back, so a ranking that tires them looks as good as one that does not. It is blind to what the
surface exists for, hence may only stop a clear loser, and only on a reward that the surface stands for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.tools.statistics import t_quantile

__all__ = [
    "EFFECTIVE",
    "Estimate",
    "OffPolicy",
    "Target",
    "clear_loser",
    "doubly_robust",
    "estimate",
    "snips",
]

Array = npt.NDArray[np.float64]

EFFECTIVE = 100.0
"""Effective impressions below which an estimate is not given: of fewer, intervals do not cover."""
OFF_BALANCE = 3.5
"""Weights have mean 1 if the propensities are right. Farther from it than so many errors and DOUBT, they are
not."""
DOUBT = 0.1


@dataclass(frozen=True)
class Target:
    """One ranking, as the logged impressions [n] see it."""

    weights: Array
    """P(the ranking shows this item here) / P(it was shown here), >= 0 [n]."""
    at_shown: Array | None = None
    """q of the item that was shown [n]; None: no model, so no doubly robust estimate."""
    at_ranked: Array | None = None
    """Mean of q over what the ranking would have shown here [n]."""

    @property
    def effective(self) -> float:
        """How many impressions of its own these are worth (Kish 1965)."""
        squares = float(self.weights @ self.weights)
        return float(self.weights.sum()) ** 2 / squares if squares > 0 else 0.0


class Estimate(BaseModel):
    """The two rankings by one estimator; interval of the difference, two-sided at `level`."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    method: Literal["snips", "doubly robust"]
    production: float = Field(description="Mean reward of an impression under production's ranking")
    candidate: float
    difference: float = Field(description="candidate - production")
    low: float
    high: float
    error: float = Field(description="Standard error of the difference, by users")
    level: float

    def __str__(self) -> str:
        return (
            f"{self.candidate:.4g} against {self.production:.4g}, difference {self.difference:+.4g} "
            f"({self.level:.0%} interval {self.low:+.4g} to {self.high:+.4g}, {self.method})"
        )


class OffPolicy(BaseModel):
    """What replaying the log says of a candidate. No estimates where there is too little support."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    evidence: Literal["off-policy"] = "off-policy"
    reward: str = Field(description="What was summed: an expression over the log's columns")
    impressions: int = Field(description="Logged impressions whose propensity is known")
    users: int
    effective_production: float = Field(description="Impressions they are worth under production's ranking")
    effective_candidate: float
    estimates: tuple[Estimate, ...] = ()
    unsupported: str | None = Field(default=None, description="Why nothing is estimated, in a sentence")

    @classmethod
    def unknown(cls, reward: str, impressions: int, users: int, why: str) -> OffPolicy:
        """An answer without estimates."""
        return cls(
            reward=reward,
            impressions=impressions,
            users=users,
            effective_production=0.0,
            effective_candidate=0.0,
            unsupported=why,
        )

    def __str__(self) -> str:
        if self.unsupported is not None:
            return f"off-policy: {self.unsupported}"
        return f"off-policy, {self.reward} per impression: " + "; ".join(map(str, self.estimates))


def estimate(
    reward: Array,
    users: npt.NDArray[np.integer],
    production: Target,
    candidate: Target,
    name: str,
    level: float = 0.95,
) -> OffPolicy:
    """Both rankings on the same logged impressions: reward [n], user codes >= 0 [n].

    `unsupported` where either is worth fewer than EFFECTIVE impressions or users, or its weights are off
    balance. ValueError: values that are not finite, or arrays of different length.
    """
    reward = np.asarray(reward, np.float64)
    targets = (production, candidate)
    for each in (reward, users, *(t.weights for t in targets)):
        if each.shape != reward.shape or not np.isfinite(each).all():
            raise ValueError("rewards, users and weights must be finite and of one length")
    people = len(np.unique(users))
    if (why := _unsupported(users, people, targets)) is not None:
        found = OffPolicy.unknown(name, len(reward), people, why)
        effective = {"production": production.effective, "candidate": candidate.effective}
        return found.model_copy(update={f"effective_{arm}": worth for arm, worth in effective.items()})
    estimates = [_compared("snips", [snips(reward, t) for t in targets], users, level)]
    if all(t.at_shown is not None and t.at_ranked is not None for t in targets):
        robust = [doubly_robust(reward, t) for t in targets]
        estimates.append(_compared("doubly robust", robust, users, level))
    return OffPolicy(
        reward=name,
        impressions=len(reward),
        users=people,
        effective_production=production.effective,
        effective_candidate=candidate.effective,
        estimates=tuple(estimates),
    )


def snips(reward: Array, target: Target) -> tuple[float, Array]:
    """Mean reward under the ranking, and each row's influence on it [n] (mean 0)."""
    share = target.weights / target.weights.mean()
    value = float(np.mean(share * reward))
    return value, share * (reward - value)


def doubly_robust(reward: Array, target: Target) -> tuple[float, Array]:
    """The same with a model. ValueError where `target` has none."""
    if target.at_shown is None or target.at_ranked is None:
        raise ValueError("the doubly robust estimate needs a model of the reward")
    correction, influence = snips(reward - target.at_shown, target)
    expected = float(target.at_ranked.mean())
    return expected + correction, target.at_ranked - expected + influence


def clear_loser(found: OffPolicy, margin: float = 0.1) -> bool:
    """Whether the candidate may be blocked: by every estimator, the whole interval of the difference lies
    below -`margin` times production's reward. False without support.

    Only as good as the reward, of which more must be better: a candidate that gives up clicks for what people
    come back for loses clearly on clicks. Use what a success metric counts.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"`margin` must lie in [0, 1), got {margin}")
    return bool(found.estimates) and all(
        each.high < -margin * abs(each.production) for each in found.estimates
    )


def _compared(
    method: Literal["snips", "doubly robust"],
    found: list[tuple[float, Array]],
    users: npt.NDArray[np.integer],
    level: float,
) -> Estimate:
    (production, own), (candidate, other) = found
    error, degrees = _error(other - own, users)
    half = t_quantile(degrees, level) * error
    return Estimate(
        method=method,
        production=production,
        candidate=candidate,
        difference=candidate - production,
        low=candidate - production - half,
        high=candidate - production + half,
        error=error,
        level=level,
    )


def _error(influence: Array, users: npt.NDArray[np.integer]) -> tuple[float, float]:
    """Standard error by users of a mean whose rows have this influence, and its degrees of freedom."""
    squares = np.bincount(users, influence) ** 2
    people = len(np.unique(users))
    variance = float(squares.sum()) * people / max(people - 1, 1) / len(influence) ** 2
    fourth = float(squares @ squares)
    return math.sqrt(variance), max(float(squares.sum()) ** 2 / fourth, 1.0) if fourth > 0 else people - 1.0


def too_few(people: int) -> str | None:
    """Why so many users are too few to say anything, in a sentence; None where they are not."""
    if people == 0:
        return "no impression of the log was shown at random, so no other ranking can be told from it."
    if people < EFFECTIVE:
        return (
            f"{people} users were shown something at random, fewer than {EFFECTIVE:.0f}: not enough support."
        )
    return None


def _unsupported(users: npt.NDArray[np.integer], people: int, targets: tuple[Target, Target]) -> str | None:
    if (why := too_few(people)) is not None:
        return why
    for name, target in zip(("production", "the candidate"), targets, strict=True):
        if target.effective < EFFECTIVE:
            return (
                f"{len(users):,} impressions shown at random are worth {target.effective:.0f} of {name}'s "
                f"ranking, fewer than {EFFECTIVE:.0f}: not enough support."
            )
        mean = float(target.weights.mean())
        error, _ = _error(target.weights - mean, users)
        if abs(mean - 1.0) > max(DOUBT, OFF_BALANCE * error):
            return (
                f"the weights of {name}'s ranking have mean {mean:.2f} instead of 1: what was shown at "
                "random was not drawn as it was taken to be, so nothing can be reweighted."
            )
    return None
