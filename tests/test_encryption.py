"""Encryption: what was encrypted comes back as it was, no tampered file yields plaintext, and nothing else is deleted."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_pipesec.age import Identity, new_identity
from airflow_pipesec.checks.devices import Machine
from airflow_pipesec.checks.encryption import decrypt, encrypt, encrypted_locally
from airflow_pipesec.cli import main
from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.operators import DecryptArtifactOperator, EncryptArtifactOperator, EncryptionAtRestOperator
from airflow_pipesec.storage import LocalStore, Source, open_store
from tests.runner import RunTask

US = new_identity()
FILES = {"a.csv": b"1,2\n" * 9000, "deep/empty": b"", "deep/b.bin": bytes(70_000)}


def build(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return build(tmp_path / "plain", FILES)


@pytest.fixture
def sealed(plain: Path, tmp_path: Path) -> Path:
    assert not bad(sealing(plain, tmp_path / "sealed"))
    return tmp_path / "sealed"


def sealing(source: Path, target: Path, *identities: Identity) -> list[Finding]:
    return list(encrypt(LocalStore(source), LocalStore(target), [identity.recipient for identity in identities or (US,)]))


def opening(source: Path, target: Path, *identities: Identity) -> list[Finding]:
    return list(decrypt(LocalStore(source), LocalStore(target), identities or (US,)))


def at_rest(path: Path, machine: Machine | None = None) -> list[Finding]:
    return list(encrypted_locally(LocalStore(path), machine=machine))


def bad(findings: list[Finding]) -> Counter[tuple[str, str]]:
    assert findings, "silence"
    return Counter((f.control.id, f.status.value) for f in findings if f.status in (Status.FAIL, Status.ERROR))


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- encrypt, decrypt


def test_a_tree_comes_back_as_it_was(plain: Path, sealed: Path, tmp_path: Path) -> None:
    assert set(contents(sealed)) == {f"{name}.age" for name in FILES}
    assert not any(FILES["a.csv"][:40] in data for data in contents(sealed).values())
    assert not bad(opening(sealed, tmp_path / "back"))
    assert contents(tmp_path / "back") == FILES
    assert contents(plain) == FILES


def test_each_of_several_holders_can_decrypt_and_nobody_else(plain: Path, tmp_path: Path) -> None:
    ours, theirs, stranger = new_identity(), new_identity(), new_identity()
    sealing(plain, tmp_path / "sealed", ours, theirs)
    for number, identity in enumerate((ours, theirs)):
        assert not bad(opening(tmp_path / "sealed", tmp_path / f"back{number}", identity))
    assert bad(opening(tmp_path / "sealed", tmp_path / "never", stranger)) == {("ciphertext-authentic", "fail"): 3}
    assert not (tmp_path / "never").exists() or not contents(tmp_path / "never")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_tampered_file_never_yields_plaintext_at_its_place(tmp_path: Path, data: st.DataObject) -> None:
    size = data.draw(st.sampled_from([0, 1, 65535, 65536, 65537, 131072, 200_000]))
    (tmp_path / "x").write_bytes(random.Random(size).randbytes(size))
    sealing(tmp_path / "x", tmp_path / "x.age")
    whole = (tmp_path / "x.age").read_bytes()
    header = whole.index(b"\n---") + 49
    chunk, kind = 65536 + 16, data.draw(st.sampled_from(["flip", "cut", "extend", "swap", "drop"]))
    if kind == "flip":
        place = data.draw(st.integers(0, len(whole) - 1))
        changed = bytearray(whole)
        changed[place] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        changed = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    elif kind == "extend":
        changed = bytearray(whole + data.draw(st.binary(min_size=1, max_size=40)))
    else:
        first, second = header + 16, header + 16 + chunk
        one, two = whole[first:second], whole[second : second + chunk]
        middle = two + one if kind == "swap" else two
        changed = bytearray(whole[:first] + middle + whole[first + len(one) + len(two) :])
    if bytes(changed) == whole:
        return
    (tmp_path / "y.age").write_bytes(changed)
    (tmp_path / "y").write_bytes(b"what was there before")
    findings = opening(tmp_path / "y.age", tmp_path / "y")
    assert bad(findings) == {("ciphertext-authentic", "fail"): 1}, kind
    assert (tmp_path / "y").read_bytes() == b"what was there before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x", "x.age", "y", "y.age"]


def test_a_doubtful_artifact_is_not_encrypted(plain: Path, tmp_path: Path) -> None:
    (plain / "link").symlink_to("a.csv")
    assert bad(sealing(plain, tmp_path / "sealed")) == {("artifact-encrypted", "fail"): 1}
    assert not (tmp_path / "sealed").exists()


def test_a_file_put_beside_encrypted_ones_is_a_finding(sealed: Path, tmp_path: Path) -> None:
    (sealed / "planted.pkl").write_bytes(b"x")
    (sealed / ".age").write_bytes(b"x")
    assert bad(opening(sealed, tmp_path / "back")) == {("ciphertext-authentic", "fail"): 2}


def test_neither_form_replaces_the_other(plain: Path) -> None:
    for target in (plain, plain / "inside"):
        with pytest.raises(ConfigurationError, match="lies in what is read"):
            sealing(plain, target)
    for target in (plain.parent, plain.parent.parent, Path("/")):
        with pytest.raises(ConfigurationError, match="may replace what is to be read"):
            sealing(plain, target)
        with pytest.raises(ConfigurationError, match="may replace what is to be read"):
            opening(plain, target)
    assert contents(plain) == FILES
    bucket = open_store("s3://b/raw"), open_store("s3://b")
    with pytest.raises(ConfigurationError, match="may replace what is to be read"):
        list(encrypt(*bucket, [US.recipient]))


def test_what_is_not_there_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("nowhere", "empty"):
        assert bad(sealing(tmp_path / place, tmp_path / "x")) == {("storage-looked-at", "fail"): 1}
        assert bad(opening(tmp_path / place, tmp_path / "x")) == {("storage-looked-at", "fail"): 1}
        assert bad(at_rest(tmp_path / place)) == {("storage-looked-at", "fail"): 1}


def test_the_plain_form_is_deleted_only_when_asked_for_and_everything_is_encrypted(plain: Path, tmp_path: Path) -> None:
    us = [US.recipient]
    (finding,) = encrypt(LocalStore(plain), LocalStore(tmp_path / "sealed"), us, remove_source=True)
    assert "the plain form was deleted" in finding.message
    assert not contents(plain)
    assert not bad(opening(tmp_path / "sealed", tmp_path / "back"))
    (tmp_path / "back/link").symlink_to("a.csv")
    assert bad(list(encrypt(LocalStore(tmp_path / "back"), LocalStore(tmp_path / "no"), us, remove_source=True)))
    assert contents(tmp_path / "back").keys() >= FILES.keys()
    with pytest.raises(ConfigurationError, match="remove_source"):
        list(encrypt(LocalStore(plain), LocalStore(tmp_path / "no"), us, remove_source="False"))  # type: ignore[arg-type] # tested


class Meddled(LocalStore):
    """A folder in which something happens just before one of its files is read."""

    def __init__(self, path: Path, before: str, happens: Callable[[], object]) -> None:
        super().__init__(path)
        self.before, self.happens = before, happens

    def stream(self, name: str = ".") -> AbstractContextManager[Source]:
        if name == self.before:
            self.happens()
        return super().stream(name)


def rewritten(root: Path) -> None:
    (root / "a.csv").write_bytes(FILES["a.csv"])  # of the same bytes


def added(root: Path) -> None:
    (root / "new").write_bytes(b"x")


def removed(root: Path) -> None:
    (root / "a.csv").unlink()


def emptied(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def linked(root: Path) -> None:
    (root / "a.csv").rename(root.parent / "elsewhere")
    (root / "a.csv").symlink_to(root.parent / "elsewhere")


def swapped(root: Path) -> None:
    victim = build(root.parent / "victim", {"b.bin": b"precious", "empty": b""})
    (root / "deep").rename(root.parent / "moved")
    (root / "deep").symlink_to(victim)


@pytest.mark.parametrize(
    ("before", "happens"),
    [
        ("deep/b.bin", rewritten),
        ("deep/b.bin", added),
        ("deep/b.bin", removed),
        ("deep/empty", emptied),
        ("deep/b.bin", linked),
        ("z", swapped),
    ],
)
def test_nothing_is_deleted_when_anything_changed_while_it_was_encrypted(
    plain: Path, tmp_path: Path, before: str, happens: Callable[[Path], None]
) -> None:
    (plain / "z").write_bytes(b"last")
    later: list[dict[str, bytes]] = []

    def meddle() -> None:
        happens(plain)
        later.append(contents(tmp_path))

    source = Meddled(plain, before, meddle)
    try:
        findings = list(encrypt(source, LocalStore(tmp_path / "sealed"), [US.recipient], remove_source=True))
    except ObjectMissing:
        findings = []  # what was listed is gone: a retry starts anew
    assert not findings or bad(findings)
    assert not any("plain form was deleted" in finding.message for finding in findings)
    assert later[0].items() <= contents(tmp_path).items(), "something that was there then is gone or changed"


def test_a_file_that_is_rewritten_while_it_is_read_is_not_deleted(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"old")
    source = Meddled(tmp_path / "one", ".", lambda: (tmp_path / "one").write_bytes(b"new"))
    (finding,) = encrypt(source, LocalStore(tmp_path / "one.age"), [US.recipient], remove_source=True)
    assert (finding.status, finding.message) == (Status.FAIL, "was changed while it was encrypted; nothing was deleted")
    assert (tmp_path / "one").read_bytes() == b"new"


def test_a_link_in_the_way_is_a_finding_and_nothing_goes_through_it(plain: Path, sealed: Path, tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out/deep").symlink_to(tmp_path / "public")
    assert bad(opening(sealed, tmp_path / "out")) == {("ciphertext-authentic", "fail"): 2}
    assert contents(tmp_path / "out") == {"a.csv": FILES["a.csv"]}
    (tmp_path / "link").symlink_to(sealed)
    before = contents(sealed)
    findings = opening(sealed, tmp_path / "link")
    assert bad(findings) == {("ciphertext-authentic", "fail"): 3}
    assert all("leads through a link" in finding.message for finding in findings)
    us = [US.recipient]
    assert bad(list(encrypt(LocalStore(plain), LocalStore(tmp_path / "link"), us, remove_source=True))) == {
        ("artifact-encrypted", "fail"): 3
    }
    assert contents(sealed) == before
    assert contents(plain) == FILES


@pytest.mark.parametrize("name", ["..age", "...age", "x/..age", "x/...age", "x/.age"])
def test_an_encrypted_file_without_a_name_is_a_finding(tmp_path: Path, name: str) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    for place in (name, "zz.age"):
        sealing(tmp_path / "plain", tmp_path / "sealed" / place)
    findings = opening(tmp_path / "sealed", tmp_path / "out")
    assert bad(findings) == {("ciphertext-authentic", "fail"): 1}
    assert contents(tmp_path / "out") == {"zz": b"x"}


def test_a_file_beside_a_folder_of_its_name_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"x")
    for place in ("a.age", "a/b.age", "zz.age"):
        sealing(tmp_path / "plain", tmp_path / "sealed" / place)
    assert bad(opening(tmp_path / "sealed", tmp_path / "out")) == {("ciphertext-authentic", "fail"): 1}
    assert contents(tmp_path / "out") == {"a/b": b"x", "zz": b"x"}


def test_what_may_not_be_written_or_read_is_an_error_of_that_file(sealed: Path, tmp_path: Path) -> None:
    class Forbidden(LocalStore):
        def stream(self, name: str = ".") -> AbstractContextManager[Source]:
            if name == "a.csv.age":
                raise AccessDenied("a.csv.age may not be read")
            return super().stream(name)

    findings = list(decrypt(Forbidden(sealed), LocalStore(tmp_path / "out"), [US]))
    assert bad(findings) == {("ciphertext-authentic", "error"): 1}
    assert set(contents(tmp_path / "out")) == {"deep/b.bin", "deep/empty"}


def test_what_was_decrypted_is_for_its_owner_alone(sealed: Path, tmp_path: Path) -> None:
    opening(sealed, tmp_path / "back")
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "back").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert (sealed / "a.csv.age").stat().st_mode & 0o044, "what is encrypted is for others to carry"


def test_a_process_that_is_killed_leaves_no_part_of_what_it_decrypted(tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    out.mkdir()
    try:
        os.close(os.open(out, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        pytest.skip("this file system has no nameless files, and what is written has a name at once")
    plain.touch()
    os.truncate(plain, 192 << 20)
    sealing(plain, tmp_path / "x.age")
    (tmp_path / "key").write_text(US.reveal())
    (tmp_path / "key").chmod(0o600)
    command = [sys.executable, "-m", "airflow_pipesec.cli", "decrypt", tmp_path / "x.age", "-o", out / "plain"]
    process = subprocess.Popen([*command, "-i", f"file:{tmp_path}/key"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def written() -> int:
        """How much the process has written to a file below ``out``, with or without a name."""
        sizes = [0]
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            try:
                if str(link.readlink()).startswith(f"{out}/"):
                    sizes.append(link.stat().st_size)
            except OSError:
                continue  # closed meanwhile
        return max(sizes)

    end = time.monotonic() + 60
    while written() < 8 << 20 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    (tmp_path / "x.age").unlink()  # large, and pytest keeps folders
    assert process.wait() == -signal.SIGKILL, "it was done before it was killed"
    assert not list(out.iterdir())


# ---- the guards and the command


def test_guards_encrypt_and_decrypt_with_keys_from_airflow(
    plain: Path, tmp_path: Path, run_task: RunTask, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_MODEL_KEY", json.dumps({"conn_type": "generic", "password": US.reveal()}))
    monkeypatch.setenv("AIRFLOW_VAR_MODEL_KEY", f"# a comment\n{US.reveal()}\n")
    monkeypatch.setenv("AIRFLOW_VAR_RECIPIENT", str(US.recipient))
    seal = EncryptArtifactOperator(
        task_id="e", source=str(plain), target=str(tmp_path / "sealed"), recipients="{{ dag_run.conf.recipient }}"
    )
    assert run_task(seal, conf={"recipient": str(US.recipient)}).state == "success"
    for number, identity in enumerate(("connection:model_key", "variable:model_key")):
        opened = tmp_path / f"back{number}"
        ran = run_task(
            DecryptArtifactOperator(task_id="d", source=str(tmp_path / "sealed"), target=str(opened), identity=identity)
        )
        assert ran.state == "success"
        assert contents(opened) == FILES
    for identity in ("connection:nowhere", US.reveal(), "file:/nowhere"):
        ran = run_task(
            DecryptArtifactOperator(task_id="x", source=str(tmp_path / "sealed"), target=str(tmp_path / "no"), identity=identity)
        )
        assert ran.state in ("failed", "up_for_retry")
        assert US.reveal()[20:] not in str(ran) + repr(ran.error)
    assert US.reveal()[20:] not in "".join(capfd.readouterr())
    assert (
        run_task(EncryptionAtRestOperator(task_id="r", targets=str(tmp_path / "sealed"), trust_device=False)).state == "success"
    )
    assert run_task(EncryptionAtRestOperator(task_id="s", targets=[str(plain)], trust_device=False)).state == "failed"
    assert run_task(EncryptionAtRestOperator(task_id="t", targets=str(plain), trust_device="False")).state == "failed"


def test_the_command_makes_a_key_encrypts_and_decrypts(plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: object) -> tuple[int, str]:
        code = main([str(argument) for argument in arguments])
        return code, capsys.readouterr().out

    code, recipient = run("keygen", "-o", tmp_path / "key")
    assert code == 0
    assert run("keygen", "-o", tmp_path / "key")[0] == 2
    assert run("encrypt", plain, "-o", tmp_path / "sealed", "-r", recipient.strip())[0] == 0
    assert run("decrypt", tmp_path / "sealed", "-o", tmp_path / "back", "-i", f"file:{tmp_path}/key")[0] == 0
    assert contents(tmp_path / "back") == FILES
    (tmp_path / "sealed/a.csv.age").write_bytes(b"age-encryption.org/v1\n")
    code, out = run("decrypt", tmp_path / "sealed", "-o", tmp_path / "again", "-i", f"file:{tmp_path}/key", "--json")
    assert (code, json.loads(out)["blocking_controls"]) == (1, ["ciphertext-authentic"])
    assert run("decrypt", tmp_path / "sealed", "-o", tmp_path / "no", "-i", "env:NOT_SET")[0] == 2
