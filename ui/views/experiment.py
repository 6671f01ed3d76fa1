"""experiment: one live test whole: its phases, what people did in it, what was decided and by which rule.

The north star is read once, at the horizon; before, only guardrails are known. While a test runs their
intervals are sequential: as wide as daily looking demands, so that they may be looked at every day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import Field

from evorank.graph.state import Experiment, Usage
from evorank.tools.abtest.quality import SRM_ALPHA, sample_ratio
from evorank.ui.source import Snapshot
from evorank.ui.views.common import (
    EffectLine,
    ExperimentLine,
    View,
    effect_line,
    experiment_line,
    moment,
    plan_metrics,
)

__all__ = ["ACTIONS", "Day", "ExperimentView", "PhaseLine", "Point", "Power", "Series", "experiment_view"]

PHASES = ("proposed", "validated", "training", "live", "completed")
ACTIONS = ("approve", "abort", "pause", "resume", "rollback")


class PhaseLine(View):
    """One of the five phases."""

    phase: str
    begun: datetime | None = Field(description="In the surface's time; null: not reached")
    days: float | None = Field(description="How long it took, or takes so far")
    state: Literal["done", "now", "next", "skipped"]


class Day(View):
    """Whom a reading saw."""

    until: datetime
    control: int
    candidate: int
    p: float = Field(description="Of equal arms; below 0.001 the data is not to be believed")
    failures: list[str]


class Point(View):
    """A guardrail at one reading. Relative; null: not tested then."""

    until: datetime
    lift: float | None
    low: float | None = Field(description="Sequential interval, which allows for looking every day")
    high: float | None
    boundary: float | None = Field(description="The lift that would have ended the test on this day")
    broken: bool


class Series(View):
    """A guardrail over time."""

    metric: str
    description: str
    higher_is_better: bool
    margin: float = Field(description="The lift that is no longer acceptable, with its sign")
    points: list[Point]
    final: EffectLine | None = Field(default=None, description="Read at the horizon, with a fixed interval")


class Power(View):
    """What the test could see at all."""

    metric: str
    role: str
    detectable: float | None = Field(description="Smallest lift that is found with the plan's power")
    wanted: float
    power: float
    days: int | None = Field(description="Days that `wanted` takes; null: longer than known")
    enough: bool


class ExperimentView(View):
    """A live test of the journal."""

    line: ExperimentLine
    surface: str
    fingerprint: str
    production: str
    production_version: int | None
    patch: list[dict[str, Any]]
    phases: list[PhaseLine]
    coverage: float
    ramp: list[float] = Field(description="Share of its slot on the first, second ... day; the last stays")
    slot: int | None
    start: datetime | None
    end: datetime | None = Field(description="The horizon: the north star is read then, once")
    days: list[Day]
    series: list[Series]
    forest: list[EffectLine] = Field(
        description="Every metric by role: fixed intervals at the horizon, before it sequential ones"
    )
    unread: list[str] = Field(description="Success metrics that are not read yet")
    power: list[Power]
    power_basis: str
    validation: list[str]
    flags: list[str] = Field(description="What a person had to override")
    decision: dict[str, str] | None = Field(description="outcome, rule, reason")
    approvals: list[dict[str, str]]
    findings: list[str] = Field(description="Why a newer production refused it")
    proxy: dict[str, Any] | None
    replication_of: str | None
    cost: Usage
    actions: list[str] = Field(description="What can be asked of it now")


def experiment_view(
    experiment: Experiment, snapshot: Snapshot, actions: Sequence[str] = ()
) -> ExperimentView:
    """`actions`: what the loop would take of a person now, of ACTIONS."""
    plan = experiment.plan or {}
    start = moment(plan.get("start"))
    end = start + timedelta(days=plan["horizon_days"]) if start else None
    metrics = plan_metrics(experiment)
    effects = [line for each in experiment.effects for line in effect_line(each, metrics)]
    series = _series(experiment, {line.metric: line for line in effects if line.role == "guardrail"})
    validation = experiment.validation or {}
    expected = validation.get("power") or {}
    online = snapshot.spec.online if snapshot.spec else None
    compared = validation.get("comparison")
    return ExperimentView(
        line=experiment_line(experiment, snapshot),
        surface=experiment.surface,
        fingerprint=experiment.fingerprint,
        production=experiment.production,
        production_version=snapshot.version_of.get(experiment.production),
        patch=experiment.changes,
        phases=_phases(experiment, snapshot.now),
        coverage=experiment.coverage,
        ramp=list(online.ramp) if online else [],
        slot=experiment.slot,
        start=start,
        end=end,
        days=[_day(reading) for reading in experiment.readings],
        series=series,
        forest=effects or [line for each in series if (line := _now(each)) is not None],
        unread=[name for name, metric in metrics.items() if metric.get("success")] if not effects else [],
        power=[
            Power(**{name: each[name] for name in Power.model_fields})
            for each in (expected.get("report") or {}).get("metrics", ())
        ],
        power_basis=str(expected.get("basis", "")),
        validation=[
            *([str(compared["reason"])] if compared else []),
            *map(str, validation.get("findings", ())),
        ],
        flags=[str(each) for each in validation.get("flags", ())],
        decision={name: str(value) for name, value in experiment.decision.items()}
        if experiment.decision
        else None,
        approvals=experiment.approvals,
        findings=[
            f"{each.get('pointer', '')} {each.get('rule', '')}. {each.get('hint', '')}".strip()
            for each in experiment.findings
        ],
        proxy=experiment.proxy,
        replication_of=experiment.replication_of,
        cost=experiment.usage,
        actions=list(actions),
    )


def _phases(experiment: Experiment, now: datetime | None) -> list[PhaseLine]:
    times = {phase: moment(experiment.times.get(phase)) for phase in PHASES}
    reached = [phase for phase in PHASES if times[phase] is not None]
    found = []
    for phase in PHASES:
        begun = times[phase]
        if begun is None:
            state: Literal["done", "now", "next", "skipped"] = "skipped" if experiment.result else "next"
            found.append(PhaseLine(phase=phase, begun=None, days=None, state=state))
            continue
        later = [times[each] for each in reached[reached.index(phase) + 1 :]]
        last = phase == "completed" or (not later and experiment.result is None)
        until = later[0] if later else (now if not experiment.result else None)
        days = (until - begun).total_seconds() / 86_400 if until and phase != "completed" else None
        state = "now" if last and phase != "completed" else "done"
        found.append(PhaseLine(phase=phase, begun=begun, days=days, state=state))
    return found


def _day(reading: dict[str, Any]) -> Day:
    control, candidate = reading["users"]
    return Day(
        until=datetime.fromisoformat(reading["until"]),
        control=control,
        candidate=candidate,
        p=float(sample_ratio(control, candidate)),
        failures=[str(each["reason"]) for each in reading["failures"]],
    )


def _series(experiment: Experiment, finals: dict[str, EffectLine]) -> list[Series]:
    found = []
    for name, metric in plan_metrics(experiment).items():
        if metric.get("margin") is None:
            continue
        sign = 1.0 if metric.get("higher_is_better", True) else -1.0
        looks = [look for day in experiment.readings for look in day["looks"] if look["metric"] == name]
        found.append(
            Series(
                metric=name,
                description=str(metric.get("description", "")),
                higher_is_better=sign > 0,
                margin=-sign * float(metric["margin"]),
                points=[_point(look, sign) for look in looks],
                final=finals.get(name),
            )
        )
    return found


def _point(look: dict[str, Any], sign: float) -> Point:
    """z is the distance of the lift from the margin in standard errors, so it tells the error; the sequential
    interval is the estimate with `bound` of them on both sides (Jennison and Turnbull 1989)."""
    lift, z, bound = look["lift"], look["z"], look["bound"]
    worst = -sign * float(look["margin"])
    low = high = boundary = None
    if lift is not None and bound is not None and z is not None and abs(z) > 1e-9:
        error = abs((lift - worst) / z)
        low, high, boundary = lift - bound * error, lift + bound * error, worst - sign * bound * error
    return Point(
        until=datetime.fromisoformat(look["until"]),
        lift=lift,
        low=low,
        high=high,
        boundary=boundary,
        broken=bool(look["broken"]),
    )


def _now(series: Series) -> EffectLine | None:
    last = next((point for point in reversed(series.points) if point.low is not None), None)
    if last is None:
        return None
    return EffectLine(
        metric=series.metric,
        role="guardrail",
        higher_is_better=series.higher_is_better,
        lift=last.lift,
        low=last.low,
        high=last.high,
        margin=abs(series.margin),
        basis="sequential",
    )


def srm(days: Sequence[Day]) -> Day | None:
    """The last reading, if its arms are not equal."""
    return days[-1] if days and days[-1].p < SRM_ALPHA else None
