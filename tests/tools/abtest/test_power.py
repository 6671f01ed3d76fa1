from __future__ import annotations

import math

import numpy as np
import pytest
from readings import PLAN

from evorank.tools.abtest.moments import Moments
from evorank.tools.abtest.power import days_to_detect, detectable, plan_power, power_of, variation


def past(correlation: float, users: int = 50_000) -> Moments:
    rng = np.random.default_rng(0)
    pre = rng.normal(10.0, 5.0, users)
    value = 10.0 + correlation * (pre - 10.0) + math.sqrt(1 - correlation**2) * rng.normal(0.0, 5.0, users)
    one = np.ones(users)
    return Moments.of(np.stack([value, one, pre, one, one], axis=-1))


def test_the_detectable_effect_is_the_textbook_one_and_its_power_is_the_asked_one():
    # Lehr's rule: 16 s²/d² users per arm for 80% power.
    effect = detectable(0.5, 10_000)
    assert 16 * 0.5**2 / effect**2 == pytest.approx(10_000, rel=0.05)
    for power in (0.6, 0.8, 0.95):
        smallest = detectable(0.5, 3_000, power, 0.99)
        assert power_of(smallest, 0.5, 3_000, 0.99) == pytest.approx(power, abs=1e-6)
    assert power_of(0.0, 0.5, 1_000) == pytest.approx(0.025)
    assert detectable(0.5, 0) == math.inf


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.9])
def test_cuped_shrinks_the_variation_by_what_the_past_explains(correlation):
    assert variation(past(correlation), cuped=False) == pytest.approx(0.5, rel=0.02)
    assert variation(past(correlation)) == pytest.approx(0.5 * math.sqrt(1 - correlation**2), rel=0.02)


def test_days_are_the_first_whole_weeks_that_suffice():
    arrivals = [1_000 * day**0.5 for day in range(1, 43)]  # users come back: concave
    days = days_to_detect(0.03, 0.5, arrivals)
    assert days is not None
    assert days % 7 == 0
    assert detectable(0.5, arrivals[days - 1]) <= 0.03 < detectable(0.5, arrivals[days - 8])
    assert days_to_detect(0.001, 0.5, arrivals) is None


def test_an_under_powered_test_is_flagged_with_what_it_would_take():
    arrivals = [2_000.0 * (day + 1) for day in range(56)]
    report = plan_power(PLAN, {"active_days": past(0.8), "dislikes": past(0.0)}, arrivals, wanted=0.02)
    active, guarded, dislikes = report.metrics
    assert (active.role, guarded.role, dislikes.role) == ("success", "guardrail", "guardrail")
    assert active.enough
    assert active.users == 28_000
    assert report.underpowered == []
    blind = plan_power(PLAN, {"active_days": past(0.0), "dislikes": past(0.0)}, arrivals, wanted=0.01)
    assert len(blind.underpowered) == 1
    assert "find a lift of +1.00%" in blind.underpowered[0]
    assert "days would do" in blind.underpowered[0]
    with pytest.raises(ValueError, match="14 days"):
        plan_power(PLAN, {}, arrivals[:5], wanted=0.01)


def test_a_metric_without_a_positive_past_cannot_be_planned_and_says_so():
    zeros = Moments.of(np.zeros((10, 5)) + np.array([0, 1, 0, 1, 0]))
    report = plan_power(PLAN, {"active_days": zeros, "dislikes": past(0.0)}, [1e6] * 14, wanted=0.01)
    assert report.metrics[0].detectable is None
    assert "nothing relative can be planned" in report.underpowered[0]
    assert report.model_validate_json(report.model_dump_json()) == report
