"""The conformance suite: does a class keep the promises of `RankingSystem` that the loops rely on?

It runs a user's class on a few thousand made-up rows and says what to mend. It proves no quality: a
system that passes can still rank badly. The class runs in this process, unsandboxed, as its owner's code.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from evorank.model.conformance.planted import EXAMPLE_LOG
from evorank.model.conformance.promises import (
    Broken,
    Promise,
    Subject,
    check_leaves_its_argument_alone,
    check_refuses_nonsense,
    constructs,
    cost,
    objective,
    patchable,
    production,
    schema,
    told,
)
from evorank.model.conformance.promises_of_training import (
    crosses_processes,
    fit_is_deterministic,
    fit_leaves_the_data_alone,
    fit_survives_tiny_data,
    fit_uses_the_labels,
    fits,
    learns,
    predict_needs_only_weights,
    predict_scores_each_row_alone,
    predictions_are_sound,
    weights_are_plain_arrays,
)
from evorank.model.errors import ConfigurationError
from evorank.model.system import LogSchema, RankingSystem

__all__ = ["PROMISES", "CheckResult", "conformance", "load_class", "load_system", "run_promises"]

_Subject = TypeVar("_Subject")

PROMISES: dict[Promise[Subject], tuple[Promise[Subject], ...]] = {
    constructs: (),
    schema: (constructs,),
    production: (constructs, schema),
    patchable: (constructs,),
    check_refuses_nonsense: (constructs, schema),
    check_leaves_its_argument_alone: (constructs, schema),
    objective: (constructs,),
    cost: (constructs,),
    fits: (constructs,),
    weights_are_plain_arrays: (fits,),
    fit_is_deterministic: (fits,),
    fit_uses_the_labels: (weights_are_plain_arrays,),
    fit_leaves_the_data_alone: (fits,),
    fit_survives_tiny_data: (fits,),
    predictions_are_sound: (fits,),
    predict_scores_each_row_alone: (predictions_are_sound,),
    predict_needs_only_weights: (predictions_are_sound,),
    crosses_processes: (weights_are_plain_arrays, predictions_are_sound),
    learns: (predictions_are_sound,),
}
"""Promise -> the promises without which it says nothing."""


@dataclass(frozen=True)
class CheckResult:
    """One promise: `message` says what to mend, and is empty where the check passed."""

    name: str
    passed: bool
    message: str
    seconds: float


def load_system(path: str) -> type[RankingSystem]:
    """The ranking system that `module:Class` names. Errors as `load_class`."""
    return load_class(path, "system")


def load_class(path: str, field: str) -> type[Any]:
    """The class that `module:Class` names in `field`. The working directory is importable, as it is for a
    script.

    Raises ConfigurationError: not of that form, no such module, a module that fails to import, no such class.
    """
    module_name, _, class_name = path.partition(":")
    if not module_name or not class_name.isidentifier():
        raise ConfigurationError(f"{field} must be `module:Class`, got {path!r}. Try `my_module:MyClass`.")
    if not {"", os.getcwd()} & set(sys.path):
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if module_name != missing and not module_name.startswith(f"{missing}."):
            raise ConfigurationError(
                f"{field} {path!r} needs the package {missing!r}, which is not installed. "
                f"Try `pip install {missing}`."
            ) from error
        raise ConfigurationError(
            f"{field} {path!r}: there is no module {module_name!r} in {os.getcwd()} or among the installed "
            "packages. Run from the folder that holds it, or add that folder to PYTHONPATH."
        ) from error
    except (Exception, SystemExit) as error:
        raise ConfigurationError(f"{field} {path!r}: importing {module_name!r} {told(error)}.") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        classes = [
            n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__
        ]
        raise ConfigurationError(
            f"{field} {path!r}: module {module_name!r} has no class {class_name!r}. "
            f"It defines {', '.join(classes) or 'no class'}."
        )
    return found


def conformance(cls: type[RankingSystem], log: LogSchema | None = None) -> list[CheckResult]:
    """Every promise of `PROMISES`, in order, on rows made up for `log` (default: a small example).

    Never raises. A promise without ground (nothing can be fitted, say) fails as "not run: mend ... first".
    """
    return run_promises(PROMISES, Subject(cls, log or EXAMPLE_LOG))


def run_promises(
    promises: Mapping[Promise[_Subject], Sequence[Promise[_Subject]]], subject: _Subject
) -> list[CheckResult]:
    """What `subject` keeps of `promises` (each with those without which it says nothing), in order."""
    results: list[CheckResult] = []
    first: dict[str, str] = {}  # a check that failed or was not run -> the one to mend first
    for promise, grounds in promises.items():
        name = _name(promise)
        broken = next((first[_name(ground)] for ground in grounds if _name(ground) in first), None)
        if broken is None:
            results.append(_run(promise, subject))
        else:
            results.append(CheckResult(name, False, f"not run: mend `{broken}` first", 0.0))
        if not results[-1].passed:
            first[name] = broken or name
    return results


def _name(promise: Promise[_Subject]) -> str:
    return promise.__name__.replace("_", " ")


def _run(promise: Promise[_Subject], subject: _Subject) -> CheckResult:
    started, message = time.perf_counter(), ""
    try:
        promise(subject)
    except Broken as broken:
        message = str(broken)
    except (Exception, SystemExit) as error:
        message = told(error)
    return CheckResult(_name(promise), not message, message, time.perf_counter() - started)
