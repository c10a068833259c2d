"""Archives: a ZIP writer that can contradict itself, and members that go where they should not."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from tests.malicious_models.sample import Payload, Sample


class Member(NamedTuple):
    """A member as its own header and the directory tell of it; None where both are to tell the truth."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0
    extra: bytes = b""
    local_name: str | None = None
    local_flags: int | None = None
    local_method: int | None = None
    local_size: int | None = None
    local_crc: int | None = None
    central_crc: int | None = None
    central_size: int | None = None
    attributes: int = 0
    listed: bool = True


def joined(members: list[Member], *, comment: bytes = b"", base: int = 0, gap: bytes = b"") -> bytes:
    """Return a ZIP archive; each of its bytes is as the members say."""
    body, directory, listed = b"", b"", 0
    for member in members:
        data = member.data
        if member.method == 8:
            packer = zlib.compressobj(wbits=-15)
            data = packer.compress(data) + packer.flush()
        crc = zlib.crc32(member.data)
        name, own = member.name.encode(), (member.name if member.local_name is None else member.local_name).encode()
        flags = member.flags | (0x800 if not name.isascii() else 0)
        size = len(member.data)
        start = base + len(body)
        local_flags = flags if member.local_flags is None else member.local_flags
        local_method = member.method if member.local_method is None else member.local_method
        local_crc = crc if member.local_crc is None else member.local_crc
        sizes = (len(data), size) if member.local_size is None else (member.local_size,) * 2
        fields = (20, local_flags, local_method, 0, 33, local_crc, *sizes, len(own), len(member.extra))
        body += b"PK\x03\x04" + struct.pack("<5H3I2H", *fields) + own + member.extra + data + gap
        if not member.listed:
            continue
        listed += 1
        crc = crc if member.central_crc is None else member.central_crc
        size = size if member.central_size is None else member.central_size
        fields = (0x0314, 20, flags, member.method, 0, 33, crc, len(data), size, len(name), 0, 0, 0, 0, member.attributes, start)
        directory += b"PK\x01\x02" + struct.pack("<6H3I5H2I", *fields) + name
    place = base + len(body)
    return (
        body
        + directory
        + b"PK\x05\x06"
        + struct.pack("<4H2IH", 0, 0, listed, listed, len(directory), place, len(comment))
        + comment
    )


def tarred(*entries: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=form) as archive:
        for entry in entries:
            if isinstance(entry, tuple):
                info = tarfile.TarInfo(entry[0])
                info.size = len(entry[1])
                archive.addfile(info, io.BytesIO(entry[1]))
            else:
                archive.addfile(entry)
    return made.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def seven_zip(name: str, data: bytes) -> bytes:
    """Return a 7z archive of one member, stored (7zFormat.txt: signature header, packed stream, header)."""

    def number(value: int) -> bytes:
        return bytes([value]) if value < 0x80 else bytes([0x80 | value >> 8, value & 0xFF])

    size, crc = number(len(data)), struct.pack("<I", zlib.crc32(data))
    packs = b"\x06\x00\x01\x09" + size + b"\x00"
    folders = b"\x07\x0b\x01\x00\x01\x01\x00\x0c" + size + b"\x00"
    streams = b"\x04" + packs + folders + b"\x08\x0a\x01" + crc + b"\x00" + b"\x00"
    text = name.encode("utf-16-le") + b"\x00\x00"
    files = b"\x05\x01\x11" + number(len(text) + 1) + b"\x00" + text + b"\x00"
    header = b"\x01" + streams + files + b"\x00"
    start = struct.pack("<QQI", len(data), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf\x27\x1c\x00\x04" + struct.pack("<I", zlib.crc32(start)) + start + data + header


def zips(p: Payload) -> Iterator[tuple[str, str, bytes, bool]]:
    evil = p.pickle
    for name in (
        "../evil.txt",
        "../../../../../tmp/evil.txt",
        "/etc/evil.txt",
        "..\\evil.txt",
        "C:\\evil.txt",
        "a/../../evil.txt",
    ):
        yield f"goes to {name}", "model.zip", joined([Member("weights.json", b"{}"), Member(name, b"{}")]), False
    link = Member("link", b"/etc/passwd", attributes=0o120777 << 16)
    yield "symbolic link", "model.zip", joined([link]), False
    yield "symbolic link, then a member through it", "model.zip", joined([link, Member("link/x", b"{}")]), False
    yield "device", "model.zip", joined([Member("device", b"", attributes=0o060666 << 16)]), False
    yield "pickle", "model.zip", joined([Member("model.pkl", evil)]), True
    yield "pickle called README", "model.zip", joined([Member("README", evil)]), True
    yield "pickle in a folder", "model.zip", joined([Member("a/b/c/model.pkl", evil)]), True
    yield "pickle, deflated", "model.zip", joined([Member("model.pkl", evil, method=8)]), True
    yield "pickle with flags of encryption", "model.zip", joined([Member("model.pkl", evil, flags=1)]), False
    inner = joined([Member("model.pkl", evil)])
    yield "pickle two archives deep", "model.zip", joined([Member("inner.zip", inner)]), True
    yield "pickle three archives deep", "model.zip", joined([Member("a.zip", joined([Member("b.zip", inner)]))]), True
    mixed = tarred(("b.zip", joined([Member("c.pkl.gz", gzip.compress(evil, mtime=0))])))
    yield "pickle in gzip in ZIP in tar in ZIP", "model.zip", joined([Member("a.tar", mixed)]), True
    deep = evil
    for _ in range(30):
        deep = joined([Member("x.zip", deep)])
    yield "thirty archives deep", "model.zip", deep, False
    yield "script", "model.zip", joined([Member("setup.py", b"import os\nos.system('true')\n")]), True
    yield "program", "model.zip", joined([Member("lib.so", ELF)]), True
    yield "shell script", "model.zip", joined([Member("run.sh", b"#!/bin/sh\ntrue\n")]), True
    yield "name twice", "model.zip", joined([Member("a.json", b"{}"), Member("a.json", b"[]")]), False
    yield "names that differ in case", "model.zip", joined([Member("a.json", b"{}"), Member("A.json", b"[]")]), False
    yield "name with control characters", "model.zip", joined([Member("a\x1b[2J.json", b"{}"), Member("b\n.json", b"{}")]), False
    yield (
        "member that the directory does not list",
        "model.zip",
        joined([Member("a.json", b"{}"), Member("b.pkl", evil, listed=False)]),
        False,
    )
    yield "other name in the member", "model.zip", joined([Member("a.json", b"{}", local_name="a.pkl!")]), False


def bombs() -> Iterator[tuple[str, str, bytes]]:
    zeros = gzip.compress(bytes(1 << 20), mtime=0)
    yield "ZIP that claims four gibibytes", "bomb.zip", joined([Member("a", b"x", central_size=0xFFFFFFFE)])
    yield "gzip of gzip", "bomb.gz", gzip.compress(zeros * 128, mtime=0)
    overlapping = joined([Member("a", bytes(1000), method=8)])
    end = overlapping.rindex(b"PK\x05\x06")
    start = overlapping.index(b"PK\x01\x02")
    entry = overlapping[start:end]
    many = entry * 200
    tail = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 200, 200, len(many), start, 0)
    yield "ZIP whose members overlap", "bomb.zip", overlapping[:start] + many + tail
    empty = b"PK\x05\x06" + struct.pack("<4H2IH", 0, 0, 65535, 65535, 0, 0, 0)
    yield "ZIP that claims 65,535 members", "bomb.zip", empty
    info = tarfile.TarInfo("a")
    info.size = 1 << 40
    yield "tar that claims a tebibyte", "bomb.tar", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


ELF = b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)


def tars(p: Payload) -> Iterator[tuple[str, str, bytes, bool]]:
    evil = p.pickle
    for name in ("../evil", "/etc/evil", "a/../../evil"):
        yield f"goes to {name}", "model.tar", tarred((name, b"{}")), False
    yield "symbolic link", "model.tar", tarred(special("x", tarfile.SYMTYPE, "/etc/passwd")), False
    yield "symbolic link upwards", "model.tar", tarred(special("x", tarfile.SYMTYPE, "../.."), ("x/y", b"{}")), False
    yield "hard link", "model.tar", tarred(special("x", tarfile.LNKTYPE, "/etc/passwd")), False
    yield "device", "model.tar", tarred(special("x", tarfile.CHRTYPE)), False
    yield "FIFO", "model.tar", tarred(special("x", tarfile.FIFOTYPE)), False
    yield "pickle", "model.tar", tarred(("model.pkl", evil)), True
    yield "pickle called txt", "model.tar", tarred(("a.txt", b"hello\n"), ("b.txt", evil)), True
    yield "pickle, gzip", "model.tar.gz", gzip.compress(tarred(("model.pkl", evil)), mtime=0), True
    yield "pickle, name in a PAX header", "model.tar", tarred(("x" * 200, evil), form=tarfile.PAX_FORMAT), True
    yield "pickle, long name of GNU", "model.tar", tarred(("x" * 200, evil), form=tarfile.GNU_FORMAT), True
    yield "nemo", "model.nemo", tarred(("model_config.yaml", b"a: 1\n"), ("model_weights.ckpt", evil)), True
    yield "script", "model.tar", tarred(("a.py", b"import os\n")), True
    yield "after the end", "model.tar", tarred(("a.txt", b"hello\n")) + tarred(("model.pkl", evil)), False


def programs() -> Iterator[tuple[str, str, bytes]]:
    yield "ELF", "model.bin", ELF
    yield "ELF called txt", "weights.txt", ELF
    yield "Windows program", "model.exe", b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\x00\x00" + bytes(20)
    yield "Mach-O", "model.dylib", b"\xcf\xfa\xed\xfe" + bytes(28)
    yield "Mach-O for several machines", "model.dylib", b"\xca\xfe\xba\xbe" + struct.pack(">II", 1, 7) + bytes(32)
    yield "Java class", "Model.class", b"\xca\xfe\xba\xbe\x00\x00\x00\x34" + bytes(16)
    yield "shell script", "model.sh", b"#!/bin/sh\ntouch /tmp/x\n"
    yield "shell script called txt", "notes.txt", b"#!/bin/bash\ntrue\n"
    yield "Python script", "modeling_evil.py", b"import os\nos.system('true')\n"
    yield "Python script with a line for the shell", "model", b"#!/usr/bin/env python3\nimport os\n"
    yield "compiled Python", "model.pyc", b"\xa7\x0d\x0d\x0a" + bytes(12) + b"\xe3" + bytes(30)
    yield "WebAssembly", "model.wasm", b"\x00asm\x01\x00\x00\x00"
    yield "batch file", "model.bat", b"@echo off\r\ncalc.exe\r\n"
    yield "setup of an import path", "evil.pth", b"import os; os.system('true')\n"


def samples(p: Payload) -> Iterator[Sample]:
    for name, file, data, sure in zips(p):
        yield Sample(f"ZIP: {name}", file, data, "zip-extract", sure=sure)
    for name, file, data, sure in tars(p):
        yield Sample(f"tar: {name}", file, data, "zip-extract", sure=sure)
    for name, file, data in bombs():
        yield Sample(f"bomb: {name}", file, data, "zip-extract", sure=False)
    for name, file, data in programs():
        yield Sample(f"program: {name}", file, data, "none")
    yield Sample("7z: pickle", "model.7z", seven_zip("model.pkl", p.pickle), "zip-extract")
    yield Sample("7z: goes upwards", "model.7z", seven_zip("../x.json", b"{}"), "zip-extract", sure=False)
    yield Sample("7z: program", "model.7z", seven_zip("x", ELF), "zip-extract")
    with io.BytesIO() as made:
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(zipfile.ZipInfo("model.7z"), seven_zip("model.pkl", p.pickle))
        yield Sample("ZIP: pickle in 7z", "model.zip", made.getvalue(), "zip-extract")
