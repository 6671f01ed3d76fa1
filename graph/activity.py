"""activity: what a run does just now, written down so that another process can see it, and see it hang.

A run replaces HOME/runs/RUN/now.json at every event. A reader goes by two things: whether the process that
wrote it is still there, and when it last had something to tell. There is no heartbeat: a run that is stuck
would have one too.

Limits: whether a process is gone is seen on its own machine, on Linux (as for leases).
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from evorank.graph.leases import is_gone, this_process

__all__ = ["Activity", "Doing", "Teller", "read_activity"]

Event = Mapping[str, Any]
TEXT_LIMIT = 300


class Doing(BaseModel):
    """One candidate, or one live test, that is worked on."""

    model_config = ConfigDict(extra="forbid")
    persona: str = ""
    node: str = ""
    text: str = ""
    since: datetime
    """When it began, UTC."""
    at: datetime
    """When it last told something, UTC."""


class Activity(BaseModel):
    """What a run was doing when it last told something."""

    model_config = ConfigDict(extra="forbid")
    run: str
    surface: str
    process: str
    """Who carries it out: `leases.this_process`."""
    begun: datetime
    at: datetime
    """The last event, UTC."""
    finished: int = 0
    """Attempts that this process finished."""
    steps: dict[int, Doing] = Field(default_factory=dict)
    tests: dict[str, Doing] = Field(default_factory=dict)
    """Id of a live test -> what is done with it, since the last day or attempt."""
    day: str = ""
    """The surface's time, where its days pass when told."""
    note: str = ""
    ended: bool = False
    """The process said that it was done with the run."""

    @property
    def gone(self) -> bool:
        """Whether nobody works on it: its process said so, or is no more."""
        return self.ended or is_gone(self.process)


class Teller:
    """Writes an `Activity` down as a run goes on, and hands every event on. Safe to share between threads."""

    def __init__(self, folder: Path, run: str, surface: str, on_event: Callable[[Event], None]) -> None:
        now = datetime.now(UTC)
        self._path = folder / "now.json"
        self._told = Activity(run=run, surface=surface, process=this_process(), begun=now, at=now)
        self._on_event = on_event
        self._lock = threading.Lock()
        self._write()

    def __call__(self, event: Event) -> None:
        with self._lock:
            _take(self._told, event, datetime.now(UTC))
            self._write()
        self._on_event(event)

    def close(self) -> None:
        with self._lock:
            self._told.ended, self._told.steps, self._told.tests = True, {}, {}
            self._write()

    def _write(self) -> None:
        """Whole or not at all. A disk that is full stops nothing: this is for looking at only."""
        draft = self._path.with_name(f".now.{os.getpid()}.tmp")
        with suppress(OSError):
            draft.write_text(self._told.model_dump_json())
            draft.replace(self._path)


def _take(told: Activity, event: Event, now: datetime) -> None:
    kind, text = event.get("event"), str(event.get("text", ""))[:TEXT_LIMIT]
    told.at = now
    if kind == "attempt":
        told.steps.pop(int(event["step"]), None)
        told.finished += 1
        told.note = ""
    elif kind in ("node", "progress"):
        doing = told.steps.setdefault(int(event["step"]), Doing(since=now, at=now))
        doing.persona, doing.node = str(event["persona"]), str(event.get("node", doing.node))
        doing.text, doing.at = text, now
    elif kind == "experiment":
        if event["result"] is not None:
            told.tests.pop(str(event["id"]), None)
            return
        doing = told.tests.setdefault(str(event["id"]), Doing(since=now, at=now))
        if doing.node != event["phase"]:
            doing.since = now
        doing.persona, doing.node, doing.text, doing.at = "", str(event["phase"]), text, now
    elif kind == "day":
        told.day = str(event["now"])
    elif kind == "note":
        told.note = text


def read_activity(folder: Path) -> Activity | None:
    """The activity of the run in a folder; None: it never told any, or an older version did otherwise."""
    try:
        return Activity.model_validate(json.loads((folder / "now.json").read_text()))
    except (OSError, ValueError, ValidationError):
        return None
