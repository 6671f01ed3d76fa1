"""Questions on somebody's account, with the real Gemini class and a server on the loopback."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
from langchain_core.messages import HumanMessage
from wire import Wire, blocked, fault, in_turn, limited, no_such_key, withheld, words

from evorank.graph.ask import Chat, Desk, Unanswered, Unasked, ask
from evorank.graph.caller import Caller
from evorank.graph.exchanges import Exchanges
from evorank.graph.models import Provider, chat_model
from evorank.graph.prices import Prices
from evorank.graph.recording import Head, Player, Recorder
from evorank.graph.spending import Account, Budget, Spending
from evorank.graph.state import Usage
from evorank.graph.store import Store
from evorank.prompts.answers import Review

GEMINI = "google_genai:gemini-2.5-pro"
GOOD = {"verdict": "accept", "findings": []}
QUESTION = [HumanMessage("Is this well?")]
ACCOUNT = Account(run="r", step=1, persona="linter")


@pytest.fixture
def chat(tmp_path, monkeypatch):
    """Makes a chat with a server: chat(script, ...) -> (chat, wire)."""
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-key")
    store = Store.open(tmp_path)
    wires = []

    def make(script, price=True, limits=None, **desk):
        wires.append(Wire(script).__enter__())
        given = Provider(base_url=wires[-1].url, backoff=0.001, retries=1)
        spending = Spending(store, "tiny")
        names = ("max_calls", "max_tokens", "max_usd", "max_minutes")
        budget = Budget(SimpleNamespace(**dict.fromkeys(names) | (limits or {})), spending)
        caller = Caller(GEMINI, chat_model(GEMINI, 0, given), given, threading.Event())
        known = Prices().of(GEMINI) if price else None
        return Chat(
            GEMINI, "linter", ACCOUNT, Desk(spending, budget, Exchanges(store, "tiny"), **desk), caller, known
        ), wires[-1]

    yield make
    for wire in wires:
        wire.__exit__()
    store.close()


def spending_of(given):
    return given.desk.spending.total("r")


def test_an_answer_comes_in_its_form_and_its_cost_is_on_the_account(chat):
    given, _ = chat(in_turn(Review=GOOD))
    review, usage = ask(given, QUESTION, Review)
    assert review == Review(**GOOD)
    usd = (200 * 1.25 + 800 * 0.125 + 140 * 10) / 1e6
    assert usage.model_dump(exclude_defaults=True) == {
        "calls": 1,
        "input_tokens": 1000,
        "cached_tokens": 800,
        "output_tokens": 140,
        "thinking_tokens": 40,
        "usd": pytest.approx(usd),
    }
    (call,) = given.desk.spending.calls("r")
    assert (call.role, call.persona, call.model, call.step) == ("linter", "linter", GEMINI, 1)
    assert call.usage == usage


def test_an_unknown_price_and_unreported_tokens_are_counted_as_such(chat):
    given, _ = chat(in_turn(Review=GOOD), price=False)
    _, usage = ask(given, QUESTION, Review)
    assert (usage.usd, usage.unpriced, usage.unreported) == (None, 1, 0)

    def silent(asked):
        reply = words(asked, '{"verdict": "accept"}')
        del reply.body["usageMetadata"]
        return reply

    given, _ = chat(silent)
    _, usage = ask(given, QUESTION, Review)
    assert (usage.input_tokens, usage.usd, usage.unpriced, usage.unreported) == (None, None, 1, 1)


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (lambda asked: words(asked, '{"verdict": "acc'), "malformed"),
        (lambda asked: words(asked, '{"verdict": "acc', "MAX_TOKENS"), "cut off"),
        (lambda asked: withheld(), "withheld by the provider (SAFETY)"),
        (lambda asked: {"verdict": "maybe"}, "`verdict` input should be"),
    ],
    ids=["malformed", "truncated", "withheld", "invalid"],
)
def test_an_answer_that_misses_the_form_is_told_why_and_asked_for_again(chat, bad, told):
    given, wire = chat(in_turn(Review=[bad, GOOD]))
    review, usage = ask(given, QUESTION, Review)
    assert review == Review(**GOOD)
    assert (usage.calls, usage.repairs) == (2, 1)
    assert told in wire.asked[1].text
    given, wire = chat(in_turn(Review=bad))
    with pytest.raises(Unanswered, match="did not answer with a valid Review") as unanswered:
        ask(given, QUESTION, Review)
    assert not isinstance(unanswered.value, Unasked)
    assert (unanswered.value.usage.calls, unanswered.value.usage.repairs, len(wire.asked)) == (3, 2, 3)


def test_a_tool_call_that_misses_the_form_is_answered_in_plain_text(chat):
    """A message with a tool call would have to be followed by the tool's result."""
    refuse = fault(400, "Unknown name responseJsonSchema")
    script = in_turn(Review=[refuse, {"verdict": "maybe"}, GOOD])
    given, wire = chat(script)
    assert ask(given, QUESTION, Review)[0] == Review(**GOOD)
    contents = wire.asked[-1].body["contents"]
    assert [each["role"] for each in contents] == ["user", "model", "user"]
    assert all(set(part) == {"text"} for each in contents for part in each["parts"])


def test_a_prompt_that_is_blocked_fails_at_once_with_the_reason(chat):
    given, wire = chat(in_turn(Review=blocked()))
    with pytest.raises(Unanswered, match=r"blocked the prompt \(PROHIBITED_CONTENT\)"):
        ask(given, QUESTION, Review)
    assert len(wire.asked) == 1


def test_a_provider_that_fails_one_question_may_be_asked_the_next(chat):
    given, _ = chat(in_turn(Review=[fault(500, "internal"), fault(500, "internal"), GOOD]))
    with pytest.raises(Unanswered, match=r"gemini-2.5-pro failed: .*internal") as unanswered:
        ask(given, QUESTION, Review)
    assert not isinstance(unanswered.value, Unasked)
    assert (unanswered.value.usage.failures, unanswered.value.usage.retries) == (1, 1)
    assert ask(given, QUESTION, Review)[1].failures == 0
    assert spending_of(given).failures == 1


@pytest.mark.parametrize(
    ("refusal", "kind"), [(no_such_key(), "refused"), (limited("9999s"), "limited")], ids=["key", "quota"]
)
def test_a_provider_that_refuses_everything_is_not_asked_again_in_this_run(chat, refusal, kind):
    given, wire = chat(in_turn(Review=refusal))
    for _ in range(2):
        with pytest.raises(Unasked):
            ask(given, QUESTION, Review)
    assert len(wire.asked) == 1
    assert given.desk.failed["r"].startswith(f"chat model: {GEMINI} ({kind}): ")
    assert "planted-key" not in given.desk.failed["r"]


def test_nothing_is_asked_once_a_budget_is_spent(chat):
    given, wire = chat(in_turn(Review=GOOD), limits={"max_usd": 0.001})
    ask(given, QUESTION, Review)
    with pytest.raises(Unasked, match=r"budget: 0\.00175 of 0\.001 dollars spent"):
        ask(given, QUESTION, Review)
    assert len(wire.asked) == 1


def test_a_recording_answers_as_the_provider_did_failures_and_repairs_included(chat, tmp_path):
    recorder = Recorder(tmp_path / "calls.jsonl")
    recorder.begin(Head())
    script = in_turn(Review=[{"verdict": "maybe"}, GOOD, *[fault(500, "internal")] * 2, withheld()])
    questions = [[HumanMessage(f"question {number}")] for number in range(3)]

    def results(given):
        found = []
        for question in questions:
            try:
                found.append(ask(given, question, Review))
            except Unanswered as error:
                found.append((str(error), error.usage))
        return found

    given, _ = chat(script, recorder=recorder)
    recorded = results(given)
    assert [usage.calls for _, usage in recorded] == [2, 0, 3]
    player = Player(recorder.path)
    desk = Desk(given.desk.spending, given.desk.budget, given.desk.exchanges, player=player)
    replayed = Chat(GEMINI, "linter", ACCOUNT, desk, None)
    assert results(replayed) == recorded
    with pytest.raises(Unasked, match="holds another question") as unasked:
        ask(replayed, [HumanMessage("question 9")], Review)
    assert unasked.value.usage == Usage()
    assert replayed.desk.failed["r"].startswith("replay: ")
    assert "planted-key" not in recorder.path.read_text()
