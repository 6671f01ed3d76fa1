"""Workbench: what every tool needs of a surface: data, system, and trainings that are never repeated.

It knows nothing of verdicts. The parent process stays light: checks and trainings run in the executor.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt

from evorank.model.delta import fingerprint
from evorank.model.errors import EvorankError, Finding
from evorank.model.system import Float32, Int32, Objective, Phi
from evorank.tools.cache import EvaluationCache
from evorank.tools.comparison import Effort
from evorank.tools.evaluator.executor import Evaluation, Executor, Job, runs_only_ours
from evorank.tools.events import Event, begin, during, end
from evorank.tools.run_sql_query import SqlProcess

if TYPE_CHECKING:
    from evorank.surfaces.surface import Surface

__all__ = ["Progress", "Spending", "Workbench"]

Progress = Callable[[str], None]
"""Told in a few words what is being done."""

SLICE_ABOVE = 200_000
"""Logs with more training rows than this are tried on a slice first."""
SLICE_ROWS = 100_000
GIVEN_UP_SECONDS = 30.0
"""A training that was cancelled says what it cost by then, or it is not counted."""


class Workbench:
    """A surface, an executor and a cache. `seeds` is how many paired trainings a full comparison takes."""

    def __init__(self, surface: Surface, executor: Executor, cache: Path, seeds: int = 8) -> None:
        if seeds < 2:
            raise ValueError(f"seeds must be at least 2 to tell a difference from noise, got {seeds}")
        self.executor, self.seeds = executor, seeds
        self.cache = EvaluationCache(Path(cache))
        self._open(surface)

    def _open(self, surface: Surface) -> None:
        self.surface = surface
        self.dataset = surface.dataset()
        self.system = surface.system()
        self.production: Phi = surface.production()
        self.sql = SqlProcess(self.dataset)

    def renew(self, surface: Surface) -> None:
        """Go on with `surface` as it is now: its production Φ, and its log as long as it has grown."""
        self.sql.close()
        self._open(surface)

    def check(self, phi: Phi) -> list[Finding]:
        """Everything wrong with Φ that can be known without training, guardrails on its size included."""
        found = self.executor.check(self.dataset.directory, self._system_name, self.production, phi)
        if found.parameters is None:
            return found.findings
        return self.exceeded(parameters=float(found.parameters))

    def exceeded(self, times: float = 1.0, **measured: float) -> list[Finding]:
        """Guardrails of the surface that the measured values break, `times` over, as findings."""
        return [
            Finding(
                "",
                f"breaks the guardrail {rail.metric} <= {rail.maximum:g}",
                measured[rail.metric],
                "Propose something cheaper.",
            )
            for rail in self.surface.spec.guardrails
            if rail.metric in measured and measured[rail.metric] > times * rail.maximum
        ]

    def close(self) -> None:
        """End the SQL process; the executor belongs to whoever made it."""
        self.sql.close()

    def evaluate(self, phi: Phi, seed: int, effort: Effort = "full") -> Evaluation:
        """Train `phi` and predict the scored rows, or find it in the cache. ToolError if it fails."""
        return self.evaluate_many([(phi, seed)], effort)[0]

    def evaluate_many(
        self, wanted: Sequence[tuple[Phi, int]], effort: Effort = "full", *, again: bool = False
    ) -> list[Evaluation]:
        """Evaluations in the order of `wanted`, trained side by side; the same Φ and seed only once.

        `again` trains even what is in the cache: costs that are to be compared must be of the same moment,
        and all of processes of their own where one must have some. Where one fails the others are cancelled,
        and the error says what all of them cost.
        """
        apart = again and not all(runs_only_ours(self._system_name, phi) for phi, _ in wanted)
        keys = [self._key(phi, seed, effort) for phi, seed in wanted]
        jobs = dict(zip(keys, wanted, strict=True))
        done: dict[str, Evaluation] = {}

        def cached(key: str) -> bool:
            found = None if again else self.cache.load(key)
            if found is not None and len(found.predictions) == self._score_rows(effort):
                done[key] = found
            return key in done

        with ExitStack() as locks:
            running: dict[str, str] = {}
            told: dict[str, Event] = {}
            try:
                # Only what is missing is locked, or every attempt would wait for whoever holds production's
                # entries; in the order of the keys, so that no two wait for each other.
                for key in sorted(key for key in jobs if not cached(key)):
                    locks.enter_context(self.cache.lock(key))
                    if not cached(key):  # somebody else may have trained it while we waited
                        phi, seed = jobs[key]
                        against = () if again else self._curve(phi, seed, effort)
                        told[key] = begin("training", effort, candidate=fingerprint(phi)[:12], seed=seed)
                        job = replace(self._job(phi, seed, effort, against), apart=apart)
                        running[key] = self.executor.submit(job)
                for key in list(running):
                    done[key] = self.executor.result(running[key])
                    del running[key]
                    self.cache.store(key, done[key])
                    end(told.pop(key), cpu_seconds=done[key].cpu_seconds)
            except EvorankError as error:
                for event in told.values():
                    end(event, error=str(error))
                error.cpu_seconds += sum(each.cpu_seconds for each in done.values())
                error.cpu_seconds += self._given_up(running)
                raise
            finally:
                for id in running.values():
                    self.executor.cancel(id)
        return [done[key] for key in keys]

    def _given_up(self, running: dict[str, str]) -> float:
        """CPU-seconds of trainings whose results nobody needs any more; one that has ended is kept."""
        spent = 0.0
        for job in running.values():
            self.executor.cancel(job)
        while running:
            key, job = running.popitem()
            try:
                found = self.executor.result(job, GIVEN_UP_SECONDS)
            except EvorankError as error:
                spent += error.cpu_seconds
            else:
                self.cache.store(key, found)
                spent += found.cpu_seconds
        return spent

    def export(self, phi: Phi, artifact: Path, seed: int = 0) -> Evaluation:
        """Train once, never from the cache, and leave the model in `artifact`. ToolError if it fails."""
        job = replace(self._job(phi, seed, "full"), artifact=artifact)
        with during("training", "export", candidate=fingerprint(phi)[:12], seed=seed) as found:
            evaluation = self.executor.result(self.executor.submit(job))
            found["cpu_seconds"] = evaluation.cpu_seconds
        return evaluation

    def train_slice(self, effort: Effort) -> slice:
        """Rows to train on: the training period, or its most recent part."""
        train = self.dataset.bounds["train"]
        if effort != "slice":
            return train
        rows = max(SLICE_ROWS, (train.stop - train.start) // 10)
        return slice(max(train.start, train.stop - rows), train.stop)

    def score_slice(self, effort: Effort) -> slice:
        """Rows to predict: the validation period; the test period for final reporting only."""
        return self.dataset.bounds["test" if effort == "test" else "validation"]

    @property
    def has_slice(self) -> bool:
        train = self.dataset.bounds["train"]
        return bool(train.stop - train.start > SLICE_ABOVE)

    def labels(self, objective: Objective, effort: Effort = "full") -> Float32:
        """Labels of the scored rows, float32 [n]."""
        labels = self.dataset.labels(objective, upto="test" if effort == "test" else "validation")
        return labels[self.score_slice(effort)]

    def users(self, effort: Effort = "full") -> Int32:
        """User number of the scored rows, int32 [n]."""
        return self.dataset.users(self.score_slice(effort))

    def user_codes(self, effort: Effort = "full") -> npt.NDArray[np.intp]:
        """The same users, renumbered 0 .. g - 1 without gaps."""
        return np.unique(self.users(effort), return_inverse=True)[1]

    def _score_rows(self, effort: Effort) -> int:
        rows = self.score_slice(effort)
        return int(rows.stop - rows.start)

    def _curve(self, phi: Phi, seed: int, effort: Effort) -> tuple[tuple[int, float], ...]:
        """Production's learning curve, where it is known and `phi` may be judged by it.

        A report on the test period judges by nothing but the end, and losses of other rewards say nothing.
        """
        production = self.production
        if effort == "test" or phi == production:
            return ()
        if self.system.objective(phi) != self.system.objective(production):
            return ()
        found = self.cache.load(self._key(production, seed, effort))
        return found.curve if found is not None else ()

    def _job(self, phi: Phi, seed: int, effort: Effort, against: tuple[tuple[int, float], ...] = ()) -> Job:
        objective = self.system.objective(phi)
        train, score = self.train_slice(effort), self.score_slice(effort)
        return Job(
            dataset=self.dataset.directory,
            system=self._system_name,
            production=self.production,
            phi=phi,
            label_path=self.dataset.label_path(objective, upto="train"),  # no other label is in its file
            loss=objective.loss,
            seed=seed,
            train=(train.start, train.stop),
            score=(score.start, score.stop),
            against=against,
        )

    def _key(self, phi: Phi, seed: int, effort: Effort) -> str:
        train, score = self.train_slice(effort), self.score_slice(effort)
        return EvaluationCache.key(
            {
                "phi": fingerprint(phi),
                "data": self.dataset.key,
                "seed": seed,
                "train": [train.start, train.stop],
                "score": [score.start, score.stop],
                "system": self._system_name,
                "source": self._source,
                "device": self.executor.device,
            }
        )

    @property
    def _system_name(self) -> str:
        return self.surface.spec.system

    @cached_property
    def _source(self) -> str:
        """Hash of the code that trains: the class's own file, and for the built-in ranker all of model/."""
        path = Path(inspect.getfile(type(self.system)))
        ours = type(self.system).__module__.startswith("evorank.")
        files = sorted(path.parent.glob("*.py")) if ours else [path]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes())
        return digest.hexdigest()


@dataclass
class Spending:
    """A workbench that counts the CPU-seconds of one candidate. As a context, an error that leaves it carries
    them: what was trained before counts too."""

    bench: Workbench
    cpu_seconds: float = 0.0

    def evaluate_many(
        self, wanted: Sequence[tuple[Phi, int]], effort: Effort = "full", *, again: bool = False
    ) -> list[Evaluation]:
        """As `Workbench.evaluate_many`."""
        found = self.bench.evaluate_many(wanted, effort, again=again)
        self.cpu_seconds += sum({id(each): each.cpu_seconds for each in found}.values())
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if isinstance(error, EvorankError):
            error.cpu_seconds += self.cpu_seconds
