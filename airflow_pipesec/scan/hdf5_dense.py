"""Dense storage of HDF5: what a fractal heap holds, as all of its indexes tell.

Links and attributes of a group that has many, in files of the newer kind, lie in a fractal heap (HDF5 file format specification,
III.G) and are found by version 2 B-trees (III.A.2), one by name and one by order of creation. A reader may go by either, so both
are walked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from airflow_pipesec.scan.scanner import Unscannable

__all__ = ["NOWHERE", "Bytes", "held"]

NOWHERE = 0xFFFF_FFFF_FFFF_FFFF
MOST_RECORDS = 1_000_000
MOST_DEPTH = 16
LONGEST_OBJECT = 16 << 20

# Bytes before the heap's identifier in a record, by the type of the B-tree: links and attributes, by name and by order.
BEFORE = {5: 4, 6: 8, 8: 0, 9: 0}


class Bytes(Protocol):
    """The file."""

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly so many bytes from a place. Raises :class:`Unscannable` where there are fewer."""


@dataclass(frozen=True, slots=True)
class _Heap:
    """What the header of a fractal heap says."""

    identifier: int  # bytes of one
    offset_bytes: int
    length_bytes: int
    width: int
    start: int
    largest: int
    root: int
    rows: int
    objects: int


def held(file: Bytes, heap: int, indexes: list[int]) -> Iterator[tuple[int, bytes]]:
    """Yield the place and the bytes of each object in a heap that one of the B-trees at ``indexes`` has a record of."""
    header = _heap(file, heap)
    found: dict[bytes, None] = {}
    for index in (each for each in indexes if each != NOWHERE):
        records = dict.fromkeys(_records(file, index, header.identifier))
        if len(records) != header.objects:
            raise Unscannable("has an index that does not name all objects of its heap", index)
        found |= records
    if not found and header.objects:
        raise Unscannable("has a heap of objects without an index", heap)
    for identifier in found:
        yield _object(file, header, identifier)


def _number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")


def _heap(file: Bytes, place: int) -> _Heap:
    data = file.read(place, 142)
    if data[:5] != b"FRHP\0":
        raise Unscannable("has a fractal heap of an unknown version, or none where one should be", place)
    if _number(data, 7, 2):
        raise Unscannable("has a filtered fractal heap, which is not read", place)
    if _number(data, 86, 8) or _number(data, 102, 8):
        raise Unscannable("has objects in a fractal heap that are stored elsewhere, which are not read", place)
    managed, width, start, largest, bits = (
        _number(data, at, length) for at, length in ((10, 4), (110, 2), (112, 8), (120, 8), (128, 2))
    )
    if not (0 < width <= 1024 and _is_power(start) and _is_power(largest) and start <= largest <= 1 << 32 and 0 < bits <= 64):
        raise Unscannable("has a fractal heap whose sizes are none", place)
    length_bytes = _bytes_for(min(largest, managed))
    return _Heap(
        _number(data, 5, 2),
        (bits + 7) // 8,
        length_bytes,
        width,
        start,
        largest,
        _number(data, 132, 8),
        _number(data, 140, 2),
        _number(data, 70, 8),
    )


def _is_power(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def _bytes_for(number: int) -> int:
    """Return how many bytes the format takes for numbers up to this one."""
    return (max(1, number).bit_length() - 1) // 8 + 1


def _object(file: Bytes, heap: _Heap, identifier: bytes) -> tuple[int, bytes]:
    if identifier[0] & 0xF0:
        raise Unscannable("has an object in a fractal heap that is not stored in its blocks, which is not read")
    offset = _number(identifier, 1, heap.offset_bytes)
    length = _number(identifier, 1 + heap.offset_bytes, heap.length_bytes)
    if length > LONGEST_OBJECT:
        raise Unscannable(f"has an object of {length:,} bytes in a fractal heap")
    place, rows, size = heap.root, heap.rows, heap.start
    for _ in range(MOST_DEPTH):
        if place == NOWHERE:
            raise Unscannable("has an object in a block of a fractal heap that is not there")
        if rows == 0:
            if file.read(place, 5) != b"FHDB\0" or offset + length > size:
                raise Unscannable("has an object that lies in no block of its fractal heap", place)
            return place + offset, file.read(place + offset, length)
        if file.read(place, 5) != b"FHIB\0":
            raise Unscannable("has no block of a fractal heap where one should be", place)
        # The doubling table: two rows of blocks of the first size, then each row of twice the size of the one before.
        row = max(0, (offset // (heap.start * heap.width)).bit_length())
        if row >= rows:
            raise Unscannable("has an object beyond the end of its fractal heap", place)
        size = heap.start << max(0, row - 1)
        offset -= (heap.start * heap.width) << (row - 1) if row else 0
        column, offset = divmod(offset, size)
        entry = place + 13 + heap.offset_bytes + 8 * (row * heap.width + column)
        place = _number(file.read(entry, 8), 0, 8)
        rows = 0 if size <= heap.largest else (size // (heap.start * heap.width)).bit_length()
        if size > heap.largest and rows == 0:
            break
    raise Unscannable("has a fractal heap that is nested too deep")


def _records(file: Bytes, place: int, identifier: int) -> Iterator[bytes]:
    """Yield the heap's identifiers that the records of a B-tree hold."""
    data = file.read(place, 38)
    kind, node, record, depth = data[5], _number(data, 6, 4), _number(data, 10, 2), _number(data, 12, 2)
    root, number, total = _number(data, 16, 8), _number(data, 24, 2), _number(data, 26, 8)
    before = BEFORE.get(kind)
    if data[:5] != b"BTHD\0" or before is None or record < before + identifier or not record < node <= 1 << 24:
        raise Unscannable("has a B-tree of an unknown version or type", place)
    if depth > MOST_DEPTH or total > MOST_RECORDS:
        raise Unscannable(f"has a B-tree of {total:,} records, {depth} deep", place)
    # How many records a node of each level can hold, on which the widths of the numbers in its pointers depend.
    most = [(node - 10) // record]
    totals = [most[0]]
    for level in range(1, depth + 1):
        pointer = 8 + _bytes_for(most[0]) + (_bytes_for(totals[-1]) if level > 1 else 0)
        most.append((node - 10 - pointer) // (record + pointer))
        totals.append((most[-1] + 1) * totals[-1] + most[-1])
    waiting = [(root, number, depth)] if total else []
    seen = 0
    while waiting:
        at, records, level = waiting.pop()
        seen += records
        if seen > total or records > most[level]:
            raise Unscannable("has a B-tree with more records than it says", at)
        data = file.read(at, node)
        if data[:5] != (b"BTIN\0" if level else b"BTLF\0") or data[5] != kind:
            raise Unscannable("has no node of a B-tree where one should be", at)
        for each in range(records):
            start = 6 + each * record + before
            yield data[start : start + identifier]
        if level:
            few, many = _bytes_for(most[0]), _bytes_for(totals[level - 1]) if level > 1 else 0
            pointer = 6 + records * record
            for _ in range(records + 1):
                waiting.append((_number(data, pointer, 8), _number(data, pointer + 8, few), level - 1))
                pointer += 8 + few + many
    if seen != total:
        raise Unscannable("has a B-tree with fewer records than it says", place)
