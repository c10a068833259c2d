"""Undisguised: what a DAG tells a plan of itself is what Airflow will find.

The scheduler reads the edges and the trigger rules out of the DAG as it was written down, and the worker takes the classes of its
tasks. A class that answers for itself, an edge that is noted on one of its sides only or an environment of templates that gives
other values would let a plan see one DAG and Airflow run another. None of it is what honest DAGs do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any

from airflow_pipesec.findings import printable

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["bundle_being_parsed", "disguises", "steered"]

# What a plan goes by, and a task's own class or instance may not answer for.
_OF_TASKS = """task_id upstream_task_ids downstream_task_ids trigger_rule is_setup is_teardown operator_class task_group dag _dag
    label get_dag get_closest_mapped_task_group __class__ __getattribute__ __setattr__ __deepcopy__""".split()  # noqa: SIM905 - words are easier to read than a list
# What of a DAG's class is looked at besides what Airflow's has a name for.
_OF_DAGS = ("__class__", "__getattribute__", "__setattr__", "__deepcopy__")
_TEMPLATE = ("{{", "{%", "{#")


def disguises(dag: DAG) -> Iterator[str]:
    """Yield what of a DAG could be one thing to a plan and another to Airflow."""
    yield from _of_the_dag(dag)
    yield from _of_groups(dag)
    told: set[type] = set()
    for name, task in dag.task_dict.items():
        shown = printable(name)
        cls = type(task)
        if cls not in told:
            told.add(cls)
            if own := _own_answers(cls):
                yield f"the class {printable(cls.__name__)} of {shown} has a {own} of its own. Leave that to Airflow"
        if own := _shadowed(task):
            yield f"{own} of task {shown} was set on the task itself. Leave it to Airflow's class"
        if type(name) is not str or task.task_id != name or type(task.task_id) is not str:
            yield f"task {printable(str(task.task_id))} is filed as {shown}. Add tasks by `with DAG(...)` or add_task()"
        if task.dag is not dag:
            yield f"task {shown} says that it belongs to another DAG. Let it belong to this one"
        yield from _edges(dag, name, task)


def _of_the_dag(dag: DAG) -> Iterator[str]:
    from airflow.sdk import DAG

    ancestors = _ancestors(type(dag))
    fields = {one.name for one in getattr(DAG, "__attrs_attrs__", ())}
    for one in ancestors[: ancestors.index(DAG)]:
        own = sorted(
            name for name in vars(one) if name in fields or name in _OF_DAGS or (hasattr(DAG, name) and not name.startswith("__"))
        )
        if own:
            yield f"the class {printable(one.__name__)} of the DAG has a {own[0]} of its own. Leave that to Airflow's DAG"
    for name in vars(dag):
        if callable(getattr(DAG, name, None)):
            yield f"{printable(name)} of the DAG was set on the DAG itself. Leave it to Airflow's class"
    if type(dag.task_dict) is not dict:
        yield "its task_dict is no dict. Add tasks by `with DAG(...)` or add_task()"


def _of_groups(dag: DAG) -> Iterator[str]:
    waiting: list[Any] = [dag.task_group]
    seen: set[int] = set()
    while waiting:
        group = waiting.pop()
        if id(group) in seen:
            continue
        seen.add(id(group))
        for child in group.children.values():
            if hasattr(child, "children"):
                waiting.append(child)
            elif dag.task_dict.get(child.task_id) is not child:
                yield f"task {printable(str(child.task_id))} is in a TaskGroup and no longer in the DAG. Leave it in both"


def _own_answers(cls: type) -> str | None:
    """The name of what a class answers for itself that a plan goes by."""
    from airflow.sdk import BaseOperator
    from airflow.sdk.bases.decorator import DecoratedMappedOperator
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    if cls in (MappedOperator, DecoratedMappedOperator):
        return None
    if BaseOperator not in _ancestors(cls):
        return "way to be a task"
    for name in _OF_TASKS:
        own, airflows = _found(cls, name), _found(BaseOperator, name)
        # A plain value is no matter where each task has its own, which goes first.
        if own is not airflows and any(hasattr(type(one), "__get__") for one in (own, airflows)):
            return name
    return None


def _ancestors(cls: type) -> tuple[type, ...]:
    found: tuple[type, ...] = type.__dict__["__mro__"].__get__(cls)  # whatever its metaclass says
    return found


def _found(cls: type, name: str) -> Any:
    return next((vars(one)[name] for one in _ancestors(cls) if name in vars(one)), None)


def _shadowed(task: Any) -> str | None:
    return next(
        (name for name in ("get_dag", "get_closest_mapped_task_group", "label") if name in getattr(task, "__dict__", ())), None
    )


def _edges(dag: DAG, name: str, task: Any) -> Iterator[str]:
    """Yield what is odd about the edges of one task and about the rule by which it follows them."""
    from airflow.sdk import TriggerRule

    shown = printable(name)
    if type(task.trigger_rule) not in (TriggerRule, str):
        yield f"the trigger rule of {shown} is a {printable(type(task.trigger_rule).__name__)}. Give one of Airflow's"
    for ids, back in ((task.upstream_task_ids, "downstream_task_ids"), (task.downstream_task_ids, "upstream_task_ids")):
        if type(ids) is not set or any(type(other) is not str for other in ids):
            yield f"the edges of {shown} are no set of task ids. Set them by >>"
        elif any(other not in dag.task_dict or name not in getattr(dag.task_dict[other], back) for other in ids):
            yield f"an edge of {shown} is noted on one of its sides only. Set edges by >>, and remove tasks before there are any"


def steered(dag: DAG, given: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield what of a DAG decides how the templates among guards' parameters are rendered."""
    import jinja2

    texts = [text for one in given for text in _texts(one) if any(mark in text for mark in _TEMPLATE)]
    if not texts:
        return
    if dag.jinja_environment_kwargs:
        yield "its jinja_environment_kwargs would change what the plan's templates come to. Leave them out"
    if dag.template_undefined.__module__ != "jinja2.runtime" or dag.template_undefined is not getattr(
        jinja2, dag.template_undefined.__name__, None
    ):
        yield "its template_undefined would change what the plan's templates come to. Take one of Jinja's"
    filters, names = _used(texts)
    for kind, used, theirs in (("filter", filters, dag.user_defined_filters), ("macro", names, dag.user_defined_macros)):
        for name in sorted(used & set(theirs or ())):
            yield f"its {kind} {printable(name)} would change what the plan's templates come to. Call it something else"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _used(texts: Iterable[str]) -> tuple[set[str], set[str]]:
    """The filters and the names that some templates use. What does not parse fails when the guard runs."""
    from jinja2 import Environment, TemplateSyntaxError, nodes

    parser = Environment()  # noqa: S701 - it parses, and renders nothing
    filters: set[str] = set()
    names: set[str] = set()
    for text in texts:
        try:
            tree = parser.parse(text)
        except TemplateSyntaxError:
            continue
        filters |= {node.name for node in tree.find_all(nodes.Filter)}
        names |= {node.name for node in tree.find_all(nodes.Name)}
    return filters, names


def bundle_being_parsed(fileloc: str) -> str | None:
    """Return the bundle of the file that Airflow is parsing just now; that of ``fileloc`` where it is not parsing one.

    A DAG says itself which file it is from, and its author can let it say another (``__file__``). So Airflow is asked: the call
    that led here.
    """
    from airflow.dag_processing.dagbag import DagBag

    from airflow_pipesec.dags import bundle_of

    parsing = DagBag.process_file.__code__
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is parsing:
            bag = frame.f_locals["self"]
            return bag.bundle_name or bundle_of(str(frame.f_locals["filepath"]))
        frame = frame.f_back
    return bundle_of(fileloc)
