"""Another process on the same store: contender.py HOME URL|- DOES ... says "ready" and waits for a line.

lease SURFACE EXPERIMENT SECONDS  ->  whether it got the lease; at the next line, what its `set` came to
consume SURFACE EXPERIMENT        ->  ids of the requests that it consumed
launch SURFACE KEY ...            ->  version of each key
add SURFACE PREFIX COUNT          ->  done
half                              ->  in the middle of a write transaction
trial EXPERIMENT [ANSWER]         ->  begins an experiment's thread, or resumes it with an answer
expose PREFIX COUNT               ->  done: so many batches of its own, and as many that others write too
expose-and-die KEY ROWS           ->  killed in the middle of writing these rows
traffic PREFIX COUNT              ->  done: so many launches
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from evorank.graph.ledger import StoredLedger
from evorank.graph.schedule import Schedule
from evorank.graph.store import Access, Store
from evorank.model.errors import EvorankError
from evorank.surfaces.platform import Exposure

sys.path.append(str(Path(__file__).parents[1] / "surfaces"))

from served import served

NINE = datetime(2026, 3, 2, 9, tzinfo=UTC)
SHARED = {"shared": True, "tables": {"days": {"path": "days.csv"}}}


def shown(*users: object, arm: str = "1") -> list[Exposure]:
    """Exposures to one experiment, all at nine o'clock."""
    return [Exposure(str(user), NINE, "e", arm) for user in users]


def ledger_of(store: Store, home: Path) -> StoredLedger:
    return StoredLedger(store, served(home, options=SHARED, slots=2))


class Contender:
    """Such a process, from the outside."""

    def __init__(self, home: Path, url: str | None, *words: object) -> None:
        command = [sys.executable, __file__, str(home), url or "-", *map(str, words)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.hear() == "ready"

    def hear(self) -> str:
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """Let it go on, and what it says then."""
        self.go()
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()


def say(*words: object) -> None:
    print(*words, flush=True)


def main(home: Path, url: str | None, does: str, *words: str) -> None:
    store = Store.open(home, url)
    say("ready")
    sys.stdin.readline()
    if does == "half":
        with store.transaction() as access:
            access.execute("INSERT INTO evorank_clocks (surface, now) VALUES ('half', 'now')")
            say("inside")
            sys.stdin.readline()
    elif does == "trial":
        from trial import go_on

        say(go_on(store, *words))
    elif does in ("expose", "expose-and-die", "traffic"):
        serve(ledger_of(store, home), does, *words)
    else:
        schedule = Schedule(store, words[0])
        contend(schedule, does, *words[1:])
    store.close()


def serve(ledger: StoredLedger, does: str, name: str, count: str) -> None:
    if does == "expose-and-die":
        execute = Access.execute

        def dying(self: Access, sql: str, *values: object) -> object:
            found = execute(self, sql, *values)
            if sql.startswith("INSERT INTO evorank_exposures"):
                os.kill(os.getpid(), signal.SIGKILL)
            return found

        Access.execute = dying
        ledger.exposures.append(shown(*range(int(count))), name)
    for number in range(int(count)):
        if does == "expose":
            ledger.exposures.append(shown(f"{name}{number}"), f"{name}{number}")
            ledger.exposures.append(shown(f"shared{number}"), f"shared{number}")
        else:
            key = f"{name}{number}"
            ledger.allocations.change(lambda traffic, key=key: traffic.launch(key, 1, key))
    say("done")


def contend(schedule: Schedule, does: str, *words: str) -> None:
    if does == "lease":
        with schedule.lease(words[0], "contender", float(words[1])) as mine:
            say(mine)
            sys.stdin.readline()
            try:
                schedule.set(words[0], phase="live")
                say("set")
            except EvorankError as error:
                say(type(error).__name__, error)
        sys.stdin.readline()
    elif does == "consume":
        say(*[action.id for action in schedule.pending(words[0]) if schedule.consume(action.id)])
    elif does == "launch":
        made = [
            schedule.launch(phi={"key": key}, artifact=key, experiment=None, why="", key=key) for key in words
        ]
        say(*[version.version for version in made])
    elif does == "add":
        for number in range(int(words[1])):
            schedule.add(f"{words[0]}{number}", f"{words[0]}{number}", {"production": "p"})
            schedule.add(f"shared{number}", f"shared{number}", {"production": "p"})
        say("done")


if __name__ == "__main__":
    main(Path(sys.argv[1]), None if sys.argv[2] == "-" else sys.argv[2], *sys.argv[3:])
