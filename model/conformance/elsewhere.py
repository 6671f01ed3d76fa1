"""Scoring in a fresh process that shares nothing with this one but a folder of JSON and .npy files.

For the conformance suite: it shows that weights are all there is. Too slow (an interpreter each) for a loop.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evorank.model.errors import ToolError
from evorank.model.system import Feature, Float32, LogSchema, Phi, RankingSystem, Rows, Weights

__all__ = ["predict_elsewhere"]


def predict_elsewhere(
    cls: type[RankingSystem], log: LogSchema, phi: Phi, weights: Weights, rows: Rows
) -> Float32:
    """`cls(log).predict(phi, weights, rows)` [n], computed by a new interpreter with this one's import path.

    Raises ToolError, with the last line of its traceback, where that interpreter cannot.
    """
    path = f"{cls.__module__}:{cls.__qualname__}"
    if cls.__module__ == "__main__" or "." in cls.__qualname__:
        raise ToolError(
            f"{path} cannot be imported by another process: it must be at the top level of a module"
        )
    with tempfile.TemporaryDirectory(prefix="evorank-") as name:
        folder = Path(name)
        for file, array in _to_arrays(rows, weights).items():
            np.save(folder / f"{file}.npy", array, allow_pickle=False)
        task = {"path": path, "phi": phi, "log": _log_to_json(log)}
        task |= {"histories": list(rows.histories), "weights": list(weights)}
        (folder / "task.json").write_text(json.dumps(task))
        done = subprocess.run(
            [sys.executable, "-c", f"from {__name__} import _predict_there; _predict_there({name!r})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ToolError(f"another process fails: {last}")
        scores: Float32 = np.load(folder / "scores.npy", allow_pickle=False)
        return scores


def _predict_there(folder: str) -> None:
    """The other side of `predict_elsewhere`."""
    from evorank.model.conformance import load_system  # here: conformance imports this module

    here = Path(folder)
    task = json.loads((here / "task.json").read_text())
    features = tuple(Feature(**feature) for feature in task["log"]["features"])
    log = LogSchema(features, task["log"]["columns"], task["log"]["training_rows"])

    def load(name: str) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = np.load(here / f"{name}.npy", allow_pickle=False)
        return array

    histories = {name: load(f"history{index}") for index, name in enumerate(task["histories"])}
    rows = Rows(features, load("categorical"), load("numeric"), histories)
    weights = {name: load(f"weight{index}") for index, name in enumerate(task["weights"])}
    system = load_system(task["path"])(log, None)
    np.save(here / "scores.npy", np.asarray(system.predict(task["phi"], weights, rows), np.float32))


def _to_arrays(rows: Rows, weights: Weights) -> dict[str, npt.NDArray[Any]]:
    arrays: dict[str, npt.NDArray[Any]] = {"categorical": rows.categorical, "numeric": rows.numeric}
    arrays |= {f"history{index}": values for index, values in enumerate(rows.histories.values())}
    return arrays | {f"weight{index}": values for index, values in enumerate(weights.values())}


def _log_to_json(log: LogSchema) -> dict[str, Any]:
    features = [asdict(feature) for feature in log.features]
    return {"features": features, "columns": dict(log.columns), "training_rows": log.training_rows}
