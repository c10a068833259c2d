"""DAGs: what a plan, a pipeline and a picture need to know of Airflow's own objects."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_pipesec.guards.base import Guard, GuardSensor
from airflow_pipesec.guards.evidence import is_guard
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.plan import Facts, Task

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["bundle_of", "data_edges", "facts_of", "pipeline_of", "tasks_of"]

_NOTHING = (str, int, float, bool, type(None))
# What Airflow runs besides, or instead of, the code of a task's class.
_HOOKS = ("_pre_execute_hook", "_post_execute_hook", "pre_execute", "post_execute", "on_execute_callback", "executor_config")
_RUN = ("start_from_trigger", "start_trigger_args", "template_fields")


def bundle_of(file: str) -> str | None:
    """Return the name of the DAG bundle that a file is in, as Airflow is configured here; None where it is in none.

    Of bundles within each other the innermost. Bundles are not opened for it: all but local folders lie under Airflow's storage
    path, by name.
    """
    from airflow.dag_processing.bundles import base
    from airflow.sdk.configuration import conf

    storage: Any = base.get_bundle_storage_root_path
    places = Path(os.path.normpath(file)), Path(file).resolve()  # what goes out of a folder by ".." is not in it
    found: tuple[int, str] | None = None
    for entry in conf.getjson("dag_processor", "dag_bundle_config_list", fallback=[]) or []:
        name, given = str(entry.get("name")), entry.get("kwargs") or {}
        local = str(entry.get("classpath", "")).endswith(".LocalDagBundle")
        place = (given.get("path") or conf.get("core", "dags_folder")) if local else Path(str(storage())) / name
        for folder in {Path(place), Path(place).resolve()}:
            if any(one.is_relative_to(folder) for one in places):
                size = len(folder.parts)
                found = max(found, (size, name)) if found else (size, name)
    return None if found is None else found[1]


def facts_of(dag: DAG, bundle: Callable[[str], str | None] = bundle_of) -> Facts:
    """Return what a plan is told of a DAG; ``bundle`` says which bundle its file is in."""
    return Facts(dag.dag_id, sorted(dag.tags), bundle(dag.fileloc))


def _real_name(cls: type) -> str:
    """The name of a class with its module; empty where it is not found there, whatever it says of itself."""
    found = getattr(sys.modules.get(cls.__module__), cls.__name__, None)
    return f"{cls.__module__}.{cls.__name__}" if found is cls else ""


def tasks_of(dag: DAG, *, strict: bool = False) -> list[Task]:
    """Return what a plan is told of a DAG's tasks, in an order that is the same in every process.

    Guards, and tasks that run nothing, are never meant. Setup and teardown are meant by their own id alone, unless ``strict``:
    then they are meant like others, and so are guards of the author's own making.
    """
    found = []
    for name, task in dag.task_dict.items():
        cls = task.operator_class
        if _runs_nothing(task) or (is_guard(task) and (not strict or (_trusted(cls) and not _runs_more(task)))):
            continue
        named_only = not strict and bool(task.is_setup or task.is_teardown)
        itself = "" if strict and _runs_more(task) else _real_name(cls)
        found.append(Task(name, _names_of(cls), itself, named_only))
    return found


def _trusted(cls: type) -> bool:
    from airflow_pipesec.decorators import GuardDecoratedOperator

    return _real_name(cls).startswith("airflow_pipesec.") and not issubclass(cls, GuardDecoratedOperator)


_NAMES: dict[type, frozenset[str]] = {}


def _names_of(cls: type) -> frozenset[str]:
    if cls not in _NAMES:
        names = {getattr(cls, "custom_operator_name", cls.__name__)}
        for one in cls.__mro__[:-1]:
            names |= {one.__name__, f"{one.__module__}.{one.__name__}"}
        _NAMES[cls] = frozenset(names)
    return _NAMES[cls]


def _runs_nothing(task: Any) -> bool:
    from airflow.providers.standard.operators.empty import EmptyOperator

    # A class that derives from it may do anything, a callback runs, and for an outlet it is sent to a worker.
    return (
        type(task) is EmptyOperator
        and not any(getattr(task, f"on_{when}_callback") for when in ("execute", "success", "failure", "retry", "skipped"))
        and not task.outlets
        and not _runs_more(task)
    )


def _runs_more(task: Any) -> bool:
    """Whether somebody made a task run what its class does not say."""
    cls, own = type(task), vars(task)
    given: Any = getattr(task, "partial_kwargs", own)
    return any(given.get(name) for name in _HOOKS) or any(
        name in _RUN or callable(getattr(cls, name, None)) for name in own if name not in _HOOKS
    )


def pipeline_of(dag: DAG) -> Pipeline:
    """Return the shape of a DAG. Its tasks come in an order in which each follows those upstream of it."""
    tasks = dag.task_dict
    left = {name: len(task.upstream_task_ids) for name, task in tasks.items()}
    ready = [name for name, number in left.items() if not number]
    nodes: dict[str, Node] = {}
    place = {name: number for number, name in enumerate(tasks)}
    for name in ready:  # grows while it is gone through
        nodes[name] = _node(tasks[name])
        for other in sorted(tasks[name].downstream_task_ids, key=place.__getitem__):
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    return Pipeline(dag.dag_id, nodes)


def _node(task: Any) -> Node:
    cls = task.operator_class
    guard = issubclass(cls, Guard)
    if guard:
        kind = Kind.GUARD
    elif task.is_teardown:
        kind = Kind.TEARDOWN
    elif task.is_setup:
        kind = Kind.SETUP
    else:
        kind = Kind.EMPTY if _runs_nothing(task) else Kind.STAGE
    group = task.task_group.group_id if task.task_group is not None else None
    rule = task.trigger_rule
    own: dict[str, Any] = _of_guard(task, cls) if guard else {}
    return Node(
        id=task.task_id,
        upstream=tuple(sorted(task.upstream_task_ids)),
        kind=kind,
        rule=str(getattr(rule, "value", rule)),
        skips=not guard and bool(task.inherits_from_skipmixin),
        operator=getattr(cls, "custom_operator_name", cls.__name__),
        label=task.label,
        group=group,
        **own,
    )


def _of_guard(task: Any, cls: type) -> dict[str, Any]:
    mapped = not isinstance(task, Guard)
    given: dict[str, Any] = task.partial_kwargs if mapped else vars(task)
    on_failure = "mapped" if mapped and _expands(task, "on_failure") else given.get("on_failure", "fail")
    return {
        # An expansion into nothing is skipped; a sensor may be told to skip instead of failing.
        "may_skip": mapped
        or on_failure != "fail"
        or (issubclass(cls, GuardSensor) and any(given.get(name) for name in ("soft_fail", "never_fail"))),
        # What is rendered when the task runs may come to be anything.
        "warns": on_failure not in ("fail", "skip_downstream"),
        "threats": tuple(given.get("threats") or getattr(cls, "threats", None) or ()),
    }


def _expands(task: Any, name: str) -> bool:
    """Whether a parameter of a mapped task comes from its expansion, or may: what an XCom holds is only known in a run."""
    value = task.expand_input.value
    if isinstance(value, Mapping):
        return name in value
    return not isinstance(value, list | tuple) or any(not isinstance(some, Mapping) or name in some for some in value)


def data_edges(task: Any) -> set[str]:
    """Return the ids of the tasks whose results a task is given: as an argument, or by its expansion or its TaskGroup's."""
    found = {operator.task_id for operator in _references(task)}
    for group in _mapped_groups(task):
        found |= {operator.task_id for operator in group.iter_mapped_dependencies()}
    return found


def _references(task: Any) -> Iterator[Any]:
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.sdk.definitions.xcom_arg import XComArg

    if isinstance(task, MappedOperator):
        yield from task.iter_mapped_dependencies()
        given = task.partial_kwargs
        values = [given[name] for name in task.template_fields if name in given]
        values += [given[name] for name in ("op_args", "op_kwargs") if name in given]
    else:
        values = [getattr(task, name, None) for name in task.template_fields]
    for value in values:
        if not isinstance(value, _NOTHING):
            yield from (operator for operator, _ in XComArg.iter_xcom_references(value))


def _mapped_groups(task: Any) -> Iterator[Any]:
    group = task.get_closest_mapped_task_group()
    if group is not None:
        yield group
