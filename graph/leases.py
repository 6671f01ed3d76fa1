"""Leases: who works on an experiment just now, so that nobody else does.

A lease ends when it is given back, when its time is up, or, on the machine that took it, when its process is
gone: a tick that was killed does not hold up the next one. Each lease raises the row's version; an owner
whose lease is another's by now has an older one, and what it writes is refused.

Limits: whether a process is gone is seen on Linux only; elsewhere a lease runs its time.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from evorank.graph.store import Access, Store
from evorank.model.errors import JournalError

__all__ = ["Leases", "is_gone", "this_process"]


class Leases:
    """The leases that this object holds. The caller sees to it that threads ask one at a time."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._versions: dict[str, int] = {}
        """Experiment -> the version that its row has as long as the lease is ours."""

    def take(self, experiment: str, owner: str, seconds: float) -> bool:
        """Whether it is ours now. One that is ours already is not given twice, even when its time is up."""
        if experiment in self._versions:
            return False
        with self.store.transaction() as access:
            (holder, expires), *_ = access.execute(
                "SELECT owner, expires FROM evorank_schedule WHERE experiment = ?", experiment
            )
            if holder is not None and expires > access.time and not is_gone(holder):
                return False
            taken = access.execute(
                "UPDATE evorank_schedule SET owner = ?, expires = ?, version = version + 1"
                " WHERE experiment = ? RETURNING version",
                *(f"{owner}@{this_process()}", access.time + seconds, experiment),
            )
        self._versions[experiment] = taken[0][0]
        return True

    def write(self, access: Access, experiment: str, changes: dict[str, Any]) -> None:
        """Change columns of an experiment's row. JournalError unless its lease is ours still."""
        version = self._versions.get(experiment)
        names = ", ".join(f"{name} = ?" for name in changes)
        written = access.execute(
            f"UPDATE evorank_schedule SET {names} WHERE experiment = ? AND version = ? RETURNING version",
            *(*changes.values(), experiment, version),
        )
        if not written:
            why = "no lease is held" if version is None else "the lease ran out and somebody else has it"
            raise JournalError(f"experiment {experiment}: {why}. Nothing was changed; the next tick goes on.")

    def give_back(self, experiment: str) -> None:
        """Let others have it; nothing where they do already."""
        version = self._versions.pop(experiment)
        with self.store.transaction() as access:
            access.execute(
                "UPDATE evorank_schedule SET owner = NULL, expires = NULL"
                " WHERE experiment = ? AND version = ?",
                *(experiment, version),
            )


def this_process() -> str:
    """This process among all that ever ran: boot, process namespace, id, start. "" where that is not told."""
    try:
        return f"{_machine()}/{os.getpid()}/{_started(os.getpid())}"
    except OSError:
        return ""


def is_gone(owner: str) -> bool:
    """Whether a lease's owner was a process of this machine, and is no more. False where it is not known."""
    machine, _, process = owner.rpartition("@")[2].rpartition("/")[0].rpartition("/")
    try:
        if not machine or machine != _machine():
            return False
        return _started(int(process)) != owner.rpartition("/")[2]
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        return False


def _machine() -> str:
    return (
        Path("/proc/sys/kernel/random/boot_id").read_text().strip() + "/" + os.readlink("/proc/self/ns/pid")
    )


def _started(process: int) -> str:
    """When a process started, in ticks since the boot; "ended" for one that nobody has waited for."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return "ended" if fields[0] in "ZX" else fields[19]
