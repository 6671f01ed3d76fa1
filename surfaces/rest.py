"""JSON over HTTP with the patience that somebody else's server needs, and a token that is never shown.

Timeouts, lost connections, 5xx and 429 are tried again with growing pauses (Retry-After is obeyed); whatever
else goes wrong is one PlatformError that says what was asked and what came back. Redirects are not followed,
so the token goes to one host alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from evorank.model.errors import PlatformError

__all__ = ["Refused", "Rest", "Unanswered"]

Json = dict[str, Any]


class Refused(PlatformError):  # noqa: N818 - an answer
    """The server understood and said no (4xx): nothing happened there."""


class Unanswered(PlatformError):  # noqa: N818 - the lack of one
    """No usable answer: what was asked for may have happened, or not."""


class Rest:
    """One server's API, with a bearer token. Thread-safe; close it."""

    def __init__(
        self,
        url: str,
        token: str,
        timeout_s: float,
        tries: int,
        pause_s: float,
        patience_s: float,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._url, self._token = url.rstrip("/"), token
        self._tries, self._pause_s, self._patience_s, self._sleep = tries, pause_s, patience_s, sleep
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {token}", "Accept": "application/json"},
            timeout=timeout_s,
            follow_redirects=False,
        )

    def get(self, path: str, **query: str | int) -> Json:
        return self._call("GET", path, query=query)

    def post(self, path: str, body: Mapping[str, Any], *, again: bool = True) -> Json:
        """`again`: posting twice is as good as once; else only what certainly did not happen is retried."""
        return self._call("POST", path, body=body, again=again)

    def close(self) -> None:
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        again: bool = True,
    ) -> Json:
        what, problem, pause = f"{method} {self._url}{path}", "", 0.0
        for attempt in range(self._tries):
            if attempt:
                self._sleep(pause)
            pause = min(self._pause_s * 2**attempt, self._patience_s)
            try:
                answer = self._client.request(method, self._url + path, json=body, params=query)
            except httpx.HTTPError as error:
                problem = f"{what}: {type(error).__name__} {self._hidden(str(error))}".rstrip()
                # A connection that was never made asked for nothing.
                nothing_happened = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                if answer.is_success:
                    return self._json(what, answer)
                problem = f"{what} was answered {answer.status_code}: {self._said(answer)}"
                if answer.status_code != 429 and answer.status_code < 500:
                    raise Refused(f"{problem}. {_ADVICE.get(answer.status_code, _ADVICE[400])}")
                nothing_happened = answer.status_code == 429
                wanted = _retry_after(answer)
                if wanted > self._patience_s:
                    raise Unanswered(f"{problem}. It asks to wait {wanted:.0f} s: try again then.")
                pause = max(pause, wanted)
            if not (nothing_happened or again):
                raise Unanswered(f"{problem}. It may have happened or not.")
        raise Unanswered(f"{problem}. Tried {self._tries} times; is the server up, and reachable from here?")

    def _json(self, what: str, answer: httpx.Response) -> Json:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise Unanswered(
                f"{what} was answered with something that is no JSON object: {self._said(answer)}. "
                "Is this the address of the API?"
            )
        return found

    def _said(self, answer: httpx.Response) -> str:
        try:
            text = str(answer.json()["message"])
        except (ValueError, KeyError, TypeError):
            text = answer.text
        return self._hidden(" ".join(text.split()))[:200] or "nothing"

    def _hidden(self, text: str) -> str:
        """A server may repeat what it was sent; the token is not repeated after it."""
        return text.replace(self._token, "***")


_ADVICE = {
    400: "The request does not suit this server: see what it says.",
    401: "The key is not valid: make a new one and put it into the environment variable.",
    403: "The key lacks a permission: it must read and write experiments and features.",
    404: "Check the address and the ids in [online.options].",
}


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the server asks for, as a number or a date (RFC 9110, section 10.2.3); 0: it does not."""
    text = answer.headers.get("Retry-After", "")
    try:
        return max(float(text), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0
