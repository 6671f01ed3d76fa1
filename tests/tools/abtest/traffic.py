"""Simulated live tests with a known truth, thousands at once: keen and idle users, new ones, moods, a ramp.

A user's daily visits are Poisson with a rate of their own (gamma: a few do much), of the day of the
week, and of a mood that moves slowly; a visit is disliked with a probability of their own. A third of the
users have no pre-period. Coverage is ramped, a user counts from their first visit after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from evorank.tools.abtest.moments import Moments

DAYS = 14
RAMP = np.array([0.1, 0.1, 0.5, 0.5] + [1.0] * (DAYS - 4))
WEEK = np.array([1.0, 0.9, 0.9, 0.95, 1.05, 1.3, 1.25])
METRICS = ("visits", "active_days", "dislike_rate")


@dataclass(frozen=True)
class Arm:
    """Moments of each metric after each day, with those of the day before [experiments, DAYS]."""

    metrics: dict[str, Moments]


def experiments(
    count: int,
    users: int = 500,
    *,
    visits: float = 0.0,
    dislikes: float = 0.0,
    seed: int = 0,
    only_last: bool = False,
    metrics: tuple[str, ...] = METRICS,
    chunk: int = 50,
) -> Iterator[tuple[Arm, Arm]]:
    """(control, candidate) of `count` tests, in chunks; `users` eligible per arm, true relative effects."""
    rng = np.random.default_rng(seed)
    for start in range(0, count, chunk):
        size = min(chunk, count - start)
        yield (
            _arm(rng, size, users, 0.0, 0.0, only_last, metrics),
            _arm(rng, size, users, visits, dislikes, only_last, metrics),
        )


def _arm(
    rng: np.random.Generator,
    size: int,
    users: int,
    visits: float,
    dislikes: float,
    only_last: bool,
    metrics: tuple[str, ...],
) -> Arm:
    shape = (size, users)
    rate = rng.gamma(0.8, 1.2, shape).astype(np.float32) + 0.05
    annoyed = rng.beta(1.0, 15.0, shape).astype(np.float32)
    old = rng.random(shape) < 2 / 3
    pre_visits = rng.poisson(rate * 14.0) * old
    pre_dislikes = rng.binomial(pre_visits, annoyed)
    place, mood = rng.random(shape), rng.normal(0.0, 0.3, shape).astype(np.float32)
    total = np.zeros((3, *shape), np.float32)  # visits, active days, dislikes
    exposed = np.zeros(shape, bool)
    found: dict[str, list[Moments]] = {metric: [] for metric in metrics}
    last = {metric: np.zeros((*shape, 6)) for metric in metrics}
    for day in range(DAYS):
        mood = 0.8 * mood + 0.18 * rng.standard_normal(shape, np.float32)
        today = rng.poisson(rate * np.exp(mood) * WEEK[day % 7])
        exposed |= (today > 0) & (place < RAMP[day])
        today *= exposed
        # Each visit brings another one, or is lost, with the probability of the effect: the truth is exact.
        today = today + rng.binomial(today, visits) if visits >= 0 else rng.binomial(today, 1.0 + visits)
        total += np.stack([today, today > 0, rng.binomial(today, annoyed * (1.0 + dislikes))])
        if only_last and day < DAYS - 1:
            continue
        one = np.ones(shape)
        columns_of = {
            "visits": (total[0], one, pre_visits, one, old),
            "active_days": (total[1], one, pre_visits, one, old),
            "dislike_rate": (total[2], total[0], pre_dislikes, pre_visits, old),
        }
        for metric in metrics:
            columns = columns_of[metric]
            now = np.stack([*columns, one], axis=-1) * exposed[..., None]
            table = now[..., :5] if only_last else np.concatenate([now[..., :5], last[metric]], axis=-1)
            products = np.swapaxes(table, -1, -2) @ table
            found[metric].append(Moments.from_sums(exposed.sum(axis=1), table.sum(axis=1), products))
            last[metric] = now
    return Arm({metric: _stack(moments) for metric, moments in found.items()})


def _stack(moments: list[Moments]) -> Moments:
    return Moments(*(np.stack([getattr(m, name) for m in moments], axis=1) for name in ("n", "mean", "cov")))
