"""charts: pictures of many candidates, as SVG that needs no script: view models in, markup out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from markupsafe import Markup

from evorank.ui.svg import (
    Box,
    Scale,
    box,
    columns,
    dot,
    figure,
    group,
    levels,
    line,
    mark,
    number,
    path,
    signed,
    text,
    ticks,
)
from evorank.ui.views.common import OUTCOMES, WINS, AttemptLine
from evorank.ui.views.compare import Side
from evorank.ui.views.progress import Panel, Progress
from evorank.ui.views.rates import Rate

__all__ = [
    "Link",
    "failures",
    "interval_text",
    "mark",
    "outcomes",
    "progress",
    "rate",
    "strip",
    "swarm",
    "tip",
]

Link = Callable[[str], str | None]
"""Id -> where it is shown, None: nowhere."""
NEWEST = 300
"""Candidates of a side that a swarm shows."""
CROWDED = 120
"""From so many candidates on, only winners show their intervals."""
ORDER = ("better", "cheaper", "equal", "inconclusive", "worse", "duplicate", "refused", "failed")


def interval_text(line: AttemptLine) -> str:
    """`−0.0123 [−0.0150, −0.0098]`, in the metric's own direction."""
    if line.difference is None or line.low is None or line.high is None:
        return "not compared"
    return f"{signed(line.difference)} [{signed(line.low)}, {signed(line.high)}]"


def tip(candidate: AttemptLine) -> str:
    """What is said of a mark."""
    shown = candidate.reason[:120] if candidate.difference is None else interval_text(candidate)
    who = f"{candidate.outcome}, step {candidate.step}, {candidate.persona}"
    return f"{who}: {candidate.change[:120]} ({shown})"


def progress(view: Progress, panel: Panel, link: Link, width: float = 960, height: float = 290) -> Markup:
    """Gain over production of every candidate in its order, with its interval; more is up."""
    room, x = _places(view, width, 26, height - 30)
    y = Scale(*_range(panel), room.bottom, room.top)
    drawn = levels(room, y)
    for launch in view.launches:
        name = f"v{launch.version}" if launch.version else launch.production[:6]
        at = max(room.left, x(launch.place - 0.5))
        if at > room.left:
            drawn.append(line(at, room.top - 8, at, room.bottom, "launch"))
        drawn.append(text(at + 5, room.top - 10, f"against {name}", "note launched"))
    drawn.append(path(_surely_gained(panel, x, y, room), "best"))
    crowded = len(panel.candidates) > CROWDED
    for place, candidate in zip(panel.places, panel.candidates, strict=True):
        parts = [] if crowded and candidate.outcome not in WINS else _whisker(candidate, x(place), y)
        estimate = candidate.gain[1] if candidate.gain else 0.0
        parts.append(mark(candidate.outcome, x(place), y.clamp(estimate), 3.2 if crowded else 4.5))
        drawn.append(group(parts, tip(candidate), link(candidate.id)))
    for value in ticks(x.low, x.high, 10):
        if value >= 0 and value == int(value):
            drawn.append(text(x(value), room.bottom + 18, int(value) + 1, "tick", "middle"))
    won = sum(each.outcome in WINS for each in panel.candidates)
    told = (
        f"{len(panel.candidates)} candidates, {won} of them won. More is up; whiskers are 95% intervals; the "
        "line is what is surely gained so far, and begins anew with each launch."
    )
    title = f"Gain in {panel.metric.replace('_', ' ')} over production, candidate by candidate"
    return figure(width, height, title, told, drawn, "progress", linked=True)


def failures(view: Progress, link: Link, width: float = 960) -> Markup:
    """The candidates that were never compared, a mark each, under the same axis."""
    room, x = _places(view, width, 2, 20)
    drawn = [text(room.left - 8, 14, "no result", "tick", "end")]
    for place, candidate in zip(view.failure_places, view.failures, strict=True):
        drawn.append(group([mark(candidate.outcome, x(place), 10, 3.8)], tip(candidate), link(candidate.id)))
    count = len(view.failures)
    told = f"{count} candidates without a comparison: stopped early, refused, failed, or tried before."
    return figure(width, 22, "Candidates without a comparison", told, drawn, "strip", linked=True)


def strip(view: Progress, width: float = 960) -> Markup:
    """All candidates, however many: a line each by outcome, and a frame around those that are drawn above."""
    room = Box(64, 2, width - 16, 20)
    x = Scale(0, max(view.total, 1), room.left, room.right)
    ways: dict[str, list[str]] = {}
    for place, outcome in view.strip:
        ways.setdefault(outcome, []).append(f"M{number(x(place))} 4v12")
    drawn = [path("".join(d), f"tickmark o-{outcome}") for outcome, d in ways.items()]
    left, right = x(view.first), x(min(view.total, view.first + view.window))
    drawn.append(box(left, 1, right - left, 18, "window"))
    return figure(width, 22, "All candidates", f"{view.total} candidates by outcome.", drawn, "strip")


def outcomes(found: Rate, width: float = 120, height: float = 12) -> Markup:
    """What became of the attempts, as one bar."""
    drawn, left = [], 0.0
    for outcome in ORDER:
        if count := found.outcomes.get(outcome, 0):
            span = width * count / found.tried
            bar = box(left, 0, max(span - 1, 0.8), height, f"fill o-{outcome}")
            drawn.append(group([bar], f"{count} {outcome}"))
            left += span
    told = ", ".join(f"{found.outcomes[each]} {each}" for each in OUTCOMES if each in found.outcomes)
    return figure(width, height, f"Outcomes of {found.name}", told, drawn, "bar")


def rate(found: Rate, width: float = 110, height: float = 14) -> Markup:
    """The share that won with its interval, on 0 to 100%."""
    x, y = Scale(0, 1, 4, width - 4), height / 2
    drawn = [
        line(4, y, width - 4, y, "grid"),
        line(x(found.low), y, x(found.high), y, "interval now"),
        dot(x(found.share), y, 3.5, "estimate now"),
    ]
    told = f"{found.share:.0%} of {found.tried} won, 95% interval {found.low:.0%} to {found.high:.0%}"
    return figure(width, height, f"Pass rate of {found.name}", told, drawn, "bar")


def swarm(sides: Sequence[Side], metric: str, link: Link, width: float = 760) -> Markup:
    """The gains of some sides in one metric, a mark for each candidate; more is to the right."""
    depth, step = 74.0, 9.0
    room = Box(150, 10, width - 20, 10 + depth * len(sides))
    gains = sorted(
        each.gain[1] for side in sides for each in side.candidates.get(metric, ()) if each.gain is not None
    )
    if not gains:
        return Markup()
    cut = len(gains) // 33
    low, high = min(0.0, gains[cut]), max(0.0, gains[-1 - cut])
    pad = 0.08 * ((high - low) or 1.0)
    x = Scale(low - pad, high + pad, room.left, room.right)
    drawn = columns(room, x)
    for number_, side in enumerate(sides):
        middle = room.top + depth * (number_ + 0.5)
        drawn.append(text(room.left - 12, middle + 4, side.name[:20], "label", "end"))
        taken: dict[int, int] = {}
        for each in side.candidates.get(metric, [])[-NEWEST:]:
            if each.gain is None:
                continue
            column = round(x.clamp(each.gain[1]) / step)
            place = taken[column] = taken.get(column, 0) + 1
            shift = max(-32.0, min(32.0, place // 2 * (step if place % 2 else -step)))
            drawn.append(group([mark(each.outcome, column * step, middle + shift)], tip(each), link(each.id)))
    told = "; ".join(f"{side.name}: {len(side.candidates.get(metric, ()))} candidates" for side in sides)
    told = f"{told}. Of each, the newest {NEWEST} are drawn."
    return figure(width, room.bottom + 22, f"Gain in {metric} by side", told, drawn, linked=True)


def _places(view: Progress, width: float, top: float, bottom: float) -> tuple[Box, Scale]:
    """Room for the window of candidates that is drawn, and where each stands."""
    room = Box(64, top, width - 16, bottom)
    count = min(view.window, max(view.total, view.first + 1) - view.first)
    return room, Scale(view.first - 0.5, view.first + max(count, 12) - 0.5, room.left, room.right)


def _range(panel: Panel) -> tuple[float, float]:
    """Of what is drawn, but for a few estimates that are far out and whiskers that are far longer than most;
    always with zero and what is surely gained."""
    gains = [each.gain for each in panel.candidates if each.gain]
    estimates = sorted(estimate for _, estimate, _ in gains)
    cut = len(estimates) // 33
    shown = estimates[cut : len(estimates) - cut] or estimates
    if len(gains) <= CROWDED:
        long = 3.0 * median((high - low) / 2 for low, _, high in gains) if gains else 0.0
        whiskers = [(low, high) for low, estimate, high in gains if shown[0] <= estimate <= shown[-1]]
        middles = [((low + high) / 2, min((high - low) / 2, long)) for low, high in whiskers]
        shown = [*shown, *(middle + side * half for middle, half in middles for side in (-1, 1))]
    sure = [gain for stretch in panel.best for _, gain in stretch.steps]
    ends = [end for each in panel.candidates if each.outcome == "better" and each.gain for end in each.gain]
    low, high = min([0.0, *shown, *sure]), max([0.0, *shown, *sure, *ends])
    pad = 0.12 * (high - low or 1.0)
    return low - pad, high + pad


def _whisker(candidate: AttemptLine, at: float, y: Scale) -> list[Markup]:
    """The interval, with a bar at each end that is not cut off."""
    if candidate.gain is None:
        return []
    low, _, high = candidate.gain
    class_ = f"whisker o-{candidate.outcome}"
    drawn = [line(at, y.clamp(low), at, y.clamp(high), class_)]
    inside = [end for end in (low, high) if not y.outside(end)]
    return drawn + [line(at - 2.5, y(end), at + 2.5, y(end), class_) for end in inside]


def _surely_gained(panel: Panel, x: Scale, y: Scale, room: Box) -> str:
    """Steps from gain to gain, until production is another. Nothing is drawn while nothing is gained."""
    d = []
    for stretch in panel.best:
        end = min(x(stretch.end - 0.5), room.right)
        gained = [(max(room.left, x(place)), y.clamp(gain)) for place, gain in stretch.steps if gain > 0]
        for order, (px, py) in enumerate(gained):
            d.append(f"H{number(px)} V{number(py)}" if order else f"M{number(px)} {number(py)}")
        if gained:
            d.append(f"H{number(max(end, gained[-1][0]))}")
    return " ".join(d)
