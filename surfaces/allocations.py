"""Who is served what: production, and the live tests with their slots and coverage.

A platform without a control plane of its own (`warehouse.py`) changes it, whole or not at all; a service
follows it with `LiveAllocations`, the mapping that the OpenFeature provider asks. Every idempotency key is
part of it, so an effect and its key cannot part. It is kept in one file, whose lock keeps writers of one
machine apart (the disk must be one where `flock` works), or where several machines share it
(`graph/ledger.py`).
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.model.errors import PlatformError
from evorank.surfaces.assignment import Allocation, hash_v2
from evorank.surfaces.platform import LiveTest, TestStatus

__all__ = [
    "AllocationFile",
    "Allocations",
    "LiveAllocations",
    "Served",
    "Traffic",
    "check_key",
    "check_ramp",
    "check_slot",
    "kept",
]


class Served(BaseModel):
    """One live test, running or stopped."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    test: LiveTest
    state: Literal["running", "stopped"] = "running"
    coverage: float = Field(ge=0, le=1, description="By now; 0 once it is stopped")

    @property
    def status(self) -> TestStatus:
        return TestStatus(experiment_id=self.test.experiment_id, state=self.state, coverage=self.coverage)


class Traffic(BaseModel):
    """The content of the file. Every change is a new one, so that it is made whole or not at all."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    layer: str = Field(description="Seed of the hash that divides the users")
    holdback: float = Field(
        ge=0, le=1, description="Users below this place in the layer see version 0 for good"
    )
    artifact: str | None = Field(default=None, description="Production; None: nothing was launched yet")
    version: int | None = None
    first: str | None = Field(
        default=None, description="Version 0, for the holdback; None: what served before any launch"
    )
    experiments: dict[str, Served] = Field(default_factory=dict, description="In the order of their start")
    keys: dict[str, str] = Field(
        default_factory=dict, description="Idempotency key -> the call it was used for"
    )

    def start(self, test: LiveTest, key: str) -> Self:
        call = f"start {test.model_dump_json()}"
        if check_key(self.keys, key, call):
            return self
        if test.experiment_id in self.experiments:
            raise PlatformError(
                f"`experiment_id` must be new, got {test.experiment_id!r}, which was started before. "
                "A replication needs an id of its own."
            )
        if test.layer != self.layer:
            raise PlatformError(f"`layer` must be {self.layer!r} on this surface, got {test.layer!r}.")
        check_slot(test, self.holdback, (each.test for each in self.running()))
        return self._with(key, call, test.experiment_id, Served(test=test, coverage=test.coverage))

    def ramp(self, experiment_id: str, coverage: float, key: str) -> Self:
        call = f"ramp {experiment_id} {coverage!r}"
        if check_key(self.keys, key, call):
            return self
        check_ramp(self.status(experiment_id), coverage)
        served = self.experiments[experiment_id].model_copy(update={"coverage": coverage})
        return self._with(key, call, experiment_id, served)

    def stop(self, experiment_id: str, key: str) -> Self:
        call = f"stop {experiment_id}"
        if check_key(self.keys, key, call):
            return self
        if experiment_id not in self.experiments:
            return self.model_copy(update={"keys": self.keys | {key: call}})
        stopped = self.experiments[experiment_id].model_copy(update={"state": "stopped", "coverage": 0.0})
        return self._with(key, call, experiment_id, stopped)

    def launch(self, artifact: str, version: int, key: str) -> Self:
        call = f"launch {version} {artifact}"
        if check_key(self.keys, key, call):
            return self
        served: dict[str, object] = {"artifact": artifact, "version": version}
        if version == 0:
            if self.artifact is not None and self.first is None:
                raise PlatformError(
                    f"`version` 0 must be the first launch, but {self.version} is served: the holdback keeps "
                    "what it has. Give the launch the next number."
                )
            # Trained again, it is for the holdback alone once a later version serves.
            served = {"first": artifact} | (served if not self.version else {})
        return self.model_copy(update=served | {"keys": self.keys | {key: call}})

    def status(self, experiment_id: str) -> TestStatus:
        served = self.experiments.get(experiment_id)
        if served is None:
            return TestStatus(experiment_id=experiment_id, state="unknown", coverage=0.0)
        return served.status

    def running(self) -> list[Served]:
        return [served for served in self.experiments.values() if served.state == "running"]

    def _with(self, key: str, call: str, experiment_id: str, served: Served) -> Self:
        experiments = self.experiments | {experiment_id: served}
        return self.model_copy(update={"experiments": experiments, "keys": self.keys | {key: call}})


def check_key(keys: Mapping[str, str], key: str, call: str) -> bool:
    """Was `key` used for this very call? PlatformError where it was used for another one."""
    before = keys.get(key)
    if before is not None and before != call:
        raise PlatformError(
            f"`key` {key!r} was used for `{before[:120]}` and cannot be used for `{call[:120]}`. "
            "Every effect needs a key of its own."
        )
    return before is not None


def check_ramp(now: TestStatus, coverage: float) -> None:
    """PlatformError unless the test runs, and `coverage` is at least what it has and at most 1."""
    if now.state != "running":
        raise PlatformError(
            f"`experiment_id` must name a running test, got {now.experiment_id!r}, which is {now.state}."
        )
    if not now.coverage <= coverage <= 1:
        raise PlatformError(
            f"`coverage` of {now.experiment_id!r} must lie in {now.coverage:g}..1, got {coverage:g}. It "
            "never goes down, since users would change what they see; stop the test instead."
        )


def check_slot(test: LiveTest, holdback: float, running: Iterable[LiveTest]) -> None:
    """PlatformError where the slot of `test` overlaps with the holdback or with a running test's."""
    low, high = test.slot
    if low < holdback:
        raise PlatformError(
            f"`slot` must begin at {holdback:g} or later, got {low:g}: before it lies the holdback, which no "
            "test and no launch may reach."
        )
    for other in running:
        if other.layer == test.layer and low < other.slot[1] and other.slot[0] < high:
            raise PlatformError(
                f"`slot` {low:g}..{high:g} of {test.experiment_id!r} overlaps with that of "
                f"{other.experiment_id!r}, which runs on {other.slot[0]:g}..{other.slot[1]:g}. "
                "Wait for it, or stop it."
            )


def kept(artifact: str, home: Path) -> str:
    """How a folder is written down: relative to HOME where it is under it, so that a home can be moved, and
    lie elsewhere on another machine."""
    path = Path(artifact).absolute()
    return str(path.relative_to(home)) if path.is_relative_to(home) else str(path)


class Allocations(ABC):
    """Where `Traffic` is kept, for those who change it. PlatformError from all methods.

    `where`: its name in messages; `layer` and `holdback`: the surface's, which never change.
    """

    def __init__(self, where: str, layer: str, holdback: float) -> None:
        self._where = where
        self._empty = Traffic(layer=layer, holdback=holdback)

    @abstractmethod
    def read(self) -> Traffic:
        """What is served now; nothing yet where nothing was written."""

    @abstractmethod
    def change(self, transition: Callable[[Traffic], Traffic]) -> None:
        """Replace it by `transition` of it, alone; left as it is where that raises or changes nothing."""

    def _ours(self, content: bytes | str | None) -> Traffic:
        """What was written, of this surface as it is."""
        if content is None:
            return self._empty
        traffic = _parsed(content, self._where)
        for field in ("layer", "holdback"):
            if (was := getattr(traffic, field)) != (now := getattr(self._empty, field)):
                raise PlatformError(
                    f"`{field}` must stay {was!r}, as in {self._where}, got {now!r}: users who saw launches "
                    "would be held back from now on, or the other way round. Set it back in surface.toml, or "
                    "remove what was written to begin anew."
                )
        return traffic


class AllocationFile(Allocations):
    """`allocations.json`: one machine's."""

    def __init__(self, path: Path, layer: str, holdback: float, patience_s: float = 10.0) -> None:
        super().__init__(str(path), layer, holdback)
        self._path = path
        self._patience_s = patience_s

    def read(self) -> Traffic:
        return self._ours(_content(self._path))

    def change(self, transition: Callable[[Traffic], Traffic]) -> None:
        with self._alone():
            before = self.read()
            after = transition(before)
            if after is before:
                return
            partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
            try:
                with partial.open("w", encoding="utf-8") as file:
                    file.write(after.model_dump_json(indent=1))
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(self._path)
            except OSError as error:
                raise _unwritable(self._path, error) from error
            finally:
                partial.unlink(missing_ok=True)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        import fcntl  # not on every system that can read this module

        lock = self._path.with_name(f".{self._path.name}.lock")
        try:
            file = lock.open("a")
        except OSError as error:
            raise _unwritable(self._path, error) from error
        with file:
            until = time.monotonic() + self._patience_s
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > until:
                        raise PlatformError(
                            f"{self._path} is being changed by another process for more than "
                            f"{self._patience_s:g} s ({lock}). Is it stuck?"
                        ) from error
                    time.sleep(0.02)
            yield


def _unwritable(path: Path, error: OSError) -> PlatformError:
    return PlatformError(
        f"{path} cannot be written: {error.strerror or error}. Traffic is as it was. Free the disk or give "
        "permission, and do it again."
    )


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PlatformError(f"{path} cannot be read: {error.strerror or error}.") from error


def _parsed(content: bytes | str, where: str) -> Traffic:
    try:
        return Traffic.model_validate_json(content)
    except ValidationError as error:
        raise PlatformError(
            f"{where} is not what was written there: {error.errors()[0]['msg']}. Restore it from a backup; "
            "a service sends everybody to its default until then."
        ) from error


class LiveAllocations(Mapping[str, Allocation]):
    """The running tests by id, for a service: `ExperimentProvider(LiveAllocations(path))`.

    `source`: the file, which is looked at on every access (one `stat`) and read when it was replaced, so a
    ramp or a stop needs no restart; or whatever tells the traffic as it is now. `home`: where the models lie,
    by default the home that the file is in. PlatformError where it cannot be read; OpenFeature then answers
    with the default.
    """

    def __init__(self, source: Path | Callable[[], Traffic], home: Path | None = None) -> None:
        if isinstance(source, Path):
            self._now: Callable[[], Traffic] = _Followed(source)
            home = home or source.absolute().parent.parent.parent
        else:
            self._now = source
        self._home = home or Path.cwd()

    def __getitem__(self, experiment_id: str) -> Allocation:
        served = self._now().experiments[experiment_id]
        if served.state != "running":
            raise KeyError(experiment_id)
        return served.test.allocation(served.coverage)

    def __iter__(self) -> Iterator[str]:
        return iter([served.test.experiment_id for served in self._now().running()])

    def __len__(self) -> int:
        return len(self._now().running())

    def artifacts(self, experiment_id: str) -> dict[str, str]:
        """variation_id -> artifact directory of a test."""
        test = self._now().experiments[experiment_id].test
        return {"0": self._folder(test.control), "1": self._folder(test.candidate)}

    def held_back(self, user_id: str) -> bool:
        """Is this user in the holdback? They are logged as variation "0" of HOLDBACK, others as "1"."""
        traffic = self._now()
        return bool(hash_v2(traffic.layer, [user_id])[0] < traffic.holdback)

    def production(self, user_id: str) -> str | None:
        """Artifact directory for a user who is in no test; None: what served before any launch."""
        traffic = self._now()
        artifact = traffic.first if self.held_back(user_id) else traffic.artifact
        return None if artifact is None else self._folder(artifact)

    def _folder(self, artifact: str) -> str:
        return str(self._home / artifact)


class _Followed:
    """The traffic of a file, read again when it was replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._traffic = Traffic(layer="", holdback=0.0)

    def __call__(self) -> Traffic:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return Traffic(layer="", holdback=0.0)
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            content = _content(self._path)
            if content is None:
                return Traffic(layer="", holdback=0.0)
            self._traffic, self._seen = _parsed(content, str(self._path)), seen
        return self._traffic
