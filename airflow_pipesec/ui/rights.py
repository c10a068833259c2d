"""Rights: who is asking, and what of which DAG they may read. Airflow's auth manager decides, for each DAG by itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from airflow.models.dag import DagModel
from fastapi import Depends, HTTPException, Query

__all__ = ["DagId", "IdQuery", "Viewer", "ViewerDep", "viewer"]

# What the pages show of a DAG is of its runs and their tasks.
_SHOWN = (None, DagAccessEntity.RUN, DagAccessEntity.TASK_INSTANCE)


class Viewer:
    """Who asks."""

    def __init__(self, user: Any) -> None:
        self.user = user

    def may_read(self, dag_id: str) -> bool:
        """Whether they may read a DAG, its runs and its task instances."""
        return self._may(dag_id, _SHOWN)

    def may_read_log(self, dag_id: str) -> bool:
        """Whether they may read what the audit log tells of a DAG."""
        return self._may(dag_id, (DagAccessEntity.AUDIT_LOG,))

    def demand(self, dag_id: str) -> None:
        """Raise HTTP 403 where they may not read a DAG. Whether there is one of that name is not told."""
        if not self.may_read(dag_id):
            raise HTTPException(403, "You may not read this DAG, its runs and its task instances.")

    def readable(self) -> set[str]:
        """Return the ids of the DAGs that they may read, with runs and task instances."""
        manager = get_auth_manager()
        ids = manager.get_authorized_dag_ids(user=self.user, method="GET")
        teams = DagModel.get_dag_id_to_team_name_mapping(list(ids)) if ids else {}
        return {dag_id for dag_id in ids if _permitted(self.user, dag_id, teams.get(dag_id), _SHOWN[1:])}

    def _may(self, dag_id: str, entities: Iterable[DagAccessEntity | None]) -> bool:
        return _permitted(self.user, dag_id, DagModel.get_team_name(dag_id), entities)


def _permitted(user: Any, dag_id: str, team: str | None, entities: Iterable[DagAccessEntity | None]) -> bool:
    manager = get_auth_manager()
    details = DagDetails(id=dag_id, team_name=team)
    return all(manager.is_authorized_dag(method="GET", user=user, access_entity=entity, details=details) for entity in entities)


# Not an annotated parameter of Airflow's: where annotations are texts, FastAPI may take that for a parameter of the query.
def viewer(user: Any = Depends(get_user)) -> Viewer:  # noqa: B008 - FastAPI's way of saying what a parameter is
    """Return who asks; HTTP 401 for nobody."""
    return Viewer(user)


ViewerDep = Annotated[Viewer, Depends(viewer)]
# An id as Airflow has them. PostgreSQL knows no text with a NUL in it, and fails when it is asked for one.
IdQuery = Query(min_length=1, max_length=250, pattern=r"^[^\x00]+$")
DagId = Annotated[str, IdQuery]
