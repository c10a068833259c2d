"""What this package adds to the API server, below ``/pipesec``: the security pages, and an answer about who may do what.

Nobody is answered who is not signed in. The pages show a user what that user may read. ``/pipesec/access`` tells what a user may
do, yes or no, and the names of the roles; who asks has to be permitted to read Airflow's connections: not every user may ask
about every other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from threading import Thread
from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails, DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.core_api.security import GetUserDep, get_user
from airflow.models.dag import DagModel
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException as AnyHTTPException

from airflow_pipesec.ui import render
from airflow_pipesec.ui.overview import prepare
from airflow_pipesec.ui.pages import root_of, router

__all__ = ["Access", "app"]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    # Beside the server's start, which does not wait for it.
    Thread(target=prepare, name="pipesec-prepare", daemon=True).start()
    yield


# Every route demands a user, whatever it says itself: a mounted application has no such guard of its own.
app = FastAPI(
    title="airflow_pipesec",
    docs_url=None,
    redoc_url=None,
    openapi_url=None,
    dependencies=[Depends(get_user)],
    lifespan=_lifespan,
)
app.include_router(router)
app.add_middleware(render.Secured)
_HEADINGS = {
    401: "You are not signed in",
    403: "This is not yours to see",
    404: "There is nothing here",
    422: "That is not something to ask for",
    500: "Something went wrong here",
}
_METHODS = ("GET", "POST", "PUT", "DELETE")


@app.exception_handler(AnyHTTPException)
def refused(request: Request, error: AnyHTTPException) -> Response:
    """Say why there is no answer: as a page to who wants one."""
    return _problem(request, error.status_code, str(error.detail), dict(error.headers or {}))


@app.exception_handler(RequestValidationError)
def not_valid(request: Request, error: RequestValidationError) -> Response:
    """Say which parameter makes no sense. Its value is not repeated."""
    names = sorted({str(fault["loc"][-1]) for fault in error.errors()})
    return _problem(request, 422, f"What is asked for makes no sense: look at {', '.join(names)}.", {})


@app.exception_handler(Exception)
def broken(request: Request, error: Exception) -> Response:
    """Say that something went wrong, and not what: that is in the API server's log."""
    # This answer does not come by the middleware that adds them.
    return _problem(request, 500, "The API server's log says what went wrong.", render.HEADERS)


def _problem(request: Request, status: int, text: str, headers: Mapping[str, str]) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        heading = _HEADINGS.get(status, "There is no answer")
        values = {"root": root_of(request), "status": status, "text": text, "heading": heading}
        answer = render.page("error.html", values, status=status)
        answer.headers.update(headers)
        return answer
    return JSONResponse({"detail": text}, status, headers=headers)


class Access(BaseModel):
    """What is told of a user. ``supported`` says whether this auth manager can be asked about anybody but the caller."""

    manager: str
    supported: bool
    known: bool = False
    roles: list[str] = []
    permitted: bool | None = None


@app.get("/access")
def access(
    caller: GetUserDep,
    user: Annotated[str, Query(min_length=1, max_length=256)],
    dag_id: Annotated[str, Query(min_length=1, max_length=256, pattern=r"^[^\x00]+$")],
    method: Annotated[str, Query(max_length=8)] = "",
    entity: Annotated[str, Query(max_length=64)] = "",
) -> Access:
    """Answer whether a user may do something with a DAG: 401 for a caller who is nobody, 403 for one who may not ask."""
    manager = get_auth_manager()
    team = DagModel.get_team_name(dag_id)
    if not manager.is_authorized_connection(method="GET", user=caller, details=ConnectionDetails(team_name=team)):
        raise HTTPException(403, "Only who may read Airflow's connections may ask about other users.")
    name = type(manager).__name__
    if not isinstance(manager, SimpleAuthManager):
        return Access(manager=name, supported=False)
    found = next((candidate for candidate in manager.get_users() if candidate.get_name() == user), None)
    if found is None:
        return Access(manager=name, supported=True, known=False)
    answer = Access(manager=name, supported=True, known=True, roles=[found.role] if found.role else [])
    if method:
        if method not in _METHODS:
            raise HTTPException(422, "The method is none of GET, POST, PUT, DELETE.")
        if entity != "dag" and _entity(entity) is None:
            raise HTTPException(422, "The entity is none that a DAG has.")
        details = DagDetails(id=dag_id, team_name=team)
        answer.permitted = bool(
            manager.is_authorized_dag(
                method=method,  # type: ignore[arg-type] # one of the four, see above
                user=found,
                access_entity=_entity(entity),
                details=details,
            )
        )
    return answer


def _entity(entity: str) -> DagAccessEntity | None:
    return DagAccessEntity.__members__.get("RUN" if entity == "dag_run" else entity.upper())
