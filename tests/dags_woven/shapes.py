"""DAGs of several shapes, each as its author wrote it and woven, for tests/integration/test_woven.py.

A stage writes a file. Before it the file that it is to read is verified, after it what it wrote is hashed and signed. The run's
``conf`` says in which folder, what a branch chooses, and which stage is lazy and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TaskGroup, get_current_context, task, task_group

from airflow_pipesec import secure

IN, OUT = "{{ dag_run.conf['data'] }}/in/${stage_name}", "{{ dag_run.conf['data'] }}/out/${stage_name}"
PLAN = {
    "version": 1,
    "stages": [
        {
            "task": "*",
            "before": [{"guard": "HashVerificationOperator", "root": IN, "manifest": f"{IN}.json"}],
            "after": [{"guard": "HashManifestOperator", "root": OUT, "manifest": f"{OUT}.json"}],
            "but_not": "branch",
        }
    ],
}


@task
def stage(*_: Any) -> str:
    context = get_current_context()
    conf, ti = context["dag_run"].conf, context["ti"]
    name = ti.task_id.rpartition(".")[2]
    if conf["lazy"] != name:
        folder = Path(conf["data"], "out", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{ti.map_index}.txt").write_text(name)
    return name


@task.branch
def branch() -> Any:
    return get_current_context()["dag_run"].conf["choose"]


def named(name: str, **more: Any) -> Any:
    return stage.override(task_id=name, **more)


def branch_and_join() -> None:
    x, y = named("x")(), named("y")()
    named("start")() >> branch() >> [x, y]
    named("last")(named("join", trigger_rule="none_failed_min_one_success")(x, y))


def branch_to_a_group() -> None:
    start, other = named("start")(), named("other")()
    with TaskGroup("group") as group:
        named("b")(named("a")())
    start >> branch() >> [group, other]
    [group, other] >> named("join", trigger_rule="none_failed_min_one_success")()


def mapped() -> None:
    @task_group
    def each(number: int) -> None:
        named("second")(named("first")(number))

    numbers = task(_numbers, task_id="numbers")()
    each.expand(number=numbers) >> named("last")(task(_of, task_id="mapped").expand(number=numbers))


def _numbers() -> list[int]:
    stage.function()
    return [1, 2]


def _of(number: int) -> Any:
    return stage.function(number)


def setup_and_teardown() -> None:
    create, work, more, destroy = named("create")().as_setup(), named("work")(), named("more")(), named("destroy")()
    create >> work >> more >> destroy.as_teardown(setups=create)
    more >> named("last")()


def pulls() -> None:
    source = named("source")()
    source >> task(_pull, task_id="reads")("{{ ti.xcom_pull('source') }}")


def _pull(rendered: str) -> str:
    """Fail unless what the stage before the guards returned is there, both ways."""
    pulled = get_current_context()["ti"].xcom_pull(task_ids="source")
    if (rendered, pulled) != ("source", "source"):
        raise ValueError("the XCom of source is another")
    return str(stage.function())


SHAPES: tuple[Callable[[], None], ...] = (branch_and_join, branch_to_a_group, mapped, setup_and_teardown, pulls)
for shape in SHAPES:
    for woven in (False, True):
        dag = DAG(f"{shape.__name__}{'_woven' if woven else ''}", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC))
        with dag:
            shape()
        if woven:
            secure(dag, PLAN)
        globals()[dag.dag_id] = dag
