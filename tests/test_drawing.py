"""Pictures of pipelines: everything is there once, nothing overlaps, hostile names are only text, words say what colours say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from types import FrameType
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from airflow_pipesec import drawing, layout, layout_columns
from airflow_pipesec.drawing import Mark, draw
from airflow_pipesec.layout import Box, Line, Paper, Point, laid_out
from airflow_pipesec.pipeline import Kind, Node, Pipeline

SVG = "{http://www.w3.org/2000/svg}"
STAGE, GUARD = (120.0, 44.0), (110.0, 36.0)


def chain(stages: int) -> Pipeline:
    """Stages in a row, a guard between every two, and the data's own edge past it."""
    nodes = {"stage_0": Node("stage_0", label="stage_0")}
    for number in range(1, stages):
        guard, above, stage = f"guard_{number}", f"stage_{number - 1}", f"stage_{number}"
        nodes[guard] = Node(guard, (above,), Kind.GUARD, label=guard)
        nodes[stage] = Node(stage, (above, guard), label=stage)
    return Pipeline("chain", nodes)


def fan(stages: int) -> Pipeline:
    """Stages beside each other, each with its guard, from one task and to one."""
    nodes = {"start": Node("start")}
    for number in range(stages):
        nodes[f"stage_{number}"] = Node(f"stage_{number}", ("start",))
        nodes[f"guard_{number}"] = Node(f"guard_{number}", (f"stage_{number}",), Kind.GUARD)
    nodes["end"] = Node("end", tuple(name for name in nodes if name != "start"))
    return Pipeline("fan", nodes)


def woven(stages: int) -> Pipeline:
    """Stages that each follow two of the last ones, one of them from afar, with two guards before each."""
    nodes: dict[str, Node] = {}
    for number in range(stages):
        above = tuple(sorted({f"stage_{max(number - back, 0)}" for back in (1, 7)})) if number else ()
        guards = (f"first_{number}", f"second_{number}")
        nodes |= {guard: Node(guard, above, Kind.GUARD) for guard in guards}
        nodes[f"stage_{number}"] = Node(f"stage_{number}", (*above, *guards))
    return Pipeline("woven", nodes)


def joined(stages: int) -> Pipeline:
    """Stages beside each other, all before a task that runs nothing, and as many guards after that."""
    nodes = {f"stage_{number}": Node(f"stage_{number}") for number in range(stages)}
    nodes["join"] = Node("join", tuple(nodes), Kind.EMPTY)
    nodes |= {f"guard_{number}": Node(f"guard_{number}", ("join",), Kind.GUARD) for number in range(stages)}
    return Pipeline("joined", nodes)


def watched(stages: int) -> Pipeline:
    """Stages in a row, and beside them a row of guards that each also follow the one before."""
    nodes = {"stage_0": Node("stage_0")}
    for number in range(1, stages):
        above = f"stage_{number - 1}"
        before = (f"guard_{number - 1}",) if number > 1 else ()
        nodes[f"guard_{number}"] = Node(f"guard_{number}", (above, *before), Kind.GUARD)
        nodes[f"stage_{number}"] = Node(f"stage_{number}", (above, f"guard_{number}"))
    return Pipeline("watched", nodes)


def spread(stages: int) -> Pipeline:
    """Three rows of stages side by side; of one task all are led by, in another all end."""
    nodes = {"first": Node("first")}
    for number in range(stages):
        for way in "abc":
            above = {"first", f"{way}{number - 1}"} if number else {"first"}
            nodes[f"{way}{number}"] = Node(f"{way}{number}", tuple(sorted(above)))
    nodes["last"] = Node("last", tuple(nodes))
    return Pipeline("spread", nodes)


def alone(stages: int) -> Pipeline:
    return Pipeline("alone", {f"stage_{number}": Node(f"stage_{number}") for number in range(stages)})


@st.composite
def pipelines(draw_from: st.DrawFn) -> Pipeline:
    nodes: dict[str, Node] = {}
    far = draw_from(st.integers(1, 40))
    for number in range(draw_from(st.integers(0, 45))):
        name = f"n{number}"
        near = [f"n{other}" for other in range(max(number - far, 0), number)]
        upstream = frozenset(draw_from(st.sets(st.sampled_from(near), max_size=3))) if near else frozenset()
        nodes[name] = Node(name, upstream, draw_from(st.sampled_from(Kind)), label=name, warns=draw_from(st.booleans()))
    return Pipeline("any", nodes)


def sizes(pipeline: Pipeline) -> dict[str, tuple[float, float]]:
    return {name: GUARD if node.kind is Kind.GUARD else STAGE for name, node in pipeline.nodes.items()}


def paper_of(pipeline: Pipeline) -> Paper:
    return laid_out(pipeline, sizes(pipeline))


def root_of(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314 - our own


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in root_of(svg).iter(f"{SVG}text")]


def tasks(svg: str) -> list[ElementTree.Element]:
    return [element for element in root_of(svg).iter(f"{SVG}g") if element.get("class") == "task"]


def drawn(svg: str) -> list[Box]:
    """The boxes as they stand in the picture."""
    found = []
    for task in tasks(svg):
        x, y = (float(part) for part in re.findall(r"[-\d.e]+", task.attrib["transform"].removeprefix("translate")))
        rect = task.find(f"{SVG}rect")
        assert rect is not None
        found.append(Box(x, y, float(rect.attrib["width"]), float(rect.attrib["height"])))
    return found


def overlap(one: Box, other: Box) -> bool:
    beside = one.x + one.width <= other.x or other.x + other.width <= one.x
    below = one.y + one.height <= other.y + 0.1 or other.y + other.height <= one.y + 0.1
    return not beside and not below


def on_the_way(line: Line) -> list[Point]:
    """Points along a line, also between those that it is made of."""
    found = []
    for (x, y), (to_x, to_y) in pairwise(line.points):
        for step in range(11):
            t = step / 10
            # As the picture curves: level at both ends, half way in the middle. Straight where x or y stays.
            along = (1 - t) ** 3 * x + 1.5 * (1 - t) * t * (x + to_x) + t**3 * to_x
            found.append((along, y + (to_y - y) * (3 * t**2 - 2 * t**3)))
    return found


def touches(point: Point, line: Line) -> bool:
    """Whether a line begins or ends at a point, or passes it straight."""
    x, y = point
    return point in line.points or any(
        (x == one[0] == other[0] and min(one[1], other[1]) <= y <= max(one[1], other[1]))
        or (y == one[1] == other[1] and min(one[0], other[0]) <= x <= max(one[0], other[0]))
        for one, other in pairwise(line.points)
    )


def leads(lines: list[Line], start: Point, end: Point) -> bool:
    """Whether one gets from a point to another along lines, each of them in its direction."""
    waiting, seen = [line for line in lines if line.points[0] == start], []
    while waiting:
        line = waiting.pop()
        if line.points[-1] == end:
            return True
        seen.append(line)
        # On to what begins on it, and to what it ends at.
        waiting += [
            other for other in lines if other not in seen and (touches(other.points[0], line) or touches(line.points[-1], other))
        ]
    return False


def out_of(box: Box) -> Point:
    return box.x + box.width, pytest.approx(box.y + box.height / 2)


def into(box: Box) -> Point:
    return box.x, pytest.approx(box.y + box.height / 2)


@given(pipelines())
def test_every_task_is_in_the_picture_once_and_none_overlaps_another(pipeline: Pipeline) -> None:
    svg = draw(pipeline, title="a picture")
    boxes = drawn(svg)
    told = [element.findtext(f"{SVG}title", "").split(".")[0] for element in tasks(svg)]
    assert sorted(told) == sorted(pipeline.nodes)
    assert not [(one, other) for number, one in enumerate(boxes) for other in boxes[number + 1 :] if overlap(one, other)]


@given(pipelines())
@example(spread(25))
def test_nothing_leaves_the_paper(pipeline: Pipeline) -> None:
    paper = paper_of(pipeline)
    points = [point for line in paper.lines for point in line.points]
    for box in paper.boxes.values():
        points += [(box.x, box.y), (box.x + box.width, box.y + box.height)]
    assert all(-0.1 <= x <= paper.width + 0.1 and -0.1 <= y <= paper.height + 0.1 for x, y in points)


@given(pipelines())
@example(spread(25))
@settings(deadline=None)
def test_every_edge_leads_from_its_task_to_its_task(pipeline: Pipeline) -> None:
    paper = paper_of(pipeline)
    for name, node in pipeline.nodes.items():
        for other in node.upstream:
            start, end = out_of(paper.boxes[other]), into(paper.boxes[name])
            of_above = [line for line in paper.lines if line.above == other and line.below in (None, name)]
            of_below = [line for line in paper.lines if line.below == name and line.above in (None, other)]
            assert leads(of_above, start, end) or leads(of_below, start, end)


@given(pipelines())
@example(spread(25))
@settings(deadline=None)
def test_no_line_begins_or_ends_in_the_air(pipeline: Pipeline) -> None:
    paper = paper_of(pipeline)
    for line in paper.lines:
        others = [other for other in paper.lines if other is not line]
        for point, sides in (
            (line.points[0], map(out_of, paper.boxes.values())),
            (line.points[-1], map(into, paper.boxes.values())),
        ):
            assert point in list(sides) or any(touches(point, other) for other in others)


@given(pipelines())
@example(spread(25))
@settings(deadline=None)
def test_no_edge_runs_through_a_box(pipeline: Pipeline) -> None:
    paper = paper_of(pipeline)
    for line in paper.lines:
        for x, y in on_the_way(line):
            for box in paper.boxes.values():
                assert not (box.x + 0.1 < x < box.x + box.width - 0.1 and box.y + 0.1 < y < box.y + box.height - 0.1)


@given(pipelines())
@example(spread(25))
@example(woven(40))
def test_no_two_edges_share_a_way_between_rows(pipeline: Pipeline) -> None:
    taken: dict[tuple[bool, float], list[tuple[float, float, tuple[str | None, str | None]]]] = {}
    for line in paper_of(pipeline).lines:
        for (x, y), (to_x, to_y) in pairwise(line.points) if line.turns else ():
            upright = x == to_x
            low, high = sorted((y, to_y) if upright else (x, to_x))
            taken.setdefault((upright, x if upright else y), []).append((low, high, (line.above, line.below)))
    for pieces in taken.values():
        pieces.sort(key=lambda piece: piece[:2])
        for number, (_, high, edge) in enumerate(pieces):
            assert not [other for low, _, other in pieces[number + 1 :] if low < high and other != edge]


@given(pipelines())
def test_no_edge_leads_back_but_from_row_to_row(pipeline: Pipeline) -> None:
    for line in paper_of(pipeline).lines:
        assert line.turns or all(x <= to_x for (x, _), (to_x, _) in pairwise(line.points))


@pytest.mark.parametrize("pipeline", [chain(1), chain(60), fan(60), woven(40), alone(60), Pipeline("empty", {})])
def test_pictures_of_all_sizes_are_well_formed(pipeline: Pipeline) -> None:
    assert len(tasks(draw(pipeline, title="t"))) == len(pipeline.nodes)


def test_the_picture_is_the_same_whatever_the_order_of_sets() -> None:
    code = (
        "import tests.test_drawing as t; from dataclasses import replace; p = t.woven(30);"
        "nodes = {name: replace(node, upstream=set(node.upstream)) for name, node in p.nodes.items()};"
        "print(t.draw(t.Pipeline('d', nodes), title='t'))"
    )
    pictures = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert [len(picture) > 10_000 for picture in pictures] == [True]


def test_the_main_line_of_a_chain_is_straight_and_leads_through_the_guards() -> None:
    pipeline = chain(5)
    edges = {(f"stage_{number}", f"stage_{number + 1}") for number in range(4)}
    paper = laid_out(pipeline, dict.fromkeys(pipeline.nodes, (80.0, 40.0)), edges)
    assert len({box.y for box in paper.boxes.values()}) == 1
    main = [line for line in paper.lines if not line.minor]
    assert len(main) == 8
    assert all(len({y for _, y in line.points}) == 1 for line in main)


def test_a_long_chain_is_broken_into_rows_of_a_width_that_can_be_read() -> None:
    paper = paper_of(chain(60))
    assert paper.width < 1300
    lines = [line for line in paper.lines if line.turns]
    rows = len({box.y + box.height / 2 for box in paper.boxes.values()})
    assert len(lines) == rows - 1  # one line leads on from each row
    assert paper.height < 110 * rows


def test_sixty_tasks_beside_each_other_fill_the_width_before_they_grow_down() -> None:
    paper = paper_of(fan(60))
    assert paper.height < 20 * (STAGE[1] + 20)
    assert paper.width < 1300
    assert paper_of(alone(60)).height < 10 * (STAGE[1] + 40)


def _lines_run(work: Callable[[], Any]) -> int:
    """How many lines of the drawing's own code run: what a computer does, without its mood."""
    files = {module.__file__ for module in (drawing, layout, layout_columns)}
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in files:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("shape", [chain, fan, woven, joined, watched, alone])
def test_the_work_grows_with_the_tasks_and_not_with_their_pairs(shape: Callable[[int], Pipeline]) -> None:
    few, many = (_lines_run(lambda stages=stages: draw(shape(stages), title="t")) for stages in (30, 240))
    assert many < 8 * few * 1.6  # what is quadratic would be 64 times as much
    assert len(draw(shape(240), title="t")) < 8 * 1.6 * len(draw(shape(30), title="t"))


def test_what_has_no_guard_is_said_in_words() -> None:
    nodes = {"collect": Node("collect"), "train": Node("train", ("collect",))}
    svg = draw(Pipeline("d", nodes), title="t")
    assert texts(svg).count("unguarded") == 2
    assert root_of(svg).findtext(f"{SVG}desc") == "2 stages, 0 guarded, 0 guards; unguarded: collect, train"
    assert "unguarded" not in texts(draw(chain(2), title="t"))


@given(pipelines())
def test_unguarded_is_what_the_pipeline_knows_no_guard_of(pipeline: Pipeline) -> None:
    stages = [node.id for node in pipeline.of_kind(Kind.STAGE)]
    bare = {name for name in stages if not [*pipeline.guards_before(name), *pipeline.guards_after(name)]}
    assert texts(draw(pipeline, title="t")).count("unguarded") == len(bare)
    assert drawing._bare(pipeline) == bare


def test_the_picture_says_in_one_sentence_what_it_shows() -> None:
    nodes = dict(chain(3).nodes) | {f"late_{number}": Node(f"late_{number}") for number in range(7)}
    root = root_of(draw(Pipeline("d", nodes), title="A DAG"))
    told = "10 stages, 3 guarded, 2 guards; unguarded: late_0, late_1, late_2, late_3, late_4 and 2 more"
    assert root.findtext(f"{SVG}desc") == told
    assert (root.findtext(f"{SVG}title"), root.get("role"), root.get("aria-label")) == ("A DAG", "img", f"A DAG: {told}")
    assert "no tasks" in texts(draw(Pipeline("d", {}), title="t"))


def test_a_stage_that_needs_no_guard_is_neither_unguarded_nor_counted_as_guarded() -> None:
    pipeline = Pipeline("d", dict(chain(2).nodes) | {"notify": Node("notify")})
    svg = draw(pipeline, title="t", naked=())
    assert "needs no guard" in texts(svg)
    assert "3 stages, 2 guarded, 1 needing no guard, 1 guard" in texts(svg)
    beside_a_guard = draw(pipeline, title="t", naked=("notify",), exempt=("stage_1",))
    assert "3 stages, 1 guarded, 1 needing no guard, 1 guard; unguarded: notify" in texts(beside_a_guard)
    assert texts(beside_a_guard).count("needs no guard") == 1


def test_a_stage_whose_guards_do_not_count_is_shown_as_unguarded() -> None:
    svg = draw(chain(2), title="t", naked={"stage_1"})
    assert texts(svg).count("unguarded") == 1
    assert "2 stages, 1 guarded, 1 guard; unguarded: stage_1" in texts(svg)


def test_what_became_of_a_task_is_said_in_words_and_by_a_sign_of_its_own() -> None:
    marks = dict(zip(chain(6).nodes, Mark, strict=False))
    svg = draw(chain(6), title="t", marks=marks)
    assert set(Mark) <= set(texts(svg))
    signs = [path.get("d") for path in root_of(svg).iter(f"{SVG}path") if "sign" in (path.get("class") or "")]
    assert len(set(signs)) == len(Mark) == len(signs)


def test_a_mark_does_not_hide_that_a_stage_is_unguarded_or_that_a_guard_warns() -> None:
    nodes = {"s": Node("s"), "g": Node("g", (), Kind.GUARD, warns=True)}
    shown = texts(draw(Pipeline("d", nodes), title="t", marks={"s": Mark.PASSED, "g": Mark.FAILED}))
    assert {"passed, unguarded", "failed, warns"} <= set(shown)


def test_a_guard_that_only_warns_says_so_and_has_another_shield() -> None:
    def shields(warns: bool) -> set[str | None]:
        nodes = {"g": Node("g", (), Kind.GUARD, warns=warns), "s": Node("s", ("g",))}
        svg = draw(Pipeline("d", nodes), title="t")
        assert ("guard, only warns" in texts(svg)) is warns
        return {path.get("class") for path in root_of(svg).iter(f"{SVG}path")}

    assert "shield hollow" in shields(warns=True)
    assert "shield hollow" not in shields(warns=False)


@pytest.mark.parametrize("kind", [Kind.SETUP, Kind.TEARDOWN, Kind.EMPTY])
def test_a_task_that_is_no_stage_says_what_it_is(kind: Kind) -> None:
    svg = draw(Pipeline("d", {"x": Node("x", (), kind, operator="Op")}), title="t")
    assert str(kind) in texts(svg)
    assert "x. Op. " + kind in svg


def test_an_edge_past_a_guard_is_drawn_as_one_that_goes_past() -> None:
    assert draw(chain(3), title="t").count('class="line beside"') > draw(chain(2), title="t").count('class="line beside"') > 1
    straight = Pipeline("d", {"a": Node("a"), "g": Node("g", ("a",), Kind.GUARD), "b": Node("b", ("a",)), "c": Node("c", ("b",))})
    assert "line beside" not in draw(straight, title="t")


def test_notes_are_told_where_one_points() -> None:
    (task,) = tasks(draw(Pipeline("d", {"a": Node("a", group="g")}), title="t", notes={"a": "see <here>"}))
    assert task.findtext(f"{SVG}title") == "a. in g. unguarded. see <here>"


@pytest.mark.parametrize(
    "name",
    [
        "</style><script>alert(1)</script>",
        '" onload="alert(1)',
        "&lt;",
        "\u202edlrow",
        "a\x00b",
        "]]>",
        "\ud800",
        "\ufffe",
        "-->",
    ],
)
def test_hostile_names_are_only_text(name: str) -> None:
    nodes = {
        name: Node(name, operator=name, label=name, group=name),
        f"{name}2": Node(f"{name}2", (name,), Kind.GUARD, operator=name, label=name),
    }
    svg = draw(Pipeline(name, nodes), title=name, notes={name: name}, naked={name})
    assert svg.encode()
    root = root_of(svg)
    allowed = {"svg", "title", "desc", "style", "rect", "g", "path", "text"}
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= allowed
    assert not [key for element in root.iter() for key in element.attrib if key.startswith("on")]
    assert [element.text for element in root.iter(f"{SVG}style")] == [drawing.style_of_plain()]
    assert name.isprintable() or name not in svg


@pytest.mark.parametrize(
    "name", ["a_very_long_name_of_a_stage_that_nobody_would_want_to_read_twice", "学" * 60, "M" * 60, "e\u0301" * 60]
)
def test_long_names_are_cut_and_told_in_full(name: str) -> None:
    svg = draw(Pipeline("d", {name: Node(name, label=name)}), title="t")
    (box,), (task,) = drawn(svg), tasks(svg)
    shown = task.findtext(f"{SVG}text", "")
    assert box.width <= 176
    assert shown.startswith(name[0])
    assert len(shown) < 30 > shown.index("…")
    assert task.findtext(f"{SVG}title", "").startswith(f"{name}. ")
    assert shown.isascii() or len(shown) * 8 < box.width


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    svg = draw(chain(5), title="t")
    assert not re.search(r"href|url\(|@import|<script|<foreignObject", svg)
    assert set(re.findall(r"https?://[^\"' ]+", svg)) == {"http://www.w3.org/2000/svg"}


def test_pictures_on_one_page_share_no_ids_and_style_nothing_else() -> None:
    assert not re.search(r'\sid="', draw(chain(3), title="t"))
    rules = re.sub(r"@media[^{]+{(.*?} )}", r"\1", drawing.style_of_plain(), flags=re.DOTALL)
    assert all(selector.strip().startswith(".pipesec") for selector in re.findall(r"([^{}]+){", rules))


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(scheme: str) -> None:
    light, dark = drawing.style_of_plain().split("@media")
    colours = dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark.split("} }")[0]))
    assert len(colours) == 12

    def contrast(one: str, other: str) -> float:
        low, high = sorted((_luminance(colours[one]), _luminance(colours[other])))
        return (high + 0.05) / (low + 0.05)

    grounds = ("paper", "stage", "guard", "light", "alarmed")
    faint = [(ink, on) for ink in ("ink", "soft", "alarm", "good") for on in grounds if contrast(ink, on) < 4.5]
    # And lines and outlines as WCAG 2.2 asks of what is no text.
    faint += [(line, "paper") for line in ("line", "edge", "rim", "alarm") if contrast(line, "paper") < 3]
    assert not faint
