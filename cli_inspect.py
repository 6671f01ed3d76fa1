"""`evorank inspect ...`: candidates that a run asks a person about. Thin: parse, call, print."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from evorank.terminal import Home, Json, console, errors_are_one_line, print_json, read_json

app = typer.Typer(
    help="Candidates that `run --inspect` asks about before it measures them.", no_args_is_help=True
)

Which = Annotated[
    str, typer.Argument(help="An attempt's id, or its beginning; `inspect list` shows them.", metavar="ID")
]
Why = Annotated[str, typer.Option("--why", help="Why, for the journal.")]
By = Annotated[str | None, typer.Option(help="Who decides, for the journal. Default: your user name.")]


@contextlib.contextmanager
def _inspections(home: Path | None) -> Iterator[Any]:
    with errors_are_one_line():
        from evorank.graph.inspections import Inspections
        from evorank.graph.settings import load_settings
        from evorank.graph.store import Store

        settings = load_settings({"home": str(home)} if home else {})
        store = Store.open(Path(settings.home), settings.store, create=False)
        try:
            yield Inspections(store)
        finally:
            store.close()


@app.command("list")
def inspect_list(
    surface: Annotated[str | None, typer.Option(help="Only this surface.")] = None,
    run: Annotated[str | None, typer.Option(help="Only this run.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the candidates that wait for a person, oldest first. Reads only."""
    with _inspections(home) as inspections:
        from evorank.display import print_waiting

        found = inspections.waiting(surface, run)
        if as_json:
            print_json(found)
        else:
            print_waiting(found, console())


@app.command()
def approve(which: Which, why: Why = "", by: By = None, home: Home = None) -> None:
    """Let a candidate be measured as it is."""
    _answer(home, which, action="approve", reason=why, by=by)


@app.command()
def edit(
    which: Which,
    delta: Annotated[Path, typer.Argument(help="A JSON Patch against the candidate's base, as a file.")],
    why: Why = "",
    by: By = None,
    home: Home = None,
) -> None:
    """Let a candidate be measured with your delta in place of its own; one that is not valid asks again."""
    with errors_are_one_line():
        patch = read_json(delta)
    _answer(home, which, action="edit", patch=patch, reason=why, by=by)


@app.command()
def reject(
    which: Which,
    why: Annotated[str, typer.Option("--reason", "--why", help="Why, for the journal and later prompts.")],
    by: By = None,
    home: Home = None,
) -> None:
    """Keep a candidate from being measured; later prompts are told why."""
    _answer(home, which, action="reject", reason=why, by=by)


def _answer(home: Path | None, which: str, *, by: str | None, **said: Any) -> None:
    with _inspections(home) as inspections:
        from pydantic import ValidationError

        from evorank.graph.inspections import Inspection
        from evorank.model.errors import ConfigurationError

        try:
            answer = Inspection.model_validate(said | {"by": by or getpass.getuser()})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "answer"
            raise ConfigurationError(f"`{where}`: {first['msg']}, got {first['input']!r}.") from error
        about = inspections.answer(which, answer)
        console().print(
            f"{said['action']} {about['attempt'][:8]}. Go on with: python cli.py run --resume {about['run']}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
