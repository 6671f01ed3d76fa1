"""The conformance suite of platforms: does a class keep the promises of `Platform` that the loop relies on?

It runs on a surface as it is. For moments, users of one slot get an A/A test of 0.1% and then 0.2%: both arms
are the artifact that is given, so nobody sees a difference if that is what production serves. Nothing is
launched, and what it starts it stops; the stopped tests, `evorank-check-...`, stay on record. It proves no
quality: that the right users see the right arm is for the platform's own tests.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from evorank.model.conformance import CheckResult, run_promises
from evorank.model.conformance.promises import Broken, Promise, told
from evorank.model.errors import ConfigurationError, PlatformError
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import Estimate, Ledger, LiveTest, Load, Platform, TestStatus, built
from evorank.surfaces.surface import Surface

__all__ = ["PROMISES", "Subject", "platform_conformance"]

_METHODS = ("now", "start", "ramp", "stop", "status", "running", "launch", "connect", "estimates", "close")
_LOW, _MIDDLE, _HIGH = 0.001, 0.0015, 0.002


@dataclass(frozen=True)
class Subject:
    """A platform class, the surface it shall serve, and the artifact that both arms of a check get."""

    cls: type[Any]
    surface: Surface
    load: Load
    artifact: str
    ledger: Ledger | None = None

    @property
    def online(self) -> Online:
        if self.surface.spec.online is None:
            raise ConfigurationError(
                f"Surface {self.surface.name!r} has no [online] section in surface.toml."
            )
        return self.surface.spec.online

    @contextmanager
    def opened(self) -> Iterator[Platform]:
        """A new instance, as another process would make."""
        platform = built(self.cls, self.surface, self.load, self.ledger)
        try:
            yield platform
        finally:
            if callable(close := getattr(platform, "close", None)):
                close()

    def test(self, slot: int) -> LiveTest:
        """A test that was never started."""
        name = f"evorank-check-{secrets.token_hex(6)}"
        return LiveTest(
            experiment_id=name,
            layer=self.surface.layer,
            slot=self.online.slot(slot),
            seed=name,
            coverage=_LOW,
            control=self.artifact,
            candidate=self.artifact,
        )

    @contextmanager
    def running(self, platform: Platform) -> Iterator[LiveTest]:
        """A started test in whatever slot is free, with the key `ID/start`; stopped in the end."""
        refusals = []
        for slot in range(self.online.slots):
            test = self.test(slot)
            try:
                platform.start(test, f"{test.experiment_id}/start")
            except PlatformError as error:
                refusals.append(str(error))
                continue
            try:
                yield test
            finally:
                # What a check found is told, not that cleaning up failed too.
                with contextlib.suppress(Exception):
                    platform.stop(test.experiment_id, f"{test.experiment_id}/clean")
            return
        raise Broken(
            f"start() refused a new test in each of {self.online.slots} slots: {refusals[0]} Stop a test, if "
            "all slots are taken"
        )


def constructs(s: Subject) -> None:
    """Class(surface, load) works, and every method is there."""
    with s.opened() as platform:
        lacking = [name for name in _METHODS if not callable(getattr(platform, name, None))]
        if lacking:
            raise Broken(f"write the methods {', '.join(lacking)}, as in evorank.surfaces.platform.Platform")
        if not isinstance(platform.exposures, str) or not platform.exposures.strip():
            raise Broken(f"`exposures` must be what stands behind FROM, got {platform.exposures!r}")


def tells_the_time_in_utc(s: Subject) -> None:
    """now() is aware, in UTC, and does not go back; a new instance goes on from there."""
    times: list[datetime] = []
    for _ in range(2):
        with s.opened() as platform:
            times += [platform.now() for _ in range(3)]
    for time in times:
        if not isinstance(time, datetime) or time.utcoffset() != timedelta(0):
            raise Broken(f"now() must be a datetime in UTC, as datetime.now(UTC) is, got {time!r}")
    if times != sorted(times):
        raise Broken("now() went back. Use one clock for all instances")


def does_not_know_what_was_never_started(s: Subject) -> None:
    """status() of an id that nobody used is "unknown", not an error; stopping it is fine."""
    with s.opened() as platform:
        name = s.test(0).experiment_id
        for moment in ("", " after stop()"):
            try:
                found = platform.status(name)
            except Exception as error:
                raise Broken(f"status() of an unknown experiment {told(error)}. Answer `unknown`") from error
            if not isinstance(found, TestStatus) or (found.state, found.coverage) != ("unknown", 0.0):
                raise Broken(
                    f"status() of an experiment that was never started must be unknown{moment}, got {found!r}"
                )
            platform.stop(name, f"{name}/stop")


def starts_ramps_and_stops(s: Subject) -> None:
    """A test runs at the coverage asked for, is among running(), and is gone after stop()."""
    with s.opened() as platform, s.running(platform) as test:
        name = test.experiment_id
        _expect(platform, name, "running", _LOW, "after start()")
        if name not in [each.experiment_id for each in platform.running()]:
            raise Broken("running() must list a test from start() on")
        platform.ramp(name, _HIGH, f"{name}/ramp")
        _expect(platform, name, "running", _HIGH, "after ramp()")
        platform.stop(name, f"{name}/stop")
        _expect(platform, name, "stopped", 0.0, "after stop()")
        if name in [each.experiment_id for each in platform.running()]:
            raise Broken("running() must not list a test any more after stop()")


def the_same_key_is_one_effect(s: Subject) -> None:
    """A call that is repeated with its key returns normally and does nothing, whatever happened since."""
    with s.opened() as platform, s.running(platform) as test:
        name = test.experiment_id
        _again(platform.start, "start", test, f"{name}/start")
        listed = [each.experiment_id for each in platform.running()]
        if listed.count(name) != 1:
            raise Broken(f"start() twice with one key made {listed.count(name)} tests. Look the key up first")
        platform.ramp(name, _MIDDLE, f"{name}/ramp 1")
        platform.ramp(name, _HIGH, f"{name}/ramp 2")
        _again(platform.ramp, "ramp", name, _MIDDLE, f"{name}/ramp 1")
        _expect(platform, name, "running", _HIGH, "after an old ramp() was repeated")
        platform.stop(name, f"{name}/stop")
        _again(platform.start, "start", test, f"{name}/start")
        _expect(platform, name, "stopped", 0.0, "after its start() was repeated")


def a_key_is_for_one_call(s: Subject) -> None:
    """A key that was used for something else is refused, and nothing happens."""
    with s.opened() as platform, s.running(platform) as test:
        name = test.experiment_id
        _refused("a key of start() used for ramp()", platform.ramp, name, _HIGH, f"{name}/start")
        _expect(platform, name, "running", _LOW, "after the refused ramp()")
        platform.ramp(name, _MIDDLE, f"{name}/ramp")
        _refused("a key of ramp() used for more", platform.ramp, name, _HIGH, f"{name}/ramp")
        other = test.model_copy(update={"experiment_id": f"{name}-2"})
        _refused("a key of start() used for another test", platform.start, other, f"{name}/start")
        _expect(platform, name, "running", _MIDDLE, "after refused calls")


def coverage_never_goes_down(s: Subject) -> None:
    """A ramp below what a test has is refused: users would change what they see."""
    with s.opened() as platform, s.running(platform) as test:
        name = test.experiment_id
        platform.ramp(name, _HIGH, f"{name}/up")
        _refused("a lower coverage", platform.ramp, name, _MIDDLE, f"{name}/down")
        _expect(platform, name, "running", _HIGH, "after the refused ramp()")


def a_stop_is_final(s: Subject) -> None:
    """Stopping twice is fine; what was stopped can neither be ramped nor started again."""
    with s.opened() as platform, s.running(platform) as test:
        name = test.experiment_id
        platform.stop(name, f"{name}/stop")
        try:
            platform.stop(name, f"{name}/stop again")
        except Exception as error:
            raise Broken(f"a second stop() {told(error)}. Stopping what does not run is fine") from error
        _refused("ramp() of a stopped test", platform.ramp, name, _HIGH, f"{name}/ramp")
        _refused("start() of a stopped test", platform.start, test, f"{name}/start again")
        _expect(platform, name, "stopped", 0.0, "after it was stopped twice")


def nobody_is_in_two_tests(s: Subject) -> None:
    """A second test in the slot of a running one is refused, and so is one in the holdback."""
    with s.opened() as platform, s.running(platform) as test:
        slots = {"a second test in one slot": test.slot}
        if s.online.holdback:
            slots["a test in the holdback"] = (0.0, s.online.holdback)
        for what, slot in slots.items():
            other = s.test(0).model_copy(update={"slot": slot})
            try:
                _refused(what, platform.start, other, f"{other.experiment_id}/start")
            finally:
                with contextlib.suppress(Exception):
                    platform.stop(other.experiment_id, f"{other.experiment_id}/clean")


def remembers(s: Subject) -> None:
    """Another instance knows the tests and the keys of the first: processes come and go."""
    with s.opened() as first, s.running(first) as test:
        name = test.experiment_id
        with s.opened() as second:
            _expect(second, name, "running", _LOW, "for another instance")
            _again(second.start, "start", test, f"{name}/start")
            second.ramp(name, _HIGH, f"{name}/ramp")
        _expect(first, name, "running", _HIGH, "after another instance ramped it")
        _again(first.ramp, "ramp", name, _HIGH, f"{name}/ramp")


def refuses_what_cannot_be(s: Subject) -> None:
    """Nonsense raises PlatformError, which the loop can tell from a bug, and leaves everything as it is."""
    with s.opened() as platform, s.running(platform) as test:
        name, nobody = test.experiment_id, s.test(0).experiment_id
        _refused("ramp() of an unknown experiment", platform.ramp, nobody, _HIGH, f"{nobody}/ramp")
        _refused("ramp() beyond all users", platform.ramp, name, 1.5, f"{name}/too much")
        _expect(platform, name, "running", _LOW, "after refused calls")


def can_be_read(s: Subject) -> None:
    """Estimates of a test, or tables in which `exposures` and every metric resolve."""
    with s.opened() as platform, s.running(platform) as test:
        found = platform.estimates(test.experiment_id)
        if found is None:
            _tables(platform, s.online.metrics)
        elif not isinstance(found, list) or not all(isinstance(each, Estimate) for each in found):
            raise Broken(
                f"estimates() must be a list of Estimate, or None where tables are read, got {found!r}"
            )
        elif unknown := {each.metric for each in found} - {metric.name for metric in s.online.metrics}:
            raise Broken(f"estimates() names {sorted(unknown)}, which are no metrics of surface.toml")


def closes_twice(s: Subject) -> None:
    """close() may be called again."""
    with s.opened() as platform:
        platform.close()


PROMISES: dict[Promise[Subject], tuple[Promise[Subject], ...]] = {
    constructs: (),
    tells_the_time_in_utc: (constructs,),
    closes_twice: (constructs,),
    does_not_know_what_was_never_started: (constructs,),
    starts_ramps_and_stops: (constructs,),
    the_same_key_is_one_effect: (starts_ramps_and_stops,),
    a_key_is_for_one_call: (starts_ramps_and_stops,),
    coverage_never_goes_down: (starts_ramps_and_stops,),
    a_stop_is_final: (starts_ramps_and_stops,),
    nobody_is_in_two_tests: (starts_ramps_and_stops,),
    remembers: (the_same_key_is_one_effect,),
    refuses_what_cannot_be: (starts_ramps_and_stops,),
    can_be_read: (starts_ramps_and_stops,),
}
"""Promise -> the promises without which it says nothing."""


def platform_conformance(
    cls: type[Any], surface: Surface, load: Load, artifact: str, ledger: Ledger | None = None
) -> list[CheckResult]:
    """Every promise of `PROMISES`, in order, kept by `cls(surface, load)` or not. Never raises.

    `artifact`: the directory that both arms of the A/A tests are served; best what production serves.
    `ledger`: for platforms that share.
    """
    return run_promises(PROMISES, Subject(cls, surface, load, artifact, ledger))


def _expect(platform: Platform, experiment_id: str, state: str, coverage: float, moment: str) -> None:
    found = platform.status(experiment_id)
    if not isinstance(found, TestStatus) or found.experiment_id != experiment_id:
        raise Broken(f"status() must be the TestStatus of the experiment {moment}, got {found!r}")
    if found.state != state or abs(found.coverage - coverage) > 1e-9:
        raise Broken(
            f"status() must be {state} at coverage {coverage:g} {moment}, got {found.state} at "
            f"{found.coverage:g}"
        )


def _again(call: Any, name: str, *arguments: Any) -> None:
    try:
        call(*arguments)
    except Exception as error:
        raise Broken(
            f"{name}() repeated with its key {told(error)}. Return normally where the key was used for this "
            "call"
        ) from error


def _refused(what: str, call: Any, *arguments: Any) -> None:
    try:
        call(*arguments)
    except PlatformError:
        return
    except Exception as error:
        raise Broken(
            f"{what} {told(error)}. Raise evorank.model.errors.PlatformError with the reason"
        ) from error
    raise Broken(f"{what} must be refused with a PlatformError")


def _tables(platform: Platform, metrics: tuple[Metric, ...]) -> None:
    """Every table gives what `tools/abtest` asks of it; no row is read."""
    import duckdb

    asked = {
        "`exposures`": "SELECT CAST(user_id AS VARCHAR), CAST(timestamp AS TIMESTAMP), CAST(experiment_id AS "
        f"VARCHAR), CAST(variation_id AS VARCHAR) FROM {platform.exposures} AS _e LIMIT 0"
    }
    for metric in metrics:
        aggregates = ", ".join(
            f"CAST(({sql}) AS DOUBLE)" for sql in (metric.value, metric.denominator) if sql
        )
        asked[f"metric {metric.name!r}"] = (
            f"SELECT CAST(user_id AS VARCHAR), min(CAST(timestamp AS TIMESTAMP)), {aggregates} "
            f"FROM {metric.source} AS _r GROUP BY 1 LIMIT 0"
        )
    with platform.connect() as connection:
        for what, sql in asked.items():
            try:
                connection.execute(sql).fetchall()
            except duckdb.Error as error:
                text = " ".join(str(error).split())[:300]
                raise Broken(
                    f"{what} cannot be read through connect(): {text}. Exposures need user_id, timestamp, "
                    "experiment_id, variation_id; metrics user_id, timestamp and what their SQL names"
                ) from error
