"""Beside a model: pictures and SentencePiece's models have no problem if they are whole, and nothing else is taken for them."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.beside import PNG
from airflow_pipesec.scan.scanner import Scan, scan_view
from airflow_pipesec.scan.views import Memory


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def piece(text: bytes, score: float, kind: bytes = b"") -> bytes:
    data = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + kind
    return b"\x0a" + bytes([len(data)]) + data


PICTURE = PNG + chunk(b"IHDR", bytes(13)) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND")
PHOTO = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0" + bytes(100) + b"\xff\xd9"
MOVING = b"GIF89a\1\0\1\0\0\0\0,\0\0\0\0\1\0\1\0\0\2\2L\1\0;"
PIECES = piece(b"<unk>", 0, b"\x18\x02") + piece("▁a".encode(), -1) + b"\x12\x04\x18\x01\x20\x03" + b"\x1a\x05\x0a\x03nmt"
# The graph of a SavedModel, where its readers find it: with a node, and with what is no field of what it was trained with.
SAVED = piece(b"a", 0) + b"\x12\x0b\x12\x09\x0a\x07\x12\x05NoOp!"
SAVED_TOO = piece(b"a", 0) + b"\x12\x02\x3a\x00\x12\x00"


def looked(data: bytes, name: str = "") -> Scan:
    return scan_view(Memory(data), AllowList.shipped(), name=name)


@pytest.mark.parametrize("data", [PICTURE, PHOTO, MOVING])
def test_a_picture_has_no_problem(data: bytes):
    scan = looked(data, "logo.bin")
    assert (scan.problems, dict(scan.formats)) == ([], {"picture": 1})


@pytest.mark.parametrize("data", [PICTURE, PHOTO, MOVING, PIECES])
def test_what_is_cut_off_or_goes_on_is_unscannable(data: bytes):
    assert looked(data + b"x").problems
    assert looked(data[:-1]).problems


def test_a_model_of_sentencepiece_has_no_problem():
    scan = looked(PIECES, "tokenizer.model")
    assert (scan.problems, dict(scan.formats)) == ([], {"sentencepiece": 1})


@pytest.mark.parametrize(
    "data", [b"\x12\x02\x18\x01" + PIECES, PIECES + b"\x32\x00", SAVED, SAVED_TOO, piece(b"\xff", 0), PIECES + piece(b"\xff", 0)]
)
def test_what_is_not_as_sentencepiece_has_it_is_unscannable(data: bytes):
    assert [problem.fault for problem in looked(data).problems] == ["unscannable"]


@given(st.sampled_from([PICTURE, PHOTO, MOVING, PIECES]), st.data())
def test_what_is_changed_raises_nothing(whole: bytes, data: st.DataObject):
    made = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        made[data.draw(st.integers(0, len(made) - 1))] = data.draw(st.integers(0, 255))
    scan = looked(bytes(made[: data.draw(st.integers(0, len(made)))]))
    assert not any("cannot be parsed" in str(problem) for problem in scan.problems)
