"""operations: what the online loop works with: a surface's platform, its schedule, production as it is now.

Everything here can be asked for again after a crash: models are named by what they were trained on, and a
folder that is there and whole is not made twice.
"""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from langgraph.graph.state import CompiledStateGraph

from evorank.graph.context import Context, Session, open_session
from evorank.graph.ledger import StoredLedger
from evorank.graph.schedule import Schedule, Version
from evorank.model.delta import apply_delta, fingerprint
from evorank.model.errors import ConfigurationError, Finding, RefusedDelta, ToolError
from evorank.model.system import Float32, Phi
from evorank.surfaces.checked import checked
from evorank.surfaces.online import Online
from evorank.surfaces.platform import Platform, open_platform
from evorank.tools.evaluator.artifact import Artifact
from evorank.tools.metrics import auc, positives
from evorank.tools.workbench import Workbench

__all__ = ["Operations", "open_operations", "rebase", "require_progress"]

REFRESH_DAYS = 7
"""A log that is older than this is encoded anew before something is measured on it."""
VERIFIED_ROWS = 2_000
NO_PROGRESS = 0.51
"""An AUC."""


class Operations:
    """The live handles of a surface's online loop, on top of a session's. Made by `open_operations`."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.home = session.home
        self.surface = session.surface
        self.online = _online(session)
        self.schedule = Schedule(session.store, self.surface.name)
        load = session.workbench.executor.scorer
        ledger = StoredLedger(session.store, self.surface)
        self.platform: Platform = checked(lambda: open_platform(self.surface, load, ledger))
        self._renewed: datetime | None = None

    @property
    def bench(self) -> Workbench:
        return self.session.workbench

    @cached_property
    def graph(self) -> CompiledStateGraph[Any, Context, Any, Any]:
        """An experiment's graph on this store. Kept: to compile it takes longer than most of its steps."""
        from evorank.graph.online import builder  # it imports this module

        return builder.compile(checkpointer=self.session.store.saver)

    def prepare(self, on_progress: Callable[[str], None]) -> None:
        """Serve production's own trained model, if nothing was ever launched here; and go on from today's."""
        if self.schedule.current() is None:
            self.renew()
            phi = self.bench.production
            folder = self.train(phi, on_progress)
            artifact = str(folder.relative_to(self.home))
            why = "the production Φ that the surface began with"
            first = self.schedule.launch(phi=phi, artifact=artifact, experiment=None, why=why, key="first")
            self.schedule.trained(first.version, artifact, self.platform.now())
        self.serve()  # again and again: a crash may have come before the platform knew
        self.renew()

    def refresh(self, on_progress: Callable[[str], None], *, due: bool = False) -> None:
        """Train what serves, and what the holdback keeps, on the newest log, and serve that.

        Whoever trains a test does it too, so that all that people are shown has seen the same log, and what
        launches gained is not mixed with what newer data did. `due`: only after `refresh_days` without one.
        ToolError, RefusedDelta: a training failed; what served before goes on.
        """
        days, versions = self.online.refresh_days, self.schedule.versions()
        if not days or not versions:
            return
        now = self.platform.now()
        trained = [version.trained for version in versions if version.trained is not None]
        if due and trained and (now - max(trained)).days < days:
            return
        if due:
            self.renew(force=True)
        for version in {each.version: each for each in (versions[0], versions[-1])}.values():
            folder = self.train(version.phi, on_progress)
            self.schedule.trained(version.version, str(folder.relative_to(self.home)), now)
        self.serve()

    def roll_back(self, to: int | None, *, by: str, reason: str) -> Version:
        """Serve an earlier version (default: the one before) again, as a new version. ConfigurationError:
        there is none."""
        current = self.schedule.current()
        if to is None and (current is None or current.version == 1):
            raise ConfigurationError(
                f"surface `{self.surface.name}` has no earlier version to go back to; nothing was changed."
            )
        assert to is not None or current is not None
        version = self.schedule.rollback(to or (current.version - 1 if current else 0), by, reason)
        self.serve()
        self.renew()
        return version

    def serve(self) -> None:
        """Let the platform serve the newest version, and the newest models of it and of the first: once,
        however often it is told. It counts launches after the first: its version 0 is what the surface began
        with, and what the holdback keeps."""
        versions = self.schedule.versions()
        first, current = versions[0], versions[-1]
        launched = str(self.home / current.artifact)
        self.platform.launch(launched, current.version - 1, key=f"launch/{current.version}")
        for version in (first, current):
            if version.serving != version.artifact:
                key = f"refresh/{version.version}/{Path(version.serving).name}"
                self.platform.launch(str(self.home / version.serving), version.version - 1, key=key)

    def production(self) -> Phi:
        """Φ that serves today: the latest version, or what surface.toml starts with."""
        version = self.schedule.current()
        return version.phi if version is not None else self.surface.production()

    def production_of(self, wanted: str) -> Phi:
        """The production Φ, of today or another time, with a fingerprint. ConfigurationError: none had it."""
        for version in reversed(self.schedule.versions()):
            if version.fingerprint == wanted:
                return version.phi
        first = self.surface.production()
        if fingerprint(first) == wanted:
            return first
        raise ConfigurationError(
            f"no production version of surface `{self.surface.name}` has the fingerprint {wanted[:12]}. "
            "Propose the delta against today's production."
        )

    def renew(self, *, force: bool = False) -> Workbench:
        """The workbench with production as it is, on a log that is a week old at most."""
        now = self.platform.now()
        stale = self._renewed is None or (now - self._renewed).days >= REFRESH_DAYS
        production = self.production()
        if force or stale or production != self.bench.production:
            spec = self.surface.spec.model_copy(update={"production": production})
            self.session.renew(replace(self.surface, spec=spec))
            self._renewed = now
        return self.bench

    def train(self, phi: Phi, on_progress: Callable[[str], None]) -> Path:
        """The folder with `phi` trained on the workbench's log; trained only where it is not there yet.

        The name says what it was trained on, so asking again after a crash is the same request. ToolError
        where the training fails, breaks a guardrail or learns nothing, or what was exported does not score as
        it did.
        """
        bench = self.bench
        folder = self.home / "artifacts" / f"{fingerprint(phi)[:16]}-{bench.dataset.key[:12]}"
        if folder.exists():
            Artifact.open(folder)  # what was changed since is not served
            return folder
        for left in folder.parent.glob(f".{folder.name}.*"):
            if not Path(f"/proc/{left.suffix[1:]}").exists():
                shutil.rmtree(left, ignore_errors=True)  # of a process that was killed
        on_progress(f"training {fingerprint(phi)[:8]} on {bench.dataset.key[:8]}")
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        try:
            evaluation = bench.export(phi, draft)
            broken = bench.exceeded(latency_ms=evaluation.latency_ms, parameters=float(evaluation.parameters))
            if broken:
                raise RefusedDelta(broken)
            objective = bench.system.objective(phi)
            require_progress(evaluation.predictions, positives(bench.labels(objective), objective.loss))
            self._verify(draft, evaluation.predictions)
            try:
                draft.rename(folder)
            except OSError:  # another process was quicker; it trained the same
                Artifact.open(folder)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def _verify(self, folder: Path, expected: np.ndarray[Any, np.dtype[np.float32]]) -> None:
        """Load what was exported in a process that has never seen it, and let it score rows again."""
        bench = self.bench
        begin = bench.score_slice("full").start
        expected = expected[:VERIFIED_ROWS]
        with bench.executor.scorer(folder) as scorer:
            found = scorer.score(bench.dataset.rows(slice(begin, begin + len(expected))))
        if not np.allclose(found, expected, rtol=1e-4, atol=1e-5):
            raise ToolError(
                f"{folder.name} scores other than the model that was exported: the largest difference is "
                f"{np.abs(found - expected).max():.3g}. Its weights depend on more than was saved."
            )

    def slot(self, busy: set[int]) -> int | None:
        """A part of the traffic that no live test has, None where there is none."""
        return next((number for number in range(self.online.slots) if number not in busy), None)


def require_progress(predictions: Float32, positive: npt.NDArray[np.bool_]) -> None:
    """ToolError where a training ended without an error and surely learned nothing.

    On later rows, even an AUC of two standard errors of coins more than what was found would be nearly that
    of coins. Few rows never say so surely.
    """
    yes, no = int(positive.sum()), int((~positive).sum())
    if not yes or not no:
        return  # a period of one class says nothing of order
    found, coins = auc(predictions, positive), math.sqrt((yes + no + 1) / (12 * yes * no))
    if found + 2 * coins < NO_PROGRESS:
        raise ToolError(
            f"The training made no progress: on {yes + no:,} later rows its AUC is {found:.4f}, as coins "
            "have it. Look at the optimizer's step and at the label."
        )


def rebase(changes: list[dict[str, Any]], old: Phi, new: Phi) -> Phi:
    """The same changes on another production. RefusedDelta where it changed in the same place.

    What a change replaced or removed must be as it was (a `test` operation), and what it added must not be
    there with another value.
    """
    if old == new:
        return apply_delta(new, changes)
    guarded: list[dict[str, Any]] = []
    clashes: list[Finding] = []
    for change in changes:
        path = str(change["path"])
        if change["op"] in ("replace", "remove"):
            guarded.append({"op": "test", "path": path, "value": _at(old, path)})
        elif _at(new, path, ABSENT) not in (ABSENT, change.get("value")):
            clashes.append(Finding(path, "was set by a launch since this was proposed", _at(new, path)))
        guarded.append(change)
    if clashes:
        raise RefusedDelta(clashes)
    return apply_delta(new, guarded)


ABSENT = object()


def _at(phi: Any, path: str, default: Any = None) -> Any:
    """What stands at a JSON Pointer, or `default`."""
    for token in path.split("/")[1:]:
        token = token.replace("~1", "/").replace("~0", "~")
        if not isinstance(phi, Mapping) or token not in phi:
            return default
        phi = phi[token]
    return phi


_lock = threading.Lock()


def open_operations(context: Context) -> Operations:
    """The operations of a context's surface, opened once per session. ConfigurationError: no traffic."""
    session = open_session(context)
    with _lock:
        if session.operations is None:
            session.operations = Operations(session)
        return session.operations


def _online(session: Session) -> Online:
    online = session.surface.spec.online
    if online is None:
        raise ConfigurationError(
            f"surface `{session.surface.name}` has no live traffic: surface.toml has no [online] section, so "
            "nothing can be tested on people. Add one, or use a surface that has it, such as `simulated`."
        )
    return online
