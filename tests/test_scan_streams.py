"""Compressed streams: what they decompress to can be read anywhere, and what is damaged, cut off or followed by more is told."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import random
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan import lz4s, streams
from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan, Unscannable, scan_view
from airflow_pipesec.scan.views import Memory

PLAIN = bytes(range(256)) * 20 + b"the same again and again " * 200 + random.Random(1).randbytes(3000)


def zfile(data: bytes) -> bytes:
    return b"ZF" + hex(len(data)).encode().ljust(19) + zlib.compress(data)


def lz4_frame(*blocks: bytes, flags: int = 0x64, size: int = 0x40, plain: bytes | None = None) -> bytes:
    """A frame of these blocks, with the checksum of all its content; the top bit of a block's size is left to the caller."""
    descriptor = bytes([flags, size])
    body = b"".join(blocks) + bytes(4)
    if plain is not None:
        body += lz4s.xxh32(plain).to_bytes(4, "little")
    return lz4s.MAGIC + descriptor + bytes([lz4s.xxh32(descriptor) >> 8 & 0xFF]) + body


def raw_block(data: bytes) -> bytes:
    return (len(data) | 1 << 31).to_bytes(4, "little") + data


def lz4_plain(data: bytes) -> bytes:
    return lz4_frame(*(raw_block(data[at : at + 65536]) for at in range(0, len(data), 65536)), plain=data)


# What the lz4 package 4.4.5 made of b"model " * 40 + bytes(range(64)): with and without its own size, and in linked blocks.
LZ4_TEXT = b"model " * 40 + bytes(range(64))

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zlib": zlib.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zfile": zfile,
    "lz4": lz4_plain,
}
CHECKED = ("gzip", "zlib", "bzip2", "xz", "zfile", "lz4")


def inflated(data: bytes, limits: Limits | None = None) -> streams.Inflated:
    _, codec = streams._codec(data[: streams.TRIED])
    return streams.Inflated(Memory(data), codec, Scan(AllowList(), limits))


def whole(view: streams.Inflated) -> bytes:
    return b"".join(view.read_at(at, 1 << 20) for at in range(0, view.size, 1 << 20))


@pytest.mark.parametrize("form", PACKERS)
def test_a_stream_reads_as_what_was_compressed(form: str) -> None:
    packed = PACKERS[form](PLAIN)
    assert streams._codec(packed[: streams.TRIED])[0] == form
    assert whole(inflated(packed)) == PLAIN


@pytest.mark.parametrize("form", PACKERS)
def test_a_stream_that_is_cut_off_is_unscannable(form: str) -> None:
    packed = PACKERS[form](PLAIN)
    for end in (len(packed) - 1, len(packed) - 5, len(packed) // 2, 22):
        with pytest.raises(Unscannable):
            inflated(packed[:end])


@pytest.mark.parametrize("form", PACKERS)
@pytest.mark.parametrize("more", [b"\0", b"more than it says", bytes(64)])
def test_what_follows_a_stream_is_unscannable(form: str, more: bytes) -> None:
    with pytest.raises(Unscannable, match=r"after its compressed stream|damaged|ends too early"):
        inflated(PACKERS[form](PLAIN) + more)


@pytest.mark.parametrize("form", ["gzip", "bzip2", "xz", "lz4"])
def test_streams_that_follow_one_another_are_read_as_one(form: str) -> None:
    assert whole(inflated(PACKERS[form](PLAIN) + PACKERS[form](b"more"))) == PLAIN + b"more"


def test_streams_without_end_are_unscannable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "STREAMS", 10)
    with pytest.raises(Unscannable, match="consists of more than 10 compressed streams"):
        inflated(gzip.compress(b"") * 12)


@pytest.mark.parametrize("form", CHECKED)
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_stream_that_was_changed_is_unscannable_or_still_says_the_same(form: str, data: st.DataObject) -> None:
    packed = bytearray(PACKERS[form](PLAIN))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        view = inflated(bytes(packed))
    except Unscannable:
        return
    assert whole(view) == PLAIN


def test_a_gzip_header_with_all_its_fields_is_read() -> None:
    body = gzip.compress(PLAIN, mtime=0)[10:]
    header = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x03\x00abc" + b"name\0" + b"comment\0"
    packed = header + (zlib.crc32(header) & 0xFFFF).to_bytes(2, "little") + body
    assert whole(inflated(packed)) == PLAIN
    with pytest.raises(Unscannable, match="header that is damaged"):
        inflated(packed.replace(b"name", b"nome"))


def test_a_gzip_header_with_unknown_flags_is_unscannable() -> None:
    with pytest.raises(Unscannable, match="not read here"):
        inflated(b"\x1f\x8b\x08\x80" + gzip.compress(PLAIN)[4:])


@pytest.mark.parametrize("form", ["gzip", "zlib", "bzip2", "xz"])
def test_what_is_long_is_read_anywhere_though_it_is_not_kept(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WHOLE": 5000, "HEAD": 1000, "TAIL": 500, "WINDOW": 2000, "STEP": 700}.items():
        monkeypatch.setattr(streams, name, value)
    view = inflated(PACKERS[form](PLAIN))
    assert view.size == len(PLAIN)
    for _ in range(3):
        for at, length in ((0, 100), (900, 300), (4000, 10), (3999, 3000), (12_000, 600), (2000, 1), (len(PLAIN) - 300, 999)):
            assert view.read_at(at, length) == PLAIN[at : at + length]
    assert len(view._window) < 6000
    assert len(view._head) == 1000
    assert view.read_at(len(PLAIN), 10) == view.read_at(-1, 10) == b""


def test_reading_back_and_forth_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WHOLE": 5000, "HEAD": 1000, "TAIL": 500, "WINDOW": 2000, "STEP": 700, "RESTARTS": 3}.items():
        monkeypatch.setattr(streams, name, value)
    view = inflated(zlib.compress(PLAIN))
    for _ in range(2):
        assert view.read_at(9000, 10) == PLAIN[9000:9010]
        assert view.read_at(2000, 10) == PLAIN[2000:2010]
    view.read_at(9000, 10)
    with pytest.raises(Unscannable, match="back and forth"):
        view.read_at(2000, 10)


def test_what_unpacks_to_too_much_is_unscannable_before_it_is_in_memory() -> None:
    bomb = zlib.compress(bytes(8 << 20))
    with pytest.raises(Unscannable, match=r"unpacks to more than 3,000,000 bytes"):
        inflated(bomb, Limits(unpacked=3_000_000))


def test_what_is_decompressed_again_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WHOLE": 5000, "HEAD": 1000, "TAIL": 500, "WINDOW": 2000, "STEP": 700}.items():
        monkeypatch.setattr(streams, name, value)
    view = inflated(zlib.compress(PLAIN), Limits(unpacked=len(PLAIN) + 3000))
    with pytest.raises(Unscannable, match=r"unpacks to more"):
        view.read_at(9000, 10)


def test_what_takes_too_much_memory_to_decompress_is_unscannable() -> None:
    head = bytearray(lzma.compress(PLAIN, lzma.FORMAT_ALONE))
    head[1:5] = (1 << 30).to_bytes(4, "little")
    with pytest.raises(Unscannable, match=r"of memory to decompress"):
        list(streams.unlzma_alone(streams.Source(Memory(bytes(head)))))
    with pytest.raises(Unscannable, match=r"of memory to decompress"):
        list(streams.unlzma(streams.Source(Memory(b"")), [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]))


@pytest.mark.parametrize(
    "stretches", [[(len(PLAIN) - 1, None)], [(len(PLAIN) + 1, None)], [(len(PLAIN), 1)], [], [(5, 1), (len(PLAIN) - 5, None)]]
)
def test_what_is_not_as_long_or_what_it_is_said_to_be_is_unscannable(stretches: list[streams.Stretch]) -> None:
    with pytest.raises(Unscannable, match=r"than it states|the checksum that it states"):
        streams.Inflated(Memory(zlib.compress(PLAIN)), streams._zlib, Scan(AllowList()), stretches)


def test_stretches_with_their_checksums_are_verified() -> None:
    first, second = PLAIN[:100], PLAIN[100:]
    stretches = [(0, 0), (100, zlib.crc32(first)), (0, None), (len(second), zlib.crc32(second)), (0, 0)]
    assert streams.Inflated(Memory(zlib.compress(PLAIN)), streams._zlib, Scan(AllowList()), stretches).size == len(PLAIN)


@pytest.mark.parametrize("text", ["0x", "0x1g", "-0x1", "", "0X10", "0x10 1"])
def test_a_file_of_old_joblib_with_another_header_is_unscannable(text: str) -> None:
    with pytest.raises(Unscannable, match="none of joblib's"):
        inflated(b"ZF" + text.encode().ljust(19) + zlib.compress(PLAIN))


@pytest.mark.parametrize("size", [0, len(PLAIN) - 1, len(PLAIN) + 1])
def test_a_file_of_old_joblib_of_another_size_is_unscannable(size: int) -> None:
    with pytest.raises(Unscannable, match="as many bytes as it states"):
        inflated(b"ZF" + hex(size).encode().ljust(19) + zlib.compress(PLAIN))


def test_a_file_of_joblib_by_python_2_has_one_more_space() -> None:
    assert whole(inflated(zfile(PLAIN).replace(b"x\x9c", b" x\x9c", 1))) == PLAIN


@pytest.mark.parametrize(
    ("data", "expected"),
    [(b"", 0x02CC5D05), (b"a", 0x550D7456), (b"abc", 0x32D153FF), (b"Nobody inspects the spammish repetition", 0xE2293B2F)],
)
def test_xxh32_is_as_it_is_published(data: bytes, expected: int) -> None:
    assert lz4s.xxh32(data) == expected


@pytest.mark.parametrize(
    "packed",
    [
        "BCJNGGhAMAEAAAAAAAAwTAAAAG9tb2RlbCAGANfwMQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8AAAAA",
        "BCJNGGRAp0wAAABvbW9kZWwgBgDX8DEAAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4/AAAAALrRNCc=",
        "BCJNGHhAMAEAAAAAAAD8TAAAAG9tb2RlbCAGANfwMQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8/xH6aAAAAAA==",
        "BCJNGEBAwBAAAABvbW9kZWwgBgBGUCBtb2RlRgAAAA9gAHnwMQABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4fICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8AAAAA",
    ],
)
def test_lz4_of_the_library_is_read(packed: str) -> None:
    data = base64.b64decode(packed)
    assert whole(inflated(data)) == b"".join(lz4s.unlz4(streams.Source(Memory(data)))) == LZ4_TEXT


def test_an_lz4_copy_that_overlaps_itself_repeats() -> None:
    # Two literals, then 9 bytes from 2 back, then five literals.
    block = bytes([0x25]) + b"ab" + b"\x02\x00" + bytes([0x50]) + b"01234"
    plain = b"ab" + b"abababab" + b"a" + b"01234"
    assert whole(inflated(lz4_frame(len(block).to_bytes(4, "little") + block, plain=plain))) == plain


@pytest.mark.parametrize(
    "block",
    [
        b"\x25ab\x03\x00",  # from before the start
        b"\x25ab\x00\x00",  # from nowhere
        b"\x25ab\x02",  # cut off
        b"\x50ab",  # fewer literals than it says
        b"\xf0" + b"\xff" * 1000,  # a length without end
        b"\x2fab\x01\x00" + b"\xff" * 1000 + b"\x00",  # more than a block may hold
        b"",
    ],
)
def test_an_lz4_block_that_is_damaged_is_unscannable(block: bytes) -> None:
    frame = lz4_frame(len(block).to_bytes(4, "little") + block if block else raw_block(b""), flags=0x60)
    with pytest.raises(Unscannable, match=r"LZ4 block that is damaged|ends too early"):
        list(lz4s.unlz4(streams.Source(Memory(frame))))


@pytest.mark.parametrize(("flags", "size"), [(0xA0, 0x40), (0x61, 0x40), (0x62, 0x40), (0x60, 0x30), (0x60, 0xC0), (0x60, 0x41)])
def test_an_lz4_header_of_another_kind_is_unscannable(flags: int, size: int) -> None:
    with pytest.raises(Unscannable, match="LZ4 header"):
        list(lz4s.unlz4(streams.Source(Memory(lz4_frame(raw_block(b"abc"), flags=flags, size=size)))))


def test_lz4_without_its_library_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lz4s, "MOST", 1000)
    with pytest.raises(Unscannable, match=r"LZ4, and unpacks to more than 1,000"):
        list(lz4s.unlz4(streams.Source(Memory(lz4_plain(PLAIN)))))


@pytest.mark.parametrize("level", range(10))
def test_zlib_is_known_by_what_it_is(level: int) -> None:
    assert streams.bare_stream(zlib.compress(PLAIN, level)[:4096]) == "zlib"


@pytest.mark.parametrize("preset", [0, 3, 6, 9])
def test_lzma_is_known_by_what_it_is(preset: int) -> None:
    assert streams.bare_stream(lzma.compress(PLAIN, lzma.FORMAT_ALONE, preset=preset)[:4096]) == "lzma"


@pytest.mark.parametrize(
    "head", [b"", b"x", b"x\x9c", b"x\x9cnot one at all", b"x^2 is a square, and this is a text", b"]\0\0\0\x01" + b"\0" * 8]
)
def test_what_only_begins_like_a_stream_is_none(head: bytes) -> None:
    assert streams.bare_stream(head) == ""


@settings(max_examples=50, deadline=None)
@given(head=st.binary(max_size=200))
def test_any_bytes_can_be_asked_whether_they_are_a_stream(head: bytes) -> None:
    assert streams.bare_stream(head) in ("", "zlib", "lzma")
    assert streams.bare_stream(b"]\0\0\x10\0" + b"\xff" * 8 + head) in ("", "lzma")
    assert streams.bare_stream(b"x\x9c" + head) in ("", "zlib")


@pytest.mark.parametrize("form", PACKERS)
def test_a_compressed_array_has_no_problems(form: str) -> None:
    array = io.BytesIO()
    np.save(array, np.arange(1000.0))
    scan = scan_view(Memory(PACKERS[form](array.getvalue())), AllowList.load())
    assert scan.problems == []
    assert scan.formats == {form: 1, "npy": 1}


def test_streams_within_streams_are_looked_at_until_they_go_too_deep() -> None:
    packed = b"no model"
    for _ in range(20):
        packed = zlib.compress(packed)
    scan = scan_view(Memory(packed), AllowList())
    assert [(problem.fault, problem.why) for problem in scan.problems] == [
        (Fault.UNSCANNABLE, "holds parts within parts more than 8 deep")
    ]


@pytest.mark.parametrize("form", PACKERS)
def test_a_compressed_pickle_is_followed(form: str) -> None:
    scan = scan_view(Memory(PACKERS[form](b"cposix\nsystem\n(S'true'\ntR.")), AllowList())
    assert [problem.fault for problem in scan.problems] == [Fault.UNSAFE]
    assert scan.problems[0].part == "decompressed"


def test_opened_gives_what_is_in_a_stream_and_nothing_for_what_is_none() -> None:
    view = streams.opened(Part(Memory(gzip.compress(PLAIN)), Scan(AllowList())))
    assert view is not None
    assert whole(view) == PLAIN
    assert streams.opened(Part(Memory(b"\x80\x04N."), Scan(AllowList()))) is None


@pytest.mark.parametrize("compress", [("zlib", 3), ("gzip", 3), ("bz2", 3), ("lzma", 3), ("xz", 3)])
def test_what_joblib_compresses_is_read(compress: tuple[str, int]) -> None:
    joblib = pytest.importorskip("joblib")
    plain, packed = io.BytesIO(), io.BytesIO()
    joblib.dump({"weights": list(range(100))}, plain)
    joblib.dump({"weights": list(range(100))}, packed, compress=compress)
    assert whole(inflated(packed.getvalue())) == plain.getvalue()
