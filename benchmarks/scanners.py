"""The scan of model files against picklescan, modelscan and fickling: what each blocks and misses, and what each costs.

Every scanner runs in a process of its own over the same files, the peers in environments made for them in .cache/scanners.
The malicious files are those of tests/malicious_models, the benign ones those of tests/benign_models. No file is loaded.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.hashing import show_goals
from tests.benign_models import files, vectors
from tests.malicious_models import LOADERS, malicious
from tests.malicious_models.assembling import Raw, at, call, opcodes_of, pickled

PROJECT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = PROJECT / ".cache" / "scanners"
DRIVER = Path(__file__).with_name("peers.py")
# Each peer, and what its install has besides: without h5py modelscan reads no HDF5, and fickling 0.1.12 names not all it imports.
PEERS = {"picklescan": ["picklescan"], "modelscan": ["modelscan", "h5py"], "fickling": ["fickling", "typing_extensions"]}
SMALL = 1000
TENSORS = 100


class Run(NamedTuple):
    """The verdicts of one scanner on some files, CPU seconds of the whole process, and its memory at the peak, in MiB."""

    verdicts: list[str]
    cpu: float
    memory: float

    def count(self, *verdicts: str) -> int:
        """How many files have one of these verdicts."""
        return sum(verdict in verdicts for verdict in self.verdicts)


def environment(peer: str) -> Path | None:
    """Return the Python of a peer's own environment, which is made when it is first asked for. None where it can't be."""
    python = ENVIRONMENTS / peer / "bin" / "python"
    commands = (
        [sys.executable, "-m", "venv", str(python.parent.parent)],
        [str(python), "-m", "pip", "install", "-q", *PEERS[peer]],
    )
    if not python.with_name(peer).exists():
        for command in commands:
            if subprocess.run(command, capture_output=True, check=False).returncode:
                shutil.rmtree(ENVIRONMENTS / peer, ignore_errors=True)
                return None
    return python


def version(python: Path, peer: str) -> str:
    program = f"import importlib.metadata as m; print(m.version({peer!r}))"
    return subprocess.run([str(python), "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def run(python: Path, scanner: str, paths: Sequence[Path], patience: int = 30) -> Run:
    """Have a scanner look at files, all in one process."""
    quiet = {"DO_NOT_TRACK": "1", "DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as taken:
        given.writelines(f"{path}\n" for path in paths)
        given.seek(0)
        command = [str(python), str(DRIVER), scanner, str(patience)]
        own = {**os.environ, **quiet, "PYTHONPATH": str(PROJECT) if scanner == "airflow_pipesec" else ""}
        process = subprocess.Popen(command, stdin=given, stdout=taken, stderr=subprocess.DEVNULL, env=own)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        taken.seek(0)
        *verdicts, memory = taken.read().split() or ["0"]
    if len(verdicts) < len(paths):  # it died on the way, and told nothing of its memory
        verdicts, memory = [*verdicts, *["error"] * (len(paths) - len(verdicts))], "0"
    return Run(verdicts, usage.ru_utime + usage.ru_stime, int(memory) / 1024)


def written(folder: Path, found: Iterable[tuple[str, bytes]]) -> list[Path]:
    """Write files, each into a folder of its own, under the name that it has. Returns their paths."""
    paths = []
    for number, (name, data) in enumerate(found):
        path = folder / f"{number:05}" / Path(name).name
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
        paths.append(path)
    return paths


def make_weights(path: Path, size: int) -> Path:
    """Write a state dictionary as torch does: a ZIP archive of a pickle and of stored tensors."""
    numbers = size // TENSORS // 4
    root = path.stem
    weights = {}
    for place in range(TENSORS):
        storage = Raw(opcodes_of(("storage", at("torch:FloatStorage"), str(place), "cpu", numbers), 2) + b"Q")
        hooks = call("collections:OrderedDict")
        weights[f"layer{place}.weight"] = call("torch._utils:_rebuild_tensor_v2", storage, 0, (numbers,), (1,), False, hooks)
    block = random.Random(3).randbytes(numbers * 4)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        members = [("data.pkl", pickled(weights, 2)), ("byteorder", b"little")]
        tensors = ((f"data/{place}", block) for place in range(TENSORS))
        for name, data in itertools.chain(members, tensors, [("version", b"3\n")]):
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), data)
    return path


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--megabytes", type=int, default=805, help="size of the one large file of torch")
    options.add_argument("--show", metavar="SCANNER", help="print what this scanner misses and flags")
    chosen, _ = options.parse_known_args()
    console = Console(width=max(150, Console().width))
    scratch = Path(tempfile.mkdtemp(prefix="pipesec-bench-"))
    try:
        compare(chosen, scratch, console)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def contenders(console: Console) -> dict[str, tuple[Path, str]]:
    """Return each scanner's Python and how it is titled."""
    found = {"airflow_pipesec": (Path(sys.executable), "airflow_pipesec")}
    for peer in PEERS:
        python = environment(peer)
        if python is None:
            console.print(f"{peer} cannot be installed and is left out")
            continue
        title = f"{peer} {version(python, peer)}"
        found[peer] = (python, title)
        if peer == "picklescan":
            found[f"{peer} --strict"] = (python, f"{title} --strict")
    return found


def compare(chosen: argparse.Namespace, scratch: Path, console: Console) -> None:
    samples = list(malicious(scratch / "marker"))
    bad = written(scratch / "malicious", ((sample.file, sample.data) for sample in samples))
    benign = [*files(), *vectors()]
    good = written(scratch / "benign", ((each.name, each.data) for each in benign))
    runs_code = [sample.loader in LOADERS and not sample.unproven for sample in samples]
    small = written(scratch / "small", ((each.name, each.data) for each in itertools.islice(itertools.cycle(files()), SMALL)))
    large = make_weights(scratch / "weights.pt", chosen.megabytes * 1_000_000)

    table = Table(
        title=f"{len(bad):,} malicious files, {sum(runs_code):,} of which a loader runs; {len(good):,} benign ones",
        title_justify="left",
    )
    for column in ("scanner", "blocked", "missed", "error", "missed, run", "flagged", "error", "all CPU s"):
        table.add_column(column, justify="left" if column == "scanner" else "right")
    for column in (f"{SMALL:,} small, CPU s", f"{chosen.megabytes} MB, CPU s", "MiB"):
        table.add_column(column, justify="right")
    results: dict[str, tuple[Run, Run, Run, Run]] = {}
    for scanner, (python, title) in contenders(console).items():
        runs = (
            run(python, scanner, bad),
            run(python, scanner, good),
            run(python, scanner, small),
            run(python, scanner, [large], 600),
        )
        results[scanner] = runs
        _row(table, title, runs, runs_code)
        if chosen.show == scanner:
            _show(console, [sample.name for sample in samples], runs[0], ("passed", "unread", "error"))
            _show(console, [f"{each.library}: {each.name}" for each in benign], runs[1], ("blocked", "error"))
    console.print(table)
    console.print("missed: passed, or not read at all; missed, run: of those that a loader runs. flagged: a benign file blocked.")
    console.print("CPU s: of the whole process, its start included. MiB: at the peak, with the large file.")
    assert not (scratch / "marker").exists(), "a scanner ran a payload"
    _goals(results, runs_code, console)


def _row(table: Table, title: str, runs: tuple[Run, Run, Run, Run], runs_code: list[bool]) -> None:
    bad, good, small, large = runs
    missed = sum(verdict in ("passed", "unread") for verdict, runs in zip(bad.verdicts, runs_code, strict=True) if runs)
    counts = (
        bad.count("blocked"),
        bad.count("passed", "unread"),
        bad.count("error"),
        missed,
        good.count("blocked"),
        good.count("error"),
    )
    costs = (f"{bad.cpu + good.cpu:.1f}", f"{small.cpu:.2f}", f"{large.cpu:.2f}", f"{large.memory:.0f}")
    table.add_row(title, *(f"{count:,}" for count in counts), *costs)


def _show(console: Console, names: list[str], found: Run, verdicts: tuple[str, ...]) -> None:
    told = Counter(found.verdicts)
    console.print(dict(told))
    for name, verdict in zip(names, found.verdicts, strict=True):
        if verdict in verdicts:
            console.print(f"  {verdict}: {name}", markup=False, highlight=False)


def _goals(results: dict[str, tuple[Run, Run, Run, Run]], runs_code: list[bool], console: Console) -> None:
    bad, good, small, large = results["airflow_pipesec"]
    blocked = sum(verdict == "blocked" for verdict, runs in zip(bad.verdicts, runs_code, strict=True) if runs) / sum(runs_code)
    flagged = good.count("blocked", "error")
    goals = [
        ("the large file is not blocked", float(large.verdicts == ["passed"]), "1.00", large.verdicts == ["passed"]),
        ("malicious files that run, blocked", blocked, "1.00", blocked == 1),
        ("benign files flagged", flagged, "0", flagged == 0),
        ("1,000 small files, CPU s", small.cpu, "< 5", small.cpu < 5),
        (
            "peak memory, one large file against small ones, MiB",
            large.memory - small.memory,
            "< 16",
            large.memory - small.memory < 16,
        ),
    ]
    show_goals(goals, console)


if __name__ == "__main__":
    main()
