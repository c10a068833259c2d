"""Records: what Airflow's database tells of DAGs, runs and task instances, in few queries whose size does not grow with history.

Nothing here is believed: a state can be set by hand, and an XCom written by hand. What counts is the evidence.
"""

from __future__ import annotations

import zlib
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from threading import Lock
from typing import Any, NamedTuple
from uuid import UUID

from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from sqlalchemy import ColumnElement, and_, case, func, or_, select, union_all
from sqlalchemy.orm import Session

from airflow_pipesec.acts import TOUCHES, XCOMS, Act, may_concern, read_entry
from airflow_pipesec.ui.outline import Outline, outline_of

__all__ = [
    "DagRecord",
    "Glimpse",
    "Instance",
    "RunRecord",
    "acts",
    "dags",
    "glimpses",
    "instances",
    "last_runs",
    "outlines",
    "recent_runs",
    "run_of",
    "summaries",
]

SUMMARY_KEY = "return_value"
MOST_NAMES = 500  # in one list of a query; more are looked for without it
MOST_OUTLINES = 5_000
MOST_INSTANCES = 20_000  # where a run has more, nothing is said of it
MOST_ACTS = 2_000


class DagRecord(NamedTuple):
    """A DAG that Airflow knows and still finds, and the hash of what it looks like now."""

    dag_id: str
    name: str
    paused: bool
    hash: str
    version: str


class RunRecord(NamedTuple):
    """A run: ``key`` is its number in the database."""

    key: int
    dag_id: str
    run_id: str
    state: str
    run_type: str
    user: str | None
    queued: datetime | None
    started: datetime | None
    ended: datetime | None
    logical: datetime | None
    after: datetime | None

    @property
    def over(self) -> bool:
        """Whether Airflow does nothing more for it."""
        return self.state in ("success", "failed")

    @property
    def when(self) -> datetime | None:
        """When it began, as far as that is known."""
        return self.started or self.queued or self.after


class Instance(NamedTuple):
    """A task instance as it is now, see :class:`airflow_pipesec.guards.airflow_api.Instance`."""

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    attempt: str
    started: datetime | None
    ended: datetime | None
    dag_version: str | None

    @property
    def key(self) -> tuple[str, int]:
        """The task and the map index."""
        return self.task_id, self.map_index


class Glimpse(NamedTuple):
    """A guard's instance as Airflow alone shows it: its state, and the outcome in its XCom."""

    task_id: str
    state: str | None
    outcome: str | None


def dags(session: Session, ids: Collection[str] | None = None, *, gone: bool = False) -> list[DagRecord]:
    """Return the DAGs, those of ``ids`` where given, as they look now; also those that are ``gone`` from their files."""
    latest = select(func.max(SerializedDagModel.created_at).label("newest"), SerializedDagModel.dag_id.label("id"))
    latest = latest.group_by(SerializedDagModel.dag_id)
    if ids is not None and len(ids) <= MOST_NAMES:
        latest = latest.where(SerializedDagModel.dag_id.in_(ids))
    newest = latest.subquery()
    query = (
        select(
            DagModel.dag_id,
            DagModel._dag_display_property_value,
            DagModel.is_paused,
            SerializedDagModel.dag_hash,
            SerializedDagModel.dag_version_id,
        )
        .join(newest, newest.c.id == DagModel.dag_id)
        .join(
            SerializedDagModel,
            and_(SerializedDagModel.dag_id == newest.c.id, SerializedDagModel.created_at == newest.c.newest),
        )
        .order_by(DagModel.dag_id)
    )
    if not gone:
        query = query.where(DagModel.is_stale.is_(False))
    found: dict[str, DagRecord] = {}
    for dag_id, name, paused, digest, version in session.execute(query):
        if ids is None or dag_id in ids:
            found[dag_id] = DagRecord(dag_id, str(name or dag_id), bool(paused), str(digest), str(version))
    return list(found.values())


class _Outlines:
    """What was read of serialized DAGs, by the version. A version whose hash changed is read again."""

    def __init__(self) -> None:
        self.known: OrderedDict[str, tuple[str, Outline | None]] = OrderedDict()
        self.lock = Lock()

    def get(self, version: str, digest: str) -> tuple[bool, Outline | None]:
        with self.lock:
            had = self.known.get(version)
            if had is None or had[0] != digest:
                return False, None
            self.known.move_to_end(version)
            return True, had[1]

    def put(self, version: str, digest: str, outline: Outline | None) -> None:
        with self.lock:
            self.known[version] = digest, outline
            while len(self.known) > MOST_OUTLINES:
                self.known.popitem(last=False)


_outlines = _Outlines()


def outlines(session: Session, records: Iterable[DagRecord]) -> dict[str, Outline | None]:
    """Return the outline of each DAG; None for one that cannot be read. What did not change is not read again."""
    found: dict[str, Outline | None] = {}
    missing: dict[UUID, DagRecord] = {}
    for record in records:
        known, outline = _outlines.get(record.version, record.hash)
        if known:
            found[record.dag_id] = outline
        else:
            missing[UUID(record.version)] = record
    wanted = list(missing)
    for start in range(0, len(wanted), MOST_NAMES):
        for version, outline in _read_all(session, wanted[start : start + MOST_NAMES]):
            record = missing[version]
            found[record.dag_id] = outline
            _outlines.put(record.version, record.hash, outline)
    return found


def outline_at(session: Session, version: str | None) -> Outline | None:
    """Return the outline of a version of a DAG, such as the one that a run ran under."""
    if version is None:
        return None
    query = select(SerializedDagModel.dag_hash).where(SerializedDagModel.dag_version_id == UUID(version))
    digest = session.scalar(query)
    if digest is None:
        return None
    known, outline = _outlines.get(version, digest)
    if not known:
        outline = dict(_read_all(session, [UUID(version)])).get(UUID(version))
        _outlines.put(version, digest, outline)
    return outline


def _read_all(session: Session, versions: Sequence[UUID]) -> Iterator[tuple[UUID, Outline | None]]:
    """Read versions in one query; where one of them is no JSON, each by itself, so that the others are read."""
    try:
        rows = list(session.scalars(select(SerializedDagModel).where(SerializedDagModel.dag_version_id.in_(versions))))
    except (ValueError, RecursionError):
        if len(versions) == 1:
            yield versions[0], None
            return
        for version in versions:
            yield from _read_all(session, [version])
        return
    for row in rows:
        yield row.dag_version_id, _read(row)


def _read(row: SerializedDagModel) -> Outline | None:
    try:
        return outline_of(row.data or {})
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, zlib.error):
        return None


_RUN = (
    DagRun.id,
    DagRun.dag_id,
    DagRun.run_id,
    DagRun._state,
    DagRun.run_type,
    DagRun.triggering_user_name,
    DagRun.queued_at,
    DagRun.start_date,
    DagRun.end_date,
    DagRun.logical_date,
    DagRun.run_after,
)


def _run(row: Sequence[Any]) -> RunRecord:
    key, dag_id, run_id, state, run_type, user, *times = row
    return RunRecord(key, dag_id, run_id, str(state or ""), str(getattr(run_type, "value", run_type)), user, *map(_utc, times))


def _utc(when: Any) -> datetime | None:
    if not isinstance(when, datetime):
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)


def last_runs(session: Session, ids: Collection[str]) -> dict[str, RunRecord]:
    """Return the run of each DAG that was made last."""
    newest = select(func.max(DagRun.id).label("key")).group_by(DagRun.dag_id)
    if len(ids) <= MOST_NAMES:
        newest = newest.where(DagRun.dag_id.in_(ids))
    found = newest.subquery()
    rows = session.execute(select(*_RUN).join(found, found.c.key == DagRun.id))
    return {row[1]: _run(row) for row in rows if row[1] in ids}


def recent_runs(session: Session, ids: Collection[str], number: int) -> dict[str, list[RunRecord]]:
    """Return the last runs of some DAGs, the oldest first: each is looked up along an index, however many there are."""
    found: dict[str, list[RunRecord]] = {dag_id: [] for dag_id in ids}
    if not ids:
        return found
    each = [
        select(select(DagRun.id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).limit(number).subquery())
        for dag_id in ids
    ]
    keys = [row[0] for row in session.execute(union_all(*each))]
    for start in range(0, len(keys), MOST_NAMES):
        for row in session.execute(select(*_RUN).where(DagRun.id.in_(keys[start : start + MOST_NAMES]))):
            found[row[1]].append(_run(row))
    for runs in found.values():
        runs.sort(key=lambda run: run.key)
    return found


def run_of(session: Session, dag_id: str, run_id: str) -> RunRecord | None:
    """Return one run; None where there is none of that name."""
    row = session.execute(select(*_RUN).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id)).first()
    return None if row is None else _run(row)


def glimpses(session: Session, runs: Collection[int], tasks: Collection[str]) -> dict[int, list[Glimpse]]:
    """Return for each run, by its key, its guards as Airflow alone shows them. Needs the ids of the guards."""
    found: dict[int, list[Glimpse]] = {key: [] for key in runs}
    if not tasks:
        return found
    outcome: ColumnElement[Any] = XComModel.value["outcome"].as_string()
    if session.get_bind().dialect.name == "sqlite":  # which takes what is no JSON, such as Infinity, and then fails to read it
        outcome = case((func.json_valid(XComModel.value) == 1, outcome))
    of_the_same = and_(
        XComModel.dag_run_id == DagRun.id,
        XComModel.task_id == TaskInstance.task_id,
        XComModel.map_index == TaskInstance.map_index,
        XComModel.key == SUMMARY_KEY,
    )
    query = (
        select(DagRun.id, TaskInstance.task_id, TaskInstance.state, outcome)
        .join(TaskInstance, and_(TaskInstance.dag_id == DagRun.dag_id, TaskInstance.run_id == DagRun.run_id))
        .join(XComModel, of_the_same, isouter=True)
    )
    if len(tasks) <= MOST_NAMES:
        query = query.where(TaskInstance.task_id.in_(tasks))
    keys = list(runs)
    for start in range(0, len(keys), MOST_NAMES):
        for key, task, state, told in session.execute(query.where(DagRun.id.in_(keys[start : start + MOST_NAMES]))):
            if task in tasks:
                found[key].append(Glimpse(task, None if state is None else str(state), told))
    return found


def summaries(session: Session, runs: Collection[int], tasks: Collection[str]) -> dict[int, dict[tuple[str, int], Any]]:
    """Return the XComs in which guards summed up what they saw, whatever is in them, by run and instance."""
    found: dict[int, dict[tuple[str, int], Any]] = {key: {} for key in runs}
    if not tasks:
        return found
    query = select(XComModel.dag_run_id, XComModel.task_id, XComModel.map_index, XComModel.value)
    query = query.where(XComModel.key == SUMMARY_KEY)
    if len(tasks) <= MOST_NAMES:
        query = query.where(XComModel.task_id.in_(tasks))
    keys = list(runs)
    for start in range(0, len(keys), MOST_NAMES):
        for key, task, index, value in session.execute(query.where(XComModel.dag_run_id.in_(keys[start : start + MOST_NAMES]))):
            found[key][task, index] = value
    return found


def instances(session: Session, dag_id: str, run_id: str) -> list[Instance]:
    """Return the task instances of a run, at most ``MOST_INSTANCES``."""
    query = (
        select(
            TaskInstance.task_id,
            TaskInstance.map_index,
            TaskInstance.state,
            TaskInstance.try_number,
            TaskInstance.id,
            TaskInstance.start_date,
            TaskInstance.end_date,
            TaskInstance.dag_version_id,
        )
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        .order_by(TaskInstance.task_id, TaskInstance.map_index)
        .limit(MOST_INSTANCES)
    )
    return [
        Instance(
            task,
            index,
            None if state is None else str(state),
            number,
            str(attempt),
            _utc(started),
            _utc(ended),
            None if version is None else str(version),
        )
        for task, index, state, number, attempt, started, ended, version in session.execute(query)
    ]


def acts(session: Session, run: RunRecord) -> list[Act]:
    """Return what the audit log tells of what people did to a run, oldest first; what it does not tell may have been done too."""
    since = run.queued or run.after
    near = [Log.run_id == run.run_id]
    if since is not None:
        near.append(and_(Log.dttm >= since, or_(Log.run_id.is_(None), Log.run_id != run.run_id)))
    query = (
        select(Log.event, Log.owner, Log.dttm, Log.run_id, Log.task_id, Log.extra)
        .where(Log.dag_id == run.dag_id, Log.event.in_((*TOUCHES, *XCOMS)), or_(*near))
        .order_by(Log.id.desc())
        .limit(MOST_ACTS)
    )
    found: list[Act] = []
    for event, owner, when, run_id, task_id, extra in session.execute(query):
        entry: Mapping[str, Any] = {
            "event": event,
            "owner": owner,
            "when": (_utc(when) or datetime.now(UTC)).isoformat(),
            "run_id": run_id,
            "task_id": task_id,
            "extra": extra,
        }
        if run_id == run.run_id or may_concern(run.run_id, entry):
            found += read_entry(entry)
    return sorted(found, key=lambda act: act.when)
