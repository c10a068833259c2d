"""The organisation's plan: every DAG that Airflow parses is held against it, whether or not it has heard of this package.

Airflow finds this module by the entry point ``airflow.policy`` and calls it for each DAG in the DAG processor, and again on the
worker that runs a task. ``[pipesec] plan_url`` says which plan; without it nothing happens.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from airflow.policies import hookimpl

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_pipesec.plan import Effective, Plan

__all__ = ["dag_policy"]

log = logging.getLogger(__name__)
MODES = ("enforce", "weave", "report")


@hookimpl(trylast=True)
def dag_policy(dag: DAG) -> None:
    """Weave, refuse or report a DAG, as the organisation's plan says.

    Last of all policies, since another may change the DAG. Raises ``AirflowClusterPolicyViolation``, which Airflow shows as an
    import error of the DAG's file: also when the plan cannot be read, and when anything else goes wrong here.
    """
    from airflow.sdk.configuration import conf

    url = str(conf.get("pipesec", "plan_url", fallback="") or "").strip()
    if not url:
        return
    from airflow.exceptions import AirflowClusterPolicyViolation

    override = str(conf.get("pipesec", "plan_mode", fallback="") or "").strip()
    try:
        _apply(dag, url, override)
    except AirflowClusterPolicyViolation:
        raise
    except Exception as error:
        from airflow_pipesec.errors import PipesecError, place_of

        text = str(error) if isinstance(error, PipesecError) else f"the organisation's plan: {place_of(error)}"
        if override == "report":
            log.warning("pipesec: DAG %s: %s", dag.dag_id, text)
            return
        raise AirflowClusterPolicyViolation(text) from None


def _apply(dag: DAG, url: str, override: str) -> None:
    from airflow_pipesec.dags import facts_of
    from airflow_pipesec.errors import PlanError
    from airflow_pipesec.plan import Mode
    from airflow_pipesec.weave import environment_here, told, weave

    if override and override not in MODES:
        raise PlanError(f"[pipesec] plan_mode is none of {', '.join(MODES)}. Mend it, or leave it out for the plan's own mode.")
    plan = organisation_plan(url)
    effective = plan.for_dag(facts_of(dag), environment=environment_here())
    if effective is None:
        mode = Mode(override or plan.mode(environment_here()))
        if plan.refuses_unmatched(mode):
            text = f"{plan.where} has no entry for DAG {dag.dag_id}, and refuses those. Ask who owns the plan for one."
            _refuse_or_report(dag, text, mode)
        return
    if effective.exempt:
        return
    mode = Mode(override or effective.mode)
    if mode is Mode.WEAVE:
        weave(dag, effective, strict=True)
        return
    from airflow_pipesec.enforce import objections

    found = objections(dag, effective)
    if found:
        _refuse_or_report(dag, f"{told(dag, effective, found)} {_in_one_line(effective, url)}", mode)


def _refuse_or_report(dag: DAG, text: str, mode: str) -> None:
    from airflow.exceptions import AirflowClusterPolicyViolation

    if mode == "report":
        log.warning("pipesec: %s", text)
        return
    raise AirflowClusterPolicyViolation(text)


def _in_one_line(plan: Effective, url: str) -> str:
    chosen = f", environment={plan.environment!r}" if plan.environment else ""
    return f"Or add all of them with one line at the end of the file: airflow_pipesec.secure(dag, {url!r}{chosen})"


def organisation_plan(url: str) -> Plan:
    """Read the organisation's plan, and demand its signature where ``[pipesec] plan_keys`` says whose.

    Raises :class:`~airflow_pipesec.errors.PlanError` for one that cannot be read or is not believed.
    """
    from airflow.sdk.configuration import conf

    from airflow_pipesec.errors import PipesecError, PlanError
    from airflow_pipesec.plan import Plan
    from airflow_pipesec.signing import TrustedKeys

    keys = str(conf.get("pipesec", "plan_keys", fallback="") or "").strip()
    try:
        trusted = TrustedKeys.load(keys) if keys else None
    except PipesecError as error:
        raise PlanError(f"the keys that plans are signed with ([pipesec] plan_keys): {error}") from None
    return Plan.load(url, trusted=trusted)
