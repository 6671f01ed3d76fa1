"""A small world whose truth is known, and a surface on it without a file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from linear_system import LinearSystem

USERS, ITEMS, DAYS = 300, 40, 20


def simulate(seed: int = 7) -> dict[str, np.ndarray]:
    """Items have bait (draws clicks, tires users) and quality (draws likes, brings users back)."""
    rng = np.random.default_rng(seed)
    bait, quality = rng.normal(size=ITEMS), rng.normal(size=ITEMS)
    taste, habit = rng.normal(0, 0.5, USERS), rng.normal(0.6, 0.4, USERS)
    mood = np.zeros(USERS)
    rows = []
    for day in range(DAYS):
        active = np.flatnonzero(rng.random(USERS) < 1 / (1 + np.exp(-(habit + mood))))
        users = np.repeat(active, 5)
        items = rng.integers(0, ITEMS, len(users))
        click = rng.random(len(users)) < 1 / (1 + np.exp(-(taste[users] + 1.5 * bait[items] - 1)))
        like = rng.random(len(users)) < 1 / (1 + np.exp(-(2.0 * quality[items] - 2)))
        felt = np.bincount(users, quality[items] - bait[items], USERS) / 5
        mood = np.where(np.isin(np.arange(USERS), active), 2.0 * felt, 0.5 * mood)
        rows.append((users, items, np.full(len(users), day), rng.random(len(users)), click, like))
    user, item, day, moment, click, like = (np.concatenate(each) for each in zip(*rows, strict=True))
    return {
        "user": user,
        "item": item,
        "ts": (day * 86400 + moment * 86000).astype(np.int64) + 1_600_000_000 // 86400 * 86400,
        "click": click.astype(np.int64),
        "like": like.astype(np.int64),
    }


RETURNS = """
WITH active AS (SELECT DISTINCT "user", day FROM log)
SELECT a."user", a.day, COUNT(b.day) AS value
FROM active a LEFT JOIN active b ON b."user" = a."user" AND b.day > a.day AND b.day <= a.day + 1
GROUP BY ALL
"""


@dataclass
class NorthStar:
    name: str = "returns"
    description: str = "active the next day"
    sql: str = RETURNS
    horizon_days: int = 1


@dataclass
class SmallSurface:
    """What the tools need of a surface, without its file."""

    data: object
    home: Path
    spec: SimpleNamespace = field(init=False)
    name: str = "small"

    def __post_init__(self):
        self.spec = SimpleNamespace(
            system="linear_system:LinearSystem", guardrails=[], north_star=NorthStar()
        )

    def dataset(self, progress=None):
        return self.data

    def system(self):
        return LinearSystem(self.data.schema, None)

    def production(self):
        return self.system().production()
