"""What the views have in common: what a state looks like, and where things are."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup

from airflow_pipesec.coverage import StageCoverage
from airflow_pipesec.drawing import Mark
from airflow_pipesec.threats import catalogue
from airflow_pipesec.ui.judged import Result

__all__ = ["LOOKS", "MARK_LOOKS", "airflow_url", "drawn", "page_url", "stage_values"]

# What a result looks like: the class of its chip. The words say it too.
LOOKS = {
    Result.ALARM: "alarm",
    Result.STOPPED: "stop",
    Result.UNREADABLE: "doubt",
    Result.UNFINISHED: "doubt",
    Result.CLAIMED: "none",
    Result.WARNED: "warn",
    Result.RUNNING: "run",
    Result.PASSED: "good",
    Result.NEVER: "none",
    Result.NOTHING: "none",
}
MARK_LOOKS = {
    Mark.PASSED: "good",
    Mark.FAILED: "stop",
    Mark.OVERRIDDEN: "alarm",
    Mark.UNPROVEN: "alarm",
    Mark.WARNED: "warn",
    Mark.RUNNING: "run",
    Mark.RETRYING: "run",
    Mark.WAITING: "run",
    Mark.SKIPPED: "none",
    Mark.NOT_RUN: "none",
}


def drawn(svg: str) -> Markup:
    """A picture of ours, in which every text was escaped when it was drawn."""
    return Markup(svg)  # noqa: S704 - see above; the tests draw hostile names


def airflow_url(root: str, dag_id: str, run_id: str | None = None, task_id: str | None = None, map_index: int = -1) -> str:
    """Return the address of a page in Airflow's UI: the tab of a DAG, of a run or of a task instance."""
    parts = [root, "dags", quote(dag_id, safe="")]
    if run_id is not None:
        parts += ["runs", quote(run_id, safe="")]
    if task_id is not None:
        parts += ["tasks", quote(task_id, safe="")]
        parts += ["mapped", str(map_index)] if map_index >= 0 else []
    tab = "pipesec_task" if task_id is not None else "pipesec_run" if run_id is not None else "pipesec_dag"
    return "/".join([*parts, "plugin", tab])


def page_url(root: str, name: str, **values: Any) -> str:
    """Return the address of one of our own pages, or of a file to take away."""
    given = {key: str(value) for key, value in values.items() if value not in ("", None, False)}
    return f"{root}/pipesec/{name}" + (f"?{urlencode(given)}" if given else "")


def stage_values(stage: StageCoverage) -> dict[str, Any]:
    """Return what a page shows of how a stage is guarded."""
    return {
        "id": stage.id,
        "guarded": stage.guarded,
        "exempt": stage.exempt,
        "before": [(watch.guard, str(watch.effect), watch.reason) for watch in stage.before.guards],
        "after": [(watch.guard, str(watch.effect), watch.reason) for watch in stage.after.guards],
        "threats": [catalogue()[name].title for name in stage.threats],
    }
