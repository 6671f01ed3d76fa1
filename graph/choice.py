"""Who proposes next, and what kind of change: what has paid off gets more turns, and nothing starves.

A bandit decides twice, first among personas and then among the categories of the one that was chosen. The
payoffs of an arm, recent ones counting more, give a Beta posterior; the probability that the arm is the best
of all (Thompson's) moves the shares that a run begins with, of which half is a floor. A turn goes to
the arm that is furthest below its share in the last turns: the shares of Thompson sampling without its luck,
so nothing is drawn and the same journal gives the same choice.

A persona that sets no new best for long has exhausted small steps: most of its turns are then `innovate`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special

from evorank.graph.state import Attempt, Experiment
from evorank.prompts.answers import Category
from evorank.prompts.journal import verdict

__all__ = ["SHARES", "STAGNATION", "Past", "Slot", "categories", "choose", "past", "shares", "stagnation"]

SHARES: Mapping[Category, float] = {"explore": 0.4, "exploit": 0.4, "innovate": 0.2}
"""Of each category of proposals, while nothing is known."""
JUMPS: Mapping[Category, float] = {"explore": 0.3, "exploit": 0.1, "innovate": 0.6}
"""The same for a persona whose search has come to a standstill."""
FLOOR = 0.5
"""Of an arm's share, which it keeps whatever pays off."""
STAGNATION = 8
"""A persona's candidates in a row without a new best that make a standstill."""
MEMORY = 0.97
"""What a payoff counts for each attempt that came after it: half of it after 23."""
TURNS = 8
"""Turns looked back on, per arm."""
LIVE, BEST, BETTER = 1.0, 0.5, 0.1
"""What a win pays: in live traffic; on the proxy, beyond all that the persona did before; only beyond
production, as anything near a known best will be. What live traffic contradicts pays nothing."""

Arm = TypeVar("Arm", bound=str)


@dataclass(frozen=True)
class Past:
    """What an attempt says for the choice."""

    persona: str
    category: Category | None
    payoff: float | None
    """In [0, 1]; None where it tells nothing: a chat model that failed, a record from elsewhere."""
    live: bool | None = None
    """Whether live traffic read it, and said yes."""
    best: bool = False
    """It surpassed all that its persona had done on the same production."""
    measured: bool = False
    turn: bool = False
    """It took one of the turns shared out here: made by this run, and no idea that was there before."""


@dataclass(frozen=True)
class Slot:
    """What one step shall be."""

    persona: str
    category: Category


def past(attempts: Sequence[Attempt], experiments: Sequence[Experiment], run: str) -> list[Past]:
    """The attempts, in their order, as the choice sees them."""
    read = {"won": True, "lost": False}
    lives: dict[str | None, bool] = {}
    for test in experiments:
        said = verdict({"decision": test.decision, "result": test.result})
        if said in read:
            lives[test.attempt] = read[said]
    bests: dict[tuple[str, str], float] = {}
    found = []
    for attempt in attempts:
        live = lives.get(attempt.id)
        gain = _gain(attempt)
        mine = (attempt.persona, attempt.production)
        best = live is True or attempt.outcome == "cheaper"
        if attempt.outcome == "better" and live is not False and gain > bests.get(mine, 0.0):
            best, bests[mine] = True, gain
        pays = LIVE if live else 0.0
        if live is None and attempt.won:
            pays = BEST if best else BETTER
        tells = attempt.category in SHARES and attempt.imported is None
        found.append(
            Past(
                persona=attempt.persona,
                category=attempt.category if attempt.category in SHARES else None,  # type: ignore[arg-type]
                payoff=pays if tells else None,
                live=live,
                best=best,
                measured=attempt.comparison is not None,
                turn=attempt.run == run and attempt.origin is None,
            )
        )
    return found


def choose(
    known: Sequence[Past],
    personas: Sequence[str],
    count: int,
    together: int = 1,
    fixed: Mapping[Category, int] | None = None,
) -> list[Slot]:
    """The next `count` steps, of which every `together` in a row are of one persona: it is asked for them at
    once. `fixed` categories of each such group, instead of those that pay off."""
    slots: list[Slot] = []
    while len(slots) < count:
        taken = [*known, *(Past(slot.persona, slot.category, None, turn=True) for slot in slots)]
        equal = dict.fromkeys(personas, 1 / len(personas))
        moved = shares(equal, [(each.persona, each.payoff) for each in known])
        persona = _furthest_below(moved, [each.persona for each in taken if each.turn])
        size = min(together, count - len(slots))
        slots += [Slot(persona, category) for category in categories(taken, persona, size, fixed)]
    return slots


def categories(
    known: Sequence[Past], persona: str, count: int, fixed: Mapping[Category, int] | None = None
) -> list[Category]:
    """Of a persona's next `count` proposals."""
    own = [each for each in known if each.persona == persona]
    if fixed is not None:
        moved = {name: number / sum(fixed.values()) for name, number in fixed.items()}
    else:
        prior = dict(JUMPS if stagnation(known, persona) else SHARES)
        read = [each.live for each in own if each.live is not None]
        # What the proxy praises and people do not like is not worth refining; what is not there cannot be.
        prior["exploit"] *= (1 + read.count(True)) / (1 + len(read))
        if not any(each.measured for each in own):
            prior["exploit"] = 0.0
        total = sum(prior.values())
        prior = {name: share / total for name, share in prior.items()}
        moved = shares(prior, [(each.category, each.payoff) for each in own if each.category])
    taken = [each.category for each in own if each.turn and each.category]
    chosen: list[Category] = []
    for _ in range(count):
        chosen.append(_furthest_below(moved, taken + chosen if fixed is None else chosen))
    return chosen


def shares(prior: Mapping[Arm, float], payoffs: Sequence[tuple[str, float | None]]) -> dict[Arm, float]:
    """The shares of arms, moved from `prior` (adding up to 1) towards what pays off, oldest payoff first."""
    arms = [arm for arm in prior if prior[arm] > 0]
    told = [(arm, payoff) for arm, payoff in payoffs if payoff is not None]
    weights = MEMORY ** np.arange(len(told) - 1, -1, -1)
    wins, losses = dict.fromkeys(arms, 1.0), dict.fromkeys(arms, 1.0)
    for (arm, payoff), weight in zip(told, weights, strict=True):
        if arm in wins:
            wins[arm] += weight * payoff
            losses[arm] += weight * (1 - payoff)
    chances = _best([(wins[arm], losses[arm]) for arm in arms])
    pull = {arm: prior[arm] * chance for arm, chance in zip(arms, chances, strict=True)}
    free = 1 - FLOOR
    return {
        arm: FLOOR * prior[arm] + (free * pull[arm] / sum(pull.values()) if arm in pull else 0.0)
        for arm in prior
    }


def stagnation(known: Sequence[Past], persona: str) -> int:
    """A persona's candidates since its last new best, if they make a standstill; or 0."""
    count = 0
    for each in reversed(known):
        if each.persona != persona or each.payoff is None:
            continue
        if each.best:
            break
        count += 1
    return count if count >= STAGNATION else 0


def _best(posteriors: Sequence[tuple[float, float]]) -> list[float]:
    """The probability that each of several Beta variables is the largest, by the midpoint rule."""
    points = (np.arange(400) + 0.5) / 400
    below = np.array([special.betainc(a, b, points) for a, b in posteriors])
    edges = np.linspace(0, 1, 401)
    mass = np.array([np.diff(special.betainc(a, b, edges)) for a, b in posteriors])
    others = [np.delete(below, index, axis=0).prod(axis=0) for index in range(len(posteriors))]
    return [float((mass[index] * rest).sum()) for index, rest in enumerate(others)]


def _furthest_below(wanted: Mapping[Arm, float], taken: Sequence[str]) -> Arm:
    """The arm that lacks most of its share of the last turns and the next one; of equals the first."""
    recent = Counter(taken[-TURNS * len(wanted) :])
    total = sum(recent[arm] for arm in wanted) + 1
    lacks = {arm: round(share * total - recent[arm], 9) for arm, share in wanted.items()}
    return max(lacks, key=lambda arm: lacks[arm])


def _gain(attempt: Attempt) -> float:
    if not attempt.comparison or attempt.comparison.get("difference") is None:
        return 0.0
    sign = -1.0 if attempt.comparison.get("lower_is_better", True) else 1.0
    return sign * float(attempt.comparison["difference"])
