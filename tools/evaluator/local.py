"""local: the pool on this machine. Candidates train and score in locked processes; what is compared is
measured here.

A job is a train child (training rows and labels in, weights out), then a score child and a probe child, which
see shuffled rows without labels and a page at a time. The probe scores some rows in odd-sized batches: scores
that depend on the other rows of a batch, or on those scored before, are an error. This process holds labels,
clocks and metrics, and never imports torch.
"""

from __future__ import annotations

import hashlib
import math
import os
import queue
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from evorank.model.data import Dataset
from evorank.model.errors import EvorankError, Finding, LockError, Stopped, ToolError
from evorank.model.system import Float32, Phi, Rows
from evorank.tools.evaluator.artifact import Artifact, export_artifact
from evorank.tools.evaluator.blocks import (
    Block,
    memory_file,
    npy_block,
    schema_as_json,
    seal,
    weights_in,
)
from evorank.tools.evaluator.curves import REGION, Curve, clearly_worse, of_points, read
from evorank.tools.evaluator.executor import Checked, Evaluation, Job
from evorank.tools.evaluator.lock import Limits, self_test
from evorank.tools.evaluator.scorer import Scorer, require_scores
from evorank.tools.evaluator.supervisor import Child, End, Lost, Supervisor

__all__ = ["LocalPool"]

LOOK_SECONDS = 0.2
"""How often a running training's curve is looked at."""
LATENCY_ROWS = 500
LATENCY_REPEATS = 7
BATCH = 1 << 16
"""Rows of one request."""
PROBE_BATCHES = (1, 2, 3, 5, 17, 97, 257, 618)
ABSOLUTE, RELATIVE = 1e-5, 1e-4
"""Scores of a row may differ this much between batches: float32 sums in another order, and nothing more."""
LEAST_MEMORY = 2 << 30
MOST_WEIGHTS = 4 << 30
Found = TypeVar("Found")


@dataclass(eq=False)
class _Turn:
    """One try of a job: who works on it, so that they can be stopped, and until when."""

    limit: float
    ends: float = 0.0
    why: str = ""
    children: list[Child] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self.children, self.ends = [], time.monotonic() + self.limit

    @property
    def left(self) -> float:
        """Seconds."""
        return max(0.0, self.ends - time.monotonic())

    @property
    def late(self) -> str:
        return f"took longer than {self.limit:g} seconds and was stopped"

    def watch(self, child: Child) -> None:
        with self.lock:
            self.children.append(child)
            if self.why:
                child.kill(self.why)

    def stop(self, why: str) -> None:
        with self.lock:
            self.why = self.why or why
            for child in self.children:
                child.kill(why)


class LocalPool:
    """Locked processes on this machine: `workers` (default: the cores) trainings at once, one thread each.

    `limit` is the wall-clock limit of one job in seconds, `check_limit` that of a check, `cpu_limit` the
    CPU-seconds of one child (default: as `limit`), `memory` what a child may add to what it starts with, in
    bytes (default: a fair share of this machine's, at least 2 GB). LockError where processes cannot be locked
    as they must be; `allow_degraded` goes on with the layers there are.
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
    ) -> None:
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
        self.workers, self.tier = count, report.tier
        self.memory = memory if memory is not None else max(LEAST_MEMORY, _physical_memory() // count)
        self._limit, self._check_limit = limit, check_limit
        self._cpu = math.ceil(limit if cpu_limit is None else cpu_limit)
        self._supervisors: dict[str, Supervisor] = {}
        self._datasets: dict[Path, Dataset] = {}
        self._jobs: dict[str, tuple[Job, Future[Evaluation]]] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._running: dict[str, _Turn] = {}
        self._scorers: weakref.WeakSet[Scorer] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._closed = False
        # At exit, where nobody called close.
        self._finalizer = weakref.finalize(self, _close, self._supervisors)

    def submit(self, job: Job) -> str:
        id = uuid.uuid4().hex
        with self._lock:
            self._require_open()
            self._jobs[id] = (job, Future())
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._keep, daemon=True, name=f"evorank-worker-{n}")
                    for n in range(self.workers)
                ]
                for thread in self._threads:
                    thread.start()
        self._queue.put(id)
        return id

    def poll(self, id: str) -> Evaluation | None:
        return self.result(id) if self._future(id).done() else None

    def result(self, id: str, timeout: float | None = None) -> Evaluation:
        future = self._future(id)
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            if not future.done():
                raise ToolError(f"No result after {timeout:g} seconds; the training goes on.") from None
            raise
        finally:
            if future.done():
                with self._lock:
                    self._jobs.pop(id, None)

    def cancel(self, id: str) -> None:
        with self._lock:
            entry, running = self._jobs.get(id), self._running.get(id)
        if running is not None:
            running.stop("was cancelled")
        elif entry is not None:
            _fail(entry[1], ToolError("The training was cancelled."))

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> Checked:
        with self._lock:
            self._require_open()
        request = {"kind": "check", "production": production, "phi": phi}
        return _twice(lambda turn: self._check(dataset, system, request, turn), _Turn(self._check_limit))

    def scorer(self, artifact: Path, capacity: int = 50_000) -> Scorer:
        """A process that holds an exported candidate and scores rows, `capacity` at a time, until closed.

        Several may be open at once; each holds its weights and one page of rows. ConfigurationError where
        the artifact was changed.
        """
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
                threads=_own(found.system),
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
            waiting = [future for _, future in self._jobs.values()]
        for _ in self._threads:
            self._queue.put(None)
        for future in waiting:
            _fail(future, ToolError("The pool was closed before the training ended."))
        self._finalizer()  # ends the zygotes and every child: whoever waits for one goes on
        for thread in self._threads:
            thread.join(timeout=10)
        for scorer in list(self._scorers):
            scorer.close()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # One job

    def _keep(self) -> None:
        """One slot's thread: take the next job, run it, until None."""
        while (id := self._queue.get()) is not None:
            with self._lock:
                entry = self._jobs.get(id)
                if entry is None or entry[1].done():
                    continue
                turn = self._running[id] = _Turn(self._limit)
            job, future = entry
            try:
                evaluation = _twice(partial(self._evaluate, job), turn)
            except Exception as error:
                _fail(future, error if isinstance(error, EvorankError) else ToolError(f"Executor: {error!r}"))
            else:
                with suppress(Exception):  # cancelled in the last moment
                    future.set_result(evaluation)
            finally:
                with self._lock:
                    self._running.pop(id, None)

    def _check(self, dataset: Path, system: str, request: dict[str, Any], turn: _Turn) -> Checked:
        supervisor, schema = self._supervisor(system), self._dataset(dataset, system).schema
        request = request | {"schema": schema_as_json(schema)}
        result = memory_file("result", 0)
        try:
            with supervisor.spawn(request, [result], self._limits(), threads=_own(system)) as child:
                _require_done(child, child.wait(turn.left, turn.late), "The check")
                told = child.told()
        finally:
            os.close(result)
        return _checked(told)

    def _evaluate(self, job: Job, turn: _Turn) -> Evaluation:
        dataset = self._dataset(job.dataset, job.system)
        with self._train(job, dataset, turn) as (weights, blocks, trained, claimed, curve):
            floats = sum(math.prod(b.shape) for b in blocks.values() if np.dtype(b.dtype).kind == "f")
            predictions, latency, scored = self._score(job, dataset, weights, blocks, turn)
            if job.artifact is not None:
                export_artifact(
                    job.artifact,
                    system=job.system,
                    production=job.production,
                    phi=job.phi,
                    schema=dataset.schema,
                    loss=job.loss,
                    data=dataset.key,
                    seed=job.seed,
                    weights=weights,
                )
        return Evaluation(
            predictions,
            trained.cpu_seconds,
            trained.wall_seconds,
            1000.0 * latency,
            max(claimed, floats),
            scored.cpu_seconds,
            max(trained.peak, scored.peak),
            curve.points,
        )

    @contextmanager
    def _train(
        self, job: Job, dataset: Dataset, turn: _Turn
    ) -> Iterator[tuple[int, dict[str, Block], End, int, Curve]]:
        """Train; yields the sealed weights, where they lie, how the child ended, the cost it claims, and
        the curve it tells."""
        request: dict[str, Any] = {
            "kind": "train",
            "schema": schema_as_json(dataset.schema),
            "production": job.production,
            "phi": job.phi,
            "seed": job.seed,
            "blocks": {},
        }
        limits = self._limits(output=min(MOST_WEIGHTS, self.memory))
        with ExitStack() as files:
            data = []
            for name, (descriptor, block) in _training_files(job, dataset).items():
                files.callback(os.close, descriptor)
                data.append(descriptor)
                request["blocks"][name] = block.as_json()
            weights, progress = memory_file("weights"), memory_file("progress", REGION)
            files.callback(os.close, weights)
            files.callback(os.close, progress)
            with self._supervisor(job.system).spawn(
                request, [weights, *data, progress], limits, threads=_own(job.system)
            ) as child:
                turn.watch(child)
                _watch(child, progress, job, turn)
                end = child.wait(turn.left, turn.late)
                _require_done(child, end, "Training")
                told = child.told()
            seal(weights)
            claimed = told.get("parameters")
            claimed = claimed if type(claimed) is int else 0
            yield weights, weights_in(weights), end, claimed, read(os.pread(progress, REGION, 0))

    def _score(
        self, job: Job, dataset: Dataset, weights: int, blocks: Mapping[str, Block], turn: _Turn
    ) -> tuple[Float32, float, End]:
        """Predictions in the order of the log, the median seconds of a page of candidates, and the cost."""
        rows = dataset.rows(slice(*job.score))
        order = _shuffled(dataset.key, job.score)
        options: dict[str, Any] = {
            "schema": dataset.schema,
            "production": job.production,
            "phi": job.phi,
            "weights": weights,
            "blocks": blocks,
            "limits": self._limits(),
            "threads": _own(job.system),
            "seed": job.seed,
            "watch": turn.watch,
        }
        supervisor = self._supervisor(job.system)
        capacity = max(LATENCY_ROWS, min(BATCH, len(order)))
        with (
            Scorer(supervisor, capacity=capacity, **options) as scorer,
            Scorer(supervisor, capacity=max(PROBE_BATCHES), **options) as probe,
        ):
            pages = [
                np.take(order, np.arange(start, start + LATENCY_ROWS), mode="wrap")
                for start in range(0, LATENCY_REPEATS * LATENCY_ROWS, LATENCY_ROWS)
            ]
            scorer.timed(rows, pages[-1], turn.left, turn.late)  # loads the model
            timed = [scorer.timed(rows, page, turn.left, turn.late) for page in pages]
            predictions = np.empty(len(order), np.float32)
            for start in range(0, len(order), BATCH):
                part = order[start : start + BATCH]
                predictions[part] = scorer.timed(rows, part, turn.left, turn.late)[0]
            end = scorer.finish()
            require_scores(predictions, job.loss)
            for page, (scores, _) in zip(pages, timed, strict=True):
                _require_same(scores, predictions[page])
            _probe(probe, rows, predictions, turn)
        return predictions, float(np.median([seconds for _, seconds in timed])), end

    # What jobs share

    def _supervisor(self, system: str) -> Supervisor:
        with self._lock:
            self._require_open()
            if system not in self._supervisors:
                self._supervisors[system] = Supervisor(
                    system, contained=self.tier == "contained", degraded=self.tier == "degraded"
                )
            return self._supervisors[system]

    def _dataset(self, directory: Path, system: str) -> Dataset:
        """The dataset, once it is known that candidates of this system cannot read its files."""
        if directory not in self._datasets:
            self._datasets[directory] = Dataset.open(directory)
        self._supervisor(system).require_hidden(directory)
        return self._datasets[directory]

    def _limits(self, output: int = 1 << 20) -> Limits:
        return Limits(cpu_seconds=self._cpu, memory=self.memory, file_bytes=output)

    def _require_open(self) -> None:
        if self._closed:
            raise ToolError("The pool is closed.")

    def _future(self, id: str) -> Future[Evaluation]:
        with self._lock:
            if id not in self._jobs:
                raise ToolError(f"No job {id!r}: its result was taken, or it was never submitted here.")
            return self._jobs[id][1]


def _twice(run: Callable[[_Turn], Found], turn: _Turn) -> Found:
    """Once more where a process died and nobody knows why; then a ToolError."""
    for attempt in (1, 2):
        turn.begin()
        try:
            return run(turn)
        except Lost as lost:
            if turn.why:
                raise ToolError(f"The training process {turn.why}.") from None
            if attempt == 2:
                raise ToolError(f"The training process died twice: {lost}.") from None
    raise AssertionError("unreachable")


def _watch(child: Child, progress: int, job: Job, turn: _Turn) -> None:
    """Look at a training's curve now and then until it ends. Stopped where it is clearly worse than
    production's, ToolError where it diverged and goes on regardless."""
    production, fresh, diverged = of_points(job.against), job.train[1] - job.train[0], False
    while turn.left and not wait([child.ended], min(LOOK_SECONDS, turn.left)).done:
        curve = read(os.pread(progress, REGION, 0))
        why = clearly_worse(curve, production, fresh)
        if why is None:
            continue
        if curve.diverged is None:
            raise Stopped(f"Stopped {why}")
        if diverged:  # at the second look: most trainings notice it, and say more
            raise ToolError(f"The training was stopped {why}")
        diverged = True


def _require_done(child: Child, end: End, what: str) -> None:
    """ToolError or Lost unless a child did its work to the end."""
    complaint = child.complaint()
    if end.code == 0 and not child.stopped and complaint:
        raise ToolError(f"{what} failed: {complaint}")
    if end.code != 0 or child.stopped or not child.told():
        raise ToolError(f"The training process {child.reason(end)}.")


def _checked(told: Mapping[str, Any]) -> Checked:
    """What a check child says, as far as it makes sense."""
    try:
        findings = [
            Finding(str(each["pointer"]), str(each["rule"]), each.get("value"), str(each.get("hint", "")))
            for each in told["findings"]
        ]
        parameters = told.get("parameters")
        if not findings and type(parameters) is not int:
            raise ValueError("a valid configuration must have a cost")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ToolError(f"The check gave an answer that makes no sense ({error!r}).") from None
    return Checked(findings, parameters if not findings else None)


def _training_files(job: Job, dataset: Dataset) -> dict[str, tuple[int, Block]]:
    """Open descriptors and blocks of what a training may see, by the names that `blocks.rows_of` knows."""
    histories = [f"history-{f.name}" for f in dataset.schema.features if f.kind == "history"]
    paths = {name: dataset.directory / f"{name}.npy" for name in ("categorical", "numeric", *histories)}
    found: dict[str, tuple[int, Block]] = {}
    try:
        for name, path in (paths | {"labels": job.label_path}).items():
            found[name] = npy_block(path, slice(*job.train))
        labels, stop = np.load(job.label_path, mmap_mode="r"), dataset.bounds["train"].stop
        if len(labels) > stop or labels.dtype != np.float32:
            raise ToolError(
                f"`label_path` must hold float32 labels of the {stop:,} training rows and no others, got "
                f"{len(labels):,} {labels.dtype}. Use dataset.label_path(objective, upto='train')."
            )
    except BaseException:
        for descriptor, _ in found.values():
            os.close(descriptor)
        raise
    return found


def _shuffled(key: str, score: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The order in which rows are scored: the same for every candidate on the same data.

    Time order would tell: the histories of later rows hold outcomes of earlier ones.
    """
    digest = hashlib.sha256(f"{key}/{score[0]}/{score[1]}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return generator.permutation(score[1] - score[0])


def _probe(probe: Scorer, rows: Rows, predictions: Float32, turn: _Turn) -> None:
    """Score a sample that nobody can foresee, in odd batches, in a process that has scored nothing else."""
    generator = np.random.default_rng()
    for size in generator.permutation(PROBE_BATCHES):
        sample = generator.integers(0, len(predictions), size)
        _require_same(probe.timed(rows, sample, turn.left, turn.late)[0], predictions[sample])


def _require_same(scores: Float32, expected: Float32) -> None:
    difference = np.abs(scores.astype(np.float64) - expected)
    wrong = ~(difference <= ABSOLUTE + RELATIVE * np.abs(expected))
    if wrong.any():
        at = int(np.nanargmax(np.where(wrong, difference, -1)))
        raise ToolError(
            "scores depend on other rows of the batch, or on what was scored before: the same row got "
            f"{expected[at]:.6g} and {scores[at]:.6g}. A prediction may use nothing but its own row: no "
            "statistics over the batch, no state that changes while scoring, no randomness."
        )


def _own(system: str) -> bool:
    """Whether a system is the user's: their libraries may need threads, ours does not."""
    return not system.startswith("evorank.")


def _fail(future: Future[Evaluation], error: EvorankError) -> None:
    with suppress(Exception):  # done already
        future.set_exception(error)


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
