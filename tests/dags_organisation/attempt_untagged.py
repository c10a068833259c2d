"""The author takes away the tag that the plan goes by."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


with DAG("untagged", schedule=None, tags=[]):
    collect() >> train()
