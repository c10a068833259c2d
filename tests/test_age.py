"""age: the published test vectors, the stock program, and no plaintext from a file that was tampered with."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.age import CHUNK, Identity, Recipient, decrypted, encrypted, new_identity, payload_fits
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EncryptionError, ObjectMissing, StorageError
from airflow_pipesec.keys import identities_from, recipients_from, unwrap_identity, wrap_identity, write_identity
from tests.servers import missing

VECTORS = Path(__file__).parent / "vectors" / "age"
# What each kind of failure is called in the vectors' own words, and a part of what we say.
REASONS = {
    "no match": ("is not encrypted for the given identity",),
    "HMAC failure": ("MAC does not match",),
    "header failure": ("header", "version", "begin"),
    "payload failure": ("payload",),
}


def read_vector(path: Path) -> tuple[dict[str, list[str]], bytes]:
    head, _, body = path.read_bytes().partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.decode().splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    return fields, zlib.decompress(body) if "compressed" in fields else body


def ours(path: Path) -> bool:
    """Whether a vector is about what we decrypt: X25519 identities, binary."""
    fields, _ = read_vector(path)
    return "armored" not in fields and any(text.startswith("AGE-SECRET-KEY-1") for text in fields.get("identity", []))


@pytest.mark.parametrize("path", sorted(filter(ours, VECTORS.iterdir())), ids=lambda path: path.name)
def test_published_vectors(path: Path) -> None:
    fields, body = read_vector(path)
    identities = [Identity.parse(text) for text in fields["identity"] if text.startswith("AGE-SECRET-KEY-1")]
    (expected,) = fields["expect"]
    released = hashlib.sha256()

    def decrypt() -> None:
        for piece in decrypted(io.BytesIO(body), identities):
            released.update(piece)

    if expected == "success":
        decrypt()
    else:
        with pytest.raises(EncryptionError) as caught:
            decrypt()
        assert any(reason in str(caught.value) for reason in REASONS[expected]), str(caught.value)
    if "payload" in fields:
        assert released.hexdigest() == fields["payload"][0]


@pytest.mark.parametrize("path", sorted(path for path in VECTORS.iterdir() if not ours(path)), ids=lambda path: path.name)
def test_what_we_do_not_decrypt_yields_nothing(path: Path) -> None:
    """Passphrases, armor, hybrid recipients: refused, with whatever X25519 identity the vector has."""
    fields, body = read_vector(path)
    texts = [text for text in fields.get("identity", []) if text.startswith("AGE-SECRET-KEY-1")]
    identities = [Identity.parse(text) for text in texts] or [new_identity()]
    with pytest.raises(EncryptionError):
        list(decrypted(io.BytesIO(body), identities))


def whole(pieces: Iterator[memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)  # a piece is valid until the next


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        missing(f"the {name} program is not installed (apt-get install age, or tests/install-servers.sh as root)")
    return found


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 131072, 3_000_000])
def test_the_stock_program_decrypts_ours_and_we_decrypt_its(tmp_path: Path, size: int) -> None:
    plain, key = random.Random(size).randbytes(size), tmp_path / "key.txt"
    subprocess.run([program("age-keygen"), "-o", key], check=True, capture_output=True)
    theirs = identities_from(f"file:{key}")[0]
    ours = write_identity(tmp_path / "ours.txt")
    (tmp_path / "x.age").write_bytes(whole(encrypted(io.BytesIO(plain), [theirs.recipient, ours.recipient])))
    for identity in (key, tmp_path / "ours.txt"):
        done = subprocess.run([program("age"), "-d", "-i", identity, tmp_path / "x.age"], check=True, capture_output=True)
        assert done.stdout == plain
    (tmp_path / "plain").write_bytes(plain)
    command = [program("age"), "-r", str(ours.recipient), "-r", str(theirs.recipient), tmp_path / "plain"]
    sealed = subprocess.run(command, check=True, capture_output=True).stdout
    for identity in (ours, theirs):
        assert whole(decrypted(io.BytesIO(sealed), [identity])) == plain


class Slow(io.RawIOBase):
    """A source that gives a few bytes at a time, as a network does."""

    def __init__(self, data: bytes, step: int) -> None:
        self.file, self.step = io.BytesIO(data), step

    def readinto(self, buffer: Any, /) -> int:
        return self.file.readinto(memoryview(buffer)[: self.step])


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 50))
def test_whatever_the_pieces_what_comes_out_is_what_went_in(data: bytes, first: int, second: int) -> None:
    us = new_identity()
    sealed = whole(encrypted(Slow(data, first), [us.recipient]))
    assert whole(decrypted(Slow(sealed, second), [us])) == data


def test_equal_files_are_encrypted_differently() -> None:
    us = new_identity().recipient
    assert whole(encrypted(io.BytesIO(b"x"), [us])) != whole(encrypted(io.BytesIO(b"x"), [us]))


def test_keys_are_read_as_they_are_written_and_secrets_do_not_show() -> None:
    us = new_identity()
    assert Identity.parse(us.reveal()) == us
    assert Recipient.parse(str(us.recipient)) == us.recipient
    assert us.reveal().removeprefix("AGE-SECRET-KEY-1") not in repr(us) + str(us)


@given(st.integers(0, 61), st.sampled_from("qpzry9x8gf2tvdw0s3jn54khce6mua7l1bioB"))
def test_a_mistyped_key_is_refused(place: int, letter: str) -> None:
    text = str(Recipient(bytes(range(32))))
    changed = text[:place] + letter + text[place + 1 :]
    if changed != text:
        with pytest.raises(ConfigurationError):
            Recipient.parse(changed)


@pytest.mark.parametrize("text", ["", "age1", "age1qqqq", "AGE-SECRET-KEY-1", "ssh-ed25519 AAAA", "age1" + "q" * 58])
def test_what_is_no_key_is_refused_without_quoting_it(text: str) -> None:
    for parse in (Recipient.parse, Identity.parse):
        with pytest.raises(ConfigurationError) as caught:
            parse(text)
        assert not text[8:] or text[8:] not in str(caught.value)


def test_a_header_without_end_is_not_read_for_ever() -> None:
    class Endless(io.RawIOBase):
        start = b"age-encryption.org/v1\n"

        def readinto(self, buffer: Any, /) -> int:
            buffer[:] = self.start.ljust(len(buffer), b"-")
            self.start = b""
            return len(buffer)

    with pytest.raises(EncryptionError, match="header"):
        list(decrypted(Endless(), [new_identity()]))


def test_no_recipient_and_no_identity_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        list(encrypted(io.BytesIO(b""), []))
    with pytest.raises(ConfigurationError):
        list(decrypted(io.BytesIO(whole(encrypted(io.BytesIO(b""), [new_identity().recipient]))), []))


def test_any_length_that_a_payload_has_fits_and_others_do_not() -> None:
    for size in (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 7):
        sealed = whole(encrypted(io.BytesIO(bytes(size)), [new_identity().recipient]))
        payload = len(sealed) - sealed.index(b"\n---") - 49
        assert payload_fits(payload)
    for wrong in (0, 15, 16, 31, 16 + CHUNK + 16 + 1, 16 + CHUNK + 16 + 16):
        assert not payload_fits(wrong)


# ---- where keys come from


def test_a_key_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    write_identity(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    for mode in (0o640, 0o604, 0o622):
        (tmp_path / "key").chmod(mode)
        with pytest.raises(AccessDenied, match="chmod 600"):
            identities_from(f"file:{tmp_path}/key")


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    write_identity(tmp_path / "key")
    before = (tmp_path / "key").read_bytes()
    with pytest.raises(ConfigurationError, match="never overwritten"):
        write_identity(tmp_path / "key")
    assert (tmp_path / "key").read_bytes() == before


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    us = new_identity()
    monkeypatch.setenv("PIPESEC_TEST_KEY", f"# a comment\n{us.reveal()}\n")
    assert identities_from("env:PIPESEC_TEST_KEY") == [us]


@pytest.mark.parametrize(
    "reference", ["", "x", "env:", "env:NOT_SET_ANYWHERE", "file:/nowhere/key", "file:/tmp", "ftp:key", "connection:x"]
)
def test_a_reference_that_leads_nowhere_is_refused(reference: str) -> None:
    with pytest.raises(ConfigurationError):
        identities_from(reference)


def test_a_key_itself_is_no_reference() -> None:
    secret = new_identity().reveal()
    for given_key in (secret, secret.lower()):
        with pytest.raises(ConfigurationError, match="private key itself") as caught:
            identities_from(given_key)
        assert secret[20:].lower() not in str(caught.value).lower()
        with pytest.raises(ConfigurationError, match="private key"):
            recipients_from(given_key)


@pytest.mark.parametrize(
    "around",
    [
        "{}", " {}", "\n{}", "\t{}\n", '"{}"', "'{}'", "# my key\n{}", "# public key: age1x\n{}", "env:{}", "file:{}", "key:{}",
        "variable:{}", "kms:{}", "connection:{}", "env: {}", "password={}", "{}:x", "file:/x/{}/y",
    ],
)  # fmt: skip
def test_a_key_in_the_place_of_a_reference_shows_in_no_error(around: str) -> None:
    secret = new_identity().reveal()
    for text in (around.format(secret), around.format(secret.lower()), around.format(secret.title())):
        for ask in (identities_from, recipients_from):
            with pytest.raises(ConfigurationError, match="private key") as caught:
                ask(text)
            assert secret[18:30].lower() not in str(caught.value).lower()


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("hunter2", False),
        ("Hunter:2", False),
        ("hunter2:x", False),
        ("correct horse battery staple:x", False),
        ("correcthorsebatterystaple:x", False),
        ("hunter", False),
        ("vault:x", True),
        ("ftp:key", True),
    ],
)
def test_what_is_no_reference_is_quoted_only_as_a_plain_word_before_a_colon(reference: str, shown: bool) -> None:
    with pytest.raises(ConfigurationError, match="no reference to a key") as caught:
        identities_from(reference)
    word = reference.partition(":")[0]
    assert (f"{word}:…" in str(caught.value)) == shown
    assert shown or not word or word not in str(caught.value)


def test_a_reference_that_is_no_text_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="NoneType"):
        identities_from(None)  # type: ignore[arg-type] # tested


def test_recipients_come_from_a_file(tmp_path: Path) -> None:
    one, two = new_identity().recipient, new_identity().recipient
    (tmp_path / "r").write_text(f"# team\n{one}\n\n{two}\n")
    assert recipients_from([f"file:{tmp_path}/r"]) == [one, two]
    (tmp_path / "r").write_text("# nobody\n")
    with pytest.raises(ConfigurationError, match="no recipient"):
        recipients_from(f"file:{tmp_path}/r")


@pytest.fixture
def kms() -> Iterator[Any]:
    import boto3
    from moto import mock_aws

    with mock_aws():
        yield boto3.client("kms", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")


def test_kms_wraps_an_identity_and_unwraps_it(tmp_path: Path, kms: Any) -> None:
    key = kms.create_key()["KeyMetadata"]["Arn"]
    identity = wrap_identity(tmp_path / "wrapped", key, kms)
    assert identity.reveal().removeprefix("AGE-SECRET-KEY-1") not in (tmp_path / "wrapped").read_text()
    assert unwrap_identity(tmp_path / "wrapped", kms) == identity
    document = json.loads((tmp_path / "wrapped").read_text())
    (tmp_path / "other").write_text(json.dumps(document | {"recipient": str(new_identity().recipient)}))
    with pytest.raises((ConfigurationError, StorageError)):
        unwrap_identity(tmp_path / "other", kms)
    (tmp_path / "gone").write_text(json.dumps(document | {"key": key.replace("key/", "key/0")}))
    with pytest.raises(StorageError):
        unwrap_identity(tmp_path / "gone", kms)
    for wrong in ("{}", "x", json.dumps(document | {"wrapped": "!"}), json.dumps(document | {"format": "v0"})):
        (tmp_path / "broken").write_text(wrong)
        with pytest.raises(ConfigurationError, match="is not one"):
            unwrap_identity(tmp_path / "broken", kms)


@pytest.mark.parametrize(
    ("code", "status", "error"),
    [
        ("AccessDeniedException", 400, AccessDenied),
        ("InvalidCiphertextException", 400, AccessDenied),
        ("IncorrectKeyException", 400, AccessDenied),
        ("DisabledException", 400, AccessDenied),
        ("NotFoundException", 400, ObjectMissing),
        ("ThrottlingException", 400, StorageError),
        ("KMSInternalException", 500, StorageError),
    ],
)
def test_what_kms_refuses_is_told_apart_from_what_a_retry_may_cure(
    tmp_path: Path, kms: Any, code: str, status: int, error: type[StorageError]
) -> None:
    from botocore.stub import Stubber

    wrap_identity(tmp_path / "wrapped", kms.create_key()["KeyMetadata"]["Arn"], kms)
    with Stubber(kms) as stub:
        stub.add_client_error("decrypt", code, http_status_code=status)
        with pytest.raises(StorageError, match=code) as caught:
            unwrap_identity(tmp_path / "wrapped", kms)
    assert type(caught.value) is error
