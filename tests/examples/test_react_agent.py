"""An agent's loop for real: its own chat model calls the tools, reads what they say, and answers."""

from __future__ import annotations

import json

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from planted import give_traffic

from evorank.graph import Context, Journal, live_status

DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
CALLS = [
    ("what_did_we_learn", {"about": "gating"}),
    ("live_test_status", {}),
    ("propose_experiment", {"patch": DELTA, "why": "a smaller step settles lower"}),
]


class Engineer(BaseChatModel):
    """Calls every tool once, one after the other, then answers with what the last one said."""

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools, **kwargs):
        assert {name for name, _ in CALLS} == {tool.name for tool in tools}
        return self

    def _generate(self, messages, *args, **kwargs):
        told = [message for message in messages if isinstance(message, ToolMessage)]
        if len(told) < len(CALLS):
            name, given = CALLS[len(told)]
            call = {"name": name, "args": given, "id": f"call-{len(told)}"}
            answer = AIMessage("", tool_calls=[call])
        else:
            answer = AIMessage(json.loads(told[-1].content)["reason"])
        return ChatResult(generations=[ChatGeneration(message=answer)])


@pytest.mark.parametrize(("write", "queued"), [(False, 0), (True, 1)])
def test_an_agent_asks_every_tool_and_writes_only_where_it_may(home, load, write, queued):
    give_traffic(home, {"past": 14})
    Journal.open(home).close()
    example = load("react_agent/ask.py")
    context = Context(home=str(home), surface="tiny", workers=1)
    agent = example.ranking_agent(Engineer(), context, write=write)
    messages = agent.invoke({"messages": [("user", "What is worth an experiment?")]})["messages"]
    learned, status, proposed = [m.artifact for m in messages if isinstance(m, ToolMessage)]
    assert learned["found"] == 0
    assert status["surface"] == "tiny"
    assert (proposed["valid"], proposed["queued"]) == (True, write)
    assert ("may only read" in messages[-1].text) != write
    assert live_status(context).queued == queued
