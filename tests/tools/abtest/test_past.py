"""The power that is expected, against the test that then happens."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_tables import METRICS, START, tables, visits

from evorank.model.errors import LogError
from evorank.surfaces.assignment import OUTSIDE, Allocation, HashAssigner
from evorank.surfaces.online import Metric
from evorank.tools.abtest.effects import compare, effect
from evorank.tools.abtest.past import expected_power
from evorank.tools.abtest.plan import Plan
from evorank.tools.abtest.power import variation
from evorank.tools.abtest.sufficient import collect

PLAN = Plan(experiment_id="e", start=START, horizon_days=14, pre_days=14, metrics=METRICS)
USERS, RAMP, SLOT = 20_000, (0.2, 0.5, 1.0), (0.05, 0.525)


def test_the_expected_power_is_that_of_the_test_which_follows():
    columns = visits(USERS, -28, 14)
    users, days = columns["user_id"], columns["day"]
    exposed = []
    for day in range(14):
        some = users[days == day]
        allocation = Allocation("e", RAMP[min(day, 2)], layer="surface", slot=SLOT)
        arm = HashAssigner().assign(allocation, some)
        exposed.append(np.stack([some, np.full(len(some), day), arm])[:, arm != OUTSIDE])
    user, day, arm = np.concatenate(exposed, axis=1)
    shown = {"user_id": user, "day": day, "experiment_id": np.full(len(user), "e"), "variation_id": arm}
    with tables(columns, shown) as connection:
        expected = expected_power(connection, PLAN, SLOT[1] - SLOT[0], RAMP, wanted=0.03)
        real = collect(connection, PLAN, "exposures", PLAN.end)
    assert (expected.window_days, expected.pre_days) == (14, 14)
    assert "pessimistic" not in expected.basis
    assert expected.report is not None
    for found in expected.report.metrics:
        arms = real.metrics[found.metric]
        assert found.users == pytest.approx(arms.control.users, rel=0.05)
        assert found.users == pytest.approx(arms.candidate.users, rel=0.05)
        assert found.variation == pytest.approx(variation(arms.control.moments), rel=0.1)
        seen = effect(found.metric, arms)
        assert found.variance_reduction == pytest.approx(seen.variance_reduction, abs=0.08)
        # Lehr: a lift of 2.8 errors is found with 80%.
        _, error, _ = compare(arms.control.moments, arms.candidate.moments).lift()
        level = 2.80 if found.role == "guardrail" else 3.08  # two success metrics share 5%
        assert np.log1p(found.detectable) == pytest.approx(level * float(error), rel=0.1)


def by_hand(columns, coverage, window: int) -> float:
    """Users expected to be exposed: each with the highest coverage among the days on which they came."""
    chance = np.zeros(USERS)
    for day in range(window):
        came = columns["user_id"][columns["day"] == day - window]
        chance[came] = np.maximum(chance[came], coverage[min(day, len(coverage) - 1)])
    return float(chance.sum())


@pytest.mark.parametrize("coverage", [0.4, (0.1, 0.4, 0.4, 1.0), (0.25,)])
def test_users_arrive_as_the_ramp_lets_them_in(coverage):
    columns = visits(USERS, -28, 0)
    steps = np.atleast_1d(coverage)
    with tables(columns) as connection:
        found = expected_power(connection, PLAN, 0.5, coverage, wanted=0.03).report
    assert found.metrics[0].users == pytest.approx(by_hand(columns, steps, 14) * 0.5 / 2, abs=1)


def test_a_short_past_makes_the_expectation_worse_never_better():
    columns = visits(USERS, -28, 0)

    def since(first: int):
        some = columns["day"] >= first
        with tables({name: values[some] for name, values in columns.items()}) as connection:
            return expected_power(connection, PLAN, 0.5, 1.0, wanted=0.03)

    whole, shorter_pre, no_horizon = since(-28), since(-20), since(-12)
    assert [(each.window_days, each.pre_days) for each in (whole, shorter_pre, no_horizon)] == [
        (14, 14),
        (14, 6),
        (7, 0),
    ]
    for metric in range(2):
        smallest = [each.report.metrics[metric].detectable for each in (whole, shorter_pre, no_horizon)]
        assert smallest == sorted(smallest)
    assert "6 instead of 14" in shorter_pre.basis
    assert "shorter than the 14 days" in no_horizon.basis
    unknown = since(-6)
    assert unknown.report is None
    assert unknown.underpowered == [unknown.basis]
    assert "power is unknown" in unknown.basis


def test_a_surface_without_any_past_is_unknown_and_a_missing_table_is_named():
    with duckdb.connect() as connection:
        with pytest.raises(LogError, match="days"):
            expected_power(connection, PLAN, 0.5, 1.0, wanted=0.03)
        connection.execute("CREATE TABLE days (user_id INT, timestamp TIMESTAMP, watch_s DOUBLE)")
        assert expected_power(connection, PLAN, 0.5, 1.0, wanted=0.03).report is None


def test_tables_of_rare_events_do_not_say_who_came():
    columns = visits(2_000, -28, 0)
    rare = Metric(
        name="hates",
        source="hated",
        value="sum(hates)",
        rows_expected=False,
        margin=0.1,
        higher_is_better=False,
    )
    plan = PLAN.model_copy(update={"metrics": (METRICS[0], rare)})
    with tables(columns) as connection:
        connection.execute("CREATE VIEW hated AS SELECT user_id, timestamp, hates FROM days WHERE hates > 1")
        found = expected_power(connection, plan, 1.0, 1.0, wanted=0.05).report
        (came,) = connection.execute(
            "SELECT count(DISTINCT user_id) FROM days WHERE timestamp >= $1", [START - timedelta(days=14)]
        ).fetchone()
    assert {each.users for each in found.metrics} == {came // 2}
