"""A world to look at: DAGs, runs, XComs, the audit log and signed evidence, in a real database and a real evidence store.

Rows are what Airflow's own code would have written (its functions where they can be called), summaries and attestations what our
guards write: a real verdict of real findings, attested by the guards' own notary. Only nothing ran for it. The database is the
one that ``AIRFLOW__DATABASE__SQL_ALCHEMY_CONN`` names, migrated already.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, TypeVar, cast
from uuid import UUID

from airflow.sdk import DAG
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_pipesec.attestation import Attempt, Link, digest_set, seal, verification_summary
from airflow_pipesec.checks import integrity, quality, release
from airflow_pipesec.evidence import RunEvidence, folder_of, name_of
from airflow_pipesec.findings import Control, Finding, Status, Subject
from airflow_pipesec.guards.evidence import Notary, is_guard
from airflow_pipesec.guards.link import EvidenceLink
from airflow_pipesec.guards.trust import configured_signer, evidence_url
from airflow_pipesec.operators import (
    DataValidationOperator,
    HashManifestOperator,
    HashVerificationOperator,
    ReleaseGateOperator,
)
from airflow_pipesec.policy import Judged, Outcome, Policy, Verdict, Waiver
from airflow_pipesec.signing import LocalSigner, Signer
from airflow_pipesec.storage import open_store

__all__ = ["MAPPED", "Played", "add_dag", "add_run", "guards_of", "naked_pipeline", "plain_pipeline", "populate"]

Key = str | tuple[str, int]
Row = dict[str, Any]
T = TypeVar("T")
BUNDLE = "dags-folder"
MAPPED = 3  # instances of a mapped task, unless told
STAGE, GUARD = 4.0, 0.4  # seconds that one takes
UNFINISHED = (None, "queued", "scheduled", "running", "restarting", "deferred", "up_for_retry", "up_for_reschedule")


class Played(StrEnum):
    """How a guard's instance went. What a failure makes of the task, its ``on_failure`` says."""

    PASSED = "passed"
    FAILED = "failed"
    ERROR = "error"
    WARNED = "warned"
    """Failed, and only warns: its ``on_failure`` has to be ``"warn"``."""
    OVERRIDDEN = "overridden"
    """Failed, and was set to success by hand."""
    MARKED = "marked"
    """Never ran, and was set to success by hand."""
    REMARKED = "remarked"
    """Passed, was cleared, and set to success by hand before it ran again: XCom and evidence are of the attempt before."""
    FORGED = "forged"
    """Success, and its evidence was signed by another key."""
    TAMPERED = "tampered"
    """Passed; a byte of its evidence was changed since."""
    REMOVED = "removed"
    """Passed; its evidence was deleted since."""
    RELINKED = "relinked"
    """Passed, and its evidence links other evidence than lies upstream."""
    RETRIED = "retried"
    """Broke off, and passed when it was tried again."""
    RUNNING = "running"
    UP_FOR_RETRY = "up for retry"
    QUEUED = "queued"
    DEFERRED = "deferred"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    UPSTREAM_FAILED = "upstream failed"


class _Course(NamedTuple):
    """What is there in the end: the state, what the latest attempt signed, and what the one before it had signed."""

    state: str | None
    signed: Outcome | None = None
    before: Outcome | None = None
    by_hand: bool = False


_COURSES = {
    Played.PASSED: _Course("success", Outcome.PASSED),
    Played.FAILED: _Course("failed", Outcome.FAILED),
    Played.ERROR: _Course("failed", Outcome.ERROR),
    Played.WARNED: _Course("success", Outcome.FAILED),
    Played.OVERRIDDEN: _Course("success", Outcome.FAILED, by_hand=True),
    Played.MARKED: _Course("success", by_hand=True),
    Played.REMARKED: _Course("success", before=Outcome.PASSED, by_hand=True),
    Played.FORGED: _Course("success", Outcome.PASSED),
    Played.TAMPERED: _Course("success", Outcome.PASSED),
    Played.REMOVED: _Course("success", Outcome.PASSED),
    Played.RELINKED: _Course("success", Outcome.PASSED),
    Played.RETRIED: _Course("success", Outcome.PASSED, before=Outcome.ERROR),
    Played.RUNNING: _Course("running"),
    Played.UP_FOR_RETRY: _Course("up_for_retry", before=Outcome.ERROR),
    Played.QUEUED: _Course("queued"),
    Played.DEFERRED: _Course("deferred"),
    Played.SKIPPED: _Course("skipped"),
    Played.NOT_RUN: _Course(None),
    Played.UPSTREAM_FAILED: _Course("upstream_failed"),
}


def plain_pipeline(
    dag_id: str, stages: int = 5, *, mapped: bool = False, tags: Collection[str] = (), on_failure: Mapping[str, str] | None = None
) -> DAG:
    """Make a pipeline of some stages, four at least, with guards between them; the last stage, ``report``, is naked.

    Of five stages it is ``collect``, ``record_collect``, ``verify_collect``, ``preprocess``, ``validate_preprocess``, ``train``,
    ``record_train``, ``release_gate``, ``deploy``, ``report``; others have more or fewer in the middle. When ``mapped``, the
    first that validates does it for each of three parts. ``on_failure`` is that of guards, by id.
    """
    if stages < 4 + mapped:
        raise ValueError("a pipeline has four stages at least, and five where a guard is mapped")
    data = f"/data/{dag_id}/{{{{ run_id }}}}"
    failing: Any = dict(on_failure or {})
    with _dag(dag_id, tags) as dag:

        def integrity_guard(cls: Any, verb: str, name: str) -> Any:
            task_id = f"{verb}_{name}"
            place = {"root": f"{data}/{name}", "manifest": f"{data}/{name}.json"}
            return cls(task_id=task_id, on_failure=failing.pop(task_id, "fail"), **place)

        record = integrity_guard(HashManifestOperator, "record", "collect")
        last = integrity_guard(HashVerificationOperator, "verify", "collect")
        _stage("collect") >> record >> last
        for number, name in enumerate(_middle(stages - 4)):
            task_id = f"validate_{name}"
            given: Any = {"task_id": task_id, "checks": {"rows": {"min": 1}}, "on_failure": failing.pop(task_id, "fail")}
            if mapped and number == 0:
                parts = [f"{data}/{name}/part-{part}.parquet" for part in range(MAPPED)]
                validate: Any = DataValidationOperator.partial(**given).expand(path=parts)
            else:
                validate = DataValidationOperator(path=f"{data}/{name}/rows.parquet", **given)
            last >> _stage(name) >> validate
            last = validate
        train, record = _stage("train"), integrity_guard(HashManifestOperator, "record", "train")
        gate_fails = failing.pop("release_gate", "fail")
        gate = ReleaseGateOperator(task_id="release_gate", artifact=f"{data}/train", on_failure=gate_fails)
        last >> train >> record >> gate >> _stage("deploy") >> _stage("report")
    if failing:
        raise ValueError(f"{dag_id} has no guard {', '.join(failing)}")
    return dag


def naked_pipeline(dag_id: str, stages: int = 5, *, tags: Collection[str] = ()) -> DAG:
    """Make the same stages without a guard."""
    with _dag(dag_id, tags) as dag:
        last = _stage("collect")
        for name in (*_middle(stages - 4), "train", "deploy", "report"):
            this = _stage(name)
            last >> this
            last = this
    return dag


def _dag(dag_id: str, tags: Collection[str]) -> DAG:
    return DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC), catchup=False, tags=list(tags))


def _middle(number: int) -> list[str]:
    return [["preprocess", "features"][place] if place < 2 else f"stage_{place}" for place in range(number)]


def _stage(name: str) -> Any:
    from airflow.providers.standard.operators.python import PythonOperator

    return PythonOperator(task_id=name, python_callable=_works)


def _works() -> str:
    return "done"


def guards_of(dag: DAG) -> list[str]:
    """Return the ids of a DAG's guards, each after those upstream of it."""
    return [task.task_id for task in _Shape(dag).order if is_guard(task)]


def add_dag(dag: DAG, *, bundle: str = BUNDLE) -> None:
    """Write a DAG as the DAG processor does when it has parsed its file; not paused. One that changed gets another version."""
    _add_dags([dag], bundle)


def _add_dags(dags: Sequence[DAG], bundle: str) -> None:
    from airflow.dag_processing.collection import update_dag_parsing_results_in_db
    from airflow.models.dag import DagModel
    from airflow.models.dag_version import DagVersion
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session
    from sqlalchemy import select, update

    for dag in dags:
        dag.relative_fileloc = Path(dag.fileloc).name
    with create_session(scoped=False) as session:
        if session.get(DagBundleModel, bundle) is None:
            session.add(DagBundleModel(name=bundle))
            session.flush()
        ids = [dag.dag_id for dag in dags]
        known = set(session.scalars(select(DagVersion.dag_id).where(DagVersion.dag_id.in_(ids))))
        faults: dict[tuple[str, str], str] = {}
        written = [LazyDeserializedDAG.from_dag(dag) for dag in dags]
        update_dag_parsing_results_in_db(bundle, None, written, faults, 0.1, set(), session)
        if faults:
            raise ValueError(f"Airflow does not take this DAG: {faults}")
        for lazy in written:
            if lazy.dag_id in known:  # which the processor looks at again after half a minute only
                SerializedDagModel.write_dag(lazy, bundle_name=bundle, session=session)
        session.execute(update(DagModel).where(DagModel.dag_id.in_(ids)).values(is_paused=False))


def add_run(
    dag: DAG,
    run_id: str,
    *,
    plays: Mapping[Key, Played] | None = None,
    default: Played = Played.PASSED,
    stages: Mapping[str, str | None] | None = None,
    state: str | None = None,
    user: str = "uma",
    by: str = "mallory",
    signer: Signer | None = None,
    evidence_root: Path | None = None,
    when: datetime | None = None,
    findings: Mapping[Key, Sequence[Finding]] | None = None,
    waivers: Mapping[Key, Sequence[Waiver]] | None = None,
    mapped: Mapping[str, int] | None = None,
) -> None:
    """Play a run of a DAG that :func:`add_dag` wrote, and write what it leaves behind.

    ``plays`` says how guards went, by task or by task and map index; the others went as ``default`` says. ``stages`` are states
    of stages. Where nothing is said, a task that would not have run for what came before it did not. ``findings`` are what guards
    saw, instead of something that fits; ``waivers`` are added to their policies. ``mapped`` says how many instances a mapped task
    has. ``user`` triggered the run, ``by`` set by hand what was. ``state`` is the run's, worked out unless given. ``when`` it
    began: just so long ago that it is over now, unless given. ``signer`` and ``evidence_root`` are those that Airflow's
    configuration names, unless given.
    """
    from airflow.models.dag_version import DagVersion
    from airflow.utils.session import create_session

    shape = _Shape(dag)
    unknown = {key if isinstance(key, str) else key[0] for key in (plays or {})} - shape.guards
    if unknown := unknown | ({*(stages or {}), *(mapped or {})} - dag.task_dict.keys()):
        raise ValueError(f"{dag.dag_id} has no {', '.join(sorted(unknown))}")
    with create_session(scoped=False) as session:
        version = DagVersion.get_latest_version(dag.dag_id, session=session)
        if version is None:
            raise ValueError(f"{dag.dag_id} is not in the database. Use add_dag first.")
        shape.version = version.id
        root = Path(evidence_url()) if evidence_root is None else evidence_root
        run = _Run(
            shape,
            run_id,
            when=when or datetime.now(UTC) - timedelta(seconds=sum(map(shape.seconds, shape.order)) + 1),
            plays=plays or {},
            default=default,
            stages=stages or {},
            state=state,
            user=user,
            by=by,
            store=_Store(root, configured_signer() if signer is None else signer),
            findings=findings or {},
            waivers=waivers or {},
            mapped=mapped or {},
        )
        rows = _Rows()
        run.play(rows)
        rows.insert(session)


class _Shape:
    """What of a DAG is the same for each run."""

    def __init__(self, dag: DAG, version: UUID | None = None) -> None:
        self.dag = dag
        self.version = version
        left = {name: len(task.upstream_task_ids) for name, task in dag.task_dict.items()}
        ready = [name for name, number in left.items() if not number]
        for name in ready:  # grows while it is gone through
            for other in sorted(dag.task_dict[name].downstream_task_ids):
                left[other] -= 1
                if not left[other]:
                    ready.append(other)
        self.order: list[Any] = [dag.task_dict[name] for name in ready]
        self.guards = {task.task_id for task in self.order if is_guard(task)}
        self.leaves = {task.task_id for task in self.order if not task.downstream_task_ids}

    def seconds(self, task: Any) -> float:
        return GUARD if task.task_id in self.guards else STAGE

    @cached_property
    def policies(self) -> dict[str, Policy]:
        found = {}
        for task in self.order:
            given = _given(task, "policy") if task.task_id in self.guards else None
            found[task.task_id] = Policy.load(given if isinstance(given, Mapping) else None)
        return found


class _Elsewhere(RunEvidence):
    """The place of a run's evidence as one sees it who wants to be linked to other evidence than is there."""

    def links(self, upstream: Iterable[tuple[str, Collection[int] | None]]) -> list[Link]:
        found = super().links(upstream)
        if not found:
            raise ValueError("what follows no guard has no link that could lead elsewhere")
        return [link._replace(sha256=hashlib.sha256(b"elsewhere").hexdigest()) for link in found]


@dataclass(frozen=True)
class _Store:
    """Where evidence goes, and what signs it."""

    root: Path
    signer: Signer | None

    def run(self, dag_id: str, run_id: str, kind: type[RunEvidence] = RunEvidence) -> RunEvidence:
        return kind(open_store(self.root / folder_of(dag_id, run_id)))


@dataclass
class _Rows:
    """Rows to be inserted, those that need the number of their run beside its place in the list."""

    runs: list[Row] = field(default_factory=list)
    instances: list[Row] = field(default_factory=list)
    history: list[Row] = field(default_factory=list)
    xcoms: list[tuple[int, Row]] = field(default_factory=list)
    logs: list[Row] = field(default_factory=list)

    def insert(self, session: Any) -> None:
        from airflow.models.dagrun import DagRun
        from airflow.models.log import Log
        from airflow.models.taskinstance import TaskInstance
        from airflow.models.taskinstancehistory import TaskInstanceHistory
        from airflow.models.xcom import XComModel
        from sqlalchemy import insert

        wanted = insert(DagRun).returning(DagRun.id, sort_by_parameter_order=True)
        keys = list(session.scalars(wanted, self.runs))
        xcoms = [row | {"dag_run_id": keys[place]} for place, row in self.xcoms]
        of_each: list[tuple[Any, list[Row]]] = [
            (TaskInstance, self.instances),
            (TaskInstanceHistory, self.history),
            (XComModel, xcoms),
            (Log, self.logs),
        ]
        for model, rows in of_each:
            if rows:
                session.execute(insert(model), rows)


@dataclass
class _Run:
    """One run while it is played: tasks in their order, by a clock of its own."""

    shape: _Shape
    run_id: str
    when: datetime
    plays: Mapping[Key, Played]
    default: Played
    stages: Mapping[str, str | None]
    user: str
    by: str
    store: _Store | None
    state: str | None = None
    findings: Mapping[Key, Sequence[Finding]] = field(default_factory=dict)
    waivers: Mapping[Key, Sequence[Waiver]] = field(default_factory=dict)
    mapped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.dag_id: str = self.shape.dag.dag_id
        self.clock = self.when
        self.states: dict[str, list[str | None]] = {}  # what tasks below see, of each task's instances
        self.indexes: dict[str, list[int]] = {}
        self.attested: list[tuple[str, str]] = []
        self.later: list[tuple[Played, Attempt]] = []

    def play(self, rows: _Rows) -> None:
        """Play all of it, and leave what it wrote in ``rows``."""
        self.rows, self.place = rows, len(rows.runs)
        rows.runs.append({})  # keeps the place
        body = {"conf": {}, "logical_date": _iso(self.when), "method": "POST"}
        self._log("trigger_dag_run", self.user, self.when, extra=json.dumps(body), run_id=None, display=self.user)
        for task in self.shape.order:
            above = [state for name in sorted(task.upstream_task_ids) for state in self.states[name]]
            would = _would(str(getattr(task.trigger_rule, "value", task.trigger_rule)), above)
            if task.task_id in self.shape.guards:
                self._guard(task, would)
            else:
                self._stage(task, would)
        for played, attempt in self.later:
            self._spoil(played, attempt)
        rows.runs[self.place] = self._row()

    def _row(self) -> Row:
        from airflow.utils.types import DagRunTriggeredByType

        every = [state for found in self.states.values() for state in found]
        leaves = [state for name in self.shape.leaves for state in self.states[name]]
        state = self.state
        if state is None:
            bad = any(one in ("failed", "upstream_failed") for one in leaves)
            state = "running" if any(one in UNFINISHED for one in every) else "failed" if bad else "success"
        return {
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "queued_at": self.when,
            "logical_date": self.when,
            "start_date": self.when,
            "end_date": self.clock if state in ("success", "failed") else None,
            "_state": state,
            "run_type": "manual",
            "triggered_by": DagRunTriggeredByType.UI,
            "triggering_user_name": self.user,
            "conf": {},
            "data_interval_start": self.when,
            "data_interval_end": self.when,
            "run_after": self.when,
            "last_scheduling_decision": self.clock,
            "created_at": self.when,
            "updated_at": self.clock,
            "clear_number": 0,
            "created_dag_version_id": self.shape.version,
        }

    def _places(self, task: Any, runs: bool) -> list[int]:
        """The map indexes of a task: -1 alone where it is not mapped, or was never expanded."""
        told = any(isinstance(key, tuple) and key[0] == task.task_id for key in self.plays)
        expands = hasattr(task, "partial_kwargs") or task.get_closest_mapped_task_group() is not None
        indexes = list(range(self.mapped.get(task.task_id, MAPPED))) if expands and (runs or told) else [-1]
        self.indexes[task.task_id] = indexes
        return indexes

    def _stage(self, task: Any, would: str | None) -> None:
        state = self.stages.get(task.task_id, would)
        self.states[task.task_id] = []
        began = self.clock
        for index in self._places(task, state == "success"):
            self.clock = began
            ran = state in ("success", "failed", "running", "up_for_retry", "deferred")
            row = self._instance(task, index, state, ran=ran)
            self.states[task.task_id].append(state)
            if state == "success":
                self._xcom(row, "return_value", f"{task.task_id} is done")

    def _guard(self, task: Any, would: str | None) -> None:
        name, began = task.task_id, self.clock
        self.states[name] = []
        for index in self._places(task, would == "success"):
            self.clock = began
            idle = {"skipped": Played.SKIPPED, "upstream_failed": Played.UPSTREAM_FAILED, None: Played.NOT_RUN}
            played = _of(self.plays, name, index, idle.get(would, self.default))
            course = _COURSES[played]
            on_failure = str(_given(task, "on_failure") or "fail")
            state = course.state
            if played is Played.WARNED and on_failure != "warn":
                raise ValueError(f'{name} does not only warn. Give it on_failure="warn".')
            if played is Played.FAILED and on_failure != "fail":
                state = "success"
            before = None if course.before is None else self._attempt_before(task, index, course.before)
            row = self._instance(task, index, state, ran=course.signed is not None or state in ("running", "deferred"), of=before)
            if course.signed is not None:
                self._sign(task, row, played, course.signed)
            if course.by_hand:
                self._by_hand(row, cleared=played is Played.REMARKED)
            refuses = played is Played.FAILED and on_failure == "skip_downstream"
            self.states[name].append("skipped" if refuses else state)

    def _attempt_before(self, task: Any, index: int, signed: Outcome) -> Row:
        """Play an attempt that others follow: Airflow keeps it in the history, under its own id."""
        ended = "success" if signed is Outcome.PASSED else "failed"
        row = self._instance(task, index, ended, ran=True)
        self.rows.instances.pop()
        self._sign(task, row, Played.PASSED if signed is Outcome.PASSED else Played.ERROR, signed)
        kept = {
            key: value for key, value in row.items() if key not in ("id", "_task_display_property_value", "last_heartbeat_at")
        }
        self.rows.history.append(kept | {"task_instance_id": row["id"], "task_display_name": task.task_id})
        return row

    def _instance(self, task: Any, index: int, state: str | None, *, ran: bool, of: Row | None = None) -> Row:
        """Add the row of a task instance, and what the audit log tells of it; ``of`` is an attempt that it follows."""
        made = self.when if of is None else self.clock
        tries = 0 if of is None else of["try_number"]
        tries += ran or state == "queued"
        start = self.clock if ran or state in ("success", "skipped", "upstream_failed") else None
        over = state not in UNFINISHED
        if ran:
            self.clock += timedelta(seconds=self.shape.seconds(task))
        if state == "up_for_retry" and of is not None:
            start = of["start_date"]
        end = self.clock if over or (state == "up_for_retry" and start is not None) else None
        row: Row = {
            "id": _uuid7(made),
            "task_id": task.task_id,
            "dag_id": self.dag_id,
            "run_id": self.run_id,
            "map_index": index,
            "start_date": start,
            "end_date": end,
            "duration": (end - start).total_seconds() if start and end else None,
            "state": state,
            "try_number": tries,
            "max_tries": task.retries,
            "hostname": "worker-1" if ran else "",
            "unixname": _user(),
            "pool": task.pool,
            "pool_slots": 1,
            "queue": task.queue,
            "priority_weight": 1,
            "operator": task.task_type,
            "custom_operator_name": getattr(task, "operator_name", None),
            "queued_dttm": start if ran else self.clock if state == "queued" else None,
            "scheduled_dttm": start if ran else self.clock if state == "queued" else None,
            "last_heartbeat_at": end,
            "pid": 4711 if ran else None,
            "executor_config": {},
            "updated_at": self.clock,
            "context_carrier": {},
            "_task_display_property_value": task.task_id,
            "dag_version_id": self.shape.version,
            "next_method": "execute_complete" if state == "deferred" else None,
        }
        self.rows.instances.append(row)
        if ran:
            told = {"run_id": self.run_id, "task_id": task.task_id, "map_index": index, "try_number": tries}
            told["extra"] = json.dumps({"host_name": "worker-1"})
            self._log("running", task.owner, start or self.clock, **told)
            if state != "running":
                self._log(str(state), task.owner, self.clock, **told)
        return row

    def _log(self, event: str, owner: str, when: datetime, *, display: str | None = None, **more: Any) -> None:
        row: Row = {"dttm": when, "dag_id": self.dag_id, "event": event, "owner": owner, "owner_display_name": display}
        row |= dict.fromkeys(("task_id", "map_index", "run_id", "extra", "try_number"))
        row["logical_date"] = self.when if event in ("running", "success", "failed", "deferred", "up_for_retry") else None
        self.rows.logs.append(row | more)

    def _by_hand(self, row: Row, *, cleared: bool) -> None:
        """What the audit log tells of somebody who set an instance to success: its map index stands in the text alone."""
        self.clock += timedelta(seconds=1)
        if cleared:
            body: Row = {"dry_run": False, "task_ids": [row["task_id"]], "dag_run_id": self.run_id, "method": "POST"}
            extra = json.dumps(body)
            self._log("post_clear_task_instances", self.by, self.clock, display=self.by, run_id=self.run_id, extra=extra)
        wide = dict.fromkeys(("include_downstream", "include_future", "include_past", "include_upstream"), False)
        body = {"map_index": str(row["map_index"]), **wide, "new_state": "success", "method": "PATCH"}
        told = {"run_id": self.run_id, "task_id": row["task_id"], "extra": json.dumps(body)}
        self._log("patch_task_instance", self.by, self.clock, display=self.by, **told)

    def _xcom(self, of: Row, key: str, value: Any) -> None:
        row = {name: of[name] for name in ("dag_id", "task_id", "run_id", "map_index")}
        row |= {"key": key, "value": value, "timestamp": self.clock, "dag_result": False}
        same = (row["task_id"], row["map_index"], key)
        if of["try_number"] > 1:  # a task's start deletes what the try before it had pushed
            self.rows.xcoms[:] = [
                (place, other)
                for place, other in self.rows.xcoms
                if place != self.place or (other["task_id"], other["map_index"], other["key"]) != same
            ]
        self.rows.xcoms.append((self.place, row))

    def _sign(self, task: Any, row: Row, played: Played, signed: Outcome) -> None:
        """Judge, attest and push as a guard does."""
        name, index = task.task_id, row["map_index"]
        policy = self.shape.policies[name]
        if more := _of(self.waivers, name, index, ()):
            policy = Policy(policy.fail_on, (*policy.waivers, *more))
        guard = _rendered(task, index, self.run_id)
        seen = list(_of(self.findings, name, index, ()) or _seen(guard, f"/data/{name}", signed))
        if signed is Outcome.ERROR:
            judged = tuple(Judged(finding, blocks=False) for finding in seen)
            verdict = Verdict(Outcome.ERROR, judged, "the check broke off with an exception")
        else:
            verdict = policy.judge(seen, today=self.clock.date())
        if verdict.outcome is not signed:
            raise ValueError(f"what {name} found comes to {verdict.outcome}, and it is to have signed {signed}")
        attempt = Attempt(self.dag_id, self.run_id, name, index, row["try_number"], str(row["id"]))
        if self.store is None:
            digest = hashlib.sha256(attempt.attempt.encode()).hexdigest()
        else:
            digest = self._attest(self.store, task, guard, attempt, verdict, policy, played)
        if verdict.passed and (handle := guard._handle(verdict)) is not None:
            self._xcom(row, "handle", handle.to_xcom())
        seconds = round((row["end_date"] - row["start_date"]).total_seconds() * 0.97, 3)
        self._xcom(row, "return_value", verdict.summary() | {"seconds": seconds, "attestation": f"sha256:{digest}"})
        self._xcom(row, EvidenceLink.xcom_key, EvidenceLink().get_link(guard, ti_key=cast("Any", attempt)))

    def _attest(
        self, store: _Store, task: Any, guard: Any, attempt: Attempt, verdict: Verdict, policy: Policy, played: Played
    ) -> str:
        notary = Notary.__new__(Notary)  # which otherwise takes all that from a context and the configuration
        notary.attempt = attempt
        notary.signer = _STRANGER if played is Played.FORGED else store.signer
        kind = _Elsewhere if played is Played.RELINKED else RunEvidence
        notary.evidence = store.run(self.dag_id, self.run_id, kind)
        context: Any = {
            "task": task,
            "ti": SimpleNamespace(**attempt._asdict(), dag_version_id=self.shape.version, get_ti_count=self._count),
            "dag_run": SimpleNamespace(logical_date=self.when, run_type="manual", triggering_user_name=self.user),
        }
        began = self.clock - timedelta(seconds=GUARD)
        digest = notary.attest(context, guard, verdict, policy, began, self.clock)
        name = name_of(attempt)
        self.attested.append((f"{folder_of(self.dag_id, self.run_id)}/{name}", digest))
        if isinstance(guard, ReleaseGateOperator) and verdict.outcome is not Outcome.ERROR:
            summary = verification_summary(
                resource=guard.artifact,
                digest=digest_set(f"tree:{_digest(guard.artifact)}"),
                passed=verdict.passed,
                policy=policy.document(),
                policy_uri="urn:airflow-pipesec:policy",
                inputs=self.attested,
                verified=self.clock,
            )
            notary.evidence.write_summary(attempt, seal(summary, notary.signer))
        if played in (Played.TAMPERED, Played.REMOVED):
            self.later.append((played, attempt))
        return digest

    def _count(self, *, task_ids: Sequence[str], map_index: int | None = None, **_: Any) -> int:
        return sum(map_index in (None, index) for name in task_ids for index in self.indexes[name])

    def _spoil(self, played: Played, attempt: Attempt) -> None:
        assert self.store is not None
        path = self.store.root / folder_of(self.dag_id, self.run_id) / name_of(attempt)
        envelope = bytearray(path.read_bytes())
        path.unlink()
        if played is Played.TAMPERED:
            place = envelope.index(b'"payload":"') + 400
            envelope[place] = ord("A") if envelope[place] != ord("A") else ord("B")
            path.write_bytes(envelope)


_STRANGER = LocalSigner(ec.generate_private_key(ec.SECP256R1()))


def _of(told: Mapping[Key, T], name: str, index: int, otherwise: T) -> T:
    """What is told of an instance, or else of its task."""
    return told.get((name, index), told.get(name, otherwise))


def _would(rule: str, above: Sequence[str | None]) -> str | None:
    """What becomes of a task, and of one that runs that it is a success; the rules that end like none of these are left out."""
    if not above or rule == "always":
        return "success"
    if any(state in UNFINISHED for state in above):
        return None
    if rule == "all_done":
        return "success"
    if any(state in ("failed", "upstream_failed") for state in above):
        return "upstream_failed"
    return "skipped" if "skipped" in above and not rule.startswith("none_failed") else "success"


def _given(task: Any, name: str) -> Any:
    return task.partial_kwargs.get(name) if hasattr(task, "partial_kwargs") else getattr(task, name, None)


def _class_of(task: Any) -> Any:
    return task.operator_class if hasattr(task, "partial_kwargs") else type(task)


def _rendered(task: Any, index: int, run_id: str) -> Any:
    """A guard as it is where it runs, as far as it says what it looks at: expanded, and its templates rendered."""
    cls = _class_of(task)
    guard = cls.__new__(cls)
    for name in ("root", "manifest", "path", "artifact"):
        value = _given(task, name)
        if value is None and index >= 0:
            value = _expanded(task, name, index)
        guard.__dict__[name] = None if value is None else str(value).replace("{{ run_id }}", run_id)
    return guard


def _expanded(task: Any, name: str, index: int) -> Any:
    given = getattr(getattr(task, "expand_input", None), "value", None)
    values = given.get(name) if isinstance(given, Mapping) else None
    return values[index] if isinstance(values, list) and index < len(values) else None


def _digest(name: str) -> str:
    """The digest of a file that is nowhere, the same for the same name."""
    return f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"


_OF_MANIFEST = (integrity.MANIFEST_INTACT, integrity.MANIFEST_SIGNED)
_OF_FILES = (
    integrity.FILES_PRESENT,
    integrity.FILES_READABLE,
    integrity.NAMES_UNAMBIGUOUS,
    integrity.NO_EXTRA_FILES,
    integrity.NO_SPECIAL_FILES,
    integrity.NO_SYMLINKS,
    integrity.PATHS_CONTAINED,
)


def _seen(guard: Any, fallback: str, signed: Outcome) -> Iterator[Finding]:
    """What a guard saw: all is well; one thing is wrong where it failed; and what came before it broke off."""
    place = guard.root or guard.path or guard.artifact or fallback
    about = Subject(place, _digest(place) if guard.path else f"tree:{_digest(place)}")
    if isinstance(guard, DataValidationOperator):
        good: list[tuple[Control, str, int]] = [
            (quality.DATA_PRESENT, "1,200 rows", 1200),
            (quality.COLUMNS_PRESENT, "31 columns are there", 31),
            (quality.EXPECTATIONS_MET, "12 expectations are met", 12),
        ]
        bad = quality.EXPECTATIONS_MET, "expect_column_values_to_be_between on column mean_radius: not met by 20 of 1,200 rows"
    elif isinstance(guard, ReleaseGateOperator):
        good = [(control, "4 guards", 4) for control in (release.EVIDENCE_PRESENT, release.EVIDENCE_LINKED, release.GUARD_PASSED)]
        good += [(release.ARTIFACT_ATTESTED, "is what a guard of this run passed", 1)]
        bad = release.GUARD_PASSED, "signed FAILED: 1 failed"
    else:
        good = [(control, "3 files", 3) for control in _OF_FILES]
        bad = integrity.NO_SYMLINKS, "is a symbolic link"
        if isinstance(guard, HashVerificationOperator):
            good += [(integrity.DIGEST_MATCHES, "3 files of 3 recorded match by sha256 (48,211 bytes read)", 3)]
            bad = integrity.DIGEST_MATCHES, "is not what was recorded: sha256 0f3c5d2b9a7e4c11… is now 9be1d00c4f5a7e20…"
        if guard.manifest:
            good.insert(0, (integrity.MANIFEST_INTACT, "3 files recorded", 3))
            good.append((integrity.MANIFEST_SIGNED, "signed by a trusted key", 1))
    if signed is Outcome.FAILED:
        good = [item for item in good if item[0] is not bad[0]]
        yield Finding(bad[0], Subject(f"{place}/rows.parquet"), Status.FAIL, bad[1])
    for control, message, count in good[:1] if signed is Outcome.ERROR else good:
        subject = Subject(guard.manifest, _digest(guard.manifest)) if control in _OF_MANIFEST else about
        yield Finding(control, subject, Status.PASS, message, count=count)


def _uuid7(when: datetime) -> UUID:
    """An id as Airflow makes it for an attempt: a UUID of version 7, which begins with the time."""
    milliseconds = int(when.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62))


def _user() -> str:
    return getpass.getuser()


def _iso(when: datetime) -> str:
    return when.isoformat().replace("+00:00", "Z")


_WORDS = ("churn", "fraud", "credit", "demand", "tumour", "pricing", "ranking", "speech", "vision", "energy")
# How one guard of a run went: of those before the last (by share), and of the last one of each DAG.
_BEFORE = (*[Played.PASSED] * 80, *[Played.FAILED] * 8, *[Played.ERROR] * 3, *[Played.RETRIED] * 5, *[Played.OVERRIDDEN] * 4)
_NOW = (
    *[Played.PASSED] * 12,
    Played.FAILED,
    Played.ERROR,
    Played.RETRIED,
    Played.RUNNING,
    Played.OVERRIDDEN,
    Played.MARKED,
    Played.FORGED,
    Played.TAMPERED,
)


def populate(
    dags: int = 500,
    runs: int = 20,
    *,
    evidence: Literal["none", "last", "all"] = "last",
    signer: Signer | None = None,
    evidence_root: Path | None = None,
    now: datetime | None = None,
    seed: int = 0,
) -> None:
    """Fill an empty database: every tenth DAG is naked, another tenth has a mapped guard, verdicts are mixed.

    The last run of each began a minute ago, those before it each an hour earlier. ``evidence`` says of which runs there is
    evidence: where there is to be of older ones, the key has to have been valid then.
    """
    from airflow.models.dag_version import DagVersion
    from airflow.utils.session import create_session
    from sqlalchemy import select, text

    chance = random.Random(seed)
    store = None
    if evidence != "none":
        root = Path(evidence_url()) if evidence_root is None else evidence_root
        store = _Store(root, configured_signer() if signer is None else signer)
    made = [_made(number, chance) for number in range(dags)]
    _add_dags(made, BUNDLE)
    today = now or datetime.now(UTC)
    with create_session(scoped=False) as session:
        latest = dict(session.execute(select(DagVersion.dag_id, DagVersion.id)).all())
        shapes = [_Shape(dag, latest[dag.dag_id]) for dag in made]
        for turn in range(runs):
            rows, last = _Rows(), turn + 1 == runs
            began = today - timedelta(hours=runs - 1 - turn, minutes=1)
            for number, shape in enumerate(shapes):
                when = began + timedelta(milliseconds=number)
                run = _Run(
                    shape,
                    f"manual__{when.isoformat()}",
                    when,
                    plays=_mixed(shape, chance, last=last),
                    default=Played.PASSED,
                    stages={},
                    user=chance.choice(("uma", "olga", "vera")),
                    by="mallory",
                    store=store if last or evidence == "all" else None,
                )
                run.play(rows)
            rows.insert(session)
    with create_session(scoped=False) as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("ANALYZE"))  # as autovacuum does after a while


def _made(number: int, chance: random.Random) -> DAG:
    name = f"{_WORDS[number % len(_WORDS)]}_training_{number:03}"
    tags = sorted({chance.choice(("team-a", "team-b", "team-c")), chance.choice(("production", "research"))})
    if number % 10 == 9:
        return naked_pipeline(name, tags=tags)
    if number % 10 == 4:
        return plain_pipeline(name, 5, mapped=True, tags=tags)
    return plain_pipeline(name, chance.choice((4, 5, 5, 6)), tags=tags)


def _mixed(shape: _Shape, chance: random.Random, *, last: bool) -> dict[Key, Played]:
    guards = [task.task_id for task in shape.order if task.task_id in shape.guards]
    return {chance.choice(guards): chance.choice(_NOW if last else _BEFORE)} if guards else {}
