"""What a simulated world is made of: every number of it, described, as pydantic models with a TOML form.

Two worlds with equal parameters and seed are the same world. Nothing here is fitted to real people;
the values are chosen so that the gap between proxy and north star is real (docs/simulator.md).
"""

from __future__ import annotations

import datetime
import tomllib
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evorank.model.errors import ConfigurationError

__all__ = ["Catalogue", "Feed", "Population", "Response", "Returning", "WorldParameters"]

Share = Annotated[float, Field(ge=0, le=1)]
Spread = Annotated[float, Field(ge=0, le=5)]
Weight = Annotated[float, Field(ge=-10, le=10)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Population(_Part):
    """Who there is."""

    users: int = Field(default=6000, ge=20, le=2_000_000, description="People who may ever sign up")
    late_share: Share = Field(default=0.15, description="Share who sign up later, evenly over arrival_days")
    arrival_days: int = Field(default=60, ge=1, description="Days over which the late ones arrive")
    habit: Weight = Field(default=1.6, description="Mean logit of opening the app on a weekday")
    habit_spread: Spread = Field(default=1.0, description="Deviation of that logit: few heavy, many light")
    warmth_spread: Spread = Field(default=0.6, description="Some click and react more than others at all")
    warm_habit: Weight = Field(default=1.5, description="How much the warm also open the app more often")
    patience_spread: Spread = Field(default=0.5, description="Deviation of the logit of scrolling on")
    drift: Share = Field(default=0.03, description="Share of taste that is renewed per day")


class Catalogue(_Part):
    """What can be shown. `videos` live at once; the oldest leave as new ones arrive."""

    videos: int = Field(default=3000, ge=50, le=2_000_000, description="Videos that can be shown on a day")
    new_per_day: int = Field(default=90, ge=0, description="Videos uploaded per day")
    authors: int = Field(default=300, ge=2)
    topics: int = Field(default=24, ge=2, le=200)
    dimensions: int = Field(default=6, ge=2, le=64, description="Of the latent space of taste")
    topic_share: Share = Field(default=0.7, description="Of a video's direction that its topic explains")
    author_share: Share = Field(default=0.2, description="Likewise its author; the rest is its own")
    bait_against_quality: Share = Field(default=0.3, description="Minus the correlation of bait and quality")
    author_consistency: Share = Field(default=0.7, description="Of quality and bait that authors explain")
    popularity: float = Field(default=0.5, ge=0, le=2, description="Zipf exponent of being a candidate")
    freshness_days: float = Field(default=5, gt=0, description="Time over which a video's boost decays")
    freshness: float = Field(default=3, ge=0, description="Boost of a video of today: times 1 + this")
    duration_s: float = Field(default=28, gt=0, description="Median length in seconds")
    duration_spread: Spread = Field(default=0.8, description="Deviation of the logarithm of the length")


class Feed(_Part):
    """How it is shown."""

    candidates: int = Field(default=22, ge=2, le=500, description="Videos the ranker chooses from, a session")
    slate: int = Field(default=10, ge=1, le=100, description="Most videos shown in a session")
    sessions: float = Field(default=0.6, ge=0, le=5, description="Mean of further sessions on an active day")
    most_sessions: int = Field(default=4, ge=1, le=20)
    tabs: tuple[Share, ...] = Field(default=(0.6, 0.3, 0.1), min_length=1, max_length=16)
    dayparts: tuple[int, ...] = Field(default=(5, 17), description="Hours at which another mood begins")
    gating: Share = Field(default=0.4, description="How much tab and daypart turn dimensions of taste off")
    mood: Spread = Field(default=0.8, description="Deviation of what a context likes of a topic at all")
    related: Spread = Field(default=0.0, description="Pull towards the topic of the video being watched")
    position: Spread = Field(default=0.10, description="Loss of the logit of a click per position")
    scroll: Weight = Field(default=2.2, description="Logit of scrolling on to the next position")
    scroll_joy: Weight = Field(default=0.5, description="What the joy of the last video adds to it")


class Response(_Part):
    """What people do. A signal is Bernoulli with logit base + weights times latents.

    affinity: taste times the video's direction in this context; quality, bait: of the video.
    All but the click are given a click. Joy is what they feel; only it brings them back.
    """

    affinity: float = Field(default=1.9, gt=0, le=5, description="Scale of taste")
    click: tuple[Weight, Weight, Weight] = Field(
        default=(-2.6, 0.75, 1.55), description="Base, affinity, bait"
    )
    watch: tuple[Weight, Weight, Weight, Weight] = Field(
        default=(-0.1, 0.7, 0.6, -0.8), description="Share watched: base, affinity, quality, bait"
    )
    watch_noise: Spread = Field(default=0.4, description="Deviation of the logarithm of watch time")
    long_watch: Weight = Field(default=-0.25, description="What a factor e in length does to that share")
    like: tuple[Weight, Weight, Weight, Weight] = (-3.4, 0.8, 0.7, -0.2)
    hate: tuple[Weight, Weight, Weight, Weight] = (-4.2, -0.6, -0.6, 0.9)
    forward: tuple[Weight, Weight, Weight, Weight] = (-4.8, 0.5, 0.8, -0.2)
    follow: tuple[Weight, Weight, Weight, Weight] = (-5.2, 0.6, 0.6, -0.2)
    comment: tuple[Weight, Weight, Weight, Weight] = (-5.0, 0.5, 0.1, 0.5)
    engage: tuple[Weight, Weight, Weight, Weight] = Field(
        default=(-2.5, 0.7, 0.9, -0.9), description="Active engagement: saved, replayed, read on"
    )
    warmth: Weight = Field(default=0.8, description="What a user's warmth adds to clicks, likes, forwards")
    joy: tuple[Weight, Weight, Weight, Weight] = Field(
        default=(1.6, 0.25, 0.8, -2.8), description="Of watching it: base, affinity, quality, bait"
    )
    fatigue: Spread = Field(
        default=0.12, description="Loss of click logit and joy per recent view of a topic"
    )
    rest: Share = Field(default=0.6, description="Share of fatigue that a night takes away")
    boredom: Spread = Field(default=0.15, description="Joy lost per video that is passed over")
    asked: Share = Field(default=0.02, description="Share of watched videos that a survey asks about")
    answered: Weight = Field(default=-1.6, description="Logit of answering it; strong feelings answer more")
    answered_by_feeling: Weight = Field(default=0.6, description="Per unit of |joy|: the response bias")


class Returning(_Part):
    """What brings people back: habit, and a satisfaction that moves slowly with what they felt."""

    memory: Share = Field(default=0.2, description="Share of satisfaction that a session replaces")
    start: Weight = Field(default=-0.3, description="Satisfaction with which people begin")
    pull: Weight = Field(default=3.8, description="What satisfaction adds to the logit of opening the app")
    weekend: Weight = Field(default=0.25, description="Added to that logit on Saturdays and Sundays")


class WorldParameters(_Part):
    """All of a world but its seed."""

    name: str = Field(default="home", pattern=r"^[a-z][a-z0-9_]{0,40}$")
    begin: datetime.date = Field(default=datetime.date(2026, 1, 5), description="Day 0, best a Monday")
    population: Population = Population()
    catalogue: Catalogue = Catalogue()
    feed: Feed = Feed()
    response: Response = Response()
    returning: Returning = Returning()

    @model_validator(mode="after")
    def _fits(self) -> WorldParameters:
        feed, catalogue = self.feed, self.catalogue
        if feed.slate > feed.candidates:
            raise ValueError(f"feed.slate {feed.slate} must be at most feed.candidates {feed.candidates}")
        if catalogue.videos < 2 * feed.candidates:
            raise ValueError(f"catalogue.videos {catalogue.videos} must be twice feed.candidates or more")
        if catalogue.new_per_day > catalogue.videos:
            raise ValueError("catalogue.new_per_day must be at most catalogue.videos")
        if catalogue.topic_share + catalogue.author_share > 1:
            raise ValueError("catalogue.topic_share + author_share must be at most 1")
        if not abs(sum(feed.tabs) - 1) < 1e-6:
            raise ValueError(f"feed.tabs must add up to 1, got {sum(feed.tabs):g}")
        if list(feed.dayparts) != sorted({hour for hour in feed.dayparts if 0 <= hour < 24}):
            raise ValueError(f"feed.dayparts must be increasing hours in [0, 24), got {feed.dayparts}")
        return self

    def to_toml(self) -> str:
        """Every number, by part; `read` gives an equal object back."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> WorldParameters:
        """The parameters in a TOML file; absent fields have defaults. ConfigurationError names a field."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{path} cannot be read as TOML: {error}.") from error
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "(whole)"
            raise ConfigurationError(
                f"{path}: `{field}` {first['msg']}, got {first['input']!r:.80}."
            ) from error

    def changed(self, **parts: dict[str, Any]) -> WorldParameters:
        """The same world with some numbers changed: changed(feed={"slate": 5}). Checked anew."""
        data = self.model_dump()
        for part, numbers in parts.items():
            data[part] = data[part] | numbers
        return WorldParameters.model_validate(data)
