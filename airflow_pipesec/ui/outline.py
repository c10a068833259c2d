"""Outlines: what the serialized DAG in Airflow's database tells of a DAG's stages and guards. No code of the DAG is run for it.

It tells less than the DAG itself: the parameters of a mapped guard's class are not in it, nor which stages a plan exempts where
that plan wove in no guard.
"""

from __future__ import annotations

import importlib
import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from airflow_pipesec.coverage import Coverage, coverage
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.threats import catalogue

__all__ = ["EVIDENCE_LINK_KEY", "GuardOutline", "Outline", "outline_of"]

EVIDENCE_LINK_KEY = "_link_pipesec_evidence"  # under which a guard's link is stored; nothing but a guard has it
EMPTY = ("airflow.providers.standard.operators.empty", "EmptyOperator")
# What a task that runs nothing does not have.
RUNS_MORE = ("_is_mapped", "outlets", "executor_config", "_pre_execute_hook", "_post_execute_hook")


@dataclass(frozen=True, slots=True)
class GuardOutline:
    """A guard as its DAG's author wrote it: nothing is rendered. ``woven`` is what the plan that put it there noted."""

    id: str
    operator: str
    on_failure: str
    policy: Any
    mapped: bool
    woven: Mapping[str, Any] | None


@dataclass(frozen=True)
class Outline:
    """A DAG: its pipeline, its guards by id, its tags, and the stages that a plan exempts, with why."""

    pipeline: Pipeline
    guards: Mapping[str, GuardOutline]
    tags: tuple[str, ...]
    exempt: Mapping[str, str]
    mapped_groups: Mapping[str, str]
    """The mapped TaskGroup that a task is in, by task."""

    @property
    def dag_id(self) -> str:
        """The id of the DAG."""
        return self.pipeline.dag_id

    @cached_property
    def coverage(self) -> Coverage:
        """Which stages are guarded, and against what."""
        return coverage(self.pipeline, self.exempt)

    @cached_property
    def answers(self) -> Mapping[str, int]:
        """At how many of the stages that need a guard each threat is answered."""
        found = Counter(name for stage in self.coverage.counted for name in stage.threats)
        return {name: found[name] for name in catalogue()}

    @cached_property
    def edges(self) -> Mapping[str, Mapping[str, bool]]:
        """For each guard those that it follows directly, and whether only the one with the same map index."""
        return {name: {other: self._along(other, name) for other in self._nearest(name)} for name in self.guards}

    def _nearest(self, name: str) -> list[str]:
        return self.pipeline.nearest_above(name, lambda node: node.kind is not Kind.GUARD)

    def _along(self, one: str, other: str) -> bool:
        group = self.mapped_groups.get(one)
        mapped = self.guards[one].mapped or self.guards[other].mapped
        return group is not None and group == self.mapped_groups.get(other) and not mapped


def outline_of(data: Mapping[str, Any]) -> Outline:
    """Read a serialized DAG. Raises KeyError, TypeError, ValueError or AttributeError for what is none."""
    dag = data["dag"]
    defaults = (data.get("client_defaults") or {}).get("tasks") or {}
    tasks = {task["task_id"]: {**defaults, **task} for task in (item["__var"] for item in dag["tasks"])}
    if not all(isinstance(name, str) for name in tasks):
        raise TypeError("a task's id is no text")
    upstream: dict[str, list[str]] = {name: [] for name in tasks}
    for name, task in tasks.items():
        for other in task.get("downstream_task_ids") or ():
            upstream[other].append(name)
    places = dict(_places(dag["task_group"], None, ""))
    nodes = {name: _node(task, sorted(upstream[name]), places.get(name, _Place())) for name, task in tasks.items()}
    guards = {name: _guard(task) for name, task in tasks.items() if nodes[name].kind is Kind.GUARD}
    exempt: dict[str, str] = {}
    for guard in guards.values():
        noted = (guard.woven or {}).get("exempt")
        exempt |= {str(stage): str(why) for stage, why in noted.items()} if isinstance(noted, dict) else {}
    return Outline(
        pipeline=Pipeline(str(dag["dag_id"]), _in_order(nodes)),
        guards=guards,
        tags=tuple(map(str, dag.get("tags") or ())),
        exempt=exempt,
        mapped_groups={name: place.mapped for name, place in places.items() if place.mapped is not None},
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a task stands: its TaskGroup, what of its id comes from that, and the nearest one that is mapped."""

    group: str | None = None
    prefix: str = ""
    mapped: str | None = None


def _places(group: Mapping[str, Any], mapped: str | None, prefix: str) -> Iterator[tuple[str, _Place]]:
    local = group.get("_group_id")  # without what the groups around it put before it
    own = f"{prefix}{local}" if local else None
    mapped = own if group.get("is_mapped") else mapped
    prefix = f"{own}." if own and group.get("prefix_group_id", True) else ""
    for name, (kind, child) in group["children"].items():
        if kind == "operator":
            yield name, _Place(own, prefix, mapped)
        else:
            yield from _places(child, mapped, prefix)


def _in_order(nodes: Mapping[str, Node]) -> dict[str, Node]:
    """Put tasks into an order in which each comes after those upstream of it. Raises ValueError for a circle."""
    left = {name: len(node.upstream) for name, node in nodes.items()}
    below: dict[str, list[str]] = {name: [] for name in nodes}
    for name, node in nodes.items():
        for other in node.upstream:
            below[other].append(name)
    ready = [name for name, number in left.items() if not number]
    for name in ready:  # grows while it is gone through
        for other in below[name]:
            left[other] -= 1
            if not left[other]:
                ready.append(other)
    if len(ready) != len(nodes):
        raise ValueError("the tasks follow each other in a circle")
    return {name: nodes[name] for name in ready}


def _given(task: Mapping[str, Any], name: str) -> Any:
    """The value of a parameter. Those of a mapped task stand apart."""
    partial = (task.get("partial_kwargs") or {}) if task.get("_is_mapped") else {}
    return partial[name] if name in partial else task.get(name)


def _on_failure(task: Mapping[str, Any]) -> str:
    """What a guard does when it does not pass. One that is mapped over that may do anything."""
    expansion = task.get("expand_input") or {}
    raw = expansion.get("value")
    some_of = _plain(raw) if isinstance(raw, list) else [_plain(raw)]
    # What an XCom holds is only known in a run.
    unknown = expansion.get("type") == "list-of-dicts" and not isinstance(raw, list)
    if unknown or any(not isinstance(some, dict) or "on_failure" in some for some in some_of if some is not None):
        return "mapped"
    return str(_given(task, "on_failure") or "fail")


def _is_guard(task: Mapping[str, Any]) -> bool:
    """Whether a task has a guard's link, and what else a guard brings: somebody may have given the link to another task."""
    links = task.get("_operator_extra_links") or {}
    brings = bool(task.get("_can_skip_downstream")) and ("threats" in task or bool(task.get("_is_mapped")))
    return EVIDENCE_LINK_KEY in links.values() and brings


def _node(task: Mapping[str, Any], upstream: Collection[str], place: _Place) -> Node:
    name = str(task["task_id"])
    guard = _is_guard(task)
    plain_empty = not any(task.get(key) for key in task if key in RUNS_MORE or key.startswith("has_on_"))
    if guard:
        kind = Kind.GUARD
    elif _given(task, "is_teardown"):
        kind = Kind.TEARDOWN
    elif _given(task, "is_setup"):
        kind = Kind.SETUP
    else:
        kind = Kind.EMPTY if (task.get("_task_module"), task.get("task_type")) == EMPTY and plain_empty else Kind.STAGE
    on_failure = _on_failure(task)
    softened = any(_given(task, flag) for flag in ("soft_fail", "never_fail"))
    return Node(
        id=name,
        upstream=tuple(upstream),
        kind=kind,
        rule=str(_given(task, "trigger_rule") or "all_success"),
        skips=not guard and bool(task.get("_can_skip_downstream")),
        may_skip=guard and bool(task.get("_is_mapped") or on_failure != "fail" or softened),
        warns=guard and on_failure not in ("fail", "skip_downstream"),
        threats=_threats(task) if guard else (),
        operator=str(task.get("_operator_name") or task.get("task_type") or ""),
        label=_label(task, name, place),
        group=place.group,
    )


def _label(task: Mapping[str, Any], name: str, place: _Place) -> str:
    shown = _given(task, "task_display_name") if task.get("_is_mapped") else task.get("_task_display_name")
    return str(shown) if shown and shown != name else name.removeprefix(place.prefix)


def _threats(task: Mapping[str, Any]) -> tuple[str, ...]:
    """What a guard answers. Of a mapped one only this package's classes are known; another might be anybody's code."""
    told = _plain(_given(task, "threats"))
    module = str(task.get("_task_module") or "")
    if not told and task.get("_is_mapped") and module.startswith("airflow_pipesec."):
        with suppress(ImportError):  # of another version of this package
            told = getattr(getattr(importlib.import_module(module), str(task.get("task_type")), None), "threats", ())
    return tuple(name for name in catalogue() if name in (told or ()))


def _guard(task: Mapping[str, Any]) -> GuardOutline:
    try:
        woven = json.loads(task.get("woven") or "null")
    except (TypeError, ValueError):
        woven = None
    return GuardOutline(
        id=str(task["task_id"]),
        operator=str(task.get("_operator_name") or task.get("task_type") or ""),
        on_failure=_on_failure(task),
        policy=_plain(_given(task, "policy")),
        mapped=bool(task.get("_is_mapped")),
        woven=woven if isinstance(woven, dict) else None,
    )


def _plain(value: Any) -> Any:
    """Take a value out of the form that Airflow writes down what JSON has no type for in."""
    if isinstance(value, dict):
        if value.keys() == {"__var", "__type"}:
            return _plain(value["__var"])
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
