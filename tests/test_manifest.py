"""Manifests: the same tree gives the same bytes, other people's tool reads them, and nothing malformed is read."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.errors import ConfigurationError, ManifestError
from airflow_pipesec.hashing import hash_files
from airflow_pipesec.manifest import Digest, Manifest, Resource
from airflow_pipesec.storage import LocalStore

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=12)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
TREES = st.dictionaries(PATHS, DIGESTS, min_size=1, max_size=12)


def manifest_of(tree: dict[str, str]) -> Manifest:
    return Manifest.of("tree", "sha256", [Resource(name, digest) for name, digest in tree.items()])


def manifest_of_folder(root: Path) -> Manifest:
    store = LocalStore(root)
    names = store.listing().files
    hashed = hash_files(store, names)
    assert not hashed.errors
    return Manifest.of(store.name, "sha256", [Resource(name, d.hex()) for name, d in zip(names, hashed.digests, strict=True)])


@given(TREES, st.randoms())
def test_listing_order_does_not_matter(tree: dict[str, str], chance: random.Random) -> None:
    items = list(tree.items())
    chance.shuffle(items)
    assert manifest_of(dict(items)).to_json() == manifest_of(tree).to_json()


@given(TREES)
def test_what_is_written_is_read_back(tree: dict[str, str]) -> None:
    manifest = manifest_of(tree)
    assert Manifest.from_json(manifest.to_json()) == manifest


@given(TREES, st.data())
def test_any_other_digest_or_name_gives_another_manifest(tree: dict[str, str], data: st.DataObject) -> None:
    before = manifest_of(tree)
    name = data.draw(st.sampled_from(sorted(tree)))
    changed = dict(tree)
    digest = changed.pop(name)
    if data.draw(st.booleans()):
        other = data.draw(DIGESTS.filter(lambda d: d != digest))
        changed[name] = other
        assert manifest_of(changed).root_digest != before.root_digest
    else:
        other_name = data.draw(PATHS.filter(lambda n: n not in tree))
        changed[other_name] = digest
    assert manifest_of(changed).to_json() != before.to_json()


def test_a_manifest_is_the_statement_that_model_signing_makes(tmp_path: Path) -> None:
    signing = pytest.importorskip("model_signing._signing.signing")
    from model_signing import hashing, manifest

    chance = random.Random(3)
    for name in ("weights.bin", "a-b", "a/b", "a/b.c/d", ".gitignore", "ünïcode/ñ", "config.json"):
        path = tmp_path / "model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(chance.randbytes(1000))
    root = tmp_path / "model"
    ours = json.loads(manifest_of_folder(root).to_json())
    theirs = hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False).hash(root)
    assert isinstance(theirs, manifest.Manifest)
    assert signing.dsse_payload_to_manifest(ours) == theirs
    statement = signing.Payload(theirs).statement.pb
    assert ours["subject"][0]["digest"]["sha256"] == statement.subject[0].digest["sha256"]
    assert [r["name"] for r in ours["predicate"]["resources"]] == [r.identifier for r in theirs.resource_descriptors()]


def test_a_single_file_is_named_as_model_signing_names_it(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"weights")
    manifest = manifest_of_folder(tmp_path / "model.joblib")
    assert manifest.name == "model.joblib"
    assert [r.name for r in manifest.resources] == ["."]
    assert manifest.resources[0].digest == hashlib.sha256(b"weights").hexdigest()


def test_the_digest_of_a_tree_is_what_the_shell_says(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    for name in ("b", "a/b", "a-b", "a.b", "A", "ü/x", "é", "z/deep/er/file"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    # As in-toto defines dirHash.
    command = "find . -type f | cut -c3- | LC_ALL=C sort | xargs -r sha256sum | sha256sum | cut -f1 -d' '"
    shell = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, check=True)
    assert manifest_of_folder(root).tree_digest == f"tree:sha256:{shell.stdout.strip()}"
    assert manifest_of_folder(root).digest == manifest_of_folder(root).tree_digest


def test_the_digest_of_a_tree_is_what_the_shell_says_whatever_the_names(tmp_path: Path) -> None:
    names = [
        b"back\\slash",
        b"line\nbreak",
        b"return\r",
        b"\\\n\\n",
        b" space ",
        b"quote'\"",
        b"not \xff utf-8",
        b"e\xcc\x81",
        b"a",
    ]
    root = tmp_path / "tree"
    root.mkdir()
    for name in names:
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(name)
    command = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 -r sha256sum -- | sha256sum | cut -f1 -d' '"
    shell = subprocess.run(["bash", "-c", command], cwd=root, capture_output=True, text=True, check=True)
    found = [Resource(os.fsdecode(name), hashlib.sha256(name).hexdigest()) for name in names]
    assert Manifest.of("tree", "sha256", found).tree_digest == f"tree:sha256:{shell.stdout.strip()}"


@given(
    st.sets(st.text(st.sampled_from("a\\n\n\ru\udc80d8\ud800\udcc3\udca9é"), max_size=6).filter(bool), min_size=1, max_size=3),
    st.sets(st.text(st.sampled_from("a\\n\n\ru\udc80d8\ud800\udcc3\udca9é"), max_size=6).filter(bool), min_size=1, max_size=3),
)
def test_no_two_trees_share_a_digest_even_with_names_that_no_file_can_have(one: set[str], other: set[str]) -> None:
    digests = {manifest_of(dict.fromkeys(names, "0" * 64)).tree_digest for names in (one, other)}
    assert len(digests) == (1 if one == other else 2)


def test_the_digest_of_a_single_file_is_the_files_own(tmp_path: Path) -> None:
    (tmp_path / "model.joblib").write_bytes(b"weights")
    manifest = manifest_of_folder(tmp_path / "model.joblib")
    assert manifest.digest == f"sha256:{hashlib.sha256(b'weights').hexdigest()}" != manifest.tree_digest
    assert manifest_of_folder(tmp_path).digest.startswith("tree:")


def test_object_versions_are_kept() -> None:
    manifest = Manifest.of("t", "sha256", [Resource("a", "0" * 64, "v1"), Resource("b", "1" * 64)])
    assert Manifest.from_json(manifest.to_json()).resources[0].version == "v1"
    assert Manifest.from_json(manifest.to_json()).resources[1].version is None


def broken(change: str) -> bytes:
    document = json.loads(manifest_of({"a": "0" * 64, "b/c": "1" * 64}).to_json())
    resources = document["predicate"]["resources"]
    match change:
        case "resource twice":
            resources.append(dict(resources[-1]))
        case "out of order":
            resources.reverse()
        case "short digest":
            resources[0]["digest"] = "0" * 63
        case "upper case digest":
            resources[0]["digest"] = "A" * 64
        case "digest with spaces":
            resources[0]["digest"] = "00 " * 21 + "0"
        case "digest is a number":
            resources[0]["digest"] = 0
        case "other algorithm":
            resources[0]["algorithm"] = "blake3"
        case "unknown algorithm":
            document["predicate"]["serialization"]["hash_type"] = "md5"
        case "algorithm is a list":
            document["predicate"]["serialization"]["hash_type"] = []
        case "shards":
            document["predicate"]["serialization"]["method"] = "shards"
        case "symlinks":
            document["predicate"]["serialization"]["allow_symlinks"] = True
        case "ignore_paths":
            document["predicate"]["serialization"]["ignore_paths"] = ["c"]
        case "no resources":
            resources.clear()
        case "wrong root":
            document["subject"][0]["digest"]["sha256"] = "2" * 64
        case "two subjects":
            document["subject"] *= 2
        case "no subject":
            document["subject"] = []
        case "other type":
            document["_type"] = "https://in-toto.io/Statement/v0.1"
        case "other predicate":
            document["predicateType"] = "https://model_signing/Digests/v0.1"
        case "no predicate":
            del document["predicate"]
        case "empty name":
            resources[0]["name"] = ""
        case "name is null":
            resources[0]["name"] = None
        case "versions are numbers":
            resources[0]["annotations"] = {"object_version": 1}
        case "a list":
            document = [document]
        case "key twice":
            return b'{"_type": 1, ' + json.dumps(document).encode()[1:]
        case "not a number":
            document["extra"] = float("nan")
        case "cut off":
            return json.dumps(document).encode()[:-2]
        case "nested too deep":
            return b"[" * 100_000
        case "not text":
            return b"\xff\xfe\x00"
        case "empty":
            return b""
        case _:
            raise AssertionError(change)
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("resource twice", "twice"),
        ("out of order", "path order"),
        ("short digest", "64 hexadecimal"),
        ("upper case digest", "lower-case"),
        ("digest with spaces", "lower-case"),
        ("digest is a number", "wrong type"),
        ("other algorithm", "of sha256"),
        ("unknown algorithm", "algorithm is none of"),
        ("algorithm is a list", "algorithm is none of"),
        ("shards", "whole files"),
        ("symlinks", "symbolic links"),
        ("ignore_paths", "ignores paths"),
        ("no resources", "records no file"),
        ("wrong root", "root digest"),
        ("two subjects", "exactly one subject"),
        ("no subject", "exactly one subject"),
        ("other type", "in-toto statement"),
        ("other predicate", "predicate is not"),
        ("no predicate", "lacks 'predicate'"),
        ("empty name", "no name"),
        ("name is null", "no name"),
        ("versions are numbers", "versions are not text"),
        ("a list", "a part of the wrong type"),
        ("key twice", "key twice"),
        ("not a number", "NaN"),
        ("cut off", "not valid JSON"),
        ("nested too deep", "not valid JSON"),
        ("not text", "not valid JSON"),
        ("empty", "not valid JSON"),
    ],
)
def test_a_malformed_manifest_is_refused(change: str, reason: str) -> None:
    with pytest.raises(ManifestError, match=reason):
        Manifest.from_json(broken(change))


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(data)


def test_a_name_twice_is_refused_when_made() -> None:
    with pytest.raises(ManifestError, match="twice"):
        Manifest.of("t", "sha256", [Resource("a", "0" * 64), Resource("a", "1" * 64)])


@pytest.mark.parametrize("text", ["", "sha256:", "md5:" + "0" * 32, "sha256:" + "g" * 64, "0" * 63, "sha256:" + "0" * 128])
def test_what_is_no_digest_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not a digest"):
        Digest.parse(text)


def test_digests_are_read_in_any_case_and_without_algorithm() -> None:
    assert Digest.parse("AB" * 32) == Digest("sha256", "ab" * 32)
    assert str(Digest.parse(" sha512:" + "0" * 128 + "\n")) == "sha512:" + "0" * 128
