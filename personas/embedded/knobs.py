"""Knobs: what can be turned in a Φ, read off its JSON Schema. No knowledge of any particular model.

A knob reads one property of a Φ and writes it into a copy. The playbooks add knobs with knowledge behind
them (an optimizer's own learning-rate scale, the width of a tower); this module makes them for any schema.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from evorank.model.system import Phi

__all__ = ["Knob", "changes", "generic_knobs", "get", "ladder", "put", "same"]

STEPS = 13
"""Settings per numeric range: fine enough that two neighbours differ less than training noise does."""
REACH = 2.5


@dataclass(frozen=True)
class Knob:
    """One property of Φ. `settings` are tried values; if `ordered`, neighbours behave alike."""

    name: str
    family: str
    settings: tuple[Any, ...]
    ordered: bool
    read: Callable[[Phi], Any]
    """The value in this Φ, or None where it has no such property."""
    write: Callable[[Phi, Any], Phi]
    pointers: tuple[str, ...] = ()
    structural: bool = False
    """Turning it changes what is computed, not how much of it: material for `innovate`."""
    code: bool = False
    """Turning it brings along code of the library: left to `innovate`, until an attempt holds it."""
    reach: float | None = None
    """How many settings a jump usually goes. None: all settings are sensible, a jump goes anywhere. A range
    read off a schema says what is allowed, not what is sensible: its ends are rarely worth a training."""

    def others(self, value: Any) -> tuple[list[Any], list[float] | None]:
        """The settings a jump may go to, and how likely each is (None: all alike)."""
        others = [setting for setting in self.settings if setting != value]
        if self.reach is None or not self.ordered or not others:
            return others, None
        last = len(self.settings) - 1
        at = self.position(value) * last
        far = [abs(self.position(setting) * last - at) for setting in others]
        weights = [math.exp(-distance / self.reach) for distance in far]
        return others, [weight / sum(weights) for weight in weights]

    def position(self, value: Any) -> float:
        """Where the value lies among the ordered settings, 0 to 1 (may be between two, never outside)."""
        settings = self.settings
        if value is None or len(settings) < 2:
            return 0.0
        if value in settings:
            return settings.index(value) / (len(settings) - 1)
        numbers = [float(s) if isinstance(s, int | float) else math.nan for s in settings]
        if not isinstance(value, int | float) or isinstance(value, bool):
            return 0.0
        known = [(n, i) for i, n in enumerate(numbers) if not math.isnan(n)]
        if not known:
            return 0.0
        log = all(n > 0 for n, _ in known) and value > 0
        xs = [math.log(n) if log else n for n, _ in known]
        at = float(np.interp(math.log(value) if log else float(value), xs, [i for _, i in known]))
        return at / (len(settings) - 1)


def ladder(
    low: float, high: float, steps: int = STEPS, *, log: bool = False, integer: bool = False
) -> tuple[Any, ...]:
    """Evenly spaced settings from low to high, to three significant digits."""
    values = np.geomspace(low, high, steps) if log else np.linspace(low, high, steps)
    rounded = [round(float(v)) if integer else float(f"{float(v):.3g}") for v in values]
    return tuple(dict.fromkeys(rounded))


def generic_knobs(schema: Mapping[str, Any], production: Phi, patchable: Sequence[str]) -> list[Knob]:
    """One knob per patchable leaf that the schema bounds or production shows to be a number or boolean."""
    knobs = []
    for pointer, leaf in _leaves(schema, schema, production, ""):
        if not any(pointer == p or pointer.startswith(p.rstrip("/") + "/") for p in patchable):
            continue
        settings, ordered = _settings(leaf, get(production, pointer))
        if len(settings) > 1:
            knobs.append(_leaf_knob(pointer, settings, ordered))
    return knobs


def _leaf_knob(pointer: str, settings: tuple[Any, ...], ordered: bool) -> Knob:
    return Knob(
        name=pointer,
        family=pointer,
        settings=settings,
        ordered=ordered,
        reach=REACH,
        read=lambda phi: get(phi, pointer),
        write=lambda phi, value: put(phi, pointer, value),
        pointers=(pointer,),
    )


def _leaves(
    root: Mapping[str, Any], schema: Mapping[str, Any], value: Any, pointer: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    schema = _resolved(root, schema)
    properties = schema.get("properties", {})
    if properties or isinstance(value, dict):
        names = list(properties) + [
            n for n in (value if isinstance(value, dict) else {}) if n not in properties
        ]
        extra = schema.get("additionalProperties")
        for name in names:
            inner = properties.get(name) or (extra if isinstance(extra, Mapping) else {})
            child = value.get(name) if isinstance(value, dict) else None
            # A part that production leaves out cannot be reached by one leaf: its parent is not there.
            if isinstance(value, dict):
                yield from _leaves(root, inner, child, f"{pointer}/{_escaped(name)}")
    elif not isinstance(value, list):
        yield pointer, schema


def _resolved(root: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Follow $ref, single allOf and `X or null`; a nullable schema is marked with `nullable`."""
    for _ in range(20):
        if "$ref" in schema:
            target: Any = root
            for part in str(schema["$ref"]).removeprefix("#/").split("/"):
                target = target[_unescaped(part)]
            schema = {**target, **{k: v for k, v in schema.items() if k != "$ref"}}
        elif len(schema.get("allOf", ())) == 1:
            schema = {**schema["allOf"][0], **{k: v for k, v in schema.items() if k != "allOf"}}
        elif "anyOf" in schema or "oneOf" in schema:
            key = "anyOf" if "anyOf" in schema else "oneOf"
            options = [o for o in schema[key] if o.get("type") != "null"]
            if not options:
                return {}
            nullable = len(options) < len(schema[key])
            rest = {k: v for k, v in schema.items() if k != key}
            schema = {**options[0], **rest, **({"nullable": True} if nullable else {})}
        else:
            return schema
    return {}  # a schema that refers to itself without end has no leaf


def _settings(schema: Mapping[str, Any], value: Any) -> tuple[tuple[Any, ...], bool]:
    settings: tuple[Any, ...]
    kind = schema.get("type")
    if "enum" in schema:
        settings, ordered = tuple(schema["enum"]), False
    elif kind == "boolean" or (kind is None and isinstance(value, bool)):
        settings, ordered = (False, True), False
    elif kind in ("number", "integer") or (kind is None and isinstance(value, int | float)):
        settings, ordered = (
            _numbers(schema, value, kind == "integer" or (kind is None and isinstance(value, int))),
            True,
        )
    else:
        return (), False
    if schema.get("nullable") and None not in settings:
        settings = (None, *settings)
    return settings, ordered


def _numbers(schema: Mapping[str, Any], value: Any, integer: bool) -> tuple[Any, ...]:
    centre = float(value) if isinstance(value, int | float) else float(schema.get("default") or 1.0)
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if high is None:
        high = below - (1 if integer else 1e-3 * abs(below or 1.0)) if below is not None else None
    if high is None:
        high = max(abs(centre) * 20, 4 if integer else 1.0)
    if low is None and above is not None:
        # Open at zero: start where the value is already small against production or the upper bound.
        low = above + 1 if integer else above + min(abs(centre) / 100 or high * 1e-4, high * 1e-2)
    if low is None:
        low = centre / 20 if centre > 0 else centre - 1.0
    low, high = (
        (max(low, schema.get("minimum", low)), high) if not integer else (math.ceil(low), math.floor(high))
    )
    if low >= high:
        return (value,)
    if low == 0 and (high / centre >= 1000 if centre > 0 else high <= 0.05):  # a rate, such as weight decay
        return (
            0 if integer else 0.0,
            *ladder(1 if integer else high * 1e-5, high, log=True, integer=integer),
        )
    settings = ladder(low, high, log=low > 0 and high / low >= 30, integer=integer)
    step = schema.get("multipleOf")
    return tuple(dict.fromkeys(type(step)(round(s / step) * step) for s in settings)) if step else settings


def get(phi: Any, pointer: str) -> Any:
    """The value at a JSON Pointer, or None where there is none."""
    for part in _parts(pointer):
        if not isinstance(phi, dict) or part not in phi:
            return None
        phi = phi[part]
    return phi


def put(phi: Phi, pointer: str, value: Any) -> Phi:
    """A copy of Φ with one value set; missing parents become objects. Other parts are shared."""
    phi = dict(phi)
    *parents, last = _parts(pointer)
    at = phi
    for part in parents:
        inner = at.get(part)
        at[part] = dict(inner) if isinstance(inner, dict) else {}
        at = at[part]
    at[last] = value
    return phi


def changes(base: Any, target: Any, pointer: str = "") -> list[dict[str, Any]]:
    """`add`, `remove` and `replace` operations that lead from base to target, one per changed leaf."""
    if not (isinstance(base, dict) and isinstance(target, dict)):
        return [] if same(base, target) else [{"op": "replace", "path": pointer, "value": target}]
    operations: list[dict[str, Any]] = []
    for name in base:
        path = f"{pointer}/{_escaped(name)}"
        operations += (
            changes(base[name], target[name], path) if name in target else [{"op": "remove", "path": path}]
        )
    for name in target:
        if name not in base:
            operations.append({"op": "add", "path": f"{pointer}/{_escaped(name)}", "value": target[name]})
    return operations


def same(a: Any, b: Any) -> bool:
    """JSON equality: 1 and 1.0 are the same, true and 1 are not."""
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def _escaped(name: str) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")


@lru_cache(4096)
def _parts(pointer: str) -> tuple[str, ...]:
    """Kept, because a pool of candidates asks for the same hundred pointers a hundred thousand times."""
    return tuple(_unescaped(part) for part in pointer.split("/")[1:])


def _unescaped(part: str) -> str:
    return part.replace("~1", "/").replace("~0", "~")
