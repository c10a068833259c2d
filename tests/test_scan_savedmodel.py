"""SavedModels: operators, functions, the saver, assets, Keras objects, and the files beside them."""

from __future__ import annotations

import json
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.onnx import is_onnx
from airflow_pipesec.scan.savedmodel import is_savedmodel, look_savedmodel
from airflow_pipesec.scan.savedmodel_files import COMPANIONS, companion
from airflow_pipesec.scan.scanner import Part, Scan
from airflow_pipesec.scan.views import Memory
from tests.scan_wire import field, pair

SHIPPED = AllowList.shipped()


def value(what: bytes | str | dict[str, bytes]) -> bytes:
    """Return an attribute's value: a text, a function's name (as text that begins with @), or a constant."""
    if isinstance(what, str) and what.startswith("@"):
        return field(10, field(1, what[1:]))
    if isinstance(what, str):
        return field(8, field(1, 7) + field(8, what))
    assert isinstance(what, bytes)
    return field(2, what)


def node(name: str, op: str, *inputs: str, **attributes: bytes | str) -> bytes:
    made = field(1, name) + field(2, op) + b"".join(field(3, each) for each in inputs)
    return made + b"".join(field(5, pair(key, value(each))) for key, each in attributes.items())


def function(name: str, arguments: tuple[str, ...], *nodes: bytes) -> bytes:
    signature = field(1, name) + b"".join(field(2, field(1, each) + field(3, 7)) for each in arguments)
    return field(1, signature) + b"".join(field(3, each) for each in nodes)


def graph(*nodes: bytes, functions: tuple[bytes, ...] = (), library: bytes = b"") -> bytes:
    made = b"".join(field(1, each) for each in functions) + library
    return b"".join(field(1, each) for each in nodes) + (field(2, made) if made else b"")


def model(made: bytes, *more: bytes, saver: str = "") -> bytes:
    meta = field(1, field(4, "serve")) + field(2, made) + b"".join(more)
    if saver:
        meta += field(3, field(1, saver) + field(7, 2))
    return field(1, 1) + field(2, meta)


def looked(data: bytes) -> Scan:
    scan = Scan(SHIPPED)
    Part(Memory(data), scan, "", 0, "file:saved_model.pb").look(look_savedmodel)
    assert not [each for each in scan.problems if "cannot be parsed" in each.why], scan.problems
    return scan


def faults(data: bytes) -> list[str]:
    return [str(each.fault) for each in looked(data).problems]


# What TensorFlow 2 builds to save and to restore variables.
SAVE = function(
    "save",
    ("file_prefix", "value"),
    node("match", "StaticRegexFullMatch", "file_prefix", pattern=b"^s3://.*"),
    node("part", "Const", value=".part"),
    node("temp", "Const", value="_temp/part"),
    node("select", "Select", "match:output:0", "part:output:0", "temp:output:0"),
    node("join", "StringJoin", "file_prefix", "select:output:0"),
    node("shard", "ShardedFilename", "join:output:0", "n:output:0", "n:output:0"),
    node("SaveV2", "SaveV2", "shard:filename:0", "names:output:0", "slices:output:0", "value"),
    node("prefixes", "Pack", "shard:filename:0", "^SaveV2"),
    node("merge", "MergeV2Checkpoints", "prefixes:output:0", "file_prefix"),
)
RESTORE = function(
    "restore", ("file_prefix",), node("RestoreV2", "RestoreV2", "file_prefix", "names:output:0", "slices:output:0")
)
CALLS = (
    node("saver_filename", "Placeholder"),
    node("call_1", "StatefulPartitionedCall", "saver_filename", "v", f="@save"),
    node("call_2", "StatefulPartitionedCall", "saver_filename", f="@restore"),
)
GOOD = model(
    graph(node("x", "Placeholder"), node("y", "Relu", "x"), node("v", "VarHandleOp"), *CALLS, functions=(SAVE, RESTORE)),
    saver="saver_filename:0",
)


def test_a_model_with_its_own_saver_has_no_problem() -> None:
    scan = looked(GOOD)
    assert scan.problems == []
    assert scan.formats == {"savedmodel": 1}
    assert scan.used[Entry("tensorflow_ops", "", "Relu")] == 1


def test_a_model_is_known_by_its_structure() -> None:
    assert is_savedmodel(Memory(GOOD))
    assert not is_onnx(Memory(GOOD))


@pytest.mark.parametrize(
    "data",
    [b"", b"text\n" * 50, pickle.dumps([1, 2]), GOOD[:-1], GOOD + b"\0", field(1, 1), field(1, 1) + field(2, field(1, b""))],
)
def test_what_is_no_model_is_not_taken_for_one(data: bytes) -> None:
    assert not is_savedmodel(Memory(data))


@pytest.mark.parametrize(
    "op",
    [
        "ReadFile",
        "WriteFile",
        "MatchingFiles",
        "PyFunc",
        "EagerPyFunc",
        "TFRecordReaderV2",
        "TextLineDataset",
        "CacheDatasetV2",
        "Save",
        "RestoreSlice",
        "RemoteCall",
        "DebugIdentityV2",
        "DatasetFromGraph",
        "XlaCustomCallV2",
        "ImmutableConst",
        "FixedUnigramCandidateSampler",
        "DecodeProtoV2",
        "RpcCall",
        "CreateSummaryFileWriter",
        "MyOwnOp",
        "LoadAndRemapMatrix",
    ],
)
def test_an_operator_that_is_not_on_the_list_is_unsafe_wherever_it_is(op: str) -> None:
    bad = node("bad", op, "x")
    inner = function("f", ("x",), bad)
    for made in (
        graph(bad),
        graph(functions=(inner,)),
        graph(node("call", "PartitionedCall", "x", f=f"@{op}")),
        graph(node("if", "If", "x", then_branch="@f", else_branch=f"@{op}"), functions=(function("f", ()),)),
    ):
        scan = looked(model(made))
        assert [str(each.fault) for each in scan.problems] == ["unsafe"]
        assert scan.refused == {op}


def test_functions_in_lists_and_within_names_of_functions_are_judged() -> None:
    nested = field(10, field(1, "f") + field(2, pair("g", value("@WriteFile"))))
    listed = field(1, field(9, field(1, "WriteFile")))
    for each in (nested, listed):
        call = field(1, "call") + field(2, "Case") + field(5, pair("branches", each))
        assert faults(model(graph(call, functions=(function("f", ()),)))) == ["unsafe"]


def test_gradients_are_judged() -> None:
    assert faults(model(graph(library=field(2, field(1, "f") + field(2, "WriteFile")), functions=(function("f", ()),)))) == [
        "unsafe"
    ]
    assert faults(model(graph(library=field(3, field(1, "PyFunc") + field(2, "AnyType"))))) == ["unsafe"]


def test_every_meta_graph_is_looked_at() -> None:
    second = field(2, field(2, graph(node("bad", "WriteFile"))))
    assert faults(GOOD + second) == ["unsafe"]


def test_a_function_that_is_called_like_an_operator_is_unscannable() -> None:
    assert faults(model(graph(functions=(function("Relu", ()),)))) == ["unscannable"]
    assert faults(model(graph(functions=(function("f", ()), function("f", ()))))) == ["unscannable"]


def test_the_saver_of_tensorflow_1_has_no_problem() -> None:
    made = graph(
        node("default", "Const", value="model"),
        node("save/filename", "PlaceholderWithDefault", "default"),
        node("save/Const", "PlaceholderWithDefault", "save/filename"),
        node("suffix", "Const", value="_temp_0123456789abcdef0123456789abcdef/part"),
        node("join", "StringJoin", "save/Const", "suffix", separator=b""),
        node("shard", "ShardedFilename", "join", "n", "n"),
        node("SaveV2", "SaveV2", "shard", "names", "slices", "w"),
        node("RestoreV2", "RestoreV2", "save/Const", "names", "slices"),
    )
    assert faults(model(made, saver="save/Const:0")) == []


@pytest.mark.parametrize(
    "nodes",
    [
        (node("c", "Const", value="/etc/passwd"), node("r", "RestoreV2", "c", "n", "s")),
        (node("x", "Placeholder"), node("r", "RestoreV2", "x", "n", "s")),
        (node("saver_filename", "Const", value="/home/user/.bashrc"), node("s", "SaveV2", "saver_filename", "n", "s", "v")),
        (
            *CALLS[:1],
            node("c", "Const", value="/../../x"),
            node("j", "StringJoin", "saver_filename", "c"),
            node("r", "RestoreV2", "j", "n", "s"),
        ),
        (
            *CALLS[:1],
            node("c", "Const", value=".part"),
            node("j", "StringJoin", "saver_filename", "c", separator=b"/../x/"),
            node("r", "RestoreV2", "j", "n", "s"),
        ),
        (*CALLS[:1], node("j", "StringJoin", "c", "saver_filename"), node("r", "RestoreV2", "j", "n", "s")),
        (*CALLS[:1], node("m", "MergeV2Checkpoints", "saver_filename", "elsewhere")),
        (
            *CALLS[:1],
            node("c", "Const", value="x"),
            node("m", "Pack", "saver_filename", "c"),
            node("r", "MergeV2Checkpoints", "m", "saver_filename"),
        ),
        (node("a", "Identity", "b"), node("b", "Identity", "a"), node("r", "RestoreV2", "a", "n", "s")),
        (node("r", "RestoreV2", "^saver_filename"),),
        (node("t", "InitializeTableFromTextFileV2", "h", "c"), node("c", "Const", value="/etc/passwd")),
    ],
)
def test_an_operator_on_a_file_whose_name_the_loader_did_not_give_is_unsafe(nodes: tuple[bytes, ...]) -> None:
    assert faults(model(graph(*nodes), saver="saver_filename:0")) == ["unsafe"]


@pytest.mark.parametrize(
    "call",
    [
        node("bad", "StatefulPartitionedCall", "c", f="@restore"),
        node("bad", "restore", "c"),
        node("bad", "MapDataset", "saver_filename", f="@restore"),
        node("bad", "StatefulPartitionedCall", f="@restore"),
    ],
)
def test_a_saver_that_is_called_with_another_name_as_well_is_unsafe(call: bytes) -> None:
    made = graph(*CALLS, call, node("c", "Const", value="/etc/passwd"), functions=(SAVE, RESTORE))
    assert faults(model(made, saver="saver_filename:0")) == ["unsafe"]


def test_a_saver_that_nobody_calls_is_unsafe() -> None:
    assert faults(model(graph(functions=(RESTORE,)), saver="saver_filename:0")) == ["unsafe"]


def test_a_saver_whose_file_name_is_an_input_of_the_model_is_unsafe() -> None:
    signature = field(5, pair("serving_default", field(1, pair("x", field(1, "saver_filename:0")))))
    made = graph(*CALLS, functions=(SAVE, RESTORE))
    assert faults(model(made, signature, saver="saver_filename:0")) == ["unsafe"] * 3


def objects(*nodes: bytes, functions: dict[str, list[int]] | None = None) -> bytes:
    made = b"".join(field(1, each) for each in nodes)
    for name, captures in (functions or {}).items():
        made += field(2, pair(name, field(2, bytes(captures))))
    return field(7, made)


def test_a_saver_that_a_program_can_call_with_a_constant_is_unsafe() -> None:
    made = graph(*CALLS, functions=(SAVE, RESTORE))
    for each in (
        objects(field(9, field(1, "c")), functions={"restore": [0]}),
        objects(field(8, field(1, "restore"))),
        objects(field(6, field(1, "restore"))),
    ):
        assert faults(model(made, each, saver="saver_filename:0")) == ["unsafe"]


TABLE = function("init", ("path", "table"), node("t", "InitializeTableFromTextFileV2", "table", "path"))


def asset(filename: str) -> bytes:
    return field(6, field(1, field(1, "asset:0")) + field(2, filename))


def table(*extra: bytes) -> bytes:
    return graph(
        node("asset", "Placeholder"),
        node("variable", "VarHandleOp"),
        node("assign", "AssignVariableOp", "variable", "asset"),
        node("read", "ReadVariableOp", "variable"),
        node("call", "StatefulPartitionedCall", "read", "h", f="@init"),
        *extra,
        functions=(TABLE,),
    )


def test_a_table_from_an_asset_has_no_problem() -> None:
    bound = objects(field(5, b""), field(10, b""), functions={"init": [0, 1]})
    assert faults(model(table(), asset("vocab.txt"), bound)) == []
    assert (
        faults(
            model(
                graph(node("asset", "Const", value="/tmp/v.txt"), node("t", "InitializeTableFromTextFileV2", "h", "asset")),
                asset("vocab.txt"),
            )
        )
        == []
    )  # fmt: skip - as TensorFlow 1 writes it


def test_a_table_from_what_may_be_another_file_is_unsafe() -> None:
    assert faults(model(table())) == ["unsafe"]
    assert faults(model(table(node("other", "AssignVariableOp", "variable", "c")), asset("vocab.txt"))) == ["unsafe"]
    assert faults(model(table(node("other", "PartitionedCall", "variable", f="@init")), asset("vocab.txt"))) == ["unsafe"]
    bound = objects(field(9, field(1, "c")), field(10, b""), functions={"init": [0, 1]})
    assert faults(model(table(), asset("vocab.txt"), bound)) == ["unsafe"]


@pytest.mark.parametrize("filename", ["../../etc/passwd", "/etc/passwd", "..\\x", "C:\\x", "a\0b"])
def test_an_asset_outside_the_folder_is_unsafe(filename: str) -> None:
    assert faults(model(graph(), asset(filename))) == ["unsafe"]
    packed = field(5, field(1, field(1, "type") + field(2, field(2, filename))))
    assert faults(model(graph(), field(4, pair("saved_model_assets", packed)))) == ["unsafe"]


def test_printing_to_a_file_is_unsafe() -> None:
    assert faults(model(graph(node("p", "PrintV2", "x", output_stream=b"stderr")))) == []
    assert faults(model(graph(node("p", "PrintV2", "x", output_stream=b"file:///tmp/x")))) == ["unsafe"]


def test_what_cannot_be_judged_is_unscannable() -> None:
    resource = field(1, "c") + field(2, "Const") + field(5, pair("value", field(8, field(14, field(3, "name")))))
    twice = field(1, "c") + field(2, "Const") + field(5, pair("value", field(2, b"a") + field(3, 1)))
    again = field(1, "c") + field(2, "Relu") + field(5, pair("T", field(6, 1))) * 2
    for each in (model(graph(resource)), model(graph(twice)), model(graph(again)), field(1, 2) + GOOD[2:], GOOD + field(3, 1)):
        assert faults(each) == ["unscannable"]


def keras_object(config: object, identifier: str = "_tf_keras_layer") -> bytes:
    return field(4, field(1, identifier) + field(2, field(1, 1)) + field(3, json.dumps(config)))


LAMBDA = {"class_name": "Lambda", "config": {"name": "l", "function": ["4wEAAAA=", None, None]}}
DENSE = {
    "class_name": "Dense",
    "config": {"name": "d", "units": 2, "activation": "relu"},
    "input_spec": {"class_name": "InputSpec", "config": {"axes": {"-1": 3}, "ndim": None}},
}


def test_keras_objects_are_judged() -> None:
    assert faults(model(graph(), objects(keras_object(DENSE)))) == []
    assert "unsafe" in faults(model(graph(), objects(keras_object(LAMBDA))))
    assert "unsafe" in faults(model(graph(), objects(keras_object({**DENSE, "input_spec": LAMBDA}))))
    assert faults(model(graph(), objects(keras_object("{")))) in ([], ["unscannable"])


def companion_faults(form: str, data: bytes) -> list[str]:
    scan = Scan(SHIPPED)
    Part(Memory(data), scan).look(COMPANIONS[form])
    return [str(each.fault) for each in scan.problems]


def test_keras_metadata_beside_a_model_are_judged() -> None:
    def metadata(config: object) -> bytes:
        return field(1, field(2, 1) + field(3, "root") + field(4, "_tf_keras_layer") + field(5, json.dumps(config)))

    assert companion_faults("savedmodel keras metadata", metadata(DENSE)) == []
    assert "unsafe" in companion_faults("savedmodel keras metadata", metadata(LAMBDA))
    assert companion_faults("savedmodel keras metadata", b"\x80\x04.") == ["unscannable"]


def test_other_files_beside_a_model_are_what_they_say() -> None:
    assert companion_faults("savedmodel variables", b"\0\1\2") == []
    assert companion_faults("savedmodel index", bytes(40) + bytes.fromhex("57fb808b247547db")) == []
    assert companion_faults("savedmodel index", b"\x80\x04." * 30) == ["unscannable"]
    assert companion_faults("savedmodel fingerprint", field(1, 5) + field(6, b"")) == []
    assert companion_faults("savedmodel fingerprint", b"\x80\x04.") == ["unscannable"]


def test_a_file_is_a_companion_only_where_a_model_lies_in_the_right_place() -> None:
    names = ("a/saved_model.pb", "saved_model.pb")
    for root in ("a/", ""):
        assert companion(f"{root}variables/variables.index", names) == "savedmodel index"
        assert companion(f"{root}variables/variables.data-00000-of-00001", names) == "savedmodel variables"
        assert companion(f"{root}fingerprint.pb", names) == "savedmodel fingerprint"
        assert companion(f"{root}keras_metadata.pb", names) == "savedmodel keras metadata"
    for name in (
        "b/variables/variables.index",
        "variables.index",
        "variables/variables.data",
        "variables/variables.data-00000-of-00001\n",
    ):
        assert companion(name, names) == ""
    assert companion("a/assets/vocab.txt", names) == ""
    assert companion("variables/variables.index", ()) == ""


@given(st.data())
def test_a_model_that_is_changed_or_cut_off_raises_nothing(data: st.DataObject) -> None:
    whole = model(table(), asset("vocab.txt"), objects(field(5, b""), keras_object(DENSE), functions={"init": [0, 1]})) + GOOD[2:]
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(made[: data.draw(st.integers(0, len(made)))])
    is_savedmodel(Memory(cut))
    looked(cut)
