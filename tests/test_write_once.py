"""Writing once: what is there is never replaced, one of several writers wins, and a killed one leaves nothing or the whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.errors import AccessDenied, ConfigurationError, ObjectExists, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.storage import LocalStore, Store, open_store
from tests.servers import S3Server


def without_nameless_files(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refuses(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuses)


@pytest.fixture(params=["nameless", "named"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on a file system with O_TMPFILE, and one on a file system without."""
    if request.param == "named":
        without_nameless_files(monkeypatch)
    return tmp_path


@pytest.fixture
def bucket(s3_server: S3Server, request: pytest.FixtureRequest) -> Store:
    """An empty bucket of the test's own."""
    name = "w" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3_server.client().create_bucket(Bucket=name)
    return open_store(f"s3://{name}/evidence", client=s3_server.client())


def entries(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_file_is_created_whole_with_its_folders_and_nothing_beside_it(root: Path) -> None:
    LocalStore(root / "log").create(b"one", "2026/a")
    LocalStore(root / "log/b").create(b"")
    assert entries(root) == {"log/2026/a": b"one", "log/b": b""}
    assert {path.stat().st_mode & 0o777 for path in (root / "log/2026/a", root / "log/b")} == {0o444 & ~umask()}
    assert (root / "log/b").stat().st_nlink == 1


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_what_is_there_is_never_replaced(root: Path) -> None:
    store = LocalStore(root)
    store.create(b"first", "a")
    for data in (b"other", b"firs", b"first!", b""):
        with pytest.raises(ObjectExists, match="written only once"):
            store.create(data, "a")
    assert entries(root) == {"a": b"first"}


def test_the_same_bytes_count_as_written(root: Path) -> None:
    for data, name in ((b"first", "a"), (b"", "b")):
        for _ in range(3):
            LocalStore(root).create(data, name)
    assert entries(root) == {"a": b"first", "b": b""}


@pytest.mark.parametrize("target", ["precious", "nowhere", "folder", "."])
def test_a_link_at_the_name_is_something_and_is_not_followed(root: Path, target: str) -> None:
    (root / "precious").write_bytes(b"keep")
    (root / "folder").mkdir()
    (root / "a").symlink_to(target)
    for data in (b"new", b"keep"):  # equal to what the link leads to, which does not make it there
        with pytest.raises(ObjectExists):
            LocalStore(root).create(data, "a")
        with pytest.raises(ObjectExists):
            LocalStore(root / "a").create(data)
    assert {path.name for path in root.iterdir()} == {"precious", "folder", "a"}
    assert (root / "precious").read_bytes() == b"keep"
    assert (root / "a").is_symlink()


def test_a_folder_or_a_pipe_at_the_name_is_something(root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ObjectExists):
            LocalStore(root).create(b"", name)
    assert {path.name for path in root.iterdir()} == {"folder", "pipe"}


def test_nothing_is_created_through_a_link_or_outside(root: Path) -> None:
    (root / "root").mkdir()
    (root / "victim").mkdir()
    (root / "root/deep").symlink_to(root / "victim")
    for name in ("deep/a", "../victim/a", "/a", "a//b"):
        with pytest.raises(ObjectRefused):
            LocalStore(root / "root").create(b"new", name)
    assert entries(root) == {}


def test_a_file_system_without_hard_links_is_told_and_gets_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, "not here")

    monkeypatch.setattr(os, "link", refuses)
    with pytest.raises(ConfigurationError, match="without hard links"):
        LocalStore(root).create(b"new", "a")
    assert list(root.iterdir()) == []


def test_a_folder_that_may_not_be_written_is_no_file_that_exists(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = LocalStore("/proc/self")  # not even for the superuser
    else:
        tmp_path.chmod(0o500)
        target = LocalStore(tmp_path)
    with pytest.raises(StorageError) as raised:
        target.create(b"new", "no-such-thing")
    assert not isinstance(raised.value, ObjectExists)


RACING = """
import json, os, sys
from airflow_pipesec.errors import ObjectExists
from airflow_pipesec.storage import LocalStore
me, root, rounds = sys.argv[1].encode(), sys.argv[2], int(sys.argv[3])
won = []
for number in range(rounds):
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        LocalStore(root).create(me * 100_000, str(number))
        won.append(number)
    except ObjectExists:
        pass
print(json.dumps(won))
"""


def test_of_eight_processes_at_once_exactly_one_wins(tmp_path: Path) -> None:
    rounds = 25
    commands = [[sys.executable, "-c", RACING, str(me), str(tmp_path), str(rounds)] for me in range(8)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for command in commands]
    for _ in range(rounds):
        for racer in racers:
            assert racer.stdout is not None
            assert racer.stdout.readline() == "ready\n"
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("\n")
            racer.stdin.flush()
    won = [json.loads(racer.communicate()[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 8
    assert Counter(number for numbers in won for number in numbers) == dict.fromkeys(range(rounds), 1)
    for me, numbers in enumerate(won):
        for number in numbers:
            assert (tmp_path / str(number)).read_bytes() == str(me).encode() * 100_000
    assert {path.name for path in tmp_path.iterdir()} == {str(number) for number in range(rounds)}
    assert sum(map(bool, won)) > 1, "all rounds went to one process: they never met"


KILLED = """
import json, os, random, signal, sys, time
from airflow_pipesec.storage import LocalStore
root, rounds = sys.argv[1], int(sys.argv[2])
data = bytes(range(256)) * 2000
target = os.path.join(root, "f")

def start():
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            LocalStore(root).create(data, "f")
            code = 0
        finally:
            os._exit(code)
    return pid

def left():
    try:
        with open(target, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return "nothing"
    os.unlink(target)
    return "whole" if content == data else "part"

took = []
for _ in range(20):
    begun = time.perf_counter()
    assert os.waitstatus_to_exitcode(os.waitpid(start(), 0)[1]) == 0
    took.append(time.perf_counter() - begun)
    assert left() == "whole"
usual = sorted(took)[10]
seen = {}
for _ in range(rounds):
    end = time.perf_counter() + random.uniform(0, 2 * usual)
    pid = start()
    while time.perf_counter() < end:
        pass
    os.kill(pid, signal.SIGKILL)
    killed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    found = left()
    usual *= 1.02 if found == "nothing" else 0.98  # so that half of them come to their end, however busy the machine is
    outcome = ("killed" if killed else "ended") + ", " + found
    seen[outcome] = seen.get(outcome, 0) + 1
print(json.dumps([seen, os.listdir(root)]))
"""


def test_a_writer_killed_at_any_moment_leaves_nothing_or_the_whole_and_no_litter(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), "1000"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    seen, litter = json.loads(done.stdout)
    assert set(seen) <= {"killed, nothing", "killed, whole", "ended, whole"}
    assert seen["killed, nothing"] > 100
    assert seen.get("killed, whole", 0) + seen.get("ended, whole", 0) > 100
    assert litter == []


# ---- S3


def test_an_object_is_created_once_and_the_same_bytes_count_as_written(bucket: Store) -> None:
    for data, name in ((b"first", "a"), (b"", "b")):
        bucket.create(data, name)
        bucket.create(data, name)
        for other in (b"other", b"first!", b"firs"):
            with pytest.raises(ObjectExists, match="written only once"):
                bucket.create(other, name)
        assert bucket.read(name, limit=10) == data
    assert bucket.listing().files == ["a", "b"]


def test_a_versioned_object_gets_one_version_only(s3_server: S3Server, bucket: Store) -> None:
    client, name = s3_server.client(), bucket.url.split("/")[2]
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    bucket.create(b"first", "a")
    bucket.create(b"first", "a")
    with pytest.raises(ObjectExists):
        bucket.create(b"other", "a")
    assert len(client.list_object_versions(Bucket=name)["Versions"]) == 1


def test_of_four_uploads_at_once_exactly_one_wins(s3_server: S3Server, bucket: Store) -> None:
    name = bucket.url.partition("://")[2]
    stores = [open_store(f"s3://{name}", client=s3_server.client()) for _ in range(4)]
    for number in range(4):  # when they collide, SeaweedFS lets the losers wait for a second each
        gate = threading.Barrier(4)

        def race(me: int, number: int = number, gate: threading.Barrier = gate) -> int | None:
            gate.wait()
            try:
                stores[me].create(b"%d" % me * 100_000, str(number))
            except ObjectExists:
                return None
            return me

        with ThreadPoolExecutor(4) as pool:
            winners = [me for me in pool.map(race, range(4)) if me is not None]
        assert len(winners) == 1
        assert bucket.read(str(number), limit=100_000) == b"%d" % winners[0] * 100_000


def test_who_may_not_write_is_told_so_and_not_that_the_object_exists(s3_server: S3Server, bucket: Store) -> None:
    with pytest.raises(AccessDenied):
        open_store(bucket.url, client=s3_server.client(s3_server.reader)).create(b"first", "a")
    with pytest.raises(ObjectMissing):
        bucket.read("a", limit=10)


def test_a_version_that_is_asked_for_is_read_and_no_other(s3_server: S3Server, bucket: Store) -> None:
    client, name = s3_server.client(), bucket.url.split("/")[2]

    def read(version: str | None) -> bytes:
        with bucket.stream("a", version=version) as source:
            buffer = memoryview(bytearray(10))
            return bytes(buffer[: source.readinto(buffer)])

    client.put_object(Bucket=name, Key="evidence/a", Body=b"unversioned")
    with pytest.raises(ObjectMissing, match="has no version 0123"):
        read("0123")
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    first, second = (client.put_object(Bucket=name, Key="evidence/a", Body=body)["VersionId"] for body in (b"1", b"2"))
    assert (read(first), read(second), read(None)) == (b"1", b"2", b"2")
    client.delete_object(Bucket=name, Key="evidence/a", VersionId=first)
    with pytest.raises(ObjectMissing):
        read(first)


class Answers(BaseHTTPRequestHandler):
    """An S3 server that answers as its script says, one status after the other and the last for ever, and keeps no object."""

    script: list[int]
    asked: list[str]
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(f"PUT {self.headers.get('If-None-Match')}")
        status = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        code = {409: "ConditionalRequestConflict", 412: "PreconditionFailed"}.get(status)
        self.answer(status, f"<Error><Code>{code}</Code></Error>".encode() if code else b"")

    def do_GET(self) -> None:
        self.asked.append("GET")
        self.answer(200, b"first")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", '"0"')
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def scripted() -> Iterator[tuple[Store, type[Answers]]]:
    import boto3
    from botocore.config import Config

    class Scripted(Answers):
        asked: list[str] = []  # noqa: RUF012 - the class is the test's own

    server = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    config = Config(retries={"mode": "standard", "max_attempts": 2}, s3={"addressing_style": "path"})
    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", config=config, **keys)
    try:
        yield open_store("s3://bucket/a", client=client), Scripted
    finally:
        client.close()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_first_try_that_got_through_unheard_counts_as_written(scripted: tuple[Store, type[Answers]]) -> None:
    store, server = scripted
    server.script = [503, 412]  # botocore tries again by itself
    store.create(b"first")
    assert server.asked == ["PUT *", "PUT *", "GET"]
    with pytest.raises(ObjectExists):
        store.create(b"other")


def test_a_conflict_is_tried_again(scripted: tuple[Store, type[Answers]]) -> None:
    store, server = scripted
    server.script = [409, 409, 200, 412]
    store.create(b"first")
    assert server.asked == ["PUT *"] * 4
    server.script = [409]
    with pytest.raises(StorageError, match="ConditionalRequestConflict") as raised:
        store.create(b"first")
    assert type(raised.value) is StorageError


def test_a_server_that_ignores_the_condition_is_found_out(scripted: tuple[Store, type[Answers]]) -> None:
    store, server = scripted
    server.script = [200]
    with pytest.raises(ConfigurationError, match="conditional writes"):
        store.create(b"first")


# ---- fsspec


def test_other_urls_are_looked_at_before_and_after_they_are_written() -> None:
    store = open_store(f"memory://evidence-{uuid.uuid4().hex}")
    store.create(b"first", "d/a")
    store.create(b"first", "d/a")
    with pytest.raises(ObjectExists, match="written only once"):
        store.create(b"second", "d/a")
    assert store.read("d/a", limit=10) == b"first"
