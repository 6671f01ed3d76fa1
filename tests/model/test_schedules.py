"""Schedules: shares of the run, whatever its length."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evorank.model.schedules import SCHEDULES, check_schedule, schedule_factor


def curve(name, steps=100, **args):
    return [schedule_factor(name, args, step, steps) for step in range(steps)]


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 300), st.floats(0, 0.99))
def test_every_schedule_stays_between_zero_and_one(name, steps, warmup):
    assert all(0 <= factor <= 1 for factor in curve(name, steps, warmup=warmup))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_starts_at_the_full_rate_and_never_rises_after_warmup(name):
    factors = curve(name, warmup=0.1)
    assert factors[:10] == sorted(factors[:10])
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_linear_cosine_and_exponential_end_at_final():
    for name in ("linear", "cosine", "exponential"):
        assert curve(name, final=0.2)[-1] == pytest.approx(0.2)
    assert curve("linear")[-1] == 0.0


def test_step_drops_at_each_share_of_the_run():
    assert curve("step", 8, every=0.25, factor=0.5) == [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]


def test_a_schedule_keeps_its_shape_when_the_run_is_shorter():
    assert curve("cosine", 11)[5] == pytest.approx(curve("cosine", 101)[50])


@pytest.mark.parametrize(
    ("name", "args", "pointer", "said"),
    [
        ("cosin", {}, "/optimizer/schedule/name", "Did you mean cosine?"),
        ("linear", {"warmpu": 0.1}, "/optimizer/schedule/args/warmpu", "Did you mean warmup?"),
        ("linear", {"gamma": 0.1}, "/optimizer/schedule/args/gamma", "not an argument"),
        ("linear", {"warmup": 1.0}, "/optimizer/schedule/args/warmup", "must lie in [0, 1)"),
        ("step", {"factor": 0}, "/optimizer/schedule/args/factor", "must lie in (0, 1]"),
        ("cosine", {"final": "0.1"}, "/optimizer/schedule/args/final", "finite number"),
    ],
)
def test_a_bad_schedule_is_told_where_and_why(name, args, pointer, said):
    (finding,) = check_schedule(name, args)
    assert finding.pointer == pointer
    assert said in str(finding)


def test_a_good_schedule_has_no_findings():
    assert check_schedule("step", {"every": 0.5, "factor": 0.1, "warmup": 0}) == []
