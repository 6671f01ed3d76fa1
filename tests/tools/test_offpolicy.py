from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evorank.tools.offpolicy import Target, clear_loser, doubly_robust, estimate, snips

ACTIONS = 5
LOGGING = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
PRODUCTION = np.array([0.1, 0.6, 0.1, 0.1, 0.1])
CANDIDATE = np.array([0.05, 0.15, 0.2, 0.5, 0.1])
WORTH = np.array([0.2, 0.3, 0.25, 0.45, 0.3])


def logged(seed: int, users: int = 400, moody: float = 0.15):
    """What a logging policy showed to users whose rewards have a level of their own: user, action, reward."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), rng.geometric(0.2, users))
    action = rng.choice(ACTIONS, len(user), p=LOGGING)
    level = rng.uniform(-moody, moody, users)[user]
    return user, action, (rng.random(len(user)) < WORTH[action] + level).astype(np.float64)


def target(policy, action, model=None, logging=LOGGING):
    weights = (policy / logging)[action]
    if model is None:
        return Target(weights)
    return Target(weights, model[action], np.full(len(action), float(policy @ model)))


def evaluate(seed: int, model=None, logging=LOGGING, **changes):
    user, action, reward = logged(seed, **changes)
    arms = (target(policy, action, model, logging) for policy in (PRODUCTION, CANDIDATE))
    return estimate(reward, user, *arms, name="reward")


TRUTH = float(CANDIDATE @ WORTH - PRODUCTION @ WORTH)


@pytest.mark.parametrize("model", [None, WORTH + 0.1, np.zeros(ACTIONS)], ids=["none", "near", "nothing"])
def test_intervals_cover_the_true_difference_and_estimates_have_no_bias(model):
    found = [evaluate(seed, model) for seed in range(600)]
    for method in range(1 if model is None else 2):
        each = [one.estimates[method] for one in found]
        covered = np.mean([one.low <= TRUTH <= one.high for one in each])
        assert 0.925 <= covered <= 0.975  # 600 repetitions: 0.95 ± 2.8 errors
        differences = np.array([one.difference for one in each])
        assert abs(differences.mean() - TRUTH) < 4 * differences.std() / np.sqrt(len(found))
        assert np.mean([one.error for one in each]) == pytest.approx(differences.std(), rel=0.1)


def test_a_model_of_the_reward_narrows_the_interval_and_is_right_where_weights_are_wrong():
    plain, robust = evaluate(0, WORTH).estimates
    assert robust.high - robust.low < plain.high - plain.low
    skewed = np.array([0.3, 0.3, 0.2, 0.1, 0.1])  # not what the log was drawn from
    bias = np.zeros(2)
    for seed in range(40):
        _, action, reward = logged(seed, users=2_000)
        arm = target(CANDIDATE, action, WORTH, skewed)
        bias += np.array([method(reward, arm)[0] for method in (snips, doubly_robust)]) - CANDIDATE @ WORTH
    assert abs(bias[1] / 40) < 0.003 < 0.006 < abs(bias[0] / 40)


def test_the_same_impressions_again_are_no_new_users():
    user, action, reward = (np.repeat(each, 4) for each in logged(3, users=300))
    arms = target(PRODUCTION, action), target(CANDIDATE, action)
    by_users, once = estimate(reward, user, *arms, "r").estimates[0], evaluate(3, users=300).estimates[0]
    assert by_users.error == pytest.approx(once.error)
    by_rows = estimate(reward, np.arange(len(user)), *arms, "r").estimates[0]
    assert by_rows.error < 0.6 * by_users.error


@given(scale=st.floats(0.1, 10), shift=st.floats(-5, 5), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=25)
def test_estimates_follow_the_unit_of_the_reward(scale, shift, seed):
    user, action, reward = logged(seed)
    one, other = (
        estimate(r, user, target(PRODUCTION, action, q), target(CANDIDATE, action, q), "r")
        for r, q in ((reward, WORTH), (scale * reward + shift, scale * WORTH + shift))
    )
    for before, after in zip(one.estimates, other.estimates, strict=True):
        assert after.candidate == pytest.approx(scale * before.candidate + shift, abs=1e-9)
        assert after.low == pytest.approx(scale * before.low, abs=1e-9)
        assert after.high == pytest.approx(scale * before.high, abs=1e-9)


def test_the_same_ranking_twice_differs_by_exactly_nothing():
    user, action, reward = logged(1)
    same = target(CANDIDATE, action, WORTH)
    for each in estimate(reward, user, same, same, "r").estimates:
        assert (each.difference, each.low, each.high) == (0.0, 0.0, 0.0)


def test_too_little_support_is_an_answer_and_never_blocks():
    assert "shown at random" in (
        estimate(*[np.zeros(0)], np.zeros(0, int), *[Target(np.zeros(0))] * 2, "r").unsupported or ""
    )
    few = evaluate(0, users=90)
    assert few.unsupported is not None
    assert "90 users" in few.unsupported
    user, _, reward = logged(0)
    rare = Target(np.where(np.arange(len(user)) % 50 == 0, 50.0, 0.0))
    found = estimate(-reward, user, Target(np.ones(len(user))), rare, "r")
    assert found.unsupported is not None
    assert "the candidate" in found.unsupported
    assert 0 < found.effective_candidate < 100 < found.effective_production
    assert not found.estimates
    assert not clear_loser(found, 0.0)


def test_weights_that_are_not_of_mean_one_are_refused():
    user, action, reward = logged(0, users=2_000)
    wrong = target(CANDIDATE, action, logging=LOGGING[::-1])
    found = estimate(reward, user, target(PRODUCTION, action), wrong, "r")
    assert found.unsupported is not None
    assert "instead of 1" in found.unsupported


def test_a_loser_is_clear_only_where_the_whole_interval_is_below_the_margin():
    user, action, reward = logged(0, users=4_000)
    worse, better = target(PRODUCTION, action), target(CANDIDATE, action)
    found = estimate(reward, user, better, worse, "r")
    (only,) = found.estimates
    at_most = -only.high / only.production
    assert clear_loser(found, 0.99 * at_most)
    assert not clear_loser(found, 1.01 * at_most)
    assert not clear_loser(estimate(reward, user, worse, better, "r"), 0.0)
    with pytest.raises(ValueError, match="margin"):
        clear_loser(found, 1.0)
    assert str(found).startswith("off-policy, r per impression")
    assert found.evidence == "off-policy"


def test_numbers_that_are_none_are_refused():
    user, action, reward = logged(0)
    arm = target(CANDIDATE, action)
    with pytest.raises(ValueError, match="finite"):
        estimate(np.where(user == 0, np.nan, reward), user, arm, arm, "r")
    with pytest.raises(ValueError, match="one length"):
        estimate(reward[1:], user[1:], arm, arm, "r")
