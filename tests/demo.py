"""``make demo``: two pipelines run clean, then under each attack, in a real Airflow; ``make ui`` leaves it running.

The guards of one are written in its DAG; the other's DAG knows of none, and Airflow adds those of a plan. ``python -m tests.demo
run`` exits 0 only if the clean runs succeeded as a whole and each attack was stopped by the guard made for it, with no task below
that guard run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.stack import BIN, USER, Say, Stack, StackError

PROJECT = Path(__file__).resolve().parent.parent
HOME = PROJECT / ".demo"
DAGS = PROJECT / "dags"
# The organisation's plan: it means the plain DAG, and lets others be.
PLAN = DAGS / "example_plain_training.plan.yaml"


@dataclass(frozen=True, eq=False)
class Example:
    """A DAG, where its guards come from, what stops each attack on it, and the guard that is called a success by hand."""

    dag_id: str
    guards: str
    guard_against: Mapping[str, str | None]
    forged: str


GUARDED = Example(
    "example_secure_training",
    "guards written in the DAG",
    {
        "none": None,
        "tampered_data": "verify_raw",
        "invalid_rows": "validate_rows",
        "malicious_model": "scan_model",
        "swapped_model": "verify_model",
        "swap_after_check": "evaluate",
        "plaintext_storage": "encrypted_at_rest",
        "unauthorized_user": "may_deploy",
        "marked_success": "release_gate",
    },
    "may_deploy",
)
WOVEN = Example(
    "example_plain_training",
    "guards woven from a plan",
    {
        "none": None,
        "tampered_data": "before_preprocess.verify",
        "invalid_rows": "before_train.validate",
        "malicious_model": "before_evaluate.scan",
        "swapped_model": "before_evaluate.verify",
        "swap_after_check": "before_deploy.release_gate",
        "plaintext_storage": "before_deploy.encrypted_at_rest",
        "unauthorized_user": "before_deploy.may_deploy",
        "marked_success": "before_deploy.release_gate",
    },
    "before_deploy.may_deploy",
)
EXAMPLES = (GUARDED, WOVEN)
ATTACKS = tuple(GUARDED.guard_against)
Run = tuple[Example, str]
# Who may trigger and deploy, who may trigger alone, and the account that asks Airflow about them.
DEPLOYER, TRAINEE, SERVICE = "olga", "uma", "service"
USERS = {DEPLOYER: "op", TRAINEE: "user", SERVICE: "op"}
# A guard fails, and is called a success by hand, as whoever may edit a task instance can.
FORGERY = "marked_success"
FINISHED = ("success", "failed")
RUN_LIMIT = 600
QUIET = 5.0  # seconds between two lines of progress where there is no terminal


class Result(NamedTuple):
    """How one run went."""

    expected: str | None
    stopped_by: tuple[str, ...]
    ran_below: tuple[str, ...]
    seconds: float
    problem: str

    @property
    def good(self) -> bool:
        """Whether it went as it should."""
        return not self.problem


def judge(stack: Stack, example: Example, attack: str, run_id: str) -> Result:
    """Look at the states of a finished run's tasks, not only at the run's own."""
    dag_id, expected = example.dag_id, example.guard_against[attack]
    run = stack.run_of(dag_id, run_id)
    tasks = stack.tasks_of(dag_id, run_id)
    failed = tuple(sorted(task_id for task_id, task in tasks.items() if task["state"] == "failed"))
    below = stack.downstream_of(dag_id, expected) if expected else set()
    # A task that never ran has no process; Airflow gives it dates all the same.
    ran_below = tuple(
        sorted(name for name in below if tasks[name]["state"] not in (None, "upstream_failed") or tasks[name]["pid"] is not None)
    )
    others = {task_id: task["state"] for task_id, task in tasks.items() if task_id not in below and task_id != expected}
    not_done = sorted(f"{task_id} is {state}" for task_id, state in others.items() if state != "success")
    problem = ""
    if failed != ((expected,) if expected else ()):
        problem = f"failed: {', '.join(failed) or 'nothing'}"
    elif ran_below:
        problem = f"ran below the guard: {', '.join(ran_below)}"
    elif not_done:
        problem = "; ".join(not_done)
    elif run["state"] != ("failed" if expected else "success"):
        problem = f"the run is {run['state']}"
    return Result(expected, failed, ran_below, float(run["duration"] or 0), problem)


@contextmanager
def only_one(home: Path) -> Iterator[Path]:
    """Empty the demonstration's folder, unless another demonstration is using it."""
    home.mkdir(exist_ok=True)
    lock = (home / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise SystemExit(f"another demonstration is running in {home}; end it first") from None
    try:
        shutil.rmtree(home / "airflow", ignore_errors=True)
        yield home / "airflow"
    finally:
        lock.close()


def example_stack(home: Path, say: Say) -> Stack:
    """Return an Airflow, not started yet, with what the examples need: users, a key, a service account, and the plan."""
    from airflow_pipesec.age import new_identity

    stack = Stack(home, DAGS, say=say, users=USERS)
    identity = new_identity()
    account = {"conn_type": "http", "host": "127.0.0.1", "port": stack.port, "schema": "http"}
    account |= {"login": SERVICE, "password": stack.passwords[SERVICE]}
    stack.environment |= {
        "AIRFLOW_CONN_AIRFLOW_API": json.dumps(account),
        "AIRFLOW_CONN_PIPESEC_EXAMPLE_KEY": json.dumps({"conn_type": "generic", "password": identity.reveal()}),
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_DATA": stack.environment["PIPESEC_EXAMPLE_DATA"],
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_RECIPIENT": str(identity.recipient),
        "AIRFLOW__PIPESEC__PLAN_URL": str(PLAN),
    }
    return stack


def greet(console: Console, stack: Stack) -> None:
    """Say where to look and how to sign in."""
    console.print("\nWatch it in a browser:", highlight=False)
    for example in EXAMPLES:
        console.print(f"  {stack.url}/dags/{example.dag_id}", highlight=False, soft_wrap=True)
    console.print(f"  {stack.url}/plugin/pipesec (the security pages)", highlight=False, soft_wrap=True)
    console.print(f"User {USER}, password {stack.password} (only reachable from this machine)", highlight=False, markup=False)
    roles = {DEPLOYER: "a role that may deploy", TRAINEE: "one that may not"}
    also = "; ".join(f"{user}, {stack.passwords[user]} ({role})" for user, role in roles.items())
    console.print(f"Or as {also}\n", highlight=False, markup=False, soft_wrap=True)


def show_coverage(console: Console, stack: Stack) -> None:
    """Ask the command line what of the plain DAG is guarded: as its author wrote it, and with the plan."""
    ask = ["pipesec", "coverage", str(DAGS.relative_to(PROJECT)), "--dag", WOVEN.dag_id, "--fail-under", "0"]
    # Without the organisation's plan, which would be woven into the DAG before anybody could look at it.
    alone = {name: value for name, value in stack.environment.items() if name != "AIRFLOW__PIPESEC__PLAN_URL"}
    alone |= {"COLUMNS": str(console.width), "PYTHONWARNINGS": "ignore::DeprecationWarning"}  # of Airflow's own, about Airflow
    for more in ([], ["--plan", str(PLAN.relative_to(PROJECT))]):
        console.print(f"\n$ {' '.join([*ask, *more])}", highlight=False, markup=False, soft_wrap=True)
        done = subprocess.run([str(BIN / ask[0]), *ask[1:], *more], cwd=PROJECT, env=alone, check=False)
        if done.returncode != 0:
            raise StackError(f"pipesec coverage ended with code {done.returncode}")
    console.print()


def run_all(console: Console, stack: Stack) -> dict[Run, Result]:
    """Trigger the clean run and every attack of each DAG, show how far they are, and judge each when it is over."""
    # The last two are nothing that the DAG does: it is who triggers it, and what that person does next.
    running: dict[Run, str] = {
        (example, attack): stack.trigger(example.dag_id, user=TRAINEE, attack="none")
        if attack in ("unauthorized_user", FORGERY)
        else stack.trigger(example.dag_id, user=DEPLOYER, attack=attack)
        for attack in ATTACKS
        for example in EXAMPLES
    }
    results: dict[Run, Result] = {}
    forged: set[Example] = set()
    end = time.monotonic() + RUN_LIMIT
    shown = time.monotonic()

    def tell(run: Run, what: str) -> None:
        console.print(f"  {run[0].dag_id}, attack {run[1]}: {what}", highlight=False, soft_wrap=True)

    with console.status("starting the runs") as status:
        while unfinished := [run for run in running if run not in results]:
            if time.monotonic() > end:
                names = ", ".join(f"{attack} of {example.dag_id}" for example, attack in unfinished)
                raise StackError(f"after {RUN_LIMIT} s these runs are not over: {names}")
            for run in unfinished:
                example, attack = run
                if stack.run_of(example.dag_id, running[run])["state"] not in FINISHED:
                    continue
                if attack == FORGERY and example not in forged:
                    stack.mark(example.dag_id, running[run], example.forged, "success", user=TRAINEE)
                    forged.add(example)
                    tell(run, f"{example.forged} failed, and {TRAINEE} calls it a success by hand")
                    continue
                results[run] = result = judge(stack, example, attack, running[run])
                what = f"stopped by {', '.join(result.stopped_by)}" if result.stopped_by else "ran to its end"
                tell(run, f"{what} after {result.seconds:.0f} s")
            line = f"{len(results)} of {len(running)} runs are over"
            status.update(line)
            if not console.is_terminal and time.monotonic() - shown >= QUIET:
                print(f"  {line}", flush=True)
                shown = time.monotonic()
            time.sleep(1.5)
    return results


def table_of(results: Mapping[Run, Result]) -> Table:
    """Draw the results, the DAGs side by side; words carry the meaning, colour only helps."""
    table = Table(title="Two pipelines under attack, and what stopped it", title_justify="left")
    table.add_column("attack")
    for example in EXAMPLES:
        table.add_column(f"{example.dag_id}\n{example.guards}")
    table.add_column("tasks run\nbelow it", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("as expected")
    for attack in ATTACKS:
        both = [results[example, attack] for example in EXAMPLES]
        problems = [
            f"{example.dag_id}: {result.problem}; expected: {result.expected or 'all pass'}"
            for example, result in zip(EXAMPLES, both, strict=True)
            if not result.good
        ]
        table.add_row(
            attack,
            *(", ".join(result.stopped_by) or "nobody" for result in both),
            ", ".join(str(len(result.ran_below)) if result.expected else "-" for result in both),
            ", ".join(f"{result.seconds:.0f}" for result in both),
            f"[bold red]NO[/bold red]: {'. '.join(problems)}" if problems else "[green]yes[/green]",
        )
    return table


def main() -> int:
    """Run the demonstration, or leave Airflow running to play with."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("command", choices=["run", "ui"])
    command = parser.parse_args().command
    console = Console()
    if not console.is_terminal:
        console.width = 120
    started = time.monotonic()
    # make, and whoever stops a terminal, send this: leave by way of the finally blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - started:5.0f} s  {what}", highlight=False)

    try:
        with only_one(HOME) as home, example_stack(home, say) as stack:
            if command == "run":
                show_coverage(console, stack)
            for example in EXAMPLES:
                stack.wait_for_dag(example.dag_id)
            say("Airflow is ready")
            greet(console, stack)
            if command == "ui":
                console.print("Trigger a DAG, choose an attack, look at the failed guard's log. Ctrl-C ends Airflow.")
                while True:
                    for name, process in stack.processes.items():
                        if process.poll() is not None:
                            raise StackError(f"{name} ended with code {process.returncode}:\n{stack.tail(name)}")
                    time.sleep(2)
            results = run_all(console, stack)
            say("stopping Airflow")
    except StackError as error:
        console.print(f"The demonstration broke off: {error}", markup=False, highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print("\nstopped")
        return 0 if command == "ui" else 130
    console.print(table_of(results))
    good = all(result.good for result in results.values())
    console.print(
        f"Every attack was stopped by the guard made for it, in {time.monotonic() - started:.0f} s."
        if good
        else "Not everything went as expected: see the table."
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
