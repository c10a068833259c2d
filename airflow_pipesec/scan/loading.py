"""Loading: of a pickle only what was scanned can run, for scan and unpickler go by one allow-list and by the same bytes."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from airflow_pipesec.errors import ArtifactRefused, ConfigurationError
from airflow_pipesec.findings import printable
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.calls import MAKERS, WRAPPERS, of_python_3
from airflow_pipesec.scan.scanner import Limits, Scan, scan_view
from airflow_pipesec.scan.sniff import STREAMS
from airflow_pipesec.scan.views import Memory, pieces

__all__ = ["load_pickle"]

LIMIT = 16 << 30
SHOWN = 5

Allowed = str | os.PathLike[str] | Mapping[str, Any] | Iterable[str] | AllowList | None


def load_pickle(source: str | os.PathLike[str] | IO[bytes], allow: Allowed = None, *, limits: Limits | None = None) -> Any:
    """Load a file that ``pickle.dump`` or ``joblib.dump`` wrote, compressed or not, if it uses only what is on the allow-list.

    ``source`` is a path, or a file that is open for reading in binary mode, such as
    :func:`~airflow_pipesec.consume.verified_open` gives. It is read into memory once; these bytes are scanned as
    :class:`~airflow_pipesec.operators.ArtifactScanOperator` scans them, and loaded by an unpickler that looks up no other name
    than the allow-list has. ``allow`` is that guard's parameter: give both the same. Of several pickles in one file all are
    scanned, and the first is returned.

    Raises :class:`~airflow_pipesec.errors.ArtifactRefused`, which names what is wrong, before anything is loaded;
    :class:`~airflow_pipesec.errors.StorageError` where the file cannot be read, and whatever the allow-listed classes raise.
    """
    allowed = AllowList.load(allow)
    data, where = _read(source)
    scan = scan_view(Memory(data), allowed, name=Path(where).name, limits=limits)
    if scan.problems:
        more = scan.totals.total() - SHOWN
        faults = "; ".join(f"{problem.fault}: {problem}" for problem in scan.problems[:SHOWN])
        raise ArtifactRefused(f"{where} is not loaded: {faults}{f'; and {more:,} more' if more > 0 else ''}.")
    if not set(scan.formats) <= STREAMS | {"pickle"} or "pickle" not in scan.formats:
        forms = ", ".join(sorted(scan.formats))
        raise ArtifactRefused(f"{where} is no pickle but {forms}. Load it with the library that wrote it.")
    if scan.formats.keys() & STREAMS:
        data = _unpacked(data)
    return _Unpickling(allowed, scan, where).load(data)


def _read(source: str | os.PathLike[str] | IO[bytes]) -> tuple[bytes, str]:
    from airflow_pipesec.storage import LocalStore

    if isinstance(source, str | os.PathLike):
        return LocalStore(source).read(limit=LIMIT), printable(os.fspath(source))
    if not hasattr(source, "read"):
        raise ConfigurationError(
            f"load_pickle cannot read a {type(source).__name__}. Give a path, or a file opened in binary mode."
        )
    data = source.read()
    if type(data) is not bytes:  # nor of a class that gives the scan other bytes than the unpickler
        raise ConfigurationError("load_pickle needs a file that is opened in binary mode.")
    name = getattr(source, "name", None)
    return data, printable(name) if isinstance(name, str) else "the file"


def _unpacked(data: bytes) -> bytes:
    """Decompress, as the scan did: streams in streams too."""
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.streams import opened

    part = Part(Memory(data), Scan(AllowList()))
    while (inner := opened(part)) is not None:
        part = part.child(inner, "decompressed")
    return b"".join(pieces(part.view))


class _Unpickling:
    """One load: a class of unpickler that looks names up in the allow-list, and its use."""

    def __init__(self, allow: AllowList, scan: Scan, where: str) -> None:
        self.allow, self.where = allow, where
        self.joblib = any((entry.module, entry.name) in WRAPPERS for entry in scan.used)

    def find(self, module: str, name: str) -> None:
        """Raise :class:`ArtifactRefused` unless a name is allowed, as it stands and as pickle would map a name of Python 2."""
        if (module, name) not in MAKERS and not self.allow.has(*of_python_3(module, name)):
            raise ArtifactRefused(f"{self.where} is not loaded: it refers to {printable(module)}:{printable(name)}.")

    def load(self, data: bytes) -> Any:
        """Unpickle bytes that were scanned."""
        outer = self

        if self.joblib:
            from joblib.numpy_pickle import NumpyUnpickler

            class ArrayUnpickler(NumpyUnpickler):  # type: ignore[misc] # joblib publishes no types
                def find_class(self, module: str, name: str) -> Any:
                    outer.find(module, name)
                    return super().find_class(module, name)

            return ArrayUnpickler("", io.BytesIO(data), True).load()

        class PlainUnpickler(pickle.Unpickler):
            def find_class(self, module: str, name: str) -> Any:
                outer.find(module, name)
                return super().find_class(module, name)

        return PlainUnpickler(io.BytesIO(data)).load()
