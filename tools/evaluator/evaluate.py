"""evaluate: one candidate's way through locked children, and what is measured of it on this side.

A job is a train child (training rows and labels in, weights out), then a score child, which sees shuffled
rows without labels and a page at a time. Where code of others runs in it, a probe child scores some rows
again, in odd batches: scores that depend on the other rows of a batch, or on those before, are an error.
Where none does, a `Trainer` may do all of it, job after job, with the same numbers as its result.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from evorank.model.data import Dataset
from evorank.model.errors import Finding, Stopped, ToolError
from evorank.model.system import Float32, LogSchema, Phi, Rows
from evorank.tools.evaluator.artifact import export_artifact
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
from evorank.tools.evaluator.lock import Limits
from evorank.tools.evaluator.scorer import LOOK_SECONDS, Resident, Scorer, require_scores
from evorank.tools.evaluator.supervisor import Child, End, Lost, Supervisor
from evorank.tools.evaluator.trainer import Trainer

__all__ = ["Turn", "capacity", "check", "check_with", "evaluate", "evaluate_with", "training_files", "twice"]

LATENCY_ROWS = 500
LATENCY_REPEATS = 7
BATCH = 1 << 16
"""Rows of one request."""
PROBE_BATCHES = (1, 2, 97, 900)
"""Each size costs the compilation of its matrix products, about 1.5 ms; together they are 1,000 rows."""
ABSOLUTE, RELATIVE = 1e-5, 1e-4
"""Scores of a row may differ this much between batches: float32 sums in another order, and nothing more."""
MOST_WEIGHTS = 4 << 30
Found = TypeVar("Found")


@dataclass(eq=False)
class Turn:
    """A job's tries: who works on it, so that they can be stopped, and until when."""

    limit: float
    ends: float = 0.0
    why: str = ""
    children: list[Child] = field(default_factory=list)
    spent: float = 0.0
    """CPU-seconds in processes that work for others as well."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        self.ends = time.monotonic() + self.limit

    @property
    def cpu_seconds(self) -> float:
        """Of all its children that have ended, and of its time with a trainer."""
        return self.spent + sum(child.cpu_seconds for child in self.children)

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

    @contextmanager
    def working(self, trainer: Trainer) -> Iterator[None]:
        """While the context lasts, what the trainer does is for this job."""
        before = trainer.cpu_seconds
        self.watch(trainer.child)
        try:
            yield
        finally:
            with self.lock:
                self.children.remove(trainer.child)
                self.spent += max(0.0, trainer.cpu_seconds - before)

    def stop(self, why: str) -> None:
        with self.lock:
            self.why = self.why or why
            for child in self.children:
                child.kill(why)


def twice(run: Callable[[Turn], Found], turn: Turn) -> Found:
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


def check(
    supervisor: Supervisor, schema: LogSchema, production: Phi, phi: Phi, limits: Limits, turn: Turn
) -> Checked:
    """Findings and cost of a Φ, as a check child tells them."""
    request = {
        "kind": "check",
        "schema": schema_as_json(schema),
        "production": production,
        "phi": phi,
        "device": "cpu",
    }
    result = memory_file("result", 0)
    try:
        with supervisor.spawn(request, [result], limits) as child:
            turn.watch(child)
            _require_done(child, child.wait(turn.left, turn.late), "The check")
            told = child.told()
    finally:
        os.close(result)
    return _checked(told)


def check_with(trainer: Trainer, phi: Phi, turn: Turn) -> Checked:
    """`check` in a process that stays, for a Φ that brings no code."""
    with turn.working(trainer):
        return _checked(trainer.check(phi, turn.left, turn.late))


def evaluate_with(trainer: Trainer, job: Job, dataset: Dataset, turn: Turn) -> Evaluation:
    """`evaluate` in a process that stays, for a job that is all `ours`: the same numbers, but for costs."""
    rows = dataset.rows(slice(*job.score))
    with turn.working(trainer):
        began = time.monotonic()
        told = trainer.train(job.phi, job.seed, turn.left, turn.late, _Look(job))
        seconds, trained = time.monotonic() - began, trainer.cpu_seconds
        curve = trainer.curve
        predictions, latency = _scores(trainer, rows, job, dataset.key, turn)
    return Evaluation(
        predictions,
        told["cpu_seconds"],
        seconds,
        1000.0 * latency,
        told["parameters"],
        trainer.cpu_seconds - trained,
        told["peak"],
        curve.points,
    )


def evaluate(job: Job, dataset: Dataset, supervisor: Supervisor, limits: Limits, turn: Turn) -> Evaluation:
    """Train and score a candidate. ToolError with the reason where it fails, `Lost` where a process died."""
    with _train(job, dataset, supervisor, limits, turn) as (weights, blocks, trained, claimed, curve):
        floats = sum(math.prod(b.shape) for b in blocks.values() if np.dtype(b.dtype).kind == "f")
        predictions, latency, scored = _score(job, dataset, supervisor, weights, blocks, limits, turn)
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
    job: Job, dataset: Dataset, supervisor: Supervisor, limits: Limits, turn: Turn
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
    writing = replace(limits, file_bytes=min(MOST_WEIGHTS, limits.memory))
    with ExitStack() as files:
        data = []
        for name, (descriptor, block) in training_files(job, dataset).items():
            files.callback(os.close, descriptor)
            data.append(descriptor)
            request["blocks"][name] = block.as_json()
        weights, progress = memory_file("weights"), memory_file("progress", REGION)
        files.callback(os.close, weights)
        files.callback(os.close, progress)
        with supervisor.spawn(request, [weights, *data, progress], writing) as child:
            turn.watch(child)
            look = _Look(job)
            while turn.left and not wait([child.ended], min(LOOK_SECONDS, turn.left)).done:
                look(read(os.pread(progress, REGION, 0)))
            end = child.wait(turn.left, turn.late)
            _require_done(child, end, "Training")
            told = child.told()
        seal(weights)
        claimed = told.get("parameters")
        claimed = claimed if type(claimed) is int else 0
        yield weights, weights_in(weights), end, claimed, read(os.pread(progress, REGION, 0))


def _score(
    job: Job,
    dataset: Dataset,
    supervisor: Supervisor,
    weights: int,
    blocks: Mapping[str, Block],
    limits: Limits,
    turn: Turn,
) -> tuple[Float32, float, End]:
    """Predictions in the order of the log, the median seconds of a page of candidates, and the cost."""
    rows = dataset.rows(slice(*job.score))
    options: dict[str, Any] = {
        "schema": dataset.schema,
        "production": job.production,
        "phi": job.phi,
        "weights": weights,
        "blocks": blocks,
        "limits": limits,
        "seed": job.seed,
        "watch": turn.watch,
    }
    with ExitStack() as processes:
        scorer = processes.enter_context(Scorer(supervisor, capacity=capacity(job), **options))
        probe = None
        if not job.ours:
            probe = processes.enter_context(Scorer(supervisor, capacity=max(PROBE_BATCHES), **options))
        predictions, latency = _scores(scorer, rows, job, dataset.key, turn)
        end = scorer.finish()
        if probe is not None:
            _probe(probe, rows, predictions, turn)
    return predictions, latency, end


def capacity(job: Job) -> int:
    """Rows of the page in which a job is scored."""
    start, stop = job.score
    return max(LATENCY_ROWS, min(BATCH, stop - start))


def _scores(scorer: Resident, rows: Rows, job: Job, key: str, turn: Turn) -> tuple[Float32, float]:
    """Predictions of all rows, asked for in an order of our own, and the median seconds of a page of
    candidates. ToolError where they are no scores, or not the same in every page."""
    order = _shuffled(key, job.score)
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
    require_scores(predictions, job.loss)
    for page, (scores, _) in zip(pages, timed, strict=True):
        _require_same(scores, predictions[page])
    return predictions, float(np.median([seconds for _, seconds in timed]))


class _Look:
    """Looks at a training's curve. Raises Stopped where it is clearly worse than production's, ToolError
    where it diverged and goes on regardless."""

    def __init__(self, job: Job) -> None:
        self._production, self._fresh = of_points(job.against), job.train[1] - job.train[0]
        self._diverged = False

    def __call__(self, curve: Curve) -> None:
        why = clearly_worse(curve, self._production, self._fresh)
        if why is None:
            return
        if curve.diverged is None:
            raise Stopped(
                f"Stopped {why}", {"candidate": curve.points, "production": self._production.points}
            )
        if self._diverged:  # at the second look: most trainings notice it, and say more
            raise ToolError(f"The training was stopped {why}")
        self._diverged = True


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


def training_files(job: Job, dataset: Dataset) -> dict[str, tuple[int, Block]]:
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


@lru_cache(maxsize=8)
def _shuffled(key: str, score: tuple[int, int]) -> npt.NDArray[np.int64]:
    """The order in which rows are scored: the same for every candidate on the same data.

    Time order would tell: the histories of later rows hold outcomes of earlier ones.
    """
    digest = hashlib.sha256(f"{key}/{score[0]}/{score[1]}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    order = generator.permutation(score[1] - score[0])
    order.flags.writeable = False  # many jobs share it
    return order


def _probe(probe: Scorer, rows: Rows, predictions: Float32, turn: Turn) -> None:
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
