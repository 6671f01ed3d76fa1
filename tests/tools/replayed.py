"""A simulated world, rankers learned from its log, and what they really earn when they serve it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "surfaces" / "simulated"))

from worlds import Recorder

from evorank.model.logs.encode import encode
from evorank.model.logs.spec import Categorical, History, LogSpec, Numeric, Split
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.logs import LogWriter
from evorank.surfaces.simulated.parameters import WorldParameters
from evorank.surfaces.simulated.policies import Counting, Greedy
from evorank.surfaces.simulated.traffic import SIGNALS, Sinks
from evorank.surfaces.simulated.world import World, everybody

TRAINING, HELD_OUT = 6, 4


class Rates:
    """Ranks by what a column did in training, by video and by (user, topic): numpy over encoded rows."""

    def __init__(self, dataset, signal: str, sign: float = 1.0) -> None:
        self.sign = sign
        rows, part = dataset.rows("train"), dataset.bounds["train"]
        with dataset.connect("train") as connection:
            happened = connection.execute(f"SELECT {signal} AS y FROM log ORDER BY row").fetchnumpy()["y"]
        happened = np.asarray(happened, np.float64)
        assert len(happened) == part.stop - part.start
        self.mean = happened.mean()
        self.tables = []
        for keys in self._keys(rows):
            size = int(keys.max()) + 2
            shown, total = np.bincount(keys, minlength=size), np.bincount(keys, happened, size)
            self.tables.append((total + 10 * self.mean) / (shown + 10))

    @staticmethod
    def _keys(rows):
        return rows.column("video_id"), rows.column("user_id") * 64 + rows.column("tag")

    def __call__(self, rows):
        score = sum(
            table[np.minimum(keys, len(table) - 1)]
            for keys, table in zip(self._keys(rows), self.tables, strict=True)
        )
        return np.asarray(self.sign * score, np.float32)


class Live:
    """The same ranker as a policy of the world."""

    exploration = 0.0

    def __init__(self, encoder, rank) -> None:
        self.encoder, self.rank = encoder, rank

    def score(self, rows):
        return self.rank(self.encoder.encode(rows)).reshape(rows.shape)


def parameters(users: int, **feed) -> WorldParameters:
    return WorldParameters().changed(
        population={"users": users, "late_share": 0.0},
        catalogue={"videos": 400, "new_per_day": 20, "authors": 40, "topics": 8},
        feed={"candidates": 12, "slate": 6, "sessions": 0.0, "most_sessions": 1} | feed,
    )


def spec(directory: Path) -> LogSpec:
    return LogSpec(
        path=str(directory / "day=*.parquet"),
        user="user_id",
        item="video_id",
        time="time_ms",
        time_unit="ms",
        signals=list(SIGNALS),
        keep=["is_rand", "propensity", "arm"],
        features=[
            *(Categorical(name=name) for name in ("user_id", "video_id", "tag", "tab", "hour", "position")),
            Numeric(name="video_age_days", log1p=True),
            History(name="clicked_videos", of="video_id", length=5, where="is_click = 1"),
        ],
        split=Split(validation_from="2026-01-11", test_from="2026-01-15"),
    )


def world_and_log(directory: Path, users: int, seed: int = 0, exploration: float = 1.0, **feed):
    """Days of sessions, a share of them random, encoded; and copies of the world at the beginning of each
    held-out day."""
    world, log = World(parameters(users, **feed), seed), LogWriter(directory / "log")
    serving = Counting()
    mornings = []
    for day in range(TRAINING + HELD_OUT + 2):
        if TRAINING <= day < TRAINING + HELD_OUT:
            mornings.append(world.copy())
        world.step_day(everybody(), [Greedy(serving, exploration)], Sinks([log, serving]))
    return mornings, encode(spec(directory / "log"), directory / "data")


def truth(mornings, dataset, rank, column: str = "is_click", top: int = 6):
    """Mean of `column` per impression at the first `top` positions, were the ranker live on those days."""
    found = []
    encoder = LiveEncoder(dataset)
    for morning in mornings:
        heard = Recorder()
        morning.copy().step_day(everybody(), [Live(encoder, rank)], heard)
        columns = heard.columns()
        found.append(columns[column][columns["position"] < top])
    return float(np.concatenate(found).mean())
