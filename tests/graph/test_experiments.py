from __future__ import annotations

import pytest
from trial import go_on

from evorank.graph.journal import Journal
from evorank.model.errors import JournalError


def test_an_experiment_is_read_as_it_is_now_while_processes_move_it(open_journal, another):
    journal = open_journal()
    assert journal.experiments() == []
    assert another("trial", "e1").answer() == "live"
    assert [(each.id, each.phase, each.readings) for each in journal.experiments()] == [("e1", "live", [])]
    assert another("trial", "e1", "another day").answer() == "live"
    assert another("trial", "e1", "launched").answer() == ""
    done = journal.experiments()
    assert [(each.phase, each.result, len(each.readings)) for each in done] == [("completed", "launched", 2)]
    assert open_journal().experiments() == done


def test_only_threads_that_moved_are_read_again(open_journal, open_store, monkeypatch):
    journal, store = open_journal(), open_store()
    for number in range(5):
        go_on(store, f"e{number}", surface="home" if number else "feed")
    read: list[str] = []
    whole = Journal._newest

    def counted(self: Journal, access, thread, checkpoint_id):
        read.append(thread)
        return whole(self, access, thread, checkpoint_id)

    monkeypatch.setattr(Journal, "_newest", counted)
    assert [each.id for each in journal.experiments()] == [f"e{number}" for number in range(5)]
    assert [each.id for each in journal.experiments("feed")] == ["e0"]
    assert len(read) == 5
    go_on(store, "e3", "no_launch")
    assert [each.result for each in journal.experiments("home")] == [None, None, "no_launch", None]
    assert read[5:] == ["e3"]


def test_a_machine_whose_clock_is_ahead_hides_no_experiment(open_journal, open_store, monkeypatch):
    """Checkpoint ids are times: what an honest clock writes afterwards has a smaller one."""
    import langgraph.checkpoint.base.id as ids

    journal, store = open_journal(), open_store()
    true = ids.time.time_ns
    with monkeypatch.context() as ahead:
        ahead.setattr(ids.time, "time_ns", lambda: true() + 3600 * 10**9)
        go_on(store, "ahead")
    assert [each.id for each in journal.experiments()] == ["ahead"]
    monkeypatch.setattr(ids, "_last_v6_timestamp", None)  # as another process has it
    go_on(store, "honest")
    assert {each.id for each in journal.experiments()} == {"ahead", "honest"}
    with pytest.raises(JournalError, match=r"clock of this machine is behind .* thread ahead last"):
        go_on(store, "ahead", "launched")
    assert all(each.result is None for each in open_journal().experiments())


def test_attempts_and_experiments_do_not_hide_each_other(open_journal, attempt):
    journal = open_journal()
    journal.append(attempt(0))
    go_on(journal.store, "e1")
    journal.append(attempt(1))
    go_on(journal.store, "e1", "another day")
    reader = open_journal()
    assert [record.step for record in reader.attempts()] == [0, 1]
    assert [len(each.readings) for each in reader.experiments()] == [1]
    journal.append(attempt(2))
    assert [record.step for record in reader.attempts()] == [0, 1, 2]


def test_an_experiment_of_a_newer_version_is_refused_by_name(open_journal):
    journal = open_journal()
    go_on(journal.store, "e1")
    found = journal.store.saver.get_tuple({"configurable": {"thread_id": "e1"}})
    later = {**found.checkpoint, "id": found.checkpoint["id"] + "0"}
    later["channel_values"]["record"]["from_the_future"] = 1
    later["channel_versions"]["record"] = "99"
    journal.store.saver.put(found.config, later, found.metadata, {"record": "99"})
    with pytest.raises(JournalError, match=r"thread e1 does not hold an experiment .*newer evorank"):
        journal.experiments()


def test_a_thread_that_has_no_record_yet_is_left_out(open_journal):
    journal = open_journal()
    go_on(journal.store, "e1")
    found = journal.store.saver.get_tuple({"configurable": {"thread_id": "e1"}})
    empty = {**found.checkpoint, "channel_values": {}, "channel_versions": {}}
    journal.store.saver.put(
        {"configurable": {"thread_id": "e2", "checkpoint_ns": ""}}, empty, found.metadata, {}
    )
    assert [each.id for each in journal.experiments()] == ["e1"]
