"""RBAC for real: API servers with both of Airflow's auth managers are asked, and neither token nor password gets out."""

from __future__ import annotations

import json
import shlex
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest

from airflow_pipesec.checks.access import NotAnswered
from airflow_pipesec.guards.airflow_api import AirflowAPI
from airflow_pipesec.operators import RBACAssertionOperator
from airflow_pipesec.sensors import RBACAssertionSensor
from tests.conftest import PROJECT
from tests.fab import fab_call
from tests.runner import Ran, RunTask
from tests.stack import Stack

SERVICE = "service"
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
    assert blocking(guard("olga", separation_from="user: OLGA")) == ["duties-separated"]
    assert blocking(guard("olga", separation_from="user:umma")) == ["duties-separated"], "a name that nobody has"
    assert blocking(guard("olga", separation_from="run:no_such_dag/run")) == ["duties-separated"]
    assert guard("olga", separation_from="nonsense").state == "failed"


def test_an_account_that_may_not_ask_gets_no_answer(guard: Guarded) -> None:
    for account, password in (("vera", None), ("uma", None), (SERVICE, "wrong-password-4711")):
        ran = guard("olga", account=account, password=password, required_permission=EDIT)
        assert blocking(ran) == ["access-asked"], account


@pytest.mark.parametrize("manager", ["api_server", "fab"])
def test_no_secret_gets_out(
    manager: str,
    request: pytest.FixtureRequest,
    run_task: RunTask,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stack: Stack = request.getfixturevalue(manager)
    guard = guarded(stack, run_task, monkeypatch)
    ran = [guard("olga", required_permission=EDIT), guard("vera", required_permission=EDIT)]
    ran.append(guard("olga", password="wrong-password-4711", required_permission=EDIT))
    ran.append(guard("olga", account="vera", required_permission=EDIT))
    traces = ["".join(traceback.format_exception(item.error)) for item in ran if item.error is not None]
    assert len(traces) == 3
    shown = "".join([*map(str, ran), *traces, *capfd.readouterr()])
    assert "olga" in shown
    assert "eyJ" not in shown, "a token"
    assert "wrong-password-4711" not in shown
    assert stack.passwords[SERVICE] not in shown
    assert stack.passwords["vera"] not in shown


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
        # A key is a path, and parts of the query behind spaces.
        known = next((answer for key, answer in self.answers.items() if all(part in self.path for part in key.split())), None)
        self.reply(*(known or (404, "application/json", "{}")))

    def reply(self, status: int, kind: str, body: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        pass


UNTOUCHED = (200, "application/json", '{"total_entries": 0, "event_logs": []}')


def asked_of_odd(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, str, str]], **parameters: Any
) -> Ran:
    rest = {path: UNTOUCHED for path in ["/api/v2/eventLogs"] if path not in answers}  # the first that fits is given
    monkeypatch.setattr(Odd, "answers", answers | rest)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Odd)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", f"http://s:p@127.0.0.1:{server.server_port}/http")
        return run_task(RBACAssertionOperator(task_id="g", **parameters), user="olga")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answer", "control", "words"),
    [
        ((200, "application/json", '{"manager": "KeycloakAuthManager", "supported": false}'), "access-asked", "cannot be asked"),
        ((200, "application/json", '{"manager": "X", "supported": true}'), "access-asked", "makes no sense"),
        ((200, "application/json", '{"supported": true, "known": true, "roles": []}'), "access-asked", "did not say"),
        ((200, "application/json", "nonsense"), "access-asked", "could not be asked"),
        ((200, "application/json", "[1]"), "access-asked", "makes no sense"),
        ((200, "application/json", '{"manager": "FabAuthManager", "supported": false}'), "access-asked", "cannot be asked"),
        ((200, "text/html", "<html>"), "access-asked", "install airflow-pipesec there"),
        ((401, "application/json", "{}"), "access-asked", "it has expired"),
        ((403, "application/json", "{}"), "access-asked", "permit it to read Airflow's connections"),
        ((503, "text/plain", "busy"), "access-asked", "HTTP 503"),
        ((302, "text/html", ""), "access-asked", "HTTP 302"),
    ],
)
def test_an_answer_that_is_none_is_no_pass(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, answer: tuple[int, str, str], control: str, words: str
) -> None:
    ran = asked_of_odd(run_task, monkeypatch, {"/pipesec/access": answer}, required_permission=EDIT)
    assert blocking(ran) == [control]
    assert words in str(ran.error)
    assert "token-4711" not in str(ran)


def fab_answers(user: str, *pairs: tuple[str, str]) -> dict[str, tuple[int, str, str]]:
    actions = [{"action": {"name": action}, "resource": {"name": resource}} for action, resource in pairs]
    return {
        "/auth/fab/v1/users/": (200, "application/json", user),
        "/auth/fab/v1/roles/": (200, "application/json", json.dumps({"name": "r", "actions": actions})),
    }


OLGA = '{"username": "olga", "active": true, "roles": [{"name": "r"}]}'


def test_fab_wants_every_part_of_a_permission(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [("can_edit", "DAGs"), ("can_edit", "Task Instances"), ("can_edit", "DAG Runs")]
    wanted = {"required_permission": ("PUT", "task_instance")}
    assert asked_of_odd(run_task, monkeypatch, fab_answers(OLGA, *parts), **wanted).state == "success"
    for part in parts:
        some = [other for other in parts if other != part]
        assert blocking(asked_of_odd(run_task, monkeypatch, fab_answers(OLGA, *some), **wanted)) == ["permission-held"]
    unknown = asked_of_odd(run_task, monkeypatch, fab_answers(OLGA, *parts), required_permission=("PUT", "nonsense"))
    assert "none of dag, dag_run" in str(unknown.error)


@pytest.mark.parametrize("active", ["false", "null", "1"])
def test_a_fab_user_who_is_not_active_is_unknown(run_task: RunTask, monkeypatch: pytest.MonkeyPatch, active: str) -> None:
    answers = fab_answers(OLGA.replace("true", active), ("can_edit", "DAGs"), ("can_edit", "DAG Runs"))
    assert blocking(asked_of_odd(run_task, monkeypatch, answers, required_permission=EDIT)) == ["user-known"]


def test_fabs_table_is_ours() -> None:
    from airflow.providers.fab.auth_manager import fab_auth_manager

    from airflow_pipesec.guards.access import _FAB_RESOURCES

    theirs = fab_auth_manager._MAP_DAG_ACCESS_ENTITY_TO_FAB_RESOURCE_TYPE
    assert {entity.value.lower(): names for entity, names in theirs.items()} == _FAB_RESOURCES


@pytest.mark.parametrize(
    ("separation", "chosen", "passes"),
    [
        ("approval:a", '["Approve"]', True),
        ("approval:a", '["Reject"]', False),
        ("approval:a", '["Approve", "Reject"]', False),
        ("approval:a", "[]", False),
        ("approval:a/OK", '["OK"]', True),
        ("approval:a/OK", '["Approve"]', False),
    ],
)
def test_only_an_approval_is_one(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, separation: str, chosen: str, passes: bool
) -> None:
    detail = f'{{"response_received": true, "chosen_options": {chosen}, "responded_by_user": {{"name": "vera"}}}}'
    known = '{"manager": "X", "supported": true, "known": true, "roles": []}'
    answers = {
        "/api/v2/dags/test_dag/dagRuns/test_run/taskInstances/a/-1/hitlDetails": (200, "application/json", detail),
        "/pipesec/access": (200, "application/json", known),
    }
    ran = asked_of_odd(run_task, monkeypatch, answers, separation_from=separation)
    assert (ran.state == "success") == passes


def test_an_approval_of_another_form_makes_no_sense_and_is_no_pass(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    detail = '{"response_received": true, "chosen_options": ["Approve"], "responded_by_user": "vera"}'
    known = '{"manager": "X", "supported": true, "known": true, "roles": []}'
    answers = {
        "/api/v2/dags/test_dag/dagRuns/test_run/taskInstances/a/-1/hitlDetails": (200, "application/json", detail),
        "/pipesec/access": (200, "application/json", known),
    }
    ran = asked_of_odd(run_task, monkeypatch, answers, separation_from="approval:a")
    assert blocking(ran) == ["duties-separated"]
    assert "makes no sense" in str(ran.error)


WHEN = {"task_id": None, "when": "2026-11-25T00:00:00Z"}


@pytest.mark.parametrize(
    ("entry", "passes"),
    [
        ({}, True),
        ({"owner": "olga"}, True),
        ({"owner": "uma"}, False),
        ({"owner": "uma", "run_id": "other_run", "extra": '{"method": "PATCH", "new_state": "success"}'}, True),
        ({"owner": "uma", "run_id": "other_run", "extra": '{"new_state": "success", "include_past": true}'}, False),
        ({"owner": "uma", "run_id": "other_run", "extra": '{"dag_run_id": "test_run", "task_ids": ["g"]}'}, False),
        ({"owner": "uma", "run_id": "other_run"}, False),
        ({"owner": "uma", "run_id": None}, False),
        ({"owner": "uma", "event": "patch_dag_run", "extra": '{"note": "x"}'}, False),
        ({"owner": "uma", "event": "patch_dag_run", "extra": '{"note": "x", "state": "queued"}'}, False),
        ({"owner": "uma", "event": "patch_task_instance", "extra": "not json"}, False),
        ({"owner": "uma", "event": "patch_task_instance", "extra": '{"method": "PATCH"}'}, False),
        ({"owner": "uma", "event": "clear_dag_runs", "run_id": None, "extra": '{"dry_run": true}'}, True),
        ({"owner": "uma", "event": "clear_dag_runs", "run_id": None, "extra": '{"dag_run_ids": ["other"]}'}, True),
        ({"owner": "uma", "event": "clear_dag_runs", "run_id": None, "extra": '{"dag_run_ids": ["test_run"]}'}, False),
    ],
)
def test_a_run_that_somebody_else_touched_is_not_the_persons_own(
    run_task: RunTask, monkeypatch: pytest.MonkeyPatch, entry: dict[str, Any], passes: bool
) -> None:
    whole = {"owner": "olga", "event": "post_clear_task_instances", "run_id": "test_run", "extra": "{}"} | WHEN | entry
    log = json.dumps({"total_entries": 1, "event_logs": [whole]}) if entry else UNTOUCHED[2]
    known = '{"manager": "X", "supported": true, "known": true, "roles": ["op"]}'
    answers = {
        "/pipesec/access": (200, "application/json", known),
        "/api/v2/eventLogs?dag_id=test_dag": (200, "application/json", log),
        "/api/v2/eventLogs": UNTOUCHED,
    }
    ran = asked_of_odd(run_task, monkeypatch, answers, allowed_roles=["op"])
    assert (ran.state == "success") == passes
    if not passes:
        assert blocking(ran) == ["triggered-by-person"]
        assert "somebody else touched the run, or tried to: uma" in str(ran.error)


def test_every_page_of_the_audit_log_is_read_however_short(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def page(*owners: str) -> tuple[int, str, str]:
        entries = [{"owner": owner, "event": "clear_dag_run", "run_id": "test_run", "extra": "{}"} | WHEN for owner in owners]
        return 200, "application/json", json.dumps({"total_entries": 41, "event_logs": entries})

    answers = {
        "/pipesec/access": (200, "application/json", '{"manager": "X", "supported": true, "known": true, "roles": ["op"]}'),
        "/api/v2/eventLogs run_id=test_run offset=0&": page(*["olga"] * 40),
        "/api/v2/eventLogs run_id=test_run offset=40&": page("uma"),
    }
    assert blocking(asked_of_odd(run_task, monkeypatch, answers, allowed_roles=["op"])) == ["triggered-by-person"]
    answers["/api/v2/eventLogs run_id=test_run offset=40&"] = page("olga")
    assert asked_of_odd(run_task, monkeypatch, answers, allowed_roles=["op"]).state == "success"


@pytest.mark.parametrize(
    "log", ["{}", '{"total_entries": "x"}', '{"total_entries": 1, "event_logs": [{}]}', '{"total_entries": 1, "event_logs": 5}']
)
def test_an_audit_log_of_another_form_makes_no_sense(run_task: RunTask, monkeypatch: pytest.MonkeyPatch, log: str) -> None:
    ran = asked_of_odd(run_task, monkeypatch, {"/api/v2/eventLogs": (200, "application/json", log)}, allowed_roles=["op"])
    assert blocking(ran) == ["access-asked"]
    assert "makes no sense" in str(ran.error)


def test_an_audit_log_that_cannot_be_read_is_no_pass(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    known = (200, "application/json", '{"manager": "X", "supported": true, "known": true, "roles": ["op"]}')
    for log in (
        (403, "application/json", "{}"),
        (404, "application/json", "{}"),
        (200, "application/json", '{"total_entries": 5, "event_logs": []}'),
    ):
        ran = asked_of_odd(run_task, monkeypatch, {"/pipesec/access": known, "/api/v2/eventLogs": log}, allowed_roles=["op"])
        assert blocking(ran) == ["access-asked"]


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
        assert again(stack, runs["olga"], user="uma") == "success", "who triggered may repeat"
        assert again(stack, runs["olga"], user="olga") == "failed", "somebody else may not"
        logs = "".join(path.read_text(errors="replace") for path in (tmp_path / "home").rglob("*.log"))
        assert secret not in logs
        assert "eyJ" not in logs, "a token"
        assert "user uma" in logs


def again(stack: Stack, run: str, *, user: str) -> str:
    """Let somebody set the guard going again in a way that Airflow does not count as clearing the run; return how it ended."""
    path = f"{stack.url}/api/v2/dags/approved"
    headers = {"Authorization": f"Bearer {stack.token(user)}"}
    before = stack.tasks_of("approved", run)["may_deploy"]["try_number"]
    clear = {"dry_run": False, "dag_run_id": run, "task_ids": ["may_deploy"], "only_failed": False, "reset_dag_runs": False}
    httpx.post(f"{path}/clearTaskInstances", json=clear, headers=headers, timeout=30).raise_for_status()
    httpx.patch(f"{path}/dagRuns/{run}", json={"state": "queued"}, headers=headers, timeout=30).raise_for_status()

    def ended() -> bool:
        task = stack.tasks_of("approved", run)["may_deploy"]
        return task["try_number"] > before and task["state"] in ("success", "failed")

    wait(ended)
    return str(stack.tasks_of("approved", run)["may_deploy"]["state"])


def wait(holds: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.5)


def test_the_role_of_the_documents_lets_a_gate_ask(fab: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (PROJECT / "docs" / "guards.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if "add-perms pipesec_service" in line]
    resources = shlex.split(line.partition("--resource ")[2])
    assert (PROJECT / "docker" / "prepare.sh").read_text().replace("\\\n  ", "").count(line.partition("--resource ")[2]) == 1

    def ask(name: str, granted: list[str]) -> str:
        actions = [{"action": {"name": "can_read"}, "resource": {"name": resource}} for resource in granted]
        fab_call(fab, "POST", "/roles", {"name": name, "actions": actions})
        person = {"username": name, "password": "secret", "roles": [{"name": name}], "first_name": "x", "last_name": "x"}
        fab_call(fab, "POST", "/users", person | {"email": f"{name}@example.org"})
        port = fab.url.rpartition(":")[2]
        monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", f"http://{name}:secret@127.0.0.1:{port}/http")
        api = AirflowAPI("airflow_api")
        try:
            with pytest.raises(NotAnswered) as caught:
                api.instances("example_secure_training", "none", ["verify_raw"])
            assert api.acts("example_secure_training", "none", datetime.now(UTC)) == []
            return str(caught.value)
        finally:
            api.close()

    assert "does not know the run none" in ask("gatekeeper", resources)
    assert "HTTP 403" in ask("blind", [name for name in resources if name != "Task Instances"])
