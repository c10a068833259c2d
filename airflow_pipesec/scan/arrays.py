"""Arrays: numpy's files and the arrays within joblib's, whose numbers are skipped, and whose objects are pickles.

The formats are those of ``numpy.lib.format`` (NEP 1) and of ``joblib.numpy_pickle``. Only types are taken that have one size to
every reader: what is skipped here has to be just what a loader skips, or it would come upon other opcodes.
"""

from __future__ import annotations

import ast
import math
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.values import Box, Made, Name

if TYPE_CHECKING:
    from airflow_pipesec.scan.machine import Machine
    from airflow_pipesec.scan.scanner import Part

__all__ = ["Kind", "build_dtype", "look_npy", "skip_array"]

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1 << 20
MOST_FIELDS = 10_000
DEEPEST = 32
MOST = 1 << 62
_TYPE = re.compile(r"[<>=|]?([biufcSaUVmMO])(\d{0,9})(\[\d{0,9}(?:as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y|generic)(?:/\d{1,9})?\])?")
_HAS_OBJECTS = 0x03  # NPY_ITEM_REFCOUNT, NPY_LIST_PICKLE
_IS_OBJECT = 0x07  # and NPY_ITEM_IS_POINTER
_OBJECT_FLAGS = 0x07
_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8, 12, 16), "c": (8, 16, 24, 32), "m": (8,), "M": (8,)}


class Kind(NamedTuple):
    """Of a dtype: the bytes of one element, and whether it holds objects, which are pickled."""

    size: int
    objects: bool


def _kind(text: Any) -> Kind:
    """Return what a type string such as ``<f8`` says."""
    found = _TYPE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Unscannable("holds an array of a type that is not read here")
    letter, digits, unit = found.groups()
    if letter == "O":
        if digits not in ("", "4", "8"):
            raise Unscannable("holds an array of a type that is not read here")
        return Kind(8, True)
    if unit and letter not in "mM":
        raise Unscannable("holds an array of a type that is not read here")
    size = int(digits or 0)
    if letter in _SIZES:
        if size not in _SIZES[letter]:
            raise Unscannable("holds an array of a type that is not read here")
        return Kind(size, False)
    return Kind(size * 4 if letter == "U" else size, False)


def _count(shape: Any) -> int:
    """Return how many elements a shape has."""
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(each) is int and 0 <= each < MOST for each in shape):
        raise Unscannable("holds an array whose shape is none")
    count = math.prod(shape)
    if count >= MOST:
        raise Unscannable("holds an array that is larger than can be")
    return count


def _described(descr: Any, depth: int = 0) -> Kind:
    """Return what the ``descr`` of a numpy file's header says: a type string, a pair with a shape, or a list of fields."""
    if depth > DEEPEST:
        raise Unscannable("holds an array whose type is nested too deep")
    if isinstance(descr, tuple) and len(descr) == 2:
        inner = _described(descr[0], depth + 1)
        return Kind(inner.size * _count(descr[1] if isinstance(descr[1], tuple) else (descr[1],)), inner.objects)
    if not isinstance(descr, list):
        return _kind(descr)
    if len(descr) > MOST_FIELDS:
        raise Unscannable(f"holds an array of more than {MOST_FIELDS:,} fields")
    size, objects = 0, False
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise Unscannable("holds an array of a type that is not read here")
        inner = _described((field[1], field[2]) if len(field) == 3 else field[1], depth + 1)
        size, objects = size + inner.size, objects or inner.objects
    return Kind(size, objects)


def look_npy(part: Part) -> None:
    """Look at a file of numpy arrays, one after the other; those of objects are pickles."""
    from airflow_pipesec.scan import pickles

    part.saw("npy")
    place = 0
    while place < part.size:
        if part.view.read_at(place, 6) != MAGIC:
            raise Unscannable(f"goes on for {part.size - place:,} bytes after its array", place)
        major = part.read(place + 6, 2)[0]
        if major not in (1, 2, 3):
            raise Unscannable("is of a version of numpy's format that is not read here", place + 6)
        width = 2 if major == 1 else 4
        length = int.from_bytes(part.read(place + 8, width), "little")
        if length > LONGEST_HEADER:
            raise Unscannable(f"has a header of more than {LONGEST_HEADER:,} bytes", place)
        raw = part.read(place + 8 + width, length)
        kind, count = _header(raw.decode("utf-8" if major == 3 else "latin-1"), place)
        place += 8 + width + length
        if kind.objects:
            machine = pickles.follow(part, place)
            if machine.result is pickles.BROKEN:
                return
            place = machine.place
        elif kind.size * count > part.size - place:
            raise Unscannable("ends before its array does", part.size)
        else:
            place += kind.size * count


def _header(text: str, place: int) -> tuple[Kind, int]:
    try:
        header = ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        # Python 2 wrote numbers as 3L.
        try:
            header = ast.literal_eval(re.sub(r"\b(\d+)L\b", r"\1", text.strip()))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            raise Unscannable("has a header that cannot be read", place) from None
    if not isinstance(header, dict) or set(header) != {"descr", "fortran_order", "shape"}:
        raise Unscannable("has a header that is none of numpy's", place)
    return _described(header["descr"]), _count(header["shape"])


def _of_dtype(made: Any, depth: int = 0) -> Kind:
    """Return what a pickled ``numpy.dtype`` is, from its arguments and its state, as ``dtype.__setstate__`` takes them."""
    if not isinstance(made, Made) or not made.is_of(("numpy", "dtype")) or not made.args or depth > DEEPEST:
        raise Unscannable("holds an array of a type that is not read here")
    kind = _kind(made.args[0])
    state = made.state
    if state is None:
        return kind
    if not isinstance(state, tuple) or len(state) not in (8, 9) or state[0] not in (3, 4):
        raise Unscannable("holds an array of a type that is not read here")
    _, _, subtype, names, fields, size, _, flags = state[:8]
    if type(flags) is not int or not 0 <= flags < 256:
        raise Unscannable("holds an array of a type that is not read here")
    extended = str(made.args[0]).lstrip("<>=|")[:1] in ("S", "a", "U", "V")
    if not extended:
        if subtype is not None or names is not None or fields is not None or size != -1:
            raise Unscannable("holds an array of a type that is not read here")
        _demand_flags(flags, _IS_OBJECT if kind.objects else 0)
        return kind
    if type(size) is not int or not 0 <= size < 1 << 31 or (kind.size not in (0, size)):
        raise Unscannable("holds an array of a type that contradicts itself")
    objects = False
    if subtype is not None:
        if not isinstance(subtype, tuple) or len(subtype) != 2:
            raise Unscannable("holds an array of a type that is not read here")
        inner = _of_dtype(subtype[0], depth + 1)
        if inner.size * _count(subtype[1] if isinstance(subtype[1], tuple) else (subtype[1],)) != size:
            raise Unscannable("holds an array of a type that contradicts itself")
        objects = inner.objects
    if fields is not None:
        if not isinstance(fields, Box) or fields.kind != "dict" or not fields.whole or not isinstance(names, tuple):
            raise Unscannable("holds an array of a type that is not read here")
        for field in fields.entries.values():
            if not isinstance(field, tuple) or len(field) not in (2, 3) or type(field[1]) is not int:
                raise Unscannable("holds an array of a type that is not read here")
            inner = _of_dtype(field[0], depth + 1)
            if not 0 <= field[1] <= size - inner.size:
                raise Unscannable("holds an array of a type that contradicts itself")
            objects = objects or inner.objects
    _demand_flags(flags, _HAS_OBJECTS if objects else 0)
    return Kind(size, objects)


def _demand_flags(flags: int, wanted: int) -> None:
    """Raise unless a type's flags say of objects what is true of it: numpy goes by them when it takes bytes for pointers."""
    if flags & _OBJECT_FLAGS & ~(_IS_OBJECT ^ _HAS_OBJECTS) != wanted & ~(_IS_OBJECT ^ _HAS_OBJECTS):
        raise Unscannable("holds an array of a type that contradicts itself")
    if wanted == _IS_OBJECT and flags & _OBJECT_FLAGS != _IS_OBJECT:
        raise Unscannable("holds an array of a type that contradicts itself")


def build_dtype(machine: Machine, made: Made, offset: int) -> None:
    """Tell of a ``numpy.dtype`` that is given another state than numpy writes, or at another time.

    An array goes on using its type: who turns bytes into objects afterwards makes pointers of numbers. numpy gives a type its state
    before anything else is made.
    """
    try:
        _of_dtype(made)
    except Unscannable:
        machine.caller.tell("gives numpy:dtype a state that numpy does not write", offset)
        return
    if made.born != machine.caller.made or made.args[1:] not in (
        (False, True),
        (0, 1),
        (False, 1),
        (True, True),
        (1, 1),
        (True, 1),
    ):
        machine.caller.tell("gives numpy:dtype a state when it may be in use already", offset)


def skip_array(machine: Machine, wrapper: Made) -> None:
    """Go past the array whose wrapper of joblib's has just got its state: past its numbers, or through the pickle of its objects.

    A reader that knows nothing of joblib reads on as if there were opcodes; that way is followed as well.
    """
    from airflow_pipesec.scan import pickles
    from airflow_pipesec.scan.machine import NO_FRAME, Refused

    part, start = machine.part, machine.place
    if machine.frame_end not in (NO_FRAME, start):
        raise Refused("has an array of joblib's within a frame, where readers disagree", start)
    machine.frame_end = NO_FRAME
    state = wrapper.state
    if not machine.shadow:
        other = machine.fork()
        pickles.run_shadow(other)
    if not isinstance(state, Box) or state.kind != "dict" or not state.whole:
        raise Unscannable("holds an array of joblib's whose description is not read here", start)
    entries = state.entries
    subclass, order = entries.get("subclass"), entries.get("order")
    if not isinstance(subclass, Name) or order not in ("C", "F"):
        raise Unscannable("holds an array of joblib's whose description is not read here", start)
    kind, count = _of_dtype(entries.get("dtype")), _count(entries.get("shape"))
    if kind.objects:
        inner = pickles.follow(part, start)
        if inner.result is pickles.BROKEN:
            raise Unscannable("holds an array of objects that cannot be followed to its end", start)
        machine.storages.update(inner.storages)
        machine.place = inner.place
    else:
        place = start
        if (alignment := entries.get("numpy_array_alignment_bytes")) is not None:
            if type(alignment) is not int or not 1 <= alignment <= 255:
                raise Unscannable("holds an array of joblib's whose description is not read here", start)
            place += 1 + part.read(start, 1)[0]
        if kind.size == 0 or kind.size * count > part.size - place:
            raise Unscannable("ends before an array does", start)
        machine.place = place + kind.size * count
    machine.stack[-1] = Made(subclass)
