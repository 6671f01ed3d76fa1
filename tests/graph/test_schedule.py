from __future__ import annotations

import os
import threading
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trial import go_on

from evorank.graph.schedule import Schedule
from evorank.graph.store import Store
from evorank.model.errors import ConfigurationError, JournalError

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def add(schedule: Schedule, *identifiers: str, production: str = "p") -> None:
    for identifier in identifiers:
        assert schedule.add(identifier, f"of {identifier}", {"production": production})


def close(schedule: Schedule, identifier: str, result: str) -> None:
    """End an experiment as a tick does: its thread says how, its row that."""
    go_on(schedule.store, identifier)
    go_on(schedule.store, identifier, result)
    with schedule.lease(identifier, "test") as mine:
        assert mine
        schedule.set(identifier, phase="completed", closed=True)


def order(schedule: Schedule) -> list[str]:
    return [entry.experiment for entry in schedule.entries()]


# -- the queue


def test_the_queue_is_first_in_first_out_until_somebody_moves_one(open_schedule):
    schedule = open_schedule()
    add(schedule, "a", "b", "c")
    add(open_schedule("feed"), "elsewhere")
    assert order(schedule) == ["a", "b", "c"]
    schedule.move("c", 1)
    assert order(open_schedule()) == ["c", "a", "b"]
    with schedule.lease("c", "me"):
        schedule.set("c", phase="validated")
    add(schedule, "d")
    assert [(each.experiment, each.position) for each in schedule.entries()] == [
        ("c", 0),
        ("a", 1),
        ("b", 2),
        ("d", 3),
    ]
    schedule.move("d", 2)
    assert order(schedule) == ["c", "a", "d", "b"]
    with pytest.raises(ConfigurationError, match=r"`position` must lie in 1\.\.3, got 4"):
        schedule.move("a", 4)
    with pytest.raises(ConfigurationError, match="experiment c is no longer in the queue"):
        schedule.move("c", 1)
    with pytest.raises(ConfigurationError, match="surface `home` has no experiment elsewhere"):
        schedule.move("elsewhere", 1)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), max_size=6))
def test_moves_permute_the_queue_as_they_would_a_list(tmp_path_factory, moves):
    store = Store.open(tmp_path_factory.mktemp("moves"))
    schedule, expected = Schedule(store, "home"), list("abcde")
    add(schedule, *expected)
    for number, position in moves:
        identifier = "abcde"[number]
        schedule.move(identifier, position)
        expected.remove(identifier)
        expected.insert(position - 1, identifier)
    assert order(schedule) == expected
    store.close()


def test_what_is_open_or_was_tested_is_refused_by_the_name_of_the_earlier_one(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    assert not schedule.add("e1", "of e1", {"production": "p"})  # asked twice: it is there
    with pytest.raises(
        ConfigurationError, match=r"in experiment e1 of surface `home` .* which is still open"
    ):
        schedule.add("e2", "of e1", {"production": "p"})
    assert schedule.add("other", "of e1", {"production": "another"})
    assert open_schedule("feed").add("feed", "of e1", {"production": "p"})
    close(schedule, "e1", "no_launch")
    for again in ("e1", "e2"):
        with pytest.raises(ConfigurationError, match=r"experiment e1 .* which ended: no_launch"):
            schedule.add(again, "of e1", {"production": "p"})
    assert schedule.add("e3", "of e1", {"production": "p"}, again=True)
    assert not schedule.add("e3", "of e1", {"production": "p"}, again=True)
    assert order(schedule) == ["other", "e3"]


def test_one_that_was_withdrawn_may_be_proposed_anew(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    close(schedule, "e1", "withdrawn")
    assert schedule.add("e2", "of e1", {"production": "p"})
    assert [entry.experiment for entry in schedule.entries(open_only=False)] == ["e1", "e2"]
    assert order(schedule) == ["e2"]


def test_processes_queue_the_same_experiments_once(open_schedule, another):
    processes = [another("add", "home", "own-", 4) for _ in range(2)]
    for process in processes:
        process.go()
    assert [process.hear() for process in processes] == ["done", "done"]
    assert len(set(order(open_schedule()))) == len(order(open_schedule())) == 8


# -- leases


def test_of_two_processes_one_gets_the_lease_and_the_other_after_it(open_schedule, another):
    schedule = open_schedule()
    add(schedule, "e1")
    processes = [another("lease", "home", "e1", 900) for _ in range(2)]
    for process in processes:
        process.go()
    got = [process.hear() for process in processes]
    assert sorted(got) == ["False", "True"]
    holder = processes[got.index("True")]
    with schedule.lease("e1", "me") as mine:
        assert not mine
    assert holder.answer() == "set"
    assert schedule.entries()[0].phase == "live"
    holder.go()
    assert holder.process.wait(30) == 0
    with schedule.lease("e1", "me") as mine:
        assert mine


def test_a_lease_that_ran_out_is_taken_over_and_its_owner_can_change_nothing_more(open_schedule, another):
    schedule = open_schedule()
    add(schedule, "e1")
    slow = another("lease", "home", "e1", 0.2)
    assert slow.answer() == "True"
    time.sleep(0.3)
    with schedule.lease("e1", "me") as mine:
        assert mine
        said = slow.answer()
        assert said.startswith("JournalError experiment e1: the lease ran out and somebody else has it")
        slow.go()
        assert slow.process.wait(30) == 0
        with open_schedule().lease("e1", "third") as third:  # what it gave back was not its own
            assert not third
        schedule.set("e1", phase="training")
    assert schedule.entries()[0].phase == "training"


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="it shows on Linux only that a process is gone"
)
def test_a_killed_process_holds_up_nobody_on_its_machine(open_schedule, another):
    schedule = open_schedule()
    add(schedule, "e1")
    process = another("lease", "home", "e1", 900)
    assert process.answer() == "True"
    with schedule.lease("e1", "me") as mine:
        assert not mine
    process.process.kill()
    os.waitid(
        os.P_PID, process.process.pid, os.WEXITED | os.WNOWAIT
    )  # dead, and its parent does not know yet
    with schedule.lease("e1", "me") as mine:
        assert mine


@pytest.mark.parametrize("owner", ["tick@another-boot/pid:[1]/1/1", "tick@", "a person"])
def test_a_lease_of_another_machine_runs_its_time(open_schedule, owner):
    schedule = open_schedule()
    add(schedule, "e1")
    with schedule.store.transaction() as access:
        access.execute("UPDATE evorank_schedule SET owner = ?, expires = ?", owner, access.time + 1)
    with schedule.lease("e1", "me") as mine:
        assert not mine
    time.sleep(1.1)
    with schedule.lease("e1", "me") as mine:
        assert mine


def test_renewing_keeps_a_lease(open_schedule):
    schedule, other = open_schedule(), open_schedule()
    add(schedule, "e1")
    with schedule.lease("e1", "me", seconds=0.3) as mine:
        assert mine
        schedule.renew("e1", seconds=60)
        time.sleep(0.4)
        with other.lease("e1", "you") as theirs:
            assert not theirs
    with pytest.raises(JournalError, match="no lease is held"):
        schedule.renew("e1")


def test_threads_of_one_process_do_not_share_a_lease_even_when_it_ran_out(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    got: list[bool] = []

    def other() -> None:
        with schedule.lease("e1", "me") as mine:
            got.append(mine)

    with schedule.lease("e1", "me", seconds=0.1) as mine:
        assert mine
        time.sleep(0.2)
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert got == [False]
        schedule.set("e1", waiting="mine")  # it ran out, and nobody took it


def test_a_lease_is_given_back_when_its_work_fails(open_schedule):
    schedule, other = open_schedule(), open_schedule()
    add(schedule, "e1")
    with pytest.raises(ZeroDivisionError), schedule.lease("e1", "me"):
        1 / 0  # noqa: B018
    with other.lease("e1", "you") as mine:
        assert mine


def test_only_the_holder_of_the_lease_may_set_but_anybody_may_pause(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    with pytest.raises(JournalError, match="experiment e1: no lease is held"):
        schedule.set("e1", phase="live")
    schedule.set("e1", paused=True)
    assert (schedule.entries()[0].phase, schedule.entries()[0].paused) == ("proposed", True)
    with pytest.raises(JournalError, match="no lease"):
        schedule.set("e1", paused=False, waiting="nothing")
    assert schedule.entries()[0].paused, "refused as a whole"
    with pytest.raises(ConfigurationError, match="has no experiment e2"):
        schedule.set("e2", paused=True)
    with pytest.raises(ConfigurationError, match="has no experiment e2"), schedule.lease("e2", "me"):
        pass


def test_what_is_set_stays_until_it_is_set_again(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    east = timezone(timedelta(hours=2))
    with schedule.lease("e1", "me"):
        schedule.set("e1", phase="live", due=NOON.astimezone(east), waiting="day")
        schedule.set("e1", paused=True)
    entry = open_schedule().entries()[0]
    assert (entry.phase, entry.due, entry.waiting, entry.paused) == ("live", NOON, "day", True)
    assert entry.data == {"production": "p"}
    with schedule.lease("e1", "me"):
        schedule.set("e1", due=None)
        with pytest.raises(ConfigurationError, match="`due` needs a time zone"):
            schedule.set("e1", due=datetime(2026, 1, 5))
        assert schedule.entries()[0].due is None
        schedule.set("e1", closed=True)
    assert schedule.entries() == []
    assert schedule.entries(open_only=False)[0].closed_at >= entry.opened_at


# -- requests


def test_requests_are_kept_in_order_and_consumed_once(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1", "e2")
    first = schedule.request("e1", "pause", "ann", "the fair")
    second = schedule.request("e1", "resume", "bob", "it is over")
    schedule.request("e2", "abort", "ann", "no")
    assert [(each.id, each.action, each.by, each.reason) for each in open_schedule().pending("e1")] == [
        (first, "pause", "ann", "the fair"),
        (second, "resume", "bob", "it is over"),
    ]
    assert schedule.consume(first)
    assert not schedule.consume(first)
    assert [each.id for each in schedule.pending("e1")] == [second]


def test_two_processes_consume_each_request_once(open_schedule, another):
    schedule = open_schedule()
    add(schedule, "e1")
    asked = [schedule.request("e1", "pause", "ann", str(number)) for number in range(40)]
    processes = [another("consume", "home", "e1") for _ in range(2)]
    for process in processes:
        process.go()
    consumed = [int(word) for process in processes for word in process.hear().split()]
    assert sorted(consumed) == asked
    assert schedule.pending("e1") == []


def test_nothing_can_be_asked_of_what_ended_or_never_was(open_schedule):
    schedule = open_schedule()
    add(schedule, "e1")
    with pytest.raises(ConfigurationError, match=r"`action` must be one of approve, abort, .* got 'fly'"):
        schedule.request("e1", "fly", "ann", "")  # type: ignore[arg-type]
    close(schedule, "e1", "launched")
    with pytest.raises(ConfigurationError, match=r"experiment e1 ended \(launched, .*\): nothing to abort"):
        schedule.request("e1", "abort", "ann", "too late")
    with pytest.raises(ConfigurationError, match="has no experiment e9"):
        schedule.request("e9", "abort", "ann", "")


# -- production


def launch(schedule: Schedule, key: str, rate: float):
    return schedule.launch(phi={"lr": rate}, artifact=f"a/{key}", experiment=key, why="won", key=key)


def test_a_launch_happens_once_by_its_key(open_schedule):
    schedule = open_schedule()
    assert schedule.current() is None
    one = launch(schedule, "one", 0.1)
    assert launch(open_schedule(), "one", 0.1) == one
    two = launch(schedule, "two", 0.2)
    assert (one.version, two.version) == (1, 2)
    assert schedule.versions() == [one, two]
    assert schedule.current() == two
    assert (two.phi, two.artifact, two.experiment) == ({"lr": 0.2}, "a/two", "two")
    assert open_schedule("feed").versions() == []
    with pytest.raises(ConfigurationError, match="launch `one` made version 1 with another Φ before"):
        launch(schedule, "one", 0.3)
    assert schedule.current() == two


def test_processes_that_launch_the_same_get_the_same_versions(open_schedule, another):
    keys = [f"k{number}" for number in range(6)]
    processes = [another("launch", "home", *keys), another("launch", "home", *reversed(keys))]
    for process in processes:
        process.go()
    one, two = [process.hear().split() for process in processes]
    assert one == two[::-1]
    assert sorted(map(int, one)) == [1, 2, 3, 4, 5, 6]
    assert len(open_schedule().versions()) == 6


def test_a_rollback_is_a_new_version_with_what_the_old_one_had(open_schedule):
    schedule = open_schedule()
    one, two = launch(schedule, "one", 0.1), launch(schedule, "two", 0.2)
    back = schedule.rollback(1, by="ann", reason="complaints")
    assert (back.version, back.phi, back.fingerprint, back.artifact) == (
        3,
        one.phi,
        one.fingerprint,
        one.artifact,
    )
    assert back.why == "rollback to version 1 by ann: complaints"
    assert schedule.versions() == [one, two, back]
    with pytest.raises(ConfigurationError, match="version 3 serves the Φ of version 1 already"):
        schedule.rollback(1, by="ann", reason="again")
    with pytest.raises(ConfigurationError, match=r"`to` must be a version of 1\.\.3, got 7"):
        schedule.rollback(7, by="ann", reason="")
    assert schedule.rollback(2, by="bob", reason="no").version == 4


def test_a_version_that_was_trained_again_serves_the_newer_model_and_a_rollback_keeps_it(open_schedule):
    schedule = open_schedule()
    one = launch(schedule, "one", 0.1)
    assert (one.serving, one.trained) == ("a/one", None)
    first, second = datetime(2026, 1, 5, tzinfo=UTC), datetime(2026, 1, 19, tzinfo=UTC)
    schedule.trained(1, "a/one-newer", first)
    schedule.trained(1, "a/one-newest", second)
    open_schedule().trained(1, "a/one-newer", first)  # a second process that comes late
    two = launch(schedule, "two", 0.2)
    assert [(each.artifact, each.serving, each.trained) for each in open_schedule().versions()] == [
        ("a/one", "a/one-newest", second),
        ("a/two", "a/two", None),
    ]
    assert two.version == 2
    assert schedule.rollback(1, by="ann", reason="complaints").serving == "a/one-newest"


# -- time


def test_a_clock_that_jumps_back_is_refused_with_both_times(open_schedule):
    schedule = open_schedule()
    schedule.clock(NOON)
    schedule.clock(NOON + timedelta(days=1))
    with pytest.raises(ConfigurationError, match=r"jumped back from 2026-01-06T12:00.* to 2026-01-05T12:00"):
        open_schedule().clock(NOON)
    open_schedule("feed").clock(NOON)
    with pytest.raises(ConfigurationError, match="`now` needs a time zone"):
        schedule.clock(datetime(2026, 1, 9))


def test_a_clock_that_was_ahead_is_set_right_by_somebody_who_says_so(open_schedule):
    schedule = open_schedule()
    launch(schedule, "one", 0.1)
    schedule.trained(1, "a/older", NOON)
    schedule.clock(NOON + timedelta(days=30))
    schedule.trained(1, "a/ahead", NOON + timedelta(days=30))
    with pytest.raises(ConfigurationError, match=r"online tick --clock-was-ahead"):
        schedule.clock(NOON + timedelta(days=1))
    schedule.clock(NOON + timedelta(days=1), was_ahead=True)
    assert schedule.versions()[0].trained == NOON + timedelta(days=1)
    schedule.trained(1, "a/newer", NOON + timedelta(days=2))
    assert schedule.versions()[0].serving == "a/newer"
    with pytest.raises(ConfigurationError, match="jumped back"):
        schedule.clock(NOON)
    schedule.clock(NOON + timedelta(days=3))


def test_ticks_that_read_the_time_at_once_may_say_it_in_any_order_but_it_does_not_creep_back(open_schedule):
    schedule = open_schedule()
    schedule.clock(NOON)
    for seconds in (30, 59):
        schedule.clock(NOON - timedelta(seconds=seconds))
    with pytest.raises(ConfigurationError, match="jumped back"):
        schedule.clock(NOON - timedelta(seconds=61))
