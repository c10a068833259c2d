"""Pictures within pages: links are marked where that is true, tasks lead only to the web, the page brings the style."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_pipesec.drawing import LinkMark, Mark, draw, style
from airflow_pipesec.drawing_links import badges, loaded
from airflow_pipesec.drawing_style import address
from airflow_pipesec.layout import Box, Edge, Line
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from tests.test_drawing import chain, fan, into, leads, on_the_way, out_of, paper_of, pipelines, spread, watched, woven

FOREIGN = [
    "javascript:alert(1)",
    "JavaScript:alert(1)",
    " javascript:alert(1)",
    "java\tscript:alert(1)",
    "\x01javascript:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "//elsewhere.example",
    "/\\elsewhere.example",
    "\\\\elsewhere.example",
    "http:elsewhere.example",
    "https:///",
    "ftp://x.example",
    "",
    "a b",
    "/\u202e",
    "/\ud800",
]
NEAR = ['/dags/a?x=1&y="2"#\'z', "https://x.example/a:b", "HTTP://x.example", "?run=a:b", "#x", "dags/a:b", "../x", "/日本"]


def edges(pipeline: Pipeline) -> list[Edge]:
    return [(other, name) for name, node in pipeline.nodes.items() for other in sorted(node.upstream)]


def inside(svg: str) -> ElementTree.Element:
    """What a browser makes of a picture within a page, for which it needs no namespace."""
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def titles(svg: str) -> list[str]:
    return [element.text or "" for element in inside(svg).iter("title")]


def looks(svg: str) -> set[str]:
    return {name for element in inside(svg).iter() for name in (element.get("class") or "").split()}


def lines_of(lines: Iterable[Line], edge: Edge) -> tuple[list[Line], list[Line]]:
    above, below = edge
    some = list(lines)
    return (
        [line for line in some if line.above == above and line.below in (None, below)],
        [line for line in some if line.below == below and line.above in (None, above)],
    )


@given(pipelines())
@example(spread(25))
@example(woven(40))
@example(watched(30))
@settings(deadline=None)
def test_where_all_edges_have_a_mark_every_piece_has_it_and_none_is_lost(pipeline: Pipeline) -> None:
    paper = paper_of(pipeline)
    pieces = list(loaded(paper.lines, dict.fromkeys(edges(pipeline), LinkMark.VERIFIED)))
    assert {load.mark for _, load in pieces} <= {LinkMark.VERIFIED}
    assert sorted(load.edge for line, load in pieces if load.edge and line.above and line.below) == sorted(edges(pipeline))
    before = {point for line in paper.lines for point in line.points}
    assert {point for line, _ in pieces for point in line.points} == before


@given(pipelines(), st.data())
@example(spread(6), None)
@example(woven(12), None)
@example(fan(6), None)
@settings(deadline=None)
def test_no_stretch_says_of_an_edge_what_is_true_of_another(pipeline: Pipeline, data: st.DataObject | None) -> None:
    paper = paper_of(pipeline)
    known = edges(pipeline)
    if not known:
        return
    for edge in known if data is None else [data.draw(st.sampled_from(known))]:
        links = dict.fromkeys(known, LinkMark.VERIFIED) | {edge: LinkMark.BROKEN}
        pieces = list(loaded(paper.lines, links))
        start, end = out_of(paper.boxes[edge[0]]), into(paper.boxes[edge[1]])
        ways = lines_of((line for line, load in pieces if load.mark is not LinkMark.VERIFIED), edge)
        assert any(leads(way, start, end) for way in ways)
        assert {load.edge for _, load in pieces if load.mark is LinkMark.BROKEN} == {edge}


@given(pipelines(), st.data())
@example(woven(20), None)
@example(spread(8), None)
@settings(deadline=None)
def test_signs_stand_on_their_edges_beside_boxes_and_not_upon_each_other(pipeline: Pipeline, data: st.DataObject | None) -> None:
    paper = paper_of(pipeline)
    known = edges(pipeline)
    marks = [LinkMark.VERIFIED] * len(known) if data is None else [data.draw(st.sampled_from(LinkMark)) for _ in known]
    links = dict(zip(known, marks, strict=True))
    found = badges(list(loaded(paper.lines, links)))
    assert {badge.edge for badge in found} >= {edge for edge, mark in links.items() if mark is not LinkMark.VERIFIED}
    assert all(links[badge.edge] is badge.mark for badge in found)
    for badge in found:
        own = [line for line in paper.lines if (line.above, line.below) == badge.edge]
        assert min(abs(badge.x - x) + abs(badge.y - y) for line in own for x, y in on_the_way(line)) < 40
        assert not [box for box in paper.boxes.values() if _reaches(badge.x, badge.y, box)]
    verified = [badge for badge in found if badge.mark is LinkMark.VERIFIED]
    for number, one in enumerate(verified):
        assert all((one.x - other.x) ** 2 + (one.y - other.y) ** 2 > 9**2 for other in verified[number + 1 :])


def _reaches(x: float, y: float, box: Box, radius: float = 4.5) -> bool:
    return box.x - radius < x < box.x + box.width + radius and box.y - radius < y < box.y + box.height + radius


def test_an_edge_past_a_guard_carries_its_mark_all_the_way() -> None:
    svg = draw(chain(2), title="t", links={("stage_0", "stage_1"): LinkMark.BROKEN}, inline=True)
    assert titles(svg).count("stage_0 to stage_1: link broken") == 3  # the way past, the way in, and the sign
    assert "beside" not in looks(svg)


@pytest.mark.parametrize("mark", LinkMark)
def test_a_mark_is_told_by_line_sign_legend_and_words(mark: LinkMark) -> None:
    svg = draw(chain(2), title="t", links={("stage_0", "guard_1"): mark}, inline=True)
    assert {str(mark), "seal"} <= looks(svg)
    assert looks(svg).isdisjoint(set(LinkMark) - {mark})
    told = [element.text or "" for element in inside(svg).iter("text")]
    assert [text for text in told if text.startswith(f"link {mark}")]
    assert f"; 1 link {mark}" in inside(svg).get("aria-label", "")
    assert f"stage_0 to guard_1: link {mark}" in titles(svg)


def test_signs_of_edges_differ_in_shape() -> None:
    pipeline = Pipeline("d", {"a": Node("a"), "b": Node("b", ("a",)), "c": Node("c", ("b",)), "d": Node("d", ("c",))})
    svg = draw(pipeline, title="t", links=dict(zip(edges(pipeline), LinkMark, strict=True)), inline=True)
    signs = [path.get("d") for path in inside(svg).iter("path") if path.get("class") == "sealed"]
    assert len(signs) == 4  # and again in the legend; what is missing is an empty circle
    assert len(set(signs)) == 2
    dashes = re.findall(r"\.(verified|broken|missing) {[^}]*stroke-dasharray: ([^;]+);", style())
    assert len(dict(dashes)) == len({dash for _, dash in dashes}) == 3


def test_an_edge_that_the_pipeline_does_not_have_is_told_in_words() -> None:
    svg = draw(chain(2), title="t", links={("gone", "stage_1"): LinkMark.BROKEN}, inline=True)
    assert "1 link broken: gone to stage_1" in svg
    assert "seal" not in looks(svg)


def test_many_links_are_counted_and_a_few_named() -> None:
    links = {(f"a{number}", f"b{number}"): LinkMark.MISSING for number in range(1200)}
    label = inside(draw(chain(2), title="t", links=links, inline=True)).get("aria-label", "")
    assert label.endswith("; 1,200 links missing: a0 to b0, a1 to b1, a2 to b2, a3 to b3, a4 to b4 and 1,195 more")


def test_a_task_leads_where_it_should_and_says_what_it_is() -> None:
    svg = draw(chain(2), title="t", hrefs={"stage_0": '/a?b=1&c="', "gone": "/"}, marks={"stage_0": Mark.PASSED}, inline=True)
    (link,) = inside(svg).iter("a")
    assert link.get("href") == '/a?b=1&c="'
    assert link.get("aria-label") == link.findtext("g/title") == "stage_0. passed"
    assert inside(svg).get("role") == "group"  # one image has no links in it
    assert "a:focus-visible" in style()


@pytest.mark.parametrize("href", FOREIGN)
def test_a_task_leads_nowhere_but_to_the_web(href: str) -> None:
    with pytest.raises(ValueError, match="no address"):
        draw(chain(1), title="t", hrefs={"stage_0": href})


@pytest.mark.parametrize("href", NEAR)
def test_addresses_of_the_web_are_kept_as_they_are(href: str) -> None:
    (link,) = inside(draw(chain(1), title="t", hrefs={"stage_0": href}, inline=True)).iter("a")
    assert link.get("href") == href


@given(st.text() | st.from_regex(r"[a-zA-Z]{1,12}:.*", fullmatch=True))
def test_an_address_that_is_taken_has_no_scheme_but_http(href: str) -> None:
    try:
        address(href)
    except ValueError:
        return
    scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:", href)
    assert scheme is None or scheme[0].lower() in ("http:", "https:")


def test_a_picture_within_a_page_brings_no_style() -> None:
    pipeline, links = chain(3), {("stage_0", "guard_1"): LinkMark.VERIFIED}
    svg = draw(pipeline, title="t", links=links, hrefs={"stage_0": "/x"}, inline=True)
    assert not re.search(r"<style|style=|<script|\son\w+=|xmlns", svg)
    assert f"<style>{style()}</style>" in draw(pipeline, title="t", links=links)


def test_a_plain_picture_has_no_rules_for_what_is_not_in_it() -> None:
    assert "seal" not in draw(chain(3), title="t")
    assert "seal" in style()


@pytest.mark.parametrize("dark", [None, ".dark", "html.dark"])
def test_the_style_is_dark_where_the_page_says_so_and_reaches_nothing_else(dark: str | None) -> None:
    css = style(dark)
    assert css.count("--paper: ") == 2
    assert ("prefers-color-scheme" in css) is (dark is None)
    rules = re.sub(r"@media[^{]+{(.*?} )}", r"\1", css, flags=re.DOTALL)
    for selector in re.findall(r"([^{}]+){", rules):
        assert all(part.strip().removeprefix(dark or "").strip().startswith(".pipesec") for part in selector.split(","))
    assert dark is None or f"\n{dark} .pipesec {{ --paper: #10161c" in css


@pytest.mark.parametrize("name", ['"><script>alert(1)</script>', "]]>", "\u202e", "a\x00b", "\ud800"])
def test_hostile_names_of_links_and_tasks_are_only_text(name: str) -> None:
    pipeline = Pipeline("d", {name: Node(name), "b": Node("b", (name,), Kind.GUARD)})
    svg = draw(pipeline, title="t", links={(name, "b"): LinkMark.BROKEN}, hrefs={name: "/x"}, inline=True)
    assert svg.encode()
    assert "script" not in {element.tag for element in inside(svg).iter()}
    assert not [key for element in inside(svg).iter() for key in element.attrib if key.startswith("on")]
