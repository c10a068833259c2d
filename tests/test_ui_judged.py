"""Judged runs: what Airflow shows is worth what the evidence says, and what is missing or contradicts is never a pass."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from airflow.providers.standard.operators.python import BranchPythonOperator, ShortCircuitOperator
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from airflow_pipesec.checks.integrity import DIGEST_MATCHES, NO_SYMLINKS
from airflow_pipesec.checks.release import GUARD_PASSED, Known, Release, guard_subject, verify_run
from airflow_pipesec.drawing import LinkMark, Mark
from airflow_pipesec.evidence import Evidence, folder_of
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.guards.evidence import edges_above
from airflow_pipesec.policy import Waiver
from airflow_pipesec.ui import records
from airflow_pipesec.ui.judged import Result, RunView, claimed, glimpsed, judge, result_of, shown_as
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.overview import outcome_of, severities
from airflow_pipesec.ui.proofs import NO_KEYS, evidence_of, run_view
from tests.airflow_world import MAPPED, Played, add_dag, add_run, guards_of, naked_pipeline, plain_pipeline
from tests.weaving import Step, Watch, new_dag

pytestmark = pytest.mark.usefixtures("airflow_db")
GUARDS = ("record_collect", "verify_collect", "validate_preprocess", "record_train", "release_gate")
MIDDLE = "validate_preprocess"
names = (f"run {number}" for number in itertools.count())


@pytest.fixture(scope="module")
def plain(airflow_db: Path) -> Any:
    dag = plain_pipeline("judged_plain")
    add_dag(dag)
    return dag


@pytest.fixture(scope="module")
def mapped(airflow_db: Path) -> Any:
    dag = plain_pipeline("judged_mapped", mapped=True)
    add_dag(dag)
    return dag


@pytest.fixture(scope="module")
def lenient(airflow_db: Path) -> Any:
    dag = plain_pipeline("judged_lenient", on_failure={MIDDLE: "warn"})
    add_dag(dag)
    return dag


def outline_now(session: Any, dag_id: str) -> Outline:
    outline = records.outlines(session, records.dags(session, {dag_id}))[dag_id]
    assert outline is not None
    return outline


def view_of(dag: Any, run_id: str, *, log: bool = True) -> RunView:
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        run = records.run_of(session, dag.dag_id, run_id)
        assert run is not None
        view = run_view(session, run, outline_now(session, dag.dag_id), log=log)
    assert view is not None
    return view


def played(dag: Any, plays: Mapping[Any, Played] | None = None, *, log: bool = True, **more: Any) -> RunView:
    run_id = next(names)
    add_run(dag, run_id, plays=plays, **more)
    return view_of(dag, run_id, log=log)


def marks(view: RunView) -> dict[str, Mark]:
    return {guard.name: guard.mark for guard in view.guards}


def mark_of(view: RunView, name: str = MIDDLE) -> Mark:
    return marks(view)[name]


def why_of(view: RunView, name: str = MIDDLE) -> str:
    return next(guard.why for guard in view.guards if guard.name == name)


def change(run_id: str, of: str | tuple[str, int], **values: Any) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import update

    task_id, index = (of, -1) if isinstance(of, str) else of
    of_it = (TaskInstance.run_id == run_id, TaskInstance.task_id == task_id, TaskInstance.map_index == index)
    with create_session(scoped=False) as session:
        changed: Any = session.execute(update(TaskInstance).where(*of_it).values(**values))
        assert changed.rowcount == 1


def forget(run_id: str, task_id: str) -> None:
    """Delete the instances of a task, as Airflow's API does."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session(scoped=False) as session:
        session.execute(delete(TaskInstance).where(TaskInstance.run_id == run_id, TaskInstance.task_id == task_id))


def folder(evidence: Path, dag: Any, run_id: str) -> Path:
    return evidence / folder_of(dag.dag_id, run_id)


def links(view: RunView) -> dict[tuple[str, str], LinkMark]:
    return {(link.above[0], link.below[0]): link.mark for link in view.links}


# ---- every way in which a guard can go

EXPECTED = {
    Played.PASSED: (Mark.PASSED, Result.PASSED, "passed"),
    Played.RETRIED: (Mark.PASSED, Result.PASSED, "passed"),
    Played.FAILED: (Mark.FAILED, Result.STOPPED, "signed FAILED: "),
    Played.ERROR: (Mark.FAILED, Result.STOPPED, "signed ERROR: the check broke off"),
    Played.OVERRIDDEN: (Mark.OVERRIDDEN, Result.ALARM, "concluded FAILED, and Airflow shows success"),
    Played.MARKED: (Mark.OVERRIDDEN, Result.ALARM, "left no evidence in this run"),
    Played.REMARKED: (Mark.OVERRIDDEN, Result.ALARM, "that is not its latest attempt"),
    Played.FORGED: (Mark.UNPROVEN, Result.ALARM, "its evidence is refused: "),
    Played.TAMPERED: (Mark.UNPROVEN, Result.ALARM, "its evidence is refused: "),
    Played.REMOVED: (Mark.UNPROVEN, Result.ALARM, "left no evidence in this run"),
    Played.RELINKED: (Mark.UNPROVEN, Result.ALARM, "was linked in an attempt that is not its latest any more"),
    Played.RUNNING: (Mark.RUNNING, Result.RUNNING, "running"),
    Played.UP_FOR_RETRY: (Mark.RETRYING, Result.RUNNING, "waits to be tried again"),
    Played.QUEUED: (Mark.WAITING, Result.RUNNING, "queued"),
    Played.DEFERRED: (Mark.WAITING, Result.RUNNING, "deferred"),
    Played.SKIPPED: (Mark.SKIPPED, Result.UNFINISHED, "skipped"),
    Played.NOT_RUN: (Mark.NOT_RUN, Result.RUNNING, "has not run"),
    Played.UPSTREAM_FAILED: (Mark.NOT_RUN, Result.UNFINISHED, "never ran: something before it did not pass"),
}
BY_HAND = (Played.OVERRIDDEN, Played.MARKED, Played.REMARKED)


def test_no_way_to_play_is_left_out() -> None:
    assert EXPECTED.keys() | {Played.WARNED} == set(Played)


@pytest.mark.parametrize("play", EXPECTED)
def test_a_guard_stands_as_it_was_played(plain: Any, evidence: Path, play: Played) -> None:
    mark, result, why = EXPECTED[play]
    view = played(plain, {MIDDLE: play})
    assert (mark_of(view), view.result) == (mark, result)
    assert why in why_of(view)
    assert view.marks[MIDDLE] is mark
    assert [guard.task_id for guard in view.guards] == list(GUARDS)


@pytest.mark.parametrize("play", EXPECTED)
def test_an_instance_of_a_mapped_guard_stands_as_it_was_played(mapped: Any, evidence: Path, play: Played) -> None:
    mark, result, why = EXPECTED[play]
    view = played(mapped, {(MIDDLE, 1): play})
    assert (mark_of(view, f"{MIDDLE}[1]"), view.result) == (mark, result)
    assert why in why_of(view, f"{MIDDLE}[1]")
    assert {mark_of(view, f"{MIDDLE}[{index}]") for index in (0, 2)} == {Mark.PASSED}
    assert view.marks[MIDDLE] is (Mark.PASSED if mark is Mark.SKIPPED else mark), "a task stands as the worst of its instances"
    assert len(view.guards) == len(GUARDS) - 1 + MAPPED


@pytest.mark.parametrize("play", EXPECTED)
def test_without_the_audit_log_nobody_is_named_and_the_result_is_the_same(plain: Any, evidence: Path, play: Played) -> None:
    run_id = next(names)
    add_run(plain, run_id, plays={MIDDLE: play}, by="mallory")
    with_log, without = view_of(plain, run_id), view_of(plain, run_id, log=False)
    assert ("mallory" in why_of(with_log)) is (play in BY_HAND)
    assert ("mallory" in with_log.why) is (play in BY_HAND)
    assert "mallory" not in repr(without)
    assert without.result is with_log.result
    assert not any(guard.acts for guard in without.guards)


def test_who_did_it_is_told_with_the_deed_and_the_time(plain: Any, evidence: Path) -> None:
    view = played(plain, {MIDDLE: Played.OVERRIDDEN}, by="mallory")
    assert "its audit log tells: mallory set it to success (patch_task_instance) at " in view.why
    assert view.why.startswith("validate_preprocess: concluded FAILED")
    (act,) = next(guard.acts for guard in view.guards if guard.task_id == MIDDLE)
    assert (act.user, act.state) == ("mallory", "success")
    assert [guard.task_id for guard in view.alarms] == [MIDDLE]


def test_what_the_audit_log_tells_of_one_instance_is_not_told_of_another(mapped: Any, evidence: Path) -> None:
    view = played(mapped, {(MIDDLE, 1): Played.OVERRIDDEN, (MIDDLE, 2): Played.REMOVED})
    assert mark_of(view, f"{MIDDLE}[1]") is Mark.OVERRIDDEN
    assert "mallory" not in why_of(view, f"{MIDDLE}[2]")
    assert view.why.endswith("(and 2 more)"), "the third is the guard that links what was removed"


def test_only_a_guard_that_only_warns_is_let_go_on(lenient: Any, evidence: Path) -> None:
    view = played(lenient, {MIDDLE: Played.WARNED})
    assert (mark_of(view), view.result) == (Mark.WARNED, Result.WARNED)
    assert view.why == "4 of 5 guards passed; the others only warn"


def test_a_guard_that_warns_and_was_set_by_hand_is_overridden(lenient: Any, evidence: Path) -> None:
    view = played(lenient, {MIDDLE: Played.OVERRIDDEN})
    assert (mark_of(view), view.result) == (Mark.OVERRIDDEN, Result.ALARM)
    assert "mallory" in view.why


@pytest.mark.parametrize("play", [Played.REMOVED, Played.FORGED, Played.TAMPERED, Played.MARKED, Played.RELINKED])
def test_a_guard_that_only_warns_has_to_prove_it_as_others_do(lenient: Any, evidence: Path, play: Played) -> None:
    assert played(lenient, {MIDDLE: play}).result is Result.ALARM


def test_what_on_failure_comes_to_where_it_is_a_template_excuses_nothing(evidence: Path) -> None:
    dag = plain_pipeline("judged_templated", on_failure={MIDDLE: "{{ params.x }}"})
    add_dag(dag)
    view = played(dag, {MIDDLE: Played.FAILED})
    assert (mark_of(view), view.result) == (Mark.OVERRIDDEN, Result.ALARM)
    assert played(dag).result is Result.PASSED


# ---- guards that skip what follows them


@pytest.fixture(scope="module")
def skipping(airflow_db: Path) -> Any:
    dag = plain_pipeline("judged_skipping", on_failure={MIDDLE: "skip_downstream"})
    add_dag(dag)
    return dag


def test_a_guard_that_skipped_what_follows_it_stopped_the_run(skipping: Any, evidence: Path) -> None:
    view = played(skipping, {MIDDLE: Played.FAILED})
    assert (mark_of(view), view.result) == (Mark.FAILED, Result.STOPPED)
    assert "signed FAILED" in view.why
    assert mark_of(view, "release_gate") is Mark.SKIPPED


@pytest.mark.parametrize("task", ["train", "deploy", "report"])
@pytest.mark.parametrize("state", ["success", "failed", "running"])
def test_what_ran_below_a_guard_that_skips_it_is_a_contradiction(skipping: Any, evidence: Path, task: str, state: str) -> None:
    view = played(skipping, {MIDDLE: Played.FAILED}, stages={task: state})
    assert (mark_of(view), view.result) == (Mark.OVERRIDDEN, Result.ALARM)


def test_a_guard_with_nothing_to_skip_cannot_be_a_success_that_refused(evidence: Path) -> None:
    with new_dag("judged_skips_nothing") as dag:
        Step(task_id="a") >> Watch(task_id="g", on_failure="skip_downstream")
    add_dag(dag)
    assert played(dag, {"g": Played.FAILED}).result is Result.ALARM


def test_nor_can_an_instance_of_a_mapped_guard(evidence: Path) -> None:
    dag = plain_pipeline("judged_skips_mapped", mapped=True, on_failure={MIDDLE: "skip_downstream"})
    add_dag(dag)
    assert played(dag, {(MIDDLE, 0): Played.FAILED}).result is Result.ALARM


def test_what_runs_whatever_happened_may_run_below_a_guard_that_skips(evidence: Path) -> None:
    with new_dag("judged_skips_always") as dag:
        create, destroy = (cast("Any", Step(task_id=name)) for name in ("create", "destroy"))
        guard = Watch(task_id="g", on_failure="skip_downstream")
        create.as_setup() >> Step(task_id="a") >> guard >> Step(task_id="b") >> destroy.as_teardown(setups=create)
        guard >> Step(task_id="tell", trigger_rule="always")
    add_dag(dag)
    view = played(dag, {"g": Played.FAILED}, stages={"destroy": "success", "tell": "success"})
    assert (mark_of(view, "g"), view.result) == (Mark.FAILED, Result.STOPPED)


# ---- guards that were skipped


def branching(dag_id: str) -> Any:
    with new_dag(dag_id) as dag:
        choose = BranchPythonOperator(task_id="choose", python_callable=lambda: "x")
        x, y = Step(task_id="x"), Step(task_id="y")
        join = Step(task_id="join", trigger_rule="none_failed_min_one_success")
        Step(task_id="start") >> Watch(task_id="first") >> choose >> [x, y]
        x >> Watch(task_id="of_x") >> join
        y >> Watch(task_id="of_y") >> join
        join >> Watch(task_id="last")
    add_dag(dag)
    return dag


def test_the_guards_of_a_way_that_was_not_taken_are_skipped_and_the_run_passes(evidence: Path) -> None:
    dag = branching("judged_branching")
    plays: dict[Any, Played] = {"of_y": Played.SKIPPED, "last": Played.PASSED}
    view = played(dag, plays, stages={"y": "skipped", "join": "success"})
    assert marks(view) == {"first": Mark.PASSED, "of_x": Mark.PASSED, "of_y": Mark.SKIPPED, "last": Mark.PASSED}
    assert (view.result, view.why) == (Result.PASSED, "3 of 4 guards passed, and their evidence verifies")
    assert set(links(view).values()) == {LinkMark.VERIFIED}


def test_a_guard_that_was_skipped_while_what_it_looks_at_ran_is_an_alarm(evidence: Path) -> None:
    dag = branching("judged_branching_round")
    plays: dict[Any, Played] = {"of_x": Played.SKIPPED, "of_y": Played.SKIPPED, "last": Played.PASSED}
    view = played(dag, plays, stages={"y": "skipped", "join": "success"})
    assert (mark_of(view, "of_x"), view.result) == (Mark.UNPROVEN, Result.ALARM)
    assert view.why == "of_x: was skipped, and the run went on without it"


@pytest.mark.parametrize("before", [Played.SKIPPED, Played.UP_FOR_RETRY, Played.REMARKED])
def test_a_guard_that_was_set_to_skipped_after_the_run_had_gone_on_is_an_alarm(
    plain: Any, evidence: Path, before: Played
) -> None:
    """Called a success by hand, so that what follows runs, then cleared and called skipped: no trace of it is in the states."""
    run_id = next(names)
    plays: dict[Any, Played] = {MIDDLE: before, "record_train": Played.PASSED, "release_gate": Played.PASSED}
    add_run(plain, run_id, plays=plays, stages=dict.fromkeys(("train", "deploy", "report"), "success"), state="success")
    change(run_id, MIDDLE, state="skipped")
    for log in (True, False):
        view = view_of(plain, run_id, log=log)
        assert (mark_of(view), view.result) == (Mark.UNPROVEN, Result.ALARM)


def test_a_guard_at_the_end_that_was_skipped_is_an_alarm_unless_something_explains_it(evidence: Path) -> None:
    with new_dag("judged_ends") as dag:
        Step(task_id="a") >> Watch(task_id="g")
        Step(task_id="b") >> Watch.partial(task_id="m").expand(word=["x"])
        Step(task_id="c") >> ShortCircuitOperator(task_id="perhaps", python_callable=bool) >> Watch(task_id="h")
    add_dag(dag)
    view = played(dag, {"g": Played.SKIPPED, "m": Played.SKIPPED, "h": Played.SKIPPED}, mapped={"m": 1})
    assert marks(view) == {"g": Mark.UNPROVEN, "m[0]": Mark.UNPROVEN, "h": Mark.SKIPPED}
    run_id = next(names)
    add_run(dag, run_id, plays={"h": Played.SKIPPED, "m": Played.SKIPPED}, mapped={"m": 1})
    change(run_id, ("m", 0), map_index=-1)  # as Airflow leaves what it mapped over nothing
    view = view_of(dag, run_id)
    assert marks(view) == {"g": Mark.PASSED, "m": Mark.SKIPPED, "h": Mark.SKIPPED}
    assert view.result is Result.PASSED


def test_a_run_in_which_every_guard_was_skipped_has_not_passed(evidence: Path) -> None:
    with new_dag("judged_all_skipped") as dag:
        start = ShortCircuitOperator(task_id="start", python_callable=bool)
        start >> Step(task_id="a") >> Watch(task_id="g") >> Step(task_id="b")
    add_dag(dag)
    view = played(dag, stages={"a": "skipped"})
    assert (mark_of(view, "g"), view.result) == (Mark.SKIPPED, Result.UNFINISHED)


def test_a_guard_that_refused_and_was_set_to_skipped_stopped_the_run(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id, plays={MIDDLE: Played.FAILED})
    change(run_id, MIDDLE, state="skipped")
    view = view_of(plain, run_id)
    assert (mark_of(view), view.result) == (Mark.FAILED, Result.STOPPED)


# ---- what Airflow no longer knows


def test_evidence_of_an_instance_that_was_deleted_in_airflow_is_an_alarm(plain: Any, evidence: Path) -> None:
    for play in (Played.PASSED, Played.OVERRIDDEN, Played.TAMPERED, Played.FORGED):
        run_id = next(names)
        add_run(plain, run_id, plays={MIDDLE: play})
        forget(run_id, MIDDLE)
        view = view_of(plain, run_id)
        assert (mark_of(view), view.result) == (Mark.UNPROVEN, Result.ALARM), play
    assert "its evidence is refused" in why_of(view)


def test_a_guard_that_neither_airflow_nor_the_evidence_knows_has_not_run(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    plays: dict[Any, Played] = dict.fromkeys(GUARDS[2:], Played.NOT_RUN)
    add_run(plain, run_id, plays=plays, state="success")
    for name in (MIDDLE, "record_train", "release_gate"):
        forget(run_id, name)
    view = view_of(plain, run_id)
    assert marks(view) == dict.fromkeys(GUARDS[:2], Mark.PASSED) | dict.fromkeys(GUARDS[2:], Mark.NOT_RUN)
    assert view.result is Result.UNFINISHED
    assert why_of(view) == "Airflow shows no such task in this run"


def test_a_run_that_has_no_instances_yet_is_running(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id, default=Played.NOT_RUN, stages=dict.fromkeys(("collect",)), state="queued")
    for name in plain.task_dict:
        forget(run_id, name)
    view = view_of(plain, run_id)
    assert (view.result, view.why) == (Result.RUNNING, "0 of 5 guards passed so far")


def test_a_run_of_which_not_all_is_looked_at_is_not_called_anything(
    plain: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    for module in ("records", "judged"):
        monkeypatch.setattr(f"airflow_pipesec.ui.{module}.MOST_INSTANCES", 6)
    view = view_of(plain, run_id)
    assert view.result is Result.UNREADABLE
    assert "pipesec verify-run" in view.why


# ---- evidence


def test_what_strangers_put_beside_the_evidence_changes_nothing_and_is_shown(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    place = folder(evidence, plain, run_id)
    (place / "stranger").mkdir()
    (place / "stranger" / "-1.1.019abcde-0000-7000-8000-000000000001.json").write_text("{}")
    (place / "notes.txt").write_text("hello")
    view = view_of(plain, run_id)
    assert view.result is Result.PASSED
    assert len(view.refused) == 2


@pytest.mark.parametrize(
    "name", ["notes.txt", "-1.9.ffffffff-0000-7000-8000-000000000001.json", "7.1.019abcde-0000-7000-8000-000000000001.json"]
)
def test_what_lies_among_a_guards_evidence_and_is_none_is_an_alarm(plain: Any, evidence: Path, name: str) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    (folder(evidence, plain, run_id) / MIDDLE / name).write_text("{}")
    view = view_of(plain, run_id)
    assert view.result is Result.ALARM
    assert [item.name for item in view.refused] == [f"{MIDDLE}/{name}"]
    assert "its evidence is refused" in view.why
    assert any(item.status is Status.FAIL for item in view.verification)


def test_what_was_broken_before_a_later_attempt_counts_no_more(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    (folder(evidence, plain, run_id) / MIDDLE / "-1.0.00000000-0000-7000-8000-000000000001.json").write_text("{}")
    assert view_of(plain, run_id).result is Result.PASSED


def test_the_evidence_of_another_run_is_none_of_this_one(plain: Any, evidence: Path) -> None:
    good, bad = next(names), next(names)
    add_run(plain, good)
    add_run(plain, bad, plays={MIDDLE: Played.OVERRIDDEN})
    there = folder(evidence, plain, bad)
    shutil.rmtree(there / MIDDLE)
    shutil.copytree(folder(evidence, plain, good) / MIDDLE, there / MIDDLE)
    view = view_of(plain, bad)
    assert view.result is Result.ALARM
    assert "belongs to run" in why_of(view)


def test_evidence_that_nobody_signed_is_none(plain: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", "dangerously-unsigned")
    view = played(plain)
    assert view.result is Result.ALARM
    assert set(marks(view).values()) == {Mark.UNPROVEN}


def test_evidence_that_is_not_there_is_an_alarm_where_airflow_shows_success(plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    shutil.rmtree(folder(evidence, plain, run_id))
    view = view_of(plain, run_id)
    assert (view.result, set(marks(view).values())) == (Result.ALARM, {Mark.UNPROVEN})


@pytest.mark.parametrize("play", [Played.PASSED, Played.OVERRIDDEN, Played.FAILED, Played.RUNNING])
def test_without_trusted_keys_nothing_is_verified_and_nothing_passes(
    plain: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch, play: Played
) -> None:
    run_id = next(names)
    add_run(plain, run_id, plays={MIDDLE: play})
    monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    view = view_of(plain, run_id)
    assert (view.result, view.why, view.unread) == (Result.UNREADABLE, NO_KEYS, NO_KEYS)
    assert not {Mark.PASSED, Mark.WARNED} & set(marks(view).values())
    assert view.links == ()


def test_evidence_that_cannot_be_read_is_told_as_that(
    plain: Any, evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "keys.yaml").write_text("no: keys")
    for name, value, told in (
        ("EVIDENCE_URL", str(tmp_path / "nowhere"), "There is no evidence store at"),
        ("EVIDENCE_URL", "nosuch://bucket/prefix", "could not be read"),
        ("TRUSTED_KEYS", str(tmp_path / "nowhere.yaml"), "could not be read"),
        ("TRUSTED_KEYS", str(tmp_path / "keys.yaml"), "could not be read"),
    ):
        with monkeypatch.context() as changed:
            changed.setenv(f"AIRFLOW__PIPESEC__{name}", value)
            view = view_of(plain, run_id)
            assert view.result is Result.UNREADABLE, value
            assert told in view.why
            assert not {Mark.PASSED, Mark.WARNED} & set(marks(view).values())


def test_a_run_without_guards_is_no_pass_and_needs_no_evidence(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = naked_pipeline("judged_naked")
    add_dag(dag)
    monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    view = played(dag)
    assert (view.result, view.guards) == (Result.NOTHING, ())


def test_waivers_do_not_make_a_pass_less_of_one(plain: Any, evidence: Path) -> None:
    seen = [
        Finding(NO_SYMLINKS, Subject("/data/link"), Status.FAIL, "is a symbolic link"),
        Finding(DIGEST_MATCHES, Subject("/data/file", "sha256:" + "ab" * 32), Status.PASS, "1 file matches"),
    ]
    waiver = Waiver("no-symlinks", "/data/*", "Ticket 4711.", "vera@example.org", date(2999, 1, 1))
    assert played(plain, findings={"verify_collect": seen}, waivers={"verify_collect": [waiver]}).result is Result.PASSED


# ---- links


@pytest.mark.parametrize(
    ("play", "above", "below"),
    [
        (Played.PASSED, LinkMark.VERIFIED, LinkMark.VERIFIED),
        (Played.RETRIED, LinkMark.VERIFIED, LinkMark.VERIFIED),
        (Played.OVERRIDDEN, LinkMark.VERIFIED, LinkMark.VERIFIED),
        (Played.RELINKED, LinkMark.BROKEN, LinkMark.VERIFIED),
        (Played.REMOVED, None, LinkMark.MISSING),
        (Played.TAMPERED, None, LinkMark.MISSING),
        (Played.FORGED, None, LinkMark.MISSING),
        (Played.MARKED, None, LinkMark.MISSING),
        (Played.FAILED, LinkMark.VERIFIED, None),
        (Played.RUNNING, None, None),
    ],
)
def test_a_link_holds_is_broken_or_leads_nowhere(
    plain: Any, evidence: Path, play: Played, above: LinkMark | None, below: LinkMark | None
) -> None:
    view = played(plain, {MIDDLE: play})
    found = links(view)
    assert found.get(("verify_collect", MIDDLE)) is above
    assert found.get((MIDDLE, "record_train")) is below
    assert found["record_collect", "verify_collect"] is LinkMark.VERIFIED


def test_every_instance_of_a_mapped_guard_is_linked(mapped: Any, evidence: Path) -> None:
    view = played(mapped, {(MIDDLE, 1): Played.REMOVED})
    of_it = {link.above: link.mark for link in view.links if link.below == ("record_train", -1)}
    assert of_it == {(MIDDLE, 0): LinkMark.VERIFIED, (MIDDLE, 1): LinkMark.MISSING, (MIDDLE, 2): LinkMark.VERIFIED}


def test_a_verified_link_names_what_it_leads_to(plain: Any, evidence: Path) -> None:
    view = played(plain)
    digests = {guard.task_id: guard.witness.sha256 for guard in view.guards if guard.witness}
    assert {link.why for link in view.links} == {f"sha256:{digests[link.above[0]]}" for link in view.links}
    assert len(view.links) == 4


# ---- versions of the DAG


def test_a_run_is_judged_by_the_dag_that_it_ran_under(session: Any, evidence: Path) -> None:
    first, second = plain_pipeline("judged_versions"), plain_pipeline("judged_versions", stages=7)
    add_dag(first)
    add_run(first, "before")
    add_dag(second)
    add_run(second, "after", plays={"validate_stage_2": Played.OVERRIDDEN})
    assert len(outline_now(session, "judged_versions").guards) == 7
    before, after = view_of(second, "before"), view_of(second, "after")
    assert (len(before.guards), before.result) == (5, Result.PASSED)
    assert (len(after.guards), after.result) == (7, Result.ALARM)


def test_a_run_under_two_versions_is_judged_by_the_dag_as_it_is_now(evidence: Path) -> None:
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    first, second = plain_pipeline("judged_two_versions"), plain_pipeline("judged_two_versions", stages=7)
    add_dag(first)
    add_run(first, "two before")
    add_dag(second)
    add_run(second, "two after")
    with create_session(scoped=False) as session:
        query = select(TaskInstance.dag_version_id).where(TaskInstance.run_id == "two after", TaskInstance.task_id == "report")
        new = session.scalars(query).one()
    change("two before", "report", dag_version_id=new)
    view = view_of(second, "two before")
    assert len(view.outline.guards) == 7
    assert view.result is Result.UNFINISHED or view.result is Result.ALARM, "guards that it has now were not there"
    assert mark_of(view, "validate_stage_2") is Mark.NOT_RUN


def test_a_dag_whose_copy_cannot_be_read_has_no_view(session: Any, plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    for task in plain.task_dict:
        change(run_id, task, dag_version_id=None)
    run = records.run_of(session, plain.dag_id, run_id)
    assert run is not None
    assert run_view(session, run, None, log=False) is None
    assert records.run_of(session, plain.dag_id, "no such run") is None


# ---- laws

BAD_ONES = tuple(play for play in EXPECTED if EXPECTED[play][1] is not Result.PASSED)
GOOD_ONES = (Played.PASSED, Played.RETRIED)


def gate_says(dag: Any, view: RunView, evidence: Evidence) -> list[Finding]:
    """What a release gate that follows every guard complains of, which knows the DAG itself and what Airflow shows."""
    guards: dict[str, set[int]] = {}
    known = {}
    for guard in view.guards:
        guards.setdefault(guard.task_id, set()).add(guard.map_index)
        assert guard.instance is not None
        known[guard.task_id, guard.map_index] = Known(guard.instance.attempt, guard.instance.try_number, guard.instance.state)
    edges: dict[str, dict[str, bool]] = {}
    for task in dag.task_dict.values():
        edges |= edges_above(cast("Any", {"task": task}))  # it asks for no more
    found = verify_run(evidence, Release(guards, edges, known), now=datetime.now(UTC))
    return [item for item in found if item.status in (Status.FAIL, Status.ERROR)]


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    which=st.sampled_from(("plain", "mapped", "lenient")),
    plays=st.dictionaries(st.sampled_from(GUARDS), st.sampled_from(list(EXPECTED)), max_size=3),
    index=st.sampled_from((None, 0, 2)),
    log=st.booleans(),
    warned=st.booleans(),
)
def test_a_run_passes_only_where_every_guard_signed_that_it_passed(
    request: pytest.FixtureRequest,
    evidence: Path,
    which: str,
    plays: dict[Any, Played],
    index: int | None,
    log: bool,
    warned: bool,
) -> None:
    dag: Any = request.getfixturevalue(which)
    if plays.get("record_collect") is Played.RELINKED:  # it follows no guard
        plays["record_collect"] = Played.PASSED
    if which == "mapped" and index is not None and MIDDLE in plays:
        plays[MIDDLE, index] = plays.pop(MIDDLE)
    if which == "lenient" and (warned or plays.get(MIDDLE) is Played.FAILED):
        plays[MIDDLE] = Played.WARNED  # which a failure is there
    if which == "lenient" and plays.get(MIDDLE) is Played.OVERRIDDEN:
        log = True  # that somebody called it a success, as it would have been anyhow, is in the audit log alone
    run_id = next(names)
    # What would not have run for what came before it did not, unless it was told to: then the end of it counts.
    add_run(dag, run_id, plays=plays, stages=dict.fromkeys(("collect", "preprocess", "train", "deploy", "report"), "success"))
    view = view_of(dag, run_id, log=log)
    event(str(view.result))
    good = all(play in (*GOOD_ONES, Played.WARNED) for play in plays.values())
    fine = good and view.run.over
    assert (view.result in (Result.PASSED, Result.WARNED)) is fine
    assert (view.result is Result.WARNED) is (fine and Played.WARNED in plays.values())
    bad = {guard.name for guard in view.guards if guard.mark not in (Mark.PASSED, Mark.WARNED)}
    assert bool(bad) is not good
    states = {guard.instance.state for guard in view.guards if guard.instance is not None}
    if states == {"success"}:
        loaded = evidence_of(dag.dag_id, run_id)
        assert not isinstance(loaded, str)
        complaints = gate_says(dag, view, loaded)
        if which == "lenient":  # where a gate does not let pass what only warns
            middle = guard_subject((MIDDLE, -1))
            complaints = [item for item in complaints if (item.control, item.subject) != (GUARD_PASSED, middle)]
        assert (view.result in (Result.PASSED, Result.WARNED)) is (complaints == [])
        own = [item for item in view.verification if item.status in (Status.FAIL, Status.ERROR)]
        assert bool(own) is bool(gate_says(dag, view, loaded))
    if view.result in (Result.PASSED, Result.WARNED):
        assert {link.mark for link in view.links} == {LinkMark.VERIFIED}
        assert all(guard.witness is not None for guard in view.guards)


STATES = (
    *("success", "failed", "skipped", "running", "restarting", "queued", "scheduled", "deferred", "up_for_retry"),
    *("up_for_reschedule", "upstream_failed", "removed", "awaiting_input", "", None),
)


@given(
    st.sampled_from(STATES),
    st.sampled_from(("PASSED", "FAILED", "ERROR", "passed", "", None)),
    st.text(max_size=8),
    st.booleans(),
)
def test_only_a_success_that_passed_has_passed(state: str | None, outcome: str | None, on_failure: str, ran: bool) -> None:
    for told in (on_failure, "fail", "warn", "skip_downstream"):
        mark, why = shown_as(state, outcome, told, ran_below=ran)
        assert why
        assert (mark is Mark.PASSED) is (state == "success" and outcome == "PASSED")
        assert mark is not Mark.WARNED or (told == "warn" and state == "success" and outcome not in (None, "PASSED"))
        assert state != "success" or mark in (Mark.PASSED, Mark.WARNED, Mark.FAILED, Mark.OVERRIDDEN, Mark.UNPROVEN)


RUN = records.RunRecord(1, "d", "r", "success", "manual", None, None, None, None, None, None)


@given(st.lists(st.sampled_from(list(Mark)), max_size=5), st.sampled_from(("success", "failed", "running", "queued")))
def test_a_result_is_as_bad_as_the_worst_of_its_guards(stood: list[Mark], state: str) -> None:
    run = RUN._replace(state=state)
    result = result_of(run, stood)
    if result in (Result.PASSED, Result.WARNED):
        assert run.over
        assert set(stood) <= {Mark.PASSED, Mark.WARNED, Mark.SKIPPED}
        assert set(stood) != {Mark.SKIPPED}
    assert (result is Result.ALARM) is bool({Mark.OVERRIDDEN, Mark.UNPROVEN} & set(stood))
    assert (result is Result.NOTHING) is (stood == [])
    assert claimed(run, stood) not in (Result.PASSED, Result.WARNED)


# ---- what Airflow alone shows


def pushed(session: Any, run_id: str, task_id: str, value: Any) -> None:
    from airflow.models.xcom import XComModel
    from sqlalchemy import update

    of_it = (XComModel.run_id == run_id, XComModel.task_id == task_id, XComModel.key == "return_value")
    assert session.execute(update(XComModel).where(*of_it).values(value=value)).rowcount == 1
    session.flush()


def glanced(session: Any, dag: Any, run_id: str) -> tuple[dict[str, Mark], Result]:
    run = records.run_of(session, dag.dag_id, run_id)
    assert run is not None
    outline = outline_now(session, dag.dag_id)
    found = glimpsed(outline, records.glimpses(session, [run.key], outline.guards)[run.key])
    return found, claimed(run, found.values())


@pytest.mark.parametrize("play", EXPECTED)
def test_airflow_alone_shows_no_pass_where_the_xcom_tells_of_none(session: Any, plain: Any, evidence: Path, play: Played) -> None:
    run_id = next(names)
    add_run(plain, run_id, plays={MIDDLE: play})
    stood, result = glanced(session, plain, run_id)
    wanted = EXPECTED[play][0]
    if play in (Played.FORGED, Played.TAMPERED, Played.REMOVED, Played.RELINKED, Played.REMARKED):
        wanted = Mark.PASSED  # which the evidence contradicts, and Airflow does not
    elif play is Played.MARKED:
        wanted = Mark.UNPROVEN
    assert stood[MIDDLE] is wanted
    assert result not in (Result.PASSED, Result.WARNED)
    assert (result is Result.CLAIMED) is (wanted in (Mark.PASSED, Mark.SKIPPED))


@pytest.mark.parametrize("outcome", ["FAILED", "ERROR", "passed", "PASSED ", "", None, 1, True, ["PASSED"], {"PASSED": 1}])
def test_an_xcom_that_tells_of_something_else_is_no_pass(session: Any, plain: Any, evidence: Path, outcome: Any) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    pushed(session, run_id, MIDDLE, {"outcome": outcome})
    stood, result = glanced(session, plain, run_id)
    assert stood[MIDDLE] in (Mark.OVERRIDDEN, Mark.UNPROVEN)
    assert result is Result.ALARM


def test_an_xcom_that_was_written_by_hand_is_only_a_claim(session: Any, plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id, plays={MIDDLE: Played.OVERRIDDEN})
    pushed(session, run_id, MIDDLE, {"outcome": "PASSED"})
    assert glanced(session, plain, run_id) == (dict.fromkeys(GUARDS, Mark.PASSED), Result.CLAIMED)
    session.commit()
    assert view_of(plain, run_id).result is Result.ALARM


def test_a_mapped_guard_stands_as_the_worst_of_its_instances(session: Any, mapped: Any, evidence: Path) -> None:
    for play, wanted in ((Played.FAILED, Mark.FAILED), (Played.OVERRIDDEN, Mark.OVERRIDDEN), (Played.RUNNING, Mark.RUNNING)):
        run_id = next(names)
        add_run(mapped, run_id, plays={(MIDDLE, 2): play})
        assert glanced(session, mapped, run_id)[0][MIDDLE] is wanted


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(("outcome", "by_severity", "waivers", "x")), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(value=ANY_JSON)
def test_an_xcom_of_any_shape_is_read_as_what_it_is(session: Any, plain: Any, evidence: Path, value: Any) -> None:
    run_id = "any shape"
    if records.run_of(session, plain.dag_id, run_id) is None:
        add_run(plain, run_id)
    pushed(session, run_id, MIDDLE, value)
    stood, result = glanced(session, plain, run_id)
    told = value.get("outcome") if isinstance(value, dict) else None
    assert (stood[MIDDLE] is Mark.PASSED) is (told == "PASSED")
    assert result in (Result.CLAIMED, Result.ALARM)
    run = records.run_of(session, plain.dag_id, run_id)
    assert run is not None
    summary = records.summaries(session, [run.key], GUARDS)[run.key][MIDDLE, -1]
    assert all(type(number) is int and number > 0 for number in severities(summary).values())
    assert outcome_of(summary) is None or isinstance(outcome_of(summary), str)


def test_a_deep_xcom_does_not_keep_the_others_from_being_read(session: Any, plain: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    deep: Any = "PASSED"
    for _ in range(400):
        deep = {"outcome": deep}
    pushed(session, run_id, MIDDLE, deep)
    stood, _ = glanced(session, plain, run_id)
    assert stood[MIDDLE] is Mark.OVERRIDDEN
    assert stood["verify_collect"] is Mark.PASSED


def test_the_audit_log_of_another_run_or_dag_is_none_of_this_one(session: Any, plain: Any, mapped: Any, evidence: Path) -> None:
    mine, other = next(names), next(names)
    add_run(plain, mine)
    add_run(plain, other, plays={MIDDLE: Played.OVERRIDDEN}, by="mallory")
    add_run(mapped, mine, plays={"verify_collect": Played.OVERRIDDEN}, by="trudy")
    run = records.run_of(session, plain.dag_id, mine)
    assert run is not None
    assert records.acts(session, run) == []
    other_run = records.run_of(session, plain.dag_id, other)
    assert other_run is not None
    assert [act.user for act in records.acts(session, other_run)] == ["mallory"]


def test_times_are_utc_and_a_run_knows_when_it_began(session: Any, plain: Any, evidence: Path) -> None:
    when = datetime.now(UTC) - timedelta(seconds=40)
    run_id = next(names)
    add_run(plain, run_id, when=when)
    run = records.run_of(session, plain.dag_id, run_id)
    assert run is not None
    assert run.when == when
    assert run.over
    assert {item.started.tzinfo for item in records.instances(session, plain.dag_id, run_id) if item.started} == {UTC}


def test_evidence_of_guards_that_the_dag_does_not_have_is_a_strangers(plain: Any, session: Any, evidence: Path) -> None:
    run_id = next(names)
    add_run(plain, run_id)
    run = records.run_of(session, plain.dag_id, run_id)
    loaded = evidence_of(plain.dag_id, run_id)
    assert run is not None
    assert not isinstance(loaded, str)
    small = plain_pipeline("judged_small", stages=4)
    add_dag(small)
    outline = outline_now(session, "judged_small")
    view = judge(run, outline, records.instances(session, plain.dag_id, run_id), loaded, None, now=datetime.now(UTC))
    assert {guard.task_id for guard in view.guards} == set(guards_of(small))
    assert view.result is Result.ALARM, "a guard links one that this DAG does not have"
