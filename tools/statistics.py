"""Is a candidate different from production, or is it noise? Paired differences with honest intervals.

Both arms train on the same rows with the same seeds and are scored on the same impressions. Two
independent things make the difference uncertain, and both are in the interval:

* data: other users would have come. Impressions of one user are not independent, so the variance is
  cluster-robust by user (Liang & Zeger 1986; Cameron & Miller 2015), with the effective number of
  clusters (sum n)^2 / sum n^2 (Kish 1965) less one as its degrees of freedom: ten heavy users are ten users.
* seeds: another initialisation and order would have trained other weights (Bouthillier et al. 2021):
  variance of the per-seed mean differences / number of seeds, with seeds - 1 degrees of freedom.

The variances add; the quantile is Student's t with Welch-Satterthwaite degrees of freedom (Satterthwaite
1946). The per-seed differences hold a little of the data part (rows react to seeds differently), so the
interval errs on the wide side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "cluster_error", "combine", "paired_difference", "seeds_needed", "t_quantile"]

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its two-sided confidence interval; errors are standard errors in the same unit."""

    estimate: float
    low: float
    high: float
    data_error: float
    seed_error: float
    degrees: float
    """Welch-Satterthwaite degrees of freedom of the interval."""

    @property
    def error(self) -> float:
        return math.hypot(self.data_error, self.seed_error)


def t_quantile(degrees: float, level: float = LEVEL) -> float:
    """Two-sided quantile of Student's t: 1.96 for many degrees of freedom, 3.18 for 3."""
    from scipy.special import stdtrit

    return float(stdtrit(max(degrees, 1.0), 0.5 + level / 2.0))


def cluster_error(values: npt.NDArray[Any], users: npt.NDArray[Any]) -> tuple[float, float]:
    """Cluster-robust standard error of `values.mean()` and its degrees of freedom; `users` are codes >= 0.

    (inf, 1) for fewer than two users: one user says nothing about others.
    """
    residual = np.asarray(values, np.float64) - np.mean(values, dtype=np.float64)
    size = np.bincount(users)
    total = np.bincount(users, residual, len(size))[size > 0]
    size = size[size > 0].astype(np.float64)
    clusters, rows = len(size), float(size.sum())
    if clusters < 2:
        return math.inf, 1.0
    variance = clusters / (clusters - 1.0) * float(total @ total) / rows**2
    return math.sqrt(variance), max(rows**2 / float(size @ size) - 1.0, 1.0)


def combine(
    estimate: float, data: tuple[float, float], seed: tuple[float, float], level: float = LEVEL
) -> Interval:
    """Interval from two independent (standard error, degrees of freedom) parts."""
    (data_error, data_degrees), (seed_error, seed_degrees) = data, seed
    if not (math.isfinite(data_error) and math.isfinite(seed_error)):
        return Interval(estimate, -math.inf, math.inf, data_error, seed_error, 1.0)
    variance = data_error**2 + seed_error**2
    below = data_error**4 / data_degrees + seed_error**4 / seed_degrees
    degrees = variance**2 / below if below > 0 else data_degrees + seed_degrees
    half = t_quantile(degrees, level) * math.sqrt(variance)
    return Interval(estimate, estimate - half, estimate + half, data_error, seed_error, degrees)


def paired_difference(
    differences: npt.NDArray[Any],
    users: npt.NDArray[Any],
    one_seed: tuple[float, float] | None = None,
    level: float = LEVEL,
) -> Interval:
    """Interval of the mean of `differences` (candidate - production) [seeds, rows]; `users` [rows].

    `one_seed` is (standard deviation, degrees of freedom) of a paired difference between seeds as known
    from elsewhere; it is needed, and only used, where there is one seed. ValueError without it.
    """
    per_seed = differences.mean(axis=1, dtype=np.float64)
    seeds = len(per_seed)
    if seeds > 1:
        seed = float(per_seed.std(ddof=1)) / math.sqrt(seeds), float(seeds - 1)
    elif one_seed is not None:
        seed = one_seed
    else:
        raise ValueError("one seed says nothing about the noise between seeds: give `one_seed`")
    return combine(float(per_seed.mean()), cluster_error(differences.mean(axis=0), users), seed, level)


def seeds_needed(interval: Interval, seeds: int, effect: float, level: float = LEVEL) -> int | None:
    """About how many seeds would make the half-width `effect`; None where the data alone is too noisy."""
    target = (effect / t_quantile(1e6, level)) ** 2 - interval.data_error**2
    if target <= 0 or not math.isfinite(interval.data_error):
        return None
    return max(seeds + 1, math.ceil(interval.seed_error**2 * seeds / target))
