"""kill -9 at any point of a live test's life does nothing that its record or its traffic would show."""

from __future__ import annotations

import json
import operator
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from langgraph.graph import END, StateGraph
from langgraph.graph import START as BEGIN
from planted import START, Planted, give_traffic
from ticker import DELTA

from evorank.graph.context import Context, close_sessions
from evorank.graph.journal import Journal
from evorank.graph.operations import Operations, open_operations
from evorank.graph.schedule import Schedule
from evorank.graph.store import Store
from evorank.graph.tick import propose, tick
from evorank.model.errors import JournalError

HERE = Path(__file__).parent
SAVER = "evorank.graph.store:CheckedSaver"
SCHEDULE = "evorank.graph.schedule:Schedule"
OPERATIONS = "evorank.graph.operations:Operations"
KILLED = -9


@pytest.fixture(scope="module")
def surface(template, tmp_path_factory):
    """A home whose surface has traffic that likes every candidate, for tests of a week."""
    home = tmp_path_factory.mktemp("crash") / "home"
    shutil.copytree(template, home)
    Planted(give_traffic(home, {"effect": 1.3, "users": 4000, "past": 14}), None)  # lives its past
    return home


@pytest.fixture
def home(surface, tmp_path):
    shutil.copytree(surface, tmp_path / "home")
    return tmp_path / "home"


def command(home: Path, url: str | None, pool: str, *places: str) -> list[str]:
    until = START + timedelta(days=14 + 8)
    return [sys.executable, str(HERE / "ticker.py"), str(home), url or "-", pool, until.isoformat(), *places]


@pytest.fixture(scope="module")
def lives(lent):
    """How the processes ended that were killed at these places, and the last one, which was not."""

    def live(home: Path, *places: str, url: str | None = None) -> list[int]:
        done = subprocess.run(
            command(home, url, lent, *places, ""), capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
        ended = [int(line.split()[0]) for line in done.stdout.splitlines()]
        assert ended[-1] == 0, done.stdout + done.stderr
        return ended[:-1]

    return live


def told(home: Path, url: str | None = None) -> dict[str, Any]:
    """What the only experiment's record says: to 8 digits, since DuckDB adds up in any order, and without
    what it cost, which a crash does raise."""
    journal = Journal.open(home, url=url)
    (record,) = (each.model_dump(mode="json") for each in journal.experiments("tiny"))
    journal.close()
    comparison = record["validation"].pop("comparison")
    text = json.dumps(record | {"usage": None, "verdict": comparison["verdict"]})
    found: dict[str, Any] = json.loads(text, parse_float=lambda digits: float(f"{float(digits):.8g}"))
    return found


def effects(home: Path) -> list[tuple[str, str]]:
    lines = (home / "surfaces" / "tiny" / "effects.jsonl").read_text().splitlines()
    return [(each["method"], each["key"]) for each in map(json.loads, lines)]


@pytest.fixture(scope="module")
def undisturbed(surface, lives, tmp_path_factory):
    """The record and the effects of the same life without a crash."""
    home = tmp_path_factory.mktemp("undisturbed") / "home"
    shutil.copytree(surface, home)
    assert lives(home) == []
    record = told(home)
    assert record["result"] == "launched", record["reason"]
    assert [method for method, _ in effects(home)] == ["launch", "start", "ramp", "stop", "launch"]
    return record, effects(home)


def is_whole(home: Path, undisturbed, url: str | None = None) -> None:
    """Ended once, each effect once, the history of its states a straight line, traffic back to production."""
    record, done = undisturbed
    assert told(home, url) == record
    assert effects(home) == done
    traffic = json.loads((home / "surfaces" / "tiny" / "traffic.json").read_text())
    assert [each["state"] for each in traffic["tests"].values()] == ["stopped"]
    assert traffic["served"] == 1
    journal = Journal.open(home, url=url)
    with journal.store.reading() as access:
        ((states, parents),) = access.execute(
            "SELECT count(*), count(DISTINCT parent_checkpoint_id) FROM checkpoints WHERE thread_id = ?",
            record["id"],
        )
    assert states == parents + 1
    schedule = Schedule(journal.store, "tiny")
    assert [each.experiment for each in schedule.versions()] == [None, record["id"]]
    assert schedule.entries() == []
    journal.close()
    assert [folder.name for folder in (home / "artifacts").iterdir() if folder.name.startswith(".")] == []
    assert len(list((home / "artifacts").iterdir())) == 2


@pytest.mark.heavy
def test_killed_at_every_checkpoint_it_ends_as_if_nothing_had_been(home, lives, undisturbed):
    """Each process gets one state further than the one before it."""
    ended = lives(home, *[f"{SAVER}.put before 2", f"{SAVER}.put after 1"] * 12)
    assert ended.count(KILLED) >= 12  # four phases and seven days; the last processes find nothing to do
    assert set(ended) <= {KILLED, 0}
    is_whole(home, undisturbed)


@pytest.mark.heavy
def test_killed_before_and_after_every_effect_each_happens_once(home, lives, undisturbed):
    places = [
        f"planted:Planted.{method} {when} {number}"
        for method, number in [("launch", 1), ("start", 1), ("ramp", 1), ("stop", 1), ("launch", 2)]
        for when in ("before", "after")
    ]
    assert lives(home, *places) == [KILLED] * len(places)
    is_whole(home, undisturbed)


@pytest.mark.heavy
def test_killed_around_all_that_is_written_elsewhere_it_is_written_once(home, lives, undisturbed):
    """The queue, the production's own model, the two artifacts, pending writes, versions, the row's end."""
    places = [
        f"{SCHEDULE}.add before 1",
        f"{SCHEDULE}.add after 1",
        f"{OPERATIONS}._verify before 1",
        f"{OPERATIONS}._verify after 1",
        f"{SCHEDULE}.launch before 1",
        f"{SCHEDULE}.launch after 1",
        f"{SAVER}.put_writes before 1",
        f"{SAVER}.put_writes after 2",
        f"{SCHEDULE}.set before 1",
        f"{OPERATIONS}._verify after 1",
        f"{OPERATIONS}.train after 2",
        f"{SCHEDULE}.set after 1",
        "planted:Planted.next_day before 1",
        "planted:Planted.next_day after 1",
        f"{SCHEDULE}.launch_over before 1",
        f"{SCHEDULE}.launch_over after 1",
    ]
    assert lives(home, *places) == [KILLED] * len(places)
    is_whole(home, undisturbed)


@pytest.mark.heavy
def test_killed_between_the_end_and_the_closing_of_its_row_it_is_closed_by_the_next_tick(
    home, lives, undisturbed
):
    assert lives(home, "evorank.graph.journal:Journal.append after 1") == [KILLED]
    is_whole(home, undisturbed)


@pytest.mark.heavy
def test_killed_in_every_phase_and_around_every_effect_it_is_whole_on_a_server_too(
    home, lives, database, undisturbed
):
    places = [
        f"{SCHEDULE}.add before 1",
        f"{SCHEDULE}.add after 1",
        f"{SCHEDULE}.launch after 1",
        "planted:Planted.launch after 1",
        *[f"{SAVER}.put before 2", f"{SAVER}.put after 1"] * 2,  # proposed, validated
        f"{OPERATIONS}.train after 2",
        f"{SAVER}.put_writes after 1",
        f"{SAVER}.put after 1",
        *(f"planted:Planted.{name} {when} 1" for name in ("start", "ramp") for when in ("before", "after")),
        f"{SAVER}.put after 1",
        *(f"planted:Planted.stop {when} 1" for when in ("before", "after")),
        *(f"{SCHEDULE}.launch_over {when} 1" for when in ("before", "after")),
        *(f"planted:Planted.launch {when} 2" for when in ("before", "after")),
        "evorank.graph.journal:Journal.append after 1",
    ]
    assert lives(home, *places, url=database) == [KILLED] * len(places)
    is_whole(home, undisturbed, database)
    assert not (home / "journal.sqlite").exists()


@pytest.mark.heavy
def test_two_processes_at_the_same_time_live_one_life(home, lives, lent, url, undisturbed):
    """Both tick towards the same day from the beginning on: whoever finds a lease taken leaves it alone."""
    assert lives(home, f"{SCHEDULE}.add after 1", url=url) == [KILLED]
    both = [
        subprocess.Popen(command(home, url, lent, ""), stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [line.split()[0] for line in said] == ["0", "0"]
    is_whole(home, undisturbed, url)


def test_a_lease_is_renewed_for_as_long_as_its_process_works(home, pool, monkeypatch):
    context = Context(surface="tiny", home=str(home), seeds=2, selection="fifo", pool=pool)
    monkeypatch.setattr("evorank.graph.tick.LEASE_SECONDS", 0.6)
    tried: list[bool] = []
    real = Operations.train

    def slow(self: Operations, *given: Any) -> Path:
        time.sleep(0.9)
        other = Store.open(home)
        if waiting := Schedule(other, "tiny").entries():
            with Schedule(other, "tiny").lease(waiting[0].experiment, "another") as mine:
                tried.append(mine)
        other.close()
        return real(self, *given)

    try:
        propose(open_operations(context), DELTA, why="a smaller step", by="ada")
        open_operations(context).prepare(lambda _: None)
        monkeypatch.setattr(Operations, "train", slow)
        assert tick(context).errors == []
    finally:
        close_sessions()
    assert len(tried) >= 2  # both arms, and what serves
    assert not any(tried)


class Count(TypedDict):
    steps: Annotated[int, operator.add]


def test_a_process_that_stood_still_while_another_took_over_can_write_nothing_more(open_store):
    """The other one runs the step and what follows while the first is in it."""
    done: list[str] = []

    def compiled(name: str, inside: Callable[[], None]) -> Any:
        def step(state: Count) -> Count:
            inside()
            done.append(name)
            return {"steps": 1}

        graph = StateGraph(Count)
        graph.add_node("first", lambda state: {"steps": 1})
        graph.add_node("second", step)
        graph.add_edge(BEGIN, "first")
        graph.add_edge("first", "second")
        graph.add_edge("second", END)
        return graph.compile(checkpointer=open_store().saver)

    config: Any = {"configurable": {"thread_id": "t"}}
    quick = compiled("quick", lambda: None)

    def take_over() -> None:
        thread = threading.Thread(target=lambda: quick.invoke(None, config, durability="sync"))
        thread.start()
        thread.join()

    slow = compiled("slow", take_over)
    with pytest.raises(JournalError, match="another process has moved thread t on"):
        slow.invoke({"steps": 0}, config, durability="sync")
    assert done == ["quick", "slow"]
    assert quick.get_state(config).values == {"steps": 2}
