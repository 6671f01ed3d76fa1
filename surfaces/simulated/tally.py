"""What is written down of a block of sessions: log columns, and the day's sums by user and by creator."""

from __future__ import annotations

import datetime

import numpy as np
import numpy.typing as npt

from evorank.surfaces.simulated.response import Signals
from evorank.surfaces.simulated.slate import Slate
from evorank.surfaces.simulated.traffic import CandidateRows, DayReport, LogColumns, Vector

__all__ = ["Tally", "log_columns"]

_SUMS = {
    "likes": "like", "hates": "hate", "forwards": "forward", "follows": "follow", "comments": "comment",
    "engaged": "engage",
}  # fmt: skip


class Tally:
    """Sums over one day."""

    def __init__(self, ids: Vector, arms: Vector, sessions: Vector, arm_count: int, authors: int) -> None:
        self._users: dict[str, Vector] = {"user_id": ids, "arm": arms, "sessions": sessions}
        whole, real = ("impressions", "clicks", *_SUMS), ("watch_s", "satisfied_s")
        self._users |= {name: np.zeros(len(ids), np.int64) for name in whole}
        self._users |= {name: np.zeros(len(ids), np.float64) for name in real}
        self._authors = np.zeros((arm_count, authors), np.int64)

    def add(
        self, places: Vector, arm: int, signals: Signals, seen: npt.NDArray[np.bool_], authors: Vector
    ) -> None:
        """A block of sessions of the users at `places`, no one twice; signals, seen and authors [n, k]."""
        users, satisfied = self._users, signals.long_view & ~signals.acts["hate"]
        users["impressions"][places] += seen.sum(1)
        users["clicks"][places] += (signals.click & seen).sum(1)
        users["watch_s"][places] += (signals.play_time_s * seen).sum(1)
        users["satisfied_s"][places] += (signals.play_time_s * (satisfied & seen)).sum(1)
        for name, act in _SUMS.items():
            users[name][places] += (signals.acts[act] & seen).sum(1)
        self._authors[arm] += np.bincount(authors[seen], minlength=self._authors.shape[1])

    def report(self, day: int, date: datetime.date) -> DayReport:
        return DayReport(day, date, self._users, self._authors)


def log_columns(
    rows: CandidateRows, slate: Slate, seen: npt.NDArray[np.bool_], signals: Signals, arm: int
) -> LogColumns:
    """The impressions that were seen as log columns, session by session, position by position.

    All of a session carry the time it was requested, so that a history, which counts earlier times only, is
    the one the ranker had.
    """
    at, position = np.nonzero(seen)
    columns: dict[str, Vector] = {name: values[at] for name, values in rows.session.items()}
    candidate = slate.chosen[at, position]
    columns |= {name: values[at, candidate] for name, values in rows.candidate.items()}
    columns["position"] = position.astype(np.int32)
    columns["is_click"] = signals.click[seen].astype(np.int8)
    columns["play_time_ms"] = np.round(signals.play_time_s[seen] * 1000.0).astype(np.int64)
    columns["long_view"] = signals.long_view[seen].astype(np.int8)
    for act, name in (("like", "is_like"), ("hate", "is_hate"), ("forward", "is_forward")):
        columns[name] = signals.acts[act][seen].astype(np.int8)
    for act, name in (("follow", "is_follow"), ("comment", "is_comment"), ("engage", "active_engagement")):
        columns[name] = signals.acts[act][seen].astype(np.int8)
    columns["survey_score"] = signals.survey[seen]
    columns["is_rand"] = slate.random[at].astype(np.int8)
    columns["propensity"] = slate.propensity[seen]
    columns["arm"] = np.full(len(at), arm, np.int8)
    return columns
