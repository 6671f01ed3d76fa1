"""app: the page as a FastAPI application: a route for each view (`pages.py`) and form (`forms.py`), and the
JSON API beside them (`api.py`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from evorank.model.errors import ConfigurationError, EvorankError
from evorank.ui import api
from evorank.ui.asked import NotFoundError, UnreadError
from evorank.ui.forms import Forms
from evorank.ui.guard import Guard
from evorank.ui.pages import VIEWS, Pages, html
from evorank.ui.render import STATIC
from evorank.ui.source import Source

__all__ = ["VIEWS", "create_app"]


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
    pages, forms = Pages(source, token, user, ending), Forms(source, token)
    app.include_router(api.router(source, token))
    app.mount("/static", Cached(directory=STATIC))
    for path, view in (
        ("/", pages.overview),
        ("/audit", pages.audit),
        ("/progress", pages.progress),
        ("/journal", pages.journal),
        ("/journal/export.{ending}", pages.export),
        ("/attempts/{identifier}", pages.attempt),
        ("/attempts/{identifier}/prompts", pages.prompts),
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
        ("/experiments/{identifier}/actions", forms.act),
        ("/steering", forms.direct),
        ("/steering/{identifier}/remove", forms.remove),
        ("/inspections/{identifier}", forms.inspect),
    ):
        app.add_api_route(path, action, methods=["POST"], include_in_schema=False, response_model=None)

    @app.exception_handler(EvorankError)
    def explain(request: Request, error: EvorankError) -> Response:
        status = {NotFoundError: 404, UnreadError: 422, ConfigurationError: 409}.get(type(error), 500)
        if request.url.path.startswith("/api/"):
            return api.problem(status, str(error))
        title = {404: "Not here", 409: "Not now", 422: "Not understood"}.get(status, "Something went wrong")
        return html("problem", status=status, title=title, said=str(error))

    app.add_middleware(GZipMiddleware, minimum_size=2000)
    app.add_middleware(Guard, token=token, port=port)
    return app


class Cached(StaticFiles):
    """Files that change only with the package: the browser asks whether they did."""

    def file_response(self, *args: Any, **named: Any) -> Response:
        answer = super().file_response(*args, **named)
        answer.headers["cache-control"] = "no-cache"
        return answer
