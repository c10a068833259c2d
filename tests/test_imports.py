"""Imports: DAG files are parsed all day, so what they import is light, and every module says what it is."""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys

import pytest

import airflow_pipesec

HEAVY = (
    "great_expectations",
    "numpy",
    "pandas",
    "pyarrow",
    "boto3",
    "botocore",
    "sklearn",
    "duckdb",
    "fastapi",
    "fsspec",
    "rich",
    "airflow_pipesec.scan",
)
MODULES = [info.name for info in pkgutil.walk_packages(airflow_pipesec.__path__, "airflow_pipesec.")]


# What the pages need, and nobody else.
OF_PAGES = (
    "airflow_pipesec.api",
    "airflow_pipesec.ui",
    "cryptography",
    "fastapi",
    "jinja2",
    "markupsafe",
    "sqlalchemy",
    "starlette",
)


def new_names(before: str, program: str) -> set[str]:
    """Return the modules that a fresh interpreter imports for ``program`` beyond those for ``before``."""
    script = (
        f"import sys\n{before}\nold = set(sys.modules)\n{program}\nimport json\nprint(json.dumps(sorted(set(sys.modules) - old)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def new_modules(before: str, program: str) -> set[str]:
    """Return the top-level packages of those modules."""
    return {name.partition(".")[0] for name in new_names(before, program)}


def test_operators_and_sensors_import_nothing_heavy() -> None:
    sdk = "from airflow.sdk import DAG, BaseOperator, BaseSensorOperator, task"
    added = new_modules(sdk, "import airflow_pipesec.operators, airflow_pipesec.sensors, airflow_pipesec.consume")
    assert "airflow_pipesec" in added
    assert added & set(HEAVY) == set()


def test_the_plugin_imports_nothing_of_its_pages_until_it_is_asked_for_them() -> None:
    everywhere = "import airflow.plugins_manager"
    views = "from airflow_pipesec.plugin import PipesecPlugin\nassert len(PipesecPlugin().external_views) == 4"
    added = new_names(everywhere, views)
    assert {name for name in added if name.startswith("airflow_pipesec")} <= {"airflow_pipesec", "airflow_pipesec.plugin"}
    # Nothing of it, whether or not Airflow had loaded some of it for itself.
    assert {name for name in added for part in OF_PAGES if f"{name}.".startswith(f"{part}.")} == set()


def test_the_pages_import_all_that_the_test_would_see() -> None:
    apps = "from airflow_pipesec.plugin import PipesecPlugin\nassert len(PipesecPlugin().fastapi_apps) == 1"
    added = new_names("", apps)
    assert [part for part in OF_PAGES if part not in added] == []


def test_the_heavy_ones_are_what_the_test_would_see() -> None:
    assert {"pandas", "numpy"} <= new_modules("", "import pandas")


def test_rules_in_sql_do_without_great_expectations() -> None:
    program = """
import pandas
from airflow_pipesec.checks.quality import Rules, validate_frame
from airflow_pipesec.findings import Subject
rules = Rules(column_mapping={"a": {"min": {"geq_to": 1}}}, checks={"few": {"check_statement": "COUNT(*) < 3"}})
found = list(validate_frame(pandas.DataFrame({"a": [1, 2]}), rules, subject=Subject("rows")))
assert [one.status for one in found] == ["pass"] * 4, found
"""
    added = new_modules("", program)
    assert "duckdb" in added
    assert "great_expectations" not in added


def test_the_package_itself_imports_nothing() -> None:
    assert new_modules("", "import airflow_pipesec") - {"airflow_pipesec"} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("name", MODULES)
def test_every_module_says_what_it_is_and_what_it_offers(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    if not hasattr(module, "__path__"):
        assert all(hasattr(module, public) for public in module.__all__)


def test_airflow_finds_the_provider_and_its_decorator() -> None:
    from importlib.metadata import entry_points

    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    (entry,) = [e for e in entry_points(group="apache_airflow_provider") if e.value.startswith("airflow_pipesec")]
    info = entry.load()()
    assert info["package-name"] == "airflow-pipesec"
    assert "airflow-pipesec" in ProvidersManager().providers
    assert "guard" in dict(ProvidersManagerTaskRuntime().taskflow_decorators)
