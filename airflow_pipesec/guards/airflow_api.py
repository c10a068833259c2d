"""Airflow's API server, asked from a worker as a service account: what became of a run's tasks, and what people did to them.

Workers have no database, and what Airflow's execution API tells a task of other tasks is states and counts: neither which try it
was nor who had a hand in it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, TypeVar
from urllib.parse import quote
from uuid import UUID

from airflow_pipesec.acts import TOUCHES, XCOMS, Act, may_concern, read_entry
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.base import get_connection

if TYPE_CHECKING:
    import httpx

    from airflow_pipesec.checks.access import Touch

__all__ = ["AirflowAPI", "Instance", "is_local_test", "sensible"]

P = ParamSpec("P")
T = TypeVar("T")
Entries = list[dict[str, Any]]
SECONDS = 30.0
PAGE = 100
MOST_EVENTS = 10_000
MOST_INSTANCES = 100_000


class Instance(NamedTuple):
    """A task instance as it is now. Every retry and every clearing gives it another ``id``, a retry when the try before it ends.

    The number of the try, the process, the host and the dates stay those of an earlier try when somebody clears it and then sets
    its state by hand: they do not tell that it ran. The version of the DAG is the one that Airflow last put there, which may be
    another than the task was told, and says nothing about code that the serialized DAG does not hold.
    """

    task_id: str
    map_index: int
    try_number: int
    state: str | None
    id: str
    started: datetime | None
    ended: datetime | None
    pid: int | None
    hostname: str | None
    version: int | None
    version_id: str | None


def is_local_test() -> bool:
    """Whether this is ``dag.test()``: its supervisor is in the same process. A name would not do, for anybody can have it."""
    from airflow.sdk.execution_time import task_runner

    return type(getattr(task_runner, "SUPERVISOR_COMMS", None)).__name__ == "InProcessSupervisorComms"


def sensible(asking: Callable[P, T]) -> Callable[P, T]:
    """Make a question whose answer is of another form than Airflow gives raise ``NotAnswered``."""

    @functools.wraps(asking)
    def ask(*arguments: P.args, **named: P.kwargs) -> T:
        from airflow_pipesec.checks.access import NotAnswered

        try:
            return asking(*arguments, **named)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            kind = type(error).__name__
            raise NotAnswered(
                f"the API server gave an answer that makes no sense ({kind}): look at what the connection leads to"
            ) from None

    return ask


class AirflowAPI:
    """Airflow's API server, asked as a service account. Nothing of the account shows in what is raised.

    Every question raises ``NotAnswered`` where there is no answer, and :class:`ConfigurationError` for a connection that is none.
    """

    def __init__(self, conn_id: str) -> None:
        self.conn_id = conn_id
        self._client: httpx.Client | None = None

    @sensible
    def instances(self, dag_id: str, run_id: str, task_ids: Collection[str]) -> list[Instance]:
        """Return the instances of some tasks of a run, all map indexes of each, in that order.

        A mapped task that was not expanded, or into nothing, has one instance with map index -1. A task that the run does not
        have has none: who asks has to see to it that every task answered.
        """
        from airflow_pipesec.checks.access import NotAnswered

        path = f"/api/v2/dags/{quote(dag_id, safe='')}/dagRuns/{quote(run_id, safe='')}/taskInstances"
        found: dict[tuple[str, int], Instance] = {}
        for task_id in task_ids:
            # By cursor: one that is retried meanwhile moves to the end, and with offsets another would go unseen for it.
            cursor: str | None = ""
            while cursor is not None:
                query = {"task_id": task_id, "limit": PAGE, "order_by": "map_index", "cursor": cursor}
                answer = self._get(path, query=query)
                if answer is None:
                    raise NotAnswered(f"the API server does not know the run {printable(run_id)} of {printable(dag_id)}")
                for item in answer["task_instances"]:
                    instance = _instance(item)
                    if (item["dag_id"], item["dag_run_id"], instance.task_id) != (dag_id, run_id, task_id):
                        raise ValueError("not what was asked for")
                    found[instance.task_id, instance.map_index] = instance
                cursor = answer["next_cursor"]
                if len(found) > MOST_INSTANCES or (cursor is not None and not answer["task_instances"]):
                    raise NotAnswered(f"the instances of task {printable(task_id)} cannot be read whole")
        return [found[key] for key in sorted(found)]

    @sensible
    def acts(self, dag_id: str, run_id: str, since: datetime) -> list[Act]:
        """Return what Airflow's audit log tells of what people asked about a run's tasks, their states and XComs, oldest first.

        ``since`` is when the run began; what the log has under the run's own name is returned however old. Requests about another
        run are returned if they reach into the past or the future, name this run as well, or do not say. What :meth:`touched`
        says is missing is missing here: that nobody is found does not mean that nobody did it.
        """
        of_this, others = self._entries(dag_id, run_id, since, (*TOUCHES, *XCOMS))
        loose = [entry for entry in others if may_concern(run_id, entry)]
        return sorted((act for entry in of_this + loose for act in read_entry(entry)), key=lambda act: act.when)

    def touched(self, dag_id: str, run_id: str, since: datetime) -> list[Touch]:
        """Return what Airflow's audit log says that people did to a run: to set it going again, or to call its tasks done.

        A note counts: what the log takes for one may have set a state, for the log reads a request in another way than Airflow
        does. Not in that log: changes of task states in bulk, which Airflow does not write down; requests about runs of several
        DAGs at once, which it shows to nobody; and requests that name another run in their query, under which they are filed.
        """
        from airflow_pipesec.checks.access import Touch

        of_this, others = self._entries(dag_id, run_id, since, TOUCHES)
        loose = [entry for entry in others if may_concern(run_id, entry)]
        return [Touch(act.user, act.event) for entry in of_this + loose for act in read_entry(entry)]

    def _entries(self, dag_id: str, run_id: str, since: datetime, events: Collection[str]) -> tuple[Entries, Entries]:
        """Return the audit log's entries under a run's name, and those under other names and none, of the time since."""
        of_this = self._logged({"dag_id": dag_id, "run_id": run_id, "included_events": events})
        entries = [entry for entry in of_this if entry["run_id"] == run_id]
        logged = self._logged({"dag_id": dag_id, "included_events": events, "after": since.isoformat()})
        return entries, [entry for entry in logged if entry["run_id"] != run_id]

    def _logged(self, query: dict[str, Any]) -> Iterator[dict[str, Any]]:
        from airflow_pipesec.checks.access import NotAnswered

        offset, total = 0, 1
        while offset < total:
            answer = self._get("/api/v2/eventLogs", query=query | {"offset": offset, "limit": PAGE, "order_by": "id"})
            if answer is None:
                raise NotAnswered("the API server has no audit log: use Airflow 3.3 or newer")
            total, page = answer["total_entries"], answer["event_logs"]
            if total > MOST_EVENTS or (offset < total and not page):
                raise NotAnswered("the audit log cannot be read whole: trigger a new run")
            offset += len(page)  # the server may give fewer than were asked for
            yield from page

    def _get(self, path: str, *, query: dict[str, Any] | None = None) -> Any:
        """Return the JSON object of a GET, None where there is none. Raises ``NotAnswered`` for all else that is no answer."""
        import httpx

        from airflow_pipesec.checks.access import NotAnswered, Unreachable

        try:
            answer = self._signed_in().get(path, params=query)
            # For a path that it does not know, the API server gives the page of its UI.
            page = answer.status_code == 200 and "json" not in answer.headers.get("content-type", "")
            if answer.status_code == 404 or page:
                return None
            who = f"the service account of connection {self.conn_id}"
            if answer.status_code == 401:
                raise NotAnswered(f"the token of {who} was not accepted (HTTP 401): it has expired; run the guard again")
            if answer.status_code == 403:
                raise NotAnswered(f"{who} may not ask (HTTP 403): permit it to read {_what_is_behind(path)}")
            if answer.status_code >= 500:
                raise Unreachable(f"the API server answered HTTP {answer.status_code}: look at its log")
            if answer.status_code != 200:
                raise NotAnswered(f"the API server answered HTTP {answer.status_code}: look at its log")
            document = answer.json()
            if not isinstance(document, dict):
                raise TypeError(type(document).__name__)
            return document
        except httpx.HTTPError as error:
            raise Unreachable(_unreachable(self.conn_id, error)) from None
        except ValueError as error:
            raise NotAnswered(_unreachable(self.conn_id, error)) from None

    def _signed_in(self) -> httpx.Client:
        import httpx
        from airflow.sdk.log import mask_secret

        from airflow_pipesec.checks.access import NotAnswered, Unreachable

        if self._client is None:
            connection = get_connection(self.conn_id, "airflow_conn_id")
            scheme = connection.schema if connection.schema in ("http", "https") else "https"
            if not connection.host or not connection.login or not connection.password:
                raise ConfigurationError(f"connection {self.conn_id} lacks a host, a login or a password. Give all three.")
            # Some write the scheme or the port into the host, as Airflow's HTTP connections let them.
            written, _, host = connection.host.rstrip("/").rpartition("://")
            scheme = written if written in ("http", "https") else scheme
            port = f":{connection.port}" if connection.port and not re.search(r":\d+$", host) else ""
            try:
                client = httpx.Client(base_url=f"{scheme}://{host}{port}", timeout=SECONDS, follow_redirects=False)
            except httpx.InvalidURL:
                raise ConfigurationError(f"connection {self.conn_id} makes no URL. Give host, port and schema.") from None
            body = {"username": connection.login, "password": connection.password}
            try:
                answer = client.post("/auth/token", json=body)
                token = answer.json().get("access_token") if answer.status_code in (200, 201) else None
            except httpx.HTTPError as error:
                client.close()
                raise Unreachable(_unreachable(self.conn_id, error)) from None
            except ValueError as error:
                client.close()
                raise NotAnswered(_unreachable(self.conn_id, error)) from None
            if not token:
                client.close()
                raise NotAnswered(
                    f"the service account of connection {self.conn_id} was not let in (HTTP {answer.status_code}): "
                    "check its login and password"
                )
            mask_secret(token)
            client.headers["Authorization"] = f"Bearer {token}"
            self._client = client
        return self._client

    def close(self) -> None:
        """End the connection; a later question would sign in again."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _unreachable(conn_id: str, error: Exception) -> str:
    kind = type(error).__name__
    return f"the API server could not be asked ({kind}): check host, port and schema of connection {conn_id}, and that it is up"


def _what_is_behind(path: str) -> str:
    if "/fab/" in path:
        return "users and roles"
    if path.endswith("/eventLogs"):
        return "the DAG's audit log"
    return "the DAG's runs and their human-in-the-loop details" if path.startswith("/api/") else "Airflow's connections"


def _instance(item: dict[str, Any]) -> Instance:
    version = item["dag_version"]
    return Instance(
        task_id=str(item["task_id"]),
        map_index=int(item["map_index"]),
        try_number=int(item["try_number"]),
        state=None if item["state"] is None else str(item["state"]),
        id=str(UUID(item["id"])),
        started=_time(item["start_date"]),
        ended=_time(item["end_date"]),
        pid=None if item["pid"] is None else int(item["pid"]),
        hostname=None if item["hostname"] is None else str(item["hostname"]),
        version=None if version is None else int(version["version_number"]),
        version_id=None if version is None else str(version["id"]),
    )


def _time(written: str | None) -> datetime | None:
    return None if written is None else datetime.fromisoformat(written)
