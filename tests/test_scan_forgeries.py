"""Names that every model uses, used otherwise: each of these makes memory of a file's bytes, or calls later what it may not."""

from __future__ import annotations

import struct

import pytest

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, scan_view
from airflow_pipesec.scan.views import Memory


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def dtype(code: str) -> bytes:
    return name("numpy", "dtype") + b"(" + text(code) + b"\x89\x88tR"


def state(fields: bytes, names: bytes, width: int, flags: int, order: str = "|") -> bytes:
    return (
        b"("
        + number(3)
        + text(order)
        + b"N"
        + names
        + fields
        + number(width)
        + number(-1 if width < 0 else 1)
        + number(flags)
        + b"tb"
    )


def field(key: str, kind: bytes, place: int = 0) -> bytes:
    return text(key) + b"(" + kind + number(place) + b"ts"


POINTER = dtype("O8") + state(b"N", b"N", -1, 63)
NUMBER = dtype("i8") + state(b"N", b"N", -1, 0, "<")
RAW = b"C\x08" + struct.pack("<q", 0x4141414141)


def array(kind: bytes, data: bytes = RAW) -> bytes:
    made = name("numpy._core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + b"(" + number(0) + b"tC\x01btR"
    return made + b"(" + number(1) + b"(" + number(1) + b"t" + kind + b"\x89" + data + b"tb"


def one(key: str) -> bytes:
    return b"(" + text(key) + b"t"


BOTH = dtype("V8") + state(b"}" + field("a", POINTER) + field("b", NUMBER), b"(" + text("a") + text("b") + b"t", 8, 27)
OVERLAPPING = array(BOTH, b"]((N" + number(65) + b"te")
FIELDS_LATER = (
    dtype("V8")
    + b"q\x02"
    + state(b"}q\x01" + field("a", NUMBER), one("a"), 8, 16)
    + b"0h\x01"
    + field("a", POINTER)
    + b"0"
    + array(b"h\x02")
)
INNER_LATER = (
    dtype("V8")
    + b"q\x050"
    + dtype("V8")
    + b"q\x06"
    + state(b"}" + field("a", b"h\x05"), one("a"), 8, 16)
    + b"0h\x05"
    + state(b"}" + field("x", POINTER), one("x"), 8, 27)
    + b"0"
    + array(b"h\x06")
)
DENIED = array(dtype("O8") + state(b"N", b"N", -1, 0))
NEW_ARRAY = name("numpy", "ndarray") + b"((" + number(1) + b"t" + POINTER + RAW + b"t\x81"
NEW_ARRAY_BY_KEYWORDS = (
    name("numpy", "ndarray") + b"((" + number(1) + b"tt}" + text("dtype") + POINTER + b"s" + text("buffer") + RAW + b"s\x92"
)
NEW_STORAGE = name("torch", "UntypedStorage") + b"(" + number(8) + b"t}" + text("allocator") + number(0x41414141) + b"s\x92"
NEW_BY_COPYREG = (
    name("copyreg", "__newobj_ex__")
    + b"("
    + name("torch", "UntypedStorage")
    + b"("
    + number(8)
    + b"t}"
    + text("allocator")
    + number(65)
    + b"stR"
)
INDEX_OF_STORAGE = (
    name("pandas.core.indexes.datetimes", "_new_DatetimeIndex")
    + b"("
    + name("torch", "UntypedStorage")
    + b"}"
    + text("allocator")
    + number(65)
    + b"stR"
)
LOADER = name("torch.storage", "_load_from_bytes")
PARTIAL = name("functools", "partial") + b"(" + name("numpy", "mean") + b"tR(" + LOADER + b"(" + RAW + b"t}Ntb"
TRANSFORMER = (
    name("sklearn.preprocessing._function_transformer", "FunctionTransformer") + b")\x81}" + text("func") + LOADER + b"sb"
)
HOOK = name("torch.nn.modules.linear", "Identity") + b")\x81}" + text("forward") + LOADER + b"sb"
HOOK_IN_TUPLE = name("torch.nn.modules.linear", "Identity") + b")\x81}" + text("forward") + b"(" + LOADER + b"tsb"
ARRAY_AS_FUNCTION = (
    name("sklearn.preprocessing._function_transformer", "FunctionTransformer")
    + b")\x81}"
    + text("func")
    + name("numpy", "ndarray")
    + b"sb"
)
FACTORY = name("collections", "defaultdict") + b"(" + LOADER + b"tR"
LISTED = b"](" + LOADER + b"e"


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(value, id=key.lower().replace("_", "-"))
        for key, value in list(globals().items())
        if key.isupper() and isinstance(value, bytes) and key not in ("POINTER", "NUMBER", "RAW", "LOADER", "BOTH")
    ],
)
def test_a_forged_use_of_allowed_names_is_unsafe(forged):
    body = b"\x80\x04" + forged + b"."
    scan = scan_view(Memory(body), AllowList.shipped())
    assert Fault.UNSAFE in {problem.fault for problem in scan.problems}
