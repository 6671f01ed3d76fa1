"""A whole test on real tables: users are hashed into arms under a ramp, served, read daily, and judged."""

from __future__ import annotations

from datetime import datetime, timedelta

import duckdb
import numpy as np
import pytest

from evorank.surfaces.assignment import OUTSIDE, Allocation, HashAssigner
from evorank.tools.abtest.decision import Reading, read_daily, read_horizon
from evorank.tools.abtest.guardrails import before
from evorank.tools.abtest.plan import Metric, Plan
from evorank.tools.abtest.sufficient import collect

pytestmark = pytest.mark.heavy

START = datetime(2026, 3, 2)
USERS = 6_000
RAMP = [0.1, 0.5, *[1.0] * 12]
PLAN = Plan(
    experiment_id="gated-path",
    start=START,
    metrics=(
        Metric(name="visits", source="visits", value="count(*)", success=True, margin=0.1),
        Metric(
            name="dislike_rate",
            source="visits",
            value="sum(dislike)",
            denominator="count(*)",
            margin=0.15,
            higher_is_better=False,
        ),
    ),
)


def serve(lift: float = 0.0, dislikes: float = 0.0, lost: float = 0.0, seed: int = 0):
    """28 days of visits, exposures from the 15th on. Who saw the candidate comes back more or less often."""
    rng = np.random.default_rng(seed)
    rate, users = rng.gamma(1.0, 1.5, USERS) + 0.1, np.arange(USERS)
    visits, exposures, seen = [], [], np.zeros(USERS, bool)
    for day in range(-14, 14):
        arm = np.full(USERS, OUTSIDE)
        if day >= 0:
            arm = HashAssigner().assign(Allocation("gated-path", RAMP[day]), users)
        many = rng.poisson(rate * np.where((arm == 1) & seen, 1.0 + lift, 1.0))
        seen |= (arm != OUTSIDE) & (many > 0)
        user = np.repeat(users, many)
        hour = day * 24 + rng.uniform(0.0, 24.0, len(user))
        disliked = rng.random(len(user)) < 0.1 * np.where(arm[user] == 1, 1.0 + dislikes, 1.0)
        visits.append(np.column_stack([user, hour, disliked]))
        logged = (arm[user] != OUTSIDE) & ((arm[user] == 0) | (user % 100 >= 100 * lost))
        exposures.append(np.column_stack([user, hour, arm[user]])[logged])
    connection = duckdb.connect()
    for name, parts, third in (("visits", visits, "dislike"), ("exposures", exposures, "variation_id")):
        user, hour, other = np.concatenate(parts).T
        table = {"user_id": user.astype(np.int64), "hour": hour, third: other.astype(np.int64)}
        connection.register("rows", table)
        connection.execute(
            f"CREATE TABLE {name} AS SELECT user_id, {third}, 'gated-path' AS experiment_id, "
            f"TIMESTAMP '{START}' + to_microseconds(CAST(hour * 3.6e9 AS BIGINT)) AS timestamp FROM rows"
        )
        connection.unregister("rows")
    return connection


def run(connection) -> list[Reading]:
    """One reading a day, until something is decided."""
    readings: list[Reading] = []
    for day in range(1, 15):
        history = [look for reading in readings for look in reading.looks]
        until = START + timedelta(days=day)
        statistics = collect(connection, PLAN, "exposures", until, before(history, until))
        readings.append((read_horizon if until >= PLAN.end else read_daily)(PLAN, statistics, history))
        if readings[-1].decision is not None:
            break
    return readings


def test_a_better_candidate_is_launched_at_the_horizon_and_not_before():
    readings = run(serve(lift=0.15))
    assert len(readings) == 14
    decision = readings[-1].decision
    assert decision is not None
    assert (decision.outcome, decision.rule) == ("launch", "superior_and_safe")
    (visits, _) = readings[-1].effects
    assert visits.lift_low is not None
    assert visits.lift_high is not None
    assert 0.0 < visits.lift_low < 0.15 < visits.lift_high + 0.02
    assert visits.variance_reduction > 0.3
    bounds = [look.bound for reading in readings for look in reading.looks if look.bound is not None]
    assert len(bounds) > 14
    assert all(1.6 < bound < 3.5 for bound in bounds)


def test_a_candidate_that_changes_nothing_is_not_launched():
    decision = run(serve(seed=1))[-1].decision
    assert decision is not None
    assert (decision.outcome, decision.rule) == ("no_launch", "no_superior_metric")


@pytest.mark.parametrize(("lift", "dislikes"), [(-0.35, 0.0), (0.15, 1.0)])
def test_a_harmful_candidate_is_aborted_within_days_whatever_else_it_gains(lift, dislikes):
    readings = run(serve(lift, dislikes, seed=2))
    decision = readings[-1].decision
    assert decision is not None
    assert (decision.outcome, decision.rule) == ("abort", "guardrail_broken")
    assert len(readings) <= 7


def test_lost_exposures_of_one_arm_are_noticed():
    readings = run(serve(lost=0.15, seed=3))
    decision = readings[-1].decision
    assert decision is not None
    assert decision.rule == "data_quality"
    assert "cannot be equal arms" in decision.reason
