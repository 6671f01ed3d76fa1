"""evorank inside your own LangGraph app: a weekly review that looks for a better ranker, then writes a memo.

    python examples/subgraph/weekly_review.py [--steps 4] [--home .evorank] [--surface simulated]

The app has its own state and its own context. Two ways to embed the offline loop are shown:

- `search` calls `offline_graph` from a node and translates between the two states. Use this when the states
  have nothing in common, as here.
- `shared_app` adds `offline_graph` itself as a node: simplest where your state has the fields `steps` and
  `attempts`. Inside it the runtime's context is the *app's*, so evorank finds its own in the field `evorank`
  of that context. (Without such a field, put it into the state: the input field `context`, as a dict.)

No key is needed: without a `model`, proposals come from the embedded engineer.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime
from typing_extensions import TypedDict

from evorank.graph import Context, close_sessions, offline_graph


class Review(TypedDict, total=False):
    """The app's own state: nothing in it is evorank's."""

    budget: int
    findings: list[dict[str, Any]]
    memo: str


@dataclass
class AppContext:
    """The app's own context, with evorank's inside."""

    team: str = "ranking"
    evorank: Context = field(default_factory=Context)


def search(state: Review, runtime: Runtime[AppContext]) -> Review:
    """The offline loop as one step of the review. Under an async checkpointer, use `await ...ainvoke`."""
    answer = offline_graph.invoke({"steps": state["budget"]}, context=runtime.context.evorank)
    return {"findings": answer["attempts"]}


def write(state: Review, runtime: Runtime[AppContext]) -> Review:
    """A memo for people."""
    lines = [f"Memo to {runtime.context.team}: {len(state['findings'])} candidates were tried."]
    for found in state["findings"]:
        lines.append(f"- {found['outcome']}: {found['hypothesis'] or found['reason']}")
    return {"memo": "\n".join(lines)}


def review_app() -> Any:
    """START -> search -> write -> END, with the offline loop called inside `search`."""
    app = StateGraph(Review, context_schema=AppContext)
    app.add_node("search", search)
    app.add_node("write", write)
    app.add_edge(START, "search")
    app.add_edge("search", "write")
    app.add_edge("write", END)
    return app.compile()


class Shared(TypedDict, total=False):
    """A state that names two of evorank's fields among its own."""

    steps: int
    attempts: list[dict[str, Any]]
    wins: int


def shared_app() -> Any:
    """START -> offline -> count -> END, with the offline loop as a node of the app's own picture."""
    app = StateGraph(Shared, context_schema=AppContext)
    app.add_node("offline", offline_graph)
    app.add_node("count", lambda state: {"wins": sum(a["outcome"] == "better" for a in state["attempts"])})
    app.add_edge(START, "offline")
    app.add_edge("offline", "count")
    app.add_edge("count", END)
    return app.compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--home", default=None)
    parser.add_argument("--surface", default="simulated")
    options = parser.parse_args()
    context = AppContext(evorank=Context(home=options.home, surface=options.surface))
    print(review_app().invoke({"budget": options.steps}, context=context)["memo"])
    close_sessions()


if __name__ == "__main__":
    main()
