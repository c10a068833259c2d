"""Expectations: Great Expectations as an engine, with everything it would lose, print or send kept in hand.

A suite built from dictionaries drops what it does not understand, results come back out of order, log lines and tracebacks quote
the data, and a "$" in a password is taken for a variable. What is known of that lives here and nowhere else.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from airflow_pipesec.checks.databases import Database
from airflow_pipesec.checks.sql_rules import SqlRule, sql_rules
from airflow_pipesec.errors import ConfigurationError, ObjectMissing, StorageError, place_of, unique_keys
from airflow_pipesec.findings import printable
from airflow_pipesec.storage import Store, os_errors

__all__ = [
    "Answer",
    "Rule",
    "Rules",
    "build_rules",
    "engine",
    "load_suite",
    "new_context",
    "run",
    "sql_batch",
    "write_docs",
]

MAX_SUITE_BYTES = 16 << 20
_COLUMN_KEYS = ("column", "column_A", "column_B")
_ENTRY_KEYS = {"type", "kwargs", "meta", "severity", "id"}
_ENTRY_REMARKS = {"description", "notes", "rendered_content", "expectation_context"}
_ASSERTS = {
    "expect_column_distinct_values_to_contain_set": ("value_set",),
    "expect_column_kl_divergence_to_be_less_than": ("threshold",),
    "expect_column_values_to_be_in_type_list": ("type_list",),
    "expect_table_columns_to_match_ordered_list": ("column_list",),
}
# They measure against a standard deviation, and nothing is far from a value by one that is not finite.
_BY_DEVIATION = ("expect_column_value_z_scores_to_be_less_than", "expect_column_values_to_not_be_outliers")
# What these assert is true or false of a column without a single value.
_ABOUT_NO_VALUE = (
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_be_in_type_list",
    "expect_column_proportion_of_non_null_values_to_be_between",
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
    import json

    try:
        suite = json.loads(store.read(limit=MAX_SUITE_BYTES), object_pairs_hook=unique_keys)
    except (ObjectMissing, ValueError, RecursionError) as error:
        raise ConfigurationError(
            f"suite {printable(store.url)} cannot be read ({type(error).__name__}). Give a Great Expectations suite in JSON."
        ) from None
    if not isinstance(suite, dict):
        raise ConfigurationError(f"suite {printable(store.url)} is not a JSON object. Give a Great Expectations suite.")
    return suite


@contextmanager
def engine() -> Iterator[Any]:
    """Import Great Expectations without telemetry, and keep its log lines and warnings, which quote the data, to ourselves."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    logger = logging.getLogger("great_expectations")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logger.level, logger.propagate
        logger.setLevel(logging.CRITICAL + 1)
        logger.propagate = False
        try:
            import great_expectations

            yield great_expectations
        finally:
            logger.level, logger.propagate = before


def new_context(gx: Any) -> Any:
    """Make a context that lives in memory, for one validation, and draws no progress bars."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return context


def build_rules(rules: Rules) -> list[Rule]:
    """Turn every kind of rule into expectation objects, losing none.

    A suite built from dictionaries logs an invalid expectation and goes on without it, so each is built here by itself.
    """
    from great_expectations.expectations.expectation import Expectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    built: list[Any] = []
    if rules.suite is not None:
        entries = rules.suite.get("expectations") if isinstance(rules.suite, Mapping) else None
        if not isinstance(entries, Sequence) or isinstance(entries, str):
            raise ConfigurationError("the suite has no list of expectations. Give a Great Expectations suite in its JSON form.")
        for number, entry in enumerate(entries, 1):
            try:
                built.append(ExpectationConfiguration(**_entry(entry)).to_domain_obj())
            except ConfigurationError as error:
                raise ConfigurationError(f"expectation {number} of the suite {error}") from None
            except Exception as error:
                kind = printable(str(entry.get("type", "?"))) if isinstance(entry, Mapping) else "?"
                raise ConfigurationError(
                    f"expectation {number} of the suite ({kind}) is not valid: {type(error).__name__}. "
                    "Check its type, its kwargs and its severity (critical, warning or info)."
                ) from None
    given = rules.expectations
    if given is not None:
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
    empty = [name for name in _ASSERTS.get(kind, ()) if kwargs.get(name) in (None, [], {}, ())]
    if kind.endswith("_to_be_between") and kwargs.get("min_value") is None and kwargs.get("max_value") is None:
        empty += [] if "quantile" in kind else ["min_value", "max_value"]
    if kwargs.get("mostly") is not None and not kwargs["mostly"] > 0:
        empty.append("mostly")
    if empty:
        raise ConfigurationError(f"{kind} asserts nothing: {' and '.join(empty)} leave it open. Say what must hold.")
    return expectation


def _described(expectation: Any) -> Rule:
    configuration = expectation.configuration
    kwargs = configuration.kwargs
    columns = [kwargs[key] for key in _COLUMN_KEYS if isinstance(kwargs.get(key), str)]
    columns += [column for column in kwargs.get("column_list") or () if isinstance(column, str)]
    label = f"{configuration.type}({', '.join(columns)})" if columns else str(configuration.type)
    needed = () if configuration.type == "expect_column_to_exist" else tuple(columns)
    return Rule(label, needed, expectation)


def run(gx: Any, batch: Any, rules: Sequence[Rule], form: Mapping[str, Any]) -> Iterator[Answer]:
    """Evaluate expectations and answer each, in order. ``form`` is Great Expectations' result format."""
    answers = [_answer(rule, result) for rule, result in zip(rules, _evaluate(gx, batch, rules, form), strict=True)]
    # An aggregate tells no counts, and one over nothing may hold: an empty set lies within every other. So count.
    doubtful = [
        (number, Rule(answer.rule.label, (column,), _not_null(gx, answer.rule, column)))
        for number, answer in enumerate(answers)
        if answer.holds and answer.evidence.get("element_count") is None and answer.rule.expectation is not None
        for column in answer.rule.columns
        if answer.rule.expectation.configuration.type not in _ABOUT_NO_VALUE
    ]
    counted = _evaluate(gx, batch, [probe for _, probe in doubtful], {"result_format": "BASIC"})
    for (number, probe), result in zip(doubtful, counted, strict=True):
        count = _answer(probe, result)
        elements, nulls = (count.evidence.get(key) for key in ("element_count", "unexpected_count"))
        if count.error is not None or elements is None or nulls is None:
            answers[number] = replace(answers[number], holds=False, error=count.error or "its values could not be counted")
        elif elements <= nulls:
            answers[number] = replace(answers[number], unexamined=True)
    measured = [
        (number, Rule(answer.rule.label, answer.rule.columns, _finite_deviation(gx, answer.rule)))
        for number, answer in enumerate(answers)
        if answer.holds and answer.rule.expectation.configuration.type in _BY_DEVIATION
    ]
    deviations = _evaluate(gx, batch, [probe for _, probe in measured], {"result_format": "BASIC"})
    for (number, probe), result in zip(measured, deviations, strict=True):
        if not _answer(probe, result).holds:
            text = "the column's standard deviation is not finite"
            answers[number] = replace(answers[number], holds=False, error=text)
    yield from answers


def _finite_deviation(gx: Any, rule: Rule) -> Any:
    most = sys.float_info.max
    return gx.expectations.ExpectColumnStdevToBeBetween(column=rule.columns[0], min_value=0, max_value=most, **_rows_of(rule))


def _rows_of(rule: Rule) -> dict[str, Any]:
    kwargs = rule.expectation.configuration.kwargs
    return {key: kwargs[key] for key in ("row_condition", "condition_parser") if kwargs.get(key) is not None}


def _not_null(gx: Any, rule: Rule, column: str) -> Any:
    return gx.expectations.ExpectColumnValuesToNotBeNull(column=column, **_rows_of(rule))


def _answer(rule: Rule, result: Any) -> Answer:
    if isinstance(result, str):
        return Answer(rule, error=result)
    if (raised := _exception_in(result.exception_info)) is not None:
        return Answer(rule, error=raised)
    return Answer(rule, bool(result.success), result.result or {})  # success may be numpy's own kind of truth


def _evaluate(gx: Any, batch: Any, rules: Sequence[Rule], form: Mapping[str, Any]) -> list[Any]:
    """Return Great Expectations' result for each rule, or text saying why there is none."""
    if not rules:
        return []
    suite = gx.ExpectationSuite(name="pipesec")
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
        return [place_of(error)] * len(rules)
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


@contextmanager
def sql_batch(context: Any, database: Database, table: str, schema: str | None) -> Iterator[Any]:
    """Open a table as a batch, and close its connections. Raises :class:`StorageError` without the URL, which holds secrets."""
    source = None
    try:
        try:
            source = context.data_sources.add_sql(
                "database",
                connection_string=_literal(database.url),
                kwargs={"connect_args": {key: _literal(value) for key, value in database.connect_args.items()}},
            )
            asset = source.add_table_asset("table", table_name=table, schema_name=schema)
            batch = asset.add_batch_definition_whole_table("table").get_batch()
        except Exception as error:
            raise StorageError(f"table {printable(table)} could not be opened: {place_of(error)}") from None
        yield batch
    finally:
        if source is not None:
            source.get_execution_engine().close()
            source.get_engine().dispose()


def _literal(value: Any) -> Any:
    # A "$" in a password would be taken for the start of a variable.
    return value.replace("$", r"\$") if isinstance(value, str) else value


def write_docs(gx: Any, answers: Sequence[Answer], folder: str) -> None:
    """Write Great Expectations' Data Docs from results out of which every value has been taken."""
    from great_expectations.core import ExpectationSuiteValidationResult, RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    if not folder or "://" in folder:
        raise ConfigurationError(f"data_docs_dir={printable(folder)!r} is no local folder. Give the path of one.")
    results = [_shown(gx, answer) for answer in answers]
    met = sum(item.success for item in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": met,
        "unsuccessful_expectations": len(results) - met,
        "success_percent": 100 * met / len(results) if results else None,
    }
    context = new_context(gx)
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
        meta={"run_id": run_id, "great_expectations_version": gx.__version__},
    )
    context.validation_results_store.set(key, whole)
    with os_errors(folder):
        context.build_data_docs(site_names=["pipesec"])


def _shown(gx: Any, answer: Answer) -> Any:
    kept = ("element_count", "unexpected_count", "unexpected_percent", "missing_count", "missing_percent")
    expectation = answer.rule.expectation
    if answer.rule.sql is not None:
        # Great Expectations fills in braces by str.format.
        query = answer.rule.sql.query("\0", None).replace("{", "{{").replace("}", "}}").replace("\0", "{batch}")
        expectation = gx.expectations.UnexpectedRowsExpectation(unexpected_rows_query=query, description=answer.rule.label)
    return gx.core.ExpectationValidationResult(
        success=answer.holds and not answer.unexamined,
        expectation_config=expectation.configuration,
        result={key: float(answer.evidence[key]) for key in kept if answer.evidence.get(key) is not None},
        exception_info={"raised_exception": False},
    )
