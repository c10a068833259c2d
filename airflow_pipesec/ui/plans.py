"""The organisation's plan, as far as the API server is told which one it is."""

from __future__ import annotations

from typing import Any

from airflow.configuration import conf

from airflow_pipesec.cluster_policy import organisation_plan
from airflow_pipesec.errors import PipesecError
from airflow_pipesec.plan import shown_place

__all__ = ["organisation"]


def organisation() -> dict[str, Any] | None:
    """Return what the organisation's plan says here, or why it cannot be read; None where the API server is told of none.

    What the DAG processor and the workers obey is what they are told; this is what the API server is.
    """
    url = _setting("plan_url")
    if not url:
        return None
    override, environment = _setting("plan_mode"), _setting("environment") or None
    told: dict[str, Any] = {
        "place": shown_place(url),
        "environment": environment,
        "trouble": None,
        "signed": bool(_setting("plan_keys")),
    }
    try:
        plan = organisation_plan(url)
        return told | {"mode": override or str(plan.mode(environment)), "sha256": plan.sha256, "signed_by": plan.signed_by}
    except PipesecError as error:
        return told | {"mode": override, "sha256": "", "signed_by": None, "trouble": str(error)}


def _setting(name: str) -> str:
    return str(conf.get("pipesec", name, fallback="") or "").strip()
