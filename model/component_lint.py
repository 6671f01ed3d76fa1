"""Lint for component code: names outside an allow-list are told with their line and what to use instead.

Lint, not the wall: it spares a model a wasted attempt and a reader a surprise. What keeps hostile code in is
the locked process that runs it. Sources are parsed and walked, never compiled or executed.
"""

from __future__ import annotations

import ast
import builtins
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial

from evorank.model.component_names import ATTRIBUTES, BUILTINS, DECORATORS, DOTTED, IMPORTS, PRESENT
from evorank.model.syntax import did_you_mean

__all__ = ["Problem", "dotted", "imported", "lint", "parse"]

MAX_PROBLEMS = 8
MAX_RULE = 200  # characters
MAX_NAME = 60  # characters of a name that is worth a suggestion

_STATEMENTS: dict[type[ast.AST], str] = {
    ast.Global: "`global` shares state between calls: keep it in a buffer or in the optimizer's state",
    ast.Nonlocal: "`nonlocal` hides state: return it, or keep it in a buffer or in the optimizer's state",
    ast.AsyncFunctionDef: "components are not asynchronous",
    ast.AsyncFor: "components are not asynchronous",
    ast.AsyncWith: "components are not asynchronous",
    ast.Await: "components are not asynchronous",
}
_AT_TOP = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)
_HAVE = "Components have torch, nn, F, Tensor and math"
_INSTEAD = {
    "numpy": "Stay with tensors; components have no numpy.",
    "np": "Stay with tensors; components have no numpy.",
    "print": "Remove it: nobody reads what a component prints.",
    "backward": "The trainer runs the backward pass; return a tensor that has gradients.",
    "cuda": "Leave tensors on the device of the operand.",
    "manual_seed": "The trainer seeds torch; draw from it as it is.",
    "getattr": "Name the attribute: x.name.",
    "setattr": "Name the attribute: x.name = value.",
    "hasattr": "Set the attribute in __init__, then it is there.",
    "format": "Write an f-string.",
}


@dataclass(frozen=True)
class Problem:
    """One thing that a component's source must not do."""

    line: int
    rule: str
    hint: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.rule}"


def parse(source: str) -> ast.Module | Problem:
    """The source's tree, or why there is none. Never raises."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except SyntaxError as error:
        return Problem(error.lineno or 1, f"must be Python that parses ({error.msg})")
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        return Problem(1, f"must be Python that parses ({error or 'too deeply nested'})")
    return tree


def imported(tree: ast.Module) -> dict[str, str]:
    """Name in the source -> the full dotted name it stands for: imports, and what is there without one."""
    names = dict(PRESENT)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                names[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module or ''}.{alias.name}"
    return names


def dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    """`F.relu` -> torch.nn.functional.relu. None for what does not start at an imported name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or node.id not in names:
        return None
    return ".".join([names[node.id], *reversed(parts)])


def lint(tree: ast.Module) -> list[Problem]:
    """Everything in the source that components may not use, in order of lines. Never raises."""
    found = {(each.line, each.rule): each for each in _Linter(tree).found()}
    return [found[key].problem() for key in sorted(found)[:MAX_PROBLEMS]]


@dataclass(frozen=True)
class _Found:
    """A problem whose hint may be worked out later: finding the name that was meant takes milliseconds."""

    line: int
    rule: str
    hint: str | Callable[[], str] = ""

    def problem(self) -> Problem:
        rule = self.rule if len(self.rule) <= MAX_RULE else f"{self.rule[: MAX_RULE - 1]}…"
        return Problem(self.line, rule, self.hint if isinstance(self.hint, str) else self.hint())


class _Linter:
    def __init__(self, tree: ast.Module) -> None:
        self.tree = tree
        self.names = imported(tree)
        self.bound = set(_bound(tree))
        self.attributes = ATTRIBUTES | set(_defined_attributes(tree))
        self.inner: set[ast.AST] = set()
        """Parts of a chain such as torch.nn.Linear that was judged as a whole."""

    def found(self) -> Iterator[_Found]:
        for statement in self.tree.body:
            docstring = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
            if not (docstring or isinstance(statement, _AT_TOP)):
                yield _Found(
                    statement.lineno,
                    "only imports, constants, functions and classes may stand outside a function",
                )
        for name in sorted(self.bound & set(self.names)):
            yield _Found(1, f"`{name}` means {self.names[name]} and cannot be bound again", "Rename it.")
        for node in ast.walk(self.tree):  # breadth first: a chain is met before its parts
            yield from self._node(node)

    def _node(self, node: ast.AST) -> Iterator[_Found]:
        if rule := _STATEMENTS.get(type(node)):
            yield _Found(getattr(node, "lineno", 1), rule)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from self._import(node)
        elif isinstance(node, ast.arguments) and node.posonlyargs:
            yield _Found(node.posonlyargs[0].lineno, "cannot have positional-only arguments", "Remove the /.")
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield from self._definition(node)
        elif isinstance(node, ast.Attribute) and node not in self.inner:
            yield from self._attribute(node)
        elif isinstance(node, ast.Name) and node not in self.inner and isinstance(node.ctx, ast.Load):
            yield from self._name(node)

    def _import(self, node: ast.Import | ast.ImportFrom) -> Iterator[_Found]:
        modules = (
            [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."]
        )
        for module in modules:
            relative = isinstance(node, ast.ImportFrom) and node.level > 0
            if module not in IMPORTS or relative:
                yield _Found(
                    node.lineno, f"`{module}` cannot be imported", partial(_instead, module, IMPORTS)
                )
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    yield from self._known(node, f"{module}.{alias.name}", module_too=True)

    def _definition(self, node: ast.ClassDef | ast.FunctionDef) -> Iterator[_Found]:
        for decorator in node.decorator_list:
            bare = decorator.func if isinstance(decorator, ast.Call) else decorator
            full = dotted(bare, self.names) or (bare.id if isinstance(bare, ast.Name) else "")
            if full not in DECORATORS:
                hint = "Allowed are @torch.no_grad(), @staticmethod, @classmethod, @property and @dataclass."
                yield _Found(decorator.lineno, f"cannot use @{full or 'this'} as a decorator", hint)
        if isinstance(node, ast.ClassDef) and node.keywords:
            yield _Found(node.lineno, f"class {node.name} cannot have a metaclass or class arguments")
        if node.name.startswith("__") and node.name not in ("__init__", "__post_init__"):
            hint = "Of the special methods, only __init__ is available."
            yield _Found(node.lineno, f"`{node.name}` cannot be defined", hint)

    def _attribute(self, node: ast.Attribute) -> Iterator[_Found]:
        full = dotted(node, self.names)
        if full is not None:
            part: ast.expr = node
            while isinstance(part, ast.Attribute):
                part = part.value
                self.inner.add(part)
            if isinstance(node.ctx, ast.Load):
                yield from self._known(node, full)
            else:
                yield _Found(node.lineno, f"`{full}` belongs to others and cannot be changed")
            return
        name = node.attr
        own = _is_own(node)
        if name == "__init__" and _is_super(node.value):
            return
        if name.startswith("__"):
            hint = "Of the special names, only super().__init__() is available."
            yield _Found(node.lineno, f"`.{name}` is not available to components", hint)
        elif name.startswith("_") and not own:
            yield _Found(
                node.lineno, f"`.{name}` is private to what it belongs to", "Use its public interface."
            )
        elif name not in self.attributes and not own:
            yield _Found(
                node.lineno,
                f"`.{name}` is not available to components",
                partial(_instead, name, self.attributes),
            )

    def _name(self, node: ast.Name) -> Iterator[_Found]:
        name = node.id
        if name in self.names:
            yield from self._known(node, self.names[name])
        elif name.startswith("__") or (name not in self.bound and name not in BUILTINS):
            unknown = "is not available to components" if hasattr(builtins, name) else "is not defined"
            yield _Found(
                node.lineno,
                f"`{name}` {unknown}",
                partial(_instead, name, {*self.bound, *self.names, *BUILTINS}),
            )

    def _known(self, node: ast.AST, full: str, module_too: bool = False) -> Iterator[_Found]:
        line = getattr(node, "lineno", 1)
        if full in DOTTED or (module_too and full in IMPORTS):
            return
        owner, _, last = full.rpartition(".")
        if owner in DOTTED and (last in self.attributes or last == "__init__"):
            return  # torch.Tensor.add, nn.Module.__init__ and the like
        if full in IMPORTS:
            yield _Found(
                line, f"the module `{full}` can only be used with a dot", "Name what you need of it."
            )
            return
        siblings = {name.rpartition(".")[2] for name in DOTTED if name.rpartition(".")[0] == owner}
        yield _Found(line, f"`{full}` is not available to components", partial(_instead, last, siblings))


def _instead(name: str, known: Collection[str]) -> str:
    if len(name) > MAX_NAME:
        return f"{_HAVE}."
    if name.split(".")[0] in _INSTEAD:
        return _INSTEAD[name.split(".")[0]]
    close = did_you_mean(name, known)
    return close if close.startswith("Did") else f"{_HAVE}."


def _is_own(node: ast.Attribute) -> bool:
    return isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")


def _is_super(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super"


def _bound(tree: ast.Module) -> Iterator[str]:
    """Every name that the source binds anywhere, imports aside."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name
            case ast.arg(arg=name) | ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                yield name
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name
            case ast.MatchMapping(rest=str(name)):
                yield name


def _defined_attributes(tree: ast.Module) -> Iterator[str]:
    """Attributes that the source sets on itself, and names that its classes define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_own(node):
            yield node.attr
        elif isinstance(node, ast.ClassDef):
            for statement in node.body:
                match statement:
                    case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                        yield name
                    case ast.Assign(targets=targets):
                        yield from (target.id for target in targets if isinstance(target, ast.Name))
