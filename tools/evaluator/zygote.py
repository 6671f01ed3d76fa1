"""zygote: the warm process that candidates are forked from: it imports a system's libraries once and is never
blocked, so a job starts in milliseconds.

Started by `supervisor.py` as `python -P -m evorank.tools.evaluator.zygote FD`, with one thread, because
forking is safe with one only (OMP_NUM_THREADS=1 and its like). It opens no data: all that a job may see
comes as descriptors beside the request. It alone forks, kills and reaps, and when its socket closes or its
parent is gone, however that died, it kills every child and exits.
"""

from __future__ import annotations

import ast
import gc
import importlib
import inspect
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from evorank.tools.evaluator import kernel
from evorank.tools.evaluator.child import RSS_UNIT, live
from evorank.tools.evaluator.lock import prepare

__all__ = ["receive", "send"]

MOST_DESCRIPTORS = 64
LENGTH = 4
PATIENCE_MS = 1000
"""How long the death of a parent that leaves its socket open elsewhere may go unnoticed."""


def send(control: socket.socket, message: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
    """A JSON message with its length before it; descriptors travel with the length."""
    content = json.dumps(message).encode()
    length = len(content).to_bytes(LENGTH, "big")
    if descriptors:
        socket.send_fds(control, [length], descriptors)
        control.sendall(content)
    else:
        control.sendall(length + content)


def receive(control: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors. EOFError where the other end is gone."""
    try:
        first, descriptors, _, _ = socket.recv_fds(control, LENGTH, MOST_DESCRIPTORS)
        while len(first) < LENGTH:
            first += _some(control, LENGTH - len(first))
        content = bytearray()
        while len(content) < int.from_bytes(first, "big"):
            content += _some(control, min(1 << 20, int.from_bytes(first, "big") - len(content)))
    except ConnectionError as error:
        raise EOFError from error
    return json.loads(content), list(descriptors)


def _some(control: socket.socket, size: int) -> bytes:
    if found := control.recv(size):
        return found
    raise EOFError


# --------------------------------------------------------------------------- warming up


def warm(system: str) -> None:
    """Pay for every import once. ImportError, or whatever the user's own module raises."""
    name, _, attribute = system.partition(":")
    module = importlib.import_module(name)
    if not hasattr(module, attribute):
        raise ImportError(f"module {name!r} has no class {attribute!r}")
    for late in _late_imports(module):
        with suppress(Exception):  # it will say so itself when it is needed
            importlib.import_module(late)
    ours = module.__name__.startswith("evorank.")
    if ours:
        _train_once()
    prepare(threads=not ours)
    threads = len(os.listdir("/proc/self/task")) if Path("/proc/self/task").exists() else 1
    if threads > 1:
        raise RuntimeError(f"importing {name!r} starts threads; start them in its methods instead")
    gc.collect()
    gc.freeze()  # shared pages stay shared: no child's collector writes to them
    _gather()


def _train_once() -> None:
    """What PyTorch and the built-in ranker make when first used; the first optimizer alone costs seconds."""
    import torch

    from evorank.model import ranker
    from evorank.model.config import default_phi
    from evorank.model.system import Feature, LogSchema, Rows

    torch.set_num_threads(1)
    for path in sorted(Path(ranker.__file__).parent.glob("[a-z]*.py")):
        importlib.import_module(f"evorank.model.{path.stem}")
    features = (Feature("item", "categorical", 8), Feature("past", "history", length=2, of="item"))
    codes = np.arange(128, dtype=np.int32).reshape(64, 2) % 8
    rows = Rows(features, codes[:, :1], np.empty((64, 0), np.float32), {"past": codes})
    phi = default_phi(label="click", factors={}, batch_size=16, embedding_dim=4)
    system = ranker.NeuralRanker(LogSchema(features, {}), phi)
    for name in ("Adagrad", "Adam", "RMSprop", "SGD"):
        phi |= {"optimizer": phi["optimizer"] | {"name": name, "args": {"lr": 0.01}}}
        system.cost(phi)
        weights = system.fit(phi, rows, (codes[:, 0] % 4 > 1).astype(np.float32), seed=0)
        system.predict(phi, weights, rows)


def _gather() -> None:
    """Put what this process holds into huge pages: a fork then copies an entry for 2 MB, not for 4 KB."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, rights, _, _, file, *_ = line.split()
        if rights == "rw-p" and file == "0":
            start, end = (int(each, 16) for each in place.split("-"))
            with suppress(OSError):  # too small, or a kernel before 6.1: it is a matter of speed only
                kernel.madvise(start, end - start, kernel.COLLAPSE)


def _late_imports(module: ModuleType) -> Iterator[str]:
    """What a module imports inside its functions, so that heavy libraries stay out of the parent."""
    try:
        tree = ast.parse(inspect.getsource(module))
    except (OSError, TypeError, SyntaxError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


# --------------------------------------------------------------------------- the loop


class Zygote:
    """Children by job, and the one loop that serves them."""

    def __init__(self, control: socket.socket, readable: list[Path]) -> None:
        self.control, self.readable = control, readable
        self.children: dict[int, int] = {}
        """Process -> job."""
        self.parent = os.getppid()

    def serve(self) -> None:
        wake, woken = os.pipe()
        for end in (wake, woken):
            os.set_blocking(end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(woken)
        poll = select.poll()
        poll.register(self.control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        try:
            while os.getppid() == self.parent:
                ready = {descriptor for descriptor, _ in poll.poll(PATIENCE_MS)}
                if wake in ready:
                    os.read(wake, 1 << 12)
                if self.control.fileno() in ready:
                    self._obey(*receive(self.control))
                self._reap()
        except (EOFError, ConnectionError):
            pass
        finally:
            for process in self.children:
                os.kill(process, signal.SIGKILL)
            for process in list(self.children):
                os.waitpid(process, 0)

    def _obey(self, request: dict[str, Any], descriptors: list[int]) -> None:
        if request["kind"] == "kill":
            for process, job in self.children.items():
                if job == request["id"]:
                    os.kill(process, signal.SIGKILL)  # not reaped yet, so it is still ours
            return
        process, myself = 0, os.getpid()
        try:
            process = os.fork()
        except OSError as error:
            send(self.control, {"id": request["id"], "failed": f"{error.strerror}"})
        else:
            if process == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                live(request, descriptors, self.readable, myself)
            self.children[process] = request["id"]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _reap(self) -> None:
        while self.children:
            process, status, usage = os.wait4(-1, os.WNOHANG)
            if process == 0:
                return
            send(
                self.control,
                {
                    "id": self.children.pop(process),
                    "code": os.waitstatus_to_exitcode(status),
                    "cpu": usage.ru_utime + usage.ru_stime,
                    "peak": usage.ru_maxrss * RSS_UNIT,
                    "clock": time.monotonic(),
                },
            )


def main(control: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then closes us
    hello, _ = receive(control)
    try:
        warm(hello["system"])
    except Exception as error:
        send(control, {"error": f"{type(error).__name__}: {str(error)[:800]}"})
        return
    send(control, {"ready": os.getpid()})
    os.chdir("/")
    Zygote(control, [Path(path) for path in hello["readable"]]).serve()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
