"""Quality: data meets its expectations, as Great Expectations evaluates them, and no value of it leaves this module.

Great Expectations is the engine; what it returns is taken apart here, because its results, exceptions and reports quote the data.
From each result only counts are kept. Where it gives none, the finding says that the expectation failed and nothing more.

An expectation that could not be evaluated, a rule that Great Expectations drops, a result that lacks its evidence and data
without rows are findings of their own, and none of them passes.
"""

from __future__ import annotations

import numbers
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_pipesec.checks.databases import Database, connected, look_at, value_in
from airflow_pipesec.checks.expectations import (
    Answer,
    Rule,
    Rules,
    build_rules,
    engine,
    load_suite,
    new_context,
    run,
    sql_batch,
    write_docs,
)
from airflow_pipesec.checks.sql_rules import NotComparable, SqlRule
from airflow_pipesec.checks.tables import FRAME, Unreadable, exact, quoted, read_frame, set_aside, sql_on
from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing, ObjectRefused, place_of
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, printable
from airflow_pipesec.storage import SINGLE, Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Database", "Rules", "load_suite", "masked", "refuse_replacing", "validate_file", "validate_frame", "validate_table"]

_INPUT = ("MITRE ATLAS AML.T0020", "OWASP ML02:2023", "NIST SP 800-53 SI-10")

DATA_PRESENT = Control(
    id="data-present",
    title="There is data, and it has rows",
    severity=Severity.CRITICAL,
    remedy="Look at the task that writes the data; an empty input trains an empty model.",
    refs=_INPUT,
)
DATA_READABLE = Control(
    id="data-readable",
    title="The data can be read as what its name says it is",
    severity=Severity.CRITICAL,
    remedy="Write the file again; a file cut off or of another format cannot be validated.",
    refs=_INPUT,
)
COLUMNS_PRESENT = Control(
    id="columns-present",
    title="Every column that the rules speak of is there",
    severity=Severity.CRITICAL,
    remedy="Bring the column back, or take its rules out of the suite.",
    refs=_INPUT,
)
EXPECTATIONS_MET = Control(
    id="expectations-met",
    title="The data meets every expectation",
    severity=Severity.CRITICAL,
    remedy="Look at the failing rows (quarantine_path sets them aside) and at where they came from; mend the source.",
    refs=_INPUT,
)
EXPECTATIONS_RUN = Control(
    id="expectations-run",
    title="Every expectation could be evaluated",
    severity=Severity.HIGH,
    remedy="Mend the expectation or the column's type; Great Expectations raised an error of the type that is named.",
    refs=_INPUT,
)
ROWS_ACCOUNTED = Control(
    id="rows-accounted-for",
    title="Every row is either clean or set aside",
    severity=Severity.HIGH,
    remedy="Look at the expectations that failed without saying for which rows.",
    refs=_INPUT,
)

_SEVERITY = {"critical": Severity.CRITICAL, "warning": Severity.LOW, "info": Severity.INFO}


def validate_file(
    store: Store,
    rules: Rules,
    *,
    sample_unexpected: int = 0,
    quarantine: Store | None = None,
    data_docs_dir: str | None = None,
) -> Iterator[Finding]:
    """Hold a CSV, Parquet or JSON-lines file against rules and yield what was seen.

    A missing, unreadable or empty file is a finding that fails. Raises :class:`ConfigurationError` for rules that cannot work and
    :class:`StorageError` for trouble that a retry may cure.
    """
    if quarantine is not None:
        refuse_replacing(quarantine, store)
    subject = Subject(store.url)
    try:
        listing = store.listing()
        if listing.files != [SINGLE]:
            what = listing.irregular[0].detail if listing.irregular else "a folder"
            yield Finding(DATA_READABLE, subject, Status.FAIL, f"is {what}; give one file")
            return
        frame = read_frame(store)
    except ObjectMissing:
        yield Finding(DATA_PRESENT, subject, Status.FAIL, "does not exist")
        return
    except ObjectRefused as error:
        yield Finding(DATA_READABLE, subject, Status.FAIL, str(error))
        return
    except AccessDenied as error:
        yield Finding(DATA_PRESENT, subject, Status.ERROR, str(error))
        return
    if isinstance(frame, Unreadable):
        yield Finding(DATA_READABLE, subject, Status.FAIL, f"cannot be read: {frame.reason}")
        return
    yield from validate_frame(
        frame, rules, subject=subject, sample_unexpected=sample_unexpected, quarantine=quarantine, data_docs_dir=data_docs_dir
    )


def refuse_replacing(quarantine: Store, other: Store) -> None:
    """Raise :class:`ConfigurationError` where writing the quarantine would replace the data, or the suite."""
    if quarantine.same_place(other):
        where, what = printable(quarantine.url), printable(other.url)
        raise ConfigurationError(f"the quarantine {where} would replace {what}. Give another place.")


def validate_frame(
    frame: pd.DataFrame,
    rules: Rules,
    *,
    subject: Subject,
    sample_unexpected: int = 0,
    quarantine: Store | None = None,
    data_docs_dir: str | None = None,
) -> Iterator[Finding]:
    """Hold a frame against rules. With ``quarantine`` the failing rows are written there and every row is accounted for.

    A row is set aside when an expectation that failed names it; one that failed only by an aggregate (a mean, a row count, a SQL
    rule) names no rows, and rows that an expectation tolerates (``mostly``) are clean.
    """
    sample = _whole_number("sample_unexpected", sample_unexpected)
    with engine() as gx:  # which holds log lines back for everybody, so nothing is yielded inside
        found = list(_frame_findings(gx, frame, rules, subject, sample, quarantine, data_docs_dir))
    yield from found


def _frame_findings(
    gx: Any,
    frame: pd.DataFrame,
    rules: Rules,
    subject: Subject,
    sample: int,
    quarantine: Store | None,
    data_docs_dir: str | None,
) -> Iterator[Finding]:
    all_rules = build_rules(rules)
    if any(name is not None for name in frame.index.names):
        names = [f"index_{level}" if name is None else name for level, name in enumerate(frame.index.names)]
        frame = frame.reset_index(names=names, allow_duplicates=True)
    if len(frame) == 0 or len(frame.columns) == 0:
        yield Finding(DATA_PRESENT, subject, Status.FAIL, "has no columns" if len(frame) else "has no rows")
        return
    if len({str(column) for column in frame.columns}) != len(frame.columns):
        yield Finding(DATA_READABLE, subject, Status.FAIL, "gives a column name twice")
        return
    if any("\0" in str(column) for column in frame.columns):
        yield Finding(DATA_READABLE, subject, Status.FAIL, "has a column name with a NUL, at which other readers end the name")
        return
    yield Finding(DATA_PRESENT, subject, Status.PASS, amount(len(frame), "row"), count=len(frame))
    # Positions are what the quarantine goes by; an index of the caller's own may repeat itself.
    frame = exact(frame.reset_index(drop=True))
    seen = _with_columns(all_rules, [str(column) for column in frame.columns], subject)
    yield from seen.findings
    answers: list[Answer] = []
    if seen.plain:
        form = {"result_format": "COMPLETE" if quarantine is not None else "BASIC", "partial_unexpected_count": sample}
        try:
            asset = new_context(gx).data_sources.add_pandas("frame").add_dataframe_asset("frame")
            batch = asset.add_batch_definition_whole_dataframe("frame").get_batch({"dataframe": frame})
        except Exception as error:
            answers += [Answer(rule, error=place_of(error)) for rule in seen.plain]
        else:
            answers += run(gx, batch, seen.plain, form)
    if seen.sql:
        with sql_on(frame) as value_of:
            answers += [_ask(rule, value_of, FRAME, column and quoted(column)) for rule, column in seen.sql]
    for answer in answers:
        yield _finding(answer, subject, sample, len(frame))
    answers += seen.unanswered
    if data_docs_dir is not None:
        write_docs(gx, answers, data_docs_dir)
    if quarantine is not None:
        yield _quarantined(frame, answers, subject, quarantine)


def _quarantined(frame: pd.DataFrame, answers: Sequence[Answer], subject: Subject, quarantine: Store) -> Finding:
    failing: dict[int, set[str]] = defaultdict(set)
    located = sum(_locate(answer, failing) for answer in answers) == len(answers)
    aside = set_aside(frame, failing, quarantine)
    clean = sum(position not in failing for position in range(len(frame)))
    text = f"{len(frame):,} rows in = {clean:,} clean + {aside:,} set aside in {printable(quarantine.url)}"
    if not located:
        text += "; but an expectation did not say which rows fail it"
    status = Status.PASS if located and clean + aside == len(frame) else Status.FAIL
    return Finding(ROWS_ACCOUNTED, subject, status, text, count=len(frame))


def validate_table(
    database: Database, table: str, rules: Rules, *, sample_unexpected: int = 0, data_docs_dir: str | None = None
) -> Iterator[Finding]:
    """Hold a database table (``name`` or ``schema.name``) against rules, evaluated by the database itself.

    Nothing of ``database`` appears in a finding or an exception. Raises :class:`StorageError` when it cannot be reached.
    """
    subject = Subject(table)
    sample = _whole_number("sample_unexpected", sample_unexpected)
    schema, _, name = table.rpartition(".")
    with engine() as gx, connected(database, table) as connection:
        found = list(_table_findings(gx, connection, database, (schema or None, name), rules, subject, sample, data_docs_dir))
    yield from found


def _table_findings(
    gx: Any,
    connection: Any,
    database: Database,
    place: tuple[str | None, str],
    rules: Rules,
    subject: Subject,
    sample: int,
    data_docs_dir: str | None,
) -> Iterator[Finding]:
    schema, name = place
    all_rules = build_rules(rules)
    columns, rows = look_at(connection, name, schema)
    if rows is None:
        yield Finding(DATA_PRESENT, subject, Status.FAIL, "there is no such table or view, or it may not be read")
        return
    if rows == 0:
        yield Finding(DATA_PRESENT, subject, Status.FAIL, "has no rows")
        return
    yield Finding(DATA_PRESENT, subject, Status.PASS, amount(rows, "row"), count=rows)
    seen = _with_columns(all_rules, columns, subject, fold=True)
    yield from seen.findings
    answers: list[Answer] = []
    if seen.plain:
        with sql_batch(new_context(gx), database, name, schema) as batch:
            answers += run(gx, batch, seen.plain, {"result_format": "BASIC", "partial_unexpected_count": sample})
    table, value_of = value_in(connection, name, schema)
    quote = connection.dialect.identifier_preparer.quote
    known = columns if connection.dialect.name == "sqlite" else None
    answers += [_ask(rule, value_of, table, column and quote(column), sqlite_columns=known) for rule, column in seen.sql]
    for answer in answers:
        yield _finding(answer, subject, sample, rows)
    if data_docs_dir is not None:
        write_docs(gx, [*answers, *seen.unanswered], data_docs_dir)


def _ask(
    rule: Rule, value_of: Callable[[str], Any], table: str, column: str | None, *, sqlite_columns: Sequence[str] | None = None
) -> Answer:
    """Evaluate a SQL rule. Of SQLite two things are not taken: values of several types, and a name that it reads as text."""
    assert rule.sql is not None  # noqa: S101 - narrows the type: the callers part the SQL rules from the others
    query = rule.sql.query(table, column)
    try:
        if sqlite_columns is not None:
            names = {name.lower() for name in sqlite_columns}
            unknown = [name for name in re.findall(r'"([^"]*)"', rule.sql.head + rule.sql.tail) if name.lower() not in names]
            if unknown:
                # SQLite takes a double-quoted name that it does not know for text, and text is greater than any number.
                return Answer(rule, error=f"there is no column {printable(unknown[0])}")
            kinds = None if column is None else rule.sql.kinds_query(table, column)
            if kinds is not None and value_of(kinds) > 1:
                # The least number says nothing about the texts beside it.
                return Answer(rule, error="the column holds values of several types")
        observed = value_of(query)
        holds = rule.sql.holds(observed)
    except NotComparable as error:
        return Answer(rule, error=str(error))
    except Exception as error:
        return Answer(rule, error=place_of(error))
    return Answer(rule, holds, {"result": observed})


class _Seen(NamedTuple):
    """The rules whose columns exist, SQL rules beside the column they speak of; findings; and answers for the other rules."""

    plain: list[Rule]
    sql: list[tuple[Rule, str | None]]
    findings: list[Finding]
    unanswered: list[Answer]


def _with_columns(rules: list[Rule], columns: Sequence[str], subject: Subject, *, fold: bool = False) -> _Seen:
    """Part the rules whose columns exist from those whose don't; databases may ``fold`` the case of names."""
    exactly = {column: column for column in columns}
    folded = {column.lower(): column for column in columns}
    seen = _Seen([], [], [], [])
    missing: dict[str, Severity] = {}

    def present(column: str, *, of_sql: bool) -> str | None:
        if of_sql and column[:1] + column[-1:] in ('""', "``", "[]") and column[1:-1] in exactly:
            return column[1:-1]
        return exactly.get(column) or (folded.get(column.lower()) if fold or of_sql else None)

    for rule in rules:
        of_sql = rule.sql is not None
        absent = [column for column in rule.columns if present(column, of_sql=of_sql) is None]
        for column in absent:
            missing[column] = max(_severity(rule), missing.get(column, Severity.INFO))
        if absent:
            seen.unanswered.append(Answer(rule, error="its column is missing"))
        elif of_sql:
            seen.sql.append((rule, present(rule.columns[0], of_sql=True) if rule.columns else None))
        else:
            seen.plain.append(rule)
    for column, severity in missing.items():
        text = f"column {printable(column)} is missing"
        seen.findings.append(Finding(COLUMNS_PRESENT, subject, Status.FAIL, text, severity=severity))
    if not missing and columns:
        text = f"{amount(len(columns), 'column')}, every one that the rules speak of among them"
        seen.findings.append(Finding(COLUMNS_PRESENT, subject, Status.PASS, text, count=len(columns)))
    return seen


def _severity(rule: Rule) -> Severity:
    severity = getattr(rule.expectation, "severity", "critical")
    return _SEVERITY.get(str(getattr(severity, "value", severity)).lower(), Severity.CRITICAL)


def _finding(answer: Answer, subject: Subject, sample: int, rows: int) -> Finding:
    severity = _severity(answer.rule)
    label = printable(answer.rule.label)

    def made(control: Control, status: Status, text: str, count: int = 1) -> Finding:
        return Finding(control, subject, status, f"{label}: {text}", count=count, severity=severity)

    if answer.error is not None:
        return made(EXPECTATIONS_RUN, Status.ERROR, f"could not be evaluated: {answer.error}")
    status = Status.PASS if answer.holds else Status.FAIL
    if answer.rule.sql is not None:
        return made(EXPECTATIONS_MET, status, _sql_text(answer.rule.sql, answer), count=rows)
    if answer.unexamined:
        return made(EXPECTATIONS_MET, Status.FAIL, "no value to examine")
    elements, unexpected, missing = (_count(answer, key) for key in ("element_count", "unexpected_count", "missing_count"))
    if elements is None:
        # An aggregate: what was observed is a value of the data (a minimum, a mean) and stays where it is.
        return made(EXPECTATIONS_MET, status, "holds" if answer.holds else "does not hold", rows)
    examined = int(elements) - int(missing or 0)
    if answer.holds and examined <= 0:
        return made(EXPECTATIONS_MET, Status.FAIL, f"no value to examine: {int(missing or 0):,} of {int(elements):,} are missing")
    if answer.holds and unexpected is None:
        return made(EXPECTATIONS_RUN, Status.ERROR, "could not be evaluated: the result has no counts")
    counts = f"{int(unexpected or 0):,} of {examined:,} values unexpected"
    if missing:
        counts += f", {int(missing):,} missing"
    if not answer.holds and sample:
        shapes = [masked(value) for value in (answer.evidence.get("partial_unexpected_list") or [])[:sample]]
        counts += f"; masked sample: {', '.join(shapes)}" if shapes else ""
    return made(EXPECTATIONS_MET, status, counts, count=max(examined, 1))


def _count(answer: Answer, key: str) -> int | None:
    value = answer.evidence.get(key)
    # An expectation of somebody's own may put anything there.
    return int(float(value)) if isinstance(value, numbers.Real) else None


def _sql_text(rule: SqlRule, answer: Answer) -> str:
    if answer.holds:
        return "holds"
    observed = answer.evidence["result"]
    if observed is None:
        return "does not hold: no row to examine"
    return f"does not hold: the count is {int(observed):,}" if rule.counts else "does not hold"


def _locate(answer: Answer, failing: dict[int, set[str]]) -> bool:
    """Note which rows failed a rule. False when that can't be said: it was not evaluated, or it only counts them."""
    if answer.error is not None:
        return False
    if answer.holds or answer.rule.sql is not None:
        return True
    positions = answer.evidence.get("unexpected_index_list")
    if not isinstance(positions, list) or not all(isinstance(position, numbers.Integral) for position in positions):
        return not answer.evidence.get("unexpected_count")
    for position in positions:
        failing[int(position)].add(answer.rule.label)
    return True


def masked(value: Any) -> str:
    """Return the shape of a value and nothing else: its type, its length, and the kinds of its first twelve characters.

    Letters become ``A`` or ``a``, digits ``9``, everything else ``#``.
    """
    if value is None:
        return "null"
    text = str(value)
    shape = "".join("9" if ch.isdigit() else ("A" if ch.isupper() else "a") if ch.isalpha() else "#" for ch in text[:12])
    return f"{type(value).__name__}[{len(text)}] {shape}{'…' if len(text) > 12 else ''}"


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{name}={value!r} is not a whole number from 0 up.")
    return value
