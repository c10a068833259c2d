"""The author leaves the guard out, where the plan only looks."""

from __future__ import annotations

from airflow.sdk import DAG, task


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


with DAG("enforced_bare", schedule=None):
    collect() >> train()
