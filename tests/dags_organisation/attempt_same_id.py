"""The author has a task of the guard's id, which looks at nothing."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


@task(task_id="before_train.watch")
def looks_at_nothing() -> None:
    """Look at nothing."""


with DAG("attempt_same_id", schedule=None):
    collect() >> looks_at_nothing() >> train()
