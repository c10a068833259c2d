"""``make demo``: a guarded pipeline runs clean, then under each attack, in a real Airflow; ``make ui`` leaves it running.

``python -m tests.demo run`` exits 0 only if the clean run succeeded as a whole and each attack was stopped by the guard made for
it, with no task below that guard run.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from tests.stack import USER, Say, Stack, StackError

PROJECT = Path(__file__).resolve().parent.parent
HOME = PROJECT / ".demo"
DAG = "example_secure_training"
GUARD_AGAINST = {
    "none": None,
    "tampered_data": "verify_raw",
    "invalid_rows": "validate_rows",
    "swapped_model": "verify_model",
    "swap_after_check": "evaluate",
    "plaintext_storage": "encrypted_at_rest",
    "unauthorized_user": "may_deploy",
    "marked_success": "release_gate",
}
# Who may trigger and deploy, who may trigger alone, and the account that asks Airflow about them.
DEPLOYER, TRAINEE, SERVICE = "olga", "uma", "service"
USERS = {DEPLOYER: "op", TRAINEE: "user", SERVICE: "op"}
# This guard fails, and is called a success by hand, as whoever may edit a task instance can.
FORGERY, FORGED = "marked_success", "may_deploy"
FINISHED = ("success", "failed")
RUN_LIMIT = 240
QUIET = 5.0  # seconds between two lines of progress where there is no terminal


class Result(NamedTuple):
    """How one run went."""

    attack: str
    expected: str | None
    stopped_by: tuple[str, ...]
    ran_below: tuple[str, ...]
    seconds: float
    problem: str

    @property
    def good(self) -> bool:
        """Whether it went as it should."""
        return not self.problem


def judge(stack: Stack, attack: str, run_id: str) -> Result:
    """Look at the states of a finished run's tasks, not only at the run's own."""
    expected = GUARD_AGAINST[attack]
    run = stack.run_of(DAG, run_id)
    tasks = stack.tasks_of(DAG, run_id)
    failed = tuple(sorted(task_id for task_id, task in tasks.items() if task["state"] == "failed"))
    below = stack.downstream_of(DAG, expected) if expected else set()
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
    return Result(attack, expected, failed, ran_below, float(run["duration"] or 0), problem)


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
    """Return an Airflow, not started yet, with what the example needs: users, a key, and a service account."""
    from airflow_pipesec.age import new_identity

    stack = Stack(home, PROJECT / "dags", say=say, users=USERS)
    identity = new_identity()
    account = {"conn_type": "http", "host": "127.0.0.1", "port": stack.port, "schema": "http"}
    account |= {"login": SERVICE, "password": stack.passwords[SERVICE]}
    stack.environment |= {
        "AIRFLOW_CONN_AIRFLOW_API": json.dumps(account),
        "AIRFLOW_CONN_PIPESEC_EXAMPLE_KEY": json.dumps({"conn_type": "generic", "password": identity.reveal()}),
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_RECIPIENT": str(identity.recipient),
    }
    return stack


def greet(console: Console, stack: Stack) -> None:
    """Say where to look and how to sign in."""
    console.print(f"\nWatch it in a browser: {stack.url}/dags/{DAG}", highlight=False, soft_wrap=True)
    console.print(f"User {USER}, password {stack.password} (only reachable from this machine)", highlight=False, markup=False)
    roles = {DEPLOYER: "a role that may deploy", TRAINEE: "one that may not"}
    also = "; ".join(f"{user}, {stack.passwords[user]} ({role})" for user, role in roles.items())
    console.print(f"Or as {also}\n", highlight=False, markup=False, soft_wrap=True)


def run_all(console: Console, stack: Stack) -> list[Result]:
    """Trigger the clean run and every attack, show how far they are, and judge each when it is over."""
    # The last two are nothing that the DAG does: it is who triggers it, and what that person does next.
    running = {
        attack: stack.trigger(DAG, user=TRAINEE, attack="none")
        if attack in ("unauthorized_user", FORGERY)
        else stack.trigger(DAG, user=DEPLOYER, attack=attack)
        for attack in GUARD_AGAINST
    }
    results: dict[str, Result] = {}
    forged = False
    end = time.monotonic() + RUN_LIMIT
    shown = time.monotonic()
    with console.status("starting the runs") as status:
        while len(results) < len(running):
            if time.monotonic() > end:
                raise StackError(f"after {RUN_LIMIT} s these runs are not over: {', '.join(set(running) - set(results))}")
            if not forged and stack.run_of(DAG, running[FORGERY])["state"] == "failed":
                stack.mark(DAG, running[FORGERY], FORGED, "success", user=TRAINEE)
                forged = True
                console.print(f"  attack {FORGERY}: {FORGED} failed, and {TRAINEE} calls it a success by hand", highlight=False)
            for attack in set(running) - set(results) - (set() if forged else {FORGERY}):
                if stack.run_of(DAG, running[attack])["state"] in FINISHED:
                    results[attack] = result = judge(stack, attack, running[attack])
                    what = f"stopped by {', '.join(result.stopped_by)}" if result.stopped_by else "ran to its end"
                    console.print(f"  attack {attack}: {what} after {result.seconds:.0f} s", highlight=False)
            states = {attack: [task["state"] for task in stack.tasks_of(DAG, run).values()] for attack, run in running.items()}
            done = ", ".join(f"{attack} {found.count('success')}" for attack, found in states.items())
            line = f"of {max(map(len, states.values()))} tasks done: {done}"
            status.update(line)
            if not console.is_terminal and time.monotonic() - shown >= QUIET:
                print(f"  {line}", flush=True)
                shown = time.monotonic()
            time.sleep(1.5)
    return [results[attack] for attack in GUARD_AGAINST]


def table_of(results: list[Result]) -> Table:
    """Draw the results; words carry the meaning, colour only helps."""
    table = Table(title="A guarded pipeline under attack", title_justify="left")
    for column in ("attack", "expected guard", "stopped by", "tasks run below it", "seconds", "as expected"):
        table.add_column(column, justify="right" if column in ("tasks run below it", "seconds") else "left")
    for result in results:
        table.add_row(
            result.attack,
            result.expected or "none: all pass",
            ", ".join(result.stopped_by) or "nobody",
            str(len(result.ran_below)) if result.expected else "-",
            f"{result.seconds:.0f}",
            "[green]yes[/green]" if result.good else f"[bold red]NO[/bold red]: {result.problem}",
        )
    return table


def main() -> int:
    """Run the demonstration, or leave Airflow running to play with."""
    parser = argparse.ArgumentParser(prog="python -m tests.demo", description=__doc__)
    parser.add_argument("command", choices=["run", "ui"])
    command = parser.parse_args().command
    console = Console()
    if not console.is_terminal:
        console.width = 110
    started = time.monotonic()
    # make, and whoever stops a terminal, send this: leave by way of the finally blocks.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def say(what: str) -> None:
        console.print(f"{time.monotonic() - started:5.0f} s  {what}", highlight=False)

    try:
        with only_one(HOME) as home, example_stack(home, say) as stack:
            stack.wait_for_dag(DAG)
            say("Airflow is ready")
            greet(console, stack)
            if command == "ui":
                console.print("Trigger the DAG, choose an attack, look at the failed guard's log. Ctrl-C ends Airflow.")
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
    good = all(result.good for result in results)
    console.print(
        f"Every attack was stopped by the guard made for it, in {time.monotonic() - started:.0f} s."
        if good
        else "Not everything went as expected: see the table."
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
