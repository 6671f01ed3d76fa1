"""compare: two runs, personas, categories, models or surfaces: what each tried, won and spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from pydantic import Field

from evorank.graph.state import Attempt, Usage
from evorank.ui.source import Snapshot
from evorank.ui.views.common import AttemptLine, ExperimentLine, View, attempt_line, experiment_line
from evorank.ui.views.rates import Rate, rate, total

__all__ = ["By", "Comparison", "Side", "compare"]

By = Literal["run", "persona", "category", "model", "surface"]


class Side(View):
    """One of the two."""

    name: str
    surface: str
    rate: Rate
    cost: Usage
    seconds: float = Field(description="Wall clock of all its attempts, which run side by side")
    cpu_per_win: float | None = Field(description="CPU-seconds for each attempt that won")
    best: dict[str, AttemptLine] = Field(description="Metric -> the surest improvement of it")
    candidates: dict[str, list[AttemptLine]] = Field(description="Metric -> all that it measured")
    experiments: dict[str, int] = Field(description="How its live tests ended")
    launches: list[ExperimentLine]


class Comparison(View):
    """Two sides, and what could be chosen."""

    surface: str
    by: By
    options: list[str]
    sides: list[Side] = Field(description="None, one or two")


def compare(
    snapshot: Snapshot,
    by: By = "persona",
    chosen: Sequence[str] = (),
    read: Callable[[str], Snapshot] | None = None,
) -> Comparison:
    """`chosen`: up to two values of `by`; default: the two with the most attempts, or the newest two runs.
    `read`: how another surface is read, where surfaces are compared."""
    if by == "surface":
        options = list(snapshot.surfaces)
        known = [
            snapshot if name == snapshot.surface or read is None else read(name)
            for name in _two(chosen, options)
        ]
        sides = [_side(each.surface, _own(each), each) for each in known]
        return Comparison(surface=snapshot.surface, by=by, options=options, sides=sides)
    groups: dict[str, list[Attempt]] = {}
    for attempt in _own(snapshot):
        groups.setdefault(str(getattr(attempt, by) or "none"), []).append(attempt)
    options = (
        sorted(groups, reverse=True) if by == "run" else sorted(groups, key=lambda name: -len(groups[name]))
    )
    return Comparison(
        surface=snapshot.surface,
        by=by,
        options=options,
        sides=[_side(name, groups[name], snapshot) for name in _two(chosen, options)],
    )


def _two(chosen: Sequence[str], options: Sequence[str]) -> list[str]:
    """What is compared. A name that is no option is left from another `by`: the form sends it along."""
    return [name for name in chosen if name in options][:2] or list(options[:2])


def _own(snapshot: Snapshot) -> list[Attempt]:
    return [attempt for attempt in snapshot.attempts if attempt.imported is None]


def _side(name: str, attempts: Sequence[Attempt], snapshot: Snapshot) -> Side:
    known = rate(name, attempts)
    spent = total([attempt.usage for attempt in attempts])
    candidates: dict[str, list[AttemptLine]] = {}
    best: dict[str, AttemptLine] = {}
    for attempt in attempts:
        line = attempt_line(attempt, snapshot)
        if line.metric is None or line.gain is None:
            continue
        candidates.setdefault(line.metric, []).append(line)
        before = best.get(line.metric)
        sure = line.gain[0]
        if line.outcome == "better" and (before is None or before.gain is None or sure > before.gain[0]):
            best[line.metric] = line
    ids = {attempt.id for attempt in attempts}
    tests = [each for each in snapshot.experiments if each.attempt in ids]
    ended: dict[str, int] = {}
    for test in tests:
        state = test.result or test.phase
        ended[state] = ended.get(state, 0) + 1
    return Side(
        name=name,
        surface=snapshot.surface,
        rate=known,
        cost=spent,
        seconds=sum(attempt.seconds for attempt in attempts),
        cpu_per_win=spent.cpu_seconds / known.won if known.won else None,
        best=best,
        candidates=candidates,
        experiments=ended,
        launches=[experiment_line(each, snapshot) for each in tests if each.result == "launched"],
    )
