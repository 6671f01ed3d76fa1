"""The dev server with all graphs, driven over loopback as Studio would drive it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from planted import Planted, give_traffic

import evorank.graph
from evorank.graph.context import open_session
from evorank.graph.evolve import EvolveInput
from evorank.graph.inspections import Inspection, Inspections
from evorank.graph.journal import Journal
from evorank.graph.knowledge import MEASURED
from evorank.graph.online import OnlineInput
from evorank.graph.plan import load_plan
from evorank.graph.runs import carry_out
from evorank.graph.state import Experiment, OfflineInput
from evorank.graph.store import Store
from evorank.graph.tick import experiment_id
from evorank.model.delta import apply_delta, fingerprint

ROOT = Path(__file__).parents[2]
HERE = str(Path(__file__).parent)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One server for all tests: each brings a home of its own."""
    tmp_path = tmp_path_factory.mktemp("server")
    pytest.importorskip("langgraph_api", reason="langgraph-cli[inmem] is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "1",
        "LANGSMITH_TRACING": "false",
        "OMP_NUM_THREADS": "1",
        # where the platform `planted` is, before what this process was given
        "PYTHONPATH": os.pathsep.join(filter(None, [HERE, os.environ.get("PYTHONPATH")])),
    }
    log = (tmp_path / "server.log").open("w")
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload"]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--config", str(ROOT / "langgraph.json")],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"

    def told() -> str:
        return (tmp_path / "server.log").read_text()[-4000:]

    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/ok", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, told()
                assert time.monotonic() < deadline, told()
                time.sleep(0.2)
        yield Server(url, told)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@dataclass(frozen=True)
class Server:
    url: str
    told: Callable[[], str]
    """The end of its log."""

    @property
    def client(self):
        from langgraph_sdk import get_sync_client

        return get_sync_client(url=self.url)

    def assistant(self, graph):
        (found,) = self.client.assistants.search(graph_id=graph)
        return found

    def run(self, thread, graph, context, **given):
        """What a run answers, once it has ended or waits for somebody."""
        answer = self.client.runs.wait(thread, graph, context=context, **given)
        assert "__error__" not in answer, (answer, self.told())
        return answer

    def interrupts(self, thread):
        return [
            each for task in self.client.threads.get_state(thread)["tasks"] for each in task["interrupts"]
        ]


GRAPHS = {"offline": OfflineInput, "online": OnlineInput, "evolve": EvolveInput}


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_served_is_what_the_package_exports_and_says_what_it_is(name):
    served = json.loads((ROOT / "langgraph.json").read_text())["graphs"][name]
    module, attribute = served["path"].split(":")
    assert getattr(importlib.import_module(module), attribute) is getattr(evorank.graph, f"{name}_graph")
    assert len(served["description"]) > 50


@pytest.mark.heavy
def test_the_forms_of_every_graph_describe_their_fields_with_defaults_and_choices(server):
    for name, given in GRAPHS.items():
        assistant = server.assistant(name)
        assert assistant["description"]
        schemas = server.client.assistants.get_schemas(assistant["assistant_id"])
        fields = schemas["input_schema"]["properties"]
        assert set(fields) == set(given.model_fields)
        forms = [fields, schemas["output_schema"]["properties"], schemas["context_schema"]["properties"]]
        for field in (field for form in forms for field in form.values()):
            assert field.get("description"), (name, field)
        context = schemas["context_schema"]["properties"]
        assert context["selection"]["enum"] == ["fifo", "ranked"]
        assert context["seeds"]["default"] == 8
        assert context["inspect"]["default"] is False
        assert "simulated" in context["surface"]["examples"]
    picture = server.client.assistants.get_graph(server.assistant("offline")["assistant_id"], xray=True)
    edges = {(edge["source"].split(":")[-1], edge["target"].split(":")[-1]) for edge in picture["edges"]}
    assert {("verify", "inspect"), ("inspect", "tool"), ("inspect", "verify"), ("inspect", "record")} <= edges


EDITED = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.037}]


@pytest.mark.heavy
def test_a_run_tells_its_progress_and_a_candidate_of_it_is_edited_and_forked(server, home):
    client, thread = server.client, server.client.threads.create()["thread_id"]
    context = {"surface": "tiny", "home": str(home), "parallel": 1, "seeds": 2, "workers": 1}
    streamed = client.runs.stream(
        thread,
        "offline",
        input={"steps": 1, "run": "studio"},
        context=context,
        stream_mode=["custom", "values"],
        stream_subgraphs=True,
    )
    events = [part.data for part in streamed if part.event.startswith("custom")]
    assert events[0] == {"event": "run", "run": "studio", "finished": 0, "steps": 1}, server.told()
    assert [each["node"] for each in events if each["event"] == "node"][:2] == ["think", "code"]
    assert any(each["event"] == "progress" and each["text"] for each in events)
    (first,) = [each for each in events if each["event"] == "attempt"]

    (before,) = [each for each in client.threads.get_history(thread) if each["next"] == ["turn"]]
    ((step,),) = before["values"]["batch"]
    again = step | {
        "proposal": {"category": "exploit", "hypothesis": "a rate between the two"},
        "delta": {"patch": EDITED},
        "fork": "in between",
    }
    forked = client.threads.update_state(
        thread, {"batch": [[again]]}, checkpoint=before["checkpoint"], as_node="dispatch"
    )
    answer = server.run(thread, "offline", context, input=None, checkpoint=forked["checkpoint"])
    assert [attempt["step"] for attempt in answer["attempts"]] == [0, 0]
    journal = Journal.open(home)
    original, fork = journal.attempts(run="studio")
    journal.close()
    assert original.id == first["id"]
    assert original.model == "embedded engineer"
    assert (fork.origin.kind, fork.origin.attempt) == ("fork", original.id)
    assert (fork.patch, fork.hypothesis) == (EDITED, "a rate between the two")
    assert fork.outcome in MEASURED

    # The server's own /mcp answers with text for people, not with data: docs/embedding.md says so.
    call = {"name": "offline", "arguments": {"steps": 1, "run": "studio"}, "context": context}
    asked = urllib.request.Request(
        f"{server.url}/mcp",
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}).encode(),
        {"Content-Type": "application/json", "Accept": "application/json"},
    )
    told = json.loads(urllib.request.urlopen(asked, timeout=120).read())["result"]
    assert set(told) == {"content"}
    text = told["content"][0]["text"]
    assert text.startswith("{'run': 'studio', 'attempts': [{")


@pytest.mark.heavy
def test_a_run_goes_on_in_studio_and_at_the_command_line_by_turns(server, home, context):
    """Every candidate waits for a person; whoever goes on with the run finds what the other left."""
    at_the_command_line = context(None, inspect=True)
    over_there = {"surface": "tiny", "home": str(home), "personas": ["optimizer"], "parallel": 1, "seeds": 2}
    over_there |= {"inspect": True, "workers": 1}
    thread = server.client.threads.create()["thread_id"]
    server.run(thread, "offline", over_there, input={"steps": 2, "run": "shared"})
    (asked,) = server.interrupts(thread)
    assert asked["value"]["step"] == 0
    assert asked["response_schema"]["properties"]["action"]["enum"] == ["approve", "edit", "reject"]

    summary = carry_out(load_plan(home, "shared"), at_the_command_line)
    assert summary.stopped == "inspection: 1 candidates wait for a person"
    (waiting,) = summary.waiting
    assert waiting["patch"] == asked["value"]["patch"]
    store = Store.open(home)
    Inspections(store).answer(waiting["attempt"], Inspection(action="approve", by="ada"))
    store.close()
    summary = carry_out(load_plan(home, "shared"), at_the_command_line)
    assert (summary.finished, len(summary.waiting)) == (1, 1), "the first is measured, the second waits"

    server.run(thread, "offline", over_there, input=None)
    (asked,) = server.interrupts(thread)
    assert asked["value"]["attempt"] == summary.waiting[0]["attempt"]
    reject = {"action": "reject", "by": "bob", "reason": "not before the holidays"}
    answer = server.run(thread, "offline", over_there, command={"resume": reject})
    assert len(answer["attempts"]) == 2

    summary = carry_out(load_plan(home, "shared"), at_the_command_line)
    assert (summary.finished, summary.stopped) == (2, None)
    attempts = open_session(at_the_command_line).journal.attempts(run="shared")
    assert [[said.by for said in attempt.inspections] for attempt in attempts] == [["ada"], ["bob"]]
    assert attempts[0].outcome in MEASURED
    assert attempts[1].reason == "Rejected by bob: not before the holidays"


@pytest.mark.heavy
def test_the_example_of_a_remote_graph_goes_on_with_the_night_it_began(server, home, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "remote_graph"))
    app = importlib.import_module("nightly").nightly_app(
        server.url, {"surface": "tiny", "home": str(home), "parallel": 1, "seeds": 2, "workers": 1}
    )
    for _ in range(2):
        night = app.invoke({"night": "2026-01-05", "budget": 1})
        assert night["report"].startswith("2026-01-05: 1 candidates, "), server.told()
    journal = Journal.open(home)
    assert len(journal.attempts(run="night-2026-01-05")) == 1
    journal.close()


DELTA = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]


@pytest.fixture
def planted(home):
    """The tiny surface, served by a platform that likes every candidate; its tests last a week."""
    return give_traffic(home, {"effect": 1.3, "past": 14})


def proposed(surface) -> Experiment:
    production = surface.production()
    phi = apply_delta(production, DELTA)
    before, after = fingerprint(production), fingerprint(phi)
    return Experiment(
        id=experiment_id("tiny", before, after),
        surface="tiny",
        proposed_by="studio",
        hypothesis="a smaller step",
        production=before,
        changes=DELTA,
        phi=phi,
        fingerprint=after,
    )


@pytest.mark.heavy
def test_an_experiment_goes_through_its_phases_on_the_server_and_a_person_approves_its_launch(
    server, home, planted
):
    client = server.client
    context = {"surface": "tiny", "home": str(home), "seeds": 2, "workers": 1, "approve": True}
    thread = client.threads.create()["thread_id"]
    experiment = proposed(planted)

    def go(**given):
        """Goes on until the experiment parks again: what it waits for, and its phase."""
        server.run(thread, "online", context, **given)
        (interrupt,) = server.interrupts(thread)
        assert set(interrupt["response_schema"]["properties"]) >= {"action", "by", "reason"}
        phase = client.threads.get_state(thread)["values"]["record"]["phase"]
        return interrupt["value"]["waits_for"], phase

    assert go(input={"record": experiment.model_dump(mode="json")}) == ("slot", "proposed")
    assert go(command={"resume": {"action": "tick"}}) == ("day", "live")
    platform = Planted(planted, None)
    for day in range(7):
        platform.next_day()
        waits_for = "day" if day < 6 else "approval"
        assert go(command={"resume": {"action": "tick"}}) == (waits_for, "live")
    approve = {"action": "approve", "by": "bob", "reason": "it is time"}
    answer = server.run(thread, "online", context, command={"resume": approve})
    assert answer["record"]["result"] == "launched", answer

    assert platform.running() == []
    journal = Journal.open(home)
    (found,) = journal.experiments("tiny")
    journal.close()
    assert (found.id, found.result, found.approvals[0]["by"]) == (experiment.id, "launched", "bob")
    assert set(found.times) == {"proposed", "validated", "training", "live", "completed"}
