"""The overview: one line for each DAG, the worst first, in as many queries however many there are, and without evidence."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, NoReturn

import pytest
from airflow.sdk import DAG

from airflow_pipesec.checks.integrity import DIGEST_MATCHES, NO_EXTRA_FILES, NO_SYMLINKS
from airflow_pipesec.drawing import Mark
from airflow_pipesec.evidence import folder_of
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.policy import Waiver
from airflow_pipesec.ui import proofs, records
from airflow_pipesec.ui.judged import Result
from airflow_pipesec.ui.overview import PAGE, SORTS, TREND, Line, Overview, Query, overview, prepare, severities
from tests import airflow_world
from tests.airflow_world import Played, add_dag, add_run, naked_pipeline, plain_pipeline
from tests.weaving import Step, Watch, new_dag

pytestmark = pytest.mark.usefixtures("airflow_db")
TODAY = date(2026, 11, 25)
MIDDLE = "validate_preprocess"
GOOD = Finding(DIGEST_MATCHES, Subject("/data/file", "sha256:" + "ab" * 32), Status.PASS, "1 file matches")


@contextmanager
def database() -> Iterator[Any]:
    from airflow.utils.session import create_session

    with create_session(scoped=False) as session:
        yield session


def shown(ids: Any, *, today: date = TODAY, **asked: Any) -> Overview:
    with database() as session:
        return overview(session, ids, Query(**asked), today=today)


def order(found: Overview) -> list[str]:
    return [line.record.dag_id for line in found.lines]


def line_of(dag_id: str, **more: Any) -> Line:
    (line,) = shown({dag_id}, **more).lines
    return line


def check(dag: DAG, run_id: str) -> proofs.Checked:
    with database() as session:
        run = records.run_of(session, dag.dag_id, run_id)
        assert run is not None
        return proofs.checked(session, run, records.outlines(session, records.dags(session, {dag.dag_id}))[dag.dag_id])


def new(dag_id: str, **more: Any) -> DAG:
    dag = plain_pipeline(dag_id, **more)
    add_dag(dag)
    return dag


@pytest.fixture(scope="module")
def some(airflow_db: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A DAG for each of the ways in which a line can be, each called by it."""
    root = tmp_path_factory.mktemp("overview")
    plays: dict[str, Mapping[Any, Played]] = {
        "alarm": {MIDDLE: Played.OVERRIDDEN},
        "claimed": {},
        "running": {MIDDLE: Played.RUNNING},
        "stopped": {MIDDLE: Played.FAILED},
    }
    for name, played in plays.items():
        add_run(new(f"some_{name}"), "once", plays=played, evidence_root=root)
    naked = naked_pipeline("some_naked")
    add_dag(naked)
    add_run(naked, "once", evidence_root=root)
    new("some_never")
    new("some_unreadable")
    spoil("some_unreadable")
    with new_dag("some_whole", dag_display_name="Ganz und gar") as whole:
        Step(task_id="a") >> Watch(task_id="g") >> Step(task_id="b")
    add_dag(whole)
    names = ("alarm", "claimed", "naked", "never", "running", "stopped", "unreadable", "whole")
    return [f"some_{name}" for name in names]


def spoil(dag_id: str) -> None:
    from airflow.models.serialized_dag import SerializedDagModel
    from sqlalchemy import update

    with database() as session:
        session.execute(update(SerializedDagModel).where(SerializedDagModel.dag_id == dag_id).values(_data={"dag": 1}))


# ---- lines


def test_a_line_says_how_the_last_run_of_its_dag_stands(some: list[str]) -> None:
    found = {line.record.dag_id.removeprefix("some_"): line for line in shown(some).lines}
    assert {name: line.result for name, line in found.items()} == {
        "alarm": Result.ALARM,
        "claimed": Result.CLAIMED,
        "naked": Result.NOTHING,
        "never": Result.NEVER,
        "running": Result.RUNNING,
        "stopped": Result.STOPPED,
        "unreadable": Result.UNREADABLE,
        "whole": Result.NEVER,
    }
    assert found["alarm"].why == f"Airflow shows {MIDDLE} as success against what was concluded"
    assert found["unreadable"].outline is None
    assert found["never"].run is None
    assert (found["claimed"].guarded, found["claimed"].stages, found["claimed"].part) == (4, 5, "some")
    assert (found["naked"].guarded, found["naked"].part) == (0, "none")
    assert (found["whole"].guarded, found["whole"].part) == (2, "all")
    assert (found["unreadable"].stages, found["unreadable"].part) == (0, "")


def test_the_totals_are_of_all_dags_that_the_viewer_may_read_and_of_no_other(some: list[str]) -> None:
    found = shown(some, q="whole")
    assert (found.total, found.matching, len(found.lines)) == (8, 1, 1)
    assert (found.stages, found.guarded) == (5 * 6 + 2, 4 * 5 + 2)
    assert found.results == {
        Result.ALARM: 1,
        Result.CLAIMED: 1,
        Result.NOTHING: 1,
        Result.NEVER: 2,
        Result.RUNNING: 1,
        Result.STOPPED: 1,
        Result.UNREADABLE: 1,
    }
    assert found.unread == ["some_unreadable"]
    assert [alarm.dag_id for alarm in found.alarms] == ["some_alarm"], "alarms are told whatever is filtered"
    few = shown({"some_alarm", "some_never", "no_such_dag"})
    assert (few.total, few.stages) == (2, 10)
    assert shown(()).lines == []
    assert (shown(()).total, shown(()).pages) == (0, 1)


def test_the_worst_is_first_and_alarms_before_everything(some: list[str]) -> None:
    found = shown(some)
    assert order(found) == [
        *("some_alarm", "some_stopped", "some_unreadable", "some_claimed", "some_running"),
        *("some_never", "some_whole", "some_naked"),
    ]


# ---- filters


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ({"q": "NAKED"}, {"naked"}),
        ({"q": "ganz"}, {"whole"}),
        ({"q": "some_"}, None),
        ({"q": "nothing like it"}, set()),
        ({"result": "does not verify"}, {"alarm"}),
        ({"result": "never run"}, {"never", "whole"}),
        ({"result": "not verified yet"}, {"claimed"}),
        ({"result": "passed"}, set()),
        ({"result": "no such result"}, set()),
        ({"guarded": "all"}, {"whole"}),
        ({"guarded": "some"}, {"alarm", "claimed", "never", "running", "stopped"}),
        ({"guarded": "none"}, {"naked"}),
        ({"threat": "tampered-artifacts"}, {"naked", "whole"}),
        ({"threat": "no-such-threat"}, set()),
        ({"threat": "tampered-artifacts", "guarded": "none", "q": "some", "result": "no guard"}, {"naked"}),
    ],
)
def test_a_filter_leaves_what_fits_it(some: list[str], asked: dict[str, Any], names: set[str] | None) -> None:
    wanted = set(some) if names is None else {f"some_{name}" for name in names}
    found = shown(some, **asked)
    assert set(order(found)) == wanted
    assert found.matching == len(wanted)
    assert found.total == len(some)


# ---- orders


@pytest.mark.parametrize("sort", SORTS)
def test_every_order_can_be_turned_round(some: list[str], sort: str) -> None:
    assert order(shown(some, sort=sort, down=True)) == order(shown(some, sort=sort))[::-1]


def test_the_orders_are_by_what_they_are_called(some: list[str]) -> None:
    assert order(shown(some, sort="dag")) == sorted(some)
    by_coverage = order(shown(some, sort="coverage"))
    assert (by_coverage[0], by_coverage[-2:]) == ("some_naked", ["some_whole", "some_unreadable"])
    by_run = order(shown(some, sort="last run"))
    assert set(by_run[-3:]) == {"some_never", "some_unreadable", "some_whole"}


def test_the_newest_run_is_first_by_last_run(evidence: Path) -> None:
    now = datetime.now(UTC)
    for name, ago in (("b", 30), ("a", 40), ("c", 35)):
        add_run(new(f"recent_{name}"), "once", when=now - timedelta(seconds=ago))
    assert order(shown({"recent_a", "recent_b", "recent_c"}, sort="last run")) == ["recent_b", "recent_c", "recent_a"]


def test_the_gravest_finding_is_first_by_findings(evidence: Path) -> None:
    low = Finding(NO_EXTRA_FILES, Subject("/data/x"), Status.FAIL, "is extra")
    high = Finding(DIGEST_MATCHES, Subject("/data/y"), Status.FAIL, "is another")
    seen = {"a": [GOOD], "b": [low] * 5, "c": [high], "d": [high, high]}
    ranks = {}
    for name, findings in seen.items():
        failed = Played.FAILED if len(findings) > 1 or findings[0].status is Status.FAIL else Played.PASSED
        add_run(new(f"graves_{name}"), "once", plays={"verify_collect": failed}, findings={"verify_collect": findings})
        ranks[name] = line_of(f"graves_{name}").severities
    assert low.level < high.level
    assert ranks == {"a": {}, "b": {low.level.label: 5}, "c": {high.level.label: 1}, "d": {high.level.label: 2}}
    found = shown({f"graves_{name}" for name in seen}, sort="findings")
    assert order(found) == ["graves_d", "graves_c", "graves_b", "graves_a"]
    assert found.severities == {low.level.label: 5, high.level.label: 3}


def test_only_the_last_run_of_a_dag_counts(evidence: Path) -> None:
    dag = new("last_counts")
    add_run(dag, "first", plays={MIDDLE: Played.FAILED})
    assert line_of("last_counts").severities
    add_run(dag, "second")
    line = line_of("last_counts")
    assert line.run is not None
    assert (line.run.run_id, line.result, dict(line.severities)) == ("second", Result.CLAIMED, {})


@pytest.mark.parametrize(
    "summary",
    [
        None,
        1,
        "text",
        [],
        {},
        {"by_severity": 1},
        {"by_severity": {"high": -1, "low": "9", "critical": True, "medium": 1 << 60, "x": 1}},
    ],
)
def test_counts_that_are_none_count_nothing(summary: Any) -> None:
    assert severities(summary) == {}


# ---- waivers


def test_waivers_that_expire_soon_are_told_soonest_first(evidence: Path) -> None:
    bad = Finding(NO_SYMLINKS, Subject("/data/link"), Status.FAIL, "is a symbolic link")
    real = datetime.now(UTC).date()
    for name, days in (("far", 31), ("near", 3), ("edge", 30), ("today", 0)):
        waiver = Waiver("no-symlinks", "/data/*", "Ticket 4711.", "vera@example.org", real + timedelta(days=days))
        given: dict[Any, Any] = {"verify_collect": [bad, GOOD]}
        add_run(new(f"waived_{name}"), "once", findings=given, waivers={"verify_collect": [waiver]})
    ids = {"waived_far", "waived_near", "waived_edge", "waived_today"}
    found = shown(ids, today=real).expiring
    assert [(item.dag_id, item.days) for item in found] == [("waived_today", 0), ("waived_near", 3), ("waived_edge", 30)]
    assert {(item.task_id, item.control) for item in found} == {("verify_collect", "no-symlinks")}
    later = shown(ids, today=real + timedelta(days=5)).expiring
    assert [(item.dag_id, item.days) for item in later][:2] == [("waived_today", -5), ("waived_near", -2)]
    assert len(later) == 4


# ---- many DAGs and runs


def many(prefix: str, dags: int, runs: int) -> list[str]:
    """Write DAGs and runs of them, all at once and without evidence."""
    from airflow.models.dag_version import DagVersion
    from sqlalchemy import select

    made = [plain_pipeline(f"{prefix}_{number:03}", 4) for number in range(dags)]
    airflow_world._add_dags(made, airflow_world.BUNDLE)
    ids = [dag.dag_id for dag in made]
    with database() as session:
        query = select(DagVersion.dag_id, DagVersion.id).where(DagVersion.dag_id.in_(ids))
        versions = {row.dag_id: row.id for row in session.execute(query)}
        rows = airflow_world._Rows()
        for dag in made:
            shape = airflow_world._Shape(dag, versions[dag.dag_id])
            for turn in range(runs):
                when = datetime.now(UTC) - timedelta(hours=runs - turn)
                played = Played.FAILED if turn == runs - 2 else Played.PASSED
                told: Any = {"plays": {"record_train": played}, "default": Played.PASSED, "stages": {}, "user": "u", "by": "m"}
                airflow_world._Run(shape, f"run {turn:02}", when, store=None, **told).play(rows)
        rows.insert(session)
    return ids


@pytest.fixture(scope="module")
def few(airflow_db: Path) -> list[str]:
    return many("few", 5, 3)


@pytest.fixture(scope="module")
def crowd(airflow_db: Path) -> list[str]:
    return many("crowd", 60, 40)


def test_pages_are_of_one_length_and_one_after_the_last_is_the_last(crowd: list[str]) -> None:
    found = shown(crowd, sort="dag")
    assert (found.pages, found.matching, len(found.lines)) == (3, 60, PAGE)
    pages = [order(shown(crowd, sort="dag", page=page)) for page in (1, 2, 3)]
    assert [name for page in pages for name in page] == sorted(crowd)
    assert order(shown(crowd, sort="dag", page=99)) == pages[2]
    assert len(pages[2]) == 10


def test_the_runs_to_verify_are_the_last_of_each_dag_those_of_the_page_first(crowd: list[str]) -> None:
    found = shown(crowd, sort="dag", page=2)
    assert [run[0] for run in found.runs[:PAGE]] == order(found)
    assert {run[1:] for run in found.runs} == {("run 39", Result.CLAIMED)}
    assert len(found.runs) == 60


def test_what_has_no_guards_has_nothing_to_verify(some: list[str]) -> None:
    found = {run[0]: run[1:] for run in shown(some).runs}
    assert found == {
        "some_alarm": ("once", Result.ALARM),
        "some_claimed": ("once", Result.CLAIMED),
        "some_running": ("once", Result.RUNNING),
        "some_stopped": ("once", Result.STOPPED),
    }


def test_the_trend_is_of_the_last_runs_oldest_first(crowd: list[str], few: list[str]) -> None:
    for line in shown(crowd).lines:
        assert [run.run_id for run, _ in line.trend] == [f"run {turn:02}" for turn in range(40 - TREND, 40)]
        stood = [Counter(marks.values()) for _, marks in line.trend]
        assert stood[-1] == {Mark.PASSED: 4}
        assert stood[-2] == {Mark.PASSED: 2, Mark.FAILED: 1, Mark.NOT_RUN: 1}
    assert {len(line.trend) for line in shown(few).lines} == {3}


def test_what_has_no_guards_or_no_runs_has_no_trend(some: list[str]) -> None:
    assert {line.record.dag_id for line in shown(some).lines if line.trend} == {
        f"some_{name}" for name in ("alarm", "claimed", "running", "stopped")
    }


@contextmanager
def statements() -> Iterator[list[tuple[str, Any]]]:
    from sqlalchemy import event

    seen: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        seen.append((statement, parameters))

    with database() as session:
        engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_the_number_of_queries_does_not_grow_with_dags_runs_or_history(few: list[str], crowd: list[str]) -> None:
    records._outlines.known.clear()
    counted = {}
    for name, ids in (("few", few), ("crowd", crowd)):
        for turn in ("first", "again"):
            with statements() as seen:
                assert shown(ids).lines
            counted[name, turn] = len(seen)
    chunks = PAGE * TREND // records.MOST_NAMES  # of the runs in the trend, which are looked up and then looked at
    assert counted["crowd", "again"] <= counted["few", "again"] + 2 * chunks
    assert counted["crowd", "first"] <= counted["few", "first"] + 2 * chunks
    assert counted["few", "again"] == counted["few", "first"] - 1, "outlines are read once"
    assert counted["few", "again"] <= 10


def test_only_the_history_of_the_page_is_looked_at(crowd: list[str]) -> None:
    with statements() as seen:
        found = shown(crowd, sort="dag", page=3)
    with database() as session:
        runs = records.recent_runs(session, crowd, 99)
    old = {run.key: dag_id for dag_id, some in runs.items() for run in some[:-1]}
    touched = {old[value] for _, parameters in seen for value in parameters if isinstance(value, int) and value in old}
    assert touched <= set(order(found)) | {dag_id for value, dag_id in old.items() if value in (TREND, 1, 0)}
    named = [sum(value in crowd for value in parameters) for statement, parameters in seen if "UNION ALL" in statement]
    assert named == [10]


# ---- evidence


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the overview reads no evidence")


def test_the_overview_never_reads_evidence(some: list[str], crowd: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_pipesec.ui.proofs.stored_evidence", refuse)
    monkeypatch.setattr("airflow_pipesec.ui.proofs.configured_trusted_keys", refuse)
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", "nosuch://bucket/prefix")
    assert shown(some).lines
    assert shown(crowd).lines
    prepare()


def test_it_is_prepared_whatever_is_in_the_database(some: list[str]) -> None:
    records._outlines.known.clear()
    prepare()
    assert len(records._outlines.known) >= len(some)


def test_what_was_verified_is_shown_until_it_is_verified_again(evidence: Path) -> None:
    dag = new("remembered")
    add_run(dag, "once")
    assert line_of("remembered").result is Result.CLAIMED
    found = check(dag, "once")
    assert (found.result, found.why) == (Result.PASSED, "5 of 5 guards passed, and their evidence verifies")
    line = line_of("remembered")
    assert (line.result, line.why, line.checked) == (Result.PASSED, found.why, found)
    assert shown({"remembered"}, result="passed").matching == 1


def test_an_earlier_run_that_does_not_verify_is_among_the_alarms_too(evidence: Path) -> None:
    dag = new("earlier_alarm")
    add_run(dag, "marked", plays={MIDDLE: Played.OVERRIDDEN})
    add_run(dag, "forged", plays={MIDDLE: Played.FORGED})
    add_run(dag, "clean")
    assert [alarm.run_id for alarm in shown({"earlier_alarm"}).alarms] == ["marked"], "what Airflow alone shows"
    for run_id in ("marked", "forged", "clean"):
        check(dag, run_id)
    found = shown({"earlier_alarm"})
    assert {alarm.run_id for alarm in found.alarms} == {"marked", "forged"}
    assert [run_id for _, run_id, _ in found.runs][-1] == "clean", "what is to be read begins with the alarms"
    assert shown(()).alarms == []


def test_an_alarm_that_only_the_evidence_shows_is_among_the_alarms(evidence: Path) -> None:
    dag = new("remembered_alarm")
    add_run(dag, "once", plays={MIDDLE: Played.TAMPERED})
    assert line_of("remembered_alarm").result is Result.CLAIMED
    check(dag, "once")
    assert [line.why for line in shown({"remembered_alarm"}).alarms] == [check(dag, "once").why]


def test_what_was_verified_of_the_run_before_is_not_told_of_the_next(evidence: Path) -> None:
    dag = new("remembered_next")
    add_run(dag, "first")
    check(dag, "first")
    add_run(dag, "second", plays={MIDDLE: Played.RUNNING})
    line = line_of("remembered_next")
    assert (line.result, line.checked) == (Result.RUNNING, None)


def test_a_contradiction_that_airflow_shows_is_one_whatever_was_verified_before(evidence: Path) -> None:
    dag = new("remembered_contradicted")
    add_run(dag, "once")
    check(dag, "once")
    push("remembered_contradicted", {"outcome": "FAILED"})
    assert line_of("remembered_contradicted").result is Result.ALARM


def test_a_guard_that_was_stopped_since_its_run_was_verified_is_shown_as_stopped(evidence: Path) -> None:
    dag = new("remembered_stopped")
    add_run(dag, "once")
    assert check(dag, "once").result is Result.PASSED
    set_state("remembered_stopped", "failed")
    assert line_of("remembered_stopped").result is Result.STOPPED


def push(dag_id: str, value: Any) -> None:
    from airflow.models.xcom import XComModel
    from sqlalchemy import update

    of_it = (XComModel.dag_id == dag_id, XComModel.task_id == MIDDLE, XComModel.key == "return_value")
    with database() as session:
        session.execute(update(XComModel).where(*of_it).values(value=value))


def test_a_run_that_goes_on_is_shown_as_it_is_now(evidence: Path) -> None:
    dag = new("remembered_running")
    add_run(dag, "once", plays={MIDDLE: Played.RUNNING})
    assert check(dag, "once").result is Result.RUNNING
    set_state("remembered_running", "failed")
    assert line_of("remembered_running").result is Result.STOPPED


def set_state(dag_id: str, state: str) -> None:
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import update

    of_it = (TaskInstance.dag_id == dag_id, TaskInstance.task_id == MIDDLE)
    with database() as session:
        session.execute(update(TaskInstance).where(*of_it).values(state=state))


def test_a_verdict_is_fresh_for_a_while_and_then_worked_out_again(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = new("fresh")
    add_run(dag, "once")
    first = check(dag, "once")
    shutil.rmtree(evidence / folder_of("fresh", "once"))
    assert check(dag, "once") is first
    monkeypatch.setattr(proofs, "FRESH", 0.0)
    again = check(dag, "once")
    assert (first.result, again.result) == (Result.PASSED, Result.ALARM)
    assert again.at > first.at
    assert proofs.remembered("fresh", "once") is again


def test_names_from_the_audit_log_are_never_remembered(evidence: Path) -> None:
    dag = new("discreet")
    add_run(dag, "once", plays={MIDDLE: Played.OVERRIDDEN}, by="mallory")
    with database() as session:
        run = records.run_of(session, "discreet", "once")
        assert run is not None
        outline = records.outlines(session, records.dags(session, {"discreet"}))["discreet"]
        told = proofs.run_view(session, run, outline, log=True)
        assert told is not None
        assert "mallory" in told.why
    assert proofs.remembered("discreet", "once") is None, "a page for one person is remembered for nobody"
    assert check(dag, "once").result is Result.ALARM
    assert "mallory" not in repr(proofs.remembered("discreet", "once"))
    assert "mallory" not in repr(line_of("discreet"))


def test_without_trusted_keys_what_was_checked_says_so_and_is_no_pass(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = new("keyless")
    add_run(dag, "once")
    monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    assert check(dag, "once").result is Result.UNREADABLE
    line = line_of("keyless")
    assert (line.result, line.why) == (Result.UNREADABLE, proofs.NO_KEYS)


def test_a_dag_whose_copy_cannot_be_read_is_not_remembered(evidence: Path) -> None:
    dag = new("illegible")
    add_run(dag, "once")
    spoil("illegible")
    records._outlines.known.clear()
    assert check(dag, "once").result is Result.UNREADABLE
    assert proofs.remembered("illegible", "once") is None


def test_only_so_many_verdicts_are_remembered(evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dag = new("forgetful")
    for run_id in ("a", "b", "c"):
        add_run(dag, run_id)
    monkeypatch.setattr(proofs, "REMEMBERED", 2)
    for run_id in ("a", "b", "c"):
        check(dag, run_id)
    assert [proofs.remembered("forgetful", run_id) is not None for run_id in ("a", "b", "c")] == [False, True, True]


def test_a_paused_dag_is_shown_and_one_whose_file_is_gone_is_not(evidence: Path) -> None:
    from airflow.models.dag import DagModel
    from sqlalchemy import update

    for name in ("paused", "gone"):
        new(f"line_{name}")
    with database() as session:
        session.execute(update(DagModel).where(DagModel.dag_id == "line_paused").values(is_paused=True))
        session.execute(update(DagModel).where(DagModel.dag_id == "line_gone").values(is_stale=True))
    found = shown({"line_paused", "line_gone"})
    assert [(line.record.dag_id, line.record.paused) for line in found.lines] == [("line_paused", True)]
