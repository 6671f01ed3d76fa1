"""What runs below this process, seen from outside."""

from __future__ import annotations

import time
from pathlib import Path

LINEAR = "linear_system:LinearSystem"


def family(pid):
    """All processes below one, and itself."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    found, wanted = [], [pid]
    while wanted:
        found += wanted
        wanted = [child for child, parent in parents.items() if parent in wanted]
    return found


def zygote(pool, system=LINEAR):
    """The process that forks: below the box it may be in, the first with the name of our module."""
    for pid in family(pool._supervisors[system].process):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if b"bwrap" not in command[0] and any(word.endswith(b".zygote") for word in command):
            return pid
    raise AssertionError("no zygote")


def children(pool, system=LINEAR):
    return family(zygote(pool, system))[1:]


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found
