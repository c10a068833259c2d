"""Trusted keys: the file that names them, and when each is believed."""

from __future__ import annotations

import base64
import os
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import seal, unseal
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EvidenceError
from airflow_pipesec.signing import (
    LocalSigner,
    PublicKey,
    TrustedKeys,
    entry_of,
    key_id_of,
)
from tests.test_signing import ED25519, P256, SECOND, T, body_of, listed, parsed, pem_of, public_pem

# ---- the trusted keys


def test_several_keys_are_trusted_each_by_its_own_algorithm() -> None:
    curves = [ec.generate_private_key(curve) for curve in (ec.SECP384R1(), ec.SECP521R1())]
    trusted = parsed(
        listed("ed", ED25519.public_key),
        listed("p256", P256.public_key),
        *(listed(key.curve.name, key.public_key()) for key in curves),
    )
    assert [key.algorithm for key in trusted] == ["ed25519", "ecdsa-p256", "ecdsa-p384", "ecdsa-p521"]
    for signer, name in ((ED25519, "ed"), (P256, "p256")):
        assert trusted.verify(signer.key_id, b"said", signer.sign(b"said")).name == name
    for key, algorithm in zip(curves, (hashes.SHA384(), hashes.SHA512()), strict=True):
        assert trusted.verify(key_id_of(key.public_key()), b"said", key.sign(b"said", ec.ECDSA(algorithm))).name == key.curve.name
        with pytest.raises(EvidenceError, match="not that of key"):  # another hash than the curve's
            trusted.verify(key_id_of(key.public_key()), b"said", key.sign(b"said", ec.ECDSA(hashes.SHA256())))


def test_a_signature_is_believed_of_the_named_key_alone() -> None:
    trusted, said = parsed(listed("ed", ED25519.public_key), listed("p256", P256.public_key)), b"said"
    stranger = LocalSigner(ed25519.Ed25519PrivateKey.generate())
    for signature, named in ((ED25519.sign(said), P256), (P256.sign(said), ED25519), (stranger.sign(said), ED25519)):
        with pytest.raises(EvidenceError, match=r"its signature is not that of key (ed|p256), which it names"):
            trusted.verify(named.key_id, said, signature)
    for unknown, shown in ((stranger.key_id, stranger.key_id[:16]), ("", "no id"), ("\x1b[31m\n" * 9, r"\\x1b\[31m\\n")):
        with pytest.raises(EvidenceError, match=f"not trusted .*{shown}") as caught:
            trusted.verify(unknown, said, stranger.sign(said))
        assert str(caught.value).isprintable()


@given(st.binary(max_size=150))
def test_no_arbitrary_bytes_are_a_signature(signature: bytes) -> None:
    for key in parsed(listed("ed", ED25519.public_key), listed("p256", P256.public_key)):
        assert not key.verifies(b"said", signature)


def raw_entry(more: str = "", key: PublicKey = P256.public_key, pem: str | None = None) -> str:
    text = public_pem(key) if pem is None else pem
    block = "".join(f"    {line}\n" for line in text.splitlines())
    return f"- name: a key\n  public_key: |\n{block}{more}"


def test_only_a_name_and_a_key_are_needed() -> None:
    (key,) = parsed(raw_entry())
    assert (key.name, key.key_id, key.valid_from, key.valid_until, key.revoked) == ("a key", P256.key_id, None, None, None)
    assert not key.fault(T)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not a list of keys"),
        ("[]", "not a list of keys"),
        ("{}", "not a list of keys"),
        ("keys: []", "not a list of keys"),
        ("just text", "not a list of keys"),
        ("- text", "key 1 is not a mapping"),
        ("- []", "key 1 is not a mapping"),
        ("- null", "key 1 is not a mapping"),
        ("- {}", "key 1 has no name"),
        ("- name: ''", "key 1 has no name"),
        ("- name: ' '", "key 1 has no name"),
        ("- name: 7", "key 1 has no name"),
        ("- name: !!binary aGk=", "key 1 has no name"),
        ("- name: a", "key 1 has no public_key"),
        ("- {name: a, public_key: 7}", "key 1 has no public_key"),
        ("- {name: a, public_key: text}", "not a public key in PEM"),
        ('- {name: a, public_key: "\\ud800"}', "not a public key in PEM"),
        (raw_entry("  comment: x\n"), r"unknown members \(comment\)"),
        (raw_entry("  validuntil: 2026-11-25T00:00:00Z\n"), r"unknown members \(validuntil\)"),
        (raw_entry("  key_id: null\n"), "key_id is not that of the key"),
        (raw_entry("  key_id: ''\n"), "key_id is not that of the key"),
        (raw_entry(f"  key_id: {ED25519.key_id}\n"), "key_id is not that of the key"),
        (raw_entry(f"  key_id: {P256.key_id.upper()}\n"), "key_id is not that of the key"),
        (raw_entry() + raw_entry("  revoked: stolen\n"), "key 2: the same key is given twice"),
        (raw_entry("  revoked: 2026\n"), "revoked is a int"),
        (raw_entry("  revoked: [stolen]\n"), "revoked is a list"),
        (raw_entry("  revoked: 2026-11-25\n  revoked: false\n"), "a key is given twice"),
        (raw_entry(pem=public_pem(P256.public_key) * 2), "not just one key"),
        (raw_entry(pem="somebody's key\n" + public_pem(P256.public_key)), "not just one key"),
        (raw_entry(pem=public_pem(P256.public_key) + "and more"), "not just one key"),
        (raw_entry(pem=public_pem(rsa.generate_private_key(65537, 2048).public_key())), "none of Ed25519, ECDSA"),
        (raw_entry(pem=public_pem(ec.generate_private_key(ec.SECP256K1()).public_key())), "none of Ed25519, ECDSA"),
        (raw_entry(pem=public_pem(ec.generate_private_key(ec.SECP224R1()).public_key())), "none of Ed25519, ECDSA"),
        (raw_entry(pem=public_pem(x25519.X25519PrivateKey.generate().public_key())), "none of Ed25519, ECDSA"),
        (raw_entry(pem=public_pem(P256.public_key).replace("A", "B", 1)), "not a public key in PEM"),
    ],
)  # fmt: skip
def test_a_file_of_trusted_keys_in_any_other_form_is_refused_naming_the_place(text: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason) as caught:
        TrustedKeys.parse(text.encode(), "trusted keys /etc/keys.yaml")
    assert str(caught.value).startswith("trusted keys /etc/keys.yaml")
    assert str(caught.value).isprintable()


def compressed(key: ec.EllipticCurvePublicKey) -> str:
    """The same key, its point in the short form: the PEM, and so what would be its id, is another."""
    short = key.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    long = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    inner = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107") + b"\x03" + bytes([len(short) + 1]) + b"\0" + short
    der = b"\x30" + bytes([len(inner)]) + inner
    assert (
        serialization.load_der_public_key(der).public_bytes(  # type: ignore[union-attr] # it has one
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        == long
    )
    return f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"  # fmt: skip


def test_a_key_is_written_in_one_way() -> None:
    assert isinstance(P256.public_key, ec.EllipticCurvePublicKey)
    with pytest.raises(ConfigurationError, match="not just one key"):
        parsed(raw_entry(pem=compressed(P256.public_key)))


def test_windows_line_ends_do_not_matter() -> None:
    (key,) = TrustedKeys.parse(listed("a", P256.public_key).replace("\n", "\r\n").encode())
    assert key.key_id == P256.key_id


@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL"])
def test_a_private_key_among_the_trusted_is_refused_without_being_quoted(form: str) -> None:
    pem = pem_of(P256.private_key, form=form)
    for text in (
        raw_entry(pem=pem.decode()),
        raw_entry() + "".join(f"# {line}\n" for line in pem.decode().splitlines()),
        pem.decode(),
        f"- name: x\n  public_key: {pem.decode()!r}\n",
    ):
        with pytest.raises(ConfigurationError, match="private key") as caught:
            TrustedKeys.parse(text.encode())
        assert body_of(pem)[8:24] not in str(caught.value)
    hidden = raw_entry(pem=pem.decode()).replace("PRIVATE", "X")
    with pytest.raises(ConfigurationError):
        TrustedKeys.parse(hidden.encode())


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666, 0o622, 0o777])
def test_trusted_keys_that_others_may_write_are_refused(tmp_path: Path, mode: int) -> None:
    (tmp_path / "keys.yaml").write_text(listed("a", P256.public_key))
    (tmp_path / "keys.yaml").chmod(0o644)
    assert len(list(TrustedKeys.load(tmp_path / "keys.yaml"))) == 1
    (tmp_path / "keys.yaml").chmod(mode)
    with pytest.raises(AccessDenied, match="could add a key"):
        TrustedKeys.load(tmp_path / "keys.yaml")
    (tmp_path / "link").symlink_to("keys.yaml")
    with pytest.raises(AccessDenied, match="could add a key"):
        TrustedKeys.load(str(tmp_path / "link"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_trusted_keys_of_somebody_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(listed("a", P256.public_key))
    (tmp_path / "keys.yaml").chmod(0o644)
    os.chown(tmp_path / "keys.yaml", 12345, -1)
    with pytest.raises(AccessDenied, match="could add a key"):
        TrustedKeys.load(tmp_path / "keys.yaml")


def test_trusted_keys_that_are_not_there_or_no_file_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    (tmp_path / "large").chmod(0o644)
    for name, reason in (
        ("gone", "does not exist"),
        ("pipe", "not a plain file"),
        (".", "not a plain file"),
        ("large", "larger"),
    ):
        with pytest.raises(ConfigurationError, match=reason):
            TrustedKeys.load(tmp_path / name)


@pytest.mark.parametrize(
    "text",
    [
        "&a [*a]",
        "- &k {name: a}\n- *k",
        "- name: &n x\n  public_key: *n",
        "- {name: a, name: b}",
        "- {? [a] : b}",
        "- {7: b}",
        "- <<: {name: a}",
        "[" * 100_000,
        "- " * 50_000,
        "{" * 50_000,
        "a: " * 1000,
        "\0",
        "- name: \x01",
        "--- []\n--- []",
        "!!python/object/apply:os.system [id]",
        "- !!python/name:os.system",
        "- !<tag:yaml.org,2002:python/object/new:os.system> [id]",
        "%YAML 9.9\n--- []",
        "- !!omap [a: b]",
        "- !!set {a, b}",
        "- !!pairs [a: b]",
        f"- name: {'9' * 5000}",
        "- name: 0x" + "f" * 90_000,
        "- valid_from: 2026-02-31",
        "'",
        '"\\x',
        "\ufeff- a",
    ],
)  # fmt: skip
def test_hostile_yaml_is_an_error_of_ours(text: str) -> None:
    for data in (text.encode(), text.encode("utf-16"), b"\xff\xfe\xff" + text.encode()):
        with pytest.raises(ConfigurationError) as caught:
            TrustedKeys.parse(data)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 400


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 400))
def test_no_bytes_in_a_file_of_trusted_keys_are_another_error_than_ours(data: bytes, start: int, end: int) -> None:
    whole = (listed("a", P256.public_key) + listed("b", ED25519.public_key)).encode()
    for content in (data, whole[:start] + data + whole[start:], whole[:start] + data + whole[end:], data + whole):
        try:
            found = TrustedKeys.parse(content)
        except ConfigurationError:
            continue
        assert found.keys.keys() <= {P256.key_id, ED25519.key_id}


NAMES = st.text(min_size=1).filter(lambda name: name.strip() and "KEY-" not in name)  # a private key would be refused


@given(NAMES, st.datetimes(datetime(1900, 1, 1), datetime(2999, 1, 1)))  # noqa: DTZ001 - gets its zone below
def test_an_entry_is_read_as_it_was_written(name: str, start: datetime) -> None:
    begins = start.replace(microsecond=0, tzinfo=UTC)
    entry = entry_of(P256.public_key, name=name, valid_from=begins, valid_until=begins + SECOND)
    (key,) = TrustedKeys.parse(entry.encode())
    assert (key.name, key.key_id, key.valid_from, key.valid_until) == (name, P256.key_id, begins, begins + SECOND)


# ---- when a key is valid


def test_both_ends_of_the_time_that_a_key_is_valid_belong_to_it() -> None:
    (key,) = parsed(listed("k", P256.public_key, T, T + 9 * SECOND))
    tick = timedelta(microseconds=1)
    for inside in (T, T + tick, T + 9 * SECOND):
        assert key.fault(inside) == ""
        assert key.fault(inside.astimezone(timezone(timedelta(hours=-11)))) == ""
    assert "valid from 2026-11-25 03:00:00 UTC on, and it was 2026-11-25 02:59:59 UTC" in key.fault(T - tick)
    assert "was valid until 2026-11-25 03:00:09 UTC, and it was" in key.fault(T + 9 * SECOND + tick)


def test_a_key_without_an_end_is_valid_on_and_on() -> None:
    (key,) = parsed(listed("k", P256.public_key))
    assert not key.fault(datetime.max.replace(tzinfo=UTC))
    (key,) = parsed(raw_entry())
    assert not key.fault(datetime.min.replace(tzinfo=UTC))


@pytest.mark.parametrize(
    ("revoked", "reason"), [("true", "no reason given"), ("its disk was stolen", "stolen"), ("''", "revoked")]
)
def test_what_a_revoked_key_signed_is_never_believed(revoked: str, reason: str) -> None:
    (key,) = parsed(listed("k", P256.public_key, T, T + 9 * SECOND, f"  revoked: {revoked}\n"))
    for at in (T - SECOND, T, T + SECOND, T + 99 * SECOND):
        assert reason in key.fault(at)
        assert "key k is revoked" in key.fault(at)


@pytest.mark.parametrize("revoked", ["false", "null", "no"])
def test_a_key_that_is_said_not_to_be_revoked_is_not(revoked: str) -> None:
    (key,) = parsed(listed("k", P256.public_key, T, None, f"  revoked: {revoked}\n"))
    assert not key.fault(T)


@pytest.mark.parametrize(
    "time",
    [
        "2026-11-25", "2026-11-25T00:00:00", "2026-11-25 00:00", "tomorrow", "1795564800", "2026-13-01T00:00:00Z", "''",
        "2026-02-30T00:00:00Z", "[2026-11-25T00:00:00Z]", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
        "2026-11-25T00:00:00 Europe/Berlin", "true",
    ],
)  # fmt: skip
@pytest.mark.parametrize("member", ["valid_from", "valid_until"])
def test_a_time_without_its_zone_or_that_is_none_is_refused(member: str, time: str) -> None:
    with pytest.raises(ConfigurationError, match=f"key 1: {member} is not a time with its zone"):
        parsed(raw_entry(f"  {member}: {time}\n"))


@pytest.mark.parametrize("time", ["2026-11-25T03:00:00Z", "2026-11-25 04:00:00+01:00", "'2026-11-24T22:00:00-05:00'"])
def test_a_time_is_read_in_any_zone(time: str) -> None:
    (key,) = parsed(raw_entry(f"  valid_from: {time}\n"))
    assert key.valid_from == T


def test_a_key_that_ends_before_it_begins_is_refused() -> None:
    for end in (T, T - SECOND):
        with pytest.raises(ConfigurationError, match="valid until before it is valid"):
            parsed(listed("k", P256.public_key, T, end))


def test_when_keys_rotate_what_the_old_one_signed_before_and_the_new_one_after_is_believed() -> None:
    old, new = ED25519, P256
    trusted = parsed(listed("old", old.public_key, T - 9 * SECOND, T), listed("new", new.public_key, T))

    def believed(signer: LocalSigner, at: datetime) -> bool:
        opened = unseal(seal({"at": at.isoformat()}, signer), trusted)
        return not opened.key.fault(datetime.fromisoformat(opened.document["at"]))

    assert believed(old, T - SECOND)
    assert believed(old, T)
    assert believed(new, T)
    assert believed(new, T + SECOND)
    assert not believed(old, T + SECOND)
    assert not believed(new, T - SECOND)
    # The old one turns out to have been stolen: nothing of it is left, the new one stands.
    revoked = parsed(listed("old", old.public_key, T - 9 * SECOND, T, "  revoked: stolen\n"), listed("new", new.public_key, T))
    assert revoked.keys[old.key_id].fault(T - SECOND)
    assert not revoked.keys[new.key_id].fault(T)
