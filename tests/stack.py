"""A real Airflow for demonstrations and tests: API server, scheduler and DAG processor on loopback, and gone afterwards.

It has a key of its own that signs evidence, and trusts it.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from airflow_pipesec.signing import entry_of, new_private_key

Say = Callable[[str], None]
BIN = Path(sys.executable).parent
USER = "admin"
LOCKED = 60  # seconds that a writer waits for another before SQLite's database is "locked"; 5 are few on a busy machine
ANSWER = LOCKED + 30  # seconds that the API server, which may wait so long itself, is given for an answer
_PR_SET_PDEATHSIG = 1
_FIRST_PORT, _PORTS_EACH, _WORKERS = 20_000, 3_000, 4
_given: set[int] = set()


class StackError(RuntimeError):
    """A part of Airflow did not start, or ended early."""


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on.

    Whoever asked for it listens some seconds later. Until then it is nobody else's: outgoing connections are given ports from
    32768 on, and each of the processes among which pytest-xdist shares out the tests takes from ports of its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = _FIRST_PORT + worker % _WORKERS * _PORTS_EACH + secrets.randbelow(_PORTS_EACH)
        if port in _given:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            _given.add(port)
            return port


def _die_with_parent() -> None:
    # Should this program be killed outright, the kernel ends what it started.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Stack:
    """Airflow with SQLite, the LocalExecutor and one user with a random password, under a folder of its own.

    Use it as a context manager. ``home`` becomes AIRFLOW_HOME and must be empty or absent.
    """

    def __init__(
        self,
        home: Path,
        dags: Path,
        *,
        say: Say = lambda _: None,
        environment: Mapping[str, str] | None = None,
        users: Mapping[str, str] | None = None,
        fab: bool = False,
        runs_dags: bool = True,
    ) -> None:
        self.home = home
        self.say = say
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.users = dict(users or {}) | {USER: "admin"}
        # Hexadecimal: a password that began with "-" would be an option to `airflow users create`.
        self.passwords = {name: secrets.token_hex(8) for name in self.users}
        self.password = self.passwords[USER]
        self.fab = fab
        self.runs_dags = runs_dags
        self.logs = home / "component-logs"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._client: httpx.Client | None = None
        passwords = home / "passwords.json"
        ours = {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # SQLite takes one writer at a time: with more tasks at once it is "locked".
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "4",
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in self.users.items()),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db?timeout={LOCKED}",
            "AIRFLOW__PIPESEC__EVIDENCE_URL": str(home / "evidence"),
            "AIRFLOW__PIPESEC__SIGNING_KEY": f"file:{home}/signing.pem",
            "AIRFLOW__PIPESEC__TRUSTED_KEYS": str(home / "trusted-keys.yaml"),
            "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",
            "PIPESEC_EXAMPLE_DATA": str(home / "data"),
            "PYTHONUNBUFFERED": "1",
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        if fab:
            ours["AIRFLOW__CORE__AUTH_MANAGER"] = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
        # Without compiled bytecode every task would compile Airflow again.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        self.environment = {**kept, "PATH": f"{BIN}{os.pathsep}{kept.get('PATH', '')}", **ours, **(environment or {})}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _start(self) -> None:
        self.logs.mkdir(parents=True)
        passwords = Path(self.environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"])
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(self.passwords))
        signer = new_private_key(self.home / "signing.pem")
        entry = entry_of(signer.public_key, name="this Airflow", valid_from=datetime.now(UTC) - timedelta(minutes=1))
        (self.home / "trusted-keys.yaml").write_text(entry)
        self.say("creating the database")
        self._launch("migrate", "db", "migrate")
        if self.processes.pop("migrate").wait(timeout=180) != 0:
            raise StackError(f"airflow db migrate failed:\n{self.tail('migrate')}")
        if self.fab:
            self._make_fab_admin()
        self.say("starting the API server")
        self._launch("api-server", "api-server")
        self._until("the API server answers", self._sign_in, 120)
        if not self.runs_dags:
            return
        self.say("starting the scheduler and the DAG processor")
        self._launch("scheduler", "scheduler", "--skip-serve-logs")
        self._launch("dag-processor", "dag-processor")
        self._until("scheduler and DAG processor are healthy", self._healthy, 120)

    def _make_fab_admin(self) -> None:
        person = ["-u", USER, "-p", self.password, "-r", "Admin", "-f", "A", "-l", "D", "-e", "admin@example.org"]
        self._launch("users", "users", "create", *person)
        if self.processes.pop("users").wait(timeout=120) != 0:
            raise StackError(f"airflow users create failed:\n{self.tail('users')}")

    def token(self, user: str) -> str:
        """Sign a user in and return the token."""
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": self.passwords[user]}, timeout=ANSWER)
        return str(answer.raise_for_status().json()["access_token"])

    def _launch(self, name: str, *arguments: str) -> None:
        with (self.logs / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                [str(BIN / "airflow"), *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a group of its own, so that all of it can be ended, and nothing else
                preexec_fn=_die_with_parent,
            )

    def _until(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not holds():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise StackError(f"{name} ended with code {process.returncode}:\n{self.tail(name)}")
            if time.monotonic() > end:
                raise StackError(f"after {seconds:.0f} s it is not true that {what}; the logs are in {self.logs}")
            time.sleep(0.3)

    def _sign_in(self) -> bool:
        """Get a token with our random password: whoever accepts it is the server we started."""
        try:
            answer = httpx.post(f"{self.url}/auth/token", json={"username": USER, "password": self.password}, timeout=10)
        except httpx.TransportError:
            return False
        if answer.status_code != 201:
            return False
        token = answer.json()["access_token"]
        self._client = httpx.Client(base_url=f"{self.url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER)
        return True

    def _healthy(self) -> bool:
        health = self.call("GET", "/monitor/health")
        return all(health[part]["status"] == "healthy" for part in ("scheduler", "dag_processor"))

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call the REST API and return its JSON. Raises :class:`httpx.HTTPStatusError` for an error answer."""
        if self._client is None:
            raise StackError("the API server has not been started")
        answer = self._client.request(method, path, json=body)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def wait_for_dag(self, dag_id: str, seconds: float = 180) -> None:
        """Wait until a DAG was parsed; an import error of its file ends the waiting."""

        def parsed() -> bool:
            errors = self.call("GET", "/importErrors")["import_errors"]
            if errors:
                raise StackError(f"a DAG file cannot be imported:\n{errors[0]['stack_trace']}")
            return any(dag["dag_id"] == dag_id for dag in self.call("GET", "/dags")["dags"])

        self._until(f"DAG {dag_id} was parsed", parsed, seconds)

    def trigger(self, dag_id: str, *, user: str = USER, **conf: Any) -> str:
        """Start a run as a user and return its id."""
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        body = {"logical_date": None, "conf": conf}
        answer = httpx.post(f"{self.url}/api/v2/dags/{dag_id}/dagRuns", json=body, headers=headers, timeout=ANSWER)
        return str(answer.raise_for_status().json()["dag_run_id"])

    def mark(self, dag_id: str, run_id: str, task_id: str, state: str, *, user: str = USER) -> None:
        """Set the state of a task instance by hand, as a user."""
        headers = {"Authorization": f"Bearer {self.token(user)}"}
        path = f"{self.url}/api/v2/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}"
        for left in (2, 1, 0):
            answer = httpx.patch(path, json={"new_state": state}, headers=headers, timeout=ANSWER)
            # An API server on SQLite whose database others hold answers so in the end; a person would ask again.
            if not (answer.is_server_error and left):
                answer.raise_for_status()
                return

    def run_of(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return a run as the REST API shows it."""
        return dict(self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}"))

    def tasks_of(self, dag_id: str, run_id: str) -> dict[str, dict[str, Any]]:
        """Return the task instances of a run, by task id."""
        answer = self.call("GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=1000")
        return {item["task_id"]: item for item in answer["task_instances"]}

    def downstream_of(self, dag_id: str, task_id: str) -> set[str]:
        """Return the ids of all tasks below one, as the serialized DAG has them."""
        below = {item["task_id"]: item["downstream_task_ids"] for item in self.call("GET", f"/dags/{dag_id}/tasks")["tasks"]}
        found: set[str] = set()
        waiting = list(below[task_id])
        while waiting:
            current = waiting.pop()
            if current not in found:
                found.add(current)
                waiting.extend(below[current])
        return found

    def tail(self, name: str, lines: int = 25) -> str:
        """Return the end of a component's log, and where the rest is."""
        path = self.logs / f"{name}.log"
        return "\n".join([*path.read_text(errors="replace").splitlines()[-lines:], f"(whole log: {path})"])

    def stop(self) -> None:
        """End everything that was started, politely and then not."""
        if self._client is not None:
            self._client.close()
        for process in reversed(self.processes.values()):
            _signal_group(process, signal.SIGTERM)
        end = time.monotonic() + 20
        for process in self.processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.1, end - time.monotonic()))
            _signal_group(process, signal.SIGKILL)  # whatever of the group is left
            process.wait(timeout=10)
        self.processes.clear()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
