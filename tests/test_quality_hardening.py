"""Quality, against data made to slip through: what an engine or a database would let pass by ways of its own does not pass."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from airflow_pipesec.checks.quality import Database, Rules, masked, validate_file, validate_frame, validate_table
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.storage import LocalStore
from tests.test_quality import CANARY, POSITIVE, Expectation, bad, check, expect, rules, sql

MET, RUN = ("expectations-met", "fail"), ("expectations-run", "error")
NOT_NULL = expect("column_values_to_not_be_null", column="a")


def arrow(values: Any) -> pd.Series[Any]:
    return pd.Series(pd.arrays.ArrowExtensionArray(values if isinstance(values, pa.Array) else pa.array(values)))


# ---- frames


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint64", "int64"])
def test_types_are_those_of_the_data_and_not_of_what_is_computed_with(dtype: str) -> None:
    values = pd.Series([1, 2], dtype=dtype)
    of_type = [
        expect("column_values_to_be_of_type", column="a", type_=dtype),
        expect("column_values_to_be_in_type_list", column="a", type_list=[dtype]),
    ]
    assert not bad(check({"a": values}, rules(*of_type)))
    other = "int64" if dtype != "int64" else "int32"
    assert bad(check({"a": values}, rules(expect("column_values_to_be_of_type", column="a", type_=other)))) == {MET: 1}


def test_a_columns_type_and_order_are_known_without_a_value() -> None:
    nothing = pd.DataFrame({"a": pd.Series([None, None], dtype="float64"), "b": [1, 2]})
    of_type = expect("column_type_to_be", column="a", type_="float64")
    ordered = expect("table_columns_to_match_ordered_list", column_list=["a", "b"])
    assert not bad(check(nothing, rules(of_type, ordered)))
    backwards = expect("table_columns_to_match_ordered_list", column_list=["b", "a"])
    assert bad(check(nothing, rules(backwards))) == {MET: 1}


@pytest.mark.parametrize(
    "values",
    [
        pd.array([2**62] * 4, dtype="Int64"),
        arrow([2**62] * 4),
        pd.Categorical([2**62] * 4),
        pd.arrays.SparseArray([2**62] * 4),
        pd.array([2**62, 2**62, 2**62, 2**62, None], dtype="Int64"),
    ],
    ids=["Int64", "arrow", "categories", "sparse", "missing"],
)
def test_sums_of_no_kind_of_integer_wrap_round(values: Any) -> None:
    total = expect("column_sum_to_be_between", column="a", min_value=0, max_value=10)
    assert bad(check({"a": values}, rules(total))) == {MET: 1}


@pytest.mark.parametrize("dtype", ["UInt8", "UInt32", "UInt64", "uint8[pyarrow]"])
def test_unsigned_numbers_of_no_kind_wrap_round(dtype: str) -> None:
    increasing = expect("column_values_to_be_increasing", column="a")
    assert bad(check({"a": pd.array([5, 3, 1], dtype=dtype)}, rules(increasing))) == {MET: 1}
    assert not bad(check({"a": pd.array([1, 3, 5], dtype=dtype)}, rules(increasing)))


def test_a_sum_along_a_row_does_not_wrap_round() -> None:
    names = list("abcdefgh")
    row = {name: [2**61] for name in names}
    assert bad(check(row, rules(expect("multicolumn_sum_to_equal", column_list=names, sum_total=0)))) == {MET: 1}
    assert not bad(check(row, rules(expect("multicolumn_sum_to_equal", column_list=names, sum_total=2**64))))


def test_large_integers_beside_missing_ones_are_exact_in_every_type() -> None:
    in_set = rules(expect("column_values_to_be_in_set", column="a", value_set=[9007199254740992]))
    for values in (pd.array([9007199254740993, None], dtype="Int64"), pd.Categorical([9007199254740993, None])):
        assert bad(check({"a": values}, in_set)) == {MET: 1}


@pytest.mark.parametrize(
    "values",
    [
        arrow([1.0, float("nan")]),
        arrow(pa.array([1.0, float("nan")], pa.float32())),
        arrow(pa.array([1.0, float("nan")]).dictionary_encode()),
        arrow(pa.RunEndEncodedArray.from_arrays(pa.array([1, 2], pa.int32()), pa.array([1.0, float("nan")]))),
        arrow(pa.array([np.float16(1), np.float16("nan")], pa.float16())),
    ],
    ids=["double", "float", "dictionary", "run-end", "half"],
)
def test_not_a_number_is_missing_in_every_type(values: Any) -> None:
    assert bad(check({"a": values}, rules(NOT_NULL))) == {MET: 1}
    assert sql({"a": values}, column_mapping={"a": {"null_check": {"equal_to": 0}}}) == {MET: 1}
    assert sql({"a": values}, checks={"r": {"check_statement": "a > 0"}}) == {MET: 1}
    nothing = values.iloc[[1]] if values.dtype.pyarrow_dtype.id != pa.types.lib.Type_RUN_END_ENCODED else None
    if nothing is not None:
        assert bad(check({"a": nothing}, rules(expect("column_max_to_be_between", column="a", max_value=5)))) == {MET: 1}


@pytest.mark.parametrize("ordered", [True, False])
def test_categories_stand_in_the_order_of_their_values(ordered: bool) -> None:
    values = pd.Categorical([20, -5], categories=[20, -5], ordered=ordered)
    assert bad(check({"a": values}, rules(POSITIVE, expect("column_min_to_be_between", column="a", min_value=0)))) == {MET: 2}
    assert bad(check({"a": values}, rules(expect("column_max_to_be_between", column="a", max_value=0)))) == {MET: 1}


ODD_ARROW = {
    "float16": pa.array([np.float16(1), None], pa.float16()),
    "list<float16>": pa.array([[np.float16(1)], None], pa.list_(pa.float16())),
    "decimal256": pa.array([Decimal("1." + "1" * 50), None], pa.decimal256(60, 50)),
    "string_view": pa.array([CANARY, "b"], pa.string_view()),
    "binary_view": pa.array([b"a", b"b"], pa.binary_view()),
    "run_end": pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1.0])),
    "month_day_nano": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "list_view": pa.array([[1], [2]], pa.list_view(pa.int64())),
}


@pytest.mark.parametrize("kind", ODD_ARROW)
def test_a_column_of_a_rare_type_keeps_no_rule_from_being_asked_and_no_row_from_being_set_aside(
    tmp_path: Path, kind: str
) -> None:
    frame = pd.DataFrame({"a": [-1, 2], "z": arrow(ODD_ARROW[kind])})
    both = Rules(suite={"expectations": [POSITIVE]}, checks={"r": {"check_statement": "a > -5"}})
    assert bad(check(frame, both, quarantine=LocalStore(tmp_path / "q.parquet"))) == {MET: 1}
    assert pd.read_parquet(tmp_path / "q.parquet")["a"].tolist() == [-1]


def test_decimals_too_long_for_sql_are_no_numbers_there() -> None:
    values = [Decimal("1e50"), Decimal("1.1")]
    assert sql({"z": values}, column_mapping={"z": {"null_check": {"equal_to": 0}}}) == {}
    assert sql({"z": values}, column_mapping={"z": {"min": {"geq_to": 0}}}) == {RUN: 1}


def test_sql_that_cannot_be_asked_at_all_is_an_error_for_each_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    import duckdb

    def refuse(*_: Any, **__: Any) -> None:
        raise duckdb.IOException(CANARY)

    monkeypatch.setattr(duckdb, "connect", refuse)
    given = Rules(
        suite={"expectations": [POSITIVE]},
        checks={"r": {"check_statement": "a > 0"}},
        column_mapping={"a": {"min": {"geq_to": 0}}},
    )
    findings = check({"a": [1]}, given)
    assert bad(findings) == {RUN: 2}
    assert CANARY not in str(findings)


# ---- rules


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_values_to_match_regex", column="a"),
        expect("column_values_to_match_regex", column="a", regex=""),
        expect("column_values_to_match_regex_list", column="a", regex_list=["x", ""]),
        expect("column_values_to_not_be_in_set", column="a", value_set=[]),
        expect("column_values_to_not_be_in_set", column="a", value_set=set()),
        expect("table_columns_to_match_set", column_set=[], exact_match=False),
        expect("table_columns_to_match_set", column_set=set(), exact_match=False),
        expect("column_kl_divergence_to_be_less_than", column="a", partition_object=None, threshold=1),
        expect(
            "column_quantile_values_to_be_between",
            column="a",
            quantile_ranges={"quantiles": [0.5], "value_ranges": [[None, None]]},
        ),
        expect("column_quantile_values_to_be_between", column="a", quantile_ranges={"quantiles": [], "value_ranges": []}),
        expect("column_values_to_be_between", column="a", min_value=float("-inf")),
        expect("column_max_to_be_between", column="a", max_value=float("inf")),
        expect("column_min_to_be_between", column="a", min_value=float("-inf"), max_value=float("inf")),
    ],
    ids=lambda expectation: str(expectation["kwargs"])[:60],
)
def test_a_rule_that_asserts_nothing_is_refused(expectation: Expectation) -> None:
    with pytest.raises(ConfigurationError, match="asserts nothing"):
        check({"a": [1]}, rules(expectation))


@pytest.mark.parametrize(
    "expectation",
    [
        expect("column_values_to_be_between", column="a", min_value=float("-inf"), strict_min=True),
        expect("column_values_to_be_between", column="a", min_value=float("-inf"), max_value=5),
        expect("table_columns_to_match_set", column_set=["a"], exact_match=False),
        expect(
            "column_quantile_values_to_be_between", column="a", quantile_ranges={"quantiles": [0.5], "value_ranges": [[None, 5]]}
        ),
    ],
    ids=lambda expectation: str(expectation["kwargs"])[:60],
)
def test_a_rule_open_on_one_side_asserts_something(expectation: Expectation) -> None:
    assert not bad(check({"a": [1.0]}, rules(expectation)))


def test_a_rule_that_breaks_off_takes_no_other_with_it() -> None:
    broken = expect("column_values_to_be_between", column="a", max_value={"$PARAMETER": "x"})
    assert bad(check({"a": [1, -1]}, rules(POSITIVE, broken, NOT_NULL))) == {MET: 1, RUN: 1}


def test_parameters_that_nobody_fills_in_are_the_authors_mistake() -> None:
    import great_expectations as gx
    from great_expectations import expectations as gxe

    with pytest.raises(ConfigurationError, match="mostly"):
        check({"a": [1]}, rules(POSITIVE | {"kwargs": {"column": "a", "min_value": 0, "mostly": {"$PARAMETER": "x"}}}))
    with pytest.raises(ConfigurationError, match="suite_parameters"):
        check({"a": [1]}, Rules(suite={"suite_parameters": {"x": 0}, "expectations": [POSITIVE]}))
    suite = gx.ExpectationSuite(name="s", suite_parameters={"x": 0})
    suite.expectations.append(gxe.ExpectColumnToExist(column="a"))
    with pytest.raises(ConfigurationError, match="suite_parameters"):
        check({"a": [1]}, Rules(expectations=suite))
    assert not bad(check({"a": [1]}, Rules(suite={"suite_parameters": {}, "expectations": [POSITIVE]})))


def test_a_partition_of_no_rule_is_the_authors_mistake() -> None:
    with pytest.raises(ConfigurationError, match="partition_clause"):
        check({"a": [1]}, Rules(suite={"expectations": [POSITIVE]}, partition_clause="a > 0"))


# ---- expectations of somebody's own


def own(**outcome: Any) -> Rules:
    from great_expectations.expectations.expectation import BatchExpectation

    class ExpectWhatever(BatchExpectation):
        metric_dependencies = ("table.row_count",)

        def _validate(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {"result": {}, **outcome}

    return Rules(expectations=[ExpectWhatever()])


@pytest.mark.parametrize("success", ["False", "True", 1, None])
def test_only_a_truth_value_says_that_a_rule_holds(success: Any) -> None:
    assert bad(check({"a": [1]}, own(success=success))) == {RUN: 1}
    assert not bad(check({"a": [1]}, own(success=np.True_)))


@pytest.mark.parametrize("count", [CANARY, float("nan"), float("inf"), 10**400])
def test_counts_that_are_none_are_not_told(tmp_path: Path, count: Any) -> None:
    given = own(success=False, result={"element_count": count})
    findings = check({"a": [1]}, given, data_docs_dir=str(tmp_path / "docs"))
    assert bad(findings) == {MET: 1}
    assert CANARY not in str(findings) + "".join(page.read_text() for page in (tmp_path / "docs").rglob("*.html"))


@pytest.mark.parametrize("positions", [[77, -1], [0], [0, 0], [0, 1, 2], [-1, 0]])
def test_positions_that_do_not_fit_the_count_or_the_data_account_for_no_row(tmp_path: Path, positions: list[int]) -> None:
    given = own(success=False, result={"unexpected_index_list": positions, "unexpected_count": 2, "element_count": 3})
    findings = check({"a": [1, 2, 3]}, given, quarantine=LocalStore(tmp_path / "q.parquet"))
    assert bad(findings) == {MET: 1, ("rows-accounted-for", "fail"): 1}


@pytest.mark.parametrize("value", [True, False, np.True_])
def test_the_mask_of_a_truth_value_does_not_tell_it(value: Any) -> None:
    assert masked(value) == "bool"


def test_a_value_that_cannot_be_written_has_a_mask() -> None:
    class Evil:
        def __str__(self) -> str:
            raise ValueError(CANARY)

    assert masked(Evil()) == "Evil"
    assert masked(10**5000) == "int"


# ---- what was seen before an exception, and pages of an earlier run


def test_what_was_seen_before_an_exception_is_told(tmp_path: Path) -> None:
    (tmp_path / "q.parquet").mkdir()
    seen: list[Finding] = []
    quarantine = LocalStore(tmp_path / "q.parquet")
    found = validate_frame(pd.DataFrame({"a": [-1]}), rules(POSITIVE), subject=Subject("rows"), quarantine=quarantine)
    with pytest.raises(StorageError):
        seen.extend(found)
    assert bad(seen) == {MET: 1}


@pytest.mark.parametrize("then", [None, "", "a\n", "a,b\n1\n"])
def test_data_docs_of_a_good_run_do_not_outlive_a_run_without_data(tmp_path: Path, then: str | None) -> None:
    path, docs = tmp_path / "a.csv", tmp_path / "docs"
    path.write_text("a\n1\n")
    assert not bad(list(validate_file(LocalStore(path), rules(POSITIVE), data_docs_dir=str(docs))))
    path.unlink()
    if then is not None:
        path.write_text(then)
    assert bad(list(validate_file(LocalStore(path), rules(POSITIVE), data_docs_dir=str(docs))))
    (page,) = [page.read_text() for page in docs.rglob("*.html") if "validations" in str(page)]
    assert "fa-times text-danger" in page
    assert "fa-check-circle text-success" not in page


# ---- CSV


def of_csv(tmp_path: Path, content: str, *expectations: Expectation) -> Counter[tuple[str, str]]:
    (tmp_path / "a.csv").write_text(content)
    return bad(list(validate_file(LocalStore(tmp_path / "a.csv"), rules(*expectations))))


@pytest.mark.parametrize("content", ["a\n1e16\n1.5\n", "a,b\n98765432109876543.5,0.2\n12.5,0.1\n", "a\n1e300\n0.5\n"])
def test_large_floats_beside_fractions_are_read(tmp_path: Path, content: str) -> None:
    assert not of_csv(tmp_path, content, POSITIVE)
    assert of_csv(tmp_path, content, expect("column_values_to_be_between", column="a", max_value=1)) == {MET: 1}


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_long_cell_is_read_and_one_that_is_too_long_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    content = f"a,b\n1,{quote}{'x' * 3_000_000}{quote}\n"
    assert not of_csv(tmp_path, content, POSITIVE)
    monkeypatch.setattr("airflow_pipesec.checks.tables.MAX_CSV_ROW_BYTES", 1 << 20)
    (finding,) = validate_file(LocalStore(tmp_path / "a.csv"), rules(POSITIVE))
    assert finding.message == "cannot be read: a row is longer than 1 MB"


@pytest.mark.parametrize("content", ["a\n1\n\n2\n", "a\r\n1\r\n\r\n2\r\n", 'a\n1\n""\n2\n', "a\n1\n2\n\n"])
def test_a_blank_line_in_a_file_of_one_column_is_a_missing_value(tmp_path: Path, content: str) -> None:
    assert of_csv(tmp_path, content, NOT_NULL) == {MET: 1}
    assert not of_csv(tmp_path, content, expect("table_row_count_to_equal", value=3))


def test_a_blank_line_in_a_wider_file_is_no_row_and_before_the_only_name_is_refused(tmp_path: Path) -> None:
    assert not of_csv(tmp_path, "\na,b\n1,2\n\n3,4\n", NOT_NULL, expect("table_row_count_to_equal", value=2))
    assert of_csv(tmp_path, "\n\na\n1\n", NOT_NULL) == {("data-readable", "fail"): 1}


def test_names_that_may_be_cells_are_not_told(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{CANARY},{CANARY.upper()}\n1,2\n")
    with pytest.raises(ConfigurationError, match="2 columns differ only in case") as raised:
        list(validate_file(LocalStore(tmp_path / "a.csv"), Rules(checks={"r": {"check_statement": "1 = 1"}})))
    assert CANARY not in str(raised.value).lower()


def test_a_parquet_file_of_rare_types_answers_sql(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": pa.array([-1, 2]), "z": ODD_ARROW["float16"]}), tmp_path / "a.parquet")
    given = Rules(column_mapping={"z": {"min": {"geq_to": 0}, "null_check": {"equal_to": 0}}})
    assert bad(list(validate_file(LocalStore(tmp_path / "a.parquet"), given))) == {MET: 1}


# ---- SQLite


class Lake:
    """An SQLite database of one table, ``rows``, to be filled and then held against rules."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self.connection = path, connection

    def fill(self, columns: str, *rows: tuple[Any, ...]) -> None:
        self.connection.execute("DROP TABLE IF EXISTS rows")
        self.connection.execute(f"CREATE TABLE rows ({columns})")
        self.connection.executemany(f"INSERT INTO rows VALUES ({', '.join('?' * len(rows[0]))})", rows)  # noqa: S608 - a test's
        self.connection.commit()

    def findings(self, given: Rules, **options: Any) -> list[Finding]:
        return list(validate_table(Database(f"sqlite:///{self.path}"), "rows", given, **options))

    def bad(self, *expectations: Expectation, **mappings: Any) -> Counter[tuple[str, str]]:
        return bad(self.findings(Rules(suite={"expectations": list(expectations)} if expectations else None, **mappings)))


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    path = tmp_path / "lake.db"
    with closing(sqlite3.connect(path)) as connection:
        yield Lake(path, connection)


EVERY_KIND: dict[str, Any] = {
    "between": [POSITIVE],
    "min": [expect("column_min_to_be_between", column="a", min_value=0)],
    "sum": [expect("column_sum_to_be_between", column="a", min_value=0)],
    "mean": [expect("column_mean_to_be_between", column="a", min_value=0)],
    "of_type": [expect("column_values_to_be_of_type", column="a", type_="INTEGER")],
    "condition": [
        expect(
            "column_values_to_be_between",
            column="b",
            min_value=0,
            row_condition='col("a") < 10',
            condition_parser="great_expectations",
        )
    ],
    "query": [{"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": "SELECT * FROM {batch} WHERE a < 0"}}],
    "check": {"checks": {"r": {"check_statement": "a >= 0"}}},
    "quoted": {"checks": {"r": {"check_statement": '"A" >= 0'}}},
    "partition": {"column_mapping": {"b": {"min": {"geq_to": 0, "partition_clause": "a < 10"}}}},
    "column": {"column_mapping": {"a": {"max": {"leq_to": 10}}}},
}


@pytest.mark.parametrize("kind", EVERY_KIND)
@pytest.mark.parametrize("planted", [["planted"], [b"\x01"], [1, "planted"], [1, b"\x01"]], ids=str)
def test_text_planted_in_a_column_of_numbers_lets_no_rule_hold(lake: Lake, kind: str, planted: list[Any]) -> None:
    given = EVERY_KIND[kind]
    holds = given if isinstance(given, dict) else {"suite": {"expectations": given}}
    lake.fill("a INTEGER, b INTEGER", (1, 1), (2.5, 2), (None, 3))
    expected = {MET: 1} if kind in ("check", "quoted") else {}  # a NULL is not greater than 0
    assert bad(lake.findings(Rules(**holds))) == expected
    lake.fill("a INTEGER, b INTEGER", *[(value, 1) for value in planted])
    assert bad(lake.findings(Rules(**holds))) == {RUN: 1}


@pytest.mark.parametrize("declared", ["", "DATE", "TEXT"])
def test_text_is_no_number_in_a_column_of_any_type(lake: Lake, declared: str) -> None:
    lake.fill(f"a {declared}", ("2026-01-01",), ("x",))
    assert lake.bad(POSITIVE, expect("column_sum_to_be_between", column="a", min_value=0)) == {RUN: 2}
    assert not lake.bad(NOT_NULL, expect("column_value_lengths_to_be_between", column="a", max_value=10))


def test_a_mixed_column_spoils_only_the_rules_that_depend_on_it(lake: Lake) -> None:
    lake.fill("a INTEGER, b INTEGER", (1, 1), ("planted", 2))
    good = expect("column_values_to_be_between", column="b", min_value=0)
    count = expect("table_row_count_to_equal", value=2)
    assert not lake.bad(good, count, checks={"r": {"check_statement": "b >= 0"}})
    assert not lake.bad(checks={"r": {"check_statement": "a >= 0", "partition_clause": "b = 1"}}), "it is in no row asked about"


def test_text_is_greater_than_no_number_of_another_column(lake: Lake) -> None:
    greater = expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b")
    lake.fill("a TEXT, b INTEGER", ("planted", 1))
    assert lake.bad(greater) == {RUN: 1}
    lake.fill("a TEXT, b TEXT", ("y", "x"))
    assert not lake.bad(greater)


ABOUT_SEVERAL = [
    expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b"),
    expect("column_pair_values_a_to_be_greater_than_b", column_A="a", column_B="b", ignore_row_if="neither"),
    expect("multicolumn_sum_to_equal", column_list=["a", "b"], sum_total=5),
    expect("multicolumn_sum_to_equal", column_list=["a", "b"], sum_total=5, ignore_row_if="never"),
    expect("compound_columns_to_be_unique", column_list=["a", "b"]),
    expect("column_pair_values_to_be_in_set", column_A="a", column_B="b", value_pairs_set=[[3, 2]]),
]


@pytest.mark.parametrize("expectation", ABOUT_SEVERAL, ids=lambda e: f"{e['type']}-{e['kwargs'].get('ignore_row_if', '')}")
def test_a_null_beside_a_value_lets_no_rule_hold(lake: Lake, expectation: Expectation) -> None:
    lake.fill("a INTEGER, b INTEGER", (3, 2))
    assert not lake.bad(expectation)
    for rows in ([(3, None), (3, None)], [(3, 2), (None, 7)]):
        lake.fill("a INTEGER, b INTEGER", *rows)
        assert sum(lake.bad(expectation).values()) == 1
    lake.fill("a INTEGER, b INTEGER", (3, 2), (None, 7))
    pair = "column_A" in expectation["kwargs"]
    ignored = {"ignore_row_if": "either_value_is_missing" if pair else "any_value_is_missing"}
    assert not lake.bad(expectation | {"kwargs": expectation["kwargs"] | ignored}), "it is to be left out"
    lake.fill("a INTEGER, b INTEGER", (3, None), (None, 7))
    assert lake.bad(expectation | {"kwargs": expectation["kwargs"] | ignored}) == {MET: 1}, "no row is left"


def test_rows_without_any_value_and_those_that_mostly_tolerates_do_no_harm(lake: Lake) -> None:
    greater = ABOUT_SEVERAL[0]
    lake.fill("a INTEGER, b INTEGER", (3, 2), (None, None))
    assert not lake.bad(greater)
    lake.fill("a INTEGER, b INTEGER", *[(3, 2)] * 9, (3, None))
    assert lake.bad(greater) == {RUN: 1}
    assert not lake.bad(greater | {"kwargs": greater["kwargs"] | {"mostly": 0.9}})


@pytest.mark.parametrize(
    ("query", "known"),
    [
        ('SELECT * FROM {batch} WHERE "aeg" < 0', False),
        ('SELECT * FROM {batch} WHERE "a" < 0', True),
        ('SELECT "a" AS "x" FROM {batch} WHERE "x" < 0', True),
        ("SELECT * FROM {batch} WHERE s = '\"aeg\"'", True),
        ("SELECT * FROM {batch} WHERE s = 'it''s' AND \"aeg\" < 0", False),
    ],
)
def test_a_query_names_only_columns_that_are_there(lake: Lake, query: str, known: bool) -> None:
    lake.fill("a INTEGER, s TEXT", (1, "x"))
    rule = {"type": "unexpected_rows_expectation", "kwargs": {"unexpected_rows_query": query}}
    assert lake.bad(rule) == ({} if known else {RUN: 1})


@pytest.mark.parametrize(
    ("statement", "known"),
    [
        ('"rows"."n" > 0', True),
        ('"ROWS" . "N" > 0', True),
        ("s <> '\"q\"'", True),
        ('"n" > 0 -- "q"\n', True),
        ('"rows" >= 0', False),
        ('"other"."n" > 0', False),
        ('"q" >= 0', False),
        ('"odd""name" > 0', True),
    ],
)
def test_a_double_quoted_name_is_a_column_or_before_a_dot_the_table(lake: Lake, statement: str, known: bool) -> None:
    lake.fill('n INTEGER, s TEXT, "odd""name" INTEGER', (1, "x", 1))
    assert lake.bad(checks={"r": {"check_statement": statement}}) == ({} if known else {RUN: 1})


@pytest.mark.parametrize("url", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_a_database_that_is_not_there_is_not_made(tmp_path: Path, url: str) -> None:
    path, docs = tmp_path / "none.db", tmp_path / "docs"
    found = list(validate_table(Database(url.format(path)), "rows", rules(POSITIVE), data_docs_dir=str(docs)))
    assert bad(found) == {("data-present", "fail"): 1}
    assert not path.exists()
    assert any("fa-times text-danger" in page.read_text() for page in docs.rglob("*.html"))


def test_what_was_seen_of_a_table_before_an_exception_is_told(lake: Lake) -> None:
    lake.fill("a INTEGER", (-1,))
    seen: list[Finding] = []
    found = validate_table(Database(f"sqlite:///{lake.path}"), "rows", rules(POSITIVE), data_docs_dir="s3://bucket/docs")
    with pytest.raises(ConfigurationError):
        seen.extend(found)
    assert bad(seen) == {MET: 1}
    assert seen[0].status is Status.PASS
