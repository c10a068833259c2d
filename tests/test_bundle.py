"""Bundles: another tool verifies what is signed here, its signatures verify here, and what it wrongly accepts is refused."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import pae
from airflow_pipesec.bundle import open_manifest, sign_manifest, unverified_manifest
from airflow_pipesec.checks.integrity import verify, write_manifest
from airflow_pipesec.errors import EvidenceError, ManifestError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.manifest import Manifest, Resource
from airflow_pipesec.signing import LocalSigner, PublicKey, TrustedKeys, entry_of, key_id_of
from airflow_pipesec.storage import LocalStore

NOW = datetime(2026, 11, 25, tzinfo=UTC)
VECTORS = Path(__file__).parent / "vectors/oms-v1.0"
CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
HASHES = {"secp256r1": hashes.SHA256(), "secp384r1": hashes.SHA384(), "secp521r1": hashes.SHA512()}
SHAPES: dict[str, dict[str, bytes]] = {
    "flat": {"weights.bin": b"w" * 70_000, "config.json": b"{}"},
    "nested": {"a/b": b"1", "a-b": b"2", "a/b.c/d": b"3", "z": b"4"},
    "unicode": {"ünïcode/ñ": b"1", "模型.bin": b"2", "with space": b"3", "\U0001f600": b"4", "quo\"te\\d'": b"5"},
    "single file": {".": b"weights"},
}


class Keys(NamedTuple):
    """A key pair in files, as the other tool wants it, and as this package does."""

    private: ec.EllipticCurvePrivateKey
    private_file: Path
    public_file: Path
    trusted: TrustedKeys

    @property
    def signer(self) -> LocalSigner:
        return LocalSigner(self.private)


def keys_in(folder: Path, curve: str = "P-256") -> Keys:
    folder.mkdir(exist_ok=True)
    private = ec.generate_private_key(CURVES[curve])
    (folder / "key").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "key.pub").write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Keys(private, folder / "key", folder / "key.pub", trust(private.public_key()))


def trust(*keys: PublicKey, more: str = "", **validity: datetime) -> TrustedKeys:
    times = {"valid_from": NOW - timedelta(days=1), **validity}
    entries = [entry_of(key, name=f"key {number}", **times) + more for number, key in enumerate(keys, 1)]
    return TrustedKeys.parse("".join(entries).encode())


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return keys_in(tmp_path / "keys")


def build(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def check(root: Path, manifest: Path, trusted: TrustedKeys | None, **options: Any) -> list[Finding]:
    return list(verify(LocalStore(root), manifest=LocalStore(manifest), trusted=trusted, now=NOW, **options))


def bad(findings: list[Finding]) -> Counter[str]:
    assert findings, "silence"
    return Counter(finding.control.id for finding in findings if finding.status in (Status.FAIL, Status.ERROR))


def they_sign(root: Path, signature: Path, keys: Keys, *, shards: bool = False, algorithm: Any = "sha256") -> None:
    signing = pytest.importorskip("model_signing.signing")
    from model_signing import hashing

    config = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=True)
    if shards:
        config.use_shard_serialization(hashing_algorithm=algorithm)
    else:
        config.use_file_serialization(hashing_algorithm=algorithm)
    signing.Config().use_elliptic_key_signer(private_key=keys.private_file).set_hashing_config(config).sign(root, signature)


def they_verify(root: Path, signature: Path, keys: Keys, *, shards: bool = False) -> None:
    verifying = pytest.importorskip("model_signing.verifying")
    from model_signing import hashing

    config = verifying.Config().use_elliptic_key_verifier(public_key=keys.public_file)
    if shards:  # which it would find out by itself, but for a number that it reads as another type
        config.set_hashing_config(hashing.Config().use_shard_serialization())
    config.verify(root, signature)


def manifest_of(names: dict[str, bytes] | None = None) -> Manifest:
    import hashlib

    files = names or {"a": b"1", "b/c": b"2"}
    return Manifest.of("model", "sha256", [Resource(name, hashlib.sha256(data).hexdigest()) for name, data in files.items()])


def sealed(payload: bytes, private: ec.EllipticCurvePrivateKey, to_sign: bytes | None = None) -> dict[str, Any]:
    """A bundle that is right in everything that is not the payload's affair."""
    signed = pae(payload) if to_sign is None else to_sign
    signature = private.sign(signed, ec.ECDSA(HASHES[private.curve.name]))
    return {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": key_id_of(private.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }


# ---- both ways


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_is_signed_here_their_tool_verifies(tmp_path: Path, keys: Keys, shape: str, algorithm: str) -> None:
    root, signature = build(tmp_path / "model", SHAPES[shape]), tmp_path / "model.sig"
    assert not bad(list(write_manifest(LocalStore(root), LocalStore(signature), signer=keys.signer, algorithm=algorithm)))
    they_verify(root, signature, keys)
    assert not bad(check(root, signature, keys.trusted))
    (root / sorted(SHAPES[shape])[0]).write_bytes(b"tampered")
    with pytest.raises(ValueError, match="mismatch"):
        they_verify(root, signature, keys)
    assert bad(check(root, signature, keys.trusted)) == {"digest-matches": 1}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_their_tool_signs_is_verified_here(tmp_path: Path, shape: str, curve: str) -> None:
    keys = keys_in(tmp_path / "keys", curve)
    root = build(tmp_path / "model", SHAPES[shape])
    signature = tmp_path / "model.sig" if shape == "single file" else root / "model.sig"
    they_sign(root, signature, keys)
    findings = check(root, signature, keys.trusted)
    assert not bad(findings)
    (signed,) = [finding for finding in findings if finding.control.id == "manifest-signed"]
    assert signed.message == f"signed by key key 1 ({key_id_of(keys.private.public_key())[:16]}…)"
    (root / sorted(SHAPES[shape])[0]).write_bytes(b"tampered")
    assert bad(check(root, signature, keys.trusted)) == {"digest-matches": 1}


def test_their_blake3_is_verified_here_and_their_blake2_refused(tmp_path: Path, keys: Keys) -> None:
    root = build(tmp_path / "model", SHAPES["nested"])
    they_sign(root, tmp_path / "m.sig", keys, algorithm="blake3")
    assert not bad(check(root, tmp_path / "m.sig", keys.trusted))
    they_sign(root, tmp_path / "m.sig", keys, algorithm="blake2")
    (finding,) = check(root, tmp_path / "m.sig", keys.trusted)
    assert (finding.control.id, finding.status) == ("manifest-intact", Status.FAIL)
    assert "algorithm is none of sha256, blake3" in finding.message


def test_the_two_command_lines_agree(tmp_path: Path, keys: Keys, capsys: pytest.CaptureFixture[str]) -> None:
    import subprocess
    import sys

    from airflow_pipesec.cli import main

    pytest.importorskip("model_signing")
    root = build(tmp_path / "model", SHAPES["nested"])
    keys.private_file.chmod(0o600)
    (tmp_path / "trusted.yaml").write_text(entry_of(keys.private.public_key(), name="k", valid_from=NOW - timedelta(days=9999)))
    sign = ["sign", "key", str(root), "--private_key", str(keys.private_file), "--signature", str(root / "theirs.sig")]
    subprocess.run([sys.executable, "-m", "model_signing", *sign], check=True, capture_output=True)
    arguments = ["verify", str(root), "--manifest", str(root / "theirs.sig"), "--trusted-keys", str(tmp_path / "trusted.yaml")]
    assert main(arguments) == 0, capsys.readouterr()
    (root / "theirs.sig").unlink()
    assert main(["manifest", str(root), "-o", str(root / "ours.sig"), "--sign", f"file:{keys.private_file}"]) == 0
    back = ["verify", "key", str(root), "--public_key", str(keys.public_file), "--signature", str(root / "ours.sig")]
    subprocess.run([sys.executable, "-m", "model_signing", *back], check=True, capture_output=True)


def test_resources_in_the_specifications_order_and_a_file_under_its_own_name_are_read(tmp_path: Path, keys: Keys) -> None:
    # The specification orders by code point and names a single file; the reference implementation does neither.
    root = build(tmp_path / "model", {"a-b": b"1", "a/b": b"2"})
    document = json.loads(manifest_of({"a-b": b"1", "a/b": b"2"}).to_json())
    document["predicate"]["resources"].reverse()
    assert [item["name"] for item in document["predicate"]["resources"]] == ["a-b", "a/b"]
    document["subject"][0]["digest"]["sha256"] = root_digest(document)
    write_bundle(tmp_path / "m.sig", document, keys)
    assert not bad(check(root, tmp_path / "m.sig", keys.trusted))
    write_bundle(tmp_path / "f.sig", json.loads(manifest_of({"b": b"2"}).to_json()), keys)
    assert not bad(check(root / "a/b", tmp_path / "f.sig", keys.trusted))
    assert bad(check(root, tmp_path / "f.sig", keys.trusted)) == {"files-present": 1, "no-extra-files": 2, "digest-matches": 1}


def root_digest(document: dict[str, Any]) -> str:
    import hashlib

    return hashlib.sha256(b"".join(bytes.fromhex(item["digest"]) for item in document["predicate"]["resources"])).hexdigest()


def write_bundle(path: Path, document: dict[str, Any], keys: Keys) -> None:
    path.write_text(json.dumps(sealed(json.dumps(document).encode(), keys.private)))


# ---- the specification's vectors and schemas


def vector(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


@pytest.fixture(scope="module")
def vector_key() -> TrustedKeys:
    key = load_pem_public_key(vector("key.pub.pem"))
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return trust(key)


def test_the_valid_vector_signed_with_a_key_is_verified(vector_key: TrustedKeys) -> None:
    manifest, key = open_manifest(vector("valid/key.bundle.json"), vector_key, now=NOW)
    assert key is not None
    assert (key.algorithm, manifest.name) == ("ecdsa-p384", "model")
    assert [item.name for item in manifest.resources] == ["signme-1", "signme-2"]


@pytest.mark.parametrize("name", ["certificate", "sigstore"])
def test_valid_vectors_signed_with_certificates_are_refused_and_say_so(vector_key: TrustedKeys, name: str) -> None:
    with pytest.raises(EvidenceError, match="signed with a certificate"):
        open_manifest(vector(f"valid/{name}.bundle.json"), vector_key, now=NOW)


@pytest.mark.parametrize("path", sorted(VECTORS.glob("invalid*/*.json")), ids=lambda path: path.stem)
def test_each_invalid_vector_is_refused(vector_key: TrustedKeys, path: Path) -> None:
    with pytest.raises((EvidenceError, ManifestError)):
        open_manifest(path.read_bytes(), vector_key, now=NOW)
    with pytest.raises((EvidenceError, ManifestError)):
        unverified_manifest(path.read_bytes())


def validate(data: bytes) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    referencing = pytest.importorskip("referencing")
    documents = {path.name.partition(".")[0]: json.loads(path.read_bytes()) for path in VECTORS.glob("schemas/*.json")}
    resources = [(schema["$id"], referencing.Resource.from_contents(schema)) for schema in documents.values()]
    registry = referencing.Registry().with_resources(resources)
    bundle = json.loads(data)
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    jsonschema.Draft202012Validator(documents["bundle"], registry=registry).validate(bundle)
    jsonschema.Draft202012Validator(documents["statement"], registry=registry).validate(payload)


def test_what_is_signed_here_meets_the_specifications_schemas(keys: Keys) -> None:
    validate(vector("valid/key.bundle.json"))
    validate(sign_manifest(manifest_of(), keys.signer))
    pinned = Manifest.of("m", "blake3", [Resource("a", "0" * 64, "v1"), Resource(".git/b", "1" * 64)])
    validate(sign_manifest(pinned, keys.signer))
    assert open_manifest(sign_manifest(pinned, keys.signer), keys.trusted, now=NOW)[0] == pinned


# ---- what their tool wrongly accepts


def test_a_bundle_of_an_expired_certificate_is_refused(tmp_path: Path, keys: Keys) -> None:
    signing, verifying = pytest.importorskip("model_signing.signing"), pytest.importorskip("model_signing.verifying")
    pytest.importorskip("OpenSSL")
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expired")])
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign", "encipher_only"), False
    )
    certificate = (
        x509.CertificateBuilder(name, name, keys.private.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=800))
        .not_valid_after(datetime.now(UTC) - timedelta(days=400))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(digital_signature=True, key_cert_sign=True, decipher_only=False, **usage), critical=True)
        .sign(keys.private, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    root, signature = build(tmp_path / "model", SHAPES["flat"]), tmp_path / "m.sig"
    chain = {"certificate_chain": [tmp_path / "cert.pem"]}
    signing.Config().use_certificate_signer(
        private_key=keys.private_file, signing_certificate=tmp_path / "cert.pem", **chain
    ).sign(root, signature)
    verifying.Config().use_certificate_verifier(**chain).verify(root, signature)
    (finding,) = check(root, signature, keys.trusted)
    assert (finding.control.id, finding.status) == ("manifest-signed", Status.FAIL)
    assert "signed with a certificate" in finding.message


def test_a_signature_over_the_wrong_encoding_is_refused(tmp_path: Path, keys: Keys) -> None:
    legacy = pytest.importorskip("model_signing._signing.sign_sigstore_pb")
    root = build(tmp_path / "model", {"a": b"1", "b/c": b"2"})
    payload = manifest_of().to_json()
    (tmp_path / "m.sig").write_text(json.dumps(sealed(payload, keys.private, legacy.pae_compat(payload))))
    they_verify(root, tmp_path / "m.sig", keys)
    assert bad(check(root, tmp_path / "m.sig", keys.trusted)) == {"manifest-signed": 1}


def test_the_predicate_from_before_version_1_is_refused(tmp_path: Path, keys: Keys) -> None:
    root = build(tmp_path / "model", {"a": b"1"})
    (item,) = manifest_of({"a": b"1"}).resources
    subject = [{"name": "a", "digest": {"sha256": item.digest}}]
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicate": {"unused": "value"}}
    write_bundle(tmp_path / "m.sig", {**statement, "predicateType": "https://model_signing/Digests/v0.1"}, keys)
    they_verify(root, tmp_path / "m.sig", keys)
    assert bad(check(root, tmp_path / "m.sig", keys.trusted)) == {"manifest-intact": 1}


def test_with_shards_an_empty_file_could_be_added_so_they_are_refused(tmp_path: Path, keys: Keys) -> None:
    root, signature = build(tmp_path / "model", SHAPES["flat"]), tmp_path / "m.sig"
    they_sign(root, signature, keys, shards=True)
    (root / "__init__.py").write_bytes(b"")
    they_verify(root, signature, keys, shards=True)
    (finding,) = check(root, signature, keys.trusted)
    assert finding.status is Status.FAIL
    assert "not made from whole files" in finding.message


def test_what_lies_where_their_tool_does_not_look_was_not_recorded(tmp_path: Path, keys: Keys) -> None:
    root = build(tmp_path / "model", SHAPES["flat"])
    they_sign(root, root / "model.sig", keys)
    build(root, {".git/hooks/pre-commit": b"#!/bin/sh", ".gitignore": b"*", ".github/x": b""})
    they_verify(root, root / "model.sig", keys)
    assert bad(check(root, root / "model.sig", keys.trusted)) == {"no-extra-files": 3}
    (root / "model.sig").rename(tmp_path / "elsewhere.sig")
    build(root, {"model.sig": b"not the signature any more"})
    they_verify(root, tmp_path / "elsewhere.sig", keys)
    assert bad(check(root, tmp_path / "elsewhere.sig", keys.trusted)) == {"no-extra-files": 4}


# ---- one form only


def change_bundle(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(bundle: dict[str, Any]) -> None:
        *folders, last = path.split(".")
        part: Any = bundle
        for folder in folders:
            part = part[int(folder) if folder.isdigit() else folder]
        if value is ...:
            del part[last]
        else:
            part[last] = value(part[last]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("dsseEnvelope.signatures", lambda some: some * 2, "not just one signature"),
        ("dsseEnvelope.signatures", [], "not just one signature"),
        ("dsseEnvelope.signatures", {}, "not just one signature"),
        ("dsseEnvelope.signatures", ["x"], "signature is not an object"),
        ("dsseEnvelope.signatures.0.keyid", "0" * 64, "another key"),
        ("dsseEnvelope.signatures.0.cert", "x", "not just sig and keyid"),
        ("dsseEnvelope.signatures.0.sig", "", "not that of key"),
        ("dsseEnvelope.signatures.0.sig", None, "signature is not canonical base64"),
        ("dsseEnvelope.signatures.0.sig", "MAA=", "not that of key"),
        ("dsseEnvelope.payloadType", "application/json", "type is not application/vnd.in-toto"),
        ("dsseEnvelope.payload", lambda text: text + "\n", "payload is not canonical base64"),
        ("dsseEnvelope.payload", lambda text: text.rstrip("=") + " ==", "payload is not canonical base64"),
        ("dsseEnvelope.payload", lambda text: text.replace("a", "é"), "payload is not canonical base64"),
        ("dsseEnvelope.payload", "e30=", "not that of key"),
        ("dsseEnvelope.extra", 1, "envelope has not just"),
        ("dsseEnvelope", None, "envelope is not an object"),
        ("dsseEnvelope", ..., "bundle has not just"),
        ("messageSignature", {}, "bundle has not just"),
        ("mediaType", "application/vnd.dev.sigstore.bundle+json;version=0.2", "media type"),
        ("mediaType", ..., "bundle has not just"),
        ("verificationMaterial", [], "material is not an object"),
        ("verificationMaterial.publicKey", ..., "names no key"),
        ("verificationMaterial.publicKey", {}, "not just a hint"),
        ("verificationMaterial.publicKey.hint", None, "not just a hint"),
        ("verificationMaterial.publicKey.hint", "", "not trusted"),
        ("verificationMaterial.publicKey.hint", lambda hint: hint.upper(), "not trusted"),
        ("verificationMaterial.publicKey.hint", "0" * 64, "not trusted"),
        ("verificationMaterial.publicKey", {"rawBytes": "AA=="}, "not just a hint"),
        ("verificationMaterial.tlogEntries", [{}], "transparency log"),
        ("verificationMaterial.timestampVerificationData", {}, "transparency log"),
        ("verificationMaterial.certificate", {"rawBytes": "AA=="}, "certificate"),
    ],
)
def test_a_bundle_in_another_form_is_refused(keys: Keys, path: str, value: Any, reason: str) -> None:
    bundle = json.loads(sign_manifest(manifest_of(), keys.signer))
    change_bundle(path, value)(bundle)
    with pytest.raises(EvidenceError, match=reason):
        open_manifest(json.dumps(bundle).encode(), keys.trusted, now=NOW)


@pytest.mark.parametrize("keyid", [None, "", ..., "hint"])
def test_a_keyid_may_be_missing_or_empty_or_that_of_the_key(keys: Keys, keyid: Any) -> None:
    bundle = json.loads(sign_manifest(manifest_of(), keys.signer))
    change_bundle("dsseEnvelope.signatures.0.keyid", keys.signer.key_id if keyid == "hint" else keyid)(bundle)
    change_bundle("verificationMaterial.tlogEntries", ...)(bundle)
    assert open_manifest(json.dumps(bundle).encode(), keys.trusted, now=NOW)[0] == manifest_of()


# ---- payloads


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b'"name":"a"', b'"name":"a","name":"a"'), "key twice"),
        (lambda text: text.replace(b'{"_type"', b'{"_type":1,"_type"'), "key twice"),
        (lambda text: text[:-3], "not valid JSON"),
        (lambda text: b"\xef\xbb\xbf" + text, "not valid JSON"),
        (lambda text: text.decode().encode("utf-16"), "not valid JSON"),
        (lambda text: text.replace(b'"allow_symlinks": false', b'"allow_symlinks": NaN'), "NaN"),
        (lambda text: text.replace(b'"allow_symlinks": false', b'"allow_symlinks": true'), "symbolic links"),
        (lambda text: text.replace(b'"allow_symlinks": false', b'"allow_symlinks": 0'), "symbolic links"),
        (lambda text: text.replace(b'"allow_symlinks": false', b'"allow_symlinks": 0.0'), "symbolic links"),
        (lambda text: text.replace(b'"allow_symlinks"', b'"shard_size": 1, "allow_symlinks"'), "does not know"),
        (lambda text: text.replace(b'"allow_symlinks"', b'"ignore_paths": ".git", "allow_symlinks"'), "list of text"),
        (lambda text: text.replace(b'"allow_symlinks"', b'"ignore_paths": [1], "allow_symlinks"'), "list of text"),
        (lambda text: text.replace(b'"files"', b'"shards"'), "whole files"),
        (lambda text: text.replace(b'"resources"', b'"object_versions":{},"resources"'), "does not know"),
        (lambda text: text.replace(b'{"_type"', b'{"more":1,"_type"'), "does not know"),
        (lambda text: text.replace(b'"model"', b'""'), "no name"),
        (lambda text: text.replace(b"sha256", b"sha512"), "none of sha256, blake3"),
        (lambda text: text.replace(b'"name":"b/c"', b'"name":"a"'), "twice"),
        (lambda text: text.replace(b'"name":"a"', b'"name":"c"'), "path order"),
        (lambda text: text.replace(b'"model"', b"9" * 100_000), "not valid JSON"),
        (lambda text: text.replace(b'"model"', b"9" * 1000), "no name"),
        (lambda text: text.replace(b'"model"', b"[" * 200_000 + b"]" * 200_000), "not valid JSON"),
        (lambda text: b"null", "wrong type"),
    ],
)
def test_a_payload_that_is_malformed_is_refused_although_it_is_signed(
    keys: Keys, change: Callable[[bytes], bytes], reason: str
) -> None:
    payload = change(manifest_of().to_json())
    assert payload != manifest_of().to_json()
    with pytest.raises(ManifestError, match=reason):
        open_manifest(json.dumps(sealed(payload, keys.private)).encode(), keys.trusted, now=NOW)


def test_names_that_lead_out_are_found_although_they_are_signed(tmp_path: Path, keys: Keys) -> None:
    root = build(tmp_path / "model", {"a": b"1"})
    build(tmp_path, {"secret": b"s"})
    (tmp_path / "m.sig").write_bytes(sign_manifest(manifest_of({"../secret": b"s", "/etc/passwd": b"", "a": b"1"}), keys.signer))
    assert bad(check(root, tmp_path / "m.sig", keys.trusted))["paths-contained"] == 2


# ---- what can be changed without a trace

SIGNER = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
BUNDLE = sign_manifest(manifest_of({"a": b"1"}), SIGNER)
BELIEVED = trust(SIGNER.public_key)


def test_every_bit_flipped_is_refused() -> None:
    # Outside the signature there is no white space that could be another, and nothing that may be two things but an empty text.
    for position in range(len(BUNDLE) * 8):
        flipped = bytearray(BUNDLE)
        flipped[position // 8] ^= 1 << position % 8
        with pytest.raises((EvidenceError, ManifestError)):
            open_manifest(bytes(flipped), BELIEVED, now=NOW)


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda some: BUNDLE[: len(BUNDLE) // 2] + some))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises((EvidenceError, ManifestError)):
        open_manifest(data, BELIEVED, now=NOW)


@given(st.randoms(), st.sampled_from([None, 1, "\t"]))
def test_order_and_white_space_around_the_signed_bytes_change_nothing(chance: Any, indent: Any) -> None:
    def shuffled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: shuffled(part[name]) for name in chance.sample(sorted(part), len(part))}
        return [shuffled(item) for item in part] if isinstance(part, list) else part

    written = json.dumps(shuffled(json.loads(BUNDLE)), indent=indent).encode()
    assert open_manifest(written, BELIEVED, now=NOW) == open_manifest(BUNDLE, BELIEVED, now=NOW)
