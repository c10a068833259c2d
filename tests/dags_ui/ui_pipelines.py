"""Pipelines for the test that looks at their pages in a browser: they fail, wait, skip and try again when they are told to."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, get_current_context, task
from pendulum import datetime

from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.operators import HashManifestOperator, HashVerificationOperator, ReleaseGateOperator
from airflow_pipesec.sensors import HashVerificationSensor

HOME = Path(os.environ.get("PIPESEC_EXAMPLE_DATA", "/tmp/pipesec-ui"))
RUN = f"{HOME}/{{{{ run_id }}}}"
GOOD = Control("thing-good", "The thing is good", Severity.HIGH, "Make it good.")
# What runs where it is taken for markup, wherever a page puts it.
EVIL = "\"'></script></title><script>top.__pwned=1</script><img src=x onerror=top.__pwned=1><svg onload=top.__pwned=1>{{7*7}}"
PLAIN = {"schedule": None, "start_date": datetime(2026, 1, 1, tz="UTC"), "catchup": False}


def note_modules(component: str) -> None:
    """Write down what of this package the process has loaded, and whether the process came from the scheduler."""
    names = [name for name in sys.modules if name.partition(".")[0] == "airflow_pipesec" or name == "jinja2.nativetypes"]
    forked = "airflow.jobs.scheduler_job_runner" in sys.modules
    told = {"modules": names, "of_scheduler": forked, "of_processor": "airflow.dag_processing.manager" in sys.modules}
    HOME.mkdir(parents=True, exist_ok=True)
    (HOME / f"modules-{component}-{os.getpid()}.json").write_text(json.dumps(told))


def told(name: str) -> Any:
    """What the run was told under a name."""
    return (get_current_context()["dag_run"].conf or {}).get(name)


def verdict(good: bool, name: str = "thing") -> Finding:
    return Finding(GOOD, Subject(name), Status.PASS if good else Status.FAIL, "is good" if good else "is bad")


@task
def collect(folder: str) -> None:
    """Write the model, and what this worker has loaded."""
    note_modules("worker")
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "model").write_text("a model")


@task.guard
def judge() -> Any:
    """Pass, unless the run was told that it is bad; and not before it was told to go on."""
    while told("hold") and not (HOME / "go-on").exists():
        time.sleep(0.2)
    yield verdict(not told("bad"))


@task.guard
def judge_each(number: int) -> Any:
    """Pass."""
    yield verdict(True, f"thing {number}")


@task.guard(retries=1, retry_delay=timedelta(seconds=1))
def judge_again() -> Any:
    """Break off, and pass when tried again."""
    if get_current_context()["ti"].try_number == 1:
        raise ConnectionError
    yield verdict(True)


@task
def deploy() -> None:
    """Do nothing."""


with DAG("ui_guarded", **PLAIN):
    record = HashManifestOperator(task_id="record", root=f"{RUN}/model", manifest=f"{RUN}/manifest.json")
    verify = HashVerificationOperator(task_id="verify", root=f"{RUN}/model", manifest=f"{RUN}/manifest.json")
    gate = ReleaseGateOperator(task_id="gate", artifact=f"{RUN}/model")
    collect(f"{RUN}/model") >> record >> [verify, judge(), judge_each.expand(number=[0, 1]), judge_again()] >> gate >> deploy()


@task.branch
def choose() -> str:
    """Take one way, and skip the guard on the other."""
    return "judge_this"


@task.guard
def judge_this() -> Any:
    """Pass."""
    yield verdict(True)


@task.guard
def judge_that() -> Any:
    """Never run: nobody takes this way."""
    yield verdict(True)


@task.guard(on_failure="warn")
def judge_softly() -> Any:
    """Fail, and only warn."""
    yield verdict(False)


with DAG("ui_shapes", **PLAIN):
    # Whoever tests writes what it waits for.
    expected = {"late": f"sha256:{hashlib.sha256(b'late').hexdigest()}"}
    HashVerificationSensor(task_id="arrive", root=f"{HOME}/arriving", expected=expected, poke_interval=20, timeout=600)
    choose() >> [judge_this(), judge_that()]
    judge_softly()


with DAG("ui_evil", dag_display_name=EVIL, **PLAIN):

    @task.guard
    def judge_evil() -> Any:
        """Find what is called like an attack."""
        yield Finding(GOOD, Subject(f"/data/{EVIL}.csv"), Status.FAIL, f"is {EVIL}")
        yield Finding(GOOD, Subject("javascript:top.__pwned=1"), Status.FAIL, "\x1b[31m is \u202e bad")

    deploy() >> judge_evil()


with DAG("ui_naked", **PLAIN):
    deploy()

with DAG("ui_never", **PLAIN):
    deploy() >> judge_this()

note_modules("parse")
