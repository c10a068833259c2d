"""Access guards: who triggered this run, and may they."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding, printable
from airflow_pipesec.guards.airflow_api import AirflowAPI, is_local_test, sensible
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.checks.access import Answer, Asked, Touch

__all__ = ["RBACAssertion", "RBACAssertionOperator", "RBACAssertionSensor"]

# What Flask-AppBuilder calls the methods, and the things of a DAG; from the FAB provider's own tables.
_FAB_ACTIONS = {"GET": "can_read", "POST": "can_create", "PUT": "can_edit", "DELETE": "can_delete"}
_FAB_RESOURCES = {
    "audit_log": ("Audit Logs",),
    "code": ("DAG Code",),
    "dependencies": ("DAG Dependencies",),
    "hitl_detail": ("HITL Detail",),
    "run": ("DAG Runs",),
    "task": ("Task Instances",),
    "task_instance": ("DAG Runs", "Task Instances"),
    "task_logs": ("Task Logs",),
    "version": ("DAG Versions",),
    "warning": ("DAG Warnings",),
    "xcom": ("XComs",),
}


class RBACAssertion(Guard):
    """What the operator and the sensor share: the person who triggered this run may do what it does.

    :param allowed_users: names of users, one of whom it has to be. (templated)
    :param allowed_roles: names of roles, one of which the person has to hold now. (templated)
    :param required_permission: what Airflow has to permit the person on this DAG, as method and entity: ``("PUT", "dag_run")``.
        Entities are ``dag``, ``dag_run`` (or ``run``), ``task_instance``, ``xcom`` and the others of Airflow's
        ``DagAccessEntity``, in lower case.
    :param allow_scheduled: let runs of the scheduler pass, by the clock or by an asset, which no person triggered and of whom
        nothing else is asked. Backfills and runs of other DAGs keep the name of who began them.
    :param separation_from: who it must not be (four eyes): ``user:NAME``, ``run:DAG_ID/RUN_ID`` for who triggered that run, or
        ``approval:TASK_ID`` for who chose ``Approve`` in that human-in-the-loop task of this run; ``approval:TASK_ID/OPTION``
        for another option than that. (templated)
    :param local_test_user: whom a local ``dag.test()``, which has no person, is judged as. A real run never looks at it.
    :param airflow_conn_id: connection of a service account: host, port and schema of the API server, login and password. It must
        be permitted to read the DAG's audit log, and Airflow's connections, which is who may ask about others (in FAB: users and
        roles). (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = (
        "allowed_users",
        "allowed_roles",
        "separation_from",
        "airflow_conn_id",
        *Guard.template_fields,
    )
    threats: Collection[str] = ("missing-access-control",)

    def __init__(
        self,
        *,
        allowed_users: Sequence[str] = (),
        allowed_roles: Sequence[str] = (),
        required_permission: tuple[str, str] | None = None,
        allow_scheduled: bool = False,
        separation_from: str | None = None,
        local_test_user: str | None = None,
        airflow_conn_id: str = "airflow_api",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.allowed_users = allowed_users
        self.allowed_roles = allowed_roles
        self.required_permission = required_permission
        self.allow_scheduled = allow_scheduled
        self.separation_from = separation_from
        self.local_test_user = local_test_user
        self.airflow_conn_id = airflow_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Ask Airflow about the person who triggered the run."""
        from airflow_pipesec.checks.access import Run, Wanted, assert_access

        if not isinstance(self.allow_scheduled, bool):
            raise ConfigurationError(f"allow_scheduled is a {type(self.allow_scheduled).__name__}. Give True or False.")
        dag_run: Any = context["dag_run"]
        kind = str(getattr(dag_run.run_type, "value", dag_run.run_type))
        cleared = int(getattr(dag_run, "clear_number", 0) or 0)
        run = Run(dag_run.dag_id, kind, dag_run.triggering_user_name, cleared, local=is_local_test())
        airflow = _People(self.airflow_conn_id)
        permission: Any = self.required_permission
        if isinstance(permission, list):  # what a tuple becomes on its way through JSON
            permission = tuple(permission)
        apart = self.separation_from
        wanted = Wanted(
            allowed_users=self.allowed_users,
            allowed_roles=self.allowed_roles,
            permission=permission,
            allow_scheduled=self.allow_scheduled,
            apart_from=None if apart is None else sensible(lambda: airflow.person(apart, run.dag_id, dag_run.run_id)),
            local_user=self.local_test_user,
        )

        def touched() -> Collection[Touch]:
            # What dag.test() runs is on no API server.
            return () if run.local else airflow.touched(run.dag_id, dag_run.run_id, dag_run.run_after)

        try:
            yield from assert_access(run, wanted, sensible(airflow.ask), sensible(touched))
        finally:
            airflow.close()


class RBACAssertionOperator(RBACAssertion, GuardOperator):
    """Stop the pipeline unless its person may do what it does. The parameters are those of :class:`RBACAssertion`."""


class RBACAssertionSensor(RBACAssertion, GuardSensor):
    """Wait until the pipeline's person may do what it does. The parameters are those of :class:`RBACAssertion`."""


class _People(AirflowAPI):
    """Airflow's API server, asked about people."""

    def ask(self, asked: Asked) -> Answer:
        from airflow_pipesec.checks.access import Answer, NotAnswered

        # FAB answers for itself, and does not need this package beside the API server.
        found = self._get(f"/auth/fab/v1/users/{quote(asked.user, safe='')}")
        if found is not None:
            return self._of_fab(found, asked)
        if self._get("/auth/fab/v1/roles", query={"limit": "1"}) is not None:
            return Answer(known=False)
        method, entity = asked.permission or ("", "")
        query = {"user": asked.user, "dag_id": asked.dag_id, "method": method, "entity": entity}
        answer = self._get("/pipesec/access", query=query)
        if answer is None:
            raise NotAnswered("the API server has no /pipesec/access: install airflow-pipesec there as well")
        if answer.get("supported") is not True:
            manager = printable(str(answer.get("manager")))
            raise NotAnswered(f"the auth manager {manager} cannot be asked about another user: use FAB's, or leave the guard out")
        roles = answer.get("roles")
        if not isinstance(answer.get("known"), bool) or not isinstance(roles, list):
            raise TypeError(type(roles).__name__)
        permitted = answer.get("permitted")
        return Answer(answer["known"], tuple(map(str, roles)), permitted if isinstance(permitted, bool) else None)

    def _of_fab(self, user: dict[str, Any], asked: Asked) -> Answer:
        from airflow_pipesec.checks.access import Answer

        if user.get("username") != asked.user or user.get("active") is not True:
            return Answer(known=False)
        roles = tuple(str(role["name"]) for role in user.get("roles") or ())
        if asked.permission is None:
            return Answer(True, roles)
        held: set[tuple[str, str]] = set()
        for role in roles:
            document = self._get(f"/auth/fab/v1/roles/{quote(role, safe='')}")
            held |= {(pair["action"]["name"], pair["resource"]["name"]) for pair in (document or {}).get("actions", ())}
        method, entity = asked.permission[0], "run" if asked.permission[1] == "dag_run" else asked.permission[1]
        # As FAB's manager decides: the DAG itself, to read or to edit, and the things of the DAG, all of them.
        action = _FAB_ACTIONS[method]
        on_dag = action if entity == "dag" else "can_read" if method == "GET" else "can_edit"
        dag = any((on_dag, name) in held for name in ("DAGs", f"DAG:{asked.dag_id}"))
        if entity == "dag":
            return Answer(True, roles, dag)
        if entity not in _FAB_RESOURCES:
            raise ConfigurationError(
                f"required_permission= names {printable(entity)}, which is none of dag, dag_run, {', '.join(_FAB_RESOURCES)}."
            )

        def may(resource: str) -> bool:
            names = (resource, f"DAG Run:{asked.dag_id}") if resource == "DAG Runs" else (resource,)
            return any((action, name) in held for name in names)

        return Answer(True, roles, dag and all(map(may, _FAB_RESOURCES[entity])))

    def person(self, reference: str, dag_id: str, run_id: str) -> str:
        """Return the name behind ``user:…``, ``run:…`` or ``approval:…``."""
        from airflow_pipesec.checks.access import Asked, NotAnswered

        kind, _, rest = reference.partition(":")
        rest = rest.strip()
        if kind == "user" and rest:
            if not self.ask(Asked(rest, dag_id, None)).known:
                raise NotAnswered(f"separation_from= names {printable(rest)}, whom Airflow does not know: mend the name")
            return rest
        if kind == "run" and "/" in rest:
            other_dag, _, other_run = rest.partition("/")
            path = f"/api/v2/dags/{quote(other_dag, safe='')}/dagRuns/{quote(other_run, safe='')}"
            name = (self._get(path) or {}).get("triggering_user_name")
        elif kind == "approval" and rest:
            task, _, option = rest.partition("/")
            run = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}"
            details = self._get(f"{run}/taskInstances/{quote(task, safe='')}/-1/hitlDetails") or {}
            approved = details.get("response_received") and details.get("chosen_options") == [option or "Approve"]
            name = (details.get("responded_by_user") or {}).get("name") if approved else None
        else:
            raise ConfigurationError(
                f"separation_from={printable(reference)!r} is none of user:NAME, run:DAG_ID/RUN_ID, approval:TASK_ID and "
                "approval:TASK_ID/OPTION."
            )
        if not name:
            raise NotAnswered(f"nobody is known to have triggered or approved {printable(rest)}")
        return str(name)
