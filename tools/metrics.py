"""Offline metrics of a ranker from its raw predictions: vectorised numpy, no opinion on what is good enough.

Every function takes `predictions` and `labels` of shape [n] and, where it is per user, integer user codes
`users` [n]. Ties are treated fairly everywhere: equal predictions share their ranks, so a constant
prediction has AUC 0.5 and the NDCG of a random order, never that of the order of the rows.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.system import Loss

__all__ = [
    "auc",
    "calibration",
    "gauc",
    "gauc_by_user",
    "huber",
    "log_loss",
    "mse",
    "ndcg",
    "ndcg_by_user",
    "placements",
    "positives",
    "row_losses",
]

Float64: TypeAlias = npt.NDArray[np.float64]
Vector: TypeAlias = npt.NDArray[Any]

CLIP = 1e-7
"""Probabilities are kept this far from 0 and 1, so that one confident mistake costs at most 16 nats."""


def row_losses(predictions: Vector, labels: Vector, loss: Loss) -> Float64:
    """Loss of each impression [n], lower is better.

    "bce": nats (ln 2 is a coin flip), for labels in [0, 1] that may be fractions. "mse": squared units of
    the label. "huber": squared below one unit of error, linear above (Huber 1964, delta = 1).
    """
    p, y = np.asarray(predictions, np.float64), np.asarray(labels, np.float64)
    if loss == "bce":
        p = np.clip(p, CLIP, 1.0 - CLIP)
        return np.asarray(-(y * np.log(p) + (1.0 - y) * np.log1p(-p)))
    error = np.abs(p - y)
    if loss == "mse":
        return np.asarray(error**2)
    if loss == "huber":
        return np.asarray(np.where(error <= 1.0, 0.5 * error**2, error - 0.5))
    raise ValueError(f"loss must be bce, mse or huber, got {loss!r}")


def log_loss(predictions: Vector, labels: Vector) -> float:
    """Mean nats per impression, lower is better; ln 2 = 0.693 is a coin flip."""
    return float(row_losses(predictions, labels, "bce").mean())


def mse(predictions: Vector, labels: Vector) -> float:
    """Mean squared error, lower is better."""
    return float(row_losses(predictions, labels, "mse").mean())


def huber(predictions: Vector, labels: Vector) -> float:
    """Mean Huber loss with delta 1, lower is better."""
    return float(row_losses(predictions, labels, "huber").mean())


def positives(labels: Vector, loss: Loss) -> npt.NDArray[np.bool_]:
    """Positives for AUC and GAUC, bool [n]: label > 0.5 for "bce", above the mean otherwise."""
    threshold = 0.5 if loss == "bce" else float(np.mean(labels))
    return np.asarray(labels > threshold)


def auc(predictions: Vector, positive: Vector) -> float:
    """P(a positive is ranked above a negative), ties count half: 0.5 is chance, 1 perfect, nan for one class.

    The Mann-Whitney U statistic (Hanley & McNeil 1982).
    """
    return gauc(predictions, positive, np.zeros(len(positive), np.int64))


def gauc(predictions: Vector, positive: Vector, users: Vector) -> float:
    """AUC within each user, averaged with the users' impressions as weights (Zhu et al. 2017).

    Users whose impressions are all of one class say nothing and are skipped; nan where nobody is left.
    """
    values, weights = gauc_by_user(predictions, positive, users)
    return float(np.average(values, weights=weights)) if len(values) else float("nan")


def gauc_by_user(predictions: Vector, positive: Vector, users: Vector) -> tuple[Float64, Float64]:
    """AUC of each user with both classes, in the order of their codes, and how many impressions each has."""
    positive = np.asarray(positive, bool)
    if not len(positive):
        return np.empty(0), np.empty(0)
    order = np.lexsort((predictions, users))
    user, p, y = np.asarray(users)[order], np.asarray(predictions)[order], positive[order]
    group, start, size = _groups(_starts(user))
    _, tie_start, tie_size = _groups(_starts(user, p))
    # Ranks 1..size within the user; tied rows share the middle of the ranks they span.
    rank = np.repeat(tie_start + (tie_size + 1) / 2.0, tie_size) - start[group]
    ones = np.bincount(group, y, len(size))
    pairs = ones * (size - ones)
    wins = np.bincount(group, rank * y, len(size)) - ones * (ones + 1) / 2.0
    useful = pairs > 0
    return wins[useful] / pairs[useful], size[useful].astype(np.float64)


def placements(predictions: Vector, positive: Vector) -> Float64:
    """Where each row stands among those of the other class [n]: for a positive the share of negatives below
    it, for a negative the share of positives above it, ties count half. The mean over either class is the AUC
    (DeLong et al. 1988). nan where there is one class only."""
    positive = np.asarray(positive, bool)
    ones = int(positive.sum())
    zeros = len(positive) - ones
    among_all = _midranks(predictions)
    within = np.empty(len(positive))
    within[positive], within[~positive] = _midranks(predictions[positive]), _midranks(predictions[~positive])
    below = among_all - within
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(positive, below / np.float64(zeros), 1.0 - below / np.float64(ones))


def ndcg(predictions: Vector, labels: Vector, users: Vector, k: int = 10) -> float:
    """NDCG@k of each user's impressions ordered by prediction, mean over users: 1 is perfect.

    Gain is the label (negatives count 0), discount 1 / log2(rank + 1) (Järvelin & Kekäläinen 2002); tied
    predictions share the mean of their discounts (McSherry & Najork 2008). Users without any gain are
    skipped; nan where nobody is left.
    """
    values, _ = ndcg_by_user(predictions, labels, users, k)
    return float(values.mean()) if len(values) else float("nan")


def ndcg_by_user(predictions: Vector, labels: Vector, users: Vector, k: int = 10) -> tuple[Float64, Float64]:
    """NDCG@k of each user with any gain, in the order of their codes, and the weight of each, which is 1."""
    if not len(labels):
        return np.empty(0), np.empty(0)
    gain = np.maximum(np.asarray(labels, np.float64), 0.0)
    users = np.asarray(users)
    actual = _discounted(users, np.asarray(predictions, np.float64), gain, k)
    ideal = _discounted(users, gain, gain, k)
    useful = ideal > 0
    return actual[useful] / ideal[useful], np.ones(int(useful.sum()))


def calibration(predictions: Vector, labels: Vector) -> float:
    """Sum predicted / sum observed: 1 is calibrated, above 1 promises too much; nan for no observation."""
    observed = float(np.sum(labels, dtype=np.float64))
    return float(np.sum(predictions, dtype=np.float64)) / observed if observed else float("nan")


def _midranks(values: Vector) -> Float64:
    """Ranks from 1 [n]; equal values share the middle of the ranks that they span."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2.0)[place], np.float64)


def _starts(*keys: Vector) -> npt.NDArray[np.bool_]:
    """[n] True where any of the sorted keys changes."""
    change = np.zeros(len(keys[0]), bool)
    change[0] = True
    for key in keys:
        change[1:] |= key[1:] != key[:-1]
    return change


def _groups(change: npt.NDArray[np.bool_]) -> tuple[Vector, Vector, Vector]:
    """Group number of each row [n], and first row and size of each group [g]."""
    start = np.flatnonzero(change)
    return np.cumsum(change) - 1, start, np.diff(np.append(start, len(change)))


def _discounted(users: Vector, score: Float64, gain: Float64, k: int) -> Float64:
    """DCG@k of every user [g], users in the order of their codes."""
    order = np.lexsort((-score, users))
    user, s, gain = users[order], score[order], gain[order]
    group, start, size = _groups(_starts(user))
    tie, tie_start, tie_size = _groups(_starts(user, s))
    sums = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(1, k + 1) + 1.0))])
    before = tie_start - start[group[tie_start]]
    shared = (sums[np.minimum(before + tie_size, k)] - sums[np.minimum(before, k)]) / tie_size
    return np.asarray(np.bincount(group, gain * shared[tie], len(size)), np.float64)
