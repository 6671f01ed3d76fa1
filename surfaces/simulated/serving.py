"""Trained artifacts as policies of a world: encoded as they were for training, scored where it is safe.

Encoders and rankers are kept from day to day. What a new process lacks, it hears again from the log: the days
since an artifact's data end, so that a day does not depend on which process lives it.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evorank.model.data import Dataset
from evorank.model.errors import PlatformError
from evorank.model.system import Float32
from evorank.surfaces.platform import Load, Ranker
from evorank.surfaces.simulated.live import LiveEncoder
from evorank.surfaces.simulated.logs import replay
from evorank.surfaces.simulated.policies import Counting
from evorank.surfaces.simulated.traffic import CandidateRows, LogSink, Policy

__all__ = ["Artifact", "Servers"]


@dataclass(frozen=True)
class Artifact:
    """A policy: what a trained artifact makes of candidates."""

    encoder: LiveEncoder
    ranker: Ranker
    exploration: float = 0.0

    def score(self, rows: CandidateRows) -> Float32:
        return np.asarray(self.ranker.score(self.encoder.encode(rows)), np.float32).reshape(rows.shape)


class Servers:
    """The policies in use on a surface, and what must hear the log for them."""

    def __init__(self, directory: Path, load: Load) -> None:
        """`directory`: of the surface, with `log/` and `data/KEY`."""
        self._directory, self._load = directory, load
        self._counting: Counting | None = None
        self._encoders: dict[str, LiveEncoder] = {}
        self._rankers: dict[Path, Ranker] = {}

    def policies(
        self, artifacts: Sequence[Path | None], today: datetime.date
    ) -> tuple[list[Policy], list[LogSink]]:
        """A policy for each artifact (None: click rates), ready to serve `today`, and what must hear the day.

        Others than these are let go of. PlatformError: an artifact cannot be served here.
        """
        wanted = {artifact: self.require(artifact) for artifact in artifacts if artifact is not None}
        for path in self._rankers.keys() - wanted.keys():
            self._rankers.pop(path).close()
        for key in self._encoders.keys() - set(wanted.values()):
            del self._encoders[key]
        if None not in artifacts:
            self._counting = None
        for key in dict.fromkeys(wanted.values()):
            if key not in self._encoders:
                self._encoders[key] = self._encoder(key, today)
        for path in wanted:
            if path not in self._rankers:
                self._rankers[path] = self._load(path)
        if None in artifacts and self._counting is None:
            self._counting = Counting()
            replay(self._directory / "log", self._counting, before=today)
        counting: list[Counting] = [self._counting] if self._counting is not None else []
        policies: list[Policy] = [
            counting[0]
            if artifact is None
            else Artifact(self._encoders[wanted[artifact]], self._rankers[artifact])
            for artifact in artifacts
        ]
        return policies, [*counting, *self._encoders.values()]

    def close(self) -> None:
        """Forget everything: after a day that was not finished, what was heard of it is no longer true."""
        rankers, self._rankers = self._rankers, {}
        self._encoders, self._counting = {}, None
        for ranker in rankers.values():
            ranker.close()

    def require(self, artifact: Path) -> str:
        """Key of the dataset that an artifact was trained on. PlatformError: not an artifact, or of another
        surface."""
        try:
            key = str(json.loads((artifact / "manifest.json").read_text())["data"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise PlatformError(
                f"{artifact} is no artifact that can be served ({type(error).__name__}: {error})."
            ) from error
        if not (self._directory / "data" / key / "meta.json").exists():
            raise PlatformError(
                f"{artifact} was trained on the data version {key}, which this surface has not: without it, "
                f"features cannot be encoded. Is it another surface's? Known: {self._directory / 'data'}."
            )
        return key

    def _encoder(self, key: str, today: datetime.date) -> LiveEncoder:
        """The encoder of a dataset, and all that has happened since the end of its log."""
        dataset = Dataset.open(self._directory / "data" / key)
        encoder = LiveEncoder(dataset)
        last = int(dataset.days(slice(len(dataset) - 1, None))[0])
        replay(
            self._directory / "log",
            encoder,
            after=datetime.date(1970, 1, 1) + datetime.timedelta(days=last),
            before=today,
        )
        return encoder
