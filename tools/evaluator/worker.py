"""The processes that train: one zygote imports torch once and forks warm workers, each with one thread.

Started by `executor.py` as `python -P -m evorank.tools.evaluator.worker FD`, with OMP_NUM_THREADS=1 and its
like: several OpenMP threads under contention collapse to a tenth, and forking is only safe with one.
The zygote owns its children: it alone forks, kills and reaps them, and when its socket closes (the parent
is gone, however it died) it kills them all and exits. Messages are JSON and raw arrays, never pickles.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evorank.model.errors import EvorankError

if TYPE_CHECKING:
    from evorank.model.data import Dataset
    from evorank.model.system import Float32, RankingSystem, Rows

LATENCY_ROWS = 500
LATENCY_REPEATS = 7

_datasets: dict[str, Dataset] = {}


def warm() -> None:
    """Pay for every lazy import once, before the first fork: the first optimizer step costs seconds."""
    import torch

    torch.set_num_threads(1)
    bag = torch.nn.EmbeddingBag(8, 4)
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 1))
    weights = [*bag.parameters(), *net.parameters()]
    for optimizer in (torch.optim.Adagrad(weights, lr=0.1), torch.optim.Adam(weights, lr=0.1)):
        optimizer.zero_grad()
        net(bag(torch.zeros(2, 2, dtype=torch.long))).sum().backward()
        optimizer.step()
    for module in ("evorank.model.ranker", "evorank.model.data", "evorank.model.train"):
        with suppress(ImportError):  # a user's own system may not need them
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # shared pages stay shared: no child's collector writes to them


def zygote(control: socket.socket) -> None:
    """Serve b"F" + a socket (fork a worker on it, answer its pid) and b"K" + a pid (kill it)."""
    children: set[int] = set()

    def reap(*_: object) -> None:
        with suppress(ChildProcessError):
            while pid := os.waitpid(-1, os.WNOHANG)[0]:
                children.discard(pid)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    signal.signal(signal.SIGCHLD, reap)
    warm()
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 5, 1)
        if not message:
            break
        if message[:1] == b"K":
            (pid,) = struct.unpack("!i", message[1:5])
            if pid in children:
                os.kill(pid, signal.SIGKILL)
            continue
        # A child that dies at once must not be reaped before it is in `children`.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            control.close()
            _child(descriptors[0])
        os.close(descriptors[0])
        children.add(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        control.sendall(struct.pack("!i", pid))
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _child(descriptor: int) -> None:
    """A worker's life: answer requests until the pipe closes. Never returns."""
    code = 1
    try:
        with suppress(OSError):  # where memory runs out, a candidate goes before the supervisor
            Path("/proc/self/oom_score_adj").write_text("1000")
        serve(Connection(descriptor))
        code = 0
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def serve(pipe: Connection) -> None:
    """Answer each JSON request with a JSON header and, for a training, the raw float32 predictions."""
    while True:
        request = json.loads(pipe.recv_bytes())
        predictions: Float32 | None = None
        try:
            if request["kind"] == "check":
                header: dict[str, Any] = {"findings": check(request)}
            else:
                header, predictions = evaluate(request)
        except EvorankError as error:
            header, predictions = {"error": str(error)}, None
        except MemoryError:
            header, predictions = {"error": "ran out of memory; try a smaller model or batch"}, None
        except Exception as error:
            traceback.print_exc()
            header, predictions = {"error": _where(error)}, None
        pipe.send_bytes(json.dumps(header).encode())
        if predictions is not None:
            pipe.send_bytes(predictions.tobytes())


def evaluate(request: dict[str, Any]) -> tuple[dict[str, Any], Float32]:
    """Fit on the train rows, predict the score rows, time both."""
    dataset, system = _dataset(request), _system(request)
    phi, train, score = request["phi"], slice(*request["train"]), slice(*request["score"])
    rows = dataset.rows(train)
    # The array ends with the last training row: no label of a scored row is ever loaded here.
    labels = np.load(request["label_path"], mmap_mode="r")[train]
    wall, cpu = time.perf_counter(), time.process_time()
    weights = system.fit(phi, rows, labels, int(request["seed"]))
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    scored = dataset.rows(score)
    before = time.process_time()
    predictions = np.asarray(system.predict(phi, weights, scored))
    score_cpu = time.process_time() - before
    header = {
        "shape": list(predictions.shape),
        "dtype": str(predictions.dtype),
        "train_cpu_seconds": cpu,
        "train_wall_seconds": wall,
        "score_cpu_seconds": score_cpu,
        "latency_ms": _latency(system, phi, weights, scored),
        "parameters": int(system.cost(phi).parameters),
    }
    return header, predictions


def check(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Everything wrong with Φ that can be known without training, as Finding.as_dict()."""
    return [finding.as_dict() for finding in _system(request).check(request["phi"])]


def _latency(system: RankingSystem, phi: dict[str, Any], weights: Any, rows: Rows) -> float:
    """Median milliseconds of scoring 500 candidates in one call; short logs repeat their rows."""
    batch = rows[np.arange(LATENCY_ROWS) % len(rows)]
    times = []
    for _ in range(LATENCY_REPEATS):
        start = time.perf_counter()
        system.predict(phi, weights, batch)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000.0


def _dataset(request: dict[str, Any]) -> Dataset:
    from evorank.model.data import Dataset

    directory = request["dataset"]
    if directory not in _datasets:
        _datasets.clear()
        _datasets[directory] = Dataset.open(Path(directory))
    return _datasets[directory]


def _system(request: dict[str, Any]) -> RankingSystem:
    module, _, name = request["system"].partition(":")
    system: RankingSystem = getattr(importlib.import_module(module), name)(
        _dataset(request).schema, request["production"]
    )
    return system


def _where(error: Exception) -> str:
    """The error in one line with the last place it passed, which is what a candidate's author needs."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"in {last.name}, {Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {str(error)[:800]} ({place})"


if __name__ == "__main__":
    zygote(socket.socket(fileno=int(sys.argv[1])))
