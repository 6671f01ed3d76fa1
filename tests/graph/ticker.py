"""Ticks in processes of their own, each of which kills itself: ticker.py HOME URL POOL UNTIL PLACE...

URL names a server, or is "-"; POOL is where the pool listens that trains. A PLACE is "module:Class.method
before 2": the process kills itself (SIGKILL) when that method is called the second time, or "after" it has
returned. "" lives on to the day UNTIL. The first process proposes a candidate. Prints a line for each: its
exit code, negative for a signal. They are forked, so that imports are paid once.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from datetime import datetime
from pathlib import Path

import scipy.stats  # noqa: F401 - what a life imports late is paid once as well
from lent import LentPool
from tiny import Watched

from evorank.graph.context import Context
from evorank.graph.operations import open_operations
from evorank.graph.tick import propose, tick

DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]


def kill_at(place: str) -> None:
    where, when, number = place.split()
    module, path = where.split(":")
    owner, method = path.split(".")
    cls = getattr(importlib.import_module(module), owner)
    real = getattr(cls, method)
    calls = 0

    def watched(*arguments, **named):
        nonlocal calls
        calls += 1
        this = calls  # threads may call it at once
        if (this, when) == (int(number), "before"):
            os.kill(os.getpid(), signal.SIGKILL)
        answer = real(*arguments, **named)
        if (this, when) == (int(number), "after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    setattr(cls, method, watched)


def live(home: Path, url: str | None, pool: str, until: datetime, place: str) -> None:
    if place:
        kill_at(place)
    context = Context(
        surface="tiny",
        home=str(home),
        store=url,
        personas=["optimizer"],
        parallel=1,
        seeds=2,
        selection="fifo",
        pool=Watched(LentPool(pool), home / "trainings.txt"),
    )
    operations = open_operations(context)
    if not operations.schedule.entries(open_only=False):
        propose(operations, DELTA, why="a smaller step", by="ada")
    report = tick(context, until=until)
    assert report.errors == [], report.errors


def main(home: Path, url: str | None, pool: str, until: datetime, places: list[str]) -> None:
    for place in places:
        process = os.fork()
        if process == 0:
            try:
                live(home, url, pool, until, place)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), place, flush=True)


if __name__ == "__main__":
    url = None if sys.argv[2] == "-" else sys.argv[2]
    main(Path(sys.argv[1]), url, sys.argv[3], datetime.fromisoformat(sys.argv[4]), sys.argv[5:])
