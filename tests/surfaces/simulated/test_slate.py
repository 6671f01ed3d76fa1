"""Propensities are the frequencies that they claim to be."""

from __future__ import annotations

import numpy as np
import pytest

from evorank.model.errors import ToolError
from evorank.surfaces.simulated.slate import reached, slates
from evorank.surfaces.simulated.traffic import CandidateRows


class Fixed:
    def __init__(self, scores, exploration):
        self.scores, self.exploration = np.asarray(scores, np.float32), exploration

    def score(self, rows):
        return np.broadcast_to(self.scores, rows.shape)


def _rows(n, m):
    return CandidateRows({"user_id": np.arange(n)}, {"video_id": np.zeros((n, m), np.int64)})


def test_a_propensity_is_the_frequency_of_the_video_at_the_position():
    n, m, size = 60_000, 5, 3
    coins = np.random.default_rng(0).random((n, m + 1), dtype=np.float32)
    slate = slates(Fixed([0.1, 0.9, 0.3, 0.8, 0.2], 0.3), _rows(n, m), size, coins)
    assert abs(slate.random.mean() - 0.3) < 0.01
    for position in range(size):
        for video in range(m):
            there = slate.chosen[:, position] == video
            claimed = slate.propensity[there, position]
            assert claimed.min() == claimed.max()
            assert abs(there.mean() - claimed[0]) < 0.01
    assert (slate.chosen[~slate.random] == [1, 3, 2]).all()


def test_ties_go_to_the_first_and_no_video_is_shown_twice():
    slate = slates(
        Fixed(np.zeros(6), 0.5), _rows(50, 6), 4, np.random.default_rng(0).random((50, 7), np.float32)
    )
    assert (slate.chosen[~slate.random] == np.arange(4)).all()
    assert all(len(set(row)) == 4 for row in slate.chosen.tolist())


def test_an_exploration_that_is_no_share_is_refused():
    with pytest.raises(ToolError, match=r"Fixed.exploration must lie in \[0, 1\], got 1.5"):
        slates(Fixed(np.zeros(3), 1.5), _rows(2, 3), 2, np.zeros((2, 4), np.float32))


def test_people_scroll_in_order_and_as_often_as_the_logit_says():
    coins = np.random.default_rng(0).random((20_000, 6), dtype=np.float32)
    seen = reached(np.full((20_000, 6), np.log(3.0), np.float32), coins)  # three in four go on
    assert seen[:, 0].all()
    assert not (seen[:, 1:] & ~seen[:, :-1]).any()
    assert np.abs(seen.mean(0) - 0.75 ** np.arange(6)).max() < 0.012
