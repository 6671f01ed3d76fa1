"""ensemble: which of several chat models proposes next, by what the proposals of each achieved per dollar.

Thompson sampling on whether a proposal won (better, or cheaper), divided by what an attempt of that model
costs. It is the same for the same journal and seed. Limits: attempts count alike, whatever the persona.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from evorank.graph.prices import Prices
from evorank.graph.state import Attempt, Usage

__all__ = ["choose", "incomparable"]

MACHINE_USD = 0.01
"""What an attempt costs besides its model: a training, and a step of the run. So a model that sends no bill
is not infinitely good."""
TYPICAL = Usage(input_tokens=40_000, output_tokens=8_000)
"""Of an attempt, until there are attempts of a model to go by."""


def choose(names: Sequence[str], attempts: Sequence[Attempt], seed: int, prices: Prices) -> str:
    """One of `names`. Where a price is not known, dollars are left out of it for all of them."""
    if len(names) == 1:
        return names[0]
    draw = random.Random(f"{seed}/{'/'.join(names)}")
    priced = not incomparable(names, prices)
    best, chosen = -1.0, names[0]
    for name in names:
        own = [
            each for each in attempts if each.model == name and not each.imported and not _by_provider(each)
        ]
        won = sum(each.won for each in own)
        chance = draw.betavariate(1 + won, 1 + len(own) - won)
        worth = chance / (MACHINE_USD + (_cost(name, own, prices) if priced else 0.0))
        if worth > best:
            best, chosen = worth, name
    return chosen


def incomparable(names: Sequence[str], prices: Prices) -> list[str]:
    """Those whose price is not known, so that nobody's achievements can be set against money."""
    return [name for name in names if prices.of(name) is None]


def _cost(name: str, own: Sequence[Attempt], prices: Prices) -> float:
    """Dollars of an attempt: the mean of those made, and one that is typical."""
    price = prices.of(name)
    known = [each.usage.usd for each in own if each.usage.usd is not None]
    typical = (price.usd(TYPICAL) if price else None) or 0.0
    return (typical + sum(known)) / (1 + len(known))


def _by_provider(attempt: Attempt) -> bool:
    """It failed because nobody answered: no fault of what was proposed."""
    return attempt.outcome == "failed" and attempt.usage.failures > 0
