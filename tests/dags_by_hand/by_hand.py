"""A pipeline whose guard fails when it is told to, for the test that then sets states by hand."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TaskGroup, get_current_context, task
from pendulum import datetime

from airflow_pipesec.consume import released
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.operators import HashManifestOperator, HashVerificationOperator, ReleaseGateOperator

RUN = os.environ.get("PIPESEC_EXAMPLE_DATA", "/tmp/pipesec-by-hand") + "/by-hand-{{ run_id }}"
GOOD = Control("thing-good", "The thing is good", Severity.HIGH, "Make it good.")


@task
def train(folder: str) -> None:
    """Write the model."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "model").write_text("a model")


@task.guard
def judge() -> Any:
    """Pass, unless the run was told that it is bad."""
    bad = (get_current_context()["dag_run"].conf or {}).get("bad")
    yield Finding(GOOD, Subject("thing"), Status.FAIL if bad else Status.PASS, "is bad" if bad else "is good")


@task.guard
def judge_each(number: int) -> Any:
    """Pass, unless the run was told that this one is bad."""
    bad = (get_current_context()["dag_run"].conf or {}).get("bad_one") == number
    yield Finding(GOOD, Subject(f"thing {number}"), Status.FAIL if bad else Status.PASS, "is bad" if bad else "is good")


@task
def deploy(folder: str) -> str:
    """Ship what the gate let pass."""
    with released(folder, gate="gate") as copy:
        return (copy / "model").read_text()


with DAG("by_hand", schedule=None, start_date=datetime(2026, 1, 1, tz="UTC"), catchup=False):
    record = HashManifestOperator(task_id="record", root=f"{RUN}/model", manifest=f"{RUN}/manifest.json")
    verify = HashVerificationOperator(task_id="verify", root=f"{RUN}/model", manifest=f"{RUN}/manifest.json")
    with TaskGroup("checks") as checks:
        judge()
    gate = ReleaseGateOperator(task_id="gate", artifact=f"{RUN}/model")
    train(f"{RUN}/model") >> record >> verify >> judge_each.expand(number=[0, 1]) >> checks >> gate >> deploy(f"{RUN}/model")
