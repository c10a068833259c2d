"""Buckets for real: every object is looked at, what may not be looked at is no pass, and a policy is read as it acts."""

from __future__ import annotations

import hashlib
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber

from airflow_pipesec.checks.buckets import Wanted, _public, encrypted_bucket, patiently
from airflow_pipesec.checks.encryption import decrypt, encrypt
from airflow_pipesec.errors import AccessDenied, ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.keys import write_identity
from airflow_pipesec.operators import EncryptionAtRestOperator
from airflow_pipesec.sensors import EncryptionAtRestSensor
from airflow_pipesec.storage import LocalStore, open_store
from airflow_pipesec.storage_remote import S3Store
from tests.runner import RunTask
from tests.servers import S3Server

KEYS = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
SETTINGS = {"default-encryption", "unencrypted-uploads-refused", "plain-http-refused", "bucket-not-public", "bucket-versioned"}


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> str:
    name = "e" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3_server.client().create_bucket(Bucket=name)
    return name


def default(server: S3Server, bucket: str, algorithm: str, key: str | None = None) -> None:
    rule: dict[str, Any] = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": algorithm}}
    if key:
        rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"] = key
        rule["BucketKeyEnabled"] = True
    server.client().put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def look(client: Any, place: str, wanted: Wanted | None = None, **options: Any) -> list[Finding]:
    return list(encrypted_bucket(S3Store(place, client), wanted or Wanted(), **options))


def of(findings: list[Finding], control: str) -> list[tuple[str, str]]:
    return [(f.status.value, f.message) for f in findings if f.control.id == control]


def test_objects_are_looked_at_one_by_one(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    client.put_object(Bucket=bucket, Key="d/aes", Body=b"x", ServerSideEncryption="AES256")
    client.put_object(Bucket=bucket, Key="d/kms", Body=b"x", ServerSideEncryption="aws:kms", SSEKMSKeyId=s3_server.kms_key)
    good = of(look(client, f"{bucket}/d"), "objects-encrypted")
    assert good == [("pass", "2 objects encrypted: 1 by AES256, 1 by aws:kms")]
    client.put_object(Bucket=bucket, Key="d/clear", Body=b"x")
    assert ("fail", "is not encrypted") in of(look(client, f"{bucket}/d"), "objects-encrypted")
    for wanted, failing in (
        (Wanted("aws:kms"), {"d/aes", "d/clear"}),
        (Wanted("AES256"), {"d/kms", "d/clear"}),
        (Wanted("any", s3_server.kms_key), {"d/aes", "d/clear"}),
        (Wanted("aws:kms", s3_server.kms_key + "0"), {"d/aes", "d/kms", "d/clear"}),
    ):
        found = look(client, f"{bucket}/d", wanted)
        failed = {f.subject.name for f in found if f.control.id == "objects-encrypted" and f.status is Status.FAIL}
        assert failed == {f"s3://{bucket}/{key}" for key in failing}
    assert of(look(client, f"{bucket}/d/aes"), "objects-encrypted")[0][0] == "pass", "a single object"


def test_an_object_under_a_customers_key_cannot_be_looked_at(s3_server: S3Server, bucket: str) -> None:
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    s3_server.client().put_object(Bucket=bucket, Key="theirs", Body=b"x", **customer)
    ((status, text),) = of(look(s3_server.client(), bucket), "objects-encrypted")
    assert (status, "SSE-C" in text) == ("error", True)


def test_default_encryption_and_its_key(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    assert of(look(client, bucket), "default-encryption") == [("fail", "has no default encryption")]
    default(s3_server, bucket, "AES256")
    assert of(look(client, bucket), "default-encryption")[0][0] == "pass"
    assert of(look(client, bucket, Wanted("aws:kms")), "default-encryption")[0][0] == "fail"
    default(s3_server, bucket, "aws:kms", s3_server.kms_key)
    wanted = Wanted("aws:kms", s3_server.kms_key)
    ((status, text),) = of(look(client, bucket, wanted), "default-encryption")
    assert (status, s3_server.kms_key in text, "bucket key on" in text) == ("pass", True, True)
    other = Wanted("aws:kms", s3_server.kms_key + "0")
    assert of(look(client, bucket, other), "default-encryption") == [
        ("fail", "by default an upload is encrypted under another key")
    ]


@pytest.mark.parametrize("name", [KEY_ID := "1234abcd-12ab-34cd-56ef-1234567890ab", "alias/data", "arn:aws:kms:eu:1:alias/data"])
def test_a_default_key_that_is_named_by_less_than_its_arn_is_said_to_be(name: str) -> None:
    arn = f"arn:aws:kms:eu-central-1:111122223333:key/{KEY_ID}"
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": name}}
    answer = {"ServerSideEncryptionConfiguration": {"Rules": [rule]}}
    found = look(stubbed(get_bucket_encryption=answer, list_objects_v2="AccessDenied"), "b", Wanted("aws:kms", arn))
    assert of(found, "default-encryption") == [("fail", f"names its key as {name}; give the ARN there")]
    found = look(stubbed(get_bucket_encryption=answer, list_objects_v2="AccessDenied"), "b", Wanted("aws:kms"))
    assert of(found, "default-encryption")[0][0] == "pass", "where any key will do"


def test_a_probe_shows_what_becomes_of_an_upload_and_leaves_nothing(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    assert of(look(client, f"{bucket}/d", probe=True), "encryption-probed")[0][0] == "fail"
    default(s3_server, bucket, "AES256")
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    assert of(look(client, f"{bucket}/d", probe=True), "encryption-probed")[0][0] == "pass"
    left = client.list_object_versions(Bucket=bucket)
    assert not left.get("Versions")
    assert not left.get("DeleteMarkers")
    reader = s3_server.client(s3_server.reader)
    assert of(look(reader, f"{bucket}/d", probe=True), "encryption-probed")[0][0] == "error"


def policy(
    bucket: str,
    *,
    effect: str = "Deny",
    principal: Any = "*",
    action: Any = "s3:PutObject",
    resources: tuple[str, ...] = ("/*",),
    **condition: Any,
) -> dict[str, Any]:
    return {
        "Effect": effect,
        "Principal": principal,
        "Action": action,
        "Resource": [f"arn:aws:s3:::{bucket}{end}" for end in resources],
        "Condition": condition,
    }


SSE = "s3:x-amz-server-side-encryption"
KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
HTTP = {"Bool": {"aws:SecureTransport": "false"}}


@pytest.mark.parametrize(
    ("statement", "refused"),
    [
        (policy("b", StringNotEquals={SSE: "AES256"}), True),
        (policy("b", StringNotEquals={SSE: ["AES256", "aws:kms"]}), True),
        (policy("b", Null={SSE: "true"}), True),
        (policy("b", action=["s3:*"], principal={"AWS": "*"}, Null={SSE: "true"}), True),
        (policy("b", effect="Allow", StringNotEquals={SSE: "AES256"}), False),
        (policy("b", principal={"AWS": "arn:aws:iam::111122223333:root"}, StringNotEquals={SSE: "AES256"}), False),
        (policy("b", action="s3:GetObject", StringNotEquals={SSE: "AES256"}), False),
        (policy("other", StringNotEquals={SSE: "AES256"}), False),
        (policy("b", StringNotEquals={SSE: "none"}), False),
        (policy("b", StringEquals={SSE: "AES256"}), False),
        (policy("b", Null={SSE: "false"}), False),
        (policy("b", StringNotEquals={SSE: "AES256"}, IpAddress={"aws:SourceIp": "10.0.0.0/8"}), False),
    ],
)
def test_a_policy_refuses_unencrypted_uploads_only_where_it_does(statement: dict[str, Any], refused: bool) -> None:
    assert (stubbed_setting("unencrypted-uploads-refused", statement) == "pass") == refused


@pytest.mark.parametrize(
    ("wanted", "statement", "refused"),
    [
        (Wanted("any", KEY), policy("b", StringNotEquals={SSE: "AES256"}), False),
        (Wanted("any", KEY), policy("b", Null={SSE: "true"}), False),
        (Wanted("aws:kms", KEY), policy("b", StringNotEquals={SSE: "aws:kms"}), False),
        (Wanted("aws:kms", KEY), policy("b", StringNotEquals={f"{SSE}-aws-kms-key-id": KEY}), True),
        (Wanted("any", KEY), policy("b", ArnNotEquals={f"{SSE.upper()}-aws-kms-key-id": [KEY]}), True),
        (Wanted("any", KEY), policy("b", StringNotEqualsIfExists={f"{SSE}-aws-kms-key-id": KEY}), False),
        (Wanted("any", KEY), policy("b", StringNotEquals={f"{SSE}-aws-kms-key-id": [KEY, KEY + "0"]}), False),
        (Wanted("any", KEY), policy("b", StringNotEquals={f"{SSE}-aws-kms-key-id": KEY + "0"}), False),
        (Wanted("any", KEY), policy("b", StringEquals={f"{SSE}-aws-kms-key-id": KEY}), False),
        (Wanted("aws:kms"), policy("b", StringNotEquals={SSE: "AES256"}), False),
        (Wanted("aws:kms"), policy("b", StringNotEquals={SSE: ["aws:kms", "aws:kms:dsse"]}), True),
        (Wanted("AES256"), policy("b", StringNotEquals={SSE: ["AES256", "aws:kms"]}), False),
        (Wanted("AES256"), policy("b", Null={SSE: "true"}), False),
    ],
)
def test_a_policy_refuses_other_keys_only_where_it_names_the_key(
    wanted: Wanted, statement: dict[str, Any], refused: bool
) -> None:
    assert (stubbed_setting("unencrypted-uploads-refused", statement, wanted=wanted) == "pass") == refused


BOTH = ("", "/*")
ACTIONS = ["s3:ListBucket", "s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject"]


@pytest.mark.parametrize(
    ("statements", "refused"),
    [
        ([policy("b", action="s3:*", resources=BOTH, **HTTP)], True),
        ([policy("b", action="*", resources=("*",), **HTTP)], True),
        ([policy("b", action=ACTIONS, resources=BOTH, Bool={"aws:SecureTransport": False})], True),
        (
            [
                policy(
                    "b",
                    action=["s3:list*", "s3:*Object", "s3:getobject*"],
                    resources=BOTH,
                    Bool={"AWS:securetransport": ["false"]},
                )
            ],
            True,
        ),
        ([policy("b", action="s3:*", **HTTP), policy("b", action="s3:ListBucket", resources=("",), **HTTP)], True),
        ([policy("b", action=[action], resources=BOTH, **HTTP) for action in ACTIONS], True),
        *[([policy("b", action=[a for a in ACTIONS if a != left], resources=BOTH, **HTTP)], False) for left in ACTIONS],
        ([policy("b", action="s3:*", **HTTP)], False),
        ([policy("b", action="s3:*", resources=("",), **HTTP)], False),
        ([policy("b", action=["s3:GetObject", "s3:PutObject"], Bool={"aws:SecureTransport": False})], False),
        ([policy("b", action=["s3:GetObject", "s3:PutObject", "s3:ListBucket"], resources=BOTH, **HTTP)], False),
        ([policy("b", action="s3:GetObject", **HTTP)], False),
        ([policy("b", action="s3:*", resources=BOTH, Bool={"aws:SecureTransport": "true"})], False),
        ([policy("b", action="s3:*", resources=BOTH, BoolIfExists={"aws:SecureTransport": "false"})], False),
        ([policy("b", action="s3:*", resources=BOTH, **HTTP, StringEquals={"aws:PrincipalArn": "x"})], False),
        ([policy("b", action="s3:*", resources=BOTH, Bool={"aws:SecureTransport": "false", "x": "y"})], False),
        ([policy("bb", action="s3:*", resources=BOTH, **HTTP)], False),
    ],
)
def test_a_policy_refuses_plain_http_only_where_it_does(statements: list[dict[str, Any]], refused: bool) -> None:
    assert (stubbed_setting("plain-http-refused", *statements) == "pass") == refused


@pytest.mark.parametrize("condition", [None, [], [1], "x", 3, {}, {"Bool": ["a"]}, {"Bool": None}, {"Bool": "x"}, {"Bool": {}}])
def test_a_statement_of_another_form_refuses_nothing(condition: Any) -> None:
    odd = policy("b", action="s3:*", resources=BOTH) | {"Condition": condition}
    for control in ("plain-http-refused", "unencrypted-uploads-refused"):
        assert stubbed_setting(control, odd) == "fail"
    good = policy("b", action="s3:*", resources=BOTH, **HTTP)
    assert stubbed_setting("plain-http-refused", odd, None, "x", 3, [good], good) == "pass", "and hides no good one"


@pytest.mark.parametrize("document", ["nonsense", "[]", "null", "3", '{"Statement": "x"}', '{"Statement": null}', "{}"])
def test_a_policy_of_another_form_refuses_nothing(document: str) -> None:
    client = stubbed(get_bucket_policy={"Policy": document}, list_objects_v2="AccessDenied")
    found = look(client, "b")
    assert of(found, "plain-http-refused")[0][0] == "fail"
    assert of(found, "unencrypted-uploads-refused")[0][0] == "fail"


def stubbed(**answers: Any) -> Any:
    """A client of S3 whose answers about the bucket are given: a dictionary, or the code of an error."""
    client = boto3.client("s3", **KEYS)
    stub = Stubber(client)
    order = (
        "get_bucket_encryption",
        "get_bucket_policy",
        "get_bucket_policy",
        "get_public_access_block",
        "get_bucket_versioning",
    )
    for call in (*order, "list_objects_v2", "get_bucket_versioning", "list_object_versions"):
        add(stub, call, answers.get(call, {}))
    stub.activate()
    return client


def add(stub: Stubber, call: str, answer: Any) -> None:
    if isinstance(answer, str):
        status = {"AccessDenied": 403, "NotImplemented": 501, "SlowDown": 503}.get(answer, 404)
        stub.add_client_error(call, answer, http_status_code=status)
    else:
        stub.add_response(call, answer)


def scripted(*script: tuple[str, Any]) -> Any:
    """A client of S3 that is called so, in this order, and answers so."""
    client = boto3.client("s3", **KEYS)
    stub = Stubber(client)
    for call, answer in script:
        add(stub, call, answer)
    stub.activate()
    return client


def stubbed_setting(control: str, *statements: Any, wanted: Wanted | None = None) -> str:
    client = stubbed(
        get_bucket_policy={"Policy": json.dumps({"Statement": statements})},
        get_bucket_encryption="ServerSideEncryptionConfigurationNotFoundError",
        get_public_access_block="NoSuchPublicAccessBlockConfiguration",
        list_objects_v2="AccessDenied",
    )
    ((status, _),) = of(look(client, "b", wanted), control)
    return status


def test_a_policy_that_refuses_really_refuses(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    statement = policy(bucket, StringNotEquals={SSE: "AES256"})
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}))
    assert of(look(client, bucket), "unencrypted-uploads-refused")[0][0] == "pass"
    with pytest.raises(ClientError, match="AccessDenied"):
        client.put_object(Bucket=bucket, Key="clear", Body=b"x")
    client.put_object(Bucket=bucket, Key="sealed", Body=b"x", ServerSideEncryption="AES256")


def test_public_access_and_versioning() -> None:
    on = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
    for settings, status in ((on, "pass"), (on | {"BlockPublicPolicy": False}, "fail"), ({}, "fail")):
        client = stubbed(
            get_bucket_encryption="ServerSideEncryptionConfigurationNotFoundError",
            get_bucket_policy="NoSuchBucketPolicy",
            get_public_access_block={"PublicAccessBlockConfiguration": settings},
            get_bucket_versioning={"Status": "Enabled"},
            list_objects_v2="AccessDenied",
        )
        found = look(client, "b")
        assert of(found, "bucket-not-public")[0][0] == status
        assert of(found, "bucket-versioned")[0][0] == "pass"


@pytest.mark.parametrize(
    ("statement", "status"),
    [
        (policy("b", effect="Allow", action="s3:GetObject"), "fail"),
        (policy("b", effect="Allow", principal={"AWS": "*"}), "fail"),
        (policy("b", effect="Allow", principal={"AWS": ["arn:aws:iam::1:root", "*"]}), "fail"),
        (policy("b", effect="Allow", principal={"CanonicalUser": "x", "AWS": "*"}), "fail"),
        (policy("b", effect="Allow", principal=None) | {"NotPrincipal": {"AWS": "x"}}, "fail"),
        (policy("b", effect="Allow", IpAddress={"aws:SourceIp": "10.0.0.0/8"}), "skip"),
        (policy("b", effect="Allow", principal={"AWS": "arn:aws:iam::1:root"}), "skip"),
        (policy("b", action="s3:GetObject"), "skip"),
    ],
)
def test_without_a_public_access_block_the_policy_is_read(statement: dict[str, Any], status: str) -> None:
    document = {"Policy": json.dumps({"Statement": [statement]})}
    client = scripted(("get_public_access_block", "NotImplemented"), ("get_bucket_policy", document))
    assert _public(S3Store("b", client), Wanted())[0].value == status
    client = scripted(("get_public_access_block", "NotImplemented"), ("get_bucket_policy", "AccessDenied"))
    with pytest.raises(AccessDenied):
        _public(S3Store("b", client), Wanted())


def test_a_server_without_a_public_access_block_says_what_was_looked_at(s3_server: S3Server, bucket: str) -> None:
    client = s3_server.client()
    ((status, text),) = of(look(client, bucket), "bucket-not-public")
    assert (status, "policy" in text, "ACL was not looked at" in text) == ("skip", True, True)
    opened = {"Version": "2012-10-17", "Statement": [policy(bucket, effect="Allow", action="s3:GetObject")]}
    opened["Statement"][0].pop("Condition")
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps(opened))
    assert of(look(client, bucket), "bucket-not-public")[0][0] == "fail"


def test_nothing_that_may_not_be_looked_at_passes(s3_server: S3Server, bucket: str) -> None:
    s3_server.client().put_object(Bucket=bucket, Key="d/a", Body=b"x", ServerSideEncryption="AES256")
    found = look(s3_server.client(s3_server.nobody), f"{bucket}/d", probe=True)
    statuses = Counter(f.status for f in found)
    assert not statuses[Status.PASS]
    assert statuses[Status.ERROR] >= 4
    for call in ("get_bucket_encryption", "get_public_access_block", "get_bucket_versioning", "list_objects_v2"):
        client = stubbed(**({"get_bucket_policy": "NoSuchBucketPolicy"} | {call: "AccessDenied"}))
        assert any(f.status is Status.ERROR for f in look(client, "b")), call


def test_a_bucket_that_is_not_there_and_one_without_objects_fail(s3_server: S3Server, bucket: str) -> None:
    assert of(look(s3_server.client(), bucket), "objects-encrypted")[0][0] == "fail"
    assert not [f for f in look(s3_server.client(), "no-such-bucket-at-all") if f.status is Status.PASS]


def test_a_sample_says_that_it_is_one(s3_server: S3Server, bucket: str) -> None:
    for number in range(8):
        s3_server.client().put_object(Bucket=bucket, Key=f"d/{number}", Body=b"x", ServerSideEncryption="AES256")
    ((_, text),) = of(look(s3_server.client(), f"{bucket}/d", sample=3), "objects-encrypted")
    assert text == "3 objects encrypted: 3 by AES256; 3 of 8 objects looked at, chosen at random"
    ((_, text),) = of(look(s3_server.client(), f"{bucket}/d", sample=80), "objects-encrypted")
    assert text == "8 objects encrypted: 8 by AES256"


@pytest.mark.parametrize(
    "options",
    [
        {"sample": 0},
        {"sample": True},
        {"sample": "3"},
        {"wanted": Wanted("AES")},
        {"wanted": Wanted("AES256", "arn:x")},
        {"wanted": Wanted("any", "alias/x")},
        {"wanted": Wanted("any", "arn:aws:kms:eu-central-1:111122223333:alias/x")},
        {"wanted": Wanted("aws:kms", "arn:aws:kms:eu-central-1:111122223333:key/")},
        {"wanted": Wanted("aws:kms", "arn:aws:kms:eu-central-1:111122223333:key/*")},
    ],
)
def test_what_cannot_be_asked_for_is_refused(options: dict[str, Any]) -> None:
    wanted = options.pop("wanted", None)
    with pytest.raises(ConfigurationError):
        look(boto3.client("s3", **KEYS), "b", wanted, **options)


# ---- throttling, and a server that lies


def test_throttling_is_met_with_patience() -> None:
    pauses: list[float] = []
    answers = iter(["SlowDown", "Throttling", None])

    def call() -> str:
        code = next(answers)
        if code:
            raise ClientError({"Error": {"Code": code}}, "HeadObject")
        return "done"

    assert patiently(call, sleep=pauses.append) == "done"
    assert len(pauses) == 2
    assert pauses[0] < pauses[1] * 2

    def never() -> str:
        raise ClientError({"Error": {"Code": "SlowDown"}}, "HeadObject")

    with pytest.raises(ClientError, match="SlowDown"):
        patiently(never, tries=3, sleep=pauses.append)
    with pytest.raises(ClientError, match="NoSuchKey"):
        patiently(lambda: (_ for _ in ()).throw(ClientError({"Error": {"Code": "NoSuchKey"}}, "x")), sleep=pauses.append)
    assert len(pauses) == 4, "and only throttling is"


class Liar(BaseHTTPRequestHandler):
    """Claims encryption in every answer, and keeps what it is sent as it is; what it gives back it has changed."""

    protocol_version = "HTTP/1.1"
    kept: ClassVar[dict[str, bytes]] = {}

    def answer(self, body: bytes = b"", status: int = 200) -> None:
        self.send_response(status)
        self.send_header("x-amz-server-side-encryption", "AES256")
        self.send_header("ETag", '"0"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.kept[self.path] = self.rfile.read(length)
        self.answer()

    def do_GET(self) -> None:
        if "?" in self.path:
            self.answer(b"<Error><Code>NotImplemented</Code></Error>", 501)
        else:
            self.answer(b"something else", 200)

    def do_HEAD(self) -> None:
        self.answer()

    def do_DELETE(self) -> None:
        self.kept.pop(self.path, None)
        self.answer(status=204)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def liar() -> Iterator[Any]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Liar)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", **KEYS)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_server_that_gives_back_other_bytes_is_found_out_by_a_probe(liar: Any) -> None:
    found = list(encrypted_bucket_probe(liar))
    assert [(f.status, f.message) for f in found] == [(Status.FAIL, "a marker came back with other bytes")]


def encrypted_bucket_probe(client: Any) -> Iterator[Finding]:
    from airflow_pipesec.checks import buckets

    store = S3Store("b/d", client)
    status, text = buckets._probe(store, Wanted())
    yield Finding(buckets.ENCRYPTION_PROBED, buckets.Subject(store.url), status, text)


def test_a_server_that_answers_nothing_sensible_is_trouble_and_no_pass(liar: Any) -> None:
    with pytest.raises(StorageError):
        look(liar, "b/d", probe=True)


# ---- artifacts in S3, and the guards


def test_artifacts_are_encrypted_into_s3_and_out_of_it(s3_server: S3Server, bucket: str, tmp_path: Path) -> None:
    client, plain = s3_server.client(), random.Random(3).randbytes(20 << 20)
    us = write_identity(tmp_path / "key")
    (tmp_path / "model").write_bytes(plain)
    remote = open_store(f"s3://{bucket}/model.age", client=client)
    (sealed,) = encrypt(LocalStore(tmp_path / "model"), remote, [us.recipient])
    assert sealed.status is Status.PASS
    (opened,) = decrypt(remote, open_store(f"s3://{bucket}/plain", client=client), [us])
    assert opened.status is Status.PASS
    assert client.get_object(Bucket=bucket, Key="plain")["Body"].read() == plain
    whole = client.get_object(Bucket=bucket, Key="model.age")["Body"].read()
    client.put_object(Bucket=bucket, Key="cut.age", Body=whole[:-70_000])
    cut = open_store(f"s3://{bucket}/cut.age", client=client)
    (refused,) = decrypt(cut, open_store(f"s3://{bucket}/never", client=client), [us])
    assert refused.status is Status.FAIL
    assert "never" not in [item["Key"] for item in client.list_objects_v2(Bucket=bucket)["Contents"]]
    assert not client.list_multipart_uploads(Bucket=bucket).get("Uploads")


@pytest.fixture
def connection(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    user, secret = s3_server.admin
    extra = {"endpoint_url": s3_server.endpoint, "region_name": "us-east-1"}
    monkeypatch.setenv("AIRFLOW_CONN_LAKE", json.dumps({"conn_type": "aws", "login": user, "password": secret, "extra": extra}))
    return "lake"


def test_the_guards_look_at_buckets_and_folders_together(
    s3_server: S3Server, bucket: str, connection: str, run_task: RunTask, tmp_path: Path
) -> None:
    default(s3_server, bucket, "AES256")
    s3_server.client().put_object(Bucket=bucket, Key="d/a", Body=b"x")
    lax = {"policy": {"fail_on": "high"}, "aws_conn_id": connection}
    assert run_task(EncryptionAtRestOperator(task_id="e", targets=f"s3://{bucket}/d", **lax)).state == "success"
    assert run_task(EncryptionAtRestSensor(task_id="s", targets=[f"s3://{bucket}/d"], **lax)).state == "success"
    strict = EncryptionAtRestOperator(task_id="k", targets=f"s3://{bucket}/d", require="aws:kms", **lax)
    assert run_task(strict).summary["blocking_controls"] == ["default-encryption", "objects-encrypted"]
    (tmp_path / "clear").write_bytes(b"x")
    both = EncryptionAtRestOperator(task_id="b", targets=[f"s3://{bucket}/d", str(tmp_path / "clear")], trust_device=False, **lax)
    ran = run_task(both)
    assert ran.state == "failed"
    assert ran.summary["blocking_controls"] == ["encrypted-at-rest"]
    us = write_identity(tmp_path / "key")
    assert all(
        f.status is Status.PASS for f in encrypt(open_store(tmp_path / "clear"), open_store(tmp_path / "s"), [us.recipient])
    )
    both = EncryptionAtRestOperator(task_id="s2", targets=[f"s3://{bucket}/d", str(tmp_path / "s")], trust_device=False, **lax)
    ran = run_task(both)
    assert ran.state == "success"
    assert {"encrypted-at-rest", "storage-looked-at", "objects-encrypted"} <= set(ran.summary["controls"])
    for wrong in ([], ["memory://x"], [3]):
        assert run_task(EncryptionAtRestOperator(task_id="w", targets=wrong, **lax)).state == "failed"
