"""Arrays: numpy's files and the arrays within joblib's, whose numbers are skipped, and whose objects are pickles.

The formats are those of ``numpy.lib.format`` (NEP 1) and of ``joblib.numpy_pickle``. Only types are taken that have one size to
every reader: what is skipped here has to be just what a loader skips, or it would come upon other opcodes.
"""

from __future__ import annotations

import ast
import math
import re
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.dtypes import ARRAYS, FINISHED, SIZES, Element
from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.values import Box, Made, Name

if TYPE_CHECKING:
    from airflow_pipesec.scan.machine import Machine
    from airflow_pipesec.scan.scanner import Part

__all__ = ["look_npy", "skip_array"]

MAGIC = b"\x93NUMPY"
LONGEST_HEADER = 1 << 20
MOST_FIELDS = 10_000
DEEPEST = 32
MOST = 1 << 62
_TYPE = re.compile(r"[<>=|]?([biufcSaUVmMO])(\d{0,9})(\[\d{0,9}(?:as|fs|ps|ns|us|ms|s|m|h|D|W|M|Y|generic)(?:/\d{1,9})?\])?")


def _kind(text: Any) -> Element:
    """Return what a type string such as ``<f8`` says."""
    found = _TYPE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise Unscannable("holds an array of a type that is not read here")
    letter, digits, unit = found.groups()
    if letter == "O":
        if digits not in ("", "4", "8"):
            raise Unscannable("holds an array of a type that is not read here")
        return Element(8, True)
    if unit and letter not in "mM":
        raise Unscannable("holds an array of a type that is not read here")
    size = int(digits or 0)
    if letter in SIZES:
        if size not in SIZES[letter]:
            raise Unscannable("holds an array of a type that is not read here")
        return Element(size, False)
    return Element(size * 4 if letter == "U" else size, False)


def _count(shape: Any) -> int:
    """Return how many elements a shape has."""
    if not isinstance(shape, tuple) or len(shape) > 64 or not all(type(each) is int and 0 <= each < MOST for each in shape):
        raise Unscannable("holds an array whose shape is none")
    count = math.prod(shape)
    if count >= MOST:
        raise Unscannable("holds an array that is larger than can be")
    return count


def _described(descr: Any, depth: int = 0) -> Element:
    """Return what the ``descr`` of a numpy file's header says: a type string, a pair with a shape, or a list of fields."""
    if depth > DEEPEST:
        raise Unscannable("holds an array whose type is nested too deep")
    if isinstance(descr, tuple) and len(descr) == 2:
        inner = _described(descr[0], depth + 1)
        if not inner.size:
            # numpy takes a number beside a type without a size for that size, and not for a shape.
            raise Unscannable("holds an array of a type that is not read here")
        return Element(inner.size * _count(descr[1] if isinstance(descr[1], tuple) else (descr[1],)), inner.objects)
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
    return Element(size, objects)


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


def _header(text: str, place: int) -> tuple[Element, int]:
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
    other = machine.fork()
    try:
        pickles.run_shadow(other)
    finally:
        for undo in reversed(other.undone or ()):
            undo()
    if not isinstance(state, Box) or state.kind != "dict" or not state.whole:
        raise Unscannable("holds an array of joblib's whose description is not read here", start)
    entries = state.entries
    subclass, order = entries.get("subclass"), entries.get("order")
    if not isinstance(subclass, Name) or order not in ("C", "F"):
        raise Unscannable("holds an array of joblib's whose description is not read here", start)
    kind, count = machine.caller.dtypes.element(entries.get("dtype")), _count(entries.get("shape"))
    if kind is None:
        raise Unscannable("holds an array of joblib's whose type is no complete numpy.dtype", start)
    if kind.objects:
        if entries.get("allow_mmap", False) is not False:
            raise Refused("has an array of joblib's that takes bytes of the file for objects where the file is mapped", start)
        inner = pickles.follow(part, start)
        if inner.result is pickles.BROKEN:
            raise Unscannable("holds an array of objects that cannot be followed to its end", start)
        if not isinstance(inner.result, Made) or not inner.result.is_of(*ARRAYS):
            raise Refused("has another object where joblib writes an array of objects", start)
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
    machine.stack[-1] = made = Made(subclass)
    made.state = FINISHED
