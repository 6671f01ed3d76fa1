"""steering: what the operator asks of proposals, and what the journal taught, with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date
from typing import Any

from pydantic import Field

from evorank.graph.notes import Kept
from evorank.graph.reviews import Linted, linted
from evorank.graph.state import Usage
from evorank.graph.steering import Directive, steps_of
from evorank.ui.source import Snapshot
from evorank.ui.views.common import View

__all__ = ["Cited", "Claim", "DirectiveLine", "Found", "Note", "Steering", "steering"]

FINDINGS = 30


class DirectiveLine(View):
    """One thing that is, or was, asked."""

    id: str
    text: str
    persona: str | None = Field(description="null: of all")
    by: str
    added_at: str
    until: str = Field(description="When it ends by itself, in words; empty: it does not")
    steps: int = Field(description="Attempts that had it in a prompt")
    ended: str = Field(description="Why it is in force no longer; empty: it is")


class Cited(View):
    """A record that a claim rests on."""

    id: str
    name: str
    kind: str = Field(description="attempt, experiment, or gone: it is not in this home")


class Claim(View):
    """What works, or what is a dead end."""

    claim: str
    cites: list[Cited]


class Note(View):
    """What the journal had taught at one time."""

    run: str
    before: int = Field(description="The step that it was made before")
    covers: int = Field(description="Attempts that it was made from")
    model: str
    at: str
    works: list[Claim]
    dead_ends: list[Claim]
    dropped: int = Field(description="Claims that cited nothing that is there, and were left out")
    problem: str = Field(description="Why there is none")
    usage: Usage


class Found(View):
    """What somebody read out of the log."""

    finding: str
    persona: str
    attempts: list[Cited]


class Steering(View):
    """What proposals are to heed, and what is known so far."""

    surface: str
    personas: list[str]
    directives: list[DirectiveLine] = Field(description="In force, newest first")
    ended: list[DirectiveLine]
    notes: list[Note] = Field(description="Newest first")
    findings: list[Found] = Field(description="From questions to the log, newest first")
    linted: Linted = Field(description="What the linter was worth")


def steering(snapshot: Snapshot) -> Steering:
    today = snapshot.at.astimezone(UTC).date()
    lines = [_line(each, snapshot, today) for each in reversed(snapshot.directives)]
    return Steering(
        surface=snapshot.surface,
        personas=list(snapshot.personas),
        directives=[line for line in lines if not line.ended],
        ended=[line for line in lines if line.ended],
        notes=[_note(each, snapshot) for each in reversed(snapshot.notes)],
        findings=_findings(snapshot)[:FINDINGS],
        linted=linted(snapshot.attempts),
    )


def _line(directive: Directive, snapshot: Snapshot, today: date) -> DirectiveLine:
    steps = steps_of(directive, snapshot.attempts)
    until = f"the end of {directive.until_day}" if directive.until_day else ""
    if directive.until_steps:
        until = f"{directive.until_steps} steps"
    ended = directive.why_not(steps, today)
    if ended and directive.removed_by:
        ended = f"{ended} by {directive.removed_by}"
    return DirectiveLine(
        id=directive.id,
        text=directive.text,
        persona=directive.persona,
        by=directive.by,
        added_at=directive.added_at,
        until=until,
        steps=steps,
        ended=ended,
    )


def _note(note: Kept, snapshot: Snapshot) -> Note:
    def claims(found: Sequence[Any]) -> list[Claim]:
        return [
            Claim(claim=each.claim, cites=[_cited(cited, snapshot) for cited in each.cites]) for each in found
        ]

    return Note(
        works=claims(note.works),
        dead_ends=claims(note.dead_ends),
        **note.model_dump(include={"run", "before", "covers", "model", "at", "dropped", "problem"}),
        usage=note.usage,
    )


def _cited(identifier: str, snapshot: Snapshot) -> Cited:
    if attempt := snapshot.attempt_of.get(identifier):
        name = f"step {attempt.step}, {attempt.outcome}"
        return Cited(id=identifier, name=name, kind="attempt")
    if test := snapshot.experiment_of.get(identifier):
        name = f"live test {identifier[:8]}, {test.result or test.phase}"
        return Cited(id=identifier, name=name, kind="experiment")
    return Cited(id=identifier, name=identifier[:8], kind="gone")


def _findings(snapshot: Snapshot) -> list[Found]:
    """Each once, with all attempts of the turns that it was shown to."""
    found: dict[str, Found] = {}
    for attempt in reversed(snapshot.attempts):
        for insight in attempt.insights:
            said = _finding(insight)
            if said:
                known = found.setdefault(said, Found(finding=said, persona=attempt.persona, attempts=[]))
                known.attempts.append(_cited(attempt.id, snapshot))
    return list(found.values())


def _finding(insight: Mapping[str, Any]) -> str:
    return str(insight.get("finding") or "")
