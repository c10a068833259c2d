"""Boosters: the model files of XGBoost and CatBoost are numbers and names, of exactly the length that their structure says.

XGBoost writes UBJSON (https://ubjson.org), and wrote a binary form up to version 2: what is read here is what its own sources
write. CatBoost writes "CBM1", a FlatBuffer with its length, and the tables that the FlatBuffer lists.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Cursor

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["look_catboost", "look_xgboost"]

MOST_VALUES: Final = 20_000_000
MOST_KEYS: Final = 100_000  # of one object
MOST_NESTED: Final = 64
LONGEST_KEY: Final = 4096

_INTEGERS: Final = {b"i": 1, b"U": 1, b"I": 2, b"l": 4, b"L": 8}
_NUMBERS: Final = {**_INTEGERS, b"d": 4, b"D": 8, b"C": 1}
_CONSTANTS: Final = frozenset((b"Z", b"T", b"F"))

BINARY: Final = b"binf"
MODEL_SIZE, TREES_SIZE, TREE_SIZE, LINEAR_SIZE = 136, 160, 148, 136
NODE_SIZE, STATISTICS_SIZE = 20, 16
LONGEST_TEXT: Final = 64 << 20

CORE: Final = b"FlabuffersModel_v1"
COUNTERS: Final = b"static_provider_v1"
TEXTS: Final = b"text_process_v2\0"


def look_xgboost(part: Part) -> None:
    """Look at an XGBoost model: UBJSON of a learner and a version, or the old binary form, to the last byte."""
    part.saw("xgboost")
    cursor = Cursor(part.view)
    if part.view.read_at(0, 4) == BINARY:
        _binary(cursor)
    else:
        _Ubjson(cursor).model()
    if cursor.left:
        raise Unscannable("has bytes behind its model", cursor.place)


def _take(cursor: Cursor, length: int) -> bytes:
    data = cursor.read(length)
    if len(data) != length:
        raise Unscannable("ends too early", cursor.place)
    return data


def _pass(cursor: Cursor, length: int) -> None:
    if not cursor.skip(length):
        raise Unscannable("is shorter than it says", cursor.place)


class _Ubjson:
    """A UBJSON text that is walked, value by value."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.count = 0

    def model(self) -> None:
        """Walk one object with the keys of a model, and all that is in it."""
        cursor = self.cursor
        if _take(cursor, 1) != b"{":
            raise Unscannable("is no UBJSON object", 0)
        # What is open: of an object its keys so far, of an array how many values are to come.
        opened: list[set[bytes] | int] = [set()]
        while opened:
            self.count += 1
            if self.count > MOST_VALUES:
                raise Unscannable(f"has more than {MOST_VALUES:,} values", cursor.place)
            inner = opened[-1]
            if isinstance(inner, int):
                if not inner:
                    opened.pop()
                    continue
                opened[-1] = inner - 1
            elif (marker := _take(cursor, 1)) == b"}":
                opened.pop()
                if not opened and inner != {b"learner", b"version"}:
                    raise Unscannable("is no model of XGBoost: it has other keys than learner and version")
                continue
            else:
                self._key(inner, marker)
            if len(opened) > MOST_NESTED:
                raise Unscannable(f"is nested more than {MOST_NESTED} deep", cursor.place)
            self._value(opened)

    def _key(self, keys: set[bytes], marker: bytes) -> None:
        place = self.cursor.place
        length = self._integer(marker)
        if length > LONGEST_KEY or len(keys) >= MOST_KEYS:
            raise Unscannable("has a key that is too long, or too many of them", place)
        key = _take(self.cursor, length)
        if key in keys:
            raise Unscannable(f"has the key {named(key)} twice in one object, which readers take in different ways", place)
        keys.add(key)

    def _value(self, opened: list[set[bytes] | int]) -> None:
        cursor = self.cursor
        marker = _take(cursor, 1)
        if marker == b"{":
            opened.append(set())
        elif marker == b"[":
            kind = _take(cursor, 1)
            if kind == b"$":
                kind = _take(cursor, 1)
                if kind not in _NUMBERS or _take(cursor, 1) != b"#":
                    raise Unscannable("has an array of a type that XGBoost does not write", cursor.place)
                _pass(cursor, self._integer(_take(cursor, 1)) * _NUMBERS[kind])
            elif kind == b"#":
                number = self._integer(_take(cursor, 1))
                if number > cursor.left:
                    raise Unscannable("has an array of more values than it has bytes", cursor.place)
                opened.append(number)
            else:
                raise Unscannable("has an array without a length, which XGBoost does not write", cursor.place)
        elif marker == b"S":
            _pass(cursor, self._integer(_take(cursor, 1)))
        elif marker in _NUMBERS:
            _pass(cursor, _NUMBERS[marker])
        elif marker not in _CONSTANTS:
            raise Unscannable(f"has a value of the type {named(marker)}, which XGBoost does not write", cursor.place)

    def _integer(self, marker: bytes) -> int:
        place = self.cursor.place
        if marker not in _INTEGERS:
            raise Unscannable(f"has a length of the type {named(marker)}, which is no whole number", place)
        value = int.from_bytes(_take(self.cursor, _INTEGERS[marker]), "big", signed=marker != b"U")
        if value < 0:
            raise Unscannable("has a negative length", place)
        return value


def _binary(cursor: Cursor) -> None:
    """Walk the old form: fixed records of parameters, texts with their lengths, and trees with theirs."""
    _pass(cursor, len(BINARY))
    model = _take(cursor, MODEL_SIZE)
    has_attributes, has_metrics = _word(model, 3), _word(model, 4)
    _text(cursor)
    booster = _text(cursor)
    if booster in ("gbtree", "dart"):
        trees = _word(_take(cursor, TREES_SIZE), 0)
        _demand_room(cursor, trees, TREE_SIZE)
        for _ in range(trees):
            _tree(cursor)
        _pass(cursor, 4 * trees)
        if booster == "dart" and trees:
            _pass(cursor, 4 * _count(cursor, 4))
    elif booster == "gblinear":
        _pass(cursor, LINEAR_SIZE)
        _pass(cursor, 4 * _count(cursor, 4))
    else:
        raise Unscannable(f"is of the booster {named(booster)}, which is not known", cursor.place)
    if has_attributes:
        for _ in range(_count(cursor, 16)):
            _text(cursor)
            _text(cursor)
    if has_metrics:
        for _ in range(_count(cursor, 8)):
            _text(cursor)


def _tree(cursor: Cursor) -> None:
    place = cursor.place
    tree = _take(cursor, TREE_SIZE)
    nodes, vectors = _word(tree, 1), _word(tree, 5)
    if vectors not in (0, 1):
        raise Unscannable("has trees whose leaves are vectors, which are not read here", place)
    _pass(cursor, nodes * (NODE_SIZE + STATISTICS_SIZE))


def _word(record: bytes, index: int) -> int:
    return int.from_bytes(record[4 * index : 4 * index + 4], "little")


def _count(cursor: Cursor, least: int) -> int:
    number = int.from_bytes(_take(cursor, 8), "little")
    _demand_room(cursor, number, least)
    return number


def _demand_room(cursor: Cursor, number: int, least: int) -> None:
    """Demand that as many items can follow, of some bytes each at least."""
    if number > cursor.left // least:
        raise Unscannable("says that more follows than there is", cursor.place)
    if number > MOST_VALUES:
        raise Unscannable(f"has more than {MOST_VALUES:,} values", cursor.place)


def _text(cursor: Cursor) -> str:
    length = int.from_bytes(_take(cursor, 8), "little")
    if length > LONGEST_TEXT:
        raise Unscannable("has a text that is too long to be read", cursor.place)
    if length > LONGEST_KEY:
        _pass(cursor, length)
        return ""
    return _take(cursor, length).decode("utf-8", "replace")


def look_catboost(part: Part) -> None:
    """Look at a CatBoost model: the core has the length it says, and so have the tables that it lists."""
    part.saw("catboost")
    size = int.from_bytes(part.read(4, 4), "little")
    if size > part.size - 8:
        raise Unscannable("is shorter than it says", 4)
    flat = _Flat(part, 8, size)
    if flat.text(flat.field(0)) != CORE:
        raise Unscannable("has a core of a version that is not known", 8)
    cursor = Cursor(part.view, 8 + size)
    ids = flat.texts(flat.field(3))
    for index, each in enumerate(ids):
        if each == COUNTERS:
            tables = int.from_bytes(_take(cursor, 4), "little")
            _demand_room(cursor, tables, 4)
            for _ in range(tables):
                _pass(cursor, int.from_bytes(_take(cursor, 4), "little"))
        elif each == TEXTS and index == len(ids) - 1:
            # Dictionaries and what words are counted with. Their lengths are spread over many records, and nothing follows them.
            if _take(cursor, len(TEXTS)) != TEXTS:
                raise Unscannable("has no tables for texts where it lists them", cursor.place)
            _pass(cursor, cursor.left)
        else:
            raise Unscannable(f"has a part {named(each)}, which is not known here", cursor.place)
    if cursor.left:
        raise Unscannable("has bytes behind its model", cursor.place)


class _Flat:
    """The root table of a FlatBuffer (https://flatbuffers.dev/internals) that lies at some place of a part."""

    def __init__(self, part: Part, start: int, size: int) -> None:
        self.part, self.start, self.size = part, start, size
        self.root = self.number(0, 4)
        self.table = self.root - int.from_bytes(self.piece(self.root, 4), "little", signed=True)
        self.length = self.number(self.table, 2)

    def piece(self, place: int, length: int) -> bytes:
        if place < 0 or place + length > self.size:
            raise Unscannable("has a core that points out of itself", self.start)
        return self.part.read(self.start + place, length) if length else b""

    def number(self, place: int, length: int) -> int:
        return int.from_bytes(self.piece(place, length), "little")

    def field(self, index: int) -> int:
        """Return the place of what a field refers to; 0 for a field that is not there."""
        slot = 4 + 2 * index
        offset = self.number(self.table + slot, 2) if slot + 2 <= self.length else 0
        return self.root + offset + self.number(self.root + offset, 4) if offset else 0

    def text(self, place: int) -> bytes:
        """Return a text; nothing for one that is not there."""
        return self.piece(place + 4, min(self.number(place, 4), LONGEST_KEY)) if place else b""

    def texts(self, place: int) -> list[bytes]:
        """Return a vector of texts."""
        number = self.number(place, 4) if place else 0
        if number > 16:
            raise Unscannable("lists more parts than there are kinds of", self.start)
        slots = [place + 4 + 4 * index for index in range(number)]
        return [self.text(slot + self.number(slot, 4)) for slot in slots]
