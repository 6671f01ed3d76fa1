"""executor: the words of where trainings run: what a job is, what it gives, and `submit / poll / cancel`.

Behind them is a pool of locked processes on this machine (`local.py`) or on several (`ray_pool.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evorank.model.errors import Finding
from evorank.model.system import Float32, Loss, Phi

__all__ = ["Checked", "Evaluation", "Executor", "Job"]

PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "EVORANK_HOME")
"""All that helper processes see of the environment: API keys stay in the parent."""


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
    """Bytes resident at the peak of training or scoring, libraries and log pages included."""
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

    def submit(self, job: Job) -> str:
        """Queue a job; returns its id at once."""
        ...

    def poll(self, id: str) -> Evaluation | None:
        """The evaluation once there, None before. ToolError where the job failed or was cancelled."""
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

    def close(self) -> None:
        """Stop everything; queued and running jobs fail."""
        ...
