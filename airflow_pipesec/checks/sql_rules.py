"""SQL rules: the mappings that common.sql's check operators take, each as one query for one value and a comparison of that value.

``column_mapping`` and ``checks`` have exactly the shapes of ``SQLColumnCheckOperator`` and ``SQLTableCheckOperator``. The value
is compared here and not in the database, as common.sql does it: SQLite would hold that every text is greater than any number.
Two things differ: a rule whose result is NULL, because no row was there to look at, does not hold (there NULL counts as 0), and a
bound may be text that is a number or a date, since that is what a template leaves behind.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple

from airflow_pipesec.errors import ConfigurationError

__all__ = ["NotComparable", "SqlRule", "sql_rules"]

_AGGREGATES = {
    "null_check": "SUM(CASE WHEN {column} IS NULL THEN 1 ELSE 0 END)",
    "distinct_check": "COUNT(DISTINCT({column}))",
    "unique_check": "COUNT({column}) - COUNT(DISTINCT({column}))",
    "min": "MIN({column})",
    "max": "MAX({column})",
}
_COUNTS = ("null_check", "distinct_check", "unique_check")
_COMPARISONS = ("equal_to", "greater_than", "geq_to", "less_than", "leq_to")


class NotComparable(Exception):
    """A value of the data and the bound of a rule are of kinds that have no order; carries the kinds' names, no value."""


class SqlRule(NamedTuple):
    """One rule: a name for people, the column if it speaks of one, a query for one value, and what that value may be.

    ``head``, ``where`` and ``tail`` are the query before and after the table's name; in the head of a column's rule ``{column}``
    stands for the column. ``counts`` says that the value is a mere count, which may be told; any other is data.
    """

    name: str
    column: str | None
    head: str
    where: str
    tail: str
    counts: bool
    bounds: Mapping[str, Any]

    def query(self, table: str, column: str | None) -> str:
        """Return the query over a table and a column, whose names come quoted as their database wants them."""
        head = self.head if self.column is None else self.head.format(column=column or self.column)
        return f"{head}{table}{self.where}{self.tail}"

    def holds(self, observed: Any) -> bool:
        """Whether the query's value satisfies every bound. Raises :class:`NotComparable` where that makes no sense."""
        if observed is None:
            return False
        try:
            outcomes = [self._within(name, observed) for name in _COMPARISONS if name in self.bounds]
        except (TypeError, ArithmeticError):
            kinds = sorted({type(self.bounds[name]).__name__ for name in _COMPARISONS if name in self.bounds})
            raise NotComparable(f"a {type(observed).__name__} has no order beside a {' or '.join(kinds)}") from None
        return all(outcomes)

    def _within(self, name: str, observed: Any) -> bool:
        mine, bound = _same_kind(observed, self.bounds[name])
        share = _number(self.bounds.get("tolerance")) or 0
        # A tolerance of none is no addition at all: dates and text take none.
        slack = abs(bound) * (Decimal(str(share)) if isinstance(bound, Decimal) else float(share)) if share else None
        low, high = (bound, bound) if slack is None else (bound - slack, bound + slack)
        if name == "equal_to":
            return bool(mine == bound) if slack is None else bool(low <= mine <= high)
        if isinstance(mine, str) and _number(bound) is not None:
            raise TypeError  # as text "9" is more than "10"
        if name in ("greater_than", "geq_to"):
            return bool(mine > low if name == "greater_than" else mine >= low)
        return bool(mine < high if name == "less_than" else mine <= high)


def sql_rules(
    column_mapping: Mapping[str, Mapping[str, Mapping[str, Any]]] | None,
    checks: Mapping[str, Mapping[str, str]] | None,
    partition_clause: str | None,
) -> Iterator[SqlRule]:
    """Turn both mappings into rules.

    Raises :class:`ConfigurationError` for what common.sql's operators would refuse, and for a partition of no rule.
    """
    if partition_clause and not column_mapping and not checks:
        raise ConfigurationError(
            "partition_clause is given without column_mapping and checks, and no other rule goes by it. "
            "Use row_condition in an expectation, or leave it out."
        )
    for column, column_checks in _mapping("column_mapping", column_mapping).items():
        if not isinstance(column_checks, Mapping) or not column_checks:
            raise ConfigurationError(f"column_mapping[{column!r}] holds no check. Use one of {', '.join(_AGGREGATES)}.")
        for check, bounds in column_checks.items():
            yield _column_rule(column, check, bounds, partition_clause)
    for name, check_of_table in _mapping("checks", checks).items():
        if not isinstance(check_of_table, Mapping) or not check_of_table.get("check_statement"):
            raise ConfigurationError(f"checks[{name!r}] has no check_statement, the SQL condition that must hold.")
        if unknown := set(check_of_table) - {"check_statement", "partition_clause"}:
            raise ConfigurationError(f"checks[{name!r}] has unknown keys: {', '.join(sorted(map(str, unknown)))}.")
        statement = _one_statement(f"checks[{name!r}]", check_of_table["check_statement"])
        head = f"SELECT MIN(result) FROM (SELECT CASE WHEN {statement} THEN 1 ELSE 0 END AS result FROM "  # noqa: S608 - the author's SQL
        where = _where(partition_clause, check_of_table.get("partition_clause"))
        yield SqlRule(str(name), None, head, where, ") AS results", counts=False, bounds={"equal_to": 1})


def _mapping(name: str, value: Any) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{name} is a {type(value).__name__}. Give a mapping, as common.sql's check operators take it.")
    return value


def _column_rule(column: str, check: str, bounds: Any, partition_clause: str | None) -> SqlRule:
    where = f"column_mapping[{column!r}][{check!r}]"
    if check not in _AGGREGATES:
        raise ConfigurationError(f"{where} is unknown. Use one of {', '.join(_AGGREGATES)}.")
    if not isinstance(bounds, Mapping) or not set(bounds) & set(_COMPARISONS):
        raise ConfigurationError(f"{where} compares with nothing. Give one or more of {', '.join(_COMPARISONS)}.")
    if unknown := set(bounds) - {*_COMPARISONS, "tolerance", "partition_clause"}:
        raise ConfigurationError(f"{where} has unknown keys: {', '.join(sorted(map(str, unknown)))}.")
    for name in set(bounds) & set(_COMPARISONS):
        _refuse_bound(where, bounds[name], counts=check in _COUNTS)
    _refuse_tolerance(where, bounds)
    _refuse_contradictions(where, bounds)
    head = f"SELECT {_AGGREGATES[check]} FROM "  # noqa: S608 - an aggregate of ours
    rows = _where(partition_clause, bounds.get("partition_clause"))
    return SqlRule(f"{check}({column})", column, head, rows, "", counts=check in _COUNTS, bounds=bounds)


def _refuse_bound(where: str, value: Any, *, counts: bool) -> None:
    number = _number(value)
    if number is not None and not _finite(number):
        raise ConfigurationError(f"{where} compares with {value}. Give a finite number.")
    if number is None and (counts or not isinstance(value, str | date)):
        wanted = "a number" if counts else "a number, text or a date"
        raise ConfigurationError(f"{where} compares with a {type(value).__name__}. Give {wanted}.")


def _refuse_tolerance(where: str, bounds: Mapping[str, Any]) -> None:
    given = bounds.get("tolerance")
    if given is None:
        return
    tolerance = None if isinstance(given, bool) else _number(given)
    if tolerance is None or not _finite(tolerance) or tolerance < 0:
        raise ConfigurationError(f"{where}: tolerance is a share such as 0.1, not negative.")
    if any(_number(bounds[name]) is None for name in set(bounds) & set(_COMPARISONS)):
        raise ConfigurationError(f"{where}: tolerance needs a number to widen. Leave it out for dates and text.")


def _refuse_contradictions(where: str, bounds: Mapping[str, Any]) -> None:
    for one, other in (("greater_than", "geq_to"), ("less_than", "leq_to")):
        if one in bounds and other in bounds:
            raise ConfigurationError(f"{where} gives both {one} and {other}. Give only one of them.")
    if "equal_to" in bounds and (both := set(bounds) & set(_COMPARISONS[1:])):
        raise ConfigurationError(f"{where} gives equal_to beside {', '.join(sorted(both))}. Give only one of them.")
    for low in ("greater_than", "geq_to"):
        for high in ("less_than", "leq_to"):
            if low in bounds and high in bounds:
                try:
                    most, least = _same_kind(bounds[high], bounds[low])
                    least, most = _same_kind(least, most)
                    empty = bool(least > most or (least == most and (low, high) != ("geq_to", "leq_to")))
                except (TypeError, ArithmeticError):
                    raise ConfigurationError(f"{where}: {low} and {high} are of kinds that have no order.") from None
                if empty:
                    raise ConfigurationError(f"{where}: nothing can hold both {low} and {high} as given.")


def _number(value: Any) -> int | float | Decimal | None:
    """Return a number as it is, text that is a number as one, and None for anything else."""
    if isinstance(value, int | float | Decimal):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
    return None


def _finite(number: float | Decimal) -> bool:
    if isinstance(number, int):
        return True
    return number.is_finite() if isinstance(number, Decimal) else math.isfinite(number)


def _same_kind(observed: Any, bound: Any) -> tuple[Any, Any]:
    """Bring a value of the data and a bound to kinds that compare, as far as no doubt is left.

    Text of the data is never taken for a number or a date: the least text of ``["10", "9"]`` is ``"10"``, and a rule would pass
    that the numbers fail.
    """
    if isinstance(bound, str) and isinstance(observed, int | float | Decimal):
        number = _number(bound)
        bound = bound if number is None else number
    elif isinstance(bound, str) and isinstance(observed, date):
        bound = _date(bound, observed)
    if isinstance(bound, datetime) and isinstance(observed, date) and not isinstance(observed, datetime):
        observed = datetime(observed.year, observed.month, observed.day, tzinfo=bound.tzinfo)
    elif isinstance(observed, datetime) and isinstance(bound, date) and not isinstance(bound, datetime):
        bound = datetime(bound.year, bound.month, bound.day, tzinfo=observed.tzinfo)
    return observed, bound


def _date(text: str, beside: date) -> Any:
    try:
        return datetime.fromisoformat(text) if isinstance(beside, datetime) else date.fromisoformat(text)
    except ValueError:
        return text


def _where(*clauses: str | None) -> str:
    # In parentheses, so that an OR inside of one stays there.
    given = [f"({_one_statement('partition_clause', clause)})" for clause in clauses if clause]
    return f" WHERE {' AND '.join(given)}" if given else ""


def _one_statement(where: str, sql: Any) -> str:
    """Refuse a semicolon, as common.sql does: what a template brings in must not end the query and begin another."""
    if not isinstance(sql, str) or ";" in sql:
        raise ConfigurationError(f"{where} is not one piece of SQL text without a semicolon. Write the condition alone.")
    return sql
