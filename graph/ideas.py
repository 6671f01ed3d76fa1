"""ideas: candidates that nobody has to think of, because something else brought them. Tried before new ones.

Two things bring them: a launch, which leaves behind deltas that no longer fit production (they go back to
CODE with the reason), and another surface, whose winners may win here as well. Each has a key of its own and
is handed to one step of one run; the same step, asked again after a crash, gets the same idea.

Limits: an idea whose run was stopped in that very step is lost to other runs: `run --resume` goes on with it.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.context import Session
from evorank.graph.state import Experiment, Origin
from evorank.graph.store import Store
from evorank.model.errors import Finding
from evorank.prompts.answers import Category, Delta, Operation, Proposal

__all__ = ["Idea", "Ideas", "carrier", "rework", "touched"]

HYPOTHESIS_LIMIT = 2000


class Idea(BaseModel):
    """A hypothesis with its delta against today's production, and what is wrong with it, if anything."""

    model_config = ConfigDict(extra="forbid")
    key: str
    """What it must not be tried twice for."""
    origin: Origin
    persona: str
    """Whose it was: a persona, or a person's name."""
    proposal: Proposal
    delta: Delta
    findings: list[dict[str, object]] = Field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        return [operation.path for operation in self.delta.patch]


class Ideas:
    """The ideas of one surface, first in, first out. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface

    def add(self, idea: Idea) -> bool:
        """Put an idea at the end. False, and no change, if its key was ever there."""
        with self.store.transaction() as access:
            return bool(
                access.execute(
                    "INSERT INTO evorank_ideas (surface, idea, place, data)"
                    " SELECT ?, ?, coalesce(max(place), 0) + 1, ? FROM evorank_ideas WHERE true"
                    " ON CONFLICT (surface, idea) DO NOTHING RETURNING place",
                    *(self.surface, idea.key, idea.model_dump_json(by_alias=True)),
                )
            )

    def known(self, key: str) -> str | None:
        """Who has an idea: "" while nobody does; None: there is no such idea."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT taken_by FROM evorank_ideas WHERE surface = ? AND idea = ?", self.surface, key
            )
        return (rows[0][0] or "") if rows else None

    def waiting(self) -> list[Idea]:
        """Those that nobody has yet, in their order."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT data FROM evorank_ideas WHERE surface = ? AND taken_by IS NULL ORDER BY place",
                self.surface,
            )
        return [Idea.model_validate_json(data) for (data,) in rows]

    def take(self, step: str, session: Session) -> Idea | None:
        """The idea of a step (its thread's id): the one that it was given before, or the first that one of
        the session's personas can carry. None: there is none."""
        with self.store.transaction() as access:
            rows = access.execute(
                "SELECT data, taken_by FROM evorank_ideas"
                " WHERE surface = ? AND (taken_by IS NULL OR taken_by = ?)"
                " ORDER BY CASE WHEN taken_by IS NULL THEN 1 ELSE 0 END, place",
                *(self.surface, step),
            )
            for data, holder in rows:
                idea = Idea.model_validate_json(data)
                if holder == step:
                    return idea
                if carrier(session, idea) is not None:
                    access.execute(
                        "UPDATE evorank_ideas SET taken_by = ? WHERE surface = ? AND idea = ?",
                        *(step, self.surface, idea.key),
                    )
                    return idea
        return None


def rework(experiment: Experiment, findings: Sequence[Finding]) -> Idea:
    """An experiment that production has moved away from, to be coded again. Once per experiment."""
    category: Category = "exploit"
    if experiment.category in ("explore", "innovate"):
        category = experiment.category  # type: ignore[assignment]
    return Idea(
        key=f"rework/{experiment.id}",
        origin=Origin(kind="rework", surface=experiment.surface, experiment=experiment.id),
        persona=experiment.proposed_by,
        proposal=Proposal(
            category=category,
            hypothesis=experiment.hypothesis[:HYPOTHESIS_LIMIT] or "No hypothesis was given.",
        ),
        delta=Delta(patch=[Operation.model_validate(each) for each in experiment.changes]),
        findings=[finding.as_dict() for finding in findings],
    )


def carrier(session: Session, idea: Idea) -> str | None:
    """Which proposing persona takes an idea through the loop; None: nobody here may touch all of its fields.

    What only personas with compute_eval may touch, a reward, is measured with compute_eval: losses of
    different rewards cannot be compared. Otherwise its own persona, or who may touch most of it.
    """

    def judges_rewards(persona: str) -> bool:
        return session.personas[persona].judges_rewards

    allowed = [
        {name for name in session.proposers if any(_holds(each, path) for each in session.patchable(name))}
        for path in idea.paths
    ]
    if not all(allowed):
        return None
    reward = any(all(judges_rewards(name) for name in names) for names in allowed)
    able = [
        name
        for name in session.proposers
        if judges_rewards(name) == reward and any(name in names for names in allowed)
    ]
    share = {name: (name == idea.persona, sum(name in names for names in allowed)) for name in able}
    return max(able, key=lambda name: share[name], default=None)


def touched(session: Session, idea: Idea) -> list[str]:
    """The JSON Pointer prefixes that the proposing personas may patch and that the idea does."""
    prefixes = dict.fromkeys(prefix for name in session.proposers for prefix in session.patchable(name))
    return [prefix for prefix in prefixes if any(_holds(prefix, path) for path in idea.paths)]


def _holds(prefix: str, path: str) -> bool:
    return (path + "/").startswith(prefix.rstrip("/") + "/")
