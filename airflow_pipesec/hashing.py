"""Hashing: many files at once, each read once, in an order that nobody can influence and with memory that does not grow.

Two ways of being parallel, chosen by what was measured (``make bench``). A few files, or files behind a network, are read by
threads: there the work happens while the interpreter's lock is released. A large local tree is read by forked processes: with
thousands of small files, threads spend more time on handing that lock to and fro than on hashing.
"""

from __future__ import annotations

import fcntl
import gc
import hashlib
import marshal
import os
import signal
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from multiprocessing.connection import Connection, wait
from typing import Any

from airflow_pipesec import errors
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.storage import Hasher, LocalStore, Store

__all__ = ["ALGORITHMS", "Hashed", "Progress", "hash_files", "new_hasher"]

ALGORITHMS = {"sha256": 64, "sha512": 128, "blake3": 64}
"""The algorithms a manifest may use, and how many hexadecimal digits their digests have."""

FORK_FROM = 512  # files; below, a fork costs more than it saves
MOST_WORKERS = 64
MOST_CHUNKS = 8192  # the numbers of all chunks must fit into a pipe (64 KiB) at once


@dataclass(slots=True)
class Hashed:
    """What reading a list of files gave, kept small because there may be millions.

    ``digests`` stand in the order of the names that were asked for, raw, and ``b""`` where a file could not be read; ``errors``
    says why, by name. ``versions`` holds the object version that was read, where the store has versions. ``size`` is in bytes.
    """

    digests: list[bytes]
    size: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, StorageError] = field(default_factory=dict)


# Of a chunk: its first place, the digests, the bytes read, and which files failed, by place in the chunk, kind and message.
_Part = tuple[int, list[bytes], int, list[tuple[int, str, str]]]

Progress = Callable[[int, int, int], None]
"""Called with the files and the bytes newly read, and how many files there are in all; possibly from several threads."""


def new_hasher(algorithm: str, *, threads: int = 1) -> Callable[[], Hasher]:
    """Return a function that makes fresh hash objects. ``threads`` are BLAKE3's own, for when files are read one by one."""
    if algorithm == "blake3":
        from blake3 import blake3

        return lambda: blake3(max_threads=threads)
    if algorithm in ALGORITHMS:
        return {"sha256": hashlib.sha256, "sha512": hashlib.sha512}[algorithm]
    raise ConfigurationError(f"algorithm {algorithm!r} is unknown. Use one of {', '.join(ALGORITHMS)}.")


def hash_files(
    store: Store,
    names: Sequence[str],
    algorithm: str = "sha256",
    *,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Hashed:
    """Read each named file of a store once and return the digests in the order of ``names``.

    ``workers`` files are read at once (the store knows how many pay off, unless given). Each worker holds one buffer of 1 MiB, so
    memory does not depend on how large the files are.

    Raises :class:`ConfigurationError` for an unknown algorithm or a number of workers below 1, and :class:`StorageError` when a
    worker process dies.
    """
    wanted = store.parallel if workers is None else workers
    if isinstance(wanted, bool) or not isinstance(wanted, int) or not 1 <= wanted <= MOST_WORKERS:
        raise ConfigurationError(
            f"workers={wanted!r} is not a number from 1 to {MOST_WORKERS}. Leave it out to let the store decide."
        )
    crew = max(1, min(wanted, len(names)))
    new = new_hasher(algorithm, threads=max(1, wanted // crew))
    chunks = _chunks(len(names), crew)
    if crew > 1 and len(names) >= FORK_FROM and isinstance(store, LocalStore):
        hashed = _by_processes(store, names, new, chunks, crew, progress)
    else:
        hashed = _by_threads(store, names, new, chunks, crew, progress)
    if (unread := hashed.digests.count(b"") - len(hashed.errors)) > 0:
        raise StorageError(f"{unread} of {len(names)} files were never read: a worker ended early. Run it again.")
    return hashed


def _chunks(total: int, crew: int) -> list[tuple[int, int]]:
    """Cut the work into runs that get shorter towards the end, so that no worker is left alone with the last large files."""
    largest = max(256, -(-2 * total // MOST_CHUNKS))
    chunks, start = [], 0
    while start < total:
        end = min(total, start + max(1, min(largest, (total - start) // (4 * crew))))
        chunks.append((start, end))
        start = end
    return chunks


def _by_threads(
    store: Store,
    names: Sequence[str],
    new: Callable[[], Hasher],
    chunks: list[tuple[int, int]],
    crew: int,
    progress: Progress | None,
) -> Hashed:
    hashed = Hashed([b""] * len(names))
    failures: list[BaseException] = []
    sizes: list[int] = []
    turn = count()  # next() on it is atomic

    def stoppable() -> Hasher:
        return _Stoppable(new(), failures)

    def work() -> None:
        try:
            while (index := next(turn)) < len(chunks) and not failures:
                start, end = chunks[index]
                size = 0
                for place, scanned in enumerate(store.scan(names[start:end], stoppable if crew > 1 else new), start):
                    hashed.digests[place] = scanned.digest
                    size += scanned.size
                    if scanned.error is not None:
                        hashed.errors[scanned.name] = scanned.error
                    elif scanned.version is not None:
                        hashed.versions[scanned.name] = scanned.version
                sizes.append(size)
                if progress is not None:
                    progress(end - start, size, len(names))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, name=f"pipesec-hash-{number}", daemon=True) for number in range(1, crew)]
    for thread in threads:
        thread.start()
    work()
    try:
        for thread in threads:
            thread.join()
    except BaseException as error:  # an interrupt, or the end of the task's time
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    hashed.size = sum(sizes)
    return hashed


class _Stoppable:
    """A hash object that takes nothing more once another worker has failed, so that nobody reads a large file in vain."""

    __slots__ = ("digest", "failures", "hash")

    def __init__(self, hasher: Hasher, failures: list[BaseException]) -> None:
        self.hash = hasher.update
        self.digest = hasher.digest
        self.failures = failures

    def update(self, data: Any, /) -> None:
        if self.failures:
            raise self.failures[0]
        self.hash(data)


def _by_processes(
    store: LocalStore,
    names: Sequence[str],
    new: Callable[[], Hasher],
    chunks: list[tuple[int, int]],
    crew: int,
    progress: Progress | None,
) -> Hashed:
    hashed = Hashed([b""] * len(names))
    # A pipe filled with the numbers of the chunks is the queue: a read of four bytes takes one, whoever asks.
    queue, filler = os.pipe()
    try:
        # A user with many pipes gets small ones, and a write that does not fit would wait for ever: fewer chunks, then.
        merged = -(-4 * len(chunks) // fcntl.fcntl(filler, fcntl.F_GETPIPE_SZ))
        chunks = [(run[0][0], run[-1][1]) for run in (chunks[at : at + merged] for at in range(0, len(chunks), merged))]
        os.write(filler, struct.pack(f"={len(chunks)}I", *range(len(chunks))))
    finally:
        os.close(filler)
    children: dict[Connection, int] = {}
    try:
        for _ in range(crew - 1):
            reader, writer = os.pipe()
            pid = _fork()
            if pid == 0:
                _child(store, names, new, chunks, queue, writer)
            os.close(writer)
            children[Connection(reader, writable=False)] = pid
        waiting = set(children)

        def take_in(part: _Part) -> None:
            start, digests, size, failed = part
            hashed.digests[start : start + len(digests)] = digests
            hashed.size += size
            for offset, kind, message in failed:
                hashed.errors[names[start + offset]] = getattr(errors, kind)(message)
            if progress is not None:
                progress(len(digests), size, len(names))

        def hear(timeout: float | None) -> None:
            for connection in wait(list(waiting), timeout):
                assert isinstance(connection, Connection)  # noqa: S101 - narrows the type: wait() returns what it was given
                try:
                    take_in(marshal.loads(connection.recv_bytes()))  # noqa: S302 - from our own child
                except (EOFError, OSError):  # it ended, or was ended in the middle of a message
                    waiting.discard(connection)

        # This process is one of the crew: a fork less, and no child waits long for somebody to hear it.
        while token := os.read(queue, 4):
            take_in(_hashed_chunk(store, names, new, *chunks[struct.unpack("=I", token)[0]]))
            hear(0)
        while waiting:
            hear(None)
    finally:
        os.close(queue)
        for connection, pid in children.items():
            connection.close()
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # its pipe is at its end, or nobody reads it any more
            with suppress(ChildProcessError):  # where SIGCHLD is ignored, the kernel has buried it
                os.waitpid(pid, 0)
    return hashed


def _fork() -> int:
    with warnings.catch_warnings():
        # From Python 3.12 on, forking beside other threads warns of locks they may hold. The child takes none: it opens, reads,
        # hashes and writes to a pipe, and leaves without any clean-up of the parent's things.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def _child(
    store: LocalStore, names: Sequence[str], new: Callable[[], Hasher], chunks: list[tuple[int, int]], queue: int, out: int
) -> None:
    code = 1
    try:
        gc.disable()  # nothing here lives long enough, and a collection would copy the parent's pages
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        with Connection(out, readable=False) as connection:
            while token := os.read(queue, 4):
                part = _hashed_chunk(store, names, new, *chunks[struct.unpack("=I", token)[0]])
                connection.send_bytes(marshal.dumps(part))
        code = 0
    finally:
        os._exit(code)


def _hashed_chunk(store: LocalStore, names: Sequence[str], new: Callable[[], Hasher], start: int, end: int) -> _Part:
    digests, size, failed = [], 0, []
    for offset, scanned in enumerate(store.scan(names[start:end], new)):
        digests.append(scanned.digest)
        size += scanned.size
        if scanned.error is not None:
            failed.append((offset, type(scanned.error).__name__, str(scanned.error)))
    return start, digests, size, failed
