"""Components: the code a candidate brings along. Named, typed, linted and fingerprinted; not executed here.

Everything that can be said of a source by reading it is said here, in the parent process. `component_code.py`
runs it, where it may run.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evorank.model.component_interface import Interface, Misfit, interface
from evorank.model.component_lint import Problem, lint, parse
from evorank.model.errors import Finding, RefusedDelta
from evorank.model.functions import FUNCTIONS, Signature
from evorank.model.schedules import SCHEDULES
from evorank.model.syntax import Call, escape, identifier_problem, parse_layer, walk

if TYPE_CHECKING:
    from evorank.model.config import Component, SystemConfig

__all__ = ["check_components", "signatures", "used"]


def check_components(config: SystemConfig) -> list[Finding]:
    """Names, sources, kinds and arguments of components: all that is known without running them."""
    findings: list[Finding] = []
    known: dict[str, Interface] = {}
    for name, component in config.components.items():
        pointer = f"/components/{escape(name)}"
        if problem := _name_problem(name):
            rule = f"the name of a component {problem}"
            findings.append(Finding(pointer, rule, name, "Choose another name."))
        read = _read(name, component)
        if isinstance(read, Interface):
            known[name] = read
        else:
            findings += read
    for pointer, name, kinds, args in _uses(config):
        kind = config.components[name].kind
        if kind not in kinds:
            rule = f"needs a component of kind {' or '.join(kinds)}"
            findings.append(Finding(pointer, rule, f"{name}: {kind}"))
        elif name in known and (arguments := known[name].arguments) is not None:
            findings += _check_arguments(pointer.removesuffix("/name"), name, args, arguments)
    return findings


def signatures(config: SystemConfig) -> dict[str, Signature]:
    """Layers and activations as functions of the layer language, as far as they can be read.

    Those whose shapes only running them tells have no rule. What cannot be read is left out: of that,
    `check_components` tells.
    """
    read = {name: _read(name, component) for name, component in config.components.items()}
    return {
        name: found.signature
        for name, found in read.items()
        if isinstance(found, Interface) and found.signature is not None
    }


def used(config: SystemConfig) -> dict[str, Component]:
    """The components that Φ needs to train and score; one may bring others that nothing uses yet."""
    names = {name for _, name, _, _ in _uses(config)}
    return {name: component for name, component in config.components.items() if name in names}


def _name_problem(name: str) -> str | None:
    if problem := identifier_problem(name):
        return problem
    if name.startswith("_"):
        return "must not start with _"
    if name in FUNCTIONS:
        return "is the name of a built-in function"
    if name in SCHEDULES:
        return "is the name of a schedule"
    return None


def _read(name: str, component: Component) -> Interface | list[Finding]:
    pointer = f"/components/{escape(name)}/source"
    tree = parse(component.source)
    if isinstance(tree, Problem):
        return [Finding(pointer, str(tree), hint=tree.hint)]
    if problems := lint(tree):
        return [Finding(pointer, str(problem), hint=problem.hint) for problem in problems]
    try:
        return interface(name, component.kind, tree)
    except Misfit as misfit:
        return [Finding(pointer, misfit.rule, hint=misfit.hint)]


def _check_arguments(
    pointer: str, name: str, args: Mapping[str, Any], arguments: Mapping[str, bool]
) -> list[Finding]:
    findings = []
    for argument, value in args.items():
        if argument not in arguments:
            close = difflib.get_close_matches(argument, arguments, 1, 0.5)
            hint = f"Did you mean {close[0]}?" if close else f"It takes {', '.join(arguments) or 'none'}."
            rule = f"is not an argument of the component {name}"
            findings.append(Finding(f"{pointer}/args/{escape(argument)}", rule, value, hint))
    missing = [argument for argument, required in arguments.items() if required and argument not in args]
    if missing:
        rule = f"must give {', '.join(missing)}, which the component {name} has no default for"
        findings.append(Finding(f"{pointer}/args", rule, dict(args)))
    return findings


def _uses(config: SystemConfig) -> Iterator[tuple[str, str, tuple[str, ...], Mapping[str, Any]]]:
    """Where Φ needs a component: (pointer, component name, kinds that fit there, its arguments)."""
    optimizer = config.optimizer
    named = [
        ("/optimizer/name", optimizer.name, optimizer.args, "optimizer"),
        ("/optimizer/schedule/name", optimizer.schedule.name, optimizer.schedule.args, "schedule"),
    ]
    if optimizer.embedding is not None:
        table = optimizer.embedding
        named.append(("/optimizer/embedding/name", table.name, table.args, "optimizer"))
    for pointer, name, args, kind in named:
        if name in config.components:
            yield pointer, name, (kind,), args
    for layer, text in config.architecture.layers.items():
        try:
            node = parse_layer(text)
        except RefusedDelta:
            continue  # reported by plan
        for part in walk(node):
            if isinstance(part, Call) and part.function in config.components:
                yield f"/architecture/layers/{escape(layer)}", part.function, ("layer", "activation"), {}
