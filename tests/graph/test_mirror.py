"""The journal as MLflow shows it: a real store of MLflow's, and a real server, read by its own client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")
pytest.importorskip("sqlalchemy", reason="MLflow's own database needs SQLAlchemy; a server does not")

from mlflow import MlflowClient
from planted import give_traffic
from scripted import in_turn, learning_rate, proposal, rates

from evorank.graph.context import close_sessions, open_session
from evorank.graph.mirror import Mirror
from evorank.graph.offline import graph
from evorank.graph.operations import open_operations
from evorank.graph.tick import propose, tick
from evorank.model.errors import ConfigurationError


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """MLflow's tables, made once."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


class Shown:
    """What MLflow shows of a surface."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.client = MlflowClient(tracking_uri=uri)

    def pages(self, kind):
        found = self.client.get_experiment_by_name("evorank/tiny")
        runs = [] if found is None else self.client.search_runs([found.experiment_id], max_results=1000)
        kept = [run for run in runs if run.data.tags["evorank.kind"] == kind]
        return sorted(kept, key=lambda run: run.data.tags["mlflow.runName"])

    def file(self, run, name):
        return json.loads(Path(self.client.download_artifacts(run.info.run_id, name)).read_text())


@pytest.fixture
def shown(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow's files lie beside its database where there is no server
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    shown = Shown(f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shown.uri)
    return shown


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A tracking server of MLflow's own, over loopback: `make test-mlflow` installs one."""
    command = os.environ.get("EVORANK_MLFLOW_SERVER")
    if not command:
        pytest.skip("EVORANK_MLFLOW_SERVER names no `mlflow` that can serve: make test-mlflow")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    uri, log = f"http://127.0.0.1:{port}", tmp_path / "server.log"
    given = ["--backend-store-uri", f"sqlite:///{tmp_path}/served.db", "--host", "127.0.0.1"]
    given += ["--artifacts-destination", str(tmp_path / "files"), "--workers", "1", "--port", str(port)]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [command, "server", *given], env=kept | quiet, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{uri}/health", timeout=2).read()
                break
            except OSError:
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.2)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        yield Shown(uri)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


@pytest.fixture
def run(context):
    """Some steps of a run that is mirrored: run(chat_model, steps) -> its attempts."""

    def go(model, steps=1, **fields):
        given = context(model, trackers=["mlflow"], **fields)
        graph.invoke({"steps": steps, "run": "r"}, context=given)
        return open_session(given).journal.attempts(run="r")

    return go


def test_a_run_and_its_attempts_are_shown_with_what_differs_and_nothing_else(run, shown):
    layer = {"patch": [*learning_rate(0.02)["patch"], {"op": "remove", "path": "/optimizer/schedule"}]}
    first, second = run(in_turn([proposal()], [learning_rate(0.05), layer]), steps=2)
    (parent,) = shown.pages("run")
    assert (parent.data.tags["mlflow.runName"], parent.info.status) == ("r", "FINISHED")
    assert parent.data.metrics["attempts"] == 2
    assert parent.data.metrics[f"outcomes.{first.outcome}"] >= 1
    one, _ = shown.pages("attempt")
    assert one.data.params == {"optimizer/args/lr": "0.05"}
    assert one.data.metrics["difference"] == first.comparison["difference"]
    assert one.data.metrics["usage.input_tokens"] == 300
    assert one.data.metrics["candidate.loss"] == first.comparison["candidate"]["loss"]
    for attempt, page in zip((first, second), shown.pages("attempt"), strict=True):
        assert page.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert page.data.tags["evorank.id"] == attempt.id
        assert page.data.tags["outcome"] == attempt.outcome
        assert "a smaller step settles lower" in page.data.tags["mlflow.note.content"]
        assert page.info.status == "FINISHED"
        file = shown.file(page, "delta.json")
        assert (file["patch"], file["reason"]) == (attempt.patch, attempt.reason)
    assert "phi" not in file


def test_code_is_in_the_file_and_paths_are_names_that_mlflow_takes(context, attempt, shown):
    given = context(rates(0.05))
    journal = open_session(given).journal
    source = {"kind": "layer", "source": "class Gate: ..."}
    changes = [
        {"op": "add", "path": "/components/gate", "value": source},
        {"op": "replace", "path": "/reward/factors/a~1b%", "value": "x" * 900},
        {"op": "remove", "path": "/optimizer/schedule"},
    ]
    journal.append(attempt(0, surface="tiny", changes=changes, outcome="failed"))
    mirror = Mirror(journal, "tiny", given.home_path())
    mirror._runs.add("r")
    mirror.sync()
    (page,) = shown.pages("attempt")
    assert page.data.params["components/gate"] == "code (layer), see delta.json"
    assert len(page.data.params["reward/factors/a_1b_"]) == 500
    assert page.data.params["optimizer/schedule"] == "(removed)"
    assert page.info.status == "FAILED"
    assert shown.file(page, "delta.json")["changes"] == changes


def test_going_on_in_another_process_adds_what_is_new_and_nothing_twice(run, shown):
    run(rates(0.05))
    close_sessions()
    run(rates(0.02), steps=3)
    close_sessions()
    run(rates(0.02), steps=3)
    (parent,) = shown.pages("run")
    assert len(shown.pages("attempt")) == 3
    history = shown.client.get_metric_history(parent.info.run_id, "attempts")
    assert [point.value for point in history if point.step == 3] == [3.0]


def test_what_a_crash_left_half_written_is_completed(run, shown, context):
    (attempt,) = run(rates(0.05))
    (page,) = shown.pages("attempt")
    shown.client.delete_tag(page.info.run_id, "evorank.state")
    shown.client.delete_tag(page.info.run_id, "outcome")
    close_sessions()
    run(rates(0.05))
    (again,) = shown.pages("attempt")
    assert again.info.run_id == page.info.run_id
    assert again.data.tags["outcome"] == attempt.outcome
    points = shown.client.get_metric_history(page.info.run_id, "difference")
    assert len(points) == 1


def test_a_server_that_is_down_stops_nothing_and_is_made_up_for(run, shown, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert len(run(rates(0.05, 0.02), steps=2)) == 2
    assert "MLflow could not be written and is tried again later" in caplog.text
    close_sessions()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", shown.uri)
    run(rates(0.02), steps=2)
    assert len(shown.pages("attempt")) == 2


def test_a_live_test_is_shown_as_it_goes_on_until_its_launch(context, home, shown):
    give_traffic(home, {"effect": 1.3, "past": 14})
    given = context(None, selection="fifo", trackers=["mlflow"])

    def live(days):
        tick(given, until=open_operations(given).platform.now() + timedelta(days=days))
        close_sessions()  # as a tick from cron ends

    patch = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
    identifier = propose(open_operations(given), patch, why="a smaller step", by="ada")
    live(days=2)
    (page,) = shown.pages("experiment")
    assert (page.data.tags["phase"], page.info.status) == ("live", "RUNNING")
    assert page.data.metrics["readings"] == 2
    assert page.data.params == {"optimizer/args/lr": "0.05"}
    assert "visits.lift" not in page.data.metrics, "the north star is read once, at the horizon"

    live(days=9)
    (page,) = shown.pages("experiment")
    (experiment,) = open_session(given).journal.experiments("tiny")
    assert page.data.tags["evorank.id"] == identifier == experiment.id
    assert (page.data.tags["result"], page.data.tags["version"]) == ("launched", "2")
    assert page.info.status == "FINISHED"
    lift = next(each["lift"] for each in experiment.effects if each["metric"] == "visits")
    assert page.data.metrics["visits.lift"] == pytest.approx(lift)
    assert shown.file(page, "experiment.json")["decision"]["outcome"] == "launch"


def test_a_server_is_told_of_a_run_its_attempts_and_a_launch(run, context, home, served, capfd):
    (attempt,) = run(rates(0.05))
    assert "View run" not in capfd.readouterr().out, "what `--json` prints is JSON alone"
    (page,) = served.pages("attempt")
    assert page.data.metrics["difference"] == attempt.comparison["difference"]
    assert served.file(page, "delta.json")["patch"] == attempt.patch
    (parent,) = served.pages("run")
    assert page.data.tags["mlflow.parentRunId"] == parent.info.run_id
    close_sessions()

    give_traffic(home, {"effect": 1.3, "past": 14})
    given = context(None, selection="fifo", trackers=["mlflow"])
    patch = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.02}]
    propose(open_operations(given), patch, why="a smaller step", by="ada")
    for _ in range(2):
        tick(given, until=open_operations(given).platform.now() + timedelta(days=6))
        close_sessions()  # as a tick from cron ends
    (test,) = [each for each in served.pages("experiment") if each.data.tags.get("result") == "launched"]
    assert test.data.tags["version"] == "2"
    assert served.file(test, "experiment.json")["decision"]["outcome"] == "launch"
    assert len(served.pages("attempt")) == 1


def test_a_variable_alone_mirrors_nothing(context, shown):
    given = context(rates(0.05))
    graph.invoke({"steps": 1, "run": "r"}, context=given)
    assert open_session(given).listeners == []
    assert shown.client.get_experiment_by_name("evorank/tiny") is None


def test_mlflow_without_an_address_or_its_package_says_what_to_do(context, shown, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(ConfigurationError, match="Set MLFLOW_TRACKING_URI"):
        open_session(context(rates(0.05), trackers=["mlflow"]))
    monkeypatch.delitem(sys.modules, "evorank.graph.mirror")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ConfigurationError, match=r'pip install "evorank\[mlflow\]"'):
        open_session(context(rates(0.05), trackers=["mlflow"]))
