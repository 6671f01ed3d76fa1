"""ablation: the picture of an ablation, as an SVG file that stands alone."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from evorank.graph.ablation import Ablation, Estimate, Line
from evorank.ui.svg import Box, Scale, figure, levels, line, path, points, text, ticks

__all__ = ["picture"]

WIDTH, HEIGHT = 860.0, 400.0
ROOM = Box(left=64.0, top=46.0, right=690.0, bottom=352.0)
GAP = 15.0
"""Pixels between two names at the right."""
STYLE = """
svg { font: 12px system-ui, sans-serif; background: #fff; }
text { fill: #3c454e; } .name { font-weight: 600; }
.title { font-size: 14px; font-weight: 600; fill: #16191d; }
.grid, .zero { stroke: #e2e5e9; } .zero { stroke: #76808b; }
.curve { fill: none; stroke-width: 2; } .band { stroke: none; opacity: 0.1; }
.v0 { stroke: #0b66ad; } .v1 { stroke: #b8400a; stroke-dasharray: 7 3; }
.v2 { stroke: #00735a; stroke-dasharray: 2 3; }
.v3 { stroke: #81428f; stroke-dasharray: 9 3 2 3; } .v4 { stroke: #8f5a00; stroke-dasharray: 1 4; }
.b0 { fill: #0b66ad; } .b1 { fill: #b8400a; } .b2 { fill: #00735a; } .b3 { fill: #81428f; }
.b4 { fill: #8f5a00; }
"""
"""Light in any room: it is for a README or a paper. Dashes tell lines apart where colours do not."""
KINDS = 5


def picture(found: Ablation) -> str:
    """Mean over runs of the best validation loss so far, minus production's, in percent of it; bands are 95%
    intervals. One line a variant."""
    curves = {line.variant: [Estimate(mean=1.0), *line.curve] for line in found.lines}
    ends = [
        end - 1.0 for curve in curves.values() for each in curve for end in (each.low or each.mean, each.mean)
    ]
    x = Scale(0.0, float(found.ideas), ROOM.left, ROOM.right)
    y = Scale(min(ends, default=-0.01), 0.0, ROOM.bottom, ROOM.top)
    drawn = [*levels(ROOM, y, percent=True), *_ideas(x)]
    for place, own in enumerate(found.lines):
        drawn += _curve(place % KINDS, curves[own.variant], x, y)
    drawn += _names(found.lines, y)
    title = f"{found.study}: best loss so far, minus production's"
    drawn.insert(0, text(ROOM.left, 22, title, "title"))
    told = ", ".join(_end(own) for own in found.lines)
    drawn.append(text(ROOM.left, HEIGHT - 12, _under(found), "note"))
    svg = str(figure(WIDTH, HEIGHT, title, f"After {found.ideas} ideas: {told}", drawn))
    alone = svg.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return alone.replace("<desc>", f"<style>{STYLE}</style><desc>", 1) + "\n"


def _under(found: Ablation) -> str:
    runs = "1 run" if found.runs == 1 else f"{found.runs} independent runs, bands: 95% intervals of the mean"
    return f"ideas tried; surface {found.surface}, proposals by {found.model}, {runs}"


def _ideas(x: Scale) -> list[Markup]:
    return [
        text(x(value), ROOM.bottom + 16, f"{value:g}", "tick", "middle") for value in ticks(x.low, x.high, 7)
    ]


def _curve(kind: int, curve: Sequence[Estimate], x: Scale, y: Scale) -> list[Markup]:
    means = [(x(place), y(each.mean - 1.0)) for place, each in enumerate(curve)]
    upper = [(x(p), y.clamp((e.mean if e.high is None else e.high) - 1.0)) for p, e in enumerate(curve)]
    lower = [(x(p), y.clamp((e.mean if e.low is None else e.low) - 1.0)) for p, e in enumerate(curve)]
    band = path(points([*upper, *reversed(lower)], closed=True), f"band b{kind}")
    return [band, path(points(means), f"curve v{kind}")]


def _names(lines: Sequence[Line], y: Scale) -> list[Markup]:
    """At the end of each line, moved apart where they would cover each other."""
    drawn, last = [], float("-inf")
    for place, own in sorted(enumerate(lines), key=lambda pair: y(pair[1].best.mean - 1.0)):
        end = y(own.best.mean - 1.0)
        last = max(end, last + GAP)
        drawn.append(line(ROOM.right, end, ROOM.right + 10, last, f"curve v{place % KINDS}"))
        drawn.append(text(ROOM.right + 14, last + 4, _end(own), "name"))
    return drawn


def _end(own: Line) -> str:
    change = f"{own.best.mean - 1:+.2%}".replace("-", "−")
    return f"{own.variant} {change}"
