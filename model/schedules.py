"""Learning-rate schedules: the learning rate of a step as a share of `optimizer.args.lr`. Pure Python.

Times are shares of the run, so that a candidate that trains four times less keeps the shape of its schedule.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evorank.model.errors import Finding, ToolError

__all__ = ["SCHEDULES", "Range", "check_schedule", "schedule_factor"]


@dataclass(frozen=True)
class Range:
    """An interval of numbers that says itself: `value in Range(0, 10)`, "(0, 10)"."""

    low: float
    high: float
    closed: str = ""
    """Which ends belong to it: "", "low", "high" or "low high"."""
    hint: str = ""

    def __contains__(self, value: float) -> bool:
        above = value >= self.low if "low" in self.closed else value > self.low
        return above and (value <= self.high if "high" in self.closed else value < self.high)

    def __str__(self) -> str:
        left, right = "[" if "low" in self.closed else "(", "]" if "high" in self.closed else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


@dataclass(frozen=True)
class _Argument:
    default: float
    within: Range
    meaning: str


_WARMUP = _Argument(0.0, Range(0, 1, "low", "Try 0.05."), "share of the run with a linear rise from 0")
_FINAL = _Argument(0.0, Range(0, 1, "low high", "Try 0 to 0.1."), "last learning rate / optimizer.args.lr")

SCHEDULES: Mapping[str, Mapping[str, _Argument]] = {
    "constant": {"warmup": _WARMUP},
    "linear": {"warmup": _WARMUP, "final": _FINAL},
    "cosine": {"warmup": _WARMUP, "final": _FINAL},
    "step": {
        "warmup": _WARMUP,
        "every": _Argument(0.25, Range(0, 1, "high", "Try 0.25."), "share of the run between two drops"),
        "factor": _Argument(0.5, Range(0, 1, "high", "Try 0.1 to 0.5."), "what a drop multiplies by"),
    },
    "exponential": {
        "warmup": _WARMUP,
        "final": _Argument(0.01, Range(0, 1, "high", "Try 0.01 to 0.1."), _FINAL.meaning),
    },
}
"""Schedule -> its arguments."""


def check_schedule(
    name: str,
    args: Mapping[str, Any],
    pointer: str = "/optimizer/schedule",
    *,
    components: Collection[str] = (),
) -> list[Finding]:
    """Everything wrong with a schedule's name and arguments. Of `components`, `components.py` judges."""
    if name in components:
        return []
    if name not in SCHEDULES:
        close = difflib.get_close_matches(name, SCHEDULES, 1, 0.5)
        hint = f"Did you mean {close[0]}?" if close else f"There are {', '.join(SCHEDULES)}."
        return [Finding(f"{pointer}/name", "must name a schedule", name, hint)]
    findings = []
    for argument, value in args.items():
        where, known = f"{pointer}/args/{argument}", SCHEDULES[name]
        if argument not in known:
            takes = "; ".join(f"{key}: {item.meaning}" for key, item in known.items())
            close = difflib.get_close_matches(argument, known, 1, 0.5)
            hint = f"Did you mean {close[0]}?" if close else f"It takes {takes}."
            findings.append(Finding(where, f"is not an argument of the {name} schedule", value, hint))
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            findings.append(Finding(where, "must be a finite number", value, known[argument].within.hint))
        elif value not in known[argument].within:
            rule = f"must lie in {known[argument].within}"
            findings.append(Finding(where, rule, value, known[argument].within.hint))
    return findings


def schedule_factor(
    name: str,
    args: Mapping[str, Any],
    step: int,
    steps: int,
    components: Mapping[str, Callable[..., float]] | None = None,
) -> float:
    """Learning rate at `step` (0-based) of a run of `steps`, as a share of `optimizer.args.lr`.

    `components` are schedules that Φ brings along, called as f(step, steps, **args). Raises ToolError where
    one returns anything but a finite number >= 0.
    """
    if components and name in components:
        share = components[name](step, steps, **args)
        if not (isinstance(share, int | float) and math.isfinite(share) and share >= 0):
            raise ToolError(f"schedule {name!r} returns {share!r:.80} for step {step} of {steps}.")
        return float(share)
    value = {key: float(args.get(key, argument.default)) for key, argument in SCHEDULES[name].items()}
    warm = round(value["warmup"] * steps)
    if step < warm:
        return (step + 1) / (warm + 1)
    done = (step - warm) / max(1, steps - warm - 1)
    if name == "linear":
        return 1 + (value["final"] - 1) * done
    if name == "cosine":
        return value["final"] + (1 - value["final"]) * (1 + math.cos(math.pi * done)) / 2
    if name == "step":
        passed = (step - warm) / max(1, steps - warm)
        return float(value["factor"] ** math.floor(passed / value["every"] + 1e-9))
    if name == "exponential":
        return float(value["final"] ** done)
    return 1.0
