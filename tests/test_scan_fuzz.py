"""The fuzz target holds for mutations of real files; `python -m tests.fuzz_scan` goes on with it."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import PROJECT


def test_nothing_is_imported_opened_or_executed_whatever_the_bytes_are():
    # In a process of its own, for an audit hook cannot be taken back.
    command = [sys.executable, "-m", "tests.fuzz_scan", "run", "3", "7"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout.split()[0].replace(",", "")) > 100


def test_the_watch_sees_what_it_watches_for():
    program = (
        "from airflow_pipesec.scan import plain\n"
        "from tests import fuzz_scan\n"
        "fuzz_scan.watch()\n"
        "plain.look_text = lambda part: __import__('this_is_not_there')\n"
        "fuzz_scan.one_input(b'a text')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, capture_output=True, text=True, check=False)
    assert "a scan did this: import" in done.stderr
