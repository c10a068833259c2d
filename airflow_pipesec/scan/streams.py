"""Streams: what is compressed is read anywhere in its decompressed form, and neither memory nor disk holds the whole of it.

Each codec is a generator over a :class:`Source`, and gives pieces of limited size, so that no bomb expands in memory. Formats:
RFC 1950 (zlib), 1951 (deflate) and 1952 (gzip), bzip2, .xz and .lzma of XZ Utils, and joblib's old "ZF" files. LZ4 has a module
of its own.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.views import LONGEST_READ

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part, Scan
    from airflow_pipesec.scan.views import View

__all__ = [
    "MEMORY",
    "Codec",
    "Inflated",
    "Source",
    "Stretch",
    "bare_stream",
    "bunzip",
    "inflate",
    "look_stream",
    "opened",
    "unlzma",
    "unlzma_alone",
]

WHOLE = 16 << 20
HEAD = 4 << 20
TAIL = 1 << 17
WINDOW = 8 << 20
STEP = 1 << 20
PACKED = 1 << 16
RESTARTS = 256
STREAMS = 100_000
MEMORY = 256 << 20
"""Bytes that the dictionary of one LZMA stream may take."""

OVERHEAD = 16 << 20
IDLE = 1000
TRIED = 4096
JOBLIB_LZMA = b"\x5d\x00"
_BROKEN = "cannot be decompressed: it is damaged"
_TOO_WIDE = f"takes more than {MEMORY:,} bytes of memory to decompress"

Stretch = tuple[int, int | None]
"""Of decompressed bytes: how many, and their CRC-32 if it is known."""


class Source:
    """Packed bytes, from first to last."""

    __slots__ = ("place", "view")

    def __init__(self, view: View) -> None:
        self.view, self.place = view, 0

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return self.view.size - self.place

    def more(self) -> bytes:
        """Return some more bytes, none at the end."""
        data = self.view.read_at(self.place, PACKED) if self.left > 0 else b""
        self.place += len(data)
        return data

    def take(self, length: int) -> bytes:
        """Return so many bytes. Raises :class:`Unscannable` where there are fewer."""
        data = self.view.read_at(self.place, length) if 0 < length <= self.left else b""
        if len(data) != length:
            raise Unscannable("ends too early", self.place)
        self.place += length
        return data

    def text(self, longest: int) -> bytes:
        """Return what stands before a zero byte, and the zero byte."""
        data = self.view.read_at(self.place, longest)
        end = data.find(0) + 1
        if not end:
            raise Unscannable("has a header that is too long", self.place)
        self.place += end
        return data[:end]


Codec = Callable[[Source], Iterator[bytes]]


class _Engine(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class Inflated:
    """A compressed stream as a view of what it decompresses to.

    It is decompressed once at the start, to see that it is whole, that nothing follows it, and that it is what ``stretches`` say.
    What is short stays in memory; of what is long the beginning, the end and a window that moves on do. A read behind the window
    starts again, which is bounded as well. Raises :class:`Unscannable`.
    """

    def __init__(self, packed: View, codec: Codec, scan: Scan, stretches: Sequence[Stretch] | None = None) -> None:
        self._packed, self._codec, self._scan = packed, codec, scan
        self._restarts = 0
        self._head, self._tail = bytearray(), bytearray()
        self._window, self._base = bytearray(), 0
        self._pieces: Iterator[bytes] = iter(())
        self.size = self._pass(stretches)

    def _pass(self, stretches: Sequence[Stretch] | None) -> int:
        source, size = Source(self._packed), 0
        sums = None if stretches is None else _Sums(stretches)
        for piece in self._codec(source):
            size += len(piece)
            self._scan.unpack(source.place, size, len(piece))
            if sums is not None:
                sums.add(piece)
            if size <= WHOLE:
                self._head += piece
                continue
            if len(self._head) > HEAD:
                self._tail = self._head[-TAIL:]
                del self._head[HEAD:]
            self._tail += piece
            del self._tail[:-TAIL]
        if source.left:
            raise Unscannable(f"goes on for {source.left:,} bytes after its compressed stream", source.place)
        if sums is not None:
            sums.end()
        return size

    def read_at(self, offset: int, length: int) -> bytes:
        """Return decompressed bytes. Raises :class:`Unscannable` when it is read back and forth too often."""
        length = min(length, LONGEST_READ, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        if offset + length <= len(self._head):
            return bytes(self._head[offset : offset + length])
        if (start := offset - self.size + len(self._tail)) >= 0:
            return bytes(self._tail[start : start + length])
        if offset < self._base or not self._window:
            self._restart()
        self._forward(offset, offset + length)
        start = offset - self._base
        return bytes(self._window[start : start + length])

    def _restart(self) -> None:
        self._restarts += 1
        if self._restarts > RESTARTS:
            raise Unscannable("is compressed, and is read back and forth too often")
        self._window, self._base = bytearray(), 0
        self._pieces = self._codec(Source(self._packed))

    def _forward(self, offset: int, end: int) -> None:
        while (reached := self._base + len(self._window)) < end:
            piece = next(self._pieces, b"")
            if not piece:
                raise Unscannable("is not what it was when it was decompressed before")
            # What is decompressed again counts as well: it takes the same time.
            self._scan.unpack(self._packed.size, 0, len(piece))
            self._window += piece
            if (drop := min(offset, reached + len(piece) - WINDOW) - self._base) > 0:
                del self._window[:drop]
                self._base += drop


class _Sums:
    """Compares what is decompressed with what it is said to be: stretch by stretch, sizes and checksums."""

    def __init__(self, stretches: Sequence[Stretch]) -> None:
        self.stretches = iter(stretches)
        self.left, self.crc, self.sum = 0, None, 0  # type: int, int | None, int

    def add(self, piece: bytes) -> None:
        rest = memoryview(piece)
        while rest:
            if not self.left and not self._next():
                raise Unscannable("unpacks to more bytes than it states")
            now = rest[: self.left]
            self.sum = zlib.crc32(now, self.sum)
            self.left -= len(now)
            rest = rest[len(now) :]

    def _next(self) -> bool:
        """Begin the next stretch that is not empty. False if there is none."""
        while True:
            if self.crc is not None and self.crc != self.sum:
                raise Unscannable("does not have the checksum that it states")
            found = next(self.stretches, None)
            if found is None:
                self.crc = None
                return False
            (self.left, self.crc), self.sum = found, 0
            if self.left:
                return True

    def end(self) -> None:
        if self.left or self._next():
            raise Unscannable("unpacks to fewer bytes than it states")


def inflate(source: Source, wbits: int = -15) -> Iterator[bytes]:
    """Decompress one deflate stream; ``wbits`` as for :func:`zlib.decompressobj`."""
    engine = zlib.decompressobj(wbits)
    data = b""
    while not engine.eof:
        data = data or source.more()
        try:
            piece = engine.decompress(data, STEP)
        except zlib.error:
            raise Unscannable(_BROKEN, source.place) from None
        if piece:
            yield piece
        elif not data and not engine.eof:
            raise Unscannable("ends too early", source.place)
        data = engine.unconsumed_tail
    source.place -= len(engine.unused_data)


def _run(source: Source, engine: _Engine) -> Iterator[bytes]:
    idle = 0
    while not engine.eof:
        starved = engine.needs_input
        data = source.more() if starved else b""
        try:
            piece = engine.decompress(data, STEP)
        except (OSError, ValueError, EOFError, RuntimeError, lzma.LZMAError) as error:
            raise Unscannable(_TOO_WIDE if "limit" in str(error) else _BROKEN, source.place) from None
        if piece:
            idle = 0
            yield piece
            continue
        idle += 1
        if (starved and not data and not engine.eof) or idle > IDLE:
            raise Unscannable("ends too early", source.place)
    source.place -= len(engine.unused_data or b"")


def _zlib(source: Source) -> Iterator[bytes]:
    return inflate(source, 15)


def _several(source: Source, magic: bytes, one: Codec) -> Iterator[bytes]:
    """Decompress streams that follow one another, as the tools of all these formats do."""
    for _ in range(STREAMS):
        yield from one(source)
        if not source.left or source.view.read_at(source.place, len(magic)) != magic:
            return
    raise Unscannable(f"consists of more than {STREAMS:,} compressed streams")


def _gzip(source: Source) -> Iterator[bytes]:
    return _several(source, b"\x1f\x8b", _gzip_member)


def _gzip_member(source: Source) -> Iterator[bytes]:
    header = source.take(10)
    flags = header[3]
    if header[:3] != b"\x1f\x8b\x08" or flags & 0xE0:
        raise Unscannable("has a gzip header that is not read here", source.place - 10)
    if flags & 4:
        length = source.take(2)
        header += length
        if size := int.from_bytes(length, "little"):
            header += source.take(size)
    for flag in (8, 16):  # FNAME, FCOMMENT
        if flags & flag:
            header += source.text(PACKED)
    if flags & 2 and source.take(2) != (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little"):
        raise Unscannable("has a gzip header that is damaged", source.place)
    size, crc = 0, 0
    for piece in inflate(source):
        size, crc = size + len(piece), zlib.crc32(piece, crc)
        yield piece
    if source.take(8) != crc.to_bytes(4, "little") + (size & 0xFFFFFFFF).to_bytes(4, "little"):
        raise Unscannable("does not have the checksum that it states", source.place)


def bunzip(source: Source) -> Iterator[bytes]:
    """Decompress one bzip2 stream."""
    return _run(source, bz2.BZ2Decompressor())


def _bzip2(source: Source) -> Iterator[bytes]:
    return _several(source, b"BZh", bunzip)


def _xz_stream(source: Source) -> Iterator[bytes]:
    return _run(source, lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MEMORY + OVERHEAD))


def _xz(source: Source) -> Iterator[bytes]:
    return _several(source, b"\xfd7zXZ\x00", _xz_stream)


def unlzma_alone(source: Source, header: bytes = b"") -> Iterator[bytes]:
    """Decompress one LZMA stream after the header of an ``.lzma`` file, which stands in the source unless it is given."""
    engine = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MEMORY + OVERHEAD)
    if header:
        try:
            engine.decompress(header, 0)
        except lzma.LZMAError:
            raise Unscannable(_BROKEN, source.place) from None
    return _run(source, engine)


def unlzma(source: Source, filters: Sequence[dict[str, int]]) -> Iterator[bytes]:
    """Decompress one stream that has no header, by liblzma's filters, of which the last is LZMA2."""
    if any(each.get("dict_size", 0) > MEMORY for each in filters):
        raise Unscannable(_TOO_WIDE)
    try:
        engine = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=list(filters))
    except (lzma.LZMAError, ValueError):
        raise Unscannable(_BROKEN, source.place) from None
    return _run(source, engine)


_ZFILE = re.compile(rb"ZF0x([0-9a-f]{1,16}) *")


def _zfile(source: Source) -> Iterator[bytes]:
    """Decompress a file of joblib before 0.10: the size in hex, filled up to 19 characters, by Python 2 to 20, and zlib."""
    found = _ZFILE.fullmatch(source.take(21))
    if found is None:
        raise Unscannable("has a header that is none of joblib's")
    if source.view.read_at(source.place, 1) == b" ":
        source.place += 1
    left = int(found[1], 16)
    for piece in _zlib(source):
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise Unscannable("does not unpack to as many bytes as it states")


def _lz4(source: Source) -> Iterator[bytes]:
    from airflow_pipesec.scan.lz4s import MAGIC, unlz4

    try:
        library = import_module("lz4.frame")
    except ImportError:
        return _several(source, MAGIC, unlz4)
    # What joblib reads such files with, and much faster.
    return _several(source, MAGIC, lambda source: _run(source, library.LZ4FrameDecompressor()))


_MAGIC: tuple[tuple[bytes, str, Codec], ...] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"\x04\x22\x4d\x18", "lz4", _lz4),
    (b"ZF", "zfile", _zfile),
)


def look_stream(part: Part) -> None:
    """Look at what a compressed stream decompresses to."""
    form, codec = _codec(part.view.read_at(0, TRIED))
    part.saw(form)
    part.child(Inflated(part.view, codec, part.scan), "decompressed").look()


def opened(part: Part) -> Inflated | None:
    """Return what a part decompresses to if it is looked at as a compressed stream. Raises :class:`Unscannable`."""
    from airflow_pipesec.scan.sniff import STREAMS, form_of

    head = part.view.read_at(0, TRIED)
    if form_of(part.view, head) not in STREAMS:
        return None
    return Inflated(part.view, _codec(head)[1], part.scan)


def _codec(head: bytes) -> tuple[str, Codec]:
    found = next(((form, codec) for magic, form, codec in _MAGIC if head.startswith(magic)), None)
    if found is not None:
        return found
    form = bare_stream(head)
    if not form:
        raise Unscannable("is no compressed stream that is known here")
    return form, _zlib if form == "zlib" else unlzma_alone


def bare_stream(head: bytes) -> str:
    """Return ``zlib`` or ``lzma`` if a file with this beginning is such a stream, which has no magic number; else ``""``."""
    if len(head) >= 8 and head[0] & 15 == 8 and head[0] >> 4 <= 7 and not head[1] & 32 and (head[0] << 8 | head[1]) % 31 == 0:
        engine = zlib.decompressobj(15)
        try:
            # One that yields nothing for so long may yet yield something.
            if engine.decompress(head[:TRIED], TRIED) or engine.eof or len(head) >= TRIED:
                return "zlib"
        except zlib.error:
            return ""
    # The properties, the size of the dictionary, that of what it unpacks to or -1, and the range coder's first byte, which is 0.
    # Readers that know the format from its start take the sizes that liblzma writes; joblib takes any after its two bytes.
    dictionary = int.from_bytes(head[1:5], "little")
    if len(head) >= 18 and head[0] < 225 and head[13] == 0 and (head.startswith(JOBLIB_LZMA) or _is_usual(dictionary)):
        try:
            opened = lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=MEMORY + OVERHEAD)
            # Whatever dictionary it asks for: what is tried does not reach back further than this.
            if opened.decompress(head[:1] + PACKED.to_bytes(4, "little") + head[5:TRIED], TRIED):
                return "lzma"
        except (lzma.LZMAError, ValueError):
            return ""
    return ""


def _is_usual(dictionary: int) -> bool:
    """Whether it is a power of two, or the sum of two that follow each other; 0 counts, and so does the largest number."""
    digits = f"{dictionary:b}"
    return (not digits.lstrip("1").strip("0") and digits.count("1") <= 2) or dictionary == 0xFFFFFFFF
