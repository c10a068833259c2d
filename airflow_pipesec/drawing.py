"""Drawing: a pipeline and its guards as one picture, for people.

The picture is an SVG that needs nothing else: no script, no font, no request. It works as an image in a page, in light and dark,
and says in words and shapes what it shows in colour.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from xml.sax.saxutils import escape

from airflow_pipesec.findings import amount, printable
from airflow_pipesec.layout import Box, Edge, Line, Point, laid_out
from airflow_pipesec.pipeline import Kind, Node, Pipeline

__all__ = ["Mark", "draw"]

STAGE_HEIGHT, GUARD_HEIGHT = 44.0, 36.0
STAGE_WIDTHS, GUARD_WIDTHS = (92.0, 176.0), (80.0, 150.0)  # the least and the most
PAD, ICON = 10.0, 20.0
MARGIN = 22.0
LEAST_PAPER = 460.0
MOST_NAMED = 5
BIG, MIDDLE, GUARDS, SMALL = 14.0, 12.0, 11.0, 10.0
BOLD = 1.1  # as wide as other letters

_STYLE = """
.pipesec { --paper: #ffffff; --ink: #14212e; --soft: #51606f; --line: #5f6e7c; --stage: #ffffff; --edge: #55636f;
  --guard: #e3eef6; --rim: #1f5f8b; --light: #f2f4f6; --alarm: #b3261e; --alarmed: #fdeceb; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { .pipesec { --paper: #10161c; --ink: #e8eef4; --soft: #a9b6c2; --line: #94a2b0;
  --stage: #1a232c; --edge: #94a2b0; --guard: #16344a; --rim: #7fc0ee; --light: #161d24; --alarm: #ff8a80; --alarmed: #3a1a19;
  --good: #7fd6a0; } }
.pipesec text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
.pipesec .paper { fill: var(--paper); }
.pipesec .big { font-size: 14px; font-weight: 600; }
.pipesec .name { font-weight: 600; }
.pipesec .guards { font-size: 11px; font-weight: 600; }
.pipesec .small { font-size: 10px; fill: var(--soft); }
.pipesec .stage { fill: var(--stage); stroke: var(--edge); stroke-width: 1.4; }
.pipesec .guard { fill: var(--guard); stroke: var(--rim); stroke-width: 1.2; }
.pipesec .warns { stroke-dasharray: 4 3; }
.pipesec .light { fill: var(--light); stroke: var(--edge); stroke-width: .8; stroke-dasharray: 1 3; }
.pipesec .naked { fill: var(--alarmed); stroke: var(--alarm); stroke-width: 2.6; stroke-dasharray: 7 4; }
.pipesec .alarm { fill: var(--alarm); font-weight: 600; }
.pipesec .good { fill: var(--good); font-weight: 600; }
.pipesec .shield { fill: var(--rim); stroke: var(--rim); stroke-width: 1.2; }
.pipesec .hollow { fill: none; }
.pipesec .tick { fill: none; stroke: var(--guard); stroke-width: 1.6; }
.pipesec .bang { fill: none; stroke: var(--rim); stroke-width: 1.6; }
.pipesec .line { fill: none; stroke: var(--line); stroke-width: 1.6; }
.pipesec .beside { stroke-width: 1; stroke-dasharray: 3 3; }
.pipesec .head { fill: var(--line); }
.pipesec .sign { fill: none; stroke: var(--soft); stroke-width: 1.6; }
.pipesec .sign.good { stroke: var(--good); }
.pipesec .sign.alarm { stroke: var(--alarm); }
"""
# A shield of 12 by 14, and what stands in it.
_SHIELD = "M6 0 L12 2 V7 C12 10.5 9.5 12.8 6 14 C2.5 12.8 0 10.5 0 7 V2 Z"
_TICK, _BANG = "M3.4 6.8 L5.4 8.9 L8.8 4.8", "M6 3.2 V7.6 M6 9.2 V10.8"


class Mark(StrEnum):
    """How a task of a run stands."""

    PASSED = "passed"
    FAILED = "failed"
    RUNNING = "running"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    OVERRIDDEN = "set by hand"


# Drawn in 8 by 8, since not every font has such signs.
_SIGNS = {
    Mark.PASSED: "M0.5 4.5 L3 7 L7.5 1.5",
    Mark.FAILED: "M1 1 L7 7 M7 1 L1 7",
    Mark.RUNNING: "M1.5 1 L7 4 L1.5 7 Z",
    Mark.SKIPPED: "M0.5 1 L3.5 4 L0.5 7 M4 1 L7 4 L4 7",
    Mark.NOT_RUN: "M4 0.8 a3.2 3.2 0 1 0 0.01 0 Z",
    Mark.OVERRIDDEN: "M4 0 V5 M4 6.4 V8",
}
_COLOURS = {Mark.PASSED: " good", Mark.FAILED: " alarm", Mark.OVERRIDDEN: " alarm"}


def draw(
    pipeline: Pipeline,
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    marks: Mapping[str, Mark] | None = None,
    naked: Collection[str] | None = None,
    exempt: Collection[str] = (),
) -> str:
    """Return the picture of a pipeline as SVG.

    :param title: what the picture is called; its first line.
    :param notes: more to say of a task, by id; shown when one points at it.
    :param marks: how tasks of a run stand, by id.
    :param naked: the stages that count as unguarded; those with no guard before or after them unless given. Then a stage that is
        not among them and has no guard is one that needs none, and is shown so.
    :param exempt: more stages that need none, also where guards of others stand beside them. They are not counted as guarded.
    """
    bare = _bare(pipeline)
    alarmed = set(bare if naked is None else naked)
    spared = (set(bare) | set(exempt)) - alarmed
    marks, notes = marks or {}, notes or {}
    words = {name: _words(node, marks.get(name), name in alarmed, name in spared) for name, node in pipeline.nodes.items()}
    sizes = {name: _size(node, words[name], marks.get(name)) for name, node in pipeline.nodes.items()}
    minor = _beside(pipeline)
    paper = laid_out(pipeline, sizes, minor)
    width = max(paper.width + 2 * MARGIN, LEAST_PAPER)
    told = _summary(pipeline, alarmed, spared)
    heading = [
        f'<text class="big" x="{MARGIN:g}" y="30">{_fitting(title, BIG * BOLD, width - 2 * MARGIN)}</text>',
        f'<text class="small" x="{MARGIN:g}" y="47">{_fitting(told, SMALL, width - 2 * MARGIN)}</text>',
    ]
    top = 68.0
    legend, height = _legend(pipeline, bool(alarmed), bool(minor), width, top + paper.height + (30 if pipeline.nodes else 0))
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    label = _text(f"{title}: {told}")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="pipesec" {size} role="img" aria-label="{label}">',
            f"<title>{_text(title)}</title>",
            f"<desc>{_text(told)}</desc>",
            f"<style>{_STYLE}</style>",
            f'<rect class="paper" width="{width:g}" height="{height:g}" rx="8"/>',
            *heading,
            f'<g transform="translate({MARGIN:g} {top:g})">',
            *_lines(paper.lines),
            *(
                _node(node, paper.boxes[name], words[name], notes.get(name, ""), marks.get(name), name in alarmed)
                for name, node in pipeline.nodes.items()
            ),
            "</g>",
            legend,
            "</svg>\n",
        ]
    )


def _bare(pipeline: Pipeline) -> set[str]:
    """Return the stages with no guard before or after them, in one pass: many have the same ones."""
    nodes = pipeline.nodes

    def none_at(names: Iterable[str], near: Callable[[str], Iterable[str]]) -> set[str]:
        found: set[str] = set()
        for name in names:
            kinds = ((other, nodes[other].kind) for other in near(name))
            if all(kind is Kind.STAGE or (kind is not Kind.GUARD and other in found) for other, kind in kinds):
                found.add(name)
        return found

    before = none_at(nodes, lambda name: nodes[name].upstream)
    after = none_at(reversed(list(nodes)), pipeline.downstream.__getitem__)
    return {name for name in before & after if nodes[name].kind is Kind.STAGE}


def _summary(pipeline: Pipeline, naked: Collection[str], spared: Collection[str]) -> str:
    stages = [node.id for node in pipeline.of_kind(Kind.STAGE)]
    guards = sum(1 for _ in pipeline.of_kind(Kind.GUARD))
    bare = [name for name in stages if name in naked]
    parts = [amount(len(stages), "stage"), f"{len(stages) - len(bare) - len(spared):,} guarded"]
    parts += [f"{len(spared):,} needing no guard"] if spared else []
    if not pipeline.nodes:
        return "no tasks"
    text = ", ".join([*parts, amount(guards, "guard")])
    if not bare:
        return text
    more = f" and {len(bare) - MOST_NAMED:,} more" if len(bare) > MOST_NAMED else ""
    return f"{text}; unguarded: {', '.join(bare[:MOST_NAMED])}{more}"


def _text(text: str) -> str:
    return escape(printable(text), {'"': "&quot;"})


def _wide(text: str, size: float) -> float:
    """About how wide a text is at most, in the fonts of common systems."""
    return size * sum(_em(character) for character in text)


def _em(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF" or character in "mwMW@%—…":
        return 1.0
    if character in "<>=+~#&":
        return 0.84
    if character.isascii():
        return 0.36 if character in "fijlrtI.,:;|!'()[] -/\\" else 0.7 if character.isupper() else 0.62
    return 0.8  # other scripts, marks above letters: nothing is free


def _fitting(text: str, size: float, most: float) -> str:
    """Return a text for the inside of an element, shortened in its middle: how names begin and end tells them from others."""
    shown = printable(text)
    if _wide(shown, size) <= most:
        return escape(shown)
    left = most - size
    head, tail, at = "", "", 0
    while left > 0 and at < len(shown):
        end = at % 2
        character = shown[-1 - at // 2] if end else shown[at // 2]
        left -= size * _em(character)
        if left >= 0:
            head, tail = (head, character + tail) if end else (head + character, tail)
        at += 1
    return escape(f"{head}…{tail}")


def _label(node: Node) -> str:
    label = node.label or node.id
    return label.replace("_", " ") if node.kind is Kind.GUARD else label


def _words(node: Node, mark: Mark | None, naked: bool, spared: bool) -> str:
    """The second line of a box."""
    if mark is not None:
        more = ", unguarded" if naked else ", warns" if node.kind is Kind.GUARD and node.warns else ""
        return f"{mark}{more}"
    if naked:
        return "unguarded"
    if node.kind is Kind.GUARD:
        return "guard, only warns" if node.warns else "guard"
    if spared:
        return "needs no guard"
    return node.operator if node.kind is Kind.STAGE else str(node.kind)


def _size(node: Node, words: str, mark: Mark | None) -> tuple[float, float]:
    guard = node.kind is Kind.GUARD
    label = _wide(printable(_label(node)), (GUARDS if guard else MIDDLE) * BOLD)
    under = _wide(printable(words), SMALL * BOLD) + (12.0 if mark else 0.0)
    width = max(label, under) + 2 * PAD + (ICON if guard else 0.0)
    least, most = GUARD_WIDTHS if guard else STAGE_WIDTHS
    return round(min(max(width, least), most)), GUARD_HEIGHT if guard else STAGE_HEIGHT


def _node(node: Node, box: Box, words: str, note: str, mark: Mark | None, naked: bool) -> str:
    guard = node.kind is Kind.GUARD
    look = "naked" if naked else {Kind.GUARD: "guard", Kind.STAGE: "stage"}.get(node.kind, "light")
    look += " warns" if guard and node.warns else ""
    kind = "" if node.kind is Kind.STAGE else "guard that only warns" if guard and node.warns else str(node.kind)
    tip = [node.id, node.operator, kind, f"in {node.group}" if node.group else "", "unguarded" if naked else "", mark or "", note]
    left = PAD + ICON if guard else PAD
    room = box.width - left - PAD + 2
    middle = box.height / 2
    name = _fitting(_label(node), (GUARDS if guard else MIDDLE) * BOLD, room)
    parts = [
        f'<g class="task" transform="translate({box.x:g} {box.y:g})"><title>{_text(". ".join(filter(None, tip)))}</title>',
        f'<rect class="{look}" width="{box.width:g}" height="{box.height:g}" rx="{4 if guard else 10}"/>',
        _shield(PAD - 1, middle - 7, node.warns) if guard else "",
        f'<text class="{"guards" if guard else "name"}" x="{left:g}" y="{middle - 2:g}">{name}</text>',
    ]
    colour = _COLOURS.get(mark, "") if mark else " alarm" if naked else ""
    if mark:
        parts.append(f'<path class="sign{colour}" transform="translate({left:g} {middle + 4:g})" d="{_SIGNS[mark]}"/>')
        left, room = left + 12, room - 12
    under = _fitting(words, SMALL * (BOLD if colour else 1), room)
    parts.append(f'<text class="small{colour}" x="{left:g}" y="{middle + 12:g}">{under}</text>' if words else "")
    return "".join([*parts, "</g>"])


def _shield(x: float, y: float, warns: bool) -> str:
    look, inside, way = ("shield hollow", "bang", _BANG) if warns else ("shield", "tick", _TICK)
    return f'<g transform="translate({x:g} {y:g})"><path class="{look}" d="{_SHIELD}"/><path class="{inside}" d="{way}"/></g>'


def _lines(lines: Sequence[Line]) -> Iterator[str]:
    """Yield what is minor first, so that the main line lies upon it."""
    arrived = set()
    for line in sorted(lines, key=lambda line: not line.minor):
        way = _around(line.points) if line.turns else _along(line.points)
        told = (
            f"{line.above} to {line.below}"
            if line.above and line.below
            else f"from {line.above}"
            if line.above
            else f"to {line.below}"
        )
        parts = [f'<path class="line{" beside" if line.minor else ""}" d="{way}"/>']
        x, y = line.points[-1]
        if line.arrives and (x, y) not in arrived:
            arrived.add((x, y))
            parts.append(f'<path class="head" d="M{x:g} {y:g} l-7 -3.5 v7 z"/>')
        if line.turns and len(line.points) > 4:
            (from_x, level), (to_x, _) = line.points[2:4]
            parts.append(f'<path class="head" d="M{(from_x + to_x) / 2 - 4:g} {level:g} l8 -4 v8 z"/>')
        yield f"<g><title>{_text(told)}</title>{''.join(parts)}</g>"


def _along(points: Sequence[Point]) -> str:
    """The way through points, level at each of them."""
    way = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (x, y), (to_x, to_y) in pairwise(points):
        if abs(to_y - y) < 0.05:
            way.append(f"H{to_x:g}")
        else:
            half = (x + to_x) / 2
            way.append(f"C{half:g} {y:g} {half:g} {to_y:g} {to_x:g} {to_y:g}")
    return "".join(way)


def _around(points: Sequence[Point], radius: float = 5.0) -> str:
    """The way along right angles, each of them rounded."""
    way = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for before, at, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _toward(at, before, radius), _toward(at, after, radius)
        way.append(f"L{start[0]:g} {start[1]:g}Q{at[0]:g} {at[1]:g} {end[0]:g} {end[1]:g}")
    return "".join([*way, f"L{points[-1][0]:g} {points[-1][1]:g}"])


def _toward(at: Point, other: Point, radius: float) -> Point:
    far = abs(other[0] - at[0]) + abs(other[1] - at[1])
    share = min(radius, far / 2) / far if far else 0.0
    return at[0] + (other[0] - at[0]) * share, at[1] + (other[1] - at[1]) * share


def _beside(pipeline: Pipeline) -> set[Edge]:
    """Return the edges beside which guards alone lead from one task to the other, which is no guard's own word then."""
    nodes = pipeline.nodes
    place = {name: number for number, name in enumerate(nodes)}
    found: set[Edge] = set()
    for name, node in nodes.items():
        direct = {other for other in node.upstream if nodes[other].kind is not Kind.GUARD}
        # No guard leads to one from a task that comes later, so that most of what is above need not be looked at.
        first = min((place[other] for other in direct), default=len(place))
        waiting = [other for other in node.upstream if nodes[other].kind is Kind.GUARD]
        seen: set[str] = set()
        while waiting:
            guard = waiting.pop()
            if guard in seen or place[guard] < first:
                continue
            seen.add(guard)
            for other in nodes[guard].upstream:
                if other in direct:
                    found.add((other, name))
                elif nodes[other].kind is Kind.GUARD:
                    waiting.append(other)
    return found


def _legend(pipeline: Pipeline, naked: bool, beside: bool, width: float, y: float) -> tuple[str, float]:
    """Return what the signs mean, of those that are there, and where it ends."""
    guards = list(pipeline.of_kind(Kind.GUARD))
    entries = [
        (any(not node.warns for node in guards), _shield(0, -11, False), "guard: what follows waits until it passed"),
        (any(node.warns for node in guards), _shield(0, -11, True), "guard that only warns"),
        (beside, '<path class="line beside" d="M-10 -4 h24"/>', "data that goes past a guard"),
        (naked, '<rect class="naked" x="-5" y="-11" width="17" height="12" rx="3"/>', "stage without a guard"),
    ]
    parts: list[str] = []
    x = MARGIN
    for _, sign, text in (entry for entry in entries if entry[0]):
        wide = _wide(text, SMALL) + 40
        if x > MARGIN and x + wide > width:
            x, y = MARGIN, y + 18
        parts.append(f'<g transform="translate({x + 10:g} {y:g})">{sign}<text class="small" x="20" y="-1">{text}</text></g>')
        x += wide
    return "".join(parts), y + (14 if parts else -4)
