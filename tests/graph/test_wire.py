"""The whole offline loop with the real ChatGoogleGenerativeAI, against a server on the loopback."""

from __future__ import annotations

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
from langchain_core.exceptions import ModelPermissionDeniedError
from planted import give_traffic
from scripted import ACCEPT, ScriptedChatModel, learning_rate, proposal
from wire import Wire, fault, in_turn, limited, no_such_key, recorded, withheld, words

from evorank.graph.chats import greet
from evorank.graph.context import close_sessions, open_session
from evorank.graph.evolve import graph as evolve
from evorank.graph.knowledge import MEASURED
from evorank.graph.models import Provider
from evorank.graph.offline import graph
from evorank.graph.operations import open_operations
from evorank.graph.tick import propose
from evorank.model.errors import ChatModelError, ConfigurationError

GEMINI = "google_genai:gemini-2.5-pro"
SAME = {"patch": [{"op": "test", "path": "/optimizer/name", "value": "Adagrad"}]}
"""A delta that changes nothing: the attempt is a duplicate, and nothing is trained."""


@pytest.fixture
def gemini(context, monkeypatch):
    """Makes a context whose chat model is a server with a script: gemini(script, ...) -> (context, wire)."""
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-key")
    wires = []

    def make(script=None, **fields):
        wires.append(Wire(script or idle()).__enter__())
        provider = {"base_url": wires[-1].url, "backoff": 0.001, "retries": 1}
        known = {"model": GEMINI, "providers": {"google_genai": provider}}
        return context(None, **(known | fields)), wires[-1]

    yield make
    for wire in wires:
        wire.__exit__()


def idle(**answers):
    """Proposes what is production already."""
    return in_turn(**({"Proposal": proposal(), "Delta": SAME, "Review": ACCEPT} | answers))


def journal(given, run="r"):
    return open_session(given).journal.attempts(run=run)


def go(given, steps=1, run="r"):
    return graph.invoke({"steps": steps, "run": run}, context=given)


def test_gemini_goes_through_the_whole_loop_and_every_token_is_counted(gemini):
    whole = {}
    script = idle(
        Proposal=[lambda asked: withheld(), proposal()],
        Delta=[lambda asked: whole, learning_rate("fast"), learning_rate(0.05)],
    )
    given, wire = gemini(script)
    whole |= open_session(given).workbench.production
    go(given)
    (attempt,) = journal(given)
    assert attempt.outcome in MEASURED
    assert attempt.changes == [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
    assert attempt.model == GEMINI
    assert [asked.form for asked in wire.asked] == ["Proposal"] * 2 + ["Delta"] * 3 + ["Review"]
    assert "withheld" in wire.asked[1].text
    assert "must not be a whole configuration" in wire.asked[3].text
    assert "/optimizer/args/lr" in wire.asked[4].text
    assert attempt.repairs == 1, "findings of the checks"
    used = attempt.usage
    assert (used.calls, used.repairs, used.failures) == (6, 2, 0)
    assert (used.input_tokens, used.cached_tokens, used.thinking_tokens) == (6000, 4800, 240)
    assert used.output_tokens == 5 * 140 + 40, "what was withheld was written, in part"
    assert used.usd == pytest.approx((1200 * 1.25 + 4800 * 0.125 + 740 * 10) / 1e6)
    calls = open_session(given).chats.desk.spending.calls("r", step=0)
    assert [call.role for call in calls] == ["think"] * 2 + ["code"] * 3 + ["linter"]
    assert {call.persona for call in calls} == {"optimizer", "linter"}
    schema = next(asked.schema for asked in wire.asked if asked.form == "Delta")
    assert (
        "/optimizer or /components"
        in schema["properties"]["patch"]["items"]["properties"]["path"]["description"]
    )


def test_an_openai_compatible_server_goes_through_the_loop_in_strict_forms(gemini, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key")
    given, wire = gemini(model="openai:gpt-5")
    given = given.model_copy(update={"providers": {"openai": Provider(base_url=f"{wire.url}/v1")}})
    go(given)
    (attempt,) = journal(given)
    assert (attempt.outcome, attempt.model) == ("duplicate", "openai:gpt-5")
    assert [(asked.form, asked.body["response_format"]["json_schema"]["strict"]) for asked in wire.asked] == [
        ("Proposal", True),
        ("Delta", True),
    ]
    assert '"additionalProperties": {' not in json.dumps(wire.asked[1].schema), "no free names"
    assert attempt.usage.usd == pytest.approx(2 * (200 * 1.25 + 800 * 0.125 + 100 * 10) / 1e6)


def test_a_graph_that_streams_messages_streams_from_the_provider(gemini):
    given, wire = gemini()
    for _ in graph.stream({"steps": 1, "run": "r"}, context=given, stream_mode="messages", subgraphs=True):
        pass
    assert {asked.path.split(":")[1].split("?")[0] for asked in wire.asked} == {"streamGenerateContent"}
    (attempt,) = journal(given)
    assert attempt.outcome == "duplicate"
    assert (attempt.usage.calls, attempt.usage.input_tokens, attempt.usage.repairs) == (2, 2000, 0)


def test_a_question_that_fails_is_journaled_and_the_run_goes_on(gemini):
    given, _ = gemini(idle(Proposal=[*[fault(503, "overloaded")] * 2, proposal()]))
    assert go(given, 2)["stopped"] is None
    first, second = journal(given)
    assert (first.outcome, first.usage.failures, first.usage.retries) == ("failed", 1, 1)
    assert "overloaded" in first.reason
    assert second.outcome == "duplicate"


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_a_provider_that_fails_every_question_ends_the_run_with_its_cause(gemini, steps):
    given, _ = gemini(idle(Proposal=fault(503, "overloaded")))
    answer = go(given, steps)
    assert len(journal(given)) == min(steps, 3)
    assert answer["stopped"].startswith("chat model: no proposal in ")
    assert "overloaded" in answer["stopped"]


def test_a_run_that_ended_so_goes_on_where_it_was_once_the_provider_is_back(gemini):
    given, wire = gemini(idle(Delta=fault(503, "overloaded")))
    assert go(given, 5)["stopped"]
    close_sessions()
    wire.script = idle()
    answer = go(given, 5)
    assert answer["stopped"] is None
    assert [attempt.outcome for attempt in journal(given)] == ["failed"] * 3 + ["duplicate"] * 2


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [(no_such_key(), "refused"), (fault(404, "no such model"), "refused"), (limited("999s"), "limited")],
)
def test_a_provider_that_refuses_everybody_ends_the_run_and_costs_no_step(gemini, refusal, kind):
    given, wire = gemini(idle(Delta=refusal))
    answer = go(given, 4)
    assert answer["stopped"].startswith(f"chat model: {GEMINI} ({kind}): ")
    assert [asked.form for asked in wire.asked] == ["Proposal", "Delta"]
    assert journal(given) == []
    wire.script = idle()
    assert go(given, 4)["stopped"] is None
    assert len(journal(given)) == 4
    assert open_session(given).chats.desk.spending.total("r").calls == 9, "and what was lost is counted"


def test_nobody_at_the_address_is_named_before_anything_else(gemini):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    given, _ = gemini(providers={"google_genai": {"base_url": url}})
    with pytest.raises(ChatModelError, match=rf"chat model: {GEMINI} \(unreachable\): ConnectError"):
        greet(given)
    assert go(given, 4)["stopped"].startswith(f"chat model: {GEMINI} (unreachable): ")
    assert journal(given) == []


def test_every_model_of_a_context_is_greeted_once_and_the_embedded_engineer_is_not(gemini):
    given, wire = gemini(
        lambda asked: words(asked, "ok"),
        model=f"{GEMINI},google_genai:other",
        models={"linter": GEMINI, "strategist": "embedded"},
    )
    greetings = greet(given)
    assert [each.model for each in greetings] == [GEMINI, "google_genai:other"]
    assert [asked.path.split("/")[-1] for asked in wire.asked] == [
        "gemini-2.5-pro:generateContent", "other:generateContent",
    ]  # fmt: skip
    chats = open_session(given).chats
    chats.note(greetings, "r")
    assert [(call.role, call.usage.input_tokens) for call in chats.desk.spending.calls("r")] == [
        ("hello", 1000),
    ] * 2


def test_a_budget_ends_the_run_between_questions_and_costs_no_step(gemini):
    given, wire = gemini(max_usd=0.004)
    answer = go(given, 5)
    assert answer["stopped"] == "budget: 0.00525 of 0.004 dollars spent"
    assert [asked.form for asked in wire.asked] == ["Proposal", "Delta", "Proposal"]
    assert len(journal(given)) == 1
    richer = given.model_copy(update={"max_usd": 1.0})
    assert go(richer, 2)["stopped"] is None
    assert len(journal(richer)) == 2


def test_money_cannot_be_kept_together_for_a_model_without_a_price(gemini):
    given, _ = gemini(model="google_genai:secret-model", max_usd=1.0)
    with pytest.raises(ConfigurationError, match=r'\[prices\."google_genai:secret-model"\]'):
        open_session(given)
    own = {"google_genai:secret-model": {"input": 1, "output": 2}}
    given, _ = gemini(model="google_genai:secret-model", max_usd=1.0, prices=own)
    go(given)
    assert journal(given)[0].usage.usd == pytest.approx(2 * (1000 * 1 + 140 * 2) / 1e6)


def test_each_role_may_have_a_model_of_its_own(gemini):
    given, wire = gemini(
        idle(Delta=learning_rate(0.05), Review={"verdict": "revise", "findings": ["No."]}),
        models={"linter": "google_genai:gemini-2.5-flash", "code": "google_genai:gemini-2.5-flash-lite"},
    )
    go(given)
    asked = {(each.form, each.path.split("/")[-1].split(":")[0]) for each in wire.asked}
    assert asked == {
        ("Proposal", "gemini-2.5-pro"), ("Delta", "gemini-2.5-flash-lite"), ("Review", "gemini-2.5-flash"),
    }  # fmt: skip
    assert journal(given)[0].model == GEMINI, "who proposed it"


def test_an_ensemble_is_chosen_anew_for_each_attempt_and_the_same_by_the_same_seed(gemini):
    both = "google_genai:gemini-2.5-pro,google_genai:gemini-2.5-flash"

    def proposers(run, seed):
        given, wire = gemini(model=both, seed=seed)
        go(given, 6, run)
        of_think = [each.path.split("/")[-1].split(":")[0] for each in wire.asked if each.form == "Proposal"]
        of_code = [each.path.split("/")[-1].split(":")[0] for each in wire.asked if each.form == "Delta"]
        assert of_think == of_code, "an attempt is one model's"
        assert [each.model.split(":")[1] for each in journal(given, run)] == of_think
        with open_session(given).store.transaction() as access:  # the next run begins with nothing
            access.execute("DELETE FROM checkpoints")
        close_sessions()
        return of_think

    first = proposers("one", 1)
    assert set(first) == {"gemini-2.5-pro", "gemini-2.5-flash"}
    assert proposers("two", 1) == first


def test_a_whole_configuration_may_be_asked_for_and_its_delta_is_computed(gemini):
    phi = {}
    script = idle(Configuration=[lambda asked: {"phi": phi, "explanation": "as it is"}, {"phi": 7}])
    given, wire = gemini(script, generation="full")
    phi |= open_session(given).workbench.production
    go(given, 2)
    first, second = journal(given)
    assert first.outcome == "duplicate"
    assert "production itself" in first.reason
    asked = next(each for each in wire.asked if each.form == "Configuration")
    assert "Write the whole configuration" in asked.text
    assert "Rules of a patch" not in asked.text
    assert "epochs" in asked.schema["properties"]["phi"]["properties"]["optimizer"]["properties"]
    assert second.outcome == "failed"
    wire.script = idle(
        Configuration=lambda asked: {"phi": phi | {"optimizer": phi["optimizer"] | {"batch_size": "big"}}}
    )
    go(given, 3)
    third = journal(given)[2]
    assert third.patch == [{"op": "replace", "path": "/optimizer/batch_size", "value": "big"}]
    assert third.outcome == "refused"
    with pytest.raises(ConfigurationError, match="`generation` full"):
        open_session(given.model_copy(update={"model": None}))


def test_no_days_pass_for_a_batch_that_could_not_be_asked(home, context):
    def refuse(form, messages):
        raise ModelPermissionDeniedError("not you")

    give_traffic(home, {"effect": 1.2}, horizon_days=14, pre_days=14)
    given = context(ScriptedChatModel(script=refuse), selection="fifo")
    platform = open_operations(given).platform
    day = platform.now()
    answer = evolve.invoke({"steps": 2, "run": "r", "days": 28}, context=given)
    assert answer["stopped"] == "chat model: scripted (refused): ModelPermissionDeniedError: not you"
    assert platform.now() == day
    assert answer["attempts"] == []


def test_a_recorded_run_is_replayed_exactly_without_a_key_or_a_server(gemini, home, tmp_path, monkeypatch):
    path = tmp_path / "calls.jsonl"
    script = idle(
        Proposal=[proposal(), proposal(category="gamble"), proposal(hypothesis="a larger one")],
        Delta=[learning_rate(0.05), learning_rate("fast"), *[fault(500, "internal")] * 2, SAME],
    )
    given, wire = gemini(script, record=str(path))
    go(given, 3)
    recorded_run = journal(given)
    assert [each.outcome in MEASURED for each in recorded_run] == [True, False, False]
    assert "planted-key" not in path.read_text()

    def facts(attempts):
        shown = []
        for each in attempts:
            comparison = each.comparison or {}
            spent = each.usage.model_dump(exclude={"cpu_seconds"})
            shown.append((each.hypothesis, each.patch, each.outcome, each.fingerprint, spent, each.model,
                          comparison.get("difference"), each.repairs))  # fmt: skip
        return shown

    served = given.model_copy(update={"record": None, "home": fresh(home, tmp_path / "served")})
    wire.script = recorded(path, retries=1)
    go(served, 3)
    assert facts(journal(served)) == facts(recorded_run), "the server may answer from the file, too"
    monkeypatch.delenv("GOOGLE_API_KEY")
    count = len(wire.asked)
    again = given.model_copy(update={"record": None, "replay": str(path), "home": fresh(home, tmp_path)})
    assert go(again, 3, "another-name")["stopped"] is None
    assert facts(journal(again, "another-name")) == facts(recorded_run)
    assert len(wire.asked) == count
    other = again.model_copy(update={"seed": 7, "home": fresh(home, tmp_path / "other")})
    assert '+{"call": "think"' in go(other, 3)["stopped"]
    assert go(other, 3)["stopped"].startswith(f"replay: {path} holds another question in step 0, optimizer")
    assert journal(other) == []


def test_a_run_with_live_tests_is_replayed_with_what_its_strategist_said(gemini, home, tmp_path, monkeypatch):
    give_traffic(home, {"effect": 1.2}, horizon_days=7, pre_days=7)
    path = tmp_path / "calls.jsonl"

    def ranks(asked):
        ids = re.findall(r'"id": "([^"]+)", "now"', asked.text)
        return {"order": ids[::-1], "reason": "The last comes first."}

    script = idle(Delta=[learning_rate(0.2), learning_rate(0.05)], Ranking=ranks)

    def lives(given, run):
        for rate in (0.02, 0.03):
            changed = [{"op": "replace", "path": "/optimizer/args/lr", "value": rate}]
            propose(open_operations(given), changed, why="another step", by="ada")
        answer = evolve.invoke({"steps": 2, "run": run, "days": 4}, context=given)
        assert answer["stopped"] is None
        found = open_session(given).journal.experiments("tiny")
        calls = open_session(given).chats.desk.spending.calls(run)
        assert any(call.role == "strategist" for call in calls)
        return [(each.id, each.result) for each in found], len(calls)

    given, wire = gemini(script, record=str(path), selection="ranked")
    replayed = fresh(home, tmp_path)
    recorded_run = lives(given, "20260101-000000-0001")
    close_sessions()
    monkeypatch.delenv("GOOGLE_API_KEY")
    count = len(wire.asked)
    again = given.model_copy(update={"record": None, "replay": str(path), "home": replayed})
    assert lives(again, "20260707-070707-beef") == recorded_run
    assert len(wire.asked) == count


def fresh(home: Path, folder: Path) -> str:
    """The home's surface and nothing else, elsewhere."""
    shutil.copytree(home / "surfaces", folder / "again" / "surfaces")
    return str(folder / "again")
