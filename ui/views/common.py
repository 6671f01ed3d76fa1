"""common: what several views say of an attempt or an experiment; and a change in words.

A difference is candidate minus production in the metric's unit; a *gain* is the same with the sign turned so
that more is better, and as a share of production's value where that is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Attempt, Experiment, Outcome
from evorank.ui.source import Snapshot

__all__ = [
    "INVALID",
    "OUTCOMES",
    "WINS",
    "AttemptLine",
    "EffectLine",
    "ExperimentLine",
    "View",
    "attempt_line",
    "effect_line",
    "experiment_line",
    "in_words",
    "plan_metrics",
    "state_of",
    "value_in_words",
]

OUTCOMES: tuple[str, ...] = get_args(Outcome)
WINS = ("better", "cheaper")
INVALID = ("refused", "failed", "duplicate")
"""Outcomes of what was never compared."""


class View(BaseModel):
    """Base of all view models."""

    model_config = ConfigDict(extra="forbid")


class AttemptLine(View):
    """An attempt as a row of a table or a mark in a chart."""

    id: str
    run: str
    step: int
    persona: str
    category: str | None
    model: str
    hypothesis: str
    change: str = Field(description="What differs from production, in a few words")
    outcome: str
    reason: str
    metric: str | None
    difference: float | None = Field(description="Candidate minus production, in the metric's unit")
    low: float | None
    high: float | None
    lower_is_better: bool = True
    production: str = Field(description="Fingerprint of the production it was compared with")
    version: int | None = Field(description="The version that this was")
    started_at: str
    seconds: float
    cpu_seconds: float
    experiment: str | None = Field(default=None, description="The live test that it led to")
    result: str | None = Field(default=None, description="How that ended, or the phase it is in")
    live: bool = Field(default=False, description="Whether it ever went live: people saw it")
    imported: bool = False
    origin: str | None = None

    @property
    def gain(self) -> tuple[float, float, float] | None:
        """Low end, estimate, high end; more is better."""
        if self.difference is None or self.low is None or self.high is None:
            return None
        if self.lower_is_better:
            return -self.high, -self.difference, -self.low
        return self.low, self.difference, self.high


class EffectLine(View):
    """What a live test says of one metric."""

    metric: str
    role: str = Field(description="success or guardrail")
    higher_is_better: bool
    lift: float | None = Field(description="candidate / production - 1")
    low: float | None
    high: float | None
    level: float | None = Field(default=None, description="Of the interval")
    margin: float | None = Field(default=None, description="Acceptable relative harm, for a guardrail")
    basis: str = Field(description="fixed: read once, at the horizon; sequential: allows for daily looking")
    control: float | None = None
    candidate: float | None = None

    @property
    def verdict(self) -> str:
        """good: the whole interval is on the good side of zero; bad: on the bad side, for a guardrail of the
        margin; safe: a guardrail with the margin outside the interval; open: anything else."""
        if self.low is None or self.high is None:
            return "open"
        worst, best = (self.low, self.high) if self.higher_is_better else (-self.high, -self.low)
        bound = -(self.margin or 0.0)
        if worst > 0:
            return "good"
        if best < bound:
            return "bad"
        return "safe" if self.margin and worst > bound else "open"


class ExperimentLine(View):
    """A live test as a row of a table."""

    id: str
    attempt: str | None
    run: str | None
    proposed_by: str
    category: str | None
    hypothesis: str
    change: str
    phase: str
    result: str | None
    state: str = Field(description="How it ended, `waiting` for an approval, or its phase")
    reason: str
    waits_for: str
    position: int | None = Field(description="Place in the queue, 1 is next; null: not in it")
    due: datetime | None
    paused: bool
    begun: datetime | None
    ended: datetime | None
    version: int | None = Field(description="The production version that it became")
    users: tuple[int, int] | None
    effects: list[EffectLine]
    trouble: str
    asked: list[str] = Field(description="What people asked and no tick has done yet")


def in_words(changes: Sequence[Mapping[str, Any]], limit: int = 200) -> str:
    """A patch in a few words: `optimizer.name = RMSprop; optimizer.args.lr = 0.001`."""
    parts = []
    for change in changes:
        path = dotted(str(change.get("path", "")))
        if change.get("op") == "remove":
            parts.append(f"{path} removed")
        elif change.get("op") in ("move", "copy"):
            parts.append(f"{path} from {dotted(str(change.get('from', '')))}")
        elif change.get("op") != "test":
            parts.append(f"{path} = {value_in_words(change.get('value'))}")
    text = "; ".join(parts)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def dotted(pointer: str) -> str:
    """A JSON Pointer as people write paths."""
    return ".".join(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def value_in_words(value: Any) -> str:
    """A value in a line; of code, only what it is."""
    if isinstance(value, Mapping) and "source" in value:
        return f"code ({value.get('kind', 'component')})"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def attempt_line(attempt: Attempt, snapshot: Snapshot) -> AttemptLine:
    comparison = attempt.comparison or {}
    test = snapshot.tested.get(attempt.id)
    return AttemptLine(
        id=attempt.id,
        run=attempt.run,
        step=attempt.step,
        persona=attempt.persona,
        category=attempt.category,
        model=attempt.model,
        hypothesis=attempt.hypothesis,
        change=in_words(attempt.changes or attempt.patch),
        outcome=attempt.outcome,
        reason=attempt.reason,
        metric=comparison.get("metric"),
        difference=comparison.get("difference"),
        low=comparison.get("low"),
        high=comparison.get("high"),
        lower_is_better=bool(comparison.get("lower_is_better", True)),
        production=attempt.production,
        version=snapshot.version_of.get(attempt.production),
        started_at=attempt.started_at,
        seconds=attempt.seconds,
        cpu_seconds=attempt.usage.cpu_seconds,
        experiment=test.id if test else None,
        result=(test.result or test.phase) if test else None,
        live=bool(test and test.started),
        imported=attempt.imported is not None,
        origin=attempt.origin.kind if attempt.origin else None,
    )


def effect_line(effect: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> list[EffectLine]:
    """An effect read at the horizon, once for each role that its metric has in the plan."""
    metric = metrics.get(str(effect["metric"]), {})
    roles = ["success"] if metric.get("success") else []
    roles += ["guardrail"] if metric.get("margin") is not None else []
    return [
        EffectLine(
            metric=str(effect["metric"]),
            role=role,
            higher_is_better=bool(metric.get("higher_is_better", True)),
            lift=effect.get("lift"),
            low=effect.get("lift_low", effect.get("low")),
            high=effect.get("lift_high", effect.get("high")),
            level=effect.get("level"),
            margin=metric.get("margin") if role == "guardrail" else None,
            basis="fixed",
            control=effect.get("control"),
            candidate=effect.get("candidate"),
        )
        for role in roles or ["success"]
    ]


def plan_metrics(experiment: Experiment) -> dict[str, Mapping[str, Any]]:
    return {each["name"]: each for each in (experiment.plan or {}).get("metrics", ())}


def experiment_line(experiment: Experiment, snapshot: Snapshot) -> ExperimentLine:
    entry = snapshot.entry_of.get(experiment.id)
    metrics = plan_metrics(experiment)
    last = experiment.readings[-1] if experiment.readings else None
    return ExperimentLine(
        id=experiment.id,
        attempt=experiment.attempt,
        run=experiment.run,
        proposed_by=experiment.proposed_by,
        category=experiment.category,
        hypothesis=experiment.hypothesis,
        change=in_words(experiment.changes),
        phase=experiment.phase,
        result=experiment.result,
        state=state_of(experiment, snapshot),
        reason=experiment.reason,
        waits_for=_waits_for(experiment, snapshot),
        position=entry.position or None if entry else None,
        due=entry.due if entry else None,
        paused=bool(entry and entry.paused),
        begun=moment(experiment.times.get("proposed")),
        ended=moment(experiment.times.get("completed")),
        version=experiment.version,
        users=(last["users"][0], last["users"][1]) if last else None,
        effects=[line for each in experiment.effects for line in effect_line(each, metrics)],
        trouble=experiment.trouble,
        asked=[
            f"{each.action} by {each.by}" + (f": {each.reason}" if each.reason else "")
            for each in snapshot.asked.get(experiment.id, ())
        ],
    )


def state_of(experiment: Experiment, snapshot: Snapshot) -> str:
    """How it ended, `waiting` for an approval, or its phase."""
    waits = _waits_for(experiment, snapshot)
    return experiment.result or ("waiting" if waits == "approval" else experiment.phase)


def _waits_for(experiment: Experiment, snapshot: Snapshot) -> str:
    entry = snapshot.entry_of.get(experiment.id)
    return "" if entry is None or entry.closed_at else entry.waiting


def moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
