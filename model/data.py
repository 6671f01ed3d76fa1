"""Dataset: an encoded log on disk, memory-mapped and shared read-only. Never holds more than it is asked for.

A dataset directory, written once by `encode` and never changed (labels are added beside the rows):

    meta.json            schema, periods, the spec it was made from, what encoding met
    train|validation|test.parquet   the log in time order: `row`, `time`, `day` and the spec's columns
    categorical.npy      int32 [n, C]     numeric.npy    float32 [n, N]
    history-NAME.npy     int32 [n, L]     users.npy      int32 [n]       times.npy  int64 [n]
    vocabulary/NAME.parquet   value, code, count (training period)       labels/KEY.npy  float32
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import duckdb
import numpy as np
import numpy.typing as npt

from evorank.model.errors import LogError, ToolError
from evorank.model.logs import sources
from evorank.model.logs.spec import LogSpec
from evorank.model.system import Feature, Float32, Int32, LogSchema, Objective, Rows

__all__ = ["ENCODER_VERSION", "PERIODS", "Dataset", "LogSpec", "Period"]

Period: TypeAlias = Literal["train", "validation", "test"]
PERIODS: tuple[Period, ...] = get_args(Period)
ENCODER_VERSION = 1
"""Part of every key: raise it when the arrays change for the same log and spec."""

_LABEL_CHUNK = 2_000_000


@dataclass(frozen=True)
class Dataset:
    """An encoded log. Rows are in time order, so a period is a slice of them."""

    directory: Path
    key: str
    """Content of the source files, spec and encoder version: the data version."""
    schema: LogSchema
    bounds: Mapping[Period, slice]
    user_count: int
    spec: LogSpec
    report: Mapping[str, Any]
    """What encoding met: rows dropped, out of order, missing and non-finite values, time unit."""

    @classmethod
    def open(cls, directory: Path) -> Dataset:
        """Open what `encode` wrote: milliseconds, nothing is loaded. LogError if it is not a dataset."""
        directory = Path(directory).absolute()
        try:
            meta = json.loads((directory / "meta.json").read_text())
            starts = [*meta["starts"], meta["rows"]]
            return cls(
                directory=directory,
                key=meta["key"],
                schema=LogSchema(
                    features=tuple(Feature(**feature) for feature in meta["features"]),
                    columns=meta["columns"],
                    training_rows=starts[1],
                ),
                bounds={period: slice(starts[i], starts[i + 1]) for i, period in enumerate(PERIODS)},
                user_count=meta["users"],
                spec=LogSpec.model_validate(meta["spec"]),
                report=meta["report"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LogError(
                f"{directory} is not an encoded log ({type(error).__name__}: {error}). Delete it; it is "
                "made again."
            ) from error

    def __len__(self) -> int:
        return int(self.bounds["test"].stop)

    def slice_of(self, period: Period | slice) -> slice:
        """The rows of a period, or the slice itself."""
        return period if isinstance(period, slice) else self.bounds[period]

    def rows(self, period: Period | slice) -> Rows:
        """Encoded impressions of a period or slice: views of the memory-mapped arrays."""
        return self._rows[self.slice_of(period)]

    def users(self, period: Period | slice) -> Int32:
        """Dense user number in [0, user_count) of each row, int32 [n]; unlike a feature, never unknown."""
        users: Int32 = self._array("users")[self.slice_of(period)]
        return users

    def times(self, period: Period | slice) -> npt.NDArray[np.int64]:
        """Seconds since 1970 (UTC) of each row, int64 [n], not decreasing."""
        times: npt.NDArray[np.int64] = self._array("times")[self.slice_of(period)]
        return times

    def days(self, period: Period | slice) -> Int32:
        """Days since 1970 of each row, int32 [n], at the spec's UTC offset: the log's column `day`."""
        shifted = self.times(period) + round(self.spec.utc_offset_hours * 3600)
        return np.floor_divide(shifted, 86_400).astype(np.int32)

    @cached_property
    def _rows(self) -> Rows:
        histories = [f.name for f in self.schema.features if f.kind == "history"]
        return Rows(
            features=self.schema.features,
            categorical=self._array("categorical"),
            numeric=self._array("numeric"),
            histories={name: self._array(f"history-{name}") for name in histories},
        )

    def _array(self, name: str) -> npt.NDArray[Any]:
        path = self.directory / f"{name}.npy"
        try:
            array: npt.NDArray[Any] = np.load(path, mmap_mode="r")
        except ValueError:  # numpy cannot map an array without elements (a log without numeric features)
            array = np.load(path)
        except OSError as error:
            raise LogError(
                f"{path} is missing or unreadable ({error}). Delete {self.directory}; it is made again."
            ) from error
        return array

    # The log itself, for SQL

    def table(self, upto: Period = "validation") -> str:
        """SQL of a table over the periods up to `upto`; the test period must be asked for by name."""
        files = [str(self.directory / f"{period}.parquet") for period in PERIODS[: PERIODS.index(upto) + 1]]
        return f"read_parquet({sources.literal(files)})"

    def training_table(self) -> str:
        """SQL of a table over the training period only: all that an agent's query may see."""
        return self.table("train")

    def connect(self, upto: Period = "validation") -> duckdb.DuckDBPyConnection:
        """A fresh in-memory DuckDB with the view `log` (row, time, day, columns). For trusted SQL."""
        connection = sources.connect()
        connection.execute(f"CREATE VIEW log AS SELECT * FROM {self.table(upto)}")
        return connection

    # Labels

    def label_path(self, objective: Objective, upto: Period = "validation") -> Path:
        """The .npy file with the labels of `objective` up to the end of `upto`, computed if not there."""
        content = json.dumps([objective.label, sorted(objective.factors.items()), objective.loss, upto])
        key = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        path = self.directory / "labels" / f"{key}.npy"
        if not path.exists():
            labels = self._compute_labels(objective, self.bounds[upto].stop, upto)
            with sources.explained("labels"):
                path.parent.mkdir(exist_ok=True)
                partial = path.with_suffix(f".{os.getpid()}-{os.urandom(4).hex()}.tmp")
                try:
                    with partial.open("wb") as stream:
                        np.save(stream, labels)
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
        return path

    def labels(self, objective: Objective, upto: Period = "validation") -> Float32:
        """Labels of the rows [0, end of `upto`), float32, memory-mapped; cached by what is computed.

        Raises ToolError, naming the expression, where SQL fails, a value is NULL, NaN or infinite, a "bce"
        label leaves [0, 1], or the training period holds one value only.
        """
        labels: Float32 = np.load(self.label_path(objective, upto), mmap_mode="r")
        return labels

    def _compute_labels(self, objective: Objective, stop: int, upto: Period) -> Float32:
        from evorank.model.sql import label_query  # here, so that opening a dataset stays light

        labels = np.empty(stop, np.float32)
        with self.connect(upto) as connection:
            for start in range(0, stop, _LABEL_CHUNK):
                end = min(start + _LABEL_CHUNK, stop)
                chunk = f"(SELECT * FROM log WHERE row >= {start} AND row < {end})"
                try:
                    query = label_query(objective, chunk)
                    found = connection.execute(query).fetchnumpy()["label"]
                except duckdb.Error as error:
                    first = " ".join(str(error).split())[:300]
                    raise ToolError(f"/reward/label {objective.label!r} failed in DuckDB: {first}") from None
                labels[start:end] = np.ma.filled(np.ma.asarray(found, dtype=np.float64), np.nan)
        self._check_labels(objective, labels)
        return labels

    def _check_labels(self, objective: Objective, labels: Float32) -> None:
        where = f"/reward/label {objective.label!r}"
        bad = int(np.count_nonzero(~np.isfinite(labels)))
        if bad:
            raise ToolError(
                f"{where} must be a number on every row; {bad} of {len(labels)} rows are NULL, NaN or "
                "infinite. "
                "Guard divisions with NULLIF and wrap what can be missing in COALESCE(x, 0)."
            )
        if objective.loss == "bce" and len(labels) and (labels.min() < 0 or labels.max() > 1):
            raise ToolError(
                f"{where} must lie in [0, 1] for the loss bce, got [{labels.min():g}, {labels.max():g}]. "
                'Scale or clip it, or use the loss "mse" or "huber".'
            )
        train = labels[self.bounds["train"]]
        if len(train) and train.min() == train.max():
            raise ToolError(
                f"{where} is {train[0]:g} on every training row: one class only, nothing can be learned. "
                "Use a signal that varies, or another threshold."
            )
