"""Views of one run: what the pages of a run and of a task instance show. Nothing here decides who may see it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from airflow_pipesec import archive
from airflow_pipesec.acts import Act, deed
from airflow_pipesec.drawing import LinkMark, Mark, draw
from airflow_pipesec.evidence import Witness
from airflow_pipesec.findings import amount
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.ui import records
from airflow_pipesec.ui.judged import GuardView, RunView
from airflow_pipesec.ui.looks import LOOKS, MARK_LOOKS, airflow_url, drawn, page_url, stage_values
from airflow_pipesec.ui.overview import LABELS
from airflow_pipesec.ui.records import DagRecord, RunRecord

__all__ = ["all_findings", "evidence_graph", "run_values", "task_values", "verify_command"]

MOST_FINDINGS = 300  # in a table of a page; the downloads have all
_RANK = {"error": 0, "fail": 0, "skip": 1, "pass": 2}


def run_values(session: Session, record: DagRecord, view: RunView, root: str, log: bool) -> dict[str, Any]:
    """Return what the page of a run shows."""
    run = view.run
    witnesses = [guard.witness for guard in view.guards if guard.witness is not None]
    by_hand = sorted({act for guard in view.guards for act in guard.acts if not act.noted}, key=lambda act: act.when)
    findings, more = _findings(view.guards, root, run)
    links = {mark: sum(link.mark is mark for link in view.links) for mark in LinkMark}
    downloads = {name: page_url(root, name, dag_id=run.dag_id, run_id=run.run_id) for name in _DOWNLOADS}
    return {
        "root": root,
        "record": record,
        "view": view,
        "run": run,
        "result": str(view.result),
        "look": LOOKS[view.result],
        "graph": drawn(evidence_graph(view, root)) if view.guards else "",
        "links": links,
        "broken": [link for link in view.links if link.mark is not LinkMark.VERIFIED],
        "guards": [_guard_values(guard, root, run) for guard in view.guards],
        "counts": [(str(mark), number, MARK_LOOKS[mark]) for mark, number in _marks(view.guards)],
        **_shown(findings, more),
        "by_hand": [(act, deed(act), _task_of(act)) for act in by_hand],
        "log": log,
        "keys": sorted({(witness.key.name, witness.key.key_id, witness.key.algorithm) for witness in witnesses}),
        "downloads": downloads,
        "dag_href": airflow_url(root, run.dag_id),
        "command": verify_command(run.dag_id, run.run_id),
        "users": sorted({witness.attested.triggered_by for witness in witnesses if witness.attested.triggered_by}),
    }


def _marks(guards: Sequence[GuardView]) -> list[tuple[Mark, int]]:
    found = Counter(guard.mark for guard in guards)
    return [(mark, found[mark]) for mark in Mark if found[mark]]


_DOWNLOADS = ("evidence.zip", "report.html", "findings.json", "findings.sarif")


def verify_command(dag_id: str, run_id: str) -> str:
    """Return the command that verifies the evidence of a run elsewhere."""
    return archive.verify_command("evidence.zip", dag_id, run_id, keys="trusted-keys.yaml")


def _task_of(act: Act) -> str:
    if act.task_id is None:
        return "tasks of the run"
    return act.task_id if act.map_index in (None, -1) else f"{act.task_id}[{act.map_index}]"


def evidence_graph(view: RunView, root: str | None) -> str:
    """Draw the guards of a run and the links of their evidence, for a page with our style; without a root nothing is a link."""
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
        return draw(pipeline, title=title, marks=shown, links=marked, inline=True)
    hrefs: dict[str, str] = {}
    for guard in view.guards:
        # Of a mapped guard to the instance that the picture shows: the first of the worst.
        if guard.mark is shown.get(guard.task_id):
            url = airflow_url(root, view.run.dag_id, view.run.run_id, guard.task_id, guard.map_index)
            hrefs.setdefault(guard.task_id, url)
    return draw(pipeline, title=title, marks=shown, links=marked, hrefs=hrefs, inline=True)


def _guard_values(guard: GuardView, root: str, run: RunRecord) -> dict[str, Any]:
    witness = guard.witness
    return {
        "view": guard,
        "name": guard.name,
        "mark": str(guard.mark),
        "look": MARK_LOOKS[guard.mark],
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


def _shown(findings: Sequence[Mapping[str, Any]], more: int) -> dict[str, Any]:
    """As many findings as a table of a page takes, and how many there are besides."""
    return {"findings": findings[:MOST_FINDINGS], "more_findings": more + max(0, len(findings) - MOST_FINDINGS)}


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
        "look": LOOKS[view.result],
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
        return values | {"around": shown, "stage": stage_values(stage) if stage else None, "instances": []}
    chosen = next((guard for guard in mine if guard.map_index == map_index), mine[0] if len(mine) == 1 else None)
    values["instances"] = [_guard_values(guard, root, run) for guard in mine]
    if chosen is None:
        return values
    summary = records.summaries(session, [run.key], [task_id])[run.key].get((task_id, chosen.map_index))
    return values | {"guard": _guard_values(chosen, root, run), **_attested_values(chosen, view, root, summary)}


def _attested_values(guard: GuardView, view: RunView, root: str, summary: Any) -> dict[str, Any]:
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
    key = guard.task_id, guard.map_index
    broken = {link.above for link in view.links if link.below == key and link.mark is not LinkMark.VERIFIED}
    controls = [
        {"id": name, "state": state, "look": look, "title": str(known.get(name, {}).get("title") or "")}
        for names, state, look in ((failed, "failed", "stop"), (warned, "let be", "warn"), (passed, "held", "good"))
        for name in names
    ]
    return values | {
        "attested": attested,
        "controls": controls,
        **_shown(*_findings([guard], root, view.run)),
        "subjects": [(name, sorted(digests.items())) for name, digests in attested.subjects],
        "links": [(link, (link.task_id, link.map_index) in broken) for link in attested.links],
        "policy": attested.policy or {},
        "waivers": list(attested.waivers),
    }


_MARK_OF = {"PASSED": "good", "FAILED": "stop", "ERROR": "stop"}
