"""prompts: what was asked of chat models for a candidate, and what they answered, word for word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pydantic import Field

from evorank.graph.recording import Line
from evorank.graph.state import Attempt, Usage
from evorank.ui.source import Snapshot
from evorank.ui.views.common import AttemptLine, View, attempt_line

__all__ = ["Prompts", "prompts"]


class Message(View):
    """One message of a prompt."""

    role: str
    content: str


class Exchange(View):
    """A question to a chat model, and its answer."""

    role: str = Field(description="What was asked for: think, code, linter ...")
    persona: str
    model: str
    form: str = Field(description="The form that the answer had to have")
    prompt: list[Message]
    answer: str
    failure: str = Field(description="What the provider said, where it did not answer")
    usage: Usage


class Prompts(View):
    """All exchanges of one attempt that are still kept, in the order of the answers."""

    line: AttemptLine
    surface: str
    exchanges: list[Exchange]


def prompts(attempt: Attempt, snapshot: Snapshot, asked: Sequence[Line]) -> Prompts:
    """`asked`: what `Source.asked` has of it."""
    return Prompts(
        line=attempt_line(attempt, snapshot),
        surface=attempt.surface,
        exchanges=[_exchange(line) for line in asked],
    )


def _exchange(line: Line) -> Exchange:
    answer = line.answer or {}
    calls = [call.get("args", call) for call in answer.get("tool_calls", ())]
    content = answer.get("content", "")
    said = _laid_out(content) if isinstance(content, str) else _as_json(content)
    return Exchange(
        role=line.role,
        persona=line.persona,
        model=line.model,
        form=line.form,
        prompt=[Message(role=each["role"], content=each["content"]) for each in line.messages or ()],
        answer="\n".join([*([said] if said else []), *map(_as_json, calls)]),
        failure=line.failure,
        usage=line.usage,
    )


def _laid_out(text: str) -> str:
    """JSON over several lines; anything else as it was said."""
    try:
        return _as_json(json.loads(text))
    except ValueError:
        return text


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
