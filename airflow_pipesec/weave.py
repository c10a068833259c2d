"""Weave: guards stand between the stages of a DAG as a plan demands, and what does not hold is an error.

What was found by running Airflow, and is kept here:

* An edge along which data goes (an XComArg) stays; the guard comes beside it. A mapped task loses its length without it.
* Nothing comes between a branch and what it chooses from: the branch would skip it. The guard before such a task stands beside
  the branch, after what the branch itself follows.
* Setup and teardown stay as they are; a guard comes after the setups of its stage.
* The first guard before a stage has the stage's trigger rule. A stage that would run although its guard did not pass is refused.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from typing import TYPE_CHECKING, Any

from airflow_pipesec.dags import data_edges, facts_of, pipeline_of, tasks_of
from airflow_pipesec.errors import PlanError
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.evidence import is_guard
from airflow_pipesec.guards.parameters import Maker, checked, default_id, demand_guards, guard_class
from airflow_pipesec.plan import Demand, Effective, Plan
from airflow_pipesec.standing import Post, faults

if TYPE_CHECKING:
    from airflow.sdk import DAG, BaseOperator

__all__ = ["Place", "Woven", "demanded", "difference", "environment_here", "put_in", "secure", "told", "weave"]

FAULTS_SHOWN = 5
# As Airflow has it.
_ID = re.compile(r"[\w.-]+")
LONGEST_ID, LONGEST_GROUP = 250, 200
_NOTHING = object()
# What a task may differ in without being another guard: where it stands.
WHEREABOUTS = frozenset(
    """task_id task_group _dag upstream_task_ids downstream_task_ids start_date end_date trigger_rule woven
    _BaseOperator__init_kwargs _BaseOperator__instantiated""".split()  # noqa: SIM905 - words are easier to read than a list
)


@dataclass(frozen=True, slots=True)
class Place:
    """A guard that a plan demands: at which stage, on which side, in which TaskGroup, as which task."""

    demand: Demand
    cls: type[BaseOperator]
    group: str
    task_id: str

    @property
    def stage(self) -> str:
        """The stage's task id."""
        return self.demand.stage

    @property
    def before(self) -> bool:
        """Whether it stands before the stage."""
        return self.demand.side == "before"


@dataclass(frozen=True, slots=True)
class Woven:
    """What became of a DAG: the guards that were added, by id, and the tasks that are exempt, with why."""

    added: tuple[str, ...]
    exempt: Mapping[str, str]


def secure(dag: DAG, plan: str | PathLike[str] | Mapping[str, Any] | Plan, *, environment: str | None = None) -> Woven:
    """Put the guards of a plan between the stages of a DAG.

    Call it at the end of the DAG's file::

        from airflow_pipesec import secure

        secure(dag, "plan.yaml")

    :param dag: the DAG, with all of its tasks and edges.
    :param plan: a YAML file, a mapping, or a :class:`~airflow_pipesec.plan.Plan`. A relative path is looked for beside the DAG's
        file.
    :param environment: the environment of the plan that counts; ``[pipesec] environment`` unless given.

    Data edges, XComs, task ids, setup and teardown of the DAG stay as they are. The same DAG and plan give the same tasks in
    every process, and doing it twice changes nothing. The DAG's ``default_args`` do not reach the guards.

    Raises :class:`~airflow_pipesec.errors.PlanError` where the plan cannot be read, names a task, guard or parameter that is not
    there, or where a stage would run although its guard did not pass. The DAG is then as it was.
    """
    read = Plan.load(plan, beside=os.path.dirname(dag.fileloc))  # noqa: PTH120 - Airflow's file names are text
    effective = read.for_dag(facts_of(dag), environment=environment or environment_here())
    if effective is None:
        raise PlanError(f"{read.where} has no entry for DAG {printable(dag.dag_id)}. Add one under dags:.")
    if effective.exempt:
        return Woven((), {})
    return weave(dag, effective)


def environment_here() -> str | None:
    """Return the environment of plans that this Airflow is (``[pipesec] environment``); None for none."""
    from airflow.sdk.configuration import conf

    value = conf.get("pipesec", "environment", fallback=None)
    return str(value).strip() or None if value is not None else None


def weave(dag: DAG, plan: Effective, *, strict: bool = False) -> Woven:
    """Do what :func:`secure` does with what of a plan applies to the DAG.

    ``strict`` is for a plan that the DAG's author did not write: a setup, a teardown or a guard of the author's own that a glob
    means is then a stage like any other, which only the plan can exempt.
    """
    return put_in(dag, plan, *demanded(dag, plan, strict=strict))


def put_in(dag: DAG, plan: Effective, places: Sequence[Place], exempt: Mapping[str, str]) -> Woven:
    """Add the guards that :func:`demanded` returned and that are not there. Raises as :func:`secure` does."""
    dag.check_cycle()
    maker = Maker()
    missing = []
    for place in places:
        existing = dag.task_dict.get(place.task_id)
        if existing is None:
            missing.append(place)
        elif problem := difference(existing, _made(maker, place), WHEREABOUTS):
            raise PlanError(
                f"task {printable(place.task_id)} of DAG {printable(dag.dag_id)} is not the guard that {plan.plan.where} demands "
                f"there: {problem}. Call the task something else."
            )
    with _Undoable(dag, missing) as undoable:
        _splice(dag, missing, maker, undoable)
        if problems := list(standing_faults(dag, places, exempt)):
            raise PlanError(told(dag, plan, problems))
    _note(dag, plan, missing, exempt)
    return Woven(tuple(place.task_id for place in missing), exempt)


def _note(dag: DAG, plan: Effective, added: Sequence[Place], exempt: Mapping[str, str]) -> None:
    """Write on each guard which plan it is of, and on the first one which stages are exempt: the pages in the UI tell it."""
    # Beside the DAG's file the plan is wherever that is: a bundle may have another folder for each of its versions.
    beside = os.path.dirname(dag.fileloc)  # noqa: PTH120 - Airflow's file names are text
    where = plan.plan.where.replace(f"{beside}/", "", 1) if beside else plan.plan.where
    told = {"plan": where, "name": plan.plan.name, "sha256": plan.plan.sha256, "environment": plan.environment}
    for number, place in enumerate(added):
        guard: Any = dag.task_dict[place.task_id]
        # As text: what Airflow writes down of an object, it does not read back.
        guard.woven = json.dumps(told | ({"exempt": dict(exempt)} if exempt and number == 0 else {}), sort_keys=True)


def standing_faults(dag: DAG, places: Sequence[Place], exempt: Mapping[str, str]) -> Iterator[str]:
    """Yield what does not hold of the guards that a DAG has."""
    return faults(pipeline_of(dag), (Post(place.task_id, place.stage, place.before) for place in places), exempt)


def told(dag: DAG, plan: Effective, problems: Sequence[str]) -> str:
    """Return the message about what is wrong with a DAG."""
    shown = " ".join(f"{problem}." for problem in problems[:FAULTS_SHOWN])
    more = f" And {len(problems) - FAULTS_SHOWN} more." if len(problems) > FAULTS_SHOWN else ""
    return f"DAG {printable(dag.dag_id)} cannot be guarded as {plan.plan.where} says: {shown}{more}"


def demanded(dag: DAG, plan: Effective, *, strict: bool = False) -> tuple[list[Place], dict[str, str]]:
    """Return the guards that a plan demands of a DAG, and the tasks that are exempt, with why.

    Raises :class:`PlanError` for a guard, a parameter or a task that is not there, or cannot have a guard.
    """
    demand_guards(plan.plan)
    demands, exempt = plan.demands(tasks_of(dag, strict=strict))
    used: set[str] = set()
    places = []
    for demand in demands:
        stage = dag.task_dict[demand.stage]
        try:
            _demand_a_place(stage, demand)
            cls = guard_class(demand.spec.guard)
            given = _fitting(cls, demand.parameters)
            checked(cls, given)
        except PlanError as error:
            raise plan.plan.fault(demand.spec.path, f"{demand.side} stage {printable(demand.stage)}: {error}") from None
        prefix = f"{plan.plan.name}_" if plan.plan.name else ""
        parent: Any = stage.task_group or dag.task_group
        # Not Airflow's label, which may be a sentence for people. A group's own part of its id has no dot, though a task's may.
        own = demand.stage.removeprefix(parent.child_id("")).replace(".", "-")
        group = parent.child_id(f"{prefix}{demand.side}_{own}")
        task_id = f"{group}.{demand.id or default_id(cls)}"
        if not _ID.fullmatch(task_id) or len(group) > LONGEST_GROUP or len(task_id) > LONGEST_ID:
            raise plan.plan.fault(
                demand.spec.path,
                f"{demand.side} stage {printable(demand.stage)}: its id has other characters than Airflow takes, or too many. "
                "Give it an id: that is a short word.",
            )
        if task_id in used:
            if demand.id:
                raise plan.plan.fault(demand.spec.path, f"stage {printable(demand.stage)} has two guards of the id {demand.id}.")
            task_id = next(name for number in range(2, 1000) if (name := f"{task_id}_{number}") not in used)
        used.add(task_id)
        places.append(Place(Demand(demand.stage, demand.side, demand.spec, demand.id, given), cls, group, task_id))
    return places, exempt


def _demand_a_place(stage: Any, demand: Demand) -> None:
    """Raise where a task can have no guard on that side."""
    if stage.is_teardown or stage.is_setup:
        kind = "teardown" if stage.is_teardown else "setup"
        raise PlanError(
            f"it is a {kind}, which stays as it is. Guard the stages, and say exempt: with the reason for the {kind}."
        )
    if demand.side == "after" and stage.inherits_from_skipmixin:
        raise PlanError(
            "it chooses which of the tasks after it run, and would skip a guard. Guard what comes after, or before it; but_not: "
            "takes it out of the rule."
        )


def _fitting(cls: type[BaseOperator], given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters, with those waivers of the policy that the guard takes at all."""
    only = getattr(cls, "waivable", None)
    policy = given.get("policy")
    if only is None or not isinstance(policy, Mapping) or not policy.get("waivers"):
        return given
    waivers = [waiver for waiver in policy["waivers"] if waiver.get("control") == only]
    return {**given, "policy": {**policy, "waivers": waivers}}


def _made(maker: Maker, place: Place) -> BaseOperator:
    return maker.made(place.cls, place.task_id, place.demand.parameters)


def difference(task: Any, wanted: BaseOperator, aside: Collection[str]) -> str:
    """Say how a task differs from a guard, some attributes aside; empty where it does not. No value is told, only names."""
    if type(task) is not type(wanted):
        return f"it is a {type(task).__name__}, not the {type(wanted).__name__} of {type(wanted).__module__}"
    ours, theirs = vars(wanted), vars(task)
    names = (ours.keys() | theirs.keys()).difference(aside)
    differing = [name for name in names if not _same(ours.get(name, _NOTHING), theirs.get(name, _NOTHING))]
    for name in sorted(differing):
        # Airflow notes this one when it writes a DAG down.
        if name == "_needs_expansion" and theirs.get(name) is (task.get_closest_mapped_task_group() is not None):
            continue
        if name in ours and name in theirs:
            return f"its {name.lstrip('_')} is another"
        return f"its {name.lstrip('_')} was set" if name in theirs else f"its {name.lstrip('_')} is missing"
    return ""


def _same(one: Any, other: Any) -> bool:
    """Whether two values are the same. The other's class is not asked: it could say what it likes."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return len(one) == len(other) and all(type(key) is str and key in one and _same(one[key], other[key]) for key in other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, set | frozenset):
        return all(type(item) is str for item in other) and one == other
    return bool(one == other)


class _Undoable:
    """Leaves a DAG as it was when what is done to it fails."""

    def __init__(self, dag: DAG, missing: Sequence[Place]) -> None:
        self.dag = dag
        self.missing = missing
        self.edges: dict[str, tuple[set[str], set[str]]] = {}
        self.groups: list[Any] = []
        self.led: list[tuple[set[str], str, str]] = []

    def __enter__(self) -> _Undoable:
        return self

    def touch(self, task_id: str) -> None:
        if task_id not in self.edges:
            task = self.dag.task_dict[task_id]
            self.edges[task_id] = set(task.upstream_task_ids), set(task.downstream_task_ids)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for ids, old, new in reversed(self.led):
            ids.discard(new)
            ids.add(old)
        for place in self.missing:
            guard: Any = self.dag.task_dict.pop(place.task_id, None)
            if guard is not None:
                guard.task_group.children.pop(place.task_id, None)
                self.dag.task_group.used_group_ids.discard(place.task_id)
        for group in self.groups:
            group.parent_group.children.pop(group.group_id, None)
            group.used_group_ids.difference_update((group.group_id, group.upstream_join_id, group.downstream_join_id))
        for task_id, (upstream, downstream) in self.edges.items():
            if task_id in self.dag.task_dict:
                task = self.dag.task_dict[task_id]
                task.upstream_task_ids, task.downstream_task_ids = upstream, downstream


class _Edges:
    """The edges of a DAG, changed on both of their sides."""

    def __init__(self, dag: DAG, undoable: _Undoable) -> None:
        self.tasks: dict[str, Any] = dag.task_dict
        self.undoable = undoable

    def add(self, above: str, below: str) -> None:
        self.undoable.touch(above)
        self.undoable.touch(below)
        self.tasks[above].downstream_task_ids.add(below)
        self.tasks[below].upstream_task_ids.add(above)

    def remove(self, above: str, below: str) -> None:
        self.undoable.touch(above)
        self.undoable.touch(below)
        self.tasks[above].downstream_task_ids.discard(below)
        self.tasks[below].upstream_task_ids.discard(above)

    def lead_group(self, task_id: str, other: str, instead: str, *, upstream: bool) -> None:
        """Let the groups around a task, which Airflow draws edges for as a whole, lead to the guard instead of another task."""
        theirs = {group.group_id for group in _groups_around(self.tasks[other])}
        for group in _groups_around(self.tasks[task_id]):
            ids = group.upstream_task_ids if upstream else group.downstream_task_ids
            if group.group_id not in theirs and other in ids and instead not in ids:
                ids.discard(other)
                ids.add(instead)
                self.undoable.led.append((ids, other, instead))


def _groups_around(task: Any) -> Iterator[Any]:
    group = task.task_group
    while group is not None and not group.is_root:
        yield group
        group = group.parent_group


def _splice(dag: DAG, missing: Sequence[Place], maker: Maker, undoable: _Undoable) -> None:
    """Add the guards that are missing, and lead the edges through them."""
    if not missing:
        return
    edges = _Edges(dag, undoable)
    chains: dict[tuple[str, bool], list[Place]] = {}
    for place in missing:
        chains.setdefault((place.stage, place.before), []).append(place)
    for places in chains.values():
        _add(dag, places, maker, undoable)
        for one, next_one in pairwise(places):
            edges.add(one.task_id, next_one.task_id)
    for (stage, before), places in chains.items():
        if not before:
            _after(dag, edges, stage, places[0].task_id, places[-1].task_id)
    # What each task followed before the guards before it came: where those stand does not depend on the order of this loop.
    upstream = {name: frozenset(task.upstream_task_ids) for name, task in dag.task_dict.items()}
    for (stage, before), places in chains.items():
        if before:
            _before(dag, edges, stage, places[0].task_id, places[-1].task_id, upstream)


def _add(dag: DAG, places: Sequence[Place], maker: Maker, undoable: _Undoable) -> None:
    """Add the guards of one side of a stage to the DAG, in a TaskGroup of their own beside the stage."""
    from airflow.sdk import TaskGroup

    first = places[0]
    stage: Any = dag.task_dict[first.stage]
    parent: Any = stage.task_group or dag.task_group
    group: Any = parent.children.get(first.group)
    if type(group) is not TaskGroup:
        if first.group in dag.task_group.used_group_ids:
            raise PlanError(
                f"DAG {printable(dag.dag_id)} has {printable(first.group)} already, where guards of {printable(first.stage)} "
                "would stand. Call it something else, or give the plan a name:."
            )
        group = TaskGroup(
            first.group.removeprefix(parent.child_id("")),
            group_display_name=f"{first.demand.side} {stage.label}",
            tooltip=f"guards {first.demand.side} {stage.label}",
            dag=dag,
            parent_group=parent,
            ui_color="#d8e8f0",
            ui_fgcolor="#102a43",
        )
        undoable.groups.append(group)
    for place in places:
        guard = _made(maker, place)
        if place is first and place.before and stage.trigger_rule != guard.trigger_rule:
            guard.trigger_rule = stage.trigger_rule
        group.add(guard)
        dag.add_task(guard)


def _after(dag: DAG, edges: _Edges, stage: str, first: str, last: str) -> None:
    """Lead what follows a stage through guards: first and last are the ends of their chain."""
    for name in sorted(dag.task_dict[stage].downstream_task_ids):
        follower: Any = dag.task_dict[name]
        edges.add(last, name)
        if not follower.is_setup and not follower.is_teardown and stage not in data_edges(follower):
            edges.remove(stage, name)
            edges.lead_group(name, stage, last, upstream=True)
    edges.add(stage, first)


def _before(dag: DAG, edges: _Edges, stage: str, first: str, last: str, upstream: Mapping[str, frozenset[str]]) -> None:
    """Lead what a stage follows through guards."""
    task: Any = dag.task_dict[stage]
    data = data_edges(task)
    # A stage that is waited for by way of the guards after it needs no second edge, except to count the mapped.
    waited = set() if task.get_closest_mapped_task_group() else _behind_guards(dag, upstream, upstream[stage])
    for name in sorted(upstream[stage]):
        above: Any = dag.task_dict[name]
        if _chooses(above):
            for beside in sorted(_beside(dag, name, upstream)):
                edges.add(beside, first)
            continue
        if name not in waited:
            edges.add(name, first)
        if not above.is_setup and not above.is_teardown and name not in data:
            edges.remove(name, stage)
            edges.lead_group(name, stage, first, upstream=False)
    edges.add(last, stage)


def _behind_guards(dag: DAG, upstream: Mapping[str, frozenset[str]], names: Collection[str]) -> set[str]:
    """The tasks that are no guards and are followed by the guards among some tasks."""
    found: set[str] = set()
    waiting = [name for name in names if is_guard(dag.task_dict[name])]
    while waiting:
        for name in upstream[waiting.pop()]:
            if is_guard(dag.task_dict[name]):
                waiting.append(name)
            else:
                found.add(name)
    return found


def _chooses(task: Any) -> bool:
    """Whether a task may skip what follows it by name: a branch, a short circuit. A guard does so only to stop everything."""
    return bool(task.inherits_from_skipmixin) and not is_guard(task)


def _beside(dag: DAG, branch: str, upstream: Mapping[str, frozenset[str]]) -> set[str]:
    """What a branch follows, and, where that is a branch as well, what that one follows."""
    found, seen, waiting = set(), set(), [branch]
    while waiting:
        for name in upstream[waiting.pop()]:
            if name in seen:
                continue
            seen.add(name)
            if _chooses(dag.task_dict[name]):
                waiting.append(name)
            else:
                found.add(name)
    return found
