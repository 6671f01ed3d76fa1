from __future__ import annotations

import json

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from evorank.graph.recording import (
    Head,
    Line,
    Player,
    Recorder,
    answer_of,
    message_of,
    read_head,
    written,
)
from evorank.graph.spending import Account
from evorank.graph.state import Usage
from evorank.model.errors import ChatModelError, ConfigurationError

STEP = Account(run="20260101-000000-abcd", step=3, persona="optimizer")
ENTRY = {"hypothesis": "smaller", "changes": [], "outcome": "better", "difference": -0.01, "train_cost": 0.5}


def question(*entries, task="Propose one change.", run=STEP.run):
    journal = "\n".join(json.dumps(entry) + "," for entry in entries)
    return [SystemMessage("You are an engineer."), HumanMessage(f"{journal}\n{task}\nrun {run}")]


@pytest.fixture
def file(tmp_path):
    """Records lines and gives the file: file(line, ...)."""

    def make(*lines, **head):
        recorder = Recorder(tmp_path / "calls.jsonl")
        recorder.begin(Head(**head))
        for line in lines:
            recorder.add(line)
        return tmp_path / "calls.jsonl"

    return make


def line(messages=None, content='{"verdict": "accept"}', **more):
    known = {"step": 3, "persona": "optimizer", "role": "think", "form": "Review", "model": "a:b"}
    known |= {"answer": {"content": content}}
    return Line(messages=None if messages is None else written(messages, STEP.run), **(known | more))


def asks(player, messages, **more):
    given = {"account": STEP, "role": "think", "form": "Review"} | more
    return player.answer(messages=messages, **given)


def test_a_question_is_answered_as_it_was_also_in_a_run_of_another_name(file):
    player = Player(file(line(question(ENTRY), usage=Usage(calls=1, input_tokens=7, usd=0.5))))
    other = STEP.model_copy(update={"run": "20270707-070707-beef"})
    found = asks(player, question(ENTRY, run=other.run), account=other)
    assert found.usage == Usage(calls=1, input_tokens=7, usd=0.5)
    assert str(message_of(found).text) == '{"verdict": "accept"}'
    assert asks(player, question(ENTRY)) == found, "a run that was killed asks again"


def test_what_was_measured_does_not_make_another_question(file):
    slower = ENTRY | {"difference": -0.0101, "train_cost": 0.9, "outcome": "equal", "reason": "noise"}
    second = ENTRY | {"hypothesis": "larger"}
    player = Player(file(line(question(ENTRY, second))))
    assert asks(player, question(second, slower)).answer


def test_the_strategists_pool_is_compared_without_what_was_measured_too(file):
    waits = {"id": "ab12", "now": "waiting", "delta": [], "difference": -0.01, "train_cost": 1.06}
    player = Player(file(line(question(waits))))
    assert asks(
        player, question(waits | {"difference": -0.0099, "train_cost": 1.11, "off_policy": {}})
    ).answer
    with pytest.raises(ChatModelError, match="another question"):
        asks(player, question(waits | {"id": "cd34"}))


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (question(ENTRY, task="Propose two changes."), ["-Propose one change.", "+Propose two changes."]),
        (question(ENTRY | {"hypothesis": "larger"}), ['"smaller"', '"larger"']),
        (question(), ["-{", "smaller"]),
    ],
)
def test_another_question_is_refused_with_what_differs(file, asked, told):
    player = Player(file(line(question(ENTRY))))
    with pytest.raises(ChatModelError, match="holds another question in step 3, optimizer, think") as refused:
        asks(player, asked)
    for each in told:
        assert each in str(refused.value)
    with pytest.raises(ChatModelError, match="holds no answer for step 3, optimizer, code"):
        asks(player, question(ENTRY), role="code")


def test_lines_without_messages_answer_in_their_order(file):
    authored = [line(content="first"), line(content="second"), line(content="of code", role="code")]
    player = Player(file(*authored, note="Written by hand."))
    assert [asks(player, question()).answer["content"] for _ in range(2)] == ["first", "second"]
    with pytest.raises(ChatModelError, match="holds no answer"):
        asks(player, question())
    assert asks(player, question(), role="code").answer == {"content": "of code"}
    other = STEP.model_copy(update={"run": "20270707-070707-beef"})
    assert asks(player, question(), account=other).answer["content"] == "first", "each run begins anew"


def test_a_line_by_hand_that_names_its_form_waits_for_it(file):
    authored = [line(content="a look", form="Inquiry"), line(content="a thought", form="Proposal")]
    player = Player(file(*authored, line(content="whatever it is", form="")))
    assert [asks(player, question(), form=form).answer["content"] for form in ("Proposal", "Inquiry")] == [
        "a thought", "a look",
    ]  # fmt: skip
    assert asks(player, question(), form="Review").answer["content"] == "whatever it is"


def test_lines_by_hand_say_whose_turn_a_step_is_and_recorded_ones_do_not(file):
    authored = [line(step=0, persona="reward"), line(step=0, persona="linter", role="linter")]
    authored += [line(step=1, persona="optimizer", role="code"), line(step=None, role="insight")]
    player = Player(file(*authored, line(question(), step=2, persona="architecture")))
    assert player.turns == {0: "reward", 1: "optimizer"}


def test_of_a_question_that_was_asked_again_after_a_crash_the_last_answer_counts(file):
    player = Player(file(line(question(ENTRY), "lost"), line(question(ENTRY), "kept")))
    assert asks(player, question(ENTRY)).answer == {"content": "kept"}


def test_half_a_line_of_a_process_that_was_killed_is_cut_off(file):
    path = file(line(question(ENTRY)))
    with path.open("a") as torn:
        torn.write('{"step": 4, "role": "th')
    Recorder(path).add(line(question(), step=5))
    assert [json.loads(each).get("step") for each in path.read_text().splitlines()] == [None, 3, 5]


def test_a_recording_is_of_one_run_and_never_over_a_file(file, tmp_path):
    path = file()
    with pytest.raises(ConfigurationError, match=r"`record`.*exists"):
        Recorder(path).begin(Head())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1"),
        ('{"recording": 1}\nnonsense\n', "line 2"),
        ('{"recording": 1}\n{"role": "think", "mood": 1}\n', "line 2"),
        ('{"recording": 7}\n', "format 7"),
    ],
)
def test_a_file_that_is_no_recording_is_refused_with_the_line(tmp_path, text, told):
    path = tmp_path / "calls.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=told):
        Player(path)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_head(tmp_path / "nosuch")


def test_the_head_holds_what_settings_need_and_not_what_may_be_spent(file):
    head = read_head(file(steps=7, context={"seed": 3, "max_usd": 1.0, "surface": "tiny", "chatter": 1}))
    assert head.settings({"steps", "days", "seed", "surface", "max_usd"}) == {
        "steps": 7, "seed": 3, "surface": "tiny",
    }  # fmt: skip


def test_a_message_comes_back_as_it_was():
    raw = AIMessage(
        "words",
        tool_calls=[{"name": "Review", "args": {"verdict": "accept"}, "id": "x", "type": "tool_call"}],
        response_metadata={"finish_reason": "STOP", "model_name": "m"},
    )
    again = message_of(Line(role="think", answer=answer_of(raw)))
    assert (again.content, again.tool_calls[0]["args"]) == ("words", {"verdict": "accept"})
    assert again.response_metadata["finish_reason"] == "STOP"


def test_no_line_holds_a_key(file, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "planted-1234567890")
    path = file(line(question(task="my key is planted-1234567890"), "yours is planted-1234567890"))
    assert "planted" not in path.read_text()
