"""tree: the graph of launches and attempts. Time goes down the trunk of production versions; beside each
version stand the candidates that were compared with it."""

from __future__ import annotations

from itertools import pairwise

from markupsafe import Markup

from evorank.ui.charts import Link, tip
from evorank.ui.svg import dot, figure, group, line, mark, number, path, signed, text
from evorank.ui.views.common import AttemptLine
from evorank.ui.views.lineage import Lineage, Step

__all__ = ["tree"]

TRUNK, LEFT, ROW, GAP = 34.0, 216.0, 34.0, 34.0
Places = dict[str, tuple[float, float]]


def tree(view: Lineage, link: Link, width: float = 960) -> Markup:
    """Candidates by outcome, a ring around those that people saw, a branch to what began at them, and a line
    from each winner to the version that it became."""
    most = max((len(each.candidates) for each in view.generations), default=1)
    cell = max(24.0, min(40.0, (width - LEFT - 16) / max(most, 1)))
    columns = int((width - LEFT - 16) // cell)
    top, nodes, places = 34.0, dict[str, float](), Places()
    notes: list[Markup] = []
    for generation in view.generations:
        nodes[generation.fingerprint] = top
        for order, candidate in enumerate(generation.candidates):
            places[candidate.id] = (
                LEFT + cell * (order % columns + 0.5),
                top + ROW * (order // columns),
            )
        rows = max(1, -(-len(generation.candidates) // columns))
        if generation.hidden:
            notes.append(text(LEFT, top + ROW * rows, f"and {generation.hidden} that led nowhere", "note"))
            rows += 1
        top += ROW * rows + GAP
    branches = [
        _branch(places[parent], places[child])
        for each in view.generations
        for child, parent in each.parents.items()
        if parent in places
    ]
    marks = [
        _candidate(each, places[each.id], link)
        for generation in view.generations
        for each in generation.candidates
    ]
    count = f"{len(view.steps)} production versions, {len(marks)} candidates"
    told = f"{count}. A ring marks those that were tested live."
    drawn = [*notes, *branches, *_trunk(view, nodes, places), *marks]
    return figure(
        width, top - GAP / 2, "Lineage of launches and attempts", told, drawn, "lineage", linked=True
    )


def _candidate(candidate: AttemptLine, place: tuple[float, float], link: Link) -> Markup:
    parts = [mark(candidate.outcome, *place, 5)]
    said = tip(candidate)
    if candidate.live:
        parts.insert(0, dot(*place, 10, f"ring r-{candidate.result}"))
    if candidate.experiment:
        said = f"{said}; live test: {candidate.result}"
    return group(parts, said, link(candidate.id))


def _trunk(view: Lineage, nodes: dict[str, float], places: Places) -> list[Markup]:
    """Versions from the first to today's. A Φ that came back stands where it first stood."""
    drawn: list[Markup] = []
    way = [each for each in view.steps if each.fingerprint in nodes]
    for before, step in pairwise(way):
        drawn.append(line(TRUNK, nodes[before.fingerprint], TRUNK, nodes[step.fingerprint], "trunk"))
    drawn += [
        _winner(places[step.attempt], nodes[step.fingerprint]) for step in way if step.attempt in places
    ]
    for mark_, y in nodes.items():
        mine = [step for step in way if step.fingerprint == mark_]
        if mine:
            serves = view.steps[-1].fingerprint == mark_
            drawn += _version(mine, y, serves)
    return drawn


def _version(steps: list[Step], y: float, serves: bool) -> list[Markup]:
    names = ", ".join(f"v{step.version}" for step in steps)
    said = f"{names}{', serving now' if serves else ''}: {steps[0].why[:200]}"
    parts = [
        dot(TRUNK, y, 15, "version serving" if serves else "version"),
        text(TRUNK, y + 4, f"v{steps[-1].version}", "version-name", "middle"),
    ]
    drawn = [group(parts, said)]
    gains = [each for each in steps[0].effects if each.role == "success" and each.lift is not None]
    for order, effect in enumerate(gains[:2]):
        shown = f"{effect.metric.replace('_', ' ')} {signed(effect.lift or 0.0, percent=True)}"
        place = y + 4 + 14 * (order - (len(gains[:2]) - 1) / 2)
        drawn.append(text(TRUNK + 24, place, shown, f"note {effect.verdict}"))
    return drawn


def _winner(candidate: tuple[float, float], y: float) -> Markup:
    """From a winner down to the version it became."""
    x, above = candidate
    half = (above + y) / 2 + 4
    d = f"M{number(x)} {number(above + 10)} C{number(x)} {number(half)} {number(x)} {number(half)}"
    return path(f"{d} {number(x - 18)} {number(half)} H{number(TRUNK)}", "launch-line")


def _branch(parent: tuple[float, float], child: tuple[float, float]) -> Markup:
    """An arc within a row, a curve between two."""
    (x1, y1), (x2, y2) = parent, child
    if y1 == y2:
        middle, lift = (x1 + x2) / 2, y1 - 16 - min(12.0, abs(x2 - x1) / 18)
        d = f"M{number(x1)} {number(y1 - 7)} Q{number(middle)} {number(lift)} {number(x2)} {number(y2 - 7)}"
    else:
        d = f"M{number(x1)} {number(y1 + 7)} C{number(x1)} {number(y1 + 18)}"
        d += f" {number(x2)} {number(y2 - 20)} {number(x2)} {number(y2 - 7)}"
    return path(d, "branch")
