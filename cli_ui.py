"""`evorank ui` and `evorank report`: a home in a browser, or in one file. Thin: parse, call, print."""

from __future__ import annotations

from typing import Annotated

import typer

from evorank.terminal import Home, console, errors_are_one_line

__all__ = ["ui"]

Surface = Annotated[
    str | None, typer.Option(help="Surface that is shown first. Default: simulated.", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
]


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
        from evorank.graph.context import Context
        from evorank.graph.settings import load_settings
        from evorank.ui.serve import serve

        flags = {"surface": surface, "store": store, "home": str(home) if home else None}
        given = {name: value for name, value in flags.items() if value is not None}
        out = console()

        def tell(address: str, what: str) -> None:
            out.print(
                f"{address}\n  reads {what}; Ctrl-C ends it", markup=False, highlight=False, soft_wrap=True
            )
            if browser:
                import webbrowser

                webbrowser.open(address)

        serve(Context(**load_settings(given).context()), port, tell)
