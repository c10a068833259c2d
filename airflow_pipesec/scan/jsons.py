"""JSON as a file may hold it: one reading only, of bounded size, or none.

Duplicate keys, which readers resolve in different ways, are refused. ``NaN`` and the infinities are taken: Python writes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from airflow_pipesec.scan.scanner import Unscannable, named

__all__ = ["MOST_NESTED", "MOST_VALUES", "NotJson", "parsed", "walked"]

MOST_VALUES = 12_000_000
"""Of one text, where a list counts as three and an object as eight, for the memory that they take. The largest tokenizers have
some three million of these."""
MOST_NESTED = 200


class NotJson(Unscannable):
    """What Python's reader of JSON does not take either."""


def parsed(data: bytes, what: str) -> Any:
    """Return the value of a JSON text. ``what`` is what it is called in the :class:`Unscannable` that bad ones raise."""
    # Those within texts count as well: an upper bound is wanted, before anything is built.
    if data.count(b",") + 3 * data.count(b"[") + 8 * data.count(b"{") > MOST_VALUES:
        raise Unscannable(f"has {what} of more values than are read at once")
    try:
        # Python's json guesses at UTF-16 and UTF-32 when it is given bytes.
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise Unscannable(f"has {what} that is not UTF-8", error.start) from None
    except json.JSONDecodeError as error:
        raise NotJson(f"has {what} that is no valid JSON (character {error.pos:,})") from None
    except RecursionError:
        raise Unscannable(f"has {what} that is nested too deep to be read") from None
    except ValueError:
        raise Unscannable(f"has {what} with a number that is too long to be read") from None


def walked(value: Any) -> Iterator[Any]:
    """Yield every object and list within a JSON value, itself first. Raises :class:`Unscannable` for what is nested too deep."""
    level, depth = [value], 0
    while level:
        if depth > MOST_NESTED:
            raise Unscannable(f"is nested more than {MOST_NESTED} deep")
        deeper: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                yield each
                deeper += [inner for inner in each.values() if isinstance(inner, dict | list)]
            elif isinstance(each, list):
                yield each
                deeper += [inner for inner in each if isinstance(inner, dict | list)]
        level, depth = deeper, depth + 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
        raise Unscannable(f"has the key {named(twice)} twice in one JSON object, which readers take in different ways")
    return found
