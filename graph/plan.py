"""What a run was asked, in HOME/runs/RUN/run.json: enough to go on with it in another process, or program.

Whatever begins a run writes it: `run`, LangGraph Studio, an app around the graph. Not so where proposals come
from a live chat model: nobody else could go on with that.
"""

from __future__ import annotations

import json
import platform
import secrets
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.context import Context, Session, open_session
from evorank.graph.recording import Head
from evorank.model.errors import ConfigurationError, EvorankError

__all__ = ["Plan", "latest_run", "load_plan", "name_run", "new_plan", "remember", "write"]

GraphName = Literal["offline", "evolve"]
NOT_RECORDED = frozenset(
    ("home", "executor", "address", "workers", "device", "allow_degraded", "providers", "record", "replay")
) | {"trackers"}
"""Fields of a context that say where and how a run was carried out, and nothing of what it finds."""


class Plan(BaseModel):
    """What a run was asked to do."""

    model_config = ConfigDict(extra="forbid")
    run: str
    steps: int = Field(ge=1)
    days: int = Field(default=0, ge=0)
    """Days of traffic that may pass on a simulated surface."""
    graph: GraphName = "evolve"
    context: dict[str, Any]
    """The graph's context, without live handles."""
    data_version: str
    production: str
    """Fingerprint of the production Φ that candidates are compared with."""
    created_at: str
    versions: dict[str, str]


def name_run() -> str:
    """A name for a new run: the time, and four letters against two in one second."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def new_plan(context: Context, steps: int, days: int = 0) -> Plan:
    """A fresh run, named by its time, written to disk before anything else happens, its recording begun."""
    session = open_session(context)
    return _write_new(session, name_run(), steps, days, "evolve")


def remember(session: Session, run: str, steps: int, days: int, graph: GraphName) -> None:
    """Write down what a run is asked, unless it is there; a run that shall now try more steps says so."""
    if session.context.chat_model is not None:
        return
    path = _path(session.home, run)
    if not path.exists():
        _write_new(session, run, steps, days, graph)
        return
    plan = load_plan(session.home, run)
    if plan.steps < steps:
        write(path, plan.model_copy(update={"steps": steps}).model_dump_json(indent=2))


def load_plan(home: Path, run: str) -> Plan:
    """ConfigurationError, naming some that are there, where there is no such run."""
    path = _path(home, run)
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


def write(path: Path, text: str) -> None:
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


def _write_new(session: Session, run: str, steps: int, days: int, graph: GraphName) -> Plan:
    plan = Plan(
        run=run,
        steps=steps,
        days=days,
        graph=graph,
        context=session.context.model_dump(mode="json"),
        data_version=session.workbench.dataset.key,
        production=session.production_fingerprint,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={name: version(name) for name in ("evorank", "torch", "langgraph", "duckdb", "numpy")}
        | {"python": platform.python_version()},
    )
    if session.chats.desk.recorder is not None:
        asked = {name: value for name, value in plan.context.items() if name not in NOT_RECORDED}
        session.chats.desk.recorder.begin(Head(run=run, steps=steps, days=days, context=asked))
    write(_path(session.home, run), plan.model_dump_json(indent=2))
    return plan


def _path(home: Path, run: str) -> Path:
    return home / "runs" / run / "run.json"


def _runs(home: Path) -> list[str]:
    """Oldest first."""
    return [path.parent.name for path in sorted((home / "runs").glob("*/run.json"), key=_begun)]


def _begun(path: Path) -> tuple[str, str]:
    """When a run began, by its plan; one that cannot be read comes first, and is told where it is loaded."""
    try:
        return str(json.loads(path.read_text())["created_at"]), path.parent.name
    except (ValueError, KeyError, TypeError):
        return "", path.parent.name
