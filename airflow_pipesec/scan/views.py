"""Views: bytes that can be read at any place, and never more of them than a reader asked for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

__all__ = ["Cursor", "Memory", "Section", "View", "pieces"]

WINDOW = 1 << 16
PIECE = 1 << 20
LONGEST_READ = 64 << 20
"""Bytes that one call may ask for; whoever wants more reads piece by piece."""


class View(Protocol):
    """Bytes of known number. A read beyond the end gives what is there, and raises nothing."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on; fewer, or none, only at the end."""


class Memory:
    """Bytes that are in memory already."""

    __slots__ = ("data", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return a part of them."""
        return self.data[offset : offset + length]


class Section:
    """A stretch of another view."""

    __slots__ = ("size", "start", "view")

    def __init__(self, view: View, start: int, size: int | None = None) -> None:
        rest = max(0, view.size - start)
        self.view, self.start = view, start
        self.size = rest if size is None else max(0, min(size, rest))

    def read_at(self, offset: int, length: int) -> bytes:
        """Read from the other view, within the stretch."""
        length = min(length, self.size - offset)
        return self.view.read_at(self.start + offset, length) if length > 0 and offset >= 0 else b""


class Cursor:
    """A place in a view that moves on as it is read; reads ahead by one window, so that small reads cost little."""

    __slots__ = ("base", "buffer", "place", "view")

    def __init__(self, view: View, place: int = 0) -> None:
        self.view = view
        self.base = place  # of the buffer, in the view
        self.buffer = b""
        self.place = place

    @property
    def left(self) -> int:
        """How many bytes follow."""
        return self.view.size - self.place

    def read(self, length: int) -> bytes:
        """Return the next bytes; fewer than ``length`` only at the end."""
        start = self.place - self.base
        if start < 0 or start + length > len(self.buffer):
            self.base, start = self.place, 0
            self.buffer = self.view.read_at(self.place, max(WINDOW, length))
        data = self.buffer[start : start + length]
        self.place += len(data)
        return data

    def skip(self, length: int) -> bool:
        """Go on by ``length`` bytes without reading them. False where there are fewer."""
        if length < 0 or length > self.left:
            return False
        self.place += length
        return True


def pieces(view: View, length: int = PIECE) -> Iterator[bytes]:
    """Yield all of a view, piece by piece, for as long as there is something."""
    place = 0
    while place < view.size and (data := view.read_at(place, min(length, view.size - place))):
        yield data
        place += len(data)
