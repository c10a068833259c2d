"""Plans: the form is strict, each fault is told with its place, and no message quotes a value."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pipesec import secure
from airflow_pipesec.errors import PlanError
from airflow_pipesec.plan import MAX_PLAN_BYTES, Effective, Facts, Plan, Task
from tests.weaving import Step, new_dag

RULE = "stages:\n- task: a\n  before:\n  - guard: HashVerificationOperator\n    root: /data\n"
HASH = {"guard": "HashVerificationOperator", "root": "/data"}
WATCH = {"guard": "tests.weaving.Watch"}


def read(text: str | bytes) -> Plan:
    return Plan.read(text if isinstance(text, bytes) else text.encode(), "plan.yaml")


def fault(text: str | bytes) -> str:
    with pytest.raises(PlanError) as caught:
        read(text)
    return str(caught.value)


def plan(*guards: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"version": 1, "stages": [{"task": "*", "before": list(guards or (HASH,))}], **more}


def effective(document: Any, dag_id: str = "d", tags: Any = (), bundle: str | None = None, **given_too: Any) -> Effective:
    found = Plan.load(document).for_dag(Facts(dag_id, tags, bundle), **given_too)
    assert found is not None
    return found


def demands(document: Any, *tasks: str, **given_too: Any) -> list[tuple[str, str, dict[str, Any]]]:
    found, _ = effective(document, **given_too).demands([Task(name) for name in tasks or ("a",)])
    return [(one.stage, one.spec.guard, dict(one.parameters)) for one in found]


def refused(document: Any, *tasks: str, **given_too: Any) -> str:
    """What secure() says of a plan."""
    with new_dag("d", tags=["t"]) as dag:
        for name in tasks or ("a",):
            Step(task_id=name)
    with pytest.raises(PlanError) as caught:
        secure(dag, document, **given_too)
    return str(caught.value)


# ---- the form


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: 1\n" + RULE + "stage: []\n", "line 7, column 1, stage: unknown key. Did you mean stages?"),
        ("version: 1\n" + RULE + "  befor: []\n", "line 7, column 3, stages[0].befor: unknown key. Did you mean before?"),
        ("version: 1\n" + RULE + "zzzzz: []\n", "line 7, column 1, zzzzz: unknown key."),
        ("version: 2\n" + RULE, "line 1, column 1, version: "),
        ("version: true\n" + RULE, "line 1, column 1, version: "),
        ("version: '1'\n" + RULE, "line 1, column 1, version: "),
        (RULE, "version: Field required"),
        ("version: 1\n", "there are no stages: the plan demands nothing"),
        ("version: 1\nstages: []\n", "there are no stages"),
        ("version: 1\nstages: a\n", "line 2, column 1, stages: Input should be a valid list"),
        ("version: 1\nstages:\n- before: [{guard: x}]\n", "line 3, column 3, stages[0]: say which tasks are meant"),
        ("version: 1\nstages:\n- task: a\n", "line 3, column 3, stages[0]: give before: or after: a guard"),
        ("version: 1\nstages:\n- task: ''\n  exempt: why\n", "line 3, column 3, stages[0].task"),
        ("version: 1\nstages:\n- task: [a, 3]\n  exempt: why\n", "line 3, column 13, stages[0].task[1]: "),
        ("version: 1\nstages:\n- task: []\n  exempt: why\n", "line 3, column 3, stages[0].task: "),
        ("version: 1\nstages:\n- task: a\n  exempt: ' '\n", "line 4, column 3, stages[0].exempt: "),
        ("version: 1\nstages:\n- task: a\n  exempt: why\n  after: [{guard: x}]\n", "exempt: and guards exclude each other"),
        ("version: 1\nstages:\n- tag: a\n  exempt: why\n", "a tag is for the DAG's author to give and to take"),
        ("version: 1\nstages:\n- operator: Bash\n  exempt: why\n", "what is exempt by operator: is named with its module"),
        ("version: 1\nstages:\n- task: a\n  before: [{}]\n", "line 4, column 12, stages[0].before[0]: give guard: with"),
        (
            "version: 1\nstages:\n- task: a\n  before: [{use: x, guard: y}]\n",
            "line 4, column 12, stages[0].before[0]: give guard:",
        ),
        ("version: 1\nstages:\n- task: a\n  before: [{use: x, root: y}]\n", "stages[0].before[0]: use: stands alone"),
        ("version: 1\nstages:\n- task: a\n  before: [{guard: x, id: 'a b'}]\n", "stages[0].before[0].id: "),
        ("version: 1\nsets:\n  s:\n  - use: s\n" + RULE, "line 4, column 5, sets.s[0]: a set holds guards, and no other set"),
        ("version: 1\nsets:\n  a b: []\n" + RULE, "line 3, column 3, sets.a b: "),
        ("version: 1\nvars:\n  a-b: 1\n" + RULE, "line 3, column 3, vars.a-b: "),
        ("version: 1\nname: a.b\n" + RULE, "line 2, column 1, name: "),
        ("version: 1\nmode: block\n" + RULE, "line 2, column 1, mode: "),
        ("version: 1\nunmatched: allow\n" + RULE, "unmatched: speaks of DAGs that no entry of dags: means"),
        ("version: 1\nunmatched: maybe\ndags: [{dag_id: x}]\n" + RULE, "line 2, column 1, unmatched: "),
        ("version: 1\npolicy: {fail_on: never}\n" + RULE, "line 2, column 1, policy: the policy is not valid: fail_on: "),
        ("version: 1\npolicy: 3\n" + RULE, "line 2, column 1, policy: must be a policy, or the path of one"),
        ("version: 1\ndefaults: {x: 3}\n" + RULE, "line 2, column 12, defaults.x: "),
        ("version: 1\nenvironments: {prod: {dags: []}}\n" + RULE, "environments.prod.dags: unknown key. Did you mean dags?"),
        ("version: 1\ndags: [{}]\n" + RULE, "line 2, column 8, dags[0]: say which DAGs are meant"),
        ("version: 1\ndags: [{tag: x, vars: {}}]\n" + RULE, "dags[0]: a tag is for the DAG's author to give and to take"),
        ("version: 1\ndags: [{tag: x, exempt: why}]\n" + RULE, "with tag: there is no exempt:"),
        ("version: 1\ndags: [{dag_id: x, exempt: why, mode: weave}]\n" + RULE, "exempt: excludes stages: and mode:"),
        ("version: 1\nvars: {n: .nan}\n" + RULE, "line 2, column 8, vars.n: is no number"),
        ("version: 1\nvars: {n: [1, .inf]}\n" + RULE, "line 2, column 15, vars.n[1]: is no number"),
        ("version: 1\nvars: {n: !!binary aGk=}\n" + RULE, "line 2, column 8, vars.n: is a bytes, and a plan is data"),
    ],
)
def test_a_fault_of_the_form_is_told_with_its_place(text: str, told: str) -> None:
    found = fault(text)
    assert found.startswith("plan.yaml: ")
    assert told in found
    assert found.endswith("See docs/plan.md for the form.")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("version: 1\nversion: 1\n", "plan.yaml, line 2, column 1 is not valid YAML: a key is given twice."),
        ("version: 1\nvars: {a: &x 1, b: *x}\n", "plan.yaml, line 2, column 20 is not valid YAML: aliases are not allowed."),
        ("version: 1\nvars: {1: 2}\n", "plan.yaml, line 2, column 8 is not valid YAML: a key is not text."),
        ("version: [\n", "is not valid YAML: it cannot be parsed."),
        ("version: !!python/object/apply:os.getcwd []\n", "line 1, column 10 is not valid YAML: it cannot be parsed."),
        ("version: 1\n---\nversion: 1\n", "line 2, column 1 is not valid YAML: it cannot be parsed."),
        ("version: " + "9" * 5000, "is not valid YAML: a value cannot be read"),
        ("version: " + "[" * 5000, "is not valid YAML: "),
        (b"\xff\xfe\x00", "plan.yaml"),
        ("", "plan.yaml holds no mapping. It starts with version: 1 and stages:."),
        ("[1]", "plan.yaml holds no mapping."),
    ],
)
def test_what_is_no_yaml_of_a_plan_is_told_too(text: str | bytes, told: str) -> None:
    assert told in fault(text)


def test_of_many_faults_the_first_are_told_and_the_others_counted() -> None:
    found = fault("version: 1\n" + RULE + "".join(f"unknown_{number}: 1\n" for number in range(8)))
    assert found.count("unknown key") == 5
    assert "And 3 more." in found


def test_a_document_may_be_as_deep_as_it_may_be_and_no_deeper() -> None:
    def nested(levels: int) -> str:
        return "version: 1\nvars: {a: " + "[" * levels + "]" * levels + "}\n" + RULE

    assert read(nested(31)).document["version"] == 1
    assert "is nested deeper than 32 levels" in fault(nested(32))


def test_a_plan_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    place = tmp_path / "plan.yaml"
    place.write_text("version: 1\n" + RULE + "# " + "x" * MAX_PLAN_BYTES)
    with pytest.raises(PlanError, match=r"plan\.yaml cannot be read"):
        Plan.load(place)


def test_a_mapping_is_the_same_as_its_yaml() -> None:
    document = {
        "version": 1,
        "name": "ours",
        "mode": "weave",
        "unmatched": "allow",
        "policy": {"fail_on": "high"},
        "vars": {"day": "2026-01-01", "n": 1.5, "deep": {"x": [1, None, True]}},
        "defaults": {"*": {"retries": 2}, "HashVerificationOperator": {"root": "/x"}},
        "sets": {"s": [HASH]},
        "stages": [{"operator": ["Step"], "before": [{"use": "s"}], "after": [HASH | {"id": "x"}], "vars": {"v": 1}}],
        "environments": {"prod": {"mode": "enforce", "stages": [{"task": "b", "exempt": "why", "optional": True}]}},
        "dags": [{"dag_id": "d*", "bundle": "b"}, {"tag": ["t"], "mode": "enforce"}],
    }
    from_yaml = read(yaml.safe_dump(document))
    assert from_yaml.document == Plan.load(document).document == document
    facts = Facts("d1", ["t"], "b")
    one, other = (each.for_dag(facts, environment="prod") for each in (from_yaml, Plan.load(document)))
    assert one is not None
    assert other is not None
    assert one.rules == other.rules
    assert (one.mode, one.vars, one.defaults) == (other.mode, other.vars, other.defaults)


def test_a_day_in_a_mapping_is_its_text_as_in_yaml() -> None:
    assert Plan.load(plan(vars={"day": date(2026, 2, 3)})).document["vars"] == {"day": "2026-02-03"}
    assert read("version: 1\nvars: {day: 2026-02-03}\n" + RULE).document["vars"] == {"day": "2026-02-03"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (math.nan, "vars.x: is no number"),
        (-math.inf, "vars.x: is no number"),
        (print, "vars.x: is a builtin_function_or_method, and a plan is data"),
        (datetime(2026, 1, 1, tzinfo=UTC), "vars.x: is a datetime, and a plan is data"),
        ({1: 2}, "vars.x: has a key that is not text"),
        ({"s"}, "vars.x: is a set, and a plan is data"),
        (b"raw", "vars.x: is a bytes, and a plan is data"),
    ],
)
def test_a_mapping_of_more_than_data_is_refused(value: Any, told: str) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.load(plan(vars={"x": value}))
    assert told in str(caught.value)


def test_a_mapping_that_holds_itself_is_refused() -> None:
    document = plan()
    document["vars"] = {"x": document}
    with pytest.raises(PlanError, match="is nested deeper"):
        Plan.load(document)


def test_a_plan_keeps_nothing_of_the_mapping_that_it_was_read_from() -> None:
    document = plan(vars={"x": [1]})
    read_before = Plan.load(document)
    document["vars"]["x"].append(2)
    assert read_before.document["vars"] == {"x": [1]}


@pytest.mark.parametrize("source", [None, 3, b"plan.yaml", "", "a\0b", ["plan.yaml"]])
def test_what_is_neither_a_path_nor_a_mapping_is_no_plan(source: Any) -> None:
    with pytest.raises(PlanError, match="a plan is no "):
        Plan.load(source)


def test_a_plan_beside_the_dags_file_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("version: 1\n" + RULE)
    dag = new_dag("d")
    dag.fileloc = str(tmp_path / "dag.py")
    with dag:
        Step(task_id="a")
    assert secure(dag, "plan.yaml").added == ("before_a.hash_verification",)
    with pytest.raises(PlanError, match=r"none\.yaml cannot be read: .*does not exist"):
        secure(dag, "none.yaml")


# ---- no value in a message

SECRET = "s3cr3t-c4n4ry"
FULL: dict[str, Any] = {
    "version": 1,
    "name": "ours",
    "mode": "weave",
    "unmatched": "allow",
    "policy": {"fail_on": "high", "waivers": [{"control": "x", "subject": "y", "reason": "z", "until": "2026-01-01"}]},
    "vars": {"v": "x", "w": ["x", {"y": "z"}]},
    "defaults": {"*": {"retries": 2}, "HashVerificationOperator": {"manifest": "/m"}},
    "sets": {"s": [HASH | {"expected": {"f": "x"}}]},
    "stages": [
        {"task": "a", "but_not": ["b"], "before": [{"use": "s"}, HASH | {"id": "x", "workers": 2}], "vars": {"q": "r"}},
        {"operator": "Step", "after": [{"guard": "RBACAssertionOperator", "user": "u"}], "optional": True},
        {"task": "b", "exempt": "a reason", "optional": True},
    ],
    "environments": {"prod": {"mode": "enforce", "vars": {"v": "y"}}},
    "dags": [{"dag_id": "d", "bundle": ["b"]}, {"tag": "t", "mode": "report"}, {"dag_id": "e", "exempt": "toy"}],
}


def leaves(part: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(part, dict | list):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            yield from leaves(value, (*path, key))
    else:
        yield path


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(document)
    at = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return changed


# Names are told: of tasks, guards, sets, DAGs. They stand in no place for a value.
NAMES = {"task", "operator", "tag", "dag_id", "bundle", "guard", "use", "id", "name", "but_not"}


def values(document: Any) -> list[tuple[Any, ...]]:
    return [path for path in leaves(document) if not NAMES.intersection(map(str, path[-2:]))]


@settings(max_examples=120, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_value_of_a_plan_is_in_any_message(data: st.DataObject) -> None:
    broken = FULL
    place = data.draw(st.sampled_from(values(FULL)))
    wrap = data.draw(st.sampled_from((SECRET, [SECRET], {"k": SECRET}, f"${{{'v'}}} {SECRET}", f"{SECRET} ${{nothing}}")))
    broken = replaced(broken, place, wrap)
    how = data.draw(st.sampled_from(("key", "type", "version", "task", "parameter", "nothing", "dag", "environment")))
    if how == "key":
        broken = broken | {"unknown": SECRET}
    elif how == "type":
        broken = replaced(broken, data.draw(st.sampled_from(values(FULL))), {"deep": [SECRET, 1.5]})
    elif how == "version":
        broken = broken | {"version": SECRET}
    elif how == "task":
        broken = replaced(broken, ("stages", 0, "task"), "no_such_task")
    elif how == "parameter":
        broken = replaced(broken, ("stages", 0, "before", 1, "wrkers"), SECRET)
    environment = "prd" if how == "environment" else None
    with new_dag("other" if how == "dag" else "d") as dag:
        Step(task_id="a")
    for source in (broken, yaml.safe_dump(broken)):
        try:
            secure(dag, source if isinstance(source, dict) else read(source), environment=environment)
        except PlanError as error:
            assert SECRET not in str(error), place  # noqa: PT017 - most of them are refused, and some are right


def test_nor_is_what_a_constructor_of_airflows_says() -> None:
    for guard in (WATCH | {"pool_slots": -7}, {"guard": "HashVerificationSensor", "root": "/", "mode": SECRET}):
        told = refused(plan(guard))
        assert SECRET not in told
        assert "-7" not in told
        assert "cannot be made of what the plan gives it" in told or "is not right" in told


# ---- names that there are none of


@pytest.mark.parametrize(
    ("document", "told"),
    [
        (
            plan({"guard": "HashVerificatonOperator"}),
            "there is no guard HashVerificatonOperator. Did you mean HashVerificationOp",
        ),
        (plan({"guard": "zzz"}), "there is no guard zzz. There are ArtifactScanOperator, "),
        (plan({"guard": "no.such.Guard"}), "guard no.such.Guard cannot be imported (ModuleNotFoundError)"),
        (
            plan({"guard": "tests.weaving.Step"}),
            "tests.weaving.Step is no guard. Name a subclass of GuardOperator or GuardSensor",
        ),
        (plan({"guard": "tests.weaving.nothing"}), "tests.weaving.nothing is no guard"),
        (plan(HASH | {"manifst": "x"}), "HashVerificationOperator has no parameter manifst. Did you mean manifest?"),
        (plan(HASH | {"trigger_rule": "all_done"}), "HashVerificationOperator has no parameter trigger_rule. It takes root, "),
        (plan(HASH | {"task_id": "x"}), "has no parameter task_id"),
        (plan(HASH | {"pre_execute": "x"}), "has no parameter pre_execute"),
        (plan({"guard": "HashVerificationOperator"}), "HashVerificationOperator lacks root. Give it."),
        (plan(HASH | {"workers": "4"}), "workers of HashVerificationOperator is not right: "),
        (plan(HASH | {"on_failure": "ignore"}), "on_failure of HashVerificationOperator is not right"),
        (plan(HASH | {"manifest": "${stge}"}), "nothing gives ${stge} a value. Did you mean ${stage}?"),
        (plan(HASH | {"manifest": "${zzz}"}), "nothing gives ${zzz} a value. Give it under vars:."),
        (plan({"use": "chcks"}, sets={"checks": [HASH]}), "there is no set chcks. Did you mean checks?"),
        (plan({"use": "zzz"}), "there is no set zzz. Define it under sets:."),
        (plan(WATCH | {"id": "x"}, HASH | {"id": "x"}), "stage a has two guards of the id x."),
        (plan(WATCH | {"id": "${v}"}, vars={"v": "a b"}), "its id has other characters than Airflow takes, or too many"),
        (plan(WATCH | {"word": {"${v}": 1}}, vars={"v": [1]}), "a key is filled with what is no text"),
        (plan(defaults={"HashVerificatonOperator": {}}), "defaults.HashVerificatonOperator: there is no guard"),
    ],
)
def test_a_name_that_there_is_none_of_is_told_with_the_nearest(document: Any, told: str) -> None:
    assert told in refused(document)


def test_a_guard_a_set_and_a_parameter_are_told_with_line_and_column() -> None:
    text = "version: 1\n" + RULE + "  - guard: HashVerificationOperator\n    rot: x\n"
    with new_dag("d") as dag:
        Step(task_id="a")
    with pytest.raises(PlanError, match=r"plan\.yaml: line 7, column 5, stages\[0\]\.before\[1\]: .*no parameter rot"):
        secure(dag, read(text))


def test_an_environment_that_the_plan_does_not_have_is_told_with_the_nearest() -> None:
    document = plan(environments={"production": {}, "staging": {}})
    assert "plan has no environment prodution. Did you mean production?" in refused(document, environment="prodution")
    assert "plan has no environment zzz. It has production, staging." in refused(document, environment="zzz")
    assert "plan has no environment zzz. It has none." in refused(plan(), environment="zzz")


def test_the_environment_of_this_airflow_counts_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__ENVIRONMENT", " prod ")
    assert "no environment prod." in refused(plan())
    assert "no environment other." in refused(plan(), environment="other")


def test_a_rule_that_means_no_task_is_told_unless_it_is_optional() -> None:
    rule = {"task": "trian", "before": [HASH]}
    document = {"version": 1, "stages": [{"task": "*", "before": [WATCH]}, rule]}
    assert "stages[1]: DAG d has no task trian. Did you mean train?" in refused(document, "train")
    assert "no task of DAG d is meant by trian. It has zzz." in refused(document, "zzz")
    assert [one[0] for one in demands({"version": 1, "stages": [rule | {"optional": True}]}, "zzz")] == []
    many = refused({"version": 1, "stages": [{"operator": "Nothing", "before": [HASH]}]}, *(f"t{number}" for number in range(12)))
    assert "and 4 more. Mend the rule, or say optional: true" in many
