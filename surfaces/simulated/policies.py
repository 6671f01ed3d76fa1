"""Policies that need no training: random, counting, and oracles that know the truth.

An oracle ranks by true expectations, which no ranker can have: it shows where a reward would lead if it were
learned without error (the gap), and `Oracle(world, joyful)` how much there is to win at all (the ceiling).
"""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32
from evorank.surfaces.simulated.response import Truth
from evorank.surfaces.simulated.traffic import CandidateRows, LogColumns, Policy, Vector
from evorank.surfaces.simulated.world import World

__all__ = [
    "Counting",
    "Greedy",
    "Oracle",
    "Random",
    "clicks",
    "composed",
    "joyful",
    "watch_share",
    "watch_time",
]


Counts: TypeAlias = npt.NDArray[np.float64]
_TOPICS = 256
"""More than a world may have."""


@dataclass(frozen=True)
class Random:
    """Every order of the candidates is equally likely."""

    exploration: float = 1.0

    def score(self, rows: CandidateRows) -> Float32:
        """Zeros: the world shuffles."""
        return np.zeros(rows.shape, np.float32)


@dataclass(frozen=True)
class Greedy:
    """Another policy's scores, with a share of sessions shown at random: logs that can be reweighted."""

    policy: Policy
    exploration: float = 0.05

    def score(self, rows: CandidateRows) -> Float32:
        return self.policy.score(rows)


@dataclass(frozen=True)
class Oracle:
    """Ranks by a formula over the truth of a world."""

    world: World
    formula: Callable[[Truth], Float32]
    exploration: float = 0.0

    def score(self, rows: CandidateRows) -> Float32:
        return self.formula(self.world.truth(rows))


def clicks(t: Truth) -> Float32:
    """The chance of a click."""
    return t.click


def watch_time(t: Truth) -> Float32:
    """Expected seconds watched."""
    return t.click * t.watched * t.duration_s


def watch_share(t: Truth) -> Float32:
    """Expected share of the video watched."""
    return t.click * t.watched


def composed(t: Truth) -> Float32:
    """What is deliberate: the share watched, likes, forwards and active engagement, less hate."""
    acts = t.acts
    good = t.watched + 4 * acts["like"] + 6 * acts["forward"] + 3 * acts["engage"] - 12 * acts["hate"]
    return t.click * good


def joyful(t: Truth) -> Float32:
    """The joy itself: the ceiling of a policy that ranks video by video."""
    return t.click * t.joy


class Counting:
    """Click rates by video, creator and (user, topic), counted every night: what serves a surface before
    anything is trained. It is also a sink: give it the log that it shall learn from."""

    exploration = 0.0

    def __init__(self, strength: float = 20.0) -> None:
        """`strength`: impressions that the prior is worth; a video starts at its creator's rate, and a
        creator, or a user's topic, at everybody's."""
        self._strength = strength
        self._rates: dict[str, tuple[Counts, Counts]] = {}
        self._today: list[LogColumns] = []

    def begin_day(self, day: datetime.date, active: Vector) -> None:
        """Nothing to do."""

    def write(self, columns: LogColumns) -> None:
        """Keep what tonight's count needs."""
        self._today.append(
            {name: columns[name] for name in ("video_id", "author_id", "user_id", "tag", "is_click")}
        )

    def end_day(self) -> None:
        """Count the day's impressions and clicks."""
        today, self._today = self._today, []
        if not today:
            return
        columns = {name: np.concatenate([each[name] for each in today]) for name in today[0]}
        keys = {
            "all": np.zeros(len(columns["is_click"]), np.int64),
            "video": columns["video_id"],
            "author": columns["author_id"],
            "taste": columns["user_id"] * _TOPICS + columns["tag"],
        }
        for name, key in keys.items():
            shown, clicked = self._rates.get(name, (np.zeros(0), np.zeros(0)))
            self._rates[name] = (_added(shown, key, None), _added(clicked, key, columns["is_click"]))

    def score(self, rows: CandidateRows) -> Float32:
        """Logit of the video's click rate plus what the user's rate in its topic is above everybody's."""
        if not self._rates:
            return np.zeros(rows.shape, np.float32)
        shown, clicked = self._rates["all"]
        everybody = np.full(rows.shape, (clicked[0] + 1) / (shown[0] + 2))
        author = self._rate("author", rows.candidate["author_id"], everybody)
        video = self._rate("video", rows.candidate["video_id"], author)
        topic = rows.session["user_id"][:, None] * _TOPICS + rows.candidate["tag"]
        taste = self._rate("taste", topic, everybody)
        return np.asarray(_logit(video) + _logit(taste) - _logit(everybody), np.float32)

    def _rate(self, name: str, keys: Vector, prior: Counts) -> Counts:
        shown, clicked = (np.append(each, 0.0) for each in self._rates[name])
        known = np.minimum(keys, len(shown) - 1)
        return (clicked[known] + self._strength * prior) / (shown[known] + self._strength)


def _added(counts: Counts, keys: Vector, values: Vector | None) -> Counts:
    """`counts` with `values` (ones by default) added at `keys`, grown where it must."""
    found = np.bincount(keys, values, len(counts)).astype(np.float64)
    found[: len(counts)] += counts
    return found


def _logit(rate: Counts) -> Counts:
    return np.log(rate / (1 - rate))
