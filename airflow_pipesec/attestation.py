"""Attestations: what a guard saw, signed, in a form that others can verify without this package.

An attestation is an in-toto Statement v1 whose predicate is a test result v0.1, in a DSSE v1 envelope with one signature. What
the public formats have no place for (which attempt of which task it was, what its guards upstream had attested, the findings) is
in the predicate's extension field ``airflowPipesec``. ``docs/evidence.md`` has every member.

Envelope and statement are written in one canonical form, and read in no other: of each there is one sequence of bytes, so that a
digest of it is a name for it. Nothing is parsed before its signature was verified.

Sources: https://github.com/secure-systems-lab/dsse (protocol and envelope, v1.0.2),
https://github.com/in-toto/attestation (spec v1.1, predicates test-result v0.1), https://slsa.dev/spec/v1.0/verification_summary.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from airflow_pipesec.documents import canonical, demand_plain, strict_base64, strict_json
from airflow_pipesec.errors import EvidenceError
from airflow_pipesec.signing import Signer, TrustedKey, TrustedKeys

__all__ = [
    "MAX_ENVELOPE",
    "RUN_EXTENSION",
    "TEST_RESULT",
    "VERIFICATION_SUMMARY",
    "Attempt",
    "Attestation",
    "Link",
    "Opened",
    "digest_set",
    "pae",
    "read_attestation",
    "seal",
    "statement",
    "unseal",
    "verification_summary",
]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_SUMMARY = "https://slsa.dev/verification_summary/v1"
VERIFIER = "https://pypi.org/project/airflow-pipesec/#release-gate"
PASSED_LEVEL = "PIPESEC_RELEASE_GATE"
RUN_EXTENSION = "airflowPipesec"
FORMAT = 1
MAX_ENVELOPE = 8 << 20  # bytes; thousands of findings fit
UNSIGNED = ""  # the key id of an envelope that nobody signed
_HEX64 = re.compile(r"[0-9a-f]{64}")
_TREE = {"sha256": "dirHash", "sha512": "treeSha512", "blake3": "treeBlake3"}


def pae(payload: bytes, payload_type: str = PAYLOAD_TYPE) -> bytes:
    """Return what DSSE signs: the pre-authentication encoding of a payload and its type."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(document: Mapping[str, Any], signer: Signer | None) -> bytes:
    """Return the envelope around a statement. Without a signer there is no signature in it, and nobody believes it.

    Raises :class:`EvidenceError` for one that :func:`unseal` would not take back, and what the signer raises.
    """
    payload = canonical(document)
    if signer is not None:
        return sealed(payload, PAYLOAD_TYPE, signer)
    return _enveloped(payload, PAYLOAD_TYPE, [])


def _enveloped(payload: bytes, payload_type: str, signatures: list[dict[str, str]]) -> bytes:
    envelope = canonical({"payload": _base64(payload), "payloadType": payload_type, "signatures": signatures})
    if len(envelope) > MAX_ENVELOPE:
        raise EvidenceError(
            f"the envelope would be larger than {MAX_ENVELOPE} bytes, and nobody would read it. Shorten the policy."
        )
    return envelope


class Opened(NamedTuple):
    """A statement out of its envelope, the key that signed it, and the envelope's own SHA-256 in hexadecimal."""

    document: dict[str, Any]
    key: TrustedKey
    digest: str


def unseal(envelope: bytes, trusted: TrustedKeys) -> Opened:
    """Return what is in an envelope that one trusted key signed. Whether it was valid then is asked by who knows when that was.

    Raises :class:`EvidenceError` saying why, and quoting nothing but names, for every other envelope.
    """
    payload, key = unsealed(envelope, trusted, PAYLOAD_TYPE)
    document = strict_json(payload, "the statement")
    if not isinstance(document, dict):
        raise EvidenceError("the statement is not an object")
    return Opened(document, key, hashlib.sha256(envelope).hexdigest())


def sealed(payload: bytes, payload_type: str, signer: Signer) -> bytes:
    """Return the signed envelope around any bytes. Raises :class:`EvidenceError` where it would be too large to be read."""
    return _enveloped(payload, payload_type, [{"keyid": signer.key_id, "sig": _base64(signer.sign(pae(payload, payload_type)))}])


def unsealed(envelope: bytes, trusted: TrustedKeys, payload_type: str) -> tuple[bytes, TrustedKey]:
    """Return the bytes of that type in an envelope, and the trusted key that signed them. Raises as :func:`unseal` does."""
    if len(envelope) > MAX_ENVELOPE:
        raise EvidenceError(f"the envelope is larger than {MAX_ENVELOPE} bytes")
    outer = strict_json(envelope, "the envelope")
    if not isinstance(outer, dict) or set(outer) != {"payload", "payloadType", "signatures"}:
        raise EvidenceError("the envelope has not just payload, payloadType and signatures")
    if outer["payloadType"] != payload_type:
        raise EvidenceError(f"the payload's type is not {payload_type}")
    signatures = outer["signatures"]
    if signatures == []:
        raise EvidenceError("it is not signed")
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise EvidenceError("the envelope has not just one signature")
    (one,) = signatures
    if not isinstance(one, dict) or set(one) != {"keyid", "sig"} or not all(isinstance(part, str) for part in one.values()):
        raise EvidenceError("the signature has not just keyid and sig")
    payload = strict_base64(outer["payload"], "the payload")
    key = trusted.verify(one["keyid"], pae(payload, payload_type), strict_base64(one["sig"], "the signature"))
    return payload, key


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


class Attempt(NamedTuple):
    """One attempt of a task instance: which it was. ``attempt`` is Airflow's own id of it, a UUID that each try gets anew."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    attempt: str

    @property
    def instance(self) -> tuple[str, int]:
        """The task instance: its task and its map index (-1 where the task is not mapped)."""
        return self.task_id, self.map_index

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.task_id}{mapped} (try {self.try_number})"


class Link(NamedTuple):
    """What a guard found of a guard upstream: the SHA-256 of the envelope of its latest attempt, None where there was none."""

    task_id: str
    map_index: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a guard attests, besides the subjects. Times are in UTC.

    ``outcome`` is ``PASSED``, ``FAILED`` or ``ERROR``; ``tests`` are the controls that passed, that were let be (waived, or
    below the threshold) and that failed; ``findings`` and ``waivers`` are as :meth:`airflow_pipesec.policy.Verdict.document`
    gives them, and ``policy`` as :meth:`airflow_pipesec.policy.Policy.document` does. ``waivers`` are those that excused
    something.
    """

    attempt: Attempt
    guard: str
    outcome: str
    reason: str
    started: datetime
    finished: datetime
    tests: tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]] = ((), (), ())
    findings: tuple[Mapping[str, Any], ...] = ()
    more_findings: int = 0
    waivers: tuple[Mapping[str, str], ...] = ()
    policy: Mapping[str, Any] | None = None
    version: str = ""
    links: tuple[Link, ...] = ()
    dag_version: str | None = None
    logical_date: str | None = None
    run_type: str = ""
    triggered_by: str | None = None
    subjects: tuple[tuple[str, Mapping[str, str]], ...] = ()
    """Names and digest sets of the artifacts that were examined; :func:`read_attestation` gives them without the run's own."""
    controls: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the controls among the findings are, by id: ``title``, ``severity``, ``remedy`` and ``references``, a list of text."""


def digest_set(digest: str) -> dict[str, str]:
    """Return in-toto's way of writing a digest: ``sha256:…`` of a file, ``tree:sha256:…`` of a tree of files (its dirHash)."""
    algorithm, _, digits = digest.rpartition(":")
    kind, _, inner = algorithm.rpartition(":")
    return {_TREE[inner] if kind == "tree" else inner: digits}


def _run_subject(attempt: Attempt) -> dict[str, Any]:
    """The run as a subject, so that each statement has one, and those of a run can be found by it."""
    identity = canonical({"dag": attempt.dag_id, "run": attempt.run_id})
    return {"name": f"run {attempt.run_id} of {attempt.dag_id}", "digest": {"sha256": hashlib.sha256(identity).hexdigest()}}


def statement(attested: Attestation) -> dict[str, Any]:
    """Return the in-toto statement of an attestation, ready to be sealed."""
    passed, warned, failed = attested.tests
    attempt = attested.attempt
    policy = canonical(attested.policy or {})
    result = {"PASSED": "WARNED" if warned else "PASSED"}.get(attested.outcome, "FAILED")
    configuration = [
        {
            "name": "policy",
            "digest": {"sha256": hashlib.sha256(policy).hexdigest()},
            "mediaType": "application/json",
            "content": _base64(policy),
        },
        {"name": "airflow-pipesec", "uri": f"pkg:pypi/airflow-pipesec@{attested.version}"},
    ]
    extension = {
        "format": FORMAT,
        "guard": attested.guard,
        "dag": attempt.dag_id,
        "run": attempt.run_id,
        "task": attempt.task_id,
        "mapIndex": attempt.map_index,
        "try": attempt.try_number,
        "attempt": attempt.attempt,
        "dagVersion": attested.dag_version,
        "logicalDate": attested.logical_date,
        "runType": attested.run_type,
        "triggeredBy": attested.triggered_by,
        "started": _written(attested.started),
        "finished": _written(attested.finished),
        "outcome": attested.outcome,
        "reason": attested.reason,
        "findings": list(attested.findings),
        "moreFindings": attested.more_findings,
        "waivers": list(attested.waivers),
        "links": [{"task": link.task_id, "mapIndex": link.map_index, "sha256": link.sha256} for link in attested.links],
    }
    if attested.controls:  # evidence from before there were any reads as it always did
        extension["controls"] = {name: dict(told) for name, told in attested.controls.items()}
    return {
        "_type": STATEMENT_TYPE,
        "subject": [_run_subject(attempt), *({"name": name, "digest": dict(digest)} for name, digest in attested.subjects)],
        "predicateType": TEST_RESULT,
        "predicate": {
            "result": result,
            "configuration": configuration,
            "passedTests": list(passed),
            "warnedTests": list(warned),
            "failedTests": list(failed),
            RUN_EXTENSION: extension,
        },
    }


def read_attestation(document: Mapping[str, Any]) -> Attestation:
    """Read a statement back. Raises :class:`EvidenceError` for one that is not just what :func:`statement` writes."""
    demand_plain(document)
    try:
        read = _read(document)
        same = statement(read) == document  # each part was read as its own type, so what is equal is the same
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError):
        read, same = None, False
    if read is None or not same:
        raise EvidenceError(f"the statement is not a {TEST_RESULT} of this package, format {FORMAT}")
    return read


def _read(document: Mapping[str, Any]) -> Attestation:
    predicate = document["predicate"]
    extension = predicate[RUN_EXTENSION]
    _whole(extension["format"], FORMAT)  # True equals 1, and is none
    attempt = Attempt(
        _id(extension["dag"]),
        _id(extension["run"]),
        _id(extension["task"]),
        _whole(extension["mapIndex"], -1),
        _whole(extension["try"], 0),
        _id(extension["attempt"]),
    )
    links = tuple(
        Link(_id(item["task"]), _whole(item["mapIndex"], -1), None if item["sha256"] is None else _hex(item["sha256"]))
        for item in extension["links"]
    )
    policy = _mapping(strict_json(base64.b64decode(predicate["configuration"][0]["content"]), "the policy"))
    uri = _text(predicate["configuration"][1]["uri"])
    if extension["outcome"] not in ("PASSED", "FAILED", "ERROR"):
        raise ValueError("an outcome that is none")
    return Attestation(
        attempt=attempt,
        guard=_text(extension["guard"]),
        outcome=extension["outcome"],
        reason=_text(extension["reason"]),
        started=_moment(extension["started"]),
        finished=_moment(extension["finished"]),
        tests=tuple(  # type: ignore[arg-type] # three of them
            tuple(_text(name) for name in predicate[member]) for member in ("passedTests", "warnedTests", "failedTests")
        ),
        findings=tuple(_mapping(item) for item in extension["findings"]),
        more_findings=_whole(extension["moreFindings"], 0),
        waivers=tuple(_texts(item) for item in extension["waivers"]),
        policy=policy,
        version=uri.rpartition("@")[2],
        links=links,
        dag_version=None if extension["dagVersion"] is None else _text(extension["dagVersion"]),
        logical_date=None if extension["logicalDate"] is None else _text(extension["logicalDate"]),
        run_type=_text(extension["runType"]),
        triggered_by=None if extension["triggeredBy"] is None else _text(extension["triggeredBy"]),
        subjects=tuple((_text(item["name"]), _texts(item["digest"])) for item in document["subject"][1:]),
        controls={_text(name): _told(item) for name, item in _mapping(extension.get("controls", {})).items()},
    )


def _told(control: Any) -> Mapping[str, Any]:
    """What is told of a control. Other members, and a list that is none, are not written again, and so refused."""
    texts = {member: _text(control[member]) for member in ("title", "severity", "remedy")}
    return texts | {"references": [_text(reference) for reference in control["references"]]}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(type(value).__name__)
    return value


def _id(value: Any) -> str:
    if not _text(value):
        raise ValueError("an id that is none")
    return str(value)


def _whole(value: Any, least: int) -> int:
    if type(value) is not int or value < least:
        raise ValueError("a number that is none")
    return value


def _hex(value: Any) -> str:
    if not _HEX64.fullmatch(_text(value)):
        raise ValueError("a digest that is none")
    return str(value)


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError(type(value).__name__)
    return value


def _texts(value: Any) -> Mapping[str, str]:
    return {_text(name): _text(text) for name, text in _mapping(value).items()}


def _written(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(text: Any) -> datetime:
    return datetime.strptime(_text(text), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def verification_summary(
    *,
    resource: str,
    digest: Mapping[str, str],
    passed: bool,
    policy: Mapping[str, Any],
    policy_uri: str,
    inputs: Iterable[tuple[str, str]],
    verified: datetime,
) -> dict[str, Any]:
    """Return the SLSA Verification Summary v1 of an artifact, as a statement. ``inputs`` are names and SHA-256 of evidence.

    SLSA v1.0 has no place for the version of the verifier: the gate's own attestation names it.
    """
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": resource, "digest": dict(digest)}],
        "predicateType": VERIFICATION_SUMMARY,
        "predicate": {
            "verifier": {"id": VERIFIER},
            "timeVerified": _written(verified),
            "resourceUri": resource,
            "policy": {"uri": policy_uri, "digest": {"sha256": hashlib.sha256(canonical(policy)).hexdigest()}},
            "inputAttestations": [{"uri": name, "digest": {"sha256": sha256}} for name, sha256 in inputs],
            "verificationResult": "PASSED" if passed else "FAILED",
            "verifiedLevels": [PASSED_LEVEL if passed else "FAILED"],
            "slsaVersion": "1.0",
        },
    }
