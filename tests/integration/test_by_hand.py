"""States set by hand, in every way that the REST API has: nothing ships, and the gate says what happened and who did it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_pipesec.cli import main
from tests.conftest import PROJECT
from tests.stack import Stack

DAG = "by_hand"
GUARD = "checks.judge"
SERVICE = "service"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("by-hand") / "home"
    users = {"eve": "user", "olga": "op", SERVICE: "op"}
    one = Stack(home, PROJECT / "tests" / "dags_by_hand", users=users)
    account = {"conn_type": "http", "host": "127.0.0.1", "port": one.port, "schema": "http"}
    account |= {"login": SERVICE, "password": one.passwords[SERVICE]}
    one.environment["AIRFLOW_CONN_AIRFLOW_API"] = json.dumps(account)
    with one:
        one.wait_for_dag(DAG)
        yield one


def as_eve(stack: Stack, method: str, path: str, body: Any) -> None:
    headers = {"Authorization": f"Bearer {stack.token('eve')}"}
    answer = httpx.request(method, f"{stack.url}/api/v2/dags/{DAG}{path}", json=body, headers=headers, timeout=30)
    assert answer.is_success, answer.text


def mark_one(stack: Stack, run: str) -> None:
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskInstances/{GUARD}", {"new_state": "success"})


def mark_in_bulk(stack: Stack, run: str) -> None:
    entity = {"task_id": GUARD, "dag_id": DAG, "dag_run_id": run, "new_state": "success"}
    action = {"action": "update", "entities": [entity], "action_on_non_existence": "fail"}
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskInstances", {"actions": [action]})


def mark_the_group(stack: Stack, run: str) -> None:
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskGroupInstances/checks", {"new_state": "success"})


def clear_and_mark(stack: Stack, run: str) -> None:
    clear = {"dry_run": False, "task_ids": [GUARD], "include_downstream": False, "only_failed": False, "reset_dag_runs": False}
    as_eve(stack, "POST", "/clearTaskInstances", clear | {"dag_run_id": run})
    mark_one(stack, run)


def until(what: str, holds: Callable[[], bool], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"it never came to be that {what}"
        time.sleep(0.5)


def state(stack: Stack, run: str, task: str) -> str | None:
    found = stack.tasks_of(DAG, run)[task]["state"]
    return None if found is None else str(found)


def log_of(stack: Stack, run: str, task: str) -> str:
    number = stack.tasks_of(DAG, run)[task]["try_number"]
    answer = stack.call("GET", f"/dags/{DAG}/dagRuns/{run}/taskInstances/{task}/logs/{number}?full_content=true")
    return json.dumps(answer)


@pytest.fixture(scope="module")
def runs(stack: Stack) -> dict[str, str]:
    """One run for each way, all under way at once, and one that nobody touches."""
    bad, good = ("one", "bulk", "group", "clear", "run", "skip"), ("good_cleared", "gate_forged")
    started = {way: stack.trigger(DAG, user="olga", bad=way in bad) for way in (*bad, *good)}
    started["deleted"] = stack.trigger(DAG, user="olga", bad_one=1)
    started["untouched"] = started["good_cleared"]
    for way, run in started.items():
        wanted = "success" if way in (*good, "untouched") else "failed"
        until(f"the run of {way} is {wanted}", lambda run=run: stack.run_of(DAG, run)["state"] in ("success", "failed"))
        assert stack.run_of(DAG, run)["state"] == wanted, log_of(stack, run, "gate")
    return started


def test_a_run_that_nobody_touched_ships(stack: Stack, runs: dict[str, str]) -> None:
    assert state(stack, runs["untouched"], "deploy") == "success"


@pytest.mark.parametrize(
    ("way", "act", "told"),
    [
        ("one", mark_one, "eve set it to success (patch_task_instance)"),
        ("bulk", mark_in_bulk, "its audit log tells of nobody who touched it"),
        ("group", mark_the_group, "eve set it to success (patch_task_group_instances)"),
    ],
)
def test_a_failed_guard_that_was_called_a_success_does_not_pass_the_gate(
    stack: Stack, runs: dict[str, str], way: str, act: Callable[[Stack, str], None], told: str
) -> None:
    run = runs[way]
    act(stack, run)
    assert state(stack, run, GUARD) == "success"
    until("the gate has run", lambda: state(stack, run, "gate") == "failed")
    log = log_of(stack, run, "gate")
    assert f"guard {GUARD}: signed FAILED: 1 failed. Airflow shows try 1 as success" in log
    assert told in log
    until("the deployment will not be", lambda: state(stack, run, "deploy") == "upstream_failed")


def test_a_guard_that_was_cleared_and_then_called_a_success_does_not_pass_the_gate(stack: Stack, runs: dict[str, str]) -> None:
    run = runs["clear"]
    clear_and_mark(stack, run)
    until("the gate has run", lambda: state(stack, run, "gate") in ("failed", "success"))
    assert state(stack, run, "gate") == "failed"
    log = log_of(stack, run, "gate")
    assert f"guard {GUARD}: attested try 1, and that is not its latest attempt" in log
    assert "eve asked for post_clear_task_instances" in log
    until("the deployment will not be", lambda: state(stack, run, "deploy") == "upstream_failed")


def test_a_guard_that_had_passed_and_was_cleared_and_marked_does_not_pass_again(stack: Stack, runs: dict[str, str]) -> None:
    run = runs["good_cleared"]
    clear_and_mark(stack, run)
    clear = {"dry_run": False, "task_ids": ["gate"], "include_downstream": True, "only_failed": False, "dag_run_id": run}
    as_eve(stack, "POST", "/clearTaskInstances", clear)
    until("the gate has run again", lambda: state(stack, run, "gate") == "failed")
    assert "attested try 1, and that is not its latest attempt. Airflow shows try" in log_of(stack, run, "gate")


def cleared(stack: Stack, run: str, task: str, *, downstream: bool) -> None:
    body = {"dry_run": False, "task_ids": [task], "include_downstream": downstream, "only_failed": False, "dag_run_id": run}
    as_eve(stack, "POST", "/clearTaskInstances", body)


def test_an_instance_of_a_mapped_guard_that_failed_and_was_deleted_is_not_forgotten(stack: Stack, runs: dict[str, str]) -> None:
    run = runs["deleted"]
    as_eve(stack, "DELETE", f"/dagRuns/{run}/taskInstances/judge_each?map_index=1", None)
    cleared(stack, run, GUARD, downstream=True)
    until("the gate has run", lambda: state(stack, run, "gate") in ("failed", "success"))
    assert state(stack, run, "gate") == "failed"
    assert "guard judge_each[1]: signed FAILED: 1 failed" in log_of(stack, run, "gate")
    until("the deployment will not be", lambda: state(stack, run, "deploy") == "upstream_failed")


def test_a_gate_that_passed_once_and_was_cleared_and_marked_ships_nothing(stack: Stack, runs: dict[str, str]) -> None:
    run = runs["gate_forged"]
    body = {"dry_run": False, "task_ids": ["gate"], "include_downstream": False, "only_failed": False, "reset_dag_runs": False}
    as_eve(stack, "POST", "/clearTaskInstances", body | {"dag_run_id": run})
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskInstances/gate", {"new_state": "success"})
    cleared(stack, run, "deploy", downstream=False)
    until("the deployment was tried", lambda: state(stack, run, "deploy") == "failed")
    assert "gate gate left no evidence of its latest attempt in this run" in log_of(stack, run, "deploy")


def test_a_run_that_was_called_a_success_ships_nothing(
    stack: Stack, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs["run"]
    as_eve(stack, "PATCH", f"/dagRuns/{run}", {"state": "success"})
    assert stack.run_of(DAG, run)["state"] == "success"
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskInstances/gate", {"new_state": "success"})
    # Now the gate itself is a success, by hand: what deploys asks for its evidence, and there is none.
    until("the deployment was tried", lambda: state(stack, run, "deploy") in ("failed", "up_for_retry"))
    assert "gate gate left no evidence in this run" in log_of(stack, run, "deploy")
    keys = stack.environment["AIRFLOW__PIPESEC__TRUSTED_KEYS"]
    assert main(["verify-run", stack.environment["AIRFLOW__PIPESEC__EVIDENCE_URL"], DAG, run, "--trusted-keys", keys]) == 1
    assert "no release gate left evidence in this run" in capsys.readouterr().out


def test_a_failed_guard_that_was_skipped_by_hand_ships_nothing(stack: Stack, runs: dict[str, str]) -> None:
    run = runs["skip"]
    as_eve(stack, "PATCH", f"/dagRuns/{run}/taskInstances/{GUARD}", {"new_state": "skipped"})
    until("what follows was skipped", lambda: state(stack, run, "deploy") == "skipped")
    as_eve(
        stack, "POST", "/clearTaskInstances", {"dry_run": False, "task_ids": ["deploy"], "only_failed": False, "dag_run_id": run}
    )
    until("it is skipped again", lambda: state(stack, run, "deploy") in ("skipped", "failed"))
    assert state(stack, run, "gate") == "skipped"


def test_the_evidence_of_every_run_verifies_or_says_why_offline(stack: Stack, runs: dict[str, str]) -> None:
    keys, url = stack.environment["AIRFLOW__PIPESEC__TRUSTED_KEYS"], stack.environment["AIRFLOW__PIPESEC__EVIDENCE_URL"]
    assert main(["verify-run", url, DAG, runs["one"], "--trusted-keys", keys]) == 1
    assert Path(url).exists()
