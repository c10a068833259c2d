"""Databases: a connection that only reads, tells no secret, and is closed again; and no rule holds by a database's own ways.

SQLite keeps text among numbers and calls it greater than any of them, PostgreSQL does the latter with not-a-number.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from airflow_pipesec.checks.expectations import Rule, about_types, of_numbers
from airflow_pipesec.checks.sql_rules import SqlRule
from airflow_pipesec.errors import ConfigurationError, ObjectMissing, StorageError, place_of
from airflow_pipesec.findings import amount, printable

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Database", "connected", "doubts_of", "look_at", "sql_batch", "value_in"]

# The arguments of expectations that are SQL.
_SQL = ("unexpected_rows_query", "base_query", "comparison_query")

# What may hold a double quote that begins no name comes first: text, comments, names quoted otherwise.
_QUOTED = re.compile(
    r"""'(?:[^']|'')*' | --[^\n]* | /\*.*?\*/ | \[[^\]]*\] | `[^`]*`
    | (?P<alias>\bas\s+)? "(?P<name>(?:[^"]|"")*)" (?P<qualifies>\s*\.)?""",
    re.VERBOSE | re.DOTALL | re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Database:
    """Where a database is and how to connect: an SQLAlchemy URL and the driver's arguments. Both may hold secrets."""

    url: str = field(repr=False)
    connect_args: Mapping[str, Any] = field(default_factory=dict, repr=False)


@contextmanager
def connected(database: Database, table: str) -> Iterator[sa.Connection]:
    """Connect, read-only where the database knows how.

    Raises :class:`StorageError` when it can't be reached, and :class:`ObjectMissing` for an SQLite file that is not there.
    """
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(database.url, connect_args=dict(database.connect_args), poolclass=sa.pool.NullPool)
    except Exception as error:
        raise ConfigurationError(f"the connection makes no usable database URL: {type(error).__name__}.") from None
    if engine.dialect.name == "sqlite" and not _file_exists(engine.url):
        raise ObjectMissing(f"table {printable(table)} could not be read: its SQLite file does not exist.")
    try:
        connection = engine.connect()
        if engine.dialect.name == "postgresql":
            connection = connection.execution_options(postgresql_readonly=True)
        elif engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA query_only = ON")
    except Exception as error:
        raise StorageError(
            f"table {printable(table)} could not be read: {type(error).__name__}. Check that its database can be reached."
        ) from None
    with connection:
        yield connection


def _file_exists(url: sa.URL) -> bool:
    """Whether an SQLite database is there; SQLite itself would make an empty one. A database in memory always is."""
    name = url.database or ":memory:"
    if name.startswith("file:"):
        name = unquote(urlsplit(name).path)
    return name == ":memory:" or "memory" in url.query.values() or Path(name).exists()


def look_at(connection: sa.Connection, table: str, schema: str | None) -> tuple[dict[str, Any], int | None]:
    """Return the columns of a table or view, with their types, and the number of its rows.

    The number is None when the table isn't there or may not be read.
    """
    import sqlalchemy as sa

    try:
        inspector = sa.inspect(connection)
        if not (inspector.has_table(table, schema=schema) or table in inspector.get_view_names(schema)):
            return {}, None
        columns = {column["name"]: column["type"] for column in inspector.get_columns(table, schema=schema)}
        whole = sa.select(sa.func.count()).select_from(sa.table(table, schema=schema))
        return columns, int(connection.execute(whole).scalar_one())
    except sa.exc.ProgrammingError:
        return {}, None
    except Exception as error:
        raise StorageError(f"table {printable(table)} could not be read: {type(error).__name__}. Run the guard again.") from None
    finally:
        connection.rollback()


def value_in(connection: sa.Connection, table: str, schema: str | None) -> tuple[str, Callable[[str], Any]]:
    """Return the table's quoted name, and a function that returns the one value of a query; nothing that it does is committed."""
    preparer = connection.dialect.identifier_preparer
    quoted = ".".join(preparer.quote(part) for part in (schema, table) if part)

    def value_of(query: str) -> Any:
        try:
            # Without parameters at all, a "%" in the author's SQL is a "%".
            row = connection.execution_options(no_parameters=True).exec_driver_sql(query).fetchone()
        finally:
            connection.rollback()
        return None if row is None else row[0]

    return quoted, value_of


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


def doubts_of(
    connection: sa.Connection,
    names: tuple[str, str | None],
    table: str,
    columns: Mapping[str, Any],
    value_of: Callable[[str], Any],
) -> Callable[[Rule, str | None], str | None]:
    """Return a function that says why a rule that holds in this database need not hold of the data; None where it must.

    ``names`` are those of the table and its schema, ``table`` is how SQL writes them. The function takes a rule and, for a SQL
    rule, the real name of its column.
    """
    flaw = _flaws_of(connection, table, columns, value_of)
    sqlite = connection.dialect.name == "sqlite"

    def doubt(rule: Rule, column: str | None) -> str | None:
        try:
            if sqlite and (unknown := _unknown_names(_sql_in(rule), columns, names)):
                return f"a quoted name in it is no column: {printable(unknown[0])}"
            if rule.sql is not None:
                return _first(flaw(name, where) for name, where in _columns_asked(rule.sql, column, columns))
            if about_types(rule) and not sqlite:
                return None  # whatever it holds, the column is of its type
            return _doubt_of_values(rule, columns, flaw)
        except Exception as error:
            return place_of(error)

    return doubt


def _sql_in(rule: Rule) -> str:
    if rule.sql is not None:
        return rule.sql.head + rule.sql.where
    kwargs = rule.expectation.configuration.kwargs
    return "\n".join(str(kwargs[key]) for key in _SQL if kwargs.get(key))


def _columns_asked(rule: SqlRule, column: str | None, columns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the columns on which a SQL rule depends, each with the WHERE clause for the rows that matter.

    A column that says which rows those are matters in every row.
    """
    partition = _named_in(rule.where, columns)
    yield from ((name, "") for name in partition)
    speaks_of = _named_in(rule.head, columns) if column is None else [column]
    yield from ((name, rule.where) for name in speaks_of if name not in partition)


def _doubt_of_values(rule: Rule, columns: Mapping[str, Any], flaw: Callable[..., str | None]) -> str | None:
    """Return what makes an expectation about a table's columns hold, or pass over rows, where it should not."""
    kind, condition = rule.expectation.configuration.type, rule.expectation.configuration.kwargs.get("row_condition")
    speaks_of = () if kind.startswith("expect_table_") else rule.columns  # those speak of names alone
    compared = kind == "expect_column_pair_values_a_to_be_greater_than_b"
    numeric = of_numbers(rule) or (compared and any(_is_number(columns[column]) for column in speaks_of))
    beside = _named_in(f"{_sql_in(rule)}\n{condition or ''}", columns)
    return _first(flaw(column, numbers=numeric) for column in speaks_of) or _first(flaw(column) for column in beside)


def _first(texts: Iterable[str | None]) -> str | None:
    return next((text for text in texts if text is not None), None)


def _is_number(kind: Any, *, fractional: bool = False) -> bool:
    """Whether a column's type says that it holds numbers, or ``fractional`` ones."""
    import sqlalchemy as sa

    kind = getattr(kind, "data_type", kind)  # what a domain stands on
    return isinstance(kind, sa.Numeric | sa.Float) or (not fractional and isinstance(kind, sa.Integer | sa.Boolean))


def _flaws_of(
    connection: sa.Connection, table: str, types: Mapping[str, Any], value_of: Callable[[str], Any]
) -> Callable[..., str | None]:
    """Return a function that says what in a column lets rules hold that should not; None where there is no such thing.

    SQLite keeps text in a column of numbers, and holds that every text is greater than any number. PostgreSQL holds that
    not-a-number is greater than any number, and that it is no NULL. ``table`` comes quoted; the function takes a column, a WHERE
    clause, and whether the column must hold ``numbers`` whatever its type says.
    """
    dialect = connection.dialect
    quote = dialect.identifier_preparer.quote

    @functools.cache
    def flaw(column: str, where: str = "", *, numbers: bool = False) -> str | None:
        if dialect.name == "postgresql" and _is_number(types[column], fractional=True):
            nans: int = value_of(f"SELECT COUNT(CASE WHEN {quote(column)} = 'NaN' THEN 1 END) FROM {table}{where}")  # noqa: S608 - names come quoted
            return f"the column holds NaN in {amount(nans, 'row')}" if nans else None
        if dialect.name == "sqlite":
            held = value_of(f"SELECT GROUP_CONCAT(DISTINCT TYPEOF({quote(column)})) FROM {table}{where}")  # noqa: S608 - names come quoted
            kinds = {"real" if kind == "integer" else kind for kind in (held or "null").split(",")} - {"null"}
            if len(kinds) > 1:
                return "the column holds values of several types"
            if kinds - {"real"} and (numbers or _is_number(types[column])):
                return f"the column holds {kinds.pop()} where numbers belong"
        return None

    return flaw


def _named_in(sql: str, columns: Iterable[str]) -> list[str]:
    """Return the columns whose names occur in a piece of SQL, quoted or not, in any case."""
    # Inside of quotes a quote is written twice.
    patterns = {column: re.escape(column).replace('"', '"+') for column in columns}
    return [column for column, pattern in patterns.items() if re.search(rf"(?<!\w){pattern}(?!\w)", sql, re.IGNORECASE)]


def _unknown_names(sql: str, columns: Iterable[str], tables: Iterable[str | None]) -> list[str]:
    """Return the double-quoted names in a piece of SQL that are no column, no alias and, before a dot, no table.

    SQLite takes such a name for text, and text is greater than any number.
    """
    found = [(match["name"].replace('""', '"'), match) for match in _QUOTED.finditer(sql) if match["name"] is not None]
    aliases = {name.lower() for name, match in found if match["alias"]}
    known = {column.lower() for column in columns} | aliases
    qualifiers = {table.lower() for table in tables if table} | aliases
    return [name for name, match in found if name.lower() not in (qualifiers if match["qualifies"] else known)]
