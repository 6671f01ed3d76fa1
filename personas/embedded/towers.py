"""The architecture playbook: a blueprint of ranking networks, drawn as named layers and read back from them.

Tower, gates, crosses, wide part, factorisation machine, attention over a history, a layer of the library of
code: each is one property of the blueprint and one knob. An architecture that no blueprint draws (somebody's
invention) is left as it is but for its widths, activation and dropout, which are rewritten in place.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evorank.model.system import LogSchema, Phi
from evorank.personas.embedded.inventions import COMPONENTS, has_components, named
from evorank.personas.embedded.knobs import Knob, get, put
from evorank.personas.embedded.reading import Reading

__all__ = ["Blueprint", "architecture_knobs", "draw", "dropout_rates", "recognise"]

ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "leaky_relu")
LAYERS = "/architecture/layers"
PATH = 64
"""Units of the value and gate paths."""
OWN_LAYERS, OWN_ACTIVATIONS = named("layer"), named("activation")
"""Code of the library that a blueprint can draw."""


@dataclass(frozen=True)
class Blueprint:
    """A ranking network in thirteen properties."""

    width: int = 128
    depth: int = 2
    taper: float = 1.0
    """Width of each layer over the one below."""
    activation: str = "relu"
    dropout: float = 0.0
    norm: str = "output"
    """none, output, layers (before each activation) or both."""
    gate: str = "none"
    """none, path (value path times gate path) or glu (gated linear units in the tower)."""
    residual: bool = False
    crosses: int = 0
    wide: bool = False
    fm: bool = False
    attention: bool = False
    own_layer: str = "none"
    """none, or code of the library: over the inputs, beside the tower or on top of it."""
    own_activation: str = "none"
    """none, or code of the library in the place of `activation`."""


def draw(plan: Blueprint, log: LogSchema) -> dict[str, str]:
    """The blueprint as `architecture.layers`."""
    layers: dict[str, str] = {}
    below = "inputs"
    activation = plan.activation if plan.own_activation == "none" else plan.own_activation
    if plan.own_layer == "excitation_gate":
        below = "weighed"
        layers[below] = "excitation_gate(inputs, 32)"
    for number in range(1, plan.depth + 1):
        units = max(1, round(plan.width * plan.taper ** (number - 1)))
        if plan.gate == "glu":
            layer = f"glu({below}, {units})"
        else:
            linear = f"dense({below}, {units})"
            layer = f"{activation}({_normed(linear, plan.norm in ('layers', 'both'))})"
        if plan.dropout:
            layer = f"dropout({layer}, {plan.dropout:g})"
        if plan.residual and number > 1:
            layer = f"residual({below}, {layer})"
        below = f"h{number}"
        layers[below] = layer
    parts = [below]
    for number in range(1, plan.crosses + 1):
        layers[f"cross{number}"] = f"cross(inputs, {'inputs' if number == 1 else f'cross{number - 1}'})"
    if plan.crosses:
        parts.append(f"cross{plan.crosses}")
    history = _history(log)
    if plan.attention and history:
        layers["interest"] = f"attention({history[1]}, {history[0]})"
        parts.append("interest")
    if plan.own_layer == "mixed_cross":
        layers["mixed"] = "mixed_cross(inputs, inputs, 16, 4)"
        parts.append("mixed")
    top = parts[0] if len(parts) == 1 else f"concat({', '.join(parts)})"
    if plan.own_layer == "gated_path":
        layers["gated"] = f"gated_path({top}, inputs, {PATH})"
        top = "gated"
    if plan.gate == "path":
        value = f"{activation}(dense({top}, {PATH}))"
        layers["value_path"] = _normed(value, plan.norm in ("output", "both"))
        layers["gate_path"] = f"sigmoid(dense(inputs, {PATH}))"
        top = "value_path * gate_path"
    else:
        top = _normed(top, plan.norm in ("output", "both"))
    terms = [f"wide({', '.join(_categorical(log))})"] if plan.wide and _categorical(log) else []
    terms += ["fm(fields)"] if plan.fm else []
    layers["output"] = " + ".join([f"dense({top}, 1)", *terms]) if terms else top
    return layers


def recognise(layers: Mapping[str, str], log: LogSchema) -> Blueprint | None:
    """The blueprint that draws exactly these layers, or None."""
    tower = [name for name in layers if re.fullmatch(r"h\d+", name)]
    widths = [_first(r"(?:dense|glu)\(\w+, *(\d+)", layers.get(f"h{i + 1}", "")) for i in range(len(tower))]
    if not widths or None in widths:
        return None
    text, first, output = " ".join(layers.values()), layers.get("h1", ""), layers.get("output", "")
    inner = "layer_norm(" in first
    outer = "layer_norm(" in output or "layer_norm(" in layers.get("value_path", "")
    width = int(widths[0] or 0)
    plan = Blueprint(
        width=width,
        depth=len(tower),
        taper=0.5 if len(tower) > 1 and int(widths[1] or 0) * 2 == width else 1.0,
        activation=_first(rf"\b({'|'.join(ACTIVATIONS)})\(", text) or "relu",
        dropout=float(_first(r"dropout\(.*, *([\d.]+)\)", first) or 0.0),
        norm={(0, 0): "none", (0, 1): "output", (1, 0): "layers", (1, 1): "both"}[inner, outer],
        gate="path" if "gate_path" in layers else "glu" if "glu(" in first else "none",
        residual="residual(" in text,
        crosses=sum(name.startswith("cross") for name in layers),
        wide="wide(" in output,
        fm="fm(" in output,
        attention="interest" in layers,
        own_layer=_first(rf"\b({'|'.join(OWN_LAYERS)})\(", text) or "none",
        own_activation=_first(rf"\b({'|'.join(OWN_ACTIVATIONS)})\(", text) or "none",
    )
    drawn = draw(plan, log)
    same = drawn.keys() == layers.keys() and all(_plain(drawn[k]) == _plain(layers[k]) for k in drawn)
    return plan if same else None


def architecture_knobs(reading: Reading) -> list[Knob]:
    """Knobs on `/architecture`; only what the prompt's layer functions allow."""
    log = reading.log
    plans: dict[tuple[tuple[str, str], ...], Blueprint | None] = {}

    def seen(layers: Mapping[str, str]) -> Blueprint | None:
        key = tuple(layers.items())
        if key not in plans:
            plans[key] = recognise(layers, log)
        return plans[key]

    def may(*functions: str) -> bool:
        known = {signature.split("(")[0] for signature in reading.functions}
        return not known or known.issuperset(functions)

    def knob(
        name: str,
        settings: tuple[Any, ...],
        ordered: bool,
        structural: bool = False,
        family: str = "",
        code: bool = False,
    ) -> Knob:
        def read(phi: Phi) -> Any:
            plan = seen(get(phi, LAYERS) or {})
            return getattr(plan, name) if plan else _foreign(phi, name)

        def write(phi: Phi, value: Any) -> Phi:
            layers = get(phi, LAYERS) or {}
            plan = seen(layers)
            if plan:
                return put(phi, LAYERS, draw(replace(plan, **{name: value}), log))
            rewrite = REWRITES.get(name)
            return put(phi, LAYERS, rewrite(layers, value)) if rewrite else phi

        pointers = (LAYERS, COMPONENTS) if code else (LAYERS,)
        title = name.replace("_", " ")
        return Knob(title, family or title, settings, ordered, read, write, pointers, structural, code)

    dims = (4, 8, 16, 32, 64)
    size = "/architecture/embedding_dim"
    knobs = [
        Knob("embedding size", "embedding size", dims, True, lambda phi: get(phi, size),
             lambda phi, value: put(phi, size, value), (size,)),
        knob("width", (16, 32, 64, 128, 256, 512), True),
        knob("depth", (1, 2, 3, 4), True),
        knob("taper", (0.5, 1.0), True, family="width"),
        knob("activation", tuple(name for name in ACTIVATIONS if may(name)), False),
    ]  # fmt: skip
    if may("dropout"):
        knobs.append(knob("dropout", (0.0, 0.05, 0.1, 0.2, 0.3, 0.5), True))
    if may("layer_norm"):
        knobs.append(knob("norm", ("none", "output", "layers", "both"), False))
    gates = ("none", *(("path",) if may("sigmoid") else ()), *(("glu",) if may("glu") else ()))
    if len(gates) > 1:
        knobs.append(knob("gate", gates, False, True))
    if may("residual"):
        knobs.append(knob("residual", (False, True), False, True))
    if may("cross"):
        knobs.append(knob("crosses", (0, 1, 2, 3), True, True))
    if may("wide") and _categorical(log):
        knobs.append(knob("wide", (False, True), False, True))
    if may("fm") and len(_categorical(log)) > 1:
        knobs.append(knob("fm", (False, True), False, True))
    if may("attention") and _history(log):
        knobs.append(knob("attention", (False, True), False, True))
    if has_components(reading):
        knobs.append(knob("own_layer", ("none", *OWN_LAYERS), False, True, code=True))
        knobs.append(knob("own_activation", ("none", *OWN_ACTIVATIONS), False, True, code=True))
    return knobs


def _foreign(phi: Phi, name: str) -> Any:
    text = " ".join((get(phi, LAYERS) or {}).values())
    if name == "width":
        width = _first(r"dense\([^()]*, *(\d+)", text)
        return int(width) if width else None
    if name == "activation":
        return _first(rf"\b({'|'.join(ACTIVATIONS)})\(", text)
    if name == "dropout":
        return max(
            (r for layer in (get(phi, LAYERS) or {}).values() for r in dropout_rates(layer)), default=0.0
        )
    return None


def dropout_rates(layer: str) -> list[float]:
    """The rates of all dropouts in one layer expression; [] where it does not parse."""
    try:
        calls = [node for node in ast.walk(ast.parse(layer, mode="eval")) if isinstance(node, ast.Call)]
    except SyntaxError:
        return []
    drops = [
        call.args[1] for call in calls if getattr(call.func, "id", "") == "dropout" and len(call.args) > 1
    ]
    return [float(rate.value) for rate in drops if isinstance(rate, ast.Constant)]  # type: ignore[arg-type]


def _rewidth(layers: Mapping[str, str], width: int) -> dict[str, str]:
    first = _first(r"dense\([^()]*, *(\d+)", " ".join(layers.values()))
    if not first:
        return dict(layers)
    factor = width / int(first)

    def scaled(match: re.Match[str]) -> str:
        units = int(match[2])
        return match[1] + str(units if units == 1 else max(1, round(units * factor)))

    return {name: re.sub(r"((?:dense|glu)\([^()]*, *)(\d+)", scaled, text) for name, text in layers.items()}


def _reactivate(layers: Mapping[str, str], activation: str) -> dict[str, str]:
    return {k: re.sub(rf"\b({'|'.join(ACTIVATIONS)})\(", f"{activation}(", v) for k, v in layers.items()}


def _redrop(layers: Mapping[str, str], rate: float) -> dict[str, str]:
    return {k: re.sub(r"(dropout\(.*, *)([\d.]+)\)", rf"\g<1>{rate:g})", v) for k, v in layers.items()}


REWRITES: dict[str, Callable[[Mapping[str, str], Any], dict[str, str]]] = {
    "width": _rewidth,
    "activation": _reactivate,
    "dropout": _redrop,
}


def _normed(expression: str, norm: bool) -> str:
    return f"layer_norm({expression})" if norm else expression


def _categorical(log: LogSchema) -> list[str]:
    return [feature.name for feature in log.features if feature.kind == "categorical"]


def _history(log: LogSchema) -> tuple[str, str] | None:
    """A history and the categorical feature that it is a history of."""
    for feature in log.features:
        if feature.kind == "history" and feature.of in _categorical(log):
            return feature.name, str(feature.of)
    return None


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _plain(text: str) -> str:
    return text.replace(" ", "")
