"""docs/plan.md and the schema beside it are what the form and the guards say now, and their examples work."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

from airflow.sdk import DAG
from jsonschema import Draft202012Validator

from airflow_pipesec import secure
from airflow_pipesec.guards.parameters import checked, guard_class, guard_names, parameters
from airflow_pipesec.plan import Plan
from airflow_pipesec.plan_form import TEXTS
from airflow_pipesec.provider import get_provider_info
from tests.conftest import PROJECT
from tests.make_plan_reference import PAGE, SCHEMA, page, schema_text
from tests.runner import RunTask

HOW = "is stale: python -m tests.make_plan_reference writes it"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), f"docs/plan.md {HOW}"


def test_the_schema_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), f"docs/plan.schema.json {HOW}"
    Draft202012Validator.check_schema(json.loads(schema_text()))


def test_it_has_every_key_guard_parameter_and_option() -> None:
    text = page()
    for key in TEXTS:
        assert f"\n| `{key}` | " in text
    for name in guard_names():
        assert name in text
        for one in parameters(guard_class(name)):
            assert f"\n| `{one}` | " in text
    for option in get_provider_info()["config"]["pipesec"]["options"]:
        assert not option.startswith(("plan", "environment")) or f"\n| `{option}` | " in text


def test_every_example_is_a_plan_with_guards_that_take_their_parameters() -> None:
    assert len(EXAMPLES) > 2
    for code in EXAMPLES:
        plan = Plan.read(code.encode(), "example")
        for spec in plan.specs:
            given = {name: value for name, value in spec.parameters.items() if value != "${strict}"}
            cls = guard_class(spec.guard)
            filled = {name: "x" for name, one in parameters(cls).items() if one.required}
            checked(cls, filled | given)


def test_the_first_plan_makes_of_its_dag_what_the_page_shows(tmp_path: Path) -> None:
    text = page()
    (tmp_path / "plan.yaml").write_text(EXAMPLES[0], encoding="utf-8")
    (tmp_path / "example.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0], encoding="utf-8")
    dag = loaded(tmp_path / "example.py")
    shown = re.findall(r"```text\n(.*?)\n```", text)[0].split(" >> ")
    order = [task.task_id for task in dag.topological_sort()]
    assert order == shown
    assert [sorted(dag.get_task(name).upstream_task_ids) for name in order] == [[], *([name] for name in shown[:-1])]
    assert len(EXAMPLES[0].splitlines()) <= 15


def test_the_first_plan_works(tmp_path: Path, run_task: RunTask) -> None:
    """The stage after which a manifest is recorded, and the one before which it is verified, have only what was there between."""
    raw = tmp_path / "data" / "raw"
    (tmp_path / "plan.yaml").write_text(EXAMPLES[0].replace("/srv/training", str(tmp_path / "data")), encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page(), re.DOTALL)[0]
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    dag = loaded(tmp_path / "example.py")
    raw.mkdir(parents=True)
    (raw / "records.csv").write_text("a\n1\n", encoding="utf-8")
    assert run_task(dag.get_task("after_collect.hash_manifest")).state == "success"
    assert run_task(dag.get_task("before_train.hash_verification")).state == "success"
    (raw / "records.csv").write_text("a\n2\n", encoding="utf-8")
    assert run_task(dag.get_task("before_train.hash_verification")).state == "failed"


def test_the_second_plan_is_woven_in_each_environment() -> None:
    for environment, root in {"": "s3://ml@training/{{ run_id }}/raw", "development": "/tmp/training/raw"}.items():
        with DAG("d", schedule=None) as dag:
            chain("train", "evaluate", "publish")
        woven = secure(dag, Plan.read(EXAMPLES[1].encode(), "example"), environment=environment or None)
        assert woven.added == (
            "before_train.hash_verification",
            "before_evaluate.hash_verification",
            "before_publish.encryption_at_rest",
            "before_publish.release_gate",
        )
        assert dag.get_task("before_train.hash_verification").root == root
        assert dag.get_task("before_publish.encryption_at_rest").trust_device is True


def test_the_errors_that_it_lists_are_in_the_code() -> None:
    """Not by their line, but word for word."""
    code = "".join(path.read_text(encoding="utf-8") for path in sorted((PROJECT / "airflow_pipesec").glob("*.py")))
    code = re.sub(r'"\s*\n\s*f?"', "", code)
    listed = re.findall(r"^\| `([^`]+)` \|", page().partition("| error | remedy |")[2].partition("\n\n")[0], re.MULTILINE)
    assert len(listed) > 8
    for error in listed:
        for part in error.split(" … "):
            assert part in code, error


def chain(*names: str) -> None:
    from airflow.providers.standard.operators.bash import BashOperator

    for above, below in pairwise([BashOperator(task_id=name, bash_command="true") for name in names]):
        above >> below


def loaded(path: Path) -> DAG:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(path.parent, bundle_path=path.parent)
    assert not bag.import_errors
    (found,) = bag.dags.values()
    return found
