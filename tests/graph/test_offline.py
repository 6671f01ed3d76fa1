from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from scripted import ScriptedChatModel, in_turn, learning_rate, proposal, rates

from evorank.graph import offline_graph
from evorank.graph.context import open_session
from evorank.graph.journal import Journal, thread_id
from evorank.graph.offline import builder, graph
from evorank.graph.state import OfflineInput
from evorank.model.errors import ConfigurationError, ToolError


def test_a_recording_by_hand_decides_whose_turn_each_step_is(context, tmp_path):
    same = {"patch": [{"op": "test", "path": "/reward/loss", "value": "bce"}]}
    answers = (("think", "Inquiry", {}), ("think", "Proposal", proposal()), ("code", "Delta", same))
    lines = [{"recording": 1, "note": "written by hand"}]
    for step in range(3):  # a bandit would let personas take turns
        for role, form, content in answers:
            told = {"step": step, "persona": "reward", "role": role, "form": form}
            lines.append(told | {"answer": {"content": content}})
    path = tmp_path / "calls.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    given = context(None, model="by hand", replay=str(path), personas=None, max_usd=1.0)
    assert graph.invoke({"steps": 3, "run": "r"}, context=given)["stopped"] is None
    attempts = open_session(given).journal.attempts(run="r")
    assert [(each.persona, each.outcome, each.model) for each in attempts] == [
        ("reward", "duplicate", "by hand")
    ] * 3
    assert sum(each.usage.calls for each in attempts) == 0, "nobody was asked"
    alone = given.model_copy(update={"personas": ["optimizer"]})
    with pytest.raises(ConfigurationError, match="`replay` answers as persona 'reward' in step 0"):
        graph.invoke({"steps": 3, "run": "another"}, context=alone)


def test_the_picture_shows_the_real_cycles():
    edges = {(edge.source, edge.target) for edge in graph.get_graph().edges}
    assert edges == {
        ("__start__", "dispatch"),
        ("dispatch", "turn"),
        ("dispatch", "reflect"),
        ("dispatch", "finish"),
        ("turn", "dispatch"),
        ("reflect", "dispatch"),
        ("finish", "__end__"),
    }
    inside = {
        (edge.source.split(":")[-1], edge.target.split(":")[-1]) for edge in graph.get_graph(xray=True).edges
    }
    assert {
        ("wonder", "look"),
        ("look", "wonder"),
        ("__end__", "think"),
        ("code", "verify"),
        ("code", "record"),
        ("verify", "code"),
        ("verify", "tool"),
        ("verify", "record"),
        ("tool", "record"),
    } <= inside


def test_a_run_answers_with_its_attempts_and_the_best(context):
    answer = graph.invoke({"steps": 3}, context=context(rates(0.3, 0.03, 0.03)))
    assert [attempt["step"] for attempt in answer["attempts"]] == [0, 1, 2]
    assert answer["attempts"][2]["outcome"] == "duplicate"
    assert answer["stopped"] is None
    better = [each for each in answer["attempts"] if each["outcome"] == "better"]
    wanted = min(better, key=lambda each: each["comparison"]["difference"], default=None)
    assert answer["best"] == wanted
    assert json.loads(json.dumps(answer)) == answer


def test_custom_events_tell_the_nodes_and_the_result_of_a_step(context):
    given = context(rates(0.05))
    stream = graph.stream({"steps": 1}, context=given, stream_mode="custom", subgraphs=True)
    events = [event for _, event in stream]
    nodes = [event["node"] for event in events if event["event"] == "node"]
    assert nodes == ["think", "code", "verify", "tool"]
    assert any(event["event"] == "progress" and "training" in event["text"] for event in events)
    runs = [(event["finished"], event["steps"]) for event in events if event["event"] == "run"]
    assert runs == [(0, 1), (1, 1)]
    assert events[-2]["event"] == "attempt"
    assert events[-2]["outcome"] == open_session(given).journal.attempts()[0].outcome


def test_personas_take_turns(context):
    model = ScriptedChatModel(script=lambda form, messages: RuntimeError("off"))
    given = context(model, personas=["architecture", "optimizer"], parallel=2)
    answer = graph.invoke({"steps": 2}, context=given)
    assert [attempt["persona"] for attempt in answer["attempts"]] == ["architecture", "optimizer"]


def test_attempts_of_a_batch_see_the_journal_as_it_was_before_the_batch(context):
    def script(form, messages):
        return proposal(hypothesis="seen") if form == "Proposal" else learning_rate("never valid")

    model = ScriptedChatModel(script=script)
    given = context(model, parallel=2)
    graph.invoke({"steps": 1, "run": "earlier"}, context=given)
    graph.invoke({"steps": 4, "run": "r"}, context=given)
    seen = [text.count('"hypothesis": "seen"') for form, text in model.asked if form == "Proposal"]
    assert seen == [0, 1, 1, 3, 3]


def test_records_that_others_add_during_a_run_are_not_seen_by_it(context, attempt):
    given = context(None)
    journal = open_session(context(rates(0.05))).journal

    def script(form, messages):
        if form == "Proposal" and not journal.get(thread_id("other", 0)):
            journal.append(attempt(0, run="other", surface="tiny", hypothesis="from elsewhere"))
        return proposal() if form == "Proposal" else learning_rate("never valid")

    model = ScriptedChatModel(script=script)
    graph.invoke({"steps": 2}, context=given.model_copy(update={"chat_model": model}))
    assert journal.get(thread_id("other", 0)) is not None
    assert not any("from elsewhere" in text for _, text in model.asked)


def test_the_same_seed_makes_the_same_proposals_under_another_name_in_another_home(
    context, home, tmp_path, template
):
    def candidates(folder: Path, run: str, seed: int):
        given = context(None, home=str(folder), parallel=2, seed=seed, personas=["optimizer", "architecture"])
        graph.invoke({"steps": 2, "run": run}, context=given)
        records = sorted(open_session(given).journal.attempts(run=run), key=lambda attempt: attempt.step)
        return [(record.persona, record.hypothesis, record.fingerprint) for record in records]

    shutil.copytree(template, tmp_path / "second")
    shutil.copytree(template, tmp_path / "third")
    first = candidates(home, "one", seed=3)
    assert first == candidates(tmp_path / "second", "two", seed=3)
    assert first != candidates(tmp_path / "third", "one", seed=4)


def test_a_run_is_taken_up_by_its_name_without_any_checkpointer(context):
    graph.invoke({"steps": 2, "run": "r"}, context=context(rates(0.05, 0.02)))
    model = rates(0.01)
    answer = graph.invoke({"steps": 3, "run": "r"}, context=context(model))
    assert len(answer["attempts"]) == 3
    assert model.count("Proposal") == 1
    assert model.count("Review") == 1


def test_a_batch_that_lost_one_step_is_completed_before_the_next_begins(context, attempt):
    model = ScriptedChatModel(script=lambda form, messages: RuntimeError("off"))
    given = context(model, parallel=3)
    journal = open_session(given).journal
    for step in (0, 2):
        journal.append(attempt(step, run="r", surface="tiny"))
    dispatched = []
    for update in graph.stream({"steps": 5, "run": "r"}, context=given, stream_mode="updates"):
        if "dispatch" in update:
            steps = [step for turn in update["dispatch"]["batch"] for step in turn]
            dispatched.append([(each["step"], each["before"]) for each in steps])
    assert dispatched == [[(1, 0)], [(3, 3), (4, 3)], []]


def test_a_stop_lets_running_steps_finish_and_begins_no_further_batch(context):
    given = context(None)

    def script(form, messages):
        open_session(live).request_stop("interrupted")
        return proposal() if form == "Proposal" else learning_rate("never valid")

    live = given.model_copy(update={"chat_model": ScriptedChatModel(script=script)})
    answer = graph.invoke({"steps": 5}, context=live)
    assert len(answer["attempts"]) == 1
    assert answer["stopped"] == "interrupted"


@pytest.mark.parametrize(("budget", "told"), [({"max_calls": 4}, "calls"), ({"max_tokens": 500}, "tokens")])
def test_a_spent_budget_stops_the_run_and_says_which(context, budget, told):
    answer = graph.invoke(
        {"steps": 6}, context=context(in_turn([proposal()], [learning_rate("no")]), **budget)
    )
    assert len(answer["attempts"]) in (1, 2)
    assert answer["stopped"].startswith("budget: ")
    assert told in answer["stopped"]


def test_a_chat_model_that_never_proposes_stops_the_run_with_its_reason(context):
    model = ScriptedChatModel(script=lambda form, messages: PermissionError("API key not valid"))
    answer = graph.invoke({"steps": 50}, context=context(model))
    assert len(answer["attempts"]) == 3
    assert answer["stopped"].startswith("chat model: ")
    assert "API key not valid" in answer["stopped"]


def test_failures_of_tools_do_not_stop_a_run(context, trainings):
    trainings.refuse = ToolError("out of memory")
    answer = graph.invoke({"steps": 4}, context=context(rates(0.01, 0.02, 0.03, 0.04)))
    assert [attempt["outcome"] for attempt in answer["attempts"]] == ["failed"] * 4
    assert answer["stopped"] is None


def test_one_thread_is_one_run_and_more_steps_go_on_with_it(context):
    compiled = builder.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    given = context(rates(0.05, 0.02, 0.01))
    first = compiled.invoke({"steps": 1}, thread, context=given, durability="sync")
    second = compiled.invoke({"steps": 2}, thread, context=given, durability="sync")
    assert second["run"] == first["run"]
    assert second["attempts"][0] == first["attempts"][0]
    assert len(second["attempts"]) == 2


def test_the_state_of_a_run_does_not_grow_with_its_attempts(context):
    compiled = builder.compile(checkpointer=InMemorySaver())
    thread = {"configurable": {"thread_id": "t"}}
    compiled.invoke({"steps": 2}, thread, context=context(rates(0.05, 0.02)), durability="sync")
    loops = [snapshot.values for snapshot in compiled.get_state_history(thread) if snapshot.next == ("turn",)]
    sizes = {len(json.dumps(values)) for values in loops}
    assert len(loops) == 2
    assert max(sizes) - min(sizes) < 20


@pytest.mark.heavy
def test_a_killed_run_goes_on_without_losing_or_repeating_a_step(home, lent):
    script = str(Path(__file__).with_name("runner.py"))
    command = [sys.executable, script, str(home), lent]
    lines = home / "trainings.txt"
    with subprocess.Popen(command) as process:
        journal = Journal.open(home)
        deadline = time.monotonic() + 120
        # In the middle: some steps are recorded, and another has trainings behind it but no record.
        while process.poll() is None and time.monotonic() < deadline:
            recorded = len(journal.attempts())
            trained = len(set(lines.read_text().split())) if lines.exists() else 0
            if recorded >= 2 and trained > recorded + 1:
                break
            time.sleep(0.002)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()
    before = {attempt.step: attempt for attempt in journal.attempts()}
    assert 2 <= len(before) < 6
    already = lines.read_text().split()
    subprocess.run(command, check=True, timeout=120)
    after = journal.attempts()
    assert sorted(attempt.step for attempt in after) == list(range(6))
    assert {step: after_ for after_ in after if (step := after_.step) in before} == before
    again = lines.read_text().split()[len(already) :]
    rates_done = {str(attempt.phi["optimizer"]["args"]["lr"]) for attempt in before.values()}
    assert not rates_done & set(again), "a finished step was trained again"
    asked = (home / "asked.txt").read_text().split()
    assert len(asked) == len(set(asked)) or len(asked) <= 6 + 2, "finished steps thought again"


def test_the_public_graph_has_typed_input_and_output():
    assert offline_graph is graph
    fields = graph.get_input_jsonschema()["properties"]
    assert set(fields) == set(OfflineInput.model_fields)
    assert all(field.get("description") for field in fields.values())
    assert set(graph.get_output_jsonschema()["properties"]) == {"run", "attempts", "best", "stopped"}
