"""spans: a run as OpenTelemetry sees it (extra `otel`): its nodes, calls to chat models, trainings.

    run -> attempt -> think -> gemini-2.5-pro          run -> online -> experiment -> training -> full
                   -> tool  -> full (a training)

A run and its attempts are spans of this process's share of them: one that goes on elsewhere gets others, with
the same attributes. Prompts, answers and Φ are not in them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from evorank.model.errors import ConfigurationError
from evorank.tools.events import Event

__all__ = ["Spans", "tracer_provider"]

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
GEN_AI = {
    "provider": "gen_ai.provider.name",
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
}
"""Facts that OpenTelemetry has words of its own for."""
LAST = {"record": "attempt", "completed": "experiment", "finish": "run"}
"""Node -> what is over with it."""
Scope = tuple[str, ...]


def tracer_provider() -> trace.TracerProvider:
    """The app's own if it has set one, or one that exports to the endpoint of OTEL_EXPORTER_OTLP_ENDPOINT.

    ConfigurationError where there is neither.
    """
    found = trace.get_tracer_provider()
    if not isinstance(found, trace.ProxyTracerProvider):
        return found
    if not any(os.environ.get(name) for name in ENDPOINTS):
        raise ConfigurationError(
            "`trackers` names otel, and nothing says where spans go. Set OTEL_EXPORTER_OTLP_ENDPOINT, such "
            "as http://127.0.0.1:4318, or set a tracer provider in your app."
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    service = os.environ.get("OTEL_SERVICE_NAME", "evorank")
    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


class Spans:
    """Makes spans of events. Safe to share between threads."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("evorank")
        self._lock = threading.Lock()
        self._open: dict[str, trace.Span] = {}
        """Operation -> its span."""
        self._scopes: dict[Scope, trace.Span] = {}
        """Runs, attempts and experiments that are under way here."""

    def __call__(self, event: Event) -> None:
        with self._lock:
            if event.kind == "begin":
                around = self._around(event)
                self._open[event.operation] = self._span(event.name, around, event.facts, event.what)
            elif (span := self._open.pop(event.operation, None)) is not None:
                self._end(event, span)

    def close(self) -> None:
        """End what is open and send it."""
        with self._lock:
            for span in (*self._open.values(), *reversed(self._scopes.values())):
                span.end()
            self._open.clear()
            self._scopes.clear()
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush(5000)

    def _around(self, event: Event) -> trace.Span | None:
        outer = self._open.get(event.inside or "")
        if event.what != "node":
            return outer
        facts = event.facts
        if experiment := facts.get("experiment"):
            return self._scope("experiment", f"experiment {experiment[:8]}", outer, facts)
        if run := facts.get("run"):
            outer = self._scope("run", f"run {run}", outer, {"run": run, "surface": facts["surface"]})
        if (step := facts.get("step")) is not None:
            outer = self._scope("attempt", f"step {step}", outer, facts)
        return outer

    def _scope(self, kind: str, name: str, outer: trace.Span | None, facts: Mapping[str, Any]) -> trace.Span:
        key = _scope_of(kind, facts)
        if key not in self._scopes:
            known = {name: value for name, value in facts.items() if name not in ("outcome", "phase")}
            self._scopes[key] = self._span(name, outer, known, kind)
        return self._scopes[key]

    def _span(self, name: str, around: trace.Span | None, facts: Mapping[str, Any], what: str) -> trace.Span:
        context = trace.set_span_in_context(around) if around is not None else None
        span = self._tracer.start_span(name, context=context, attributes={"evorank.kind": what})
        _describe(span, facts)
        if what == "call":
            span.set_attributes({"gen_ai.operation.name": "chat", "gen_ai.request.model": name})
        return span

    def _end(self, event: Event, span: trace.Span) -> None:
        _describe(span, event.facts)
        if event.error:
            span.set_status(trace.StatusCode.ERROR, event.error)
        span.end()
        if event.what != "node":
            return
        # What waits, for a day or for a person, goes on in another span.
        over = "experiment" if event.facts.get("experiment") else "attempt"
        if not event.facts.get("waits"):
            over = LAST.get(event.name, "")
        if over and (scope := self._scopes.pop(_scope_of(over, event.facts), None)) is not None:
            _describe(scope, {"outcome": event.facts.get("outcome")})
            scope.end()


def _scope_of(kind: str, facts: Mapping[str, Any]) -> Scope:
    """The run, attempt or experiment that a node with these facts works on."""
    if kind == "experiment":
        return kind, facts.get("experiment", "")
    run = facts.get("run", "")
    return (kind, run) if kind == "run" else (kind, run, str(facts.get("step")), facts.get("fork", ""))


def _describe(span: trace.Span, facts: Mapping[str, Any]) -> None:
    """Facts as attributes; what is not known is left out."""
    for name, value in facts.items():
        if isinstance(value, str | bool | int | float):
            span.set_attribute(GEN_AI.get(name, f"evorank.{name}"), value)
