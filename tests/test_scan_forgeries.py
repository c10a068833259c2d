"""Names that every model uses, used otherwise: each of these makes memory of a file's bytes, or calls later what it may not."""

from __future__ import annotations

import io
import struct
import zipfile

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
NAMESPACE = name("argparse", "Namespace") + b")\x81"
WRAPPER = name("joblib.numpy_pickle", "NumpyArrayWrapper")
LARGE = dtype("V8") + b"q\x02" + state(b"}q\x01" + field("a", NUMBER), one("a"), 8, 16) + b"0"
FIELDS_BY_ANOTHER_NAME = (
    LARGE
    + name("torch.jit._pickle", "restore_type_tag")
    + b"(h\x01"
    + text("x")
    + b"tR"
    + field("a", POINTER)
    + b"0"
    + array(b"h\x02")
)
FIELDS_BY_A_SCALAR = LARGE + name("numpy._core.multiarray", "scalar") + b"(" + POINTER + b"h\x01tR" + field("a", POINTER)
WRAPPER_BY_A_SCALAR = name("numpy._core.multiarray", "scalar") + b"(" + POINTER + WRAPPER + b")\x81tR"
WRAPPER_BY_ITS_CLASS = name("sklearn.neighbors._ball_tree", "newObj") + b"(" + WRAPPER + b"tR"
STATE_IS_NO_DICTIONARY_OF_OTHERS = (
    b"}q\x01"
    + field("a", POINTER)
    + b"0"
    + NAMESPACE
    + b"h\x01b}"
    + field("a", NUMBER)
    + b"b0"
    + dtype("V8")
    + b"q\x02"
    + state(b"h\x01", one("a"), 8, 16)
    + b"0"
    + array(b"h\x02")
)
ADDRESS = b"}" + text("data") + b"(" + number(0x41414141) + b"\x89ts"
INTERFACE = (
    name("pandas._libs.sparse", "IntIndex")
    + b"("
    + number(1)
    + NAMESPACE
    + b"}"
    + text("__array_interface__")
    + ADDRESS
    + b"sbtR"
)
INTERFACE_OF_A_BUFFER = (
    name("torch.nn.modules.linear", "Identity")
    + b")\x81}"
    + text("_buffers")
    + b"}"
    + text("__array_interface__")
    + ADDRESS
    + b"ssb"
)
INTERFACE_OF_PAIRS = name("collections", "OrderedDict") + b"(]" + text("__array_interface__") + ADDRESS + b"\x86atR"
INTERFACE_BY_A_SCALAR = (
    name("numpy._core.multiarray", "scalar")
    + b"("
    + dtype("U19")
    + state(b"N", b"N", 76, 8, "<")
    + b"C\x4c"
    + "__array_interface__".encode("utf-32-le")
    + b"tR"
)
INTERFACE_OF_A_BUNCH = name("sklearn.utils._bunch", "Bunch") + b")\x81" + text("__array_interface__") + ADDRESS + b"s"
SET_STATE = NAMESPACE + b"}" + text("__setstate__") + name("builtins", "int") + b"sb" + text("1") + b"b"
APPEND = NAMESPACE + b"}" + text("append") + name("builtins", "int") + b"sb" + text("1") + b"a"
SET_ITEM = name("pandas", "DataFrame") + b")\x81" + name("builtins", "int") + b"Ns"
SCORER = name("sklearn.metrics._scorer", "_Scorer") + b")\x81}" + text("_response_method") + text("to_pickle") + b"sb"
STACK = (
    name("sklearn.ensemble._stacking", "StackingClassifier")
    + b")\x81}"
    + text("stack_method_")
    + b"]"
    + text("to_pickle")
    + b"asb"
)
PARTIAL_OF_AN_OBJECT = name("functools", "partial") + b"(" + name("numpy", "mean") + b"tR(" + NAMESPACE + b")}Ntb"
TABLE_OF_ANOTHER = name("pandas", "DataFrame") + b")\x81}" + text("_mgr") + NAMESPACE + b"sb"
BOOSTER_AT_AN_ADDRESS = name("lightgbm.basic", "Booster") + b")\x81}" + text("_handle") + number(65) + b"sb"
BOOSTER_OF_ANOTHER = name("lightgbm.basic", "Booster") + b")\x81" + NAMESPACE + b"b"
SLOT = name("pandas.core.indexes.base", "Index") + b")\x81N}" + text("name") + b"Ns\x86b"
TWICE = array(NUMBER) + b"(" + number(1) + b"(" + number(1) + b"t" + NUMBER + b"\x89" + RAW + b"tb"
VIEW_OF_AN_ARRAY = (
    name("numpy._core.numeric", "_frombuffer") + b"(" + array(NUMBER) + NUMBER + b"(" + number(1) + b"t" + text("C") + b"tR"
)
VIEW_TWICE = (
    name("numpy._core.numeric", "_frombuffer")
    + b"("
    + RAW
    + NUMBER
    + b"("
    + number(1)
    + b"t"
    + text("C")
    + b"tR("
    + number(1)
    + b"("
    + number(1)
    + b"t"
    + NUMBER
    + b"\x89"
    + RAW
    + b"tb"
)
ZONE = (
    name("pandas.core.indexes.datetimes", "_new_DatetimeIndex")
    + b"("
    + name("pandas", "DatetimeIndex")
    + b"}("
    + text("data")
    + b"]"
    + text("tz")
    + text("dateutil//etc/localtime")
    + b"utR"
)
ZONE_OF_A_TYPE = (
    name("pandas.core.indexes.base", "_new_Index")
    + b"("
    + name("pandas", "Index")
    + b"}("
    + text("data")
    + b"]"
    + text("dtype")
    + text("datetime64[ns, dateutil//etc/localtime]")
    + b"utR"
)
PARAMETER = name("torch._utils", "_rebuild_parameter_with_state") + b"(" + NAMESPACE + b"\x89N}" + text("__class__") + b"NstR"
ARRAY_OF_NO_ARRAYS_CLASS = (
    name("numpy.ma.core", "_mareconstruct")
    + b"("
    + name("argparse", "Namespace")
    + name("numpy", "ndarray")
    + b"("
    + number(0)
    + b"t"
    + text("b")
    + b"tR"
)
MAPPED = (
    WRAPPER
    + b")\x81}("
    + text("subclass")
    + name("numpy", "ndarray")
    + text("shape")
    + b"("
    + number(1)
    + b"t"
    + text("order")
    + text("C")
    + text("dtype")
    + POINTER
    + text("allow_mmap")
    + b"\x88ub\x80\x04"
    + array(POINTER, b"]Na")
    + b"."
)
WRAPPER_OF_ANOTHER = MAPPED.replace(b"\x88ub", b"\x89ub").replace(array(POINTER, b"]Na"), WRAPPER + b")\x81")
NOT_EMPTY = name("numpy._core.multiarray", "_reconstruct") + b"(" + name("numpy", "ndarray") + b"(" + number(9) + b"tC\x01dtR"


HELPERS = ("POINTER", "NUMBER", "RAW", "LOADER", "BOTH", "NAMESPACE", "WRAPPER", "LARGE", "ADDRESS")


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param(value, id=key.lower().replace("_", "-"))
        for key, value in list(globals().items())
        if key.isupper() and isinstance(value, bytes) and key not in HELPERS
    ],
)
def test_a_forged_use_of_allowed_names_is_unsafe(forged):
    body = b"\x80\x04" + forged + b"."
    scan = scan_view(Memory(body), AllowList.shipped())
    assert Fault.UNSAFE in {problem.fault for problem in scan.problems}


def test_an_array_of_objects_in_joblibs_way_is_allowed_when_it_is_not_mapped():
    scan = scan_view(Memory(b"\x80\x04" + MAPPED.replace(b"\x88ub", b"\x89ub") + b"."), AllowList.shipped())
    assert scan.problems == []


def test_a_shape_of_a_text_without_a_size_is_unscannable():
    # numpy takes the number for the size of the text: it reads ten bytes, where there seem to be none.
    header = b"{'descr': ('<S', 10), 'fortran_order': False, 'shape': (1,)}\n"
    scan = scan_view(Memory(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header), AllowList.shipped())
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]


@pytest.mark.parametrize("claimed", [5, 1 << 28])
def test_a_storage_of_torch_that_is_not_as_long_as_its_pickle_says_is_unscannable(claimed):
    storage = (
        b"(" + text("storage") + name("torch", "FloatStorage") + text("0") + text("cpu") + number(claimed) + b"tQ" + number(0)
    )
    tensor = (
        name("torch._utils", "_rebuild_tensor_v2") + b"(" + storage + b"))\x89" + name("collections", "OrderedDict") + b")RtR."
    )
    for size, problems in ((16, 1), (4 * claimed if claimed < 100 else 16, int(claimed >= 100))):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("m/data.pkl", b"\x80\x04" + tensor)
            archive.writestr("m/data/0", bytes(size))
            archive.writestr("m/version", b"3\n")
        assert len(scan_view(Memory(buffer.getvalue()), AllowList.shipped()).problems) == problems


def test_a_storage_of_torch_that_is_described_in_two_ways_is_unscannable():
    one_of = [
        b"(" + text("storage") + name("torch", kind) + text("0") + text("cpu") + number(4) + b"tQ"
        for kind in ("FloatStorage", "LongStorage")
    ]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x04(" + b"".join(one_of) + b"t.")
        archive.writestr("m/data/0", bytes(16))
    problems = scan_view(Memory(buffer.getvalue()), AllowList.shipped()).problems
    assert "two ways" in str(problems[0])


def test_a_reader_that_knows_nothing_of_joblib_is_followed_to_its_dtypes():
    body = DENIED
    state_of = b"}(" + text("subclass") + name("numpy", "ndarray") + text("shape") + b"(" + number(len(body)) + b"t"
    rest = text("order") + text("C") + text("dtype") + dtype("u1") + state(b"N", b"N", -1, 0) + b"ub"
    scan = scan_view(Memory(b"\x80\x04" + WRAPPER + b")\x81" + state_of + rest + body + b"."), AllowList.shipped())
    assert [problem.fault for problem in scan.problems] == [Fault.UNSAFE]


def bytes_of_joblib(shape: int) -> bytes:
    described = b"}(" + text("subclass") + name("numpy", "ndarray") + text("shape") + b"(" + number(shape) + b"t"
    return described + text("order") + text("C") + text("dtype") + dtype("u1") + state(b"N", b"N", -1, 0) + b"u"


def test_what_a_reader_that_knows_nothing_of_joblib_changes_is_changed_for_that_reader_alone():
    # The first array's bytes are opcodes to such a reader, by which the second array would hide the call.
    call = b"cposix\nsystem\n(" + text("true") + b"tR0"
    change = b"h\x05" + text("shape") + b"(" + number(5 + len(call)) + b"ts0"
    first = WRAPPER + b")\x81" + bytes_of_joblib(len(change)) + b"b" + change + b"0"
    second = WRAPPER + b")\x81h\x05b\xff\xff\xff\xff\xff" + call
    scan = scan_view(Memory(b"\x80\x04" + bytes_of_joblib(5) + b"q\x050" + first + second + b"."), AllowList.shipped())
    assert "refers to posix:system" in "".join(problem.why for problem in scan.problems)


def test_an_array_of_joblibs_that_is_described_twice_is_unsafe():
    body = WRAPPER + b")\x81q\x05" + bytes_of_joblib(1) + b"b\xff0h\x05" + bytes_of_joblib(2) + b"b\xff\xff"
    scan = scan_view(Memory(b"\x80\x04" + body + b"."), AllowList.shipped())
    assert "twice" in "".join(problem.why for problem in scan.problems)


def test_an_array_without_elements_before_others_is_no_problem():
    inner = dtype("i4") + state(b"N", b"N", -1, 0, "<")
    outer = dtype("V4") + state(b"}" + field("x", b"h\x07"), one("x"), 4, 16)
    body = b"(" + inner + b"q\x070" + WRAPPER + b")\x81" + bytes_of_joblib(0) + b"b" + outer + b"t"
    assert scan_view(Memory(b"\x80\x04" + body + b"."), AllowList.shipped()).problems == []


CALL = b"cposix\nsystem\n(S'true'\n"


@pytest.mark.parametrize(
    "text_file",
    [
        pytest.param(CALL + b"lR0", id="arguments in a list, by Python's own unpickler"),
        pytest.param(b"cposix\nsystem\nS'true'\nR0", id="arguments in a text, by Python's own unpickler"),
        pytest.param(b"cposix\nsystem\nS'" + b"x" * 9000 + b"'\nR0", id="arguments in a long text"),
        pytest.param(b"I0x" + b"0" * (1 << 19) + b"\n0" + CALL + b"tR0", id="a long number"),
        pytest.param(b"I010\n0" + CALL + b"tR0", id="a number of octal digits"),
        pytest.param(b"I1\np010\n0" + CALL + b"tR0", id="a place in the memo of decimal digits"),
        pytest.param(b"I1\n(e0" + CALL + b"tR0", id="no items for a number"),
        pytest.param(b"I1\n(u0" + CALL + b"tR0", id="no entries for a number"),
        pytest.param(b"I1\nNb0" + CALL + b"tR0", id="no state for a number"),
        pytest.param(
            b"cpandas._libs.tslibs.offsets\nDay\n(" + b"(" * 120 + b"t" * 120 + b"t0" + CALL + b"tR0", id="deep arguments"
        ),
        pytest.param(b"c_codecs\nencode\n(S'x'\nS'latin1'\ntRp0\n0ctorch.storage\n_load_from_bytes\n(g0\ntR0", id="torch"),
    ],
)
def test_a_text_that_a_reader_executes_before_it_finds_that_it_is_no_pickle_is_unsafe(text_file):
    scan = scan_view(Memory(text_file + b"\nand more\n"), AllowList.shipped(), name="notes.txt")
    assert Fault.UNSAFE in {problem.fault for problem in scan.problems}


@pytest.mark.parametrize("text_file", [b"I\nam a text\n", b"L\n", b"F 1\n", b"(e) is five\n", b"Now\n", b"I0 is\n"])
def test_a_text_that_no_reader_gets_far_with_is_no_problem(text_file):
    assert scan_view(Memory(text_file), AllowList.shipped(), name="notes.txt").problems == []


def test_a_text_with_an_array_of_joblibs_is_followed_by_readers_that_know_nothing_of_joblib():
    call = CALL + b"tR0"
    kind = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntb"
    described = b"(dS'subclass'\nNsS'shape'\n(I%d\ntsS'order'\nS'C'\nsS'dtype'\n" % len(call) + kind + b"s"
    body = b"(ijoblib.numpy_pickle\nNumpyArrayWrapper\n" + described.replace(b"\nNs", b"\ncnumpy\nndarray\ns") + b"b" + call
    scan = scan_view(Memory(body + b"\nand more\n"), AllowList.shipped(), name="notes.txt")
    assert "calls posix:system" in "".join(problem.why for problem in scan.problems)
