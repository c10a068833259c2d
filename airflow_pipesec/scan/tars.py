"""Tars: every block of an archive belongs to a header, to a file, or to its end, and all readers see the same files.

By POSIX.1-2017, ``pax`` (the ustar and pax interchange formats), and GNU tar's manual for its long names and large numbers. What
else there is (sparse files, volumes, signed checksums) is read by some and not by others, and so not here.
"""

from __future__ import annotations

import re
import tarfile
from typing import TYPE_CHECKING, NamedTuple

from airflow_pipesec.scan import zips
from airflow_pipesec.scan.members import Headers, Names
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Section

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["is_tar", "look_tar"]

BLOCK = 512
LONGEST_PAX = 1 << 20
USTAR_LIMIT = 1 << 33
"""The first size that the octal digits of a header do not hold."""

PIECE = 1 << 20
_USTAR, _GNU, _OLD = b"ustar\x0000", b"ustar  \x00", b"\0" * 8
_OCTAL = re.compile(rb" *([0-7]*)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]{0,6}) ")
_NUMBERS = ((100, 108), (108, 116), (116, 124), (136, 148), (329, 337), (337, 345))
"""Where mode, owner, group, time and the two numbers of a device are."""

_TORCH = {"sys_info", "pickle", "storages", "tensors"}
_HARMLESS = frozenset(("atime", "charset", "comment", "ctime", "gid", "gname", "mtime", "uid", "uname"))
_LINKS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a named pipe"}


class _Header(NamedTuple):
    name: bytes
    kind: bytes
    size: int


class _Extended(NamedTuple):
    """What goes before a member's own header: its name and its size, where they do not fit there."""

    name: bytes | None = None
    size: int | None = None
    gnu: bool = False


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive to any reader: its first header has the checksum that it states."""
    if len(head) < BLOCK or not any(head[:BLOCK]):
        return False
    stated = _octal(head[148:156])
    if stated is not None and stated == _checksum(head[:BLOCK]):
        return True
    try:
        # It takes more for a number, and sums of signed bytes.
        tarfile.TarInfo.frombuf(head[:BLOCK], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def _checksum(block: bytes) -> int:
    return sum(block) - sum(block[148:156]) + 8 * 0x20


def _octal(field: bytes) -> int | None:
    found = _OCTAL.fullmatch(field)
    return int(found[1] or b"0", 8) if found else None


def _number(field: bytes) -> int | None:
    # GNU's way: the first bit is set, and the rest is the number in binary. Negative ones are not taken.
    return int.from_bytes(field[1:], "big") if field[0] == 0x80 else _octal(field)


def look_tar(part: Part) -> None:
    """Look at every file of a tar archive; at one of torch's first versions as such."""
    part.saw("tar")
    members = _members(part)
    _look_end(part, members)
    if members.keys() >= _TORCH:
        from airflow_pipesec.scan.torch_files import look_torch_tar

        look_torch_tar(part, members)
        return
    from airflow_pipesec.scan.savedmodel_files import companion

    for name, view in members.items():
        if view.size:
            part.child(view, name, companion=companion(name, members)).look()


def _look_end(part: Part, members: dict[str, View]) -> None:
    """See that readers of ZIP archives, which look for one at the end of a file, find none but a member that is one.

    Such a member is judged by itself: its end record is the last, and its directory stands right before that.
    """
    place = zips.last_end(part.view)
    if place < 0:
        return
    member = next((each for each in members.values() if isinstance(each, Section) and 0 <= place - each.start < each.size), None)
    size, start = (int.from_bytes(part.view.read_at(place + at, 4), "little") for at in (12, 16))
    # Some readers count from the start of the file, where the others find that the archive starts further on.
    elsewhere = start != place - size and part.view.read_at(start, len(zips.CENTRAL)) == zips.CENTRAL
    if member is None or elsewhere or member.read_at(0, len(zips.LOCAL)) not in (zips.LOCAL, zips.END):
        part.unscannable("is a ZIP archive for readers that look at its end, and something else for others", place)


def _members(part: Part) -> dict[str, View]:
    """Return the files by their names. What is wrong with one is told; what nobody can read on from is raised."""
    headers, names = Headers(part.view), Names(part)
    members: dict[str, View] = {}
    place, count, extended = 0, 0, _Extended()
    while True:
        block = headers.at(place, BLOCK)
        if not any(block):
            if extended != _Extended():
                raise Unscannable("has a header for a member that does not follow", place)
            _demand_end(part, place)
            return members
        count += 1
        if count > part.scan.limits.parts:
            raise Unscannable(f"holds more than {part.scan.limits.parts:,} parts")
        header = _header(block, place)
        if header.kind in (b"x", b"g", b"L"):
            content = _content(headers, place, header)
            extended = _extend(extended, header, content, place)
        else:
            size = _size(header, extended, place)
            name = _name(header, extended, place)
            view = _member(part, names, name, header._replace(size=size), place)
            if view is not None:
                if name in members:
                    # It is told by now; both are looked at.
                    name = f"{name} (again at {place:,})"
                members[name] = view
            header, extended = header._replace(size=size), _Extended()
        place = _following(part, headers, place, header.size)


def _following(part: Part, headers: Headers, place: int, size: int) -> int:
    """Return where the next header is; what fills the last block up has to be zeros."""
    end = place + BLOCK + size
    if end > part.size:
        raise Unscannable("ends too early", part.size)
    fill = -size % BLOCK
    if fill and any(headers.at(end, fill)):
        raise Unscannable("has something in what fills a block up", end)
    return end + fill


def _header(block: bytes, place: int) -> _Header:
    if _octal(block[148:156]) != _checksum(block):
        raise Unscannable("has a header that does not have the checksum that it states", place)
    magic = block[257:265]
    if magic not in (_USTAR, _GNU, _OLD):
        raise Unscannable("has a header of a kind of tar that is not read here", place)
    if magic != _USTAR and any(block[345:500]):
        # GNU's incremental archives have times here, in which other readers see the folders that the name is in.
        raise Unscannable("has a header whose name some readers go on with", place)
    kind = block[156:157]
    name = block[:100].split(b"\0", 1)[0]
    if magic == _USTAR and (prefix := block[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    size = _number(block[124:136])
    if size is None or size >= 1 << 62:
        raise Unscannable("has a header whose size is no number", place)
    if any(_number(block[at:to]) is None for at, to in _NUMBERS):
        raise Unscannable("has a header that holds no number where one belongs", place)
    return _Header(name, kind, size)


def _content(headers: Headers, place: int, header: _Header) -> bytes:
    if header.size > LONGEST_PAX:
        raise Unscannable(f"has an extended header of more than {LONGEST_PAX:,} bytes", place)
    return headers.at(place + BLOCK, header.size) if header.size else b""


def _extend(extended: _Extended, header: _Header, content: bytes, place: int) -> _Extended:
    if header.kind == b"L":
        if extended != _Extended():
            raise Unscannable("has two headers for one member", place)
        name, _, rest = content.partition(b"\0")
        if any(rest):
            raise Unscannable("has a member whose name is no text", place)
        return _Extended(name, gnu=True)
    records = _records(content, place)
    if header.kind == b"g":
        if unknown := sorted(records.keys() - _HARMLESS):
            raise Unscannable(f"has a header for all members that sets {named(unknown[0])}", place)
        return extended
    if extended != _Extended():
        raise Unscannable("has two headers for one member", place)
    for key in sorted(records.keys() - _HARMLESS - {"path", "size"}):
        if not key.startswith(("SCHILY.", "LIBARCHIVE.", "APPLE.")):
            raise Unscannable(f"has a header that is not read here ({named(key)})", place)
    digits = records.get("size")
    if digits is not None and not re.fullmatch(rb"[0-9]{1,18}", digits):
        raise Unscannable("has a header whose size is no number", place)
    return _Extended(records.get("path"), None if digits is None else int(digits))


def _records(content: bytes, place: int) -> dict[str, bytes]:
    """Return the records of a pax header: each is its own length, a key and a value."""
    records: dict[str, bytes] = {}
    at = 0
    while at < len(content):
        found = _RECORD.match(content, at)
        end = at + int(found[1]) if found else 0
        key, equals, value = content[found.end() : end - 1].partition(b"=") if found else (b"", b"", b"")
        if not equals or end > len(content) or content[end - 1 : end] != b"\n" or not key.isascii():
            raise Unscannable("has a pax header that is damaged", place)
        if (text := key.decode()) in records:
            raise Unscannable(f"has a pax header that sets {named(text)} twice", place)
        records[text] = value
        at = end
    return records


def _size(header: _Header, extended: _Extended, place: int) -> int:
    """Return how many bytes follow a header; one that states none is believed only where the octal digits cannot."""
    size = extended.size
    if size is None or size == header.size:
        return header.size
    if header.size or size < USTAR_LIMIT:
        raise Unscannable("has a member of two sizes", place)
    return size


def _name(header: _Header, extended: _Extended, place: int) -> str:
    raw = header.name
    if extended.name is not None:
        raw = extended.name
        if not extended.gnu and raw.isascii() and len(raw) <= 100 and raw != header.name:
            raise Unscannable("has a member with two names", place)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise Unscannable("has a member whose name is no text", place) from None


def _member(part: Part, names: Names, name: str, header: _Header, place: int) -> View | None:
    """Return the bytes of a member that is a file."""
    if header.kind in _LINKS:
        part.unsafe(f"holds {named(name)}, {_LINKS[header.kind]}, which may lead anywhere", place)
        if header.size:
            raise Unscannable(f"holds {named(name)}, which is no file and has a size", place)
        return None
    folder = header.kind == b"5" or (header.kind == b"\0" and name.endswith("/"))
    if folder:
        names.take(name, folder=True)
        if header.size:
            raise Unscannable(f"holds {named(name)}, a folder that has a size", place)
        return None
    if header.kind not in (b"0", b"\0"):
        raise Unscannable(f"holds {named(name)}, a member of a kind that is not read here", place)
    if name.endswith("/"):
        raise Unscannable(f"holds {named(name)}, of which it is not clear whether it is a file", place)
    names.take(name)
    return Section(part.view, place + BLOCK, header.size)


def _demand_end(part: Part, place: int) -> None:
    """See that from here on there are zeros, two blocks of them at least."""
    if part.size - place < 2 * BLOCK:
        raise Unscannable("ends too early", part.size)
    while place < part.size:
        piece = part.view.read_at(place, PIECE)
        if not piece:
            raise Unscannable("ends too early", place)
        if any(piece):
            raise Unscannable("goes on after its end", place)
        place += len(piece)
