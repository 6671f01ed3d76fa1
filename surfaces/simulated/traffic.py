"""What a world and those who serve it say to each other: candidates, scores, logs, and the report of a day.

Everything here is observable: a server could know it. Columns are named as in KuaiRand where it has them.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32

__all__ = [
    "CONTEXT",
    "LOGGED",
    "SIGNALS",
    "Assign",
    "CandidateRows",
    "DayReport",
    "LogColumns",
    "LogSink",
    "Policy",
    "Sinks",
]

Vector: TypeAlias = npt.NDArray[Any]
LogColumns: TypeAlias = Mapping[str, Vector]
"""Impressions by column, each [n]. Times of one user do not decrease from one call to the next."""

CONTEXT = (
    "user_id", "video_id", "author_id", "tag", "title_style", "duration_ms", "video_age_days", "tab", "hour",
    "device", "current_tag", "user_active_degree", "register_days", "position",
)  # fmt: skip
"""Log columns that are known before the impression. `position` counts from 0; a ranker sees it as 0."""
SIGNALS = (
    "is_click", "play_time_ms", "long_view", "is_like", "is_hate", "is_forward", "is_follow", "is_comment",
    "active_engagement", "survey_score", "returned_next_day",
)  # fmt: skip
"""Log columns that are known after it, the last two a day later. `active_engagement`: saved, replayed or read
on; `survey_score`: 1 to 5, NULL where nobody asked or answered; `returned_next_day`: of the user."""

LOGGED = "SELECT * REPLACE (nullif(survey_score, 0) AS survey_score) FROM"
"""SQL that turns `LogColumns`, where 0 is no answer, into the columns of a log."""


@dataclass(frozen=True)
class CandidateRows:
    """What a ranker is asked to score: m candidates for each of n sessions, in log columns."""

    session: Mapping[str, Vector]
    """[n]: user_id, time_ms, tab, hour, device, current_tag, user_active_degree, register_days, position."""
    candidate: Mapping[str, Vector]
    """[n, m]: video_id, author_id, tag, title_style, duration_ms, video_age_days."""

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.candidate["video_id"].shape
        return n, m

    @property
    def names(self) -> list[str]:
        return [*self.session, *self.candidate]

    def column(self, name: str) -> Vector:
        """One column for every candidate, [n * m], session by session. KeyError names the known ones."""
        if name in self.candidate:
            return self.candidate[name].reshape(-1)
        if name in self.session:
            return np.repeat(self.session[name], self.shape[1])
        raise KeyError(f"no column {name!r}; there are {self.names}")


class Policy(Protocol):
    """Something that ranks. Higher scores are shown first."""

    @property
    def exploration(self) -> float:
        """Share of sessions in which the world shows candidates at random instead, in [0, 1]."""
        ...

    def score(self, rows: CandidateRows) -> Float32:
        """float32 [n, m]; finite. The same rows, the same scores."""
        ...


class LogSink(Protocol):
    """Something that hears what happened: a log on disk, counters, the histories of a live encoder."""

    def begin_day(self, day: datetime.date, active: Vector) -> None:
        """A day begins on which the users with these ids open the app."""
        ...

    def write(self, columns: LogColumns) -> None:
        """Impressions, as soon as they happened; without the delayed `returned_next_day`."""
        ...

    def end_day(self) -> None:
        """The day's last impression has been written."""
        ...


@dataclass(frozen=True)
class Sinks:
    """Several sinks as one."""

    each: Sequence[LogSink]

    def begin_day(self, day: datetime.date, active: Vector) -> None:
        for sink in self.each:
            sink.begin_day(day, active)

    def write(self, columns: LogColumns) -> None:
        for sink in self.each:
            sink.write(columns)

    def end_day(self) -> None:
        for sink in self.each:
            sink.end_day()


Assign: TypeAlias = Callable[[npt.NDArray[np.int64]], npt.NDArray[np.integer]]
"""Ids of today's users [n] -> number of the policy that serves each, in [0, policies)."""


@dataclass(frozen=True)
class DayReport:
    """One day, user by user: all that an A/B platform needs, and nothing latent."""

    day: int
    date: datetime.date
    users: Mapping[str, Vector]
    """By active user [n]: user_id, arm, sessions, impressions, clicks, watch_s, satisfied_s (seconds of long
    views that were not hated), likes, hates, forwards, follows, comments, engaged."""
    authors: npt.NDArray[np.int64]
    """Impressions of each creator, [arms, authors]."""

    def total(self, column: str, arm: int | None = None) -> float:
        """Sum of a column over everybody, or over one arm."""
        values = self.users[column]
        return float(values.sum() if arm is None else values[self.users["arm"] == arm].sum())

    def creator_concentration(self, arm: int = 0, share: float = 0.05) -> float:
        """Impressions of the most shown `share` of creators over all, in [0, 1]; NaN without impressions."""
        counts = np.sort(self.authors[arm])[::-1]
        top = counts[: max(1, round(share * len(counts)))].sum()
        return float(top / counts.sum()) if counts.sum() else float("nan")
