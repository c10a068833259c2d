"""Pages: what the routes answer. Each demands a user, and that user's right to read the DAG; none changes anything."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Literal

from airflow.utils.session import create_session
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from sqlalchemy.orm import Session

from airflow_pipesec.findings import escaped
from airflow_pipesec.ui import exports, looks, records, render, run_views, views
from airflow_pipesec.ui.judged import RunView
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.overview import Query as Asked
from airflow_pipesec.ui.overview import overview
from airflow_pipesec.ui.proofs import checked, run_view
from airflow_pipesec.ui.records import DagRecord, RunRecord
from airflow_pipesec.ui.rights import DagId, IdQuery, Viewer, ViewerDep, viewer

__all__ = ["root_of", "router"]

router = APIRouter(dependencies=[Depends(viewer)])
RunId = Annotated[str, IdQuery]
TaskId = Annotated[str, IdQuery]


def root_of(request: Request) -> str:
    """Return the path that all of Airflow is below, such as "" or ``/airflow``."""
    return str(request.scope.get("root_path", "")).removesuffix("/pipesec")


@router.get("/static/{name}")
def static(name: str) -> Response:
    """The style, the script and the icons."""
    return render.asset(name)


@router.get("/overview")
def overview_page(
    request: Request,
    viewer: ViewerDep,
    q: Annotated[str, Query(max_length=200)] = "",
    result: Annotated[str, Query(max_length=40)] = "",
    threat: Annotated[str, Query(max_length=40)] = "",
    guarded: Literal["", "all", "some", "none"] = "",
    sort: Literal["verdict", "dag", "coverage", "findings", "last run"] = "verdict",
    down: bool = False,
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """Every DAG that the viewer may read."""
    asked = Asked(q.strip(), result, threat, guarded, sort, down, page)
    with create_session(scoped=False) as session:
        found = overview(session, viewer.readable(), asked, today=datetime.now(UTC).date())
        return render.page("overview.html", views.overview_values(found, root_of(request)))


@router.get("/verdict")
def verdict(viewer: ViewerDep, dag_id: DagId, run_id: RunId) -> dict[str, str]:
    """What a run comes to by its evidence: the pages ask for one after the other."""
    viewer.demand(dag_id)
    with create_session(scoped=False) as session:
        record, outline = _dag(session, dag_id)
        # Without the audit log: what is remembered is for whoever may read the DAG.
        found = checked(session, _run(session, dag_id, run_id), outline)
        told = {
            "dag": record.name,
            "run": run_id,
            "result": str(found.result),
            "look": looks.LOOKS[found.result],
            "why": found.why,
        }
        return {name: escaped(text) for name, text in told.items()}


@router.get("/dag")
def dag_page(request: Request, viewer: ViewerDep, dag_id: DagId) -> Response:
    """A DAG: its pipeline, what guards it against what, and how the guards fared."""
    viewer.demand(dag_id)
    with create_session(scoped=False) as session:
        record, outline = _dag(session, dag_id)
        return render.page("dag.html", views.dag_values(session, record, outline, root_of(request)))


@router.get("/run")
def run_page(request: Request, viewer: ViewerDep, dag_id: DagId, run_id: RunId) -> Response:
    """A run: what it came to, and the evidence for it."""
    with create_session(scoped=False) as session:
        record, view = _judged(session, viewer, dag_id, run_id)
        return render.page("run.html", run_views.run_values(session, record, view, root_of(request), viewer.may_read_log(dag_id)))


@router.get("/task")
def task_page(
    request: Request,
    viewer: ViewerDep,
    dag_id: DagId,
    run_id: RunId,
    task_id: TaskId,
    map_index: Annotated[str, Query(max_length=20)] = "-1",
) -> Response:
    """A guard's task instance: what it examined, and what it signed. For another task, the guards around it."""
    # Airflow's UI leaves the place-holder where a task is not mapped.
    index = int(map_index) if map_index.isascii() and map_index.isdigit() else -1
    with create_session(scoped=False) as session:
        record, view = _judged(session, viewer, dag_id, run_id)
        if task_id not in view.outline.pipeline.nodes:
            raise HTTPException(404, "The DAG of this run has no such task.")
        values = run_views.task_values(session, record, view, task_id, index, root_of(request), viewer.may_read_log(dag_id))
        return render.page("task.html", values)


@router.get("/evidence.zip")
def evidence_zip(viewer: ViewerDep, dag_id: DagId, run_id: RunId) -> Response:
    """The evidence of a run, for whoever verifies it elsewhere."""
    viewer.demand(dag_id)
    with create_session(scoped=False) as session:
        _run(session, dag_id, run_id)
    return exports.archive(dag_id, run_id)


def _export(make: Callable[[DagRecord, RunView], Response]) -> Callable[..., Response]:
    def answer(viewer: ViewerDep, dag_id: DagId, run_id: RunId) -> Response:
        with create_session(scoped=False) as session:
            return make(*_judged(session, viewer, dag_id, run_id))

    # FastAPI reads the annotations, and finds texts here.
    answer.__annotations__ = {"viewer": ViewerDep, "dag_id": DagId, "run_id": RunId, "return": Response}
    answer.__doc__ = make.__doc__
    return answer


router.get("/report.html")(_export(exports.report))
router.get("/findings.json")(_export(exports.findings_json))
router.get("/findings.sarif")(_export(exports.findings_sarif))


def _dag(session: Session, dag_id: str) -> tuple[DagRecord, Outline | None]:
    found = records.dags(session, {dag_id}, gone=True)
    if not found:
        raise HTTPException(404, "Airflow has no such DAG, or has not parsed it yet.")
    return found[0], records.outlines(session, found).get(dag_id)


def _run(session: Session, dag_id: str, run_id: str) -> RunRecord:
    run = records.run_of(session, dag_id, run_id)
    if run is None:
        raise HTTPException(404, "The DAG has no such run.")
    return run


def _judged(session: Session, viewer: Viewer, dag_id: str, run_id: str) -> tuple[DagRecord, RunView]:
    """Return a run as its evidence shows it. Who did what is only told to whoever may read the audit log."""
    viewer.demand(dag_id)
    record, outline = _dag(session, dag_id)
    view = run_view(session, _run(session, dag_id, run_id), outline, log=viewer.may_read_log(dag_id))
    if view is None:
        raise HTTPException(409, "Airflow's copy of the DAG cannot be read. Let the DAG processor parse it anew.")
    return record, view
