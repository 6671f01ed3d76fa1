"""A small graph that lives as an experiment does: it parks in `live` until somebody says how it went."""

from __future__ import annotations

from typing import Any, Literal

from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from evorank.graph.state import Experiment
from evorank.graph.store import Store


class State(TypedDict):
    record: dict[str, Any]


def experiment(identifier: str, surface: str = "home", **fields: Any) -> Experiment:
    known = {"id": identifier, "surface": surface, "proposed_by": "optimizer", "production": "p"}
    return Experiment(**(known | {"phi": {"lr": 0.1}, "fingerprint": f"of {identifier}"} | fields))


def proposed(state: State) -> State:
    return {"record": state["record"] | {"phase": "live"}}


def live(state: State) -> Command[Literal["live", "completed"]]:
    said = interrupt("how did it go?")
    days = state["record"]["readings"] + [{"said": said}]
    record = state["record"] | {"readings": days}
    return Command(update={"record": record}, goto="live" if said == "another day" else "completed")


def completed(state: State) -> State:
    return {
        "record": state["record"] | {"phase": "completed", "result": state["record"]["readings"][-1]["said"]}
    }


def go_on(store: Store, identifier: str, answer: str | None = None, surface: str = "home") -> str:
    """Begin the thread, or resume it with an answer; the node it parks in, "" at its end."""
    builder = StateGraph(State)
    for node in (proposed, live, completed):
        builder.add_node(node.__name__, node)
    builder.add_edge(START, "proposed")
    builder.add_edge("proposed", "live")
    builder.add_edge("completed", END)
    graph = builder.compile(checkpointer=store.saver)
    metadata = {"kind": "experiment", "graph": "online", "surface": surface}
    config: Any = {"configurable": {"thread_id": identifier}, "metadata": metadata}
    begin = {"record": experiment(identifier, surface).model_dump(mode="json")}
    graph.invoke(begin if answer is None else Command(resume=answer), config, durability="sync")
    return "".join(graph.get_state(config).next)
