"""What Airflow's providers manager reads about this package."""

from __future__ import annotations

from typing import Any

from airflow_pipesec import __version__

__all__ = ["get_provider_info"]


def _option(description: str, example: str, *, sensitive: bool = False) -> dict[str, Any]:
    # What is sensitive can be the answer of a command (…_CMD) or of a secrets backend (…_SECRET), and is not shown.
    option = {"description": description, "version_added": "0.1.0", "type": "string", "example": example, "default": None}
    return option | ({"sensitive": True} if sensitive else {})


_OPTIONS = {
    "signing_key": _option(
        "Reference to the private key that signs evidence and manifests: file:PATH, env:NAME, connection:ID, variable:NAME or\n"
        "awskms:KEY. Never the key itself. The value dangerously-unsigned goes without, and no release gate accepts that.\n",
        "file:/etc/pipesec/signing.pem",
        sensitive=True,
    ),
    "trusted_keys": _option(
        "File with the public keys that gates and verifications believe, as `pipesec keygen --signing` prints them.\n",
        "/etc/pipesec/trusted-keys.yaml",
    ),
    "evidence_url": _option(
        "Where evidence goes: a folder or a URL that every worker reaches. A folder of AIRFLOW_HOME unless given.\n",
        "s3://evidence/pipesec",
    ),
    "plan_url": _option(
        "The organisation's plan: every DAG that is parsed is held against it, see docs/plan.md. A path or a URL that the DAG\n"
        "processor and every worker reach. A plan that cannot be read refuses every DAG.\n",
        "/etc/pipesec/plan.yaml",
    ),
    "plan_keys": _option(
        "File with the public keys that sign the organisation's plan. With it, a plan that none of them signed\n"
        "refuses every DAG.\n",
        "/etc/pipesec/plan-keys.yaml",
    ),
    "plan_mode": _option(
        "enforce, weave or report, whatever the plan says. With report no DAG is refused, also when the plan cannot be read.\n",
        "report",
    ),
    "environment": _option("Which environment of a plan counts here.\n", "production"),
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider metadata: name, version, configuration and ``@task.guard``."""
    return {
        "package-name": "airflow-pipesec",
        "name": "Pipesec",
        "description": "Security guards for every stage of an ML pipeline.",
        "versions": [__version__],
        "config": {
            "pipesec": {
                "description": "Security guards: what signs, whom a gate believes, where evidence goes, which plan counts.",
                "options": _OPTIONS,
            }
        },
        "task-decorators": [{"name": "guard", "class-name": "airflow_pipesec.decorators.guard_task"}],
    }
