"""checked: a platform whose every answer is looked at: what it raises, and nonsense, become PlatformErrors.

A surface's platform is somebody else's code over somebody else's network. The conformance suite asks for its
promises once; here they are held against each answer, because nonsense that is believed costs a test.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from pydantic import ValidationError

from evorank.model.errors import EvorankError, PlatformError
from evorank.surfaces.platform import Estimate, LiveTest, Platform, TestStatus, Timelapse

if TYPE_CHECKING:
    import duckdb

__all__ = ["checked"]

Answer = TypeVar("Answer")


def checked(make: Callable[[], Platform]) -> Platform:
    """What `make` builds, with every answer looked at; a Timelapse if it is one. PlatformError: it cannot be
    built. Errors of evorank's own pass as they are."""
    platform = _asked("the platform", "constructor", make)
    return _CheckedTimelapse(platform) if isinstance(platform, Timelapse) else _Checked(platform)


class _Checked:
    def __init__(self, platform: Any) -> None:
        self._platform = platform
        self._name = f"platform {type(platform).__name__}"

    def now(self) -> datetime:
        found = self._ask("now")
        if not isinstance(found, datetime) or found.utcoffset() != timedelta(0):
            self._refuse("now", "a datetime in UTC (datetime.now(UTC))", found)
        return found

    def start(self, test: LiveTest, key: str) -> None:
        self._ask("start", test, key)

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        self._ask("ramp", experiment_id, coverage, key)

    def stop(self, experiment_id: str, key: str) -> None:
        self._ask("stop", experiment_id, key)

    def launch(self, artifact: str, version: int, key: str) -> None:
        self._ask("launch", artifact, version, key)

    def status(self, experiment_id: str) -> TestStatus:
        return self._status("status", self._ask("status", experiment_id), experiment_id)

    def running(self) -> list[TestStatus]:
        found = self._ask("running")
        if not isinstance(found, list):
            self._refuse("running", "a list of TestStatus", found)
        return [self._status("running", each) for each in found]

    @property
    def exposures(self) -> str:
        found = _asked(self._name, "exposures", lambda: self._platform.exposures)
        if not isinstance(found, str) or not found.strip():
            self._refuse("exposures", "what stands behind FROM, as text", found)
        return found

    def connect(self) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
        return self._connected()

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """What goes wrong while it is read is the reader's; opening and closing are the platform's."""
        manager = self._ask("connect")
        if not hasattr(manager, "__enter__"):
            self._refuse("connect", "a context manager with a DuckDB connection", manager)
        connection = _asked(self._name, "connect", manager.__enter__)
        if not hasattr(connection, "execute"):
            self._refuse("connect", "a context manager with a DuckDB connection", connection)
        try:
            yield connection
        finally:
            _asked(self._name, "connect", lambda: manager.__exit__(None, None, None))

    def estimates(self, experiment_id: str) -> list[Estimate] | None:
        found = self._ask("estimates", experiment_id)
        if found is None:
            return None
        if not isinstance(found, list):
            self._refuse("estimates", "a list of Estimate, or None", found)
        try:
            estimates = [Estimate.model_validate(each) for each in found]
        except ValidationError as error:
            self._refuse("estimates", f"a list of Estimate ({error.errors()[0]['msg']})", found)
        for each in estimates:
            if not (
                math.isfinite(each.low) and math.isfinite(each.high) and each.low <= each.lift <= each.high
            ):
                self._refuse("estimates", f"finite, with `lift` of {each.metric} inside low..high", each)
        if len({each.metric for each in estimates}) < len(estimates):
            self._refuse("estimates", "one Estimate of each metric", [each.metric for each in estimates])
        return estimates

    def close(self) -> None:
        self._ask("close")

    def _status(self, method: str, found: Any, experiment_id: str | None = None) -> TestStatus:
        try:
            status = TestStatus.model_validate(found)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "(whole)"
            self._refuse(method, f"TestStatus ({where}: {first['msg']})", found)
        if experiment_id is not None and status.experiment_id != experiment_id:
            self._refuse(method, f"the status of {experiment_id}", found)
        return status

    def _ask(self, method: str, *arguments: Any) -> Any:
        return _asked(self._name, method, lambda: getattr(self._platform, method)(*arguments))

    def _refuse(self, method: str, wanted: str, got: Any) -> NoReturn:
        raise PlatformError(
            f"{self._name}: `{method}` must answer {wanted}, got {repr(got)[:200]}. "
            "`python cli.py doctor --platform own` checks a platform."
        )


class _CheckedTimelapse(_Checked):
    def next_day(self) -> None:
        before = self.now()
        self._ask("next_day")
        if (now := self.now()) <= before:
            self._refuse("next_day", f"with a later time than {before.isoformat()}", now.isoformat())


def _asked(name: str, method: str, ask: Callable[[], Answer]) -> Answer:
    try:
        return ask()
    except EvorankError:
        raise
    except Exception as error:
        raise PlatformError(
            f"{name}: `{method}` raised {type(error).__name__}: {str(error)[:300]}. The loop goes on when it "
            "answers again."
        ) from error
