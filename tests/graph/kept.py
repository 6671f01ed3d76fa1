"""Experiments in the journal that nobody lived through: each is a LangGraph thread that holds its record."""

from __future__ import annotations

from typing import Any

from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from evorank.graph.context import Session
from evorank.graph.state import Experiment


class Thread(TypedDict):
    record: dict[str, Any]


def keep(session: Session, experiment: Experiment) -> None:
    """Record an experiment as it stands, as its own graph would."""
    builder = StateGraph(Thread)
    builder.add_node("live", lambda state: state)
    builder.add_edge(START, "live")
    metadata = {"kind": "experiment", "graph": "online", "surface": experiment.surface}
    config: Any = {"configurable": {"thread_id": experiment.id}, "metadata": metadata}
    thread = builder.compile(checkpointer=session.store.saver)
    thread.invoke({"record": experiment.model_dump(mode="json")}, config)
