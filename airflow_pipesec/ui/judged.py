"""Judged: what a run came to. States are what Airflow shows; what they are worth, the evidence says.

A run passes only where every guard of it signed that it passed, in its latest attempt, linked to the guards before it. What is
missing, contradicts, or cannot be read is told as what it is and never as a pass.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from airflow_pipesec.acts import Act, told
from airflow_pipesec.checks.release import GUARD_PASSED, Known, Release, guard_subject, link_faults, verify_run
from airflow_pipesec.drawing import LinkMark, Mark
from airflow_pipesec.evidence import Entry, Evidence, Refused, Witness, part_of
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.pipeline import Kind, Node
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.records import MOST_INSTANCES, Glimpse, Instance, RunRecord

__all__ = ["ALARMS", "GuardView", "Link", "Result", "RunView", "claimed", "glimpsed", "judge", "result_of", "shown_as"]

Key = tuple[str, int]
RUNNING = ("running", "restarting")
WAITING = ("queued", "scheduled", "deferred", "up_for_reschedule", "awaiting_input")
RAN = ("success", "failed", *RUNNING, "up_for_retry")
ALARMS = (Mark.UNPROVEN, Mark.OVERRIDDEN)


class Result(StrEnum):
    """What a run came to, the worst first."""

    ALARM = "does not verify"
    STOPPED = "stopped"
    UNREADABLE = "not verified"
    UNFINISHED = "ended early"
    CLAIMED = "not verified yet"
    WARNED = "passed with warnings"
    RUNNING = "running"
    PASSED = "passed"
    NEVER = "never run"
    NOTHING = "no guard"


@dataclass(frozen=True, slots=True)
class GuardView:
    """A guard's instance: how it stands and why, and what that is known from."""

    task_id: str
    map_index: int
    operator: str
    mark: Mark
    why: str
    instance: Instance | None
    witness: Witness | None
    attempts: Sequence[Witness] = ()
    acts: Sequence[Act] = ()
    faults: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The task's id, with the map index where it has one."""
        return f"{self.task_id}[{self.map_index}]" if self.map_index >= 0 else self.task_id


@dataclass(frozen=True, slots=True)
class Link:
    """A link of the evidence: from a guard to one that it follows, and whether it holds."""

    above: Key
    below: Key
    mark: LinkMark
    why: str


@dataclass(frozen=True, slots=True)
class RunView:
    """A run: what it came to and why, its guards, the links of their evidence, and what lies among it and is none.

    ``verification`` is what :func:`~airflow_pipesec.checks.release.verify_run` says of all guards: it passes only where each one
    has. ``unread`` says why the evidence could not be read; None where it was.
    """

    run: RunRecord
    outline: Outline
    result: Result
    why: str
    guards: Sequence[GuardView]
    links: Sequence[Link] = ()
    refused: Sequence[Refused] = ()
    verification: Sequence[Finding] = ()
    unread: str | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)

    @property
    def alarms(self) -> list[GuardView]:
        """The guards that Airflow shows otherwise than the evidence does."""
        return [guard for guard in self.guards if guard.mark in ALARMS]


def shown_as(state: str | None, outcome: str | None, on_failure: str, *, ran_below: bool = False) -> tuple[Mark, str]:
    """Say how a guard's instance stands by its state and what it concluded, and why; ``outcome`` None is no conclusion.

    ``ran_below`` says that what follows it was not skipped: of a guard that skips what follows it, that is a contradiction. What
    ``on_failure`` comes to where it is a template is not known here, so it excuses nothing.
    """
    if state == "success":
        if outcome == "PASSED":
            return Mark.PASSED, "passed"
        if outcome is None:
            return Mark.UNPROVEN, "Airflow shows success, and it left no verdict"
        if on_failure == "skip_downstream" and not ran_below:
            return Mark.FAILED, f"concluded {outcome}, and what follows it is skipped"
        if on_failure == "warn":
            return Mark.WARNED, f"concluded {outcome}, and only warns"
        return Mark.OVERRIDDEN, f"concluded {outcome}, and Airflow shows success"
    if state == "failed":
        told_of = {None: "failed before it came to a verdict", "PASSED": "passed, and Airflow shows it as failed"}
        return Mark.FAILED, told_of.get(outcome, f"concluded {outcome}")
    if state == "skipped":
        return (
            (Mark.SKIPPED, "skipped") if outcome in (None, "PASSED") else (Mark.FAILED, f"concluded {outcome}, and was skipped")
        )
    if state in RUNNING:
        return Mark.RUNNING, "running"
    if state == "up_for_retry":
        return Mark.RETRYING, "waits to be tried again"
    if state in WAITING:
        return Mark.WAITING, state.replace("_", " ")
    return Mark.NOT_RUN, "never ran: something before it did not pass" if state == "upstream_failed" else "has not run"


def glimpsed(outline: Outline, glimpses: Iterable[Glimpse]) -> dict[str, Mark]:
    """Return how the guards of a run stand as Airflow alone shows them; of a mapped one the worst of its instances."""
    found: dict[str, Mark] = {}
    for glimpse in glimpses:
        guard = outline.guards.get(glimpse.task_id)
        if guard is not None:
            mark, _ = shown_as(glimpse.state, glimpse.outcome, guard.on_failure)
            found[glimpse.task_id] = _worse(found.get(glimpse.task_id), mark)
    return found


_WORST = (
    Mark.OVERRIDDEN,
    Mark.UNPROVEN,
    Mark.FAILED,
    Mark.RETRYING,
    Mark.RUNNING,
    Mark.WAITING,
    Mark.WARNED,
    Mark.NOT_RUN,
    Mark.PASSED,
    Mark.SKIPPED,
)


def _worse(one: Mark | None, other: Mark) -> Mark:
    return other if one is None else min(one, other, key=_WORST.index)


def claimed(run: RunRecord, marks: Collection[Mark]) -> Result:
    """Say what a run came to as Airflow alone shows it: that it passed is only said when its evidence was verified."""
    result = result_of(run, marks)
    return Result.CLAIMED if result in (Result.PASSED, Result.WARNED) else result


def result_of(run: RunRecord, marks: Collection[Mark]) -> Result:
    """Say what a run came to by how its guards stand."""
    if not marks:
        return Result.NOTHING
    if any(mark in ALARMS for mark in marks):
        return Result.ALARM
    if Mark.FAILED in marks:
        return Result.STOPPED
    if not run.over:
        return Result.RUNNING
    if any(mark not in (Mark.PASSED, Mark.WARNED, Mark.SKIPPED) for mark in marks) or set(marks) == {Mark.SKIPPED}:
        return Result.UNFINISHED
    return Result.WARNED if Mark.WARNED in marks else Result.PASSED


def judge(
    run: RunRecord,
    outline: Outline,
    instances: Sequence[Instance],
    evidence: Evidence | str,
    acts: Sequence[Act] | None,
    *,
    now: datetime,
) -> RunView:
    """Hold what Airflow shows of a run against its evidence; ``evidence`` is the reason where it could not be read.

    ``acts`` are what the audit log tells, None where it was not asked.
    """
    of_guards = {item.key: item for item in instances if item.task_id in outline.guards}
    if len(instances) >= MOST_INSTANCES:
        evidence = f"The run has {MOST_INSTANCES} task instances or more, too many to judge here. Use `pipesec verify-run`."
    if not outline.guards:
        return RunView(run, outline, Result.NOTHING, "The DAG of this run has no guard.", ())
    if isinstance(evidence, str):
        views = _ordered(outline, (_unread(item, outline, acts) for item in of_guards.values()))
        return RunView(
            run, outline, Result.UNREADABLE, evidence, views, unread=evidence, marks=_by_task(views, instances, outline)
        )
    attempts = evidence.attempts()
    refused = evidence.unexcused(outline.guards)
    keys = _keys(outline, of_guards, attempts, refused)
    release = _release(outline, keys, of_guards, attempts, acts)
    findings = list(verify_run(evidence, release, now=now)) if keys else []
    latest = {key: attempts[key][-1].sha256 for key in keys if key in attempts}
    ran = {item.task_id for item in instances if item.state in RAN}
    problems: dict[Subject, list[Finding]] = {}
    for finding in findings:
        if finding.status in (Status.FAIL, Status.ERROR):
            problems.setdefault(finding.subject, []).append(finding)
    views = []
    for key in keys:
        mine = [item.reason for item in refused if _is_of(item, key)]
        faults = problems.get(guard_subject(key), ())
        views.append(_view(key, outline, of_guards.get(key), attempts.get(key, ()), faults, mine, acts, ran))
    views = _ordered(outline, views)
    links = _links(keys, attempts, release, latest)
    marks = _by_task(views, instances, outline)
    result = result_of(run, [view.mark for view in views])
    if result in (Result.PASSED, Result.WARNED) and any(_ended_at(outline, view, ran) for view in views):
        result = Result.UNFINISHED
    strangers = [item for item in evidence.refused if item.name.partition("/")[0] not in set(map(part_of, outline.guards))]
    why = _reason(result, views)
    return RunView(run, outline, result, why, views, links, [*refused, *strangers], findings, None, marks)


def _keys(outline: Outline, instances: Collection[Key], attempts: Collection[Key], refused: Iterable[Refused]) -> list[Key]:
    """Every instance of a guard that anybody tells of; of a guard that nobody tells of, the one that it should have."""
    found = {*instances, *(key for key in attempts if key[0] in outline.guards)}
    parts = {part_of(name): name for name in outline.guards}
    for item in refused:
        if (entry := Entry.of(item.name)) is not None and entry.task in parts:
            found.add((parts[entry.task], entry.map_index))
    seen = {task for task, _ in found}
    return sorted(found | {(name, -1) for name in outline.guards if name not in seen})


def _ordered(outline: Outline, views: Iterable[GuardView]) -> list[GuardView]:
    place = {name: number for number, name in enumerate(outline.pipeline.nodes)}
    return sorted(views, key=lambda view: (place[view.task_id], view.map_index))


def _unread(item: Instance, outline: Outline, acts: Sequence[Act] | None) -> GuardView:
    guard = outline.guards[item.task_id]
    mark, why = shown_as(item.state, None, guard.on_failure)
    if item.state == "success":
        mark, why = Mark.UNPROVEN, "Airflow shows success; its evidence could not be read"
    return GuardView(item.task_id, item.map_index, guard.operator, mark, why, item, None, (), _concerning(acts, item.key))


def _release(
    outline: Outline,
    keys: Iterable[Key],
    instances: Mapping[Key, Instance],
    attempts: Mapping[Key, Sequence[Witness]],
    acts: Sequence[Act] | None,
) -> Release:
    guards: dict[str, set[int]] = {name: set() for name in outline.guards}
    for task, index in keys:
        guards[task].add(index)
    # What did not come to its end is not asked for evidence of it.
    idle = {
        task
        for task, indexes in guards.items()
        if not any((task, i) in attempts or ((task, i) in instances and instances[task, i].state == "success") for i in indexes)
    }
    known = {key: Known(item.attempt, item.try_number, item.state, _told(acts, key)) for key, item in instances.items()}
    return Release(guards, edges=outline.edges, known=known, may_be_skipped=idle)


def _concerning(acts: Sequence[Act] | None, key: Key) -> list[Act]:
    return [act for act in acts or () if act.concerns(*key)]


def _told(acts: Sequence[Act] | None, key: Key) -> str:
    """What the audit log tells of an instance, as the end of a sentence; nothing where it was not asked."""
    return "" if acts is None else told(_concerning(acts, key))


def _is_of(item: Refused, key: Key) -> bool:
    entry = Entry.of(item.name)
    return item.name.partition("/")[0] == part_of(key[0]) and (entry is None or entry.map_index == key[1])


def _view(
    key: Key,
    outline: Outline,
    item: Instance | None,
    attempts: Sequence[Witness],
    problems: Sequence[Finding],
    refused: Sequence[str],
    acts: Sequence[Act] | None,
    ran: Collection[str],
) -> GuardView:
    guard = outline.guards[key[0]]
    witness = attempts[-1] if attempts else None
    mine = _concerning(acts, key)
    state = item.state if item is not None else None
    current = witness is not None and (item is None or witness.attested.attempt.attempt == item.attempt)
    outcome = witness.attested.outcome if witness is not None and current else None
    mark, why = shown_as(state, outcome, guard.on_failure, ran_below=not _skips_below(outline, key, ran))
    if mark is Mark.SKIPPED and _passed_by(outline, key, ran):
        mark, why = Mark.UNPROVEN, "was skipped, and the run went on without it"
    by_hand = [act for act in mine if act.event == "patch_task_instance" and act.task_id is not None and not act.noted]
    faults = [f"its evidence is refused: {reason}" for reason in refused]
    if state == "success":
        others = [finding.message for finding in problems if finding.control is not GUARD_PASSED]
        faults += others
        if mark is Mark.WARNED and by_hand:
            mark, why = Mark.OVERRIDDEN, f"signed {outcome}, and was set to success by hand"
        if others or refused:
            mark, why = (Mark.OVERRIDDEN if by_hand and outcome is None else Mark.UNPROVEN), faults[0]
    elif refused and mark in (Mark.PASSED, Mark.SKIPPED, Mark.NOT_RUN):
        mark, why = Mark.UNPROVEN, faults[0]
    if item is None and (attempts or refused):
        mark = Mark.UNPROVEN
        why = "attested in this run, and Airflow does not know it any more" if attempts else faults[0]
    elif item is None:
        why = "Airflow shows no such task in this run"
    elif mark is Mark.FAILED and witness is not None and current:
        why = f"signed {witness.attested.outcome}: {witness.attested.reason}"
    if mark is Mark.OVERRIDDEN and not why.endswith(_told(acts, key)):
        why += _told(acts, key)
    return GuardView(key[0], key[1], guard.operator, mark, why, item, witness, tuple(attempts), tuple(mine), tuple(faults))


def _skips_below(outline: Outline, key: Key, ran: Collection[str]) -> bool:
    """Whether a guard that refused skipped what follows it: a mapped one, or one that nothing follows, is skipped itself."""
    nodes = outline.pipeline.nodes
    below = [
        name for name in outline.pipeline.below(key[0]) if nodes[name].kind is not Kind.TEARDOWN and nodes[name].rule != "always"
    ]
    return key[1] < 0 and bool(below) and not any(name in ran for name in below)


def _reached(outline: Outline, task: str, ran: Collection[str]) -> bool:
    """Whether a run came as far as a guard: the stages before it ran, and none of them branches."""
    above = [outline.pipeline.nodes[name] for name in outline.pipeline.nearest_above(task, _no_stage)]
    return all(node.id in ran and not node.skips for node in above)


def _over_nothing(outline: Outline, key: Key) -> bool:
    """Whether a guard that is skipped may have been mapped over nothing."""
    return outline.guards[key[0]].mapped and key[1] < 0


def _passed_by(outline: Outline, key: Key, ran: Collection[str]) -> bool:
    """Whether a run came to a guard that was skipped, and went on: a stage after it ran, or none follows."""
    below = outline.pipeline.nearest_below(key[0], _no_stage)
    went_on = any(name in ran for name in below) if below else not _over_nothing(outline, key)
    return went_on and _reached(outline, key[0], ran)


def _ended_at(outline: Outline, view: GuardView, ran: Collection[str]) -> bool:
    """Whether a run came to a guard that was skipped, and ended there."""
    key = view.task_id, view.map_index
    return view.mark is Mark.SKIPPED and _reached(outline, key[0], ran) and not _over_nothing(outline, key)


def _no_stage(node: Node) -> bool:
    return node.kind is not Kind.STAGE


def _links(
    keys: Iterable[Key], attempts: Mapping[Key, Sequence[Witness]], release: Release, latest: Mapping[Key, str]
) -> list[Link]:
    found: list[Link] = []
    for key in keys:
        if key not in attempts:
            continue
        witness = attempts[key][-1]
        faults = dict(link_faults(key, witness, release, latest))
        links = {(link.task_id, link.map_index): link.sha256 for link in witness.attested.links}
        for other in sorted(links.keys() | faults.keys()):
            if other in faults:
                missing = other not in latest
                found.append(Link(other, key, LinkMark.MISSING if missing else LinkMark.BROKEN, faults[other]))
            elif links[other] is not None:
                found.append(Link(other, key, LinkMark.VERIFIED, f"sha256:{links[other]}"))
    return found


def _by_task(views: Iterable[GuardView], instances: Iterable[Instance], outline: Outline) -> dict[str, Mark]:
    """How every task of the run stands: guards by their evidence, stages by what Airflow shows."""
    found: dict[str, Mark] = {}
    for view in views:
        found[view.task_id] = _worse(found.get(view.task_id), view.mark)
    for item in instances:
        if item.task_id in outline.pipeline.nodes and item.task_id not in outline.guards:
            mark, _ = shown_as(item.state, "PASSED", "fail")
            found[item.task_id] = _worse(found.get(item.task_id), mark)
    return {name: found.get(name, Mark.NOT_RUN) for name in outline.pipeline.nodes}


def _reason(result: Result, views: Sequence[GuardView]) -> str:
    if result is Result.ALARM:
        first = next(view for view in views if view.mark in ALARMS)
        more = sum(view.mark in ALARMS for view in views) - 1
        return f"{first.name}: {first.why}" + (f" (and {more} more)" if more else "")
    if result is Result.STOPPED:
        first = next(view for view in views if view.mark is Mark.FAILED)
        return f"{first.name} {first.why}"
    passed = sum(view.mark is Mark.PASSED for view in views)
    number = f"{passed} of {len(views)} guards passed"
    return {
        Result.UNFINISHED: f"the run is over, and {number}",
        Result.RUNNING: f"{number} so far",
        Result.WARNED: f"{number}; the others only warn",
        Result.NOTHING: "no guard has run",
    }.get(result, f"{number}, and their evidence verifies")
