"""Tar archives: good ones have no problems; those that readers disagree about, or that lead out of their folder, are told."""

from __future__ import annotations

import io
import random
import tarfile
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.members import Headers
from airflow_pipesec.scan.scanner import Part, Scan, Unscannable
from airflow_pipesec.scan.tars import _members, is_tar, look_tar
from airflow_pipesec.scan.views import Memory

TEXT = b"a text that is a model of nothing. " * 10


def told(look: Callable[[Part], None], data: bytes) -> list[str]:
    """Look at bytes as one form, and return the problems of the archive itself and of its members, as text."""
    scan = Scan(AllowList())
    Part(Memory(data), scan).look(look)
    return [f"{problem.fault}: {problem}" for problem in scan.problems]


def tarred(form: int, *members: tarfile.TarInfo, content: bytes = TEXT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for member in members:
            member.size = len(content) if member.isfile() else 0
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


def info(name: str, kind: bytes = tarfile.REGTYPE, **pax: str) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.pax_headers, made.linkname = kind, pax, "/etc/passwd" if kind in (b"1", b"2") else ""
    return made


def block(name: bytes, size: bytes = b"00000000000\0", kind: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A header as it is given, with the checksum that belongs to it."""
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size + b"00000000000\0"
    tail = (kind + bytes(100) + magic).ljust(512 - len(head) - 8, b"\0")
    return head + b"%06o\0 " % (sum(head) + 8 * 32 + sum(tail)) + tail


def pax(**records: str) -> bytes:
    content = b""
    for key, value in records.items():
        record = f" {key}={value}\n"
        content += f"{len(record) + 2 if len(record) < 8 else len(record) + (2 if len(record) + 2 < 100 else 3)}{record}".encode()
    return block(b"p", b"%011o\0" % len(content), b"x") + content.ljust(-(-len(content) // 512) * 512, b"\0")


END = bytes(1024)
FILE = block(b"a.txt", b"%011o\0" % len(TEXT)) + TEXT.ljust(512, b"\0")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_pythons_tarfile_writes_has_no_problems(form: int) -> None:
    long = "long" * 20 + "/" + "name" * (25 if form else 20) + ".txt"
    data = tarred(form, info("d", tarfile.DIRTYPE), info("d/a.txt"), info("é.txt"), info(long), info("./d/b.txt"))
    assert is_tar(data[:4096])
    assert told(look_tar, data) == []
    assert set(_members(Part(Memory(data), Scan(AllowList())))) == {"d/a.txt", "é.txt", long, "./d/b.txt"}


@pytest.mark.parametrize("magic", [b"ustar\x0000", b"ustar  \0", bytes(8)])
def test_each_kind_of_header_is_read(magic: bytes) -> None:
    data = block(b"a.txt", b"%011o\0" % len(TEXT), magic=magic) + TEXT.ljust(512, b"\0") + END
    assert is_tar(data)
    assert told(look_tar, data) == []


def test_a_size_in_binary_is_read() -> None:
    data = block(b"a.txt", b"\x80" + len(TEXT).to_bytes(11, "big")) + TEXT.ljust(512, b"\0") + END
    assert told(look_tar, data) == []


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"4", b"6"])
def test_a_link_or_a_device_in_a_tar_is_unsafe(kind: bytes) -> None:
    problems = told(look_tar, tarred(tarfile.USTAR_FORMAT, info("a", kind), info("b.txt")))
    assert [problem.split(":")[0] for problem in problems] == ["unsafe"]


@pytest.mark.parametrize("name", ["../a.txt", "/a.txt", "d/../../a.txt"])
def test_a_name_in_a_tar_that_leads_out_is_unsafe(name: str) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info(name))
    data = file.getvalue().replace(b"a.txt", b"a.txt")
    assert [problem.split(":")[0] for problem in told(look_tar, data)] == ["unsafe"]


def test_a_pickle_in_a_tar_is_followed() -> None:
    data = tarred(tarfile.PAX_FORMAT, info("model.txt"), content=b"cposix\nsystem\n(S'true'\ntR.")
    assert [problem[:20] for problem in told(look_tar, data)] == ["unsafe: model.txt: r"]


TARS: dict[str, tuple[bytes, str]] = {
    "a member twice": (FILE + FILE + END, "more than once"),
    "no end": (FILE, "ends too early"),
    "half an end": (FILE + bytes(512), "ends too early"),
    "one block of an end, and more": (FILE + bytes(512) + FILE + END, "goes on after its end"),
    "something after the end": (FILE + END + FILE, "goes on after its end"),
    "something after much of an end": (FILE + END + bytes(100_000) + b"!", "goes on after its end"),
    "a wrong checksum": (FILE + FILE.replace(b"a.txt", b"b.txt") + END, "checksum"),
    "a size beyond the end": (block(b"a", b"77777777777\0") + END, "ends too early"),
    "a huge size": (block(b"a", b"\x80" + b"\xff" * 11) + END, "size is no number"),
    "a negative size": (block(b"a", b"\xff" * 12) + END, "size is no number"),
    "a size that is none": (block(b"a", b"0000000009x\0") + END, "size is no number"),
    "something in the rest of a block": (FILE[:-1] + b"!" + END, "fills a block up"),
    "another magic": (block(b"a", magic=b"ustar\x0001") + END, "kind of tar"),
    "a name that goes on": (block(b"a", magic=b"ustar  \0" + bytes(80) + b"d") + END, "some readers go on with"),
    "a sparse file": (block(b"a", kind=b"S") + END, "kind that is not read here"),
    "a contiguous file": (block(b"a", kind=b"7") + END, "kind that is not read here"),
    "a volume": (block(b"a", kind=b"V") + END, "kind that is not read here"),
    "a folder with a size": (block(b"a", b"00000000001\0", b"5") + bytes(512) + END, "folder that has a size"),
    "a file that is a folder": (block(b"a/") + END, "whether it is a file"),
    "a name that is no text": (block(b"\xff\xfe") + END, "name is no text"),
    "a sparse file of pax": (pax(**{"GNU.sparse.major": "1"}) + FILE + END, "GNU.sparse.major"),
    "another charset": (pax(hdrcharset="BINARY") + FILE + END, "hdrcharset"),
    "a link of pax": (pax(linkpath="/etc/passwd") + FILE + END, "linkpath"),
    "two names": (pax(path="b.txt") + FILE + END, "two names"),
    "two sizes": (pax(size="5") + FILE + END, "two sizes"),
    "a size where there is none": (pax(size="512") + block(b"a.txt") + FILE + END, "two sizes"),
    "a size of pax that is none": (pax(size="-1") + FILE + END, "size is no number"),
    "two headers of pax": (pax(path="a.txt") + pax(path="b.txt") + FILE + END, "two headers for one member"),
    "a header of pax for nothing": (pax(path="a.txt") + END, "does not follow"),
    "a damaged header of pax": (pax(path="a.txt").replace(b"14 path", b"99 path") + FILE + END, "pax header that is damaged"),
    "a key twice": (
        pax(path="a.txt").replace(b"14 path=a.txt\n" + bytes(14), b"14 path=a.txt\n" * 2).replace(b"00000000016", b"00000000034"),
        "sets path twice",
    ),
    "a header of all": (pax(path="a.txt").replace(b"x", b"g", 1) + FILE + END, "checksum"),
    "a giant header of pax": (block(b"p", b"00010000000\0", b"x") + FILE + END, "more than 1,048,576 bytes"),
    "a giant name": (block(b"p", b"00010000000\0", b"L") + FILE + END, "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize("what", TARS)
def test_a_tar_that_readers_may_disagree_about_is_unscannable(what: str) -> None:
    data, why = TARS[what]
    problems = told(look_tar, data)
    assert len(problems) == 1
    assert problems[0].startswith("unscannable: ")
    assert why in problems[0]


def test_a_header_for_all_members_may_hold_a_comment_and_no_name() -> None:
    for key, expected in (("comment", []), ("path", ["unscannable: has a header for all members that sets path (at byte 0)"])):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, pax_headers={key: "text"}) as archive:
            member = info("a.txt")
            member.size = len(TEXT)
            archive.addfile(member, io.BytesIO(TEXT))
        assert told(look_tar, file.getvalue()) == expected


def test_what_is_no_tar_is_none() -> None:
    for head in (b"", bytes(512), TEXT * 20, random.Random(2).randbytes(4096)):
        assert not is_tar(head)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_tar_that_was_changed_is_told_or_reads_as_pythons_tarfile_reads_it(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
    whole = bytearray(tarred(form, info("a.txt"), info("ä" * 60), info("b" * 120, comment="a comment")))
    if data.draw(st.booleans()):
        for _ in range(data.draw(st.integers(1, 3))):
            # Each second block or so is a header, and gets the checksum that belongs to it.
            start = data.draw(st.integers(0, 12)) * 512
            field = data.draw(st.sampled_from([(0, 100), (124, 136), (156, 157), (257, 265), (345, 500), (0, 512)]))
            whole[start + data.draw(st.integers(field[0], field[1] - 1))] = data.draw(st.integers(0, 255))
            if data.draw(st.booleans()):
                total = sum(whole[start : start + 512]) - sum(whole[start + 148 : start + 156]) + 8 * 32
                whole[start + 148 : start + 156] = b"%06o\0 " % total
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    scan = Scan(AllowList())
    try:
        found = _members(Part(Memory(bytes(whole)), scan))
    except Unscannable:
        return
    if not scan.problems:
        with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
            files = {each.name: each.size for each in archive.getmembers() if not each.isdir()}
        assert files == {name: view.size for name, view in found.items()}


def test_headers_are_read_together_where_they_are_close() -> None:
    headers = Headers(Memory(bytes(range(256)) * 1000))
    assert headers.at(5, 3) == b"\x05\x06\x07"
    assert headers.at(200_000, 2) == bytes([200_000 % 256, 200_001 % 256])
    with pytest.raises(Unscannable, match="ends too early"):
        headers.at(255_999, 2)
    with pytest.raises(Unscannable, match="ends too early"):
        headers.at(-1, 1)
