"""The `RankingSystem` protocol: all that the loops know of a model.

The loops evolve a JSON document Φ. What Φ means (a PyTorch network, a LightGBM ranker, somebody's
in-house trainer) is the system's business; metrics are always computed outside it, from the raw
predictions it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from evorank.model.errors import Finding

__all__ = [
    "Cost",
    "Feature",
    "Float32",
    "Int32",
    "LogSchema",
    "Loss",
    "Objective",
    "Phi",
    "RankingSystem",
    "Rows",
    "Weights",
]

Phi: TypeAlias = dict[str, Any]
"""A system configuration Φ: a JSON object that the system's schema describes."""

Weights: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""Trained parameters by name: raw arrays, never pickled objects. Text goes in as uint8."""

Int32: TypeAlias = npt.NDArray[np.int32]
Float32: TypeAlias = npt.NDArray[np.float32]
Loss: TypeAlias = Literal["bce", "mse", "huber"]


@dataclass(frozen=True)
class Feature:
    """One encoded input of an impression.

    categorical: int32 code in [0, size); 0 = unknown or missing. numeric: float32, standardised on the
    training period, missing = 0. history: the last `length` codes before this impression, most recent
    first, padded with 0, sharing the vocabulary of the categorical feature named `of`; or, where `of` is
    None, words of the impression itself (genres, tags) in their own vocabulary of `size` codes.
    """

    name: str
    kind: Literal["categorical", "numeric", "history"]
    size: int = 0
    length: int = 0
    of: str | None = None


@dataclass(frozen=True)
class LogSchema:
    """What a system may know of a log before seeing a row."""

    features: tuple[Feature, ...]
    columns: Mapping[str, str]
    """Log columns that reward expressions may use -> DuckDB type."""
    training_rows: int = 0


@dataclass(frozen=True)
class Rows:
    """Encoded impressions: memory-mapped, in time order, without labels.

    categorical: int32 [n, C], numeric: float32 [n, N], histories: name -> int32 [n, length]; columns of
    the two matrices follow the order of the features of that kind.
    """

    features: tuple[Feature, ...]
    categorical: Int32
    numeric: Float32
    histories: Mapping[str, Int32] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.categorical)

    def of_kind(self, kind: str) -> tuple[Feature, ...]:
        return tuple(feature for feature in self.features if feature.kind == kind)

    def __getitem__(self, index: slice | npt.NDArray[Any]) -> Rows:
        """The same features for some rows: a slice (a view) or an index array (a copy)."""
        return Rows(
            self.features,
            self.categorical[index],
            self.numeric[index],
            {name: values[index] for name, values in self.histories.items()},
        )

    def column(self, name: str) -> npt.NDArray[Any]:
        """One feature's values: [n], or [n, length] for a history. KeyError names the known ones."""
        if name in self.histories:
            return self.histories[name]
        for kind, matrix in (("categorical", self.categorical), ("numeric", self.numeric)):
            names = [feature.name for feature in self.of_kind(kind)]
            if name in names:
                column: npt.NDArray[Any] = matrix[:, names.index(name)]
                return column
        raise KeyError(f"no feature {name!r}; there are {[f.name for f in self.features]}")


@dataclass(frozen=True)
class Objective:
    """What a Φ is trained to predict: a SQL scalar expression over the log's columns, and its loss.

    `factors` are named SQL expressions that `label` (and later factors) may use by name. `loss` is "bce"
    for labels in [0, 1] (log-loss, nats per impression; ln 2 is a coin flip), "mse" or "huber" otherwise.
    """

    label: str
    factors: Mapping[str, str] = field(default_factory=dict)
    loss: Loss = "bce"


@dataclass(frozen=True)
class Cost:
    """What a Φ costs before it is trained: the number of trained parameters."""

    parameters: int


@runtime_checkable
class RankingSystem(Protocol):
    """A trainable ranker whose whole configuration is a JSON document Φ.

    A class is named in `surface.toml` as `module:Class` and is built as `Class(log, production)`, where
    `log` is a `LogSchema` and `production` the surface's production Φ or None for the class's default. One
    that can compute on a GPU has an attribute `device`: the evaluator sets it to "cpu" or "cuda" before `fit`
    and `predict`.
    """

    def __init__(self, log: LogSchema, production: Phi | None = None) -> None: ...

    def schema(self) -> dict[str, Any]:
        """JSON Schema of Φ; every field described (prompts and editors show it)."""
        ...

    def production(self) -> Phi:
        """The Φ that serves today; deltas start here."""
        ...

    def patchable(self) -> Mapping[str, Sequence[str]]:
        """Persona -> JSON Pointer prefixes it may patch. A persona that is absent is switched off."""
        ...

    def check(self, phi: Phi) -> list[Finding]:
        """Everything wrong with Φ that can be known without training; [] means valid. Never raises."""
        ...

    def objective(self, phi: Phi) -> Objective:
        """The label and loss of Φ. Φ's that share it can be compared by loss."""
        ...

    def cost(self, phi: Phi) -> Cost:
        """Static cost of a valid Φ."""
        ...

    def fit(self, phi: Phi, rows: Rows, labels: Float32, seed: int) -> Weights:
        """Train on `rows` and `labels` [n]; the same arguments give the same weights.

        May call `model.progress.report` as it goes, so that a hopeless training can be stopped early.
        """
        ...

    def predict(self, phi: Phi, weights: Weights, rows: Rows) -> Float32:
        """Expected label of each row, float32 [n]: a probability for "bce", a value otherwise."""
        ...
