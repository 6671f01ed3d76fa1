"""What we ask of GrowthBook's REST API (v1): our experiments, the feature, results; looked up before made.

Every request may be sent twice, but for the creation of an experiment: where its answer was lost, it is
looked for by its tracking key first. What an idempotency key means is for `growthbook.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from evorank.model.errors import PlatformError
from evorank.surfaces.growthbook_options import Options
from evorank.surfaces.growthbook_records import (
    MARK,
    Experiment,
    Feature,
    Page,
    Results,
    read_answer,
)
from evorank.surfaces.online import Metric
from evorank.surfaces.platform import Arm, LiveTest
from evorank.surfaces.rest import Refused, Rest, Unanswered

__all__ = ["Books", "GrowthBookApi", "require_text"]

Json = dict[str, Any]


class Books(NamedTuple):
    """All that was done through us, as GrowthBook has it now."""

    experiments: dict[str, Experiment]
    feature: Feature
    keys: dict[str, str]


class GrowthBookApi:
    """The experiments that are ours and the feature that serves them. PlatformError from all methods."""

    def __init__(self, options: Options, metrics: Sequence[Metric], token: str) -> None:
        self._options, self._metrics = options, metrics
        patience = options.timeout_s, options.tries, options.pause_s, options.patience_s
        self._rest = Rest(f"{options.url}/v1", token, *patience)

    def close(self) -> None:
        self._rest.close()

    def books(self) -> Books:
        """Everything of ours: one request for a hundred experiments, and one for the feature."""
        experiments: dict[str, Experiment] = {}
        for each in self._list():
            if MARK in str(each.get("description")):
                _add(experiments, each)
        feature = self._feature()
        keys = dict(feature.note.keys)
        for experiment in experiments.values():
            keys |= experiment.note.keys if experiment.note else {}
        return Books(experiments, feature, keys)

    def find(self, experiment_id: str) -> Experiment | None:
        """The experiment with this tracking key. PlatformError: it is somebody else's."""
        found: dict[str, Experiment] = {}
        for each in self._list(experimentId=experiment_id):
            if each.get("trackingKey") == experiment_id:
                _add(found, each)
        experiment = found.get(experiment_id)
        if experiment is not None and experiment.note is None:
            raise PlatformError(
                f"Experiment {experiment_id!r} of GrowthBook was not made here: its description lacks our "
                "line. Rename its tracking key."
            )
        return experiment

    def _feature(self) -> Feature:
        return read_answer(Feature, self._rest.get(f"/features/{self._options.feature}"), "feature")

    def _list(self, **query: str | int) -> Iterator[Json]:
        if self._options.project is not None:
            query["projectId"] = self._options.project
        offset: int | None = 0
        while offset is not None:
            page = read_answer(Page, self._rest.get("/experiments", limit=100, offset=offset, **query))
            yield from page.experiments
            following = page.nextOffset if page.hasMore else None
            if following is not None and following <= offset:
                raise PlatformError(f"GrowthBook's list goes back: `nextOffset` {following} after {offset}.")
            offset = following

    def create(self, test: LiveTest, description: str) -> Experiment:
        """A draft, which serves nobody yet."""
        options = self._options
        phase: Json = {
            "name": "Main",
            "dateStarted": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "seed": test.seed,
            "coverage": test.coverage,
            "variationWeights": [0.5, 0.5],
        }
        if test.slot != (0.0, 1.0):
            if options.namespace is None:
                raise PlatformError(f"`slot` {test.slot} needs `online.options.namespace`.")
            phase["namespace"] = {"namespaceId": options.namespace, "range": list(test.slot), "enabled": True}
        goals = [each.name for each in self._metrics if each.success and each.name in options.metrics]
        body: Json = {
            "trackingKey": test.experiment_id,
            "name": test.experiment_id,
            "description": description,
            "status": "draft",
            "assignmentQueryId": options.assignment_query,
            "hashAttribute": options.hash_attribute,
            "hashVersion": 2,
            "autoRefresh": True,
            "variations": [{"key": arm.value, "name": arm.name} for arm in Arm],
            "phases": [phase],
            "metrics": [options.metrics[name] for name in goals],
            "guardrailMetrics": [id_ for name, id_ in options.metrics.items() if name not in goals],
        }
        body |= {"datasourceId": options.datasource} if options.datasource else {}
        body |= {"project": options.project} if options.project else {}
        problem = None
        for _ in range(options.tries):
            if problem is not None and (found := self.find(test.experiment_id)) is not None:
                return found
            try:
                # Posting it twice could make it twice, so an answer that was lost is looked for first.
                answer = self._rest.post("/experiments", body, again=False)
                return read_answer(Experiment, answer, "experiment")
            except Unanswered as error:
                problem = error
        assert problem is not None
        raise problem

    def update(self, experiment: Experiment, **change: Any) -> None:
        """Set these fields, all in one request."""
        self._rest.post(f"/experiments/{experiment.id}", change)

    def rule(self, experiment: Experiment, test: LiveTest | None) -> None:
        """Let the feature serve a test, before all of its other rules; None: let it go."""
        name = self._options.environment
        feature = self._feature()
        if name not in feature.environments:
            raise PlatformError(
                f"`online.options.environment` must be one of {sorted(feature.environments)}, got {name!r}."
            )
        environment = feature.environments[name]
        if test is not None and not environment.enabled:
            raise PlatformError(
                f"Feature {feature.id!r} is off in {name!r}: nobody would be served. Switch it on "
                "in GrowthBook."
            )
        others = [rule for rule in environment.rules if rule.get("experimentId") != experiment.id]
        if (len(others) < len(environment.rules)) == (test is not None):
            return
        rule: Json = {"type": "experiment-ref", "enabled": True, "experimentId": experiment.id}
        if test is not None:
            arms = {Arm.control: test.control, Arm.candidate: test.candidate}
            rule["variations"] = [
                {"variationId": experiment.variation(arm), "value": value} for arm, value in arms.items()
            ]
        rules = [rule, *others] if test is not None else others
        self.change_feature({"environments": {name: {"enabled": environment.enabled, "rules": rules}}})

    def results(self, experiment: Experiment) -> Results | None:
        """The newest ones; None: there are none yet."""
        try:
            answer = self._rest.get(f"/experiments/{experiment.id}/results")
        except Refused as refused:
            if "no results" in str(refused).lower():
                return None
            raise
        return read_answer(Results, answer, "result")

    def change_feature(self, change: Json) -> None:
        """Set these fields of the feature, all in one request."""
        self._rest.post(f"/features/{self._options.feature}", change)


def _add(experiments: dict[str, Experiment], answer: Json) -> None:
    """PlatformError where two experiments share a tracking key: nobody could tell whose users are whose."""
    found = read_answer(Experiment, answer)
    if found.trackingKey in experiments:
        raise PlatformError(
            f"Two experiments of GrowthBook have the tracking key {found.trackingKey!r}: archive or rename "
            "one."
        )
    experiments[found.trackingKey] = found


def require_text(feature: Feature) -> None:
    """PlatformError unless the feature can name artifacts."""
    if feature.valueType != "string":
        raise PlatformError(
            f"Feature {feature.id!r} must have values of type string, got {feature.valueType!r}: they "
            "name artifacts."
        )
