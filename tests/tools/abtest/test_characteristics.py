"""The promises of the judgement, kept over thousands of tests with a known truth."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from characteristics import DAYS, MINIMUM_USERS, daily, guardrail, horizon, path
from readings import PLAN, START, reading
from traffic import experiments

from evorank.tools.abtest.effects import compare, correlation
from evorank.tools.abtest.guardrails import harm, look
from evorank.tools.abtest.moments import Moments
from evorank.tools.abtest.quality import SRM_ALPHA, sample_ratio
from evorank.tools.abtest.sequential import boundaries, pocock_spending
from evorank.tools.abtest.sufficient import ArmStatistics, MetricStatistics

pytestmark = pytest.mark.heavy

TESTS = 2_000


@pytest.mark.parametrize("metric", ["visits", "active_days", "dislike_rate"])
def test_at_the_horizon_4_to_6_5_percent_of_a_a_tests_look_different_and_intervals_cover(metric):
    found = horizon(TESTS, 400, metric, seed=11)
    assert 0.04 <= found.significant <= 0.065
    assert 0.93 <= found.covers <= 0.97
    assert found.variance_reduction > 0.2


@pytest.mark.parametrize(("metric", "lift"), [("visits", 0.12), ("visits", -0.12), ("dislike_rate", 0.3)])
def test_planted_effects_are_found_with_the_computed_power_and_intervals_cover_them(metric, lift):
    found = horizon(TESTS, 400, metric, lift, seed=12)
    assert 0.5 < found.predicted < 0.8
    noise = np.sqrt(found.predicted * (1 - found.predicted) / TESTS)
    assert found.found == pytest.approx(found.predicted, abs=3 * noise)
    assert 0.93 <= found.covers <= 0.97


def test_daily_looks_at_two_guardrails_abort_at_most_5_5_percent_of_a_a_tests():
    found = daily(TESTS, 400, ("visits", "dislike_rate"), seed=13)
    assert 0.02 <= found.aborted <= 0.055
    # What the bounds are for: a point estimate would have stopped most of them.
    assert found.point_estimate > 0.5


def test_harm_of_exactly_the_margin_is_aborted_as_rarely_and_harm_far_beyond_it_early():
    within = daily(TESTS, 400, ("visits",), margin=0.05, seed=14, visits=-0.05)
    assert 0.02 <= within.aborted <= 0.055
    beyond = daily(200, 400, ("visits",), margin=0.05, seed=15, visits=-0.4)
    assert beyond.aborted > 0.95
    assert beyond.first_half > 0.9


def test_daily_checks_of_the_sample_ratio_rarely_stop_a_healthy_test():
    rng = np.random.default_rng(16)
    arrivals = rng.poisson(300, (20_000, 14, 2)).cumsum(axis=1)
    p = sample_ratio(arrivals[..., 0], arrivals[..., 1])
    assert (p[:, -1] < SRM_ALPHA).mean() < 0.002
    assert (p < SRM_ALPHA).any(axis=1).mean() < 0.01
    # A loss of 3% in one arm is seen.
    assert (sample_ratio(100_000, 97_000)) < SRM_ALPHA


def test_the_many_at_once_judgement_is_the_one_a_single_test_gets():
    ((control, candidate),) = experiments(8, 400, seed=17, metrics=("visits",), chunk=8)
    arms, metric = (control.metrics["visits"], candidate.metrics["visits"]), guardrail("visits", 0.02)
    plan = PLAN.model_copy(update={"metrics": (metric,), "minimum_users": MINIMUM_USERS})
    memory = correlation(*arms, metric.threshold)
    z = harm(compare(arms[0].now, arms[1].now), metric)
    ready = np.minimum(arms[0].n, arms[1].n) >= MINIMUM_USERS
    spent = pocock_spending(np.arange(1, DAYS + 1) / DAYS, plan.abort_alpha)
    bounds = boundaries(path(ready, memory), spent)
    for test in range(8):
        history = []
        for day in range(DAYS):
            one = [Moments(m.n[test, day], m.mean[test, day], m.cov[test, day]).now for m in arms]
            statistics = reading(day + 1).model_copy(
                update={
                    "until": START + timedelta(days=day + 1),
                    "metrics": {
                        "visits": MetricStatistics(
                            control=ArmStatistics.of(one[0], 0),
                            candidate=ArmStatistics.of(one[1], 0),
                            memory=memory[test, day] if day else None,
                        )
                    },
                }
            )
            history.append(look(plan, metric, statistics, history))
        shown = [np.inf if each.bound is None else each.bound for each in history]
        assert shown == pytest.approx(bounds[test].tolist())
        scores = [np.nan if each.z is None else each.z for each in history]
        assert scores == pytest.approx(np.where(ready[test], z[test], np.nan).tolist(), nan_ok=True)
