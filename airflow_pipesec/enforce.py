"""Enforce: a DAG that lacks a guard which a plan demands is refused, and its author is told what to add."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_pipesec import operators, sensors
from airflow_pipesec.dags import pipeline_of
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.parameters import SECONDS, Maker
from airflow_pipesec.pipeline import Pipeline
from airflow_pipesec.plan import Effective
from airflow_pipesec.standing import Post, consumers, faults, holds
from airflow_pipesec.weave import WHEREABOUTS, Place, difference

if TYPE_CHECKING:
    from airflow.sdk import DAG

__all__ = ["objections", "out_of_order", "refusal"]

SHOWN = 50

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


def objections(dag: DAG, places: Sequence[Place], exempt: Mapping[str, str]) -> list[str]:
    """Return what a DAG lacks of what :func:`~airflow_pipesec.weave.demanded` says, each with what to do about it.

    Nothing where it has all of it.

    Guards that the author wrote count as well as woven ones: of the very class that the plan names, with the parameters that the
    plan gives and no others, and standing where they hold.
    """
    dag.check_cycle()
    pipeline = pipeline_of(dag)
    maker = Maker()
    lacking: dict[str, str] = {}
    filled: dict[str, Post] = {}
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
                filled[place.task_id] = post
                break
        else:
            lacking[place.task_id] = near[0].rstrip(".") if near else ""
    found = [*_told(dag, pipeline, places, lacking, filled), *_disordered(pipeline, places, filled)]
    return found + [f"{problem}." for problem in faults(pipeline, filled.values(), exempt)]


def out_of_order(dag: DAG, places: Sequence[Place]) -> Iterator[str]:
    """Yield the guards of a woven DAG that do not follow those that the plan has before them at the same side of a stage."""
    posts = {place.task_id: Post(place.task_id, place.stage, place.before) for place in places}
    return _disordered(pipeline_of(dag), places, posts)


def _disordered(pipeline: Pipeline, places: Sequence[Place], filled: Mapping[str, Post]) -> Iterator[str]:
    last: dict[tuple[str, bool], str] = {}
    for guard, stage, before in (filled[place.task_id] for place in places if place.task_id in filled):
        above = last.get((stage, before), guard)
        if above != guard and above not in pipeline.above(guard):
            yield (
                f"{printable(guard)} does not follow {printable(above)}, which the plan has before it. Add: "
                f"{_task(above)} >> {_task(guard)}"
            )
        last[stage, before] = guard


def _candidates(dag: DAG, place: Place) -> list[Any]:
    """The tasks that could be the guard: of its class, or in its place; the one in its place first."""
    tasks: dict[str, Any] = dag.task_dict
    found = [task for name, task in tasks.items() if type(task) is place.cls and name != place.task_id]
    return [tasks[place.task_id], *found] if place.task_id in tasks else found


def _told(
    dag: DAG, pipeline: Pipeline, places: Sequence[Place], lacking: Mapping[str, str], filled: Mapping[str, Post]
) -> Iterator[str]:
    """Yield what each guard that a DAG lacks is for, and the lines of Python that add it."""
    names = {name: post.guard for name, post in filled.items()}
    taken = {*dag.task_dict, *dag.task_group.used_group_ids}
    for name, stage in ((place.task_id, place.stage) for place in places if place.task_id in lacking):
        wish = re.sub(r"\W", "_", name, flags=re.ASCII)
        numbered = (f"{wish}_{number}" if number > 1 else wish for number in range(1, len(taken) + 2))
        names[name] = next(one for one in numbered if one not in taken)
        taken.add(names[name])
        if group := _mapped(dag, stage):
            names[name] = group.child_id(names[name])
    for place in places:
        if place.task_id not in lacking:
            continue
        chain = [names[one.task_id] for one in places if (one.stage, one.before) == (place.stage, place.before)]
        at = chain.index(names[place.task_id])
        lines = list(_lines(dag, pipeline, place, names[place.task_id], chain[at - 1] if at else None))
        lines += [f"guard >> {_task(one)}" for one in chain[at + 1 : at + 2] if one in dag.task_dict]
        why = lacking[place.task_id]
        said = f"{place.demand.side} stage {printable(place.stage)} there has to be a {place.cls.__name__}."
        yield "\n    ".join((f"{said}{f' ({why}.)' if why else ''} Add:", *lines))


def _lines(dag: DAG, pipeline: Pipeline, place: Place, name: str, above: str | None) -> Iterator[str]:
    """The guard as its author would write it at the end of the file, where the DAG is called dag."""
    cls, stage = place.cls, place.stage
    module = next((one.__name__ for one in (operators, sensors) if getattr(one, cls.__name__, None) is cls), cls.__module__)
    given = {
        name: f"timedelta(seconds={value!r})" if name in SECONDS else repr(value)
        for name, value in place.demand.parameters.items()
    }
    yield f"from {module} import {cls.__name__}"
    if any(name in SECONDS for name in given):
        yield "from datetime import timedelta"
    inside = ""
    if group := _mapped(dag, stage):
        name = name.removeprefix(group.child_id(""))
        inside = f", task_group=dag.task_group_dict[{group.group_id!r}]"
    rule = pipeline.nodes[stage].rule
    if place.before and above is None and rule != "all_success":
        inside += f", trigger_rule={rule!r}"
    arguments = "".join(f", {key}={text}" for key, text in given.items())
    yield f"guard = {cls.__name__}(task_id={name!r}, dag=dag{inside}{arguments})"
    if place.before:
        follows = _waited_for(pipeline, stage) if above is None else [above]
        yield f"{_tasks(follows)}guard >> {_task(stage)}"
    else:
        below = _tasks(consumers(pipeline, stage)).rpartition(" >> ")[0]
        yield f"{_task(above or stage)} >> guard{f' >> {below}' if below else ''}"


def _mapped(dag: DAG, stage: str) -> Any:
    """The mapped TaskGroup that a stage is in, if it is in one: its guard is there, once for each instance."""
    return dag.task_dict[stage].get_closest_mapped_task_group()


def _waited_for(pipeline: Pipeline, stage: str) -> list[str]:
    """What a guard before a stage has to follow: what the stage does, and what a branch does that it follows."""
    found: list[str] = []
    for name in pipeline.nearest_above(stage):
        found += _waited_for(pipeline, name) if pipeline.nodes[name].skips else [name]
    return list(dict.fromkeys(found))


def _tasks(names: Sequence[str]) -> str:
    return f"[{', '.join(map(_task, names))}] >> " if names else ""


def _task(name: str) -> str:
    return f"dag.get_task({name!r})"


def refusal(dag: DAG, plan: Effective, found: Sequence[str], line: str | None) -> str:
    """Return the message to the author of a DAG that lacks something: all of it, and what to add."""
    shown = "\n".join(found[:SHOWN])
    more = f"\nAnd {len(found) - SHOWN} more." if len(found) > SHOWN else ""
    at_once = f"\nOr add all guards that are not there with one line at the end of the file: {line}" if line else ""
    return (
        f"DAG {printable(dag.dag_id)} is not guarded as {plan.plan.where} says. What to add goes to the end of the file; dag is "
        f"this DAG there.\n{shown}{more}{at_once}"
    )
