"""``pipesec``: help that teaches, JSON for machines, and an exit code that tells passed, failed and undecided apart."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.cli import main
from tests.conftest import PROJECT


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    root = tmp_path / "artifact"
    root.mkdir()
    (root / "a").write_bytes(b"alpha")
    (root / "b").write_bytes(b"beta")
    return root


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_recorded_then_verified_is_exit_0(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "manifest", artifact, "-o", tmp_path / "m.json")
    assert code == 0
    assert "; tree:sha256:" in out
    code, out, _ = run(capsys, "verify", artifact, "--manifest", tmp_path / "m.json")
    assert code == 0
    assert out.startswith("PASSED  verify ")


def test_tampered_is_exit_1_and_says_what_and_what_to_do(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "manifest", artifact, "-o", tmp_path / "m.json")
    (artifact / "a").write_bytes(b"alphA")
    code, out, _ = run(capsys, "verify", artifact, "--manifest", tmp_path / "m.json")
    assert code == 1
    assert out.startswith("FAILED")
    assert f"subjects are under {tmp_path}/" in out
    assert f"{artifact.name}/a: is not what was recorded" in out
    assert "remedy: " in out
    assert "alph" not in out.replace(str(artifact), "")


def test_json_is_one_document_with_every_finding(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "manifest", artifact, "-o", tmp_path / "m.json")
    (artifact / "b").unlink()
    code, out, err = run(capsys, "verify", artifact, "--manifest", tmp_path / "m.json", "--json")
    document = json.loads(out)
    assert (code, err) == (1, "")
    assert document["outcome"] == "FAILED"
    assert document["blocking_controls"] == ["files-present"]
    (missing,) = [item for item in document["details"] if item["blocks"]]
    assert missing["subject"] == f"{artifact}/b"
    assert len(document["details"]) == document["findings"]


def test_json_of_an_error_is_a_document_too(artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", artifact, "--expected", "sha256:123", "--json")
    assert code == 2
    assert json.loads(out)["outcome"] == "ERROR"
    assert err.startswith("pipesec: ")


@pytest.mark.parametrize(
    "arguments", [["verify", "{root}", "--expected", "nonsense"], ["manifest", "{root}", "-o", "{root}/m", "--workers", "0"]]
)
def test_what_cannot_work_is_exit_2_with_one_line(
    artifact: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, out, err = run(capsys, *[argument.format(root=artifact) for argument in arguments])
    assert code == 2
    assert out == ""
    assert err.startswith("pipesec: ")
    assert err.count("\n") == 1


def test_an_unreachable_bucket_is_undecided_and_not_failed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing listens there: the connection is refused at once.
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    code, _, err = run(capsys, "verify", "s3://bucket/key", "--expected", "0" * 64)
    assert code == 2
    assert "s3://bucket/key" in err


def test_a_policy_can_waive_and_the_waived_finding_stays_visible(
    artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(capsys, "manifest", artifact, "-o", tmp_path / "m.json")
    (artifact / "extra.tmp").write_bytes(b"")
    waiver = {
        "control": "no-extra-files",
        "subject": "*.tmp",
        "reason": "ticket 4711",
        "approver": "vera",
        "expires": "2999-01-01",
    }
    (tmp_path / "policy.yaml").write_text(json.dumps({"waivers": [waiver]}))
    code, out, _ = run(capsys, "verify", artifact, "--manifest", tmp_path / "m.json", "--policy", tmp_path / "policy.yaml")
    assert code == 0
    assert "WAIVED" in out
    assert "ticket 4711" in out


def test_a_missing_policy_is_exit_2(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "verify", artifact, "--expected", "0" * 64, "--policy", "/no/policy.yaml")
    assert code == 2
    assert "/no/policy.yaml" in err


@pytest.mark.parametrize("command", ["manifest", "verify", "validate"])
def test_help_shows_examples_and_exit_codes(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    out = capsys.readouterr().out
    assert stopped.value.code == 0
    assert f"  pipesec {command} " in out
    assert "2  could not decide" in out


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys)
    assert code == 2
    assert "pipesec manifest data/" in out


def test_the_program_runs_without_airflow(artifact: Path, tmp_path: Path) -> None:
    program = (
        "import sys; from airflow_pipesec.cli import main; code = main(sys.argv[1:]);"
        "assert not any(m == 'airflow' or m.startswith('airflow.') for m in sys.modules); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "manifest", str(artifact), "-o", str(tmp_path / "m.json")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_terminal_sees_a_bar_and_a_pipe_does_not(tmp_path: Path) -> None:
    root = tmp_path / "many"
    root.mkdir()
    for number in range(600):
        (root / str(number)).write_bytes(b"x")
    command = [sys.executable, "-m", "airflow_pipesec.cli", "manifest", str(root), "-o", str(tmp_path / "m.json")]
    piped = subprocess.run(command, capture_output=True, check=True)
    assert piped.stderr == b""
    keeper, terminal = pty.openpty()
    on_terminal = subprocess.Popen(command, stderr=terminal, stdout=subprocess.PIPE, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    assert on_terminal.communicate()[0].startswith(b"PASSED")
    shown = b""
    while True:
        try:
            piece = os.read(keeper, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(keeper)
    assert b"600/600" in shown


def tool(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "airflow_pipesec.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def test_a_reader_who_has_seen_enough_does_not_change_the_verdict(artifact: Path) -> None:
    import hashlib

    digest = "sha256:" + hashlib.sha256(b"alpha").hexdigest()
    command = f"{sys.executable} -m airflow_pipesec.cli verify {artifact}/a --expected {digest}"
    script = f"set -o pipefail; ({command}; echo code $? >&2) | true"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "code 0\n"
    full = subprocess.run(["bash", "-c", f"{command} >/dev/full; echo code $?"], capture_output=True, text=True, check=False)
    assert "code 2" in full.stdout
    assert "could not be written" in full.stderr


def test_what_a_terminal_cannot_show_is_shown_as_a_number(artifact: Path, tmp_path: Path) -> None:
    digest = "0" * 64
    plain = {"PATH": os.defpath, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(PROJECT)}
    done = tool("verify", str(artifact / "a"), "--expected", digest, env=plain)
    assert done.returncode == 1
    assert "\\u2026" in done.stdout
    forged = tool("verify", f"{tmp_path}/x\n\x1b[31mPASSED forged", "--expected", digest)
    assert forged.returncode == 1
    assert "\x1b" not in forged.stdout
    assert not any(line.startswith("PASSED") for line in forged.stdout.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ["manifest", "{root}", "-o", "/"],
        ["manifest", "{root}", "-o", "."],
        ["manifest", "{root}", "-o", "file:///tmp/a%00b"],
        ["manifest", "{root}", "-o", "{root}/../m", "--workers", "99999999999999999999", "--algorithm", "blake3"],
        ["verify", "ftp://127.0.0.1:1/x", "--expected", "{zero}"],
        ["verify", "nothing://x", "--expected", "{zero}"],
        ["verify", "zip://", "--expected", "{zero}"],
        ["verify", "simplecache::s3://b/k", "--expected", "{zero}"],
        ["verify", "https://user:hunter2@127.0.0.1:1/x", "--expected", "{zero}"],
        ["verify", "s3://", "--expected", "{zero}"],
        ["verify", "{root}", "--expected", "{zero}", "--policy", "/etc/shadow"],
        ["verify", "{root}", "--expected", "{zero}", "--policy", "{root}"],
    ],
)
def test_ordinary_mistakes_are_one_line_and_no_defect(
    artifact: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    code, _, err = run(capsys, *[argument.format(root=artifact, zero="0" * 64) for argument in arguments])
    assert code == 2
    assert "should not happen" not in err
    assert "hunter2" not in err
    assert "root:" not in err
    assert err.count("\n") == 1


def test_without_a_standard_error_the_verdict_is_the_same(artifact: Path, tmp_path: Path) -> None:
    def pipesec(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = " ".join(f"'{argument}'" for argument in (sys.executable, "-m", "airflow_pipesec.cli", *arguments))
        return subprocess.run(["sh", "-c", f"{command} 2>&-"], stdout=subprocess.PIPE, text=True, cwd=PROJECT, check=False)

    done = pipesec("manifest", artifact, "-o", tmp_path / "m.json")
    assert (done.returncode, done.stdout.partition(" ")[0]) == (0, "PASSED")
    done = pipesec("verify", artifact, "--expected", "nonsense", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout)["outcome"] == "ERROR"


def test_a_signature_in_a_url_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "verify", "memory://nothing?sig=s3cr3t-4711", "--expected", "0" * 64)
    assert code == 1
    assert "verify memory://nothing:" in out
    assert "s3cr3t-4711" not in out + err
