"""report: what was tried, what won and why, what is not worth trying again, and how to repeat it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import Field

from evorank.graph.context import Context
from evorank.graph.state import Attempt
from evorank.tools.holdback import Audit
from evorank.ui.source import Run, Snapshot
from evorank.ui.views.common import (
    INVALID,
    WINS,
    AttemptLine,
    ExperimentLine,
    View,
    attempt_line,
    dotted,
    experiment_line,
)
from evorank.ui.views.lineage import Lineage, lineage
from evorank.ui.views.overview import AuditView, Overview, audit_view, overview
from evorank.ui.views.progress import Progress, progress

__all__ = ["Refusal", "Repeat", "Report", "Tried", "report"]

LISTED = 1000
"""Attempts that the report lists, the newest."""
SHOWN = 25
ENOUGH = 3
"""Attempts on a field after which it says something that none of them won."""


class Tried(View):
    """What came of changing one field of Φ."""

    path: str
    tried: int
    won: int
    worse: int = Field(description="Surely worse than production")
    example: AttemptLine


class Refusal(View):
    """Why candidates were never measured: what was wrong with them, or broke."""

    rule: str
    count: int
    example: AttemptLine


class Repeat(View):
    """How a run is done again."""

    run: str
    command: str
    created_at: str
    data_version: str
    production: str = Field(description="Fingerprint of the Φ that it began with")
    seed: int
    training_seeds: str
    versions: dict[str, str]


class Report(View):
    """One surface, or one run on it."""

    surface: str
    run: str | None
    overview: Overview
    audit: AuditView | None
    audit_problem: str
    progress: Progress
    lineage: Lineage
    winners: list[AttemptLine] = Field(description="What won on the proxy, the surest gain first")
    tests: list[ExperimentLine] = Field(description="Live tests that were decided, launches first")
    dead_ends: list[Tried] = Field(description="Fields that were tried often enough, and never won")
    worst: list[AttemptLine] = Field(
        description="What was surely worse: first what was given up while it trained, then the largest loss"
    )
    refusals: list[Refusal]
    attempts: list[AttemptLine]
    unlisted: int = Field(description="Older attempts that are not in the list")
    repeat: list[Repeat]


def report(
    snapshot: Snapshot,
    audit: Audit | None = None,
    problem: str = "",
    run: str | None = None,
) -> Report:
    """Of everything on the surface, or of what one run tried, proposed and spent; its launches and the audit
    are of the surface in any case. `problem`: why there is no audit."""
    part = snapshot if run is None else _of(run, snapshot)
    own = [attempt for attempt in part.attempts if attempt.imported is None]
    lines = [attempt_line(attempt, snapshot) for attempt in own]
    tests = [experiment_line(each, snapshot) for each in part.experiments if each.result]
    worse = [line for line in lines if line.outcome == "worse"]
    return Report(
        surface=snapshot.surface,
        run=run,
        overview=overview(part),
        audit=audit_view(audit, snapshot) if audit else None,
        audit_problem=problem,
        progress=progress(part),
        lineage=lineage(snapshot),
        winners=sorted((line for line in lines if line.outcome in WINS), key=_sure, reverse=True)[:SHOWN],
        tests=sorted(tests, key=lambda line: line.result != "launched"),
        dead_ends=_dead_ends(own, snapshot)[:SHOWN],
        worst=sorted(worse, key=lambda line: (line.gain is not None, _sure(line)))[:SHOWN],
        refusals=_refusals(own, snapshot)[:SHOWN],
        attempts=lines[-LISTED:][::-1],
        unlisted=max(0, len(lines) - LISTED),
        repeat=[_repeat(each, part) for each in part.runs],
    )


def _of(run: str, snapshot: Snapshot) -> Snapshot:
    return replace(
        snapshot,
        attempts=[each for each in snapshot.attempts if each.run == run],
        experiments=[each for each in snapshot.experiments if each.run == run],
        runs=[each for each in snapshot.runs if each.name == run],
        calls=[each for each in snapshot.calls if each.run == run],
    )


def _sure(line: AttemptLine) -> float:
    """The pessimistic end of the gain."""
    return line.gain[0] if line.gain else 0.0


def _dead_ends(attempts: Sequence[Attempt], snapshot: Snapshot) -> list[Tried]:
    """Fields by how often they were changed in vain, most first; of code, what it is."""
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.outcome in INVALID:
            continue
        for path in {_field(change) for change in attempt.changes}:
            groups.setdefault(path, []).append(attempt)
    found = []
    for path, tried in groups.items():
        if len(tried) < ENOUGH or any(attempt.outcome in WINS for attempt in tried):
            continue
        found.append(
            Tried(
                path=path,
                tried=len(tried),
                won=0,
                worse=sum(attempt.outcome == "worse" for attempt in tried),
                example=attempt_line(tried[-1], snapshot),
            )
        )
    return sorted(found, key=lambda each: (-each.worse, -each.tried, each.path))


def _field(change: Mapping[str, Any]) -> str:
    """`optimizer.args.lr`; named things of a part (layers, factors) are told apart by their names alone."""
    return ".".join(dotted(str(change.get("path", ""))).split(".")[:3])


def _refusals(attempts: Sequence[Attempt], snapshot: Snapshot) -> list[Refusal]:
    groups: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        if attempt.outcome in ("refused", "failed"):
            rules = {_rule(str(each.get("rule", ""))) for each in attempt.findings} or {attempt.reason[:120]}
            for rule in rules:
                groups.setdefault(rule, []).append(attempt)
    found = [
        Refusal(rule=rule, count=len(each), example=attempt_line(each[-1], snapshot))
        for rule, each in groups.items()
    ]
    return sorted(found, key=lambda each: (-each.count, each.rule))


def _rule(said: str) -> str:
    """Without what it quotes, so that what is the same but for an expression counts as one."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", said)


def _repeat(run: Run, snapshot: Snapshot) -> Repeat:
    """A run is planned before it looks what is served: its first attempt knows what it began with."""
    made = (each.production for each in snapshot.attempts if each.run == run.name)
    context = Context.model_validate(
        {name: value for name, value in run.plan.context.items() if name in Context.model_fields}
    )
    return Repeat(
        run=run.name,
        command=shlex.join(_command(context, run)),
        created_at=run.plan.created_at,
        data_version=run.plan.data_version,
        production=next(made, run.plan.production),
        seed=context.seed,
        training_seeds=f"0 to {context.seeds - 1}",
        versions=run.plan.versions,
    )


def _command(context: Context, run: Run) -> list[str]:
    """Only what differs from what `run` does by itself, and nothing of where it ran."""
    asked = ["python", "cli.py", "run", "--surface", context.surface, "--steps", str(run.plan.steps)]
    asked += ["--days", str(run.plan.days), "--seed", str(context.seed), "--seeds", str(context.seeds)]
    plain = Context()
    if context.parallel != plain.parallel:
        asked += ["--parallel", str(context.parallel)]
    if context.selection != plain.selection:
        asked += ["--selection", context.selection]
    asked += ["--model", context.model] if context.model else []
    for persona in context.personas or ():
        asked += ["--persona", persona]
    asked += ["--approve"] if context.approve else []
    asked += ["--replicate"] if context.replicate else []
    return asked
