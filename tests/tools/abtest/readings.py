"""A plan with one success metric and two guardrails, and statistics of it with chosen numbers."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np

from evorank.tools.abtest.plan import Metric, Plan
from evorank.tools.abtest.sufficient import ArmStatistics, MetricStatistics, Statistics

START = datetime(2026, 3, 2)
ACTIVE = Metric(name="active_days", source="t", value="count(*)", success=True, margin=0.02)
DISLIKES = Metric(
    name="dislikes", source="t", value="sum(d)", denominator="count(*)", margin=0.05, higher_is_better=False
)
PLAN = Plan(experiment_id="e", start=START, metrics=(ACTIVE, DISLIKES))


def arm(mean: float, spread: float, users: int, with_rows: int | None = None) -> ArmStatistics:
    cov = np.zeros((5, 5))
    cov[0, 0] = spread**2
    rows = users if with_rows is None else with_rows
    return ArmStatistics(users=users, with_rows=rows, mean=[mean, 1, 0, 1, 0], cov=cov.tolist())


def reading(day: int, users: int = 10_000, memory: float | None = None, **lifts: float) -> Statistics:
    """After `day` days: each metric has mean 1 in production and a relative error of sqrt(2 / users)."""
    return Statistics(
        experiment_id="e",
        until=START + timedelta(days=day),
        users_control=users,
        users_candidate=users,
        metrics={
            metric.name: MetricStatistics(
                control=arm(1.0, 1.0, users),
                candidate=arm(1.0 + lifts.get(metric.name, 0.0), 1.0, users),
                memory=memory,
            )
            for metric in PLAN.metrics
        },
    )
