"""forms: what people ask on the page, as its forms send it. Each brings the token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import Request
from fastapi.responses import RedirectResponse, Response
from starlette.concurrency import run_in_threadpool

from evorank.model.errors import EvorankError
from evorank.ui.actions import (
    Asked,
    Directed,
    Inspected,
    Removed,
    Said,
    ask,
    direct,
    inspect,
    remove,
)
from evorank.ui.asked import parsed, read_json
from evorank.ui.guard import is_token
from evorank.ui.pages import html
from evorank.ui.source import Source

__all__ = ["Forms"]


class Forms:
    """The answer is a sentence for the page, or a page where no script asked."""

    def __init__(self, source: Source, token: str) -> None:
        self.source, self.token = source, token

    async def act(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return ask(self.source, surface, identifier, parsed(Asked, given))

        return await self._asked(request, f"/experiments/{identifier}", told)

    async def direct(self, request: Request) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return direct(self.source, surface, parsed(Directed, {**given, "text": given.get("reason", "")}))

        return await self._asked(request, "/steering", told)

    async def remove(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return remove(self.source, surface, identifier, parsed(Removed, given).by)

        return await self._asked(request, "/steering", told)

    async def inspect(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            asked: dict[str, Any] = {
                name: given[name] for name in ("action", "by", "reason") if name in given
            }
            if given.get("action") == "edit":
                asked["patch"] = read_json(given.get("patch", ""))
            return inspect(self.source, surface, identifier, parsed(Inspected, asked))

        return await self._asked(request, "/", told)

    async def _asked(
        self, request: Request, page: str, act: Callable[[str, Mapping[str, str]], Said]
    ) -> Response:
        """A form's action. The answer is a sentence for the page, or the page again where no script asked."""
        text = (await request.body()).decode("utf-8", "replace")
        given = {name: values[-1] for name, values in parse_qs(text).items()}
        scripted = "hx-request" in request.headers
        if not is_token(given.get("token"), self.token):
            return html("said", status=403, said="", problem="The token is wrong; nothing was asked.")
        surface = given.get("surface") or self.source.context.surface
        try:
            said = await run_in_threadpool(act, surface, given)
        except EvorankError as error:
            # To a script it is an answer; a status of its own would be an error in the browser's console.
            return html("said", status=200 if scripted else 409, said="", problem=str(error))
        if scripted:
            return html("said", said=said.said, problem="")
        return RedirectResponse(f"{page}?{urlencode({'surface': surface})}", 303)
