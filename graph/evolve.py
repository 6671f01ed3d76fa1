"""evolve: both loops together, which is what `run` runs.

    START -> dispatch --Send per turn--> turn -> online -> dispatch ... -> online ... -> finish -> END

Between two batches of attempts the winners are nominated and the surface lives on for some days: tests are
read, winners launched, and the next batch proposes against the production that came of it. After the last
batch no test is begun, and those that are live are seen through. On a surface without live traffic `online`
is left out, and this is the offline loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send
from pydantic import ConfigDict, Field

from evorank.graph import offline
from evorank.graph.context import Context, Session, context_of, open_session
from evorank.graph.insight import reflect
from evorank.graph.operations import Operations, open_operations
from evorank.graph.plan import remember
from evorank.graph.state import OfflineInput, OfflineOutput, OfflineState
from evorank.graph.tick import nominate, tick
from evorank.graph.turn import turn_builder
from evorank.graph.watched import watched
from evorank.surfaces.platform import Timelapse

__all__ = ["EvolveInput", "EvolveOutput", "builder", "graph"]


class EvolveInput(OfflineInput):
    """What a run of both loops is asked for."""

    days: int = Field(
        default=112, ge=0, description="Days of traffic that a run may let pass on a simulated surface"
    )


class EvolveOutput(OfflineOutput):
    """What a run of both loops found."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    experiments: list[dict[str, Any]] = Field(default_factory=list)
    """`Experiment.summary()` of what this run proposed, in order."""


class EvolveState(EvolveInput, EvolveOutput, OfflineState):
    """Constant in size: attempts and experiments are in the journal."""

    until: str | None = None
    """The surface's day until which `online` goes on, decided before it begins: repeated after a crash, it
    lets no more days pass."""
    begun: str | None = None
    """The surface's time when the run began."""
    draining: bool = False
    """All steps are done; live tests are seen through."""
    live: int = 0


def dispatch(state: EvolveState, runtime: Runtime[Context]) -> dict[str, Any]:
    """The next batch of attempts, and how long the surface lives on after it."""
    session = open_session(context_of(state.context, runtime))
    operations = _operations(session)
    if operations is not None:
        operations.prepare(_progress)
    update = offline.next_batch(state, session)
    remember(session, update["run"], state.steps, state.days, "evolve")
    if operations is None:
        return update
    now = operations.platform.now()
    begun = datetime.fromisoformat(state.begun) if state.begun else now
    last = update["batch"][-1][-1]["step"] + 1 if update["batch"] else state.steps
    until = begun + timedelta(days=round(state.days * last / state.steps))
    draining = not update["batch"]
    if draining:
        until = now + timedelta(days=1)
    return update | {"begun": begun.isoformat(), "until": until.isoformat(), "draining": draining}


def fan_out(state: EvolveState, runtime: Runtime[Context]) -> Sequence[Send] | str:
    """The batch side by side; with no step left, the live tests; with none of these, the end."""
    if state.batch:
        return offline.sends(state)
    session = open_session(context_of(state.context, runtime))
    return "online" if _operations(session) is not None and not state.stopped else "finish"


def online(state: EvolveState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Nominate what won, and let the surface live on until the day that was decided."""
    session = open_session(context_of(state.context, runtime))
    operations = _operations(session)
    if operations is None or (state.batch and session.chats.halted(state.run)):
        return {}  # the run ends now, and not after days of traffic whose batch was not made
    for attempt in session.journal.attempts(run=state.run):
        if attempt.won:
            nominate(operations, attempt)
    report = tick(
        session.context,
        get_stream_writer(),
        until=datetime.fromisoformat(state.until) if state.until else None,
        begin=not state.draining,
        wait_for_nothing=False,
        run=state.run,
    )
    return {"live": report.live}


def after_online(state: EvolveState, runtime: Runtime[Context]) -> str:
    """The next batch; when all steps are done, another day as long as a test is live."""
    session = open_session(context_of(state.context, runtime))
    operations = _operations(session)
    passes = operations is not None and isinstance(operations.platform, Timelapse)
    done = state.draining and not (passes and state.live)
    return "finish" if done or (session.stop.is_set() and state.draining) else "dispatch"


def finish(state: EvolveState, runtime: Runtime[Context]) -> dict[str, Any]:
    """What the run found, from the journal."""
    session = open_session(context_of(state.context, runtime))
    found = session.journal.experiments(session.surface.name) if _operations(session) else []
    mine = [experiment.summary() for experiment in found if experiment.run == state.run]
    return offline.finish(state, runtime) | {"experiments": mine}


def _operations(session: Session) -> Operations | None:
    return open_operations(session.context) if session.surface.spec.online is not None else None


def _progress(text: str) -> None:
    get_stream_writer()({"event": "note", "text": text})


def evolve_builder() -> StateGraph[EvolveState, Context, Any, Any]:
    """The uncompiled graph: compile it with a checkpointer to resume a run in the middle of its steps."""
    evolve: StateGraph[EvolveState, Context, Any, Any] = StateGraph(
        EvolveState, context_schema=Context, input_schema=EvolveInput, output_schema=EvolveOutput
    )
    evolve.add_node("dispatch", watched(dispatch))
    evolve.add_node("turn", turn_builder().compile(name="turn"))
    evolve.add_node("reflect", watched(reflect))
    evolve.add_node("online", watched(online))
    evolve.add_node("finish", watched(finish))
    evolve.add_edge(START, "dispatch")
    evolve.add_conditional_edges("dispatch", fan_out, ["turn", "reflect", "online", "finish"])
    evolve.add_edge("turn", "online")
    evolve.add_edge("reflect", "online")
    evolve.add_conditional_edges("online", after_online, ["dispatch", "finish"])
    evolve.add_edge("finish", END)
    return evolve


builder = evolve_builder()
graph = builder.compile(name="evolve")
"""Compiled bare: `langgraph dev` and surrounding graphs bring their own checkpointer."""
