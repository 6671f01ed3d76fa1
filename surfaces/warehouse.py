"""A surface whose tables DuckDB can read and whose service asks OpenFeature: no product for tests is needed.

Exposures and metrics are read where they lie (Parquet, CSV, JSON, a DuckDB file, or whatever a DuckDB
extension attaches); traffic is moved through `allocations.json` in the surface's folder, which the service
follows. The service logs exposures: `tools/abtest/provider.py` has a hook for it. No network of its own.
Where several machines tick or serve (`shared = true`), both are in the store of the loop instead.

    [online]
    platform = "warehouse"
    [online.options.tables]
    exposures = { path = "/lake/exposures/*.parquet" }
    days = { path = "/lake/days/*.parquet" }
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from evorank.model.errors import ConfigurationError, LogError, PlatformError
from evorank.model.logs.spec import Source
from evorank.surfaces.allocations import AllocationFile, Allocations, kept
from evorank.surfaces.platform import Estimate, Ledger, LiveTest, Load, TestStatus
from evorank.surfaces.surface import Surface

if TYPE_CHECKING:
    import duckdb

__all__ = ["Tables", "WarehousePlatform", "read_options"]

FILE = "allocations.json"


class Tables(BaseModel):
    """Where exposures and metrics are read. The owner's SQL is trusted."""

    model_config = ConfigDict(extra="forbid")
    exposures: str = Field(
        default="exposures",
        description="What stands behind FROM: user_id, timestamp (UTC), experiment_id, variation_id",
    )
    tables: dict[str, Source] = Field(
        default_factory=dict,
        description="Name -> files (globs, or a table of a DuckDB file); relative to surface.toml",
    )
    setup: list[str] = Field(
        default_factory=list,
        description="SQL run first in every connection, e.g. INSTALL postgres, ATTACH ... (READ_ONLY), "
        "CREATE VIEW. Names in it and in `exposures` are then as in that SQL",
    )
    memory_limit: str = Field(default="2GB", description="Of DuckDB")

    @contextmanager
    def connect(self, directory: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own with all views, closed afterwards. PlatformError names what cannot be read.

        Files are looked up anew each time, so that a glob finds those of today.
        """
        import duckdb

        from evorank.model.logs import sources

        connection = sources.connect(self.memory_limit)
        try:
            try:
                for number, statement in enumerate(self.setup):
                    with sources.explained(f"online.options.setup[{number}]"):
                        connection.execute(statement)
                for name, source in self.tables.items():
                    field = f"online.options.tables.{name}"
                    based = source.model_copy(
                        update={"path": [str(directory / each) for each in source.paths()]}
                    )
                    query = sources.relation(connection, based, field)
                    connection.execute(
                        f"CREATE TEMP VIEW {sources.identifier(name)} AS SELECT * FROM {query}"
                    )
            except (LogError, duckdb.Error) as error:
                raise PlatformError(str(error)) from error
            yield connection
        finally:
            connection.close()


class Options(Tables):
    """`[online.options]` of a warehouse."""

    shared: bool = Field(
        default=False,
        description="Several machines: who is served what, and the exposures that services write through "
        "graph/ledger.py, are where the loop keeps its journal (--store), not in a file and a table of yours",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> Self:
        if self.shared and (self.exposures != "exposures" or "exposures" in self.tables):
            raise ValueError("`shared` brings the table `exposures`: leave out your own")
        return self


_Options = TypeVar("_Options", bound=BaseModel)


def read_options(surface: Surface, model: type[_Options]) -> _Options:
    """`[online.options]` of a surface as `model`. ConfigurationError names the option that is wrong."""
    online = surface.spec.online
    try:
        return model.model_validate(online.options if online else {})
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(["online", "options", *map(str, first["loc"])])
        # A value in an unknown place, or one that a rule of ours refused, may be a secret.
        hidden = first["type"] in ("missing", "extra_forbidden", "value_error")
        seen = "" if hidden else f", got {first['input']!r}"[:120]
        known = ", ".join(model.model_fields)
        raise ConfigurationError(
            f"Surface {surface.name!r}: `{field}` {first['msg'].removeprefix('Value error, ')}{seen}. "
            f"Options are: {known}."
        ) from error


class WarehousePlatform:
    """Reads tables with DuckDB; moves traffic through a file, or the ledger. Time is the clock."""

    def __init__(self, surface: Surface, load: Load) -> None:
        self._options = read_options(surface, Options)
        self._directory, self._home = surface.directory, surface.home
        holdback = surface.spec.online.holdback if surface.spec.online else 0.0
        self._file = AllocationFile(surface.directory / FILE, surface.layer, holdback)
        self._ledger: Ledger | None = None

    def share(self, ledger: Ledger) -> None:
        self._ledger = ledger

    @property
    def _allocations(self) -> Allocations:
        return self._shared.allocations if self._options.shared else self._file

    @property
    def _shared(self) -> Ledger:
        if self._ledger is None:
            raise PlatformError(
                "`online.options.shared` must be false where no ledger is given, got true: traffic is then "
                "in the loop's store. Open the platform as open_platform(surface, load, ledger)."
            )
        return self._ledger

    def _kept(self, test: LiveTest) -> LiveTest:
        arms = {"control": kept(test.control, self._home), "candidate": kept(test.candidate, self._home)}
        return test.model_copy(update=arms)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def start(self, test: LiveTest, key: str) -> None:
        moved = self._kept(test)
        self._allocations.change(lambda traffic: traffic.start(moved, key))

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        self._allocations.change(lambda traffic: traffic.ramp(experiment_id, coverage, key))

    def stop(self, experiment_id: str, key: str) -> None:
        self._allocations.change(lambda traffic: traffic.stop(experiment_id, key))

    def launch(self, artifact: str, version: int, key: str) -> None:
        folder = kept(artifact, self._home)
        self._allocations.change(lambda traffic: traffic.launch(folder, version, key))

    def status(self, experiment_id: str) -> TestStatus:
        return self._allocations.read().status(experiment_id)

    def running(self) -> list[TestStatus]:
        return [served.status for served in self._allocations.read().running()]

    @property
    def exposures(self) -> str:
        return self._options.exposures

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._options.connect(self._directory) as connection:
            if self._options.shared:
                self._shared.view(connection)
            yield connection

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        return None

    def close(self) -> None:
        pass
