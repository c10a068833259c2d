"""Readings: a file that is one thing by its first bytes is told where some loader would take it for another, which does more."""

from __future__ import annotations

import io
import json
import lzma
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from typing import Any

import numpy as np
import pytest

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import scan_view
from airflow_pipesec.scan.views import Memory

SYSTEM = b"cos\nsystem\n(S'true'\ntR."
HDF5 = b"\x89HDF\r\n\x1a\n"


def looked(data: bytes, name: str = "") -> list[str]:
    """Return what is wrong with a file by this name."""
    scan = scan_view(Memory(data), AllowList.shipped(), name=name)
    return [f"{problem.fault}: {problem}" for problem in scan.problems]


def tarred(**members: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def npy(data: bytes = b"", array: Any = None) -> bytes:
    file = io.BytesIO()
    np.save(file, np.frombuffer(data, np.uint8) if array is None else array, allow_pickle=True)
    return file.getvalue()


def header(start: bytes, *, signed: bool = False) -> bytes:
    """The header of a tar for an empty file whose name is these bytes."""
    block = bytearray(tarfile.TarInfo("x").tobuf(tarfile.GNU_FORMAT))
    block[:100] = start.ljust(100, b"\0")
    block[148:156] = b" " * 8
    total = sum(block) - 256 * sum(byte > 127 for byte in block) * signed
    block[148:156] = b"%06o\0 " % total
    return bytes(block)


def pax(comment: bytes) -> bytes:
    """A tar of one text, with a comment."""
    record = b" comment=" + comment + b"\n"
    record = str(len(record) + len(str(len(record) + 4))).encode() + record
    info = tarfile.TarInfo("pax")
    info.size, info.type = len(record), tarfile.XHDTYPE
    return info.tobuf(tarfile.USTAR_FORMAT) + record + bytes(-len(record) % 512) + tarred(a=b"a text")


TORCH_TAR = tarred(storages=pickle.dumps(0), tensors=pickle.dumps(0), sys_info=pickle.dumps(0), pickle=SYSTEM)


@pytest.mark.parametrize("signed", [False, True])
def test_a_pickle_that_torch_would_read_as_a_tar_is_unscannable(signed: bool):
    start = b"\x80\x02T" + struct.pack("<I", 512 + len(TORCH_TAR) - 7)
    data = header(start, signed=signed) + TORCH_TAR + b"."
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        assert "pickle" in archive.getnames()
    assert any("is a tar archive for some readers" in why for why in looked(data))


def test_numbers_that_begin_a_tar_are_unscannable():
    head = header(npy(bytes(2000))[:100])
    assert looked(head + bytes(2000)) != []
    assert any("tar archive" in why for why in looked(head + bytes(2000)))


def test_a_pickle_that_ends_as_a_zip_is_unscannable():
    inner = zipped(a=SYSTEM)[:-2] + b"\x01\0"
    data = b"\x80\x03B" + struct.pack("<I", len(inner)) + inner + b"."
    assert zipfile.is_zipfile(io.BytesIO(data))
    assert any("ZIP archive for readers that look at its end" in why for why in looked(data))


@pytest.mark.parametrize("place", [512, 1 << 20, 1 << 22])
def test_an_hdf5_file_that_starts_further_on_is_unscannable(place: int):
    start = npy(bytes(place + 1000))
    assert looked(start) == []
    assert any("HDF5 file for readers" in why for why in looked(start[:place] + HDF5 + start[place + 8 :]))
    blob = b"\x80\x03B" + struct.pack("<I", place + 1000)
    blob = blob.ljust(place, b" ") + HDF5 + bytes(999) + b"."
    assert any("HDF5 file for readers" in why for why in looked(blob))


def test_a_zip_in_a_comment_of_a_tar_is_unscannable():
    data = pax(zipped(a=SYSTEM))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["a"]
    assert any("ZIP archive for readers that look at its end" in why for why in looked(data))
    assert looked(pax(b"made by hand")) == []


def test_a_zip_that_lies_across_the_members_of_a_tar_is_unscannable():
    archive = zipped(a=SYSTEM)
    start, end = archive[: archive.index(b"PK\x05\x06")], archive[archive.index(b"PK\x05\x06") :]
    first, last = npy(start), npy(b"0123" + end + b"0123")
    plain = tarred(first=first, last=last)
    directory = plain.index(b"PK\x01\x02")
    size = plain.index(b"PK\x05\x06") - directory
    data = plain.replace(end, end[:12] + struct.pack("<2L", size, directory) + end[20:])
    assert any("ZIP archive for readers that look at its end" in why for why in looked(data))


def test_a_tar_may_end_with_a_zip():
    assert looked(tarred(a=b"a text", b=zipped(a=b"a text"))) == []
    assert looked(tarred(b=zipped(a=b"a text"), a=b"a text")) == []


def test_a_zip_in_a_tar_that_begins_elsewhere_for_some_readers_is_unscannable():
    hidden = zipped(a=SYSTEM)
    first = npy(hidden)
    outer = zipped(b=first)
    # Counted from the start of the tar, the directory would be that of the other.
    comes = 512 + outer.index(b"PK\x01\x02")
    offset = struct.unpack_from("<L", outer, outer.rindex(b"PK\x05\x06") + 16)[0]
    filler = bytearray(npy(bytes(4000)))
    filler[offset - 512 : offset - 508] = b"PK\x01\x02"
    assert comes > offset
    data = tarred(filler=bytes(filler), zip=outer)
    assert any("ZIP archive for readers that look at its end" in why for why in looked(data))


@pytest.mark.parametrize("dictionary", [0, 1 << 16, 3 << 20, 1 << 30])
def test_a_tar_that_joblib_would_decompress_is_unscannable(dictionary: int):
    packed = lzma.compress(SYSTEM, lzma.FORMAT_ALONE, filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 16}])
    data = header(b"\x5d" + struct.pack("<L", dictionary) + packed[5:]) + bytes(1024)
    assert lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(data, len(SYSTEM)) == SYSTEM
    assert any("a compressed stream (lzma) for others" in why for why in looked(data))


def test_a_stream_that_yields_nothing_for_long_is_one_all_the_same():
    data = b"x\x01" + b"\0\0\0\xff\xff" * 2000 + zlib.compress(SYSTEM, 1)[2:]
    assert any("calls" in why or "refers" in why for why in looked(data))


def test_json_behind_much_white_space_is_json():
    data = json.dumps({"auto_map": {"AutoModel": "code.Model"}}).encode()
    for space in (b"", b" " * 5000, b"\n" * (3 << 20), b"\xef\xbb\xbf" + b"\t" * 4096):
        assert "names code that comes with the model" in str(looked(space + data, "config.json"))


def test_what_is_read_as_yaml_is_looked_at_as_yaml_if_it_is_json_as_well():
    model = {"flavors": {"python_function": {"loader_module": "evil"}}}
    assert "loaded by the module evil" in str(looked(json.dumps(model).encode(), "MLmodel"))
    model["flavors"]["python_function"]["loader_module"] = "mlflow.sklearn"
    assert looked(json.dumps(model).encode(), "MLmodel") == []
    assert looked(b'{"a": 1}', "a.yaml") == []
    assert looked(b"[1]", "program.py") != []


@pytest.mark.parametrize("wrapped", [{"a": 1}, {"a": [{"b": 2}]}])
def test_keras_objects_within_another_object_are_judged(wrapped: dict[str, Any]):
    lambda_ = {"class_name": "Lambda", "module": "keras.layers", "config": {"name": "a"}}
    text = json.dumps(wrapped).replace("1", json.dumps(lambda_)).replace("2", json.dumps(lambda_))
    assert "holds a Lambda layer" in str(looked(zipped(**{"config.json": text.encode(), "model.weights.h5": b"x"})))
    function = {"class_name": "function", "module": "os", "config": "system", "registered_name": "system"}
    assert "uses the function os:system" in str(looked(json.dumps(function).encode(), "config.json"))


def test_a_storage_that_numpy_would_unpickle_is_unscannable():
    array = npy(array=np.array([{}], dtype=object))
    data = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nByteStorage\nX\x01\0\0\0" + b"0X\x03\0\0\0cpu"
    data += b"J" + struct.pack("<i", len(array)) + b"tQK\0J" + struct.pack("<i", len(array)) + b"\x85K\x01\x85"
    data += b"\x89ccollections\nOrderedDict\n)RtR."
    members = {"a/data.pkl": data, "a/data/0": bytes(len(array)), "a/version": b"3\n"}
    assert looked(zipped(**members), "a.npz") == []
    assert "for numpy a file of arrays" in str(looked(zipped(**members | {"a/data/0": array}), "a.npz"))


def test_weights_in_a_file_of_another_folder_are_unsafe():
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "../../tmp/model.bin"}}
    assert "whose name leads out of the folder" in str(looked(json.dumps(index).encode(), "pytorch_model.bin.index.json"))
    index["weight_map"]["b"] = "model-00002-of-00002.safetensors"
    assert looked(json.dumps(index).encode(), "model.safetensors.index.json") == []


def test_a_model_that_mlflow_would_load_from_elsewhere_is_unsafe():
    for path in ("/tmp/model.pkl", "../model.pkl", "a/../../model.pkl", "..\\\\model.pkl"):
        text = f'flavors:\n  python_function:\n    loader_module: mlflow.sklearn\n    model_path: "{path}"\n'
        assert "has its model loaded from a file whose name" in str(looked(text.encode(), "MLmodel"))
    assert looked(b"artifacts:\n  a:\n    path: artifacts\\a.pkl\n    uri: /tmp/a.pkl\n", "MLmodel") == []


def test_a_module_of_sentence_transformers_in_another_folder_is_unsafe():
    module = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    assert looked(json.dumps([module]).encode(), "modules.json") == []
    assert "whose folder is absolute" in str(looked(json.dumps([module | {"path": "/tmp/a"}]).encode(), "modules.json"))


def test_what_a_configuration_has_called_by_its_name_is_unsafe():
    layer = {"model": {"target": "subprocess.Popen", "params": {"args": ["true"]}}}
    assert "subprocess.Popen called (target, params)" in str(looked(json.dumps(layer).encode(), "config.json"))
    assert "subprocess.Popen" in str(looked(b"model:\n  target: subprocess.Popen\n  params:\n    args: [true]\n", "v1.yaml"))
    assert looked(b'{"target": "sepal.length", "features": []}', "config.json") == []
    assert looked(b"target: sepal.length\nfeatures: []\n", "config.yaml") == []
    assert "imported (megatron_core)" in str(looked(b'{"megatron_core": "evil"}', "adapter_config.json"))


def test_an_onnx_model_in_json_is_unscannable_by_either_name_of_its_fields():
    for key in ("irVersion", "ir_version", "opset_import"):
        assert "ONNX model in JSON" in str(looked(json.dumps({key: 8, "graph": {}}).encode(), "model.json"))


def test_a_schema_of_skops_is_one_by_its_loader():
    assert looked(b'{"__loader__": "ListNode", "content": []}', "schema.json") != []


def test_a_text_that_is_a_pickle_as_well_is_looked_at_by_its_name():
    program = b"V=__import__('os').system('true')\nV=1\n0."
    assert len(list(pickletools.genops(program))) == 4
    assert looked(program) == []
    assert "is a Python program" in str(looked(program, "model.py"))
    assert looked(b"V: {loader_module: evil}\nV: 1\n0.", "MLmodel") != []


def test_what_is_called_json_has_to_be_json():
    assert "no valid JSON" in str(looked(b'// settings\n{"auto_map": {"AutoModel": "code.Model"}}', "config.json"))
    assert looked(b'"a text"', "config.json") == []


@pytest.mark.parametrize("data", [pickle.dumps(b"\x12\x00"), npy(bytes(100)), b"a text", zipped(a=b"a text")])
@pytest.mark.parametrize("name", ["saved_model.pb", "model.onnx"])
def test_what_is_called_as_a_model_of_protocol_buffers_has_to_be_one(data: bytes, name: str):
    assert looked(data) == []
    assert "and is " in str(looked(data, name))
    assert "and is " in str(looked(zipped(**{f"a/{name}": data})))


def test_a_pointer_of_git_lfs_is_unscannable():
    data = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 1\n"
    assert "a pointer of Git LFS" in str(looked(data, "model.safetensors"))
