"""Pickles are followed as their readers follow them, and nothing in them is done."""

import io
import pickle
import pickletools
import struct
import sys
from collections import OrderedDict
from contextlib import suppress

import joblib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.pickles import is_pickle, look_pickle, shadow
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan
from airflow_pipesec.scan.views import Memory, Section

NOTHING = AllowList()
SMALL = AllowList.load(
    {
        "shipped": False,
        "new": {"collections": ["OrderedDict"], "numpy": ["dtype"], "joblib.numpy_pickle": ["NumpyArrayWrapper"]},
        "call": {
            "_codecs": {"encode": ["str", "=latin1"]},
            "builtins": {"bytes": [], "set": ["list?"], "complex": ["float", "float"]},
            "collections": {"OrderedDict": ["list?"]},
            "numpy": {"dtype": ["str", "bool", "bool"]},
            "numpy._core.multiarray": {"_reconstruct": ["name", "tuple", "bytes"], "scalar": ["made", "bytes"]},
            "numpy._core.numeric": {"_frombuffer": ["bytes", "made", "tuple", "str"]},
        },
        "name": {"numpy": ["ndarray"]},
    }
)
CALL = b"cos\nsystem\n(S'true'\ntR"


class Gadget:
    """What a pickle of it would do is to print; nobody unpickles it here."""

    def __reduce__(self):
        return print, ("hello",)


def scanned(data, allow=SMALL, look=look_pickle, limits=None):
    scan = Scan(allow, limits)
    Part(Memory(data), scan).look(look)
    return scan


def whys(scan, fault=None):
    return [problem.why for problem in scan.problems if fault in (None, problem.fault)]


def framed(body, length=None):
    """A pickle of protocol 4 with one frame around a body."""
    return b"\x80\x04\x95" + struct.pack("<Q", len(body) if length is None else length) + body


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(), inner)
        | st.sets(st.integers())
        | st.lists(inner).map(lambda items: OrderedDict(enumerate(items)))
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(plain, st.sampled_from(range(6)))
def test_plain_data_of_any_protocol_has_no_problem(value, protocol):
    data = pickle.dumps(value, protocol)
    assert whys(scanned(data)) == []
    assert is_pickle(Memory(data))


@pytest.mark.parametrize("protocol", range(6))
def test_long_constants_and_many_items_have_no_problem(protocol):
    value = [b"\x00" * 300_000, "é" * 200_000, list(range(3000)), 10**400, {str(n): n for n in range(2000)}, "x" * 70_000]
    scan = scanned(pickle.dumps(value, protocol))
    assert whys(scan) == []


class Inert:
    """What a name stands for that is looked up: it does nothing."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __setstate__(self, state):
        pass


def looked_up(data):
    """What the real unpicklers, C's and Python's, look up in some bytes; C's makes room for as large a memo as it is told to."""
    found = []
    for real in (pickle._Unpickler, pickle.Unpickler):

        class Recording(real):
            def find_class(self, module, name):
                found.append((module, name))
                return type("Inert", (Inert,), {})

        if real is pickle._Unpickler or not (b"r" in data or b"p" in data):
            with suppress(Exception):  # mutated bytes: whatever it raises, what counts is what it looked up before
                Recording(io.BytesIO(data)).load()
    return found


SEEDS = [pickle.dumps([Gadget(), {"a": 1.5, "b": "text", "c": b"bytes"}, (1, 2), {3}], protocol) for protocol in range(6)]
SEEDS += [pickle.dumps(OrderedDict(a=np.arange(3), b=[np.float64(1)]), protocol) for protocol in range(6)]


@st.composite
def mutated(draw):
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(data) - 1)) if data else 0
        match draw(st.integers(0, 4)):
            case 0:
                data[place : place + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                del data[place : place + draw(st.integers(1, 8))]
            case 2:
                data[place:place] = draw(st.binary(max_size=6))
            case 3:
                data[place:place] = draw(st.sampled_from(OPCODES)) * draw(st.integers(1, 3))
            case 4:
                other = draw(st.integers(0, len(data)))
                data[place:place] = data[other : other + draw(st.integers(1, 20))]
    return bytes(data)


OPCODES = [code.code.encode("latin-1") for code in pickletools.opcodes]


@settings(max_examples=400, deadline=None)
@given(mutated())
@example(b"\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x09builtins\x94\x8c\x05print\x94\x93\x94)R.")
def test_what_a_real_unpickler_would_look_up_is_never_missed(data):
    found = looked_up(data)
    scan = scanned(data)
    for module, name in found:
        assert SMALL.has(module, name) or scan.problems, (module, name)
    # Where it is taken for something else, what would be called is told all the same.
    if not SMALL.rights("builtins", "print") and ("builtins", "print") in found:
        assert scan.totals[Fault.UNSAFE]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | mutated())
def test_no_bytes_raise_and_nothing_is_imported(data):
    before = set(sys.modules)
    scanned(data)
    scanned(data, look=shadow)
    is_pickle(Memory(data))
    assert {name for name in set(sys.modules) - before if not name.startswith("airflow_pipesec.")} == set()


@pytest.mark.parametrize("protocol", range(6))
def test_a_name_that_is_not_allowed_is_unsafe(protocol):
    scan = scanned(pickle.dumps(Gadget(), protocol))
    assert whys(scan) == ["refers to builtins:print, which is not on the allow-list"]
    assert scan.refused == {"builtins:print"}
    assert scan.problems[0].fault is Fault.UNSAFE
    assert scan.problems[0].offset is not None


def test_names_of_python_2_are_those_that_the_unpickler_maps_them_to():
    assert whys(scanned(b"\x80\x02c__builtin__\nset\n]\x85R.")) == []
    assert "builtins:eval" in whys(scanned(b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R."))[0]
    assert "__builtin__:set" in whys(scanned(b"\x80\x03c__builtin__\nset\n]\x85R."))[0]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x80\x04\x8c\x02os\x94\x8c\x06systemq\x05\x30h\x00h\x05\x93)R.", "os:system"),
        (b"\x80\x02(cos\nsystem\nX\x01\x00\x00\x00ao.", "os:system"),
        (b"(X\x01\x00\x00\x00aios\nsystem\n.", "os:system"),
        (b"\x80\x02cos\nsystem\n)\x81.", "os:system"),
        (b"\x80\x04cos\nsystem\n)}\x92.", "os:system"),
        (b"\x80\x04\x8c\x06os.sysX\x04\x00\x00\x00tem\x8b\x93)R.", ""),
        (b"\x80\x04\x8c\x00\x8c\x06system\x93)R.", ":system"),
        (b"\x80\x04K\x01\x8c\x06system\x93)R.", "works out"),
        (b"\x80\x02\x82\x01)R.", "registry"),
        (b"\x80\x02\x83\x01\x00)R.", "registry"),
        (b"\x80\x02\x84\x01\x00\x00\x00)R.", "registry"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "other arguments"),
        (b"\x80\x02cnumpy\nndarray\n)R.", "does not let it"),
        (b"\x80\x02cnumpy\nndarray\n)\x81.", "does not let it"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x07\x00\x00\x00popitemK\x01sb.", "itself"),
        (b"\x80\x02ccollections\nOrderedDict\nX\x01\x00\x00\x00aK\x01s.", "itself"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81N}X\x09\x00\x00\x00__class__K\x01s\x86b.", "underscores"),
        (b"\x80\x02ccollections\nOrderedDict\n)R)R.", "no name"),
        (b"\x80\x02\x07.", "unknown (0x07)"),
    ],
)
def test_what_gets_at_a_name_by_another_way_is_unsafe(data, why):
    assert any(why in text for text in whys(scanned(data), Fault.UNSAFE)) or (not why and scanned(data).problems)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (framed(b"\x8c\x08builtins\x8c\x05print\x93)R.", 5), "crosses the end of its frame"),
        (framed(b"\x95\x01" + bytes(7) + b"N."), "a frame within a frame"),
        (framed(b"N.N"), "stops within a frame"),
        (framed(b"N.", 1000), "longer than the file"),
    ],
)
def test_frames_on_which_readers_disagree_are_unsafe(data, why):
    assert why in whys(scanned(data), Fault.UNSAFE)[0]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04",
        b"\x80\x04N",
        b"\x80\x04h\x05.",
        b"\x80\x04\x85.",
        b"\x80\x04t.",
        b"\x80\x06N.",
        b"\x80\x04\x8c\x05ab.",
        b"\x80\x04B\xff\xff\xff\xff.",
        b"\x80\x04\x8e" + b"\xff" * 8 + b".",
        b"\x80\x04\x8c\x02\xff\xfe.",
        b"\x80\x04N.trailing",
        b"\x80\x02Pkey\n.",
        b"\x80\x02Nb.",
        b"I12x\n.",
        b"\x80\x05\x97.",
        b"cos\nsystem",
    ],
)
def test_what_no_reader_could_read_is_unscannable(data):
    scan = scanned(data)
    assert whys(scan, Fault.UNSCANNABLE)
    assert not scan.totals[Fault.UNSAFE]


def test_every_stream_of_a_file_is_followed():
    assert whys(scanned(pickle.dumps(1) + pickle.dumps([2]) + pickle.dumps("3", 0))) == []
    assert "builtins:print" in whys(scanned(pickle.dumps(1) + pickle.dumps(2, 0) + pickle.dumps(Gadget())))[0]


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_within_bytes_is_followed(protocol):
    scan = scanned(pickle.dumps({"later": pickle.dumps(Gadget())}, protocol))
    assert [problem.why for problem in scan.problems] == ["refers to builtins:print, which is not on the allow-list"]
    assert scan.problems[0].part.startswith("bytes ")
    assert whys(scanned(pickle.dumps({"later": pickle.dumps([1])}, protocol))) == []


def test_a_pickle_within_long_bytes_is_followed_where_it_lies():
    inner = pickle.dumps(["x" * 5000, Gadget()])
    for protocol in (2, 4):
        assert "builtins:print" in str(whys(scanned(pickle.dumps([inner], protocol))))


def test_bytes_that_only_begin_like_a_pickle_are_bytes():
    assert whys(scanned(pickle.dumps(b"\x80\x04" + bytes(range(256)) * 8))) == []


@pytest.mark.parametrize("array", [np.arange(6).reshape(2, 3), np.array(["a", "bc"]), np.zeros(3, dtype="i4,f8"), np.zeros(0)])
def test_arrays_of_joblib_are_skipped_to_their_last_byte(array):
    for value in ([array], [array, "x", array.T]):
        file = io.BytesIO()
        joblib.dump(value, file)
        assert whys(scanned(file.getvalue())) == []


def wrapped(array, payload=b""):
    file = io.BytesIO()
    joblib.dump([array], file)
    data = file.getvalue()
    return data.replace(array.tobytes(), payload.ljust(array.nbytes, b"."), 1) if payload else data


def test_a_payload_in_an_arrays_bytes_is_found_where_pickle_load_would_execute_it():
    data = wrapped(np.full(100, 7, dtype="u1"))
    # joblib's padding: a length and that many bytes 0xff, which are no opcodes; without it, the array begins at once.
    place = data.index(bytes([7] * 100))
    start = data.rindex(b"b", 0, place) + 1
    key = b"\x8c\x1bnumpy_array_alignment_bytes\x94K\x10"
    assert key in data
    bare = (
        data[:start].replace(key, b"\x8c\x1bnumpy_array_alignment_bytes\x94N")
        + (CALL + b"0").ljust(100, b".")
        + data[place + 100 :]
    )
    length = struct.unpack("<Q", bare[3:11])[0]
    bare = bare[:3] + struct.pack("<Q", length - 1) + bare[11:]
    assert any("os:system" in text for text in whys(scanned(bare), Fault.UNSAFE)), whys(scanned(bare))


def test_an_array_of_objects_within_joblib_is_followed():
    file = io.BytesIO()
    joblib.dump([np.array([Gadget()], dtype=object)], file)
    assert any("builtins:print" in text for text in whys(scanned(file.getvalue())))


@pytest.mark.parametrize("start", [b"", b"I1\n0", b"(lp0\n0"])
def test_a_shadow_tells_of_what_would_be_executed_before_the_rest_is_none(start):
    scan = scanned(start + CALL + b"this is no pickle", look=shadow)
    assert whys(scan) == ["read as a pickle, calls os:system, which is not on the allow-list"]


@pytest.mark.parametrize(
    "text", [b"city\nlondon\nparis\n", b"count,name\n1,a\n", b"N.", b"{}", b"I like it.\nAnd that.\n", b"(a)\n"]
)
def test_a_shadow_lets_text_be(text):
    assert whys(scanned(text * 50, look=shadow)) == []
    assert not is_pickle(Memory(text * 50))


def test_opcodes_and_the_memo_are_bounded():
    data = b"\x80\x04" + b"N0" * 100_000 + b"N."
    assert "opcodes" in whys(scanned(data, limits=Limits(opcodes=50_000)))[0]
    data = b"\x80\x04" + b"]\x94" * 100_000 + b"."
    assert "remembers" in whys(scanned(data, limits=Limits(memo=50_000)))[0]
    assert "opcodes" in whys(scanned(b"I1\n0" * 200_000, look=shadow))[0]


def test_data_that_is_nested_very_deep_is_judged_without_recursion():
    assert whys(scanned(b"\x80\x04" + b"]" * 50_000 + b"a" * 49_999 + b".")) == []
    assert whys(scanned(b"\x80\x04N" + b"\x85" * 50_000 + b".")) == []


def test_what_is_used_of_the_allow_list_is_noted():
    scan = scanned(pickle.dumps(np.arange(3)))
    assert {str(entry) for entry in scan.used} >= {"numpy:dtype", "numpy._core.multiarray:_reconstruct"} or scan.used
    assert all(entry.right in ("new", "call", "name") for entry in scan.used)


def test_only_the_stretch_that_is_looked_at_is_read():
    data = b"junk" + pickle.dumps([1, 2]) + b"junk"
    scan = Scan(SMALL)
    Part(Section(Memory(data), 4, len(data) - 8), scan).look(look_pickle)
    assert whys(scan) == []


@pytest.mark.parametrize(
    "dtype",
    [
        "f8",
        "O",
        "U5",
        "S3",
        "V5",
        "M8[ns]",
        "m8[s]",
        "b1",
        "f4,O",
        [("a", [("b", "O")])],
        [("a", "U3")],
        ("O", (2,)),
        ("f4", (2,)),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_the_types_of_numpy_have_the_states_that_numpy_writes(dtype, protocol):
    made = np.dtype(dtype)
    assert whys(scanned(pickle.dumps([made, np.zeros(2, made), made], protocol))) == []
    assert whys(scanned(pickle.dumps(np.dtype("i1,f8", align=True), protocol))) == []


@pytest.mark.parametrize(
    "state",
    [
        b"K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00",  # an object that is no pointer
        b"K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x3b",
        b"K\x03\x8c\x01|NNNK\x08K\x08K\x3f",
        b"K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffN",
    ],
)
def test_a_type_of_numpy_with_a_false_state_is_unsafe(state):
    data = b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R(" + state + b"tb."
    assert any(
        text.startswith("gives a numpy.dtype a state that numpy does not write: ") for text in whys(scanned(data), Fault.UNSAFE)
    )
    good = (
        b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb."
    )
    assert whys(scanned(good)) == []


def test_a_type_of_numpy_that_gets_its_state_when_an_array_uses_it_is_unsafe():
    made = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02V8\x89\x88\x87R"
    plain_state = b"(K\x03\x8c\x01|NNNK\x08K\x01K\x00t"
    inner = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    object_state = b"(K\x03\x8c\x01|N\x8c\x01a\x85}\x8c\x01a" + inner + b"K\x00\x86sK\x08K\x01K\x1bt"
    array = b"\x8c\x13numpy._core.numeric\x8c\x0b_frombuffer\x93(C\x0812345678h\x05K\x01\x85\x8c\x01CtR0"
    assert whys(scanned(b"\x80\x04" + made + object_state + b"b.")) == []
    for data in (
        b"\x80\x04" + made + b"q\x05" + array + object_state + b"b.",
        b"\x80\x04" + made + b"q\x05" + plain_state + b"b" + array + object_state + b"b.",
        b"\x80\x04" + made + plain_state + b"b" + object_state + b"b.",
    ):
        told = whys(scanned(data), Fault.UNSAFE)
        assert any("its state twice" in text or "no complete numpy.dtype" in text for text in told), told


def test_the_fields_of_a_type_stay_as_they_are_when_it_is_complete():
    kind = b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02%b\x89\x88\x87R"
    number = kind % b"i8" + b"(K\x03\x8c\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    an_object = kind % b"O8" + b"(K\x03\x8c\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK?tb"
    made = kind % b"V8" + b"(K\x03\x8c\x01|N\x8c\x01a\x85}q\x07\x8c\x01a" + number + b"K\x00\x86sK\x08K\x01K\x10tb"
    assert whys(scanned(b"\x80\x04" + made + b".")) == []
    data = b"\x80\x04" + made + b"h\x07\x8c\x01a" + an_object + b"K\x00\x86s0."
    assert whys(scanned(data), Fault.UNSAFE) == ["changes the fields of a numpy.dtype that is complete"]


def test_a_type_that_dill_names_is_looked_up_as_what_it_is():
    def problems(name):
        data = b"\x80\x04\x8c\x0adill._dill\x8c\x0a_load_type\x93\x8c" + bytes([len(name)]) + name.encode() + b"\x85R"
        return whys(scanned(data + b"NK\x02N\x87R.", AllowList.shipped()), Fault.UNSAFE)

    assert problems("slice") == []
    for name in ("CodeType", "FunctionType", "eval", "getattr", "super"):
        assert problems(name) == [f"refers to builtins:{name}, which is not on the allow-list"]


def test_work_that_one_opcode_makes_counts_as_well():
    many = b"(" + b"N" * 2000 + b"t\x94"  # a tuple, in place 0 of the memo
    for again in (b"h\x00a", b"h\x00c_codecs\nencode\nh\x00R00"):
        data = b"\x80\x04" + many + b"0]" + again * 5000 + b"."
        assert any("steps" in text for text in whys(scanned(data, limits=Limits(opcodes=1_000_000))))


@pytest.mark.parametrize("opcodes", [b"}%bNs", b"\x8f(%b\x90", b"(%b\x91"])
def test_a_key_that_no_reader_can_hash_is_unscannable(opcodes):
    doubled = b"N" + b"2\x86" * 60
    nested = b"N" + b"\x85" * 5000
    for key in (doubled, nested):
        assert "hashed" in str(whys(scanned(b"\x80\x04" + opcodes % key + b".")))
    assert whys(scanned(b"\x80\x04" + opcodes % (b"N" + b"\x85" * 50) + b".")) == []
