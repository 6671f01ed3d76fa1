"""What a component's source defines, read off its syntax: does it fit its kind, and how is it called.

A layer becomes a `Signature` of the layer language, so that its calls are checked like those of any built-in
function; optimizers and schedules become a list of arguments. Nothing is executed, and no shape is known:
what a layer returns is told by running it, where components may run.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from evorank.model.component_lint import dotted, imported
from evorank.model.functions import Parameter, Shape, Signature

__all__ = ["CONTRACT", "EXAMPLES", "Interface", "Kind", "Misfit", "interface"]

Kind: TypeAlias = Literal["layer", "activation", "optimizer", "schedule"]


EXAMPLES: Mapping[Kind, str] = {
    "layer": """\
class Gate(nn.Module):
    def __init__(self, width, units):
        super().__init__()
        self.both = nn.Linear(width, 2 * units)
    def forward(self, x):
        return F.glu(self.both(x), -1)
""",
    "activation": """\
def soft_sign(x):
    return x / (1 + x.abs())
""",
    "optimizer": """\
class Sign(torch.optim.Optimizer):
    def __init__(self, params, lr=0.001):
        super().__init__(params, dict(lr=lr))
    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.sub_(group["lr"] * p.grad.sign())
""",
    "schedule": """\
def decay(step, steps, power=1.0):
    return (1 - step / steps) ** power
""",
}
"""One source of each kind, shown in the schema."""

CONTRACT = f"""\
Python source that defines exactly one public class or function; names of helpers start with _. torch, nn,
F (torch.nn.functional), Tensor and math are there without import; there is no numpy, I/O or print. By kind:

layer: class X(nn.Module). __init__(self, w1, ..., wk, n1, ...) takes the width of each operand, then the
numbers of the call: my_gate(h1, 32) builds Gate(width of h1, 32). forward(self, x1, ..., xk) takes float32
[B, w], or [B, L, w] of a sequence, where positions that do not exist are zero; it returns [B, v], or
[B, L, v] with the L of an operand. A row's result depends on that row alone; gradients reach every operand
and parameter.
{EXAMPLES["layer"]}
activation: def f(x: Tensor) -> Tensor of the same shape, or class X(nn.Module) built without arguments.
{EXAMPLES["activation"]}
optimizer: class X(torch.optim.Optimizer). __init__(self, params, lr=..., ...) takes optimizer.args by name,
and lr is kept in the groups, where schedules scale it. step(self) skips parameters without grad; embedding
tables [rows, width] have dense gradients.
{EXAMPLES["optimizer"]}
schedule: def f(step, steps, ...) -> float: the share of args.lr, finite and >= 0, at step 0 to steps - 1;
further arguments come from optimizer.schedule.args.
{EXAMPLES["schedule"]}"""
"""What a source must be, for the schema that prompts and editors show."""


@dataclass(frozen=True)
class Interface:
    """How a component is called. `target` is the name of what its source defines.

    `signature` is there for layers and activations; `arguments` for optimizers and schedules: what `args` may
    name -> whether it must.
    """

    target: str
    is_class: bool
    takes_widths: bool = False
    signature: Signature | None = None
    arguments: Mapping[str, bool] | None = None


class Misfit(Exception):  # noqa: N818 - internal: becomes a Finding at the component's source
    """The source does not fit the kind; `hint` shows the form expected."""

    def __init__(self, rule: str, hint: str) -> None:
        self.rule, self.hint = rule, hint
        super().__init__(rule)


_FORMS: Mapping[Kind, str] = {
    "layer": "class Gate(nn.Module) with __init__(self, width, units) and forward(self, x).",
    "activation": "def act(x), or class Act(nn.Module) with __init__(self) and forward(self, x).",
    "optimizer": "class Own(torch.optim.Optimizer) with __init__(self, params, lr=0.01) and step(self).",
    "schedule": "def decay(step, steps, power=1.0), returning the share of the learning rate.",
}
_BASES: Mapping[Kind, str] = {
    "layer": "torch.nn",
    "activation": "torch.nn",
    "optimizer": "torch.optim",
}


def interface(name: str, kind: Kind, tree: ast.Module) -> Interface:
    """How the component `name` is called in Φ. Raises Misfit where its source does not fit its kind."""
    return _Reader(name, kind, tree).read()


class _Reader:
    def __init__(self, name: str, kind: Kind, tree: ast.Module) -> None:
        self.name, self.kind, self.tree = name, kind, tree
        self.names = imported(tree)
        self.classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}

    def read(self) -> Interface:
        target = self._target()
        if isinstance(target, ast.FunctionDef):
            return self._function(target)
        if self.kind == "schedule":
            raise self._misfit("must define a function")
        if not self._inherits(target, _BASES[self.kind]):
            base = "torch.optim.Optimizer" if self.kind == "optimizer" else "nn.Module"
            raise self._misfit(f"must define a class that inherits from {base}")
        return self._optimizer(target) if self.kind == "optimizer" else self._module(target)

    def _target(self) -> ast.ClassDef | ast.FunctionDef:
        defined = [node for node in self.tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        public = [node for node in defined if not node.name.startswith("_")]
        if len(public) != 1:
            names = ", ".join(node.name for node in public) or "none"
            raise Misfit(
                f"must define exactly one public class or function, and defines {names}",
                "Begin the names of helpers with _.",
            )
        return public[0]

    def _function(self, target: ast.FunctionDef) -> Interface:
        if self.kind in ("layer", "optimizer"):
            raise self._misfit("must define a class")
        given = target.args
        takes, required = len(_positional(given)), _required(given)
        if self.kind == "activation":
            if not required <= 1 <= takes:
                raise self._misfit("must define a function of one tensor")
            # By contract the shape is that of the operand and nothing is trained: it can be planned.
            signature = Signature(self.name, (Parameter("x", "value"),), "", _same)
            return Interface(target.name, False, signature=signature)
        if takes < 2 or given.vararg:
            raise self._misfit("must define a function of step, steps and named arguments")
        return Interface(target.name, False, arguments=self._named(given, 2))

    def _module(self, target: ast.ClassDef) -> Interface:
        forward, init = self._method(target, "forward"), self._method(target, "__init__")
        if forward is None or len(_positional(forward.args)) + bool(forward.args.vararg) < 2:
            raise self._misfit("must define forward(self, x), with one argument for each operand")
        wanted = forward.args
        if wanted.defaults or wanted.kwonlyargs or wanted.kwarg:
            raise self._misfit("forward takes its operands alone: no defaults, no named arguments")
        operands = tuple(Parameter(argument.arg, "value") for argument in _positional(wanted)[1:]) + (
            (Parameter(wanted.vararg.arg, "value", repeated=True),) if wanted.vararg else ()
        )
        if self.kind == "activation":
            if init is not None and _required(init.args) > 1:
                raise self._misfit("__init__ of an activation is called without arguments")
            if len(operands) != 1:
                raise self._misfit("forward of an activation takes one tensor")
            return Interface(target.name, True, signature=Signature(self.name, operands, "", None))
        if init is None:
            raise self._misfit("must define __init__(self, width, ...), with one width for each operand")
        if bool(init.args.vararg) != bool(wanted.vararg):
            raise self._misfit("__init__ takes *widths exactly where forward takes *operands")
        widths = len(_positional(wanted)) - 1
        if len(_positional(init.args)) < 1 + widths:
            raise self._misfit(f"__init__ must take {widths} widths first, one for each operand of forward")
        taken = {operand.name for operand in operands}
        numbers = []
        for name, default in _named_with_defaults(init.args, 1 + widths):
            if name in taken:
                raise self._misfit(
                    f"forward and __init__ both take {name!r}: a call could not tell them apart"
                )
            literal = _number(default)
            numbers.append(Parameter(name, "number", literal, optional=default is not None))
        if init.args.kwarg:
            raise self._misfit("__init__ must name its numbers, without **")
        return Interface(target.name, True, True, Signature(self.name, (*operands, *numbers), "", None))

    def _optimizer(self, target: ast.ClassDef) -> Interface:
        init, step = self._method(target, "__init__"), self._method(target, "step")
        if init is None or len(_positional(init.args)) < 2 or init.args.vararg or step is None:
            raise self._misfit("must define __init__(self, params, lr=..., ...) and step(self)")
        if _required(step.args) > 1:
            raise self._misfit("step(self) is called without arguments")
        arguments = self._named(init.args, 2)
        if "lr" not in arguments:
            raise self._misfit("__init__ must take lr, the learning rate that schedules scale")
        return Interface(target.name, True, arguments=arguments)

    def _named(self, given: ast.arguments, skip: int) -> dict[str, bool]:
        if given.kwarg:
            raise self._misfit("must name its arguments, without **")
        return {name: default is None for name, default in _named_with_defaults(given, skip)}

    def _inherits(self, target: ast.ClassDef, package: str, depth: int = 0) -> bool:
        for base in target.bases:
            full = dotted(base, self.names) or ""
            if full.startswith(f"{package}."):
                return True
            helper = self.classes.get(base.id) if isinstance(base, ast.Name) else None
            if helper is not None and depth < 8 and self._inherits(helper, package, depth + 1):
                return True
        return False

    def _method(self, target: ast.ClassDef, name: str, depth: int = 0) -> ast.FunctionDef | None:
        for statement in target.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == name:
                return statement
        for base in target.bases:
            helper = self.classes.get(base.id) if isinstance(base, ast.Name) else None
            if helper is not None and depth < 8 and (found := self._method(helper, name, depth + 1)):
                return found
        return None

    def _misfit(self, rule: str) -> Misfit:
        return Misfit(f"of kind {self.kind}: {rule}", f"The form is {_FORMS[self.kind]}")


def _positional(given: ast.arguments) -> list[ast.arg]:
    return [*given.posonlyargs, *given.args]


def _required(given: ast.arguments) -> int:
    keyword_only = sum(default is None for default in given.kw_defaults)
    return len(_positional(given)) - len(given.defaults) + keyword_only


def _named_with_defaults(given: ast.arguments, skip: int) -> list[tuple[str, ast.expr | None]]:
    """(name, default) of the arguments after the first `skip`, in order; None for a required one."""
    positional = _positional(given)
    defaults = [*[None] * (len(positional) - len(given.defaults)), *given.defaults]
    pairs = list(zip(positional, defaults, strict=True))[skip:]
    return [
        (argument.arg, default)
        for argument, default in (*pairs, *zip(given.kwonlyargs, given.kw_defaults, strict=True))
    ]


def _number(default: ast.expr | None) -> int | float | bool | None:
    value = default.value if isinstance(default, ast.Constant) else None
    return value if isinstance(value, bool | int | float) else None


def _same(x: Shape) -> tuple[Shape, int]:
    return x, 0
