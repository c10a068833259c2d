"""Views: bytes that can be read at any place, and never more of them than a reader asked for."""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["Cursor", "Memory", "Section", "View", "ViewFile"]

WINDOW = 1 << 16
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


class ViewFile:
    """A view as a file that is read, for libraries that want one. It has no descriptor and cannot be written to."""

    def __init__(self, view: View, *, longest: int = LONGEST_READ) -> None:
        self.view = view
        self.longest = longest
        self.place = 0

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes. Raises :class:`ValueError` for more than ``longest`` at once."""
        left = max(0, self.view.size - self.place)
        length = left if length is None or length < 0 else min(length, left)
        if length > self.longest:
            raise ValueError("more is asked for at once than a part of this format has")
        data = self.view.read_at(self.place, length)
        self.place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place. Raises :class:`ValueError` for one before the start."""
        place = offset + (0, self.place, self.view.size)[whence]
        if place < 0:
            raise ValueError("a place before the start")
        self.place = place
        return place

    def tell(self) -> int:
        """Return the place."""
        return self.place

    def seekable(self) -> bool:
        """Whether any place can be gone to: yes."""
        return True

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True
