"""The dev server with the offline graph, driven over loopback as Studio would drive it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from evorank.graph.journal import Journal
from evorank.graph.state import OfflineInput

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
