"""What layer functions take, mean, return and cost: the vocabulary that prompts show and `network.py` builds.

Every function is a `Signature`: parameters with their kinds and ranges, one line of meaning, and a rule from
argument shapes to (result shape, own trained parameters). No torch: rules are arithmetic on widths. A layer
that a candidate brings along is a Signature too; only its rule has to run its code.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from evorank.model.errors import RefusedDelta
from evorank.model.syntax import POINTER, Call, Node, Number, Refusal, did_you_mean
from evorank.model.system import Feature

__all__ = [
    "FUNCTIONS",
    "LITERALS",
    "Kind",
    "Parameter",
    "Sequence",
    "Shape",
    "Signature",
    "Vector",
    "arguments",
    "bind",
]

MAX_UNITS = 4_096
MAX_EMBEDDING = 512


@dataclass(frozen=True)
class Vector:
    """float32 [B, width]."""

    width: int

    @property
    def size(self) -> int:
        return self.width

    def __str__(self) -> str:
        return f"vector of width {self.width}"


@dataclass(frozen=True)
class Sequence:
    """float32 [B, length, width] with an optional mask [B, length] of the positions that exist."""

    length: int
    width: int

    @property
    def size(self) -> int:
        return self.length * self.width

    def __str__(self) -> str:
        return f"sequence of {self.length} vectors of width {self.width}"


Shape: TypeAlias = Vector | Sequence
Kind: TypeAlias = Literal[
    "value", "vector", "sequence", "operand", "feature", "categorical", "count", "rate", "flag", "number"
]
"""value: vector or sequence; operand: value or number; feature: the bare name of a categorical or numeric
feature; categorical: the bare name of a categorical one; count: an integer; rate: a number; flag: a bool;
number: any of the three, for code that checks it itself."""

LITERALS: frozenset[Kind] = frozenset({"count", "rate", "flag", "number"})
"""Kinds whose arguments are Python values, not nodes."""


@dataclass(frozen=True)
class Parameter:
    """One argument of a function. `repeated` takes all remaining positional arguments; `optional` is left to
    the function's own default, which only its code knows, where a call does not give it."""

    name: str
    kind: Kind
    default: int | float | bool | None = None
    low: float = 0
    high: float = math.inf
    repeated: bool = False
    optional: bool = False


@dataclass(frozen=True)
class Signature:
    """What a layer function takes and means. `rule` maps checked arguments to (shape, own parameters); None
    where only running a component tells them, and components do not run here."""

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    rule: Callable[..., tuple[Shape, int]] | None

    def __str__(self) -> str:
        shown = []
        for parameter in self.parameters:
            default = "=..." if parameter.optional else ""
            default = default if parameter.default is None else f"={parameter.default}"
            shown.append(f"{parameter.name}{default}{', ...' if parameter.repeated else ''}")
        return f"{self.name}({', '.join(shown)})"


def _resized(x: Shape, width: int) -> Shape:
    return Vector(width) if isinstance(x, Vector) else Sequence(x.length, width)


def _dense(x: Shape, units: int, bias: bool) -> tuple[Shape, int]:
    return _resized(x, units), x.width * units + (units if bias else 0)


def _glu(x: Shape, units: int) -> tuple[Shape, int]:
    return _resized(x, units), 2 * (x.width * units + units)


def _same(x: Shape, rate: float = 0.0) -> tuple[Shape, int]:
    return x, 0


def _layer_norm(x: Shape) -> tuple[Shape, int]:
    return x, 2 * x.width


def _rms_norm(x: Shape) -> tuple[Shape, int]:
    return x, x.width


def _concat(a: tuple[Shape, ...]) -> tuple[Shape, int]:
    if len(a) < 2:
        raise Refusal("concat needs at least two vectors")
    return Vector(sum(x.width for x in a)), 0


def _cross(x0: Shape, x: Shape, rank: int) -> tuple[Shape, int]:
    if x0.width != x.width:
        raise Refusal(
            "cross(x0, x) needs equal widths",
            f"{x0.width} and {x.width}",
            "Start with cross(inputs, inputs).",
        )
    if rank > x.width:
        raise Refusal(f"the rank of cross cannot exceed the width {x.width}", rank)
    weights = 2 * x.width * rank if rank else x.width * x.width
    return x, weights + x.width


def _wide(feature: tuple[Feature, ...]) -> tuple[Shape, int]:
    if len(set(feature)) < len(feature):
        raise Refusal("wide names a feature twice", [f.name for f in feature])
    return Vector(1), 1 + sum(f.size if f.kind == "categorical" else 1 for f in feature)


def _dot(a: Shape, b: Shape) -> tuple[Shape, int]:
    if a.width != b.width:
        raise Refusal("dot needs equal widths", f"{a.width} and {b.width}", "Project one with dense first.")
    return Vector(1), 0


def _fm(sequence: Shape) -> tuple[Shape, int]:
    return Vector(1), 0


def _attention(query: Shape, sequence: Shape) -> tuple[Shape, int]:
    projection = 0 if query.width == sequence.width else query.width * sequence.width
    return Vector(sequence.width), projection


def _pool(sequence: Shape) -> tuple[Shape, int]:
    return Vector(sequence.width), 0


def _residual(x: Shape, y: Shape) -> tuple[Shape, int]:
    if type(x) is not type(y) or (
        isinstance(x, Sequence) and isinstance(y, Sequence) and x.length != y.length
    ):
        raise Refusal("residual needs two vectors, or two sequences of one length", f"{x} and {y}")
    return y, 0 if x.width == y.width else x.width * y.width


def _embed(feature: Feature, dim: int) -> tuple[Shape, int]:
    return Vector(dim), feature.size * dim


def _broadcast(a: Shape | float, b: Shape | float) -> tuple[Shape, int]:
    if not isinstance(a, Vector | Sequence):
        a, b = b, a
    if not isinstance(a, Vector | Sequence):
        raise Refusal("an operator needs at least one value that is not a number")
    if not isinstance(b, Vector | Sequence):
        return a, 0
    if a.width != b.width and 1 not in (a.width, b.width):
        widths = f"{a} and {b}"
        raise Refusal(
            "+, - and * need equal widths, or one of width 1", widths, "Give both dense the same units."
        )
    width = max(a.width, b.width)
    lengths = {x.length for x in (a, b) if isinstance(x, Sequence)}
    if len(lengths) > 1:
        raise Refusal("+, - and * need sequences of one length", f"{a} and {b}")
    return (Sequence(lengths.pop(), width) if lengths else Vector(width)), 0


_X = Parameter("x", "value")
_UNITS = Parameter("units", "count", low=1, high=MAX_UNITS)
_SEQUENCE = Parameter("sequence", "sequence")


def _elementwise(name: str, doc: str) -> Signature:
    return Signature(name, (_X,), doc, _same)


def _operator(name: str, doc: str) -> Signature:
    return Signature(name, (Parameter("a", "operand"), Parameter("b", "operand")), doc, _broadcast)


FUNCTIONS: Mapping[str, Signature] = {
    signature.name: signature
    for signature in (
        Signature(
            "dense",
            (_X, _UNITS, Parameter("bias", "flag", default=True)),
            "x W + b: a linear layer to `units`, without activation; position by position on a sequence",
            _dense,
        ),
        Signature(
            "layer_norm", (_X,), "layer normalisation over the width, with scale and shift", _layer_norm
        ),
        Signature("rms_norm", (_X,), "root-mean-square normalisation over the width, with scale", _rms_norm),
        _elementwise("relu", "max(x, 0)"),
        _elementwise("gelu", "x Φ(x), the Gaussian error linear unit"),
        _elementwise("silu", "x sigmoid(x), also called swish"),
        _elementwise("sigmoid", "1 / (1 + exp(-x)): a gate in (0, 1)"),
        _elementwise("tanh", "hyperbolic tangent, in (-1, 1)"),
        _elementwise("softplus", "log(1 + exp(x)): smooth and positive"),
        _elementwise("leaky_relu", "x where positive, else 0.01 x"),
        _elementwise("square", "x * x"),
        Signature("softmax", (_X,), "softmax over the width: weights that sum to one", _same),
        Signature(
            "dropout",
            (_X, Parameter("rate", "rate", low=0.0, high=0.95)),
            "in training, zeroes each element with probability `rate` and rescales the rest",
            _same,
        ),
        Signature(
            "concat",
            (Parameter("a", "vector", repeated=True),),
            "vectors side by side, in the order given",
            _concat,
        ),
        Signature(
            "cross",
            (
                Parameter("x0", "vector"),
                Parameter("x", "vector"),
                Parameter("rank", "count", default=0, high=MAX_UNITS),
            ),
            "explicit feature crossing of DCN-v2: x0 * (x W + b) + x; rank > 0 makes W low-rank",
            _cross,
        ),
        Signature(
            "wide",
            (Parameter("feature", "feature", repeated=True),),
            "width 1: one weight per id of each categorical feature, linear in numerics, plus a bias",
            _wide,
        ),
        Signature(
            "dot",
            (Parameter("a", "vector"), Parameter("b", "vector")),
            "inner product of two vectors: width 1",
            _dot,
        ),
        Signature(
            "fm",
            (_SEQUENCE,),
            "width 1: the sum of inner products of all pairs in a sequence (factorisation machine)",
            _fm,
        ),
        Signature(
            "attention",
            (Parameter("query", "vector"), _SEQUENCE),
            "softmax(query . position / sqrt(width)) average of the positions that exist; the query is "
            "projected (no bias) when widths differ; zero when no position exists",
            _attention,
        ),
        Signature("mean", (_SEQUENCE,), "average over the positions that exist; zero when none does", _pool),
        Signature("sum", (_SEQUENCE,), "sum over the positions that exist", _pool),
        Signature(
            "residual",
            (_X, Parameter("y", "value")),
            "x + y; x is projected (no bias) when widths differ",
            _residual,
        ),
        Signature(
            "glu", (_X, _UNITS), "dense(x, units) * sigmoid(dense(x, units)), a gated linear unit", _glu
        ),
        Signature(
            "embed",
            (Parameter("feature", "categorical"), Parameter("dim", "count", low=1, high=MAX_EMBEDDING)),
            "an embedding of a categorical feature with a table and width of its own",
            _embed,
        ),
        _operator(
            "add",
            "a + b; widths equal, or one is 1, or a number; a vector meets every position of a sequence",
        ),
        _operator("subtract", "a - b, shapes as in add"),
        _operator("multiply", "a * b, shapes as in add"),
    )
}


def arguments(call: Call, functions: Mapping[str, Signature] = FUNCTIONS) -> dict[str, Any]:
    """A call's arguments by parameter name, defaults filled in.

    Values and features stay nodes (a tuple of nodes where repeated), counts, rates and flags are Python
    values. What `network.py` reads; only for calls that are part of a Plan.
    """
    try:
        return bind(call, functions[call.function])
    except Refusal as refusal:
        raise RefusedDelta([refusal.at(POINTER)]) from None


def bind(call: Call, signature: Signature) -> dict[str, Any]:
    known = [parameter.name for parameter in signature.parameters]
    bound: dict[str, Any] = {}
    rest = list(call.args)
    for parameter in signature.parameters:
        if parameter.repeated:
            bound[parameter.name] = tuple(rest)
            rest = []
        elif rest:
            bound[parameter.name] = rest.pop(0)
    if rest:
        raise Refusal(f"{signature} takes {len(known)} arguments", str(call))
    for key, value in call.keywords:
        if key not in known or signature.parameters[known.index(key)].repeated:
            raise Refusal(f"{signature} has no argument {key!r}", str(call), did_you_mean(key, known))
        if key in bound:
            raise Refusal(f"{signature} is given {key!r} twice", str(call))
        bound[key] = value
    for parameter in signature.parameters:
        if not bound.get(parameter.name, ()) and parameter.repeated:
            raise Refusal(f"{signature} needs at least one argument", str(call))
        if parameter.name not in bound:
            if parameter.default is not None:
                bound[parameter.name] = parameter.default
            elif not parameter.optional:
                raise Refusal(f"{signature} needs {parameter.name!r}", str(call))
        elif parameter.kind in LITERALS:
            bound[parameter.name] = _literal(bound[parameter.name], parameter, signature)
    return bound


def _literal(node: Node, parameter: Parameter, signature: Signature) -> int | float | bool:
    value = node.value if isinstance(node, Number) else None
    where = f"`{parameter.name}` of {signature}"
    if parameter.kind == "flag":
        if not isinstance(value, bool):
            raise Refusal(f"{where} must be True or False", str(node))
        return value
    if parameter.kind == "number":
        if value is None:
            raise Refusal(f"{where} must be a number, True or False", str(node))
        return value
    wanted = int if parameter.kind == "count" else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, wanted)
        or not parameter.low <= value <= parameter.high
    ):
        kind = "an integer" if parameter.kind == "count" else "a number"
        raise Refusal(f"{where} must be {kind} in [{parameter.low:g}, {parameter.high:g}]", str(node))
    return value
