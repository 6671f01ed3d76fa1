"""How well a score of impressions agrees with the north star, within users. Correlation, not causation.

Is an item that a model rates highly an item after which its viewers do better than they themselves usually
do? At user level even the click rate correlates *positively* with retention (keen users click more and stay
longer) although optimising it destroys retention, so nothing between users may enter:

* outcome: the north star of the user's day, minus the user's own mean over the complete days of the view,
  minus the mean of that calendar day (weekdays, trends);
* score: of each impression, what *other* users' predictions say of the item: the mean over the item's
  impressions of (prediction - that user's mean prediction), the viewer's own left out. The viewer's mood of
  the day, which a model may read from the history and which also drives the outcome, cannot enter. Scores
  are of held-out impressions; outcomes of every day that is complete, since a horizon of a week seldom fits
  into a validation period (no model is trained on outcomes, and the viewer's own label is one of many);
* alignment: Pearson correlation over impressions of score and outcome, in [-1, 1], higher is better.

The user-day alternative (correlate a user's mean prediction of the day with the outcome, both demeaned by
user) is computed beside it as a diagnosis: it credits personalisation, which leave-one-user-out item means
cannot, but needs users with several complete days and lets the mood in. What can still go wrong: the logging
policy may show some items on days that are good anyway; many impressions share one day's outcome, so values
are small (0.02 is a lot); an outcome beyond the horizon is not seen. It ranks candidates; live tests decide.

Uncertainty: bootstrap over users (Field & Welsh 2007: clusters drawn whole), all scores on the same draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import duckdb
import numpy as np
import numpy.typing as npt
from scipy import sparse

from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.logs.sources import identifier

if TYPE_CHECKING:
    from evorank.model.data import Dataset
    from evorank.surfaces.surface import NorthStar

__all__ = ["Alignments", "Outcomes", "align", "outcomes"]

Vector: TypeAlias = npt.NDArray[Any]

DRAWS = 128
"""Their spread is known to 6%, which the interval allows for by its degrees of freedom."""
SEED = 20260210
FEWEST_USERS = 20
MOST_ROWS = 5_000_000
MOST_CELLS = 2_000_000
"""Of a table of items by draws: 16 MB each, of some ten."""


@dataclass(frozen=True)
class Outcomes:
    """Impressions `start` .. `start` + n - 1 of the log, with what came of them."""

    start: int
    user: npt.NDArray[np.intp]
    """User 0 .. u - 1, [n]."""
    item: npt.NDArray[np.intp]
    """Item 0 .. i - 1, [n]."""
    day: npt.NDArray[np.intp]
    """User-day 0 .. d - 1, [n]."""
    value: npt.NDArray[np.float64]
    """Outcome minus the user's and the day's mean, [n]; NaN where the horizon is not complete."""


@dataclass(frozen=True)
class Alignments:
    """Alignment of each score [s], its bootstrap draws [draws, s], and the user-day diagnosis [s]."""

    estimate: npt.NDArray[np.float64]
    draws: npt.NDArray[np.float64]
    user_day: npt.NDArray[np.float64]
    users: int
    rows: int


def outcomes(dataset: Dataset, north_star: NorthStar) -> Outcomes:
    """The north star of every impression (at most the last 5 million) until the end of validation.

    Days whose horizon is not over within that view are dropped. ConfigurationError where the SQL does not
    give one (user, day, value) per user and day; ToolError where too little is left to say anything.
    """
    stop = int(dataset.bounds["validation"].stop)
    start = max(0, stop - MOST_ROWS)
    user, item = identifier(dataset.spec.user), identifier(dataset.spec.item)
    query = f"""
    WITH given AS (SELECT * FROM ({north_star.sql.strip().rstrip(";")}) AS given("user", "day", "value")),
    complete AS (
        SELECT "user", CAST("day" AS DATE) AS "day", CAST("value" AS DOUBLE) AS "value" FROM given
        WHERE CAST("day" AS DATE) + {int(north_star.horizon_days)} <= (SELECT MAX(day) FROM log)
          AND "value" IS NOT NULL
    ),
    own AS (SELECT *, "value" - AVG("value") OVER (PARTITION BY "user") AS within FROM complete),
    outcome AS (SELECT *, within - AVG(within) OVER (PARTITION BY "day") AS residual FROM own)
    SELECT l.row, COALESCE(o.residual, 'nan'::DOUBLE) AS residual,
           DENSE_RANK() OVER (ORDER BY l.{user}) - 1 AS "user",
           DENSE_RANK() OVER (ORDER BY l.{item}) - 1 AS "item",
           DENSE_RANK() OVER (ORDER BY l.{user}, l.day) - 1 AS "user_day"
    FROM log l LEFT JOIN outcome o ON o."user" = l.{user} AND o."day" = CAST(l.day AS DATE)
    WHERE l.row >= {start}
    ORDER BY l.row
    """
    with dataset.connect("validation") as connection:
        # Averages that several threads add up differ in their last bits from call to call.
        connection.execute("SET threads = 1")
        try:
            found = connection.execute(query).fetchnumpy()
        except duckdb.Error as error:
            raise ConfigurationError(
                f"`north_star.sql` must be a SELECT over log returning (user, day, value): "
                f"{' '.join(str(error).split())[:400]}"
            ) from None
    columns = {name: np.asarray(np.ma.filled(column)) for name, column in found.items()}
    result = Outcomes(
        start,
        columns["user"].astype(np.intp),
        columns["item"].astype(np.intp),
        columns["user_day"].astype(np.intp),
        columns["residual"].astype(np.float64),
    )
    if len(result.user) != stop - start:
        raise ConfigurationError("`north_star.sql` must return one row per (user, day), got several.")
    told = np.isfinite(result.value)
    users = len(np.unique(result.user[told]))
    if users < FEWEST_USERS or not result.value[told].any():
        raise ToolError(
            f"`north_star.sql` says too little here: {users} users have an outcome whose horizon of "
            f"{north_star.horizon_days} days ends within the validation period; {FEWEST_USERS} are needed, "
            "with values that vary. Shorten the horizon, or lengthen the validation period."
        )
    return result


def align(scores: Sequence[Vector], found: Outcomes, rows: slice, draws: int = DRAWS) -> Alignments:
    """Alignment of each of `scores` with the outcomes, with draws over users; a score is of `rows` of the
    log."""
    users = int(found.user.max()) + 1
    pairs, pair = np.unique(found.user * (found.item.max() + 1) + found.item, return_inverse=True)
    pair_user, pair_item = np.divmod(pairs, found.item.max() + 1)
    told = np.isfinite(found.value)
    value = np.where(told, found.value, 0.0)
    count, outcome, square = (np.bincount(pair, each, len(pairs)) for each in (told, value, value**2))
    first = max(rows.start, found.start)
    scored = slice(first - found.start, rows.stop - found.start)
    user, scored_pair = found.user[scored], pair[scored]
    rated = np.bincount(scored_pair, minlength=len(pairs)).astype(np.float64)
    sums = []
    diagnosis = []
    for score in scores:
        values = np.asarray(score, np.float64)[first - rows.start :]
        within = values - (np.bincount(user, values) / np.maximum(np.bincount(user), 1))[user]
        sums.append(np.bincount(scored_pair, within, len(pairs)))
        diagnosis.append(_user_day(values, user, found.day[scored], found.value[scored]))
    item = pair_item.astype(np.intp)
    table = _Pairs(pair_user, item, count, outcome, square, rated, np.stack(sums, axis=1))
    rng = np.random.default_rng(SEED)
    drawn = [np.bincount(rng.integers(0, users, users), minlength=users) for _ in range(draws)]
    correlations = table.correlations(np.stack([np.ones(users), *drawn], axis=1))
    return Alignments(correlations[0], correlations[1:], np.array(diagnosis), users, int(told.sum()))


class _Pairs:
    """Sums over the impressions of each (user, item) pair [p]: with an outcome, and with scores [p, s].

    Most pairs with an outcome have no score: the viewer saw the item before the scored rows. What others say
    of it is then a matter of the item alone, so these pairs are summed by item, for many draws at once; only
    the pairs that have both are taken one by one.
    """

    def __init__(
        self,
        user: Vector,
        item: Vector,
        count: Vector,
        outcome: Vector,
        square: Vector,
        rated: Vector,
        scores: Vector,
    ) -> None:
        self.items, self.users = int(item.max()) + 1, int(user.max()) + 1
        both = (rated > 0) & (count > 0)

        def by_item(values: Vector, of: Vector) -> sparse.csr_array:
            return sparse.csr_array(
                (values[of].astype(np.float64), (item[of], user[of])), shape=(self.items, self.users)
            )

        apart = (count > 0) & ~both
        self._apart = [by_item(each, apart) for each in (count, outcome, square)]
        self._rated = by_item(rated, rated > 0)
        self._scores = [by_item(column, rated > 0) for column in scores.T]
        self._user, self._item = user[both], item[both]
        self._both = [each[both, None].astype(np.float64) for each in (count, outcome, square, rated)]
        self._own = [column[both, None] for column in scores.T]
        self.together = max(1, int(MOST_CELLS / max(self.items, len(self._user), 1)))
        """Draws that fit into memory at once."""

    def correlations(self, weights: Vector) -> Vector:
        """Impression-weighted correlations [d, s] where user u counts `weights[u, d]` times; nan without
        variance."""
        parts = range(0, weights.shape[1], self.together)
        return np.concatenate([self._some(weights[:, place : place + self.together]) for place in parts])

    def _some(self, weights: Vector) -> Vector:
        weights = np.ascontiguousarray(weights, np.float64)
        rated = self._rated @ weights
        seen = rated > 0.5
        of_item = [np.where(seen, each @ weights, 0.0) for each in self._apart]
        copies = weights[self._user]
        # All copies of the viewer are left out, so that no user's own outcome meets their own prediction.
        left = rated[self._item] - copies * self._both[3]
        usable = (left > 0.5) & (copies > 0)
        of_pair = [np.where(usable, copies * each, 0.0) for each in self._both[:3]]
        total, y_sum, y_square = (
            a.sum(axis=0) + b.sum(axis=0) for a, b in zip(of_item, of_pair, strict=True)
        )
        some = total > 0
        total = np.where(some, total, 1.0)
        y_mean = y_sum / total
        y_variance = y_square / total - y_mean**2
        result = np.full((weights.shape[1], len(self._scores)), np.nan)
        for column, (scores, own) in enumerate(zip(self._scores, self._own, strict=True)):
            said = scores @ weights
            x_item = np.where(seen, said / np.where(seen, rated, 1.0), 0.0)
            x_pair = np.where(usable, (said[self._item] - copies * own) / np.where(usable, left, 1.0), 0.0)
            xs = ((x_item, of_item), (x_pair, of_pair))
            x_mean = sum((x * of[0]).sum(axis=0) for x, of in xs) / total
            x_variance = sum((x**2 * of[0]).sum(axis=0) for x, of in xs) / total - x_mean**2
            covariance = sum((x * of[1]).sum(axis=0) for x, of in xs) / total - x_mean * y_mean
            scale = x_variance * y_variance
            told = some & (scale > 1e-30)
            result[told, column] = covariance[told] / np.sqrt(scale[told])
        return result


def _user_day(values: Vector, users: Vector, user_days: Vector, outcome: Vector) -> float:
    """Correlation over user-days of mean score and outcome, both demeaned by user; a diagnosis."""
    told = np.isfinite(outcome)
    if not told.any():
        return float("nan")
    _, first, day = np.unique(user_days[told], return_index=True, return_inverse=True)
    n = np.bincount(day)
    x, y = (np.bincount(day, each[told]) / n for each in (values, outcome))
    user = np.unique(users[told][first], return_inverse=True)[1]
    days = np.bincount(user)
    x, y = (each - (np.bincount(user, each) / days)[user] for each in (x, y))
    keep = days[user] > 1
    scale = float(np.sqrt((x[keep] ** 2).sum() * (y[keep] ** 2).sum()))
    return float((x[keep] * y[keep]).sum() / scale) if scale > 1e-15 else float("nan")
