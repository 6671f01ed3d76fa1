"""A logistic regression in numpy that keeps every promise of `RankingSystem`; `broken_rankers` break them."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from evorank.model.errors import Finding
from evorank.model.schema import violations
from evorank.model.system import Cost, Objective

SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["descent", "label"],
    "additionalProperties": False,
    "properties": {
        "descent": {"$ref": "#/$defs/Descent"},
        "label": {"type": "string", "minLength": 1, "description": "SQL over the log's columns"},
    },
    "$defs": {
        "Descent": {
            "type": "object",
            "description": "Full-batch gradient descent",
            "required": ["steps", "lr", "l2"],
            "additionalProperties": False,
            "properties": {
                "steps": {"type": "integer", "minimum": 1, "maximum": 1000, "description": "Steps"},
                "lr": {"type": "number", "exclusiveMinimum": 0, "maximum": 100, "description": "Step size"},
                "l2": {"type": "number", "minimum": 0, "maximum": 10, "description": "Ridge penalty"},
            },
        }
    },
}
PRODUCTION = {"descent": {"steps": 30, "lr": 2.0, "l2": 0.001}, "label": "clicked"}


class LogisticRanker:
    def __init__(self, log, production=None):
        self.log = log
        self._production = copy.deepcopy(PRODUCTION) if production is None else production

    def schema(self):
        return SCHEMA

    def production(self):
        return self._production

    def patchable(self):
        return {"optimizer": ["/descent"]}

    def check(self, phi) -> list[Finding]:
        return violations(phi, SCHEMA)

    def objective(self, phi):
        return Objective(label=phi["label"])

    def cost(self, phi):
        return Cost(parameters=1 + sum(f.size if f.kind == "categorical" else 1 for f in self.log.features))

    def fit(self, phi, rows, labels, seed):
        sizes = [feature.size for feature in rows.of_kind("categorical")]
        weights = {
            "bias": np.random.default_rng(seed).normal(0, 0.01, 1),
            "numeric": np.zeros(rows.numeric.shape[1]),
            "ids": np.zeros((len(sizes), max(sizes))),
        }
        for _ in range(phi["descent"]["steps"]):
            error = (self.predict(phi, weights, rows) - labels) / len(rows)
            gradients = {
                "bias": error.sum(keepdims=True),
                "numeric": rows.numeric.T @ error,
                "ids": np.stack([np.bincount(ids, error, max(sizes)) for ids in rows.categorical.T]),
            }
            for name, gradient in gradients.items():
                weights[name] -= phi["descent"]["lr"] * (gradient + phi["descent"]["l2"] * weights[name])
        return weights

    def predict(self, phi, weights, rows):
        logits = weights["bias"] + (rows.numeric * weights["numeric"]).sum(1)
        for table, ids in zip(weights["ids"], rows.categorical.T, strict=True):
            logits = logits + table[ids]
        return (1 / (1 + np.exp(-logits))).astype(np.float32)
