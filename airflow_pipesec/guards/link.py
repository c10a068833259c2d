"""The button on a guard's task instance that leads to its evidence."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

__all__ = ["EVIDENCE_LINK", "EvidenceLink"]

EVIDENCE_LINK = "Security evidence"


class EvidenceLink(BaseOperatorLink):
    """Leads to the page of the task instance. Airflow keeps the address beside the task when that ends, also when it failed."""

    name = EVIDENCE_LINK
    # Not by the class's name: what was stored stays found when that changes.
    xcom_key = "_link_pipesec_evidence"

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:
        """Return the address on the server that Airflow's UI came from: a worker need not know that server's name."""
        from airflow.sdk.configuration import conf

        base = urlsplit(str(conf.get("api", "base_url", fallback="") or "")).path.rstrip("/")
        dag, run, task = (quote(part, safe="") for part in (ti_key.dag_id, ti_key.run_id, ti_key.task_id))
        mapped = f"/mapped/{ti_key.map_index}" if ti_key.map_index >= 0 else ""
        return f"{base}/dags/{dag}/runs/{run}/tasks/{task}{mapped}/plugin/pipesec_task"
