"""Data-quality guards: data meets its expectations before a stage reads it, or the pipeline waits for data that does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError, PipesecError
from airflow_pipesec.findings import Finding, Subject
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor, get_connection, open_location, withheld

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.checks.databases import Database
    from airflow_pipesec.checks.quality import Rules
    from airflow_pipesec.policy import Verdict
    from airflow_pipesec.verified import Handle

__all__ = ["DataValidation", "DataValidationOperator", "DataValidationSensor"]


class DataValidation(Guard):
    """What the operator and the sensor share: data, rules, and what is kept of the rows that fail.

    Exactly one source:

    :param path: a CSV (``.csv``), Parquet (``.parquet``) or JSON-lines (``.jsonl``) file, local or a URL. (templated)
    :param table: a table, as ``name`` or ``schema.name``, in the database of ``conn_id``, which evaluates the rules. (templated)
    :param conn_id: the Airflow connection of that database. (templated)
    :param configure_dataframe: a callable that returns a pandas DataFrame; called on the worker when the task runs, with those
        context variables that its signature names.

    Rules, of one kind or several:

    :param suite: a Great Expectations suite: the path or URL of its JSON, or the mapping itself. (templated)
    :param configure_expectations: a callable that returns expectations, a list of them or a suite; called like
        ``configure_dataframe``.
    :param column_mapping: as ``SQLColumnCheckOperator`` takes it. A result of NULL does not hold. (templated)
    :param checks: as ``SQLTableCheckOperator`` takes it. (templated)
    :param partition_clause: a SQL condition for ``column_mapping`` and ``checks``. (templated)

    What is kept of the data:

    :param sample_unexpected: how many unexpected values a finding may show, masked to their shape; none by default.
    :param quarantine_path: where to write the failing rows as Parquet, with the expectations each failed; the source is left as
        it is. The file is written whenever rows could be read, also when it holds none. Not for ``table``. (templated)
    :param data_docs_dir: a folder for Great Expectations' Data Docs, made without any value of the data. (templated)
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    Great Expectations' severities become ours: ``critical`` is critical, ``warning`` is low, ``info`` is info, so with the
    default policy a warning is logged and does not fail the task. ``policy`` and ``on_failure`` are those of every guard, see
    :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = (
        "path",
        "table",
        "conn_id",
        "suite",
        "column_mapping",
        "checks",
        "partition_clause",
        "quarantine_path",
        "data_docs_dir",
        "aws_conn_id",
        *Guard.template_fields,
    )
    # Not drift or bias: an expectation may look for them, but whether one does is the suite's.
    threats: Collection[str] = ("unvalidated-input", "data-poisoning")

    def __init__(
        self,
        *,
        path: str | None = None,
        table: str | None = None,
        conn_id: str | None = None,
        configure_dataframe: Callable[..., Any] | None = None,
        suite: str | Mapping[str, Any] | None = None,
        configure_expectations: Callable[..., Any] | None = None,
        column_mapping: Mapping[str, Any] | None = None,
        checks: Mapping[str, Any] | None = None,
        partition_clause: str | None = None,
        sample_unexpected: int = 0,
        quarantine_path: str | None = None,
        data_docs_dir: str | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.table = table
        self.conn_id = conn_id
        self.configure_dataframe = configure_dataframe
        self.suite = suite
        self.configure_expectations = configure_expectations
        self.column_mapping = column_mapping
        self.checks = checks
        self.partition_clause = partition_clause
        self.sample_unexpected = sample_unexpected
        self.quarantine_path = quarantine_path
        self.data_docs_dir = data_docs_dir
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Read the data and hold it against the rules."""
        from airflow_pipesec.checks import quality

        sources = [name for name in ("path", "table", "configure_dataframe") if getattr(self, name) is not None]
        if len(sources) != 1:
            given = " and ".join(sources) or "none"
            raise ConfigurationError(f"give exactly one of path=, table= and configure_dataframe=; given: {given}.")
        if (self.table is None) != (self.conn_id is None):
            raise ConfigurationError("table= and conn_id= belong together: the table, and the connection of its database.")
        rules = self._rules(context)
        if self.table is not None and self.conn_id is not None:
            if self.quarantine_path is not None:
                raise ConfigurationError("quarantine_path= works for path= and configure_dataframe=, not for table=.")
            yield from quality.validate_table(
                _database(self.conn_id),
                self.table,
                rules,
                sample_unexpected=self.sample_unexpected,
                data_docs_dir=self.data_docs_dir,
            )
            return
        quarantine = None if self.quarantine_path is None else open_location(self.quarantine_path, self.aws_conn_id)
        if quarantine is not None and isinstance(self.suite, str):
            quality.refuse_replacing(quarantine, open_location(self.suite, self.aws_conn_id))
        if self.path is not None:
            yield from quality.validate_file(
                open_location(self.path, self.aws_conn_id),
                rules,
                sample_unexpected=self.sample_unexpected,
                quarantine=quarantine,
                data_docs_dir=self.data_docs_dir,
            )
            return
        frame = _call("configure_dataframe", self.configure_dataframe, context)
        if type(frame).__name__ != "DataFrame" or not type(frame).__module__.startswith("pandas"):
            raise ConfigurationError(f"configure_dataframe gave a {type(frame).__name__}. Return a pandas DataFrame.")
        yield from quality.validate_frame(
            frame,
            rules,
            subject=Subject(getattr(self.configure_dataframe, "__name__", "dataframe")),
            sample_unexpected=self.sample_unexpected,
            quarantine=quarantine,
            data_docs_dir=self.data_docs_dir,
        )

    def _handle(self, verdict: Verdict) -> Handle | None:
        return None if self.path is None else self._handle_of(verdict, "data-present", self.path)

    def _rules(self, context: Context) -> Rules:
        from airflow_pipesec.checks.expectations import engine
        from airflow_pipesec.checks.quality import Rules, load_suite

        suite = load_suite(open_location(self.suite, self.aws_conn_id)) if isinstance(self.suite, str) else self.suite
        expectations = None
        if self.configure_expectations is not None:
            with engine():  # importing Great Expectations logs at length
                expectations = _call("configure_expectations", self.configure_expectations, context)
        return Rules(suite, expectations, self.column_mapping, self.checks, self.partition_clause)


class DataValidationOperator(DataValidation, GuardOperator):
    """Stop the pipeline unless data meets its expectations. The parameters are those of :class:`DataValidation`."""


class DataValidationSensor(DataValidation, GuardSensor):
    """Wait until there is data that meets its expectations. The parameters are those of :class:`DataValidation`."""


def _call(name: str, function: Callable[..., Any] | None, context: Context) -> Any:
    """Call the author's function; of an exception only the type and the place go on."""
    from airflow.sdk.bases.decorator import determine_kwargs

    if not callable(function):
        raise ConfigurationError(f"{name} is a {type(function).__name__} and cannot be called. Give a function.")
    try:
        result = function(**determine_kwargs(function, (), context))
        return list(result) if isinstance(result, Iterator) else result
    except PipesecError:
        raise
    except Exception as error:
        raise withheld(name, error) from None


def _database(conn_id: str) -> Database:
    """Return where a connection leads, with its secrets: not for any log."""
    from airflow_pipesec.checks.databases import Database

    connection = get_connection(conn_id, "conn_id")
    try:
        hook: Any = connection.get_hook()  # type: ignore[no-untyped-call] # Airflow leaves it untyped
        url = hook.get_sqlalchemy_engine().url
    except Exception as error:
        raise ConfigurationError(
            f"connection {conn_id} (type {connection.conn_type}) gives no SQLAlchemy engine: {type(error).__name__}. "
            "Install the provider of its database, for instance airflow-pipesec[postgres] or [sqlite]."
        ) from None
    # PostgreSQL's hook gives the driver the connection's extras (sslmode, sslrootcert, options, ...), but not to SQLAlchemy.
    ignored = getattr(hook, "ignored_extra_options", None)
    extras = {} if ignored is None else connection.extra_dejson
    arguments = {key: value for key, value in extras.items() if key not in (ignored or ())}
    return Database(url.render_as_string(hide_password=False), arguments)
