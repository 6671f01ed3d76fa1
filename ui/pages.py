"""pages: the views as HTML: a snapshot, a view of it, a template."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args
from urllib.parse import urlencode

from fastapi import Request
from fastapi.responses import FileResponse, HTMLResponse, Response, StreamingResponse
from pydantic import BaseModel
from starlette.background import BackgroundTask

from evorank.graph.export import FORMATS, export
from evorank.model.errors import ConfigurationError, EvorankError
from evorank.ui import events
from evorank.ui.actions import possible
from evorank.ui.asked import NotFoundError, UnreadError, given, parsed
from evorank.ui.render import environment
from evorank.ui.source import Snapshot, Source
from evorank.ui.views import experiments as tests
from evorank.ui.views import journal as journals
from evorank.ui.views import table
from evorank.ui.views.attempt import attempt_view
from evorank.ui.views.compare import By, compare
from evorank.ui.views.experiment import experiment_view
from evorank.ui.views.inspection import inspection_view
from evorank.ui.views.lineage import lineage
from evorank.ui.views.overview import audit_view, overview, unaudited
from evorank.ui.views.progress import Filter, Window, progress
from evorank.ui.views.prompts import prompts
from evorank.ui.views.steering import steering

__all__ = ["VIEWS", "Pages", "html"]

VIEWS = (
    ("/", "Overview"),
    ("/progress", "Progress"),
    ("/journal", "Journal"),
    ("/experiments", "Live tests"),
    ("/lineage", "Lineage"),
    ("/steering", "Steering"),
    ("/compare", "Compare"),
)


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
        return html("audit", view=view, problem=problem, unaudited=unaudited(found))

    def progress(self, request: Request) -> Response:
        found = self._snapshot(request)
        asked: Window = parsed(Window, given(request))
        view = progress(
            found, Filter(**asked.model_dump(include=set(Filter.model_fields))), asked.until, asked.by
        )
        return self._page(request, "progress", view, found, ["charts", "groups"])

    def journal(self, request: Request) -> Response:
        found = self._snapshot(request)
        query = parsed(journals.Query, given(request))
        view = journals.journal(found, query)
        export = _export("/journal", found, query)
        return self._page(request, "journal", view, found, ["table"], now=found.at, export=export)

    def export(self, request: Request, ending: str) -> Response:
        """All that the table would show, as a file."""
        found = self._snapshot(request)
        records = journals.matching(found, parsed(journals.Query, given(request)))
        return _file(records, f"{found.surface}-journal", ending)

    def experiments(self, request: Request) -> Response:
        found = self._snapshot(request)
        query = parsed(tests.Query, given(request))
        view = tests.experiments(found, query)
        return self._page(
            request, "experiments", view, found, ["table"], export=_export("/experiments", found, query)
        )

    def export_experiments(self, request: Request, ending: str) -> Response:
        found = self._snapshot(request)
        records = tests.matching(found, parsed(tests.Query, given(request)))
        return _file(records, f"{found.surface}-live-tests", ending)

    def attempt(self, request: Request, identifier: str) -> Response:
        found, attempt = _found(self._snapshot(request), "attempt", identifier)
        view = attempt_view(attempt, found, lambda mark: self.source.phi(found.surface, mark))
        return self._page(request, "attempt", view, found, [], here="/journal", now=found.at)

    def prompts(self, request: Request, identifier: str) -> Response:
        found, attempt = _found(self._snapshot(request), "attempt", identifier)
        view = prompts(attempt, found, self.source.asked(attempt))
        return self._page(request, "prompts", view, found, [], here="/journal")

    def experiment(self, request: Request, identifier: str) -> Response:
        found, experiment = _found(self._snapshot(request), "live test", identifier)
        actions = possible(self.source, found.surface, experiment.id)
        view = experiment_view(experiment, found, actions)
        live = ["state", "buttons", "decision", "effects", "time"]
        return self._page(request, "experiment", view, found, live, here="/experiments")

    def inspection(self, request: Request, identifier: str) -> Response:
        found = self._snapshot(request)
        about = next((each for each in found.inspections if each["attempt"] == identifier), None)
        if about is None:
            raise NotFoundError(f"no candidate {identifier!r} waits for a person on {found.surface!r}.")
        view = inspection_view(about, found, lambda mark: self.source.phi(found.surface, mark))
        return self._page(request, "inspection", view, found, [], here="/")

    def steering(self, request: Request) -> Response:
        found = self._snapshot(request)
        return self._page(request, "steering", steering(found), found, ["directives", "notes", "findings"])

    def lineage(self, request: Request) -> Response:
        found = self._snapshot(request)
        return self._page(request, "lineage", lineage(found), found, ["graph", "walk"])

    def compare(self, request: Request) -> Response:
        found = self._snapshot(request)
        asked = given(request)
        by = asked.get("by", "persona")
        if by not in get_args(By):
            raise UnreadError(f"`by` must be one of {', '.join(get_args(By))}, got {by!r}.")
        chosen = [asked[side] for side in ("a", "b") if side in asked]
        view = compare(found, cast(By, by), chosen, self.source.snapshot)
        metrics = sorted({metric for side in view.sides for metric in side.candidates})
        return self._page(request, "compare", view, found, ["sides"], metrics=metrics)

    async def events(self) -> Response:
        return StreamingResponse(events.stream(self.source.mark, self.ending), media_type="text/event-stream")

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
            asked = given(request) | {key: str(value) for key, value in changed.items()}
            return f"{request.url.path}?{urlencode(asked)}"

        known: dict[str, Any] = {
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
        return html(template, **(known | more))


def html(template: str, status: int = 200, **known: Any) -> Response:
    return HTMLResponse(environment().get_template(f"{template}.html.j2").render(**known), status)


def _export(path: str, found: Snapshot, query: table.Query) -> Callable[[str], str]:
    """Where a table is to be had whole, by the ending of the file: as it is filtered and sorted."""
    asked = query.model_dump(exclude={"page", "per"}, exclude_none=True, exclude_defaults=True)
    return lambda ending: f"{path}/export.{ending}?{urlencode({'surface': found.surface} | asked)}"


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


def _found(snapshot: Snapshot, kind: str, identifier: str) -> tuple[Snapshot, Any]:
    """A record by its id or the beginning of one."""
    known: Mapping[str, Any] = snapshot.attempt_of if kind == "attempt" else snapshot.experiment_of
    if identifier in known:
        return snapshot, known[identifier]
    found = [each for name, each in known.items() if len(identifier) >= 8 and name.startswith(identifier)]
    if len(found) != 1:
        raise NotFoundError(f"surface {snapshot.surface!r} has no {kind} {identifier!r}.")
    return snapshot, found[0]
