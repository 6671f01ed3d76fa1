"""The temporal split: train, then validation, then test. No moment (or day) lies in two periods."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np

from evorank.model.errors import LogError
from evorank.model.logs.sources import explained, literal
from evorank.model.logs.spec import LogSpec

__all__ = ["period_starts"]


def period_starts(
    connection: duckdb.DuckDBPyConnection, spec: LogSpec, path: Path, rows: int
) -> tuple[list[int], str]:
    """First rows of train, validation and test in the sorted log at `path`, and "day", "time" or "given".

    Shares are of rows; a period begins at the row nearest to its share where a day (or a timestamp)
    begins. "auto" takes days where validation and test then keep half to twice their share.
    LogError where a period would be empty.
    """
    table, split = (
        f"(SELECT row, time, day FROM read_parquet({literal(str(path))}) WHERE row < {rows})",
        spec.split,
    )
    if split.validation_from is not None and split.test_from is not None:
        with explained("log.split"):
            found = connection.execute(
                f"SELECT count_if(time < $1::TIMESTAMP), count_if(time < $2::TIMESTAMP) FROM {table}",
                [split.validation_from, split.test_from],
            ).fetchone()
        starts = [0, *map(int, found or ())]
        return _none_empty(starts, rows, spec), "given"
    wanted = [rows * split.train, rows * (split.train + split.validation)]
    shares = [split.validation, 1 - split.train - split.validation]
    for snap in ["day", "time"] if split.snap == "auto" else [split.snap]:
        first = connection.execute(f"SELECT min(row) FROM {table} GROUP BY {snap} ORDER BY 1").fetchnumpy()
        begins = np.asarray(next(iter(first.values())), np.int64)
        starts = [0, *(int(begins[np.argmin(np.abs(begins - target))]) for target in wanted)]
        sizes = [starts[2] - starts[1], rows - starts[2]]
        if snap == split.snap or snap == "time":
            break
        if starts[1] and all(
            0.5 <= size / rows / share <= 2 for size, share in zip(sizes, shares, strict=True)
        ):
            break
    return _none_empty(starts, rows, spec), snap


def _none_empty(starts: list[int], rows: int, spec: LogSpec) -> list[int]:
    sizes = [stop - start for start, stop in zip(starts, [*starts[1:], rows], strict=True)]
    for period, size in zip(("train", "validation", "test"), sizes, strict=True):
        if size <= 0:
            raise LogError(
                f"log.split leaves the {period} period empty: {rows} rows split into {sizes} at "
                f"{spec.split.model_dump(exclude_none=True)}. Use a longer log, other shares, or snap = "
                '"time".'
            )
    return starts
