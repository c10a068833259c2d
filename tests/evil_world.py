"""Rows that nobody could make by Airflow's own ways: ids, people and findings that are markup. ``python -m tests.evil_world``.

They go into the database that the environment names. What runs where one of them is taken for what it says sets ``__pwned``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock

from airflow_pipesec.checks.quality import DATA_PRESENT, EXPECTATIONS_MET
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.policy import Waiver

__all__ = ["EVIL", "EVIL_RUN", "PLAIN", "SLASHED", "fill"]

EVIL = "\"'><img src=x onerror=top.__pwned=1><svg onload=top.__pwned=1>`{{7*7}}${top.__pwned=1}"
EVIL_RUN = "javascript:top.__pwned=1;'\"><img src=x onerror=top.__pwned=1>"
SLASHED = "</title></script></style><script>top.__pwned=1</script>" + EVIL
PLAIN = "plain_below"


def fill() -> None:
    """Write them, and one DAG as any other with a good run, an attacked one and one that retried."""
    from tests.airflow_world import Played, add_dag, add_run, plain_pipeline

    plain = plain_pipeline(PLAIN, mapped=True, tags=["team-a"])
    add_dag(plain)
    add_run(plain, "good")
    add_run(plain, "attacked", plays={("validate_preprocess", 1): Played.OVERRIDDEN}, by="mallory")
    add_run(plain, "again", plays={"record_train": Played.RETRIED})
    with mock.patch("airflow.sdk.definitions.dag.validate_key"):
        for dag_id in (EVIL, SLASHED):
            dag = plain_pipeline(dag_id, tags=[EVIL[:90]], on_failure={"verify_collect": "warn"})
            add_dag(dag)
            bad = [Finding(EXPECTATIONS_MET, Subject(f"/data/{SLASHED}"), Status.FAIL, SLASHED)]
            bad.append(Finding(DATA_PRESENT, Subject(EVIL), Status.PASS, EVIL))
            excused = Waiver("expectations-met", "*", SLASHED, EVIL, datetime.now(UTC).date())
            add_run(dag, EVIL_RUN, findings={"validate_preprocess": bad}, waivers={"validate_preprocess": [excused]}, user=EVIL)
            played: dict[str | tuple[str, int], Played] = {
                "validate_preprocess": Played.OVERRIDDEN,
                "record_train": Played.TAMPERED,
                "verify_collect": Played.WARNED,
            }
            add_run(dag, f"{EVIL_RUN} again", plays=played, findings={"validate_preprocess": bad}, user=EVIL, by=EVIL)


if __name__ == "__main__":
    fill()
