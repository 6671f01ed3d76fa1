"""local: the pool on this machine: which job runs when, on how many cores, within which limits.

What happens to one job is `evaluate.py`. This process holds labels, clocks and metrics, and never imports
torch.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from evorank.model.data import Dataset
from evorank.model.delta import canonical
from evorank.model.errors import EvorankError, LockError, ToolError
from evorank.model.system import Phi
from evorank.tools.evaluator.artifact import Artifact
from evorank.tools.evaluator.blocks import weights_in
from evorank.tools.evaluator.evaluate import (
    Turn,
    capacity,
    check,
    check_with,
    evaluate,
    evaluate_with,
    training_files,
    twice,
)
from evorank.tools.evaluator.executor import Checked, Evaluation, Job, Pool, Task, runs_only_ours
from evorank.tools.evaluator.gpu import OPEN_FILES, DeviceName, choose_device
from evorank.tools.evaluator.lock import Limits, Tier, self_test
from evorank.tools.evaluator.scorer import Scorer
from evorank.tools.evaluator.supervisor import Lost, Supervisor
from evorank.tools.evaluator.trainer import Trainer, Trainers

__all__ = ["LocalPool"]

LEAST_MEMORY = 2 << 30


class LocalPool(Pool[Task]):
    """Locked processes on this machine: `workers` (default: the cores) trainings at once, one thread each.

    `limit` is the wall-clock limit of one job in seconds, `check_limit` that of a check, `cpu_limit` the
    CPU-seconds of one child (default: as `limit`), `memory` what a child may add to what it starts with, in
    bytes (default: a fair share of this machine's, at least 2 GB). LockError where processes cannot be locked
    as they must be; `allow_degraded` goes on with the layers there are. `device`: as `choose_device`.
    """

    def __init__(
        self,
        workers: int | None = None,
        limit: float = 3600.0,
        check_limit: float = 120.0,
        *,
        cpu_limit: float | None = None,
        memory: int | None = None,
        allow_degraded: bool = False,
        device: DeviceName = "auto",
    ) -> None:
        super().__init__()
        count = workers if workers is not None else _cores()
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        report = self_test()
        if report.tier == "degraded" and not allow_degraded:
            missing = "; ".join(f"{layer}: {why}" for layer, why in report.missing.items())
            raise LockError(
                f"Candidates cannot be locked up on this machine ({missing}). `--allow-degraded` runs them "
                "with the layers there are: do that only where you trust every model that proposes code."
            )
        self.device = choose_device(device, allow_degraded=allow_degraded).device
        self.workers = count
        self.tier: Tier = "degraded" if self.device == "cuda" else report.tier
        self._machine = report.tier
        self.memory = memory if memory is not None else max(LEAST_MEMORY, _physical_memory() // count)
        self._limit, self._check_limit = limit, check_limit
        self._cpu = math.ceil(limit if cpu_limit is None else cpu_limit)
        self._supervisors: dict[str, Supervisor] = {}
        self._datasets: dict[Path, Dataset] = {}
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._running: dict[str, Turn] = {}
        self._scorers: weakref.WeakSet[Scorer] = weakref.WeakSet()
        # Twice as many as work at once: jobs of two rewards may take turns without a new process for each.
        # Not on a GPU, where each would hold hundreds of megabytes of its memory.
        self._trainers = Trainers(count if self.device == "cuda" else 2 * count)
        self._checkers = Trainers(1)
        self._threads: list[threading.Thread] = []
        self._closed = False
        # At exit, where nobody called close.
        self._finalizer = weakref.finalize(self, _close, self._supervisors)

    def submit(self, job: Job) -> str:
        task = Task(job)
        with self._lock:
            self._require_open()
            self._tasks[task.id] = task
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._keep, daemon=True, name=f"evorank-worker-{n}")
                    for n in range(self.workers)
                ]
                for thread in self._threads:
                    thread.start()
        self._queue.put(task)
        return task.id

    def cancel(self, id: str) -> None:
        with self._lock:
            task, running = self._tasks.get(id), self._running.get(id)
        if running is not None:
            running.stop("was cancelled")
        elif task is not None:
            task.fail(ToolError("The training was cancelled."))

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> Checked:
        with self._lock:
            self._require_open()
        schema = self._dataset(dataset, system).schema
        supervisor, limits = self._supervisor(system), self._limits()

        def run(turn: Turn) -> Checked:
            # SQL of others counts as code: DuckDB reads it.
            if not (runs_only_ours(system, phi) and phi.get("reward") == production.get("reward")):
                return check(supervisor, schema, production, phi, limits, turn)
            kind = (system, dataset, canonical(production))
            with self._checkers.lent(
                kind,
                lambda: Trainer(supervisor, schema=schema, production=production, capacity=1, limits=limits),
            ) as checker:
                return check_with(checker, phi, turn)

        return twice(run, Turn(self._check_limit))

    def scorer(self, artifact: Path, capacity: int = 50_000) -> Scorer:
        """As `Executor.scorer`. Several may be open at once; each holds its weights and one page of rows."""
        with self._lock:
            self._require_open()
        found = Artifact.open(artifact)
        weights = found.weights_file()
        try:
            scorer = Scorer(
                self._supervisor(found.system),
                schema=found.schema,
                production=found.production,
                phi=found.phi,
                weights=weights,
                blocks=weights_in(weights),
                capacity=capacity,
                limits=replace(self._limits(), cpu_seconds=None),
                seed=found.seed,
                loss=found.loss,
                seconds=self._check_limit,
            )
        except Lost as lost:
            raise ToolError(f"The scorer did not start: {lost}.") from None
        finally:
            os.close(weights)
        self._scorers.add(scorer)
        return scorer

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = list(self._tasks.values())
        for _ in self._threads:
            self._queue.put(None)
        for task in waiting:
            task.fail(ToolError("The pool was closed before the training ended."))
        self._finalizer()  # ends the zygotes and every child: whoever waits for one goes on
        for thread in self._threads:
            thread.join(timeout=10)
        for scorer in list(self._scorers):
            scorer.close()
        for trainers in (self._trainers, self._checkers):
            trainers.close()

    # One job

    def _keep(self) -> None:
        """One slot's thread: take the next job, run it, until None."""
        while (task := self._queue.get()) is not None:
            with self._lock:
                if task.future.done():
                    continue
                turn = self._running[task.id] = Turn(self._limit)
            try:
                task.done(twice(partial(self._evaluate, task.job), turn))
            except Exception as error:
                told = error if isinstance(error, EvorankError) else ToolError(f"Executor: {error!r}")
                told.cpu_seconds = turn.cpu_seconds
                task.fail(told)
            finally:
                with self._lock:
                    self._running.pop(task.id, None)

    def _evaluate(self, job: Job, turn: Turn) -> Evaluation:
        dataset = self._dataset(job.dataset, job.system)
        supervisor, limits = self._supervisor(job.system), self._limits()
        if not job.ours or job.apart or job.artifact is not None:
            return evaluate(job, dataset, supervisor, limits, turn)
        kind = (job.system, job.dataset, canonical(job.production), job.label_path, job.train, job.score)
        with self._trainers.lent(
            kind,
            lambda: Trainer(
                supervisor,
                schema=dataset.schema,
                production=job.production,
                capacity=capacity(job),
                limits=limits,
                files=training_files(job, dataset),
            ),
        ) as trainer:
            return evaluate_with(trainer, job, dataset, turn)

    # What jobs share

    def _supervisor(self, system: str) -> Supervisor:
        with self._lock:
            self._require_open()
            if system not in self._supervisors:
                self._supervisors[system] = Supervisor(
                    system,
                    contained=self.tier == "contained",
                    degraded=self._machine == "degraded",
                    device=self.device,
                )
            return self._supervisors[system]

    def _dataset(self, directory: Path, system: str) -> Dataset:
        """The dataset, once it is known that candidates of this system cannot read its files."""
        if directory not in self._datasets:
            self._datasets[directory] = Dataset.open(directory)
        self._supervisor(system).require_hidden(directory)
        return self._datasets[directory]

    def _limits(self) -> Limits:
        if self.device == "cuda":
            return Limits(cpu_seconds=self._cpu, memory=self.memory, open_files=OPEN_FILES)
        return Limits(cpu_seconds=self._cpu, memory=self.memory)

    def _require_open(self) -> None:
        if self._closed:
            raise ToolError("The pool is closed.")


def _close(supervisors: dict[str, Supervisor]) -> None:
    for supervisor in list(supervisors.values()):
        supervisor.close()


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _physical_memory() -> int:
    """Bytes that this machine has, or that the container may use."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found
