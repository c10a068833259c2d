"""Signing: one private key signs, and only public keys that the configuration names are believed.

Ed25519 (RFC 8032) and ECDSA on P-256 with SHA-256 (FIPS 186-5) sign. Signatures of P-384 with SHA-384 and P-521 with SHA-512 are
verified as well, for manifests that others signed. Which algorithm a signature is checked with is decided by the trusted key
alone, never by what is being checked.

A key's id is the SHA-256, in hexadecimal, of its public half as PEM (SubjectPublicKeyInfo), which is what OpenSSF Model Signing
v1.0 calls its hint.

The private key is behind a reference, see :mod:`airflow_pipesec.keys`; ``awskms:KEY`` names a key of AWS KMS, which never leaves
it. The trusted keys are a YAML list::

    - name: release 2026
      public_key: |
        -----BEGIN PUBLIC KEY-----
        …
        -----END PUBLIC KEY-----
      valid_from: 2026-11-25T00:00:00Z
      valid_until: 2027-11-25T00:00:00Z   # may be left out
      revoked: its disk was stolen        # nothing that it signed, ever, is believed
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from airflow_pipesec.documents import strict_yaml
from airflow_pipesec.errors import AccessDenied, ConfigurationError, EvidenceError, ObjectMissing, StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.keys import Source, create_private, read_key_file, secret_behind

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

__all__ = [
    "KMSSigner",
    "LocalSigner",
    "PublicKey",
    "Signer",
    "TrustedKey",
    "TrustedKeys",
    "entry_of",
    "key_id_of",
    "new_private_key",
    "signer_from",
]

PublicKey = ed25519.Ed25519PublicKey | ec.EllipticCurvePublicKey
PrivateKey = ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Algorithm = Literal["ecdsa-p256", "ed25519"]

_HASHES: Mapping[str, hashes.HashAlgorithm] = {
    "secp256r1": hashes.SHA256(),
    "secp384r1": hashes.SHA384(),
    "secp521r1": hashes.SHA512(),
}
_NAMES = {"secp256r1": "ecdsa-p256", "secp384r1": "ecdsa-p384", "secp521r1": "ecdsa-p521"}
_PRIVATE = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----|AGE-SECRET-KEY-")


class Signer(Protocol):
    """What signs. ``public_key`` is the half that others have to trust."""

    @property
    def public_key(self) -> PublicKey:
        """The public half."""

    @property
    def key_id(self) -> str:
        """The id of the key, see the module's documentation."""

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``: 64 raw bytes of Ed25519, or DER of ECDSA."""


@dataclass(frozen=True)
class LocalSigner:
    """Signs with a private key that this process holds."""

    private_key: PrivateKey

    def __post_init__(self) -> None:
        object.__setattr__(self, "_public", self.private_key.public_key())
        object.__setattr__(self, "_id", key_id_of(self.public_key))

    @classmethod
    def from_pem(cls, pem: bytes, where: str = "the signing key") -> LocalSigner:
        """Read a private key in PEM. Raises :class:`ConfigurationError`, which quotes nothing of it, for what is none."""
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except TypeError:
            raise ConfigurationError(
                f"{where} is protected by a password, which a task cannot type. Store it without one."
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigurationError(f"{where} is not a private key in PEM. Make one with `pipesec keygen --signing`.") from None
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls(key)
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp256r1":
            return cls(key)
        raise ConfigurationError(f"{where} is neither Ed25519 nor ECDSA P-256. Make one with `pipesec keygen --signing`.")

    @property
    def public_key(self) -> PublicKey:
        """The public half."""
        return self._public  # type: ignore[attr-defined, no-any-return] # computed once; a frozen dataclass declares no cache

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return self._id  # type: ignore[attr-defined, no-any-return] # as above

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``."""
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            return self.private_key.sign(data)
        return self.private_key.sign(data, ec.ECDSA(hashes.SHA256()))


class KMSSigner:
    """Signs with a key of AWS KMS (``ECC_NIST_P256``, for signing), which never leaves it: a digest goes in, a signature out.

    Needs ``kms:Sign`` and ``kms:GetPublicKey``. Raises :class:`ConfigurationError` for a key of another kind,
    :class:`~airflow_pipesec.errors.ObjectMissing` where there is none, :class:`~airflow_pipesec.errors.AccessDenied` where it may
    not or cannot be used, and :class:`~airflow_pipesec.errors.StorageError` for trouble that a retry may cure.
    """

    def __init__(self, key: str, client: KMSClient | None = None) -> None:
        self.key = key
        self._client = client
        self._public: ec.EllipticCurvePublicKey | None = None

    @property
    def client(self) -> KMSClient:
        """The boto3 client, made with boto3's own defaults when none was handed in."""
        if self._client is None:
            import boto3

            self._client = boto3.client("kms")
        return self._client

    @property
    def public_key(self) -> ec.EllipticCurvePublicKey:
        """The public half, asked for once."""
        if self._public is None:
            wrong = "does not sign on P-256. Make one with KeyUsage SIGN_VERIFY, KeySpec ECC_NIST_P256."
            wrong = f"KMS key {printable(self.key)} {wrong}"
            with _kms_errors(self.key):
                try:
                    answer = self.client.get_public_key(KeyId=self.key)
                except self.client.exceptions.UnsupportedOperationException:  # a symmetric key has no public half
                    raise ConfigurationError(wrong) from None
            try:
                public = serialization.load_der_public_key(answer["PublicKey"])
            except (ValueError, UnsupportedAlgorithm):
                public = None
            if (
                not isinstance(public, ec.EllipticCurvePublicKey)
                or public.curve.name != "secp256r1"
                or answer.get("KeyUsage") != "SIGN_VERIFY"
            ):
                raise ConfigurationError(wrong)
            self._public = public
        return self._public

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return key_id_of(self.public_key)

    def sign(self, data: bytes) -> bytes:
        """Return the signature over ``data``. What KMS answers is verified before it is believed."""
        public, digest = self.public_key, hashlib.sha256(data).digest()
        with _kms_errors(self.key):
            answer = self.client.sign(KeyId=self.key, Message=digest, MessageType="DIGEST", SigningAlgorithm="ECDSA_SHA_256")
        try:
            public.verify(answer["Signature"], digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        except InvalidSignature:
            raise EvidenceError(
                f"KMS key {printable(self.key)} gave a signature that its own public key refuses. "
                "If it is an alias, look at where it points; then run the task again."
            ) from None
        return answer["Signature"]


# What AWS says to credentials that it does not take. KMS says it with HTTP 400.
_NO_CREDENTIALS = {
    "ExpiredTokenException",
    "IncompleteSignature",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "MissingAuthenticationToken",
    "UnrecognizedClientException",
}


@contextmanager
def _kms_errors(key: str) -> Iterator[None]:
    """Turn what KMS answers into our errors: the key, the reason, and what whoever runs the worker can do."""
    from botocore.exceptions import ClientError

    from airflow_pipesec.storage_remote import aws_errors

    shown = f"KMS key {printable(key)}"
    with aws_errors(f"KMS key {key}"):  # for where there is no answer
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "unknown")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code in ("NotFoundException", "InvalidArnException"):
                raise ObjectMissing(
                    f"{shown} does not exist in this account and region ({code}). Check its id, ARN or alias, and the region."
                ) from error
            if code in _NO_CREDENTIALS:
                raise AccessDenied(
                    f"{shown} was asked for with AWS credentials that are not valid ({code}). Give the worker valid ones."
                ) from error
            if status in (401, 403) or code == "AccessDeniedException":
                raise AccessDenied(
                    f"{shown} may not be used to sign ({code}). Grant the worker's role kms:Sign and kms:GetPublicKey on it."
                ) from error
            if code in ("DisabledException", "KMSInvalidStateException"):
                raise AccessDenied(f"{shown} is not enabled ({code}). Enable it in KMS, or sign with another key.") from error
            raise StorageError(
                f"{shown} could not be asked to sign ({code}, HTTP {status}). Run the task again; if it stays so, look at KMS."
            ) from error


def signer_from(reference: str, sources: Mapping[str, Source] | None = None, *, parameter: str = "signing_key=") -> Signer:
    """Return the signer behind a reference: ``file:PATH``, ``env:NAME``, ``awskms:KEY``, and the schemes of ``sources``.

    A key of AWS KMS is asked for its public half at once. Raises :class:`ConfigurationError`, which holds nothing of the key, for
    a reference that leads to none, :class:`~airflow_pipesec.errors.AccessDenied` for a key file that others may read, and the
    errors of :class:`KMSSigner`.
    """
    remote: list[KMSSigner] = []

    def of_kms(key: str) -> str:  # no text comes of it; what may be a private key by mistake was refused before
        remote.append(KMSSigner(key))
        return ""

    text = secret_behind(reference, {**(sources or {}), "awskms": of_kms}, parameter)
    if remote:
        _ = remote[0].public_key
        return remote[0]
    return LocalSigner.from_pem(text.encode("utf-8", "replace"), f"signing key {printable(reference)}")


def new_private_key(path: Path, algorithm: Algorithm = "ecdsa-p256") -> LocalSigner:
    """Make a private key and write it to a file, which must not exist, that only its owner can read."""
    key: PrivateKey
    if algorithm == "ed25519":
        key = ed25519.Ed25519PrivateKey.generate()
    elif algorithm == "ecdsa-p256":
        key = ec.generate_private_key(ec.SECP256R1())
    else:
        raise ConfigurationError(f"algorithm {algorithm!r} does not sign here. Use ecdsa-p256 or ed25519.")
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    create_private(path, pem)
    return LocalSigner(key)


def _pem(key: PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def key_id_of(key: PublicKey) -> str:
    """Return the id of a key: the SHA-256 of its public half as PEM, in hexadecimal."""
    return hashlib.sha256(_pem(key)).hexdigest()


def entry_of(key: PublicKey, *, name: str, valid_from: datetime, valid_until: datetime | None = None) -> str:
    """Return the entry of a key for a file of trusted keys, ready to be appended to one."""
    import yaml

    # Quoted, every character beyond ASCII as YAML's own escape: those of JSON are others beyond U+FFFF.
    quoted = yaml.safe_dump(name, default_style='"', width=10**9).strip()
    lines = [f"- name: {quoted}", f"  key_id: {key_id_of(key)}", "  public_key: |"]
    lines += [f"    {line}" for line in _pem(key).decode("ascii").splitlines()]
    lines.append(f"  valid_from: {valid_from.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    if valid_until is not None:
        lines.append(f"  valid_until: {valid_until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    return "\n".join(lines) + "\n"


class TrustedKey(NamedTuple):
    """A public key that is believed, when it is valid; and its name for people."""

    name: str
    key_id: str
    public_key: PublicKey
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    revoked: str | None = None

    @property
    def algorithm(self) -> str:
        """``ed25519``, ``ecdsa-p256``, ``ecdsa-p384`` or ``ecdsa-p521``."""
        return "ed25519" if isinstance(self.public_key, ed25519.Ed25519PublicKey) else _NAMES[self.public_key.curve.name]

    def fault(self, at: datetime) -> str:
        """Why nothing that was signed at that time is believed; empty where nothing speaks against it."""
        if self.revoked is not None:
            return f"key {printable(self.name)} is revoked ({printable(self.revoked)})"
        if self.valid_from is not None and at < self.valid_from:
            return f"key {printable(self.name)} is valid from {_moment(self.valid_from)} on, and it was {_moment(at)}"
        if self.valid_until is not None and at > self.valid_until:
            return f"key {printable(self.name)} was valid until {_moment(self.valid_until)}, and it was {_moment(at)}"
        return ""

    def verifies(self, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's over ``data``, by this key's own algorithm."""
        try:
            if isinstance(self.public_key, ed25519.Ed25519PublicKey):
                self.public_key.verify(signature, data)
            else:
                self.public_key.verify(signature, data, ec.ECDSA(_HASHES[self.public_key.curve.name]))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class TrustedKeys:
    """The public keys that are believed, by id. There is no other way to be believed."""

    keys: Mapping[str, TrustedKey]

    def __iter__(self) -> Iterator[TrustedKey]:
        return iter(self.keys.values())

    @classmethod
    def load(cls, path: str | PathLike[str]) -> TrustedKeys:
        """Read a file of trusted keys, see the module's documentation.

        Raises :class:`ConfigurationError` naming the place for anything but that form (an unknown member, a key given twice, an
        id that is not the key's), and :class:`~airflow_pipesec.errors.AccessDenied` for a file that others may write.
        """
        where = f"trusted keys {printable(str(path))}"
        data = read_key_file(Path(path), trusted=True)
        return cls.parse(data, where)

    @classmethod
    def parse(cls, data: bytes, where: str = "the trusted keys") -> TrustedKeys:
        """Read the text of a file of trusted keys. Raises :class:`ConfigurationError`, see :meth:`load`."""
        if _PRIVATE.search(data):
            raise ConfigurationError(
                f"{where} hold a private key, which everybody who may read them could use. Take it out, and make a new one."
            )
        document = strict_yaml(data, where)
        if not isinstance(document, list) or not document:
            raise ConfigurationError(f"{where} is not a list of keys. Append what `pipesec keygen --signing` prints.")
        found: dict[str, TrustedKey] = {}
        for number, item in enumerate(document, 1):
            key = _trusted_key(item, f"{where}, key {number}")
            if key.key_id in found:
                raise ConfigurationError(f"{where}, key {number}: the same key is given twice. Leave one.")
            found[key.key_id] = key
        return cls(found)

    def verify(self, key_id: str, data: bytes, signature: bytes) -> TrustedKey:
        """Return the trusted key that made a signature, whenever that was. Raises :class:`EvidenceError` where none did."""
        key = self.keys.get(key_id)
        if key is None:
            shown = f"{printable(key_id[:16])}…" if key_id else "it has no id"
            raise EvidenceError(f"it is signed by a key that is not trusted ({shown})")
        if not key.verifies(data, signature):
            raise EvidenceError(f"its signature is not that of key {printable(key.name)}, which it names")
        return key


_MEMBERS = {"name", "key_id", "public_key", "valid_from", "valid_until", "revoked"}


def _trusted_key(item: Any, where: str) -> TrustedKey:
    if not isinstance(item, dict):
        raise ConfigurationError(f"{where} is not a mapping. Append what `pipesec keygen --signing` prints.")
    if unknown := sorted(map(str, set(item) - _MEMBERS)):
        raise ConfigurationError(
            f"{where} has unknown members ({printable(', '.join(unknown))[:80]}). Known: {', '.join(sorted(_MEMBERS))}."
        )
    name, pem = item.get("name"), item.get("public_key")
    if not isinstance(name, str) or not name.strip():
        raise ConfigurationError(f"{where} has no name. Give one, for people to know it by.")
    if not isinstance(pem, str) or "PRIVATE" in pem:
        raise ConfigurationError(f"{where} has no public_key. Give the public half in PEM; keep the private half to yourself.")
    try:
        public = serialization.load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(
            f"{where}: public_key is not a public key in PEM. Append what `pipesec keygen --signing` prints."
        ) from None
    if not isinstance(public, ed25519.Ed25519PublicKey) and not (
        isinstance(public, ec.EllipticCurvePublicKey) and public.curve.name in _HASHES
    ):
        raise ConfigurationError(f"{where} is none of Ed25519, ECDSA P-256, P-384 and P-521. Give a key of one of them.")
    if pem.split() != _pem(public).decode("ascii").split():
        # Of two keys in a row one would count, and who looks at the file may see the other.
        raise ConfigurationError(f"{where}: public_key is not just one key as `openssl pkey -pubout` writes it. Leave only that.")
    key_id = key_id_of(public)
    if item.get("key_id", key_id) != key_id:
        raise ConfigurationError(
            f"{where}: key_id is not that of the key, which is {key_id}. Find out which of the two is meant."
        )
    revoked = item.get("revoked")
    if revoked is False:
        revoked = None
    elif revoked is True:
        revoked = "no reason given"
    if not isinstance(revoked, str | None):
        raise ConfigurationError(f"{where}: revoked is a {type(revoked).__name__}. Give the reason, or leave it out.")
    start, end = (_time(item.get(member), f"{where}: {member}") for member in ("valid_from", "valid_until"))
    if start is not None and end is not None and start >= end:
        raise ConfigurationError(f"{where} is valid until before it is valid. Mend valid_from or valid_until.")
    return TrustedKey(name, key_id, public, start, end, revoked)


def _time(value: Any, where: str) -> datetime | None:
    if value is None:
        return None
    with suppress(ValueError, OverflowError):  # a time of the first or the last day there is, in another zone
        if isinstance(value, str) and (when := datetime.fromisoformat(value)).tzinfo is not None:
            return when.astimezone(UTC)
    raise ConfigurationError(f"{where} is not a time with its zone, such as 2026-11-25T00:00:00Z.")


def _moment(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
