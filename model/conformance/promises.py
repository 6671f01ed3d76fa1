"""What `RankingSystem` promises before anything is trained: each a function that raises `Broken`.

Every promise builds its own instances, so that none hides another. Run them through `conformance`; what
`fit` and `predict` promise is in `promises_of_training`.
"""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar, get_args

from evorank.model.conformance.planted import planted
from evorank.model.errors import Finding
from evorank.model.schema import defects, lookup, slips, violations, without_nulls
from evorank.model.sql import check_objective
from evorank.model.system import Cost, Float32, LogSchema, Loss, Objective, Phi, RankingSystem, Rows

__all__ = [
    "Broken",
    "Promise",
    "Subject",
    "check_leaves_its_argument_alone",
    "check_refuses_nonsense",
    "constructs",
    "cost",
    "objective",
    "patchable",
    "production",
    "schema",
    "told",
]

_PERSONAS = ("optimizer", "architecture", "reward")
"""The personas that patch Φ."""

_METHODS = ("schema", "production", "patchable", "check", "objective", "cost", "fit", "predict")


class Broken(Exception):  # noqa: N818 - a verdict
    """A promise is not kept; the text says how to mend it."""


_Subject = TypeVar("_Subject", contravariant=True)


class Promise(Protocol[_Subject]):
    """Returns where the subject keeps it; raises `Broken`, or whatever the class raises, otherwise."""

    __name__: str

    def __call__(self, s: _Subject, /) -> None: ...


@dataclass(frozen=True)
class Subject:
    cls: type[RankingSystem]
    log: LogSchema

    def build(self) -> tuple[RankingSystem, Phi]:
        """A new instance and its production Φ, both private to one check."""
        system = self.cls(self.log, None)
        return system, copy.deepcopy(system.production())

    @property
    def loss(self) -> Loss:
        """The production objective's loss; "bce" where `objective` is itself broken (its own check tells)."""
        system, phi = self.build()
        try:
            loss = system.objective(phi).loss
        except Exception:
            return "bce"
        return loss if loss in get_args(Loss) else "bce"

    def data(self, rows: int = 600, seed: int = 1) -> tuple[Rows, Float32]:
        return planted(self.log, rows, seed, self.loss)


def constructs(s: Subject) -> None:
    """`Class(log, None)` and `Class(log, production)` both build, and the second serves that production."""
    system = s.cls(s.log, None)
    if missing := [name for name in _METHODS if not callable(getattr(system, name, None))]:
        raise Broken(f"write the methods {', '.join(missing)}: see evorank.model.system.RankingSystem")
    phi = system.production()
    if s.cls(s.log, copy.deepcopy(phi)).production() != phi:
        raise Broken("`Class(log, production).production()` must give that production back")


def schema(s: Subject) -> None:
    """A JSON Schema of an object; references resolve; every field has a description."""
    document = s.build()[0].schema()
    if not _is_plain_json(document):
        raise Broken("schema() must be plain JSON: string keys, lists not tuples, no NaN")
    if found := defects(document):
        raise Broken("schema() " + _some(found))


def production(s: Subject) -> None:
    """Plain JSON, valid by check() and by schema()."""
    system, phi = s.build()
    if not isinstance(phi, dict) or not _is_plain_json(phi):
        raise Broken("production() must be a plain JSON object: string keys, lists not tuples, no NaN")
    if found := system.check(copy.deepcopy(phi)):
        raise Broken("check(production()) must find nothing: " + _some(found))
    if found := violations(phi, system.schema()):
        raise Broken("production() must obey schema(): " + _some(found))
    lost = [what for what, pruned in without_nulls(phi) if violations(pruned, system.schema())]
    if lost:
        raise Broken(
            f"production(): {_first(lost)} is null, which surface.toml cannot hold: let null be its default"
        )


def patchable(s: Subject) -> None:
    """Known personas, each with JSON Pointers that lead somewhere in production."""
    system, phi = s.build()
    parts = system.patchable()
    if not parts:
        raise Broken(f"patchable() must open a part of Φ to at least one of {', '.join(_PERSONAS)}")
    for persona, pointers in parts.items():
        if persona not in _PERSONAS:
            raise Broken(f"patchable() names the persona {persona!r}; there are {', '.join(_PERSONAS)}")
        if isinstance(pointers, str) or not pointers:
            raise Broken(f"patchable()[{persona!r}] must be a list of JSON Pointers, got {pointers!r}")
        for pointer in pointers:
            try:
                lookup(phi, pointer)
            except (LookupError, ValueError, AttributeError):
                raise Broken(
                    f"patchable()[{persona!r}]: {pointer!r} leads nowhere in production(). "
                    "Write it like /trees/num_leaves, and spell every default out in production()"
                ) from None


def check_refuses_nonsense(s: Subject) -> None:
    """check() finds fault, without raising, with all that schema() refuses, and with what is no Φ at all."""
    system, phi = s.build()
    accepted, raised = [], []
    for what, document in slips(phi, system.schema()):
        try:
            found = system.check(document)
        except Exception as error:
            raised.append(f"{what}: {told(error)}")
        else:
            if not found or not all(isinstance(finding, Finding) for finding in found):
                accepted.append(what)
    if raised:
        raise Broken(f"check() must never raise, {_first(raised)}. Return a Finding for it")
    if accepted:
        raise Broken(f"check() must return a list of Findings for {_first(accepted)}")


def check_leaves_its_argument_alone(s: Subject) -> None:
    """Φ is the same after check(), valid or not."""
    system, phi = s.build()
    for what, document in [("production", phi), *slips(phi, system.schema())]:
        before = repr(document)
        try:
            system.check(document)
        except Exception:
            continue  # `check refuses nonsense` tells
        if repr(document) != before:
            raise Broken(f"check() changed its argument ({what}). Work on copy.deepcopy(phi)")


def objective(s: Subject) -> None:
    """A label, factors and a loss that the tools know; the same each time."""
    system, phi = s.build()
    found = system.objective(phi)
    if not isinstance(found, Objective) or not isinstance(found.label, str) or not found.label.strip():
        raise Broken(f"objective() must return an Objective with a SQL expression as label, got {found!r}")
    if found.loss not in get_args(Loss):
        raise Broken(f"objective().loss must be one of {', '.join(get_args(Loss))}, got {found.loss!r}")
    if not all(isinstance(part, str) for item in found.factors.items() for part in item):
        raise Broken(f"objective().factors must map names to SQL expressions, got {found.factors!r}")
    if problems := check_objective(found, s.log.columns):
        raise Broken("objective() must be SQL over the log's columns: " + _some(problems))
    if system.objective(phi) != found:
        raise Broken("objective() must give the same Objective for the same Φ")


def cost(s: Subject) -> None:
    """A positive number of parameters, the same each time."""
    (system, phi), (other, _) = s.build(), s.build()
    found = system.cost(phi)
    if not isinstance(found, Cost) or not isinstance(found.parameters, int) or found.parameters <= 0:
        raise Broken(f"cost() must return Cost(parameters=...) with a positive int, got {found!r}")
    if not found == system.cost(phi) == other.cost(phi):
        raise Broken("cost() must be the same for the same Φ: derive it from Φ and the log alone")


def _is_plain_json(document: object) -> bool:
    try:
        return bool(json.loads(json.dumps(document, allow_nan=False)) == document)
    except (TypeError, ValueError):
        return False


def _some(found: Sequence[Finding]) -> str:
    return _first([str(finding) for finding in found])


def _first(texts: Sequence[str], limit: int = 3) -> str:
    more = f" (and {len(texts) - limit} more)" if len(texts) > limit else ""
    return "; ".join(texts[:limit]) + more


def told(error: BaseException) -> str:
    """An unexpected exception in a sentence, with the last line of code that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"raised {type(error).__name__}: {error}{where}"
