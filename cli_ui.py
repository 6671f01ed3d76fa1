"""`evorank ui` and `evorank report`: a home in a browser, or in one file. Thin: parse, call, print."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from evorank.terminal import Home, console, errors_are_one_line

__all__ = ["report", "ui"]

Surface = Annotated[
    str | None, typer.Option(help="Surface that is shown first. Default: simulated.", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
]


class Format(StrEnum):
    html = "html"
    md = "md"


def _context(**flags: Any) -> Any:
    from evorank.graph.context import Context
    from evorank.graph.settings import load_settings

    return Context(**load_settings({name: str(value) for name, value in flags.items() if value}).context())


def ui(
    surface: Surface = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Default: 8765, or a free one where that is taken."),
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    store: Store = None,
    home: Home = None,
) -> None:
    """Serve the page: watch runs and live tests, read every decision, approve or stop what is live.

    Beside a running or a finished run; looking computes nothing. On 127.0.0.1 only, with a token in the
    address that is printed. What you ask is done by the next tick. Needs: pip install "evorank[ui]". Ctrl-C
    ends it.
    """
    with errors_are_one_line():
        from evorank.ui.serve import serve

        out = console()

        def tell(address: str, what: str) -> None:
            out.print(
                f"{address}\n  reads {what}; Ctrl-C ends it", markup=False, highlight=False, soft_wrap=True
            )
            if browser:
                import webbrowser

                webbrowser.open(address)

        try:
            serve(_context(surface=surface, store=store, home=home), port, tell)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


def report(
    out: Annotated[
        Path | None, typer.Option(help="File to write, replaced if it is there. Default: standard output.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Default: what FILE ends in; else html.", show_default=False),
    ] = None,
    run: Annotated[str | None, typer.Option(help="Only what this run tried.")] = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Write what was tried, what won and why, what failed, and how to repeat it, as one file.

    HTML that needs nothing beside it, or Markdown for a pull request. Reads the journal, and
    asks the platform for the audit of all launches.
    """
    with errors_are_one_line():
        from evorank.model.errors import ConfigurationError
        from evorank.ui.report import make_report, write_html, write_markdown
        from evorank.ui.source import Source

        ending = out.suffix.removeprefix(".") if out else ""
        if format is None and ending not in ("", *Format):
            raise ConfigurationError(f"`--out {out}` must end in .html or .md, or give --format.")
        chosen = format or Format(ending or "html")
        source = Source(_context(surface=surface, store=store, home=home))
        try:
            known = [each.name for each in source.snapshot().runs]
            if run is not None and run not in known:
                raise ConfigurationError(
                    f"`--run` must be a run of this surface: {', '.join(known) or 'none'}."
                )
            made = make_report(source, run=run)
        finally:
            source.close()
        text = write_html(made) if chosen is Format.html else write_markdown(made)
        if out is None:
            sys.stdout.write(text)
            return
        out.write_text(text, encoding="utf-8")
        told = f"{out}: {len(text.encode()) / 1000:,.0f} KB, {made.overview.attempts.tried} attempts"
        console().print(told, markup=False, highlight=False, soft_wrap=True)
