"""SimulatedPlatform: a world in a surface's folder that serves, tests and is read like any platform.

    world.npz      people and videos before the day that comes next: replacing it is what commits a day
    platform.json  who is served what            log/ days/ exposures/  what happened, a file a day

A day is a function of world.npz, platform.json and the log before it. Killed on the way, it is lived again
with the same result, bit by bit. One process at a time lives a day; everything else may happen meanwhile, and
counts from the day after. Users do not influence each other, but for the counted click rates that serve
before the first launch: those learn from everybody.
"""

from __future__ import annotations

import datetime
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import duckdb
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from evorank.model.errors import ConfigurationError, EvorankError, PlatformError
from evorank.surfaces.allocations import AllocationFile, Traffic, kept
from evorank.surfaces.assignment import OUTSIDE, HashAssigner, hash_v2
from evorank.surfaces.online import Online
from evorank.surfaces.platform import HOLDBACK, Arm, Estimate, LiveTest, Load, TestStatus
from evorank.surfaces.simulated.logs import LogWriter
from evorank.surfaces.simulated.policies import Greedy
from evorank.surfaces.simulated.serving import Servers
from evorank.surfaces.simulated.tables import DayTables
from evorank.surfaces.simulated.traffic import Sinks, Vector
from evorank.surfaces.simulated.world import World
from evorank.surfaces.surface import Surface
from evorank.surfaces.warehouse import read_options

__all__ = ["Options", "SimulatedPlatform"]

_PRODUCTION, _HOLDBACK = 0, 1


class Options(BaseModel):
    """`[online.options]` of a simulated surface."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    exploration: float = Field(
        default=0.05, ge=0, le=1, description="Share of sessions at random, in every arm, with propensities"
    )
    random_days: int = Field(
        default=2, ge=0, description="First days on which all sessions are, since nothing is known"
    )


class SimulatedPlatform:
    """A `Platform` and a `Timelapse`. Several processes may open one world."""

    exposures = "exposures"

    def __init__(self, surface: Surface, load: Load) -> None:
        """Opens in milliseconds. ConfigurationError: no world in the surface's folder, or wrong options."""
        assert surface.spec.online is not None
        self._online: Online = surface.spec.online
        self._options = read_options(surface, Options)
        self._surface, self._directory = surface, surface.directory
        self._home = surface.home
        self._path = surface.directory / "world.npz"
        if not self._path.exists():
            raise ConfigurationError(
                f"Surface {surface.name!r} has no world: {self._path} is missing. Delete the surface's "
                "folder; a built-in one is made again when it is opened."
            )
        self._file = AllocationFile(surface.directory / "platform.json", surface.layer, self._online.holdback)
        self._tables = DayTables(surface.directory)
        self._servers = Servers(surface.directory, load)
        self._world: World | None = None

    # Moving traffic

    def now(self) -> datetime.datetime:
        """Midnight of the day that comes next."""
        return datetime.datetime.combine(self._today(), datetime.time(), datetime.UTC)

    def start(self, test: LiveTest, key: str) -> None:
        arms = {"control": kept(test.control, self._home), "candidate": kept(test.candidate, self._home)}
        moved = test.model_copy(update=arms)
        self._change(lambda traffic: traffic.start(moved, key), key, *arms.values())

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        self._change(lambda traffic: traffic.ramp(experiment_id, coverage, key), key)

    def stop(self, experiment_id: str, key: str) -> None:
        self._change(lambda traffic: traffic.stop(experiment_id, key), key)

    def launch(self, artifact: str, version: int, key: str) -> None:
        folder = kept(artifact, self._home)
        self._change(lambda traffic: traffic.launch(folder, version, key), key, folder)

    def status(self, experiment_id: str) -> TestStatus:
        return self._file.read().status(experiment_id)

    def running(self) -> list[TestStatus]:
        return [served.status for served in self._file.read().running()]

    def _change(self, transition: Callable[[Traffic], Traffic], key: str, *artifacts: str) -> None:
        """Do it once. What cannot be served is refused here: later, it would stop the world."""

        def checked(traffic: Traffic) -> Traffic:
            for artifact in artifacts if key not in traffic.keys else ():
                self._servers.require(self._home / artifact)
            return transition(traffic)

        self._file.change(checked)

    # Reading

    def connect(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """Views `days` (a row for each active user and day) and `exposures`, of the days that are over."""
        return self._tables.connect(self._today())

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        return None

    def close(self) -> None:
        self._servers.close()
        self._world = None

    # Time

    def next_day(self) -> None:
        """Live through one day: who comes is served, log and tables grow, and the world moves on, last.

        PlatformError: another process is at it, or something broke. The day has then not happened; it can be
        lived again.
        """
        with self._alone():
            try:
                self._live()
            except BaseException as error:
                self.close()  # a world in the middle of a day is of no use
                if isinstance(error, PlatformError) or not isinstance(error, EvorankError):
                    raise
                raise PlatformError(
                    f"Surface {self._surface.name!r} could not live through {self._today()}: {error}"
                ) from error

    def _live(self) -> None:
        world = self._world
        if world is None or world.date != self._today():  # another process has lived on
            self.close()
            world = self._world = World.open(self._path)
        traffic = self._file.read()
        artifacts, names = [traffic.artifact, traffic.first], ["production", HOLDBACK]
        for served in traffic.running():
            artifacts += [served.test.control, served.test.candidate]
            names += [f"{served.test.experiment_id}:{arm}" for arm in Arm]
        folders = [self._home / artifact if artifact else None for artifact in artifacts]
        policies, listeners = self._servers.policies(folders, world.date)
        share = 1.0 if world.day < self._options.random_days else self._options.exploration
        report = world.step_day(
            lambda users: self._arms(traffic, users),
            [Greedy(policy, share) for policy in policies],
            Sinks([LogWriter(self._directory / "log"), *listeners]),
        )
        self._tables.write(report, names, self._variations(traffic, report.users["arm"]))
        world.save(self._path)

    def _arms(self, traffic: Traffic, users: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Number of each user's arm: production, the holdback, then control and candidate of each test."""
        arms = np.full(len(users), _PRODUCTION, np.int64)
        for number, served in enumerate(traffic.running()):
            assigned = HashAssigner().assign(served.test.allocation(served.coverage), users)
            arms = np.where(assigned != OUTSIDE, 2 + 2 * number + assigned, arms)
        arms[hash_v2(self._surface.layer, users) < self._online.holdback] = _HOLDBACK
        return arms

    def _variations(self, traffic: Traffic, arms: Vector) -> dict[str, Vector]:
        """Who is exposed to what today: the holdback against everybody else, and each experiment's arms."""
        found: dict[str, Vector] = {}
        if self._online.holdback:
            found[HOLDBACK] = np.where(arms == _HOLDBACK, 0, 1)
        for number, served in enumerate(traffic.running()):
            variation = arms - (2 + 2 * number)
            inside = (variation == 0) | (variation == 1)
            found[served.test.experiment_id] = np.where(inside, variation, OUTSIDE)
        return found

    def _today(self) -> datetime.date:
        try:
            return World.saved_date(self._path)
        except ConfigurationError as error:
            raise PlatformError(str(error)) from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the world for a day, without waiting. The kernel lets go of it when a process dies."""
        descriptor = os.open(self._directory / "world.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(descriptor, 20, 0).decode(errors="replace") or "unknown"
                raise PlatformError(
                    f"The world of surface {self._surface.name!r} is held by process {owner}, which lives "
                    "through a day of it. Try again when it is done."
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            for left in self._directory.rglob(".day=*.tmp"):  # of processes that were killed
                left.unlink(missing_ok=True)
            for left in self._directory.glob(".world.npz.*.tmp"):
                left.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)
