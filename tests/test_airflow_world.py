"""The world that the pages are tested in is as Airflow and its guards would have left it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_pipesec.checks.release import Known, Release, verify_run
from airflow_pipesec.evidence import Evidence, RunEvidence, folder_of
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.guards.evidence import nearest_guards
from airflow_pipesec.guards.trust import configured_trusted_keys
from airflow_pipesec.policy import Waiver
from airflow_pipesec.storage import open_store
from tests.airflow_world import MAPPED, Played, add_dag, add_run, guards_of, naked_pipeline, plain_pipeline, populate

pytestmark = pytest.mark.usefixtures("airflow_db")
GUARDS = ["record_collect", "verify_collect", "validate_preprocess", "record_train", "release_gate"]


@pytest.fixture(scope="module")
def plain(airflow_db: Path) -> Any:
    dag = plain_pipeline("world_plain", tags=["team-a"])
    add_dag(dag)
    return dag


def instances_of(session: Any, run_id: str) -> dict[tuple[str, int], Any]:
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    found = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id))
    return {(item.task_id, item.map_index): item for item in found}


def evidence_of(dag: Any, run_id: str, root: Path) -> Evidence:
    trusted = configured_trusted_keys()
    assert trusted is not None
    return RunEvidence(open_store(root / folder_of(dag.dag_id, run_id))).load(dag.dag_id, run_id, trusted)


def problems(session: Any, dag: Any, run_id: str, root: Path) -> set[tuple[str, str]]:
    """What a release gate that followed all guards would complain of: control and subject."""
    instances = {key: item for key, item in instances_of(session, run_id).items() if key[0] in guards_of(dag)}
    guards: dict[str, set[int]] = {}
    for task, index in instances:
        guards.setdefault(task, set()).add(index)
    edges = {name: dict.fromkeys(nearest_guards(dag.task_dict[name]), False) for name in guards}
    known = {key: Known(str(item.id), item.try_number, item.state) for key, item in instances.items()}
    version = str(next(iter(instances.values())).dag_version_id)
    release = Release(guards, edges, known, dag_version=version)
    found = verify_run(evidence_of(dag, run_id, root), release, now=datetime.now(UTC))
    return {(item.control.id, str(item.subject).split("/")[0]) for item in found if item.status is not Status.PASS}


@pytest.mark.parametrize(
    ("played", "expected"),
    [
        (Played.PASSED, set()),
        (Played.RETRIED, set()),
        (Played.FORGED, {("evidence-authentic", "evidence validate_preprocess"), ("evidence-linked", "guard record_train")}),
        (Played.TAMPERED, {("evidence-authentic", "evidence validate_preprocess"), ("evidence-linked", "guard record_train")}),
        (Played.REMOVED, {("evidence-linked", "guard record_train")}),
        (Played.RELINKED, {("evidence-linked", "guard validate_preprocess")}),
        (Played.OVERRIDDEN, {("guard-passed", "guard validate_preprocess")}),
        (Played.MARKED, {("evidence-linked", "guard record_train")}),
        (Played.REMARKED, {("evidence-current", "guard validate_preprocess")}),
    ],
)
def test_evidence_is_accepted_and_refused_as_it_was_played(
    session: Any, plain: Any, evidence: Path, played: Played, expected: set[tuple[str, str]]
) -> None:
    run_id = f"evidence {played}"
    add_run(plain, run_id, plays={"validate_preprocess": played})
    if played in (Played.FORGED, Played.TAMPERED, Played.REMOVED, Played.MARKED):
        expected = expected | {("evidence-present", "guard validate_preprocess")}
    assert problems(session, plain, run_id, evidence) == expected
    assert instances_of(session, run_id)["report", -1].state == "success"


def test_airflow_reads_the_dag_and_its_guards(session: Any, plain: Any) -> None:
    from airflow.models.dag import DagModel
    from airflow.models.serialized_dag import SerializedDagModel

    row = SerializedDagModel.get("world_plain", session=session)
    assert row is not None
    assert set(row.dag.task_dict) == {"collect", "preprocess", "train", "deploy", "report", *GUARDS}
    assert guards_of(plain) == GUARDS
    model = session.get(DagModel, "world_plain")
    assert (model.is_stale, model.is_paused, model.bundle_name) == (False, False, "dags-folder")


def test_a_dag_that_changed_has_another_version_and_its_runs_keep_theirs(session: Any, evidence: Path) -> None:
    first, second = plain_pipeline("world_changed"), plain_pipeline("world_changed", stages=6)
    add_dag(first)
    add_run(first, "before")
    add_dag(second)
    add_run(second, "after")
    before, after = (instances_of(session, run)["collect", -1].dag_version.version_number for run in ("before", "after"))
    assert (before, after) == (1, 2)


def test_a_naked_pipeline_leaves_no_evidence(session: Any, evidence: Path) -> None:
    dag = naked_pipeline("world_naked")
    add_dag(dag)
    add_run(dag, "naked")
    assert {item.state for item in instances_of(session, "naked").values()} == {"success"}
    assert list(evidence.iterdir()) == []


@pytest.mark.parametrize(
    ("played", "state", "below", "of_run"),
    [
        (Played.FAILED, "failed", "upstream_failed", "failed"),
        (Played.ERROR, "failed", "upstream_failed", "failed"),
        (Played.RUNNING, "running", None, "running"),
        (Played.UP_FOR_RETRY, "up_for_retry", None, "running"),
        (Played.QUEUED, "queued", None, "running"),
        (Played.DEFERRED, "deferred", None, "running"),
        (Played.SKIPPED, "skipped", "skipped", "success"),
        (Played.NOT_RUN, None, None, "running"),
        (Played.UPSTREAM_FAILED, "upstream_failed", "upstream_failed", "failed"),
    ],
)
def test_what_follows_ran_only_where_airflow_would_have_run_it(
    session: Any, plain: Any, evidence: Path, played: Played, state: str | None, below: str | None, of_run: str
) -> None:
    run_id = f"states {played}"
    add_run(plain, run_id, plays={"verify_collect": played})
    found = instances_of(session, run_id)
    assert found["verify_collect", -1].state == state
    assert {found[name, -1].state for name in ("preprocess", "validate_preprocess", "report")} == {below}
    assert found["collect", -1].dag_run.state == of_run
    assert problems(session, plain, run_id, evidence)


def test_on_failure_says_what_a_failure_makes_of_the_task(session: Any, evidence: Path) -> None:
    on_failure = {"verify_collect": "warn", "validate_preprocess": "skip_downstream"}
    dag = plain_pipeline("world_lenient", on_failure=on_failure)
    add_dag(dag)
    add_run(dag, "lenient", plays={"verify_collect": Played.WARNED, "validate_preprocess": Played.FAILED})
    found = instances_of(session, "lenient")
    assert found["verify_collect", -1].state == found["validate_preprocess", -1].state == "success"
    assert found["train", -1].state == "skipped"


def test_a_mapped_guard_has_instances_and_each_its_evidence(session: Any, evidence: Path) -> None:
    dag = plain_pipeline("world_mapped", mapped=True)
    add_dag(dag)
    add_run(dag, "mapped", plays={("validate_preprocess", 1): Played.OVERRIDDEN})
    found = instances_of(session, "mapped")
    assert [index for task, index in found if task == "validate_preprocess"] == list(range(MAPPED))
    assert problems(session, dag, "mapped", evidence) == {("guard-passed", "guard validate_preprocess[1]")}


def test_a_summary_is_what_a_guard_pushes(session: Any, plain: Any, evidence: Path) -> None:
    from airflow.models.xcom import XComModel
    from sqlalchemy import select

    add_run(plain, "summary", plays={"verify_collect": Played.RETRIED})
    rows = session.scalars(select(XComModel).where(XComModel.run_id == "summary", XComModel.task_id == "verify_collect"))
    pushed = {row.key: row.value for row in rows}
    attempts = evidence_of(plain, "summary", evidence).attempts()["verify_collect", -1]
    assert [one.attested.outcome for one in attempts] == ["ERROR", "PASSED"]
    assert set(pushed) == {"handle", "return_value", "_link_pipesec_evidence"}
    assert pushed["return_value"]["outcome"] == "PASSED"
    assert pushed["return_value"]["attestation"] == f"sha256:{attempts[-1].sha256}"


def test_findings_and_waivers_are_judged_as_they_are(session: Any, plain: Any, evidence: Path) -> None:
    from airflow_pipesec.checks.integrity import DIGEST_MATCHES, NO_SYMLINKS

    seen = [
        Finding(NO_SYMLINKS, Subject("/data/link"), Status.FAIL, "is a symbolic link"),
        Finding(DIGEST_MATCHES, Subject("/data/file", "sha256:" + "ab" * 32), Status.PASS, "1 file matches"),
    ]
    waiver = Waiver("no-symlinks", "/data/*", "Ticket 4711.", "vera@example.org", date(2999, 1, 1))
    with pytest.raises(ValueError, match="comes to FAILED"):
        add_run(plain, "unwaived", findings={"verify_collect": seen})
    add_run(plain, "waived", findings={"verify_collect": seen}, waivers={"verify_collect": [waiver]})
    (witness,) = evidence_of(plain, "waived", evidence).attempts()["verify_collect", -1]
    assert witness.attested.tests == (("digest-matches",), ("no-symlinks",), ())
    assert [item["approver"] for item in witness.attested.waivers] == ["vera@example.org"]
    with pytest.raises(ValueError, match="has no nobody"):
        add_run(plain, "wrong", plays={"nobody": Played.FAILED})


def test_the_audit_log_has_what_airflow_writes_when_somebody_sets_a_state(
    session: Any, plain: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from airflow.api_fastapi.logging.decorators import action_logging
    from airflow.models.log import Log
    from sqlalchemy import select
    from starlette.datastructures import Headers

    add_run(plain, "by hand", plays={"verify_collect": Played.OVERRIDDEN}, by="mallory")
    query = select(Log).where(Log.run_id == "by hand", Log.event == "patch_task_instance")
    (written,) = session.scalars(query)
    body = json.dumps({name: value for name, value in json.loads(written.extra).items() if name not in ("map_index", "method")})

    async def read() -> Any:
        return body.encode()

    async def parsed() -> Any:
        return json.loads(body)

    path = {"dag_id": "world_plain", "dag_run_id": "by hand", "task_id": "verify_collect", "map_index": "-1"}
    request: Any = SimpleNamespace(
        headers=Headers({"content-type": "application/json"}),
        scope={"endpoint": SimpleNamespace(__name__="patch_task_instance")},
        query_params={},
        path_params=path,
        method="PATCH",
        body=read,
        json=parsed,
    )
    theirs: list[Any] = []
    user: Any = SimpleNamespace(get_name=lambda: "mallory")
    keeper: Any = SimpleNamespace(add=theirs.append, commit=lambda: None)
    coroutine = action_logging()(request, keeper, user)
    with pytest.raises(StopIteration):
        coroutine.send(None)
    columns = ("event", "owner", "owner_display_name", "dag_id", "task_id", "run_id", "map_index", "try_number")
    assert [getattr(written, name) for name in columns] == [getattr(theirs[0], name) for name in columns]
    assert json.loads(written.extra) == json.loads(theirs[0].extra)


def test_many_are_written_at_once(session: Any, evidence: Path) -> None:
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import func, select

    populate(dags=10, runs=3)
    of_them = DagRun.dag_id.like("%\\_training\\_%", escape="\\")
    assert session.scalar(select(func.count()).select_from(DagRun).where(of_them)) == 30
    newest = session.scalars(select(DagRun).where(DagRun.dag_id == "churn_training_000").order_by(DagRun.id.desc())).first()
    assert len(newest.task_instances) == session.scalar(
        select(func.count()).where(TaskInstance.dag_id == "churn_training_000", TaskInstance.run_id == newest.run_id)
    )
    folders = sorted(path.name for path in evidence.iterdir())
    assert len(folders) == 9  # one of the ten is naked
    assert {len(list((evidence / name).iterdir())) for name in folders} == {1}
