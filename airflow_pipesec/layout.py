"""Layout: the tasks of a pipeline get places on paper, from left to right, in rows of a width that a person can read.

In the manner of Sugiyama, Tagawa and Toda (1981): layers by the longest path, order within a layer by barycentres, heights by
isotonic regression. Edges of one task share their way as long as they can. Where a row ends they run below it to the next one.
Time grows with tasks and edges, with what passes the boxes, and with sorting; never with pairs of tasks.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise

from airflow_pipesec.layout_columns import MINOR, PASSING, STRAIGHT, Slot, put_in_order, put_in_place
from airflow_pipesec.pipeline import Pipeline

__all__ = ["Box", "Edge", "Line", "Paper", "Point", "laid_out"]

Edge = tuple[str, str]
Point = tuple[float, float]

WIDEST = 1150.0  # of a row, but for a layer that is wider alone
MOST_IN_LAYER = 20  # tasks beside each other; more go on further right
GAP_X, WIDER_GAP_X = 22.0, 18.0
ROW_GAP, PART_GAP = 34.0, 26.0
LANE = 6.0  # the height of an edge on its way past boxes, and the distance of edges between rows


@dataclass(frozen=True, slots=True)
class Box:
    """Where a task stands: its left upper corner, and its size."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Line:
    """A piece of an edge, or of several that share their way.

    ``above`` and ``below`` are the tasks at its ends, None where several lead on. ``minor`` says that all its edges are;
    ``arrives`` that it ends at the task ``below``; ``turns`` that it leads from one row to another, straight and around corners.
    """

    above: str | None
    below: str | None
    points: tuple[Point, ...]
    minor: bool
    arrives: bool = False
    turns: bool = False


@dataclass(frozen=True, slots=True)
class Paper:
    """The whole: boxes by task, lines, and the size of the paper."""

    boxes: Mapping[str, Box]
    lines: Sequence[Line]
    width: float
    height: float


@dataclass(slots=True)
class _Net:
    """The edges that lead from one task, or to one, and share their way: in each row the slots of it, from left to right."""

    hub: str
    out: bool
    ways: dict[int, list[Slot]] = field(default_factory=dict)
    pieces: list[tuple[list[Slot], bool]] = field(default_factory=list)  # of the shared way, and whether it is minor
    leaves: list[tuple[Slot, Slot, bool]] = field(default_factory=list)
    crosses: bool = False  # from row to row
    minor: bool = True  # where it does
    lane: float = 0.0


def laid_out(pipeline: Pipeline, sizes: Mapping[str, tuple[float, float]], minor: Collection[Edge] = ()) -> Paper:
    """Return the places of all tasks, given their least sizes (width, height) and the edges that need not be straight.

    Of tasks of one height in one column all get the width of the widest.
    """
    boxes: dict[str, Box] = {}
    lines: list[Line] = []
    width = height = left = top = 0.0
    for names in _parts(pipeline):
        part = _Part(pipeline, names, sizes, minor).laid_out()
        # Parts that have nothing to do with each other stand beside each other where there is room.
        if left and left + part.width > WIDEST:
            left, top = 0.0, height + PART_GAP
        boxes |= {name: Box(box.x + left, box.y + top, box.width, box.height) for name, box in part.boxes.items()}
        for line in part.lines:
            points = tuple((x + left, y + top) for x, y in line.points)
            lines.append(Line(line.above, line.below, points, line.minor, line.arrives, line.turns))
        width, height = max(width, left + part.width), max(height, top + part.height)
        left += part.width + PART_GAP
    return Paper({name: boxes[name] for name in pipeline.nodes}, lines, width, height)


def _parts(pipeline: Pipeline) -> Iterator[list[str]]:
    """Yield the tasks that are connected with each other, in the pipeline's order."""
    part: dict[str, int] = {}
    for number, name in enumerate(pipeline.nodes):
        waiting = [name]
        while waiting:
            current = waiting.pop()
            if current not in part:
                part[current] = number
                waiting += [*pipeline.nodes[current].upstream, *pipeline.downstream[current]]
    found: dict[int, list[str]] = {}
    for name in pipeline.nodes:
        found.setdefault(part[name], []).append(name)
    yield from found.values()


def _layers(pipeline: Pipeline, names: Iterable[str]) -> dict[str, int]:
    """Each task comes after the last of those that it follows; what follows nothing just before what needs it.

    Where a layer is full the task, and with it what follows, comes further right: in a later band of layers.
    """
    names = list(names)
    depth: dict[str, int] = {}
    for name in names:
        depth[name] = max((depth[other] for other in pipeline.nodes[name].upstream), default=-1) + 1
    for name in names:
        if pipeline.downstream[name] and not pipeline.nodes[name].upstream:
            depth[name] = min(depth[other] for other in pipeline.downstream[name]) - 1
    band: dict[str, int] = {}
    taken: dict[tuple[int, int], int] = defaultdict(int)
    open_since: dict[int, int] = defaultdict(int)
    for name in names:
        deep = depth[name]
        number = max((band[other] for other in pipeline.nodes[name].upstream), default=0)
        number = max(number, open_since[deep])
        while taken[number, deep] >= MOST_IN_LAYER:
            if number == open_since[deep]:
                open_since[deep] += 1
            number += 1
        band[name] = number
        taken[number, deep] += 1
    order = {place: number for number, place in enumerate(sorted(place for place, tasks in taken.items() if tasks))}
    return {name: order[band[name], depth[name]] for name in names}


def _rows(widths: Sequence[float], crossing: Sequence[int]) -> list[int]:
    """Return where rows begin: none too wide, of which each is well filled, and broken where few edges cross."""
    best: list[tuple[float, int]] = [(0.0, 0)]
    for end in range(1, len(widths) + 1):
        wide, found = -GAP_X, (float("inf"), 0)
        for start in range(end - 1, -1, -1):
            wide += widths[start] + GAP_X
            if wide > WIDEST and start < end - 1:
                break
            empty = 0.0 if end == len(widths) else max(1 - wide / WIDEST, 0.0)
            cut = 0 if end == len(widths) else crossing[end - 1]
            found = min(found, (best[start][0] + 0.3 + 3 * empty**2 + 0.4 * cut, start))
        best.append(found)
    starts, at = [], len(widths)
    while at:
        at = best[at][1]
        starts.append(at)
    return starts[::-1]


class _Part:
    """Tasks that are connected with each other, on their way onto paper."""

    def __init__(
        self, pipeline: Pipeline, names: list[str], sizes: Mapping[str, tuple[float, float]], minor: Collection[Edge]
    ) -> None:
        self.pipeline, self.minor = pipeline, minor
        layers = _layers(pipeline, names)
        widths = [0.0] * (max(layers.values()) + 1)
        changes = [0] * (len(widths) + 1)
        for name in names:
            widths[layers[name]] = max(widths[layers[name]], sizes[name][0])
            changes[layers[name]] += 1
            changes[max([layers[other] for other in pipeline.downstream[name]], default=layers[name])] -= 1
        crossing = [0] * len(widths)
        for layer, change in enumerate(changes[:-1]):
            crossing[layer] = crossing[layer - 1] + change if layer else change
        self.starts = _rows(widths, crossing)
        # Each row has a column before and after its layers, in which edges come in and go on.
        self.first = [start + 2 * row for row, start in enumerate(self.starts)]
        self.last = [first - 1 for first in self.first[1:]] + [len(widths) + 2 * len(self.starts) - 1]
        self.columns: list[list[Slot]] = [[] for _ in range(self.last[-1] + 1)]
        self.slots: dict[str, Slot] = {}
        for name in names:
            row = bisect_right(self.starts, layers[name]) - 1
            self.slots[name] = self._slot(layers[name] + 2 * row + 1, name, sizes[name])
        self.nets = list(self._nets())

    def _slot(self, column: int, name: str | None = None, size: tuple[float, float] = (0.0, LANE)) -> Slot:
        slot = Slot(name, column, *size)
        self.columns[column].append(slot)
        return slot

    def _row(self, slot: Slot) -> int:
        return bisect_right(self.first, slot.column) - 1

    def _nets(self) -> Iterator[_Net]:
        """Yield the edges by the task that they share: that above, or that below where more edges come from afar."""
        edges = [(other, name) for name in self.slots for other in sorted(self.pipeline.nodes[name].upstream)]
        leave: dict[str, int] = defaultdict(int)
        come: dict[str, int] = defaultdict(int)
        for above, below in edges:
            if self.slots[below].column - self.slots[above].column > 1:
                leave[above] += 1
                come[below] += 1
        shared: dict[tuple[str, bool], list[Edge]] = {}
        for above, below in edges:
            afar = self.slots[below].column - self.slots[above].column > 1
            out = not (afar and come[below] > leave[above])
            shared.setdefault((above if out else below, out), []).append((above, below))
        for (hub, out), some in shared.items():
            yield self._net(_Net(hub, out), some)

    def _net(self, net: _Net, edges: Sequence[Edge]) -> _Net:
        hub, out = self.slots[net.hub], net.out
        home = self._row(hub)
        by_row: dict[int, list[tuple[Slot, int, bool]]] = {home: []}
        for edge in edges:
            slot = self.slots[edge[1] if out else edge[0]]
            minor = edge in self.minor
            by_row.setdefault(self._row(slot), []).append((slot, slot.column + (-1 if out else 1), minor))
            if self._row(slot) != home:
                net.crosses, net.minor = True, net.minor and minor
        for row, some in by_row.items():
            joints = [joint for _, joint, _ in some]
            wanted = [joint for _, joint, minor in some if not minor]
            port = self.last[row] if out == (row == home) else self.first[row]  # where it leaves or enters the row
            if net.crosses:
                joints.append(port)
                wanted += [] if net.minor else [port]
            joints += [hub.column] if row == home else []
            way = [
                hub if row == home and column == hub.column else self._slot(column)
                for column in range(min(joints), max(joints) + 1)
            ]
            net.ways[row] = way
            until = (max(wanted, default=-1) if out else min(wanted, default=len(self.columns))) - way[0].column
            self._share(net, way, min(max(until, 0), len(way) - 1))
            for slot, joint, minor in some:
                at = way[joint - way[0].column]
                net.leaves.append((at, slot, minor) if out else (slot, at, minor))
                self._link(*net.leaves[-1])
        return net

    def _share(self, net: _Net, way: list[Slot], until: int) -> None:
        """Link what edges share. It is minor beyond the last, or before the first, that is not."""
        pieces = [(way[: until + 1], not net.out), (way[until:], net.out)]
        net.pieces += [(piece, minor) for piece, minor in pieces if len(piece) > 1]
        for piece, minor in pieces:
            for one, other in pairwise(piece):
                self._link(one, other, minor)

    @staticmethod
    def _link(one: Slot, other: Slot, minor: bool) -> None:
        weight = MINOR if minor else STRAIGHT if one.name is not None and other.name is not None else PASSING
        one.right.append((other, weight))
        other.left.append((one, weight))

    def laid_out(self) -> Paper:
        """Return the places, from nought on."""
        rows = [self.columns[first : last + 1] for first, last in zip(self.first, self.last, strict=True)]
        lanes = self._lanes()
        at = [0.0] * len(self.columns)
        wide = [0.0] * len(self.columns)
        ends: list[float] = []
        bottoms: list[float] = []
        boxes: dict[str, Box] = {}
        top = 0.0
        for row, first in zip(rows, self.first, strict=True):
            put_in_order(row)
            put_in_place(row)
            high = min(slot.y - slot.height / 2 for column in row for slot in column)
            low = max(slot.y + slot.height / 2 for column in row for slot in column)
            x = lanes * LANE + (LANE if lanes else 0.0)
            for number, column in enumerate(row, first):
                if not column:
                    # No edge comes in or goes on; yet rows begin below each other.
                    at[number] = x
                    x += GAP_X if lanes and number == first else 0.0
                    continue
                widest: dict[float, float] = defaultdict(float)
                for slot in column:
                    widest[slot.height] = max(widest[slot.height], slot.width)
                at[number], wide[number] = x, max(widest.values())
                steep = max((abs(slot.y - other.y) for slot in column for other, _ in slot.right), default=0.0)
                for slot in column:
                    slot.y = round(slot.y + top - high, 1)
                    if slot.name is not None:
                        slot.width = widest[slot.height]
                        box_x = x + (wide[number] - slot.width) / 2
                        boxes[slot.name] = Box(box_x, slot.y - slot.height / 2, slot.width, slot.height)
                x += wide[number] + round(GAP_X + min(WIDER_GAP_X, steep / 16))  # whole, so that sums of it are exact
            ends.append(max(at[number] + wide[number] for number in range(first, first + len(row))))
            bottoms.append(top + low - high)
            top = bottoms[-1] + ROW_GAP + len(row[-1]) * LANE
        lines = [line for net in self.nets for line in self._lines(net, boxes, at, wide)]
        turns = list(self._turns(max(ends), bottoms, at, lanes))
        width = max([*ends, *(x for line in turns for x, _ in line.points)])
        return Paper(boxes, [*lines, *turns], width, bottoms[-1])

    def _lanes(self) -> int:
        """Give each edge between rows a lane left of them, the innermost that is free, and return how many there are."""
        free: list[int] = []
        taken: list[tuple[int, int]] = []  # until which row, and which lane
        lanes = 0
        turning = [net for net in self.nets if net.crosses]
        turning.sort(key=lambda net: (min(net.ways), max(net.ways)))
        for net in turning:
            while taken and taken[0][0] <= min(net.ways):  # one ends in a row, the next begins below it
                heappush(free, heappop(taken)[1])
            if not free:
                heappush(free, lanes)
                lanes += 1
            number = heappop(free)
            net.lane = number
            heappush(taken, (max(net.ways), number))
        for net in turning:
            net.lane = (lanes - 1 - net.lane) * LANE
        return lanes

    def _lines(self, net: _Net, boxes: Mapping[str, Box], at: Sequence[float], wide: Sequence[float]) -> Iterator[Line]:
        def through(slot: Slot) -> list[Point]:
            left, right = at[slot.column], at[slot.column] + wide[slot.column]
            return [(left, slot.y), (right, slot.y)] if right > left else [(left, slot.y)]

        def leaving(slot: Slot) -> list[Point]:
            points = through(slot)[-1:]
            return points if slot.name is None else [(boxes[slot.name].x + slot.width, slot.y), *points]

        def reaching(slot: Slot) -> list[Point]:
            points = through(slot)[:1]
            return points if slot.name is None else [*points, (boxes[slot.name].x, slot.y)]

        above, below = (net.hub, None) if net.out else (None, net.hub)
        for piece, minor in net.pieces:
            points = leaving(piece[0])
            for slot in piece[1:-1]:
                points += through(slot)
            points += reaching(piece[-1]) if piece[-1].name is not None else through(piece[-1])
            yield Line(above, below, _without_repeats(points), minor, arrives=piece[-1].name is not None)
        for one, other, minor in net.leaves:
            points = leaving(one) + (reaching(other) if other.name is not None else through(other))
            arrives = other.name is not None
            yield Line(one.name or above, other.name or below, _without_repeats(points), minor, arrives=arrives)

    def _turns(self, end: float, bottoms: Sequence[float], at: Sequence[float], lanes: int) -> Iterator[Line]:
        """Yield the lines from row to row: out at the right, below the row, down at the left, and in."""
        turning = [net for net in self.nets if net.crosses]
        leaving: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for number, net in enumerate(turning):
            for row, way in net.ways.items():
                if way[-1].column == self.last[row]:
                    insort(leaving[row], (way[-1].y, number))
        # The lowest turns first and nearest, so that those of one row do not cross.
        turn = {
            (number, row): (end + LANE * (place + 1), bottoms[row] + ROW_GAP / 2 + LANE * place)
            for row, some in leaving.items()
            for place, (_, number) in enumerate(reversed(some))
        }
        for number, net in enumerate(turning):
            exits = sorted(row for row, way in net.ways.items() if way[-1].column == self.last[row])
            entries = sorted(row for row, way in net.ways.items() if way[0].column == self.first[row])
            above, below = (net.hub, None) if net.out else (None, net.hub)
            into = net.ways[entries[-1]][0]
            for row in exits:
                slot = net.ways[row][-1]
                x, y = turn[number, row]
                points = [(at[slot.column], slot.y), (x, slot.y), (x, y), (net.lane, y)]
                points += [(net.lane, into.y), (at[into.column], into.y)] if row == exits[0] else [(net.lane, y + LANE)]
                yield Line(above, below, tuple(points), net.minor, turns=True)
            for row in entries[:-1]:
                slot = net.ways[row][0]
                yield Line(
                    above,
                    below,
                    ((net.lane, slot.y - LANE), (net.lane, slot.y), (at[slot.column], slot.y)),
                    net.minor,
                    turns=True,
                )


def _without_repeats(points: Sequence[Point]) -> tuple[Point, ...]:
    return tuple(point for number, point in enumerate(points) if not number or point != points[number - 1])
