"""Views: what each page shows, made of records, evidence and pictures. Nothing here decides who may see it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from markupsafe import Markup
from sqlalchemy.orm import Session

from airflow_pipesec.acts import Act, deed
from airflow_pipesec.coverage import Coverage, StageCoverage
from airflow_pipesec.drawing import LinkMark, Mark, draw
from airflow_pipesec.evidence import Witness
from airflow_pipesec.findings import amount
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.threats import catalogue
from airflow_pipesec.ui import charts, records, render
from airflow_pipesec.ui.judged import GuardView, Result, RunView, glimpsed, result_of
from airflow_pipesec.ui.outline import Outline
from airflow_pipesec.ui.overview import LABELS, SORTS, TREND, Line, Overview, Query
from airflow_pipesec.ui.plans import organisation
from airflow_pipesec.ui.records import DagRecord, RunRecord

__all__ = [
    "airflow_url",
    "all_findings",
    "dag_values",
    "evidence_graph",
    "look_of",
    "overview_values",
    "run_values",
    "task_values",
    "verify_command",
]

# What a result looks like: the class of its chip. The words say it too.
_LOOKS = {
    Result.ALARM: "alarm",
    Result.STOPPED: "stop",
    Result.UNREADABLE: "doubt",
    Result.UNFINISHED: "doubt",
    Result.WARNED: "warn",
    Result.RUNNING: "run",
    Result.PASSED: "good",
    Result.NEVER: "none",
    Result.NOTHING: "none",
}
_MARK_LOOKS = {
    Mark.PASSED: "good",
    Mark.FAILED: "stop",
    Mark.OVERRIDDEN: "alarm",
    Mark.UNPROVEN: "alarm",
    Mark.WARNED: "warn",
    Mark.RUNNING: "run",
    Mark.RETRYING: "run",
    Mark.WAITING: "run",
    Mark.SKIPPED: "none",
    Mark.NOT_RUN: "none",
}
# The colours of the ring, by the chips'.
_TONES = {"alarm": "ps-alarm", "stop": "ps-stop", "good": "ps-good", "none": "ps-none", "run": "ps-rim"}
_TONES |= {"doubt": "ps-soft", "warn": "ps-soft"}
MOST_FINDINGS = 300  # in a table of a page; the downloads have all
MOST_ALARMS = 50
_RANK = {"error": 0, "fail": 0, "skip": 1, "pass": 2}


def _drawn(svg: str) -> Markup:
    """A picture of ours, in which every text was escaped when it was drawn."""
    return Markup(svg)  # noqa: S704 - see above; the tests draw hostile names


def look_of(result: Result) -> str:
    """Return the class of a result's chip."""
    return _LOOKS[result]


def airflow_url(root: str, dag_id: str, run_id: str | None = None, task_id: str | None = None, map_index: int = -1) -> str:
    """Return the address of a page in Airflow's UI: the tab of a DAG, of a run or of a task instance."""
    parts = [root, "dags", quote(dag_id, safe="")]
    if run_id is not None:
        parts += ["runs", quote(run_id, safe="")]
    if task_id is not None:
        parts += ["tasks", quote(task_id, safe="")]
        parts += ["mapped", str(map_index)] if map_index >= 0 else []
    tab = "pipesec_task" if task_id is not None else "pipesec_run" if run_id is not None else "pipesec_dag"
    return "/".join([*parts, "plugin", tab])


def _page_url(root: str, name: str, **values: Any) -> str:
    given = {key: str(value) for key, value in values.items() if value not in ("", None, False)}
    return f"{root}/pipesec/{name}" + (f"?{urlencode(given)}" if given else "")


def _counts(found: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(label, found[label]) for label in LABELS if found.get(label)]


def overview_values(found: Overview, root: str) -> dict[str, Any]:
    """Return what the overview shows."""
    asked = found.query
    lines = [_line_values(line, root, f"t{number}") for number, line in enumerate(found.lines)]
    # One part of the ring for each result that there is, the worst first.
    parts = [(str(result), found.results[result], _TONES[_LOOKS[result]]) for result in Result if found.results.get(result)]
    return {
        "root": root,
        "asked": asked,
        "lines": lines,
        "matching": found.matching,
        "total": found.total,
        "stages": found.stages,
        "guarded": found.guarded,
        "meter": _drawn(charts.meter(found.guarded, found.stages, title="stages guarded, in all DAGs")),
        "ring": _drawn(charts.donut(parts, title="last run of each DAG")),
        "results": [(str(result), number, _LOOKS[result]) for result, number in sorted_results(found.results)],
        "severities_found": _counts(found.severities),
        "expiring": [(item, airflow_url(root, item.dag_id)) for item in found.expiring[:MOST_ALARMS]],
        "alarms": [
            (line.record.name, line.run, airflow_url(root, line.run.dag_id, line.run.run_id), line.why)
            for line in found.alarms[:MOST_ALARMS]
            if line.run is not None
        ],
        "more_alarms": max(0, len(found.alarms) - MOST_ALARMS),
        "unread": found.unread,
        "threats": list(catalogue().values()),
        "all_results": [str(result) for result in Result],
        "sorts": SORTS,
        "page_url": lambda **changed: _page_url(root, "overview", **(_asked(asked) | changed)),
        "pages": found.pages,
        "check": _to_verify(root, found.runs),
    }


def _to_verify(root: str, runs: Iterable[tuple[str, str]]) -> str:
    """The runs whose evidence the page's script has verified, as it reads them: their mark, DAG, id and address."""
    return json.dumps([(render.run_mark(*run), *run, airflow_url(root, *run)) for run in runs])


def sorted_results(found: Mapping[Result, int]) -> list[tuple[Result, int]]:
    """Return the results that there are, the worst first."""
    return [(result, found[result]) for result in Result if found.get(result)]


def _asked(query: Query) -> dict[str, Any]:
    plain = {"q": query.q, "result": query.result, "threat": query.threat, "guarded": query.guarded}
    return plain | {"sort": "" if query.sort == SORTS[0] else query.sort, "down": "true" if query.down else "", "page": ""}


def _line_values(line: Line, root: str, name: str) -> dict[str, Any]:
    dag_id = line.record.dag_id
    bars = [_bar(run, counted, root) for run, counted in line.trend]
    return {
        "name": line.record.name,
        "dag_id": dag_id,
        "paused": line.record.paused,
        "href": airflow_url(root, dag_id),
        "result": str(line.result),
        "look": _LOOKS[line.result],
        "why": line.why,
        "run": line.run,
        "run_href": airflow_url(root, dag_id, line.run.run_id) if line.run else None,
        "checked": line.checked is not None,
        "stages": line.stages,
        "guarded": line.guarded,
        "guards": len(line.outline.guards) if line.outline is not None else 0,
        "meter": _drawn(charts.meter(line.guarded, line.stages, title=f"stages of {dag_id} guarded")),
        "severities": _counts(line.severities),
        "trend": _drawn(charts.trend(bars, title=f"last runs of {dag_id}", name=name)),
        "trends": len(bars),
        "answers": line.outline.answers if line.outline is not None else {},
    }


def _bar(run: RunRecord, counted: Mapping[Mark, int], root: str) -> charts.Bar:
    passed, stopped = counted.get(Mark.PASSED, 0), counted.get(Mark.FAILED, 0)
    alarmed = counted.get(Mark.OVERRIDDEN, 0) + counted.get(Mark.UNPROVEN, 0)
    other = sum(counted.values()) - passed - stopped - alarmed
    label = f"{run.run_id}: {passed} passed, {stopped} failed, {alarmed} against what was concluded, {other} other"
    return charts.Bar(passed, stopped, alarmed, other, label, airflow_url(root, run.dag_id, run.run_id))


def dag_values(session: Session, record: DagRecord, outline: Outline | None, root: str) -> dict[str, Any]:
    """Return what the page of a DAG shows."""
    values: dict[str, Any] = {
        "root": root,
        "record": record,
        "outline": outline,
        "organisation": organisation(),
        "airflow": airflow_url(root, record.dag_id),
    }
    if outline is None:
        return values
    coverage = outline.coverage
    runs = records.recent_runs(session, [record.dag_id], TREND)[record.dag_id]
    seen = records.glimpses(session, [run.key for run in runs], outline.guards)
    stood = [(run, glimpsed(outline, seen[run.key])) for run in runs]
    last = stood[-1] if stood else None
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
        "meter": _drawn(charts.meter(coverage.guarded, len(coverage.counted), title="stages guarded")),
        "picture": _drawn(picture),
        "naked": sorted(naked),
        "last": last[0] if last else None,
        "last_result": str(result_of(last[0], last[1].values())) if last else None,
        "last_look": _LOOKS[result_of(last[0], last[1].values())] if last else None,
        "threats": [(threat, _where(coverage, threat.id)) for threat in catalogue().values()],
        "answered": len(catalogue()) - len(coverage.unanswered),
        "stages": [_stage_values(stage) for stage in coverage.stages],
        "guards": [_history(name, outline, stood, root) for name in outline.pipeline.nodes if name in outline.guards],
        "runs": [(run, airflow_url(root, run.dag_id, run.run_id), str(result_of(run, marks.values()))) for run, marks in stood],
        "check": _to_verify(root, [(run.dag_id, run.run_id) for run, _ in reversed(stood)] if outline.guards else []),
        "idle": coverage.idle,
        "plans": _plans(outline),
    }


def _notes(coverage: Coverage) -> dict[str, str]:
    return {stage.id: f"exempt: {stage.exempt}" for stage in coverage.stages if stage.exempt}


def _stage_values(stage: StageCoverage) -> dict[str, Any]:
    return {
        "id": stage.id,
        "guarded": stage.guarded,
        "exempt": stage.exempt,
        "before": [(watch.guard, str(watch.effect), watch.reason) for watch in stage.before.guards],
        "after": [(watch.guard, str(watch.effect), watch.reason) for watch in stage.after.guards],
        "threats": [catalogue()[name].title for name in stage.threats],
    }


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
        "strip": _drawn(charts.strip(cells, title=f"how {name} stood in the last {amount(len(cells), 'run')}")) if cells else "",
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


def run_values(session: Session, record: DagRecord, view: RunView, root: str, log: bool) -> dict[str, Any]:
    """Return what the page of a run shows."""
    run = view.run
    witnesses = [guard.witness for guard in view.guards if guard.witness is not None]
    by_hand = sorted({act for guard in view.guards for act in guard.acts if not act.noted}, key=lambda act: act.when)
    findings, more = _findings(view.guards, root, run)
    links = {mark: sum(link.mark is mark for link in view.links) for mark in LinkMark}
    downloads = {name: _page_url(root, name, dag_id=run.dag_id, run_id=run.run_id) for name in _DOWNLOADS}
    return {
        "root": root,
        "record": record,
        "view": view,
        "run": run,
        "result": str(view.result),
        "look": _LOOKS[view.result],
        "graph": _drawn(evidence_graph(view, root)) if view.guards else "",
        "links": links,
        "broken": [link for link in view.links if link.mark is not LinkMark.VERIFIED],
        "guards": [_guard_values(guard, root, run) for guard in view.guards],
        "counts": [
            (str(mark), sum(g.mark is mark for g in view.guards), _MARK_LOOKS[mark])
            for mark in Mark
            if any(g.mark is mark for g in view.guards)
        ],
        "findings": findings[:MOST_FINDINGS],
        "more_findings": more + max(0, len(findings) - MOST_FINDINGS),
        "by_hand": [(act, deed(act), _task_of(act)) for act in by_hand],
        "log": log,
        "keys": sorted({(witness.key.name, witness.key.key_id, witness.key.algorithm) for witness in witnesses}),
        "downloads": downloads,
        "dag_href": airflow_url(root, run.dag_id),
        "airflow": airflow_url(root, run.dag_id, run.run_id),
        "command": verify_command(run.dag_id, run.run_id),
        "users": sorted({witness.attested.triggered_by for witness in witnesses if witness.attested.triggered_by}),
    }


def _marks(guards: Sequence[GuardView]) -> list[tuple[Mark, int]]:
    found = Counter(guard.mark for guard in guards)
    return [(mark, found[mark]) for mark in Mark if found[mark]]


_DOWNLOADS = ("evidence.zip", "report.html", "findings.json", "findings.sarif")


def verify_command(dag_id: str, run_id: str) -> str:
    """Return the command that verifies the evidence of a run elsewhere."""
    import shlex

    return f"pipesec verify-run evidence.zip {shlex.quote(dag_id)} {shlex.quote(run_id)} --trusted-keys trusted-keys.yaml"


def _task_of(act: Act) -> str:
    if act.task_id is None:
        return "tasks of the run"
    return act.task_id if act.map_index in (None, -1) else f"{act.task_id}[{act.map_index}]"


def evidence_graph(view: RunView, root: str | None) -> str:
    """Draw the guards of a run and the links of their evidence. Without a root nothing in it is a link, and it stands alone."""
    outline = view.outline
    marks: dict[tuple[str, str], LinkMark] = {}
    worst = (LinkMark.BROKEN, LinkMark.MISSING, LinkMark.VERIFIED)
    for link in view.links:
        edge = link.above[0], link.below[0]
        if edge[0] in outline.guards and edge[1] in outline.guards:
            marks[edge] = min(marks.get(edge, link.mark), link.mark, key=worst.index)
    upstream: dict[str, set[str]] = {name: set(outline.edges[name]) for name in outline.guards}
    for above, below in marks:
        upstream[below].add(above)
    order = [name for name in outline.pipeline.nodes if name in outline.guards]
    place = {name: number for number, name in enumerate(order)}
    nodes: dict[str, Node] = {}
    for name in order:
        node = outline.pipeline.nodes[name]
        ahead = tuple(sorted(other for other in upstream[name] if place[other] < place[name]))
        nodes[name] = Node(name, ahead, Kind.GUARD, warns=node.warns, operator=node.operator, label=name, group=node.group)
    shown = {name: view.marks.get(name, Mark.NOT_RUN) for name in nodes}
    title = f"Evidence of {view.run.run_id}"
    marked = {edge: mark for edge, mark in marks.items() if edge[0] in nodes[edge[1]].upstream}
    pipeline = Pipeline(outline.dag_id, nodes)
    if root is None:
        return draw(pipeline, title=title, marks=shown, links=marked)
    hrefs = {
        guard.task_id: airflow_url(root, view.run.dag_id, view.run.run_id, guard.task_id, guard.map_index)
        for guard in view.guards
    }
    return draw(pipeline, title=title, marks=shown, links=marked, hrefs=hrefs, inline=True)


def _guard_values(guard: GuardView, root: str, run: RunRecord) -> dict[str, Any]:
    witness = guard.witness
    return {
        "view": guard,
        "name": guard.name,
        "mark": str(guard.mark),
        "look": _MARK_LOOKS[guard.mark],
        "why": guard.why,
        "href": airflow_url(root, run.dag_id, run.run_id, guard.task_id, guard.map_index),
        "seconds": None if witness is None else round((witness.attested.finished - witness.attested.started).total_seconds(), 2),
        "tries": guard.instance.try_number if guard.instance is not None else None,
        "witness": witness,
        "summed": _summed(witness) if witness is not None else "",
    }


def _summed(witness: Witness) -> str:
    passed, warned, failed = witness.attested.tests
    parts = [(passed, "held"), (warned, "let be"), (failed, "failed")]
    return ", ".join(f"{amount(len(names), 'control')} {what}" for names, what in parts if names)


def _findings(guards: Iterable[GuardView], root: str, run: RunRecord) -> tuple[list[dict[str, Any]], int]:
    """The findings of the latest attempts, those that block first, and how many were only counted."""
    rows = []
    more = 0
    for guard in guards:
        if guard.witness is None:
            continue
        attested = guard.witness.attested
        more += attested.more_findings
        href = airflow_url(root, run.dag_id, run.run_id, guard.task_id, guard.map_index)
        rows += [finding_values(finding, attested.controls, guard.name, href) for finding in attested.findings]
    rows.sort(key=lambda row: (not row["blocks"], _RANK.get(row["status"], 0), -row["rank"], row["guard"]))
    return rows, more


def all_findings(view: RunView) -> tuple[list[dict[str, Any]], int]:
    """Return every finding that was attested in the latest attempts, those that block first, and how many were only counted."""
    return _findings(view.guards, "", view.run)


def finding_values(
    finding: Mapping[str, Any], controls: Mapping[str, Mapping[str, Any]], guard: str, href: str | None
) -> dict[str, Any]:
    """Return what a table shows of a finding, as it was attested. What an attestation should have and lacks is empty."""
    control = controls.get(str(finding.get("control")), {})
    severity = str(finding.get("severity") or "")
    waived = finding.get("waived")
    return {
        "guard": guard,
        "href": href,
        "control": str(finding.get("control") or ""),
        "title": str(control.get("title") or ""),
        "remedy": str(control.get("remedy") or ""),
        "references": [str(item) for item in control.get("references") or ()],
        "status": str(finding.get("status") or ""),
        "severity": severity,
        "rank": len(LABELS) - LABELS.index(severity) if severity in LABELS else 0,
        "blocks": bool(finding.get("blocks")),
        "subject": str(finding.get("subject") or ""),
        "digest": str(finding.get("digest") or ""),
        "message": str(finding.get("message") or ""),
        "count": finding.get("count"),
        "waived": {str(key): str(value) for key, value in waived.items()} if isinstance(waived, Mapping) else None,
    }


def task_values(
    session: Session, record: DagRecord, view: RunView, task_id: str, map_index: int, root: str, log: bool
) -> dict[str, Any]:
    """Return what the page of a task instance shows: of a guard what it attested, of another task the guards around it."""
    run, outline = view.run, view.outline
    values: dict[str, Any] = {
        "root": root,
        "record": record,
        "view": view,
        "run": run,
        "task_id": task_id,
        "run_href": airflow_url(root, run.dag_id, run.run_id),
        "dag_href": airflow_url(root, run.dag_id),
        "log": log,
        "guard": None,
        "is_guard": task_id in outline.guards,
        "result": str(view.result),
        "look": _LOOKS[view.result],
    }
    mine = [guard for guard in view.guards if guard.task_id == task_id]
    if task_id not in outline.guards:
        by_task = {guard.task_id: guard for guard in view.guards}
        pipeline = outline.pipeline
        around = {"before": pipeline.guards_before(task_id), "after": pipeline.guards_after(task_id)}
        shown = {
            side: [_guard_values(by_task[name], root, run) for name in names if name in by_task] for side, names in around.items()
        }
        stage = next((stage for stage in outline.coverage.stages if stage.id == task_id), None)
        return values | {"around": shown, "stage": _stage_values(stage) if stage else None, "instances": []}
    chosen = next((guard for guard in mine if guard.map_index == map_index), mine[0] if len(mine) == 1 else None)
    values["instances"] = [_guard_values(guard, root, run) for guard in mine]
    if chosen is None:
        return values
    summary = records.summaries(session, [run.key], [task_id])[run.key].get((task_id, chosen.map_index))
    return values | {"guard": _guard_values(chosen, root, run), **_attested_values(chosen, summary)}


def _attested_values(guard: GuardView, summary: Any) -> dict[str, Any]:
    told = summary.get("attestation") if isinstance(summary, dict) else None
    witness = guard.witness
    values: dict[str, Any] = {
        "witness": witness,
        "faults": guard.faults,
        "acts": [(act, deed(act)) for act in guard.acts if not act.noted],
        "attempts": [(one, _MARK_OF.get(one.attested.outcome, "stop")) for one in reversed(guard.attempts)],
        "xcom": None if told is None else str(told),
        "xcom_agrees": witness is not None and told == f"sha256:{witness.sha256}",
    }
    if witness is None:
        return values | {"attested": None, "controls": [], "findings": [], "subjects": []}
    attested = witness.attested
    passed, warned, failed = attested.tests
    known = attested.controls
    controls = [
        {"id": name, "state": state, "look": look, "title": str(known.get(name, {}).get("title") or "")}
        for names, state, look in ((failed, "failed", "stop"), (warned, "let be", "warn"), (passed, "held", "good"))
        for name in names
    ]
    rows = [finding_values(finding, known, guard.name, None) for finding in attested.findings]
    rows.sort(key=lambda row: (not row["blocks"], _RANK.get(row["status"], 0), -row["rank"]))
    return values | {
        "attested": attested,
        "controls": controls,
        "findings": rows[:MOST_FINDINGS],
        "more_findings": attested.more_findings + max(0, len(rows) - MOST_FINDINGS),
        "subjects": [(name, sorted(digests.items())) for name, digests in attested.subjects],
        "links": [(link, next((one for one in _linked(guard, link) if one), "")) for link in attested.links],
        "policy": attested.policy or {},
        "waivers": list(attested.waivers),
    }


_MARK_OF = {"PASSED": "good", "FAILED": "stop", "ERROR": "stop"}


def _linked(guard: GuardView, link: Any) -> list[str]:
    return [fault for fault in guard.faults if str(link.task_id) in fault]
