"""encode: a log becomes memory-mapped arrays, once. Out of core: DuckDB sorts and joins, chunks are exported.

Everything learned from data (vocabularies, means, deviations) is learned from the training period alone.
A dataset is built in a hidden directory and renamed when complete, so that a crash, or two processes at
once, leave either nothing or a whole dataset.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from evorank.model.data import ENCODER_VERSION, PERIODS, Dataset
from evorank.model.errors import LogError
from evorank.model.logs import sources
from evorank.model.logs.past import write_history
from evorank.model.logs.periods import period_starts
from evorank.model.logs.sources import identifier as q
from evorank.model.logs.sources import literal
from evorank.model.logs.spec import Categorical, History, LogSpec, Numeric, Tokens
from evorank.model.logs.timeline import sorted_log

__all__ = ["CLIP", "Progress", "dataset_key", "encode"]

Progress = Callable[[str, float], None]
"""Called with what is being done and the share done, in [0, 1]."""

CHUNK = 500_000
"""Rows exported at a time: about 100 MB with ten features."""
CLIP = 10.0
"""Standardised numerics are clipped here: one absurd value must not own the gradient."""


def dataset_key(spec: LogSpec, directory: Path) -> str:
    """The data version: hash of the files' content, the spec without its paths, and the encoder version."""
    named = {"log": spec} | {f"log.sides[{i}]": side for i, side in enumerate(spec.sides)}
    hashes = sources.content_hashes(named, directory / "sources.json")
    content = spec.model_dump(mode="json", exclude={"path": True, "sides": {"__all__": {"path"}}})
    if spec.last_days is None:
        del content["last_days"]  # a log that is used whole keeps the key it had before there was a choice
    text = json.dumps([ENCODER_VERSION, content, hashes], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def encode(
    spec: LogSpec, directory: Path, progress: Progress | None = None, memory_limit: str = "1GB"
) -> Dataset:
    """The dataset of `spec` under `directory`/KEY, made if it is not there yet.

    `spec`'s paths are absolute or relative to the working directory. `memory_limit` bounds DuckDB, which
    spills beside the dataset. Raises LogError: missing file, wrong column, empty log or
    period, disk full.
    """
    key = dataset_key(spec, directory)
    final = directory / key
    if (final / "meta.json").exists():
        return Dataset.open(final)
    tell = progress or (lambda what, share: None)
    work = directory / f".{key}@{platform.node()}@{os.getpid()}@{os.urandom(3).hex()}"
    with sources.explained("log"):
        _sweep(directory)
        work.mkdir(parents=True)
        try:
            (work / "spill").mkdir()
            with sources.connect(memory_limit, work / "spill") as connection:
                _Encoder(connection, spec, work, key, tell).run()
            shutil.rmtree(work / "spill")
            try:
                work.rename(final)
            except OSError:
                if not (final / "meta.json").exists():  # not the other process that was quicker
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return Dataset.open(final)


def _sweep(directory: Path) -> None:
    """Remove what encoders of this machine left behind when they were killed."""
    for left in directory.glob(f".*@{platform.node()}@*@*"):
        try:
            os.kill(int(left.name.split("@")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (PermissionError, ValueError):
            continue


class _Encoder:
    """One pass over a log: sort, split, learn vocabularies and scales, export arrays, write histories."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, spec: LogSpec, work: Path, key: str, tell: Progress
    ) -> None:
        self.db, self.spec, self.work, self.key, self.tell = connection, spec, work, key, tell
        self.categorical = [f for f in spec.features if isinstance(f, Categorical)]
        self.numeric = [f for f in spec.features if isinstance(f, Numeric)]
        self.history = [f for f in spec.features if isinstance(f, History)]
        self.tokens = [f for f in spec.features if isinstance(f, Tokens)]
        self.words: dict[str, npt.NDArray[np.int32]] = {}
        self.sizes: dict[str, int] = {}
        self.scales: dict[str, tuple[float, float]] = {}
        self.bad_numbers = {feature.name: 0 for feature in self.numeric}

    def run(self) -> None:
        self.tell("reading and sorting the log", 0.0)
        log = sorted_log(self.db, self.spec, self.work / "sorted.parquet")
        self.rows = log.rows
        self.tell("splitting by time", 0.35)
        self.starts, snapped = period_starts(self.db, self.spec, self.work / "sorted.parquet", log.rows)
        self._write_periods(log.columns)
        (self.work / "vocabulary").mkdir()
        self._learn_users()
        for done, feature in enumerate(self.categorical):
            self.tell(f"vocabulary of {feature.name}", 0.45 + 0.1 * done / len(self.categorical))
            self._learn_vocabulary(feature, f"SELECT {q(feature.name)} AS value FROM train")
        for tokens in self.tokens:
            self._learn_tokens(tokens, log.columns[tokens.name])
        self._learn_scales()
        self._export()
        self._write_histories()
        missing = self._missing()
        meta = {
            "key": self.key,
            "rows": self.rows,
            "starts": self.starts,
            "users": self.user_count,
            "columns": {name: log.columns[name] for name in self._schema_columns(log.columns)},
            "features": self._schema_features(),
            "spec": self.spec.model_dump(mode="json"),
            "report": log.report
            | {
                "periods_begin_at": snapped,
                "missing": missing,
                "not_finite": self.bad_numbers,
                "scales": self.scales,
            },
        }
        (self.work / "meta.json").write_text(json.dumps(meta, indent=1))
        self.tell("encoded", 1.0)

    def _write_periods(self, columns: dict[str, str]) -> None:
        """One Parquet file per period, so that what must not be seen is not there."""
        path = literal(str(self.work / "sorted.parquet"))
        names = ", ".join(["row", "time", "day", *map(q, columns)])
        for period, start, stop in self._periods():
            target = literal(str(self.work / f"{period}.parquet"))
            self.db.execute(
                f"COPY (SELECT {names} FROM read_parquet({path}) WHERE row >= {start} AND row < {stop}) "
                f"TO {target} (FORMAT parquet, ROW_GROUP_SIZE 100000)"
            )
        (self.work / "sorted.parquet").unlink()
        files = [str(self.work / f"{period}.parquet") for period in PERIODS]
        self.db.execute(f"CREATE VIEW log AS SELECT * FROM read_parquet({literal(files)})")
        self.db.execute(f"CREATE VIEW train AS SELECT * FROM read_parquet({literal(files[0])})")

    def _periods(self) -> Iterator[tuple[str, int, int]]:
        stops = [*self.starts[1:], self.rows]
        yield from zip(PERIODS, self.starts, stops, strict=True)

    # What is learned

    def _learn_users(self) -> None:
        user = q(self.spec.user)
        self.db.execute(
            "CREATE TABLE users AS SELECT value, CAST(row_number() OVER (ORDER BY first) - 1 AS INTEGER) "
            "AS number "
            f"FROM (SELECT {user} AS value, min(row) AS first FROM log GROUP BY 1)"
        )
        self.user_count = int(self._one("SELECT count(*) FROM users"))

    def _learn_vocabulary(self, feature: Categorical | Tokens, values: str) -> None:
        """Table `v_NAME` and vocabulary/NAME.parquet: frequent training values get codes 1, 2, ..."""
        table = q(f"v_{feature.name}")
        self.db.execute(
            f"CREATE TABLE {table} AS SELECT value, CAST(row_number() OVER () AS INTEGER) AS code, count "
            "FROM ("
            f"SELECT value, count(*) AS count FROM ({values}) WHERE value IS NOT NULL GROUP BY value "
            f"HAVING count(*) >= {feature.min_count} ORDER BY count DESC, value LIMIT {feature.max_size - 1})"
        )
        target = literal(str(self.work / "vocabulary" / f"{feature.name}.parquet"))
        self.db.execute(f"COPY (SELECT * FROM {table} ORDER BY code) TO {target} (FORMAT parquet)")
        self.sizes[feature.name] = int(self._one(f"SELECT count(*) + 1 FROM {table}"))

    def _learn_tokens(self, feature: Tokens, kind: str) -> None:
        """Words are looked up once per distinct list: `t_NAME` numbers lists, `words` has their codes."""
        name, table = q(feature.name), q(f"t_{feature.name}")
        split = name if kind.endswith("]") else f"string_split({name}, {literal(feature.separator)})"
        words = f"list_filter({split}, lambda word: word IS NOT NULL AND CAST(word AS VARCHAR) <> '')"
        self._learn_vocabulary(feature, f"SELECT unnest({words}) AS value FROM train")
        self.db.execute(
            f"CREATE TABLE {table} AS SELECT {name} AS value, CAST(row_number() OVER (ORDER BY {name}) AS "
            "INTEGER) "
            f"AS number FROM (SELECT DISTINCT {name} FROM log WHERE {name} IS NOT NULL)"
        )
        count = int(self._one(f"SELECT count(*) FROM {table}"))
        matrix = np.zeros((count + 1, feature.length), np.int32)
        found = self.db.execute(
            "SELECT number, place, code FROM (SELECT number, word, place FROM (SELECT number, "
            "unnest(words) AS word, "
            "generate_subscripts(words, 1) - 1 AS place FROM (SELECT number, "
            f"{words.replace(name, 'value')} AS words "
            f"FROM {table}))) JOIN {q('v_' + feature.name)} ON word = value WHERE place < {feature.length}"
        ).fetchnumpy()
        matrix[found["number"], found["place"]] = found["code"]
        self.words[feature.name] = matrix

    def _learn_scales(self) -> None:
        for feature in self.numeric:
            value = _number(feature)
            mean, deviation = self.db.execute(
                f"SELECT avg(x), stddev_pop(x) FROM (SELECT {value} AS x FROM train) WHERE isfinite(x)"
            ).fetchone() or (None, None)
            # Six digits: the order in which threads add must not show in the arrays.
            self.scales[feature.name] = (float(f"{mean or 0:.6g}"), float(f"{deviation or 0:.6g}") or 1.0)

    # What is written

    def _export(self) -> None:
        selected = ["u.number AS u", "epoch_us(l.time) AS t"]
        joins = [f"JOIN users u ON l.{q(self.spec.user)} = u.value"]
        for i, feature in enumerate(self.categorical):
            selected.append(f"coalesce(c{i}.code, 0) AS c{i}")
            joins.append(f"LEFT JOIN {q('v_' + feature.name)} c{i} ON l.{q(feature.name)} = c{i}.value")
        for i, tokens in enumerate(self.tokens):
            selected.append(f"coalesce(t{i}.number, 0) AS t{i}")
            joins.append(f"LEFT JOIN {q('t_' + tokens.name)} t{i} ON l.{q(tokens.name)} = t{i}.value")
        selected += [f"coalesce({_number(f)}, 'nan'::DOUBLE) AS n{i}" for i, f in enumerate(self.numeric)]
        selected += [
            f"coalesce(CAST(({f.where or 'true'}) AS BOOLEAN), false) AS h{i}"
            for i, f in enumerate(self.history)
        ]
        n = self.rows
        out = {
            "categorical": _Writer(self.work / "categorical.npy", np.int32, (n, len(self.categorical))),
            "numeric": _Writer(self.work / "numeric.npy", np.float32, (n, len(self.numeric))),
            "users": _Writer(self.work / "users.npy", np.int32, (n,)),
            "times": _Writer(self.work / "times.npy", np.int64, (n,)),
            "micros": _Writer(self.work / "spill" / "micros.npy", np.int64, (n,)),
        }
        for i, tokens in enumerate(self.tokens):
            out[f"t{i}"] = _Writer(self.work / f"history-{tokens.name}.npy", np.int32, (n, tokens.length))
        for i, _ in enumerate(self.history):
            out[f"h{i}"] = _Writer(self.work / "spill" / f"where-{i}.npy", np.bool_, (n,))
        latest = np.int64(np.iinfo(np.int64).min // 2)
        try:
            for start in range(0, n, CHUNK):
                self.tell("encoding rows", 0.55 + 0.35 * start / n)
                chunk = f"(SELECT * FROM log WHERE row >= {start} AND row < {start + CHUNK})"
                with sources.explained("log.features"):
                    found = self.db.execute(
                        f"SELECT {', '.join(selected)} FROM {chunk} l {' '.join(joins)} ORDER BY l.row"
                    ).fetchnumpy()
                if np.any(np.diff(found["t"], prepend=latest) < 0):
                    raise LogError("log: DuckDB gave rows out of order; please report it.")
                latest = found["t"][-1]
                out["users"].append(found["u"])
                out["micros"].append(found["t"])
                out["times"].append(np.floor_divide(found["t"], 1_000_000))
                out["categorical"].append(_columns(found, "c", len(self.categorical), np.int32))
                numbers = _columns(found, "n", len(self.numeric), np.float64)
                out["numeric"].append(self._standardise(numbers))
                for i, tokens in enumerate(self.tokens):
                    out[f"t{i}"].append(self.words[tokens.name][found[f"t{i}"]])
                for i, _ in enumerate(self.history):
                    out[f"h{i}"].append(found[f"h{i}"])
        finally:
            for writer in out.values():
                writer.close()

    def _standardise(self, numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        for i, feature in enumerate(self.numeric):
            mean, deviation = self.scales[feature.name]
            column = (numbers[:, i] - mean) / deviation
            finite = np.isfinite(column)
            self.bad_numbers[feature.name] += int(np.count_nonzero(~finite))
            numbers[:, i] = np.where(finite, np.clip(column, -CLIP, CLIP), 0.0)
        return numbers.astype(np.float32)

    def _write_histories(self) -> None:
        names = [feature.name for feature in self.categorical]
        load = {name: np.load(self.work / f"{name}.npy", mmap_mode="r") for name in ("users", "categorical")}
        micros = np.load(self.work / "spill" / "micros.npy", mmap_mode="r")
        for i, feature in enumerate(self.history):
            self.tell(f"history {feature.name}", 0.9 + 0.1 * i / len(self.history))
            write_history(
                self.work / f"history-{feature.name}.npy",
                users=load["users"],
                times=micros,
                codes=load["categorical"][:, names.index(feature.of)],
                counts=np.load(self.work / "spill" / f"where-{i}.npy", mmap_mode="r"),
                length=feature.length,
            )

    # What is told

    def _schema_columns(self, columns: dict[str, str]) -> list[str]:
        """Signals first: a reward is made of them."""
        return [*self.spec.signals, *(name for name in columns if name not in self.spec.signals)]

    def _schema_features(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for f in self.spec.features:
            if isinstance(f, Categorical):
                found.append({"name": f.name, "kind": "categorical", "size": self.sizes[f.name]})
            elif isinstance(f, Numeric):
                found.append({"name": f.name, "kind": "numeric"})
            elif isinstance(f, History):
                size = self.sizes[f.of]
                found.append(
                    {"name": f.name, "kind": "history", "size": size, "length": f.length, "of": f.of}
                )
            else:
                found.append(
                    {"name": f.name, "kind": "history", "size": self.sizes[f.name], "length": f.length}
                )
        return found

    def _missing(self) -> dict[str, int]:
        """NULLs per feature column, and NaN or infinity per floating-point signal."""
        names = [f.name for f in self.spec.features if not isinstance(f, History)]
        counted = ", ".join(f"count(*) - count({q(name)})" for name in names)
        row = self.db.execute(f"SELECT {counted} FROM log").fetchone() or ()
        for name, nulls in zip(names, row, strict=True):
            if name in self.bad_numbers:
                self.bad_numbers[name] -= nulls
        return dict(zip(names, map(int, row), strict=True))

    def _one(self, sql: str) -> Any:
        row = self.db.execute(sql).fetchone()
        if row is None:
            raise LogError(f"log: {sql} returned nothing")
        return row[0]


def _number(feature: Numeric) -> str:
    value = f"CAST({q(feature.name)} AS DOUBLE)"
    return f"sign({value}) * ln(1 + abs({value}))" if feature.log1p else value


def _columns(found: dict[str, Any], prefix: str, count: int, kind: type[np.generic]) -> npt.NDArray[Any]:
    length = len(found["u"])
    matrix = np.empty((length, count), kind)
    for i in range(count):
        matrix[:, i] = found[f"{prefix}{i}"]
    return matrix


class _Writer:
    """An .npy file of known shape, appended to: pages written this way do not stay resident."""

    def __init__(self, path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> None:
        self.kind = np.dtype(kind)
        self.stream = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)

    def append(self, chunk: npt.NDArray[Any]) -> None:
        self.stream.write(np.ascontiguousarray(chunk, self.kind).data)

    def close(self) -> None:
        self.stream.close()
