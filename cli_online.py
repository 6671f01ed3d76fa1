"""`evorank online ...`: live tests on a surface, from the queue to the launch. Thin: parse, call, print."""

from __future__ import annotations

import getpass
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from evorank.terminal import Home, Json, console, errors_are_one_line, print_json, read_json

if TYPE_CHECKING:
    from evorank.graph.operations import Operations

app = typer.Typer(
    help="Live tests: candidates in the queue, on people, launched, rolled back.", no_args_is_help=True
)
WAITING = 4
"""Exit code: something waits for a person."""

Surface = Annotated[
    str | None, typer.Option(help="Surface that is served. Default: simulated.", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
]
Which = Annotated[
    str, typer.Argument(help="An experiment's id, or its beginning; `online status` shows them.")
]
Why = Annotated[str, typer.Option("--why", help="Why, for the journal.")]
By = Annotated[str | None, typer.Option(help="Who decides, for the journal. Default: your user name.")]


def _context(**flags: Any) -> Any:
    from evorank.graph.context import Context
    from evorank.graph.settings import load_settings

    given = {name: str(value) for name, value in flags.items() if value is not None}
    return Context(**load_settings(given).context())


def _operations(**flags: Any) -> Operations:
    from evorank.graph.operations import open_operations

    return open_operations(_context(**flags))


def _who(by: str | None) -> str:
    return by or getpass.getuser()


@app.command()
def tick(
    surface: Surface = None,
    days: Annotated[
        int, typer.Option(min=0, max=3650, help="Days to let pass where they pass when told (a simulation).")
    ] = 1,
    clock_was_ahead: Annotated[
        bool,
        typer.Option(
            "--clock-was-ahead",
            help="The surface's clock is right now and was ahead before. Tests that it misled are aborted.",
        ),
    ] = False,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Do what is due and return: for cron. Several at once, and late ones, do no harm.

    Exit codes: 0 done, 1 something went wrong (the next tick tries again), 4 something waits for a person.
    """
    with errors_are_one_line():
        from datetime import timedelta

        from evorank.display import ExperimentLines
        from evorank.graph.context import close_sessions
        from evorank.graph.operations import open_operations
        from evorank.graph.tick import tick as one_tick

        context = _context(surface=surface, store=store, home=home)
        out = console(error=as_json)

        shown = ExperimentLines()

        def on_event(event: Any) -> None:
            line = shown(event)
            if line:
                out.print(line, markup=False, highlight=False, soft_wrap=True)

        try:
            until = open_operations(context).platform.now() + timedelta(days=days)
            report = one_tick(context, on_event, until=until, clock_was_ahead=clock_was_ahead)
        finally:
            close_sessions()
        if as_json:
            print_json(report.model_dump(mode="json"))
        else:
            out.print(
                f"{report.now:%Y-%m-%d}: {report.live} live, {report.queued} queued, "
                f"{len(report.approvals)} waiting for a person",
                highlight=False,
            )
        for error in report.errors:
            console(error=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        if report.errors:
            raise typer.Exit(1)
        if report.approvals:
            raise typer.Exit(WAITING)


@app.command()
def daemon(
    surface: Surface = None,
    every: Annotated[float, typer.Option(min=0, help="Seconds between two ticks.")] = 300.0,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Tick again and again; on a simulation, until nothing is queued or live. Ctrl-C ends it at any time.

    What goes wrong is told, and tried again at the next tick; a simulation stops there. Exit codes as `tick`.
    """
    with errors_are_one_line():
        from datetime import timedelta

        from evorank.display import ExperimentLines
        from evorank.graph.context import close_sessions
        from evorank.graph.operations import open_operations
        from evorank.graph.tick import tick as one_tick
        from evorank.model.errors import JournalError, PlatformError
        from evorank.surfaces.platform import Timelapse

        context = _context(surface=surface, store=store, home=home)
        out = console(error=as_json)

        shown = ExperimentLines()

        def on_event(event: Any) -> None:
            line = shown(event)
            if as_json:
                sys.stdout.write(json.dumps(event, default=str) + "\n")
                sys.stdout.flush()
            elif line:
                out.print(line, markup=False, highlight=False, soft_wrap=True)

        def tell(error: str) -> None:
            console(error=True).print(f"error: {error}", style="red", markup=False, soft_wrap=True)

        try:
            platform = open_operations(context).platform
            simulated = isinstance(platform, Timelapse)
            while True:
                try:
                    report = one_tick(context, on_event, until=platform.now() + timedelta(days=1))
                except (PlatformError, JournalError) as error:
                    if simulated:
                        raise
                    tell(str(error))
                else:
                    for each in report.errors:
                        tell(each)
                    if simulated and (report.idle or report.errors):
                        break
                if not simulated:
                    time.sleep(every)
        except KeyboardInterrupt:
            raise typer.Exit(130) from None
        finally:
            close_sessions()
        if report.errors:
            raise typer.Exit(1)
        if report.approvals:
            raise typer.Exit(WAITING)


@app.command()
def status(surface: Surface = None, store: Store = None, home: Home = None, as_json: Json = False) -> None:
    """Show production, live tests, the queue, what waits for a person, what launches gained. Reads only."""
    with errors_are_one_line():
        from evorank.graph.status import overview

        found = overview(_context(surface=surface, store=store, home=home))
        if as_json:
            print_json(found.model_dump(mode="json"))
            return
        from evorank.display import print_overview

        print_overview(found.model_dump(mode="json"), console())


@app.command()
def submit(
    delta: Annotated[Path, typer.Argument(help="A JSON Patch against today's production, as a file.")],
    why: Why,
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Queue a change of your own for a live test. Refused if it is invalid, or was tested before."""
    with errors_are_one_line():
        from evorank.graph.context import close_sessions
        from evorank.graph.tick import propose

        patch = read_json(delta)
        try:
            identifier = propose(
                _operations(surface=surface, store=store, home=home), patch, why=why, by=_who(by)
            )
        finally:
            close_sessions()
        if as_json:
            print_json({"id": identifier})
        else:
            console().print(f"queued as {identifier[:8]}. Next: python cli.py online tick", highlight=False)


def _ask(
    which: str, action: Literal["approve", "abort", "pause", "resume"], why: str, by: str | None, **flags: Any
) -> None:
    """Write down what a person wants; the next tick does it, once."""
    with errors_are_one_line():
        from evorank.graph.status import request

        told = request(_context(**flags), which, action, by=_who(by), reason=why)
        console().print(told, markup=False, highlight=False, soft_wrap=True)


@app.command()
def approve(
    which: Which,
    why: Why = "",
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Let what waits for a person pass: an under-powered test, or a launch."""
    _ask(which, "approve", why, by, surface=surface, store=store, home=home)


@app.command()
def abort(
    which: Which,
    why: Annotated[str, typer.Option("--reason", "--why", help="Why, for the journal.")],
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """End an experiment in whatever phase it is; its traffic goes back to production."""
    _ask(which, "abort", why, by, surface=surface, store=store, home=home)


@app.command()
def pause(
    which: Which,
    why: Why = "",
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Keep an experiment where it is. A live one is still watched, and aborted if it breaks a guardrail."""
    _ask(which, "pause", why, by, surface=surface, store=store, home=home)


@app.command()
def resume(
    which: Which,
    why: Why = "",
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Let a paused experiment go on."""
    _ask(which, "resume", why, by, surface=surface, store=store, home=home)


@app.command()
def move(
    which: Which,
    position: Annotated[int, typer.Argument(min=1, help="Place in the queue, from 1.")],
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Give a waiting experiment another place in the queue."""
    with errors_are_one_line():
        from evorank.graph.status import reorder

        told = reorder(_context(surface=surface, store=store, home=home), which, position)
        console().print(told, markup=False, highlight=False, soft_wrap=True)


@app.command()
def rollback(
    why: Why,
    to: Annotated[
        int | None, typer.Option(min=1, help="Version to go back to. Default: the one before.")
    ] = None,
    by: By = None,
    surface: Surface = None,
    store: Store = None,
    home: Home = None,
) -> None:
    """Serve an earlier production version again, at once. Live tests go on: their arms do not change."""
    with errors_are_one_line():
        from evorank.graph.context import close_sessions

        operations = _operations(surface=surface, store=store, home=home)
        try:
            version = operations.roll_back(to, by=_who(by), reason=why)
        finally:
            close_sessions()
        console().print(f"serving version {version.version}: {version.why}", markup=False, highlight=False)
