"""Encryption: what is stored cannot be read by whoever takes the disk, and artifacts are encrypted for those who may read them.

:func:`encrypted_locally` looks at files, :func:`encrypt` and :func:`decrypt` turn artifacts from one form into the other. Buckets
are looked at by :mod:`airflow_pipesec.checks.buckets`.
"""

from __future__ import annotations

import os
import secrets
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from airflow_pipesec import age
from airflow_pipesec.checks import devices
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EncryptionError, ObjectMissing, ObjectRefused
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, not_reached, printable
from airflow_pipesec.hashing import Progress
from airflow_pipesec.storage import SINGLE, Kind, Listing, LocalStore, Source, Store, by_path

__all__ = ["decrypt", "encrypt", "encrypted_locally"]

SUFFIX = ".age"
WINDOW = 2 << 10
WINDOWS = 1024  # one in every chunk of a file of up to 64 MiB
_PRINTABLE = string.printable.encode()
_AT_REST = ("NIST SP 800-53 SC-28",)

ENCRYPTED_AT_REST = Control(
    id="encrypted-at-rest",
    title="Every file is stored encrypted",
    severity=Severity.CRITICAL,
    remedy="Encrypt it (EncryptArtifactOperator, `pipesec encrypt`), or keep it on an encrypted volume (LUKS, fscrypt, ZFS).",
    refs=_AT_REST,
)
STORAGE_LOOKED_AT = Control(
    id="storage-looked-at",
    title="Everything that should be encrypted is there and could be looked at",
    severity=Severity.HIGH,
    remedy="Check the path, and grant the task's user read access; what cannot be looked at cannot be vouched for.",
    refs=_AT_REST,
)
ARTIFACT_ENCRYPTED = Control(
    id="artifact-encrypted",
    title="The artifact was encrypted for its recipients",
    severity=Severity.CRITICAL,
    remedy="Look at the files that are named; nothing doubtful is encrypted.",
    refs=_AT_REST,
)
CIPHERTEXT_AUTHENTIC = Control(
    id="ciphertext-authentic",
    title="Every encrypted file is whole, unchanged, and for the given identity",
    severity=Severity.CRITICAL,
    remedy="Fetch the file again from where it was encrypted, or give the identity that it was encrypted for.",
    refs=("NIST SP 800-53 SC-28", "NIST SP 800-53 SI-7"),
)


def encrypted_locally(
    store: LocalStore, *, trust_device: bool = True, machine: devices.Machine | None = None
) -> Iterator[Finding]:
    """Look at every file under a local path: in age format, or on a device that is encrypted. Each that is neither fails.

    Without ``trust_device`` only what is encrypted by itself counts. An empty file holds nothing to encrypt; where all are empty,
    nothing was examined. How many were looked at, with whatever outcome, is a finding of its own.
    """
    if not isinstance(trust_device, bool):
        raise ConfigurationError(f"trust_device is a {type(trust_device).__name__}. Give True or False.")
    listing = _listed(store)
    if isinstance(listing, Finding):
        yield listing
        return
    yield from _irregular(store, listing, STORAGE_LOOKED_AT)
    reasons: Counter[str] = Counter()
    known: dict[int, devices.Protection] = {}
    empty = looked = 0
    for name in listing.files:
        subject = Subject(store.describe(name))
        below = devices.Protection(None, "its device was not looked at")
        try:
            with store.stream(name) as source:
                status_of_file = os.fstat(source.fileno())
                if status_of_file.st_size == 0:
                    empty += 1
                    continue
                looked += 1
                if not trust_device:
                    below = devices.Protection(False, "what the disk does is not counted here (trust_device=False)")
                    reasons[_age_form(source, status_of_file.st_size)] += 1
                    continue
                if devices.has_fscrypt(source.fileno()):
                    reasons["fscrypt encrypts the file"] += 1
                    continue
                device = status_of_file.st_dev
                if device not in known:
                    number = f"{os.major(device)}:{os.minor(device)}"
                    path = store.address if name == SINGLE else f"{store.address}/{name}"
                    known[device] = devices.on_device(number, os.path.realpath(path), machine or devices.Machine())
                below = known[device]
                reasons[below.reason if below.encrypted else _age_form(source, status_of_file.st_size)] += 1
        except (ObjectMissing, ObjectRefused, AccessDenied) as error:
            yield not_reached(STORAGE_LOOKED_AT, subject, error)
        except EncryptionError as error:
            # Where nobody can tell what the device does, nobody can tell that the file lies in the clear.
            status = Status.ERROR if below.encrypted is None else Status.FAIL
            yield Finding(
                ENCRYPTED_AT_REST, subject, status, f"is not encrypted by itself ({error}), and below it: {below.reason}"
            )
    if looked:
        text = f"{amount(looked, 'file')} looked at" + (f", and {empty:,} empty" if empty else "")
        yield Finding(STORAGE_LOOKED_AT, Subject(store.url), Status.PASS, text, count=looked)
    if empty == len(listing.files):
        yield Finding(STORAGE_LOOKED_AT, Subject(store.url), Status.FAIL, "holds no data: nothing was examined")
    for reason, count in reasons.items():
        yield Finding(ENCRYPTED_AT_REST, Subject(store.url), Status.PASS, f"{amount(count, 'file')}: {reason}", count=count)


def _age_form(source: Any, size: int) -> str:
    """Parse a file as age, as far as that can be done without a key. Raises :class:`EncryptionError` when it isn't one."""
    header = age.read_header(source)
    start = len(header.signed) + 1 + 43 + 1
    if not age.payload_fits(size - start):
        raise EncryptionError("its length is not that of a whole age file")
    descriptor = source.fileno()
    for place in _places(start, size):
        if not _looks_random(os.pread(descriptor, WINDOW, place)):
            raise EncryptionError("it has an age header, but what follows is not encrypted")
    return f"age format, {header.recipients}"


def _places(start: int, size: int) -> Iterator[int]:
    """Yield places to look at: a random one in every chunk, and in every so-many-th where there are more chunks than windows."""
    stretch = (age.CHUNK + age.TAG) * -(-(size - start) // ((age.CHUNK + age.TAG) * WINDOWS))
    for first in range(start, size, stretch):
        yield max(start, min(first + secrets.randbelow(stretch), size - WINDOW))


def _looks_random(data: bytes) -> bool:
    """Whether the bytes can be a cipher's: not all of them printable, and evenly spread by Pearson's chi-square test.

    Random data exceeds these bounds less than once in 10**12 times; text, numbers and uncompressed models exceed them by far. In
    fewer bytes the same few may come together more often by chance, and below 64 the spread says nothing.
    """
    if not data.translate(None, _PRINTABLE):
        return False
    if len(data) < 64:
        return True
    expected = len(data) / 256
    counts = Counter(data)
    return sum((counts[value] - expected) ** 2 for value in range(256)) / expected < (500 if len(data) >= 512 else 1000)


def encrypt(
    store: Store,
    target: Store,
    recipients: Sequence[age.Recipient],
    *,
    remove_source: bool = False,
    progress: Progress | None = None,
) -> Iterator[Finding]:
    """Encrypt a file to ``target``, or every file of a tree to the same names with ``.age`` below it, and yield what was seen.

    With ``remove_source`` the plain files are deleted when every one of them is encrypted, and none was changed, added or removed
    meanwhile. Nothing is encrypted when anything under the root is doubtful.

    Raises :class:`ConfigurationError` without a recipient or where one form might replace the other, :class:`StorageError` for
    trouble that a retry may cure.
    """
    if not recipients:
        raise ConfigurationError("there is no recipient. Give at least one public key (age1…) to encrypt for.")
    if not isinstance(remove_source, bool):
        raise ConfigurationError(f"remove_source is a {type(remove_source).__name__}. Give True or False.")
    _apart(store, target)
    names, problems = _fit(store, ARTIFACT_ENCRYPTED)
    yield from problems
    if problems:
        return
    done = size = 0
    marks: dict[str, str] = {}
    for name in names:
        try:
            if remove_source:
                marks[name] = store.mark(name)  # before it is read: what comes later shows
            with store.stream(name) as source:
                counted = _Counted(source)
                target.write_pieces(age.encrypted(counted, recipients), SINGLE if name == SINGLE else name + SUFFIX)
        except (ObjectRefused, AccessDenied) as error:
            yield not_reached(ARTIFACT_ENCRYPTED, Subject(store.describe(name)), error)
            continue
        done, size = done + 1, size + counted.size
        if progress is not None:
            progress(1, counted.size, len(names))
    if not done:
        return
    keys = ", ".join(str(recipient) for recipient in dict.fromkeys(recipients))
    text = f"{amount(done, 'file')}, {size:,} bytes, encrypted for {keys}"
    if remove_source and done == len(names):
        changed = list(_changed(store, marks))
        yield from changed
        if changed:
            return
        for name in names:
            store.remove(name)
        text += "; the plain form was deleted"
    yield Finding(ARTIFACT_ENCRYPTED, Subject(target.url), Status.PASS, text, count=done)


def _changed(store: Store, marks: Mapping[str, str]) -> Iterator[Finding]:
    """Look at what was encrypted again, and yield what is not as it was when it was read."""
    listing = _listed(store)
    if isinstance(listing, Finding):
        yield listing
        return
    odd: Iterable[str] = {entry.name for entry in listing.irregular} | (set(listing.files) ^ set(marks))
    for name in sorted(odd, key=by_path):
        text = "was added, removed or replaced while its tree was encrypted; nothing was deleted"
        yield Finding(ARTIFACT_ENCRYPTED, Subject(store.describe(name)), Status.FAIL, text)
    for name in listing.files:
        if name in marks and _mark(store, name) != marks[name]:
            text = "was changed while it was encrypted; nothing was deleted"
            yield Finding(ARTIFACT_ENCRYPTED, Subject(store.describe(name)), Status.FAIL, text)


def _mark(store: Store, name: str) -> str | None:
    try:
        return store.mark(name)
    except (ObjectMissing, ObjectRefused, AccessDenied):
        return None


def decrypt(
    store: Store, target: Store, identities: Sequence[age.Identity], *, progress: Progress | None = None
) -> Iterator[Finding]:
    """Decrypt a file to ``target``, or every ``.age`` file of a tree to the same names without it, and yield what was seen.

    A file comes into its place only after its last chunk was found authentic, readable by its owner alone. A file of a tree that
    doesn't end in ``.age`` is a finding that fails; those beside it are decrypted. Raises as :func:`encrypt` does.
    """
    if not identities:
        raise ConfigurationError("there is no identity. Give at least one private key (AGE-SECRET-KEY-1…) to decrypt with.")
    _apart(store, target)
    names, problems = _fit(store, CIPHERTEXT_AUTHENTIC)
    yield from problems
    done = size = 0
    for name in names:
        subject = Subject(store.describe(name))
        if name != SINGLE and name.removesuffix(SUFFIX).rpartition("/")[2] in ("", ".", ".."):
            yield Finding(CIPHERTEXT_AUTHENTIC, subject, Status.FAIL, f"has no name of a file beside {SUFFIX}")
            continue
        if name != SINGLE and not name.endswith(SUFFIX):
            yield Finding(
                CIPHERTEXT_AUTHENTIC, subject, Status.FAIL, f"does not end in {SUFFIX}: it was put beside encrypted files"
            )
            continue
        try:
            with store.stream(name) as source:
                counted = _Counted(source)
                plain = SINGLE if name == SINGLE else name.removesuffix(SUFFIX)
                target.write_pieces(age.decrypted(counted, identities), plain, private=True)
        except EncryptionError as error:
            yield Finding(CIPHERTEXT_AUTHENTIC, subject, Status.FAIL, f"was not decrypted: {error}")
            continue
        except (ObjectRefused, AccessDenied) as error:
            yield not_reached(CIPHERTEXT_AUTHENTIC, subject, error)
            continue
        done, size = done + 1, size + counted.size
        if progress is not None:
            progress(1, counted.size, len(names))
    if done:
        text = f"{amount(done, 'file')}, {size:,} bytes read, decrypted to {printable(target.url)}"
        yield Finding(CIPHERTEXT_AUTHENTIC, Subject(store.url), Status.PASS, text, count=done)


class _Counted:
    """A source that says how much was read of it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.size = 0

    def readinto(self, buffer: memoryview, /) -> int | None:
        count = self.source.readinto(buffer)
        self.size += count or 0
        return count


def _apart(store: Store, target: Store) -> None:
    if store.same_place(target) or _lies_in(target, store):
        raise ConfigurationError(
            f"{printable(target.url)} lies in what is read, {printable(store.url)}. Give a place of its own for the other form."
        )
    if _lies_in(store, target):
        raise ConfigurationError(
            f"{printable(store.url)} lies in {printable(target.url)}, where what is written may replace what is to be read. "
            "Give a place of its own for the other form."
        )


def _lies_in(inner: Store, outer: Store) -> bool:
    return inner.address.startswith(f"{outer.address.rstrip('/')}/")


def _listed(store: Store) -> Listing | Finding:
    try:
        listing = store.listing()
    except (ObjectMissing, ObjectRefused, AccessDenied) as error:
        return not_reached(STORAGE_LOOKED_AT, Subject(store.url), error)
    if not listing.files and not listing.irregular:
        return Finding(STORAGE_LOOKED_AT, Subject(store.url), Status.FAIL, "holds no file at all")
    return listing


def _fit(store: Store, control: Control) -> tuple[list[str], list[Finding]]:
    """Return the files of an artifact that nothing is doubtful about, or else the findings that say why not, and no file."""
    listing = _listed(store)
    if isinstance(listing, Finding):
        return [], [listing]
    problems = list(_irregular(store, listing, control))
    return ([], problems) if problems else (listing.files, [])


def _irregular(store: Store, listing: Listing, control: Control) -> Iterator[Finding]:
    for entry in listing.irregular:
        status = Status.ERROR if entry.kind is Kind.UNREADABLE else Status.FAIL
        yield Finding(control, Subject(store.describe(entry.name)), status, f"is {entry.detail}")
