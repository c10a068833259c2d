"""The data-validation guard: sources and rules come together, and what goes wrong says what, without a value of the data."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from airflow_pipesec.operators import DataValidationOperator
from airflow_pipesec.sensors import DataValidationSensor
from tests.runner import Ran, RunTask

CANARY = "hunter2-4711"
POSITIVE = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "min_value": 0}}
SUITE = {"name": "s", "expectations": [POSITIVE]}


@pytest.fixture
def rows(tmp_path: Path) -> str:
    path = tmp_path / "rows.csv"
    path.write_text("a,s\n1,x\n2,y\n")
    return str(path)


def test_good_rows_pass_and_bad_rows_stop_the_pipeline(rows: str, run_task: RunTask, tmp_path: Path) -> None:
    assert run_task(DataValidationOperator(task_id="v", path=rows, suite=SUITE)).state == "success"
    Path(rows).write_text("a,s\n1,x\n-2,y\n")
    aside = str(tmp_path / "aside.parquet")
    ran = run_task(DataValidationOperator(task_id="w", path=rows, suite=SUITE, quarantine_path=aside))
    assert ran.state == "failed"
    assert ran.summary["blocking_controls"] == ["expectations-met"]
    assert pd.read_parquet(aside)["a"].tolist() == [-2]


def test_a_warning_does_not_fail_the_task(rows: str, run_task: RunTask) -> None:
    Path(rows).write_text("a\n-1\n")
    suite = {"name": "s", "expectations": [POSITIVE | {"severity": "warning"}]}
    ran = run_task(DataValidationOperator(task_id="v", path=rows, suite=suite))
    assert ran.state == "success"
    assert ran.summary["by_severity"]["low"] == 1
    strict = DataValidationOperator(task_id="w", path=rows, suite=suite, policy={"fail_on": "low"})
    assert run_task(strict).state == "failed"


def test_parameters_are_templates(rows: str, run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text(json.dumps(SUITE))
    guard = DataValidationOperator(task_id="v", path="{{ dag_run.conf.rows }}", suite=str(tmp_path) + "/{{ 'suite' }}.json")
    assert run_task(guard, conf={"rows": rows}).state == "success"
    checks = {"least": {"check_statement": "a >= {{ dag_run.conf.least }}"}}
    assert run_task(DataValidationOperator(task_id="w", path=rows, checks=checks), conf={"least": 1}).state == "success"
    assert run_task(DataValidationOperator(task_id="x", path=rows, checks=checks), conf={"least": 2}).state == "failed"


def test_a_frame_and_expectations_are_made_when_the_task_runs(run_task: RunTask) -> None:
    called: list[str] = []

    def frame(run_id: str) -> pd.DataFrame:
        called.append(run_id)
        return pd.DataFrame({"a": [1, -1]})

    def expectations() -> Any:
        from great_expectations import expectations as gxe

        called.append("expectations")
        return gxe.ExpectColumnValuesToBeBetween(column="a", min_value=0)

    guard = DataValidationOperator(task_id="v", configure_dataframe=frame, configure_expectations=expectations)
    assert called == []
    assert run_task(guard).state == "failed"
    assert called == ["expectations", "test_run"]


@pytest.mark.parametrize(
    "parameters",
    [
        {"suite": SUITE},
        {"path": "x.csv", "table": "t", "conn_id": "c", "suite": SUITE},
        {"table": "t", "suite": SUITE},
        {"path": "x.csv", "conn_id": "c", "suite": SUITE},
        {"table": "t", "conn_id": "c", "suite": SUITE, "quarantine_path": "q.parquet"},
        {"configure_dataframe": "not callable", "suite": SUITE},
        {"configure_dataframe": lambda: [1, 2], "suite": SUITE},
        {"path": __file__.replace("test_quality_guard.py", "nothing.csv"), "suite": "/no/suite.json"},
    ],
)
def test_what_cannot_work_fails_at_once_with_one_clear_message(run_task: RunTask, parameters: dict[str, Any]) -> None:
    ran = run_task(DataValidationOperator(task_id="v", **parameters), retries_left=True)
    assert ran.state == "failed"
    assert type(ran.error).__name__ == "AirflowFailException"


def test_no_rules_at_all_is_no_pass(rows: str, run_task: RunTask) -> None:
    ran = run_task(DataValidationOperator(task_id="v", path=rows))
    assert ran.state == "failed"
    assert "there are no rules" in str(ran.error)


def shown(ran: Ran, capfd: pytest.CaptureFixture[str]) -> str:
    return str(ran) + repr(ran.error) + repr(getattr(ran.error, "__cause__", "")) + "".join(capfd.readouterr())


def test_an_exception_of_the_authors_function_is_told_by_type_and_place(
    run_task: RunTask, capfd: pytest.CaptureFixture[str]
) -> None:
    def frame() -> pd.DataFrame:
        raise KeyError(CANARY)

    ran = run_task(DataValidationOperator(task_id="v", configure_dataframe=frame, suite=SUITE), retries_left=True)
    assert ran.state == "up_for_retry"
    assert "KeyError at test_quality_guard.py:" in str(ran.error)
    assert CANARY not in shown(ran, capfd)


def test_no_value_is_in_log_xcom_or_exception(rows: str, run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    Path(rows).write_text(f"a,s\n1,{CANARY}\n2,{CANARY}\n")
    in_set = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "s", "value_set": ["x"]}}
    cannot = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "s", "min_value": 0}}
    suite = {"name": "s", "expectations": [in_set, cannot]}
    mapping = {"s": {"max": {"equal_to": "x"}, "unique_check": {"equal_to": 0}}}
    ran = run_task(DataValidationOperator(task_id="v", path=rows, suite=suite, column_mapping=mapping, sample_unexpected=3))
    assert ran.state == "failed"
    assert ran.summary["by_status"]["fail"] == 3
    assert ran.summary["by_status"]["error"] == 1
    assert CANARY not in shown(ran, capfd)


def test_the_sensor_waits_for_the_file_and_for_good_rows(tmp_path: Path, run_task: RunTask) -> None:
    path = tmp_path / "rows.csv"

    def poke() -> Ran:
        return run_task(DataValidationSensor(task_id="s", path=str(path), suite=SUITE))

    assert poke().state == "up_for_reschedule"
    path.write_text("a\n-1\n")
    assert poke().state == "up_for_reschedule"
    path.write_text("a\n1\n")
    assert poke().state == "success"


# ---- SQLite through an Airflow connection


@pytest.fixture
def sqlite_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sqlite3.Connection]:
    path = tmp_path / "lake.db"
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE rows (a INTEGER, s TEXT)")
        connection.executemany("INSERT INTO rows VALUES (?, ?)", [(1, "x"), (2, CANARY)])
        connection.commit()
        yield connection


def table(**parameters: Any) -> DataValidationOperator:
    return DataValidationOperator(task_id="t", table="rows", conn_id="lake", **parameters)


def test_a_table_is_held_against_every_kind_of_rule(sqlite_table: sqlite3.Connection, run_task: RunTask) -> None:
    rules = {
        "suite": SUITE,
        "column_mapping": {"a": {"min": {"geq_to": 0}}},
        "checks": {"n": {"check_statement": "COUNT(*) = 2"}},
    }
    ran = run_task(table(**rules))
    assert ran.state == "success"
    assert ran.summary["by_status"]["pass"] == 5
    sqlite_table.execute("INSERT INTO rows VALUES (-3, 'z')")
    sqlite_table.commit()
    assert run_task(table(**rules)).summary["by_status"]["fail"] == 3


def test_an_empty_or_missing_table_and_column_fail(sqlite_table: sqlite3.Connection, run_task: RunTask) -> None:
    missing = {"name": "s", "expectations": [POSITIVE | {"kwargs": {"column": "b", "min_value": 0}}]}
    assert run_task(table(suite=missing)).summary["blocking_controls"] == ["columns-present"]
    sqlite_table.execute("DELETE FROM rows")
    sqlite_table.commit()
    assert run_task(table(suite=SUITE)).summary["blocking_controls"] == ["data-present"]
    sqlite_table.execute("DROP TABLE rows")
    sqlite_table.commit()
    assert run_task(table(suite=SUITE)).summary["blocking_controls"] == ["data-present"]


def test_values_of_several_types_in_one_column_have_no_least(sqlite_table: sqlite3.Connection, run_task: RunTask) -> None:
    mapping = {"a": {"min": {"geq_to": 0}}}
    assert run_task(table(column_mapping=mapping)).state == "success"
    sqlite_table.execute("INSERT INTO rows VALUES ('planted', 'z')")
    sqlite_table.commit()
    ran = run_task(table(column_mapping=mapping))
    assert ran.summary["blocking_controls"] == ["expectations-run"]


def test_an_aggregate_over_nothing_is_no_pass_in_a_table(sqlite_table: sqlite3.Connection, run_task: RunTask) -> None:
    distinct = {"type": "expect_column_distinct_values_to_be_in_set", "kwargs": {"column": "a", "value_set": [1, 2]}}
    suite = {"name": "s", "expectations": [distinct]}
    assert run_task(table(suite=suite)).state == "success"
    sqlite_table.execute("UPDATE rows SET a = NULL")
    sqlite_table.commit()
    assert run_task(table(suite=suite)).summary["blocking_controls"] == ["expectations-met"]


def test_a_check_changes_nothing(sqlite_table: sqlite3.Connection, run_task: RunTask) -> None:
    run_task(table(checks={"x": {"check_statement": "1 = 1) FROM rows) AS r); DELETE FROM rows; --"}}))
    assert sqlite_table.execute("SELECT COUNT(*) FROM rows").fetchone() == (2,)


def test_no_value_of_a_table_gets_out(
    sqlite_table: sqlite3.Connection, run_task: RunTask, capfd: pytest.CaptureFixture[str]
) -> None:
    in_set = {"type": "expect_column_values_to_be_in_set", "kwargs": {"column": "s", "value_set": ["x"]}}
    ran = run_task(table(suite={"name": "s", "expectations": [in_set]}, checks={"x": {"check_statement": "s = 'x'"}}))
    assert ran.summary["by_status"]["fail"] == 2
    assert CANARY not in shown(ran, capfd)


def test_an_unknown_connection_is_no_pass(run_task: RunTask) -> None:
    ran = run_task(DataValidationOperator(task_id="t", table="t", conn_id="nowhere", suite=SUITE))
    assert ran.state in ("failed", "up_for_retry")
