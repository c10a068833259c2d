"""Buckets: what lies in S3 is encrypted, object by object, and the bucket refuses what would not be.

The settings of a bucket say what happens to uploads that ask for nothing; each object's own answer to HeadObject says what
happened to it. Both are the server's word. A server that answers what it does not do is not found out by asking: ``probe`` shows
at least that the bucket does to an upload of today what its settings say.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast
from urllib.parse import unquote_plus

from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing, StorageError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, printable
from airflow_pipesec.storage_remote import S3Store, aws_errors

if TYPE_CHECKING:
    from airflow_pipesec.hashing import Progress

__all__ = ["REQUIRE", "Wanted", "encrypted_bucket"]

T = TypeVar("T")
REQUIRE = ("any", "aws:kms", "AES256")
WORKERS = 16
TRIES = 8
INVENTORY_AGE = timedelta(hours=48)
MAX_MANIFEST = 16 << 20
_AT_REST = ("NIST SP 800-53 SC-28",)
_IN_TRANSIT = ("NIST SP 800-53 SC-8",)

DEFAULT_ENCRYPTION = Control(
    id="default-encryption",
    title="The bucket encrypts uploads that ask for nothing, in the way that is required",
    severity=Severity.HIGH,
    remedy="Set the bucket's default encryption, with the key that is required (PutBucketEncryption).",
    refs=_AT_REST,
)
OBJECTS_ENCRYPTED = Control(
    id="objects-encrypted",
    title="Every object is stored encrypted, in the way that is required",
    severity=Severity.CRITICAL,
    remedy="Copy the object onto itself with the encryption that is required; find out who uploaded it without.",
    refs=_AT_REST,
)
UPLOADS_REFUSED = Control(
    id="unencrypted-uploads-refused",
    title="A policy refuses uploads that ask for another encryption",
    severity=Severity.LOW,
    remedy="Deny s3:PutObject in the bucket's policy where s3:x-amz-server-side-encryption is not what is required.",
    refs=_AT_REST,
)
TRANSPORT_SECURE = Control(
    id="plain-http-refused",
    title="A policy refuses requests over plain HTTP",
    severity=Severity.MEDIUM,
    remedy='Deny s3:* in the bucket\'s policy where aws:SecureTransport is "false".',
    refs=_IN_TRANSIT,
)
NOT_PUBLIC = Control(
    id="bucket-not-public",
    title="The bucket is closed to the public",
    severity=Severity.CRITICAL,
    remedy="Turn on all four settings of the bucket's public access block.",
    refs=("NIST SP 800-53 AC-3",),
)
BUCKET_VERSIONED = Control(
    id="bucket-versioned",
    title="The bucket keeps versions, so that what was looked at can be named",
    severity=Severity.LOW,
    remedy="Turn on bucket versioning.",
    refs=_AT_REST,
)
ENCRYPTION_PROBED = Control(
    id="encryption-probed",
    title="A marker that was written without asking came out encrypted, unchanged, and was removed again",
    severity=Severity.HIGH,
    remedy="Mend the bucket's default encryption, or grant s3:PutObject, s3:GetObject and s3:DeleteObject below the prefix.",
    refs=_AT_REST,
)

_PUBLIC_SETTINGS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
_THROTTLED = ("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "TooManyRequestsException", "503", "429")
# What an S3 Inventory calls the ways of encryption, and what HeadObject does.
_INVENTORY = {"SSE-S3": "AES256", "SSE-KMS": "aws:kms", "DSSE-KMS": "aws:kms:dsse", "SSE-C": "SSE-C", "NOT-SSE": ""}


class Wanted(NamedTuple):
    """What encryption is required: any, one algorithm, or one key."""

    require: str = "any"
    kms_key_arn: str | None = None

    def checked(self) -> Wanted:
        """Return self. Raises :class:`ConfigurationError` for what can't be required."""
        if self.require not in REQUIRE:
            raise ConfigurationError(f"require={self.require!r} is unknown. Use one of {', '.join(REQUIRE)}.")
        if self.kms_key_arn is not None and self.require == "AES256":
            raise ConfigurationError("kms_key_arn= goes with require='aws:kms': AES256 knows no key of yours.")
        if self.kms_key_arn is not None and not self.kms_key_arn.startswith("arn:"):
            raise ConfigurationError(
                "kms_key_arn= is not an ARN. Give the key's full arn:…:key/…; an alias may be turned elsewhere."
            )
        return self

    def problem(self, algorithm: str | None, key: str | None) -> str | None:
        """Say what is wrong with an encryption, or None when it is what is required."""
        if not algorithm:
            return "is not encrypted"
        kms = algorithm.startswith("aws:kms")
        if (self.require == "aws:kms" or self.kms_key_arn) and not kms:
            return f"is encrypted by {printable(algorithm)}, not by KMS"
        if self.require == "AES256" and algorithm != "AES256":
            return f"is encrypted by {printable(algorithm)}, not by AES256"
        if self.kms_key_arn and key != self.kms_key_arn:
            return "is encrypted under another key" if key else "does not name the key it is encrypted under"
        return None


def encrypted_bucket(
    store: S3Store,
    wanted: Wanted,
    *,
    sample: int | None = None,
    inventory: S3Store | None = None,
    probe: bool = False,
    progress: Progress | None = None,
    now: datetime | None = None,
) -> Iterator[Finding]:
    """Look at a bucket's settings and at the encryption of every object below a prefix, and yield what was seen.

    ``sample`` looks at that many objects, chosen at random, instead of all; ``inventory`` reads an S3 Inventory report (its
    ``manifest.json``; CSV or Parquet; not older than 48 hours) instead of asking for each. ``probe`` writes a marker without
    asking for encryption, looks at what became of it, and deletes it.

    What may not be looked at is an ``error``. Raises :class:`StorageError` for trouble that a retry may cure.
    """
    wanted = wanted.checked()
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
        raise ConfigurationError(f"sample={sample!r} is not a number from 1 up. Leave it out to look at every object.")
    if sample is not None and inventory is not None:
        raise ConfigurationError("sample= and inventory= exclude each other: an inventory lists every object.")
    bucket = Subject(f"s3://{store.bucket}")
    for control, look in (
        (DEFAULT_ENCRYPTION, _default_encryption),
        (UPLOADS_REFUSED, _uploads),
        (TRANSPORT_SECURE, _transport),
        (NOT_PUBLIC, _public),
        (BUCKET_VERSIONED, _versioned),
    ):
        yield from _looked(control, bucket, partial(look, store, wanted))
    if probe:
        yield from _looked(ENCRYPTION_PROBED, Subject(store.url), partial(_probe, store, wanted))
    if inventory is not None:
        yield from _looked_at_inventory(store, inventory, wanted, now or datetime.now(UTC))
    else:
        yield from _objects(store, wanted, sample, progress)


def _looked(control: Control, subject: Subject, look: Callable[[], tuple[Status, str]]) -> Iterator[Finding]:
    try:
        status, text = look()
    except AccessDenied as error:
        status, text = Status.ERROR, str(error)
    except ObjectMissing as error:
        status, text = Status.FAIL, str(error)
    yield Finding(control, subject, status, text)


def _ask(store: S3Store, call: str, absent: str = "") -> Any:
    """Make one call about the bucket; None for the error code that says that there is no such setting."""
    from botocore.exceptions import ClientError

    with aws_errors(store.url):
        try:
            return patiently(lambda: getattr(store.client, call)(Bucket=store.bucket))
        except ClientError as error:
            if absent and error.response["Error"].get("Code") == absent:
                return None
            raise


def patiently(call: Callable[[], T], *, tries: int = TRIES, sleep: Callable[[float], object] = time.sleep) -> T:
    """Make a call, again and with growing pauses while the server asks for patience. Raises what the last try raised."""
    from botocore.exceptions import ClientError

    for number in range(tries):
        try:
            return call()
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") not in _THROTTLED or number == tries - 1:
                raise
            sleep(random.uniform(0.5, 1) * min(20, 0.2 * 2**number))  # noqa: S311 - spreads the retries, keeps no secret
    raise AssertionError("unreachable: the last try returns or raises")


def _default_encryption(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    answer = _ask(store, "get_bucket_encryption", "ServerSideEncryptionConfigurationNotFoundError")
    rules = (answer or {}).get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
    if not rules:
        return Status.FAIL, "has no default encryption"
    default = rules[0].get("ApplyServerSideEncryptionByDefault", {})
    algorithm, key = default.get("SSEAlgorithm"), default.get("KMSMasterKeyID")
    if problem := wanted.problem(algorithm, key):
        return Status.FAIL, f"by default an upload {problem}"
    text = f"uploads are encrypted by {printable(algorithm)}"
    if algorithm.startswith("aws:kms"):
        text += f", key {printable(key)}" if key else ", the account's own S3 key"
        text += f", bucket key {'on' if rules[0].get('BucketKeyEnabled') else 'off'}"
    return Status.PASS, text


def _denials(store: S3Store) -> list[Mapping[str, Any]]:
    """Return the statements of the bucket's policy that deny everybody something under one condition alone."""
    answer = _ask(store, "get_bucket_policy", "NoSuchBucketPolicy")
    statements = json.loads(answer["Policy"]).get("Statement", []) if answer else []
    everybody = ("*", {"AWS": "*"}, {"AWS": ["*"]})
    return [
        statement
        for statement in ([statements] if isinstance(statements, dict) else statements)
        if statement.get("Effect") == "Deny"
        and statement.get("Principal") in everybody
        and len(statement.get("Condition", {})) == 1
    ]


def _covers(statement: Mapping[str, Any], action: str, store: S3Store) -> bool:
    actions = [str(item).lower() for item in _items(statement.get("Action"))]
    resources = {str(item).rpartition(":::")[2] for item in _items(statement.get("Resource"))}
    whole = {"*", f"{store.bucket}/*", f"{store.bucket}*"}
    return bool({"*", "s3:*", action.lower()} & set(actions)) and bool(resources & whole)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _uploads(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    allowed = {"any": {"AES256", "aws:kms", "aws:kms:dsse"}, "AES256": {"AES256"}, "aws:kms": {"aws:kms", "aws:kms:dsse"}}
    for statement in _denials(store):
        ((operator, condition),) = statement["Condition"].items()
        values = {str(item) for item in _items(condition.get("s3:x-amz-server-side-encryption"))}
        if len(condition) != 1 or not values or not _covers(statement, "s3:PutObject", store):
            continue
        if operator in ("StringNotEquals", "StringNotLike") and values <= allowed[wanted.require]:
            return Status.PASS, f"uploads other than {', '.join(map(printable, sorted(values)))} are refused"
        if operator == "Null" and {value.lower() for value in values} == {"true"} and wanted.require == "any":
            return Status.PASS, "uploads that do not ask for encryption are refused"
    return Status.FAIL, "no statement of the bucket's policy refuses them to everybody"


def _transport(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    for statement in _denials(store):
        ((operator, condition),) = statement["Condition"].items()
        values = {str(item).lower() for item in _items(condition.get("aws:SecureTransport"))}
        covered = all(_covers(statement, action, store) for action in ("s3:GetObject", "s3:PutObject"))
        if operator == "Bool" and len(condition) == 1 and values == {"false"} and covered:
            return Status.PASS, "plain HTTP is refused to everybody"
    return Status.FAIL, "no statement of the bucket's policy refuses plain HTTP to everybody"


def _public(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    from botocore.exceptions import ClientError

    try:
        answer = _ask(store, "get_public_access_block", "NoSuchPublicAccessBlockConfiguration")
    except StorageError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and cause.response["Error"].get("Code") in ("NotImplemented", "501"):
            return Status.SKIP, "this server has no public access block"
        raise
    settings = (answer or {}).get("PublicAccessBlockConfiguration", {})
    off = [name for name in _PUBLIC_SETTINGS if settings.get(name) is not True]
    if off:
        return Status.FAIL, f"its public access block leaves off {', '.join(off)}"
    return Status.PASS, "all four settings of its public access block are on"


def _versioned(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    state = _ask(store, "get_bucket_versioning").get("Status")
    return (Status.PASS, "keeps versions") if state == "Enabled" else (Status.FAIL, "keeps no versions")


def _probe(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    marker = uuid.uuid4().bytes * 64
    key = f"{store.prefix}/.pipesec-probe-{uuid.uuid4().hex}".lstrip("/")
    client = store.client
    with aws_errors(f"s3://{store.bucket}/{key}"):
        written = patiently(lambda: client.put_object(Bucket=store.bucket, Key=key, Body=marker))
        version: dict[str, Any] = {"VersionId": written["VersionId"]} if written.get("VersionId") not in (None, "null") else {}
        try:
            answer = patiently(lambda: client.get_object(Bucket=store.bucket, Key=key, **version))
            same = answer["Body"].read(len(marker) + 1) == marker
        finally:
            patiently(lambda: client.delete_object(Bucket=store.bucket, Key=key, **version))
    if not same:
        return Status.FAIL, "a marker came back with other bytes"
    if problem := wanted.problem(answer.get("ServerSideEncryption"), answer.get("SSEKMSKeyId")):
        return Status.FAIL, f"a marker that was written without asking {problem}"
    return Status.PASS, f"a marker was encrypted by {printable(answer['ServerSideEncryption'])}, as the server says"


# ---- objects


def _objects(store: S3Store, wanted: Wanted, sample: int | None, progress: Progress | None) -> Iterator[Finding]:
    try:
        listing = store.listing()
    except AccessDenied as error:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.ERROR, str(error))
        return
    except ObjectMissing as error:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.FAIL, str(error))
        return
    # What leads outside as a path is an object like any other here.
    names = [*listing.files, *(entry.name for entry in listing.irregular)]
    total = len(names)
    if sample is not None and sample < total:
        names = random.SystemRandom().sample(names, sample)
    ways: Counter[str] = Counter()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="pipesec-head") as pool:
        try:
            for name, state in zip(names, pool.map(lambda name: _state(store, name), names), strict=True):
                if progress is not None:
                    progress(1, 0, len(names))
                if isinstance(state, Finding):
                    yield state
                elif problem := wanted.problem(*state):
                    yield Finding(OBJECTS_ENCRYPTED, Subject(store.describe(name)), Status.FAIL, problem)
                else:
                    ways[str(state[0])] += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    yield from _encrypted(
        store, ways, f"{len(names):,} of {total:,} objects looked at, chosen at random" if len(names) < total else ""
    )


def _state(store: S3Store, name: str) -> tuple[str | None, str | None] | Finding:
    """Ask for one object's encryption: algorithm and key."""
    where = store.describe(name)
    try:
        with aws_errors(where):
            head = patiently(lambda: store.client.head_object(Bucket=store.bucket, Key=store.key_of(name)))
    except (AccessDenied, ObjectMissing) as error:
        status = Status.ERROR if isinstance(error, AccessDenied) else Status.FAIL
        return Finding(OBJECTS_ENCRYPTED, Subject(where), status, str(error))
    except StorageError as error:
        # HeadObject has no body to say why: an object encrypted under a key that the caller must bring is a bare 400.
        if "HTTP 400" in str(error):
            text = "could not be looked at; an object under a customer's own key (SSE-C) answers like that"
            return Finding(OBJECTS_ENCRYPTED, Subject(where), Status.ERROR, text)
        raise
    return head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")


def _encrypted(store: S3Store, ways: Counter[str], remark: str) -> Iterator[Finding]:
    count = sum(ways.values())
    if count:
        how = ", ".join(f"{number:,} by {printable(way)}" for way, number in sorted(ways.items()))
        text = f"{count:,} objects are encrypted: {how}" + (f"; {remark}" if remark else "")
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.PASS, text, count=count)


def _looked_at_inventory(store: S3Store, inventory: S3Store, wanted: Wanted, now: datetime) -> Iterator[Finding]:
    subject = Subject(inventory.url)
    if wanted.kms_key_arn:
        raise ConfigurationError("an inventory does not name keys. Leave out kms_key_arn= or inventory=.")
    ways: Counter[str] = Counter()
    seen = 0
    try:
        manifest = json.loads(inventory.read(limit=MAX_MANIFEST))
        made = datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1000, UTC)
        if manifest["sourceBucket"] != store.bucket:
            yield Finding(OBJECTS_ENCRYPTED, subject, Status.FAIL, "is an inventory of another bucket")
            return
        if not timedelta(0) <= now - made <= INVENTORY_AGE:
            yield Finding(
                OBJECTS_ENCRYPTED, subject, Status.FAIL, f"was made {made:%Y-%m-%d %H:%M} UTC, not in the last 48 hours"
            )
            return
        for key, status in _rows(inventory, manifest):
            if store.prefix and key != store.prefix and not key.startswith(f"{store.prefix}/"):
                continue
            seen += 1
            algorithm = _INVENTORY.get(status)
            where = Subject(f"s3://{store.bucket}/{key}")
            if algorithm is None:
                yield Finding(
                    OBJECTS_ENCRYPTED, where, Status.ERROR, "has a state of encryption that the inventory does not explain"
                )
            elif problem := wanted.problem(algorithm, None):
                yield Finding(OBJECTS_ENCRYPTED, where, Status.FAIL, problem)
            else:
                ways[algorithm] += 1
    except AccessDenied as error:
        yield Finding(OBJECTS_ENCRYPTED, subject, Status.ERROR, str(error))
        return
    except ObjectMissing as error:
        yield Finding(OBJECTS_ENCRYPTED, subject, Status.FAIL, str(error))
        return
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        text = f"is not an inventory that can be read ({type(error).__name__}). Give the report's manifest.json, CSV or Parquet."
        yield Finding(OBJECTS_ENCRYPTED, subject, Status.FAIL, text)
        return
    if not seen:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.FAIL, "the inventory lists no object there")
    yield from _encrypted(store, ways, f"from the inventory of {made:%Y-%m-%d %H:%M} UTC")


def _rows(inventory: S3Store, manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield key and state of encryption of every current object that an inventory lists, from files that match its checksums."""
    kind = manifest["fileFormat"]
    if kind not in ("CSV", "Parquet"):
        raise ValueError(f"inventories in {kind} are not read")
    bucket = str(manifest["destinationBucket"]).rpartition(":::")[2]
    for entry in manifest["files"]:
        report = S3Store(f"{bucket}/{entry['key']}", inventory.client)
        with report.open() as file:
            if (
                hashlib.file_digest(cast("io.BufferedReader", file), lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
                != entry["MD5checksum"]
            ):
                raise ValueError("a file of the inventory is not what its manifest says")
            file.seek(0)
            rows = _csv_rows(file, manifest["fileSchema"]) if kind == "CSV" else _parquet_rows(file)
            for key, status, latest in rows:
                if latest:
                    yield key, status


def _csv_rows(file: Any, schema: str) -> Iterable[tuple[str, str, bool]]:
    columns = [name.strip() for name in schema.split(",")]
    key, status = columns.index("Key"), columns.index("EncryptionStatus")
    latest = columns.index("IsLatest") if "IsLatest" in columns else None
    for row in csv.reader(io.TextIOWrapper(gzip.GzipFile(fileobj=file), encoding="utf-8", newline="")):
        if len(row) != len(columns):
            raise ValueError("a row of the inventory has another number of fields")
        yield unquote_plus(row[key]), row[status], latest is None or row[latest].lower() == "true"


def _parquet_rows(file: Any) -> Iterable[tuple[str, str, bool]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    names = [name for name in ("key", "encryption_status", "is_latest") if name in table.schema_arrow.names]
    for batch in table.iter_batches(columns=names):
        columns = batch.to_pydict()
        latest = columns.get("is_latest") or [True] * batch.num_rows
        yield from zip(columns["key"], columns["encryption_status"], map(bool, latest), strict=True)
