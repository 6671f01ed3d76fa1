"""A server on the loopback that speaks the wire formats of Gemini and of OpenAI, answering from a script.

`Wire(script)` calls `script(asked)` for each request; it gives a `Reply`, or the arguments of an answer in
the form that was asked for. What was asked is kept in `asked`, as it came over the wire.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Script = Callable[["Asked"], Any]


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float

    @property
    def gemini(self) -> bool:
        return ":" in self.path

    @property
    def streams(self) -> bool:
        return "streamGenerateContent" in self.path or bool(self.body.get("stream"))

    @property
    def text(self) -> str:
        """All that the model reads, in its order."""
        if not self.gemini:
            return "\n".join(str(message["content"]) for message in self.body["messages"])
        contents = [self.body.get("systemInstruction", {}), *self.body["contents"]]
        return "\n".join(part.get("text", "") for each in contents for part in each.get("parts", ()))

    @property
    def schema(self) -> dict[str, Any] | None:
        """The schema that the answer shall fit, where the provider is given one."""
        if not self.gemini:
            return self.body.get("response_format", {}).get("json_schema", {}).get("schema")
        return self.body.get("generationConfig", {}).get("responseJsonSchema")

    @property
    def tool(self) -> dict[str, Any] | None:
        """The tool that shall be called, where the provider is given one."""
        for each in self.body.get("tools", ()):
            return each["functionDeclarations"][0] if self.gemini else each["function"]
        return None

    @property
    def form(self) -> str:
        """The name of the form asked for, however it is asked for; "" for free words."""
        if not self.gemini and "response_format" in self.body:
            return self.body["response_format"]["json_schema"]["name"]
        if self.schema is not None:
            return self.schema["title"]
        if self.tool is not None:
            return self.tool["name"]
        told = self.text.rpartition("JSON Schema:\n")[2]
        return json.loads(told)["title"] if told.startswith("{") else ""


@dataclass(frozen=True)
class Reply:
    """One response. `body` None: the connection is closed without one."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    after: float = 0.0
    """Seconds until it comes."""


class Wire:
    """The server; a context manager. `url` is its address."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.asked: list[Asked] = []
        self._lock = threading.Lock()
        wire = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                asked = Asked(
                    self.path,
                    {name.lower(): value for name, value in self.headers.items()},
                    json.loads(self.rfile.read(length)),
                    time.monotonic(),
                )
                wire._answer(asked, self)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Wire:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: Asked, handler: BaseHTTPRequestHandler) -> None:
        with self._lock:
            self.asked.append(asked)
            given = self.script(asked)
        reply = given if isinstance(given, Reply) else answer(asked, given)
        time.sleep(reply.after)
        if reply.body is None:
            handler.close_connection = True
            return
        kind = "application/json"
        text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
        if asked.streams and reply.status == 200:
            kind, text = "text/event-stream", "".join(f"data: {each}\n\n" for each in _chunks(asked, text))
        try:
            handler.send_response(reply.status)
            for name, value in {"content-type": kind, **reply.headers}.items():
                handler.send_header(name, value)
            handler.send_header("content-length", str(len(text.encode())))
            handler.end_headers()
            handler.wfile.write(text.encode())
        except OSError:  # who asked did not wait
            handler.close_connection = True


def answer(asked: Asked, arguments: Any, **more: Any) -> Reply:
    """An answer in the way it was asked for: as JSON, as a call of the tool, or in words with a fence."""
    if isinstance(arguments, str):
        return words(asked, arguments, **more)
    if asked.tool is not None:
        return call(asked, asked.tool["name"], arguments, **more)
    text = json.dumps(arguments)
    return words(asked, text if asked.schema else f"Here it is:\n```json\n{text}\n```\nDone.", **more)


def words(asked: Asked, text: str, finish: str = "STOP", **usage: int) -> Reply:
    """Text. `usage`: prompt, cached, output, thoughts, in tokens."""
    if asked.gemini:
        content = {"role": "model", "parts": [{"text": text}]}
        return _gemini({"content": content, "finishReason": finish}, usage)
    reason = {"STOP": "stop", "MAX_TOKENS": "length", "SAFETY": "content_filter"}[finish]
    return _openai({"role": "assistant", "content": text}, reason, usage)


def call(asked: Asked, name: str, arguments: Any, finish: str = "STOP", **usage: int) -> Reply:
    """A call of a tool."""
    if asked.gemini:
        part = {"functionCall": {"name": name, "args": arguments}}
        content = {"role": "model", "parts": [part]}
        return _gemini({"content": content, "finishReason": finish}, usage)
    function = {"name": name, "arguments": json.dumps(arguments)}
    calls = [{"id": "call_1", "type": "function", "function": function}]
    return _openai({"role": "assistant", "content": None, "tool_calls": calls}, "tool_calls", usage)


def blocked(reason: str = "PROHIBITED_CONTENT") -> Reply:
    """Gemini did not even read the prompt."""
    return Reply(
        body={
            "promptFeedback": {"blockReason": reason},
            "usageMetadata": {"promptTokenCount": 1000, "totalTokenCount": 1000},
            "modelVersion": "gemini-2.5-pro",
        }
    )


def withheld(reason: str = "SAFETY") -> Reply:
    """Gemini wrote something, and does not say what."""
    rating = {"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "probability": "HIGH", "blocked": True}
    return _gemini({"finishReason": reason, "safetyRatings": [rating]}, {"output": 0})


def fault(status: int, message: str, *details: Mapping[str, Any], state: str = "", **headers: str) -> Reply:
    """An error in Google's form; OpenAI's SDK reads of it what it needs."""
    error: dict[str, Any] = {"code": status, "message": message, "status": state or "UNKNOWN"}
    if details:
        error["details"] = list(details)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, {"error": error}, names)


def limited(seconds: str = "0.05s") -> Reply:
    """Gemini's 429: too many requests, with how long to wait."""
    retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": seconds}
    quota = {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": [{"quotaValue": "10"}]}
    message = "You exceeded your current quota, please check your plan and billing details."
    return fault(429, message, quota, retry, state="RESOURCE_EXHAUSTED")


def no_such_key() -> Reply:
    """Gemini's answer to a wrong key: a 400, not a 401."""
    reason = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    return fault(400, "API key not valid. Please pass a valid API key.", reason, state="INVALID_ARGUMENT")


def in_turn(**answers: Any) -> Script:
    """Answers each form from its list in turn, the last one for ever: Proposal=[...], words=[...].

    An element may be a function of what was asked.
    """
    lists = {
        name: list(given) if isinstance(given, list | tuple) else [given] for name, given in answers.items()
    }

    def script(asked: Asked) -> Any:
        left = lists[asked.form or "words"]
        given = left.pop(0) if len(left) > 1 else left[0]
        return given(asked) if callable(given) else given

    return script


def recorded(path: Path, retries: int) -> Script:
    """Answers each form as a recording does, in its order: its failures as often as they are asked again."""
    answers: dict[str, list[Any]] = {}
    for line in path.read_text().splitlines()[1:]:
        call = json.loads(line)
        if "failure" in call:
            answers.setdefault(call["form"], []).extend([fault(500, "as recorded")] * (1 + retries))
            continue
        given = call["answer"]
        answers.setdefault(call["form"], []).append(
            lambda asked, given=given: words(asked, given["content"], given["finish_reason"])
        )
    return in_turn(**answers)


def _gemini(candidate: dict[str, Any], usage: Mapping[str, int]) -> Reply:
    prompt, output = usage.get("prompt", 1000), usage.get("output", 100)
    thoughts, cached = usage.get("thoughts", 40), usage.get("cached", 800)
    metadata = {
        "promptTokenCount": prompt,
        "candidatesTokenCount": output,
        "thoughtsTokenCount": thoughts,
        "cachedContentTokenCount": cached,
        "totalTokenCount": prompt + output + thoughts,
    }
    return Reply(
        body={
            "candidates": [candidate | {"index": 0}],
            "usageMetadata": metadata,
            "modelVersion": "gemini-2.5-pro",
            "responseId": "r1",
        }
    )


def _openai(message: dict[str, Any], finish: str, usage: Mapping[str, int]) -> Reply:
    prompt, output = usage.get("prompt", 1000), usage.get("output", 100)
    return Reply(
        body={
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "gpt-5",
            "choices": [{"index": 0, "message": message, "finish_reason": finish}],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": output,
                "total_tokens": prompt + output,
                "prompt_tokens_details": {"cached_tokens": usage.get("cached", 800)},
                "completion_tokens_details": {"reasoning_tokens": usage.get("thoughts", 40)},
            },
        }
    )


def _chunks(asked: Asked, text: str) -> list[str]:
    """Gemini's stream: the text in two pieces, each with the usage so far; anything else in one."""
    try:
        whole = json.loads(text)
        part = whole["candidates"][0]["content"]["parts"][0]["text"]
    except (KeyError, json.JSONDecodeError):
        return [text]
    first, second = json.loads(text), json.loads(text)
    half = len(part) // 2
    first["candidates"][0]["content"]["parts"][0]["text"] = part[:half]
    del first["candidates"][0]["finishReason"]
    first["usageMetadata"] |= {"candidatesTokenCount": 10, "totalTokenCount": 1050}
    second["candidates"][0]["content"]["parts"][0]["text"] = part[half:]
    return [json.dumps(first), json.dumps(second)]
