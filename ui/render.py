"""render: view models to HTML and Markdown. Everything that came from logs, people or models is escaped."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from evorank.graph.state import Usage
from evorank.ui import charts, effects
from evorank.ui.svg import signed
from evorank.ui.tree import tree

__all__ = ["STATIC", "environment", "highlighted"]

HERE = Path(__file__).parent
STATIC = HERE / "static"


@cache
def environment() -> Environment:
    """The templates with their filters. A misspelt name is an error and not an empty place."""
    made = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        signed=signed,
        percent=percent,
        count=count,
        counted=counted,
        seconds=seconds,
        short=short,
        day=day,
        minute=minute,
        ago=ago,
        pretty=pretty,
        words=words,
        highlighted=highlighted,
        interval=charts.interval_text,
        price=price,
        md=markdown,
        code=code_span,
        amount=amount,
    )
    made.globals.update(charts=charts, effects=effects, tree=tree)
    return made


def percent(value: float | None, digits: int = 1) -> str:
    """A relative effect, signed."""
    return "–" if value is None else f"{value:+.{digits}%}".replace("-", "−")


def count(value: float | None) -> str:
    """A number of things; null says that nobody reported it."""
    return "not reported" if value is None else f"{value:,.0f}"


def counted(value: float, one: str, many: str = "") -> str:
    """`1 launch`, `2 launches`."""
    return f"{count(value)} {one if value == 1 else many or one + 's'}"


def amount(value: float | None) -> str:
    """A measurement, to five digits."""
    if value is None:
        return "–"
    return (f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.5g}").replace("-", "−")


def price(usage: Usage) -> str:
    """In dollars, with how many answers are not in it. Nothing asked costs nothing; not reported is not 0."""
    if usage.usd is None:
        return "not reported" if usage.calls else "nothing"
    shown = f"${usage.usd:,.2f}" if usage.usd >= 0.01 or not usage.usd else "under $0.01"
    return f"{shown} and {usage.unpriced} answers without a price" if usage.unpriced else shown


def seconds(value: float | timedelta | None) -> str:
    """A duration in its two largest units."""
    if value is None:
        return "–"
    total = value.total_seconds() if isinstance(value, timedelta) else value
    if total < 10:
        return f"{total:.1f} s"
    if total < 60:
        return f"{total:.0f} s"
    minutes, rest = divmod(int(total), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def short(identifier: str) -> str:
    """The beginning of an id, enough to tell it from others and to give to a command."""
    return identifier[:8]


def markdown(said: str) -> str:
    """Text that stays text in Markdown: no markup, no end of a cell, nobody mentioned, nothing linked."""
    line = " ".join(str(said).split())
    for mark in "\\`*_{}[]|~$":
        line = line.replace(mark, f"\\{mark}")
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return line.replace("@", "@\u200b").replace("#", "#\u200b").replace("://", ":\u200b//")


def code_span(said: str, cell: bool = False) -> str:
    """Code within a line of Markdown, fenced by more backticks than it holds. `cell`: of a table."""
    line = " ".join(str(said).split())
    line = line.replace("|", "\\|") if cell else line
    if not line:
        return "nothing"
    fence = "`"
    while fence in line:
        fence += "`"
    return f"{fence} {line} {fence}" if "`" in line else f"`{line}`"


def day(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment:%Y-%m-%d}"


def minute(moment: datetime | str | None) -> str:
    """A wall clock, UTC, to the minute."""
    if not moment:
        return "–"
    found = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return f"{found.astimezone(UTC) if found.tzinfo else found:%Y-%m-%d %H:%M}"


def ago(moment: datetime | None, now: datetime) -> Markup:
    """How long ago, as an element that the page's script keeps true."""
    if moment is None:
        return Markup("–")
    text = seconds(max(0.0, (now - moment).total_seconds()))
    return Markup('<time class="ago" datetime="{}" title="{}">{}</time>').format(
        moment.isoformat(), minute(moment) + " UTC", text
    )


def pretty(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def words(identifier: str) -> str:
    """`train_cpu_seconds` as people write it."""
    return identifier.replace("_", " ")


def highlighted(source: str, language: str = "python") -> Markup:
    """Code with a class for each kind of token, line by line. What cannot be read is shown as it is."""
    from pygments import lex
    from pygments.lexers import get_lexer_by_name
    from pygments.token import STANDARD_TYPES

    parts = []
    for kind, text in lex(source, get_lexer_by_name(language, stripnl=False)):
        name = STANDARD_TYPES.get(kind, "")
        parts.append(f'<span class="h-{name}">{escape(text)}</span>' if name else str(escape(text)))
    return Markup("".join(parts))


Link = Callable[[str], str | None]
