"""The author lets what follows the guarded stage run whatever became of it."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


with DAG("attempt_all_done", schedule=None):
    collect() >> train() >> train.override(task_id="publish", trigger_rule="all_done")()
