"""lock: what a process does to itself, for ever, before code that an agent wrote may run in it.

Four layers, and none is enough alone (`tests/tools/evaluator/attacks.py` shows what passes where one is
missing):

- privileges: no capabilities, none to be gained, no debugger, and death with the parent;
- limits (setrlimit): CPU, memory, size of files, number of descriptors, processes;
- landlock: no file system but for reading named folders with code, no TCP, no signals to others;
- seccomp: an allow-list of system calls (`seccomp.py`).

A locked process keeps its memory, its descriptors and its environment: what must not be seen must not be
there. It may still ask whether a path exists, measure time and use the CPU it was given. A wall limit is
the parent's task.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from evorank.model.errors import LockError
from evorank.tools.evaluator import kernel, landlock, seccomp
from evorank.tools.evaluator.readable import readable_code
from evorank.tools.evaluator.tier import Tier, TierReport, self_test, wrapped

__all__ = [
    "LAYERS",
    "Limits",
    "LockError",
    "Tier",
    "TierReport",
    "lock",
    "prepare",
    "readable_code",
    "self_test",
    "wrapped",
]

LAYERS = ("privileges", "limits", "landlock", "seccomp")
"""In the order in which they are put on: each would keep the ones before it from being put on later."""
PATIENCE = 1.0
"""Seconds for which a thread that has ended is waited for."""


@dataclass(frozen=True)
class Limits:
    """What a locked process may use from now on, beyond what it has used and holds when it locks itself."""

    cpu_seconds: int | None
    """None leaves CPU to the wall limit of a parent: for those that stay and answer requests."""
    memory: int
    """Bytes of memory it may add, of address space and of writable memory alike."""
    file_bytes: int = 1 << 20
    """Size to which it may grow a file that it holds open; pipes and sockets have none."""
    open_files: int = 64
    """Descriptors, counting those already open."""


def lock(
    limits: Limits,
    *,
    readable: Sequence[Path] = (),
    threads: bool = False,
    degraded: bool = False,
    dies_with_parent: bool = True,
    devices: Sequence[Path] = (),
) -> None:
    """Lock the calling process for ever; only code from `readable` folders can still be read.

    Call it while there is one thread, in a child whose environment is empty and whose descriptors are its
    own. Afterwards it may compute, read and write open descriptors (os.read and os.write: also on sockets),
    map files that are open, and start threads with `threads`. Breaking the CPU limit kills it (SIGXCPU, a
    second later SIGKILL), the memory limit fails the allocation, the file limit the write; a refused call
    fails with EPERM.

    `dies_with_parent` ties it to the *thread* that started it: right for a child of a process with one
    thread. `threads` are for code of ours and the user's: only memory bounds their number, which an attacker
    could use against the machine. LockError names the layer that cannot be had here, with what to do;
    `degraded` puts on the others instead.

    `devices` are files of a GPU's driver: they may be written and asked, threads started, memory shared, and
    its address space is not bounded (CUDA maps all of the GPU's). That is the tier `degraded`.
    """
    missing = _put_on(limits, readable, threads, LAYERS, dies_with_parent, devices)
    if missing and not degraded:
        layer, reason = next(iter(missing.items()))
        raise LockError(
            f"`{layer}` is missing in the lock of this process: {reason}. Candidates are only run where all "
            f"of {', '.join(LAYERS)} hold (Linux 5.13 or later on x86-64 or aarch64)."
        )


def prepare(threads: bool) -> None:
    """Do now what is the same in every lock: children of this process then need half the time for theirs."""
    with suppress(OSError):  # they will say what is missing
        seccomp.packed(_machine(), os.getpid(), threads=threads)


def _put_on(
    limits: Limits,
    readable: Sequence[Path],
    threads: bool,
    layers: Collection[str],
    dies_with_parent: bool = True,
    devices: Sequence[Path] = (),
) -> dict[str, str]:
    """Put on `layers`; returns what could not be put on, and why. Only tests leave layers out."""
    if (running := _threads_left()) > 1:
        # Landlock, seccomp and capabilities bind the calling thread: others would stay free.
        raise LockError(f"`lock` needs a process with one thread, this one has {running}.")
    threads, device = threads or bool(devices), bool(devices)
    steps: dict[str, Callable[[], None]] = {
        "privileges": lambda: _give_up_privileges(dies_with_parent),
        "limits": lambda: _limit(limits, threads, device),
        "landlock": lambda: landlock.restrict(readable, devices),
        "seccomp": lambda: seccomp.install(
            seccomp.packed(_machine(), os.getpid(), threads=threads, devices=device)
        ),
    }
    missing = {}
    for layer in LAYERS:
        if layer in layers:
            try:
                steps[layer]()
            except (OSError, ValueError) as error:
                missing[layer] = str(error)
    return missing


def _threads_left() -> int:
    """How many threads there are; one that was joined just now may still be leaving, and is waited for."""
    patience = time.monotonic() + PATIENCE
    try:
        while (running := len(os.listdir("/proc/self/task"))) > 1 and time.monotonic() < patience:
            time.sleep(0.001)
        return running
    except OSError:
        return 1  # no /proc: nothing that binds single threads is there either


def _machine() -> str:
    machine = platform.machine()
    if machine not in seccomp.MACHINES or sys.maxsize < 1 << 32:
        raise OSError(f"no table of system calls for {machine}, {'64' if sys.maxsize >> 32 else '32'} bits")
    return machine


def _give_up_privileges(dies_with_parent: bool) -> None:
    kernel.prctl(kernel.NO_NEW_PRIVILEGES, 1)
    with suppress(PermissionError):  # not for us to drop: then there is nothing in it that we could gain
        for capability in range(64):
            try:
                if kernel.prctl(kernel.CAPABILITY_READ, capability):
                    kernel.prctl(kernel.CAPABILITY_DROP, capability)
            except PermissionError:
                raise
            except OSError:
                break  # the last that this kernel knows
    kernel.prctl(kernel.AMBIENT, kernel.AMBIENT_CLEAR)
    kernel.capset()
    if any(kernel.capget()):
        raise OSError("capabilities are still there after capset")
    kernel.prctl(kernel.DUMPABLE, 0)
    if dies_with_parent:
        kernel.prctl(kernel.PARENT_DEATH, signal.SIGKILL)


def _limit(limits: Limits, threads: bool, device: bool) -> None:
    wanted = {
        resource.RLIMIT_FSIZE: (limits.file_bytes,) * 2,
        resource.RLIMIT_NOFILE: (limits.open_files,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_MEMLOCK: (0, 0),
    }
    if sys.platform == "linux":
        with open("/proc/self/statm") as stream:
            pages = [int(word) for word in stream.read().split()]
        # Address space bounds whatever is mapped, files too; writable memory is much less: a closer bound.
        bounds = ((resource.RLIMIT_AS, pages[0]), (resource.RLIMIT_DATA, pages[5]))
        for kind, held in bounds[1:] if device else bounds:
            wanted[kind] = (held * resource.getpagesize() + limits.memory,) * 2
    if limits.cpu_seconds is not None:
        seconds = math.ceil(time.process_time()) + limits.cpu_seconds
        wanted[resource.RLIMIT_CPU] = (seconds, seconds + 1)
    if not threads:  # counts threads too, and all of the user's: no number is right where some are needed
        wanted[resource.RLIMIT_NPROC] = (0, 0)
    for kind, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(kind)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(kind, (soft, hard))
    if sys.platform != "linux":
        raise OSError(f"memory cannot be bounded on {sys.platform}")
