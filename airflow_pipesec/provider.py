"""What Airflow's providers manager reads about this package."""

from __future__ import annotations

from typing import Any

from airflow_pipesec import __version__

__all__ = ["get_provider_info"]


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata: name, version and ``@task.guard``."""
    return {
        "package-name": "airflow-pipesec",
        "name": "Pipesec",
        "description": "Security guards for every stage of an ML pipeline.",
        "versions": [__version__],
        "task-decorators": [{"name": "guard", "class-name": "airflow_pipesec.decorators.guard_task"}],
    }
