"""Laws of weaving: a DAG is woven whole or left alone, by each process alike, and a guard is what the plan says and no more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseSensorOperator, TaskGroup, XComArg
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st

from airflow_pipesec import secure
from airflow_pipesec.dags import data_edges, pipeline_of
from airflow_pipesec.errors import PlanError
from airflow_pipesec.guards.parameters import Maker, guard_class, guard_names, parameters
from airflow_pipesec.pipeline import Kind, Pipeline
from airflow_pipesec.standing import Post, faults
from airflow_pipesec.weave import difference
from tests.test_standing import RAN, SUCCESS
from tests.test_weave import choose
from tests.weaving import WATCH, Step, Watch, give, new_dag, own, plan, seen
from tests.worlds import RULES, worlds

PROJECT = Path(__file__).resolve().parent.parent
STRICT = ("all_success", "all_success", "none_failed", "none_failed_min_one_success")


@st.composite
def dags(draw: st.DrawFn, most: int = 7, rules: Any = STRICT) -> Any:
    """A DAG with any edges, of which some carry data, in any groups, with branches, and with setups among the roots."""
    number_of_tasks = draw(st.integers(1, most))
    with new_dag() as dag:
        groups = [TaskGroup("one"), TaskGroup("two", prefix_group_id=False)]
        groups += [TaskGroup("deep", parent_group=groups[0]), None, None]
        made: list[Any] = []
        for number in range(number_of_tasks):
            above = draw(st.lists(st.sampled_from(made), unique_by=id, max_size=3)) if made else []
            reads = [one for one in above if isinstance(one, XComArg) and draw(st.booleans())]
            rule, group = draw(st.sampled_from(rules)), draw(st.sampled_from(groups))
            kind = draw(st.sampled_from(("data", "data", "classic", "branch", "mapped")))
            given_too: dict[str, Any] = {"task_id": f"t{number}", "trigger_rule": rule}
            given_too |= {"task_group": group} if group is not None else {}
            if kind == "branch" and above:
                one: Any = choose.override(**given_too)()
            elif kind == "mapped" and rule == "all_success":
                one = give.override(**given_too).expand(value=reads[0] if reads else [1, 2])
            elif kind == "classic" and not reads:
                one = Step(**given_too)
            else:
                one = give.override(**given_too)(reads)
            for other in above:
                other >> one
            made.append(one)
        if number_of_tasks > 2 and draw(st.booleans()):
            begin, end = Step(task_id="begin").as_setup(), Step(task_id="end")
            begin >> made[0]
            made[0] >> end.as_teardown(setups=begin)
    return dag


def attempt(dag: Any, demanded: Any) -> tuple[tuple[str, ...], str]:
    """The guards that were added, and what was said where none were."""
    try:
        added, told = secure(dag, demanded).added, ""
    except PlanError as error:
        added, told = (), str(error)
    event("refused" if told else "woven")
    return added, told


def without_guards(pipeline: Pipeline) -> dict[str, set[str]]:
    stages = {name for name, node in pipeline.nodes.items() if node.kind is not Kind.GUARD}
    return {name: pipeline.above(name) & stages for name in stages}


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(st.one_of(dags(), dags(rules=RULES)), st.sampled_from((("before",), ("after",), ("before", "after"))))
def test_a_dag_is_woven_whole_or_left_as_it_was(dag: Any, sides: tuple[str, ...]) -> None:
    branches = [name for name, one in dag.task_dict.items() if one.inherits_from_skipmixin]
    demanded = plan(before=[WATCH] * 2 if "before" in sides else (), after=[WATCH] if "after" in sides else ())
    if branches:
        demanded["stages"][0]["but_not"] = branches
        assume(len(branches) < len(dag.task_dict))
    names, before, order = dag.task_ids, seen(dag), without_guards(pipeline_of(dag))
    mine, data = own(dag, names), {name: data_edges(one) for name, one in dag.task_dict.items()}
    added, told = attempt(dag, demanded)
    if told:
        assert "would run although" in told
        assert seen(dag) == before
        assert own(dag, names) == mine
        return
    dag.check_cycle()
    pipeline = pipeline_of(dag)
    assert own(dag, names) == mine
    assert {name: data_edges(dag.task_dict[name]) for name in names} == data
    assert all(data[name] <= dag.task_dict[name].upstream_task_ids for name in names)
    assert without_guards(pipeline) == order
    posts = [Post(name, dag.task_dict[name].task_group.group_display_name.split()[1], "before_" in name) for name in added]
    posts = [post._replace(stage=next(name for name in names if name.endswith(post.stage))) for post in posts]
    assert list(faults(pipeline, posts, {})) == []
    once = seen(dag)
    assert secure(dag, demanded).added == ()
    assert seen(dag) == once


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.one_of(dags(most=3), dags(most=3, rules=RULES)))
def test_in_no_world_a_stage_of_a_woven_dag_runs_before_its_guard_passed(dag: Any) -> None:
    branches = [name for name, one in dag.task_dict.items() if one.inherits_from_skipmixin]
    demanded = plan(after=()) if not branches else plan(after=(), but_not=branches)
    assume(len(branches) < len(dag.task_dict))
    assume("begin" not in dag.task_dict)
    _, told = attempt(dag, demanded)
    pipeline = pipeline_of(dag)
    assume(not told and len(pipeline.nodes) <= 6)
    for world in worlds(pipeline):
        for name, node in pipeline.nodes.items():
            if node.kind is Kind.STAGE and name not in branches:
                (before,) = (other for other in node.upstream if other.endswith(f"before_{node.label}.watch"))
                assert world[name] not in RAN or world[before] == SUCCESS


PROGRAM = """
import json, sys
sys.path.insert(0, sys.argv[1])
from tests.test_weave import branched, plan, with_setup
from tests.weaving import WATCH, new_dag, seen, Step
from airflow_pipesec import secure
from airflow.sdk import TaskGroup
found = []
for dag in (branched(), with_setup()):
    secure(dag, plan(before=[WATCH, WATCH], but_not="branch"))
    found.append(json.dumps(seen(dag), sort_keys=True))  # as Airflow compares two versions of a DAG
    found.append(list(dag.task_dict))
print(json.dumps(found))
"""


def test_every_process_weaves_alike() -> None:
    found = set()
    for seed in ("0", "1", "4242"):
        command = [sys.executable, "-c", PROGRAM, str(PROJECT)]
        environ = os.environ | {"PYTHONHASHSEED": seed}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environ)
        found.add(done.stdout.splitlines()[-1])
    assert len(found) == 1
    assert len(json.loads(found.pop())) == 4


def some_value(name: str, number: int) -> Any:
    """A value of the form that the constructor only assigns."""
    return {f"{name} {number}": ["x"]}


def made_by_hand(cls: Any, task_id: str, given_to_it: dict[str, Any]) -> Any:
    return cls(task_id=task_id, task_display_name="the guard", **given_to_it)


@pytest.mark.parametrize("name", [*guard_names(), "tests.weaving.Watch", "tests.weaving.Waits"])
def test_a_copied_guard_is_what_the_constructor_makes(name: str) -> None:
    cls = guard_class(name)
    maker = Maker()
    mine = [one.name for one in parameters(cls).values() if one.name not in ("mode",) and one.required]
    mine += [one for one in ("policy", "on_failure") if one not in mine]
    first = maker.made(cls, "group.the_guard", {name: some_value(name, 1) for name in mine} | {"retries": 3})
    again = maker.made(cls, "other.the_guard", {name: some_value(name, 2) for name in mine} | {"retries": 3})
    for number, (task_id, task) in enumerate((("group.the_guard", first), ("other.the_guard", again)), start=1):
        hand = made_by_hand(cls, task_id, {name: some_value(name, number) for name in mine} | {"retries": 3})
        assert vars(task).keys() == vars(hand).keys()
        assert {key for key, value in vars(hand).items() if vars(task)[key] != value} == set()
        assert type(task) is cls
        assert difference(task, hand, ()) == ""
        assert not task.has_dag()
    for one, other in ((first, again),):
        shared = {
            key
            for key, value in vars(one).items()
            if value is vars(other)[key] and isinstance(value, dict | list | set) and key != "_BaseOperator__from_mapped"
        }
        assert shared == set()
        assert one.params is not other.params


def test_what_is_given_to_a_guard_of_a_plan_is_not_shared_by_the_tasks() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Step(task_id="b")
    demanded = plan(before=[WATCH | {"things": ["x"]}], after=())
    secure(dag, demanded)
    one: Any = dag.task_dict["before_a.watch"]
    one.things.append("y")
    one.upstream_task_ids.add("no")
    assert vars(dag.task_dict["before_b.watch"])["things"] == ["x"]
    assert demanded["stages"][0]["before"][0]["things"] == ["x"]


def test_seconds_of_a_plan_are_the_intervals_of_airflow() -> None:
    task = Maker().made(guard_class("tests.weaving.Waits"), "g", {"retry_delay": 5, "execution_timeout": 1.5, "timeout": 60})
    assert isinstance(task, BaseSensorOperator)
    assert task.retry_delay == timedelta(seconds=5)
    assert task.execution_timeout == timedelta(seconds=1.5)
    assert task.timeout == 60


class Looser(Watch):
    pass


def other_class() -> Any:
    return Step(task_id="watch")


def subclass() -> Any:
    return Looser(task_id="watch")


def another_parameter() -> Any:
    return Watch(task_id="watch", task_display_name="watch", passes=False)


def lets_go_on() -> Any:
    return Watch(task_id="watch", task_display_name="watch", on_failure="warn")


def its_own_execute() -> Any:
    task = Watch(task_id="watch", task_display_name="watch")
    vars(task)["execute"] = print
    return task


def hooked() -> Any:
    return Watch(task_id="watch", task_display_name="watch", pre_execute=print)


def made_a_teardown() -> Any:
    task = Watch(task_id="watch", task_display_name="watch")
    task.is_teardown = True
    return task


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (other_class, "it is a Step, not the Watch of tests.weaving"),
        (subclass, "it is a Looser, not the Watch of tests.weaving"),
        (another_parameter, "its passes is another"),
        (lets_go_on, "its on_failure is another"),
        (its_own_execute, "its execute was set"),
        (hooked, "its pre_execute"),
        (made_a_teardown, "its is_teardown is another"),
    ],
)
def test_what_stands_in_a_guards_place_and_is_not_it_is_refused(make: Any, told: str) -> None:
    with new_dag() as dag:
        a = Step(task_id="a")
        with TaskGroup("before_a"):
            make() >> a
    before = seen(dag)
    with pytest.raises(
        PlanError, match=r"task before_a\.watch of DAG woven is not the guard that plan demands there: "
    ) as caught:
        secure(dag, plan(after=()))
    assert told in str(caught.value)
    assert seen(dag) == before


def test_the_very_guard_that_an_author_wrote_in_its_place_is_taken_for_it() -> None:
    with new_dag() as dag:
        a = Step(task_id="a")
        with TaskGroup("before_a"):
            Watch(task_id="watch", task_display_name="watch") >> a
    assert secure(dag, plan(after=())).added == ()


def test_the_very_guard_that_does_not_hold_the_stage_is_refused() -> None:
    with new_dag() as dag:
        Step(task_id="a")
        with TaskGroup("before_a"):
            Watch(task_id="watch", task_display_name="watch")
    with pytest.raises(PlanError, match=r"a does not follow before_a\.watch"):
        secure(dag, plan(after=()))
