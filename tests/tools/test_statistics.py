"""The statistics against simulated truths: many experiments at once, no training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evorank.tools.comparison import decide
from evorank.tools.statistics import (
    Interval,
    cluster_error,
    combine,
    paired_difference,
    seeds_needed,
    t_quantile,
)

EXPERIMENTS = 600


def experiment(rng, effect=0.0, users=120, seeds=4, between_users=0.05, noise=0.2, between_seeds=0.004):
    """Paired loss differences [seeds, rows]: a true effect, users who like the change more or less, seeds."""
    size = 1 + rng.geometric(0.15, users)
    user = np.repeat(np.arange(users), size)
    liking = rng.normal(0, between_users, users)
    row = rng.normal(0, noise, len(user))
    seed = rng.normal(0, between_seeds, seeds)
    own = rng.normal(0, noise / 4, (seeds, len(user)))
    return effect + liking[user] + row + seed[:, None] + own, user


def verdicts(effect, **options):
    rng = np.random.default_rng(int(1e6 * abs(effect)) + len(options))
    found = []
    for _ in range(EXPERIMENTS):
        differences, user = experiment(rng, effect, **options)
        interval = paired_difference(differences, user)
        found.append((interval, decide(interval, 0.001, len(differences), cheap="", metric="loss")[0]))
    return found


# Clusters of unequal size make the mean's own weights random; few users and few seeds are the hard cases.
WORLDS = [
    {},
    {"between_seeds": 0.02},
    {"between_seeds": 0.0},
    {"users": 30},
    {"seeds": 2},
    {"between_users": 0.2},
]


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_no_effect_is_called_better_at_most_at_the_nominal_rate(world):
    found = verdicts(0.0, **world)
    rate = np.mean([verdict == "better" for _, verdict in found])
    assert rate <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / EXPERIMENTS)


@pytest.mark.parametrize("world", WORLDS, ids=str)
def test_intervals_cover_the_truth_about_95_times_in_a_hundred(world):
    truth = -0.01
    covered = np.mean([interval.low <= truth <= interval.high for interval, _ in verdicts(truth, **world)])
    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / EXPERIMENTS)
    if world == {}:
        assert covered <= 0.99  # honest, not merely wide


def test_a_planted_effect_is_found_and_a_planted_harm_too():
    assert np.mean([verdict == "better" for _, verdict in verdicts(-0.04)]) > 0.9
    assert np.mean([verdict == "worse" for _, verdict in verdicts(0.04)]) > 0.9


def test_ignoring_that_rows_belong_to_users_would_be_wrong():
    rng = np.random.default_rng(0)
    wrong = []
    for _ in range(EXPERIMENTS):
        differences, user = experiment(rng, between_users=0.2)
        mean = differences.mean(axis=0)
        naive = mean.std(ddof=1) / math.sqrt(len(mean))
        assert cluster_error(mean, user)[0] > naive
        wrong.append(mean.mean() + 1.96 * naive < 0)
    assert np.mean(wrong) > 0.05


def test_stopping_for_futility_alone_never_adds_false_wins():
    """Only the last rung says `better`; dropping candidates before it can but lower the rate."""
    rng = np.random.default_rng(1)
    wins = kept = 0
    for _ in range(EXPERIMENTS):
        differences, user = experiment(rng)
        first = paired_difference(differences[:1], user, one_seed=(0.006, 3.0))
        if first.low > 0:
            continue
        kept += 1
        wins += paired_difference(differences, user).high < 0
    assert kept < EXPERIMENTS
    assert wins / EXPERIMENTS <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / EXPERIMENTS)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-10, 10)), min_size=2, max_size=40))
def test_the_cluster_error_is_its_formula(rows):
    users, values = (np.array(column) for column in zip(*rows, strict=True))
    error, degrees = cluster_error(values, users)
    names = sorted(set(users))
    if len(names) < 2:
        assert error == math.inf
        return
    residual = values - values.mean()
    sums = sum(residual[users == name].sum() ** 2 for name in names)
    g = len(names)
    assert error == pytest.approx(math.sqrt(g / (g - 1) * sums) / len(values), abs=1e-9)
    assert 1 <= degrees <= g - 1 or g == 2


def test_rows_of_their_own_give_the_plain_standard_error():
    values = np.random.default_rng(0).normal(size=50)
    error, degrees = cluster_error(values, np.arange(50))
    assert error == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert degrees == 49


def test_the_degrees_of_freedom_are_those_of_the_noisier_part():
    assert combine(0.0, (1.0, 1000.0), (1e-9, 3.0)).degrees == pytest.approx(1000, rel=1e-3)
    assert combine(0.0, (1e-9, 1000.0), (1.0, 3.0)).degrees == pytest.approx(3, rel=1e-3)
    assert t_quantile(3) == pytest.approx(3.182, abs=1e-3)
    assert t_quantile(1e9) == pytest.approx(1.960, abs=1e-3)


def test_one_user_or_one_seed_says_nothing_about_others():
    interval = paired_difference(np.ones((4, 3)), np.zeros(3, int))
    assert (interval.low, interval.high) == (-math.inf, math.inf)
    assert decide(interval, 0.1, 4, cheap="", metric="loss")[0] == "inconclusive"
    with pytest.raises(ValueError, match="one seed says nothing"):
        paired_difference(np.ones((1, 3)), np.arange(3))


def interval(low, high, data=0.0, seed=0.01):
    return Interval((low + high) / 2, low, high, data, seed, 10.0)


@pytest.mark.parametrize(
    ("low", "high", "cheap", "verdict"),
    [
        (-0.02, -0.01, "", "better"),
        (-0.02, -0.01, "half the size", "better"),
        (-0.02, 0.005, "half the size", "cheaper"),
        (0.002, 0.005, "half the size", "cheaper"),
        (0.002, 0.005, "", "worse"),
        (-0.005, 0.005, "", "equal"),
        (-0.02, 0.005, "", "inconclusive"),
        (0.005, 0.02, "half the size", "worse"),
        (-0.02, 0.02, "half the size", "inconclusive"),
        (1e-9, 2e-9, "", "equal"),  # what another order of additions gives, with every seed
        (-2e-9, -1e-9, "", "equal"),
    ],
)
def test_a_verdict_follows_from_the_interval_and_the_margin(low, high, cheap, verdict):
    found, reason = decide(interval(low, high), 0.01, 4, cheap=cheap, metric="log_loss")
    assert found == verdict
    assert f"{low:+.5f} to {high:+.5f}" in reason
    mirrored, _ = decide(
        interval(-high, -low), 0.01, 4, cheap=cheap, metric="alignment", lower_is_better=False
    )
    assert mirrored == verdict


def test_an_inconclusive_answer_says_what_would_tell():
    assert "about" in decide(interval(-0.03, 0.01), 0.001, 4, cheap="", metric="loss")[1]
    assert "rows limit it" in decide(interval(-0.03, 0.01, data=0.02), 0.001, 4, cheap="", metric="loss")[1]
    assert seeds_needed(interval(-0.03, 0.01, seed=0.01), 4, 0.01) == 16
    assert seeds_needed(interval(-0.03, 0.01, data=0.006), 4, 0.01) is None
