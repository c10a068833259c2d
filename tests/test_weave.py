"""Weaving: guards come between the stages of DAGs of every shape, and all else stays as its author wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator, ShortCircuitOperator
from airflow.sdk import TaskGroup, task, task_group

from airflow_pipesec import secure
from airflow_pipesec.dags import data_edges
from airflow_pipesec.errors import PlanError
from tests.weaving import WATCH, Step, Watch, edges, give, new_dag, own, plan, seen, tree


@task.branch
def choose() -> str:
    return "x"


def refused(dag: Any, demanded: Any) -> str:
    """The message of what a DAG is refused with; it is then as it was."""
    before, tasks, groups = seen(dag), own(dag, dag.task_ids), set(dag.task_group.used_group_ids)
    with pytest.raises(PlanError) as caught:
        secure(dag, demanded)
    assert seen(dag) == before
    assert own(dag, dag.task_ids) == tasks
    assert dag.task_group.used_group_ids == groups
    assert not caught.value.__cause__
    return str(caught.value)


def test_a_chain_gets_its_guards_in_order() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Step(task_id="b")
    woven = secure(dag, plan(before=[WATCH, WATCH | {"id": "again"}], task="b", after=()))
    assert woven.added == ("before_b.watch", "before_b.again")
    assert woven.exempt == {}
    assert edges(dag) == {"a": set(), "before_b.watch": {"a"}, "before_b.again": {"before_b.watch"}, "b": {"before_b.again"}}
    assert tree(dag.task_group) == {"a": "task", "b": "task", "before_b": {"before_b.watch": "task", "before_b.again": "task"}}


def test_data_goes_along_its_own_edge_and_waits_for_the_guards() -> None:
    with new_dag() as dag:
        first = give.override(task_id="first")(1)
        second = give.override(task_id="second")(first)
        PythonOperator(task_id="third", python_callable=print, op_args=[second], op_kwargs={"deep": [{"x": first}]})
    arguments = {name: vars(dag.task_dict[name])["op_args"] for name in dag.task_ids}
    secure(dag, plan())
    found = edges(dag)
    assert found["second"] == {"first", "before_second.watch"}
    assert found["before_second.watch"] == {"after_first.watch"}
    assert found["third"] == {"first", "second", "before_third.watch"}
    assert found["before_third.watch"] == {"after_first.watch", "after_second.watch"}
    for name in ("first", "second", "third"):
        assert data_edges(dag.task_dict[name]) <= found[name]
        assert vars(dag.task_dict[name])["op_args"] is arguments[name]


def test_fan_out_and_fan_in() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> [Step(task_id="b"), Step(task_id="c")] >> Step(task_id="d")
    secure(dag, plan())
    found = edges(dag)
    assert found["before_b.watch"] == found["before_c.watch"] == {"after_a.watch"}
    assert found["before_d.watch"] == {"after_b.watch", "after_c.watch"}
    assert [found[name] for name in "abcd"] == [{f"before_{name}.watch"} for name in "abcd"]


def test_guards_stand_in_the_task_group_of_their_stage() -> None:
    with new_dag() as dag, TaskGroup("outer"):
        with TaskGroup("inner", prefix_group_id=False):
            a = Step(task_id="a")
            with TaskGroup("flat", prefix_group_id=False):
                b = Step(task_id="b")
        with TaskGroup("deep"):
            c = Step(task_id="c")
        a >> b >> c
    before = edges(dag)
    assert set(before) == {"a", "b", "outer.deep.c"}
    secure(dag, plan(after=()))
    assert tree(dag.task_group)["outer"]["outer.deep"] == {
        "outer.deep.c": "task",
        "outer.deep.before_c": {"outer.deep.before_c.watch": "task"},
    }
    (inner,) = (group for name, group in tree(dag.task_group)["outer"].items() if "inner" in name)
    assert {"a", "before_a"} <= set(inner)
    assert edges(dag)["outer.deep.c"] == {"outer.deep.before_c.watch"}
    assert edges(dag)["outer.deep.before_c.watch"] == {"b"}


def test_two_groups_that_are_joined_as_groups() -> None:
    with new_dag() as dag:
        with TaskGroup("one") as one:
            Step(task_id="a")
            Step(task_id="b")
        with TaskGroup("two") as two:
            Step(task_id="a")
        one >> two
    secure(dag, plan())
    assert edges(dag)["two.before_a.watch"] == {"one.after_a.watch", "one.after_b.watch"}
    assert edges(dag)["two.a"] == {"two.before_a.watch"}


def test_a_mapped_task_keeps_the_edge_that_tells_it_its_number() -> None:
    with new_dag() as dag:
        numbers = give.override(task_id="numbers")([1, 2])
        give.override(task_id="each").expand(value=numbers)
        Step.partial(task_id="classic").expand(ends=numbers)
    secure(dag, plan())
    for name in ("each", "classic"):
        assert edges(dag)[name] == {"numbers", f"before_{name}.watch"}
        assert edges(dag)[f"before_{name}.watch"] == {"after_numbers.watch"}
        assert edges(dag)[f"after_{name}.watch"] == {name}


def test_the_guards_of_a_mapped_group_are_mapped_with_it() -> None:
    @task_group
    def per_file(name: Any) -> None:
        give.override(task_id="second")(give.override(task_id="first")(name))

    with new_dag() as dag:
        Step(task_id="last") << per_file.expand(name=give.override(task_id="names")(["a"]))
    secure(dag, plan())
    found = edges(dag)
    assert found["per_file.first"] == {"names", "per_file.before_first.watch"}
    assert found["per_file.before_first.watch"] == {"names", "after_names.watch"}
    assert found["per_file.before_second.watch"] == {"per_file.first", "per_file.after_first.watch"}
    assert found["before_last.watch"] == {"per_file.after_second.watch"}
    assert all(
        dag.task_dict[name].get_closest_mapped_task_group() is not None for name in found if name.startswith("per_file.before")
    )


def branched(join: str = "none_failed_min_one_success", *, data: bool = True) -> Any:
    with new_dag() as dag:
        start = Step(task_id="start")
        x, y = give.override(task_id="x")(1), give.override(task_id="y")(2)
        start >> choose.override(task_id="branch")() >> [x, y]
        last = give.override(task_id="join", trigger_rule=join)([x, y] if data else None)
        [x, y] >> last
    return dag


@pytest.mark.parametrize("data", [True, False])
def test_the_guard_before_what_a_branch_chooses_stands_beside_the_branch(data: bool) -> None:
    dag = branched(data=data)
    secure(dag, plan(after=(), stages=[{"task": "*", "but_not": "branch", "after": [WATCH]}]))
    found = edges(dag)
    assert found["before_branch.watch"] == {"after_start.watch"}
    assert found["branch"] == {"before_branch.watch"}
    assert found["x"] == {"branch", "before_x.watch"}
    assert found["before_x.watch"] == {"after_start.watch"} or found["before_x.watch"] == {"before_branch.watch"}
    assert found["before_join.watch"] == {"after_x.watch", "after_y.watch"}
    assert found["join"] == ({"x", "y"} if data else set()) | {"before_join.watch"}
    assert dag.task_dict["before_join.watch"].trigger_rule == "none_failed_min_one_success"


def test_a_branch_after_a_branch_and_the_branch_itself_have_guards_beside_them() -> None:
    with new_dag() as dag:
        start = Step(task_id="start")
        one, two = choose.override(task_id="one")(), choose.override(task_id="two")()
        x, y, z = (Step(task_id=name) for name in "xyz")
        start >> one >> [two, z]
        two >> [x, y]
    secure(dag, plan(after=()))
    found = edges(dag)
    assert found["two"] == {"one", "before_two.watch"}
    assert found["before_two.watch"] == found["before_z.watch"] == {"start"}
    assert found["x"] == {"two", "before_x.watch"}
    assert found["before_x.watch"] == {"start"}


def test_a_branch_to_a_task_group() -> None:
    with new_dag() as dag:
        branch = choose.override(task_id="branch")()
        with TaskGroup("group") as group:
            a = Step(task_id="a")
            a >> Step(task_id="b")
        branch >> [group, Step(task_id="other")]
    secure(dag, plan(but_not="branch"))
    found = edges(dag)
    assert found["group.a"] == {"branch", "group.before_a.watch"}
    assert found["group.before_a.watch"] == set()
    assert found["group.before_b.watch"] == {"group.after_a.watch"}


def test_a_short_circuit_is_a_branch() -> None:
    with new_dag() as dag:
        start = Step(task_id="start")
        start >> ShortCircuitOperator(task_id="short", python_callable=bool) >> Step(task_id="a") >> Step(task_id="b")
    secure(dag, plan(but_not="short"))
    assert edges(dag)["a"] == {"short", "before_a.watch"}
    assert edges(dag)["before_a.watch"] == {"after_start.watch"}


def test_a_guard_after_a_branch_is_refused() -> None:
    told = refused(branched(), plan(task="branch", before=()))
    assert "after stage branch: it chooses which of the tasks after it run, and would skip a guard" in told


def with_setup() -> Any:
    with new_dag() as dag:
        start, create, destroy = Step(task_id="start"), Step(task_id="create"), Step(task_id="destroy")
        a, b = Step(task_id="a"), Step(task_id="b")
        start >> create.as_setup() >> a >> b >> destroy.as_teardown(setups=create)
        b >> Step(task_id="last")
    return dag


def test_setup_and_teardown_stay_and_the_guards_come_between() -> None:
    dag = with_setup()
    secure(dag, plan())
    found = edges(dag)
    assert found["create"] == {"start", "after_start.watch"}
    assert found["before_a.watch"] == {"create"}
    assert found["a"] == {"create", "before_a.watch"}
    assert found["destroy"] == {"create", "b", "after_b.watch"}
    assert dag.task_dict["create"].is_setup
    assert dag.task_dict["destroy"].is_teardown
    assert dag.task_dict["destroy"].trigger_rule == "all_done_setup_success"


@pytest.mark.parametrize("name", ["create", "destroy"])
def test_a_rule_that_names_a_setup_or_a_teardown_is_refused(name: str) -> None:
    kind = "setup" if name == "create" else "teardown"
    assert f"before stage {name}: it is a {kind}, which stays as it is" in refused(with_setup(), plan(task=["a", name]))


def test_a_join_of_one_success_waits_for_its_guard_which_has_its_rule() -> None:
    with new_dag() as dag:
        [Step(task_id="a"), Step(task_id="b")] >> Step(task_id="join", trigger_rule="one_success")
    secure(dag, plan(task="join"))
    assert edges(dag)["join"] == {"before_join.watch"}
    assert dag.task_dict["before_join.watch"].trigger_rule == "one_success"
    assert dag.task_dict["join"].trigger_rule == "one_success"


def test_a_join_of_one_success_would_run_although_a_guard_above_failed() -> None:
    with new_dag() as dag:
        [Step(task_id="a"), Step(task_id="b")] >> Step(task_id="join", trigger_rule="one_success")
    told = refused(dag, plan(task="a", before=()))
    assert "join follows stage a and would run although after_a.watch did not pass: its trigger rule is one_success" in told


def test_a_data_edge_to_a_join_of_one_success_is_refused() -> None:
    with new_dag() as dag:
        PythonOperator(task_id="join", python_callable=print, op_args=[give.override(task_id="a")()], trigger_rule="one_success")
    told = refused(dag, plan(task="join", after=()))
    assert "stage join would run although before_join.watch did not pass: its trigger rule is one_success" in told
    assert "Give it the trigger rule all_success, or let the plan exempt it" in told


def with_mail() -> Any:
    with new_dag() as dag:
        Step(task_id="train") >> Step(task_id="mail", trigger_rule="all_done")
    return dag


def test_what_runs_whatever_happens_is_refused_with_the_reason() -> None:
    told = refused(with_mail(), plan(task="train", before=()))
    assert told.startswith("DAG woven cannot be guarded as plan says: mail follows stage train and would run although ")
    assert "after_train.watch did not pass: its trigger rule is all_done, and it runs with after_train.watch failed" in told


def test_what_the_plan_exempts_runs_whatever_happens_and_has_no_guard() -> None:
    dag = with_mail()
    woven = secure(dag, plan(stages=[{"task": "mail", "exempt": "it only tells"}]))
    assert woven.exempt == {"mail": "it only tells"}
    assert woven.added == ("before_train.watch", "after_train.watch")
    assert edges(dag)["mail"] == {"after_train.watch"}


def test_but_not_takes_a_task_out_of_one_rule_only() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Step(task_id="b")
    woven = secure(dag, plan(but_not="b", stages=[{"operator": "Step", "before": [WATCH | {"id": "other"}]}]))
    assert set(woven.added) == {"before_a.watch", "after_a.watch", "before_a.other", "before_b.other"}


def test_what_runs_nothing_gets_no_guard_and_lets_none_be_passed_by() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> EmptyOperator(task_id="join") >> Step(task_id="b")
    woven = secure(dag, plan(before=()))
    assert woven.added == ("after_a.watch", "after_b.watch")
    assert edges(dag)["join"] == {"after_a.watch"}


def test_an_empty_operator_with_a_callback_runs_something() -> None:
    with new_dag() as dag:
        EmptyOperator(task_id="a", on_success_callback=print)
    assert secure(dag, plan(after=())).added == ("before_a.watch",)


def test_guards_that_an_author_wrote_stay_and_are_no_stages() -> None:
    from tests.weaving import Watch

    with new_dag() as dag:
        Step(task_id="a") >> Watch(task_id="mine") >> Step(task_id="b")
    woven = secure(dag, plan())
    assert set(woven.added) == {f"{side}_{name}.watch" for side in ("before", "after") for name in "ab"}
    assert edges(dag)["mine"] == {"after_a.watch"}
    assert edges(dag)["before_b.watch"] == {"mine"}


@pytest.mark.parametrize("make", [branched, with_setup], ids=["branch", "setup"])
def test_twice_changes_nothing(make: Any) -> None:
    dag, demanded = make(), plan(but_not="branch")
    names = dag.task_ids
    mine = own(dag, names)
    assert secure(dag, demanded).added
    once = seen(dag)
    assert secure(dag, demanded).added == ()
    assert seen(dag) == once
    assert own(dag, names) == mine


def test_two_plans_after_each_other_both_hold() -> None:
    dag = branched()
    secure(dag, plan(but_not="branch"))
    first = set(dag.task_ids)
    secure(dag, plan(but_not="branch", name="more"))
    assert set(dag.task_ids) - first == {f"more_{side}_{name}.watch" for name in ("start", "x", "y", "join") for side in SIDES}
    for demanded in (plan(but_not="branch"), plan(but_not="branch", name="more")):
        assert secure(dag, demanded).added == ()


SIDES = ("before", "after")


def test_a_second_plan_of_the_same_name_adds_what_the_first_did_not_have() -> None:
    with new_dag() as dag:
        Step(task_id="a") >> Step(task_id="b")
    secure(dag, plan(after=()))
    assert secure(dag, plan(before=(), after=[WATCH | {"id": "late"}])).added == ("after_a.late", "after_b.late")
    assert edges(dag)["before_b.watch"] == {"after_a.late"}


def test_a_cycle_is_an_error_of_airflows_own() -> None:
    with new_dag() as dag:
        a = Step(task_id="a")
        a >> Step(task_id="b") >> a
    with pytest.raises(Exception, match=r"(?i)cycle"):
        secure(dag, plan())


def test_inside_the_with_block_and_in_a_task_group_nothing_is_different() -> None:
    with new_dag() as outside:
        Step(task_id="a") >> Step(task_id="b")
    secure(outside, plan())
    with new_dag() as inside:
        Step(task_id="a") >> Step(task_id="b")
        secure(inside, plan())
    with new_dag() as grouped:
        Step(task_id="a") >> Step(task_id="b")
        with TaskGroup("around"):
            secure(grouped, plan())
            Step(task_id="late")
    assert seen(inside) == seen(outside)
    assert set(grouped.task_ids) - set(outside.task_ids) == {"around.late"}
    assert tree(grouped.task_group)["around"] == {"around.late": "task"}
    assert {name: edges(grouped)[name] for name in outside.task_ids} == edges(outside)


def test_the_dags_default_args_do_not_reach_the_guards() -> None:
    given = {
        "on_failure": "warn",
        "trigger_rule": "all_done",
        "policy": {"fail_on": "critical"},
        "pre_execute": print,
        "retries": 7,
        "owner": "someone",
        "passes": True,
        "on_success_callback": print,
        "doc_md": "mine",
    }
    with new_dag() as plain:
        Step(task_id="a")
    with new_dag(default_args=given) as dag, TaskGroup("group", prefix_group_id=False, default_args={"queue": "mine"}):
        Step(task_id="a", trigger_rule="all_success")
    secure(plain, plan())
    secure(dag, plan())
    for name in ("before_a.watch", "after_a.watch"):
        aside = {"_dag", "task_group", "upstream_task_ids", "downstream_task_ids", "start_date"}
        one, other = vars(plain.task_dict[name]), vars(dag.task_dict[name])
        assert {key for key in one.keys() | other.keys() if key not in aside and one.get(key) != other.get(key)} == set()


def test_a_dag_that_no_entry_of_the_plan_means_is_refused_and_an_exempt_one_is_left() -> None:
    dag = with_mail()
    assert "plan has no entry for DAG woven. Add one under dags:." in refused(dag, plan(dags=[{"dag_id": "other"}]))
    before = seen(dag)
    assert secure(dag, plan(dags=[{"dag_id": "woven", "exempt": "a toy"}])).added == ()
    assert seen(dag) == before


def test_a_task_group_in_the_guards_place_is_refused_unless_it_is_theirs() -> None:
    with new_dag() as dag:
        Step(task_id="a")
        Step(task_id="before_a")
    assert "DAG woven has before_a already, where guards of a would stand" in refused(dag, plan(task="a", after=()))


def test_a_plan_that_fails_at_its_last_stage_leaves_no_trace_of_the_first() -> None:
    with new_dag() as dag, TaskGroup("group"):
        Step(task_id="a") >> Step(task_id="b") >> Step(task_id="c", trigger_rule="all_done")
    told = refused(dag, plan())
    assert "group.c" in told
    assert secure(dag, plan(stages=[{"task": "*.c", "exempt": "mail"}])).added


def test_a_stage_that_is_shown_as_a_sentence_has_its_guards_under_its_id() -> None:
    with new_dag() as dag, TaskGroup("prepare"):
        Step(task_id="train", task_display_name="Train the model, at last")
    assert secure(dag, plan(before=[WATCH], after=())).added == ("prepare.before_train.watch",)
    assert dag.task_group_dict["prepare.before_train"].label == "before Train the model, at last"


def test_airflow_reads_back_what_it_wrote_down_of_a_woven_dag() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with new_dag() as dag:
        Step(task_id="a") >> Step(task_id="b") >> Step(task_id="c")
    demanded = plan(task=["a", "b"])
    demanded["stages"].append({"task": "c", "exempt": "nobody reads it"})
    secure(dag, demanded)
    written = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    assert set(DagSerialization.from_dict(written).task_dict) == set(dag.task_dict)
    noted = [json.loads(task.woven) for task in dag.task_dict.values() if isinstance(task, Watch)]
    assert noted[0]["exempt"] == {"c": "nobody reads it"}
    assert {len(one["sha256"]) for one in noted} == {64}


def test_what_is_noted_of_a_plan_beside_the_dag_does_not_depend_on_where_that_is(tmp_path: Path) -> None:
    noted = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "plan.yaml").write_text(json.dumps(plan()))
        with new_dag() as dag:
            Step(task_id="a") >> Step(task_id="b")
        dag.fileloc = str(tmp_path / folder / "dag.py")
        secure(dag, "plan.yaml")
        noted.append({task.woven for task in dag.task_dict.values() if isinstance(task, Watch)})
    assert noted[0] == noted[1]
    assert json.loads(noted[0].pop())["plan"] == "plan plan.yaml"
