"""A gradient-boosted ranker (LightGBM) with its own small Φ: all that evorank has to know of *your* model.

It reads categorical and numeric features and ignores histories. One thread, repeatable bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.errors import Finding
from evorank.model.sql import check_objective
from evorank.model.system import Cost, Float32, LogSchema, Objective, Phi, Rows, Weights

_LABELS = {"rating": "CAST(rating >= 4 AS DOUBLE)", "clicked": "clicked", "is_click": "is_click"}
_FIXED = {"bagging_freq": 1, "deterministic": True, "force_row_wise": True, "num_threads": 1, "verbosity": -1}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Boosting(_Part):
    n_estimators: int = Field(ge=1, le=1000, description="Number of trees; cost grows in proportion")
    learning_rate: float = Field(ge=0.001, le=0.5, description="Shrinkage of each tree")
    lambda_l2: float = Field(ge=0, le=100, description="L2 penalty on leaf values")
    bagging_fraction: float = Field(ge=0.2, le=1, description="Share of the rows that each tree sees")


class Trees(_Part):
    num_leaves: int = Field(ge=2, le=256, description="Leaves per tree; many overfit a small log")
    min_child_samples: int = Field(ge=1, le=1000, description="Fewest training rows in a leaf")
    feature_fraction: float = Field(ge=0.2, le=1, description="Share of the features that each tree sees")
    cat_smooth: float = Field(ge=0, le=200, description="Rows' worth of doubt about what a rare id does")


class Reward(_Part):
    label: str = Field(min_length=1, description="SQL over the log's columns, in [0, 1]: what is predicted")


class Config(_Part):
    boosting: Boosting = Field(description="How trees are added")
    trees: Trees = Field(description="What one tree may look like")
    reward: Reward = Field(description="What it learns")


class LightGBMRanker:
    """`RankingSystem` over LightGBM; evorank.model.system tells what each method promises."""

    def __init__(self, log: LogSchema, production: Phi | None = None) -> None:
        label = next((sql for column, sql in _LABELS.items() if column in log.columns), "label")
        boosting = {"n_estimators": 50, "learning_rate": 0.1, "lambda_l2": 0.0, "bagging_fraction": 0.8}
        trees = {"num_leaves": 31, "min_child_samples": 20, "feature_fraction": 0.8, "cat_smooth": 10.0}
        default = {"boosting": boosting, "trees": trees, "reward": {"label": label}}
        self._production, self._columns = default if production is None else production, log.columns

    def schema(self) -> dict[str, Any]:
        return Config.model_json_schema()

    def production(self) -> Phi:
        return self._production

    def patchable(self) -> Mapping[str, Sequence[str]]:
        return {"optimizer": ["/boosting"], "architecture": ["/trees"], "reward": ["/reward"]}

    def check(self, phi: Phi) -> list[Finding]:
        try:
            Config.model_validate(phi)
        except ValidationError as error:
            return [Finding("".join(f"/{k}" for k in e["loc"]), e["msg"], e["input"]) for e in error.errors()]
        return check_objective(self.objective(phi), self._columns)

    def objective(self, phi: Phi) -> Objective:
        return Objective(label=phi["reward"]["label"], loss="bce")

    def cost(self, phi: Phi) -> Cost:
        return Cost(parameters=phi["boosting"]["n_estimators"] * (2 * phi["trees"]["num_leaves"] - 1))

    def fit(self, phi: Phi, rows: Rows, labels: Float32, seed: int) -> Weights:
        import lightgbm  # in the methods: only worker processes need it

        options = {**phi["boosting"], **phi["trees"], **_FIXED, "objective": "cross_entropy", "seed": seed}
        ids = list(range(rows.categorical.shape[1]))
        data = lightgbm.Dataset(_matrix(rows), labels, categorical_feature=ids, params=options)
        trees = lightgbm.train(options, data).model_to_string()
        return {"trees": np.frombuffer(trees.encode(), np.uint8)}

    def predict(self, phi: Phi, weights: Weights, rows: Rows) -> Float32:
        import lightgbm

        trees = lightgbm.Booster(model_str=weights["trees"].tobytes().decode())
        return np.asarray(trees.predict(_matrix(rows), num_threads=1), np.float32)


def _matrix(rows: Rows) -> Float32:
    return np.hstack([rows.categorical, rows.numeric]).astype(np.float32)
