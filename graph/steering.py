"""Steering: what the operator of a surface asks of every proposal, in words, from the next prompt on.

Directives are kept in the store, so that all processes and runs of a surface heed them and a crash forgets
none. Each attempt records the ids of those that were in force in one of its prompts. A removed one stays in
the store, as attempts name it.

Limits: `until` as a number counts steps whose prompts held the directive. A batch sees the journal as it was
when it began, so runs that go on at the same time count each for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Attempt
from evorank.graph.store import Store
from evorank.model.errors import ConfigurationError

if TYPE_CHECKING:
    from evorank.graph.context import Session

__all__ = ["Directive", "Steering", "directives", "steps_of", "until"]

TEXT_LIMIT = 1000


class Directive(BaseModel):
    """One thing that the operator asks for."""

    model_config = ConfigDict(extra="forbid")
    id: str
    text: str = Field(min_length=1, max_length=TEXT_LIMIT)
    persona: str | None = None
    """Only for this persona; None: for all."""
    until_day: date | None = None
    """In force to the end of this day, UTC."""
    until_steps: int | None = Field(default=None, ge=1)
    """In force for so many steps."""
    added_at: str
    """ISO 8601, UTC."""
    by: str = ""
    """Who asked for it."""
    removed_at: str | None = None
    removed_by: str = ""

    def why_not(self, steps: int, today: date) -> str:
        """Why it is in force no longer, after `steps` that it steered; "" while it is."""
        if self.removed_at:
            return f"removed {self.removed_at[:10]}"
        if self.until_day and today > self.until_day:
            return f"ended {self.until_day}"
        if self.until_steps and steps >= self.until_steps:
            return f"done: {self.until_steps} steps"
        return ""


class Steering:
    """The directives of one surface, oldest first. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface

    def add(
        self,
        text: str,
        persona: str | None = None,
        until_day: date | None = None,
        until_steps: int | None = None,
        by: str = "",
    ) -> Directive:
        """Put a directive in force. ConfigurationError for an empty or very long text."""
        line = " ".join(text.split())
        if not 1 <= len(line) <= TEXT_LIMIT:
            raise ConfigurationError(
                f"a directive must have 1 to {TEXT_LIMIT} characters, got {len(line)}. "
                "Say it in a sentence or two."
            )
        with self.store.transaction() as access:
            newest = access.execute(
                "SELECT coalesce(max(number), 0) FROM evorank_steering WHERE surface = ?", self.surface
            )[0][0]
            made = Directive(
                id=f"s{newest + 1}",
                text=line,
                persona=persona,
                until_day=until_day,
                until_steps=until_steps,
                added_at=access.stamp,
                by=by,
            )
            access.execute(
                "INSERT INTO evorank_steering (surface, number, data) VALUES (?, ?, ?)",
                *(self.surface, newest + 1, made.model_dump_json()),
            )
        return made

    def all(self) -> list[Directive]:
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT data FROM evorank_steering WHERE surface = ? ORDER BY number", self.surface
            )
        return [Directive.model_validate_json(data) for (data,) in rows]

    def remove(self, identifier: str, by: str = "") -> Directive:
        """Take a directive out of force. ConfigurationError if there is none of this id in force."""
        known = {each.id: each for each in self.all() if not each.removed_at}
        if identifier not in known:
            raise ConfigurationError(
                f"`{identifier}` names no directive of surface {self.surface!r}. "
                f"There are: {', '.join(known) or 'none'}."
            )
        with self.store.transaction() as access:
            removed = known[identifier].model_copy(update={"removed_at": access.stamp, "removed_by": by})
            access.execute(
                "UPDATE evorank_steering SET data = ? WHERE surface = ? AND number = ?",
                *(removed.model_dump_json(), self.surface, int(identifier[1:])),
            )
        return removed


def directives(session: Session, persona: str, journal: Sequence[Attempt], ahead: int = 0) -> dict[str, str]:
    """Id -> text of what is in force for a persona: the context's own sentences, then the store's.

    `ahead`: steps of the same batch before this one, which count although the journal does not hold them yet.
    """
    found = {f"c{number}": text for number, text in enumerate(session.context.steering, 1)}
    today = datetime.now(UTC).date()
    for each in Steering(session.store, session.surface.name).all():
        steered = steps_of(each, journal) + ahead
        if each.persona in (None, persona) and not each.why_not(steered, today):
            found[each.id] = each.text
    return found


def steps_of(directive: Directive, journal: Sequence[Attempt]) -> int:
    """How many steps it steered; another home's directives may have the same ids."""
    return sum(directive.id in attempt.steering for attempt in journal if attempt.imported is None)


def until(text: str | None) -> tuple[date | None, int | None]:
    """`2026-03-01` as a day, `20` as a number of steps. ConfigurationError for anything else."""
    if text is None:
        return None, None
    if text.isdecimal() and int(text) > 0:
        return None, int(text)
    try:
        return date.fromisoformat(text), None
    except ValueError:
        raise ConfigurationError(
            f"`--until` must be a day such as 2026-03-01, or a number of steps such as 20, got {text!r}."
        ) from None
