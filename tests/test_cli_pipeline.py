"""``pipesec coverage`` and ``pipesec plan`` on real files: exit codes, tables, documents, pictures and signatures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from jsonschema import Draft202012Validator

from airflow_pipesec.cli import main
from airflow_pipesec.coverage import Measured, Survey, coverage
from airflow_pipesec.coverage_table import table
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.plan import Plan
from airflow_pipesec.signing import TrustedKeys, entry_of, new_private_key
from airflow_pipesec.threats import catalogue
from tests.conftest import PROJECT
from tests.make_coverage_pictures import pictures

DAG = """
from airflow.sdk import DAG, task

with DAG("{dag_id}", schedule=None) as dag:

    @task
    def extract(): ...

    @task.guard(threats=("drift",))
    def check(): ...

    @task
    def train(): ...

    @task
    def deploy(): ...

    extract() >> check() >> train() >> deploy()
print("a DAG file that prints")
"""
START = datetime(2026, 1, 1, tzinfo=UTC)
VERIFY = {"guard": "HashVerificationOperator", "root": "model", "expected": "sha256:" + "0" * 64}
PLAN: dict[str, Any] = {"version": 1, "stages": [{"task": "deploy", "before": [VERIFY]}]}


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "training.py").write_text(DAG.format(dag_id="training"))
    return folder


@pytest.fixture
def plan(dags: Path) -> Path:
    path = dags.parent / "plan.yaml"
    path.write_text(yaml.safe_dump(PLAN))
    return path


def test_too_little_coverage_is_exit_1_and_the_table_says_where(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "coverage", "dags")
    assert code == 1
    assert out.startswith("DAG training  (dags/training.py)\nstage ")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line.strip()}
    assert rows["extract"] == ["-", "check", ">"]
    assert rows["train"] == ["check", "-", "<"]
    assert rows["deploy"] == ["UNGUARDED", "-", "."]
    assert out.count("UNGUARDED") == 1
    assert "answered by no guard: input, poisoning" in out
    assert "FAILED  1 DAG: 2 of 3 stages guarded, 66.6 % (at least 100 %)" in out


@pytest.mark.parametrize(("threshold", "code"), [("66.6", 0), ("66.7", 1), ("0", 0), ("100", 1)])
def test_the_threshold_decides(dags: Path, capsys: pytest.CaptureFixture[str], threshold: str, code: int) -> None:
    assert run(capsys, "coverage", dags, "--fail-under", threshold)[0] == code


@pytest.mark.parametrize("threshold", ["-1", "101", "nan", "much"])
def test_a_threshold_that_is_none_is_refused(dags: Path, threshold: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["coverage", str(dags), f"--fail-under={threshold}"])
    assert stopped.value.code == 2


def test_a_plan_is_woven_and_then_measured(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "coverage", "dags", "--plan", plan)
    assert code == 0
    assert "hash_verification" in out
    assert "PASSED  1 DAG: 3 of 3 stages guarded, 100 % (at least 100 %)" in out


def test_a_guard_that_only_warns_does_not_count(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dags / "training.py").write_text(DAG.format(dag_id="training").replace('("drift",)', '("drift",), on_failure="warn"'))
    code, out, _ = run(capsys, "coverage", dags)
    assert code == 1
    assert "0 of 3 stages guarded, 0 %" in out
    assert "check (no effect)" in out
    assert "no effect: check: it only warns." in out


def test_a_threat_that_is_none_is_exit_2_and_named(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dags / "training.py").write_text(DAG.format(dag_id="training").replace('"drift"', '"nonsense"'))
    code, out, _ = run(capsys, "coverage", dags, "--fail-under", "0")
    assert code == 2
    assert "guard check of DAG training names nonsense, which is not in the catalogue" in out
    assert "UNDECIDED" in out


@pytest.mark.parametrize("form", ["table", "json", "sarif"])
def test_what_cannot_be_imported_is_exit_2_in_every_form(dags: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    (dags / "broken.py").write_text("import airflow  # dag\nimport no_such_module_at_all\n")
    code, out, _ = run(capsys, "coverage", dags, "--fail-under", "0", "--format", form)
    assert code == 2
    assert "No module named 'no_such_module_at_all'" in out
    if form == "json":
        assert json.loads(out)["undecided"] == "1 thing could not be measured"
        assert json.loads(out)["passed"] is False


@pytest.mark.parametrize("form", ["table", "json", "sarif"])
def test_a_bad_plan_is_exit_2_in_every_form(plan: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    plan.write_text("version: 1\nstages:\n  - task: deploy\n    befor: []\n")
    code, out, _ = run(capsys, "coverage", "dags", "--plan", "plan.yaml", "--fail-under", "0", "--format", form)
    assert code == 2
    assert "unknown key. Did you mean before?" in out
    if form == "sarif":
        (result,) = json.loads(out)["runs"][0]["results"]
        place = result["locations"][0]["physicalLocation"]
        assert (place["artifactLocation"]["uri"], place["region"]["startLine"]) == ("plan.yaml", 4)


def test_no_dag_and_no_folder_are_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "coverage", tmp_path, "--fail-under", "0")
    assert (code, out) == (2, "UNDECIDED  0 DAGs: nothing to guard (at least 0 %); no DAG was found\n")
    code, out, err = run(capsys, "coverage", tmp_path / "nowhere", "--format", "json")
    assert code == 2
    assert json.loads(out)["outcome"] == "ERROR"
    assert "does not exist" in err


def test_nothing_to_guard_is_exit_2(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dags / "training.py").write_text("from airflow.sdk import DAG\ndag = DAG('empty', schedule=None)\n")
    code, out, _ = run(capsys, "coverage", dags, "--fail-under", "0")
    assert code == 2
    assert "empty: nothing to guard\n" in out
    assert "there is nothing to guard: no DAG has a stage that counts" in out


def test_one_dag_of_many_can_be_asked_for(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dags / "b.py").write_text(DAG.format(dag_id="b"))
    _, out, _ = run(capsys, "coverage", dags, "--dag", "b")
    assert "DAG b " in out
    assert "training" not in out
    code, out, _ = run(capsys, "coverage", dags, "--dag", "b", "--dag", "c", "--fail-under", "0")
    assert code == 2
    assert "there is no DAG c" in out


def test_json_and_sarif_go_to_a_file_and_the_sum_to_the_terminal(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "coverage", dags, "--format", "json", "-o", "found.json")
    assert code == 1
    assert out.splitlines()[0] == "training: 2 of 3 stages guarded, 66.6 %"
    document = json.loads(Path("found.json").read_text())
    assert document["dags"][0]["unguarded"] == ["deploy"]
    assert (document["fail_under"], document["passed"], document["percent"]) == (100, False, 66.667)
    run(capsys, "coverage", dags, "--format", "sarif", "-o", "found.sarif")
    (result,) = json.loads(Path("found.sarif").read_text())["runs"][0]["results"]
    place = result["locations"][0]["physicalLocation"]
    assert place["artifactLocation"] == {"uri": "dags/training.py", "uriBaseId": "%SRCROOT%"}
    assert DAG.splitlines()[place["region"]["startLine"] - 1].strip() == "def deploy(): ..."


def test_a_picture_of_each_dag_is_written_under_a_safe_name(dags: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [".hidden", "..", "schön", "n" * 250]
    for number, name in enumerate(names):
        (dags / f"{number}.py").write_text(DAG.format(dag_id=name))
    assert run(capsys, "coverage", dags, "--svg", "pictures")[0] == 1
    written = sorted(path.name for path in Path("pictures").iterdir())
    assert len(written) == len(names) + 1
    assert {"training.svg", "%2Ehidden.svg", "%2E..svg", "sch%C3%B6n.svg"} < set(written)
    for path in Path("pictures").iterdir():
        assert "2 of 3 stages guarded" in str(ElementTree.parse(path).getroot()[0].text)  # noqa: S314 - our own file
    assert sorted(path.name for path in dags.parent.iterdir()) == ["dags", "pictures"]


def test_the_pictures_in_the_documents_are_what_is_drawn_now() -> None:
    for path, svg in pictures():
        # Not compared by ==, whose explanation would be long.
        same = path.exists() and path.read_text(encoding="utf-8") == svg
        assert same, f"{path.name} is out of date: run python -m tests.make_coverage_pictures"


def test_help_shows_examples_and_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("coverage", "plan"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        out = capsys.readouterr().out
        assert stopped.value.code == 0
        assert f"  pipesec {command} " in out
        assert "exit codes:" in out


def tool(*arguments: object, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    command = [sys.executable, "-m", "airflow_pipesec.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment | more, capture_output=True, text=True, check=False)


def test_without_a_home_of_airflow_nothing_is_left_behind_and_only_the_answer_is_printed(dags: Path, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    past_python = "import os\nos.write(1, b'written past Python\\n')\n"
    (dags / "broken.py").write_text(f"import airflow  # dag\n{past_python}raise ValueError('no')\n")
    done = tool("coverage", "dags", "--format", "json", cwd=tmp_path, HOME=str(home), TMPDIR=str(scratch))
    assert done.returncode == 2, done.stderr
    assert json.loads(done.stdout)["dags"][0]["dag_id"] == "training"
    assert sorted(done.stderr.splitlines()) == ["a DAG file that prints", "written past Python"]
    assert list(home.iterdir()) == []
    assert list(scratch.iterdir()) == []


def test_the_dags_lie_in_airflows_own_bundle_where_there_is_no_home(dags: Path, tmp_path: Path) -> None:
    plan = {"version": 1, "dags": [{"bundle": "dags-folder", "stages": PLAN["stages"]}]}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    done = tool("coverage", "dags", "--plan", "plan.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_the_other_commands_import_no_airflow(tmp_path: Path) -> None:
    program = "import sys, airflow_pipesec.cli; assert not any(m.split('.')[0] in ('airflow', 'rich') for m in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def shown(*nodes: Node, width: int = 100) -> str:
    return table(Survey("d", (Measured(coverage(Pipeline("d", {node.id: node for node in nodes})), "d.py"),)), width=width)


def test_a_table_is_never_wider_than_the_terminal_and_loses_no_name() -> None:
    guards = [
        Node(f"a_guard_with_a_very_long_name_{number}", ("load",), Kind.GUARD, threats=tuple(catalogue())) for number in "12"
    ]
    nodes = [Node("load"), *guards, Node("a_stage.in_a_group.with_an_even_longer_name", [guard.id for guard in guards])]
    out = shown(*nodes)
    assert max(map(len, out.splitlines())) <= 100
    assert "t\n" in out  # heads stand upright
    for part in ("a_stage.", "group.", "longer_", "name_1", "name_2"):
        assert part in out
    wide = shown(*nodes, width=300)
    assert "supply chain" in wide
    assert "a_stage.in_a_group.with_an_even_longer_name" in wide


def test_all_threats_are_columns_where_they_fit() -> None:
    out = shown(Node("a"), Node("g", ("a",), Kind.GUARD, threats=("drift",)), width=200)
    assert all(threat.short in out.splitlines()[1] for threat in catalogue().values())
    assert "answered by no guard" not in out


def test_names_in_a_table_cannot_steer_the_terminal() -> None:
    out = shown(Node("a\x1b[31m[red]\n"), Node("g[bold]", ("a\x1b[31m[red]\n",), Kind.GUARD))
    assert "\x1b" not in out
    assert "[red]" in out
    assert "g[bold]" in out


def test_a_share_is_never_rounded_up_to_all() -> None:
    nodes = [Node("s0"), Node("g", ("s0",), Kind.GUARD), *(Node(f"s{number}", ("g",)) for number in range(1, 1999)), Node("bare")]
    assert "1999 of 2,000 stages guarded, 99.9 %" in shown(*nodes).replace("1,999", "1999")


def test_a_good_plan_is_exit_0_and_told(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", plan)
    assert code == 0
    assert "guards: 1\n  1 x HashVerificationOperator" in out
    assert "mode: enforce" in out


def test_the_examples_plan_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    for path in (PROJECT / "dags").glob("*.plan.yaml"):
        assert run(capsys, "plan", path)[0] == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"stages": [{"task": "a", "before": [{**VERIFY, "guard": "HashVerificatoinOperator"}]}]}, "Did you mean HashVerif"),
        ({"stages": [{"task": "a", "before": [{**VERIFY, "rot": "${stage}"}]}]}, "no parameter rot. Did you mean root?"),
        ({"stages": [{"task": "a", "before": [{"guard": "HashVerificationOperator"}]}]}, "lacks root"),
        ({"stages": [{"task": "a", "before": [{**VERIFY, "allow_extra": "often"}]}]}, "allow_extra of HashVerificationOperator"),
        ({"stages": [{"task": "a", "before": [{"use": "nothing"}]}]}, "there is no set nothing"),
        ({"defaults": {"HashVerificationOperator": {"rot": 1}}}, "no parameter rot"),
        ({"defaults": {"NoGuardAtAll": {"root": 1}}}, "there is no guard NoGuardAtAll"),
        ({"stages": [{"task": "a", "befor": []}]}, "unknown key"),
    ],
)
def test_a_bad_plan_is_exit_2_and_says_where(plan: Path, capsys: pytest.CaptureFixture[str], change: Any, why: str) -> None:
    plan.write_text(yaml.safe_dump(PLAN | change))
    code, out, err = run(capsys, "plan", plan)
    assert (code, out) == (2, "")
    assert why in err
    assert "line " in err


def test_what_is_left_open_is_checked_by_name_only(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    item = {**VERIFY, "root": "data/${stage}", "allow_extra": "${often}"}
    plan.write_text(yaml.safe_dump({"version": 1, "vars": {"often": True}, "stages": [{"task": "a", "before": [item]}]}))
    assert run(capsys, "plan", plan)[0] == 0


def test_required_parameters_may_come_from_the_defaults(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {name: value for name, value in VERIFY.items() if name != "guard"}
    stages = [{"task": "a", "before": [{"guard": "HashVerificationOperator"}]}]
    plan.write_text(yaml.safe_dump({"version": 1, "defaults": {"HashVerificationOperator": given}, "stages": stages}))
    assert run(capsys, "plan", plan)[0] == 0


def test_an_environment_has_to_be_there(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan.write_text(yaml.safe_dump(PLAN | {"environments": {"prod": {"mode": "report"}}}))
    code, out, _ = run(capsys, "plan", plan, "--environment", "prod")
    assert code == 0
    assert "mode: report in prod" in out
    code, _, err = run(capsys, "plan", plan, "--environment", "prd")
    assert code == 2
    assert "Did you mean prod?" in err


def test_a_signed_plan_is_believed_by_its_key_and_by_no_other(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    signer = new_private_key(plan.parent / "key.pem")
    other = new_private_key(plan.parent / "other.pem")
    (plan.parent / "keys.yaml").write_text(entry_of(signer.public_key, name="the plan's owner", valid_from=START))
    (plan.parent / "others.yaml").write_text(entry_of(other.public_key, name="somebody", valid_from=START))
    code, out, _ = run(capsys, "plan", plan, "--sign", "file:key.pem", "-o", "signed.json")
    assert code == 0
    assert f"signed with key {signer.key_id[:16]}: signed.json" in out
    code, out, _ = run(capsys, "plan", "signed.json", "--trusted-keys", "keys.yaml")
    assert code == 0
    assert "signed by: the plan's owner" in out
    assert Plan.load("signed.json", trusted=TrustedKeys.load("keys.yaml")).document == PLAN
    for file, keys in (("signed.json", "others.yaml"), (plan, "keys.yaml")):
        assert run(capsys, "plan", file, "--trusted-keys", keys)[0] == 2


def test_a_bad_plan_is_not_signed(plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_private_key(plan.parent / "key.pem")
    plan.write_text(yaml.safe_dump({"version": 1, "stages": [{"task": "a", "before": [{"guard": "NoGuard"}]}]}))
    assert run(capsys, "plan", plan, "--sign", "file:key.pem", "-o", "signed.json")[0] == 2
    assert not Path("signed.json").exists()


@pytest.mark.parametrize(
    "arguments", [[], ["plan.yaml", "--sign", "file:k"], ["plan.yaml", "-o", "x"], ["plan.yaml", "--json-schema"], ["gone.yaml"]]
)
def test_what_does_not_go_together_is_exit_2(plan: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = run(capsys, "plan", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("pipesec: ")


def test_the_schema_takes_a_good_plan_and_no_bad_one(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--json-schema")
    assert code == 0
    validator = Draft202012Validator(json.loads(out))
    assert validator.is_valid(PLAN)
    assert not validator.is_valid(PLAN | {"stagse": []})
