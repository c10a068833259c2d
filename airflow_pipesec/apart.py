"""Apart: DAG files are run in a process of their own, so that none of them ends the one that judges.

A file that is run can end its process with exit code 0 and without a word, and that must not be a pass. The child says which file
it runs, and at its very end what it saw: shapes, as JSON. This process measures those, and nothing of a child that did not come
to its end. It forks before Airflow is imported, which costs next to nothing.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import secrets
import signal
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import fields
from multiprocessing.connection import wait
from os import PathLike
from typing import Any, NoReturn

from airflow_pipesec.coverage import Survey, Trouble, TroubleKind
from airflow_pipesec.errors import PipesecError, place_of
from airflow_pipesec.pipeline import Kind, Node, Pipeline
from airflow_pipesec.survey import Progress, Shape, looked_at, measured

__all__ = ["survey_apart"]

PATIENCE = 0.2  # seconds between two looks at whether the child still is
_NODE = [field.name for field in fields(Node)]


def survey_apart(
    folder: str | PathLike[str],
    plan: str | None = None,
    environment: str | None = None,
    *,
    only: Collection[str] = (),
    bar: Callable[[], AbstractContextManager[Progress | None]] = nullcontext,
) -> Survey:
    """Measure as :func:`airflow_pipesec.survey.survey` does, and run the files in a child process.

    A child that ends early is trouble of the file that it ran. What the files print goes to standard error.

    :param bar: makes what progress is told to. It is made after the fork: it may have a thread, and a fork wants none.
    """
    # A name for what comes from the end of the child's own work, and not from a file that found the pipe by chance.
    token = secrets.token_hex(16)

    def work(say: Callable[..., None]) -> None:
        try:
            shapes, troubles = looked_at(
                folder,
                plan,
                environment,
                only=only,
                progress=lambda files, size, total: say(token, "read", total),
                begins=lambda file: say(token, "begins", file),
                home=home,
            )
        except PipesecError as error:
            say(token, "refused", str(error))
        except Exception as error:
            say(token, "refused", f"{place_of(error)}: this should not happen, please report it")
        else:
            say(token, "found", [_told(shape) for shape in shapes], [trouble.document() for trouble in troubles])

    with _home() as home:
        child = _Child(work)
        try:
            with bar() as progress:
                kind, told, file = _heard(child, token, progress)
        finally:
            child.close()
    if kind == "refused":
        raise PipesecError(told[0])
    if kind == "found" and child.code in (0, None):
        return measured(folder, map(_shape, told[0]), map(_trouble, told[1]))
    return Survey(str(folder), (), (Trouble(TroubleKind.NOT_PARSED, _why(child, file), file or str(folder)),))


def _why(child: _Child, file: str | None) -> str:
    how = "how is not known"
    if child.code is not None:
        how = f"exit code {child.code}" if child.code >= 0 else _signal(-child.code)
    when = "that ran this file" if file is not None else "that runs the files"
    return (
        f"the process {when} ended ({how}) and did not say what it found. Look for what ends a process (os._exit, a signal, "
        "too little memory) here and in what is imported"
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _heard(child: _Child, token: str, progress: Progress | None) -> tuple[str, list[Any], str | None]:
    """Listen until the child has said its last word or is gone. Returns that word, if any, and the file that it was at."""
    file = None
    for line in child.lines():
        try:
            name, kind, *told = json.loads(line)
        except (ValueError, TypeError):  # a DAG file wrote there
            continue
        if name != token:
            continue
        if kind == "begins":
            file = str(told[0])
        elif kind == "read":
            if progress is not None:
                progress(1, 0, told[0])
        else:
            child.over()
            return kind, told, file
    child.over()
    return "", [], file


class _Child:
    """A forked process with a pipe that it says lines of JSON through."""

    def __init__(self, work: Callable[[Callable[..., None]], None]) -> None:
        self.code: int | None = None
        self._gone = False
        self._line, out = os.pipe()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()  # or the child would write it too
        with warnings.catch_warnings():
            # From Python 3.12 on forking beside other threads warns. The command line has none yet.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            os.close(self._line)
            _run(work, out)
        os.close(out)

    def lines(self) -> Iterator[bytes]:
        """Yield what it says, until it is gone. Others that it started may hold the pipe open for longer."""
        rest = b""
        while True:
            if not wait([self._line], PATIENCE):
                if self._gone:
                    return
                self.over(os.WNOHANG)
                continue
            part = os.read(self._line, 1 << 16)
            if not part:
                return
            if b"\n" in part:
                *whole, part = (rest + part).split(b"\n")
                yield from whole
                rest = part
            else:
                rest += part

    def over(self, flags: int = 0) -> bool:
        """Whether it has ended; waits for that unless told otherwise."""
        if not self._gone:
            try:
                pid, status = os.waitpid(self._pid, flags)
            except ChildProcessError:  # where SIGCHLD is ignored, the kernel has buried it
                self._gone = True
            else:
                if pid:
                    self._gone, self.code = True, os.waitstatus_to_exitcode(status)
        return self._gone

    def close(self) -> None:
        """End it if it has not ended."""
        os.close(self._line)
        if not self.over(os.WNOHANG):
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self.over()


def _run(work: Callable[[Callable[..., None]], None], out: int) -> NoReturn:
    code = 1
    try:
        out = fcntl.fcntl(out, fcntl.F_DUPFD_CLOEXEC, 3)  # it may be 1, where that was closed
        with suppress(ValueError):  # not in a thread
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what the parent does about it is the parent's
        _nothing_on_stdout()
        own = os.getpid()

        def say(*words: Any) -> None:
            data = json.dumps(words).encode() + b"\n"
            while data and os.getpid() == own:  # a file may fork, and its child come here too
                data = data[os.write(out, data) :]

        work(say)
        with suppress(Exception):
            sys.stderr.flush()
        code = 0
    finally:
        os._exit(code)  # whatever was raised, and whatever threads and handlers the files left behind


def _nothing_on_stdout() -> None:
    """Let what Airflow logs and what DAG files print go to standard error: standard output is for the answer."""
    if sys.stderr is None:
        sys.stderr = io.StringIO()
    sys.stdout = sys.stderr
    try:
        os.dup2(2, 1)
    except OSError:  # closed by whoever started us
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@contextmanager
def _home() -> Iterator[str | None]:
    """Make an empty home for the child's Airflow where there is none. The child may be killed: it cannot be what removes it."""
    if "AIRFLOW_HOME" in os.environ or "airflow" in sys.modules:
        yield None
        return
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="pipesec-airflow-", ignore_cleanup_errors=True) as home:
        yield home


def _told(shape: Shape) -> dict[str, Any]:
    pipeline = shape.pipeline
    nodes = [{name: getattr(node, name) for name in _NODE} for node in pipeline.nodes.values()]
    return {"dag_id": pipeline.dag_id, "nodes": nodes, "exempt": dict(shape.exempt), "file": shape.file}


def _shape(told: dict[str, Any]) -> Shape:
    nodes = {node["id"]: Node(**(node | {"kind": Kind(node["kind"])} | _tuples(node))) for node in told["nodes"]}
    return Shape(Pipeline(told["dag_id"], nodes), told["exempt"], told["file"])


def _tuples(node: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) for name, value in node.items() if isinstance(value, list)}


def _trouble(told: dict[str, Any]) -> Trouble:
    return Trouble(**(told | {"kind": TroubleKind(told["kind"])}))
