"""RBAC for real: API servers with both of Airflow's auth managers are asked, and neither token nor password gets out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from airflow_pipesec.operators import RBACAssertionOperator
from airflow_pipesec.sensors import RBACAssertionSensor
from tests.conftest import PROJECT, Ran, RunTask
from tests.stack import Stack

SERVICE = "service"


@pytest.fixture(scope="module")
def fab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    users = {"vera": "Viewer", "uma": "User", "olga": "Op", SERVICE: "Admin"}
    home = tmp_path_factory.mktemp("fab") / "home"
    with Stack(home, PROJECT / "dags", users=users, fab=True, runs_dags=False) as stack:
        for name, role in users.items():
            person = {"username": name, "password": stack.passwords[name], "roles": [{"name": role}]}
            fab_call(stack, "POST", "/users", person | {"first_name": name, "last_name": "x", "email": f"{name}@example.org"})
        yield stack


def fab_call(stack: Stack, method: str, path: str, body: Any = None) -> Any:
    headers = {"Authorization": f"Bearer {stack.token('admin')}"}
    answer = httpx.request(method, f"{stack.url}/auth/fab/v1{path}", json=body, headers=headers, timeout=30)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


Guarded = Callable[..., Ran]


def guarded(stack: Stack, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    """Return a function that runs the guard as a task of a run that a user triggered."""

    def run(
        user: str | None = "olga", account: str = SERVICE, password: str | None = None, of: Any = None, **parameters: Any
    ) -> Ran:
        secret = password or stack.passwords[account]
        port = stack.url.rpartition(":")[2]
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", f"http://{account}:{secret}@127.0.0.1:{port}/http")
        facts = {name: parameters.pop(name) for name in ("run_type", "cleared") if name in parameters}
        task = (of or RBACAssertionOperator)(task_id="g", **parameters)
        return run_task(task, user=user, **facts)

    return run


@pytest.fixture(params=["api_server", "fab"])
def guard(request: pytest.FixtureRequest, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> Guarded:
    return guarded(request.getfixturevalue(request.param), run_task, monkeypatch)


EDIT = ("PUT", "dag_run")


def blocking(ran: Ran) -> list[str]:
    assert ran.state == "failed"
    controls = ran.summary["blocking_controls"]
    assert isinstance(controls, list)
    return controls


def test_who_may_passes_and_who_may_not_fails(guard: Guarded) -> None:
    assert guard("olga", required_permission=EDIT).state == "success"
    assert guard("uma", required_permission=EDIT).state == "success"
    assert guard("admin", required_permission=EDIT, of=RBACAssertionSensor).state == "success"
    assert blocking(guard("vera", required_permission=EDIT)) == ["permission-held"]
    assert guard("vera", required_permission=("GET", "dag_run")).state == "success"


def test_roles_are_those_that_airflow_names(guard: Guarded) -> None:
    roles = ["op", "Op", "admin", "Admin"]
    assert guard("olga", allowed_roles=roles).state == "success"
    ran = guard("uma", allowed_roles=roles)
    assert blocking(ran) == ["role-held"]
    assert "user uma" in str(ran.error)


def test_strangers_and_nobody_fail(guard: Guarded) -> None:
    assert blocking(guard("mallory", required_permission=EDIT)) == ["user-known"]
    assert blocking(guard("o/../lga", required_permission=EDIT)) == ["user-known"]
    assert blocking(guard(None, run_type="scheduled", required_permission=EDIT)) == ["triggered-by-person"]
    assert guard(None, run_type="scheduled", required_permission=EDIT, allow_scheduled=True).state == "success"
    assert blocking(guard("olga", cleared=1, required_permission=EDIT)) == ["triggered-by-person"]
    assert blocking(guard("dag_test", required_permission=EDIT, local_test_user="olga")) == ["user-known"], (
        "a name, no local test"
    )


def test_four_eyes(guard: Guarded) -> None:
    assert guard("olga", separation_from="user:uma").state == "success"
    assert blocking(guard("olga", separation_from="user:olga")) == ["duties-separated"]
    assert blocking(guard("olga", separation_from="run:no_such_dag/run")) == ["duties-separated"]
    assert guard("olga", separation_from="nonsense").state == "failed"


def test_an_account_that_may_not_ask_gets_no_answer(guard: Guarded) -> None:
    for account, password in (("vera", None), ("uma", None), (SERVICE, "wrong-password-4711")):
        ran = guard("olga", account=account, password=password, required_permission=EDIT)
        assert blocking(ran) == ["access-asked"], account


def test_no_secret_gets_out(guard: Guarded, api_server: Stack, capfd: pytest.CaptureFixture[str]) -> None:
    ran = [guard("olga", required_permission=EDIT), guard("vera", required_permission=EDIT)]
    ran.append(guard("olga", password="wrong-password-4711", required_permission=EDIT))
    shown = "".join([*map(str, ran), *[repr(item.error) for item in ran], *capfd.readouterr()])
    assert "olga" in shown
    assert "eyJ" not in shown, "a token"
    assert "wrong-password-4711" not in shown
    assert api_server.passwords[SERVICE] not in shown


def test_a_role_that_was_taken_away_counts(fab: Stack, run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    guard = guarded(fab, run_task, monkeypatch)
    assert guard("uma", required_permission=EDIT).state == "success"
    fab_call(fab, "PATCH", "/users/uma?update_mask=roles", {"roles": [{"name": "Viewer"}]})
    try:
        assert blocking(guard("uma", required_permission=EDIT)) == ["permission-held"]
    finally:
        fab_call(fab, "PATCH", "/users/uma?update_mask=roles", {"roles": [{"name": "User"}]})


def test_a_server_that_is_down_is_an_error_and_no_pass(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", "http://service:s3cr3t-4711@127.0.0.1:1/http")
    ran = run_task(RBACAssertionOperator(task_id="g", allowed_roles=["op"]), user="olga")
    assert blocking(ran) == ["access-asked"]
    assert "s3cr3t-4711" not in str(ran)


def test_the_endpoint_tells_nobody_who_may_not_ask(api_server: Stack) -> None:
    query = {"user": "olga", "dag_id": "d", "method": "PUT", "entity": "dag_run"}

    def ask(token: str | None, **changes: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.get(f"{api_server.url}/pipesec/access", params=query | changes, headers=headers, timeout=30)

    assert ask(None).status_code == 401
    assert ask("forged.token.here").status_code in (401, 403)
    for name in ("vera", "uma"):
        assert ask(api_server.token(name)).status_code == 403
        assert ask(api_server.token(name), user=name).status_code == 403
    answer = ask(api_server.token(SERVICE))
    assert answer.status_code == 200
    assert set(answer.json()) == {"manager", "supported", "known", "roles", "permitted"}
    for changes in ({"user": ""}, {"method": "PATCH"}, {"entity": "nonsense"}):
        assert ask(api_server.token(SERVICE), **changes).status_code == 422


def test_the_plugin_imports_nothing_heavy_before_it_is_asked() -> None:
    import subprocess
    import sys

    program = (
        "import airflow.plugins_manager, sys; old = set(sys.modules)\n"
        "import airflow_pipesec.plugin; print(sorted(set(sys.modules) - old))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "fastapi" not in done.stdout.splitlines()[-1]
    assert "airflow_pipesec.api" not in done.stdout.splitlines()[-1]


class Odd(BaseHTTPRequestHandler):
    """An API server that lets anybody in and then answers as the test says."""

    answers: ClassVar[dict[str, tuple[int, str, str]]] = {}

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.reply(201, "application/json", '{"access_token": "token-4711"}')

    def do_GET(self) -> None:
        known = next((answer for path, answer in self.answers.items() if self.path.startswith(path)), None)
        self.reply(*(known or (404, "application/json", "{}")))

    def reply(self, status: int, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("answer", "control", "words"),
    [
        ((200, "application/json", '{"manager": "KeycloakAuthManager", "supported": false}'), "access-asked", "cannot be asked"),
        ((200, "application/json", '{"manager": "X", "supported": true}'), "access-asked", "makes no sense"),
        ((200, "application/json", '{"supported": true, "known": true, "roles": []}'), "access-asked", "did not say"),
        ((200, "application/json", "nonsense"), "access-asked", "could not be asked"),
        ((200, "application/json", '{"manager": "FabAuthManager", "supported": false}'), "user-known", "knows no such user"),
        ((200, "text/html", "<html>"), "access-asked", "install airflow-pipesec there"),
        ((401, "application/json", "{}"), "access-asked", "may not ask"),
        ((503, "text/plain", "busy"), "access-asked", "HTTP 503"),
        ((302, "text/html", ""), "access-asked", "HTTP 302"),
    ],
)
def test_an_answer_that_is_none_is_no_pass(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str, str], control: str, words: str
) -> None:
    monkeypatch.setattr(Odd, "answers", {"/pipesec/access": answer})
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", f"http://s:p@127.0.0.1:{server.server_port}/http")
        ran = run_task(RBACAssertionOperator(task_id="g", required_permission=EDIT), user="olga")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert blocking(ran) == [control]
    assert words in str(ran.error)
    assert "token-4711" not in str(ran)


APPROVED = """
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG
from airflow_pipesec.operators import RBACAssertionOperator

with DAG("approved", schedule=None):
    approve = ApprovalOperator(task_id="approve", subject="Deploy?", fail_on_reject=True)
    approve >> RBACAssertionOperator(
        task_id="may_deploy", required_permission=("PUT", "dag_run"), separation_from="approval:approve"
    )
"""


def test_four_eyes_on_an_approval_in_a_real_scheduler(tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/approved.py").write_text(APPROVED)
    users = {"uma": "user", "olga": "op", SERVICE: "op"}
    stack = Stack(tmp_path / "home", tmp_path / "dags", users=users)
    secret = stack.passwords[SERVICE]
    stack.environment["AIRFLOW_CONN_AIRFLOW_API"] = f"http://{SERVICE}:{secret}@127.0.0.1:{stack.port}/http"
    with stack:
        stack.wait_for_dag("approved")
        runs = {name: stack.trigger("approved", user="uma") for name in ("olga", "uma")}
        paths = {name: f"/dags/approved/dagRuns/{run}/taskInstances/approve" for name, run in runs.items()}
        for path in paths.values():
            wait(lambda path=path: stack.call("GET", path)["state"] in ("awaiting_input", "deferred"))
        # Airflow fails a task that is answered before its scheduler has heard that the process ended to wait.
        time.sleep(6)
        for name, path in paths.items():
            headers = {"Authorization": f"Bearer {stack.token(name)}"}
            url, body = f"{stack.url}/api/v2{path}/-1/hitlDetails", {"chosen_options": ["Approve"], "params_input": {}}
            httpx.patch(url, json=body, headers=headers, timeout=30).raise_for_status()
        for run in runs.values():
            wait(lambda run=run: stack.run_of("approved", run)["state"] in ("success", "failed"))
        states = {name: stack.tasks_of("approved", run)["may_deploy"]["state"] for name, run in runs.items()}
        assert states == {"olga": "success", "uma": "failed"}, "who triggered is not who approves"
        logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "home").rglob("*.log"))
        assert secret not in logs
        assert "user uma" in logs


def wait(holds: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)
