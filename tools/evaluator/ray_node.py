"""What runs on each node of a Ray cluster: a trusted supervisor around one LocalPool.

Candidates live only in that pool's locked children; Ray's own processes never see their code run. Answers are
values, `Refused` for what a caller must hear as an error: Ray would wrap an exception in classes of its own.
Imports nothing of Ray.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evorank.model import errors
from evorank.model.errors import ConfigurationError, EvorankError, ToolError
from evorank.model.system import Phi
from evorank.tools.evaluator.executor import Job
from evorank.tools.evaluator.local import LocalPool
from evorank.tools.evaluator.ray_cluster import PASSED
from evorank.tools.evaluator.tier import Tier

__all__ = ["Refused", "Supervisor", "data_key", "facts"]


@dataclass(frozen=True)
class Refused:
    """An error on its way to the caller: its class in model/errors.py, its text and what was spent on it."""

    kind: str
    message: str
    cpu_seconds: float = 0.0

    @classmethod
    def of(cls, error: EvorankError) -> Refused:
        """Classes that are not in model/errors.py travel as the nearest one that is."""
        for kind in type(error).__mro__:
            if getattr(errors, kind.__name__, None) is kind and kind is not errors.RefusedDelta:
                return cls(kind.__name__, str(error), error.cpu_seconds)
        raise AssertionError("unreachable")

    def error(self) -> EvorankError:
        found: EvorankError = getattr(errors, self.kind)(self.message)
        found.cpu_seconds = self.cpu_seconds
        return found


class Supervisor:
    """One node's pool. Every method may be called from several threads at once, once `open` has answered."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._pool: LocalPool | None = None
        self._lock = threading.Lock()
        self._running: dict[str, str] = {}
        self._cancelled: set[str] = set()

    def open(
        self, workers: int, options: Mapping[str, Any], paths: Sequence[str], expected: Mapping[str, str]
    ) -> Refused | Tier:
        """Start the pool, and say how well it locks candidates up. `paths` are the caller's module folders,
        `expected` its `facts`: both ends must run the same code, or one cache would hold results of two
        programs."""
        for name in set(os.environ) - set(PASSED):
            if not name.startswith("RAY_"):  # a node's owner may have keys, too
                del os.environ[name]
        sys.path.extend(path for path in paths if path not in sys.path)
        for name, here in facts().items():
            if expected[name] != here:
                message = f"{name} {here} differs from this machine's {expected[name]}. Install the same."
                return Refused("ConfigurationError", f"`executor` ray: node {self._node}: {message}")
        try:
            self._pool = LocalPool(workers, **options)
        except EvorankError as error:
            return Refused(Refused.of(error).kind, f"node {self._node}: {error}")
        return self._pool.tier

    def run(self, id: str, job: Job, key: str) -> Any:
        """The Evaluation of a job; `key` is the data version that the caller sees."""
        assert self._pool is not None
        try:
            self._same_data(job.dataset, key)
            with self._lock:
                if id in self._cancelled:
                    raise ToolError("The training was cancelled.")
                self._running[id] = local = self._pool.submit(job)
            return self._pool.result(local)
        except EvorankError as error:
            return Refused.of(error)
        finally:
            with self._lock:
                self._running.pop(id, None)
                self._cancelled.discard(id)

    def check(self, dataset: Path, key: str, system: str, production: Phi, phi: Phi) -> Any:
        assert self._pool is not None
        try:
            self._same_data(dataset, key)
            return self._pool.check(dataset, system, production, phi)
        except EvorankError as error:
            return Refused.of(error)

    def cancel(self, id: str) -> None:
        """Stop a job, also one whose `run` is still on its way to us."""
        assert self._pool is not None
        with self._lock:
            local = self._running.get(id)
            if local is None:
                self._cancelled.add(id)
        if local is not None:
            self._pool.cancel(local)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _same_data(self, dataset: Path, key: str) -> None:
        try:
            found = data_key(dataset)
        except ConfigurationError as error:
            found = str(error)
        if found != key:
            raise ConfigurationError(
                f"`home` must lie on storage that every node sees: node {self._node} has not the encoded log "
                f"of this machine at {dataset} (data version {key[:12]} here, there {found[:200]}). Share "
                "that folder, or keep nodes without it out of the cluster."
            )


def data_key(dataset: Path) -> str:
    """The data version of an encoded log, from its meta.json. ConfigurationError where there is none."""
    try:
        return str(json.loads((dataset / "meta.json").read_text())["key"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(f"no encoded log: {type(error).__name__} {error}") from error


def facts() -> dict[str, str]:
    """What must be the same on every machine for the same results: versions, processor, our own code."""
    here = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for folder in ("model", "tools/evaluator"):
        for file in sorted((here / folder).rglob("*.py")):
            digest.update(file.read_bytes())
    return {
        "processor": platform.machine(),
        **{name: version(name) for name in ("torch", "numpy")},
        "evorank": f"{version('evorank')} (code {digest.hexdigest()[:12]})",
    }
