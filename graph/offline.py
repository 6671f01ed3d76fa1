"""The offline loop: batches of attempts in parallel, until the steps are done, a budget is spent, or a stop.

    START -> dispatch --Send per turn--> turn -> dispatch ... -> finish -> END
                      --when due------> reflect ->

A batch is one superstep on purpose: its attempts all see the journal as it was before the batch, so a run
with the same seed makes the same proposals however its trainings happen to be scheduled. Which steps are left
is read from the journal, so a run can be taken up by its name under any checkpointer, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from langgraph.config import get_stream_writer
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from evorank.graph import choice
from evorank.graph.context import Context, Session, context_of, open_session
from evorank.graph.ideas import Idea, Ideas, carrier, touched
from evorank.graph.insight import due, reflect
from evorank.graph.journal import thread_id
from evorank.graph.knowledge import visible
from evorank.graph.plan import name_run, remember
from evorank.graph.state import Attempt, OfflineInput, OfflineOutput, OfflineState, Reflection, Step
from evorank.graph.turn import turn_builder
from evorank.graph.watched import watched
from evorank.model.errors import ConfigurationError

__all__ = ["best_attempt", "builder", "graph", "reason_to_stop"]


def dispatch(state: OfflineState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Decide who tries what next, and write down what the run is asked."""
    session = open_session(context_of(state.context, runtime))
    update = next_batch(state, session)
    remember(session, update["run"], state.steps, 0, "offline")
    return update


def next_batch(state: OfflineState, session: Session) -> dict[str, Any]:
    """The missing steps of the first incomplete batch, or none.

    Batches have fixed borders (0, parallel, 2 * parallel ...), so that a run that was interrupted goes on
    with the very batch it lost. Ideas that are there already (see `ideas`) are tried before new ones.
    """
    run = state.run or name_run()
    attempts = session.journal.attempts(run=run)
    since = _since(session, attempts) if state.since is None or state.run != run else state.since
    update: dict[str, Any] = {"run": run, "since": since, "batch": [], "reflects": None, "stopped": None}
    done = {attempt.step for attempt in attempts}
    get_stream_writer()({"event": "run", "run": run, "finished": len(done), "steps": state.steps})
    left = [step for step in range(state.steps) if step not in done]
    session.taken_up.setdefault(run, len(attempts))
    if not left:
        # Steps that were spent on a chat model that does not answer are done, and nothing came of them.
        in_vain = bool(attempts) and all(map(_in_vain, attempts))
        told = f"chat model: no proposal in {len(attempts)} steps; {attempts[-1].reason}" if in_vain else None
        return update | {"stopped": told}
    if reason := reason_to_stop(session, run):
        session.chats.desk.failed.pop(run, None)  # told now; who goes on with the run asks again
        return update | {"stopped": reason}
    size = session.context.parallel
    first = left[0] // size * size
    batch = _batch(session, run, since, range(first, min(first + size, state.steps)), state.context)
    turns = [[step.model_dump() for step in turn if step.step not in done] for turn in batch]
    update["batch"] = [turn for turn in turns if turn]
    if due(session, run, first, since):
        reflection = Reflection(run=run, since=since, before=first, context=state.context)
        update["reflects"] = reflection.model_dump()
    return update


def _batch(
    session: Session, run: str, since: str, steps: range, context: dict[str, Any] | None
) -> list[list[Step]]:
    """The turns of a whole batch, also where some of its steps are done: who is chosen must not depend on
    what of the batch a crash has left."""
    known = visible(Reflection(run=run, since=since, before=steps.start), session)
    told = choice.past(known, session.journal.experiments(session.surface.name), run)
    together = session.context.together
    slots = choice.choose(told, session.proposers, len(steps), together, session.context.fixed)
    slots = _answerable(slots, steps, session)
    ideas = Ideas(session.store, session.surface.name)
    turns: list[list[Step]] = []
    for place, (number, slot) in enumerate(zip(steps, slots, strict=True)):
        step = Step(
            run=run,
            step=number,
            persona=slot.persona,
            category=slot.category,
            seed=session.seed(number),
            since=since,
            before=steps.start,
            context=context,
        )
        recorded = session.journal.get(thread_id(run, number)) is not None
        idea = None if recorded else ideas.take(thread_id(run, number), session)
        if idea is not None:
            turns.append([step.model_copy(update=_brought(idea, session))])
            continue
        fresh = place % together == 0 or not turns or turns[-1][0].proposal is not None
        if fresh or turns[-1][0].persona != slot.persona:
            turns.append([])
        turns[-1].append(step)
    return turns


def _answerable(slots: Sequence[choice.Slot], steps: range, session: Session) -> list[choice.Slot]:
    """The slots, of the personas that a recording answers for where it was written by hand."""
    player = session.chats.desk.player
    turns = {number: player.turns[number] for number in steps if player and number in player.turns}
    for number, persona in turns.items():
        if persona not in session.proposers:
            raise ConfigurationError(
                f"`replay` answers as persona {persona!r} in step {number}, and those that propose here are "
                f"{', '.join(session.proposers)}."
            )
    return [
        replace(slot, persona=turns.get(number, slot.persona))
        for number, slot in zip(steps, slots, strict=True)
    ]


def _brought(idea: Idea, session: Session) -> dict[str, Any]:
    """What an idea puts into a step."""
    persona = carrier(session, idea)
    known = {"proposal": idea.proposal, "delta": idea.delta, "findings": idea.findings, "origin": idea.origin}
    # What is mended stays about what it was about, and is measured as that.
    known["patches"] = touched(session, idea)
    return known | ({"persona": persona} if persona else {})


def fan_out(state: OfflineState) -> list[Send] | str:
    """The turns of the batch side by side, and beside them a note when one is due; finish without a turn."""
    return sends(state) or "finish"


def sends(state: OfflineState) -> list[Send]:
    turns = [Send("turn", {"steps": steps}) for steps in state.batch]
    return [*turns, Send("reflect", state.reflects)] if turns and state.reflects else turns


def finish(state: OfflineState, runtime: Runtime[Context]) -> dict[str, Any]:
    """What the run found, from the journal."""
    session = open_session(context_of(state.context, runtime))
    attempts = sorted(session.journal.attempts(run=state.run), key=lambda attempt: attempt.step)
    best = best_attempt(attempts)
    return {
        "attempts": [attempt.summary() for attempt in attempts],
        "best": best.summary() if best else None,
    }


def best_attempt(attempts: Sequence[Attempt]) -> Attempt | None:
    """The attempt that surely lowered the loss most: of those better than production, the one whose interval
    ends lowest.

    Not the lowest estimate: the best of many noisy estimates is mostly luck (the winner's curse), and what
    varies between seeds will vary in production. A new reward is left out: its alignment is another scale,
    and its loss cannot be compared.
    """
    wins = [
        (attempt.comparison["high"], attempt.step, attempt)
        for attempt in attempts
        if attempt.outcome == "better" and attempt.comparison and attempt.comparison["lower_is_better"]
    ]
    return min(wins)[2] if wins else None


def _since(session: Session, attempts: Sequence[Attempt]) -> str:
    """The journal as the run found it: everything before its own first record, or all there is."""
    return session.journal.before(attempts[0].id) if attempts else session.journal.watermark()


def reason_to_stop(session: Session, run: str) -> str | None:
    """Why a run shall begin nothing more, whatever is left of it; None: nothing keeps it."""
    if session.stop.is_set():
        return session.stop_reason or "stopped"
    if failed := session.chats.desk.failed.get(run):
        return failed
    if spent := session.chats.desk.budget.spent(run):
        return spent
    limit = session.context.max_cpu_seconds
    if limit is not None:
        amount = sum(attempt.usage.cpu_seconds for attempt in session.journal.attempts(run=run))
        if amount >= limit:
            return f"budget: {amount:,.0f} of {limit:,.0f} cpu-seconds spent"
    return _nobody_answers(session, run)


def _nobody_answers(session: Session, run: str) -> str | None:
    """A chat model that broke, or proposed nothing, at the newest steps will do so at all others.

    Of the steps that were done since this session took the run up, or since it was told so last.
    """
    attempts = session.journal.attempts(run=run)
    newest = attempts[session.taken_up.setdefault(run, len(attempts)) :][-max(3, session.context.parallel) :]
    in_vain = [_in_vain(attempt) for attempt in newest]
    if len(newest) < 3 or not all(in_vain):
        return None
    session.taken_up[run] = len(attempts)
    return f"chat model: no proposal in the last {len(newest)} steps; {newest[-1].reason}"


def _in_vain(attempt: Attempt) -> bool:
    """Nothing came of it because of the chat model."""
    return attempt.outcome == "failed" and (attempt.category is None or attempt.usage.failures > 0)


def offline_builder() -> StateGraph[OfflineState, Context, Any, Any]:
    """The uncompiled graph: compile it with a checkpointer to resume a run in the middle of its steps.

    Input and output are the dicts that OfflineInput and OfflineOutput describe.
    """
    offline: StateGraph[OfflineState, Context, Any, Any] = StateGraph(
        OfflineState, context_schema=Context, input_schema=OfflineInput, output_schema=OfflineOutput
    )
    offline.add_node("dispatch", watched(dispatch))
    offline.add_node("turn", turn_builder().compile(name="turn"))
    offline.add_node("reflect", watched(reflect))
    offline.add_node("finish", watched(finish))
    offline.add_edge(START, "dispatch")
    offline.add_conditional_edges("dispatch", fan_out, ["turn", "reflect", "finish"])
    offline.add_edge("turn", "dispatch")
    offline.add_edge("reflect", "dispatch")
    offline.add_edge("finish", END)
    return offline


builder = offline_builder()
graph = builder.compile(name="offline")
"""Compiled bare: `langgraph dev` and surrounding graphs bring their own checkpointer."""
