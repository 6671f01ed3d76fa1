"""source: what the page and the report read of a home: journal, schedule, versions, runs. It writes nothing.

A `Snapshot` is all of one surface at one moment; views are functions of it. Reading one again costs only what
is new: records are kept once read, and a snapshot is kept for as long as nobody has written.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from evorank.graph.activity import Activity, read_activity
from evorank.graph.context import Context
from evorank.graph.exchanges import Exchanges
from evorank.graph.ideas import Ideas
from evorank.graph.inspections import Inspections
from evorank.graph.journal import Journal
from evorank.graph.notes import Kept, Notes
from evorank.graph.plan import Plan
from evorank.graph.recording import Line
from evorank.graph.schedule import Action, Entry, Schedule, Version
from evorank.graph.spending import Call, Spending
from evorank.graph.state import Attempt, Experiment
from evorank.graph.status import audit_launches
from evorank.graph.steering import Directive, Steering
from evorank.graph.store import Store
from evorank.model.delta import fingerprint
from evorank.model.errors import ConfigurationError, EvorankError, PlatformError
from evorank.model.system import Phi
from evorank.personas.persona import personas_of
from evorank.surfaces.checked import checked
from evorank.surfaces.platform import open_platform
from evorank.surfaces.surface import Surface, SurfaceSpec, list_surfaces, open_surface, surface_folder
from evorank.tools.holdback import Audit

__all__ = ["Run", "Snapshot", "Source"]


@dataclass(frozen=True)
class Run:
    """A run as its folder tells it."""

    plan: Plan
    activity: Activity | None
    summary: dict[str, Any] | None
    """`runs.Summary` as JSON, where one was written."""

    @property
    def name(self) -> str:
        return self.plan.run


@dataclass(frozen=True)
class Snapshot:
    """Everything of one surface, as it was at `at`. Treat it as read-only."""

    surface: str
    surfaces: Sequence[str]
    at: datetime
    """Wall clock, UTC."""
    now: datetime | None
    """The surface's time; None: it has no live traffic, or nobody looked yet."""
    spec: SurfaceSpec | None
    attempts: Sequence[Attempt]
    experiments: Sequence[Experiment]
    entries: Sequence[Entry] = ()
    asked: dict[str, list[Action]] = field(default_factory=dict)
    """Experiment -> what people asked of it and no tick has done yet."""
    versions: Sequence[Version] = ()
    runs: Sequence[Run] = ()
    """Oldest first."""
    ideas: int = 0
    directives: Sequence[Directive] = ()
    notes: Sequence[Kept] = ()
    personas: Sequence[str] = ()
    """Who may be asked."""
    inspections: Sequence[dict[str, Any]] = ()
    """Candidates that a run asks a person about, oldest first."""
    calls: Sequence[Call] = ()
    """Every question to a chat model."""
    home: str = ""
    store: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    """Attempt or experiment -> what a search looks at, put together once."""

    @cached_property
    def attempt_of(self) -> dict[str, Attempt]:
        return {each.id: each for each in self.attempts}

    @cached_property
    def experiment_of(self) -> dict[str, Experiment]:
        return {each.id: each for each in self.experiments}

    @cached_property
    def entry_of(self) -> dict[str, Entry]:
        return {each.experiment: each for each in self.entries}

    @cached_property
    def tested(self) -> dict[str, Experiment]:
        """Attempt -> the last experiment that it led to."""
        return {each.attempt: each for each in self.experiments if each.attempt}

    @cached_property
    def version_of(self) -> dict[str, int]:
        """Fingerprint of a production Φ -> the first version that had it."""
        return {each.fingerprint: each.version for each in reversed(self.versions)}

    @cached_property
    def phi_of(self) -> dict[str, Phi]:
        """Fingerprint -> Φ, of every version and every attempt that has one."""
        found = {each.fingerprint: each.phi for each in self.attempts if each.phi and each.fingerprint}
        return found | {each.fingerprint: each.phi for each in self.versions}


class Source:
    """Reads a home. Safe to share between threads.

    `context` names home, store and surface. ConfigurationError: no journal there yet.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.home = context.home_path()
        self.store = Store.open(self.home, context.store, create=False)
        self.journal = Journal(self.store)
        self._lock = threading.RLock()
        self._kept: dict[str, tuple[str, Snapshot]] = {}
        self._runs: dict[Path, tuple[tuple[float, ...], Run | None]] = {}
        self._calls: dict[str, dict[str, Call]] = {}
        self._texts: dict[str, str] = {}
        self._audits: dict[str, tuple[object, Audit | None]] = {}

    def close(self) -> None:
        self.store.close()

    def mark(self) -> str:
        """Another text as soon as there is something new to see. Cheap: pages ask four times a second."""
        folders = self._run_folders()
        newest = max((folder.stat().st_mtime_ns for folder in folders), default=0)
        return f"{self.store.mark()}/{newest}"

    def surfaces(self) -> list[str]:
        """Names of all surfaces that there is something of."""
        with self._lock:
            known = {each.surface for each in self.journal.attempts()}
            known |= {each.surface for each in self.journal.experiments()}
        made = [name for name in list_surfaces(self.home) if self._file(name).exists()]
        return sorted({*known, *made, self.context.surface})

    def snapshot(self, surface: str | None = None) -> Snapshot:
        """All of one surface (default: the context's). ConfigurationError: there is no such surface."""
        name = surface or self.context.surface
        with self._lock:
            mark = self.mark()
            kept = self._kept.get(name)
            if kept is None or kept[0] != mark:
                self._kept[name] = kept = (mark, self._read(name))
            return kept[1]

    def audit(self, surface: str | None = None) -> Audit | None:
        """All launches together, against the holdback, from the platform's tables: asked for once a day of
        the surface. None: before a launch, and without a holdback. EvorankError: it cannot be read."""
        found = self.snapshot(surface)
        launched = sum(each.result == "launched" for each in found.experiments)
        if not launched or found.spec is None or found.spec.online is None:
            return None
        key = (launched, found.now and found.now.date())
        kept = self._audits.get(found.surface)
        if kept is None or kept[0] != key:
            opened = open_surface(self.home, found.surface)
            platform = checked(lambda: open_platform(opened, _nothing_is_served))
            try:
                self._audits[found.surface] = kept = (
                    key,
                    audit_launches(opened, list(found.experiments), platform),
                )
            finally:
                platform.close()
        return kept[1]

    def phi(self, surface: str, mark: str) -> Phi | None:
        """The Φ with a fingerprint: of a version, an attempt, or surface.toml. None: none is known."""
        known = self.snapshot(surface).phi_of
        if mark in known:
            return known[mark]
        opened = self._opened(surface)
        if opened is None:
            return None
        if fingerprint(opened.spec.production) == mark:
            return opened.spec.production
        if not (opened.directory / "data").exists():  # filling in defaults would encode the log first
            return None
        try:
            production = opened.production()
        except EvorankError:
            return None
        return production if fingerprint(production) == mark else None

    def asked(self, attempt: Attempt) -> list[Line]:
        """What was asked of chat models for it and answered; empty where it is too long ago."""
        return Exchanges(self.store, attempt.surface).of(attempt.run, attempt.step)

    # -- how it is read

    def _read(self, name: str) -> Snapshot:
        if name not in (surfaces := self.surfaces()):
            raise ConfigurationError(f"`surface` must be one of {surfaces}, got {name!r}.")
        opened = self._opened(name)
        schedule = Schedule(self.store, name)
        entries = schedule.entries(open_only=False)
        asked = {each.experiment: schedule.pending(each.experiment) for each in entries if not each.closed_at}
        for each in schedule.rollbacks():
            asked.setdefault(each.experiment, []).append(each)
        runs = [run for folder in self._run_folders() if (run := self._run(folder))]
        return Snapshot(
            surface=name,
            surfaces=surfaces,
            at=datetime.now(UTC),
            now=schedule.now(),
            spec=opened.spec if opened else None,
            attempts=self.journal.attempts(surface=name),
            experiments=self._experiments(name, entries),
            entries=entries,
            asked={experiment: actions for experiment, actions in asked.items() if actions},
            versions=schedule.versions(),
            runs=[run for run in runs if run.plan.context.get("surface") == name],
            ideas=len(Ideas(self.store, name).waiting()),
            directives=Steering(self.store, name).all(),
            notes=Notes(self.store, name).all(),
            personas=self._personas(),
            inspections=Inspections(self.store).waiting(surface=name),
            calls=self._spent(name),
            home=str(self.home),
            store=self.store.name,
            texts=self._texts,
        )

    def _experiments(self, name: str, entries: Sequence[Entry]) -> list[Experiment]:
        """Those of the journal, and those that wait in the queue and have no thread yet."""
        found = self.journal.experiments(name)
        known = {each.id for each in found}
        return found + [
            Experiment.model_validate(each.data) for each in entries if each.experiment not in known
        ]

    def _personas(self) -> list[str]:
        try:
            return sorted(personas_of(self.home, self.context.persona_folder))
        except ConfigurationError:  # a file of the home that a run would refuse
            return []

    def _spent(self, name: str) -> list[Call]:
        known = self._calls.setdefault(name, {})
        Spending(self.store, name).catch_up(known)
        return list(known.values())

    def _file(self, name: str) -> Path:
        return surface_folder(self.home, name) / "surface.toml"

    def _opened(self, name: str) -> Surface | None:
        """Only where it is: a simulated world is not made by looking at it."""
        try:
            return open_surface(self.home, name) if self._file(name).exists() else None
        except ConfigurationError:
            return None

    def _run_folders(self) -> list[Path]:
        return sorted(path.parent for path in (self.home / "runs").glob("*/run.json"))

    def _run(self, folder: Path) -> Run | None:
        """Read again only when one of its files is another."""
        files = [folder / name for name in ("run.json", "now.json", "summary.json")]
        stamp = tuple(path.stat().st_mtime if path.exists() else 0.0 for path in files)
        if folder not in self._runs or self._runs[folder][0] != stamp:
            try:
                plan = Plan.model_validate_json(files[0].read_text())
                summary = json.loads(files[2].read_text()) if stamp[2] else None
                run = Run(plan, read_activity(folder), summary)
            except (OSError, ValueError):  # of another version, or being written
                run = None
            self._runs[folder] = (stamp, run)
        return self._runs[folder][1]


def _nothing_is_served(artifact: Path) -> Any:
    raise PlatformError(f"{artifact} is asked to score while the loop is only looked at.")
