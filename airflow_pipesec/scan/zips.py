"""Zips: an archive is taken only if its directory, its local headers and its bytes agree, so that every reader sees the same.

Readers go by the end record, by the central directory, or by the local headers, and believe different ones of the sizes and names
that stand in several places. Here they are compared, and every byte of the file has to belong to something: by APPNOTE.TXT 6.3.10
of PKWARE ("4.4.1" and so on below are sections of it).
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_pipesec.scan import streams
from airflow_pipesec.scan.members import Headers, Names
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Cursor, Memory, Section, pieces

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["Archive", "Member", "ends_as_zip", "last_end", "look_zip", "read_archive"]

END = b"PK\x05\x06"
END_SIZE = 22
LONGEST_END = END_SIZE + 0xFFFF
CENTRAL, LOCAL, DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
END_64, LOCATOR_64 = b"PK\x06\x06", b"PK\x06\x07"
NEWEST = 63
"""The version 6.3 of the format, which LZMA needs (4.4.3)."""

MOST_ENDS = 100
STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
_DESCRIBED, _UTF8, _LZMA_END = 1 << 3, 1 << 11, 1 << 1
_TAKEN = 0b110 | _DESCRIBED | _UTF8  # 4.4.4: bits 1 and 2 tell how well it is compressed
_ENCRYPTED = 1 | 1 << 6 | 1 << 13
_DATA_ROOT = re.compile(r"[^/]+/data\.pkl")
_MAX, _MAX_16 = 0xFFFFFFFF, 0xFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """One member: where its local header and its data start, in bytes, and what all its headers say of it."""

    name: str
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int
    start: int

    @property
    def folder(self) -> bool:
        """Whether it is a folder, and no file."""
        return self.name.endswith("/")


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive whose headers agree; its members are in the order of the central directory."""

    part: Part
    members: tuple[Member, ...]

    def open(self, member: Member) -> View:
        """Return the bytes of a member, once its checksum is verified. Raises :class:`Unscannable`."""
        packed = Section(self.part.view, member.start, member.packed)
        if member.method == STORED:
            crc, size = 0, 0
            for piece in pieces(packed):
                crc, size = zlib.crc32(piece, crc), size + len(piece)
            if size != member.size or crc != member.crc:
                raise Unscannable("does not have the checksum that it states")
            return packed
        return streams.Inflated(packed, _codec(member), self.part.scan, [(member.size, member.crc)])


def _codec(member: Member) -> streams.Codec:
    if member.method == DEFLATED:
        return streams.inflate
    if member.method == BZIP2:
        return streams.bunzip

    def unlzma(source: streams.Source) -> Iterator[bytes]:
        # 5.8.8: the version of the SDK, the size of the properties, and the properties, as an .lzma file has them.
        head = source.take(9)
        if head[2:4] != b"\x05\x00":
            raise Unscannable("has an LZMA header that is not read here")
        size = (1 << 64) - 1 if member.flags & _LZMA_END else member.size
        return streams.unlzma_alone(source, head[4:] + size.to_bytes(8, "little"))

    return unlzma


@dataclass(frozen=True, slots=True)
class _Entry:
    """A member as the central directory has it."""

    raw: bytes
    name: str
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    header: int


_EXPORTED = re.compile(r"([^/]+/)data/(?:weights/weight|constants/tensor)_\d+")


@dataclass(frozen=True, slots=True)
class _Directory:
    count: int
    size: int
    start: int


def look_zip(part: Part) -> None:
    """Look at a ZIP archive: as one of torch's, Keras' or numpy's if it is such, and at every member by its content."""
    archive = read_archive(part)
    members = [member for member in archive.members if not member.folder]
    roots = [member.name for member in members if _DATA_ROOT.fullmatch(member.name)]
    if len(roots) > 1:
        raise Unscannable(f"holds {named(roots[0])} and {named(roots[1])}, of which torch reads one or the other")
    if roots:
        from airflow_pipesec.scan.torch_files import look_torch_zip

        look_torch_zip(part, archive)
        return
    names = {member.name for member in members}
    if "config.json" in names and any(name.endswith(".h5") for name in names):
        part.saw("keras")
    elif members and all(name.endswith(".npy") for name in names):
        part.saw("npz")
    else:
        part.saw("zip")
    for member in members:
        _look_member(part, archive, member, _companion(member.name, names))


def _companion(name: str, names: set[str]) -> str:
    from airflow_pipesec.scan.savedmodel_files import companion

    if (found := _EXPORTED.fullmatch(name)) and f"{found[1]}archive_format" in names:
        return "tensor of torch.export"
    return companion(name, names)


def _look_member(part: Part, archive: Archive, member: Member, companion: str) -> None:
    try:
        view = archive.open(member)
    except Unscannable as error:
        part.child(Memory(b""), member.name).unscannable(error.why, error.offset)
        return
    if member.size:
        part.child(view, member.name, companion=companion).look()


def read_archive(part: Part) -> Archive:
    """Read all the headers of an archive. Raises :class:`Unscannable` where they are not just one way to read it."""
    directory = _directory(part)
    entries = list(_entries(part, directory))
    names = Names(part)
    for entry in entries:
        names.take(entry.name, folder=entry.name.endswith("/"))
    starts = _starts(part, entries, directory.start)
    members = tuple(
        Member(each.name, each.method, each.flags, each.crc, each.packed, each.size, each.header, starts[each.header])
        for each in entries
    )
    return Archive(part, members)


def _directory(part: Part) -> _Directory:
    """Find the central directory by the end record (4.3.16), which has to be the last thing in the file."""
    base = max(0, part.size - LONGEST_END)
    tail = part.view.read_at(base, LONGEST_END)
    found = tail.rfind(END)
    if found < 0 or len(tail) - found < END_SIZE:
        raise Unscannable("has no end record of a ZIP archive")
    place = base + found
    disk, first, here, count, size, start, comment = struct.unpack_from("<4H2LH", tail, found + 4)
    if found + END_SIZE + comment != len(tail):
        raise Unscannable("has an end record whose comment is not as long as it says", place)
    if disk not in (0, _MAX_16) or first not in (0, _MAX_16) or here != count:
        raise Unscannable("is one of several volumes of an archive", place)
    end = place
    locator = part.view.read_at(place - 20, 20) if place >= 20 else b""
    if locator.startswith(LOCATOR_64):
        end, wide = _end_64(part, place - 20, locator)
        limits = (_MAX_16, _MAX, _MAX)
        for narrow, whole, limit in zip((count, size, start), (wide.count, wide.size, wide.start), limits, strict=True):
            if narrow not in (limit, whole):
                raise Unscannable("has two end records that contradict each other", place)
        directory = wide
    elif disk or first or _MAX in (size, start) or count == _MAX_16:
        raise Unscannable("has an end record that refers to another, which is not there", place)
    else:
        directory = _Directory(count, size, start)
    if directory.start + directory.size != end:
        raise Unscannable("has a central directory that does not reach from where it should to its end record", place)
    if directory.count > part.scan.limits.parts:
        raise Unscannable(f"holds more than {part.scan.limits.parts:,} parts")
    if directory.count * 46 > directory.size:
        raise Unscannable("has a central directory that is too short for its members", directory.start)
    return directory


def _end_64(part: Part, place: int, locator: bytes) -> tuple[int, _Directory]:
    """Return where the end record of ZIP64 (4.3.14) starts, and what it says; its locator (4.3.15) has to follow it at once."""
    disk, start, disks = struct.unpack_from("<LQL", locator, 4)
    if disk or disks != 1 or start + 56 != place:
        raise Unscannable("has an end record of ZIP64 that is not where it should be", place)
    record = part.read(start, 56)
    length, _, _, disk, first, here, count, size, directory = struct.unpack_from("<Q2H2L4Q", record, 4)
    if not record.startswith(END_64) or length != 44:
        raise Unscannable("has an end record of ZIP64 that is not read here", start)
    if disk or first or here != count:
        raise Unscannable("is one of several volumes of an archive", start)
    return start, _Directory(count, size, directory)


def _entries(part: Part, directory: _Directory) -> Iterator[_Entry]:
    """Read the central directory (4.3.12)."""
    cursor = Cursor(Section(part.view, directory.start, directory.size))
    for _ in range(directory.count):
        place = directory.start + cursor.place
        header = cursor.read(46)
        if len(header) < 46 or not header.startswith(CENTRAL):
            raise Unscannable("has a central directory that is damaged", place)
        flags, method, _, crc, packed, size, long_name, long_extra, long_comment, disk, _, external, start = struct.unpack_from(
            "<2H4L5H2L", header, 8
        )
        if header[6] > NEWEST:
            raise Unscannable("is of a version of ZIP that is not read here", place)
        raw = cursor.read(long_name)
        extra = cursor.read(long_extra)
        if len(raw) < long_name or len(extra) < long_extra or not cursor.skip(long_comment):
            raise Unscannable("has a central directory that is damaged", place)
        fields = _fields(extra, place)
        wide = [value == _MAX for value in (size, packed, start)]
        values = _wide(fields, place)
        if len(values) != sum(wide) or disk:
            raise Unscannable("has a central directory whose ZIP64 fields are not read here", place)
        size, packed, start = (
            values.pop(0) if is_wide else value for is_wide, value in zip(wide, (size, packed, start), strict=True)
        )
        if flags & _ENCRYPTED or 0x9901 in fields or 0x0017 in fields or method == 99:
            raise Unscannable("is encrypted", place)
        name = _name(raw, flags, fields, place)
        if flags & ~_TAKEN or method not in (STORED, DEFLATED, BZIP2, LZMA):
            raise Unscannable(f"holds {named(name)}, which is compressed by a method that is not read here", place)
        _judge_kind(part, name, external >> 16, place)
        if (method == STORED and size != packed) or (name.endswith("/") and size):
            raise Unscannable(f"holds {named(name)}, whose sizes contradict each other", place)
        yield _Entry(raw, name, method, flags, crc, packed, size, start)
    if cursor.left:
        raise Unscannable("has a central directory that goes on after its last member", directory.start + cursor.place)


def _judge_kind(part: Part, name: str, mode: int, place: int) -> None:
    kind = stat.S_IFMT(mode)
    if stat.S_ISLNK(mode):
        part.unsafe(f"holds {named(name)}, a link, which may lead anywhere", place)
    elif kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        part.unsafe(f"holds {named(name)}, a device or another special file", place)
    elif kind not in (0, stat.S_IFREG, stat.S_IFDIR) or (kind and (kind == stat.S_IFDIR) != name.endswith("/")):
        part.unscannable(f"holds {named(name)}, of which it is not clear whether it is a file", place)


def _fields(extra: bytes, place: int) -> dict[int, bytes]:
    """Return the extra fields of a header (4.5)."""
    fields: dict[int, bytes] = {}
    at = 0
    while at < len(extra):
        if len(extra) - at < 4:
            raise Unscannable("has an extra field that is damaged", place)
        tag, length = struct.unpack_from("<2H", extra, at)
        if length > len(extra) - at - 4:
            raise Unscannable("has an extra field that is damaged", place)
        if tag in fields and tag in (0x0001, 0x7075):
            raise Unscannable("has an extra field twice", place)
        fields[tag] = extra[at + 4 : at + 4 + length]
        at += 4 + length
    return fields


def _wide(fields: dict[int, bytes], place: int) -> list[int]:
    raw = fields.get(0x0001, b"")
    if len(raw) % 8:
        raise Unscannable("has a ZIP64 field that is not read here", place)
    return list(struct.unpack(f"<{len(raw) // 8}Q", raw))


def _name(raw: bytes, flags: int, fields: dict[int, bytes], place: int) -> str:
    """Return a member's name, of which no reader may take another."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = ""
    field = fields.get(0x7075)  # 4.6.9, Info-ZIP's: a version, the CRC of the name in the header, and the name in UTF-8
    if field is not None:
        if len(field) < 5 or field[0] != 1 or int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
            raise Unscannable("holds a member with two names that contradict each other", place)
        try:
            other = field[5:].decode("utf-8")
        except UnicodeDecodeError:
            other = ""
        if other != name and (raw.isascii() or flags & _UTF8 or other.isascii()):
            raise Unscannable("holds a member with two names that contradict each other", place)
        name = other
    if not name or "\0" in name:
        raise Unscannable("holds a member whose name is no text", place)
    return name


def _starts(part: Part, entries: list[_Entry], end: int) -> dict[int, int]:
    """Return where the data of each member starts, by its header's place, and see that the members are all that there is."""
    headers = Headers(part.view)
    starts: dict[int, int] = {}
    ordered = sorted(entries, key=lambda each: each.header)
    place = 0
    for number, entry in enumerate(ordered):
        if entry.header != place:
            why = "overlap" if entry.header < place else "have something between them"
            raise Unscannable(f"holds members that {why}" if place else "has something before its first member", place)
        start = _agreeing(headers, entry)
        starts[place] = start
        place = start + entry.packed
        following = ordered[number + 1].header if number + 1 < len(ordered) else end
        if place > following:
            raise Unscannable(f"holds {named(entry.name)}, which reaches into what follows it", entry.header)
        if entry.flags & _DESCRIBED:
            place += _descriptor(headers, entry, place, following - place)
    if place != end:
        raise Unscannable("has something between its last member and its central directory", place)
    return starts


def _agreeing(headers: Headers, entry: _Entry) -> int:
    """Return where a member's data starts, if its local header (4.3.7) says the same as the central directory."""
    place = entry.header
    raw = headers.at(place, 30)
    flags, method, _, crc, packed, size, long_name, long_extra = struct.unpack_from("<2H4L2H", raw, 6)
    if not raw.startswith(LOCAL) or raw[4] > NEWEST:
        raise Unscannable(f"holds {named(entry.name)}, whose local header is not where it should be", place)
    rest = headers.at(place + 30, long_name + long_extra)
    fields = _fields(rest[long_name:], place)
    values = _wide(fields, place)
    # 4.5.3: both sizes where one does not fit. Torch's writer (miniz) has them there and zeros in the header, and adds the place
    # of the header where that does not fit.
    if len(values) > 1 and ((packed, size) == (_MAX, _MAX) or (entry.flags & _DESCRIBED and not packed and not size)):
        size, packed, *values = values
    elif _MAX in (packed, size):
        raise Unscannable(f"holds {named(entry.name)}, whose local header has a ZIP64 field that is not read here", place)
    if values not in ([], [place]):
        raise Unscannable(f"holds {named(entry.name)}, whose local header has a ZIP64 field that is not read here", place)
    # 4.4.4: what the data descriptor says may be zero here; Info-ZIP leaves out the checksum alone.
    stated = zip((crc, packed, size), (entry.crc, entry.packed, entry.size), strict=True)
    agree = all(one == other or (not one and entry.flags & _DESCRIBED) for one, other in stated)
    if rest[:long_name] != entry.raw or _name(entry.raw, flags, fields, place) != entry.name:
        raise Unscannable(f"holds {named(entry.name)}, which has another name in its local header", place)
    if (flags, method) != (entry.flags, entry.method) or not agree:
        raise Unscannable(f"holds {named(entry.name)}, whose local header contradicts the central directory", place)
    return place + 30 + int(long_name) + int(long_extra)


def _descriptor(headers: Headers, entry: _Entry, place: int, room: int) -> int:
    """Return how long a data descriptor is (4.3.9): with or without a signature, with sizes of 4 or 8 bytes."""
    for form, signature in (("<3L", DESCRIPTOR), ("<L2Q", DESCRIPTOR), ("<3L", b""), ("<L2Q", b"")):
        length = len(signature) + struct.calcsize(form)
        if length == room and (form != "<3L" or max(entry.packed, entry.size) <= _MAX):
            expected = signature + struct.pack(form, entry.crc, entry.packed, entry.size)
            if headers.at(place, length) == expected:
                return length
    raise Unscannable(f"holds {named(entry.name)}, whose data descriptor contradicts the central directory", place)


def last_end(view: View) -> int:
    """Return the place of the last end record that readers come upon who look for it at the end of a file; -1 without one."""
    base = max(0, view.size - LONGEST_END)
    found = view.read_at(base, LONGEST_END).rfind(END)
    return found if found < 0 else base + found


def ends_as_zip(view: View) -> bool:
    """Whether readers that look for a ZIP archive's end record at the end of a file would find one."""
    base = max(0, view.size - LONGEST_END)
    tail = view.read_at(base, LONGEST_END)
    found = len(tail)
    for _ in range(MOST_ENDS):
        found = tail.rfind(END, 0, found)
        if found < 0:
            return False
        if len(tail) - found < END_SIZE:
            continue
        size, start, comment = struct.unpack_from("<2LH", tail, found + 12)
        if found + END_SIZE + comment == len(tail) or tail[max(0, found - 20) : found].startswith(LOCATOR_64):
            return True
        places = (start, base + found - size)
        if any(place >= 0 and view.read_at(place, 4) == CENTRAL for place in places):
            return True
    return True
