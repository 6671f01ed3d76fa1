"""supervisor: the parent's end of a zygote. Starts it, asks it for children, tells how each one ended, and
starts it again where it died.

What a child leaves is read as what it is: the word of a stranger, bounded, and parsed as JSON at most.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from evorank.model.errors import ToolError
from evorank.tools.evaluator.blocks import memory_file
from evorank.tools.evaluator.child import BEGUN, STATUS_BYTES
from evorank.tools.evaluator.gpu import Device
from evorank.tools.evaluator.lock import Limits, readable_code, wrapped
from evorank.tools.evaluator.zygote import receive, send

__all__ = ["Child", "End", "Lost", "Supervisor"]

START_SECONDS = 120.0
"""Importing torch on a cold, busy disk."""
END_SECONDS = 30.0
"""A process that was killed, or has nothing left to do, is gone by then, or the machine is not well."""
LOG_BYTES = 1 << 16
QUOTED = 500
FEW_FAULTS = {
    # What a child costs beyond its training is page faults. Huge pages, where the system lets a program ask
    # for them, make a fork copy 2 MB as one entry; memory that is kept is not faulted in again at each step.
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=1000000000:"
    "glibc.malloc.mmap_threshold=1000000000"
}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class Lost(Exception):  # noqa: N818 - what happened, not a malfunction of ours
    """A child or its zygote died, and not by the fault of the job: it may be tried once more."""


@dataclass(frozen=True)
class End:
    """How a child ended. Seconds count from the moment it had locked itself; `peak` is in bytes."""

    code: int
    """Exit code, or minus the signal that killed it."""
    cpu_seconds: float
    wall_seconds: float
    peak: int
    """Resident memory at its peak, pages shared with others included."""


class Child:
    """A job in a process of its own. Leaving its context kills it, if need be, and closes its files."""

    def __init__(self, supervisor: Supervisor, id: int, limits: Limits) -> None:
        self._supervisor, self.id, self.limits = supervisor, id, limits
        self.ended: Future[dict[str, Any]] = Future()
        self.control: socket.socket | None = None
        self.stopped = ""
        """Why we killed it, as the end of "The training process ..."; "" where we did not."""
        self.cpu_seconds = 0.0
        """Spent since it had locked itself, known once its context was left."""
        self._log = memory_file("log", LOG_BYTES)
        self._status = memory_file("status", STATUS_BYTES)
        self._begun = memory_file("begun", BEGUN.size)
        self.files: tuple[int, ...] = (self._log, self._status, self._begun)

    def wait(self, seconds: float, late: str = "did not end by itself and was stopped") -> End:
        """How it ended. Killed where it takes longer; `Lost` where the zygote died under it."""
        try:
            told = self.ended.result(max(0.0, seconds))
        except FutureTimeoutError:
            self.kill(late)
            told = self.ended.result(END_SECONDS)
        return self._end(told)

    def _end(self, told: Mapping[str, Any]) -> End:
        cpu, clock = BEGUN.unpack(os.pread(self._begun, BEGUN.size, 0))
        if clock == 0:  # it died before it locked itself
            return End(told["code"], 0.0, 0.0, told["peak"])
        return End(told["code"], told["cpu"] - cpu, told["clock"] - clock, told["peak"])

    def kill(self, why: str) -> None:
        """Stop it, from any thread."""
        self.stopped = self.stopped or why
        self._supervisor.kill(self.id)

    def told(self) -> dict[str, Any]:
        """What it says of itself: a JSON object of at most 64 KB, {} where that cannot be read."""
        content = os.pread(self._status, STATUS_BYTES, 0).partition(b"\0")[0]
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def complaint(self) -> str:
        """The error that it told, "" for none, in one line of bounded length."""
        error = self.told().get("error", "")
        if error == "memory":
            return (
                f"needed more than {self.limits.memory / 1e9:.1f} GB of memory; try a smaller model or batch"
            )
        return _plain(str(error), 2 * QUOTED)

    def reason(self, end: End) -> str:
        """Why it did not do its work, as the end of "The training process ...". `Lost` if nobody knows."""
        if self.stopped:
            return self.stopped
        most = self.limits.cpu_seconds
        if most is not None and end.cpu_seconds >= most and end.code in (-signal.SIGXCPU, -signal.SIGKILL):
            return f"used more than {most:,} CPU-seconds"
        if end.code == -signal.SIGKILL:
            raise Lost("it was killed, perhaps because the machine ran out of memory")
        said = _plain(os.pread(self._log, LOG_BYTES, 0).rstrip(b"\0").decode(errors="replace"), QUOTED)
        said = f": {said}" if said else ""
        if end.code < 0:
            return f"died of {signal.Signals(-end.code).name}{said}"
        return f"ended with exit code {end.code} before its work was done{said}"

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: BaseException | TracebackType | None) -> None:
        if not self.ended.done():
            self.kill("was no longer needed")
            with suppress(Lost, FutureTimeoutError):
                self.ended.result(END_SECONDS)
        if self.files and self.ended.done() and not self.ended.cancelled() and not self.ended.exception():
            self.cpu_seconds = self._end(self.ended.result()).cpu_seconds
        for descriptor in self.files:
            os.close(descriptor)
        self.files = ()


def _plain(text: str, length: int) -> str:
    """What a stranger wrote in one line, without control characters: all of it, or its two ends."""
    line = " ".join("".join(c if c.isprintable() or c.isspace() else "?" for c in text).split())
    return line if len(line) <= length else f"{line[: length // 2]} ... {line[-length // 2 :]}"


class Supervisor:
    """One zygote, warm for one system. Safe to use from several threads."""

    def __init__(self, system: str, *, contained: bool, degraded: bool, device: Device = "cpu") -> None:
        self._system, self._contained, self._degraded = system, contained, degraded
        self._device = device
        self._extra = _folders(system)
        self._hidden: set[Path] = set()
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._numbers = itertools.count()
        self._children: dict[int, Child] = {}
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def process(self) -> int | None:
        """The zygote's process id while it runs."""
        return None if self._process is None else self._process.pid

    def require_hidden(self, data: Path) -> None:
        """LockError where candidates could read `data`: it lies among the code of the system."""
        if data not in self._hidden:
            readable_code(self._extra, [data])
            self._hidden.add(data)

    def spawn(self, request: Mapping[str, Any], descriptors: Sequence[int], limits: Limits) -> Child:
        """A child for a job; `descriptors` are its result and its data, and stay ours to close.

        ToolError if the zygote does not start, `Lost` if it dies.
        """
        child = Child(self, next(self._numbers), limits)
        message = dict(request) | {
            "id": child.id,
            "system": self._system,
            "limits": asdict(limits),
            "threads": not self._system.startswith("evorank."),  # libraries of users may need some
            "degraded": self._degraded,
            "device": request.get("device", self._device),
        }
        try:
            with self._lock:
                child.control = control = self._ensure()
                self._children[child.id] = child
            with self._sending:
                send(control, message, (*child.files, *descriptors))
        except OSError:
            child.ended.cancel()
            child.__exit__(None)
            raise Lost("the process that starts trainings died") from None
        except BaseException:
            child.ended.cancel()
            child.__exit__(None)
            raise
        return child

    def kill(self, id: int) -> None:
        control = self._control
        with suppress(OSError), self._sending:
            if control is not None:
                send(control, {"kind": "kill", "id": id})

    def close(self) -> None:
        """End the zygote and with it every child."""
        self._closed = True
        process = self._process
        if process is not None:
            process.kill()  # the kernel kills its children
            process.wait()

    # The process

    def _ensure(self) -> socket.socket:
        if self._closed:
            raise ToolError("The pool is closed.")
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        started: Future[socket.socket] = Future()
        # A box dies with the thread that made it: this one lives exactly as long as the zygote.
        threading.Thread(target=self._keep, args=[started], daemon=True, name="evorank-zygote").start()
        self._control = started.result(2 * START_SECONDS)
        return self._control

    def _keep(self, started: Future[socket.socket]) -> None:
        """Start a zygote, then pass on its reports until it dies."""
        control, theirs = socket.socketpair()
        with tempfile.TemporaryFile() as log, control:
            try:
                with theirs:
                    self._process = process = self._popen(theirs.fileno(), log.fileno())
                if self._closed:  # meanwhile
                    process.kill()
                readable = readable_code(self._extra)
                control.settimeout(START_SECONDS)
                send(control, {"system": self._system, "readable": [str(path) for path in readable]})
                hello, _ = receive(control)
                if "error" in hello:
                    raise ToolError(f"`system` {self._system!r} cannot be loaded: {hello['error']}")
                control.settimeout(None)
            except (EOFError, OSError) as error:
                said = _plain(os.pread(log.fileno(), LOG_BYTES, 0).decode(errors="replace"), QUOTED)
                why = "The pool is closed." if self._closed else f"({error!r}): {said or 'no message'}"
                started.set_exception(ToolError(f"The processes that train did not start {why}"))
                return
            except BaseException as error:
                started.set_exception(error)
                return
            started.set_result(control)
            try:
                while True:
                    report, _ = receive(control)
                    self._report(report)
            except (EOFError, OSError):
                process.wait()
                with self._lock:  # a new zygote may be here already, with children of its own
                    orphans = [each for each in self._children.values() if each.control is control]
                    for child in orphans:
                        del self._children[child.id]
                for child in orphans:
                    child.ended.set_exception(Lost("the process that starts trainings died"))

    def _report(self, report: dict[str, Any]) -> None:
        with self._lock:
            child = self._children.pop(report["id"])
        if "failed" in report:
            child.ended.set_exception(Lost(f"no process could be started: {report['failed']}"))
        else:
            child.ended.set_result(report)

    def _popen(self, descriptor: int, log: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "evorank.tools.evaluator.zygote", str(descriptor)]
        if self._contained:
            command = wrapped(command, readable_code(self._extra), [descriptor])
        environment = (
            dict.fromkeys(ONE_THREAD, "1")
            | FEW_FAULTS
            | {
                "PYTHONHASHSEED": "0",  # sets of names have one order in every pool
                "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
            }
        )
        return subprocess.Popen(
            command,
            pass_fds=[descriptor],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
        )


def _folders(system: str) -> list[Path]:
    """Where a user's own system lies: its package; without one, its file and the modules beside it."""
    name = system.partition(":")[0]
    if name.startswith("evorank."):
        return []
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return []  # the zygote says why it cannot be loaded
    if found is None or found.origin is None or not Path(found.origin).exists():
        return []
    path = Path(found.origin)
    if "." not in name:
        return [path, *sorted(path.parent.glob("*.py"))]
    top = importlib.util.find_spec(name.partition(".")[0])
    return [path.parent if top is None or top.origin is None else Path(top.origin).parent]
