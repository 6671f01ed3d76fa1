"""A chat model that answers from a script, over the tool-calling way that real providers use.

No logic of its own: `script(form, messages)` gives the arguments of the answer (a dict or a pydantic model),
or an exception to raise. What was asked is kept in `asked`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from pydantic import BaseModel, Field, PrivateAttr

Script = Callable[[str, list[BaseMessage]], Any]
ACCEPT = {"verdict": "accept", "findings": []}


class ScriptedChatModel(BaseChatModel):
    script: Any
    asked: list[tuple[str, str]] = Field(default_factory=list)
    """(form, text of the messages) of every call."""
    _lock: Any = PrivateAttr(default_factory=threading.Lock)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[Any, Any]:
        return self.bind(form=tools[0]["title"])

    def _generate(self, messages: list[BaseMessage], *args: Any, form: str = "", **kwargs: Any) -> ChatResult:
        with self._lock:
            self.asked.append((form, "\n".join(str(message.content) for message in messages)))
            answer = self.script(form, messages)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, BaseModel):
            answer = answer.model_dump(by_alias=True)
        message = AIMessage(
            content="",
            tool_calls=[{"name": form, "args": answer, "id": f"call-{len(self.asked)}"}],
            usage_metadata={"input_tokens": 100, "output_tokens": 10, "total_tokens": 110},
        )
        return ChatResult(generations=[ChatGeneration(message=message)])

    def count(self, form: str) -> int:
        return sum(1 for name, _ in self.asked if name == form)


def in_turn(
    proposals: Sequence[Any] = (),
    deltas: Sequence[Any] = (),
    reviews: Sequence[Any] = (ACCEPT,),
    **others: Sequence[Any],
) -> ScriptedChatModel:
    """Answers each form from its list, in turn; the last answer of a list is given for ever."""
    lists = {"Proposal": list(proposals), "Delta": list(deltas), "Review": list(reviews)}
    lists |= {"Inquiry": [{}]} | {form: list(answers) for form, answers in others.items()}

    def script(form: str, messages: list[BaseMessage]) -> Any:
        left = lists[form]
        return left.pop(0) if len(left) > 1 else left[0]

    return ScriptedChatModel(script=script)


def rates(*values: float) -> ScriptedChatModel:
    """Proposes another learning rate each time, one after the other."""
    return in_turn([proposal()], [learning_rate(value) for value in values])


def proposal(**fields: Any) -> dict[str, Any]:
    return {
        "category": "explore",
        "hypothesis": "a smaller step settles lower",
        "base": "production",
    } | fields


def learning_rate(value: Any) -> dict[str, Any]:
    return {"patch": [{"op": "replace", "path": "/optimizer/args/lr", "value": value}], "explanation": "lr"}
