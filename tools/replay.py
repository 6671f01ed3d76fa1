"""Replay: where two rankers would have put what a log shows at random, as weights for `offpolicy`.

A log holds what was shown, seldom what it was chosen from. Sets of candidates like a session's are made of
what other sessions were shown at random (`random_traffic`), and both rankers rank them. Averaged over all
sets of m that hold the shown item and m - 1 of M draws, the chance that it comes to its position p (0 is
the first) is hypergeometric: with b draws ranked below it, and 1/m the chance at which it was shown there,

    w = m · C(b, m-1-p) · C(M-b, p) / C(M, m-1)          which has mean 1 over items.

Positions count one by one (the item-position model; Li et al. 2018, "Offline evaluation of ranking policies
with click models"): what stands above changes neither an impression's reward nor whether it is reached. At
the first position nothing is assumed.

Limits: candidates must be drawn for everybody from one pool (where retrieval is personal, weights are off
balance, and `offpolicy` says so); rankers score each candidate alone; and neither may have been trained on
these rows. Sets are drawn with replacement, a real one has nothing twice: in small catalogues both rankings
are rated one or two percent low, their difference is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.data import Dataset, Period
from evorank.model.errors import ToolError
from evorank.model.system import Float32, Objective, Rows
from evorank.tools.offpolicy import OffPolicy, Target, estimate, too_few
from evorank.tools.random_traffic import RandomTraffic

__all__ = ["Score", "replay"]

Array = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
Score: TypeAlias = Callable[[Rows], Float32]
"""A ranker: Rows [n] -> finite float32 [n], higher is shown first."""

_DRAWS = 64
"""Candidates made for a session, at least; twice the real ones where that is more."""
_BLOCK = 1 << 16
_FOLDS = 5


def replay(
    dataset: Dataset,
    production: Score,
    candidate: Score,
    reward: Objective,
    *,
    candidates: int,
    top: int = 10,
    upto: Period = "validation",
    random: str = "is_rand = 1",
    position: str | None = "position",
    sessions: int = 4_000,
    seed: int = 0,
) -> OffPolicy:
    """Mean `reward` of an impression under both rankings, on what the log shows at random after training, to
    the end of `upto`.

    `candidates`: how many the rankers choose from. `random`: SQL over the log, trusted, that holds for
    impressions shown at random, each candidate with the same chance. `position`: the column with the place in
    the session; None: there is none, every impression is a first one. The first `top` positions count.
    A session is the rows of one user and moment; of more than `sessions`, so many are drawn. Each ranker
    scores max(64, 2 · `candidates`) rows for each. The same arguments give the same answer.

    Without estimates where there is too little support, with the reason. ToolError: scores that are not
    finite, or a reward that cannot be computed. LogError: `random` fails, or no such column.
    """
    if candidates < 2 or top < 1:
        raise ValueError(f"`candidates` must be at least 2 and `top` 1, got {candidates} and {top}")
    traffic = RandomTraffic.read(dataset, upto, random, position)
    why = too_few(traffic.people) or traffic.obstacle
    if why is not None:
        return OffPolicy.unknown(reward.label, len(traffic.rows), traffic.people, why)
    places, draws = min(top, candidates), max(_DRAWS, 2 * candidates)
    generator = np.random.default_rng(seed)
    some = generator.permutation(int(traffic.session.max()) + 1)[:sessions]
    counted = np.flatnonzero((traffic.place < places) & np.isin(traffic.session, some))
    below, terms, ranked = _ranked(
        traffic, counted, (production, candidate), candidates, places, draws, generator
    )
    place, users = traffic.place[counted], traffic.users[counted]
    rewards = np.asarray(dataset.labels(reward, upto)[traffic.rows[counted]], np.float64)
    at_shown, at_ranked = _modelled(rewards, users, place, terms, ranked)
    table = candidates * _chances(draws, candidates - 1, places)
    own, other = (Target(table[place, below[i]], at_shown, at_ranked[i]) for i in range(2))
    return estimate(rewards, users, own, other, reward.label)


def _ranked(
    traffic: RandomTraffic,
    counted: Numbers,
    rankers: tuple[Score, Score],
    candidates: int,
    places: int,
    draws: int,
    generator: np.random.Generator,
) -> tuple[Numbers, Array, Array]:
    """Of the `counted` impressions [n]: draws below them [2, n]; terms of the reward model [n, K]; and their
    means over what each ranker puts at the impression's position [2, n, K]."""
    # That a draw with b of the others below it is in the set, and comes to position p.
    chances = _chances(draws - 1, candidates - 1, places) * (candidates / draws)
    own = np.stack([_scores(rank, traffic.shown(counted)) for rank in rankers])
    centre, scale = own.mean(axis=1), np.maximum(own.std(axis=1), 1e-12)
    terms = _terms((own - centre[:, None]) / scale[:, None])
    below, ranked = np.zeros(own.shape, np.int64), np.zeros((*own.shape, terms.shape[-1]))
    _, first, member = np.unique(traffic.session[counted], return_index=True, return_inverse=True)
    order = np.argsort(member, kind="stable")
    bounds = np.searchsorted(member[order], np.arange(len(first) + 1))
    step = max(1, _BLOCK // draws)
    for start in range(0, len(first), step):
        stop = min(start + step, len(first))
        made = traffic.others(counted[first[start:stop]], draws, generator)
        scores = np.stack([_scores(rank, made).reshape(-1, draws) for rank in rankers])
        expected = _terms((scores - centre[:, None, None]) / scale[:, None, None])
        rows = order[bounds[start] : bounds[stop]]
        at, place = member[rows] - start, traffic.place[counted[rows]]
        for i in range(2):
            mine, others = own[i, rows, None], scores[i][at]
            ties = (others == mine).sum(axis=1)
            below[i, rows] = (others < mine).sum(axis=1) + generator.integers(0, ties + 1)
            by_score = np.argsort(scores[i], axis=1, kind="stable")
            in_order = np.take_along_axis(expected, by_score[:, :, None], axis=1)
            ranked[i, rows] = np.einsum("pm,smk->spk", chances, in_order)[at, place]
    return below, terms, ranked


def _scores(rank: Score, rows: Rows) -> Array:
    found = np.concatenate(
        [np.asarray(rank(rows[i : i + _BLOCK]), np.float64) for i in range(0, len(rows), _BLOCK)]
    )
    if found.shape != (len(rows),) or not np.isfinite(found).all():
        raise ToolError(f"scores must be {len(rows)} finite numbers, got shape {found.shape} or NaN.")
    return found


def _chances(draws: int, others: int, places: int) -> Array:
    """P(an item comes to position p among itself and `others` of `draws` draws, b of which are below it),
    [places, draws + 1]."""
    from scipy.special import gammaln

    def log_choose(n: Any, k: Any) -> Array:
        fits = (k >= 0) & (k <= n)
        n, k = np.where(fits, n, 0.0), np.where(fits, k, 0.0)
        return np.where(fits, gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1), -np.inf)

    b, p = np.arange(draws + 1.0), np.arange(float(places))[:, None]
    whole = log_choose(float(draws), float(others))
    return np.asarray(np.exp(log_choose(b, others - p) + log_choose(draws - b, p) - whole))


def _terms(scores: Array) -> Array:
    """What the reward may depend on: both standardised scores [2, ...], squared and multiplied [..., 6]."""
    a, b = np.clip(scores, -4.0, 4.0)
    return np.stack([np.ones_like(a), a, b, a * a, b * b, a * b], axis=-1)


def _modelled(
    rewards: Array, users: Numbers, place: Numbers, terms: Array, ranked: Array
) -> tuple[Array, Array]:
    """The reward by least squares on both scores and the position, each user's from the other folds' users:
    of what was shown [n], and its mean over what each ranker puts there [2, n]."""

    def design(found: Array) -> Array:
        return np.concatenate([found, found[..., :3] * place[:, None]], axis=-1)

    x, expected = design(terms), design(ranked)
    at_shown, at_ranked = np.empty(len(rewards)), np.empty((2, len(rewards)))
    for fold in range(_FOLDS):
        out = users % _FOLDS == fold
        weights = np.linalg.lstsq(x[~out], rewards[~out], rcond=1e-9)[0]
        at_shown[out], at_ranked[:, out] = x[out] @ weights, expected[:, out] @ weights
    return at_shown, at_ranked
