"""`evorank ablate`: what matters in how proposals are asked for. Thin: parse, call, print."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evorank.terminal import Home, Json, console, errors_are_one_line, print_json

__all__ = ["ablate"]

FAILED, BUDGET_SPENT, INTERRUPTED = 1, 3, 130


class Study(StrEnum):
    history = "history"
    persona = "persona"
    generation = "generation"
    model = "model"
    sorting = "sorting"


def ablate(
    study: Annotated[
        Study,
        typer.Option(
            help="What differs: history (how much of the journal prompts hold: all, its best 5, its best, "
            "nothing), sorting (best first, as made), persona (experts, one generalist), generation (delta, "
            "all of Φ), model."
        ),
    ] = Study.history,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Independent runs of each variant.")] = 6,
    ideas: Annotated[int, typer.Option(min=1, max=10_000, help="Candidates that a run tries.")] = 70,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Chat model as provider:model; repeated for --study model. Default: the embedded engineer."
        ),
    ] = None,
    surface: Annotated[
        str | None, typer.Option(help="Surface to improve. Default: simulated.", show_default=False)
    ] = None,
    persona: Annotated[
        list[str] | None, typer.Option(help="Only these. Default: optimizer and architecture.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first run; the next ones count on.")] = 0,
    seeds: Annotated[int, typer.Option(min=2, max=32, help="Paired trainings per finalist.")] = 4,
    together: Annotated[
        int | None, typer.Option(min=1, max=64, help="Runs at once. Default: the cores.", show_default=False)
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(help="Another address of the provider of --model, http(s)://HOST/PATH.")
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="US dollars that the calls of each run may cost, exit code 3.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Tokens that each run may use, exit code 3.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare ways to ask for proposals: runs of the offline loop that differ in one thing.

    Tells the best loss of each variant, as a share of production's, on the validation period and on the test
    period, with 95% intervals over independent runs, and draws it. Only losses are improved: no reward, no
    live tests. Costs: RUNS x IDEAS x variants candidates, 2 to 3 CPU-seconds each on the simulated surface.
    Writes: HOME/ablations/; the same command goes on where it was interrupted, and so does one with more runs
    or ideas.
    """
    with errors_are_one_line():
        from evorank.display import AblationLines, print_ablation
        from evorank.graph.ablation import Unfinished
        from evorank.graph.ablation import ablate as carry_out
        from evorank.graph.chats import greet
        from evorank.graph.context import Context, close_sessions
        from evorank.graph.settings import load_settings
        from evorank.ui.ablation import picture

        flags = {
            "model": ",".join(model) if model else None,
            "surface": surface,
            "personas": persona or None,
            "max_usd": max_usd,
            "max_tokens": max_tokens,
            "home": str(home) if home else None,
        }
        given = {name: value for name, value in flags.items() if value is not None}
        settings = load_settings(given | {"seed": seed, "seeds": seeds}, base_url=base_url)
        context = Context(**settings.context())
        out = console(error=as_json)
        tell = AblationLines(runs, ideas, out)
        try:
            greet(context)
            with _stops_on_interrupt() as stop:
                found = carry_out(
                    study.value,
                    context,
                    runs=runs,
                    ideas=ideas,
                    together=together or len(os.sched_getaffinity(0)),
                    on_event=tell,
                    stop=stop,
                )
        except Unfinished as unfinished:
            console(error=True).print(f"{unfinished}", markup=False, highlight=False, soft_wrap=True)
            codes = {"interrupted": INTERRUPTED, "budget": BUDGET_SPENT}
            raise typer.Exit(codes.get(unfinished.reason.split(":")[0], FAILED)) from None
        finally:
            close_sessions()
        drawn = Path(found.folder) / "best.svg"
        drawn.write_text(picture(found), encoding="utf-8")
        if as_json:
            print_json(found.model_dump(mode="json"))
        else:
            print_ablation(found.model_dump(mode="json"), out)


@contextmanager
def _stops_on_interrupt() -> Iterator[threading.Event]:
    """First Ctrl-C: running ideas are finished, the rest is left for the same command. Second: stop now."""
    stop = threading.Event()

    def interrupted(_signal: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, interrupted)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
