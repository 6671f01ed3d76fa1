"""The search behind the embedded engineer: which Φ to try next, given everything tried so far.

The prompt says which category is wanted. Two choices are drawn at random, so that parallel steps differ and
doubt is spent on trying: the family of knobs by what it achieved over its bases, and among some hundred
variants the one that is best in one draw of a surrogate fitted to the journal.
`exploit` takes local steps from the best attempts and crosses their settings; `explore` opens with recipes
and jumps; `innovate` turns structural knobs, and it alone those that bring code along. Deterministic given
the reading and the seed.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evorank.model.errors import ChatModelError
from evorank.model.system import Phi
from evorank.personas.embedded.inventions import COMPONENTS
from evorank.personas.embedded.knobs import Knob, get, same
from evorank.personas.embedded.playbook import knobs_for, recipes_for
from evorank.personas.embedded.reading import Reading, Tried, live_verdict
from evorank.personas.embedded.surrogate import Surrogate

__all__ = ["Move", "Search"]

POOL = 250
"""Variants compared before one is proposed."""
PARENTS = 5
FUTILE = -0.7
"""A family drawn below this is left alone by `innovate`: it was refused, failed or lost too often."""
DARING = {"exploit": (0.0, 0.6), "explore": (0.5, 2.0), "innovate": (0.0, 1.5)}
"""Standard deviations of doubt that count in favour of a variant, drawn anew at each step."""
JUMP = 3
"""Structural knobs that `innovate` turns at once where small steps have stopped paying."""
ENOUGH = 3
"""Measured attempts before the surrogate is asked."""
SURROGATE_ROWS = 150
USUAL_GAIN = 1e-3
"""Of what is only reported, before anything was measured here: a scale for comparing reports."""


@dataclass(frozen=True)
class Move:
    """A candidate and where it comes from. `turned` are (knob, before, after)."""

    category: str
    base: Tried | None
    """None: production."""
    phi: Phi
    turned: tuple[tuple[str, Any, Any], ...]
    recipe: str = ""
    told: str = ""
    """Who reports that this won elsewhere."""


@dataclass(frozen=True)
class _Parent:
    phi: Phi
    gain: float
    tried: Tried | None


class Search:
    """One prompt's search. `stream` separates the draws of a repair from those of the first answer."""

    def __init__(self, reading: Reading, seed: int, stream: int = 0) -> None:
        self._reading = reading
        key = [seed, reading.run_seed, reading.run, reading.persona, reading.step, stream]
        digest = hashlib.sha256(json.dumps(key).encode()).digest()
        self._rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
        self._knobs = knobs_for(reading)
        self._turnable = [k for k in self._knobs if all(reading.may_patch(p) for p in k.pointers)]
        self._measured = _comparable(reading)
        seen = [t.phi for t in reading.tried if t.phi is not None and not t.imported]
        self._tried = {_key(phi) for phi in (*seen, reading.production)}
        parents = [
            _Parent(t.phi, t.gain - t.noise / 4, t)
            for t in self._measured
            if t.phi and t.gain is not None and not _stopped_early(t) and not t.lost_live
        ]
        parents.append(_Parent(reading.production, 0.0, None))
        self._parents = sorted(parents, key=lambda parent: -parent.gain)
        self._surrogate = self._fit()

    def propose(self, category: str, avoid: Collection[str] = (), base: _Parent | None = None) -> Move:
        """The next move of a category; none is made twice. `avoid` names knobs not to turn.

        With nothing measured yet there is nothing to exploit, and it explores. Raises ChatModelError if no
        move is left.
        """
        knobs = [knob for knob in self._turnable if knob.name not in avoid]
        if not knobs:
            raise ChatModelError(
                f"persona `{self._reading.persona}` has nothing to turn under {self._reading.patchable}. "
                "Give the schema's fields bounds, enums or booleans, or production a numeric value there."
            )
        if category == "exploit" and not self._measured:
            category = "explore"
        parents = [base] if base else self._parents
        recipe = self._recipe(knobs, parents[0]) if category == "explore" and base is None else None
        if recipe:
            return self._made(recipe)
        for attempt in (category, "explore", "explore"):
            pool = self._pool(attempt, knobs, parents)
            if pool:
                return self._made(self._best(pool, category))
        raise ChatModelError(
            f"persona `{self._reading.persona}` has tried everything it can turn. Widen the schema's bounds."
        )

    def propose_from_base(self, avoid: Collection[str] = ()) -> Move:
        """The same, for the proposal that the prompt shows and from its base."""
        category = str(self._reading.proposal["category"])
        return self.propose(category, avoid, _Parent(self._reading.base, 0.0, None))

    def touching(self, pointers: Collection[str]) -> set[str]:
        """Names of the knobs that write at, above or below these pointers."""
        return {
            knob.name
            for knob in self._turnable
            for own in knob.pointers
            for other in pointers
            if (own + "/").startswith(other + "/") or (other + "/").startswith(own + "/")
        }

    def _made(self, move: Move) -> Move:
        self._tried.add(_key(move.phi))
        return move

    def _recipe(self, knobs: Sequence[Knob], parent: _Parent) -> Move | None:
        """An untried recipe of the playbook, if the draw says so; parallel steps take different ones."""
        names = {knob.name: knob for knob in knobs}
        options = self._reported(knobs)
        for title, settings in recipes_for(self._reading):
            if not settings.keys() <= names.keys():
                continue
            phi = self._reading.production
            for name, value in settings.items():
                phi = names[name].write(phi, value)
            if self._new(phi):
                options.append(
                    Move("explore", None, phi, _turned(knobs, self._reading.production, phi), title)
                )
        if not options or self._rng.random() > 0.75:
            return None
        # What won elsewhere, then the first recipes, are the safest bets; a step takes its own place.
        return options[self._reading.step % min(len(options), 4)]

    def _reported(self, knobs: Sequence[Knob]) -> list[Move]:
        """What an imported record says has won elsewhere, as it is, where this persona may write it."""
        production = self._reading.production
        moves = []
        for tried in self._reading.tried:
            won = live_verdict(tried.line) == "won" or tried.outcome in ("better", "cheaper")
            if not (tried.imported and won and tried.phi is not None and not tried.lost_live):
                continue
            written = [str(change["path"]) for change in tried.line["delta"]]
            if self._new(tried.phi) and all(map(self._reading.may_patch, written)):
                turned = _turned(knobs, production, tried.phi)
                told = f"An imported record of {tried.line['imported']['by']}"
                moves.append(Move("explore", None, tried.phi, turned, told=told))
        return moves

    def _pool(
        self, category: str, knobs: Sequence[Knob], parents: Sequence[_Parent]
    ) -> list[tuple[_Parent, Phi]]:
        pool: dict[str, tuple[_Parent, Phi]] = {}
        families = self._families()
        structural = [knob for knob in knobs if knob.structural and families[knob.family] > FUTILE]
        knobs = [knob for knob in knobs if not knob.code]
        if not knobs and not (category == "innovate" and structural):
            return []
        weights = np.array([np.exp(2 * np.clip(families[knob.family], -2, 1)) for knob in knobs])
        for _ in range(POOL):
            parent = parents[min(int(self._rng.geometric(0.5)) - 1, PARENTS, len(parents) - 1)]
            if category == "exploit":
                phi = self._refined(parent, knobs, weights, parents)
            elif category == "innovate" and structural:
                phi = self._jumped(parent, structural, JUMP if self._reading.stagnant else 1)
                phi = (
                    self._refined(_Parent(phi, 0.0, None), knobs, weights, ())
                    if knobs and self._rng.random() < 0.4
                    else phi
                )
            elif category == "explore" and self._rng.random() < 0.3:
                phi = self._jumped(parent, knobs, len(knobs))
            else:
                own = {knob.family for knob in knobs}
                drawn = {name: draw for name, draw in families.items() if name in own}
                family = max(drawn, key=lambda name: drawn[name] + 0.7 * self._rng.standard_normal())
                first = [knob for knob in knobs if knob.family == family]
                phi = self._jumped(parent, first, 1)
                if category == "innovate" or self._rng.random() < 0.5:
                    phi = self._jumped(_Parent(phi, 0.0, None), knobs, int(self._rng.integers(1, 4)))
            if self._new(phi):
                pool.setdefault(_key(phi), (parent, phi))
        return list(pool.values())

    def _refined(self, parent: _Parent, knobs: Sequence[Knob], weights: Any, mates: Sequence[_Parent]) -> Phi:
        phi = parent.phi
        if len(mates) > 2 and self._rng.random() < 0.25:
            mate = mates[int(self._rng.integers(min(len(mates), 2 * PARENTS)))]
            for knob in knobs:
                wanted = knob.read(mate.phi)
                if wanted in knob.settings and wanted != knob.read(phi) and self._rng.random() < 0.5:
                    phi = knob.write(phi, wanted)
        count = min(int(self._rng.geometric(0.55)), len(knobs), 4)
        for index in self._rng.choice(len(knobs), size=count, replace=False, p=weights / weights.sum()):
            phi = self._stepped(phi, knobs[int(index)])
        return phi

    def _stepped(self, phi: Phi, knob: Knob) -> Phi:
        if not knob.ordered:
            return self._jumped(_Parent(phi, 0.0, None), [knob], 1)
        last = len(knob.settings) - 1
        at = knob.position(knob.read(phi)) * last
        step = self._rng.choice([-2, -1, 1, 2], p=[0.15, 0.35, 0.35, 0.15])
        index = int(np.clip(round(at + step), 0, last))
        return knob.write(phi, knob.settings[index])

    def _jumped(self, parent: _Parent, knobs: Sequence[Knob], count: int) -> Phi:
        phi = parent.phi
        for index in self._rng.choice(len(knobs), size=min(count, len(knobs)), replace=False):
            knob = knobs[int(index)]
            others, likely = knob.others(knob.read(phi))
            if likely:
                phi = knob.write(phi, others[int(self._rng.choice(len(others), p=likely))])
            elif others:
                phi = knob.write(phi, others[int(self._rng.integers(len(others)))])
        return phi

    def _best(self, pool: Sequence[tuple[_Parent, Phi]], category: str) -> Move:
        index = int(self._rng.integers(len(pool)))
        if self._surrogate:
            z = self._rng.uniform(*DARING[category])
            index = int(np.argmax(self._surrogate.optimistic([phi for _, phi in pool], z)))
        parent, phi = pool[index]
        base = parent.phi
        return Move(category, parent.tried, phi, _turned(self._turnable, base, phi))

    def _families(self) -> Mapping[str, float]:
        """One draw of what turning each family achieves, in standard deviations of all improvements."""
        by_name = {t.fingerprint: t for t in self._measured}
        measured = {id(t.line): t for t in self._measured if not _stopped_early(t)}
        improved: dict[str, list[float]] = defaultdict(list)
        failed: dict[str, int] = defaultdict(int)
        for tried in self._reading.tried:
            base = by_name.get(str(tried.line.get("base")))
            before = base.phi if base and base.phi else self._reading.production
            families = self._moved(before, tried.phi) if tried.phi else set()
            for family in families:
                gain = measured[id(tried.line)].gain if id(tried.line) in measured else None
                if gain is not None:
                    improved[family].append(gain - (base.gain if base and base.gain else 0.0))
                elif tried.outcome in ("refused", "failed") or _stopped_early(tried):
                    failed[family] += 1
        spread = (
            float(np.median(np.abs([g for gains in improved.values() for g in gains]))) if improved else 1.0
        )
        drawn = {}
        for family in sorted({knob.family for knob in self._turnable}):
            scores = [float(np.clip(g / max(spread, 1e-9), -2, 2)) for g in improved[family]] + [
                -1.0
            ] * failed[family]
            count = len(scores) + 1
            drawn[family] = sum(scores) / count + self._rng.standard_normal() / np.sqrt(count)
        return drawn

    def _moved(self, before: Phi, after: Phi) -> set[str]:
        return {knob.family for knob in self._turnable if knob.read(before) != knob.read(after)}

    def _fit(self) -> Surrogate | None:
        rows = self._measured[:SURROGATE_ROWS]
        if len(rows) < ENOUGH:
            return None
        phis = [self._reading.production, *(t.phi for t in rows if t.phi)]
        gains = np.array([0.0, *(t.gain for t in rows if t.gain is not None)])
        noise = np.array([0.0, *(t.noise for t in rows)])
        return Surrogate(self._knobs, phis, gains, noise, self._rng)

    def _new(self, phi: Phi) -> bool:
        if _key(phi) in self._tried:
            return False
        return not any(_holds(phi, delta) for delta in self._reading.lost)


def _comparable(reading: Reading) -> list[Tried]:
    """Measured attempts on the metric of this persona: losses of different rewards are never compared."""
    measured = [t for t in reading.tried if t.gain is not None and t.phi is not None]
    measured.sort(key=lambda t: t.imported)  # which metric counts is ours to say, where we have one
    own = [t.line["metric"] for t in measured if t.line["persona"] == reading.persona]
    metric = own[0] if own else None
    if "compute_eval" in reading.tools:
        own_kind = [t for t in measured if t.line["persona"] == reading.persona]
        found = [t for t in own_kind if t.line["metric"] == metric]
        told = [t for t in reading.tried if t.line["persona"] == reading.persona]
        return found + _said(told, found)
    metric = metric or next((t.line["metric"] for t in measured if t.line["better_is"] == "lower"), None)
    label = reading.production.get("reward")
    found = [t for t in measured if t.line["metric"] == metric and t.phi and t.phi.get("reward") == label]
    # A training that was stopped early has no loss: it counts as far below production as anything was off it.
    far = max((abs(t.gain) for t in found if t.gain is not None), default=0.0)
    stopped = [t for t in reading.tried if _stopped_early(t) and t.phi and t.phi.get("reward") == label]
    told = [t for t in reading.tried if t.phi and t.phi.get("reward") == label]
    return found + _said(told, found) + [replace(t, gain=-far) for t in stopped if far > 0]


SAID = {"better": 1.0, "worse": -1.0, "cheaper": 0.0, "equal": 0.0, "inconclusive": 0.0}


def _said(told: Sequence[Tried], found: Sequence[Tried]) -> list[Tried]:
    """Imported attempts without a number that compares: as good or bad as attempts usually are, and as
    doubtful."""
    gains = [abs(t.gain) for t in found if t.gain]
    usual = float(np.median(gains)) if gains else USUAL_GAIN
    counted = {id(t.line) for t in found}
    said = []
    for tried in told:
        if tried.imported and tried.phi and id(tried.line) not in counted and tried.outcome in SAID:
            gain = SAID[tried.outcome] * usual
            said.append(replace(tried, gain=min(gain, 0.0) if tried.lost_live else gain, noise=usual))
    return said


def _stopped_early(tried: Tried) -> bool:
    """Known to be worse, and by how much nobody knows."""
    return tried.outcome == "worse" and "difference" not in tried.line and not tried.imported


def _holds(phi: Phi, delta: Sequence[Mapping[str, Any]]) -> bool:
    """Whether Φ has all the changes of a delta: that delta again, or something built upon it."""
    uses = [
        change for change in delta if not change["path"].startswith(COMPONENTS)
    ]  # code does nothing unused
    return all(same(get(phi, change["path"]), change.get("value")) for change in uses or delta)


def _turned(knobs: Sequence[Knob], before: Phi, after: Phi) -> tuple[tuple[str, Any, Any], ...]:
    read = [(knob.name, knob.read(before), knob.read(after)) for knob in knobs]
    return tuple(change for change in read if change[1] != change[2])


def _key(phi: Phi | None) -> str:
    """Canonical text: 1 and 1.0 are the same value."""
    return json.dumps(_plain(phi), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
