"""A branch that is joined again, a mapped task, and a DAG that waits: none of them heard of guards."""

from __future__ import annotations

import os
import time
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task
from pendulum import datetime

DATA = Path(os.environ.get("PIPESEC_EXAMPLE_DATA", "/tmp/pipesec-woven"))
WHEN = {"schedule": None, "start_date": datetime(2026, 1, 1, tz="UTC"), "catchup": False}


@task
def stage(value: object = None) -> object:
    """Hand on what comes."""
    return value


@task
def total(values: list[int]) -> int:
    """Add what the instances gave."""
    return sum(values)


@task.branch
def choose() -> str:
    """Choose what the run was told to."""
    return str((get_current_context()["dag_run"].conf or {}).get("way", "left"))


@task
def wait() -> None:
    """Wait until somebody lets it go on."""
    DATA.mkdir(exist_ok=True)
    (DATA / "began").touch()
    end = time.monotonic() + 60
    while not (DATA / "go").exists() and time.monotonic() < end:
        time.sleep(0.2)


with DAG("branching", **WHEN):
    ways = [stage.override(task_id="left")(1), stage.override(task_id="right")(2)]
    choose() >> ways
    stage.override(task_id="join", trigger_rule="none_failed_min_one_success")(ways)

with DAG("mapped", **WHEN):
    total(stage.override(task_id="each").expand(value=stage.override(task_id="numbers")([1, 2, 3])))

with DAG("waiting", **WHEN):
    wait() >> stage.override(task_id="train")()
