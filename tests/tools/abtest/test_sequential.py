from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import multivariate_normal, norm

from evorank.tools.abtest.sequential import boundaries, crossing, pocock_spending


def equal(looks):
    return np.arange(1, looks + 1) / looks


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.10, [1.875, 1.992, 2.067, 2.122]),
        (0.05, [2.178, 2.289, 2.361, 2.413]),
        (0.01, [2.772, 2.873, 2.939, 2.986]),
    ],
)
def test_the_integration_gives_the_constants_of_pococks_design(alpha, published):
    # Jennison and Turnbull (2000), table 2.1, two-sided: half of alpha on each side.
    for looks, constant in zip(range(2, 6), published, strict=True):
        found = brentq(lambda c, k=looks: crossing(equal(k), np.full(k, c)).sum() - alpha / 2, 1, 4)
        assert found == pytest.approx(constant, abs=6e-4)


@pytest.mark.parametrize(
    ("alpha", "published"),
    [
        (0.025, [2.438, 2.427, 2.410, 2.397, 2.386]),
        (0.05, [2.176, 2.144, 2.113, 2.090, 2.071]),
    ],
)
def test_pocock_type_bounds_are_those_published_by_lan_and_demets(alpha, published):
    found = boundaries(equal(5), pocock_spending(equal(5), alpha))
    assert found == pytest.approx(published, abs=1.1e-3)


def test_another_spending_gives_its_published_bounds_too():
    # O'Brien-Fleming type, one-sided 0.025, five equal looks (Lan and DeMets 1983).
    spent = 2 * norm.sf(norm.isf(0.0125) / np.sqrt(equal(5)))
    assert boundaries(equal(5), spent) == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1.1e-3)


def test_three_looks_agree_with_the_multivariate_normal():
    information, bounds = np.array([0.2, 0.5, 1.0]), np.array([2.5, 2.2, 2.0])
    joint = np.sqrt(np.minimum.outer(information, information) / np.maximum.outer(information, information))
    for drift in (0.0, 1.5, -1.0):
        inside = multivariate_normal(drift * np.sqrt(information), joint, abseps=1e-8, maxpts=10**6).cdf(
            bounds
        )
        assert crossing(information, bounds, drift).sum() == pytest.approx(1 - inside, abs=1e-5)


def test_simulated_walks_cross_as_often_as_computed():
    rng = np.random.default_rng(0)
    information = np.sort(rng.uniform(0.05, 1.0, 14))
    bounds = boundaries(information, pocock_spending(equal(14), 0.05))
    steps = rng.normal(size=(200_000, 14)) * np.sqrt(np.diff(information, prepend=0.0))
    z = steps.cumsum(axis=1) / np.sqrt(information)
    tested = np.isfinite(bounds)
    assert (z >= bounds).any(axis=1).mean() == pytest.approx(0.05, abs=0.0015)
    for drift in (1.0, 3.0):
        power = crossing(information[tested], bounds[tested], drift).sum()
        seen = (z + drift * np.sqrt(information) >= bounds).any(axis=1).mean()
        assert seen == pytest.approx(power, abs=0.004)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(1.0, 4.0), min_size=1, max_size=10),
    st.floats(0.001, 0.2),
    st.lists(st.floats(0.01, 1.0), min_size=10, max_size=10).map(sorted),
)
def test_alpha_is_spent_exactly_and_the_past_does_not_depend_on_the_future(growth, alpha, clock):
    information = np.cumprod(growth)
    spent = pocock_spending(clock[: len(growth)], alpha)
    bounds = boundaries(information, spent)
    for k in range(1, len(bounds)):
        assert boundaries(information[:k], spent[:k]) == pytest.approx(bounds[:k])
    tested = np.isfinite(bounds)
    assert tested[0]
    total = crossing(information[tested], bounds[tested]).sum()
    assert total == pytest.approx(spent[tested][-1], rel=1e-5)


def test_a_look_without_new_information_is_not_tested_and_its_alpha_is_kept():
    spent = pocock_spending(equal(4), 0.05)
    bounds = boundaries([1.0, 1.005, 0.9, 2.0], spent)
    assert np.isinf(bounds[1:3]).all()
    assert bounds[3] == pytest.approx(boundaries([1.0, 2.0], spent[[0, 3]])[1])
    assert bounds[3] < boundaries([1.0, 1.5, 1.8, 2.0], spent)[3]


def test_many_tests_at_once_get_the_bounds_they_would_get_alone():
    rng = np.random.default_rng(1)
    information = np.cumsum(rng.uniform(0.0, 1.0, (20, 6)), axis=1)
    information[3, 2] = information[3, 1]
    information[5, 0] = np.nan
    spent = pocock_spending(equal(6), 0.05)
    alone = np.array([boundaries(each, spent) for each in information])
    assert boundaries(information, spent) == pytest.approx(alone)


def test_the_bound_of_a_single_look_at_the_end_is_that_of_a_plain_test():
    assert boundaries([7.0], pocock_spending([1.0], 0.05))[0] == pytest.approx(norm.isf(0.05))
    assert pocock_spending(0.0, 0.05) == 0
    assert pocock_spending(1.0, 0.05) == pytest.approx(0.05)
    with pytest.raises(ValueError, match="grow"):
        crossing([1.0, 1.0], [2.0, 2.0])
