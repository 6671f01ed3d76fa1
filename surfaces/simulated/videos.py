"""The videos of a world: topic, author, length, and what nobody sees: direction, quality, bait.

A video is a function of (seed, id). Ids count upwards; `videos` of them live at once in slots (id modulo
their number), so memory stays as it is while new ones arrive. What is popular is given, not made by users:
one user's behaviour never reaches another, so an A/B test in this world has no interference.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32
from evorank.surfaces.simulated import dice
from evorank.surfaces.simulated.parameters import Catalogue

__all__ = ["STYLES", "Videos"]

STYLES = 6
"""Classes of `title_style`, which hints at bait."""
_TABLE = 2048


class Videos:
    """All videos of one day by slot [v]: `video_id`, `topic`, `author`, `style`, `duration_s`, `born` (day),
    and the latent `vector` [v, d], `quality`, `bait`."""

    def __init__(self, parameters: Catalogue, seed: int) -> None:
        self.parameters, self.seed = parameters, seed
        size, wide = parameters.videos, parameters.dimensions
        topics = dice.stream(seed, "topic", np.arange(parameters.topics))
        self.topic_vector = dice.normal(topics, wide)
        share = np.arange(1, parameters.topics + 1) ** -0.5
        self.topic_cumulative = np.cumsum(share / share.sum())
        authors = dice.stream(seed, "author", np.arange(parameters.authors))
        drawn = dice.normal(authors, wide + 2)
        self._author_vector, self._author_quality, self._author_bait = (
            drawn[:, :wide],
            drawn[:, wide],
            drawn[:, wide + 1],
        )
        home = dice.uniform(dice.stream(seed, "author topic", np.arange(parameters.authors)), 1)[:, 0]
        self._author_topic = self._topic(home)
        self.video_id = np.zeros(size, np.int64)
        self.topic, self.author, self.style, self.born = (np.zeros(size, np.int32) for _ in range(4))
        self.duration_s, self.quality, self.bait, self.weight = (np.zeros(size, np.float32) for _ in range(4))
        self.vector = np.zeros((size, wide), np.float32)
        self.newest, self.day = 0, 0
        self._table: npt.NDArray[np.int32] | None = None
        self._add(np.arange(size), 0)

    def advance_to(self, day: int) -> None:
        """Let the uploads of the days up to `day` arrive; what they replace is the oldest."""
        first = self.newest
        stop = self.parameters.videos + day * self.parameters.new_per_day
        self._add(np.arange(max(first, stop - self.parameters.videos), stop), day)

    def _add(self, ids: npt.NDArray[np.int64], day: int) -> None:
        self.day = day
        self.newest = int(ids[-1]) + 1 if len(ids) else self.newest
        self._make(ids)
        self._table = None

    def _make(self, ids: npt.NDArray[np.int64]) -> None:
        p, slot = self.parameters, ids % self.parameters.videos
        one = dice.uniform(dice.stream(self.seed, "video", ids), 4)
        latent = dice.normal(dice.stream(self.seed, "latent", ids), p.dimensions + 4)
        author = (one[:, 0] * p.authors).astype(np.int32)
        topic = np.where(one[:, 1] < 0.7, self._author_topic[author], self._topic(one[:, 2]))
        own = 1 - p.topic_share - p.author_share
        direction = (
            np.sqrt(p.topic_share) * self.topic_vector[topic]
            + np.sqrt(p.author_share) * self._author_vector[author]
            + np.sqrt(own) * latent[:, 4:]
        )
        quality = _blend(self._author_quality[author], latent[:, 0], p.author_consistency)
        bait = _blend(self._author_bait[author], latent[:, 1], p.author_consistency)
        bait = _blend(-quality, bait, p.bait_against_quality**2)
        hint = 0.6 * bait + 0.8 * latent[:, 2]
        self.video_id[slot], self.topic[slot], self.author[slot] = ids, topic, author
        self.vector[slot] = direction / np.sqrt(p.dimensions)
        self.quality[slot], self.bait[slot] = quality, bait
        self.style[slot] = np.clip(np.floor(hint * 1.2 + STYLES / 2), 0, STYLES - 1)
        length = p.duration_s * np.exp(p.duration_spread * latent[:, 3])
        self.duration_s[slot] = np.clip(np.round(length, 1), 3, 600)
        self.weight[slot] = np.maximum(one[:, 3], 1e-3) ** -p.popularity
        self.born[slot] = self._birthday(ids)

    def _birthday(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Day of upload: negative for what was there before day 0, as if uploads had always been as fast."""
        per_day = max(self.parameters.new_per_day, 1)
        return np.asarray((ids - self.parameters.videos) // per_day + 1)

    def _topic(self, share: Float32) -> npt.NDArray[np.intp]:
        """Topic at that quantile of the topics' popularity."""
        topic: npt.NDArray[np.intp] = np.searchsorted(self.topic_cumulative, share)
        return np.minimum(topic, self.parameters.topics - 1, dtype=np.intp)

    def drawn(self, words: dice.Stream) -> npt.NDArray[np.int64]:
        """Slots of `words` [n, m], by popularity and freshness; no video twice in a row.

        Column j chooses among the slots that are j modulo m, so a row cannot repeat itself.
        """
        if self._table is None or len(self._table) != words.shape[1]:
            self._table = self._make_table(words.shape[1])
        column = np.arange(words.shape[1])
        slots: npt.NDArray[np.int64] = self._table[column, words & np.uint64(_TABLE - 1)].astype(np.int64)
        return slots

    def _make_table(self, classes: int) -> npt.NDArray[np.int32]:
        p = self.parameters
        age = np.maximum(self.day - self.born, 0)
        weight = self.weight * (1 + p.freshness * np.exp(-age / p.freshness_days))
        table = np.empty((classes, _TABLE), np.int32)
        quantile = (np.arange(_TABLE) + 0.5) / _TABLE
        for j in range(classes):
            slots = np.arange(j, p.videos, classes)
            cumulative = np.cumsum(weight[slots], dtype=np.float64)
            found = np.searchsorted(cumulative, quantile * cumulative[-1])
            table[j] = slots[found.clip(max=len(slots) - 1)]
        return table


def _blend(a: Float32, b: Float32, share: float) -> Float32:
    """A sum of two independent standard normals in which `a` has that share of the variance."""
    return np.asarray(np.sqrt(share) * a + np.sqrt(1 - share) * b, np.float32)
