"""app: the page as a FastAPI application: a route for each view, and the JSON API beside it (`api.py`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import parse_qs, urlencode

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ValidationError
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware

from evorank.graph.export import FORMATS, export
from evorank.model.errors import ConfigurationError, EvorankError
from evorank.ui import api, events
from evorank.ui.actions import (
    Asked,
    Directed,
    Inspected,
    Removed,
    Said,
    ask,
    direct,
    inspect,
    possible,
    remove,
)
from evorank.ui.guard import Guard, is_token
from evorank.ui.render import STATIC, environment
from evorank.ui.source import Snapshot, Source
from evorank.ui.views.attempt import attempt_view
from evorank.ui.views.compare import By, Comparison, compare
from evorank.ui.views.experiment import experiment_view
from evorank.ui.views.inspection import inspection_view
from evorank.ui.views.journal import Query, experiments, journal, matching
from evorank.ui.views.lineage import lineage
from evorank.ui.views.overview import audit_view, overview
from evorank.ui.views.progress import Filter, progress
from evorank.ui.views.steering import steering

__all__ = ["create_app"]

VIEWS = (
    ("/", "Overview"),
    ("/progress", "Progress"),
    ("/journal", "Journal"),
    ("/experiments", "Live tests"),
    ("/lineage", "Lineage"),
    ("/steering", "Steering"),
    ("/compare", "Compare"),
)


class NotFoundError(EvorankError):
    """There is no such record."""


class UnreadError(EvorankError):
    """An address that cannot be understood."""


def create_app(
    source: Source,
    token: str,
    port: int,
    user: str = "somebody",
    ending: Callable[[], bool] = lambda: False,
) -> FastAPI:
    """The whole page on one home. `token`: what an action must bring; `user`: who acts, unless they say
    otherwise; `ending`: whether the server is about to end, so that nobody is kept listening."""
    app = FastAPI(
        title="evorank",
        summary="What a self-evolving recommender did and does",
        version="1",
        docs_url=None,  # its pages load scripts from elsewhere
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    pages = Pages(source, token, user, ending)
    app.include_router(api.router(source, token))
    app.mount("/static", Cached(directory=STATIC))
    for path, view in (
        ("/", pages.overview),
        ("/audit", pages.audit),
        ("/progress", pages.progress),
        ("/journal", pages.journal),
        ("/journal/export.{ending}", pages.export),
        ("/attempts/{identifier}", pages.attempt),
        ("/experiments", pages.experiments),
        ("/experiments/export.{ending}", pages.export_experiments),
        ("/experiments/{identifier}", pages.experiment),
        ("/lineage", pages.lineage),
        ("/steering", pages.steering),
        ("/inspections/{identifier}", pages.inspection),
        ("/compare", pages.compare),
        ("/events", pages.events),
    ):
        app.add_api_route(path, view, methods=["GET"], include_in_schema=False, response_model=None)
    for path, action in (
        ("/experiments/{identifier}/actions", pages.act),
        ("/steering", pages.direct),
        ("/steering/{identifier}/remove", pages.remove),
        ("/inspections/{identifier}", pages.inspect),
    ):
        app.add_api_route(path, action, methods=["POST"], include_in_schema=False, response_model=None)

    @app.exception_handler(EvorankError)
    def explain(request: Request, error: EvorankError) -> Response:
        status = {NotFoundError: 404, UnreadError: 422, ConfigurationError: 409}.get(type(error), 500)
        return pages.problem(request, status, str(error))

    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(Guard, token=token, port=port)
    return app


class Cached(StaticFiles):
    """Files that change only with the package: the browser asks whether they did."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        answer = super().file_response(*args, **named)
        answer.headers["cache-control"] = "no-cache"
        return answer


class Pages:
    """The views as HTML."""

    def __init__(self, source: Source, token: str, user: str, ending: Callable[[], bool]) -> None:
        self.source, self.token, self.user, self.ending = source, token, user, ending

    def overview(self, request: Request) -> Response:
        found = self._snapshot(request)
        live = ["numbers", "now", "waiting", "rates", "spent", "recent"]
        online = bool(found.spec and found.spec.online)
        return self._page(request, "overview", overview(found), found, live + ["tests"] * online)

    def audit(self, request: Request) -> Response:
        """A part of the overview that asks the platform, so the rest does not wait for it."""
        found = self._snapshot(request)
        view, problem = None, ""
        try:
            audit = self.source.audit(found.surface)
            view = audit_view(audit, found) if audit else None
        except EvorankError as error:
            problem = str(error)
        return self._html("audit", view=view, problem=problem)

    def progress(self, request: Request) -> Response:
        found = self._snapshot(request)
        given = _given(request)
        by = given.get("by", "persona")
        if by not in ("persona", "category", "model"):
            raise UnreadError(f"`by` must be persona, category or model, got {by!r}.")
        until = given.get("until")
        if until is not None and not until.isdecimal():
            raise UnreadError(f"`until` must be a number, got {until!r}.")
        view = progress(found, _parse(Filter, given), int(until) if until else None, by)  # type: ignore[arg-type]
        return self._page(request, "progress", view, found, ["charts", "groups"])

    def journal(self, request: Request) -> Response:
        found = self._snapshot(request)
        query = _parse(Query, _given(request))

        def link(ending: str) -> str:
            asked = query.model_dump(exclude={"page", "per"}, exclude_none=True, exclude_defaults=True)
            return f"/journal/export.{ending}?{urlencode({'surface': found.surface} | asked)}"

        return self._page(
            request, "journal", journal(found, query), found, ["table"], now=found.at, export=link
        )

    def export(self, request: Request, ending: str) -> Response:
        """All that the table would show, as a file."""
        found = self._snapshot(request)
        return _file(matching(found, _parse(Query, _given(request))), f"{found.surface}-journal", ending)

    def export_experiments(self, request: Request, ending: str) -> Response:
        found = self._snapshot(request)
        return _file(list(found.experiments), f"{found.surface}-live-tests", ending)

    def attempt(self, request: Request, identifier: str) -> Response:
        found, attempt = _found(self._snapshot(request), "attempt", identifier)
        view = attempt_view(
            attempt, found, lambda mark: self.source.phi(found.surface, mark), self.source.recorded(attempt)
        )
        return self._page(request, "attempt", view, found, [], here="/journal", now=found.at)

    def experiments(self, request: Request) -> Response:
        found = self._snapshot(request)
        return self._page(request, "experiments", experiments(found), found, ["table"])

    def experiment(self, request: Request, identifier: str) -> Response:
        found, experiment = _found(self._snapshot(request), "live test", identifier)
        actions = possible(self.source, found.surface, experiment.id)
        view = experiment_view(experiment, found, actions)
        live = ["state", "buttons", "decision", "effects", *(["time"] if view.series else [])]
        return self._page(request, "experiment", view, found, live, here="/experiments")

    async def act(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return ask(self.source, surface, identifier, _parse(Asked, given))

        return await self._asked(request, f"/experiments/{identifier}", told)

    async def direct(self, request: Request) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return direct(self.source, surface, _parse(Directed, {**given, "text": given.get("reason", "")}))

        return await self._asked(request, "/steering", told)

    async def remove(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            return remove(self.source, surface, identifier, _parse(Removed, given).by)

        return await self._asked(request, "/steering", told)

    async def inspect(self, request: Request, identifier: str) -> Response:
        def told(surface: str, given: Mapping[str, str]) -> Said:
            asked: dict[str, Any] = {
                name: given[name] for name in ("action", "by", "reason") if name in given
            }
            if given.get("action") == "edit":
                asked["patch"] = _json(given.get("patch", ""))
            return inspect(self.source, surface, identifier, _parse(Inspected, asked))

        return await self._asked(request, "/", told)

    def inspection(self, request: Request, identifier: str) -> Response:
        found = self._snapshot(request)
        about = next((each for each in found.inspections if each["attempt"] == identifier), None)
        if about is None:
            raise NotFoundError(f"no candidate {identifier!r} waits for a person on {found.surface!r}.")
        view = inspection_view(about, found, lambda mark: self.source.phi(found.surface, mark))
        return self._page(request, "inspection", view, found, [], here="/")

    async def _asked(
        self, request: Request, page: str, act: Callable[[str, Mapping[str, str]], Said]
    ) -> Response:
        """A form's action. The answer is a sentence for the page, or the page again where no script asked."""
        text = (await request.body()).decode("utf-8", "replace")
        given = {name: values[-1] for name, values in parse_qs(text).items()}
        scripted = "hx-request" in request.headers
        if not is_token(given.get("token"), self.token):
            return self._html("said", status=403, said="", problem="The token is wrong; nothing was asked.")
        surface = given.get("surface") or self.source.context.surface
        try:
            said = await run_in_threadpool(act, surface, given)
        except EvorankError as error:
            # To a script it is an answer; a status of its own would be an error in the browser's console.
            return self._html("said", status=200 if scripted else 409, said="", problem=str(error))
        if scripted:
            return self._html("said", said=said.said, problem="")
        return RedirectResponse(f"{page}?{urlencode({'surface': surface})}", 303)

    def steering(self, request: Request) -> Response:
        found = self._snapshot(request)
        return self._page(request, "steering", steering(found), found, ["directives", "notes", "findings"])

    def lineage(self, request: Request) -> Response:
        found = self._snapshot(request)
        return self._page(request, "lineage", lineage(found), found, ["graph", "walk"])

    def compare(self, request: Request) -> Response:
        found = self._snapshot(request)
        given = _given(request)
        view = compared(self.source, found, given.get("by", "persona"), given.get("a"), given.get("b"))
        metrics = sorted({metric for side in view.sides for metric in side.candidates})
        return self._page(request, "compare", view, found, ["sides"], metrics=metrics)

    async def events(self) -> Response:
        return StreamingResponse(events.stream(self.source.mark, self.ending), media_type="text/event-stream")

    def problem(self, request: Request, status: int, said: str) -> Response:
        if request.url.path.startswith("/api/"):
            return api.problem(status, said)
        title = {404: "Not here", 409: "Not now", 422: "Not understood"}.get(status, "Something went wrong")
        return self._html("problem", status=status, title=title, said=said)

    # -- what they share

    def _snapshot(self, request: Request) -> Snapshot:
        try:
            return self.source.snapshot(request.query_params.get("surface") or None)
        except ConfigurationError as error:
            raise NotFoundError(str(error)) from error

    def _page(
        self, request: Request, template: str, view: BaseModel, found: Snapshot, live: list[str], **more: Any
    ) -> Response:
        chosen = {"surface": found.surface} if found.surface != self.source.context.surface else {}

        def href(path: str, **query: Any) -> str:
            asked = chosen | {key: value for key, value in query.items() if value is not None}
            return f"{path}?{urlencode(asked)}" if asked else path

        def here_with(**changed: Any) -> str:
            asked = _given(request) | {key: str(value) for key, value in changed.items()}
            return f"{request.url.path}?{urlencode(asked)}"

        given: dict[str, Any] = {
            "view": view,
            "views": VIEWS,
            "name": dict(VIEWS).get(request.url.path, ""),
            "here": request.url.path,
            "surfaces": found.surfaces,
            "href": href,
            "here_with": here_with,
            "live": [f"#{each}" for each in live],
            "attempt_link": lambda identifier: href(f"/attempts/{identifier}"),
            "experiment_link": lambda identifier: href(f"/experiments/{identifier}"),
            "token": self.token,
            "user": self.user,
        }
        return self._html(template, **(given | more))

    def _html(self, template: str, status: int = 200, **given: Any) -> Response:
        return HTMLResponse(environment().get_template(f"{template}.html.j2").render(**given), status)


def compared(source: Source, found: Snapshot, by: str, one: str | None, two: str | None) -> Comparison:
    """The two sides that an address names."""
    if by not in get_args(By):
        raise UnreadError(f"`by` must be one of {', '.join(get_args(By))}, got {by!r}.")
    chosen = [each for each in (one, two) if each]
    return compare(found, cast(By, by), chosen, source.snapshot)


def _given(request: Request) -> dict[str, str]:
    """What the address asks for. A field that was left empty was not asked for."""
    return {name: value for name, value in request.query_params.items() if value != ""}


def _file(records: Sequence[Any], name: str, ending: str) -> Response:
    """Records as a file that the browser keeps."""
    if f".{ending}" not in FORMATS:
        raise NotFoundError(f"the journal is exported as csv, parquet or jsonl, not as {ending!r}.")
    folder = tempfile.TemporaryDirectory()
    out = Path(folder.name) / f"{name}.{ending}"
    try:
        export(records, out)
    except BaseException:
        folder.cleanup()
        raise
    return FileResponse(out, filename=out.name, background=BackgroundTask(folder.cleanup))


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UnreadError(f"`patch` is not JSON: {error}.") from error


def _parse(kind: type[Any], given: Mapping[str, Any]) -> Any:
    try:
        return kind.model_validate({name: given[name] for name in kind.model_fields if name in given})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise UnreadError(f"`{name}`: {first['msg']}, got {first['input']!r}.") from error


def _found(snapshot: Snapshot, kind: str, identifier: str) -> tuple[Snapshot, Any]:
    """A record by its id or the beginning of one."""
    known: Mapping[str, Any] = snapshot.attempt_of if kind == "attempt" else snapshot.experiment_of
    if identifier in known:
        return snapshot, known[identifier]
    found = [each for name, each in known.items() if len(identifier) >= 8 and name.startswith(identifier)]
    if len(found) != 1:
        raise NotFoundError(f"surface {snapshot.surface!r} has no {kind} {identifier!r}.")
    return snapshot, found[0]
