"""actions: what people ask on the page. Each is a row that the next tick acts on, once, with who and when.

Nothing here touches a running process, so it does not matter whether one runs.
"""

from __future__ import annotations

from pydantic import Field

from evorank.graph.context import Context
from evorank.graph.inspections import Inspection, Inspections
from evorank.graph.schedule import Schedule
from evorank.graph.status import Action, refused, request
from evorank.graph.steering import Steering, until
from evorank.model.errors import ConfigurationError
from evorank.ui.source import Source
from evorank.ui.views.common import View
from evorank.ui.views.experiment import ACTIONS

__all__ = [
    "Asked",
    "Directed",
    "Inspected",
    "Removed",
    "Said",
    "ask",
    "direct",
    "inspect",
    "possible",
    "remove",
]


class Asked(View):
    """What somebody asks of a live test."""

    action: Action
    by: str = Field(min_length=1, max_length=100, description="Who asks, for the journal")
    reason: str = Field(default="", max_length=500, description="Why; needed to abort and to roll back")


class Directed(View):
    """What somebody asks of all proposals."""

    text: str = Field(min_length=1, max_length=1000, description="What to heed, in a sentence or two")
    persona: str | None = Field(
        default=None, max_length=100, description="Only of this persona; null: of all"
    )
    until: str | None = Field(
        default=None, max_length=12, description="A day such as 2026-03-01, or a number of steps; null: none"
    )
    by: str = Field(min_length=1, max_length=100, description="Who asks")


class Removed(View):
    """Who takes a directive out of force."""

    by: str = Field(min_length=1, max_length=100)


class Inspected(Inspection):
    """What somebody says of a candidate that waits to be looked at."""

    by: str = Field(min_length=1, max_length=100, description="Who decides")


class Said(View):
    """What comes of it, in a sentence."""

    said: str


def ask(source: Source, surface: str, experiment: str, asked: Asked) -> Said:
    """Write it down. ConfigurationError: no such live test, or it cannot be asked of it now."""
    if asked.action in ("abort", "rollback") and not asked.reason.strip():
        raise ConfigurationError(f"`reason` is needed to {asked.action}: the journal keeps why.")
    context = Context(surface=surface, home=str(source.home), store=source.context.store)
    return Said(said=request(context, experiment, asked.action, by=asked.by, reason=asked.reason.strip()))


def direct(source: Source, surface: str, asked: Directed) -> Said:
    """Put a directive in force. ConfigurationError: no such persona, or not a day or number of steps."""
    found = source.snapshot(surface)
    if asked.persona is not None and asked.persona not in found.personas:
        raise ConfigurationError(f"`persona` must be one of {found.personas}, got {asked.persona!r}.")
    text = (asked.until or "").strip().removesuffix("steps").strip()
    made = Steering(source.store, found.surface).add(
        asked.text, asked.persona, *until(text or None), asked.by
    )
    return Said(said=f"{made.id} is in force from the next prompt on.")


def remove(source: Source, surface: str, identifier: str, by: str) -> Said:
    """Take a directive out of force. ConfigurationError: there is none of this id in force."""
    removed = Steering(source.store, source.snapshot(surface).surface).remove(identifier, by)
    return Said(said=f"{removed.id} is in force no longer.")


def inspect(source: Source, surface: str, attempt: str, said: Inspected) -> Said:
    """Answer the question about a candidate; whoever goes on with its run finds the answer.
    ConfigurationError: it does not wait for one."""
    if said.action == "reject" and not said.reason.strip():
        raise ConfigurationError("`reason` is needed to reject: the journal and later prompts are told why.")
    if all(each["attempt"] != attempt for each in source.snapshot(surface).inspections):
        raise ConfigurationError(f"candidate {attempt[:8]} does not wait for a person.")
    answer = Inspection(**said.model_dump(exclude_unset=True, by_alias=True))
    about = Inspections(source.store).answer(attempt, answer)
    return Said(said=f"{said.action} {attempt[:8]}. Go on with: python cli.py run --resume {about['run']}")


def possible(source: Source, surface: str, experiment: str) -> list[str]:
    """What could be asked of a live test now."""
    schedule = Schedule(source.store, surface)
    entry = source.snapshot(surface).entry_of.get(experiment)
    if entry is None:
        return []
    actions: tuple[Action, ...] = ("approve", "resume", "pause", "abort", "rollback")
    assert set(actions) == set(ACTIONS)
    asked = {each.action for each in source.snapshot(surface).asked.get(experiment, ())}
    return [each for each in actions if each not in asked and not refused(schedule, entry, each)]
