"""Data validation in a real PostgreSQL, through an Airflow connection whose password has every awkward character."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg2
import pytest

from airflow_pipesec.operators import DataValidationOperator
from tests.runner import RunTask

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
    database.execute('ALTER TABLE ml.rows ADD "Twin" integer DEFAULT 1, ADD "TWIN" integer DEFAULT -1')
    length = expect("column_value_lengths_to_be_between", column="S", max_value=20)
    pair = expect("column_pair_values_to_be_equal", column_A="A", column_B="a")
    total = expect("multicolumn_sum_to_equal", column_list=["A", "TWIN"], sum_total=0, ignore_row_if="any_value_is_missing")
    exact = expect("column_values_to_be_between", column="Twin", min_value=0)
    ran = run_task(guard(suite=suite(length, pair, total, exact)))
    assert ran.summary["by_status"] == {"pass": 5, "fail": 1, "skip": 0, "error": 0}, "1 - 1 is 0, 2 - 1 is not"
    for column in ("nowhere", "twin"):  # which of the two it is nobody can tell
        ran = run_task(guard(suite=suite(expect("column_values_to_not_be_null", column=column))))
        assert ran.summary["blocking_controls"] == ["columns-present"]
    ordered = expect("table_columns_to_match_ordered_list", column_list=["a", "s", "day", "Odd Name", "Twin", "TWIN"])
    assert run_task(guard(suite=suite(ordered))).state == "success", "the NaN in one of them is no matter"


@pytest.mark.parametrize("kind", ["double precision", "real", "numeric", "numeric(5, 2)", "ml.measure"])
def test_not_a_number_lets_no_rule_hold(database: Any, run_task: RunTask, kind: str) -> None:
    database.execute("CREATE DOMAIN ml.measure AS double precision")
    database.execute(f"CREATE TABLE ml.measures (r {kind}, n integer)")
    database.execute("INSERT INTO ml.measures VALUES (1, 1)")
    rules = {
        "suite": suite(
            expect("column_values_to_not_be_null", column="r"),
            expect("column_values_to_be_between", column="r", min_value=0),
            expect("column_min_to_be_between", column="r", min_value=0),
            {"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": "SELECT * FROM {batch} WHERE r < 0"}},
        ),
        "column_mapping": {"r": {"null_check": {"equal_to": 0}, "min": {"geq_to": 0}}},
        "checks": {"r": {"check_statement": "R >= 0"}, "n": {"check_statement": "n >= 0"}},
    }
    measures = DataValidationOperator(task_id="t", table="ml.measures", conn_id="warehouse", **rules)
    assert run_task(measures).summary["by_status"] == {"pass": 10, "fail": 0, "skip": 0, "error": 0}
    database.execute("INSERT INTO ml.measures VALUES ('NaN', 1)")
    assert run_task(measures).summary["by_status"] == {"pass": 3, "fail": 0, "skip": 0, "error": 7}
    of_type = expect("column_values_to_be_of_type", column="r", type_="X")
    typed = DataValidationOperator(task_id="t", table="ml.measures", conn_id="warehouse", suite=suite(of_type))
    assert run_task(typed).summary["by_status"]["error"] == 0, "whatever it holds, it has a type"


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b"),
        expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b", ignore_row_if="neither"),
        expect("multicolumn_sum_to_equal", column_list=["a", "b"], sum_total=3),
        expect("compound_columns_to_be_unique", column_list=["a", "b"]),
    ],
    ids=lambda expectation: str(expectation["type"]),
)
def test_a_null_beside_a_value_lets_no_rule_hold(database: Any, run_task: RunTask, expectation: dict[str, Any]) -> None:
    database.execute("CREATE TABLE ml.pairs (a integer, b integer); INSERT INTO ml.pairs VALUES (2, 1)")
    pairs = DataValidationOperator(task_id="t", table="ml.pairs", conn_id="warehouse", suite=suite(expectation))
    assert run_task(pairs).state == "success"
    database.execute("UPDATE ml.pairs SET b = NULL")
    assert run_task(pairs).summary["blocking_controls"] == ["expectations-run"]


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
