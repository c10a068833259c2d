"""What evidence costs: one attestation, the verification of a run of a thousand, and a guard beside an empty operator."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.hashing import show_goals

GUARDS = 1000
TASKS = 60


def main() -> None:
    console = Console(width=max(100, Console().width))
    scratch = Path(tempfile.mkdtemp(prefix="pipesec-bench-"))
    before = dict(os.environ)
    try:
        rows = []
        for algorithm in ("ecdsa-p256", "ed25519"):
            rows += attest(scratch / algorithm, algorithm)
        rows += overhead(scratch, console)
        show_goals(rows, console)
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(scratch, ignore_errors=True)


def attest(folder: Path, algorithm: Any) -> list[tuple[str, float, str, bool]]:
    """Attest a run of many guards, each linked to the three before it, and verify all of it."""
    from uuid6 import uuid7

    from airflow_pipesec.attestation import Attempt, Attestation, seal, statement
    from airflow_pipesec.checks.release import Release, verify_run
    from airflow_pipesec.evidence import RunEvidence, folder_of
    from airflow_pipesec.findings import Status
    from airflow_pipesec.policy import Policy
    from airflow_pipesec.signing import TrustedKeys, entry_of, new_private_key
    from airflow_pipesec.storage import open_store

    folder.mkdir()
    signer = new_private_key(folder / "key.pem", algorithm)
    now = datetime.now(UTC)
    entry = entry_of(signer.public_key, name="bench", valid_from=now - timedelta(days=1))
    trusted = TrustedKeys.parse(entry.encode())
    run = RunEvidence(open_store(folder / folder_of("dag", "run")))
    finding = {"control": "digest-matches", "status": "pass", "severity": "critical", "blocks": False, "subject": "/data/model"}
    finding |= {"digest": "sha256:" + "ab" * 32, "version": None, "message": "3 files match", "count": 3, "waived": None}
    edges: dict[str, dict[str, bool]] = {}
    spent = 0.0
    for number in range(GUARDS):
        above = [f"guard_{other}" for other in range(max(0, number - 3), number)]
        edges[f"guard_{number}"] = dict.fromkeys(above, False)
        began = time.process_time()
        attested = Attestation(
            Attempt("dag", "run", f"guard_{number}", -1, 1, str(uuid7())),
            "a.Guard",
            "PASSED",
            "every control held",
            now,
            now,
            (("digest-matches",), (), ()),
            (finding,) * 8,
            policy=Policy().document(),
            version="0.1.0",
            links=tuple(run.links([(name, (-1,)) for name in above])),
            subjects=(("/data/model", {"sha256": "ab" * 32}),),
        )
        run.write(attested.attempt, seal(statement(attested), signer))
        if number < 100:  # as many as a large DAG has; each lists what is there
            spent += time.process_time() - began
    release = Release(dict.fromkeys(edges, (-1,)), edges, artifacts={"/data/model": "sha256:" + "ab" * 32})
    began = time.monotonic()
    findings = list(verify_run(run.load("dag", "run", trusted), release, now=now))
    seconds = time.monotonic() - began
    assert {finding.status for finding in findings} == {Status.PASS}
    each = spent / 100 * 1000
    return [
        (f"attest, sign and write with {algorithm}, CPU ms a guard", each, "< 5", each < 5),
        (f"verify {GUARDS:,} attestations of {algorithm}, s", seconds, "< 1", seconds < 1),
    ]


def overhead(scratch: Path, console: Console) -> list[tuple[str, float, str, bool]]:
    """Run a guard whose check is nothing beside an operator that does nothing, by turns, through Airflow's task runner."""
    from airflow_pipesec.signing import new_private_key

    os.environ["AIRFLOW_HOME"] = str(scratch)
    os.environ["AIRFLOW__PIPESEC__EVIDENCE_URL"] = str(scratch / "evidence")
    os.environ["AIRFLOW__PIPESEC__SIGNING_KEY"] = f"file:{scratch}/key.pem"
    new_private_key(scratch / "key.pem")

    from airflow.sdk import DAG, BaseOperator

    from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
    from airflow_pipesec.operators import GuardOperator
    from tests.runner import run

    control = Control("nothing", "Nothing is as it should be", Severity.LOW, "None.")

    class Empty(BaseOperator):
        def execute(self, context: Any) -> None:
            return None

    class Guarded(GuardOperator):
        def findings(self, context: Any) -> Any:
            yield Finding(control, Subject("nothing"), Status.PASS, "seen")

    with DAG("bench", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        empty, guarded, above = Empty(task_id="empty"), Guarded(task_id="guarded"), Guarded(task_id="above")
        above >> guarded

    def milliseconds(clock: Callable[[], float], task: Any) -> float:
        began = clock()
        assert run(task).state == "success"
        return (clock() - began) * 1000

    run(above)
    for task in (empty, guarded):
        run(task)  # what is imported once
    spent: dict[str, list[float]] = {"empty": [], "guarded": []}
    for _ in range(TASKS):
        for name, task in (("empty", empty), ("guarded", guarded)):
            spent[name].append(milliseconds(time.monotonic, task))
    best = {name: sorted(times)[len(times) // 2] for name, times in spent.items()}
    console.print(f"empty operator {best['empty']:.1f} ms, guard {best['guarded']:.1f} ms by the clock, median of {TASKS}")
    more = best["guarded"] - best["empty"]
    return [("a guard besides its check, against an empty operator, ms", more, "< 20", more < 20)]


if __name__ == "__main__":
    main()
