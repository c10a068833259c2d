"""The organisation's plan: every DAG that Airflow parses is held against it, whether or not it has heard of this package.

Airflow finds this module by the entry point ``airflow.policy`` and calls it for each DAG in the DAG processor, and again on the
worker that runs a task. ``[pipesec] plan_url`` says which plan; without it nothing happens.
"""

from __future__ import annotations

import logging
import os
import time
from threading import Thread
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from airflow_pipesec.plan import Effective, Mode, Plan

__all__ = ["dag_policy", "organisation_plan"]

# Airflow's own marker. Importing Airflow for it would let Airflow look into this module before there is anything in it.
hookimpl = pluggy.HookimplMarker("airflow.policy")
log = logging.getLogger(__name__)
# A plan that lies far away is waited for this many seconds, and what came of it counts for as many: a file may define many DAGs.
PATIENCE = 8.0
_read: dict[str, tuple[float, bytes | Exception]] = {}


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
    override = str(conf.get("pipesec", "plan_mode", fallback="") or "").strip()
    try:
        _apply(dag, url, override)
    except Exception as error:
        if override == "report":
            _report(dag, error)
            return
        from airflow.exceptions import AirflowClusterPolicyViolation

        raise AirflowClusterPolicyViolation(_text_of(error)) from None


def _text_of(error: Exception) -> str:
    from airflow_pipesec.errors import PipesecError, place_of

    return str(error) if isinstance(error, PipesecError) else f"the organisation's plan could not be applied: {place_of(error)}"


def _report(dag: DAG, error: Exception) -> None:
    log.warning("pipesec: DAG %s: %s", dag.dag_id, _text_of(error))


def _apply(dag: DAG, url: str, override: str) -> None:
    from airflow_pipesec.dags import facts_of
    from airflow_pipesec.errors import PlanError
    from airflow_pipesec.plan import Mode
    from airflow_pipesec.undisguised import bundle_being_parsed
    from airflow_pipesec.weave import environment_here

    if override and override not in list(Mode):
        raise PlanError(f"[pipesec] plan_mode is none of {', '.join(Mode)}. Mend it, or leave it out for the plan's own mode.")
    plan = organisation_plan(url)
    environment = environment_here()
    effective = plan.for_dag(facts_of(dag, bundle_being_parsed), environment=environment)
    if effective is not None and effective.exempt:
        return
    mode = Mode(override or (plan.mode(environment) if effective is None else effective.mode))
    if effective is None and not plan.refuses_unmatched(mode):
        return
    try:
        if effective is None:
            raise PlanError(f"{plan.where} has no entry for DAG {dag.dag_id}, and refuses those. Ask who owns the plan for one.")
        _hold(dag, effective, mode, url)
    except Exception as error:
        if mode is not Mode.REPORT:
            raise
        _report(dag, error)


def _hold(dag: DAG, effective: Effective, mode: Mode, url: str) -> None:
    """Weave a DAG or look at it. Raises :class:`~airflow_pipesec.errors.PlanError` for one that lacks something."""
    from airflow_pipesec.enforce import objections, out_of_order, refusal
    from airflow_pipesec.errors import PlanError
    from airflow_pipesec.plan import Mode
    from airflow_pipesec.undisguised import disguises, steered
    from airflow_pipesec.weave import demanded, put_in, told

    if found := list(disguises(dag)):
        raise PlanError(told(dag, effective, found))
    places, exempt = demanded(dag, effective, strict=True)
    if found := list(steered(dag, (place.demand.parameters for place in places))):
        raise PlanError(told(dag, effective, found))
    if mode is Mode.WEAVE:
        added = put_in(dag, effective, places, exempt).added
        # Guards that were there already need not stand in the order in which weaving puts them.
        if len(added) < len(places) and (found := list(out_of_order(dag, places))):
            raise PlanError(told(dag, effective, found))
    elif found := objections(dag, places, exempt):
        raise PlanError(refusal(dag, effective, found, _in_one_line(effective, url)))


def _in_one_line(plan: Effective, url: str) -> str | None:
    """The line that adds all guards; none where the plan's URL holds what is not for everybody's eyes."""
    from airflow_pipesec.plan import shown_place

    if shown_place(url) != url:
        return None
    chosen = f", environment={plan.environment!r}" if plan.environment else ""
    return f"import airflow_pipesec; airflow_pipesec.secure(dag, {url!r}{chosen})"


def organisation_plan(url: str) -> Plan:
    """Read the organisation's plan, and demand its signature where ``[pipesec] plan_keys`` says whose.

    Raises :class:`~airflow_pipesec.errors.PlanError` for one that cannot be read, soon enough, or is not believed.
    """
    from airflow.sdk.configuration import conf

    from airflow_pipesec.errors import PipesecError, PlanError
    from airflow_pipesec.plan import Plan, shown_place
    from airflow_pipesec.signing import TrustedKeys

    if "://" not in url and not os.path.isabs(url):  # noqa: PTH117 - as text
        raise PlanError(
            f"[pipesec] plan_url={shown_place(url)} is no absolute path: each process would look elsewhere. Give one, or a URL."
        )
    keys = str(conf.get("pipesec", "plan_keys", fallback="") or "").strip()
    try:
        trusted = TrustedKeys.load(keys) if keys else None
    except PipesecError as error:
        raise PlanError(f"the keys that plans are signed with ([pipesec] plan_keys): {error}") from None
    return Plan.read(_bytes_of(url), f"the organisation's plan {shown_place(url)}", trusted=trusted)


def _bytes_of(url: str) -> bytes:
    """Read the plan, within the time that there is. What is far away is not asked for each DAG of a file."""
    now = time.monotonic()
    far = "://" in url
    when, found = _read.get(url, (0.0, None)) if far else (0.0, None)
    if found is None or now - when > PATIENCE:
        found = _read_within(url, PATIENCE)
        if far:
            _read[url] = time.monotonic(), found
    if isinstance(found, Exception):
        raise found
    return found


def _read_within(url: str, seconds: float) -> bytes | Exception:
    from airflow_pipesec.errors import PipesecError, PlanError, place_of
    from airflow_pipesec.plan import MAX_PLAN_BYTES, shown_place
    from airflow_pipesec.storage import open_store

    answers: list[bytes | Exception] = []

    def work() -> None:
        try:
            answers.append(open_store(url).read(limit=MAX_PLAN_BYTES))
        except Exception as error:
            answers.append(error)

    # Libraries of clouds try again for minutes. What hangs is left to itself, and ends with the process.
    thread = Thread(target=work, name="pipesec-plan", daemon=True)
    thread.start()
    thread.join(seconds)
    where = f"the organisation's plan {shown_place(url)}"
    remedy = "Mend [pipesec] plan_url, or what it names: until then no DAG runs."
    if not answers:
        return PlanError(f"{where} did not come within {seconds:.0f} s. {remedy}")
    if isinstance(answers[0], PipesecError):
        return PlanError(f"{where} cannot be read: {answers[0]} {remedy}")
    if isinstance(answers[0], Exception):
        return PlanError(f"{where} cannot be read: {place_of(answers[0])}. {remedy}")
    return answers[0]
