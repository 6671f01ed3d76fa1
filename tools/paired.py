"""paired: how much two arms differ in metrics that decide nothing, each with its interval.

As in `tools/statistics.py`, two things make such a difference uncertain. Other seeds: the spread of the
per-seed differences. Other users: the linearised influence of each (for AUC the placements of DeLong et al.
1988, summed by user as Obuchowski 1997 does), on the mean prediction of each arm: its spread is that of the
mean over the seeds, at a fraction of the arithmetic. Nobody may pick a winner by these: they are many.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.tools import metrics
from evorank.tools.statistics import Interval, cluster_error, combine

__all__ = ["paired_metrics"]

Vector = npt.NDArray[Any]


def paired_metrics(
    candidate: Mapping[str, Sequence[float]],
    production: Mapping[str, Sequence[float]],
    predictions: tuple[Sequence[Vector], Sequence[Vector]],
    labels: Vector,
    positive: Vector,
    users: Vector,
) -> dict[str, Interval]:
    """Candidate - production of AUC, GAUC, NDCG and calibration, with 95% intervals.

    `candidate`, `production`: metric -> value with each seed, the same seeds, two at least; `predictions`: of
    both arms, [n] for each seed; `labels`, `positive`, `users` [n]: the same for both. A metric that is not
    defined on these rows, or whose noise is not known, is left out.
    """
    ours, theirs = (np.asarray(np.mean(arm, axis=0, dtype=np.float64)) for arm in predictions)
    errors: dict[str, Callable[[], tuple[float, float]]] = {
        "auc": lambda: _auc_error(ours, theirs, positive, users),
        "gauc": lambda: _mean_error(
            metrics.gauc_by_user(ours, positive, users), metrics.gauc_by_user(theirs, positive, users)
        ),
        "ndcg": lambda: _mean_error(
            metrics.ndcg_by_user(ours, labels, users), metrics.ndcg_by_user(theirs, labels, users)
        ),
        "calibration": lambda: _calibration_error(ours - theirs, labels, users),
    }
    found = {}
    for name, error in errors.items():
        differences = np.subtract(candidate[name], production[name])
        if not np.isfinite(differences).all():
            continue
        seed = float(differences.std(ddof=1)) / math.sqrt(len(differences))
        interval = combine(float(differences.mean()), error(), (seed, float(len(differences) - 1)))
        if math.isfinite(interval.error):
            found[name] = interval
    return found


def _auc_error(ours: Vector, theirs: Vector, positive: Vector, users: Vector) -> tuple[float, float]:
    """Each row's influence on the difference: its placement among the other class, against the mean."""
    share = np.where(positive, positive.mean(), 1.0 - positive.mean())
    influence = np.zeros(len(positive))
    for predictions, sign in ((ours, 1.0), (theirs, -1.0)):
        placed = metrics.placements(predictions, positive)
        influence += sign * (placed - placed[positive].mean()) / share
    return cluster_error(influence, users)


def _mean_error(ours: tuple[Vector, Vector], theirs: tuple[Vector, Vector]) -> tuple[float, float]:
    """Of a weighted mean over users: rows of one user share the user's difference."""
    values, weights = ours[0] - theirs[0], ours[1].astype(np.int64)
    return cluster_error(np.repeat(values, weights), np.repeat(np.arange(len(values)), weights))


def _calibration_error(difference: Vector, labels: Vector, users: Vector) -> tuple[float, float]:
    """Of a ratio of sums: predicted / observed."""
    observed = float(np.mean(labels, dtype=np.float64))
    ratio = float(np.mean(difference)) / observed
    return cluster_error((difference - ratio * labels) / observed, users)
