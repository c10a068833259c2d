"""The organisation's plan in a real Airflow: DAGs that never heard of it are woven and run in order, and attempts are refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from airflow_pipesec.cli import main
from tests.conftest import PROJECT
from tests.integration.test_by_hand import until
from tests.stack import Stack

SERVICE = "service"
WATCH = {"guard": "tests.weaving.Watch", "word": "here"}
WOVEN = ("plain", "branching", "mapped", "waiting")
REFUSED = {
    "attempt_bare.py": "DAG enforced_bare is not guarded as",
    "attempt_untagged.py": "has no entry for DAG untagged, and refuses those",
    "attempt_same_id.py": "task before_train.watch of DAG attempt_same_id is not the guard that",
    "attempt_subclass.py": "before stage train there has to be a Watch. Add:",
    "attempt_all_done.py": "publish would run although before_train.watch above it did not pass",
    "attempt_data_edge.py": "stage train would run although before_train.watch did not pass",
}
CHAIN = (
    *("collect", "after_collect.record", "meddle", "before_train.verify", "train", "after_train.record"),
    *("before_publish.verify", "before_publish.gate", "publish"),
)


def plan_for(data: Path) -> dict[str, Any]:
    run = f"{data}/plain-{{{{ run_id }}}}"
    raw = {"root": f"{run}/raw", "manifest": f"{run}/raw.json"}
    model = {"root": f"{run}/model", "manifest": f"{run}/model.json"}
    of_plain = [
        {"task": "collect", "after": [{"guard": "HashManifestOperator", "id": "record", **raw}]},
        {
            "task": "train",
            "before": [{"guard": "HashVerificationOperator", "id": "verify", **raw}],
            "after": [{"guard": "HashManifestOperator", "id": "record", **model}],
        },
        {
            "task": "publish",
            "before": [
                {"guard": "HashVerificationOperator", "id": "verify", **model},
                {"guard": "ReleaseGateOperator", "id": "gate", "artifact": model["root"]},
            ],
        },
    ]
    before_train = [{"task": "train", "before": [WATCH]}]
    return {
        "version": 1,
        "mode": "weave",
        "unmatched": "refuse",
        "dags": [
            {"dag_id": "plain", "stages": of_plain},
            {"dag_id": "branching", "stages": [{"task": ["left", "right", "join"], "before": [WATCH]}]},
            {"dag_id": "mapped", "stages": [{"task": "each", "before": [WATCH], "after": [WATCH]}]},
            {"dag_id": ["waiting", "attempt_*"], "stages": before_train},
            {"dag_id": ["guarded", "enforced_*"], "mode": "enforce", "stages": before_train},
            {"tag": "personal-data", "stages": before_train},
        ],
    }


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("woven") / "home"
    plan = home.parent / "plan.yaml"
    plan.write_text(json.dumps(plan_for(home / "data")))
    files = shutil.copytree(PROJECT / "tests" / "dags_organisation", home.parent / "dags")
    settings = {"AIRFLOW__PIPESEC__PLAN_URL": str(plan), "PYTHONPATH": str(PROJECT)}  # for the guard of the tests
    one = Stack(home, files, users={SERVICE: "op"}, environment=settings)
    account = {"conn_type": "http", "host": "127.0.0.1", "port": one.port, "schema": "http"}
    account |= {"login": SERVICE, "password": one.passwords[SERVICE]}
    one.environment["AIRFLOW_CONN_AIRFLOW_API"] = json.dumps(account)
    with one:
        until("every file was parsed", lambda: {*WOVEN, "guarded"} <= dags(one) and set(errors(one)) == set(REFUSED))
        yield one


def dags(stack: Stack) -> set[str]:
    return {dag["dag_id"] for dag in stack.call("GET", "/dags?limit=100")["dags"] if not dag["has_import_errors"]}


def parse_again(stack: Stack) -> None:
    """Have the files parsed now: Airflow does every half a minute, and at once where one has changed."""
    for path in Path(stack.environment["AIRFLOW__CORE__DAGS_FOLDER"]).glob("*.py"):
        path.touch()


def errors(stack: Stack) -> dict[str, str]:
    found = stack.call("GET", "/importErrors?limit=100")["import_errors"]
    return {Path(one["filename"]).name: one["stack_trace"] for one in found}


@pytest.fixture(scope="module")
def runs(stack: Stack) -> dict[str, str]:
    """All runs at once, each to its end: by what it is to show, its id."""
    started = {
        "plain": stack.trigger("plain"),
        "bad": stack.trigger("plain", bad=True),
        "left": stack.trigger("branching", way="left"),
        "right": stack.trigger("branching", way="right"),
        "mapped": stack.trigger("mapped"),
        "guarded": stack.trigger("guarded"),
    }
    until("all have ended", lambda: all(ended(stack, dag_of(what), run) for what, run in started.items()))
    return started


def dag_of(what: str) -> str:
    return {"bad": "plain", "left": "branching", "right": "branching"}.get(what, what)


def ended(stack: Stack, dag_id: str, run: str) -> bool:
    return stack.run_of(dag_id, run)["state"] in ("success", "failed")


def instances(stack: Stack, runs: dict[str, str], what: str) -> dict[str, list[dict[str, Any]]]:
    answer = stack.call("GET", f"/dags/{dag_of(what)}/dagRuns/{runs[what]}/taskInstances?limit=1000")
    found: dict[str, list[dict[str, Any]]] = {}
    for one in answer["task_instances"]:
        found.setdefault(one["task_id"], []).append(one)
    return found


def states(stack: Stack, runs: dict[str, str], what: str) -> dict[str, str]:
    return {name: "/".join(sorted({str(one["state"]) for one in some})) for name, some in instances(stack, runs, what).items()}


def log_of(stack: Stack, dag_id: str, run: str, task: str) -> str:
    number = stack.tasks_of(dag_id, run)[task]["try_number"]
    answer = stack.call("GET", f"/dags/{dag_id}/dagRuns/{run}/taskInstances/{task}/logs/{number}?full_content=true")
    return json.dumps(answer)


def assert_in_order(found: dict[str, list[dict[str, Any]]], *names: str) -> None:
    """Of tasks that follow each other, each began when all of the one before it had ended."""
    for above, below in pairwise(names):
        last = max(datetime.fromisoformat(one["end_date"]) for one in found[above])
        first = min(datetime.fromisoformat(one["start_date"]) for one in found[below])
        assert last <= first, f"{below} began before {above} ended"


def test_the_guards_are_tasks_that_everybody_sees(stack: Stack) -> None:
    tasks = {one["task_id"]: one for one in stack.call("GET", "/dags/plain/tasks")["tasks"]}
    assert tasks["before_train.verify"]["class_ref"]["class_name"] == "HashVerificationOperator"
    assert tasks["before_train.verify"]["downstream_task_ids"] == ["train"]
    assert set(tasks) == set(CHAIN)


def test_a_plain_dag_runs_in_order_and_its_evidence_verifies(
    stack: Stack, runs: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert set(states(stack, runs, "plain").values()) == {"success"}, log_of(stack, "plain", runs["plain"], "before_publish.gate")
    assert_in_order(instances(stack, runs, "plain"), *CHAIN)
    url, keys = (stack.environment[f"AIRFLOW__PIPESEC__{name}"] for name in ("EVIDENCE_URL", "TRUSTED_KEYS"))
    assert main(["verify-run", url, "plain", runs["plain"], "--trusted-keys", keys]) == 0
    told = capsys.readouterr().out
    assert "guard-passed        guards upstream: 5 guards: passed" in told


def test_a_guard_that_fails_stops_what_is_below_it(stack: Stack, runs: dict[str, str]) -> None:
    at = CHAIN.index("before_train.verify")
    wanted = {name: "success" if number < at else "upstream_failed" for number, name in enumerate(CHAIN)}
    assert states(stack, runs, "bad") == wanted | {"before_train.verify": "failed"}
    assert not list(Path(stack.environment["PIPESEC_EXAMPLE_DATA"]).glob(f"plain-{runs['bad']}/model"))


@pytest.mark.parametrize(("way", "other"), [("left", "right"), ("right", "left")])
def test_a_branch_is_joined_again_whichever_way_it_took(stack: Stack, runs: dict[str, str], way: str, other: str) -> None:
    found = states(stack, runs, way)
    ran = ("choose", way, f"before_{way}.watch", "before_join.watch", "join")
    assert {name: found[name] for name in ran} == dict.fromkeys(ran, "success")
    assert found[other] == "skipped"
    for chain in (("choose", way), (f"before_{way}.watch", way, "before_join.watch", "join")):
        assert_in_order(instances(stack, runs, way), *chain)


def test_a_mapped_task_has_all_of_its_instances_between_its_guards(stack: Stack, runs: dict[str, str]) -> None:
    found = instances(stack, runs, "mapped")
    assert set(states(stack, runs, "mapped").values()) == {"success"}
    assert len(found["each"]) == 3
    assert_in_order(found, "numbers", "before_each.watch", "each", "after_each.watch", "total")


def test_a_guard_that_the_author_wrote_counts(stack: Stack, runs: dict[str, str]) -> None:
    assert states(stack, runs, "guarded") == {"my_own": "success", "train": "success"}


@pytest.mark.parametrize("file", REFUSED)
def test_attempts_are_import_errors_that_say_why(stack: Stack, file: str) -> None:
    assert REFUSED[file] in errors(stack)[file]


def test_what_is_refused_cannot_be_started(stack: Stack) -> None:
    for dag_id in ("enforced_bare", "untagged", "attempt_same_id", "attempt_all_done"):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            stack.trigger(dag_id)
        assert caught.value.response.status_code == 404


def test_a_plan_that_breaks_stops_dags_and_nothing_else_and_they_come_back_with_it(stack: Stack, runs: dict[str, str]) -> None:
    plan = Path(stack.environment["AIRFLOW__PIPESEC__PLAN_URL"])
    whole = plan.read_text()
    run = stack.trigger("waiting")
    data = Path(stack.environment["PIPESEC_EXAMPLE_DATA"])
    until("the run is under way", (data / "began").exists)
    plan.write_text("version: 1\nstages: [")
    parse_again(stack)
    files = {"plain.py", "shapes.py", "guarded.py", *REFUSED}
    until("every DAG is an import error", lambda: set(errors(stack)) == files and not dags(stack))
    until(
        "each of them is", lambda: all("organisation's plan" in one and "not valid YAML" in one for one in errors(stack).values())
    )
    assert stack._healthy()

    # What runs already goes on to its end. What follows it waits: neither it nor its guard is started while there is no plan.
    (data / "go").touch()
    until("the task that ran has ended", lambda: stack.tasks_of("waiting", run)["wait"]["state"] == "success")
    time.sleep(3)
    assert states(stack, {"waiting": run}, "waiting") == {"wait": "success", "before_train.watch": "None", "train": "None"}
    assert stack._healthy()

    plan.write_text(whole)
    parse_again(stack)
    until("the DAGs are back", lambda: {*WOVEN, "guarded"} <= dags(stack) and set(errors(stack)) == set(REFUSED))
    until("the run has ended", lambda: ended(stack, "waiting", run))
    assert states(stack, {"waiting": run}, "waiting") == dict.fromkeys(("wait", "before_train.watch", "train"), "success")
    assert_in_order(instances(stack, {"waiting": run}, "waiting"), "wait", "before_train.watch", "train")
