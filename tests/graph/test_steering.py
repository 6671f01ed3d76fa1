"""What the operator asks for: in force from the next prompt, for as long as said, and on record."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from scripted import in_turn, learning_rate, proposal

from evorank.graph.context import open_session
from evorank.graph.offline import graph
from evorank.graph.steering import Steering, directives, until
from evorank.model.errors import ConfigurationError

TODAY = datetime.now(UTC).date()


@pytest.fixture
def steering(context):
    return Steering(open_session(context(in_turn())).store, "tiny")


@pytest.fixture
def run(context):
    """Runs steps whose deltas are refused at once; gives what was asked, and the attempts."""

    def go(steps, run="r", **fields):
        model = in_turn([proposal()], [learning_rate("no")])
        given = context(model, **fields)
        graph.invoke({"steps": steps, "run": run}, context=given)
        found = open_session(given).journal.attempts(run=run)
        return [text for form, text in model.asked if form == "Proposal"], sorted(found, key=lambda a: a.step)

    return go


def test_a_directive_is_in_the_next_prompt_and_on_its_attempt(run, steering):
    before, (first,) = run(1)
    steering.add("focus on   long-session\nusers")
    prompts, attempts = run(2)
    assert "## Steering" not in before[0]
    assert "\n- focus on long-session users\n" in prompts[0]
    assert [attempt.steering for attempt in attempts] == [[], ["s1"]]
    assert first.summary()["steering"] == []


def test_it_enters_and_leaves_a_run_that_is_under_way(context, steering):
    def script_of(changes):
        def script(form, messages):
            if form == "Proposal" and changes:
                changes.pop(0)()
            return proposal() if form == "Proposal" else learning_rate("no")

        return script

    model = in_turn()
    model.script = script_of([lambda: None, lambda: steering.add("be brave"), lambda: steering.remove("s1")])
    given = context(model)
    graph.invoke({"steps": 3, "run": "r"}, context=given)
    attempts = sorted(open_session(given).journal.attempts(run="r"), key=lambda attempt: attempt.step)
    assert [attempt.steering for attempt in attempts] == [[], ["s1"], ["s1"]]
    codes = [text for form, text in model.asked if form == "Delta"]
    assert "be brave" in codes[3], "it was added while the step thought, and holds from the next prompt on"
    assert "be brave" not in codes[-1]


def test_a_directive_for_one_persona_is_not_told_to_another(context, steering):
    session = open_session(context(in_turn()))
    steering.add("to all")
    steering.add("use the history", persona="architecture")
    assert directives(session, "architecture", []) == {"s1": "to all", "s2": "use the history"}
    assert directives(session, "optimizer", []) == {"s1": "to all"}


def test_it_ends_with_its_day(context, steering):
    session = open_session(context(in_turn()))
    steering.add("until yesterday", until_day=TODAY - timedelta(days=1))
    steering.add("until tomorrow", until_day=TODAY + timedelta(days=1))
    assert list(directives(session, "optimizer", []).values()) == ["until tomorrow"]


def test_it_ends_after_its_steps_also_in_the_middle_of_a_batch(run, steering):
    steering.add("for three steps", until_steps=3)
    _, attempts = run(6, parallel=2)
    assert [attempt.steering for attempt in attempts] == [["s1"], ["s1"], ["s1"], [], [], []]
    _, (later,) = run(1, run="later")
    assert later.steering == []


def test_what_the_settings_ask_for_is_recorded_as_well(run):
    prompts, (attempt,) = run(1, steering=["Prefer cheap training."])
    assert "\n- Prefer cheap training.\n" in prompts[0]
    assert attempt.steering == ["c1"]


def test_removed_directives_stay_known_and_ids_are_never_used_again(steering):
    steering.add("one")
    steering.remove("s1")
    assert steering.add("two").id == "s2"
    assert [(each.id, bool(each.removed_at)) for each in steering.all()] == [("s1", True), ("s2", False)]
    with pytest.raises(
        ConfigurationError, match=r"`s1` names no directive of surface 'tiny'\. There are: s2"
    ):
        steering.remove("s1")


@pytest.mark.parametrize("text", ["", "   \n", "x" * 1001])
def test_a_directive_without_words_or_with_too_many_is_refused(steering, text):
    with pytest.raises(ConfigurationError, match="1 to 1000 characters"):
        steering.add(text)


def test_both_stores_keep_directives_by_surface(open_store):
    Steering(open_store(), "home").add("be brave", persona="reward", until_steps=5)
    (found,) = Steering(open_store(), "home").all()
    assert (found.text, found.persona, found.until_steps) == ("be brave", "reward", 5)
    assert Steering(open_store(), "away").all() == []


def test_until_is_a_day_or_a_number_of_steps():
    assert until(None) == (None, None)
    assert until("20") == (None, 20)
    assert until("2026-03-01")[0].isoformat() == "2026-03-01"
    for nonsense in ("soon", "0", "-3", "2026-13-01"):
        with pytest.raises(ConfigurationError, match="2026-03-01, or a number of steps"):
            until(nonsense)
