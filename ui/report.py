"""report: the page's views as one file: HTML that needs nothing beside it, or Markdown for a pull request."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from evorank.model.errors import EvorankError
from evorank.tools.holdback import Audit
from evorank.ui.render import STATIC, environment
from evorank.ui.source import Source
from evorank.ui.views.common import EffectLine
from evorank.ui.views.report import Report, report

__all__ = ["Format", "make_report", "write_html", "write_markdown"]

Format = Literal["html", "md"]


def make_report(source: Source, surface: str | None = None, run: str | None = None) -> Report:
    """Read a home. ConfigurationError: no such surface. What the platform cannot tell is said in it."""
    found = source.snapshot(surface)
    audit: Audit | None = None
    problem = ""
    try:
        audit = source.audit(found.surface)
    except EvorankError as error:
        problem = str(error)
    return report(found, audit, problem, run)


def write_html(made: Report) -> str:
    """One file, below 2 MB at 1,000 attempts: no script, no request; its policy allows its own style."""
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(f"\n{style}".encode()).digest()).decode()
    listed = {line.id for line in made.attempts}
    tested = {line.id for line in made.tests}
    return _render(
        "report.html.j2",
        view=made,
        style=style,
        policy=f"default-src 'none'; style-src 'sha256-{digest}'",
        now=made.overview.at,
        attempt_link=lambda mark: f"#a-{mark[:8]}" if mark in listed else None,
        experiment_link=lambda mark: f"#e-{mark[:8]}" if mark in tested else None,
    )


def write_markdown(made: Report) -> str:
    """Tables and text, short enough to be read in a pull request."""
    return _render("report.md.j2", view=made, forest=forest)


def forest(effects: Sequence[EffectLine], width: int = 44) -> str:
    """A forest plot in letters: a row each, one scale, zero as a line."""
    known = [
        (each, each.low, each.lift, each.high)
        for each in effects
        if each.low is not None and each.lift is not None and each.high is not None
    ]
    if not known:
        return "nothing was measured"
    low = min(0.0, *(each for _, each, _, _ in known))
    high = max(0.0, *(each for _, _, _, each in known))
    scale = (width - 1) / ((high - low) or 1.0)
    name = max(len(each.metric) for each, *_ in known)
    lines = []
    for each, first, lift, last in known:
        begin, middle, end, zero = (round((value - low) * scale) for value in (first, lift, last, 0.0))
        row = [" "] * width
        row[begin : end + 1] = "─" * (end + 1 - begin)
        row[zero] = "┼" if begin < zero < end else "│"
        row[begin], row[end], row[middle] = "├", "┤", "●"
        told = f"{lift:+7.1%} [{first:+.1%}, {last:+.1%}]".replace("-", "−")
        lines.append(f"{each.metric:<{name}}  {told:<26} {''.join(row)}".rstrip())
    return "\n".join(lines)


def _render(template: str, **given: Any) -> str:
    return environment().get_template(template).render(**given)
