"""Remote storage: objects in S3, pinned to the version that was read, and files on any fsspec filesystem."""

from __future__ import annotations

import io
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, cast

from airflow_pipesec.errors import (
    AccessDenied,
    ConfigurationError,
    ObjectExists,
    ObjectMissing,
    PipesecError,
    StorageError,
    place_of,
)
from airflow_pipesec.findings import printable
from airflow_pipesec.storage_base import (
    CHUNK,
    MAX_DEPTH,
    SINGLE,
    Buffer,
    Hasher,
    Irregular,
    Kind,
    Listing,
    Places,
    Scanned,
    Source,
    Store,
    escapes,
    within,
)

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = ["FsspecStore", "S3Store", "aws_errors", "fs_errors"]


class S3Store(Store):
    """An object, or every object below a prefix, in an S3 bucket.

    What is read is pinned: one GET names the version whose bytes it streams, and a read that has to be resumed asks for that
    version and entity tag again. An ETag is used for nothing else; it is not a digest.
    """

    parallel = 8
    pins_versions = True
    resumes = 5

    def __init__(self, location: str, client: S3Client | None = None) -> None:
        self.bucket, _, prefix = location.partition("/")
        if not self.bucket:
            raise ConfigurationError(f"s3://{printable(location)} names no bucket. Write s3://bucket/prefix.")
        self.prefix = prefix.rstrip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        self._client = client
        self._keeps = False  # whether the server was seen to refuse what would replace an object

    @property
    def client(self) -> S3Client:
        """The boto3 client; made with boto3's own defaults (credentials, endpoint, retries) when none was handed in."""
        if self._client is None:
            import boto3

            with aws_errors(self.url):
                self._client = boto3.client("s3")
        return self._client

    def keys(self) -> Iterator[tuple[str, int]]:
        """Yield the key and the size of every object below the root, whatever its key looks like as a path."""
        start = f"{self.prefix}/" if self.prefix else ""
        with aws_errors(self.url):
            for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=start):
                for item in page.get("Contents", []):
                    yield item["Key"], item["Size"]

    def listing(self) -> Listing:
        found = Listing()
        start = f"{self.prefix}/" if self.prefix else ""
        for key, size in self.keys():
            name = key[len(start) :]
            if (not name or name.endswith("/")) and size == 0:
                continue  # the empty object that stands for a folder
            if not name or name.endswith("/"):
                found.irregular.append(Irregular(name or SINGLE, Kind.SPECIAL, "a folder marker with content"))
            elif escapes(name):
                found.irregular.append(Irregular(name, Kind.ESCAPING, "a key that leads outside the root as a path"))
            else:
                found.files.append(name)
        with aws_errors(self.url):
            if self.prefix and (found.files or found.irregular):
                # An object of the folder's own name is below no prefix, but some readers would find it there.
                first = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1).get("Contents", [])
                if first and first[0]["Key"] == self.prefix:
                    found.irregular.append(Irregular(SINGLE, Kind.SPECIAL, "an object beside a folder of the same name"))
            if not found.files and not found.irregular:
                if not self.prefix:
                    raise ObjectMissing(f"{self.url} holds no object. Check the bucket's name, or upload the files first.")
                self.client.head_object(Bucket=self.bucket, Key=self.prefix)
                found.files.append(SINGLE)
        return found.ordered()

    def key_of(self, name: str) -> str:
        """Return the object key of a name below the root."""
        if name == SINGLE:
            return self.prefix
        return f"{self.prefix}/{name}" if self.prefix else name

    def _stream(self, name: str, wanted: str | None = None) -> Iterator[tuple[bytes, str | None]]:
        """Yield the object's bytes with the version they belong to, resuming a broken read at the byte where it broke.

        ``wanted`` is the version to read, the newest unless given.
        """
        from botocore.exceptions import (
            ClientError,
            HTTPClientError,
            IncompleteReadError,
            ReadTimeoutError,
            ResponseStreamingError,
        )

        where = self.describe(name)
        no_version = f"{printable(where)} has no version {printable(str(wanted))}. Look for who deleted or moved it."
        pinned: dict[str, Any] = {"VersionId": wanted} if wanted is not None else {}
        offset, length, version, tries = 0, -1, None, 0
        while True:
            with aws_errors(where):
                if offset:
                    pinned["Range"] = f"bytes={offset}-"
                try:
                    answer = self.client.get_object(Bucket=self.bucket, Key=self.key_of(name), **pinned)
                except ClientError as error:
                    # Amazon says it of an id that it did not make, and of any in a bucket without versions.
                    if wanted is None or error.response.get("Error", {}).get("Code") != "InvalidArgument":
                        raise
                    raise ObjectMissing(no_version) from error
                if "ETag" not in answer:
                    raise StorageError(f"{printable(where)}: the server names no entity tag. Use one that speaks S3.")
                if "IfMatch" not in pinned:
                    length, version = answer["ContentLength"], answer.get("VersionId")
                    if wanted is not None and version != wanted:
                        raise ObjectMissing(no_version)  # a server that gives the only one it has, whichever is asked for
                    version = None if version == "null" else version
                    pinned |= {"IfMatch": answer["ETag"]} | ({"VersionId": version} if version else {})
                elif answer["ETag"] != pinned["IfMatch"] or (version and answer.get("VersionId") != version):
                    raise StorageError(f"{printable(where)} changed while it was read. Run the guard again when it is at rest.")
                try:
                    for data in answer["Body"].iter_chunks(CHUNK):
                        offset += len(data)
                        yield data, version
                except (HTTPClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError) as error:
                    tries += 1
                    if tries > self.resumes:
                        raise StorageError(f"{printable(where)} broke off at byte {offset} of {length}: {error}") from error
                    if offset < length:
                        continue
                if offset != length:
                    raise StorageError(f"{printable(where)} ended at byte {offset} of {length}. Run the guard again.")
                if not length:
                    yield b"", version
                return

    def scan(self, names: Sequence[str], new: Callable[[], Hasher]) -> Iterator[Scanned]:
        for name in names:
            hasher = new()
            size = 0
            version: str | None = None
            try:
                for data, pinned in self._stream(name):
                    hasher.update(data)
                    size += len(data)
                    version = pinned
            except StorageError as error:
                yield Scanned(name, b"", 0, error=error)
            else:
                yield Scanned(name, hasher.digest(), size, version)

    def read(self, name: str = SINGLE, *, limit: int) -> bytes:
        data = bytearray()
        for piece, _ in self._stream(name):
            data += piece
            if len(data) > limit:
                break
        return within(bytes(data), limit, self.describe(name))

    def write_pieces(self, pieces: Iterable[Buffer], name: str = SINGLE, *, private: bool = False) -> None:
        # Nothing is there before the last byte was taken: an upload in parts that breaks off is aborted.
        with aws_errors(self.describe(name)):
            self.client.upload_fileobj(cast("IO[bytes]", _Pieces(pieces)), self.bucket, self.key_of(name))

    def create(self, data: bytes, name: str = SINGLE) -> None:
        # When botocore repeats a request whose answer was lost, the second is refused because the first got through.
        if not self._put_first(data, name) and not self.holds(data, name):
            raise ObjectExists(f"{printable(self.describe(name))} exists already and is written only once. Look at who wrote it.")
        # Servers that do not know the condition ignore it and replace what is there. Seen once from each, it is believed.
        if not self._keeps and self._put_first(data, name):
            raise ConfigurationError(
                f"{printable(self.describe(name))} lies on a server that replaces what is there though told not to "
                "(If-None-Match). Use one that knows conditional writes, as Amazon S3 does."
            )

    def _put_first(self, data: bytes, name: str) -> bool:
        """Write an object where none is and say so, or say that there is one."""
        from botocore.exceptions import ClientError

        with aws_errors(self.describe(name)):
            for again in reversed(range(self.resumes + 1)):
                try:
                    self.client.put_object(Bucket=self.bucket, Key=self.key_of(name), Body=data, IfNoneMatch="*")
                    return True
                except ClientError as error:
                    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                    if status == 412:
                        self._keeps = True
                        return False
                    if status != 409 or not again:  # 409: another writer is at it, and may still fail
                        raise
                time.sleep(0.05 * 2 ** (self.resumes - again))
        raise AssertionError  # the last time around the loop returns or raises

    @contextmanager
    def stream(self, name: str = SINGLE, *, version: str | None = None) -> Iterator[Source]:
        yield _Pieces(data for data, _ in self._stream(name, version))

    def open(self) -> AbstractContextManager[IO[bytes]]:
        return _copied(data for data, _ in self._stream(SINGLE))

    @contextmanager
    def places(self, name: str = SINGLE) -> Iterator[Places]:
        from airflow_pipesec.storage_places import S3Places

        yield S3Places(self, name)

    def mark(self, name: str = SINGLE) -> str:
        with aws_errors(self.describe(name)):
            head = self.client.head_object(Bucket=self.bucket, Key=self.key_of(name))
        return f"{head.get('VersionId')} {head.get('ETag')} {head.get('LastModified')}"

    def remove(self, name: str = SINGLE) -> None:
        with aws_errors(self.describe(name)):
            self.client.delete_object(Bucket=self.bucket, Key=self.key_of(name))


class FsspecStore(Store):
    """A file or folder on any fsspec filesystem. What it pins depends on the filesystem: there is no version."""

    parallel = 8

    def __init__(self, url: str, filesystem: Any, path: str) -> None:
        self.url = url
        self.fs = filesystem
        self.path = path.rstrip("/") or "/"

    def listing(self) -> Listing:
        found = Listing()
        with fs_errors(self.url):
            # Filesystems cache listings: a sensor that waits would never see what arrives.
            self.fs.invalidate_cache()
            root = self.fs.info(self.path)
            if root.get("islink") or root["type"] == "link":
                found.irregular.append(Irregular(SINGLE, Kind.SYMLINK, "a symbolic link; give the path that it points to"))
                return found
            if root["type"] == "file":
                found.files.append(SINGLE)
                return found
            base = root["name"].rstrip("/") + "/"
            for info in self._below(root["name"]):
                path = info["name"]
                name = path[len(base) :] if path.startswith(base) else path
                if info.get("islink") or info["type"] == "link":
                    found.irregular.append(Irregular(name, Kind.SYMLINK, "a symbolic link"))
                elif info["type"] != "file":
                    found.irregular.append(Irregular(name, Kind.SPECIAL, "neither a file nor a folder"))
                elif escapes(name):
                    found.irregular.append(Irregular(name, Kind.ESCAPING, "a name that leads outside the root"))
                else:
                    found.files.append(name)
        if not found.files and not found.irregular:
            raise ObjectMissing(f"{printable(self.url)} holds no file. Check the address, or upload the files first.")
        return found.ordered()

    def _below(self, folder: str) -> Iterator[dict[str, Any]]:
        """List everything below a folder. fsspec's own walk and find leave out what cannot be listed."""
        folders = [(folder, 0)]
        while folders:
            here, depth = folders.pop()
            if depth > MAX_DEPTH:
                raise StorageError(f"{printable(self.url)} is nested deeper than {MAX_DEPTH} folders. Give a place further down.")
            for info in self.fs.ls(here, detail=True):
                if info["name"].rstrip("/") == here.rstrip("/") and info["type"] == "directory":
                    continue  # some list the folder itself among what is in it
                if info["type"] == "directory" and not info.get("islink"):
                    folders.append((info["name"], depth + 1))
                else:
                    yield info

    def _path(self, name: str) -> str:
        return self.path if name == SINGLE else f"{self.path.rstrip('/')}/{name}"

    def _stream(self, name: str) -> Iterator[bytes]:
        with fs_errors(self.describe(name)), self.fs.open(self._path(name), "rb") as file:
            while data := file.read(CHUNK):
                yield data

    def scan(self, names: Sequence[str], new: Callable[[], Hasher]) -> Iterator[Scanned]:
        for name in names:
            hasher = new()
            size = 0
            try:
                for data in self._stream(name):
                    hasher.update(data)
                    size += len(data)
            except StorageError as error:
                yield Scanned(name, b"", 0, error=error)
            else:
                yield Scanned(name, hasher.digest(), size)

    def read(self, name: str = SINGLE, *, limit: int) -> bytes:
        with fs_errors(self.describe(name)), self.fs.open(self._path(name), "rb") as file:
            return within(cast(bytes, file.read(limit + 1)), limit, self.describe(name))

    def write_pieces(self, pieces: Iterable[Buffer], name: str = SINGLE, *, private: bool = False) -> None:
        target = self._path(name)
        beside = f"{target}.{uuid.uuid4().hex}.tmp"
        with fs_errors(self.describe(name)):
            self.fs.makedirs(self.fs._parent(target), exist_ok=True)
            try:
                with self.fs.open(beside, "wb") as file:
                    for piece in pieces:
                        file.write(piece)
                self.fs.mv(beside, target)
            except BaseException:
                with suppress(Exception):
                    self.fs.rm_file(beside)
                raise

    def create(self, data: bytes, name: str = SINGLE) -> None:
        # fsspec's mode "create" is the filesystem's own condition where it has one (gcsfs, newer adlfs), and looks first where it
        # has none. Looking once more afterwards tells who was overtaken by another writer in between.
        where, path = self.describe(name), self._path(name)
        there = f"{printable(where)} exists already and is written only once. Look at who wrote it."
        try:
            with fs_errors(where):
                self.fs.invalidate_cache()
                if not self.fs.exists(path):
                    self.fs.makedirs(self.fs._parent(path), exist_ok=True)
                    with suppress(FileExistsError):
                        self.fs.pipe_file(path, data, mode="create")
        finally:
            self.fs.invalidate_cache()
        if not self.holds(data, name):
            raise ObjectExists(there)

    @contextmanager
    def stream(self, name: str = SINGLE, *, version: str | None = None) -> Iterator[Source]:
        yield _Pieces(self._stream(name))

    def open(self) -> AbstractContextManager[IO[bytes]]:
        return _copied(self._stream(SINGLE))

    @contextmanager
    def places(self, name: str = SINGLE) -> Iterator[Places]:
        from airflow_pipesec.storage_places import FilesystemPlaces

        before = self.mark(name)
        with fs_errors(self.describe(name)), self.fs.open(self._path(name), "rb") as file:
            size = getattr(file, "size", None)
            if isinstance(size, int) and file.seekable():
                yield FilesystemPlaces(self, name, file, size, before)
                return
        with super().places(name) as copied:
            yield copied

    def mark(self, name: str = SINGLE) -> str:
        with fs_errors(self.describe(name)):
            self.fs.invalidate_cache()
            return str(self.fs.ukey(self._path(name)))

    def remove(self, name: str = SINGLE) -> None:
        with fs_errors(self.describe(name)):
            self.fs.rm_file(self._path(name))


class _Pieces(io.RawIOBase):
    """Reads what comes in pieces as a file."""

    def __init__(self, pieces: Iterable[Buffer]) -> None:
        self.pieces = iter(pieces)
        self.held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self.held:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self.held = memoryview(piece)
        count = min(len(buffer), len(self.held))
        buffer[:count], self.held = self.held[:count], self.held[count:]
        return count

    def read(self, size: int = -1, /) -> bytes:
        """Return exactly ``size`` bytes unless the end comes first, as uploads in parts want it."""
        data = bytearray()
        while size < 0 or len(data) < size:
            more = super().read(CHUNK if size < 0 else size - len(data))
            if not more:
                break
            data += more
        return bytes(data)


@contextmanager
def _copied(pieces: Iterator[bytes]) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile(prefix="pipesec-") as file:
        for data in pieces:
            file.write(data)
        file.seek(0)
        yield file


@contextmanager
def fs_errors(where: str) -> Iterator[None]:
    """Turn a filesystem's errors into ours. What they say may quote the URL with the secrets in it, and is left out.

    HTTP's says of whatever it meets that the file was not found; the error behind it says what was met.
    """
    try:
        yield
    except PipesecError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ is not None else error
        status = getattr(cause, "status", None) or getattr(cause, "code", None)
        shown = printable(where)
        if isinstance(cause, FileNotFoundError) or status in (404, 410):
            raise ObjectMissing(f"{shown} does not exist. Check the address, or run the task that writes it first.") from None
        if isinstance(cause, PermissionError) or status in (401, 403):
            raise AccessDenied(f"{shown} may not be read or written. Grant the task's account access to it.") from None
        what = f"HTTP {status}" if isinstance(status, int) else place_of(cause)
        raise StorageError(f"{shown} could not be read or written: {what}. Check that its server can be reached.") from None


@contextmanager
def aws_errors(where: str) -> Iterator[None]:
    """Turn botocore's errors into ours, naming ``where``."""
    from botocore.exceptions import BotoCoreError, ClientError

    where = printable(where)
    try:
        yield
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "unknown")
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in ("NoSuchKey", "NoSuchBucket", "NoSuchVersion", "404", "NotFound", "NotFoundException"):
            raise ObjectMissing(f"{where} does not exist ({code}). Check the name, or run the task that writes it.") from error
        if code == "InvalidObjectState":
            raise AccessDenied(f"{where} is archived and cannot be read. Restore it first.") from error
        if status in (401, 403) or code == "AccessDeniedException":  # KMS says it with HTTP 400
            raise AccessDenied(f"{where} may not be read or written ({code}). Grant the task's role access to it.") from error
        if code in ("InvalidCiphertextException", "IncorrectKeyException", "DisabledException", "KMSInvalidStateException"):
            raise AccessDenied(f"{where} cannot be unwrapped ({code}). Look at the key in KMS, and at who wrapped it.") from error
        raise StorageError(f"{where}: {code} (HTTP {status})") from error
    except BotoCoreError as error:
        raise StorageError(f"{where}: {error} Check the credentials, the region and the endpoint of AWS.") from error
    except ValueError as error:
        # An endpoint, a number of tries or a key that botocore cannot make a request of.
        raise ConfigurationError(
            f"{where}: no request can be made of it ({place_of(error)}). Check the key and the AWS settings."
        ) from None
