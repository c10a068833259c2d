"""A DAG whose author wrote the guard that the plan demands."""

from __future__ import annotations

from airflow.sdk import DAG, task
from pendulum import datetime

from tests.weaving import Watch


@task
def train() -> None:
    """Train."""


with DAG("guarded", schedule=None, start_date=datetime(2026, 1, 1, tz="UTC"), catchup=False):
    Watch(task_id="my_own", word="here") >> train()
