"""Who moves the weights: any `torch.optim` class by name, its arguments checked before it is built.

Checks read the class's own signature, so a new torch optimizer needs no code here; ranges are stated for
the argument names that torch uses. Limit: one backward pass a step, so closures (LBFGS) are refused.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from evorank.model.embedding import RowwiseAdagrad
from evorank.model.errors import Finding
from evorank.model.schedules import Range

__all__ = ["build_optimizer", "check_optimizer", "optimizer_names"]

_REFUSED = {
    "LBFGS": "needs a closure that evaluates the loss several times a step, which minibatches do not give",
    "SparseAdam": "takes sparse gradients only, and its moments skip the rows a batch has not seen",
}
_FUSED = ("Adagrad", "Adam", "AdamW", "SGD")


_TRAINERS_OWN = ("foreach", "fused", "maximize", "differentiable", "capturable")
_SHARE = Range(0, 1, "low")
_UNIT = Range(0, 1, "low high")
_RANGES = {
    "lr": Range(0, 10, hint="Try 1e-4 to 1e-1."),
    "betas": Range(0, 1, "low", "Try 0.9 and 0.999."),
    "alpha": Range(0, 1, "low", "Try 0.9 to 0.99."),
    "rho": Range(0, 1, "low", "Try 0.9."),
    "eps": Range(0, 1, "high", "Try 1e-10 to 1e-6."),
    "momentum": Range(0, 1, "low", "Try 0.9."),
    "dampening": _UNIT,
    "weight_decay": Range(0, 1, "low high", "Try 1e-6 to 1e-2."),
    "lr_decay": Range(0, 1, "low high", "Try 0 to 1e-3."),
    "initial_accumulator_value": Range(0, 10, "low high", "Try 0 or 0.1."),
    "momentum_decay": _SHARE,
    "lambd": _UNIT,
    "t0": Range(0, 1e12, "low"),
    "beta2_decay": Range(-1, 0, "low", "Try -0.8."),
    "d": Range(0, 100, "high", "Try 1."),
    "etas": Range(0, 10, hint="Try 0.5 and 1.2."),
    "step_sizes": Range(0, 100, "high", "Try 1e-6 and 50."),
    "ns_steps": Range(1, 20, "low high", "Try 5."),
    "ns_coefficients": Range(-10, 10, "low high"),
}


def optimizer_names(table: bool = False) -> list[str]:
    """Names that `optimizer.name` takes (or, for `table`, `optimizer.embedding.name`)."""
    found = [
        name
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, torch.optim.Optimizer)
    ]
    usable = sorted(set(found) - {"Optimizer", *_REFUSED})
    return [name for name in usable if name != "Muon"] + ["RowwiseAdagrad"] if table else usable


def check_optimizer(
    name: str,
    args: Mapping[str, Any],
    pointer: str = "/optimizer",
    *,
    table: bool = False,
    components: Collection[str] = (),
) -> list[Finding]:
    """Everything wrong with an optimizer's name and arguments; [] means that it can be built.

    Of `components`, this says only that they hide a class of torch; `components.py` judges the rest.
    """
    names = optimizer_names(table)
    if name in components:
        if name in names or name in _REFUSED or name == "RowwiseAdagrad":
            rule = "is the name of an optimizer of torch.optim as well as of a component"
            return [Finding(f"{pointer}/name", rule, name, "Give the component another name.")]
        return []
    if name in _REFUSED:
        return [Finding(f"{pointer}/name", f"cannot be used: it {_REFUSED[name]}", name, "Try Adam.")]
    if name not in names:
        if name == "RowwiseAdagrad":
            rule = "is for embedding tables only"
            return [Finding(f"{pointer}/name", rule, name, "Put it in /optimizer/embedding.")]
        if name == "Muon":
            rule = "is for the matrices of the network, not for embedding tables"
            return [Finding(f"{pointer}/name", rule, name, "Try Adagrad or RowwiseAdagrad.")]
        close = difflib.get_close_matches(name, names, 1, 0.5) or _close_case(name, names)
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(names)}."
        return [Finding(f"{pointer}/name", "must name an optimizer of torch.optim", name, hint)]
    known = _parameters(name)
    findings = []
    for argument, value in args.items():
        where = f"{pointer}/args/{argument}"
        if argument in _TRAINERS_OWN:
            findings.append(Finding(where, "is set by the trainer", value, "Remove it."))
        elif argument not in known:
            close = difflib.get_close_matches(argument, known, 1, 0.5)
            hint = f"Did you mean {close[0]}?" if close else f"{name} takes {', '.join(known)}."
            findings.append(Finding(where, f"is not an argument of {name}", value, hint))
        else:
            findings += _check_value(where, argument, value, known[argument])
    return findings or _try_to_build(name, args, pointer)


def _close_case(name: str, names: Sequence[str]) -> list[str]:
    return [known for known in names if known.lower() == name.lower()]


def _parameters(name: str) -> dict[str, Any]:
    """Argument -> default of an optimizer, without those that are the trainer's business."""
    cls = RowwiseAdagrad if name == "RowwiseAdagrad" else getattr(torch.optim, name)
    skipped = {"self", "params", "tables", *_TRAINERS_OWN}
    signature = inspect.signature(cls).parameters.values()
    return {p.name: p.default for p in signature if p.name not in skipped}


def _check_value(where: str, argument: str, value: Any, default: Any) -> list[Finding]:
    if isinstance(default, bool):
        ok = isinstance(value, bool)
        return [] if ok else [Finding(where, "must be true or false", value)]
    if default is None:
        ok = value is None or isinstance(value, str)
        return [] if ok else [Finding(where, "must be a string or null", value)]
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple) or len(value) != len(default):
            rule = f"must be a list of {len(default)} numbers"
            return [Finding(where, rule, value, f"The default is {list(default)}.")]
        pairs = zip(value, default, strict=True)
        return [
            finding
            for number, (item, usual) in enumerate(pairs)
            if not (item is None and usual is None)
            for finding in _check_number(f"{where}/{number}", argument, item, usual)
        ]
    return _check_number(where, argument, value, default)


def _check_number(where: str, argument: str, value: Any, default: Any) -> list[Finding]:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return [Finding(where, "must be a finite number", value, f"The default is {default}.")]
    if argument == "ns_steps" and value != int(value):
        return [Finding(where, "must be a whole number", value, "Try 5.")]
    within = _RANGES.get(argument)
    if within is not None and value not in within:
        return [Finding(where, f"must lie in {within}", value, within.hint)]
    return []


def _try_to_build(name: str, args: Mapping[str, Any], pointer: str) -> list[Finding]:
    """What only the constructor knows, such as that Nesterov momentum needs a momentum."""
    try:
        if name != "RowwiseAdagrad":
            build_optimizer(name, args, [nn.Parameter(torch.zeros(2, 2))])
    except (ValueError, TypeError, RuntimeError) as error:
        return [Finding(f"{pointer}/args", f"is refused by torch.optim.{name}: {error}", dict(args))]
    return []


def build_optimizer(
    name: str,
    args: Mapping[str, Any],
    parameters: Sequence[nn.Parameter],
    components: Mapping[str, Callable[..., Any]] | None = None,
) -> torch.optim.Optimizer:
    """The optimizer of some parameters; `components` are those that Φ brings along.

    Torch's generator is left as it was: what comes after does not depend on what a component does with it.
    """
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in args.items()}
    if components and name in components:
        with torch.random.fork_rng(devices=[]):
            own: torch.optim.Optimizer = components[name](parameters, **values)
        return own
    if name in _FUSED:
        values["fused"] = True
    optimizer: torch.optim.Optimizer = getattr(torch.optim, name)(parameters, **values)
    return optimizer
