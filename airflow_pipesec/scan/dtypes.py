"""Dtypes: a pickled ``numpy.dtype`` is what numpy itself writes, so that no array takes foreign bytes for pointers to objects.

``dtype.__setstate__`` believes its state. One that says that there are no objects makes ``ndarray.__setstate__`` copy bytes from
the file and read them as addresses of Python objects; fields beyond the end of an element read and write other memory. All of it
needs only names that every model uses. The bits of the flags are those of ``numpy/ndarraytypes.h``.
"""

from __future__ import annotations

import math
import re
from collections import ChainMap
from collections.abc import MutableMapping
from typing import Any, Final, NamedTuple

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.values import Blob, Box, Made, Name

__all__ = ["ARRAYS", "DTYPE", "FINISHED", "SIZES", "VIEWS", "Dtypes", "Element"]

DTYPE: Final = ("numpy", "dtype")
STRINGS: Final = ("numpy._core._internal", "_convert_to_stringdtype_kwargs")
ARRAYS: Final = (
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    ("numpy.ma.core", "_mareconstruct"),
    *(("numpy", name) for name in ("ndarray", "matrix", "recarray")),
    ("numpy.rec", "recarray"),
    ("numpy.core.records", "recarray"),
    ("numpy.matrixlib.defmatrix", "matrix"),
    ("numpy.ma", "MaskedArray"),
    ("numpy.ma.core", "MaskedArray"),
)
"""What makes an array that is given its type and its elements afterwards."""
VIEWS: Final = (
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    ("numpy.ma.core", "MaskedConstant"),
)
"""What makes an array that is complete."""
_BYTES: Final = (("builtins", "bytearray"), ("builtins", "bytes"))
_EMPTY: Final = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): 1 for core in ("core", "_core")},
    ("numpy.ma.core", "_mareconstruct"): 2,
}
# What takes a type and elements at once: which argument is the type, which must be one without objects.
_MAKERS: Final = {
    **{(f"numpy.{core}.numeric", "_frombuffer"): 1 for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): 0 for core in ("core", "_core")},
}
FINISHED: Final = "finished"
MOST = 1_000_000  # dtypes of one pickle
_CODE = re.compile(r"[<>=|]?([biufcSaUVmMO?])(\d{0,9})")
# By the letter of a type, how many bytes one element can have; not of texts and of what has fields.
SIZES: Final[dict[str, tuple[int, ...]]] = {
    "b": (1,),
    "?": (1,),
    "i": (1, 2, 4, 8),
    "u": (1, 2, 4, 8),
    "f": (2, 4, 8, 12, 16),
    "c": (8, 16, 24, 32),
    "m": (8,),
    "M": (8,),
    "O": (4, 8),
}
_OBJECT = 1 | 2 | 8 | 16  # counted references, pickled as a list, has to be initialised, needs the interpreter
_OBJECT_TOO = 4 | 32  # is a pointer, is read by getitem
_PLAIN = 8 | 16
_ALIGNED = 128


class Element(NamedTuple):
    """What one element of an array is: its bytes, and whether it holds objects."""

    size: int
    objects: bool


class _Wrong(Exception):
    """Why it is none."""


class Dtypes:
    """The dtypes of one pickle that are complete, and the dictionaries of their fields, which numpy goes on using."""

    def __init__(self) -> None:
        self.complete: MutableMapping[int, tuple[Made, Element]] = {}
        self.sealed: MutableMapping[int, Box] = {}

    def fork(self) -> Dtypes:
        """Return what goes on from these without a change to them."""
        other = Dtypes()
        other.complete, other.sealed = ChainMap({}, self.complete), ChainMap({}, self.sealed)
        return other

    def wrong_state(self, made: Made, state: Any) -> str:
        """Return why a dtype must not get this state, as the rest of a sentence; ``""`` if it may, and has it from now on."""
        if id(made) in self.complete:
            return "gives a numpy.dtype its state twice"
        if len(self.complete) >= MOST:
            raise Unscannable(f"has more than {MOST:,} types of arrays")
        try:
            self.complete[id(made)] = made, self._element(made.args, state)
        except _Wrong as wrong:
            return f"gives a numpy.dtype a state that numpy does not write: {wrong}"
        if isinstance(state[4], Box):
            self.sealed[id(state[4])] = state[4]
        return ""

    def element(self, made: Any) -> Element | None:
        """Return what a complete dtype says of an element, or None where it is none."""
        if isinstance(made, Made) and made.is_of(STRINGS):
            return Element(16, objects=True)  # pickled as a list, like objects
        return self.complete[id(made)][1] if id(made) in self.complete else None

    def wrong_call(self, pair: tuple[str, str], args: tuple[Any, ...]) -> str:
        """Return why something of numpy's must not be called, or made without calling it, with these; ``""`` if it may."""
        if pair in _MAKERS:
            place = _MAKERS[pair]
            kind = self.element(args[place]) if place < len(args) else None
            if kind is None:
                return "makes an array or a scalar of a type that is no complete numpy.dtype"
            if kind.objects and not (place == 0 and _is_record(args)):
                return "makes objects of bytes, or what is called a scalar and is another object"
            if place == 0 and len(args) > 1 and _has_memory_name(args[1]):
                return "holds what numpy takes for the address of an array"
        if pair in VIEWS and args and isinstance(args[0], Made) and not args[0].is_of(*_BYTES):
            return "makes an array over what may be freed before it"
        if pair in _EMPTY and not all(_may_be_array(each) for each in args[: _EMPTY[pair]]):
            return "makes an array of a class that is none of numpy's"
        # Views of an array would go on using what it had before it gets its state.
        if pair in _EMPTY and (len(args) <= _EMPTY[pair] or args[_EMPTY[pair]] != (0,)):
            return "makes an array that is not empty before it is given its elements"
        return ""

    def wrong_array(self, made: Made, state: Any) -> str:
        """Return why an array (of numpy or a class made from it) must not get this state; ``""`` if it may."""
        if made.state is not None or made.is_of(*VIEWS):
            return "gives an array its elements twice"  # views of it would go on using those that it had
        made.state = FINISHED
        # numpy.ndarray.__reduce__: (1, shape, dtype, in Fortran's order, the elements); numpy.ma adds its mask and fill value.
        if not isinstance(state, tuple) or len(state) not in (5, 7) or type(state[0]) is not int or state[0] != 1:
            return "gives an array a state that numpy does not write"
        kind, data = self.element(state[2]), state[4]
        if kind is None:
            return "gives an array a type that is no complete numpy.dtype"
        listed = isinstance(data, Box) and data.kind == "list"
        # Protocols before 3 write no bytes by calling bytes().
        raw = isinstance(data, bytes | str | Blob) or (isinstance(data, Made) and data.is_of(("builtins", "bytes")))
        if kind.objects != listed or not (listed or raw):
            return "gives an array elements that are not of its type"
        return ""

    def _element(self, args: tuple[Any, ...], state: Any) -> Element:
        letter, size = _code(args)
        if not isinstance(state, tuple) or len(state) not in (8, 9) or type(state[0]) is not int or state[0] not in (3, 4):
            raise _Wrong("it is of an unknown form")
        _, order, subtype, names, fields, width, alignment, flags = state[:8]
        if order not in ("<", ">", "=", "|") or type(alignment) is not int or type(flags) is not int:
            raise _Wrong("it is of an unknown form")
        plain = subtype is None and names is None and fields is None
        if letter not in "SUV":
            if not plain or width != -1:
                raise _Wrong("a simple type has parts")
            if letter == "O" and flags != _OBJECT | _OBJECT_TOO:
                raise _Wrong("its flags are not those of its type")
            return _flagged(Element(size, letter == "O"), flags)
        if type(width) is not int or not 0 <= width < 1 << 31 or size not in (0, width) or (letter == "U" and width % 4):
            raise _Wrong("its size contradicts its name")
        if plain:
            return _flagged(Element(width, objects=False), flags)
        if letter != "V" or (subtype is not None and fields is not None):
            raise _Wrong("it has parts that do not go together")
        objects = self._subtype(subtype, width) if subtype is not None else self._fields(names, fields, width)
        return _flagged(Element(width, objects), flags)

    def _inner(self, made: Any) -> Element:
        inner = self.element(made)
        if inner is None or not made.is_of(DTYPE):
            raise _Wrong("a part of it is no complete numpy.dtype")
        return inner

    def _subtype(self, subtype: Any, width: int) -> bool:
        """Whether an array within an element holds objects."""
        if not isinstance(subtype, tuple) or len(subtype) != 2:
            raise _Wrong("its shape is none")
        shape = subtype[1] if isinstance(subtype[1], tuple) else (subtype[1],)
        inner = self._inner(subtype[0])
        fits = len(shape) <= 64 and all(type(each) is int and each >= 0 for each in shape)
        if not fits or inner.size * math.prod(shape) != width:
            raise _Wrong("its shape contradicts its size")
        return inner.objects

    def _fields(self, names: Any, fields: Any, width: int) -> bool:
        """Whether fields hold objects. They lie within the element, and no other shares the place of an object."""
        if not isinstance(fields, Box) or fields.kind != "dict" or not fields.whole or not isinstance(names, tuple):
            raise _Wrong("its fields are none")
        if not set(names) <= set(fields.entries):
            raise _Wrong("its fields are not those that it names")
        places: dict[tuple[int, int], tuple[int, int, bool]] = {}  # a field with a title stands there twice
        for field in fields.entries.values():
            if not isinstance(field, tuple) or len(field) not in (2, 3) or type(field[1]) is not int:
                raise _Wrong("a field is none")
            inner = self._inner(field[0])
            if not 0 <= field[1] <= width - inner.size:
                raise _Wrong("a field lies beyond its end")
            places[id(field[0]), field[1]] = field[1], field[1] + inner.size, inner.objects
        # From left to right: what an object reaches into, or what reaches into an object.
        furthest, furthest_object = 0, 0
        for start, end, objects in sorted(places.values()):
            if start < (furthest if objects else furthest_object):
                raise _Wrong("a field shares its place with an object")
            furthest = max(furthest, end)
            furthest_object = max(furthest_object, end) if objects else furthest_object
        return furthest_object > 0


def _code(args: tuple[Any, ...]) -> tuple[str, int]:
    """Return the letter of a type and its size, 0 where the state tells it. It is one of its own, for numpy's are shared."""
    if len(args) != 3 or type(args[2]) not in (bool, int) or not args[2]:
        raise _Wrong("it is no copy")
    if isinstance(args[0], Name) and (args[0].module, args[0].name) == ("numpy", "record"):
        return "V", 0
    found = _CODE.fullmatch(args[0]) if isinstance(args[0], str) else None
    if found is None:
        raise _Wrong("its type is unknown")
    letter, digits = found.groups()
    if letter in SIZES:
        size = int(digits or (1 if letter == "?" else 8))
        if size not in SIZES[letter]:
            raise _Wrong("its type is unknown")
        return letter, size
    letter = "S" if letter == "a" else letter
    return letter, int(digits or 0) * (4 if letter == "U" else 1)


def _may_be_array(cls: Any) -> bool:
    """Whether a class is one of numpy's arrays, or none of the shipped lists."""
    if not isinstance(cls, Name):
        return True
    return (cls.module, cls.name) in ARRAYS or not AllowList.shipped().has(cls.module, cls.name)


def _is_record(args: tuple[Any, ...]) -> bool:
    """Whether a scalar has fields, and stands in an array as numpy writes it: of just an object it would be that object."""
    code = args[0].args[0] if isinstance(args[0], Made) and args[0].args else None
    named = isinstance(code, str) and code.lstrip("<>=|").startswith("V")
    return (named or isinstance(code, Name)) and len(args) == 2 and isinstance(args[1], Made) and args[1].is_of(*ARRAYS)


def _has_memory_name(value: Any) -> bool:
    """Whether the bytes of a scalar are a text that names the address of an array: it would be a key like the text itself."""
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else value if isinstance(value, bytes) else b""
    text = raw.replace(b"\0", b"")
    return any(name in text for name in (b"__array_", b"__class__", b"__setstate__", b"__cuda_array"))


def _flagged(kind: Element, flags: int) -> Element:
    """Demand the flags that go with it."""
    if -128 <= flags < 0:
        flags &= 0xFF  # before numpy 2 they were a signed byte
    if kind.objects:
        right = flags & _OBJECT == _OBJECT and not flags & ~(_OBJECT | _OBJECT_TOO | _ALIGNED)
    else:
        right = not flags & ~(_PLAIN | _ALIGNED)
    if not right:
        raise _Wrong("its flags are not those of its type")
    return kind
