"""The pool as the strategist is shown it: experiments that are live or wait for a place, as JSON lines.

A running test says how long it still needs and nothing of what it has seen, as in the journal.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from evorank.prompts.journal import TEXT_LIMIT, VALUE_LIMIT, Record, compared, replayed, verdict
from evorank.prompts.quoted import clipped, text

__all__ = ["pool_lines"]


def pool_lines(pool: Sequence[Record], past: Sequence[Record], horizon_days: int) -> list[dict[str, Any]]:
    """Experiments in the order given: where each stands, its days of traffic to go, and its proxy result.

    `won_live` marks what won one of the `past` experiments and is here to be confirmed, or to be put on top
    of a newer production.
    """
    won = [test for test in past if verdict(test) == "won"]
    lines = []
    for each in pool:
        line: dict[str, Any] = {
            "id": each["id"],
            "now": "waiting" if each["phase"] == "proposed" else each["phase"],
            "days_left": _days_left(each, horizon_days),
            "persona": text(each["proposed_by"], 80),
            "category": each.get("category"),
            "delta": clipped(each["changes"], VALUE_LIMIT),
        }
        if any(_repeats(each, test) for test in won):
            line["won_live"] = True
        line |= compared(each.get("proxy")) | replayed(each)
        line["hypothesis"] = text(each.get("hypothesis"), TEXT_LIMIT)
        lines.append(line)
    return lines


def _days_left(experiment: Record, horizon_days: int) -> int:
    """Days of traffic until the experiment's own horizon, at least one; all of them while it has none yet."""
    plan, readings = experiment.get("plan"), experiment.get("readings")
    if not plan:
        return horizon_days
    if not readings:
        return int(plan["horizon_days"])
    until = datetime.fromisoformat(readings[-1]["until"]).replace(tzinfo=None)
    seen = until - datetime.fromisoformat(plan["start"]).replace(tzinfo=None)
    return max(1, int(plan["horizon_days"]) - seen.days)


def _repeats(experiment: Record, won: Record) -> bool:
    """Whether an experiment is the replication of another one, or the same changes on a newer production."""
    same_attempt = won.get("attempt") is not None and experiment.get("attempt") == won["attempt"]
    replicates = experiment.get("replication_of") == won["id"]
    return replicates or same_attempt or bool(experiment["changes"] == won["changes"])
