"""LiveEncoder: what is served now, encoded exactly as the offline encoder would encode that impression later.

Training on one encoding and serving on another is the classic silent failure of ranking systems, so
vocabularies and scales are read from the dataset, and histories follow the dataset's own rules: strictly
earlier times, newest first, unknown values as 0. Limit: a feature must be a plain column of the traffic.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb
import numpy as np
import numpy.typing as npt

from evorank.model.data import Dataset
from evorank.model.errors import ConfigurationError, ToolError
from evorank.model.logs import sources
from evorank.model.logs.encode import CLIP
from evorank.model.logs.sources import identifier as q
from evorank.model.logs.sources import literal
from evorank.model.logs.spec import Categorical, History, Numeric
from evorank.model.system import Float32, Int32, Rows
from evorank.surfaces.simulated.traffic import CONTEXT, LOGGED, CandidateRows, LogColumns, Vector

__all__ = ["LiveEncoder"]

_DENSE = 1 << 24


@dataclass(frozen=True)
class _Vocabulary:
    """Integer value -> code; what is not there is 0. A table where values are small, else a search."""

    values: npt.NDArray[np.int64]
    codes: Int32
    table: Int32 | None

    @classmethod
    def read(cls, dataset: Dataset, name: str) -> _Vocabulary:
        path = dataset.directory / "vocabulary" / f"{name}.parquet"
        with sources.connect() as connection, sources.explained(f"vocabulary of {name}"):
            found = connection.execute(
                f"SELECT value, code FROM read_parquet({literal(str(path))}) ORDER BY value"
            ).fetchnumpy()
        values = np.ma.getdata(found["value"])
        if values.dtype.kind not in "iub":
            raise ConfigurationError(
                f"feature {name!r} has values of type {values.dtype}; live ids are integers."
            )
        values, codes = values.astype(np.int64), np.ma.getdata(found["code"]).astype(np.int32)
        table = None
        if len(values) and values[0] >= 0 and values[-1] < _DENSE:
            table = np.zeros(int(values[-1]) + 2, np.int32)
            table[values] = codes
        return cls(values, codes, table)

    def __call__(self, values: Vector) -> Int32:
        """Codes of `values`, of the same shape."""
        if not len(self.values):
            return np.zeros(values.shape, np.int32)
        if self.table is not None:
            known = (values >= 0) & (values < len(self.table) - 1)
            return self.table[np.where(known, values, len(self.table) - 1)]
        place = np.searchsorted(self.values, values).clip(max=len(self.values) - 1)
        return np.where(self.values[place] == values, self.codes[place], np.int32(0))


@dataclass
class _Past:
    """One history feature: the last codes of each user, newest first, int32 [users, length]."""

    feature: History
    codes: Int32 = field(default_factory=lambda: np.zeros((0, 0), np.int32))

    def of(self, users: npt.NDArray[np.int64]) -> Int32:
        """Histories of some users, [n, length]; nobody has one before their first event."""
        self.grow(users)
        return self.codes[users]

    def grow(self, users: npt.NDArray[np.int64]) -> None:
        need = int(users.max(initial=-1)) + 1 - len(self.codes)
        if need > 0:
            more = np.zeros((max(need, len(self.codes) // 4), self.feature.length), np.int32)
            self.codes = np.concatenate([self.codes.reshape(-1, self.feature.length), more])

    def push(self, users: npt.NDArray[np.int64], codes: Int32) -> None:
        """Add events, those of one user in time order."""
        if not len(users):
            return
        self.grow(users)
        length = self.feature.length
        order = np.argsort(users, kind="stable")
        users, codes = users[order], codes[order]
        first = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
        counts = np.diff(np.r_[first, len(users)])
        age = np.repeat(first + counts, counts) - 1 - np.arange(len(users))  # 0 = the newest of its user
        kept = age < length
        who, slot = users[first], np.arange(length)
        old = slot - np.minimum(counts, length)[:, None]
        moved = np.take_along_axis(self.codes[who], np.maximum(old, 0), axis=1)
        self.codes[who] = np.where(old >= 0, moved, 0)
        self.codes[users[kept], age[kept]] = codes[kept]


class LiveEncoder:
    """Candidates -> `Rows` of a dataset's schema. A `LogSink` too: give it the log, and histories go on.

    Starts with the histories at the end of the dataset's log; what has happened since must be written to it,
    in time order, before it encodes. User ids are small non-negative integers, as the world's are.
    """

    def __init__(self, dataset: Dataset) -> None:
        """Milliseconds, and a scan of the log for its histories. ConfigurationError: a feature that traffic
        cannot give."""
        spec = dataset.spec
        self._features = dataset.schema.features
        self._user, self._item = spec.user, spec.item
        self._columns: dict[str, str] = {}
        for feature in spec.features:
            if isinstance(feature, History):
                continue
            column = feature.column or feature.name
            if column not in CONTEXT or not isinstance(feature, Categorical | Numeric):
                raise ConfigurationError(
                    f"feature {feature.name!r} is {feature.kind} of {column!r}; live traffic has the columns "
                    f"{list(CONTEXT)}."
                )
            self._columns[feature.name] = column
        self._categorical = [f for f in spec.features if isinstance(f, Categorical)]
        self._numeric = [f for f in spec.features if isinstance(f, Numeric)]
        self._codes = {f.name: _Vocabulary.read(dataset, f.name) for f in self._categorical}
        self._scales: Mapping[str, tuple[float, float]] = dataset.report["scales"]
        self._past = [_Past(f) for f in spec.features if isinstance(f, History)]
        self._database: duckdb.DuckDBPyConnection | None = None
        self._wheres = ", ".join(
            f"coalesce(CAST(({past.feature.where or 'true'}) AS BOOLEAN), false) AS h{i}"
            for i, past in enumerate(self._past)
        )
        for past in self._past:
            self._read(dataset, past)

    def encode(self, rows: CandidateRows) -> Rows:
        """All n * m candidates, session by session, as the dataset's features."""
        n, m = rows.shape
        categorical = np.empty((n, m, len(self._categorical)), np.int32)
        numeric = np.empty((n, m, len(self._numeric)), np.float32)
        for i, feature in enumerate(self._categorical):
            categorical[:, :, i] = self._codes[feature.name](self._values(rows, feature.name))
        for i, number in enumerate(self._numeric):
            numeric[:, :, i] = self._standardised(number, self._values(rows, number.name))
        users = rows.session[self._user].astype(np.int64)
        return Rows(
            self._features,
            categorical.reshape(n * m, -1),
            numeric.reshape(n * m, -1),
            {past.feature.name: np.repeat(past.of(users), m, axis=0) for past in self._past},
        )

    def begin_day(self, day: datetime.date, active: Vector) -> None:
        """Open the database that evaluates `where` all day long: one for each block would cost more."""
        self.end_day()
        self._database = sources.connect()

    def end_day(self) -> None:
        """Close it."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def write(self, columns: LogColumns) -> None:
        """Let impressions that happened enter the histories. Those of one user come in time order."""
        if self._database is None:
            raise ToolError("impressions are written between `begin_day` and `end_day` only.")
        if not self._past or not len(columns[self._user]):
            return
        users = columns[self._user].astype(np.int64)
        # Within a moment the offline encoder sorts by user, item and signals; ids are unique in a slate.
        order = np.lexsort((columns[self._item], columns["time_ms"]))
        with sources.explained("log.features"):
            self._database.register("happened", dict(columns))
            found = self._database.execute(f"SELECT {self._wheres} FROM ({LOGGED} happened)").fetchnumpy()
        for past, counts in zip(self._past, found.values(), strict=True):
            some = order[np.ma.getdata(counts)[order]]
            of = past.feature.of
            past.push(users[some], self._codes[of](columns[self._columns[of]][some]))

    def _values(self, rows: CandidateRows, name: str) -> Vector:
        """A feature's column as [n, m] or [n, 1]."""
        column = self._columns[name]
        return rows.candidate[column] if column in rows.candidate else rows.session[column][:, None]

    def _standardised(self, feature: Numeric, values: Vector) -> Float32:
        mean, deviation = self._scales[feature.name]
        x = values.astype(np.float64)
        x = np.sign(x) * np.log(1 + np.abs(x)) if feature.log1p else x
        x = (x - mean) / deviation
        return np.where(np.isfinite(x), np.clip(x, -CLIP, CLIP), 0.0).astype(np.float32)

    def _read(self, dataset: Dataset, past: _Past) -> None:
        """The last events of every user in the log, its test period included: serving is not judging."""
        feature = past.feature
        with dataset.connect("test") as connection, sources.explained(f"history {feature.name}"):
            found = connection.execute(
                f"SELECT {q(self._user)} AS u, {q(feature.of)} AS v FROM log "
                f"WHERE coalesce(CAST(({feature.where or 'true'}) AS BOOLEAN), false) "
                f"QUALIFY row_number() OVER (PARTITION BY {q(self._user)} ORDER BY row DESC) "
                f"<= {feature.length} ORDER BY row"
            ).fetchnumpy()
        users, values = (np.ma.getdata(found[name]).astype(np.int64) for name in ("u", "v"))
        past.push(users, self._codes[feature.of](values))
