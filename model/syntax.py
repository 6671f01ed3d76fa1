"""The syntax of layer expressions: text in, nodes out.

`parse_layer("sigmoid(dense(layer_norm(h1), 32))")` uses Python's own parser and keeps three kinds of node;
everything else Python could say is refused. Nothing is ever evaluated.
"""

from __future__ import annotations

import ast
import keyword
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

from evorank.model.errors import Finding, RefusedDelta

__all__ = [
    "POINTER",
    "Call",
    "Name",
    "Node",
    "Number",
    "Refusal",
    "did_you_mean",
    "escape",
    "identifier_problem",
    "names_in",
    "parse_layer",
    "parse_text",
    "walk",
]

POINTER = "/architecture/layers"

MAX_TEXT = 2_000  # characters of one expression
MAX_LISTED = 40  # names in a hint
MAX_DEPTH = 64  # nested calls and operators of one expression


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


class Refusal(Exception):  # noqa: N818 - internal: becomes a Finding with the binding's pointer
    def __init__(self, rule: str, value: Any = None, hint: str = "") -> None:
        self.rule, self.value, self.hint = rule, value, hint
        super().__init__(rule)

    def at(self, pointer: str) -> Finding:
        return Finding(pointer, self.rule, self.value, self.hint)


_FOREIGN = re.compile(r"[^\x20-\x7e\s]|['\"`\\#\[\]{}@]")
_OPERATORS: Mapping[type[ast.operator], tuple[str, Callable[[float, float], float]]] = {
    ast.Add: ("add", operator.add),
    ast.Sub: ("subtract", operator.sub),
    ast.Mult: ("multiply", operator.mul),
}
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def identifier_problem(name: str) -> str | None:
    """Why `name` cannot be the name of a binding, factor or component; None when it can."""
    if not _IDENTIFIER.fullmatch(name):
        return "must be a name of letters, digits and _ that starts with a letter, at most 64 characters"
    return "is a Python keyword" if keyword.iskeyword(name) else None


def parse_layer(text: str, pointer: str = POINTER) -> Node:
    """The node of one layer expression. RefusedDelta (at `pointer`) for anything outside the language."""
    try:
        return parse_text(text)
    except Refusal as refusal:
        raise RefusedDelta([refusal.at(pointer)]) from None


def parse_text(text: str) -> Node:
    if not isinstance(text, str) or not text.strip():
        raise Refusal("must be an expression such as 'relu(dense(inputs, 128))'", text)
    if len(text) > MAX_TEXT:
        raise Refusal(
            f"must have at most {MAX_TEXT} characters", len(text), "Split it into several bindings."
        )
    foreign = _FOREIGN.search(text)
    if foreign:
        hint = "Activations are calls: relu(dense(x, 64))." if foreign.group() in "'\"" else ""
        raise Refusal(f"must not contain {foreign.group()!r}", text, hint)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(" ".join(text.split()), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "too deeply nested"
        raise Refusal(f"is not an expression ({reason})", text) from None
    return _node(tree.body, 0)


def _node(tree: ast.expr, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise Refusal(f"is nested more than {MAX_DEPTH} deep", hint="Split it into several bindings.")
    match tree:
        case ast.Name(id=name):
            return Name(name)
        case ast.Constant(value=bool() | int() | float() as value):
            return _number(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _node(operand, depth + 1)
            if isinstance(inner, Number):
                return _number(-inner.value)
            return Call("multiply", (Number(-1), inner))
        case ast.BinOp(op=op, left=left, right=right) if type(op) in _OPERATORS:
            a, b = _node(left, depth + 1), _node(right, depth + 1)
            function, fold = _OPERATORS[type(op)]
            if isinstance(a, Number) and isinstance(b, Number):
                return _number(fold(a.value, b.value))
            return Call(function, (a, b))
        case ast.BinOp(op=op):
            hint = "Divide by a number with *: x * 0.5." if isinstance(op, ast.Div) else ""
            raise Refusal("knows only the operators + - *", ast.unparse(tree), hint)
        case ast.Call(func=ast.Name(id=function), args=args, keywords=keywords):
            return Call(
                function,
                tuple(_node(arg, depth + 1) for arg in args),
                tuple((_keyword(key.arg), _node(key.value, depth + 1)) for key in keywords),
            )
    raise Refusal(
        f"cannot use {type(tree).__name__.lower()}",
        _unparsed(tree),
        "Names, numbers, + - * and calls of the listed functions are all there is.",
    )


def _keyword(name: str | None) -> str:
    if name is None:
        raise Refusal("cannot use ** in a call")
    return name


def _unparsed(tree: ast.expr) -> str:
    try:
        return ast.unparse(tree)
    except (RecursionError, ValueError):
        return type(tree).__name__


def _number(value: float) -> Number:
    if not isinstance(value, bool):
        if not abs(value) <= 1e6:
            raise Refusal("numbers must lie in [-1e6, 1e6]", value)
        if value == int(value):
            value = int(value)
    return Number(value)


def escape(token: str) -> str:
    """A key as one part of a JSON Pointer (RFC 6901)."""
    return token.replace("~", "~0").replace("/", "~1")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint: the known name that is meant, or the known names (not more than fit in a message)."""
    known = sorted(set(known))
    close = get_close_matches(name, known, n=1, cutoff=0.7)
    if close:
        return f"Did you mean {close[0]!r}?"
    more = f" and {len(known) - MAX_LISTED} more" if len(known) > MAX_LISTED else ""
    return f"There are: {', '.join(known[:MAX_LISTED])}{more}."


def walk(node: Node) -> Iterator[Node]:
    """A node and all nodes below it, itself first."""
    yield node
    if isinstance(node, Call):
        for child in (*node.args, *(value for _, value in node.keywords)):
            yield from walk(child)


def names_in(node: Node) -> list[str]:
    """Names a node uses, in order of appearance, each once."""
    return list(dict.fromkeys(part.name for part in walk(node) if isinstance(part, Name)))
