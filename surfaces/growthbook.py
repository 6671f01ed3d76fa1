"""A surface whose live tests GrowthBook serves: its REST API (v1) behind the ports.

A test is an experiment with the test's id as tracking key, hash version 2 and equal weights, ramped by the
coverage of its one phase; its arms are values of a string feature that the service reads, and production is
that feature's default value. Idempotency keys lie in the descriptions of the experiment and the feature,
changed by the same request as the effect, and everything is looked up before it is made: after a crash or a
lost answer the same call goes on where it stopped.

Limits: slots are a GrowthBook namespace, so its hash divides the users and not ours; the holdback is a
holdout, with a hash of its own. Two people who edit the feature in the same second overwrite each other: the
API has no versions to compare.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.allocations import check_key, check_ramp, check_slot
from evorank.surfaces.growthbook_records import (
    MARK,
    Experiment,
    Feature,
    Note,
    Options,
    Page,
    Results,
    digest,
    read_answer,
)
from evorank.surfaces.platform import Arm, Estimate, LiveTest, Load, TestStatus
from evorank.surfaces.rest import Refused, Rest, Unanswered
from evorank.surfaces.surface import Surface
from evorank.surfaces.warehouse import read_options

if TYPE_CHECKING:
    import duckdb

__all__ = ["GrowthBookPlatform"]

Json = dict[str, Any]


class _Books(NamedTuple):
    """All that was done through us, as GrowthBook has it now."""

    experiments: dict[str, Experiment]
    feature: Feature
    keys: dict[str, str]


class GrowthBookPlatform:
    """Live tests, launches and results through GrowthBook. Time is the clock."""

    def __init__(self, surface: Surface, load: Load) -> None:
        options = read_options(surface, Options)
        online = surface.spec.online
        if online is None:
            raise ConfigurationError(f"Surface {surface.name!r} has no [online] section in surface.toml.")
        options.check(online)
        self._surface, self._options, self._online = surface, options, online
        token = os.environ.get(options.key_variable, "").strip()
        if not token:
            raise ConfigurationError(
                f"The environment variable {options.key_variable} must hold an API key of GrowthBook, and is "
                "empty. Make one in GrowthBook's settings; it is never written anywhere."
            )
        patience = options.timeout_s, options.tries, options.pause_s, options.patience_s
        self._rest = Rest(f"{options.url}/v1", token, *patience)

    def now(self) -> datetime:
        return datetime.now(UTC)

    # ------------------------------------------------------------------------------------------- traffic

    def start(self, test: LiveTest, key: str) -> None:
        call = f"start {test.experiment_id} {digest(test.model_dump_json())}"
        books = self._books()
        found, used = books.experiments.get(test.experiment_id), check_key(books.keys, key, call)
        if found is not None and not used:
            raise PlatformError(
                f"`experiment_id` must be new, got {test.experiment_id!r}, which was started before. "
                "A replication needs an id of its own."
            )
        if found is not None and found.status != "draft":
            return
        others = (each for each in books.experiments.values() if each.status == "running")
        running = [note.test for each in others if (note := each.note) and note.test]
        check_slot(test, self._online.holdback, running)
        self._value_type(books.feature)
        experiment = found or self._create(test, Note(test=test).into(_DESCRIPTION, key, call))
        self._rule(experiment, test)
        self._update(experiment, status="running")

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        call = f"ramp {experiment_id} {coverage!r}"
        books = self._books()
        if check_key(books.keys, key, call):
            return
        experiment = books.experiments.get(experiment_id)
        check_ramp(_status(experiment_id, experiment), coverage)
        assert experiment is not None  # it runs
        assert experiment.note is not None  # it is ours
        noted = experiment.note.into(experiment.description, key, call)
        self._update(experiment, phases=[experiment.phase.at(coverage)], description=noted)

    def stop(self, experiment_id: str, key: str) -> None:
        call = f"stop {experiment_id}"
        books = self._books()
        used = check_key(books.keys, key, call)
        experiment = books.experiments.get(experiment_id)
        if experiment is None:
            return
        if not used:
            assert experiment.note is not None  # it is ours
            noted = experiment.note.into(experiment.description, key, call)
            self._update(experiment, status="stopped", excludeFromPayload=True, description=noted)
        self._rule(experiment, None)

    def launch(self, artifact: str, version: int, key: str) -> None:
        call = f"launch {version} {digest(artifact)}"
        books = self._books()
        if check_key(books.keys, key, call):
            return
        feature, note = books.feature, books.feature.note
        self._value_type(feature)
        change: Json = {"defaultValue": artifact, "description": note.into(feature.description, key, call)}
        if version == 0 and note.keys:
            raise PlatformError(
                f"`version` 0 must be the first launch, but feature {feature.id!r} had launches before: the "
                "holdback keeps what it has. Give the launch the next number."
            )
        if self._online.holdback and not note.keys:
            kept = artifact if version == 0 else feature.defaultValue
            change["holdout"] = {"id": self._options.holdout, "value": kept}
        self._change_feature(change)

    def status(self, experiment_id: str) -> TestStatus:
        return _status(experiment_id, self._find(experiment_id))

    def running(self) -> list[TestStatus]:
        live = [each for each in self._books().experiments.values() if each.status == "running"]
        live.sort(key=lambda each: each.phases[0].dateStarted)
        return [_status(each.trackingKey, each) for each in live]

    # ------------------------------------------------------------------------------------------- reading

    @property
    def exposures(self) -> str:
        return self._options.exposures

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        if not self._options.reads_tables:
            raise PlatformError(
                f"Surface {self._surface.name!r} has no tables to read: GrowthBook gives estimates alone. "
                "Give `online.options.tables` for power, guardrails every day and the audit of the holdback."
            )
        with self._options.connect(self._surface.directory) as connection:
            yield connection

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        """GrowthBook's newest results, empty before it has any; None where tables are given."""
        if self._options.reads_tables:
            return None
        experiment = self._find(experiment_id)
        if experiment is None:
            return []
        try:
            answer = self._rest.get(f"/experiments/{experiment.id}/results")
        except Refused as refused:
            if "no results" in str(refused).lower():
                return []
            raise
        results = read_answer(Results, answer, "result")
        named = {theirs: ours for ours, theirs in self._options.metrics.items()}
        control, candidate = (experiment.variation(arm) for arm in Arm)
        estimates = []
        for metric in results.results[0].metrics if results.results else []:
            by_arm = {each.variationId: each for each in metric.variations}
            if metric.metricId not in named or not {control, candidate} <= set(by_arm):
                continue
            if not (by_arm[control].users and by_arm[candidate].users and by_arm[candidate].analyses):
                continue  # GrowthBook fills what it does not know with zeros
            analysis = by_arm[candidate].analyses[0]
            estimates.append(
                Estimate(
                    metric=named[metric.metricId],
                    lift=analysis.percentChange,
                    low=analysis.ciLow,
                    high=analysis.ciHigh,
                    level=self._options.level,
                    method=f"GrowthBook, {analysis.engine}, as of {results.dateUpdated}",
                    users_control=by_arm[control].users,
                    users_candidate=by_arm[candidate].users,
                )
            )
        return estimates

    def close(self) -> None:
        self._rest.close()

    # ---------------------------------------------------------------------------------------- GrowthBook

    def _books(self) -> _Books:
        experiments: dict[str, Experiment] = {}
        for each in self._list():
            if MARK in str(each.get("description")):
                _add(experiments, each)
        feature = read_answer(Feature, self._rest.get(f"/features/{self._options.feature}"), "feature")
        keys = dict(feature.note.keys)
        for experiment in experiments.values():
            keys |= experiment.note.keys if experiment.note else {}
        return _Books(experiments, feature, keys)

    def _find(self, experiment_id: str) -> Experiment | None:
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

    def _create(self, test: LiveTest, description: str) -> Experiment:
        options = self._options
        phase: Json = {
            "name": "Main",
            "dateStarted": self.now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "seed": test.seed,
            "coverage": test.coverage,
            "variationWeights": [0.5, 0.5],
        }
        if test.slot != (0.0, 1.0):
            if options.namespace is None:
                raise PlatformError(f"`slot` {test.slot} needs `online.options.namespace`.")
            phase["namespace"] = {"namespaceId": options.namespace, "range": list(test.slot), "enabled": True}
        goals = [each.name for each in self._online.metrics if each.success and each.name in options.metrics]
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
            if problem is not None and (found := self._find(test.experiment_id)) is not None:
                return found
            try:
                # Posting it twice could make it twice, so an answer that was lost is looked for first.
                answer = self._rest.post("/experiments", body, again=False)
                return read_answer(Experiment, answer, "experiment")
            except Unanswered as error:
                problem = error
        assert problem is not None
        raise problem

    def _update(self, experiment: Experiment, **change: Any) -> None:
        self._rest.post(f"/experiments/{experiment.id}", change)

    def _value_type(self, feature: Feature) -> None:
        if feature.valueType != "string":
            raise PlatformError(
                f"Feature {feature.id!r} must have values of type string, got {feature.valueType!r}: they "
                "name artifacts."
            )

    def _rule(self, experiment: Experiment, test: LiveTest | None) -> None:
        """Let the feature serve a test, before all of its other rules; None: let it go."""
        name = self._options.environment
        feature = read_answer(Feature, self._rest.get(f"/features/{self._options.feature}"), "feature")
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
        self._change_feature({"environments": {name: {"enabled": environment.enabled, "rules": rules}}})

    def _change_feature(self, change: Json) -> None:
        self._rest.post(f"/features/{self._options.feature}", change)


_DESCRIPTION = "A candidate against production, started by evorank. The line below is its memory: leave it."


def _add(experiments: dict[str, Experiment], answer: Json) -> None:
    """PlatformError where two experiments share a tracking key: nobody could tell whose users are whose."""
    found = read_answer(Experiment, answer)
    if found.trackingKey in experiments:
        raise PlatformError(
            f"Two experiments of GrowthBook have the tracking key {found.trackingKey!r}: archive or rename "
            "one."
        )
    experiments[found.trackingKey] = found


def _status(experiment_id: str, found: Experiment | None) -> TestStatus:
    if found is None or found.status == "draft":
        # A draft is a start that was cut off: nobody is served, and the same call goes on.
        return TestStatus(experiment_id=experiment_id, state="unknown", coverage=0.0)
    coverage = found.phase.coverage if found.status == "running" else 0.0
    return TestStatus(experiment_id=experiment_id, state=found.status, coverage=coverage)
