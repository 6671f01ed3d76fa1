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
from typing import TYPE_CHECKING, Any

from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.allocations import check_key, check_ramp, check_slot
from evorank.surfaces.growthbook_api import GrowthBookApi, require_text
from evorank.surfaces.growthbook_options import Options
from evorank.surfaces.growthbook_records import Experiment, Note, digest
from evorank.surfaces.platform import Arm, Estimate, LiveTest, Load, TestStatus
from evorank.surfaces.surface import Surface
from evorank.surfaces.warehouse import read_options

if TYPE_CHECKING:
    import duckdb

__all__ = ["GrowthBookPlatform"]

_DESCRIPTION = "A candidate against production, started by evorank. The line below is its memory: leave it."


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
        self._api = GrowthBookApi(options, online.metrics, token)

    def now(self) -> datetime:
        return datetime.now(UTC)

    # ------------------------------------------------------------------------------------------- traffic

    def start(self, test: LiveTest, key: str) -> None:
        call = f"start {test.experiment_id} {digest(test.model_dump_json())}"
        books = self._api.books()
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
        require_text(books.feature)
        experiment = found or self._api.create(test, Note(test=test).into(_DESCRIPTION, key, call))
        self._api.rule(experiment, test)
        self._api.update(experiment, status="running")

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        call = f"ramp {experiment_id} {coverage!r}"
        books = self._api.books()
        if check_key(books.keys, key, call):
            return
        experiment = books.experiments.get(experiment_id)
        check_ramp(_status(experiment_id, experiment), coverage)
        assert experiment is not None  # it runs
        assert experiment.note is not None  # it is ours
        noted = experiment.note.into(experiment.description, key, call)
        self._api.update(experiment, phases=[experiment.phase.at(coverage)], description=noted)

    def stop(self, experiment_id: str, key: str) -> None:
        call = f"stop {experiment_id}"
        books = self._api.books()
        used = check_key(books.keys, key, call)
        experiment = books.experiments.get(experiment_id)
        if experiment is None:
            return
        if not used:
            assert experiment.note is not None  # it is ours
            noted = experiment.note.into(experiment.description, key, call)
            self._api.update(experiment, status="stopped", excludeFromPayload=True, description=noted)
        self._api.rule(experiment, None)

    def launch(self, artifact: str, version: int, key: str) -> None:
        call = f"launch {version} {digest(artifact)}"
        books = self._api.books()
        if check_key(books.keys, key, call):
            return
        feature, note = books.feature, books.feature.note
        require_text(feature)
        change: dict[str, Any] = {"description": note.into(feature.description, key, call)}
        zero = [each.startswith("launch 0 ") for each in note.keys.values()]
        if version == 0 and zero and not any(zero):
            raise PlatformError(
                f"`version` 0 must be the first launch, but feature {feature.id!r} had launches before: the "
                "holdback keeps what it has. Give the launch the next number."
            )
        if version != 0 or all(zero):  # else it is trained again for the holdback alone
            change["defaultValue"] = artifact
        if self._online.holdback and (version == 0 or not zero):
            kept = artifact if version == 0 else feature.defaultValue
            change["holdout"] = {"id": self._options.holdout, "value": kept}
        self._api.change_feature(change)

    def status(self, experiment_id: str) -> TestStatus:
        return _status(experiment_id, self._api.find(experiment_id))

    def running(self) -> list[TestStatus]:
        live = [each for each in self._api.books().experiments.values() if each.status == "running"]
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
        experiment = self._api.find(experiment_id)
        if experiment is None:
            return []
        results = self._api.results(experiment)
        if results is None:
            return []
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
        self._api.close()


def _status(experiment_id: str, found: Experiment | None) -> TestStatus:
    if found is None or found.status == "draft":
        # A draft is a start that was cut off: nobody is served, and the same call goes on.
        return TestStatus(experiment_id=experiment_id, state="unknown", coverage=0.0)
    coverage = found.phase.coverage if found.status == "running" else 0.0
    return TestStatus(experiment_id=experiment_id, state=found.status, coverage=coverage)
