from __future__ import annotations

import threading

import pytest

from evorank.tools.events import begin, during, end, listening


@pytest.fixture
def heard():
    events = []
    with listening([events.append]):
        yield events


def test_a_beginning_and_an_end_are_told_with_what_came_of_it(heard):
    with during("node", "think", step=3) as found:
        found["outcome"] = "better"
    first, last = heard
    assert (first.kind, first.what, first.name, first.facts) == ("begin", "node", "think", {"step": 3})
    assert (last.kind, last.operation, last.error) == ("end", first.operation, "")
    assert last.facts == {"step": 3, "outcome": "better"}


def test_what_is_done_inside_says_so_also_where_it_overlaps(heard):
    with during("node", "tool"):
        one, two = begin("training", "full", seed=0), begin("training", "full", seed=1)
        end(two)
        end(one, cpu_seconds=1.5)
    outer = heard[0].operation
    assert [event.inside for event in heard] == [None, outer, outer, outer, outer, None]
    assert heard[4].facts == {"seed": 0, "cpu_seconds": 1.5}


def test_a_failure_is_told_and_goes_on_its_way(heard):
    with pytest.raises(ValueError, match="no such rate"), during("training", "full"):
        raise ValueError("no such rate")
    assert heard[-1].error == "ValueError: no such rate"


def test_nobody_else_hears_and_another_thread_is_another_context(heard):
    with listening([]), during("node", "think"):
        pass
    thread = threading.Thread(target=lambda: end(begin("node", "elsewhere")))
    thread.start()
    thread.join()
    assert heard == []


def test_a_listener_that_fails_is_logged_and_the_others_hear(caplog):
    def broken(event):
        raise RuntimeError("the disk is full")

    events = []
    with listening([broken, events.append]), during("node", "think"):
        pass
    assert len(events) == 2
    assert "A tracker failed at the begin of node think" in caplog.text
    assert "the disk is full" in caplog.text
