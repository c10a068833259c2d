"""The author's own guard, which finds nothing wrong, hides a stage and stands where the plan's guard belongs."""

from __future__ import annotations

from airflow.sdk import DAG, task

from tests.weaving import Watch as TheirWatch


@task
def collect() -> int:
    """Collect."""
    return 1


@task
def train(value: object = None) -> None:
    """Train."""


class Watch(TheirWatch):
    """Find nothing wrong."""

    def execute(self, context: object) -> None:
        """Train, and look at nothing."""


with DAG("enforced_subclass", schedule=None):
    collect() >> Watch(task_id="before_train", word="here") >> train()
