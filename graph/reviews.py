"""What the linter was worth in a run: deltas that it caught, held up in vain, and let pass to no good."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.state import Attempt

__all__ = ["Linted", "linted"]


class Linted(BaseModel):
    """Attempts whose delta the linter read."""

    model_config = ConfigDict(extra="forbid")
    read: int = 0
    caught: int = Field(default=0, description="Sent back, and then changed or given up")
    in_vain: int = Field(default=0, description="Sent back, and accepted as it was when it came again")
    missed: int = Field(
        default=0, description="Accepted, and then refused by a guardrail or failed in its tool"
    )


def linted(attempts: Iterable[Attempt]) -> Linted:
    """Counts over the attempts of a run."""
    found = Linted()
    for attempt in attempts:
        if not attempt.reviews:
            continue
        found.read += 1
        back = [each["fingerprint"] for each in attempt.reviews if each["verdict"] == "revise"]
        accepted = attempt.reviews[-1]["verdict"] == "accept"
        if back:
            changed = not accepted or attempt.fingerprint not in back
            found.caught += changed
            found.in_vain += not changed
        found.missed += accepted and attempt.outcome in ("refused", "failed")
    return found
