"""Constants: the arguments of a pickle's opcodes, read without keeping what is long."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.calls import Broken, Caller
from airflow_pipesec.scan.values import Blob
from airflow_pipesec.scan.views import Memory

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["LONG_TEXT", "WINDOW", "Constants", "Refused"]

WINDOW = 1 << 18
LONG_TEXT = 1024  # bytes; longer constants stay in the file
LONGEST_LINE = 1 << 16
_FLOAT = re.compile(
    rb"\s*[+-]?(0[xX][0-9a-fA-F]+|[0-9]+\.?[0-9]*([eE][+-]?[0-9]+)?|\.[0-9]+([eE][+-]?[0-9]+)?|inf\w*|nan)L?", re.I
)
IN_NUMBERS = b"0123456789abcdefABCDEFxXoO_+-.L \t\r\v\f"

_U4, _U8, _I4 = struct.Struct("<I"), struct.Struct("<Q"), struct.Struct("<i")


class Refused(Exception):
    """The stream cannot be followed further, and going on may do anything."""

    def __init__(self, why: str, offset: int) -> None:
        super().__init__(why)
        self.why, self.offset = why, offset


class Constants:
    """The third of a machine that reads: a window of the part's bytes, the stack, and the opcodes that push a constant."""

    def __init__(self, part: Part, place: int, *, flavour: str, shadow: bool) -> None:
        self.part, self.scan, self.view = part, part.scan, part.view
        self.base, self.pos = place, 0
        self.data = b""
        self.stack: list[Any] = []
        self.caller = Caller(part, flavour=flavour, shadow=shadow)

    @property
    def place(self) -> int:
        """Where the next byte is read, in the part."""
        return self.base + self.pos

    @place.setter
    def place(self, place: int) -> None:
        if self.base <= place <= self.base + len(self.data):
            self.pos = place - self.base
        else:
            self.base, self.pos, self.data = place, 0, b""

    def _fill(self) -> None:
        """Read on from the present place."""
        self.base, self.pos = self.base + self.pos, 0
        self.data = self.view.read_at(self.base, WINDOW)

    def _take(self, length: int) -> bytes:
        """Return the next bytes of an opcode's argument."""
        end = self.pos + length
        if end <= len(self.data):
            taken = self.data[self.pos : end]
            self.pos = end
            return taken
        taken = self.view.read_at(self.place, length)
        if len(taken) < length:
            raise Broken("ends before its pickle does", self.place)
        self.place += length
        return taken

    def _line(self) -> bytes:
        end = self.data.find(b"\n", self.pos)
        if end < 0:
            self._fill()
            end = self.data.find(b"\n", 0, LONGEST_LINE)
            if end < 0 and not self.data[:LONGEST_LINE].strip(IN_NUMBERS):
                raise Refused(f"has a number of more than {LONGEST_LINE:,} characters", self.base)
            if end < 0:
                raise Broken("has a line that does not end", self.base)
        line = self.data[self.pos : end]
        self.pos = end + 1
        return line

    def _constant(self, kind: str, length: int) -> None:
        """Push a text, or bytes, of known length; long ones stay where they are."""
        start = self.place
        if length > self.view.size - start:
            raise Broken("ends before its pickle does", start)
        if length <= LONG_TEXT:
            raw = self._take(length)
            self.stack.append(
                raw.decode("utf-8", "surrogatepass")
                if kind == "str"
                else raw
                if kind == "bytes"
                else Blob(kind, self.view, start, length)
            )
        else:
            if self.pos + length <= len(self.data):
                self.pos += length
            else:
                self.place = start + length
            self.stack.append(Blob(kind, self.view, start, length))
            raw = self.view.read_at(start, 16)
        if kind != "str":
            self.caller.nested(Blob(kind, self.view, start, length), raw)

    def binunicode(self) -> None:
        self._constant("str", _U4.unpack(self._take(4))[0])

    def binunicode8(self) -> None:
        self._constant("str", _U8.unpack(self._take(8))[0])

    def short_binbytes(self) -> None:
        self._constant("bytes", self._take(1)[0])

    def binbytes(self) -> None:
        self._constant("bytes", _U4.unpack(self._take(4))[0])

    def binbytes8(self) -> None:
        self._constant("bytes", _U8.unpack(self._take(8))[0])

    def bytearray8(self) -> None:
        self._constant("bytes", _U8.unpack(self._take(8))[0])

    def short_binstring(self) -> None:
        self._old_string(self._take(1)[0])

    def binstring(self) -> None:
        length = _I4.unpack(self._take(4))[0]
        if length < 0:
            raise Broken("is a broken pickle: a length is negative", self.place)
        self._old_string(length)

    def _old_string(self, length: int) -> None:
        # A str of Python 2: a text to some loaders and bytes to others, by the encoding that they give.
        start = self.place
        if length > self.view.size - start:
            raise Broken("ends before its pickle does", start)
        if length > LONG_TEXT:
            self.place = start + length
            self.stack.append(Blob("str", self.view, start, length))
            head = self.view.read_at(start, 16)
        else:
            head = self._take(length)
            self.stack.append(head.decode("latin-1"))
        self.caller.nested(Blob("bytes", self.view, start, length), head)

    def string(self) -> None:
        start, length = self._long_line()
        line = self.view.read_at(start, 1) + self.view.read_at(start + length - 1, 1)
        if length < 2 or line not in (b"''", b'""'):
            raise Broken("is a broken pickle: a string has no quotes", start)
        blob = Blob("str", self.view, start + 1, length - 2, encoding="escape")
        raw = blob.decoded(LONGEST_LINE)
        self.stack.append(blob if raw is None else raw)
        if raw is not None and raw[:1] == "\x80":
            data = raw.encode("latin-1")
            self.caller.nested(Blob("bytes", Memory(data), 0, len(data)), data)

    def unicode(self) -> None:
        start, length = self._long_line()
        blob = Blob("str", self.view, start, length, encoding="raw-unicode-escape")
        text = blob.decoded(LONG_TEXT)
        self.stack.append(blob if text is None else text)

    def _long_line(self) -> tuple[int, int]:
        """Go past a line of any length, and return where it begins and how long it is without its end."""
        start = self.place
        while (end := self.data.find(b"\n", self.pos)) < 0:
            self.pos = len(self.data)
            self._fill()
            if not self.data:
                raise Broken("ends before its pickle does", start)
        self.pos = end + 1
        return start, self.place - 1 - start

    def int_(self) -> None:
        line = self._line()
        self.stack.append(line == b"01" if line in (b"00", b"01") else self._number(line))

    def long_(self) -> None:
        self.stack.append(self._number(self._line().removesuffix(b"L")))

    def _number(self, line: bytes, base: int = 0) -> Any:
        if len(line) > 64:
            return Blob("int", self.view, self.place - len(line) - 1, len(line))
        try:
            return int(line, base)
        except ValueError:
            self._demand_no_number(line)
            raise Broken("is a broken pickle: a number is none", self.place) from None

    def _demand_no_number(self, line: bytes) -> None:
        """Refuse what C's unpickler takes for a number: 010 is one of octal digits, and what follows a zero byte is not read."""
        head, end, _ = line.partition(b"\0")
        octal = head.strip(b"+- \t\r\v\f")
        if (octal and not octal.strip(b"01234567")) or (end and _FLOAT.fullmatch(head)):
            raise Refused("has a number that readers read differently", self.place)

    def float_(self) -> None:
        line = self._line()
        try:
            self.stack.append(float(line))
        except ValueError:
            self._demand_no_number(line)
            raise Broken("is a broken pickle: a number is none", self.place) from None

    def long1(self) -> None:
        self.stack.append(int.from_bytes(self._take(self._take(1)[0]), "little", signed=True))

    def long4(self) -> None:
        length = _I4.unpack(self._take(4))[0]
        if length < 0:
            raise Broken("is a broken pickle: a length is negative", self.place)
        if length <= 255:
            self.stack.append(int.from_bytes(self._take(length), "little", signed=True))
        elif length > self.view.size - self.place:
            raise Broken("ends before its pickle does", self.place)
        else:
            self.stack.append(Blob("int", self.view, self.place, length))
            self.place += length
