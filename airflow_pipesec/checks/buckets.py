"""Buckets: what lies in S3 is encrypted, object by object, and the bucket refuses what would not be.

The settings of a bucket say what happens to uploads that ask for nothing; each object's own answer to HeadObject says what
happened to it. Both are the server's word. A server that answers what it does not do is not found out by asking: ``probe`` shows
at least that the bucket does to an upload of today what its settings say.
"""

from __future__ import annotations

import random
import re
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from airflow_pipesec.checks.bucket_policies import Statement, denials, lets_everybody_in, statements
from airflow_pipesec.checks.inventory import NotAnInventory, read_inventory
from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing, StorageError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, amount, not_reached, printable
from airflow_pipesec.storage_remote import S3Store, aws_errors

if TYPE_CHECKING:
    from airflow_pipesec.hashing import Progress

__all__ = ["REQUIRE", "Wanted", "encrypted_bucket"]

T = TypeVar("T")
REQUIRE = ("any", "aws:kms", "AES256")
WORKERS = 16
TRIES = 8
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
    remedy="Copy the object onto itself with the encryption that is required, delete old versions; find out who uploaded it so.",
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
    remedy='Deny everybody s3:* on the bucket and on its objects where aws:SecureTransport is "false", in the bucket\'s policy.',
    refs=_IN_TRANSIT,
)
NOT_PUBLIC = Control(
    id="bucket-not-public",
    title="The bucket is closed to the public",
    severity=Severity.CRITICAL,
    remedy="Turn on all four settings of the bucket's public access block, or let nobody but named principals in by its policy.",
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
_SSE = "s3:x-amz-server-side-encryption"
_KEY_ID = "s3:x-amz-server-side-encryption-aws-kms-key-id"
_OTHER_THAN = ("StringNotEquals", "StringNotLike")


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
        if self.kms_key_arn is not None and not re.fullmatch(r"arn:[^:]+:kms:[^:]*:[^:]*:key/[^:*?]+", self.kms_key_arn):
            raise ConfigurationError(
                "kms_key_arn= is not a key's ARN. Give the full arn:…:key/…; an alias may be turned to another key."
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

    Where the bucket keeps or kept versions, the old ones, which can still be read, are looked at as well. ``sample`` looks at
    that many current objects, chosen at random, instead of all; ``inventory`` reads an S3 Inventory report (its
    ``manifest.json``; CSV or Parquet; not older than 48 hours) instead of asking for each: what it does not list, and old
    versions, are then not looked at. ``probe`` writes a marker without asking for encryption, looks at what became of it, and
    deletes it.

    What may not be looked at is an ``error``. Raises :class:`StorageError` for trouble that a retry may cure.
    """
    wanted = wanted.checked()
    if sample is not None and (isinstance(sample, bool) or not isinstance(sample, int) or sample < 1):
        raise ConfigurationError(f"sample={sample!r} is not a number from 1 up. Leave it out to look at every object.")
    if sample is not None and inventory is not None:
        raise ConfigurationError("sample= and inventory= exclude each other: an inventory is read whole.")
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
    except (AccessDenied, ObjectMissing) as error:
        yield not_reached(control, subject, error)
    else:
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
    if wanted.kms_key_arn and key and ":key/" not in key:
        return Status.FAIL, f"names its key as {printable(key)}; give the ARN there"
    if problem := wanted.problem(algorithm, key):
        return Status.FAIL, f"by default an upload {problem}"
    text = f"uploads are encrypted by {printable(algorithm)}"
    if algorithm.startswith("aws:kms"):
        text += f", key {printable(key)}" if key else ", the account's own S3 key"
        text += f", bucket key {'on' if rules[0].get('BucketKeyEnabled') else 'off'}"
    return Status.PASS, text


def _statements(store: S3Store) -> list[Statement]:
    return statements((_ask(store, "get_bucket_policy", "NoSuchBucketPolicy") or {}).get("Policy"))


def _uploads(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    allowed = {"any": {"AES256", "aws:kms", "aws:kms:dsse"}, "AES256": {"AES256"}, "aws:kms": {"aws:kms", "aws:kms:dsse"}}
    for denial in denials(_statements(store)):
        values = denial.values
        if not values or not denial.covers("s3:PutObject", f"{store.bucket}/*", f"{store.bucket}*"):
            continue
        if wanted.kms_key_arn:
            # An upload that names no key is refused with it: what is not there does not equal the key.
            other = denial.operator in (*_OTHER_THAN, "ArnNotEquals", "ArnNotLike")
            if denial.key == _KEY_ID and other and values == {wanted.kms_key_arn}:
                return Status.PASS, f"uploads under another key than {printable(wanted.kms_key_arn)} are refused"
        elif denial.key == _SSE and denial.operator in _OTHER_THAN and values <= allowed[wanted.require]:
            return Status.PASS, f"uploads other than {', '.join(map(printable, sorted(values)))} are refused"
        elif (denial.key, denial.operator, wanted.require) == (_SSE, "Null", "any") and {v.lower() for v in values} == {"true"}:
            return Status.PASS, "uploads that do not ask for encryption are refused"
    which = "uploads under another key" if wanted.kms_key_arn else "them"
    return Status.FAIL, f"no statement of the bucket's policy refuses {which} to everybody"


def _transport(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    objects, bucket = (f"{store.bucket}/*", f"{store.bucket}*"), (store.bucket, f"{store.bucket}*")
    left = dict.fromkeys(("s3:GetObject", "s3:GetObjectVersion", "s3:PutObject", "s3:DeleteObject"), objects)
    left["s3:ListBucket"] = bucket
    for denial in denials(_statements(store)):
        if (denial.operator, denial.key) == ("Bool", "aws:securetransport") and {v.lower() for v in denial.values} == {"false"}:
            left = {action: places for action, places in left.items() if not denial.covers(action, *places)}
    if left:
        return Status.FAIL, f"no statement of the bucket's policy refuses {', '.join(left)} over plain HTTP to everybody"
    return Status.PASS, "plain HTTP is refused to everybody, for the bucket and its objects"


def _public(store: S3Store, wanted: Wanted) -> tuple[Status, str]:
    try:
        answer = _ask(store, "get_public_access_block", "NoSuchPublicAccessBlockConfiguration")
    except StorageError as error:
        if _not_implemented(error):
            return _open_by_policy(store)
        raise
    settings = (answer or {}).get("PublicAccessBlockConfiguration", {})
    off = [name for name in _PUBLIC_SETTINGS if settings.get(name) is not True]
    if off:
        return Status.FAIL, f"its public access block leaves off {', '.join(off)}"
    return Status.PASS, "all four settings of its public access block are on"


def _not_implemented(error: StorageError) -> bool:
    from botocore.exceptions import ClientError

    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"].get("Code") in ("NotImplemented", "501")


def _open_by_policy(store: S3Store) -> tuple[Status, str]:
    """Say what the policy alone tells of who may enter, where the server has no public access block."""
    none = "this server has no public access block"
    if lets_everybody_in(_statements(store)):
        return Status.FAIL, f"{none}, and the bucket's policy lets everybody in"
    return Status.SKIP, f"{none}; the bucket's policy gives everybody nothing without a condition, its ACL was not looked at"


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


class _Object(NamedTuple):
    """An object by its real key, and an old version of it where one is meant."""

    key: str
    version: str | None = None


def _objects(store: S3Store, wanted: Wanted, sample: int | None, progress: Progress | None) -> Iterator[Finding]:
    try:
        objects = [_Object(key) for key in _keys(store)]
    except (AccessDenied, ObjectMissing) as error:
        yield not_reached(OBJECTS_ENCRYPTED, Subject(store.url), error)
        return
    total = len(objects)
    if not objects:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.FAIL, "holds no object")
    if sample is not None and sample < total:
        objects = random.SystemRandom().sample(objects, sample)
    remarks = [f"{len(objects):,} of {total:,} objects looked at, chosen at random"] if len(objects) < total else []
    versioned = _may_have_old_versions(store)
    if sample is not None and versioned:
        remarks.append("old versions were not looked at")
    yield from _looked_at(store, wanted, objects, "object", remarks, progress)
    if sample is None and versioned:
        yield from _old_versions(store, wanted)


def _keys(store: S3Store) -> Iterator[str]:
    """Yield the key of every object at and below the root, whatever it looks like as a path; not those that stand for folders."""
    for key, size in store.keys():  # noqa: SIM118 - a method of the store, which is no dictionary
        if size or not key.endswith("/"):
            yield key
    if store.prefix:
        # An object of the folder's own name is below no prefix. It comes first among those whose keys begin so.
        with aws_errors(store.url):
            first = store.client.list_objects_v2(Bucket=store.bucket, Prefix=store.prefix, MaxKeys=1).get("Contents", [])
        if first and first[0]["Key"] == store.prefix:
            yield store.prefix


def _may_have_old_versions(store: S3Store) -> bool:
    try:
        return bool(_ask(store, "get_bucket_versioning").get("Status"))
    except AccessDenied:
        return True


def _old_versions(store: S3Store, wanted: Wanted) -> Iterator[Finding]:
    """Look at what was replaced or deleted and can still be read."""
    try:
        old = list(_noncurrent(store))
    except AccessDenied as error:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.ERROR, f"its old versions cannot be listed: {error}")
        return
    except StorageError as error:
        if not _not_implemented(error):
            raise
        text = "only current versions were looked at: this server does not list old ones"
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.SKIP, text)
        return
    yield from _looked_at(store, wanted, old, "old version", [], None)


def _noncurrent(store: S3Store) -> Iterator[_Object]:
    for prefix in (store.prefix, f"{store.prefix}/") if store.prefix else ("",):
        with aws_errors(store.url):
            for page in store.client.get_paginator("list_object_versions").paginate(Bucket=store.bucket, Prefix=prefix):
                for item in page.get("Versions", []):
                    if prefix and prefix == store.prefix and item["Key"] != prefix:
                        break  # of this name alone; it comes first
                    if not item["IsLatest"] and (item["Size"] or not item["Key"].endswith("/")):
                        yield _Object(item["Key"], item["VersionId"])
                else:
                    continue
                break


def _looked_at(
    store: S3Store, wanted: Wanted, objects: Sequence[_Object], thing: str, remarks: Sequence[str], progress: Progress | None
) -> Iterator[Finding]:
    ways: Counter[str] = Counter()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="pipesec-head") as pool:
        try:
            for item, state in zip(objects, pool.map(lambda item: _state(store, item), objects), strict=True):
                if progress is not None:
                    progress(1, 0, len(objects))
                subject = Subject(f"s3://{store.bucket}/{item.key}", version=item.version)
                old = f"an old version ({printable(item.version)}) " if item.version else ""
                if isinstance(state, StorageError):
                    yield not_reached(OBJECTS_ENCRYPTED, subject, state)
                elif problem := wanted.problem(*state):
                    yield Finding(OBJECTS_ENCRYPTED, subject, Status.FAIL, old + problem)
                else:
                    ways[str(state[0])] += 1
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    yield from _encrypted(store, ways, thing, remarks)


def _state(store: S3Store, item: _Object) -> tuple[str | None, str | None] | StorageError:
    """Ask for one object's encryption: algorithm and key, or why that could not be found out."""
    where = f"s3://{store.bucket}/{item.key}" + (f" (version {item.version})" if item.version else "")
    version: dict[str, Any] = {"VersionId": item.version} if item.version else {}
    try:
        with aws_errors(where):
            head = patiently(lambda: store.client.head_object(Bucket=store.bucket, Key=item.key, **version))
    except (AccessDenied, ObjectMissing) as error:
        return error
    except StorageError as error:
        # HeadObject has no body to say why: an object encrypted under a key that the caller must bring is a bare 400.
        if "HTTP 400" in str(error):
            which = f"an old version ({printable(item.version)}) " if item.version else ""
            return AccessDenied(f"{which}could not be looked at; an object under a customer's own key (SSE-C) answers like that")
        raise
    return head.get("ServerSideEncryption"), head.get("SSEKMSKeyId")


def _encrypted(store: S3Store, ways: Counter[str], thing: str, remarks: Sequence[str]) -> Iterator[Finding]:
    count = sum(ways.values())
    if count:
        how = ", ".join(f"{number:,} by {printable(way)}" for way, number in sorted(ways.items()))
        text = "; ".join([f"{amount(count, thing)} encrypted: {how}", *remarks])
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.PASS, text, count=count)


def _looked_at_inventory(store: S3Store, inventory: S3Store, wanted: Wanted, now: datetime) -> Iterator[Finding]:
    if wanted.kms_key_arn:
        raise ConfigurationError("an inventory does not name keys. Leave out kms_key_arn= or inventory=.")
    ways: Counter[str] = Counter()
    seen = 0
    try:
        made, rows = read_inventory(inventory, store.bucket, now)
        for key, algorithm, current in rows:
            if current is False or (store.prefix and f"{key}/"[: len(store.prefix) + 1] != f"{store.prefix}/"):
                continue
            seen += 1
            where = Subject(f"s3://{store.bucket}/{key}")
            if current is None or algorithm is None:
                what = "whether this is the current version" if current is None else "its state of encryption"
                yield Finding(OBJECTS_ENCRYPTED, where, Status.ERROR, f"the inventory does not tell {what}")
            elif problem := wanted.problem(algorithm, None):
                yield Finding(OBJECTS_ENCRYPTED, where, Status.FAIL, problem)
            else:
                ways[algorithm] += 1
    except (AccessDenied, ObjectMissing) as error:
        yield not_reached(OBJECTS_ENCRYPTED, Subject(inventory.url), error)
        return
    except NotAnInventory as error:
        yield Finding(OBJECTS_ENCRYPTED, Subject(inventory.url), Status.FAIL, str(error))
        return
    if not seen:
        yield Finding(OBJECTS_ENCRYPTED, Subject(store.url), Status.FAIL, "the inventory lists no object there")
    only = f"from the inventory of {made:%Y-%m-%d %H:%M} UTC, and nothing but the current versions that it lists was looked at"
    yield from _encrypted(store, ways, "object", [only])
