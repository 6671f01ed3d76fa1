"""The people of a world: taste, habit, warmth, patience; and what their days do to satisfaction and fatigue.

Who somebody is depends on (seed, user id) alone; what they feel depends on what they were shown. Both stay in
here: a log holds only ids, two coarse classes and what a server would see.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32
from evorank.surfaces.simulated import dice
from evorank.surfaces.simulated.parameters import WorldParameters

__all__ = ["DEGREES", "DEVICES", "People"]

DEGREES, DEVICES = 4, 3
"""Classes of `user_active_degree` and `device`."""


class People:
    """Everybody, by number [u]. `taste` [u, d], `satisfaction` [u] and `fatigue` [u, topic] move; the rest
    stays as it was drawn."""

    def __init__(self, parameters: WorldParameters, seed: int, first_user: int = 0) -> None:
        self.parameters, self.seed = parameters, seed
        p = parameters.population
        self.user_id = first_user + np.arange(p.users, dtype=np.int64)
        wide = parameters.catalogue.dimensions
        self.taste = dice.normal(dice.stream(seed, "taste", self.user_id), wide)
        drawn = dice.normal(dice.stream(seed, "user", self.user_id), 4)
        self.warmth = p.warmth_spread * drawn[:, 0]
        self.habit = p.habit + p.habit_spread * drawn[:, 1] + p.warm_habit * self.warmth
        self.patience = p.patience_spread * drawn[:, 2]
        told = drawn[:, 1] + 0.7 * drawn[:, 3]
        self.active_degree = np.clip(np.floor(told + DEGREES / 2), 0, DEGREES - 1).astype(np.int32)
        coins = dice.uniform(dice.stream(seed, "arrival", self.user_id), 3)
        self.device = (coins[:, 0] * DEVICES).astype(np.int32)
        late = coins[:, 1] < p.late_share
        self.signup = np.where(late, 1 + np.floor(coins[:, 2] * p.arrival_days), 0).astype(np.int32)
        self.satisfaction = np.full(p.users, parameters.returning.start, np.float32)
        self.fatigue = np.zeros((p.users, parameters.catalogue.topics), np.float32)

    def active(self, day: int, weekend: bool) -> npt.NDArray[np.int64]:
        """Numbers of those who open the app on `day`, increasing."""
        p = self.parameters.returning
        logit = self.habit + p.pull * self.satisfaction + (p.weekend if weekend else 0.0)
        coin = dice.uniform(dice.stream(self.seed, "open", self.user_id, day), 1)[:, 0]
        return np.flatnonzero((coin < 1 / (1 + np.exp(-logit))) & (self.signup <= day))

    def feel(self, users: npt.NDArray[np.int64], pleasure: Float32, viewed: npt.NDArray[np.integer]) -> None:
        """A session of each of `users` (no one twice): its pleasure [n], views by topic [n, topic]."""
        share = np.float32(self.parameters.returning.memory)
        self.satisfaction[users] += share * (pleasure - self.satisfaction[users])
        self.fatigue[users] += viewed

    def sleep(self, day: int) -> None:
        """The night after `day`: fatigue rests, tastes drift."""
        p = self.parameters
        self.fatigue *= np.float32(1 - p.response.rest)
        if share := p.population.drift:
            news = dice.normal(dice.stream(self.seed, "drift", self.user_id, day), self.taste.shape[1])
            self.taste *= np.float32(np.sqrt(1 - share))
            self.taste += np.float32(np.sqrt(share)) * news
