"""Evidence: the attestations of a run, each written once and never replaced, and the graph that their links form.

The attestations of one run lie in one folder, at ``<dag>/<run>/<task>/<map index>.<try>.<attempt>.json`` under the root of the
store. No two attempts have the same name, so guards that run at the same time on many machines never wait for one another, and
nothing has to be rewritten when one more is added. What a name says is believed of nobody: the signed statement has to say the
same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import quote
from uuid import UUID

from airflow_pipesec.attestation import MAX_ENVELOPE, TEST_RESULT, Attempt, Attestation, Link, read_attestation, unseal
from airflow_pipesec.errors import AccessDenied, EvidenceError, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.signing import TrustedKey, TrustedKeys
from airflow_pipesec.storage import LocalStore, Store

__all__ = ["Entry", "Evidence", "Refused", "RunEvidence", "Witness", "folder_of", "name_of", "part_of"]

LONGEST = 200  # bytes of a part of a name; file systems take 255
_NUMBER = "0|[1-9][0-9]{0,15}"
_ENTRY = re.compile(rf"(?P<task>[^/]+)/(?P<map>-1|{_NUMBER})\.(?P<try>{_NUMBER})\.(?P<attempt>[0-9A-Za-z-]{{1,64}})\.json")
_ATTEMPT = re.compile(r"[0-9A-Za-z-]{1,64}")
SKEW = timedelta(minutes=5)  # by which two clocks may differ
TIMED = 7  # the version of UUIDs that begin with the time
FEW = 4  # files that are read one after the other wherever they lie
READERS = 16
SUMMARY = ".vsa.json"  # ends the name of a gate's verification summary, which lies beside its attestation


def part_of(text: str) -> str:
    """One part of a name: what could lead elsewhere or be read as something else is percent-encoded, what is too long hashed."""
    encoded = quote(text, safe="-_~+:=@,", errors="surrogatepass") or "%"
    if encoded.startswith("."):
        encoded = "%2E" + encoded[1:]
    if len(encoded) > LONGEST:  # "!" stands in no other part
        encoded = f"{encoded[: LONGEST - 65]}!{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"
    return encoded


def folder_of(dag_id: str, run_id: str) -> str:
    """Return the folder of a run's evidence, under the root of the store."""
    return f"{part_of(dag_id)}/{part_of(run_id)}"


def name_of(attempt: Attempt) -> str:
    """Return the name of an attempt's attestation in its run's folder. Raises :class:`EvidenceError` for an id that is none."""
    if not _ATTEMPT.fullmatch(attempt.attempt):
        raise EvidenceError("the attempt's id is not a UUID")
    return f"{part_of(attempt.task_id)}/{attempt.map_index}.{attempt.try_number}.{attempt.attempt}.json"


class Entry(NamedTuple):
    """What the name of an attestation says: the task's part of it, map index, try and attempt; and the name itself."""

    task: str
    map_index: int
    try_number: int
    attempt: str
    name: str

    @classmethod
    def of(cls, name: str) -> Entry | None:
        """Read a name; None for what is not that of an attestation."""
        match = _ENTRY.fullmatch(name)
        return None if match is None else cls(match["task"], int(match["map"]), int(match["try"]), match["attempt"], name)

    @property
    def age(self) -> tuple[str, int]:
        """By which the attempts of one task instance are ordered: their ids are UUIDs of version 7, which begin with the time."""
        return self.attempt, self.try_number


class Witness(NamedTuple):
    """An attestation that was read and verified: what it attests, the key that signed it, its envelope's SHA-256, its name."""

    attested: Attestation
    key: TrustedKey
    sha256: str
    name: str


class Refused(NamedTuple):
    """What lies among the evidence and is none: its name, why, and whether nobody could look."""

    name: str
    reason: str
    unreadable: bool = False


@dataclass(slots=True)
class Evidence:
    """The evidence of a run, read and verified: the witnesses by name, and what was refused."""

    witnesses: dict[str, Witness] = field(default_factory=dict)
    refused: list[Refused] = field(default_factory=list)

    def unexcused(self, tasks: Collection[str]) -> list[Refused]:
        """Return what was refused among the evidence of some tasks, and counts: no later attempt took its place."""
        parts = set(map(part_of, tasks))
        newest = {(part_of(task), index): found[-1].attested.attempt.attempt for (task, index), found in self.attempts().items()}
        found = []
        for item in self.refused:
            entry = Entry.of(item.name)
            if item.name.partition("/")[0] not in parts:
                continue
            if entry is None or entry.attempt >= newest.get((entry.task, entry.map_index), ""):
                found.append(item)
        return found

    def attempts(self) -> dict[tuple[str, int], list[Witness]]:
        """Return the witnesses of each task instance, the latest attempt last."""
        found: dict[tuple[str, int], list[Witness]] = {}
        for witness in self.witnesses.values():
            found.setdefault(witness.attested.attempt.instance, []).append(witness)
        for same in found.values():
            same.sort(key=lambda item: (item.attested.attempt.attempt, item.attested.attempt.try_number))
        return found


class RunEvidence:
    """The place of one run's evidence. ``store`` is the folder :func:`folder_of` of the evidence store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def write(self, attempt: Attempt, envelope: bytes) -> str:
        """Write an attestation, once: whole or not at all, and never in the place of another. Returns its SHA-256.

        Raises :class:`~airflow_pipesec.errors.ObjectExists` where this attempt has attested something else already.
        """
        self.store.create(envelope, name_of(attempt))
        return hashlib.sha256(envelope).hexdigest()

    def write_summary(self, attempt: Attempt, envelope: bytes) -> str:
        """Write a gate's verification summary beside its attestation, once. Returns its name."""
        name = name_of(attempt).removesuffix(".json") + SUMMARY
        self.store.create(envelope, name)
        return name

    def entries(self) -> tuple[list[Entry], list[str]]:
        """Return what lies there by name: attestations, and the names of what is none. Nothing was read yet."""
        try:
            listing = self.store.listing()
        except ObjectMissing:
            return [], []
        found, other = [], [entry.name for entry in listing.irregular]
        for name in listing.files:
            entry = Entry.of(name)
            if entry is not None:
                found.append(entry)
            elif not name.endswith(SUMMARY):
                other.append(name)
        return found, other

    def links(self, upstream: Iterable[tuple[str, Collection[int] | None]]) -> list[Link]:
        """Return the links to the latest attempts of guards upstream: task ids, with the map indexes that are expected of each.

        None for the indexes is a task whose number is not known: whatever is there is linked. Where an expected one has no
        attestation, the link says so. What is linked is not judged here: the gate does.
        """
        by_task: dict[str, dict[int, Entry]] = {}
        for entry in self.entries()[0]:
            latest = by_task.setdefault(entry.task, {})
            if entry.map_index not in latest or entry.age > latest[entry.map_index].age:
                latest[entry.map_index] = entry
        wanted: list[tuple[str, int, Entry | None]] = []
        for task_id, indexes in upstream:
            there = by_task.get(part_of(task_id), {})
            expected = sorted(there) if indexes is None else sorted(indexes)
            wanted += [(task_id, index, there.get(index)) for index in expected]
            if not expected:
                wanted.append((task_id, -1, None))
        names = [entry.name for _, _, entry in wanted if entry is not None]
        digests: dict[str, str] = {}
        for name, data in zip(names, self._all(names), strict=True):
            if isinstance(data, StorageError):
                raise data
            digests[name] = hashlib.sha256(data).hexdigest()
        return [Link(task, index, None if entry is None else digests[entry.name]) for task, index, entry in wanted]

    def load(self, dag_id: str, run_id: str, trusted: TrustedKeys, *, task_id: str | None = None) -> Evidence:
        """Read and verify what lies there, of one task or all. What is no evidence of this run by a trusted key is refused.

        Raises :class:`~airflow_pipesec.errors.StorageError` for trouble that a retry may cure.
        """
        evidence = Evidence()
        entries, other = self.entries()
        if task_id is not None:
            entries = [entry for entry in entries if entry.task == part_of(task_id)]
            other = [name for name in other if name.partition("/")[0] == part_of(task_id)]
        evidence.refused += [Refused(name, "is no attestation by its name") for name in other]
        for entry, data in zip(entries, self._all([entry.name for entry in entries]), strict=True):
            if isinstance(data, StorageError):
                if not isinstance(data, ObjectMissing | ObjectRefused | AccessDenied):
                    raise data
                evidence.refused.append(Refused(entry.name, str(data), unreadable=isinstance(data, AccessDenied)))
                continue
            try:
                evidence.witnesses[entry.name] = _witness(entry.name, data, dag_id, run_id, trusted)
            except EvidenceError as error:
                evidence.refused.append(Refused(entry.name, str(error)))
        return evidence

    def _all(self, names: list[str]) -> Iterator[bytes | StorageError]:
        """Yield what each name holds, or why it could not be read; several at once where each read waits for a network."""

        def read(name: str) -> bytes | StorageError:
            try:
                return self.store.read(name, limit=MAX_ENVELOPE)
            except StorageError as error:
                return error

        if isinstance(self.store, LocalStore) or len(names) < FEW:
            yield from map(read, names)
            return
        with ThreadPoolExecutor(READERS) as pool:
            yield from pool.map(read, names)


def _made(attempt: str) -> datetime:
    """When Airflow made an attempt's id, if that is a UUID of version 7, which says so."""
    try:
        made = UUID(attempt)
        if made.version == TIMED:
            return datetime.fromtimestamp((made.int >> 80) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return datetime.min.replace(tzinfo=UTC) + SKEW


def _witness(name: str, envelope: bytes, dag_id: str, run_id: str, trusted: TrustedKeys) -> Witness:
    opened = unseal(envelope, trusted)
    if opened.document.get("predicateType") != TEST_RESULT:
        raise EvidenceError("the statement attests no test result")
    attested = read_attestation(opened.document)
    attempt = attested.attempt
    if (attempt.dag_id, attempt.run_id) != (dag_id, run_id):
        raise EvidenceError(f"it belongs to run {printable(attempt.run_id)} of {printable(attempt.dag_id)}")
    if name_of(attempt) != name:
        raise EvidenceError(f"it belongs to another place: it attests {printable(str(attempt))}")
    if fault := opened.key.fault(attested.finished):
        raise EvidenceError(fault)
    if attested.started < _made(attempt.attempt) - SKEW:
        raise EvidenceError("it says that it was made before the attempt that it attests: its key may be an old one")
    return Witness(attested, opened.key, opened.digest, name)
