"""Typed states and records of the loops: what a step knows, and what the journal keeps of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Attempt", "Outcome", "Usage"]

Outcome = Literal["better", "cheaper", "equal", "worse", "inconclusive", "refused", "failed", "duplicate"]
"""`better` and `cheaper` win; `refused` never trained (invalid, or over a guardrail); `failed`: a tool or a
chat model broke on it; `duplicate`: this Φ is in the journal already."""


class Usage(BaseModel):
    """What an attempt cost. None means "not reported", which is not zero."""

    model_config = ConfigDict(extra="forbid")
    calls: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cpu_seconds: float = 0.0
    """Training and scoring, all seeds, cached evaluations not counted."""


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
    comparison: dict[str, Any] | None = None
    """tools.Comparison.model_dump(): metric, difference, low, high, seeds, effort, metrics of both arms."""
    insights: list[dict[str, Any]] = Field(default_factory=list)
    """SQL queries asked and what they returned: {"query", "table" | "error"}."""
    usage: Usage = Field(default_factory=Usage)
    model: str = ""
    seed: int = 0
    started_at: str = ""
    """ISO 8601, UTC."""
    seconds: float = 0.0
