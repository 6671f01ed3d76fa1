"""The surrogate learns from few, noisy attempts what each knob does, and knows where it knows nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evorank.personas.embedded.knobs import Knob
from evorank.personas.embedded.surrogate import Surrogate


def knob(name: str, settings: tuple[Any, ...], ordered: bool = True) -> Knob:
    return Knob(name, name, settings, ordered, lambda phi: phi[name], lambda phi, v: phi | {name: v})


KNOBS = [knob("x", tuple(range(9))), knob("y", tuple(range(9))), knob("kind", ("a", "b", "c"), ordered=False)]


def gain(phi: dict[str, Any]) -> float:
    """Best at x = 6; kind b helps; y does nothing."""
    return -0.01 * ((phi["x"] - 6) / 4) ** 2 + {"a": 0.0, "b": 0.006, "c": -0.004}[phi["kind"]]


def fitted(count: int, noise: float, seed: int) -> tuple[Surrogate, list[dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    phis = [
        {"x": int(rng.integers(9)), "y": int(rng.integers(9)), "kind": str(rng.choice(["a", "b", "c"]))}
        for _ in range(count)
    ]
    gains = np.array([gain(phi) + rng.normal(0, noise) for phi in phis])
    return Surrogate(KNOBS, phis, gains, np.full(count, 1.96 * noise), rng), phis


@pytest.mark.parametrize("seed", range(3))
def test_after_thirty_noisy_attempts_it_ranks_what_it_never_saw(seed: int) -> None:
    surrogate, seen = fitted(30, 0.001, seed)
    unseen = [
        phi
        for x in range(9)
        for y in (0, 4, 8)
        for kind in "abc"
        if (phi := {"x": x, "y": y, "kind": kind}) not in seen
    ]
    predicted = surrogate.optimistic(unseen, 0.0)
    truth = np.array([gain(phi) for phi in unseen])
    assert np.corrcoef(predicted, truth)[0, 1] > 0.8
    best = unseen[int(np.argmax(predicted))]
    assert gain(best) > np.quantile(truth, 0.85)


def test_doubt_is_larger_far_from_what_was_tried() -> None:
    rng = np.random.default_rng(0)
    phis = [{"x": x, "y": 0, "kind": "a"} for x in (0, 1, 2, 0, 1, 2)]
    surrogate = Surrogate(KNOBS, phis, np.array([0.0, 0.01, 0.02] * 2), np.full(6, 0.001), rng)
    near, far = {"x": 1, "y": 0, "kind": "a"}, {"x": 8, "y": 8, "kind": "c"}
    doubt = surrogate.optimistic([near, far], 1.0) - surrogate.optimistic([near, far], 0.0)
    assert doubt[1] > 2 * doubt[0]


def test_a_diverged_attempt_does_not_drown_the_others() -> None:
    rng = np.random.default_rng(1)
    phis = [{"x": x, "y": 4, "kind": "a"} for x in range(9)]
    gains = np.array([gain(phi) for phi in phis])
    gains[0] = -50.0
    surrogate = Surrogate(KNOBS, phis, gains, np.full(9, 0.001), rng)
    predicted = surrogate.optimistic(phis, 0.0)
    assert int(np.argmax(predicted)) in (5, 6, 7)
