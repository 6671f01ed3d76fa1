"""One persona asked for several proposals at once, which are then tried side by side."""

from __future__ import annotations

import re

import pytest
from scripted import ScriptedChatModel, in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.knowledge import MEASURED
from evorank.graph.offline import graph
from evorank.model.errors import ToolError


def rate_of_hypothesis(form, messages):
    """Each hypothesis names its learning rate, and CODE writes it."""
    text = str(messages[-1].content)
    return learning_rate(float(re.findall(r'"hypothesis": "rate ([\d.]+)"', text)[-1]))


def several(*rates):
    return {"proposals": [proposal(hypothesis=f"rate {rate}") for rate in rates]}


def scripted(*answers):
    left = list(answers)

    def script(form, messages):
        if form == "Delta":
            return rate_of_hypothesis(form, messages)
        if form == "Review":
            return {"verdict": "accept", "findings": []}
        return left.pop(0)

    return ScriptedChatModel(script=script)


def records(given, run):
    found = open_session(given).journal.attempts(run=run)
    return sorted(found, key=lambda attempt: attempt.step)


@pytest.fixture
def untrained(trainings):
    """Every training fails at once: who proposes what is all that matters."""
    trainings.refuse = ToolError("no worker")


def test_one_call_gives_several_proposals_that_run_as_attempts_of_the_batch(context):
    model = scripted(several(0.03, 0.02, 0.01))
    given = context(model, parallel=3, proposals="1/1/1")
    graph.invoke({"steps": 3, "run": "r"}, context=given)
    attempts = records(given, "r")
    assert [attempt.changes[0]["value"] for attempt in attempts] == [0.03, 0.02, 0.01]
    assert all(attempt.outcome in MEASURED for attempt in attempts)
    assert model.count("Proposals") == 1
    asked = model.asked[0][1]
    assert "Propose 3 changes" in asked
    assert '{"explore": 1, "exploit": 1, "innovate": 1}' in asked
    assert "`explore` (33%)" in asked
    assert [attempt.usage.calls for attempt in attempts] == [3, 2, 2], "thinking counts once"


def test_what_a_batch_proposes_at_once_does_not_see_itself(context, untrained):
    model = scripted(several(0.03, 0.02), several(0.01, 0.005))
    graph.invoke({"steps": 4, "run": "r"}, context=context(model, parallel=2, proposals="2"))
    thoughts = [text for form, text in model.asked if form == "Proposals"]
    codes = [text for form, text in model.asked if form == "Delta"]
    assert ["rate 0.03" in text for text in thoughts] == [False, True]
    assert not any(
        '"hypothesis": "rate 0.02"' in text and '"hypothesis": "rate 0.03"' in text for text in codes[:2]
    )


def test_more_than_was_asked_for_is_left_and_what_is_missing_is_asked_for_again(context, untrained):
    model = scripted(several(0.03, 0.02, 0.01, 0.005), several(0.04), proposal(hypothesis="rate 0.05"))
    given = context(model, parallel=2, proposals="2")
    graph.invoke({"steps": 4, "run": "r"}, context=given)
    attempts = records(given, "r")
    assert [attempt.changes[0]["value"] for attempt in attempts] == [0.03, 0.02, 0.04, 0.05]
    assert [model.count(form) for form in ("Proposals", "Proposal")] == [2, 1]


def test_a_call_that_fails_is_the_reason_of_every_step_that_it_was_for(context, untrained):
    model = scripted({}, {}, {}, several(0.03, 0.02))  # two repairs are all it gets
    given = context(model, parallel=2, proposals="2")
    graph.invoke({"steps": 4, "run": "r"}, context=given)
    attempts = records(given, "r")
    assert [attempt.outcome for attempt in attempts[:2]] == ["failed", "failed"]
    assert ["valid Proposals" in attempt.reason for attempt in attempts] == [True, True, False, False]


def test_the_embedded_engineer_answers_for_a_whole_batch(context, untrained):
    given = context(None, parallel=4, proposals="2/1/1", personas=["optimizer", "architecture"])
    graph.invoke({"steps": 4, "run": "r"}, context=given)
    attempts = records(given, "r")
    assert {attempt.persona for attempt in attempts} == {"optimizer"}
    assert sorted(attempt.category for attempt in attempts) == ["explore", "explore", "explore", "innovate"]
    assert len({attempt.fingerprint for attempt in attempts}) == 4


def test_the_prompt_of_a_persona_at_a_standstill_asks_for_a_jump(context, attempt):
    model = in_turn([proposal()], [learning_rate("no")])
    given = context(model)
    journal = open_session(given).journal
    compared = {"metric": "log_loss", "lower_is_better": True, "difference": 0.1, "low": 0.0, "high": 0.2}
    for step in range(9):
        journal.append(attempt(step, run="before", surface="tiny", comparison=compared))
    graph.invoke({"steps": 3, "run": "r"}, context=given)
    thoughts = [text for form, text in model.asked if form == "Proposal"]
    assert "Your last 9 candidates set no new best" in thoughts[0]
    assert "Make a structural jump" in thoughts[0]
    wanted = [re.findall(r'"innovate": (\d)\}', text)[-1] for text in thoughts]
    assert wanted == ["1"] * 3, "of new structures it owes most, as it answered with explore"
