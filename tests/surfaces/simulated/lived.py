"""A small surface that lives, and rankers that are tables: so that days can be compared, and effects planted.

As a program: live a day of surfaces, each in a process that dies at a point of it, and say how it ended.
python lived.py NAME HOME POINT [HOME POINT ...]
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np

from evorank.surfaces.platform import LiveTest
from evorank.surfaces.simulated.create import create
from evorank.surfaces.simulated.platform import SimulatedPlatform
from evorank.surfaces.simulated.world import World
from evorank.surfaces.surface import Surface, open_surface

NAME = "home"


class Table:
    """Scores a row by what its creator is worth."""

    opened: ClassVar[list[Table]] = []

    def __init__(self, folder: Path) -> None:
        self.worth, self.calls, self.closed = np.load(folder / "worth.npy"), 0, False
        Table.opened.append(self)

    def score(self, rows) -> np.ndarray:
        assert not self.closed
        self.calls += 1
        return self.worth[rows.column("author_id")]

    def close(self) -> None:
        self.closed = True


def made(home: Path, users: int = 600, days: int = 9) -> Surface:
    """A surface with some days behind it, its log encoded, and artifacts on it."""
    surface = create(home, NAME, "home", users=users, days=days, seed=3)
    dataset = surface.dataset()
    found = duckdb.sql(
        f"SELECT value, code FROM '{dataset.directory}/vocabulary/author_id.parquet'"
    ).fetchnumpy()
    videos = World.open(surface.directory / "world.npz").videos
    bait, quality = videos._author_bait, videos._author_quality
    for name, worth in {
        "baity": bait,
        "joyful": quality - 2 * bait,
        "again": bait,
        "odd": np.arange(len(bait)) % 7,
    }.items():
        folder = home / "artifacts" / name
        folder.mkdir(parents=True)
        table = np.zeros(len(found["code"]) + 1, np.float32)
        table[found["code"]] = worth[found["value"]]
        np.save(folder / "worth.npy", table)
        (folder / "manifest.json").write_text(json.dumps({"data": dataset.key}))
    return surface


def copied(surface: Surface, home: Path, **online) -> Surface:
    """The same surface in another home, with its artifacts, and some fields of `[online]` changed."""
    shutil.copytree(surface.directory.parent.parent, home, dirs_exist_ok=True)
    copy = open_surface(home, surface.name)
    assert copy.spec.online is not None
    changed = copy.spec.online.model_copy(update=online)
    return Surface(copy.spec.model_copy(update={"online": changed}), copy.directory)


def platform_of(surface: Surface) -> SimulatedPlatform:
    return SimulatedPlatform(surface, Table)


def artifact(surface: Surface, name: str) -> str:
    return str(surface.directory.parent.parent / "artifacts" / name)


def a_test_of(surface: Surface, candidate: str = "joyful", control: str = "baity", slot: int = 0, **changes):
    assert surface.spec.online is not None
    fields = {
        "experiment_id": f"e{slot}",
        "layer": surface.layer,
        "slot": surface.spec.online.slot(slot),
        "seed": f"seed {slot}",
        "coverage": 1.0,
        "control": artifact(surface, control),
        "candidate": artifact(surface, candidate),
    }
    return LiveTest.model_validate(fields | changes)


def digest(surface: Surface) -> dict[str, str]:
    """What a surface's folder holds, file by file, without locks and what is made of the log."""
    return {
        str(file.relative_to(surface.directory)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(surface.directory.rglob("*"))
        if file.is_file() and file.suffix != ".lock" and "data" not in file.parts
    }


def read(platform: SimulatedPlatform, query: str) -> list[tuple]:
    with platform.connect() as connection:
        return connection.execute(query).fetchall()


POINTS = [
    "before score 0",  # nothing is written
    "after score 3",  # in the middle of the traffic
    "before replace 0",  # yesterday's log is complete, under another name
    "after replace 0",  # it is there, and pending
    "after unlink 1",  # it is there alone
    "after replace 1",  # today's log is there
    "after replace 2",  # and the users' day
    "before replace 4",  # and exposures: all but the world
    "after replace 4",  # the world has moved on: this commits the day
]
"""Where a day can be cut in two: calls of a ranker and of `Path`, counted from 0."""


def die_at(point: str) -> None:
    """Let this process be killed at a point: before or after the n-th call of something."""
    when, what, number = point.split()
    owner, name = (Table, "score") if what == "score" else (Path, what)
    original, calls = getattr(owner, name), iter(range(1_000_000))

    def deadly(self, *arguments, **named):
        here = next(calls) == int(number)
        if here and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = original(self, *arguments, **named)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(owner, name, deadly)


if __name__ == "__main__":
    import evorank.surfaces.simulated.serving  # noqa: F401 - imports are paid once, before any fork

    for home, point in zip(sys.argv[2::2], sys.argv[3::2], strict=True):
        process = os.fork()
        if process == 0:
            living = platform_of(open_surface(Path(home), sys.argv[1]))
            die_at(point)
            living.next_day()
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
