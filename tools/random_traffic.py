"""What a log shows at random, and what else could have stood there: material for `replay`.

An item shown at random is a draw from what there was, and so are all others shown at random on that day.
Put into a session's place, with the session's features and their own, they are candidates that it might
have had. So it must be known whose a feature is, which is read off the data: an item's stays the same
wherever the item is shown that day, a session's whatever is shown in it. What is of both cannot be made up
for another item, and is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.data import Dataset, Period
from evorank.model.errors import LogError
from evorank.model.logs.sources import explained, unknown_column
from evorank.model.logs.sources import identifier as q
from evorank.model.system import Rows

__all__ = ["RandomTraffic"]

Numbers: TypeAlias = npt.NDArray[np.int64]
Owner: TypeAlias = Literal["session", "item", "position", "both"]

_POOL = 500
"""Impressions that a day's candidates are drawn from, at least; days beside it are taken in until there
are."""
_REPEATED, _TOLERANCE = 50, 0.01
"""Whose a feature is is read off so many rows at least, of which so few may disagree."""


@dataclass(frozen=True)
class RandomTraffic:
    """Impressions shown at random, in time order [n]."""

    rows: Numbers
    """Their row in the dataset."""
    encoded: Rows
    users: Numbers
    session: Numbers
    """Number of (user, moment), from 0."""
    item: Numbers
    """Number of (item, day)."""
    days: Numbers
    place: Numbers
    """Position in the session; 0 is the first."""
    positional: frozenset[str]
    """Features that are the position: rankers see every candidate at the first."""

    @classmethod
    def read(cls, dataset: Dataset, upto: Period, random: str, position: str | None) -> RandomTraffic:
        """The rows after training, to the end of `upto`, for which the trusted SQL `random` holds.
        `position`: a column of the log, or None where every impression is a first one. LogError: `random`
        fails, or no such column."""
        whole, held_out = slice(0, dataset.bounds[upto].stop), dataset.bounds["train"].stop
        if position is not None and position not in dataset.schema.columns:
            raise LogError(
                unknown_column("exploration.position", position, list(dataset.schema.columns))
                + " Keep it in the log (`keep`), or say that there is none."
            )
        place = "0" if position is None else f"CAST({q(position)} AS BIGINT)"
        with (
            dataset.connect(upto) as connection,
            explained("exploration.where", list(dataset.schema.columns)),
        ):
            found = connection.execute(
                f"SELECT row, epoch_us(time), dense_rank() OVER (ORDER BY {q(dataset.spec.item)}, day) "
                f"AS item, {place} AS place FROM log "
                f"WHERE row >= {held_out} AND ({random}\n) ORDER BY row"
            ).fetchnumpy()
        rows, moment, item, places = (np.ma.getdata(values).astype(np.int64) for values in found.values())
        users = np.asarray(dataset.users(whole)[rows], np.int64)
        reads = {f.name: getattr(f, "column", None) or f.name for f in dataset.spec.features}
        return cls(
            rows=rows,
            encoded=dataset.rows(whole)[rows],
            users=users,
            session=_numbers(np.stack([users, moment], axis=1)),
            item=item,
            days=np.asarray(dataset.days(whole)[rows], np.int64),
            place=places - (places.min() if len(places) else 0),
            positional=frozenset(name for name, column in reads.items() if column == position),
        )

    @property
    def people(self) -> int:
        """Users who were shown something at random."""
        return len(np.unique(self.users))

    @cached_property
    def owner(self) -> Mapping[str, Owner]:
        """Whose each feature is. Where a session is one impression, what is not the item's passes for its."""
        return {feature.name: self._owner(feature.name) for feature in self.encoded.features}

    @property
    def obstacle(self) -> str | None:
        """Why no other item can be put into a session's place, in a sentence; None where it can."""
        for name, owner in self.owner.items():
            if owner == "both":
                return (
                    f"feature {name!r} is of the user and the item together, or too little repeats to tell: "
                    "what it would be for another item is not in the log, so nothing can be replayed."
                )
        return None

    def shown(self, some: Numbers) -> Rows:
        """The impressions `some`, as rankers see them: at the first position."""
        return self._mixed(some, some)

    def others(self, some: Numbers, count: int, generator: np.random.Generator) -> Rows:
        """`count` candidates for the session of each of the impressions `some`, one after the other: drawn
        with replacement from what other sessions were shown at random on that day."""
        pick = np.empty((len(some), count), np.int64)
        for day in np.unique(self.days[some]):
            here = np.flatnonzero(self.days[some] == day)
            pool, mine = self._pools[int(day)], self.session[some[here], None]
            found = generator.choice(pool, (len(here), count))
            while (own := self.session[found] == mine).any():
                found[own] = generator.choice(pool, int(own.sum()))
            pick[here] = found
        return self._mixed(np.repeat(some, count), pick.reshape(-1))

    @cached_property
    def _pools(self) -> dict[int, Numbers]:
        """Impressions by day: that day's, or as many days around it as it takes."""
        enough, pools = min(_POOL, len(self.days)) - 1, {}
        for day in np.unique(self.days):
            away = np.abs(self.days - day)
            pools[int(day)] = np.flatnonzero(away <= np.partition(away, enough)[enough])
        return pools

    def _owner(self, name: str) -> Owner:
        if name in self.positional:
            return "position"
        values = self.encoded.column(name)
        codes = _numbers(values.reshape(len(values), -1))
        session, item = _varies(codes, self.session), _varies(codes, self.item)
        if session is None:
            return "both" if item is None else "item" if item <= _TOLERANCE else "session"
        if item is None:
            return "session" if session <= _TOLERANCE else "item"
        if min(session, item) > _TOLERANCE:
            return "both"
        return "session" if session <= item else "item"

    def _mixed(self, session: Numbers, item: Numbers) -> Rows:
        """Rows with the features of the impressions `session` and of the impressions `item`, [n] each."""
        first = np.flatnonzero(self.place == 0)[:1]
        source = {"session": session, "item": item, "position": np.repeat(first, len(session))}

        def taken(kind: str, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
            made = matrix[session]
            for column, feature in enumerate(self.encoded.of_kind(kind)):
                made[:, column] = matrix[source[self.owner[feature.name]], column]
            return made

        return Rows(
            self.encoded.features,
            taken("categorical", self.encoded.categorical),
            taken("numeric", self.encoded.numeric),
            {name: past[source[self.owner[name]]] for name, past in self.encoded.histories.items()},
        )


def _numbers(values: npt.NDArray[Any]) -> Numbers:
    """0, 1, ... for the distinct rows of `values` [n, k]."""
    return np.asarray(np.unique(values, axis=0, return_inverse=True)[1].reshape(-1), np.int64)


def _varies(codes: Numbers, group: Numbers) -> float | None:
    """Share of rows that differ from the first of their group, of those that are not; None of too few."""
    _, first, number = np.unique(group, return_index=True, return_inverse=True)
    lead = first[number.reshape(-1)]
    repeated = lead != np.arange(len(group))
    if np.count_nonzero(repeated) < _REPEATED:
        return None
    return float(np.mean(codes[repeated] != codes[lead[repeated]]))
