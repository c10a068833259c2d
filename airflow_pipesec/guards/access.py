"""Access guards: who triggered this run, and may they."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding, printable
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor

if TYPE_CHECKING:
    import httpx
    from airflow.sdk import Context

    from airflow_pipesec.checks.access import Answer, Asked

__all__ = ["RBACAssertion", "RBACAssertionOperator", "RBACAssertionSensor"]

SECONDS = 30.0
# What Flask-AppBuilder calls the methods, and the things of a DAG; from the FAB provider's own tables.
_FAB_ACTIONS = {"GET": "can_read", "POST": "can_create", "PUT": "can_edit", "DELETE": "can_delete"}
_FAB_RESOURCES = {
    "audit_log": "Audit Logs",
    "code": "DAG Code",
    "dag_run": "DAG Runs",
    "hitl_detail": "HITL Detail",
    "task": "Task Instances",
    "task_instance": "Task Instances",
    "task_logs": "Task Logs",
    "xcom": "XComs",
}


class RBACAssertion(Guard):
    """What the operator and the sensor share: the person who triggered this run may do what it does.

    :param allowed_users: names of users, one of whom it has to be. (templated)
    :param allowed_roles: names of roles, one of which the person has to hold now. (templated)
    :param required_permission: what Airflow has to permit the person on this DAG, as method and entity: ``("PUT", "dag_run")``.
        Entities are ``dag``, ``dag_run``, ``task_instance``, ``xcom`` and the others of Airflow's ``DagAccessEntity``.
    :param allow_scheduled: let runs of the scheduler pass, which no person triggered. Backfills and runs of other DAGs keep the
        name of who began them.
    :param separation_from: who it must not be (four eyes): ``user:NAME``, ``run:DAG_ID/RUN_ID`` for who triggered that run, or
        ``approval:TASK_ID`` for who responded to that human-in-the-loop task of this run. (templated)
    :param local_test_user: whom a local ``dag.test()``, which has no person, is judged as. A real run never looks at it.
    :param airflow_conn_id: connection of a service account: host, port and schema of the API server, login and password. It must
        be permitted to read Airflow's connections, which is who may ask about others (in FAB: users and roles). (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = (
        "allowed_users",
        "allowed_roles",
        "separation_from",
        "airflow_conn_id",
        *Guard.template_fields,
    )

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
        run = Run(dag_run.dag_id, kind, dag_run.triggering_user_name, cleared, local=_is_local_test())
        airflow = _Airflow(self.airflow_conn_id)
        permission = None if self.required_permission is None else (self.required_permission[0], self.required_permission[1])
        apart = self.separation_from
        wanted = Wanted(
            allowed_users=self.allowed_users,
            allowed_roles=self.allowed_roles,
            permission=permission,
            allow_scheduled=self.allow_scheduled,
            apart_from=None if apart is None else lambda: airflow.person(apart, run.dag_id, dag_run.run_id),
            local_user=self.local_test_user,
        )
        try:
            yield from assert_access(run, wanted, airflow.ask)
        finally:
            airflow.close()


class RBACAssertionOperator(RBACAssertion, GuardOperator):
    """Stop the pipeline unless its person may do what it does. The parameters are those of :class:`RBACAssertion`."""


class RBACAssertionSensor(RBACAssertion, GuardSensor):
    """Wait until the pipeline's person may do what it does. The parameters are those of :class:`RBACAssertion`."""


def _is_local_test() -> bool:
    """Whether this is ``dag.test()``: its supervisor is in the same process. A name would not do, for anybody can have it."""
    from airflow.sdk.execution_time import task_runner

    return type(getattr(task_runner, "SUPERVISOR_COMMS", None)).__name__ == "InProcessSupervisorComms"


class _Airflow:
    """Airflow's API server, asked as a service account. Nothing of the account shows in what is raised."""

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self._client: httpx.Client | None = None

    def ask(self, asked: Asked) -> Answer:
        from airflow_pipesec.checks.access import Answer, NotAnswered

        method, entity = asked.permission or ("", "")
        query = {"user": asked.user, "dag_id": asked.dag_id, "method": method, "entity": entity}
        answer = self._get("/pipesec/access", query=query)
        if answer is None or answer.get("manager") == "FabAuthManager":
            # FAB answers for itself, and does not need this package beside the API server.
            found = self._get(f"/auth/fab/v1/users/{quote(asked.user, safe='')}")
            if found is None and answer is None:
                raise NotAnswered("the API server has no /pipesec/access: install airflow-pipesec there as well")
            return Answer(known=False) if found is None else self._of_fab(found, asked)
        if answer.get("supported") is not True:
            raise NotAnswered(f"the auth manager {printable(str(answer.get('manager')))} cannot be asked about another user")
        roles = answer.get("roles")
        if not isinstance(answer.get("known"), bool) or not isinstance(roles, list):
            raise NotAnswered("the API server gave an answer that makes no sense")
        permitted = answer.get("permitted")
        return Answer(answer["known"], tuple(map(str, roles)), permitted if isinstance(permitted, bool) else None)

    def _of_fab(self, user: dict[str, Any], asked: Asked) -> Answer:
        from airflow_pipesec.checks.access import Answer

        if user.get("username") != asked.user or user.get("active") is False:
            return Answer(known=False)
        roles = tuple(str(role["name"]) for role in user.get("roles") or ())
        if asked.permission is None:
            return Answer(True, roles)
        held: set[tuple[str, str]] = set()
        for role in roles:
            document = self._get(f"/auth/fab/v1/roles/{quote(role, safe='')}")
            held |= {(pair["action"]["name"], pair["resource"]["name"]) for pair in (document or {}).get("actions", ())}
        method, entity = asked.permission
        # As FAB's manager decides: the DAG itself, to read or to edit, and the thing of the DAG.
        action = _FAB_ACTIONS[method]
        on_dag = action if entity == "dag" else "can_read" if method == "GET" else "can_edit"
        dag = any((on_dag, name) in held for name in ("DAGs", f"DAG:{asked.dag_id}"))
        if entity == "dag":
            return Answer(True, roles, dag)
        if entity not in _FAB_RESOURCES:
            raise ConfigurationError(f"required_permission= names {printable(entity)}, which FAB does not know.")
        names = (_FAB_RESOURCES[entity], *([f"DAG Run:{asked.dag_id}"] if entity == "dag_run" else []))
        return Answer(True, roles, dag and any((action, name) in held for name in names))

    def person(self, reference: str, dag_id: str, run_id: str) -> str:
        """Return the name behind ``user:…``, ``run:…`` or ``approval:…``."""
        from airflow_pipesec.checks.access import NotAnswered

        kind, _, rest = reference.partition(":")
        if kind == "user" and rest:
            return rest
        if kind == "run" and "/" in rest:
            other_dag, _, other_run = rest.partition("/")
            path = f"/api/v2/dags/{quote(other_dag, safe='')}/dagRuns/{quote(other_run, safe='')}"
            name = (self._get(path) or {}).get("triggering_user_name")
        elif kind == "approval" and rest:
            task = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}/taskInstances/{quote(rest, safe='')}"
            details = self._get(f"{task}/-1/hitlDetails") or {}
            name = (details.get("responded_by_user") or {}).get("name") if details.get("response_received") else None
        else:
            raise ConfigurationError(
                f"separation_from={printable(reference)!r} is none of user:NAME, run:DAG_ID/RUN_ID and approval:TASK_ID."
            )
        if not name:
            raise NotAnswered(f"nobody is known to have triggered or approved {printable(rest)}")
        return str(name)

    def _get(self, path: str, *, query: dict[str, str] | None = None) -> Any:
        """Return the JSON of a GET, None where there is none. Raises ``NotAnswered`` for everything else that is no answer."""
        import httpx

        from airflow_pipesec.checks.access import NotAnswered

        try:
            answer = self._signed_in().get(path, params=query)
            # For a path that it does not know, the API server gives the page of its UI.
            page = answer.status_code == 200 and "json" not in answer.headers.get("content-type", "")
            if answer.status_code == 404 or page:
                return None
            if answer.status_code in (401, 403):
                who = f"the service account of connection {self.conn_id}"
                raise NotAnswered(f"{who} may not ask (HTTP {answer.status_code}): it needs to read Airflow's connections")
            if answer.status_code != 200:
                raise NotAnswered(f"the API server answered HTTP {answer.status_code}")
            return answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise NotAnswered(f"the API server could not be asked: {type(error).__name__}") from None

    def _signed_in(self) -> httpx.Client:
        import httpx
        from airflow.sdk import BaseHook
        from airflow.sdk.log import mask_secret

        from airflow_pipesec.checks.access import NotAnswered

        if self._client is None:
            connection = BaseHook.get_connection(self.conn_id)
            scheme = connection.schema if connection.schema in ("http", "https") else "https"
            if not connection.host or not connection.login or not connection.password:
                raise ConfigurationError(f"connection {self.conn_id} lacks a host, a login or a password. Give all three.")
            port = f":{connection.port}" if connection.port else ""
            base = f"{scheme}://{connection.host.rstrip('/')}{port}"
            client = httpx.Client(base_url=base, timeout=SECONDS, follow_redirects=False)
            body = {"username": connection.login, "password": connection.password}
            try:
                answer = client.post("/auth/token", json=body)
                token = answer.json().get("access_token") if answer.status_code in (200, 201) else None
            except (httpx.HTTPError, ValueError) as error:
                client.close()
                raise NotAnswered(f"the API server could not be asked: {type(error).__name__}") from None
            if not token:
                client.close()
                raise NotAnswered(f"the service account of connection {self.conn_id} was not let in (HTTP {answer.status_code})")
            mask_secret(token)
            client.headers["Authorization"] = f"Bearer {token}"
            self._client = client
        return self._client

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
