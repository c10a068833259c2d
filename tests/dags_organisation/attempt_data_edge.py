"""The author passes the guard by, with the stage's result and a rule that one success is enough for."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


with DAG("attempt_data_edge", schedule=None):
    train.override(trigger_rule="one_success")(collect())
