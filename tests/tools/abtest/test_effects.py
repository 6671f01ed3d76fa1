from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from oracle import users as oracle_users
from scipy.stats import ttest_ind

from evorank.tools.abtest.effects import compare, correlation, effect
from evorank.tools.abtest.moments import Moments
from evorank.tools.abtest.sufficient import ArmStatistics, MetricStatistics

TEA_TASTING = json.loads((Path(__file__).parent / "tea_tasting.json").read_text())


def statistics(control, candidate) -> MetricStatistics:
    arms = [ArmStatistics.of(Moments.of(np.asarray(arm, float)), len(arm)) for arm in (control, candidate)]
    return MetricStatistics(control=arms[0], candidate=arms[1])


def table(value, denominator=None, pre=None, pre_denominator=None, has_pre=None):
    one = np.ones(np.shape(value))
    pre = np.zeros(np.shape(value)) if pre is None else pre
    columns = (value, denominator, pre, pre_denominator, has_pre)
    return np.stack([one if column is None else column for column in columns], axis=-1)


def test_the_effect_on_a_mean_is_welchs():
    rng = np.random.default_rng(0)
    control, candidate = rng.gamma(2.0, 3.0, 80), rng.gamma(2.0, 4.0, 50)
    welch = ttest_ind(candidate, control, equal_var=False)
    for level in (0.95, 0.99):
        interval = welch.confidence_interval(level)
        found = effect("m", statistics(table(control), table(candidate)), level)
        assert found is not None
        assert found.p_value == pytest.approx(welch.pvalue)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
        assert found.difference == pytest.approx(candidate.mean() - control.mean())
        assert found.variance_reduction == 0


@pytest.mark.parametrize(
    ("name", "columns", "cuped"),
    [
        ("mean", ("clicks", None, "pre_clicks", None), False),
        ("cuped", ("clicks", None, "pre_clicks", None), True),
        ("ratio", ("clicks", "visits", "pre_clicks", "pre_visits"), False),
        ("ratio_cuped", ("clicks", "visits", "pre_clicks", "pre_visits"), True),
    ],
)
def test_differences_lifts_and_intervals_are_those_of_tea_tasting(name, columns, cuped):
    users = oracle_users()
    every = table(*(None if column is None else users[column] for column in columns))
    found = effect("m", statistics(every[users["variant"] == 0], every[users["variant"] == 1]), cuped=cuped)
    assert found is not None
    expected = TEA_TASTING[name]
    ours = [
        found.difference,
        found.low,
        found.high,
        found.lift,
        found.lift_low,
        found.lift_high,
        found.p_value,
    ]
    theirs = [
        expected[key]
        for key in (
            "effect_size",
            "effect_size_ci_lower",
            "effect_size_ci_upper",
            "rel_effect_size",
            "rel_effect_size_ci_lower",
            "rel_effect_size_ci_upper",
            "pvalue",
        )
    ]
    # With CUPED they regress over both arms together, we within arms: the same to O(effect / sigma).
    assert ours == (pytest.approx(theirs, rel=0.03, abs=1e-3) if cuped else pytest.approx(theirs))


def test_cuped_is_the_regression_within_arms_and_removes_what_the_past_explains():
    rng = np.random.default_rng(1)
    pre = rng.gamma(2.0, 1.0, 4000)
    has_pre = rng.random(4000) < 0.7
    value = 3.0 * pre + rng.normal(size=4000)
    value[~has_pre] *= 0.5  # newcomers do less
    arm = rng.random(4000) < 0.5
    value[arm] += 0.4
    every = table(value, None, pre * has_pre, None, has_pre.astype(float))
    found = effect("m", statistics(every[~arm], every[arm]))
    design = np.column_stack([np.ones(4000), arm, pre * has_pre, has_pre])
    (_, slope, *_), *_ = np.linalg.lstsq(design, value, rcond=None)
    assert found is not None
    assert found.difference == pytest.approx(slope, abs=1e-6)
    residual = value - design @ np.linalg.lstsq(design, value, rcond=None)[0]
    assert found.high - found.low == pytest.approx(2 * 1.96 * residual.std() * math.sqrt(4 / 4000), rel=0.01)
    # Filling the gaps with zeros alone leaves more noise.
    blind = table(value, None, pre * has_pre, None, np.zeros(4000))
    alone = effect("m", statistics(blind[~arm], blind[arm]))
    assert alone is not None
    assert found.variance_reduction > alone.variance_reduction > 0


def test_a_pre_period_that_nobody_has_or_that_never_varies_changes_nothing():
    rng = np.random.default_rng(2)
    values = [rng.normal(5, 1, 200) for _ in range(2)]
    plain = effect("m", statistics(*(table(v, None, None, None, np.zeros(200)) for v in values)))
    constant = effect("m", statistics(*(table(v, None, np.full(200, 7.0)) for v in values)))
    without = effect("m", statistics(*(table(v) for v in values)), cuped=False)
    assert plain == constant == without


@pytest.mark.parametrize("ratio", [1.0, 0.95, 1.1])
@pytest.mark.parametrize("metric", ["mean", "ratio"])
def test_the_error_of_a_contrast_is_its_spread_over_many_experiments(ratio, metric):
    rng = np.random.default_rng(3)
    keen = rng.gamma(2.0, 1.0, (4000, 2, 150))
    visits = 1 + rng.poisson(3 * keen)
    pre_visits = rng.poisson(3 * keen) * (rng.random(keen.shape) < 0.8)
    clicks, pre = rng.binomial(visits, 0.3), rng.binomial(pre_visits, 0.3)
    has_pre = pre_visits > 0
    if metric == "ratio":
        every = table(clicks, visits, pre, pre_visits, has_pre)
    else:
        every = table(clicks, None, pre, None, has_pre)
    found = compare(Moments.of(every[:, 0]), Moments.of(every[:, 1, :100]))
    estimate, error, _ = found.contrast(ratio)
    assert estimate.std() == pytest.approx(np.sqrt((error**2).mean()), rel=0.04)
    assert estimate.mean() == pytest.approx((1 - ratio) * found.control.mean(), abs=0.05 * error.mean())


def test_the_correlation_of_two_looks_is_the_one_over_many_experiments():
    rng = np.random.default_rng(4)
    keen = rng.gamma(1.0, 1.0, (5000, 2, 120))
    early = rng.random(keen.shape) < 0.5
    then, since = rng.poisson(keen) * early, rng.poisson(1.5 * keen)
    pre = rng.poisson(2 * keen)
    now = table(then + since, None, pre, None, np.ones(keen.shape))
    last = table(then, None, pre, None, np.ones(keen.shape)) * early[..., None]
    both = np.concatenate([now, last, early[..., None]], axis=-1)
    control, candidate = Moments.of(both[:, 0]), Moments.of(both[:, 1])
    for ratio in (1.0, 0.9):
        told = correlation(control, candidate, ratio)
        z = [
            (lambda estimate, error, _: estimate / error)(*compare(*arms).contrast(ratio))
            for arms in ((control.now, candidate.now), (control.last, candidate.last))
        ]
        assert np.median(told) == pytest.approx(np.corrcoef(*z)[0, 1], abs=0.03)
    # A look that knows the same users and values as the last is no new look.
    same = np.concatenate([now, now, np.ones((*keen.shape, 1))], axis=-1)
    assert correlation(Moments.of(same[:, 0]), Moments.of(same[:, 1])) == pytest.approx(np.ones(5000))


def test_a_lift_over_nothing_is_none_and_nobody_to_compare_is_no_effect():
    rng = np.random.default_rng(5)
    found = effect("m", statistics(*(table(rng.normal(0.0, 1.0, 50)) for _ in range(2))))
    assert found is not None
    assert found.lift is found.lift_low is found.lift_high is None
    assert "interval" in str(found)
    assert effect("m", statistics(table(np.ones(1)), table(np.ones(5)))) is None
    assert effect("m", statistics(*(table(np.zeros(5), np.zeros(5)) for _ in range(2)))) is None


def test_two_constant_arms_have_an_interval_of_one_point():
    found = effect("m", statistics(table(np.full(10, 2.0)), table(np.full(10, 2.0))))
    assert found is not None
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert str(found) == "m +0.00% (95% interval +0.00% to +0.00%)"
