"""Every view of a home in which both loops ran: it renders, links lead somewhere, nothing is markup."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import duckdb
import pytest
from both_loops import HOSTILE, TOKEN

pytest.importorskip("fastapi", reason="the extra `ui` is not installed")

from starlette.testclient import TestClient

from evorank.graph.context import Context
from evorank.graph.exchanges import Exchanges
from evorank.graph.notes import Finding, Kept, Notes
from evorank.graph.plan import new_plan
from evorank.graph.recording import Line
from evorank.graph.runs import carry_out
from evorank.graph.steering import Steering
from evorank.tools.evaluator.local import LocalPool
from evorank.ui.app import VIEWS, create_app
from evorank.ui.source import Source

PORT = 8765
ALLOWED = {"/static/htmx.min.js", "/static/page.js"}


@pytest.fixture(scope="module")
def client(source):
    app = create_app(source, TOKEN, PORT, "ada")
    headers = {"authorization": f"Bearer {TOKEN}"}
    return TestClient(app, base_url=f"http://127.0.0.1:{PORT}", headers=headers)


class Page(HTMLParser):
    """What a browser would make of a page: scripts, links, ids, inline code, text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts, self.links, self.ids, self.inline, self.words = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if tag == "script":
            self.scripts.append(given.get("src"))
        if "id" in given:
            self.ids.append(given["id"])
        self.links += [
            given[name] for name in ("href", "src", "action", "hx-get", "hx-post") if given.get(name)
        ]
        self.inline += [name for name in given if name.startswith("on") or name == "style"]
        if tag in ("img", "iframe", "style"):
            self.inline.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def opened(client, path: str, status: int = 200) -> Page:
    answer = client.get(path)
    assert answer.status_code == status, (path, answer.text[-2000:])
    page = Page(answer.text)
    assert set(page.scripts) <= ALLOWED, page.scripts
    assert page.inline == []
    assert len(page.ids) == len(set(page.ids)), "ids must be unique: parts of a page are replaced by id"
    assert path.endswith("/prompts") or "None" not in page.text, "but for what others wrote"
    return page


@pytest.mark.parametrize("path", [path for path, _ in VIEWS])
def test_each_view_renders_and_all_its_links_lead_somewhere(client, path):
    page = opened(client, path)
    assert "tiny" in page.text
    for link in {link for link in page.links if link.startswith("/") and link != "/events"}:
        answer = client.get(link)
        assert answer.status_code in (200, 405), link


def test_every_attempt_and_every_live_test_has_its_page(client, source):
    found = source.snapshot()
    assert len(found.attempts) == 8
    for attempt in found.attempts:
        page = opened(client, f"/attempts/{attempt.id}")
        assert attempt.reason.split(":")[0] in page.text
        assert attempt.id[:8] in page.text
    assert {each.result for each in found.experiments} >= {"launched", "aborted", None}
    for experiment in found.experiments:
        page = opened(client, f"/experiments/{experiment.id}")
        assert experiment.id[:8] in page.text


def test_what_people_and_models_wrote_is_text_and_never_markup(client, source):
    hostile = [each for each in source.snapshot().experiments if "owned" in each.hypothesis + each.reason]
    assert len(hostile) == 2
    for each in hostile:
        for path in (f"/experiments/{each.id}", "/experiments", "/"):
            opened(client, path)
        assert HOSTILE in opened(client, f"/experiments/{each.id}").text


def test_a_launch_is_told_with_its_rule_its_effects_and_its_days(client, source):
    serving = source.snapshot().versions[-1].experiment
    launched = source.snapshot().experiment_of[serving]
    page = opened(client, f"/experiments/{launched.id}")
    for told in ("superior_and_safe", "visits", "dislikes", "margin", "equal arms", "completed", "Roll back"):
        assert told in page.text, told


def test_a_test_that_waits_for_a_person_is_on_the_first_page_and_can_be_approved(client, source):
    (waiting,) = [each for each in source.snapshot().entries if each.waiting == "approval"]
    assert "Waits for a person" in opened(client, "/").text
    page = opened(client, f"/experiments/{waiting.experiment}")
    assert "Approve" in page.text
    assert "Abort" in page.text
    assert "Resume" not in page.text


def test_what_was_asked_of_proposals_and_what_the_journal_taught_is_told_with_its_evidence(
    source_of, attempt
):
    table = f"| title |\n| --- |\n| {HOSTILE} |"
    tried = attempt(
        0,
        gain=0.01,
        outcome="better",
        steering=["s1"],
        insights=[{"query": "SELECT 1", "table": table, "finding": f"clicks {HOSTILE}"}],
        reviews=[{"verdict": "revise", "findings": ["say why"], "fingerprint": "f"}],
    )
    source = source_of([tried])
    Steering(source.store, "simulated").add(
        f"small towers {HOSTILE}", "architecture", until_steps=20, by="ada"
    )
    Steering(source.store, "simulated").add("an old wish")
    Steering(source.store, "simulated").remove("s2", by="bob")
    claim = Finding(claim=f"smaller steps {HOSTILE}", cites=[tried.id, "gone-by-now"])
    note = Kept(surface="simulated", run="r", before=4, mark="", covers=1, model="m", works=[claim])
    Notes(source.store, "simulated").keep(note)
    client = TestClient(
        create_app(source, TOKEN, PORT, "ada"),
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    page = opened(client, "/steering")
    for told in (
        "small towers",
        "1 attempts",
        "20 steps",
        "removed",
        "by bob",
        "smaller steps",
        "clicks",
        "1 caught",
    ):
        assert told in page.text, told
    assert f"/attempts/{tried.id}" in page.links
    page = opened(client, f"/attempts/{tried.id}")
    for told in (
        f"small towers {HOSTILE}",
        f"Read out of it: clicks {HOSTILE}",
        "The linter: revise",
        HOSTILE,
    ):
        assert told in page.text, told


def test_a_candidate_that_a_run_asks_about_is_looked_at_edited_and_measured(home):
    with LocalPool(1) as pool:
        context = Context(
            surface="tiny",
            home=str(home),
            parallel=1,
            seeds=2,
            pool=pool,
            personas=["optimizer"],
            inspect=True,
        )
        plan = new_plan(context, 1)
        assert "wait for a person" in carry_out(plan, context).stopped
        source = Source(Context(surface="tiny", home=str(home)))
        client = TestClient(
            create_app(source, TOKEN, PORT, "ada"),
            base_url=f"http://127.0.0.1:{PORT}",
            headers={"authorization": f"Bearer {TOKEN}"},
            follow_redirects=False,
        )
        (about,) = source.snapshot().inspections
        path = f"/inspections/{about['attempt']}"
        assert path in opened(client, "/").links
        page = opened(client, path)
        assert "It is not measured before somebody has looked at it" in page.text
        assert "optimizer." in page.text
        (shown,) = client.get("/api/inspections").json()
        assert shown["patch"] == about["patch"]

        answer = {"token": TOKEN, "surface": "tiny", "by": "grace"}
        assert client.post(path, data=answer | {"action": "reject"}).status_code == 409
        assert client.post(path, data=answer | {"action": "edit", "patch": "no json"}).status_code == 409
        assert client.post(path, data=answer | {"action": "approve", "token": "x"}).status_code == 403
        mine = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.03}]
        edited = answer | {"action": "edit", "patch": json.dumps(mine), "reason": "smaller"}
        assert client.post(path, data=edited).status_code == 303
        assert client.get(path).status_code == 404
        assert client.post(f"/api{path}", json={"action": "approve", "by": "eve"}).status_code == 409

        carry_out(plan, context)
        (measured,) = [each for each in source.snapshot().attempts if each.run == plan.run]
        assert measured.patch == mine
        assert measured.comparison is not None
        page = opened(client, f"/attempts/{measured.id}")
        assert "Edited by grace before it was measured" in page.text
        source.close()


def test_every_attempt_leads_to_what_was_asked_and_answered_word_for_word(client, source):
    for attempt in source.snapshot().attempts:
        assert f"/attempts/{attempt.id}/prompts" in client.get(f"/attempts/{attempt.id}").text
        page = client.get(f"/attempts/{attempt.id}/prompts").text
        told = client.get(f"/api/attempts/{attempt.id}/prompts").json()["exchanges"]
        if not told:
            assert "Nobody was asked for this candidate" in page
            continue
        assert "## Journal" in page, "the prompt"
        (thought,) = [each for each in told if each["form"] == "Proposal"]
        assert json.loads(thought["answer"])["hypothesis"] == attempt.hypothesis
    assert told, "of the last one at least"


def test_what_models_wrote_is_escaped_and_what_failed_is_shown(finished, home):
    source = Source(Context(surface="tiny", home=str(home)))
    third = next(each for each in source.snapshot().attempts if each.step == 3)
    asked = [{"role": "system", "content": HOSTILE}]
    answer = {"content": "", "tool_calls": [{"name": "Proposal", "args": {"hypothesis": HOSTILE}}]}
    kept = Exchanges(source.store, "tiny")
    for line in (
        Line(step=3, role="think", model="m", form="Proposal", messages=asked, answer=answer),
        Line(step=3, role="code", model="m", failure="429 too many"),
        Line(step=31, role="think", model="m", messages=[{"role": "user", "content": "of another step"}]),
    ):
        kept.keep(third.run, line)
    client = TestClient(
        create_app(source, TOKEN, PORT, "ada"),
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    page = opened(client, f"/attempts/{third.id}/prompts")
    assert HOSTILE in page.text, "as text, in the prompt"
    assert json.dumps(HOSTILE) in page.text, "and in the answer"
    assert "429 too many" in page.text
    assert "of another step" not in page.text
    source.close()


def test_a_training_that_was_given_up_shows_how_far_it_came_beside_production(source_of, attempt):
    curves = {"candidate": [(100, 0.9), (200, 0.8)], "production": [(100, 0.7), (200, 0.5), (300, 0.4)]}
    lost = attempt(0, outcome="worse", reason="Stopped after 66% of the training.", curves=curves)
    client = TestClient(
        create_app(source_of([lost]), TOKEN, PORT, "ada"),
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    page = opened(client, f"/attempts/{lost.id}")
    assert "Why it was given up" in page.text
    assert "candidate ends at 0.8 after 200 rows" in page.text


def test_a_surface_without_live_traffic_shows_what_it_has(tmp_path, attempt, source_of):
    client = TestClient(
        create_app(source_of([attempt(0, gain=0.01, outcome="better")]), TOKEN, PORT, "ada"),
        base_url=f"http://127.0.0.1:{PORT}",
        headers={"authorization": f"Bearer {TOKEN}"},
    )
    for path, _ in VIEWS:
        assert "simulated" in opened(client, path).text
    assert "no live traffic" in opened(client, "/").text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/attempts/00000000-0000-0000-0000-000000000000", 404),
        ("/experiments/00000000", 404),
        ("/?surface=nowhere", 404),
        ("/journal?page=zero", 422),
        ("/journal?sort=sideways", 422),
        ("/experiments?sort=gain", 422),
        ("/progress?until=soon", 422),
        ("/compare?by=colour", 422),
        ("/journal/export.exe", 404),
    ],
)
def test_an_address_that_leads_nowhere_says_so(client, path, status):
    opened(client, path, status)


def test_the_table_is_exported_as_it_is_filtered(client, source, tmp_path):
    wanted = [each for each in source.snapshot().attempts if each.persona == "optimizer"]
    lines = client.get("/journal/export.jsonl?persona=optimizer").text.splitlines()
    assert {json.loads(line)["id"] for line in lines} == {each.id for each in wanted}
    for ending in ("csv", "parquet"):
        answer = client.get(f"/journal/export.{ending}?persona=optimizer")
        assert f'filename="tiny-journal.{ending}"' in answer.headers["content-disposition"]
        (tmp_path / f"out.{ending}").write_bytes(answer.content)
        counted = duckdb.connect().execute(f"SELECT count(*) FROM '{tmp_path}/out.{ending}'").fetchone()
        assert counted == (len(wanted),)
    assert client.get("/journal/export.csv?persona=reward").status_code == 409
    lines = client.get("/experiments/export.jsonl").text.splitlines()
    assert {json.loads(line)["id"] for line in lines} == set(source.snapshot().experiment_of)
    launched = [each.id for each in source.snapshot().experiments if each.result == "launched"]
    lines = client.get("/experiments/export.jsonl?state=launched&sort=oldest").text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == launched


def test_the_page_names_every_part_that_it_replaces(client):
    for path, _ in VIEWS:
        text = client.get(path).text
        (live,) = re.findall(r'hx-select-oob="([^"]*)"', text)
        assert live
        assert {each.removeprefix("#") for each in live.split(",")} <= set(Page(text).ids), path
