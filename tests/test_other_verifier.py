"""A verifier written to docs/evidence.md says what ours says, of good evidence and of each kind of bad; and the page is right."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from airflow_pipesec.attestation import Link, pae
from airflow_pipesec.checks.integrity import take_stock
from airflow_pipesec.checks.release import RECORDER, verify_stored
from airflow_pipesec.documents import canonical
from airflow_pipesec.errors import StorageError
from airflow_pipesec.evidence import folder_of, part_of
from airflow_pipesec.findings import Status
from airflow_pipesec.signing import TrustedKeys, entry_of, key_id_of, new_private_key
from airflow_pipesec.storage import open_store
from tests import other_verifier
from tests.conftest import PROJECT
from tests.servers import missing
from tests.test_evidence import GATE, NOW, SUBJECT, Run, chain, made_at

RUN_ID = "manual__2026-11-25T03:00:00+00:00/ü"
VECTORS = PROJECT / "tests" / "vectors" / "0.1.0"
PAGE = (PROJECT / "docs" / "evidence.md").read_text(encoding="utf-8")
DAY = timedelta(days=1)


def commands(begin: str, language: str = "text") -> list[str]:
    """The lines of the one block of the page that begins so."""
    (block,) = [block for block in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if block.startswith(begin)]
    return str(block).splitlines()


def shell(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True, check=False)


# ---- the same run, by both


def agreed(root: Path, dag: str, run: str, keys: Path, gate: str = "") -> set[str]:
    """What is wrong, by our verifier and by the other one: the same controls, of the same guards and files."""
    place, digest = SUBJECT[0][0], SUBJECT[0][1]["dirHash"]
    findings = verify_stored(
        Run(root, None, dag, run).evidence,
        dag,
        run,
        TrustedKeys.parse(keys.read_bytes()),
        now=NOW,
        gates=[gate] if gate else (),
        artifacts={place: f"tree:sha256:{digest}"},
    )
    ours = {f"{item.control.id}: {item.subject}" for item in findings if item.status in (Status.FAIL, Status.ERROR)}
    theirs = other_verifier.verify(root, dag, run, keys, gate, now=NOW, ships=(place, {"dirHash": digest}))
    assert set(theirs) == ours
    return ours


@pytest.fixture(params=["ecdsa-p256", "ed25519"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    signer = new_private_key(tmp_path / "key.pem", request.param)
    (tmp_path / "keys.yaml").write_text(entry_of(signer.public_key, name="k", valid_from=NOW - DAY))
    (tmp_path / "store").mkdir()
    return Run(tmp_path / "store", signer, run=RUN_ID)


def judged(run: Run, gate: str = "") -> set[str]:
    """Agreed on, with the gate found by itself and, the same, by its name."""
    return agreed(run.root, run.dag, run.run, run.root.parent / "keys.yaml", gate)


def controls(problems: set[str]) -> set[str]:
    return {problem.partition(":")[0] for problem in problems}


def whole(run: Run, **gate: Any) -> None:
    run.attest("gate", {"seal": chain(run)["seal"]}, guard=GATE, **gate)


def path_of(run: Run, task: str) -> Path:
    return next((run.root / folder_of(run.dag, run.run)).glob(f"{task}/*.json"))


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))


def failed_guard(run: Run) -> None:
    verify = run.attest("verify", {"record": run.attest("record")}, outcome="FAILED", subjects=SUBJECT)
    run.attest("gate", {"verify": verify}, guard=GATE)


def broken_off(run: Run) -> None:
    run.attest("gate", {"verify": run.attest("verify", outcome="ERROR", subjects=SUBJECT)}, guard=GATE)


def failed_gate(run: Run) -> None:
    whole(run, outcome="FAILED")


def without_evidence(run: Run) -> None:
    whole(run)
    path_of(run, "record").unlink()


def done_again(run: Run) -> None:
    whole(run)
    run.attest("record", number=2)


def later_failure(run: Run) -> None:
    whole(run)
    run.attest("seal", number=2, outcome="FAILED")


def deleted_instance(run: Run) -> None:
    good = run.attest("check", index=0, subjects=SUBJECT)
    run.attest("check", index=1, outcome="FAILED")
    run.attest("gate", guard=GATE, linked=(Link("check", 0, good),))


def missing_instance(run: Run) -> None:
    good = run.attest("check", index=0, subjects=SUBJECT)
    run.attest("gate", guard=GATE, linked=(Link("check", 0, good), Link("check", 1, None)))


def flipped(run: Run) -> None:
    whole(run)
    rewrite(path_of(run, "verify"), lambda data: data[:900] + bytes([data[900] ^ 1]) + data[901:])


def renamed(run: Run) -> None:
    whole(run)
    path = path_of(run, "verify")
    path.rename(path.with_name(path.name.replace("-1.1.", "-1.2.")))


def moved(run: Run) -> None:
    whole(run)
    path = path_of(run, "verify")
    rewrite(path, lambda _: path_of(run, "record").read_bytes())


def of_another_run(run: Run) -> None:
    other = Run(run.root, run.signer, run=RUN_ID + "2")
    whole(other)
    shutil.copytree(run.root / folder_of(other.dag, other.run), run.root / folder_of(run.dag, run.run))


def of_another_dag(run: Run) -> None:
    other = Run(run.root, run.signer, dag="other", run=RUN_ID)
    whole(other)
    shutil.copytree(run.root / folder_of(other.dag, other.run), run.root / folder_of(run.dag, run.run))


def other_key(run: Run) -> None:
    whole(Run(run.root, new_private_key(run.root.parent / "other.pem"), run=RUN_ID))


def other_key_for_one(run: Run) -> None:
    record = Run(run.root, new_private_key(run.root.parent / "other.pem"), run=RUN_ID).attest("record")
    run.attest("gate", {"record": record}, guard=GATE)


def unsigned(run: Run) -> None:
    whole(Run(run.root, None, run=RUN_ID))


def stray(run: Run) -> None:
    whole(run)
    (path_of(run, "verify").parent / "note").write_text("trust me")


def stray_below(run: Run) -> None:
    whole(run)
    (path_of(run, "verify").parent / "deep").mkdir()
    (path_of(run, "verify").parent / "deep" / path_of(run, "verify").name).write_text("{}")


def link_to_a_folder(run: Run) -> None:
    whole(run)
    (run.root / "elsewhere").mkdir()
    (path_of(run, "verify").parent / "more").symlink_to(run.root / "elsewhere")


def link_to_a_file(run: Run) -> None:
    whole(run)
    path = path_of(run, "verify")
    path.rename(run.root / "elsewhere")
    path.symlink_to(run.root / "elsewhere")


def another_version(run: Run) -> None:
    record = run.attest("record", version=str(UUID(int=3)))
    run.attest("gate", {"record": record}, guard=GATE)


def tomorrow(run: Run) -> None:
    run.attest("gate", guard=GATE, finished=NOW + timedelta(hours=1))


def begun_after_its_end(run: Run) -> None:
    def change(document: dict[str, Any]) -> None:
        document["predicate"]["airflowPipesec"]["started"] = "2026-11-25T11:55:01.000001Z"

    run.attest("gate", guard=GATE, change=change)


def dated_back(run: Run) -> None:
    run.attest("gate", guard=GATE, attempt=made_at(NOW), finished=NOW - timedelta(hours=20))


def dated_back_without_hyphens(run: Run) -> None:
    run.attest("gate", guard=GATE, attempt=made_at(NOW).replace("-", ""), finished=NOW - timedelta(hours=20))


def expired_waiver(run: Run) -> None:
    waiver = {"control": "c", "subject": "*", "reason": "r", "approver": "v", "expires": "2026-11-24"}
    run.attest("gate", guard=GATE, waivers=(waiver,))


def waiver_without_end(run: Run) -> None:
    run.attest("gate", guard=GATE, waivers=({"control": "c"},))


def another_manifest(run: Run) -> None:
    record = run.attest("record", guard=RECORDER, subjects=(("/m.json", {"dirHash": "cd" * 32}),))
    middle = run.attest("middle", {"record": record})
    verify = run.attest("verify", {"middle": middle}, subjects=(("/m.json", {"dirHash": "ab" * 32}), *SUBJECT))
    run.attest("gate", {"verify": verify}, guard=GATE)


def only_recorded(run: Run) -> None:
    run.attest("gate", {"record": run.attest("record", guard=RECORDER, subjects=SUBJECT)}, guard=GATE)


def other_bytes_there(run: Run) -> None:
    record = run.attest("record", subjects=(("/data/raw", SUBJECT[0][1]),))
    verify = run.attest("verify", {"record": record}, subjects=((SUBJECT[0][0], {"dirHash": "cd" * 32}),))
    run.attest("gate", {"verify": verify}, guard=GATE)


def no_gate(run: Run) -> None:
    chain(run)


def nothing(run: Run) -> None:
    """No file at all."""


BAD: dict[Callable[[Run], None], set[str]] = {
    failed_guard: {"guard-passed", "artifact-attested"},
    broken_off: {"guard-passed", "artifact-attested"},
    failed_gate: {"guard-passed"},
    without_evidence: {"evidence-present", "evidence-linked"},
    done_again: {"evidence-linked"},
    later_failure: {"guard-passed", "evidence-linked", "artifact-attested"},
    deleted_instance: {"guard-passed"},
    missing_instance: {"evidence-present", "evidence-linked"},
    flipped: {"evidence-authentic", "evidence-present", "evidence-linked", "artifact-attested"},
    renamed: {"evidence-authentic", "evidence-present", "evidence-linked", "artifact-attested"},
    moved: {"evidence-authentic", "evidence-present", "evidence-linked", "artifact-attested"},
    of_another_run: {"evidence-present"},
    of_another_dag: {"evidence-present"},
    other_key: {"evidence-present"},
    other_key_for_one: {"evidence-authentic", "evidence-present", "evidence-linked", "artifact-attested"},
    unsigned: {"evidence-present"},
    stray: {"evidence-authentic"},
    stray_below: {"evidence-authentic"},
    link_to_a_folder: {"evidence-authentic"},
    link_to_a_file: {"evidence-authentic", "evidence-present", "evidence-linked", "artifact-attested"},
    another_version: {"evidence-current", "artifact-attested"},
    tomorrow: {"evidence-current", "artifact-attested"},
    begun_after_its_end: {"evidence-current", "artifact-attested"},
    dated_back: {"evidence-present"},
    dated_back_without_hyphens: {"evidence-present"},
    expired_waiver: {"guard-passed", "artifact-attested"},
    waiver_without_end: {"guard-passed", "artifact-attested"},
    another_manifest: {"evidence-linked"},
    only_recorded: {"artifact-attested"},
    other_bytes_there: {"artifact-attested"},
    no_gate: {"evidence-present"},
    nothing: {"evidence-present"},
}


def test_both_verifiers_pass_a_good_run(run: Run) -> None:
    whole(run)
    assert judged(run) == judged(run, "gate") == set()


@pytest.mark.parametrize("way", BAD, ids=lambda way: way.__name__)
def test_both_verifiers_find_the_same_wrong(run: Run, way: Callable[[Run], None]) -> None:
    way(run)
    assert controls(judged(run)) == BAD[way]
    assert judged(run, "gate")


def test_both_follow_any_guard_that_is_named(run: Run) -> None:
    chain(run)
    assert judged(run, "seal") == set()
    assert controls(judged(run, "other")) == {"evidence-present", "artifact-attested"}


def test_both_let_an_old_file_be_when_a_later_attempt_took_its_place(run: Run) -> None:
    bad = Run(run.root, new_private_key(run.root.parent / "other.pem"), run=RUN_ID)
    bad.attest("verify")
    whole(run)
    (path_of(run, "gate").parent / "empty").mkdir()
    path_of(run, "gate").with_suffix(".vsa.json").write_text("of no concern here")
    assert judged(run) == set()
    bad.attest("verify", number=2)
    assert controls(judged(run)) == {"evidence-authentic"}


@pytest.mark.parametrize(
    ("terms", "good"),
    [
        ("", True),
        ("  valid_from: 2026-11-25T11:50:00Z\n", True),
        ("  valid_from: '2026-11-25T12:50:00+01:00'\n", True),
        ("  valid_from: 2026-11-25T11:50:01Z\n", False),
        ("  valid_until: 2026-11-25T11:50:00Z\n", True),
        ("  valid_until: 2026-11-25T11:49:59Z\n", False),
        ("  revoked: stolen\n", False),
        ("  revoked: true\n", False),
        ("  revoked: ''\n", False),
        ("  revoked: false\n", True),
        ("  revoked:\n", True),
    ],
)
def test_both_hold_a_key_to_the_same_terms(run: Run, terms: str, good: bool) -> None:
    assert run.signer is not None
    entry = entry_of(run.signer.public_key, name="k", valid_from=NOW).rpartition("  valid_from:")[0]
    (run.root.parent / "keys.yaml").write_text(entry + terms)
    whole(run)
    assert (judged(run) == set()) == good


# ---- the form of a statement, signed by a trusted key


def at(*path: Any, value: Any = None, drop: bool = False) -> Callable[[dict[str, Any]], None]:
    def change(document: Any) -> None:
        *parents, last = path
        for name in parents:
            document = document[name]
        if drop:
            del document[last]
        elif isinstance(document, list) and last == len(document):
            document.append(value)
        else:
            document[last] = value

    return change


OURS = ("predicate", "airflowPipesec")
OTHER_POLICY = b'{"more":[]}'
POLICY_OF_ANOTHER_FORM = {
    "name": "policy",
    "mediaType": "application/json",
    "content": base64.b64encode(OTHER_POLICY).decode(),
    "digest": {"sha256": hashlib.sha256(OTHER_POLICY).hexdigest()},
}
TOLD: dict[str, Any] = {"title": "t", "severity": "high", "remedy": "r", "references": ["CWE-354"]}
REFUSED = [
    at("_type", value="https://in-toto.io/Statement/v0.1"),
    at("predicateType", value="https://slsa.dev/verification_summary/v1"),
    at("more", value=1),
    at("predicate", "more", value=1),
    at("predicate", "result", value="FAILED"),
    at("predicate", "warnedTests", value=["c"]),
    at("predicate", "passedTests", value=[1]),
    at("predicate", "failedTests", drop=True),
    at("predicate", "configuration", value=[]),
    at("predicate", "configuration", 0, "content", value=base64.b64encode(b'{"fail_on":"info"}').decode()),
    at("predicate", "configuration", 0, "content", value=base64.b64encode(b"[]").decode()),
    at("predicate", "configuration", 0, "mediaType", value="text/plain"),
    at("predicate", "configuration", 1, "uri", value="pkg:pypi/airflow-pipesec@1@2"),
    at("predicate", "configuration", 1, "uri", value="pkg:pypi/other@1"),
    at("subject", value=[]),
    at("subject", 0, "name", value="another run"),
    at("subject", 0, "digest", "sha256", value="ab" * 32),
    at("subject", 1, value={"name": "x", "digest": {"sha256": 1}}),
    at("subject", 1, value={"name": "x", "digest": {}, "uri": "y"}),
    *(at(*OURS, name, drop=True) for name in other_verifier.OURS),
    *(at(*OURS, name, value=[1]) for name in other_verifier.OURS),
    at(*OURS, "more", value=1),
    at(*OURS, "format", value=True),
    at(*OURS, "format", value=2),
    at(*OURS, "try", value=True),
    at(*OURS, "try", value=-1),
    at(*OURS, "mapIndex", value=-2),
    at(*OURS, "mapIndex", value=0),
    at(*OURS, "moreFindings", value=-1),
    at(*OURS, "outcome", value="passed"),
    at(*OURS, "finished", value="2026-11-25T11:50:00Z"),
    at(*OURS, "finished", value="2026-11-31T11:50:00.000000Z"),
    at(*OURS, "started", value="0999-11-25T11:50:00.000000Z"),
    at(*OURS, "task", value=""),
    at(*OURS, "findings", value=["x"]),
    at(*OURS, "waivers", value=[{"control": 1}]),
    at(*OURS, "links", value=[{"task": "", "mapIndex": -1, "sha256": None}]),
    at(*OURS, "links", value=[{"task": "x", "mapIndex": -2, "sha256": None}]),
    at(*OURS, "links", value=[{"task": "x", "mapIndex": -1, "sha256": "AB" * 32}]),
    at(*OURS, "links", value=[{"task": "x", "mapIndex": -1}]),
    at(*OURS, "links", value=[{"task": "x", "mapIndex": -1, "sha256": None, "more": 1}]),
    at(*OURS, "controls", value={}),
    at(*OURS, "controls", value=None),
    at(*OURS, "controls", value=[TOLD]),
    at(*OURS, "controls", value={"c": "x"}),
    *(at(*OURS, "controls", value={"c": {**TOLD, name: 1}}) for name in TOLD),
    *(at(*OURS, "controls", value={"d": TOLD, "c": {key: TOLD[key] for key in TOLD if key != name}}) for name in TOLD),
    at(*OURS, "controls", value={"c": {**TOLD, "more": "x"}}),
    at(*OURS, "controls", value={"c": {**TOLD, "references": "x"}}),
    at(*OURS, "controls", value={"c": {**TOLD, "references": {"x": "y"}}}),
    at(*OURS, "controls", value={"c": {**TOLD, "references": ["x", 1]}}),
]
ACCEPTED = [
    at(*OURS, "guard", value=""),
    at(*OURS, "moreFindings", value=2**53 - 1),
    at(*OURS, "triggeredBy", value=None),
    at(*OURS, "logicalDate", value="any text"),
    at(*OURS, "findings", value=[{"anything": [1, None, {"a": "\x7f\u00e9\U0001f600\n"}]}]),
    at(*OURS, "waivers", value=[{"expires": "2026-11-25", "\u00e9": "\\"}]),
    at(*OURS, "controls", value={"c": TOLD}),
    at(*OURS, "controls", value={"": {**TOLD, "severity": "", "references": []}, "\u00e9": TOLD}),
    at("subject", 1, value={"name": "", "digest": {}}),
    at("subject", 1, value={"name": "x", "digest": {"md5": "?", "sha256": ""}}),
    at("predicate", "passedTests", value=[]),
    at("predicate", "configuration", 1, "uri", value="pkg:pypi/airflow-pipesec@"),
    at("predicate", "configuration", 0, value=POLICY_OF_ANOTHER_FORM),
]


@pytest.mark.parametrize("change", range(len(REFUSED)))
def test_both_refuse_a_statement_of_another_form(run: Run, change: int) -> None:
    run.attest("gate", guard=GATE, change=REFUSED[change])
    assert {problem for problem in judged(run, "gate") if "artifact" not in problem} == {
        "evidence-present: guard gate",
        f"evidence-authentic: evidence gate/{path_of(run, 'gate').name}",
    }


@pytest.mark.parametrize("change", range(len(ACCEPTED)))
def test_both_read_a_statement_whose_open_parts_say_something_else(run: Run, change: int) -> None:
    run.attest("gate", guard=GATE, change=ACCEPTED[change])
    assert controls(judged(run, "gate")) == {"artifact-attested"}


def signed_again(run: Run, payload: bytes) -> bytes:
    assert run.signer is not None
    signature = base64.b64encode(run.signer.sign(pae(payload))).decode()
    kind = "application/vnd.in-toto+json"
    signatures = [{"keyid": run.signer.key_id, "sig": signature}]
    return canonical({"payload": base64.b64encode(payload).decode(), "payloadType": kind, "signatures": signatures})


def deeper(levels: int) -> Callable[[dict[str, Any]], bytes]:
    def change(document: dict[str, Any]) -> bytes:  # what a finding holds is at the sixth level
        inner = b"[" * levels + b"]" * levels
        return canonical(document).replace(b'"findings":[]', b'"findings":[{"x":%b}]' % inner)

    return change


PAYLOADS: dict[str, tuple[Callable[[dict[str, Any]], bytes], bool]] = {
    "the same": (canonical, True),
    "white space": (lambda document: json.dumps(document, sort_keys=True).encode(), False),
    "unsorted": (lambda document: json.dumps(dict(reversed(document.items())), separators=(",", ":")).encode(), False),
    "a line break": (lambda document: canonical(document) + b"\n", False),
    "a key twice": (lambda document: canonical(document).replace(b'{"_type"', b'{"_type":"","_type"', 1), False),
    "another escape": (lambda document: canonical(document).replace(b"/", b"\\/", 1), False),
    "a fraction": (lambda document: canonical(document).replace(b'"moreFindings":0', b'"moreFindings":0.0'), False),
    "an exponent": (lambda document: canonical(document).replace(b'"moreFindings":0', b'"moreFindings":0e0'), False),
    "minus nought": (lambda document: canonical(document).replace(b'"moreFindings":0', b'"moreFindings":-0'), False),
    "too large": (lambda document: canonical(document).replace(b'"moreFindings":0', b'"moreFindings":%d' % 2**53), False),
    "no number": (lambda document: canonical(document).replace(b'"moreFindings":0', b'"moreFindings":NaN'), False),
    "half a pair": (lambda document: canonical(document).replace(b'"reason":"', b'"reason":"\\ud83d'), False),
    "deep": (deeper(64 - 5), True),
    "too deep": (deeper(64 - 4), False),
    "UTF-16": (lambda document: canonical(document).decode().encode("utf-16-le"), False),
    "a list": (lambda _: b"[]", False),
    "nothing": (lambda _: b"", False),
}


@pytest.mark.parametrize("name", PAYLOADS)
def test_both_read_one_form_of_json(run: Run, name: str) -> None:
    change, good = PAYLOADS[name]
    whole(run)
    path = path_of(run, "gate")
    rewrite(path, lambda data: signed_again(run, change(json.loads(base64.b64decode(json.loads(data)["payload"])))))
    assert (judged(run, "gate") == set()) == good


def edited(change: Callable[[Any], Any]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        document = json.loads(data)
        change(document)
        return canonical(document)

    return edit


ENVELOPES: dict[str, Callable[[bytes], bytes]] = {
    "white space": lambda data: data.replace(b",", b", ", 1),
    "a line break": lambda data: data + b"\n",
    "empty": lambda _: b"",
    "cut": lambda data: data[:-1],
    "a list": lambda data: b"[" + data + b"]",
    "another type": edited(at("payloadType", value="text/plain")),
    "another member": edited(at("more", value="")),
    "no signature": edited(at("signatures", value=[])),
    "two signatures": edited(lambda document: document["signatures"].append(document["signatures"][0])),
    "no key id": edited(at("signatures", 0, "keyid", value="")),
    "another key id": edited(at("signatures", 0, "keyid", value="ab" * 32)),
    "another member of the signature": edited(at("signatures", 0, "cert", value="")),
    "no base64": edited(at("payload", value="é")),
    "base64 cut": lambda data: re.sub(rb'"payload":"([^"]*)"', lambda found: b'"payload":"' + found[1][:-1] + b'"', data),
    "an empty signature": edited(at("signatures", 0, "sig", value="")),
}


@pytest.mark.parametrize("name", ENVELOPES)
def test_both_refuse_an_envelope_of_another_form(run: Run, name: str) -> None:
    whole(run)
    rewrite(path_of(run, "gate"), ENVELOPES[name])
    assert controls(judged(run, "gate")) >= {"evidence-authentic", "evidence-present"}


def test_neither_passes_a_run_with_an_envelope_that_is_too_large(run: Run) -> None:
    """Ours breaks off, where the page says that the file is refused: nothing passes, and the control is not named."""
    whole(run)
    rewrite(path_of(run, "gate"), lambda data: data + b" " * (8 << 20))
    theirs = other_verifier.verify(run.root, run.dag, run.run, run.root.parent / "keys.yaml", "gate", now=NOW)
    assert controls(set(theirs)) == {"evidence-authentic", "evidence-present"}
    with pytest.raises(StorageError, match="is larger than 8388608 bytes"):
        judged(run, "gate")


# ---- keys and ids of other kinds


class Other:
    """Signs as this package does not."""

    def __init__(self, curve: ec.EllipticCurve, algorithm: hashes.HashAlgorithm) -> None:
        self.private_key, self.algorithm = ec.generate_private_key(curve), algorithm
        self.public_key = self.private_key.public_key()
        self.key_id = key_id_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        return self.private_key.sign(data, ec.ECDSA(self.algorithm))


@pytest.mark.parametrize(
    ("curve", "algorithm", "good"),
    [
        (ec.SECP384R1(), hashes.SHA384(), True),
        (ec.SECP521R1(), hashes.SHA512(), True),
        (ec.SECP384R1(), hashes.SHA256(), False),
        (ec.SECP256R1(), hashes.SHA384(), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_both_take_the_algorithm_from_the_key(
    tmp_path: Path, curve: ec.EllipticCurve, algorithm: hashes.HashAlgorithm, good: bool
) -> None:
    signer: Any = Other(curve, algorithm)
    (tmp_path / "keys.yaml").write_text(entry_of(signer.public_key, name="k", valid_from=NOW - DAY))
    (tmp_path / "store").mkdir()
    run = Run(tmp_path / "store", signer, run=RUN_ID)
    whole(run)
    assert (judged(run) == set()) == good


def test_both_read_a_second_signature_that_was_made_of_the_first_and_the_links_to_it_break(run: Run) -> None:
    """Of (r, s) anybody makes (r, -s), and so another file of the same statement; Ed25519 has no such second one."""
    assert run.signer is not None
    if run.signer.public_key.__class__.__name__.startswith("Ed25519"):
        pytest.skip("there is none")
    whole(run)
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551

    def other(document: Any) -> None:
        first, second = decode_dss_signature(base64.b64decode(document["signatures"][0]["sig"]))
        document["signatures"][0]["sig"] = base64.b64encode(encode_dss_signature(first, order - second)).decode()

    rewrite(path_of(run, "gate"), edited(other))
    assert judged(run) == set()
    rewrite(path_of(run, "verify"), edited(other))
    assert judged(run) == {"evidence-linked: guard seal"}


def test_both_take_the_ids_of_a_run_as_they_are(run: Run) -> None:
    """Its subject's name has no escapes: they are for the names of what was examined."""
    odd = Run(run.root, run.signer, dag="back\\slash", run="\x1b[31m\u202e")
    whole(odd)
    assert judged(odd) == set()
    statement = json.loads(base64.b64decode(json.loads(path_of(odd, "gate").read_bytes())["payload"]))
    assert statement["subject"][0]["name"] == "run \x1b[31m\u202e of back\\slash"


OTHER_VARIANT = str(UUID(int=UUID(made_at(NOW + DAY)).int & ~(3 << 62)))  # of tomorrow, were it a UUID of version 7


@pytest.mark.parametrize(
    "attempt",
    ["zz", str(UUID(int=4 << 76 | 2 << 62)), OTHER_VARIANT, "ffffffff-ffff-7000-8000-000000000000"],
)
def test_both_know_no_time_of_an_id_that_has_none(run: Run, attempt: str) -> None:
    run.attest("gate", guard=GATE, attempt=attempt, subjects=SUBJECT)
    assert judged(run) == set()


def test_both_let_the_last_of_two_links_to_one_guard_count(run: Run) -> None:
    verify = run.attest("verify", subjects=SUBJECT)
    run.attest("gate", guard=GATE, linked=(Link("verify", -1, "00" * 32), Link("verify", -1, verify)))
    assert judged(run) == set()
    run.attest("gate", guard=GATE, number=2, linked=(Link("verify", -1, verify), Link("verify", -1, "00" * 32)))
    assert judged(run) == {"evidence-linked: guard gate"}


# ---- names and vectors


def test_the_other_verifier_names_files_as_ours_does() -> None:
    for text in ("", ".", "..", "a/b", "ü", "run+1:2", "x" * 200, "x" * 201, "ü" * 67, "!", "~", "%", " ", "\n", "*"):
        assert other_verifier.part(text) == part_of(text)


def test_the_page_shows_names_as_they_are() -> None:
    for text in ("verify", "manual__2026-11-25T03:00:00+00:00", "a/b", ".hidden", "ü"):
        assert f"| `{text}` | `{part_of(text)}` |" in PAGE
    assert f"`{part_of('x' * 201)[135:]}`" in PAGE


@pytest.mark.parametrize("gate", ["", "verify"])
def test_both_say_the_same_of_the_vectors_in_their_place(tmp_path: Path, gate: str) -> None:
    folder = tmp_path / "train" / "manual__2026-11-25T03:00:00+00:00" / "verify"
    folder.mkdir(parents=True)
    name = "0.2.019abcde-0000-7000-8000-000000000000.json"
    assert f"`verify/{name}`" in PAGE
    shutil.copy(VECTORS / "test-result.ed25519.json", folder / name)
    shutil.copy(VECTORS / "test-result.p256.json", folder / "1.2.019abcde-0000-7000-8000-000000000001.json")
    found = agreed(tmp_path, "train", "manual__2026-11-25T03:00:00+00:00", VECTORS / "trusted-keys.yaml", gate)
    if not gate:
        assert found == {"evidence-present: release gate"}
        return
    assert {item for item in found if "artifact" not in item} == {  # the guards before were never written
        "evidence-present: guard before",
        "evidence-present: guard mapped.task[0]",
        "evidence-linked: guard verify[0]",
        "evidence-linked: guard verify[1]",
    }


@pytest.mark.parametrize("name", ["test-result.ed25519.json", "test-result.p256.json", "verification-summary.json"])
def test_the_other_verifier_opens_the_vectors(name: str) -> None:
    keys = other_verifier.trusted(VECTORS / "trusted-keys.yaml")
    data = (VECTORS / name).read_bytes()
    statement, _ = other_verifier.opened(data, keys)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    with pytest.raises(ValueError, match=r"^$"):
        other_verifier.opened(data + b"\n", keys)


def test_the_trusted_keys_of_the_vectors_are_read_by_both() -> None:
    ours = TrustedKeys.load(VECTORS / "trusted-keys.yaml")
    assert set(ours.keys) == set(other_verifier.trusted(VECTORS / "trusted-keys.yaml"))


def test_the_worked_example_of_the_page_is_that_of_the_vector() -> None:
    data = (VECTORS / "test-result.ed25519.json").read_bytes()
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"])
    signed = pae(payload)
    (signature,) = envelope["signatures"]
    shown = "".join(line[:47] for line in commands("44 53")).replace(" ", "")
    assert signed.startswith(bytes.fromhex(shown))
    assert [line[49:] for line in commands("44 53")] == [signed[at : at + 16].decode() for at in range(0, 64, 16)]
    half = base64.b64decode(signature["sig"]).hex()
    for text in (hashlib.sha256(signed).hexdigest(), half[:64], half[64:], signature["keyid"], hashlib.sha256(data).hexdigest()):
        assert f"| `{text}` |" in PAGE
    assert json.loads(payload)["subject"][0]["digest"]["sha256"] in PAGE
    sizes = " ".join(PAGE.split())
    assert f"a file of {len(data):,} bytes, its payload {len(payload):,}, and what is signed {len(signed):,}" in sizes


# ---- public tools alone


def tools(*names: str) -> None:
    if absent := [name for name in names if shutil.which(name) is None]:
        missing(f"{', '.join(absent)}: not installed (apt-get install {' '.join(absent)}, or tests/install-servers.sh as root)")


def with_key(folder: Path, name: str, key: int) -> None:
    shutil.copy(VECTORS / name, folder / "envelope.json")
    (folder / "key.pem").write_text(yaml.safe_load((VECTORS / "trusted-keys.yaml").read_text())[key]["public_key"])


@pytest.mark.parametrize(("name", "key"), [("test-result.ed25519.json", 0), ("test-result.p256.json", 1)])
def test_the_commands_of_the_page_verify_an_envelope(tmp_path: Path, name: str, key: int) -> None:
    tools("openssl", "jq")
    lines = commands("jq -rj")
    with_key(tmp_path, name, key)
    done = shell("\n".join([*lines[:3], lines[3 + key]]), tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "payload.json").read_bytes())["_type"] == "https://in-toto.io/Statement/v1"
    (tmp_path / "payload.json").write_bytes((tmp_path / "payload.json").read_bytes() + b" ")
    assert shell("\n".join([lines[1], lines[3 + key]]), tmp_path).returncode != 0


@pytest.mark.parametrize(("name", "key"), [("test-result.ed25519.json", 0), ("test-result.p256.json", 1)])
def test_the_python_of_the_page_verifies_an_envelope(tmp_path: Path, name: str, key: int) -> None:
    with_key(tmp_path, name, key)
    code = "\n".join(commands("import hashlib", "py"))
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=True).stdout == "WARNED\n"
    with_key(tmp_path, name, 1 - key)
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "VerificationError" in done.stderr


def test_the_manifest_command_of_the_page_verifies_the_vector(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("model_signing")
    if not program.exists():
        missing("model_signing is not installed (pip install model-signing)")
    shutil.copytree(VECTORS / "artifact", tmp_path / "artifact")
    shutil.copy(VECTORS / "artifact.bundle.json", tmp_path)
    with_key(tmp_path, "test-result.p256.json", 1)
    (line,) = commands("model_signing")
    run = [str(program), *line.split()[1:]]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (tmp_path / "artifact" / "model.bin").write_bytes(b"other")
    assert subprocess.run(run, cwd=tmp_path, capture_output=True, check=False).returncode != 0


def awkward(root: Path) -> None:
    names = ("a.b", "a/b", "a-c", "Ü", "-n", "two words", "back\\slash", "line\nbreak", "re\rturn", 'quote"', ".git/x", "z/z/z/z")
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "empty folder").mkdir()


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
def test_the_shell_pipeline_of_the_page_gives_the_digest_of_a_tree(tmp_path: Path, algorithm: str) -> None:
    program = {"blake3": "b3sum"}.get(algorithm, f"{algorithm}sum")
    tools(program)
    (line,) = commands("find .")
    if algorithm == "blake3":  # older releases write a carriage return as it is; the lines are what the page says, not the tool
        tree = VECTORS / "artifact"
    else:
        tree = tmp_path / "tree"
        tree.mkdir()
        awkward(tree)
    manifest, problems = take_stock(open_store(tree), algorithm)
    assert manifest is not None, problems
    done = shell(line.replace("sha256sum", program), tree)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == manifest.digest.rpartition(":")[2]


def test_the_shell_pipeline_gives_what_the_page_says_of_the_vectors() -> None:
    tools("sha256sum")
    (line,) = commands("find .")
    digest = shell(line, VECTORS / "artifact").stdout.split()[0]
    assert f"`{digest}`" in PAGE
    assert json.loads((VECTORS / "expected.json").read_text())["artifact"]["digest"] == f"tree:sha256:{digest}"


def test_the_other_verifier_imports_nothing_of_the_package() -> None:
    text = Path(other_verifier.__file__).read_text(encoding="utf-8")
    imported = re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)
    assert set(imported) - set(sys.stdlib_module_names) == {"cryptography", "yaml"}
