"""executor: the words of where trainings run: what a job is, what it gives, and `submit / poll / cancel`.

Behind them is a pool of locked processes on this machine (`local.py`) or on several (`ray_pool.py`).
"""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from evorank.model.errors import EvorankError, Finding, ToolError
from evorank.model.system import Float32, Loss, Phi

if TYPE_CHECKING:
    from evorank.tools.evaluator.gpu import Device
    from evorank.tools.evaluator.scorer import Scorer
    from evorank.tools.evaluator.tier import Tier

__all__ = ["Checked", "Evaluation", "Executor", "Job", "Pool", "Task", "runs_only_ours"]

PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "EVORANK_HOME")
"""All that helper processes see of the environment: API keys stay in the parent."""


def runs_only_ours(system: str, phi: Phi) -> bool:
    """Whether Φ runs no code but evorank's own: neither a user's system nor components that it brings."""
    return system.startswith("evorank.model.") and isinstance(phi, dict) and not phi.get("components")


@dataclass(frozen=True)
class Job:
    """One training and scoring: everything a worker needs, nothing it could learn the answer from."""

    dataset: Path
    """Directory of the encoded log."""
    system: str
    """`module:Class` of the RankingSystem."""
    production: Phi
    phi: Phi
    label_path: Path
    """.npy of float32 labels that ends with the training rows: `dataset.label_path(objective, "train")`."""
    loss: Loss
    seed: int
    train: tuple[int, int]
    """Rows (start, stop) to train on."""
    score: tuple[int, int]
    """Rows (start, stop) to predict."""
    artifact: Path | None = None
    """Folder to export the trained candidate to, None for nowhere."""
    against: tuple[tuple[int, float], ...] = ()
    """Production's `Evaluation.curve` for the same seed, label and loss: a training that is clearly worse is
    stopped early (`curves.py`). Empty: it is trained to its end."""
    apart: bool = False
    """Train in processes of its own, as a Φ that brings code always is, so that costs can be compared."""

    @property
    def ours(self) -> bool:
        """`runs_only_ours` of its system and Φ."""
        return runs_only_ours(self.system, self.phi)


@dataclass(frozen=True)
class Evaluation:
    """What one training gave: predictions of the score rows, and what they cost."""

    predictions: Float32
    train_cpu_seconds: float
    train_wall_seconds: float
    latency_ms: float
    """Milliseconds to score 500 candidates in one request to a process that holds the model."""
    parameters: int
    """What the system says of Φ, or the floating-point numbers that it trained where they are more."""
    score_cpu_seconds: float = 0.0
    peak_memory: int = 0
    """Bytes resident at the peak of training or scoring, libraries and log pages included, and what the same
    process trained before."""
    curve: tuple[tuple[int, float], ...] = ()
    """(rows seen, mean training loss per row since the point before): what the training told of itself."""
    cached: bool = False

    @property
    def cpu_seconds(self) -> float:
        """What it cost now: nothing where it came from the cache."""
        return 0.0 if self.cached else self.train_cpu_seconds + self.score_cpu_seconds


@dataclass(frozen=True)
class Checked:
    """What can be known of a Φ without training."""

    findings: list[Finding] = field(default_factory=list)
    """Everything wrong with it; [] means valid."""
    parameters: int | None = None
    """Trained parameters of a valid Φ, None for an invalid one."""


class Executor(Protocol):
    """Runs jobs somewhere. Safe to use from several threads."""

    device: Device
    """Where it trains and scores: another device, another cache entry, since its sums differ by rounding."""
    tier: Tier
    """How well candidates are locked up, where they are locked up worst."""

    def submit(self, job: Job) -> str:
        """Queue a job; returns its id at once."""
        ...

    def poll(self, id: str) -> Evaluation | None:
        """The evaluation once there, None before. ToolError where the job failed or was cancelled, with the
        CPU-seconds that it took until then."""
        ...

    def cancel(self, id: str) -> None:
        """Drop a queued job, stop a running one; nothing where it is done or unknown."""
        ...

    def result(self, id: str, timeout: float | None = None) -> Evaluation:
        """Wait for the evaluation and forget the job. ToolError if it failed, or after `timeout` seconds."""
        ...

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> Checked:
        """`RankingSystem.check` and `.cost` of `phi`, in a locked process. ToolError if they fail."""
        ...

    def scorer(self, artifact: Path, capacity: int = 50_000) -> Scorer:
        """A locked process on this machine that holds an exported candidate and scores rows, `capacity` at a
        time, until it is closed. ConfigurationError where the artifact was changed.

        On this machine wherever trainings run: live traffic waits for it, and its rows must not travel.
        """
        ...

    def close(self) -> None:
        """Stop everything; queued and running jobs fail, scorers end."""
        ...


@dataclass(eq=False)
class Task:
    """A job somebody waits for."""

    job: Job
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    future: Future[Evaluation] = field(default_factory=Future)

    def done(self, evaluation: Evaluation) -> None:
        with suppress(Exception):  # cancelled or closed in the last moment
            self.future.set_result(evaluation)

    def fail(self, error: EvorankError) -> None:
        with suppress(Exception):  # done already
            self.future.set_exception(error)


AnyTask = TypeVar("AnyTask", bound=Task)


class Pool(ABC, Generic[AnyTask]):
    """What every executor does with its tasks: it keeps each one until its result is taken."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tasks: dict[str, AnyTask] = {}

    def poll(self, id: str) -> Evaluation | None:
        return self.result(id) if self._task(id).future.done() else None

    def result(self, id: str, timeout: float | None = None) -> Evaluation:
        future = self._task(id).future
        try:
            return future.result(timeout)
        except FutureTimeoutError:
            if not future.done():
                raise ToolError(f"No result after {timeout:g} seconds; the training goes on.") from None
            raise
        finally:
            if future.done():
                with self._lock:
                    self._tasks.pop(id, None)

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _task(self, id: str) -> AnyTask:
        with self._lock:
            if id not in self._tasks:
                raise ToolError(f"No job {id!r}: its result was taken, or it was never submitted here.")
            return self._tasks[id]
