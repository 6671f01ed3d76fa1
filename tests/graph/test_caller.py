"""The real chat model classes against a server on the loopback: what they send, what is made of it."""

from __future__ import annotations

import socket
import threading

import pytest
from langchain_core.messages import HumanMessage
from wire import Reply, Wire, answer, call, fault, limited, no_such_key, words

from evorank.graph.caller import METHODS, Caller, Failed, Interrupted
from evorank.graph.forms import form_schema, read_answer
from evorank.graph.models import Provider, chat_model
from evorank.prompts.answers import Review

GEMINI = "google_genai:gemini-2.5-pro"
REVIEW = {"verdict": "revise", "findings": ["Lower the rate."]}
QUESTION = [HumanMessage("Is this well?")]


@pytest.fixture(autouse=True)
def keys(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", "planted-key")
    monkeypatch.setenv("OPENAI_API_KEY", "planted-key")


@pytest.fixture
def caller():
    """Makes a caller of a server with a script: caller(script, name, ...) -> (caller, wire)."""
    wires = []

    def make(script, name=GEMINI, stop=None, **provider):
        wires.append(Wire(script).__enter__())
        path = "" if name.startswith("google") else "/v1"
        given = Provider.model_validate(
            {"base_url": wires[-1].url + path, "backoff": 0.001, "retries": 2} | provider
        )
        return Caller(name, chat_model(name, 0, given), given, stop or threading.Event()), wires[-1]

    yield make
    for wire in wires:
        wire.__exit__()


def scripted(*replies):
    """Each reply once, the last one for ever; functions of what was asked, or replies."""
    left = list(replies)

    def script(asked):
        given = left.pop(0) if len(left) > 1 else left[0]
        return given(asked) if callable(given) else given

    return script


def asks(of):
    return of.call(QUESTION, form_schema(Review, {}, of.closed))


def test_gemini_is_given_the_schema_and_the_key_in_its_header_and_reports_all_its_tokens(caller):
    asked_of, wire = caller(scripted(REVIEW))
    found = asks(asked_of)
    assert read_answer(found.raw, Review) == Review(**REVIEW)
    (asked,) = wire.asked
    assert asked.path == "/v1beta/models/gemini-2.5-pro:generateContent"
    assert asked.headers["x-goog-api-key"] == "planted-key"
    assert "planted-key" not in asked.path
    assert asked.body["generationConfig"]["responseMimeType"] == "application/json"
    assert asked.schema["required"] == ["verdict", "findings"]
    assert asked.schema["properties"]["verdict"] == {"type": "string", "enum": ["accept", "revise"]}
    assert found.raw.usage_metadata["input_tokens"] == 1000
    assert found.raw.usage_metadata["output_tokens"] == 140, "thinking is paid as output"
    assert found.raw.usage_metadata["input_token_details"] == {"cache_read": 800}
    assert found.raw.usage_metadata["output_token_details"] == {"reasoning": 40}
    assert (found.retries, found.blocked) == (0, "")


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
def test_a_provider_that_takes_no_schema_is_given_a_tool_and_one_without_tools_is_asked_in_words(
    caller, name
):
    def script_of(tools):
        def script(asked):
            if asked.schema is not None:
                return fault(400, "Invalid JSON payload received. Unknown name responseJsonSchema")
            if asked.tool is not None and not tools:
                return fault(400, "Tool use with function calling is unsupported by the model.")
            return answer(asked, REVIEW)

        return script

    for tools, last, sent in ((True, "tool", 2), (False, "words", 3)):
        asked_of, wire = caller(script_of(tools), name)
        assert read_answer(asks(asked_of).raw, Review) == Review(**REVIEW)
        assert len(wire.asked) == sent
        assert read_answer(asks(asked_of).raw, Review) == Review(**REVIEW)
        assert len(wire.asked) == sent + 1, "what worked is remembered"
        final = wire.asked[-1]
        assert (final.tool is not None) == (last == "tool")
        assert ("JSON Schema:" in final.text) == (last == "words")


def test_a_request_that_is_wrong_in_every_form_is_told_as_it_was_first_and_forgotten(caller):
    asked_of, wire = caller(scripted(fault(400, "first"), fault(400, "other"), fault(400, "other"), REVIEW))
    with pytest.raises(Failed, match="first") as failed:
        asks(asked_of)
    assert failed.value.trouble.kind == "invalid"
    assert len(wire.asked) == len(METHODS), "never the same request again"
    asks(asked_of)
    assert wire.asked[-1].schema is not None


def test_gemini_is_waited_for_as_long_as_it_asks(caller):
    asked_of, wire = caller(scripted(limited("0.2s"), REVIEW))
    assert asks(asked_of).retries == 1
    first, second = wire.asked
    assert second.at - first.at >= 0.2


def test_openai_is_waited_for_as_long_as_its_header_asks(caller):
    asked_of, wire = caller(scripted(fault(429, "slow down", retry_after="0.2"), REVIEW), "openai:gpt-5")
    assert asks(asked_of).retries == 1
    first, second = wire.asked
    assert second.at - first.at >= 0.2


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
@pytest.mark.parametrize(
    "broken",
    [fault(500, "internal"), fault(503, "overloaded"), Reply(), Reply(body='{"candidates": [')],
    ids=["500", "503", "closed", "malformed"],
)
def test_a_provider_that_breaks_is_asked_again_and_then_given_up(caller, name, broken):
    asked_of, wire = caller(scripted(broken, REVIEW), name)
    assert asks(asked_of).retries == 1
    asked_of, wire = caller(scripted(broken), name)
    with pytest.raises(Failed) as failed:
        asks(asked_of)
    assert (failed.value.trouble.kind, failed.value.retries, len(wire.asked)) == ("broken", 2, 3)
    assert not failed.value.trouble.of_everything


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
@pytest.mark.parametrize(
    "refusal",
    [no_such_key(), fault(401, "who are you"), fault(403, "not you"), fault(404, "no such model")],
    ids=["key", "401", "403", "404"],
)
def test_a_refusal_of_everything_is_asked_once(caller, name, refusal):
    asked_of, wire = caller(scripted(refusal), name)
    with pytest.raises(Failed) as failed:
        asks(asked_of)
    assert failed.value.trouble.kind == "refused"
    assert failed.value.trouble.of_everything
    assert len(wire.asked) == 1


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
def test_nobody_at_the_address_is_unreachable_and_asked_once_more(caller, name):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    asked_of, _ = caller(scripted(REVIEW), name, base_url=address)
    with pytest.raises(Failed) as failed:
        asks(asked_of)
    assert (failed.value.trouble.kind, failed.value.retries) == ("unreachable", 1)


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
def test_connecting_has_a_limit_of_its_own_that_is_short(caller, name, monkeypatch):
    sent = []

    def watched(whole):
        def send(self, request, **more):
            response = whole(self, request, **more)
            sent.append(request.extensions["timeout"])
            return response

        return send

    for module in map(pytest.importorskip, ("httpx", "httpx2")):  # each SDK has its own
        monkeypatch.setattr(module.Client, "send", watched(module.Client.send))
    asked_of, _ = caller(scripted(REVIEW), name, timeout=77)
    asks(asked_of)
    assert [(each["connect"], each["read"]) for each in sent] == [(5.0, 77.0)]


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
def test_an_answer_that_takes_too_long_is_asked_for_once_more(caller, name):
    late = lambda asked: Reply(body=answer(asked, REVIEW).body, after=1.0)  # noqa: E731
    asked_of, wire = caller(scripted(late, REVIEW), name, timeout=0.3)
    assert asks(asked_of).retries == 1
    asked_of, wire = caller(scripted(late), name, timeout=0.3)
    with pytest.raises(Failed) as failed:
        asks(asked_of)
    assert (failed.value.trouble.kind, len(wire.asked)) == ("slow", 2)


def test_a_wait_ends_when_the_run_is_to_stop(caller):
    stop = threading.Event()
    asked_of, wire = caller(scripted(limited("60s"), REVIEW), stop=stop)
    threading.Timer(0.05, stop.set).start()
    with pytest.raises(Interrupted):
        asks(asked_of)
    assert len(wire.asked) == 1


def test_a_wait_for_a_limit_holds_for_all_who_ask_and_is_told(caller):
    told, waits = [], threading.Event()

    def tell(text):
        told.append(text)
        waits.set()

    asked_of, wire = caller(scripted(limited("1.0s"), REVIEW))
    schema = form_schema(Review, {}, asked_of.closed)
    first = threading.Thread(target=lambda: asked_of.call(QUESTION, schema, tell=tell))
    first.start()
    assert waits.wait(30)
    asked_of.call(QUESTION, schema)
    first.join()
    assert all(later.at - wire.asked[0].at >= 1.0 for later in wire.asked[1:])
    assert len(wire.asked) == 3
    assert "asked again in 1 s" in told[0]


def test_only_so_many_requests_are_under_way_at_once(caller):
    asked_of, wire = caller(lambda asked: Reply(body=answer(asked, REVIEW).body, after=0.05), concurrency=2)
    threads = [threading.Thread(target=asks, args=(asked_of,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    came = [asked.at for asked in wire.asked]
    assert len(came) == 6
    assert all(third - first >= 0.05 for first, third in zip(came, came[2:], strict=False))


def test_a_rate_is_kept_by_langchains_own_limiter(caller):
    asked_of, _ = caller(scripted(REVIEW), requests_per_minute=1200)
    assert asked_of.model.rate_limiter.requests_per_second == 20
    asks(asked_of)


def test_openai_is_given_a_strict_schema_without_free_names(caller):
    asked_of, wire = caller(scripted(REVIEW), "openai:gpt-5")
    found = asks(asked_of)
    assert read_answer(found.raw, Review) == Review(**REVIEW)
    (asked,) = wire.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.body["response_format"]["json_schema"]["strict"] is True
    assert asked.schema["additionalProperties"] is False
    assert found.raw.usage_metadata["input_token_details"]["cache_read"] == 800
    assert found.raw.usage_metadata["output_token_details"]["reasoning"] == 40


@pytest.mark.parametrize("name", [GEMINI, "openai:gpt-5"])
@pytest.mark.parametrize(("finish", "told"), [("MAX_TOKENS", "cut off"), ("SAFETY", "withheld")])
def test_what_is_cut_off_or_withheld_is_an_answer_to_mend(caller, name, finish, told):
    asked_of, _ = caller(lambda asked: words(asked, '{"verdict": "acc', finish), name)
    found = asks(asked_of)
    assert told in read_answer(found.raw, Review)
    if finish == "MAX_TOKENS":
        assert found.raw.usage_metadata["output_tokens"] in (100, 140)


def test_a_tool_that_is_called_is_the_answer_also_where_json_was_asked_for(caller):
    asked_of, _ = caller(lambda asked: call(asked, "Review", REVIEW))
    assert read_answer(asks(asked_of).raw, Review) == Review(**REVIEW)
