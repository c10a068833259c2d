"""Integrity: files are the files that the manifest names, all of them, and nothing else.

Two checks. :func:`write_manifest` looks at an artifact and records it, :func:`verify` looks again later and compares. Both refuse
what cannot be recorded without doubt: symbolic links, special files, names that lead outside the root, and names that people
and file systems cannot tell apart (Unicode Standard Annex #15). Empty folders are not part of a manifest.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from airflow_pipesec.bundle import MAX_BUNDLE_BYTES, demand_signable, open_manifest, sign_manifest, unverified_manifest
from airflow_pipesec.errors import (
    AccessDenied,
    ConfigurationError,
    EvidenceError,
    ManifestError,
    ObjectMissing,
    ObjectRefused,
    StorageError,
)
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, not_reached, printable
from airflow_pipesec.hashing import ALGORITHMS, Hashed, Progress, hash_files
from airflow_pipesec.manifest import Digest, Manifest, Resource
from airflow_pipesec.signing import Signer, TrustedKeys
from airflow_pipesec.storage import SINGLE, Irregular, Kind, Listing, Store, escapes

__all__ = ["take_stock", "verify", "write_manifest"]

_TAMPERING = ("MITRE ATLAS AML.T0018", "OWASP ML06:2023", "NIST SP 800-53 SI-7")

DIGEST_MATCHES = Control(
    id="digest-matches",
    title="Every file has the digest that was recorded",
    severity=Severity.CRITICAL,
    remedy="Restore the file from its source or run the task that wrote it again, and find out who changed it.",
    refs=_TAMPERING,
)
FILES_PRESENT = Control(
    id="files-present",
    title="Every recorded file is there",
    severity=Severity.CRITICAL,
    remedy="Restore the file from its source, or run the task that writes it again.",
    refs=_TAMPERING,
)
NO_EXTRA_FILES = Control(
    id="no-extra-files",
    title="There is no file that was not recorded",
    severity=Severity.HIGH,
    remedy="Remove the file or record it in a new manifest; allow_extra=True accepts files that nobody recorded.",
    refs=_TAMPERING,
)
FILES_READABLE = Control(
    id="files-readable",
    title="Every file and folder can be read",
    severity=Severity.HIGH,
    remedy="Grant the task's user read access; what cannot be read cannot be vouched for.",
    refs=("NIST SP 800-53 SI-7",),
)
NAMES_UNAMBIGUOUS = Control(
    id="names-unambiguous",
    title="No two names differ only in how they are encoded, and every name is valid text",
    severity=Severity.HIGH,
    remedy="Rename one of the files; names are compared after Unicode normalization (NFC).",
    refs=("NIST SP 800-53 SI-10",),
)
NO_SYMLINKS = Control(
    id="no-symlinks",
    title="There is no symbolic link",
    severity=Severity.CRITICAL,
    remedy="Replace the link by the file it points to: a link can be turned after it was checked.",
    refs=("NIST SP 800-53 SI-7",),
)
NO_SPECIAL_FILES = Control(
    id="no-special-files",
    title="Everything is a plain file or a folder",
    severity=Severity.CRITICAL,
    remedy="Remove the socket, pipe or device from the artifact.",
    refs=("NIST SP 800-53 SI-7",),
)
PATHS_CONTAINED = Control(
    id="paths-contained",
    title="No name leads outside the root",
    severity=Severity.CRITICAL,
    remedy="Remove the entry and find out where it came from: nothing well-meant names files outside its own folder.",
    refs=("NIST SP 800-53 SI-10",),
)
MANIFEST_INTACT = Control(
    id="manifest-intact",
    title="The manifest is there, well-formed and agrees with itself",
    severity=Severity.CRITICAL,
    remedy="Make a new manifest from the trusted source with HashManifestOperator or `pipesec manifest`.",
    refs=_TAMPERING,
)
MANIFEST_SIGNED = Control(
    id="manifest-signed",
    title="The manifest is signed by a key that is trusted",
    severity=Severity.CRITICAL,
    remedy="Find out who wrote the manifest. Sign the artifact anew, from its trusted source and with a key that is trusted.",
    refs=(*_TAMPERING, "NIST SP 800-53 CM-14"),
)
VERSION_PINNED = Control(
    id="object-version-pinned",
    title="Every object was read as a version that can be named later",
    severity=Severity.LOW,
    remedy="Turn on bucket versioning, so that what was verified can be read again by its version id.",
    refs=("NIST SP 800-53 SI-7",),
)

_IRREGULAR = {
    Kind.SYMLINK: (NO_SYMLINKS, Status.FAIL),
    Kind.SPECIAL: (NO_SPECIAL_FILES, Status.FAIL),
    Kind.ESCAPING: (PATHS_CONTAINED, Status.FAIL),
    Kind.UNREADABLE: (FILES_READABLE, Status.ERROR),
}


class _Seen(NamedTuple):
    """What looking at a tree gave: findings that fail, the files that are fit to be hashed, whether there is a tree, whether the
    manifest lies in it, and the folders that could not be looked into.
    """

    problems: list[Finding]
    files: list[str]
    listed: bool = True
    own_is_there: bool = False
    closed: frozenset[str] = frozenset()


def write_manifest(
    store: Store,
    target: Store,
    *,
    algorithm: str = "sha256",
    workers: int | None = None,
    progress: Progress | None = None,
    signer: Signer | None = None,
) -> Iterator[Finding]:
    """Record every file under ``store`` in a manifest at ``target``, signed when there is a signer, and yield what was seen.

    The manifest is written, whole or not at all, only when nothing under the root is doubtful; otherwise the findings say why and
    a manifest already at ``target`` stays as it is. When ``target`` lies under the root it does not record itself.

    Raises :class:`ConfigurationError` for an unknown algorithm, and for one or a key that manifests are not signed with (see
    :func:`airflow_pipesec.bundle.demand_signable`), :class:`StorageError` for trouble that a retry may cure.
    """
    if not isinstance(algorithm, str) or algorithm not in ALGORITHMS:
        raise ConfigurationError(f"algorithm {algorithm!r} is unknown. Use one of {', '.join(ALGORITHMS)}.")
    if target.same_place(store):
        raise ConfigurationError(f"the manifest {printable(target.url)} would replace the artifact itself. Give another place.")
    if signer is not None:
        demand_signable(algorithm, signer)
    own = store.name_of(target)
    seen = _look(store, own=own)
    yield from seen.problems
    if seen.problems:
        # Said by itself, so that a waiver for what is doubtful does not make a manifest of it.
        yield _not_done(MANIFEST_INTACT, target, seen.problems, "was not written")
        return
    if own is not None and seen.own_is_there:
        _refuse_replacing(target)
    hashed = hash_files(store, seen.files, algorithm, workers=workers, progress=progress)
    problems = list(_read_errors(store, hashed.errors))
    if not problems and not hashed.size:
        text = f"holds no data: {amount(len(seen.files), 'file')}, and nothing in them"
        problems.append(_on(store, SINGLE, FILES_PRESENT, Status.FAIL, text))
    if problems:
        yield from problems
        yield _not_done(MANIFEST_INTACT, target, problems, "was not written")
        return
    digests = zip(seen.files, hashed.digests, strict=True)
    resources = (Resource(name, digest.hex(), hashed.versions.get(name)) for name, digest in digests)
    manifest = Manifest.of(store.name, algorithm, resources)
    target.write(manifest.to_json() if signer is None else sign_manifest(manifest, signer))
    yield from _clean(store, seen.files, hashed)
    text = f"records {amount(len(seen.files), 'file')}, {hashed.size:,} bytes; {manifest.digest}"
    if signer is not None:
        text += f"; signed by key {signer.key_id[:16]}…"
    yield Finding(MANIFEST_INTACT, Subject(target.url, manifest.digest), Status.PASS, text, count=len(seen.files))


def verify(
    store: Store,
    *,
    manifest: Store | None = None,
    expected: str | Mapping[str, str] | None = None,
    allow_extra: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
    trusted: TrustedKeys | None = None,
    now: datetime | None = None,
    allow_unsigned: bool = False,
) -> Iterator[Finding]:
    """Compare everything under ``store`` with a manifest, or with digests given outright, and yield what was seen.

    Exactly one of ``manifest`` and ``expected`` is given. ``expected`` is the digest of a file (``sha256:…``), the digest of a
    tree with its names (``tree:sha256:…``), or a mapping of names to digests. Each bad file is a finding of its own; what is good
    is one finding with its count. With ``allow_extra`` files that were not recorded are let be; symbolic links and special files
    never are.

    With ``trusted`` the manifest has to be signed by one of these keys that is valid ``now``, unless ``allow_unsigned`` says that
    it need not be signed; without, only a manifest that is not signed is taken. Otherwise that is a finding that fails, and
    nothing is compared.

    A missing, malformed or self-contradicting manifest is a finding that fails. Raises :class:`ConfigurationError` for parameters
    that cannot work, :class:`StorageError` for trouble that a retry may cure.
    """
    for name, value in (("allow_extra", allow_extra), ("allow_unsigned", allow_unsigned)):
        if not isinstance(value, bool):
            raise ConfigurationError(f"{name} is a {type(value).__name__}. Give True or False; it is not a template.")
    if (manifest is None) == (expected is None):
        raise ConfigurationError("give exactly one of manifest= and expected=, the one to compare the files with.")
    if expected is not None and trusted is not None:
        raise ConfigurationError(
            "expected= is not signed, so there is nothing for trusted keys to verify. Leave one of them out."
        )
    if manifest is not None:
        recorded, findings = _load(manifest, trusted, now or datetime.now(UTC), allow_unsigned=allow_unsigned)
        yield from findings
        if recorded is None:
            return
        own = store.name_of(manifest)
    elif isinstance(expected, Mapping):
        recorded, own = _from_mapping(store.name, expected), None
    else:
        yield from _verify_whole(store, str(expected), workers, progress)
        return

    seen = _look(store, own=own, recorded=recorded)
    yield from seen.problems
    if not seen.listed:
        yield _not_done(DIGEST_MATCHES, store, seen.problems, "was not compared")
        return
    recorded = recorded.of_file(store.name) if seen.files == [SINGLE] else recorded
    present = set(seen.files)
    wanted = {resource.name: resource.digest for resource in recorded.resources}
    searched = [name for name in wanted if not _leads_out(name) and not _below(name, seen.closed)]
    missing = [name for name in searched if name not in present]
    extra = [name for name in seen.files if name not in wanted]
    for name in missing:
        yield _on(store, name, FILES_PRESENT, Status.FAIL, "is recorded but not there")
    if not allow_extra:
        for name in extra:
            yield _on(store, name, NO_EXTRA_FILES, Status.FAIL, "is there but was never recorded")
    common = [name for name in seen.files if name in wanted]
    hashed = hash_files(store, common, recorded.algorithm, workers=workers, progress=progress)
    unread = list(_read_errors(store, hashed.errors))
    yield from unread
    changed = [
        (name, digest)
        for name, digest in zip(common, hashed.digests, strict=True)
        if digest.hex() != wanted[name] and name not in hashed.errors
    ]
    for name, digest in changed:
        subject = Subject(store.describe(name), f"{recorded.algorithm}:{digest.hex()}", hashed.versions.get(name))
        text = f"is not what was recorded: {recorded.algorithm} {wanted[name][:16]}… is now {digest.hex()[:16]}…"
        yield Finding(DIGEST_MATCHES, subject, Status.FAIL, text)
    matching = len(common) - len(changed) - len(hashed.errors)
    if not matching and not changed:
        # A waiver for files that are missing must not pass an artifact that is.
        undecided = [*seen.problems, *unread] if not missing else []
        yield _not_done(DIGEST_MATCHES, store, undecided, f"{amount(len(wanted), 'file')} recorded, and not one was compared")
    if matching:
        whole = matching == len(wanted) and (allow_extra or not extra)
        subject = Subject(store.url, recorded.digest if whole else None)
        text = (
            f"{amount(matching, 'file')} of {len(wanted):,} recorded match by {recorded.algorithm} ({hashed.size:,} bytes read)"
        )
        yield Finding(DIGEST_MATCHES, subject, Status.PASS, text, count=matching)
    if searched and not missing:
        yield _passed(store, FILES_PRESENT, len(searched), "there")
    if not extra and seen.files:
        yield _passed(store, NO_EXTRA_FILES, len(seen.files), "recorded")
    elif extra and allow_extra:
        text = f"{amount(len(extra), 'file')} nobody recorded, let be as allow_extra says"
        yield Finding(NO_EXTRA_FILES, Subject(store.url), Status.SKIP, text, count=len(extra))
    if not seen.problems:
        yield from _clean(store, common, hashed)


def _verify_whole(store: Store, expected: str, workers: int | None, progress: Progress | None) -> Iterator[Finding]:
    """Compare one file's digest, or the digest of a tree with its names, with the one expected."""
    of_tree = expected.strip().lower().startswith("tree:")
    wanted = Digest.parse(expected.strip()[len("tree:") :] if of_tree else expected)
    seen = _look(store, own=None)
    yield from seen.problems
    if seen.problems:
        yield _not_done(DIGEST_MATCHES, store, seen.problems, "was not compared")
        return
    single = seen.files == [SINGLE]
    if single == of_tree:
        text = (
            f"is a {'file' if single else 'tree'}, but the digest that was expected is that of a {'tree' if of_tree else 'file'}"
        )
        hint = "" if single else "; the digest of a tree is tree:sha256:…, as `pipesec manifest` prints it"
        yield Finding(DIGEST_MATCHES, Subject(store.url), Status.FAIL, text + hint)
        return
    hashed = hash_files(store, seen.files, wanted.algorithm, workers=workers, progress=progress)
    if hashed.errors:
        unread = list(_read_errors(store, hashed.errors))
        yield from unread
        yield _not_done(DIGEST_MATCHES, store, unread, "was not compared")
        return
    resources = [Resource(name, digest.hex()) for name, digest in zip(seen.files, hashed.digests, strict=True)]
    actual = Manifest.of(store.name, wanted.algorithm, resources).digest
    subject = Subject(store.url, actual, hashed.versions.get(SINGLE))
    matches = actual == f"tree:{wanted}" if of_tree else actual == str(wanted)
    if matches:
        text = f"{amount(len(resources), 'file')} with the expected digest ({hashed.size:,} bytes read)"
    else:
        text = f"{wanted.algorithm} {wanted.hex[:16]}… was expected and {actual.rpartition(':')[2][:16]}… is there"
    yield Finding(DIGEST_MATCHES, subject, Status.PASS if matches else Status.FAIL, text, count=len(resources))
    yield from _clean(store, seen.files, hashed)


def _load(
    store: Store, trusted: TrustedKeys | None, now: datetime, *, allow_unsigned: bool
) -> tuple[Manifest | None, list[Finding]]:
    subject = Subject(store.url)
    try:
        manifest, key = open_manifest(store.read(limit=MAX_BUNDLE_BYTES), trusted, now=now)
    except EvidenceError as error:
        return None, [Finding(MANIFEST_SIGNED, subject, Status.FAIL, str(error))]
    except (ObjectMissing, ObjectRefused, AccessDenied, ManifestError) as error:
        return None, [not_reached(MANIFEST_INTACT, subject, error)]
    findings = []
    if key is not None:
        findings.append(
            Finding(MANIFEST_SIGNED, subject, Status.PASS, f"signed by key {printable(key.name)} ({key.key_id[:16]}…)")
        )
    elif allow_unsigned:
        findings.append(Finding(MANIFEST_SIGNED, subject, Status.SKIP, "not signed, which allow_unsigned lets be"))
    elif trusted is not None:
        return None, [Finding(MANIFEST_SIGNED, subject, Status.FAIL, "is not signed")]
    text = f"records {amount(len(manifest.resources), 'file')}; {manifest.digest}"
    intact = Finding(MANIFEST_INTACT, Subject(store.url, manifest.digest), Status.PASS, text, count=len(manifest.resources))
    return manifest, [*findings, intact]


def _from_mapping(name: str, expected: Mapping[str, str]) -> Manifest:
    digests = {str(key): Digest.parse(str(value)) for key, value in expected.items()}
    if not digests:
        raise ConfigurationError("expected= is empty. Name at least one file and its digest.")
    algorithms = {digest.algorithm for digest in digests.values()}
    if len(algorithms) != 1:
        raise ConfigurationError(f"expected= mixes {' and '.join(sorted(algorithms))}. Use one algorithm for all files.")
    return Manifest.of(name, algorithms.pop(), (Resource(key, digest.hex) for key, digest in digests.items()))


def _look(store: Store, *, own: str | None, recorded: Manifest | None = None) -> _Seen:
    """List the tree and judge its names. ``own`` is the manifest's own name in it, which is not looked at."""
    try:
        listing = store.listing()
    except ObjectMissing as error:
        return _Seen([_on(store, SINGLE, FILES_PRESENT, Status.FAIL, str(error))], [], listed=False)
    except AccessDenied as error:
        return _Seen([_on(store, SINGLE, FILES_READABLE, Status.ERROR, str(error))], [], listed=False)
    except ObjectRefused as error:
        return _Seen([_on(store, SINGLE, NO_SYMLINKS, Status.FAIL, str(error))], [], listed=False)
    files = [name for name in listing.files if name != own] if own else listing.files
    problems = [_irregular(store, entry) for entry in listing.irregular]
    problems += _ambiguous(store, listing, recorded)
    if recorded is not None:
        for resource in recorded.resources:
            if _leads_out(resource.name):
                text = "is a name in the manifest that leads outside the root"
                problems.append(_on(store, resource.name, PATHS_CONTAINED, Status.FAIL, text))
    if not files and not problems:
        problems.append(_on(store, SINGLE, FILES_PRESENT, Status.FAIL, "holds no file at all"))
    closed = frozenset(entry.name for entry in listing.irregular if entry.kind is Kind.UNREADABLE)
    return _Seen(problems, files, own_is_there=len(files) < len(listing.files), closed=closed)


def _refuse_replacing(target: Store) -> None:
    """Raise unless what lies at the manifest's place is a manifest: it would not be recorded, and gone."""
    try:
        unverified_manifest(target.read(limit=MAX_BUNDLE_BYTES))
    except (EvidenceError, ManifestError, StorageError):
        raise ConfigurationError(
            f"{printable(target.url)} belongs to the artifact and is no manifest, which would replace it. Give another place."
        ) from None


def _below(name: str, folders: frozenset[str]) -> bool:
    """Whether a name is, or lies below, one of some folders."""
    return bool(folders) and any(folder in folders for folder in (name, *_folders(name)))


def _folders(name: str) -> Iterator[str]:
    """Yield the names of the folders that lead to a name."""
    end = name.rfind("/")
    while end > 0:
        yield name[:end]
        end = name.rfind("/", 0, end)


def _leads_out(name: str) -> bool:
    # A manifest of a single file names it ".", which as a part of any other name would be refused.
    return name != SINGLE and escapes(name)


def _irregular(store: Store, entry: Irregular) -> Finding:
    control, status = _IRREGULAR[entry.kind]
    return _on(store, entry.name, control, status, f"is {entry.detail}" if status is Status.FAIL else entry.detail)


def _ambiguous(store: Store, listing: Listing, recorded: Manifest | None) -> Iterator[Finding]:
    """Find names that differ only in how they are encoded, and names that are not text, on disk and in the manifest."""
    names = set(listing.files)
    if recorded is not None:
        names.update(resource.name for resource in recorded.resources)
    # Only names outside ASCII can be written in two ways; the other of the two may be ASCII (U+212A is a K).
    if all(name.isascii() for name in names):
        return
    names.update([folder for name in names for folder in _folders(name)])
    unusual = sorted(name for name in names if not name.isascii())
    same: dict[str, list[str]] = {}
    for name in unusual:
        try:
            name.encode()
        except UnicodeEncodeError:
            yield _on(store, name, NAMES_UNAMBIGUOUS, Status.FAIL, "has a name that is not valid UTF-8")
            continue
        same.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    for normal, written in same.items():
        if normal in names and normal not in written:
            written = [normal, *written]
        if len(written) > 1:
            text = f"has a name that is written in {len(written)} ways here or in the manifest: {', '.join(map(ascii, written))}"
            yield _on(store, written[0], NAMES_UNAMBIGUOUS, Status.FAIL, text)


def _read_errors(store: Store, errors: Mapping[str, StorageError]) -> Iterator[Finding]:
    for name, error in errors.items():
        if isinstance(error, ObjectMissing):
            yield _on(store, name, FILES_PRESENT, Status.FAIL, "vanished while the artifact was read")
        elif isinstance(error, ObjectRefused):
            yield _on(store, name, NO_SPECIAL_FILES, Status.FAIL, "was replaced by something that is not a plain file")
        elif isinstance(error, AccessDenied):
            yield _on(store, name, FILES_READABLE, Status.ERROR, str(error))
        else:
            raise error


def _not_done(control: Control, store: Store, why: list[Finding], text: str) -> Finding:
    """Say that a check did not come to its point; undecided, where all that stood in the way is that nobody could look."""
    undecided = bool(why) and all(finding.status is Status.ERROR for finding in why)
    status = Status.ERROR if undecided else Status.FAIL
    return Finding(control, Subject(store.url), status, f"{text}: see the other findings")


def take_stock(
    store: Store, algorithm: str = "sha256", *, workers: int | None = None, progress: Progress | None = None
) -> tuple[Manifest | None, list[Finding]]:
    """Hash every file under ``store`` and return what is there, and findings that fail: with any, there is no manifest.

    Raises :class:`StorageError` for trouble that a retry may cure.
    """
    seen = _look(store, own=None)
    if seen.problems:
        return None, seen.problems
    hashed = hash_files(store, seen.files, algorithm, workers=workers, progress=progress)
    if hashed.errors:
        return None, list(_read_errors(store, hashed.errors))
    resources = (Resource(name, digest.hex()) for name, digest in zip(seen.files, hashed.digests, strict=True))
    return Manifest.of(store.name, algorithm, resources), []


def _clean(store: Store, files: list[str], hashed: Hashed) -> Iterator[Finding]:
    """The positive findings of a tree in which nothing was irregular, and the pinned versions of an object store."""
    number = len(files)
    if not number:
        return
    for control, text in (
        (FILES_READABLE, "readable"),
        (NAMES_UNAMBIGUOUS, "names that cannot be mistaken for one another"),
        (NO_SYMLINKS, "no symbolic link"),
        (NO_SPECIAL_FILES, "no socket, pipe or device"),
        (PATHS_CONTAINED, "under the root"),
    ):
        if control is not FILES_READABLE or not hashed.errors:
            yield _passed(store, control, number, text)
    if store.pins_versions:
        unpinned = number - len(hashed.versions) - len(hashed.errors)
        if unpinned > 0:
            text = f"{unpinned:,} of {number:,} objects have no version id: they can be replaced after this check"
            yield Finding(VERSION_PINNED, Subject(store.url), Status.FAIL, text, count=unpinned)
        elif hashed.versions:
            yield _passed(store, VERSION_PINNED, len(hashed.versions), "read as a version that can be named")


def _passed(store: Store, control: Control, number: int, text: str) -> Finding:
    return Finding(control, Subject(store.url), Status.PASS, f"{amount(number, 'file')}: {text}", count=number)


def _on(store: Store, name: str, control: Control, status: Status, text: str) -> Finding:
    return Finding(control, Subject(store.describe(name)), status, text)
