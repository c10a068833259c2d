"""SARIF: what code scanning is given is valid, complete, at the right line, and the same alert tomorrow."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft4Validator

from airflow_pipesec.coverage import Measured, Survey, Trouble, TroubleKind, coverage
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.sarif import RULES, sarif
from tests.conftest import PROJECT

SCHEMA = json.loads((PROJECT / "tests" / "vectors" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
FILE = """
from airflow.sdk import DAG, dag, task
from airflow_pipesec.operators import HashVerificationOperator as Verify

with DAG("other", schedule=None):
    Verify(task_id="train")

with DAG(dag_id="training", schedule=None) as made:
    first = Verify(root="ä", task_id="train")

    @task
    def load(): ...

    @task.guard(threats=("drift",))
    async def check(): ...


@dag(schedule=None)
def decorated():
    @task()
    def load(): ...


@asset(schedule=None)
def made_by_asset(): ...
"""


def stage(name: str, *upstream: str) -> Node:
    return Node(name, upstream)


def measured(file: Path | str, *nodes: Node, dag_id: str = "training") -> Measured:
    return Measured(coverage(Pipeline(dag_id, {node.id: node for node in nodes})), str(file))


def log_of(survey: Survey, here: Path | None = None) -> dict[str, Any]:
    log = json.loads(json.dumps(sarif(survey, here=None if here is None else str(here))))
    assert list(Draft4Validator(SCHEMA).iter_errors(log)) == []
    return log


def results(survey: Survey, here: Path | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = log_of(survey, here)["runs"][0]["results"]
    return found


def where(result: dict[str, Any]) -> tuple[int, int, int, int]:
    (location,) = result["locations"]
    region = location["physicalLocation"]["region"]
    return region["startLine"], region["startColumn"], region["endLine"], region["endColumn"]


def every_kind(tmp_path: Path) -> Survey:
    (tmp_path / "a.py").write_text(FILE)
    warns = Node("check", ("load",), Kind.GUARD, warns=True, threats=("drift",))
    dag = measured(tmp_path / "a.py", stage("load"), warns, stage("train", "check"))
    troubles = (
        Trouble(TroubleKind.NOT_PARSED, "ValueError: no", str(tmp_path / "b.py"), None, 7),
        Trouble(TroubleKind.PLAN, "the plan does not fit", str(tmp_path / "a.py"), "decorated"),
    )
    return Survey(str(tmp_path), (dag,), troubles)


def test_the_vendored_schema_is_the_standards() -> None:
    import hashlib

    raw = (PROJECT / "tests" / "vectors" / "sarif-2.1.0.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() in (PROJECT / "tests" / "vectors" / "sarif-2.1.0.md").read_text()
    assert sarif(Survey("x", ()))["$schema"] == SCHEMA["id"]


def test_every_rule_can_be_found_and_the_log_is_valid(tmp_path: Path) -> None:
    found = results(every_kind(tmp_path), tmp_path)
    assert {result["ruleId"] for result in found} == set(RULES)


def test_nothing_found_is_a_valid_log_too() -> None:
    assert results(Survey("dags", ())) == []


def test_what_code_scanning_demands_is_there(tmp_path: Path) -> None:
    log = log_of(every_kind(tmp_path), tmp_path)
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    driver = run["tool"]["driver"]
    assert driver["name"]
    assert driver["semanticVersion"]
    for rule in driver["rules"]:
        texts = [
            rule["shortDescription"]["text"],
            rule["fullDescription"]["text"],
            rule["help"]["text"],
            rule["help"]["markdown"],
        ]
        assert all(texts)
        assert len(rule["id"]) <= 255
        assert len(texts[0]) <= 1024
        assert "Remedy" in texts[3]
        assert "security" in rule["properties"]["tags"]
        assert 0 < float(rule["properties"]["security-severity"]) <= 10
        assert rule["properties"]["precision"] in ("very-high", "high", "medium", "low")
        assert rule["properties"]["problem.severity"] in ("error", "warning", "recommendation")
        assert rule["defaultConfiguration"]["level"] in ("error", "warning")
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["message"]["text"]
        assert result["level"] in ("error", "warning")
        assert result["partialFingerprints"]["primaryLocationLineHash"].endswith(":1")
        place = result["locations"][0]["physicalLocation"]
        assert place["artifactLocation"]["uri"] in ("a.py", "b.py")
        assert place["artifactLocation"]["uriBaseId"] == "%SRCROOT%"
        assert set(place["region"]) == {"startLine", "startColumn", "endLine", "endColumn"}


def test_tasks_are_found_by_id_and_by_function_within_their_dag(tmp_path: Path) -> None:
    survey = every_kind(tmp_path)
    places = {(result["ruleId"], result["message"]["text"].split()[1]): where(result) for result in results(survey)}
    lines = FILE.splitlines()
    line = lines.index('    first = Verify(root="ä", task_id="train")') + 1
    column = lines[line - 1].index("task_id") + 1  # in characters, although ä has two bytes
    assert places["stage-unguarded", "train"] == (line, column, line, column + len('task_id="train"'))
    load = lines.index("    def load(): ...") + 1
    assert places["stage-unguarded", "load"][0] == load
    assert places["guard-without-effect", "check"][0] == lines.index("    async def check(): ...") + 1
    assert places["dag-not-parsed", "no"] == (7, 1, 7, 1)
    assert places["plan-not-applied", "decorated:"][0] == lines.index("def decorated():") + 1


def test_a_task_of_another_dag_of_the_file_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(FILE)
    survey = Survey("x", (measured(tmp_path / "a.py", stage("train"), dag_id="other"),))
    assert where(results(survey)[0])[0] == FILE.splitlines().index('    Verify(task_id="train")') + 1
    survey = Survey("x", (measured(tmp_path / "a.py", stage("load"), dag_id="decorated"),))
    assert where(results(survey)[0])[0] == FILE.splitlines().index("def decorated():") + 3
    survey = Survey("x", (measured(tmp_path / "a.py", stage("made_by_asset"), dag_id="made_by_asset"),))
    assert where(results(survey)[0])[0] == len(FILE.splitlines())


def test_what_is_not_written_out_is_at_its_stage_its_dag_or_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text(FILE)
    guard = Node("group.after_load.hash_verification", ("group.load__1",), Kind.GUARD, warns=True)
    survey = Survey("x", (measured(tmp_path / "a.py", stage("group.load__1"), guard, stage("made_in_a_loop")),))
    lines = [where(result)[0] for result in results(survey)]
    load = FILE.splitlines().index("    def load(): ...") + 1
    dag = FILE.splitlines().index('with DAG(dag_id="training", schedule=None) as made:') + 1
    assert lines == [load, dag, load]
    for file in ("nowhere.py", "dags.zip/inside.py"):
        assert where(results(Survey("x", (measured(tmp_path / file, stage("a")),)))[0]) == (1, 1, 1, 1)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"def (:", b"(" * 5000, b"x = '\xc3'\n"])
def test_a_file_that_is_no_python_does_no_harm(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.py").write_bytes(content)
    assert where(results(Survey("x", (measured(tmp_path / "a.py", stage("a")),)))[0]) == (1, 1, 1, 1)


def test_an_alert_is_the_same_when_its_line_moves_and_no_two_are_one(tmp_path: Path) -> None:
    survey = every_kind(tmp_path)
    before = results(survey)
    (tmp_path / "a.py").write_text("\n\n" + FILE)
    after = results(survey)
    assert [where(one) for one in before] != [where(one) for one in after]
    prints = [one["partialFingerprints"] for one in before]
    assert prints == [one["partialFingerprints"] for one in after]
    assert len({one["primaryLocationLineHash"] for one in prints}) == len(prints)


def test_names_of_files_are_uris(tmp_path: Path) -> None:
    def uri(file: Path | str) -> dict[str, str]:
        (location,) = results(Survey("x", (measured(file, stage("a")),)), tmp_path / "repo")[0]["locations"]
        found: dict[str, str] = location["physicalLocation"]["artifactLocation"]
        return found

    assert uri(tmp_path / "repo" / "dags" / "a b#ü.py") == {"uri": "dags/a%20b%23%C3%BC.py", "uriBaseId": "%SRCROOT%"}
    assert uri(tmp_path / "else.py") == {"uri": f"file://{os.path.realpath(tmp_path)}/else.py"}
    assert uri("https://example.com/plan.yaml?secret") == {"uri": "https://example.com/plan.yaml"}
    assert "\udcff" not in uri(f"{tmp_path}/repo/\udcff.py")["uri"]


def test_hostile_names_forge_no_line(tmp_path: Path) -> None:
    dag = measured(tmp_path / "a.py", stage("a\nb\u202e\ud800"), dag_id="d\x1b[31m")
    (result,) = results(Survey("x", (dag,)))
    assert result["message"]["text"].isprintable()
    assert result["message"]["text"].isascii()
