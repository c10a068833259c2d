"""Manifests: the names and digests of an artifact's files, in the layout that OpenSSF Model Signing v1.0 signs.

A manifest file is an in-toto Statement v1 with predicate ``https://model_signing/signature/v1.0``, unsigned: the resources in
path order, each with its digest, and as the subject's digest the SHA-256 over their concatenated raw digests. Signing it means to
put the same bytes into an envelope. Sources: https://github.com/ossf/model-signing-spec and https://in-toto.io/Statement/v1.

Two runs over the same bytes give the same manifest, whatever order the disk lists its files in and however many threads read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple, NoReturn

from airflow_pipesec.errors import ConfigurationError, KeyGivenTwice, ManifestError, unique_keys
from airflow_pipesec.findings import printable
from airflow_pipesec.hashing import ALGORITHMS, new_hasher
from airflow_pipesec.storage import by_path

__all__ = ["Digest", "Manifest", "Resource"]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MAX_MANIFEST_BYTES = 256 << 20  # some two million files; reading it takes many times as much memory


class Digest(NamedTuple):
    """A digest and the algorithm that made it; written ``sha256:ab12…``."""

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``algorithm:hex``, or bare hexadecimal digits for SHA-256. Raises :class:`ConfigurationError` otherwise."""
        algorithm, separator, digits = text.strip().lower().rpartition(":")
        algorithm = algorithm if separator else "sha256"
        if algorithm not in ALGORITHMS or len(digits) != ALGORITHMS[algorithm] or not _is_lower_hex(digits):
            raise ConfigurationError(
                f"{printable(text[:80])!r} is not a digest. Write sha256:<64 hexadecimal digits>; "
                f"known algorithms are {', '.join(ALGORITHMS)}."
            )
        return cls(algorithm, digits)

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


class Resource(NamedTuple):
    """One file of a manifest: its name under the root, its digest in hexadecimal, and the object version that was read."""

    name: str
    digest: str
    version: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The files of an artifact and their digests, all of one algorithm, in path order.

    ``name`` is the artifact's own name. Resources are sorted on construction by the functions of this module; a name that
    appears twice raises :class:`ManifestError`.
    """

    name: str
    algorithm: str
    resources: tuple[Resource, ...]

    @classmethod
    def of(cls, name: str, algorithm: str, resources: Iterable[Resource]) -> Manifest:
        """Make a manifest from resources in any order."""
        ordered = tuple(sorted(resources, key=lambda resource: by_path(resource.name)))
        for before, after in pairwise(ordered):
            if before.name == after.name:
                raise ManifestError(f"the manifest names {printable(after.name)} twice. Make a new manifest from the source.")
        return cls(name, algorithm, ordered)

    @cached_property
    def tree_digest(self) -> str:
        """One digest that stands for every name and every digest, written ``tree:sha256:…``; in the manifest's own algorithm.

        The root digest of OpenSSF Model Signing is over the digests alone: it stays the same when files are renamed in place, or
        when one file holds the digests of many.
        """
        hasher = new_hasher(self.algorithm)()
        for item in self.resources:
            hasher.update(f"{json.dumps(item.name)} {item.digest}\n".encode("ascii"))
        return f"tree:{self.algorithm}:{hasher.digest().hex()}"

    @cached_property
    def root_digest(self) -> Digest:
        """SHA-256 over the raw digests in path order: one digest that stands for the whole artifact."""
        raw = bytes.fromhex("".join([resource.digest for resource in self.resources]))
        return Digest("sha256", hashlib.sha256(raw).hexdigest())

    def to_json(self) -> bytes:
        """Write the statement as JSON, one resource a line. The same manifest always gives the same bytes."""
        lines = ",\n".join(
            f'{{"name":{json.dumps(item.name)},"algorithm":"{self.algorithm}","digest":"{item.digest}"}}'
            for item in self.resources
        )
        subject = [{"name": self.name, "digest": {"sha256": self.root_digest.hex}}]
        serialization = {"method": "files", "hash_type": self.algorithm, "allow_symlinks": False}
        versions = {item.name: item.version for item in self.resources if item.version}
        # Verifiers of the format ignore members of the predicate that they do not know.
        pinned = f',\n"object_versions":{json.dumps(versions, sort_keys=True)}' if versions else ""
        return (
            f'{{"_type":"{STATEMENT_TYPE}",\n"subject":{json.dumps(subject)},\n"predicateType":"{PREDICATE_TYPE}",\n'
            f'"predicate":{{"serialization":{json.dumps(serialization)},\n"resources":[\n{lines}\n]{pinned}}}}}\n'
        ).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest. Anything but the one form raises :class:`ManifestError` saying what is wrong.

        Refused are: other types, serializations other than whole files, ``ignore_paths`` (a hiding place), names or keys given
        twice, resources out of order, digests of the wrong length, and a subject digest that is not that of the resources.
        Names are not judged here: whether one leads outside the root is a finding of the check that reads it.
        """
        try:
            document = json.loads(data, object_pairs_hook=unique_keys, parse_constant=_no_constant)
        except KeyGivenTwice:
            raise ManifestError("the manifest gives a key twice. Make a new manifest.") from None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"the manifest is not valid JSON ({type(error).__name__}). Make a new manifest.") from None
        try:
            return _from_statement(document)
        except KeyError as error:
            raise ManifestError(f"the manifest lacks {error}. Make a new manifest.") from None
        except (TypeError, AttributeError) as error:
            raise ManifestError(
                f"the manifest has a part of the wrong type ({type(error).__name__}). Make a new manifest."
            ) from None


def _no_constant(name: str) -> NoReturn:
    raise ManifestError(f"the manifest contains {name}, which is no JSON. Make a new manifest.")


def _from_statement(document: dict[str, Any]) -> Manifest:
    def demand(holds: bool, reason: str) -> None:
        if not holds:
            raise ManifestError(f"{reason}. Make a new manifest with HashManifestOperator or `pipesec manifest`.")

    demand(document["_type"] == STATEMENT_TYPE, f"the manifest is not an in-toto statement ({STATEMENT_TYPE})")
    demand(document["predicateType"] == PREDICATE_TYPE, f"the manifest's predicate is not {PREDICATE_TYPE}")
    (subject,) = document["subject"] if len(document["subject"]) == 1 else ({},)
    demand(bool(subject), "the manifest does not have exactly one subject")
    predicate = document["predicate"]
    serialization = predicate["serialization"]
    demand(serialization["method"] == "files", "the manifest was not made from whole files")
    demand(serialization["allow_symlinks"] is False, "the manifest allows symbolic links")
    demand(not serialization.get("ignore_paths"), "the manifest ignores paths, which would hide what lies there")
    algorithm = serialization["hash_type"]
    demand(isinstance(algorithm, str) and algorithm in ALGORITHMS, f"the manifest's algorithm is none of {', '.join(ALGORITHMS)}")
    demand(isinstance(subject["name"], str), "the manifest's subject has no name")
    versions = predicate.get("object_versions", {})
    demand(all(isinstance(version, str) for version in versions.values()), "the manifest's object versions are not text")
    digits = ALGORITHMS[algorithm]
    resources = []
    for item in predicate["resources"]:
        name, digest = item["name"], item["digest"]
        if not isinstance(name, str) or not name:
            demand(False, "a resource of the manifest has no name")
        if item["algorithm"] != algorithm or len(digest) != digits:
            demand(False, f"{printable(name)} is not recorded with {digits} hexadecimal digits of {algorithm}")
        resources.append(Resource(name, digest, versions.get(name)))
    demand(_is_lower_hex("".join([item.digest for item in resources])), "a digest of the manifest is not lower-case hexadecimal")
    for before, after in pairwise([by_path(item.name) for item in resources]):
        if before >= after:
            demand(before != after, f"the manifest names {printable(after)} twice")
            demand(False, "the manifest's resources are not in path order")
    manifest = Manifest(subject["name"], algorithm, tuple(resources))
    demand(subject["digest"] == {"sha256": manifest.root_digest.hex}, "the manifest's root digest is not that of its resources")
    return manifest


def _is_lower_hex(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False
