"""Bucket policies: what they refuse to everybody, and whether they let everybody in.

A policy is text from outside: a statement that is not of the documented form refuses nothing. Only what is beyond doubt counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Denial", "denials", "lets_everybody_in", "statements"]

Statement = Mapping[str, Any]


class Denial(NamedTuple):
    """A statement that denies everybody something under one condition alone: an operator, the key it looks at, the values."""

    statement: Statement
    operator: str
    key: str
    values: frozenset[str]

    def covers(self, action: str, *resources: str) -> bool:
        """Whether it denies an action on one of the resources, as they are written after ``arn:aws:s3:::``."""
        patterns = (
            re.escape(str(item)).replace(r"\*", ".*").replace(r"\?", ".") for item in _items(self.statement.get("Action"))
        )
        denied = {str(item).rpartition(":::")[2] for item in _items(self.statement.get("Resource"))}
        return any(re.fullmatch(pattern, action, re.IGNORECASE) for pattern in patterns) and bool(denied & {"*", *resources})


def statements(document: str | None) -> list[Statement]:
    """Return the statements of a policy document; what is written as none is left out."""
    try:
        policy = json.loads(document) if document else None
    except (ValueError, RecursionError):
        policy = None
    found = _items(policy.get("Statement")) if isinstance(policy, dict) else []
    return [statement for statement in found if isinstance(statement, dict)]


def denials(found: Sequence[Statement]) -> Iterator[Denial]:
    """Yield the statements that deny everybody something under one condition alone. Keys of conditions are in small letters."""
    for statement in found:
        conditions = statement.get("Condition")
        everybody = statement.get("Principal") in ("*", {"AWS": "*"}, {"AWS": ["*"]})
        if statement.get("Effect") == "Deny" and everybody and isinstance(conditions, dict) and len(conditions) == 1:
            ((operator, condition),) = conditions.items()
            if isinstance(condition, dict) and len(condition) == 1:
                ((key, values),) = condition.items()
                yield Denial(statement, operator, key.lower(), frozenset(str(item) for item in _items(values)))


def lets_everybody_in(found: Sequence[Statement]) -> bool:
    """Whether a statement allows everybody something without a condition."""
    for statement in found:
        principal = statement.get("Principal")
        named = [item for value in principal.values() for item in _items(value)] if isinstance(principal, dict) else principal
        everybody = "*" in _items(named) or "NotPrincipal" in statement
        if statement.get("Effect") == "Allow" and everybody and not statement.get("Condition"):
            return True
    return False


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
