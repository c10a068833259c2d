"""Copies with a path: all of it is what was recorded, or none of it is there."""

from __future__ import annotations

import io
import os
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.errors import ConfigurationError, ObjectMissing, ObjectRefused, VerificationError
from airflow_pipesec.storage import LocalStore
from airflow_pipesec.verified import Handle, materialize, verified_open
from tests.test_verified import FILES, contents, laid_out, recorded, sha256


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


def test_a_tree_is_copied_as_it_was_recorded_and_removed_at_the_end(model: Path, tmp_path: Path) -> None:
    (model / "extra").write_bytes(b"x")
    (model / "link").symlink_to("/etc")
    (tmp_path / "copies").mkdir()
    with materialize(model, recorded(FILES), folder=tmp_path / "copies") as path:
        assert path.parent == tmp_path / "copies"
        assert contents(path) == FILES
        modes = {stat.S_IMODE(entry.stat().st_mode) for entry in [path, *path.rglob("*")] if entry.is_dir()}
        assert modes == {0o500}
        assert {stat.S_IMODE(entry.stat().st_mode) for entry in path.rglob("*") if entry.is_file()} == {0o400}
        (model / "a").write_bytes(b"evil!")
        assert (path / "a").read_bytes() == b"alpha"
    assert list((tmp_path / "copies").iterdir()) == []
    assert not path.exists()


def test_a_single_file_keeps_its_name(model: Path, tmp_path: Path) -> None:
    handle = Handle(str(model / "d"), sha256(b"delta"))
    given_out: list[tuple[Any, Any, str | None, str, bytes]] = [
        (model / "a", sha256(b"alpha"), None, "a", b"alpha"),
        (model, sha256(b"alpha"), "a", "a", b"alpha"),
        (model, recorded(FILES), "deep/b.bin", "b.bin", FILES["deep/b.bin"]),
        (model, recorded(FILES), "deep/er/c", "c", b""),
        (model / "a", recorded({".": b"alpha"}), None, "a", b"alpha"),
        (handle, None, None, "d", b"delta"),
    ]
    for source, known, name, base, content in given_out:
        with materialize(source, known, name=name, folder=tmp_path) as path:
            assert path.is_absolute()
            assert (path.name, path.read_bytes()) == (base, content)
            assert [entry.name for entry in path.parent.iterdir()] == [base]
            assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o400, 0o500)
        assert not path.parent.exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["changed", "emptied", "missing", "linked", "folder"])
def test_when_one_file_is_wrong_nothing_is_given_out(model: Path, tmp_path: Path, name: str, how: str) -> None:
    (tmp_path / "copies").mkdir()
    target = model / name
    content = target.read_bytes()
    target.unlink()
    if how == "changed":
        target.write_bytes(content + b"!")
    elif how == "emptied":
        target.write_bytes(b"" if content else b"!")
    elif how == "linked":
        (tmp_path / "same").write_bytes(content)
        target.symlink_to(tmp_path / "same")
    elif how == "folder":
        target.mkdir()
    kinds = {"missing": ObjectMissing, "linked": ObjectRefused, "folder": ObjectRefused}
    with pytest.raises(kinds.get(how, VerificationError)), materialize(model, recorded(FILES), folder=tmp_path / "copies"):
        pytest.fail("it was given out")
    assert list((tmp_path / "copies").iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "deep/../../evil", ".", "a/", "a//b", "a\0b", "\ud800"])
def test_a_recorded_name_that_leads_out_is_refused(model: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "copies").mkdir()
    known = recorded(FILES | {name: b"evil"})
    with pytest.raises(ObjectRefused), materialize(model, known, folder=tmp_path / "copies"):
        pass
    with pytest.raises(ObjectRefused):
        verified_open(model, known, name=name)
    assert list((tmp_path / "copies").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_names_that_cannot_both_be_files_are_refused(tmp_path: Path) -> None:
    known = recorded({"a": b"1", "a/b": b"2"})

    class Both(LocalStore):
        """Holds both, as an object store can and a folder cannot."""

        @contextmanager
        def stream(self, name: str = ".", *, version: str | None = None) -> Iterator[Any]:
            yield io.BytesIO(b"1" if name == "a" else b"2")

    with pytest.raises(ObjectRefused), materialize(Both(tmp_path), known, folder=tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_copy_is_removed_whatever_its_consumer_does(model: Path, tmp_path: Path) -> None:
    def leave(path: Path) -> None:
        raise KeyboardInterrupt

    def litter(path: Path) -> None:
        path.chmod(0o700)
        (path / "deep").chmod(0o700)
        (path / "deep/link").symlink_to(model)
        (path / "deep/new").mkdir()
        (path / "deep/new").chmod(0o500)

    def clear(path: Path) -> None:
        subprocess.run(["chmod", "-R", "u+w", str(path)], check=True)
        subprocess.run(["rm", "-r", str(path)], check=True)

    (tmp_path / "copies").mkdir()
    for act in (leave, litter, clear):
        with suppress(KeyboardInterrupt), materialize(model, recorded(FILES), folder=tmp_path / "copies") as path:
            act(path)
        assert list((tmp_path / "copies").iterdir()) == []
    assert contents(model) == FILES, "what a link leads to is left alone"


def test_a_plain_user_cannot_change_the_copy_by_mistake_and_it_is_removed_all_the_same() -> None:
    def consume(folder: str) -> str:
        refused = 0
        with materialize(f"{folder}/f", sha256(b"alpha"), folder=f"{folder}/copies") as path:
            acts: list[Callable[[], Any]] = [lambda: path.write_bytes(b"x"), path.unlink, (path.parent / "new").touch]
            for act in acts:
                try:
                    act()
                except PermissionError:
                    refused += 1
        return f"{refused} refused, {len(list(Path(folder, 'copies').iterdir()))} left"

    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        Path(folder, "f").write_bytes(b"alpha")
        Path(folder, "copies").mkdir()
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                if os.geteuid() == 0:
                    os.chown(f"{folder}/copies", 65534, 65534)
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                os.write(writer, consume(folder).encode())
            except BaseException as error:
                os.write(writer, repr(error).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader, "rb") as told:
            assert told.read() == b"3 refused, 0 left"
        os.waitpid(pid, 0)


def test_a_folder_in_which_others_may_rename_things_holds_no_copy(model: Path, tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with (
        pytest.raises(ConfigurationError, match="written by everybody"),
        materialize(model, recorded(FILES), folder=tmp_path / "open"),
    ):
        pass
    (tmp_path / "open").chmod(0o1777)
    with materialize(model, recorded(FILES), folder=str(tmp_path / "open")) as path:
        assert contents(path) == FILES
    with pytest.raises(ObjectMissing), materialize(model, recorded(FILES), folder=tmp_path / "nowhere"):
        pass
