"""Runs one operator through Airflow's own task runner, in this process and without a database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

DAG_VERSION = UUID("01900000-0000-7000-8000-000000000000")


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

    def __init__(self, first_reschedule: datetime | None, instances: int) -> None:
        self.sent: list[Any] = []
        self.instances = instances
        self.first_reschedule = first_reschedule

    def send(self, msg: Any) -> Any:
        from airflow.sdk.execution_time import comms

        self.sent.append(msg)
        if isinstance(msg, comms.GetTaskRescheduleStartDate):
            return comms.TaskRescheduleStartDate(start_date=self.first_reschedule)
        if isinstance(msg, comms.GetConnection | comms.GetVariable):
            kind = "CONNECTION" if isinstance(msg, comms.GetConnection) else "VARIABLE"
            return comms.ErrorResponse(error=getattr(comms.ErrorType, f"{kind}_NOT_FOUND"), detail={})
        if isinstance(msg, comms.GetTICount):
            return comms.TICount(count=0 if msg.map_index == -1 else self.instances)
        return comms.OKResponse(ok=True)


RunTask = Callable[..., Ran]


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
    try_number: int = 1,
    instances: int = 1,
    dag_version: Any = DAG_VERSION,
) -> Ran:
    """Run a task as a worker does, and return what it told the supervisor."""
    import structlog
    from airflow.sdk import DAG
    from airflow.sdk.api.datamodels._generated import DagRun, DagRunState, DagRunType, TIRunContext
    from airflow.sdk.execution_time import task_runner
    from uuid6 import uuid7

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
        try_number=try_number,
        dag_version_id=dag_version,
        map_index=map_index,
        hostname="here",
        task=task,
        bundle_instance=None,
        max_tries=3,
        start_date=now,
        _ti_context_from_server=server,
    )
    instance._ti_context_from_server = server
    supervisor = _Supervisor(first_poke, instances)
    task_runner.SUPERVISOR_COMMS = supervisor  # type: ignore[assignment] # it answers what a guard asks
    state, message, error = task_runner.run(instance, instance.get_template_context(), structlog.get_logger("task"))
    xcoms = {sent.key: sent.value for sent in supervisor.sent if type(sent).__name__ == "SetXCom"}
    skipped = [name for sent in supervisor.sent if type(sent).__name__ == "SkipDownstreamTasks" for name in sent.tasks]
    return Ran(str(getattr(state, "value", state)), error, message, xcoms, skipped)
