"""What a chat model is told: everything a prompt may show, gathered in one value before any text is written.

A briefing, or the pool of a ranking, holds data, not wording. `render` turns it into messages; nothing
reaches a chat model by another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evorank.model.system import LogSchema, Phi

__all__ = ["Briefing", "Pool", "Quota", "Role"]


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
    def example(self) -> str: ...


@dataclass(frozen=True)
class Quota:
    """One category's share of the proposals: wanted in [0, 1], and how many there were so far."""

    wanted: float
    done: int = 0


@dataclass(frozen=True)
class Briefing:
    """The facts behind one prompt.

    `journal` and `insights` may come in any order and any number: `render` sorts, shortens and quotes them.
    `base` is the Φ that a delta patches; while THINK chooses, it is production.
    """

    persona: Role
    surface: str
    description: str
    objectives: Mapping[str, Quota]
    guardrails: Sequence[str]
    schema: Mapping[str, Any]
    """JSON Schema of Φ, every field described."""
    patchable: Sequence[str]
    """JSON Pointer prefixes this persona may patch."""
    production: Phi
    production_fingerprint: str
    base: Phi
    base_fingerprint: str
    log: LogSchema
    functions: Mapping[str, str] = field(default_factory=dict)
    """Layer functions: signature, as in `dense(x, units, bias=True)` -> one line. Empty for other systems."""
    steering: Sequence[str] = ()
    """What the operator asks for; the section is left out when empty."""
    journal: Sequence[Mapping[str, Any]] = ()
    """`Attempt.model_dump()` of the surface's attempts, failures included."""
    experiments: Sequence[Mapping[str, Any]] = ()
    """`Experiment.model_dump()` of the surface's experiments: what live traffic said of these attempts."""
    insights: Sequence[Mapping[str, Any]] = ()
    """SQL asked before and what it returned: {"query", "table" | "error"}."""
    run: str = ""
    step: int = 0
    seed: int = 0


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
    steering: Sequence[str] = ()
    journal: Sequence[Mapping[str, Any]] = ()
    """As in Briefing."""
    experiments: Sequence[Mapping[str, Any]] = ()
    """Those that ended, as in Briefing."""
