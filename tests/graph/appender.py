"""A process of its own that appends to a journal: appender.py HOME RUN COUNT [URL]."""

from __future__ import annotations

import sys
from pathlib import Path

from evorank.graph.journal import Journal, thread_id
from evorank.graph.state import Attempt

if __name__ == "__main__":
    home, run, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    journal = Journal.open(home, url=sys.argv[4] if len(sys.argv) > 4 else None)
    for step in range(count):
        # Every process appends its own steps, and all of them the steps of the run "shared".
        for owner in (run, "shared"):
            journal.append(
                Attempt(
                    id=thread_id(owner, step),
                    run=owner,
                    step=step,
                    surface="simulated",
                    data_version="d1",
                    persona="optimizer",
                    outcome="worse",
                )
            )
    journal.close()
