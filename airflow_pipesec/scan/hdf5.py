"""HDF5: every object is visited; none refers to other files or loads plugins, and what its attributes hold is looked at.

A reader of its own, of what h5py and PyTables write by default and of the newer kind of groups, written to the HDF5 file format
specification, version 3.0. What it does not read is unscannable. Raw values of datasets are not read: they are numbers to every
reader, but for PyTables' arrays of pickled objects, which are unscannable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_pipesec.scan.hdf5_dense import NOWHERE, held
from airflow_pipesec.scan.hdf5_messages import Attribute, Message, attribute, filters, link, messages, number
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Memory

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["look_hdf5"]

SIGNATURE = b"\x89HDF\r\n\x1a\n"
PAGE = 1 << 15
MOST_PAGES = 256
MOST_HEAPS = 16
MOST_OBJECTS = 1_000_000
MOST_NODES = 1_000_000
MOST_READ = 1 << 30
LONGEST_NAME = 1 << 16
MOST_DEPTH = 64

# Filters of the library itself (deflate, shuffle, fletcher32, szip, nbit, scaleoffset), and h5py's own LZF.
FILTERS = frozenset((1, 2, 3, 4, 5, 6, 32000))

DATASPACE, LINK_INFO, DATATYPE, LINK, EXTERNAL_FILES, LAYOUT, FILTERS_USED, ATTRIBUTE, SYMBOLS, ATTRIBUTES = (
    *(0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B, 0x0C, 0x11, 0x15),
)
# Messages that say nothing that matters here: fill values, comments, times, settings of groups, counts.
OTHERS = frozenset((0x00, DATASPACE, DATATYPE, 0x04, 0x05, 0x0A, 0x0D, 0x0E, 0x12, 0x13, 0x16, 0x17))
KERAS = (b"model_config", b"training_config")


class _File:
    """The bytes of the file, by pages, so that small reads cost little; no more of them in all than is reasonable."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.pages: dict[int, bytes] = {}
        self.total = 0
        # Structure is read once, or a few times; more often only where a file has it lead to the same places over and over.
        self.most = min(MOST_READ, max(64 << 20, 4 * view.size))

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly so many bytes from a place."""
        if length < 0 or offset < 0 or offset + length > self.view.size:
            raise Unscannable("refers to a place beyond its end", min(offset, self.view.size))
        self.count(length + 16)
        first, last = offset // PAGE, (offset + length - 1) // PAGE
        if length > PAGE:
            data = self.view.read_at(offset, length)
        elif first == last:
            data = self.page(first)[offset - first * PAGE :][:length]
        else:
            data = (self.page(first) + self.page(last))[offset - first * PAGE :][:length]
        if len(data) != length:
            raise Unscannable("ends too early", offset)
        return data

    def count(self, length: int) -> None:
        """Count bytes that are gone through."""
        self.total += length
        if self.total > self.most:
            raise Unscannable(f"has more than {self.most:,} bytes of structure")

    def page(self, index: int) -> bytes:
        """Return one page, which is kept for a while."""
        found = self.pages.get(index)
        if found is None:
            if len(self.pages) >= MOST_PAGES:
                self.pages.pop(next(iter(self.pages)))
            found = self.pages[index] = self.view.read_at(index * PAGE, PAGE)
        return found


class _Walk:
    """One pass over a file: what was visited, and what waits for it."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.file = _File(part.view)
        self.seen: set[int] = set()
        self.nodes = 0
        self.waiting: list[tuple[int, str]] = []
        self.heaps: dict[int, dict[int, tuple[int, int]]] = {}
        self.texts = 0  # bytes of the attributes of one object
        self.told: set[str] = set()

    def unsafe(self, why: str, place: int) -> None:
        """Tell of each fault once."""
        if why not in self.told:
            self.told.add(why)
            self.part.unsafe(why, place)


def look_hdf5(part: Part) -> None:
    """Look at an HDF5 file: every object that any link leads to."""
    walk = _Walk(part)
    root, cached = _superblock(walk)
    part.saw("hdf5")
    walk.seen.add(root)
    _object(walk, root, "", cached)
    while walk.waiting:
        place, path = walk.waiting.pop()
        _object(walk, place, path)


def _superblock(walk: _Walk) -> tuple[int, tuple[int, int] | None]:
    """Return where the root group is, and what the superblock itself says of its tables (II.A)."""
    data = walk.file.read(0, min(96 + 8, walk.part.size))
    version = number(data, 8, 1)
    if data[:8] != SIGNATURE or version > 3:
        raise Unscannable(f"is an HDF5 file of the unknown version {version}", 8)
    sizes, addresses = ((13, 14), 24 + 4 * (version == 1)) if version < 2 else ((9, 10), 12)
    if any(number(data, at, 1) != 8 for at in sizes):
        raise Unscannable("is an HDF5 file with addresses of other than eight bytes, which is not read", 9)
    base, extra, end, fourth = (number(data, addresses + 8 * each, 8) for each in range(4))
    if base:
        raise Unscannable("is an HDF5 file whose addresses do not start with it", addresses)
    if end != walk.part.size:
        what = "is cut off" if end > walk.part.size else "has bytes behind its end"
        raise Unscannable(what, min(end, walk.part.size))
    if version < 2:
        if fourth != NOWHERE:
            raise Unscannable("is a part of an HDF5 file that is spread over several", addresses)
        entry = data[addresses + 32 :]
        cached = (number(entry, 24, 8), number(entry, 32, 8)) if number(entry, 16, 4) == 1 else None
        return number(entry, 8, 8), cached
    if extra != NOWHERE:
        for message in messages(walk.file, extra):
            # Settings of the B-trees and of the free space. Shared messages, drivers and cached images are not read.
            if message.kind not in (0x00, 0x13, 0x17):
                raise Unscannable(f"has the setting 0x{message.kind:x} for the whole file, which is not read", message.place)
    return fourth, None


def _object(walk: _Walk, place: int, path: str, cached: tuple[int, int] | None = None) -> None:
    """Look at one object: at its messages, and the links and attributes that they lead to."""
    shown = path or "/"
    found: list[Attribute] = []
    walk.texts = 0
    for message in messages(walk.file, place):
        kind, data = message.kind, message.data
        if message.flags & 2 and kind not in OTHERS:
            raise Unscannable(f"has a message of {named(shown)} that is shared, which is not read", message.place)
        if kind == ATTRIBUTE:
            found.append(_attribute(walk, data, message.place))
        elif kind == ATTRIBUTES:
            found += [_attribute(walk, each, at) for at, each in _dense(walk, data, 2)]
        elif kind == LINK:
            _link(walk, data, path, message.place)
        elif kind == LINK_INFO:
            for at, each in _dense(walk, data, 8):
                _link(walk, each, path, at)
        elif kind == SYMBOLS:
            tables = number(data, 0, 8), number(data, 8, 8)
            if cached is not None and cached != tables:
                raise Unscannable("has a root group that two readers find in different places", message.place)
            for name, target in _symbols(walk, *tables):
                _enqueue(walk, target, path, name, message.place)
        elif kind == EXTERNAL_FILES:
            walk.unsafe(f"has a dataset {named(shown)} whose values are read from other files", message.place)
        elif kind == LAYOUT:
            _layout(walk, data, shown, message.place)
        elif kind == FILTERS_USED:
            for identifier in filters(data):
                if identifier not in FILTERS:
                    walk.unsafe(
                        f"has a dataset {named(shown)} with the filter {identifier}, a plugin to be loaded", message.place
                    )
        elif kind not in OTHERS:
            raise Unscannable(f"has a message of the unknown type 0x{kind:x} at {named(shown)}", message.place)
    _attributes(walk, found, shown, place)


def _layout(walk: _Walk, data: bytes, shown: str, place: int) -> None:
    version = number(data, 0, 1)
    if not 1 <= version <= 5:
        raise Unscannable(f"has a dataset {named(shown)} of the unknown layout version {version}", place)
    layout = number(data, 2 if version < 3 else 1, 1)
    if layout == 3:
        walk.unsafe(f"has a virtual dataset {named(shown)}, whose values are read from other files", place)
    elif layout > 2:
        raise Unscannable(f"has a dataset {named(shown)} of the unknown layout {layout}", place)


def _link(walk: _Walk, data: bytes, path: str, place: int) -> None:
    """Follow a link within the file; tell of any other."""
    found = link(data)
    if found.kind == 0:
        _enqueue(walk, found.target, path, found.name, place)
    elif found.kind != 1:
        what = "to another file" if found.kind == 64 else f"of the type {found.kind}, which a plugin defines"
        walk.unsafe(f"has a link {named(path)}/{named(found.name)} {what}", place)


def _enqueue(walk: _Walk, target: int, path: str, name: bytes, place: int) -> None:
    if target in walk.seen:
        return
    if len(walk.seen) >= MOST_OBJECTS:
        raise Unscannable(f"has more than {MOST_OBJECTS:,} objects", place)
    walk.seen.add(target)
    walk.waiting.append((target, f"{path[-400:]}/{named(name)}"))


def _dense(walk: _Walk, data: bytes, order_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield what a link info or attribute info message (IV.A.2.c, IV.A.2.v) says is stored in a heap."""
    flags, start = number(data, 1, 1), 2
    if number(data, 0, 1) or flags & ~3:
        raise Unscannable("has a group of an unknown version")
    start += order_bytes if flags & 1 else 0
    heap, by_name = number(data, start, 8), number(data, start + 8, 8)
    by_order = number(data, start + 16, 8) if flags & 2 else NOWHERE
    if heap != NOWHERE:
        yield from held(walk.file, heap, [by_name, by_order])


def _symbols(walk: _Walk, tree: int, heap: int) -> Iterator[tuple[bytes, int]]:
    """Yield the names and places of the members of a group of the older kind (III.A.1, III.B, III.D)."""
    head = walk.file.read(heap, 32)
    if head[:5] != b"HEAP\0":
        raise Unscannable("has no names of a group where they should be", heap)
    size, names = number(head, 8, 8), number(head, 24, 8)
    if size > walk.part.scan.limits.text:
        raise Unscannable(f"has a group with {size:,} bytes of names", heap)
    text = walk.file.read(names, size)
    waiting, seen, beside = [(tree, -1)], {tree}, set()
    while waiting:
        place, level = waiting.pop()
        walk.nodes += 1
        if walk.nodes > MOST_NODES:
            raise Unscannable(f"has groups of more than {MOST_NODES:,} nodes", place)
        head = walk.file.read(place, 24)
        if head[:5] != b"TREE\0" or (level >= 0 and head[5] != level) or head[5] > MOST_DEPTH:
            raise Unscannable("has no node of a group's tree where one should be", place)
        beside |= {number(head, 8, 8), number(head, 16, 8)}
        used = number(head, 6, 2)
        entries = walk.file.read(place + 24, 16 * used + 8)
        for each in range(used):
            child = number(entries, 8 + 16 * each, 8)
            if head[5] == 0:
                yield from _table(walk, child, text)
            elif child in seen:
                raise Unscannable("has a group whose tree comes back to itself", child)
            else:
                seen.add(child)
                waiting.append((child, head[5] - 1))
    if not beside <= seen | {NOWHERE}:
        raise Unscannable("has a group whose tree has branches that are not reached from its root", tree)


def _table(walk: _Walk, place: int, text: bytes) -> Iterator[tuple[bytes, int]]:
    head = walk.file.read(place, 8)
    if head[:5] != b"SNOD\1":
        raise Unscannable("has no table of a group's members where one should be", place)
    used = number(head, 6, 2)
    entries = walk.file.read(place + 8, 40 * used)
    for start in range(0, 40 * used, 40):
        offset, target, kind = number(entries, start, 8), number(entries, start + 8, 8), number(entries, start + 16, 4)
        end = text.find(b"\0", offset, offset + LONGEST_NAME)
        if offset >= len(text) or end < 0:
            raise Unscannable("has a member of a group without a name", place)
        walk.file.count(end - offset)
        if kind > 2:
            raise Unscannable(f"has a member of a group of the unknown type {kind}", place)
        if kind != 2:  # which is a soft link, and leads to what another one leads to
            yield text[offset:end], target


def _attribute(walk: _Walk, data: bytes, place: int) -> Attribute:
    """Read an attribute, and the strings of it that lie in the file's global heap."""
    found = attribute(data)
    if isinstance(found, Message):
        raise Unscannable("has an attribute whose type stands elsewhere, which is not read", place)
    if found.variable:
        return found._replace(texts=[_variable(walk, each) for each in found.variable])
    walk.texts += sum(map(len, found.texts))
    if walk.texts > walk.part.scan.limits.text:
        raise Unscannable(f"has an object with more than {walk.part.scan.limits.text:,} bytes of text in its attributes", place)
    return found


def _variable(walk: _Walk, reference: bytes) -> bytes:
    """Return what a reference into a global heap (III.E) stands for."""
    length, place, index = number(reference, 0, 4), number(reference, 4, 8), number(reference, 12, 4)
    if not length or place in (0, NOWHERE):
        return b""
    known = walk.heaps.get(place)
    if known is None:
        if len(walk.heaps) >= MOST_HEAPS:
            walk.heaps.pop(next(iter(walk.heaps)))
        known = walk.heaps[place] = _collection(walk, place)
    start, size = known.get(index, (0, 0))
    if length > size or length > walk.part.scan.limits.text - walk.texts:
        raise Unscannable("has an attribute whose text is not in its heap, or too long", place)
    walk.texts += length
    return walk.file.read(start, length)


def _collection(walk: _Walk, place: int) -> dict[int, tuple[int, int]]:
    """Return where each object of one collection of the global heap starts, and its size."""
    head = walk.file.read(place, 16)
    if head[:5] != b"GCOL\1":
        raise Unscannable("has no text of an attribute where it should be", place)
    end, start = place + number(head, 8, 8), place + 16
    found: dict[int, tuple[int, int]] = {}
    while start + 16 <= end:
        head = walk.file.read(start, 16)
        index, size = number(head, 0, 2), number(head, 8, 8)
        if index == 0:  # free space, which comes last
            break
        if index in found:
            raise Unscannable("has two texts of one number in a heap", start)
        found[index] = (start + 16, size)
        start += 16 + (size + 7) // 8 * 8
    return found


def _attributes(walk: _Walk, found: list[Attribute], shown: str, place: int) -> None:
    """Look at what an object's attributes hold: configurations of Keras, and pickles."""
    named_by = {each.name: each.texts[0].rstrip(b"\0") for each in found if each.texts}
    for each in found:
        for text in each.texts:
            if each.name in KERAS:
                _keras(walk, text.rstrip(b"\0"), place)
            if each.scalar or len(each.texts) <= 16 or text[:1] == b"\x80":
                _pickle(walk, text, f"{shown.lstrip('/')}@{named(each.name)}")
    if named_by.get(b"CLASS") == b"VLARRAY" and named_by.get(b"PSEUDOATOM") == b"object":
        walk.part.unscannable(f"has an array {named(shown)} of pickled objects, which are not read", place)


def _keras(walk: _Walk, text: bytes, place: int) -> None:
    from airflow_pipesec.scan.jsons import parsed
    from airflow_pipesec.scan.keras import judge_config

    if len(text) > walk.part.scan.limits.text:
        raise Unscannable("has a Keras configuration that is too long to be read", place)
    if text:
        if "keras" not in walk.told:
            walk.told.add("keras")
            walk.part.saw("keras")
        judge_config(walk.part, parsed(text, "a Keras configuration"))


def _pickle(walk: _Walk, text: bytes, name: str) -> None:
    """Look at a string as a pickle where PyTables would load it as one: it does so with whatever ends with the opcode STOP."""
    data = text.rstrip(b"\0")
    if data[:1] != b"\x80" and not data.endswith(b"."):
        return
    from airflow_pipesec.scan.pickles import look_nested

    walk.part.child(Memory(data), name).look(look_nested)
