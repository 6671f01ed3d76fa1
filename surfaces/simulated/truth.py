"""What a live test estimates, and only a world can tell: how active people would really be under an artifact.

Many fresh people, who were in no test and on no log, live through the same days of a copy of the world, once
under each artifact, with the same candidates and the same coins: a paired comparison, in which nobody is
assigned. For judging this system (docs, benchmarks), never for its decisions: no real surface could answer.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.surfaces.platform import Load
from evorank.surfaces.simulated.policies import Greedy
from evorank.surfaces.simulated.serving import Servers
from evorank.surfaces.simulated.traffic import Sinks
from evorank.surfaces.simulated.world import World, everybody
from evorank.surfaces.surface import Surface

__all__ = ["TrueLift", "true_lift"]


class TrueLift(BaseModel):
    """Active days of everybody under the candidate, against the same people under the control."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    users: int
    days: int
    control: float = Field(description="Mean active days of a person")
    candidate: float
    lift: float = Field(description="candidate / control - 1")
    low: float = Field(description="95% interval over people; it says nothing of other worlds")
    high: float

    def __str__(self) -> str:
        return (
            f"{self.lift:+.2%} active days ({self.low:+.2%} to {self.high:+.2%}), "
            f"{self.users:,} fresh people, {self.days} days"
        )


def true_lift(
    surface: Surface,
    load: Load,
    control: Path | None,
    candidate: Path | None,
    users: int = 20_000,
    days: int = 14,
    exploration: float = 0.0,
) -> TrueLift:
    """Serve fresh people from today's world on. None is click rates as counted so far, which go on counting.

    PlatformError: an artifact that this surface cannot serve. Nothing on disk changes.
    """
    both = [_active_days(surface, load, each, users, days, exploration) for each in (control, candidate)]
    before, after = (each.astype(np.float64) for each in both)
    lift = float(after.mean() / before.mean() - 1)
    # Delta method for a ratio of paired means.
    spread = float((after - (1 + lift) * before).std(ddof=1) / before.mean())
    half = 1.959964 * spread / np.sqrt(users)
    return TrueLift(
        users=users,
        days=days,
        control=float(before.mean()),
        candidate=float(after.mean()),
        lift=lift,
        low=lift - half,
        high=lift + half,
    )


def _active_days(
    surface: Surface, load: Load, artifact: Path | None, users: int, days: int, exploration: float
) -> npt.NDArray[np.int64]:
    """Active days of each fresh person, [users]."""
    today = World.open(surface.directory / "world.npz")
    strangers = today.parameters.changed(population={"users": users, "late_share": 0.0})
    world = World(strangers, today.seed, first_user=today.parameters.population.users)
    world.day = today.day
    world.videos.advance_to(today.day)
    servers = Servers(surface.directory, load)
    active = np.zeros(users, np.int64)
    try:
        (policy,), listeners = servers.policies([artifact], world.date)
        for _ in range(days):
            report = world.step_day(everybody(), [Greedy(policy, exploration)], Sinks(listeners))
            active[report.users["user_id"] - world.people.user_id[0]] += 1
    finally:
        servers.close()
    return active
