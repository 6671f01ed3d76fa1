"""gpu: whether candidates train on this machine's GPU, and what the lock gives up where they do.

CUDA opens device files, asks them by ioctl and starts threads, all of which the lock forbids. A child that
uses a GPU starts CUDA itself, after it has locked itself with these exceptions; the zygote never does, for
CUDA does not survive a fork. What is left is the tier `degraded`, so nobody gets it without asking.

Limits: written without a GPU to try it on, and never run on one. So nothing is taken for granted: a process
that locks itself as candidates would starts CUDA and computes, and where it cannot, the GPU is not used. The
memory of the GPU and shared memory are not bounded, and the time of the GPU is not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from evorank.model.errors import ConfigurationError, LockError
from evorank.tools.evaluator.readable import readable_code

__all__ = ["OPEN_FILES", "Device", "DeviceChoice", "DeviceName", "choose_device", "devices", "read_by_cuda"]

DeviceName: TypeAlias = Literal["auto", "cpu", "cuda"]
Device: TypeAlias = Literal["cpu", "cuda"]

FOLDER, PATTERN = Path("/dev"), "nvidia*"
READ = ("/sys", *(f"/proc/{name}" for name in ("self", "driver/nvidia", "devices", "modules", "meminfo")))
"""What CUDA reads of the machine."""
SECONDS = 120
"""For importing torch and starting CUDA on a cold, busy machine."""
LEFT = (
    "degraded: privileges stay locked, limits but that of address space, files but the GPU's, and system "
    "calls but those for threads and devices"
)
OPEN_FILES = 1024
"""CUDA opens a device many times."""
MEMORY = 4 << 30
"""Bytes of its own for the process that tries."""


@dataclass(frozen=True)
class DeviceChoice:
    """Where candidates train and are scored, and a sentence that says why."""

    device: Device
    why: str


def choose_device(asked: DeviceName, *, allow_degraded: bool) -> DeviceChoice:
    """The device for `asked` on this machine. Seconds where there is a GPU that may be used, else nothing.

    `auto` is the GPU where there is one and `allow_degraded` permits the lock that it leaves, else the CPU.
    For `cuda`: ConfigurationError where no GPU can be used, LockError where its lock is not permitted.
    """
    if asked == "cpu":
        return DeviceChoice("cpu", "the CPU, as asked")
    why = ""
    if not devices():
        why = f"there is no {FOLDER / PATTERN}"
    elif not allow_degraded:
        if asked == "cuda":
            raise LockError(
                f"`device` (--device) cuda leaves the lock {LEFT}. `--allow-degraded` permits it: do that "
                "only where you trust every model that proposes code."
            )
        return DeviceChoice("cpu", f"the CPU: the GPU's lock would be {LEFT}; --allow-degraded permits it")
    else:
        name, why = _tried()
        if name:
            return DeviceChoice("cuda", f"{name}; the lock is {LEFT}")
    if asked == "cuda":
        raise ConfigurationError(f"`device` (--device) cuda: no GPU can be used here: {why}. Try auto.")
    return DeviceChoice("cpu", f"the CPU: no GPU can be used here: {why}")


def devices() -> list[Path]:
    """The device files of NVIDIA's driver."""
    found = FOLDER.glob(PATTERN)
    return sorted(path for each in found for path in (each.iterdir() if each.is_dir() else [each]))


def read_by_cuda() -> list[Path]:
    """Beside code, what a locked process must read to use a GPU."""
    return [Path(path) for path in READ if os.path.exists(path)]


@cache
def _tried() -> tuple[str, str]:
    """(name of the GPU, "") or ("", why it cannot be used), from a process that locks itself and computes."""
    environment = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    command = [sys.executable, "-P", "-m", __name__, str(FOLDER), PATTERN]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
        name, why = json.loads(done.stdout)
        return str(name), str(why)
    except subprocess.TimeoutExpired:
        return "", f"CUDA did not start within {SECONDS} seconds"
    except (OSError, ValueError):
        said = done.stderr.strip().splitlines()[-1:] or [f"the trial ended with {done.returncode}"]
        return "", said[0][:300]


def _try() -> tuple[str, str]:
    """Lock this process as one that trains, start CUDA, and take a gradient as a training does."""
    import torch

    from evorank.model.train import repeatable
    from evorank.tools.evaluator.lock import Limits, lock

    torch.set_num_threads(1)
    os.environ.clear()
    limits = Limits(cpu_seconds=SECONDS, memory=MEMORY, open_files=OPEN_FILES)
    lock(limits, readable=[*readable_code(), *read_by_cuda()], devices=devices())
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        with repeatable("cuda"):
            table = torch.ones(8, 4).pin_memory().to("cuda", non_blocking=True).requires_grad_()
            rows = torch.tensor([1, 1, 2], device="cuda")
            (table.index_select(0, rows) @ table.t()).square().sum().backward()  # type: ignore[no-untyped-call]
            assert table.grad is not None
            table.grad.cpu()
        return torch.cuda.get_device_name(), ""
    except Exception as error:
        return "", f"{type(error).__name__}: {str(error)[:300]}"


if __name__ == "__main__":
    FOLDER, PATTERN = Path(sys.argv[1]), sys.argv[2]  # as whoever asks sees them
    sys.stdout.write(json.dumps(_try()))
