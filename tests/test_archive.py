"""Archives: a run's evidence in one file verifies as it did where it lay, and a file that is meant to deceive is refused."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import random
import shlex
import stat
import struct
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec import archive
from airflow_pipesec.archive import ArchiveStore, evidence_store, open_archive, write_archive
from airflow_pipesec.attestation import MAX_ENVELOPE
from airflow_pipesec.checks.release import GATE
from airflow_pipesec.cli import main
from airflow_pipesec.errors import (
    ConfigurationError,
    EvidenceError,
    ObjectMissing,
    ObjectRefused,
    PipesecError,
    StorageError,
)
from airflow_pipesec.evidence import RunEvidence, folder_of
from airflow_pipesec.signing import entry_of, new_private_key
from airflow_pipesec.storage import LocalStore
from tests.test_evidence import Run, chain

DAG, RUN = "training", "manual__2026-11-25T03:00:00+00:00/ü"
FOLDER = folder_of(DAG, RUN)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that is proved, with a verification summary beside its gate's attestation."""
    signer = new_private_key(tmp_path / "key.pem")
    (tmp_path / "keys.yaml").write_text(entry_of(signer.public_key, name="k", valid_from=datetime(2026, 1, 1, tzinfo=UTC)))
    made = Run(tmp_path / "store", signer, run=RUN)
    made.attest("gate", {"seal": chain(made)["seal"]}, guard=GATE)
    path_of(made, "gate").with_suffix(".vsa.json").write_bytes(b"a summary")
    return made


def path_of(run: Run, task: str) -> Path:
    return next((run.root / FOLDER).glob(f"{task}/*.json"))


def written(run: Run, name: str = "run.zip", **more: Any) -> Path:
    path = run.root.parent / name
    with path.open("wb") as file:
        write_archive(run.evidence, run.dag, run.run, file, **more)
    return path


def verified(place: Path, keys: Path, *more: str) -> int:
    return main(["verify-run", str(place), DAG, RUN, "--trusted-keys", str(keys / "keys.yaml"), *more])


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as made:
        return {name: made.read(name) for name in made.namelist()}


def packed(path: Path, files: dict[str, bytes]) -> Path:
    """Zip files as an archive is, but for what they are."""
    with zipfile.ZipFile(path, "w") as made:
        for name, data in files.items():
            made.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return path


# ---- the round trip


def test_an_archive_verifies_as_its_run_does(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(run.root, tmp_path) == 0
    assert verified(written(run), tmp_path) == 0
    assert verified(written(run, "RUN.ZIP"), tmp_path, "--gate", "seal") == 0
    assert f"PASSED  verify-run {RUN}" in capsys.readouterr().out


def test_an_archive_holds_the_files_of_the_run_byte_for_byte_and_the_keys_are_not_in_it(run: Run, tmp_path: Path) -> None:
    there = {f"evidence/{path.relative_to(run.root)}": path.read_bytes() for path in run.root.rglob("*") if path.is_file()}
    assert len(there) == 5
    found = contents(written(run))
    readme = found.pop("README.txt").decode()
    assert found == there
    assert (tmp_path / "keys.yaml").read_text().splitlines()[3] not in readme
    assert "deliberately not in this archive" in readme
    assert list(contents(written(run)))[1:] == sorted(there)


def test_it_says_how_many_files_are_in_it(run: Run) -> None:
    assert write_archive(run.evidence, DAG, RUN, io.BytesIO()) == 5


def test_the_same_evidence_is_the_same_archive(run: Run) -> None:
    assert written(run).read_bytes() == written(run, "other.zip").read_bytes()


def test_an_archive_that_was_unpacked_verifies_too(run: Run, tmp_path: Path) -> None:
    subprocess.run(["python3", "-m", "zipfile", "-e", str(written(run)), str(tmp_path / "out")], check=True)
    assert verified(tmp_path / "out" / "evidence", tmp_path) == 0


def test_a_folder_whose_name_ends_in_zip_is_a_folder(run: Run, tmp_path: Path) -> None:
    run.root.rename(tmp_path / "store.zip")
    assert verified(tmp_path / "store.zip", tmp_path) == 0
    assert not isinstance(evidence_store("s3://bucket/x.zip", "a"), ArchiveStore)
    assert isinstance(evidence_store(f"file://{written(Run(tmp_path / 'store.zip', None, run=RUN))}", "a"), ArchiveStore)


def test_the_archive_of_a_run_without_evidence_proves_nothing(tmp_path: Path, run: Run) -> None:
    with (tmp_path / "none.zip").open("wb") as file:
        assert write_archive(RunEvidence(LocalStore(run.root / "none")), DAG, RUN, file) == 0
    assert list(contents(tmp_path / "none.zip")) == ["README.txt"]
    assert verified(tmp_path / "none.zip", tmp_path) == 1


def test_what_is_too_much_is_refused_before_anything_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.BytesIO()
    with pytest.raises(EvidenceError, match=r"more than 5,000 bytes.* Verify it where it lies"):
        write_archive(run.evidence, DAG, RUN, out, limit=5000)
    monkeypatch.setattr(archive, "MOST_FILES", 4)
    with pytest.raises(EvidenceError, match="more than 4 files"):
        write_archive(run.evidence, DAG, RUN, out)
    assert out.getvalue() == b""


def test_an_archive_may_have_just_the_limit(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    size = sum(map(len, contents(written(run)).values()))
    assert written(run, limit=size)
    with pytest.raises(EvidenceError):
        written(run, limit=size - 1)
    monkeypatch.setattr(archive, "MOST_FILES", 5)
    open_archive(written(run), limit=size)
    with pytest.raises(EvidenceError, match="more than"):
        open_archive(written(run), limit=size - 1)
    monkeypatch.setattr(archive, "MOST_FILES", 4)
    with pytest.raises(EvidenceError, match="lists more than 4 files"):
        open_archive(run.root.parent / "run.zip")


def test_an_output_that_cannot_be_written_is_the_callers(run: Run) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError, match="No space"):
        write_archive(run.evidence, DAG, RUN, full)


# ---- what is refused as evidence travels as well


def test_refused_evidence_is_refused_in_the_archive(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path_of(run, "verify").parent / "note é.txt").write_text("trust me")
    Run(run.root, new_private_key(tmp_path / "other.pem"), run=RUN).attest("verify", number=2)
    assert verified(run.root, tmp_path) == 1
    said = capsys.readouterr().out
    assert verified(written(run), tmp_path) == 1
    assert capsys.readouterr().out.splitlines()[1:] == said.splitlines()[1:]
    assert any(name.endswith("note é.txt") for name in contents(written(run)))


@pytest.mark.parametrize("name", ["bad\\name.json", "new\nline", "\x1b[31m", "\u202e", "/".join(["x" * 200] * 6)])
def test_a_name_that_is_not_safe_is_stood_for(run: Run, tmp_path: Path, name: str) -> None:
    path = path_of(run, "verify").parent / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    except OSError:
        pytest.skip("no such name here")
    assert verified(run.root, tmp_path) == 1
    assert verified(written(run), tmp_path) == 1
    stands = [data for name, data in contents(written(run)).items() if name.endswith("verify/not-carried-0.txt")]
    assert len(stands) == 1
    assert stands[0].decode().strip().isprintable()
    assert b"cannot be in an archive: its name." in stands[0]


def test_a_link_is_stood_for_and_a_run_with_one_is_not_proved(run: Run, tmp_path: Path) -> None:
    path = path_of(run, "verify")
    (path.parent / "link").symlink_to(path)
    assert verified(run.root, tmp_path) == 1
    made = written(run)
    assert verified(made, tmp_path) == 1
    assert (
        contents(made)[f"evidence/{FOLDER}/verify/not-carried-0.txt"]
        == b"verify/link cannot be in an archive: it is no plain file.\n"
    )


def test_a_link_in_the_place_of_evidence_is_stood_for(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = path_of(run, "verify")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert verified(written(run), tmp_path) == 1
    assert "guard verify: left no evidence in this run" in capsys.readouterr().out


def test_what_stands_for_something_replaces_no_file(run: Run, tmp_path: Path) -> None:
    folder = path_of(run, "verify").parent
    (folder / "not-carried-0.txt").write_text("mine")
    (folder / "link").symlink_to(folder)
    made = written(run)
    assert contents(made)[f"evidence/{FOLDER}/verify/not-carried-0.txt"] == b"mine"
    assert verified(made, tmp_path) == 1


def test_what_vanishes_or_may_not_be_read_is_stood_for(run: Run, tmp_path: Path) -> None:
    class Flaky(LocalStore):
        def read(self, name: str = ".", *, limit: int) -> bytes:
            if name.startswith("verify/"):
                raise ObjectMissing("gone")
            return super().read(name, limit=limit)

    out = io.BytesIO()
    assert write_archive(RunEvidence(Flaky(run.root / FOLDER)), DAG, RUN, out) == 5
    (tmp_path / "run.zip").write_bytes(out.getvalue())
    assert verified(tmp_path / "run.zip", tmp_path) == 1


def test_trouble_with_the_store_is_raised_and_nothing_written(run: Run) -> None:
    class Broken(LocalStore):
        def read(self, name: str = ".", *, limit: int) -> bytes:
            raise StorageError("a lost connection")

    out = io.BytesIO()
    with pytest.raises(StorageError, match="a lost connection"):
        write_archive(RunEvidence(Broken(run.root / FOLDER)), DAG, RUN, out)
    path_of(run, "verify").chmod(0o644)
    with path_of(run, "verify").open("ab") as file:
        file.truncate(MAX_ENVELOPE + 1)
    with pytest.raises(StorageError, match="is larger than"):
        write_archive(run.evidence, DAG, RUN, out)
    assert out.getvalue() == b""


# ---- what the README says


def command_of(dag: str, run_id: str, tmp_path: Path) -> list[str]:
    """The words that a shell makes of the command in the README."""
    store = LocalStore(tmp_path / "store")
    store.write(b"{}", "t/x")
    out = io.BytesIO()
    write_archive(RunEvidence(store), dag, run_id, out)
    readme = zipfile.ZipFile(out).read("README.txt").decode()
    assert all(line.isprintable() for line in readme.split("\n"))
    (line,) = [line for line in readme.splitlines() if line.startswith("  pipesec ")]
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return os.fsdecode(done.stdout).split("\0")[:-1]


@pytest.mark.parametrize(
    "hostile",
    ["$(touch pwned)", "`id`", "'; rm -rf / #", "a b", "a\nb", "\x1b]0;x\x07", "it's\n\\'$x", "-x", "ü\u202e", "x.zip", "{dag}"],
)
def test_the_command_in_the_readme_is_just_that(hostile: str, tmp_path: Path) -> None:
    words = command_of(hostile, f"{hostile}2", tmp_path)
    assert words[:2] == ["pipesec", "verify-run"]
    parser = argparse.ArgumentParser()
    for name in ("evidence", "dag", "run", "--trusted-keys"):
        parser.add_argument(name)
    options = parser.parse_args(words[2:])
    assert vars(options) == {"evidence": "FILE.zip", "dag": hostile, "run": f"{hostile}2", "trusted_keys": "KEYS"}


def test_the_command_in_the_readme_works(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(run, "FILE.zip")
    (tmp_path / "keys.yaml").rename(tmp_path / "KEYS")
    monkeypatch.chdir(tmp_path)
    (line,) = [line for line in contents(Path("FILE.zip"))["README.txt"].decode().splitlines() if line.startswith("  pipesec ")]
    assert main(shlex.split(line)[1:]) == 0
    odd = Run(run.root, run.signer, dag="-d", run="-r")
    odd.attest("gate", guard=GATE)
    written(odd, "FILE.zip")
    (line,) = [line for line in contents(Path("FILE.zip"))["README.txt"].decode().splitlines() if line.startswith("  pipesec ")]
    assert main(shlex.split(line)[1:]) == 0


# ---- tampering that a zip program does well


def test_an_attestation_that_was_taken_out_is_missed(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = contents(written(run))
    del files[f"evidence/{path_of(run, 'verify').relative_to(run.root)}"]
    assert verified(packed(tmp_path / "less.zip", files), tmp_path) == 1
    assert "guard verify: left no evidence in this run" in capsys.readouterr().out


def test_an_attestation_that_was_changed_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = contents(written(run))
    name = f"evidence/{path_of(run, 'verify').relative_to(run.root)}"
    files[name] = files[name][:900] + bytes([files[name][900] ^ 1]) + files[name][901:]
    assert verified(packed(tmp_path / "changed.zip", files), tmp_path) == 1
    assert "evidence-authentic" in capsys.readouterr().out


def test_bytes_that_were_changed_in_place_are_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(run)
    data = path.read_bytes()
    evidence = path_of(run, "verify").read_bytes()
    path.write_bytes(data.replace(evidence, evidence[:900] + bytes([evidence[900] ^ 1]) + evidence[901:]))
    assert verified(path, tmp_path) == 1
    assert "is damaged: its checksum is another one" in capsys.readouterr().out


def test_an_archive_of_another_run_proves_nothing(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = Run(run.root, run.signer, run="other")
    other.attest("gate", guard=GATE)
    path = written(other)
    assert verified(path, tmp_path) == 1
    files = {name.replace(folder_of(DAG, "other"), FOLDER): data for name, data in contents(path).items()}
    assert verified(packed(tmp_path / "moved.zip", files), tmp_path) == 1
    assert "evidence-present" in capsys.readouterr().out


def test_an_archive_that_is_not_there_is_undecided(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert verified(tmp_path / "none.zip", tmp_path) == 2
    assert "none.zip does not exist" in capsys.readouterr().err


# ---- archives that are meant to deceive

NAME = f"evidence/{FOLDER}/verify/-1.1.0.json"
Edit = Callable[[Path], object]


def zipped(*entries: tuple[str | zipfile.ZipInfo, bytes], **more: Any) -> Edit:
    def make(path: Path) -> None:
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **more) as made:
            warnings.simplefilter("ignore")  # zipfile says that a name is there twice
            for name, data in entries:
                made.writestr(name, data)

    return make


def edited(change: Callable[[bytes], bytes]) -> Edit:
    """A good archive of one file of four bytes, changed."""

    def make(path: Path) -> None:
        packed(path, {NAME: b"four"})
        path.write_bytes(change(path.read_bytes()))

    return make


def header(place: int, kind: str, value: int, *, local: bool, central: bool) -> Edit:
    """Change a number in the headers: ``place`` is counted in the file's own, and lies two further on in the list."""

    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        if local:
            struct.pack_into(f"<{kind}", changed, place, value)
        if central:
            struct.pack_into(f"<{kind}", changed, data.index(b"PK\1\2") + place + 2, value)
        return bytes(changed)

    return edited(change)


def attributes(mode: int) -> zipfile.ZipInfo:
    about = zipfile.ZipInfo(NAME)
    about.create_system, about.external_attr = 3, mode << 16
    return about


def extra() -> zipfile.ZipInfo:
    about = zipfile.ZipInfo(NAME)
    about.extra = b"\x99\x99\x02\x00xx"
    return about


def commented(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(NAME, b"four")
        made.comment = b"PK\5\6" + b"\0" * 18


def streamed(path: Path) -> None:
    """Sizes after the file instead of before it, as a zip is written to a pipe."""

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            sent.append(bytes(data))
            return len(data)

    sent: list[bytes] = []
    with zipfile.ZipFile(Pipe(), "w") as made:
        made.writestr(NAME, b"four")
    path.write_bytes(b"".join(sent))


def nested(path: Path) -> None:
    packed(path, {NAME: b"four"})
    packed(path, {"run.zip": path.read_bytes()})


def hidden(data: bytes) -> bytes:
    """Bytes between the file and the list that nobody lists."""
    place = data.index(b"PK\1\2")
    end = bytearray(data[-22:])
    struct.pack_into("<L", end, 16, place + 7)
    return data[:place] + b"PK\3\4evi" + data[place:-22] + bytes(end)


def shared(data: bytes) -> bytes:
    """Two names for one place, as bombs that need no compression have it."""
    place = data.index(b"PK\1\2")
    entry = data[place:-22]
    other = entry.replace(b"-1.1.0", b"-1.2.0")
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2, 2, 2 * len(entry), place, 0)
    return data[:place] + entry + other + end


def counted(number: int, listed: int | None = None) -> Edit:
    def change(data: bytes) -> bytes:
        end = struct.unpack("<4s4H2LH", data[-22:])
        return data[:-22] + struct.pack("<4s4H2LH", *end[:3], number if listed is None else listed, number, *end[5:])

    return edited(change)


HOSTILE: dict[str, tuple[Edit, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "is no zip"),
    "short": (lambda path: path.write_bytes(b"PK"), "is no zip"),
    "text": (lambda path: path.write_text("evidence" * 9), "is no zip"),
    "cut": (edited(lambda data: data[:-1]), "is no zip"),
    "cut at the start": (edited(lambda data: data[1:]), "something beside its files"),
    "appended": (edited(lambda data: data + b"x"), "something was appended"),
    "appended zip": (edited(lambda data: data + data), "something beside its files"),
    "prepended": (edited(lambda data: b"#!/bin/sh\n" + data), "something beside its files"),
    "hidden between": (edited(hidden), "something beside its files"),
    "commented": (commented, "is no zip|something beside"),
    "two names of one place": (edited(shared), "otherwise than at its place"),
    "huge count": (counted(65535), "lists more than 10,000 files"),
    "too many": (zipped(*((f"evidence/{number}", b"") for number in range(10_002))), "lists more than 10,000 files"),
    "more than there are": (counted(2), "list of files that is none"),
    "fewer than there are": (counted(0), "names that are too long|something beside"),
    "two counts": (counted(1, listed=2), "something beside its files"),
    "twice": (zipped((NAME, b"a"), (NAME, b"b")), "twice"),
    "twice, also when one is a folder's": (zipped((f"{NAME}/", b""), (NAME, b"b")), "leads elsewhere"),
    "absolute": (zipped(("/etc/passwd", b"")), "leads elsewhere"),
    "absolute below": (zipped(("evidence//etc/passwd", b"")), "leads elsewhere"),
    "up": (zipped(("evidence/../../etc/passwd", b"")), "leads elsewhere"),
    "up at once": (zipped(("../evidence/x", b"")), "leads elsewhere"),
    "dot": (zipped(("evidence/./x", b"")), "leads elsewhere"),
    "backslash": (zipped(("evidence\\..\\x", b"")), "leads elsewhere"),
    "backslash below": (zipped(("evidence/a\\b", b"")), "leads elsewhere"),
    "NUL": (edited(lambda data: data.replace(b"verify/-1", b"verify\0-1")), "leads elsewhere"),
    "control character": (zipped(("evidence/\x1b[31m", b"")), "leads elsewhere"),
    "override": (zipped(("evidence/\u202egpj", b"")), "leads elsewhere"),
    "not UTF-8": (edited(lambda data: data.replace(b"verify/-1", b"verify/\xff1")), "leads elsewhere"),
    "long name": (zipped(("evidence/" + "x" * 2000, b"")), "leads elsewhere|too long"),
    "longest name": (zipped(("evidence/" + "x" * 60_000, b""), ("evidence/" + "y" * 60_000, b"")), "too long"),
    "folder": (zipped(("evidence/", b"")), "leads elsewhere"),
    "only the folder's name": (zipped(("evidence", b"")), "leads elsewhere"),
    "beside the evidence": (zipped(("trusted-keys.yaml", b"")), "leads elsewhere"),
    "another case": (zipped(("Evidence/x", b"")), "leads elsewhere"),
    "nested": (nested, "leads elsewhere"),
    "link": (zipped((attributes(stat.S_IFLNK | 0o777), b"/etc/passwd")), "a link or no plain file"),
    "device": (zipped((attributes(stat.S_IFCHR), b"")), "a link or no plain file"),
    "pipe": (zipped((attributes(stat.S_IFIFO), b"")), "a link or no plain file"),
    "encrypted": (header(6, "H", 1, local=True, central=True), "encrypted"),
    "encrypted strongly": (header(6, "H", 0x41, local=True, central=True), "encrypted"),
    "list encrypted": (header(6, "H", 0x2000, local=True, central=True), "encrypted"),
    "compressed": (zipped((NAME, b"{}" * 99), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "bomb": (zipped((NAME, b"\0" * (64 << 20)), compression=zipfile.ZIP_DEFLATED), "compressed"),
    "bomb of another kind": (zipped((NAME, b"\0" * (8 << 20)), compression=zipfile.ZIP_LZMA), "compressed"),
    "unknown method": (header(8, "H", 99, local=True, central=True), "compressed"),
    "two sizes": (header(22, "L", 1 << 30, local=True, central=True), "two sizes"),
    "size too large": (header(18, "Q", 5 << 32 | 5, local=True, central=True), "beside|too large|otherwise"),
    "size too small": (header(18, "Q", 3 << 32 | 3, local=True, central=True), "something beside its files"),
    "four gigabytes": (header(18, "Q", 2**64 - 1, local=True, central=True), "larger than 8388608 bytes"),
    "large": (zipped((NAME, b"\0" * (MAX_ENVELOPE + 1))), "larger than 8388608 bytes"),
    "other size in the list": (header(18, "Q", 3 << 32 | 3, local=False, central=True), "otherwise than at its place"),
    "other size at its place": (header(18, "Q", 3 << 32 | 3, local=True, central=False), "otherwise than at its place"),
    "other checksum": (header(14, "L", 0, local=False, central=True), "otherwise than at its place"),
    "other method": (header(8, "H", 8, local=True, central=False), "otherwise than at its place"),
    "other flags": (header(6, "H", 1, local=True, central=False), "otherwise than at its place"),
    "other time": (header(12, "H", 1, local=True, central=False), "otherwise than at its place"),
    "other name": (edited(lambda data: data.replace(b"verify", b"Verify", 1)), "otherwise than at its place"),
    "other offset": (
        edited(lambda data: data.replace(struct.pack("<LL", 0x01800000, 0), struct.pack("<LL", 0x01800000, 1))),
        "at",
    ),
    "extra field": (zipped((extra(), b"four")), "not written here"),
    "sizes behind": (streamed, "not written here"),
    "patched": (header(6, "H", 0x20, local=True, central=True), "not written here"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_of_another_form_is_refused(kind: str, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    make, why = HOSTILE[kind]
    make(tmp_path / "x.zip")
    with pytest.raises(EvidenceError, match=why) as raised:
        open_archive(tmp_path / "x.zip")
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 1000
    assert verified(tmp_path / "x.zip", tmp_path) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_what_is_changed_to_make_them_was_good_before(tmp_path: Path) -> None:
    edited(lambda data: data)(tmp_path / "x.zip")
    zipped((NAME, b"four"), ("README.txt", b""))(tmp_path / "y.zip")
    for name in ("x.zip", "y.zip"):
        store = open_archive(tmp_path / name)
        assert store.below(FOLDER).read("verify/-1.1.0.json", limit=4) == b"four"


def test_many_files_that_are_more_than_the_limit_together_are_refused(tmp_path: Path) -> None:
    zipped(*((f"evidence/{number}", b"\0" * 1000) for number in range(11)))(tmp_path / "x.zip")
    with pytest.raises(EvidenceError, match="holds more than 10,000 bytes"):
        open_archive(tmp_path / "x.zip", limit=10_000)
    open_archive(tmp_path / "x.zip", limit=11_000)


def test_a_full_list_is_read_in_no_time(tmp_path: Path) -> None:
    zipped(*((f"evidence/{number:05}{'x' * 990}", b"") for number in range(10_000)))(tmp_path / "x.zip")
    begun = datetime.now(UTC)
    assert len(open_archive(tmp_path / "x.zip").listing().files) == 10_000
    assert datetime.now(UTC) - begun < timedelta(seconds=5)


def test_what_is_no_plain_file_is_no_archive(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "link.zip").symlink_to("pipe.zip")
    for name, error in (("pipe.zip", ObjectRefused), ("link.zip", ObjectRefused), ("none.zip", ObjectMissing)):
        with pytest.raises(error):
            open_archive(tmp_path / name)


@given(st.integers(0, 2**64))
def test_an_archive_that_was_meddled_with_is_refused_or_holds_just_what_it_says(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    chance, path = random.Random(seed), tmp_path_factory.getbasetemp() / "meddled.zip"
    packed(path, {"README.txt": b"r", NAME: b"four", f"evidence/{FOLDER}/x": b"PK\1\2" * 9})
    data = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8))):
        place = chance.randrange(len(data))
        match chance.randrange(3):
            case 0:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.randrange(1, 9)]
            case 2:
                data[place:place] = chance.choice((b"\0", b"\xff\xff", b"PK\5\6", b"PK\3\4", b"PK\1\2"))
    path.write_bytes(data)
    try:
        store = open_archive(path)
        read = {f"evidence/{name}": store.read(name, limit=MAX_ENVELOPE) for name in store.listing().files}
    except PipesecError:
        return
    theirs = contents(path)
    theirs.pop("README.txt", None)
    assert read == theirs, "another program reads something else"


# ---- the store


@pytest.fixture
def store(run: Run) -> ArchiveStore:
    return open_archive(written(run)).below(FOLDER)


def test_the_store_reads_what_it_lists(run: Run, store: ArchiveStore) -> None:
    there = LocalStore(run.root / FOLDER)
    assert store.listing() == there.listing()
    names = store.listing().files
    for name in names:
        assert store.read(name, limit=MAX_ENVELOPE) == there.read(name, limit=MAX_ENVELOPE)
        assert store.holds(there.read(name, limit=MAX_ENVELOPE), name)
    assert list(store.scan(names, hashlib.sha256)) == list(there.scan(names, hashlib.sha256))
    one = store.below(names[0])
    assert one.listing().files == ["."]
    with one.open() as file:
        assert file.read() == there.read(names[0], limit=MAX_ENVELOPE)
    assert store.mark(names[0]) == store.mark(names[1])


def test_the_store_says_what_it_does_not_have(store: ArchiveStore) -> None:
    with pytest.raises(ObjectMissing, match="Check the ids"):
        store.below("other").listing()
    for name in ("other", "../README.txt", "/etc/passwd", "verify", ""):
        with pytest.raises(ObjectMissing):
            store.read(name, limit=9)
    with pytest.raises(StorageError, match="is larger than 9 bytes"):
        store.read(store.listing().files[0], limit=9)
    (scanned,) = store.scan(["other"], hashlib.sha256)
    assert isinstance(scanned.error, ObjectMissing)


def test_the_store_is_never_written(store: ArchiveStore) -> None:
    before = Path(store.file.url).read_bytes()
    with pytest.raises(ConfigurationError, match="is only read"):
        store.create(b"x", "y")
    with pytest.raises(ConfigurationError, match="is only read"):
        store.write(b"x", "y")
    with pytest.raises(ConfigurationError, match="is only read"):
        store.remove("y")
    assert Path(store.file.url).read_bytes() == before


def test_an_archive_that_shrinks_while_it_is_read_is_damaged(store: ArchiveStore) -> None:
    path = Path(store.file.url)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(ObjectRefused, match="is damaged"):
        store.read(store.listing().files[-1], limit=MAX_ENVELOPE)
