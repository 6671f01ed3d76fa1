"""chats: who is asked in a session: for each role its chat model, or one of an ensemble, on an account.

Models are made once and kept; the embedded engineer is made anew for each step, since its seed is the step's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage

from evorank.graph.ask import Chat, Desk, usage_of
from evorank.graph.caller import Answer, Caller, Failed
from evorank.graph.ensemble import choose, incomparable
from evorank.graph.exchanges import Exchanges
from evorank.graph.models import EMBEDDED, ROLES, NotReady, Provider, Role, chat_model, names, provider_of
from evorank.graph.prices import FREE, Prices
from evorank.graph.recording import Player, Recorder
from evorank.graph.spending import Account, Budget, Spending
from evorank.graph.state import Attempt
from evorank.graph.store import Store
from evorank.model.errors import ChatModelError, ConfigurationError

if TYPE_CHECKING:
    from evorank.graph.context import Context

__all__ = ["EMBEDDED_NAME", "Chats", "Greeting", "greet", "require_models", "used_models"]

EMBEDDED_NAME = "embedded engineer"
"""How the journal names it."""


class Chats:
    """The chat models of a context. Safe to share between threads."""

    def __init__(self, context: Context, store: Store, surface: str, stop: threading.Event) -> None:
        self.context, self._stop = context, stop
        self.prices = Prices(context.prices)
        spending = Spending(store, surface)
        self.desk = Desk(
            spending,
            Budget(context, spending),
            Exchanges(store, surface),
            Recorder(Path(context.record)) if context.record else None,
            Player(Path(context.replay)) if context.replay else None,
        )
        self._callers: dict[str, Caller] = {}
        self._lock = threading.Lock()

    def chat(
        self, role: Role, account: Account, seed: int, journal: Callable[[], Sequence[Attempt]] = tuple
    ) -> Chat:
        """Who answers for a role. `journal`: what an ensemble is chosen by; the same gives the same."""
        known = _names(self.context, role)
        name = known[0] if len(known) == 1 else choose(known, journal(), seed, self.prices)
        if name == EMBEDDED:
            caller = Caller(EMBEDDED_NAME, chat_model(None, seed), Provider(), self._stop)
            return Chat(EMBEDDED_NAME, role, account, self.desk, caller, FREE)
        caller_or_none = None if self.desk.player else self._caller(name)
        return Chat(name, role, account, self.desk, caller_or_none, self.prices.of(name))

    def told(self, role: Role) -> str:
        """Who answers for a role, in words."""
        return " or ".join(EMBEDDED_NAME if name == EMBEDDED else name for name in _names(self.context, role))

    def notes(self) -> list[str]:
        """What a person should know of these models before the run."""
        used = {_names(self.context, role) for role in ROLES}
        return [
            f"The price of {' and of '.join(unknown)} is not known, so {' and '.join(each)} are compared by "
            "what their proposals achieve, whatever they cost."
            for each in sorted(used)
            if len(each) > 1 and (unknown := incomparable(each, self.prices))
        ]

    def halted(self, run: str | None) -> str | None:
        """Why nothing more is asked in a run; None: it is."""
        return self.desk.failed.get(run or "") or self.desk.budget.spent(run)

    def note(self, greetings: Sequence[Greeting], run: str) -> None:
        """Count what `greet` has cost before there was a run."""
        for each in greetings:
            account = Account(run=run)
            usage = usage_of(each.answer, self.prices.of(each.model))
            self.desk.spending.note(account, "hello", each.model, usage, each.answer.seconds)

    def _caller(self, name: str) -> Caller:
        with self._lock:
            if name not in self._callers:
                self._callers[name] = Caller(name, *_model(self.context, name), self._stop)
            return self._callers[name]


@dataclass(frozen=True)
class Greeting:
    """A model that is there."""

    model: str
    answer: Answer


def greet(context: Context) -> list[Greeting]:
    """Ask every model of a context for one word, before anything that takes minutes.

    Raises ChatModelError with the cause where one does not answer. In a replay nobody is asked; nor are the
    embedded engineer and live models.
    """
    if context.replay:
        return []
    stop, found = threading.Event(), []
    for name in used_models(context):
        if name == EMBEDDED or (context.chat_model is not None and name == context.chat_model._llm_type):
            continue
        caller = Caller(name, *_model(context, name), stop)
        try:
            answer = caller.call([HumanMessage("Answer with the one word: ok")], None)
        except Failed as failed:
            trouble = failed.trouble
            raise ChatModelError(f"chat model: {name} ({trouble.kind}): {trouble.text}") from None
        found.append(Greeting(name, answer))
    return found


def require_models(context: Context, ready: bool = True) -> None:
    """Make every model of a context once, so that what is missing is told before a log is encoded.

    Raises ConfigurationError as `chat_model` does, and where `max_usd` is to be kept with a model whose price
    is not known. Not `ready`: nobody will be asked, so a key or a package may be missing, as in a replay.
    """
    prices = Prices(context.prices)
    if context.record and context.replay:
        raise ConfigurationError("`record` and `replay` exclude each other: a replay asks nobody.")
    if context.generation == "full" and EMBEDDED in _names(context, "code"):
        raise ConfigurationError(
            "`generation` full is for language models: the embedded engineer gives deltas. Try --model."
        )
    for name in used_models(context):
        if name != EMBEDDED and not context.replay:
            try:
                _model(context, name)
            except NotReady:
                if ready:
                    raise
        if context.max_usd is not None and prices.of(name) is None and not context.replay:
            raise ConfigurationError(
                f"`max_usd` cannot be kept: the price of {name} is not in the table of {prices.as_of}. "
                f'Put it into evorank.toml: [prices."{name}"] input = ..., output = ... (dollars per million '
                "tokens), or limit --max-tokens."
            )


def used_models(context: Context) -> dict[str, list[Role]]:
    """Every model that a context names, and what it is asked for."""
    used: dict[str, list[Role]] = {}
    for role in ROLES:
        for name in _names(context, role):
            used.setdefault(name, []).append(role)
    return used


def _names(context: Context, role: Role) -> tuple[str, ...]:
    """The models of a role: its own, a live one, the run's, or the embedded engineer."""
    if own := names(context.models.get(role)):
        return own
    if context.chat_model is not None:
        return (context.chat_model._llm_type,)
    return names(context.model) or (EMBEDDED,)


def _model(context: Context, name: str) -> tuple[BaseChatModel, Provider]:
    provider = provider_of(name, context.providers)
    live = context.chat_model
    if live is not None and live._llm_type == name:
        return live, provider
    return chat_model(name, context.seed, provider), provider
