"""progress: every candidate in its order, failures included, against production, and the best so far."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from evorank.graph.state import Attempt
from evorank.ui.source import Snapshot
from evorank.ui.views.common import AttemptLine, View, attempt_line
from evorank.ui.views.rates import Rate, rates
from evorank.ui.views.table import Columns, choices, having

__all__ = ["Filter", "Launch", "Panel", "Progress", "Window", "progress"]

WINDOW = 300
"""Candidates that are drawn with interval and link; a strip shows all others."""


class Filter(Columns):
    """Which attempts."""

    persona: str | None = None
    category: str | None = None
    model: str | None = None
    outcome: str | None = None
    run: str | None = None


class Window(Filter):
    """Which of them are drawn, and what pass rates are grouped by."""

    until: int | None = Field(default=None, ge=1, le=10**9, description="The place behind the last")
    by: Literal["persona", "category", "model"] = "persona"


class Launch(View):
    """From which place on candidates were compared with another production."""

    place: int
    production: str
    version: int | None


class Stretch(View):
    """Places that were compared with one production; what is gained over it begins at nothing."""

    begin: int
    end: int
    steps: list[tuple[int, float]] = Field(description="(place, gain from there on)")


class Panel(View):
    """The candidates that one metric measured."""

    metric: str
    lower_is_better: bool
    places: list[int] = Field(description="Place of each candidate in the order of all, from 0")
    candidates: list[AttemptLine]
    best: list[Stretch] = Field(
        description="What is surely gained over production: the best pessimistic end so far"
    )


class Progress(View):
    """All candidates, in the order in which they were recorded."""

    surface: str
    filter: Filter
    total: int = Field(description="Attempts that the filter takes")
    first: int = Field(description="Place of the first that is drawn")
    window: int
    panels: list[Panel]
    failures: list[AttemptLine] = Field(description="Those without a comparison")
    failure_places: list[int]
    launches: list[Launch]
    strip: list[tuple[int, str]] = Field(description="(place, outcome) of all")
    by: Literal["persona", "category", "model"]
    groups: list[Rate]
    choices: dict[str, list[str]] = Field(description="Values that filters may take")


def progress(
    snapshot: Snapshot,
    wanted: Filter | None = None,
    until: int | None = None,
    by: Literal["persona", "category", "model"] = "persona",
) -> Progress:
    """`until`: the place behind the last that is drawn. `by`: what pass rates are grouped by."""
    wanted = wanted or Filter()
    own = [attempt for attempt in snapshot.attempts if attempt.imported is None]
    found = having(own, wanted)
    end = min(len(found), until) if until else len(found)
    first = max(0, end - WINDOW)
    drawn = list(enumerate(found))[first:end]
    panels: dict[str, Panel] = {}
    failures: list[AttemptLine] = []
    failure_places: list[int] = []
    for place, attempt in drawn:
        line = attempt_line(attempt, snapshot)
        if line.gain is None or line.metric is None:
            failures.append(line)
            failure_places.append(place)
            continue
        if line.metric not in panels:
            panels[line.metric] = Panel(
                metric=line.metric,
                lower_is_better=line.lower_is_better,
                places=[],
                candidates=[],
                best=_best(found[:end], line.metric, first),
            )
        panel = panels[line.metric]
        panel.places.append(place)
        panel.candidates.append(line)
    return Progress(
        surface=snapshot.surface,
        filter=wanted,
        total=len(found),
        first=first,
        window=WINDOW,
        panels=sorted(panels.values(), key=lambda panel: (-len(panel.places), panel.metric)),
        failures=failures,
        failure_places=failure_places,
        launches=_launches(found, snapshot, first, end),
        strip=[(place, attempt.outcome) for place, attempt in enumerate(found)],
        by=by,
        groups=rates(found, by),
        choices=choices(own, Filter),
    )


def _best(attempts: Sequence[Attempt], metric: str, first: int) -> list[Stretch]:
    """Stretches that reach to `first` or beyond it."""
    found: list[Stretch] = []
    production, sure = "", 0.0
    for place, attempt in enumerate(attempts):
        if attempt.production != production:
            production, sure = attempt.production, 0.0
            if found:
                found[-1].end = place
            found.append(Stretch(begin=place, end=len(attempts), steps=[(place, 0.0)]))
        comparison = attempt.comparison
        if comparison is None or comparison["metric"] != metric or attempt.outcome != "better":
            continue
        gain = -comparison["high"] if comparison["lower_is_better"] else comparison["low"]
        if gain > sure:
            sure = gain
            found[-1].steps.append((place, gain))
    return [each for each in found if each.end >= first]


def _launches(attempts: Sequence[Attempt], snapshot: Snapshot, first: int, end: int) -> list[Launch]:
    found: list[Launch] = []
    before = ""
    for place, attempt in enumerate(attempts[:end]):
        if attempt.production != before:
            before = attempt.production
            version = snapshot.version_of.get(before)
            found.append(Launch(place=max(place, first), production=before, version=version))
    inside = [each for each in found if each.place > first]
    return [*found[: len(found) - len(inside)][-1:], *inside]
