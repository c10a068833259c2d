"""The errors this package raises on purpose.

::

    PipesecError
    ├── ConfigurationError        what the author wrote cannot work: fix it, a retry will not help
    │   ├── FindingError          a finding or control that cannot be one; also a ValueError
    │   ├── PolicyError           a policy or waiver that cannot be read
    │   └── PlanError             a plan that cannot be read, or that a DAG cannot be woven by
    ├── ManifestError             a manifest that is malformed or contradicts itself
    ├── EvidenceError             evidence that is malformed, forged, or signed by nobody who is trusted
    ├── EncryptionError           an encrypted file that is malformed, tampered with, or not for us
    ├── VerificationError         bytes that are not what was verified
    │   └── ArtifactRefused       a model file whose loading could do more than build a model
    └── StorageError              a place that could not be read or written
        ├── ObjectMissing         there is nothing there
        ├── ObjectExists          something is there already, and is never replaced
        ├── AccessDenied          there may be something, but we may not look
        └── ObjectRefused         what is there is not something we read: a link, a device, a path that leaves its root

A :class:`StorageError` of no narrower kind is trouble with the world (a lost connection, throttling) that a retry may cure.
Every message names the thing, the reason and the remedy, and holds no content of any file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = [
    "AccessDenied",
    "ArtifactRefused",
    "ConfigurationError",
    "EncryptionError",
    "EvidenceError",
    "FindingError",
    "KeyGivenTwice",
    "ManifestError",
    "ObjectExists",
    "ObjectMissing",
    "ObjectRefused",
    "PipesecError",
    "PlanError",
    "PolicyError",
    "StorageError",
    "VerificationError",
    "place_of",
    "unique_keys",
]


class PipesecError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(PipesecError):
    """A parameter or file written by the author cannot work; no retry helps."""


class FindingError(ConfigurationError, ValueError):
    """A finding, a subject or a control has a part that is missing or of the wrong type."""


class PolicyError(ConfigurationError):
    """A policy, or a waiver in it, cannot be read."""


class PlanError(ConfigurationError):
    """A plan cannot be read, or a DAG cannot be guarded as it says."""


class ManifestError(PipesecError):
    """A manifest is malformed, contradicts itself or names things twice."""


class EvidenceError(PipesecError):
    """A piece of evidence is malformed, forged, or signed by nobody who is trusted."""


class EncryptionError(PipesecError):
    """An encrypted file is malformed, was tampered with, or is not for the given identity."""


class VerificationError(PipesecError):
    """Bytes are not the ones that were verified, and are not given out."""


class ArtifactRefused(VerificationError):
    """Loading a model file could do more than build a model, or nobody can tell; nothing of it was loaded."""


class StorageError(PipesecError):
    """A place could not be read or written; a retry may help."""


class ObjectMissing(StorageError):
    """Nothing exists at that place."""


class ObjectExists(StorageError):
    """Something exists already at a place that is written once, and is never replaced."""


class AccessDenied(StorageError):
    """The place exists or may exist, but permission to look was denied."""


class ObjectRefused(StorageError):
    """The thing at that place is a symbolic link, a special file or outside its root, and is not read."""


class KeyGivenTwice(ValueError):
    """A JSON object gives a key twice, and readers disagree which of the two counts."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a dictionary of a JSON object's pairs (``object_pairs_hook``). Raises :class:`KeyGivenTwice`."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise KeyGivenTwice("a key is given twice")
    return found


def place_of(error: BaseException) -> str:
    """Name an exception by type and by the line that raised it, without its message, which may quote the data."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else ""
    return f"{type(error).__name__}{where}"
