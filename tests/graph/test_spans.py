"""Spans of real runs, as an exporter of OpenTelemetry gets them."""

from __future__ import annotations

import http.server
import threading

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra `otel` is not installed")

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from planted import give_traffic
from scripted import in_turn, learning_rate, proposal, rates

from evorank.graph.context import close_sessions, open_session
from evorank.graph.offline import builder, graph
from evorank.graph.operations import open_operations
from evorank.graph.spans import Spans
from evorank.graph.tick import propose, tick
from evorank.model.errors import ConfigurationError, ToolError


class Traced:
    """An exporter that keeps its spans, and the tracker that fills it."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracker = Spans(provider)

    @property
    def spans(self):
        return self.exporter.get_finished_spans()

    def one(self, name):
        (found,) = [span for span in self.spans if span.name == name]
        return found

    def inside(self, name):
        """Names of the spans right inside the one of that name, in the order they began."""
        outer = self.one(name).context.span_id
        found = [span for span in self.spans if span.parent and span.parent.span_id == outer]
        return [span.name for span in sorted(found, key=lambda span: span.start_time)]


@pytest.fixture
def traced():
    return Traced()


def test_a_run_is_one_trace_of_steps_nodes_calls_and_trainings(context, traced):
    given = context(rates(0.05, 0.02), listeners=[traced.tracker])
    graph.invoke({"steps": 2, "run": "r"}, context=given)
    assert len({span.context.trace_id for span in traced.spans}) == 1
    assert traced.one("run r").parent is None
    inside = traced.inside("run r")
    assert [name for name in inside if name.startswith("step")] == ["step 0", "step 1"]
    assert (inside.count("dispatch"), inside.count("finish")) == (3, 1)
    assert traced.inside("step 0") == ["think", "code", "verify", "tool", "record"]

    step = traced.one("step 0")
    attempt = open_session(given).journal.attempts(run="r")[0]
    assert step.attributes["evorank.persona"] == "optimizer"
    assert step.attributes["evorank.surface"] == "tiny"
    assert step.attributes["evorank.outcome"] == attempt.outcome

    nodes = {span.context.span_id: span.name for span in traced.spans}
    calls = [span for span in traced.spans if span.attributes["evorank.kind"] == "call"]
    assert sorted(nodes[call.parent.span_id] for call in calls) == sorted(2 * ["think", "code", "verify"])
    assert all(call.attributes["gen_ai.operation.name"] == "chat" for call in calls)
    assert sum(call.attributes["gen_ai.usage.input_tokens"] for call in calls) == 600
    trainings = [span for span in traced.spans if span.attributes["evorank.kind"] == "training"]
    assert {nodes[training.parent.span_id] for training in trainings} == {"tool"}
    mine = [each for each in trainings if each.attributes["evorank.candidate"] == attempt.fingerprint[:12]]
    assert sorted(each.attributes["evorank.seed"] for each in mine) == [0, 1]
    spent = [each.attributes["evorank.cpu_seconds"] for each in trainings]
    assert all(seconds > 0 for seconds in spent)


def test_prompts_answers_and_configurations_stay_at_home(context, traced):
    graph.invoke({"steps": 1, "run": "r"}, context=context(rates(0.05), listeners=[traced.tracker]))
    told = str([dict(span.attributes) for span in traced.spans])
    assert "a smaller step settles lower" not in told
    assert "relu" not in told


def test_failures_of_models_and_trainings_are_errors_of_their_spans(context, trainings, traced):
    trainings.refuse = ToolError("The worker ran out of memory.")
    model = in_turn([ConnectionError("no route to host"), proposal()], [learning_rate(0.05)])
    graph.invoke({"steps": 2, "run": "r"}, context=context(model, listeners=[traced.tracker]))
    failed = {
        (span.attributes["evorank.kind"], span.status.description)
        for span in traced.spans
        if span.status.status_code is StatusCode.ERROR
    }
    assert ("call", "ConnectionError: no route to host") in failed
    assert ("training", "The worker ran out of memory.") in failed
    outcomes = {span.attributes.get("evorank.outcome") for span in traced.spans if span.name == "step 1"}
    assert outcomes == {"failed"}


def test_waiting_for_a_person_is_no_error_and_what_follows_is_another_span(context, traced):
    given = context(rates(0.05), inspect=True, listeners=[traced.tracker])
    parked, config = builder.compile(checkpointer=InMemorySaver()), {"configurable": {"thread_id": "t"}}
    parked.invoke({"steps": 1, "run": "r"}, config, context=given)
    assert traced.inside("step 0") == ["think", "code", "verify", "inspect"]
    assert traced.one("inspect").attributes["evorank.waits"]
    assert traced.one("inspect").status.status_code is not StatusCode.ERROR
    traced.exporter.clear()
    parked.invoke(Command(resume={"action": "approve"}), config, context=given)
    assert traced.inside("step 0") == ["inspect", "tool", "record"]


def test_a_tick_of_a_live_test_is_traced_as_far_as_it_goes(context, home, traced):
    give_traffic(home, {"past": 14})
    given = context(None, selection="fifo", listeners=[traced.tracker])
    patch = [{"op": "replace", "path": "/optimizer/args/lr", "value": 0.05}]
    identifier = propose(open_operations(given), patch, why="a smaller step", by="ada")
    tick(given)
    experiments = [span for span in traced.spans if span.name == f"experiment {identifier[:8]}"]
    nodes = [span for span in traced.spans if span.attributes["evorank.kind"] == "node"]
    assert {"proposed", "validated", "training", "live"} <= {span.name for span in nodes}
    assert {span.parent.span_id for span in nodes} <= {span.context.span_id for span in experiments}
    exports = [span for span in traced.spans if span.name == "export"]
    assert len(exports) >= 1, "what is trained for people is a training, too"


class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.server.got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector(monkeypatch):
    """A collector of OTLP on this machine, which the environment names."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    server.got = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_spans_go_to_the_endpoint_of_the_environment_once_a_run_names_otel(context, collector):
    graph.invoke({"steps": 1, "run": "quiet"}, context=context(rates(0.05)))
    close_sessions()
    assert collector.got == [], "a variable alone sends nothing"
    graph.invoke({"steps": 1, "run": "told"}, context=context(rates(0.02), trackers=["otel"]))
    close_sessions()
    paths = {path for path, _ in collector.got}
    assert paths == {"/v1/traces"}
    assert any(b"run told" in body for _, body in collector.got)


def test_otel_without_an_endpoint_says_what_to_set(context, monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    with pytest.raises(ConfigurationError, match="Set OTEL_EXPORTER_OTLP_ENDPOINT"):
        open_session(context(rates(0.05), trackers=["otel"]))
