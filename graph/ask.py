"""ask: one question to a chat model, answered in a form, on somebody's account.

    budget -> recording, or caller -> spending -> the form -> (repair, twice at most)

An answer that misses its form is told so and asked for again. What cannot be asked at all (the budget is
spent, the provider refuses everything or is not there) is Unasked: it says nothing about the attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.config import get_stream_writer
from pydantic import BaseModel

from evorank.graph.caller import Answer, Caller, Failed, Interrupted
from evorank.graph.exchanges import Exchanges
from evorank.graph.forms import Schema, form_schema, read_answer
from evorank.graph.prices import Price
from evorank.graph.recording import Line, Player, Recorder, answer_of, message_of, written
from evorank.graph.spending import Account, Budget, Spending
from evorank.graph.state import Usage
from evorank.model.errors import ChatModelError

__all__ = ["Chat", "Desk", "Unanswered", "Unasked", "ask", "usage_of"]

Form = TypeVar("Form", bound=BaseModel)
REPAIRS = 2
"""A model that misses a form once usually keeps to it when told why."""


class Unanswered(ChatModelError):  # noqa: N818 - what happened, as an outcome
    """The chat model gave no usable answer. `usage` is what was spent by then."""

    def __init__(self, message: str, usage: Usage) -> None:
        super().__init__(message)
        self.usage = usage


class Unasked(Unanswered):
    """Nothing can be asked just now, whatever it is: what is under way stays to be done."""


@dataclass
class Desk:
    """What all questions of a session share."""

    spending: Spending
    budget: Budget
    exchanges: Exchanges
    recorder: Recorder | None = None
    player: Player | None = None
    failed: dict[str, str] = field(default_factory=dict)
    """Run -> why nobody is asked in it any more: a provider refuses everything, or is not there."""


@dataclass(frozen=True)
class Chat:
    """One chat model, in one role, on one account."""

    name: str
    """provider:model, or how the journal names another one."""
    role: str
    account: Account
    desk: Desk
    caller: Caller | None
    """None: the recording answers."""
    price: Price | None = None
    """None: not known."""


def ask(
    chat: Chat,
    messages: Sequence[BaseMessage],
    form: type[Form],
    fields: Mapping[str, Schema] | None = None,
    strict: bool = True,
) -> tuple[Form, Usage]:
    """The model's answer in `form`, asked for again with the reason where it misses the form.

    `fields`: more exact schemas for fields of the form, by name. `strict`: the schema may be enforced.

    Raises Unanswered where the provider does not answer this question, or no answer keeps to the form within
    two repairs; Unasked where nothing can be asked.
    """
    closed = strict and chat.caller is not None and chat.caller.closed
    schema = form_schema(form, fields or {}, closed)
    usage, told, problem = Usage(), list(messages), ""
    for repair in range(1 + REPAIRS):
        raw, blocked, spent = _answer(chat, told, form.__name__, schema, strict, usage)
        usage += spent
        if blocked:
            raise Unanswered(f"the provider blocked the prompt ({blocked})", usage)
        found = read_answer(raw, form)
        if isinstance(found, form):
            return found, usage
        problem = str(found)
        if repair < REPAIRS:
            usage += Usage(repairs=1)
        # As plain text: a tool call would have to be answered as one, and an empty message is refused.
        text = answer_of(raw)["content"] or str(answer_of(raw).get("tool_calls", ""))
        told = [
            *messages,
            *([AIMessage(text)] if text else []),
            HumanMessage(
                f"That is not a valid {form.__name__}: {problem}. Answer again in the form asked for."
            ),
        ]
    raise Unanswered(f"the chat model did not answer with a valid {form.__name__}: {problem}", usage)


def _answer(
    chat: Chat,
    messages: list[BaseMessage],
    form: str,
    schema: Schema | None,
    strict: bool,
    before: Usage,
) -> tuple[AIMessage, str, Usage]:
    """One call: the raw answer, why the prompt was blocked (""), what it cost."""
    desk, account = chat.desk, chat.account
    if reason := desk.failed.get(account.run or "") or desk.budget.spent(account.run):
        raise Unasked(reason, before)
    if chat.caller is None:
        return _replayed(chat, messages, form, before)
    try:
        answer = chat.caller.call(messages, schema, strict, _tell)
    except Interrupted:
        raise Unasked("the run is to stop", before) from None
    except Failed as failed:
        usage = Usage(failures=1, retries=failed.retries)
        desk.spending.note(account, chat.role, chat.name, usage, 0.0)
        told = f"the chat model {chat.name} failed: {failed.trouble.text}"
        if failed.trouble.of_everything:
            _give_up(chat, f"chat model: {chat.name} ({failed.trouble.kind}): {failed.trouble.text}")
            raise Unasked(told, before + usage) from None
        _keep(chat, messages, form, None, "", usage, told)
        raise Unanswered(told, before + usage) from None
    usage = usage_of(answer, chat.price)
    desk.spending.note(account, chat.role, chat.name, usage, answer.seconds)
    _keep(chat, messages, form, answer.raw, answer.blocked, usage, "")
    return answer.raw, answer.blocked, usage


def _replayed(
    chat: Chat, messages: Sequence[BaseMessage], form: str, before: Usage
) -> tuple[AIMessage, str, Usage]:
    desk = chat.desk
    assert desk.player is not None
    try:
        line = desk.player.answer(chat.account, chat.role, form, messages)
    except ChatModelError as error:
        _give_up(chat, f"replay: {error}")
        raise Unasked(str(error), before) from None
    desk.spending.note(chat.account, chat.role, line.model or chat.name, line.usage, 0.0)
    asked = {"messages": written(messages, chat.account.run), "form": form}
    desk.exchanges.keep(chat.account.run, line.model_copy(update=asked))
    if line.failure:
        raise Unanswered(line.failure, before + line.usage)
    return message_of(line), str((line.answer or {}).get("blocked", "")), line.usage


def _keep(
    chat: Chat,
    messages: Sequence[BaseMessage],
    form: str,
    raw: AIMessage | None,
    blocked: str,
    usage: Usage,
    failure: str,
) -> None:
    """For people to read, and in the recording if there is one."""
    answer = None if raw is None else answer_of(raw) | ({"blocked": blocked} if blocked else {})
    line = Line(
        step=chat.account.step,
        persona=chat.account.persona,
        role=chat.role,
        model=chat.name,
        form=form,
        messages=written(messages, chat.account.run),
        answer=answer,
        failure=failure,
        usage=usage,
    )
    chat.desk.exchanges.keep(chat.account.run, line)
    if chat.desk.recorder is not None:
        chat.desk.recorder.add(line)


def _give_up(chat: Chat, reason: str) -> None:
    """Nothing more is asked in this run. Who asks on nobody's account may try again another day."""
    if chat.account.run:
        chat.desk.failed[chat.account.run] = reason


def usage_of(answer: Answer, price: Price | None) -> Usage:
    """What the provider reports; None where it does not."""
    reported: Any = answer.raw.usage_metadata or {}
    read, written_out = reported.get("input_token_details") or {}, reported.get("output_token_details") or {}
    usage = Usage(
        calls=1,
        input_tokens=reported.get("input_tokens"),
        cached_tokens=read.get("cache_read"),
        output_tokens=reported.get("output_tokens"),
        thinking_tokens=written_out.get("reasoning"),
        retries=answer.retries,
    )
    usd = price.usd(usage, read.get("cache_creation") or 0) if price else None
    unreported = usage.input_tokens is None or usage.output_tokens is None
    return usage.model_copy(update={"usd": usd, "unreported": int(unreported), "unpriced": int(usd is None)})


def _tell(text: str) -> None:
    """Who watches the run sees what it waits for; outside of a graph nobody watches."""
    try:
        write: Callable[[Any], None] = get_stream_writer()
    except RuntimeError:
        return
    write({"event": "trouble", "text": text})
