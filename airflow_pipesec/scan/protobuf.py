"""Protobuf: messages are read field by field, by a table of what a message may hold, and what is long is passed over unread.

https://protobuf.dev/programming-guides/encoding is the specification. It leaves readers room that is not left here: a field
that a message has once may not come twice (some readers merge, some take the last), no number may be written longer than it needs
to be, and a field that the table lacks is one that nobody here can judge.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from airflow_pipesec.scan.scanner import Unscannable

if TYPE_CHECKING:
    from airflow_pipesec.scan.views import View

__all__ = ["FIXED32", "FIXED64", "LENGTH", "VARINT", "Field", "Message", "Wire", "message"]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
_BYTES_OF_FIXED: Final = {FIXED64: 8, FIXED32: 4}

MOST_FIELDS = 20_000_000
"""Of one file. A run of numbers counts as one."""
MOST_NESTED = 100  # the limit of the reference implementation
LONGEST_NAME = 1 << 16
HIGHEST_NUMBER = (1 << 29) - 1

WINDOW = 1 << 16
SMALL_WINDOW = 1 << 12
LONGEST_HEAD = 20  # a tag and a number, ten bytes each at most


class Field(NamedTuple):
    """One field as it lies in the file.

    ``value`` is the number that it holds, or the length of what it holds; ``start`` is where that begins, and ``place`` where the
    field does. Of a run of numbers that each have a tag of their own only the first is told.
    """

    number: int
    wire: int
    value: int
    start: int
    place: int

    @property
    def end(self) -> int:
        """Where the content of a field with a length ends."""
        return self.start + self.value


class Message(NamedTuple):
    """What a message may hold: the wire types of each field, and which fields it has once at most."""

    wires: dict[int, tuple[int, ...]]
    once: frozenset[int]


def message(
    *, ints: str = "", f32: str = "", data: str = "", many: str = "", many_ints: str = "", many_f32: str = "", many_f64: str = ""
) -> Message:
    """Return the table of a message. Each argument holds field numbers; ``many`` are repeated, and ``data`` are of any length."""
    wires: dict[int, tuple[int, ...]] = {}
    for numbers, allowed in (
        (ints, (VARINT,)),
        (f32, (FIXED32,)),
        (data, (LENGTH,)),
        (many, (LENGTH,)),
        (many_ints, (VARINT, LENGTH)),
        (many_f32, (FIXED32, LENGTH)),
        (many_f64, (FIXED64, LENGTH)),
    ):
        wires.update((int(number), allowed) for number in numbers.split())
    return Message(wires, frozenset(int(number) for number in f"{ints} {f32} {data}".split()))


class Wire:
    """A view that messages are read from. It keeps one window of it in memory, and counts the fields of all of them."""

    __slots__ = ("base", "buffer", "count", "most", "view")

    def __init__(self, view: View, most: int = MOST_FIELDS) -> None:
        self.view = view
        self.base = 0
        self.buffer = b""
        self.count = 0
        self.most = most

    def text(self, field: Field, what: str) -> str:
        """Return a field's content as text. Raises :class:`Unscannable` for what is no short text."""
        if field.value > LONGEST_NAME:
            raise Unscannable(f"has {what} of more than {LONGEST_NAME:,} bytes", field.place)
        try:
            return self.bytes_of(field, field.value).decode()
        except UnicodeDecodeError:
            raise Unscannable(f"has {what} that is not UTF-8", field.place) from None

    def bytes_of(self, field: Field, most: int) -> bytes:
        """Return the beginning of a field's content."""
        start, length = field.start - self.base, min(field.value, most)
        if start >= 0 and start + length <= len(self.buffer):
            return self.buffer[start : start + length]
        return self.view.read_at(field.start, length)

    def numbers(self, field: Field) -> list[int]:
        """Return the numbers of a packed list. Raises :class:`Unscannable` for a long list, and for one that is not packed."""
        if field.wire != LENGTH or field.value > LONGEST_NAME:
            raise Unscannable("has a list of numbers that is too long, or is not packed", field.place)
        place, found = field.start, []
        while place < field.end:
            self._fill(place)
            number, place = self._number(place, field.end, "a list of numbers")
            found.append(number)
        return found

    def fields(self, start: int, end: int, table: Message, what: str, depth: int = 0) -> Iterator[Field]:
        """Yield the fields of a message. ``what`` is what it is called in the :class:`Unscannable` that a bad one raises."""
        if depth > MOST_NESTED:
            raise Unscannable(f"has messages within messages more than {MOST_NESTED} deep", start)
        if end > self.view.size:
            raise Unscannable(f"ends within {what}", start)
        place, seen = start, 0
        while place < end:
            field = self._field(place, end, what)
            allowed = table.wires.get(field.number)
            if allowed is None:
                raise Unscannable(f"has {what} with the field {field.number}, which is not known here", place)
            if field.wire not in allowed:
                raise Unscannable(f"has {what} with the field {field.number} as of another type", place)
            if field.number in table.once:
                if seen >> field.number & 1:
                    raise Unscannable(
                        f"has {what} with the field {field.number} twice, which readers take in different ways", place
                    )
                seen |= 1 << field.number
            self.count += 1
            if self.count > self.most:
                raise Unscannable(f"has more than {self.most:,} fields", place)
            yield field
            place = field.end if field.wire == LENGTH else self._behind(field, end, alone=field.number in table.once)

    def _field(self, place: int, end: int, what: str) -> Field:
        """Read the field at a place: its tag, and its number or the length of its content, which is there."""
        self._fill(place)
        tag, at = self._number(place, end, what)
        number, wire = tag >> 3, tag & 7
        if not 0 < number <= HIGHEST_NUMBER:
            raise Unscannable(f"has {what} with a field of an impossible number", place)
        if wire in _BYTES_OF_FIXED:
            if at + _BYTES_OF_FIXED[wire] > end:
                raise Unscannable(f"has {what} that ends within a field", place)
            return Field(number, wire, 0, at, place)
        if wire not in (VARINT, LENGTH):
            raise Unscannable(f"has {what} with a field of the wire type {wire}, which is not read here", place)
        value, behind = self._number(at, end, what)
        if wire == LENGTH and value > end - behind:
            raise Unscannable(f"has {what} with a field that is longer than it", place)
        return Field(number, wire, value, at if wire == VARINT else behind, place)

    def _behind(self, field: Field, end: int, *, alone: bool) -> int:
        """Return where a number ends; where it need not be alone, the run of such that it begins."""
        size = _BYTES_OF_FIXED.get(field.wire)
        self._fill(field.place)
        first = field.place - self.base
        limit = min(len(self.buffer), end - self.base)
        tag = self.buffer[first : field.start - self.base]
        if size is not None:
            if alone or len(tag) != 1:
                return field.start + size
            whole = (limit - first) // (size + 1)
            same = self.buffer[first : first + whole * (size + 1) : size + 1]
            return field.place + max(1, len(same) - len(same.lstrip(tag))) * (size + 1)
        run = (_ONE if alone else _runs(tag)).match(self.buffer, first, limit)
        assert run is not None, "its first number was read already"  # noqa: S101 - narrows the type: _field() read it
        return self.base + run.end()

    def _number(self, place: int, end: int, what: str) -> tuple[int, int]:
        """Return the number at a place and where it ends."""
        at = place - self.base
        # Most are of one byte.
        if place < end and at < len(self.buffer) and (first := self.buffer[at]) < 128:
            return first, place + 1
        data = self.buffer[at : min(at + 10, end - self.base)]
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 127) << 7 * index
            if byte < 128:
                if (byte == 0 and index) or value >> 64:
                    raise Unscannable(f"has {what} with a number that is written longer than it needs to be", place)
                return value, place + index + 1
        why = "a number of more than ten bytes" if len(data) == 10 else "a number that is cut off"
        raise Unscannable(f"has {what} with {why}", place)

    def _fill(self, place: int) -> None:
        """Make the window hold the head of a field that begins at a place, as far as there is one."""
        behind = self.base + len(self.buffer)
        if self.base <= place and min(place + LONGEST_HEAD, self.view.size) <= behind:
            return
        # Whoever has jumped over a tensor jumps again; whoever reads on reads on.
        length = WINDOW if self.base <= place <= behind else SMALL_WINDOW
        self.base, self.buffer = place, self.view.read_at(place, length)


_ONE = re.compile(b"[\\x80-\\xff]*[\\x00-\\x7f][\\x80-\\xff]*[\\x00-\\x7f]")  # a tag, and a number


def _runs(tag: bytes) -> re.Pattern[bytes]:
    """Return what matches numbers, each behind this tag, that are written as short as can be."""
    # A first byte below 128 is a whole number; a longer one does not end in zero. re keeps what it compiled.
    return re.compile(b"(?:%b(?:[\\x00-\\x7f]|[\\x80-\\xff]{1,8}[\\x01-\\x7f]|[\\x80-\\xff]{9}\\x01))+" % re.escape(tag))
