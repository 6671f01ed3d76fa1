"""Daily visits of many users as metric tables in DuckDB, with what a test or a launch does to them."""

from __future__ import annotations

from datetime import datetime

import duckdb
import numpy as np

from evorank.surfaces.online import Metric

START = datetime(2026, 3, 2)

METRICS = (
    Metric(name="active_days", source="days", value="count(*)", grain="day", success=True, margin=0.02),
    Metric(name="watch_s", source="days", value="sum(watch_s)", grain="day", success=True),
    Metric(
        name="dislike_rate",
        source="days",
        value="sum(hates)",
        denominator="sum(impressions)",
        grain="day",
        margin=0.1,
        higher_is_better=False,
    ),
)


def visits(users: int, first: int, last: int, seed: int = 0, lift=None, since: int = 0):
    """Days [first, last) relative to START as columns: who came, how much they watched, what they disliked.

    `lift` [users]: relative change of everybody's habit and watching from day `since` on.
    """
    rng = np.random.default_rng(seed)
    habit, taste = rng.beta(1.2, 1.8, users), rng.gamma(2.0, 30.0, users)
    angry = rng.beta(1.0, 30.0, users)
    found = []
    for day in range(first, last):
        factor = np.ones(users) if lift is None or day < since else 1.0 + lift
        week = 1.15 if day % 7 >= 5 else 1.0
        came = np.flatnonzero(rng.random(users) < habit * week * 0.8 * factor)
        shown = 1 + rng.poisson(8.0, len(came))
        watched = taste[came] * factor[came] * rng.gamma(2.0, 0.5, len(came))
        found.append(
            np.stack([came, np.full(len(came), day), watched, shown, rng.binomial(shown, angry[came])])
        )
    user, day, watch, shown, hates = np.concatenate(found, axis=1)
    return {
        "user_id": user.astype(np.int64),
        "day": day.astype(np.int64),
        "watch_s": watch,
        "impressions": shown.astype(np.int64),
        "hates": hates.astype(np.int64),
    }


def tables(columns, exposures=None) -> duckdb.DuckDBPyConnection:
    """A connection with the table `days`, and with `exposures`, if there are."""
    connection = duckdb.connect()
    stamp = f"TIMESTAMP '{START}' + to_days(CAST(day AS INTEGER)) AS timestamp"
    connection.register("columns", columns)
    connection.execute(f"CREATE TABLE days AS SELECT * EXCLUDE (day), {stamp} FROM columns")
    if exposures is not None:
        connection.register("shown", exposures)
        connection.execute(f"CREATE TABLE exposures AS SELECT * EXCLUDE (day), {stamp} FROM shown")
    return connection
