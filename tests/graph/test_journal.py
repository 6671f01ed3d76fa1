from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from evorank.graph import journal as journal_module
from evorank.graph import store as store_module
from evorank.graph.journal import Journal, thread_id
from evorank.model.errors import ConfigurationError, JournalError


def test_what_is_appended_is_read_back_whole_and_in_order_by_a_new_reader(open_journal, attempt):
    written = [
        attempt(step, phi={"a": {"lr": 0.1, "list": [1, None, "é"]}}, findings=[{"pointer": "/a"}])
        for step in range(5)
    ]
    writer = open_journal()
    for record in written:
        assert writer.append(record)
    writer.close()
    assert open_journal().attempts() == written
    assert open_journal().get(written[3].id) == written[3]
    assert open_journal().get("nothing") is None


def test_an_id_is_recorded_once_and_the_first_record_stays(open_journal, attempt):
    journal = open_journal()
    assert journal.append(attempt(1, outcome="better"))
    assert not journal.append(attempt(1, outcome="failed"))
    assert not open_journal().append(attempt(1, outcome="failed"))
    assert [record.outcome for record in open_journal().attempts()] == ["better"]


def test_attempts_are_filtered_by_surface_run_and_watermark(open_journal, attempt):
    journal = open_journal()
    assert journal.watermark() == ""
    journal.append(attempt(0, run="one", surface="home"))
    mark = journal.watermark()
    journal.append(attempt(0, run="two", surface="feed"))
    assert [record.run for record in journal.attempts(surface="feed")] == ["two"]
    assert [record.run for record in journal.attempts(run="one")] == ["one"]
    assert [record.run for record in journal.attempts(until=mark)] == ["one"]
    assert journal.attempts(until="") == []
    assert [record.run for record in open_journal().attempts(until=mark)] == ["one"]
    assert journal.before(thread_id("two", 0)) == mark


def test_a_reader_reads_from_disk_only_what_is_new(open_journal, attempt, monkeypatch):
    writer, reader = open_journal(), open_journal()
    for step in range(20):
        writer.append(attempt(step))
    parsed: list[str] = []
    whole = Journal._parse

    def counted(self: Journal, kind: Any, thread: str, checkpoint: Any) -> Any:
        parsed.append(thread)
        return whole(self, kind, thread, checkpoint)

    monkeypatch.setattr(Journal, "_parse", counted)
    assert len(reader.attempts()) == 20
    writer.append(attempt(20))
    assert len(reader.attempts()) == 21
    assert len(reader.attempts()) == 21
    assert len(parsed) == 21


def test_a_clock_set_back_hides_no_record(open_journal, attempt, monkeypatch):
    writer, reader = open_journal(), open_journal()
    writer.append(attempt(0))
    assert len(reader.attempts()) == 1
    early = dict(journal_module.empty_checkpoint(), id="1e000000-0000-6000-8000-000000000000")
    monkeypatch.setattr(journal_module, "empty_checkpoint", lambda: dict(early))
    for step in (1, 2, 3):
        writer.append(attempt(step))
    assert [record.step for record in reader.attempts()] == [0, 1, 2, 3]


def test_the_journal_is_checkpointed_state_that_any_langgraph_graph_can_read(tmp_path, attempt):
    class State(TypedDict):
        record: dict[str, Any]

    record = attempt(7, surface="feed")
    Journal.open(tmp_path).append(record)
    with SqliteSaver.from_conn_string(str(tmp_path / "journal.sqlite")) as saver:
        reading = StateGraph(State)
        reading.add_node("look", lambda state: {})
        reading.add_edge(START, "look")
        graph = reading.compile(checkpointer=saver)
        snapshot = graph.get_state({"configurable": {"thread_id": record.id}})
        assert snapshot.values["record"] == record.model_dump(mode="json")
        found = list(saver.list(None, filter={"graph": "offline", "surface": "feed", "run": "r"}))
        assert [entry.config["configurable"]["thread_id"] for entry in found] == [thread_id("r", 7)]


def test_processes_appending_at_once_lose_nothing_and_write_shared_steps_once(tmp_path, url, open_journal):
    processes, count = 4, 15
    script = str(Path(__file__).with_name("appender.py"))
    children = [
        subprocess.Popen(
            [sys.executable, script, str(tmp_path), f"p{number}", str(count), *filter(None, [url])]
        )
        for number in range(processes)
    ]
    watching = open_journal()
    seen: list[str] = []
    while any(child.poll() is None for child in children):
        now = [record.id for record in watching.attempts()]
        assert now[: len(seen)] == seen, "a record appeared before one already read"
        seen = now
        time.sleep(0.005)
    assert [child.wait() for child in children] == [0] * processes
    runs = {f"p{number}" for number in range(processes)} | {"shared"}
    wanted = {thread_id(run, step) for run in runs for step in range(count)}
    assert {record.id for record in watching.attempts()} == wanted
    assert watching.attempts() == open_journal().attempts()


def test_threads_share_one_journal(open_journal, attempt):
    journal = open_journal()

    def work(run: str) -> None:
        for step in range(10):
            journal.append(attempt(step, run=run))
            assert len(journal.attempts(run=run)) == step + 1

    threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.attempts()) == 40


def test_a_corrupt_file_is_named_and_left_as_it_is(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"these are notes, not a database" * 200)
    before = path.read_bytes()
    with pytest.raises(JournalError, match=r"journal\.sqlite: the journal is corrupt .* move it away"):
        Journal.open(tmp_path)
    assert path.read_bytes() == before


def test_damage_in_the_middle_is_told_when_it_is_read(tmp_path, attempt):
    journal = Journal.open(tmp_path)
    for step in range(50):
        journal.append(attempt(step, hypothesis="x" * 1500))
    journal.close()
    path = tmp_path / "journal.sqlite"
    damaged = bytearray(path.read_bytes())
    damaged[8192:40960] = os.urandom(40960 - 8192)
    path.write_bytes(damaged)
    with pytest.raises(JournalError, match=r"journal\.sqlite: the journal is corrupt"):
        Journal.open(tmp_path).attempts()


def test_a_record_of_a_newer_version_is_refused_by_name(tmp_path, attempt):
    journal = Journal.open(tmp_path)
    journal.append(attempt(0))
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        kind, blob = connection.execute("SELECT type, checkpoint FROM checkpoints").fetchone()
        saver = SqliteSaver(connection)
        checkpoint = saver.serde.loads_typed((kind, blob))
        checkpoint["channel_values"]["record"]["from_the_future"] = 1
        connection.execute("UPDATE checkpoints SET checkpoint = ?", (saver.serde.dumps_typed(checkpoint)[1],))
    with pytest.raises(JournalError, match=f"thread {thread_id('r', 0)} .*newer evorank"):
        Journal.open(tmp_path).attempts()


def test_a_full_disk_is_told_and_what_was_recorded_stays(tmp_path, attempt):
    journal = Journal.open(tmp_path)
    journal.append(attempt(0))
    with journal.store.reading() as access:
        pages = access.execute("PRAGMA page_count")[0][0]
        access.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(JournalError, match=r"the disk is full; free some space"):
        journal.append(attempt(1, hypothesis="x" * 20_000))
    with journal.store.reading() as access:
        access.execute("PRAGMA max_page_count = 100000")
    assert journal.append(attempt(2))
    assert [record.step for record in Journal.open(tmp_path).attempts()] == [0, 2]


def test_a_writer_that_holds_the_lock_too_long_is_told(tmp_path, attempt, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.1)
    journal = Journal.open(tmp_path)
    other = sqlite3.connect(tmp_path / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalError, match="locked by another process"):
        journal.append(attempt(0))
    other.execute("ROLLBACK")
    assert journal.append(attempt(0))


def test_reading_where_there_is_no_journal_says_how_to_get_one_and_makes_no_file(tmp_path):
    with pytest.raises(ConfigurationError, match=r"holds no journal yet\. Run first"):
        Journal.open(tmp_path, create=False)
    assert not list(tmp_path.iterdir())


def test_a_path_that_cannot_be_a_journal_is_named(tmp_path):
    (tmp_path / "home").write_text("a file, not a folder")
    with pytest.raises(JournalError, match="cannot be opened for writing"):
        Journal.open(tmp_path / "home")
