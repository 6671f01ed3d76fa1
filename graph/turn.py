"""One persona's turn in a batch: it looks at the log if it may, thinks, and its proposals are tried.

    START -> explore -> think --Send per proposal--> attempt -> END

A turn has one step as a rule, or as many as are asked for in one call (`proposals`). Ideas that came with
their steps need no thinking. A step whose proposal did not come, as the answer held fewer than were wanted,
is left for `dispatch` to hand out again.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from langgraph.types import Send

from evorank.graph.ask import Unanswered, Unasked, ask
from evorank.graph.attempt import attempt_builder, tell
from evorank.graph.context import Context, context_of, open_session
from evorank.graph.explore import explore_builder
from evorank.graph.journal import thread_id
from evorank.graph.knowledge import briefing, chat_of
from evorank.graph.state import AttemptInput, TurnInput, TurnOutput, TurnState, Usage
from evorank.graph.watched import watched
from evorank.prompts import render
from evorank.prompts.answers import Proposal, Proposals

__all__ = ["turn_builder"]


def think(state: TurnState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Ask the persona for a hypothesis, or for as many as the turn has steps."""
    step = state.steps[0]
    session = open_session(context_of(step.context, runtime))
    tell(state.steps, "think", f"{step.persona} thinks")
    wanted: Counter[str] = Counter(each.category for each in state.steps)
    told = briefing(
        step,
        session,
        step.persona,
        wanted={category: wanted.get(category, 0) for category in session.objectives},
        insights=state.insights,
    )
    update: dict[str, Any] = {
        "started": state.started or time.time(),
        "steering": list(dict.fromkeys([*state.steering, *told.steering])),
    }
    messages, chat = render.think(told), chat_of("think", step, session, step.persona)
    update["model"] = chat.name
    try:
        if len(state.steps) == 1:
            proposal, usage = ask(chat, messages, Proposal)
            proposals = [proposal]
        else:
            several, usage = ask(chat, messages, Proposals)
            proposals = several.proposals[: len(state.steps)]
    except Unasked as error:  # its steps stay to be done
        tell(state.steps, "unasked", str(error))
        return update | {"usage": (state.usage + error.usage).model_dump()}
    except Unanswered as error:
        return update | {"problem": str(error), "usage": (state.usage + error.usage).model_dump()}
    return update | {
        "proposals": [each.model_dump() for each in proposals],
        "usage": (state.usage + usage).model_dump(),
    }


# -- decisions: pure, and visible as edges


def begin(state: TurnState, runtime: Runtime[Context]) -> list[Send] | str:
    """Look at the log first, think at once, or try what needs no thinking.

    Steps that are in the journal already (a crash came between record and checkpoint) are done.
    """
    step = state.steps[0]
    session = open_session(context_of(step.context, runtime))
    if step.proposal is not None or all(
        session.journal.get(thread_id(each.run, each.step, each.fork)) for each in state.steps
    ):
        return attempts(state)
    asks = "run_sql_query" in session.personas[step.persona].tools and session.context.queries > 0
    return "explore" if asks else "think"


def attempts(state: TurnState) -> list[Send] | str:
    """An attempt for each step that has a proposal, or a reason why there is none."""
    sent = []
    for place, step in enumerate(state.steps):
        given = AttemptInput(
            **step.model_dump(exclude={"proposal"}),
            proposal=step.proposal or (state.proposals[place] if place < len(state.proposals) else None),
            started=state.started or time.time(),
            insights=state.insights,
            steering=state.steering,
            usage=state.usage if place == 0 else Usage(),
            model=state.model,
        )
        if state.problem:
            given = given.model_copy(update={"outcome": "failed", "reason": state.problem})
        if given.proposal is not None or state.problem:
            sent.append(Send("attempt", given.model_dump()))
    return sent or END


def turn_builder() -> StateGraph[TurnState, Context, TurnInput, TurnOutput]:
    """The graph of one turn: its steps in, and `finished`, how many are in the journal, out."""
    builder = StateGraph(TurnState, context_schema=Context, input_schema=TurnInput, output_schema=TurnOutput)
    builder.add_node("explore", explore_builder().compile(name="explore"))
    builder.add_node("think", watched(think))
    builder.add_node("attempt", attempt_builder().compile(name="attempt"))
    builder.add_conditional_edges(START, begin, ["explore", "think", "attempt", END])
    builder.add_edge("explore", "think")
    builder.add_conditional_edges("think", attempts, ["attempt", END])
    builder.add_edge("attempt", END)
    return builder
