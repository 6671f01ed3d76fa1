"""The embedded strategist: which experiments are worth live traffic, by search over what past tests brought.

It reads the prompt and nothing else. Across personas it plays a bandit: the gain that a test of theirs
brought production so far, shrunk to the mean of all tests, plus a bonus for what has seldom been tested,
per day of traffic still needed. Each place given to a persona counts as a test without news, so that
parallel places spread (batch upper confidence bounds: Desautels, Krause, Burdick 2014). Within a persona
the surest proxy gain goes first. Proxy gains of different personas are never compared: a loss and a
correlation have no common scale. Nothing is drawn at random.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from evorank.personas.embedded.reading import Blocks, live_verdict
from evorank.prompts.journal import live_gain

__all__ = ["ranking"]

STRENGTH = 2.0
"""Tests that the mean of all tests counts for, beside a persona's own."""
TYPICAL = 0.01
"""Lift that a test may bring where none has told yet: small, but what tests are made to find."""

Line: TypeAlias = Mapping[str, Any]


def ranking(blocks: Blocks) -> dict[str, Any]:
    """The answer to `rank`: every id of the pool, best first, and why."""
    pool = blocks.lines("Candidates")
    horizon = float(blocks.json("Call")["horizon_days"])
    tests = [line for line in blocks.lines("Attempts") if live_verdict(line) in ("won", "lost")]
    place = {line["id"]: number for number, line in enumerate(pool)}
    order: list[Line] = [line for line in pool if line.get("won_live")]
    queues = _queues([line for line in pool if not line.get("won_live")], {_paths(test) for test in tests})
    promise = _Promise(tests)
    given: Counter[str] = Counter()
    while queues:

        def worth(persona: str) -> tuple[float, int]:
            """Of a day of traffic for the persona's first in line; among equals the older in the queue."""
            first = queues[persona][0]
            return promise(persona, given[persona]) * horizon / first["days_left"], -place[first["id"]]

        best = max(queues, key=worth)
        order.append(queues[best].pop(0))
        given[best] += 1
        if not queues[best]:
            del queues[best]
    return {"order": [line["id"] for line in order], "reason": _reason(promise, sorted(given))}


class _Promise:
    """Lift that the next test of a persona may bring production: its mean so far and the doubt about it."""

    def __init__(self, tests: Sequence[Line]) -> None:
        self.brought: dict[str, list[float]] = defaultdict(list)
        for test in tests:
            self.brought[str(test["persona"])].append(_brought(test))
        every = [lift for lifts in self.brought.values() for lift in lifts]
        self._prior = float(np.mean(every)) if every else 0.0
        self._spread = max(float(np.std(every)) if every else 0.0, TYPICAL)

    def mean(self, persona: str) -> float:
        own = self.brought.get(persona, [])
        return (STRENGTH * self._prior + sum(own)) / (STRENGTH + len(own))

    def __call__(self, persona: str, given: int) -> float:
        """`given`: places this ranking gave the persona already."""
        tests = len(self.brought.get(persona, [])) + given
        return self.mean(persona) + self._spread / math.sqrt(1 + tests)


def _queues(pool: Sequence[Line], tested: set[frozenset[str]]) -> dict[str, list[Line]]:
    """Candidates by persona: what runs already, nearest its end first; then the surest, repetitions last."""
    queues: dict[str, list[Line]] = {}
    for persona in dict.fromkeys(str(line["persona"]) for line in pool):
        own = [line for line in pool if line["persona"] == persona]
        own.sort(key=lambda line: (line["now"] == "waiting", line["days_left"], -_sureness(line)))
        seen = set(tested)
        fresh: list[Line] = []
        repeated: list[Line] = []
        for line in own:
            paths = _paths(line)
            (repeated if line["now"] == "waiting" and paths in seen else fresh).append(line)
            seen.add(paths)
        queues[persona] = fresh + repeated
    return queues


def _sureness(line: Line) -> float:
    """How far the proxy's interval is from zero, in widths of the interval; 0 where nothing was measured."""
    low, high = line.get("interval") or (None, None)
    if low is None or high is None:
        return 0.0
    end = -high if line["better_is"] == "lower" else low
    return float(end / max(high - low, 1e-12))


def _paths(line: Line) -> frozenset[str]:
    """Where a delta changes Φ. One that the prompt left out changes a place of its own."""
    delta = line["delta"]
    return (
        frozenset(change["path"] for change in delta) if isinstance(delta, list) else frozenset({str(delta)})
    )


def _brought(test: Line) -> float:
    """Lift that a test gave production: none where it lost, for then nothing was launched."""
    return max(live_gain(test["online"]) or 0.0, 0.0) if live_verdict(test) == "won" else 0.0


def _reason(promise: _Promise, personas: Sequence[str]) -> str:
    told = [
        f"{persona[:40]} {promise.mean(persona):+.2%} ({len(promise.brought.get(persona, []))} tests)"
        for persona in personas[:10]
    ]
    known = f"Search: lift that a test brings, by persona: {', '.join(told)}. " if told else ""
    return known + "Then the surest proxy gain, near-duplicates last, and first what has won live before."
