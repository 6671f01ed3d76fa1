"""evorank as the tools of a ReAct agent: what did we learn, how do the tests stand, what is worth a test?

    python examples/react_agent/ask.py "What did we learn about gating?" --model google_genai:gemini-2.5-pro

The agent reads the journal and the live tests of a surface. Unless `--write` is given it changes nothing: a
proposal of its own is checked and not queued. Any chat model that calls tools will do; it needs its key.
"""

from __future__ import annotations

import argparse
from typing import Any

from langchain.agents import create_agent

from evorank.graph import Context, assistant_tools, close_sessions

PROMPT = (
    "You help the engineers of a ranking model. Answer from the tools alone, name the ids of what you cite, "
    "and say so where they hold nothing. What live traffic said outranks the proxy. Never propose an "
    "experiment unless you are asked to."
)


def ranking_agent(model: Any, context: Context, *, write: bool = False) -> Any:
    """A compiled LangGraph agent; `model`: a chat model, or its name; `write`: it may queue experiments."""
    return create_agent(model, assistant_tools(context, write=write), system_prompt=PROMPT)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("question")
    parser.add_argument("--model", required=True)
    parser.add_argument("--surface", default="simulated")
    parser.add_argument("--home", default=None)
    parser.add_argument("--write", action="store_true", help="let the agent queue experiments")
    given = parser.parse_args()
    agent = ranking_agent(given.model, Context(home=given.home, surface=given.surface), write=given.write)
    answer = agent.invoke({"messages": [("user", given.question)]})
    print(answer["messages"][-1].text)
    close_sessions()


if __name__ == "__main__":
    main()
