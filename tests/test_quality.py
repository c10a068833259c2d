"""Quality: data is held against expectations, every way of not knowing fails, and no value of the data gets out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.checks.quality import Rules, load_suite, masked, validate_file, validate_frame
from airflow_pipesec.checks.tables import QUARANTINE_COLUMN
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Severity, Status, Subject
from airflow_pipesec.storage import LocalStore

CANARY = "hunter2-4711"
Expectation = dict[str, Any]


def expect(kind: str, severity: str = "critical", **kwargs: Any) -> Expectation:
    return {"type": f"expect_{kind}", "kwargs": kwargs, "severity": severity}


def rules(*expectations: Expectation) -> Rules:
    return Rules(suite={"name": "s", "expectations": list(expectations)})


def check(data: Mapping[str, Any] | pd.DataFrame, given_rules: Rules, **options: Any) -> list[Finding]:
    frame = data if isinstance(data, pd.DataFrame) else pd.DataFrame(data)
    return list(validate_frame(frame, given_rules, subject=Subject("rows"), **options))


def bad(findings: list[Finding]) -> Counter[tuple[str, str]]:
    assert findings, "silence"
    return Counter((f.control.id, f.status.value) for f in findings if f.status in (Status.FAIL, Status.ERROR))


POSITIVE = expect("column_values_to_be_between", column="a", min_value=0)


def test_good_data_passes_with_a_finding_for_each_expectation() -> None:
    findings = check({"a": [1, 2, 3]}, rules(POSITIVE, expect("column_values_to_not_be_null", column="a")))
    assert not bad(findings)
    assert [f.count for f in findings if f.control.id == "expectations-met"] == [3, 3]


def test_bad_rows_fail_with_counts() -> None:
    (failed,) = [f for f in check({"a": [1, -2, None, 4]}, rules(POSITIVE)) if f.status is Status.FAIL]
    assert failed.control.id == "expectations-met"
    assert "expect_column_values_to_be_between(a): 1 of 3 values unexpected, 1 missing" in failed.message


@pytest.mark.parametrize(
    ("theirs", "ours"), [("critical", Severity.CRITICAL), ("warning", Severity.LOW), ("info", Severity.INFO)]
)
def test_severities_are_mapped(theirs: str, ours: Severity) -> None:
    findings = check({"a": [-1]}, rules(POSITIVE | {"severity": theirs}))
    assert [f.level for f in findings if f.status is Status.FAIL] == [ours]


def test_no_rows_fail() -> None:
    assert bad(check({"a": []}, rules(POSITIVE))) == {("data-present", "fail"): 1}


def test_a_missing_column_fails_by_name_and_the_rest_is_still_run() -> None:
    findings = check({"b": [1]}, rules(POSITIVE, expect("column_values_to_be_between", column="b", min_value=5)))
    assert bad(findings) == {("columns-present", "fail"): 1, ("expectations-met", "fail"): 1}


def test_values_that_are_all_missing_are_no_pass() -> None:
    assert bad(check({"a": [None, np.nan]}, rules(POSITIVE))) == {("expectations-met", "fail"): 1}


def test_an_expectation_that_cannot_be_run_is_an_error_with_the_type_alone() -> None:
    findings = check({"a": [1, CANARY]}, rules(POSITIVE))
    assert bad(findings) == {("expectations-run", "error"): 1}
    assert any("could not be evaluated: TypeError" in f.message for f in findings)
    assert CANARY not in str(findings)


def test_aggregates_fail_without_telling_the_value() -> None:
    findings = check({"a": [1, 47114711]}, rules(expect("column_max_to_be_between", column="a", max_value=5)))
    assert bad(findings) == {("expectations-met", "fail"): 1}
    assert "47114711" not in str(findings)


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_max_to_be_between", column="a", max_value=5),
        expect("column_min_to_be_between", column="a", min_value=0),
        expect("column_sum_to_be_between", column="a", max_value=5),
        expect("column_mean_to_be_between", column="a", min_value=0),
        expect("column_distinct_values_to_be_in_set", column="a", value_set=[1]),
        expect("column_unique_value_count_to_be_between", column="a", max_value=5),
        expect("column_proportion_of_unique_values_to_be_between", column="a", max_value=1),
        expect("column_most_common_value_to_be_in_set", column="a", value_set=[1]),
        expect("column_kl_divergence_to_be_less_than", column="a", partition_object={"values": [1], "weights": [1]}, threshold=9),
    ],
    ids=lambda expectation: str(expectation["type"]),
)
@pytest.mark.parametrize("values", [[None, None], [np.nan, np.nan]])
def test_an_aggregate_over_no_value_is_no_pass(expectation: Expectation, values: list[Any]) -> None:
    frame = pd.DataFrame({"a": pd.Series(values, dtype="float64"), "b": [1, 1]})
    assert sum(bad(check(frame, rules(expectation))).values()) == 1
    assert not bad(check({"a": [1.0, None]}, rules(expectation))), "it holds where there is a value"


def test_an_aggregate_over_a_condition_that_no_row_meets_is_no_pass() -> None:
    condition = {"row_condition": 'b == "nobody"', "condition_parser": "pandas"}
    expectation = expect("column_distinct_values_to_be_in_set", column="a", value_set=[1], **condition)
    assert sum(bad(check({"a": [1], "b": ["x"]}, rules(expectation))).values()) == 1
    assert not bad(check({"a": [1], "b": ["nobody"]}, rules(expectation)))


def test_what_says_nothing_of_values_holds_without_any() -> None:
    nothing = pd.DataFrame({"a": pd.Series([None, None], dtype="float64")})
    of_type = expect("column_values_to_be_of_type", column="a", type_="float64")
    assert not bad(check(nothing, rules(of_type, expect("column_to_exist", column="a"))))


@pytest.mark.parametrize("kind", ["column_value_z_scores_to_be_less_than", "column_values_to_not_be_outliers"])
def test_one_infinite_value_does_not_switch_an_outlier_rule_off(kind: str) -> None:
    extra = {"threshold": 3, "double_sided": True} if "z_scores" in kind else {"method": "std", "multiplier": 3}
    outlier = [1.0, 2.0, 1.5] * 10 + [1e6]
    assert bad(check({"a": outlier}, rules(expect(kind, column="a", **extra)))) == {("expectations-met", "fail"): 1}
    found = bad(check({"a": [*outlier, float("inf")]}, rules(expect(kind, column="a", **extra))))
    assert found, "an outlier beside infinity"
    assert not bad(check({"a": [1.0, 2.0, 1.5] * 10}, rules(expect(kind, column="a", **extra))))


@pytest.mark.parametrize("values", [np.array([5, 3, 1], "uint32"), np.array([2**64 - 1, 3, 1], "uint64")])
def test_unsigned_numbers_do_not_wrap_round(values: Any) -> None:
    assert bad(check({"a": values}, rules(expect("column_values_to_be_increasing", column="a", strictly=True))))


def test_sums_do_not_wrap_round() -> None:
    total = expect("column_sum_to_be_between", column="a", min_value=0, max_value=10)
    assert bad(check({"a": [2**62] * 4}, rules(total))) == {("expectations-met", "fail"): 1}


def test_a_column_name_with_a_nul_fails() -> None:
    assert bad(check({"a\0": [1], "a": [-1]}, rules(POSITIVE))) == {("data-readable", "fail"): 1}


def test_a_frame_without_columns_fails() -> None:
    frame = pd.DataFrame(index=[1, 2])
    assert bad(check(frame, rules(expect("table_row_count_to_equal", value=2)))) == {("data-present", "fail"): 1}


def test_a_named_index_is_a_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": ["u", "v"], "a": [1, -1]}).set_index("user")
    check(frame, rules(POSITIVE), quarantine=LocalStore(tmp_path / "q.parquet"))
    assert pd.read_parquet(tmp_path / "q.parquet")["user"].tolist() == ["v"]


@pytest.mark.parametrize("names", [["a", "a"], [1, "1"]])
def test_a_column_name_given_twice_fails(names: list[Any]) -> None:
    frame = pd.DataFrame([[1, -1]], columns=names)
    assert bad(check(frame, rules(POSITIVE))) == {("data-readable", "fail"): 1}


def test_results_of_numpys_own_truth_are_understood() -> None:
    quantiles = {"quantiles": [0.5], "value_ranges": [[1, 3]]}
    expectation = expect("column_quantile_values_to_be_between", column="a", quantile_ranges=quantiles)
    assert not bad(check({"a": [1, 2, 3]}, rules(expectation)))


def test_equal_expectations_are_each_answered() -> None:
    findings = check({"a": [1]}, rules(POSITIVE, POSITIVE))
    assert sum(f.control.id == "expectations-met" for f in findings) == 2


@pytest.mark.parametrize("column", ["ünï cödé", "a b", "'; DROP TABLE x; --", "a\nb", "{batch}", "%s"])
def test_columns_of_any_name(column: str) -> None:
    expectation = expect("column_values_to_be_between", column=column, min_value=0)
    assert not bad(check({column: [1]}, rules(expectation)))
    assert bad(check({column: [-1]}, rules(expectation))) == {("expectations-met", "fail"): 1}


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e308 * 10])
def test_infinities_are_values(value: float) -> None:
    expectation = expect("column_values_to_be_between", column="a", min_value=0, max_value=1)
    assert bad(check({"a": [0.5, value]}, rules(expectation))) == {("expectations-met", "fail"): 1}


@pytest.mark.parametrize(
    "suite",
    [
        {"expectations": [{"type": "expect_table_row_count_to_be_between", "kwarg": {"min_value": 1000}}]},
        {"expectations": [expect("column_max_to_be_between", column="a") | {"max_value": 1}]},
        {"expectations": [POSITIVE | {"kwargs": None}]},
        {
            "expectations": [
                {"type": "expect_column_max_to_be_between", "kwargs": {"column": "a", "max_value": 1, "severity": "info"}}
            ]
        },
        {"expectations": [expect("column_max_to_be_between", column="a")]},
        {"expectations": [expect("table_row_count_to_be_between")]},
        {"expectations": [expect("column_values_to_not_be_null", column="a", mostly=0)]},
        {"expectations": [expect("column_distinct_values_to_contain_set", column="a", value_set=[])]},
        {},
        {"expectations": []},
        {"expectations": "expect_nothing"},
        {"expectations": [expect("nothing")]},
        {"expectations": [expect("column_to_exist", colum="a")]},
        {"expectations": [POSITIVE | {"severity": "huge"}]},
        {"expectations": [POSITIVE, "not an expectation"]},
        {"expectations": [{"kwargs": {}}]},
    ],
)
def test_a_suite_that_loses_a_rule_is_refused(suite: dict[str, Any]) -> None:
    # Great Expectations itself logs a rule it cannot make sense of, and goes on without it.
    with pytest.raises(ConfigurationError):
        check({"a": [1]}, Rules(suite=suite))


def test_expectation_objects_are_taken_alone_in_lists_and_as_suites() -> None:
    import great_expectations as gx
    from great_expectations import expectations as gxe

    one = gxe.ExpectColumnValuesToBeBetween(column="a", min_value=0, severity="warning")
    for given_expectations in (one, [one], gx.ExpectationSuite(name="x", expectations=[one])):
        (failed,) = [f for f in check({"a": [-1]}, Rules(expectations=given_expectations)) if f.status is Status.FAIL]
        assert failed.level is Severity.LOW
    for wrong in ([], "text", [1], {"type": "x"}):
        with pytest.raises(ConfigurationError):
            check({"a": [1]}, Rules(expectations=wrong))


# ---- what is kept of the data


def canary_findings(**options: Any) -> list[Finding]:
    expectations = (
        expect("column_values_to_be_in_set", column="s", value_set=["x"]),
        expect("column_values_to_be_between", column="s", min_value=0),
        expect("column_value_lengths_to_equal", column="s", value=1),
        expect("column_most_common_value_to_be_in_set", column="s", value_set=["z"]),
    )
    return check({"s": ["x", CANARY, "y"]}, rules(*expectations), **options)


def test_no_value_is_in_findings_logs_or_data_docs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    findings = canary_findings(data_docs_dir=str(tmp_path / "docs"), sample_unexpected=5)
    assert len(bad(findings)) == 2
    pages = [path for path in (tmp_path / "docs").rglob("*") if path.is_file()]
    assert any(path.name == "index.html" for path in pages)
    shown = "".join([str(findings), *capfd.readouterr(), caplog.text, *[p.read_text(errors="replace") for p in pages]])
    assert CANARY not in shown
    assert "expect_column_values_to_be_in_set" in shown


def test_a_sample_is_masked_and_only_given_when_asked_for() -> None:
    assert "masked sample" not in str(canary_findings())
    (shown,) = [f.message for f in canary_findings(sample_unexpected=1) if "masked sample" in f.message and "in_set" in f.message]
    assert shown.endswith("masked sample: str[12] aaaaaa9#9999")


@given(st.one_of(st.text(max_size=30), st.integers(), st.floats(), st.dates(), st.binary(max_size=9)))
def test_a_masked_value_holds_nothing_but_its_shape(value: Any) -> None:
    shape = masked(value).partition("] ")[2].rstrip("…")
    assert set(shape) <= set("Aa9#")
    assert len(shape) <= 12


@pytest.mark.parametrize("sample", [-1, True, 1.5, "3"])
def test_a_sample_size_that_is_no_number_is_refused(sample: Any) -> None:
    with pytest.raises(ConfigurationError, match="sample_unexpected"):
        check({"a": [1]}, rules(POSITIVE), sample_unexpected=sample)


# ---- quarantine


@settings(max_examples=15)
@given(st.lists(st.one_of(st.integers(-5, 5), st.none()), min_size=1, max_size=12), st.booleans())
def test_rows_in_are_rows_clean_and_rows_set_aside(tmp_path_factory: Any, values: list[int | None], repeated_index: bool) -> None:
    target = tmp_path_factory.mktemp("q") / "bad.parquet"
    frame = pd.DataFrame({"a": pd.Series(values, dtype="float64"), "row": range(len(values))})
    if repeated_index:
        frame.index = pd.Index([7] * len(frame))
    not_null = expect("column_values_to_not_be_null", column="a")
    findings = check(frame, rules(POSITIVE, not_null), quarantine=LocalStore(target))
    aside = pd.read_parquet(target)
    failing = [number for number, value in enumerate(values) if value is None or value < 0]
    assert aside["row"].tolist() == failing
    (account,) = [f for f in findings if f.control.id == "rows-accounted-for"]
    assert account.message.startswith(f"{len(values)} rows in = {len(values) - len(failing)} clean + {len(failing)} set aside")
    assert account.status is Status.PASS


def test_each_row_set_aside_says_which_expectations_it_failed(tmp_path: Path) -> None:
    not_two = expect("column_values_to_not_be_in_set", column="a", value_set=[-2])
    check({"a": [1, -1, -2]}, rules(POSITIVE, not_two), quarantine=LocalStore(tmp_path / "q.parquet"))
    reasons = pd.read_parquet(tmp_path / "q.parquet")[QUARANTINE_COLUMN].tolist()
    between, not_in = "expect_column_values_to_be_between(a)", "expect_column_values_to_not_be_in_set(a)"
    assert reasons == [between, f"{between}; {not_in}"]


def test_a_quarantine_of_an_earlier_run_does_not_outlive_a_clean_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "q.parquet")
    check({"a": [-1]}, rules(POSITIVE), quarantine=store)
    check({"a": [1]}, rules(POSITIVE), quarantine=store)
    assert len(pd.read_parquet(store.path)) == 0


def test_columns_of_mixed_types_can_be_set_aside(tmp_path: Path) -> None:
    in_set = expect("column_values_to_be_in_set", column="a", value_set=[1])
    check({"a": [1, "x", 2.5, None, b"y"]}, rules(in_set), quarantine=LocalStore(tmp_path / "q.parquet"))
    assert pd.read_parquet(tmp_path / "q.parquet")["a"].tolist() == ["x", "2.5", "b'y'"]


@pytest.mark.parametrize("odd", [pd.NA, {}, {"x": {}}, [1, 2], np.array([1, 2]), object()])
def test_odd_values_are_set_aside_and_asked_about_without_an_exception(tmp_path: Path, odd: Any) -> None:
    frame = pd.DataFrame({"a": [-1, 1, 1], "z": pd.Series([odd, CANARY, None], dtype="object")})
    mapping = Rules(suite={"expectations": [POSITIVE]}, checks={"r": {"check_statement": "a IS NOT NULL"}})
    findings = check(frame, mapping, quarantine=LocalStore(tmp_path / "q.parquet"), data_docs_dir=str(tmp_path / "docs"))
    assert ("rows-accounted-for", "fail") not in bad(findings)
    assert CANARY not in str(findings)
    assert len(pd.read_parquet(tmp_path / "q.parquet")) == 1


def test_braces_in_sql_and_data_docs_get_along(tmp_path: Path) -> None:
    checks = {"r": {"check_statement": "s <> '{' AND s <> '{0}'"}}
    assert not bad(check({"s": ["x"]}, Rules(checks=checks), data_docs_dir=str(tmp_path / "docs")))


@pytest.mark.parametrize("folder", ["", "s3://bucket/docs"])
def test_data_docs_go_to_a_local_folder(folder: str) -> None:
    with pytest.raises(ConfigurationError, match="data_docs_dir"):
        check({"a": [1]}, rules(POSITIVE), data_docs_dir=folder)


def test_data_docs_do_not_say_success_where_a_column_is_missing(tmp_path: Path) -> None:
    check({"b": [1]}, rules(POSITIVE), data_docs_dir=str(tmp_path / "docs"))
    pages = "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html") if "validations" in str(page))
    assert "fa-times text-danger" in pages
    assert "fa-check-circle text-success" not in pages


def test_not_a_number_is_no_value_in_sql() -> None:
    import pyarrow as pa

    values = pd.arrays.ArrowExtensionArray(pa.array([1.0, float("nan")]))
    assert sql({"b": values}, column_mapping={"b": {"null_check": {"equal_to": 0}}}) == {("expectations-met", "fail"): 1}
    assert sql({"b": values}, checks={"r": {"check_statement": "b > 0"}}) == {("expectations-met", "fail"): 1}


def test_rows_are_not_accounted_for_when_an_expectation_could_not_be_run(tmp_path: Path) -> None:
    findings = check({"a": [1, "x"]}, rules(POSITIVE), quarantine=LocalStore(tmp_path / "q.parquet"))
    assert bad(findings) == {("expectations-run", "error"): 1, ("rows-accounted-for", "fail"): 1}


class Forgetful(LocalStore):
    """A store that keeps less than it was given."""

    def write(self, data: bytes, name: str = ".") -> None:
        import io

        buffer = io.BytesIO()
        pd.read_parquet(io.BytesIO(data)).iloc[1:].to_parquet(buffer)
        super().write(buffer.getvalue(), name)


def test_rows_that_the_storage_lost_are_not_accounted_for(tmp_path: Path) -> None:
    findings = check({"a": [1, -1, -2]}, rules(POSITIVE), quarantine=Forgetful(tmp_path / "q.parquet"))
    assert bad(findings) == {("expectations-met", "fail"): 1, ("rows-accounted-for", "fail"): 1}


def test_the_data_is_never_replaced_by_its_own_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"a": [-1, 1]}).to_parquet(path)
    (tmp_path / "other").symlink_to(tmp_path)
    before = path.read_bytes()
    for target in (path, tmp_path / "other/rows.parquet", tmp_path / "x/../rows.parquet"):
        with pytest.raises(ConfigurationError, match="would replace"):
            list(validate_file(LocalStore(path), rules(POSITIVE), quarantine=LocalStore(target)))
    assert path.read_bytes() == before


# ---- files


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.jsonl", "ROWS.CSV"])
def test_each_format_is_read_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    path, frame = tmp_path / name, pd.DataFrame({"a": [1, -1], "s": ["x", "ü,\n"]})
    if name.endswith("parquet"):
        frame.to_parquet(path)
    elif name.endswith("jsonl"):
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False)
    before = path.read_bytes()
    findings = list(validate_file(LocalStore(path), rules(POSITIVE), quarantine=LocalStore(tmp_path / "q.parquet")))
    assert bad(findings) == {("expectations-met", "fail"): 1}
    assert path.read_bytes() == before
    assert pd.read_parquet(tmp_path / "q.parquet")["s"].tolist() == ["ü,\n"]


def file_findings(path: Path) -> Counter[tuple[str, str]]:
    findings = list(validate_file(LocalStore(path), rules(POSITIVE)))
    assert CANARY not in str(findings)
    return bad(findings)


@pytest.mark.parametrize(
    ("name", "content", "control"),
    [
        ("a.csv", b"", "data-present"),
        ("a.csv", b"a\n", "data-present"),
        ("a.csv", b'a,b\n1,2\n"' + CANARY.encode(), "data-readable"),
        ("a.csv", b"a,b\n1,2,3," + CANARY.encode() + b"\n", "data-readable"),
        ("a.csv", b"a\n\xff\xfe" + CANARY.encode(), "data-readable"),
        ("a.csv", b"a,b\n0,-1,7\n1,-1,7\n", "data-readable"),
        ("a.csv", b"a,b\n-1,5,\n-1,5,\n", "data-readable"),
        ("a.csv", b"a,b,a\n1,2,-1\n", "data-readable"),
        ("a.parquet", b"PAR1" + CANARY.encode(), "data-readable"),
        ("a.parquet", b"", "data-readable"),
        ("a.jsonl", b'{"a": 1}\n{"a": ' + CANARY.encode(), "data-readable"),
        ("a.jsonl", b"", "data-present"),
        ("a.jsonl", b'{"a": 1, "note": "x\n{\\"a\\": -5}\ny"}\n', "data-readable"),
        ("a.jsonl", b'{"a": 1},{"a": 2}\n', "data-readable"),
        ("a.jsonl", b'{"a": -1, "a": 1}\n', "data-readable"),
        ("a.jsonl", b'{"a": NaN}\n', "data-readable"),
        ("a.jsonl", b'{"a": 1, "s": "\\ud800"}\n', "data-readable"),
        ("a.json", b'[{"a": 1}]\n', "data-readable"),
        ("a.csv", b"a,b\n1,2\n3\n", "data-readable"),
        ("a.csv", b"a, a\n1,-1\n", "data-readable"),
    ],
)
def test_a_file_that_holds_no_table_fails(tmp_path: Path, name: str, content: bytes, control: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert file_findings(tmp_path / name) == {(control, "fail"): 1}


@pytest.mark.parametrize("lines", ["1\n", "1,2,3\n", "1,2\n" * 300_000 + "1\n"])
def test_a_row_of_another_width_is_named_as_the_reason(tmp_path: Path, lines: str) -> None:
    (tmp_path / "a.csv").write_text("a,b\n" + lines)
    (finding,) = validate_file(LocalStore(tmp_path / "a.csv"), rules(POSITIVE))
    assert finding.message == "cannot be read: a row has more or fewer fields than the header"


def test_a_missing_file_a_folder_a_link_and_a_pipe_fail(tmp_path: Path) -> None:
    assert file_findings(tmp_path / "nowhere.csv") == {("data-present", "fail"): 1}
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "folder.csv/x").touch()
    (tmp_path / "link.csv").symlink_to("folder.csv/x")
    os.mkfifo(tmp_path / "pipe.csv")
    for name in ("folder.csv", "link.csv", "pipe.csv"):
        assert file_findings(tmp_path / name) == {("data-readable", "fail"): 1}


def test_an_unknown_extension_is_the_authors_mistake(tmp_path: Path) -> None:
    (tmp_path / "rows.csv.gz").write_bytes(b"x")
    with pytest.raises(ConfigurationError, match=r"\.gz"):
        list(validate_file(LocalStore(tmp_path / "rows.csv.gz"), rules(POSITIVE)))


def test_a_key_given_twice_in_a_suite_is_the_authors_mistake(tmp_path: Path) -> None:
    (tmp_path / "suite.json").write_text('{"expectations": [1], "expectations": []}')
    with pytest.raises(ConfigurationError, match=r"suite\.json"):
        load_suite(LocalStore(tmp_path / "suite.json"))


def test_large_integers_beside_missing_ones_are_exact(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 9007199254740993}\n{"x": 1}\n')
    in_set = rules(expect("column_values_to_be_in_set", column="id", value_set=[9007199254740992]))
    assert bad(list(validate_file(LocalStore(tmp_path / "a.jsonl"), in_set))) == {("expectations-met", "fail"): 1}


def test_a_parquet_files_own_metadata_hides_no_column(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1, 2, 3], "evil": [-1, -5, 3]}).set_index("evil")
    frame.to_parquet(tmp_path / "a.parquet")
    exactly = rules(expect("table_columns_to_match_set", column_set=["a"], exact_match=True))
    assert bad(list(validate_file(LocalStore(tmp_path / "a.parquet"), exactly))) == {("expectations-met", "fail"): 1}


def test_the_suite_is_never_replaced_by_the_quarantine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from airflow_pipesec.cli import main

    (tmp_path / "a.csv").write_text("a\n-1\n")
    (tmp_path / "s.json").write_text(json.dumps({"expectations": [POSITIVE]}))
    assert main(["validate", f"{tmp_path}/a.csv", "--suite", f"{tmp_path}/s.json", "--quarantine", f"{tmp_path}/s.json"]) == 2
    assert json.loads((tmp_path / "s.json").read_text())
    assert "would replace" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"[]", b"{"])
def test_a_suite_file_that_is_none_is_the_authors_mistake(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "suite.json").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"suite\.json"):
        load_suite(LocalStore(tmp_path / "suite.json"))


def test_a_quarantine_that_cannot_be_written_is_trouble_and_no_pass(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").mkdir()
    with pytest.raises(StorageError):
        check({"a": [-1]}, rules(POSITIVE), quarantine=LocalStore(tmp_path / "q.parquet"))


# ---- SQL rules, in the shapes of common.sql


def sql(data: Mapping[str, Any], **mappings: Any) -> Counter[tuple[str, str]]:
    return bad(check(data, Rules(**mappings)))


@pytest.mark.parametrize(
    ("bounds", "holds"),
    [
        ({"null_check": {"equal_to": 1}}, True),
        ({"null_check": {"equal_to": 0}}, False),
        ({"null_check": {"equal_to": 0, "partition_clause": "s = 'x'"}}, True),
        ({"distinct_check": {"geq_to": 2}, "unique_check": {"equal_to": 1}}, True),
        ({"unique_check": {"equal_to": 0}}, False),
        ({"min": {"greater_than": 0, "leq_to": 1}}, True),
        ({"max": {"less_than": 3}}, False),
        ({"max": {"equal_to": 3.3, "tolerance": 0.1}}, True),
        ({"max": {"equal_to": 3.5, "tolerance": 0.1}}, False),
        ({"min": {"equal_to": 1, "partition_clause": "s = 'nobody'"}}, False),
    ],
)
def test_column_checks(bounds: dict[str, Any], holds: bool) -> None:
    found = sql({"a": [1, 3, 3, None], "s": ["x", "x", "y", "y"]}, column_mapping={"a": bounds})
    assert found == ({} if holds else {("expectations-met", "fail"): 1})


@pytest.mark.parametrize(
    ("statement", "holds"),
    [("COUNT(*) = 3", True), ("COUNT(*) = 4", False), ("a > 0", True), ("a > 1", False), ("a IS NULL", False)],
)
def test_table_checks(statement: str, holds: bool) -> None:
    found = sql({"a": [1, 2, 3]}, checks={"rule": {"check_statement": statement}})
    assert found == ({} if holds else {("expectations-met", "fail"): 1})


def test_a_partition_of_no_rows_does_not_hold() -> None:
    assert sql({"a": [1]}, checks={"rule": {"check_statement": "a > 0"}}, partition_clause="a > 99")
    assert sql({"a": [1]}, column_mapping={"a": {"null_check": {"equal_to": 0}}}, partition_clause="a > 99")


@pytest.mark.parametrize("check_statement", ["a >= 0", "a > -1 AND a < 100"])
@pytest.mark.parametrize("values", [["10", "9", CANARY], [10, 9, CANARY], [CANARY, CANARY]])
def test_text_planted_among_numbers_does_not_satisfy_a_comparison(values: list[Any], check_statement: str) -> None:
    # SQLite holds that every text is greater than any number.
    assert sql({"a": values}, checks={"r": {"check_statement": check_statement}}) == {("expectations-run", "error"): 1}


@pytest.mark.parametrize("bounds", [{"min": {"geq_to": 10}}, {"min": {"geq_to": 0}}, {"max": {"geq_to": 0}}])
@pytest.mark.parametrize("values", [["10", "9"], [10, 9, CANARY], [10, "9"]])
def test_text_that_looks_like_numbers_has_no_order_beside_numbers(values: list[Any], bounds: dict[str, Any]) -> None:
    findings = check({"a": values}, Rules(column_mapping={"a": bounds}))
    assert bad(findings) == {("expectations-run", "error"): 1}
    assert any("a str has no order beside a int" in f.message for f in findings)


@pytest.mark.parametrize(("bound", "holds"), [("9", True), ("9.5", False), ("10", False), ("-1e3", True)])
def test_a_bound_that_a_template_made_text_is_a_number_beside_numbers(bound: str, holds: bool) -> None:
    found = sql({"a": [50, 9]}, column_mapping={"a": {"min": {"geq_to": bound}}})
    assert found == ({} if holds else {("expectations-met", "fail"): 1})


@pytest.mark.parametrize("bound", ["2026-01-02", date(2026, 1, 2), datetime(2026, 1, 2)])  # noqa: DTZ001 - the data has no zone
def test_dates_are_compared_as_dates(bound: Any) -> None:
    values = pd.to_datetime(["2026-01-02", "2026-03-01"])
    assert not sql({"a": values}, column_mapping={"a": {"min": {"geq_to": bound}}})
    assert sql({"a": values}, column_mapping={"a": {"min": {"greater_than": bound}}}) == {("expectations-met", "fail"): 1}


@pytest.mark.parametrize(("values", "bound"), [(["2026-06-01", "garbage"], date(2026, 3, 1)), (["9", "95"], "10")])
def test_text_has_no_order_beside_dates_and_text_that_is_a_number(values: list[str], bound: Any) -> None:
    assert sql({"a": values}, column_mapping={"a": {"min": {"geq_to": bound}}}) == {("expectations-run", "error"): 1}


@pytest.mark.parametrize("column", ["user", "current_date", "1", "true", "'zz'", "pipesec_data", '"nowhere"', "a; DROP TABLE x"])
def test_a_column_that_is_not_there_is_missing_whatever_sql_makes_of_its_name(column: str) -> None:
    rule = {column: {"null_check": {"equal_to": 0}, "min": {"geq_to": "a"}}}
    assert sql({"b": [1]}, column_mapping=rule) == {("columns-present", "fail"): 1}
    assert ("columns-present", "fail") not in sql({column: [None, 1]}, column_mapping={column: {"null_check": {"equal_to": 0}}})
    assert sql({column: [None, 1]}, column_mapping={column: {"null_check": {"equal_to": 0}}}), "it is the column, not a constant"


def test_columns_that_sql_cannot_tell_apart_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="differ only in case"):
        sql({"A": [1], "a": [-1]}, column_mapping={"a": {"min": {"geq_to": 0}}})


def test_sql_rules_reach_no_file(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a\n1\n")
    statement = f"(SELECT COUNT(*) FROM read_csv('{tmp_path}/x.csv')) = 1"  # noqa: S608 - what is tested
    assert sql({"a": [1]}, checks={"r": {"check_statement": statement}}) == {("expectations-run", "error"): 1}


def test_an_or_in_a_partition_stays_there() -> None:
    where = {"partition_clause": "a = 1 OR a = 2"}
    mapping = {"a": {"max": {"equal_to": 1, "partition_clause": "s = 'x'"}}}
    assert not sql({"a": [1, 2], "s": ["x", "y"]}, column_mapping=mapping, **where)


def test_text_with_quotes_and_braces_is_compared_as_text() -> None:
    value = "it's {batch} % {x}"
    assert not sql({"a": [value]}, column_mapping={"a": {"max": {"equal_to": value}}})


def test_sql_that_the_database_refuses_is_an_error() -> None:
    assert sql({"a": [1]}, checks={"rule": {"check_statement": "nonsense ("}}) == {("expectations-run", "error"): 1}


def test_counts_are_told_and_values_are_not() -> None:
    findings = check(
        {"a": [1, None, 4711]}, Rules(column_mapping={"a": {"null_check": {"equal_to": 0}, "max": {"less_than": 5}}})
    )
    messages = [f.message for f in findings if f.status is Status.FAIL]
    assert messages == [
        "null_check(a): does not hold (equal_to 0): the count is 1",
        "max(a): does not hold (less_than 5)",
    ]


@pytest.mark.parametrize(
    "mappings",
    [
        {"column_mapping": {"a": {}}},
        {"column_mapping": {"a": {"average": {"geq_to": 0}}}},
        {"column_mapping": {"a": {"min": {}}}},
        {"column_mapping": {"a": {"min": {"tolerance": 0.1}}}},
        {"column_mapping": {"a": {"min": {"atleast": 0, "geq_to": 0}}}},
        {"column_mapping": {"a": {"min": {"greater_than": 0, "geq_to": 0}}}},
        {"column_mapping": {"a": {"min": {"greater_than": 5, "less_than": 5}}}},
        {"column_mapping": {"a": {"min": {"geq_to": 5, "leq_to": 4}}}},
        {"column_mapping": {"a": {"min": {"equal_to": 5, "leq_to": 9}}}},
        {"column_mapping": {"a": {"min": {"geq_to": "x", "tolerance": 0.1}}}},
        {"column_mapping": {"a": {"min": {"geq_to": float("nan")}}}},
        {"column_mapping": {"a": {"min": {"geq_to": [1]}}}},
        {"column_mapping": {"a": {"min": {"geq_to": float("inf")}}}},
        {"column_mapping": {"a": {"min": {"geq_to": "nan"}}}},
        {"column_mapping": {"a": {"min": {"geq_to": Decimal("sNaN")}}}},
        {"column_mapping": {"a": {"min": {"geq_to": 0, "tolerance": Decimal("NaN")}}}},
        {"column_mapping": {"a": {"min": {"geq_to": 0, "partition_clause": "1=1; DROP TABLE x"}}}},
        {"column_mapping": "a"},
        {"checks": ["a > 0"]},
        {"checks": {"rule": {"check_statement": "1; DROP TABLE x"}}},
        {"checks": {"rule": {}}},
        {"checks": {"rule": {"check_statement": "a > 0", "else": 1}}},
        {"checks": {"rule": "a > 0"}},
        {},
    ],
)
def test_mappings_that_common_sql_would_refuse_are_refused(mappings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        check({"a": [1]}, Rules(**mappings))


def test_a_huge_bound_is_a_bound() -> None:
    assert not sql({"a": [1]}, column_mapping={"a": {"max": {"less_than": 10**400}}})
    assert sql({"a": [1]}, column_mapping={"a": {"max": {"less_than": 10**400, "tolerance": 0.1}}}) == {
        ("expectations-run", "error"): 1
    }


numbers = st.integers(-20, 20)


@settings(max_examples=25)
@given(
    st.lists(st.one_of(numbers, st.none()), min_size=1, max_size=6).filter(lambda v: any(x is not None for x in v)),
    st.sampled_from(["null_check", "distinct_check", "unique_check", "min", "max"]),
    st.sampled_from([("equal_to",), ("geq_to",), ("greater_than",), ("leq_to",), ("less_than",)]),
    numbers,
    st.sampled_from([None, 0.1, 0.5]),
)
def test_column_checks_agree_with_common_sql(
    tmp_path_factory: Any, values: list[int | None], kind: str, comparison: tuple[str], bound: int, tolerance: float | None
) -> None:
    from airflow.providers.common.sql.operators.sql import SQLColumnCheckOperator

    bounds = {comparison[0]: bound} | ({} if tolerance is None else {"tolerance": tolerance})
    present = [value for value in values if value is not None]
    results = {
        "null_check": len(values) - len(present),
        "distinct_check": len(set(present)),
        "unique_check": len(present) - len(set(present)),
        "min": min(present),
        "max": max(present),
    }
    peer = SQLColumnCheckOperator(task_id="t", table="t", column_mapping={"a": {kind: bounds}}, conn_id="unused")
    expected = peer._get_match(bounds, results[kind], tolerance)
    assert (not sql({"a": values}, column_mapping={"a": {kind: bounds}})) == expected


# ---- no network


def test_a_validation_needs_no_network(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a\n1\n2\n")
    (tmp_path / "suite.json").write_text(json.dumps({"expectations": [POSITIVE]}))
    program = """
import socket, sys
tried = []
def refuse(*a, **k):
    tried.append(a); raise OSError("no network here")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = socket.create_connection = refuse
from airflow_pipesec.cli import main
code = main(["validate", sys.argv[1], "--suite", sys.argv[2]])
import atexit, threading, time
time.sleep(0.5)
print("TOKEN", code, tried)
"""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GX_")}
    command = [sys.executable, "-c", program, str(tmp_path / "rows.csv"), str(tmp_path / "suite.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert "TOKEN 0 []" in done.stdout, done.stdout + done.stderr
