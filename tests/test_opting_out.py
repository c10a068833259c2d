"""What the author of a DAG may try to get round the organisation's plan: each attempt is refused, or changes nothing.

Not here: code in the DAG's file that replaces code of Airflow or of this package. It runs in the same process before the policy
does, and nothing in that process stops it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.organisation import GUARD, GUARDED, PLAIN, Organisation, plan

EVERY = {"task": "*", "before": [GUARD]}
HEAD = """
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.python import PythonOperator
from airflow.sdk import DAG, Asset, BaseOperator, TaskGroup, TriggerRule, setup, task, teardown
from airflow_pipesec.guards.base import GuardOperator
from airflow_pipesec.operators import HashManifestOperator
from tests.weaving import Watch

def work(*_, **__): pass

@task
def collect(): return 1

@task
def train(value=None): return 2

"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Organisation:
    return Organisation(tmp_path, monkeypatch)


def written(body: str, *, top: str = "", after: str = "", **given: str) -> str:
    """A DAG file of a hostile author."""
    inside = "".join(f"    {line}\n" for line in body.strip().splitlines())
    arguments = "".join(f", {name}={value}" for name, value in given.items())
    return f"{HEAD}{top}\nwith DAG('plain', schedule=None{arguments}) as dag:\n{inside}\n{after}\n"


def every(mode: str = "weave", **more: Any) -> dict[str, Any]:
    """A plan that demands a guard before every stage."""
    return {"version": 1, "mode": mode, "stages": [EVERY, *more.pop("stages", ())], **more}


SECURED = (
    PLAIN
    + "from airflow_pipesec import secure\nsecure(dag, {'version': 1, 'stages': [{'task': 'train', 'before': ["
    + (f"{GUARD!r}" + "]}]})\nguard, stage = dag.get_task('before_train.watch'), dag.get_task('train')\n")
)


# ---- What the author says of the DAG


def test_who_takes_the_tag_away_has_no_entry_and_is_refused(here: Organisation) -> None:
    untagged = PLAIN.replace('"pii"', '"public"')
    for mode in ("weave", "enforce"):
        here.has(plan(mode, dags=[{"tag": "pii"}], unmatched="refuse"))
        assert "has no entry for DAG plain" in here.refused(untagged)
        here.has(plan(mode, dags=[{"tag": "pii"}]))
        if mode == "enforce":
            here.refused(untagged)


def test_where_an_entry_goes_by_the_id_tags_change_nothing(here: Organisation) -> None:
    here.has(plan(dags=[{"dag_id": "plain"}]))
    assert here.accepted(PLAIN.replace('tags=["pii", "other"]', "tags=[]")).task_ids == GUARDED
    assert here.accepted(PLAIN + "dag.tags.clear()\n").task_ids == GUARDED


def test_a_tag_can_only_ask_for_more(here: Organisation) -> None:
    here.has(plan("enforce", dags=[{"dag_id": "*"}, {"tag": "trusted", "mode": "report"}]))
    here.refused(PLAIN.replace('"pii"', '"trusted"'))


def test_a_file_that_says_it_is_of_another_bundle_is_of_the_one_that_airflow_read_it_from(here: Organisation) -> None:
    here.bundles("prod", "sandbox")
    here.has(plan(dags=[{"bundle": "prod"}, {"bundle": "sandbox", "exempt": "Nothing from there is shipped."}]))
    elsewhere = here.home / "sandbox" / "file.py"
    for source in (
        f"{PLAIN}\n__file__ = {str(elsewhere)!r}\n",
        f"{PLAIN}\ndag.fileloc = {str(elsewhere)!r}\n",
        f"{PLAIN}\n__spec__.origin = __loader__.path = __file__ = {str(elsewhere)!r}\n",
    ):
        for bundle in ("prod", None):
            assert here.accepted(source, folder=here.home / "prod", bundle=bundle).task_ids == GUARDED


@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_link_into_another_bundle_is_of_the_one_that_airflow_read_it_from(here: Organisation, mode: str) -> None:
    here.bundles("prod", "sandbox")
    here.has(plan(mode, dags=[{"bundle": "prod"}, {"bundle": "sandbox", "exempt": "Nothing from there is shipped."}]))
    (here.home / "sandbox" / "file.py").write_text(PLAIN)
    (here.home / "prod" / "file.py").symlink_to(here.home / "sandbox" / "file.py")
    dags, error = here.parse(folder=here.home / "prod", bundle="prod")
    assert error if mode == "enforce" else dags["plain"].task_ids == GUARDED


@pytest.mark.parametrize(
    "own",
    [
        "tags = property(lambda self: {'trusted'}, lambda self, value: None)",
        "task_dict = property(lambda self: {}, lambda self, value: None)",
        "def check_cycle(self): pass",
        "def add_task(self, task): super().add_task(task)",
        "def get_template_env(self, **_): return None",
        "def __getattribute__(self, name): return object.__getattribute__(self, name)",
    ],
)
@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_dag_class_that_answers_for_itself_is_refused(here: Organisation, mode: str, own: str) -> None:
    here.has(plan(mode))
    source = written("collect() >> train()", top=f"class Mine(DAG):\n    {own}\n").replace("with DAG(", "with Mine(")
    dags, error = here.parse(source)
    assert not dags
    assert error


def test_a_dag_class_that_only_is_made_in_another_way_is_a_dag(here: Organisation) -> None:
    here.has(plan())
    init = "    def __init__(self, *name, **given):\n        super().__init__(*name, **given)\n        self.more = 1\n"
    assert (
        here.accepted(
            written("collect() >> train()", top=f"class Mine(DAG):\n{init}").replace("with DAG(", "with Mine(")
        ).task_ids
        == GUARDED
    )


def test_methods_that_were_set_on_the_dag_are_refused(here: Organisation) -> None:
    here.has(plan())
    assert "add_task of the DAG was set on the DAG itself" in here.refused(PLAIN + "dag.add_task = lambda task: None\n")


def test_default_args_do_not_reach_the_guards(here: Organisation) -> None:
    here.has(plan())
    given = (
        "{'on_failure': 'warn', 'policy': {'fail_on': 'critical'}, 'trigger_rule': 'always', 'pre_execute': work, 'retries': 9}"
    )
    guard = here.accepted(written("collect() >> train.override(trigger_rule='all_success')()", default_args=given)).task_dict[
        "before_train.watch"
    ]
    assert (guard.on_failure, guard.policy, guard.trigger_rule, guard._pre_execute_hook) == ("fail", None, "all_success", None)
    assert guard.retries != 9


# ---- What stands in the guard's place


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ("EmptyOperator(task_id='watch')", "it is a EmptyOperator"),
        ("type('Watch', (Watch,), {'findings': lambda *_: []})(task_id='watch', word='here')", "it is a Watch, not the Watch of"),
        ("Watch(task_id='watch', task_display_name='watch', word='elsewhere')", "its word is another"),
        ("Watch(task_id='watch', task_display_name='watch', word='here', on_failure='warn')", "its on_failure is another"),
        (
            "Watch(task_id='watch', task_display_name='watch', word='here', policy={'fail_on': 'critical'})",
            "its policy is another",
        ),
        ("Watch(task_id='watch', task_display_name='watch', word='here', pre_execute=work)", "its pre_execute_hook is another"),
        ("Watch.partial(task_id='watch').expand(word=['here'])", "it is a MappedOperator"),
    ],
)
def test_a_task_with_the_guards_id_that_is_not_the_guard_is_refused(here: Organisation, made: str, told: str) -> None:
    here.has(plan())
    source = written(f"with TaskGroup('before_train'):\n    guard = {made}\ncollect() >> guard >> train()")
    assert told in here.refused(source)
    here.has(plan("enforce"))
    assert "there has to be a Watch" in here.refused(source)


def test_a_task_group_with_the_guards_id_is_used_or_refused(here: Organisation) -> None:
    here.has(plan())
    other = "with TaskGroup('before_train'):\n    EmptyOperator(task_id='x')\ncollect() >> train()"
    assert "before_train.watch" in here.accepted(written(other)).task_ids
    mine = written(other.replace("TaskGroup(", "Mine("), top="class Mine(TaskGroup):\n    def add(self, task): return task\n")
    assert "Call it something else" in here.refused(mine)
    assert "Call it something else" in here.refused(written("EmptyOperator(task_id='before_train'); collect() >> train()"))


WORK = "class Work({bases}):\n    {own}\n    def execute(self, context): work()\n"
CLASSES = {
    "a guard of one's own": ("GuardOperator", "pass"),
    "a guard of this package, derived": ("HashManifestOperator", "pass"),
    "with a module of this package": ("GuardOperator", "__module__ = 'airflow_pipesec.guards.integrity'"),
    "with the name of one of its classes": (
        "GuardOperator",
        "__module__, __name__, __qualname__ = 'airflow_pipesec.operators', 'HashManifestOperator', 'HashManifestOperator'",
    ),
    "an empty operator that works": ("EmptyOperator", "pass"),
    "an empty operator by name": (
        "EmptyOperator",
        "__module__ = 'airflow.providers.standard.operators.empty'; __qualname__ = 'EmptyOperator'",
    ),
}


@pytest.mark.parametrize("what", CLASSES)
def test_a_class_that_looks_like_a_guard_or_like_nothing_is_a_stage(here: Organisation, what: str) -> None:
    bases, own = CLASSES[what]
    made = "Work(task_id='hidden', root='/x', manifest='/y')" if "Manifest" in bases else "Work(task_id='hidden')"
    source = written(f"collect() >> {made}", top=WORK.format(bases=bases, own=own))
    here.has(every())
    assert "before_hidden.watch" in here.accepted(source).task_ids
    here.has(every("enforce"))
    assert "before stage hidden there has to be a Watch" in here.refused(source)


@pytest.mark.parametrize(
    "own",
    [
        "operator_class = EmptyOperator",
        "operator_class = HashManifestOperator",
        "operator_class = property(lambda self: EmptyOperator)",
        "__class__ = property(lambda self: EmptyOperator)",
        "trigger_rule = property(lambda self: 'all_success', lambda self, value: None)",
        "downstream_task_ids = property(lambda self: set(), lambda self, value: None)",
        "is_teardown = property(lambda self: False, lambda self, value: None)",
        "def get_closest_mapped_task_group(self): return None",
        "def __getattribute__(self, name): return object.__getattribute__(self, name)",
    ],
)
@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_class_that_answers_for_itself_what_a_plan_goes_by_is_refused(here: Organisation, mode: str, own: str) -> None:
    here.has(plan(mode))
    source = written("collect() >> train() >> Work(task_id='hidden')", top=WORK.format(bases="BaseOperator", own=own))
    dags, error = here.parse(source)
    assert not dags
    assert "of its own. Leave that to Airflow" in error or "Broken" in error or "Error" in error


TASKS = {
    "a callback when it starts": "EmptyOperator(task_id='hidden', on_execute_callback=work)",
    "a callback when it succeeded": "EmptyOperator(task_id='hidden', on_success_callback=work)",
    "a hook": "EmptyOperator(task_id='hidden', outlets=[Asset('a')], pre_execute=work)",
    "a hook, and Airflow may not run it": "EmptyOperator(task_id='hidden', post_execute=work)",
    "execute replaced": "hidden = EmptyOperator(task_id='hidden', outlets=[Asset('a')]); hidden.execute = work",
    "another container": "EmptyOperator(task_id='hidden', executor_config={'pod_override': 1})",
    "a mapped one with a hook": "EmptyOperator.partial(task_id='hidden', pre_execute=work).expand_kwargs([{'doc': 'x'}])",
    "a guard with a hook": "HashManifestOperator(task_id='hidden', root='/x', manifest='/y', pre_execute=work)",
    "a guard whose execute was replaced": (
        "hidden = HashManifestOperator(task_id='hidden', root='/x', manifest='/y'); hidden.execute = work"
    ),
    "a guard whose findings were replaced": (
        "hidden = HashManifestOperator(task_id='hidden', root='/x', manifest='/y'); hidden.findings = work"
    ),
    "a guard that is a function": "task.guard(task_id='hidden')(work)()",
    "a mapped guard with a hook": (
        "HashManifestOperator.partial(task_id='hidden', manifest='/y', pre_execute=work).expand(root=['/x'])"
    ),
}


@pytest.mark.parametrize("what", TASKS)
def test_a_task_that_was_made_to_do_more_than_its_class_says_is_a_stage(here: Organisation, what: str) -> None:
    source = written(f"train()\n{TASKS[what]}")
    here.has(every())
    assert "before_hidden.watch" in here.accepted(source).task_ids
    here.has(every("enforce"))
    assert "before stage hidden there has to be a Watch" in here.refused(source)


def test_what_the_plan_exempts_by_its_class_is_not_exempt_with_more_to_run(here: Organisation) -> None:
    exempt = {"operator": "tests.weaving.Step", "exempt": "It does nothing.", "optional": True}
    here.has(every(stages=[exempt]))
    top = "from tests.weaving import Step\n"
    assert here.accepted(written("collect() >> Step(task_id='step')", top=top)).task_ids == [
        "collect",
        "step",
        "before_collect.watch",
    ]
    for more in ("pre_execute=work", "post_execute=work", "executor_config={'pod_override': 1}", "on_execute_callback=work"):
        assert "before_step.watch" in here.accepted(written(f"collect() >> Step(task_id='step', {more})", top=top)).task_ids
    replaced = written("step = Step(task_id='step'); step.execute = work; collect() >> step", top=top)
    assert "before_step.watch" in here.accepted(replaced).task_ids


def test_a_stage_that_is_called_something_else_does_not_meet_the_rule(here: Organisation) -> None:
    source = PLAIN.replace("def train()", "def trein()").replace("train()", "trein()")
    for mode in ("weave", "enforce"):
        here.has(plan(mode))
        assert "DAG plain has no task train. Did you mean trein?" in here.refused(source)
    here.has(every())
    assert "before_trein.watch" in here.accepted(source).task_ids


def test_a_stage_that_is_filed_under_another_id_is_refused(here: Organisation) -> None:
    here.has(plan(stages=[{"task": "train", "optional": True, "before": [GUARD]}]))
    assert "is filed as x" in here.refused(PLAIN + "dag.task_dict['x'] = dag.task_dict['train']\n")


@pytest.mark.parametrize("call", ["as_teardown()", "as_setup()"])
@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_stage_that_is_called_a_setup_or_a_teardown_is_a_stage(here: Organisation, mode: str, call: str) -> None:
    for demanded in (plan(mode), every(mode)):
        here.has(demanded)
        assert "which stays as it is" in here.refused(
            PLAIN.replace("train()\n", "train()\n", 1) + f"dag.get_task('train').{call}\n"
        )


# ---- Ways past the guard


def past(rule: str, *, empty: bool = False) -> str:
    """A DAG whose last task runs, by its rule, although the guard before train did not pass."""
    middle = "EmptyOperator(task_id='nothing') >> " if empty else ""
    return written(
        f"collect() >> train() >> {middle}PythonOperator(task_id='publish', python_callable=work, trigger_rule={rule!r})"
    )


@pytest.mark.parametrize("rule", ["all_done", "always", "none_skipped", "all_failed", "one_failed"])
@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_task_behind_a_guard_that_runs_whatever_it_says_is_refused(here: Organisation, mode: str, rule: str) -> None:
    here.has(plan(mode))
    secured = f"from airflow_pipesec import secure\nsecure(dag, {plan()!r})\n"
    dags, error = here.parse(past(rule) + (secured if mode == "enforce" else ""))
    assert not dags
    assert "publish would run although before_train.watch" in error


@pytest.mark.parametrize("rule", ["one_success", "one_done", "all_done_min_one_success", "none_failed"])
def test_what_does_not_run_when_the_stage_before_it_could_not_is_let_be(here: Organisation, rule: str) -> None:
    here.has(plan())
    here.accepted(past(rule))


@pytest.mark.parametrize("rule", ["all_done", "always", "none_skipped"])
def test_nor_does_a_task_that_runs_nothing_hide_it(here: Organisation, rule: str) -> None:
    here.has(plan())
    assert "publish would run although before_train.watch" in here.refused(past(rule, empty=True))
    hidden = past("all_success", empty=True).replace("task_id='nothing'", f"task_id='nothing', trigger_rule={rule!r}")
    assert "publish would run although before_train.watch" in here.refused(hidden)


@pytest.mark.parametrize("rule", ["all_done", "always", "none_skipped", "one_success", "one_done", "all_failed", "one_failed"])
def test_a_stage_that_would_run_whatever_its_guard_says_is_refused(here: Organisation, rule: str) -> None:
    here.has(plan())
    source = written(f"[collect(), EmptyOperator(task_id='other')] >> train.override(trigger_rule={rule!r})()")
    dags, error = here.parse(source)
    if rule == "one_success":  # all that it follows is followed by its guard, which has that rule: nothing passes the guard by
        assert not error
        assert dags["plain"].task_dict["train"].upstream_task_ids == {"before_train.watch"}
    else:
        assert "stage train would run although before_train.watch did not pass" in error


def test_a_data_edge_that_passes_the_guard_by_is_refused(here: Organisation) -> None:
    here.has(plan())
    assert "stage train would run although" in here.refused(written("train.override(trigger_rule='one_success')(collect())"))
    after = plan(stages=[{"task": "collect", "after": [GUARD]}])
    here.has(after)
    told = here.refused(written("train.override(trigger_rule='one_success')(collect())"))
    assert "train follows stage collect and would run although after_collect.watch did not pass" in told
    dag = here.accepted(written("train(collect())"))
    assert dag.task_dict["train"].upstream_task_ids == {"collect", "after_collect.watch"}


def test_a_value_that_is_fetched_without_an_edge_is_not_a_way_past_the_order(here: Organisation) -> None:
    """Without an edge the task does not follow the stage at all; a rule for the task itself still holds."""
    here.has(every())
    body = "collect()\nPythonOperator(task_id='reads', python_callable=work, op_args=[\"{{ ti.xcom_pull('collect') }}\"])"
    dag = here.accepted(written(body))
    assert dag.task_dict["reads"].upstream_task_ids == {"before_reads.watch"}


@pytest.mark.parametrize(
    "rule", ["type('S', (str,), {'value': property(lambda self: 'all_success')})('all_done')", "1", "['all_done']"]
)
def test_a_trigger_rule_that_is_none_of_airflows_is_refused(here: Organisation, rule: str) -> None:
    here.has(plan())
    dags, error = here.parse(f"{PLAIN}\ndag.get_task('train').trigger_rule = {rule}\n")
    assert not dags
    assert error


def test_a_rule_that_is_set_late_is_seen(here: Organisation) -> None:
    here.has(plan())
    assert "would run although" in here.refused(f"{PLAIN}\ndag.get_task('train').trigger_rule = 'all_done'\n")


# ---- What the author does to guards that are there

MUTATIONS = {
    "it only warns": ("guard.on_failure = 'warn'", "its on_failure is another"),
    "another policy": ("guard.policy = {'fail_on': 'critical'}", "its policy is another"),
    "another parameter": ("guard.word = 'elsewhere'", "its word is another"),
    "another rule": ("guard.trigger_rule = 'always'", "has the trigger rule always"),
    "execute replaced": ("guard.execute = lambda context: None", "its execute was set"),
    "findings replaced": ("guard.findings = lambda context: []", "its findings was set"),
    "judgement replaced": ("guard._examine = lambda context: None", "its examine was set"),
    "no templates": ("guard.template_fields = ()", "its template_fields was set"),
    "another class": ("guard.__class__ = type('Watch', (type(guard),), {})", "it is a Watch, not the Watch of"),
    "a hook": ("guard._pre_execute_hook = print", "its pre_execute_hook is another"),
    "a teardown": ("guard.as_teardown()", "its is_teardown is another"),
    "a setup": ("guard.as_setup()", "its is_setup is another"),
    "an attribute that lies": (
        "guard.word = type('S', (str,), {'__eq__': lambda *_: True, '__ne__': lambda *_: False})('x')",
        "its word is another",
    ),
    "no edge to the stage": (
        "guard.downstream_task_ids.clear(); stage.upstream_task_ids.clear()",
        "does not follow before_train.watch",
    ),
    "the edge that Airflow reads": ("guard.downstream_task_ids.clear()", "is noted on one of its sides only"),
    "the edge that weaving reads": ("stage.upstream_task_ids.clear()", "is noted on one of its sides only"),
    "an edge past it": (
        "stage.trigger_rule = 'one_success'; dag.get_task('collect') >> stage",
        "would run although before_train.watch did not pass",
    ),
    "not after what comes before": (
        "guard.upstream_task_ids.clear(); dag.get_task('collect').downstream_task_ids.clear(); dag.get_task('collect') >> stage",
        "it would look too early",
    ),
    "edges that lie": (
        "guard.downstream_task_ids = type('S', (set,), {'__iter__': lambda self: iter(())})({'train'})",
        "are no set of task ids",
    ),
    "a mapping of tasks that lies": ("dag.task_dict = type('D', (dict,), {})(dag.task_dict)", "its task_dict is no dict"),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_a_guard_that_was_changed_after_it_was_woven_is_refused(here: Organisation, what: str) -> None:
    change, told = MUTATIONS[what]
    here.has(plan())
    assert here.accepted(SECURED).task_ids == GUARDED
    assert told in here.refused(f"{SECURED}{change}\n")
    here.has(plan("enforce"))
    here.refused(f"{SECURED}{change}\n")


def test_a_guard_that_was_taken_out_is_put_back(here: Organisation) -> None:
    here.has(plan())
    cut = "for one in dag.tasks: one.upstream_task_ids.discard(guard.task_id); one.downstream_task_ids.discard(guard.task_id)\n"
    group = "guard.task_group.children.clear(); dag.task_group.used_group_ids.discard(guard.task_id)\n"
    gone = f"{SECURED}del dag.task_dict[guard.task_id]\n{group}{cut}dag.get_task('collect') >> stage\n"
    dag = here.accepted(gone)
    assert dag.task_ids == GUARDED
    assert dag.task_dict["train"].upstream_task_ids == {"before_train.watch"}
    here.has(plan("enforce"))
    assert "there has to be a Watch" in here.refused(gone)
    half = f"{SECURED}del dag.task_dict[guard.task_id]\n{cut}"
    for mode in ("weave", "enforce"):
        here.has(plan(mode))
        assert "task before_train.watch is in a TaskGroup and no longer in the DAG" in here.refused(half)


def test_guards_whose_order_was_undone_are_refused(here: Organisation) -> None:
    two = plan(stages=[{"task": "train", "before": [GUARD, GUARD | {"id": "again"}]}])
    here.has(two)
    source = f"{PLAIN}from airflow_pipesec import secure\nsecure(dag, {two!r})\n"
    assert here.accepted(source).task_ids == [*GUARDED, "before_train.again"]
    undone = (
        "one, other = dag.get_task('before_train.watch'), dag.get_task('before_train.again')\n"
        "one.downstream_task_ids.clear(); other.upstream_task_ids.clear()\n"
        "dag.get_task('collect') >> other; one >> dag.get_task('train')\n"
    )
    assert "before_train.again does not follow before_train.watch, which the plan has before it" in here.refused(source + undone)


def test_a_dag_that_was_emptied_is_refused(here: Organisation) -> None:
    here.has(plan())
    for demanded in (plan(), every(), plan("enforce"), every("enforce")):
        here.has(demanded)
        assert "is in a TaskGroup and no longer in the DAG" in here.refused(f"{PLAIN}dag.task_dict.clear()\n")


# ---- What templates come to

TEMPLATED = plan(stages=[{"task": "train", "before": [GUARD | {"word": "/srv/{{ run_id | replace('a', 'b') }}"}]}])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"jinja_environment_kwargs": "{'variable_start_string': '[['}"}, "its jinja_environment_kwargs"),
        ({"jinja_environment_kwargs": "{'finalize': lambda value: 'elsewhere'}"}, "its jinja_environment_kwargs"),
        ({"user_defined_filters": "{'replace': lambda *_: 'elsewhere'}"}, "its filter replace"),
        ({"user_defined_macros": "{'run_id': 'elsewhere'}"}, "its macro run_id"),
        ({"template_undefined": "type('Mine', (__import__('jinja2').Undefined,), {})"}, "its template_undefined"),
    ],
)
@pytest.mark.parametrize("mode", ["weave", "enforce"])
def test_a_dag_that_would_steer_the_plans_templates_is_refused(
    here: Organisation, mode: str, given: dict[str, str], told: str
) -> None:
    source = written("collect() >> train()", **given)
    here.has(TEMPLATED | {"mode": mode})
    assert f"{told} would change what the plan's templates come to" in here.refused(source)
    here.has(plan())
    assert here.accepted(source).task_ids == GUARDED


def test_macros_and_filters_of_a_dags_own_that_the_plan_does_not_use_change_nothing(here: Organisation) -> None:
    here.has(TEMPLATED)
    own = {"user_defined_macros": "{'mine': 1}", "user_defined_filters": "{'mine': str}", "params": "{'run_id': 'elsewhere'}"}
    own |= {"template_undefined": "__import__('jinja2').Undefined"}
    guard = here.accepted(written("collect() >> train()", **own)).task_dict["before_train.watch"]
    guard.render_template_fields({"run_id": "a1", "params": {"run_id": "elsewhere"}})
    assert guard.word == "/srv/b1"
    assert not guard.params
