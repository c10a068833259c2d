"""``@task.guard``: a function of the user's own that yields findings is a guard like any other."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk import DAG, task
from airflow.sdk.exceptions import AirflowSkipException

from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from tests.runner import RunTask

FRESH = Control("data-fresh", "The data is of today", Severity.HIGH, remedy="Run the collector again.")


def finding(status: Status) -> Finding:
    return Finding(FRESH, Subject("rows"), status, "looked at")


def build(function: Any, *arguments: Any, **options: Any) -> Any:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        return task.guard(**options)(function)(*arguments).operator


def test_findings_that_pass_succeed(run_task: RunTask) -> None:
    def fresh(day: str) -> Iterator[Finding]:
        assert day == "2026-11-24"
        yield finding(Status.PASS)

    ran = run_task(build(fresh, "{{ '2026-11-24' }}"))
    assert ran.state == "success"
    assert ran.summary["controls"] == ["data-fresh"]


def test_a_finding_that_fails_stops_the_pipeline(run_task: RunTask) -> None:
    def fresh() -> list[Finding]:
        return [finding(Status.PASS), finding(Status.FAIL)]

    assert run_task(build(fresh)).state == "failed"


@pytest.mark.parametrize("returned", [None, [], ()])
def test_a_function_that_says_nothing_fails(run_task: RunTask, returned: Any) -> None:
    def silent() -> Any:
        return returned

    ran = run_task(build(silent))
    assert ran.state == "failed"
    assert "nothing was examined" in str(ran.error)


@pytest.mark.parametrize("returned", [True, [True], "passed", {"outcome": "PASSED"}])
def test_a_function_that_says_something_else_fails(run_task: RunTask, returned: Any) -> None:
    def wrong() -> Any:
        return returned

    ran = run_task(build(wrong))
    assert ran.state == "failed"
    assert "where a Finding belongs" in str(ran.error)


def test_a_single_finding_may_be_returned(run_task: RunTask) -> None:
    def one() -> Finding:
        return finding(Status.PASS)

    assert run_task(build(one)).state == "success"


def test_the_function_gets_the_context_variables_it_names(run_task: RunTask) -> None:
    def fresh(run_id: str | None = None, dag_run: Any = None) -> Iterator[Finding]:
        assert run_id == "test_run"
        assert dag_run.run_id == "test_run"
        yield finding(Status.PASS)

    assert run_task(build(fresh)).state == "success"


def test_policy_and_on_failure_work_as_in_any_guard(run_task: RunTask) -> None:
    def fresh() -> Iterator[Finding]:
        yield finding(Status.PASS)
        yield finding(Status.FAIL)

    assert run_task(build(fresh, policy={"fail_on": "critical"})).state == "success"
    assert run_task(build(fresh, on_failure="warn")).state == "success"


def test_the_function_is_closed_when_the_check_breaks_off(run_task: RunTask) -> None:
    closed = []

    def careful() -> Iterator[Any]:
        try:
            yield finding(Status.PASS)
            yield "not a finding"
        finally:
            closed.append(True)

    assert run_task(build(careful)).state == "failed"
    assert closed == [True]


def test_what_the_function_raises_is_told_without_its_words(run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    def lazy() -> Iterator[Finding]:
        yield finding(Status.PASS)
        raise ValueError("row 7: hunter2-4711")

    def eager() -> list[Finding]:
        raise KeyError("hunter2-4711")

    for function in (lazy, eager):
        ran = run_task(build(function))
        assert ran.state == "up_for_retry"
        assert f"{function.__name__} raised" in str(ran.error)
        shown = "".join([*capfd.readouterr(), *traceback.format_exception(ran.error)])
        assert "hunter2-4711" not in shown
    skipped = build(skips)
    assert run_task(skipped).state == "skipped", "what Airflow itself is told goes through"


def skips() -> list[Finding]:
    raise AirflowSkipException


def test_a_finding_that_cannot_be_one_is_the_authors_and_not_retried(run_task: RunTask) -> None:
    def wrong() -> Iterator[Finding]:
        yield Finding(FRESH, "rows", Status.PASS, "looked at")  # type: ignore[arg-type] # what is tested

    ran = run_task(build(wrong))
    assert ran.state == "failed"
    assert "a finding's subject is a str; give a Subject" in str(ran.error)
