"""The small language of `architecture.layers`: let-bindings in, a checked plan with static shapes out.

A network is a set of named expressions in any order: `"gate_path": "sigmoid(dense(layer_norm(h1), 32))"`.
`plan` orders the bindings that `output` needs and infers every shape and parameter count, in milliseconds
and without torch; `network.py` builds what is planned here. The syntax is in `syntax.py`, the functions are
in `functions.py`; this module is the door to all three.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from evorank.model.errors import Finding, RefusedDelta
from evorank.model.functions import (
    FUNCTIONS,
    LITERALS,
    Parameter,
    Sequence,
    Shape,
    Signature,
    Vector,
    arguments,
    bind,
)
from evorank.model.syntax import (
    POINTER,
    Call,
    Name,
    Node,
    Number,
    Refusal,
    did_you_mean,
    escape,
    identifier_problem,
    names_in,
    parse_layer,
    parse_text,
    walk,
)
from evorank.model.system import Feature, LogSchema

__all__ = [
    "FUNCTIONS",
    "LITERALS",
    "RESERVED",
    "RUNS_ONLY",
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
    "Unshaped",
    "Vector",
    "arguments",
    "identifier_problem",
    "parse_layer",
    "plan",
    "table_of",
]

RUNS_ONLY = "Components run only inside the evaluator."

RESERVED = frozenset({"inputs", "fields"})
LOOKUPS = frozenset({"wide", "embed"})  # a weight or vector per id: large, and cheap per impression

MAX_BINDINGS = 100
MAX_CALLS = 1_000  # in the whole network
MAX_WIDTH = 65_536  # floats per row of one value
MAX_DENSE_PARAMETERS = 50_000_000  # 200 MB of float32; a step on one core would take seconds
MAX_PARAMETERS = 250_000_000  # with the embedding tables: 1 GB of float32, 3 GB with Adam's statistics


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
    dense(output, 1) with bias makes the logit; without it `output` is the logit. `functions` are those that
    may be called: the built-in ones and the components of this Φ.
    """

    bindings: tuple[Binding, ...]
    shapes: Mapping[Node, Shape]
    features: tuple[Feature, ...]
    embedding_dim: int
    tables: Mapping[str, int]
    head: bool
    functions: Mapping[str, Signature] = field(default_factory=lambda: FUNCTIONS)

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
        """Floats held per row while training, at least: every value computed, and what `inputs` pools."""
        pooled = 0
        if Name("inputs") in self.shapes:
            pooled = sum(f.length for f in self.features if f.kind == "history") * self.embedding_dim
        return pooled + sum(shape.size for shape in self.shapes.values())


def table_of(feature: Feature) -> str:
    """The shared embedding table of a categorical or history feature: that of its vocabulary."""
    return feature.of or feature.name


class Unshaped(RefusedDelta):
    """Nothing is wrong with these layers, but their shapes are known only where components run."""


def plan(
    layers: Mapping[str, str],
    log: LogSchema,
    embedding_dim: int,
    components: Mapping[str, Signature] | None = None,
) -> Plan:
    """Order, shapes and size of the network that `layers` describe over the features of `log`.

    `components` are the layers and activations that Φ brings along. Raises RefusedDelta with one finding per
    bad binding, at /architecture/layers/NAME, and Unshaped where all is well but a called component has no
    rule. Bindings that `output` does not need are checked and left out.
    """
    return _Planner(layers, log, embedding_dim, components or {}).plan()


class _Planner:
    def __init__(
        self, layers: Mapping[str, str], log: LogSchema, embedding_dim: int, own: Mapping[str, Signature]
    ) -> None:
        self.log, self.dim = log, embedding_dim
        self.functions = {**own, **FUNCTIONS}
        self.unshaped: list[Finding] = []
        self.features = {feature.name: feature for feature in log.features}
        self.findings: list[Finding] = []
        self.nodes: dict[str, Node] = {}
        self.layers = layers
        self.shapes: dict[Node, Shape] = {}
        self.done: dict[str, Binding | None] = {}
        self.lookups: dict[Node, int] = {}

    def plan(self) -> Plan:
        self._parse_all()
        if "output" not in self.layers:
            hint = "Name the last expression 'output'."
            self._note(POINTER, Refusal("must define 'output'", sorted(self.layers), hint))
        order = self._ordered()
        for name in order:
            self._infer(name)
        if self.findings:
            raise RefusedDelta(self.findings)
        if self.unshaped:
            raise Unshaped(self.unshaped)
        return self._assemble(order)

    def _note(self, pointer: str, refusal: Refusal) -> None:
        self.findings.append(refusal.at(pointer))

    def _parse_all(self) -> None:
        if len(self.layers) > MAX_BINDINGS:
            self._note(POINTER, Refusal(f"must have at most {MAX_BINDINGS} bindings", len(self.layers)))
            return
        calls = 0
        for name, text in self.layers.items():
            pointer = f"{POINTER}/{escape(name)}"
            problem = identifier_problem(name)
            if problem is None and name in RESERVED:
                problem = "is a reserved name"
            if problem is None and name in self.features:
                problem = "is the name of a feature"
            if problem:
                self._note(pointer, Refusal(f"the name of a binding {problem}", name, "Choose another name."))
                continue
            try:
                self.nodes[name] = node = parse_text(text)
            except Refusal as refusal:
                self._note(pointer, refusal)
                continue
            calls += sum(isinstance(part, Call) for part in walk(node))
        if calls > MAX_CALLS:
            self._note(POINTER, Refusal(f"must have at most {MAX_CALLS} calls", calls))
            self.nodes = {}  # too much to infer

    def _ordered(self) -> list[str]:
        """Bindings, each after what it needs; a cycle is noted once and its members left out."""
        order: list[str] = []
        state: dict[str, str] = {}

        def visit(name: str, path: tuple[str, ...]) -> None:
            state[name] = "open"
            for used in names_in(self.nodes[name]):
                if used not in self.nodes:
                    continue
                if state.get(used) == "open":
                    circle = " -> ".join([*path[path.index(used) :], used])
                    self._note(f"{POINTER}/{name}", Refusal("must not depend on itself", circle))
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
                raise Refusal("is only a number", str(self.nodes[name]))
            self.done[name] = Binding(name, self.nodes[name], shape, parameters)
            if name == "output" and not isinstance(shape, Vector):
                raise Refusal("output must be a vector", str(shape), "Pool it with mean, sum or attention.")
        except _Unknown:
            pass  # what it depends on is already noted
        except Refusal as refusal:
            self._note(f"{POINTER}/{name}", refusal)
        except RefusedDelta as refused:  # a component failed its trial: the finding points into its source
            self.findings += [finding for finding in refused.findings if finding not in self.findings]

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
            raise Refusal(f"no value may have more than {MAX_WIDTH} floats per row", f"{node}: {shape}")
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
                raise Refusal("`inputs` is empty: the log has no features")
            return Vector(width)
        if name == "fields":
            if not categorical:
                raise Refusal("`fields` is empty: the log has no categorical features")
            return Sequence(len(categorical), self.dim)
        feature = self.features.get(name)
        if feature is None:
            if name in self.functions:
                raise Refusal(f"{name!r} is a function", hint=f"Call it: {self.functions[name]}.")
            hint = did_you_mean(name, self._vocabulary())
            raise Refusal(f"no feature or binding is called {name!r}", hint=hint)
        if feature.kind == "history":
            return Sequence(feature.length, self.dim)
        return Vector(1 if feature.kind == "numeric" else self.dim)

    def _vocabulary(self) -> list[str]:
        return [*self.layers, *self.features, *RESERVED]

    def _called(self, call: Call) -> tuple[Shape, int]:
        signature = self.functions.get(call.function)
        if signature is None:
            if call.function in self._vocabulary():
                raise Refusal(f"{call.function!r} is a value, not a function", str(call))
            raise Refusal(
                f"no function is called {call.function!r}",
                hint=did_you_mean(call.function, self.functions),
            )
        bound = bind(call, signature)
        below = 0
        for parameter in signature.parameters:
            if parameter.kind in LITERALS:
                continue
            given = bound[parameter.name]
            checked = []
            for node in given if parameter.repeated else (given,):
                value, parameters = self._argument(node, parameter, signature)
                below += parameters
                checked.append(value)
            bound[parameter.name] = tuple(checked) if parameter.repeated else checked[0]
        if signature.rule is None:
            rule = f"calls {call.function!r}, whose result is known only where components run"
            self.unshaped.append(Finding(f"/components/{call.function}", rule, str(call), RUNS_ONLY))
            raise _Unknown
        shape, own = signature.rule(**bound)
        if call.function in LOOKUPS:
            self.lookups[call] = own
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
            raise Refusal(f"{where} must be a value, not a number", str(node))
        if parameter.kind == "vector" and not isinstance(value, Vector):
            raise Refusal(
                f"{where} must be a vector", f"{node}: {value}", "Pool it with mean, sum or attention."
            )
        if parameter.kind == "sequence" and not isinstance(value, Sequence):
            raise Refusal(
                f"{where} must be a sequence",
                f"{node}: {value}",
                "`fields` and history features are sequences.",
            )
        return value, parameters

    def _assemble(self, order: list[str]) -> Plan:
        needed = {"output"}
        for name in reversed(order):
            if name in needed:
                needed.update(used for used in names_in(self.nodes[name]) if used in self.nodes)
        bindings = tuple(b for name in order if name in needed and (b := self.done[name]))
        # The visit starts at `output`: what comes after it in the order is not needed, so it is last here.
        shapes = {
            part: self.shapes[part]
            for binding in bindings
            for part in walk(binding.node)
            if part in self.shapes
        }
        features = self._used_features(bindings)
        tables = {table_of(f): self._table_size(f) for f in features if f.kind != "numeric"}
        head = bindings[-1].shape != Vector(1)
        made = Plan(bindings, shapes, features, self.dim, tables, head, self.functions)
        looked_up = sum(self.lookups.get(part, 0) for b in bindings for part in walk(b.node))
        multiplied = made.dense_parameters - looked_up
        if multiplied > MAX_DENSE_PARAMETERS:
            rule = f"must have at most {MAX_DENSE_PARAMETERS:,} parameters besides embeddings"
            hint = "Make layers narrower, or give cross a rank."
            raise RefusedDelta([Finding(POINTER, rule, multiplied, hint)])
        if made.parameters > MAX_PARAMETERS:
            rule = f"must have at most {MAX_PARAMETERS:,} parameters in all"
            raise RefusedDelta([Finding(POINTER, rule, made.parameters, "Lower embedding_dim.")])
        return made

    def _used_features(self, bindings: tuple[Binding, ...]) -> tuple[Feature, ...]:
        """Features whose value or shared table is read, in the log's order."""
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


class _Unknown(Exception):  # noqa: N818 - internal: something below has no shape, and that is noted
    pass


def _refuse_feature(where: str, node: Node, kinds: tuple[str, ...], known: list[str]) -> NoReturn:
    hint = did_you_mean(str(node), known) if known else "This log has none."
    raise Refusal(f"{where} must be the name of a {' or '.join(kinds)} feature", str(node), hint)


def _values(node: Node) -> Iterator[str]:
    """Names whose value is read; `wide` and `embed` only name features, and hold tables of their own."""
    if isinstance(node, Name):
        yield node.name
    elif isinstance(node, Call) and node.function not in ("wide", "embed"):
        for child in (*node.args, *(value for _, value in node.keywords)):
            yield from _values(child)
