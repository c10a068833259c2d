"""ONNX models: operators, functions, external data, and the protobuf that they are written in."""

from __future__ import annotations

import pickle
import struct
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.onnx import is_onnx, look_onnx
from airflow_pipesec.scan.protobuf import Wire, message
from airflow_pipesec.scan.scanner import Fault, Part, Scan, Unscannable
from airflow_pipesec.scan.views import Memory
from tests.scan_wire import field, number, pair

SHIPPED = AllowList.shipped()


def node(operator: str, domain: str = "", *attributes: bytes) -> bytes:
    made = field(1, "x") + field(2, "y") + field(4, operator) + (field(7, domain) if domain else b"")
    return made + b"".join(field(5, each) for each in attributes)


def tensor(**external: str) -> bytes:
    made = field(1, 4) + field(2, 1) + field(8, "w")
    if not external:
        return made + field(9, bytes(16))
    return made + b"".join(field(13, pair(*each)) for each in external.items()) + field(14, 1)


def graph(*nodes: bytes, tensors: tuple[bytes, ...] = ()) -> bytes:
    return b"".join(field(1, each) for each in nodes) + field(2, "g") + b"".join(field(5, each) for each in tensors)


def model(made: bytes, *more: bytes, imports: tuple[str, ...] = ("",), version: int = 10) -> bytes:
    opsets = b"".join(field(8, field(1, each) + field(2, 18)) for each in imports)
    return field(1, version) + field(2, "by hand") + field(7, made) + opsets + b"".join(more)


def looked(data: bytes, *, siblings: tuple[str, ...] = (), depth: int = 0, allow: AllowList = SHIPPED) -> Scan:
    scan = Scan(allow, siblings=siblings)
    part = Part(Memory(data), scan, "", depth, "file:model.onnx")
    part.look(look_onnx)
    return scan


def faults(data: bytes, **how: object) -> list[Fault]:
    return [each.fault for each in looked(data, **how).problems]  # type: ignore[arg-type]


GOOD = model(graph(node("Gemm"), node("Relu"), tensors=(tensor(),)))


def test_a_model_of_standard_operators_has_no_problem() -> None:
    scan = looked(GOOD)
    assert scan.problems == []
    assert scan.formats == {"onnx": 1}
    assert scan.used == {Entry("onnx_domains", "", "ai.onnx:Gemm"): 1, Entry("onnx_domains", "", "ai.onnx:Relu"): 1}


def test_a_model_is_known_by_its_structure() -> None:
    assert is_onnx(Memory(GOOD))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is a text\n" * 20,
        pickle.dumps({"a": [1, 2, 3]}),
        pickle.dumps(list(range(50)), 0),
        field(1, 1) + field(2, field(2, field(1, field(1, "x") + field(2, "Const")))),
        bytes(range(256)) * 4,
        field(1, 10) + field(2, "nothing else"),
        field(1, 10) + field(7, field(2, "an empty graph")),
        GOOD + b"\0",
        GOOD[:-1],
    ],
    ids=["nothing", "text", "pickle", "old pickle", "SavedModel", "bytes", "no graph", "empty graph", "more behind", "cut off"],
)
def test_what_is_no_model_is_not_taken_for_one(data: bytes) -> None:
    assert not is_onnx(Memory(data))


def test_an_operator_of_a_library_is_unsafe_and_named() -> None:
    scan = looked(model(graph(node("Run", "my.ops"))))
    assert [str(each.fault) for each in scan.problems] == ["unsafe"]
    assert "my.ops:Run" in scan.problems[0].why
    assert scan.refused == {"my.ops:Run"}


def test_an_unknown_operator_of_the_standard_domain_is_unsafe() -> None:
    assert faults(model(graph(node("PyOp")))) == [Fault.UNSAFE]
    assert faults(model(graph(node("NotYetInvented", "ai.onnx")))) == [Fault.UNSAFE]


def test_a_domain_that_the_user_lists_as_a_whole_does_not_mean_operators_that_run_code() -> None:
    allow = SHIPPED.plus(AllowList(lists={"onnx_domains": frozenset({"my.ops"})}))
    assert faults(model(graph(node("Run", "my.ops")), imports=("", "my.ops")), allow=allow) == []
    assert faults(model(graph(node("PyOp", "my.ops")), imports=("", "my.ops")), allow=allow) == [Fault.UNSAFE]


def test_operators_of_onnx_runtime_are_fine_but_for_those_that_hold_programs() -> None:
    assert faults(model(graph(node("FusedMatMul", "com.microsoft")), imports=("", "com.microsoft"))) == []
    assert faults(model(graph(node("EPContext", "com.microsoft")), imports=("", "com.microsoft"))) == [Fault.UNSAFE]


def test_an_import_of_an_unknown_domain_is_unsafe() -> None:
    assert faults(model(graph(node("Relu")), imports=("", "ai.onnx.contrib"))) == [Fault.UNSAFE]


def test_a_function_of_the_model_may_be_called_and_is_looked_at() -> None:
    made = field(1, "Mine") + field(10, "my.functions")
    for inner, expected in ((node("Relu"), []), (node("Run", "my.ops"), [Fault.UNSAFE])):
        data = model(graph(node("Mine", "my.functions")), field(25, made + field(7, inner)), imports=("", "my.functions"))
        assert faults(data) == expected


def test_a_function_defined_twice_is_unscannable() -> None:
    made = field(25, field(1, "Mine") + field(10, "my.functions"))
    assert faults(model(graph(node("Relu")), made, made)) == [Fault.UNSCANNABLE]


@pytest.mark.parametrize("place", [6, 11])
def test_nodes_in_the_graphs_of_attributes_are_looked_at(place: int) -> None:
    inner = field(1, "then_branch") + field(place, graph(node("Run", "my.ops"))) + field(20, 5)
    assert faults(model(graph(node("If", "", inner)))) == [Fault.UNSAFE]


def test_training_information_is_looked_at() -> None:
    assert faults(model(graph(node("Relu")), field(20, field(2, graph(node("Run", "my.ops")))))) == [Fault.UNSAFE]


def test_a_tensor_in_a_file_beside_the_model_is_a_reference() -> None:
    scan = looked(
        model(graph(node("Relu"), tensors=(tensor(location="model.data", offset="0", length="16"),))),
        siblings=("model.onnx", "model.data"),
    )
    assert scan.problems == []
    assert scan.references == {"model.data"}


@pytest.mark.parametrize(
    "location",
    [
        "../../../etc/passwd",  # CVE-2022-25882
        "weights/../../secret",
        "..",
        "//etc/passwd",
        "/etc/passwd",
        "C:\\windows\\win.ini",
        "..\\secret",
        "C:secret",
        "a\0b",
        "https://example.com/weights",
        "~/.ssh/id_rsa",
        "*/_ORT_MEM_ADDR_/*",
    ],
)
def test_a_tensor_in_a_file_outside_the_folder_is_unsafe(location: str) -> None:
    scan = looked(model(graph(node("Relu"), tensors=(tensor(location=location),))), siblings=(location,))
    assert [each.fault for each in scan.problems] == [Fault.UNSAFE]
    assert scan.references == set()


def test_cve_2024_27318_a_path_that_leads_out_behind_a_harmless_beginning_is_unsafe() -> None:
    location = "./weights/./../../outside"
    assert faults(model(graph(node("Relu"), tensors=(tensor(location=location),))), siblings=(location,)) == [Fault.UNSAFE]


def test_cve_2024_5187_the_archive_of_a_model_that_unpacks_outside_of_its_folder_is_unsafe() -> None:
    import io
    import tarfile

    tars = pytest.importorskip("airflow_pipesec.scan.tars")
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        member = tarfile.TarInfo("../../model.onnx")
        member.size = len(GOOD)
        archive.addfile(member, io.BytesIO(GOOD))
    scan = Scan(SHIPPED)
    Part(Memory(made.getvalue()), scan).look(tars.look_tar)
    assert Fault.UNSAFE in [each.fault for each in scan.problems]


@pytest.mark.parametrize(
    "external",
    [
        {"location": "gone.data"},
        {"location": "./here.data"},
        {"location": "model.onnx"},
        {"location": "model.pb"},
        {"location": "weights.PKL"},
        {"offset": "0"},
        {"location": "here.data", "offset": "-1"},
        {"location": "here.data", "length": "1e9"},
        {"location": "here.data", "length": "²"},
        {"location": "here.data", "basepath": "/etc"},
        {"location": "here.data", "__class__": "x"},
    ],
    ids=str,
)
def test_a_tensor_whose_file_cannot_be_told_is_unscannable(external: dict[str, str]) -> None:
    data = model(graph(node("Relu"), tensors=(tensor(**external),)))
    assert faults(data, siblings=("here.data", "model.onnx", "./here.data", "model.pb", "weights.PKL")) == [Fault.UNSCANNABLE]


def test_a_model_that_holds_the_graph_of_a_savedmodel_is_unscannable() -> None:
    saved = field(2, field(1, field(1, "x") + field(2, "WriteFile")))
    data = field(1, 10) + field(2, saved) + field(7, graph(node("Relu"))) + field(8, field(1, "") + field(2, 18))
    assert faults(data) == [Fault.UNSCANNABLE]


def test_a_tensor_in_another_file_is_unscannable_where_the_model_lies_in_an_archive() -> None:
    data = model(graph(node("Relu"), tensors=(tensor(location="here.data"),)))
    assert faults(data, siblings=("here.data",), depth=1) == [Fault.UNSCANNABLE]


def test_a_tensor_that_is_in_the_model_and_elsewhere_is_unscannable() -> None:
    both = tensor(location="here.data") + field(9, bytes(16))
    neither_said = tensor() + field(13, pair("location", "here.data"))
    for each in (both, neither_said):
        assert faults(model(graph(node("Relu"), tensors=(each,))), siblings=("here.data",)) == [Fault.UNSCANNABLE]


def test_external_tensors_of_attributes_and_sparse_tensors_are_looked_at() -> None:
    bad = tensor(location="/etc/passwd")
    for data in (
        model(graph(node("Constant", "", field(1, "value") + field(5, bad)))),
        model(graph(node("Constant", "", field(1, "value") + field(22, field(1, bad))))),
        model(graph(node("Relu")) + field(15, field(2, bad))),
    ):
        assert faults(data) == [Fault.UNSAFE]


def test_a_newer_version_is_unscannable() -> None:
    assert faults(model(graph(node("Relu")), version=15)) == [Fault.UNSCANNABLE]


def test_a_field_that_comes_twice_or_is_not_known_is_unscannable() -> None:
    assert faults(GOOD + field(7, graph(node("Relu")))) == [Fault.UNSCANNABLE]
    assert faults(GOOD + field(99, 1)) == [Fault.UNSCANNABLE]


def test_graphs_nested_too_deep_are_unscannable() -> None:
    made = graph(node("Relu"))
    for _ in range(60):
        made = graph(node("If", "", field(1, "then_branch") + field(6, made)))
    assert faults(model(made)) == [Fault.UNSCANNABLE]


class _Counting:
    """A view of zeros between two given ends, which counts what is read of it."""

    def __init__(self, before: bytes, zeros: int, after: bytes) -> None:
        self.before, self.zeros, self.after = before, zeros, after
        self.size = len(before) + zeros + len(after)
        self.count = 0

    def read_at(self, offset: int, length: int) -> bytes:
        length = max(0, min(length, self.size - offset))
        self.count += length
        behind = len(self.before) + self.zeros
        data = self.before[offset : offset + length]
        data += bytes(max(0, min(offset + length, behind) - offset - len(data)))
        after = max(0, offset - behind)
        return data + self.after[after : after + length - len(data)]


def test_a_large_tensor_is_not_read() -> None:
    zeros = 2_000_000_000
    weights = field(1, zeros) + field(2, 3) + number(9 << 3 | 2) + number(zeros)
    made = field(1, node("Relu")) + number(5 << 3 | 2) + number(len(weights) + zeros) + weights
    rest = field(8, field(2, 18))
    whole = number(7 << 3 | 2) + number(len(made) + zeros) + made
    view = _Counting(field(1, 10) + whole, zeros, rest)
    assert is_onnx(view)
    scan = Scan(SHIPPED)
    Part(view, scan).look(look_onnx)
    assert scan.problems == []
    assert view.count < 1 << 20


@pytest.mark.parametrize(
    "each", [number(7 << 3 | 5) + struct.pack("<f", 1.5), number(8 << 3) + number(300)], ids=["floats", "ints"]
)
def test_many_numbers_that_are_not_packed_are_passed_over_at_once(each: bytes) -> None:
    # Trees are written so: a tag before each of millions of numbers.
    data = model(
        graph(node("TreeEnsembleRegressor", "ai.onnx.ml", field(1, "nodes_values") + each * 500_000)), imports=("ai.onnx.ml",)
    )
    start = time.perf_counter()
    assert faults(data) == []
    assert time.perf_counter() - start < 1


TABLE = message(ints="1", data="2", many_ints="3", many_f32="4", many_f64="5")


def fields(data: bytes) -> list[int]:
    return [each.number for each in Wire(Memory(data)).fields(0, len(data), TABLE, "a message")]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x80\x00",  # a number longer than it needs to be
        b"\x88\x00\x01",  # and so a tag
        b"\x08" + b"\xff" * 10 + b"\x01",
        b"\x08" + b"\xff" * 9 + b"\x02",
        b"\x08",
        b"\x0b\x0c",  # a group
        b"\x0f\x01",  # a wire type that there is none of
        b"\x00\x01",  # the field 0
        b"\x12\x05abc",
        b"\x25\x00\x00",
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x0d\x00\x00\x00\x00",  # another type
        b"\x08\x01\x08\x01",
        b"\x18\x01\x18\x80\x00",  # a bad number in a run of good ones
        b"\x18\x01\x18",
    ],
)
def test_what_is_no_strict_protobuf_is_refused(data: bytes) -> None:
    with pytest.raises(Unscannable):
        fields(data)


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1), st.lists(st.binary(min_size=4, max_size=4)), st.binary())
def test_what_is_written_is_read(numbers: list[int], fixed: list[bytes], data: bytes) -> None:
    made = b"".join(field(3, each) for each in numbers) + field(2, data) + b"".join(b"\x25" + each for each in fixed)
    assert fields(made + field(1, 7)) == [3, 2, *([4] if fixed else []), 1]


@given(st.data())
def test_a_model_that_is_changed_or_cut_off_raises_nothing(data: st.DataObject) -> None:
    made = bytearray(GOOD + field(25, field(1, "F") + field(7, node("If", "", field(6, graph(node("Add"))))) + field(10, "f")))
    for _ in range(data.draw(st.integers(0, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(made[: data.draw(st.integers(0, len(made)))])
    is_onnx(Memory(cut))
    assert all("cannot be parsed" not in each.why for each in looked(cut).problems)
