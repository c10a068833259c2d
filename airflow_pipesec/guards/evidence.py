"""What a guard leaves behind: the attestation of its verdict, linked to those of the guards upstream."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from airflow_pipesec import __version__
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Status, escaped
from airflow_pipesec.policy import Judged, Policy, Verdict, described

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator, Context

    from airflow_pipesec.attestation import Attempt
    from airflow_pipesec.evidence import Evidence, RunEvidence
    from airflow_pipesec.signing import Signer

__all__ = [
    "Notary",
    "all_instances",
    "edges_above",
    "expected_above",
    "guards_above",
    "instances_above",
    "is_guard",
    "nearest_guards",
]

MOST_FINDINGS = 500  # in an attestation; the rest is counted. And the most controls that are explained there


class Notary:
    """Attests what one attempt of a guard concludes. Made before the check begins, so that a key that is missing stops it there.

    Raises :class:`ConfigurationError` where nothing signs or there is no such place.
    """

    def __init__(self, context: Context) -> None:
        from airflow_pipesec.attestation import Attempt
        from airflow_pipesec.guards.trust import configured_signer, run_evidence

        ti: Any = context["ti"]
        index = -1 if ti.map_index is None else ti.map_index
        self.attempt: Attempt = Attempt(ti.dag_id, ti.run_id, ti.task_id, index, ti.try_number, str(ti.id))
        self.signer: Signer | None = configured_signer()
        self.evidence: RunEvidence = run_evidence(ti.dag_id, ti.run_id)

    def attest(
        self, context: Context, guard: object, verdict: Verdict, policy: Policy, started: datetime, finished: datetime
    ) -> str:
        """Write the attestation and return its SHA-256. Raises :class:`~airflow_pipesec.errors.StorageError` where that fails."""
        from airflow_pipesec.attestation import Attestation, seal, statement

        ti: Any = context["ti"]
        run: Any = context["dag_run"]
        version, logical = getattr(ti, "dag_version_id", None), run.logical_date
        details = _worst_first(verdict)
        attested = Attestation(
            attempt=self.attempt,
            guard=f"{type(guard).__module__}.{type(guard).__qualname__}",
            outcome=str(verdict.outcome),
            reason=escaped(verdict.reason),
            started=started,
            finished=finished,
            tests=_tests(verdict.judged),
            findings=tuple(details[:MOST_FINDINGS]),
            more_findings=max(0, len(details) - MOST_FINDINGS),
            waivers=tuple(map(described, dict.fromkeys(item.waiver for item in verdict.judged if item.waiver is not None))),
            policy=policy.document(),
            version=__version__,
            links=tuple(self.evidence.links(instances_above(context))),
            dag_version=None if version is None else str(version),
            logical_date=None if logical is None else logical.isoformat(),
            run_type=str(getattr(run.run_type, "value", run.run_type)),
            triggered_by=run.triggering_user_name,
            subjects=tuple(_subjects(verdict)),
            controls=_controls(verdict.judged),
        )
        return self.evidence.write(self.attempt, seal(statement(attested), self.signer))


def _worst_first(verdict: Verdict) -> list[dict[str, Any]]:
    rank = {"error": 0, "fail": 0, "skip": 1, "pass": 2}
    details: list[dict[str, Any]] = verdict.document()["details"]
    return sorted(details, key=lambda item: (not item["blocks"], rank[item["status"]]))


def _controls(judged: Iterable[Judged]) -> dict[str, dict[str, Any]]:
    """What the controls are and what to do when one fails, so that evidence explains itself; those that block come first."""
    found: dict[str, dict[str, Any]] = {}
    for item in sorted(judged, key=lambda item: not item.blocks):
        control = item.finding.control
        if control.id not in found and len(found) < MOST_FINDINGS:
            texts = {"title": control.title, "severity": control.severity.label, "remedy": control.remedy}
            found[control.id] = texts | {"references": [escaped(str(reference)) for reference in control.refs]}
    return found


def _tests(judged: Iterable[Judged]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The controls that held, that did not and were let be, and that failed; each named once, by the worst of its findings."""
    worst: dict[str, int] = {}
    for item in judged:
        if item.finding.status is Status.SKIP:
            continue
        rank = 2 if item.blocks else 0 if item.finding.status is Status.PASS else 1
        worst[item.finding.control.id] = max(rank, worst.get(item.finding.control.id, 0))
    passed, warned, failed = (tuple(sorted(name for name, found in worst.items() if found == rank)) for rank in range(3))
    return passed, warned, failed


def _subjects(verdict: Verdict) -> Iterator[tuple[str, dict[str, str]]]:
    """The artifacts by digest: of a verdict that passed, those that were found good; of any other, all that were looked at."""
    from airflow_pipesec.attestation import digest_set

    seen = set()
    for item in verdict.judged:
        subject = item.finding.subject
        good = item.finding.status is Status.PASS or not verdict.passed
        if subject.digest is not None and good and (subject.name, subject.digest) not in seen:
            seen.add((subject.name, subject.digest))
            yield subject.name, digest_set(subject.digest)


def is_guard(node: Any) -> bool:
    """Whether a task of a DAG is a guard, mapped or not."""
    from airflow_pipesec.guards.base import Guard

    return issubclass(node.operator_class, Guard)


def nearest_guards(task: BaseOperator) -> list[str]:
    """Return the ids of the guards that a task follows with no other guard between, in order."""
    tasks = _tasks_of(task)
    found, seen, waiting = set(), set(), list(tasks[task.task_id].upstream_task_ids)
    while waiting:
        current = waiting.pop()
        if current in seen:
            continue
        seen.add(current)
        if is_guard(tasks[current]):
            found.add(current)
        else:
            waiting += tasks[current].upstream_task_ids
    return sorted(found)


def guards_above(task: BaseOperator) -> list[str]:
    """Return the ids of all guards upstream of a task, in order."""
    tasks = _tasks_of(task)
    seen: set[str] = set()
    waiting = list(tasks[task.task_id].upstream_task_ids)
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += tasks[current].upstream_task_ids
    return sorted(name for name in seen if is_guard(tasks[name]))


def _tasks_of(task: BaseOperator) -> dict[str, Any]:
    dag = task.get_dag()
    if dag is None:
        raise ConfigurationError(f"guard {task.task_id} belongs to no DAG. Put it into one: evidence names the guards before it.")
    return cast("dict[str, Any]", dag.task_dict)


def _indexes(context: Context, name: str) -> Collection[int]:
    """The map indexes that a task of this run has: -1 alone for one that is not mapped."""
    ti: Any = context["ti"]
    node = _tasks_of(cast("BaseOperator", context["task"]))[name]
    if not _is_mapped(node) and node.get_closest_mapped_task_group() is None:
        return (-1,)
    asked = {"dag_id": ti.dag_id, "task_ids": [name], "run_ids": [ti.run_id]}
    number = ti.get_ti_count(**asked)
    # What was expanded into nothing has one instance, without an index.
    return (-1,) if number == 1 and ti.get_ti_count(map_index=-1, **asked) == 1 else range(number)


def _is_mapped(node: Any) -> bool:
    from airflow.sdk.definitions.mappedoperator import MappedOperator

    return isinstance(node, MappedOperator)


def _goes_along(node: Any, with_task: Any) -> bool:
    """Whether an instance of a task goes with the instance of another that has its map index, in one mapped task group."""
    group, other = node.get_closest_mapped_task_group(), with_task.get_closest_mapped_task_group()
    if group is None or other is None or _is_mapped(node) or _is_mapped(with_task):
        return False
    # Not the objects: what stands in the group itself has a proxy of it.
    return bool(group.group_id == other.group_id)


def instances_above(context: Context) -> list[tuple[str, Collection[int]]]:
    """Return the guards that this task follows directly, with the map indexes that each is expected to have."""
    ti: Any = context["ti"]
    task: Any = context["task"]
    tasks = _tasks_of(task)
    return [
        (name, (ti.map_index,) if _goes_along(tasks[name], tasks[task.task_id]) else _indexes(context, name))
        for name in nearest_guards(task)
    ]


def expected_above(context: Context) -> dict[str, Collection[int]]:
    """Return all guards upstream of this task, with the map indexes that each is expected to have."""
    return {name: _indexes(context, name) for name in guards_above(cast("BaseOperator", context["task"]))}


def edges_above(context: Context) -> dict[str, dict[str, bool]]:
    """Return for each guard upstream which guards it follows directly, and whether only the one with the same map index."""
    task: Any = context["task"]
    tasks = _tasks_of(task)
    return {
        name: {other: _goes_along(tasks[other], tasks[name]) for other in nearest_guards(tasks[name])}
        for name in guards_above(task)
    }


def all_instances(
    context: Context, expected: Mapping[str, Collection[int]], known: Iterable[tuple[str, int]], evidence: Evidence
) -> dict[str, set[int]]:
    """Return every instance of the guards that anybody tells of: Airflow's two ways of being asked, and the evidence itself.

    In a mapped task group, a gate answers for the instances of its own index alone.
    """
    from airflow_pipesec.checks.release import with_attested

    found = with_attested(expected, evidence)
    for guard, index in known:
        found.setdefault(guard, set()).add(index)
    ti: Any = context["ti"]
    task: Any = context["task"]
    tasks = _tasks_of(task)
    return {name: {ti.map_index} if _goes_along(tasks[name], tasks[task.task_id]) else indexes for name, indexes in found.items()}
