"""The reward playbook: labels built from the log's own signals, as corrections to production's label.

Production's label stays one factor, `before`; positive signals join it with a weight, watch time
saturates, negative signals take away. Signals are told apart by the names that public logs use, and by
their rates once a query has shown them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from evorank.model.system import Phi
from evorank.personas.embedded.knobs import Knob, get
from evorank.personas.embedded.reading import Reading

__all__ = ["Mix", "Signals", "compose", "rates", "rates_found", "rates_query", "reward_knobs", "signals"]

NEGATIVE = re.compile(
    r"dislike|hate|report|block|hide|skip|negative|unfollow|unsubscribe|bounce|not_interest|regret"
)
POSITIVE = re.compile(
    r"click|like|follow|comment|share|forward|collect|favou?rite|save|subscri|long_view|valid|purchase|buy|cart|order"
    r"|profile|vote|complet|finish|active|enter|satisf"
)
WATCH = re.compile(r"(?:play|watch|dwell|listen|stay|view)(?:ing|ed)?_?(?:time|s$|ms$|sec)|^(?:watch|dwell)_")
DURATION = re.compile(r"duration|_length_(?:s|ms)$|video_length")
NUMBER = re.compile(r"INT|DOUBLE|FLOAT|REAL|DECIMAL|BOOL", re.IGNORECASE)
OUTCOME = re.compile(r"return|retention|retain|churn|next_day|future|survey|long_term|lifetime")
MOST = 8
"""Signals turned at once; the rest of a very wide log waits for a person."""
WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Signals:
    """Columns of the log by what they mean."""

    positive: tuple[str, ...]
    negative: tuple[str, ...]
    watch: str | None
    duration: str | None


@dataclass(frozen=True)
class Mix:
    """A label: production's (`before`) with weights for other signals."""

    before: float = 1.0
    weights: tuple[tuple[str, float], ...] = ()
    watch: str = "none"
    """none, ratio (share watched) or root (its square root: saturates early)."""
    watch_weight: float = 1.0
    penalty: float = 0.0
    combine: str = "sum"
    """sum, or product: `before` times what came after it."""


def signals(reading: Reading) -> Signals:
    """What the log offers, without outcomes, features (what is known before people act is no signal), and
    columns whose rate a query showed to be nearly 0 or 1."""
    seen, known = rates(reading), {feature.name for feature in reading.log.features}
    names = [
        c for c, kind in reading.log.columns.items() if NUMBER.search(kind) and not OUTCOME.search(c.lower())
    ]
    dull = {name for name, rate in seen.items() if not 1e-5 < rate < 0.98}
    negative = [c for c in names if NEGATIVE.search(c.lower()) and c not in dull | known]
    watch = [c for c in names if WATCH.search(c.lower()) and not DURATION.search(c.lower())]
    duration = [c for c in names if DURATION.search(c.lower())]
    taken = {*(c for c in names if NEGATIVE.search(c.lower())), *watch, *duration}
    positive = [c for c in names if c not in taken and POSITIVE.search(c.lower()) and c not in dull | known]
    return Signals(
        tuple(positive[:MOST]), tuple(negative[:MOST]), next(iter(watch), None), next(iter(duration), None)
    )


def rates_query(reading: Reading) -> str | None:
    """One SELECT for the rate of every signal, or None when it has been asked or nothing can be."""
    if any("AS impressions" in asked["query"] for asked in reading.queries):
        return None
    found = signals(reading)
    parts = [f'avg(CAST("{c}" AS DOUBLE)) AS "{c}"' for c in (*found.positive, *found.negative)]
    if not parts:
        return None
    return "SELECT count(*) AS impressions, " + ", ".join(parts) + " FROM log"


def rates(reading: Reading) -> dict[str, float]:
    """Signal -> rate, from the answer to `rates_query` in the prompt, however it is laid out."""
    for asked in reversed(reading.queries):
        if "AS impressions" in asked["query"] and asked.get("table"):
            return {k: v for k, v in _first_row(asked["table"]).items() if k != "impressions"}
    return {}


def rates_found(reading: Reading) -> str:
    """What the last query showed, if it was `rates_query`; "" otherwise."""
    if not reading.queries or "AS impressions" not in reading.queries[-1]["query"]:
        return ""
    found = ", ".join(f"{name} {rate:.3%}" for name, rate in rates(reading).items())
    return f"Search: rates of the signals are {found}."[:600] if found else ""


def compose(mix: Mix, reading: Reading) -> dict[str, Any]:
    """The whole `reward` of Φ for a mix; production's own for the plain one."""
    reward = reading.production["reward"]
    found = signals(reading)
    if mix == Mix():
        return dict(reward)
    tag = _tag(reading)
    before, watched_factor, disliked = f"before{tag}", f"watched{tag}", f"disliked{tag}"
    factors = dict(reward.get("factors") or {})
    factors[before] = reward["label"]
    terms = []
    for column, weight in mix.weights:
        factors[f"{column}_signal{tag}"] = f'COALESCE(CAST("{column}" AS DOUBLE), 0.0)'
        terms.append((weight, f"{column}_signal{tag}"))
    if mix.watch != "none" and found.watch:
        watched = f'GREATEST(COALESCE(CAST("{found.watch}" AS DOUBLE), 0.0), 0.0)'
        if found.duration:
            share = f'LEAST(COALESCE({watched} / NULLIF(CAST("{found.duration}" AS DOUBLE), 0.0), 0.0), 1.0)'
        else:
            share = f"{watched} / (1.0 + {watched})"
        factors[watched_factor] = f"SQRT({share})" if mix.watch == "root" else share
        terms.append((mix.watch_weight, watched_factor))
    if mix.combine == "product" and terms:
        label = f"{before} * (0.5 + 0.5 * {_mean(terms)})"
    else:
        label = _mean([(mix.before, before), *terms])
    if mix.penalty and found.negative:
        parts = ", ".join(f'COALESCE(CAST("{c}" AS DOUBLE), 0.0)' for c in found.negative)
        factors[disliked] = f"GREATEST({parts})" if len(found.negative) > 1 else parts
        label = f"{label} * (1.0 - {mix.penalty:g} * {disliked})"
    if reward.get("loss", "bce") == "bce":
        label = f"LEAST(1.0, GREATEST(0.0, {label}))"
    return {**reward, "factors": factors, "label": label}


def reward_knobs(reading: Reading) -> list[Knob]:
    """Knobs on `/reward`: one weight per positive signal, watch time, penalty, how they combine."""
    found = signals(reading)
    mixes: dict[str, Mix | None] = {}

    def seen(phi: Phi) -> Mix | None:
        key = json.dumps(phi.get("reward"))
        if key not in mixes:
            mixes[key] = recognise(phi, reading)
        return mixes[key]

    knobs = [_knob(reading, seen, "weight of production's label", "before", (0.25, 0.5, 1.0, 2.0), True)]
    for column in found.positive:
        knobs.append(_knob(reading, seen, f"weight of {column}", f"weights.{column}", WEIGHTS, True))
    if found.watch:
        knobs.append(
            _knob(reading, seen, "watch time", "watch", ("none", "ratio", "root"), False, structural=True)
        )
        knobs.append(
            _knob(reading, seen, "weight of watch time", "watch_weight", (0.25, 0.5, 1.0, 2.0), True)
        )
    if found.negative:
        knobs.append(_knob(reading, seen, "penalty of negative signals", "penalty", (0.0, 0.5, 1.0), True))
    knobs.append(
        _knob(reading, seen, "how signals combine", "combine", ("sum", "product"), False, structural=True)
    )
    return knobs


def _tag(reading: Reading) -> str:
    """What the names of our factors end with: production's own, a launched mix of ours among them, stay."""
    taken = reading.production["reward"].get("factors") or {}
    ours = re.compile(r"before|watched|disliked|\w+_signal")
    numbers = [
        int(number or 1)
        for name, number in (re.fullmatch(r"(.*?)(?:_(\d+))?", each).groups() for each in taken)  # type: ignore[union-attr]
        if ours.fullmatch(name)
    ]
    return f"_{max(numbers) + 1}" if numbers else ""


def recognise(phi: Phi, reading: Reading) -> Mix | None:
    """The mix that composes exactly this reward, or None for somebody else's idea."""
    reward = phi.get("reward") or {}
    if reward == reading.production["reward"]:
        return Mix()
    label, factors = str(reward.get("label", "")), reward.get("factors") or {}
    weights = {name: float(w) for w, name in re.findall(r"([\d.]+) \* (\w+)", label)}
    tag = _tag(reading)
    signal = f"_signal{tag}"
    watched = factors.get(f"watched{tag}", "")
    mix = Mix(
        before=weights.get(f"before{tag}", 1.0),
        weights=tuple((n.removesuffix(signal), w) for n, w in weights.items() if n.endswith(signal)),
        watch="none" if not watched else "root" if watched.startswith("SQRT") else "ratio",
        watch_weight=weights.get(f"watched{tag}", 1.0),
        penalty=weights.get(f"disliked{tag}", 0.0),
        combine="product" if f"before{tag} * (0.5" in label else "sum",
    )
    return mix if compose(mix, reading) == reward else None


def _knob(
    reading: Reading,
    seen: Callable[[Phi], Mix | None],
    name: str,
    part: str,
    settings: tuple[Any, ...],
    ordered: bool,
    structural: bool = False,
) -> Knob:
    column = part.removeprefix("weights.") if part.startswith("weights.") else None

    def read(phi: Phi) -> Any:
        mix = seen(phi)
        if mix is None:
            return None
        return dict(mix.weights).get(column, 0.0) if column else getattr(mix, part)

    def write(phi: Phi, value: Any) -> Phi:
        mix = seen(phi) or Mix()
        if column:
            weights = dict(mix.weights) | {column: value}
            order = [c for c in signals(reading).positive if weights.get(c)]
            mix = replace(mix, weights=tuple((c, weights[c]) for c in order))
        else:
            mix = replace(mix, **{part: value})
        return {**phi, "reward": compose(mix, reading)}

    return Knob(name, name, settings, ordered, read, write, ("/reward",), structural)


def _mean(terms: list[tuple[float, str]]) -> str:
    total = sum(weight for weight, _ in terms)
    return "(" + " + ".join(f"{weight:g} * {name}" for weight, name in terms) + f") / {total:g}"


def _first_row(table: Any) -> dict[str, float]:
    """The first row of a one-row result: text with a header line, or JSON columns and rows."""
    if isinstance(table, str) and table.lstrip().startswith(("{", "[")):
        table = json.loads(table)
    if isinstance(table, dict) and "columns" in table and table.get("rows"):
        first = table["rows"][0]
        pairs = (
            list(first.items())
            if isinstance(first, dict)
            else list(zip(table["columns"], first, strict=False))
        )
    elif isinstance(table, list) and table and isinstance(table[0], dict):
        pairs = list(table[0].items())
    elif isinstance(table, str):
        lines = [
            line for line in table.splitlines() if line.strip() and not re.fullmatch(r"[-|:+ \t]+", line)
        ]
        split = re.compile(r"\s*\|\s*|\s*\t\s*|\s*,\s*")
        cells = [split.split(line.strip().strip("|").strip()) for line in lines[:2]]
        pairs = list(zip(*cells, strict=False)) if len(cells) == 2 else []
    else:
        pairs = []
    numbers = {}
    for name, value in pairs:
        try:
            numbers[str(name)] = float(value)
        except (TypeError, ValueError):
            continue  # a count too long for its cell, a NULL: not a rate we know
    return numbers


def label_of(phi: Phi) -> str:
    """Label and factors in one string: what the linter looks for signals in."""
    reward = get(phi, "/reward") or {}
    return " ".join([str(reward.get("label", "")), *map(str, (reward.get("factors") or {}).values())])
