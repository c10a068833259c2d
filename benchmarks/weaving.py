"""What secure() costs while a DAG is parsed: a chain of a thousand stages with one and with two guards each, in CPU time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from benchmarks.hashing import show_goals

STAGES = 1000
RUNS = 5
GUARD = {"guard": "HashVerificationOperator", "root": "/data/${stage}", "manifest": "/data/${stage}.json"}
ONE: dict[str, Any] = {"version": 1, "stages": [{"task": "*", "before": [GUARD]}]}
TWO: dict[str, Any] = {"version": 1, "stages": [{"task": "*", "before": [GUARD], "after": [GUARD]}]}


def parsed() -> Any:
    """A DAG as its file makes it."""
    from airflow.sdk import DAG, BaseOperator

    with DAG("chain", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        last = BaseOperator(task_id="stage_0")
        for number in range(1, STAGES):
            this = BaseOperator(task_id=f"stage_{number}")
            last >> this
            last = this
    return dag


def woven(plan: dict[str, Any]) -> Any:
    from airflow_pipesec import secure

    dag = parsed()
    secure(dag, plan)
    return dag


def best(work: Callable[[Any], object], prepare: Callable[[], Any] = lambda: None) -> float:
    """The least milliseconds of CPU of several runs, after one to warm up. What is prepared is not counted."""
    found = []
    for _ in range(RUNS + 1):
        prepared = prepare()
        gc.collect()
        start = time.process_time()
        work(prepared)
        found.append((time.process_time() - start) * 1000)
    return min(found[1:])


def main() -> None:
    from airflow_pipesec import secure

    console = Console(width=max(100, Console().width))
    console.print(f"a chain of {STAGES} stages, CPU time, best of {RUNS}: parsed with no guard {best(lambda _: parsed()):.0f} ms")
    goals = []
    for guards, plan in (("one guard", ONE), ("two guards", TWO)):
        whole = best(lambda _, plan=plan: woven(plan))
        added = best(lambda dag, plan=plan: secure(dag, plan), parsed)
        again = best(lambda dag, plan=plan: secure(dag, plan), lambda plan=plan: woven(plan))
        console.print(f"{guards} for each: parsed and woven {whole:.0f} ms, weaving {added:.0f} ms, weaving again {again:.0f} ms")
        if plan is ONE:
            goals.append((f"weaving {STAGES} stages with one guard each, ms", added, "< 100", added < 100))
    show_goals(goals, console)


if __name__ == "__main__":
    main()
