"""inspection: a candidate that waits for a person before it is measured, and what it would change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import Field

from evorank.model.delta import apply_delta
from evorank.model.errors import RefusedDelta
from evorank.model.system import Phi
from evorank.ui.source import Snapshot
from evorank.ui.views.common import View, in_words
from evorank.ui.views.difference import Difference, side_by_side

__all__ = ["InspectionView", "Waiting", "inspection_view", "waiting"]


class Waiting(View):
    """A candidate that nobody has looked at yet."""

    attempt: str
    run: str
    step: int
    persona: str
    category: str | None
    hypothesis: str
    change: str
    asked_at: str


class InspectionView(View):
    """The same whole."""

    line: Waiting
    surface: str
    base: str
    patch: list[dict[str, Any]] = Field(description="Against `base`: what an edit replaces")
    findings: list[str] = Field(description="Why an edited delta is asked about again")
    difference: Difference


def waiting(snapshot: Snapshot) -> list[Waiting]:
    """Oldest first."""
    return [_line(about) for about in snapshot.inspections]


def inspection_view(
    about: Mapping[str, Any], snapshot: Snapshot, phi: Callable[[str], Phi | None] | None = None
) -> InspectionView:
    """`phi`: the Φ with a fingerprint, where the snapshot does not have it."""
    base = str(about["base"])
    before = (phi or snapshot.phi_of.get)(base)
    after = None
    if before is not None:
        try:
            after = apply_delta(before, list(about["patch"]))
        except RefusedDelta:  # an edit that does not fit: `findings` say why
            after = None
    known = before is not None and after is not None
    fields, same = side_by_side(before, after) if before is not None and after is not None else ([], 0)
    version = snapshot.version_of.get(base)
    return InspectionView(
        line=_line(about),
        surface=snapshot.surface,
        base=base,
        patch=list(about["patch"]),
        findings=[
            f"{each.get('pointer', '')} {each.get('rule', '')}. {each.get('hint', '')}".strip()
            for each in about.get("findings", ())
        ],
        difference=Difference(
            against="production" if version else "parent",
            name=f"production, version {version}" if version else base[:12],
            known=known,
            fields=fields,
            same=same,
        ),
    )


def _line(about: Mapping[str, Any]) -> Waiting:
    kept = {name: about[name] for name in ("attempt", "run", "step", "persona", "category", "hypothesis")}
    change = in_words(about.get("changes") or about["patch"])
    return Waiting(**kept, change=change, asked_at=str(about["asked_at"]))
