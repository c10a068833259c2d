"""Local storage: files and folders, reached through no symbolic link below the root and written whole or not at all.

Every path component is opened by itself, relative to the descriptor of the folder before it and with ``O_NOFOLLOW``: a link that
is put there between listing and reading is refused and not followed.
"""

from __future__ import annotations

import errno
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from airflow_pipesec.errors import ConfigurationError, ObjectExists, ObjectRefused, StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.storage_base import (
    CHUNK,
    MAX_DEPTH,
    SINGLE,
    Buffer,
    FilePlaces,
    Hasher,
    Irregular,
    Kind,
    Listing,
    Scanned,
    Store,
    escapes,
    from_os,
    os_errors,
    within,
)

if TYPE_CHECKING:
    from io import RawIOBase

__all__ = ["LocalSource", "LocalStore", "plain_file"]

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC
SMALL = 65536  # bytes; read at once
_PLACE = os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC  # to work in, also where it may not be listed


class LocalStore(Store):
    """A file or folder on a local disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.url = os.fspath(path)
        self.path = Path(path)
        self.parallel = min(len(os.sched_getaffinity(0)), 16)

    @property
    def address(self) -> str:
        """The absolute path of the entry itself: what leads to it is resolved, it is not."""
        head, tail = os.path.split(self.url.rstrip("/") or "/")
        if tail in ("", ".", ".."):
            return os.path.realpath(self.url)
        return os.path.join(os.path.realpath(head), tail)

    def listing(self) -> Listing:
        found = Listing()
        with os_errors(self.url):
            mode = os.lstat(self.path).st_mode
            if stat.S_ISLNK(mode):
                found.irregular.append(Irregular(SINGLE, Kind.SYMLINK, "a symbolic link; give the path that it points to"))
                return found
            if stat.S_ISREG(mode):
                found.files.append(SINGLE)
                return found
            if not stat.S_ISDIR(mode):
                found.irregular.append(Irregular(SINGLE, Kind.SPECIAL, "a socket, pipe or device"))
                return found
            root = os.open(self.path, _FOLDER)
        try:
            with os_errors(self.url):
                _list_folder(root, "", 0, found)
        finally:
            os.close(root)
        return found.ordered()

    def scan(self, names: Sequence[str], new: Callable[[], Hasher]) -> Iterator[Scanned]:
        buffers: list[memoryview] = []  # made for the first large file: zeroing a MiB costs more than reading a small one
        root = folder = -1
        current = ""
        try:
            single = list(names) == [SINGLE]
            try:
                root = folder = os.open(self.path.absolute().parent if single else self.path, _FOLDER & ~(os.O_NOFOLLOW * single))
            except OSError as error:
                for name in names:
                    yield Scanned(name, b"", 0, error=from_os(error, self.describe(name)))
                return
            for name in names:
                head, _, tail = (self.path.name if single else name).rpartition("/")
                try:
                    if head != current:
                        if folder != root:
                            os.close(folder)
                        folder, current = root, ""
                        folder, current = _open_folder(root, head), head
                    yield _scan_file(name, tail, folder, new(), buffers)
                except OSError as error:
                    yield Scanned(name, b"", 0, error=from_os(error, self.describe(name)))
                except _Grows:
                    grows = f"{printable(self.describe(name))} grows while it is read. Run the guard again when it is at rest."
                    yield Scanned(name, b"", 0, error=StorageError(grows))
                except ObjectRefused:
                    refused = f"{printable(self.describe(name))} is not a plain file any more. Look for who replaced it."
                    yield Scanned(name, b"", 0, error=ObjectRefused(refused))
        finally:
            if folder != root:
                os.close(folder)
            if root >= 0:
                os.close(root)

    def read(self, name: str = SINGLE, *, limit: int) -> bytes:
        where = self.describe(name)
        with os_errors(where), self._place(name) as (folder, tail):
            # The root itself is the author's choice, link or not.
            descriptor = os.open(tail, _READ & ~(os.O_NOFOLLOW * (name == SINGLE)), dir_fd=folder)
            with plain_file(descriptor, where) as file:
                data = file.read(limit + 1)
        return within(data, limit, where)

    def write_pieces(self, pieces: Iterable[Buffer], name: str = SINGLE, *, private: bool = False) -> None:
        where = self.describe(name)
        with os_errors(where), self._place(name, make=True) as (folder, tail):
            _replace(folder, tail, pieces, where, 0o600 if private else 0o666)

    def create(self, data: bytes, name: str = SINGLE) -> None:
        where = self.describe(name)
        with os_errors(where), self._place(name, make=True) as (folder, tail):
            if not _create(folder, tail, (data,), where, 0o444):
                if not self.holds(data, name):
                    raise ObjectExists(f"{printable(where)} exists already and is written only once. Look at who wrote it.")
                with self.stream(name) as there:  # whoever wrote it may not have come so far
                    os.fsync(there.fileno())
            _sync(folder)

    def place(self, pieces: Iterable[Buffer], name: str) -> None:
        """Write a file for its owner to read and nobody to change, where nothing is; when ``pieces`` raises, nothing is written.

        It is not fsynced: this is for copies that need not outlive the process. Raises :class:`ObjectExists`.
        """
        where = self.describe(name)
        with os_errors(where), self._place(name, make=True) as (folder, tail):
            if not _create(folder, tail, pieces, where, 0o400, lasting=False):
                raise ObjectExists(f"{printable(where)} exists already. Look at who wrote it.")

    def mark(self, name: str = SINGLE) -> str:
        with os_errors(self.describe(name)), self._place(name) as (folder, tail):
            status = os.stat(tail, dir_fd=folder, follow_symlinks=False)
        return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"

    @contextmanager
    def stream(self, name: str = SINGLE, *, version: str | None = None) -> Iterator[LocalSource]:
        where = self.describe(name)
        with os_errors(where), self._place(name) as (folder, tail):
            descriptor = os.open(tail, _READ, dir_fd=folder)
        with plain_file(descriptor, where, buffering=0) as file:
            yield LocalSource(cast("RawIOBase", file), where)

    @contextmanager
    def places(self, name: str = SINGLE) -> Iterator[FilePlaces]:
        where = self.describe(name)
        with os_errors(where), self._place(name) as (folder, tail):
            descriptor = os.open(tail, _READ, dir_fd=folder)
        with plain_file(descriptor, where, buffering=0):
            yield FilePlaces(descriptor, where)

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        with os_errors(self.url):
            descriptor = os.open(self.path, _READ)
        with plain_file(descriptor, self.url) as file:
            yield file

    def remove(self, name: str = SINGLE) -> None:
        with os_errors(self.describe(name)), self._place(name) as (folder, tail):
            os.unlink(tail, dir_fd=folder)

    def _inside(self, name: str) -> Path:
        if name != SINGLE and escapes(name):
            raise ObjectRefused(f"{printable(self.describe(name))} leads outside its root. Give a name below it.")
        return self.path if name == SINGLE else self.path / name

    @contextmanager
    def _place(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Give the descriptor of the folder that a name lies in, reached through no link below the root, and its last part."""
        head, _, tail = name.rpartition("/")
        if name == SINGLE:
            path = self._inside(name)
            if not path.name:
                raise ConfigurationError(f"{printable(self.url)} is a folder. Give the path of a file.")
            # What leads to the root is the author's choice, links and all.
            base, flags, tail = path.absolute().parent, _PLACE & ~os.O_NOFOLLOW, path.name
        else:
            base, flags = self._inside(SINGLE), _PLACE
            self._inside(name)
        if make:
            base.mkdir(parents=True, exist_ok=True)
        root = folder = os.open(base, flags)
        try:
            folder = _open_folder(root, head, _PLACE, make=make)
            yield folder, tail
        finally:
            if folder != root:
                os.close(folder)
            os.close(root)


@contextmanager
def plain_file(descriptor: int, where: str, *, buffering: int = -1) -> Iterator[IO[bytes]]:
    """Make a file of a descriptor, which is closed in any case, unless it is no plain file."""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ObjectRefused(f"{printable(where)} is not a plain file. Give the path of one.")
        with os.fdopen(descriptor, "rb", buffering=buffering, closefd=False) as file:
            yield cast("IO[bytes]", file)
    finally:
        os.close(descriptor)


class LocalSource:
    """A local file whose errors are told as every store's are."""

    def __init__(self, file: RawIOBase, where: str) -> None:
        self.file = file
        self.where = where

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the buffer, or a part of it, and return how many bytes; 0 at the end."""
        with os_errors(self.where):
            return self.file.readinto(buffer)

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self.file.fileno()


def _replace(folder: int, name: str, pieces: Iterable[Buffer], where: str, mode: int) -> None:
    """Put data at ``name`` whole or not at all: write beside it, fsync, rename, fsync the folder.

    What is beside it has no name before it is whole: not even a process that is killed leaves a part behind.
    """
    with suppress(FileNotFoundError):
        there = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if not stat.S_ISREG(there) and not stat.S_ISLNK(there):
            raise ObjectRefused(f"{printable(where)} is a folder, pipe or device, and is not replaced. Give another place.")
    # Less the umask: evidence and manifests are for others to read, as any file the task writes.
    with _whole(folder, pieces, mode) as (source, beside):
        if source != beside:
            os.link(source, beside, dst_dir_fd=folder, follow_symlinks=True)
        os.replace(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    _sync(folder)


def _create(folder: int, name: str, pieces: Iterable[Buffer], where: str, mode: int, *, lasting: bool = True) -> bool:
    """Put data at ``name`` whole and say so, or say that something is there: to link a file to a name replaces nothing."""
    with _whole(folder, pieces, mode, lasting=lasting) as (source, beside):
        try:
            os.link(source, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=source != beside)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            raise ConfigurationError(
                f"{printable(where)} lies on a file system without hard links, which cannot create a file only where none is. "
                "Give a place on another one."
            ) from None
    return True


@contextmanager
def _whole(folder: int, pieces: Iterable[Buffer], mode: int, *, lasting: bool = True) -> Iterator[tuple[str, str]]:
    """Write a file that has no name, or a hidden one on file systems where it must, which is gone afterwards.

    Give what to link from, and the hidden name: the same, or one that is free. What is ``lasting`` is fsynced.
    """
    beside = f".{uuid.uuid4().hex}.tmp"
    try:
        try:
            if not os.path.isdir("/proc/self/fd"):
                raise OSError  # without it a nameless file cannot be given a name
            descriptor = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, mode, dir_fd=folder)
            source = f"/proc/self/fd/{descriptor}"
        except OSError:
            descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder)
            source = beside
        with os.fdopen(descriptor, "wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            if lasting:
                os.fsync(descriptor)
            yield source, beside
    finally:
        with suppress(OSError):
            os.unlink(beside, dir_fd=folder)


def _sync(folder: int) -> None:
    """Fsync a folder, so that the names in it last."""
    try:
        listed = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.fsync(listed)
        finally:
            os.close(listed)
    except OSError as error:
        # A drop box, which may be written and not read, or a file system that syncs no folders: the file is there.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EOPNOTSUPP):
            raise


def _list_folder(descriptor: int, prefix: str, depth: int, found: Listing) -> None:
    with os.scandir(descriptor) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                found.files.append(prefix + entry.name)
            elif entry.is_dir(follow_symlinks=False):
                _list_subfolder(descriptor, entry.name, prefix, depth + 1, found)
            elif entry.is_symlink():
                found.irregular.append(_describe_link(descriptor, entry.name, prefix))
            else:
                found.irregular.append(Irregular(prefix + entry.name, Kind.SPECIAL, "a socket, pipe or device"))


def _list_subfolder(parent: int, name: str, prefix: str, depth: int, found: Listing) -> None:
    if depth > MAX_DEPTH:
        found.irregular.append(Irregular(prefix + name, Kind.UNREADABLE, f"nested deeper than {MAX_DEPTH} folders"))
        return
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except OSError as error:
        found.irregular.append(Irregular(prefix + name, Kind.UNREADABLE, error.strerror or "cannot be opened"))
        return
    try:
        _list_folder(descriptor, f"{prefix}{name}/", depth, found)
    except OSError as error:
        found.irregular.append(Irregular(prefix + name, Kind.UNREADABLE, error.strerror or "cannot be listed"))
    finally:
        os.close(descriptor)


def _describe_link(folder: int, name: str, prefix: str) -> Irregular:
    try:
        target = os.readlink(name, dir_fd=folder)
    except OSError as error:
        return Irregular(prefix + name, Kind.UNREADABLE, error.strerror or "a link that cannot be read")
    landing = os.path.normpath(os.path.join("/" if target.startswith("/") else prefix, target))
    if landing == ".." or landing.startswith(("/", "../")):
        return Irregular(prefix + name, Kind.ESCAPING, "a symbolic link that leads outside the root")
    return Irregular(prefix + name, Kind.SYMLINK, "a symbolic link")


def _open_folder(root: int, path: str, flags: int = _FOLDER, *, make: bool = False) -> int:
    """Open a folder below ``root`` component by component, following no link."""
    folder = root
    for part in path.split("/") if path else ():
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=folder)
            inner = os.open(part, flags, dir_fd=folder)
        finally:
            if folder != root:
                os.close(folder)
        folder = inner
    return folder


_scanned = partial(tuple.__new__, Scanned)  # what Scanned(…) does, at a third of its cost


class _Grows(Exception):
    """Somebody is still writing the file: there is no end to wait for."""


def _scan_file(name: str, tail: str, folder: int, hasher: Hasher, buffers: list[memoryview]) -> Scanned:
    descriptor = os.open(tail, _READ, dir_fd=folder)
    try:
        try:
            expected = os.lseek(descriptor, 0, os.SEEK_END)
        except OSError:
            expected = 0  # a pipe, or one of the system's own files
        if 0 < expected < SMALL:
            # What has an end, and ends there, is a plain file: with one call less than asking what it is. (A block device so
            # small would do as well, but only the superuser could put one here.) One byte more than the size shows the end.
            data = os.pread(descriptor, expected + 1, 0)
            if len(data) == expected:
                hasher.update(data)
                return _scanned((name, hasher.digest(), expected, None, None))
        return _scan_warily(name, descriptor, hasher, buffers)
    finally:
        os.close(descriptor)


def _scan_warily(name: str, descriptor: int, hasher: Hasher, buffers: list[memoryview]) -> Scanned:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise ObjectRefused
    os.lseek(descriptor, 0, os.SEEK_SET)
    if not buffers:
        buffers.append(memoryview(bytearray(CHUNK)))
    expected, size = status.st_size, 0
    while count := os.readv(descriptor, buffers):
        hasher.update(buffers[0][:count])
        size += count
        if size > expected > 0:  # the system's own files say that they are empty
            raise _Grows
    return Scanned(name, hasher.digest(), size)
