"""Expectations: Great Expectations as an engine, with everything it would lose, print or send kept in hand.

A suite built from dictionaries drops what it does not understand, results come back out of order, log lines and tracebacks quote
the data, and a "$" in a password is taken for a variable. What is known of that lives here and nowhere else.
"""

from __future__ import annotations

import json
import logging
import math
import numbers
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_pipesec.checks.sql_rules import SqlRule, sql_rules
from airflow_pipesec.errors import ConfigurationError, ObjectMissing, place_of, unique_keys
from airflow_pipesec.findings import printable
from airflow_pipesec.storage import Store, os_errors

__all__ = [
    "Answer",
    "Rule",
    "Rules",
    "about_types",
    "build_rules",
    "count_in",
    "engine",
    "load_suite",
    "new_context",
    "of_numbers",
    "renamed",
    "run",
    "write_docs",
]

MAX_SUITE_BYTES = 16 << 20
_COLUMN_KEYS = ("column", "column_A", "column_B")
_ENTRY_KEYS = {"type", "kwargs", "meta", "severity", "id"}
_ENTRY_REMARKS = {"description", "notes", "rendered_content", "expectation_context"}
_ASSERTS = {
    "expect_column_distinct_values_to_contain_set": ("value_set",),
    "expect_column_kl_divergence_to_be_less_than": ("partition_object", "threshold"),
    "expect_column_values_to_be_in_type_list": ("type_list",),
    "expect_column_values_to_match_regex": ("regex",),
    "expect_column_values_to_not_be_in_set": ("value_set",),
    "expect_table_columns_to_match_ordered_list": ("column_list",),
}
# They measure against a standard deviation, and nothing is far from a value by one that is not finite.
_BY_DEVIATION = ("expect_column_value_z_scores_to_be_less_than", "expect_column_values_to_not_be_outliers")
_ABOUT_TYPES = ("expect_column_type_to_be", "expect_column_values_to_be_of_type", "expect_column_values_to_be_in_type_list")
# What these assert is true or false of a column without a single value.
_ABOUT_NO_VALUE = (
    *_ABOUT_TYPES,
    "expect_column_proportion_of_non_null_values_to_be_between",
    "expect_table_columns_to_match_ordered_list",
)
# What these compute makes sense of numbers alone, though SQLite computes it of anything.
_OF_NUMBERS = (
    *_BY_DEVIATION,
    "expect_column_mean_to_be_between",
    "expect_column_median_to_be_between",
    "expect_column_quantile_values_to_be_between",
    "expect_column_stdev_to_be_between",
    "expect_column_sum_to_be_between",
    "expect_multicolumn_sum_to_equal",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the data is held against; at least one rule must come out of it.

    ``suite`` is a suite in Great Expectations' JSON form, ``expectations`` are its objects (an expectation, a list of them, a
    suite), ``column_mapping``, ``checks`` and ``partition_clause`` are those of common.sql's check operators.
    """

    suite: Mapping[str, Any] | None = None
    expectations: Any = None
    column_mapping: Mapping[str, Any] | None = None
    checks: Mapping[str, Any] | None = None
    partition_clause: str | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule beside the name people know it by: an expectation object of Great Expectations, or a SQL rule."""

    label: str
    columns: tuple[str, ...]
    expectation: Any = None
    sql: SqlRule | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What evaluating a rule gave.

    ``holds`` is what the engine said. ``evidence`` is Great Expectations' own result, with counts and, where asked for, positions
    and values. ``error`` says why there is no answer. ``unexamined`` marks a rule that held only because there was no value.
    """

    rule: Rule
    holds: bool = False
    evidence: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    unexamined: bool = False


def load_suite(store: Store) -> Mapping[str, Any]:
    """Read a suite in JSON. Raises :class:`ConfigurationError` when there is none or it is not one."""
    try:
        suite = json.loads(store.read(limit=MAX_SUITE_BYTES), object_pairs_hook=unique_keys)
    except (ObjectMissing, ValueError, RecursionError) as error:
        why = type(error).__name__ + (f", line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "")
        raise ConfigurationError(
            f"suite {printable(store.url)} cannot be read ({why}). Give a Great Expectations suite in JSON."
        ) from None
    if not isinstance(suite, dict):
        raise ConfigurationError(f"suite {printable(store.url)} is not a JSON object. Give a Great Expectations suite.")
    return suite


@contextmanager
def engine() -> Iterator[None]:
    """Keep Great Expectations from telemetry, and its log lines and warnings, which quote the data, to ourselves.

    Whatever uses it imports it, within this: the import takes seconds, and rules in SQL can do without.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logger = logging.getLogger("great_expectations")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level, logger.propagate
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
        try:
            yield
        finally:
            logger.level, logger.propagate = before


def _great_expectations() -> Any:
    import great_expectations

    return great_expectations


def new_context() -> Any:
    """Make a context that lives in memory, for one validation, and draws no progress bars."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = _great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def build_rules(rules: Rules) -> list[Rule]:
    """Turn every kind of rule into expectation objects, losing none.

    A suite built from dictionaries logs an invalid expectation and goes on without it, so each is built here by itself.
    """
    built: list[Any] = []
    if _parameters_of(rules.suite) or _parameters_of(rules.expectations):
        raise ConfigurationError("the suite has suite_parameters, which are not filled in here. Write the values themselves.")
    if rules.suite is not None:
        entries = rules.suite.get("expectations") if isinstance(rules.suite, Mapping) else None
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ConfigurationError("the suite has no list of expectations. Give a Great Expectations suite in its JSON form.")
        from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

        for number, entry in enumerate(entries, 1):
            try:
                built.append(ExpectationConfiguration(**_entry(entry)).to_domain_obj())
            except ConfigurationError as error:
                raise ConfigurationError(f"expectation {number} of the suite {error}") from None
            except Exception as error:
                kind = printable(str(entry.get("type", "?"))) if isinstance(entry, Mapping) else "?"
                fields = sorted({str(part["loc"][0]) for part in getattr(error, "errors", list)() if part.get("loc")})
                about = f" about {', '.join(map(printable, fields))}" if fields else ""
                raise ConfigurationError(
                    f"expectation {number} of the suite ({kind}) is not valid: {type(error).__name__}{about}. "
                    "Check its type, its kwargs and its severity (critical, warning or info)."
                ) from None
    given = rules.expectations
    if given is not None:
        from great_expectations.expectations.expectation import Expectation

        items = getattr(given, "expectations", given)
        single = isinstance(items, Expectation | str | Mapping) or not isinstance(items, Iterable)  # expectations iterate, too
        for item in [items] if single else items:
            if not isinstance(item, Expectation):
                raise ConfigurationError(
                    f"configure_expectations gave a {type(item).__name__}. Return expectations, a list of them or a suite."
                )
            built.append(item)
    result = [_described(_asserting(expectation)) for expectation in built]
    for rule in sql_rules(rules.column_mapping, rules.checks, rules.partition_clause):
        result.append(Rule(rule.name, () if rule.column is None else (rule.column,), sql=rule))
    if not result:
        raise ConfigurationError("there are no rules. Give suite=, configure_expectations=, column_mapping= or checks=.")
    return result


def _parameters_of(suite: Any) -> Any:
    return suite.get("suite_parameters") if isinstance(suite, Mapping) else getattr(suite, "suite_parameters", None)


def _entry(entry: Any) -> dict[str, Any]:
    """Return what makes an expectation of a suite's entry, and refuse what would be lost on the way."""
    if not isinstance(entry, Mapping):
        raise ConfigurationError(f"is a {type(entry).__name__}. Give a mapping with type and kwargs.")
    if unknown := set(entry) - _ENTRY_KEYS - _ENTRY_REMARKS:
        names = ", ".join(sorted(printable(str(key)) for key in unknown))
        raise ConfigurationError(f"has unknown keys: {names}. Put parameters into kwargs.")
    fields = {key: value for key, value in entry.items() if key in _ENTRY_KEYS}
    kwargs = fields.get("kwargs", {})
    if not isinstance(kwargs, Mapping):
        raise ConfigurationError(f"has kwargs that are a {type(kwargs).__name__}. Give a mapping.")
    if "severity" in kwargs:
        raise ConfigurationError(
            "has its severity among the kwargs, where it would overrule the entry's own. Put it beside them."
        )
    return {**fields, "kwargs": dict(kwargs)}


def _asserting(expectation: Any) -> Any:
    """Return an expectation, unless it asserts nothing and would hold for any data."""
    configuration = expectation.configuration
    kind, kwargs = str(configuration.type), configuration.kwargs
    empty = [name for name in _ASSERTS.get(kind, ()) if _is_empty(kwargs.get(name))]
    subset = kind == "expect_table_columns_to_match_set" and not kwargs.get("exact_match", True)
    if subset and _is_empty(kwargs.get("column_set")):
        empty.append("column_set")
    if kind == "expect_column_values_to_match_regex_list" and "" in (kwargs.get("regex_list") or ()):
        empty.append("regex_list")
    if "quantile" in kind:
        ranges = kwargs.get("quantile_ranges")
        if isinstance(ranges, Mapping) and all(_is_open(*ends) for ends in ranges.get("value_ranges", [(0, 0)])):
            empty.append("quantile_ranges")
    elif kind.endswith("_to_be_between"):
        low, high = kwargs.get("min_value"), kwargs.get("max_value")
        strict = (low is not None and kwargs.get("strict_min")) or (high is not None and kwargs.get("strict_max"))
        if _is_open(low, high) and not strict:
            empty += ["min_value", "max_value"]
    mostly = kwargs.get("mostly")
    if mostly is not None and (isinstance(mostly, bool) or not isinstance(mostly, int | float)):
        raise ConfigurationError(f"{kind} has a {type(mostly).__name__} for mostly. Write a number such as 0.95.")
    if mostly is not None and not mostly > 0:
        empty.append("mostly")
    if empty:
        raise ConfigurationError(f"{kind} asserts nothing: {' and '.join(empty)} leave it open. Say what must hold.")
    return expectation


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Sized) and len(value) == 0)


def _is_open(low: Any, high: Any) -> bool:
    """Whether every value lies between two bounds, the ends included."""
    return (low is None or low == -math.inf) and (high is None or high == math.inf)


def about_types(rule: Rule) -> bool:
    """Whether a rule speaks of a column's type, which must not be changed before it is asked."""
    return rule.expectation is not None and rule.expectation.configuration.type in _ABOUT_TYPES


def of_numbers(rule: Rule) -> bool:
    """Whether a rule makes sense of numbers alone."""
    configuration = rule.expectation.configuration
    bounds = [configuration.kwargs.get(name) for name in ("min_value", "max_value")]
    by_number = configuration.type == "expect_column_values_to_be_between" and any(isinstance(b, numbers.Number) for b in bounds)
    return by_number or configuration.type in _OF_NUMBERS


def renamed(rule: Rule, names: Mapping[str, str]) -> Rule:
    """Return a rule with its columns called as the database calls them."""
    columns = tuple(names[column] for column in rule.columns)
    if rule.expectation is None or columns == rule.columns or rule.expectation.configuration.type.startswith("expect_table_"):
        return replace(rule, columns=columns)
    kwargs = rule.expectation.configuration.kwargs
    update: dict[str, Any] = {key: names[kwargs[key]] for key in _COLUMN_KEYS if isinstance(kwargs.get(key), str)}
    if kwargs.get("column_list"):
        update["column_list"] = [names.get(column, column) for column in kwargs["column_list"]]
    return replace(rule, columns=columns, expectation=rule.expectation.copy(update=update))


def _described(expectation: Any) -> Rule:
    configuration = expectation.configuration
    kwargs = configuration.kwargs
    columns = [kwargs[key] for key in _COLUMN_KEYS if isinstance(kwargs.get(key), str)]
    columns += [column for column in kwargs.get("column_list") or () if isinstance(column, str)]
    label = f"{configuration.type}({', '.join(columns)})" if columns else str(configuration.type)
    needed = () if configuration.type == "expect_column_to_exist" else tuple(columns)
    return Rule(label, needed, expectation)


def run(batch: Any, rules: Sequence[Rule], form: Mapping[str, Any], *, null_agrees: bool = False) -> Iterator[Answer]:
    """Evaluate expectations and answer each, in order.

    ``form`` is Great Expectations' result format. ``null_agrees`` says that a comparison with a missing value counts as met, as
    it does in SQL.
    """
    answers = [_answer(rule, result) for rule, result in zip(rules, _evaluate(batch, rules, form), strict=True)]
    # An aggregate tells no counts, and one over nothing may hold: an empty set lies within every other. So count.
    doubtful = [
        (number, Rule(answer.rule.label, (column,), _not_null(answer.rule, column)))
        for number, answer in enumerate(answers)
        if answer.holds and answer.evidence.get("element_count") is None and answer.rule.expectation is not None
        for column in answer.rule.columns
        if answer.rule.expectation.configuration.type not in _ABOUT_NO_VALUE
    ]
    counted = _evaluate(batch, [probe for _, probe in doubtful], {"result_format": "BASIC"})
    for (number, probe), result in zip(doubtful, counted, strict=True):
        count = _answer(probe, result)
        elements, nulls = (count.evidence.get(key) for key in ("element_count", "unexpected_count"))
        if count.error is not None or elements is None or nulls is None:
            answers[number] = replace(answers[number], holds=False, error=count.error or "its values could not be counted")
        elif elements <= nulls:
            answers[number] = replace(answers[number], unexamined=True)
    measured = [
        (number, Rule(answer.rule.label, answer.rule.columns, _finite_deviation(answer.rule)))
        for number, answer in enumerate(answers)
        if answer.holds and answer.rule.expectation.configuration.type in _BY_DEVIATION
    ]
    deviations = _evaluate(batch, [probe for _, probe in measured], {"result_format": "BASIC"})
    for (number, probe), result in zip(measured, deviations, strict=True):
        if not _answer(probe, result).holds:
            text = "the column's standard deviation is not finite"
            answers[number] = replace(answers[number], holds=False, error=text)
    yield from _without_nulls(batch, answers) if null_agrees else answers


def _without_nulls(batch: Any, answers: Sequence[Answer]) -> list[Answer]:
    """Take back the answers of rules about several columns that hold because a NULL is neither greater nor smaller than a value.

    How many rows lack one the rule itself tells, once it is asked to leave all of these out.
    """
    checked = list(answers)
    held = [
        (number, replace(answer.rule, expectation=_of_whole_rows(answer.rule.expectation)))
        for number, answer in enumerate(answers)
        if answer.holds and hasattr(answer.rule.expectation, "ignore_row_if")
    ]
    counted = _evaluate(batch, [probe for _, probe in held], {"result_format": "BASIC"})
    for (number, probe), result in zip(held, counted, strict=True):
        count, answer = _answer(probe, result), checked[number]
        elements, lacking = count_in(count, "element_count"), count_in(count, "missing_count")
        if count.error is not None or elements is None or lacking is None:
            checked[number] = replace(answer, holds=False, error=count.error or "its missing values could not be counted")
            continue
        passed_over, unexpected = (count_in(answer, key) or 0 for key in ("missing_count", "unexpected_count"))
        examined, doubtful = elements - passed_over, lacking - passed_over
        mostly = getattr(answer.rule.expectation, "mostly", None) or 1
        if doubtful > 0 and (examined - unexpected - doubtful) / examined < mostly:
            text = f"{doubtful:,} of {elements:,} rows lack a value, for which SQL lets the rule hold (see ignore_row_if)"
            checked[number] = replace(answer, holds=False, error=text)
    return checked


def _of_whole_rows(expectation: Any) -> Any:
    ignored = "either_value_is_missing" if hasattr(expectation, "column_A") else "any_value_is_missing"
    return expectation.copy(update={"ignore_row_if": ignored})


def count_in(answer: Answer, key: str) -> int | None:
    """Return a count of an answer's evidence; None for what is no number."""
    number = _finite(answer.evidence.get(key))
    return None if number is None else int(number)


def _finite(value: Any) -> float | None:
    # An expectation of somebody's own may put anything into its result.
    try:
        return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else None
    except OverflowError:
        return None


def _finite_deviation(rule: Rule) -> Any:
    between = _great_expectations().expectations.ExpectColumnStdevToBeBetween
    return between(column=rule.columns[0], min_value=0, max_value=sys.float_info.max, **_rows_of(rule))


def _rows_of(rule: Rule) -> dict[str, Any]:
    kwargs = rule.expectation.configuration.kwargs
    return {key: kwargs[key] for key in ("row_condition", "condition_parser") if kwargs.get(key) is not None}


def _not_null(rule: Rule, column: str) -> Any:
    return _great_expectations().expectations.ExpectColumnValuesToNotBeNull(column=column, **_rows_of(rule))


def _answer(rule: Rule, result: Any) -> Answer:
    import numpy as np

    if isinstance(result, str):
        return Answer(rule, error=result)
    if (raised := _exception_in(result.exception_info)) is not None:
        return Answer(rule, error=raised)
    if not isinstance(result.success, bool | np.bool_):
        return Answer(rule, error=f"its result is a {type(result.success).__name__}, which is neither true nor false")
    return Answer(rule, bool(result.success), result.result if isinstance(result.result, Mapping) else {})


def _evaluate(batch: Any, rules: Sequence[Rule], form: Mapping[str, Any]) -> list[Any]:
    """Return Great Expectations' result for each rule, or text saying why there is none."""
    if not rules:
        return []
    suite = _great_expectations().ExpectationSuite(name="pipesec")
    for number, rule in enumerate(rules):
        # Results come in an order of their own, and equal expectations are merged: the mark tells them apart.
        expectation = rule.expectation.copy()
        expectation.meta = {**(expectation.meta or {}), "pipesec": number}
        expectation.id = None
        suite.expectations.append(expectation)
    try:
        results = batch.validate(suite, result_format=dict(form)).results
        found = {result.expectation_config.meta["pipesec"]: result for result in results}
    except Exception as error:
        if len(rules) == 1:
            return [place_of(error)]
        # One rule can break all of them off, so ask each by itself.
        return [_evaluate(batch, [rule], form)[0] for rule in rules]
    return [found.get(number, "no result") for number in range(len(rules))]


def _exception_in(info: Any) -> str | None:
    """Return the type of the exception that an expectation's result carries; its message quotes the data."""
    if not info:
        return None
    # Either one flat record, or, where a metric could not be computed, one record for each metric.
    parts = list(info.values()) if "raised_exception" not in info else [info] if info["raised_exception"] else []
    for part in parts:
        lines = str((part or {}).get("exception_traceback") or "").strip().splitlines()
        # The innermost error of a chain stands first; later lines may be values that look like anything.
        for line in lines:
            kind = line.partition(":")[0]
            if not line.startswith(" ") and kind.replace(".", "").replace("_", "").isalnum() and kind[-5:] in ("Error", "ption"):
                return kind.rpartition(".")[2]
        return "an exception"
    return None


def write_docs(answers: Sequence[Answer], folder: str) -> None:
    """Write Great Expectations' Data Docs from results out of which every value has been taken."""
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    if not folder or "://" in folder:
        raise ConfigurationError(f"data_docs_dir={printable(folder)!r} is no local folder. Give the path of one.")
    results = [_shown(answer) for answer in answers]
    met = sum(item.success for item in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": met,
        "unsuccessful_expectations": len(results) - met,
        "success_percent": 100 * met / len(results) if results else None,
    }
    context = new_context()
    context.add_data_docs_site(
        site_name="pipesec",
        site_config={
            "class_name": "SiteBuilder",
            "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(Path(folder).absolute())},
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )
    suite = ExpectationSuiteIdentifier(name="pipesec")
    run_id = RunIdentifier(run_name="pipesec")
    key = ValidationResultIdentifier(expectation_suite_identifier=suite, run_id=run_id, batch_identifier="data")
    whole = ExpectationSuiteValidationResult(
        success=met == len(results),
        results=results,
        suite_name="pipesec",
        statistics=statistics,
        meta={"run_id": run_id, "great_expectations_version": _great_expectations().__version__},
    )
    context.validation_results_store.set(key, whole)
    with os_errors(folder):
        context.build_data_docs(site_names=["pipesec"])


def _shown(answer: Answer) -> Any:
    gx = _great_expectations()
    kept = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")
    expectation = answer.rule.expectation
    if answer.rule.sql is not None:
        # Great Expectations fills in braces by str.format.
        query = answer.rule.sql.query("\0", None).replace("{", "{{").replace("}", "}}").replace("\0", "{batch}")
        expectation = gx.expectations.UnexpectedRowsExpectation(unexpected_rows_query=query, description=answer.rule.label)
    return gx.core.ExpectationValidationResult(
        success=answer.holds and not answer.unexamined,
        expectation_config=expectation.configuration,
        result={key: number for key in kept if (number := _finite(answer.evidence.get(key))) is not None},
        exception_info={"raised_exception": False},
    )
