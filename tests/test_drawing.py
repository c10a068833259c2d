"""Pictures of pipelines: everything is there once, nothing overlaps, hostile names are only text, words say what colours say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.drawing import GUARD, STAGE, Mark, draw
from airflow_pipesec.layout import laid_out
from airflow_pipesec.pipeline import Kind, Node, Pipeline

SVG = "{http://www.w3.org/2000/svg}"


def chain(stages: int) -> Pipeline:
    """Stages in a row, a guard between every two, and the data's own edge past it."""
    nodes = {"stage_0": Node("stage_0", label="stage_0")}
    for number in range(1, stages):
        guard, above, stage = f"guard_{number}", f"stage_{number - 1}", f"stage_{number}"
        nodes[guard] = Node(guard, (above,), Kind.GUARD, label=guard)
        nodes[stage] = Node(stage, (above, guard), label=stage)
    return Pipeline("chain", nodes)


@st.composite
def pipelines(draw_from: st.DrawFn) -> Pipeline:
    nodes: dict[str, Node] = {}
    for number in range(draw_from(st.integers(0, 30))):
        name = f"n{number}"
        upstream = tuple(sorted(draw_from(st.sets(st.sampled_from(sorted(nodes)), max_size=3)))) if nodes else ()
        nodes[name] = Node(name, upstream, draw_from(st.sampled_from(Kind)), label=name, warns=draw_from(st.booleans()))
    return Pipeline("any", nodes)


def sizes(pipeline: Pipeline) -> dict[str, tuple[float, float]]:
    return {name: GUARD if node.kind is Kind.GUARD else STAGE for name, node in pipeline.nodes.items()}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]  # noqa: S314 - our own


@given(pipelines())
def test_every_task_has_a_place_of_its_own_on_the_paper(pipeline: Pipeline) -> None:
    paper = laid_out(pipeline, sizes(pipeline))
    assert set(paper.boxes) == set(pipeline.nodes)
    boxes = sorted(paper.boxes.values())
    for number, one in enumerate(boxes):
        assert one.x >= 0
        assert one.y >= 0
        assert one.x + one.width <= paper.width
        assert one.y + one.height <= paper.height
        for other in boxes[number + 1 :]:
            apart = one.x + one.width <= other.x or one.y + one.height <= other.y + 1e-6 or other.y + other.height <= one.y + 1e-6
            assert apart


@given(pipelines())
def test_every_edge_leads_from_its_task_to_its_task(pipeline: Pipeline) -> None:
    paper = laid_out(pipeline, sizes(pipeline))
    begun = {(line.above, line.below): line.points[0] for line in paper.lines if not line.comes_in}
    ended = {(line.above, line.below): line.points[-1] for line in paper.lines if not line.goes_on}
    edges = {(other, name) for name, node in pipeline.nodes.items() for other in node.upstream}
    assert set(begun) == set(ended) == edges
    for above, below in edges:
        box = paper.boxes[above]
        assert begun[above, below] == pytest.approx((box.x + box.width, box.y + box.height / 2))
        box = paper.boxes[below]
        assert ended[above, below] == pytest.approx((box.x, box.y + box.height / 2))


@given(pipelines())
def test_no_edge_runs_through_the_box_of_another_task(pipeline: Pipeline) -> None:
    paper = laid_out(pipeline, sizes(pipeline))
    for line in paper.lines:
        for x, y in line.points:
            for name, box in paper.boxes.items():
                if name not in (line.above, line.below):
                    assert not (box.x < x < box.x + box.width and box.y < y < box.y + box.height)


@given(pipelines())
def test_the_picture_is_well_formed_and_always_the_same(pipeline: Pipeline) -> None:
    svg = draw(pipeline, title="a picture")
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    groups = [element for element in root.iter(f"{SVG}g") if "transform" in element.attrib]
    assert len(groups) == len(pipeline.nodes)
    assert draw(pipeline, title="a picture") == svg


def test_what_has_no_guard_is_said_in_words() -> None:
    nodes = {"collect": Node("collect"), "train": Node("train", ("collect",))}
    svg = draw(Pipeline("d", nodes), title="t")
    assert texts(svg).count("unguarded") == 2
    assert "2 stages, 0 of them guarded, 0 guards. Unguarded: collect, train." in svg
    assert "unguarded" not in texts(draw(chain(2), title="t"))


def test_what_became_of_a_task_is_said_in_words() -> None:
    marks = dict(zip(chain(4).nodes, Mark, strict=False))
    shown = " ".join(texts(draw(chain(4), title="t", marks=marks)))
    assert all(mark in shown for mark in marks.values())


def test_a_guard_that_only_warns_says_so() -> None:
    nodes = {"g": Node("g", (), Kind.GUARD, warns=True), "s": Node("s", ("g",))}
    assert "guard, only warns" in texts(draw(Pipeline("d", nodes), title="t"))


def test_an_edge_past_a_guard_is_drawn_as_one_that_goes_past() -> None:
    assert draw(chain(3), title="t").count('class="line beside" d="M') == 2 + 1  # and the legend's
    straight = Pipeline("d", {"a": Node("a"), "b": Node("b", ("a",))})
    assert draw(straight, title="t").count('class="line beside" d="M') == 1


@pytest.mark.parametrize(
    "name", ["</style><script>alert(1)</script>", '" onload="alert(1)', "&lt;", "\u202edlrow", "a\x00b", "]]>"]
)
def test_hostile_names_are_only_text(name: str) -> None:
    node = Node(name, operator=name, label=name)
    svg = draw(Pipeline(name, {name: node}), title=name, notes={name: name})
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own
    allowed = {"svg", "title", "desc", "style", "rect", "g", "path", "text", "circle"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]
    assert name.isprintable() or name not in svg


def test_long_names_are_cut_and_told_in_full() -> None:
    name = "a_very_long_name_of_a_stage_that_nobody_would_want_to_read_twice"
    svg = draw(Pipeline("d", {name: Node(name, label=name)}), title="t")
    assert all(len(text) < len(name) for text in texts(svg) if text.startswith("a_very"))
    assert f"<title>{name}</title>" in svg


def test_nothing_leaves_the_picture() -> None:
    svg = draw(chain(5), title="t")
    assert not re.search(r"href|url\(|@import|<script|<foreignObject", svg)
    assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}


def test_a_large_pipeline_grows_with_its_tasks_only() -> None:
    small, large = (len(draw(chain(stages), title="t")) for stages in (100, 1000))
    assert large < 12 * small
    paper = laid_out(chain(1000), sizes(chain(1000)))
    assert paper.width < 1500
