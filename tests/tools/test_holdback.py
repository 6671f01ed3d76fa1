from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest
from live_tables import METRICS, START, tables, visits

from evorank.surfaces.online import Online
from evorank.tools.abtest.quality import sample_ratio
from evorank.tools.holdback import audit

ONLINE = Online(metrics=METRICS, holdback=0.1)
DAYS = 21


def serve(seed: int, users: int = 3_000, lift: float = 0.0, lost: float = 0.0, pre: int = 14, since: int = 0):
    """A launch at START; what raises those who are not held back does so from day `since` on. Exposures are
    daily, some of the holdback's lost."""
    rng = np.random.default_rng(seed)
    rest = rng.random(users) >= ONLINE.holdback
    columns = visits(users, -pre, DAYS, seed, lift=np.where(rest, lift, 0.0), since=since)
    live = columns["day"] >= 0
    user, day = columns["user_id"][live], columns["day"][live]
    gone = rng.random(users) < lost * ~rest
    kept = ~gone[user]
    shown = {
        "user_id": user[kept],
        "day": day[kept],
        "experiment_id": np.full(int(kept.sum()), "holdback"),
        "variation_id": rest[user[kept]].astype(np.int64),
    }
    return tables(columns, shown)


def read(connection, online=ONLINE, **changes):
    return audit(connection, online, "exposures", START, START + timedelta(days=DAYS), **changes)


def test_what_the_launches_gained_is_found_with_its_interval():
    with serve(0, users=20_000, lift=0.08) as connection:
        found = read(connection)
    assert not found.failures
    active, watched = found.effects  # success metrics alone
    assert (active.metric, watched.metric) == ("active_days", "watch_s")
    assert active.lift_low < 0.08 < active.lift_high
    assert active.lift_low > 0
    assert watched.lift_low < 1.08**2 - 1 < watched.lift_high  # more days, and more on each
    assert found.users_holdback == pytest.approx(found.users_rest / 9, rel=0.1)
    assert "21 days" in str(found)


@pytest.mark.heavy
def test_intervals_of_unequal_arms_cover_and_cuped_narrows_them():
    lift, found, plain = 0.05, [], []
    for seed in range(150):
        with serve(seed, users=1_500, lift=lift) as connection:
            found.append(read(connection))
            if seed < 5:
                plain.append(read(connection, ONLINE.model_copy(update={"pre_days": 0})))
    assert not any(one.failures for one in found)
    active = [one.effects[0] for one in found]
    covered = np.mean([one.lift_low <= lift <= one.lift_high for one in active])
    assert 0.90 <= covered <= 0.99  # 150 repetitions: 0.95 ± 2.8 errors
    for one, without in zip(active, plain, strict=False):
        assert one.high - one.low < 0.8 * (without.effects[0].high - without.effects[0].low)


def test_a_gain_that_tests_gave_before_the_launch_is_not_taken_for_a_habit():
    tested = START - timedelta(days=14)
    with serve(1, users=20_000, lift=0.08, pre=28, since=-14) as connection:
        naive, found = read(connection), read(connection, first_test=tested)
        clean = ONLINE.model_copy(update={"pre_days": 0})
        same = [read(connection, clean, **when).effects[1] for when in ({}, {"first_test": tested})]
    assert same[0].model_dump() == pytest.approx(same[1].model_dump())
    assert naive.effects[0].lift_high < 0.08
    assert found.effects[0].lift_low < 0.08 < found.effects[0].lift_high
    assert found.effects[0].variance_reduction > 0.3


def test_lost_exposures_of_the_holdback_are_told_and_then_nothing_is_to_be_believed():
    with serve(0, lost=0.4) as connection:
        found = read(connection)
    (failure,) = found.failures
    assert failure.rule == "sample_ratio"
    assert "in the holdback" in failure.reason
    assert "10.0% and 90.0%" in failure.reason
    assert str(found).startswith("Not to be believed")


def test_the_sample_ratio_of_planned_shares_is_uniform_where_they_hold():
    rng = np.random.default_rng(0)
    for share in (0.05, 0.5):
        control = rng.binomial(4_000, share, 5_000)
        p = sample_ratio(control, 4_000 - control, share)
        for level in (0.05, 0.2, 0.5):
            assert np.mean(p < level) == pytest.approx(level, abs=0.03)
    assert sample_ratio(200, 3_800) < 1e-9 < 0.5 < sample_ratio(200, 3_800, 0.05)


def test_nobody_exposed_is_a_failure_not_a_gain_of_nothing():
    with serve(0) as connection:
        connection.execute("DELETE FROM exposures")
        found = read(connection)
    assert [failure.rule for failure in found.failures] == ["no_exposures"]
    assert found.effects == []


def test_a_surface_without_holdback_and_a_launch_in_the_future_are_refused():
    with serve(0) as connection:
        with pytest.raises(ValueError, match="no holdback"):
            read(connection, ONLINE.model_copy(update={"holdback": 0.0}))
        with pytest.raises(ValueError, match="in this order"):
            audit(connection, ONLINE, "exposures", START, START)
