"""Drawing: a pipeline and its guards as one picture, for people.

The picture is an SVG that needs nothing else: no script, no font, no request. It works as an image in a page, in light and dark,
and says in words what it shows in colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from xml.sax.saxutils import escape

from airflow_pipesec.findings import amount, printable
from airflow_pipesec.layout import Line, laid_out
from airflow_pipesec.pipeline import Kind, Node, Pipeline

__all__ = ["Mark", "draw"]

STAGE, GUARD = (148.0, 46.0), (152.0, 40.0)
LONGEST_LABEL = {Kind.STAGE: 19, Kind.GUARD: 18}
LEGEND = 30.0
MOST_NAMED = 5

_STYLE = """
svg { --paper: #ffffff; --ink: #14212e; --soft: #51606f; --line: #7a8794; --stage: #ffffff; --edge: #5b6a79; --guard: #e3eef6;
  --rim: #1f5f8b; --light: #f2f4f6; --alarm: #b3261e; --alarmed: #fdeceb; --good: #1b6e3c; }
@media (prefers-color-scheme: dark) { svg { --paper: #10161c; --ink: #e8eef4; --soft: #a9b6c2; --line: #8492a0; --stage: #1a232c;
  --edge: #8c9aa8; --guard: #16344a; --rim: #7fc0ee; --light: #161d24; --alarm: #ff8a80; --alarmed: #3a1a19; --good: #7fd6a0; } }
text { font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--ink); }
.small { font-size: 10px; fill: var(--soft); }
.stage { fill: var(--stage); stroke: var(--edge); stroke-width: 1.2; }
.guard { fill: var(--guard); stroke: var(--rim); stroke-width: 1.2; }
.warns { stroke-dasharray: 4 3; }
.light { fill: var(--light); stroke: var(--edge); stroke-dasharray: 1 3; }
.naked { fill: var(--alarmed); stroke: var(--alarm); stroke-width: 2.4; stroke-dasharray: 7 4; }
.alarm { fill: var(--alarm); font-weight: 600; }
.good { fill: var(--good); font-weight: 600; }
.shield { fill: var(--rim); }
.line { fill: none; stroke: var(--line); stroke-width: 1.5; }
.beside { stroke-width: 1; stroke-dasharray: 3 3; }
.head { fill: var(--line); }
"""
# A shield of 12 by 14.
_SHIELD = "M6 0 L12 2 V7 C12 10.5 9.5 12.8 6 14 C2.5 12.8 0 10.5 0 7 V2 Z"


class Mark(StrEnum):
    """How a task of a run stands."""

    PASSED = "passed"
    FAILED = "failed"
    RUNNING = "running"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    OVERRIDDEN = "set by hand"


_SIGNS = {
    Mark.PASSED: "✓",
    Mark.FAILED: "✗",
    Mark.RUNNING: "▶",
    Mark.SKIPPED: "↷",
    Mark.NOT_RUN: "○",
    Mark.OVERRIDDEN: "!",
}
_CLASSES = {Mark.PASSED: "small good", Mark.FAILED: "small alarm", Mark.OVERRIDDEN: "small alarm"}


def draw(
    pipeline: Pipeline,
    *,
    title: str,
    notes: Mapping[str, str] | None = None,
    marks: Mapping[str, Mark] | None = None,
    naked: frozenset[str] | None = None,
) -> str:
    """Return the picture of a pipeline as SVG.

    :param title: what the picture is called.
    :param notes: more to say of a task, by id; shown when one points at it.
    :param marks: how tasks of a run stand, by id.
    :param naked: the stages that count as unguarded; those with no guard before or after them unless given.
    """
    bare = naked if naked is not None else _naked(pipeline)
    sizes = {name: GUARD if node.kind is Kind.GUARD else STAGE for name, node in pipeline.nodes.items()}
    paper = laid_out(pipeline, sizes)
    width, height = max(paper.width, 420.0), paper.height + LEGEND
    lines = [_line(line, pipeline) for line in paper.lines]
    nodes = [
        _node(node, *paper.boxes[name][:2], (notes or {}).get(name, ""), (marks or {}).get(name), name in bare)
        for name, node in pipeline.nodes.items()
    ]
    told = _summary(pipeline, bare)
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-labelledby="title desc">',
            f'<title id="title">{_text(title)}</title>',
            f'<desc id="desc">{_text(told)}</desc>',
            f"<style>{_STYLE}</style>",
            '<rect width="100%" height="100%" style="fill: var(--paper)"/>',
            *lines,
            *nodes,
            _legend(height, bool(bare)),
            "</svg>\n",
        ]
    )


def _naked(pipeline: Pipeline) -> frozenset[str]:
    return frozenset(
        node.id
        for node in pipeline.of_kind(Kind.STAGE)
        if not pipeline.guards_before(node.id) and not pipeline.guards_after(node.id)
    )


def _summary(pipeline: Pipeline, naked: frozenset[str]) -> str:
    stages = [node.id for node in pipeline.of_kind(Kind.STAGE)]
    guards = sum(1 for _ in pipeline.of_kind(Kind.GUARD))
    bare = [name for name in stages if name in naked]
    text = f"{amount(len(stages), 'stage')}, {len(stages) - len(bare)} of them guarded, {amount(guards, 'guard')}"
    if not bare:
        return f"{text}."
    more = f" and {len(bare) - MOST_NAMED} more" if len(bare) > MOST_NAMED else ""
    return f"{text}. Unguarded: {', '.join(map(printable, bare[:MOST_NAMED]))}{more}."


def _text(text: str) -> str:
    return escape(printable(text), {'"': "&quot;"})


def _cut(text: str, most: int) -> str:
    """Shorten a name in its middle: how it begins and how it ends tells it from others."""
    shown = printable(text)
    if len(shown) <= most:
        return shown
    head = (most - 1) // 2
    return f"{shown[:head]}…{shown[head + 1 - most :]}"


def _node(node: Node, x: float, y: float, note: str, mark: Mark | None, naked: bool) -> str:
    guard = node.kind is Kind.GUARD
    width, height = GUARD if guard else STAGE
    most = LONGEST_LABEL[Kind.GUARD if guard else Kind.STAGE]
    look = {Kind.GUARD: "guard", Kind.STAGE: "stage"}.get(node.kind, "light")
    if naked:
        look = "naked"
    elif guard and node.warns:
        look = "guard warns"
    tip = ". ".join(part.rstrip(".") for part in (node.id, node.operator, note) if part)
    left = 30 if guard else 10
    label = (node.label or node.id).replace("_", " ") if guard else node.label or node.id
    parts = [
        f'<g transform="translate({x:g} {y:g})"><title>{_text(tip)}</title>',
        f'<rect class="{look}" width="{width:g}" height="{height:g}" rx="{6 if guard else 9}"/>',
    ]
    if guard:
        parts.append(f'<path class="shield" transform="translate(10 {height / 2 - 7:g})" d="{_SHIELD}"/>')
    parts.append(f'<text x="{left}" y="{height / 2 - 2:g}">{escape(_cut(label, most))}</text>')
    words, style = _words(node, mark, naked)
    parts.append(f'<text class="{style}" x="{left}" y="{height / 2 + 12:g}">{escape(words)}</text></g>')
    return "".join(parts)


def _words(node: Node, mark: Mark | None, naked: bool) -> tuple[str, str]:
    """The second line of a box, and how it looks."""
    if mark is not None:
        return f"{_SIGNS[mark]} {mark}", _CLASSES.get(mark, "small")
    if naked:
        return "unguarded", "small alarm"
    if node.kind is Kind.GUARD:
        return ("guard, only warns" if node.warns else "guard"), "small"
    if node.kind is not Kind.STAGE:
        return str(node.kind), "small"
    return _cut(node.operator, 22), "small"


def _line(line: Line, pipeline: Pipeline) -> str:
    points = line.points
    beside = _has_guarded_way(pipeline, line.above, line.below)
    path = [f"M{points[0][0]:g} {points[0][1]:g}"]
    for (x, y), (to_x, to_y) in zip(points, points[1:], strict=False):  # noqa: RUF007 - pairs of a tuple that is at hand
        if y == to_y:
            path.append(f"H{to_x:g}")
        else:
            middle = (to_x - x) / 2
            path.append(f"C{x + middle:g} {y:g} {to_x - middle:g} {to_y:g} {to_x:g} {to_y:g}")
    x, y = points[-1]
    head = f'<path class="head" d="M{x:g} {y:g} l-7 -3.5 v7 z"/>'
    dot = f'<circle class="head" cx="{points[0][0]:g}" cy="{points[0][1]:g}" r="2.5"/>' if line.comes_in else ""
    where = (
        f"from {line.above}" if line.comes_in else f"goes on to {line.below}" if line.goes_on else f"{line.above} to {line.below}"
    )
    look = "line beside" if beside else "line"
    return f'<g><title>{_text(where)}</title><path class="{look}" d="{" ".join(path)}"/>{head}{dot}</g>'


def _has_guarded_way(pipeline: Pipeline, above: str, below: str) -> bool:
    """Whether guards alone lead from one task to another, beside an edge between them."""
    nodes = pipeline.nodes
    waiting, seen = [name for name in nodes[below].upstream if nodes[name].kind is Kind.GUARD], set[str]()
    while waiting:
        name = waiting.pop()
        if above in nodes[name].upstream and name != above:
            return True
        if name not in seen:
            seen.add(name)
            waiting += [other for other in nodes[name].upstream if nodes[other].kind is Kind.GUARD]
    return False


def _legend(height: float, naked: bool) -> str:
    y = height - 12
    parts = [
        f'<path class="shield" transform="translate(26 {y - 11:g})" d="{_SHIELD}"/>',
        f'<text class="small" x="44" y="{y:g}">guard: what follows waits until it passed</text>',
        f'<path class="line beside" d="M262 {y - 4:g} h26"/>',
        f'<text class="small" x="294" y="{y:g}">data that goes past</text>',
    ]
    if naked:
        parts += [
            f'<rect class="naked" x="402" y="{y - 11:g}" width="16" height="12" rx="3"/>',
            f'<text class="small" x="424" y="{y:g}">no guard before or after</text>',
        ]
    return f"<g>{''.join(parts)}</g>"
