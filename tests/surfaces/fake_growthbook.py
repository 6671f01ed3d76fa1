"""A server on the loopback that speaks what we use of the documented API of GrowthBook, and fails on command.

Unknown fields, unknown parameters and missing keys are refused as its schemas say. `shown` answers as an SDK
would with the payload of that moment. `fail` scripts the next requests: the effect of a "lost" one happens.
"""

from __future__ import annotations

import contextlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from evorank.surfaces.assignment import bucket_ranges, hash_v2

KEY = "secret_admin_0123456789abcdef"

PHASE = {
    "name": str,
    "dateStarted": str,
    "dateEnded": str,
    "reasonForStopping": str,
    "seed": str,
    "coverage": (int, float),
    "trafficSplit": list,
    "namespace": dict,
    "targetingCondition": str,
    "prerequisites": list,
    "reason": str,
    "condition": str,
    "savedGroupTargeting": list,
    "variationWeights": list,
}
EXPERIMENT = {
    "datasourceId": str,
    "assignmentQueryId": str,
    "trackingKey": str,
    "name": str,
    "type": str,
    "project": str,
    "hypothesis": str,
    "description": str,
    "tags": list,
    "metrics": list,
    "secondaryMetrics": list,
    "guardrailMetrics": list,
    "owner": str,
    "archived": bool,
    "status": str,
    "autoRefresh": bool,
    "hashAttribute": str,
    "fallbackAttribute": str,
    "hashVersion": int,
    "disableStickyBucketing": bool,
    "releasedVariationId": str,
    "excludeFromPayload": bool,
    "statsEngine": str,
    "variations": list,
    "phases": list,
    "bypassDuplicateKeyCheck": bool,
}
FEATURE = {
    "description": str,
    "archived": bool,
    "project": str,
    "owner": str,
    "defaultValue": str,
    "tags": list,
    "environments": dict,
    "prerequisites": list,
    "jsonSchema": str,
    "customFields": dict,
    "holdout": (dict, type(None)),
}
RULES = {
    "experiment-ref": {"description", "id", "enabled", "type", "condition", "variations", "experimentId"},
    "force": {"description", "id", "enabled", "type", "condition", "savedGroupTargeting", "value"},
}


class Refusal(Exception):
    def __init__(self, status: int, message: str) -> None:
        self.status = status
        super().__init__(message)


def strict(body: dict[str, Any], fields: dict[str, Any], required: tuple[str, ...] = ()) -> None:
    for name in required:
        if name not in body:
            raise Refusal(400, f"Request body: [{name}] Required")
    for name, value in body.items():
        if name not in fields:
            raise Refusal(400, f"Request body: Unrecognized key(s) in object: '{name}'")
        if not isinstance(value, fields[name]) or (isinstance(value, bool) and fields[name] is int):
            raise Refusal(400, f"Request body: [{name}] wrong type")


class FakeGrowthBook:
    """Use as a context manager; `url` is its address."""

    def __init__(self) -> None:
        self.results: dict[str, dict[str, Any]] = {}
        self.metrics = {"met_active", "met_dislikes"}
        self.requests: list[tuple[str, str, dict[str, Any] | None]] = []
        self.failures: list[dict[str, Any]] = []
        self.page = 100
        self._lock = threading.Lock()
        self._release = threading.Event()
        self.reset()

    def reset(self) -> None:
        self.experiments: dict[str, dict[str, Any]] = {}
        self.features: dict[str, dict[str, Any]] = {}
        self.feature("ranker", "artifacts/original")

    def feature(self, name: str, value: str, value_type: str = "string") -> None:
        people = {
            "type": "force",
            "id": "fr_1",
            "enabled": True,
            "description": "",
            "condition": '{"staff":1}',
        }
        rules = [people | {"value": "artifacts/for-staff"}]
        self.features[name] = {
            "id": name,
            "valueType": value_type,
            "defaultValue": value,
            "description": "Which ranker serves",
            "environments": {
                "production": {"enabled": True, "defaultValue": value, "rules": rules},
                "dev": {"enabled": False, "defaultValue": value, "rules": []},
            },
            "holdout": None,
            "revision": {"version": 1, "comment": "", "date": "", "publishedBy": ""},
        }

    def fail(self, *failures: dict[str, Any]) -> None:
        """One for each of the next requests, {} for one that works: {"status": 500, "headers": {}} before the
        effect; {"lost": True}, {"hang": True} and {"text": "..."} after it."""
        self.failures = list(failures)

    # ------------------------------------------------------------------------------------------ serving

    def __enter__(self) -> FakeGrowthBook:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # head and body in one packet: in two, the second waits 40 ms for the first

            def do_GET(self) -> None:
                fake._handle(self, None)

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                fake._handle(self, json.loads(self.rfile.read(length)))

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/api"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handle(self, handler: BaseHTTPRequestHandler, body: dict[str, Any] | None) -> None:
        with self._lock:
            parts = urlsplit(handler.path)
            self.requests.append((handler.command, parts.path.removeprefix("/api/v1"), body))
            failure = self.failures.pop(0) if self.failures else {}
            if "status" in failure:
                echo = {"message": f"bad luck, {handler.headers.get('Authorization')}"}
                return self._answer(handler, failure["status"], json.dumps(echo), failure.get("headers", {}))
            try:
                if handler.headers.get("Authorization") != f"Bearer {KEY}":
                    raise Refusal(
                        401, f"No API key found that matches {handler.headers.get('Authorization')}"
                    )
                answer: Any = self._route(handler.command, parts.path, dict(parse_qsl(parts.query)), body)
                status = 200
            except Refusal as refusal:
                status, answer = refusal.status, {"message": str(refusal)}
        if failure.get("hang"):
            self._release.wait(5)
        if failure.get("lost") or failure.get("hang"):
            handler.close_connection = True
            with contextlib.suppress(OSError):
                handler.connection.shutdown(2)
            return None
        return self._answer(handler, status, failure.get("text", json.dumps(answer)), {})

    def _answer(
        self, handler: BaseHTTPRequestHandler, status: int, text: str, headers: dict[str, str]
    ) -> None:
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(text.encode())))
            handler.end_headers()
            handler.wfile.write(text.encode())

    # ---------------------------------------------------------------------------------------------- API

    def _route(self, method: str, path: str, query: dict[str, str], body: dict[str, Any] | None) -> Any:
        parts = path.removeprefix("/api/v1/").split("/")
        match method, parts:
            case "GET", ["experiments"]:
                return self._list(query)
            case "POST", ["experiments"]:
                return {"experiment": self._shown(self._create(body or {}))}
            case "POST", ["experiments", name]:
                return {"experiment": self._shown(self._update(self._known(name), body or {}))}
            case "GET", ["experiments", name, "results"]:
                self._known(name)
                if name not in self.results:
                    raise Refusal(400, "No results found for that experiment")
                return {"result": self.results[name]}
            case "GET", ["features", name]:
                return {"feature": self._feature(name)}
            case "POST", ["features", name]:
                return {"feature": self._change(self._feature(name), body or {})}
        raise Refusal(404, "Unknown API endpoint")

    def _known(self, name: str) -> dict[str, Any]:
        if name not in self.experiments:
            raise Refusal(400, "Could not find the experiment to update")
        return self.experiments[name]

    def _feature(self, name: str) -> dict[str, Any]:
        if name not in self.features:
            raise Refusal(404, "Could not find a feature with that key")
        return self.features[name]

    def _list(self, query: dict[str, str]) -> dict[str, Any]:
        if unknown := set(query) - {"limit", "offset", "projectId", "datasourceId", "experimentId"}:
            raise Refusal(400, f"Query string: Unrecognized key(s) {unknown}")
        limit, offset = int(query.get("limit", 10)), int(query.get("offset", 0))
        if not 1 <= limit <= 100:
            raise Refusal(400, "Query string: [limit] must be at most 100")
        found = [
            self._shown(each)
            for each in self.experiments.values()
            if query.get("experimentId", each["trackingKey"]) == each["trackingKey"]
            and query.get("projectId", each.get("project", "")) == each.get("project", "")
        ]
        limit = min(limit, self.page)
        page, more = found[offset : offset + limit], offset + limit < len(found)
        counts = {"limit": limit, "offset": offset, "count": len(page), "total": len(found)}
        return {
            "experiments": page,
            **counts,
            "hasMore": more,
            "nextOffset": offset + limit if more else None,
        }

    def _check(self, body: dict[str, Any]) -> None:
        if body.get("status", "draft") not in ("draft", "running", "stopped"):
            raise Refusal(400, "Request body: [status] Invalid enum value")
        if len(body.get("description", "")) > 10_000:
            raise Refusal(400, "Request body: [description] too long")
        for phase in body.get("phases", []):
            strict(phase, PHASE, ("name", "dateStarted"))
            if not 0 <= phase.get("coverage", 1) <= 1:
                raise Refusal(400, "Request body: [coverage] must lie in 0..1")
            if "namespace" in phase:
                strict(
                    phase["namespace"], {"namespaceId": str, "range": list, "enabled": bool}, ("namespaceId",)
                )

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        strict(body, EXPERIMENT, ("name", "variations", "trackingKey", "assignmentQueryId"))
        self._check(body)
        if any(each["trackingKey"] == body["trackingKey"] for each in self.experiments.values()):
            raise Refusal(400, f"Experiment with tracking key already exists: {body['trackingKey']}.")
        wanted = {*body.get("metrics", []), *body.get("guardrailMetrics", [])}
        if wanted and "datasourceId" not in body:
            raise Refusal(400, "Must provide a datasource when including metrics")
        if wanted - self.metrics:
            raise Refusal(400, f"Unknown metric: {wanted - self.metrics}")
        for each in body["variations"]:
            strict(each, {"id": str, "key": str, "name": str, "description": str}, ("key", "name"))
        name = f"exp_{len(self.experiments)}"
        variations = [each | {"id": f"var_{name}_{each['key']}"} for each in body["variations"]]
        self.experiments[name] = {"id": name, "status": "draft"} | body | {"variations": variations}
        return self.experiments[name]

    def _update(self, experiment: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        strict(body, EXPERIMENT)
        self._check(body)
        experiment.update(body)
        return experiment

    def _shown(self, each: dict[str, Any]) -> dict[str, Any]:
        phases = []
        for phase in each.get("phases", []):
            weights = zip(each["variations"], phase.get("variationWeights", [0.5, 0.5]), strict=True)
            shown = {
                "name": phase["name"],
                "dateStarted": phase["dateStarted"],
                "dateEnded": phase.get("dateEnded", ""),
                "reasonForStopping": phase.get("reasonForStopping", ""),
                "seed": phase.get("seed") or each["trackingKey"],
                "coverage": phase.get("coverage", 1),
                "trafficSplit": [{"variationId": v["id"], "weight": w} for v, w in weights],
                "targetingCondition": phase.get("condition", ""),
            }
            if phase.get("namespace", {}).get("enabled"):
                shown["namespace"] = {key: phase["namespace"][key] for key in ("namespaceId", "range")}
            phases.append(shown)
        variations = [
            {"variationId": v["id"], "key": v["key"], "name": v["name"], "description": "", "screenshots": []}
            for v in each["variations"]
        ]
        fields = ("id", "trackingKey", "name", "status", "hashAttribute", "hashVersion")
        shown = {name: each.get(name) for name in fields} | {"description": each.get("description", "")}
        return shown | {
            "project": each.get("project", ""),
            "variations": variations,
            "phases": phases,
            "tags": [],
        }

    def _change(self, feature: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        strict(body, FEATURE)
        for name, environment in body.get("environments", {}).items():
            if name not in feature["environments"]:
                raise Refusal(400, f"Environment {name} not found")
            strict(environment, {"enabled": bool, "rules": list}, ("enabled", "rules"))
            for rule in environment["rules"]:
                if unknown := set(rule) - RULES.get(rule["type"], set()):
                    raise Refusal(400, f"Request body: Unrecognized key(s) in object: {unknown}")
                if rule["type"] == "experiment-ref" and not {"variations", "experimentId"} <= set(rule):
                    raise Refusal(400, "Request body: [variations, experimentId] Required")
            feature["environments"][name] |= environment
        feature.update({name: value for name, value in body.items() if name != "environments"})
        return feature

    # ---------------------------------------------------------------------------------------------- SDK

    def shown(self, user: str, feature: str = "ranker") -> str:
        """The value that an SDK gives a user who is in no holdout and whom no condition matches."""
        found = self.features[feature]
        for rule in found["environments"]["production"]["rules"]:
            if rule["type"] != "experiment-ref" or not rule.get("enabled", True):
                continue
            experiment = self.experiments[rule["experimentId"]]
            phase = experiment["phases"][-1]
            if experiment["status"] != "running":
                continue
            space = phase.get("namespace")
            if (
                space
                and not space["range"][0] <= _hash_v1(f"__{space['namespaceId']}", user) < space["range"][1]
            ):
                continue
            assert experiment["hashVersion"] == 2
            place = hash_v2(phase["seed"], [user])[0]
            for (low, high), variation in zip(
                bucket_ranges(2, phase["coverage"]), rule["variations"], strict=True
            ):
                if low <= place < high:
                    return str(variation["value"])
        return str(found["defaultValue"])


def _hash_v1(seed: str, user: str) -> float:
    """Namespaces are divided by the first version of the hash: FNV-1a of user and seed, in thousandths."""
    value = 2166136261
    for character in user + seed:
        value = ((value ^ ord(character)) * 16777619) & 0xFFFFFFFF
    return (value % 1000) / 1000
