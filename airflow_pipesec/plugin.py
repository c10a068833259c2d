"""What Airflow's components load: pages in its UI and the API behind them. Nothing heavy is imported until it is asked for."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from airflow.plugins_manager import AirflowPlugin

__all__ = ["PipesecPlugin"]

_TABS = (
    # destination, url_route, name, what of our own is shown there
    ("nav", "pipesec", "Security", "overview"),
    ("dag", "pipesec_dag", "Security", "dag?dag_id={DAG_ID}"),
    ("dag_run", "pipesec_run", "Security", "run?dag_id={DAG_ID}&run_id={RUN_ID}"),
    (
        "task_instance",
        "pipesec_task",
        "Security",
        "task?dag_id={DAG_ID}&run_id={RUN_ID}&task_id={TASK_ID}&map_index={MAP_INDEX}",
    ),
)


class PipesecPlugin(AirflowPlugin):
    """Adds ``/pipesec`` to the API server, and pages of it to Airflow's navigation and its DAGs, runs and task instances."""

    name = "pipesec"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override] # a property, so that other components import nothing
        """Return the apps, made when the API server asks for them."""
        from airflow_pipesec.api import app

        return [{"app": app, "url_prefix": "/pipesec", "name": "pipesec"}]

    @property
    def external_views(self) -> list[dict[str, Any]]:  # type: ignore[override] # a property: where Airflow is, is read when asked
        """Return the pages, below the path that Airflow itself is at."""
        from airflow.configuration import conf

        root = urlsplit(conf.get("api", "base_url", fallback="") or "").path.rstrip("/")
        return [
            {
                "name": name,
                "href": f"{root}/pipesec/{page}",
                "destination": destination,
                "url_route": route,
                "icon": f"{root}/pipesec/static/shield.svg",
                "icon_dark_mode": f"{root}/pipesec/static/shield-dark.svg",
                **({"nav_top_level": True} if destination == "nav" else {}),
            }
            for destination, route, name, page in _TABS
        ]
