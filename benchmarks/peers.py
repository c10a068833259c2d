"""One scanner, run by benchmarks.scanners in an environment of its own: a path a line comes in, a verdict for each goes out.

Last comes the memory that the process had at its peak, in KiB.

It is a program, not a module of the package: in the peers' environments there is nothing but the peer.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import signal
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Verdict = Callable[[str], str]
PATIENCE = 30  # seconds for one small file; a scanner that takes longer is taken for one that failed


def airflow_pipesec() -> Verdict:
    from airflow_pipesec.scan.allow import AllowList
    from airflow_pipesec.scan.scanner import scan_view
    from airflow_pipesec.storage_base import FilePlaces

    allow = AllowList.shipped()

    def verdict(path: str) -> str:
        file = Path(path)
        with file.open("rb") as opened:
            siblings = [each.name for each in file.parent.iterdir()]
            found = scan_view(FilePlaces(opened.fileno(), file.name), allow, name=file.name, siblings=siblings)
        return "blocked" if found.problems else "passed"

    return verdict


def picklescan(*, strict: bool = False) -> Verdict:
    scanner: Any = importlib.import_module("picklescan.scanner")

    def verdict(path: str) -> str:
        found = scanner.scan_file_path(path, strict=strict)
        return "blocked" if found.issues_count else "error" if found.scan_err else "passed" if found.scanned_files else "unread"

    return verdict


def modelscan() -> Verdict:
    scanner: Any = importlib.import_module("modelscan.modelscan").ModelScan()

    def verdict(path: str) -> str:
        found = scanner.scan(path)
        if found["summary"]["total_issues"]:
            return "blocked"
        return "error" if found["errors"] else "passed" if found["summary"]["scanned"]["total_scanned"] else "unread"

    return verdict


def fickling() -> Verdict:
    scanner: Any = importlib.import_module("fickling")

    def verdict(path: str) -> str:
        if zipfile.is_zipfile(path):
            found = list(scanner.scan_zip_archive(path, graceful=True).values())
        else:
            found = [scanner.scan_file(path, graceful=True)]
        if any(not each.is_safe and not each.errors for each in found):
            return "blocked"
        return "error" if any(each.errors for each in found) else "passed" if found else "unread"

    return verdict


SCANNERS: dict[str, Callable[[], Verdict]] = {
    "airflow_pipesec": airflow_pipesec,
    "picklescan": picklescan,
    "picklescan --strict": lambda: picklescan(strict=True),
    "modelscan": modelscan,
    "fickling": fickling,
}


def _late(signum: int, frame: object) -> None:
    raise TimeoutError


def main() -> None:
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    out = os.fdopen(os.dup(1), "w")
    signal.signal(signal.SIGALRM, _late)
    patience = PATIENCE if len(sys.argv) < 3 else int(sys.argv[2])
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing), contextlib.redirect_stderr(nothing):  # noqa: PTH123 - as is usual for it
        scan = SCANNERS[sys.argv[1]]()
        for line in sys.stdin:
            signal.alarm(patience)
            try:
                verdict = scan(line.rstrip("\n"))
            except BaseException:  # whatever it is: this scanner has no verdict
                verdict = "error"
            signal.alarm(0)
            print(verdict, file=out, flush=True)
    # Not by getrusage: what that says includes the process that this one was forked from.
    with open("/proc/self/status") as status:  # noqa: PTH123 - as above
        print(next(line.split()[1] for line in status if line.startswith("VmHWM")), file=out)


if __name__ == "__main__":
    main()
