"""Drawing: a pipeline and its guards as one picture, for people.

The picture is an SVG that needs nothing else: no script, no font, no request. It works as an image in a page, in light and dark,
and says in words and shapes what it shows in colour.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from airflow_pipesec.drawing_links import Badge, Load, badges, loaded
from airflow_pipesec.drawing_style import COLOURS, SIGNS, LinkMark, Mark, address, quoted, style, style_of_plain
from airflow_pipesec.findings import amount, printable
from airflow_pipesec.layout import Box, Edge, Line, Point, laid_out
from airflow_pipesec.pipeline import Kind, Node, Pipeline

__all__ = ["LinkMark", "Mark", "draw", "style"]

STAGE_HEIGHT, GUARD_HEIGHT = 44.0, 36.0
STAGE_WIDTHS, GUARD_WIDTHS = (92.0, 176.0), (80.0, 176.0)  # the least and the most
PAD, ICON = 10.0, 20.0
MARGIN = 22.0
LEAST_PAPER = 460.0
MOST_NAMED = 5
BIG, MIDDLE, GUARDS, SMALL = 14.0, 12.0, 11.0, 10.0
BOLD = 1.1  # as wide as other letters

# A shield of 12 by 14, and what stands in it.
_SHIELD = "M6 0 L12 2 V7 C12 10.5 9.5 12.8 6 14 C2.5 12.8 0 10.5 0 7 V2 Z"
_TICK, _BANG = "M3.4 6.8 L5.4 8.9 L8.8 4.8", "M6 3.2 V7.6 M6 9.2 V10.8"
# Around nought, in a circle of the radius 5.5.
_SEALS = {LinkMark.VERIFIED: ("good", "M-2.6 0.2 L-0.7 2.2 L2.8 -1.9"), LinkMark.BROKEN: ("alarm", "M-2 -2 L2 2 M2 -2 L-2 2")}
_LINKS = {
    LinkMark.VERIFIED: "link verified",
    LinkMark.BROKEN: "link broken",
    LinkMark.MISSING: "link missing: no evidence",
}


def draw(
    pipeline: Pipeline,
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    marks: Mapping[str, Mark] | None = None,
    naked: Collection[str] | None = None,
    exempt: Collection[str] = (),
    hrefs: Mapping[str, str] | None = None,
    links: Mapping[Edge, LinkMark] | None = None,
    inline: bool = False,
) -> str:
    """Return the picture of a pipeline as SVG.

    :param title: what the picture is called; its first line.
    :param notes: more to say of a task, by id; shown when one points at it.
    :param marks: how tasks of a run stand, by id.
    :param naked: the stages that count as unguarded; those with no guard before or after them unless given. Then a stage that is
        not among them and has no guard is one that needs none, and is shown so.
    :param exempt: more stages that need none, also where guards of others stand beside them. They are not counted as guarded.
    :param hrefs: where tasks lead to, by id: addresses on the same site, or of http or https.
    :param links: how edges of a run stand, by the ids of the tasks above and below. What is told of an edge that the pipeline
        does not have is told in words alone.
    :param inline: for the inside of a page that brings the :func:`style` itself.
    :raises ValueError: for an address of another kind.
    """
    bare = _bare(pipeline)
    alarmed = set(bare if naked is None else naked)
    spared = (set(bare) | set(exempt)) - alarmed
    marks, notes, hrefs, links = marks or {}, notes or {}, hrefs or {}, links or {}
    words = {name: _words(node, marks.get(name), name in alarmed, name in spared) for name, node in pipeline.nodes.items()}
    sizes = {name: _size(node, words[name], marks.get(name)) for name, node in pipeline.nodes.items()}
    minor = _beside(pipeline)
    paper = laid_out(pipeline, sizes, minor)
    width = max(paper.width + 2 * MARGIN, LEAST_PAPER)
    said = [_summary(pipeline, alarmed, spared), *(["; ".join(_told_of(links))] if links else [])]
    pieces = list(loaded(paper.lines, links)) if links else [(line, Load(None, None)) for line in paper.lines]
    heading = [
        f'<text class="big" x="{MARGIN:g}" y="30">{_fitting(title, BIG * BOLD, width - 2 * MARGIN)}</text>',
        *(
            f'<text class="small" x="{MARGIN:g}" y="{y}">{_fitting(line, SMALL, width - 2 * MARGIN)}</text>'
            for line, y in zip(said, (47, 62), strict=False)
        ),
    ]
    top = 68.0 if len(said) == 1 else 84.0
    told = "; ".join(said)
    shown = {load.mark for _, load in pieces if load.mark}
    past = any(line.minor and load.mark is None for line, load in pieces)
    below = top + paper.height + (30 if pipeline.nodes else 0)
    legend, height = _legend(pipeline, bool(alarmed), past, shown, width, below)
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    label = quoted(f"{title}: {told}")
    space = "" if inline else 'xmlns="http://www.w3.org/2000/svg" '
    role = "group" if hrefs else "img"  # who cannot see it finds no links in what is one image
    css = style() if links or hrefs else style_of_plain()
    return "\n".join(
        [
            f'<svg {space}class="pipesec" {size} role="{role}" aria-label="{label}">',
            f"<title>{quoted(title)}</title>",
            f"<desc>{quoted(told)}</desc>",
            *([] if inline else [f"<style>{css}</style>"]),
            f'<rect class="paper" width="{width:g}" height="{height:g}" rx="8"/>',
            *heading,
            f'<g transform="translate({MARGIN:g} {top:g})">',
            *_lines(pieces),
            *map(_seal, badges(pieces)),
            *(
                _node(
                    node, paper.boxes[name], words[name], notes.get(name, ""), marks.get(name), name in alarmed, hrefs.get(name)
                )
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
    if not stages and guards:
        return amount(guards, "guard")
    text = ", ".join([*parts, amount(guards, "guard")])
    if not bare:
        return text
    more = f" and {len(bare) - MOST_NAMED:,} more" if len(bare) > MOST_NAMED else ""
    return f"{text}; unguarded: {', '.join(bare[:MOST_NAMED])}{more}"


def _told_of(links: Mapping[Edge, LinkMark]) -> Iterator[str]:
    for mark in (LinkMark.BROKEN, LinkMark.MISSING, LinkMark.VERIFIED):
        some = [f"{above} to {below}" for (above, below), found in links.items() if found is mark]
        names = ", ".join(some[:MOST_NAMED]) + (f" and {len(some) - MOST_NAMED:,} more" if len(some) > MOST_NAMED else "")
        if some:
            yield f"{amount(len(some), 'link')} {mark}" + ("" if mark is LinkMark.VERIFIED else f": {names}")


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


def _node(node: Node, box: Box, words: str, note: str, mark: Mark | None, naked: bool, href: str | None) -> str:
    guard = node.kind is Kind.GUARD
    look = "naked" if naked else {Kind.GUARD: "guard", Kind.STAGE: "stage"}.get(node.kind, "light")
    look += " warns" if guard and node.warns else ""
    kind = "" if node.kind is Kind.STAGE else "guard that only warns" if guard and node.warns else str(node.kind)
    tips = [
        node.id,
        node.operator,
        kind,
        f"in {node.group}" if node.group else "",
        "unguarded" if naked else "",
        mark or "",
        note,
    ]
    tip = quoted(". ".join(filter(None, tips)))
    left = PAD + ICON if guard else PAD
    room = box.width - left - PAD + 2
    middle = box.height / 2
    name = _fitting(_label(node), (GUARDS if guard else MIDDLE) * BOLD, room)
    parts = [
        f'<g class="task" transform="translate({box.x:g} {box.y:g})"><title>{tip}</title>',
        f'<rect class="{look}" width="{box.width:g}" height="{box.height:g}" rx="{4 if guard else 10}"/>',
        _shield(PAD - 1, middle - 7, node.warns) if guard else "",
        f'<text class="{"guards" if guard else "name"}" x="{left:g}" y="{middle - 2:g}">{name}</text>',
    ]
    colour = COLOURS.get(mark, "") if mark else " alarm" if naked else ""
    if mark:
        parts.append(f'<path class="sign{colour}" transform="translate({left:g} {middle + 4:g})" d="{SIGNS[mark]}"/>')
        left, room = left + 12, room - 12
    under = _fitting(words, SMALL * (BOLD if colour else 1), room)
    parts.append(f'<text class="small{colour}" x="{left:g}" y="{middle + 12:g}">{under}</text>' if words else "")
    task = "".join([*parts, "</g>"])
    return task if href is None else f'<a href="{address(href)}" aria-label="{tip}">{task}</a>'


def _shield(x: float, y: float, warns: bool) -> str:
    look, inside, way = ("shield hollow", "bang", _BANG) if warns else ("shield", "tick", _TICK)
    return f'<g transform="translate({x:g} {y:g})"><path class="{look}" d="{_SHIELD}"/><path class="{inside}" d="{way}"/></g>'


def _lines(pieces: Sequence[tuple[Line, Load]]) -> Iterator[str]:
    """Yield what is minor first, so that the main line lies upon it, and what has a mark last."""
    into: dict[Point, set[LinkMark | None]] = {}
    for line, load in pieces:
        if line.arrives:
            into.setdefault(line.points[-1], set()).add(load.mark)
    arrived = set()
    for line, load in sorted(pieces, key=lambda piece: (piece[1].mark is not None, not piece[0].minor)):
        way = _around(line.points) if line.turns else _along(line.points)
        above, below = load.edge or (line.above, line.below)
        told = f"{above} to {below}" if above and below else f"from {above}" if above else f"to {below}"
        if load.mark:
            told += f": {'link' if load.edge else 'links'} {load.mark}"
        look = f" {load.mark}" if load.mark else " beside" if line.minor else ""
        parts = [f'<path class="line{look}" d="{way}"/>']
        x, y = line.points[-1]
        if line.arrives and (x, y) not in arrived:
            arrived.add((x, y))
            marks = into[x, y]
            look = f" {load.mark}" if load.mark and len(marks) == 1 else ""
            parts.append(f'<path class="head{look}" d="M{x:g} {y:g} l-7 -3.5 v7 z"/>')
        if line.turns and len(line.points) > 4:
            (from_x, level), (to_x, _) = line.points[2:4]
            look = f" {load.mark}" if load.mark else ""
            parts.append(f'<path class="head{look}" d="M{(from_x + to_x) / 2 - 4:g} {level:g} l8 -4 v8 z"/>')
        yield f"<g><title>{quoted(told)}</title>{''.join(parts)}</g>"


def _seal(badge: Badge) -> str:
    title = quoted(f"{badge.edge[0]} to {badge.edge[1]}: link {badge.mark}")
    return f'<g transform="translate({badge.x:.1f} {badge.y:.1f})"><title>{title}</title>{_sealed(badge.mark)}</g>'


def _sealed(mark: LinkMark) -> str:
    colour, sign = _SEALS.get(mark, ("", ""))
    return (
        f'<circle class="seal {colour}" r="5.5"/><path class="sealed" d="{sign}"/>' if sign else '<circle class="seal" r="4.5"/>'
    )


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


def _legend(
    pipeline: Pipeline, naked: bool, beside: bool, links: Collection[LinkMark], width: float, y: float
) -> tuple[str, float]:
    """Return what the signs mean, of those that are there, and where it ends."""
    guards = list(pipeline.of_kind(Kind.GUARD))
    entries = [
        (any(not node.warns for node in guards), _shield(0, -11, False), "guard: what follows waits until it passed"),
        (any(node.warns for node in guards), _shield(0, -11, True), "guard that only warns"),
        (beside, '<path class="line beside" d="M-10 -4 h24"/>', "data that goes past a guard"),
        (naked, '<rect class="naked" x="-5" y="-11" width="17" height="12" rx="3"/>', "stage without a guard"),
        *(
            (
                mark in links,
                f'<path class="line {mark}" d="M-12 -4 h28"/><g transform="translate(2 -4)">{_sealed(mark)}</g>',
                text,
            )
            for mark, text in _LINKS.items()
        ),
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
