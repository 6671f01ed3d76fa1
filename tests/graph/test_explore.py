"""A persona that may look at the log does so before it proposes: within bounds, and once for all."""

from __future__ import annotations

import pytest
from scripted import in_turn, proposal

from evorank.graph.context import open_session
from evorank.graph.knowledge import MEASURED
from evorank.graph.offline import graph

LABEL = {"patch": [{"op": "replace", "path": "/reward/label", "value": "clicked * 0.5"}]}
RATE, WRONG = "SELECT avg(click) AS rate FROM log", "SELECT no_such FROM log"


@pytest.fixture
def run(context):
    def go(chat_model, steps=1, run="r", **fields):
        given = context(chat_model, **({"personas": ["reward"]} | fields))
        graph.invoke({"steps": steps, "run": run}, context=given)
        return open_session(given).journal.attempts(run=run)

    return go


def inquiry(query=None, finding=""):
    return {"thought": "what is common?", "query": query, "finding": finding}


def test_what_it_asked_is_in_its_prompts_and_in_the_journal_with_what_it_made_of_it(run):
    asks = [
        inquiry(RATE),
        inquiry(WRONG, "A quarter is clicked."),
        inquiry(finding="There is no such column."),
    ]
    model = in_turn([proposal()], [LABEL], Inquiry=asks)
    (attempt,) = run(model)
    first, second = attempt.insights
    assert (first["query"], first["finding"]) == (RATE, "A quarter is clicked.")
    assert "rate" in first["table"]
    assert (second["query"], second["finding"]) == (WRONG, "There is no such column.")
    assert "no_such" in second["error"]
    assert [form for form, _ in model.asked] == ["Inquiry"] * 3 + ["Proposal", "Delta", "Review"]
    for form, text in model.asked[3:]:
        assert RATE in text, form
        assert "A quarter is clicked." in text, form
    assert attempt.usage.calls == 6
    assert attempt.outcome in MEASURED
    assert attempt.comparison["metric"] == "alignment"


def test_later_prompts_show_what_was_found_and_each_query_once(run):
    run(in_turn([proposal()], [LABEL], Inquiry=[inquiry(RATE), inquiry(finding="First."), inquiry()]))
    model = in_turn([proposal()], [LABEL], Inquiry=[inquiry(RATE), inquiry(finding="Second."), inquiry()])
    run(model, steps=2)
    asked = dict(model.asked)
    assert "First." in model.asked[0][1], "before anything is asked again"
    assert asked["Proposal"].count(f'"query": "{RATE}"') == 1
    assert "Second." in asked["Proposal"]
    assert "First." not in asked["Proposal"]


def test_queries_end_at_their_number_and_the_last_is_read(run):
    model = in_turn([proposal()], [LABEL], Inquiry=[inquiry(RATE, "As before.")])
    (attempt,) = run(model, queries=2)
    assert [insight["finding"] for insight in attempt.insights] == ["As before."] * 2
    assert model.count("Inquiry") == 3
    assert "You may run 2 more queries" in model.asked[0][1]
    assert "You may run 1 more query" in model.asked[1][1]
    assert "No query is left" in model.asked[2][1]


def test_no_queries_means_no_look(run):
    model = in_turn([proposal()], [LABEL])
    (attempt,) = run(model, queries=0)
    assert model.count("Inquiry") == 0
    assert attempt.insights == []


def test_a_persona_without_the_tool_is_never_asked_to_look(run):
    model = in_turn([proposal()], [{"patch": [{"op": "replace", "path": "/optimizer/epochs", "value": 2}]}])
    run(model, personas=["optimizer"])
    assert model.count("Inquiry") == 0


def test_a_look_that_fails_does_not_keep_it_from_proposing(run):
    model = in_turn([proposal()], [LABEL], Inquiry=[{"query": ["not", "a", "query"]}])
    (attempt,) = run(model)
    assert attempt.outcome in MEASURED
    assert attempt.insights == []


def test_statements_that_are_no_queries_change_nothing(run, home):
    asks = [inquiry("COPY (SELECT 1) TO 'stolen.csv'"), inquiry("DROP TABLE log"), inquiry(RATE), inquiry()]
    (attempt,) = run(in_turn([proposal()], [LABEL], Inquiry=asks))
    assert ["error" in insight for insight in attempt.insights] == [True, True, False]
    assert not list(home.rglob("stolen.csv"))
