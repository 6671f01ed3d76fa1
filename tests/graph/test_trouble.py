from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import httpx
import pytest
from langchain_core.exceptions import ContextOverflowError, ModelRateLimitError, ModelTimeoutError

from evorank.graph.trouble import MAX_WAIT, Trouble, pause, trouble_of


class OfSdk(Exception):
    """As SDKs make them: with a status, or with a response."""

    def __init__(self, text: str = "", **more: object) -> None:
        super().__init__(text)
        self.__dict__ |= more


def response(**headers: str) -> SimpleNamespace:
    return SimpleNamespace(headers=httpx.Headers({n.replace("_", "-"): v for n, v in headers.items()}))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ModelTimeoutError("late"), "slow"),
        (ContextOverflowError("too long"), "failed"),
        (OfSdk(status_code=401), "refused"),
        (OfSdk(code=404), "refused"),
        (OfSdk(status_code=422), "invalid"),
        (OfSdk(status_code=418), "failed"),
        (OfSdk(response=SimpleNamespace(status_code=502, headers={})), "broken"),
        (OfSdk("insufficient_quota", status_code=429), "refused"),
        (OfSdk("You exceeded your current quota", status_code=429), "limited"),
        (httpx.ConnectTimeout("no answer"), "unreachable"),
        (httpx.ReadTimeout("no answer"), "slow"),
        (httpx.RemoteProtocolError("closed"), "broken"),
        (ConnectionRefusedError("no"), "unreachable"),
        (TimeoutError("no"), "slow"),
        (RuntimeError("whatever"), "failed"),
    ],
)
def test_errors_of_any_package_are_told_apart(error, kind):
    assert trouble_of(error).kind == kind


def test_the_cause_says_more_than_the_error_that_wraps_it():
    error = OfSdk("Connection error.")
    error.__cause__ = httpx.ConnectError("[Errno -2] Name or service not known")
    assert trouble_of(error).kind == "unreachable"


def google(**retry: str) -> dict[str, object]:
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", **retry}
    return {"error": {"code": 429, "details": [{"@type": "type.googleapis.com/google.rpc.Help"}, info]}}


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (OfSdk(response=response(retry_after="7")), 7),
        (OfSdk(response=response(retry_after_ms="1500", retry_after="2")), 1.5),
        (OfSdk(details=google(retryDelay="17.25s")), 17.25),
        (OfSdk(details=google(retryDelay="soon")), None),
        (OfSdk(details=google()), None),
        (OfSdk(details={"error": "text"}), None),
        (OfSdk(response=response(retry_after="later")), None),
        (OfSdk(response=response()), None),
    ],
)
def test_how_long_a_provider_asks_to_wait_is_found_wherever_it_says_so(error, wait):
    outer = ModelRateLimitError("slow down")
    outer.__cause__ = error
    found = trouble_of(outer)
    assert (found.kind, found.wait) == ("limited", wait)


def test_a_date_to_come_back_at_is_understood():
    then = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    found = trouble_of(OfSdk(status_code=503, response=response(retry_after=then)))
    assert 50 < found.wait <= 60


def waits(kind, retries=3, known=True, wait=None):
    """Seconds before each retry, until it is given up."""
    found = []
    for tried in range(1, 30):
        seconds = pause(Trouble(kind, "", wait), tried, retries, 2.0, known)
        if seconds is None:
            return found
        found.append(seconds)
    raise AssertionError("it never ends")


def test_what_may_pass_is_asked_again_at_growing_intervals_and_what_will_not_is_not():
    assert waits("broken") == [2, 4, 8]
    assert waits("limited") == [2, 4, 8]
    assert waits("slow") == [2]
    assert max(waits("broken", retries=9)) <= MAX_WAIT / 2
    for kind in ("refused", "invalid", "failed"):
        assert waits(kind) == []
    assert waits("broken", retries=0) == []


def test_a_provider_that_never_answered_is_not_waited_for_like_one_that_is_away():
    assert waits("unreachable", known=False) == [1]
    assert waits("unreachable", known=True) == [2, 4, 8]


def test_what_a_provider_asks_for_is_kept_to_unless_it_is_too_long():
    assert waits("limited", wait=17.0) == [17, 17, 17]
    assert waits("broken", wait=0.5) == [0.5, 0.5, 0.5]
    assert waits("limited", wait=-3.0) == [0, 0, 0]
    assert waits("limited", wait=3600.0) == []


def test_no_key_is_in_what_is_told(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-1234567890")
    found = trouble_of(OfSdk("Incorrect API key provided: sk-planted-1234567890.", status_code=401))
    assert found.text == "OfSdk: Incorrect API key provided: ***."
    assert len(trouble_of(RuntimeError("x" * 9000)).text) < 500
