"""Artifacts: loading a model file does nothing but build what the allow-list has, as far as its bytes tell.

Nothing of a file is imported, unpickled or executed. :mod:`airflow_pipesec.scan` looks at one file; here are the files of an
artifact, what they are to each other, and what other scanners say of them. Three outcomes: it uses only what is on the
allow-list, it is unsafe, or it is unscannable, which blocks as well. That a file passed does not mean that its maker meant well:
what a model learned is no matter of its file.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import NamedTuple, cast

from airflow_pipesec.errors import AccessDenied, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, not_reached, printable
from airflow_pipesec.hashing import Progress
from airflow_pipesec.manifest import Manifest, Resource
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.opinions import Opinion
from airflow_pipesec.scan.savedmodel_files import companion
from airflow_pipesec.scan.scanner import Fault, Limits, Scan, scan_view
from airflow_pipesec.scan.views import pieces
from airflow_pipesec.storage import SINGLE, Kind, Places, Store

__all__ = ["scan_artifact"]

_SUPPLY_CHAIN = ("MITRE ATLAS AML.T0011.000", "OWASP ML06:2023", "CWE-502")

ALLOW_LISTED = Control(
    id="artifact-allow-listed",
    title="Loading the artifact uses only what is on the allow-list",
    severity=Severity.CRITICAL,
    remedy="Don't load it. Get the model from its source again, or in a format without code (safetensors, ONNX, skops). Put a "
    "name on the allow-list only when you know what it does with whatever it is called with.",
    refs=_SUPPLY_CHAIN,
)
SCANNABLE = Control(
    id="artifact-scannable",
    title="Every part of the artifact is there, whole, of a known format and within the limits",
    severity=Severity.HIGH,
    remedy="Save it anew, in a format that is known here, without encryption and without what is not part of the model; or waive "
    "this control for the file, if nothing ever loads it.",
    refs=(*_SUPPLY_CHAIN, "NIST SP 800-53 SI-10"),
)
SECOND_OPINION = Control(
    id="artifact-second-opinion",
    title="No other scanner that was asked finds anything in the artifact either",
    severity=Severity.CRITICAL,
    remedy="Look at the file with that scanner. Where it is wrong, waive this control for the file, or don't ask that one.",
    refs=_SUPPLY_CHAIN,
)

FINDINGS_A_FILE = 10
NAMES_SHOWN = 40
FILES_SHOWN = 20

Seen = Callable[[str, Scan], None]
"""Called with the address of each file and what the scan found in it."""


class _Looked(NamedTuple):
    """One file after it was looked at: name, scan, digest in hex if it was asked for, version and what other scanners said."""

    name: str
    scan: Scan
    digest: str | None
    version: str | None
    opinions: tuple[tuple[str, Status, str], ...]


class _Beside(Collection[str]):
    """The names of the files in one file's folder and below it."""

    def __init__(self, names: frozenset[str], name: str) -> None:
        self.names = names
        self.folder = name[: name.rfind("/") + 1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and f"{self.folder}{name}" in self.names

    def __iter__(self) -> Iterator[str]:
        return (name[len(self.folder) :] for name in self.names if name.startswith(self.folder))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def scan_artifact(
    store: Store,
    allow: AllowList,
    *,
    limits: Limits | None = None,
    digests: bool = True,
    opinions: Sequence[Opinion] = (),
    progress: Progress | None = None,
    seen: Seen | None = None,
) -> Iterator[Finding]:
    """Look at every file of an artifact.

    With ``digests`` each file is read whole, once more, and the finding that it passed names the SHA-256 of just the bytes that
    were looked at; without, only what has to be looked at is read. Raises :class:`StorageError` for trouble that a retry may
    cure, such as a file that changes meanwhile.
    """
    try:
        listing = store.listing()
    except (ObjectMissing, ObjectRefused, AccessDenied) as error:
        yield not_reached(SCANNABLE, Subject(store.url), error)
        return
    for entry in listing.irregular:
        status = Status.ERROR if entry.kind is Kind.UNREADABLE else Status.FAIL
        yield Finding(SCANNABLE, Subject(store.describe(entry.name)), status, f"is {entry.detail}")
    if not listing.files:
        if not listing.irregular:
            yield Finding(SCANNABLE, Subject(store.url), Status.FAIL, "holds no file at all")
        return
    names = frozenset(listing.files)
    looked: list[_Looked] = []
    unread = bool(listing.irregular)
    for name in listing.files:
        try:
            one = _look(store, name, allow, limits, _Beside(names, name), digests, opinions, progress, len(names))
        except (ObjectMissing, ObjectRefused, AccessDenied) as error:
            yield not_reached(SCANNABLE, Subject(store.describe(name)), error)
            unread = True
        else:
            looked.append(one)
            if seen is not None:
                seen(store.describe(name), one.scan)
    yield from _judged(store, looked, names, whole=not unread)


def _look(
    store: Store,
    name: str,
    allow: AllowList,
    limits: Limits | None,
    beside: _Beside,
    digests: bool,
    opinions: Sequence[Opinion],
    progress: Progress | None,
    total: int,
) -> _Looked:
    """Look at one file, and make sure that it was one and the same all the time."""
    called = store.name if name == SINGLE else name.rpartition("/")[2]
    with store.places(name) as view:
        scan = scan_view(view, allow, name=called, limits=limits, siblings=beside, companion=companion(name, beside.names))
        digest = _sha256(view) if digests else None
        said = tuple((opinion.name, *opinion.ask(view, called)) for opinion in opinions)
        if not view.unchanged():
            raise StorageError(
                f"{printable(store.describe(name))} changed while it was looked at. Run the guard again when it is at rest."
            )
        if progress is not None:
            progress(1, view.size, total)
        return _Looked(name, scan, digest, view.version, said)


def _sha256(view: Places) -> str:
    hasher, size = hashlib.sha256(), 0
    for data in pieces(view):
        hasher.update(data)
        size += len(data)
    if size != view.size:
        raise StorageError(f"A file ends at byte {size:,}, before its end. Run the guard again when it is at rest.")
    return hasher.hexdigest()


def _judged(store: Store, looked: list[_Looked], names: frozenset[str], *, whole: bool) -> Iterator[Finding]:
    """Turn what was seen into findings; what a file alone does not tell, its place among the others may."""
    raw = {
        f"{one.name[: one.name.rfind('/') + 1]}{name}" for one in looked for name in one.scan.references if not one.scan.problems
    }
    good: list[_Looked] = []
    for one in looked:
        if one.name in raw and _only_unknown(one.scan):
            one.scan.formats["tensors of an ONNX model"] += 1
            good.append(one)
        elif one.scan.problems:
            yield from _problems(store, one)
        else:
            good.append(one)
        for name, status, text in one.opinions:
            if status is not Status.PASS:
                yield Finding(SECOND_OPINION, Subject(store.describe(one.name)), status, f"{name} {text}")
    yield from _passed(store, good, names, whole=whole and len(good) == len(names))
    yield from _opinions_passed(store, looked)


def _only_unknown(scan: Scan) -> bool:
    """Whether all that is wrong with a file is that its own bytes are of no known format."""
    return (
        scan.unknown == 1
        and len(scan.problems) == 1
        and not scan.problems[0].part
        and scan.problems[0].fault is Fault.UNSCANNABLE
    )


def _problems(store: Store, one: _Looked) -> Iterator[Finding]:
    subject = Subject(store.describe(one.name), one.digest and f"sha256:{one.digest}", one.version)
    for fault, control in ((Fault.UNSAFE, ALLOW_LISTED), (Fault.UNSCANNABLE, SCANNABLE)):
        problems = [problem for problem in one.scan.problems if problem.fault is fault]
        for problem in problems[:FINDINGS_A_FILE]:
            yield Finding(control, subject, Status.FAIL, f"is {fault}: {problem}" if problem.part else f"{fault}: it {problem}")
        if (more := one.scan.totals[fault] - FINDINGS_A_FILE) > 0:
            yield Finding(control, subject, Status.FAIL, f"is {fault} for {more:,} more reasons", count=more)


def _passed(store: Store, good: list[_Looked], names: frozenset[str], *, whole: bool) -> Iterator[Finding]:
    """The positive findings: of each file by itself where they are few, and of all together."""
    if not good:
        return
    forms = Counter(form for one in good for form in one.scan.formats)
    digest = None
    if whole and all(one.digest for one in good):
        digest = Manifest.of(store.name, "sha256", (Resource(one.name, cast("str", one.digest)) for one in good)).digest
    together = Subject(store.url, digest, good[0].version if len(names) == 1 else None)
    if len(names) == 1 or len(good) > FILES_SHOWN:
        text = f"{amount(len(good), 'file')}: {_uses(Counter(use for one in good for use in _used(one.scan)))}"
        yield Finding(ALLOW_LISTED, together, Status.PASS, text, count=len(good))
    else:
        for one in good:
            subject = Subject(store.describe(one.name), one.digest and f"sha256:{one.digest}", one.version)
            yield Finding(ALLOW_LISTED, subject, Status.PASS, _uses(Counter(_used(one.scan))))
    kinds = ", ".join(f"{form} ({number:,})" for form, number in sorted(forms.items()))
    text = f"{amount(len(good), 'file')} of known formats: {kinds}"
    yield Finding(SCANNABLE, together, Status.PASS, text, count=len(good))


def _used(scan: Scan) -> set[str]:
    return {str(entry) for entry in scan.used}


def _uses(names: Counter[str]) -> str:
    if not names:
        return "uses no name of any library"
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
    return f"uses only allow-listed names ({len(names):,}): {shown}{more}"


def _opinions_passed(store: Store, looked: list[_Looked]) -> Iterator[Finding]:
    found = Counter(name for one in looked for name, status, _ in one.opinions if status is Status.PASS)
    for name, number in found.items():
        yield Finding(
            SECOND_OPINION, Subject(store.url), Status.PASS, f"{name} finds nothing in {amount(number, 'file')}", count=number
        )
