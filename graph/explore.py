"""explore: a persona looks at the log before it proposes anything. A ReAct loop with a bound.

    START -> wonder -> look -> wonder ... -> END

`wonder` asks the chat model what it wants to know, and what the last answer showed; `look` runs the query in
its own locked process. What was found stands in the journal with the attempts that came of it, so that later
prompts show it and need not ask again.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from evorank.graph.ask import Unanswered, ask
from evorank.graph.attempt import tell
from evorank.graph.context import Context, context_of, open_session
from evorank.graph.knowledge import briefing, chat_of
from evorank.graph.state import TurnState
from evorank.graph.watched import watched
from evorank.model.errors import ToolError
from evorank.prompts import render
from evorank.prompts.answers import Inquiry
from evorank.tools.run_sql_query import run_sql_query

__all__ = ["explore_builder"]

Update = dict[str, Any]


def wonder(state: TurnState, runtime: Runtime[Context]) -> Update:
    """What the last query showed, and what else is worth knowing."""
    step = state.steps[0]
    session = open_session(context_of(step.context, runtime))
    started = state.started or time.time()
    left = session.context.queries - len(state.insights)
    tell(state.steps, "explore", f"{step.persona} looks at the log")
    told = briefing(step, session, step.persona, insights=state.insights)
    update: Update = {"started": started, "steering": list(told.steering)}
    try:
        messages = render.explore(told, left, asked=bool(state.insights))
        answer, usage = ask(chat_of("think", step, session, step.persona), messages, Inquiry)
    except Unanswered as error:
        # Proposing without a look is better than not at all; a model that is gone will say so again.
        return update | {"asking": None, "usage": (state.usage + error.usage).model_dump()}
    insights = state.insights
    if insights and answer.finding:
        insights = [*insights[:-1], insights[-1] | {"finding": answer.finding}]
    return update | {
        "asking": answer.query if left > 0 and answer.query else None,
        "insights": insights,
        "usage": (state.usage + usage).model_dump(),
    }


def look(state: TurnState, runtime: Runtime[Context]) -> Update:
    """Run the query; its answer, or why it was refused, enters the next prompt."""
    session = open_session(context_of(state.steps[0].context, runtime))
    assert state.asking is not None
    tell(state.steps, "query", state.asking)
    try:
        found = {
            "query": state.asking,
            "table": run_sql_query(state.asking, session.workbench).as_markdown(),
        }
    except ToolError as error:
        found = {"query": state.asking, "error": str(error)}
    return {"insights": [*state.insights, found], "asking": None}


def after_wonder(state: TurnState) -> Literal["look", "__end__"]:
    return "look" if state.asking else "__end__"


def explore_builder() -> StateGraph[TurnState, Context, TurnState, TurnState]:
    """The graph of one search in the log, on the state of a turn."""
    builder = StateGraph(TurnState, context_schema=Context)
    builder.add_node("wonder", watched(wonder))
    builder.add_node("look", watched(look))
    builder.add_edge(START, "wonder")
    builder.add_conditional_edges("wonder", after_wonder, {"look": "look", "__end__": END})
    builder.add_edge("look", "wonder")
    return builder
