"""The query against a reading by hand, in plain Python, of the same small and dirty tables."""

from __future__ import annotations

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta

import duckdb
import numpy as np
import pytest

from evorank.model.errors import LogError
from evorank.tools.abtest.effects import correlation
from evorank.tools.abtest.moments import Moments
from evorank.tools.abtest.plan import Metric, Plan
from evorank.tools.abtest.sufficient import Statistics, collect, newest_row

START = datetime(2026, 3, 2, 10)
METRICS = (
    Metric(name="watch", source="visits", value="sum(watch_s)", success=True, margin=0.02),
    Metric(
        name="dislikes",
        source="visits",
        value="sum(dislike)",
        denominator="count(*)",
        margin=0.1,
        higher_is_better=False,
    ),
    Metric(
        name="active",
        source="(SELECT * FROM days)",
        value="count(DISTINCT day)",
        grain="day",
        success=True,
        rows_expected=False,
    ),
)
PLAN = Plan(experiment_id="e1", start=START, metrics=METRICS, pre_days=7)


def tables(seed: int, users: int = 120):
    """Exposures with repeats, crossings, strays and gaps; visits; one row per user and active day."""
    rng = random.Random(seed)
    exposures, visits = [], []
    for user in range(users):
        arm = str(rng.randrange(2))
        for _ in range(rng.randrange(4)):
            at = START + timedelta(hours=rng.uniform(-30, 15 * 24))
            exposures.append((user, at, "e1", arm))
        if rng.random() < 0.05:
            exposures.append(
                (user, START + timedelta(hours=rng.uniform(0, 300)), "e1", "1" if arm == "0" else "0")
            )
        if rng.random() < 0.05:
            exposures.append((user, START + timedelta(hours=1), "e1", "7"))
        exposures.append((user, START, "another", str(1 - int(arm))))
        for _ in range(rng.randrange(30) if rng.random() < 0.9 else 0):
            at = START + timedelta(hours=rng.uniform(-12 * 24, 16 * 24))
            visits.append(
                (user, at, None if rng.random() < 0.02 else rng.uniform(0, 100), rng.random() < 0.1)
            )
    exposures += [(None, START, "e1", "0"), (3, None, "e1", "1"), (3, START, "e1", None)]
    visits.append((None, START, 5.0, False))
    return exposures, visits


def connect(exposures, visits, user_type: str = "BIGINT"):
    connection = duckdb.connect()
    for name, columns, rows in (
        (
            "exposures",
            "user_id VARCHAR, timestamp TIMESTAMP, experiment_id VARCHAR, variation_id INT",
            exposures,
        ),
        ("visits", f"user_id {user_type}, timestamp TIMESTAMP, watch_s DOUBLE, dislike INT", visits),
    ):
        connection.execute(f"CREATE TABLE {name} ({columns})")
        values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows)
        connection.execute(f"INSERT INTO {name} VALUES {values}")
    connection.execute(
        "CREATE TABLE days AS SELECT DISTINCT user_id, date_trunc('day', timestamp) AS timestamp, "
        "CAST(timestamp AS DATE) AS day FROM visits"
    )
    return connection


def literal(value) -> str:
    return "NULL" if value is None else str(int(value)) if isinstance(value, bool) else f"'{value}'"


def by_hand(exposures, visits, until: datetime, last: datetime | None = None):
    """{metric: {arm: rows of users}}, users in one arm, counts of the others."""
    first, arms = {}, defaultdict(set)
    for user, at, experiment, arm in exposures:
        if experiment == "e1" and None not in (user, at, arm) and START <= at < until:
            first[user] = min(at, first.get(user, at))
            arms[user].add(arm)
    rows = {m.name: {"0": [], "1": []} for m in METRICS}
    midnight = START.replace(hour=0)
    for user, at_first in first.items():
        if len(arms[user]) > 1 or not arms[user] <= {"0", "1"}:
            continue
        mine = [visit for visit in visits if visit[0] == user]
        days = {visit[1].replace(hour=0, minute=0, second=0, microsecond=0) for visit in mine}
        opened = at_first.replace(hour=0, minute=0, second=0, microsecond=0)
        (arm,) = arms[user]

        def known(end, at_first=at_first, opened=opened, mine=mine, days=days):
            now = [v for v in mine if at_first <= v[1] < end]
            active = sum(opened <= day < end for day in days)
            return {
                "watch": (sum(v[2] or 0 for v in now), 1),
                "dislikes": (sum(v[3] for v in now), len(now)),
                "active": (active, 1),
            }

        past = [v for v in mine if START - timedelta(days=7) <= v[1] < START]
        past_days = sum(START - timedelta(days=7) <= day < midnight for day in days)
        pre = {
            "watch": (sum(v[2] or 0 for v in past), 1, bool(past)),
            "dislikes": (sum(v[3] for v in past), len(past), bool(past)),
            "active": (past_days, 1, past_days > 0),
        }
        for metric in rows:
            row = [*known(until)[metric], *pre[metric]]
            if last:
                seen = at_first < last
                row += [x * seen for x in (*known(last)[metric], *pre[metric])] + [seen]
            rows[metric][arm].append([float(x) for x in row])
    crossed = sum(len(found) > 1 for found in arms.values())
    unknown = sum(len(found) == 1 and not found <= {"0", "1"} for found in arms.values())
    return rows, crossed, unknown


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("days", [3, 14])
def test_the_query_reads_what_a_person_would_read(seed, days):
    exposures, visits = tables(seed)
    until, last = START + timedelta(days=days), START + timedelta(days=days - 1)
    found = collect(connect(exposures, visits), PLAN, "exposures", until, last)
    rows, crossed, unknown = by_hand(exposures, visits, until, last)
    assert (found.crossed, found.unknown, found.unusable) == (crossed, unknown, 3)
    assert found.users_control == len(rows["watch"]["0"]) > 10
    assert crossed > 0
    for metric in METRICS:
        both = [Moments.of(np.array(rows[metric.name][arm])) for arm in "01"]
        arms = found.metrics[metric.name]
        for ours, theirs in zip((arms.control, arms.candidate), both, strict=True):
            assert ours.users == theirs.n
            assert ours.mean == pytest.approx(theirs.now.mean, abs=1e-9)
            assert np.array(ours.cov) == pytest.approx(theirs.now.cov, abs=1e-9)
        expected = float(correlation(*both, metric.threshold)) if metric.margin is not None else np.nan
        assert arms.memory == (pytest.approx(expected) if np.isfinite(expected) else None)
    assert found.metrics["watch"].memory is not None
    visited = sum(row[1] > 0 for row in rows["dislikes"]["0"])
    assert found.metrics["dislikes"].control.with_rows == visited


def test_ids_may_be_texts_in_one_table_and_numbers_in_the_other_and_times_may_have_zones():
    exposures, visits = tables(9)
    numbers = collect(connect(exposures, visits), PLAN, "exposures", PLAN.end)
    texts = connect(exposures, visits, "VARCHAR")
    texts.execute("SET TimeZone = 'UTC'")
    texts.execute("ALTER TABLE exposures ALTER timestamp TYPE TIMESTAMPTZ")
    found = collect(texts, PLAN, "(SELECT * FROM exposures)", PLAN.end.replace(tzinfo=UTC))
    assert (found.users_control, found.crossed) == (numbers.users_control, numbers.crossed)
    for name, arms in numbers.metrics.items():
        assert found.metrics[name].candidate.mean == pytest.approx(arms.candidate.mean)
        assert found.metrics[name].candidate.with_rows == arms.candidate.with_rows
    assert Statistics.model_validate_json(numbers.model_dump_json()) == numbers


def test_a_table_without_exposures_reads_as_zero_users():
    connection = connect([(1, START, "other", "0")], [(1, START, 1.0, False)])
    found = collect(connection, PLAN, "exposures", PLAN.end)
    assert (found.users_control, found.users_candidate) == (0, 0)
    assert found.metrics["watch"].control.users == 0


def test_the_newest_row_is_that_of_whichever_metric_table_goes_on_longest():
    third = START + timedelta(days=3)
    visits = [(1, at, 5.0, 0) for at in (START, third)]  # the table of days has them at midnight
    connection = connect([(1, START, "e1", "0")], visits)
    assert newest_row(connection, PLAN, START + timedelta(days=9)) == third
    assert newest_row(connection, PLAN, third.replace(tzinfo=UTC)) == datetime(
        third.year, third.month, third.day
    )
    assert newest_row(connection, PLAN, START - timedelta(days=9)) is None
    connection.execute("ALTER TABLE visits RENAME COLUMN timestamp TO moment")
    with pytest.raises(LogError, match="cannot be read"):
        newest_row(connection, PLAN, third)


def test_large_values_with_a_small_spread_keep_their_variance():
    exposures = [(user, START, "e1", str(user % 2)) for user in range(1000)]
    visits = [(user, START + timedelta(hours=1), 1e9 + user % 5, False) for user in range(1000)]
    found = collect(connect(exposures, visits), PLAN, "exposures", PLAN.end).metrics["watch"].control
    assert found.cov[0][0] == pytest.approx(2.0, rel=0.01)


def test_tables_that_cannot_be_read_are_told_with_what_they_need():
    connection = connect(*tables(0))
    with pytest.raises(LogError, match="variation_id"):
        collect(connection, PLAN, "(SELECT user_id, timestamp, experiment_id FROM exposures)", PLAN.end)
    with pytest.raises(LogError, match="nowhere"):
        collect(connection, PLAN, "nowhere", PLAN.end)
    connection.execute("UPDATE visits SET watch_s = 'infinity' WHERE watch_s > 99")
    with pytest.raises(LogError, match="'watch' must be finite"):
        collect(connection, PLAN, "exposures", PLAN.end)


def test_raw_sums_of_another_platform_give_the_same_moments():
    users = np.random.default_rng(0).gamma(1.0, size=(3, 50, 5))
    direct = Moments.of(users)
    from_sums = Moments.from_sums(np.full(3, 50), users.sum(axis=1), np.swapaxes(users, 1, 2) @ users)
    assert from_sums.mean == pytest.approx(direct.mean)
    assert from_sums.cov == pytest.approx(direct.cov)
