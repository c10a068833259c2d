"""Enforce: a DAG that lacks a guard which a plan demands is refused, and its author is told what to add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow_pipesec.dags import pipeline_of
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.parameters import Maker
from airflow_pipesec.plan import Effective
from airflow_pipesec.standing import Post, faults, holds
from airflow_pipesec.weave import WHEREABOUTS, Place, demanded, difference

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["objections"]

# A guard that an author wrote may also differ in when and how often it runs, what it is called and shown as, and who is told: in
# nothing that decides what is looked at, by what code, or what follows from it.
OPERATION = WHEREABOUTS | frozenset(
    """_task_display_name params owner email email_on_failure email_on_retry queue pool pool_slots priority_weight weight_rule
    retries retry_delay retry_exponential_backoff max_retry_delay execution_timeout resources
    depends_on_past ignore_first_depends_on_past wait_for_past_depends_before_skipping wait_for_downstream
    max_active_tis_per_dag max_active_tis_per_dagrun doc doc_md doc_json doc_rst doc_yaml _logger_name
    poke_interval timeout exponential_backoff max_wait mode
    on_failure_callback on_retry_callback on_skipped_callback on_success_callback""".split()  # noqa: SIM905 - as in weave
)


def objections(dag: DAG, plan: Effective) -> list[str]:
    """Return what a DAG lacks of what a plan demands, each with what to do about it; nothing where it has all of it.

    Guards that the author wrote count as well as woven ones: of the very class that the plan names, with the parameters that the
    plan gives and no others, and standing where they hold.
    """
    dag.check_cycle()
    places, exempt = demanded(dag, plan, strict=True)
    pipeline = pipeline_of(dag)
    maker = Maker()
    found: list[str] = []
    posts: list[Post] = []
    for place in places:
        wanted = maker.made(place.cls, place.task_id, place.demand.parameters)
        aside = OPERATION - place.demand.parameters.keys()
        near: list[str] = []
        for task in _candidates(dag, place):
            post = Post(task.task_id, place.stage, place.before)
            if differs := difference(task, wanted, aside):
                near.append(f"{printable(task.task_id)} is not it: {differs}")
            elif not pipeline.nodes[task.task_id].warns and (problem := holds(pipeline, post, exempt)):
                near.append(problem)
            else:
                posts.append(post)
                break
        else:
            found.append(_lacking(place, near))
    return found + [f"{problem}." for problem in faults(pipeline, posts, exempt)]


def _candidates(dag: DAG, place: Place) -> list[Any]:
    """The tasks that could be the guard: of its class, or in its place; the one in its place first."""
    tasks: dict[str, Any] = dag.task_dict
    found = [task for name, task in tasks.items() if type(task) is place.cls and name != place.task_id]
    return [tasks[place.task_id], *found] if place.task_id in tasks else found


def _lacking(place: Place, near: Sequence[str]) -> str:
    why = f" ({near[0].rstrip('.')}.)" if near else ""
    return f"{place.demand.side} stage {printable(place.stage)} there has to be a {place.cls.__name__}.{why} Add: {_code(place)}"


def _code(place: Place) -> str:
    """The guard as an author writes it."""
    given = "".join(f", {name}={value!r}" for name, value in place.demand.parameters.items())
    guard = f"{place.cls.__name__}(task_id={place.task_id.rpartition('.')[2]!r}{given})"
    stage = printable(place.stage)
    if place.before:
        return f"guard = {guard}, with what comes before {stage} >> guard >> {stage}"
    return f"guard = {guard}, with {stage} >> guard >> what comes after {stage}"
