"""Three surfaces to live on, and one kept aside. Each has its own world, schema, size and production Φ.

`home`: a page with tabs. `watch_next`: what to play after a video. `shorts`: a fast, long stream that plays
by itself. `reserved`: a world of other proportions, for checking that a conclusion does not hang on the
parameters of the others: tune nothing on it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evorank.model.config import default_phi
from evorank.model.errors import ConfigurationError
from evorank.model.logs.spec import Categorical, FeatureSpec, History, LogSpec, Numeric
from evorank.model.system import Phi
from evorank.surfaces.exploration import Exploration
from evorank.surfaces.importers.common import active_days
from evorank.surfaces.simulated.logs import GLOB
from evorank.surfaces.simulated.parameters import (
    Catalogue,
    Feed,
    Population,
    Response,
    Returning,
    WorldParameters,
)
from evorank.surfaces.simulated.traffic import SIGNALS
from evorank.surfaces.surface import Guardrail, SurfaceSpec

__all__ = ["PRESETS", "Preset", "preset"]


@dataclass(frozen=True)
class Preset:
    """A world, and the surface that ranks in it."""

    description: str
    parameters: WorldParameters
    features: tuple[FeatureSpec, ...]
    production: Phi
    enough_s: int
    """Satisfied seconds of a user's day, beyond which more do not count: about the eighth decile."""

    def surface(self, name: str) -> SurfaceSpec:
        """The surface over the daily files of `LogWriter` in the folder `log` beside surface.toml."""
        return SurfaceSpec(
            name=name,
            description=self.description,
            log=LogSpec(
                path=GLOB,
                user="user_id",
                item="video_id",
                time="time_ms",
                time_unit="ms",
                signals=list(SIGNALS),
                keep=["is_rand", "propensity", "arm", "position"],
                features=list(self.features),
            ),
            north_star=active_days("user_id", 7),
            guardrails=[
                Guardrail(metric="parameters", maximum=5_000_000),
                Guardrail(metric="latency_ms", maximum=100),
                Guardrail(metric="train_cost", maximum=3),
            ],
            exploration=Exploration(
                where="is_rand = 1",
                candidates=self.parameters.feed.candidates,
                top=self.parameters.feed.slate,
                position="position",
                reward=f"LEAST(play_time_ms / 1000.0, {self.enough_s}) * long_view * (1 - is_hate)",
            ),
            production=self.production,
        )


def preset(name: str) -> Preset:
    """The preset `name`. ConfigurationError lists the known ones."""
    if name not in PRESETS:
        raise ConfigurationError(f"`preset` must be one of {sorted(PRESETS)}, got {name!r}.")
    return PRESETS[name]


def _categories(*names: str) -> tuple[Categorical, ...]:
    return tuple(Categorical(name=name) for name in names)


_CLICKED = {"clicked": "CAST(is_click AS DOUBLE)"}
_WATCHED = {"watched": "LEAST(play_time_ms / duration_ms, 1.0)"}
_IDS = ("user_id", "video_id", "author_id", "tag", "title_style")
_LENGTH = Numeric(name="duration_ms", log1p=True)
_AGE = Numeric(name="video_age_days", log1p=True)
_CLICKED_VIDEOS = History(name="clicked_videos", of="video_id", length=10, where="is_click = 1")
_WATCHED_TAGS = History(name="watched_tags", of="tag", length=20, where="long_view = 1")

PRESETS: Mapping[str, Preset] = {
    "home": Preset(
        description="Short videos on a home page with three tabs. Titles that promise much are clicked; "
        "people come back for what they enjoyed.",
        parameters=WorldParameters(),
        features=(
            *_categories(*_IDS, "tab", "hour", "position", "user_active_degree"),
            _LENGTH,
            _AGE,
            _CLICKED_VIDEOS,
            _WATCHED_TAGS,
        ),
        production=default_phi(
            factors=_CLICKED | _WATCHED, label="clicked * (0.7 + 0.3 * watched)", batch_size=1024
        ),
        enough_s=60,
    ),
    "watch_next": Preset(
        description="What to play after the video just watched, whose topic is `current_tag`. Videos "
        "are minutes long; six are proposed.",
        parameters=WorldParameters(
            name="watch_next",
            population=Population(users=5000, habit=0.9, warmth_spread=0.5),
            catalogue=Catalogue(
                videos=4000, new_per_day=60, authors=500, topics=30, duration_s=160, duration_spread=1.0
            ),
            feed=Feed(
                candidates=30, slate=6, sessions=1.2, tabs=(1.0,), related=0.6, position=0.15, scroll=1.8
            ),
            response=Response(
                affinity=1.6,
                click=(-2.3, 0.8, 1.4),
                watch=(-0.3, 0.7, 0.6, -0.7),
                long_watch=-0.3,
                joy=(1.1, 0.35, 0.9, -2.3),
            ),
            returning=Returning(memory=0.12, pull=3.2),
        ),
        features=(
            *_categories(*_IDS, "current_tag", "device", "position"),
            _LENGTH,
            _AGE,
            History(name="watched_videos", of="video_id", length=15, where="long_view = 1"),
            _WATCHED_TAGS,
        ),
        production=default_phi(
            factors=_CLICKED | {"long_viewed": "CAST(long_view AS DOUBLE)"},
            label="0.75 * clicked + 0.25 * long_viewed",
            batch_size=1024,
            embedding_dim=8,
        ),
        enough_s=360,
    ),
    "shorts": Preset(
        description="A stream of very short videos that play by themselves; a click means that the video was "
        "not swiped away at once. People tire of a topic quickly, and much is new every day.",
        parameters=WorldParameters(
            name="shorts",
            population=Population(users=4000, habit=0.8, patience_spread=0.6, drift=0.05),
            catalogue=Catalogue(
                videos=5000,
                new_per_day=300,
                authors=800,
                topics=20,
                freshness_days=3,
                freshness=4,
                duration_s=14,
                duration_spread=0.6,
            ),
            feed=Feed(
                candidates=36,
                slate=16,
                sessions=0.4,
                tabs=(1.0,),
                dayparts=(5, 11, 17, 22),
                position=0.02,
                scroll=2.6,
            ),
            response=Response(
                affinity=1.7,
                click=(-1.0, 0.8, 1.45),
                watch=(0.2, 0.7, 0.6, -0.65),
                fatigue=0.16,
                boredom=0.1,
                joy=(0.9, 0.35, 0.9, -1.9),
            ),
            returning=Returning(memory=0.25, start=-0.2, pull=3.0),
        ),
        features=(
            *_categories("user_id", "video_id", "author_id", "tag", "hour", "device", "user_active_degree"),
            _LENGTH,
            _AGE,
            Numeric(name="register_days", log1p=True),
            _CLICKED_VIDEOS,
        ),
        production=default_phi(
            factors=_CLICKED | {"liked": "CAST(is_like AS DOUBLE)"},
            label="0.8 * clicked + 0.2 * liked",
            batch_size=2048,
        ),
        enough_s=50,
    ),
    "reserved": Preset(
        description="A page of videos in two tabs, with proportions of its own.",
        parameters=WorldParameters(
            name="reserved",
            population=Population(users=4000, habit=0.4, habit_spread=1.2, warm_habit=1.6, drift=0.01),
            catalogue=Catalogue(
                videos=2000,
                new_per_day=40,
                authors=150,
                topics=16,
                dimensions=8,
                topic_share=0.6,
                bait_against_quality=0.15,
                author_consistency=0.5,
                popularity=0.8,
            ),
            feed=Feed(candidates=20, slate=8, tabs=(0.5, 0.5), gating=0.4, mood=0.7, position=0.2),
            response=Response(
                affinity=1.3,
                click=(-2.2, 0.8, 1.3),
                watch=(0.1, 0.6, 0.7, -0.7),
                joy=(0.9, 0.4, 0.7, -2.1),
                warmth=0.5,
            ),
            returning=Returning(memory=0.3, start=-0.2, pull=2.4, weekend=0.5),
        ),
        features=(
            *_categories("user_id", "video_id", "author_id", "tag", "title_style", "tab", "hour"),
            _LENGTH,
            _CLICKED_VIDEOS,
            _WATCHED_TAGS,
        ),
        production=default_phi(
            factors=_CLICKED | _WATCHED, label="clicked * (0.8 + 0.2 * watched)", batch_size=512
        ),
        enough_s=40,
    ),
}
