"""Charts: hostile labels are only text, what is drawn is also said, and nothing in them needs more of a page than its colours."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.drawing import Mark
from airflow_pipesec.drawing_style import SIGNS
from airflow_pipesec.ui.charts import CSS, Bar, Cell, donut, meter, strip, trend

HOSTILE = [
    '"><script>alert(1)</script>',
    "]]>",
    "\u202edlrow",
    "a\x00b\n\x1b[31m",
    "\ud800",
    "\ufffe",
    "' onload='x",
    "-->",
    "&#60;",
]
FOREIGN = ["javascript:alert(1)", "data:text/html,x", "//elsewhere.example", "java\nscript:x", "/\\x", ""]

counts = st.integers(0, 10**6) | st.just(0)
hrefs = st.none() | st.sampled_from(["/x?a=1&b=2", "https://x.example/", "x"])
labels = st.text() | st.text(st.characters()) | st.sampled_from(HOSTILE)
cells = st.lists(st.builds(Cell, st.none() | st.sampled_from(Mark), labels, hrefs), max_size=20)
bars = st.lists(st.builds(Bar, counts, counts, counts, counts, labels, hrefs), max_size=40)
shares = st.lists(st.tuples(labels, counts, st.sampled_from(["ps-good", "ps-stop", "ps-alarm", "ps-soft"])), max_size=6)
meters = st.tuples(counts, counts).map(sorted)


def root_of(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def said(svg: str) -> str:
    return root_of(svg).get("aria-label", "")


def titles(svg: str) -> list[str]:
    """What one is told who points at something, but for the whole."""
    return [element.findtext("title", "") for element in root_of(svg).iter("g") if element.find("title") is not None]


def check(svg: str) -> None:
    assert svg.encode()
    root = root_of(svg)
    elements = list(root.iter())
    allowed = {"svg", "title", "g", "a", "rect", "path", "circle", "text", "defs", "pattern"}
    assert {element.tag for element in elements} <= allowed
    keys = {key for element in elements for key in element.attrib}
    assert not {key for key in keys if key.startswith("on") or key == "style" or ":" in key}
    assert not re.search(r"<style|<script|<!\[|<!--", svg)
    assert root.get("role") == ("group" if any(element.tag == "a" for element in elements) else "img")
    assert root.get("aria-label") == root.findtext("title")
    assert all((element.text or "").isprintable() for element in elements)
    numbers = re.findall(r' (?:x|y|d|width|height|r)="([^"]*)"', svg)
    assert not [number for number in numbers if "nan" in number or "inf" in number]
    assert not [
        element for element in elements if float(element.get("width", "1")) <= 0 or float(element.get("height", "1")) <= 0
    ]


@given(cells, bars, shares, meters, labels, labels)
def test_a_chart_is_well_formed_whatever_its_labels_are(
    row: list[Cell], stacks: list[Bar], ring: list[tuple[str, int, str]], part: list[int], title: str, name: str
) -> None:
    for svg in (
        strip(row, title=title),
        trend(stacks, title=title, name=name),
        donut(ring, title=title),
        meter(part[0], part[1], title=title),
    ):
        check(svg)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_labels_are_only_text(text: str) -> None:
    for svg in (
        strip([Cell(Mark.PASSED, text)], title=text),
        trend([Bar(1, 0, 0, 0, text)], title=text, name=text),
        donut([(text, 1, "ps-good")], title=text),
        meter(1, 1, title=text),
    ):
        check(svg)
        assert "<script" not in svg
        assert text.isprintable() or text not in svg


@pytest.mark.parametrize("href", FOREIGN)
def test_nothing_leads_elsewhere_than_to_the_web(href: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        strip([Cell(Mark.PASSED, "run", href)], title="t")
    with pytest.raises(ValueError, match="no address"):
        trend([Bar(1, 0, 0, 0, "run", href)], title="t", name="n")


def test_what_leads_somewhere_says_what_it_is() -> None:
    (link,) = root_of(strip([Cell(Mark.PASSED, "run", '/a?b=1&c="'), Cell(None, "old")], title="t")).iter("a")
    assert link.attrib == {"href": '/a?b=1&c="', "aria-label": "run: passed"}
    assert ":focus-visible" in CSS


def test_a_strip_says_how_many_runs_stood_how() -> None:
    svg = strip([Cell(None, "r0"), *(Cell(mark, "r") for mark in (Mark.FAILED, Mark.PASSED, Mark.PASSED))], title="guard")
    assert said(svg) == "guard: 2 passed, 1 failed, 1 no run"
    assert titles(svg) == ["r0: no run", "r: failed", "r: passed", "r: passed"]


def test_every_mark_has_its_own_square() -> None:
    svg = strip([Cell(mark, "r") for mark in Mark], title="t")
    signs = [path.get("d") for path in root_of(svg).iter("path")]
    assert signs == list(SIGNS.values())
    assert len(set(signs)) == len(Mark)


def test_a_trend_says_its_sums_and_each_bar_its_own() -> None:
    svg = trend([Bar(3, 1, 0, 0, "Monday"), Bar(1000, 0, 2, 5, "Tuesday"), Bar(0, 0, 0, 0, "Sunday")], title="runs", name="n")
    assert said(svg) == "runs: 1,003 passed, 1 stopped, 2 alarmed, 5 other"
    assert titles(svg) == ["Monday: 3 passed, 1 stopped", "Tuesday: 1,000 passed, 2 alarmed, 5 other", "Sunday: nothing"]


def test_a_trend_tells_what_was_stopped_and_what_alarms_without_colour() -> None:
    svg = trend([Bar(1, 1, 1, 0, "a"), Bar(1, 1, 0, 0, "b")], title="t", name="n")
    assert svg.count('class="ps-cross"') == 1
    assert svg.count('fill="url(#ps-hatch-n)"') == 2


def test_a_trend_shows_the_last_thirty() -> None:
    svg = trend([Bar(1, 0, 0, 0, f"bar {number}") for number in range(35)], title="t", name="n")
    assert titles(svg) == [f"bar {number}: 1 passed" for number in range(5, 35)]
    assert said(svg) == "t: 30 passed"


@given(bars)
def test_bars_stay_within_their_chart(stacks: list[Bar]) -> None:
    for rect in root_of(trend(stacks, title="t", name="n")).iter("rect"):
        x, y, width, height = (float(rect.get(key, "0")) for key in ("x", "y", "width", "height"))
        assert x >= -0.01
        assert x + width <= 120.01
        assert y >= -0.01
        assert y + height <= 28.01


@given(st.text(), st.text())
def test_patterns_of_charts_with_different_names_differ(one: str, other: str) -> None:
    def pattern(name: str) -> str | None:
        (found,) = root_of(trend([], title="t", name=name)).iter("pattern")
        return found.get("id")

    assert (pattern(one) == pattern(other)) is (one == other)
    assert re.fullmatch(r"[\w-]+", pattern(one) or "", re.ASCII)


def test_a_meter_says_how_many_stages_are_guarded() -> None:
    assert said(meter(3, 1200, title="stages")) == "stages: 3 of 1,200 guarded"


def test_nothing_to_guard_is_not_full() -> None:
    svg = meter(0, 0, title="stages")
    assert said(svg) == "stages: nothing to guard"
    assert "ps-part" not in svg
    assert "ps-track" not in svg


def _filled(svg: str) -> float:
    return sum(float(rect.get("width", "0")) for rect in root_of(svg).iter("rect") if "ps-part" in rect.get("class", ""))


def test_a_meter_is_full_only_when_all_are_guarded_and_empty_only_when_none_is() -> None:
    assert _filled(meter(0, 10**6, title="t")) == 0
    assert _filled(meter(1, 10**6, title="t")) >= 4
    assert _filled(meter(10**6 - 1, 10**6, title="t")) <= 68
    assert _filled(meter(10**6, 10**6, title="t")) == 72


def test_a_ring_says_its_parts_and_how_many_all_are() -> None:
    svg = donut([("passed", 1200, "ps-good"), ("set by hand", 1, "ps-alarm"), ("none", 0, "ps-soft")], title="guards")
    assert said(svg) == "guards: 1,201 in all, 1,200 passed, 1 set by hand"
    assert root_of(svg).findtext("text") == "1,201"
    assert titles(svg) == ["passed: 1,200", "set by hand: 1"]


def test_one_in_a_million_is_seen() -> None:
    svg = donut([("passed", 10**6, "ps-good"), ("alarm", 1, "ps-alarm")], title="t")
    (_, alarm) = (path.get("d", "") for path in root_of(svg).iter("path"))
    points = [tuple(map(float, point.split())) for point in re.findall(r"[\d.]+ [\d.]+(?= A| L)", alarm)]
    assert abs(points[0][0] - points[1][0]) > 2


@pytest.mark.parametrize(
    ("svg", "words"),
    [
        (strip([], title="t"), "t: no runs"),
        (trend([], title="t", name="n"), "t: nothing"),
        (donut([], title="t"), "t: none"),
    ],
)
def test_an_empty_chart_says_so(svg: str, words: str) -> None:
    check(svg)
    assert said(svg) == words
    assert "ps-part" not in svg


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        meter(3, 2, title="t")
    with pytest.raises(ValueError, match="cannot be"):
        meter(-1, 2, title="t")
    with pytest.raises(ValueError, match="less than nothing"):
        trend([Bar(-1, 0, 0, 0, "a")], title="t", name="n")
    with pytest.raises(ValueError, match="no part of a ring"):
        donut([("a", -1, "ps-good")], title="t")
    with pytest.raises(ValueError, match="no part of a ring"):
        donut([("a", 1, '"><script>')], title="t")


def test_the_style_takes_all_colours_from_the_page_and_reaches_nothing_else() -> None:
    assert not re.search(r"#[0-9a-f]{3}|rgb|hsl|url\(|@import", CSS)
    used = set(re.findall(r"var\((--ps-\w+)\)", CSS)) - {"--ps-tone"}
    assert used == {f"--ps-{name}" for name in ("good", "alarm", "stop", "soft", "ink", "paper", "line", "rim")}
    for selectors in re.findall(r"([^{}]+){", CSS):
        assert all(part.strip().startswith(".ps-chart") for part in selectors.split(","))
