"""Shared by the tests of weaving: DAGs, plans, and what a DAG looks like to Airflow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import DAG, BaseOperator, task

from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.guards.base import GuardOperator, GuardSensor

START = datetime(2026, 1, 1, tzinfo=UTC)
CONTROL = Control("is-good", "It is good", Severity.HIGH, remedy="Make it good.")


class Watch(GuardOperator):
    """A guard of an organisation's own.

    :param passes: whether it does.
    """

    template_fields = ("word", *GuardOperator.template_fields)

    def __init__(self, *, passes: bool = True, word: str = "", things: list[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.passes = passes
        self.word = word
        self.things = things

    def findings(self, context: Any) -> Iterable[Finding]:
        yield Finding(CONTROL, Subject("thing"), Status.PASS if self.passes else Status.FAIL, "was looked at")


class Waits(GuardSensor):
    def findings(self, context: Any) -> Iterable[Finding]:
        yield Finding(CONTROL, Subject("thing"), Status.PASS, "was looked at")


class Step(BaseOperator):
    """A stage that does nothing, or fails, or skips itself."""

    def __init__(self, *, ends: str = "success", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ends = ends

    def execute(self, context: Any) -> None:
        from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

        if self.ends != "success":
            raise (AirflowSkipException if self.ends == "skipped" else AirflowFailException)("as it was told")


@task
def give(value: Any = None) -> Any:
    return value


def new_dag(dag_id: str = "woven", **given: Any) -> DAG:
    return DAG(dag_id, schedule=None, start_date=START, **given)


WATCH = {"guard": "tests.weaving.Watch"}


def plan(*, before: Any = (WATCH,), after: Any = (WATCH,), task: Any = "*", **more: Any) -> dict[str, Any]:
    """A plan with one rule."""
    rule: dict[str, Any] = {"task": task}
    rule |= {"before": list(before)} if before else {}
    rule |= {"after": list(after)} if after else {}
    rule |= {"but_not": more.pop("but_not")} if "but_not" in more else {}
    return {"version": 1, "stages": [rule, *more.pop("stages", ())], **more}


def edges(dag: DAG) -> dict[str, set[str]]:
    """What each task follows; of the guards only the last parts of their names."""
    for name, one in dag.task_dict.items():
        assert all(name in dag.task_dict[other].upstream_task_ids for other in one.downstream_task_ids)
        assert all(name in dag.task_dict[other].downstream_task_ids for other in one.upstream_task_ids)
    return {name: set(one.upstream_task_ids) for name, one in dag.task_dict.items()}


def seen(dag: DAG) -> dict[str, Any]:
    """All that Airflow's other parts learn of a DAG."""
    from airflow.serialization.serialized_objects import DagSerialization

    document: dict[str, Any] = DagSerialization.to_dict(dag)
    return document


def tree(group: Any) -> dict[str, Any]:
    """The TaskGroups with their tasks."""
    return {name: tree(child) if hasattr(child, "children") else "task" for name, child in group.children.items()}


def own(dag: DAG, names: Iterable[str]) -> Mapping[str, Any]:
    """What weaving may not change of tasks."""
    aside = {"upstream_task_ids", "downstream_task_ids", "_needs_expansion"}  # the last is noted when a DAG is written down
    return {name: {key: value for key, value in vars(dag.task_dict[name]).items() if key not in aside} for name in names}
