"""Every malicious file is blocked by the lists that come with the package, and scanning it does nothing but read it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, Scan, scan_view
from airflow_pipesec.scan.views import Memory
from tests.conftest import PROJECT
from tests.malicious_models import LOADERS, Sample, malicious

# What is let through as yet, and why that is so.
OPEN = {
    "claims: fraction of a number without end": "an allowed call with a text; the loader never ends, and runs nothing",
}


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Sample, Scan]]]:
    marker = tmp_path_factory.mktemp("marked") / "marker"
    allow = AllowList.shipped()
    yield [(each, scan_view(Memory(each.data), allow, name=each.file)) for each in malicious(marker)]
    assert not list(marker.parent.iterdir())


def faults(scan: Scan) -> set[Fault]:
    return {problem.fault for problem in scan.problems}


def test_every_malicious_file_is_blocked(looked: list[tuple[Sample, Scan]]):
    assert {sample.name for sample, scan in looked if not scan.problems} == set(OPEN)


def test_what_runs_code_by_a_technique_that_is_understood_is_unsafe(looked: list[tuple[Sample, Scan]]):
    unsure = [
        sample.name for sample, scan in looked if sample.sure and sample.name not in OPEN and Fault.UNSAFE not in faults(scan)
    ]
    assert unsure == []
    executing = [scan for sample, scan in looked if sample.loader in LOADERS and not sample.unproven]
    assert sum(Fault.UNSAFE in faults(scan) for scan in executing) / len(executing) > 0.95


def test_no_parser_fails_on_a_malicious_file(looked: list[tuple[Sample, Scan]]):
    failed = [(sample.name, str(each)) for sample, scan in looked for each in scan.problems if "cannot be parsed" in each.why]
    assert failed == []


def test_no_message_holds_what_a_terminal_would_obey(looked: list[tuple[Sample, Scan]]):
    assert all(str(problem).isprintable() for _, scan in looked for problem in scan.problems)


def test_the_samples_are_many_and_distinct(looked: list[tuple[Sample, Scan]]):
    names = Counter(sample.name for sample, _ in looked)
    assert max(names.values()) == 1
    assert len({sample.data for sample, _ in looked}) > 1000


def test_scanning_imports_opens_and_executes_nothing():
    # In a process of its own, for an audit hook cannot be taken back.
    done = subprocess.run(
        [sys.executable, "-m", "tests.malicious_models", "watch"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "nothing\n"), done.stderr[-2000:]


def test_the_watch_sees_what_it_watches_for(tmp_path: Path):
    program = (
        "import pathlib, sys\n"
        "from tests.malicious_models import watched\n"
        "watched.scan_view = lambda *a, **k: eval('1') and open('/dev/null') and __import__('this')\n"
        "print(*watched.watch(pathlib.Path(sys.argv[1])), sep='\\n')\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "marker")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=60)
    assert {"exec", "open /dev/null", "import this", "module this"} <= set(done.stdout.splitlines())


def test_the_loaders_run_what_the_samples_hold():
    # A part of them, for a second; `python -m tests.malicious_models prove` loads them all.
    command = [sys.executable, "-m", "tests.malicious_models", "prove", "--every", "12", "--without", "pandas sklearn dill torch"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert int(done.stdout.split()[0]) >= 50


def test_a_sample_whose_marker_does_not_appear_is_told(tmp_path: Path):
    from tests.malicious_models.proof import prove_all

    harmless = Sample("harmless", "model.pkl", b"N.", "pickle")
    assert prove_all([harmless], tmp_path, tmp_path / "marker", grace=0) == ["harmless"]
