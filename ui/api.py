"""api: the same views as JSON, described by OpenAPI at /openapi.json; all with `Authorization: Bearer TOKEN`.

No `from __future__ import annotations`: FastAPI reads the annotations of functions made here.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import Field

from evorank.model.errors import ConfigurationError
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
from evorank.ui.guard import bearer, is_token
from evorank.ui.source import Snapshot, Source
from evorank.ui.views import attempt as attempts
from evorank.ui.views import compare as comparing
from evorank.ui.views import experiment as tests
from evorank.ui.views import experiments as listing
from evorank.ui.views import inspection as inspecting
from evorank.ui.views import journal as journals
from evorank.ui.views import lineage as lineages
from evorank.ui.views import overview as overviews
from evorank.ui.views import progress as progresses
from evorank.ui.views import prompts as said
from evorank.ui.views import steering as steered
from evorank.ui.views.common import View

__all__ = ["problem", "router"]

Text = Annotated[str | None, Query(max_length=200)]
Identifier = Annotated[str, Path(min_length=8, max_length=64, pattern="^[0-9a-f-]+$")]


class Problem(View):
    """Why there is no answer."""

    detail: str


class Attempts(journals.Query):
    """A page of the journal that is asked for."""

    surface: str | None = Field(default=None, max_length=64)


class Tests(listing.Query):
    """A page of live tests that is asked for."""

    surface: str | None = Field(default=None, max_length=64)


def problem(status: int, said: str) -> Response:
    return JSONResponse({"detail": said}, status)


def _told(action: Callable[[], Said]) -> Said:
    try:
        return action()
    except ConfigurationError as error:
        raise HTTPException(409, str(error)) from error


def router(source: Source, token: str) -> APIRouter:
    """All routes under /api."""
    refusals: dict[int | str, dict[str, Any]] = {
        401: {"model": Problem, "description": "The token is missing or wrong"},
        404: {"model": Problem, "description": "No such surface or record"},
    }
    made = APIRouter(prefix="/api", responses=refusals, dependencies=[Depends(HTTPBearer(auto_error=False))])

    def snapshot(surface: Annotated[str | None, Query(max_length=64)] = None) -> Snapshot:
        """The context's surface, unless one is asked for."""
        try:
            return source.snapshot(surface)
        except ConfigurationError as error:
            raise HTTPException(404, str(error)) from error

    def acting(request: Request) -> None:
        """An action brings the token itself: a cookie is not enough."""
        if not is_token(bearer(request.headers), token):
            raise HTTPException(401, "An action needs the token, as `Authorization: Bearer TOKEN`.")

    here = Annotated[Snapshot, Depends(snapshot)]
    acts: dict[str, Any] = {
        "status_code": 202,
        "dependencies": [Depends(acting)],
        "responses": {409: {"model": Problem, "description": "It cannot be asked"}},
    }

    @made.get("/overview")
    def overview(found: here) -> overviews.Overview:
        """Where a surface stands and what runs on it."""
        return overviews.overview(found)

    @made.get("/audit")
    def audit(found: here) -> overviews.AuditView | None:
        """What all launches gained together, against the holdback. null: no launch yet, or no holdback."""
        read = source.audit(found.surface)
        return overviews.audit_view(read, found) if read else None

    @made.get("/progress")
    def progress(
        found: here,
        persona: Text = None,
        category: Text = None,
        model: Text = None,
        outcome: Text = None,
        run: Text = None,
        until: Annotated[int | None, Query(ge=1, le=10**9)] = None,
        by: Literal["persona", "category", "model"] = "persona",
    ) -> progresses.Progress:
        """Every candidate in its order, with the best so far."""
        wanted = progresses.Filter(persona=persona, category=category, model=model, outcome=outcome, run=run)
        return progresses.progress(found, wanted, until, by)

    @made.get("/attempts")
    def journal(query: Annotated[Attempts, Query()]) -> journals.Journal:
        """A page of the journal."""
        asked = journals.Query(**query.model_dump(exclude={"surface"}))
        return journals.journal(snapshot(query.surface), asked)

    @made.get("/attempts/{identifier}")
    def attempt(identifier: Identifier, found: here) -> attempts.AttemptView:
        """One attempt whole."""
        record = found.attempt_of.get(identifier)
        if record is None:
            raise HTTPException(404, f"surface {found.surface!r} has no attempt {identifier!r}.")
        return attempts.attempt_view(record, found, lambda mark: source.phi(found.surface, mark))

    @made.get("/attempts/{identifier}/prompts")
    def asked(identifier: Identifier, found: here) -> said.Prompts:
        """What was asked of chat models for an attempt and answered, word for word."""
        record = found.attempt_of.get(identifier)
        if record is None:
            raise HTTPException(404, f"surface {found.surface!r} has no attempt {identifier!r}.")
        return said.prompts(record, found, source.asked(record))

    @made.get("/experiments")
    def experiments(query: Annotated[Tests, Query()]) -> listing.Experiments:
        """A page of live tests; open ones first, unless they are sorted otherwise."""
        asked = listing.Query(**query.model_dump(exclude={"surface"}))
        return listing.experiments(snapshot(query.surface), asked)

    def one(found: Snapshot, identifier: str) -> tests.ExperimentView:
        record = found.experiment_of.get(identifier)
        if record is None:
            raise HTTPException(404, f"surface {found.surface!r} has no live test {identifier!r}.")
        return tests.experiment_view(record, found, possible(source, found.surface, record.id))

    @made.get("/experiments/{identifier}")
    def experiment(identifier: Identifier, found: here) -> tests.ExperimentView:
        """One live test whole, with what can be asked of it now."""
        return one(found, identifier)

    @made.post("/experiments/{identifier}/actions", **acts)
    def act(identifier: Identifier, asked: Asked, found: here) -> Said:
        """Ask something of a live test: the next tick does it, once."""
        one(found, identifier)
        return _told(lambda: ask(source, found.surface, identifier, asked))

    @made.get("/lineage")
    def lineage(found: here) -> lineages.Lineage:
        """Which candidate came of which, and the walk to today's production."""
        return lineages.lineage(found)

    @made.get("/steering")
    def steering(found: here) -> steered.Steering:
        """What proposals are to heed, and what the journal taught."""
        return steered.steering(found)

    @made.get("/inspections")
    def inspections(found: here) -> list[inspecting.InspectionView]:
        """Candidates that a run asks a person about before it measures them, oldest first."""
        return [
            inspecting.inspection_view(about, found, lambda mark: source.phi(found.surface, mark))
            for about in found.inspections
        ]

    @made.post("/inspections/{identifier}", **acts)
    def decide(identifier: Identifier, said: Inspected, found: here) -> Said:
        """Approve, edit or reject one of them; the run goes on with `run --resume`."""
        return _told(lambda: inspect(source, found.surface, identifier, said))

    @made.post("/directives", **acts)
    def add(asked: Directed, found: here) -> Said:
        """Put a directive in force, from the next prompt on."""
        return _told(lambda: direct(source, found.surface, asked))

    @made.post("/directives/{directive}/remove", **acts)
    def end(directive: Annotated[str, Path(pattern="^s[0-9]{1,9}$")], asked: Removed, found: here) -> Said:
        """Take a directive out of force."""
        return _told(lambda: remove(source, found.surface, directive, asked.by))

    @made.get("/compare")
    def compare(
        found: here, by: comparing.By = "persona", a: Text = None, b: Text = None
    ) -> comparing.Comparison:
        """Two runs, personas, categories, models or surfaces."""
        chosen = [each for each in (a, b) if each]
        return comparing.compare(found, by, chosen, source.snapshot)

    return made
