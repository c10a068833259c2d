"""Standing: what is said to keep a stage from running keeps it from running in every world that Airflow's rules allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from airflow.task.trigger_rule import TriggerRule
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.standing import Post, consumers, faults
from tests.worlds import FAILED, RAN, REFUSED, RULES, SKIPPED, SKIPPED_ITSELF, SUCCESS, UPSTREAM_FAILED, World, worlds

STRICT = ("all_success", "none_failed", "none_failed_min_one_success")


def made(*nodes: Node) -> Pipeline:
    return Pipeline("d", {node.id: node for node in nodes})


@st.composite
def pipelines(draw: st.DrawFn, rules: Sequence[str] = RULES, most: int = 5) -> Pipeline:
    """A small DAG with tasks of every kind, branches and any rules."""
    names = "abcdef"[: draw(st.integers(2, most))]
    nodes = []
    for number, name in enumerate(names):
        upstream = draw(st.lists(st.sampled_from(names[:number]), unique=True, min_size=1, max_size=3)) if number > 1 else []
        kind = (
            Kind.GUARD
            if not number
            else Kind.STAGE
            if number == len(names) - 1
            else draw(st.sampled_from((Kind.STAGE, Kind.STAGE, Kind.STAGE, Kind.GUARD, Kind.GUARD, *Kind)))
        )
        guard = kind is Kind.GUARD
        rule = draw(st.sampled_from(("all_success", *rules)))
        skips = kind is Kind.STAGE and draw(st.sampled_from((False, False, True)))
        may_skip = guard and draw(st.sampled_from((False, False, False, True)))
        nodes.append(Node(name, tuple(upstream), kind, rule, skips=skips, may_skip=may_skip))
    return made(*nodes)


def of_kind(pipeline: Pipeline, kind: Kind) -> list[str]:
    return [node.id for node in pipeline.of_kind(kind)]


def test_the_worlds_know_every_trigger_rule_that_airflow_has() -> None:
    assert set(RULES) == {rule.value for rule in TriggerRule}


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(pipelines())
def test_what_cannot_run_without_a_guard_runs_in_no_world_in_which_it_did_not_pass(pipeline: Pipeline) -> None:
    stages = of_kind(pipeline, Kind.STAGE)
    sure = [
        (guard, stage)
        for guard in of_kind(pipeline, Kind.GUARD)
        for stage in stages
        if pipeline.runs_without(guard, stage) is None
    ]
    assume(sure)
    for world in worlds(pipeline):
        for guard, stage in sure:
            assert world[stage] not in RAN or world[guard] == SUCCESS, (guard, stage, world)


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(pipelines())
def test_nor_in_a_world_in_which_what_the_guard_looks_at_succeeded(pipeline: Pipeline) -> None:
    sure = [
        (guard, stage, task)
        for guard in of_kind(pipeline, Kind.GUARD)
        for stage in of_kind(pipeline, Kind.STAGE)
        for task in of_kind(pipeline, Kind.STAGE)
        if task != stage and pipeline.runs_without(guard, stage) and pipeline.runs_without(guard, stage, given=task) is None
    ]
    assume(sure)
    for world in worlds(pipeline):
        for guard, stage, task in sure:
            good = world[stage] not in RAN or world[guard] == SUCCESS or world[task] != SUCCESS
            assert good, (guard, stage, task, world)


@st.composite
def guarded(draw: st.DrawFn) -> tuple[Pipeline, list[Post], dict[str, str]]:
    """A small DAG, some of whose guards have a post beside them, and exempt stages."""
    rules = draw(st.sampled_from((RULES, STRICT)))
    pipeline = draw(pipelines(rules))
    posts = []
    for guard in of_kind(pipeline, Kind.GUARD):
        near = [Post(guard, name, False) for name in pipeline.nearest_above(guard) if pipeline.nodes[name].kind is Kind.STAGE]
        near += [Post(guard, name, True) for name in pipeline.nearest_below(guard) if pipeline.nodes[name].kind is Kind.STAGE]
        posts += [draw(st.sampled_from(near))] if near else []
    exempt = draw(st.sets(st.sampled_from(sorted(pipeline.nodes)), max_size=1))
    return pipeline, posts, dict.fromkeys(exempt, "a reason")


def failing_above(pipeline: Pipeline, name: str, guards: set[str], world: World) -> set[str]:
    """The guards above a task, no other of them between, that did not pass, by ways on which nothing was skipped."""
    found: set[str] = set()
    for other in pipeline.nodes[name].upstream:
        if other in guards:
            found |= {other} if world[other] in (FAILED, UPSTREAM_FAILED, REFUSED, SKIPPED_ITSELF) else set()
        elif world[other] not in (SKIPPED, SKIPPED_ITSELF):
            found |= failing_above(pipeline, other, guards, world)
    return found


def broken(pipeline: Pipeline, posts: Sequence[Post], exempt: Any, world: World) -> Any:
    """What of the three promises does not hold in one world."""
    ran = {name for name, end in world.items() if end in RAN}
    for post in posts:
        passed = world[post.guard] == SUCCESS
        if post.before:
            if post.stage in ran and not passed:
                return post
        elif world[post.stage] == SUCCESS and not passed and (read := ran & set(consumers(pipeline, post.stage, exempt))):
            return post, read
    guards = {post.guard for post in posts}
    stages = [name for name in ran - set(exempt) if pipeline.nodes[name].kind is Kind.STAGE]
    return next(((name, past) for name in stages if (past := failing_above(pipeline, name, guards, world))), None)


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(guarded())
def test_where_nothing_is_at_fault_the_promises_hold_in_every_world(case: tuple[Pipeline, list[Post], dict[str, str]]) -> None:
    pipeline, posts, exempt = case
    assume(posts and not list(faults(pipeline, posts, exempt)))
    for world in worlds(pipeline):
        assert broken(pipeline, posts, exempt, world) is None, world


def stage(name: str, *upstream: str, rule: str = "all_success", skips: bool = False) -> Node:
    return Node(name, upstream, rule=rule, skips=skips)


def guard(name: str, *upstream: str, rule: str = "all_success", may_skip: bool = False, warns: bool = False) -> Node:
    return Node(name, upstream, Kind.GUARD, rule, may_skip=may_skip, warns=warns)


@pytest.mark.parametrize("join", STRICT)
@pytest.mark.parametrize("data", [False, True], ids=["no data", "data"])
def test_guards_between_the_branches_and_a_join_raise_no_false_alarm(join: str, data: bool) -> None:
    ends = [name for side in "xy" for name in ((f"after_{side}", side) if data else (f"after_{side}",))]
    pipeline = made(
        stage("start"),
        guard("before_x", "start"),
        stage("branch", "start", skips=True),
        stage("x", "branch", "before_x"),
        guard("after_x", "x"),
        stage("y", "branch"),
        guard("after_y", "y"),
        guard("before_join", *ends, rule=join),
        stage("join", "before_join", *(side for side in "xy" if data), rule=join),
        guard("after_join", "join"),
        guard("after_join_too", "after_join"),
        stage("end", "after_join_too", *(["join"] if data else [])),
    )
    posts = [Post("before_x", "x", True), Post("before_join", "join", True)]
    posts += [Post(f"after_{side}", side, False) for side in ("x", "y", "join")] + [Post("after_join_too", "join", False)]
    assert list(faults(pipeline, posts, {})) == []


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in STRICT])
def test_a_reader_with_any_other_rule_would_run_although_the_guard_failed(rule: str) -> None:
    pipeline = made(stage("a"), guard("g", "a"), stage("b", "g", "a", rule=rule))
    found = list(faults(pipeline, [Post("g", "a", False)], {}))
    wrong = {"all_done", "all_done_min_one_success", "all_done_setup_success", "always", "none_skipped", "one_done", "one_failed"}
    assert bool(found) is (rule in wrong | {"one_success", "all_failed"}), "the last runs where a failed as well"
    assert all(rule in text and "failed" in text for text in found)


def test_a_setup_that_is_skipped_skips_a_guard_whatever_its_rule_is() -> None:
    pipeline = made(
        Node("setup", (), Kind.SETUP),
        stage("a", "setup", rule="none_failed"),
        guard("g", "a", rule="none_failed"),
        stage("b", "setup", "g", rule="none_failed"),
    )
    skipped = [world for world in worlds(pipeline) if world["setup"] == SKIPPED_ITSELF and world["b"] in RAN]
    assert skipped
    assert {world["g"] for world in skipped} == {SKIPPED}
    assert pipeline.runs_without("g", "b") is not None


def test_a_root_guard_with_the_rule_of_a_join_is_not_thought_to_be_skipped() -> None:
    rule = "none_failed_min_one_success"
    pipeline = made(guard("g", rule=rule), stage("a", "g", rule=rule))
    assert pipeline.runs_without("g", "a") is None


def test_what_follows_a_task_that_was_skipped_before_the_guard_failed_may_run() -> None:
    pipeline = made(stage("other"), guard("g"), stage("join", "other", "g"), stage("last", "join", rule="none_failed"))
    assert "g failed" in str(pipeline.runs_without("g", "last"))
    assert pipeline.runs_past("g", "last") is None


def test_a_guard_that_only_warns_stops_nothing_and_is_no_fault() -> None:
    pipeline = made(guard("g", warns=True), stage("a", "g", rule="all_done"))
    assert pipeline.runs_without("g", "a") == "g only warns"
    assert list(faults(pipeline, [Post("g", "a", True)], {})) == []


def test_a_stage_that_does_not_follow_the_guard_runs_without_it() -> None:
    pipeline = made(guard("g"), stage("a"))
    assert pipeline.runs_without("g", "a") == "a does not follow g"
    (found,) = faults(pipeline, [Post("g", "a", True)], {})
    assert "a would run although g did not pass: a does not follow g" in found


def test_a_guard_that_does_not_wait_for_what_its_stage_waits_for_looks_too_early() -> None:
    pipeline = made(stage("a"), guard("g"), stage("b", "a", "g"))
    (found,) = faults(pipeline, [Post("g", "b", True)], {})
    assert found == "stage b follows a, and g before it does not: it would look too early. Let it"


def test_a_guard_after_a_stage_that_it_does_not_follow_is_a_fault() -> None:
    pipeline = made(stage("a"), guard("g"), stage("b", "a", "g"))
    assert list(faults(pipeline, [Post("g", "a", False)], {})) == ["g does not follow stage a. Let it"]


def test_a_guard_that_looks_whatever_became_of_its_stage_is_a_fault() -> None:
    pipeline = made(stage("a"), guard("g", "a", rule="all_done"), stage("b", "g"))
    (found,) = faults(pipeline, [Post("g", "a", False)], {})
    assert found.startswith("g has the trigger rule all_done, and would look whatever became of what it follows")


def test_what_reads_a_stage_is_found_behind_what_is_exempt_and_what_runs_nothing() -> None:
    pipeline = made(stage("a"), guard("g", "a"), Node("join", ("g",), Kind.EMPTY), stage("note", "join"), stage("b", "note"))
    assert consumers(pipeline, "a", {"note": ""}) == ["b"]
    assert consumers(pipeline, "a") == ["note"]


def test_an_exempt_task_that_runs_whatever_happens_opens_a_way_that_is_found() -> None:
    pipeline = made(guard("g"), stage("a", "g"), stage("mail", "a", rule="all_done"), stage("b", "mail"))
    (found,) = faults(pipeline, [Post("g", "a", True)], {"mail": "sends mail"})
    assert found.startswith("b would run although g above it did not pass")
    assert list(faults(pipeline, [Post("g", "a", True)], {"mail": "sends mail", "b": "writes a log"})) == []


def test_a_pipeline_of_a_thousand_joins_is_judged_at_once() -> None:
    nodes = [guard("g"), stage("s0", "g"), stage("s1", "g")]
    nodes += [stage(f"s{number}", f"s{number - 1}", f"s{number - 2}") for number in range(2, 1000)]
    assert list(faults(made(*nodes), [Post("g", "s0", True), Post("g", "s1", True)], {})) == []
