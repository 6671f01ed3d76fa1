"""ledger: what the machines of a surface share of its traffic: who is served what, who was shown what.

It is in the store, so a ramp or a stop holds for every machine at once, and an exposure that any of them
wrote down counts. Exposures come in batches, each with a key; a batch is written whole, once, and never
changed. DuckDB reads them from Parquet files beside surface.toml, a copy that takes in what is new at every
look.

Limits: batches take turns with all that is written to the store, some hundreds a second: write down what a
service gathered over seconds, not every request. Nothing is ever thrown away.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from evorank.graph.store import Access, Store
from evorank.model.errors import JournalError, LogError, PlatformError
from evorank.model.logs import sources
from evorank.surfaces.allocations import Allocations, LiveAllocations, Traffic
from evorank.surfaces.platform import Exposure
from evorank.surfaces.surface import Surface, alone, open_surface

if TYPE_CHECKING:
    import duckdb

__all__ = ["StoredLedger"]

FOLDER = "shared-exposures"
AT_ONCE = 1_000
"""Rows of one statement."""
IN_MEMORY = 200_000
"""Rows that are copied at a time, but for a batch that is larger."""
COLUMNS = ("user_id", "timestamp", "experiment_id", "variation_id")
EMPTY = ", ".join(
    f"CAST(NULL AS {'TIMESTAMP' if name == 'timestamp' else 'VARCHAR'}) AS {name}" for name in COLUMNS
)


class StoredLedger:
    """The `Ledger` of one surface. Safe to share between threads; PlatformError from all methods.

    A service on any machine opens its own: `StoredLedger.open(home, "shop", "postgresql://...")`.
    """

    def __init__(self, store: Store, surface: Surface) -> None:
        online = surface.spec.online
        self.allocations = _StoredAllocations(store, surface, online.holdback if online else 0.0)
        self.exposures = _StoredExposures(store, surface.name)
        self._store, self._home = store, surface.home
        self._copy = _Copy(self.exposures, surface.directory / FOLDER)

    @classmethod
    def open(cls, home: Path, surface: str, url: str | None = None) -> Self:
        """The ledger of a surface under `home`, in the store that `url` names. ConfigurationError: no such
        surface; JournalError: the store cannot be opened."""
        return cls(Store.open(home, url), open_surface(home, surface))

    def live(self, seconds: float = 1.0) -> LiveAllocations:
        """The running tests, for a service: what it answers is at most `seconds` old."""
        known: tuple[float, Traffic] | None = None

        def now() -> Traffic:
            nonlocal known
            moment = time.monotonic()
            if known is None or moment - known[0] >= seconds:
                known = moment, self.allocations.read()
            return known[1]

        return LiveAllocations(now, self._home)

    def view(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Make all exposures up to now the view `exposures`: VARCHAR; `timestamp` TIMESTAMP in UTC."""
        files = [str(file) for file in self._copy.brought_up_to_date()]
        rows = f"FROM read_parquet({sources.literal(files)})" if files else f"SELECT {EMPTY} WHERE false"
        connection.execute(f"CREATE TEMP VIEW exposures AS {rows}")

    def close(self) -> None:
        """Close the store."""
        self._store.close()


class _StoredAllocations(Allocations):
    """`Traffic` as a row: changed in a transaction, which is alone in the store."""

    def __init__(self, store: Store, surface: Surface, holdback: float) -> None:
        super().__init__(f"the traffic of surface {surface.name!r} in {store.name}", surface.layer, holdback)
        self._store, self._surface = store, surface.name

    def read(self) -> Traffic:
        with _told(), self._store.reading() as access:
            return self._found(access)

    def change(self, transition: Callable[[Traffic], Traffic]) -> None:
        with _told(), self._store.transaction() as access:
            before = self._found(access)
            after = transition(before)
            if after is not before:
                access.execute(
                    "INSERT INTO evorank_traffic (surface, data) VALUES (?, ?)"
                    " ON CONFLICT (surface) DO UPDATE SET data = excluded.data",
                    *(self._surface, after.model_dump_json()),
                )

    def _found(self, access: Access) -> Traffic:
        rows = access.execute("SELECT data FROM evorank_traffic WHERE surface = ?", self._surface)
        return self._ours(rows[0][0] if rows else None)


class _StoredExposures:
    """An `ExposureLog`."""

    def __init__(self, store: Store, surface: str) -> None:
        self._store, self._surface = store, surface

    def append(self, exposures: Sequence[Exposure], key: str) -> None:
        """Add rows; the same key adds them once. PlatformError: a key of other rows, no time zone."""
        rows = [_row(exposure) for exposure in exposures]
        if not key:
            raise PlatformError("`key` must name these exposures and no others, got ''. Try HOST/NUMBER.")
        if not rows:
            return
        digest = hashlib.sha256(json.dumps([key, rows]).encode()).hexdigest()
        with _told(), self._store.transaction() as access:
            (known,) = access.execute(
                "SELECT min(digest) FROM evorank_batches WHERE surface = ? AND idempotency_key = ?",
                *(self._surface, key),
            )[0]
            if known == digest:
                return
            if known is not None:
                raise PlatformError(
                    f"`key` {key!r} was used for other exposures of surface {self._surface!r}. Nothing was "
                    "added; every batch needs a key of its own."
                )
            # Numbers in the order of their commits, since writers take turns: who has read up to one misses
            # none below it.
            ((batch,),) = access.execute(
                "INSERT INTO evorank_batches (surface, batch, idempotency_key, exposures, digest, at)"
                " SELECT ?, coalesce(max(batch), 0) + 1, ?, ?, ?, ? FROM evorank_batches WHERE surface = ?"
                " RETURNING batch",
                *(self._surface, key, len(rows), digest, access.stamp, self._surface),
            )
            for start in range(0, len(rows), AT_ONCE):
                part = rows[start : start + AT_ONCE]
                access.execute(
                    "INSERT INTO evorank_exposures"
                    " (surface, batch, user_id, timestamp, experiment_id, variation_id) VALUES "
                    + ", ".join(["(?, ?, ?, ?, ?, ?)"] * len(part)),
                    *(value for row in part for value in (self._surface, batch, *row)),
                )

    def digest(self, batch: int) -> str | None:
        """Of a batch by its number; None: there is none."""
        with _told(), self._store.reading() as access:
            rows = access.execute(
                "SELECT digest FROM evorank_batches WHERE surface = ? AND batch = ?", self._surface, batch
            )
        return rows[0][0] if rows else None

    def after(self, batch: int) -> Iterator[tuple[int, str, list[tuple[Any, ...]]]]:
        """What came after a batch, in pieces: number and digest of a piece's last batch, and its rows."""
        with _told(), self._store.reading() as access:
            batches = access.execute(
                "SELECT batch, digest, exposures FROM evorank_batches WHERE surface = ? AND batch > ?"
                " ORDER BY batch",
                *(self._surface, batch),
            )
        size = 0
        for number, (last, digest, exposures) in enumerate(batches):
            size += exposures
            if number + 1 < len(batches) and size + batches[number + 1][2] <= IN_MEMORY:
                continue
            with _told(), self._store.reading() as access:
                rows = access.execute(
                    f"SELECT {', '.join(COLUMNS)} FROM evorank_exposures"
                    " WHERE surface = ? AND batch > ? AND batch <= ?",
                    *(self._surface, batch, last),
                )
            yield last, digest, rows
            batch, size = last, 0


class _Copy:
    """Parquet files of a machine, LAST-DIGEST.parquet: all batches up to LAST, each in one file."""

    def __init__(self, of: _StoredExposures, folder: Path) -> None:
        self._of, self._folder = of, folder

    def brought_up_to_date(self) -> list[Path]:
        """The files, after what is new. A copy of another store is thrown away."""
        with _told(), sources.explained(FOLDER), alone(self._folder / ".lock"):
            files = sorted(self._folder.glob("*.parquet"))
            last, digest = _named(files[-1]) if files else (0, None)
            if files and self._of.digest(last) != digest:
                for file in reversed(files):  # the last one says what the others are
                    file.unlink()
                last, files = 0, []
            for left in self._folder.glob("*.tmp"):  # of processes that were killed
                left.unlink()
            for number, its_digest, rows in self._of.after(last):
                file = self._folder / f"{number:012d}-{its_digest}.parquet"
                _write(file, rows)
                files.append(file)
            return files


def _named(file: Path) -> tuple[int, str]:
    number, _, digest = file.stem.partition("-")
    return int(number), digest


def _write(file: Path, rows: list[tuple[Any, ...]]) -> None:
    columns = {
        name: np.array(values, object) for name, values in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    partial = file.with_suffix(f".{os.getpid()}.tmp")
    with sources.connect() as connection:
        connection.register("rows", columns)
        connection.execute(
            f"COPY (SELECT * REPLACE (CAST(timestamp AS TIMESTAMP) AS timestamp) FROM rows) "
            f"TO {sources.literal(str(partial))} (FORMAT parquet)"
        )
    partial.replace(file)


def _row(exposure: Exposure) -> tuple[str, str, str, str]:
    if exposure.timestamp.tzinfo is None:
        raise PlatformError(
            f"`timestamp` needs a time zone, got {exposure.timestamp.isoformat()}. Use datetime.now(UTC)."
        )
    row = (
        str(exposure.user_id),
        exposure.timestamp.astimezone(UTC).replace(tzinfo=None).isoformat(" "),
        exposure.experiment_id,
        exposure.variation_id,
    )
    for name, value in zip(COLUMNS, row, strict=True):
        if not value or "\0" in value:  # PostgreSQL keeps no NUL
            raise PlatformError(f"`{name}` must be a text that is not empty, got {value!r}.")
    return row


@contextmanager
def _told() -> Iterator[None]:
    """A store or a disk that fails is a platform that fails: what was not done is done at the next try."""
    try:
        yield
    except (JournalError, LogError) as error:
        raise PlatformError(str(error)) from error
