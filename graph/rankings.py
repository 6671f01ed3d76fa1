"""rankings: what the strategist was asked and answered, so that the same question is not paid for twice.

A tick may come from cron every few minutes; between two of them, nothing that the strategist goes by has
changed as a rule. Each answer is kept with a fingerprint of its question; what it cost is in `spending.py`.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from evorank.graph.store import Store
from evorank.prompts.answers import Ranking

__all__ = ["Rankings", "fingerprint_of_question"]


def fingerprint_of_question(facts: dict[str, Any]) -> str:
    """SHA-256 of what an answer depends on."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Rankings:
    """The strategist's answers on one surface. Processes share them by the store."""

    def __init__(self, store: Store, surface: str) -> None:
        self.store, self.surface = store, surface

    def recall(self, question: str) -> Ranking | None:
        """The last answer, if it was to this question."""
        with self.store.reading() as access:
            rows = access.execute(
                "SELECT question, answer FROM evorank_rankings WHERE surface = ? AND answer IS NOT NULL"
                " ORDER BY number DESC LIMIT 1",
                self.surface,
            )
        if not rows or rows[0][0] != question:
            return None
        return Ranking.model_validate_json(rows[0][1])

    def keep(self, question: str, answer: Ranking | None, run: str | None) -> None:
        """Note an answer (None: there was no usable one), on account of a run if one asked."""
        with self.store.transaction() as access:
            access.execute(
                # `usage` is of earlier versions, which kept costs here.
                "INSERT INTO evorank_rankings (surface, number, question, answer, usage, run, at)"
                " SELECT ?, coalesce(max(number), 0) + 1, ?, ?, '{}', ?, ? FROM evorank_rankings"
                " WHERE surface = ?",
                *(self.surface, question, answer and answer.model_dump_json(), run),
                *(datetime.fromtimestamp(access.time, UTC).isoformat(), self.surface),
            )
