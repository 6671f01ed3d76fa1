"""LogSpec: what an interaction log is, in the user's own column names. Says nothing of how it is stored.

One row of a log is one impression: a user was shown an item at a time, and signals came back. Side
tables (users, items) are joined by key. Expressions are DuckDB SQL over the source's columns.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = [
    "Categorical",
    "FeatureSpec",
    "History",
    "LogSpec",
    "Numeric",
    "SideTable",
    "Source",
    "Split",
    "Tokens",
]

RESERVED = {"row", "day", "time"}
"""Columns that evorank adds to the log: position in time order, DATE, TIMESTAMP (UTC)."""


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Source(_Spec):
    """A table that DuckDB reads: CSV or TSV (also gzipped), Parquet, JSON lines, or a DuckDB database."""

    path: str | list[str] = Field(description="File, glob, or list of them; relative to surface.toml")
    table: str | None = Field(default=None, description="Table of a DuckDB database file, e.g. main.events")
    reader: dict[str, Any] = Field(
        default_factory=dict,
        description="Options of DuckDB's read_csv, read_parquet or read_json, e.g. delim, header, names",
    )
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="Columns to add or replace: name -> SQL over this source's own columns",
    )

    @field_validator("path")
    @classmethod
    def _local(cls, value: str | list[str]) -> str | list[str]:
        for path in [value] if isinstance(value, str) else value:
            if not path or "://" in path:
                raise ValueError(f"must be a local file or glob, got {path!r}; download it first")
        if not value:
            raise ValueError("names no file")
        return value

    @field_validator("reader")
    @classmethod
    def _option_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not re.fullmatch(r"[a-z_]+", name):
                raise ValueError(f"option {name!r} is not a DuckDB reader option; names are lower case")
        return value

    def paths(self) -> list[str]:
        return [self.path] if isinstance(self.path, str) else list(self.path)


class SideTable(Source):
    """One row per user or item, joined to the log. Columns that the log has too stay the log's."""

    key: str = Field(description="Column of this table; unique")
    on: str | None = Field(default=None, description="Column of the log to match; the same name by default")


class Categorical(_Spec):
    """An id or a class: code 1 is the most frequent value of the training period, 0 = unknown."""

    name: str
    kind: Literal["categorical"] = "categorical"
    column: str | None = Field(default=None, description="Column or SQL expression; `name` by default")
    max_size: int = Field(default=1_000_000, ge=2, description="Keep the most frequent values, 0 included")
    min_count: int = Field(default=1, ge=1, description="Rarer values in training become 0 = unknown")


class Numeric(_Spec):
    """A number, standardised on the training period and clipped at 10 deviations; missing, NaN, inf = 0."""

    name: str
    kind: Literal["numeric"] = "numeric"
    column: str | None = Field(default=None, description="Column or SQL expression; `name` by default")
    log1p: bool = Field(default=False, description="Take sign(x) * ln(1 + |x|) first: counts, durations")


class History(_Spec):
    """The user's last values of a categorical feature, strictly before this impression's time."""

    name: str
    kind: Literal["history"] = "history"
    of: str = Field(description="Name of a categorical feature")
    length: int = Field(default=20, ge=1, le=1000)
    where: str | None = Field(
        default=None,
        description="SQL over the log's columns: which past impressions count, e.g. is_click = 1",
    )


class Tokens(_Spec):
    """A list of words of the impression itself (genres, tags), with its own vocabulary."""

    name: str
    kind: Literal["tokens"] = "tokens"
    column: str | None = Field(default=None, description="Text or LIST column, or SQL expression")
    separator: str = Field(default=" ", min_length=1, description="Between the words of a text")
    length: int = Field(default=6, ge=1, le=1000, description="Words kept, from the first")
    max_size: int = Field(default=100_000, ge=2)
    min_count: int = Field(default=1, ge=1)


FeatureSpec: TypeAlias = Annotated[Categorical | Numeric | History | Tokens, Field(discriminator="kind")]


class Split(_Spec):
    """Three periods in time order. Impressions of one moment (one day, for long logs) stay together."""

    train: float = Field(default=0.7, gt=0, lt=1, description="Share of rows")
    validation: float = Field(
        default=0.15, gt=0, lt=1, description="Share of rows; the rest is the test period"
    )
    snap: Literal["auto", "day", "time"] = Field(
        default="auto",
        description="Where periods may begin: at a day, at any new timestamp, or day if possible",
    )
    validation_from: str | None = Field(
        default=None, description="Begin of the validation period (UTC timestamp) instead of a share"
    )
    test_from: str | None = Field(default=None, description="Begin of the test period (UTC timestamp)")

    @model_validator(mode="after")
    def _room_for_a_test(self) -> Split:
        if self.train + self.validation >= 1:
            raise ValueError(
                "train + validation must be below 1 to leave a test period, got "
                f"{self.train + self.validation:g}"
            )
        if (self.validation_from is None) != (self.test_from is None):
            raise ValueError("validation_from and test_from go together; give both or neither")
        return self


class LogSpec(Source):
    """Where the log is and what its columns mean."""

    user: str = Field(description="Column of the user id")
    item: str = Field(description="Column of the item id")
    time: str = Field(description="Column of the impression's time")
    time_unit: Literal["auto", "s", "ms", "us", "ns", "timestamp", "text"] = Field(
        default="auto", description="Unit of a numeric time since 1970; auto detects it and reports it"
    )
    time_format: str | None = Field(
        default=None, description="strptime format of a text time; ISO 8601 needs none"
    )
    utc_offset_hours: float = Field(
        default=0, ge=-14, le=14, description="Days begin at this offset's midnight (column `day`)"
    )
    where: str | None = Field(default=None, description="SQL over the source's columns: rows to use")
    last_days: int | None = Field(
        default=None,
        ge=3,
        description="Only the last days of the log count: what it costs stays flat as it grows",
    )
    signals: list[str] = Field(
        min_length=1,
        description="Columns observed after the impression (click, watch time, rating ...): rewards are "
        "made of "
        "them, features never see them",
    )
    keep: list[str] = Field(default_factory=list, description="Further columns for SQL, e.g. is_rand")
    sides: list[SideTable] = Field(default_factory=list, description="User and item tables")
    features: list[FeatureSpec] = Field(min_length=1, description="What the ranker sees of an impression")
    split: Split = Field(default_factory=Split)

    @model_validator(mode="after")
    def _names(self) -> LogSpec:
        names = [feature.name for feature in self.features]
        for name in names:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(
                    f"feature name {name!r} must be a Python identifier: layers refer to it by name"
                )
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(f"feature {repeated[0]!r} is listed twice")
        for name in [*names, *self.signals, *self.keep, self.user, self.item]:
            if name in RESERVED:
                raise ValueError(
                    f"{name!r} is a column evorank adds; give yours another name through `columns`"
                )
        for feature in self.features:
            column = getattr(feature, "column", None) or feature.name
            if feature.kind != "history" and (column in self.signals or feature.name in self.signals):
                raise ValueError(
                    f"feature {feature.name!r} is a signal: it is known only after the impression (leakage). "
                    "Take it out of features, or make a history of it"
                )
        categorical = [feature.name for feature in self.features if feature.kind == "categorical"]
        if not categorical:
            raise ValueError("features need at least one of kind categorical, e.g. the item id")
        for feature in self.features:
            if feature.kind == "history" and feature.of not in categorical:
                raise ValueError(
                    f"history {feature.name!r} is `of` {feature.of!r}; categorical: {categorical}"
                )
        return self

    def based_at(self, directory: Path) -> LogSpec:
        """The same log with every relative path taken from `directory`."""

        def absolute(source: Source) -> dict[str, Any]:
            found = [str(directory / Path(path).expanduser()) for path in source.paths()]
            return {"path": found[0] if isinstance(source.path, str) else found}

        sides = [side.model_copy(update=absolute(side)) for side in self.sides]
        return self.model_copy(update=absolute(self) | {"sides": sides})
