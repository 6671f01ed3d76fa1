"""When people come: how often on a day, and at which hour."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32
from evorank.surfaces.simulated import dice
from evorank.surfaces.simulated.parameters import Feed
from evorank.surfaces.simulated.traffic import Vector

__all__ = ["begin_times", "session_counts"]

_BY_HOUR = np.array([1, 1, 1, 1, 1, 1, 2, 4, 5, 4, 4, 5, 6, 5, 4, 4, 5, 6, 8, 10, 11, 10, 6, 3], float)
"""Traffic by hour of the day: quiet nights, a peak in the evening."""


def session_counts(feed: Feed, seed: int, ids: npt.NDArray[np.int64], day: int) -> npt.NDArray[np.int64]:
    """Sessions of each active user on `day`, [n]: 1 and a Poisson number more, at most `most_sessions`."""
    coin = dice.uniform(dice.stream(seed, "sessions", ids, day), 1)[:, 0]
    further = np.arange(feed.most_sessions)
    chance = np.exp(-feed.sessions) * feed.sessions**further / np.cumprod(np.maximum(further, 1))
    return 1 + np.searchsorted(np.cumsum(chance)[:-1], coin, side="right")


def begin_times(feed: Feed, seed: int, ids: npt.NDArray[np.int64], day: int, counts: Vector) -> Float32:
    """Second of the day at which each session begins, [n, most_sessions], a minute or more apart; a user's
    `counts` [n] first ones are meant."""
    most = feed.most_sessions
    coins = dice.uniform(dice.stream(seed, "clock", ids, day), most)
    coins = np.sort(np.where(np.arange(most) < counts[:, None], coins, 1), axis=1)
    edges = np.concatenate([[0], np.cumsum(_BY_HOUR) / _BY_HOUR.sum()])
    begin = np.interp(coins, edges, np.linspace(0, 86_400 - 60 * (most + 1), 25))
    return np.asarray(begin + 60 * np.arange(most), np.float32)
