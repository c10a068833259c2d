"""Archives: the evidence of one run in one file that travels, and is verified elsewhere as it was where it lay.

An archive is a zip with ``README.txt`` and, below ``evidence/``, the run's folder as it was in the store, byte for byte. Nothing
in it is compressed, so nothing can swell, and the same evidence is the same file. It is read in just the form in which it is
written: what other programs would read in two ways, or hide things in, is refused. What it holds is believed no more than a store
is: the signatures in it say what it is worth, and the keys to verify them with are not in it.

Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT (the zip format).
"""

from __future__ import annotations

import io
import os
import shlex
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple, NoReturn

from airflow_pipesec.attestation import MAX_ENVELOPE
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EvidenceError, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.evidence import READERS, RunEvidence, folder_of
from airflow_pipesec.findings import printable
from airflow_pipesec.storage import (
    SINGLE,
    Hasher,
    Listing,
    LocalStore,
    Scanned,
    Source,
    Store,
    escapes,
    open_store,
    os_errors,
    split_url,
)
from airflow_pipesec.storage_base import Buffer, within

__all__ = ["LIMIT", "MOST_FILES", "ArchiveStore", "evidence_store", "open_archive", "verify_command", "write_archive"]

LIMIT = 256 << 20  # bytes of all files in an archive
MOST_FILES = 10_000  # of evidence, in an archive
LONGEST_NAME = 1024  # bytes
ROOT = "evidence"
README = "README.txt"
BEGINNING = (1980, 1, 1, 0, 0, 0)  # of a zip's time
_UTF8, _ENCRYPTED = 0x800, 0x2041  # bits of a file's flags; encrypted by any of three ways
_SPOOLED = 16 << 20  # bytes; what is larger goes to a nameless file
_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_ABOUT = """\
The evidence of one run of an Airflow DAG: what its guards signed, byte for byte.

  DAG  {dag}
  run  {run}

To verify it, install airflow-pipesec (https://pypi.org/project/airflow-pipesec/) and run

  {command}

FILE.zip is this archive; unpacked, its folder "evidence" can be given instead. KEYS is the file of the public keys that you
trust. Exit code 0 means that the run is proved, 1 that it is not, 2 that nothing could be decided.

The trusted keys are deliberately not in this archive: whoever can change it could change them as well. Get them from those who
are responsible for the deployment, and by another way than this archive came.

In "evidence", files ending in .vsa.json are the release gate's verification summaries, and every other .json is the attestation
of one attempt of a guard. A file named not-carried-… stands for something that lay there and cannot be in an archive, such as a
link; a run with one among the evidence of its guards is not proved. The form of all this is in docs/evidence.md of the package.
"""


class _Member(NamedTuple):
    """Where the bytes of a file begin in the archive, how many there are, and their CRC-32."""

    start: int
    size: int
    crc: int


def write_archive(run: RunEvidence, dag_id: str, run_id: str, out: BinaryIO, *, limit: int = LIMIT) -> int:
    """Write all that lies in the run's folder as an archive, and return how many files of evidence are in it.

    What is no evidence goes along, for a verifier has to see it. What cannot (a link, a name that leads elsewhere, a file that
    may not be read) is stood for by a file that no verifier takes for evidence: an archive never proves more than the store did.

    Nothing is written to ``out`` before all was read. The archive of a run without evidence has none in it, and proves nothing.
    Raises :class:`EvidenceError` for more than ``limit`` bytes or :data:`MOST_FILES` files, and
    :class:`~airflow_pipesec.errors.StorageError` where the store could not be read.
    """
    folder = f"{ROOT}/{folder_of(dag_id, run_id)}"
    try:
        listing = run.store.listing()
    except ObjectMissing:
        listing = Listing()
    absent = {entry.name: "it is no plain file" for entry in listing.irregular}
    absent |= {name: "its name" for name in listing.files if not _is_safe(f"{folder}/{name}")}
    names = [name for name in listing.files if name not in absent]
    if len(names) + len(absent) > MOST_FILES:
        raise _too_much(f"more than {MOST_FILES:,} files")
    readme = _readme(dag_id, run_id)
    left, number = limit - len(readme), 0
    with tempfile.SpooledTemporaryFile(_SPOOLED) as whole:
        with zipfile.ZipFile(whole, "w", zipfile.ZIP_STORED, allowZip64=False) as made:
            _add(made, README, readme)
            for name, data in _files(run.store, names, absent):
                left, number = left - len(data), number + 1
                if left < 0:
                    raise _too_much(f"more than {limit:,} bytes")
                _add(made, f"{folder}/{name}", data)
        whole.seek(0)
        shutil.copyfileobj(whole, out)
    return number


def _too_much(what: str) -> EvidenceError:
    return EvidenceError(
        f"the evidence of this run is {what}, too much for an archive. Verify it where it lies, with pipesec verify-run."
    )


def _files(store: Store, names: Sequence[str], absent: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Yield the files of a run by name, and in the end what stands for those that cannot go along."""

    def read(name: str) -> bytes | None:
        try:
            return store.read(name, limit=MAX_ENVELOPE)
        except (AccessDenied, ObjectMissing, ObjectRefused):
            return None

    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(names), READERS):
            batch = names[start : start + READERS]
            for name, data in zip(batch, pool.map(read, batch), strict=True):
                if data is None:
                    absent[name] = "it could not be read"
                else:
                    yield name, data
    for number, name in enumerate(sorted(absent)):
        head, slash, _ = name.partition("/")  # the task, whose evidence it counts among
        place = f"{head}/" if slash and _is_safe(head) else ""
        instead = f"{place}not-carried-{number}.txt"
        if instead not in names:  # else there is one already that no verifier takes for evidence
            yield instead, f"{printable(name)} cannot be in an archive: {absent[name]}.\n".encode()


def _add(made: zipfile.ZipFile, name: str, data: bytes) -> None:
    about = zipfile.ZipInfo(name, BEGINNING)
    about.create_system, about.external_attr = 3, (stat.S_IFREG | 0o644) << 16  # as on Unix, wherever it is made
    made.writestr(about, data)


def _readme(dag_id: str, run_id: str) -> bytes:
    command = verify_command("FILE.zip", dag_id, run_id, keys="KEYS")
    return _ABOUT.format(dag=printable(dag_id), run=printable(run_id), command=command).encode()


def verify_command(archive: str, dag_id: str, run_id: str, *, keys: str) -> str:
    """Return the command that verifies an archive, whatever the ids are; the two names of files are taken as they are."""
    ids = f"{_quoted(dag_id)} {_quoted(run_id)}"
    if dag_id.startswith("-") or run_id.startswith("-"):  # which would be read as options
        return f"pipesec verify-run --trusted-keys {keys} -- {archive} {ids}"
    return f"pipesec verify-run {archive} {ids} --trusted-keys {keys}"


def _quoted(text: str) -> str:
    """Write a text for a shell so that neither it nor the terminal takes any of it for a command."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (
        ch if ch.isprintable() and ch not in "'\\" else "".join(f"\\x{byte:02x}" for byte in ch.encode("utf-8", "surrogatepass"))
        for ch in text
    )
    return f"$'{''.join(escaped)}'"


def _is_safe(name: str) -> bool:
    """Whether a name means the same one file to everybody: it leads nowhere, and has no backslash and nothing invisible."""
    return name.isprintable() and "\\" not in name and not escapes(name) and len(name.encode()) <= LONGEST_NAME


def evidence_store(url: str, folder: str) -> Store:
    """Return the store of a folder of evidence: in an archive where the URL is a local file named ``….zip``, else below it."""
    scheme, _, path = split_url(url)
    if not scheme and path.lower().endswith(".zip") and not Path(path).is_dir():
        return open_archive(path).below(folder)
    return open_store(f"{url.rstrip('/')}/{folder}")


def open_archive(path: str | os.PathLike[str], *, limit: int = LIMIT) -> ArchiveStore:
    """Return what lies in an archive below ``evidence/``; the runs are its folders, see :meth:`ArchiveStore.below`.

    Raises :class:`EvidenceError` for a file that is no archive of the one form in which it is written here, or holds more than
    ``limit`` bytes, and :class:`~airflow_pipesec.errors.StorageError` for one that cannot be read. No file of it was read yet.
    """
    file = LocalStore(path)
    with file.open() as opened, os_errors(file.url):
        return ArchiveStore(file, ROOT, _members(opened, printable(file.url), limit))


def _members(file: IO[bytes], where: str, limit: int) -> dict[str, _Member]:
    """Read the list of files at an archive's end, and hold it against each file's own header: nothing lies beside them."""

    def refuse(why: str) -> NoReturn:
        raise EvidenceError(f"{where} {why}. Get the archive again from who made it, or give the folder it was unpacked to.")

    def at(place: int, size: int) -> bytes:
        file.seek(place)
        return file.read(size)

    length = file.seek(0, os.SEEK_END)
    end = at(max(0, length - _END.size), _END.size)
    if len(end) < _END.size or end[:4] != b"PK\5\6":
        refuse("is no zip archive, or something was appended to it")
    _, disk, disk_of_list, here, number, size, start, comment = _END.unpack(end)
    if number > MOST_FILES + 1:
        refuse(f"lists more than {MOST_FILES:,} files")
    if (disk, disk_of_list, here, comment) != (0, 0, number, 0) or start + size + _END.size != length:
        refuse("is not whole, or holds something beside its files")
    if size > number * (_CENTRAL.size + LONGEST_NAME):
        refuse("has names that are too long")
    listed, line, place, total, members = at(start, size), 0, 0, 0, dict[str, _Member]()
    for _ in range(number):
        if listed[line : line + 4] != b"PK\1\2" or len(listed) < line + _CENTRAL.size:
            refuse("has a list of files that is none")
        head = _CENTRAL.unpack_from(listed, line)
        _, _, _, flags, method, _, _, crc, packed, size, name_size, extra, comment, disk, _, attributes, offset = head
        line += _CENTRAL.size + name_size
        raw = listed[line - name_size : line]
        name = _decoded(raw, flags)
        shown = printable(name or "")
        if name is None or not _is_safe(name) or not (name == README or name.startswith(f"{ROOT}/")):
            refuse(f"holds a file whose name leads elsewhere or is none ({shown[:200]})")
        if name in members:
            refuse(f"holds {shown} twice")
        if flags & _ENCRYPTED:
            refuse(f"holds {shown} encrypted")
        if stat.S_IFMT(attributes >> 16) not in (0, stat.S_IFREG):
            refuse(f"holds {shown}, which is a link or no plain file")
        if method != zipfile.ZIP_STORED or packed != size:
            refuse(f"holds {shown} compressed, or with two sizes")
        if flags & ~_UTF8 or extra or comment or disk:
            refuse(f"holds {shown} in a way in which it is not written here")
        if size > MAX_ENVELOPE:
            refuse(f"holds {shown}, which is larger than {MAX_ENVELOPE} bytes")
        total += size
        if total > limit:
            refuse(f"holds more than {limit:,} bytes")
        own = at(place, _LOCAL.size + name_size)
        agrees = own[: _LOCAL.size] == _LOCAL.pack(b"PK\3\4", *head[2:12]) and own[_LOCAL.size :] == raw
        if offset != place or not agrees:
            refuse(f"tells of {shown} in its list otherwise than at its place, or holds something before it")
        members[name] = _Member(place + len(own), size, crc)
        place += len(own) + size
    if line != len(listed) or place != start:
        refuse("holds something beside its files")
    return members


def _decoded(raw: bytes, flags: int) -> str | None:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        return None


class ArchiveStore(Store):
    """A folder in an archive, which is read and never written."""

    parallel = 1

    def __init__(self, file: LocalStore, folder: str, members: dict[str, _Member]) -> None:
        self.file, self.folder, self.members = file, folder, members
        self.url = f"{file.url}/{folder}"

    def below(self, folder: str) -> ArchiveStore:
        """Return the store of a folder in this one, whether or not there is anything."""
        return ArchiveStore(self.file, f"{self.folder}/{folder}", self.members)

    def listing(self) -> Listing:
        """List the files of the folder."""
        base = f"{self.folder}/"
        names = [name[len(base) :] for name in self.members if name.startswith(base)]
        if self.folder in self.members:
            names.append(SINGLE)
        if not names:
            raise ObjectMissing(f"{printable(self.url)} does not exist. Check the ids of the DAG and the run.")
        return Listing(names).ordered()

    def read(self, name: str = SINGLE, *, limit: int) -> bytes:
        """Return a whole file of at most ``limit`` bytes. One that is not what the archive says is refused."""
        where = self.describe(name)
        member = self.members.get(self.folder if name == SINGLE else f"{self.folder}/{name}")
        if member is None:
            raise ObjectMissing(f"{printable(where)} does not exist. Look at what the archive holds.")
        with self.file.open() as opened, os_errors(where):
            opened.seek(member.start)
            data = opened.read(min(member.size, limit + 1))
        within(data, limit, where)
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ObjectRefused(f"{printable(where)} is damaged: its checksum is another one. Get the archive again.")
        return data

    def scan(self, names: Sequence[str], new: Callable[[], Hasher]) -> Iterator[Scanned]:
        """Read each named file."""
        for name in names:
            hasher = new()
            try:
                data = self.read(name, limit=MAX_ENVELOPE)
            except StorageError as error:
                yield Scanned(name, b"", 0, error=error)
            else:
                hasher.update(data)
                yield Scanned(name, hasher.digest(), len(data))

    @contextmanager
    def stream(self, name: str = SINGLE, *, version: str | None = None) -> Iterator[Source]:
        """Give a file's bytes, read at once: it is a small one."""
        yield io.BytesIO(self.read(name, limit=MAX_ENVELOPE))

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """Give the bytes of the root, where that is a file."""
        yield io.BytesIO(self.read(limit=MAX_ENVELOPE))

    def mark(self, name: str = SINGLE) -> str:
        """Return the mark of the archive: it changes as a whole."""
        return self.file.mark()

    def create(self, data: bytes, name: str = SINGLE) -> None:
        """Refuse to write."""
        self._read_only()

    def write_pieces(self, pieces: Iterable[Buffer], name: str = SINGLE, *, private: bool = False) -> None:
        """Refuse to write."""
        self._read_only()

    def remove(self, name: str = SINGLE) -> None:
        """Refuse to delete."""
        self._read_only()

    def _read_only(self) -> NoReturn:
        raise ConfigurationError(
            f"{printable(self.file.url)} is an archive, and is only read. Give a folder or a URL to write to."
        )
