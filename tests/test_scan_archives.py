"""ZIP archives: good ones have no problems; those that readers disagree about, or that lead out of their folder, are told."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan, Unscannable, scan_view
from airflow_pipesec.scan.views import Memory
from airflow_pipesec.scan.zips import ends_as_zip, look_zip, read_archive

TEXT = b"a text that is a model of nothing. " * 10


def told(look: Callable[[Part], None], data: bytes, limits: Limits | None = None) -> list[str]:
    """Look at bytes as one form, and return the problems of the archive itself and of its members, as text."""
    scan = Scan(AllowList(), limits)
    Part(Memory(data), scan).look(look)
    return [f"{problem.fault}: {problem}" for problem in scan.problems]


def read(data: bytes) -> tuple[dict[str, bytes], list[str]]:
    """Return the members of a ZIP archive that is read strictly, and what was told of it."""
    scan = Scan(AllowList())
    archive = read_archive(Part(Memory(data), scan))
    found = {}
    for member in archive.members:
        if not member.folder:
            found[member.name] = archive.open(member).read_at(0, member.size)
    return found, [f"{problem.fault}: {problem}" for problem in scan.problems]


class Unseekable(io.RawIOBase):
    """A file that can only be written on."""

    def __init__(self) -> None:
        self.data = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.data += bytes(data)
        return len(data)


def zipped(method: int = 0, *, seekable: bool = True, wide: bool = False, comment: bytes = b"") -> bytes:
    file: io.RawIOBase | io.BytesIO = io.BytesIO() if seekable else Unseekable()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("first.txt", TEXT)
        with archive.open("folder/sécond.txt", "w", force_zip64=wide) as member:
            member.write(TEXT * 3)
        archive.writestr("empty.txt", "")
        archive.writestr("folder/", "")
        archive.comment = comment
    return file.getvalue() if isinstance(file, io.BytesIO) else file.data  # type: ignore[attr-defined]


CONTENT = {"first.txt": TEXT, "folder/sécond.txt": TEXT * 3, "empty.txt": b""}


@dataclass
class Raw:
    """A member of a ZIP archive that is written field by field; ``local`` and ``central`` replace what its headers say."""

    name: bytes = b"a.txt"
    data: bytes = b"hello"
    method: int = 0
    flags: int = 0
    extra: bytes = b""
    after: bytes = b""
    mode: int = 0
    local: dict[str, object] = field(default_factory=dict)
    central: dict[str, object] = field(default_factory=dict)


def raw_zip(
    *members: Raw,
    before: bytes = b"",
    rest: bytes = b"",
    end: dict[str, int] | None = None,
    comment: bytes = b"",
    after: bytes = b"",
) -> bytes:
    body, directory = before, b""
    for each in members:
        fields: dict[str, object] = {"name": each.name, "flags": each.flags, "method": each.method, "extra": each.extra}
        fields |= {"crc": zlib.crc32(each.data), "packed": len(each.data), "size": len(each.data), "start": len(body), "disk": 0}
        fields |= {"comment": b""}
        one, two = fields | each.local, fields | each.central
        body += b"PK\x03\x04" + struct.pack(
            "<5H3L2H",
            20,
            one["flags"],
            one["method"],
            0,
            33,
            one["crc"],
            one["packed"],
            one["size"],
            len(one["name"]),
            len(one["extra"]),
        )
        body += one["name"] + one["extra"] + each.data + each.after
        directory += b"PK\x01\x02" + struct.pack(
            "<6H3L5H2L",
            0x314,
            20,
            two["flags"],
            two["method"],
            0,
            33,
            two["crc"],
            two["packed"],
            two["size"],
            len(two["name"]),
            len(two["extra"]),
            len(two["comment"]),
            two["disk"],
            0,
            each.mode << 16,
            two["start"],
        )
        directory += two["name"] + two["extra"] + two["comment"]
    body += rest
    last = {"disk": 0, "first": 0, "here": len(members), "count": len(members), "size": len(directory), "start": len(body)}
    last |= {"comment": len(comment)} | (end or {})
    return body + directory + b"PK\x05\x06" + struct.pack("<4H2LH", *last.values()) + comment + after


@pytest.mark.parametrize("method", [0, 8, 12, 14])
@pytest.mark.parametrize("seekable", [True, False])
@pytest.mark.parametrize("wide", [True, False])
def test_what_pythons_zipfile_writes_is_read(method: int, seekable: bool, wide: bool) -> None:
    assert read(zipped(method, seekable=seekable, wide=wide, comment=b"a comment")) == (CONTENT, [])


# Info-ZIP 3.0, `zip -qr0 - .`: two files with data descriptors, a folder, and a name in UTF-8.
INFO_ZIP = (
    "UEsDBAoACAAAAKqEeV0AAAAAAQAAAAEAAAABABwAYlVUCQADvw4Ha78OB2t1eAsAAQQAAAAABAAAAABiUEsHCPnvvnEBAAAAAQAAAFBLAwQKAAAAAACqhHld"
    "AAAAAAAAAAAAAAAAAgAcAHgvVVQJAAO/Dgdrvw4Ha3V4CwABBAAAAAAEAAAAAFBLAwQKAAgAAACqhHldAAAAAPoAAAD6AAAACAAcAHgvw6kudHh0VVQJAAO/"
    "Dgdrvw4Ha3V4CwABBAAAAAAEAAAAAGhhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFs"
    "bG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFs"
    "bG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFsbG9oYWxsb2hhbGxvaGFs"
    "bG9QSwcIRbgeWfoAAAD6AAAAUEsBAh4DCgAIAAAAqoR5XfnvvnEBAAAAAQAAAAEAGAAAAAAAAAAAAKSBAAAAAGJVVAUAA78OB2t1eAsAAQQAAAAABAAAAABQ"
    "SwECHgMKAAAAAACqhHldAAAAAAAAAAAAAAAAAgAYAAAAAAAAABAA7UFMAAAAeC9VVAUAA78OB2t1eAsAAQQAAAAABAAAAABQSwECHgMKAAgAAACqhHldRbge"
    "WfoAAAD6AAAACAAYAAAAAAAAAAAApIGIAAAAeC/DqS50eHRVVAUAA78OB2t1eAsAAQQAAAAABAAAAABQSwUGAAAAAAMAAwDdAAAA1AEAAAAA"
)


def test_what_info_zip_writes_is_read() -> None:
    found, problems = read(base64.b64decode(INFO_ZIP))
    assert problems == []
    assert set(found) == {"b", "x/é.txt"}


def test_what_torch_writes_is_read() -> None:
    # Each storage's data is aligned to 64 bytes by an extra field "FB", and followed by a data descriptor.
    members = []
    for name, data in ((b"m/data.pkl", b"\x80\x02N."), (b"m/version", b"3\n"), (b"m/data/0", bytes(100))):
        descriptor = b"PK\x07\x08" + struct.pack("<3L", zlib.crc32(data), len(data), len(data))
        extra = {"extra": b"FB" + struct.pack("<H", 20) + b"Z" * 20, "crc": 0, "packed": 0, "size": 0}
        members.append(Raw(name, data, flags=0x808, after=descriptor, local=extra))
    place = len(raw_zip(*members)) - 22
    directory = raw_zip(*members).index(b"PK\x01\x02")
    wide = b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 0x31E, 45, 0, 0, 3, 3, place - directory, directory)
    locator = b"PK\x06\x07" + struct.pack("<LQL", 0, place, 1)
    data = raw_zip(*members)
    data = data[:place] + wide + locator + data[place:]
    found, problems = read(data)
    assert problems == []
    assert found["m/data/0"] == bytes(100)
    assert zipfile.ZipFile(io.BytesIO(data)).testzip() is None


def test_the_sizes_of_a_large_member_are_where_torch_writes_them() -> None:
    # miniz: both sizes in the extra field, the packed one as zero, and zeros where they do not fit; then a long descriptor.
    after = b"PK\x07\x08" + struct.pack("<L2Q", zlib.crc32(b"hello"), 5, 5)
    for sizes in ((5, 0), (5, 5), (0, 0), (5, 0, 0)):
        extra = b"\x01\x00" + struct.pack(f"<H{len(sizes)}Q", 8 * len(sizes), *sizes)
        local: dict[str, object] = {"crc": 0, "size": 0, "packed": 0, "extra": extra}
        assert read(raw_zip(Raw(flags=8, after=after, local=local))) == ({"a.txt": b"hello"}, [])
        local["extra"] = extra.replace(b"\x05", b"\x06") if 5 in sizes else b"\x01\x00\x08\x00" + b"\x07" * 8
        with pytest.raises(Unscannable, match=r"a\.txt, whose local header"):
            read(raw_zip(Raw(flags=8, after=after, local=local)))


def test_of_a_large_archive_little_is_read() -> None:
    members = [Raw(f"m/data/{number}".encode(), bytes(140_000)) for number in range(30)]
    data = raw_zip(*members)

    class Counting(Memory):
        count = bytes = 0

        def read_at(self, offset: int, length: int) -> bytes:
            found = super().read_at(offset, length)
            self.count, self.bytes = self.count + 1, self.bytes + len(found)
            return found

    view = Counting(data)
    assert len(read_archive(Part(view, Scan(AllowList()))).members) == 30
    assert view.count < 40
    assert view.bytes < 200_000


def test_an_archive_of_arrays_has_no_problems() -> None:
    for write in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        write(file, x=np.ones(500), y=np.zeros((3, 3)))
        scan = scan_view(Memory(file.getvalue()), AllowList())
        assert scan.problems == []
        assert scan.formats == {"npz": 1, "npy": 2}


def test_an_archive_of_texts_has_no_problems_however_it_is_written() -> None:
    assert told(look_zip, zipped(8)) == []
    assert told(look_zip, raw_zip()) == []


def test_a_pickle_in_an_archive_is_followed_whatever_it_is_called() -> None:
    inner = raw_zip(Raw(b"weights.h5", b"cposix\nsystem\n(S'true'\ntR."))
    assert [text[:32] for text in told(look_zip, raw_zip(Raw(b"a/b.zip", inner)))] == ["unsafe: a/b.zip/weights.h5: refe"]


def test_two_archives_of_torch_in_one_are_unscannable() -> None:
    both = raw_zip(Raw(b"a/data.pkl", b"\x80\x02N."), Raw(b"b/data.pkl", b"\x80\x02N."))
    assert told(look_zip, both) == ["unscannable: holds a/data.pkl and b/data.pkl, of which torch reads one or the other"]


WRONG: dict[str, tuple[bytes, str]] = {
    "something before": (raw_zip(Raw(), before=b"#!/bin/sh\n"), "something before its first member"),
    "something before, of which the places know nothing": (b"12345" + raw_zip(Raw()), "does not reach"),
    "something between": (raw_zip(Raw(after=b"!"), Raw(b"b")), "have something between them"),
    "something before the directory": (raw_zip(Raw(), rest=b"hidden"), "between its last member and its central directory"),
    "something after": (raw_zip(Raw(), after=b"!"), "comment is not as long as it says"),
    "a comment with an end record": (raw_zip(Raw(), comment=raw_zip()), "does not reach from where it should"),
    "a comment with half an end record": (raw_zip(Raw(), comment=b"PK\x05\x06"), "no end record"),
    "no end record": (raw_zip(Raw())[:-22], "no end record"),
    "fewer members": (raw_zip(Raw(), Raw(b"b"), end={"here": 1, "count": 1}), "goes on after its last member"),
    "more members": (raw_zip(Raw(), end={"here": 2, "count": 2}), "central directory"),
    "volumes": (raw_zip(Raw(), end={"disk": 1}), "volumes"),
    "other volumes": (raw_zip(Raw(), end={"here": 0}), "volumes"),
    "a member on another volume": (raw_zip(Raw(central={"disk": 1})), "not read here"),
    "a missing ZIP64 record": (raw_zip(Raw(), end={"start": 0xFFFFFFFF}), "refers to another"),
    "members that overlap": (raw_zip(Raw(), Raw(b"b", central={"start": 0})), "reaches into"),
    "members within members": (raw_zip(Raw(data=raw_zip(Raw(b"b"))), Raw(b"b", central={"start": 35})), "reaches into"),
    "no local header": (raw_zip(Raw(data=raw_zip(Raw(b"b", bytes(30)))[:69], central={"start": 3})), "before its first member"),
    "encrypted": (raw_zip(Raw(flags=1)), "is encrypted"),
    "strongly encrypted": (raw_zip(Raw(flags=0x40)), "is encrypted"),
    "encrypted by AES": (raw_zip(Raw(method=99)), "is encrypted"),
    "an unknown flag": (raw_zip(Raw(flags=0x20)), "method that is not read"),
    "an unknown method": (raw_zip(Raw(method=9)), "method that is not read"),
    "another name": (raw_zip(Raw(local={"name": b"b.txt"})), "another name in its local header"),
    "another method": (raw_zip(Raw(local={"method": 8})), "contradicts the central directory"),
    "other flags": (raw_zip(Raw(local={"flags": 8})), "contradicts the central directory"),
    "another checksum": (raw_zip(Raw(local={"crc": 5})), "contradicts the central directory"),
    "another size": (raw_zip(Raw(local={"size": 4})), "contradicts the central directory"),
    "no size and no descriptor": (raw_zip(Raw(local={"size": 0, "packed": 0, "crc": 0})), "contradicts the central directory"),
    "a stored member of two sizes": (raw_zip(Raw(central={"size": 4}, local={"size": 4})), "sizes contradict each other"),
    "a folder with a content": (raw_zip(Raw(b"a/")), "sizes contradict each other"),
    "no descriptor": (raw_zip(Raw(flags=8)), "data descriptor"),
    "a wrong descriptor": (raw_zip(Raw(flags=8, after=b"PK\x07\x08" + bytes(12))), "data descriptor"),
    "a member longer than the file": (
        raw_zip(Raw(central={"size": 9999, "packed": 9999}, local={"size": 9999, "packed": 9999})),
        "reaches into",
    ),
    "a damaged extra field": (raw_zip(Raw(extra=b"\x01\x00\xff")), "extra field that is damaged"),
    "an extra field that is too long": (raw_zip(Raw(extra=b"\x01\x00\x09\x00ab")), "extra field that is damaged"),
    "a ZIP64 field for nothing": (raw_zip(Raw(extra=b"\x01\x00\x08\x00" + bytes(8))), "ZIP64"),
    "a ZIP64 field in the local header alone": (raw_zip(Raw(local={"extra": b"\x01\x00\x08\x00" + b"\x01" * 8})), "ZIP64"),
    "two ZIP64 fields": (raw_zip(Raw(extra=b"\x01\x00\x00\x00" * 2)), "extra field twice"),
    "two names": (raw_zip(Raw(extra=b"up\x0a\x00\x01" + struct.pack("<L", zlib.crc32(b"a.txt")) + b"b.txt")), "two names"),
    "a name for another name": (raw_zip(Raw(extra=b"up\x0a\x00\x01" + bytes(4) + b"a.txt")), "two names"),
    "a name that is no text": (raw_zip(Raw(b"\xff\xfe")), "name is no text"),
    "a name with a zero byte": (raw_zip(Raw(b"a.pkl\0.txt")), "name is no text"),
    "no name": (raw_zip(Raw(b"")), "name is no text"),
    "a wrong checksum": (raw_zip(Raw(local={"crc": 5}, central={"crc": 5})), "a.txt: does not have the checksum"),
    "data that is no deflate stream": (raw_zip(Raw(method=8)), "a.txt: cannot be decompressed"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_archive_that_readers_may_disagree_about_is_unscannable(what: str) -> None:
    data, why = WRONG[what]
    problems = told(look_zip, data)
    assert len(problems) == 1
    assert problems[0].startswith("unscannable: ")
    assert why in problems[0]


def test_an_extra_field_may_repeat_the_name() -> None:
    name = "é".encode()
    field = b"up" + struct.pack("<HBL", 5 + len(name), 1, zlib.crc32(name)) + name
    assert read(raw_zip(Raw(name, extra=field))) == ({"é": b"hello"}, [])


def test_data_that_goes_on_after_its_end_is_unscannable() -> None:
    packed = zlib.compress(TEXT)[2:-4]
    for more in (b"hidden", b"\0"):
        sizes = {"size": len(TEXT), "packed": len(packed) + len(more), "crc": zlib.crc32(TEXT)}
        problems = told(look_zip, raw_zip(Raw(data=packed + more, method=8, local=sizes, central=sizes)))
        assert problems == [
            f"unscannable: a.txt: goes on for {len(more)} bytes after its compressed stream (at byte {len(packed)})"
        ]


@pytest.mark.parametrize("signature", [b"PK\x07\x08", b""])
@pytest.mark.parametrize("form", ["<3L", "<L2Q"])
def test_a_data_descriptor_has_four_forms(signature: bytes, form: str) -> None:
    after = signature + struct.pack(form, zlib.crc32(b"hello"), 5, 5)
    nothing: dict[str, object] = {"crc": 0, "size": 0, "packed": 0}
    assert read(raw_zip(Raw(flags=8, after=after, local=nothing), Raw(b"b"))) == ({"a.txt": b"hello", "b": b"hello"}, [])


NAMES = {
    "../a": Fault.UNSAFE,
    "a/../../b": Fault.UNSAFE,
    "/etc/passwd": Fault.UNSAFE,
    "C:/a": Fault.UNSAFE,
    "c:a": Fault.UNSAFE,
    "\\a": Fault.UNSAFE,
    "..\\a": Fault.UNSAFE,
    "a\\..\\b": Fault.UNSAFE,
    "a\\b": Fault.UNSCANNABLE,
    "a\nb": Fault.UNSCANNABLE,
    "a\u202eb": Fault.UNSCANNABLE,
    "./.": Fault.UNSCANNABLE,
    "a" * 5000 + ".txt": Fault.UNSCANNABLE,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_none_of_a_file_in_the_folder_is_told(name: str) -> None:
    scan = Scan(AllowList())
    read_archive(Part(Memory(raw_zip(Raw(name.encode(), TEXT))), scan))
    assert [problem.fault for problem in scan.problems] == [NAMES[name]]


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("a", "a", "more than once"),
        ("a", "./a", "more than once"),
        ("d/a", "d//a", "more than once"),
        ("a", "A", "one name on some systems"),
        ("\u00e9", "e\u0301", "one name on some systems"),
        ("d/a", "D/b", "one name on some systems"),
        ("a", "a/b", "as a file and as a folder"),
        ("a/b", "a", "more than once"),
    ],
)
def test_names_that_are_one_file_to_some_are_unscannable(one: str, other: str, why: str) -> None:
    for names in ((one, other), ("first", one, "between", other)):
        problems = told(look_zip, raw_zip(*(Raw(name.encode(), TEXT) for name in names)))
        assert [why in problem for problem in problems] == [True]


def test_a_folder_may_come_before_and_after_what_is_in_it() -> None:
    for names in (("d/", "d/e/", "d/e/a"), ("d/e/a", "d/e/", "d/"), ("d/", "d/a", "e/a")):
        assert told(look_zip, raw_zip(*(Raw(name.encode(), b"" if name.endswith("/") else TEXT) for name in names))) == []


@pytest.mark.parametrize(
    ("mode", "fault"), [(0o120777, "unsafe"), (0o020666, "unsafe"), (0o010666, "unsafe"), (0o040755, "unscannable")]
)
def test_a_member_that_is_no_file_is_told(mode: int, fault: str) -> None:
    problems = told(look_zip, raw_zip(Raw(data=TEXT, mode=mode)))
    assert [problem.split(":")[0] for problem in problems] == [fault]


def test_more_members_than_parts_are_allowed_are_unscannable_at_once() -> None:
    data = raw_zip(*(Raw(f"{number}".encode()) for number in range(20)))
    assert told(look_zip, data, Limits(parts=10)) == ["unscannable: holds more than 10 parts"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_archive_that_was_changed_is_told_or_reads_as_pythons_zipfile_reads_it(data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([0, 8]))
    whole = bytearray(zipped(method, seekable=data.draw(st.booleans()), wide=data.draw(st.booleans())))
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] ^= data.draw(st.integers(1, 255))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    try:
        found, problems = read(bytes(whole))
    except Unscannable:
        return
    if not problems:
        with zipfile.ZipFile(io.BytesIO(whole)) as archive:
            members = {each.filename: archive.read(each) for each in archive.infolist() if not each.is_dir()}
        assert found == members


def test_an_archive_at_the_end_of_something_is_found() -> None:
    data = raw_zip(Raw())
    assert ends_as_zip(Memory(data))
    assert ends_as_zip(Memory(b"\x89HDF" + data))
    assert ends_as_zip(Memory(data + b"and more"))
    assert ends_as_zip(Memory(b"something" + data + bytes(60_000)))
    assert ends_as_zip(Memory(raw_zip(comment=b"x" * 65_535)))


def test_what_holds_no_archive_at_its_end_has_none() -> None:
    assert not ends_as_zip(Memory(b""))
    assert not ends_as_zip(Memory(b"PK\x05\x06"))
    assert not ends_as_zip(Memory(b"text with PK\x05\x06 in it, which is no end record of anything at all"))
    assert not ends_as_zip(Memory(raw_zip(Raw()) + bytes(70_000)))
