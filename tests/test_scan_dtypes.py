"""A pickled dtype is what numpy writes: otherwise an array takes bytes of the file for pointers to objects."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.dtypes import Dtypes, Element
from airflow_pipesec.scan.scanner import Part, Scan
from airflow_pipesec.scan.values import Box, Made, Name
from airflow_pipesec.scan.views import Memory

OBJECT = (3, "|", None, None, None, -1, -1, 63)
NUMBER = (3, "<", None, None, None, -1, -1, 0)


def dtype(code: Any) -> Made:
    return Made(Name("numpy", "dtype", ("call",)), (code, False, True))


def box(entries: dict[str, Any]) -> Box:
    made = Box("dict")
    for key, value in entries.items():
        made.set(key, value)
    return made


def complete(known: Dtypes, code: str, state: Any) -> Made:
    made = dtype(code)
    assert known.wrong_state(made, state) == ""
    return made


def fields(known: Dtypes, width: int, flags: int, **places: tuple[Made, int]) -> str:
    return known.wrong_state(dtype(f"V{width}"), (3, "|", None, tuple(places), box(places), width, 1, flags))


def of(known: Dtypes, kind: Any) -> Made:
    """Give what numpy says of a dtype to the one who judges it, the inner ones first."""
    (code, *rest), state = kind.__reduce__()[1:]
    made = Made(Name("numpy", "dtype", ("call",)), (code if isinstance(code, str) else Name("numpy", "record", ()), *rest))
    version, order, subtype, names, parts, *others = state
    if subtype is not None:
        subtype = (of(known, subtype[0]), subtype[1])
    if parts is not None:
        same: dict[int, Made] = {}
        parts = box({name: (same.setdefault(id(part[0]), of(known, part[0])), *part[1:]) for name, part in parts.items()})
    assert known.wrong_state(made, (version, order, subtype, names, parts, *others)) == ""
    return made


@st.composite
def structured(draw: Any, depth: int = 2) -> Any:
    """Make types of fields within fields, with gaps, shapes and titles."""
    simple = st.sampled_from([np.dtype(code) for code in ("i1", ">f8", "O", "U3", "S2", "V5", "M8[s]", "?")])
    inner = st.one_of(simple, structured(depth - 1)) if depth else simple
    kinds = draw(st.lists(inner, min_size=1, max_size=4))
    shapes = draw(st.lists(st.sampled_from([(), (2,), (1, 3)]), min_size=len(kinds), max_size=len(kinds)))
    fields = [(f"f{place}", kind, shape) for place, (kind, shape) in enumerate(zip(kinds, shapes, strict=True))]
    return np.dtype(fields, align=draw(st.booleans()))


@pytest.mark.parametrize(
    "kind",
    [
        *(np.dtype(code) for code in np.typecodes["All"]),
        np.dtype(">f8"),
        np.dtype("U5"),
        np.dtype("M8[ns]"),
        np.dtype("f8", metadata={"a": 1}),
        np.dtype([("a", "i4"), ("b", "f8", (2,)), ("c", [("d", "U3")])]),
        np.dtype([("a", "i1"), ("b", "f8")], align=True),
        np.dtype([(("title", "a"), "i1"), ("b", "O")]),
        np.dtype([("a", "O"), ("b", "i4")], align=True),
        np.dtype([("a", [("b", "O")], (2,))]),
        np.dtype({"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 2]}),
        np.rec.array([(1, None)], dtype=[("a", "i4"), ("b", "O")]).dtype,
    ],
    ids=str,
)
def test_what_numpy_writes_of_a_dtype_is_right(kind):
    known = Dtypes()
    made = of(known, kind)
    assert known.element(made) == Element(kind.itemsize, kind.hasobject)


@given(structured())
@settings(max_examples=60, deadline=None)
def test_whatever_structure_numpy_writes_is_right(kind):
    known = Dtypes()
    made = of(known, kind)
    assert known.element(made) == Element(kind.itemsize, kind.hasobject)


def test_objects_that_a_state_denies_are_wrong():
    assert "flags" in Dtypes().wrong_state(dtype("O8"), (*OBJECT[:7], 0))


def test_numbers_that_a_state_calls_objects_are_wrong():
    assert "flags" in Dtypes().wrong_state(dtype("i8"), (*NUMBER[:7], 63))


def test_a_field_of_objects_that_the_whole_denies_is_wrong():
    known = Dtypes()
    assert "flags" in fields(known, 8, 16, a=(complete(known, "O8", OBJECT), 0))


def test_a_number_in_the_place_of_an_object_is_wrong():
    known = Dtypes()
    pointer, number = complete(known, "O8", OBJECT), complete(known, "i8", NUMBER)
    assert "shares" in fields(known, 12, 27, a=(pointer, 0), b=(number, 4))
    assert "shares" in fields(known, 12, 27, a=(number, 0), b=(pointer, 4))
    assert "shares" in fields(known, 16, 27, a=(pointer, 0), b=(complete(known, "i8", NUMBER), 8), c=(number, 7))
    assert fields(known, 16, 27, a=(pointer, 0), b=(number, 8)) == ""


def test_numbers_may_share_their_place():
    known = Dtypes()
    assert fields(known, 8, 16, a=(complete(known, "i8", NUMBER), 0), b=(complete(known, "i4", NUMBER), 4)) == ""


def test_a_field_beyond_the_end_is_wrong():
    known = Dtypes()
    assert "beyond" in fields(known, 8, 16, a=(complete(known, "i8", NUMBER), 1))


def test_a_dtype_gets_its_state_once():
    known = Dtypes()
    assert "twice" in known.wrong_state(complete(known, "i8", NUMBER), NUMBER)


def test_a_dtype_that_is_used_before_it_is_complete_is_wrong():
    known = Dtypes()
    assert "complete" in fields(known, 8, 16, a=(dtype("V8"), 0))
    assert "complete" in known.wrong_array(Made(None), (1, (1,), dtype("V8"), False, b"12345678"))


def test_a_dtype_that_all_share_is_wrong():
    made = Made(Name("numpy", "dtype", ("call",)), ("i8", False, False))
    assert "copy" in Dtypes().wrong_state(made, NUMBER)


def test_flags_are_a_signed_byte_to_numpy_before_2():
    known = Dtypes()
    number = complete(known, "i8", NUMBER)
    assert fields(known, 8, -112, a=(number, 0)) == ""
    assert "flags" in fields(known, 8, -1, a=(number, 0))


def test_the_dictionary_of_fields_is_sealed():
    known = Dtypes()
    places = box({"a": (complete(known, "i8", NUMBER), 0)})
    assert known.wrong_state(dtype("V8"), (3, "|", None, ("a",), places, 8, 1, 16)) == ""
    assert id(places) in known.sealed


def test_an_array_of_objects_takes_a_list_and_no_bytes():
    known = Dtypes()
    pointer, number = complete(known, "O8", OBJECT), complete(known, "i8", NUMBER)
    assert "elements" in known.wrong_array(Made(None), (1, (1,), pointer, False, b"12345678"))
    assert "elements" in known.wrong_array(Made(None), (1, (1,), number, False, Box("list")))
    assert known.wrong_array(Made(None), (1, (1,), pointer, False, Box("list"))) == ""
    assert known.wrong_array(Made(None), (1, (1,), number, False, b"12345678")) == ""


class Forged:
    """Pickled as the call of a function, and the state that its result gets."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def __reduce__(self) -> Any:
        return self.parts


def test_a_pickle_with_a_forged_dtype_is_unsafe():
    from airflow_pipesec.scan.pickles import look_pickle

    pointer = Forged(np.dtype, ("O8", False, True), (*OBJECT[:7], 0))
    array = Forged(np._core.multiarray._reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), pointer, False, b"AAAAAAAA"))
    scan = Scan(AllowList.shipped())
    Part(Memory(pickle.dumps(array)), scan).look(look_pickle)
    assert scan.problems
