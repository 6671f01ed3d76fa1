"""A small generated log: a training takes milliseconds, and something can still be learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.config import default_phi
from evorank.model.logs.spec import Categorical, History, LogSpec, Numeric
from evorank.surfaces.importers.common import active_days, batch_size
from evorank.surfaces.surface import Guardrail, SurfaceSpec

_BEGIN = 1_767_225_600
"""2026-01-01 00:00 UTC, in seconds."""
_HOURS = np.array([1, 1, 1, 1, 1, 1, 2, 4, 5, 4, 4, 5, 6, 5, 4, 4, 5, 6, 8, 10, 11, 10, 6, 3], float)

Log = dict[str, npt.NDArray[Any]]


def generate(users: int = 900, items: int = 1500, days: int = 28, seed: int = 0, slate: int = 8) -> Log:
    """Columns of a log, one row per impression, in time order: ids, context, what was shown, signals.

    click, like, dislike, share, follow: 0 or 1; watch_s: seconds; time_s: seconds since 1970.
    A user opens the app on a day with a probability that rises with satisfaction so far.
    """
    draw = np.random.default_rng(seed)
    topics, tabs = 12, 3
    taste = draw.normal(0, 1.5, (users, topics))
    by_tab = draw.normal(0, 1.0, (tabs, topics))
    evening_topic = draw.normal(0, 1.2, topics)
    habit = draw.normal(-0.3, 0.9, users)
    quality = draw.normal(0, 1, items)
    bait = -0.4 * quality + 0.9 * draw.normal(0, 1, items)
    topic = draw.integers(0, topics, items)
    author = draw.integers(0, items // 8, items)
    duration = np.exp(draw.normal(3.2, 0.7, items)).clip(5, 180).round()
    weight = 1 / np.arange(1, items + 1) ** 0.6
    popular = draw.permutation(weight / weight.sum())
    device = draw.integers(0, 3, users)
    satisfaction, chunks = np.zeros(users), []
    for day in range(days):
        active = np.flatnonzero(draw.random(users) < _sigmoid(habit + 1.4 * satisfaction))
        sessions = np.repeat(active, 1 + draw.poisson(0.5, len(active)))
        if not len(sessions):
            continue
        shape = (len(sessions), slate)
        hour = draw.choice(24, len(sessions), p=_HOURS / _HOURS.sum())
        tab = draw.choice(tabs, len(sessions), p=[0.6, 0.3, 0.1])
        start = _BEGIN + day * 86_400 + hour * 3600 + draw.integers(0, 3000, len(sessions))
        item = draw.choice(items, shape, p=popular)
        place = np.arange(slate)
        evening = ((hour >= 19) | (hour < 2))[:, None]
        affinity = taste[sessions[:, None], topic[item]] * (1 - 0.7 * (tab[:, None] == 1))
        affinity = affinity + by_tab[tab[:, None], topic[item]] + evening * evening_topic[topic[item]]
        click = draw.random(shape) < _sigmoid(-1.5 + 0.9 * affinity + 0.9 * bait[item] - 0.12 * place)
        finished = _sigmoid(0.8 * affinity + 0.7 * quality[item] - 0.9 * bait[item])
        watch = click * duration[item] * (finished * np.exp(0.3 * draw.normal(0, 1, shape))).clip(0, 1.5)
        like = click & (draw.random(shape) < _sigmoid(-2.8 + 0.8 * affinity + 0.8 * quality[item]))
        dislike = click & (draw.random(shape) < _sigmoid(-3.6 - 0.6 * affinity + 1.0 * bait[item]))
        share = click & (draw.random(shape) < _sigmoid(-4.0 + 0.5 * affinity + 0.9 * quality[item]))
        follow = click & (draw.random(shape) < _sigmoid(-4.4 + 0.7 * affinity + 0.6 * quality[item]))
        joy = np.where(click, 0.6 * affinity + 0.9 * quality[item] - 0.9 * bait[item], -0.15).mean(1)
        felt = np.bincount(sessions, joy, users) / np.maximum(np.bincount(sessions, minlength=users), 1)
        satisfaction[active] = 0.8 * satisfaction[active] + 0.2 * felt[active]
        chunks.append({
            "user_id": np.repeat(sessions, slate),
            "item_id": item.ravel(),
            "time_s": (start[:, None] + 20 * place).ravel(),
            "device": np.repeat(device[sessions], slate),
            "hour": np.repeat(hour, slate),
            "tab": np.repeat(tab, slate),
            "position": np.tile(place, len(sessions)),
            "topic": topic[item].ravel(),
            "author_id": author[item].ravel(),
            "duration_s": duration[item].ravel(),
            "click": click.ravel().astype(np.int8),
            "watch_s": watch.ravel().round(1),
            "like": like.ravel().astype(np.int8),
            "dislike": dislike.ravel().astype(np.int8),
            "share": share.ravel().astype(np.int8),
            "follow": follow.ravel().astype(np.int8),
        })  # fmt: skip
    log = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    order = np.argsort(log["time_s"], kind="stable")
    return {name: values[order] for name, values in log.items()}


def small_spec(rows: int) -> SurfaceSpec:
    """The surface over `log.parquet` beside its surface.toml."""
    return SurfaceSpec(
        name="small",
        description="Generated short videos, shown in slates of eight. Clicks are easy to win with "
        "click-bait; "
        "users come back for what they enjoyed.",
        log=LogSpec(
            path="log.parquet",
            user="user_id",
            item="item_id",
            time="time_s",
            time_unit="s",
            signals=["click", "watch_s", "like", "dislike", "share", "follow"],
            features=[
                *(Categorical(name=name) for name in ("user_id", "item_id", "author_id", "topic")),
                *(Categorical(name=name) for name in ("tab", "hour", "position", "device")),
                Numeric(name="duration_s", log1p=True),
                History(name="recent_items", of="item_id", length=10, where="click = 1"),
            ],
        ),
        north_star=active_days("user_id", 7),
        guardrails=[
            Guardrail(metric="parameters", maximum=5_000_000),
            # No clock is among them: of trainings that take milliseconds on a busy machine it would be luck.
        ],
        production=default_phi(
            factors={"clicked": "CAST(click AS DOUBLE)"},
            label="clicked",
            batch_size=batch_size(int(0.7 * rows)),
        ),
    )


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(1 / (1 + np.exp(-x)))
