"""The loops as LangGraph graphs, which run alone, in LangGraph Studio, or in a graph of yours.

    from evorank.graph import Context, offline_graph

    offline_graph.invoke({"steps": 4}, context=Context(surface="simulated"))

`offline_graph` proposes and measures, `online_graph` takes one candidate through a live test, `evolve_graph`
does both. A live test takes days: compile `online_builder` with a checkpointer, and go on with
Command(resume={"action": "tick"}) when it is due.

What is named here is stable (docs/api.md). Names are imported when first used: reading the journal must not
wait for LangChain.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evorank.graph.agent_tools import assistant_tools, mcp_server
    from evorank.graph.assistant import live_status, propose_experiment, what_did_we_learn
    from evorank.graph.context import Context, Session, close_sessions, open_session
    from evorank.graph.evolve import EvolveInput, EvolveOutput
    from evorank.graph.evolve import builder as evolve_builder
    from evorank.graph.evolve import graph as evolve_graph
    from evorank.graph.inspections import Inspection, Inspections
    from evorank.graph.journal import Journal
    from evorank.graph.offline import builder as offline_builder
    from evorank.graph.offline import graph as offline_graph
    from evorank.graph.online import OnlineInput, OnlineOutput, Signal
    from evorank.graph.online import builder as online_builder
    from evorank.graph.online import graph as online_graph
    from evorank.graph.plan import Plan, load_plan, new_plan
    from evorank.graph.runs import Summary, carry_out
    from evorank.graph.state import Attempt, Experiment, OfflineInput, OfflineOutput
    from evorank.graph.store import Store

__all__ = [
    "Attempt",
    "Context",
    "EvolveInput",
    "EvolveOutput",
    "Experiment",
    "Inspection",
    "Inspections",
    "Journal",
    "OfflineInput",
    "OfflineOutput",
    "OnlineInput",
    "OnlineOutput",
    "Plan",
    "Session",
    "Signal",
    "Store",
    "Summary",
    "assistant_tools",
    "carry_out",
    "close_sessions",
    "evolve_builder",
    "evolve_graph",
    "live_status",
    "load_plan",
    "mcp_server",
    "new_plan",
    "offline_builder",
    "offline_graph",
    "online_builder",
    "online_graph",
    "open_session",
    "propose_experiment",
    "what_did_we_learn",
]

_MODULES = {
    "agent_tools": "assistant_tools mcp_server",
    "assistant": "live_status propose_experiment what_did_we_learn",
    "context": "Context Session close_sessions open_session",
    "evolve": "EvolveInput EvolveOutput evolve_builder evolve_graph",
    "inspections": "Inspection Inspections",
    "journal": "Journal",
    "offline": "offline_builder offline_graph",
    "online": "OnlineInput OnlineOutput Signal online_builder online_graph",
    "plan": "Plan load_plan new_plan",
    "runs": "Summary carry_out",
    "state": "Attempt Experiment OfflineInput OfflineOutput",
    "store": "Store",
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"evorank.graph.{_WHERE[name]}")
    for kind in ("graph", "builder"):  # each module has its own under this name
        if name == f"{_WHERE[name]}_{kind}":
            return getattr(module, kind)
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
