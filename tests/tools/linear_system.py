"""A ranking system small enough to know by heart: logistic regression on one-hot codes, in numpy.

Its Φ can also misbehave on purpose, as real trainers do: die, hang, diverge, answer the wrong shape.
"""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from evorank.model.errors import Finding
from evorank.model.system import Cost, Objective


class LinearSystem:
    def __init__(self, log, production=None):
        self.log = log
        self._production = production or {"lr": 0.5, "l2": 0.0, "steps": 3, "label": "click"}

    def schema(self):
        return {"type": "object", "properties": {"lr": {"type": "number", "description": "step size"}}}

    def production(self):
        return self._production

    def patchable(self):
        return {"optimizer": ["/lr", "/l2"], "reward": ["/label"]}

    def check(self, phi):
        if not isinstance(phi.get("lr"), int | float) or phi["lr"] <= 0:
            return [Finding("/lr", "must be a positive number", phi.get("lr"), "Try 0.1 to 1.")]
        return []

    def objective(self, phi):
        return Objective(phi.get("label", "click"), {}, phi.get("loss", "bce"))

    def cost(self, phi):
        return Cost(int(phi.get("parameters", 1000)))

    def fit(self, phi, rows, labels, seed):
        misbehave(phi.get("fault"))
        started = time.process_time()
        hoard = np.ones(phi.get("hoard", 0) // 8)
        rng = np.random.default_rng(seed)
        sizes = [feature.size for feature in rows.of_kind("categorical")]
        offsets = np.cumsum([0, *sizes[:-1]])
        weights = rng.normal(0, phi.get("spread", 0.05), sum(sizes))
        bias = 0.0
        codes = np.asarray(rows.categorical) + offsets
        for _ in range(int(phi.get("steps", 30))):
            p = sigmoid(weights[codes].sum(1) + bias)
            error = p - labels
            count = np.bincount(codes.ravel(), minlength=len(weights)) + 1.0
            gradient = np.bincount(codes.ravel(), np.repeat(error, len(sizes)), len(weights)) / count
            weights -= phi["lr"] * (gradient + phi.get("l2", 0.0) * weights)
            bias -= phi["lr"] * error.mean()
        while time.process_time() - started < phi.get("burn", 0.0):
            pass
        del hoard
        return {"weights": weights, "bias": np.array([bias + phi.get("shift", 0.0)])}

    def predict(self, phi, weights, rows):
        time.sleep(phi.get("slow", 0.0))
        sizes = [feature.size for feature in rows.of_kind("categorical")]
        codes = np.asarray(rows.categorical) + np.cumsum([0, *sizes[:-1]])
        p = sigmoid(weights["weights"][codes].sum(1) + weights["bias"][0]).astype(np.float32)
        fault = phi.get("fault")
        if fault == "nan":
            p[3] = np.nan
        if fault == "short":
            return p[:-1]
        if fault == "double":
            return p.astype(np.float64)
        if fault == "beyond":
            return p * 3
        return p


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-np.clip(x, -30, 30)))


def misbehave(fault):
    if fault == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hang":
        time.sleep(1000)
    if fault == "raise":
        raise ZeroDivisionError("no rows left after filtering")
    if fault == "memory":
        raise MemoryError
    if fault == "secret":
        raise RuntimeError("key is " + os.environ.get("GOOGLE_API_KEY", "nowhere"))
