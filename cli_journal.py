"""`evorank journal ...`: what was tried and what came of it. Thin: parse, call, print."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from evorank.terminal import Home, Json, console, errors_are_one_line, home_path, print_json

app = typer.Typer(help="What has been tried on this home, failures included.", no_args_is_help=True)

Online = Annotated[
    bool, typer.Option("--online", help="Experiments, which live traffic judges, instead of attempts.")
]
OnlySurface = Annotated[str | None, typer.Option("--surface", help="Only this surface.")]
OnlyRun = Annotated[str | None, typer.Option("--run", help="Only this run.")]


@contextlib.contextmanager
def _journal(home: Path | None, *, create: bool = False) -> Iterator[Any]:
    with errors_are_one_line():
        from evorank.graph.journal import Journal
        from evorank.graph.settings import load_settings

        settings = load_settings({"home": str(home)} if home else {})
        journal = Journal.open(Path(settings.home), create=create, url=settings.store)
        try:
            yield journal
        finally:
            journal.close()


@app.command("list")
def journal_list(
    online: Online = False,
    surface: OnlySurface = None,
    run: OnlyRun = None,
    persona: Annotated[str | None, typer.Option(help="Only this persona.")] = None,
    outcome: Annotated[
        str | None,
        typer.Option(
            help="Only this outcome: better, cheaper, worse ...; of experiments: launched, aborted ..."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 50,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show attempts, or with --online experiments, oldest first. Reads only."""
    with _journal(home) as journal:
        from evorank.display import attempts_table, experiments_table

        out = console()
        found: list[Any]
        if online:
            found = [
                each
                for each in journal.experiments(surface)
                if (run is None or each.run == run)
                and (persona is None or each.proposed_by == persona)
                and (outcome is None or outcome in (each.result, each.phase))
            ]
        else:
            found = [
                each
                for each in journal.attempts(surface=surface, run=run)
                if (persona is None or each.persona == persona)
                and (outcome is None or each.outcome == outcome)
            ]
        shown = [each.model_dump(mode="json") for each in found[-limit:]]
        if as_json:
            print_json(shown)
            return
        if online:
            out.print(experiments_table(shown))
        else:
            rows = [
                each | {"step": f"{each['id'][:8]} {'imported' if each['imported'] else each['step']}"}
                for each in shown
            ]
            out.print(attempts_table(rows, out.width))
        if len(shown) < len(found):
            out.print(f"{len(found) - len(shown)} older ones: --limit {len(found)}", style="dim")


def _find(journal: Any, prefix: str, *, experiments: bool = False) -> Any:
    from evorank.model.errors import ConfigurationError

    known = [*journal.attempts(), *(journal.experiments() if experiments else ())]
    found = [record for record in known if record.id.startswith(prefix)]
    if len(found) != 1:
        kind = "record" if experiments else "attempt"
        what = f"no {kind}" if not found else f"{len(found)} {kind}s"
        raise ConfigurationError(
            f"`{prefix}` names {what}. `journal list` shows ids (--online those of experiments); give enough "
            "of one to be unique."
        )
    return found[0]


@app.command("show")
def journal_show(
    record: Annotated[
        str, typer.Argument(metavar="ID", help="Id of an attempt or an experiment, or its beginning.")
    ],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show one attempt or experiment whole: hypothesis, delta, what was measured, decided, and spent.

    Reads only.
    """
    with _journal(home) as journal:
        from evorank.display import print_attempt, print_experiment
        from evorank.graph.spending import Spending

        found = _find(journal, record, experiments=True)
        told = found.model_dump(mode="json")
        calls = []
        if found.kind == "attempt":
            kept = Spending(journal.store, found.surface).calls(found.run, found.step)
            calls = [call.model_dump(mode="json") for call in kept]
        if as_json:
            print_json(told | ({"calls": calls} if found.kind == "attempt" else {}))
        elif found.kind == "attempt":
            print_attempt(told, console(), calls)
        else:
            print_experiment(told, console())


@app.command("insights")
def journal_insights(
    surface: OnlySurface = None,
    run: OnlyRun = None,
    limit: Annotated[int, typer.Option(min=1, help="Newest so many.")] = 5,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show the notes that sum the journal up: what works and what is a dead end, with the attempts that show
    it. Later prompts carry the last one. Reads only."""
    with _journal(home) as journal:
        from evorank.display import print_notes
        from evorank.graph.notes import every_note

        notes = every_note(journal.store, surface, run)[-limit:]
        rows = [each.model_dump(mode="json") for each in notes]
        if as_json:
            print_json(rows)
        else:
            print_notes(rows, console())


@app.command("diff")
def journal_diff(
    first: Annotated[str, typer.Argument(help="An attempt's id, or `production`.")],
    second: Annotated[str, typer.Argument(help="An attempt's id.")],
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what differs between the configurations of two attempts, as a JSON Patch. Reads only."""
    with _journal(home) as journal:
        from evorank.model.delta import apply_delta, diff
        from evorank.model.errors import ConfigurationError

        two = _find(journal, second)
        one = two if first == "production" else _find(journal, first)
        for attempt in (one, two):
            if attempt.phi is None:
                raise ConfigurationError(
                    f"attempt {attempt.id[:8]} was {attempt.outcome}: it has no configuration to compare."
                )
        before = one.phi
        if first == "production":
            from evorank.surfaces.surface import open_surface

            before = open_surface(home_path(home), two.surface).production()
        patch = diff(before, two.phi)
        assert apply_delta(before, patch) == two.phi
        if as_json:
            print_json(patch)
        for operation in [] if as_json else patch:
            console().print(json.dumps(operation), markup=False, soft_wrap=True)


@app.command("export")
def journal_export(
    out: Annotated[Path, typer.Argument(help="File to write; its ending chooses jsonl, csv or parquet.")],
    online: Online = False,
    surface: OnlySurface = None,
    run: OnlyRun = None,
    home: Home = None,
) -> None:
    """Write attempts, or with --online experiments, to a file, one row each. Never overwrites.

    `journal import` reads what this wrote, as jsonl or csv.
    """
    with _journal(home) as journal:
        from evorank.graph.export import export

        records = (
            [each for each in journal.experiments(surface) if run is None or each.run == run]
            if online
            else journal.attempts(surface=surface, run=run)
        )
        count = export(records, out)
        console().print(f"{count} {'experiments' if online else 'attempts'} in {out}")


@app.command("import")
def journal_import(
    file: Annotated[Path, typer.Argument(help="JSON lines, or CSV if its name ends in .csv.")],
    surface: Annotated[
        str | None,
        typer.Option(help="Surface they were made on. Default: simulated.", show_default=False),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Add past experiments, of people or of another home, for later prompts to learn from.

    They are marked as imported and never taken for measurements made here. One experiment a line:

    \b
    hypothesis  what should improve, and why
    changes     JSON Patch (RFC 6902) against today's production
    against     the whole configuration it is against, if another (optional)
    by, when    who; ISO 8601 (`when` is optional)
    outcome     proxy: better cheaper equal worse inconclusive refused failed
                live:  launched superseded no_launch aborted (by harm)
    metrics     list of {metric, better_is: lower|higher, low, high} with
                `difference` (proxy) or `lift` (live, 0.02 is +2%) and, live,
                role: success|guardrail; low and high are optional
    why         what was learned (optional)
    persona     optimizer, architecture, reward; default: by the changes

    In CSV, `changes`, `against` and `metrics` are JSON text. Rows of `journal export` are read as well.
    A file with a bad line is refused whole, each such line with its number; nothing is ever added twice.
    """
    with errors_are_one_line():
        from evorank.graph.imports import import_file
        from evorank.graph.settings import load_settings
        from evorank.surfaces.surface import open_surface

        flags = {"home": str(home) if home else None, "surface": surface}
        settings = load_settings({name: value for name, value in flags.items() if value})
        opened = open_surface(Path(settings.home), settings.surface)
        with _journal(home, create=True) as journal:
            new, count = import_file(file, opened, journal)
        if as_json:
            print_json({"surface": opened.name, "new": new, "known": count - new})
        else:
            told = f"{new} experiments imported to surface {opened.name}, {count - new} were known"
            console().print(told, markup=False, highlight=False, soft_wrap=True)
