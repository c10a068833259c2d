"""A fuzz target: any bytes where model files are scanned. `python -m tests.fuzz_scan` runs it under atheris.

Whatever comes in, the scan comes to an end and raises nothing; it imports, opens, executes and unpickles nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import random
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

ATHERIS = importlib.util.find_spec("atheris") is not None
if ATHERIS and __name__ == "__main__":
    import atheris

    _instrumented = atheris.instrument_imports(include=["airflow_pipesec.scan"])
else:
    _instrumented = contextlib.nullcontext()

with _instrumented:
    from airflow_pipesec.scan.allow import AllowList
    from airflow_pipesec.scan.scanner import Limits, Scan, scan_view
    from airflow_pipesec.scan.sniff import FORMS
    from airflow_pipesec.scan.views import Memory

VECTORS = Path(__file__).parent / "vectors" / "models"
LARGEST = 30_000  # bytes of a seed
LIMITS = Limits(depth=6, parts=2000, unpacked=64 << 20, opcodes=300_000, memo=300_000, text=1 << 20)
LONGEST = 20.0  # seconds; a scan takes milliseconds, and this machine may be busy
FORBIDDEN = (
    "import",
    "exec",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "socket.",
    "pickle.",
    "ctypes.",
    "shutil.",
)


def seeds() -> list[tuple[str, bytes]]:
    """Small files of every kind, as libraries write them, and some around others."""
    found = [
        (path.name, path.read_bytes()) for path in sorted(VECTORS.rglob("*")) if path.is_file() and path.stat().st_size <= LARGEST
    ]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in found[:3]:
            made.writestr(name, data)
    return [*found, ("packed.zip", packed.getvalue())]


SHIPPED = AllowList.shipped()
_watching = False
_done: list[str] = []


def watch() -> None:
    """From now on, notice where a scan does what it must not. It cannot be taken back: call it in a process of its own."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not _watching:
            return
        written = event == "open" and isinstance(args[1], str) and not set(args[1]) <= set("rb")
        if written or (event.startswith(FORBIDDEN) and not (event == "import" and str(args[0]).startswith("airflow_pipesec."))):
            _done.append(f"{event} {args[:2]!r}")  # raised here, it would be one more thing that a parser met with

    warm()
    sys.addaudithook(hook)


def warm() -> None:
    """Have everything imported that a scan imports when it first needs it."""
    for name in (
        "lzma",
        "bz2",
        "zlib",
        "tarfile",
        "ast",
        "json",
        "yaml",
        "heapq",
        "encodings.unicode_escape",
        "encodings.utf_8_sig",
        "encodings.raw_unicode_escape",
        "jinja2",
        "jinja2.ext",
    ):
        importlib.import_module(name)
    for module, _ in FORMS.values():
        importlib.import_module(f"airflow_pipesec.scan.{module}")
    for name, data in seeds():
        scan_view(Memory(data), SHIPPED, name=name, limits=LIMITS)


def one_input(data: bytes, name: str = "model") -> Scan:
    """Scan bytes. Raises for what is a defect."""
    global _watching
    started = time.monotonic()
    _watching = True
    try:
        scan = scan_view(Memory(data), SHIPPED, name=name, limits=LIMITS)
    finally:
        _watching = False
    assert not _done, f"a scan did this: {_done[0]}"
    took = time.monotonic() - started
    assert took < LONGEST, f"{took:.0f} seconds for {len(data)} bytes"
    assert scan.problems or scan.formats, "nothing was seen, and nothing was wrong"
    assert not any("\n" in str(problem) or "\x1b" in str(problem) for problem in scan.problems)
    return scan


def mutated(chance: random.Random, data: bytes, others: list[tuple[str, bytes]]) -> bytes:
    """Bytes near those of a seed."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        start = chance.randrange(len(made) + 1)
        match chance.randrange(8):
            case 0 | 1 if start < len(made):
                made[start] = chance.randrange(256)
            case 2 if start < len(made):
                made[start] ^= 1 << chance.randrange(8)
            case 3:
                del made[start : start + chance.choice((1, 2, 8, 100))]
            case 4:
                made[start:start] = made[start : start + chance.choice((1, 4, 64))]
            case 5:
                made[start : start + 8] = chance.choice((b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7)))
            case 6:
                other = chance.choice(others)[1]
                place = chance.randrange(len(other) + 1)
                made[start:start] = other[place : place + chance.choice((4, 50, 500))]
            case 7:
                del made[start:]
    return bytes(made)


def run(seconds: float, seed: int, most: int = 1 << 60) -> int:
    """Feed it for some time without atheris, the same for the same seed. Returns how many inputs there were."""
    chance, end, number = random.Random(seed), time.monotonic() + seconds, 0
    known = seeds()
    while time.monotonic() < end and number < most:
        name, data = chance.choice(known)
        one_input(mutated(chance, data, known), name)
        number += 1
    return number


def main() -> int:
    if len(sys.argv) == 4 and sys.argv[1] == "run":  # seconds, seed: without atheris, watched
        watch()
        print(f"{run(float(sys.argv[2]), int(sys.argv[3])):,} inputs")
        return 0
    if not ATHERIS:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
    if corpus is not None:
        corpus.mkdir(exist_ok=True)
        for number, (name, data) in enumerate(seeds()):
            (corpus / f"{number}-{name}").write_bytes(data)
    watch()
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
