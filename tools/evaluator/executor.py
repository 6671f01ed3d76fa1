"""Where trainings run: `submit / poll / cancel`, and a pool of warm local processes behind it.

The parent never imports torch and never unpickles what a worker wrote: a job goes out as JSON, predictions
come back as raw float32, and their number, type and finiteness are checked here. A worker that dies or
exceeds its wall limit is killed and replaced; its job is a ToolError, never a hang. The local pool is not a
sandbox: it runs the systems and configurations of this package and of the user, not candidates' own code.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import uuid
import weakref
from collections.abc import Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evorank.model.errors import Finding, ToolError
from evorank.model.system import Float32, Loss, Phi

__all__ = ["Evaluation", "Executor", "Job", "LocalPool"]

PASSED_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "EVORANK_HOME")
"""All that workers see of the environment: API keys stay in the parent."""


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
    """.npy of float32 labels; only those of the train rows are read."""
    loss: Loss
    seed: int
    train: tuple[int, int]
    """Rows (start, stop) to train on."""
    score: tuple[int, int]
    """Rows (start, stop) to predict."""


@dataclass(frozen=True)
class Evaluation:
    """What one training gave: predictions of the score rows, and what they cost."""

    predictions: Float32
    train_cpu_seconds: float
    train_wall_seconds: float
    latency_ms: float
    """Milliseconds to score 500 candidates in one call."""
    parameters: int
    score_cpu_seconds: float = 0.0
    cached: bool = False

    @property
    def cpu_seconds(self) -> float:
        """What it cost now: nothing where it came from the cache."""
        return 0.0 if self.cached else self.train_cpu_seconds + self.score_cpu_seconds


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

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> list[Finding]:
        """`RankingSystem.check(phi)` away from the parent: findings, [] means valid."""
        ...

    def close(self) -> None:
        """Stop everything; queued and running jobs fail."""
        ...


class _Zygote:
    """The parent's end of `worker.zygote`: forks workers and kills them. Restarted where it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the zygote; what workers print
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to import torch in the background; `fork` waits for it."""
        with self._lock:
            self._ensure()

    def fork(self) -> tuple[int, Connection]:
        ours, theirs = socket.socketpair()
        with self._lock, theirs:
            control = self._ensure()
            try:
                socket.send_fds(control, [b"F\0\0\0\0"], [theirs.fileno()])
                answer = control.recv(4, socket.MSG_WAITALL)
            except OSError:
                answer = b""
            if len(answer) < 4:
                ours.close()
                self._stop()
                raise ToolError(f"The training processes did not start: {self.tail() or 'no message'}")
        return struct.unpack("!i", answer)[0], Connection(ours.detach())

    def kill(self, pid: int) -> None:
        with self._lock, suppress(OSError):
            if self._control is not None:
                self._control.sendall(b"K" + struct.pack("!i", pid))

    def written(self) -> int:
        """Bytes that workers have written to stdout and stderr so far."""
        return os.fstat(self._log.fileno()).st_size

    def tail(self, length: int = 500, since: int = 0) -> str:
        """The end of what workers wrote, after byte `since`."""
        start = max(since, self.written() - length)
        return os.pread(self._log.fileno(), length, start).decode(errors="replace").strip()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._stop()

    def _ensure(self) -> socket.socket:
        if self._closed:
            raise ToolError("The pool is closed.")
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._stop()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(120)  # importing torch on a cold, busy disk
        environment = {name: os.environ[name] for name in PASSED_ENVIRONMENT if name in os.environ}
        environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "evorank.tools.evaluator.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=environment,
            )
        return self._control

    def _stop(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            try:
                self._process.wait(timeout=5)
            except subprocess.TimeoutExpired:  # still importing
                self._process.kill()
                self._process.wait()
        self._control = self._process = None


class _Worker:
    """One slot: a warm process at the other end of a pipe, forked when first needed and after a death."""

    def __init__(self, zygote: _Zygote) -> None:
        self._zygote = zygote
        self._pid = 0
        self._pipe: Connection | None = None
        self._lock = threading.Lock()
        self._why = ""
        self._turn = 0

    def begin(self) -> int:
        """Start a turn; `kill` needs its number, so that a late one cannot hit the next job."""
        with self._lock:
            self._turn, self._why = self._turn + 1, ""
            return self._turn

    def ask(
        self, turn: int, request: Mapping[str, Any], limit: float, rows: int | None
    ) -> tuple[Any, Float32 | None]:
        """Send a request, wait for its answer: the header and, where `rows` is given, that many floats."""
        pipe = self._send(json.dumps(request).encode())
        written = self._zygote.written()
        late = f"took longer than {limit:g} seconds and was stopped"
        watch = threading.Timer(limit, self.kill, [turn, late])
        watch.daemon = True
        watch.start()
        try:
            if self._why:  # cancelled while the process was made
                raise EOFError
            header = json.loads(pipe.recv_bytes(1 << 20))
            predictions = None
            if rows is not None and "error" not in header:
                if header["shape"] != [rows] or header["dtype"] != "float32":
                    self.drop()
                    raise ToolError(
                        f"`predict` must return float32 [{rows}], got {header['dtype']} {header['shape']}."
                    )
                predictions = np.frombuffer(pipe.recv_bytes(4 * rows), np.float32)
            self._end()
        except (EOFError, OSError, ValueError) as error:
            self.drop()
            said = self._zygote.tail(since=written)
            why = self._why or f"died: {said or 'it was killed, perhaps for its memory'}"
            raise ToolError(f"The training process {why}.") from error
        finally:
            watch.cancel()
        if "error" in header:
            raise ToolError(f"Training failed: {header['error']}")
        return header, predictions

    def _end(self) -> None:
        """Close the turn. A kill that is on its way would hit the next job: then the process goes now."""
        with self._lock:
            self._turn += 1
            if self._why:
                raise EOFError

    def _send(self, message: bytes) -> Connection:
        """The pipe, with the message on its way; a process that died while idle is replaced once."""
        for attempt in (1, 2):
            if self._pipe is None:
                self._pid, self._pipe = self._zygote.fork()
            try:
                self._pipe.send_bytes(message)
                return self._pipe
            except OSError as error:
                self.drop()
                if attempt == 2:
                    raise ToolError(f"The training process takes no jobs ({error}).") from error
        raise AssertionError("unreachable")

    def kill(self, turn: int, why: str) -> None:
        """Stop the process, from any thread; whoever waits in `ask` gets a ToolError that says why."""
        with self._lock:
            if turn != self._turn:
                return
            self._why = why
            if self._pipe is not None:
                self._zygote.kill(self._pid)

    def drop(self) -> None:
        """Forget the process and close its pipe; only the thread that uses the slot may."""
        with self._lock:
            if self._pipe is not None:
                self._zygote.kill(self._pid)
                self._pipe.close()
            self._pipe = None


class LocalPool:
    """Warm processes on this machine: `workers` (default: the cores) trainings at once, one thread each.

    `limit` is the wall-clock limit of one training in seconds, that of a check is `check_limit`.
    """

    def __init__(self, workers: int | None = None, limit: float = 3600.0, check_limit: float = 120.0) -> None:
        count = workers if workers is not None else _cores()
        if count < 1:
            raise ValueError(f"workers must be at least 1, got {count}")
        self.workers = count
        self._limit, self._check_limit = limit, check_limit
        self._zygote = _Zygote()
        self._jobs: dict[str, tuple[Job, Future[Evaluation]]] = {}
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._running: dict[str, tuple[_Worker, int]] = {}
        self._lock = threading.Lock()
        self._checker, self._check_lock = _Worker(self._zygote), threading.Lock()
        self._slots = [_Worker(self._zygote) for _ in range(count)]
        self._threads: list[threading.Thread] = []
        self._closed = False
        self._finalizer = weakref.finalize(self, self._zygote.close)  # at exit, where nobody called close

    def submit(self, job: Job) -> str:
        id = uuid.uuid4().hex
        with self._lock:
            if self._closed:
                raise ToolError("The pool is closed.")
            self._jobs[id] = (job, Future())
            if not self._threads:
                self._threads = [
                    threading.Thread(target=self._keep, args=[slot], daemon=True, name=f"evorank-worker-{n}")
                    for n, slot in enumerate(self._slots)
                ]
                for thread in self._threads:
                    thread.start()
        self._queue.put(id)
        return id

    def poll(self, id: str) -> Evaluation | None:
        future = self._future(id)
        return self.result(id) if future.done() else None

    def result(self, id: str, timeout: float | None = None) -> Evaluation:
        future = self._future(id)
        try:
            evaluation = future.result(timeout)
        except FutureTimeoutError:
            if not future.done():
                raise ToolError(f"No result after {timeout:g} seconds; the training goes on.") from None
            raise
        except BaseException:
            if future.done():
                self._forget(id)
            raise
        self._forget(id)
        return evaluation

    def cancel(self, id: str) -> None:
        with self._lock:
            entry, running = self._jobs.get(id), self._running.get(id)
        if running is not None:
            worker, turn = running
            worker.kill(turn, "was cancelled")
        elif entry is not None:
            _fail(entry[1], ToolError("The training was cancelled."))

    def check(self, dataset: Path, system: str, production: Phi, phi: Phi) -> list[Finding]:
        request = {
            "kind": "check",
            "dataset": str(dataset),
            "system": system,
            "production": production,
            "phi": phi,
        }
        with self._check_lock:
            if self._closed:
                raise ToolError("The pool is closed.")
            header, _ = self._checker.ask(self._checker.begin(), request, self._check_limit, None)
        return [Finding(**finding) for finding in header["findings"]]

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = [future for _, future in self._jobs.values()]
        for _ in self._threads:
            self._queue.put(None)
        self._finalizer()  # closes the zygote, which kills every worker: each `ask` ends
        for future in waiting:
            _fail(future, ToolError("The pool was closed before the training ended."))
        for thread in self._threads:
            thread.join(timeout=10)
        with self._check_lock:
            self._checker.drop()

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _keep(self, worker: _Worker) -> None:
        """One slot's thread: take the next job, run it, until None."""
        while (id := self._queue.get()) is not None:
            with self._lock:
                entry = self._jobs.get(id)
                if entry is None or entry[1].done():
                    continue
                turn = worker.begin()
                self._running[id] = worker, turn
            job, future = entry
            try:
                evaluation = _run(worker, turn, job, self._limit)
            except Exception as error:
                _fail(future, error if isinstance(error, ToolError) else ToolError(f"Executor: {error!r}"))
            else:
                with suppress(Exception):  # cancelled in the last moment
                    future.set_result(evaluation)
            finally:
                with self._lock:
                    self._running.pop(id, None)
        worker.drop()

    def _future(self, id: str) -> Future[Evaluation]:
        with self._lock:
            if id not in self._jobs:
                raise ToolError(f"No job {id!r}: its result was taken, or it was never submitted here.")
            return self._jobs[id][1]

    def _forget(self, id: str) -> None:
        with self._lock:
            self._jobs.pop(id, None)


def _run(worker: _Worker, turn: int, job: Job, limit: float) -> Evaluation:
    request = asdict(job) | {
        "kind": "evaluate",
        "dataset": str(job.dataset),
        "label_path": str(job.label_path),
    }
    header, predictions = worker.ask(turn, request, limit, job.score[1] - job.score[0])
    assert predictions is not None
    wrong = int(np.count_nonzero(~np.isfinite(predictions)))
    if wrong:
        raise ToolError(
            f"{wrong:,} of {len(predictions):,} predictions are not finite: the training diverged. "
            "Try a smaller learning rate, or grad_clip."
        )
    if job.loss == "bce" and len(predictions) and not (predictions.min() >= 0 and predictions.max() <= 1):
        raise ToolError(
            f"`predict` must return probabilities in [0, 1] for loss bce, got {predictions.min():g} to "
            f"{predictions.max():g}."
        )
    return Evaluation(
        predictions,
        float(header["train_cpu_seconds"]),
        float(header["train_wall_seconds"]),
        float(header["latency_ms"]),
        int(header["parameters"]),
        float(header["score_cpu_seconds"]),
    )


def _fail(future: Future[Evaluation], error: ToolError) -> None:
    with suppress(Exception):  # done already
        future.set_exception(error)


def _cores() -> int:
    with suppress(AttributeError):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
