"""A pipeline that never heard of guards; a run that is told so meddles with what it collected."""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task
from pendulum import datetime

RUN = os.environ.get("PIPESEC_EXAMPLE_DATA", "/tmp/pipesec-woven") + "/plain-{{ run_id }}"


@task
def collect(run: str) -> None:
    """Write the data."""
    Path(run).mkdir(parents=True, exist_ok=True)
    (Path(run) / "raw").write_text("data")


@task
def meddle(run: str) -> None:
    """Change the data, where the run was told to."""
    if (get_current_context()["dag_run"].conf or {}).get("bad"):
        (Path(run) / "raw").write_text("other data")


@task
def train(run: str) -> None:
    """Write the model."""
    (Path(run) / "model").write_text("a model of " + (Path(run) / "raw").read_text())


@task
def publish(run: str) -> None:
    """Publish the model."""
    (Path(run) / "published").write_text((Path(run) / "model").read_text())


with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1, tz="UTC"), catchup=False):
    collect(RUN) >> meddle(RUN) >> train(RUN) >> publish(RUN)
