"""evorank on another machine, inside your own LangGraph app: RemoteGraph against `langgraph dev`.

    langgraph dev &                                        # where the log, the cores and the home are
    python examples/remote_graph/nightly.py --url http://127.0.0.1:2024 --steps 4 [--surface simulated]

A node of the app calls the graph over HTTP: nothing of evorank is imported here, only langgraph. The name of
the run is the night's, so a second start of the same night goes on with it and repeats nothing.
"""

from __future__ import annotations

import argparse
from datetime import date
from typing import Any

from langgraph.graph import END, START, StateGraph
from langgraph.pregel.remote import RemoteGraph
from typing_extensions import TypedDict


class Night(TypedDict, total=False):
    """The app's own state."""

    night: str
    budget: int
    attempts: list[dict[str, Any]]
    report: str


def nightly_app(url: str, context: dict[str, Any]) -> Any:
    """START -> search (over there) -> report -> END. `context`: evorank's, as JSON."""
    offline = RemoteGraph("offline", url=url)

    def search(state: Night) -> Night:
        answer = offline.invoke({"steps": state["budget"], "run": f"night-{state['night']}"}, context=context)
        return {"attempts": answer["attempts"]}

    def report(state: Night) -> Night:
        won = [each for each in state["attempts"] if each["outcome"] in ("better", "cheaper")]
        lines = [f"{state['night']}: {len(state['attempts'])} candidates, {len(won)} better than production"]
        return {"report": "\n".join([*lines, *(f"- {each['hypothesis']}" for each in won)])}

    app = StateGraph(Night)
    app.add_node("search", search)
    app.add_node("report", report)
    app.add_edge(START, "search")
    app.add_edge("search", "report")
    app.add_edge("report", END)
    return app.compile()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="http://127.0.0.1:2024")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--surface", default="simulated")
    given = parser.parse_args()
    app = nightly_app(given.url, {"surface": given.surface})
    print(app.invoke({"night": date.today().isoformat(), "budget": given.steps})["report"])


if __name__ == "__main__":
    main()
