"""What a chat model is told: everything a prompt may show, gathered in one value before any text is written.

A briefing, or the pool of a ranking, holds data, not wording. `render` turns it into messages; nothing
reaches a chat model by another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from evorank.model.system import LogSchema, Phi

__all__ = ["PROMPT_TOKENS", "Briefing", "History", "Pool", "Role"]

History = Literal["sorted", "unsorted", "top-5", "top-1", "none"]
"""How prompts show the journal: whole and best first; in the order of time; its best; not at all."""

PROMPT_TOKENS = 60_000
"""Default length of a prompt: some 200 attempts in full, next to the schema of the built-in ranker."""


class Role(Protocol):
    """What a prompt needs of a persona; `evorank.personas.persona.Persona` is one."""

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def prose(self) -> str: ...
    @property
    def tools(self) -> Sequence[str]: ...
    @property
    def metric(self) -> str: ...
    @property
    def hypothesis(self) -> str: ...
    @property
    def example(self) -> str: ...


@dataclass(frozen=True)
class Briefing:
    """The facts behind one prompt.

    `journal` and `insights` may come in any order and any number: `render` sorts, shortens and quotes them.
    `base` is the Φ that a delta patches; CODE and the linter are shown it, THINK chooses it.
    """

    persona: Role
    surface: str
    description: str
    objectives: Mapping[str, float]
    """Category -> its standing share of the proposals, in [0, 1]; empty for who proposes nothing."""
    guardrails: Sequence[str]
    schema: Mapping[str, Any]
    """JSON Schema of Φ, every field described."""
    patchable: Sequence[str]
    """JSON Pointer prefixes this persona may patch; empty for who proposes nothing."""
    production: Phi
    production_fingerprint: str
    base: Phi
    base_fingerprint: str
    log: LogSchema
    functions: Mapping[str, str] = field(default_factory=dict)
    """Layer functions: signature, as in `dense(x, units, bias=True)` -> one line. Empty for other systems."""
    wanted: Mapping[str, int] = field(default_factory=dict)
    """Category -> how many proposals of it this answer shall hold."""
    stagnant: int = 0
    """Candidates of this persona since its last new best; 0 while that is no reason to jump."""
    steering: Mapping[str, str] = field(default_factory=dict)
    """Id -> what the operator asks for; the section is left out when empty."""
    journal: Sequence[Mapping[str, Any]] = ()
    """`Attempt.model_dump()` of the surface's attempts, failures included."""
    experiments: Sequence[Mapping[str, Any]] = ()
    """`Experiment.model_dump()` of the surface's experiments: what live traffic said of these attempts."""
    insights: Sequence[Mapping[str, Any]] = ()
    """SQL asked before and what it returned: {"query", "table" | "error", "finding"}."""
    note: Mapping[str, Any] | None = None
    """The last `Note` that summed the journal up."""
    history: History = "sorted"
    """How the journal is shown. Another than `sorted` is for comparison (`evorank ablate`)."""
    own_run: str = ""
    """Attempts of this run are called by their step, others by their id; the name itself is never shown."""
    run: str = ""
    step: int = 0
    seed: int = 0
    prompt_tokens: int = PROMPT_TOKENS
    """How long the prompt may be; the journal gives way."""


@dataclass(frozen=True)
class Pool:
    """The facts behind one ranking: experiments that are live or wait to be, and what earlier ones taught."""

    persona: Role
    surface: str
    description: str
    metrics: Sequence[Mapping[str, Any]]
    """`Metric.model_dump()`: what a live test measures, in which role."""
    places: int
    """How many experiments can be live at once."""
    horizon_days: int
    """How long each of them takes."""
    production: Phi
    production_fingerprint: str
    candidates: Sequence[Mapping[str, Any]]
    """`Experiment.model_dump()` of those to rank, the first in the queue first."""
    steering: Mapping[str, str] = field(default_factory=dict)
    journal: Sequence[Mapping[str, Any]] = ()
    """As in Briefing."""
    experiments: Sequence[Mapping[str, Any]] = ()
    """Those that ended, as in Briefing."""
    note: Mapping[str, Any] | None = None
    history: History = "sorted"
    own_run: str = ""
    """As in Briefing."""
    prompt_tokens: int = PROMPT_TOKENS
