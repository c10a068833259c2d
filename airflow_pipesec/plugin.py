"""What Airflow's components load: the endpoint that answers who may do what. Nothing heavy is imported until it is asked for."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

__all__ = ["PipesecPlugin"]


class PipesecPlugin(AirflowPlugin):
    """Adds ``/pipesec`` to the API server."""

    name = "pipesec"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override] # a property, so that other components import nothing
        """Return the apps, made when the API server asks for them."""
        from airflow_pipesec.api import app

        return [{"app": app, "url_prefix": "/pipesec", "name": "pipesec"}]
