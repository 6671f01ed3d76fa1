"""status: what a person can see and ask of a surface's online loop. Starts no process and moves nothing.

What a person asks is a row that the next tick acts on, exactly once: it does not matter which machine the
tick runs on, or whether one runs now.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from evorank.graph.context import Context
from evorank.graph.ideas import Ideas
from evorank.graph.journal import Journal
from evorank.graph.ledger import StoredLedger
from evorank.graph.schedule import Entry, Schedule
from evorank.graph.state import Experiment
from evorank.graph.store import Store
from evorank.model.errors import ConfigurationError, ToolError
from evorank.surfaces.checked import checked
from evorank.surfaces.platform import Platform, open_platform
from evorank.surfaces.surface import Surface, open_surface
from evorank.tools.abtest.plan import naive_utc
from evorank.tools.holdback import Audit, audit

__all__ = ["Action", "Overview", "audit_launches", "overview", "refused", "reorder", "request"]

Action = Literal["approve", "abort", "pause", "resume", "rollback"]


class Overview(BaseModel):
    """The online loop of a surface as it stands."""

    model_config = ConfigDict(extra="forbid")
    surface: str
    now: datetime
    """The surface's time."""
    versions: list[dict[str, Any]]
    """Every production version, oldest first: version, fingerprint, experiment, why, at."""
    live: list[dict[str, Any]]
    """`Experiment.summary()` of what has left the queue and not ended, with `waits_for` and `due`."""
    queue: list[dict[str, Any]]
    """What waits for a place, in order, with `position`."""
    ideas: int
    """Candidates that wait for the next run to measure them: refused by a launch, or won elsewhere."""
    ended: dict[str, int]
    """Result -> how many experiments ended so."""
    audit: Audit | None = Field(description="All launches together, against the holdback; None before one")


def overview(context: Context) -> Overview:
    """Read the schedule, the journal and the holdback. ConfigurationError: no such surface, no traffic."""
    with _reading(context) as (surface, schedule, journal, platform):
        experiments = {each.id: each for each in journal.experiments(surface.name)}
        entries = schedule.entries()
        ended: dict[str, int] = {}
        for each in experiments.values():
            if each.result is not None:
                ended[each.result] = ended.get(each.result, 0) + 1
        return Overview(
            surface=surface.name,
            now=platform.now(),
            versions=[each.model_dump(mode="json", exclude={"phi"}) for each in schedule.versions()],
            live=[_shown(entry, experiments) for entry in entries if entry.phase != "proposed"],
            queue=[_shown(entry, experiments) for entry in entries if entry.phase == "proposed"],
            ideas=len(Ideas(schedule.store, surface.name).waiting()),
            ended=ended,
            audit=audit_launches(surface, list(experiments.values()), platform),
        )


def request(context: Context, which: str, action: Action, *, by: str, reason: str) -> str:
    """Ask something of an experiment; told in a sentence. ConfigurationError: unknown, or not now."""
    with _schedule(context) as schedule:
        entry = _find(schedule, which)
        if refusal := refused(schedule, entry, action):
            raise ConfigurationError(refusal)
        schedule.request(entry.experiment, action, by=by, reason=reason)
        return f"{action} {entry.experiment[:8]}: the next tick does it (python cli.py online tick)"


def refused(schedule: Schedule, entry: Entry, action: Action) -> str:
    """Why an action cannot be asked of an experiment now, in a sentence; "": it can."""
    name = f"experiment {entry.experiment[:8]}"
    if action == "rollback":
        serving = schedule.current()
        if serving is None or serving.experiment != entry.experiment:
            return f"{name} is not what serves now; there is nothing to take back."
        if any(each.experiment == entry.experiment for each in schedule.rollbacks()):
            return f"somebody asked for the rollback of {name} already."
        return ""
    if entry.closed_at is not None:
        return f"{name} has ended; nothing can be asked of it."
    if action == "approve" and entry.waiting != "approval":
        return (
            f"{name} is {entry.phase} and waits for {entry.waiting or 'the next tick'}, not for an approval."
        )
    asked = [each.action for each in schedule.pending(entry.experiment)]
    held = next((each == "pause" for each in reversed(asked) if each in ("pause", "resume")), entry.paused)
    if action in ("pause", "resume") and held == (action == "pause"):
        return f"{name} is {action}d already."
    return ""


def reorder(context: Context, which: str, position: int) -> str:
    """Give a waiting experiment another place in the queue, from 1."""
    with _schedule(context) as schedule:
        entry = _find(schedule, which)
        if entry.phase != "proposed":
            raise ConfigurationError(
                f"experiment {entry.experiment[:8]} is {entry.phase}: it has left the queue."
            )
        schedule.move(entry.experiment, position)
        queue = [each for each in schedule.entries() if each.phase == "proposed"]
        place = [each.experiment for each in queue].index(entry.experiment) + 1
        return f"{entry.experiment[:8]} is number {place} of {len(queue)} in the queue"


def _find(schedule: Schedule, which: str) -> Entry:
    found = [each for each in schedule.entries(open_only=False) if each.experiment.startswith(which)]
    if len(found) != 1:
        what = "no experiment" if not found else f"{len(found)} experiments"
        raise ConfigurationError(
            f"`{which}` names {what}. `online status` shows ids; give enough of one to be unique."
        )
    return found[0]


def _shown(entry: Entry, experiments: dict[str, Experiment]) -> dict[str, Any]:
    record = experiments.get(entry.experiment) or Experiment.model_validate(entry.data)
    due = entry.due.isoformat() if entry.due else None
    return record.summary() | {
        "position": entry.position,
        "waits_for": "nothing: it is paused" if entry.paused else entry.waiting,
        "due": due,
        "users": record.readings[-1]["users"] if record.readings else None,
        "until": record.plan["start"] if record.plan else None,
    }


def audit_launches(surface: Surface, experiments: list[Experiment], platform: Platform) -> Audit | None:
    """All launches so far together, against the holdback; None before the first, and without a holdback."""
    online = surface.spec.online
    launched = [each.times["completed"] for each in experiments if each.result == "launched"]
    if online is None or not online.holdback or not launched:
        return None
    since, now = datetime.fromisoformat(min(launched)), platform.now()
    if naive_utc(since) >= naive_utc(now):
        return None
    first_test = datetime.fromisoformat(min(each.times["live"] for each in experiments if each.started))
    with platform.connect() as connection:
        return audit(connection, online, platform.exposures, since, now, first_test)


@contextmanager
def _schedule(context: Context) -> Iterator[Schedule]:
    """Of a surface that has one; its platform is not asked for anything."""
    if open_surface(context.home_path(), context.surface).spec.online is None:
        raise ConfigurationError(
            f"surface `{context.surface}` has no live traffic: nothing can be asked of it."
        )
    store = Store.open(context.home_path(), context.store)
    try:
        yield Schedule(store, context.surface)
    finally:
        store.close()


@contextmanager
def _reading(context: Context) -> Iterator[tuple[Surface, Schedule, Journal, Platform]]:
    home = context.home_path()
    surface = open_surface(home, context.surface)
    store = Store.open(home, context.store)
    try:
        ledger = StoredLedger(store, surface)
        platform = checked(lambda: open_platform(surface, _nothing_is_served, ledger))
        try:
            yield surface, Schedule(store, surface.name), Journal(store), platform
        finally:
            platform.close()
    finally:
        store.close()


def _nothing_is_served(artifact: Path) -> Any:
    raise ToolError(f"{artifact} is asked to score while the loop is only looked at.")
