"""The JSON API keeps what its OpenAPI document says, whatever is asked of it."""

from __future__ import annotations

import pytest
from both_loops import TOKEN

from evorank.graph.context import Context
from evorank.graph.schedule import Schedule
from evorank.ui.source import Source

pytestmark = pytest.mark.filterwarnings(
    "ignore:Overriding standard format", "ignore:The anyio.abc.BlockingPortal alias"
)
pytest.importorskip("fastapi", reason="the extra `ui` is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from schemathesis.specs.openapi.checks import ignored_auth  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from evorank.ui.app import create_app  # noqa: E402

PORT = 8765
HOST = {"host": f"127.0.0.1:{PORT}"}
BEARER = {"authorization": f"Bearer {TOKEN}"} | HOST
FEW = settings(
    max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def app(source):
    return create_app(source, TOKEN, PORT, "ada")


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=BEARER)


@pytest.fixture(scope="module")
def operations(app):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=BEARER)
    return [found.ok() for found in schema.get_all_operations()]


def test_every_answer_is_what_the_document_says(operations):
    """With parameters that are right, and with nonsense. Actions are asked without the token: all refused."""
    assert len(operations) >= 10
    for operation in operations:

        @FEW
        @given(case=operation.as_strategy())
        def answers(case):
            # That a token is needed is tried in test_guard.py; here it is given, whatever the case would.
            case.call_and_validate(
                headers=BEARER if case.method == "GET" else HOST, excluded_checks=[ignored_auth]
            )

        answers()


def test_what_the_views_show_is_what_the_api_answers(client, source):
    found = source.snapshot()
    assert client.get("/api/overview").json()["attempts"]["tried"] == 8
    page = client.get("/api/attempts", params={"persona": "optimizer", "per": 2, "sort": "oldest"}).json()
    assert page["total"] == sum(each.persona == "optimizer" for each in found.attempts)
    assert [row["id"] for row in page["rows"]] == [
        each.id for each in found.attempts if each.persona == "optimizer"
    ][:2]
    for attempt in found.attempts:
        shown = client.get(f"/api/attempts/{attempt.id}").json()
        assert shown["patch"] == attempt.patch
        assert shown["line"]["outcome"] == attempt.outcome
    for experiment in found.experiments:
        shown = client.get(f"/api/experiments/{experiment.id}").json()
        assert [each["until"] for each in shown["days"]] == [each["until"] for each in experiment.readings]
    page = client.get("/api/experiments", params={"state": "launched", "per": 1, "surface": "tiny"}).json()
    assert page["total"] == sum(each.result == "launched" for each in found.experiments)
    assert [row["state"] for row in page["rows"]] == ["launched"]
    assert len(client.get("/api/lineage").json()["steps"]) == len(found.versions)
    assert client.get("/api/audit").json() is None


def test_an_action_is_a_row_with_who_and_when_and_is_asked_once(home):
    mine = Source(Context(surface="tiny", home=str(home)))
    client = TestClient(
        create_app(mine, TOKEN, PORT, "ada"), base_url=f"http://127.0.0.1:{PORT}", headers=BEARER
    )
    (waiting,) = [each.experiment for each in mine.snapshot().entries if each.waiting == "approval"]
    path = f"/api/experiments/{waiting}"
    assert client.get(path).json()["actions"] == ["approve", "pause", "abort"]
    assert client.post(f"{path}/actions", json={"action": "resume", "by": "eve"}).status_code == 409
    assert client.post(f"{path}/actions", json={"action": "abort", "by": "eve"}).status_code == 409
    assert client.post(f"{path}/actions", json={"action": "launch", "by": "eve"}).status_code == 422
    assert client.post(f"{path}/actions", json={"action": "approve"}).status_code == 422
    asked = client.post(f"{path}/actions", json={"action": "approve", "by": "eve", "reason": "go"})
    assert asked.status_code == 202
    assert "the next tick" in asked.json()["said"]
    (row,) = Schedule(mine.store, "tiny").pending(waiting)
    assert (row.action, row.by, row.reason) == ("approve", "eve", "go")
    assert client.get(path).json()["actions"] == ["pause", "abort"]
    mine.close()


def test_a_directive_is_put_in_force_and_taken_out_with_who_did_it(home):
    mine = Source(Context(surface="tiny", home=str(home)))
    client = TestClient(
        create_app(mine, TOKEN, PORT, "ada"), base_url=f"http://127.0.0.1:{PORT}", headers=BEARER
    )
    wish = {"text": "small towers", "persona": "architecture", "until": "20 steps", "by": "eve"}
    assert client.post("/api/directives", json=wish | {"persona": "plumber"}).status_code == 409
    assert client.post("/api/directives", json=wish | {"until": "soon"}).status_code == 409
    assert client.post("/api/directives", json=wish | {"text": ""}).status_code == 422
    assert client.post("/api/directives", json=wish).status_code == 202
    (shown,) = client.get("/api/steering").json()["directives"]
    assert (shown["id"], shown["persona"], shown["until"], shown["by"]) == (
        "s1",
        "architecture",
        "20 steps",
        "eve",
    )
    assert client.post("/api/directives/s2/remove", json={"by": "bob"}).status_code == 409
    assert client.post("/api/directives/s1/remove", json={"by": "bob"}).status_code == 202
    told = client.get("/api/steering").json()
    assert told["directives"] == []
    assert told["ended"][0]["ended"].endswith("by bob")
    mine.close()
