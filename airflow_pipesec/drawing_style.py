"""Pictures share signs, colours and a way to write what others wrote: it is only text, and leads nowhere but to the web."""

from __future__ import annotations

import re
from enum import StrEnum
from xml.sax.saxutils import escape

from airflow_pipesec.findings import printable

__all__ = ["COLOURS", "SIGNS", "LinkMark", "Mark", "address", "quoted", "style", "style_of_plain"]


class Mark(StrEnum):
    """How a task of a run stands."""

    PASSED = "passed"
    FAILED = "failed"
    RUNNING = "running"
    SKIPPED = "skipped"
    NOT_RUN = "not run"
    OVERRIDDEN = "set by hand"
    WARNED = "failed, let go on"
    RETRYING = "waiting to retry"
    WAITING = "waiting"
    UNPROVEN = "not proven"


class LinkMark(StrEnum):
    """How an edge of a run stands: whether what a task took is what the one before it handed on."""

    VERIFIED = "verified"
    BROKEN = "broken"
    MISSING = "missing"  # the evidence is not there


# Drawn in 8 by 8, since not every font has such signs.
SIGNS = {
    Mark.PASSED: "M0.5 4.5 L3 7 L7.5 1.5",
    Mark.FAILED: "M1 1 L7 7 M7 1 L1 7",
    Mark.RUNNING: "M1.5 1 L7 4 L1.5 7 Z",
    Mark.SKIPPED: "M0.5 1 L3.5 4 L0.5 7 M4 1 L7 4 L4 7",
    Mark.NOT_RUN: "M4 0.8 a3.2 3.2 0 1 0 0.01 0 Z",
    Mark.OVERRIDDEN: "M4 0 V5 M4 6.4 V8",
    Mark.WARNED: "M4 0.6 L7.6 7.4 H0.4 Z",
    Mark.RETRYING: "M7 5 A3.2 3.2 0 1 1 6.6 2.2 M7 0 V2.6 H4.4",
    Mark.WAITING: "M1 0.7 H7 L1 7.3 H7 Z",
    Mark.UNPROVEN: "M1.9 2.3 C1.9 -0.3 6.1 -0.3 6.1 2.3 C6.1 3.8 4 3.7 4 5.4 M4 6.6 V8",
}
COLOURS = {Mark.PASSED: " good", Mark.FAILED: " alarm", Mark.OVERRIDDEN: " alarm", Mark.UNPROVEN: " alarm"}

_LIGHT = """--paper: #ffffff; --ink: #14212e; --soft: #51606f; --line: #5f6e7c; --stage: #ffffff; --edge: #55636f;
  --guard: #e3eef6; --rim: #1f5f8b; --light: #f2f4f6; --alarm: #b3261e; --alarmed: #fdeceb; --good: #1b6e3c;"""
_DARK = """--paper: #10161c; --ink: #e8eef4; --soft: #a9b6c2; --line: #94a2b0;
  --stage: #1a232c; --edge: #94a2b0; --guard: #16344a; --rim: #7fc0ee; --light: #161d24; --alarm: #ff8a80; --alarmed: #3a1a19;
  --good: #7fd6a0;"""
_RULES = """\
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
_MORE = """\
.pipesec .verified { stroke: var(--good); stroke-width: 1.8; stroke-dasharray: none; }
.pipesec .broken { stroke: var(--alarm); stroke-width: 2.4; stroke-dasharray: 6 3; }
.pipesec .missing { stroke: var(--soft); stroke-width: 2; stroke-dasharray: .1 4; stroke-linecap: round; }
.pipesec .head.verified { fill: var(--good); stroke: none; }
.pipesec .head.broken { fill: var(--alarm); stroke: none; }
.pipesec .head.missing { fill: var(--soft); stroke: none; }
.pipesec .seal { fill: var(--paper); stroke: var(--soft); stroke-width: 1.6; }
.pipesec .seal.good { fill: var(--good); stroke: var(--paper); stroke-width: 1; }
.pipesec .seal.alarm { fill: var(--alarm); stroke: var(--paper); stroke-width: 1; }
.pipesec .sealed { fill: none; stroke: var(--paper); stroke-width: 1.6; }
.pipesec a { cursor: pointer; outline: none; }
.pipesec a:hover rect { stroke-width: 2.4; }
.pipesec a:hover .name, .pipesec a:hover .guards { text-decoration: underline; }
.pipesec a:focus-visible { outline: 2px solid var(--ink); outline-offset: 3px; }
.pipesec a:focus-visible rect { stroke: var(--ink); stroke-width: 3; }
"""


def style(dark: str | None = None) -> str:
    """Return the CSS of pictures, for a page that they stand in. It applies to nothing else: all is below ``.pipesec``.

    :param dark: the selector below which the page is dark, such as ``.dark``. Unless given the person's own setting decides.
    """
    return _style(dark) + _MORE


def style_of_plain() -> str:
    """Return the CSS of pictures without links, that of an image which stands alone."""
    return _style(None)


def _style(dark: str | None) -> str:
    colours = f".pipesec {{ {_DARK} }}"
    switched = f"@media (prefers-color-scheme: dark) {{ {colours} }}" if dark is None else f"{dark} {colours}"
    return f"\n.pipesec {{ {_LIGHT} }}\n{switched}\n{_RULES}"


def quoted(text: str) -> str:
    """Return a text for the inside of an element, or of an attribute between double quotes."""
    return escape(printable(text), {'"': "&quot;"})


def address(href: str) -> str:
    """Return a link's address for an attribute between double quotes: one on the same site, or of http or https.

    :raises ValueError: for anything else. That is javascript: and data:, what begins with two slashes and so leads to another
        site, and what a browser reads in another way than it is written: with backslashes, spaces or invisible characters.
    """
    clear = href.isprintable() and not re.search(r"[\s\\]", href)
    elsewhere = re.match(r"https?://[^/?#]", href, re.IGNORECASE)
    here = href and not href.startswith("//") and ":" not in re.split("[/?#]", href, maxsplit=1)[0]
    if not clear or not (elsewhere or here):
        raise ValueError(f"no address on this site, and none of http or https: {printable(href)}")
    return quoted(href)
