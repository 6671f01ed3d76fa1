"""What somebody does with a video that is shown: the true probabilities, and signals drawn from them.

The only place where a latent becomes behaviour. `Truth` is for the world itself, for oracle policies and for
the documentation of the gap; no log and no ranker sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evorank.model.system import Float32
from evorank.surfaces.simulated.parameters import Response

__all__ = ["DRAWS", "Signals", "Situation", "Truth", "draw_signals", "truth"]

DRAWS = 11
"""Random numbers that one shown video uses."""
_ACTS = ("like", "hate", "forward", "follow", "comment", "engage")
_LONG_S = 18.0


@dataclass(frozen=True)
class Situation:
    """Who meets what, all of one shape [..., k]; `warmth` [..., 1]."""

    affinity: Float32
    quality: Float32
    bait: Float32
    duration_s: Float32
    fatigue: Float32
    """Recent views of the topic, in views."""
    warmth: Float32


@dataclass(frozen=True)
class Truth:
    """Expected behaviour, shape [..., k]. All but `click` is given a click."""

    click: Float32
    watched: Float32
    """Median share of the video that is watched, before it is cut at 2."""
    acts: Mapping[str, Float32]
    """like, hate, forward, follow, comment, engage."""
    joy: Float32
    """What it adds to satisfaction if it is watched; unbounded, 0 is neutral."""
    duration_s: Float32


@dataclass(frozen=True)
class Signals:
    """What happened, shape [n, k]: bool, `play_time_s` float32, `survey` int8 with 0 = no answer."""

    click: npt.NDArray[np.bool_]
    play_time_s: Float32
    long_view: npt.NDArray[np.bool_]
    acts: Mapping[str, npt.NDArray[np.bool_]]
    survey: npt.NDArray[np.int8]
    felt: Float32
    """Joy where it was watched, boredom where it was passed over; latent."""


def truth(p: Response, met: Situation, position: npt.NDArray[np.integer] | int = 0, loss: float = 0) -> Truth:
    """The truth about `met` at `position`, each step of which costs `loss` of the logit of a click."""
    a, q, b = met.affinity, met.quality, met.bait
    tired = np.float32(p.fatigue) * met.fatigue
    base, by_affinity, by_bait = p.click
    click = base + by_affinity * a + by_bait * b + p.warmth * met.warmth - tired
    if loss:
        click = click - np.float32(loss) * position
    base, *weights = p.watch
    length = np.log(met.duration_s * np.float32(1 / 28))
    watched = _sigmoid(_sum(base, weights, a, q, b) + p.long_watch * length)
    acts = {}
    for name in _ACTS:
        base, *weights = getattr(p, name)
        warm = p.warmth if name in ("like", "forward", "comment") else 0.0
        acts[name] = _sigmoid(_sum(base, weights, a, q, b) + warm * met.warmth)
    base, *weights = p.joy
    joy = _sum(base, weights, a, q, b) - tired
    return Truth(_sigmoid(click), watched, acts, joy, met.duration_s)


def draw_signals(p: Response, expected: Truth, coins: Float32) -> Signals:
    """Signals of the expected behaviour [n, k] from `coins` [n, k, DRAWS], uniform in [0, 1)."""
    click = coins[..., 0] < expected.click
    radius = np.sqrt(-2 * np.log1p(-coins[..., 1]))
    noise = np.float32(p.watch_noise) * radius * np.cos(np.float32(2 * np.pi) * coins[..., 2])
    share = np.minimum(expected.watched * np.exp(noise), np.float32(2))
    played = click * np.round(expected.duration_s * share, 2)
    acts = {name: click & (coins[..., 3 + i] < expected.acts[name]) for i, name in enumerate(_ACTS)}
    answers = p.asked * _sigmoid(p.answered + p.answered_by_feeling * np.abs(expected.joy))
    opinion = np.clip(np.rint(3 + 0.5 * expected.joy + 2 * (coins[..., 10] - 0.5)), 1, 5)
    return Signals(
        click=click,
        play_time_s=played,
        long_view=click & (played >= np.minimum(expected.duration_s, np.float32(_LONG_S))),
        acts=acts,
        survey=np.where(click & (coins[..., 9] < answers), opinion, 0).astype(np.int8),
        felt=np.where(click, expected.joy, np.float32(-p.boredom)),
    )


def _sum(base: float, weights: list[float], a: Float32, q: Float32, b: Float32) -> Float32:
    return np.asarray(base + weights[0] * a + weights[1] * q + weights[2] * b, np.float32)


def _sigmoid(x: npt.NDArray[np.floating]) -> Float32:
    return np.asarray(1 / (1 + np.exp(-x)), np.float32)
