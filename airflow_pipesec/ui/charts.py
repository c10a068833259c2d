"""Charts: small pictures of many runs, for the inside of a page that brings the colours.

Each is one SVG without style and script of its own. It says in words what it shows, and shows by shapes what it shows by colours.
What can be pointed at says more; what leads somewhere can be reached with keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import cos, pi, sin

from airflow_pipesec.drawing_style import SIGNS, Mark, address, quoted

__all__ = ["CSS", "Bar", "Cell", "donut", "meter", "strip", "trend"]

SQUARE, GAP = 14, 3
WIDE, HIGH = 120.0, 28.0
MOST_BARS = 30
LEAST_BARS = 10  # fewer are not drawn wider
CROWN, LEAST_HIGH = 5.0, 1.5  # the room above a bar, and what a part of it has at least
LONG, THIN = 72.0, 8.0
RING, OUTER, INNER = 72.0, 35.0, 25.0
MOST_DIGITS = 4  # at their full size within the ring
LEAST_TURN = 2 * pi / 45  # of what is there at all, so that one in thousands is seen

# Every colour stands on --ps-paper, or --ps-paper on it: what the page defines keeps 3:1 if each does so with the paper.
CSS = """
.ps-chart { overflow: visible; vertical-align: middle; }
.ps-chart .ps-good { --ps-tone: var(--ps-good); }
.ps-chart .ps-alarm { --ps-tone: var(--ps-alarm); }
.ps-chart .ps-stop { --ps-tone: var(--ps-stop); }
.ps-chart .ps-soft { --ps-tone: var(--ps-soft); }
.ps-chart .ps-rim { --ps-tone: var(--ps-rim); }
.ps-chart .ps-none { --ps-tone: var(--ps-line); }
.ps-chart .ps-square { fill: var(--ps-tone); stroke: var(--ps-tone); stroke-width: 1; }
.ps-chart .ps-open .ps-square, .ps-chart .ps-none .ps-square { fill: var(--ps-paper); }
.ps-chart .ps-none .ps-square { stroke-dasharray: 2 2; }
.ps-chart .ps-sign { fill: none; stroke: var(--ps-paper); stroke-width: 1.7; }
.ps-chart .ps-open .ps-sign { stroke: var(--ps-tone); stroke-width: 1.5; }
.ps-chart .ps-part { fill: var(--ps-tone); }
.ps-chart .ps-hatched { stroke: var(--ps-stop); stroke-width: .6; }
.ps-chart .ps-hatch { stroke: var(--ps-stop); stroke-width: 1.2; }
.ps-chart .ps-under { fill: var(--ps-paper); }
.ps-chart .ps-cross { fill: none; stroke: var(--ps-alarm); stroke-width: 1.4; }
.ps-chart .ps-base { stroke: var(--ps-line); stroke-width: 1; }
.ps-chart .ps-track { fill: var(--ps-paper); stroke: var(--ps-line); stroke-width: 1; }
.ps-chart .ps-nothing { fill: none; stroke: var(--ps-line); stroke-width: 1; stroke-dasharray: 2 3; }
.ps-chart text { fill: var(--ps-ink); font: 600 17px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
.ps-chart text { text-anchor: middle; }
.ps-chart a { cursor: pointer; }
.ps-chart a:hover .ps-square { stroke: var(--ps-ink); stroke-width: 2; }
.ps-chart a:hover .ps-hit { stroke: var(--ps-ink); stroke-width: 1; }
.ps-chart a:focus { outline: none; }
.ps-chart a:focus-visible { outline: 2px solid var(--ps-ink); outline-offset: 1px; }
.ps-chart a:focus-visible .ps-square, .ps-chart a:focus-visible .ps-hit { stroke: var(--ps-ink); stroke-width: 2; }
"""

_TONES = {
    Mark.PASSED: "ps-good",
    Mark.FAILED: "ps-stop",
    Mark.RUNNING: "ps-rim ps-open",
    Mark.SKIPPED: "ps-soft ps-open",
    Mark.NOT_RUN: "ps-soft ps-open",
    Mark.OVERRIDDEN: "ps-alarm",
    Mark.WARNED: "ps-stop ps-open",
    Mark.RETRYING: "ps-rim ps-open",
    Mark.WAITING: "ps-rim ps-open",
    Mark.UNPROVEN: "ps-alarm",
}
_NO_RUN = "no run"
_KINDS = ("passed", "stopped", "alarmed", "other")


@dataclass(frozen=True, slots=True)
class Cell:
    """How something stood in one run; no mark where it was not in it."""

    mark: Mark | None
    label: str
    href: str | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """How many of what belongs together passed, were stopped, or are a reason for alarm."""

    passed: int
    stopped: int
    alarmed: int
    other: int
    label: str
    href: str | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many of each kind."""
        return {"passed": self.passed, "stopped": self.stopped, "alarmed": self.alarmed, "other": self.other}


def strip(cells: Sequence[Cell], *, title: str) -> str:
    """Return a row of squares, one a run, the oldest left.

    :raises ValueError: for an address that is not on the same site, nor of http or https.
    """
    counts = Counter(cell.mark for cell in cells)
    words = _counted((mark or _NO_RUN, counts[mark]) for mark in (*Mark, None)) or "no runs"
    parts = [_cell(cell, number * (SQUARE + GAP)) for number, cell in enumerate(cells)]
    width = len(parts) * (SQUARE + GAP) - GAP if parts else SQUARE
    if not parts:
        parts = [f'<g class="ps-none">{_square(0)}</g>']
    return _chart("ps-strip", width, SQUARE, title, words, parts, links=any(cell.href is not None for cell in cells))


def _cell(cell: Cell, x: int) -> str:
    told = quoted(f"{cell.label}: {cell.mark or _NO_RUN}")
    sign = f'<path class="ps-sign" transform="translate({x + 3} 3)" d="{SIGNS[cell.mark]}"/>' if cell.mark else ""
    tone = _TONES[cell.mark] if cell.mark else "ps-none"
    return _linked(f'<g class="{tone}"><title>{told}</title>{_square(x)}{sign}</g>', told, cell.href)


def _square(x: int) -> str:
    return f'<rect class="ps-square" x="{x + 0.5:g}" y="0.5" width="{SQUARE - 1}" height="{SQUARE - 1}" rx="2.5"/>'


def trend(bars: Sequence[Bar], *, title: str, name: str) -> str:
    """Return the last bars of those given, the newest right. What passed stands below what was stopped; what alarms has a cross.

    :param name: what no other chart of the page is called.
    :raises ValueError: for an address that is not on the same site, nor of http or https, and for less than nothing.
    """
    bars = bars[-MOST_BARS:]
    if any(min(bar.counts.values()) < 0 for bar in bars):
        raise ValueError("a bar counts less than nothing")
    # An id is for the whole page.
    pattern = "ps-hatch-" + "".join(ch if ch.isascii() and ch.isalnum() else f"_{ord(ch):x}_" for ch in name)
    all_of = {kind: sum(bar.counts[kind] for bar in bars) for kind in _KINDS}
    words = _counted(all_of.items()) or "nothing"
    most = max((sum(bar.counts.values()) for bar in bars), default=0)
    pitch = WIDE / max(len(bars), LEAST_BARS)
    left = WIDE - pitch * len(bars)
    hatch = '<rect class="ps-under" width="3" height="3"/><path class="ps-hatch" d="M0 0.75 H3"/>'
    turned = 'width="3" height="3" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"'
    parts = [
        f'<defs><pattern id="{pattern}" {turned}>{hatch}</pattern></defs>',
        f'<path class="ps-base" d="M0 {HIGH - 0.5:g} H{WIDE:g}"/>',
        *(_bar(bar, left + pitch * number, pitch - 1, most, pattern) for number, bar in enumerate(bars)),
    ]
    return _chart("ps-trend", WIDE, HIGH, title, words, parts, links=any(bar.href is not None for bar in bars))


def _bar(bar: Bar, x: float, width: float, most: int, pattern: str) -> str:
    looks = {
        "passed": ('class="ps-part ps-good"', width),
        "stopped": (f'class="ps-hatched" fill="url(#{pattern})"', width),
        "other": ('class="ps-part ps-soft"', width / 3),
        "alarmed": ('class="ps-part ps-alarm"', width),
    }
    counts = [bar.counts[kind] for kind in looks]
    room = (HIGH - 1 - CROWN) * sum(counts) / most if most else 0.0
    heights = _shares(counts, max(room, LEAST_HIGH * sum(map(bool, counts))), LEAST_HIGH)
    told = quoted(f"{bar.label}: {_counted(bar.counts.items()) or 'nothing'}")
    hit = f'<rect class="ps-hit" x="{x:.2f}" width="{width:.2f}" height="{HIGH:g}" fill="none" pointer-events="all"/>'
    parts = [f"<title>{told}</title>{hit}"]
    y = HIGH - 1
    for (look, wide), height in zip(looks.values(), heights, strict=True):
        y -= height
        if height:
            parts.append(f'<rect {look} x="{x + (width - wide) / 2:.2f}" y="{y:.2f}" width="{wide:.2f}" height="{height:.2f}"/>')
    if bar.alarmed:
        arm = min(width / 2, 1.7)
        cross = f"M{x + width / 2 - arm:.2f} {max(y - 2.6, arm) - arm:.2f} l{2 * arm:.2f} {2 * arm:.2f}"
        parts.append(f'<path class="ps-cross" d="{cross} m0 {-2 * arm:.2f} l{-2 * arm:.2f} {2 * arm:.2f}"/>')
    return _linked(f"<g>{''.join(parts)}</g>", told, bar.href)


def meter(done: int, total: int, *, title: str) -> str:
    """Return a thin bar that is as full as stages are guarded. Where there is nothing to guard it is neither full nor empty.

    :raises ValueError: for less than nothing, and for more than all.
    """
    if not 0 <= done <= total:
        raise ValueError(f"{done} of {total} cannot be")
    if not total:
        return _chart(
            "ps-meter", LONG, THIN, title, "nothing to guard", [f'<path class="ps-nothing" d="M0 {THIN / 2:g} H{LONG:g}"/>']
        )
    wide, _ = _shares([done, total - done], LONG, 4.0)
    parts = [f'<rect class="ps-track" x="0.5" y="0.5" width="{LONG - 1:g}" height="{THIN - 1:g}" rx="3.5"/>']
    if done:
        parts.append(f'<rect class="ps-part ps-good" width="{wide:.2f}" height="{THIN:g}" rx="4"/>')
    return _chart("ps-meter", LONG, THIN, title, f"{done:,} of {total:,} guarded", parts)


def donut(parts: Sequence[tuple[str, int, str]], *, title: str) -> str:
    """Return a ring of parts, each a label, how many they are, and a class for it, with how many all are in the middle.

    The classes of :data:`CSS` for parts are ps-good, ps-stop, ps-alarm, ps-soft and ps-rim. What alarms is drawn wider.

    :raises ValueError: for less than nothing, and for a class that is none.
    """
    for label, count, look in parts:
        if count < 0 or not re.fullmatch(r"[A-Za-z][\w-]*", look, re.ASCII):
            raise ValueError(f"no part of a ring: {quoted(label)}, {count}, {quoted(look)}")
    total = sum(count for _, count, _ in parts)
    turns = _shares([count for _, count, _ in parts], 2 * pi, LEAST_TURN)
    shown: list[str] = []
    at = 0.0
    for (label, count, look), turn in zip(parts, turns, strict=True):
        if count:
            told = quoted(f"{label}: {count:,}")
            inner = INNER - 4 if look == "ps-alarm" else INNER
            way = _arc(at, at + turn, inner, whole=count == total)
            shown.append(f'<g class="{look}"><title>{told}</title><path class="ps-part" fill-rule="evenodd" d="{way}"/></g>')
        at += turn
    middle = RING / 2
    if not shown:
        shown.append(f'<circle class="ps-nothing" cx="{middle:g}" cy="{middle:g}" r="{(OUTER + INNER) / 2:g}"/>')
    number = f"{total:,}"
    narrow = ' textLength="38" lengthAdjust="spacingAndGlyphs"' if len(number) > MOST_DIGITS else ""
    shown.append(f'<text x="{middle:g}" y="{middle + 6:g}"{narrow}>{number}</text>')
    words = f"{total:,} in all" + "".join(f", {count:,} {label}" for label, count, _ in parts if count) if total else "none"
    return _chart("ps-donut", RING, RING, title, words, shown)


def _arc(start: float, end: float, inner: float, *, whole: bool) -> str:
    """The way around a piece of the ring, from twelve o'clock on, with a gap after it; or around all of it."""
    c = RING / 2
    if whole:
        return "".join(f"M{c:g} {c - r:g} a{r:g} {r:g} 0 1 1 -0.01 0 Z" for r in (OUTER, inner))
    end -= 2 / OUTER
    large = int(end - start > pi)
    points = [(c + r * sin(a), c - r * cos(a)) for r, a in ((OUTER, start), (OUTER, end), (inner, end), (inner, start))]
    (x1, y1), (x2, y2), (x3, y3), (x4, y4) = points
    return (
        f"M{x1:.2f} {y1:.2f} A{OUTER:g} {OUTER:g} 0 {large} 1 {x2:.2f} {y2:.2f} "
        f"L{x3:.2f} {y3:.2f} A{inner:g} {inner:g} 0 {large} 0 {x4:.2f} {y4:.2f} Z"
    )


def _shares(counts: Sequence[int], room: float, least: float) -> list[float]:
    """Divide room by counts, with the least for what is there at all. What has more gives it."""
    there = sum(1 for count in counts if count)
    least = min(least, room / there) if there else 0.0
    total = sum(counts)
    spare = room - least * there
    return [least + spare * count / total if count else 0.0 for count in counts]


def _counted(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts if count)


def _linked(inside: str, told: str, href: str | None) -> str:
    return inside if href is None else f'<a href="{address(href)}" aria-label="{told}">{inside}</a>'


def _chart(look: str, width: float, height: float, title: str, words: str, parts: Iterable[str], *, links: bool = False) -> str:
    told = quoted(f"{title}: {words}")
    role = "group" if links else "img"  # who cannot see it finds no links in what is one image
    size = f'width="{width:g}" height="{height:g}" viewBox="0 0 {width:g} {height:g}"'
    return f'<svg class="ps-chart {look}" {size} role="{role}" aria-label="{told}"><title>{told}</title>{"".join(parts)}</svg>'
