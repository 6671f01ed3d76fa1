"""One run of both loops in processes that kill themselves one after the other: evolver.py HOME POOL PLACE...

POOL and PLACE as in ticker.py. The first process plans the run, the others resume it. Prints a line for each:
its exit code, and the day that the world has come to.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from lent import LentPool
from ticker import kill_at

from evorank.graph.context import Context
from evorank.graph.operations import open_operations
from evorank.graph.plan import latest_run, load_plan, new_plan
from evorank.graph.runs import carry_out
from evorank.graph.tick import propose
from evorank.surfaces.simulated.world import World

DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.02}]
STEPS, DAYS = 4, 6


def live(home: Path, pool: str, place: str) -> None:
    if place:
        kill_at(place)
    context = Context(
        surface="small",
        home=str(home),
        personas=["optimizer"],
        parallel=2,
        seeds=2,
        selection="fifo",
        pool=LentPool(pool),
    )
    if list((home / "runs").glob("*/run.json")):
        plan = load_plan(home, latest_run(home))  # ConfigurationError: it is complete
    else:
        propose(open_operations(context), DELTA, why="a larger step", by="ada")
        plan = new_plan(context, STEPS, DAYS)
    carry_out(plan, context)


def main(home: Path, pool: str, places: list[str]) -> None:
    for place in places:
        process = os.fork()
        if process == 0:
            try:
                live(home, pool, place)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(process, 0)
        today = World.saved_date(home / "surfaces" / "small" / "world.npz")
        print(os.waitstatus_to_exitcode(status), today, place, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
