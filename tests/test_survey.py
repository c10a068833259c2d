"""Surveys: DAG files are parsed as Airflow parses them, and what cannot be measured is never a pass."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

import airflow_pipesec
from airflow_pipesec.coverage import TroubleKind
from airflow_pipesec.errors import ConfigurationError, PlanError
from airflow_pipesec.operators import HashVerificationOperator
from airflow_pipesec.survey import _unreadable, coverage_of, survey

PLAN: dict[str, Any] = {
    "version": 1,
    "stages": [
        {"task": "extract", "exempt": "it only fetches"},
        {
            "task": "train",
            "before": [{"guard": "HashVerificationOperator", "root": "d", "expected": "sha256:" + "0" * 64}],
        },
    ],
}
FILE = """
from airflow.sdk import DAG, task

with DAG({dag_id!r}, schedule=None) as dag:

    @task
    def extract(): ...

    @task
    def train(): ...

    extract() >> train()
"""


def training() -> DAG:
    with DAG("training", schedule=None) as dag:

        @task
        def extract() -> None: ...

        @task
        def train() -> None: ...

        extract() >> train()
    return dag


def write(folder: Path, name: str = "training.py", text: str = FILE, **values: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text.format(**({"dag_id": "training"} | values)) if text is FILE else text)
    return path


def test_a_dag_without_guards_is_naked_and_with_a_plan_it_is_not() -> None:
    assert airflow_pipesec.coverage_of is coverage_of
    assert [stage.id for stage in coverage_of(training()).naked] == ["extract", "train"]
    found = coverage_of(training(), PLAN)
    assert found.percent == 100
    assert found.stages[0].exempt == "it only fetches"
    assert found.stages[1].threats["tampered-artifacts"] == "before"


def test_a_dag_that_is_woven_already_is_measured_the_same() -> None:
    dag = training()
    airflow_pipesec.secure(dag, PLAN)
    assert coverage_of(dag, PLAN).document() == coverage_of(training(), PLAN).document()


def test_a_dag_that_the_plan_exempts_has_nothing_to_guard() -> None:
    found = coverage_of(training(), {"version": 1, "dags": [{"dag_id": "training", "exempt": "a toy"}]})
    assert found.percent is None
    assert {stage.exempt for stage in found.stages} == {"a toy"}


def test_a_dag_that_the_plan_does_not_mean_is_an_error_or_measured_as_it_is() -> None:
    plan = {"version": 1, "dags": [{"dag_id": "other", "stages": PLAN["stages"]}]}
    with pytest.raises(PlanError, match="no entry for DAG training"):
        coverage_of(training(), plan)
    assert coverage_of(training(), plan | {"unmatched": "allow"}).percent == 0


@pytest.mark.parametrize(
    ("threats", "why"), [(("nonsense",), "names nonsense"), ("drift", "is a str"), (5, "is a int"), (["driftt"], "mean drift")]
)
def test_threats_that_are_none_are_an_error_whatever_they_are(threats: Any, why: str) -> None:
    with DAG("training", schedule=None) as dag:

        @task.guard(threats=threats)
        def check() -> None: ...

        check()
    with pytest.raises(ConfigurationError, match=f"guard check of DAG training {why}|guard check of DAG training.*{why}"):
        coverage_of(dag)


def test_the_threats_of_a_mapped_guard_count() -> None:
    with DAG("training", schedule=None) as dag:
        extract = task(lambda: None, task_id="extract")()
        guard = HashVerificationOperator.partial(task_id="check", expected="sha256:" + "0" * 64).expand(root=["a", "b"])
        extract >> guard
    assert coverage_of(dag).stages[0].threats["tampered-artifacts"] == "after"


def test_a_folder_is_measured_file_by_file(tmp_path: Path) -> None:
    first, second = write(tmp_path, "a.py", dag_id="a"), write(tmp_path, "b.py", dag_id="b")
    seen: list[tuple[int, int, int]] = []
    found = survey(tmp_path, progress=lambda *one: seen.append(one))
    assert [(dag.coverage.dag_id, dag.file) for dag in found.dags] == [("a", str(first)), ("b", str(second))]
    assert (found.guarded, len(found.counted), found.undecided) == (0, 4, None)
    assert seen == [(1, 0, 2)] * 2
    assert survey(tmp_path, PLAN).percent == 100
    assert survey(first).percent == 0


def test_only_some_dags_are_measured_and_one_that_is_not_there_is_trouble(tmp_path: Path) -> None:
    write(tmp_path, "a.py", dag_id="a")
    write(tmp_path, "b.py", dag_id="b")
    assert [dag.coverage.dag_id for dag in survey(tmp_path, only=["b"]).dags] == ["b"]
    found = survey(tmp_path, only=["b", "c"])
    assert [trouble.text for trouble in found.troubles] == ["there is no DAG c"]
    assert not found.reaches(0)


@pytest.mark.parametrize(
    ("text", "said", "line"),
    [
        ("import airflow  # dag\nx = 1\nraise ValueError('one\\ntwo')\n", "ValueError: one two", 3),
        ("import airflow  # dag\nimport sys\nsys.exit(0)\n", "SystemExit: 0", 3),
        ("import airflow  # dag\nimport no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'", 2),
        ("import airflow  # dag\n\nif:\n", "SyntaxError: invalid syntax", 3),
    ],
)
def test_a_file_that_cannot_be_imported_is_trouble_at_its_line(tmp_path: Path, text: str, said: str, line: int) -> None:
    write(tmp_path)
    broken = write(tmp_path, "broken.py", text)
    found = survey(tmp_path, PLAN)
    (trouble,) = found.troubles
    assert (trouble.kind, trouble.text, trouble.file) == (TroubleKind.NOT_PARSED, said, str(broken))
    assert trouble.line == line
    assert found.percent == 100
    assert not found.reaches(100)


def test_a_zip_that_wants_to_end_the_process_does_not(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "dags.zip", "w") as archive:
        archive.writestr("ends_it_all.py", "import airflow  # dag\nraise SystemExit(0)\n")
    (trouble,) = survey(tmp_path).troubles
    assert trouble.text.startswith("SystemExit")


def test_two_dags_of_one_id_are_trouble(tmp_path: Path) -> None:
    write(tmp_path, "a.py")
    second = write(tmp_path, "b.py")
    found = survey(tmp_path)
    (trouble,) = found.troubles
    assert trouble.file == str(second)
    assert "training" in trouble.text


def test_no_dag_is_undecided_and_no_folder_an_error(tmp_path: Path) -> None:
    found = survey(tmp_path)
    assert (found.undecided, found.percent) == ("no DAG was found", None)
    with pytest.raises(ConfigurationError, match="does not exist"):
        survey(tmp_path / "nowhere")


def test_a_folder_whose_links_lead_in_a_circle_is_trouble(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path)
    found = survey(tmp_path)
    assert ["links that lead in a circle" in trouble.text for trouble in found.troubles] == [True]
    assert not found.reaches(0)


def test_a_file_that_cannot_be_read_is_trouble_and_not_passed_over(tmp_path: Path) -> None:
    assert _unreadable(str(tmp_path / "gone.py")) == "the file cannot be read: No such file or directory"
    assert _unreadable(__file__) is None


def test_the_organisations_plan_of_this_machine_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__PLAN_URL", "/no/such/plan.yaml")
    write(tmp_path)
    assert survey(tmp_path).undecided is None
    assert os.environ["AIRFLOW__PIPESEC__PLAN_URL"] == "/no/such/plan.yaml"


def test_what_a_file_weaves_itself_is_measured_and_what_goes_wrong_there_is_trouble_of_a_plan(tmp_path: Path) -> None:
    text = FILE.format(dag_id="training") + f"\nfrom airflow_pipesec import secure\nsecure(dag, {PLAN!r})\n"
    write(tmp_path, text=text)
    assert survey(tmp_path).percent == 100
    write(tmp_path, text=text.replace("'train'", "'trian'"))
    (trouble,) = survey(tmp_path).troubles
    assert trouble.kind is TroubleKind.PLAN
    assert "Did you mean train?" in trouble.text
    assert trouble.line == len(text.splitlines())


def test_the_environment_counts_for_plans_that_files_weave_themselves_too(tmp_path: Path) -> None:
    plan = {"version": 1, "environments": {"prod": {"stages": PLAN["stages"]}}, "stages": [PLAN["stages"][0]]}
    write(tmp_path, text=FILE.format(dag_id="training") + f"\nfrom airflow_pipesec import secure\nsecure(dag, {plan!r})\n")
    assert "train" in {one.id for one in survey(tmp_path).naked}
    assert "train" not in {one.id for one in survey(tmp_path, environment="prod").naked}
    assert "AIRFLOW__PIPESEC__ENVIRONMENT" not in os.environ


@pytest.mark.parametrize(
    "plan",
    [
        "no-such-plan.yaml",
        {"version": 2},
        {"version": 1, "unmatched": "allow", "dags": [{"dag_id": "x", "stages": [{"task": "*", "after": [{"guard": "No"}]}]}]},
    ],
)
def test_a_plan_that_cannot_be_used_is_trouble_whether_or_not_it_means_a_dag(tmp_path: Path, plan: Any) -> None:
    write(tmp_path)
    found = survey(tmp_path, plan)
    (trouble,) = found.troubles
    assert trouble.kind is TroubleKind.PLAN
    assert not found.reaches(0)


def test_a_plan_that_a_dag_cannot_be_woven_by_is_trouble_of_that_dag(tmp_path: Path) -> None:
    write(tmp_path, "a.py", dag_id="a")
    write(tmp_path, "b.py", FILE.format(dag_id="b").replace("train", "fit"))
    found = survey(tmp_path, PLAN)
    assert [dag.coverage.dag_id for dag in found.dags] == ["a"]
    assert [(trouble.dag_id, trouble.kind) for trouble in found.troubles] == [("b", TroubleKind.PLAN)]


def test_a_file_can_import_its_neighbour_and_the_path_is_as_before(tmp_path: Path) -> None:
    import sys

    before = list(sys.path)
    (tmp_path / "neighbour_of_a_dag.py").write_text("NAME = 'from_a_neighbour'\n")
    text = "from neighbour_of_a_dag import NAME" + FILE.format(dag_id="x").replace("'x'", "NAME")
    write(tmp_path, text=text)
    assert [dag.coverage.dag_id for dag in survey(tmp_path).dags] == ["from_a_neighbour"]
    assert sys.path == before


def test_nothing_is_left_beside_the_files_and_the_current_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    here = Path.cwd()
    write(tmp_path, text=FILE.format(dag_id="training") + "\nimport os\nos.chdir('/')\n")
    assert survey(tmp_path).undecided is None
    assert [path.name for path in tmp_path.iterdir()] == ["training.py"]
    assert Path.cwd() == here
