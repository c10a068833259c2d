"""Keys: where the private keys that decrypt and sign come from, and nowhere that others can read.

A private key is never a parameter of a task: parameters are part of the serialized DAG, which everybody who may see the DAG can
read. What a task is given is a reference to the key:

* ``file:PATH``: a key file as ``pipesec keygen`` writes it, readable by its owner alone;
* ``env:NAME``: an environment variable that holds the text of such a file;
* ``kms:PATH``: a file with an identity to decrypt with that AWS KMS wrapped, as ``pipesec keygen --kms KEY`` writes it;
* ``connection:ID`` and ``variable:NAME``: the password of an Airflow connection, or an Airflow variable, from whatever secrets
  backend Airflow is set up with. Only in a task.

What signs is read by :mod:`airflow_pipesec.signing`, from the same places.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_pipesec.age import Identity, Recipient, new_identity
from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectRefused, StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.storage import plain_file

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

__all__ = [
    "Source",
    "create_private",
    "identities_from",
    "read_key_file",
    "recipients_from",
    "secret_behind",
    "unwrap_identity",
    "wrap_identity",
    "write_identity",
]

MAX_KEY_FILE = 1 << 20
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105 - how every private key of age begins
KMS_FORMAT = "pipesec/kms-wrapped-age-identity/v1"
Source = Callable[[str], str]


def identities_from(reference: str, sources: Mapping[str, Source] | None = None) -> list[Identity]:
    """Return the identities behind a reference. ``sources`` are further schemes, beside those of this module.

    Raises :class:`ConfigurationError`, which holds nothing of the key, for a reference that leads to none, and
    :class:`AccessDenied` for a key file that others may read.
    """
    known: dict[str, Source] = {"kms": _from_kms, **(sources or {})}
    identities = [Identity.parse(line) for line in _lines(secret_behind(reference, known, "identity="))]
    if not identities:
        raise ConfigurationError(f"identity={printable(reference)} leads to no key. Put the text of a key file there.")
    return identities


def secret_behind(reference: str, sources: Mapping[str, Source], parameter: str) -> str:
    """Return the text that a reference leads to. ``sources`` are further schemes, beside ``file`` and ``env``.

    Raises :class:`ConfigurationError` naming ``parameter``, and quoting nothing that may be a key, for what is no reference.
    """
    if not isinstance(reference, str):
        raise ConfigurationError(f"{parameter} is a {type(reference).__name__}. Give a reference to a key, such as file:PATH.")
    known: dict[str, Source] = {"file": _from_file, "env": _from_environment, **sources}
    if _SECRET in reference.upper() or "PRIVATE KEY" in reference.upper():
        raise ConfigurationError(
            f"{parameter} is a private key itself, which everybody who may see it there could use. Give a reference to it: "
            f"{', '.join(f'{name}:…' for name in known)}."
        )
    scheme, separator, rest = reference.partition(":")
    if not separator or scheme not in known or not rest:
        # What is no reference may be a secret: nothing is quoted but a plain word that stands where a scheme does.
        shown = f"{scheme}:…" if separator and re.fullmatch(r"[a-z]{1,16}", scheme) else ""
        raise ConfigurationError(
            f"{parameter}{shown} is no reference to a key. Use one of {', '.join(f'{name}:…' for name in known)}."
        )
    return known[scheme](rest)


def recipients_from(given: str | list[str] | tuple[str, ...]) -> list[Recipient]:
    """Return the recipients among public keys (``age1…``) and ``file:PATH`` references to files of them, one a line."""
    found: list[Recipient] = []
    for item in [given] if isinstance(given, str) else given:
        if not isinstance(item, str):
            raise ConfigurationError(f"a recipient is a {type(item).__name__}. Give public keys (age1…) or file:PATH.")
        if _SECRET in item.upper():
            raise ConfigurationError("a recipient is a private key. Give the public key, which starts with age1; keep the other.")
        scheme, _, path = item.partition(":")
        texts = _lines(read_key_file(Path(path)).decode("utf-8", "replace")) if scheme == "file" else [item]
        if any(_SECRET in text.upper() for text in texts):
            raise ConfigurationError(f"{printable(path)} holds a private key. Give the public one that `pipesec keygen` printed.")
        found += [Recipient.parse(text) for text in texts]
    if not found:
        raise ConfigurationError("there is no recipient. Give at least one public key (age1…) to encrypt for.")
    return found


def write_identity(path: Path) -> Identity:
    """Make a new identity and write it to a file, which must not exist, that only its owner can read."""
    identity = new_identity()
    create_private(path, f"# public key: {identity.recipient}\n{identity.reveal()}\n".encode())
    return identity


def wrap_identity(path: Path, key_id: str, client: KMSClient | None = None) -> Identity:
    """Make a new identity, let AWS KMS wrap it under ``key_id``, and write it to a file, which is then no secret by itself."""
    from airflow_pipesec.storage_remote import aws_errors

    identity = new_identity()
    context = {"pipesec": "age-identity", "recipient": str(identity.recipient)}
    with aws_errors(f"KMS key {key_id}"):
        client = client or _kms()
        answer = client.encrypt(KeyId=key_id, Plaintext=identity.reveal().encode(), EncryptionContext=context)
    document = {
        "format": KMS_FORMAT,
        "recipient": str(identity.recipient),
        "key": answer["KeyId"],
        "wrapped": base64.b64encode(answer["CiphertextBlob"]).decode(),
    }
    create_private(path, json.dumps(document, indent=1).encode() + b"\n")
    return identity


def unwrap_identity(path: Path, client: KMSClient | None = None) -> Identity:
    """Let AWS KMS unwrap an identity. The key, and the recipient that the file names, must be those it was wrapped with."""
    from airflow_pipesec.storage_remote import aws_errors

    where = f"wrapped identity {printable(str(path))}"
    try:
        document = json.loads(read_key_file(path))
        if document["format"] != KMS_FORMAT:
            raise ValueError
        recipient, key = str(document["recipient"]), str(document["key"])
        wrapped = base64.b64decode(document["wrapped"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ConfigurationError(f"{where} is not one. Give the file that `pipesec keygen --kms` wrote.") from None
    with aws_errors(where):
        client = client or _kms()
        context = {"pipesec": "age-identity", "recipient": recipient}
        answer = client.decrypt(CiphertextBlob=wrapped, KeyId=key, EncryptionContext=context)
    identity = Identity.parse(answer["Plaintext"].decode("ascii", "replace"))
    if str(identity.recipient) != recipient:
        raise ConfigurationError(f"{where} holds another key than it names. Make a new one with `pipesec keygen --kms`.")
    return identity


def _kms() -> KMSClient:
    import boto3

    return boto3.client("kms")


def _from_file(path: str) -> str:
    return read_key_file(Path(path), secret=True).decode("utf-8", "replace")


def _from_environment(name: str) -> str:
    try:
        value = os.environ.get(name)
    except ValueError:  # of a name that the system cannot write
        value = None
    if value is None:
        raise ConfigurationError(f"env:{printable(name)}: there is no such environment variable. Set it for the worker.")
    return value


def _from_kms(path: str) -> str:
    return unwrap_identity(Path(path)).reveal()


def read_key_file(path: Path, *, secret: bool = False, trusted: bool = False) -> bytes:
    """Return the bytes of a key file. Raises :class:`AccessDenied` for a secret that others may read, or one that is trusted and
    that others may write.
    """
    where = printable(str(path))
    try:
        with plain_file(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), f"key file {path}") as file:
            status = os.fstat(file.fileno())
            if secret and (status.st_mode & 0o077 or status.st_uid not in (0, os.geteuid())):
                raise AccessDenied(f"key file {where} can be read or written by others. Run: chmod 600, as its owner.")
            if trusted and (status.st_mode & 0o022 or status.st_uid not in (0, os.geteuid())):
                raise AccessDenied(
                    f"key file {where} can be written by others, who could add a key. Run: chmod 644, as its owner."
                )
            data = file.read(MAX_KEY_FILE + 1)
    except ObjectRefused as error:
        raise ConfigurationError(str(error)) from None
    except FileNotFoundError:
        raise ConfigurationError(f"key file {where} does not exist. Make one with `pipesec keygen`.") from None
    except PermissionError:
        raise AccessDenied(f"key file {where} may not be read. Grant the task's user access to it.") from None
    except ValueError:
        raise ConfigurationError(f"key file {where}: no path looks like that. Give that of a file.") from None
    except OSError as error:
        raise StorageError(f"key file {where}: {error.strerror}") from None
    if len(data) > MAX_KEY_FILE:
        raise ConfigurationError(f"key file {where} is larger than any. Give the file that was meant.")
    return data


def create_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read. Raises :class:`ConfigurationError` where something is there already."""
    where = printable(str(path))
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(descriptor)
        except BaseException:  # half a key is none, and would stand in the way of the next
            path.unlink()
            raise
    except FileExistsError:
        raise ConfigurationError(f"{where} exists, and a key is never overwritten. Give another place.") from None
    except ValueError:
        raise ConfigurationError(f"{where}: no path looks like that. Give another place.") from None
    except OSError as error:
        raise StorageError(f"{where}: {error.strerror}. Give a folder that can be written.") from None


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
