"""Hashing against a bare loop, the command-line tools and OpenSSF's model_signing, on a tree and on one large file.

Every contender runs in a forked process of its own, so that CPU seconds (its children included) and peak memory are its own. The
rounds are interleaved and the best of each contender counts: what disturbs a round, disturbs all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

from airflow_pipesec.checks.integrity import verify, write_manifest
from airflow_pipesec.findings import Status
from airflow_pipesec.hashing import hash_files
from airflow_pipesec.storage import LocalStore

MIB = 1 << 20


class Cost(NamedTuple):
    """What one run took: seconds of all its processes, seconds by the clock, and memory."""

    cpu: float
    wall: float
    memory: float  # MiB above what the process had before it began


def bare_loop(root: str) -> None:
    """Hash a tree with nothing but scandir and hashlib: the floor."""
    digests = {}
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                descriptor = os.open(entry.path, os.O_RDONLY)
                whole = hashlib.sha256()
                while data := os.read(descriptor, 1 << 18):
                    whole.update(data)
                os.close(descriptor)
                digests[entry.path] = whole.hexdigest()


def bare_file(path: str, buffer_size: int = MIB) -> None:
    """Hash a file with hashlib and one buffer that is read into again and again."""
    whole = hashlib.sha256()
    buffer = memoryview(bytearray(buffer_size))
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - the plainest way is what is measured
        while size := file.readinto(buffer):
            whole.update(buffer[:size])


def ours(root: str, algorithm: str = "sha256", workers: int | None = None) -> None:
    store = LocalStore(root)
    hashed = hash_files(store, store.listing().files, algorithm, workers=workers)
    assert not hashed.errors


def our_manifest(root: str, manifest: str) -> None:
    findings = list(write_manifest(LocalStore(root), LocalStore(manifest)))
    assert all(finding.status is Status.PASS for finding in findings)


def our_verification(root: str, manifest: str) -> None:
    findings = list(verify(LocalStore(root), manifest=LocalStore(manifest)))
    assert all(finding.status is Status.PASS for finding in findings)


def model_signing(path: str) -> None:
    from model_signing import hashing

    hashing.Config().set_ignored_paths(paths=[], ignore_git_paths=False).hash(path)


def tool(program: str, path: str) -> None:
    """Run sha256sum or b3sum over a file, or over a tree in as few processes as possible."""
    if Path(path).is_file():
        subprocess.run([program, path], check=True, stdout=subprocess.DEVNULL)
        return
    with subprocess.Popen(["find", path, "-type", "f", "-print0"], stdout=subprocess.PIPE) as find:
        subprocess.run(["xargs", "-0", program], check=True, stdin=find.stdout, stdout=subprocess.DEVNULL)


def measure(work: Callable[[], None]) -> Cost:
    """Run the work in a forked process and return what it cost."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            cpu, wall = _cpu(), time.monotonic()
            work()
            cpu, wall = _cpu() - cpu, time.monotonic() - wall
            peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
            own = max(peaks) - before
            os.write(writer, json.dumps([cpu, wall, own / 1024]).encode())
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if status:
        raise SystemExit("a contender failed; see its traceback above")
    return Cost(*json.loads(answer))


def _cpu() -> float:
    usages = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def make_tree(root: Path, files: int, largest: int) -> int:
    chance = random.Random(1)
    total = 0
    for number in range(files):
        path = root / f"d{number % 200:03}" / f"f{number:05}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        size = chance.randrange(largest)
        path.write_bytes(chance.randbytes(size))
        total += size
    return total


def make_file(path: Path, size: int) -> None:
    block = random.Random(2).randbytes(MIB)
    with path.open("wb") as file:
        for _ in range(size // MIB):
            file.write(block)


def compare(title: str, contenders: dict[str, Callable[[], None]], rounds: int, base: str, console: Console) -> dict[str, Cost]:
    best: dict[str, Cost] = {}
    turns = [name for _ in range(rounds) for name in contenders]
    for work in contenders.values():
        measure(work)  # warms the page cache and the imports, counts for nothing
    for name in track(turns, description=title, console=console, transient=True):
        cost = measure(contenders[name])
        best[name] = min(best.get(name, cost), cost)
    table = Table(title=title, title_justify="left")
    for column in ("contender", "CPU s", "CPU ratio", "wall s", "wall ratio", "peak memory +MiB"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for name, cost in best.items():
        table.add_row(
            name,
            f"{cost.cpu:.3f}",
            f"{cost.cpu / best[base].cpu:.2f}",
            f"{cost.wall:.3f}",
            f"{cost.wall / best[base].wall:.2f}",
            f"{cost.memory:.1f}",
        )
    console.print(table)
    return best


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=20_000)
    options.add_argument("--largest", type=int, default=32_768, help="bytes; sizes are uniform below it")
    options.add_argument("--gib", type=float, default=4.0, help="size of the one large file")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--folder", type=Path, help="where to put the data (default: a temporary folder)")
    chosen = options.parse_args()
    console = Console(width=max(100, Console().width))
    scratch = Path(tempfile.mkdtemp(prefix="pipesec-bench-", dir=chosen.folder))
    try:
        run(chosen, scratch, console)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def run(chosen: argparse.Namespace, scratch: Path, console: Console) -> None:
    tools = [program for program in ("sha256sum", "b3sum") if shutil.which(program)]
    for program in {"sha256sum", "b3sum"} - set(tools):
        console.print(f"{program} is not installed and is left out (Debian: apt-get install {program})")

    tree, manifest = str(scratch / "tree"), str(scratch / "tree.json")
    size = make_tree(Path(tree), chosen.files, chosen.largest)
    our_manifest(tree, manifest)
    cores = len(os.sched_getaffinity(0))
    trees = compare(
        f"Tree: {chosen.files:,} files, {size / MIB:.0f} MiB, {cores} cores",
        {
            "bare scandir + hashlib": lambda: bare_loop(tree),
            "ours: list and hash": lambda: ours(tree),
            "ours, one worker": lambda: ours(tree, workers=1),
            "ours, blake3": lambda: ours(tree, "blake3"),
            "ours: write the manifest": lambda: our_manifest(tree, manifest),
            "ours: verify the manifest": lambda: our_verification(tree, manifest),
            "model_signing": lambda: model_signing(tree),
            **{program: (lambda program=program: tool(program, tree)) for program in tools},
        },
        chosen.rounds,
        "bare scandir + hashlib",
        console,
    )

    large, small = scratch / "large.bin", scratch / "small.bin"
    make_file(large, int(chosen.gib * 1024) * MIB)
    make_file(small, 64 * MIB)
    files = compare(
        f"One file: {chosen.gib:g} GiB",
        {
            "hashlib, readinto 1 MiB": lambda: bare_file(str(large)),
            "ours": lambda: ours(str(large)),
            "ours, blake3": lambda: ours(str(large), "blake3"),
            "ours, a file of 64 MiB": lambda: ours(str(small)),
            "model_signing": lambda: model_signing(str(large)),
            **{program: (lambda program=program: tool(program, str(large))) for program in tools},
        },
        max(2, chosen.rounds // 2),
        "hashlib, readinto 1 MiB",
        console,
    )

    bare, mine, peer = trees["bare scandir + hashlib"], trees["ours: list and hash"], trees["model_signing"]
    flat = files["ours"].memory - files["ours, a file of 64 MiB"].memory
    goals = [
        ("tree, CPU against the bare loop", mine.cpu / bare.cpu, "<= 1.15", mine.cpu / bare.cpu <= 1.15),
        ("tree, model_signing's CPU against ours", peer.cpu / mine.cpu, ">= 8", peer.cpu / mine.cpu >= 8),
        ("tree, cores used (CPU / wall)", mine.cpu / mine.wall, "> 1.5", mine.cpu / mine.wall > 1.5),
        (
            "one file, CPU against hashlib",
            files["ours"].cpu / files["hashlib, readinto 1 MiB"].cpu,
            "<= 1.05",
            files["ours"].cpu / files["hashlib, readinto 1 MiB"].cpu <= 1.05,
        ),
        ("one file, memory beyond that for 64 MiB, MiB", flat, "< 2", flat < 2),
    ]
    show_goals(goals, console)


def show_goals(goals: list[tuple[str, float, str, bool]], console: Console) -> None:
    """Print what was measured beside what was wanted."""
    table = Table(title="Goals", title_justify="left")
    for column in ("what", "measured", "goal", "met"):
        table.add_column(column)
    for what, value, goal, met in goals:
        table.add_row(what, f"{value:.2f}", goal, "yes" if met else "NO")
    console.print(table)


if __name__ == "__main__":
    main()
