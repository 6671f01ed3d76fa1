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
from pathlib import Path

import pytest
from planted import Planted, give_traffic

import evorank.graph
from evorank.graph.evolve import EvolveInput
from evorank.graph.journal import Journal
from evorank.graph.online import OnlineInput
from evorank.graph.state import Experiment, OfflineInput
from evorank.graph.tick import experiment_id
from evorank.model.delta import apply_delta, fingerprint

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("langgraph_api", reason="langgraph-cli[inmem] is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "LANGGRAPH_CLI_NO_ANALYTICS": "1",
        "LANGGRAPH_NO_VERSION_CHECK": "1",
        "LANGSMITH_TRACING": "false",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parent),  # where the platform `planted` is
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
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/ok", timeout=2).read()
                break
            except OSError:
                told = (tmp_path / "server.log").read_text()
                assert process.poll() is None, told
                assert time.monotonic() < deadline, told
                time.sleep(0.2)
        yield url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()


@pytest.mark.parametrize("name", ["offline", "online", "evolve"])
def test_what_is_served_is_what_the_package_exports(name):
    module, attribute = json.loads((ROOT / "langgraph.json").read_text())["graphs"][name].split(":")
    assert getattr(importlib.import_module(module), attribute) is getattr(evorank.graph, f"{name}_graph")


@pytest.mark.heavy
def test_a_run_started_over_the_server_ends_with_journaled_attempts(server, home, tmp_path):
    from langgraph_sdk import get_sync_client

    client = get_sync_client(url=server)
    (assistant,) = client.assistants.search(graph_id="offline")
    schemas = client.assistants.get_schemas(assistant["assistant_id"])
    assert set(schemas["input_schema"]["properties"]) == set(OfflineInput.model_fields)
    assert {"run", "attempts", "best", "stopped"} == set(schemas["output_schema"]["properties"])
    assert "description" in schemas["context_schema"]["properties"]["surface"]

    thread = client.threads.create()
    context = {"surface": "tiny", "home": str(home), "parallel": 2, "seeds": 2, "workers": 1}
    answer = client.runs.wait(
        thread["thread_id"], "offline", input={"steps": 2, "run": "studio"}, context=context
    )
    told = (tmp_path / "server.log").read_text()[-4000:]
    assert [attempt["step"] for attempt in answer.get("attempts", [])] == [0, 1], (answer, told)
    journal = Journal.open(home)
    assert {attempt.id for attempt in journal.attempts(run="studio")} == {
        attempt["id"] for attempt in answer["attempts"]
    }
    assert {attempt.model for attempt in journal.attempts()} == {"embedded engineer"}
    nodes = set(client.assistants.get_graph(assistant["assistant_id"], xray=True)["nodes"][0])
    assert nodes, "the picture is served"


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
    server, home, planted, tmp_path
):
    from langgraph_sdk import get_sync_client

    client = get_sync_client(url=server)
    for graph, given in (("offline", OfflineInput), ("online", OnlineInput), ("evolve", EvolveInput)):
        (assistant,) = client.assistants.search(graph_id=graph)
        schemas = client.assistants.get_schemas(assistant["assistant_id"])
        fields = schemas["input_schema"]["properties"]
        assert set(fields) == set(given.model_fields)
        for field in (*fields.values(), *schemas["context_schema"]["properties"].values()):
            assert field.get("description"), (graph, field)

    context = {"surface": "tiny", "home": str(home), "seeds": 2, "workers": 1, "approve": True}
    thread = client.threads.create()["thread_id"]
    experiment = proposed(planted)

    def go(**given):
        """Goes on until the experiment parks again: what it waits for, and its phase."""
        answer = client.runs.wait(thread, "online", context=context, **given)
        assert "__error__" not in answer, (answer, (tmp_path / "server.log").read_text()[-4000:])
        state = client.threads.get_state(thread)
        (task,) = state["tasks"]
        (interrupt,) = task["interrupts"]
        assert set(interrupt["value"]["response"]["properties"]) >= {"action", "by", "reason"}
        return interrupt["value"]["waits_for"], state["values"]["record"]["phase"]

    assert go(input={"record": experiment.model_dump(mode="json")}) == ("slot", "proposed")
    assert go(command={"resume": {"action": "tick"}}) == ("day", "live")
    platform = Planted(planted, None)
    for day in range(7):
        platform.next_day()
        waits_for = "day" if day < 6 else "approval"
        assert go(command={"resume": {"action": "tick"}}) == (waits_for, "live")
    approve = {"action": "approve", "by": "bob", "reason": "it is time"}
    answer = client.runs.wait(thread, "online", command={"resume": approve}, context=context)
    assert answer["record"]["result"] == "launched", answer

    assert platform.running() == []
    journal = Journal.open(home)
    (found,) = journal.experiments("tiny")
    journal.close()
    assert (found.id, found.result, found.approvals[0]["by"]) == (experiment.id, "launched", "bob")
    assert set(found.times) == {"proposed", "validated", "training", "live", "completed"}
