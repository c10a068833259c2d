"""Values: what a pickle would have on its stack, as far as one can tell without making any of it."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from airflow_pipesec.scan.allow import AllowList, Argument
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Memory, Section, View

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Scan

__all__ = ["KEPT", "UNKNOWN", "Blob", "Box", "Made", "Name", "demand_hashable", "fits", "is_data", "is_value", "names_in"]

# Numbers, short texts, None and tuples stand for themselves; all else is one of these.
KEPT: Final = 65_536
"""Items of a list, and entries of a dictionary, that are remembered; of longer ones only what they hold besides plain data."""

DEEPEST = 100
DEEPEST_HASHED = 1000
MOST_HASHED = 1_000_000


class _Unknown:
    """The result of what was refused: it has been told already, and may be anything."""

    __slots__ = ()


UNKNOWN: Final = _Unknown()


class Blob:
    """A constant that is too long to be kept: its type, and where it lies. ``encoding`` is that of the file, for a ``str``.

    ``latin1`` is a text that was turned into bytes of the same numbers, as protocols before 3 write bytes.
    """

    __slots__ = ("encoding", "kind", "latin1", "length", "start", "view")

    def __init__(self, kind: str, view: View, start: int, length: int, *, latin1: bool = False, encoding: str = "utf-8") -> None:
        self.kind, self.view, self.start, self.length = kind, view, start, length
        self.latin1, self.encoding = latin1, encoding

    def content(self, limit: int) -> View:
        """Return its bytes. Raises :class:`Unscannable` for a text of more than ``limit`` bytes that has to be decoded."""
        if not self.latin1:
            return Section(self.view, self.start, self.length)
        text = self.decoded(limit)
        if text is None:
            raise Unscannable(f"holds bytes as a text of more than {limit:,} bytes", self.start)
        return Memory(text.encode("latin-1"))

    def decoded(self, limit: int) -> str | None:
        """Return the text, or None where it takes more than ``limit`` bytes. Raises :class:`Unscannable` for a broken one."""
        if self.length > limit:
            return None
        raw = self.view.read_at(self.start, self.length)
        try:
            if self.encoding == "escape":
                return codecs.escape_decode(raw)[0].decode("latin-1")
            return raw.decode(self.encoding, "surrogatepass" if self.encoding == "utf-8" else "strict")
        except (UnicodeDecodeError, ValueError):
            raise Unscannable("is a broken pickle: a text has a broken escape", self.start) from None


class Name:
    """A module and a name in it, and the rights that the allow-list gives to it."""

    __slots__ = ("module", "name", "rights")

    def __init__(self, module: str, name: str, rights: tuple[str, ...]) -> None:
        self.module, self.name, self.rights = module, name, rights

    def __str__(self) -> str:
        return f"{named(self.module)}:{named(self.name)}"


class Made:
    """An instance: of which name, called with what, and its attributes where they matter for reading on."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: Name | None, args: tuple[Any, ...] = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None

    def is_of(self, *pairs: tuple[str, str]) -> bool:
        """Whether it is an instance of one of some names."""
        return self.name is not None and (self.name.module, self.name.name) in pairs


class Box:
    """A list, dictionary or set that can still grow.

    ``items`` are its items, and ``entries`` its entries whose keys are constants, up to :data:`KEPT`; ``whole`` says whether that
    is all. ``parts`` are those items, keys and values that are not plain constants, of however long a box. ``hidden`` says
    whether a key is no text or begins with two underscores, and ``private`` whether one does.
    """

    __slots__ = ("entries", "hidden", "items", "kind", "parts", "private", "whole")

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.items: list[Any] = []
        self.entries: dict[Any, Any] = {}
        self.parts: list[Any] = []
        self.whole = True
        self.hidden = False
        self.private = False

    def extend(self, items: list[Any]) -> None:
        """Take in items of a list or a set."""
        if self.whole and len(self.items) + len(items) <= KEPT:
            self.items += items
        elif self.whole:
            self.whole, self.items = False, []
        self.parts += [item for item in items if type(item) not in _PLAIN]

    def undo(self, keys: Iterable[Any]) -> Callable[[], None]:
        """Return what takes this box back to where it is now, after more items and new values for some keys."""
        items, parts, flags = len(self.items), len(self.parts), (self.whole, self.hidden, self.private)
        listed, before = self.items, [(key, self.entries.get(key, UNKNOWN)) for key in keys if type(key) in _PLAIN]
        absent = [key for key, _ in before if key not in self.entries]

        def back() -> None:
            self.items = listed
            del self.items[items:], self.parts[parts:]
            self.whole, self.hidden, self.private = flags
            self.entries.update(before)
            for key in absent:
                self.entries.pop(key, None)

        return back

    def set(self, key: Any, value: Any) -> None:
        """Take in an entry of a dictionary."""
        if self.kind == "list":
            self.whole, self.items = False, []
        kind = type(key)
        if kind not in _PLAIN:
            self.parts.append(key)
            self.whole = False
        elif len(self.entries) < KEPT or key in self.entries:
            self.entries[key] = value
        else:
            self.whole = False
        if type(value) not in _PLAIN:
            self.parts.append(value)
        if kind is not str or key.startswith("__"):
            self.hidden = True
            self.private |= kind is str


_PLAIN = frozenset((int, float, bool, str, bytes, type(None)))


def is_data(value: Any, seen: set[int] | None = None, depth: int = 0) -> bool:
    """Whether a value is a constant, or made of nothing but constants."""
    if type(value) in _PLAIN or isinstance(value, Blob) or value is UNKNOWN:
        return True
    if not isinstance(value, tuple | Box):
        return False
    seen = set() if seen is None else seen
    if id(value) in seen:
        return True
    if depth > DEEPEST:
        return False
    seen.add(id(value))
    return all(is_data(part, seen, depth + 1) for part in (value if isinstance(value, tuple) else value.parts))


_KIND_OF = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "str",
    bytes: "bytes",
    type(None): "none",
    tuple: "tuple",
}


def is_value(name: Name, allow: AllowList) -> bool:
    """Whether a name may be kept, for whoever uses the model to call with anything. One that is refused was told already."""
    free = "call" in name.rights and allow.call.get((name.module, name.name), ()) is None
    return "name" in name.rights or free or not name.rights


def names_in(value: Any, scan: Scan) -> Iterator[Name]:
    """Yield the names that a value is or that stand in it, as far as tuples go: what is put into a list was looked at there."""
    waiting, seen = [value], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Name):
            yield value
        elif isinstance(value, tuple) and id(value) not in seen:
            seen.add(id(value))
            scan.work(len(value))
            waiting += [item for item in value if isinstance(item, Name | tuple)]


def demand_hashable(key: Any, scan: Scan, offset: int) -> None:
    """Raise :class:`Unscannable` for a key whose hash no reader comes to the end of: it is worked out anew for each part."""
    waiting, parts = [(key, 1)], 0
    while waiting:
        value, depth = waiting.pop()
        if type(value) is tuple:
            parts += len(value)
            scan.work(len(value))
            if parts > MOST_HASHED or depth > DEEPEST_HASHED:
                raise Unscannable("has a key that is too large or nested too deep to be hashed", offset)
            waiting += [(item, depth + 1) for item in value if type(item) is tuple]


def _kinds(value: Any, allow: AllowList) -> Iterator[str]:
    """Yield the kinds of argument that a value is, see :mod:`airflow_pipesec.scan.allow`."""
    if not isinstance(value, Name) or is_value(value, allow):
        yield "any"
    if (kind := _KIND_OF.get(type(value))) is not None:
        yield kind
    elif isinstance(value, Blob | Box):
        yield value.kind
    elif isinstance(value, Made):
        yield "made"
    elif isinstance(value, Name):
        if is_value(value, allow):
            yield "name"
        if "new" in value.rights:
            yield "type"
        if "call" in value.rights and allow.call.get((value.module, value.name), ()) is None:
            yield "function"
    if isinstance(value, bytes) or (isinstance(value, Blob) and value.kind == "bytes"):
        yield "torch"


def _fits_one(value: Any, argument: Argument, allow: AllowList) -> bool:
    if value is UNKNOWN or (type(value) is str and value in argument.texts):
        return True
    if isinstance(value, Name) and value.rights and f"{value.module}:{value.name}" in argument.texts:
        return True
    if any(kind in argument.kinds for kind in _kinds(value, allow)):
        return True
    return "data" in argument.kinds and is_data(value)


def fits(args: tuple[Any, ...], signature: tuple[Argument, ...], allow: AllowList) -> int | None:
    """Whether arguments are those of a signature: None if they are, else the number of the first that is not, from 0."""
    place = 0
    for number, value in enumerate(args):
        if place >= len(signature) or not _fits_one(value, signature[place], allow):
            return number
        place += not signature[place].repeated
    rest = signature[place:]
    return None if all(argument.optional or argument.repeated for argument in rest) else len(args)
