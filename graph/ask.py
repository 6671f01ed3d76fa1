"""One question to a chat model, answered in a form, with what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from pydantic import BaseModel

from evorank.graph.state import Usage
from evorank.model.errors import ChatModelError, ConfigurationError

__all__ = ["Unanswered", "ask", "chat_model"]

Form = TypeVar("Form", bound=BaseModel)
TRIES = 2
"""A model that misses the form once usually keeps to it when shown how."""


class Unanswered(ChatModelError):  # noqa: N818 - what happened, as an outcome
    """The chat model gave no usable answer. `usage` is what was spent by then."""

    def __init__(self, message: str, usage: Usage) -> None:
        super().__init__(message)
        self.usage = usage


def chat_model(name: str | None, seed: int) -> BaseChatModel:
    """The chat model named as `provider:model`, or the embedded engineer for None.

    Raises ConfigurationError for a name that is not understood, a package that is not installed, or a key
    that is missing.
    """
    if name is None:
        from evorank.personas.embedded.engineer import EmbeddedEngineer

        return EmbeddedEngineer(seed=seed)
    provider, _, model = name.partition(":")
    if not provider or not model:
        raise ConfigurationError(
            f"`model` must have the form provider:model, got {name!r}. Try google_genai:gemini-2.5-pro "
            "(package langchain-google-genai), or leave it out for the embedded engineer, which needs no key."
        )
    from langchain.chat_models import init_chat_model

    try:
        made = init_chat_model(name)
    except ImportError as error:
        package = f"langchain-{provider.replace('_', '-')}"
        raise ConfigurationError(
            f"`model` {name!r} needs a package that is not installed. Try: pip install {package} ({error})"
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"`model` must be a provider:model that LangChain's init_chat_model understands, got {name!r}: "
            f"{_short(error)}. Is the provider's API key set, and its package installed "
            f"(langchain-{provider.replace('_', '-')})?"
        ) from error
    if not isinstance(made, BaseChatModel):
        raise ConfigurationError(f"`model` must name one chat model, got {name!r}.")
    return made


def ask(model: BaseChatModel, messages: Sequence[BaseMessage], form: type[Form]) -> tuple[Form, Usage]:
    """The model's answer in `form`, asked once more with the error when it misses the form.

    Raises Unanswered when the model cannot be reached, or answers in another form twice.
    """
    usage, told = Usage(), list(messages)
    problem = ""
    for _ in range(TRIES):
        try:
            answer: Any = model.with_structured_output(form, include_raw=True).invoke(told)
        except Exception as error:
            raise Unanswered(f"the chat model failed: {_short(error)}", usage) from error
        usage += _usage(answer["raw"])
        if isinstance(answer["parsed"], form):
            return answer["parsed"], usage
        problem = _short(answer["parsing_error"] or "it did not answer in the form at all")
        told = [
            *messages,
            answer["raw"],
            HumanMessage(
                f"That is not a valid {form.__name__}: {problem}. Answer again in the form asked for."
            ),
        ]
    raise Unanswered(f"the chat model did not answer with a valid {form.__name__}: {problem}", usage)


def _usage(raw: Any) -> Usage:
    """Tokens as the provider reports them; None where it does not."""
    reported = getattr(raw, "usage_metadata", None) or {}
    return Usage(
        calls=1, input_tokens=reported.get("input_tokens"), output_tokens=reported.get("output_tokens")
    )


def _short(problem: object, limit: int = 400) -> str:
    name = f"{type(problem).__name__}: " if isinstance(problem, BaseException) else ""
    text = " ".join(str(problem).split())
    return name + (text if len(text) <= limit else text[: limit - 1] + "…")
