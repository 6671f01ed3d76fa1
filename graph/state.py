"""Typed states and records of the loops: what a step knows, and what the journal keeps of it.

Channels hold plain JSON (a checkpoint must outlive a class); nodes read them as the types written here.
"""

from __future__ import annotations

import operator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from evorank.prompts.answers import Category, Delta, Proposal

__all__ = [
    "Attempt",
    "AttemptInput",
    "AttemptOutput",
    "AttemptState",
    "Experiment",
    "Imported",
    "Inspected",
    "OfflineInput",
    "OfflineOutput",
    "OfflineState",
    "Origin",
    "Outcome",
    "Phase",
    "Reflection",
    "Reported",
    "Result",
    "Step",
    "TurnInput",
    "TurnOutput",
    "TurnState",
    "Usage",
]

Outcome = Literal["better", "cheaper", "equal", "worse", "inconclusive", "refused", "failed", "duplicate"]
"""`better` and `cheaper` win; `refused`: invalid (never trained), or over a guardrail; `failed`: a tool or a
chat model broke on it; `duplicate`: this Φ is in the journal already."""


class Usage(BaseModel):
    """What something cost. None means "not reported", which is not zero; sums are over what was reported."""

    model_config = ConfigDict(extra="forbid")
    calls: int = 0
    """Answers of a chat model, usable or not."""
    input_tokens: int | None = None
    """All that was read, cached tokens among them."""
    cached_tokens: int | None = None
    """Of these, read from the provider's cache."""
    output_tokens: int | None = None
    """All that was written, thinking among it."""
    thinking_tokens: int | None = None
    usd: float | None = None
    unreported: int = 0
    """Answers that came without their tokens: what is missing in the tokens above."""
    unpriced: int = 0
    """Answers whose price is not known: what is missing in `usd`."""
    repairs: int = 0
    """How often an answer missed its form, and was asked for again."""
    retries: int = 0
    """How often a provider did not answer, and was asked again."""
    failures: int = 0
    """Questions that a provider did not answer at all."""
    cpu_seconds: float = 0.0
    """Training and scoring, all seeds, cached evaluations not counted."""

    def __add__(self, other: Usage) -> Usage:
        """Each field summed over those that have it."""
        theirs = other.model_dump()
        return Usage.model_validate(
            {name: _sum(value, theirs[name]) for name, value in self.model_dump().items()}
        )


def _sum(one: float | None, two: float | None) -> float | None:
    return None if one is None and two is None else (one or 0) + (two or 0)


class Origin(BaseModel):
    """Where the idea of an attempt came from, if nobody thought of it in this step."""

    model_config = ConfigDict(extra="forbid")
    kind: Literal["rework", "transfer", "fork"]
    """`rework`: a candidate that today's production refused, returned to CODE; `transfer`: a winner of
    another surface; `fork`: a step that a person took up again, with what they changed in it."""
    surface: str
    experiment: str | None = None
    """Id of the experiment that was refused, or that won."""
    attempt: str | None = None
    """Id of the attempt that won, where there was no experiment; of the step that was taken up again."""


class Reported(BaseModel):
    """A number that somebody else measured. Either `difference` (of a proxy metric, candidate minus
    production, in its unit) or `lift` (of live traffic, relative), each with its interval if known."""

    model_config = ConfigDict(extra="forbid")
    metric: str = Field(min_length=1, max_length=200)
    better_is: Literal["lower", "higher"]
    difference: FiniteFloat | None = None
    lift: FiniteFloat | None = None
    low: FiniteFloat | None = None
    high: FiniteFloat | None = None
    role: Literal["success", "guardrail"] = "success"

    @model_validator(mode="after")
    def _is_one_number(self) -> Reported:
        if (self.difference is None) == (self.lift is None):
            raise ValueError("needs either `difference` (proxy) or `lift` (live traffic)")
        value = self.difference if self.lift is None else self.lift
        if (self.low is None) != (self.high is None):
            raise ValueError("needs both `low` and `high`, or neither")
        if self.low is not None and not self.low <= (value or 0.0) <= (self.high or 0.0):
            raise ValueError("`low` <= value <= `high` does not hold")
        return self


class Imported(BaseModel):
    """What a file says of an attempt that was made elsewhere. Nothing of it was measured here."""

    model_config = ConfigDict(extra="forbid")
    by: str
    when: str = ""
    """ISO 8601."""
    result: Literal["launched", "superseded", "no_launch", "aborted"] | None = None
    """What came of its live test, if it had one."""
    metrics: list[Reported] = Field(default_factory=list)


class Inspected(BaseModel):
    """What a person said of a candidate before it was measured."""

    model_config = ConfigDict(extra="forbid")
    action: Literal["approve", "edit", "reject"]
    by: str = ""
    reason: str = ""
    at: str = ""
    """ISO 8601, UTC."""
    patch: list[dict[str, Any]] = Field(default_factory=list)
    """The delta that it was said of; after `edit`, the attempt has the other one."""


class Attempt(BaseModel):
    """One candidate's way through the offline loop: the journal's record, failures included."""

    model_config = ConfigDict(extra="forbid")
    id: str
    """uuid5 of run and step: the journal's thread id, the same after a crash."""
    kind: Literal["attempt"] = "attempt"
    run: str
    step: int
    surface: str
    data_version: str
    persona: str
    category: str | None = None
    hypothesis: str = ""
    base: str = ""
    """Fingerprint of the Φ the delta is against."""
    production: str = ""
    """Fingerprint of the production Φ it was compared with."""
    patch: list[dict[str, Any]] = Field(default_factory=list)
    """RFC 6902 operations against `base`."""
    changes: list[dict[str, Any]] = Field(default_factory=list)
    """The same candidate as a patch against production: what prompts and tables show."""
    phi: dict[str, Any] | None = None
    fingerprint: str | None = None
    outcome: Outcome
    reason: str = ""
    findings: list[dict[str, Any]] = Field(default_factory=list)
    """Checks' and linter's findings on the last delta, as Finding.as_dict()."""
    repairs: int = 0
    """How often CODE was asked again."""
    inspections: list[Inspected] = Field(default_factory=list)
    """What people said of it before it was measured, in order; empty where nobody was asked."""
    comparison: dict[str, Any] | None = None
    """tools.Comparison.model_dump(): metric, difference, low, high, seeds, effort, metrics of both arms."""
    curves: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)
    """Of a training that was given up, beside production's, as a comparison has them: here there is none."""
    insights: list[dict[str, Any]] = Field(default_factory=list)
    """SQL queries asked and what they returned: {"query", "table" | "error", "finding"}. All attempts of one
    turn hold those that it asked."""
    reviews: list[dict[str, Any]] = Field(default_factory=list)
    """What the linter said of each delta it saw: {"verdict", "findings", "fingerprint"}."""
    steering: list[str] = Field(default_factory=list)
    """Ids of the directives that were in force in a prompt of this attempt."""
    usage: Usage = Field(default_factory=Usage)
    """Of its own calls; exploring and thinking of a turn count for the first of its attempts."""
    model: str = ""
    """Who proposed it: provider:model, or the embedded engineer."""
    seed: int = 0
    started_at: str = ""
    """ISO 8601, UTC."""
    seconds: float = 0.0
    origin: Origin | None = None
    imported: Imported | None = None
    """None: it was made here."""

    @property
    def won(self) -> bool:
        """Whether this candidate may go online: what was measured elsewhere may not."""
        return self.outcome in ("better", "cheaper") and self.imported is None

    def summary(self) -> dict[str, Any]:
        """What a table, an event or another app needs: without Φ, queries and both arms' metrics."""
        comparison = self.comparison or {}
        keep = ("metric", "difference", "low", "high", "effort")
        fields = {"id", "run", "step", "surface", "persona", "category", "hypothesis", "changes", "outcome"}
        fields |= {
            "reason",
            "fingerprint",
            "repairs",
            "inspections",
            "usage",
            "seconds",
            "origin",
            "steering",
        }
        return self.model_dump(mode="json", include=fields) | {
            "comparison": {name: comparison[name] for name in keep if name in comparison} or None
        }


Phase = Literal["proposed", "validated", "training", "live", "completed"]
Result = Literal["launched", "no_launch", "superseded", "aborted", "rejected", "failed", "withdrawn"]
"""How an experiment ended. `no_launch`: read at the horizon, the launch rule did not fire; `superseded`: it
did, but production had changed meanwhile; `aborted`: stopped while live, by a guardrail, broken data or a
person; `rejected`: not fit for traffic; `failed`: a training or the platform broke; `withdrawn`: by a person,
or outranked, before it was live."""


class Experiment(BaseModel):
    """One candidate's way through the online loop: its record from the day it is proposed."""

    model_config = ConfigDict(extra="forbid")
    id: str
    """uuid5 of surface, production and candidate: its thread, and the root of its idempotency keys."""
    kind: Literal["experiment"] = "experiment"
    surface: str
    run: str | None = None
    """The run that proposed it; None: a person did."""
    attempt: str | None = None
    """Id of the attempt that won offline."""
    proposed_by: str
    """Persona, or a person's name."""
    hypothesis: str = ""
    category: str | None = None
    production: str
    """Fingerprint of the production Φ that `changes` are against."""
    changes: list[dict[str, Any]] = Field(default_factory=list)
    """JSON Patch against that production."""
    phi: dict[str, Any]
    fingerprint: str
    proxy: dict[str, Any] | None = None
    """The comparison that won offline, as in Attempt."""
    phase: Phase = "proposed"
    result: Result | None = None
    """None: under way."""
    reason: str = ""
    """Why it ended, or what it waits for."""
    findings: list[dict[str, Any]] = Field(default_factory=list)
    """Why a newer production refused it, as Finding.as_dict(): what CODE is asked to mend."""
    times: dict[str, str] = Field(default_factory=dict)
    """Phase -> when it began, ISO 8601 in the surface's time."""
    validation: dict[str, Any] | None = None
    """What VALIDATED found: `comparison` on the newest data, `findings`, `off_policy` (tools.OffPolicy:
    what a replay of random exposures says, never an A/B result), `power`, and `flags` that a person must
    override."""
    approvals: list[dict[str, str]] = Field(default_factory=list)
    """What a person let pass: {"what", "by", "reason", "at"}."""
    artifacts: dict[str, str] = Field(default_factory=dict)
    """Arm (`control`, `candidate`) -> folder of the exported model, under HOME."""
    plan: dict[str, Any] | None = None
    """tools.abtest.Plan: written before the test starts."""
    slot: int | None = None
    """Which part of the surface's traffic it has while live."""
    started: bool = False
    coverage: float = 0.0
    trouble: str = ""
    """What the platform could not do, and the next tick tries again."""
    readings: list[dict[str, Any]] = Field(default_factory=list)
    """Every daily reading: until, users of both arms, failures, looks at the guardrails."""
    effects: list[dict[str, Any]] = Field(default_factory=list)
    """Read once, at the horizon: tools.abtest.Effect of each metric."""
    decision: dict[str, Any] | None = None
    """tools.abtest.Decision."""
    replication_of: str | None = None
    """The experiment whose win this one repeats with fresh users' coins."""
    version: int | None = None
    """The production version that its launch made."""
    usage: Usage = Field(default_factory=Usage)

    def summary(self) -> dict[str, Any]:
        """What a table, an event or another app needs."""
        leave = {"phi", "plan", "readings", "validation", "artifacts"}
        return self.model_dump(mode="json", exclude=leave)


class Step(BaseModel):
    """One step as `dispatch` hands it out. `since` and `before` say which journal records it may see."""

    run: str = Field(description="Name of the run")
    step: int = Field(ge=0, description="Number of the step in its run, from 0")
    persona: str = Field(description="Who proposes")
    category: Category = Field(default="explore", description="What kind of proposal is wanted")
    seed: int = Field(default=0, description="Seed of the embedded engineer for this step")
    since: str = Field(default="", description="Journal watermark when the run began: other runs up to here")
    before: int = Field(default=0, description="First step of the batch: this run's steps below it")
    proposal: Proposal | None = Field(
        default=None, description="An idea that is there already: nobody is asked to think of another"
    )
    delta: Delta | None = Field(
        default=None,
        description="Its delta: verified as it is where there are no findings, else mended first",
    )
    findings: list[dict[str, Any]] = Field(
        default_factory=list, description="What is wrong with that delta, as Finding.as_dict()"
    )
    origin: Origin | None = Field(default=None, description="Where the idea came from")
    patches: list[str] | None = Field(
        default=None,
        description="What a delta may touch, where an idea needs another part than its persona's",
    )
    fork: str = Field(
        default="",
        description="Name of another try of this step, for whoever takes it up again with another delta: it "
        "is recorded beside the first; empty: the step itself, which is recorded once",
    )
    context: dict[str, Any] | None = Field(default=None, description="As in OfflineInput")


class AttemptInput(Step):
    """A step with what its turn has found out: a proposal, or why there is none."""

    started: float = 0.0
    """Unix seconds."""
    insights: list[dict[str, Any]] = Field(default_factory=list)
    steering: list[str] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    model: str = ""
    """Who thought of the proposal."""
    outcome: Outcome | None = None
    """Set by whichever node ends the attempt; the next stop is then record."""
    reason: str = ""


class AttemptOutput(BaseModel):
    finished: int = 0
    """1: this step is in the journal."""


class AttemptState(AttemptInput, AttemptOutput):
    """What one step knows on its way from code to record."""

    repairs: int = 0
    reviews: list[dict[str, Any]] = Field(default_factory=list)
    inspections: list[Inspected] = Field(default_factory=list)
    base: str = ""
    patch: list[dict[str, Any]] = Field(default_factory=list)
    changes: list[dict[str, Any]] = Field(default_factory=list)
    phi: dict[str, Any] | None = None
    fingerprint: str | None = None
    unasked: bool = False
    """A chat model could not be asked anything: the budget is spent, or it is not there."""
    comparison: dict[str, Any] | None = None
    curves: dict[str, list[tuple[int, float]]] = Field(default_factory=dict)


class TurnInput(BaseModel):
    """Steps of one batch that one persona is asked for at once."""

    steps: list[Step] = Field(min_length=1)


class TurnOutput(BaseModel):
    finished: Annotated[int, operator.add] = 0
    """Steps of the turn that are in the journal."""


class TurnState(TurnInput, TurnOutput):
    """What one turn knows on its way from explore to its attempts."""

    started: float = 0.0
    insights: list[dict[str, Any]] = Field(default_factory=list)
    """What it asked the log itself."""
    asking: str | None = None
    """A query that is to be run next."""
    steering: list[str] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    model: str = ""
    proposals: list[Proposal] = Field(default_factory=list)
    problem: str = ""
    """Why there are no proposals."""


class OfflineInput(BaseModel):
    """What a run is asked for. A run that exists goes on: `steps` counts those it has already."""

    steps: int = Field(default=4, ge=1, le=1_000_000, description="Candidates the run shall try in all")
    run: str | None = Field(
        default=None,
        pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$",
        description="Name of the run, to go on with one that is there, whoever began it; empty: a new one",
    )
    context: dict[str, Any] | None = Field(
        default=None,
        description="evorank's context, when this graph is a node of a graph with another context of its own",
    )


class OfflineOutput(BaseModel):
    """What a run found. The journal holds the whole of it."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    run: str | None = None
    """Name of the run."""
    attempts: list[dict[str, Any]] = Field(default_factory=list)
    """`Attempt.summary()` of every step so far, in order."""
    best: dict[str, Any] | None = None
    """The summary of the surest improvement of the loss (its interval ends lowest), None if none is."""
    stopped: str | None = None
    """Why the run ended before its last step: "interrupted", "budget: ..." or "chat model: ..."."""


class Reflection(BaseModel):
    """An insight call: the journal, as the batch that begins with `before` sees it, is to be summed up."""

    run: str
    since: str = ""
    before: int = 0
    context: dict[str, Any] | None = None


class OfflineState(OfflineInput, OfflineOutput):
    """Constant in size, however long the run: what was tried is in the journal, not here."""

    since: str | None = None
    batch: list[list[dict[str, Any]]] = Field(default_factory=list)
    """The turns that `dispatch` sends out next, each a list of Step."""
    reflects: dict[str, Any] | None = None
    """The Reflection that is due beside them."""
    finished: Annotated[int, operator.add] = 0
    """Steps that came back to this thread."""
