"""The documents: their examples run, their links lead somewhere, and what they show of the command line exists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from airflow_pipesec.cli import _parser
from airflow_pipesec.guards.parameters import guard_class
from airflow_pipesec.plan import Plan
from airflow_pipesec.policy import Policy
from tests.conftest import PROJECT

DOCUMENTS = [*sorted(PROJECT.glob("*.md")), *sorted((PROJECT / "docs").glob("*.md"))]


def blocks(language: str) -> list[Any]:
    found = []
    for document in DOCUMENTS:
        for number, code in enumerate(re.findall(rf"```{language}\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)):
            found.append(pytest.param(code, document, id=f"{document.name}-{number}"))
    return found


def plans() -> list[Any]:
    """The YAML blocks that are plans; the others are policies."""
    return [block for block in blocks("yaml") if block.values[0].startswith("version:")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize(("code", "document"), blocks("python"))
def test_examples_make_dags(code: str, document: Path, tmp_path: Path, airflow_db: Path) -> None:
    from airflow.dag_processing.dagbag import DagBag

    for plan, *_ in (block.values for block in reversed(plans()) if block.values[1] == document):
        (tmp_path / "plan.yaml").write_text(plan, encoding="utf-8")  # the first of the document is what its examples call so
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    bag = DagBag(tmp_path, bundle_path=tmp_path)
    assert not bag.import_errors
    assert [dag for dag in bag.dags.values() if dag.task_ids]


def allow_lists() -> list[Any]:
    """The YAML blocks that are allow-lists of the artifact scan."""
    return [block for block in blocks("yaml") if block.values[0].startswith("shipped:")]


@pytest.mark.parametrize(("code", "document"), allow_lists())
def test_allow_lists_can_be_read(code: str, document: Path, tmp_path: Path) -> None:
    from airflow_pipesec.scan.allow import AllowList

    (tmp_path / "allow.yaml").write_text(code, encoding="utf-8")
    assert AllowList.load(tmp_path / "allow.yaml").call


@pytest.mark.parametrize(("code", "document"), [block for block in blocks("yaml") if block not in [*plans(), *allow_lists()]])
def test_policies_can_be_read(code: str, document: Path) -> None:
    assert Policy.load(yaml.safe_load(code)).waivers, document


@pytest.mark.parametrize(("code", "document"), plans())
def test_plans_can_be_read(code: str, document: Path) -> None:
    for spec in Plan.read(code.encode(), document.name).specs:
        guard_class(spec.guard)


def test_commands_exist() -> None:
    shown = [line[2:] for code in blocks("console") for line in code.values[0].splitlines() if line.startswith("$ ")]
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert shown
    for line in shown:
        program, *arguments = shlex.split(line.partition(" >> ")[0], comments=True)
        if program == "pipesec":
            _parser().parse_args(arguments)
        elif program == "make":
            assert arguments[0] in targets
        else:
            assert shlex.join([program, *arguments]) == "pip install '.[amazon,postgres]'"
