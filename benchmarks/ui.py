"""What the security pages cost on a large database, beside Airflow's own list of DAGs: 500 DAGs of 20 runs, on two databases.

Each database is made, filled and asked in a process of its own. Pages are asked for in process, as the API server answers them:
no network, and nobody else asks. ``python -m benchmarks.ui [DAGS [RUNS]]`` for another size.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from benchmarks.hashing import show_goals

DAGS, RUNS = 500, 20
GOAL = 300  # ms
ASKED = 20  # times for each path, after the first
PEER = "/ui/dags?limit=50&offset=0&dag_runs_limit=14&exclude_stale=true&order_by=-last_run_start_date"  # Airflow's own list
PAGE = "/pipesec/overview"
# {dag} is one of them, {run} its last run.
PATHS = [
    PEER,
    PAGE,
    f"{PAGE}?q=churn",
    f"{PAGE}?sort=coverage",
    f"{PAGE}?page=10",
    "/ui/grid/structure/{dag}",
    "/pipesec/dag?dag_id={dag}",
    "/api/v2/dags/{dag}/dagRuns/{run}/taskInstances",
    "/pipesec/run?dag_id={dag}&run_id={run}",
    "/pipesec/verdict?dag_id={dag}&run_id={run}",
]


def main(*size: str) -> None:
    console = Console(width=max(120, Console().width))
    dags, runs = (int(given) for given in [*size, *map(str, (DAGS, RUNS)[len(size) :])])
    goals: list[tuple[str, float, str, bool]] = []
    for name in ("SQLite", "PostgreSQL"):
        with _database(name) as (home, uri):
            if uri is None:
                console.print(f"{name} is not installed here, and not measured")
                continue
            found = _child(home, uri, dags, runs)
        goals += _show(name, found, console)
    if goals:
        show_goals(goals, console)


@contextmanager
def _database(name: str) -> Iterator[tuple[Path, str | None]]:
    import pytest

    from tests.servers import postgresql

    home = Path(tempfile.mkdtemp(prefix="pipesec-bench-"))
    try:
        if name == "SQLite":
            yield home, f"sqlite:///{home}/airflow.db"
            return
        server = postgresql()
        try:
            uri = server.__enter__()
        except pytest.skip.Exception:
            yield home, None
            return
        try:
            yield home, uri
        finally:
            server.__exit__(None, None, None)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _child(home: Path, uri: str, dags: int, runs: int) -> dict[str, Any]:
    """Measure one database in a process that has an Airflow of its own."""
    from airflow_pipesec.signing import entry_of, new_private_key

    signer = new_private_key(home / "signing.pem")
    entry = entry_of(signer.public_key, name="bench", valid_from=datetime.now(UTC) - timedelta(days=30))
    (home / "trusted-keys.yaml").write_text(entry)
    (home / "dags").mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    environment |= {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(16),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": uri,
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
        "AIRFLOW__PIPESEC__EVIDENCE_URL": str(home / "evidence"),
        "AIRFLOW__PIPESEC__SIGNING_KEY": f"file:{home}/signing.pem",
        "AIRFLOW__PIPESEC__TRUSTED_KEYS": str(home / "trusted-keys.yaml"),
    }
    migrate = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    # What fills it leaves much in memory that an API server would not have there.
    fill, ask = ([sys.executable, "-m", "benchmarks.ui", step, str(home), str(dags), str(runs)] for step in ("--fill", "--ask"))
    for command in (migrate, fill, ask):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads((home / "filled.json").read_text()) | json.loads((home / "asked.json").read_text())
    return found


def _show(name: str, found: dict[str, Any], console: Console) -> list[tuple[str, float, str, bool]]:
    title = f"{name}: {found['size']}, filled in {found['filled']:.0f} s; asked once, then {ASKED} times"
    table = Table(title=title, title_justify="left")
    for column in ("GET", "status", "first ms", "median ms", "worst ms", "SQL", "KB"):
        table.add_column(column, justify="left" if column == "GET" else "right")
    medians: dict[str, float] = {}
    for path in PATHS:
        one = found["paths"][path]
        if one["status"] != 200:
            table.add_row(path, str(one["status"]), "", "", "", "", "")
            continue
        medians[path] = statistics.median(one["warm"])
        times = (one["cold"], medians[path], max(one["warm"]))
        table.add_row(path, "200", *(f"{value:.0f}" for value in times), str(one["statements"]), f"{one['bytes'] / 1024:.0f}")
    console.print(table)
    if PAGE not in medians:
        return []
    return [
        (f"{name}: {PAGE}, median, ms", medians[PAGE], f"< {GOAL}", medians[PAGE] < GOAL),
        (f"{name}: {PAGE}, the first, ms", found["paths"][PAGE]["cold"], f"< {GOAL}", found["paths"][PAGE]["cold"] < GOAL),
    ]


def fill(home: Path, dags: int, runs: int) -> None:
    """Fill the database that the configuration names."""
    from tests.airflow_world import populate

    began = time.monotonic()
    populate(dags, runs)
    (home / "filled.json").write_text(json.dumps({"filled": time.monotonic() - began, "size": _size()}))


def ask(home: Path) -> None:
    """Ask for each page, as an administrator."""
    from airflow.api_fastapi.app import create_app, get_auth_manager
    from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
    from starlette.testclient import TestClient

    named = _last_run()
    with TestClient(create_app("core"), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        token = get_auth_manager().generate_jwt(SimpleAuthManagerUser(username="admin", role="admin"))
        client.headers["Authorization"] = f"Bearer {token}"
        assert client.get("/api/v2/dags/none").status_code == 404  # loads what every question of the database needs
        statements = _counter()
        paths: dict[str, dict[str, Any]] = {}
        for path in PATHS:
            url = path.format_map(named)
            took, answer = _timed(client, url)
            paths[path] = {"status": answer.status_code, "cold": took, "bytes": len(answer.content)}
            if answer.status_code == 200:
                before = len(statements)
                took, _ = _timed(client, url)
                paths[path] |= {"statements": len(statements) - before}
                paths[path] |= {"warm": [took, *(_timed(client, url)[0] for _ in range(ASKED - 1))]}
    (home / "asked.json").write_text(json.dumps({"paths": paths}))


def _timed(client: Any, path: str) -> tuple[float, Any]:
    began = time.perf_counter()
    answer = client.get(path, follow_redirects=False)
    return (time.perf_counter() - began) * 1000, answer


def _counter() -> list[str]:
    """Return a list that grows by each statement that is sent to the database."""
    from airflow import settings
    from sqlalchemy import event

    sent: list[str] = []
    engines: list[Any] = [settings.engine]
    if (asynchronous := getattr(settings, "async_engine", None)) is not None:
        engines.append(asynchronous.sync_engine)
    for engine in engines:
        event.listen(engine, "before_cursor_execute", lambda conn, cursor, statement, *_: sent.append(statement))
    return sent


def _last_run() -> dict[str, str]:
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        dag_id = session.scalar(select(DagRun.dag_id).order_by(DagRun.dag_id).limit(1))
        run_id = session.scalar(select(DagRun.run_id).where(DagRun.dag_id == dag_id).order_by(DagRun.id.desc()).limit(1))
    return {"dag": quote(str(dag_id)), "run": quote(str(run_id))}


def _size() -> str:
    from airflow.models.dag import DagModel
    from airflow.models.dagrun import DagRun
    from airflow.models.log import Log
    from airflow.models.taskinstance import TaskInstance
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import func, select

    named: list[tuple[str, Any]] = [("DAGs", DagModel), ("runs", DagRun), ("task instances", TaskInstance)]
    named += [("XComs", XComModel), ("log entries", Log)]
    with create_session() as session:
        counts = [(session.scalar(select(func.count()).select_from(model)), name) for name, model in named]
    return ", ".join(f"{number:,} {name}" for number, name in counts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--fill"]:
        fill(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--ask"]:
        ask(Path(sys.argv[2]))
    else:
        main(*sys.argv[1:])
