"""The forms in which a chat model answers: one pydantic model per question asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Category",
    "Claim",
    "Configuration",
    "Delta",
    "Inquiry",
    "Note",
    "Operation",
    "Proposal",
    "Proposals",
    "Ranking",
    "Review",
]

Category = Literal["explore", "exploit", "innovate"]


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Proposal(_Answer):
    """THINK: a hypothesis, before any configuration is written."""

    category: Category = Field(
        description="explore: an untried region; exploit: refine what the journal shows to work; "
        "innovate: a structure nobody listed"
    )
    hypothesis: str = Field(
        min_length=1, max_length=2000, description="What will improve, and why, in one to three sentences"
    )
    base: str = Field(
        default="production",
        description="Fingerprint (or its first 8+ characters) of the Φ to start from: `production` or an "
        "attempt in the journal",
    )


class Proposals(_Answer):
    """THINK, asked for several at once."""

    proposals: list[Proposal] = Field(min_length=1, max_length=64)


class Inquiry(_Answer):
    """EXPLORE: one step of looking at the log, before anything is proposed."""

    thought: str = Field(
        default="", max_length=1000, description="What you want to know, and what it would decide"
    )
    query: str | None = Field(
        default=None,
        max_length=10_000,
        description="One SQL SELECT over table `log` (training period), or null: enough is known",
    )
    finding: str = Field(
        default="", max_length=600, description="What the last query's result shows, with its numbers"
    )


class Operation(_Answer):
    """One RFC 6902 operation."""

    op: Literal["add", "remove", "replace", "move", "copy", "test"]
    path: str = Field(description="JSON Pointer into Φ, e.g. /optimizer/args/lr")
    value: Any = Field(default=None, description="New value for add and replace, expected value for test")
    from_: str | None = Field(default=None, alias="from", description="Source pointer of move and copy")


class Delta(_Answer):
    """CODE: only what changes, as a JSON Patch against the base Φ."""

    patch: list[Operation] = Field(min_length=1, max_length=50)
    explanation: str = Field(default="", max_length=2000, description="What the patch does, in a sentence")

    @model_validator(mode="before")
    @classmethod
    def _is_no_configuration(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and "patch" not in given:
            whole = sorted(str(name) for name, value in given.items() if isinstance(value, Mapping))
            if whole:
                raise ValueError(
                    f"must not be a whole configuration ({', '.join(whole)[:100]}): answer with `patch`, "
                    "which holds only what changes"
                )
        return given


class Configuration(_Answer):
    """CODE, where deltas are not asked for (`generation` full): all of Φ."""

    phi: dict[str, Any] = Field(description="The whole configuration, what does not change included")
    explanation: str = Field(default="", max_length=2000, description="What changed, in a sentence")


class Review(_Answer):
    """LINTER: does the delta do what the hypothesis says, and can it be trained?"""

    verdict: Literal["accept", "revise"]
    findings: list[str] = Field(default_factory=list, description="What to change, one sentence each")


class Ranking(_Answer):
    """STRATEGIST: which experiments are worth live traffic most?"""

    order: list[str] = Field(
        min_length=1, max_length=10_000, description="Ids of all experiments of the pool, best first"
    )
    reason: str = Field(min_length=1, max_length=2000, description="Why in this order, in a sentence or two")


class Claim(_Answer):
    """One thing that the journal teaches, and the attempts that show it."""

    claim: str = Field(min_length=1, max_length=400, description="One sentence with its numbers")
    cites: list[str] = Field(max_length=20, description="`id` of each attempt in the journal that shows it")


class Note(_Answer):
    """INSIGHT: the journal summed up for those who propose next."""

    works: list[Claim] = Field(default_factory=list, max_length=6)
    dead_ends: list[Claim] = Field(default_factory=list, max_length=6)
