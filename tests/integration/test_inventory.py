"""Objects: each is asked about by its own key, old versions as well; or an inventory lists them, and says so for certain."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws

from airflow_pipesec.checks.buckets import Wanted, _objects
from airflow_pipesec.findings import Status, printable
from airflow_pipesec.storage_remote import S3Store
from tests.integration.test_buckets import KEYS, bucket, look, of, scripted
from tests.servers import S3Server

__all__ = ["bucket"]  # a fixture


def encrypted_objects(client: Any, place: str, **options: Any) -> list[tuple[str, str, str]]:
    found = look(client, place, **options)
    return [(f.status.value, f.subject.name, f.message) for f in found if f.control.id == "objects-encrypted"]


@pytest.fixture
def moto() -> Iterator[Any]:
    """S3 that takes any key, as Amazon's does."""
    with mock_aws():
        client = boto3.client("s3", **KEYS)
        client.create_bucket(Bucket="bbb")
        yield client


@pytest.mark.parametrize("key", ["d/", "d/.", "d/..", "d//", "d/x/", "d/./x", "d/a//b", "d/\\x\x0b", "d/-/../d", "d"])
def test_each_object_is_asked_about_by_its_own_key(moto: Any, key: str) -> None:
    for other in ("d", "d/x", "d/x/y"):
        moto.put_object(Bucket="bbb", Key=other, Body=b"x", ServerSideEncryption="AES256")
    moto.put_object(Bucket="bbb", Key=key, Body=b"in the clear")
    found = encrypted_objects(moto, "bbb/d")
    assert [(subject, text) for status, subject, text in found if status != "pass"] == [
        (f"s3://bbb/{printable(key)}", "is not encrypted")
    ]


def test_what_stands_for_a_folder_is_no_object(moto: Any) -> None:
    for key in ("d/", "d/x/"):
        moto.put_object(Bucket="bbb", Key=key, Body=b"")
    moto.put_object(Bucket="bbb", Key="d/x/y", Body=b"x", ServerSideEncryption="AES256")
    moto.put_object(Bucket="bbb", Key="data", Body=b"x")
    assert [(status, text) for status, _, text in encrypted_objects(moto, "bbb/d")] == [
        ("pass", "1 object encrypted: 1 by AES256")
    ]


@pytest.mark.parametrize("prefix", ["", "/d", "/d/x"])
@pytest.mark.parametrize("server", ["moto", "s3_server"])
def test_an_old_version_in_the_clear_is_found(request: pytest.FixtureRequest, bucket: str, server: str, prefix: str) -> None:
    client = request.getfixturevalue("moto") if server == "moto" else request.getfixturevalue("s3_server").client()
    bucket = "bbb" if server == "moto" else bucket
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    clear = client.put_object(Bucket=bucket, Key="d/x", Body=b"in the clear")["VersionId"]
    client.put_object(Bucket=bucket, Key="d/x", Body=b"x", ServerSideEncryption="AES256")
    client.put_object(Bucket=bucket, Key="d/x", Body=b"y", ServerSideEncryption="AES256")
    client.put_object(Bucket=bucket, Key="d/xy", Body=b"y", ServerSideEncryption="AES256")
    if server != "moto":  # which does not find versions in a bucket that keeps none any more
        client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Suspended"})
    found = [f for f in look(client, f"{bucket}{prefix}") if f.control.id == "objects-encrypted"]
    (bad,) = [f for f in found if f.status is not Status.PASS]
    assert (bad.status, bad.message) == (Status.FAIL, f"an old version ({clear}) is not encrypted")
    assert (bad.subject.name, bad.subject.version) == (f"s3://{bucket}/d/x", clear)
    assert [f.message for f in found if "old version encrypted" in f.message] == ["1 old version encrypted: 1 by AES256"]
    ((_, text),) = of(look(client, f"{bucket}{prefix}", sample=100), "objects-encrypted")
    assert text.endswith("old versions were not looked at")


def test_what_was_deleted_and_can_be_read_is_looked_at(moto: Any) -> None:
    moto.put_bucket_versioning(Bucket="bbb", VersioningConfiguration={"Status": "Enabled"})
    version = moto.put_object(Bucket="bbb", Key="d/x", Body=b"in the clear")["VersionId"]
    moto.delete_object(Bucket="bbb", Key="d/x")
    assert [(status, text) for status, _, text in encrypted_objects(moto, "bbb/d")] == [
        ("fail", "holds no object"),
        ("fail", f"an old version ({version}) is not encrypted"),
    ]


def objects(*script: tuple[str, Any]) -> list[tuple[str, str]]:
    listed = {"Contents": [{"Key": "x", "Size": 1}]}
    client = scripted(("list_objects_v2", listed), *script)
    return [(f.status.value, f.message) for f in _objects(S3Store("b", client), Wanted(), None, None)]


SEALED = {"ServerSideEncryption": "AES256"}


@pytest.mark.parametrize(
    ("versioning", "listed", "status", "text"),
    [
        ({"Status": "Enabled"}, "AccessDenied", "error", "cannot be listed"),
        ("AccessDenied", "AccessDenied", "error", "cannot be listed"),
        ({"Status": "Suspended"}, "NotImplemented", "skip", "only current versions were looked at"),
    ],
)
def test_old_versions_that_cannot_be_listed_are_no_pass(versioning: Any, listed: str, status: str, text: str) -> None:
    found = objects(("get_bucket_versioning", versioning), ("head_object", SEALED), ("list_object_versions", listed))
    assert [found_status for found_status, _ in found] == ["pass", status]
    assert text in found[1][1]


@pytest.mark.parametrize(
    ("answers", "status", "text"),
    [
        (["AccessDenied"], "error", "may not be read"),
        (["404"], "fail", "does not exist"),
        (["SlowDown", "SlowDown", SEALED], "pass", "1 by AES256"),
        ([{}], "fail", "is not encrypted"),
    ],
)
def test_each_answer_about_an_object_is_told_as_what_it_is(answers: list[Any], status: str, text: str) -> None:
    found = objects(("get_bucket_versioning", {}), *(("head_object", answer) for answer in answers))
    assert [(status, text in message) for status, message in found] == [(status, True)]


def test_an_old_version_that_may_not_be_looked_at_is_an_error() -> None:
    old = {"Versions": [{"Key": "x", "VersionId": "v1", "IsLatest": False, "Size": 1}]}
    script = [("get_bucket_versioning", {"Status": "Enabled"}), ("head_object", SEALED), ("list_object_versions", old)]
    (_, (status, text)) = objects(*script, ("head_object", "AccessDenied"))
    assert (status, "(version v1) may not be read" in text) == ("error", True)


# ---- inventory


def inventory(client: Any, bucket: str, rows: list[list[Any]], *, parquet: bool = False, **changes: Any) -> str:
    """Write an inventory report as S3 does, and return where its manifest is. A bucket ``b`` is the bucket's own name."""
    schema = ["Bucket", "Key", "IsLatest", "EncryptionStatus", "IsDeleteMarker"][: len(rows[0])]
    rows = [[bucket if row[0] == "b" else row[0], *row[1:]] for row in rows]
    buffer = io.BytesIO()
    if parquet:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = ["bucket", "key", "is_latest", "encryption_status", "is_delete_marker"]
        spoken = {"true": True, "false": False}
        columns = [[spoken.get(value, None if value == "" else value) for value in column] for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, names=names[: len(columns)]), buffer)
    else:
        with gzip.GzipFile(fileobj=buffer, mode="wb") as file:
            text = io.StringIO()
            csv.writer(text, quoting=csv.QUOTE_ALL).writerows(rows)
            file.write(text.getvalue().encode())
    return put_report(client, bucket, buffer.getvalue(), schema, parquet=parquet, **changes)


def put_report(client: Any, bucket: str, data: bytes, schema: list[str], *, parquet: bool = False, **changes: Any) -> str:
    client.put_object(Bucket=bucket, Key="inventory/data/1", Body=data)
    manifest = {
        "sourceBucket": bucket,
        "destinationBucket": f"arn:aws:s3:::{bucket}",
        "version": "2016-11-30",
        "creationTimestamp": str(int(datetime.now(UTC).timestamp() * 1000)),
        "fileFormat": "Parquet" if parquet else "CSV",
        "fileSchema": ", ".join(schema),
        "files": [
            {"key": "inventory/data/1", "size": len(data), "MD5checksum": hashlib.md5(data, usedforsecurity=False).hexdigest()}
        ],
    } | changes
    client.put_object(Bucket=bucket, Key="inventory/manifest.json", Body=json.dumps(manifest).encode())
    return f"{bucket}/inventory/manifest.json"


ROWS = [
    ["b", "d/a+b%2Fc", "true", "SSE-S3"],
    ["b", "d/k", "true", "SSE-KMS"],
    ["b", "d/old", "false", "NOT-SSE"],
    ["b", "x", "true", "NOT-SSE"],
]


@pytest.mark.parametrize("parquet", [False, True])
def test_an_inventory_is_read_instead_of_asking(s3_server: S3Server, bucket: str, parquet: bool) -> None:
    client = s3_server.client()

    def read(rows: list[list[str]], wanted: Wanted | None = None, prefix: str = "/d", **changes: Any) -> list[tuple[str, str]]:
        place = inventory(client, bucket, rows, parquet=parquet, **changes)
        return of(look(client, f"{bucket}{prefix}", wanted, inventory=S3Store(place, client)), "objects-encrypted")

    ((status, text),) = read(ROWS)
    assert (status, text.startswith("2 objects encrypted: 1 by AES256, 1 by aws:kms; from the inventory of")) == (
        "pass",
        True,
    )
    assert [status for status, _ in read(ROWS, prefix="")] == ["fail", "pass"]
    assert [status for status, _ in read(ROWS, Wanted("aws:kms"))] == ["fail", "pass"]
    assert [status for status, _ in read([["b", "d/x", "true", "ODD"]])] == ["error"]
    assert read(ROWS, prefix="/nothing") == [("fail", "the inventory lists no object there")]
    old = str(int((datetime.now(UTC) - timedelta(hours=49)).timestamp() * 1000))
    for changes in (
        {"creationTimestamp": old},
        {"sourceBucket": "other"},
        {"fileFormat": "ORC"},
        {"files": [{"key": "inventory/data/1", "MD5checksum": "0"}]},
    ):
        assert [status for status, _ in read(ROWS, **changes)] == ["fail"], changes


def test_an_inventory_that_is_none_fails(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    for body in (b"", b"[]", b"{}", b"\xff"):
        client.put_object(Bucket=bucket, Key="m.json", Body=body)
        found = look(client, bucket, inventory=S3Store(f"{bucket}/m.json", client))
        assert [status for status, _ in of(found, "objects-encrypted")] == ["fail"]
    found = look(client, bucket, inventory=S3Store(f"{bucket}/nowhere.json", client))
    assert [status for status, _ in of(found, "objects-encrypted")] == ["fail"]


@pytest.mark.parametrize("parquet", [False, True])
def test_a_row_that_does_not_say_whether_it_is_current_is_an_error(moto: Any, parquet: bool) -> None:
    odd = ["", None] if parquet else ["", " true", "1", "yes", "null"]
    rows = [["b", "d/x", "true", "SSE-S3"], *(["b", f"d/{number}", value, "NOT-SSE"] for number, value in enumerate(odd))]
    place = inventory(moto, "bbb", rows, parquet=parquet)
    found = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
    assert [status for status, _, _ in found] == ["error"] * len(odd) + ["pass"]
    assert all("does not tell whether this is the current version" in text for _, _, text in found[:-1])
    place = inventory(moto, "bbb", [["b", "d/x", "TRUE" if not parquet else "true", "NOT-SSE"]], parquet=parquet)
    assert [status for status, _, _ in encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))] == ["fail"]


@pytest.mark.parametrize("parquet", [False, True])
def test_a_delete_marker_is_no_object_and_a_doubtful_one_is_an_error(moto: Any, parquet: bool) -> None:
    rows = [
        ["b", "d/x", "true", "SSE-S3", "false"],
        ["b", "d/gone", "true", "", "true"],
        ["b", "d/gone2", "true", "NOT-SSE", "true"],
        ["b", "d/odd", "true", "NOT-SSE", ""],
    ]
    place = inventory(moto, "bbb", rows, parquet=parquet)
    found = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
    assert [(status, subject) for status, subject, _ in found] == [("error", "s3://bbb/d/odd"), ("pass", "s3://bbb/d")]


def test_an_inventory_says_that_what_it_does_not_list_was_not_looked_at(moto: Any) -> None:
    moto.put_object(Bucket="bbb", Key="d/secret", Body=b"in the clear")
    place = inventory(moto, "bbb", [["b", "d/x", "true", "SSE-S3"]])
    ((status, _, text),) = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
    assert status == "pass"
    assert text.endswith("nothing but the current versions that it lists was looked at")


@pytest.mark.parametrize("parquet", [False, True])
def test_an_inventory_of_another_bucket_or_with_a_file_twice_fails(moto: Any, parquet: bool) -> None:
    place = inventory(moto, "bbb", [["b", "d/x", "true", "SSE-S3"], ["other", "d/y", "true", "SSE-S3"]], parquet=parquet)
    (*_, last) = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
    assert last == ("fail", f"s3://{place}", "lists objects of another bucket")
    rows = [["b", "d/x", "true", "SSE-S3"]]
    place = inventory(moto, "bbb", rows, parquet=parquet)
    (file,) = json.loads(S3Store(place, moto).read(limit=10_000))["files"]
    place = inventory(moto, "bbb", rows, parquet=parquet, files=[file, file])
    assert encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto)) == [
        ("fail", f"s3://{place}", "names one of its files twice")
    ]


SCHEMA = ["Bucket", "Key", "IsLatest", "EncryptionStatus"]
WHOLE = gzip.compress(b'"bbb","d/x","true","SSE-S3"\n' * 50)


@pytest.mark.parametrize(
    "data",
    [
        WHOLE[:-9],
        WHOLE[:20],
        WHOLE[:12] + b"\xff\xff\xff" + WHOLE[15:],
        WHOLE[:-5] + b"x" + WHOLE[-4:],
        b'"bbb","d/x","true","SSE-S3"\n',
        gzip.compress(b'"bbb","d/' + b"x" * 200_000 + b'","true","SSE-S3"\n'),
        gzip.compress(b'"bbb","d/\xff","true","SSE-S3"\n'),
        gzip.compress(b'"bbb","d/x","true"\n'),
    ],
    ids=["cut", "cut early", "corrupt", "checksum", "no gzip", "huge field", "no text", "short row"],
)
def test_a_report_that_cannot_be_read_is_a_finding(moto: Any, data: bytes) -> None:
    place = put_report(moto, "bbb", data, SCHEMA)
    (*_, (status, subject, text)) = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
    assert (status, subject) == ("fail", f"s3://{place}")
    assert text.startswith("is not an inventory that can be read")


def test_a_parquet_report_that_cannot_be_read_is_a_finding(moto: Any) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def wrong(**columns: Any) -> bytes:
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer)
        return buffer.getvalue()

    rest = {"bucket": ["bbb"], "encryption_status": ["SSE-S3"]}
    good = wrong(key=["d/x"] * 5000, bucket=["bbb"] * 5000, encryption_status=[str(n) for n in range(5000)])
    broken = good[:4] + bytes(60) + good[64:]
    for data in (
        b"PAR1xxxxxxxxxxx",
        b"",
        broken,
        wrong(**rest),
        wrong(key=["d/x"], encryption_status=["SSE-S3"]),
        wrong(key=pa.array([None], pa.string()), **rest),
        wrong(key=["d/x"], bucket=["bbb"], encryption_status=[["SSE-S3"]]),
        wrong(key=[3], **rest),
    ):
        place = put_report(moto, "bbb", data, SCHEMA, parquet=True)
        (*_, (status, subject, text)) = encrypted_objects(moto, "bbb/d", inventory=S3Store(place, moto))
        assert (status, subject) == ("fail", f"s3://{place}")
        assert text.startswith("is not an inventory that can be read")
