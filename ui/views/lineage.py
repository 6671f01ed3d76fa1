"""lineage: which candidate came of which, and the walk from the first production Φ to today's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from evorank.graph.state import Attempt
from evorank.model.delta import diff
from evorank.ui.source import Snapshot
from evorank.ui.views.common import (
    WINS,
    AttemptLine,
    EffectLine,
    View,
    attempt_line,
    effect_line,
    in_words,
    plan_metrics,
)

__all__ = ["Generation", "Lineage", "Step", "Total", "lineage"]

SHOWN, AT_LEAST = 600, 24
"""Candidates that are drawn in all, and under one production version at least; those that lead nowhere are
left out first."""


class Step(View):
    """A production version on the walk from the first to today's."""

    version: int
    fingerprint: str
    at: datetime
    experiment: str | None
    attempt: str | None
    why: str
    change: str
    patch: list[dict[str, Any]] = Field(description="Against the version before")
    effects: list[EffectLine] = Field(description="What its live test said, against its production then")
    returned: bool = Field(description="A Φ that served before: a rollback")


class Generation(View):
    """The candidates that were compared with one production Φ."""

    version: int | None
    fingerprint: str
    candidates: list[AttemptLine]
    parents: dict[str, str] = Field(description="Attempt -> the attempt of this generation it began at")
    hidden: int = Field(description="Candidates that led nowhere and are not drawn")


class Total(View):
    """What the launches' own tests add up to, for one metric; the audit says what came of it."""

    metric: str
    higher_is_better: bool
    lift: float = Field(description="Product of (1 + lift) of all launches, minus 1")
    launches: int


class Lineage(View):
    """Attempts and launches of a surface."""

    surface: str
    steps: list[Step]
    generations: list[Generation]
    sum: list[dict[str, Any]] = Field(description="One JSON Patch from the first Φ to today's")
    sum_in_words: str
    totals: list[Total] = Field(
        description="Winners' estimates promise too much: only what looked good was launched"
    )


def lineage(snapshot: Snapshot) -> Lineage:
    versions = snapshot.versions
    steps: list[Step] = []
    for number, version in enumerate(versions):
        before = versions[number - 1] if number else None
        test = snapshot.experiment_of.get(version.experiment or "")
        launched = test is not None and test.version == version.version
        patch = diff(before.phi, version.phi) if before else []
        metrics = plan_metrics(test) if test else {}
        steps.append(
            Step(
                version=version.version,
                fingerprint=version.fingerprint,
                at=version.at,
                experiment=version.experiment,
                attempt=test.attempt if test and launched else None,
                why=version.why,
                change=in_words(patch, 400),
                patch=patch,
                effects=[line for each in test.effects for line in effect_line(each, metrics)]
                if test and launched
                else [],
                returned=number > 0 and not launched,
            )
        )
    total = diff(versions[0].phi, versions[-1].phi) if versions else []
    return Lineage(
        surface=snapshot.surface,
        steps=steps,
        generations=_generations(snapshot),
        sum=total,
        sum_in_words=in_words(total, 2000),
        totals=_totals(steps),
    )


def _generations(snapshot: Snapshot) -> list[Generation]:
    groups: dict[str, list[Attempt]] = {each.fingerprint: [] for each in snapshot.versions}
    for attempt in snapshot.attempts:
        if attempt.imported is None:
            groups.setdefault(attempt.production, []).append(attempt)
    found = []
    for production, attempts in groups.items():
        owner = {each.fingerprint: each.id for each in attempts if each.fingerprint}
        parents = {
            each.id: owner[each.base]
            for each in attempts
            if each.base in owner and owner[each.base] != each.id
        }
        drawn = _worth_drawing(attempts, parents, snapshot, max(AT_LEAST, SHOWN // len(groups)))
        known = {each.id for each in drawn}
        found.append(
            Generation(
                version=snapshot.version_of.get(production),
                fingerprint=production,
                candidates=[attempt_line(each, snapshot) for each in drawn],
                parents={child: parent for child, parent in parents.items() if child in known},
                hidden=len(attempts) - len(drawn),
            )
        )
    return found


def _worth_drawing(
    attempts: Sequence[Attempt], parents: dict[str, str], snapshot: Snapshot, room: int
) -> Sequence[Attempt]:
    """All where they are few; else first those that were tested live or led on, then winners, then the
    newest."""
    if len(attempts) <= room:
        return attempts
    led = set(parents.values())
    rank = {
        each.id: (each.id in snapshot.tested, each.id in led, each.outcome in WINS, place)
        for place, each in enumerate(attempts)
    }
    kept = set(sorted(rank, key=lambda each: rank[each], reverse=True)[:room])
    return [each for each in attempts if each.id in kept]


def _totals(steps: Sequence[Step]) -> list[Total]:
    """Over what serves today: a launch that was rolled back is not on the way to it."""
    way: list[Step] = []
    for step in steps:
        if step.returned:
            earlier = next(
                (place for place, each in enumerate(way) if each.fingerprint == step.fingerprint), None
            )
            way = way[: earlier + 1] if earlier is not None else way
        else:
            way.append(step)
    lines: dict[str, list[EffectLine]] = {}
    for step in way:
        for effect in step.effects:
            if effect.role == "success" and effect.lift is not None:
                lines.setdefault(effect.metric, []).append(effect)
    return [
        Total(
            metric=metric,
            higher_is_better=found[0].higher_is_better,
            lift=math.prod(1 + (each.lift or 0.0) for each in found) - 1,
            launches=len(found),
        )
        for metric, found in lines.items()
    ]
