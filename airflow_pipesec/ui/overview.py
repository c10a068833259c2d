"""Overview: one line for each DAG, the worst first, filtered and sorted; nothing here reads evidence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from airflow.utils.session import create_session
from sqlalchemy.orm import Session

from airflow_pipesec.drawing import Mark
from airflow_pipesec.findings import Severity
from airflow_pipesec.ui import records, render
from airflow_pipesec.ui.judged import ALARMS, Result, claimed, glimpsed
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.proofs import Checked, remembered, remembered_alarms
from airflow_pipesec.ui.records import DagRecord, RunRecord

__all__ = ["SORTS", "Alarm", "Expiring", "Line", "Overview", "Query", "overview", "prepare", "severities"]

PAGE = 25
TREND = 30
SOON = 30  # days in which a waiver expires soon
SORTS = ("verdict", "dag", "coverage", "findings", "last run")
LABELS = tuple(severity.label for severity in reversed(Severity))


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for: a text in the DAG's name, a result, a threat that is not answered, how much is guarded; the order."""

    q: str = ""
    result: str = ""
    threat: str = ""
    guarded: str = ""
    sort: str = "verdict"
    down: bool = False
    page: int = 1


@dataclass(frozen=True, slots=True)
class Expiring:
    """A waiver that a guard of a DAG relied on in its last run, and the last day on which it applies."""

    dag_id: str
    task_id: str
    control: str
    expires: date
    days: int


@dataclass(frozen=True, slots=True)
class Alarm:
    """A run of which Airflow shows something else than was concluded, or than its evidence says, and why."""

    dag_id: str
    name: str
    run_id: str
    why: str


@dataclass(slots=True)
class Line:
    """A DAG. ``outline`` is None where Airflow's copy cannot be read, ``run`` where there was none."""

    record: DagRecord
    outline: Outline | None
    run: RunRecord | None
    result: Result
    why: str
    severities: Mapping[str, int]
    waivers: Sequence[Expiring]
    checked: Checked | None
    trend: Sequence[tuple[RunRecord, Mapping[str, Mark]]] = ()

    @property
    def stages(self) -> int:
        """How many stages need a guard."""
        return len(self.outline.coverage.counted) if self.outline else 0

    @property
    def guarded(self) -> int:
        """How many of them have one that holds."""
        return self.outline.coverage.guarded if self.outline else 0

    @property
    def part(self) -> str:
        """How much of it is guarded: ``all``, ``some``, ``none``, or nothing to guard."""
        if not self.stages:
            return ""
        return "all" if self.guarded == self.stages else "some" if self.guarded else "none"


@dataclass(slots=True)
class Overview:
    """All that the page shows. ``lines`` are those of the page that was asked for, ``matching`` how many fit the filter."""

    query: Query
    lines: Sequence[Line]
    matching: int
    total: int
    pages: int
    stages: int
    guarded: int
    results: Mapping[Result, int]
    severities: Mapping[str, int]
    expiring: Sequence[Expiring]
    alarms: Sequence[Alarm]
    unread: Sequence[str] = field(default_factory=list)
    outlines: Sequence[Outline] = field(default_factory=list)
    runs: Sequence[tuple[str, str, Result]] = field(default_factory=list)
    """The runs of which the evidence is to be read: DAG, run and what is shown; the alarms first, then those of this page."""


def severities(summary: Any) -> dict[str, int]:
    """Return how many findings of each severity a guard's XCom tells of. What is not one of ours tells of none."""
    counts = summary.get("by_severity") if isinstance(summary, dict) else None
    counts = counts if isinstance(counts, dict) else {}
    return {label: number for label in LABELS if type(number := counts.get(label)) is int and 0 < number < 1 << 53}


def outcome_of(summary: Any) -> str | None:
    """Return the outcome that a guard's XCom tells of; None for none."""
    told = summary.get("outcome") if isinstance(summary, dict) else None
    return told if isinstance(told, str) else None


def _waivers(dag_id: str, task: str, summary: Any, today: date) -> list[Expiring]:
    told = summary.get("waivers") if isinstance(summary, dict) else None
    found = []
    for item in told if isinstance(told, list) else ():
        try:
            until = date.fromisoformat(item["expires"])
            control = str(item["control"])
        except (KeyError, TypeError, ValueError):
            continue
        if (days := (until - today).days) <= SOON:
            found.append(Expiring(dag_id, task, control, until, days))
    return found


def overview(session: Session, readable: Iterable[str], query: Query, *, today: date) -> Overview:
    """Return what the page shows of the DAGs that the viewer may read."""
    ids = set(readable)
    listed = records.dags(session, ids)
    outlines = records.outlines(session, listed)
    runs = records.last_runs(session, {record.dag_id for record in listed})
    guards = {name for outline in outlines.values() if outline is not None for name in outline.guards}
    keys = [run.key for run in runs.values()]
    seen = records.glimpses(session, keys, guards)
    told = records.summaries(session, keys, guards)
    lines = [_line(record, outlines.get(record.dag_id), runs.get(record.dag_id), seen, told, today) for record in listed]
    fitting = _sorted([line for line in lines if _fits(line, query)], query)
    pages = max(1, math.ceil(len(fitting) / PAGE))
    start = (min(query.page, pages) - 1) * PAGE
    shown = fitting[start : start + PAGE]
    _add_trends(session, shown)
    counts: Counter[str] = Counter()
    for line in lines:
        counts.update(line.severities)
    alarms = _alarms(lines, shown)
    ordered = [*shown, *fitting[:start], *fitting[start + PAGE :]]
    return Overview(
        query=query,
        lines=shown,
        matching=len(fitting),
        total=len(lines),
        pages=pages,
        stages=sum(line.stages for line in lines),
        guarded=sum(line.guarded for line in lines),
        results=Counter(line.result for line in lines),
        severities=counts,
        expiring=sorted((item for line in lines for item in line.waivers), key=lambda item: (item.expires, item.dag_id)),
        alarms=alarms,
        unread=[line.record.dag_id for line in lines if line.outline is None],
        outlines=[outline for outline in outlines.values() if outline is not None],
        runs=_to_read(alarms, ordered),
    )


def _to_read(alarms: Iterable[Alarm], lines: Iterable[Line]) -> list[tuple[str, str, Result]]:
    found = {
        (line.run.dag_id, line.run.run_id): line.result for line in lines if line.run and line.outline and line.outline.guards
    }
    first = {(alarm.dag_id, alarm.run_id): Result.ALARM for alarm in alarms}
    return [(*key, shown) for key, shown in (first | found).items()]


def prepare() -> None:
    """Read the DAGs once, so that who comes first need not wait. What goes wrong here is told to who asks."""
    with suppress(Exception), create_session(scoped=False) as session:
        listed = {record.dag_id for record in records.dags(session)}
        for outline in overview(session, listed, Query(), today=datetime.now(UTC).date()).outlines:
            outline.answers  # noqa: B018 - is worked out, and kept
        render.compile_templates()


def _line(
    record: DagRecord,
    outline: Outline | None,
    run: RunRecord | None,
    seen: Mapping[int, Sequence[records.Glimpse]],
    told: Mapping[int, Mapping[tuple[str, int], Any]],
    today: date,
) -> Line:
    counts: Counter[str] = Counter()
    waivers: list[Expiring] = []
    checked = None
    if outline is None:
        result, why = Result.UNREADABLE, "Airflow's copy of the DAG cannot be read."
    elif not outline.guards:
        result, why = Result.NOTHING, ""
    elif run is None:
        result, why = Result.NEVER, ""
    else:
        marks = glimpsed(outline, seen[run.key])
        result, why = claimed(run, marks.values()), ""
        for (task, _), summary in told[run.key].items():
            if task in outline.guards:
                counts.update(severities(summary))
                waivers += _waivers(record.dag_id, task, summary, today)
        checked = remembered(run.dag_id, run.run_id)
        # What was read of the evidence counts where Airflow shows nothing worse by now.
        counts_still = (Result.ALARM, Result.UNREADABLE, result) if result is not Result.CLAIMED else tuple(Result)
        if checked is not None and checked.result in counts_still:
            result, why = checked.result, checked.why
        elif result is Result.ALARM:
            why = _against(marks)
    return Line(record, outline, run, result, why, counts, waivers, checked)


def _fits(line: Line, query: Query) -> bool:
    text = query.q.casefold()
    if text and text not in line.record.dag_id.casefold() and text not in line.record.name.casefold():
        return False
    if query.result and line.result != query.result:
        return False
    if query.guarded and line.part != query.guarded:
        return False
    return not (query.threat and (line.outline is None or query.threat not in line.outline.coverage.unanswered))


def _sorted(lines: list[Line], query: Query) -> list[Line]:
    worst = list(Result)

    def key(line: Line) -> Any:
        share = line.guarded / line.stages if line.stages else 2.0
        found = [line.severities.get(label, 0) for label in LABELS]
        when = line.run.when.timestamp() if line.run and line.run.when else 0.0
        return {
            "dag": (),
            "coverage": (share,),
            "findings": tuple(-number for number in found),
            "last run": (-when,),
        }.get(query.sort, (worst.index(line.result), tuple(-number for number in found), share))

    return sorted(lines, key=lambda line: (*key(line), line.record.dag_id), reverse=query.down)


def _against(marks: Mapping[str, Mark]) -> str:
    names = sorted(name for name, mark in marks.items() if mark in ALARMS)
    return f"Airflow shows {', '.join(names[:3])} as success against what was concluded"


def _alarms(lines: Iterable[Line], shown: Iterable[Line]) -> list[Alarm]:
    """The runs that do not verify: last runs, earlier ones of the DAGs that are shown, and any whose evidence was read here."""
    found: dict[tuple[str, str], Alarm] = {}
    names = {line.record.dag_id: line.record.name for line in lines}
    for line in lines:
        if line.result is Result.ALARM and line.run is not None:
            found[line.run.dag_id, line.run.run_id] = Alarm(line.run.dag_id, line.record.name, line.run.run_id, line.why)
    for line in shown:
        for run, marks in line.trend:
            known = remembered(run.dag_id, run.run_id)
            if claimed(run, marks.values()) is Result.ALARM and known is None:
                alarm = Alarm(run.dag_id, line.record.name, run.run_id, _against(marks))
                found.setdefault((run.dag_id, run.run_id), alarm)
    for (dag_id, run_id), known in remembered_alarms(names):
        found.setdefault((dag_id, run_id), Alarm(dag_id, names[dag_id], run_id, known.why))
    return list(found.values())


def _add_trends(session: Session, lines: Sequence[Line]) -> None:
    """Add to each line how its guards stood in the last runs, as Airflow shows them."""
    wanted = {line.record.dag_id: line.outline for line in lines if line.outline is not None and line.outline.guards}
    runs = records.recent_runs(session, wanted, TREND)
    guards = {name for outline in wanted.values() if outline for name in outline.guards}
    seen = records.glimpses(session, [run.key for some in runs.values() for run in some], guards)
    for line in lines:
        outline = wanted.get(line.record.dag_id)
        if outline is not None:
            line.trend = [(run, glimpsed(outline, seen[run.key])) for run in runs.get(line.record.dag_id, ())]
