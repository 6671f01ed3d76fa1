"""attempt: one candidate whole: what was asked and answered, checked, changed, measured, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from evorank.graph.state import Attempt, Imported, Inspected, Origin, Usage
from evorank.model.system import Phi
from evorank.ui.source import Snapshot
from evorank.ui.views.common import AttemptLine, View, attempt_line
from evorank.ui.views.difference import Difference, side_by_side

__all__ = ["AttemptView", "Code", "FindingLine", "Measured", "Query", "attempt_view"]


OF_LABEL = ("loss", "auc", "gauc", "ndcg", "calibration")
"""Metrics that are measured against the label which a Φ learns: those of two rewards are not compared."""


class FindingLine(View):
    """What a check or the linter found on the last delta."""

    pointer: str
    rule: str
    value: str
    hint: str


class Review(View):
    """What the linter said of a delta."""

    verdict: str
    findings: list[str]


class Query(View):
    """A SQL question that was asked before the proposal, and its answer."""

    sql: str
    columns: list[str]
    rows: list[list[str]]
    error: str | None
    finding: str = Field(description="What the persona read out of it")


class Code(View):
    """Source that the candidate brings."""

    name: str
    kind: str
    source: str


class Measured(View):
    """One number of both arms. null: it could not be measured."""

    name: str
    production: float | None
    candidate: float | None
    difference: float | None = Field(
        default=None, description="Candidate minus production; null: a clock or a count, or not comparable"
    )
    low: float | None = Field(default=None, description="Of its 95% interval")
    high: float | None = None
    own_label: bool = Field(
        default=False, description="Each arm was measured against a label of its own: not to be compared"
    )


class AttemptView(View):
    """An attempt of the journal."""

    line: AttemptLine
    surface: str
    data_version: str
    fingerprint: str | None
    base: str
    seed: int
    repairs: int = Field(description="How often CODE was asked again")
    origin: Origin | None
    imported: Imported | None
    findings: list[FindingLine]
    inspections: list[Inspected] = Field(description="What people said of it before it was measured")
    reviews: list[Review] = Field(description="What the linter said of each delta it saw")
    steering: list[tuple[str, str]] = Field(description="Id and text of directives that were in its prompts")
    queries: list[Query]
    patch: list[dict[str, Any]] = Field(description="RFC 6902 operations against `base`")
    against_production: list[dict[str, Any]] = Field(description="The same candidate against production")
    differences: list[Difference]
    code: list[Code]
    margin: float | None
    seeds: int | None
    rows: int | None = Field(description="Impressions that both arms were scored on")
    effort: str | None
    measured: list[Measured]
    curves: dict[str, list[tuple[float, float]]] = Field(
        description="`candidate` and `production`: rows seen, mean training loss; also where it was given up"
    )
    cost: Usage
    children: list[AttemptLine] = Field(description="Attempts that began at this one's Φ")
    phi: dict[str, Any] | None


def attempt_view(
    attempt: Attempt,
    snapshot: Snapshot,
    phi: Callable[[str], Phi | None] | None = None,
) -> AttemptView:
    """`phi`: the Φ with a fingerprint, where the snapshot does not have it."""
    find = phi or snapshot.phi_of.get
    comparison = attempt.comparison or {}
    children = [
        attempt_line(each, snapshot)
        for each in snapshot.attempts
        if attempt.fingerprint and each.base == attempt.fingerprint and each.id != attempt.id
    ]
    return AttemptView(
        line=attempt_line(attempt, snapshot),
        surface=attempt.surface,
        data_version=attempt.data_version,
        fingerprint=attempt.fingerprint,
        base=attempt.base,
        seed=attempt.seed,
        repairs=attempt.repairs,
        origin=attempt.origin,
        imported=attempt.imported,
        findings=[
            FindingLine(
                pointer=str(each.get("pointer", "")),
                rule=str(each.get("rule", "")),
                value="" if each.get("value") is None else str(each["value"]),
                hint=str(each.get("hint", "")),
            )
            for each in attempt.findings
        ],
        inspections=attempt.inspections,
        reviews=[
            Review(verdict=str(each["verdict"]), findings=[str(said) for said in each.get("findings", ())])
            for each in attempt.reviews
        ],
        steering=[(each, _directive(each, snapshot)) for each in attempt.steering],
        queries=[_query(each) for each in attempt.insights],
        patch=attempt.patch,
        against_production=attempt.changes,
        differences=_differences(attempt, snapshot, find),
        code=_code(attempt),
        margin=comparison.get("margin"),
        seeds=len(comparison["seeds"]) if comparison else None,
        rows=comparison.get("rows"),
        effort=comparison.get("effort"),
        measured=_measured(comparison),
        curves={
            arm: [(float(rows), float(loss)) for rows, loss in points]
            for arm, points in (comparison.get("curves") or attempt.curves).items()
        },
        cost=attempt.usage,
        children=children,
        phi=attempt.phi,
    )


def _differences(attempt: Attempt, snapshot: Snapshot, find: Callable[[str], Phi | None]) -> list[Difference]:
    if attempt.phi is None:
        return []
    version = snapshot.version_of.get(attempt.production)
    production = f"production, version {version}" if version else "production"
    parent = next((each for each in snapshot.attempts if each.fingerprint == attempt.base and each.phi), None)
    wanted: list[tuple[str, str, str, str | None]] = [("production", attempt.production, production, None)]
    if attempt.base and attempt.base != attempt.production:
        name = f"step {parent.step} of run {parent.run}" if parent else attempt.base[:12]
        wanted.insert(0, ("parent", attempt.base, name, parent.id if parent else None))
    found = []
    for against, mark, name, identifier in wanted:
        other = find(mark)
        fields, same = side_by_side(other, attempt.phi) if other is not None else ([], 0)
        found.append(
            Difference(
                against="parent" if against == "parent" else "production",
                name=name,
                attempt=identifier,
                known=other is not None,
                fields=fields,
                same=same,
            )
        )
    return found


def _code(attempt: Attempt) -> list[Code]:
    """What the delta brings, whatever the system calls it: every value with a `source`."""
    found = []
    for change in attempt.patch:
        value = change.get("value")
        if isinstance(value, Mapping) and isinstance(value.get("source"), str):
            name = str(change.get("path", "")).rsplit("/", 1)[-1]
            found.append(Code(name=name, kind=str(value.get("kind", "")), source=value["source"]))
        elif str(change.get("path", "")).endswith("/source") and isinstance(value, str):
            name = str(change["path"]).split("/")[-2]
            found.append(Code(name=name, kind="", source=value))
    return found


def _measured(comparison: Mapping[str, Any]) -> list[Measured]:
    one, two = comparison.get("production") or {}, comparison.get("candidate") or {}
    rewards = comparison.get("metric") == "alignment"
    main = {name: comparison.get(name) for name in ("difference", "low", "high")}
    known = {"alignment" if rewards else "loss": main} | (comparison.get("others") or {})
    return [
        Measured(
            name=name,
            production=one.get(name),
            candidate=two.get(name),
            own_label=rewards and name in OF_LABEL,
            **known.get(name, {}),
        )
        for name in one
        if one.get(name) is not None or two.get(name) is not None
    ]


def _directive(identifier: str, snapshot: Snapshot) -> str:
    """Its text; a sentence of the run's own settings has no row."""
    return next((each.text for each in snapshot.directives if each.id == identifier), "")


def _query(insight: Mapping[str, Any]) -> Query:
    """The tables that agents are shown are Markdown; a page shows cells."""
    lines = [line for line in str(insight.get("table") or "").splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]
    return Query(
        sql=str(insight.get("query", "")),
        columns=cells[0] if cells else [],
        rows=cells[2:],
        error=insight.get("error"),
        finding=str(insight.get("finding") or ""),
    )
