"""Databases: a connection that only reads, tells no secret, and is closed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import printable

if TYPE_CHECKING:
    import sqlalchemy as sa

__all__ = ["Database", "connected", "look_at", "value_in"]


@dataclass(frozen=True, slots=True)
class Database:
    """Where a database is and how to connect: an SQLAlchemy URL and the driver's arguments. Both may hold secrets."""

    url: str = field(repr=False)
    connect_args: Mapping[str, Any] = field(default_factory=dict, repr=False)


@contextmanager
def connected(database: Database, table: str) -> Iterator[sa.Connection]:
    """Connect, read-only where the database knows how. Raises :class:`StorageError` when it can't be reached."""
    import sqlalchemy as sa

    try:
        engine = sa.create_engine(database.url, connect_args=dict(database.connect_args), poolclass=sa.pool.NullPool)
    except Exception as error:
        raise ConfigurationError(f"the connection makes no usable database URL: {type(error).__name__}.") from None
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


def look_at(connection: sa.Connection, table: str, schema: str | None) -> tuple[list[str], int | None]:
    """Return the columns of a table or view and the number of its rows; None rows when it isn't there or may not be read."""
    import sqlalchemy as sa

    try:
        inspector = sa.inspect(connection)
        if not (inspector.has_table(table, schema=schema) or table in inspector.get_view_names(schema)):
            return [], None
        columns = [column["name"] for column in inspector.get_columns(table, schema=schema)]
        whole = sa.select(sa.func.count()).select_from(sa.table(table, schema=schema))
        return columns, int(connection.execute(whole).scalar_one())
    except sa.exc.ProgrammingError:
        return [], None
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
