"""Data validation in a real PostgreSQL, through an Airflow connection whose password has every awkward character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from airflow_pipesec.operators import DataValidationOperator
from tests.conftest import RunTask

CANARY = "hunter2-4711"


@pytest.fixture
def database(postgres_uri: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", postgres_uri)
    connection = psycopg2.connect(postgres_uri)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("DROP SCHEMA IF EXISTS ml CASCADE; CREATE SCHEMA ml")
        cursor.execute('CREATE TABLE ml.rows (a integer, s text, day date, "Odd Name" double precision)')
        cursor.executemany(
            "INSERT INTO ml.rows VALUES (%s, %s, %s, %s)",
            [(1, "x", "2026-01-01", 0.5), (2, "y", "2026-01-02", float("nan")), (None, CANARY, None, None)],
        )
        yield cursor
    connection.close()


def guard(**rules: Any) -> DataValidationOperator:
    return DataValidationOperator(task_id="t", table="ml.rows", conn_id="warehouse", **rules)


def expect(kind: str, **kwargs: Any) -> dict[str, Any]:
    return {"type": f"expect_{kind}", "kwargs": kwargs}


def suite(*expectations: dict[str, Any]) -> dict[str, Any]:
    return {"name": "s", "expectations": list(expectations)}


def test_rules_that_hold_pass(database: Any, run_task: RunTask) -> None:
    ran = run_task(
        guard(
            suite=suite(
                expect("column_values_to_be_between", column="a", min_value=0),
                expect("column_values_to_be_in_set", column="s", value_set=["x", "y", CANARY]),
                expect("table_row_count_to_equal", value=3),
                expect("column_to_exist", column="Odd Name"),
            ),
            column_mapping={"a": {"null_check": {"equal_to": 1}}, "day": {"min": {"geq_to": "2026-01-01"}}},
            checks={"enough": {"check_statement": "COUNT(*) >= 3"}, "kept": {"check_statement": "a > 0"}},
            partition_clause="a IS NOT NULL OR s LIKE 'hunter%'",
        )
    )
    assert ran.summary["by_status"] == {"pass": 9, "fail": 1, "skip": 0, "error": 0}, "a NULL is not greater than 0"


def test_rules_that_do_not_hold_fail_without_a_value(database: Any, run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run_task(
        guard(
            suite=suite(
                expect("column_values_to_be_in_set", column="s", value_set=["x"]),
                expect("column_max_to_be_between", column="a", max_value=1),
            ),
            column_mapping={"a": {"null_check": {"equal_to": 0}}},
            sample_unexpected=2,
        )
    )
    assert ran.state == "failed"
    assert ran.summary["by_status"]["fail"] == 3
    assert CANARY not in str(ran) + "".join(capfd.readouterr())


def test_names_are_found_in_any_case_and_missing_ones_are_named(database: Any, run_task: RunTask) -> None:
    assert run_task(guard(suite=suite(expect("column_values_to_not_be_null", column="S")))).summary["by_status"]["fail"] == 0
    ran = run_task(guard(suite=suite(expect("column_values_to_not_be_null", column="nowhere"))))
    assert ran.summary["blocking_controls"] == ["columns-present"]


def test_a_table_that_may_not_be_read_is_no_pass(
    database: Any, postgres_uri: str, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.execute("DROP ROLE IF EXISTS outsider; CREATE ROLE outsider LOGIN PASSWORD 'outside'")
    parts = urlsplit(postgres_uri)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", f"postgresql://outsider:outside@127.0.0.1:{parts.port}/postgres")
    ran = run_task(guard(suite=suite(expect("table_row_count_to_equal", value=3))))
    assert ran.state in ("failed", "up_for_retry")


def test_a_database_that_is_down_is_trouble_and_tells_no_password(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", "postgresql://u:s3cr3t-pass@127.0.0.1:1/postgres")
    ran = run_task(guard(suite=suite(expect("table_row_count_to_equal", value=3))), retries_left=True)
    assert ran.state == "up_for_retry"
    assert "s3cr3t-pass" not in str(ran) + repr(ran.error) + "".join(capfd.readouterr())


def with_extra(uri: str, **extra: str) -> str:
    from urllib.parse import urlencode

    return f"{uri}{'&' if '?' in uri else '?'}{urlencode(extra)}"


@pytest.fixture
def every_rule() -> dict[str, Any]:
    return {
        "suite": suite(expect("table_row_count_to_equal", value=3)),
        "column_mapping": {"a": {"null_check": {"equal_to": 1}}},
        "checks": {"like": {"check_statement": "s LIKE '%'"}},
    }


def test_the_extras_of_a_connection_reach_every_query(
    database: Any, postgres_uri: str, every_rule: dict[str, Any], run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", with_extra(postgres_uri, options="-c search_path=ml"))
    here = DataValidationOperator(task_id="t", table="rows", conn_id="warehouse", **every_rule)
    assert run_task(here).state == "success"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", with_extra(postgres_uri, sslmode="require"))
    assert run_task(guard(**every_rule), retries_left=True).state == "up_for_retry", "this server speaks no TLS"


def test_every_connection_is_closed(
    database: Any, postgres_uri: str, every_rule: dict[str, Any], run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", with_extra(postgres_uri, application_name="pipesec-closes"))
    broken = {"checks": {"x": {"check_statement": "nonsense"}}}
    for rules in (every_rule, every_rule | broken):
        kept = run_task(guard(**rules))  # what it holds must not be what closes the connections
        database.execute("SELECT pg_sleep(0.2); SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'pipesec-closes'")
        assert database.fetchone() == (0,), kept.state


def test_a_check_may_only_read(database: Any, run_task: RunTask) -> None:
    database.execute("CREATE FUNCTION ml.spoil() RETURNS boolean LANGUAGE sql AS 'DELETE FROM ml.rows; SELECT true'")
    ran = run_task(guard(checks={"x": {"check_statement": "ml.spoil()"}}))
    assert ran.summary["blocking_controls"] == ["expectations-run"]
    database.execute("SELECT COUNT(*) FROM ml.rows")
    assert database.fetchone() == (3,)
