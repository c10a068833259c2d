"""Views of many runs: what the overview and the page of a DAG show. Nothing here decides who may see it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from airflow_pipesec.coverage import Coverage
from airflow_pipesec.drawing import Mark, draw
from airflow_pipesec.findings import amount
from airflow_pipesec.threats import catalogue
from airflow_pipesec.ui import charts, records, render
from airflow_pipesec.ui.judged import Result, claimed, glimpsed
from airflow_pipesec.ui.looks import LOOKS, airflow_url, drawn, page_url, stage_values
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.overview import LABELS, SORTS, TREND, Line, Overview, Query
from airflow_pipesec.ui.plans import organisation
from airflow_pipesec.ui.records import DagRecord, RunRecord

__all__ = ["dag_values", "overview_values"]

# The colours of the ring, by the chips'.
_TONES = {"alarm": "ps-alarm", "stop": "ps-stop", "good": "ps-good", "none": "ps-none", "run": "ps-rim"}
_TONES |= {"doubt": "ps-soft", "warn": "ps-soft"}
MOST_ALARMS = 50


def _counts(found: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(label, found[label]) for label in LABELS if found.get(label)]


def overview_values(found: Overview, root: str) -> dict[str, Any]:
    """Return what the overview shows."""
    asked = found.query
    lines = [_line_values(line, root, f"t{number}") for number, line in enumerate(found.lines)]
    results = [(str(result), found.results[result], LOOKS[result]) for result in Result if found.results.get(result)]
    return {
        "root": root,
        "asked": asked,
        "lines": lines,
        "matching": found.matching,
        "total": found.total,
        "stages": found.stages,
        "guarded": found.guarded,
        "meter": drawn(charts.meter(found.guarded, found.stages, title="stages guarded, in all DAGs")),
        "ring": drawn(
            charts.donut([(words, number, _TONES[look]) for words, number, look in results], title="last run of each DAG")
        ),
        "results": results,
        "severities_found": _counts(found.severities),
        "expiring": [(item, airflow_url(root, item.dag_id)) for item in found.expiring[:MOST_ALARMS]],
        "alarms": [(alarm, airflow_url(root, alarm.dag_id, alarm.run_id)) for alarm in found.alarms[:MOST_ALARMS]],
        "more_alarms": max(0, len(found.alarms) - MOST_ALARMS),
        "unread": found.unread,
        "threats": list(catalogue().values()),
        "all_results": [str(result) for result in Result],
        "sorts": SORTS,
        "page_url": lambda **changed: page_url(root, "overview", **(_asked(asked) | changed)),
        "pages": found.pages,
        "check": _to_verify(root, found.runs),
    }


def _to_verify(root: str, runs: Iterable[tuple[str, str, Result]]) -> str:
    """The runs whose evidence the page's script has verified, as it reads them: mark, DAG, id, address and what is shown."""
    return json.dumps([(render.run_mark(dag, run), dag, run, airflow_url(root, dag, run), shown) for dag, run, shown in runs])


def _asked(query: Query) -> dict[str, Any]:
    plain = {"q": query.q, "result": query.result, "threat": query.threat, "guarded": query.guarded}
    return plain | {"sort": "" if query.sort == SORTS[0] else query.sort, "down": "true" if query.down else "", "page": ""}


def _line_values(line: Line, root: str, name: str) -> dict[str, Any]:
    dag_id = line.record.dag_id
    bars = [_bar(run, marks) for run, marks in line.trend]
    return {
        "name": line.record.name,
        "dag_id": dag_id,
        "paused": line.record.paused,
        "href": airflow_url(root, dag_id),
        "result": str(line.result),
        "look": LOOKS[line.result],
        "why": line.why,
        "run": line.run,
        "run_href": airflow_url(root, dag_id, line.run.run_id) if line.run else None,
        "stages": line.stages,
        "guarded": line.guarded,
        "guards": len(line.outline.guards) if line.outline is not None else 0,
        "meter": drawn(charts.meter(line.guarded, line.stages, title=f"stages of {dag_id} guarded")),
        "severities": _counts(line.severities),
        "trend": drawn(charts.trend(bars, title=f"last runs of {dag_id}", name=name)),
        "trends": len(bars),
        "answers": line.outline.answers if line.outline is not None else {},
    }


def _bar(run: RunRecord, marks: Mapping[str, Mark]) -> charts.Bar:
    counted = Counter(marks.values())
    passed, stopped = counted.get(Mark.PASSED, 0), counted.get(Mark.FAILED, 0)
    alarmed = counted.get(Mark.OVERRIDDEN, 0) + counted.get(Mark.UNPROVEN, 0)
    other = sum(counted.values()) - passed - stopped - alarmed
    label = f"{run.run_id}: {passed} passed, {stopped} failed, {alarmed} against what was concluded, {other} other"
    # No links: hundreds of them would stand in the way of who goes through the page by keyboard. The DAG's page has them.
    return charts.Bar(passed, stopped, alarmed, other, label)


def dag_values(session: Session, record: DagRecord, outline: Outline | None, root: str) -> dict[str, Any]:
    """Return what the page of a DAG shows."""
    values: dict[str, Any] = {
        "root": root,
        "record": record,
        "outline": outline,
        "organisation": organisation(),
    }
    if outline is None:
        return values
    coverage = outline.coverage
    runs = records.recent_runs(session, [record.dag_id], TREND)[record.dag_id]
    seen = records.glimpses(session, [run.key for run in runs], outline.guards)
    stood = [(run, glimpsed(outline, seen[run.key])) for run in runs]
    came_to = [(run, claimed(run, marks.values())) for run, marks in stood]
    last = came_to[-1] if came_to else None
    naked = {stage.id for stage in coverage.naked}
    picture = draw(
        outline.pipeline,
        title=record.name,
        notes=_notes(coverage),
        naked=naked,
        exempt=outline.exempt,
        inline=True,
    )
    return values | {
        "coverage": coverage,
        "meter": drawn(charts.meter(coverage.guarded, len(coverage.counted), title="stages guarded")),
        "picture": drawn(picture),
        "naked": sorted(naked),
        "last": last[0] if last else None,
        "last_result": str(last[1]) if last else None,
        "last_look": LOOKS[last[1]] if last else None,
        "threats": [(threat, _where(coverage, threat.id)) for threat in catalogue().values()],
        "answered": len(catalogue()) - len(coverage.unanswered),
        "stages": [stage_values(stage) for stage in coverage.stages],
        "guards": [_history(name, outline, stood, root) for name in outline.pipeline.nodes if name in outline.guards],
        "runs": [(run, airflow_url(root, run.dag_id, run.run_id), str(result)) for run, result in came_to],
        "check": _to_verify(root, [(run.dag_id, run.run_id, result) for run, result in reversed(came_to) if outline.guards]),
        "idle": coverage.idle,
        "plans": _plans(outline),
    }


def _notes(coverage: Coverage) -> dict[str, str]:
    return {stage.id: f"exempt: {stage.exempt}" for stage in coverage.stages if stage.exempt}


def _where(coverage: Coverage, threat: str) -> dict[str, Any]:
    stages = [stage.id for stage in coverage.counted if threat in stage.threats]
    guards = {
        watch.guard
        for stage in coverage.counted
        for watch in (*stage.before.guards, *stage.after.guards)
        if threat in watch.threats
    }
    return {"stages": stages, "guards": sorted(guards)}


def _history(name: str, outline: Outline, stood: Sequence[tuple[RunRecord, Mapping[str, Mark]]], root: str) -> dict[str, Any]:
    cells = [
        charts.Cell(
            marks.get(name, Mark.NOT_RUN),
            f"{run.run_id}: {marks.get(name, Mark.NOT_RUN)}",
            airflow_url(root, run.dag_id, run.run_id, None if outline.guards[name].mapped else name),
        )
        for run, marks in stood
    ]
    guard = outline.guards[name]
    policy = guard.policy
    return {
        "id": name,
        "operator": guard.operator,
        "on_failure": guard.on_failure,
        "mapped": guard.mapped,
        "policy": "the default policy" if policy is None else policy if isinstance(policy, str) else _policy_words(policy),
        "woven": guard.woven,
        "threats": [catalogue()[item].title for item in outline.pipeline.nodes[name].threats],
        "strip": drawn(charts.strip(cells, title=f"how {name} stood in the last {amount(len(cells), 'run')}")) if cells else "",
    }


def _policy_words(policy: Any) -> str:
    if not isinstance(policy, Mapping):
        return "a policy that is not readable here"
    waivers = policy.get("waivers") or []
    more = f", {amount(len(waivers), 'waiver')}" if isinstance(waivers, list) and waivers else ""
    return f"fails on {policy.get('fail_on', 'medium')} and above{more}"


def _plans(outline: Outline) -> list[dict[str, Any]]:
    """The plans that wove guards in, each with how many."""
    found: dict[str, dict[str, Any]] = {}
    for guard in outline.guards.values():
        if guard.woven:
            told = {key: str(guard.woven.get(key) or "") for key in ("plan", "name", "sha256", "environment")}
            entry = found.setdefault(repr(sorted(told.items())), told | {"guards": 0})
            entry["guards"] += 1
    return list(found.values())
