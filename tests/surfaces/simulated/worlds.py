"""Small worlds and what tests listen to them with."""

from __future__ import annotations

from typing import Any

import numpy as np

from evorank.surfaces.simulated.parameters import WorldParameters
from evorank.surfaces.simulated.world import World


def small(users: int = 300, **parts: dict[str, Any]) -> WorldParameters:
    """A world that steps in milliseconds; videos come and go quickly."""
    catalogue = {"videos": 200, "new_per_day": 20, "authors": 20, "topics": 8} | parts.pop("catalogue", {})
    return WorldParameters().changed(population={"users": users}, catalogue=catalogue, **parts)


class Recorder:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.days: list[tuple[Any, np.ndarray]] = []
        self.blocks: list[dict[str, np.ndarray]] = []
        self.ended = 0

    def begin_day(self, day, active) -> None:
        self.days.append((day, active))

    def write(self, columns) -> None:
        self.blocks.append(dict(columns))

    def end_day(self) -> None:
        self.ended += 1

    def columns(self) -> dict[str, np.ndarray]:
        return {name: np.concatenate([block[name] for block in self.blocks]) for name in self.blocks[0]}


def active_days(world: World, policy: Any, days: int = 14, log: Any = None) -> tuple[np.ndarray, float]:
    """Active days of each user, and the click rate, of `days` under one policy."""
    from evorank.surfaces.simulated.world import everybody

    active = np.zeros(world.parameters.population.users)
    clicks = shown = 0.0
    for _ in range(days):
        report = world.step_day(everybody(), [policy], log)
        active[report.users["user_id"] - world.people.user_id[0]] += 1
        clicks += report.total("clicks")
        shown += report.total("impressions")
    return active, clicks / shown
