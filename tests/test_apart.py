"""What DAG files do to the process that runs them never becomes a pass, and the file that did it is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import airflow.dag_processing.dagbag  # noqa: F401 - once for all children that are forked
import pytest

from airflow_pipesec import apart
from airflow_pipesec.apart import survey_apart
from airflow_pipesec.errors import PipesecError
from airflow_pipesec.survey import survey
from tests.test_cli_pipeline import DAG, PLAN, run, tool

# Each is the first file of a folder whose other one is guarded well enough.
ENDS = {
    "os._exit(0)": "exit code 0",
    "os._exit(3)": "exit code 3",
    "os.kill(os.getpid(), 9)": "SIGKILL",
    "os.kill(os.getpid(), 15)": "SIGTERM",
    "os.kill(os.getpid(), 40)": "signal 40",
    "raise KeyboardInterrupt": "exit code 1",
    "import threading; threading.Timer(0, os._exit, [0]).start(); import time; time.sleep(60)": "exit code 0",
    "os.fork() and os._exit(0)": "exit code 0",  # what goes on is another process
    "os.fork() or (os.setsid(), __import__('time').sleep(3), os._exit(0)); os._exit(0)": "exit code 0",  # and holds the pipe
    "os.closerange(3, 256)": "exit code 1",
}


@pytest.fixture
def dags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "dags"
    folder.mkdir()
    (folder / "training.py").write_text(DAG.format(dag_id="training"))
    return folder


def ends(dags: Path, how: str) -> Path:
    path = dags / "a_first.py"
    path.write_text(f"import os  # airflow, dag\n{how}\n")
    return path


@pytest.mark.parametrize(("how", "said"), ENDS.items(), ids=range(len(ENDS)))
def test_a_file_that_ends_its_process_is_exit_2_and_named(
    dags: Path, capsys: pytest.CaptureFixture[str], how: str, said: str
) -> None:
    ends(dags, how)
    code, out, _ = run(capsys, "coverage", "dags", "--fail-under", "0")
    assert code == 2
    line, verdict = out.splitlines()
    assert line.startswith(f"NOT MEASURED  dags/a_first.py: the process that ran this file ended ({said})")
    assert verdict.startswith("UNDECIDED")


def test_a_signal_that_this_process_does_not_mind_ends_the_one_of_the_files(
    dags: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends(dags, "os.kill(os.getpid(), 15)")
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        code, out, _ = run(capsys, "coverage", "dags", "--fail-under", "0")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 2
    assert "(SIGTERM)" in out


def test_what_a_file_writes_where_the_answer_goes_is_not_the_answer(dags: Path) -> None:
    path = ends(
        dags,
        f"""
for number in os.listdir("/proc/self/fd"):
    try:
        pipe = os.readlink(f"/proc/self/fd/{{number}}")
    except OSError:
        continue
    if pipe.startswith("pipe:") and pipe not in {pipes()!r}:
        os.write(int(number), b'["", "found", [], []]\\n[1]\\n{{}}\\nno\\xff\\n')
        os._exit(0)
""",
    )
    (trouble,) = survey_apart(dags).troubles
    assert (trouble.file, "(exit code 0)" in trouble.text) == (str(path), True)


def pipes() -> list[str]:
    """The pipes that this process has already."""
    return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@pytest.mark.parametrize("form", ["json", "sarif"])
def test_it_is_told_in_documents_too(dags: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    ends(dags, "os._exit(0)")
    code, out, _ = run(capsys, "coverage", "dags", "--fail-under", "0", "--format", form)
    document = json.loads(out)
    assert code == 2
    assert "(exit code 0) and did not say what it found" in out
    if form == "json":
        assert document["passed"] is False
    else:
        (result,) = document["runs"][0]["results"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "dags/a_first.py"


def test_a_child_that_was_killed_leaves_nothing_behind(dags: Path, tmp_path: Path) -> None:
    home, scratch = tmp_path / "home", tmp_path / "scratch"
    home.mkdir()
    scratch.mkdir()
    ends(dags, "os.kill(os.getpid(), 9)")
    done = tool("coverage", "dags", "--fail-under", "0", cwd=tmp_path, HOME=str(home), TMPDIR=str(scratch))
    assert (done.returncode, done.stderr) == (2, "")
    assert "dags/a_first.py" in done.stdout
    assert list(home.iterdir()) == list(scratch.iterdir()) == []


def test_what_airflow_catches_is_told_of_one_file_and_the_others_are_measured(
    dags: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__DAGBAG_IMPORT_TIMEOUT", "0.5")
    ends(dags, "while True: pass")
    (dags / "b_second.py").write_text("import sys  # airflow, dag\nsys.exit(0)\n")
    code, out, _ = run(capsys, "coverage", dags, "--fail-under", "0")
    assert code == 2
    assert "a_first.py:2: airflow.sdk.exceptions.AirflowTaskTimeout: DagBag import timeout" in out
    assert "b_second.py:2: SystemExit: 0" in out
    assert "training: 2 of 3 stages guarded" in out


def test_a_file_that_ends_its_process_only_when_its_dag_is_looked_at_is_named(dags: Path) -> None:
    path = dags / "training.py"
    path.write_text("""
import sys
from airflow.sdk import DAG, BaseOperator

class Ends(BaseOperator):
    inherits_from_skipmixin = property(lambda self: sys.exit(0))

with DAG("training", schedule=None):
    Ends(task_id="train")
""")
    (trouble,) = survey_apart(dags).troubles
    assert (trouble.file, "(exit code 1)" in trouble.text) == (str(path), True)


def test_it_is_the_survey_that_this_process_would_make(dags: Path) -> None:
    (dags / "b.py").write_text(DAG.format(dag_id="other").replace("deploy", "ship"))
    (dags / "c.py").write_text("import airflow  # dag\nimport no_such_module_at_all\n")
    plan = dags.parent / "plan.yaml"
    exempt = {"task": "train", "exempt": "a \udcff toy, schön"}
    plan.write_text(json.dumps(PLAN | {"stages": [*PLAN["stages"], exempt]}))
    for arguments in ({}, {"plan": str(plan)}, {"only": ["training", "nothing"]}, {"plan": "nowhere.yaml"}):
        here: Any = survey(dags, **arguments)
        assert survey_apart(dags, **arguments) == here
        assert here.troubles


def test_progress_is_told_and_asked_for_only_after_the_fork(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dags / "b.py").write_text(DAG.format(dag_id="other"))
    seen: list[Any] = []
    fork = os.fork

    def forked() -> int:
        seen.append("fork")
        return fork()

    @contextmanager
    def bar() -> Iterator[Any]:
        seen.append("bar")
        yield lambda *one: seen.append(one)

    monkeypatch.setattr(os, "fork", forked)
    assert survey_apart(dags, bar=bar).percent is not None
    assert seen == ["fork", "bar", (1, 0, 2), (1, 0, 2)]


def test_what_cannot_be_looked_at_at_all_is_an_error_of_this_process(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipesecError, match=r"nowhere does not exist\. Give the folder"):
        survey_apart("nowhere")

    def defect(*_: Any, **__: Any) -> None:
        raise RuntimeError("what the data says")

    monkeypatch.setattr(apart, "looked_at", defect)
    with pytest.raises(PipesecError, match=r"^RuntimeError at test_apart.py:\d+: this should not happen"):
        survey_apart(dags)


def test_a_child_that_ends_before_the_first_file_is_trouble_of_the_folder(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "looked_at", lambda *_, **__: os._exit(0))
    (trouble,) = survey_apart(dags).troubles
    assert (trouble.file, trouble.text.startswith("the process that runs the files ended (exit code 0)")) == (str(dags), True)


def test_a_child_that_said_all_and_then_failed_is_not_believed(dags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert survey_apart(dags).undecided is None
    monkeypatch.setattr(os, "_exit", lambda code: os.kill(os.getpid(), signal.SIGKILL))
    assert "SIGKILL" in survey_apart(dags).troubles[0].text


def test_where_children_are_buried_by_the_kernel_the_answer_counts_alone(dags: Path) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert survey_apart(dags).undecided is None
        ends(dags, "os._exit(0)")
        assert "how is not known" in survey_apart(dags).troubles[0].text
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_an_interrupt_ends_the_child_too(dags: Path) -> None:
    ends(dags, "import time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")

    class Interrupted(Exception):
        pass

    def heard(*_: Any) -> None:
        while not Path("pid").exists() or not Path("pid").read_text():
            pass
        raise Interrupted

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apart, "_heard", heard)
        with pytest.raises(Interrupted):
            survey_apart(dags)
    with pytest.raises(ProcessLookupError):
        os.kill(int(Path("pid").read_text()), 0)


def test_it_works_where_standard_streams_are_closed(dags: Path) -> None:
    program = [sys.executable, "-m", "airflow_pipesec.cli", "coverage", "dags", "--fail-under", "60"]
    for closed in ("<&- >&-", "<&- >&- 2>&-"):
        done = subprocess.run(["/bin/sh", "-c", f'exec "$@" {closed}', "sh", *program], cwd=dags.parent, check=False)
        assert done.returncode == 0, closed
