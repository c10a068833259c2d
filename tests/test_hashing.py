"""Hashing: however many workers read, the digests are hashlib's, and a worker that dies is noticed."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from airflow_pipesec import hashing
from airflow_pipesec.errors import ConfigurationError, ObjectMissing, ObjectRefused, StorageError
from airflow_pipesec.hashing import Hashed, hash_files
from airflow_pipesec.storage import LocalStore

FILES = 700  # more than FORK_FROM, so that both ways of being parallel are run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    chance = random.Random(5)
    for number in range(FILES):
        path = root / f"d{number % 7}" / f"{number}.bin"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(chance.randbytes(chance.choice([0, 1, 100, 5000, 65535, 65536, 70_000])))
    return root


def hashed_tree(root: Path, **options: object) -> tuple[list[str], Hashed]:
    store = LocalStore(root)
    names = store.listing().files
    return names, hash_files(store, names, **options)  # type: ignore[arg-type] # options differ from test to test


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("algorithm", ["sha256", "sha512", "blake3"])
def test_digests_are_those_of_the_library(tree: Path, algorithm: str, workers: int) -> None:
    names, hashed = hashed_tree(tree, algorithm=algorithm, workers=workers)
    new = blake3 if algorithm == "blake3" else getattr(hashlib, algorithm)
    assert len(names) == FILES
    assert hashed.digests == [new((tree / name).read_bytes()).digest() for name in names]
    assert hashed.size == sum((tree / name).stat().st_size for name in names)
    assert not hashed.errors


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_trees_below_the_fork_are_hashed_by_threads_alike(tmp_path: Path, workers: int) -> None:
    for number in range(50):
        (tmp_path / str(number)).write_bytes(b"x" * number * 5000)
    names, hashed = hashed_tree(tmp_path, workers=workers)
    assert hashed.digests == [hashlib.sha256((tmp_path / name).read_bytes()).digest() for name in names]


def test_every_file_is_in_a_chunk_exactly_once() -> None:
    for total in (1, 2, 63, 64, 65, 1000, 20_000, 1_000_003):
        chunks = hashing._chunks(total, 4)

        assert all(before[1] == after[0] for before, after in pairwise(chunks))
        assert (chunks[0][0], chunks[-1][1]) == (0, total)
        assert len(chunks) * 4 <= 65536, "the numbers of all chunks fit into a pipe"


def test_progress_adds_up(tree: Path) -> None:
    for workers in (1, 2):
        seen: list[tuple[int, int, int]] = []
        _, hashed = hashed_tree(tree, workers=workers, progress=lambda *step, seen=seen: seen.append(step))
        assert sum(files for files, _, _ in seen) == FILES
        assert sum(size for _, size, _ in seen) == hashed.size
        assert {total for _, _, total in seen} == {FILES}


@pytest.mark.parametrize("workers", [1, 2])
def test_errors_come_back_with_their_kind(tree: Path, tmp_path: Path, workers: int) -> None:
    store = LocalStore(tree)
    link, pipe = tree / "link", tree / "pipe"
    link.symlink_to("/etc/hostname")
    os.mkfifo(pipe)
    try:
        hashed = hash_files(store, [*store.listing().files, "link", "missing", "pipe"], workers=workers)
    finally:
        link.unlink()
        pipe.unlink()
    kinds = {name: type(error) for name, error in hashed.errors.items()}
    assert kinds == {"link": ObjectRefused, "missing": ObjectMissing, "pipe": ObjectRefused}
    assert hashed.digests[-3:] == [b"", b"", b""]


def test_a_dying_worker_is_an_error_and_never_a_short_list(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tree)
    names = store.listing().files
    real, parent, dying = LocalStore.scan, os.getpid(), tmp_path / "dying"

    def dies(self: LocalStore, chunk: list[str], new: object) -> object:
        if os.getpid() != parent:
            dying.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + 60
        while not dying.exists() and time.monotonic() < end:  # let the other one take a chunk with it
            time.sleep(0.01)
        return real(self, chunk, new)  # type: ignore[arg-type] # passed through

    monkeypatch.setattr(LocalStore, "scan", dies)
    with pytest.raises(StorageError, match="were never read"):
        hash_files(store, names, workers=2)


def test_no_process_and_no_descriptor_is_left_behind(tree: Path) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split())

    before, others = set(os.listdir("/proc/self/fd")), children()  # noqa: PTH208 - pathlib would open a descriptor of its own
    threads = threading.active_count()
    hashed_tree(tree, workers=3)

    def interrupt(*_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hashed_tree(tree, workers=3, progress=interrupt)
    assert set(os.listdir("/proc/self/fd")) == before  # noqa: PTH208 - as above
    assert threading.active_count() == threads
    assert children() == others


@pytest.mark.parametrize("workers", [0, -1, "two", True, 10**30])
def test_a_number_of_workers_that_cannot_be_is_refused(tmp_path: Path, workers: object) -> None:
    with pytest.raises(ConfigurationError, match="not a number from 1"):
        hash_files(LocalStore(tmp_path), ["a"], workers=workers)  # type: ignore[arg-type] # what is tested


def test_an_unknown_algorithm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Use one of sha256"):
        hash_files(LocalStore(tmp_path), ["a"], "md5")


def test_no_files_are_no_work(tmp_path: Path) -> None:
    assert hash_files(LocalStore(tmp_path), []) == Hashed([])


def test_a_worker_that_fails_stops_the_others_in_the_middle_of_their_file(tmp_path: Path) -> None:
    class Endless(LocalStore):
        def scan(self, names: Any, new: Any) -> Any:
            if "a" in names:
                raise KeyboardInterrupt
            hasher = new()
            while True:
                hasher.update(b"x")

    with pytest.raises(KeyboardInterrupt):
        hash_files(Endless(tmp_path), ["a", "b"], workers=2)


def test_a_parent_that_buries_no_children_hashes_all_the_same(tree: Path) -> None:
    names = LocalStore(tree).listing().files
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert b"" not in hash_files(LocalStore(tree), names, workers=2).digests
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_small_pipes_are_no_dead_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    real = os.pipe

    def small() -> tuple[int, int]:
        reader, writer = real()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        return reader, writer

    monkeypatch.setattr(os, "pipe", small)
    monkeypatch.setattr(hashing, "_chunks", lambda total, _: [(place, place + 1) for place in range(total)])
    names = LocalStore(tree).listing().files * 3
    assert b"" not in hash_files(LocalStore(tree), names, workers=2).digests
