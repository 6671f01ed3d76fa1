"""A draw depends on what it is for, and on nothing else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from evorank.surfaces.simulated import dice


@given(st.integers(0, 2**40), st.integers(0, 50), st.integers(1, 60))
def test_a_draw_does_not_depend_on_who_else_draws(seed, first, count):
    everybody = dice.uniform(dice.stream(seed, "open", np.arange(200), 3), 5)
    some = dice.uniform(dice.stream(seed, "open", np.arange(first, first + count), 3), 5)
    assert np.array_equal(everybody[first : first + count], some)


def test_seed_purpose_and_every_key_make_another_stream():
    draws = [
        dice.uniform(dice.stream(*arguments), 8)[0]
        for arguments in [(0, "a", 1, 2), (1, "a", 1, 2), (0, "b", 1, 2), (0, "a", 2, 2), (0, "a", 1, 3)]
    ]
    assert len({tuple(draw) for draw in draws}) == 5
    assert tuple(dice.uniform(dice.stream(0, "a", 2, 1), 8)[0]) != tuple(draws[0])


def test_uniform_is_uniform_and_its_neighbours_are_independent():
    drawn = dice.uniform(dice.stream(7, "u", np.arange(40_000)), 6)
    assert drawn.dtype == np.float32
    assert drawn.min() >= 0
    assert drawn.max() < 1
    shares = np.histogram(drawn, 20, (0, 1))[0] / drawn.size
    assert np.abs(shares - 0.05).max() < 0.002  # 5 standard errors of 240,000 draws are 0.0022
    between = np.corrcoef(drawn.T) - np.eye(6)
    along = np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]
    assert max(np.abs(between).max(), abs(along)) < 0.025


def test_normal_has_the_moments_of_the_normal_distribution():
    drawn = dice.normal(dice.stream(7, "n", np.arange(50_000)), 3).astype(np.float64)
    assert np.isfinite(drawn).all()
    assert abs(drawn.mean()) < 0.01
    assert abs(drawn.std() - 1) < 0.01
    assert abs((drawn**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.02
