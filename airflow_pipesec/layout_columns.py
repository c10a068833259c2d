"""Layout, the inner part: columns of tasks and of edges that pass get their order and their heights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

__all__ = ["Slot", "put_in_order", "put_in_place"]

GAP_Y, LANE_GAP = 12.0, 8.0
SWEEPS = 6
# How much an edge wants to be straight: between two tasks, on its way past some, and where it is minor; and how much everything
# wants to be in the middle of its row.
STRAIGHT, PASSING, MINOR = 400.0, 20.0, 1.0
CENTRED = 3.0


@dataclass(slots=True, eq=False)
class Slot:
    """A place in a column: of a task, or of edges that pass. ``left`` and ``right`` lead to others, each with a weight."""

    name: str | None
    column: int
    width: float
    height: float
    left: list[tuple[Slot, float]] = field(default_factory=list)
    right: list[tuple[Slot, float]] = field(default_factory=list)
    place: float = 0.0
    y: float = 0.0  # of its middle


def put_in_order(row: Sequence[list[Slot]]) -> None:
    """Put the slots of each column in the order of the middle of what they lead to, to and fro, and keep what crosses least."""
    for column in row:
        # What passes a column begins in its middle, so that columns between which much passes stay side by side.
        tasks, lanes = [slot for slot in column if slot.name is not None], [slot for slot in column if slot.name is None]
        half = (len(tasks) + 1) // 2
        column[:] = [*tasks[:half], *lanes, *tasks[half:]]
        _count(column)
    best, order = _crossings(row), [list(column) for column in row]
    for sweep in range(SWEEPS):
        if not best:
            break
        forth = sweep % 2 == 0
        for column in row if forth else reversed(row):
            for slot in column:
                near = slot.left if forth else slot.right
                if near:
                    slot.place = sum(one.place * share for one, share in near) / sum(share for _, share in near)
            column.sort(key=lambda slot: slot.place)  # stable: equals stay as they were
            _count(column)
        found = _crossings(row)
        if found < best:
            best, order = found, [list(column) for column in row]
    for column, kept in zip(row, order, strict=True):
        column[:] = kept
        _count(column)


def _count(column: Iterable[Slot]) -> None:
    for number, slot in enumerate(column):
        slot.place = float(number)


def _crossings(row: Sequence[list[Slot]]) -> int:
    """Count the pairs of edges that cross: inversions, with a tree of partial sums (Barth, Jünger and Mutzel 2002)."""
    crossings = 0
    for column, following in pairwise(row):
        sums = [0] * (len(following) + 1)
        seen = 0
        for slot in column:
            places = sorted(int(other.place) for other, _ in slot.right)
            for place in places:
                at, before = place + 1, 0
                while at:
                    before += sums[at]
                    at &= at - 1
                crossings += seen - before
            for place in places:
                at = place + 1
                while at < len(sums):
                    sums[at] += 1
                    at += at & -at
            seen += len(places)
    return crossings


def put_in_place(row: Sequence[list[Slot]]) -> None:
    """Give each slot a height on the paper, near to what it leads to, without two that overlap."""
    for column in row:
        _settle(column, [(0.0, 1.0)] * len(column))
    _share(row)
    for sweep in range(2 * SWEEPS):
        for column in row if sweep % 2 == 0 else reversed(row):
            wanted = []
            for slot in column:
                near = [*slot.left, *slot.right]
                weight = sum(share for _, share in near) + CENTRED
                wanted.append((sum(one.y * share for one, share in near) / weight, weight))
            _settle(column, wanted)
    for column in row[1:]:
        # What is almost straight becomes so.
        _settle(column, [_straight(slot) for slot in column])


def _straight(slot: Slot) -> tuple[float, float]:
    for one, share in slot.left:
        if share > (0.7 * STRAIGHT if slot.name is not None and one.name is not None else PASSING / 2):
            return one.y, share
    return slot.y, CENTRED


def _share(row: Sequence[list[Slot]]) -> None:
    """Lessen the weight of an edge by what else is at its ends: one that is alone shall be straight, not one of a fan."""
    slots = [slot for column in row for slot in column]
    left = {slot: sum(weight for _, weight in slot.left) for slot in slots}
    right = {slot: sum(weight for _, weight in slot.right) for slot in slots}
    for slot in slots:
        slot.left = [(other, weight**2 / max(left[slot], right[other])) for other, weight in slot.left]
        slot.right = [(other, weight**2 / max(right[slot], left[other])) for other, weight in slot.right]


def _settle(column: Sequence[Slot], wanted: Sequence[tuple[float, float]]) -> None:
    """Move slots as near to where they are wanted, and as much, as their order and size allow: pool adjacent violators."""
    offsets = [0.0]
    for one, other in pairwise(column):
        gap = GAP_Y if one.name is not None and other.name is not None else LANE_GAP
        offsets.append(offsets[-1] + (one.height + other.height) / 2 + gap)
    pools: list[tuple[float, float, int]] = []  # the mean of what is wanted, how much, and of how many
    for (want, weight), offset in zip(wanted, offsets, strict=False):
        mean, size = want - offset, 1
        while pools and pools[-1][0] >= mean:
            before, more, count = pools.pop()
            mean, weight, size = (mean * weight + before * more) / (weight + more), weight + more, size + count
        pools.append((mean, weight, size))
    number = 0
    for mean, _, size in pools:
        for slot, offset in zip(column[number : number + size], offsets[number : number + size], strict=True):
            slot.y = mean + offset
        number += size
