"""Coverage: which stages are guarded, and what does not count as a guard."""

from __future__ import annotations

import json
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.coverage import Coverage, Effect, Measured, Survey, Trouble, TroubleKind, coverage
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from tests.worlds import RAN, SUCCESS, worlds


def pipeline(*nodes: Node) -> Pipeline:
    return Pipeline("training", {node.id: node for node in nodes})


def stage(name: str, *upstream: str, **more: object) -> Node:
    return Node(name, upstream, **more)  # type: ignore[arg-type] # what a test says of it


def guard(name: str, *upstream: str, threats: tuple[str, ...] = (), **more: object) -> Node:
    return Node(name, upstream, Kind.GUARD, threats=threats, operator="Check", **more)  # type: ignore[arg-type] # as above


def guarded(found: Coverage) -> dict[str, bool]:
    return {one.id: one.guarded for one in found.stages}


def test_a_guard_between_two_stages_guards_both() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a", threats=("drift", "bias")), stage("b", "g")))
    assert guarded(found) == {"a": True, "b": True}
    assert found.percent == 100
    assert [one.threats for one in found.stages] == [{"drift": "after", "bias": "after"}, {"drift": "before", "bias": "before"}]


def test_a_stage_with_no_guard_is_naked() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a"), stage("b", "g"), stage("c", "b")))
    assert [one.id for one in found.naked] == ["c"]
    assert found.percent == pytest.approx(200 / 3)


def test_a_threat_that_is_answered_on_both_sides_says_both() -> None:
    found = coverage(pipeline(guard("g", threats=("drift",)), stage("a", "g"), guard("h", "a", threats=("drift",))))
    assert found.stages[0].threats == {"drift": "both"}
    assert "drift" not in found.unanswered
    assert "bias" in found.unanswered


def test_a_guard_that_only_warns_does_not_count() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a", threats=("drift",), warns=True), stage("b", "g")))
    assert guarded(found) == {"a": False, "b": False}
    assert found.percent == 0
    assert found.idle == {"g": "it only warns"}
    assert "drift" in found.unanswered


def test_a_guard_after_the_last_stage_that_only_warns_does_not_count() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a", warns=True)))
    assert [one.id for one in found.naked] == ["a"]


@pytest.mark.parametrize("rule", ["all_done", "always", "one_success", "none_skipped"])
def test_a_guard_that_the_stage_does_not_wait_for_does_not_count(rule: str) -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a"), stage("b", "g", "a", rule=rule)))
    assert not any(guarded(found).values())
    (reason,) = found.idle.values()
    assert "would run although g did not pass" in reason


def test_a_guard_that_looks_whatever_happened_does_not_count() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a", rule="all_done"), stage("b", "g")))
    assert not any(guarded(found).values())


def test_guards_that_each_look_at_a_part_count_if_they_leave_nothing_out() -> None:
    nodes = [stage("a"), stage("b"), guard("ga", "a", threats=("drift", "bias")), guard("gb", "b", threats=("drift",))]
    found = coverage(pipeline(*nodes, stage("train", "ga", "gb")))
    train = found.stages[-1]
    assert [watch.effect for watch in train.before.guards] == [Effect.PART, Effect.PART]
    assert train.guarded
    assert train.before.threats == ("drift",)  # of bias only what came from a was examined
    assert found.idle == {}


def test_guards_that_look_at_a_part_do_not_count_if_they_leave_something_out() -> None:
    found = coverage(pipeline(stage("a"), stage("b"), guard("ga", "a"), stage("train", "ga", "b")))
    assert guarded(found) == {"a": True, "b": False, "train": False}
    (watch,) = found.stages[-1].before.guards
    assert watch.effect is Effect.PART
    assert "train follows b" in watch.reason


def test_guards_after_a_stage_count_together_where_each_stops_one_of_those_that_follow() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a"), guard("h", "a"), stage("b", "g"), stage("c", "h")))
    assert guarded(found) == {"a": True, "b": True, "c": True}
    found = coverage(pipeline(stage("a"), guard("g", "a"), stage("b", "g"), stage("c", "a")))
    assert guarded(found) == {"a": False, "b": True, "c": False}


def test_what_is_exempt_does_not_count_and_says_why() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a"), stage("b", "g"), stage("mail", "b")), {"mail": "it only tells"})
    assert found.percent == 100
    assert found.stages[-1].exempt == "it only tells"
    assert found.naked == []


def test_setup_teardown_and_what_runs_nothing_do_not_count() -> None:
    nodes = [stage("s", kind=Kind.SETUP), stage("e", "s", kind=Kind.EMPTY), stage("a", "e"), guard("g", "a")]
    found = coverage(pipeline(*nodes, stage("t", "g", kind=Kind.TEARDOWN)))
    assert [one.id for one in found.stages] == ["a"]


@pytest.mark.parametrize("nodes", [[], [stage("e", kind=Kind.EMPTY)], [guard("g")]])
def test_nothing_to_guard_is_not_100_percent(nodes: list[Node]) -> None:
    found = coverage(pipeline(*nodes))
    assert found.percent is None
    assert not Survey("dags", (Measured(found, "a.py"),)).reaches(0)


def test_a_guard_beside_no_stage_is_told() -> None:
    assert coverage(pipeline(guard("g"))).idle == {"g": "it stands beside no stage"}


@pytest.mark.parametrize("threats", [("nonsense",), "drift"])
def test_a_threat_that_is_none_is_an_error(threats: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="threats of guard g of DAG training"):
        coverage(pipeline(stage("a"), guard("g", "a", threats=threats)))


def test_documents_are_json() -> None:
    found = coverage(pipeline(stage("a"), guard("g", "a", threats=("drift",)), stage("b", "g"), stage("c", "b")), {"b": "why"})
    survey = Survey("dags", (Measured(found, "a.py"),), (Trouble(TroubleKind.PLAN, "no", "a.py", "x", 3),))
    document = survey.document()
    assert json.loads(json.dumps(document)) == document
    assert document["undecided"] == "1 thing could not be measured"
    (dag,) = document["dags"]
    assert (dag["stages"], dag["guarded"], dag["unguarded"]) == (2, 1, ["c"])
    assert dag["details"][0]["after"] == [
        {"guard": "g", "operator": "Check", "threats": ["drift"], "effect": "holds", "reason": None}
    ]


def test_what_could_not_be_measured_never_passes() -> None:
    good = Measured(coverage(pipeline(stage("a"), guard("g", "a"))), "a.py")
    assert Survey("dags", (good,)).reaches(100)
    assert not Survey("dags", (good,), (Trouble(TroubleKind.NOT_PARSED, "no", "b.py"),)).reaches(0)
    assert not Survey("dags", ()).reaches(0)


RULES = ["all_success", "none_failed", "none_failed_min_one_success", "one_success", "all_done"]


@st.composite
def pipelines(draw: st.DrawFn) -> Pipeline:
    nodes: list[Node] = []
    for number in range(draw(st.integers(3, 5))):
        upstream = tuple(node.id for node in nodes if draw(st.booleans()))
        kind = draw(st.sampled_from([Kind.STAGE, Kind.GUARD]))
        nodes.append(Node(f"{kind[0]}{number}", upstream, kind, draw(st.sampled_from([*RULES[:1] * 5, *RULES]))))
    return pipeline(*nodes)


@settings(max_examples=150)
@given(made=pipelines())
def test_in_no_world_does_a_guarded_stage_run_or_go_on_past_its_guards(made: Pipeline) -> None:
    found = coverage(made)
    for world in worlds(made):
        for one in found.stages:
            counting = [watch.guard for watch in one.before.guards if watch.effect is not Effect.NONE]
            if one.before.holds and world[one.id] in RAN:
                assert all(world[name] == SUCCESS for name in counting), (made, world, one)
            if not one.after.holds or world[one.id] != SUCCESS:
                continue
            behind = [watch.guard for watch in one.after.guards if watch.effect is not Effect.NONE]
            for name in made.below(one.id):
                read = made.nodes[name].kind is Kind.STAGE and name in made.nearest_below(one.id)
                if read and world[name] in RAN:
                    assert any(world[other] == SUCCESS for other in behind), (made, world, one)


def test_a_wide_pipeline_is_measured_in_no_time() -> None:
    number = count()
    nodes = [stage("start")]
    for _ in range(200):
        name = next(number)
        nodes += [stage(f"s{name}", "start"), guard(f"g{name}", f"s{name}")]
    found = coverage(pipeline(*nodes, stage("end", *(f"g{one}" for one in range(200)))))
    assert guarded(found) == {"start": False} | {f"s{one}": True for one in range(200)} | {"end": True}
