"""Storage: local trees are listed and read without following a link, and files are replaced whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.storage import Kind, LocalStore, escapes, open_store, split_url


def scanned(root: Path, *names: str) -> list[object]:
    return [s.error or s.digest for s in LocalStore(root).scan(names, hashlib.sha256)]


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - pathlib would open a descriptor of its own


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "ünï", " ", "-rf", "a" * 255, "*", "a\\b", "\u202e"])
def test_names_of_every_kind_are_listed_and_read(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    assert LocalStore(tmp_path).listing().files == [name]
    assert scanned(tmp_path, name) == [hashlib.sha256(b"x").digest()]


def test_a_name_that_is_not_utf8_is_listed_and_read(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe")).write_bytes(b"x")
    (name,) = LocalStore(tmp_path).listing().files
    assert scanned(tmp_path, name) == [hashlib.sha256(b"x").digest()]


def test_names_come_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b", "a-b", "a/z", "a.b", "a/b/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert LocalStore(tmp_path).listing().files == ["a/b/c", "a/z", "a-b", "a.b", "b"]


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("file", Kind.SYMLINK),
        ("folder/../file", Kind.SYMLINK),
        ("nowhere", Kind.SYMLINK),
        ("link", Kind.SYMLINK),
        ("folder", Kind.SYMLINK),
        ("../outside", Kind.ESCAPING),
        ("folder/../../outside", Kind.ESCAPING),
        ("..", Kind.ESCAPING),
        ("/etc/passwd", Kind.ESCAPING),
    ],
)
def test_links_are_listed_for_what_they_are_and_never_followed(tmp_path: Path, target: str, kind: Kind) -> None:
    root = tmp_path / "root"
    (root / "folder").mkdir(parents=True)
    (root / "file").touch()
    (root / "link").symlink_to(target)
    listing = LocalStore(root).listing()
    assert [(entry.name, entry.kind) for entry in listing.irregular] == [("link", kind)]
    assert listing.files == ["file"]


def test_a_link_in_a_subfolder_is_judged_from_where_it_stands(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/inside").symlink_to("../../x")
    (tmp_path / "a/b/outside").symlink_to("../../../x")
    kinds = {entry.name: entry.kind for entry in LocalStore(tmp_path).listing().irregular}
    assert kinds == {"a/b/inside": Kind.SYMLINK, "a/b/outside": Kind.ESCAPING}


def test_a_file_that_became_a_link_after_the_listing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    (tmp_path / "secret").write_bytes(b"s")
    names = LocalStore(tmp_path).listing().files
    (tmp_path / "f").unlink()
    (tmp_path / "f").symlink_to("secret")
    assert isinstance(scanned(tmp_path, *names)[0], ObjectRefused)


def test_a_folder_that_became_a_link_after_the_listing_is_refused(tmp_path: Path) -> None:
    for folder in ("root/d/e", "other/e"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "f").write_bytes(b"x")
    (tmp_path / "root/d").rename(tmp_path / "root/gone")
    (tmp_path / "root/d").symlink_to(tmp_path / "other")
    assert isinstance(scanned(tmp_path / "root", "d/e/f")[0], ObjectRefused)


def test_a_file_that_became_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f")
    started = time.monotonic()
    assert isinstance(scanned(tmp_path, "f")[0], ObjectRefused)
    assert time.monotonic() - started < 5


def test_a_device_is_refused() -> None:
    assert isinstance(scanned(Path("/dev"), "zero")[0], ObjectRefused)


def test_a_vanished_file_is_missing_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"x")
    result = scanned(tmp_path, "a", "b")
    assert isinstance(result[0], ObjectMissing)
    assert result[1] == hashlib.sha256(b"x").digest()


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000])
def test_sizes_around_every_buffer(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    assert scanned(tmp_path, "f") == [hashlib.sha256(content).digest()]


def test_a_sparse_file_is_read_as_zeros(tmp_path: Path) -> None:
    with (tmp_path / "f").open("wb") as file:
        file.truncate(5_000_000)
    assert scanned(tmp_path, "f") == [hashlib.sha256(bytes(5_000_000)).digest()]


def test_a_file_whose_size_says_zero_is_read_to_its_end() -> None:
    if not Path("/proc/version").exists():
        pytest.skip("there is no /proc here")
    assert scanned(Path("/proc"), "version") == [hashlib.sha256(Path("/proc/version").read_bytes()).digest()]


def test_folders_too_deep_are_reported_and_not_entered(tmp_path: Path) -> None:
    start = Path.cwd()
    os.chdir(tmp_path)
    try:
        for _ in range(300):
            os.mkdir("d")  # noqa: PTH102 - the whole path would be too long
            os.chdir("d")
        Path("f").touch()
    finally:
        os.chdir(start)
    listing = LocalStore(tmp_path).listing()
    assert listing.files == []
    assert [entry.kind for entry in listing.irregular] == [Kind.UNREADABLE]
    subprocess.run(["rm", "-r", str(tmp_path / "d")], check=True)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    for name in ("a/b/c", "a/d", "e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a/link").symlink_to("/")
    before = descriptors()
    LocalStore(tmp_path).listing()
    scanned(tmp_path, "a/b/c", "a/nowhere", "a/link/x", "missing/x", "e")
    given_up = LocalStore(tmp_path).scan(["a/b/c", "a/d", "e"], hashlib.sha256)
    next(given_up)
    given_up.close()  # type: ignore[attr-defined] # it is a generator
    assert descriptors() == before


def test_a_root_that_is_missing_or_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ObjectMissing, match="does not exist"):
        LocalStore(tmp_path / "nowhere").listing()
    os.mkfifo(tmp_path / "pipe")
    assert [entry.kind for entry in LocalStore(tmp_path / "pipe").listing().irregular] == [Kind.SPECIAL]


def test_writing_replaces_the_whole_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "new/folder/f")
    store.write(b"one")
    store.write(b"two")
    assert store.read(limit=10) == b"two"
    assert [path.name for path in (tmp_path / "new/folder").iterdir()] == ["f"]


def test_writing_onto_a_link_replaces_the_link(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"keep")
    (tmp_path / "f").symlink_to("precious")
    LocalStore(tmp_path / "f").write(b"new")
    assert (tmp_path / "precious").read_bytes() == b"keep"
    assert not (tmp_path / "f").is_symlink()


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    with pytest.raises(StorageError):
        LocalStore(tmp_path / "f").write(b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "f"
    target.write_bytes(b"0" * 1_000_000)
    program = (
        "import sys; from airflow_pipesec.storage import LocalStore; store = LocalStore(sys.argv[1])\n"
        "print('go', flush=True)\n"
        "while True:\n for d in (b'0', b'1'): store.write(d * 1_000_000)"
    )
    for wait in (0.0, 0.01, 0.02, 0.03, 0.05):
        writer = subprocess.Popen([sys.executable, "-c", program, str(target)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(wait)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        content = target.read_bytes()
        assert len(content) == 1_000_000
        assert len(set(content)) == 1


def test_a_file_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 11)
    with pytest.raises(StorageError, match="larger than 10 bytes"):
        LocalStore(tmp_path / "f").read(limit=10)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a//b", "", "a/.", "x\0"])
def test_reading_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(ObjectRefused):
        LocalStore(tmp_path).read(name, limit=10)


@given(st.lists(st.sampled_from(["a", "..", ".", "", "b.c", "...", ".d"]), min_size=1, max_size=5).map("/".join))
def test_a_name_escapes_exactly_when_normalizing_would_change_it(name: str) -> None:
    stays = os.path.normpath(name) == name and not name.startswith(("/", "..", "./")) and name != "."
    stays = stays or (name.startswith("...") and os.path.normpath(name) == name)
    assert escapes(name) == (not stays)


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("/a/b", ("", None, "/a/b")),
        ("a:b", ("", None, "a:b")),
        ("file:///a%20b", ("", None, "/a b")),
        ("s3://bucket/key", ("s3", None, "bucket/key")),
        ("s3://conn@bucket/a@b", ("s3", "conn", "bucket/a@b")),
        ("gs://@bucket/k", ("gs", None, "bucket/k")),
    ],
)
def test_locations_are_split(url: str, parts: tuple[str, str | None, str]) -> None:
    assert split_url(url) == parts


@pytest.mark.parametrize("url", ["", "a\0b", "s3://", "s3:///key", "nosuchscheme://x", "gs://conn@bucket/x"])
def test_what_is_no_location_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_any_fsspec_filesystem_lists_reads_and_writes() -> None:
    memory = fsspec.filesystem("memory")
    open_store("memory://box/a/b").write(b"x")
    memory.pipe_file("/box/c", b"y")
    store = open_store("memory://box")
    assert store.listing().files == ["a/b", "c"]
    assert [s.digest for s in store.scan(["c"], hashlib.sha256)] == [hashlib.sha256(b"y").digest()]
    assert isinstance(next(iter(store.scan(["nowhere"], hashlib.sha256))).error, ObjectMissing)
    assert store.read("a/b", limit=5) == b"x"
    with pytest.raises(ObjectMissing):
        open_store("memory://box/nowhere").listing()
    assert open_store("memory://box/c").listing().files == ["."]


def test_a_folder_that_cannot_be_listed_is_not_left_out() -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class Flaky(MemoryFileSystem):  # type: ignore[misc] # fsspec publishes no types
        def ls(self, path: str, detail: bool = True, **kwargs: Any) -> Any:
            if path.rstrip("/").endswith("hidden"):
                raise PermissionError(path)
            return super().ls(path, detail=detail, **kwargs)

    filesystem = Flaky()
    filesystem.pipe({"/listing/a": b"1", "/listing/hidden/evil": b"2"})
    with pytest.raises(StorageError):
        open_store("memory://listing", filesystem=(filesystem, "/listing")).listing()


def test_a_link_is_refused_as_the_root_of_an_fsspec_filesystem_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"1")
    (tmp_path / "link").symlink_to("real")
    listing = open_store(f"local://{tmp_path}/link").listing()
    assert (listing.files, [entry.kind for entry in listing.irregular]) == ([], [Kind.SYMLINK])


def test_a_signature_in_a_url_is_not_shown() -> None:
    store = open_store("memory://bucket/key?X-Amz-Signature=hunter2")
    assert "hunter2" not in store.url + store.describe(".") + store.address


def test_no_descriptor_is_left_open_by_what_is_no_file(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        with pytest.raises(StorageError):
            LocalStore(tmp_path).read(limit=10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("url", [None, 3, ["a"], b"a", True, "a::b://c", "file:///tmp/a%00b"])
def test_what_is_no_location_at_all_is_refused(url: Any) -> None:
    with pytest.raises(ConfigurationError):
        open_store(url)


def test_urls_that_airflow_knows_are_opened_through_it(tmp_path: Path) -> None:
    from airflow_pipesec.guards.base import open_location

    open_location("memory://airflow/a").write(b"x")
    assert fsspec.filesystem("memory").cat_file("/airflow/a") == b"x"
    (tmp_path / "f").write_bytes(b"y")
    assert open_location(f"local://{tmp_path}").listing().files == ["f"]
    with pytest.raises(ConfigurationError, match="nosuchscheme"):
        open_location("nosuchscheme://x/y")


def test_the_local_disk_has_two_names_and_one_reader(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    store = open_store(f"local://{tmp_path}/a")
    assert isinstance(store, LocalStore)
    assert store.same_place(open_store(f"file://{tmp_path}/a"))


def test_a_file_that_grows_while_it_is_read_has_no_end(tmp_path: Path) -> None:
    for name, size in (("small", 10), ("large", 3 << 20)):
        path = tmp_path / name
        path.write_bytes(b"x" * size)

        class Appends:
            def __init__(self, path: Path = path) -> None:
                self.path = path

            def update(self, _: Any) -> None:
                with self.path.open("ab") as file:
                    file.write(b"y" * (4 << 20))

            def digest(self) -> bytes:
                return b"d"

        if size == 10:

            def growing(real: Any, path: Path = path) -> Any:
                def call(*arguments: Any) -> Any:
                    answer = real(*arguments)
                    with path.open("ab") as file:
                        file.write(b"y")
                    return answer

                return call

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(os, "lseek", growing(os.lseek))
                patch.setattr(os, "fstat", growing(os.fstat))
                (seen,) = LocalStore(tmp_path).scan([name], hashlib.sha256)
        else:
            (seen,) = LocalStore(tmp_path).scan([name], Appends)
        assert "grows while it is read" in str(seen.error)
        assert seen.digest == b""


def test_nothing_is_written_or_deleted_through_a_link(tmp_path: Path) -> None:
    victim, root = tmp_path / "victim", tmp_path / "root"
    victim.mkdir()
    root.mkdir()
    (victim / "x").write_bytes(b"precious")
    (root / "deep").symlink_to(victim)
    for action in (lambda: LocalStore(root).remove("deep/x"), lambda: LocalStore(root).write(b"new", "deep/x")):
        with pytest.raises(ObjectRefused):
            action()
    with pytest.raises(ObjectRefused):
        LocalStore(root / "deep").write(b"new", "x")
    assert (victim / "x").read_bytes() == b"precious"
    assert len(list(victim.iterdir())) == 1


def test_private_files_are_their_owners(tmp_path: Path) -> None:
    LocalStore(tmp_path).write_pieces([b"1", b"2"], "new/deep/a", private=True)
    assert (tmp_path / "new/deep/a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new/deep/a").read_bytes() == b"12"


def test_what_has_no_name_until_it_is_whole_may_have_one_where_it_must(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    real = os.open

    def refuses(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuses)
    LocalStore(tmp_path / "a").write(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]

    def breaks() -> Iterator[bytes]:
        yield b"2"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalStore(tmp_path / "a").write_pieces(breaks())
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a", b"1")]


def test_a_mark_changes_with_the_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.write(b"1", "a")
    marks = [store.mark("a")]
    assert store.mark("a") == marks[0]
    store.write(b"1", "a")
    marks.append(store.mark("a"))
    time.sleep(0.02)  # the clock of a file system ticks slowly
    (tmp_path / "a").write_bytes(b"2")
    marks.append(store.mark("a"))
    assert len(set(marks)) == 3


class Answers(BaseHTTPRequestHandler):
    """Answers with the status that the path begins with."""

    def do_GET(self) -> None:
        status = int(self.path[1:4])
        self.send_response(status)
        self.send_header("Content-Length", "1")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"x")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, ObjectMissing), (403, AccessDenied), (401, AccessDenied), (500, StorageError), (503, StorageError)]
)
def test_what_a_web_server_answers_is_told_apart_and_its_secrets_are_not_told(answers: str, status: int, kind: type) -> None:
    import traceback

    store = open_store(f"{answers}/{status}/model?X-Amz-Signature=TOPSECRET")
    for act in (store.listing, lambda: store.read(limit=10)):
        with pytest.raises(StorageError) as raised:
            act()
        assert type(raised.value) is kind
        assert "TOPSECRET" not in "".join(traceback.format_exception(raised.value))


def test_a_web_server_that_is_down_is_not_a_missing_file() -> None:
    with pytest.raises(StorageError) as raised:
        open_store("http://127.0.0.1:1/model").listing()
    assert type(raised.value) is StorageError
