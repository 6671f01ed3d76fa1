"""What the online loop needs of whoever serves a surface: ports for live tests, exposures and metrics.

A platform is a surface's own (`[online]` of surface.toml names it). Calls that change traffic carry an
idempotency key: after a crash, or from two processes, the same key is one effect. Nothing here judges a test
(`tools/abtest`) or knows when one is due (`graph/`). A platform of your own can be checked with
`evorank doctor --platform module:Class`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, Self, TypeAlias, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evorank.model.conformance import load_class
from evorank.model.errors import ConfigurationError
from evorank.model.system import Float32, Rows
from evorank.surfaces.assignment import Allocation
from evorank.surfaces.surface import Surface

if TYPE_CHECKING:
    import duckdb

    from evorank.surfaces.allocations import Allocations

__all__ = [
    "HOLDBACK",
    "Arm",
    "Estimate",
    "ExperimentPlatform",
    "Exposure",
    "ExposureLog",
    "Ledger",
    "LiveTest",
    "Load",
    "MetricSource",
    "Platform",
    "Ranker",
    "Shares",
    "TestStatus",
    "Timelapse",
    "built",
    "open_platform",
    "platform_class",
]

HOLDBACK = "holdback"
"""Id of the pseudo experiment in the exposures: variation 0 is the holdback, 1 everybody else, whatever they
are served: launches, and the tests on the way to them. So the two differ in all that the loop did."""


class Arm(StrEnum):
    """variation_id of the two arms of a live test."""

    control = "0"
    candidate = "1"


class LiveTest(BaseModel):
    """Two trained artifacts and who sees them. All but the coverage is fixed for the whole test."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    experiment_id: str = Field(min_length=1)
    layer: str = Field(min_length=1, description="Seed of the hash that divides traffic: `Surface.layer`")
    slot: tuple[float, float] = Field(description="[low, high) of the layer's hash: `Online.slot`")
    seed: str = Field(min_length=1, description="Of the arms' hash. A replication uses a fresh one")
    coverage: float = Field(gt=0, le=1, description="Share of the slot's users who take part at first")
    control: str = Field(
        description="Artifact of production at the start. Launches meanwhile do not change it"
    )
    candidate: str = Field(description="Artifact of the candidate")

    @model_validator(mode="after")
    def _can_be_assigned(self) -> Self:
        self.allocation()  # ValueError: slot, or the same seed twice
        return self

    def allocation(self, coverage: float | None = None) -> Allocation:
        """Who sees which arm, at a coverage (default: that of the start)."""
        share = self.coverage if coverage is None else coverage
        return Allocation(self.experiment_id, share, self.layer, self.slot, self.seed)


class TestStatus(BaseModel):
    """What a platform does for one experiment."""

    __test__ = False  # pytest takes every Test* for a test
    model_config = ConfigDict(extra="forbid", frozen=True)
    experiment_id: str
    state: Literal["unknown", "running", "stopped"]
    coverage: float = Field(
        ge=0, le=1, description="Share of the slot's users who take part; 0 unless running"
    )


class Estimate(BaseModel):
    """A platform's own reading of one metric."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    metric: str
    lift: float = Field(description="candidate / control - 1")
    low: float
    high: float
    level: float = Field(gt=0, lt=1, description="Confidence level of [low, high], two-sided")
    method: str = Field(description="How it was made, e.g. 'GrowthBook, frequentist, sequential, CUPED'")
    users_control: int = Field(ge=0)
    users_candidate: int = Field(ge=0)


class Exposure(NamedTuple):
    """One row of the exposure table: this user was shown this arm at this moment (UTC)."""

    user_id: str
    timestamp: datetime
    experiment_id: str
    variation_id: str


class ExperimentPlatform(Protocol):
    """Moves traffic. PlatformError from every method: unreachable, nonsense, or asked for what cannot be.

    `key`: idempotency. A call with a key that was used for the same call is a no-op that returns normally,
    whatever has happened since; for another call it is refused.
    """

    def now(self) -> datetime:
        """Surface time (UTC), which never goes back: the clock, or the date of a simulated world."""
        ...

    def start(self, test: LiveTest, key: str) -> None:
        """Serve both arms from now on. Refused: an id that was started before, a slot that overlaps with
        that of a running test or with the holdback."""
        ...

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        """Let more users take part; those who do stay in their arm. Refused: a lower coverage than now, a
        test that does not run."""
        ...

    def stop(self, experiment_id: str, key: str) -> None:
        """Everybody back to production. Stopping what does not run is fine."""
        ...

    def status(self, experiment_id: str) -> TestStatus:
        """What is being done for an experiment; "unknown" if it was never started."""
        ...

    def running(self) -> list[TestStatus]:
        """All tests that run, in the order they were started."""
        ...

    def launch(self, artifact: str, version: int, key: str) -> None:
        """Serve this artifact (a directory) to everybody outside of tests and the holdback from now on.

        Version 0 is the surface's own production Φ, trained: the holdback is served it too, and no later one.
        Without it, the holdback keeps what served before. A rollback is a launch, with a version of its own.
        A version that was launched before, with another artifact, is the same Φ trained again: it takes the
        place of the one it had, version 0 for the holdback also while a later version serves.
        """
        ...


class ExposureLog(Protocol):
    """Somewhere to write exposures, for platforms whose services log them through us."""

    def append(self, exposures: Sequence[Exposure], key: str) -> None:
        """Add rows; the same key adds them once, and other rows under it are refused. PlatformError."""
        ...


class Ledger(Protocol):
    """What all machines of a surface share, kept where the loop keeps its journal."""

    @property
    def allocations(self) -> Allocations:
        """Who is served what."""
        ...

    @property
    def exposures(self) -> ExposureLog:
        """Who was shown what, as services write it down."""
        ...

    def view(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make what services wrote down the view `exposures` of a connection. PlatformError."""
        ...


class MetricSource(Protocol):
    """Where a test is read."""

    @property
    def exposures(self) -> str:
        """What stands behind FROM: user_id, timestamp (UTC), experiment_id, variation_id."""
        ...

    def connect(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        """A connection in which `exposures` and the `source` of every metric resolve. Read-only to us."""
        ...

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        """The platform's own reading; None: read the tables."""
        ...


class Platform(ExperimentPlatform, MetricSource, Protocol):
    """What a surface is served by."""

    def close(self) -> None:
        """Let go of connections and processes; traffic goes on. Several times are as good as once."""
        ...


@runtime_checkable
class Timelapse(Protocol):
    """A platform whose days pass when it is told: a simulation."""

    def next_day(self) -> None:
        """Live through one day: `now` moves on by 24 hours, exposures and metrics of the day are there."""
        ...


@runtime_checkable
class Shares(Protocol):
    """A platform that may keep what it does in the ledger, for several machines."""

    def share(self, ledger: Ledger) -> None:
        """Called once, before anything else."""
        ...


class Ranker(Protocol):
    """A trained artifact that scores."""

    def score(self, rows: Rows) -> Float32:
        """Score of each row, float32 [n]; higher is shown first. ToolError where the model fails."""
        ...

    def close(self) -> None:
        """End its process."""
        ...


Load: TypeAlias = Callable[[Path], Ranker]
"""Artifact directory -> something that scores, inside the evaluator's locked processes."""

_BUILT_IN: Mapping[str, str] = {
    "simulated": "evorank.surfaces.simulated.platform:SimulatedPlatform",
    "warehouse": "evorank.surfaces.warehouse:WarehousePlatform",
    "growthbook": "evorank.surfaces.growthbook:GrowthBookPlatform",
}


def open_platform(surface: Surface, load: Load, ledger: Ledger | None = None) -> Platform:
    """Who serves `surface`: built as `Class(surface, load)`; its options are `surface.spec.online.options`.

    `load` is for platforms that serve by themselves (the simulation), `ledger` for those that share.
    ConfigurationError: the surface has no `[online]` section, the class cannot be imported, its options are
    wrong.
    """
    online = surface.spec.online
    if online is None:
        raise ConfigurationError(
            f"Surface {surface.name!r} has no live traffic: surface.toml lacks [online]. Add it (platform, "
            "metrics), or use the offline loop alone."
        )
    return built(platform_class(online.platform), surface, load, ledger)


def built(cls: type[Any], surface: Surface, load: Load, ledger: Ledger | None) -> Platform:
    """A platform of this class, given the ledger if it takes one."""
    platform: Platform = cls(surface, load)
    if ledger is not None and isinstance(platform, Shares):
        platform.share(ledger)
    return platform


def platform_class(name: str, field: str = "online.platform") -> type[Any]:
    """The class behind a built-in name or `module:Class`. ConfigurationError: it cannot be imported."""
    return load_class(_BUILT_IN.get(name, name), field)
