"""create: a surface to live on: the world of a preset, some days of its life, and its surface.toml.

The first days are random, the others ranked by click rates counted every night, so the log that production is
first trained on is one that nobody's model has made. Deterministic: the same arguments give the same surface.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.model.logs import sources
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import Ranker
from evorank.surfaces.readable import to_toml
from evorank.surfaces.simulated.platform import SimulatedPlatform
from evorank.surfaces.simulated.presets import preset as preset_of
from evorank.surfaces.simulated.world import World
from evorank.surfaces.surface import Surface, alone, open_surface, surface_folder

__all__ = ["DAYS", "USERS", "create"]

DAYS = 28
"""Days of life before anybody looks: enough log to train on, and a past that tells what a test could see."""
LOG_DAYS = 14
"""Training takes the last days of the log, so that it costs the same while the world goes on."""
USERS = 6_000
"""Enough to find a lift of 10% within two weeks of one slot, and to rule out the guardrails' margins."""


def live_traffic(enough_s: int) -> Online:
    """`[online]` of a simulated surface. `enough_s`: satisfied seconds of a user's day, beyond which more do
    not count, so that few heavy days do not drown the rest."""

    def metric(name: str, value: str, description: str, **more: Any) -> Metric:
        return Metric(name=name, description=description, source="days", value=value, grain="day", **more)

    def rate(name: str, value: str, margin: float, description: str) -> Metric:
        return metric(
            name, value, description, denominator="sum(impressions)", higher_is_better=False, margin=margin
        )

    return Online(
        wanted_lift=0.1,
        metrics=(
            metric(
                "active_days",
                "sum(active)",
                "Days on which the user came: what the surface exists for",
                success=True,
            ),
            metric(
                "satisfied_watch",
                f"sum(least(satisfied_s, {enough_s}))",
                f"Seconds of long views that were not disliked, at most {enough_s} a day",
                success=True,
            ),
            rate("dislike_rate", "sum(hates)", 0.2, "Dislikes per impression"),
            rate(
                "top_creator_share",
                "sum(top_creator_impressions)",
                0.1,
                "Share of impressions of the 5% of creators who were shown most in the two weeks before",
            ),
        ),
    )


def create(
    home: Path,
    name: str = "simulated",
    preset: str = "home",
    users: int = USERS,
    days: int = DAYS,
    seed: int = 0,
) -> Surface:
    """Make the surface `name` under `home` and open it: some 10 seconds as it is, less with fewer users.

    It appears whole or not at all; where it is there already it is opened, whatever it was made with.
    ConfigurationError: no such preset, a size out of range, or something else in its folder.
    """
    chosen = preset_of(preset)
    try:
        parameters = chosen.parameters.changed(population={"users": users})
    except ValidationError as error:
        raise ConfigurationError(f"`users`: {error.errors()[0]['msg']}, got {users}.") from error
    folder, draft = surface_folder(Path(home), name), Path(home).absolute() / f".{name}.new"
    spec = chosen.surface(name)
    log = spec.log.model_copy(update={"last_days": LOG_DAYS})
    spec = spec.model_copy(update={"log": log, "online": live_traffic(chosen.enough_s)})
    with sources.explained("simulated surface"), alone(draft.with_suffix(".lock")):
        if (folder / "surface.toml").exists():  # another process was quicker
            return open_surface(home, name)
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} holds something that is no surface. Move it away first.")
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        try:
            draft.mkdir()
            World(parameters, seed).save(draft / "world.npz")
            platform = SimulatedPlatform(Surface(spec, draft), _nothing_to_load)
            for _ in range(days):
                platform.next_day()
            (draft / "surface.toml").write_text(to_toml(spec), encoding="utf-8")
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft.rename(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return open_surface(home, name)


def _nothing_to_load(artifact: Path) -> Ranker:
    raise PlatformError(f"{artifact} is served before anything was launched.")
