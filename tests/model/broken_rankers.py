"""Rankers that break one promise each: `breaks` is the check that must say so, and no other check may."""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar

import numpy as np
from logistic_ranker import PRODUCTION, SCHEMA, LogisticRanker

from evorank.model.schema import violations
from evorank.model.system import Cost, Objective


class CannotBeBuilt(LogisticRanker):
    breaks = "constructs"

    def __init__(self, log, production=None):
        raise RuntimeError("no such column: watch_ms")


class ForgetsItsProduction(LogisticRanker):
    breaks = "constructs"

    def production(self):
        return copy.deepcopy(PRODUCTION) | {"label": f"clicked * {id(self)}"}


class LacksAMethod(LogisticRanker):
    breaks = "constructs"
    cost = None


class LeavesAFieldUndescribed(LogisticRanker):
    breaks = "schema"

    def schema(self):
        schema = copy.deepcopy(SCHEMA)
        del schema["$defs"]["Descent"]["properties"]["lr"]["description"]
        return schema


class RefersToNothing(LogisticRanker):
    breaks = "schema"

    def schema(self):
        return {**SCHEMA, "$defs": {}}


class HasNoFields(LogisticRanker):
    breaks = "schema"

    def schema(self):
        return {"type": "object"}


class ServesAnInvalidProduction(LogisticRanker):
    breaks = "production"

    def __init__(self, log, production=None):
        super().__init__(log, production or {**PRODUCTION, "descent": {**PRODUCTION["descent"], "l2": -1e-9}})


class ServesNaN(LogisticRanker):
    breaks = "production"

    def __init__(self, log, production=None):
        nan = {**PRODUCTION, "descent": {**PRODUCTION["descent"], "l2": math.nan}}
        super().__init__(log, production or nan)

    def fit(self, phi, rows, labels, seed):
        return super().fit(PRODUCTION, rows, labels, seed)


class ServesANullThatMustBeThere(LogisticRanker):
    breaks = "production"

    def __init__(self, log, production=None):
        super().__init__(log, production or {**PRODUCTION, "note": None})

    def schema(self):
        note = {"type": ["string", "null"], "description": "Free text"}
        return {
            **SCHEMA,
            "required": [*SCHEMA["required"], "note"],
            "properties": {**SCHEMA["properties"], "note": note},
        }

    def check(self, phi):
        return violations(phi, self.schema())


class OpensNothing(LogisticRanker):
    breaks = "patchable"

    def patchable(self):
        return {}


class OpensWhatIsNotThere(LogisticRanker):
    breaks = "patchable"

    def patchable(self):
        return {"optimizer": ["/descent", "/architecture"]}


class NamesAnUnknownPersona(LogisticRanker):
    breaks = "patchable"

    def patchable(self):
        return {"astrologer": ["/descent"]}


class AcceptsAnything(LogisticRanker):
    breaks = "check refuses nonsense"

    def check(self, phi):
        return []


class AcceptsNaN(LogisticRanker):
    breaks = "check refuses nonsense"

    def check(self, phi):
        return [finding for finding in super().check(phi) if finding.value == finding.value]


class RaisesOnAList(LogisticRanker):
    breaks = "check refuses nonsense"

    def check(self, phi):
        phi.get("descent")
        return super().check(phi)


class AnswersWithText(LogisticRanker):
    breaks = "check refuses nonsense"

    def check(self, phi):
        return [str(finding) for finding in super().check(phi)]


class FillsInWhatIsMissing(LogisticRanker):
    breaks = "check leaves its argument alone"

    def check(self, phi):
        findings = super().check(phi)
        if isinstance(phi, dict):
            phi.setdefault("label", "clicked")
        return findings


class HasAnUnknownLoss(LogisticRanker):
    breaks = "objective"

    def objective(self, phi):
        return Objective(label="clicked", loss="hinge")


class WantsAColumnThatIsNotThere(LogisticRanker):
    breaks = "objective"

    def objective(self, phi):
        return Objective(label="watched")


class CostsNothing(LogisticRanker):
    breaks = "cost"

    def cost(self, phi):
        return Cost(parameters=0)


class CostsMoreEachTime(LogisticRanker):
    breaks = "cost"
    calls: ClassVar[list[Any]] = []

    def cost(self, phi):
        self.calls.append(phi)
        return Cost(parameters=len(self.calls))


class CannotBeFitted(LogisticRanker):
    breaks = "fits"

    def fit(self, phi, rows, labels, seed):
        raise RuntimeError("the training cluster is down")


class ReturnsAnObject(LogisticRanker):
    breaks = "weights are plain arrays"

    def fit(self, phi, rows, labels, seed):
        return {"model": np.array([super().fit(phi, rows, labels, seed)], dtype=object)}

    def predict(self, phi, weights, rows):
        return super().predict(phi, weights["model"][0] if "model" in weights else weights, rows)


class ReturnsLists(LogisticRanker):
    breaks = "weights are plain arrays"

    def fit(self, phi, rows, labels, seed):
        return {name: values.tolist() for name, values in super().fit(phi, rows, labels, seed).items()}

    def predict(self, phi, weights, rows):
        return super().predict(phi, {name: np.asarray(values) for name, values in weights.items()}, rows)


class IgnoresTheSeed(LogisticRanker):
    breaks = "fit is deterministic"

    def fit(self, phi, rows, labels, seed):
        return super().fit(phi, rows, labels, np.random.default_rng().integers(1_000_000))


class CachesByRowCount(LogisticRanker):
    breaks = "fit uses the labels"
    cache: ClassVar[dict[Any, Any]] = {}

    def fit(self, phi, rows, labels, seed):
        return self.cache.setdefault((len(rows), seed), super().fit(phi, rows, labels, seed))


class ClipsLabelsInPlace(LogisticRanker):
    breaks = "fit leaves the data alone"

    def fit(self, phi, rows, labels, seed):
        return super().fit(phi, rows, np.clip(labels, 0.01, 0.99, out=labels), seed)


class SortsHistoriesWhileScoring(LogisticRanker):
    breaks = "fit leaves the data alone"

    def predict(self, phi, weights, rows):
        for values in rows.histories.values():
            values.sort(axis=1)
        return super().predict(phi, weights, rows)


class NeedsWritableRows(LogisticRanker):
    breaks = "fit leaves the data alone"

    def fit(self, phi, rows, labels, seed):
        labels += 0.0
        return super().fit(phi, rows, labels, seed)


class NeedsTenRows(LogisticRanker):
    breaks = "fit survives tiny data"

    def fit(self, phi, rows, labels, seed):
        labels[10]  # IndexError on a tiny log
        return super().fit(phi, rows, labels, seed)


class DividesByTheLabelsSpread(LogisticRanker):
    breaks = "fit survives tiny data"

    def fit(self, phi, rows, labels, seed):
        weights = super().fit(phi, rows, labels, seed)
        with np.errstate(invalid="ignore"):
            return weights | {"bias": weights["bias"] + 0 / labels.std()}


class ReturnsLogits(LogisticRanker):
    breaks = "predictions are sound"

    def fit(self, phi, rows, labels, seed):
        return LogisticRanker(self.log).fit(phi, rows, labels, seed)

    def predict(self, phi, weights, rows):
        p = super().predict(phi, weights, rows)
        return np.log(p / (1 - p))


class ReturnsAColumn(LogisticRanker):
    breaks = "predictions are sound"

    def fit(self, phi, rows, labels, seed):
        return LogisticRanker(self.log).fit(phi, rows, labels, seed)

    def predict(self, phi, weights, rows):
        return super().predict(phi, weights, rows)[:, None]


class ReturnsNaNNowAndThen(LogisticRanker):
    breaks = "predictions are sound"

    def predict(self, phi, weights, rows):
        scores = super().predict(phi, weights, rows)
        if len(rows) % 2:
            scores[::3] = np.nan
        return scores


class CentresEachBatch(LogisticRanker):
    breaks = "predict scores each row alone"

    def fit(self, phi, rows, labels, seed):
        return LogisticRanker(self.log).fit(phi, rows, labels, seed)

    def predict(self, phi, weights, rows):
        scores = super().predict(phi, weights, rows)
        return np.clip(scores - scores.mean() + 0.5, 0, 1)


class RemembersTheLabels(LogisticRanker):
    breaks = "predict needs only weights"

    def fit(self, phi, rows, labels, seed):
        weights = LogisticRanker(self.log).fit(phi, rows, labels, seed)
        self.offset = labels.mean() / 10
        return weights

    def predict(self, phi, weights, rows):
        return np.clip(super().predict(phi, weights, rows) - getattr(self, "offset", 0.0), 0, 1)


class KeepsItsModelsInTheClass(LogisticRanker):
    breaks = "crosses processes"
    models: ClassVar[list[Any]] = []

    def fit(self, phi, rows, labels, seed):
        self.models.append(LogisticRanker(self.log).fit(phi, rows, labels, seed))
        return {"model": np.array([len(self.models) - 1])}

    def predict(self, phi, weights, rows):
        return super().predict(phi, self.models[int(weights["model"][0])], rows)


class LearnsTheOpposite(LogisticRanker):
    breaks = "learns"

    def fit(self, phi, rows, labels, seed):
        return super().fit(phi, rows, 1 - labels, seed)


BROKEN = [
    value
    for value in list(vars().values())
    if isinstance(value, type) and issubclass(value, LogisticRanker) and value is not LogisticRanker
]
