"""The endpoint in the API server: what a user may do, yes or no, and the names of the roles. Nothing else is told.

Who asks has to be signed in and be permitted to read Airflow's connections: not every user may ask about every other.
"""

from __future__ import annotations

from typing import Annotated

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import ConnectionDetails, DagAccessEntity, DagDetails
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager
from airflow.api_fastapi.core_api.security import GetUserDep
from airflow.models.dag import DagModel
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel

__all__ = ["Access", "app"]

app = FastAPI(title="airflow_pipesec", docs_url=None, redoc_url=None, openapi_url=None)
_METHODS = ("GET", "POST", "PUT", "DELETE")


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
    dag_id: Annotated[str, Query(min_length=1, max_length=256)],
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
