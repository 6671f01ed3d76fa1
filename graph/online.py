"""The online loop: the life of a candidate in production as a graph, one LangGraph thread per experiment.

    START -> proposed -> validated -> training -> live -> completed -> END

A node does one thing and comes back to itself until its phase is over; every phase may end in `completed`
(withdrawn, rejected, failed, aborted). What takes days is parked, not slept: `interrupt` ends the tick, and
the next tick resumes the thread with a signal. What a node does to the outside carries a key made of the
experiment's id and the step, and what it is about to do is in the checkpoint before: killed at any point, a
node that runs again has the same effect, once.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Command, interrupt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evorank.graph.context import Context, context_of
from evorank.graph.evidence import off_policy
from evorank.graph.operations import Operations, open_operations, rebase
from evorank.graph.reading import read
from evorank.graph.state import Experiment, Phase, Result, Usage
from evorank.graph.watched import watched
from evorank.model.delta import diff, fingerprint
from evorank.model.errors import (
    ConfigurationError,
    EvorankError,
    PlatformError,
    RefusedDelta,
    Stopped,
    ToolError,
)
from evorank.surfaces.online import Online
from evorank.surfaces.platform import LiveTest
from evorank.tools.abtest.plan import Plan, naive_utc
from evorank.tools.compute_eval import compute_eval
from evorank.tools.compute_loss import compute_loss
from evorank.tools.offpolicy import clear_loser
from evorank.tools.validation import ExpectedPower, drift, enough_rows, expected_power

__all__ = ["OnlineInput", "OnlineOutput", "OnlineState", "Signal", "builder", "graph"]

OVERTAKEN = "But production has changed since the test began, so it is proposed anew on top of it."
Parked = Literal["slot", "approval", "day", "platform"]


class Signal(BaseModel):
    """What a parked experiment is told."""

    model_config = ConfigDict(extra="forbid")
    action: Literal["tick", "approve", "abort"] = Field(
        default="tick", description="tick: go on if it is time; approve: let it pass; abort: end it"
    )
    hold: bool = Field(
        default=False, description="Look at the guardrails of a live test, and at nothing else: it is paused"
    )
    by: str = Field(default="", description="Who says so, for the journal")
    reason: str = Field(default="", description="Why, for the journal")

    @model_validator(mode="before")
    @classmethod
    def _may_be_a_word(cls, said: Any) -> Any:
        return {"action": said} if isinstance(said, str) else said


class OnlineInput(BaseModel):
    """One candidate to take through production."""

    record: dict[str, Any] = Field(description="The experiment, as Experiment.model_dump() gives it")
    context: dict[str, Any] | None = Field(
        default=None, description="evorank's context, when a graph with another context is around this one"
    )


class OnlineOutput(BaseModel):
    """What came of it."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    record: dict[str, Any] = Field(default_factory=dict)
    """The finished experiment: what the journal keeps."""


class OnlineState(OnlineInput, OnlineOutput):
    """An experiment's thread. `record` is plain JSON: a checkpoint must outlive a class."""

    record: dict[str, Any] = Field(default_factory=dict)


def proposed(
    state: OnlineState, runtime: Runtime[Context]
) -> Command[Literal["proposed", "validated", "completed"]]:
    """Wait in the queue; then put the delta on production as it is today."""
    experiment = Experiment.model_validate(state.record)
    operations = _operations(state, runtime)
    if "proposed" not in experiment.times:
        return _go(experiment, "proposed", operations)
    signal = _park("slot", "a free place in the surface's traffic")
    if signal.action == "abort":
        return _end(experiment, "withdrawn", _said(signal))
    production = operations.production()
    try:
        phi = rebase(experiment.changes, operations.production_of(experiment.production), production)
    except RefusedDelta as refusal:
        return _refused(experiment, f"It does not fit today's production: {refusal}", refusal)
    if fingerprint(phi) == fingerprint(production):
        return _end(experiment, "rejected", "Today's production has these changes already.")
    rebased = {
        "phi": phi,
        "fingerprint": fingerprint(phi),
        "production": fingerprint(production),
        "changes": diff(production, phi),
    }
    return _go(experiment.model_copy(update=rebased), "validated", operations)


def validated(
    state: OnlineState, runtime: Runtime[Context]
) -> Command[Literal["validated", "training", "completed"]]:
    """Measure the candidate on the newest data, and what a test could see; flags wait for a person."""
    experiment = Experiment.model_validate(state.record)
    operations = _operations(state, runtime)
    if experiment.validation is not None:
        signal = _park("approval", " ".join(experiment.validation["flags"]))
        if signal.action == "abort":
            return _end(experiment, "withdrawn", _said(signal))
        if signal.action == "approve":
            return _go(_approved(experiment, "validation", signal, operations), "training", operations)
        return _go(experiment, "validated", operations)
    _tell(experiment, "measuring it on the newest data")
    try:
        found, usage, refusal = _validate(experiment, operations)
    except RefusedDelta as refused:
        return _refused(experiment, f"It is not valid on today's production: {refused}", refused)
    except ToolError as error:
        return _end(experiment, "failed", str(error))
    experiment = experiment.model_copy(update={"validation": found, "usage": experiment.usage + usage})
    if refusal:
        return _end(experiment, "rejected", refusal)
    return _go(experiment, "validated" if found["flags"] else "training", operations)


def training(state: OnlineState, runtime: Runtime[Context]) -> Command[Literal["live", "completed"]]:
    """Train production and the candidate on the same newest log, export both, and load them elsewhere.

    Both, because a candidate that has seen newer data than production would win by that alone. What serves
    and what the holdback keeps are trained on it too.
    """
    experiment = Experiment.model_validate(state.record)
    operations = _operations(state, runtime)
    operations.prepare(lambda text: _tell(experiment, text))  # its renewed log is what both are trained on
    arms: dict[str, str] = {}
    try:
        for arm, phi in (
            ("control", operations.production_of(experiment.production)),
            ("candidate", experiment.phi),
        ):
            folder = operations.train(phi, lambda text: _tell(experiment, text))
            arms[arm] = str(folder.relative_to(operations.home))
    except RefusedDelta as refusal:
        return _end(experiment, "rejected", str(refusal))
    except (ToolError, ConfigurationError) as error:  # the latter: what is there is not what was exported
        return _end(experiment, "failed", f"The full training failed: {error}")
    try:
        operations.refresh(lambda text: _tell(experiment, text))
    except EvorankError as error:  # it is not the candidate's fault
        _tell(experiment, f"what serves could not be trained again, and goes on as it is: {error}")
    return _go(experiment.model_copy(update={"artifacts": arms}), "live", operations)


def live(state: OnlineState, runtime: Runtime[Context]) -> Command[Literal["live", "completed"]]:
    """One step of the test: plan it, start it, or read another day of it."""
    experiment = Experiment.model_validate(state.record)
    operations = _operations(state, runtime)
    if experiment.plan is None:
        return _plan(experiment, operations)
    plan = Plan.model_validate(experiment.plan)
    if experiment.trouble:
        signal = _park("platform", experiment.trouble)
        if signal.action == "abort":
            return _end(experiment, "aborted", _said(signal))
        return _try_again(experiment, plan, operations, hold=signal.hold)
    if not experiment.started:
        return _start(experiment, plan, operations)
    if experiment.decision is not None:  # superior and safe; a person has the last word
        signal = _park("approval", f"Launch? {experiment.decision['reason']}")
        if signal.action == "abort":
            return _end(experiment, "no_launch", _said(signal))
        if signal.action == "approve":
            return _win(_approved(experiment, "launch", signal, operations), operations)
        return _go(experiment, "live", operations)
    signal = _park("day", "the next day of traffic", due=_next_day(experiment, plan))
    if signal.action == "abort":
        return _end(experiment, "aborted", _said(signal))
    return _read(experiment, plan, operations, hold=signal.hold)


def completed(state: OnlineState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Give the traffic back, launch the winner, and leave the record to the journal.

    Under the journal's own saver this thread is the record; under another's (a server's) it is added here.
    """
    experiment = Experiment.model_validate(state.record)
    operations = _operations(state, runtime)
    if experiment.plan is not None:  # a start that was not answered may have begun it all the same
        operations.platform.stop(experiment.id, key=f"{experiment.id}/stop")
    if experiment.result == "launched":
        version = operations.schedule.launch_over(
            experiment.production,
            phi=experiment.phi,
            artifact=experiment.artifacts["candidate"],
            experiment=experiment.id,
            why=experiment.hypothesis,
            key=f"{experiment.id}/launch",
        )
        if version is None:
            experiment = experiment.model_copy(
                update={"result": "superseded", "reason": f"{experiment.reason} {OVERTAKEN}"}
            )
        else:
            operations.serve()
            experiment = experiment.model_copy(update={"version": version.version})
    experiment = _dated(experiment, "completed", operations)
    operations.session.journal.append(experiment)
    _tell(experiment, f"{experiment.result}: {experiment.reason}")
    return {"record": experiment.model_dump(mode="json")}


def online_builder() -> StateGraph[OnlineState, Context, Any, Any]:
    """The uncompiled graph; it needs a checkpointer, because a test outlives any process."""
    online: StateGraph[OnlineState, Context, Any, Any] = StateGraph(
        OnlineState, context_schema=Context, input_schema=OnlineInput, output_schema=OnlineOutput
    )
    for node in (proposed, validated, training, live, completed):
        online.add_node(node.__name__, watched(node))
    online.add_edge(START, "proposed")
    online.add_edge("completed", END)
    return online


builder = online_builder()
graph = builder.compile(name="online")
"""Compiled bare: `langgraph dev` and surrounding graphs bring their own checkpointer."""


# -- what nodes do


def _validate(experiment: Experiment, operations: Operations) -> tuple[dict[str, Any], Usage, str]:
    """What was found, what it cost, and why the candidate is not fit for traffic, or "".

    RefusedDelta: not even valid; it was when it was proposed, so production has changed under it.
    """
    before = operations.bench.dataset
    bench = operations.renew()
    found: dict[str, Any] = {
        "comparison": None,
        "findings": [],
        "off_policy": None,
        "power": None,
        "flags": [],
    }
    findings = bench.check(experiment.phi)
    if findings:
        raise RefusedDelta(findings)
    rows = enough_rows(bench.dataset, operations.online.minimum_rows)
    if rows.serious:
        return found, Usage(), " ".join(map(str, rows.findings))
    objective = bench.system.objective(bench.production)
    moved = drift(before, bench.dataset, objective)
    found["findings"] = [str(each) for each in moved.findings]
    found["flags"] = [str(each) for each in moved.findings if each.serious]
    reward = bench.system.objective(experiment.phi) != objective
    measure = compute_eval if reward else compute_loss
    try:
        comparison = measure(experiment.phi, bench, lambda text: _tell(experiment, text))
    except Stopped as stopped:
        return found, Usage(), f"On the newest data: {stopped}"
    except RefusedDelta as refusal:
        return found, Usage(), str(refusal)
    usage = Usage(cpu_seconds=comparison.cpu_seconds)
    found["comparison"] = comparison.model_dump(mode="json")
    if comparison.verdict == "worse":
        return found, usage, f"Worse than production on the newest data: {comparison.reason}"
    if comparison.verdict == "equal" and _rests_on_the_proxy(experiment, operations):
        why = "What it gained on the proxy is gone: on the newest data and today's production"
        return found, usage, f"{why} it makes no difference. {comparison.reason}"
    production = operations.production_of(experiment.production)
    replayed = off_policy(experiment.phi, production, operations, lambda text: _tell(experiment, text))
    found["off_policy"] = replayed.model_dump(mode="json")
    if clear_loser(replayed):
        return found, usage, f"A clear loser on what was shown at random, so nobody is shown it: {replayed}"
    online = operations.online
    low, high = online.slot(0)
    with operations.platform.connect() as connection:
        power = expected_power(
            connection, _planned(experiment, operations), high - low, online.ramp, online.wanted_lift
        )
    found["power"] = power.model_dump(mode="json")
    found["flags"] += _too_weak(power)
    return found, usage, ""


def _rests_on_the_proxy(experiment: Experiment, operations: Operations) -> bool:
    """Whether a gain of the proxy is all that speaks for a candidate: nobody asked for it by hand, and it has
    not won a live test yet."""
    if (experiment.proxy or {}).get("verdict") not in ("better", "cheaper"):
        return False
    others = operations.session.journal.experiments(operations.surface.name)
    return not any(
        other.attempt == experiment.attempt and (other.decision or {}).get("outcome") == "launch"
        for other in others
        if other.id != experiment.id
    )


def _too_weak(power: ExpectedPower) -> list[str]:
    """Why a test may not answer: no success metric it could see, or a guardrail it could not show."""
    if power.report is None:
        return [power.basis]
    weak = [each for each in power.report.metrics if not each.enough]
    hopeless = not any(each.enough for each in power.report.metrics if each.role == "success")
    return [f"Under-powered: {each}" for each in weak if hopeless or each.role == "guardrail"]


def _plan(experiment: Experiment, operations: Operations) -> Command[Literal["live", "completed"]]:
    """Write down what the test will measure and where, before it starts."""
    slot = operations.slot(
        {other.slot for other in _others(experiment, operations) if other.slot is not None}
    )
    if slot is None:
        signal = _park("slot", "a free place in the surface's traffic")
        if signal.action == "abort":
            return _end(experiment, "withdrawn", _said(signal))
        return _go(experiment, "live", operations)
    update = {
        "plan": _planned(experiment, operations).model_dump(mode="json"),
        "slot": slot,
        "coverage": operations.online.coverage(0),
    }
    return _go(experiment.model_copy(update=update), "live", operations)


def _planned(experiment: Experiment, operations: Operations) -> Plan:
    """What a test that starts now would measure, and until when."""
    online = operations.online
    return Plan(
        experiment_id=experiment.id,
        start=operations.platform.now(),
        horizon_days=online.horizon_days,
        pre_days=online.pre_days,
        metrics=online.metrics,
    )


def _start(
    experiment: Experiment, plan: Plan, operations: Operations
) -> Command[Literal["live", "completed"]]:
    assert experiment.slot is not None
    test = LiveTest(
        experiment_id=experiment.id,
        layer=operations.surface.layer,
        slot=operations.online.slot(experiment.slot),
        seed=experiment.id,
        coverage=experiment.coverage,
        control=str(operations.home / experiment.artifacts["control"]),
        candidate=str(operations.home / experiment.artifacts["candidate"]),
    )
    try:
        operations.platform.start(test, key=f"{experiment.id}/start")
    except PlatformError as error:
        return _unreachable(experiment, "start", error, operations)
    _tell(experiment, f"live on {experiment.coverage:.0%} of its slot until {plan.end:%Y-%m-%d}")
    return _go(experiment.model_copy(update={"started": True}), "live", operations)


def _try_again(
    experiment: Experiment, plan: Plan, operations: Operations, *, hold: bool
) -> Command[Literal["live", "completed"]]:
    """What the platform did not do. A test that it knows nothing of is planned anew: its days have not begun,
    and its place may be another's by now."""
    if hold and not experiment.started:
        return _go(experiment, "live", operations)
    experiment = experiment.model_copy(update={"trouble": ""})
    if experiment.started:
        return _read(experiment, plan, operations, hold=hold)
    try:
        status = operations.platform.status(experiment.id)
    except PlatformError as error:
        return _unreachable(experiment, "start", error, operations)
    if status.state == "unknown":
        experiment = experiment.model_copy(update={"plan": None, "slot": None})
    return _go(experiment, "live", operations)


def _read(
    experiment: Experiment, plan: Plan, operations: Operations, *, hold: bool
) -> Command[Literal["live", "completed"]]:
    """Read the days up to now: guardrails first, then the horizon, then at most one step of the ramp.

    `hold`: guardrails only.
    """
    now = operations.platform.now()
    if now < _next_day(experiment, plan):
        return _go(experiment, "live", operations)  # a second tick on the same day
    try:
        status = operations.platform.status(experiment.id)
        if status.state != "running":
            return _end(experiment, "aborted", f"The platform says that the test is {status.state}.")
        seen = read(plan, operations.platform, now, experiment.readings, conclude=not hold)
    except PlatformError as error:
        return _unreachable(experiment, "read", error, operations)
    except EvorankError as error:  # tables that are not there, or hold nonsense
        return _end(experiment, "aborted", f"The test cannot be read: {error}")
    experiment = experiment.model_copy(
        update={"readings": [*experiment.readings, seen.as_record()], "effects": seen.effects}
    )
    if seen.decision is not None:
        experiment = experiment.model_copy(update={"decision": seen.decision})
        outcome, reason = seen.decision["outcome"], seen.decision["reason"]
        if outcome == "abort":
            return _end(experiment, "aborted", reason)
        if outcome == "no_launch":
            return _end(experiment, "no_launch", reason)
        if operations.session.context.approve:
            return _go(experiment, "live", operations)
        return _win(experiment, operations)
    coverage = experiment.coverage if hold else _ramp(operations.online, plan, now, experiment.coverage)
    if coverage > experiment.coverage:
        try:
            operations.platform.ramp(experiment.id, coverage, key=f"{experiment.id}/ramp/{coverage:g}")
        except PlatformError as error:
            return _unreachable(experiment, "ramp", error, operations)
    return _go(experiment.model_copy(update={"coverage": coverage}), "live", operations)


def _win(experiment: Experiment, operations: Operations) -> Command[Literal["live", "completed"]]:
    """Launch it, unless production is no longer what it was compared with, or it must win twice."""
    assert experiment.decision is not None
    reason = str(experiment.decision["reason"])
    if fingerprint(operations.production()) != experiment.production:
        return _end(experiment, "superseded", f"{reason} {OVERTAKEN}")
    if operations.session.context.replicate and experiment.replication_of is None:
        return _end(experiment, "no_launch", f"{reason} It is proposed again, to win with fresh coins too.")
    return _end(experiment, "launched", reason)


def _ramp(online: Online, plan: Plan, now: datetime, coverage: float) -> float:
    """Coverage for the coming day: one step at most, however late the tick."""
    wanted = online.coverage(max(0, (naive_utc(now) - plan.start).days))
    return min((step for step in online.ramp if coverage < step <= wanted), default=coverage)


def _unreachable(
    experiment: Experiment, doing: str, error: PlatformError, operations: Operations
) -> Command[Literal["live", "completed"]]:
    """The platform did not do it. The experiment stays where it is, and the next tick tries again."""
    trouble = f"The platform could not {doing} the test: {error}"
    return _go(experiment.model_copy(update={"trouble": trouble}), "live", operations)


# -- what nodes share


def _operations(state: OnlineState, runtime: Runtime[Context]) -> Operations:
    return open_operations(context_of(state.context, runtime))


def _park(waits_for: Parked, text: str, due: datetime | None = None) -> Signal:
    """End this tick here; the next one goes on with what it says."""
    told = {"waits_for": waits_for, "text": text, "due": due.isoformat() if due else None}
    return interrupt(told, response_schema=Signal)


def _dated(experiment: Experiment, phase: Phase, operations: Operations) -> Experiment:
    times = {phase: operations.platform.now().isoformat()} | experiment.times
    return experiment.model_copy(update={"phase": phase, "times": times})


def _go(experiment: Experiment, phase: Phase, operations: Operations) -> Command[Any]:
    moved = _dated(experiment, phase, operations)
    return Command(update={"record": moved.model_dump(mode="json")}, goto=phase)


def _end(experiment: Experiment, result: Result, reason: str) -> Command[Any]:
    ended = experiment.model_copy(update={"result": result, "reason": reason})
    return Command(update={"record": ended.model_dump(mode="json")}, goto="completed")


def _refused(experiment: Experiment, reason: str, refusal: RefusedDelta) -> Command[Any]:
    """Today's production refuses it: what CODE must mend is in the record."""
    findings = [finding.as_dict() for finding in refusal.findings]
    return _end(experiment.model_copy(update={"findings": findings}), "rejected", reason)


def _approved(experiment: Experiment, what: str, signal: Signal, operations: Operations) -> Experiment:
    approval = {"what": what, "by": signal.by, "reason": signal.reason}
    approval["at"] = operations.platform.now().isoformat()
    return experiment.model_copy(update={"approvals": [*experiment.approvals, approval]})


def _next_day(experiment: Experiment, plan: Plan) -> datetime:
    """A day after the last reading, by the surface's clock: downtime never shortens a day."""
    last = experiment.readings[-1]["until"] if experiment.readings else None
    begun = datetime.fromisoformat(last) if last else plan.start
    return begun.replace(tzinfo=UTC) + timedelta(days=1)


def _others(experiment: Experiment, operations: Operations) -> list[Experiment]:
    """The other experiments of this surface that have traffic, or are about to."""
    found = operations.session.journal.experiments(operations.surface.name)
    return [each for each in found if each.id != experiment.id and each.result is None]


def _said(signal: Signal) -> str:
    return f"{signal.by or 'somebody'}: {signal.reason or 'no reason given'}"


def _tell(experiment: Experiment, text: str) -> None:
    get_stream_writer()(
        {"event": "experiment", "id": experiment.id, "phase": experiment.phase, "text": text}
        | {"hypothesis": experiment.hypothesis, "result": experiment.result}
    )
