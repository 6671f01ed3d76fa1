"""A real platform with planted effects: everybody is exposed every day, and visits or not, in a DuckDB file.

Its days pass when told. Options: `effect`, `harm` (what the candidate multiplies visits and dislikes by),
`users`, `past` (days before the first), `lose` (share of the candidate's exposures that are lost), `fail`
(method -> how often it raises first), `crash` (methods with a bug), `answer` (method -> what it answers
instead), `turned_back` (days that its clock lost, or gained where it is negative). Every effect is a line of
`effects.jsonl`, so that a test can count. Several processes may open it.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from evorank.model.errors import PlatformError
from evorank.surfaces.assignment import HashAssigner
from evorank.surfaces.online import Metric, Online
from evorank.surfaces.platform import LiveTest, TestStatus
from evorank.surfaces.surface import Surface, open_surface, save_surface

METRICS = (
    Metric(name="visits", source="days", value="sum(visits)", grain="day", success=True, rows_expected=False),
    Metric(
        name="dislikes",
        source="days",
        value="sum(dislikes)",
        denominator="sum(visits)",
        grain="day",
        higher_is_better=False,
        margin=0.2,
        rows_expected=False,
    ),
)
START = datetime(2026, 1, 5, tzinfo=UTC)


def give_traffic(home: Path, options: dict[str, Any], **fields: Any) -> Surface:
    """The surface "tiny" of a home, served by the platform below; its tests last a week."""
    week: dict[str, Any] = {"horizon_days": 7, "pre_days": 7, "ramp": (0.5, 1.0), "wanted_lift": 0.2}
    online = Online(
        platform="planted:Planted",
        options=options,
        metrics=METRICS,
        holdback=0.0,
        minimum_rows=100,
        **week | fields,
    )
    spec = open_surface(home, "tiny").spec
    return save_surface(home, spec.model_copy(update={"online": online}))


class Planted:
    def __init__(self, surface: Any, load: Any) -> None:
        self.folder = Path(surface.directory)
        self.options: dict[str, Any] = dict(surface.spec.online.options)
        self.layer = surface.layer
        self.calls: dict[str, int] = {}
        with self._alone():
            begun = (self.folder / "traffic.json").exists()
        if not begun:
            self._save({"day": 0, "tests": {}, "keys": {}, "served": None})
            with self._database() as database:
                database.execute(
                    "CREATE TABLE exposures (user_id INT, timestamp TIMESTAMP, experiment_id TEXT, "
                    "variation_id TEXT)"
                )
                database.execute(
                    "CREATE TABLE days (user_id INT, timestamp TIMESTAMP, visits INT, dislikes INT)"
                )
            for _ in range(self.options.get("past", 28)):
                self.next_day()

    # -- the platform

    def now(self) -> datetime:
        if "now" in self.options.get("answer", {}):
            return self.options["answer"]["now"]
        return START + timedelta(days=self._state()["day"] - self.options.get("turned_back", 0))

    def start(self, test: LiveTest, key: str) -> None:
        def effect(state: dict[str, Any]) -> None:
            state["tests"][test.experiment_id] = {"test": test.model_dump(), "coverage": test.coverage}
            state["tests"][test.experiment_id]["state"] = "running"

        self._once("start", key, {"experiment": test.experiment_id}, effect)

    def ramp(self, experiment_id: str, coverage: float, key: str) -> None:
        def effect(state: dict[str, Any]) -> None:
            assert coverage > state["tests"][experiment_id]["coverage"]
            state["tests"][experiment_id]["coverage"] = coverage

        self._once("ramp", key, {"experiment": experiment_id, "coverage": coverage}, effect)

    def stop(self, experiment_id: str, key: str) -> None:
        def effect(state: dict[str, Any]) -> None:
            if experiment_id in state["tests"]:
                state["tests"][experiment_id] |= {"state": "stopped", "coverage": 0.0}

        self._once("stop", key, {"experiment": experiment_id}, effect)

    def launch(self, artifact: str, version: int, key: str) -> None:
        def effect(state: dict[str, Any]) -> None:
            state["served"] = version

        self._once("launch", key, {"version": version}, effect)

    def status(self, experiment_id: str) -> TestStatus:
        self._count("status")
        if "status" in self.options.get("crash", []):
            raise ZeroDivisionError("division by zero")
        if "status" in self.options.get("answer", {}):
            return self.options["answer"]["status"]
        found = self._state()["tests"].get(experiment_id, {"state": "unknown", "coverage": 0.0})
        return TestStatus(experiment_id=experiment_id, state=found["state"], coverage=found["coverage"])

    def running(self) -> list[TestStatus]:
        tests = self._state()["tests"]
        return [self.status(each) for each in tests if tests[each]["state"] == "running"]

    # -- where it is read

    exposures = "exposures"

    @contextmanager
    def connect(self) -> Iterator[duckdb.DuckDBPyConnection]:
        self._count("connect")
        with self._alone(), self._database(read_only=True) as database:
            yield database

    def estimates(self, experiment_id: str) -> Any:
        return self.options.get("answer", {}).get("estimates")

    def close(self) -> None:
        pass

    # -- its days

    def next_day(self) -> None:
        with self._alone():
            self._live()

    def _live(self) -> None:
        state = self._state()
        day, users = state["day"], np.arange(self.options.get("users", 4000))
        date = (START + timedelta(days=day)).replace(tzinfo=None)
        generator = np.random.default_rng([17, day])
        coin, second = generator.random(len(users)), generator.random(len(users))
        taste = np.random.default_rng(5).uniform(0.2, 0.7, len(users))
        chance, dislike = taste.copy(), np.full(len(users), 0.1)
        exposed = []
        for identifier, each in state["tests"].items():
            if each["state"] != "running":
                continue
            arms = HashAssigner().assign(LiveTest(**each["test"]).allocation(each["coverage"]), users)
            chance[arms == 1] *= self.options.get("effect", 1.0)
            dislike[arms == 1] *= self.options.get("harm", 1.0)
            lost = (arms == 1) & (generator.random(len(users)) < self.options.get("lose", 0.0))
            exposed.append((identifier, arms, (arms >= 0) & ~lost))
        here = coin < chance
        rows = {
            "user_id": users[here],
            "timestamp": np.full(here.sum(), date, "datetime64[us]"),
            "visits": np.ones(here.sum(), np.int32),
            "dislikes": (second[here] < dislike[here]).astype(np.int32),
        }
        with self._database() as database:
            database.execute("DELETE FROM days WHERE timestamp = ?", [date])
            database.execute("DELETE FROM exposures WHERE timestamp = ?", [date])
            database.register("rows", rows)
            database.execute("INSERT INTO days SELECT user_id, timestamp, visits, dislikes FROM rows")
            for identifier, arms, take in exposed:
                reached = {"user_id": users[take], "arm": arms[take].astype(np.int32)}
                database.register("reached", reached)
                database.execute(
                    "INSERT INTO exposures SELECT user_id, ?, ?, CAST(arm AS TEXT) FROM reached",
                    [date, identifier],
                )
                database.unregister("reached")
        self._save(state | {"day": day + 1})

    # -- how it is kept

    def _once(self, method: str, key: str, said: dict[str, Any], effect: Any) -> None:
        self._count(method)
        with self._alone():
            state = self._state()
            if key not in state["keys"]:
                effect(state)
                state["keys"][key] = method
                self._save(state)
                with (self.folder / "effects.jsonl").open("a") as lines:
                    lines.write(json.dumps({"method": method, "key": key} | said) + "\n")

    def _count(self, method: str) -> int:
        number = self.calls[method] = self.calls.get(method, 0) + 1
        if number <= self.options.get("fail", {}).get(method, 0):
            raise PlatformError(f"`{method}` timed out after 10 seconds. Is the platform up?")
        return number

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "planted.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _state(self) -> dict[str, Any]:
        return json.loads((self.folder / "traffic.json").read_text())

    def _save(self, state: dict[str, Any]) -> None:
        draft = self.folder / "traffic.json.tmp"
        draft.write_text(json.dumps(state))
        draft.replace(self.folder / "traffic.json")

    @contextmanager
    def _database(self, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        database = duckdb.connect(str(self.folder / "traffic.duckdb"), read_only=read_only)
        try:
            yield database
        finally:
            database.close()
