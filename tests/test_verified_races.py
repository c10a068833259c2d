"""Verified files that others change: the right bytes or an exception, and on S3 the version that was verified."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.checks.integrity import write_manifest
from airflow_pipesec.errors import AccessDenied, ObjectMissing, VerificationError
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.storage import LocalStore, Source, Store, open_store
from airflow_pipesec.storage_base import CHUNK
from airflow_pipesec.verified import Handle, materialize, verified_open
from tests.servers import S3Server
from tests.test_verified import CONTENT, FILES, contents, recorded, sha256


class Swapped(LocalStore):
    """A folder in which a file is rewritten after a number of its bytes were read."""

    def __init__(self, path: Path, after: int, content: bytes) -> None:
        super().__init__(path)
        self.after, self.content = after, content

    @contextmanager
    def stream(self, name: str = ".", *, version: str | None = None) -> Iterator[Any]:
        with super().stream(name) as source:
            yield _Counting(source, self)


class _Counting:
    def __init__(self, source: Source, store: Swapped) -> None:
        self.source, self.store, self.read = source, store, 0

    def readinto(self, buffer: memoryview) -> int | None:
        count = self.source.readinto(buffer)
        self.read += count or 0
        if self.read >= self.store.after:
            with (self.store.path / "f").open("r+b") as file:
                file.write(self.store.content)
        return count


def test_what_is_rewritten_in_place_while_it_is_read_is_refused_or_was_read_before(tmp_path: Path) -> None:
    good, evil = CONTENT * 2, bytes(len(CONTENT) * 2)
    for after in (1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 2):
        for how in ("copy", "stream", "path"):
            (tmp_path / "f").write_bytes(good)
            store = Swapped(tmp_path, after, evil)
            try:
                if how == "path":
                    with materialize(store, sha256(good), name="f") as path:
                        data = path.read_bytes()
                else:
                    with verified_open(store, sha256(good), name="f", stream=how == "stream") as file:
                        data = file.read()
            except VerificationError:
                assert after <= 2 * CHUNK
            else:
                assert data == good
                assert after > 2 * CHUNK


SWAPPING = """
import os, sys
path, good, evil = sys.argv[1], open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()
def rename(content):
    with open(path + ".new", "wb") as file:
        file.write(content)
    os.replace(path + ".new", path)
def rewrite(content):
    with open(path, "r+b") as file:
        file.write(content)
def truncate(content):
    with open(path, "wb") as file:
        file.write(content)
print("go", flush=True)
while True:
    for act in (rename, rewrite, truncate):
        act(evil)
        act(good)
"""


def test_every_read_gives_the_right_bytes_or_raises_while_another_process_swaps_the_file(tmp_path: Path) -> None:
    good, evil = os.urandom(100_000), os.urandom(100_000)
    for name, content in (("good", good), ("evil", evil), ("root", good)):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "root").unlink()
    (tmp_path / "root").mkdir()
    target = tmp_path / "root/f"
    target.write_bytes(good)
    known = sha256(good)
    seen: Counter[tuple[str, str]] = Counter()

    def consume(how: str) -> bytes:
        if how == "path":
            with materialize(target, known, folder=tmp_path) as path:
                return path.read_bytes()
        if how == "tree":
            with materialize(tmp_path / "root", recorded({"f": good}), folder=tmp_path) as path:
                return (path / "f").read_bytes()
        with verified_open(target, known, stream=how == "stream") as file:
            return file.read()

    command = [sys.executable, "-c", SWAPPING, str(target), str(tmp_path / "good"), str(tmp_path / "evil")]
    swapper = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert swapper.stdout is not None
        assert swapper.stdout.readline() == b"go\n"
        for how, times in (("copy", 1500), ("stream", 1000), ("path", 250), ("tree", 250)):
            for _ in range(times):
                try:
                    data = consume(how)
                except VerificationError:
                    seen[how, "refused"] += 1
                else:
                    seen[how, "right" if data == good else "wrong"] += 1
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.wait()
        assert swapper.stdout is not None
        swapper.stdout.close()
    assert not [outcome for outcome in seen if outcome[1] == "wrong"]
    for how in ("copy", "stream", "path", "tree"):
        assert seen[how, "right"] > 10, seen
        assert seen[how, "refused"] > 10, seen
    assert {path.name for path in tmp_path.iterdir()} == {"good", "evil", "root"}


# ---- S3


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    name = "v" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3_server.client().create_bucket(Bucket=name)
    return name


def versioned(server: S3Server, bucket: str) -> None:
    server.client().put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})


def put(server: S3Server, bucket: str, files: dict[str, bytes], prefix: str = "model/") -> None:
    for name, data in files.items():
        server.client().put_object(Bucket=bucket, Key=prefix + name, Body=data)


def made(server: S3Server, bucket: str, target: Path) -> Manifest:
    list(write_manifest(open_store(f"s3://{bucket}/model", client=server.client()), LocalStore(target)))
    return Manifest.from_json(target.read_bytes())


def test_the_version_that_was_verified_is_read_though_it_was_overwritten(
    s3_server: S3Server, bucket: str, tmp_path: Path
) -> None:
    versioned(s3_server, bucket)
    files = FILES | {"big": CONTENT * 3}
    put(s3_server, bucket, files)
    known = made(s3_server, bucket, tmp_path / "m.json")
    assert all(resource.version for resource in known.resources)
    put(s3_server, bucket, dict.fromkeys(files, b"evil"))
    s3_server.client().delete_object(Bucket=bucket, Key="model/a")

    def store_of(url: str) -> Store:
        return open_store(url, client=s3_server.client())

    tree = Handle(f"s3://{bucket}/model", known.tree_digest, str(tmp_path / "m.json"))
    version = next(resource.version for resource in known.resources if resource.name == "big")
    single = Handle(f"s3://{bucket}/model/big", sha256(files["big"]), version=version)
    for stream in (False, True):
        for name, data in files.items():
            with verified_open(tree, name=name, stream=stream, store_of=store_of) as file:
                assert file.read() == data
        with verified_open(f"s3://{bucket}/model/big", tmp_path / "m.json", stream=stream, store_of=store_of) as file:
            assert file.read() == files["big"]
        with verified_open(single, stream=stream, store_of=store_of) as file:
            assert file.read() == files["big"]
    with materialize(tree, store_of=store_of) as path:
        assert contents(path) == files
    with materialize(single, store_of=store_of) as path:
        assert (path.name, path.read_bytes()) == ("big", files["big"])


def test_without_versions_what_was_overwritten_is_refused(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    put(s3_server, bucket, FILES)
    known = made(s3_server, bucket, tmp_path / "m.json")
    assert not any(resource.version for resource in known.resources)
    store = open_store(f"s3://{bucket}/model", client=s3_server.client())
    with materialize(store, known) as path:
        assert contents(path) == FILES
    put(s3_server, bucket, {"a": b"evil!"})
    for stream in (False, True):
        with pytest.raises(VerificationError):
            verified_open(store, known, name="a", stream=stream)
        assert verified_open(store, known, name="d", stream=stream).read() == b"delta"
    with pytest.raises(VerificationError), materialize(store, known):
        pass


@pytest.mark.parametrize("keeps_versions", [False, True])
def test_a_copy_in_another_bucket_has_other_versions_and_is_verified_by_its_digest(
    s3_server: S3Server, bucket: str, tmp_path: Path, keeps_versions: bool
) -> None:
    versioned(s3_server, bucket)
    put(s3_server, bucket, FILES)
    known = made(s3_server, bucket, tmp_path / "m.json")
    s3_server.client().create_bucket(Bucket=bucket + "x")
    if keeps_versions:
        versioned(s3_server, bucket + "x")
    put(s3_server, bucket + "x", FILES | {"d": b"evil!"})
    store = open_store(f"s3://{bucket}x/model", client=s3_server.client())
    for stream in (False, True):
        assert verified_open(store, known, name="deep/b.bin", stream=stream).read() == FILES["deep/b.bin"]
        with pytest.raises(VerificationError):
            verified_open(store, known, name="d", stream=stream)
        with pytest.raises(ObjectMissing):
            verified_open(store, recorded({"gone": b""}), name="gone", stream=stream)


def test_who_may_not_read_is_told_so(s3_server: S3Server, bucket: str) -> None:
    put(s3_server, bucket, FILES)
    store = open_store(f"s3://{bucket}/model", client=s3_server.client(s3_server.nobody))
    for stream in (False, True):
        with pytest.raises(AccessDenied):
            verified_open(store, sha256(b"alpha"), name="a", stream=stream)
