"""The contract of every store: what a file or a tree of files under one root can be asked, and how its trouble is told."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, Any, NamedTuple, Protocol

from airflow_pipesec.errors import AccessDenied, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.findings import printable

__all__ = [
    "CHUNK",
    "MAX_DEPTH",
    "SINGLE",
    "Buffer",
    "FilePlaces",
    "Hasher",
    "Irregular",
    "Kind",
    "Listing",
    "Places",
    "Scanned",
    "Source",
    "Store",
    "by_path",
    "escapes",
    "from_os",
    "os_errors",
    "within",
]

Buffer = bytes | bytearray | memoryview
SINGLE = "."  # the name of the only file of a store whose root is a file, as OpenSSF Model Signing has it
MAX_DEPTH = 256
CHUNK = 1 << 20
_LEADS_OUT = re.compile(r"\0|(?:^|/)\.{0,2}(?:/|\Z)")  # a NUL, or a part that is empty, "." or ".."


class Hasher(Protocol):
    """The part of a hashlib object that a store feeds."""

    def update(self, data: Any, /) -> Any:
        """Take in more bytes."""

    def digest(self) -> bytes:
        """Return the digest of everything so far."""


class Source(Protocol):
    """A file that is read once from start to end."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer, or a part of it, and return how many bytes; 0 at the end."""


class Places(Protocol):
    """A file that is read at any place of it; what it gains or loses meanwhile does not count."""

    version: str | None

    @property
    def size(self) -> int:
        """How many bytes it has."""

    def read_at(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes from ``offset`` on; fewer, or none, only at the end."""

    def unchanged(self) -> bool:
        """Whether all that was read is of one and the same file, which nobody changed meanwhile."""


class Kind(StrEnum):
    """Why an entry of a tree is not a plain file."""

    SYMLINK = "symlink"
    ESCAPING = "escaping"
    SPECIAL = "special"
    UNREADABLE = "unreadable"


class Irregular(NamedTuple):
    """An entry that is not read: its name under the root, what it is, and a remark for people."""

    name: str
    kind: Kind
    detail: str


@dataclass(slots=True)
class Listing:
    """What lies under a root: the names of plain files (``/``-separated, in :func:`by_path` order), and everything else."""

    files: list[str] = field(default_factory=list)
    irregular: list[Irregular] = field(default_factory=list)

    def ordered(self) -> Listing:
        """Put both lists in order, which no listing of a disk or bucket promises, and return self."""
        self.files.sort(key=by_path)
        self.irregular.sort(key=lambda entry: by_path(entry.name))
        return self


class Scanned(NamedTuple):
    """One file after reading it whole: digest, bytes read and the version that was read, or the error instead."""

    name: str
    digest: bytes
    size: int
    version: str | None = None
    error: StorageError | None = None


def by_path(name: str) -> str:
    """Sort key that compares names folder by folder, as OpenSSF Model Signing orders its resources."""
    return name.replace("/", "\0")


def escapes(name: str) -> bool:
    """Whether a name, joined to a root, would lead outside of it or is not in the one form that a listing gives."""
    return _LEADS_OUT.search(name) is not None


class Store(ABC):
    """A file, or a tree of files, under one root."""

    url: str
    parallel: int
    """How many threads reading at once pay off: the cores for local disks, more where each read waits for a network."""

    pins_versions = False
    """Whether what was read can be named by a version id, so that a later reader gets the same bytes."""

    @property
    def name(self) -> str:
        """The last part of the root's name."""
        return self.address.rpartition("/")[2] or self.url

    @property
    def address(self) -> str:
        """The root in one canonical form, for comparison with other roots."""
        return self.url.rstrip("/")

    def name_of(self, other: Store) -> str | None:
        """The name that another store's root has under this one, or None when it lies elsewhere."""
        base = f"{self.address}/"
        return other.address[len(base) :] if other.address.startswith(base) else None

    def describe(self, name: str) -> str:
        """The full address of one name under the root."""
        return self.url if name == SINGLE else f"{self.url.rstrip('/')}/{name}"

    @abstractmethod
    def listing(self) -> Listing:
        """List everything under the root. ``["."]`` when the root itself is a file.

        Raises :class:`ObjectMissing` when there is nothing, :class:`AccessDenied` or :class:`StorageError` when the root itself
        could not be listed. A folder below it that can't be listed is an irregular entry.
        """

    @abstractmethod
    def scan(self, names: Sequence[str], new: Callable[[], Hasher]) -> Iterator[Scanned]:
        """Read each named file once from start to end through a fresh hash object. Safe to call from several threads."""

    @abstractmethod
    def read(self, name: str = SINGLE, *, limit: int) -> bytes:
        """Return a whole file of at most ``limit`` bytes; a larger one raises :class:`StorageError`."""

    def write(self, data: bytes, name: str = SINGLE) -> None:
        """Write a whole file so that a reader sees the old one or the new one, never a part."""
        self.write_pieces((data,), name)

    @abstractmethod
    def create(self, data: bytes, name: str = SINGLE) -> None:
        """Write a whole small file where nothing is, once and for good; of several writers at once exactly one succeeds.

        A reader sees nothing or the whole file, also when the writer is killed at any moment. When this returns, the bytes are
        there to stay. Bytes that are there already count as written, for a writer whose first try got through without an answer
        would otherwise be told that somebody else was first.

        Raises :class:`ObjectExists` when anything else is there, and :class:`ConfigurationError` where the storage cannot create
        a file only where none is.
        """

    def holds(self, data: bytes, name: str = SINGLE) -> bool:
        """Whether a plain file with exactly these bytes is there and may be read."""
        buffer = memoryview(bytearray(len(data) + 1))
        size = 0
        try:
            with self.stream(name) as source:
                while size < len(buffer) and (count := source.readinto(buffer[size:])):
                    size += count
        except (AccessDenied, ObjectMissing, ObjectRefused):
            return False
        return buffer[:size] == data

    @abstractmethod
    def stream(self, name: str = SINGLE, *, version: str | None = None) -> AbstractContextManager[Source]:
        """Open a file for reading once from start to end.

        Where the store has versions (``pins_versions``), ``version`` is the one that is read and no other; one that is not there
        raises :class:`ObjectMissing` at the first read. Elsewhere there is one version of each file, and that is read.
        """

    @abstractmethod
    def write_pieces(self, pieces: Iterable[Buffer], name: str = SINGLE, *, private: bool = False) -> None:
        """Write a file of any size; when ``pieces`` raises, nothing is written and what was there before stays.

        A ``private`` file can be read by its owner alone, where the storage has owners.
        """

    @abstractmethod
    def open(self) -> AbstractContextManager[IO[bytes]]:
        """Open the root, a plain file, for reading at any place of it; what is remote is first copied to a nameless file."""

    @contextmanager
    def places(self, name: str = SINGLE) -> Iterator[Places]:
        """Open a file for reading at any place of it: only what is asked for is fetched, where the storage can do that.

        Here a copy is read, in a nameless file.
        """
        buffer = memoryview(bytearray(CHUNK))
        with tempfile.TemporaryFile(prefix="pipesec-") as copy, self.stream(name) as source:
            while count := source.readinto(buffer):
                copy.write(buffer[:count])
            copy.flush()
            yield FilePlaces(copy.fileno(), self.describe(name))

    @abstractmethod
    def mark(self, name: str = SINGLE) -> str:
        """Return text that stays the same as long as nobody changes or replaces the file; it says nothing else."""

    @abstractmethod
    def remove(self, name: str = SINGLE) -> None:
        """Delete one file."""

    def same_place(self, other: Store) -> bool:
        """Whether writing to one of the two replaces the other."""
        return self.address == other.address


class FilePlaces:
    """A plain file by its descriptor, which stays the caller's to close."""

    version: str | None = None

    def __init__(self, descriptor: int, where: str) -> None:
        self.descriptor, self.where = descriptor, where
        self._state = self._now()
        self.size = self._state[0]

    def _now(self) -> tuple[int, int, int]:
        status = os.fstat(self.descriptor)
        return status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def read_at(self, offset: int, length: int) -> bytes:
        """Read from the file, within the size that it had when it was opened."""
        length = min(length, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        with os_errors(self.where):
            data = os.pread(self.descriptor, length, offset)
            while len(data) < length and (more := os.pread(self.descriptor, length - len(data), offset + len(data))):
                data += more
        return data

    def unchanged(self) -> bool:
        """Whether size and times are those that it had when it was opened."""
        return self._now() == self._state


def within(data: bytes, limit: int, where: str) -> bytes:
    """Return the data. Raises :class:`StorageError` when it is more than ``limit`` bytes."""
    if len(data) > limit:
        raise StorageError(f"{printable(where)} is larger than {limit} bytes. Give the file that was meant.")
    return data


def from_os(error: OSError, where: str) -> StorageError:
    """Make one of our errors of the system's, naming ``where``."""
    where = printable(where)
    reason = error.strerror or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return ObjectMissing(f"{where} does not exist. Check the path, or run the task that writes it first.")
    if isinstance(error, PermissionError):
        return AccessDenied(f"{where} may not be read or written: {reason}. Grant the task's user access to it.")
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ObjectRefused(f"{where} leads through a link or a file: {reason}. Give a path of plain folders.")
    if error.errno == errno.EISDIR:
        return ObjectRefused(f"{where} is a folder where a file should be. Look for who replaced it.")
    return StorageError(f"{where}: {reason}")


@contextmanager
def os_errors(where: str) -> Iterator[None]:
    """Turn the system's errors into ours, naming ``where``."""
    try:
        yield
    except OSError as error:
        raise from_os(error, where) from error
