"""Torch files: a pickle of what the tensors are, and their numbers beside it, which nobody unpickles.

Three forms: the ZIP archive that torch writes since version 1.6, the legacy file of five pickles and raw storages, and the tar of
its first versions. All are read as ``torch.serialization`` (2.13) does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan import pickles
from airflow_pipesec.scan.arrays import MAGIC
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.values import Box

if TYPE_CHECKING:
    from airflow_pipesec.scan.machine import Machine
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View
    from airflow_pipesec.scan.zips import Archive, Member

__all__ = ["look_torch_legacy", "look_torch_tar", "look_torch_zip"]

PROTOCOL = 1001  # torch.serialization.PROTOCOL_VERSION
SHORT = 1024
_ELEMENT = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "ComplexDoubleStorage": 16,
    "ComplexFloatStorage": 8,
    "QUInt8Storage": 1,
    "QInt8Storage": 1,
    "QInt32Storage": 4,
    "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
    "UntypedStorage": 1,
}
_LABELS = ("version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment")
_STORAGE = re.compile(r"(\w{1,64})/\w{1,64}")
_PICKLE = re.compile(r"\w{1,64}\.pkl")


def look_torch_zip(part: Part, archive: Archive) -> None:
    """Look at an archive of torch's: its pickles by torch's rules, the code of TorchScript, and everything that is no storage."""
    root = next(member.name for member in archive.members if member.name.endswith("/data.pkl")).removesuffix("data.pkl")
    script = any(member.name == f"{root}constants.pkl" for member in archive.members)
    part.saw("torchscript" if script else "torch")
    flavour = "torchscript" if script else "torch"
    pickled = {"data.pkl"} if not script else _pickles(archive, root)
    storages: dict[str, Member] = {}
    referred: dict[str, tuple[str, int]] = {}
    for member in archive.members:
        name = member.name.removeprefix(root)
        if not member.name.startswith(root):
            part.unscannable(f"holds {named(member.name)}, which lies beside what torch reads")
        if (found := _STORAGE.fullmatch(name)) and f"{found[1]}.pkl" in pickled:
            if member.method:
                part.unscannable(f"holds the storage {named(member.name)} compressed, as torch writes none")
            elif part.view.read_at(member.start, len(MAGIC)) == MAGIC:
                part.unscannable(f"holds {named(member.name)}, a storage for torch, and for numpy a file of arrays", member.start)
            storages[name] = member
        elif name in pickled or name.endswith(".debug_pkl"):
            child = part.child(archive.open(member), member.name, known=flavour)
            folder = name.partition(".")[0]
            child.look(partial(_look_storages, flavour=flavour, folder=folder, referred=referred))
        elif script and name.startswith("code/") and name.endswith(".py"):
            from airflow_pipesec.scan.torchscript import look_code

            part.child(archive.open(member), member.name).look(look_code)
        elif name in _LABELS:
            content = archive.open(member)
            if content.size > SHORT or not content.read_at(0, SHORT).isascii():
                part.unscannable(f"holds {named(member.name)}, which is not what torch writes there")
        else:
            part.child(archive.open(member), member.name).look()
    for name in sorted(storages.keys() & referred.keys()):
        kind, number = referred[name]
        if name.startswith("traced_inputs/") and not storages[name].size:
            continue  # of the inputs that a function was traced with, only the shapes are kept
        if storages[name].size != _ELEMENT.get(kind, -1) * number:
            part.unscannable(f"holds a storage that is not as long as its pickle says ({named(name)})")
    if unknown := sorted(storages.keys() - referred.keys()):
        part.unscannable(f"holds {len(unknown):,} storages that no pickle refers to, {named(unknown[0])} the first of them")


def _pickles(archive: Archive, root: str) -> set[str]:
    """Return the names of the pickles that TorchScript writes beside each other: the model, its constants, its traced inputs."""
    names = (member.name.removeprefix(root) for member in archive.members if member.name.startswith(root))
    return {name for name in names if _PICKLE.fullmatch(name)}


def _look_storages(part: Part, *, flavour: str, folder: str, referred: dict[str, tuple[str, int]]) -> None:
    """Follow one pickle of an archive, and add the members that it reads as storages to ``referred``, with their lengths."""
    part.saw("pickle")
    machine = pickles.follow(part, 0, flavour=flavour)
    if machine.result is not pickles.BROKEN and machine.place != part.size:
        part.unscannable(f"goes on for {part.size - machine.place:,} bytes after its pickle", machine.place)
    referred.update((f"{folder}/{key}", storage) for key, storage in machine.storages.items())


def look_torch_legacy(part: Part, place: int) -> None:
    """Look at a legacy file: after the magic number a version, a description of the machine, the object, the storages' keys."""
    part.saw("torch legacy")
    version = _next(part, place)
    if version.result != PROTOCOL:
        raise Unscannable("is of a version of torch's legacy format that is not read here", place)
    machine = _next(part, _next(part, version.place).place, flavour="torch")
    keys = _next(part, machine.place)
    end = _raw_storages(part, keys.place, _texts(keys.result), machine.storages)
    if end != part.size:
        raise Unscannable(f"goes on for {part.size - end:,} bytes after its storages", end)


def _next(part: Part, place: int, *, flavour: str = "") -> Machine:
    machine = pickles.follow(part, place, flavour=flavour)
    if machine.result is pickles.BROKEN:
        raise Unscannable("cannot be followed to its end", place)
    return machine


def _texts(keys: Any) -> list[str]:
    if not isinstance(keys, Box) or keys.kind != "list" or not keys.whole or not all(type(key) is str for key in keys.items):
        raise Unscannable("has no list of its storages")
    return list(keys.items)


def _raw_storages(part: Part, place: int, keys: list[str], known: Mapping[str, tuple[str, int]]) -> int:
    """Return where the raw storages end: of each the number of its elements in 8 bytes, and the elements."""
    for key in keys:
        if key not in known:
            raise Unscannable(f"lists a storage that its object does not have ({named(key)})", place)
        size = _ELEMENT.get(known[key][0])
        if size is None:
            raise Unscannable(f"has a storage of a type that is not read here ({named(known[key][0])})", place)
        number = int.from_bytes(part.read(place, 8), "little", signed=True)
        if number < 0 or number != known[key][1] or size * number > part.size - place - 8:
            raise Unscannable(f"has a storage that is not as long as it says ({named(key)})", place)
        place += 8 + size * number
    return place


def look_torch_tar(part: Part, members: Mapping[str, View]) -> None:
    """Look at the tar of torch's first versions: pickles in each member, and raw storages between those of ``storages``."""
    part.saw("torch tar")
    if unknown := sorted(set(members) - {"sys_info", "pickle", "storages", "tensors"}):
        part.unscannable(f"holds {named(unknown[0])}, which lies beside what torch reads")
    for name in ("sys_info", "pickle", "storages", "tensors"):
        if name not in members:
            part.unscannable(f"has no member {name}")
            continue
        child = part.child(members[name], name, known="torch")
        if name in ("sys_info", "pickle"):
            child.look(lambda each: _demand_end(each, _tar_pickle(each, 0)))
        else:
            child.look(_tar_storages if name == "storages" else _tar_tensors)


def _tar_pickle(part: Part, place: int) -> int:
    return _next(part, place, flavour="torch tar").place


def _demand_end(part: Part, place: int) -> None:
    if place != part.size:
        part.unscannable(f"goes on for {part.size - place:,} bytes after its pickle", place)


def _count_of(part: Part) -> tuple[int, int]:
    machine = _next(part, 0)
    if type(machine.result) is not int or not 0 <= machine.result <= part.size:
        raise Unscannable("does not begin with a number of its parts")
    return machine.result, machine.place


def _tar_storages(part: Part) -> None:
    from airflow_pipesec.scan.values import Name

    number, place = _count_of(part)
    for _ in range(number):
        machine = _next(part, place)
        args = machine.result
        if not (isinstance(args, tuple) and len(args) == 3 and type(args[0]) is str and isinstance(args[2], Name)):
            raise Unscannable("has a storage whose description is none", place)
        length = int.from_bytes(part.read(machine.place, 8), "little", signed=True)
        place = _raw_storages(part, machine.place, [args[0]], {args[0]: (args[2].name, length)})
    # The views of storages, a list of tuples.
    _demand_end(part, _next(part, place).place)


def _tar_tensors(part: Part) -> None:
    number, place = _count_of(part)
    for _ in range(number):
        machine = _next(part, place)
        place = machine.place
        dimensions = int.from_bytes(part.read(place, 4), "little", signed=True)
        if not 0 <= dimensions <= 64:
            raise Unscannable("has a tensor whose shape is none", place)
        # The number of dimensions and four bytes of nothing, their sizes, their strides, and the offset.
        length = 8 + 16 * dimensions + 8
        part.read(place, length)
        place += length
    _demand_end(part, place)
