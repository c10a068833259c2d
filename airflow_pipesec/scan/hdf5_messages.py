"""Messages of HDF5 objects: where their headers are, and what the ones that matter say.

Written to the HDF5 file format specification, version 3.0 (IV.A, data object headers).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from airflow_pipesec.scan.hdf5_dense import NOWHERE, Bytes
from airflow_pipesec.scan.scanner import Unscannable, named

__all__ = ["Attribute", "Link", "Message", "attribute", "filters", "link", "messages", "number"]

LARGEST_HEADER = 16 << 20
MOST_CHUNKS = 4096
MOST_MESSAGES = 1 << 18
MOST_TEXTS = 1 << 20
CONTINUATION = 0x10
SHARED = 2  # a flag of a message: it stands elsewhere

STRING, OPAQUE, VARIABLE = 3, 5, 9


class Message(NamedTuple):
    """One message: its type, its flags, where its data is, and the data."""

    kind: int
    flags: int
    place: int
    data: bytes


class Link(NamedTuple):
    """One link: its name, its type (0 hard, 1 soft, 64 external), and for a hard one the place of the object."""

    name: bytes
    kind: int
    target: int


class Attribute(NamedTuple):
    """One attribute. ``texts`` are the bytes of strings, ``variable`` the references to those that lie in a global heap."""

    name: bytes
    texts: list[bytes]
    variable: list[bytes]
    scalar: bool


def number(data: bytes, start: int, length: int) -> int:
    """Return a whole number. Raises :class:`Unscannable` where the data ends before."""
    if start + length > len(data):
        raise Unscannable("has a structure that ends too early")
    return int.from_bytes(data[start : start + length], "little")


def messages(file: Bytes, place: int) -> Iterator[Message]:
    """Yield the messages of the object header at a place, those of its continuations included."""
    head = file.read(place, 16)
    newer = head[:4] == b"OHDR"
    if newer:
        if head[4] != 2:
            raise Unscannable(f"has an object header of the unknown version {head[4]}", place)
        flags = head[5]
        start = 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        length, start = number(file.read(place + start, width), 0, width), start + width
        ordered = bool(flags & 4)
    else:
        if head[0] != 1:
            raise Unscannable("has no object header where one should be, or one of an unknown version", place)
        length, start, ordered = number(head, 8, 4), 16, False
    waiting, seen, count = [(place + start, length)], {place + start}, 0
    while waiting:
        at, size = waiting.pop(0)
        if size > LARGEST_HEADER:
            raise Unscannable(f"has an object header of {size:,} bytes", at)
        for message in _chunk(file.read(at, size), at, newer=newer, ordered=ordered):
            count += 1
            if count > MOST_MESSAGES:
                raise Unscannable(f"has an object of more than {MOST_MESSAGES:,} messages", place)
            if message.kind != CONTINUATION:
                yield message
                continue
            onward, length = number(message.data, 0, 8), number(message.data, 8, 8)
            if newer:
                if file.read(onward, 4) != b"OCHK":
                    raise Unscannable("has no continuation of an object header where one should be", onward)
                onward, length = onward + 4, length - 8  # without the signature, and the checksum at the end
            if onward in seen or len(seen) > MOST_CHUNKS or length < 0:
                raise Unscannable("has an object header that goes on where it was, or for too long", onward)
            seen.add(onward)
            waiting.append((onward, length))


def _chunk(data: bytes, place: int, *, newer: bool, ordered: bool) -> Iterator[Message]:
    """Yield the messages of one piece of an object header."""
    head = (6 if ordered else 4) if newer else 8
    start = 0
    while start + head <= len(data):
        if newer:
            kind, size, flags = data[start], number(data, start + 1, 2), data[start + 3]
        else:
            kind, size, flags = number(data, start, 2), number(data, start + 2, 2), data[start + 4]
        start += head
        if start + size > len(data):
            raise Unscannable("has a message that is longer than its object header", place + start)
        yield Message(kind, flags, place + start, data[start : start + size])
        start += size


def link(data: bytes) -> Link:
    """Read a link message (IV.A.2.g)."""
    flags, start = number(data, 1, 1), 2
    if number(data, 0, 1) != 1:
        raise Unscannable("has a link of an unknown version")
    kind = 0
    if flags & 8:
        kind, start = number(data, start, 1), start + 1
    start += (8 if flags & 4 else 0) + (1 if flags & 0x10 else 0)
    width = 1 << (flags & 3)
    length, start = number(data, start, width), start + width
    if length > len(data) - start:
        raise Unscannable("has a link whose name is longer than the link")
    return Link(data[start : start + length], kind, number(data, start + length, 8) if kind == 0 else NOWHERE)


def filters(data: bytes) -> list[int]:
    """Return the numbers of the filters of a filter pipeline message (IV.A.2.l)."""
    version, count = number(data, 0, 1), number(data, 1, 1)
    if version not in (1, 2) or count > 32:
        raise Unscannable("has a filter pipeline of an unknown version")
    start, found = 8 if version == 1 else 2, []
    for _ in range(count):
        identifier = number(data, start, 2)
        found.append(identifier)
        start += 2
        name = 0
        if version == 1 or identifier >= 256:
            name, start = number(data, start, 2), start + 2
        values, start = number(data, start + 2, 2), start + 4
        if version == 1:
            start += (name + 7) // 8 * 8 + 4 * (values + values % 2)
        else:
            start += name + 4 * values
        if start > len(data):
            raise Unscannable("has a filter pipeline that is longer than its message")
    return found


def attribute(data: bytes) -> Attribute | Message:
    """Read an attribute message (IV.A.2.m), or return its datatype as a message where that stands elsewhere."""
    version = number(data, 0, 1)
    if version not in (1, 2, 3):
        raise Unscannable(f"has an attribute of the unknown version {version}")
    flags = number(data, 1, 1) if version > 1 else 0
    sizes = [number(data, at, 2) for at in (2, 4, 6)]
    start = 9 if version == 3 else 8
    parts = []
    for size in sizes:
        if start + size > len(data):
            raise Unscannable("has an attribute that is longer than its message")
        parts.append(data[start : start + size])
        start += (size + 7) // 8 * 8 if version == 1 else size
    name, datatype, space = parts
    name = name.partition(b"\0")[0]
    if flags & 2:
        raise Unscannable(f"has the attribute {named(name)} whose shape stands elsewhere, which is not read")
    values = data[start:]
    if flags & 1:
        return Message(0, flags, 0, datatype)
    return _values(name, datatype, space, values)


def _values(name: bytes, datatype: bytes, space: bytes, values: bytes) -> Attribute:
    kind, size = number(datatype, 0, 1) & 0xF, number(datatype, 4, 4)
    count, scalar = _count(space)
    if kind not in (STRING, OPAQUE, VARIABLE):
        return Attribute(name, [], [], scalar)
    if not size or count * size > len(values) or count > MOST_TEXTS:
        raise Unscannable(f"has the attribute {named(name)} whose values are not all there, or too many")
    elements = [values[each * size : (each + 1) * size] for each in range(count)]
    if kind != VARIABLE:
        return Attribute(name, elements, [], scalar)
    # A sequence of whatever is data, but for bytes and for texts, which readers take for the same.
    text = number(datatype, 1, 1) & 0xF == 1 or number(datatype, 12, 4) == 1
    return Attribute(name, [], elements if text else [], scalar)


def _count(space: bytes) -> tuple[int, bool]:
    """Return how many values a dataspace message (IV.A.2.b) has, and whether it is a single one without dimensions."""
    version, rank, flags = (number(space, at, 1) for at in (0, 1, 2))
    if version == 2 and number(space, 3, 1) == 2:
        return 0, False
    if version not in (1, 2) or rank > 32 or flags & ~3:
        raise Unscannable("has a dataspace of an unknown version")
    start, count = 8 if version == 1 else 4, 1
    for each in range(rank):
        count *= number(space, start + 8 * each, 8)
        if count > 1 << 32:
            raise Unscannable("has an attribute of more values than any has")
    return count, rank == 0
