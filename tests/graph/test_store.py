from __future__ import annotations

import signal
import sqlite3
import sys
import traceback
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.sqlite import SqliteSaver
from trial import go_on

from evorank.graph import store as store_module
from evorank.graph.context import Context
from evorank.graph.journal import Journal
from evorank.graph.schedule import Schedule
from evorank.graph.settings import Settings
from evorank.graph.store import Access, Store
from evorank.model.errors import ConfigurationError, JournalError

SECRET = "s3cr3t-w0rd"


def clocks(store: Store) -> list[tuple[Any, ...]]:
    with store.reading() as access:
        return access.execute("SELECT surface FROM evorank_clocks ORDER BY surface")


def note(store: Store, surface: str) -> None:
    with store.transaction() as access:
        access.execute("INSERT INTO evorank_clocks (surface, now) VALUES (?, ?)", surface, "now")


def _change_my_mind(access: Access) -> None:
    access.execute("INSERT INTO evorank_clocks (surface, now) VALUES ('one', 'now')")
    raise ValueError("changed my mind")


def _fill_the_disk(access: Access) -> None:
    access.execute("INSERT INTO evorank_clocks (surface, now) VALUES ('more', 'now')")
    access.execute("DO $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$")


def test_a_transaction_is_whole_or_not_at_all(open_store):
    store, other = open_store(), open_store()
    with pytest.raises(ValueError, match="changed my mind"), store.transaction() as access:
        _change_my_mind(access)
    assert clocks(store) == []
    note(store, "two")
    assert clocks(other) == [("two",)]


def test_the_mark_is_another_after_somebody_wrote_and_stays_while_people_read(open_store):
    store, other = open_store(), open_store()
    before = store.mark()
    clocks(other)
    assert store.mark() == before
    note(other, "one")
    assert store.mark() != before
    assert store.mark() == store.mark()
    before = store.mark()
    note(store, "two")
    assert store.mark() != before


def test_a_process_killed_inside_a_transaction_leaves_nothing_of_it_and_no_lock(open_store, another):
    process = another("half")
    assert process.answer() == "inside"
    process.process.send_signal(signal.SIGKILL)
    process.process.wait()
    store = open_store()
    note(store, "after")
    assert clocks(store) == [("after",)]


def test_processes_may_open_a_new_store_at_once(open_store, another):
    processes = [another("add", "home", f"p{number}-", 3) for number in range(3)]
    for process in processes:
        process.go()
    assert [process.hear() for process in processes] == ["done"] * 3
    entries = Schedule(open_store(), "home").entries()
    assert len(entries) == 12
    assert [entry.position for entry in entries] == list(range(1, 13))


def test_a_writer_that_holds_the_lock_too_long_is_told(open_store, monkeypatch):
    monkeypatch.setattr(store_module, "BUSY_SECONDS", 0.2)
    store, other = open_store(), open_store()
    with store.transaction():
        assert clocks(other) == []  # who reads does not wait
        with pytest.raises(JournalError, match="locked by another process"):
            note(other, "one")
    note(other, "two")
    assert clocks(store) == [("two",)]


def test_a_file_of_an_earlier_version_keeps_its_attempts_and_gets_what_is_new(tmp_path, attempt):
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:  # as that version wrote it
        saver = SqliteSaver(connection)
        saver.setup()
        connection.execute("CREATE INDEX evorank_order ON checkpoints (checkpoint_id)")
        for step in range(3):
            record = attempt(step)
            checkpoint = empty_checkpoint()
            checkpoint["channel_values"] = {"record": record.model_dump(mode="json")}
            checkpoint["channel_versions"] = {"record": 1}
            config: Any = {"configurable": {"thread_id": record.id, "checkpoint_ns": ""}}
            metadata: Any = {"source": "update", "step": 0, "kind": "attempt", "surface": record.surface}
            saver.put(config, checkpoint, metadata, {"record": 1})
    connection.close()
    journal = Journal.open(tmp_path, create=False)
    assert journal.attempts() == [attempt(step) for step in range(3)]
    assert journal.append(attempt(3))
    assert Schedule(journal.store, "home").add("e", "f", {"production": "p"})
    with sqlite3.connect(tmp_path / "journal.sqlite") as connection:
        indexes = {
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='index'")
        }
    connection.close()
    assert {"evorank_kind", "evorank_threads"} <= indexes
    assert "evorank_order" not in indexes


def test_a_server_of_an_earlier_version_gets_what_is_new_and_keeps_the_rest(database, tmp_path, attempt):
    journal = Journal.open(tmp_path, url=database)
    journal.append(attempt(0))
    with journal.store.transaction() as access:
        access.execute("DROP TABLE evorank_clocks")
    journal.close()
    journal = Journal.open(tmp_path, url=database)
    assert journal.attempts() == [attempt(0)]
    assert clocks(journal.store) == []
    journal.close()


def test_what_fails_below_a_graph_is_a_journal_error_too(tmp_path):
    store = Store.open(tmp_path)
    go_on(store, "e1")
    saver: Any = store.saver
    pages = saver.conn.execute("PRAGMA page_count").fetchone()[0]
    saver.conn.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="the disk is full"):
        [go_on(store, f"more{number}") for number in range(20)]
    store.close()
    assert next(each.id for each in Journal.open(tmp_path).experiments()) == "e1"


def test_a_full_disk_of_a_server_is_told_and_what_was_recorded_stays(database, tmp_path):
    store = Store.open(tmp_path, database)
    note(store, "before")
    with pytest.raises(JournalError, match="the server's disk is full"), store.transaction() as access:
        _fill_the_disk(access)
    assert clocks(store) == [("before",)]
    store.close()


def test_a_broken_connection_is_replaced(database, tmp_path):
    import psycopg

    store = Store.open(tmp_path, database)
    note(store, "before")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    note(store, "after")
    assert clocks(store) == [("after",), ("before",)]
    store.close()


def test_who_may_only_read_and_write_rows_can_work_in_a_prepared_database(database, tmp_path, attempt):
    import psycopg

    with pytest.raises(ConfigurationError, match=r"postgresql://.* holds no journal yet\. Run first"):
        Journal.open(tmp_path, create=False, url=database)
    Store.open(tmp_path, database).close()
    role = "worker_" + database.split("/")[3].split("?")[0]
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN")
        connection.execute(f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}")
    journal = Journal.open(tmp_path, url=database.replace("postgres:@", f"{role}:@"))
    assert journal.append(attempt(0))
    with (
        pytest.raises(JournalError, match="this user may not do that"),
        journal.store.transaction() as access,
    ):
        access.execute("DROP TABLE evorank_schedule")
    journal.close()


@pytest.mark.parametrize(
    ("url", "error", "says"),
    [
        (
            "mysql://me:SECRET@host/db",
            ConfigurationError,
            "must be postgresql://USER@HOST/DATABASE, got 'mysql'",
        ),
        ("/some/SECRET/path", ConfigurationError, "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://me:SECRET@127.0.0.1:port/db", JournalError, "me@127.0.0.1:port/db: the server"),
        ("postgresql://me:SECRET@[::1/db", ConfigurationError, "not a PostgreSQL URL that can be read"),
        ("postgresql://me:SECRET@127.0.0.1:1/db", JournalError, "postgresql://me@127.0.0.1:1/db: the server"),
        ("postgresql://127.0.0.1:1/db?password=SECRET", JournalError, "the server cannot be reached"),
    ],
)
def test_a_wrong_url_is_told_without_its_password(tmp_path, url, error, says):
    pytest.importorskip("langgraph.checkpoint.postgres", reason="the extra `postgres` is not installed")
    with pytest.raises(error, match=says) as caught:
        Store.open(tmp_path, url.replace("SECRET", SECRET))
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_an_error_never_quotes_the_password(tmp_path, database, caplog):
    """The test server trusts everybody, so this password is right; what is asked for is not."""
    url = database.replace("postgres:@", f"postgres:{SECRET}@")
    store = Store.open(tmp_path, url)
    assert SECRET not in repr(store) + store.name + repr(vars(store))
    with pytest.raises(JournalError) as caught, store.transaction() as access:
        access.execute(f"SELECT '{SECRET}'::integer")
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    store.close()
    with pytest.raises(JournalError) as refused:
        Store.open(tmp_path, url.replace("/t", "/no"))
    assert SECRET not in "".join(traceback.format_exception(refused.value)) + caplog.text


def test_contexts_and_settings_keep_the_password_to_themselves():
    url = f"postgresql://me:{SECRET}@host/db"
    context, settings = Context(store=url), Settings(store=url)
    assert SECRET not in repr(context) + repr(settings) + context.model_dump_json()
    assert Context(**settings.context()).store == url


def test_a_missing_extra_is_told_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "evorank.graph.postgres", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigurationError, match=r'pip install "evorank\[postgres\]"'):
        Store.open(tmp_path, "postgresql://me@host/db")
