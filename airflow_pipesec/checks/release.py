"""Release: a run's evidence is whole, genuine and its own, every guard in it passed, and it speaks of the artifact that ships.

State is never asked whether a guard passed, for state can be set by hand. What counts is what the guards signed: an attestation
of the latest attempt of each, in which it passed, linked to those of the guards before it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from airflow_pipesec.attestation import digest_set
from airflow_pipesec.checks.integrity import take_stock
from airflow_pipesec.errors import EvidenceError
from airflow_pipesec.evidence import Evidence, Refused, RunEvidence, Witness
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, printable
from airflow_pipesec.hashing import ALGORITHMS, Progress
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.signing import TrustedKeys
from airflow_pipesec.storage import Store

__all__ = [
    "AIRFLOW_TELLS",
    "GATE",
    "WAIVABLE",
    "Known",
    "Release",
    "closure",
    "examined_of",
    "guard_subject",
    "inputs_of",
    "link_faults",
    "released",
    "roots_of",
    "stock_of",
    "verify_run",
    "verify_stored",
    "with_attested",
]

GATE = "airflow_pipesec.guards.release.ReleaseGateOperator"
WAIVABLE = "guard-passed"  # the one control that a gate's policy may waive: what proves has no waiver
RECORDER = "airflow_pipesec.guards.integrity.HashManifestOperator"
SKEW = timedelta(minutes=5)  # by which two clocks may differ
_REFS = ("MITRE ATLAS AML.T0018", "OWASP ML06:2023", "NIST SP 800-53 SI-7")
_AUDIT = ("NIST SP 800-53 AU-10", "NIST SP 800-53 SI-7")

AIRFLOW_TELLS = Control(
    id="airflow-tells",
    title="Airflow could be asked for the latest try of each guard, and for what people did to it",
    severity=Severity.CRITICAL,
    remedy="Check the connection of the service account (airflow_conn_id), its role, and that the API server is up.",
    refs=_AUDIT,
)
EVIDENCE_PRESENT = Control(
    id="evidence-present",
    title="Every guard upstream left evidence in this run",
    severity=Severity.CRITICAL,
    remedy="Clear the guard, so that it really runs. A state that was set by hand leaves no evidence.",
    refs=_AUDIT,
)
EVIDENCE_AUTHENTIC = Control(
    id="evidence-authentic",
    title="All evidence of the run is where it belongs, and signed by a trusted key that was valid then",
    severity=Severity.CRITICAL,
    remedy="Find out who wrote it. If its key is right and only not trusted yet, have it added; then clear the guard.",
    refs=_AUDIT,
)
EVIDENCE_CURRENT = Control(
    id="evidence-current",
    title="The evidence is of each guard's latest try, under the DAG version that runs",
    severity=Severity.CRITICAL,
    remedy="Clear the guard and what follows it, so that it runs again as the DAG is now.",
    refs=_AUDIT,
)
EVIDENCE_LINKED = Control(
    id="evidence-linked",
    title="Each guard attested on top of the latest evidence of the guards before it",
    severity=Severity.CRITICAL,
    remedy="Clear the guard and what follows it: something upstream was done again after it had run, or was taken away.",
    refs=_AUDIT,
)
GUARD_PASSED = Control(
    id="guard-passed",
    title="Every guard upstream passed, and the waivers that it relied on still apply",
    severity=Severity.CRITICAL,
    remedy="Mend what the guard found and clear it. To ship all the same, waive this control in the gate's policy.",
    refs=_REFS,
)
ARTIFACT_ATTESTED = Control(
    id="artifact-attested",
    title="The artifact is the one that a guard of this run examined and passed",
    severity=Severity.CRITICAL,
    remedy="Ship what was verified: restore it from its source, or verify this one and clear what follows.",
    refs=_REFS,
)


class Known(NamedTuple):
    """What Airflow shows of a task instance now: the id of its latest attempt, the try, the state, and what people did to it."""

    attempt: str
    try_number: int
    state: str | None
    told: str = ""


@dataclass(frozen=True, slots=True)
class Release:
    """What a run's evidence is held against.

    ``guards`` are the tasks that must have evidence and their map indexes (-1 for one that is not mapped). ``edges`` says for
    each which guards it follows, and of a mapped one whether it goes with the same index of it alone; None where the DAG is not
    known and only the links themselves tell. ``known`` is what Airflow shows, None where it was not asked. ``may_be_skipped``
    names tasks that need no evidence when they did not run. ``dag_version`` None is any, the same for all.
    """

    guards: Mapping[str, Collection[int]]
    edges: Mapping[str, Mapping[str, bool]] | None = None
    known: Mapping[tuple[str, int], Known] | None = None
    may_be_skipped: Collection[str] = ()
    dag_version: str | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Digests of what ships (``sha256:…``, ``tree:sha256:…``), by name."""

    def instances(self) -> list[tuple[str, int]]:
        """Return every guard's instances, in order."""
        return [(task, index) for task in sorted(self.guards) for index in sorted(self.guards[task])]


def roots_of(evidence: Evidence, tasks: Collection[str] = ()) -> list[tuple[str, int]]:
    """Return the instances from which a run's evidence is followed: those of the named tasks, or of the gates among it."""
    attempts = evidence.attempts()
    if tasks:
        return [(task, index) for task in tasks for index in sorted(i for t, i in attempts if t == task) or [-1]]
    return sorted(instance for instance, found in attempts.items() if found[-1].attested.guard == GATE)


def closure(evidence: Evidence, roots: Iterable[tuple[str, int]]) -> dict[str, set[int]]:
    """Return all that the links of the latest attempts lead to, the roots included: the guards that must have evidence."""
    attempts = evidence.attempts()
    found: dict[str, set[int]] = {}
    waiting = list(roots)
    while waiting:
        task, index = waiting.pop()
        if index in found.get(task, ()):
            continue
        found.setdefault(task, set()).add(index)
        if (task, index) in attempts:
            waiting += [(link.task_id, link.map_index) for link in attempts[task, index][-1].attested.links]
    return found


def with_attested(guards: Mapping[str, Collection[int]], evidence: Evidence) -> dict[str, set[int]]:
    """Return the guards with every instance of them that attested: one that was deleted in Airflow still has to have passed."""
    found = {task: set(indexes) for task, indexes in guards.items()}
    for task, index in evidence.attempts():
        if task in found:
            found[task].add(index)
    return found


def verify_run(evidence: Evidence, release: Release, *, now: datetime) -> Iterator[Finding]:
    """Hold a run's evidence against what must be there, and yield what was seen: of what is wrong, each by itself."""
    instances = release.instances()
    if not instances:
        text = "there is no guard whose evidence could be asked for. Put guards before the gate"
        yield Finding(EVIDENCE_PRESENT, Subject("guards upstream"), Status.FAIL, text)
        return
    attempts = evidence.attempts()
    problems = [*_refused(evidence, release.guards)]
    present: list[tuple[tuple[str, int], Witness]] = []
    for instance in instances:
        if instance in attempts:
            present.append((instance, attempts[instance][-1]))
        else:
            problems.append(_missing(instance, release))
    version = release.dag_version
    if version is None and present:
        version = present[0][1].attested.dag_version
    latest = {instance: witness.sha256 for instance, witness in present}
    for instance, witness in present:
        problems += _not_current(instance, witness, release, version, now)
        problems += (_link(instance, other, text) for other, text in link_faults(instance, witness, release, latest))
        problems += _not_passed(instance, witness, release, now)
    problems += _swapped_manifests(dict(present))
    yield from problems
    bad = {finding.control.id for finding in problems if finding.status in (Status.FAIL, Status.ERROR)}
    number = len(present)
    if number:
        for control, text in (
            (EVIDENCE_PRESENT, "left evidence"),
            (EVIDENCE_AUTHENTIC, f"attested by {_signers(present)}"),
            (
                EVIDENCE_CURRENT,
                "latest try" if release.known is not None else "latest try of those attested; Airflow was not asked",
            ),
            (EVIDENCE_LINKED, "linked to the guards before"),
            (GUARD_PASSED, "passed"),
        ):
            if control.id not in bad:
                yield Finding(
                    control, Subject("guards upstream"), Status.PASS, f"{amount(number, 'guard')}: {text}", count=number
                )
    yield from _artifacts(release, [witness for _, witness in present])


def verify_stored(
    run: RunEvidence,
    dag_id: str,
    run_id: str,
    trusted: TrustedKeys,
    *,
    now: datetime,
    gates: Collection[str] = (),
    may_be_skipped: Collection[str] = (),
    artifacts: Mapping[str, str] | None = None,
) -> Iterator[Finding]:
    """Verify a run from its evidence and the trusted keys alone: no Airflow, no DAG.

    What has to be there is followed from the gates, which have to have passed: their links name the guards that they follow,
    those name theirs. ``gates`` names the tasks to start from, any guards; without it those that are release gates. What the DAG
    has beside them, and which try Airflow held to be the latest, the evidence alone can't tell.
    """
    evidence = run.load(dag_id, run_id, trusted)
    roots = roots_of(evidence, gates)
    if not roots:
        seen = amount(len(evidence.witnesses), "attestation")
        refused = f", {amount(len(evidence.refused), 'file')} refused" if evidence.refused else ""
        text = (
            f"no release gate left evidence in this run ({seen} of others{refused}). Name the guards that must be there (--gate)"
        )
        yield Finding(EVIDENCE_PRESENT, Subject("release gate"), Status.FAIL, text)
        return
    guards = with_attested(closure(evidence, roots), evidence)
    release = Release(guards, may_be_skipped=may_be_skipped, artifacts=artifacts or {})
    yield from verify_run(evidence, release, now=now)


def stock_of(
    store: Store, examined: Collection[Mapping[str, str]], *, workers: int | None = None, progress: Progress | None = None
) -> tuple[Manifest | None, list[Finding]]:
    """Hash an artifact, as :func:`airflow_pipesec.checks.integrity.take_stock` does, by the algorithm of what was examined.

    By SHA-256, unless what is there is only found among the digest sets by another algorithm.
    """
    manifest: Manifest | None = None
    problems: list[Finding] = []
    for algorithm in ["sha256", *(name for name in ALGORITHMS if name != "sha256" and _by(name, examined))]:
        manifest, problems = take_stock(store, algorithm, workers=workers, progress=progress)
        if manifest is None or digest_set(manifest.digest) in [dict(digests) for digests in examined]:
            break
    return manifest, problems


def _by(algorithm: str, examined: Collection[Mapping[str, str]]) -> bool:
    names = {next(iter(digest_set(f"{kind}{algorithm}:"))) for kind in ("", "tree:")}
    return any(names & digests.keys() for digests in examined)


def released(evidence: Evidence, gate: tuple[str, int], *, attempt: str | None, now: datetime) -> list[Mapping[str, str]]:
    """Return the digest sets of what a gate of this run let pass, as it signed them.

    ``attempt`` is the one that Airflow shows as the gate's latest, None where it was not asked. What the gate rested on has to be
    there as it was: nothing upstream attested anew since. That a guard did not pass was the gate's to judge.

    Raises :class:`EvidenceError` where the gate left no evidence, as one that was called a success by hand does not, did not
    pass, or rests on what is no longer so.
    """
    name = printable(gate[0])
    attempts = evidence.attempts().get(gate)
    for item in evidence.unexcused((gate[0],)):
        raise EvidenceError(f"evidence {printable(item.name)} {_reason(item)}")
    if not attempts or attempt not in (None, attempts[-1].attested.attempt.attempt):
        latest = "of its latest attempt " if attempts else ""
        raise EvidenceError(
            f"gate {name} left no evidence {latest}in this run: it did not run, whatever its state says. Clear it, to run it."
        )
    attested = attempts[-1].attested
    if attested.guard != GATE:
        raise EvidenceError(f"task {name} is no ReleaseGateOperator, but {printable(attested.guard)}. Name the gate.")
    if attested.outcome != "PASSED":
        raise EvidenceError(f"gate {name} signed {attested.outcome}: {attested.reason}. Look at its log.")
    guards = with_attested(closure(evidence, [gate]), evidence)
    guards[gate[0]] = {gate[1]}  # another instance of a mapped gate is its own affair
    witnesses = inputs_of(evidence, Release(guards))
    # What the gate signed for although it had left no evidence, it was told to let be.
    let_be = {link.task_id for witness in witnesses for link in witness.attested.links if link.sha256 is None}
    for finding in verify_run(evidence, Release(guards, may_be_skipped=let_be), now=now):
        if finding.status in (Status.FAIL, Status.ERROR) and finding.control is not GUARD_PASSED:
            raise EvidenceError(
                f"what gate {name} rested on is no longer so: {finding.subject} {finding.message}. Clear the gate."
            )
    return [digests for _, digests in attested.subjects]


def inputs_of(evidence: Evidence, release: Release) -> list[Witness]:
    """Return the attestations that a decision about a release rests on: the latest of each guard that left one."""
    attempts = evidence.attempts()
    return [attempts[instance][-1] for instance in release.instances() if instance in attempts]


def guard_subject(instance: tuple[str, int]) -> Subject:
    """Return what findings about a guard's instance call it."""
    task, index = instance
    return Subject(f"guard {task}[{index}]" if index >= 0 else f"guard {task}")


def _signers(present: list[tuple[tuple[str, int], Witness]]) -> str:
    return ", ".join(sorted({f"{printable(witness.key.name)} ({witness.key.key_id[:16]}…)" for _, witness in present}))


def _shown(known: Known | None) -> str:
    if known is None:
        return ""
    return f". Airflow shows try {known.try_number} as {known.state or 'not run yet'}{known.told}"


def _refused(evidence: Evidence, tasks: Collection[str]) -> Iterator[Finding]:
    for item in evidence.unexcused(tasks):
        status = Status.ERROR if item.unreadable else Status.FAIL
        yield Finding(EVIDENCE_AUTHENTIC, Subject(f"evidence {item.name}"), status, _reason(item))


def _reason(item: Refused) -> str:
    return item.reason if item.reason.endswith(".") else f"is refused: {item.reason}"


def _missing(instance: tuple[str, int], release: Release) -> Finding:
    known = release.known.get(instance) if release.known is not None else None
    if instance[0] in release.may_be_skipped and (release.known is None or (known is not None and known.state == "skipped")):
        text = "did not run, which may_be_skipped accepts"
        return Finding(EVIDENCE_PRESENT, guard_subject(instance), Status.SKIP, text)
    text = f"left no evidence in this run{_shown(known)}"
    return Finding(EVIDENCE_PRESENT, guard_subject(instance), Status.FAIL, text)


def _not_current(
    instance: tuple[str, int], witness: Witness, release: Release, version: str | None, now: datetime
) -> Iterator[Finding]:
    attested = witness.attested
    text = ""
    if attested.finished > now + SKEW or attested.started > attested.finished + SKEW:
        text = "attests a time that has not come yet. Look at the clock of its worker"
    elif attested.dag_version != version:
        text = "ran under another version of the DAG than the one that runs now"
    elif release.known is not None:
        known = release.known.get(instance)
        if known is None:
            text = "attested, and Airflow does not know of such a task instance in this run any more. Trigger a new run"
        elif known.attempt != attested.attempt.attempt:
            text = f"attested try {attested.attempt.try_number}, and that is not its latest attempt{_shown(known)}"
        elif known.state != "success":
            text = f"attested{_shown(known)}, and not as success"
    if text:
        yield Finding(EVIDENCE_CURRENT, guard_subject(instance), Status.FAIL, text)


def link_faults(
    instance: tuple[str, int], witness: Witness, release: Release, latest: Mapping[tuple[str, int], str]
) -> Iterator[tuple[tuple[str, int], str]]:
    """Yield what is wrong with the links of a guard's attestation: the guard that each leads to, or should, and why.

    ``latest`` are the SHA-256 of the latest attestations of this run.
    """
    links = {(link.task_id, link.map_index): link.sha256 for link in witness.attested.links}
    expected: set[tuple[str, int]] = set()
    if release.edges is not None:
        for task, same in release.edges[instance[0]].items():
            indexes = (instance[1],) if same else release.guards[task]
            expected |= {(task, index) for index in indexes}
        for other in sorted(links.keys() - expected):
            yield other, "is linked, and not one that it follows in the DAG"
        for other in sorted(expected - links.keys()):
            yield other, "comes before it in the DAG, and is not linked"
    for other, sha256 in sorted(links.items()):
        if release.edges is not None and other not in expected:
            continue
        if sha256 == latest.get(other) and sha256 is not None:
            continue
        if other not in latest and other[0] in release.may_be_skipped and sha256 is None:
            continue
        if sha256 is None:
            yield other, "had left no evidence when it ran"
        elif other in latest:
            yield other, "was linked in an attempt that is not its latest any more"
        else:
            yield other, "is linked, and its evidence is not there, or not believed"


def _swapped_manifests(present: Mapping[tuple[str, int], Witness]) -> Iterator[Finding]:
    """Find who read another manifest than was recorded at its place in this run: an older one is signed as well."""
    recorders = {instance for instance, witness in present.items() if witness.attested.guard == RECORDER}
    written = {name for instance in recorders for name, _ in present[instance].attested.subjects}
    above = _recorders_above(present, recorders) if written else {}
    for instance, witness in present.items():
        for name, digests in witness.attested.subjects if instance not in recorders else ():
            if name not in written:
                continue
            recorded = [
                dict(there) for one in above[instance] for other, there in present[one].attested.subjects if other == name
            ]
            if recorded and dict(digests) not in recorded:
                text = f"read another {name} than was recorded there in this run before it"
                yield Finding(EVIDENCE_LINKED, guard_subject(instance), Status.FAIL, text)


def _recorders_above(
    present: Mapping[tuple[str, int], Witness], recorders: Collection[tuple[str, int]]
) -> dict[tuple[str, int], frozenset[tuple[str, int]]]:
    """Return for each instance the recorders that its links lead to. Links are by digest, so there is no circle of them."""
    found: dict[tuple[str, int], frozenset[tuple[str, int]]] = {}
    for start in present:
        waiting = [start]
        while waiting:
            here = waiting[-1]
            linked = {(link.task_id, link.map_index) for link in present[here].attested.links} & present.keys()
            open_ones = [other for other in linked if other not in found and other not in waiting]
            if open_ones and here not in found:
                waiting += open_ones
                continue
            waiting.pop()
            if here not in found:
                mine = {other for other in linked if other in recorders}
                found[here] = frozenset(mine.union(*(found.get(other, frozenset()) for other in linked)))
    return found


def _link(instance: tuple[str, int], other: tuple[str, int], text: str) -> Finding:
    return Finding(EVIDENCE_LINKED, guard_subject(instance), Status.FAIL, f"{guard_subject(other)} {text}")


def _not_passed(instance: tuple[str, int], witness: Witness, release: Release, now: datetime) -> Iterator[Finding]:
    attested = witness.attested
    if attested.outcome != "PASSED":
        known = release.known.get(instance) if release.known is not None else None
        text = f"signed {attested.outcome}: {attested.reason}{_shown(known)}"
        yield Finding(GUARD_PASSED, guard_subject(instance), Status.FAIL, text)
        return
    today = now.date().isoformat()
    for waiver in attested.waivers:
        if waiver.get("expires", "") < today:
            what, until = printable(waiver.get("control", "")), printable(waiver.get("expires", ""))
            yield Finding(
                GUARD_PASSED, guard_subject(instance), Status.FAIL, f"passed by a waiver for {what} that expired on {until}"
            )


def examined_of(witnesses: Iterable[Witness], name: str | None = None) -> list[Mapping[str, str]]:
    """Return the digest sets of what guards examined and passed: what was looked at under a name, where anything was.

    To record an artifact is not to examine it.
    """
    passed = [
        subject
        for witness in witnesses
        if witness.attested.outcome == "PASSED" and witness.attested.guard != RECORDER
        for subject in witness.attested.subjects
    ]
    return [digests for other, digests in passed if other == name] or [digests for _, digests in passed]


def _artifacts(release: Release, witnesses: list[Witness]) -> Iterator[Finding]:
    for name, digest in release.artifacts.items():
        subject = Subject(name, digest)
        wanted = digest_set(digest)
        if wanted in [dict(digests) for digests in examined_of(witnesses, subject.name)]:
            by = {w.attested.attempt.task_id for w in witnesses for _, digests in w.attested.subjects if dict(digests) == wanted}
            text = f"examined by {', '.join(map(printable, sorted(by)))}; {digest}"
        else:
            by = set()
            text = f"no guard of this run examined it and passed: {digest}"
        yield Finding(ARTIFACT_ATTESTED, subject, Status.PASS if by else Status.FAIL, text)
