"""What a scan of every sample does besides reading it, by an audit hook that notes and does not raise.

A hook that raised would be heard by the scanner only, which takes it for a broken file.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import airflow_pipesec.scan
from airflow_pipesec.scan.allow import LISTS, AllowList
from airflow_pipesec.scan.scanner import scan_view
from airflow_pipesec.scan.views import Memory
from tests.malicious_models import malicious

WATCHED = (
    "import",
    "exec",
    "subprocess.",
    "os.",
    "shutil.",
    "pickle.",
    "marshal.",
    "ctypes.",
    "socket.",
    "urllib.",
    "sqlite3.",
    "pty.",
)
NEEDED = ("ast", "bz2", "heapq", "json", "lzma", "tarfile", "yaml", "zlib", "jinja2", "jinja2.ext", "jinja2.sandbox")
OPTIONAL = ("lz4.frame",)
CODECS = ("encodings.unicode_escape", "encodings.utf_8_sig")


def watch(marker: Path) -> list[str]:
    """Scan every sample in this process, where the hook stays. Returns what was done that is not reading."""
    seen: list[str] = []
    watching = False

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open" or (event.startswith(WATCHED)):
            seen.append(f"{event} {args[0]}" if isinstance(args[0], str) else event)

    allow, samples = AllowList.shipped(), list(malicious(marker))
    ours = [f"airflow_pipesec.scan.{found.name}" for found in iter_modules(airflow_pipesec.scan.__path__)]
    optional = [name for name in OPTIONAL if find_spec(name.partition(".")[0])]
    for name in (*NEEDED, *CODECS, *optional, *ours):
        import_module(name)
    for section in LISTS:
        allow.section(section)  # lists of our own, which are read when they are first asked for
    sys.addaudithook(hook)
    before = set(sys.modules)
    for sample in samples:
        watching = True
        scan_view(Memory(sample.data), allow, name=sample.file)
        watching = False
    return seen + sorted(f"module {name}" for name in set(sys.modules) - before)
