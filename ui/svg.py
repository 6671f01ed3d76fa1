"""svg: what all charts are drawn with: scales, ticks, marks, axes. Strings in, escaped; `Markup` out.

No colour is written here: elements have classes, and the stylesheet has a light, a dark and a printed set.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

__all__ = [
    "Box",
    "Scale",
    "box",
    "columns",
    "dot",
    "figure",
    "group",
    "levels",
    "line",
    "mark",
    "number",
    "path",
    "points",
    "signed",
    "text",
    "tick_text",
    "ticks",
]


@dataclass(frozen=True)
class Scale:
    """Linear: values low..high to pixels begin..end. A range of nothing is widened."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high - self.low or 1.0
        return self.begin + (value - self.low) / span * (self.end - self.begin)

    def clamp(self, value: float) -> float:
        return self(min(max(value, self.low), self.high))

    def outside(self, value: float) -> bool:
        return not self.low <= value <= self.high


@dataclass(frozen=True)
class Box:
    """Where the data of a chart is drawn."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About so many round numbers within low..high: multiples of 1, 2 or 5 times a power of ten."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    rough = span / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 5, 10) if each * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(each * step, 12) + 0.0 for each in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(values: Sequence[float], percent: bool = False) -> list[str]:
    """Ticks with as many digits as tell them apart, signed, with a true minus."""
    factor = 100.0 if percent else 1.0
    shown = [value * factor for value in values]
    steps = [abs(b - a) for a, b in pairwise(shown) if b != a]
    step = min(steps, default=abs(shown[0]) or 1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [
        "0" if value == 0 else f"{value:+,.{digits}f}{'%' if percent else ''}".replace("-", "−")
        for value in shown
    ]


def signed(value: float, digits: int = 4, percent: bool = False) -> str:
    """With its sign, a true minus, and as percent if asked."""
    shown = f"{value:+.1%}" if percent else f"{value:+.{digits}f}"
    return shown.replace("-", "−")


def number(value: float) -> str:
    """A pixel, in as few characters as do."""
    return f"{value:.1f}".rstrip("0").rstrip(".") if value % 1 else f"{value:.0f}"


def attributes(named: Mapping[str, object]) -> str:
    """`class_` for class, `data_tip` for data-tip; floats are pixels, None is left out."""
    shown = (
        (name.rstrip("_").replace("_", "-"), number(value) if isinstance(value, float) else escape(value))
        for name, value in named.items()
        if value is not None
    )
    return "".join(f' {name}="{value}"' for name, value in shown)


# ------------------------------------------------------------------------------------------------- elements


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    named = {"class_": class_, "x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return Markup(f"<line{attributes(named)}/>")


def dot(x: float, y: float, radius: float, class_: str) -> Markup:
    named = {"class_": class_, "cx": float(x), "cy": float(y), "r": float(radius)}
    return Markup(f"<circle{attributes(named)}/>")


def box(x: float, y: float, width: float, height: float, class_: str) -> Markup:
    named = {"class_": class_, "x": float(x), "y": float(y), "width": float(width), "height": float(height)}
    return Markup(f"<rect{attributes(named)}/>")


def path(d: str, class_: str) -> Markup:
    return Markup(f"<path{attributes({'class_': class_, 'd': d})}/>")


def points(places: Iterable[tuple[float, float]], closed: bool = False) -> str:
    """Through all of them in their order, as a path's `d`."""
    d = (f"{'L' if order else 'M'}{number(x)} {number(y)}" for order, (x, y) in enumerate(places))
    return " ".join(d) + (" Z" if closed else "")


def text(x: float, y: float, said: object, class_: str, anchor: str | None = None) -> Markup:
    named = {"class_": class_, "x": float(x), "y": float(y), "text_anchor": anchor}
    return Markup(f"<text{attributes(named)}>{escape(said)}</text>")


def group(content: Iterable[str], tip: str | None = None, href: str | None = None) -> Markup:
    """What belongs together: says `tip` where it is pointed at, and is a link of that name with `href`."""
    inside = "".join(content) + (f"<title>{escape(tip)}</title>" if tip else "")
    if href is None:
        return Markup(f'<g class="pick">{inside}</g>')
    return Markup(f"<a{attributes({'class_': 'pick', 'href': href})}>{inside}</a>")


def figure(
    width: float,
    height: float,
    title: str,
    description: str,
    content: Iterable[str],
    class_: str = "",
    *,
    linked: bool = False,
) -> Markup:
    """The whole drawing. `linked`: it holds links, so its parts are read one by one, not as one picture."""
    named = {
        "class_": f"chart {class_}".strip(),
        "viewBox": f"0 0 {number(width)} {number(height)}",
        "width": float(width),
        "height": float(height),
        "role": "group" if linked else "img",
        "aria_label": title,
    }
    inside = "".join(content)
    return Markup(f"<svg{attributes(named)}><desc>{escape(description)}</desc>{inside}</svg>")


def levels(room: Box, y: Scale, *, percent: bool = False, count: int = 5) -> list[Markup]:
    """Horizontal lines at round values, with what they are."""
    values = ticks(y.low, y.high, count)
    drawn: list[Markup] = []
    for value, shown in zip(values, tick_text(values, percent), strict=True):
        drawn.append(line(room.left, y(value), room.right, y(value), "grid" if value else "zero"))
        drawn.append(text(room.left - 8, y(value) + 3.5, shown, "tick", "end"))
    return drawn


def columns(room: Box, x: Scale, *, percent: bool = False, count: int = 6) -> list[Markup]:
    """Vertical lines at round values, with what they are below."""
    values = ticks(x.low, x.high, count)
    drawn: list[Markup] = []
    for value, shown in zip(values, tick_text(values, percent), strict=True):
        drawn.append(line(x(value), room.top, x(value), room.bottom, "grid" if value else "zero"))
        drawn.append(text(x(value), room.bottom + 16, shown, "tick", "middle"))
    return drawn


# ---------------------------------------------------------------------------------------------------- marks

_SHAPES = {
    # Each outcome has a shape of its own: colour is never the only thing that tells them apart.
    "up": "M{x} {t} L{r} {b} L{l} {b} Z",
    "down": "M{x} {b} L{r} {t} L{l} {t} Z",
    "diamond": "M{x} {t} L{r} {y} L{x} {b} L{l} {y} Z",
    "square": "M{l} {t} H{r} V{b} H{l} Z",
    "cross": "M{l} {t} L{r} {b} M{r} {t} L{l} {b}",
    "bar": "M{l} {y} H{r}",
    "plus": "M{l} {y} H{r} M{x} {t} V{b}",
}
SHAPE_OF = {
    "better": "up",
    "cheaper": "diamond",
    "equal": "dot",
    "inconclusive": "ring",
    "worse": "down",
    "refused": "cross",
    "failed": "plus",
    "duplicate": "bar",
}


def mark(outcome: str, x: float, y: float, size: float = 4.5) -> Markup:
    """The mark of an attempt's outcome, `size` pixels around (x, y)."""
    shape = SHAPE_OF.get(outcome, "square")
    class_ = f"m o-{outcome}"
    if shape in ("dot", "ring"):
        return dot(x, y, size * 0.9, f"{class_} hollow" if shape == "ring" else class_)
    places = {"x": x, "y": y, "l": x - size, "r": x + size, "t": y - size, "b": y + size}
    stroked = " hollow" if shape in ("cross", "plus", "bar") else ""
    return path(_SHAPES[shape].format(**{k: number(v) for k, v in places.items()}), class_ + stroked)
