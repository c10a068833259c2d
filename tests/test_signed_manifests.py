"""Signed manifests: what guards write is signed, and what they verify is signed by a trusted key, unless the author says so."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from airflow_pipesec.bundle import open_manifest, sign_manifest, unverified_manifest
from airflow_pipesec.checks.integrity import verify, write_manifest
from airflow_pipesec.errors import ConfigurationError, EvidenceError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.operators import HashManifestOperator, HashVerificationOperator
from airflow_pipesec.sensors import HashVerificationSensor
from airflow_pipesec.signing import LocalSigner, TrustedKeys, new_private_key
from airflow_pipesec.storage import LocalStore
from tests.runner import RunTask
from tests.test_bundle import NOW, bad, build, check, manifest_of, trust

SIGNER = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
ED25519 = LocalSigner(ed25519.Ed25519PrivateKey.generate())
BELIEVED = trust(SIGNER.public_key)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return build(tmp_path / "model", {"a": b"1", "b/c": b"2"})


def record(root: Path, manifest: Path, signer: LocalSigner | None = SIGNER, **options: str) -> list[Finding]:
    return list(write_manifest(LocalStore(root), LocalStore(manifest), signer=signer, **options))  # type: ignore[arg-type] # algorithm only


# ---- checks


def test_a_signed_manifest_names_its_key_when_it_is_written_and_when_it_is_read(root: Path, tmp_path: Path) -> None:
    (written,) = [finding for finding in record(root, tmp_path / "m") if finding.control.id == "manifest-intact"]
    assert written.message.endswith(f"; signed by key {SIGNER.key_id[:16]}…")
    findings = {finding.control.id: finding for finding in check(root, tmp_path / "m", BELIEVED)}
    assert findings["manifest-signed"].message == f"signed by key key 1 ({SIGNER.key_id[:16]}…)"
    assert findings["manifest-signed"].status is Status.PASS
    digest = manifest_of().tree_digest
    assert (
        written.subject.digest
        == findings["manifest-intact"].subject.digest
        == findings["digest-matches"].subject.digest
        == digest
    )


def test_the_digest_of_a_single_file_is_its_own(tmp_path: Path) -> None:
    import hashlib

    file = build(tmp_path, {"model.bin": b"w"}) / "model.bin"
    (written,) = [finding for finding in record(file, tmp_path / "m") if finding.control.id == "manifest-intact"]
    findings = {finding.control.id: finding for finding in check(file, tmp_path / "m", BELIEVED)}
    digest = f"sha256:{hashlib.sha256(b'w').hexdigest()}"
    assert (
        written.subject.digest
        == findings["manifest-intact"].subject.digest
        == findings["digest-matches"].subject.digest
        == digest
    )
    (whole,) = [f for f in verify(LocalStore(file), expected=digest) if f.control.id == "digest-matches"]
    assert (whole.status, whole.subject.digest) == (Status.PASS, digest)


@pytest.mark.parametrize(
    ("trusted", "reason"),
    [
        (None, "no keys are configured to verify it with. Give those that you trust: [pipesec] trusted_keys"),
        (trust(ec.generate_private_key(ec.SECP256R1()).public_key()), "signed by a key that is not trusted"),
        (trust(SIGNER.public_key, more="  revoked: stolen\n"), "key key 1 is revoked (stolen)"),
        (trust(SIGNER.public_key, valid_until=NOW - timedelta(hours=1)), "was valid until 2026-11-24 23:00:00 UTC"),
        (trust(SIGNER.public_key, valid_from=NOW + timedelta(hours=1)), "is valid from 2026-11-25 01:00:00 UTC on"),
    ],
    ids=["no keys", "unknown", "revoked", "expired", "not yet"],
)
@pytest.mark.parametrize("allow_unsigned", [False, True])
def test_a_signature_that_is_not_believed_fails_and_nothing_is_compared(
    root: Path, tmp_path: Path, trusted: TrustedKeys | None, reason: str, allow_unsigned: bool
) -> None:
    record(root, tmp_path / "m")
    (finding,) = check(root, tmp_path / "m", trusted, allow_unsigned=allow_unsigned)
    assert (finding.control.id, finding.status) == ("manifest-signed", Status.FAIL)
    assert reason in finding.message


def test_a_manifest_that_is_not_signed_fails_where_keys_are_given_unless_it_is_let_be(root: Path, tmp_path: Path) -> None:
    record(root, tmp_path / "m", signer=None)
    (finding,) = check(root, tmp_path / "m", BELIEVED)
    assert (finding.control.id, finding.status, finding.message) == ("manifest-signed", Status.FAIL, "is not signed")
    assert not bad(check(root, tmp_path / "m", None))
    for trusted in (None, BELIEVED):
        findings = check(root, tmp_path / "m", trusted, allow_unsigned=True)
        assert not bad(findings)
        assert [f.status for f in findings if f.control.id == "manifest-signed"] == [Status.SKIP]


def test_the_signature_of_one_manifest_does_not_carry_another(root: Path, tmp_path: Path) -> None:
    import json

    record(root, tmp_path / "m")
    other = json.loads(sign_manifest(manifest_of({"a": b"x"}), SIGNER))
    mixed = json.loads((tmp_path / "m").read_bytes())
    mixed["dsseEnvelope"]["payload"] = other["dsseEnvelope"]["payload"]
    (tmp_path / "m").write_text(json.dumps(mixed))
    assert bad(check(root, tmp_path / "m", BELIEVED)) == {"manifest-signed": 1}


def test_no_manifest_and_no_json_are_no_question_of_keys(root: Path, tmp_path: Path) -> None:
    assert bad(check(root, tmp_path / "nowhere", BELIEVED)) == {"manifest-intact": 1}
    (tmp_path / "m").write_bytes(b"{")
    assert bad(check(root, tmp_path / "m", BELIEVED)) == {"manifest-intact": 1}


def test_trusted_keys_are_for_manifests_only(root: Path) -> None:
    with pytest.raises(ConfigurationError, match="expected= is not signed"):
        list(verify(LocalStore(root), expected="0" * 64, trusted=BELIEVED))


@pytest.mark.parametrize("value", ["False", None, 1])
def test_only_true_and_false_allow_unsigned_manifests(root: Path, tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigurationError, match="allow_unsigned is a"):
        check(root, tmp_path / "m", None, allow_unsigned=value)


def test_a_key_or_an_algorithm_that_the_format_does_not_know_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    for signer, algorithm, reason in ((ED25519, "sha256", "knows no Ed25519"), (SIGNER, "sha512", "knows no sha512")):
        with pytest.raises(ConfigurationError, match=reason):
            record(tmp_path / "nowhere", tmp_path / "m", signer, algorithm=algorithm)
    with pytest.raises(ConfigurationError, match="not ECDSA P-256"):
        sign_manifest(manifest_of(), LocalSigner(ec.generate_private_key(ec.SECP384R1())))


def test_which_algorithm_verifies_is_the_trusted_keys_affair(tmp_path: Path) -> None:
    import base64
    import json

    from airflow_pipesec.attestation import pae

    bundle = json.loads(sign_manifest(manifest_of(), SIGNER))
    signature = ED25519.sign(pae(manifest_of().to_json()))
    bundle["verificationMaterial"]["publicKey"]["hint"] = ED25519.key_id
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    with pytest.raises(EvidenceError, match="knows no Ed25519"):
        open_manifest(json.dumps(bundle).encode(), trust(ED25519.public_key, SIGNER.public_key), now=NOW)
    bundle["verificationMaterial"]["publicKey"]["hint"] = SIGNER.key_id
    with pytest.raises(EvidenceError, match="not that of key key 2"):
        open_manifest(json.dumps(bundle).encode(), trust(ED25519.public_key, SIGNER.public_key), now=NOW)


def test_a_manifest_replaces_a_signed_one_and_no_other_file_of_the_artifact(root: Path) -> None:
    for signer in (SIGNER, None, SIGNER):
        assert not bad(record(root, root / "manifest.sig", signer))
    with pytest.raises(ConfigurationError, match="belongs to the artifact"):
        record(root, root / "a")


# ---- guards


def test_guards_sign_and_demand_the_signature(root: Path, tmp_path: Path, run_task: RunTask) -> None:
    places = {"root": str(root), "manifest": str(tmp_path / "m.json")}
    assert run_task(HashManifestOperator(task_id="m", **places)).state == "success"
    with pytest.raises(EvidenceError, match="no keys are configured"):
        open_manifest((tmp_path / "m.json").read_bytes(), None, now=NOW)
    assert "manifest-signed" in run_task(HashVerificationOperator(task_id="v", **places)).summary["controls"]
    assert run_task(HashVerificationSensor(task_id="s", **places)).state == "success"
    record(root, tmp_path / "m.json")  # by a key that is not trusted
    for options in ({}, {"allow_unsigned": True}):
        ran = run_task(HashVerificationOperator(task_id="w", **places, **options))
        assert ran.state == "failed"
        assert ran.summary["blocking_controls"] == ["manifest-signed"]


def test_an_unsigned_manifest_has_to_be_asked_for_twice(root: Path, tmp_path: Path, run_task: RunTask) -> None:
    places = {"root": str(root), "manifest": str(tmp_path / "m.json")}
    assert run_task(HashManifestOperator(task_id="m", sign=False, **places)).state == "success"
    assert Manifest.from_json((tmp_path / "m.json").read_bytes()) == manifest_of()
    assert run_task(HashVerificationOperator(task_id="v", **places)).summary["blocking_controls"] == ["manifest-signed"]
    assert run_task(HashVerificationOperator(task_id="w", allow_unsigned=True, **places)).state == "success"


def test_what_nobody_can_sign_or_verify_is_an_error_with_its_remedy(
    root: Path, tmp_path: Path, run_task: RunTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"root": str(root), "manifest": str(tmp_path / "m.json")}
    monkeypatch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", "dangerously-unsigned")
    ran = run_task(HashManifestOperator(task_id="m", **places))
    assert ran.state == "failed"
    assert "[pipesec] signing_key" in str(ran.error)
    assert "sign=False" in str(ran.error)
    assert run_task(HashManifestOperator(task_id="n", sign=False, **places)).state == "success"
    new_private_key(tmp_path / "ed25519.pem", "ed25519")
    monkeypatch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", f"file:{tmp_path}/ed25519.pem")
    ran = run_task(HashManifestOperator(task_id="o", **places))
    assert "knows no Ed25519" in str(ran.error)
    assert "sign=False" in str(ran.error)
    monkeypatch.setenv("AIRFLOW__PIPESEC__TRUSTED_KEYS", "")
    ran = run_task(HashVerificationOperator(task_id="v", **places))
    assert ran.state == "failed"
    assert "[pipesec] trusted_keys" in str(ran.error)
    assert "allow_unsigned=True" in str(ran.error)
    assert run_task(HashVerificationOperator(task_id="w", allow_unsigned=True, **places)).state == "success"
    expected = unverified_manifest((tmp_path / "m.json").read_bytes()).digest
    assert run_task(HashVerificationOperator(task_id="x", root=str(root), expected=expected)).state == "success"


@pytest.mark.parametrize("value", ["{{ false }}", "False", 0, None])
def test_only_true_and_false_decide_about_signing(root: Path, tmp_path: Path, run_task: RunTask, value: Any) -> None:
    places = {"root": str(root), "manifest": str(tmp_path / "m.json")}
    for guard in (
        HashManifestOperator(task_id="m", sign=value, **places),
        HashVerificationOperator(task_id="v", allow_unsigned=value, **places),
    ):
        ran = run_task(guard)
        assert ran.state == "failed"
        assert "Give True or False; it is not a template" in str(ran.error)
