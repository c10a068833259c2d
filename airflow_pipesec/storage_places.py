"""Places in remote files: parts of an object or a file are fetched when they are asked for, all of one and the same version."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, cast

from airflow_pipesec.errors import StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.storage_remote import aws_errors, fs_errors

if TYPE_CHECKING:
    from airflow_pipesec.storage_remote import FsspecStore, S3Store

__all__ = ["FilesystemPlaces", "S3Places"]

BLOCK = 1 << 15  # bytes
BLOCKS_HELD = 512
MOST_AHEAD = 256  # blocks in one request


class S3Places:
    """An object that is read in blocks, by ranges of the one version that the first answer names."""

    def __init__(self, store: S3Store, name: str) -> None:
        self.store, self.name = store, name
        self.where = store.describe(name)
        self.version: str | None = None
        self.size = 0
        self._pinned: dict[str, Any] = {}
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._last, self._ahead = -1, 1
        self._fetch(0, 1)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read from the blocks that are held, and fetch those that are not; the more, the longer a run of them is read."""
        end = min(offset + length, self.size)
        if offset < 0 or end <= offset:
            return b""
        if end - offset > BLOCK * BLOCKS_HELD // 2:
            return b"".join(self.read_at(place, min(BLOCK, end - place)) for place in range(offset, end, BLOCK))
        first, last = offset // BLOCK, (end - 1) // BLOCK
        for number in range(first, last + 1):
            if number not in self._blocks:
                self._ahead = min(self._ahead * 2, MOST_AHEAD) if number == self._last + 1 else 1
                missing = max(last + 1 - number, self._ahead)
                self._fetch(number, min(missing, MOST_AHEAD))
            self._blocks.move_to_end(number)
        data = b"".join(self._blocks[number] for number in range(first, last + 1))
        return data[offset - first * BLOCK : end - first * BLOCK]

    def unchanged(self) -> bool:
        """Whether it is one version: every answer was held to the first one's entity tag."""
        return True

    def _fetch(self, first: int, count: int) -> None:
        """Fetch some blocks in one request, the first of which is not held yet."""
        from botocore.exceptions import (
            ClientError,
            HTTPClientError,
            IncompleteReadError,
            ReadTimeoutError,
            ResponseStreamingError,
        )

        start, wanted = first * BLOCK, count * BLOCK
        for tries in range(self.store.resumes + 1):
            with aws_errors(self.where):
                asked = self._pinned | {"Range": f"bytes={start}-{start + wanted - 1}"}
                try:
                    answer = self.store.client.get_object(Bucket=self.store.bucket, Key=self.store.key_of(self.name), **asked)
                    data = answer["Body"].read()
                except (HTTPClientError, IncompleteReadError, ReadTimeoutError, ResponseStreamingError, OSError) as error:
                    if tries == self.store.resumes:
                        raise StorageError(f"{printable(self.where)} broke off at byte {start}: {error}") from error
                    continue
                except ClientError as error:
                    code = error.response.get("Error", {}).get("Code")
                    if code == "InvalidRange" and not self._pinned:
                        return  # an empty object has no first byte
                    if code in ("PreconditionFailed", "412"):
                        raise self._changed() from error
                    raise
            break
        self._pin(answer)
        if len(data) != min(wanted, self.size - start):
            raise StorageError(
                f"{printable(self.where)}: the server gives other bytes than were asked for. Use one that speaks S3."
            )
        for number in range(first, first + -(-len(data) // BLOCK)):
            self._blocks[number] = data[(number - first) * BLOCK : (number - first + 1) * BLOCK]
            self._blocks.move_to_end(number)
            self._last = number
        while len(self._blocks) > BLOCKS_HELD:
            self._blocks.popitem(last=False)

    def _pin(self, answer: Any) -> None:
        """Hold on to the version of the first answer. Raises :class:`StorageError` for a later one of another."""
        tag, (_, _, total) = answer.get("ETag"), str(answer.get("ContentRange", "")).rpartition("/")
        if tag is None or not total.isdecimal():
            raise StorageError(f"{printable(self.where)}: the server knows no ranges or entity tags. Use one that speaks S3.")
        if not self._pinned:
            version = answer.get("VersionId")
            self.version = None if version == "null" else version
            self.size = int(total)
            self._pinned = {"IfMatch": tag} | ({"VersionId": self.version} if self.version else {})
        elif tag != self._pinned["IfMatch"] or int(total) != self.size:
            raise self._changed()

    def _changed(self) -> StorageError:
        return StorageError(f"{printable(self.where)} changed while it was read. Run the guard again when it is at rest.")


class FilesystemPlaces:
    """A file of an fsspec filesystem, which fetches and holds blocks as it sees fit."""

    version: str | None = None

    def __init__(self, store: FsspecStore, name: str, file: Any, size: int, before: str) -> None:
        self.store, self.name, self.file, self.size, self.before = store, name, file, size, before

    def read_at(self, offset: int, length: int) -> bytes:
        """Read from the file."""
        length = min(length, self.size - offset)
        if length <= 0 or offset < 0:
            return b""
        with fs_errors(self.store.describe(self.name)):
            self.file.seek(offset)
            return cast("bytes", self.file.read(length))

    def unchanged(self) -> bool:
        """Whether the filesystem says the same of the file as before it was opened."""
        return self.store.mark(self.name) == self.before
