"""After every so many attempts the journal is summed up: claims that cite, for the prompts that follow."""

from __future__ import annotations

import json
import re

import pytest
from langchain_core.exceptions import ModelPermissionDeniedError
from scripted import in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.insight import due
from evorank.graph.journal import thread_id
from evorank.graph.notes import Finding, Kept, Notes
from evorank.graph.offline import graph
from evorank.graph.state import Usage
from evorank.model.errors import ToolError


def note(*claims):
    return {"works": [{"claim": claim, "cites": cites} for claim, cites in claims], "dead_ends": []}


@pytest.fixture
def run(context):
    """Runs steps whose deltas are refused at once; gives the chat model and the notes."""

    def go(steps, *notes, run="r", **fields):
        model = in_turn([proposal()], [learning_rate("no")], Note=notes)
        given = context(model, **({"insight_every": 3} | fields))
        answer = graph.invoke({"steps": steps, "run": run}, context=given)
        return model, Notes(open_session(given).store, "tiny").all(run), answer

    return go


def shown(model):
    """The note in each prompt to think, or None."""
    prompts = [text for form, text in model.asked if form == "Proposal"]
    found = [re.search(r"### Note\n\n```json\n(.*)\n```", text) for text in prompts]
    return [json.loads(each[1]) if each else None for each in found]


def test_a_note_is_made_after_so_many_attempts_and_shown_from_the_next_batch_on(run):
    model, (kept,), _ = run(6, note(("rates must be numbers", ["0", "2"])))
    assert (kept.before, kept.covers, kept.model) == (3, 3, "scripted")
    assert kept.works == [
        Finding(claim="rates must be numbers", cites=[thread_id("r", 0), thread_id("r", 2)])
    ]
    told = {"works": [{"claim": "rates must be numbers", "cites": ["0", "2"]}], "dead_ends": []}
    assert shown(model) == [None] * 4 + [told] * 2
    (asked,) = [text for form, text in model.asked if form == "Note"]
    assert asked.count('"reason"') == 3, "it sees the journal as its batch does"


def test_each_note_sees_the_one_before_and_takes_its_place(run):
    model, notes, _ = run(8, note(("first", ["0"])), note(("second", ["3"])))
    assert [each.before for each in notes] == [3, 6]
    first, second = (text for form, text in model.asked if form == "Note")
    assert "### Note" not in first
    assert '"claim": "first"' in second
    assert [each and each["works"][0]["claim"] for each in shown(model)[4:]] == ["first"] * 3 + ["second"]


def test_what_cites_nothing_that_is_there_is_dropped_and_counted(run):
    claims = [("true", ["1"]), ("nobody can look it up", ["99", "deadbeef"]), ("no citation", [])]
    _, (kept,), _ = run(5, note(*claims, ("half", ["77", " 2 "])))
    assert [each.claim for each in kept.works] == ["true", "half"]
    assert kept.works[1].cites == [thread_id("r", 2)]
    assert (kept.dropped, kept.problem) == (2, "")


def test_a_note_of_which_nothing_is_left_is_not_shown_and_the_next_is_asked_for_in_time(run):
    model, notes, _ = run(8, note(("invented", ["99"])), note(("true", ["1"])))
    assert notes[0].problem == "no claim cited an attempt of the journal"
    assert shown(model)[:7] == [None] * 7
    assert [each.before for each in notes] == [3, 6]


def test_a_model_that_gives_no_note_stops_nothing_and_what_it_cost_counts(run):
    model, (kept,), answer = run(5, {"works": "many things"})
    assert "did not answer with a valid Note" in kept.problem
    assert kept.usage.calls == 3
    assert len(answer["attempts"]) == 5
    assert shown(model) == [None] * 5


def test_what_notes_cost_is_in_the_budget_of_the_run(run):
    _, notes, answer = run(9, note(("true", ["1"])), max_calls=4 * 5 + 1)
    assert sum((each.usage for each in notes), Usage()).calls == 1
    assert answer["stopped"].startswith("budget: 21 of 21 calls")


def test_zero_means_never(run):
    model, notes, _ = run(5, note(("true", ["1"])), insight_every=0)
    assert (notes, model.count("Note")) == ([], 0)


def test_a_later_run_begins_with_the_last_note_and_calls_attempts_by_their_ids(run):
    run(4, note(("rates must be numbers", ["1"])))
    model, notes, _ = run(1, run="later", insight_every=50)
    assert notes == []
    assert shown(model)[0]["works"][0]["cites"] == [thread_id("r", 1)[:8]]
    assert f'"id": "{thread_id("r", 1)[:8]}"' in model.asked[0][1], "as its journal does"


def test_a_note_is_made_once_for_a_batch_however_often_it_is_dispatched(run, context):
    model, _, _ = run(4, note(("true", ["1"])))
    session = open_session(context(in_turn(), insight_every=3))
    assert not due(session, "r", 3, "")
    assert model.count("Note") == 1


def test_the_embedded_engineer_makes_its_own(context, trainings):
    trainings.refuse = ToolError("no worker")
    given = context(None, insight_every=2, parallel=2)
    graph.invoke({"steps": 4, "run": "r"}, context=given)
    (kept,) = Notes(open_session(given).store, "tiny").all("r")
    assert kept.before == 2
    assert kept.dropped == 0
    assert kept.works == []
    assert all(claim.claim.startswith("Counted: none of 2 candidates") for claim in kept.dead_ends)


def test_both_stores_keep_one_note_for_a_batch(open_store):
    notes = Notes(open_store(), "home")
    first = Kept(surface="home", run="r", before=4, mark="m", covers=4, model="x")
    assert notes.keep(first)
    assert not notes.keep(first.model_copy(update={"covers": 9}))
    (kept,) = Notes(open_store(), "home").all()
    assert (kept.covers, bool(kept.at)) == (4, True)
    assert Notes(open_store(), "away").all() == []


def test_a_note_that_could_not_be_asked_for_stays_due(run):
    _, notes, answer = run(6, ModelPermissionDeniedError("not you"))
    assert answer["stopped"] == "chat model: scripted (refused): ModelPermissionDeniedError: not you"
    assert notes == []
    _, (kept,), answer = run(6, note(("rates must be numbers", ["0"])))
    assert answer["stopped"] is None
    assert kept.problem == ""
