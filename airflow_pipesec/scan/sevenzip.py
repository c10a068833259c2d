"""7z: an archive is read where its header, every number in it and every checksum fit, and by its simple methods.

By ``DOC/7zFormat.txt`` and ``DOC/Methods.txt`` of the LZMA SDK. Folders of one packed stream are read: copied, LZMA, LZMA2 (also
after a delta or a branch filter), deflate and bzip2. The files of a solid folder are stretches of what it decompresses to.
"""

from __future__ import annotations

import lzma
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from airflow_pipesec.scan import streams
from airflow_pipesec.scan.members import Names
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Memory, Section

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["look_7z"]

MAGIC = b"7z\xbc\xaf\x27\x1c"
START = 32
MOST_NESTED = 4
MOST_SIZE = 1 << 62
(
    _END,
    _HEADER,
    _ARCHIVE,
    _ADDITIONAL,
    _MAIN,
    _FILES,
    _PACKS,
    _UNPACKS,
    _SUBSTREAMS,
    _SIZES,
    _CRCS,
    _FOLDERS,
    _UNPACK_SIZES,
    _COUNTS,
    _EMPTY_STREAM,
    _EMPTY_FILE,
    _ANTI,
    _NAMES,
    _CREATED,
    _ACCESSED,
    _MODIFIED,
    _ATTRIBUTES,
    _COMMENT,
    _ENCODED,
    _PLACES,
    _DUMMY,
) = range(26)
_COPY, _LZMA2, _LZMA, _DEFLATE, _BZIP2 = b"\x00", b"\x21", b"\x03\x01\x01", b"\x04\x01\x08", b"\x04\x02\x02"
_DELTA, _AES = b"\x03", b"\x06\xf1\x07\x01"
_BRANCH = {
    b"\x03\x03\x01\x03": lzma.FILTER_X86,
    b"\x04": lzma.FILTER_X86,
    b"\x03\x03\x02\x05": lzma.FILTER_POWERPC,
    b"\x05": lzma.FILTER_POWERPC,
    b"\x03\x03\x04\x01": lzma.FILTER_IA64,
    b"\x06": lzma.FILTER_IA64,
    b"\x03\x03\x05\x01": lzma.FILTER_ARM,
    b"\x07": lzma.FILTER_ARM,
    b"\x03\x03\x07\x01": lzma.FILTER_ARMTHUMB,
    b"\x08": lzma.FILTER_ARMTHUMB,
    b"\x03\x03\x08\x05": lzma.FILTER_SPARC,
    b"\x09": lzma.FILTER_SPARC,
}
_OTHER = "uses a method of 7z that is not read here"


class _Reader:
    """The header of an archive, and a place in it. Whatever it lacks raises :class:`Unscannable`."""

    def __init__(self, data: bytes) -> None:
        self.data, self.place = data, 0

    @property
    def left(self) -> int:
        return len(self.data) - self.place

    def take(self, length: int) -> bytes:
        if not 0 <= length <= self.left:
            raise Unscannable("has a 7z header that ends too early")
        self.place += length
        return self.data[self.place - length : self.place]

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        """Read a number of 1 to 9 bytes; the first byte's leading ones tell how many follow, its rest are the highest bits."""
        first, mask, value = self.byte(), 0x80, 0
        for shift in range(0, 64, 8):
            if not first & mask:
                return value | (first & mask - 1) << shift
            value |= self.byte() << shift
            mask >>= 1
        return value

    def size(self) -> int:
        """Read a number of bytes."""
        value = self.number()
        if value >= MOST_SIZE:
            raise Unscannable("has a 7z header with a size that cannot be")
        return value

    def count(self, least: float = 1) -> int:
        """Read how many things follow, of which each takes ``least`` bytes or more."""
        value = self.number()
        if value * least > self.left:
            raise Unscannable("has a 7z header that ends too early")
        return value

    def demand(self, tag: int) -> None:
        if self.byte() != tag:
            raise Unscannable("has a 7z header that is not read here")

    def bits(self, count: int) -> list[bool]:
        raw = self.take((count + 7) // 8)
        return [bool(raw[at >> 3] & 0x80 >> (at & 7)) for at in range(count)]

    def defined(self, count: int) -> list[bool]:
        """Read which of some things are defined: all, or those of a row of bits."""
        return [True] * count if self.byte() else self.bits(count)

    def sums(self, count: int) -> list[int | None]:
        """Read checksums, of those of some things that have one."""
        return [int.from_bytes(self.take(4), "little") if has else None for has in self.defined(count)]


@dataclass(slots=True)
class _Folder:
    """What was packed as one: methods in the order in which they unpack, sizes, checksum, and the stretches of its files."""

    methods: list[tuple[bytes, bytes]]
    order: list[int]
    size: int = 0
    crc: int | None = None
    packed: int = 0
    start: int = 0
    stretches: list[streams.Stretch] = field(default_factory=list)


@dataclass(slots=True)
class _Item:
    name: str = ""
    empty: bool = False
    folder: bool = False
    attributes: int = 0


def look_7z(part: Part) -> None:
    """Look at every file of a 7z archive."""
    part.saw("7z")
    start = part.read(0, START)
    if start[:6] != MAGIC or start[6]:
        raise Unscannable("is of a version of 7z that is not read here")
    if zlib.crc32(start[12:32]) != int.from_bytes(start[8:12], "little"):
        raise Unscannable("has a 7z header that does not have the checksum that it states")
    offset, size, crc = (int.from_bytes(start[at:to], "little") for at, to in ((12, 20), (20, 28), (28, 32)))
    if START + offset + size != part.size:
        raise Unscannable("has a 7z header that is not at its end")
    if not size:
        return
    if size > part.scan.limits.text:
        raise Unscannable("has a 7z header that is too long")
    header = part.read(START + offset, size)
    if zlib.crc32(header) != crc:
        raise Unscannable("has a 7z header that does not have the checksum that it states", START + offset)
    _look_header(part, header, START + offset)


def _look_header(part: Part, header: bytes, end: int) -> None:
    """Read a header, that in which another is packed as well; ``end`` is where what is packed has to end."""
    for _ in range(MOST_NESTED):
        reader = _Reader(header)
        tag = reader.byte()
        if tag == _HEADER:
            break
        if tag != _ENCODED:
            raise Unscannable("has a 7z header that is not read here")
        folders = _streams(part, reader, end)
        if len(folders) != 1 or len(folders[0].stretches) != 1 or reader.left:
            raise Unscannable("has a 7z header that is not read here")
        if folders[0].size > part.scan.limits.text:
            raise Unscannable("has a 7z header that is too long")
        view = _unpacked(part, folders[0])
        header, end = view.read_at(0, view.size), folders[0].start
    else:
        raise Unscannable("has a 7z header within headers")
    tag = reader.byte()
    folders = []
    if tag == _MAIN:
        folders, tag = _streams(part, reader, end), reader.byte()
    elif end != START:
        raise Unscannable("has something between its start and its header")
    if folders and folders[0].start != START:
        raise Unscannable("has something before its first packed stream")
    items = []
    if tag == _FILES:
        items, tag = _items(part, reader), reader.byte()
    if tag != _END or reader.left:
        raise Unscannable("has a 7z header that is not read here")
    _look_items(part, folders, items)


def _streams(part: Part, reader: _Reader, end: int) -> list[_Folder]:
    """Read where the packed streams are and how they unpack; the last of them ends at ``end``."""
    tag = reader.byte()
    place, sizes = 0, list[int]()
    if tag == _PACKS:
        place = START + reader.size()
        count = reader.count()
        reader.demand(_SIZES)
        sizes = [reader.size() for _ in range(count)]
        if (tag := reader.byte()) == _CRCS:
            # Of what is packed: nobody writes them, and what is unpacked has its own.
            reader.sums(count)
            tag = reader.byte()
        if tag != _END:
            raise Unscannable("has a 7z header that is not read here")
        tag = reader.byte()
    folders: list[_Folder] = []
    if tag == _UNPACKS:
        folders, tag = _folders(reader), reader.byte()
    if len(folders) != len(sizes):
        raise Unscannable("has 7z streams that nothing unpacks" if len(folders) < len(sizes) else _OTHER)
    if sizes and place + sum(sizes) != end:
        raise Unscannable("has packed streams that do not end where its header starts")
    for folder, size in zip(folders, sizes, strict=True):
        folder.start, folder.packed, place = place, size, place + size
        folder.stretches = [(folder.size, folder.crc)]
    if tag == _SUBSTREAMS:
        _substreams(part, reader, folders)
        tag = reader.byte()
    if tag != _END:
        raise Unscannable("has a 7z header that is not read here")
    return folders


def _folders(reader: _Reader) -> list[_Folder]:
    reader.demand(_FOLDERS)
    count = reader.count()
    if reader.byte():
        raise Unscannable("has a 7z header in several places")
    folders = [_folder(reader) for _ in range(count)]
    reader.demand(_UNPACK_SIZES)
    for folder in folders:
        sizes = [reader.size() for _ in folder.methods]
        folder.size = sizes[folder.order[-1]]
        # A filter gives as many bytes as it takes.
        if len(set(sizes)) > 1:
            raise Unscannable(_OTHER)
    if (tag := reader.byte()) == _CRCS:
        for folder, crc in zip(folders, reader.sums(count), strict=True):
            folder.crc = crc
        tag = reader.byte()
    if tag != _END:
        raise Unscannable("has a 7z header that is not read here")
    return folders


def _folder(reader: _Reader) -> _Folder:
    """Read one folder, whose methods have to be a chain: each takes what another gives, and the first what is packed."""
    count = reader.count()
    if not 0 < count <= 4:
        raise Unscannable(_OTHER)
    methods = []
    for _ in range(count):
        flags = reader.byte()
        method = reader.take(flags & 15)
        if method == _AES:
            raise Unscannable("is encrypted")
        if flags & 0xD0:
            raise Unscannable(_OTHER)
        methods.append((method, reader.take(reader.size()) if flags & 32 else b""))
    takes = {}
    for _ in range(count - 1):
        into, out = reader.number(), reader.number()
        if into >= count or out >= count or into in takes:
            raise Unscannable(_OTHER)
        takes[into] = out
    given = {out: into for into, out in takes.items()}
    first = next(at for at in range(count) if at not in takes)
    order = [first]
    while (following := given.get(order[-1])) is not None and len(order) < count:
        order.append(following)
    if len(order) != count:
        raise Unscannable(_OTHER)
    return _Folder(methods, order)


def _substreams(part: Part, reader: _Reader, folders: list[_Folder]) -> None:
    """Read how many files each folder has, and the sizes and checksums of them."""
    counts, tag = [1] * len(folders), reader.byte()
    if tag == _COUNTS:
        counts, tag = [reader.number() for _ in folders], reader.byte()
    if sum(counts) > part.scan.limits.parts:
        raise Unscannable(f"holds more than {part.scan.limits.parts:,} parts")
    several = [[0] * count for count in counts]
    if tag == _SIZES or any(count > 1 for count in counts):
        if tag != _SIZES:
            raise Unscannable("has a 7z header that is not read here")
        for folder, sizes in zip(folders, several, strict=True):
            sizes[:-1] = [reader.size() for _ in sizes[:-1]]
            if sum(sizes) > folder.size:
                raise Unscannable("has files that are longer than what they are in")
        tag = reader.byte()
    for folder, sizes in zip(folders, several, strict=True):
        if sizes:
            sizes[-1] = folder.size - sum(sizes)
        elif folder.size:
            raise Unscannable("has 7z streams that are no file's")
    unknown = sum(len(sizes) for folder, sizes in zip(folders, several, strict=True) if len(sizes) != 1 or folder.crc is None)
    known: list[int | None] = [None] * unknown
    if tag == _CRCS:
        known, tag = reader.sums(unknown), reader.byte()
    rest = iter(known)
    for folder, sizes in zip(folders, several, strict=True):
        own = len(sizes) == 1 and folder.crc is not None
        folder.stretches = [(size, folder.crc if own else next(rest)) for size in sizes]
    if tag != _END:
        raise Unscannable("has a 7z header that is not read here")


def _items(part: Part, reader: _Reader) -> list[_Item]:
    """Read the files' names and what else is said of them."""
    count = reader.count()
    if count > part.scan.limits.parts:
        raise Unscannable(f"holds more than {part.scan.limits.parts:,} parts")
    items = [_Item() for _ in range(count)]
    seen = set()
    while tag := reader.byte():
        inner = _Reader(reader.take(reader.size()))
        if tag in seen and tag != _DUMMY:
            raise Unscannable("has a 7z header that says one thing twice")
        seen.add(tag)
        if tag == _EMPTY_STREAM:
            for item, empty in zip(items, inner.bits(count), strict=True):
                item.empty = item.folder = empty
        elif tag == _EMPTY_FILE:
            hollow = [item for item in items if item.empty]
            for item, is_file in zip(hollow, inner.bits(len(hollow)), strict=True):
                item.folder = not is_file
        elif tag == _NAMES:
            _read_names(inner, items)
        elif tag == _ATTRIBUTES:
            has = inner.defined(count)
            if inner.byte():
                raise Unscannable("has a 7z header in several places")
            for item, given in zip(items, has, strict=True):
                item.attributes = int.from_bytes(inner.take(4), "little") if given else 0
        elif tag in (_CREATED, _ACCESSED, _MODIFIED, _DUMMY):
            continue
        else:
            raise Unscannable("has a 7z header that is not read here")
        if inner.left:
            raise Unscannable("has a 7z header that is damaged")
    return items


def _read_names(reader: _Reader, items: list[_Item]) -> None:
    if reader.byte():
        raise Unscannable("has a 7z header in several places")
    try:
        names = reader.take(reader.left).decode("utf-16-le").split("\0")
    except UnicodeDecodeError:
        raise Unscannable("holds a member whose name is no text") from None
    if len(names) != len(items) + 1 or names.pop() or not all(names):
        raise Unscannable("does not have as many names as members")
    for item, name in zip(items, names, strict=True):
        item.name = name


def _look_items(part: Part, folders: list[_Folder], items: list[_Item]) -> None:
    names = Names(part)
    files = [item for item in items if not item.empty]
    if len(files) != sum(len(folder.stretches) for folder in folders) or not all(item.name for item in items):
        raise Unscannable("does not have as many names as members")
    for item in items:
        _judge_kind(part, item)
        names.take(item.name, folder=item.folder)
    from airflow_pipesec.scan.savedmodel_files import companion

    called = {item.name for item in items}
    remaining = iter(files)
    for folder in folders:
        here = [next(remaining) for _ in folder.stretches]
        try:
            view = _unpacked(part, folder)
        except Unscannable as error:
            for item in here:
                part.child(Memory(b""), item.name).unscannable(error.why, error.offset)
            continue
        places = accumulate((size for size, _ in folder.stretches), initial=0)
        for item, place, (size, _) in zip(here, places, folder.stretches, strict=False):
            if size:
                part.child(Section(view, place, size), item.name, companion=companion(item.name, called)).look()


def _judge_kind(part: Part, item: _Item) -> None:
    """Judge the attributes: Windows' own, and above them the mode that p7zip and others write, marked by bit 15."""
    mode = item.attributes >> 16 if item.attributes & 0x8000 else 0
    kind = stat.S_IFMT(mode)
    if item.attributes & 0x400 or stat.S_ISLNK(mode):
        part.unsafe(f"holds {named(item.name)}, a link, which may lead anywhere")
    elif kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
        part.unsafe(f"holds {named(item.name)}, a device or another special file")
    elif (kind == stat.S_IFDIR or item.attributes & 0x10) and not item.folder:
        part.unscannable(f"holds {named(item.name)}, of which it is not clear whether it is a file")


def _unpacked(part: Part, folder: _Folder) -> View:
    """Return what a folder unpacks to, once its checksums are verified."""
    methods = [folder.methods[at] for at in folder.order]
    packed = Section(part.view, folder.start, folder.packed)
    view = streams.Inflated(packed, _codec(methods, folder.size), part.scan, folder.stretches)
    if folder.crc is not None and len(folder.stretches) > 1:
        _demand_crc(view, folder.crc)
    return view


def _demand_crc(view: View, stated: int) -> None:
    crc, place = 0, 0
    while place < view.size and (piece := view.read_at(place, 1 << 20)):
        crc, place = zlib.crc32(piece, crc), place + len(piece)
    if crc != stated:
        raise Unscannable("does not have the checksum that it states")


def _codec(methods: list[tuple[bytes, bytes]], size: int) -> streams.Codec:
    """Return what unpacks a chain of methods, the first of which takes what is packed."""
    (method, properties), *filters = methods
    if not filters and not properties and method in (_COPY, _DEFLATE, _BZIP2):
        return {_COPY: _copied, _DEFLATE: streams.inflate, _BZIP2: streams.bunzip}[method]
    if not filters and method == _LZMA and len(properties) == 5:
        return partial(streams.unlzma_alone, header=properties + size.to_bytes(8, "little"))
    if method == _LZMA2 and len(properties) == 1 and properties[0] <= 40:
        bits = properties[0]
        width = 0xFFFFFFFF if bits == 40 else (2 | bits & 1) << (bits // 2 + 11)
        chain = [_filter(*each) for each in reversed(filters)]
        return partial(streams.unlzma, filters=[*chain, {"id": lzma.FILTER_LZMA2, "dict_size": width}])
    raise Unscannable(_OTHER)


def _filter(method: bytes, properties: bytes) -> dict[str, int]:
    if method in _BRANCH and not properties:
        return {"id": _BRANCH[method]}
    if method == _DELTA and len(properties) == 1:
        return {"id": lzma.FILTER_DELTA, "dist": properties[0] + 1}
    raise Unscannable(_OTHER)


def _copied(source: streams.Source) -> Iterator[bytes]:
    while piece := source.more():
        yield piece
