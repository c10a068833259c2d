"""Shared by the tests of the organisation's plan: DAG files that Airflow parses under a plan, as it does for anybody."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag

PLAIN = """
from airflow.sdk import DAG, task

@task
def collect(): return 1

@task
def train(): return 2

with DAG("plain", schedule=None, tags=["pii", "other"]) as dag:
    collect() >> train()
"""
GUARD = {"guard": "tests.weaving.Watch", "word": "here"}
GUARDED = ["collect", "train", "before_train.watch"]


def plan(mode: str = "weave", **more: Any) -> dict[str, Any]:
    """A plan that demands a guard before the stage train."""
    return {"version": 1, "mode": mode, "stages": [{"task": "train", "before": [GUARD]}], **more}


class Organisation:
    """One Airflow with a plan, a folder of DAGs, and nothing else."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.dags = home / "dags"
        self.dags.mkdir()
        self.monkeypatch = monkeypatch

    def set(self, **options: str) -> None:
        """Set options of [pipesec]."""
        for name, value in options.items():
            self.monkeypatch.setenv(f"AIRFLOW__PIPESEC__{name.upper()}", value)

    def has(self, demanded: Mapping[str, Any] | bytes, **options: str) -> str:
        """Give it a plan, and return where that is."""
        file = self.home / "plan.yaml"
        file.write_bytes(demanded if isinstance(demanded, bytes) else json.dumps(demanded).encode())
        self.set(plan_url=str(file), **options)
        return str(file)

    def bundles(self, *names: str) -> None:
        """Configure local bundles, each a folder of its own."""
        entries = []
        for name in names:
            (self.home / name).mkdir()
            path = "airflow.dag_processing.bundles.local.LocalDagBundle"
            entries.append({"name": name, "classpath": path, "kwargs": {"path": str(self.home / name)}})
        self.monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST", json.dumps(entries))

    def parse(self, source: str = PLAIN, *, folder: Path | None = None, bundle: str | None = None) -> tuple[dict[str, Any], str]:
        """Let Airflow parse a DAG file, and return its DAGs and the import error."""
        place = folder or self.dags
        (place / "file.py").write_text(source)
        bag = DagBag(place, bundle_path=place, bundle_name=bundle)
        return dict(bag.dags), "\n".join(bag.import_errors.values())

    def accepted(self, source: str = PLAIN, **more: Any) -> Any:
        """Return the one DAG of a file that Airflow takes."""
        dags, error = self.parse(source, **more)
        assert not error
        (dag,) = dags.values()
        return dag

    def refused(self, source: str = PLAIN, **more: Any) -> str:
        """Return what the author is told of a file whose DAG Airflow does not take."""
        dags, error = self.parse(source, **more)
        assert not dags
        assert error.startswith("AirflowClusterPolicyViolation: "), error
        return error.removeprefix("AirflowClusterPolicyViolation: ")
