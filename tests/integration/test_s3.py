"""S3 for real: versions are pinned, broken reads resume on the same version, a denial is not an absence, an ETag is no digest."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.checks.integrity import verify, write_manifest
from airflow_pipesec.errors import AccessDenied, ObjectMissing, StorageError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.guards.base import open_location
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.operators import DataValidationOperator, HashManifestOperator, HashVerificationOperator
from airflow_pipesec.sensors import HashVerificationSensor
from airflow_pipesec.storage import LocalStore, open_store
from tests.runner import RunTask
from tests.servers import S3Server, moto_server


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    """A versioned bucket of the test's own."""
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    client = s3_server.client()
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return name


def put(server: S3Server, bucket: str, **objects: bytes) -> None:
    for key, body in objects.items():
        server.client().put_object(Bucket=bucket, Key=key.replace("__", "/"), Body=body)


def bad(findings: list[Finding]) -> Counter[str]:
    assert findings
    return Counter(f.control.id for f in findings if f.status in (Status.FAIL, Status.ERROR))


def test_a_prefix_is_recorded_and_verified_and_tampering_is_found(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    put(s3_server, bucket, model__a=b"1", model__deep__b=b"2" * 3_000_000, modelx=b"not below the prefix")
    store = open_store(f"s3://{bucket}/model", client=s3_server.client())
    assert not bad(list(write_manifest(store, LocalStore(tmp_path / "m.json"))))
    manifest = Manifest.from_json((tmp_path / "m.json").read_bytes())
    assert [r.name for r in manifest.resources] == ["a", "deep/b"]
    assert all(resource.version for resource in manifest.resources)

    def check() -> list[Finding]:
        return list(verify(store, manifest=LocalStore(tmp_path / "m.json")))

    assert not bad(check())
    assert [f.count for f in check() if f.control.id == "object-version-pinned"] == [2]
    put(s3_server, bucket, model__a=b"X")
    assert bad(check()) == {"digest-matches": 1}, "the newest version is what a reader would get"
    put(s3_server, bucket, model__a=b"1")
    assert not bad(check()), "the same bytes under another version are the same bytes"
    put(s3_server, bucket, model__extra=b"")
    assert bad(check()) == {"no-extra-files": 1}
    s3_server.client().delete_object(Bucket=bucket, Key="model/extra")
    s3_server.client().delete_object(Bucket=bucket, Key="model/deep/b")
    assert bad(check()) == {"files-present": 1}


def test_the_digest_is_of_the_bytes_also_where_the_etag_is_none(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    upload = client.create_multipart_upload(Bucket=bucket, Key="big")["UploadId"]
    parts = [os.urandom(5 << 20), b"tail"]
    done = []
    for number, part in enumerate(parts, 1):
        answer = client.upload_part(Bucket=bucket, Key="big", UploadId=upload, PartNumber=number, Body=part)
        done.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(Bucket=bucket, Key="big", UploadId=upload, MultipartUpload={"Parts": done})
    (seen,) = open_store(f"s3://{bucket}/big", client=client).scan(["."], hashlib.sha256)
    assert seen.digest == hashlib.sha256(b"".join(parts)).digest()
    assert seen.version == client.head_object(Bucket=bucket, Key="big")["VersionId"]


def test_a_bucket_without_versions_is_a_finding_of_its_own(s3_server: S3Server, tmp_path: Path) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="unversioned")
    put(s3_server, "unversioned", model=b"1")
    findings = list(write_manifest(open_store("s3://unversioned/model", client=client), LocalStore(tmp_path / "m.json")))
    assert bad(findings) == {"object-version-pinned": 1}
    assert Manifest.from_json((tmp_path / "m.json").read_bytes()).resources[0].version is None


def test_more_keys_than_a_page_are_listed_in_order(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    keys = [f"many/{number}" for number in range(1203)]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: client.put_object(Bucket=bucket, Key=key, Body=b""), keys))
    files = open_store(f"s3://{bucket}/many", client=client).listing().files
    assert files == sorted(key.removeprefix("many/") for key in keys)


def test_a_denial_is_an_error_and_an_absence_a_failure(s3_server: S3Server, bucket: str) -> None:
    put(s3_server, bucket, model=b"1")
    nobody = open_store(f"s3://{bucket}/model", client=s3_server.client(s3_server.nobody))
    with pytest.raises(AccessDenied):
        nobody.listing()
    assert {finding.status for finding in verify(nobody, expected="0" * 64)} == {Status.ERROR}
    with pytest.raises(ObjectMissing):
        open_store(f"s3://{bucket}/nothing", client=s3_server.client()).listing()
    with pytest.raises(ObjectMissing):
        open_store("s3://no-such-bucket-here/x", client=s3_server.client()).listing()
    reader = open_store(f"s3://{bucket}/new", client=s3_server.client(s3_server.reader))
    with pytest.raises(AccessDenied):
        reader.write(b"x")


class Proxy:
    """A line to the server that is cut after so many bytes, as often as told."""

    def __init__(self, endpoint: str, cut_after: int, cuts: int) -> None:
        self.target = ("127.0.0.1", int(endpoint.rpartition(":")[2]))
        self.cut_after, self.cuts, self.gets = cut_after, cuts, 0
        self.on_cut: Any = lambda: None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.target)
            threading.Thread(target=self._copy, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(far, near, True), daemon=True).start()

    def _copy(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        try:
            while data := source.recv(65536):
                if not answers:
                    self.gets += data.count(b"GET /")
                passed += len(data)
                if answers and passed > self.cut_after and self.cuts:
                    self.cuts -= 1
                    self.on_cut()
                    break
                target.sendall(data)
        except OSError:
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def big_object(s3_server: S3Server, bucket: str) -> tuple[str, bytes]:
    content = os.urandom(6 << 20)
    put(s3_server, bucket, big=content)
    return bucket, content


def through(proxy: Proxy, server: S3Server) -> Any:
    return replace(server, endpoint=proxy.endpoint).client()


def test_a_read_that_breaks_off_goes_on_where_it_broke(s3_server: S3Server, big_object: tuple[str, bytes]) -> None:
    bucket, content = big_object
    proxy = Proxy(s3_server.endpoint, cut_after=2 << 20, cuts=2)
    (seen,) = open_store(f"s3://{bucket}/big", client=through(proxy, s3_server)).scan(["."], hashlib.sha256)
    assert seen.error is None
    assert seen.digest == hashlib.sha256(content).digest()
    assert proxy.cuts == 0
    assert proxy.gets >= 3


def test_an_object_replaced_in_the_middle_of_a_read_is_never_a_mixture(
    s3_server: S3Server, big_object: tuple[str, bytes]
) -> None:
    bucket, content = big_object
    proxy = Proxy(s3_server.endpoint, cut_after=2 << 20, cuts=1)
    proxy.on_cut = lambda: put(s3_server, bucket, big=os.urandom(6 << 20))
    (seen,) = open_store(f"s3://{bucket}/big", client=through(proxy, s3_server)).scan(["."], hashlib.sha256)
    assert seen.error is None, "the bucket is versioned: the version that was begun is read to its end"
    assert seen.digest == hashlib.sha256(content).digest()


def test_without_versions_an_object_replaced_in_the_middle_is_an_error(s3_server: S3Server) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="plain-mixture")
    put(s3_server, "plain-mixture", big=os.urandom(6 << 20))
    proxy = Proxy(s3_server.endpoint, cut_after=2 << 20, cuts=1)
    proxy.on_cut = lambda: put(s3_server, "plain-mixture", big=os.urandom(6 << 20))
    (seen,) = open_store("s3://plain-mixture/big", client=through(proxy, s3_server)).scan(["."], hashlib.sha256)
    assert isinstance(seen.error, StorageError)


def test_a_line_that_keeps_breaking_is_trouble_and_not_a_verdict(s3_server: S3Server, big_object: tuple[str, bytes]) -> None:
    bucket, _ = big_object
    proxy = Proxy(s3_server.endpoint, cut_after=1 << 10, cuts=1000)
    store = open_store(f"s3://{bucket}/big", client=through(proxy, s3_server))
    with pytest.raises(StorageError):
        list(verify(store, expected="0" * 64))


@pytest.fixture
def connection(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    user, secret = s3_server.admin
    import json

    extra = {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}
    uri = {"conn_type": "aws", "login": user, "password": secret, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps(uri))
    return "lake"


def test_guards_use_airflows_connection(s3_server: S3Server, bucket: str, connection: str, run_task: RunTask) -> None:
    put(s3_server, bucket, raw__rows_csv=b"a\n1\n2\n")
    places = {"root": f"s3://{bucket}/raw", "manifest": f"s3://{bucket}/manifests/raw.json", "aws_conn_id": connection}
    assert run_task(HashManifestOperator(task_id="m", **places)).state == "success"
    assert run_task(HashVerificationOperator(task_id="v", **places)).state == "success"
    in_url = {key: value.replace("s3://", f"s3://{connection}@") for key, value in places.items() if key != "aws_conn_id"}
    assert run_task(HashVerificationSensor(task_id="s", **in_url)).state == "success"
    put(s3_server, bucket, raw__rows_csv=b"a\n1\n3\n")
    assert run_task(HashVerificationOperator(task_id="w", **places)).state == "failed"
    assert open_location(f"s3://{bucket}/raw", connection).listing().files == ["rows_csv"]


def test_data_is_validated_and_quarantined_in_s3(
    s3_server: S3Server, bucket: str, connection: str, run_task: RunTask, tmp_path: Path
) -> None:
    import pandas as pd

    s3_server.client().put_object(Bucket=bucket, Key="rows.csv", Body=b"a\n1\n-2\n3\n")
    suite = {"expectations": [{"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "min_value": 0}}]}
    guard = DataValidationOperator(
        task_id="d",
        path=f"s3://{bucket}/rows.csv",
        suite=suite,
        quarantine_path=f"s3://{bucket}/bad.parquet",
        aws_conn_id=connection,
    )
    assert run_task(guard).state == "failed"
    s3_server.client().download_file(bucket, "bad.parquet", str(tmp_path / "bad.parquet"))
    assert pd.read_parquet(tmp_path / "bad.parquet")["a"].tolist() == [-2]


# ---- what SeaweedFS does not do: archived objects, throttling


@pytest.fixture
def amazon() -> Iterator[Any]:
    """A client of moto's S3, which has storage classes."""
    import boto3

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    with moto_server() as endpoint:
        yield boto3.client("s3", endpoint_url=endpoint, **keys)


def test_an_archived_object_cannot_be_judged(amazon: Any) -> None:
    amazon.create_bucket(Bucket="archive")
    amazon.put_object(Bucket="archive", Key="model", Body=b"1", StorageClass="GLACIER")
    finding, compared = verify(open_store("s3://archive/model", client=amazon), expected=hashlib.sha256(b"1").hexdigest())
    assert (finding.status, finding.control.id) == (Status.ERROR, "files-readable")
    assert (compared.status, compared.control.id) == (Status.ERROR, "digest-matches")
    assert "is archived" in finding.message


@pytest.mark.parametrize(("code", "status"), [("SlowDown", 503), ("InternalError", 500), ("RequestTimeout", 400)])
def test_throttling_is_trouble_and_not_a_verdict(code: str, status: int) -> None:
    import boto3
    from botocore.stub import Stubber

    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    client = boto3.client("s3", **keys)
    with Stubber(client) as answers:
        answers.add_client_error("list_objects_v2", code, http_status_code=status)
        with pytest.raises(StorageError, match=code) as caught:
            list(verify(open_store("s3://busy/model", client=client), expected="0" * 64))
    assert type(caught.value) is StorageError, "neither missing nor denied: a retry may help"


@pytest.mark.parametrize("key", ["data/", "data"])
def test_an_object_of_the_prefixs_own_name_is_not_overlooked(amazon: Any, tmp_path: Path, key: str) -> None:
    amazon.create_bucket(Bucket="own")
    amazon.put_object(Bucket="own", Key="data/", Body=b"")
    amazon.put_object(Bucket="own", Key="data/a", Body=b"1")
    store = open_store("s3://own/data", client=amazon)
    assert set(bad(list(write_manifest(store, LocalStore(tmp_path / "m.json"))))) <= {"object-version-pinned"}
    amazon.put_object(Bucket="own", Key=key, Body=b"planted")
    assert bad(list(verify(store, manifest=LocalStore(tmp_path / "m.json")))) == {"no-special-files": 1}
