from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from openfeature import api
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from scipy.stats import chi2_contingency, chisquare

from evorank.surfaces.assignment import OUTSIDE, Allocation, HashAssigner, bucket_ranges, hash_v2
from evorank.surfaces.platform import Exposure
from evorank.tools.abtest.provider import ExperimentProvider, ExposureHook

USERS = np.arange(200_000)
assign = HashAssigner().assign


@pytest.mark.parametrize(
    ("seed", "user", "bucket"),
    [
        ("seed", "a", 0.0505),
        ("seed", "b", 0.2696),
        ("foo", "ab", 0.2575),
        ("foo", "def", 0.2019),
        ("89123klj", "8952klfjas09ujkasdf", 0.124),
        ("90850943850283058242805", "123", 0.7516),
        ("()**(%$##$%#$#", '___)((*":&', 0.0128),
        ("feature", "123", 0.5231),
    ],
)
def test_the_hash_is_that_of_the_public_growthbook_cases(seed, user, bucket):
    assert hash_v2(seed, [user]) == [bucket]


def slow_hash(seed: str, user: str) -> float:
    def fnv1a32(text: str) -> int:
        value = 2166136261
        for character in text:
            value = ((value ^ ord(character)) * 16777619) % 2**32
        return value

    return fnv1a32(str(fnv1a32(seed + user))) % 10_000 / 10_000


@given(st.text(min_size=0, max_size=12), st.lists(st.text(max_size=12), min_size=1, max_size=8))
def test_many_users_at_once_hash_as_one_by_one(seed, users):
    # A fixed-width array cannot hold a trailing NUL; no id has one.
    users, seed = [user.rstrip("\0") for user in users], seed.replace("\0", "")
    assert hash_v2(seed, users).tolist() == [slow_hash(seed, user) for user in users]


def test_integers_hash_as_their_decimal_text_and_other_types_are_refused():
    assert (hash_v2("s", np.arange(-3, 20)) == hash_v2("s", [str(i) for i in range(-3, 20)])).all()
    assert (hash_v2("s", np.array(["7", 7], dtype=object)) == hash_v2("s", [7, 7])).all()
    assert len(hash_v2("s", [])) == 0
    for wrong in ([1.0, 2.0], np.array([None, "a"], dtype=object), [True]):
        with pytest.raises(TypeError, match="texts or integers"):
            hash_v2("s", wrong)


@pytest.mark.parametrize("seed", ["exp-1", "exp-2", "a longer experiment id, 2026-11"])
def test_buckets_are_uniform_and_parallel_experiments_are_independent(seed):
    bucket = hash_v2(seed, USERS)
    assert chisquare(np.bincount((bucket * 100).astype(int), minlength=100)).pvalue > 1e-4
    other = hash_v2(seed + "x", USERS)
    table = np.histogram2d(bucket, other, bins=10)[0]
    assert chi2_contingency(table).pvalue > 1e-4


@pytest.mark.parametrize(
    ("arms", "coverage", "ranges"),
    [
        (2, 1, [(0, 0.5), (0.5, 1)]),
        (2, 0.5, [(0, 0.25), (0.5, 0.75)]),
        (2, 0, [(0, 0), (0.5, 0.5)]),
        (4, 1, [(0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1)]),
        (2, -0.2, [(0, 0), (0.5, 0.5)]),
        (2, 1.5, [(0, 0.5), (0.5, 1)]),
    ],
)
def test_arms_own_the_ranges_of_the_public_growthbook_cases(arms, coverage, ranges):
    assert np.allclose(bucket_ranges(arms, coverage), ranges)


def test_arms_are_equal_and_as_large_as_the_coverage():
    arms = assign(Allocation("e", 0.3), USERS)
    sizes = [(arms == arm).sum() for arm in (0, 1)]
    assert chisquare(sizes).pvalue > 1e-3
    assert sum(sizes) / len(USERS) == pytest.approx(0.3, abs=0.005)
    assert (assign(Allocation("e", 1.0), USERS) != OUTSIDE).all()
    assert (assign(Allocation("e", 0.0), USERS) == OUTSIDE).all()


@settings(max_examples=60)
@given(
    st.text(min_size=1, max_size=10).filter(lambda text: "\0" not in text),
    st.lists(st.floats(0, 1), min_size=2, max_size=6).map(sorted),
    st.integers(2, 5),
)
def test_raising_coverage_never_moves_an_assigned_user(experiment, ramp, arms):
    users = np.arange(2_000)
    before = np.full(len(users), OUTSIDE)
    for coverage in ramp:
        now = assign(Allocation(experiment, coverage, arms=arms), users)
        moved = (before != OUTSIDE) & (now != before)
        assert not moved.any()
        before = now


def test_nobody_is_in_two_experiments_of_a_layer_and_a_holdback_is_in_none():
    slots = {"a": (0.0, 0.45), "b": (0.45, 0.95)}
    taken = [
        assign(Allocation(name, 1.0, layer="home", slot=slot), USERS) != OUTSIDE
        for name, slot in slots.items()
    ]
    assert not (taken[0] & taken[1]).any()
    held = ~(taken[0] | taken[1])
    assert held.mean() == pytest.approx(0.05, abs=0.003)
    # Inside a slot the arms stay equal: the layer's hash says nothing about the arm's.
    arms = assign(Allocation("a", 1.0, layer="home", slot=slots["a"]), USERS)
    assert chisquare([(arms == 0).sum(), (arms == 1).sum()]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"coverage": 1.2}, "coverage"),
        ({"coverage": 1.0, "slot": (0.5, 0.5)}, "slot"),
        ({"coverage": 1.0, "slot": (0.0, 0.5)}, "layer"),
        ({"coverage": 1.0, "layer": "e"}, "must differ"),
        ({"coverage": 1.0, "arms": 1}, "arms"),
    ],
)
def test_an_impossible_allocation_is_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        Allocation("e", **fields)


def test_an_openfeature_client_gets_the_same_arms_and_logs_who_was_exposed():
    allocations = {"e": Allocation("e", 0.5)}
    written: list[Exposure] = []
    now = datetime(2026, 1, 1, tzinfo=UTC)
    api.set_provider_and_wait(ExperimentProvider(allocations), domain="abtest")
    client = api.get_client(domain="abtest")
    client.add_hooks([ExposureHook(written.append, lambda: now)])
    users = [f"user-{i}" for i in range(60)]
    arms = assign(allocations["e"], users)
    answers = [client.get_string_value("e", "production", EvaluationContext(user)) for user in users]
    assert answers == ["production" if arm == OUTSIDE else str(arm) for arm in arms]
    expected = [Exposure(u, now, "e", str(a)) for u, a in zip(users, arms, strict=True) if a != OUTSIDE]
    assert written == expected
    assert 10 < len(expected) < 50

    del allocations["e"]  # a stop is a change of the mapping
    gone = client.get_string_details("e", "production", EvaluationContext(users[0]))
    assert (gone.value, gone.error_code) == ("production", ErrorCode.FLAG_NOT_FOUND)
    allocations["e"] = Allocation("e", 1.0)
    assert client.get_string_details("e", "x").error_code == ErrorCode.TARGETING_KEY_MISSING
    wrong = client.get_boolean_details("e", False, EvaluationContext("u"))
    assert (wrong.value, wrong.error_code) == (False, ErrorCode.TYPE_MISMATCH)
    assert written == expected
