"""A world of short videos that runs day by day: people come, are shown what a policy ranks, feel, and return.

Deterministic: the same parameters, seed, policies and assignment give the same days bit by bit. A user's own
draws depend on (seed, user, day, session, candidate) and on no other user, so that two worlds under two
policies are a paired experiment. Vectorised over sessions, a block at a time; memory does not grow with days.
"""

from __future__ import annotations

import datetime
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.system import Float32
from evorank.surfaces.simulated import dice
from evorank.surfaces.simulated.parameters import WorldParameters
from evorank.surfaces.simulated.people import People
from evorank.surfaces.simulated.response import DRAWS, Situation, Truth, draw_signals, truth
from evorank.surfaces.simulated.rhythm import begin_times, session_counts
from evorank.surfaces.simulated.slate import reached, slates
from evorank.surfaces.simulated.tally import Tally, log_columns
from evorank.surfaces.simulated.traffic import Assign, CandidateRows, DayReport, LogSink, Policy, Vector
from evorank.surfaces.simulated.videos import Videos

__all__ = ["World", "everybody"]

Numbers = npt.NDArray[np.int64]
BLOCK = 1024
"""Sessions served at once: arrays of a block stay in the cache."""
_EPOCH = datetime.date(1970, 1, 1)


def everybody(arm: int = 0) -> Assign:
    """One policy serves everybody."""
    return lambda user_ids: np.full(len(user_ids), arm)


class World:
    """The state of a world at the beginning of `day`: people, videos, what they have become."""

    def __init__(self, parameters: WorldParameters, seed: int, first_user: int = 0) -> None:
        """`first_user`: the number from which users are counted; another one gives fresh people who meet the
        same videos."""
        self.parameters, self.seed, self.day = parameters, seed, 0
        self.people = People(parameters, seed, first_user)
        self.videos = Videos(parameters.catalogue, seed)
        feed, wide = parameters.feed, parameters.catalogue.dimensions
        contexts = np.arange(len(feed.tabs) * (len(feed.dayparts) + 1))
        signs = np.sign(dice.uniform(dice.stream(seed, "gate", contexts), wide) - 0.5)
        self._gate = (1 + feed.gating * signs) / np.sqrt(1 + feed.gating**2)
        self._gate *= np.float32(parameters.response.affinity)
        topics = parameters.catalogue.topics
        self._mood = feed.mood * dice.normal(dice.stream(seed, "mood", contexts), topics)

    @property
    def date(self) -> datetime.date:
        """The calendar day that `step_day` simulates next."""
        return self.parameters.begin + datetime.timedelta(days=self.day)

    def users_active(self, day: int) -> Numbers:
        """Ids of those who open the app on `day`, which is known once the day before is over: `self.day`."""
        if day != self.day:
            raise ToolError(f"who opens the app is known for day {self.day} only, asked for day {day}.")
        return self.people.user_id[self.people.active(day, self._weekend)]

    def step_day(self, assign: Assign, policies: Sequence[Policy], log: LogSink | None = None) -> DayReport:
        """Simulate one day; `log` hears of every block of impressions.

        ToolError: a policy without scores, or an assignment to no policy. Whatever is raised on the way, the
        world is then in the middle of a day: continue from a saved one.
        """
        users = self.people.active(self.day, self._weekend)
        ids = self.people.user_id[users]
        arms = np.asarray(assign(ids)).astype(np.int64)
        if arms.shape != ids.shape or (len(arms) and not 0 <= arms.min() <= arms.max() < len(policies)):
            raise ToolError(f"`assign` must give each of {len(ids)} users an arm in [0, {len(policies)}).")
        if log is not None:
            log.begin_day(self.date, ids)
        feed = self.parameters.feed
        sessions = session_counts(feed, self.seed, ids, self.day)
        clock = begin_times(feed, self.seed, ids, self.day, sessions)
        tally = Tally(ids, arms, sessions, len(policies), self.parameters.catalogue.authors)
        for number in range(int(sessions.max(initial=0))):
            for arm, policy in enumerate(policies):
                there = np.flatnonzero((sessions > number) & (arms == arm))
                for start in range(0, len(there), BLOCK):
                    some = there[start : start + BLOCK]
                    self._serve(some, users[some], clock[some, number], number, arm, policy, tally, log)
        if log is not None:
            log.end_day()
        report = tally.report(self.day, self.date)
        self.people.sleep(self.day)
        self.day += 1
        self.videos.advance_to(self.day)
        return report

    def truth(self, rows: CandidateRows) -> Truth:
        """What would really happen with each candidate at the first position, [n, m]: for oracles only."""
        users = rows.session["user_id"] - self.people.user_id[0]
        slots = rows.candidate["video_id"] % self.parameters.catalogue.videos
        return truth(self.parameters.response, self._situation(users, slots, rows.session))

    # One block of sessions

    def _serve(
        self, places: Numbers, users: Numbers, seconds: Float32, number: int, arm: int, policy: Policy,
        tally: Tally, log: LogSink | None,
    ) -> None:  # fmt: skip
        """Session `number` of each of `users`, who stand at `places` of the tally and begin at `seconds`."""
        p, feed, people = self.parameters, self.parameters.feed, self.people
        streams = dice.stream(self.seed, "session", people.user_id[users], self.day, number)
        slots = self.videos.drawn(dice.words(streams[:, None], np.arange(feed.candidates)))
        rows = CandidateRows(self._context(users, seconds, streams), self._observable(slots))
        slate = slates(policy, rows, feed.slate, self._coins("explore", streams, feed.candidates + 1))
        shown = np.take_along_axis(slots, slate.chosen, axis=1)
        met = self._situation(users, shown, rows.session)
        expected = truth(p.response, met, np.arange(feed.slate), feed.position)
        # A candidate keeps its coins wherever it is shown: that is what pairs two policies.
        own = dice.stream(self.seed, "candidate", streams.view(np.int64)[:, None], slate.chosen)
        signals = draw_signals(p.response, expected, dice.uniform(own, DRAWS))
        on = feed.scroll + people.patience[users][:, None] + feed.scroll_joy * signals.felt
        seen = reached(on, self._coins("scroll", streams, feed.slate))
        watched = signals.click & seen
        pleasure = (signals.felt * seen).sum(1) / (watched.sum(1) + 2)
        people.feel(users, pleasure.astype(np.float32), self._views(shown, watched))
        tally.add(places, arm, signals, seen, self.videos.author[shown])
        if log is not None:
            log.write(log_columns(rows, slate, seen, signals, arm))

    def _coins(self, purpose: str, streams: dice.Stream, count: int) -> Float32:
        """Uniform [n, count] for one purpose within each session."""
        return dice.uniform(dice.stream(self.seed, purpose, streams.view(np.int64)), count)

    def _views(self, shown: Numbers, watched: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """How often each topic was watched in each session, [n, topic]."""
        n, topics = len(shown), self.parameters.catalogue.topics
        cell = (np.arange(n)[:, None] * topics + self.videos.topic[shown])[watched]
        return np.bincount(cell, minlength=n * topics).reshape(n, topics)

    def _context(self, users: Numbers, seconds: Float32, streams: dice.Stream) -> dict[str, Vector]:
        """What is known of each session, [n]."""
        feed, people = self.parameters.feed, self.people
        coins = self._coins("context", streams, 2)
        tab = np.searchsorted(np.cumsum(feed.tabs)[:-1], coins[:, 0], side="right")
        current = np.searchsorted(self.videos.topic_cumulative, coins[:, 1])
        day = (self.date - _EPOCH).days
        return {
            "user_id": people.user_id[users],
            "time_ms": day * 86_400_000 + np.round(seconds.astype(np.float64) * 1000).astype(np.int64),
            "tab": tab.astype(np.int32),
            "hour": (seconds // 3600).astype(np.int32),
            "device": people.device[users],
            "current_tag": current.clip(max=self.parameters.catalogue.topics - 1).astype(np.int32),
            "user_active_degree": people.active_degree[users],
            "register_days": (self.day - people.signup[users]).astype(np.int32),
            "position": np.zeros(len(users), np.int32),
        }

    def _observable(self, slots: Numbers) -> dict[str, Vector]:
        """What is known of each candidate, [n, m]."""
        videos = self.videos
        return {
            "video_id": videos.video_id[slots],
            "author_id": videos.author[slots],
            "tag": videos.topic[slots],
            "title_style": videos.style[slots],
            "duration_ms": np.round(videos.duration_s[slots].astype(np.float64) * 1000).astype(np.int64),
            "video_age_days": (self.day - videos.born[slots]).astype(np.int32),
        }

    def _situation(self, users: Numbers, slots: Numbers, session: Mapping[str, Vector]) -> Situation:
        """Latents of who meets what in which context; slots [n, k]."""
        feed, videos, people = self.parameters.feed, self.videos, self.people
        parts = len(feed.dayparts) + 1
        daypart = np.searchsorted(np.asarray(feed.dayparts), session["hour"], side="right")
        context = session["tab"] * parts + daypart
        wanted = people.taste[users] * self._gate[context]
        if feed.related:
            wanted = wanted + np.float32(feed.related) * videos.topic_vector[session["current_tag"]]
        topic = videos.topic[slots]
        vectors = videos.vector[slots]
        affinity = np.matmul(vectors, wanted[:, :, None].astype(np.float32))[:, :, 0]
        affinity += self._mood[context[:, None], topic]
        return Situation(
            affinity=affinity,
            quality=videos.quality[slots],
            bait=videos.bait[slots],
            duration_s=videos.duration_s[slots],
            fatigue=people.fatigue[users[:, None], topic],
            warmth=people.warmth[users][:, None],
        )

    # When

    @property
    def _weekend(self) -> bool:
        return self.date.weekday() >= 5

    # State on disk

    def save(self, path: Path) -> None:
        """Write all that is not a function of parameters and seed, whole or not at all: a few MB."""
        people = self.people
        partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with partial.open("wb") as stream:
                np.savez(
                    stream,
                    parameters=np.frombuffer(self.parameters.to_toml().encode(), np.uint8),
                    identity=np.array([self.seed, self.day, people.user_id[0]], np.int64),
                    taste=people.taste,
                    satisfaction=people.satisfaction,
                    fatigue=people.fatigue,
                )
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    @classmethod
    def open(cls, path: Path) -> World:
        """The world that `save` wrote, before the day that followed. ConfigurationError if none."""
        with _saved(path) as saved:
            seed, day, first = map(int, saved["identity"])
            world = cls(_parameters(saved), seed, first)
            world.day = day
            world.videos.advance_to(day)
            for name in ("taste", "satisfaction", "fatigue"):
                getattr(world.people, name)[...] = saved[name]
        return world

    @staticmethod
    def saved_date(path: Path) -> datetime.date:
        """The day that a saved world lives next, without opening it. ConfigurationError if none."""
        with _saved(path) as saved:
            parameters = _parameters(saved)
            return parameters.begin + datetime.timedelta(days=int(saved["identity"][1]))

    def copy(self) -> World:
        """The same world, to be continued differently."""
        twin = World(self.parameters, self.seed, int(self.people.user_id[0]))
        twin.day = self.day
        twin.videos.advance_to(self.day)
        for name in ("taste", "satisfaction", "fatigue"):
            getattr(twin.people, name)[...] = getattr(self.people, name)
        return twin


@contextmanager
def _saved(path: Path) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """The arrays of a file that `save` wrote, read when asked for."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            yield saved
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise ConfigurationError(f"{path} is not a saved world ({type(error).__name__}: {error}).") from error


def _parameters(saved: Mapping[str, npt.NDArray[Any]]) -> WorldParameters:
    return WorldParameters.model_validate(tomllib.loads(saved["parameters"].tobytes().decode()))
