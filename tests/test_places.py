"""A file is read at any place of it, and all that was read is of one version."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.errors import AccessDenied, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.storage import open_store
from airflow_pipesec.storage_places import BLOCK
from tests.servers import S3Server

CONTENT = os.urandom(BLOCK * 9 + 17)


def test_a_local_file_is_read_at_any_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    with open_store(tmp_path).places("file") as places:
        assert places.size == len(CONTENT)
        assert places.read_at(5, 10) == CONTENT[5:15]
        assert places.read_at(len(CONTENT) - 3, 100) == CONTENT[-3:]
        assert places.read_at(len(CONTENT), 1) == places.read_at(-1, 1) == b""
        assert places.unchanged()


def test_a_local_file_that_is_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    with open_store(path).places() as places:
        with path.open("r+b") as file:
            file.write(b"x")
        os.utime(path, ns=(0, 0))
        assert not places.unchanged()


def test_a_link_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "folder").mkdir()
    for name in ("link", "folder"):
        with pytest.raises(ObjectRefused), open_store(tmp_path).places(name):
            pass
    with pytest.raises(ObjectMissing), open_store(tmp_path).places("nothing"):
        pass


@pytest.fixture(scope="module")
def bucket(s3_server: S3Server) -> str:
    client = s3_server.client()
    client.create_bucket(Bucket="places")
    client.put_bucket_versioning(Bucket="places", VersioningConfiguration={"Status": "Enabled"})
    client.put_object(Bucket="places", Key="tree/file", Body=CONTENT)
    client.put_object(Bucket="places", Key="tree/empty", Body=b"")
    return "places"


def test_of_an_object_only_what_is_asked_for_is_fetched(s3_server: S3Server, bucket: str) -> None:
    client, sizes = s3_server.client(), []
    client.meta.events.register("after-call.s3.GetObject", lambda parsed, **_: sizes.append(parsed["ContentLength"]))
    with open_store(f"s3://{bucket}/tree", client=client).places("file") as places:
        assert places.size == len(CONTENT)
        assert places.version
        assert places.read_at(len(CONTENT) - 40, 40) == CONTENT[-40:]
        assert places.read_at(BLOCK * 4, 10) == CONTENT[BLOCK * 4 : BLOCK * 4 + 10]
        assert places.read_at(BLOCK * 4 + 5, 10) == CONTENT[BLOCK * 4 + 5 : BLOCK * 4 + 15]
    assert len(sizes) == 3
    assert sum(sizes) <= 4 * BLOCK


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(CONTENT) + 5), st.integers(0, BLOCK * 4)), min_size=1, max_size=8))
def test_whatever_is_asked_for_of_an_object_is_what_is_there(reads: list[tuple[int, int]]) -> None:
    with open_store("s3://places/tree", client=CLIENT[0]).places("file") as places:
        for offset, length in reads:
            assert places.read_at(offset, length) == CONTENT[offset : offset + length]


CLIENT: list[object] = []


@pytest.fixture(autouse=True, scope="module")
def _client(s3_server: S3Server, bucket: str) -> None:
    CLIENT[:] = [s3_server.client()]


def test_a_version_is_held_to_though_a_newer_one_comes(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="tree/moving", Body=CONTENT)
    with open_store(f"s3://{bucket}/tree", client=client).places("moving") as places:
        client.put_object(Bucket=bucket, Key="tree/moving", Body=bytes(len(CONTENT)))
        assert places.read_at(BLOCK * 5, 100) == CONTENT[BLOCK * 5 : BLOCK * 5 + 100]


def test_an_object_without_versions_that_is_replaced_is_told(s3_server: S3Server) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="plainplaces")
    client.put_object(Bucket="plainplaces", Key="moving", Body=CONTENT)
    with open_store("s3://plainplaces/moving", client=client).places() as places:
        assert places.version is None
        client.put_object(Bucket="plainplaces", Key="moving", Body=bytes(len(CONTENT)))
        with pytest.raises(StorageError, match="changed while it was read"):
            places.read_at(BLOCK * 5, 100)


def test_an_empty_object_and_one_that_is_not_there(s3_server: S3Server, bucket: str) -> None:
    store = open_store(f"s3://{bucket}/tree", client=s3_server.client())
    with store.places("empty") as places:
        assert places.size == 0
        assert places.read_at(0, 10) == b""
    with pytest.raises(ObjectMissing), store.places("nothing"):
        pass
    with pytest.raises(AccessDenied), open_store(f"s3://{bucket}/tree", client=s3_server.client(s3_server.nobody)).places("file"):
        pass


def test_a_file_of_another_filesystem_is_read_at_any_place() -> None:
    filesystem = fsspec.filesystem("memory")
    filesystem.pipe_file("/places/file", CONTENT)
    with open_store("memory://places", filesystem=(filesystem, "/places")).places("file") as places:
        assert places.size == len(CONTENT)
        assert places.read_at(100, 7) == CONTENT[100:107]
        assert places.unchanged()
