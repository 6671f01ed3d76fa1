"""Rows and labels with a signal planted on purpose: is a system able to learn at all?

Made for `conformance`, from nothing but a `LogSchema`. It says nothing about real traffic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evorank.model.system import Feature, Float32, Int32, LogSchema, Loss, Rows

__all__ = ["EXAMPLE_LOG", "constant_loss", "loss_of", "planted"]

EXAMPLE_LOG = LogSchema(
    features=(
        Feature("user_id", "categorical", size=40),
        Feature("item_id", "categorical", size=30),
        Feature("price", "numeric"),
        Feature("recent_items", "history", size=30, length=5, of="item_id"),
    ),
    columns={
        "clicked": "DOUBLE",
        "rating": "DOUBLE",
        "user_id": "VARCHAR",
        "item_id": "VARCHAR",
        "price": "DOUBLE",
    },
    training_rows=20_000,
)

_CODES = 12
"""Codes drawn from each vocabulary: few, so that any row count shows each of them often."""


def planted(log: LogSchema, rows: int, seed: int, loss: Loss = "bce") -> tuple[Rows, Float32]:
    """`rows` random impressions of `log` and their labels [n].

    The first feature of each kind moves the label (a history by its most recent code); the effects are the
    same for every seed, so that one draw trains and another one tests. Their sum has standard deviation 2:
    logits of a click for "bce", otherwise the value itself, with noise of 1.
    """
    draw, effects = np.random.default_rng([seed, 1]), np.random.default_rng(0)
    kinds = {
        kind: [f for f in log.features if f.kind == kind] for kind in ("categorical", "numeric", "history")
    }

    def codes(feature: Feature, width: int) -> Int32:
        vocabulary = feature.size or next((f.size for f in log.features if f.name == feature.of), 0)
        return draw.integers(0, max(1, min(vocabulary, _CODES)), (rows, width), dtype=np.int32)

    def matrix(columns: list[npt.NDArray[np.int32]]) -> Int32:
        return np.hstack(columns) if columns else np.zeros((rows, 0), np.int32)

    categorical = matrix([codes(feature, 1) for feature in kinds["categorical"]])
    numeric = draw.standard_normal((rows, len(kinds["numeric"])), dtype=np.float32)
    histories = {feature.name: codes(feature, feature.length) for feature in kinds["history"]}

    signal = np.zeros(rows)
    by_code = effects.standard_normal((2, _CODES))
    by_code = (by_code - by_code.mean(1, keepdims=True)) / by_code.std(1, keepdims=True)
    if kinds["categorical"]:
        signal += by_code[0][categorical[:, 0]]
    if kinds["numeric"]:
        signal += numeric[:, 0]
    if kinds["history"] and kinds["history"][0].length:
        signal += by_code[1][histories[kinds["history"][0].name][:, 0]]
    signal *= 2 / (signal.std() or 1.0)
    noise = draw.random(rows) if loss == "bce" else draw.standard_normal(rows)
    labels = 1 / (1 + np.exp(-signal)) > noise if loss == "bce" else signal + noise
    return Rows(log.features, categorical, numeric, histories), labels.astype(np.float32)


def loss_of(predictions: npt.NDArray[np.floating], labels: Float32, loss: Loss) -> float:
    """Mean log-loss ("bce", nats) or mean squared error (otherwise); lower is better."""
    p, y = predictions.astype(np.float64), labels.astype(np.float64)
    if loss == "bce":
        p = np.clip(p, 1e-7, 1 - 1e-7)
        return float(-np.mean(y * np.log(p) + (1 - y) * np.log1p(-p)))
    return float(np.mean((p - y) ** 2))


def constant_loss(labels: Float32, loss: Loss) -> float:
    """The loss of the best constant prediction, the labels' mean: what a system has to beat."""
    return loss_of(np.full(len(labels), labels.mean(dtype=np.float64)), labels, loss)
