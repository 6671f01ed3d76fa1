"""effects: pictures of what live tests and trainings measured: forest plot, guardrails over time, users by
arm, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup

from evorank.ui.svg import (
    Box,
    Scale,
    columns,
    dot,
    figure,
    group,
    levels,
    line,
    path,
    points,
    signed,
    text,
    ticks,
)
from evorank.ui.views.attempt import AttemptView
from evorank.ui.views.common import EffectLine
from evorank.ui.views.experiment import Day, Point, Series

__all__ = ["arms", "curves", "forest", "over_time"]


def forest(effects: Sequence[EffectLine], title: str, width: float = 760) -> Markup:
    """Relative effects with their intervals, a row each; zero, and for guardrails the margin."""
    known = [
        (each, each.low, each.lift, each.high)
        for each in effects
        if each.lift is not None and each.low is not None and each.high is not None
    ]
    depth = 38.0
    room = Box(max(122.0, min(190.0, width / 4)), 8, width - 142, 8 + depth * len(known))
    ends = [0.0, *(end for _, low, _, high in known for end in (low, high))]
    ends += [_worst(each) for each, *_ in known if each.margin]
    pad = 0.06 * ((max(ends) - min(ends)) or 0.02)
    x = Scale(min(ends) - pad, max(ends) + pad, room.left, room.right)
    drawn = columns(room, x, percent=True, count=max(3, int(room.width / 64)))
    told = []
    for number, (each, low, lift, high) in enumerate(known):
        y = room.top + depth * (number + 0.5)
        better = "more is better" if each.higher_is_better else "less is better"
        span = f"{signed(low, percent=True)} to {signed(high, percent=True)}"
        drawn.append(text(room.left - 14, y - 2, each.metric.replace("_", " "), "label", "end"))
        drawn.append(text(room.left - 14, y + 12, better, "note", "end"))
        if each.margin:
            drawn.append(line(x(_worst(each)), y - 12, x(_worst(each)), y + 12, "margin"))
        drawn.append(line(x(low), y, x(high), y, f"interval {each.verdict} {each.basis}"))
        drawn += [line(x(end), y - 5, x(end), y + 5, f"interval {each.verdict}") for end in (low, high)]
        drawn.append(dot(x(lift), y, 4.5, f"estimate {each.verdict}"))
        drawn.append(text(room.right + 14, y - 2, signed(lift, percent=True), f"value {each.verdict}"))
        drawn.append(text(room.right + 14, y + 12, span, "note"))
        told.append(f"{each.metric} {signed(lift, percent=True)}, {each.basis} interval {span}")
    said = "; ".join(told) or "Nothing was measured yet."
    return figure(width, room.bottom + 22, title, said, drawn, "forest")


def over_time(series: Series, width: float = 460, height: float = 220) -> Markup:
    """A guardrail day by day: estimate, sequential interval, margin, and the boundary that ends the test."""
    seen = [(point, point.lift) for point in series.points if point.lift is not None]
    if not seen:
        said = "Not read yet."
        return figure(width, 40, series.metric, said, [text(8, 24, said, "note")])
    room = Box(56, 14, width - 24, height - 28)
    x = Days([point.until for point, _ in seen], room)
    y = Scale(*_span(series, seen), room.bottom, room.top)
    drawn = levels(room, y, percent=True)
    banded = [(x(p.until), p.low, p.high) for p, _ in seen if p.low is not None and p.high is not None]
    if banded:
        upper = [(at, y.clamp(high)) for at, _, high in banded]
        lower = [(at, y.clamp(low)) for at, low, _ in reversed(banded)]
        drawn.append(path(points(upper + lower, closed=True), "band"))
    bounds = [
        (x(point.until), y(point.boundary))
        for point, _ in seen
        if point.boundary is not None and not y.outside(point.boundary)
    ]
    drawn.append(path(points(bounds), "boundary"))
    drawn.append(line(room.left, y(series.margin), room.right, y(series.margin), "margin"))
    shift = 12 if series.margin > 0 else -5
    drawn.append(text(room.right, y(series.margin) + shift, "margin", "note bad", "end"))
    drawn.append(path(points((x(point.until), y.clamp(lift)) for point, lift in seen), "estimate-line"))
    for point, lift in seen:
        spot = dot(x(point.until), y.clamp(lift), 3, f"estimate {'bad' if point.broken else 'now'}")
        drawn.append(group([spot], _told(point, lift)))
    drawn += _final(series, room.right + 10, y)
    drawn += x.ticks()
    said = f"{len(seen)} readings, margin {signed(series.margin, percent=True)}. Last: {_told(*seen[-1])}."
    return figure(width, height, f"{series.metric} over time", said, drawn, "effect")


def arms(days: Sequence[Day], width: float = 460, height: float = 170) -> Markup:
    """Users exposed to each arm so far, day by day."""
    room = Box(56, 14, width - 74, height - 28)
    x = Days([day.until for day in days], room)
    last = days[-1]
    most = max(last.control, last.candidate, 1)
    y = Scale(0, most * 1.08, room.bottom, room.top)
    drawn: list[Markup] = []
    for value in ticks(0, most, 4):
        drawn.append(line(room.left, y(value), room.right, y(value), "grid" if value else "zero"))
        drawn.append(text(room.left - 8, y(value) + 3.5, f"{value:,.0f}", "tick", "end"))
    heights = {"control": y(last.control), "candidate": y(last.candidate)}
    upper = min(heights, key=lambda name: heights[name])
    near = abs(heights["control"] - heights["candidate"]) < 14
    for name in heights:
        drawn.append(path(points((x(day.until), y(getattr(day, name))) for day in days), f"curve {name}"))
        shift = (-5 if name == upper else 9) if near else 4
        drawn.append(text(room.right + 2, heights[name] + shift, name, f"note {name}"))
    drawn += x.ticks()
    said = f"{last.control:,} users in control, {last.candidate:,} in candidate on {last.until:%Y-%m-%d}."
    return figure(width, height, "Users exposed to each arm", said, drawn)


def curves(view: AttemptView, width: float = 460, height: float = 220) -> Markup:
    """Training loss of both arms against the rows they saw."""
    known = [(name, view.curves[name]) for name in ("production", "candidate") if view.curves.get(name)]
    losses = sorted(loss for _, curve in known for _, loss in curve)
    # The first points of a training are far above everything that matters.
    low, high = losses[0], losses[min(len(losses) - 1, int(0.95 * len(losses)))]
    pad = 0.05 * ((high - low) or 1.0)
    room = Box(56, 14, width - 82, height - 28)
    x = Scale(0, max(rows for _, curve in known for rows, _ in curve), room.left, room.right)
    y = Scale(low - pad, high + pad, room.bottom, room.top)
    drawn: list[Markup] = []
    for value in ticks(y.low, y.high, 5):
        drawn.append(line(room.left, y(value), room.right, y(value), "grid"))
        drawn.append(text(room.left - 8, y(value) + 3.5, f"{value:.3g}", "tick", "end"))
    for value in ticks(0, x.high, 4):
        drawn.append(text(x(value), room.bottom + 17, _short(value), "tick", "middle"))
    names: list[float] = []
    for name, curve in known:
        places = [(x(rows), y.clamp(loss)) for rows, loss in curve]
        drawn.append(path(points(places), f"curve {name}"))
        at = places[-1][1] + 4
        while any(abs(at - other) < 12 for other in names):
            at += 12
        names.append(at)
        drawn.append(text(places[-1][0] + 6, at, name, f"note {name}"))
    said = "; ".join(
        f"{name} ends at {curve[-1][1]:.4g} after {curve[-1][0]:,.0f} rows" for name, curve in known
    )
    return figure(width, height, "Learning curves", f"{said}.", drawn, "curves")


class Days:
    """Days to pixels, with ticks below."""

    def __init__(self, days: Sequence[datetime], room: Box) -> None:
        self.days, self.room = days, room
        first, last = days[0].timestamp(), days[-1].timestamp()
        self.scale = Scale(first, max(last, first + 86_400), room.left + 6, room.right - 6)

    def __call__(self, day: datetime) -> float:
        return self.scale(day.timestamp())

    def ticks(self) -> list[Markup]:
        step = max(1, -(-len(self.days) // 5))
        return [
            text(self(day), self.room.bottom + 17, f"{day:%b} {day.day}", "tick", "middle")
            for day in list(self.days)[::-1][::step]
        ]


def _worst(each: EffectLine) -> float:
    """The lift that is no longer acceptable."""
    return -(each.margin or 0.0) if each.higher_is_better else (each.margin or 0.0)


def _final(series: Series, at: float, y: Scale) -> list[Markup]:
    """What was read at the horizon, beside the days before it."""
    final = series.final
    if final is None or final.lift is None or final.low is None or final.high is None:
        return []
    low, high = signed(final.low, percent=True), signed(final.high, percent=True)
    said = f"at the horizon: {signed(final.lift, percent=True)}, fixed interval {low} to {high}"
    parts = [line(at, y.clamp(final.low), at, y.clamp(final.high), f"interval {final.verdict}")]
    parts.append(dot(at, y.clamp(final.lift), 3.5, f"estimate final {final.verdict}"))
    return [group(parts, said)]


def _span(series: Series, seen: Sequence[tuple[Point, float]]) -> tuple[float, float]:
    """The first days are wild; what counts is where the interval settles."""
    values = [0.0, series.margin]
    for point, lift in seen:
        values += [each for each in (lift, point.low, point.high, point.boundary) if each is not None]
    settled = [abs(lift) for _, lift in seen[len(seen) // 2 :]]
    most = 3.0 * max(abs(series.margin), *settled)
    low, high = max(min(values), -most), min(max(values), most)
    pad = 0.08 * (high - low)
    return low - pad, high + pad


def _told(point: Point, lift: float) -> str:
    said = f"{point.until:%b %d}: {signed(lift, percent=True)}"
    if point.low is None or point.high is None:
        return f"{said}, not tested"
    low, high = signed(point.low, percent=True), signed(point.high, percent=True)
    return f"{said}, sequential interval {low} to {high}"


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
