"""Other people's code reads what is written here: securesystemslib the envelopes, in-toto's protocol buffers the statements."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory, timestamp_pb2
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.predicates.vsa.v1 import vsa_pb2
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.resource_descriptor import ResourceDescriptor
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from airflow_pipesec.attestation import PAYLOAD_TYPE, RUN_EXTENSION, Attestation, seal, statement, unseal
from airflow_pipesec.documents import canonical
from airflow_pipesec.errors import EvidenceError
from airflow_pipesec.signing import LocalSigner
from tests.fuzz_evidence import ED25519, P256, PLAIN, TRUSTED, T, attestation, summary

BOTH = pytest.mark.parametrize("signer", [ED25519, P256], ids=["ed25519", "p256"])
ATTESTED = pytest.mark.parametrize("attested", [attestation(), PLAIN], ids=["everything", "little"])


def their_key(signer: LocalSigner) -> SSlibKey:
    """The key as securesystemslib has it, under our id: by itself it would give it another, and ids are only names."""
    return SSlibKey.from_crypto(signer.public_key, keyid=signer.key_id)


# ---- securesystemslib


@BOTH
def test_securesystemslib_verifies_our_envelopes(signer: LocalSigner) -> None:
    envelope = seal(statement(attestation()), signer)
    theirs = Envelope.from_dict(json.loads(envelope))
    key = their_key(signer)
    assert theirs.verify([key], 1) == {signer.key_id: key}
    assert theirs.payload == canonical(statement(attestation()))
    assert theirs.payload_type == PAYLOAD_TYPE
    assert canonical(theirs.to_dict()) == envelope
    other = P256 if signer is ED25519 else ED25519
    with pytest.raises(VerificationError):
        theirs.verify([SSlibKey.from_crypto(other.public_key, keyid=signer.key_id)], 1)
    theirs.payload = theirs.payload.replace(b"PASSED", b"FAILED")
    with pytest.raises(VerificationError):
        theirs.verify([key], 1)


@BOTH
def test_an_envelope_of_securesystemslib_is_read_in_our_form_alone(signer: LocalSigner) -> None:
    """Its signatures are believed. Its JSON is not ours, so its file is refused as it is, and read once it is written our way."""
    payload = canonical(statement(attestation()))
    theirs = Envelope(payload, PAYLOAD_TYPE, {})
    theirs.sign(CryptoSigner(signer.private_key, their_key(signer)))
    for text in (
        json.dumps(theirs.to_dict()),
        json.dumps(theirs.to_dict(), indent=2),
        json.dumps(theirs.to_dict(), sort_keys=True),
    ):
        with pytest.raises(EvidenceError, match="not in the one form"):
            unseal(text.encode(), TRUSTED)
    assert unseal(canonical(theirs.to_dict()), TRUSTED).document == statement(attestation())


@BOTH
def test_a_statement_in_another_form_is_refused_whoever_signed_it(signer: LocalSigner) -> None:
    theirs = Envelope(json.dumps(statement(attestation())).encode(), PAYLOAD_TYPE, {})
    theirs.sign(CryptoSigner(signer.private_key, their_key(signer)))
    with pytest.raises(EvidenceError, match="the statement is not in the one form"):
        unseal(canonical(theirs.to_dict()), TRUSTED)


def test_their_own_name_of_a_key_is_not_ours() -> None:
    """securesystemslib hashes a JSON form of a key: an envelope that names it so is by nobody who is known here."""
    key = SSlibKey.from_crypto(P256.public_key)
    assert key.keyid != P256.key_id
    theirs = Envelope(canonical(statement(attestation())), PAYLOAD_TYPE, {})
    theirs.sign(CryptoSigner(P256.private_key, key))
    with pytest.raises(EvidenceError, match="not trusted"):
        unseal(canonical(theirs.to_dict()), TRUSTED)


def test_openssl_and_a_shell_verify_our_envelopes(tmp_path: Path) -> None:
    """What docs/evidence.md may tell who has nothing else: the bytes that DSSE signs, and OpenSSL."""
    envelope = json.loads(seal(statement(attestation()), P256))
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])
    kind = envelope["payloadType"].encode()
    (tmp_path / "signed").write_bytes(b" ".join((b"DSSEv1", b"%d" % len(kind), kind, b"%d" % len(payload), payload)))
    (tmp_path / "sig").write_bytes(signature)
    (entry,) = (key for key in TRUSTED if key.key_id == envelope["signatures"][0]["keyid"])
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = entry.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert hashlib.sha256(pem).hexdigest() == entry.key_id
    (tmp_path / "pub.pem").write_bytes(pem)
    command = ["openssl", "dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig", "signed"]
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    (tmp_path / "signed").write_bytes(payload)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode == 1


# ---- in-toto


def parsed(document: dict[str, Any]) -> Statement:
    """A statement as in-toto's own code reads it, which refuses members that it does not know."""
    read = Statement.copy_from_pb(json_format.ParseDict(document, statement_pb2.Statement()))
    read.validate()
    return read


@ATTESTED
def test_in_toto_reads_our_statements(attested: Attestation) -> None:
    document = statement(attested)
    read = parsed(document)
    assert json_format.MessageToDict(read.pb) == document
    assert [item.name for item in read.pb.subject][1:] == [name for name, _ in attested.subjects]
    for item in read.pb.subject:
        ResourceDescriptor.copy_from_pb(item).validate()
        assert item.digest


def test_in_toto_refuses_what_is_no_statement() -> None:
    for change in ({"_type": "https://in-toto.io/Statement/v0.1"}, {"subject": []}, {"predicateType": ""}, {"predicate": {}}):
        with pytest.raises(ValueError, match=r"type|subject|Predicate"):
            parsed(statement(attestation()) | change)


@ATTESTED
def test_in_toto_reads_our_test_results_and_ignores_the_extension(attested: Attestation) -> None:
    predicate = statement(attested)["predicate"]
    with pytest.raises(json_format.ParseError, match=RUN_EXTENSION):
        json_format.ParseDict(predicate, test_result_pb2.TestResult())
    read = json_format.ParseDict(predicate, test_result_pb2.TestResult(), ignore_unknown_fields=True)
    known = {name: value for name, value in predicate.items() if name != RUN_EXTENSION}
    assert json_format.ParseDict(known, test_result_pb2.TestResult()) == read, "nothing but the extension is unknown"
    assert read.result in ("PASSED", "WARNED", "FAILED")
    assert (read.result == "FAILED") == (attested.outcome != "PASSED")
    assert tuple(map(tuple, (read.passed_tests, read.warned_tests, read.failed_tests))) == attested.tests
    policy, package = read.configuration
    for item in (policy, package):
        ResourceDescriptor.copy_from_pb(item).validate()
    assert json.loads(policy.content) == (attested.policy or {})
    assert policy.digest == {"sha256": hashlib.sha256(policy.content).hexdigest()}
    assert package.uri == f"pkg:pypi/airflow-pipesec@{attested.version}"


def test_the_members_of_a_test_result_that_the_specification_demands_are_there() -> None:
    """https://github.com/in-toto/attestation/blob/main/spec/predicates/test-result.md: result and configuration."""
    predicate = statement(PLAIN)["predicate"]
    assert {"result", "configuration"} <= predicate.keys()
    assert predicate.keys() - {RUN_EXTENSION} <= {"result", "configuration", "url", "passedTests", "warnedTests", "failedTests"}
    assert not set(RUN_EXTENSION) & set(".$"), "names that some databases cannot be asked for"


# ---- SLSA


def their_summary() -> Any:
    """in-toto's message for a SLSA VSA v1. Up to version 0.9.3 it has one level; the specification and in-toto's later source, a
    list: https://github.com/in-toto/attestation/commit/abb6190. The rest is as it was published.
    """
    file = descriptor_pb2.FileDescriptorProto.FromString(vsa_pb2.DESCRIPTOR.serialized_pb)
    (message,) = file.message_type
    (levels,) = (field for field in message.field if field.name == "verified_levels")
    levels.label = descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{message.name}"))()


@pytest.mark.parametrize("passed", [True, False])
def test_in_toto_understands_all_of_our_verification_summary(passed: bool) -> None:
    document = summary(passed)
    parsed(document)
    read = json_format.ParseDict(document["predicate"], their_summary())  # refuses members that it does not know
    assert read.verification_result == ("PASSED" if passed else "FAILED")
    assert list(read.verified_levels) == (["PIPESEC_RELEASE_GATE"] if passed else ["FAILED"])
    assert read.time_verified.ToDatetime(UTC) == T
    assert read.resource_uri == document["subject"][0]["name"]
    assert (read.policy.uri, dict(read.policy.digest)) == (
        "urn:airflow-pipesec:policy",
        document["predicate"]["policy"]["digest"],
    )
    (used,) = read.input_attestations
    assert dict(used.digest) == {"sha256": "ab" * 32}
    assert (read.verifier.id, read.slsa_version) == ("https://pypi.org/project/airflow-pipesec/#release-gate", "1.0")
    with pytest.raises(json_format.ParseError, match="more"):
        json_format.ParseDict(document["predicate"] | {"more": 1}, their_summary())


@pytest.mark.parametrize("passed", [True, False])
def test_a_verification_summary_is_as_slsa_specifies_it(passed: bool) -> None:
    """https://slsa.dev/spec/v1.0/verification_summary."""
    document = summary(passed)
    predicate = document["predicate"]
    required = {"verifier", "timeVerified", "resourceUri", "policy", "verificationResult", "verifiedLevels"}
    optional = {"inputAttestations", "dependencyLevels", "slsaVersion"}
    assert document["predicateType"] == "https://slsa.dev/verification_summary/v1"
    assert required <= predicate.keys() <= required | optional
    assert predicate["verifier"].keys() == {"id"}
    assert predicate["policy"]["uri"]
    assert all(item["digest"] for item in predicate["inputAttestations"])
    assert predicate["verificationResult"] in ("PASSED", "FAILED")
    (level,) = predicate["verifiedLevels"]
    assert (level == "FAILED") == (not passed), "FAILED where the policy was not satisfied"
    assert not level.startswith("SLSA_"), "no level of SLSA's own is claimed"
    assert datetime.fromisoformat(predicate["timeVerified"]) == T
    assert predicate["timeVerified"].endswith("Z")


@BOTH
def test_securesystemslib_verifies_our_verification_summaries(signer: LocalSigner) -> None:
    theirs = Envelope.from_dict(json.loads(seal(summary(), signer)))
    assert theirs.verify([their_key(signer)], 1)
    assert json.loads(theirs.payload)["predicate"]["verificationResult"] == "PASSED"
