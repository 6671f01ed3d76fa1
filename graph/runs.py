"""What `run` runs: both loops from the first step to the report on what came of it.

A run is a folder HOME/runs/RUN with what it was asked (`run.json`) and what came out (`summary.json`); until
it is complete, also one checkpointed thread of the graph `evolve` in HOME/runs/checkpoints.sqlite. Killed at
any point, `carry_out` with the same plan goes on where it stopped.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.activity import Teller
from evorank.graph.chats import Greeting
from evorank.graph.context import Context, Session, open_session
from evorank.graph.evolve import builder
from evorank.graph.journal import thread_id
from evorank.graph.offline import best_attempt
from evorank.graph.operations import open_operations
from evorank.graph.recording import Head
from evorank.graph.reviews import Linted, linted
from evorank.graph.spending import by_model
from evorank.graph.state import Attempt, Usage
from evorank.graph.status import audit_launches
from evorank.model.errors import ConfigurationError, EvorankError, RefusedDelta, ToolError
from evorank.tools.comparison import Comparison
from evorank.tools.compute_loss import final_comparison
from evorank.tools.holdback import Audit

__all__ = ["Plan", "Summary", "carry_out", "latest_run", "load_plan", "new_plan"]

NOT_RECORDED = frozenset(
    ("home", "executor", "address", "workers", "device", "allow_degraded", "providers", "record", "replay")
)
"""Fields of a context that say where and how a run was carried out, and nothing of what it finds."""
Event = Mapping[str, Any]


class Plan(BaseModel):
    """What a run was asked to do: enough to go on with it in another process."""

    model_config = ConfigDict(extra="forbid")
    run: str
    steps: int = Field(ge=1)
    days: int = Field(default=0, ge=0)
    """Days of traffic that may pass on a simulated surface."""
    context: dict[str, Any]
    """The graph's context, without live handles."""
    data_version: str
    production: str
    """Fingerprint of the production Φ that candidates are compared with."""
    created_at: str
    versions: dict[str, str]


class Summary(BaseModel):
    """What a run found, as `run --json` prints it and `summary.json` keeps it."""

    model_config = ConfigDict(extra="forbid")
    run: str
    surface: str
    steps: int
    finished: int
    stopped: str | None = None
    """Why the run ended before its last step; None when it is complete."""
    outcomes: dict[str, int]
    personas: dict[str, dict[str, int]]
    """persona -> outcome -> count."""
    categories: dict[str, dict[str, int]]
    """category -> outcome -> count."""
    linter: Linted = Field(default_factory=Linted)
    switched_off: dict[str, str] = Field(default_factory=dict)
    """persona -> why it does not take part on this surface."""
    best: Attempt | None = None
    """The surest improvement of the loss: of those `better`, the one whose interval ends lowest."""
    test: Comparison | None = None
    """`best` against production on the test period, which the loop never saw. None on a surface with live
    traffic: people have judged."""
    experiments: list[dict[str, Any]] = Field(default_factory=list)
    """`Experiment.summary()` of what this run proposed, in order."""
    queued: int = 0
    """Candidates of the surface that still wait for a live test."""
    days: int = 0
    """Days that the surface lived during the run."""
    usage: Usage = Field(default_factory=Usage)
    """What its calls to chat models cost, and its trainings: also of steps that were not finished."""
    costs: list[dict[str, Any]] = Field(default_factory=list)
    """The same per persona and model: {"persona", "model", "usage"}."""
    prices: str = ""
    """The date of the table of prices."""
    replayed: bool = False
    """A recording has answered: what it cost was paid before."""
    audit: Audit | None = None
    """All launches on this surface together, against the users whom none ever reached."""
    note: str = ""
    seconds: float
    """Wall time of this process's part of the run."""
    training_cpu_seconds: float
    report_seconds: float
    files: dict[str, str]
    resume: str | None = None


def new_plan(context: Context, steps: int, days: int = 0) -> Plan:
    """A fresh run, named by its time, written to disk before anything else happens, its recording begun."""
    session = open_session(context)
    now = datetime.now(UTC)
    plan = Plan(
        run=f"{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        steps=steps,
        days=days,
        context=context.model_dump(mode="json"),
        data_version=session.workbench.dataset.key,
        production=session.production_fingerprint,
        created_at=now.isoformat(timespec="seconds"),
        versions={name: version(name) for name in ("evorank", "torch", "langgraph", "duckdb", "numpy")}
        | {"python": platform.python_version()},
    )
    if session.chats.desk.recorder is not None:
        asked = {name: value for name, value in plan.context.items() if name not in NOT_RECORDED}
        session.chats.desk.recorder.begin(Head(run=plan.run, steps=steps, days=days, context=asked))
    _write(session.home / "runs" / plan.run / "run.json", plan.model_dump_json(indent=2))
    return plan


def load_plan(home: Path, run: str) -> Plan:
    path = home / "runs" / run / "run.json"
    if not path.exists():
        known = ", ".join(_runs(home)[-5:]) or "none"
        raise ConfigurationError(
            f"`--resume` names run {run!r}, which is not under {home / 'runs'}. Known: {known}."
        )
    try:
        return Plan.model_validate_json(path.read_text())
    except ValueError as error:
        raise ConfigurationError(f"`{path}` cannot be read as a run's plan: {error}") from error


def latest_run(home: Path) -> str:
    """The newest run that has no summary of a complete end."""
    for run in reversed(_runs(home)):
        summary = home / "runs" / run / "summary.json"
        if not summary.exists() or json.loads(summary.read_text()).get("stopped"):
            return run
    raise ConfigurationError(f"`--resume` found no unfinished run under {home / 'runs'}.")


def carry_out(
    plan: Plan,
    context: Context,
    on_event: Callable[[Event], None] = lambda _: None,
    greetings: Sequence[Greeting] = (),
) -> Summary:
    """Carry out a plan, or what is left of it, and report on the test period.

    `context` is the plan's own, with live handles; `greetings`: what `chats.greet` has heard from its models.
    Raises EvorankError for what stops a run as a whole; what goes wrong with one candidate is in the journal
    instead.
    """
    started = time.monotonic()
    session = open_session(context)
    session.chats.desk.budget.begin()
    session.chats.note(greetings, plan.run)
    grows = session.surface.spec.online is not None
    if not grows and session.workbench.dataset.key != plan.data_version:
        raise ConfigurationError(
            f"run {plan.run} was started on data version {plan.data_version[:12]}, surface "
            f"`{session.surface.name}` now has {session.workbench.dataset.key[:12]}. Start a new run."
        )
    folder = session.home / "runs" / plan.run
    with (
        _alone(folder / "lock", plan.run),
        session.checkpointer() as saver,
        closing(Teller(folder, plan.run, session.surface.name, on_event)) as tell,
    ):
        graph = builder.compile(checkpointer=saver)
        config: Any = {
            "configurable": {"thread_id": thread_id(plan.run)},
            "metadata": {"kind": "run", "graph": "evolve", "surface": session.surface.name, "run": plan.run},
            "recursion_limit": 20 * (plan.steps + plan.days) + 200,
        }
        # A run in the middle of a batch goes on there; one that stopped between batches is asked again, and
        # finds in the journal what is left.
        waiting = bool(graph.get_state(config).tasks)
        given: Any = None if waiting else {"steps": plan.steps, "run": plan.run, "days": plan.days}
        for *_, event in graph.stream(
            given,
            config,
            context=context,
            stream_mode=["custom"],
            subgraphs=True,
            durability="sync",
        ):
            assert isinstance(event, dict)
            tell(event)
        ended = graph.get_state(config).values
        summary = _summarize(plan, session, ended, time.monotonic() - started, tell)
        _write(folder / "summary.json", summary.model_dump_json(indent=2))
        if summary.stopped is None:  # its attempts are in the journal; the way there is of no more use
            saver.delete_thread(thread_id(plan.run))
    return summary


@contextmanager
def _alone(path: Path, run: str) -> Iterator[None]:
    """Hold a run against other processes; a process that dies lets go. ConfigurationError if it is held."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"run {run} is being carried out by another process. Wait for it, or start a new run."
            ) from None
        yield


def _summarize(
    plan: Plan,
    session: Session,
    ended: Mapping[str, Any],
    seconds: float,
    on_event: Callable[[Event], None],
) -> Summary:
    """`ended`: the last state of the run's graph."""
    reporting = time.monotonic()
    attempts = sorted(session.journal.attempts(run=plan.run), key=lambda attempt: attempt.step)
    best = best_attempt(attempts)
    live = _what_people_said(plan, session, ended) if session.surface.spec.online is not None else {}
    done = len(attempts) >= plan.steps and not (session.stop.is_set() and ended.get("live"))
    complete = done and not ended.get("stopped")
    stopped = ended.get("stopped") or session.stop_reason or "stopped"
    calls = session.chats.desk.spending.calls(plan.run)
    trained = Usage(cpu_seconds=sum(attempt.usage.cpu_seconds for attempt in attempts))
    test, note = (None, "") if live or not complete else _test(plan, session, best, on_event)
    folder = session.home / "runs" / plan.run
    return Summary(
        run=plan.run,
        surface=session.surface.name,
        steps=plan.steps,
        finished=len(attempts),
        stopped=None if complete else stopped,
        outcomes=dict(Counter(attempt.outcome for attempt in attempts)),
        personas=_counted(attempts, "persona"),
        categories=_counted(attempts, "category"),
        linter=linted(attempts),
        switched_off=session.switched_off,
        best=best,
        test=test,
        note=note,
        seconds=seconds,
        training_cpu_seconds=trained.cpu_seconds,
        usage=sum((call.usage for call in calls), trained),
        costs=by_model(calls),
        prices=session.chats.prices.as_of,
        replayed=session.context.replay is not None,
        report_seconds=time.monotonic() - reporting,
        files={
            "journal": session.store.name,
            "run": str(folder),
            "surface": str(session.surface.directory),
        },
        resume=None if done else _resume(plan, session, stopped),
        **live,
    )


def _counted(attempts: Sequence[Attempt], by: str) -> dict[str, dict[str, int]]:
    """Value of the field `by` -> outcome -> how many attempts."""
    found: dict[str, Counter[str]] = {}
    for attempt in attempts:
        found.setdefault(getattr(attempt, by) or "none", Counter())[attempt.outcome] += 1
    return {name: dict(counts) for name, counts in found.items()}


def _resume(plan: Plan, session: Session, stopped: str) -> str:
    """The command that goes on, with more money or tokens where these are spent."""
    command = f"python cli.py run --resume {plan.run} --home {os.path.relpath(session.home)}"
    context = session.context
    if stopped.endswith("dollars spent") and context.max_usd is not None:
        command += f" --max-usd {2 * context.max_usd:g}"
    if stopped.endswith("tokens spent") and context.max_tokens is not None:
        command += f" --max-tokens {2 * context.max_tokens}"
    return command


def _test(
    plan: Plan, session: Session, best: Attempt | None, on_event: Callable[[Event], None]
) -> tuple[Comparison | None, str]:
    """The best candidate against production on the test period, or why there is no such comparison."""
    if best is None or best.phi is None:
        return None, "No candidate improved the proxy beyond noise, so the test period was not opened."
    on_event({"event": "note", "text": "scoring the best candidate and production on the test period"})
    try:
        return final_comparison(best.phi, session.workbench, _report_seeds(plan)), ""
    except (RefusedDelta, ToolError) as error:
        return None, f"The test period could not be scored: {error}"


def _what_people_said(plan: Plan, session: Session, ended: Mapping[str, Any]) -> dict[str, Any]:
    """The online part of a summary: this run's experiments, and the audit of every launch so far."""
    operations = open_operations(session.context)
    found = session.journal.experiments(session.surface.name)
    now = operations.platform.now()
    begun = datetime.fromisoformat(ended["begun"]) if ended.get("begun") else now
    return {
        "experiments": [each.summary() for each in found if each.run == plan.run],
        "queued": sum(entry.phase == "proposed" for entry in operations.schedule.entries()),
        "days": (now - begun).days,
        "audit": audit_launches(session.surface, found, operations.platform),
    }


def _report_seeds(plan: Plan) -> range:
    """Trainings that no choice was made on: other seeds than the loop's, twice as many."""
    start = 1000 * (1 + int(plan.context["seed"]))
    return range(start, start + 2 * int(plan.context["seeds"]))


def _runs(home: Path) -> list[str]:
    return sorted(path.parent.name for path in (home / "runs").glob("*/run.json"))


def _write(path: Path, text: str) -> None:
    """Whole or not at all: a crash never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    try:
        draft.write_text(text + "\n")
        draft.replace(path)
    except OSError as error:
        raise EvorankError(
            f"`{path}` could not be written: {error}. Free some space or choose another --home."
        ) from error
