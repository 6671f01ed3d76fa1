"""Evaluations on disk, so that the same Φ is never trained twice on the same data.

An entry is KEY.npy (float32 predictions, never a pickle) and KEY.json (costs, and a checksum of the
predictions), written in this order and each atomically: an entry without its JSON does not exist, one whose
checksum differs is ignored and written again. KEY.lock serialises threads and processes that want the same
entry: the second finds the first one's result. The oldest entries go where the folder outgrows `limit`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from evorank.model.errors import ConfigurationError
from evorank.tools.evaluator.executor import Evaluation

__all__ = ["EvaluationCache"]


class EvaluationCache:
    """A folder of evaluations. Safe with several threads and processes; `limit` in bytes."""

    def __init__(self, directory: Path, limit: int = 10 << 30) -> None:
        self.directory, self.limit = Path(directory), limit
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cache directory {self.directory} cannot be made ({error}). Choose another --home."
            ) from error

    @staticmethod
    def key(content: Mapping[str, Any]) -> str:
        """Name of an entry: SHA-256 of the canonical JSON of everything it depends on."""
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:40]

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold an entry alone; blocks while another thread or process holds it. A dead holder lets go."""
        path = self.directory / f"{key}.lock"
        with path.open("wb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def load(self, key: str) -> Evaluation | None:
        """The entry, or None where it is missing, damaged, or not ours."""
        try:
            told = json.loads((self.directory / f"{key}.json").read_text())
            checksum = told.pop("checksum")
            predictions = np.load(self.directory / f"{key}.npy", allow_pickle=False)
            if predictions.dtype != np.float32 or zlib.crc32(predictions.tobytes()) != checksum:
                return None
            curve = tuple((int(rows), float(loss)) for rows, loss in told.pop("curve", ()))
            return Evaluation(predictions=predictions, curve=curve, **told, cached=True)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError):
            return None

    def store(self, key: str, evaluation: Evaluation) -> None:
        """Write the entry; a full disk costs the cache, not the result."""
        told = {f.name: getattr(evaluation, f.name) for f in fields(evaluation)}
        predictions = told.pop("predictions")
        del told["cached"]
        told["checksum"] = zlib.crc32(predictions.tobytes())
        with suppress(OSError):
            self._write(key + ".npy", lambda stream: np.save(stream, predictions, allow_pickle=False))
            self._write(key + ".json", lambda stream: stream.write(json.dumps(told).encode()))
            self._prune()

    def _write(self, name: str, write: Any) -> None:
        partial = self.directory / f"{name}.{os.getpid()}-{os.urandom(4).hex()}.tmp"
        try:
            with partial.open("wb") as stream:
                write(stream)
            partial.replace(self.directory / name)
        finally:
            partial.unlink(missing_ok=True)

    def _prune(self) -> None:
        """Drop the least recently written predictions beyond the limit; their JSON goes first."""
        files = [(path, path.stat()) for path in self.directory.glob("*.npy")]
        found = sorted((stat.st_mtime, stat.st_size, path) for path, stat in files)
        excess = sum(size for _, size, _ in found) - self.limit
        for _, size, path in found:
            if excess <= 0:
                break
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            excess -= size
