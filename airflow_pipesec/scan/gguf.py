"""GGUF: raw tensors that the header accounts for, and metadata of which only the chat templates are programs.

Written to the format's specification (ggml, docs/gguf.md), versions 1 to 3 in both byte orders; a byte-swapped file is known by
its version number. What the metadata holds in large numbers, a vocabulary, is walked and not kept.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.templates import MOST_TEXT, judge_template
from airflow_pipesec.scan.views import Cursor

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["look_gguf"]

MAGIC = b"GGUF"
STRING, ARRAY, UINT32 = 8, 9, 4
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, UINT32: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MOST_KEYS = 1 << 16
MOST_TENSORS = 1 << 18
MOST_STRINGS = 16_000_000  # of all arrays; the largest vocabularies have under a million
LONGEST_KEY = 65_535  # as the specification has it
MOST_DIMENSIONS = 4
MOST_BYTES = 1 << 62

# Bytes of a block by the number of the tensor's type, for blocks of one number, of 32, and of 256. Withdrawn types are not known.
SINGLE = {0: 4, 1: 2, 24: 1, 25: 2, 26: 4, 27: 8, 28: 8, 30: 2}
OF_32 = {2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 20: 18, 39: 17}
OF_256 = {10: 84, 11: 110, 12: 144, 13: 176, 14: 210, 15: 292, 16: 66, 17: 74, 18: 98, 19: 50, 21: 110, 22: 82, 23: 136, 29: 56}
BLOCKS = {
    kind: (numbers, size)
    for numbers, sizes in ((1, SINGLE), (32, OF_32), (64, {40: 36}), (128, {41: 18}), (256, {**OF_256, 34: 54, 35: 66}))
    for kind, size in sizes.items()
}


class _Reader(Cursor):
    """A cursor that knows the byte order, and the width of a count, which the version decides."""

    __slots__ = ("count", "order", "strings", "templates", "u32", "u64", "version")

    def start(self) -> None:
        """Read the magic number and the version."""
        head = self.read(8)
        version = int.from_bytes(head[4:], "little")
        self.order = "<" if version & 0xFFFF else ">"
        if self.order == ">":
            version = int.from_bytes(head[4:], "big")
        if len(head) != 8 or head[:4] != MAGIC or not 1 <= version <= 3:
            raise Unscannable(f"is a GGUF file of the unknown version {version}", 4)
        if self.order == ">" and version < 3:
            raise Unscannable(f"is a big-endian GGUF file of version {version}, which has none", 4)
        self.version, self.strings, self.templates = version, 0, 0
        self.u32, self.u64 = struct.Struct(f"{self.order}I"), struct.Struct(f"{self.order}Q")
        self.count = self.u32 if version == 1 else self.u64

    def number(self, form: struct.Struct) -> int:
        """Return the next whole number."""
        data = self.read(form.size)
        if len(data) != form.size:
            raise Unscannable("ends within its header", self.place)
        found: int = form.unpack(data)[0]
        return found

    def string(self, longest: int) -> bytes:
        """Return the next string."""
        length = self.number(self.count)
        if length > min(longest, self.left):
            raise Unscannable(
                f"has a string of {length:,} bytes in its header, more than {longest:,} or than are left", self.place
            )
        return self.read(length)

    def pass_strings(self, number: int) -> None:
        """Go on behind a number of strings, by whole windows."""
        self.strings += number
        if number * self.count.size > self.left or self.strings > MOST_STRINGS:
            raise Unscannable(f"has an array of {number:,} strings, more than are allowed or than are left", self.place)
        width, unpack, size = self.count.size, self.count.unpack_from, self.view.size
        place, base, window = self.place, self.place, b""
        for _ in range(number):
            start = place - base
            if start + width > len(window):
                base, start = place, 0
                window = self.view.read_at(place, 1 << 16)
                if len(window) < width:
                    raise Unscannable("ends within its header", place)
            length = unpack(window, start)[0]
            if width + length > size - place:
                raise Unscannable("ends within a string of its header", place)
            place += width + length
        self.place = place


def look_gguf(part: Part) -> None:
    """Look at a GGUF file: the header adds up, every tensor has its place, and every chat template only formats text."""
    reader = _Reader(part.view)
    reader.start()
    part.saw("gguf")
    tensors, keys = reader.number(reader.count), reader.number(reader.count)
    if keys > MOST_KEYS or tensors > MOST_TENSORS:
        raise Unscannable(f"has {keys:,} keys and {tensors:,} tensors, more than are read", 8)
    alignment = 32
    seen: set[bytes] = set()
    for _ in range(keys):
        key = reader.string(LONGEST_KEY)
        if key in seen:
            raise Unscannable(f"has the key {named(key)} twice", reader.place)
        seen.add(key)
        if key == b"general.alignment":
            alignment = _alignment(reader)
        else:
            _value(part, reader, key)
    _tensors(part, reader, tensors, alignment)


def _alignment(reader: _Reader) -> int:
    kind, alignment = reader.number(reader.u32), reader.number(reader.u32)
    if kind != UINT32 or alignment < 8 or alignment & (alignment - 1) or alignment > 1 << 20:
        raise Unscannable("has an alignment that is no power of two in an unsigned 32-bit number", reader.place)
    return alignment


def _value(part: Part, reader: _Reader, key: bytes) -> None:
    kind, number = reader.number(reader.u32), 1
    array = kind == ARRAY
    if array:
        kind, number = reader.number(reader.u32), reader.number(reader.count)
    if kind == STRING and b"template" in key.lower():
        for _ in range(number):
            text = reader.string(MOST_TEXT)
            reader.templates += len(text) + 1000  # an empty one is some work as well
            if reader.templates > MOST_TEXT:
                raise Unscannable("has more templates than are read, or longer ones", reader.place)
            _template(part, key, reader.place - len(text), text)
    elif kind == STRING:
        reader.pass_strings(number)
    elif kind not in WIDTHS:
        raise Unscannable(f"has a value of the unknown type {kind} under {named(key)}", reader.place)
    elif not reader.skip(WIDTHS[kind] * number):
        raise Unscannable(f"ends within the value of {named(key)}", reader.place)


def _template(part: Part, key: bytes, place: int, text: bytes) -> None:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        part.unscannable(f"has a template under {named(key)} that is not UTF-8", place)
        return
    for why in judge_template(decoded):
        part.unsafe(f"has a template under {named(key)} that {why}", place)


def _tensors(part: Part, reader: _Reader, number: int, alignment: int) -> None:
    extents: list[tuple[int, int]] = []
    seen: set[bytes] = set()
    for _ in range(number):
        name = reader.string(LONGEST_KEY)
        if name in seen:
            raise Unscannable(f"has the tensor {named(name)} twice", reader.place)
        seen.add(name)
        dimensions = reader.number(reader.u32)
        if dimensions > MOST_DIMENSIONS:
            raise Unscannable(f"has a tensor {named(name)} of {dimensions:,} dimensions", reader.place)
        numbers, row = 1, 0
        for place in range(dimensions):
            dimension = reader.number(reader.count)
            row = row if place else dimension
            numbers *= dimension
            if numbers > MOST_BYTES:
                raise Unscannable(f"has a tensor {named(name)} that is larger than any file", reader.place)
        kind, offset = reader.number(reader.u32), reader.number(reader.u64)
        if kind not in BLOCKS:
            raise Unscannable(f"has a tensor {named(name)} of the unknown type {kind}", reader.place)
        block, size = BLOCKS[kind]
        if (row if dimensions else 1) % block or offset % alignment:
            raise Unscannable(f"has a tensor {named(name)} whose shape or offset does not fit its type", reader.place)
        extents.append((offset, numbers // block * size))
    _places(part, -(-reader.place // alignment) * alignment if number else reader.place, extents, alignment)


def _places(part: Part, start: int, extents: list[tuple[int, int]], alignment: int) -> None:
    """Demand that tensors fill the file from ``start`` on, but for less than ``alignment`` bytes behind each."""
    end = 0
    for offset, size in sorted(extents):
        if not 0 <= offset - end < alignment:
            what = "overlap" if offset < end else "leave a gap"
            raise Unscannable(f"has tensors that {what}", start + min(end, offset))
        end = offset + size
    if start + end > part.size:
        raise Unscannable("ends within its tensors", part.size)
    if part.size - start - end >= alignment:
        raise Unscannable("has bytes behind the last tensor", start + end)
