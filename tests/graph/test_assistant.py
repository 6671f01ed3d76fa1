"""What agents ask and are answered: as functions, as LangChain tools, over MCP."""

from __future__ import annotations

import asyncio
import json

import pytest
from kept import keep
from planted import give_traffic
from scripted import rates

from evorank.graph.agent_tools import assistant_functions, assistant_tools, mcp_server
from evorank.graph.assistant import Answered, live_status, propose_experiment, what_did_we_learn
from evorank.graph.context import Context, open_session
from evorank.graph.operations import open_operations
from evorank.graph.state import Experiment
from evorank.model.errors import ConfigurationError
from evorank.prompts.answers import Operation

LOWER = [Operation(op="replace", path="/optimizer/args/lr", value=0.05)]
EFFECT = {"metric": "visits", "lift": 0.04, "lift_low": 0.01, "lift_high": 0.07}


@pytest.fixture
def learned(context, attempt):
    """A journal of three candidates: a gate that won live, a gate that lost offline, something else."""
    given = context(rates(0.05))
    session = open_session(given)
    better = {"comparison": {"metric": "log_loss", "difference": -0.01, "low": -0.02, "high": -0.001}}
    gate = {"op": "add", "path": "/architecture/layers/gate", "value": "sigmoid(dense(inputs, 8))"}
    won = attempt(0, surface="tiny", outcome="better", hypothesis="a gated path", changes=[gate], **better)
    lost = attempt(1, surface="tiny", hypothesis="gating by dropout", reason="It is worse.")
    other = attempt(2, surface="tiny", hypothesis="a smaller step", changes=[], **better)
    elsewhere = attempt(3, surface="elsewhere", hypothesis="another gate")
    session.journal.extend([lost, other, won, elsewhere])
    fields = won.model_dump(include={"surface", "run", "hypothesis", "category", "changes"})
    test = {"id": "e1", "attempt": won.id, "proposed_by": "architecture", "production": "p", "phi": {}}
    ended = {"fingerprint": "f", "phase": "completed", "result": "launched", "reason": "Superior."}
    keep(session, Experiment(**fields, **test, **ended, effects=[EFFECT | {"users_control": 9}]))
    return given


def test_what_was_learned_on_a_topic_begins_with_what_people_said(learned):
    found = what_did_we_learn(learned, "gating")
    assert (found.found, found.outcomes, found.live) == (2, {"better": 1, "worse": 1}, {"launched": 1})
    best, second = found.lessons
    assert (best.hypothesis, best.live, best.live_reason) == ("a gated path", "launched", "Superior.")
    assert best.effects == [EFFECT]
    assert best.proxy["difference"] == -0.01
    assert (second.live, second.reason) == (None, "It is worse.")


@pytest.mark.parametrize(
    ("about", "hypotheses"),
    [
        ("what did we learn about gates?", {"a gated path", "gating by dropout"}),
        ("dropout", {"gating by dropout"}),
        ("sigmoid", {"a gated path"}),
        ("transformers", set()),
        ("", {"a gated path", "gating by dropout", "a smaller step"}),
    ],
)
def test_a_topic_is_found_in_words_and_in_changes(learned, about, hypotheses):
    assert {each.hypothesis for each in what_did_we_learn(learned, about).lessons} == hypotheses


def test_more_is_counted_than_is_told_and_long_code_is_cut(learned, attempt):
    source = {"op": "add", "path": "/components/x", "value": {"kind": "layer", "source": "gate\n" * 999}}
    open_session(learned).journal.append(attempt(9, surface="tiny", outcome="refused", changes=[source]))
    found = what_did_we_learn(learned, "gate", limit=3)
    assert (found.found, len(found.lessons)) == (3, 3)
    (refused,) = [each for each in found.lessons if each.outcome == "refused"]
    assert len(refused.changes[0]["value"]["source"]) == 400
    assert len(what_did_we_learn(learned, "gate", limit=1).lessons) == 1


def test_a_home_without_a_journal_is_told(tmp_path):
    with pytest.raises(ConfigurationError, match="no journal yet"):
        what_did_we_learn(Context(home=str(tmp_path)), "gating")


@pytest.fixture
def served(context, home):
    give_traffic(home, {"past": 14})
    return context(rates(0.05))


def test_a_proposal_is_only_checked_unless_writing_is_allowed(served):
    told = propose_experiment(served, LOWER, "a smaller step")
    assert (told.valid, told.queued, told.experiment) == (True, False, None)
    assert "may only read" in told.reason
    assert live_status(served).queued == 0

    told = propose_experiment(served, LOWER, "a smaller step", by="an agent of ada's", write=True)
    assert told.queued
    status = live_status(served)
    assert (status.queued, status.next, status.tests, status.version) == (1, ["a smaller step"], [], None)
    (entry,) = open_operations(served).schedule.entries()
    assert (entry.experiment, entry.data["proposed_by"]) == (told.experiment, "an agent of ada's")
    assert "already" in propose_experiment(served, LOWER, "again", write=True).reason


def test_what_is_wrong_with_a_proposal_is_told_field_by_field(served):
    told = propose_experiment(served, [Operation(op="replace", path="/optimizer/args/lr", value=-1)], "x")
    assert not told.valid
    assert told.findings[0]["pointer"].startswith("/optimizer/args")
    same = propose_experiment(served, [Operation(op="test", path="/optimizer/name", value="Adagrad")], "x")
    assert (same.valid, "production itself" in same.reason) == (False, True)


def test_a_running_test_is_told_without_what_its_numbers_look_like(served):
    session = open_session(served)
    propose_experiment(served, LOWER, "a smaller step", write=True)
    operations = open_operations(served)
    (entry,) = operations.schedule.entries()
    running = Experiment.model_validate(entry.data | {"phase": "live", "started": True})
    reading = {"until": "2026-01-20", "users": [10, 12], "looks": [{"metric": "visits", "z": 3.0}]}
    keep(session, running.model_copy(update={"readings": [reading]}))
    with operations.schedule.lease(entry.experiment, "this test", 60):
        operations.schedule.set(entry.experiment, phase="live", waiting="approval")
    status = live_status(served)
    (test,) = status.tests
    assert (test.phase, test.waits_for, test.users) == ("live", "approval", [10, 12])
    assert status.waiting_for_a_person == [entry.experiment]
    assert "looks" not in status.model_dump_json()


def test_a_surface_without_traffic_says_so_to_whoever_asks(context):
    given = context(rates(0.05))
    open_session(given)
    with pytest.raises(ConfigurationError, match="no live traffic"):
        live_status(given)
    tools = {tool.name: tool for tool in assistant_tools(given)}
    assert "no live traffic" in tools["live_test_status"].invoke({})


def test_tools_say_what_they_do_and_only_the_allowed_one_writes(context):
    given = context(rates(0.05))
    for write, told in ((False, "Nothing is written"), (True, "it is queued")):
        tools = {tool.name: tool for tool in assistant_tools(given, write=write)}
        assert set(tools) == {"what_did_we_learn", "live_test_status", "propose_experiment"}
        assert told in tools["propose_experiment"].description
        assert all(len(tool.description) > 60 for tool in tools.values())
        for tool in tools.values():
            for field in tool.args_schema.model_json_schema()["properties"].values():
                assert field["description"]


def test_a_tool_gives_json_to_the_model_and_data_to_the_program(learned):
    tool = assistant_tools(learned)[0]
    call = {"name": tool.name, "args": {"about": "gating"}, "id": "1", "type": "tool_call"}
    message = tool.invoke(call)
    assert message.artifact == what_did_we_learn(learned, "gating").model_dump(mode="json")
    assert json.loads(message.content) == message.artifact
    assert "limit" in tool.invoke(call | {"args": {"limit": 0}}).content, "wrong arguments are told"


def test_over_mcp_the_answers_are_structured_and_errors_are_told(learned):
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    from mcp import Client

    async def ask(write):
        async with Client(mcp_server(learned, write=write)) as client:
            listed = (await client.list_tools()).tools
            answer = await client.call_tool("what_did_we_learn", {"about": "gating"})
            refusal = await client.call_tool("live_test_status", {})
        return {tool.name: tool for tool in listed}, answer, refusal

    tools, answer, refusal = asyncio.run(ask(write=False))
    assert answer.structured_content == what_did_we_learn(learned, "gating").model_dump(mode="json")
    assert refusal.is_error
    assert "no live traffic" in refusal.content[0].text
    for function in assistant_functions(learned):
        fields = function.__annotations__
        assert "return" in fields
        assert tools[function.__name__].output_schema["properties"]
        assert tools[function.__name__].annotations.read_only_hint
    tools, _, _ = asyncio.run(ask(write=True))
    reads = {name for name, tool in tools.items() if tool.annotations.read_only_hint}
    assert reads == {"what_did_we_learn", "live_test_status"}


def test_every_field_of_an_answer_is_described_where_its_name_does_not_say_it_all():
    plain = {"id", "surface", "about", "hypothesis", "category", "reason", "phase", "trouble", "queued"}
    plain |= {"lessons", "tests", "live_reason", "served_because", "by", "valid"}
    for answer in Answered.__subclasses__():
        for name, field in answer.model_fields.items():
            assert field.description or name in plain, f"{answer.__name__}.{name}"
