"""The command line: parse, call, print. `--help` loads neither torch nor langgraph nor a chat model."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evorank.cli_ablate import ablate
from evorank.cli_inspect import app as inspect_app
from evorank.cli_journal import app as journal_app
from evorank.cli_online import app as online_app
from evorank.cli_steer import app as steer_app
from evorank.cli_ui import report, ui
from evorank.terminal import Home, Json, console, errors_are_one_line, home_path, print_json

if TYPE_CHECKING:
    from evorank.graph.chats import Greeting
    from evorank.graph.context import Context
    from evorank.graph.plan import Plan

app = typer.Typer(
    name="evorank",
    help="A self-evolving recommendation system: agents propose changes to a ranking model, test them, "
    "and keep what wins.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
surface_app = typer.Typer(
    help="Places where recommendations are served: a log and what it means.", no_args_is_help=True
)
app.add_typer(journal_app, name="journal")
app.add_typer(surface_app, name="surface")
app.add_typer(online_app, name="online")
app.add_typer(steer_app, name="steer")
app.add_typer(inspect_app, name="inspect")

BUDGET_SPENT, WAITING, INTERRUPTED = 3, 4, 130
PLACE, BUDGET = ("executor", "address", "workers", "allow_degraded"), ("max_usd", "max_tokens", "max_minutes")
MAY_CHANGE = (*PLACE, *BUDGET, "trackers")
"""Flags of `run` that say where trainings run, how much may be spent and who is told: not what is found."""


class View(StrEnum):
    auto = "auto"
    live = "live"
    lines = "lines"
    none = "none"


class Where(StrEnum):
    local = "local"
    ray = "ray"


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Track(StrEnum):
    mlflow = "mlflow"
    otel = "otel"


class Selection(StrEnum):
    fifo = "fifo"
    ranked = "ranked"


class Generation(StrEnum):
    delta = "delta"
    full = "full"


class Layout(StrEnum):
    movielens = "movielens"
    kuairand = "kuairand"
    recbole = "recbole"


SurfaceName = Annotated[str, typer.Argument(help="A surface's name; `surface list` shows them.")]


# ------------------------------------------------------------------------------------------------------ run


@app.command()
def run(
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=100_000, help="Candidates to try. Default: 50.", show_default=False),
    ] = None,
    surface: Annotated[
        str | None, typer.Option(help="Surface to improve. Default: simulated.", show_default=False)
    ] = None,
    persona: Annotated[
        list[str] | None,
        typer.Option(help="Only this persona: optimizer, architecture, reward; repeat for several."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Chat model as provider:model; repeated: an ensemble, chosen by what they win per dollar. "
            "Default: the embedded engineer, no key needed."
        ),
    ] = None,
    linter_model: Annotated[
        str | None, typer.Option(help="Another chat model for the linter; `embedded` needs no key.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Another address of the provider of --model, http(s)://HOST/PATH.")
    ] = None,
    generation: Annotated[
        Generation | None,
        typer.Option(
            help="What CODE answers: what changes, or (to compare with) all of Φ. Default: delta.",
            show_default=False,
        ),
    ] = None,
    max_usd: Annotated[
        float | None,
        typer.Option(help="Stop when the calls to chat models have cost so many US dollars, exit code 3."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Stop when they have used so many tokens, exit code 3.")
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(help="Ask nothing more after so many minutes, exit code 3."),
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write every call to a chat model to this new file (JSON lines).")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option(help="Run what such a file holds, answered by it: with its settings, without a key."),
    ] = None,
    trace: Annotated[
        bool | None,
        typer.Option("--trace", help="Let LangSmith hear of everything; otherwise it hears nothing."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of proposals and trainings. Default: 0.", show_default=False)
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(min=2, max=32, help="Paired trainings per finalist. Default: 8.", show_default=False),
    ] = None,
    parallel: Annotated[
        int | None, typer.Option(min=1, max=64, help="Candidates in flight. Default: 4.", show_default=False)
    ] = None,
    executor: Annotated[
        Where | None,
        typer.Option(
            help="Where to train: this machine, or a Ray cluster. Default: local.", show_default=False
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(help="Ray cluster, HOST:PORT or auto. Default: start Ray here.", show_default=False),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Training processes. Default: the cores.", show_default=False),
    ] = None,
    device: Annotated[
        Device | None,
        typer.Option(
            help="Where to compute: cpu, cuda, or auto, a GPU where one can be used. Default: auto.",
            show_default=False,
        ),
    ] = None,
    allow_degraded: Annotated[
        bool | None,
        typer.Option(
            "--allow-degraded",
            help="Train also where the lock around candidates' code is not whole.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="Database for several machines, postgresql://USER@HOST/DATABASE. Default: a file in HOME.",
            show_default=False,
        ),
    ] = None,
    days: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Days of traffic that may pass on a simulated surface. Default: 112.",
            show_default=False,
        ),
    ] = None,
    selection: Annotated[
        Selection | None,
        typer.Option(
            help="Who is tested live next: the oldest, or whom the strategist ranks first. Default: ranked.",
            show_default=False,
        ),
    ] = None,
    approve: Annotated[
        bool | None,
        typer.Option("--approve", help="A person approves every launch.", show_default=False),
    ] = None,
    inspect: Annotated[
        bool | None,
        typer.Option(
            "--inspect",
            help="A person looks at every candidate before it is measured; exit code 4 while some wait.",
            show_default=False,
        ),
    ] = None,
    replicate: Annotated[
        bool | None,
        typer.Option("--replicate", help="A candidate must win two live tests.", show_default=False),
    ] = None,
    proposals: Annotated[
        str | None,
        typer.Option(
            metavar="N|X/Y/Z",
            help="Proposals in one call: N, or X to explore, Y to exploit, Z to innovate. Default: 1.",
            show_default=False,
        ),
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            min=2_000,
            help="Length of a prompt; a longer journal keeps its best, its newest and all live results. "
            "Default: 60000.",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print the first prompts, their tokens and an estimate of the cost; ask nobody."
        ),
    ] = False,
    track: Annotated[
        list[Track] | None,
        typer.Option(
            help="Mirror the run: mlflow (to MLFLOW_TRACKING_URI), otel (OpenTelemetry); repeat for both.",
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(help="Go on with this run; `latest` for the newest unfinished one.", show_default=False),
    ] = None,
    home: Home = None,
    display: Annotated[View, typer.Option(help="What to show while it runs.")] = View.auto,
    as_json: Json = False,
) -> None:
    """Try candidates on a surface, test the best on people where it has live traffic, launch the winners.

    Costs: CPU minutes (two cores, ML-100K: a few for 50 steps); a chat model's tokens only with --model.
    Writes: everything under HOME (journal.sqlite, runs/, cache/, surfaces/).
    """
    with errors_are_one_line():
        from evorank.graph.context import close_sessions
        from evorank.graph.runs import carry_out
        from evorank.graph.settings import load_settings

        flags = {
            "surface": surface,
            "personas": persona or None,
            "model": ",".join(model) if model else None,
            "models": {"linter": linter_model} if linter_model else None,
            "generation": generation.value if generation else None,
            "max_usd": max_usd,
            "max_tokens": max_tokens,
            "max_minutes": max_minutes,
            "record": str(record.absolute()) if record else None,
            "replay": str(replay.absolute()) if replay else None,
            "trace": trace or None,
            "seed": seed,
            "seeds": seeds,
            "parallel": parallel,
            "executor": executor.value if executor else None,
            "address": address,
            "workers": workers,
            "device": device.value if device else None,
            "allow_degraded": allow_degraded or None,
            "store": store,
            "days": days,
            "selection": selection.value if selection else None,
            "approve": approve or None,
            "inspect": inspect or None,
            "replicate": replicate or None,
            "proposals": proposals,
            "prompt_tokens": prompt_tokens,
            "trackers": [each.value for each in track] if track else None,
            "home": str(home) if home else None,
        }
        given = {name: value for name, value in flags.items() if value is not None}
        settings = load_settings(given, base_url=base_url)
        if dry_run:
            _show_prompts(settings, steps, resume, as_json)
            return
        out = console(error=as_json)
        plan, context, greetings = _plan(resume, steps, settings, flags)
        from evorank.display import make_display, print_summary

        kind = "json" if as_json else display.value
        title = f"evorank {plan.run} on {context.surface}"
        if not as_json:
            for line in _opening(plan, context):
                out.print(line, markup=False, highlight=False, soft_wrap=True)
        view = make_display(kind, plan.steps, title, out)
        try:
            with _stops_on_interrupt(context, view.on_event):
                summary = carry_out(plan, context, view.on_event, greetings)
        except KeyboardInterrupt:
            view.close()
            console(error=True).print(
                f"interrupted. Go on with: {_resume_command(plan, context)}", markup=False, soft_wrap=True
            )
            raise typer.Exit(INTERRUPTED) from None
        finally:
            view.close()
            close_sessions()
        if as_json:
            sys.stdout.write(json.dumps({"event": "summary"} | summary.model_dump(mode="json")) + "\n")
        else:
            print_summary(summary.model_dump(mode="json"), out)
        if summary.stopped:
            codes = {"interrupted": INTERRUPTED, "budget": BUDGET_SPENT, "inspection": WAITING}
            raise typer.Exit(codes.get(summary.stopped.split(":")[0], 1))


def _show_prompts(settings: Any, steps: int | None, resume: str | None, as_json: bool) -> None:
    """What a run would ask, and about what it would cost."""
    from evorank.display import print_preview
    from evorank.graph.context import Context, close_sessions
    from evorank.graph.preview import preview
    from evorank.model.errors import ConfigurationError

    if resume is not None:
        raise ConfigurationError("`--dry-run` shows how a new run would begin; leave out --resume.")
    try:
        found = preview(Context(**settings.context()), steps or settings.steps).model_dump(mode="json")
    finally:
        close_sessions()
    if as_json:
        print_json(found)
    else:
        print_preview(found, console())


def _plan(
    resume: str | None, steps: int | None, settings: Any, flags: Mapping[str, Any]
) -> tuple[Plan, Context, list[Greeting]]:
    """What to do, with what; every chat model has said a word by then."""
    from evorank.graph.chats import greet
    from evorank.graph.context import Context
    from evorank.graph.plan import latest_run, load_plan, new_plan
    from evorank.model.errors import ConfigurationError

    if resume is None:
        context = Context(**settings.context())
        greetings = greet(context)
        return new_plan(context, steps or settings.steps, settings.days), context, greetings
    given = [
        f"--{name.replace('_', '-')}"
        for name, value in flags.items()
        if value is not None and name not in {"home", "store", "trace", *MAY_CHANGE}
    ]
    if steps is not None:
        given.append("--steps")
    if given:
        raise ConfigurationError(
            f"`--resume` goes on with what the run was started with; leave out {', '.join(given)}."
        )
    home = Path(settings.home)
    plan = load_plan(home, latest_run(home) if resume == "latest" else resume)
    # Where a run is trained may change on the way, and what it may spend: the results do not.
    changed = {name: value for name, value in flags.items() if name in MAY_CHANGE and value is not None}
    if changed.get("executor") == "local":
        changed.setdefault("address", None)
    context = Context(**(plan.context | {"home": str(home), "store": settings.store} | changed))
    return plan, context, greet(context)


def _opening(plan: Plan, context: Context) -> Iterator[str]:
    from evorank.graph.context import open_session
    from evorank.graph.recording import read_head

    who = context.model or "the embedded engineer (a search algorithm, not an LLM)"
    note = ""
    if context.replay:
        who = f"the recording {context.replay}"
        note = read_head(Path(context.replay)).note
    session = open_session(context)
    yield (
        f"run {plan.run}: {plan.steps} steps on surface {context.surface}, proposals by {who}, "
        f"home {context.home}, code of candidates {session.workbench.executor.tier}"
    )
    if note:
        yield f"  {note}"
    yield from session.chats.notes()


def _resume_command(plan: Plan, context: Context) -> str:
    return f"python cli.py run --resume {plan.run} --home {context.home}"


@contextlib.contextmanager
def _stops_on_interrupt(context: Context, on_event: Any) -> Iterator[None]:
    """First Ctrl-C: the running steps finish, the rest is left for --resume. Second: stop now."""
    from evorank.graph.context import open_session

    session = open_session(context)

    def stop(_signal: int, _frame: object) -> None:
        if session.stop.is_set():
            raise KeyboardInterrupt
        session.request_stop("interrupted")
        on_event({"event": "note", "text": "stopping after the running steps; Ctrl-C again to stop now"})

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# ------------------------------------------------------------------------------------------------- transfer


@app.command()
def transfer(
    source: Annotated[str, typer.Argument(metavar="SURFACE_A", help="Surface whose winners are taken.")],
    target: Annotated[str, typer.Argument(metavar="SURFACE_B", help="Surface that shall try them.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Winners to take, the best first.")] = 5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be proposed.")] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Propose on SURFACE_B what won on SURFACE_A: launched experiments, or else winners of the proxy.

    The next `run --surface SURFACE_B` measures them before it asks anybody for ideas; nothing is launched by
    this. A part (optimizer, architecture, reward) that does not fit SURFACE_B is left out, with its reason.
    Each winner is proposed once for a production.
    """
    with errors_are_one_line():
        from evorank.display import print_transferred
        from evorank.graph.context import Context, close_sessions
        from evorank.graph.settings import load_settings
        from evorank.graph.transfer import transfer as bring

        flags = {"surface": target, "store": store, "home": str(home) if home else None}
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            context = Context(**load_settings(given).context())
            found = bring(context, source, limit=limit, dry_run=dry_run)
        finally:
            close_sessions()
        rows = [each.model_dump(mode="json") for each in found]
        if as_json:
            print_json(rows)
        else:
            print_transferred(rows, target, console())


# ------------------------------------------------------------------------------------------------------ mcp


@app.command()
def mcp(
    surface: Annotated[
        str | None, typer.Option(help="Surface to answer about. Default: simulated.", show_default=False)
    ] = None,
    write: Annotated[
        bool, typer.Option("--write", help="Let clients queue experiments. Without it they only read.")
    ] = False,
    store: Annotated[
        str | None,
        typer.Option(help="Database for several machines, postgresql://... Default: a file under HOME."),
    ] = None,
    home: Home = None,
) -> None:
    """Answer an MCP client on standard input and output: what was learned, how live tests stand, proposals.

    The client (an editor, a chat app, an agent) starts it. It costs nothing while it waits. Extra: mcp.
    """
    with errors_are_one_line():
        from evorank.graph.agent_tools import mcp_server
        from evorank.graph.context import Context, close_sessions
        from evorank.graph.settings import load_settings

        flags = {"surface": surface, "store": store, "home": str(home) if home else None}
        given = {name: value for name, value in flags.items() if value is not None}
        try:
            mcp_server(Context(**load_settings(given).context()), write=write).run()
        finally:
            close_sessions()


# -------------------------------------------------------------------------------------------------- surface


@surface_app.command("import")
def surface_import(
    layout: Annotated[Layout, typer.Argument(help="The official layout of the files.")],
    path: Annotated[Path, typer.Argument(help="Folder (or file) with the log.")],
    name: Annotated[str | None, typer.Option(help="Name of the surface. Default: the folder's.")] = None,
    system: Annotated[str | None, typer.Option(help="Your own RankingSystem as module:Class.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Describe a log in HOME/surfaces/NAME/surface.toml and encode it. The log itself is only read."""
    with errors_are_one_line():
        from evorank.surfaces.importers import import_log

        out = console(error=as_json)
        with out.status("importing") as status:
            surface = import_log(layout.value, path, name, home_path(home), system=system)
            dataset = surface.dataset(lambda what, share: status.update(f"{what} {share:.0%}"))
        rows = {period: bounds.stop - bounds.start for period, bounds in dataset.bounds.items()}
        if as_json:
            print_json(
                {
                    "surface": surface.name,
                    "directory": str(surface.directory),
                    "rows": rows,
                    "key": dataset.key,
                }
            )
            return
        out.print(
            f"surface {surface.name}: {rows['train']} training, {rows['validation']} validation, "
            f"{rows['test']} test rows\n"
            f"  {surface.directory / 'surface.toml'} says what the columns mean: look at it, change it\n"
            f"  next: python cli.py surface check {surface.name}\n"
            f"        python cli.py run --surface {surface.name}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )


@surface_app.command("list")
def surface_list(home: Home = None, as_json: Json = False) -> None:
    """List the surfaces of this home."""
    with errors_are_one_line():
        from evorank.surfaces.surface import list_surfaces

        names = list_surfaces(home_path(home))
        if as_json:
            print_json(names)
        for name in [] if as_json else names:
            console().print(name)


@surface_app.command("describe")
def surface_describe(name: SurfaceName, home: Home = None, as_json: Json = False) -> None:
    """Say what a surface is: its log, features, signals, split, north star, production Φ."""
    with errors_are_one_line():
        from evorank.display import print_surface
        from evorank.surfaces.check import describe
        from evorank.surfaces.surface import open_surface

        facts = describe(open_surface(home_path(home), name))
        if as_json:
            print_json(facts)
            return
        print_surface(facts, console())


@surface_app.command("check")
def surface_check(name: SurfaceName, home: Home = None, as_json: Json = False) -> None:
    """Look for leakage and nonsense in a surface's log. Exit code 1 if something must be mended."""
    with errors_are_one_line():
        from evorank.display import print_surface
        from evorank.surfaces.check import check
        from evorank.surfaces.surface import open_surface

        report = check(open_surface(home_path(home), name))
        if as_json:
            print_json(report.as_dict())
        else:
            out = console()
            print_surface(report.facts, out)
            for warning in report.warnings:
                out.print(
                    f"\n{warning.severity} {warning.code}",
                    style="bold red" if warning.severity == "error" else "bold yellow",
                )
                out.print(f"  {warning}", markup=False, highlight=False)
            if not report.warnings:
                out.print("\nno warnings", style="green")
        if any(warning.severity == "error" for warning in report.warnings):
            raise typer.Exit(1)


# --------------------------------------------------------------------------------------------------- doctor


@app.command()
def doctor(
    system: Annotated[str | None, typer.Option(help="Check your own RankingSystem, module:Class.")] = None,
    platform: Annotated[
        str | None,
        typer.Option(
            help="Check a Platform on the surface: module:Class, warehouse, growthbook, simulated, or own. "
            "Starts and stops A/A tests on 0.1% of a slot."
        ),
    ] = None,
    artifact: Annotated[
        Path | None, typer.Option(help="With --platform: the folder that both arms are served.")
    ] = None,
    surface: Annotated[
        str | None, typer.Option(help="Surface that would run. Default: simulated.", show_default=False)
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Chat model that would be asked. Default: the embedded engineer.", show_default=False
        ),
    ] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Say what is installed, which model and surface a run would use; or check a class of your own.

    Writes nothing, but for --platform. Exit code 1 when something would keep a run from working.
    """
    with errors_are_one_line():
        from evorank.model.errors import ConfigurationError, EvorankError

        flags = {"surface": surface, "model": ",".join(model or ()), "home": str(home) if home else None}
        given = {name: value for name, value in flags.items() if value}
        results: list[dict[str, Any]]
        if system:
            from evorank.model.conformance import conformance, load_system

            results = [
                {"name": check.name, "passed": check.passed, "message": check.message}
                for check in conformance(load_system(system))
            ]
        elif platform:
            from evorank.graph.settings import load_settings, platform_health

            if artifact is None:
                raise ConfigurationError("`--platform` needs `--artifact FOLDER`: what both arms are served.")
            results = platform_health(load_settings(given), platform, artifact)
        else:
            from evorank.graph.settings import health, load_settings

            try:
                results = health(load_settings(given))
            except EvorankError as error:
                results = [{"name": "settings", "passed": False, "message": str(error)}]
        if as_json:
            print_json(results)
        else:
            out = console()
            for result in results:
                mark = ("ok  ", "green") if result["passed"] else ("MEND", "bold red")
                out.print(mark[0], style=mark[1], end=" ")
                out.print(
                    f"{result['name']}: {result['message']}", markup=False, highlight=False, soft_wrap=True
                )
        if not all(result["passed"] for result in results):
            raise typer.Exit(1)


app.command()(ui)
app.command()(report)
app.command()(ablate)


if __name__ == "__main__":
    app()
