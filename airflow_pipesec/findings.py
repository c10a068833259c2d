"""Findings: what a check observed, one control on one subject at a time.

A check is any function that yields :class:`Finding`. It reports what it saw, good or bad, and never decides what that means:
thresholds and waivers belong to :mod:`airflow_pipesec.policy`. Text that comes from outside (file names, column names) is made
printable on the way in, so that no name can forge a log line or steer a terminal.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum

from airflow_pipesec.errors import AccessDenied, FindingError, PipesecError

__all__ = ["Control", "Finding", "Severity", "Status", "Subject", "amount", "escaped", "not_reached", "printable"]


class Severity(IntEnum):
    """How much a failed control matters. Ordered, so ``finding.severity >= threshold`` reads as it should."""

    INFO = 10
    LOW = 20
    MEDIUM = 30
    HIGH = 40
    CRITICAL = 50

    @property
    def label(self) -> str:
        """The lower-case name, as policies and summaries write it."""
        return self.name.lower()


class Status(StrEnum):
    """What a check saw: the control holds, it does not, it does not apply, or that could not be found out."""

    PASS = "pass"  # noqa: S105 - a status, not a password
    FAIL = "fail"
    SKIP = "skip"
    ERROR = "error"


def printable(text: str) -> str:
    r"""Return ``text`` with every character that is not printable, and the backslash, written as an escape.

    Control characters, line breaks, bidirectional overrides, other invisible characters and undecodable bytes (lone surrogates)
    come out as ``\xNN`` or ``\uNNNN``. The result is unambiguous: two different texts stay different.
    """
    return escaped(text.replace("\\", "\\\\"))


def escaped(text: str) -> str:
    """Return ``text`` with what is not printable written as an escape, and everything else, backslashes too, as it is."""
    if text.isprintable():
        return text
    return "".join(ch if ch.isprintable() else ch.encode("unicode_escape", "surrogatepass").decode("ascii") for ch in text)


def amount(number: int, thing: str) -> str:
    """Return a number of things as people write it: ``1 file``, ``1,200 files``."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


@dataclass(frozen=True, slots=True)
class Subject:
    """What was examined: a file, a tree, a table, a column.

    ``name`` is a path or URL that a reader can find again; ``digest`` is ``algorithm:hex`` where the check computed one;
    ``version`` is the object store's version id where there is one.
    """

    name: str
    digest: str | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise FindingError(f"a subject's name is a {type(self.name).__name__}; give text, such as str(path)")
        object.__setattr__(self, "name", printable(self.name))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Control:
    """A security property that a check examines.

    ``id`` names the property (``digest-matches``), ``title`` says it as a sentence that is true when it holds, ``severity`` is
    how much a failure matters, ``remedy`` what a person does then, ``refs`` where the control comes from. Raises
    :class:`~airflow_pipesec.errors.FindingError` where one of the texts is missing or none.
    """

    id: str
    title: str
    severity: Severity
    remedy: str
    refs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in ("id", "title", "remedy"):
            value = getattr(self, field)
            if not isinstance(value, str) or not value:
                raise FindingError(f"a control's {field} is {'empty' if value == '' else f'a {type(value).__name__}'}; give text")
            object.__setattr__(self, field, escaped(value))
        if not isinstance(self.refs, tuple) or not all(isinstance(item, str) and item for item in self.refs):
            raise FindingError(f'the refs of control {self.id} are no tuple of texts; give refs=("CWE-20",), also for one')


@dataclass(frozen=True, slots=True)
class Finding:
    """One control on one subject: what was seen.

    ``count`` is how many things the finding speaks for (a tree of a million good files is one finding with that count).
    ``severity`` overrides the control's own where the source of the rule carries one. A passing finding that examined nothing
    would be silence dressed as evidence, so ``count`` must be at least 1 for a pass; anything else raises
    :class:`~airflow_pipesec.errors.FindingError`, and so does a part of the wrong type.

    ``message`` carries names, counts, digests and offsets, never a value from the data.
    """

    control: Control
    subject: Subject
    status: Status
    message: str
    count: int = 1
    severity: Severity | None = None

    def __post_init__(self) -> None:
        for field, kind in (("control", Control), ("subject", Subject), ("message", str)):
            if not isinstance(value := getattr(self, field), kind):
                raise FindingError(f"a finding's {field} is a {type(value).__name__}; give a {kind.__name__}")
        if self.status not in list(Status):
            raise FindingError(f"finding {self.control.id} has a status that is none; use airflow_pipesec.findings.Status")
        object.__setattr__(self, "status", Status(self.status))
        if type(self.count) is not int:
            raise FindingError(f"finding {self.control.id} has a count of type {type(self.count).__name__}; give a whole number")
        for severity in (self.severity, self.control.severity):
            if severity is not None and not isinstance(severity, Severity):
                raise FindingError(
                    f"finding {self.control.id} has a severity that is none; use airflow_pipesec.findings.Severity"
                )
        if self.count < 0 or (self.status is Status.PASS and self.count < 1):
            raise FindingError(
                f"finding {self.control.id} on {self.subject} is {self.status} with count {self.count}: "
                "a pass needs at least one thing examined; yield a fail or a skip instead"
            )
        if self.severity is None:
            object.__setattr__(self, "severity", self.control.severity)
        # Names inside a message are made unambiguous where it is written; here no line break or escape sequence gets through. An
        # error that names its place need not repeat the subject.
        object.__setattr__(self, "message", escaped(self.message).removeprefix(f"{self.subject.name} "))

    @property
    def level(self) -> Severity:
        """The severity that applies: the finding's own, else the control's."""
        return self.control.severity if self.severity is None else self.severity


def not_reached(control: Control, subject: Subject, error: PipesecError) -> Finding:
    """Make a finding of the error that stood in the way: undecided where nobody may look, a failure for everything else."""
    return Finding(control, subject, Status.ERROR if isinstance(error, AccessDenied) else Status.FAIL, str(error))
