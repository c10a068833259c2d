"""Safetensors and GGUF: every byte is accounted for, and nothing in a file is anything but numbers and names."""

import json
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.gguf import look_gguf
from airflow_pipesec.scan.safetensors import is_safetensors, look_safetensors
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan
from airflow_pipesec.scan.views import Memory


def looked(look, data, limits=None):
    scan = Scan(AllowList(), limits)
    Part(Memory(data), scan).look(look)
    return scan


def whys(look, data, limits=None):
    return " ".join(problem.why for problem in looked(look, data, limits).problems)


def safetensors(header, body=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


def tensor(start, stop, dtype="F32", shape=None):
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


GOOD = {"__metadata__": {"format": "pt"}, "b": tensor(8, 16), "a": tensor(0, 8), "none": tensor(8, 8, shape=[0, 3])}


def test_a_safetensors_file_has_no_problems():
    scan = looked(look_safetensors, safetensors(GOOD, bytes(16)))
    assert scan.problems == []
    assert scan.formats == {"safetensors": 1}


def test_a_scalar_and_numbers_of_four_bits_fit():
    header = {"s": tensor(0, 8, "F64", []), "f": tensor(8, 9, "F4", [2]), "b": tensor(9, 12, "BOOL", [3])}
    assert whys(look_safetensors, safetensors(header, bytes(12))) == ""


def test_an_empty_safetensors_file_and_spaces_behind_the_header_are_fine():
    assert whys(look_safetensors, safetensors(b"{}      ")) == ""


def test_a_safetensors_file_is_known_by_its_start():
    data = safetensors(GOOD, bytes(16))
    assert is_safetensors(Memory(data), data[:4096])
    for other in (b"", b"{}", b"\x80\x04" + bytes(20), b"\xff" * 8 + b"{}", (5).to_bytes(8, "little") + b"[12345]"):
        assert not is_safetensors(Memory(other), other)


@pytest.mark.parametrize(
    ("header", "size", "why"),
    [
        ({"a": tensor(0, 8), "b": tensor(4, 12)}, 12, "overlap"),
        ({"a": tensor(0, 8), "b": tensor(12, 16)}, 16, "a gap"),
        ({"a": tensor(4, 8)}, 8, "a gap"),
        ({"a": tensor(0, 8)}, 12, "behind the last tensor"),
        ({"a": tensor(0, 8)}, 4, "ends within"),
        ({"a": tensor(0, 8, "F99")}, 8, "unknown type F99"),
        ({"a": tensor(0, 8, shape=[3])}, 8, "do not fit"),
        ({"a": tensor(0, 8, shape=[-2])}, 8, "whole numbers"),
        ({"a": tensor(0, 8, shape=[2.0])}, 8, "whole numbers"),
        ({"a": tensor(0, 8, shape=[True, 2])}, 8, "whole numbers"),
        ({"a": tensor(0, 1, "F4", [1])}, 1, "do not fit"),
        ({"a": tensor(0, 8, shape=[1 << 40, 1 << 40])}, 8, "larger than any file"),
        ({"a": {**tensor(0, 8), "more": 1}}, 8, "no tensor"),
        ({"a": 1}, 0, "no tensor"),
        ({"__metadata__": {"a": 1}}, 0, "metadata"),
        (b'{"a": {}, "a": {}}', 0, "twice"),
        (b'{"a": }', 0, "no valid JSON"),
        (b'{"\xff": 1}', 0, "not UTF-8"),
        (b'{"a": ' + b"[" * 5000 + b"]" * 5000 + b"}", 0, "too deep"),
    ],
)
def test_a_safetensors_header_that_does_not_add_up_is_unscannable(header, size, why):
    scan = looked(look_safetensors, safetensors(header, bytes(size)))
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert why in scan.problems[0].why


def test_metadata_that_have_something_called_are_unsafe():
    header = {"__metadata__": {"config": "{'_target_': 'os.system'}"}}
    assert looked(look_safetensors, safetensors(header)).totals == {Fault.UNSAFE: 1}


def test_a_safetensors_header_over_the_limit_is_not_read():
    data = safetensors(b"{" + b" " * 2000 + b"}")
    assert "more than 1,000 bytes" in whys(look_safetensors, data, Limits(text=1000))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_change_to_a_safetensors_header_is_told_or_harmless(data):
    raw = bytearray(safetensors(GOOD, bytes(16)))
    raw[data.draw(st.integers(0, len(raw) - 17))] = data.draw(st.integers(0, 255))
    scan = looked(look_safetensors, bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    assert "cannot be parsed" not in " ".join(problem.why for problem in scan.problems)


@given(st.integers(0, len(safetensors(GOOD, bytes(16))) - 1))
@settings(max_examples=60, deadline=None)
def test_a_safetensors_file_that_is_cut_off_is_unscannable(length):
    scan = looked(look_safetensors, safetensors(GOOD, bytes(16))[:length])
    assert scan.totals == {Fault.UNSCANNABLE: 1}


class Gguf:
    """Writes GGUF files, also wrong ones."""

    def __init__(self, version=3, order="<"):
        self.version, self.order = version, order

    def u32(self, value):
        return struct.pack(self.order + "I", value)

    def count(self, value):
        return struct.pack(self.order + ("I" if self.version == 1 else "Q"), value)

    def text(self, value):
        value = value.encode() if isinstance(value, str) else value
        return self.count(len(value)) + value

    def value(self, key, kind, data):
        return self.text(key) + self.u32(kind) + data

    def string(self, key, value):
        return self.value(key, 8, self.text(value))

    def strings(self, key, values):
        return self.value(key, 9, self.u32(8) + self.count(len(values)) + b"".join(map(self.text, values)))

    def tensor(self, name, shape, kind, offset):
        dimensions = b"".join(map(self.count, shape))
        return self.text(name) + self.u32(len(shape)) + dimensions + self.u32(kind) + struct.pack(self.order + "Q", offset)

    def file(self, keys=(), tensors=(), body=b"", alignment=32):
        head = b"GGUF" + self.u32(self.version) + self.count(len(tensors)) + self.count(len(keys)) + b"".join((*keys, *tensors))
        return head + bytes(-len(head) % alignment) + body if tensors else head


def model(version=3, order="<"):
    g = Gguf(version, order)
    keys = [
        g.string("general.architecture", "llama"),
        g.strings("tokenizer.ggml.tokens", ["a", "bb", "<s>"]),
        g.value("tokenizer.ggml.scores", 9, g.u32(6) + g.count(3) + bytes(12)),
        g.value("llama.block_count", 4, g.u32(1)),
        g.value("x.flag", 7, b"\1"),
        g.string("tokenizer.chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}"),
        g.strings("tokenizer.chat_templates", ["default", "tool_use"]),
    ]
    return g.file(keys, [g.tensor("a", [4, 2], 0, 0), g.tensor("q", [32, 3], 8, 32)], bytes(32 + 102 + 26))


@pytest.mark.parametrize(("version", "order"), [(1, "<"), (2, "<"), (3, "<"), (3, ">")])
def test_a_gguf_file_has_no_problems(version, order):
    scan = looked(look_gguf, model(version, order))
    assert scan.problems == []
    assert scan.formats == {"gguf": 1}


def test_a_gguf_file_without_tensors_is_fine():
    g = Gguf()
    assert whys(look_gguf, g.file([g.string("general.name", "x")])) == ""


@pytest.mark.parametrize("key", ["tokenizer.chat_template", "tokenizer.chat_template.tool_use"])
def test_a_chat_template_that_runs_code_is_unsafe(key):
    g = Gguf()
    template = "{{ cycler.__init__.__globals__.os.popen('id').read() }}"
    scan = looked(look_gguf, g.file([g.string(key, template)]))
    assert {problem.fault for problem in scan.problems} == {Fault.UNSAFE}
    assert key in scan.problems[0].why


def test_a_template_among_several_is_judged():
    g = Gguf()
    assert "uses the attribute" in whys(look_gguf, g.file([g.strings("tokenizer.chat_templates", ["x", "{{ x.__class__ }}"])]))


def test_a_template_that_is_no_text_is_unscannable():
    g = Gguf()
    assert "not UTF-8" in whys(look_gguf, g.file([g.string("tokenizer.chat_template", b"\xff")]))


def bad_gguf():
    g = Gguf()
    one = g.tensor("a", [8], 0, 0)
    return {
        "unknown version 4": Gguf(4).file(),
        "unknown version 0": Gguf(0).file(),
        "which has none": Gguf(2, ">").file(),
        "more than are read": b"GGUF" + g.u32(3) + g.count(1 << 40) + g.count(0),
        "key a twice": g.file([g.string("a", "x"), g.string("a", "y")]),
        "tensor a twice": g.file([], [one, one], bytes(32)),
        "unknown type 13 under a": g.file([g.value("a", 13, bytes(8))]),
        "unknown type 9 under a": g.file([g.value("a", 9, g.u32(9) + g.count(1) + g.u32(4) + g.count(0))]),
        "unknown type 4": g.file([], [g.tensor("a", [32], 4, 0)], bytes(32)),
        "of 5 dimensions": g.file([], [g.tensor("a", [1] * 5, 0, 0)], bytes(32)),
        "larger than any file": g.file([], [g.tensor("a", [1 << 40, 1 << 40], 0, 0)], bytes(32)),
        "does not fit its type": g.file([], [g.tensor("a", [8], 0, 8)], bytes(64)),
        "shape or offset": g.file([], [g.tensor("a", [31], 8, 0)], bytes(64)),
        "leave a gap": g.file([], [one, g.tensor("b", [8], 0, 96)], bytes(128)),
        "overlap": g.file([], [g.tensor("a", [16], 0, 0), g.tensor("b", [8], 0, 32)], bytes(64)),
        "within its tensors": g.file([], [one], bytes(31)),
        "behind the last tensor": g.file([], [one], bytes(64)),
        "no power of two": g.file([g.value("general.alignment", 4, g.u32(24))]),
        "than are left": g.file([g.count(1 << 60)]),
        "array of 1,152,921,504,606,846,976 strings": g.file([g.value("a", 9, g.u32(8) + g.count(1 << 60))]),
        "within the value": g.file([g.value("a", 9, g.u32(12) + g.count(1 << 60))]),
        "within a string": g.file([g.value("a", 9, g.u32(8) + g.count(1) + g.count(99))]),
    }


@pytest.mark.parametrize("why", bad_gguf())
def test_a_gguf_file_that_does_not_add_up_is_unscannable(why):
    scan = looked(look_gguf, bad_gguf()[why])
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert why in scan.problems[0].why


def test_another_alignment_counts():
    g = Gguf()
    keys = [g.value("general.alignment", 4, g.u32(64))]
    tensors = [g.tensor("a", [8], 0, 0), g.tensor("b", [8], 0, 64)]
    assert whys(look_gguf, g.file(keys, tensors, bytes(96), alignment=64)) == ""


def test_a_large_vocabulary_is_walked_quickly():
    g = Gguf()
    data = g.file([g.strings("tokenizer.ggml.tokens", ["token", "x" * 40] * 75_000)])
    start = time.perf_counter()
    assert whys(look_gguf, data) == ""
    assert time.perf_counter() - start < 1  # some 0.05 s


def test_strings_longer_than_a_window_are_walked():
    g = Gguf()
    assert whys(look_gguf, g.file([g.strings("a", ["x" * 70_000, "", "y" * 65_528, "z"])])) == ""


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_to_a_gguf_file_is_told_or_harmless(data):
    raw = bytearray(model())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    scan = looked(look_gguf, bytes(raw[: data.draw(st.integers(0, len(raw)))]))
    assert "cannot be parsed" not in " ".join(problem.why for problem in scan.problems)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, len(model()) - 33))
def test_a_gguf_file_that_is_cut_off_is_unscannable(length):
    assert looked(look_gguf, model()[:length]).totals == {Fault.UNSCANNABLE: 1}
