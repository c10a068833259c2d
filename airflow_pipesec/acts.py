"""Acts: what people did to a run and its tasks, as Airflow's audit log tells it.

Whoever reads the log (a guard over the REST API, a page from the database) gives entries of one form: a mapping with ``event``,
``owner``, ``when`` (ISO 8601), ``run_id``, ``task_id`` and ``extra``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_pipesec.findings import printable

__all__ = ["TOUCHES", "XCOMS", "Act", "deed", "may_concern", "read_entry", "told"]

# What sets a run, or tasks of it, going again, or calls them done, by the names of Airflow's audit log.
TOUCHES = (
    "bulk_dag_runs",
    "clear_dag_run",
    "clear_dag_run_partitions",
    "clear_dag_runs",
    "patch_dag_run",
    "patch_task_group_instances",
    "patch_task_instance",
    "post_clear_task_instances",
)
# What else changes what a later task is told of a run.
XCOMS = ("create_xcom_entry", "delete_xcom_entry", "update_xcom_entry")
MOST_TOLD = 3


class Act(NamedTuple):
    """What somebody asked Airflow to do about a run, as its audit log tells, whether or not Airflow then did it.

    ``run_id`` is the run that the log names, None where it names none. ``task_id`` is None where the request was about more than
    one task, or did not say; ``map_index`` None is every one. ``state`` is the state that was asked for, where that is told.
    ``wide``: it was about tasks above or below as well, or does not say. ``noted``: the log shows a note and no state. Who makes
    a request can have the log show another run, another state, or a note alone.
    """

    user: str
    event: str
    when: datetime
    run_id: str | None = None
    task_id: str | None = None
    map_index: int | None = None
    state: str | None = None
    wide: bool = False
    noted: bool = False

    def concerns(self, task_id: str, map_index: int = -1) -> bool:
        """Whether the request was about a task instance, or may have been."""
        if self.wide or self.task_id is None:
            return True
        return self.task_id == task_id and self.map_index in (None, map_index)


def _acts(event: str, extra: Any) -> bool:
    """Whether a logged request did something to the run. A dry run does not, nor a note; what is not told may be anything."""
    try:
        body = json.loads(extra)
        if body.get("dry_run") is True:
            return False
        noted = event.startswith("patch_") and "note" in body
        return not (noted and body.get("state") is None and body.get("new_state") is None)
    except (ValueError, TypeError, AttributeError):
        return True


def _may_name(run_id: str, extra: str) -> bool:
    """Whether a logged request that is about no run in particular names this one, or none at all."""
    return run_id in extra or not re.search(r'"(dag_)?runs?(_ids?)?"', extra)


def may_concern(run_id: str, entry: Mapping[str, Any]) -> bool:
    """Whether a logged request that is not under a run's name is about that run as well, or does not say."""
    extra = str(entry["extra"])
    if entry["run_id"] in (None, "~"):
        return _may_name(run_id, extra)
    return run_id in extra or _open(extra, "include_past", "include_future")


def _open(extra: Any, *names: str) -> bool:
    """Whether a logged request has one of these switches on. One whose body is not told, only its path, may have all of them."""
    body = _body(extra)
    if body is None or not body.keys() - {"method", "map_index"}:
        return True
    return any(body.get(name) for name in names)


def _body(extra: Any) -> dict[str, Any] | None:
    try:
        body = json.loads(extra)
    except (ValueError, TypeError):
        return None
    return body if isinstance(body, dict) else None


def read_entry(entry: Mapping[str, Any]) -> list[Act]:
    """Return one act for each task that a logged request names, or one that is about all of them; none for a dry run."""
    body = _body(entry["extra"]) or {}
    if body.get("dry_run") is True:
        return []
    state = body.get("new_state", body.get("state"))
    # Where the task is no part of the path, the log has for it whatever somebody put into the query.
    in_path = entry["event"] in ("patch_task_instance", *XCOMS)
    act = Act(
        user=str(entry["owner"]),
        event=str(entry["event"]),
        when=datetime.fromisoformat(entry["when"]),
        run_id=entry["run_id"],
        task_id=entry["task_id"] if in_path else None,
        map_index=_index(body.get("map_index")) if in_path else None,
        state=state if isinstance(state, str) else None,
        wide=entry["event"] not in XCOMS and _open(entry["extra"], "include_upstream", "include_downstream"),
        noted=not _acts(entry["event"], entry["extra"]),
    )
    named = body.get("task_ids")
    if in_path or not isinstance(named, list) or not named:
        return [act]
    return [act._replace(task_id=task_id, map_index=index) for task_id, index in map(_marker, named)]


def _marker(named: Any) -> tuple[str | None, int | None]:
    """Read what a request to clear tasks names: an id, or an id and a map index. What is neither may be any task."""
    if isinstance(named, str):
        return named, None
    if isinstance(named, list) and len(named) == 2 and isinstance(named[0], str):
        return named[0], _index(named[1])
    return None, None


def _index(told: Any) -> int | None:
    """Return a map index as a path, a query or a body has it; None, which is every one, for what is no number."""
    try:
        return int(told)
    except (ValueError, TypeError):
        return None


def told(acts: Sequence[Act]) -> str:
    """Say who did what to a task instance, the last of it, as the end of a sentence."""
    if not acts:
        return "; its audit log tells of nobody who touched it"
    shown = [
        f"{printable(act.user)} {deed(act)} at {act.when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" for act in acts[-MOST_TOLD:]
    ]
    more = f" and {len(acts) - len(shown)} times before" if len(acts) > len(shown) else ""
    return f"; its audit log tells: {', '.join(shown)}{more}"


def deed(act: Act) -> str:
    """Say what somebody did, or asked for."""
    if act.state:
        return f"set it to {printable(act.state)} ({printable(act.event)})"
    return f"asked for {printable(act.event)}"
