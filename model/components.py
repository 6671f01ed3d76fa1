"""Components: the code a candidate brings along. Named, typed and fingerprinted; not executed here.

Whether they may run is decided in one place, `CANNOT_RUN`: until a sandbox executes candidate code, a Φ that
*uses* a component is refused, and one that merely holds it is valid. A source is parsed, never compiled.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING

from evorank.model.errors import Finding, RefusedDelta
from evorank.model.functions import FUNCTIONS
from evorank.model.syntax import Call, escape, identifier_problem, parse_layer, walk

if TYPE_CHECKING:
    from evorank.model.config import SystemConfig

__all__ = ["CANNOT_RUN", "check_components", "layer_components"]

CANNOT_RUN = "components cannot run yet: candidate code needs a sandbox, which is not built in"


def check_components(config: SystemConfig) -> list[Finding]:
    """Names, sources and kinds of components, and one refusal for every place that needs one to run."""
    findings = []
    for name, component in config.components.items():
        pointer = f"/components/{escape(name)}"
        problem = identifier_problem(name)
        if problem is None and name in FUNCTIONS:
            problem = "is the name of a built-in function"
        if problem is None and name.startswith("_"):
            problem = "must not start with _"
        if problem:
            findings.append(
                Finding(pointer, f"the name of a component {problem}", name, "Choose another name.")
            )
        if reason := _source_problem(component.source):
            findings.append(Finding(f"{pointer}/source", reason))
    for pointer, name, kinds in _uses(config):
        kind = config.components[name].kind
        if kind not in kinds:
            findings.append(
                Finding(pointer, f"needs a component of kind {' or '.join(kinds)}", f"{name}: {kind}")
            )
        elif not findings:
            hint = f"Leave out {name!r}; the listed functions, torch.optim and schedules are what runs today."
            findings.append(Finding(pointer, CANNOT_RUN, name, hint))
    return findings


def _uses(config: SystemConfig) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Where Φ needs a component: (pointer, component name, kinds that fit there)."""
    optimizer = config.optimizer
    named = [
        ("/optimizer/name", optimizer.name, "optimizer"),
        ("/optimizer/schedule/name", optimizer.schedule.name, "schedule"),
    ]
    if optimizer.embedding is not None:
        named.append(("/optimizer/embedding/name", optimizer.embedding.name, "optimizer"))
    for pointer, name, kind in named:
        if name in config.components:
            yield pointer, name, (kind,)
    for layer, name in layer_components(config):
        yield f"/architecture/layers/{layer}", name, ("layer", "activation")


def layer_components(config: SystemConfig) -> list[tuple[str, str]]:
    """(binding, component) for every call of a component in the layers."""
    found: list[tuple[str, str]] = []
    for layer, text in config.architecture.layers.items():
        try:
            node = parse_layer(text)
        except RefusedDelta:
            continue  # reported by plan
        found.extend(
            (layer, part.function)
            for part in walk(node)
            if isinstance(part, Call) and part.function in config.components
        )
    return found


def _source_problem(source: str) -> str | None:
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"must be Python that parses ({error.msg if isinstance(error, SyntaxError) else error})"
    public = [
        node.name
        for node in body
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_")
    ]
    return (
        None
        if len(public) == 1
        else f"must define exactly one public class or function, and defines {public}"
    )
