"""Scanner: one artifact, looked at part by part, within limits, and what was found in it.

A part is a file, or what lies in one: a member of an archive, a decompressed stream, a pickle within an array. Each format is a
function that takes a :class:`Part` and tells it what it saw. Two things can be wrong with a part. *Unsafe*: loading it may do
what is not on the allow-list. *Unscannable*: nobody can tell, for it is broken, encrypted, too large, or of no known form. Both
block; and what raises here, a defect or an attack on this very scanner, is unscannable as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from enum import StrEnum

from airflow_pipesec.errors import PipesecError, place_of
from airflow_pipesec.findings import printable
from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.views import View

__all__ = ["Fault", "Limits", "Part", "Problem", "Scan", "Unscannable", "named", "scan_view"]

PROBLEMS_KEPT = 100
LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a scan goes before it says that it can't tell.

    ``depth``: parts within parts. ``parts``: of one artifact in all. ``unpacked``: bytes that decompressing may yield in all.
    ``ratio``: how many times its compressed size a stream of more than 64 MiB may become. ``opcodes`` and ``memo``: of all pickle
    streams of one artifact. ``text``: bytes of a header, a configuration or a template that is parsed at once.
    """

    depth: int = 8
    parts: int = 200_000
    unpacked: int = 64 << 30
    ratio: int = 1100
    opcodes: int = 100_000_000
    memo: int = 20_000_000
    text: int = 64 << 20


class Fault(StrEnum):
    """What is wrong with a part."""

    UNSAFE = "unsafe"
    UNSCANNABLE = "unscannable"


class Unscannable(Exception):
    """A part cannot be judged. The text says why, as the rest of a sentence whose subject is the part."""

    def __init__(self, why: str, offset: int | None = None) -> None:
        super().__init__(why)
        self.why, self.offset = why, offset


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: with which part (``""`` is the artifact itself), where in it in bytes, and why."""

    fault: Fault
    part: str
    why: str
    offset: int | None = None

    def __str__(self) -> str:
        where = f"{self.part}: " if self.part else ""
        place = f" (at byte {self.offset:,})" if self.offset is not None else ""
        return f"{where}{self.why}{place}"


def named(text: str | bytes) -> str:
    """Return a name from a file as a message may hold it: printable, in one piece, and cut off where it is no name any more."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    return printable(text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}…")


class Scan:
    """What is found in one artifact: problems, the formats that were seen, and the entries of the allow-list that it uses.

    ``refused`` holds the names that are not on it, as ``module:name``. ``siblings`` are the names of the files in the artifact's
    own folder and below it, for formats that refer to such; ``references`` are the names of those that it reads as raw numbers,
    and nothing else. ``unknown`` counts the parts that are of no known format.
    """

    def __init__(self, allow: AllowList, limits: Limits | None = None, siblings: Collection[str] = ()) -> None:
        self.allow = allow
        self.limits = Limits() if limits is None else limits
        self.siblings = siblings
        self.problems: list[Problem] = []
        self.totals: Counter[Fault] = Counter()
        self.formats: Counter[str] = Counter()
        self.used: Counter[Entry] = Counter()
        self.refused: set[str] = set()
        self.references: set[str] = set()
        self.unknown = 0
        self.parts = 0
        self.unpacked = 0
        self.opcodes = 0
        self.memo = 0

    def add(self, problem: Problem) -> None:
        """Keep a problem; of very many, only that there are more."""
        self.totals[problem.fault] += 1
        if self.totals[problem.fault] <= PROBLEMS_KEPT:
            self.problems.append(problem)

    def work(self, steps: int) -> None:
        """Count steps that one opcode takes beside itself. Raises :class:`Unscannable` for too many in all."""
        self.opcodes += steps
        if self.opcodes > self.limits.opcodes:
            raise Unscannable(f"takes more than {self.limits.opcodes:,} steps to be followed as a pickle")

    def unpack(self, packed: int, unpacked: int, more: int) -> None:
        """Count ``more`` bytes of a stream that became ``unpacked`` of ``packed`` so far. Raises :class:`Unscannable`."""
        self.unpacked += more
        if self.unpacked > self.limits.unpacked:
            raise Unscannable(f"unpacks to more than {self.limits.unpacked:,} bytes")
        if unpacked > 64 << 20 and unpacked > packed * self.limits.ratio:
            raise Unscannable(f"unpacks to more than {self.limits.ratio:,} times its size")


@dataclass(slots=True)
class Part:
    """A stretch of bytes that some loader reads as a file, and what it is called within the artifact.

    ``form`` is the format that it is read as, once that is known. ``known`` is set where the part's place tells what it is for:
    ``"torch"`` for the pickle of a torch archive, ``"file:…"`` with its own name for all others. ``companion`` is what it is
    to the parts beside it, such as their raw numbers.
    """

    view: View
    scan: Scan
    name: str = ""
    depth: int = 0
    known: str = ""
    companion: str = ""
    form: str = field(default="", init=False)

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.view.size

    def read(self, offset: int, length: int) -> bytes:
        """Return ``length`` bytes. Raises :class:`Unscannable` where there are fewer."""
        data = self.view.read_at(offset, length) if length > 0 and offset >= 0 else b""
        if len(data) != length:
            raise Unscannable("ends too early", offset)
        return data

    def saw(self, form: str) -> None:
        """Note which format it is."""
        self.form = form
        self.scan.formats[form] += 1

    def unsafe(self, why: str, offset: int | None = None) -> None:
        """Tell that loading it may do what is not allowed."""
        self.scan.add(Problem(Fault.UNSAFE, self.name, why, offset))

    def unscannable(self, why: str, offset: int | None = None) -> None:
        """Tell that nobody can say what it holds; what else can be looked at is looked at all the same."""
        self.scan.add(Problem(Fault.UNSCANNABLE, self.name, why, offset))

    def child(self, view: View, name: str, *, known: str = "", companion: str = "") -> Part:
        """Return a part of this part; ``name`` is text from the file. Raises :class:`Unscannable` when it goes too deep."""
        limits = self.scan.limits
        if self.depth >= limits.depth:
            raise Unscannable(f"holds parts within parts more than {limits.depth} deep")
        self.scan.parts += 1
        if self.scan.parts > limits.parts:
            raise Unscannable(f"holds more than {limits.parts:,} parts")
        shown = named(name)
        return Part(
            view, self.scan, f"{self.name}/{shown}" if self.name else shown, self.depth + 1, known or f"file:{name}", companion
        )

    def look(self, form: Callable[[Part], None] | None = None) -> None:
        """Look at this part as what its bytes say it is, or by the given format's function. Problems are kept, none is raised."""
        from airflow_pipesec.scan.sniff import look

        try:
            (look if form is None else form)(self)
        except Unscannable as error:
            self.unscannable(error.why, error.offset)
        except PipesecError:
            raise
        except RecursionError:
            self.unscannable("is nested too deep to be read")
        except Exception as error:
            # A parser that came upon what its author did not think of: nothing is known of this part.
            self.unscannable(f"cannot be parsed ({place_of(error)})")


def scan_view(
    view: View,
    allow: AllowList,
    *,
    name: str = "",
    limits: Limits | None = None,
    siblings: Collection[str] = (),
    companion: str = "",
) -> Scan:
    """Look at one artifact, a file, and return what was found. ``name`` is the file's own, for formats that go by it.

    ``siblings`` and ``companion`` are those of :class:`Scan` and :class:`Part`.

    Raises nothing of the file's making. What the view itself raises (a lost connection) goes on.
    """
    scan = Scan(allow, limits, siblings)
    scan.parts = 1
    part = Part(view, scan, known=f"file:{name}", companion=companion)
    part.look()
    return scan
