"""Edges that carry a mark: what of a shared way can be marked, and where the sign of an edge stands.

Edges of one task share their way as long as they can. A stretch of it shows a mark where all edges that lead over it have the
same one, so that no stretch says of an edge what is true of another. Each edge has a last stretch of its own, next to the task
where it leaves the others, and there stands its sign.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from itertools import groupby, pairwise

from airflow_pipesec.drawing_style import LinkMark
from airflow_pipesec.layout import Edge, Line, Point

__all__ = ["Badge", "Load", "badges", "loaded"]

RADIUS = 5.5
HEAD = 7.0
_SHARES = (0.5, 0.35, 0.65, 0.2, 0.8)  # of the way, at which a sign may stand


@dataclass(frozen=True, slots=True)
class Load:
    """What leads over a piece of the way: the edge, where it is one alone, and the mark that all have in common."""

    edge: Edge | None
    mark: LinkMark | None


@dataclass(frozen=True, slots=True)
class Badge:
    """Where the sign of an edge stands."""

    edge: Edge
    mark: LinkMark
    x: float
    y: float


def loaded(lines: Sequence[Line], links: Mapping[Edge, LinkMark]) -> Iterator[tuple[Line, Load]]:
    """Yield all lines, in pieces where edges join or leave, and what leads over each.

    A line from row to row is one piece, and so is the way that leads to it.
    """
    nets: dict[tuple[str | None, bool], _Net] = {}
    for line in lines:
        # As laid out, an edge's own piece ends at the task below where edges are those of the task above, and only there.
        out = line.arrives if _own(line) else line.above is not None
        net = nets.setdefault((line.above if out else line.below, out), _Net(out))
        if _own(line):
            net.leaves.append(line)
        elif line.turns:
            net.turns.append(line)
        else:
            net.shared.append(line)
    for net in nets.values():
        yield from net.loaded(links)


def _own(line: Line) -> bool:
    return line.above is not None and line.below is not None


def _edge(line: Line) -> Edge:
    return line.above or "", line.below or ""


def _both(one: Load | None, other: Load | None) -> Load | None:
    if one is None or other is None:
        return one or other
    return Load(None, one.mark if one.mark is other.mark else None)


@dataclass(slots=True)
class _Net:
    """The lines of edges that lead from one task, or to one, and share their way."""

    out: bool
    leaves: list[Line] = field(default_factory=list)
    shared: list[Line] = field(default_factory=list)
    turns: list[Line] = field(default_factory=list)

    def loaded(self, links: Mapping[Edge, LinkMark]) -> Iterator[tuple[Line, Load]]:
        nearer: dict[Point, Point] = {}  # on the way back to the task that all share
        for line in self.shared:
            for one, other in pairwise(line.points):
                nearer |= {other: one} if self.out else {one: other}
        loads: dict[Point, Load | None] = defaultdict(lambda: None)
        for leaf in self.leaves:
            load = Load(_edge(leaf), links.get(_edge(leaf)))
            points = leaf.points
            if not self.out and len(points) > 2 and points[-2][1] == points[-1][1]:
                # Where it has joined the others, it goes on with them past the boxes of the column.
                if points[-2] not in nearer:
                    nearer[points[-2]] = points[-1]
                    self.shared.append(replace(leaf, above=None, points=points[-2:]))
                points = points[:-1]
            joint = points[0] if self.out else points[-1]
            loads[joint] = _both(loads[joint], load)
            yield replace(leaf, points=points), load
        for point in sorted(nearer, key=lambda point: point[0], reverse=self.out):
            loads[nearer[point]] = _both(loads[nearer[point]], loads[point])
        crossing = self._crossing(loads, nearer)
        for line in self.shared:
            yield from self._pieces(line, loads)
        for line in self.turns:
            yield line, crossing or Load(None, None)

    def _crossing(self, loads: dict[Point, Load | None], nearer: Mapping[Point, Point]) -> Load | None:
        """Return what leads from row to row, and let it lead on to the task that all share."""
        if not self.turns:
            return None
        # The first of them begins or ends in the row of that task, each but that one where another row's way begins or ends.
        home = self.turns[0].points[0 if self.out else -1]
        ends = {line.points[-1 if self.out else 0] for line in self.turns}
        crossing = reduce(_both, (loads[end] for end in ends), None)
        point: Point | None = home
        while point is not None:
            loads[point] = _both(loads[point], crossing)
            point = nearer.get(point)
        return crossing

    def _pieces(self, line: Line, loads: Mapping[Point, Load | None]) -> Iterator[tuple[Line, Load]]:
        stretches = ((loads[other if self.out else one] or Load(None, None), other) for one, other in pairwise(line.points))
        points = [line.points[0]]
        for load, some in groupby(stretches, key=lambda stretch: stretch[0]):
            points = [points[-1], *(other for _, other in some)]
            yield replace(line, points=tuple(points), arrives=line.arrives and points[-1] == line.points[-1]), load


def badges(pieces: Sequence[tuple[Line, Load]]) -> list[Badge]:
    """Return where the signs of edges stand, none upon another. What is not as it should be comes first, and always has one."""
    order = [LinkMark.BROKEN, LinkMark.MISSING, LinkMark.VERIFIED]
    own = [(load.mark, line) for line, load in pieces if load.mark is not None and _own(line)]
    taken: set[tuple[int, int]] = set()
    found: list[Badge] = []
    for mark, line in sorted(own, key=lambda piece: order.index(piece[0])):
        places = [_place(line, share) for share in _SHARES]
        free = next((place for place in places if taken.isdisjoint(_cells(place))), None)
        if free is None and mark is LinkMark.VERIFIED:
            continue
        place = free or places[0]
        taken |= _cells(place)
        found.append(Badge(_edge(line), mark, *place))
    return found


def _cells(place: Point) -> set[tuple[int, int]]:
    """The squares of a quarter of a sign's size that it covers."""
    size = RADIUS / 2
    x, y = round(place[0] / size), round(place[1] / size)
    return {(x + right, y + down) for right in range(-2, 3) for down in range(-2, 3)}


def _place(line: Line, share: float) -> Point:
    """Return a place on the piece that is an edge's own, with no box near it: beside its own tasks, or between two columns."""
    start, end = line.points[0], line.points[-1]
    x = start[0] + (end[0] - (HEAD if line.arrives else 0) - start[0]) * share
    if start[1] == end[1]:
        return max(x, start[0] + 1.2 * RADIUS), start[1]  # it may be that it is straight and a little of it its own
    (left, top), (right, bottom) = next(pair for pair in pairwise(line.points) if x <= pair[1][0])
    t = (x - left) / (right - left)
    half = (left + right) / 2
    # As the line curves: level at both ends.
    across = (1 - t) ** 3 * left + 3 * (1 - t) * t * half + t**3 * right
    return across, top + (bottom - top) * (3 * t**2 - 2 * t**3)
