"""Intervals of metrics that decide nothing: they cover what is true, and know that rows belong to users."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evorank.tools import metrics
from evorank.tools.paired import paired_metrics

NAMES = ("auc", "gauc", "ndcg", "calibration")
SEEDS = 4


def values(predictions, labels, users) -> dict[str, list[float]]:
    positive = metrics.positives(labels, "bce")
    return {
        "auc": [metrics.auc(p, positive) for p in predictions],
        "gauc": [metrics.gauc(p, positive, users) for p in predictions],
        "ndcg": [metrics.ndcg(p, labels, users) for p in predictions],
        "calibration": [metrics.calibration(p, labels) for p in predictions],
    }


def intervals(ours, theirs, labels, users):
    positive = metrics.positives(labels, "bce")
    both = [values(arm, labels, users) for arm in (ours, theirs)]
    return paired_metrics(*both, (ours, theirs), labels, positive, users)


def world(random, people=60, rows=20, noise=(0.5, 1.0)):
    """Two arms that see what people like through noise of their own; people differ, and so do seeds."""
    users = np.repeat(np.arange(people), rows)
    taste = random.normal(size=people)[users] + random.normal(size=people * rows)
    labels = (random.random(people * rows) < 1 / (1 + np.exp(-taste))).astype(np.float64)
    arms = []
    for size in noise:
        # An arm errs alike for all rows of a person, and for each row alike with every seed.
        own = (random.normal(size=people)[users] + random.normal(size=len(users))) * size
        seen = [taste + own + 0.2 * random.normal(size=len(users)) for _ in range(SEEDS)]
        arms.append([1 / (1 + np.exp(-each)) for each in seen])
    return arms[0], arms[1], labels, users


@pytest.fixture(scope="module")
def truth():
    """The differences among so many people that they are hardly uncertain."""
    ours, theirs, labels, users = world(np.random.default_rng(1), people=20_000)
    one, two = values(ours, labels, users), values(theirs, labels, users)
    return {name: np.mean(one[name]) - np.mean(two[name]) for name in NAMES}


def test_intervals_cover_the_truth_about_95_times_in_a_hundred(truth):
    tries = 200
    covered = dict.fromkeys(NAMES, 0)
    for seed in range(tries):
        found = intervals(*world(np.random.default_rng(100 + seed)))
        for name in NAMES:
            covered[name] += found[name].low <= truth[name] <= found[name].high
    for name in NAMES:
        assert 0.91 <= covered[name] / tries <= 0.995, covered


def test_an_arm_against_itself_differs_by_nothing():
    ours, _, labels, users = world(np.random.default_rng(2))
    for each in intervals(ours, ours, labels, users).values():
        assert (each.low, each.estimate, each.high) == (0, 0, 0)


def test_rows_of_one_person_are_not_many_people():
    ours, theirs, labels, users = world(np.random.default_rng(3))
    honest = intervals(ours, theirs, labels, users)["auc"]
    naive = intervals(ours, theirs, labels, np.arange(len(users)))["auc"]
    assert honest.data_error > 1.1 * naive.data_error


def test_what_is_not_defined_is_left_out():
    ours, theirs, _, users = world(np.random.default_rng(4))
    assert intervals(ours, theirs, np.zeros(len(users)), users) == {}
    one = np.zeros(len(users), np.int64)
    labels = (np.arange(len(users)) % 2).astype(np.float64)
    assert intervals(ours, theirs, labels, one) == {}, "one person says nothing about others"


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0]), st.booleans()), min_size=2, max_size=14))
def test_placements_are_shares_of_the_other_class_and_their_mean_is_the_auc(rows):
    predictions, positive = (np.array(column) for column in zip(*rows, strict=True))
    placed = metrics.placements(predictions, positive)
    for place, (mine, is_positive) in enumerate(rows):
        others = [other for other, kind in rows if kind != is_positive]
        below = [(mine > other) + 0.5 * (mine == other) for other in others]
        expected = (np.mean(below) if is_positive else 1 - np.mean(below)) if others else math.nan
        assert placed[place] == pytest.approx(expected, nan_ok=True)
    if 0 < positive.sum() < len(rows):
        auc = metrics.auc(predictions, positive)
        assert placed[positive].mean() == pytest.approx(auc)
        assert placed[~positive].mean() == pytest.approx(auc)
