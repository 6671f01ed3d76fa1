"""Who gets live traffic next: the queue's order, the strategist's, and what becomes of a bad answer."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from kept import keep
from scripted import ScriptedChatModel

from evorank.graph.context import close_sessions, open_session
from evorank.graph.selection import select
from evorank.graph.state import Experiment, Usage

ONLINE = """
[online]
slots = 2

[[online.metrics]]
name = "active_days"
description = "Days with a visit."
source = "days"
value = "sum(active)"
success = true
"""


def experiment(name: str, **fields: Any) -> Experiment:
    known: dict[str, Any] = {
        "id": name,
        "surface": "tiny",
        "proposed_by": "optimizer",
        "hypothesis": f"the hypothesis of {name}",
        "production": "p",
        "changes": [{"op": "add", "path": f"/{name}", "value": 1}],
        "phi": {},
        "fingerprint": name,
    }
    return Experiment(**(known | fields))


def live(name: str, days: int = 3, **fields: Any) -> Experiment:
    """Under way for some days, with readings that no prompt may show."""
    start = datetime(2026, 1, 1)
    plan = {"start": start.isoformat(), "horizon_days": 14, "metrics": []}
    reading = {"until": (start + timedelta(days=days)).isoformat(), "users": [98765, 98765], "looks": []}
    known: dict[str, Any] = {"phase": "live", "started": True, "plan": plan, "readings": [reading]}
    return experiment(name, **(known | fields))


@pytest.fixture
def session(context, home):
    """Makes a session whose strategist answers as told, on a journal of these experiments."""
    path = home / "surfaces" / "tiny" / "surface.toml"
    path.write_text(path.read_text() + ONLINE)

    def make(answer: Any = None, experiments: list[Experiment] | None = None):
        chat = ScriptedChatModel(script=lambda form, messages: answer) if answer is not None else None
        opened = open_session(context(chat))
        with opened.store.transaction() as access:  # what an earlier strategist said is not what is tested
            access.execute("DELETE FROM evorank_rankings")
        for each in experiments or []:
            keep(opened, each)
        return opened

    return make


def ranking(*order: str) -> dict[str, Any]:
    return {"order": list(order), "reason": "because"}


def chosen(session, pool, how="ranked", places=2):
    return select(pool, places, session, how, {each.id: number for number, each in enumerate(pool)})


def test_first_in_first_out_fills_the_free_places_and_asks_nobody(session):
    opened = session(ranking("c", "b", "a"))
    pool = [experiment("b"), live("a"), experiment("c")]
    positions = {"a": 0, "c": 1, "b": 2}
    found = select(pool, 2, opened, "fifo", positions)
    assert (found.order, found.start, found.drop) == (["a", "c", "b"], ["c"], [])
    assert select(pool, 1, opened, "fifo", positions).start == []
    assert opened.context.chat_model.asked == []


def test_ranked_starts_those_who_are_first_in_the_strategists_order(session):
    found = chosen(session(ranking("c", "a", "b")), [experiment("a"), experiment("b"), experiment("c")])
    assert (found.order, found.start, found.drop) == (["c", "a", "b"], ["c", "a"], [])
    assert found.reason == "because"
    assert found.usage.calls == 1


def test_a_live_experiment_that_fell_out_is_dropped_for_one_that_waits(session):
    pool = [live("a"), live("b"), experiment("c")]
    found = chosen(session(ranking("c", "b", "a")), pool)
    assert (found.start, found.drop) == (["c"], ["a"])
    found = chosen(session(ranking("b", "a", "c")), pool)
    assert (found.start, found.drop) == ([], [])


def test_a_free_place_is_filled_before_anything_is_dropped(session):
    found = chosen(session(ranking("c", "a", "b")), [live("a"), experiment("b"), experiment("c")])
    assert (found.start, found.drop) == (["c"], [])


def test_with_fewer_places_than_live_experiments_only_as_many_fall_as_are_needed(session):
    pool = [live("a"), live("b"), live("c"), experiment("d")]
    found = chosen(session(ranking("a", "b", "c", "d")), pool)
    assert (found.start, found.drop) == ([], [])
    found = chosen(session(ranking("d", "a", "b", "c")), pool)
    assert (found.start, found.drop) == (["d"], ["c", "b"])


@pytest.mark.parametrize("kept", [{"decision": {"outcome": "launch"}}, {"trouble": "no answer"}])
def test_what_was_read_at_its_horizon_or_cannot_be_stopped_keeps_its_place(session, kept):
    pool = [live("a", **kept), live("b"), experiment("c"), experiment("d")]
    found = chosen(session(ranking("c", "d", "b", "a")), pool)
    assert (found.start, found.drop) == (["c"], ["b"])
    opened = session(ranking("c", "a"))
    assert chosen(opened, [live("a", **kept), experiment("c")], places=1).start == []
    assert opened.context.chat_model.asked == []


def test_nobody_is_asked_where_there_is_nothing_to_choose(session):
    opened = session(ranking("b", "a"))
    assert chosen(opened, [live("a"), experiment("b")]).start == ["b"]
    assert chosen(opened, [live("a"), live("b"), live("c")]).start == []
    assert opened.context.chat_model.asked == []


def test_unknown_and_repeated_ids_are_ignored_and_missing_ones_come_last_in_queue_order(session):
    pool = [experiment("a"), experiment("b"), experiment("c")]
    found = chosen(session(ranking("c", "x", "c", "")), pool)
    assert found.order == ["c", "a", "b"]
    assert found.reason == (
        "because 2 unknown ids were ignored. 2 that were left out come last, in the order of the queue."
    )


@pytest.mark.parametrize("answer", [RuntimeError("503"), {"order": "a", "reason": ""}])
def test_without_an_answer_it_is_first_in_first_out_for_this_time_and_says_so(session, answer):
    found = chosen(session(answer), [live("a"), experiment("b"), experiment("c")])
    assert (found.order, found.start, found.drop) == (["a", "b", "c"], ["b"], [])
    assert found.reason.startswith("First in, first out this time: the strategist gave no answer")
    assert found.usage.calls == (0 if isinstance(answer, Exception) else 3)


def test_the_journal_knows_better_than_the_queue_where_an_experiment_stands(session):
    """A queue keeps an experiment as it was proposed."""
    opened = session(ranking("b", "a"), [live("a")])
    found = chosen(opened, [experiment("a"), experiment("b")], places=1)
    assert (found.start, found.drop) == (["b"], ["a"])


def test_the_strategist_is_shown_the_pool_and_what_ended_and_nothing_that_runs_has_seen(session):
    effects = [{"metric": "active_days", "lift": 0.0123, "lift_low": 0.01, "lift_high": 0.02}]
    ended = experiment("old", phase="completed", result="launched", effects=effects)
    opened = session(ranking("a", "b", "c"), [ended])
    chosen(opened, [live("a"), experiment("b"), experiment("c")])
    ((form, prompt),) = opened.context.chat_model.asked
    assert form == "Ranking"
    assert prompt.index('"lift": 0.0123') < prompt.index("## Pool") < prompt.index('"id": "a"')
    assert '"now": "live", "days_left": 11' in prompt
    assert "98765" not in prompt


def test_the_embedded_engineer_ranks_without_a_key_and_always_the_same(session):
    ended = [
        experiment(f"old{number}", phase="completed", result="no_launch", decision={"outcome": "no_launch"})
        for number in range(3)
    ]
    pool = [experiment("a"), experiment("b", proposed_by="reward")]
    opened = session(None, ended)
    found = chosen(opened, pool, places=1)
    assert (found.order, found.start) == (["b", "a"], ["b"])
    assert found.reason.startswith("Search: ")
    again = chosen(opened, pool, places=1)
    assert (again.order, again.start, again.reason) == (found.order, found.start, found.reason)


def test_the_same_question_is_asked_once_also_by_another_process(session, context, attempt):
    opened = session(ranking("b", "a", "c"))
    pool = [live("a", days=3), experiment("b"), experiment("c")]
    first = chosen(opened, pool, places=1)
    assert (first.start, first.drop, first.usage.calls, first.remembered) == (["b"], ["a"], 1, False)
    # A day has passed, and the answer was followed: nothing that the strategist goes by is new.
    later = [live("a", days=4), live("b", days=1), experiment("c")]
    close_sessions()
    other = open_session(opened.context)
    found = chosen(other, later, places=1)
    assert (found.order, found.drop, found.usage.calls, found.remembered) == (["b", "a", "c"], [], 0, True)
    assert len(opened.context.chat_model.asked) == 1


@pytest.mark.parametrize("news", ["pool", "order", "journal", "experiment", "steering"])
def test_the_strategist_is_asked_again_when_the_pool_or_what_is_known_has_changed(
    session, context, attempt, news
):
    opened = session(ranking("b", "a"))
    pool = [experiment("a"), experiment("b")]
    chosen(opened, pool, places=1)
    if news == "pool":
        pool.append(experiment("c"))
    elif news == "order":
        pool.reverse()
    elif news == "journal":
        opened.journal.append(attempt(7, surface="tiny"))
    elif news == "experiment":
        keep(opened, experiment("old", phase="completed", result="no_launch"))
    else:
        opened = open_session(opened.context.model_copy(update={"steering": ["Prefer what is cheap."]}))
    assert not chosen(opened, pool, places=1).remembered
    assert len(opened.context.chat_model.asked) == 2


def test_what_asking_cost_is_counted_for_the_run_that_asked_also_where_no_answer_came(session):
    opened = session(ranking("b", "a"))
    pool = [experiment("a"), experiment("b")]
    select(pool, 1, opened, "ranked", {"a": 0, "b": 1}, "r")
    spending = opened.chats.desk.spending
    (call,) = spending.calls("r")
    assert (call.role, call.persona, call.usage.calls, call.usage.input_tokens) == (
        *("strategist", "strategist", 1, 100),
    )
    assert spending.total("another") == Usage()
    silent = session({"order": "a", "reason": ""})
    assert chosen(silent, pool, places=1).usage.calls == 3
    assert not chosen(silent, pool, places=1).remembered
    assert silent.chats.desk.spending.total(None).calls == 6
