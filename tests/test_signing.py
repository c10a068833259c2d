"""Signing keys: where they come from, what they sign, and which public keys are believed, when."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import seal, unseal
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EvidenceError, ObjectMissing, PipesecError, StorageError
from airflow_pipesec.keys import create_private, unwrap_identity
from airflow_pipesec.signing import (
    Algorithm,
    KMSSigner,
    LocalSigner,
    PublicKey,
    TrustedKeys,
    entry_of,
    key_id_of,
    new_private_key,
    signer_from,
)

T = datetime(2026, 11, 25, 3, 0, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ALGORITHMS: tuple[Algorithm, ...] = ("ecdsa-p256", "ed25519")
ED25519, P256 = LocalSigner(ed25519.Ed25519PrivateKey.generate()), LocalSigner(ec.generate_private_key(ec.SECP256R1()))


def pem_of(key: Any, password: bytes | None = None, form: str = "PKCS8") -> bytes:
    """A private key in PEM."""
    sealing = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    done: bytes = key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), sealing)
    return done


def public_pem(key: Any) -> str:
    done: bytes = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return done.decode()


def body_of(pem: bytes) -> str:
    """The part of a PEM that is the secret."""
    return "".join(pem.decode().split("-----")[2].split())


def listed(name: str, key: PublicKey, start: datetime = T, end: datetime | None = None, more: str = "") -> str:
    return entry_of(key, name=name, valid_from=start, valid_until=end) + more


def parsed(*entries: str) -> TrustedKeys:
    return TrustedKeys.parse("".join(entries).encode())


# ---- private keys


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_new_key_is_its_owners_alone_and_is_read_back(tmp_path: Path, algorithm: Algorithm) -> None:
    made = new_private_key(tmp_path / "key.pem", algorithm)
    assert (tmp_path / "key.pem").stat().st_mode & 0o7777 == 0o600
    read = signer_from(f"file:{tmp_path}/key.pem")
    assert read.key_id == made.key_id
    (trusted,) = parsed(listed("a key", made.public_key))
    assert trusted.algorithm == algorithm
    assert trusted.verifies(b"said", read.sign(b"said"))
    assert not trusted.verifies(b"not said", read.sign(b"said"))


def test_a_key_that_openssl_made_signs_and_openssl_believes_its_signature(tmp_path: Path) -> None:
    command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", tmp_path / "key.pem"]
    subprocess.run(command, check=True, capture_output=True)
    (tmp_path / "key.pem").chmod(0o600)
    signer = signer_from(f"file:{tmp_path}/key.pem")
    subprocess.run(["openssl", "pkey", "-in", tmp_path / "key.pem", "-pubout", "-out", tmp_path / "pub.pem"], check=True)
    assert hashlib.sha256((tmp_path / "pub.pem").read_bytes()).hexdigest() == signer.key_id
    for content, code in ((b"said", 0), (b"not said", 1)):
        (tmp_path / "data").write_bytes(content)
        (tmp_path / "sig").write_bytes(signer.sign(b"said"))
        verify = [
            "openssl",
            "dgst",
            "-sha256",
            "-verify",
            tmp_path / "pub.pem",
            "-signature",
            tmp_path / "sig",
            tmp_path / "data",
        ]
        assert subprocess.run(verify, capture_output=True, check=False).returncode == code
    # A SEC1 file with its curve's parameters before the key, as `openssl ecparam -genkey` writes it.
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-out", tmp_path / "sec1.pem"], check=True, capture_output=True
    )
    (tmp_path / "sec1.pem").chmod(0o600)
    assert signer_from(f"file:{tmp_path}/sec1.pem").sign(b"x")


@pytest.mark.parametrize("algorithm", ["rsa", "ecdsa-p384", "", "ED25519"])
def test_no_key_of_another_algorithm_is_made(tmp_path: Path, algorithm: Any) -> None:
    with pytest.raises(ConfigurationError, match="Use ecdsa-p256 or ed25519"):
        new_private_key(tmp_path / "key.pem", algorithm)
    assert not (tmp_path / "key.pem").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o610])
def test_a_signing_key_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    new_private_key(tmp_path / "key.pem")
    (tmp_path / "key.pem").chmod(mode)
    with pytest.raises(AccessDenied, match="chmod 600"):
        signer_from(f"file:{tmp_path}/key.pem")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_signing_key_of_somebody_else_is_refused(tmp_path: Path) -> None:
    new_private_key(tmp_path / "key.pem")
    os.chown(tmp_path / "key.pem", 12345, -1)
    with pytest.raises(AccessDenied, match="chmod 600"):
        signer_from(f"file:{tmp_path}/key.pem")


def test_a_link_to_a_key_is_followed_and_the_file_at_its_end_is_judged(tmp_path: Path) -> None:
    """Secrets that Kubernetes mounts are links. Who could change the link could give the task another key and no more."""
    made = new_private_key(tmp_path / "key.pem")
    (tmp_path / "link").symlink_to("key.pem")
    assert signer_from(f"file:{tmp_path}/link").key_id == made.key_id
    (tmp_path / "key.pem").chmod(0o644)
    with pytest.raises(AccessDenied, match="chmod 600"):
        signer_from(f"file:{tmp_path}/link")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("dangling", "loop"):
        with pytest.raises((ConfigurationError, StorageError), match=name):
            signer_from(f"file:{tmp_path}/{name}")


def test_a_key_is_not_written_through_a_link_and_never_over_another(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("elsewhere")
    with pytest.raises(ConfigurationError, match="never overwritten"):
        new_private_key(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()
    new_private_key(tmp_path / "key.pem")
    before = (tmp_path / "key.pem").read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        new_private_key(tmp_path / "key.pem", "ed25519")
    assert (tmp_path / "key.pem").read_bytes() == before


def test_half_a_key_does_not_stay_in_the_way_of_the_next(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="folder that can be written"):
        new_private_key(tmp_path / "no" / "key.pem")
    with pytest.raises(TypeError):
        create_private(tmp_path / "key.pem", "text, which is no bytes")  # type: ignore[arg-type] # breaks off once it is open
    assert not (tmp_path / "key.pem").exists()
    new_private_key(tmp_path / "key.pem")


@pytest.mark.parametrize("reference", ["file:a\0b", "file:\ud800", "env:\ud800", "env:a\0b", "env:A=B", f"file:{'x' * 5000}"])
def test_a_reference_that_the_system_cannot_take_is_an_error_of_ours(reference: str) -> None:
    with pytest.raises((ConfigurationError, StorageError)) as caught:
        signer_from(reference)
    assert "\0" not in str(caught.value)
    str(caught.value).encode()


def test_a_signing_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIPESEC_TEST_KEY", "\n" + pem_of(ED25519.private_key).decode() + "\n")
    assert signer_from("env:PIPESEC_TEST_KEY").key_id == ED25519.key_id
    monkeypatch.setitem(os.environ, "PIPESEC_TEST_KEY", os.fsdecode(b"\xff\xfe not text"))
    with pytest.raises(ConfigurationError, match="env:PIPESEC_TEST_KEY is not a private key in PEM"):
        signer_from("env:PIPESEC_TEST_KEY")
    with pytest.raises(ConfigurationError, match="Set it for the worker"):
        signer_from("env:PIPESEC_TEST_NO_SUCH_KEY")


def test_a_signing_key_comes_from_what_airflow_adds() -> None:
    found = signer_from("connection:signing", {"connection": lambda name: pem_of(P256.private_key).decode() if name else ""})
    assert found.key_id == P256.key_id
    with pytest.raises(ConfigurationError, match="connection:signing is not a private key"):
        signer_from("connection:signing", {"connection": lambda _: "hunter2"})


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "a password": (lambda: pem_of(P256.private_key, b"hunter2"), "protected by a password"),
    "a password, the old way": (lambda: pem_of(P256.private_key, b"hunter2", "TraditionalOpenSSL"), "protected by a password"),
    "RSA": (lambda: pem_of(rsa.generate_private_key(65537, 2048)), "neither Ed25519 nor ECDSA P-256"),
    "P-384": (lambda: pem_of(ec.generate_private_key(ec.SECP384R1())), "neither Ed25519 nor ECDSA P-256"),
    "P-521": (lambda: pem_of(ec.generate_private_key(ec.SECP521R1())), "neither Ed25519 nor ECDSA P-256"),
    "secp256k1": (lambda: pem_of(ec.generate_private_key(ec.SECP256K1())), "neither Ed25519 nor ECDSA P-256"),
    "Ed448": (lambda: pem_of(ed448.Ed448PrivateKey.generate()), "neither Ed25519 nor ECDSA P-256"),
    "X25519": (lambda: pem_of(x25519.X25519PrivateKey.generate()), "neither Ed25519 nor ECDSA P-256"),
    "DSA": (lambda: pem_of(dsa.generate_private_key(2048)), "neither Ed25519 nor ECDSA P-256"),
    "a public key": (lambda: public_pem(P256.public_key).encode(), "not a private key in PEM"),
    "nothing": (lambda: b"", "not a private key in PEM"),
    "text": (lambda: b"correct horse battery staple", "not a private key in PEM"),
    "bytes": (lambda: bytes(range(256)), "not a private key in PEM"),
    "half of it": (lambda: pem_of(P256.private_key)[:100], "not a private key in PEM"),
    "a letter less": (lambda: pem_of(P256.private_key).replace(b"M", b"", 1), "not a private key in PEM"),
    "DER": (
        lambda: P256.private_key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        "not a private key in PEM",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_sign_here_is_refused_without_being_quoted(tmp_path: Path, what: str) -> None:
    make, reason = WRONG[what]
    content = make()
    create_private(tmp_path / "key.pem", content)
    with pytest.raises(ConfigurationError, match=reason) as caught:
        signer_from(f"file:{tmp_path}/key.pem")
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path) in message
    for line in content.decode("latin-1").splitlines():
        assert len(line) < 8 or line not in message


@given(st.binary(max_size=300), st.integers(0, 3000))
def test_whatever_lies_in_a_key_file_the_error_is_ours(data: bytes, place: int) -> None:
    pem = pem_of(P256.private_key)
    for content in (data, pem[:place] + data + pem[place:], pem[: place % len(pem)] + data):
        with suppress(ConfigurationError):
            LocalSigner.from_pem(content)


@pytest.mark.parametrize(
    "around", ["{}", " {}", "file:{}", "env:{}", "awskms:{}", "awskms: {}", "key={}", "connection:{}", "{}:x"]
)
@pytest.mark.parametrize("key", [ED25519, P256], ids=ALGORITHMS[::-1])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL", "one line"])
def test_a_key_itself_is_no_reference_and_shows_in_no_error(around: str, key: LocalSigner, form: str) -> None:
    if form == "TraditionalOpenSSL" and key is ED25519:
        form = "PKCS8"
    pem = pem_of(key.private_key, form="PKCS8" if form == "one line" else form)
    text = pem.decode().replace("\n", " ") if form == "one line" else pem.decode()
    with pytest.raises(ConfigurationError, match="private key itself") as caught:
        signer_from(around.format(text), {"connection": lambda _: ""})
    assert body_of(pem)[8:24] not in str(caught.value)
    assert "awskms:…" in str(caught.value)


@pytest.mark.parametrize("reference", ["", "awskms:", "hunter2", "kms:/path", "ftp:x", None, 7])
def test_what_is_no_reference_is_refused(reference: Any) -> None:
    with pytest.raises(ConfigurationError, match="signing_key=") as caught:
        signer_from(reference)
    assert "hunter2" not in str(caught.value)


def test_a_private_key_shows_in_no_representation() -> None:
    for signer in (ED25519, P256):
        raw = pem_of(signer.private_key)
        assert body_of(raw)[40:60] not in repr(signer) + str(signer) + repr(vars(signer))


# ---- AWS KMS


def key_in(kms: Any, **kind: str) -> str:
    arn: str = kms.create_key(**(kind or {"KeySpec": "ECC_NIST_P256", "KeyUsage": "SIGN_VERIFY"}))["KeyMetadata"]["Arn"]
    return arn


def test_a_key_of_kms_signs_and_never_comes_here(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    arn = key_in(kms)
    signer = KMSSigner(arn, kms)
    trusted = parsed(listed("of kms", signer.public_key))
    assert signer.key_id == hashlib.sha256(public_pem(signer.public_key).encode()).hexdigest()
    document = {"predicateType": "x", "text": "y" * 100_000}  # more than KMS takes but by its digest
    opened = unseal(seal(document, signer), trusted)
    assert (opened.document, opened.key.name) == (document, "of kms")
    assert not trusted.keys[signer.key_id].verifies(b"not said", signer.sign(b"said"))
    from moto.kms.models import kms_backends

    (backend,) = (region["us-east-1"] for region in kms_backends.values())
    secret = body_of(pem_of(backend.describe_key(arn).private_key.private_key))
    assert secret[60:100] not in repr(vars(signer)) + repr(seal(document, signer))


def test_a_reference_to_a_key_of_kms_is_followed_at_once(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    arn = key_in(kms)
    kms.create_alias(AliasName="alias/pipesec", TargetKeyId=arn)
    with pytest.raises(StorageError, match="region"):
        signer_from(f"awskms:{arn}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    by_arn, by_alias = signer_from(f"awskms:{arn}"), signer_from("awskms:alias/pipesec", {"awskms": lambda _: "never asked"})
    assert by_arn.key_id == by_alias.key_id
    (key,) = parsed(listed("k", by_arn.public_key))
    assert key.verifies(b"said", by_alias.sign(b"said"))
    with pytest.raises(ObjectMissing, match="alias/other"):
        signer_from("awskms:alias/other")


@pytest.mark.parametrize(
    "kind",
    [
        {"KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        {"KeySpec": "RSA_2048", "KeyUsage": "ENCRYPT_DECRYPT"},
        {"KeySpec": "ECC_NIST_P384", "KeyUsage": "SIGN_VERIFY"},
        {"KeySpec": "ECC_SECG_P256K1", "KeyUsage": "SIGN_VERIFY"},
        {"KeySpec": "HMAC_256", "KeyUsage": "GENERATE_VERIFY_MAC"},
    ],
    ids=lambda kind: f"{kind['KeySpec']}-{kind['KeyUsage']}",
)
def test_a_key_of_kms_of_another_kind_is_refused(kms: Any, kind: dict[str, str]) -> None:
    arn = key_in(kms, **kind)
    for ask in (lambda: KMSSigner(arn, kms).sign(b"x"), lambda: KMSSigner(arn, kms).key_id):
        with pytest.raises(ConfigurationError, match=f"{arn} does not sign on P-256. Make one with"):
            ask()


def test_a_symmetric_key_that_kms_itself_refuses_is_the_authors_mistake(kms: Any) -> None:
    from botocore.stub import Stubber

    with Stubber(kms) as stub:
        stub.add_client_error("get_public_key", "UnsupportedOperationException", http_status_code=400)
        with pytest.raises(ConfigurationError, match="does not sign on P-256"):
            _ = KMSSigner("alias/x", kms).key_id


def test_a_key_of_kms_for_another_use_is_refused_although_its_kind_would_do(kms: Any) -> None:
    from botocore.stub import Stubber

    der = P256.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    for use, fits in (("SIGN_VERIFY", True), ("KEY_AGREEMENT", False)):
        with Stubber(kms) as stub:
            stub.add_response("get_public_key", {"KeyId": "x", "PublicKey": der, "KeyUsage": use})
            if fits:
                assert KMSSigner("alias/x", kms).key_id == P256.key_id
            else:
                with pytest.raises(ConfigurationError, match="does not sign on P-256"):
                    _ = KMSSigner("alias/x", kms).key_id


@pytest.mark.parametrize(
    ("code", "status", "error", "remedy"),
    [
        ("AccessDeniedException", 400, AccessDenied, "Grant the worker's role kms:Sign and kms:GetPublicKey on it."),
        ("Forbidden", 403, AccessDenied, "Grant the worker's role kms:Sign and kms:GetPublicKey on it."),
        ("ExpiredTokenException", 400, AccessDenied, "Give the worker valid ones."),
        ("UnrecognizedClientException", 400, AccessDenied, "Give the worker valid ones."),
        ("MissingAuthenticationToken", 403, AccessDenied, "Give the worker valid ones."),
        ("DisabledException", 400, AccessDenied, "Enable it in KMS, or sign with another key."),
        ("KMSInvalidStateException", 400, AccessDenied, "Enable it in KMS, or sign with another key."),
        ("NotFoundException", 400, ObjectMissing, "Check its id, ARN or alias, and the region."),
        ("InvalidArnException", 400, ObjectMissing, "Check its id, ARN or alias, and the region."),
        ("ThrottlingException", 400, StorageError, "Run the task again"),
        ("KMSInternalException", 500, StorageError, "Run the task again"),
    ],
)
@pytest.mark.parametrize("call", ["get_public_key", "sign"])
def test_what_kms_refuses_names_the_key_the_reason_and_the_remedy(
    kms: Any, code: str, status: int, error: type[StorageError], remedy: str, call: str
) -> None:
    from botocore.stub import Stubber

    arn = key_in(kms)
    signer = KMSSigner(arn, kms)
    if call == "sign":
        _ = signer.public_key
    with Stubber(kms) as stub:
        stub.add_client_error(call, code, http_status_code=status)
        with pytest.raises(StorageError, match=f"^KMS key {arn} .*{code}.*{re.escape(remedy)}") as caught:
            signer.sign(b"x")
    assert type(caught.value) is error
    assert "read or written" not in str(caught.value)
    assert "the task that writes it" not in str(caught.value)


def test_a_signature_of_kms_that_its_public_key_refuses_is_not_given_out(kms: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = key_in(kms), key_in(kms)
    kms.create_alias(AliasName="alias/pipesec", TargetKeyId=one)
    signer = KMSSigner("alias/pipesec", kms)
    assert signer.sign(b"x")
    kms.update_alias(AliasName="alias/pipesec", TargetKeyId=two)
    with pytest.raises(EvidenceError, match="alias/pipesec gave a signature that its own public key refuses"):
        signer.sign(b"x")
    from botocore.stub import Stubber

    # No signature at all.
    with Stubber(kms) as stub:
        stub.add_response("sign", {"KeyId": one, "Signature": b"", "SigningAlgorithm": "ECDSA_SHA_256"})
        with pytest.raises(EvidenceError, match="refuses"):
            signer.sign(b"x")


def test_the_name_of_a_kms_key_is_printed_as_it_is_and_in_one_line(kms: Any) -> None:
    for key in ("alias/no\nsuch", "\x1b[31m", "a\\b"):
        with pytest.raises(PipesecError, match="KMS key") as caught:
            _ = KMSSigner(key, kms).key_id
        assert str(caught.value).isprintable()
        assert "\\\\\\" not in str(caught.value)


def test_a_wrapped_identity_that_is_nested_without_end_is_an_error_of_ours(tmp_path: Path) -> None:
    create_private(tmp_path / "wrapped", b"[" * 200_000)
    with pytest.raises(ConfigurationError, match="is not one"):
        unwrap_identity(tmp_path / "wrapped")


# ---- key ids


def test_a_key_id_is_the_hint_of_openssf_model_signing(tmp_path: Path) -> None:
    from model_signing._signing.sign_ec_key import Signer as TheirSigner

    made = new_private_key(tmp_path / "key.pem")
    theirs = TheirSigner(tmp_path / "key.pem")._get_verification_material().public_key.hint
    assert made.key_id == theirs == key_id_of(made.public_key)
    assert len(theirs) == 64
