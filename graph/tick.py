"""tick: one look at all that is due in a surface's online loop. Nothing sleeps; nothing is lost in between.

A tick may come late, twice, or from two machines at once: an experiment is moved by whoever holds its lease,
and every effect has a key. Where the surface's days pass only when told (a simulation), a tick also lets
them pass.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command
from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.context import Context
from evorank.graph.ideas import Ideas, rework
from evorank.graph.online import Signal, builder
from evorank.graph.operations import Operations, open_operations, rebase
from evorank.graph.schedule import CLOCK_TOLERANCE, Entry
from evorank.graph.selection import select
from evorank.graph.state import Attempt, Experiment, Usage
from evorank.model.delta import apply_delta, diff, fingerprint
from evorank.model.errors import ConfigurationError, EvorankError, Finding, RefusedDelta
from evorank.surfaces.platform import Timelapse
from evorank.surfaces.surface import alone
from evorank.tools.abtest.plan import naive_utc
from evorank.tools.evaluator.artifact import Artifact

__all__ = ["LEASE_SECONDS", "TickReport", "experiment_id", "nominate", "propose", "submit", "tick"]

Event = Mapping[str, Any]
LEASE_SECONDS = 120.0
"""An experiment is held for so long after its process last said that it lives, which it does three times as
often: a training may take hours, and a machine that burnt down holds up the others for minutes."""
_NAMESPACE = uuid.UUID("5b0f4f0e-52f1-5c7e-8a53-0f2f6f2f4d55")


class TickReport(BaseModel):
    """What a tick found and did."""

    model_config = ConfigDict(extra="forbid")
    surface: str
    now: datetime
    """The surface's time when the tick ended."""
    moved: list[dict[str, Any]] = Field(default_factory=list)
    """Experiments that went on: id, phase, result, what they wait for."""
    queued: int = 0
    live: int = 0
    approvals: list[dict[str, str]] = Field(default_factory=list)
    """What waits for a person: id, text."""
    finished: list[str] = Field(default_factory=list)
    """Experiments that ended in this tick."""
    launched: list[str] = Field(default_factory=list)
    errors: list[str] = Field(default_factory=list)
    """What went wrong with one experiment, or with the passing of a day; the next tick tries again."""
    usage: Usage = Field(default_factory=Usage)
    """What asking the strategist cost in this tick."""

    @property
    def idle(self) -> bool:
        """Nothing is queued or under way, but for what waits for a person."""
        return self.queued == 0 and self.live == 0


def experiment_id(surface: str, production: str, candidate: str, again: int = 0) -> str:
    """The id of testing a candidate against a production Φ: the same whoever proposes it, after any crash."""
    return str(uuid.uuid5(_NAMESPACE, f"{surface}/{production}/{candidate}/{again}"))


def nominate(operations: Operations, attempt: Attempt) -> str | None:
    """Queue the candidate of an attempt that won; None if it is known already."""
    if attempt.phi is None or attempt.fingerprint is None:
        return None
    experiment = Experiment(
        id=experiment_id(attempt.surface, attempt.production, attempt.fingerprint),
        surface=attempt.surface,
        run=attempt.run,
        attempt=attempt.id,
        proposed_by=attempt.persona,
        hypothesis=attempt.hypothesis,
        category=attempt.category,
        production=attempt.production,
        changes=attempt.changes,
        phi=attempt.phi,
        fingerprint=attempt.fingerprint,
        proxy=attempt.comparison,
    )
    try:
        return experiment.id if submit(operations, experiment) else None
    except ConfigurationError:
        return None


def submit(operations: Operations, experiment: Experiment, *, again: bool = False) -> bool:
    """Put an experiment into the queue; False if it is there. ConfigurationError names an earlier one of the
    same candidate, unless it is tested `again` on purpose."""
    data = experiment.model_dump(mode="json")
    return operations.schedule.add(experiment.id, experiment.fingerprint, data, again=again)


def tick(
    context: Context,
    on_event: Callable[[Event], None] = lambda _: None,
    *,
    until: datetime | None = None,
    begin: bool = True,
    wait_for_nothing: bool = True,
    run: str | None = None,
    clock_was_ahead: bool = False,
) -> TickReport:
    """Do what is due; where days pass when told, let them pass up to `until`, doing what is due on each.

    `begin`: fill free places from the queue. Without it, tests that are live are seen through.
    `wait_for_nothing`: days pass also while no test is live. `run`: on whose account the strategist is asked.
    `clock_was_ahead`: the surface's clock may be behind what it was; tests that began, or were read, at a
    time that has not come yet are aborted.

    What goes wrong with one experiment is in the report's `errors`, and the others go on. Raises
    EvorankError for what concerns them all: no such surface, no traffic, a clock that went back.
    """
    operations = open_operations(context)
    report = TickReport(surface=operations.surface.name, now=operations.platform.now())
    operations.schedule.clock(report.now, was_ahead=clock_was_ahead)
    operations.prepare(lambda text: on_event({"event": "note", "text": text}))
    _act(operations, report, on_event, begin, run)
    passes = isinstance(operations.platform, Timelapse)
    while passes and until is not None and report.now < until and not operations.session.stop.is_set():
        if not (report.live or wait_for_nothing):
            break
        if not _pass_day(operations, report, on_event, until):
            break
        _act(operations, report, on_event, begin, run)
    return report


def _pass_day(
    operations: Operations, report: TickReport, on_event: Callable[[Event], None], until: datetime
) -> bool:
    """Let a day pass, unless another process let it pass meanwhile. False: it could not."""
    assert isinstance(operations.platform, Timelapse)
    try:
        with alone(operations.surface.directory / "day.lock"):
            report.now = operations.platform.now()
            if report.now < until:
                operations.platform.next_day()
    except EvorankError as error:
        report.errors.append(str(error))
        return False
    report.now = operations.platform.now()
    on_event({"event": "day", "now": report.now.isoformat(), "live": report.live})
    return True


def _act(
    operations: Operations,
    report: TickReport,
    on_event: Callable[[Event], None],
    begin: bool,
    run: str | None,
) -> None:
    """Requests of people first, then what is due, then the queue."""
    operations.schedule.clock(operations.platform.now())
    _roll_back(operations, on_event)
    try:
        operations.refresh(lambda text: on_event({"event": "note", "text": text}), due=True)
    except EvorankError as error:
        report.errors.append(f"what serves could not be trained again, and goes on as it is: {error}")
    asked = {entry.experiment: _requested(operations, entry) for entry in operations.schedule.entries()}
    asked |= _unfit(operations, report)
    for entry in operations.schedule.entries():
        signal = asked.get(entry.experiment)
        if signal is not None or _due(operations, entry):
            _move(operations, entry, signal or Signal(hold=entry.paused), report, on_event)
    if begin:
        _start_next(operations, report, on_event, run)
    _count(operations, report)


def _roll_back(operations: Operations, on_event: Callable[[Event], None]) -> None:
    """Take back the launches that people want taken back. One that is no longer what serves, because this was
    done before a crash or something else was launched since, is left alone."""
    for action in operations.schedule.rollbacks():
        versions = operations.schedule.versions()
        if versions[-1].experiment == action.experiment:
            made = next(each.version for each in versions if each.experiment == action.experiment)
            with suppress(ConfigurationError):  # another tick was quicker
                version = operations.roll_back(made - 1, by=action.by, reason=action.reason)
                on_event({"event": "note", "text": f"serving version {version.version}: {version.why}"})
        operations.schedule.consume(action.id)


def _requested(operations: Operations, entry: Entry) -> Signal | None:
    """The oldest thing that a person asked of an experiment and that nobody did yet."""
    for action in operations.schedule.pending(entry.experiment):
        if action.action in ("pause", "resume"):
            operations.schedule.set(entry.experiment, paused=action.action == "pause")
            operations.schedule.consume(action.id)
        elif action.action in ("approve", "abort"):
            return Signal(action=action.action, by=action.by, reason=action.reason)
    return None


def _unfit(operations: Operations, report: TickReport) -> dict[str, Signal]:
    """Live experiments that cannot go on, whose traffic goes back to production now, whether or not a reading
    is due: with a model that is no longer what was exported, so that nobody has tried what people would be
    shown; or with days that were counted by a clock that was ahead."""
    found = {}
    now = naive_utc(operations.platform.now())

    def abort(experiment: Experiment, by: str, why: str) -> None:
        report.errors.append(f"experiment {experiment.id[:8]} is aborted: {why}")
        found[experiment.id] = Signal(action="abort", by=by, reason=why)

    for experiment in operations.session.journal.experiments(operations.surface.name):
        if experiment.phase != "live" or experiment.result is not None:
            continue
        begun = datetime.fromisoformat(experiment.plan["start"]) if experiment.plan else now
        counted = max([begun, *(datetime.fromisoformat(each["until"]) for each in experiment.readings)])
        if naive_utc(counted) > now + CLOCK_TOLERANCE:
            why = f"its days were counted up to {counted:%Y-%m-%d %H:%M}, by a clock that was ahead."
            abort(experiment, "a check of its clock", why)
            continue
        folders = [operations.home / folder for folder in experiment.artifacts.values()]
        if gone := [str(folder) for folder in folders if not folder.is_dir()]:
            report.errors.append(
                f"experiment {experiment.id[:8]}: {', '.join(gone)} is not on this machine, so what people "
                f"are shown is unknown. Bring it back or: python cli.py online abort {experiment.id[:8]}"
            )
            continue
        try:
            for folder in folders:
                Artifact.open(folder)
        except EvorankError as error:
            abort(experiment, "a check of its models", str(error))
    return found


def _due(operations: Operations, entry: Entry) -> bool:
    """Whether an experiment may go on by itself. One in the queue waits to be chosen; one that has left it
    and found no place in the traffic tries again."""
    queued = entry.waiting == "slot" and entry.phase == "proposed"
    if queued or entry.waiting == "approval" or (entry.paused and entry.waiting == "slot"):
        return False  # a live test that is paused is still watched
    return entry.due is None or entry.due <= operations.platform.now()


def _move(
    operations: Operations,
    entry: Entry,
    signal: Signal,
    report: TickReport,
    on_event: Callable[[Event], None],
    *,
    chosen: bool = False,
) -> None:
    """Let one experiment go on until it parks again, under its lease. `chosen`: it may leave the queue."""
    owner = f"{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
    schedule = operations.schedule
    with schedule.lease(entry.experiment, owner, LEASE_SECONDS) as mine:
        if not mine:
            return
        graph = builder.compile(checkpointer=operations.session.store.saver)
        config: RunnableConfig = {
            "configurable": {"thread_id": entry.experiment},
            "metadata": {
                "kind": "experiment",
                "graph": "online",
                "surface": operations.surface.name,
                "run": entry.data.get("run") or "",
            },
        }
        with _kept(operations, entry.experiment):
            # Whatever ends this process on the way, the row shall not say that it is parked.
            schedule.set(entry.experiment, waiting="", due=None)
            try:
                _stream(operations, graph, config, entry, signal, on_event, chosen)
            except EvorankError as error:
                report.errors.append(f"experiment {entry.experiment[:8]}: {error}")
            else:
                for action in schedule.pending(entry.experiment):
                    if action.action == signal.action:
                        schedule.consume(action.id)
            after = graph.get_state(config)
            if not after.values:
                return  # not even its first state could be written
            experiment = Experiment.model_validate(after.values["record"])
            waits = after.interrupts[0].value if after.interrupts else {}
            ended = not after.tasks  # `next` leaves out tasks that are done and not in a checkpoint yet
            if ended:
                _finish(operations, experiment, report)
            schedule.set(
                entry.experiment,
                phase=experiment.phase,
                waiting=waits.get("waits_for", ""),
                due=datetime.fromisoformat(waits["due"]) if waits.get("due") else None,
                closed=ended,
            )
        if waits.get("waits_for") == "platform":
            report.errors.append(f"experiment {entry.experiment[:8]}: {experiment.trouble}")
        report.moved.append(
            {"id": experiment.id, "phase": experiment.phase, "result": experiment.result}
            | {"waits_for": waits.get("waits_for", ""), "text": waits.get("text", "")}
        )


def _stream(
    operations: Operations,
    graph: CompiledStateGraph[Any, Context, Any, Any],
    config: RunnableConfig,
    entry: Entry,
    signal: Signal,
    on_event: Callable[[Event], None],
    chosen: bool,
) -> None:
    """Let the graph run until it parks, having heard the signal.

    A thread whose process died goes on from its last checkpoint first. It hears afterwards what a person
    asked: an abort wherever it parks, an approval only where it waits for one, since it may have heard that
    before it died. That it is time to go on means nothing to one that has just come to a stop, or that has
    not been chosen from the queue.
    """
    first = True
    while True:
        state = graph.get_state(config)
        given: Any = None
        if not state.values:
            given = {"record": entry.data}
        elif not state.tasks:
            return
        elif state.interrupts:
            waits_for = state.interrupts[0].value["waits_for"]
            queued = waits_for == "slot" and state.values["record"]["phase"] == "proposed"
            goes_on = first and (chosen or not queued)
            heeded = {"abort": True, "approve": waits_for == "approval", "tick": goes_on}
            if not heeded[signal.action]:
                return
            given = Command(resume=signal.model_dump())
            signal = Signal()
        first = False
        for event in graph.stream(
            given, config, context=operations.session.context, stream_mode="custom", durability="sync"
        ):
            on_event(event)


@contextmanager
def _kept(operations: Operations, experiment: str) -> Iterator[None]:
    """Renew a lease for as long as this process lives and works. Should it stand still and lose it, the
    store refuses what it would still write."""
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE_SECONDS / 3):
            try:
                operations.schedule.renew(experiment, LEASE_SECONDS)
            except EvorankError:
                return

    thread = threading.Thread(target=renew, name=f"lease of {experiment[:8]}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _finish(operations: Operations, experiment: Experiment, report: TickReport) -> None:
    """What follows from an end: a win that could not be launched comes back to the queue, and what today's
    production refused goes back to CODE. Before the row is closed, so that a crash repeats it."""
    report.finished.append(experiment.id)
    if experiment.result == "launched":
        report.launched.append(experiment.id)
        operations.renew(force=True)
    replicated = operations.session.context.replicate and experiment.replication_of is None
    won = (experiment.decision or {}).get("outcome") == "launch"
    if experiment.result == "superseded" or (experiment.result == "no_launch" and won and replicated):
        _again(operations, experiment)
    if experiment.result == "rejected" and experiment.findings:
        _return(operations, experiment, [Finding(**each) for each in experiment.findings])


def _return(operations: Operations, experiment: Experiment, findings: Sequence[Finding]) -> None:
    """Let the offline loop code it again, for production as it is: in one of the next attempts, once."""
    Ideas(operations.session.store, operations.surface.name).add(rework(experiment, findings))


def _again(operations: Operations, experiment: Experiment) -> None:
    """Propose a winner once more: on top of today's production, and with another hash of users."""
    production = operations.production()
    try:
        phi = rebase(experiment.changes, operations.production_of(experiment.production), production)
    except RefusedDelta as refusal:
        _return(operations, experiment, refusal.findings)
        return
    superseded = experiment.result == "superseded"
    fresh = Experiment(
        id=experiment_id(
            experiment.surface, fingerprint(production), fingerprint(phi), again=0 if superseded else 1
        ),
        production=fingerprint(production),
        changes=diff(production, phi),
        phi=phi,
        fingerprint=fingerprint(phi),
        replication_of=None if superseded else experiment.id,
        **experiment.model_dump(
            include={"surface", "run", "attempt", "proposed_by", "hypothesis", "category", "proxy"}
        ),
    )
    with suppress(ConfigurationError):  # on today's production somebody had tested it before
        submit(operations, fresh, again=not superseded)


def propose(operations: Operations, patch: list[dict[str, Any]], *, why: str, by: str) -> str:
    """Queue a person's change of today's production; its id.

    RefusedDelta, ToolError: not a valid delta, or over a guardrail; ConfigurationError: tested before.
    """
    production = operations.production()
    phi = apply_delta(production, patch)
    findings = operations.renew().check(phi)
    if findings:
        raise RefusedDelta(findings)
    if phi == production:
        raise ConfigurationError("the delta changes nothing: this is production itself. Nothing was queued.")
    before, after = fingerprint(production), fingerprint(phi)
    experiment = Experiment(
        id=experiment_id(operations.surface.name, before, after),
        surface=operations.surface.name,
        proposed_by=by,
        hypothesis=why,
        production=before,
        changes=diff(production, phi),
        phi=phi,
        fingerprint=after,
    )
    if not submit(operations, experiment):
        raise ConfigurationError(
            f"experiment {experiment.id[:8]} tests this candidate already. See: python cli.py online status"
        )
    return experiment.id


def _start_next(
    operations: Operations, report: TickReport, on_event: Callable[[Event], None], run: str | None
) -> None:
    """Fill free places from the queue; where the strategist ranks, also give up what fell out."""
    entries = operations.schedule.entries()
    busy = [e for e in entries if e.phase != "proposed" and e.waiting != "approval"]
    waiting = [e for e in entries if e.phase == "proposed" and not e.paused]
    places = operations.online.slots - len(busy)
    how = operations.session.context.selection
    if not waiting or (places <= 0 and how == "fifo"):
        return
    positions = {entry.experiment: number for number, entry in enumerate(entries)}
    pool = [Experiment.model_validate(entry.data) for entry in [*busy, *waiting]]
    chosen = select(pool, operations.online.slots, operations.session, how, positions, run)
    report.usage += chosen.usage
    if chosen.reason and not chosen.remembered:
        on_event({"event": "note", "text": chosen.reason})
    by_id = {entry.experiment: entry for entry in entries}
    for identifier in chosen.drop:
        signal = Signal(action="abort", by="strategist", reason=f"outranked: {chosen.reason}")
        _move(operations, by_id[identifier], signal, report, on_event)
    for identifier in chosen.start[: max(0, places + len(chosen.drop))]:
        if identifier in by_id:
            _move(operations, by_id[identifier], Signal(), report, on_event, chosen=True)


def _count(operations: Operations, report: TickReport) -> None:
    entries = operations.schedule.entries()
    report.now = operations.platform.now()
    report.queued = sum(entry.phase == "proposed" and not entry.paused for entry in entries)
    report.live = sum(entry.phase != "proposed" and entry.waiting != "approval" for entry in entries)
    report.approvals = [
        {"id": entry.experiment, "text": entry.data.get("hypothesis", "")}
        for entry in entries
        if entry.waiting == "approval"
    ]
