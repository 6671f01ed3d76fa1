"""rates: how often attempts won, with an interval; what calls to chat models cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import Field

from evorank.graph.state import Attempt, Usage
from evorank.ui.views.common import INVALID, OUTCOMES, WINS, View

__all__ = ["Rate", "Spent", "rate", "rates", "total", "wilson"]


class Rate(View):
    """A share of attempts with its 95% interval (Wilson)."""

    name: str
    won: int
    compared: int = Field(description="Attempts that were measured: not refused, failed or duplicate")
    tried: int
    share: float = Field(description="won / tried")
    low: float
    high: float
    outcomes: dict[str, int]


class Spent(View):
    """What a persona's questions to a model cost."""

    persona: str
    model: str
    usage: Usage


def rate(name: str, attempts: Sequence[Attempt]) -> Rate:
    outcomes = dict.fromkeys(OUTCOMES, 0)
    for attempt in attempts:
        outcomes[attempt.outcome] += 1
    tried, won = len(attempts), sum(outcomes[each] for each in WINS)
    low, high = wilson(won, tried)
    return Rate(
        name=name,
        won=won,
        compared=tried - sum(outcomes[each] for each in INVALID),
        tried=tried,
        share=won / tried if tried else 0.0,
        low=low,
        high=high,
        outcomes={each: count for each, count in outcomes.items() if count},
    )


def rates(attempts: Iterable[Attempt], by: str) -> list[Rate]:
    """One for each value of an attempt's field, most attempts first."""
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        groups.setdefault(str(getattr(attempt, by) or "none"), []).append(attempt)
    return sorted((rate(name, found) for name, found in groups.items()), key=lambda each: -each.tried)


def wilson(won: int, tried: int, z: float = 1.959964) -> tuple[float, float]:
    """95% interval of a share, sensible for few attempts as well (Wilson 1927)."""
    if not tried:
        return 0.0, 1.0
    share, add = won / tried, z * z / tried
    half = z * math.sqrt(share * (1 - share) / tried + add / (4 * tried))
    low, high = ((share + add / 2 + side * half) / (1 + add) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def total(usages: Iterable[Usage]) -> Usage:
    """Sums; what nobody reported is not zero."""
    return sum(usages, Usage())
