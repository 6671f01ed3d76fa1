"""guard: who may talk to the page. Everything that comes in goes through here, whatever it asks for.

The page shows what models wrote and can stop live tests, so it trusts nothing: not the network (127.0.0.1
only, and only by that name: another Host would be DNS rebinding), not other pages in the same browser (Origin
is ours, or there is none), and not other users of this machine (a token, which the command prints). A cookie
with the token is enough to look; an action must bring the token itself, since a cookie is sent by the browser
whoever makes it ask.
"""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from evorank.ui.render import environment

__all__ = ["POLICY", "Guard", "is_token"]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
SAFE = ("GET", "HEAD")
BODY_LIMIT = 100_000


def is_token(given: str | None, token: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), token.encode())


class Guard:
    """ASGI middleware. `port` is the one that is listened on."""

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self.app, self.token, self.port = app, token, port
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
        self.cookie = f"evorank-{port}"
        """Cookies of a host are shared by all its ports."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        answer = self._refusal(scope) or self._welcome(scope)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await (answer or self.app)(scope, receive, sealed)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if host not in self.hosts:
            return _said(scope, 421, "Wrong host", f"This page answers to 127.0.0.1:{self.port} only.")
        if origin is not None and origin not in {f"http://{each}" for each in self.hosts}:
            return _said(scope, 403, "Wrong origin", "Another page asked for this; it was refused.")
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return _said(scope, 403, "Wrong origin", "Another page asked for this; it was refused.")
        if (
            not headers.get("content-length", "0").isdecimal()
            or int(headers.get("content-length", "0")) > BODY_LIMIT
        ):
            return _said(scope, 413, "Too large", f"A request may have {BODY_LIMIT:,} bytes.")
        if scope["path"].startswith("/static/"):
            return None
        if scope["method"] not in SAFE:
            return None  # an action checks the token that it brings
        if is_token(bearer(headers), self.token) or is_token(self._cookie(headers), self.token):
            return None
        if is_token(self._query(scope), self.token):
            return None
        return _said(
            scope, 401, "A token is needed",
            "Open the address that `evorank ui` printed, with its token; this browser then remembers it.",
        )  # fmt: skip

    def _welcome(self, scope: Scope) -> Response | None:
        """A token in the address becomes a cookie and leaves the address: it would stay in the history."""
        if scope["method"] not in SAFE or self._query(scope) is None or scope["path"].startswith("/static/"):
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        query.pop("token")
        rest = f"?{urlencode(query, doseq=True)}" if query else ""
        answer = RedirectResponse(f"{scope['path']}{rest}", 303)
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
        return answer

    def _query(self, scope: Scope) -> str | None:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        return given[0] if given else None

    def _cookie(self, headers: Headers) -> str | None:
        try:
            found: Any = SimpleCookie(headers.get("cookie", "")).get(self.cookie)
        except CookieError:
            return None
        return str(found.value) if found else None


def bearer(headers: Headers) -> str | None:
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token if kind.lower() == "bearer" else None


def _said(scope: Scope, status: int, title: str, said: str) -> Response:
    if scope["path"].startswith("/api/"):
        return JSONResponse({"detail": said}, status)
    shown = environment().get_template("problem.html.j2").render(title=title, said=said)
    return HTMLResponse(shown, status)
