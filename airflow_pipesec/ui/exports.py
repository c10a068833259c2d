"""Exports: a run for whoever has no Airflow: its evidence as a zip, and what is to be said of it as a page, JSON and SARIF."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, cast

from fastapi import HTTPException, Response
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from airflow_pipesec import __version__
from airflow_pipesec.archive import write_archive
from airflow_pipesec.drawing_style import style
from airflow_pipesec.errors import PipesecError
from airflow_pipesec.run_report import findings_document
from airflow_pipesec.run_report import findings_sarif as sarif_of
from airflow_pipesec.ui import looks, render, run_views
from airflow_pipesec.ui.judged import RunView
from airflow_pipesec.ui.proofs import stored_evidence
from airflow_pipesec.ui.records import DagRecord

__all__ = ["archive", "findings_json", "findings_sarif", "report"]

IN_MEMORY = 8 << 20
PIECE = 1 << 18


def archive(dag_id: str, run_id: str) -> Response:
    """The evidence of a run, byte for byte, for `pipesec verify-run`."""
    # Closed by who sends it, when it is sent.
    file = cast("BinaryIO", tempfile.SpooledTemporaryFile(max_size=IN_MEMORY))  # noqa: SIM115 - see above
    try:
        number = write_archive(stored_evidence(dag_id, run_id), dag_id, run_id, file)
    except PipesecError as error:
        file.close()
        raise HTTPException(502, f"The evidence could not be read: {error}") from None
    if not number:
        file.close()
        raise HTTPException(404, "This run has left no evidence.")
    size = file.tell()
    file.seek(0)

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(PIECE):
                yield piece

    headers = _named(dag_id, run_id, "evidence", "zip") | {"content-length": str(size)}
    return StreamingResponse(pieces(), media_type="application/zip", headers=headers)


def findings_json(record: DagRecord, view: RunView) -> Response:
    """All findings of a run, as JSON."""
    return _document(findings_document(*_attested(view)), view, "json")


def findings_sarif(record: DagRecord, view: RunView) -> Response:
    """The findings of a run that are none to be proud of, as SARIF 2.1.0."""
    return _document(sarif_of(*_attested(view)), view, "sarif")


def _attested(view: RunView) -> tuple[str, str, list[Any], list[Any]]:
    witnesses = [guard.witness for guard in view.guards if guard.witness is not None]
    return view.run.dag_id, view.run.run_id, witnesses, list(view.verification)


def _document(document: Any, view: RunView, kind: str) -> Response:
    body = json.dumps(document, indent=1).encode()
    headers = _named(view.run.dag_id, view.run.run_id, "findings", kind)
    return Response(body, media_type="application/json", headers=headers)


def report(record: DagRecord, view: RunView) -> Response:
    """A page about a run that needs nothing else: to print, to file, to send. It runs nothing and asks for nothing."""
    # White paper, whatever the screen: dark is what nothing here is.
    rules = f"{style(dark='.dark')}\n{render.static_text('report.css')}"
    # The one style that may count is this one, whoever opens the file and wherever.
    digest = base64.b64encode(hashlib.sha256(rules.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    findings, more = run_views.all_findings(view)
    body = render.text(
        "report.html",
        {
            "record": record,
            "view": view,
            "run": view.run,
            "look": looks.LOOKS[view.result],
            "rules": Markup(rules),  # noqa: S704 - ours, and nothing of the run is in it
            "policy": policy,
            "graph": looks.drawn(run_views.evidence_graph(view, None)),
            "findings": findings,
            "more": more,
            "guards": view.guards,
            "command": run_views.verify_command(view.run.dag_id, view.run.run_id),
            "made": datetime.now(UTC),
            "pipesec": __version__,
        },
    )
    headers = _named(view.run.dag_id, view.run.run_id, "report", "html") | {"content-security-policy": policy}
    return Response(body, media_type="text/html; charset=utf-8", headers=headers)


def _named(dag_id: str, run_id: str, what: str, kind: str) -> dict[str, str]:
    """Say that it is to be kept as a file, by a name in which nothing is left that a file system or a header reads."""
    plain = "-".join(re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.")[:60] or "x" for part in (what, dag_id, run_id))
    return {"content-disposition": f'attachment; filename="{plain}.{kind}"', "cache-control": "no-store"}
