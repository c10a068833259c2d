"""The contract of checks and guards: every control can be looked up, and every guard is made the same way."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
from airflow.sdk import BaseOperator, BaseSensorOperator

from airflow_pipesec import checks, operators, sensors
from airflow_pipesec.findings import Control

DOCS = Path(__file__).resolve().parent.parent / "docs"
CONTROLS = [
    (info.name, name, value)
    for info in pkgutil.iter_modules(checks.__path__)
    for name, value in vars(importlib.import_module(f"airflow_pipesec.checks.{info.name}")).items()
    if isinstance(value, Control)
]
GUARDS = [
    value
    for module in (operators, sensors)
    for name in module.__all__
    if (value := getattr(module, name)) and name[:5] != "Guard"
]
# Writing a manifest, encrypting and decrypting are acts, not states to wait for; and a gate decides once.
WITHOUT_SENSOR = {"DecryptArtifactOperator", "EncryptArtifactOperator", "HashManifestOperator", "ReleaseGateOperator"}


def test_there_are_controls_and_guards() -> None:
    assert len(CONTROLS) >= 16
    assert len(GUARDS) >= 5


def test_control_ids_are_unique() -> None:
    ids = [control.id for control in {id(control): control for _, _, control in CONTROLS}.values()]
    assert sorted(ids) == sorted(set(ids))


@pytest.mark.parametrize("control", [control for _, _, control in CONTROLS], ids=lambda control: control.id)
def test_each_control_is_complete_and_in_the_docs(control: Control) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", control.id)
    assert control.title[0].isupper()
    assert not control.title.endswith(".")
    assert control.remedy.endswith(".")
    assert control.refs
    row = f"| `{control.id}` | {control.title} | {control.severity.label} | {', '.join(control.refs)} |"
    assert row in (DOCS / "controls.md").read_text(encoding="utf-8"), f"docs/controls.md lacks this row:\n{row}"


def test_the_docs_name_no_control_that_is_gone() -> None:
    documented = set(re.findall(r"^\| `([a-z0-9-]+)` \|", (DOCS / "controls.md").read_text(encoding="utf-8"), re.MULTILINE))
    assert documented == {control.id for _, _, control in CONTROLS}


def test_every_operator_has_a_sensor_with_the_same_parameters() -> None:
    for name in operators.__all__:
        if name in WITHOUT_SENSOR:
            continue
        operator, sensor = getattr(operators, name), getattr(sensors, name.replace("Operator", "Sensor"))
        assert issubclass(sensor, BaseSensorOperator)
        parameters = set(inspect.signature(operator).parameters)
        assert parameters <= set(inspect.signature(sensor).parameters) | {"kwargs"}
        assert set(operator.template_fields) == set(sensor.template_fields)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_constructors_only_assign_and_take_keywords_only(guard: type[BaseOperator]) -> None:
    parameters = [p for p in inspect.signature(guard).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters)
    marks = {p.name: object() for p in parameters if p.name not in ("mode",)}
    made = guard(task_id="g", **marks)
    assert all(getattr(made, name) is mark for name, mark in marks.items()), "the constructor changed what it was given"
    assert all(hasattr(made, field) for field in guard.template_fields)
    assert {"policy", "on_failure"} <= set(guard.template_fields)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.__name__)
def test_every_parameter_is_documented(guard: type[BaseOperator]) -> None:
    text = "\n".join(cls.__doc__ or "" for cls in guard.__mro__ if cls.__module__.startswith("airflow_pipesec"))
    undocumented = [
        p.name
        for p in inspect.signature(guard).parameters.values()
        if p.kind is p.KEYWORD_ONLY and f":param {p.name}:" not in text
    ]
    assert undocumented == []
