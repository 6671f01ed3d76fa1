"""caller: one model behind its provider's limits: asked in a form, and again when the provider fails.

A schema that a provider does not take is given as a tool, and then in words, and what worked is remembered.
What providers say of such a schema differs too much to be told from other faults of a request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelInvalidRequestError
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.outputs import LLMResult
from langchain_core.runnables.config import ensure_config, merge_configs

from evorank.graph.forms import Schema, instruction
from evorank.graph.models import Provider
from evorank.graph.trouble import Trouble, pause, trouble_of

__all__ = ["Answer", "Caller", "Failed", "Interrupted"]

METHODS = ("json_schema", "function_calling", "words")


class Failed(Exception):  # noqa: N818 - an outcome, caught by `ask`
    """The provider did not answer. `retries`: how often it was asked again."""

    def __init__(self, trouble: Trouble, retries: int) -> None:
        super().__init__(trouble.text)
        self.trouble, self.retries = trouble, retries


class Interrupted(Exception):  # noqa: N818
    """The run is to stop, and this question waited for a retry."""


@dataclass(frozen=True)
class Answer:
    """What came back: the message as LangChain has it, and what it took."""

    raw: AIMessage
    seconds: float
    retries: int
    blocked: str = ""
    """Why the provider did not even read the prompt, where it says so."""


class Caller:
    """Asks one chat model. Safe to share between threads."""

    def __init__(self, name: str, model: BaseChatModel, provider: Provider, stop: threading.Event) -> None:
        self.name, self.model, self.provider = name, model, provider
        self.closed = name.partition(":")[0] in ("openai", "azure_openai")
        """Whether its provider takes only schemas without free names in objects."""
        self._stop = stop
        self._room = threading.BoundedSemaphore(provider.concurrency)
        self._lock = threading.Lock()
        self._method = 0
        self._known = False
        self._not_before = 0.0

    def call(
        self,
        messages: Sequence[BaseMessage],
        schema: Schema | None,
        strict: bool = True,
        tell: Callable[[str], None] = lambda _: None,
    ) -> Answer:
        """The model's answer, whatever it is. `schema` None: in free words.

        `strict`: the schema is one that providers can enforce. Raises Failed, and Interrupted once the run is
        to stop; a wait for a retry is told.
        """
        tried, begun = 0, time.monotonic()
        method = self._method if schema is not None else len(METHODS) - 1
        malformed: Trouble | None = None
        while True:
            try:
                with self._room:
                    self._wait(self._not_before - time.monotonic())
                    raw, blocked = self._once(messages, schema, strict, METHODS[method])
            except Interrupted:
                raise
            except Exception as error:
                if (cut := _cut_off(error)) is None:
                    trouble = trouble_of(error)
                    if trouble.kind == "invalid" and method + 1 < len(METHODS):
                        method, malformed = method + 1, malformed or trouble
                        continue
                    if (
                        trouble.kind == "invalid" and malformed
                    ):  # it was not the form: that is asked for again
                        raise Failed(malformed, tried) from None
                    tried += 1
                    self._again(trouble, tried, tell)
                    continue
                raw, blocked = cut, ""
            self._known = True
            if malformed is not None and method > self._method:
                told = f"{self.name} takes no {METHODS[self._method]} ({malformed.text[:160]})"
                tell(f"{told}; asked by {METHODS[method]} from now on")
                self._method = method
            return Answer(raw, time.monotonic() - begun, tried, blocked)

    def _again(self, trouble: Trouble, tried: int, tell: Callable[[str], None]) -> None:
        """Wait for the next try, or raise Failed."""
        provider = self.provider
        seconds = pause(trouble, tried, provider.retries, provider.backoff, self._known)
        if seconds is None:
            raise Failed(trouble, tried - 1)
        if trouble.kind == "limited":  # it holds for everybody who asks this provider
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + seconds)
        if seconds >= 1:
            tell(f"{self.name}: {trouble.text[:160]}; asked again in {seconds:.0f} s")
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        if seconds > 0 and self._stop.wait(seconds):
            raise Interrupted

    def _once(
        self, messages: Sequence[BaseMessage], schema: Schema | None, strict: bool, method: str
    ) -> tuple[AIMessage, str]:
        heard = _Heard()
        config = merge_configs(ensure_config(), {"callbacks": [heard]})  # beside whoever listens already
        if schema is None:
            raw: Any = self.model.invoke(list(messages), config)
        elif method == "words":
            raw = self.model.invoke([*messages, HumanMessage(instruction(schema))], config)
        else:
            more = {"strict": True} if strict and self.closed else {}
            try:
                asked = self.model.with_structured_output(schema, method=method, include_raw=True, **more)
            except (NotImplementedError, TypeError, ValueError) as error:
                raise ModelInvalidRequestError(f"{method} is not supported: {error}") from error
            answer: Any = asked.invoke(list(messages), config)
            raw = answer["raw"]
        return raw, heard.blocked


class _Heard(BaseCallbackHandler):
    """Listens for what a message does not hold: why a prompt was blocked."""

    def __init__(self) -> None:
        self.blocked = ""

    def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        feedback = (response.llm_output or {}).get("prompt_feedback") or {}
        reason = feedback.get("block_reason")
        if reason:
            self.blocked = str(getattr(reason, "value", reason))


def _cut_off(error: Exception) -> AIMessage | None:
    """The answer in an error of OpenAI's SDK, which raises what others return: cut off, or withheld."""
    kind = type(error).__name__
    if kind == "ContentFilterFinishReasonError":
        return AIMessage("", response_metadata={"finish_reason": "content_filter"})
    completion = getattr(error, "completion", None)
    if kind != "LengthFinishReasonError" or completion is None:
        return None
    usage = completion.usage
    return AIMessage(
        completion.choices[0].message.content or "",
        response_metadata={"finish_reason": "length"},
        usage_metadata=None
        if usage is None
        else {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": usage.completion_tokens,
            "total_tokens": usage.total_tokens,
        },
    )
