"""Runs the code that a candidate brings along: where that is permitted, and nowhere else.

Permission is a fact about the process: the evaluator's child calls `allow` after it has locked itself for
ever. Without it, `load` refuses, so the process that holds keys, labels and clocks never runs a component.
Nothing here keeps hostile code in: the lock does.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from evorank.model.component_interface import Interface, interface
from evorank.model.component_lint import Problem, parse
from evorank.model.component_names import PRESENT
from evorank.model.errors import EvorankError, Finding, RefusedDelta, ToolError
from evorank.model.expression import RUNS_ONLY
from evorank.model.functions import LITERALS, Shape, Signature
from evorank.model.syntax import escape

if TYPE_CHECKING:  # asking whether components may run needs no torch
    from torch import Tensor, nn

    from evorank.model.config import Component
    from evorank.model.layers import Function, Site

__all__ = ["Code", "Make", "Measure", "allow", "allowed", "blaming", "failed", "load", "permitted"]

Make: TypeAlias = "Callable[[int], Callable[..., Tensor]]"
"""Seed -> a layer or activation for one place of the network: an nn.Module, or the function itself."""

Measure: TypeAlias = Callable[[str, Make, Sequence[Shape]], tuple[Shape, int]]
"""(component, what builds it, shapes of its operands) -> (shape of its result, trained parameters)."""

_permitted = False


def allow() -> None:
    """Let this process run components from now on. For a process that is locked for ever, and only for it."""
    global _permitted
    _permitted = True


@contextmanager
def allowed() -> Iterator[None]:
    """Let this process run components for a while: for tests of code that one has read."""
    global _permitted
    before, _permitted = _permitted, True
    try:
        yield
    finally:
        _permitted = before


def permitted() -> bool:
    """Whether this process may run components."""
    return _permitted


@dataclass(frozen=True)
class Code:
    """Components of one Φ, ready to run, by name."""

    signatures: dict[str, Signature] = field(default_factory=dict)
    """Layers and activations, for `plan`: rules that run the code on a tiny batch."""
    builders: dict[str, Callable[[Site], Function]] = field(default_factory=dict)
    """The same, for the network, beside `layers.BUILDERS`."""
    optimizers: dict[str, Callable[..., Any]] = field(default_factory=dict)
    schedules: dict[str, Callable[..., float]] = field(default_factory=dict)


def load(components: Mapping[str, Component], measure: Measure | None = None) -> Code:
    """Compile and run the sources. They were checked by `components.check_components`.

    `measure` tells the shape and size of a layer at one place of the network; None builds and runs it once.
    Raises RefusedDelta: at /components/NAME/source for a source that fails, and for every component where
    this process may not run any.
    """
    if components and not _permitted:
        rule = "is code of a candidate, and this process does not run such code"
        pointers = [f"/components/{escape(name)}" for name in components]
        raise RefusedDelta([Finding(pointer, rule, hint=RUNS_ONLY) for pointer in pointers])
    if measure is None and components:
        from evorank.model.component_trials import measured as measure
    code = Code()
    for name, component in components.items():
        made, found = _executed(name, component)
        if found.signature is not None:
            assert measure is not None
            layer = _Layer(name, made, found, measure)
            code.signatures[name] = replace(found.signature, rule=layer.rule)
            code.builders[name] = layer.build
        elif component.kind == "optimizer":
            code.optimizers[name] = made
        else:
            code.schedules[name] = made
    return code


def _executed(name: str, component: Component) -> tuple[Any, Interface]:
    """What the source defines, after running its top level."""
    tree = parse(component.source)
    assert not isinstance(tree, Problem)
    found = interface(name, component.kind, tree)
    namespace = {short: _resolved(full) for short, full in PRESENT.items()}
    namespace["__name__"] = f"component_{name}"
    try:
        exec(compile(component.source, _file(name), "exec", dont_inherit=True), namespace)
    except Exception as error:
        raise failed(name, "loaded", error) from error
    return namespace[found.target], found


def _resolved(full: str) -> Any:
    try:
        return importlib.import_module(full)
    except ModuleNotFoundError:
        owner, _, last = full.rpartition(".")
        return getattr(importlib.import_module(owner), last)


class _Layer:
    """A layer or activation wherever it is called: its rule for the planner, its builder for the network."""

    def __init__(self, name: str, made: Any, found: Interface, measure: Measure) -> None:
        assert found.signature is not None
        self.name, self.made, self.is_class, self.measure = name, made, found.is_class, measure
        self.takes_widths = found.takes_widths
        self.parameters = found.signature.parameters
        self.known: dict[str, tuple[Shape, int]] = {}

    def rule(self, /, **bound: Any) -> tuple[Shape, int]:
        shapes = self._operands(bound)
        numbers = self._numbers(bound)
        key = repr((shapes, numbers))  # not their hash: 1, 1.0 and True are different arguments
        if key not in self.known:
            make = self._make([shape.width for shape in shapes], numbers)
            self.known[key] = self.measure(self.name, make, shapes)
        return self.known[key]

    def build(self, site: Site) -> Function:
        import torch

        from evorank.model.layers import Component as Brought

        shapes = [site.shapes[node] for node in self._operands(site.bound)]
        make = self._make([shape.width for shape in shapes], self._numbers(site.bound))
        # One draw, whatever the component does with the generator: what comes after does not notice.
        seed = int(torch.randint(2**62, (1,), device="cpu"))
        return Brought(make(seed))

    def _make(self, widths: Sequence[int], numbers: Mapping[str, Any]) -> Make:
        def make(seed: int) -> Callable[..., Tensor]:
            import torch

            if not self.is_class:
                function: Callable[..., Tensor] = self.made
                return function
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(seed)
                module: nn.Module = self.made(*(widths if self.takes_widths else ()), **numbers)
            return module

        return make

    def _operands(self, bound: Mapping[str, Any]) -> list[Any]:
        """Shapes or nodes, in the order of forward."""
        found: list[Any] = []
        for parameter in self.parameters:
            if parameter.kind not in LITERALS:
                found += bound[parameter.name] if parameter.repeated else [bound[parameter.name]]
        return found

    def _numbers(self, bound: Mapping[str, Any]) -> dict[str, Any]:
        names = [parameter.name for parameter in self.parameters if parameter.kind in LITERALS]
        return {name: bound[name] for name in names if name in bound}


# --------------------------------------------------------------------------- whose fault


def failed(name: str, doing: str, error: BaseException) -> RefusedDelta:
    """What to say of a component whose code raised while it was `doing`."""
    said = str(error)[:300]
    hint = "Decorate step with @torch.no_grad()." if "leaf Variable that requires grad" in said else ""
    places = [line for component, line in _frames(error) if component == name]
    line = f"line {places[-1]}: " if places else ""
    rule = f"{line}fails when {doing} ({type(error).__name__}: {said})"
    return RefusedDelta([Finding(f"/components/{escape(name)}/source", rule, hint=hint)])


@contextmanager
def blaming() -> Iterator[None]:
    """Turns what a component raises while the network trains or scores into a ToolError that names it."""
    try:
        yield
    except (EvorankError, MemoryError):
        raise
    except Exception as error:
        frames = _frames(error)
        if not frames:
            raise
        name, line = frames[-1]
        said = f"{type(error).__name__}: {str(error)[:300]}"
        raise ToolError(f"component {name!r} failed in line {line} of its source: {said}.") from error


def _file(name: str) -> str:
    return f"<component {name}>"


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """(component, line) of every frame of component code that the error passed through, outermost first."""
    found, trace = [], error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if file.startswith("<component "):
            found.append((file[len("<component ") : -1], trace.tb_lineno))
        trace = trace.tb_next
    return found
