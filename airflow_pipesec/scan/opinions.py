"""Opinions: what other scanners say of a file. The stricter answer wins, and one that gives none has not passed it.

picklescan runs in this process, if it is installed (``pip install 'airflow-pipesec[scan]'``). Others are commands, each in an
environment of its own: what they import is no business of the worker's. They are told to send no telemetry, and nothing that they
print is passed on, for it may quote the file.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from airflow_pipesec.errors import ConfigurationError, place_of
from airflow_pipesec.findings import Status, amount, printable
from airflow_pipesec.scan.views import pieces
from airflow_pipesec.storage import Places

__all__ = ["Command", "Opinion", "Picklescan", "opinions_from"]

SECONDS = 900.0
QUIET = {
    "DO_NOT_TRACK": "1",
    "PROMPTFOO_DISABLE_TELEMETRY": "1",
    "MODELAUDIT_NO_TELEMETRY": "1",
    "NO_COLOR": "1",
    "PYTHONNOUSERSITE": "1",
}


class Opinion(Protocol):
    """Another scanner."""

    @property
    def name(self) -> str:
        """What it is called in findings."""

    def ask(self, view: Places, called: str) -> tuple[Status, str]:
        """Return what it says of a file: a status, and the rest of a sentence whose subject it is."""


@dataclass(frozen=True, slots=True)
class Picklescan:
    """picklescan (https://github.com/mmaitre314/picklescan), in this process."""

    name: str = "picklescan"

    def ask(self, view: Places, called: str) -> tuple[Status, str]:
        """Count the dangerous globals that it finds. Raises :class:`ConfigurationError` where it is not installed."""
        try:
            from picklescan.scanner import scan_file_path
        except ImportError:
            raise ConfigurationError(
                "a second opinion of picklescan needs that package. Install it with: pip install 'airflow-pipesec[scan]'"
            ) from None
        with _copy(view, called) as path:
            try:
                result = scan_file_path(str(path))
            except Exception as error:  # whatever another's parser met with, it gave no answer
                return Status.ERROR, f"broke off ({place_of(error)})"
        if result.issues_count or result.infected_files:
            return Status.FAIL, f"finds {amount(result.issues_count, 'dangerous name')}"
        return (Status.ERROR, "could not read it") if result.scan_err else (Status.PASS, "finds nothing")


@dataclass(frozen=True, slots=True)
class Command:
    """A scanner that is started for each file, with the file's path as its last argument, and answers by its exit code.

    ``clean`` and ``found`` are the exit codes that say so; any other is no answer.
    """

    name: str
    command: tuple[str, ...]
    clean: frozenset[int] = frozenset((0,))
    found: frozenset[int] = frozenset((1,))
    seconds: float = SECONDS

    def ask(self, view: Places, called: str) -> tuple[Status, str]:
        """Start it on a private copy and wait for its exit code."""
        with _copy(view, called) as path, tempfile.TemporaryDirectory(prefix="pipesec-") as home:
            inherited = {key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "TZ") if key in os.environ}
            environment = inherited | QUIET | {"HOME": home, "TMPDIR": home}
            try:
                done = subprocess.run(
                    [*self.command, str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd=home,
                    env=environment,
                    timeout=self.seconds,
                    check=False,
                )
            except subprocess.TimeoutExpired:
                return Status.ERROR, f"gave no answer in {self.seconds:.0f} seconds"
            except OSError as error:
                raise ConfigurationError(
                    f"{printable(self.command[0])} cannot be started ({error.strerror}). Give the path of the scanner's program."
                ) from None
        if done.returncode in self.clean:
            return Status.PASS, "finds nothing"
        if done.returncode in self.found:
            return Status.FAIL, f"finds something (exit code {done.returncode})"
        return Status.ERROR, f"gave no answer (exit code {done.returncode})"


@contextmanager
def _copy(view: Places, called: str) -> Iterator[Path]:
    """Give a private copy of what is looked at, under the file's own name: others go by its ending."""
    with tempfile.TemporaryDirectory(prefix="pipesec-") as folder:
        path = Path(folder) / (called.replace("/", "_").lstrip(".-") or "artifact")
        with path.open("wb") as file:
            for data in pieces(view):
                file.write(data)
        yield path


# What their documentation says of the exit code, and how they are asked about one file.
KNOWN: Mapping[str, tuple[tuple[str, ...], frozenset[int], frozenset[int]]] = {
    "modelscan": (("--path",), frozenset((0,)), frozenset((1,))),
    "fickling": (("--check-safety",), frozenset((0,)), frozenset((1,))),
    "modelaudit": (("scan",), frozenset((0,)), frozenset((1,))),
    "picklescan": (("--path",), frozenset((0,)), frozenset((1,))),
}


def opinions_from(texts: Iterable[str] | str | None) -> tuple[Opinion, ...]:
    """Read a list of other scanners: ``picklescan``; ``modelscan=PROGRAM`` or another known one; or ``NAME=COMMAND ARGUMENT…``.

    The file's path is put at the end. Raises :class:`ConfigurationError` for anything else.
    """
    found: list[Opinion] = []
    for text in [texts] if isinstance(texts, str) else texts or ():
        name, equals, command = text.partition("=") if isinstance(text, str) else ("", "", "")
        try:
            words = tuple(shlex.split(command))
        except ValueError:
            words = ()
        if name == "picklescan" and not equals:
            found.append(Picklescan())
        elif not name.strip() or not words:
            raise ConfigurationError(
                f"{printable(str(text))} is no other scanner. Write picklescan, NAME=PROGRAM (of {', '.join(sorted(KNOWN))}), "
                "or NAME=COMMAND ARGUMENT."
            )
        elif name in KNOWN and len(words) == 1:
            arguments, clean, bad = KNOWN[name]
            found.append(Command(name, (*words, *arguments), clean, bad))
        else:
            found.append(Command(name, words))
    return tuple(found)
