"""Patience with somebody else's server: what is tried again, how long it waits, and what is never shown."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from evorank.surfaces.rest import Refused, Rest, Unanswered

sys.path.append(str(Path(__file__).parent))
from fake_growthbook import KEY, FakeGrowthBook


@pytest.fixture
def fake() -> Iterator[FakeGrowthBook]:
    with FakeGrowthBook() as server:
        yield server


def rest(fake: FakeGrowthBook, waits: list[float], **changes: float) -> Rest:
    patience = {"timeout_s": 5.0, "tries": 4, "pause_s": 1.0, "patience_s": 60.0} | changes
    return Rest(f"{fake.url}/v1", KEY, sleep=waits.append, **patience)


def test_pauses_double_and_are_no_longer_than_patience(fake: FakeGrowthBook) -> None:
    waits: list[float] = []
    fake.fail(*[{"status": 503}] * 3)
    assert rest(fake, waits).get("/features/ranker")["feature"]["id"] == "ranker"
    assert waits == [1, 2, 4]
    fake.fail(*[{"status": 503}] * 9)
    with pytest.raises(Unanswered, match=r"answered 503.*Tried 6 times"):
        rest(fake, waits, tries=6, patience_s=3).get("/features/ranker")
    assert waits[3:] == [1, 2, 3, 3, 3]


@pytest.mark.parametrize(("after", "wait"), [("7", 7), ("0.5", 1), ("soon", 1)])
def test_retry_after_is_obeyed_as_seconds(fake: FakeGrowthBook, after: str, wait: float) -> None:
    waits: list[float] = []
    fake.fail({"status": 429, "headers": {"Retry-After": after}})
    rest(fake, waits).get("/features/ranker")
    assert waits == [wait]


def test_retry_after_is_obeyed_as_a_date(fake: FakeGrowthBook) -> None:
    waits: list[float] = []
    fake.fail({"status": 429, "headers": {"Retry-After": formatdate(time.time() + 3000, usegmt=True)}})
    rest(fake, waits, patience_s=4000).get("/features/ranker")
    assert len(waits) == 1
    assert 2000 <= waits[0] <= 3000


def test_a_wait_that_is_too_long_is_left_to_the_caller(fake: FakeGrowthBook) -> None:
    waits: list[float] = []
    fake.fail({"status": 429, "headers": {"Retry-After": "300"}})
    with pytest.raises(Unanswered, match="wait 300 s"):
        rest(fake, waits).get("/features/ranker")
    assert waits == []
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 302])
def test_a_refusal_is_not_tried_again_and_does_not_repeat_the_key(fake: FakeGrowthBook, status: int) -> None:
    waits: list[float] = []
    fake.fail({"status": status, "headers": {"Location": "http://127.0.0.1:1/elsewhere"}})
    with pytest.raises(Refused, match=f"answered {status}: bad luck, Bearer \\*\\*\\*") as refused:
        rest(fake, waits).get("/features/ranker")
    assert KEY not in str(refused.value)
    assert waits == []
    assert len(fake.requests) == 1


@pytest.mark.parametrize("failure", [{"status": 500}, {"lost": True}, {"hang": True}], ids=str)
def test_what_may_have_happened_is_not_posted_twice_unless_twice_is_as_good_as_once(
    fake: FakeGrowthBook, failure: dict
) -> None:
    waits: list[float] = []
    fake.fail(failure)
    with pytest.raises(Unanswered, match="happened or not"):
        rest(fake, waits, timeout_s=0.3).post("/features/ranker", {"archived": True}, again=False)
    assert len(fake.requests) == 1
    fake.fail(failure)
    rest(fake, waits, timeout_s=0.3).post("/features/ranker", {"archived": True})
    assert len(fake.requests) == 3


def test_what_certainly_did_not_happen_is_posted_again(fake: FakeGrowthBook) -> None:
    waits: list[float] = []
    fake.fail({"status": 429})
    rest(fake, waits).post("/features/ranker", {"archived": True}, again=False)
    assert len(fake.requests) == 2


def test_a_server_that_is_not_there_is_told(fake: FakeGrowthBook) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    waits: list[float] = []
    with pytest.raises(Unanswered, match=r"ConnectError.*Tried 2 times; is the server up"):
        Rest(url, KEY, 1.0, 2, 0.5, 60.0, waits.append).get("/experiments")
    assert waits == [0.5]
