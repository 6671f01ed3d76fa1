"""Platforms that each break one promise, in one method: the warehouse with a bug planted in it."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone

import duckdb

from evorank.model.errors import PlatformError
from evorank.surfaces.allocations import Traffic
from evorank.surfaces.platform import Estimate, TestStatus
from evorank.surfaces.warehouse import WarehousePlatform

BROKEN: list[type] = []


class Planted(WarehousePlatform):
    """Keeps every promise. A subclass names the one that it breaks, and what the suite says of it."""

    breaks = ""
    words = ()

    def __init_subclass__(cls) -> None:
        BROKEN.append(cls)

    def traffic(self) -> Traffic:
        return self._file.read()

    def put(self, **changes: object) -> None:
        self._file.change(lambda traffic: traffic.model_copy(update=changes))

    def forget(self, key: str) -> None:
        self.put(keys={name: call for name, call in self.traffic().keys.items() if name != key})


class CannotBeBuilt(Planted):
    breaks, words = "constructs", ("RuntimeError: no route to host", "broken_platforms.py, line")

    def __init__(self, surface, load):
        raise RuntimeError("no route to host")


class LacksAMethod(Planted):
    breaks, words = "constructs", ("write the methods launch",)
    launch = None


class HasNoExposures(Planted):
    breaks, words = "constructs", ("FROM",)
    exposures = " "


class TellsLocalTime(Planted):
    breaks, words = "tells the time in utc", ("UTC", "datetime.now(UTC)")

    def now(self):
        return datetime.now(timezone(timedelta(hours=8)))


class TellsNoZone(Planted):
    breaks, words = "tells the time in utc", ("UTC",)

    def now(self):
        return datetime.now(UTC).replace(tzinfo=None)


class GoesBackInTime(Planted):
    breaks, words = "tells the time in utc", ("went back", "one clock")
    asked = 0

    def now(self):
        type(self).asked += 1
        return datetime(2026, 1, 1, tzinfo=UTC) - timedelta(hours=self.asked)


class CannotCloseTwice(Planted):
    breaks, words = "closes twice", ("ValueError: closed already",)
    closed = False

    def close(self):
        if self.closed:
            raise ValueError("closed already")
        self.closed = True


class RaisesForTheUnknown(Planted):
    breaks, words = "does not know what was never started", ("KeyError", "Answer `unknown`")

    def status(self, experiment_id):
        return self.traffic().experiments[experiment_id].status


class CallsTheUnknownStopped(Planted):
    breaks, words = "does not know what was never started", ("must be unknown, got", "stopped")

    def status(self, experiment_id):
        found = super().status(experiment_id)
        if found.state == "unknown":
            return TestStatus(experiment_id=experiment_id, state="stopped", coverage=0)
        return found


class StartsAtFullCoverage(Planted):
    breaks, words = "starts ramps and stops", ("running at coverage 0.001 after start()", "running at 1")

    def start(self, test, key):
        super().start(test.model_copy(update={"coverage": 1.0}), key)


class StartsLater(Planted):
    breaks, words = "starts ramps and stops", ("after start()", "unknown")

    def start(self, test, key):
        self.put(keys=self.traffic().keys | {key: "later"})


class DoesNotListWhatRuns(Planted):
    breaks, words = "starts ramps and stops", ("running() must list",)

    def running(self):
        return []


class ListsWhatWasStopped(Planted):
    breaks, words = "starts ramps and stops", ("running() must not list",)

    def running(self):
        return [each.status for each in self.traffic().experiments.values()]


class CannotStart(Planted):
    breaks, words = "starts ramps and stops", ("each of 2 slots", "not today", "Stop a test")

    def start(self, test, key):
        raise PlatformError("not today.")


class RefusesAKeyAgain(Planted):
    breaks, words = "the same key is one effect", ("start() repeated", "PlatformError", "Return normally")

    def start(self, test, key):
        if key in self.traffic().keys:
            raise PlatformError("this key was used")
        super().start(test, key)


class DoesItAgain(Planted):
    breaks, words = "the same key is one effect", ("coverage 0.002", "0.0015", "old ramp() was repeated")

    def ramp(self, experiment_id, coverage, key):
        if self.traffic().keys.get(key) == f"ramp {experiment_id} {coverage!r}":
            served = self.traffic().experiments[experiment_id].model_copy(update={"coverage": coverage})
            self.put(experiments=self.traffic().experiments | {experiment_id: served})
        super().ramp(experiment_id, coverage, key)


class RevivesTheStopped(Planted):
    breaks, words = "the same key is one effect", ("stopped", "after its start() was repeated")

    def start(self, test, key):
        found = self.traffic().experiments.get(test.experiment_id)
        if key in self.traffic().keys and found and found.state == "stopped":
            revived = found.model_copy(update={"state": "running"})
            self.put(experiments=self.traffic().experiments | {test.experiment_id: revived})
        super().start(test, key)


class TakesAnyKey(Planted):
    breaks, words = "a key is for one call", ("a key of start() used for ramp()", "must be refused")

    def ramp(self, experiment_id, coverage, key):
        super().ramp(experiment_id, coverage, f"{key} ramp {coverage}")


class TakesAKeyForAnotherTest(Planted):
    breaks, words = "a key is for one call", ("another test", "must be refused")

    def start(self, test, key):
        if key not in self.traffic().keys or test.experiment_id in self.traffic().experiments:
            super().start(test, key)


class LetsCoverageFall(Planted):
    breaks, words = "coverage never goes down", ("a lower coverage must be refused",)

    def ramp(self, experiment_id, coverage, key):
        found = self.traffic().experiments.get(experiment_id)
        if (
            found
            and found.state == "running"
            and coverage < found.coverage
            and key not in self.traffic().keys
        ):
            served = found.model_copy(update={"coverage": coverage})
            self.put(experiments=self.traffic().experiments | {experiment_id: served})
        super().ramp(experiment_id, coverage, key)


class StopsOnce(Planted):
    breaks, words = "a stop is final", ("a second stop()", "nothing runs", "fine")

    def stop(self, experiment_id, key):
        if key.endswith("stop again"):
            raise PlatformError("nothing runs")
        super().stop(experiment_id, key)


class RampsTheStopped(Planted):
    breaks, words = "a stop is final", ("ramp() of a stopped test must be refused",)

    def ramp(self, experiment_id, coverage, key):
        if self.status(experiment_id).state != "stopped":
            super().ramp(experiment_id, coverage, key)


class StartsAgain(Planted):
    breaks, words = "a stop is final", ("start() of a stopped test must be refused",)

    def start(self, test, key):
        if self.status(test.experiment_id).state != "stopped" or key in self.traffic().keys:
            super().start(test, key)


class LetsTestsOverlap(Planted):
    breaks, words = "nobody is in two tests", ("a second test in one slot must be refused",)

    def start(self, test, key):
        if test.slot[0] >= self.traffic().holdback:
            others = {test.experiment_id: None} | self.traffic().experiments
            alone = self.traffic().model_copy(update={"experiments": {}})
            if others[test.experiment_id] is None and key not in self.traffic().keys:
                started = alone.start(self._kept(test), key)
                self.put(
                    experiments=self.traffic().experiments | started.experiments,
                    keys=self.traffic().keys | started.keys,
                )
                return
        super().start(test, key)


class TestsOnTheHoldback(Planted):
    breaks, words = "nobody is in two tests", ("a test in the holdback must be refused",)
    __test__ = False

    def start(self, test, key):
        if test.slot[0] >= self.traffic().holdback:
            super().start(test, key)


class KeepsKeysInMemory(Planted):
    breaks, words = "remembers", ("start() repeated", "experiment_id")

    def __init__(self, surface, load):
        super().__init__(surface, load)
        self.put(keys={})


class RaisesWhatItLikes(Planted):
    breaks, words = "refuses what cannot be", ("unknown experiment raised KeyError", "PlatformError")

    def ramp(self, experiment_id, coverage, key):
        if experiment_id not in self.traffic().experiments:
            raise KeyError(experiment_id)
        super().ramp(experiment_id, coverage, key)


class IgnoresNonsense(Planted):
    breaks, words = "refuses what cannot be", ("ramp() beyond all users must be refused",)

    def ramp(self, experiment_id, coverage, key):
        if coverage <= 1:
            super().ramp(experiment_id, coverage, key)


class LacksATable(Planted):
    breaks, words = "can be read", ("metric 'active_days'", "days", "user_id, timestamp")

    @contextmanager
    def connect(self):
        with duckdb.connect() as connection:
            connection.execute(
                "CREATE TABLE exposures (user_id INT, timestamp DATE, experiment_id TEXT, variation_id TEXT)"
            )
            yield connection


class LacksAColumn(Planted):
    breaks, words = "can be read", ("`exposures` cannot be read", "variation_id")

    @contextmanager
    def connect(self):
        with duckdb.connect() as connection:
            connection.execute(
                "CREATE TABLE exposures (user_id INT, timestamp TIMESTAMP, experiment_id TEXT)"
            )
            yield connection


class GivesNumbers(Planted):
    breaks, words = "can be read", ("list of Estimate", "0.05")

    def estimates(self, experiment_id):
        return [{"active_days": 0.05}]


class EstimatesSomethingElse(Planted):
    breaks, words = "can be read", ("clicks", "no metrics of surface.toml")

    def estimates(self, experiment_id):
        numbers = {"lift": 0, "low": 0, "high": 0, "level": 0.9, "method": "mine"}
        return [Estimate(metric="clicks", users_control=1, users_candidate=1, **numbers)]
