"""Inventories: an S3 Inventory report is read row by row, from files that are what its manifest says, or it is no inventory.

A report lists what its bucket held when it was made, as far as its configuration has it listed (a prefix, current versions). What
it leaves out, nobody has looked at.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple, cast
from urllib.parse import unquote_plus

from airflow_pipesec.errors import PipesecError
from airflow_pipesec.storage_remote import S3Store

if TYPE_CHECKING:
    from typing import IO

__all__ = ["NotAnInventory", "Row", "read_inventory"]

MAX_AGE = timedelta(hours=48)
SKEW = timedelta(minutes=5)  # by which two clocks may differ
MAX_MANIFEST = 16 << 20
# What an inventory calls the ways of encryption, and what HeadObject does.
_WAYS = {"SSE-S3": "AES256", "SSE-KMS": "aws:kms", "DSSE-KMS": "aws:kms:dsse", "SSE-C": "SSE-C", "NOT-SSE": ""}
_MALFORMED = (
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    EOFError,
    OSError,
    RecursionError,
    zlib.error,
    csv.Error,
)
_COLUMNS = ("Bucket", "Key", "EncryptionStatus", "IsLatest", "IsDeleteMarker")
_PARQUET_COLUMNS = ("bucket", "key", "encryption_status", "is_latest", "is_delete_marker")
_NEEDED = 3  # so many of them each report has; one of current versions alone says nothing of versions


class NotAnInventory(PipesecError):
    """A report is not one that can be read, or not one of this bucket and these days."""


class Row(NamedTuple):
    """One object: its key, its encryption as HeadObject says it, and whether it is the current version; None where not told."""

    key: str
    algorithm: str | None
    current: bool | None


def read_inventory(inventory: S3Store, bucket: str, now: datetime) -> tuple[datetime, Iterator[Row]]:
    """Read a report's ``manifest.json`` and return when the report was made, and its rows, without delete markers.

    Raises :class:`NotAnInventory`, also while the rows are read.
    """
    data = inventory.read(limit=MAX_MANIFEST)
    try:
        manifest = json.loads(data)
        made = datetime.fromtimestamp(int(manifest["creationTimestamp"]) / 1000, UTC)
        if manifest["sourceBucket"] != bucket:
            raise NotAnInventory("is an inventory of another bucket")
        if manifest["fileFormat"] not in ("CSV", "Parquet"):
            raise ValueError("neither CSV nor Parquet")
        files = [(str(entry["key"]), str(entry["MD5checksum"])) for entry in manifest["files"]]
        place = str(manifest["destinationBucket"]).rpartition(":::")[2]
    except _MALFORMED as error:
        raise _unreadable(error) from None
    if not -SKEW <= now - made <= MAX_AGE:
        raise NotAnInventory(f"was made {made:%Y-%m-%d %H:%M} UTC, not in the last 48 hours")
    if len({key for key, _ in files}) != len(files):
        raise NotAnInventory("names one of its files twice")
    return made, _all_rows(inventory, place, files, manifest, bucket)


def _unreadable(error: Exception) -> NotAnInventory:
    return NotAnInventory(
        f"is not an inventory that can be read ({type(error).__name__}). Give the report's manifest.json, CSV or Parquet."
    )


def _all_rows(
    inventory: S3Store, place: str, files: list[tuple[str, str]], manifest: Mapping[str, Any], bucket: str
) -> Iterator[Row]:
    for key, checksum in files:
        with S3Store(f"{place}/{key}", inventory.client).open() as file:
            # The manifest's own way of naming a file's content: against accidents.
            found = hashlib.file_digest(cast("io.BufferedReader", file), lambda: hashlib.md5(usedforsecurity=False))
            if found.hexdigest() != checksum:
                raise NotAnInventory("has a file that is not what its manifest says")
            file.seek(0)
            try:
                rows = _csv_rows(file, manifest["fileSchema"]) if manifest["fileFormat"] == "CSV" else _parquet_rows(file)
                yield from _checked(rows, bucket)
            except _MALFORMED as error:
                raise _unreadable(error) from None


def _checked(rows: Iterable[tuple[Any, ...]], bucket: str) -> Iterator[Row]:
    for of, key, status, latest, deleted in rows:
        if of != bucket:
            raise NotAnInventory("lists objects of another bucket")
        if not isinstance(key, str) or not isinstance(status, str | None):
            raise TypeError("a key or a state is no text")
        if deleted is not True:
            yield Row(key, _WAYS.get(status or "?"), None if deleted is None else latest)


def _csv_rows(file: IO[bytes], schema: str) -> Iterator[tuple[Any, ...]]:
    columns = [name.strip() for name in schema.split(",")]
    places = [columns.index(name) if name in columns else None for name in _COLUMNS]
    if None in places[:_NEEDED]:
        raise ValueError("a column is missing")
    spoken = {"true": True, "false": False}
    for row in csv.reader(io.TextIOWrapper(gzip.GzipFile(fileobj=file), encoding="utf-8", newline="")):
        if len(row) != len(columns):
            raise ValueError("a row has another number of fields")
        of, key, status, latest, deleted = (None if place is None else row[place] for place in places)
        yield (
            of,
            unquote_plus(cast(str, key)),
            status,
            True if latest is None else spoken.get(latest.lower()),
            False if deleted is None else spoken.get(deleted.lower()),
        )


def _parquet_rows(file: IO[bytes]) -> Iterator[tuple[Any, ...]]:
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    names = [name for name in _PARQUET_COLUMNS if name in table.schema_arrow.names]
    if names[:_NEEDED] != list(_PARQUET_COLUMNS[:_NEEDED]):
        raise ValueError("a column is missing")
    for batch in table.iter_batches(columns=names):
        columns = batch.to_pydict()
        for name, absent in (("is_latest", True), ("is_delete_marker", False)):
            told = columns.get(name, [absent] * batch.num_rows)
            columns[name] = [value if isinstance(value, bool) else None for value in told]
        yield from zip(*(columns[name] for name in _PARQUET_COLUMNS), strict=True)
