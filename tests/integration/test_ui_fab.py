"""The security pages with FAB: a role that may read one DAG sees that one, and who may not read the audit log no names."""

from __future__ import annotations

import subprocess
import sys

import httpx
import pytest

from tests.conftest import PROJECT
from tests.fab import add_person, fab_call
from tests.stack import ANSWER, Stack

OWN, OTHER, RUN = "own_pipeline", "other_pipeline", "manual__marked"
PAGES = ("dag", "run", "task", "verdict", "evidence.zip", "report.html", "findings.json", "findings.sarif")
WORLD = f"""
from tests.airflow_world import Played, add_dag, add_run, plain_pipeline
for name in ("{OWN}", "{OTHER}"):
    dag = plain_pipeline(name)
    add_dag(dag)
    add_run(dag, "{RUN}", plays={{"verify_collect": Played.OVERRIDDEN}}, by="mallory")
"""


@pytest.fixture(scope="module")
def world(fab: Stack) -> Stack:
    made = subprocess.run(
        [sys.executable, "-c", WORLD], cwd=PROJECT, env=fab.environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    for role, resources in {"one_dag": (), "one_dag_and_log": ("Audit Logs",)}.items():
        readable = (f"DAG:{OWN}", "DAG Runs", "Task Instances", *resources)
        actions = [{"action": {"name": "can_read"}, "resource": {"name": name}} for name in readable]
        fab_call(fab, "POST", "/roles", {"name": role, "actions": actions})
        add_person(fab, role, role)
    return fab


def get(stack: Stack, user: str, path: str, dag_id: str = "") -> httpx.Response:
    headers = {"Authorization": f"Bearer {stack.token(user)}", "accept": "text/html"}
    asked = {"dag_id": dag_id, "run_id": RUN, "task_id": "verify_collect"} if dag_id else {}
    return httpx.get(f"{stack.url}/pipesec/{path}", params=asked, headers=headers, timeout=ANSWER)


def test_the_overview_has_the_dags_of_the_role_and_no_trace_of_the_others(world: Stack) -> None:
    mine, all_of_them = get(world, "one_dag", "overview"), get(world, "vera", "overview")
    assert mine.status_code == all_of_them.status_code == 200
    assert OWN in mine.text
    assert OTHER not in mine.text
    assert "1 DAG<" in mine.text
    assert OTHER in all_of_them.text


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_another_dag_is_refused(world: Stack, page: str) -> None:
    assert get(world, "one_dag", page, OWN).status_code == 200
    assert get(world, "one_dag", page, OTHER).status_code == 403


def test_who_set_it_by_hand_is_told_to_those_who_may_read_the_audit_log(world: Stack) -> None:
    for page in ("run", "task", "report.html"):
        assert "mallory" in get(world, "one_dag_and_log", page, OWN).text
        assert "mallory" not in get(world, "one_dag", page, OWN).text
