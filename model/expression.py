"""The small language of `architecture.layers`: text in, a checked plan with static shapes out.

A network is a set of let-bindings, each one expression: `"gate_path": "sigmoid(dense(layer_norm(h1), 32))"`.
`parse_layer` turns text into nodes (Python's own parser, an allow-list of three node kinds), `plan` orders
the bindings that `output` needs and infers every shape and parameter count. Pure Python: a Φ is checked in
milliseconds, without torch and without running anything it says. `network.py` builds what is planned here.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, TypeAlias

from evorank.model.errors import Finding, RefusedDelta
from evorank.model.system import Feature, LogSchema

__all__ = [
    "FUNCTIONS",
    "RESERVED",
    "Binding",
    "Call",
    "Name",
    "Node",
    "Number",
    "Parameter",
    "Plan",
    "Sequence",
    "Shape",
    "Signature",
    "Vector",
    "arguments",
    "identifier_problem",
    "parse_layer",
    "plan",
    "table_of",
]

POINTER = "/architecture/layers"
RESERVED = frozenset({"inputs", "fields"})

MAX_TEXT = 2_000  # characters of one expression
MAX_DEPTH = 64  # nested calls and operators of one expression
MAX_BINDINGS = 100
MAX_CALLS = 1_000  # in the whole network
MAX_UNITS = 4_096
MAX_EMBEDDING = 512
MAX_WIDTH = 65_536
MAX_DENSE_PARAMETERS = 50_000_000  # 200 MB of float32; a step on one core would take seconds
MAX_PARAMETERS = 1_000_000_000  # with the embedding tables: 4 GB


# --------------------------------------------------------------------------- nodes


@dataclass(frozen=True)
class Name:
    """A feature, `inputs`, `fields`, or another binding."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Number:
    """A literal: int, finite float, or bool (`bias=False`). Integer-valued floats are ints."""

    value: int | float | bool

    def __str__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class Call:
    """A function of FUNCTIONS or a component applied to nodes; `a + b` is `Call("add", (a, b))`."""

    function: str
    args: tuple[Node, ...]
    keywords: tuple[tuple[str, Node], ...] = ()

    def __str__(self) -> str:
        inside = [str(arg) for arg in self.args] + [f"{key}={value}" for key, value in self.keywords]
        return f"{self.function}({', '.join(inside)})"


Node: TypeAlias = Name | Number | Call
"""Frozen and hashable. Equal text at two places is equal as a node but holds two sets of weights:
weights are shared only through a binding."""


# --------------------------------------------------------------------------- shapes


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
    "value", "vector", "sequence", "operand", "feature", "categorical", "count", "rate", "flag"
]
"""value: vector or sequence; operand: value or number; feature: the bare name of a categorical or numeric
feature; categorical: the bare name of a categorical one; count: an integer; rate: a number; flag: a bool."""


class _Refusal(Exception):  # noqa: N818 - internal: becomes a Finding with the binding's pointer
    def __init__(self, rule: str, value: Any = None, hint: str = "") -> None:
        self.rule, self.value, self.hint = rule, value, hint
        super().__init__(rule)

    def at(self, pointer: str) -> Finding:
        return Finding(pointer, self.rule, self.value, self.hint)


# --------------------------------------------------------------------------- functions


@dataclass(frozen=True)
class Parameter:
    """One argument of a function. `repeated` takes all remaining positional arguments."""

    name: str
    kind: Kind
    default: int | float | bool | None = None
    low: float = 0
    high: float = math.inf
    repeated: bool = False


@dataclass(frozen=True)
class Signature:
    """What a layer function takes and means. `rule` maps checked arguments to (shape, own parameters)."""

    name: str
    parameters: tuple[Parameter, ...]
    doc: str
    rule: Callable[..., tuple[Shape, int]]

    def __str__(self) -> str:
        shown = []
        for parameter in self.parameters:
            default = "" if parameter.default is None else f"={parameter.default}"
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
        raise _Refusal("concat needs at least two vectors")
    return Vector(sum(x.width for x in a)), 0


def _cross(x0: Shape, x: Shape, rank: int) -> tuple[Shape, int]:
    if x0.width != x.width:
        raise _Refusal(
            "cross(x0, x) needs equal widths",
            f"{x0.width} and {x.width}",
            "Start with cross(inputs, inputs).",
        )
    if rank > x.width:
        raise _Refusal(f"the rank of cross cannot exceed the width {x.width}", rank)
    weights = 2 * x.width * rank if rank else x.width * x.width
    return x, weights + x.width


def _wide(feature: tuple[Feature, ...]) -> tuple[Shape, int]:
    if len(set(feature)) < len(feature):
        raise _Refusal("wide names a feature twice", [f.name for f in feature])
    return Vector(1), 1 + sum(f.size if f.kind == "categorical" else 1 for f in feature)


def _dot(a: Shape, b: Shape) -> tuple[Shape, int]:
    if a.width != b.width:
        raise _Refusal("dot needs equal widths", f"{a.width} and {b.width}", "Project one with dense first.")
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
        raise _Refusal("residual needs two vectors, or two sequences of one length", f"{x} and {y}")
    return y, 0 if x.width == y.width else x.width * y.width


def _embed(feature: Feature, dim: int) -> tuple[Shape, int]:
    return Vector(dim), feature.size * dim


def _broadcast(a: Shape | float, b: Shape | float) -> tuple[Shape, int]:
    if isinstance(a, int | float) and isinstance(b, int | float):
        raise _Refusal("an operator needs at least one value that is not a number")
    if isinstance(a, int | float) or isinstance(b, int | float):
        return (a if not isinstance(a, int | float) else b), 0  # type: ignore[return-value]
    if a.width != b.width and 1 not in (a.width, b.width):
        raise _Refusal(
            "+, - and * need equal widths, or one of width 1",
            f"{a} and {b}",
            "Give both dense layers the same units.",
        )
    width = max(a.width, b.width)
    lengths = {x.length for x in (a, b) if isinstance(x, Sequence)}
    if len(lengths) > 1:
        raise _Refusal("+, - and * need sequences of one length", f"{a} and {b}")
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


# --------------------------------------------------------------------------- text -> nodes

_FOREIGN = re.compile(r"[^\x20-\x7e\s]|['\"`\\#\[\]{}@]")
_OPERATORS: Mapping[type[ast.operator], str] = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply"}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def identifier_problem(name: str) -> str | None:
    """Why `name` cannot be the name of a binding, factor or component; None when it can."""
    if not _IDENTIFIER.fullmatch(name):
        return "must be a name of letters, digits and _ that starts with a letter, at most 64 characters"
    return "is a Python keyword" if keyword.iskeyword(name) else None


def parse_layer(text: str, pointer: str = POINTER) -> Node:
    """The node of one layer expression. RefusedDelta (at `pointer`) for anything outside the language."""
    try:
        return _parse(text)
    except _Refusal as refusal:
        raise RefusedDelta([refusal.at(pointer)]) from None


def _parse(text: str) -> Node:
    if not isinstance(text, str) or not text.strip():
        raise _Refusal("must be an expression such as 'relu(dense(inputs, 128))'", text)
    if len(text) > MAX_TEXT:
        raise _Refusal(
            f"must have at most {MAX_TEXT} characters", len(text), "Split it into several bindings."
        )
    foreign = _FOREIGN.search(text)
    if foreign:
        hint = "Activations are calls: relu(dense(x, 64))." if foreign.group() in "'\"" else ""
        raise _Refusal(f"must not contain {foreign.group()!r}", text, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(" ".join(text.split()), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too deeply nested"
        raise _Refusal(f"is not an expression ({reason})", text) from None
    return _node(tree.body, 0)


def _node(tree: ast.expr, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise _Refusal(f"is nested more than {MAX_DEPTH} deep", hint="Split it into several bindings.")
    match tree:
        case ast.Name(id=name):
            return Name(name)
        case ast.Constant(value=bool() | int() | float() as value):
            return _number(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _node(operand, depth + 1)
            return (
                _number(-inner.value) if isinstance(inner, Number) else Call("multiply", (Number(-1), inner))
            )
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            a, b = _node(left, depth + 1), _node(right, depth + 1)
            if isinstance(a, Number) and isinstance(b, Number):
                return _number(
                    {"add": a.value + b.value, "subtract": a.value - b.value}.get(
                        _OPERATORS[type(op)], a.value * b.value
                    )
                )
            return Call(_OPERATORS[type(op)], (a, b))
        case ast.BinOp(op=op):
            hint = "Divide by a number with *: x * 0.5." if isinstance(op, ast.Div) else ""
            raise _Refusal("knows only the operators + - *", ast.unparse(tree), hint)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=keywords):
            return Call(
                function,
                tuple(_node(arg, depth + 1) for arg in args),
                tuple((_keyword(key.arg), _node(key.value, depth + 1)) for key in keywords),
            )
    raise _Refusal(
        f"cannot use {type(tree).__name__.lower()}",
        _unparsed(tree),
        "Names, numbers, + - * and calls of the listed functions are all there is.",
    )


def _keyword(name: str | None) -> str:
    if name is None:
        raise _Refusal("cannot use ** in a call")
    return name


def _unparsed(tree: ast.expr) -> str:
    try:
        return ast.unparse(tree)
    except (RecursionError, ValueError):
        return type(tree).__name__


def _number(value: float) -> Number:
    if not isinstance(value, bool):
        if not abs(value) <= 1e6:
            raise _Refusal("numbers must lie in [-1e6, 1e6]", value)
        if value == int(value):
            value = int(value)
    return Number(value)


# --------------------------------------------------------------------------- arguments


def arguments(call: Call) -> dict[str, Any]:
    """A call's arguments by parameter name, defaults filled in.

    Values and features stay nodes (a tuple of nodes where repeated), counts, rates and flags are Python
    values. What `network.py` reads; only for calls that are part of a Plan.
    """
    try:
        return _bind(call, FUNCTIONS[call.function])
    except _Refusal as refusal:
        raise RefusedDelta([refusal.at(POINTER)]) from None


def _bind(call: Call, signature: Signature) -> dict[str, Any]:
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
        raise _Refusal(f"{signature} takes {len(known)} arguments", str(call))
    for key, value in call.keywords:
        if key not in known or signature.parameters[known.index(key)].repeated:
            raise _Refusal(f"{signature} has no argument {key!r}", str(call), _meant(key, known))
        if key in bound:
            raise _Refusal(f"{signature} is given {key!r} twice", str(call))
        bound[key] = value
    for parameter in signature.parameters:
        if not bound.get(parameter.name, ()) and parameter.repeated:
            raise _Refusal(f"{signature} needs at least one argument", str(call))
        if parameter.name not in bound:
            if parameter.default is None:
                raise _Refusal(f"{signature} needs {parameter.name!r}", str(call))
            bound[parameter.name] = parameter.default
        elif parameter.kind in ("count", "rate", "flag"):
            bound[parameter.name] = _literal(bound[parameter.name], parameter, signature)
    return bound


def _literal(node: Node, parameter: Parameter, signature: Signature) -> int | float | bool:
    value = node.value if isinstance(node, Number) else None
    where = f"`{parameter.name}` of {signature}"
    if parameter.kind == "flag":
        if not isinstance(value, bool):
            raise _Refusal(f"{where} must be True or False", str(node))
        return value
    wanted = int if parameter.kind == "count" else (int, float)
    if (
        isinstance(value, bool)
        or not isinstance(value, wanted)
        or not parameter.low <= value <= parameter.high
    ):
        kind = "an integer" if parameter.kind == "count" else "a number"
        raise _Refusal(f"{where} must be {kind} in [{parameter.low:g}, {parameter.high:g}]", str(node))
    return value


def _meant(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"Did you mean {close[0]!r}?" if close else f"There are: {', '.join(sorted(known))}."


# --------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Binding:
    """One named value: its expression, its static shape, and the parameters of its own functions."""

    name: str
    node: Node
    shape: Shape
    parameters: int


@dataclass(frozen=True)
class Plan:
    """A checked network: bindings in an order in which each needs only earlier ones; the last is `output`.

    `shapes` holds the shape of every name and call in them (feature names and `inputs` included), `tables`
    the shared embedding tables in use: vocabulary -> size, each [size, embedding_dim]. `head` says that a
    dense(output, 1) with bias makes the logit; without it `output` is the logit.
    """

    bindings: tuple[Binding, ...]
    shapes: Mapping[Node, Shape]
    features: tuple[Feature, ...]
    embedding_dim: int
    tables: Mapping[str, int]
    head: bool

    @property
    def output(self) -> Binding:
        return self.bindings[-1]

    @property
    def dense_parameters(self) -> int:
        """Trained parameters of functions and head, tables aside (`wide` and `embed` count here)."""
        head = self.output.shape.width + 1 if self.head else 0
        return sum(binding.parameters for binding in self.bindings) + head

    @property
    def parameters(self) -> int:
        """All trained parameters."""
        return self.dense_parameters + sum(self.tables.values()) * self.embedding_dim

    @property
    def activations(self) -> int:
        """Floats held per row while training, at least: the size of every value computed."""
        return sum(shape.size for shape in self.shapes.values())


def table_of(feature: Feature) -> str:
    """The shared embedding table of a categorical or history feature: that of its vocabulary."""
    return feature.of or feature.name


def plan(
    layers: Mapping[str, str],
    log: LogSchema,
    embedding_dim: int,
    components: Mapping[str, Any] | None = None,
) -> Plan:
    """Order, shapes and size of the network that `layers` describe over the features of `log`.

    `components` maps names of Φ's components to anything. Raises RefusedDelta with one finding per bad
    binding, at /architecture/layers/NAME. Bindings that `output` does not need are checked and left out.
    """
    return _Planner(layers, log, embedding_dim, components or {}).plan()


class _Planner:
    def __init__(
        self, layers: Mapping[str, str], log: LogSchema, embedding_dim: int, components: Mapping[str, Any]
    ) -> None:
        self.log, self.dim, self.components = log, embedding_dim, components
        self.features = {feature.name: feature for feature in log.features}
        self.findings: list[Finding] = []
        self.nodes: dict[str, Node] = {}
        self.layers = layers
        self.shapes: dict[Node, Shape] = {}
        self.done: dict[str, Binding | None] = {}

    def plan(self) -> Plan:
        self._parse_all()
        if "output" not in self.layers:
            self._note(
                POINTER,
                _Refusal("must define 'output'", sorted(self.layers), _meant("output", [*self.layers])),
            )
        order = self._ordered()
        for name in order:
            self._infer(name)
        if self.findings:
            raise RefusedDelta(self.findings)
        return self._assemble(order)

    def _note(self, pointer: str, refusal: _Refusal) -> None:
        self.findings.append(refusal.at(pointer))

    def _parse_all(self) -> None:
        if len(self.layers) > MAX_BINDINGS:
            self._note(POINTER, _Refusal(f"must have at most {MAX_BINDINGS} bindings", len(self.layers)))
            return
        calls = 0
        for name, text in self.layers.items():
            pointer = f"{POINTER}/{name.replace('~', '~0').replace('/', '~1')}"
            problem = identifier_problem(name)
            if problem is None and name in RESERVED:
                problem = "is a reserved name"
            if problem is None and name in self.features:
                problem = "is the name of a feature"
            if problem:
                self._note(
                    pointer, _Refusal(f"the name of a binding {problem}", name, "Choose another name.")
                )
                continue
            try:
                self.nodes[name] = node = _parse(text)
            except _Refusal as refusal:
                self._note(pointer, refusal)
                continue
            calls += sum(isinstance(part, Call) for part in _walk(node))
        if calls > MAX_CALLS:
            self._note(POINTER, _Refusal(f"must have at most {MAX_CALLS} calls", calls))

    def _ordered(self) -> list[str]:
        """Bindings, each after what it needs; a cycle is noted once and its members left out."""
        order: list[str] = []
        state: dict[str, str] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            state[name] = "open"
            for used in _names(self.nodes[name]):
                if used not in self.nodes:
                    continue
                if state.get(used) == "open":
                    circle = " -> ".join([*path[path.index(used) :], used])
                    self._note(f"{POINTER}/{name}", _Refusal("must not depend on itself", circle))
                elif used not in state:
                    visit(used, (*path, used))
            state[name] = "done"
            order.append(name)

        for name in ("output", *self.nodes):
            if name in self.nodes and name not in state:
                visit(name, (name,))
        return order

    def _infer(self, name: str) -> None:
        self.done[name] = None
        try:
            shape, parameters = self._shape(self.nodes[name])
            if not isinstance(shape, Vector | Sequence):
                raise _Refusal("is only a number", str(self.nodes[name]))
            self.done[name] = Binding(name, self.nodes[name], shape, parameters)
            if name == "output" and not isinstance(shape, Vector):
                raise _Refusal("output must be a vector", str(shape), "Pool it with mean, sum or attention.")
        except _Unknown:
            pass  # what it depends on is already noted
        except _Refusal as refusal:
            self._note(f"{POINTER}/{name}", refusal)

    def _shape(self, node: Node) -> tuple[Any, int]:
        """Shape (or number) of a node, and the parameters of all calls below it."""
        if isinstance(node, Number):
            return node.value, 0
        if isinstance(node, Name):
            shape = self._named(node.name)
            parameters = 0
        else:
            shape, parameters = self._called(node)
        if shape.size > MAX_WIDTH:
            raise _Refusal(f"no value may have more than {MAX_WIDTH} floats per row", f"{node}: {shape}")
        self.shapes[node] = shape
        return shape, parameters

    def _named(self, name: str) -> Shape:
        if name in self.layers:
            binding = self.done.get(name)
            if binding is None:
                raise _Unknown
            return binding.shape
        categorical = [f for f in self.log.features if f.kind == "categorical"]
        if name == "inputs":
            width = sum(1 if f.kind == "numeric" else self.dim for f in self.log.features)
            if not width:
                raise _Refusal("`inputs` is empty: the log has no features")
            return Vector(width)
        if name == "fields":
            if not categorical:
                raise _Refusal("`fields` is empty: the log has no categorical features")
            return Sequence(len(categorical), self.dim)
        feature = self.features.get(name)
        if feature is None:
            if name in FUNCTIONS:
                raise _Refusal(f"{name!r} is a function", hint=f"Call it: {FUNCTIONS[name]}.")
            raise _Refusal(f"no feature or binding is called {name!r}", hint=_meant(name, self._vocabulary()))
        if feature.kind == "history":
            return Sequence(feature.length, self.dim)
        return Vector(1 if feature.kind == "numeric" else self.dim)

    def _vocabulary(self) -> list[str]:
        return [*self.layers, *self.features, *RESERVED]

    def _called(self, call: Call) -> tuple[Shape, int]:
        signature = FUNCTIONS.get(call.function)
        if signature is None:
            if call.function in self.components:
                raise _Refusal(
                    f"calls component {call.function!r}, and components cannot run yet",
                    hint="Write it with the listed functions.",
                )
            if call.function in self._vocabulary():
                raise _Refusal(f"{call.function!r} is a value, not a function", str(call))
            raise _Refusal(
                f"no function is called {call.function!r}",
                hint=_meant(call.function, [*FUNCTIONS, *self.components]),
            )
        bound = _bind(call, signature)
        below = 0
        for parameter in signature.parameters:
            given = bound[parameter.name]
            if parameter.kind in ("count", "rate", "flag"):
                continue
            checked = []
            for node in given if parameter.repeated else (given,):
                value, parameters = self._argument(node, parameter, signature)
                below += parameters
                checked.append(value)
            bound[parameter.name] = tuple(checked) if parameter.repeated else checked[0]
        shape, own = signature.rule(**bound)
        return shape, own + below

    def _argument(self, node: Node, parameter: Parameter, signature: Signature) -> tuple[Any, int]:
        where = f"`{parameter.name}` of {signature}"
        if parameter.kind in ("feature", "categorical"):
            feature = self.features.get(node.name) if isinstance(node, Name) else None
            kinds = ("categorical", "numeric") if parameter.kind == "feature" else ("categorical",)
            if feature is None or feature.kind not in kinds:
                known = [f.name for f in self.log.features if f.kind in kinds]
                _refuse_feature(where, node, kinds, known)
            return feature, 0
        value, parameters = self._shape(node)
        if parameter.kind == "operand":
            return value, parameters
        if not isinstance(value, Vector | Sequence):
            raise _Refusal(f"{where} must be a value, not a number", str(node))
        if parameter.kind == "vector" and not isinstance(value, Vector):
            raise _Refusal(
                f"{where} must be a vector", f"{node}: {value}", "Pool it with mean, sum or attention."
            )
        if parameter.kind == "sequence" and not isinstance(value, Sequence):
            raise _Refusal(
                f"{where} must be a sequence",
                f"{node}: {value}",
                "`fields` and history features are sequences.",
            )
        return value, parameters

    def _assemble(self, order: list[str]) -> Plan:
        needed = {"output"}
        for name in reversed(order):
            if name in needed:
                needed.update(used for used in _names(self.nodes[name]) if used in self.nodes)
        bindings = tuple(b for name in order if name in needed and (b := self.done[name]))
        # `output` comes first in the visit, so everything after it is not needed by it: it is last here.
        shapes = {
            part: self.shapes[part]
            for binding in bindings
            for part in _walk(binding.node)
            if part in self.shapes
        }
        features = self._used_features(bindings)
        tables = {table_of(f): self._table_size(f) for f in features if f.kind != "numeric"}
        head = bindings[-1].shape != Vector(1)
        made = Plan(bindings, shapes, features, self.dim, tables, head)
        for limit, size, what in (
            (MAX_DENSE_PARAMETERS, made.dense_parameters, "parameters besides the embedding tables"),
            (MAX_PARAMETERS, made.parameters, "parameters"),
        ):
            if size > limit:
                hint = (
                    "Make layers narrower, or give cross a rank."
                    if "besides" in what
                    else "Lower embedding_dim."
                )
                raise RefusedDelta([Finding(POINTER, f"must have at most {limit:,} {what}", size, hint)])
        return made

    def _used_features(self, bindings: tuple[Binding, ...]) -> tuple[Feature, ...]:
        """Features whose value or shared table is read, in the log's order; `wide` and `embed` have own ones."""
        names: set[str] = set()
        for binding in bindings:
            names.update(_values(binding.node))
        kinds = {"inputs": {"categorical", "numeric", "history"}, "fields": {"categorical"}}
        return tuple(
            f
            for f in self.log.features
            if f.name in names or any(word in names and f.kind in kinds[word] for word in kinds)
        )

    def _table_size(self, feature: Feature) -> int:
        owner = self.features.get(table_of(feature), feature)
        return max(owner.size, feature.size)


class _Unknown(Exception):  # noqa: N818 - internal: a dependency has no shape, and its finding is noted
    pass


def _refuse_feature(where: str, node: Node, kinds: tuple[str, ...], known: list[str]) -> NoReturn:
    hint = _meant(node.name, known) if isinstance(node, Name) and known else f"There are: {', '.join(known)}."
    raise _Refusal(f"{where} must be the name of a {' or '.join(kinds)} feature", str(node), hint)


def _walk(node: Node) -> Iterator[Node]:
    yield node
    if isinstance(node, Call):
        for child in (*node.args, *(value for _, value in node.keywords)):
            yield from _walk(child)


def _names(node: Node) -> list[str]:
    """Names a node uses, in order of appearance, each once."""
    return list(dict.fromkeys(part.name for part in _walk(node) if isinstance(part, Name)))


def _values(node: Node) -> Iterator[str]:
    """Names whose value is read: the arguments of `wide` and `embed` are features with tables of their own."""
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Call) and node.function not in ("wide", "embed"):
        for child in (*node.args, *(value for _, value in node.keywords)):
            yield from _values(child)
