"""A surface whose tables DuckDB can read and whose service asks OpenFeature: no product for tests is needed.

Exposures and metrics are read where they lie (Parquet, CSV, JSON, a DuckDB file, or whatever a DuckDB
extension attaches); traffic is moved through `allocations.json` in the surface's folder, which the service
follows. The service logs exposures: `tools/abtest/provider.py` has a hook for it. No network of its own.

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
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.errors import ConfigurationError, LogError, PlatformError
from evorank.model.logs.spec import Source
from evorank.surfaces.allocations import AllocationFile
from evorank.surfaces.platform import Estimate, LiveTest, Load, TestStatus
from evorank.surfaces.surface import Surface

if TYPE_CHECKING:
    import duckdb

__all__ = ["Tables", "WarehousePlatform", "read_options"]

FILE = "allocations.json"


class Tables(BaseModel):
    """Where exposures and metrics are read: `[online.options]` of a warehouse. The owner's SQL is trusted."""

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
    """Reads tables with DuckDB; moves traffic through a file. Time is the clock."""

    def __init__(self, surface: Surface, load: Load) -> None:
        self._tables = read_options(surface, Tables)
        self._directory = surface.directory
        holdback = surface.spec.online.holdback if surface.spec.online else 0.0
        self._file = AllocationFile(surface.directory / FILE, surface.layer, holdback)

    def now(self) -> datetime:
        return datetime.now(UTC)

    def start(self, test: LiveTest, key: str) -> None:
        self._file.change(lambda traffic: traffic.start(test, key))

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        self._file.change(lambda traffic: traffic.ramp(experiment_id, coverage, key))

    def stop(self, experiment_id: str, key: str) -> None:
        self._file.change(lambda traffic: traffic.stop(experiment_id, key))

    def launch(self, artifact: str, version: int, key: str) -> None:
        self._file.change(lambda traffic: traffic.launch(artifact, version, key))

    def status(self, experiment_id: str) -> TestStatus:
        return self._file.read().status(experiment_id)

    def running(self) -> list[TestStatus]:
        return [served.status for served in self._file.read().running()]

    @property
    def exposures(self) -> str:
        return self._tables.exposures

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._tables.connect(self._directory) as connection:
            yield connection

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        return None

    def close(self) -> None:
        pass
