"""Who may talk to the page, tried on the whole application."""

from __future__ import annotations

import pytest
from both_loops import TOKEN

pytest.importorskip("fastapi", reason="the extra `ui` is not installed")

from starlette.testclient import TestClient

from evorank.ui.app import create_app

PORT = 8765
HOST = f"127.0.0.1:{PORT}"
BEARER = {"authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def app(source):
    return create_app(source, TOKEN, PORT, "ada")


@pytest.fixture
def client(app):
    return TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)


@pytest.mark.parametrize("path", ["/", "/journal", "/events", "/api/overview", "/openapi.json", "/nothing"])
def test_nothing_is_shown_without_the_token(client, path):
    assert client.get(path).status_code == 401
    assert client.get(path, headers={"authorization": "Bearer wrong"}).status_code == 401
    assert client.get(f"{path}?token=wrong").status_code == 401


def test_the_printed_address_works_once_opened_and_leaves_no_token_in_the_address(client):
    welcome = client.get(f"/journal?token={TOKEN}&q=rate")
    assert welcome.status_code == 303
    assert welcome.headers["location"] == "/journal?q=rate"
    cookie = welcome.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert client.get("/journal").status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", f"127.0.0.1.evil.example:{PORT}", f"127.0.0.1:{PORT + 1}", ""]
)
def test_another_host_is_refused_whatever_it_knows(client, host):
    assert client.get("/", headers=BEARER | {"host": host}).status_code == 421
    assert client.get("/static/page.css", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", [HOST, f"localhost:{PORT}", f"[::1]:{PORT}"])
def test_this_machine_is_answered_by_each_of_its_names(client, host):
    assert client.get("/", headers=BEARER | {"host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": f"http://127.0.0.1:{PORT + 1}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_what_another_page_asks_for_is_refused_although_the_browser_brings_the_cookie(client, headers):
    client.cookies.set(f"evorank-{PORT}", TOKEN)
    assert client.get("/", headers=headers).status_code == 403
    asked = client.post("/api/experiments/aaaaaaaa/actions", headers=BEARER | headers, json={})
    assert asked.status_code == 403


def test_an_action_needs_the_token_itself_and_a_cookie_is_not_enough(client, source):
    (waiting,) = [each for each in source.snapshot().entries if each.waiting == "approval"]
    client.cookies.set(f"evorank-{PORT}", TOKEN)
    body = {"action": "approve", "by": "eve"}
    path = f"/experiments/{waiting.experiment}/actions"
    assert client.post(f"/api{path}", json=body).status_code == 401
    assert client.post(f"/api{path}", json=body, headers={"authorization": "Bearer x"}).status_code == 401
    assert client.post(path, data=body).status_code == 403
    assert client.post(path, data=body | {"token": "x"}).status_code == 403
    assert source.snapshot().asked == {}


def test_every_answer_forbids_inline_script_and_other_origins(client):
    for path in ("/", "/static/page.js", "/api/overview", "/nothing", "/events?token=wrong"):
        answer = client.get(path, headers=BEARER)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"


def test_a_body_that_is_too_large_is_not_read(client):
    asked = client.post("/experiments/aaaaaaaa/actions", headers=BEARER, content=b"x" * 200_000)
    assert asked.status_code == 413
