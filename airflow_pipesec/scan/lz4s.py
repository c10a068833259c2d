"""LZ4: a frame is decompressed block by block, in plain Python, with all of its checksums verified.

By the LZ4 frame format 1.6.4 and the block format of lz4/lz4 in its ``doc`` folder, and the specification of XXH32. The library
that joblib uses is not needed, but without it this is slow, so there is a limit of its own.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_pipesec.scan.scanner import Unscannable

if TYPE_CHECKING:
    from airflow_pipesec.scan.streams import Source

__all__ = ["MAGIC", "MOST", "unlz4", "xxh32"]

MAGIC = b"\x04\x22\x4d\x18"
MOST = 64 << 20
HISTORY = 1 << 16
_SIZES = {4: 1 << 16, 5: 1 << 18, 6: 1 << 20, 7: 4 << 20}
_DAMAGED = "holds an LZ4 block that is damaged"
_P1, _P2, _P3, _P4, _P5 = 2654435761, 2246822519, 3266489917, 668265263, 374761393
_M = 0xFFFFFFFF


def unlz4(source: Source) -> Iterator[bytes]:
    """Decompress one LZ4 frame."""
    start = source.place
    header = source.take(7)
    flags, block = header[4], header[5]
    linked, block_sums, sized, summed = not flags & 32, flags & 16, flags & 8, flags & 4
    if header[:4] != MAGIC or flags >> 6 != 1 or flags & 3 or block & 0x8F or block >> 4 not in _SIZES:
        raise Unscannable("has an LZ4 header that is not read here", start)
    if sized:
        header += source.take(8)
    if header[-1] != xxh32(header[4:-1]) >> 8 & 0xFF:
        raise Unscannable("has an LZ4 header that is damaged", start)
    most, total = _SIZES[block >> 4], 0
    sums, history = _Xxh32(), b""
    while length := int.from_bytes(source.take(4), "little"):
        plain, length = length >> 31, length & 0x7FFFFFFF
        if not 0 < length <= most:
            raise Unscannable(_DAMAGED, source.place)
        data = source.take(length)
        if block_sums and int.from_bytes(source.take(4), "little") != xxh32(data):
            raise Unscannable(_DAMAGED, source.place)
        piece = data if plain else _block(data, history, most, source.place)
        total += len(piece)
        if total > MOST:
            raise Unscannable(
                f"is compressed with LZ4, and unpacks to more than {MOST:,} bytes, for which the package lz4 has to be installed"
            )
        if linked:
            history = (history + piece)[-HISTORY:]
        if summed:
            sums.add(piece)
        if piece:
            yield piece
    if sized and total != int.from_bytes(header[6:14], "little"):
        raise Unscannable("does not unpack to as many bytes as it states", source.place)
    if summed and int.from_bytes(source.take(4), "little") != sums.value():
        raise Unscannable("does not have the checksum that it states", source.place)


def _block(data: bytes, history: bytes, most: int, place: int) -> bytes:
    """Decompress one block: literals and copies of what came before, in turns."""
    out, size, longest, at = bytearray(history), len(data), len(history) + most, 0
    try:
        while True:
            token = data[at]
            at += 1
            length = token >> 4
            if length == 15:
                while (more := data[at]) == 255:
                    length, at = length + 255, at + 1
                length, at = length + more, at + 1
            if length:
                if at + length > size or len(out) + length > longest:
                    break
                out += data[at : at + length]
                at += length
            if at == size:
                return bytes(out[len(history) :])
            back = data[at] | data[at + 1] << 8
            at += 2
            length = (token & 15) + 4
            if length == 19:
                while (more := data[at]) == 255:
                    length, at = length + 255, at + 1
                length, at = length + more, at + 1
            start = len(out) - back
            if not back or start < 0 or len(out) + length > longest:
                break
            if back >= length:
                out += out[start : start + length]
            else:
                out += (out[start:] * (length // back + 1))[:length]
    except IndexError:
        pass
    raise Unscannable(_DAMAGED, place)


def xxh32(data: bytes) -> int:
    """Return the XXH32 of bytes, with seed 0."""
    sums = _Xxh32()
    sums.add(data)
    return sums.value()


class _Xxh32:
    def __init__(self) -> None:
        self.lanes = ((_P1 + _P2) & _M, _P2, 0, -_P1 & _M)
        self.rest, self.size = b"", 0

    def add(self, data: bytes) -> None:
        self.size += len(data)
        data = self.rest + data
        whole = len(data) & ~15
        self.rest = data[whole:]
        a, b, c, d = self.lanes
        for one, two, three, four in struct.iter_unpack("<4I", memoryview(data)[:whole]):
            a = a + one * _P2 & _M
            a = (a << 13 | a >> 19) * _P1 & _M
            b = b + two * _P2 & _M
            b = (b << 13 | b >> 19) * _P1 & _M
            c = c + three * _P2 & _M
            c = (c << 13 | c >> 19) * _P1 & _M
            d = d + four * _P2 & _M
            d = (d << 13 | d >> 19) * _P1 & _M
        self.lanes = (a, b, c, d)

    def value(self) -> int:
        total = _P5
        if self.size >= 16:
            total = sum(_turned(lane, by) for lane, by in zip(self.lanes, (1, 7, 12, 18), strict=True))
        total = total + self.size & _M
        whole = len(self.rest) & ~3
        for (word,) in struct.iter_unpack("<I", self.rest[:whole]):
            total = _turned(total + word * _P3 & _M, 17) * _P4 & _M
        for byte in self.rest[whole:]:
            total = _turned(total + byte * _P5 & _M, 11) * _P1 & _M
        total = (total ^ total >> 15) * _P2 & _M
        total = (total ^ total >> 13) * _P3 & _M
        return total ^ total >> 16


def _turned(word: int, by: int) -> int:
    return (word << by | word >> 32 - by) & _M
