"""What `RankingSystem` promises of `fit` and `predict`: each a function that raises `Broken`.

Every promise makes its own rows (a private, writable copy), so that none hides another. How well a
system ranks is not judged here, only that it learns at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.conformance.elsewhere import predict_elsewhere
from evorank.model.conformance.planted import constant_loss, loss_of
from evorank.model.conformance.promises import Broken, Subject, told
from evorank.model.errors import ToolError
from evorank.model.system import Float32, Phi, RankingSystem, Rows, Weights

__all__ = [
    "crosses_processes",
    "fit_is_deterministic",
    "fit_leaves_the_data_alone",
    "fit_survives_tiny_data",
    "fit_uses_the_labels",
    "fits",
    "learns",
    "predict_needs_only_weights",
    "predict_scores_each_row_alone",
    "predictions_are_sound",
    "weights_are_plain_arrays",
]


def fits(s: Subject) -> None:
    """fit() trains on ordinary rows."""
    _fitted(s)


def weights_are_plain_arrays(s: Subject) -> None:
    """Weights are named numpy arrays that need no pickle."""
    _, _, weights = _fitted(s)
    if not isinstance(weights, Mapping) or not weights:
        raise Broken(f"fit() must return a mapping from names to numpy arrays, got {type(weights).__name__}")
    for name, values in weights.items():
        if not isinstance(name, str) or not isinstance(values, np.ndarray) or values.dtype.hasobject:
            kind = f"dtype {values.dtype}" if isinstance(values, np.ndarray) else type(values).__name__
            raise Broken(
                f"weights[{name!r}] must be a numpy array of numbers, got {kind}. "
                "Text goes in as np.frombuffer(text.encode(), np.uint8)"
            )


def fit_is_deterministic(s: Subject) -> None:
    """Two new instances, the same seed: the same predictions, bit for bit."""
    first, second = _scored(s)[-1], _scored(s)[-1]
    if first.tobytes() != second.tobytes():
        raise Broken(
            f"two fits with one seed differ by up to {np.abs(first - second).max():.2g}. Draw every random "
            "number from `seed`, use one thread, and switch the library's deterministic mode on"
        )


def fit_uses_the_labels(s: Subject) -> None:
    """Other labels, other weights."""
    system, phi = s.build()
    rows, labels = s.data()
    other, _ = s.build()
    if _bytes(system.fit(phi, rows, labels, seed=0)) == _bytes(
        other.fit(phi, rows, labels[::-1].copy(), seed=0)
    ):
        raise Broken(
            "fit() gave the same weights for other labels: is something cached, or is nothing trained?"
        )


def fit_leaves_the_data_alone(s: Subject) -> None:
    """Rows and labels are unchanged, and may be read-only: real ones are memory-mapped and shared."""
    system, phi = s.build()
    rows, labels = s.data()
    weights = system.fit(phi, rows, labels, seed=0)
    system.predict(phi, weights, rows)
    fresh_rows, fresh_labels = s.data()
    fresh = _arrays(fresh_rows, fresh_labels)
    for name, array in _arrays(rows, labels).items():
        if array.tobytes() != fresh[name].tobytes():
            raise Broken(f"fit() or predict() wrote into {name}. Copy what you change")
    for array in fresh.values():
        array.flags.writeable = False
    try:
        system.predict(phi, system.fit(phi, fresh_rows, fresh_labels, seed=0), fresh_rows)
    except Exception as error:
        raise Broken(f"on read-only (memory-mapped) rows it {told(error)}. Copy what you change") from error


def fit_survives_tiny_data(s: Subject) -> None:
    """Two rows, or one label for all: finite predictions or a ToolError that says why not."""
    for what, size, constant in (
        ("two rows", 2, False),
        ("one constant label", 300, True),
        ("both", 2, True),
    ):
        system, phi = s.build()
        rows, labels = s.data(rows=size)
        labels[:] = 0.0
        if not constant:
            labels[0] = 1.0
        try:
            scores = np.asarray(system.predict(phi, system.fit(phi, rows, labels, seed=0), rows), np.float32)
        except ToolError:
            continue
        except Exception as error:
            raise Broken(
                f"{what}: {told(error)}. Return a model, or raise evorank.model.errors.ToolError with why"
            ) from error
        if not np.isfinite(scores).all():
            raise Broken(f"{what}: predictions are not finite. Clip, or raise ToolError with the reason")


def predictions_are_sound(s: Subject) -> None:
    """float32 [n], finite, and a probability where the loss is "bce"."""
    system, phi, weights, rows, _ = _scored(s)
    scores = np.asarray(system.predict(phi, weights, rows))
    if scores.shape != (len(rows),) or scores.dtype.kind not in "fiu":
        raise Broken(
            f"predict() must give {len(rows)} numbers in shape [n], got {scores.dtype} {scores.shape}"
        )
    scores = scores.astype(np.float32)
    if not np.isfinite(scores).all():
        raise Broken(
            f"predict() gave {np.count_nonzero(~np.isfinite(scores))} values that are NaN or infinite"
        )
    if s.loss == "bce" and not (scores.min() >= 0 and scores.max() <= 1):
        low, high = scores.min(), scores.max()
        raise Broken(
            f"with loss bce predict() must give probabilities, got {low:.3g} to {high:.3g}. Apply a sigmoid"
        )


def predict_scores_each_row_alone(s: Subject) -> None:
    """The same scores shuffled, in odd batches, or one by one: no statistics of the batch."""
    system, phi, weights, rows, scores = _scored(s)
    order = np.random.default_rng(0).permutation(len(rows))
    for what, parts in (
        ("in another order", [order]),
        ("in batches of 7", np.array_split(order, math.ceil(len(order) / 7))),
        ("one by one", np.split(order, len(order))),
    ):
        again = np.concatenate([np.asarray(system.predict(phi, weights, rows[part])) for part in parts])
        if not _close(again, scores[np.concatenate(parts)]):
            raise Broken(
                f"scored {what}, the same rows get other scores. Use no batch statistics in predict() "
                "(batch norm in evaluation mode, normalisation constants kept as weights)"
            )


def predict_needs_only_weights(s: Subject) -> None:
    """A new instance, the fitted one, and one fitted again on other labels: the same weights score alike."""
    _, phi, weights, rows, scores = _scored(s)
    fitted, _, _ = _fitted(s)
    for what in ("the instance that was fitted", "an instance fitted since on other labels"):
        if not _close(fitted.predict(phi, weights, rows), scores):
            raise Broken(
                f"{what} gives other scores than a new one. Keep nothing of fit() on `self`: only weights"
            )
        train, labels = s.data(seed=3)
        fitted.fit(phi, train, 1 - labels, seed=1)


def crosses_processes(s: Subject) -> None:
    """Weights fitted here, written as .npy, give the same scores in a process that imports the class."""
    _, phi, weights, rows, scores = _scored(s)
    try:
        again = predict_elsewhere(s.cls, s.log, phi, weights, rows)
    except ToolError as error:
        raise Broken(f"{error}. Keep nothing outside the weights, and import by module path") from error
    if not _close(again, scores):
        raise Broken(
            "another process gets other scores from the same weights. Keep nothing outside the weights"
        )


def learns(s: Subject) -> None:
    """On a planted signal production beats the best constant prediction, on rows it has not seen."""
    system, phi = s.build()
    weights = system.fit(phi, *s.data(rows=20_000), seed=0)
    rows, labels = s.data(rows=4_000, seed=2)
    found = loss_of(np.asarray(system.predict(phi, weights, rows)), labels, s.loss)
    bar = constant_loss(labels, s.loss)
    if not found < bar:
        raise Broken(
            f"on a planted signal the loss is {found:.4f}; the best constant has {bar:.4f}. "
            "Are labels, rows and features in the same order in fit() and predict()?"
        )


def _fitted(s: Subject) -> tuple[RankingSystem, Phi, Weights]:
    system, phi = s.build()
    return system, phi, system.fit(phi, *s.data(), seed=0)


def _scored(s: Subject) -> tuple[RankingSystem, Phi, Weights, Rows, Float32]:
    """What a *new* instance predicts from fitted weights for rows they were not fitted on, and its inputs."""
    _, phi, weights = _fitted(s)
    system, _ = s.build()
    rows, _ = s.data(rows=101, seed=2)
    return system, phi, weights, rows, np.asarray(system.predict(phi, weights, rows), np.float32)


def _arrays(rows: Rows, labels: Float32) -> dict[str, npt.NDArray[Any]]:
    named = {"rows.categorical": rows.categorical, "rows.numeric": rows.numeric, "labels": labels}
    return named | {f"rows.histories[{name!r}]": values for name, values in rows.histories.items()}


def _bytes(weights: Weights) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in weights.items()}


def _close(scores: npt.ArrayLike, expected: Float32) -> bool:
    """Equal but for rounding: sums of float32 in another order differ in the last digits."""
    found = np.asarray(scores, np.float32)
    return found.shape == expected.shape and bool(
        np.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    )
