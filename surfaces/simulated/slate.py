"""From scores to what is seen: the best k candidates, exploration with its propensities, and how far one
scrolls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ToolError
from evorank.model.system import Float32
from evorank.surfaces.simulated.traffic import CandidateRows, Policy

__all__ = ["Slate", "reached", "slates"]


@dataclass(frozen=True)
class Slate:
    """What n sessions are shown, at most k videos each."""

    chosen: npt.NDArray[np.int64]
    """Candidates in the order shown, [n, k]."""
    propensity: Float32
    """Chance that this video was at this position, given the candidates, [n, k]."""
    random: npt.NDArray[np.bool_]
    """Sessions in which the policy was not asked, [n]."""


def slates(policy: Policy, rows: CandidateRows, size: int, coins: Float32) -> Slate:
    """The best `size` candidates by score; in a share `exploration` of sessions a random order instead.

    A random order puts each of m candidates at a position with chance 1 / m: a video's propensity there is
    exploration / m, plus 1 - exploration where the scores put it. coins: uniform [n, m + 1]. ToolError names
    a policy whose scores are not finite float32 [n, m].
    """
    n, m = rows.shape
    share = float(policy.exploration)
    if not 0 <= share <= 1:
        raise ToolError(f"{type(policy).__name__}.exploration must lie in [0, 1], got {share}.")
    scores = np.asarray(policy.score(rows), np.float32)
    if scores.shape != (n, m) or not np.isfinite(scores).all():
        what = f"shape {scores.shape}" if scores.shape != (n, m) else "NaN or infinity"
        raise ToolError(f"{type(policy).__name__}.score must return finite float32 [{n}, {m}], got {what}.")
    best = _top(scores, size)
    random = coins[:, m] < share
    chosen = np.where(random[:, None], _top(coins[:, :m], size), best)
    propensity = share / m + (1 - share) * (chosen == best)
    return Slate(chosen, propensity.astype(np.float32), random)


def reached(on: Float32, coins: Float32) -> npt.NDArray[np.bool_]:
    """Which positions are seen, [n, k]: the first always, a further one with the chance sigmoid(`on`) of the
    one before it. on, coins: [n, k]."""
    seen = np.ones(on.shape, np.bool_)
    goes_on = coins < 1 / (1 + np.exp(-on))
    np.logical_and.accumulate(goes_on[:, :-1], axis=1, out=seen[:, 1:])
    return seen


def _top(scores: Float32, size: int) -> npt.NDArray[np.int64]:
    """Columns of the `size` highest scores of each row, highest first; ties go to the first column."""
    order: npt.NDArray[np.int64] = np.argsort(-scores, axis=1, kind="stable")[:, :size]
    return order
