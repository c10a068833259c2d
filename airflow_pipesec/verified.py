"""Verified: the bytes that a consumer gets are the bytes that were verified, whatever becomes of the file meanwhile.

A check that reads a file, and a consumer that opens it again later, may see two different files. Here the consumer's own bytes
are the ones that are hashed: :func:`verified_open` gives a file object, :func:`materialize` a path for libraries that want one. A
:class:`Handle` carries what was verified from one task to another. Nothing here knows Airflow.
"""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NamedTuple

from airflow_pipesec.bundle import MAX_BUNDLE_BYTES, open_manifest, unverified_manifest
from airflow_pipesec.errors import (
    ConfigurationError,
    EvidenceError,
    ManifestError,
    ObjectMissing,
    ObjectRefused,
    PipesecError,
    StorageError,
    VerificationError,
)
from airflow_pipesec.findings import amount, printable
from airflow_pipesec.hashing import ALGORITHMS, new_hasher
from airflow_pipesec.manifest import Digest, Manifest, Resource
from airflow_pipesec.signing import TrustedKeys
from airflow_pipesec.storage import SINGLE, LocalStore, Source, Store, escapes, open_store, os_errors
from airflow_pipesec.storage_base import CHUNK

__all__ = ["Handle", "is_digest", "load_manifest", "materialize", "private_copy", "verified_open"]

HANDLE_TYPE = "airflow_pipesec/verified-handle/v1"
IN_MEMORY = 16 << 20
"""Bytes; a larger copy lies in an unlinked file in the temporary folder."""

Location = str | os.PathLike[str]
StoreOf = Callable[[str], Store]
Recorded = Manifest | Digest | Location | Store


@dataclass(frozen=True)
class Handle:
    """What was verified, in a form that goes through XCom: where it lies, and the one digest that stands for all of it.

    ``root`` is the path or URL of a file or a tree. ``digest`` is ``sha256:…`` of the file, or ``tree:sha256:…`` of the tree
    (:attr:`Manifest.tree_digest <airflow_pipesec.manifest.Manifest.tree_digest>`). A tree has a ``manifest``, the path or URL of
    it, and a file has none. ``version`` is the object version of a single S3 object.

    A handle proves nothing by itself: whoever can write the XCom can write another. Raises :class:`ConfigurationError` for parts
    that do not belong together.
    """

    root: str
    digest: str
    manifest: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        parts = (self.root, self.digest, *(part for part in (self.manifest, self.version) if part is not None))
        if not all(isinstance(part, str) and part for part in parts):
            raise ConfigurationError("a part of a handle is not text, or is empty. Give the root and the digest at least.")
        of_tree = self.digest.startswith("tree:")
        bare = self.digest.removeprefix("tree:")
        if str(Digest.parse(bare)) != bare:
            raise ConfigurationError("the digest of a handle is not in its one form. Write sha256:…, or tree:sha256:… of a tree.")
        if of_tree != (self.manifest is not None):
            raise ConfigurationError(
                "a handle has a manifest when its digest is that of a tree, and only then. Give both, or sha256:… alone."
            )
        if of_tree and self.version is not None:
            raise ConfigurationError("a handle of a tree has no version. Leave it out: the manifest holds one for each object.")

    def to_xcom(self) -> dict[str, str]:
        """Return the handle as a dictionary of text."""
        parts = {"root": self.root, "digest": self.digest, "manifest": self.manifest, "version": self.version}
        return {"type": HANDLE_TYPE} | {key: value for key, value in parts.items() if value is not None}

    @classmethod
    def from_xcom(cls, obj: object) -> Handle:
        """Read what :meth:`to_xcom` returned. Raises :class:`ConfigurationError` for anything else."""
        if not isinstance(obj, dict) or obj.get("type") != HANDLE_TYPE:
            raise ConfigurationError(
                f"the XCom is no handle of verified files ({HANDLE_TYPE}). Pull the one that the verifying task pushed."
            )
        parts = {key: value for key, value in obj.items() if key != "type"}
        if not {"root", "digest"} <= parts.keys() <= {"root", "digest", "manifest", "version"} or None in parts.values():
            raise ConfigurationError("the handle in the XCom has other parts than a handle has. Pull the one that was pushed.")
        return cls(**parts)


class _File(NamedTuple):
    """One file, and what it was when it was recorded."""

    store: Store
    name: str
    digest: Digest
    version: str | None


def load_manifest(store: Store, trusted: TrustedKeys | None = None) -> Manifest:
    """Read a manifest. With ``trusted`` one of these keys has to have signed it; without, nobody.

    Raises :class:`EvidenceError` for the signature, :class:`ManifestError` for what is no manifest, and :class:`StorageError` for
    what cannot be read.
    """
    manifest, key = open_manifest(store.read(limit=MAX_BUNDLE_BYTES), trusted, now=datetime.now(UTC))
    if trusted is not None and key is None:
        raise EvidenceError(
            f"manifest {printable(store.url)} is not signed, and a trusted key has to have signed it. Have it signed, or give "
            "the digest of what is opened."
        )
    return manifest


def verified_open(
    source: Location | Store | Handle,
    manifest: Recorded | None = None,
    *,
    name: str | None = None,
    stream: bool = False,
    store_of: StoreOf = open_store,
    trusted: TrustedKeys | None = None,
) -> io.BufferedReader:
    """Open a file for reading and give out no byte of it that is not the recorded one. Close it, or use it in a ``with``.

    ``source`` is a path, a URL or a store, and ``manifest`` is what to hold it against: a digest (``sha256:…``), a manifest, or
    where one lies. Or ``source`` is a :class:`Handle`, which says both. ``name`` picks a file under ``source``; without it, it is
    ``source`` itself that is opened, as the one recorded file whose name its path ends with. ``store_of`` opens URLs: in a task
    that is :func:`airflow_pipesec.guards.base.open_location`, which knows Airflow's connections. With ``trusted`` a manifest that
    is read has to be signed by one of these keys; one that a handle names by its digest need not be.

    The file is copied while it is hashed, to memory or, when it is large, to an unlinked file in the temporary folder. Only when
    the whole digest is right, the copy is given out, read-only and seekable. This is for consumers that act on the first bytes
    they see, as pickle does.

    With ``stream`` nothing is copied and memory does not depend on the size: the file is hashed as it is read, from start to
    end, and its last block (up to 1 MiB) is held back until the digest is right. A consumer of wrong bytes gets an exception, and
    never a regular end of file. But it has seen wrong bytes by then: whatever it did with them has to be undone. A consumer that
    stops before the end has verified nothing, and closing the file does not say otherwise.

    The object version that was recorded is the one that is read, so that a later overwrite does not even disturb. Where it is
    not there, as in a copy of the bucket, the newest is read: it is the digest that decides.

    Raises :class:`VerificationError` for other bytes, :class:`ConfigurationError` for what was not recorded or is not clear,
    :class:`ManifestError` and :class:`StorageError` for a manifest or a file that cannot be read.
    """
    store, recorded = _artifact(source, manifest, name, store_of, trusted)
    blocks = _verified_blocks(_picked(store, recorded, name, of_root=isinstance(source, Handle)))
    if stream:
        return io.BufferedReader(_HeldBack(blocks), buffer_size=1 << 16)
    return _private_copy(blocks)


@contextmanager
def materialize(
    source: Location | Store | Handle,
    manifest: Recorded | None = None,
    *,
    name: str | None = None,
    store_of: StoreOf = open_store,
    trusted: TrustedKeys | None = None,
    folder: Location | None = None,
) -> Iterator[Path]:
    """Give the path of a verified copy of a file or a tree, for libraries that want a path, and remove it at the end.

    The parameters are those of :func:`verified_open`, except that a tree is given as a whole, from its root, unless ``name``
    picks a file of it. The copy is a new folder below ``folder``, or the temporary folder: for its owner to read and nobody to
    write. A single file keeps the last part of its name. Of a tree every recorded file is there and no other.

    Every file is verified while it is copied, and gets its name only when it is right. When one is wrong or missing, nothing is
    given out, and the copy is removed. (A process that is killed leaves it, named ``pipesec-…``.)

    Raises what :func:`verified_open` does; :class:`ObjectRefused` for a recorded name that leads out, and
    :class:`ConfigurationError` for a ``folder`` in which others may rename things.
    """
    store, recorded = _artifact(source, manifest, name, store_of, trusted)
    if name is None and not _is_single(recorded):
        files = [_file(store, recorded, resource) for resource in recorded.resources]
        places, result = [file.name for file in files], ""
    else:
        files = [_picked(store, recorded, name, of_root=True)]
        own = store.name if files[0].name == SINGLE else files[0].name.rpartition("/")[2]
        result = "file" if escapes(own) else own
        places = [result]
    private = _private_folder(folder)
    try:
        copies = LocalStore(private)
        for file, place in zip(files, places, strict=True):
            copies.place(_verified_blocks(file), place)
        _set_modes(private, 0o500)
        yield private / result
    finally:
        with os_errors(str(private)), suppress(FileNotFoundError):
            _set_modes(private, 0o700)
            shutil.rmtree(private)


def _artifact(
    source: Location | Store | Handle,
    manifest: Recorded | None,
    name: str | None,
    store_of: StoreOf,
    trusted: TrustedKeys | None,
) -> tuple[Store, Manifest]:
    """Return where the artifact lies and what was recorded of it; the digest of one file is a manifest of that file."""
    if name is not None and not isinstance(name, str):
        raise ConfigurationError(f"name= is a {type(name).__name__}. Give the name of a file as the manifest has it.")
    if not isinstance(source, Handle):
        if manifest is None:
            raise ConfigurationError(
                "there is nothing to verify by. Give manifest=, the digest or the manifest of what is opened."
            )
        store = source if isinstance(source, Store) else store_of(_text(source))
        return store, _recorded(store, manifest, name, store_of, trusted)
    if manifest is not None:
        raise ConfigurationError("a handle knows what it is verified by. Leave manifest= out.")
    store = store_of(source.root)
    if source.manifest is None:
        return store, _of_one(store, SINGLE, Digest.parse(source.digest), source.version)
    where = store_of(source.manifest)
    recorded = _not_empty(unverified_manifest(where.read(limit=MAX_BUNDLE_BYTES)))  # its digest is known
    if recorded.tree_digest != source.digest:
        raise VerificationError(
            f"{printable(where.url)} is not the manifest that was verified: {source.digest[:28]}… was expected and "
            f"{recorded.tree_digest[:28]}… is there. Verify the artifact again, and find out who changed the manifest."
        )
    return store, recorded


def is_digest(manifest: object) -> bool:
    """Whether this is a digest written as text, ``sha256:…``, and not the place of a manifest."""
    return isinstance(manifest, str) and manifest.strip().lower().partition(":")[0] in ALGORITHMS


def _recorded(store: Store, manifest: Recorded, name: str | None, store_of: StoreOf, trusted: TrustedKeys | None) -> Manifest:
    if isinstance(manifest, str) and manifest.strip().lower().startswith("tree:"):
        raise ConfigurationError("the digest of a tree does not say what is in it. Give the manifest, or a handle that names it.")
    if isinstance(manifest, str) and is_digest(manifest):
        manifest = Digest.parse(manifest)
    if isinstance(manifest, Digest):
        return _of_one(store, SINGLE if name is None else name, Digest.parse(str(manifest)))
    if isinstance(manifest, Manifest):
        return _not_empty(manifest)
    return _not_empty(load_manifest(manifest if isinstance(manifest, Store) else store_of(_text(manifest)), trusted))


def _text(location: Any) -> Any:
    return os.fspath(location) if isinstance(location, os.PathLike) else location  # what is no location is the store's to tell


def _of_one(store: Store, name: str, digest: Digest, version: str | None = None) -> Manifest:
    return Manifest.of(store.name, digest.algorithm, [Resource(name, digest.hex, version)])


def _not_empty(manifest: Manifest) -> Manifest:
    if not manifest.resources:
        raise ManifestError("the manifest records no file at all. Make a new manifest of the artifact.")
    return manifest


def _is_single(recorded: Manifest) -> bool:
    return len(recorded.resources) == 1 and recorded.resources[0].name == SINGLE


def _file(store: Store, recorded: Manifest, resource: Resource) -> _File:
    try:
        leads_out = escapes(resource.name) and not _is_single(recorded)
        os.fsencode(resource.name)
    except UnicodeEncodeError:
        leads_out = True
    if leads_out:
        raise ObjectRefused(f"{printable(resource.name)} is recorded, but is no name below a root. Find out who recorded it.")
    return _File(store, resource.name, Digest(recorded.algorithm, resource.digest), resource.version)


def _picked(store: Store, recorded: Manifest, name: str | None, *, of_root: bool) -> _File:
    """Return the file that is meant: the one named, the only one there is, or the one that the root's own path ends with."""
    if name is not None:
        found = [resource for resource in recorded.resources if resource.name == name]
        if not found:
            raise ConfigurationError(f"{printable(store.describe(name))} was never recorded. Give a name that the manifest has.")
        return _file(store, recorded, found[0])
    if _is_single(recorded):
        return _file(store, recorded, recorded.resources[0])
    if of_root:
        number = amount(len(recorded.resources), "file")
        raise ConfigurationError(f"{printable(store.url)} is a tree with {number} recorded. Give name=, the file to open.")
    path = os.path.abspath(store.path) if isinstance(store, LocalStore) else store.url  # noqa: PTH100 - resolve() follows links
    found = [resource for resource in recorded.resources if f"/{path}".endswith(f"/{resource.name}")]
    if len(found) != 1:
        known = "no recorded name" if not found else f"{len(found)} recorded names"
        raise ConfigurationError(
            f"the path {printable(store.url)} ends with {known}. Give the root of the artifact, and the file in it as name=."
        )
    file = _file(store, recorded, found[0])
    if isinstance(store, LocalStore):  # from the root, so that no link below it is followed
        return file._replace(store=LocalStore(Path(path).parents[file.name.count("/")]))
    return file._replace(name=SINGLE)


def _verified_blocks(file: _File) -> Generator[memoryview, None, None]:
    """Read a file once and yield its blocks, the last one only when the digest of all of them is right.

    A block is good until the next one is asked for. Raises :class:`VerificationError` instead of ending when it is wrong.
    """
    hasher = new_hasher(file.digest.algorithm)()
    held, free = memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))
    with ExitStack() as stack:
        try:
            source = stack.enter_context(file.store.stream(file.name, version=file.version))
            size = _fill(source, held)
        except ObjectMissing:
            if file.version is None:
                raise
            # The artifact was copied to where the version is another, or that version was deleted. The digest decides.
            source = stack.enter_context(file.store.stream(file.name))
            size = _fill(source, held)
        while size:
            hasher.update(held[:size])
            following = _fill(source, free)
            if not following:
                break
            yield held[:size]
            held, free, size = free, held, following
    actual = hasher.digest().hex()
    if actual != file.digest.hex:
        raise VerificationError(
            f"{printable(file.store.describe(file.name))} is not what was verified: {file.digest.algorithm} "
            f"{file.digest.hex[:16]}… was expected and {actual[:16]}… is there. Restore it, and find out who changed it."
        )
    if size:
        yield held[:size]


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until the buffer is full or the file is at its end, and return how many bytes."""
    size = 0
    while size < len(buffer) and (count := source.readinto(buffer[size:])):
        size += count
    return size


class _HeldBack(io.RawIOBase):
    """Reads verified blocks as a file, which ends only when all of it was right."""

    def __init__(self, blocks: Generator[memoryview, None, None]) -> None:
        self._blocks = blocks
        self._error: Exception | None = None
        self._held = next(blocks, memoryview(b""))  # what is missing, or small and wrong, is told at once

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self.closed:
            raise ValueError("the file is closed")
        if self._error is not None:
            raise self._error  # again: one who goes on reading after an exception must not find an end
        if not self._held:
            try:
                self._held = next(self._blocks, memoryview(b""))
            except BaseException as error:
                stopped = StorageError("reading was interrupted, and what was read is not verified. Open the file again.")
                self._error = error if isinstance(error, PipesecError) else stopped
                raise
        wanted = memoryview(buffer).cast("B")
        count = min(len(wanted), len(self._held))
        wanted[:count], self._held = self._held[:count], self._held[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._blocks.close()
        super().close()


@contextmanager
def private_copy(store: Store, algorithm: str = "sha256") -> Iterator[tuple[io.BufferedReader, Digest]]:
    """Give a private copy of a single file, and the digest of just the bytes in it: for a check that reads them more than once.

    Raises :class:`StorageError` when the file can't be had.
    """
    hasher = new_hasher(algorithm)()

    def blocks() -> Iterator[memoryview]:
        buffer = memoryview(bytearray(CHUNK))
        with store.stream() as source:
            while size := _fill(source, buffer):
                hasher.update(buffer[:size])
                yield buffer[:size]

    with _private_copy(blocks()) as file:
        yield file, Digest(algorithm, hasher.digest().hex())


def _private_copy(blocks: Iterable[memoryview]) -> io.BufferedReader:
    """Take in every block, and give a read-only file of them that never had a name."""
    where = f"the temporary folder {tempfile.gettempdir()}"
    with os_errors(where), ExitStack() as stack:
        file = _in_memory()
        stack.callback(lambda: file.close())  # whichever it is by then
        size = 0
        for block in blocks:
            size += len(block)
            if size > IN_MEMORY >= size - len(block):
                file = _spilled(file)
            file.write(block)
        file.flush()
        return _read_only(file.fileno())


def _in_memory() -> IO[bytes]:
    try:
        return os.fdopen(os.memfd_create("pipesec", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "w+b")
    except OSError:  # a sandbox that does not have it
        return tempfile.TemporaryFile(prefix="pipesec-")


def _spilled(memory: IO[bytes]) -> IO[bytes]:
    with memory, ExitStack() as stack:
        memory.seek(0)
        file = stack.enter_context(tempfile.TemporaryFile(prefix="pipesec-"))
        shutil.copyfileobj(memory, file, CHUNK)
        stack.pop_all()
    return file


def _read_only(descriptor: int) -> io.BufferedReader:
    """Open the file of a descriptor again, for reading from its start, and let nobody write to it any more."""
    os.fchmod(descriptor, 0o400)
    with suppress(OSError):  # only memory can be sealed
        fcntl.fcntl(
            descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        )
    try:
        reader = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # there is no /proc here
        reader = os.dup(descriptor)
        os.lseek(reader, 0, os.SEEK_SET)
    return io.BufferedReader(io.FileIO(reader, "rb"))


def _private_folder(folder: Location | None) -> Path:
    base = Path(tempfile.gettempdir() if folder is None else folder).absolute()
    with os_errors(str(base)):
        mode = base.stat().st_mode
        if mode & 0o002 and not mode & 0o1000:
            raise ConfigurationError(
                f"{printable(str(base))} may be written by everybody, who could put another folder where the copy is. "
                "Give folder=, one that is the task's own."
            )
        return Path(tempfile.mkdtemp(prefix="pipesec-", dir=base))


def _set_modes(root: Path, mode: int) -> None:
    for here, _, _ in os.walk(root):
        Path(here).chmod(mode)
