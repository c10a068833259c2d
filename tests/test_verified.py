"""Verified files: the right bytes or an exception, however the file changes between the check and the use, and during it."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import io
import os
import pickle
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.errors import (
    ConfigurationError,
    ManifestError,
    ObjectMissing,
    ObjectRefused,
    StorageError,
    VerificationError,
)
from airflow_pipesec.manifest import Digest, Manifest, Resource
from airflow_pipesec.storage import LocalStore, Store, open_store
from airflow_pipesec.storage_base import CHUNK
from airflow_pipesec.verified import IN_MEMORY, Handle, load_manifest, materialize, verified_open

FILES = {"a": b"alpha", "deep/b.bin": b"beta" * 1000, "deep/er/c": b"", "d": b"delta"}
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def recorded(files: dict[str, bytes], algorithm: str = "sha256") -> Manifest:
    new: Callable[[bytes], Any] = hashlib.sha256
    if algorithm != "sha256":
        from airflow_pipesec.hashing import new_hasher

        def new(data: bytes) -> Any:
            hasher = new_hasher(algorithm)()
            hasher.update(data)
            return hasher

    return Manifest.of("model", algorithm, [Resource(name, new(data).digest().hex()) for name, data in files.items()])


def laid_out(folder: Path) -> Path:
    """Put FILES into a folder ``model``, and their manifest beside it."""
    for name, data in FILES.items():
        LocalStore(folder / "model").write(data, name)
    (folder / "m.json").write_bytes(recorded(FILES).to_json())
    return folder / "model"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return laid_out(tmp_path)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# ---- what is opened, and by what it is verified


@pytest.mark.parametrize("stream", [False, True])
def test_a_file_is_verified_by_whatever_says_what_it_was(model: Path, stream: bool) -> None:
    manifest = model.parent / "m.json"
    by: list[Any] = [recorded(FILES), manifest, str(manifest), f"file://{manifest}", LocalStore(manifest)]
    for known in by:
        for source in (model, str(model), f"file://{model}", LocalStore(model)):
            with verified_open(source, known, name="deep/b.bin", stream=stream) as file:
                assert file.read() == FILES["deep/b.bin"]
        with verified_open(model / "deep/b.bin", known, stream=stream) as file:
            assert file.read() == FILES["deep/b.bin"]
    for digest in (sha256(b"alpha"), sha256(b"alpha").upper(), Digest.parse(sha256(b"alpha"))):
        for source, name in ((model / "a", None), (model / "a", "."), (model, "a")):
            with verified_open(source, digest, name=name, stream=stream) as file:
                assert file.read() == b"alpha"
    with verified_open(model / "a", recorded({".": b"alpha"}), stream=stream) as file:
        assert file.read() == b"alpha"


@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
def test_every_algorithm_of_a_manifest_verifies(model: Path, algorithm: str) -> None:
    known = recorded(FILES, algorithm)
    with verified_open(model, known, name="a") as file:
        assert file.read() == b"alpha"
    (model / "a").write_bytes(b"alphA")
    with pytest.raises(VerificationError, match=f"a is not what was verified: {algorithm} "):
        verified_open(model, known, name="a")


def test_a_path_is_looked_up_by_its_end_which_must_be_one_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"x": b"1", "deep/x": b"2", "y": b"3"}
    known = recorded(files)
    for name, data in files.items():
        LocalStore(tmp_path / "root").write(data, name)
    assert verified_open(tmp_path / "root/y", known).read() == b"3"
    monkeypatch.chdir(tmp_path / "root")
    assert verified_open("y", known).read() == b"3"
    assert verified_open("deep/../y", known).read() == b"3"
    assert verified_open("x", known).read() == b"1"
    with pytest.raises(ConfigurationError, match="ends with 2 recorded names"):
        verified_open(tmp_path / "root/deep/x", known)
    assert verified_open(tmp_path / "root", known, name="deep/x").read() == b"2"
    for path in (tmp_path / "root", tmp_path / "root/xy", tmp_path / "root/Y"):
        with pytest.raises(ConfigurationError, match="ends with no recorded name"):
            verified_open(path, known)


@pytest.mark.parametrize("stream", [False, True])
def test_what_was_never_recorded_is_not_opened(model: Path, stream: bool) -> None:
    (model / "new").write_bytes(b"alpha")
    for name in ("new", "nowhere", "a/", "./a", "deep", "", "."):
        with pytest.raises(ConfigurationError, match="never recorded"):
            verified_open(model, recorded(FILES), name=name, stream=stream)


def test_parameters_that_cannot_work_are_refused(model: Path) -> None:
    single = Handle(str(model / "a"), sha256(b"alpha"))
    wrong: list[tuple[Any, dict[str, Any]]] = [
        (model / "a", {}),
        (model / "a", {"manifest": "sha256:beef"}),
        (model, {"manifest": recorded(FILES).tree_digest}),
        (model, {"manifest": recorded(FILES), "name": 3}),
        (None, {"manifest": recorded(FILES)}),
        (model, {"manifest": 3}),
        (single, {"manifest": recorded(FILES)}),
        (single, {"name": "a"}),
    ]
    for source, more in wrong:
        with pytest.raises(ConfigurationError):
            verified_open(source, **more)
        with pytest.raises(ConfigurationError), materialize(source, **more):
            pass
    with pytest.raises(ConfigurationError, match="a tree with 4 files recorded"):
        verified_open(Handle(str(model), recorded(FILES).tree_digest, str(model.parent / "m.json")))


def test_a_manifest_that_is_missing_malformed_or_empty_verifies_nothing(model: Path) -> None:
    (model.parent / "bad.json").write_bytes(b"{}")
    (model.parent / "none.json").write_bytes(recorded({}).to_json())
    for manifest, kind in (("nowhere.json", ObjectMissing), ("bad.json", ManifestError), ("none.json", ManifestError)):
        with pytest.raises(kind):
            verified_open(model, model.parent / manifest, name="a")
        with pytest.raises(kind), materialize(model, model.parent / manifest):
            pass
    with pytest.raises(ManifestError):
        load_manifest(LocalStore(model / "a"))


@pytest.mark.parametrize("stream", [False, True])
def test_links_pipes_folders_and_names_that_lead_out_are_refused(model: Path, stream: bool) -> None:
    (model.parent / "same").write_bytes(b"alpha")
    (model / "link").symlink_to(model / "a")
    (model / "out").symlink_to(model.parent)
    os.mkfifo(model / "pipe")
    known = sha256(b"alpha")
    for name in ("link", "out/same", "pipe", "deep", "../same", "/etc/passwd", "x\0", "deep//b.bin", "\ud800"):
        with pytest.raises(ObjectRefused):
            verified_open(model, known, name=name, stream=stream)
        with pytest.raises(ObjectRefused), materialize(model, known, name=name):
            pass
    with pytest.raises(ObjectRefused):
        verified_open(model / "link", known, stream=stream)
    (model / "deep").rename(model / "elsewhere")
    (model / "deep").symlink_to("elsewhere")
    with pytest.raises(ObjectRefused):
        verified_open(model / "deep/b.bin", recorded({"deep/b.bin": FILES["deep/b.bin"]}), stream=stream)


def test_a_file_that_is_not_there_or_may_not_be_read_is_trouble_and_not_a_verdict(model: Path) -> None:
    (model / "a").unlink()
    for stream in (False, True):
        with pytest.raises(ObjectMissing):
            verified_open(model, recorded(FILES), name="a", stream=stream)


def test_urls_are_opened_as_the_caller_says(model: Path) -> None:
    asked = []

    def store_of(url: str) -> Store:
        asked.append(url)
        return LocalStore(model.parent / url.removeprefix("x://"))

    handle = Handle("x://model", recorded(FILES).tree_digest, "x://m.json")
    assert verified_open(handle, name="a", store_of=store_of).read() == b"alpha"
    assert verified_open("x://model", "x://m.json", name="d", store_of=store_of).read() == b"delta"
    with materialize(handle, store_of=store_of) as path:
        assert contents(path) == FILES
    assert asked == ["x://model", "x://m.json"] * 3


def test_other_filesystems_are_read_too() -> None:
    store = open_store("memory://verified/model")
    for name, data in FILES.items():
        store.write(data, name)
    for stream in (False, True):
        with verified_open("memory://verified/model/deep/b.bin", recorded(FILES), stream=stream) as file:
            assert file.read() == FILES["deep/b.bin"]
    with materialize("memory://verified/model", recorded(FILES)) as path:
        assert contents(path) == FILES
    open_store("memory://verified/out").write(b"x")
    with pytest.raises(ObjectRefused):
        verified_open("memory://verified/model", recorded({"../out": b"x"}), name="../out")
    store.write(b"alphA", "a")
    with pytest.raises(VerificationError), materialize("memory://verified/model", recorded(FILES)):
        pass


# ---- the file that is given out


@contextmanager
def file_of(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f"
        path.write_bytes(content)
        yield path


CONTENT = os.urandom(CHUNK + 1)


@pytest.mark.parametrize("size", [*SIZES, 3 * CHUNK + 2])
@pytest.mark.parametrize("stream", [False, True])
def test_sizes_around_every_block_come_whole(size: int, stream: bool) -> None:
    content = (CONTENT * 3)[:size]
    with file_of(content) as path:
        for step in (-1, 1000, CHUNK, CHUNK + 1):
            with verified_open(path, sha256(content), stream=stream) as file:
                data = b"".join(iter(lambda file=file, step=step: file.read(step), b""))  # type: ignore[misc]
                assert file.read(step) == b"", "the end stays the end"
            assert data == content
        buffer = bytearray(size + 10)
        with verified_open(path, sha256(content), stream=stream) as file:
            assert file.readinto(buffer) == size
        assert buffer == content + bytes(10)


@pytest.mark.parametrize("size", SIZES)
@given(data=st.data())
@settings(max_examples=60)
def test_any_byte_changed_lost_or_added_is_refused(size: int, data: st.DataObject) -> None:
    content = CONTENT[:size]
    kinds = ["extended"] + (["changed", "truncated", "moved"] if size else [])
    kind = data.draw(st.sampled_from(kinds))
    if kind == "extended":
        wrong = content + data.draw(st.binary(min_size=1, max_size=10))
    else:
        place = data.draw(st.integers(0, size - 1) | st.sampled_from([0, size - 1]))
        if kind == "changed":
            wrong = content[:place] + bytes([content[place] ^ data.draw(st.integers(1, 255))]) + content[place + 1 :]
        elif kind == "truncated":
            wrong = content[:place]
        else:
            wrong = b"x" + content[:place] + content[place + 1 :]
    if wrong == content:
        return
    with file_of(wrong) as path:
        with pytest.raises(VerificationError):
            verified_open(path, sha256(content))
        with pytest.raises(VerificationError), materialize(path, sha256(content)):
            pass
        given_out: list[bytes] = []
        step = data.draw(st.sampled_from([4096, CHUNK, CHUNK - 1]))
        with pytest.raises(VerificationError), verified_open(path, sha256(content), stream=True) as file:
            given_out.extend(iter(lambda: file.read(step), b""))
        assert sum(map(len, given_out)) <= max(0, len(wrong) - 1) // CHUNK * CHUNK, "the last block was given out"


def test_nothing_wrong_is_seen_by_a_consumer_that_acts_on_the_first_bytes(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "ran",)

    good = pickle.dumps({"weights": [1, 2]})
    (tmp_path / "model").write_bytes(pickle.dumps(Evil()) + bytes(2 * CHUNK))
    with pytest.raises(VerificationError), verified_open(tmp_path / "model", sha256(good)) as file:
        pickle.load(file)  # noqa: S301 - what is tested
    assert not (tmp_path / "ran").exists()
    (tmp_path / "model").write_bytes(good)
    for stream in (False, True):
        with verified_open(tmp_path / "model", sha256(good), stream=stream) as file:
            assert pickle.load(file) == {"weights": [1, 2]}  # noqa: S301 - what is tested


@pytest.mark.parametrize("size", [1000, IN_MEMORY - 1, IN_MEMORY, IN_MEMORY + 1])
def test_the_copy_is_private_seekable_and_read_only(tmp_path: Path, size: int) -> None:
    content = (CONTENT * 17)[:size]
    (tmp_path / "f").write_bytes(content)
    with verified_open(tmp_path / "f", sha256(content)) as file:
        (tmp_path / "f").write_bytes(b"evil")
        assert file.read() == content
        assert file.seekable()
        assert file.seek(-10, os.SEEK_END) == size - 10
        assert file.read() == content[-10:]
        assert not file.writable()
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(file.fileno(), b"x")
        status = os.fstat(file.fileno())
        assert (status.st_nlink, stat.S_IMODE(status.st_mode)) == (0, 0o400)
        if size <= IN_MEMORY:  # not even through the name that the kernel gives it
            writer = os.open(f"/proc/self/fd/{file.fileno()}", os.O_RDWR) if os.geteuid() == 0 else None
            if writer is not None:
                with pytest.raises(PermissionError):
                    os.write(writer, b"x")
                os.close(writer)
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256(content).removeprefix("sha256:")
    assert file.closed


def test_where_there_is_no_nameless_memory_the_copy_is_a_nameless_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any) -> int:
        raise OSError(errno.ENOSYS, "not here")

    monkeypatch.setattr(os, "memfd_create", refuses)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    for content in (b"alpha", bytes(IN_MEMORY + 1)):
        (tmp_path / "f").write_bytes(content)
        with verified_open(tmp_path / "f", sha256(content)) as file:
            assert file.read() == content
            assert os.fstat(file.fileno()).st_nlink == 0
            assert list((tmp_path / "temporary").iterdir()) == []


def test_libraries_read_it_as_any_file(tmp_path: Path) -> None:
    rows = "".join(f"{number},ü{number}\n" for number in range(200_000)).encode()
    (tmp_path / "t.csv").write_bytes(rows)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(rows, 1))
    for stream in (False, True):
        with verified_open(tmp_path / "t.csv", sha256(rows), stream=stream) as file:
            assert sum(1 for _ in file) == 200_000
        with (
            verified_open(tmp_path / "t.csv", sha256(rows), stream=stream) as file,
            io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
        ):
            assert list(csv.reader(text))[-1] == ["199999", "ü199999"]
        packed = (tmp_path / "t.csv.gz").read_bytes()
        with verified_open(tmp_path / "t.csv.gz", sha256(packed), stream=stream) as file, gzip.open(file) as unpacked:
            assert unpacked.read() == rows
    changed = rows[:-1] + b"x"
    (tmp_path / "t.csv").write_bytes(changed)
    with (
        pytest.raises(VerificationError),
        verified_open(tmp_path / "t.csv", sha256(rows), stream=True) as file,
        io.TextIOWrapper(file, encoding="utf-8", newline="") as text,
    ):
        list(csv.reader(text))


def test_a_stream_that_turned_out_wrong_never_ends(tmp_path: Path) -> None:
    content = CONTENT * 2
    (tmp_path / "f").write_bytes(content[:-1])
    file = verified_open(tmp_path / "f", sha256(content), stream=True)
    assert file.read(CHUNK) == content[:CHUNK]
    acts: list[Callable[[], Any]] = [file.read, lambda: file.read(10), file.readline, lambda: file.readinto(bytearray(10))]
    for act in [*acts, *acts, lambda: list(file)]:
        with pytest.raises(VerificationError):
            list(iter(act, b""))  # until an end, which does not come
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_a_stream_is_read_once_in_constant_memory_and_need_not_be_read_to_its_end(tmp_path: Path) -> None:
    program = (
        "import sys, resource, hashlib; from airflow_pipesec.verified import verified_open\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with verified_open(sys.argv[1], sys.argv[2], stream=True) as file:\n"
        "    size = sum(len(block) for block in iter(lambda: file.read(1 << 16), b''))\n"
        "print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    size = 200 << 20
    with (tmp_path / "f").open("wb") as sparse:
        sparse.truncate(size)
    digest = hashlib.sha256()
    for _ in range(size >> 20):
        digest.update(bytes(CHUNK))
    known = f"sha256:{digest.hexdigest()}"
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "f"), known], capture_output=True, text=True, check=True)
    read, grown = map(int, done.stdout.split())
    assert read == size
    assert grown < 20_000, "KiB"
    before = len(list(Path("/proc/self/fd").iterdir()))
    with verified_open(tmp_path / "f", known, stream=True) as file:
        file.read(1)
        assert not file.seekable()
    file.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_no_descriptor_is_left_open(model: Path) -> None:
    (model / "large").write_bytes(bytes(IN_MEMORY + 1))
    wrong = sha256(b"something else")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("a", "large"):
        for stream in (False, True):
            with pytest.raises(VerificationError), verified_open(model, wrong, name=name, stream=stream) as file:
                file.read()
        with verified_open(model, sha256((model / name).read_bytes()), name=name):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_temporary_folder_without_room_is_trouble_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(IN_MEMORY + 1)
    (tmp_path / "f").write_bytes(content)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"the temporary folder .*nowhere"):
        verified_open(tmp_path / "f", sha256(content))
