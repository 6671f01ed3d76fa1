"""`evorank steer ...`: what the operator of a surface asks of every proposal. Thin: parse, call, print."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evorank.terminal import Home, Json, console, errors_are_one_line, print_json

if TYPE_CHECKING:
    from evorank.graph.journal import Journal
    from evorank.graph.settings import Settings
    from evorank.graph.steering import Directive, Steering

app = typer.Typer(
    help="What proposals shall heed, in your words: in force from the next prompt on.", no_args_is_help=True
)

OfSurface = Annotated[
    str | None, typer.Option("--surface", help="Surface to steer. Default: simulated.", show_default=False)
]
Store = Annotated[
    str | None,
    typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
]


@contextlib.contextmanager
def _steering(
    home: Path | None, surface: str | None, store: str | None
) -> Iterator[tuple[Steering, Journal, Settings]]:
    with errors_are_one_line():
        from evorank.graph.journal import Journal
        from evorank.graph.settings import load_settings
        from evorank.graph.steering import Steering

        flags = {"home": str(home) if home else None, "surface": surface, "store": store}
        settings = load_settings({name: value for name, value in flags.items() if value})
        journal = Journal.open(Path(settings.home), url=settings.store)
        try:
            yield Steering(journal.store, settings.surface), journal, settings
        finally:
            journal.close()


@app.command("add")
def steer_add(
    text: Annotated[str, typer.Argument(help="What to heed, in a sentence or two.")],
    persona: Annotated[str | None, typer.Option(help="Only this persona. Default: all.")] = None,
    until: Annotated[
        str | None,
        typer.Option(
            metavar="DAY|STEPS", help="In force to the end of a day, 2026-03-01 (UTC), or for so many steps."
        ),
    ] = None,
    surface: OfSurface = None,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Put a directive in force, also for runs that are under way: from their next prompt on.

    Each attempt records which directives its prompts held (`journal show ID`). Writes to the journal's
    database; costs nothing.
    """
    with _steering(home, surface, store) as (steering, _, settings):
        from evorank.graph.steering import until as limits
        from evorank.model.errors import ConfigurationError
        from evorank.personas.persona import personas_of

        day, steps = limits(until)
        known = personas_of(Path(settings.home), settings.persona_folder)
        if persona is not None and persona not in known:
            raise ConfigurationError(f"`--persona` must be one of {', '.join(known)}, got {persona!r}.")
        made = steering.add(text, persona, day, steps, by=getpass.getuser())
        if as_json:
            print_json(made.model_dump(mode="json"))
        else:
            told = f"{made.id} is in force on surface {steering.surface}; `steer remove {made.id}` ends it"
            console().print(told, markup=False, highlight=False, soft_wrap=True)


@app.command("list")
def steer_list(
    every: Annotated[bool, typer.Option("--all", help="Those in force no longer, too.")] = False,
    surface: OfSurface = None,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the directives in force, and in how many steps each was. Reads only."""
    with _steering(home, surface, store) as (steering, journal, _):
        from evorank.display import print_steering
        from evorank.graph.steering import steps_of

        attempts = journal.attempts(surface=steering.surface)
        rows = [_row(each, steps_of(each, attempts)) for each in steering.all()]
        shown = [row for row in rows if every or not row["ended"]]
        if as_json:
            print_json(shown)
        elif shown:
            print_steering(shown, console())
        else:
            console().print(f"nothing is asked of proposals on surface {steering.surface}", markup=False)


@app.command("remove")
def steer_remove(
    directive: Annotated[str, typer.Argument(metavar="ID", help="Its id; `steer list` shows it.")],
    surface: OfSurface = None,
    store: Store = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Take a directive out of force, from the next prompt on."""
    with _steering(home, surface, store) as (steering, _, _):
        removed = steering.remove(directive, by=getpass.getuser())
        if as_json:
            print_json(removed.model_dump(mode="json"))
        else:
            console().print(f"{removed.id} is in force no longer: {removed.text}", markup=False)


def _row(directive: Directive, steps: int) -> dict[str, Any]:
    from datetime import UTC, datetime

    ended = directive.why_not(steps, datetime.now(UTC).date())
    return directive.model_dump(mode="json") | {"steps": steps, "ended": ended}
