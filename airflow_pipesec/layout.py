"""Layout: the tasks of a pipeline get places on paper, from left to right, in rows of a width that a person can read.

In the manner of Sugiyama, Tagawa and Toda (1981): layers by the longest path, order within a layer by barycentres, and places by
isotonic regression. All of it is linear in tasks and edges, but for sorting, since an edge is cut where a row ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from airflow_pipesec.pipeline import Pipeline

__all__ = ["Box", "Line", "Paper", "laid_out"]

LAYERS_IN_A_ROW = 7
GAP_X, GAP_Y = 34.0, 14.0
ROW_GAP = 44.0
MARGIN = 26.0
LANE = 6.0  # the height that an edge takes on its way past the boxes of a layer
SWEEPS = 4


class Box(NamedTuple):
    """Where a task stands: its left upper corner, and its size."""

    x: float
    y: float
    width: float
    height: float


class Line(NamedTuple):
    """An edge, or what of it is in one row: the points it goes through, and whether it comes from or goes on to another row."""

    above: str
    below: str
    points: tuple[tuple[float, float], ...]
    comes_in: bool
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Paper:
    """The whole: boxes by task, lines, and the size of the paper."""

    boxes: Mapping[str, Box]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass(slots=True)
class _Slot:
    """A place in a layer: of a task, or of an edge that passes."""

    name: str  # empty for an edge
    layer: int
    width: float
    height: float
    left: list[_Slot]
    right: list[_Slot]
    place: float = 0.0
    y: float = 0.0  # of its middle


def laid_out(pipeline: Pipeline, sizes: Mapping[str, tuple[float, float]]) -> Paper:
    """Return the places of all tasks, given their sizes (width, height)."""
    layers = _layers(pipeline)
    slots = {name: _Slot(name, layers[name], *sizes[name], [], []) for name in pipeline.nodes}
    columns: list[list[_Slot]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name in pipeline.nodes:
        columns[layers[name]].append(slots[name])
    parts = list(_parts(pipeline, slots, columns))
    rows = [columns[start : start + LAYERS_IN_A_ROW] for start in range(0, len(columns), LAYERS_IN_A_ROW)]
    boxes: dict[str, Box] = {}
    left_of: dict[int, float] = {}
    width, top = 0.0, MARGIN
    for row in rows:
        _order(row)
        _place(row)
        high = min((slot.y - slot.height / 2 for column in row for slot in column), default=0.0)
        low = max((slot.y + slot.height / 2 for column in row for slot in column), default=0.0)
        x = MARGIN
        for column in row:
            wide = max(slot.width for slot in column)
            for slot in column:
                slot.y += top - high
                left_of[id(slot)] = x + (wide - slot.width) / 2 if slot.name else x
                if slot.name:
                    boxes[slot.name] = Box(left_of[id(slot)], slot.y - slot.height / 2, slot.width, slot.height)
                else:
                    slot.width = wide
            x += wide + GAP_X
        width = max(width, x - GAP_X + MARGIN)
        top += low - high + ROW_GAP
    lines = [_line(part, left_of, width) for part in parts]
    return Paper(boxes, lines, max(width, 2 * MARGIN), max(top - ROW_GAP + MARGIN, 2 * MARGIN))


def _layers(pipeline: Pipeline) -> dict[str, int]:
    """Each task comes one layer after the last of those that it follows; what follows nothing comes just before what needs it."""
    found: dict[str, int] = {}
    for name, node in pipeline.nodes.items():
        found[name] = max((found[other] for other in node.upstream), default=-1) + 1
    for name in pipeline.nodes:
        below = pipeline.downstream[name]
        if below and not pipeline.nodes[name].upstream:
            found[name] = min(found[other] for other in below) - 1
    return found


class _Part(NamedTuple):
    above: str
    below: str
    slots: list[_Slot]
    comes_in: bool
    goes_on: bool


def _parts(pipeline: Pipeline, slots: Mapping[str, _Slot], columns: list[list[_Slot]]) -> Iterator[_Part]:
    """Yield the edges, cut where rows end, with a slot in each layer that they pass."""
    for name, node in pipeline.nodes.items():
        for other in node.upstream:
            above, below = slots[other], slots[name]
            if above.layer // LAYERS_IN_A_ROW == below.layer // LAYERS_IN_A_ROW:
                yield _Part(other, name, _chain(above, below, columns), comes_in=False, goes_on=False)
            else:
                # Between two rows it is told where it goes on, and where it comes from; not drawn through the rows between.
                end = (above.layer // LAYERS_IN_A_ROW + 1) * LAYERS_IN_A_ROW
                start = below.layer // LAYERS_IN_A_ROW * LAYERS_IN_A_ROW
                out = _chain(above, None, columns, until=end)
                yield _Part(other, name, out, comes_in=False, goes_on=True)
                yield _Part(other, name, _chain(None, below, columns, since=start), comes_in=True, goes_on=False)


def _chain(
    above: _Slot | None, below: _Slot | None, columns: list[list[_Slot]], *, since: int = 0, until: int = 0
) -> list[_Slot]:
    first = above.layer + 1 if above else since
    last = below.layer if below else until
    between = [_Slot("", layer, 0.0, LANE, [], []) for layer in range(first, min(last, len(columns)))]
    for slot in between:
        columns[slot.layer].append(slot)
    chain = [slot for slot in (above, *between, below) if slot is not None]
    for one, other in zip(chain, chain[1:], strict=False):  # noqa: RUF007 - pairs of a list that is at hand
        one.right.append(other)
        other.left.append(one)
    return chain


def _order(row: Sequence[list[_Slot]]) -> None:
    """Put the slots of each layer in the order of the middle of what they lead to, from left to right and back."""
    for column in row:
        for number, slot in enumerate(column):
            slot.place = float(number)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        for column in row if forth else reversed(row):
            for slot in column:
                near = slot.left if forth else slot.right
                if near:
                    slot.place = sum(one.place for one in near) / len(near)
            column.sort(key=lambda slot: slot.place)  # stable: equals stay as they were
            for number, slot in enumerate(column):
                slot.place = float(number)


def _place(row: Sequence[list[_Slot]]) -> None:
    """Give each slot a height on the paper, near to what it leads to, without two that overlap."""
    for column in row:
        at = -sum(slot.height + GAP_Y for slot in column) / 2
        for slot in column:
            slot.y = at + slot.height / 2
            at += slot.height + GAP_Y
    for sweep in range(2 * SWEEPS):
        forth = sweep % 2 == 0
        for column in row if forth else reversed(row):
            wanted = []
            for slot in column:
                near = slot.left if forth else slot.right
                near = near or (slot.right if forth else slot.left)
                wanted.append(sum(one.y for one in near) / len(near) if near else slot.y)
            _settle(column, wanted)


def _settle(column: Sequence[_Slot], wanted: Sequence[float]) -> None:
    """Move slots as near to where they are wanted as their order and size allow: pool adjacent violators."""
    offsets, at = [], 0.0
    for number, slot in enumerate(column):
        if number:
            at += (column[number - 1].height + slot.height) / 2 + GAP_Y
        offsets.append(at)
    pools: list[tuple[float, int]] = []  # the mean of what is wanted, and of how many
    for want, offset in zip(wanted, offsets, strict=True):
        mean, size = want - offset, 1
        while pools and pools[-1][0] >= mean:
            other, more = pools.pop()
            mean, size = (mean * size + other * more) / (size + more), size + more
        pools.append((mean, size))
    number = 0
    for mean, size in pools:
        for slot, offset in zip(column[number : number + size], offsets[number : number + size], strict=True):
            slot.y = mean + offset
        number += size


def _line(part: _Part, left_of: Mapping[int, float], width: float) -> Line:
    points: list[tuple[float, float]] = []
    if part.comes_in:
        points.append((MARGIN / 3, part.slots[0].y))
    for slot in part.slots:
        left = left_of[id(slot)]
        if slot.name == part.above and slot is part.slots[0] and not part.comes_in:
            points.append((left + slot.width, slot.y))
        elif slot.name == part.below and slot is part.slots[-1]:
            points.append((left, slot.y))
        else:
            points += [(left, slot.y), (left + slot.width, slot.y)]
    if part.goes_on:
        points.append((max(points[-1][0] + GAP_X / 2, points[-1][0]), part.slots[-1].y))
    return Line(part.above, part.below, tuple(points), part.comes_in, part.goes_on)
