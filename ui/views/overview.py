"""overview: where a surface stands, what runs on it right now and since when, and what all of it gained."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from pydantic import Field

from evorank.graph.activity import Doing
from evorank.graph.spending import by_model
from evorank.graph.state import Usage
from evorank.tools.holdback import Audit
from evorank.ui.source import Run, Snapshot
from evorank.ui.views.common import (
    AttemptLine,
    EffectLine,
    ExperimentLine,
    View,
    attempt_line,
    effect_line,
    experiment_line,
)
from evorank.ui.views.inspection import Waiting, waiting
from evorank.ui.views.rates import Rate, Spent, rate, rates, total

__all__ = [
    "AuditView",
    "Overview",
    "Pace",
    "RunLine",
    "VersionLine",
    "audit_view",
    "overview",
    "run_line",
    "unaudited",
]

SILENT_AFTER = timedelta(minutes=2)
"""A run that lives and has told nothing for so long may be stuck. Trainings tell several times a minute."""
RECENT = 8
DECIDED = ("launched", "no_launch", "superseded", "aborted")


class VersionLine(View):
    """A production version."""

    version: int
    fingerprint: str
    experiment: str | None
    why: str
    at: datetime
    trained: datetime | None = Field(description="When its model was trained again, in the surface's time")


class DoingLine(View):
    """What a run works on."""

    what: str = Field(description="`step 12`, or the id of a live test")
    who: str
    node: str
    text: str
    since: datetime
    at: datetime


class RunLine(View):
    """A run, and whether anybody works on it."""

    run: str
    state: Literal["working", "silent", "gone", "stopped", "finished"] = Field(
        description="working: it told something lately; silent: its process lives and tells nothing; gone: "
        "its process is no more, and it is not finished; stopped: it ended before its last step and said why"
    )
    steps: int
    finished: int
    since: datetime
    last: datetime | None = Field(description="When it last told something")
    reason: str
    resume: str | None = Field(description="The command that goes on with it")
    model: str
    note: str
    attempts: Rate = Field(description="Those it made so far")
    doing: list[DoingLine]


class Pace(View):
    """How fast experiments are done, in the surface's time and in yours. null: nothing to go by yet."""

    days: int | None = Field(description="Days that the surface lived since its first live test")
    per_week: float | None = Field(description="Live tests that were decided, per week of the surface's time")
    hours: float | None = Field(description="Hours of wall clock that runs took")
    per_hour: float | None = Field(description="Live tests that were decided, per hour of wall clock")
    attempts_per_hour: float | None


class AuditView(View):
    """What all launches gained together: everybody against the users whom no launch ever reached."""

    since: datetime
    until: datetime
    users_rest: int
    users_holdback: int
    effects: list[EffectLine]
    failures: list[str] = Field(description="What is wrong with the data; then no effect is to be believed")


class Overview(View):
    """The whole of a surface on one page."""

    surface: str
    surfaces: list[str]
    description: str
    north_star: str | None
    home: str
    at: datetime
    now: datetime | None = Field(description="The surface's time")
    online: bool = Field(description="Whether it has live traffic")
    production: VersionLine | None
    runs: list[RunLine] = Field(description="Those that are not finished, and the newest, newest first")
    attempts: Rate
    experiments: dict[str, int] = Field(description="How many ended, by result")
    never_live: int = Field(description="Of those, how many nobody ever saw")
    by_persona: list[Rate]
    by_category: list[Rate]
    by_model: list[Rate]
    waiting: list[ExperimentLine] = Field(description="Live tests that wait for a person")
    inspections: list[Waiting] = Field(description="Candidates that do, before they are measured")
    live: list[ExperimentLine]
    queue: list[ExperimentLine]
    launches: list[ExperimentLine]
    unaudited: str = Field(description="Why nobody can say what all launches gained together; empty: it can")
    ideas: int = Field(description="Candidates that wait for the next run to measure them")
    cost: Usage
    spent: list[Spent] = Field(description="The same by persona and model")
    pace: Pace
    recent: list[AttemptLine]


def overview(snapshot: Snapshot) -> Overview:
    own = [attempt for attempt in snapshot.attempts if attempt.imported is None]
    lines = [experiment_line(each, snapshot) for each in snapshot.experiments]
    # In the queue's order, where there is one.
    places = {entry.experiment: number for number, entry in enumerate(snapshot.entries)}
    lines.sort(key=lambda line: places.get(line.id, -1))
    spec = snapshot.spec
    current = snapshot.versions[-1] if snapshot.versions else None
    ended: dict[str, int] = {}
    for line in lines:
        if line.result:
            ended[line.result] = ended.get(line.result, 0) + 1
    runs = [run_line(run, snapshot) for run in reversed(snapshot.runs)]
    return Overview(
        surface=snapshot.surface,
        surfaces=list(snapshot.surfaces),
        description=spec.description if spec else "",
        north_star=spec.north_star.name if spec and spec.north_star else None,
        home=snapshot.home,
        at=snapshot.at,
        now=snapshot.now,
        online=bool(spec and spec.online),
        production=VersionLine(
            **current.model_dump(include={"version", "fingerprint", "experiment", "why", "at", "trained"})
        )
        if current
        else None,
        runs=[run for number, run in enumerate(runs) if number == 0 or run.state in ("working", "silent")],
        attempts=rate("all", own),
        experiments=ended,
        never_live=sum(each.result is not None and not each.started for each in snapshot.experiments),
        by_persona=rates(own, "persona"),
        by_category=rates(own, "category"),
        by_model=rates(own, "model"),
        waiting=[line for line in lines if line.waits_for == "approval"],
        inspections=waiting(snapshot),
        live=[
            line
            for line in lines
            if line.result is None and line.phase != "proposed" and line.waits_for != "approval"
        ],
        queue=[line for line in lines if line.result is None and line.phase == "proposed"],
        launches=[line for line in reversed(lines) if line.result == "launched"],
        unaudited=unaudited(snapshot),
        ideas=snapshot.ideas,
        cost=total([*(call.usage for call in snapshot.calls), _trained(snapshot)]),
        spent=[Spent(**each) for each in by_model(snapshot.calls)],
        pace=_pace(snapshot),
        recent=[attempt_line(attempt, snapshot) for attempt in reversed(snapshot.attempts[-RECENT:])],
    )


def run_line(run: Run, snapshot: Snapshot) -> RunLine:
    """A run as it is at the snapshot's time."""
    activity, summary = run.activity, run.summary
    made = [attempt for attempt in snapshot.attempts if attempt.run == run.name]
    working = activity is not None and not activity.gone
    stopped = (summary or {}).get("stopped")
    if working and activity is not None:
        state: Literal["working", "silent", "gone", "stopped", "finished"] = (
            "silent" if snapshot.at - activity.at > SILENT_AFTER else "working"
        )
    elif summary is not None and not stopped:
        state = "finished"
    else:
        state = "stopped" if summary is not None and stopped else "gone"
    doing = (
        []
        if activity is None or not working
        else [
            *(_doing(f"step {step}", each) for step, each in sorted(activity.steps.items())),
            *(_doing(test, each) for test, each in activity.tests.items()),
        ]
    )
    return RunLine(
        run=run.name,
        state=state,
        steps=run.plan.steps,
        finished=len(made),
        since=activity.begun if activity else datetime.fromisoformat(run.plan.created_at),
        last=activity.at if activity else None,
        reason=str(stopped or ""),
        resume=f"python cli.py run --resume {run.name}" if state in ("gone", "stopped") else None,
        model=str(run.plan.context.get("model") or "embedded engineer"),
        note=activity.note if activity and working else "",
        attempts=rate(run.name, made),
        doing=doing,
    )


def _doing(what: str, doing: Doing) -> DoingLine:
    return DoingLine(
        what=what, who=doing.persona, node=doing.node, text=doing.text, since=doing.since, at=doing.at
    )


def audit_view(audit: Audit, snapshot: Snapshot) -> AuditView:
    metrics = {
        metric.name: metric.model_dump() | {"margin": None}
        for metric in (snapshot.spec.online.metrics if snapshot.spec and snapshot.spec.online else ())
    }
    return AuditView(
        since=audit.since,
        until=audit.until,
        users_rest=audit.users_rest,
        users_holdback=audit.users_holdback,
        effects=[
            line for each in audit.effects for line in effect_line(each.model_dump(mode="json"), metrics)
        ],
        failures=[failure.reason for failure in audit.failures],
    )


def unaudited(snapshot: Snapshot) -> str:
    """Why there is no audit of all launches; empty where there is one."""
    launched = [each.times["completed"] for each in snapshot.experiments if each.result == "launched"]
    online = snapshot.spec.online if snapshot.spec else None
    if not launched:
        return "Nothing was launched yet."
    if online is None or not online.holdback:
        return "Nobody is held back from launches: without `holdback` in surface.toml there is no comparison."
    if snapshot.now is None or snapshot.now <= datetime.fromisoformat(min(launched)):
        return "No day of traffic has passed since the first launch."
    return ""


def _trained(snapshot: Snapshot) -> Usage:
    """Trainings are no calls."""
    records = [each.usage for each in snapshot.attempts] + [each.usage for each in snapshot.experiments]
    return Usage(cpu_seconds=sum(usage.cpu_seconds for usage in records))


def _pace(snapshot: Snapshot) -> Pace:
    decided = [each for each in snapshot.experiments if each.result in DECIDED and each.started]
    began = [each.times["live"] for each in snapshot.experiments if "live" in each.times]
    days = None
    if began and snapshot.now is not None:
        days = max(0, (snapshot.now - datetime.fromisoformat(min(began))).days)
    hours = sum((_hours(run, snapshot) for run in snapshot.runs), 0.0)
    attempts = sum(attempt.imported is None for attempt in snapshot.attempts)
    return Pace(
        days=days,
        per_week=len(decided) / days * 7 if days else None,
        hours=hours or None,
        per_hour=len(decided) / hours if hours else None,
        attempts_per_hour=attempts / hours if hours else None,
    )


def _hours(run: Run, snapshot: Snapshot) -> float:
    """From a run's begin to its last sign of life."""
    begun = datetime.fromisoformat(run.plan.created_at)
    ends = [
        datetime.fromisoformat(attempt.started_at) + timedelta(seconds=attempt.seconds)
        for attempt in snapshot.attempts
        if attempt.run == run.name and attempt.started_at
    ]
    ends += [run.activity.at] if run.activity else []
    return max(0.0, (max(ends) - begun).total_seconds() / 3600) if ends else 0.0
