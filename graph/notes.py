"""Notes: what the journal taught, as an insight call summed it up, with the attempts that show it.

A note is made beside a batch and shown to the batches after it. It is kept with the attempts' ids; a prompt
calls them as its own journal does.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Usage
from evorank.graph.store import Store
from evorank.prompts.journal import attempt_name

__all__ = ["Finding", "Kept", "Notes", "every_note"]


class Finding(BaseModel):
    """One claim of a note; `cites` are ids of attempts, or of experiments that had none."""

    model_config = ConfigDict(extra="forbid")
    claim: str
    cites: list[str]


class Kept(BaseModel):
    """A note as the store holds it."""

    model_config = ConfigDict(extra="forbid")
    surface: str
    run: str
    before: int
    """The batch that it was made beside begins with this step."""
    mark: str
    """The journal's watermark when it was kept."""
    covers: int
    """Attempts that it was made from."""
    model: str
    works: list[Finding] = Field(default_factory=list)
    dead_ends: list[Finding] = Field(default_factory=list)
    dropped: int = 0
    """Claims that cited nothing that the journal holds."""
    problem: str = ""
    """Why there is no note, where there is none."""
    steps: dict[str, int] = Field(default_factory=dict)
    """Id of a cited attempt of its own run -> its step."""
    usage: Usage = Field(default_factory=Usage)
    at: str = ""
    """ISO 8601, UTC."""

    def shown(self, run: str) -> dict[str, Any]:
        """The note as prompts of a run are shown it."""

        def name(identifier: str) -> str:
            step = self.steps.get(identifier)
            record = {"id": identifier, "run": "" if step is None else self.run, "step": step}
            return str(attempt_name(record, run))

        return {
            kind: [{"claim": each.claim, "cites": [name(cited) for cited in each.cites]} for each in findings]
            for kind, findings in (("works", self.works), ("dead_ends", self.dead_ends))
        }


class Notes:
    """The notes of one surface, oldest first. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface

    def keep(self, note: Kept) -> bool:
        """Keep a note and what it cost. False, and no change, if its run has one beside this batch."""
        with self.store.transaction() as access:
            return bool(
                access.execute(
                    "INSERT INTO evorank_notes (surface, run, before, mark, usable, at, data)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)"
                    " ON CONFLICT (surface, run, before) DO NOTHING RETURNING before",
                    *(self.surface, note.run, note.before, note.mark, int(not note.problem), access.stamp),
                    note.model_copy(update={"at": access.stamp}).model_dump_json(),
                )
            )

    def all(self, run: str | None = None) -> list[Kept]:
        return every_note(self.store, self.surface, run)

    def latest(self, run: str = "", before: int = 0, since: str | None = None) -> Kept | None:
        """The note that a batch is shown: the last of its own run made beside an earlier batch, else the last
        that was there when the run began (`since`; None: the last of all). Whoever finishes first beside it,
        it is the same."""
        usable = "SELECT data FROM evorank_notes WHERE surface = ? AND usable = 1"
        with self.store.reading() as access:
            rows = access.execute(
                f"{usable} AND run = ? AND before < ? ORDER BY before DESC LIMIT 1",
                *(self.surface, run, before),
            ) or access.execute(
                f"{usable} AND run <> ? AND (mark <= ? OR ?) ORDER BY at DESC LIMIT 1",
                *(self.surface, run, since or "", since is None),
            )
        return Kept.model_validate_json(rows[0][0]) if rows else None


def every_note(store: Store, surface: str | None = None, run: str | None = None) -> list[Kept]:
    """The notes of a store, oldest first, or those of a surface or a run."""
    with store.reading() as access:
        rows = access.execute(
            "SELECT data FROM evorank_notes WHERE (surface = ? OR ? = '') AND (run = ? OR ? = '')"
            " ORDER BY at, run, before",
            *(surface or "", surface or "", run or "", run or ""),
        )
    return [Kept.model_validate_json(data) for (data,) in rows]
