"""watched: a graph's node whose beginning, end and calls to chat models the trackers of its context hear of.

Without trackers a node is called as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, TypeVar, cast
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables.config import ensure_config, merge_configs, set_config_context
from langgraph.errors import GraphInterrupt

from evorank.graph.context import context_of, open_session
from evorank.tools.events import Event, begin, during, end, listening

__all__ = ["watched"]

Node = TypeVar("Node", bound=Callable[..., Any])
TOLD = ("run", "step", "persona", "fork", "outcome")
"""Fields of a node's state that say what it works on."""


def watched(node: Node) -> Node:
    """The node `(state, runtime)`, with its signature and edges as they are."""

    @wraps(node)
    def run(state: Any, runtime: Any) -> Any:
        context = context_of(_field(_step(state), "context"), runtime)
        if not (context.trackers or context.listeners):
            return node(state, runtime)
        session = open_session(context)
        facts = _facts(state) | {"surface": session.surface.name}
        with listening(session.listeners), during("node", node.__name__, **facts) as found:
            config = merge_configs(ensure_config(), {"callbacks": [_Calls()]})
            with set_config_context(config) as inside:
                try:
                    return inside.run(node, state, runtime)
                except GraphInterrupt:
                    found |= {"waits": True, "error": ""}  # for a day, or for a person: nothing is wrong
                    raise

    return cast(Node, run)


def _facts(state: Any) -> dict[str, Any]:
    record, steps = _field(state, "record"), _field(state, "steps")
    if isinstance(record, Mapping):  # an experiment
        return {"experiment": record["id"], "phase": record["phase"], "run": record.get("run")}
    told = {name: value for name in TOLD if (value := _field(_step(state), name)) not in (None, "")}
    if isinstance(steps, list) and len(steps) > 1:  # thought of in one call: of no one step
        told["steps"] = ", ".join(str(step.step) for step in steps)
        del told["step"]
    return told


def _step(state: Any) -> Any:
    """What says what a node works on: its state, or of a turn the first of its steps."""
    steps = _field(state, "steps")
    return steps[0] if isinstance(steps, list) else state


def _field(state: Any, name: str) -> Any:
    """Of a state, or of the dict that `Send` hands over."""
    return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)


class _Calls(BaseCallbackHandler):
    """Tells of every call to a chat model, retries and failures included, as LangChain reports them."""

    run_inline = True

    def __init__(self) -> None:
        self._begun: dict[UUID, Event] = {}

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[Any]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        told = kwargs.get("metadata") or {}
        name = told.get("ls_model_name") or kwargs.get("name") or "chat model"
        self._begun[run_id] = begin("call", str(name), provider=told.get("ls_provider"))

    def on_llm_end(self, response: Any, *, run_id: UUID, **kwargs: Any) -> None:
        if (begun := self._begun.pop(run_id, None)) is None:
            return
        message = getattr(response.generations[0][0], "message", None)
        usage = getattr(message, "usage_metadata", None) or {}
        end(begun, input_tokens=usage.get("input_tokens"), output_tokens=usage.get("output_tokens"))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        if (begun := self._begun.pop(run_id, None)) is not None:
            end(begun, error=f"{type(error).__name__}: {error}")
