"""A person looks at a candidate before it is measured: by an interrupt, or by a row of the store."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from pydantic import ValidationError
from scripted import in_turn, learning_rate, proposal, rates

from evorank.graph.context import open_session
from evorank.graph.inspections import Inspection, Inspections
from evorank.graph.knowledge import MEASURED
from evorank.graph.offline import builder
from evorank.graph.store import Store
from evorank.model.errors import ConfigurationError

BOB = {"by": "bob", "reason": "looks safe"}


class Run:
    """A run of the offline loop under a checkpointer, in which people are asked."""

    def __init__(self, context) -> None:
        self.context = context
        self.graph = builder.compile(checkpointer=InMemorySaver())
        self.config = {"configurable": {"thread_id": "t"}}
        self.session = open_session(context)
        self.rows = Inspections(self.session.store)

    def start(self, steps=1):
        return self.go({"steps": steps, "run": "r"})

    def go(self, given=None):
        self.graph.invoke(given, self.config, context=self.context, durability="sync")
        return self.graph.get_state(self.config).interrupts

    def say(self, **answer):
        return self.go(Command(resume=answer))

    @property
    def attempts(self):
        return self.session.journal.attempts(run="r")


@pytest.fixture
def run(context):
    return lambda model, **fields: Run(context(model, inspect=True, **fields))


def edit(rate):
    return {"action": "edit", "patch": learning_rate(rate)["patch"]} | BOB


def test_nothing_is_trained_before_a_person_approves_it(run, trainings):
    parked = run(rates(0.05))
    (asked,) = parked.start()
    assert trainings.trained == []
    assert parked.attempts == []
    assert asked.value["patch"] == learning_rate(0.05)["patch"]
    assert asked.value["hypothesis"] == "a smaller step settles lower"
    actions = asked.response_schema["properties"]["action"]
    assert actions["enum"] == ["approve", "edit", "reject"]
    assert parked.say(action="approve", **BOB) == ()
    (attempt,) = parked.attempts
    assert attempt.outcome in MEASURED
    (said,) = attempt.inspections
    assert (said.action, said.by, said.reason) == ("approve", "bob", "looks safe")
    assert said.at.startswith("20")
    assert parked.rows.waiting() == []


def test_an_edited_delta_is_what_is_measured_and_both_are_recorded(run, trainings):
    parked = run(rates(0.05))
    parked.start()
    assert parked.say(**edit(0.02)) == ()
    (attempt,) = parked.attempts
    assert attempt.outcome in MEASURED
    assert attempt.phi["optimizer"]["args"]["lr"] == 0.02
    assert attempt.inspections[0].patch == learning_rate(0.05)["patch"]
    assert 0.05 not in trainings.trained
    assert parked.context.chat_model.count("Review") == 1, "the linter reads what CODE wrote"


def test_an_edit_that_is_not_valid_comes_back_to_the_person_as_often_as_it_takes(run):
    parked = run(rates(0.05))
    parked.start()
    for rate in (-1.0, -2.0, -3.0):
        (asked,) = parked.say(**edit(rate))
        assert asked.value["findings"][0]["pointer"].startswith("/optimizer/args")
        assert asked.value["patch"] == learning_rate(rate)["patch"]
    assert parked.say(action="approve")[0].value["findings"], "what is not valid cannot be approved"
    assert parked.say(**edit(0.02)) == ()
    (attempt,) = parked.attempts
    assert attempt.outcome in MEASURED
    assert [said.action for said in attempt.inspections] == ["edit", "edit", "edit", "approve", "edit"]
    assert parked.context.chat_model.count("Delta") == 1, "CODE is not asked to mend what a person wrote"


def test_a_rejected_candidate_is_journaled_with_the_reason_and_never_trained(run, trainings):
    parked = run(rates(0.05))
    parked.start()
    parked.say(action="reject", by="bob", reason="we tried that in May")
    (attempt,) = parked.attempts
    assert attempt.outcome == "refused"
    assert attempt.reason == "Rejected by bob: we tried that in May"
    assert trainings.trained == []


def test_an_answer_in_another_form_is_refused_and_the_question_stays(run):
    parked = run(rates(0.05))
    parked.start()
    for wrong in (
        {"action": "maybe"},
        {"action": "edit"},
        {"action": "approve", "patch": [{"op": "remove"}]},
    ):
        with pytest.raises(ValidationError):
            parked.say(**wrong)
    assert parked.say(action="reject") == ()
    assert [said.action for said in parked.attempts[0].inspections] == ["reject"]


def test_candidates_of_a_batch_are_answered_one_by_one_and_by_either_way(run, home):
    parked = run(in_turn([proposal()], [learning_rate(0.05), learning_rate(0.02)]), parallel=2)
    first, second = parked.start(steps=2)
    (left,) = parked.go(Command(resume={first.id: {"action": "approve"}}))
    assert left.id == second.id
    assert [attempt.step for attempt in parked.attempts] == [first.value["step"]]

    elsewhere = Store.open(home)
    rows = Inspections(elsewhere)
    (waiting,) = rows.waiting(run="r")
    assert waiting["attempt"] == second.value["attempt"]
    assert rows.waiting(surface="elsewhere") == []
    rows.answer(waiting["attempt"][:8], Inspection(action="reject", by="ada", reason="too small"))
    with pytest.raises(ConfigurationError, match="no candidate that waits"):
        rows.answer(waiting["attempt"][:8], Inspection(action="approve"))
    elsewhere.close()

    assert parked.go() == (), "going on is enough: the answer is in the store"
    assert len(parked.attempts) == 2
    assert parked.attempts[1].reason == "Rejected by ada: too small"


def test_an_answer_is_of_the_delta_that_was_seen_and_of_no_other(run, context):
    """The checkpoint is lost, and the step is thought of anew."""
    parked = run(rates(0.05))
    parked.start()
    parked.rows.answer(parked.rows.waiting()[0]["attempt"], Inspection(action="approve"))
    anew = Run(context(rates(0.02), inspect=True))
    (asked,) = anew.start()
    assert asked.value["patch"] == learning_rate(0.02)["patch"]
    again = Run(context(rates(0.03), inspect=True))
    again.start()
    (waiting,) = again.rows.waiting()
    assert waiting["patch"] == learning_rate(0.03)["patch"], "what nobody answered of another delta is void"
