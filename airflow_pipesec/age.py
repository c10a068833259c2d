"""age v1: files encrypted so that the stock ``age`` program can decrypt them, and the other way round.

The format is C2SP's (https://c2sp.org/age, also age-encryption.org/v1): a text header that wraps a random file key for each
recipient, and a payload in chunks of 64 KiB, each authenticated together with its place and with whether it is the last. So a
file that was cut, extended, reordered or changed is found out, chunk by chunk; only after the last chunk is it known to be whole.
Recipients are X25519 keys. Files for other kinds of recipient (passphrases, post-quantum hybrids, plugins) are recognised and
can't be decrypted here. What age does not do: it says nothing of who encrypted a file, nor of the file's name.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from airflow_pipesec.errors import ConfigurationError, EncryptionError
from airflow_pipesec.storage import Source

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

__all__ = ["CHUNK", "Header", "Identity", "Recipient", "decrypted", "encrypted", "new_identity", "read_header"]

CHUNK = 64 << 10
TAG = 16
BATCH = 16  # chunks that are read and given on at once
VERSION = b"age-encryption.org/v1\n"
ARMOR = b"-----BEGIN AGE ENCRYPTED FILE-----"
# Those of age and rage, and of the plugins that age's authors publish. A header may have others beside them, put there so that
# programs stay used to meeting what they do not know.
KNOWN_KINDS = frozenset(
    ("X25519", "scrypt", "ssh-ed25519", "ssh-rsa", "piv-p256", "mlkem768x25519", "p256tag", "mlkem768p256tag")
)
MAX_HEADER = 1 << 20
_X25519_INFO = b"age-encryption.org/v1/X25519"
_ZERO_NONCE = bytes(12)


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who a file is encrypted for: an X25519 public key, written ``age1…``."""

    public: bytes

    @classmethod
    def parse(cls, text: str) -> Recipient:
        """Read ``age1…``. Raises :class:`ConfigurationError` for anything else."""
        kind, data = _bech32_decode(text.strip(), "recipient")
        if kind != "age" or len(data) != 32:
            raise ConfigurationError("a recipient is not an X25519 one. Give the public key that starts with age1.")
        return cls(data)

    def __str__(self) -> str:
        return _bech32_encode("age", self.public)


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who can decrypt: an X25519 private key, written ``AGE-SECRET-KEY-1…``. Its repr shows the public key alone."""

    secret: bytes

    @classmethod
    def parse(cls, text: str) -> Identity:
        """Read ``AGE-SECRET-KEY-1…``. Raises :class:`ConfigurationError`, which does not quote it, for anything else."""
        kind, data = _bech32_decode(text.strip(), "identity")
        if kind != "age-secret-key-" or len(data) != 32:
            raise ConfigurationError("an identity is not an X25519 one. Give the private key that starts with AGE-SECRET-KEY-1.")
        return cls(data)

    @property
    def key(self) -> X25519PrivateKey:
        """The private key as ``cryptography`` has it."""
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        return X25519PrivateKey.from_private_bytes(self.secret)

    @property
    def recipient(self) -> Recipient:
        """The public half."""
        return Recipient(self.key.public_key().public_bytes_raw())

    def reveal(self) -> str:
        """Return the private key as text: for a key file, never for a log."""
        return _bech32_encode("age-secret-key-", self.secret).upper()

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"


def new_identity() -> Identity:
    """Make a private key from the system's random numbers."""
    return Identity(os.urandom(32))


class Stanza(NamedTuple):
    """One recipient's part of a header: type, arguments, body."""

    kind: str
    arguments: tuple[str, ...]
    body: bytes


class Header(NamedTuple):
    """A parsed header: the stanzas, the MAC, and the bytes that the MAC is over."""

    stanzas: tuple[Stanza, ...]
    mac: bytes
    signed: bytes

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of recipient, such as ``X25519``, each once, in order."""
        return tuple(dict.fromkeys(stanza.kind for stanza in self.stanzas))

    @property
    def recipients(self) -> str:
        """What kinds of recipient there are, for people. An unknown one is not quoted: anything may be written there."""
        known = [kind for kind in self.kinds if kind in KNOWN_KINDS]
        return f"recipients of kind {', '.join(known)}" if known else "recipients of unknown kinds alone"


def encrypted(source: Source, recipients: Sequence[Recipient]) -> Iterator[memoryview]:
    """Yield the encrypted form of what ``source`` holds, in pieces, for any of the recipients to decrypt.

    A piece is valid until the next is asked for: its memory is used again, so how much is held does not depend on the size.
    Raises :class:`ConfigurationError` without a recipient.
    """
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not recipients:
        raise ConfigurationError("there is no recipient. Give at least one public key (age1…) to encrypt for.")
    file_key, nonce = os.urandom(16), os.urandom(16)
    lines = b"".join(_wrap(file_key, recipient) for recipient in dict.fromkeys(recipients))
    signed = VERSION + lines + b"---"
    yield memoryview(signed + b" " + _base64(_mac(file_key, signed)) + b"\n" + nonce)
    cipher = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    current, following = memoryview(bytearray(BATCH * CHUNK)), memoryview(bytearray(BATCH * CHUNK))
    out = memoryview(bytearray(BATCH * (CHUNK + TAG)))
    number, held = 0, _fill(source, current)
    while True:
        more = _fill(source, following) if held == len(current) else 0
        end = 0
        for start in range(0, max(held, 1), CHUNK):
            chunk = current[start : min(start + CHUNK, held)]
            last = not more and start + CHUNK >= held
            end += cipher.encrypt_into(_nonce(number, last=last), chunk, None, out[end : end + len(chunk) + TAG])
            number += 1
        yield out[:end]
        if not more:
            return
        current, following, held = following, current, more


def decrypted(source: Source, identities: Sequence[Identity]) -> Iterator[memoryview]:
    """Yield what is in an encrypted file, piece by piece; a piece is valid until the next is asked for.

    Each piece is authentic when it is yielded, but that the file is whole is known only when the iterator ends: put nothing in
    its place before. Raises :class:`EncryptionError` for a file that is not one, is not for these identities or was changed.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    reader = _Reader(source)
    header = _parse(reader)
    file_key = _unwrap(header, identities)
    _check_mac(header, file_key)
    nonce = bytearray(16)
    if _fill(reader, memoryview(nonce)) != len(nonce):
        raise EncryptionError("the header is all there is: the payload's nonce is missing")
    cipher = ChaCha20Poly1305(_hkdf(file_key, bytes(nonce), b"payload"))
    batch, out = memoryview(bytearray(BATCH * (CHUNK + TAG))), memoryview(bytearray(BATCH * CHUNK))
    number, last = 0, False
    while not last:
        held = _fill(reader, batch)
        end, problem = 0, "" if held else "the payload is cut off: its last chunk is missing"
        for start in range(0, held, CHUNK + TAG):
            chunk = batch[start : min(start + CHUNK + TAG, held)]
            if last:
                problem = "the payload goes on after its last chunk"
                break
            last = len(chunk) < CHUNK + TAG
            room = out[end : end + max(len(chunk) - TAG, 0)]
            try:
                cipher.decrypt_into(_nonce(number, last=last), chunk, None, room)
            except (InvalidTag, ValueError):
                # A full chunk may be the last one as well.
                last = True
                try:
                    cipher.decrypt_into(_nonce(number, last=True), chunk, None, room)
                except (InvalidTag, ValueError):
                    problem = f"chunk {number} of the payload is not authentic: changed, moved or cut"
                    break
            if not room and number:
                problem = "the payload ends in an empty chunk"
                break
            end, number = end + len(room), number + 1
        if end:
            yield out[:end]
        if problem:
            raise EncryptionError(problem)
    if _fill(reader, batch[:1]):
        raise EncryptionError("the payload goes on after its last chunk")


def read_header(source: Source) -> Header:
    """Parse a header, to its MAC, which can't be checked without a key. Raises :class:`EncryptionError` for anything else."""
    return _parse(_Reader(source))


def payload_fits(length: int) -> bool:
    """Whether what follows a header can be a payload, by its length in bytes: a nonce, full chunks, a last one with its tag."""
    rest = (length - 16) % (CHUNK + TAG)
    return length >= 16 + TAG and (rest == 0 or rest > TAG or length == 16 + TAG)


# ---- header


class _Reader:
    """Reads a header line by line, and then what follows it."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.held = b""
        self.taken = 0

    def peek(self, size: int) -> bytes:
        """Return the next bytes, fewer where there are no more, and leave them to be read."""
        while len(self.held) < size and (count := self.source.readinto(memoryview(more := bytearray(4096)))):
            self.held += more[:count]
        return self.held[:size]

    def line(self) -> bytes:
        while (end := self.held.find(b"\n")) < 0:
            more = bytearray(4096)
            count = self.source.readinto(memoryview(more))
            if not count or self.taken + len(self.held) > MAX_HEADER:
                raise EncryptionError("the header is cut off or longer than any")
            self.held += more[:count]
        line, self.held = self.held[: end + 1], self.held[end + 1 :]
        self.taken += len(line)
        return line

    def readinto(self, buffer: memoryview) -> int | None:
        if not self.held:
            return self.source.readinto(buffer)
        count = min(len(buffer), len(self.held))
        buffer[:count], self.held = self.held[:count], self.held[count:]
        return count


_ARGUMENTS = re.compile(rb"-> [\x21-\x7e]+(?: [\x21-\x7e]+)*\n")


def _parse(reader: _Reader) -> Header:
    start = reader.peek(len(ARMOR))
    if not start.startswith(VERSION):
        if start == ARMOR:
            raise EncryptionError(
                "it is an age file in armor, which is text; only the binary form, without --armor, is read here"
            )
        known = start.startswith(b"age-encryption.org/")
        raise EncryptionError("the version of the format is not v1" if known else "it does not begin as an age file does")
    signed = reader.line()
    stanzas: list[Stanza] = []
    while True:
        line = reader.line()
        if line.startswith(b"---"):
            break
        if not _ARGUMENTS.fullmatch(line):
            raise EncryptionError("a line of the header is neither a recipient nor the end")
        signed += line
        kind, *arguments = line[3:-1].decode("ascii").split(" ")
        body = b""
        while True:
            text = reader.line()
            signed += text
            if len(text) > 65:
                raise EncryptionError("a line of the header is too long")
            body += text[:-1]
            if len(text) < 65:
                break
        stanza = Stanza(kind, tuple(arguments), _unbase64(body))
        if kind == "X25519" and (len(arguments) != 1 or len(_share(stanza)) != 32 or len(stanza.body) != 32):
            raise EncryptionError("an X25519 recipient of the header is malformed")
        stanzas.append(stanza)
    if not stanzas:
        raise EncryptionError("the header names no recipient")
    if len(stanzas) > 1 and any(stanza.kind == "scrypt" for stanza in stanzas):
        raise EncryptionError("the header has a passphrase beside other recipients")
    if not re.fullmatch(rb"--- [A-Za-z0-9+/]{43}\n", line):
        raise EncryptionError("the header does not end in its MAC")
    return Header(tuple(stanzas), _unbase64(line[4:-1]), signed + b"---")


def _wrap(file_key: bytes, recipient: Recipient) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    try:
        secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient.public))
    except ValueError:
        raise ConfigurationError("a recipient's key is a point that no key pair has. Give the recipient's own.") from None
    key = _hkdf(secret, share + recipient.public, _X25519_INFO)
    return b"-> X25519 " + _base64(share) + b"\n" + _base64(ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, file_key, None)) + b"\n"


def _unwrap(header: Header, identities: Sequence[Identity]) -> bytes:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    if not identities:
        raise ConfigurationError("there is no identity. Give at least one private key (AGE-SECRET-KEY-1…) to decrypt with.")
    ours = [stanza for stanza in header.stanzas if stanza.kind == "X25519"]
    for stanza in ours:
        share = _share(stanza)
        for identity in identities:
            try:
                secret = identity.key.exchange(X25519PublicKey.from_public_bytes(share))
            except ValueError:
                raise EncryptionError("an X25519 recipient of the header is a point of low order") from None
            key = _hkdf(secret, share + identity.recipient.public, _X25519_INFO)
            try:
                return ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, stanza.body, None)
            except InvalidTag:
                continue
    raise EncryptionError(f"it is not encrypted for the given identity; it has {header.recipients}")


def _share(stanza: Stanza) -> bytes:
    """Return the ephemeral public key of an X25519 recipient."""
    return _unbase64(stanza.arguments[0].encode())


def _check_mac(header: Header, file_key: bytes) -> None:
    from hmac import compare_digest

    if not compare_digest(_mac(file_key, header.signed), header.mac):
        raise EncryptionError("the header was changed: its MAC does not match")


def _mac(file_key: bytes, signed: bytes) -> bytes:
    import hmac

    return hmac.digest(_hkdf(file_key, b"", b"header"), signed, "sha256")


def _hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)


# ---- payload


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


def _fill(source: Source, buffer: memoryview) -> int:
    """Fill a buffer as far as the source goes, and return how far that was."""
    held = 0
    while held < len(buffer) and (count := source.readinto(buffer[held:])):
        held += count
    return held


# ---- text


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _unbase64(text: bytes) -> bytes:
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise EncryptionError("the header holds text that is not base64") from None
    if _base64(data) != text:
        raise EncryptionError("the header holds base64 that is not in its one form")
    return data


_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def _bech32_encode(kind: str, data: bytes) -> str:
    words = list(_regroup(data, 8, 5))
    checksum = _polymod([*_spread(kind), *words, 0, 0, 0, 0, 0, 0]) ^ 1
    words += [(checksum >> 5 * (5 - place)) & 31 for place in range(6)]
    return f"{kind}1{''.join(_BECH32[word] for word in words)}"


def _bech32_decode(text: str, what: str) -> tuple[str, bytes]:
    """Read Bech32 (BIP 173, without its limit of length)."""
    problem = ConfigurationError(f"the {what} is not well-formed: a mistyped or incomplete key. Copy it again, whole.")
    if text.lower() != text and text.upper() != text:
        raise problem
    kind, separator, rest = text.lower().rpartition("1")
    words = [_BECH32.find(letter) for letter in rest]
    if not separator or not kind or len(words) < 6 or -1 in words or _polymod([*_spread(kind), *words]) != 1:
        raise problem
    data = bytes(_regroup(words[:-6], 5, 8))
    if _bech32_encode(kind, data) != text.lower():
        raise problem
    return kind, data


def _spread(kind: str) -> list[int]:
    return [ord(letter) >> 5 for letter in kind] + [0] + [ord(letter) & 31 for letter in kind]


def _polymod(words: Iterable[int]) -> int:
    checksum = 1
    for word in words:
        top = checksum >> 25
        checksum = (checksum & 0x1FFFFFF) << 5 ^ word
        for place, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            checksum ^= generator if top >> place & 1 else 0
    return checksum


def _regroup(words: Iterable[int], width: int, into: int) -> Iterator[int]:
    held = bits = 0
    for word in words:
        held = held << width | word
        bits += width
        while bits >= into:
            bits -= into
            yield held >> bits & (1 << into) - 1
    if bits and into < width:
        yield held << (into - bits) & (1 << into) - 1
