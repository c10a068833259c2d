"""Shared by all tests: one AIRFLOW_HOME for the run, a task runner in this process, and real servers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
# Before anything imports Airflow, which reads its configuration then.
_HOME = Path(tempfile.mkdtemp(prefix="pipesec-airflow-"))
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_", "GX_"))]:
    if _name != "AWS_CA_BUNDLE":
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "PIPESEC_EXAMPLE_DATA": str(_HOME / "data"),
}

import pytest  # noqa: E402 - Airflow's settings come first
from hypothesis import settings  # noqa: E402 - as above

from tests.servers import S3Server, postgresql, seaweedfs  # noqa: E402 - as above
from tests.stack import Stack  # noqa: E402 - as above

settings.register_profile("default", deadline=None, database=None)
settings.register_profile("ci", deadline=None, database=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """The run's Airflow database, made when the first test asks for it."""
    import subprocess
    import sys

    command = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _HOME


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    with postgresql() as uri:
        yield uri


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API server with the SimpleAuthManager: vera may look, uma may trigger, olga and the service account are operators."""
    users = {"vera": "viewer", "uma": "user", "olga": "op", "service": "op"}
    with Stack(tmp_path_factory.mktemp("simple") / "home", PROJECT / "dags", users=users, runs_dags=False) as stack:
        yield stack


@dataclass
class Ran:
    """What a task's run told Airflow's supervisor."""

    state: str
    error: BaseException | None
    message: Any
    xcoms: dict[str, Any]
    skipped: list[str]

    @property
    def summary(self) -> dict[str, Any]:
        """The guard's summary XCom."""
        value = self.xcoms["return_value"]
        assert isinstance(value, dict)
        return value


class _Supervisor:
    """Stands at the other end of the task runner's line: keeps what is sent, knows no connection and no XCom."""

    def __init__(self, first_reschedule: datetime | None) -> None:
        self.sent: list[Any] = []
        self.first_reschedule = first_reschedule

    def send(self, msg: Any) -> Any:
        from airflow.sdk.execution_time import comms

        self.sent.append(msg)
        if isinstance(msg, comms.GetTaskRescheduleStartDate):
            return comms.TaskRescheduleStartDate(start_date=self.first_reschedule)
        if isinstance(msg, comms.GetConnection | comms.GetVariable):
            kind = "CONNECTION" if isinstance(msg, comms.GetConnection) else "VARIABLE"
            return comms.ErrorResponse(error=getattr(comms.ErrorType, f"{kind}_NOT_FOUND"), detail={})
        return comms.OKResponse(ok=True)


RunTask = Callable[..., Ran]


@pytest.fixture
def run_task(monkeypatch: pytest.MonkeyPatch) -> RunTask:
    """Run one operator through Airflow's own task runner, in this process and without a database."""
    import structlog
    from airflow.sdk import DAG
    from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TIRunContext
    from airflow.sdk.execution_time import task_runner
    from uuid6 import uuid7

    def run(
        task: Any,
        *,
        retries_left: bool = True,
        map_index: int = -1,
        conf: dict[str, Any] | None = None,
        first_poke: datetime | None = None,
        user: str | None = None,
        run_type: str = "manual",
        cleared: int = 0,
    ) -> Ran:
        if not task.has_dag():
            DAG("test_dag", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)).add_task(task)
        now = datetime.now(UTC)
        dag_run = DagRun(
            dag_id=task.dag_id,
            run_id="test_run",
            logical_date=now,
            data_interval_start=now,
            data_interval_end=now,
            run_after=now,
            start_date=now,
            end_date=None,
            run_type=DagRunType(run_type),
            triggering_user_name=user,
            clear_number=cleared,
            state=DagRunState.RUNNING,
            conf=conf or {},
            consumed_asset_events=[],
            partition_key=None,
        )
        server = TIRunContext(
            dag_run=dag_run, max_tries=3, should_retry=retries_left, task_reschedule_count=int(first_poke is not None)
        )
        instance = task_runner.RuntimeTaskInstance.model_construct(
            id=uuid7(),
            task_id=task.task_id,
            dag_id=task.dag_id,
            run_id="test_run",
            try_number=1,
            dag_version_id=uuid7(),
            map_index=map_index,
            hostname="here",
            task=task,
            bundle_instance=None,
            max_tries=3,
            start_date=now,
            _ti_context_from_server=server,
        )
        instance._ti_context_from_server = server
        supervisor = _Supervisor(first_poke)
        monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", supervisor, raising=False)
        state, message, error = task_runner.run(instance, instance.get_template_context(), structlog.get_logger("task"))
        xcoms = {sent.key: sent.value for sent in supervisor.sent if type(sent).__name__ == "SetXCom"}
        skipped = [name for sent in supervisor.sent if type(sent).__name__ == "SkipDownstreamTasks" for name in sent.tasks]
        return Ran(str(getattr(state, "value", state)), error, message, xcoms, skipped)

    return run
