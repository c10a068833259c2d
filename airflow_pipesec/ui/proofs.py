"""Proofs: the evidence of a run is read and verified when it is shown, and what came of it is remembered for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Container
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from sqlalchemy.orm import Session

from airflow_pipesec.errors import PipesecError, place_of
from airflow_pipesec.evidence import Evidence, RunEvidence
from airflow_pipesec.findings import escaped
from airflow_pipesec.guards.trust import configured_trusted_keys, evidence_url, run_evidence
from airflow_pipesec.ui import records
from airflow_pipesec.ui.judged import Result, RunView, judge
from airflow_pipesec.ui.outline import Outline

__all__ = ["Checked", "checked", "evidence_of", "remembered", "remembered_alarms", "run_view", "stored_evidence"]

NO_KEYS = (
    "This API server trusts no keys, so no evidence can be verified. Put what `pipesec keygen --signing` printed into a file, "
    "and set AIRFLOW__PIPESEC__TRUSTED_KEYS to its path for the API server too."
)
NO_STORE = (
    "There is no evidence store at {} on this API server. Set AIRFLOW__PIPESEC__EVIDENCE_URL for the API server too, to the "
    "folder or URL that the workers write to."
)
FRESH = 20.0  # seconds for which a verdict is given again without another look
REMEMBERED = 20_000


@dataclass(frozen=True, slots=True)
class Checked:
    """What a run came to when its evidence was last read, and when that was (seconds of the monotonic clock)."""

    result: Result
    why: str
    at: float


_memory: OrderedDict[tuple[str, str], Checked] = OrderedDict()
_lock = Lock()


def stored_evidence(dag_id: str, run_id: str) -> RunEvidence:
    """Return the place of a run's evidence. Raises :class:`~airflow_pipesec.errors.PipesecError` where there is none."""
    return run_evidence(dag_id, run_id)


def evidence_of(dag_id: str, run_id: str) -> Evidence | str:
    """Read and verify the evidence of a run; the reason where that cannot be done."""
    try:
        trusted = configured_trusted_keys()
        if trusted is None:
            return NO_KEYS
        evidence = stored_evidence(dag_id, run_id).load(dag_id, run_id, trusted)
        url = evidence_url()
        if not evidence.witnesses and not evidence.refused and "://" not in url and not Path(url).is_dir():
            return NO_STORE.format(escaped(url))
        return evidence
    except PipesecError as error:
        return f"The evidence could not be read: {error}"
    except Exception as error:  # of a library that a store goes through; its words may quote what is secret
        return f"The evidence could not be read ({place_of(error)}). Look at the API server's log and at [pipesec] evidence_url."


def run_view(session: Session, run: records.RunRecord, current: Outline | None, *, log: bool) -> RunView | None:
    """Judge a run by its evidence; None where its DAG cannot be read.

    ``log`` says whether the audit log is asked who did what. Of a run under another version of the DAG that version counts.
    """
    instances = records.instances(session, run.dag_id, run.run_id)
    versions = {item.dag_version for item in instances if item.dag_version is not None}
    outline = records.outline_at(session, versions.pop()) if len(versions) == 1 else None
    outline = outline or current
    if outline is None:
        return None
    acts = records.acts(session, run) if log else None
    evidence: Evidence | str = Evidence()
    if outline.guards:
        evidence = evidence_of(run.dag_id, run.run_id)
    return judge(run, outline, instances, evidence, acts, now=datetime.now(UTC))


def checked(session: Session, run: records.RunRecord, current: Outline | None) -> Checked:
    """Return what a run came to by its evidence, which is read unless that was done just now. Who did what is not in it."""
    had = remembered(run.dag_id, run.run_id)
    if had is not None and time.monotonic() - had.at < FRESH:
        return had
    view = run_view(session, run, current, log=False)
    if view is None:
        return Checked(Result.UNREADABLE, "Airflow's copy of the DAG cannot be read.", time.monotonic())
    return _remember(run, view)


def remembered(dag_id: str, run_id: str) -> Checked | None:
    """Return what a run came to when its evidence was last read here."""
    with _lock:
        return _memory.get((dag_id, run_id))


def remembered_alarms(ids: Container[str]) -> list[tuple[tuple[str, str], Checked]]:
    """Return the runs of some DAGs that did not verify when their evidence was last read here, the latest first."""
    with _lock:
        return [item for item in reversed(_memory.items()) if item[0][0] in ids and item[1].result is Result.ALARM]


def _remember(run: records.RunRecord, view: RunView) -> Checked:
    found = Checked(view.result, view.why, time.monotonic())
    with _lock:
        _memory[run.dag_id, run.run_id] = found
        _memory.move_to_end((run.dag_id, run.run_id))
        while len(_memory) > REMEMBERED:
            _memory.popitem(last=False)
    return found
