"""Documents: YAML and JSON from outside are read in the one way that every reader would, or not at all."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable
from typing import Any

from airflow_pipesec.errors import ConfigurationError, EvidenceError, PipesecError, unique_keys

__all__ = ["canonical", "demand_plain", "place_in_yaml", "strict_base64", "strict_json", "strict_yaml"]

_PROBLEMS = ("a key is given twice", "a key is not text", "aliases are not allowed")
MOST = 2**53 - 1  # beyond it, readers whose numbers are all floating-point see another one
DEEPEST = 64  # levels of lists and objects; said here, or it would depend on the stack of who reads


def canonical(document: Any) -> bytes:
    r"""Return the one form of a document of objects, lists, text, whole numbers, true, false and null.

    It is JSON in ASCII with sorted keys and no white space, each character that is not printable ASCII as its escape (``\n``,
    ``\uNNNN``, a pair of these beyond U+FFFF). Two documents that are equal have the same bytes, and two that differ do not.
    Raises :class:`EvidenceError` for anything else, which :func:`strict_json` would not read back: a number that is not whole,
    half a surrogate pair.
    """
    demand_plain(document)
    return _dumped(document)


def demand_plain(document: Any) -> None:
    """Raise :class:`EvidenceError` for what has no :func:`canonical` form."""
    try:
        _demand_plain(document)
    except _Refused as error:
        raise EvidenceError(f"a document cannot be written: {error}. Leave that out of it.") from None
    except RecursionError:
        raise EvidenceError("a document cannot be read: no room is left on the stack. Look at what called for it.") from None


def _dumped(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def strict_json(data: bytes, what: str) -> Any:
    """Read a document in its :func:`canonical` form. Raises :class:`EvidenceError`, naming ``what``, for any other bytes."""
    try:
        document = json.loads(
            data.decode("ascii"),
            object_pairs_hook=unique_keys,
            parse_float=_no_number,
            parse_constant=_no_number,
            parse_int=_whole_number,
        )
        _demand_plain(document)
        same = _dumped(document) == data
    except (ValueError, RecursionError) as error:
        kind = str(error) if isinstance(error, _Refused) else type(error).__name__
        raise EvidenceError(f"{what} is not JSON as it is written here ({kind})") from None
    if not same:
        raise EvidenceError(f"{what} is not in the one form in which it is written here")
    return document


class _Refused(ValueError):
    pass


def _demand_plain(part: Any, level: int = 0) -> None:
    """Raise :class:`_Refused`, which quotes nothing, where a part of a document has no one way to be written."""
    if isinstance(part, str):
        if not part.isascii():
            _demand_text(part)
    elif isinstance(part, dict | list | tuple):
        if level == DEEPEST:
            raise _Refused(f"it is nested deeper than {DEEPEST} levels")
        if isinstance(part, dict):
            for key in part:
                if not isinstance(key, str):
                    raise _Refused("a key is not text")
                _demand_text(key)
        for item in part.values() if isinstance(part, dict) else part:
            _demand_plain(item, level + 1)
    elif isinstance(part, int):
        if abs(part) > MOST:
            raise _Refused("a number is too large")
    elif isinstance(part, float):
        raise _Refused("a number is not a whole one")
    elif part is not None:
        raise _Refused(f"a {type(part).__name__} is not JSON")


def _demand_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # which has the text in it
        raise _Refused("a text holds half a surrogate pair") from None


def _no_number(text: str) -> Any:
    raise _Refused("a number is not a whole one")


def _whole_number(text: str) -> int:
    if len(text) > len(str(MOST)) + 1 or abs(number := int(text)) > MOST:
        raise _Refused("a number is too large")
    return number


def strict_base64(text: Any, what: str) -> bytes:
    """Decode base64 in its one standard form: of the texts that decode to the same bytes, one is meant.

    Raises :class:`EvidenceError`, naming ``what``, for any other.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raw = None
    if raw is None or base64.b64encode(raw).decode("ascii") != text:
        raise EvidenceError(f"{what} is not canonical base64")
    return raw


def strict_yaml(raw: bytes, where: str, error: Callable[[str], PipesecError] = ConfigurationError) -> Any:
    """Read safe YAML in which no key is given twice, every key is text, and aliases, a way to blow up memory, do not exist.

    What looks like a date stays text. Raises ``error`` with the line and the column, and without a piece of the file, which may
    be any file at all.
    """
    import yaml

    class StrictLoader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call] # types-PyYAML leaves it untyped
                raise yaml.constructor.ConstructorError(None, None, "aliases are not allowed", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                key = self.construct_object(key_node, deep=True)
                if not isinstance(key, str) or key in seen:
                    problem = "a key is given twice" if isinstance(key, str) else "a key is not text"
                    raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
                seen.add(key)
            return super().construct_mapping(node, deep=deep)

    # Days stay text: the 31st of February raises here without a place, and where days are judged with one.
    StrictLoader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)
    try:
        return yaml.load(raw, Loader=StrictLoader)  # noqa: S506 - StrictLoader is a SafeLoader
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = fault.problem if fault.problem in _PROBLEMS else "it cannot be parsed"
        raise error(f"{where}{place} is not valid YAML: {problem}. Mend the file at that place.") from None
    except Exception as fault:
        # Values such as a number too long to be one: what constructing them raises depends on the value.
        raise error(f"{where} is not valid YAML: a value cannot be read ({type(fault).__name__}). Mend the file.") from None


def place_in_yaml(raw: bytes, path: Iterable[int | str]) -> tuple[int, int] | None:
    """Return line and column, from 1, of a part of a YAML document that :func:`strict_yaml` reads: of its key where it has one.

    Of a part that is not there, the place of what it would be in. None where there is nothing to point at.
    """
    import yaml

    node = yaml.compose(raw, Loader=yaml.SafeLoader)
    mark = None if node is None else node.start_mark
    for part in path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == part), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            mark = node.start_mark
        else:
            break
    return None if mark is None else (mark.line + 1, mark.column + 1)
