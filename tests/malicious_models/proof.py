"""The proof: each sample is loaded by its real loader, in a process of its own that is forked, and then its marker is there."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from tests.malicious_models.sample import LOADERS, Sample

PATIENCE = 15
PRELOADED = ("numpy", "joblib", "pandas", "sklearn.preprocessing", "dill", "torch")


def _pickle(path: Path) -> None:
    with path.open("rb") as file:
        pickle.load(file)  # noqa: S301 - this is what is proven


def _pickle_python(path: Path) -> None:
    with path.open("rb") as file:
        pickle._load(file)  # type: ignore[attr-defined]


def _pickle_all(path: Path) -> None:
    with path.open("rb") as file:
        while True:
            pickle.load(file)  # noqa: S301


def _pandas(path: Path) -> None:
    import pandas as pd

    pd.read_pickle(path)  # noqa: S301


def _joblib(path: Path) -> None:
    import joblib

    joblib.load(path)


def _numpy(path: Path) -> None:
    import numpy as np

    loaded = np.load(path, allow_pickle=True)
    for name in getattr(loaded, "files", ()):
        loaded[name]


def _torch(path: Path) -> None:
    import torch

    loaded = torch.load(path, weights_only=False)
    if isinstance(loaded, torch.jit.ScriptModule):
        loaded()


def _dill(path: Path) -> None:
    import dill

    with path.open("rb") as file:
        dill.load(file)  # noqa: S301


def _jinja(path: Path) -> None:
    import json

    import jinja2

    data = path.read_bytes()
    if data.startswith(b"GGUF"):
        place = data.index(b"tokenizer.chat_template") - 8
        place += 8 + int.from_bytes(data[place : place + 8], "little") + 4
        text = data[place + 8 : place + 8 + int.from_bytes(data[place : place + 8], "little")].decode()
    elif data.startswith(b'{"'):
        found = json.loads(data)["chat_template"]
        text = found if isinstance(found, str) else found[0]["template"]
    else:
        text = data.decode()
    jinja2.Environment(extensions=["jinja2.ext.do"]).from_string(text).render(messages=[], bos_token="")  # noqa: S701


_LOAD: dict[str, Callable[[Path], None]] = {
    "pickle": _pickle,
    "pickle-python": _pickle_python,
    "pickle-all": _pickle_all,
    "pandas": _pandas,
    "joblib": _joblib,
    "numpy": _numpy,
    "torch": _torch,
    "dill": _dill,
    "jinja": _jinja,
}
_NEEDS = {"pandas": "pandas", "joblib": "joblib", "numpy": "numpy", "torch": "torch", "dill": "dill", "jinja": "jinja2"}


def missing(sample: Sample) -> str:
    """Return the module that the proof of a sample takes and that is not installed here; "" for none."""
    needed = [*sample.needs.split(), *([_NEEDS[sample.loader]] if sample.loader in _NEEDS else [])]
    return next((name for name in needed if find_spec(name) is None), "")


def can_be_proven(sample: Sample) -> bool:
    return sample.loader in LOADERS and not sample.unproven and not missing(sample)


def prove(sample: Sample, folder: Path, marker: Path, grace: float = 5.0) -> bool:
    """Load one sample in a forked process. Returns whether the marker is there; what it made is removed.

    ``grace`` is how many seconds a program that it started has after the loader itself ended.
    """
    path = folder / "samples" / sample.file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(sample.data)
    pid = os.fork()
    if pid == 0:
        _load_and_leave(sample, path)
    deadline = time.monotonic() + PATIENCE
    left = 0
    while not marker.is_symlink() and not marker.exists() and time.monotonic() < deadline:
        if not left:
            left = os.waitpid(pid, os.WNOHANG)[0]
            deadline = min(deadline, time.monotonic() + grace) if left else deadline
        time.sleep(0.001)
    appeared = marker.is_symlink() or marker.exists()
    if not left:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    time.sleep(0.02 if marker.is_dir() else 0)
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return appeared


def _load_and_leave(sample: Sample, path: Path) -> None:
    import atexit

    atexit._clear()
    os.setpgid(0, 0)
    os.chdir(path.parent)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2) if not os.environ.get("SHOW") else (0,):
        os.dup2(null, stream)
    sys.stdin = io.StringIO()
    signal.alarm(PATIENCE)
    try:
        _LOAD[sample.loader](path)
    except BaseException as error:
        if os.environ.get("SHOW"):
            print(f"  {sample.name}: {type(error).__name__}: {error}", file=sys.stderr)
    with suppress(BaseException):
        atexit._run_exitfuncs()
    time.sleep(0.1)
    os._exit(0)


def prove_all(samples: Collection[Sample], folder: Path, marker: Path, grace: float = 5.0) -> list[str]:
    """Return the names of those for which the marker did not appear, of those that can be proven here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        taken = {name for sample in samples for name in (*sample.needs.split(), sample.loader)}
        for name in PRELOADED:
            if name.partition(".")[0] in taken:
                __import__(name)
        return [sample.name for sample in samples if can_be_proven(sample) and not prove(sample, folder, marker, grace)]
