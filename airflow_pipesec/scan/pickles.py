"""Pickles: what loading a file by ``pickle.load`` and its kin can do, stream by stream.

What looks like a pickle is followed to its end, and what comes after it as well. What looks like something else is followed as a
shadow, for as long as a reader of pickles would: it executes what it comes upon before it finds that the rest is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.machine import Machine, Refused
from airflow_pipesec.scan.scanner import Limits, Part, Scan, Unscannable
from airflow_pipesec.scan.views import Section

if TYPE_CHECKING:
    from airflow_pipesec.scan.views import View

__all__ = ["BROKEN", "follow", "is_pickle", "look_nested", "look_pickle", "run_shadow", "shadow"]

TRIED = 1000
"""Opcodes; what can be followed so far from its first byte on is taken for a pickle."""

TORCH_MAGIC = 0x1950A86A20F9469CFC6C  # torch.serialization, what files before version 1.6 begin with
MOST_STREAMS = 100_000
STEPS_BEFORE_DOUBT = 50_000
TRIED_ALL = -1
BROKEN: Any = object()
# What can be the first opcode: all but those that need something on the stack.
_FIRST = frozenset(code for code in range(256) if code in b"(]})lcIFLSTUVXGJKMNBCPi0" or 0x80 <= code <= 0x98) - {0x81, 0x85}


def is_pickle(view: View) -> bool:
    """Whether bytes are a pickle: they begin with its protocol, or can be followed to a STOP that is their end, or for long."""
    return _followed(view) in (view.size, TRIED_ALL)


def _followed(view: View) -> int:
    """Return where a pickle at the start of bytes ends, 0 if there is none, and ``TRIED_ALL`` where it goes on and on."""
    head = view.read_at(0, 2)
    if len(head) == 2 and head[:1] == b"\x80" and head[1:] <= b"\x05":
        return TRIED_ALL
    if not head or head[0] not in _FIRST:
        return 0
    machine = _quiet(view)
    try:
        machine.run()
    except (Refused, Unscannable):
        return TRIED_ALL if machine.scan.opcodes >= TRIED else 0
    return machine.place


def _quiet(view: View) -> Machine:
    """Return a machine whose findings nobody reads."""
    return Machine(Part(view, Scan(AllowList.shipped(), Limits(opcodes=TRIED))), shadow=True)


def look_pickle(part: Part) -> None:
    """Follow every stream of a pickle file; what follows the last has to be nothing."""
    part.saw("pickle")
    if part.known.startswith("torch"):
        follow(part, 0, flavour=part.known)
        return
    place, streams = 0, 0
    while place < part.size:
        if streams and not _followed(Section(part.view, place)):
            part.unscannable(f"goes on for {part.size - place:,} bytes after its pickle", place)
            break
        machine = follow(part, place)
        if machine.result is BROKEN:
            break
        if not streams and machine.result == TORCH_MAGIC:
            from airflow_pipesec.scan.torch_files import look_torch_legacy

            look_torch_legacy(part, machine.place)
            return
        place = machine.place
        streams += 1
        if streams > MOST_STREAMS:
            raise Unscannable(f"holds more than {MOST_STREAMS:,} pickles")


def follow(part: Part, place: int, *, flavour: str = "") -> Machine:
    """Follow one stream that a loader reads from ``place`` on, and return the machine at its end.

    Where it cannot be followed to its end that is told, and the machine's result is :data:`BROKEN`.
    """
    machine = Machine(part, place, flavour=flavour)
    try:
        machine.run()
    except Refused as error:
        part.unsafe(error.why, error.offset)
        machine.result = BROKEN
    except Unscannable as error:
        part.unscannable(error.why, error.offset)
        machine.result = BROKEN
    part.scan.memo += len(machine.memo)
    return machine


def look_nested(part: Part) -> None:
    """Look at bytes within a pickle that may be one themselves: they are, if they can be followed to their end."""
    machine = _quiet(part.view)
    machine.scan.limits = part.scan.limits
    try:
        machine.run()
    except (Refused, Unscannable):
        shadow(part)
        return
    look_pickle(part)


def shadow(part: Part) -> None:
    """Tell what a reader of pickles would do with a part that is something else."""
    head = part.view.read_at(0, 1)
    if head and head[0] in _FIRST:
        run_shadow(Machine(part, shadow=True))


def run_shadow(machine: Machine) -> None:
    """Run a shadow for as long as it can be followed. Raises :class:`Unscannable` when that is too long."""
    try:
        machine.run()
    except Refused as error:
        # Random bytes hardly ever make a frame or get this far: somebody wrote this.
        machine.part.unsafe(f"read as a pickle, {error.why}", error.offset)
    except Unscannable as error:
        if machine.steps > STEPS_BEFORE_DOUBT:
            machine.part.unscannable(error.why, error.offset)
