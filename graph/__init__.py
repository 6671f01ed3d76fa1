"""The loops as LangGraph graphs, which run alone, in LangGraph Studio, or in a graph of yours.

    from evorank.graph import Context, offline_graph

    offline_graph.invoke({"steps": 4}, context=Context(surface="simulated"))

`offline_graph` proposes and measures, `online_graph` takes one candidate through a live test, `evolve_graph`
does both. A live test takes days: compile `evorank.graph.online.builder` with a checkpointer, and go on with
Command(resume={"action": "tick"}) when it is due.

Names are imported when first used: reading the journal must not wait for LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evorank.graph.context import Context, Session, close_sessions, open_session
    from evorank.graph.evolve import graph as evolve_graph
    from evorank.graph.journal import Journal
    from evorank.graph.offline import builder
    from evorank.graph.offline import graph as offline_graph
    from evorank.graph.online import graph as online_graph
    from evorank.graph.state import Attempt, Experiment, OfflineInput, OfflineOutput

__all__ = [
    "Attempt",
    "Context",
    "Experiment",
    "Journal",
    "OfflineInput",
    "OfflineOutput",
    "Session",
    "builder",
    "close_sessions",
    "evolve_graph",
    "offline_graph",
    "online_graph",
    "open_session",
]

_WHERE = {
    "Attempt": "state",
    "Context": "context",
    "Experiment": "state",
    "Journal": "journal",
    "OfflineInput": "state",
    "OfflineOutput": "state",
    "Session": "context",
    "builder": "offline",
    "close_sessions": "context",
    "evolve_graph": "evolve",
    "offline_graph": "offline",
    "online_graph": "online",
    "open_session": "context",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"evorank.graph.{_WHERE[name]}")
    return module.graph if name.endswith("_graph") else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
