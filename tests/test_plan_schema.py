"""The schema of plans: it accepts what is accepted when a plan is read and woven, and refuses what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_pipesec.errors import PlanError
from airflow_pipesec.guards.parameters import checked, guard_class, guard_names, parameters
from airflow_pipesec.plan import Plan
from airflow_pipesec.plan_form import TEXTS, plain
from airflow_pipesec.plan_schema import json_schema
from tests.conftest import PROJECT
from tests.test_docs import plans

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
VERIFY: dict[str, Any] = {"guard": "HashVerificationOperator", "root": "/data"}
RULE: dict[str, Any] = {"task": "train", "before": [VERIFY]}
WAIVER = {"control": "a", "subject": "*", "reason": "so", "approver": "me", "expires": "2027-01-31"}
OF_A_TYPE: dict[str, Any] = {"str": "x", "list": ["x"]}

GOOD: dict[str, dict[str, Any]] = {
    "the smallest": {"stages": [RULE]},
    "names in lists": {
        "stages": [{"task": ["a", "b*"], "operator": ["BashOperator"], "tag": "t", "but_not": "c", "after": [VERIFY]}]
    },
    "exempt": {"stages": [{"task": "a", "exempt": "so"}, {"task": "b", "exempt": "so", "before": [], "after": None}]},
    "a class is exempt": {"stages": [RULE, {"operator": "a.B", "exempt": "so"}, {"operator": ["a.B", "c.D"], "exempt": "so"}]},
    "a name, an id, an own guard": {
        "name": "org",
        "stages": [
            {"task": "a", "before": [VERIFY | {"id": "v_${stage}"}, {"guard": "own.module.Guard", "any": [1], "retries": 3}]}
        ],
    },
    "placeholders": {
        "vars": {"n": 3, "deep": {"a": [1]}, "failing": "warn"},
        "stages": [
            {"task": "a", "before": [VERIFY | {"workers": "${n}", "on_failure": "${failing}", "root": "/${stage}/{{ ds }}"}]}
        ],
    },
    "what is required comes from the defaults": {
        "defaults": {"HashVerificationOperator": {"root": "/x"}, "*": {"retries": 2}, "own.Guard": {"any": 1}},
        "stages": [{"task": "a", "before": [{"guard": "HashVerificationOperator"}]}],
    },
    "the defaults of an environment": {
        "environments": {"e": {"defaults": {"*": {"root": "/x"}}, "mode": "report"}},
        "stages": [{"task": "a", "before": [{"guard": "HashVerificationOperator"}]}],
    },
    "the defaults of an entry": {
        "dags": [{"dag_id": "x", "defaults": {"*": {"root": "/x"}}}],
        "stages": [{"task": "a", "before": [{"guard": "HashVerificationOperator"}]}],
    },
    "sets": {"sets": {"both": [VERIFY, VERIFY], "none": []}, "stages": [{"task": "a", "after": [{"use": "both"}]}]},
    "a policy": {"policy": {"fail_on": "high", "waivers": [WAIVER]}, "stages": [RULE]},
    "a policy in a file": {"policy": "/etc/policy.yaml", "stages": [RULE]},
    "a guard's policy": {
        "stages": [{"task": "a", "before": [VERIFY | {"policy": {"waivers": [WAIVER | {"expires": "${until}"}]}}]}]
    },
    "rules of entries alone": {"unmatched": "allow", "dags": [{"bundle": ["a", "b"], "stages": [RULE]}]},
    "rules of an environment alone": {"environments": {"e": {"stages": [RULE]}}},
    "nothing but an exempt entry": {"dags": [{"bundle": "a", "exempt": "so"}]},
    "an entry by tag": {"stages": [RULE], "dags": [{"tag": "t", "mode": "enforce", "stages": [RULE]}]},
    "nulls": {"name": None, "vars": None, "defaults": None, "sets": None, "dags": None, "environments": None, "stages": [RULE]},
}
BAD: dict[str, dict[str, Any]] = {
    "no version": {"version": None, "stages": [RULE]},
    "another version": {"version": 2, "stages": [RULE]},
    "no stages": {},
    "empty stages": {"stages": []},
    "an unknown key": {"stages": [RULE], "stage": []},
    "an unknown key of a rule": {"stages": [RULE | {"tasks": "a"}]},
    "an unknown key of an environment": {"stages": [RULE], "environments": {"e": {"dags": []}}},
    "an unknown key of an entry": {"stages": [RULE], "dags": [{"dag_id": "a", "unmatched": "allow"}]},
    "an unknown mode": {"stages": [RULE], "mode": "off"},
    "a rule that means nothing": {"stages": [{"before": [VERIFY]}]},
    "a rule without guards": {"stages": [{"task": "a", "before": []}]},
    "exempt with guards": {"stages": [RULE | {"exempt": "so"}]},
    "exempt without a reason": {"stages": [{"task": "a", "exempt": " "}]},
    "an empty task": {"stages": [{"task": "", "before": [VERIFY]}]},
    "no task in the list": {"stages": [{"task": [], "before": [VERIFY]}]},
    "optional as text": {"stages": [RULE | {"optional": "yes"}]},
    "a guard without a name": {"stages": [{"task": "a", "before": [{"root": "/x"}]}]},
    "a set in a set": {"sets": {"s": [{"use": "t"}], "t": [VERIFY]}, "stages": [{"task": "a", "before": [{"use": "s"}]}]},
    "use and more": {"sets": {"s": []}, "stages": [{"task": "a", "before": [{"use": "s", "retries": 1}]}]},
    "use and a guard": {"sets": {"s": []}, "stages": [{"task": "a", "before": [VERIFY | {"use": "s"}]}]},
    "use and an own guard": {"sets": {"s": []}, "stages": [{"task": "a", "before": [{"guard": "a.B", "use": "s"}]}]},
    "an id with a slash": {"stages": [{"task": "a", "before": [VERIFY | {"id": "a/b"}]}]},
    "a name of a variable": {"stages": [RULE], "vars": {"a-b": 1}},
    "a name of a set": {"stages": [RULE], "sets": {"1": []}},
    "a policy that is none": {"stages": [RULE], "policy": {"fail_at": "high"}},
    "no policy": {"stages": [RULE], "policy": None},
    "a waiver without an expiry": {"stages": [RULE], "policy": {"waivers": [{**WAIVER, "expires": ""}]}},
    "unmatched without dags": {"stages": [RULE], "unmatched": "allow"},
    "an entry that means nothing": {"stages": [RULE], "dags": [{"mode": "weave"}]},
    "an exempt entry with rules": {"stages": [RULE], "dags": [{"dag_id": "a", "exempt": "so", "stages": [RULE]}]},
    "an exempt entry with a mode": {"stages": [RULE], "dags": [{"dag_id": "a", "exempt": "so", "mode": "weave"}]},
    **{
        f"by tag {key}": {"stages": [RULE], "dags": [{"tag": "t", "dag_id": "d", key: value}]}
        for key, value in {"policy": "p.yaml", "vars": {}, "defaults": {}, "sets": {}, "exempt": "so"}.items()
    },
    "a rule by tag exempts": {"stages": [RULE, {"task": "a", "tag": "t", "exempt": "so"}]},
    "a rule of an entry by tag exempts": {"stages": [RULE], "dags": [{"tag": "t", "stages": [{"task": "a", "exempt": "so"}]}]},
    "a class without its module is exempt": {"stages": [RULE, {"operator": "BashOperator", "exempt": "so"}]},
    "one of the classes has no module": {"stages": [RULE, {"operator": ["a.B", "B"], "exempt": "so"}]},
}
# What only the guards know: the plan's form lets it through, weaving does not.
BAD_GUARDS: dict[str, dict[str, Any]] = {
    "an unknown guard": {"guard": "HashVerifcationOperator", "root": "/x"},
    "an unknown parameter": VERIFY | {"rot": "/x"},
    "a parameter that is missing": {"guard": "HashVerificationOperator"},
    "a number as text": VERIFY | {"workers": "4"},
    "a base parameter of another type": VERIFY | {"retries": "3"},
    "no such word": VERIFY | {"on_failure": "ignore"},
    "a template where a word has to be": VERIFY | {"on_failure": "{{ params.how }}"},
    "three where two have to be": {"guard": "RBACAssertionOperator", "required_permission": ["GET", "dag", "x"]},
    "a parameter of sensors": VERIFY | {"poke_interval": 30},
}


def faults(document: dict[str, Any]) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(document)]


def guard_fault(item: dict[str, Any]) -> bool:
    try:
        cls = guard_class(item["guard"])
        checked(cls, {name: value for name, value in item.items() if name not in ("guard", "id")})
    except PlanError:
        return True
    return False


def test_it_is_a_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_it_has_every_key_with_its_text_and_every_guard() -> None:
    definitions = SCHEMA["$defs"]
    keys = set(SCHEMA["properties"])
    for name in ("Environment", "Dags", "Stage", "own_guard", "use"):
        keys |= definitions[name]["properties"].keys()
    assert keys >= set(TEXTS)
    for name in guard_names():
        given = definitions[name]["properties"]
        assert given.keys() == {"guard", "id", *parameters(guard_class(name))}
        for one in parameters(guard_class(name)):
            form = definitions[given[one]["$ref"].rpartition("/")[2]]
            assert form["description"][0].isupper() or form["description"][0] in '`"', one
            assert ":" not in form["description"][:1]
            assert "``" not in form["description"]


@pytest.mark.parametrize("document", GOOD.values(), ids=GOOD)
def test_what_the_reader_accepts_it_accepts(document: dict[str, Any]) -> None:
    whole = {"version": 1, **document}
    Plan.load(whole)
    assert faults(whole) == []


@pytest.mark.parametrize("document", BAD.values(), ids=BAD)
def test_what_the_reader_refuses_it_refuses(document: dict[str, Any]) -> None:
    whole = {"version": 1, **document}
    with pytest.raises(PlanError):
        Plan.load(whole)
    assert faults(whole)


@pytest.mark.parametrize("item", BAD_GUARDS.values(), ids=BAD_GUARDS)
def test_guards_are_refused_as_weaving_refuses_them(item: dict[str, Any]) -> None:
    assert guard_fault(item)
    assert faults({"version": 1, "stages": [{"task": "a", "before": [item]}]})
    assert faults({"version": 1, "sets": {"s": [item]}, "stages": [{"task": "a", "before": [{"use": "s"}]}]})
    assert faults({"version": 1, "dags": [{"dag_id": "a", "stages": [{"task": "a", "after": [item]}]}]})


def test_a_fault_is_told_with_its_place() -> None:
    assert faults({"version": 1, "stages": [RULE | {"tusk": "a"}]}) == [
        "$.stages[0]: Additional properties are not allowed ('tusk' was unexpected)"
    ]


def test_defaults_for_what_is_no_guard_are_refused() -> None:
    assert faults({"version": 1, "stages": [RULE], "defaults": {"HashVerifcationOperator": {}}})
    assert faults({"version": 1, "stages": [RULE], "defaults": {"*": {"rot": 1}}})


def test_a_policy_of_a_guard_that_is_none_is_refused() -> None:
    assert faults({"version": 1, "stages": [{"task": "a", "before": [VERIFY | {"policy": {"fail_at": "high"}}]}]})


def every_value() -> Iterator[tuple[str, str, Any]]:
    values = [None, "x", "", 1, 1.5, True, [], ["x"], ["x", "y"], [1], {}, {"x": "y"}, {"x": 1}, "fail", {"waivers": []}]
    for name in guard_names():
        for one in parameters(guard_class(name)):
            yield from ((name, one, value) for value in values)


def test_every_parameter_takes_what_the_guard_takes() -> None:
    """All values that a parameter is given here are taken by both or by neither, but for policies that are none."""
    differing = []
    for name, one, value in every_value():
        own = parameters(guard_class(name))
        required = {each.name: "x" for each in own.values() if each.required}
        item = {"guard": name, **required, one: value}
        refused = bool(faults({"version": 1, "stages": [{"task": "a", "before": [item]}]}))
        if refused != guard_fault(item) and not (one == "policy" and isinstance(value, dict)):
            differing.append((name, one, value))
    assert differing == []


def test_a_placeholder_may_stand_for_every_parameter_alone() -> None:
    for name in guard_names():
        given = dict.fromkeys(parameters(guard_class(name)), "${x}")
        assert faults({"version": 1, "stages": [{"task": "a", "before": [{"guard": name, **given}]}]}) == []
    assert faults({"version": 1, "stages": [{"task": "a", "before": [VERIFY | {"workers": "4${x}"}]}]})


@pytest.mark.parametrize("path", sorted((PROJECT / "dags").glob("*.plan.yaml")), ids=lambda path: path.name)
def test_the_plans_of_the_examples(path: Any) -> None:
    Plan.load(path)
    assert faults(plain(yaml.safe_load(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(("code", "document"), plans())
def test_the_plans_of_the_documents(code: str, document: Any) -> None:
    Plan.read(code.encode(), document.name)
    assert faults(plain(yaml.safe_load(code))) == []
