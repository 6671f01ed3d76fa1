"""trouble: what went wrong when a provider was asked, whether asking again can help, and when.

LangChain's `ModelError`s come first; then what the transport says; then a status code that an SDK's error
carries. Limits: what none of these knows is taken for a fault of this one question.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from json import JSONDecodeError
from typing import Any, Literal

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from evorank.graph.keys import scrub

__all__ = ["MAX_WAIT", "Kind", "Trouble", "pause", "shortened", "trouble_of"]

Kind = Literal["refused", "limited", "unreachable", "broken", "slow", "invalid", "failed"]
"""`refused`: key, permission, model or quota, whatever is asked; `limited`: too much at once; `unreachable`:
nobody is there; `broken`: the provider failed; `slow`: it took too long; `invalid`: the request is malformed,
perhaps only the form that it asks for; `failed`: this question, for another reason."""
MAX_WAIT = 120.0
"""Seconds. A provider that asks for more is not waited for: a run that stands still should say so."""

_BY_TYPE: tuple[tuple[type[Exception], Kind], ...] = (
    (ModelAuthenticationError, "refused"),
    (ModelPermissionDeniedError, "refused"),
    (ModelNotFoundError, "refused"),
    (ContextOverflowError, "failed"),
    (ModelInvalidRequestError, "invalid"),
    (ModelRateLimitError, "limited"),
    (ModelTimeoutError, "slow"),
    (ModelConnectionError, "unreachable"),
    (ModelAPIError, "broken"),
    (ModelError, "failed"),
    (ConnectionError, "unreachable"),
    (TimeoutError, "slow"),
    (JSONDecodeError, "broken"),
)
_BY_NAME: Mapping[str, Kind] = {
    # httpx, httpx2, requests and the SDKs name alike what they do not share a class for.
    "ConnectError": "unreachable",
    "ConnectTimeout": "unreachable",
    "ProxyError": "unreachable",
    "ReadTimeout": "slow",
    "WriteTimeout": "slow",
    "PoolTimeout": "slow",
    "RemoteProtocolError": "broken",
    "ReadError": "broken",
    "WriteError": "broken",
    "UnknownApiResponseError": "broken",
}
_BY_STATUS: Mapping[int, Kind] = {
    400: "invalid", 401: "refused", 403: "refused", 404: "refused", 408: "slow", 413: "failed",
    422: "invalid", 429: "limited", 529: "broken",
}  # fmt: skip
_NO_KEY = re.compile(r"api[ _]key (not valid|not found|expired|invalid)|API_KEY_INVALID", re.IGNORECASE)
_NO_MONEY = re.compile(r"insufficient_quota|credit balance")


@dataclass(frozen=True)
class Trouble:
    """One failed request."""

    kind: Kind
    text: str
    """What the provider or the transport said, without keys."""
    wait: float | None = None
    """Seconds that the provider asked to wait."""

    @property
    def of_everything(self) -> bool:
        """Whether any other question would fail as well."""
        return self.kind in ("refused", "limited", "unreachable")


def trouble_of(error: BaseException) -> Trouble:
    """What an exception of a chat model means."""
    chain = list(_chain(error))
    text = shortened(error)
    kind = _kind(chain)
    if (kind == "invalid" and _NO_KEY.search(text)) or (kind == "limited" and _NO_MONEY.search(text)):
        kind = "refused"
    return Trouble(
        kind, text, next((wait for each in chain if (wait := _asked_wait(each)) is not None), None)
    )


def pause(trouble: Trouble, tried: int, retries: int, backoff: float, known: bool) -> float | None:
    """Seconds until a question is asked again, after `tried` failures; None: it is not asked again.

    `known`: the provider has answered before. One that never did is not there, rather than away for a while.
    """
    often = {"broken": retries, "limited": retries, "slow": min(1, retries)}
    often["unreachable"] = retries if known else min(1, retries)
    if tried > often.get(trouble.kind, 0):
        return None
    doubled = min(backoff * 2.0 ** (tried - 1), MAX_WAIT / 2)
    if trouble.wait is not None:
        return max(trouble.wait, 0.0) if trouble.wait <= MAX_WAIT else None
    return doubled if known or trouble.kind != "unreachable" else min(doubled, 1.0)


def shortened(problem: object, limit: int = 400) -> str:
    """One line about a problem, without keys."""
    name = f"{type(problem).__name__}: " if isinstance(problem, BaseException) else ""
    text = scrub(" ".join(str(problem).split()))
    return name + (text if len(text) <= limit else text[: limit - 1] + "…")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error and what it came from."""
    for _ in range(8):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


def _kind(chain: list[BaseException]) -> Kind:
    # From the root: an SDK's timeout may be that of a connection, and that is the better word.
    for error in reversed(chain):
        if type(error).__name__ in _BY_NAME:
            return _BY_NAME[type(error).__name__]
    for error in chain:
        for kind_of_error, kind in _BY_TYPE:
            if isinstance(error, kind_of_error):
                return kind
        status = _status(error)
        if status is not None:
            return _BY_STATUS.get(status, "broken" if status >= 500 else "failed")
    return "failed"


def _status(error: BaseException) -> int | None:
    for holder in (error, getattr(error, "response", None)):
        for name in ("status_code", "code"):
            value = getattr(holder, name, None)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return None


def _asked_wait(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or {}
    for body in (getattr(error, "details", None), getattr(error, "body", None)):
        if (told := _retry_info(body)) is not None:
            return told
    try:
        if (told := headers.get("retry-after-ms")) is not None:
            return float(told) / 1000
        told = headers.get("retry-after")
    except (AttributeError, ValueError):
        return None
    return None if told is None else _seconds(str(told))


def _seconds(header: str) -> float | None:
    """Retry-After is a number of seconds, or a date."""
    try:
        return float(header)
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(header)
    except ValueError:
        return None
    return (then if then.tzinfo else then.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()


def _retry_info(body: Any) -> float | None:
    """Of a body of Google's: {"error": {"details": [{"@type": "...RetryInfo", "retryDelay": "9s"}]}}."""
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    details = inner.get("details") if isinstance(inner, Mapping) else None
    for each in details if isinstance(details, list) else ():
        if isinstance(each, Mapping) and str(each.get("@type", "")).endswith("RetryInfo"):
            found = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(each.get("retryDelay", "")))
            return float(found.group(1)) if found else None
    return None
