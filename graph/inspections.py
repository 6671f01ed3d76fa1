"""inspections: a person looks at a candidate before it is measured, if the context says so (`inspect`).

    verify -> inspect -> tool | verify (an edited delta) | record (rejected)

The question is an interrupt of the graph, for Studio and other clients, and at the same time a row of the
store, for the command line and for whoever was not there when it was asked: the first answer counts.

A row is about one delta. A step that is thought of anew, because its checkpoint was lost, asks anew.
"""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from langgraph.config import get_stream_writer
from langgraph.runtime import Runtime
from langgraph.types import interrupt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from evorank.graph.context import Context, context_of, open_session
from evorank.graph.journal import thread_id
from evorank.graph.state import AttemptState, Inspected
from evorank.graph.store import Access, Store
from evorank.model.delta import fingerprint
from evorank.model.errors import ConfigurationError
from evorank.prompts.answers import Delta, Operation

__all__ = ["Inspection", "Inspections", "after_inspect", "inspect"]


class Inspection(BaseModel):
    """What a person decides about a candidate that is not measured yet."""

    model_config = ConfigDict(extra="forbid")
    action: Literal["approve", "edit", "reject"] = Field(
        description="approve: measure it; edit: measure it with `patch` in place of its delta; reject: do not"
    )
    patch: list[Operation] | None = Field(
        default=None,
        min_length=1,
        max_length=50,
        description="The edited delta, with `edit` only: RFC 6902 operations against the same `base`",
    )
    by: str = Field(default="", max_length=200, description="Who decides, for the journal")
    reason: str = Field(default="", max_length=2000, description="Why, for the journal")

    @model_validator(mode="after")
    def _has_what_its_action_needs(self) -> Self:
        if (self.action == "edit") != (self.patch is not None):
            raise ValueError("`patch` is given with the action `edit`, and only then")
        return self


def inspect(state: AttemptState, runtime: Runtime[Context]) -> dict[str, Any]:
    """Wait for what a person says of the delta. What they write instead is verified, and asked about again
    only if it is not valid."""
    session = open_session(context_of(state.context, runtime))
    assert state.proposal is not None
    about = {
        "waits_for": "inspection",
        "attempt": thread_id(state.run, state.step, state.fork),
        "surface": session.surface.name,
        **{name: getattr(state, name) for name in ("run", "step", "persona", "base", "patch", "changes")},
        "category": state.proposal.category,
        "hypothesis": state.proposal.hypothesis,
        "findings": state.findings,
    }
    inspections, number = Inspections(session.store), len(state.inspections)
    answer = inspections.ask(number, about)
    if answer is None:
        text = f"waits for a person: {state.proposal.hypothesis}"
        event = {"event": "node", "step": state.step, "persona": state.persona, "node": "inspect"}
        get_stream_writer()(event | {"text": text})
        answer = interrupt(about, response_schema=Inspection)
    at = inspections.keep(number, about, answer)
    said = Inspected(action=answer.action, by=answer.by, reason=answer.reason, at=at, patch=state.patch)
    update: dict[str, Any] = {"inspections": [each.model_dump() for each in (*state.inspections, said)]}
    if answer.action == "reject":
        reason = f"Rejected by {answer.by or 'somebody'}: {answer.reason or 'no reason given'}"
        return update | {"outcome": "refused", "reason": reason}
    if answer.patch is not None:
        delta = Delta(patch=answer.patch, explanation=answer.reason or "edited by a person")
        patch = [
            each.model_dump(by_alias=True, exclude_unset=True)  # a `value` of null is a value
            for each in answer.patch
        ]
        update |= {"delta": delta.model_dump(by_alias=True), "patch": patch}
    return update


def after_inspect(state: AttemptState) -> Literal["tool", "verify", "record"]:
    """To approve what is not valid is no more than to have it checked again."""
    if state.outcome:
        return "record"
    return "tool" if state.inspections[-1].action == "approve" and not state.findings else "verify"


class Inspections:
    """The questions of a store. Processes share them by its name.

    Raises JournalError as the store does, ConfigurationError for an answer to what nobody asked.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def ask(self, number: int, about: dict[str, Any]) -> Inspection | None:
        """The answer to a question, if there is one; otherwise it is written down, and None.

        `about`: what a person must know: attempt, run, surface, base, patch and more, as JSON. `number`: how
        often this attempt was asked about before. What was asked of another delta of it is void.
        """
        key = (about["attempt"], number, _delta(about))
        with self.store.reading() as access:
            rows = _row(access, *key)
        if rows:
            return Inspection.model_validate_json(rows[0][0]) if rows[0][0] else None
        with self.store.transaction() as access:
            access.execute("DELETE FROM evorank_inspections WHERE attempt = ? AND answer IS NULL", key[0])
            access.execute(
                "INSERT INTO evorank_inspections (attempt, number, delta, surface, run, data, asked_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (attempt, number, delta) DO NOTHING",
                *(*key, about["surface"], about["run"], json.dumps(about), access.stamp),
            )
        return None

    def keep(self, number: int, about: dict[str, Any], answer: Inspection) -> str:
        """Note the answer that counts, unless the row has it; when it was given, ISO 8601 in UTC."""
        key = (about["attempt"], number, _delta(about))
        with self.store.transaction() as access:
            access.execute(
                "UPDATE evorank_inspections SET answer = ?, answered_at = ?"
                " WHERE attempt = ? AND number = ? AND delta = ? AND answer IS NULL",
                *(answer.model_dump_json(by_alias=True, exclude_unset=True), access.stamp, *key),
            )
            return str(_row(access, *key)[0][1])

    def waiting(self, surface: str | None = None, run: str | None = None) -> list[dict[str, Any]]:
        """The questions that nobody answered yet, oldest first: `about` with `asked_at`."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT data, asked_at, surface, run FROM evorank_inspections WHERE answer IS NULL"
                " ORDER BY asked_at, attempt"
            )
        return [
            json.loads(data) | {"asked_at": asked_at}
            for data, asked_at, of_surface, of_run in rows
            if surface in (None, of_surface) and run in (None, of_run)
        ]

    def answer(self, which: str, answer: Inspection) -> dict[str, Any]:
        """Answer the question about an attempt, by its id or the beginning of it; what it was about.

        Nothing runs yet: whoever goes on with the run finds the answer. ConfigurationError: nothing of that
        name waits, or several do.
        """
        found = [each for each in self.waiting() if which and each["attempt"].startswith(which)]
        if len(found) != 1:
            what = "no candidate that waits for a person" if not found else f"{len(found)} candidates"
            raise ConfigurationError(
                f"`{which}` names {what}. `inspect list` shows ids; give enough of one to be unique."
            )
        with self.store.transaction() as access:
            written = access.execute(
                "UPDATE evorank_inspections SET answer = ?, answered_at = ?"
                " WHERE attempt = ? AND answer IS NULL RETURNING number",
                *(answer.model_dump_json(by_alias=True, exclude_unset=True), access.stamp),
                found[0]["attempt"],
            )
        if not written:
            raise ConfigurationError(f"candidate {which} was answered by somebody else just now.")
        return found[0]


def _delta(about: dict[str, Any]) -> str:
    return fingerprint({"base": about["base"], "patch": about["patch"]})


def _row(access: Access, attempt: str, number: int, delta: str) -> list[tuple[Any, ...]]:
    return access.execute(
        "SELECT answer, answered_at FROM evorank_inspections WHERE attempt = ? AND number = ? AND delta = ?",
        *(attempt, number, delta),
    )
