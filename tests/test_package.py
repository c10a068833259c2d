"""The package: what is built installs elsewhere, works there, and is what the checkout says it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    source = tmp_path_factory.mktemp("source") / "project"
    # A copy, so that building leaves nothing in the checkout.
    source.mkdir()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, check=False)
    names = [name for name in os.fsdecode(tracked.stdout).split("\0") if name and (PROJECT / name).is_file()]
    if tracked.returncode or not names:
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes((PROJECT / name).read_bytes())
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:  # a wheel of pure Python is installed by unpacking it
        archive.extractall(target)
    return target


def run(installed: Path, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_wheel_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    (tmp_path / "model.pkl").write_bytes(b"\x80\x02ccollections\nOrderedDict\n)R.")
    (tmp_path / "rows.csv").write_text("a\n1\n")
    expectation = {"type": "expect_column_values_to_be_between", "kwargs": {"column": "a", "min_value": 0}}
    (tmp_path / "suite.json").write_text(json.dumps({"expectations": [expectation]}))
    tool = ("-m", "airflow_pipesec.cli")
    for arguments in (
        ("manifest", "model.bin", "-o", "model.json"),
        ("verify", "model.bin", "--manifest", "model.json"),
        ("validate", "rows.csv", "--suite", "suite.json"),
        ("scan", "model.pkl"),
    ):
        done = run(installed, tmp_path, *tool, *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        assert json.loads(done.stdout)["outcome"] == "PASSED"
    program = "import airflow_pipesec.operators as o, airflow_pipesec.sensors as s; print(o.__file__); print(s.__all__)"
    where = run(installed, tmp_path, "-c", program).stdout
    assert where.startswith(str(installed))
    assert "HashVerificationSensor" in where


def test_the_wheel_has_the_catalogue_of_threats(installed: Path, tmp_path: Path) -> None:
    program = "from airflow_pipesec import threats as t; print(t.__file__); print(*t.catalogue())"
    where, ids = run(installed, tmp_path, "-c", program).stdout.splitlines()
    assert where.startswith(str(installed))
    assert "data-poisoning" in ids.split()


def test_the_wheel_says_what_it_is(installed: Path) -> None:
    (folder,) = installed.glob("*.dist-info")
    built = Distribution.at(folder)
    assert built.metadata["Name"] == "airflow-pipesec"
    assert built.metadata["License-Expression"] == "Apache-2.0"
    assert {(point.group, point.name) for point in built.entry_points} == {
        ("airflow.plugins", "pipesec"),
        ("airflow.policy", "pipesec"),
        ("apache_airflow_provider", "provider_info"),
        ("console_scripts", "pipesec"),
    }
    assert (installed / "airflow_pipesec/py.typed").is_file()
    assert not [path for path in installed.iterdir() if path.name not in ("airflow_pipesec", folder.name)]
