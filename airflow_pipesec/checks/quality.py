"""Quality: data meets its expectations, as Great Expectations evaluates them, and no value of it leaves this module.

Great Expectations is the engine; what it returns is taken apart here, because its results, exceptions and reports quote the data.
From each result only counts are kept. Where it gives none, the finding says that the expectation failed and nothing more.

An expectation that could not be evaluated, a rule that Great Expectations drops, a result that lacks its evidence and data
without rows are findings of their own, and none of them passes.
"""

from __future__ import annotations

import numbers
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_pipesec.checks.databases import (
    Database,
    connected,
    doubts_of,
    look_at,
    sql_batch,
    value_in,
)
from airflow_pipesec.checks.expectations import (
    Answer,
    Rule,
    Rules,
    about_types,
    build_rules,
    count_in,
    engine,
    load_suite,
    new_context,
    renamed,
    run,
    write_docs,
)
from airflow_pipesec.checks.sql_rules import NotComparable, SqlRule
from airflow_pipesec.checks.tables import FRAME, Unreadable, exact, quoted, read_frame, set_aside, sql_on
from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing, ObjectRefused, PipesecError, place_of
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
    remedy="Look at the failing rows (quarantine_path sets those of a file aside) and at where they came from; mend the source.",
    refs=_INPUT,
)
EXPECTATIONS_RUN = Control(
    id="expectations-run",
    title="Every expectation could be evaluated",
    severity=Severity.HIGH,
    remedy="Mend the expectation, or what is named in the data; of an exception the type is told and no more.",
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
    frame = _read(store)
    if not isinstance(frame, Finding):
        table, subject = frame
        yield from validate_frame(
            table, rules, subject=subject, sample_unexpected=sample_unexpected, quarantine=quarantine, data_docs_dir=data_docs_dir
        )
        return
    yield frame
    if data_docs_dir is not None:
        with engine():
            _write_failed_docs(build_rules(rules), data_docs_dir)


def _read(store: Store) -> tuple[pd.DataFrame, Subject] | Finding:
    """Return what a file holds, and the file as a subject with its digest; or the finding that it could not be read."""
    subject = Subject(store.url)
    try:
        listing = store.listing()
        if listing.files != [SINGLE]:
            what = listing.irregular[0].detail if listing.irregular else "a folder"
            return Finding(DATA_READABLE, subject, Status.FAIL, f"is {what}; give one file")
        frame, digest = read_frame(store)
        subject = Subject(store.url, str(digest))
    except ObjectMissing:
        return Finding(DATA_PRESENT, subject, Status.FAIL, "does not exist")
    except ObjectRefused as error:
        return Finding(DATA_READABLE, subject, Status.FAIL, str(error))
    except AccessDenied as error:
        return Finding(DATA_PRESENT, subject, Status.ERROR, str(error))
    if isinstance(frame, Unreadable):
        return Finding(DATA_READABLE, subject, Status.FAIL, f"cannot be read: {frame.reason}")
    return frame, subject


def _write_failed_docs(rules: Sequence[Rule], folder: str) -> None:
    """Leave no page of an earlier run standing where this one saw no data."""
    write_docs([Answer(rule, error="there is no data") for rule in rules], folder)


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
    found: list[Finding] = []
    try:
        with engine():  # which holds log lines back for everybody, so nothing is yielded inside
            for finding in _frame_findings(frame, rules, subject, sample, quarantine, data_docs_dir):
                found.append(finding)  # one by one, to keep those before an exception
    finally:
        yield from found


def _frame_findings(
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
    if (problem := _no_table(frame, subject)) is not None:
        yield problem
        if data_docs_dir is not None:
            _write_failed_docs(all_rules, data_docs_dir)
        return
    yield Finding(DATA_PRESENT, subject, Status.PASS, amount(len(frame), "row"), count=len(frame))
    # Positions are what the quarantine goes by; an index of the caller's own may repeat itself.
    frame = frame.reset_index(drop=True)
    seen = _with_columns(all_rules, [str(column) for column in frame.columns], subject)
    yield from seen.findings
    form = {"result_format": "COMPLETE" if quarantine is not None else "BASIC", "partial_unexpected_count": sample}
    computed = exact(frame)
    answers = _ask_of_frame(frame, [rule for rule in seen.plain if about_types(rule)], form)
    answers += _ask_of_frame(computed, [rule for rule in seen.plain if not about_types(rule)], form)
    try:
        if seen.sql:
            with sql_on(computed) as value_of:
                answers += [_ask(rule, value_of, FRAME, column and quoted(column)) for rule, column in seen.sql]
    except PipesecError:
        raise
    except Exception as error:
        answers += [Answer(rule, error=place_of(error)) for rule, _ in seen.sql]
    for answer in answers:
        yield _finding(answer, subject, sample, len(frame))
    answers += seen.unanswered
    if data_docs_dir is not None:
        write_docs(answers, data_docs_dir)
    if quarantine is not None:
        yield _quarantined(frame, answers, subject, quarantine)


def _no_table(frame: pd.DataFrame, subject: Subject) -> Finding | None:
    if len(frame) == 0 or len(frame.columns) == 0:
        return Finding(DATA_PRESENT, subject, Status.FAIL, "has no columns" if len(frame) else "has no rows")
    if len({str(column) for column in frame.columns}) != len(frame.columns):
        return Finding(DATA_READABLE, subject, Status.FAIL, "gives a column name twice")
    if any("\0" in str(column) for column in frame.columns):
        return Finding(DATA_READABLE, subject, Status.FAIL, "has a column name with a NUL, at which other readers end the name")
    return None


def _ask_of_frame(frame: pd.DataFrame, rules: list[Rule], form: Mapping[str, Any]) -> list[Answer]:
    if not rules:
        return []
    try:
        asset = new_context().data_sources.add_pandas("frame").add_dataframe_asset("frame")
        batch = asset.add_batch_definition_whole_dataframe("frame").get_batch({"dataframe": frame})
    except Exception as error:
        return [Answer(rule, error=place_of(error)) for rule in rules]
    return list(run(batch, rules, form))


def _quarantined(frame: pd.DataFrame, answers: Sequence[Answer], subject: Subject, quarantine: Store) -> Finding:
    failing: dict[int, set[str]] = defaultdict(set)
    located = sum(_locate(answer, failing, len(frame)) for answer in answers) == len(answers)
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
    place = schema or None, name
    found: list[Finding] = []
    try:
        with engine(), ExitStack() as opened:
            try:
                connection = opened.enter_context(connected(database, table))
            except ObjectMissing:
                found.append(Finding(DATA_PRESENT, subject, Status.FAIL, "there is no such database"))
                if data_docs_dir is not None:
                    _write_failed_docs(build_rules(rules), data_docs_dir)
                return
            for finding in _table_findings(connection, database, place, rules, subject, sample, data_docs_dir):
                found.append(finding)  # one by one, to keep those before an exception
    finally:
        yield from found


def _table_findings(
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
    if not rows:
        text = "there is no such table or view, or it may not be read" if rows is None else "has no rows"
        yield Finding(DATA_PRESENT, subject, Status.FAIL, text)
        if data_docs_dir is not None:
            _write_failed_docs(all_rules, data_docs_dir)
        return
    yield Finding(DATA_PRESENT, subject, Status.PASS, amount(rows, "row"), count=rows)
    seen = _with_columns(all_rules, list(columns), subject, fold=True)
    yield from seen.findings
    table, value_of = value_in(connection, name, schema)
    doubt = doubts_of(connection, (name, schema), table, columns, value_of)
    doubted = [(rule, doubt(rule, None)) for rule in seen.plain]
    answers = [Answer(rule, error=text) for rule, text in doubted if text is not None]
    if plain := [rule for rule, text in doubted if text is None]:
        form = {"result_format": "BASIC", "partial_unexpected_count": sample}
        with sql_batch(new_context(), database, name, schema) as batch:
            answers += run(batch, plain, form, null_agrees=True)
    quote = connection.dialect.identifier_preparer.quote
    for rule, column in seen.sql:
        error = doubt(rule, column)
        answers.append(_ask(rule, value_of, table, column and quote(column)) if error is None else Answer(rule, error=error))
    for answer in answers:
        yield _finding(answer, subject, sample, rows)
    if data_docs_dir is not None:
        write_docs([*answers, *seen.unanswered], data_docs_dir)


def _ask(rule: Rule, value_of: Callable[[str], Any], table: str, column: str | None) -> Answer:
    assert rule.sql is not None  # noqa: S101 - narrows the type: the callers part the SQL rules from the others
    query = rule.sql.query(table, column)
    try:
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
    lower = Counter(column.lower() for column in columns)
    folded = {column.lower(): column for column in columns if lower[column.lower()] == 1}
    seen = _Seen([], [], [], [])
    missing: dict[str, Severity] = {}

    def present(column: str, *, of_sql: bool) -> str | None:
        if of_sql and column[:1] + column[-1:] in ('""', "``", "[]") and column[1:-1] in exactly:
            return column[1:-1]
        return exactly.get(column) or (folded.get(column.lower()) if fold or of_sql else None)

    for rule in rules:
        of_sql = rule.sql is not None
        names = {column: present(column, of_sql=of_sql) for column in rule.columns}
        absent = [column for column, name in names.items() if name is None]
        for column in absent:
            missing[column] = max(_severity(rule), missing.get(column, Severity.INFO))
        if absent:
            seen.unanswered.append(Answer(rule, error="its column is missing"))
        elif of_sql:
            seen.sql.append((rule, names[rule.columns[0]] if rule.columns else None))
        else:
            seen.plain.append(renamed(rule, {column: name for column, name in names.items() if name is not None}))
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
    elements, unexpected, missing = (count_in(answer, key) for key in ("element_count", "unexpected_count", "missing_count"))
    if elements is None:
        # An aggregate: what was observed is a value of the data (a minimum, a mean) and stays where it is.
        return made(EXPECTATIONS_MET, status, "holds" if answer.holds else "does not hold", rows)
    examined = elements - (missing or 0)
    if answer.holds and examined <= 0:
        return made(EXPECTATIONS_MET, Status.FAIL, f"no value to examine: {missing or 0:,} of {elements:,} are missing")
    if answer.holds and unexpected is None:
        return made(EXPECTATIONS_RUN, Status.ERROR, "could not be evaluated: the result has no counts")
    counts = f"{unexpected or 0:,} of {examined:,} values unexpected"
    if missing:
        counts += f", {missing:,} missing"
    if not answer.holds and sample:
        shapes = [masked(value) for value in (answer.evidence.get("partial_unexpected_list") or [])[:sample]]
        counts += f"; masked sample: {', '.join(shapes)}" if shapes else ""
    return made(EXPECTATIONS_MET, status, counts, count=max(examined, 1))


def _sql_text(rule: SqlRule, answer: Answer) -> str:
    if answer.holds:
        return "holds"
    observed = answer.evidence["result"]
    wanted = ", ".join(f"{name} {printable(str(bound))}" for name, bound in rule.bounds.items() if rule.column is not None)
    asked = f" ({wanted})" if wanted else ""
    if observed is None:
        return f"does not hold{asked}: no row to examine"
    return f"does not hold{asked}: the count is {int(observed):,}" if rule.counts else f"does not hold{asked}"


def _locate(answer: Answer, failing: dict[int, set[str]], rows: int) -> bool:
    """Note which rows failed a rule. False when that can't be said: it was not evaluated, or names fewer than it counts."""
    if answer.error is not None:
        return False
    if answer.holds or answer.rule.sql is not None:
        return True
    positions = answer.evidence.get("unexpected_index_list")
    if not isinstance(positions, list) or not all(isinstance(position, numbers.Integral) for position in positions):
        return not answer.evidence.get("unexpected_count")
    named = {int(position) for position in positions if 0 <= position < rows}
    for position in named:
        failing[position].add(answer.rule.label)
    return len(named) == len(set(positions)) == (count_in(answer, "unexpected_count") or 0)


def masked(value: Any) -> str:
    """Return the shape of a value and nothing else: its type, its length, and the kinds of its first twelve characters.

    Letters become ``A`` or ``a``, digits ``9``, everything else ``#``. Of a truth value, whose length tells which it is, only the
    type is left.
    """
    if value is None:
        return "null"
    try:
        text = "" if type(value).__name__ in ("bool", "bool_") else str(value)
    except Exception:
        text = ""  # what an object says of itself when asked for text is its own affair
    if not text and not isinstance(value, str | bytes):
        return type(value).__name__
    shape = "".join("9" if ch.isdigit() else ("A" if ch.isupper() else "a") if ch.isalpha() else "#" for ch in text[:12])
    return f"{type(value).__name__}[{len(text)}] {shape}{'…' if len(text) > 12 else ''}"


def _whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigurationError(f"{name}={value!r} is not a whole number from 0 up.")
    return value
