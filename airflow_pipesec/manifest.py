"""Manifests: the names and digests of an artifact's files, in the layout that OpenSSF Model Signing v1.0 signs.

A manifest is an in-toto Statement v1 with predicate ``https://model_signing/signature/v1.0``: the resources in path order, each
with its digest, and as the subject's digest the SHA-256 over their concatenated raw digests. It lies bare in a file, or, signed,
as the same bytes in a bundle, see :mod:`airflow_pipesec.bundle`. Sources: https://github.com/ossf/model-signing-spec and
https://in-toto.io/Statement/v1.

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
from airflow_pipesec.storage import SINGLE, by_path

__all__ = ["MAX_MANIFEST_BYTES", "SIGNED_ALGORITHMS", "Digest", "Manifest", "Resource", "read_json"]

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
SIGNED_ALGORITHMS = ("sha256", "blake3")  # those that OpenSSF Model Signing knows as well
MAX_MANIFEST_BYTES = 256 << 20  # some two million files; reading it takes many times as much memory
_STATEMENT = {"_type", "subject", "predicateType", "predicate"}
_PREDICATE = {"resources", "serialization"}
_SERIALIZATION = {"method", "hash_type", "allow_symlinks", "ignore_paths"}
_NOTHING: dict[str, Any] = {}


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

        It is the ``dirHash`` of in-toto (https://github.com/in-toto/attestation/blob/main/spec/v1/digest_set.md): the digest of
        what ``sha256sum`` prints of the files, in the byte order of their names, so that anyone can compute it. Names with a
        backslash or a line break are escaped as GNU ``sha256sum`` does, so that no two trees have the same lines.

        The root digest of OpenSSF Model Signing is over the digests alone: it stays the same when files are renamed in place, or
        when one file holds the digests of many.
        """
        hasher = new_hasher(self.algorithm)()
        for _, line in sorted(map(_as_sha256sum, self.resources)):
            hasher.update(line)
        return f"tree:{self.algorithm}:{hasher.digest().hex()}"

    @cached_property
    def digest(self) -> str:
        """The file's own digest, ``sha256:…``, where the manifest is that of a single file; the digest of the tree otherwise."""
        if len(self.resources) == 1 and self.resources[0].name == SINGLE:
            return f"{self.algorithm}:{self.resources[0].digest}"
        return self.tree_digest

    @cached_property
    def root_digest(self) -> Digest:
        """SHA-256 over the raw digests in path order, which OpenSSF Model Signing puts into the subject."""
        return _root_digest(self.resources)

    def of_file(self, name: str) -> Manifest:
        """Return the manifest with its one file called ``.``, where it is called by its ``name``; any other as it is.

        The specification calls a file that is signed by itself by its name. The reference implementation calls it ``.``, verifies
        no other, and is followed here.
        """
        if [item.name for item in self.resources] != [name]:
            return self
        return Manifest(self.name, self.algorithm, (self.resources[0]._replace(name=SINGLE),))

    def to_json(self) -> bytes:
        """Write the statement as JSON, one resource a line. The same manifest always gives the same bytes."""
        # Verifiers of the format ignore members of a resource that they do not know; of the predicate, its schema allows no more.
        lines = ",\n".join(
            f'{{"name":{json.dumps(item.name)},"algorithm":"{self.algorithm}","digest":"{item.digest}"'
            + (f',"annotations":{{"object_version":{json.dumps(item.version)}}}}}' if item.version else "}")
            for item in self.resources
        )
        subject = [{"name": self.name, "digest": {"sha256": self.root_digest.hex}}]
        serialization = {"method": "files", "hash_type": self.algorithm, "allow_symlinks": False}
        return (
            f'{{"_type":"{STATEMENT_TYPE}",\n"subject":{json.dumps(subject)},\n"predicateType":"{PREDICATE_TYPE}",\n'
            f'"predicate":{{"serialization":{json.dumps(serialization)},\n"resources":[\n{lines}\n]}}}}\n'
        ).encode("ascii")

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a bare manifest. Anything but the one form raises :class:`ManifestError` saying what is wrong.

        Refused are: other types, serializations other than whole files, ``ignore_paths`` (a hiding place), names or keys given
        twice, no resources at all, resources out of order, digests of the wrong length, and a subject digest that is not that of
        the resources. Names are not judged here: whether one leads outside the root is a finding of the check that reads it.
        """
        return cls.from_statement(read_json(data))

    @classmethod
    def from_statement(cls, document: Any, *, signed: bool = False) -> Manifest:
        """Read a manifest from the document that :func:`read_json` gave, as :meth:`from_json` does.

        With ``signed`` it is what some implementation of OpenSSF Model Signing wrote. Then the members are those of the format's
        schemas, and the order may be that of the specification (by code point) as well as that of the reference implementation
        (by path). ``ignore_paths`` may be there, and mean nothing: what lies there was not recorded.
        """
        try:
            return _from_statement(document, signed=signed)
        except KeyError as error:
            raise ManifestError(f"the manifest lacks {error}. Make a new manifest.") from None
        except (TypeError, AttributeError) as error:
            raise ManifestError(
                f"the manifest has a part of the wrong type ({type(error).__name__}). Make a new manifest."
            ) from None


def read_json(data: bytes) -> Any:
    """Read a manifest's JSON, the bare statement's or the bundle's, so that no two readers can see two different documents in it.

    Raises :class:`ManifestError` for what is not JSON in UTF-8, and for a key that is given twice. Numbers may be any that JSON
    has: of what is read of a manifest, nothing is one.
    """
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=unique_keys, parse_constant=_no_constant)
    except KeyGivenTwice:
        raise ManifestError("the manifest gives a key twice. Make a new manifest.") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"the manifest is not valid JSON ({type(error).__name__}). Make a new manifest.") from None


def _no_constant(name: str) -> NoReturn:
    raise ManifestError(f"the manifest contains {name}, which is no JSON. Make a new manifest.")


def _from_statement(document: dict[str, Any], *, signed: bool) -> Manifest:
    def demand(holds: bool, reason: str) -> None:
        if not holds:
            raise ManifestError(f"{reason}. Make a new manifest with HashManifestOperator or `pipesec manifest`.")

    demand(document["_type"] == STATEMENT_TYPE, f"the manifest is not an in-toto statement ({STATEMENT_TYPE})")
    demand(document["predicateType"] == PREDICATE_TYPE, f"the manifest's predicate is not {PREDICATE_TYPE}")
    (subject,) = document["subject"] if len(document["subject"]) == 1 else ({},)
    demand(bool(subject), "the manifest does not have exactly one subject")
    predicate = document["predicate"]
    serialization = predicate["serialization"]
    demand(
        serialization["method"] == "files", "the manifest was not made from whole files: in shards, an empty file has no trace"
    )
    demand(serialization["allow_symlinks"] is False, "the manifest allows symbolic links")
    algorithm = serialization["hash_type"]
    known: Iterable[str] = SIGNED_ALGORITHMS if signed else ALGORITHMS
    demand(isinstance(algorithm, str) and algorithm in known, f"the manifest's algorithm is none of {', '.join(known)}")
    if signed:
        for part, members in ((document, _STATEMENT), (predicate, _PREDICATE), (serialization, _SERIALIZATION)):
            demand(part.keys() <= members, "the manifest has a member that OpenSSF Model Signing v1.0 does not know")
        ignored = serialization.get("ignore_paths", [])
        is_list = isinstance(ignored, list) and all(isinstance(path, str) for path in ignored)
        demand(is_list, "the manifest's ignore_paths are not a list of text")
    else:
        demand(not serialization.get("ignore_paths"), "the manifest ignores paths, which would hide what lies there")
    demand(bool(predicate["resources"]), "the manifest records no file at all")
    demand(isinstance(subject["name"], str) and (bool(subject["name"]) or not signed), "the manifest's subject has no name")
    digits = ALGORITHMS[algorithm]
    resources = []
    for item in predicate["resources"]:
        name, digest, version = item["name"], item["digest"], item.get("annotations", _NOTHING).get("object_version")
        if not isinstance(name, str) or not name:
            demand(False, "a resource of the manifest has no name")
        if item["algorithm"] != algorithm or len(digest) != digits:
            demand(False, f"{printable(name)} is not recorded with {digits} hexadecimal digits of {algorithm}")
        if not isinstance(version, str | None):
            demand(False, "the manifest's object versions are not text")
        resources.append(Resource(name, digest, version))
    demand(_is_lower_hex("".join([item.digest for item in resources])), "a digest of the manifest is not lower-case hexadecimal")
    keys = [by_path(item.name) for item in resources]
    by_code_point = signed and any(before >= after for before, after in pairwise(keys))
    if by_code_point:
        keys = [item.name for item in resources]
    for before, after in pairwise(keys):
        if before >= after:
            demand(before != after, f"the manifest names {printable(after)} twice")
            demand(False, "the manifest's resources are not in path order")
    root = _root_digest(resources).hex
    demand(subject["digest"] == {"sha256": root}, "the manifest's root digest is not that of its resources")
    if by_code_point:
        return Manifest.of(subject["name"], algorithm, resources)
    return Manifest(subject["name"], algorithm, tuple(resources))


def _root_digest(resources: Iterable[Resource]) -> Digest:
    raw = bytes.fromhex("".join([resource.digest for resource in resources]))
    return Digest("sha256", hashlib.sha256(raw).hexdigest())


def _as_sha256sum(item: Resource) -> tuple[bytes, bytes]:
    """Return the bytes of a file's name, to sort by, and the line that GNU ``sha256sum`` prints of it."""
    shown = item.name.replace("\\", r"\\").replace("\n", r"\n").replace("\r", r"\r")
    mark = "\\" if shown != item.name else ""
    try:
        name = item.name.encode("utf-8", "surrogateescape")
        possible = name.isascii() or name.decode("utf-8", "surrogateescape") == item.name
    except UnicodeEncodeError:
        possible = False
    if not possible:  # no file has such a name; a manifest may, and is told from all others by an escape that sha256sum lacks
        name = shown.encode("utf-8", "backslashreplace")
        return name, b"\\%b  %b\n" % (item.digest.encode(), name)
    return name, f"{mark}{item.digest}  {shown}\n".encode("utf-8", "surrogateescape")


def _is_lower_hex(text: str) -> bool:
    try:
        return bytes.fromhex(text).hex() == text
    except ValueError:
        return False
