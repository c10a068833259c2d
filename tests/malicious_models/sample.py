"""A malicious file, and what it would do: make a marker file, by one of several ways to say that."""

from __future__ import annotations

import marshal
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from tests.malicious_models.assembling import call, pickled

LOADERS = ("pickle", "pickle-python", "pickle-all", "pandas", "joblib", "numpy", "torch", "dill", "jinja")


class Sample(NamedTuple):
    """A file, and the loader whose victim it is.

    ``needs`` names the modules that the proof takes. ``unproven`` says why no proof is run, where the loader is one of LOADERS.
    ``sure`` is false where all that can be said of the file is that nobody can judge it: it is broken, or it claims too much.
    """

    name: str
    file: str
    data: bytes
    loader: str
    needs: str = ""
    unproven: str = ""
    sure: bool = True


class Payload(NamedTuple):
    """The marker, and texts that make it."""

    marker: str

    @classmethod
    def of(cls, marker: Path) -> Payload:
        return cls(str(marker))

    @property
    def shell(self) -> str:
        """A line for a shell."""
        return f": > {shlex.quote(self.marker)}"

    @property
    def argv(self) -> list[str]:
        """A command without a shell."""
        return ["touch", self.marker]

    @property
    def python(self) -> str:
        """An expression, which is a statement as well."""
        return f"open({self.marker!r}, 'w').close()"

    @property
    def code(self) -> bytes:
        """The same as marshal has it."""
        return marshal.dumps(compile(self.python, "payload", "exec"))

    @property
    def system(self) -> Any:
        """The plainest of all calls."""
        return call("os:system", self.shell)

    @property
    def pickle(self) -> bytes:
        """The plainest of all pickles."""
        return pickled(self.system)
