"""events: what is being done, told to whoever listens: nodes, model calls and trainings begin and end.

    with listening(listeners), during("node", "think", run="r", step=3) as found:
        found["outcome"] = ...

One seam for all trackers. Who listens is a matter of the context in which something is done (a ContextVar),
so nothing has to be handed through; where nobody does, telling costs nothing.

Limits: a listener is called in the thread that works, and must be quick. One that fails is logged, no more.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["Event", "Listener", "What", "begin", "during", "end", "listening"]

What = Literal["node", "call", "training"]
logger = logging.getLogger("evorank")


@dataclass(frozen=True)
class Event:
    """The beginning or the end of an operation."""

    operation: str
    """Its id: the same at both."""
    kind: Literal["begin", "end"]
    what: What
    name: str
    """Of the node, of the chat model; of a training, what of the log it sees."""
    inside: str | None = None
    """The operation around it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is known at the beginning (run, step, persona, seed ...), and at the end also what came of it
    (tokens, CPU-seconds ...). JSON values."""
    error: str = ""
    """Why it failed; only at the end."""


Listener = Callable[[Event], None]

_listeners: ContextVar[Sequence[Listener]] = ContextVar("listeners", default=())
_inside: ContextVar[str | None] = ContextVar("inside", default=None)


@contextmanager
def listening(listeners: Sequence[Listener]) -> Iterator[None]:
    """Tell these, and nobody else, of what is done in here."""
    token = _listeners.set(listeners)
    try:
        yield
    finally:
        _listeners.reset(token)


def begin(what: What, name: str, **facts: Any) -> Event:
    """Something begins that does not end where it began: hand the event to `end`."""
    event = Event(uuid.uuid4().hex, "begin", what, name, _inside.get(), facts)
    _tell(event)
    return event


def end(begun: Event, error: str = "", **facts: Any) -> None:
    """What `begin` has told of is over."""
    _tell(Event(begun.operation, "end", begun.what, begun.name, begun.inside, begun.facts | facts, error))


@contextmanager
def during(what: What, name: str, **facts: Any) -> Iterator[dict[str, Any]]:
    """Something that begins and ends here, with others inside it; what came of it goes into the dict."""
    found: dict[str, Any] = {}
    if not _listeners.get():
        yield found
        return
    begun = begin(what, name, **facts)
    token = _inside.set(begun.operation)
    error = ""
    try:
        yield found
    except BaseException as problem:
        error = f"{type(problem).__name__}: {problem}"
        raise
    finally:
        _inside.reset(token)
        end(begun, found.pop("error", error), **found)


def _tell(event: Event) -> None:
    for listener in _listeners.get():
        try:
            listener(event)
        except Exception:
            logger.exception("A tracker failed at the %s of %s %s.", event.kind, event.what, event.name)
