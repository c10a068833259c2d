"""Storage: one way to list, read and write local paths, ``s3://`` and every other URL that fsspec knows.

:func:`open_store` gives the :class:`Store` behind a path or URL: a file or a tree of files under one root. Nothing under a root
is reached through a symbolic link, and no name leads out of it.

:mod:`airflow_pipesec.storage_base` holds the contract, :mod:`airflow_pipesec.storage_local` the local store, and
:mod:`airflow_pipesec.storage_remote`, imported when a URL asks for it, S3 and fsspec. None of it knows Airflow. The guards hand
in a boto3 client or an fsspec filesystem made from a connection.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError, place_of
from airflow_pipesec.findings import printable
from airflow_pipesec.storage_base import (
    SINGLE,
    Hasher,
    Irregular,
    Kind,
    Listing,
    Places,
    Scanned,
    Source,
    Store,
    by_path,
    escapes,
    os_errors,
)
from airflow_pipesec.storage_local import LocalStore, plain_file

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

__all__ = [
    "SINGLE",
    "Hasher",
    "Irregular",
    "Kind",
    "Listing",
    "LocalStore",
    "Places",
    "Scanned",
    "Source",
    "Store",
    "by_path",
    "escapes",
    "open_store",
    "os_errors",
    "plain_file",
    "split_url",
]

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+._-]*")


def split_url(url: str | os.PathLike[str]) -> tuple[str, str | None, str]:
    """Split ``scheme://conn_id@rest`` into scheme (``""`` for a local path), connection id and what follows.

    ``file://`` and ``local://`` URLs are local paths. Raises :class:`ConfigurationError` for an empty location or one with a NUL.
    """
    from urllib.parse import unquote

    text = os.fspath(url) if isinstance(url, str | os.PathLike) else None
    if not isinstance(text, str) or not text or "\0" in unquote(text):
        shown = repr(printable(text)) if isinstance(text, str) else f"a {type(url).__name__}"
        raise ConfigurationError(f"{shown} is not a location. Give a path or a URL such as s3://bucket/prefix.")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return "", None, text
    if not _SCHEME.fullmatch(scheme):
        raise ConfigurationError(
            f"{printable(scheme)}:// is no kind of URL that is read here. Give a path or one URL, not a chain."
        )
    if scheme in ("file", "local"):  # fsspec has two names for the local disk; both are read as carefully as a path
        return "", None, unquote("/" + rest.lstrip("/"))
    netloc, slash, path = rest.partition("/")
    conn_id, at, host = netloc.rpartition("@")
    return scheme, (conn_id or None) if at else None, f"{host}{slash}{path}"


def open_store(
    url: str | os.PathLike[str], *, client: S3Client | None = None, filesystem: tuple[Any, str] | None = None
) -> Store:
    """Return the store behind a path or URL; nothing is read yet.

    ``client`` serves ``s3://``; ``filesystem`` is an fsspec filesystem and the path on it, for any other scheme. Without them
    boto3's and fsspec's own defaults apply. Raises :class:`ConfigurationError` for a scheme that nothing installed knows.
    """
    scheme, conn_id, rest = split_url(url)
    if not scheme:
        return LocalStore(rest)
    from airflow_pipesec.storage_remote import FsspecStore, S3Store

    if scheme == "s3":
        return S3Store(rest, client)
    if filesystem is None:
        if conn_id is not None:
            raise ConfigurationError(
                f"{scheme}://…@ names an Airflow connection, which only works inside an Airflow task. "
                "Leave it out, and let the environment hold the credentials."
            )
        import fsspec

        try:
            filesystem = fsspec.core.url_to_fs(f"{scheme}://{rest}")
        except Exception as error:
            # What a filesystem raises is its own affair; the URL may hold a secret, and the message quote it.
            why = (
                "a package for them is not installed"
                if isinstance(error, ImportError)
                else "fsspec does not know them as written"
            )
            raise ConfigurationError(f"{scheme}:// URLs cannot be read here: {why} ({place_of(error)}).") from None
    # What follows a "?" may be a signature, which opens the file to whoever reads it in a log.
    return FsspecStore(f"{scheme}://{rest}".partition("?")[0].rstrip("/"), *filesystem)
