"""Draw the pictures of the pages in Airflow's UI: ``python -m tests.ui_pictures`` makes a world and looks at it.

Needs Chromium (``apt-get install chromium``), found on the PATH. ``python -m tests.ui_pictures fill`` writes the world into the
database that the environment names.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.policy import Waiver
from tests.stack import USER, Stack

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / "docs" / "images"
WIDTHS = {"wide": (1440, 1080), "narrow": (820, 1180)}
RUNS = 25
MOST_BYTES = 250_000
SHOWN, GUARD = "credit_scoring", "validate_preprocess"


class Pipeline(NamedTuple):
    """A DAG of the world: its tags, what the constructor of its like is told, and how the last run went."""

    dag_id: str
    tags: tuple[str, ...]
    last: Mapping[str, str]
    given: Mapping[str, Any] = {}
    naked: bool = False
    runs: int = RUNS


PIPELINES = (
    Pipeline("churn_model", ("team-customer", "production"), {}),
    Pipeline(SHOWN, ("team-risk", "production"), {GUARD: "overridden", "release_gate": "failed"}),
    Pipeline("demand_forecast", ("team-supply", "production"), {GUARD: "warned"}, {"on_failure": {GUARD: "warn"}}),
    Pipeline("fraud_detection", ("team-risk", "production"), {"record_train": "tampered"}, {"stages": 6}),
    Pipeline("mammography_triage", ("team-imaging", "research"), {"record_train": "running"}, {"mapped": True}),
    Pipeline("price_elasticity", ("team-supply", "production"), {GUARD: "waived"}),
    Pipeline("search_ranking", ("team-search", "production"), {"verify_collect": "failed"}, {"stages": 6}),
    Pipeline("warehouse_export", ("team-platform",), {}, naked=True),
    Pipeline("voice_commands", ("team-assistant", "research"), {}, runs=0),
)


def found(dag_id: str, run_id: str, guard: str) -> list[Finding]:
    """What a guard saw that did not like it."""
    from airflow_pipesec.checks import integrity, quality, release

    place = f"/data/{dag_id}/{run_id}"
    if guard == "release_gate":
        guards = Subject("guards of this run")
        told = "signed FAILED: 2 failed. Airflow shows try 1 as success; its audit log tells: mallory set it to success"
        return [
            Finding(release.GUARD_PASSED, Subject(f"guard {GUARD}"), Status.FAIL, told),
            Finding(release.EVIDENCE_PRESENT, guards, Status.PASS, "4 guards", count=4),
            Finding(release.EVIDENCE_LINKED, guards, Status.PASS, "4 guards", count=4),
        ]
    if guard == "verify_collect":
        tree = Subject(f"{place}/collect", f"tree:sha256:{'5e0c91b7' * 8}")
        was, now = "0f3c5d2b9a7e4c11…", "9be1d00c4f5a7e20…"
        return [
            Finding(
                integrity.DIGEST_MATCHES,
                Subject(f"{place}/collect/2026/clicks-07.parquet"),
                Status.FAIL,
                f"sha256 {was} is now {now}",
            ),
            Finding(
                integrity.NO_EXTRA_FILES, Subject(f"{place}/collect/2026/clicks-07.parquet.bak"), Status.FAIL, "was not recorded"
            ),
            Finding(integrity.FILES_PRESENT, tree, Status.PASS, "48 files", count=48),
            Finding(integrity.MANIFEST_INTACT, Subject(f"{place}/collect.json"), Status.PASS, "48 files recorded", count=48),
        ]
    rows = Subject(f"{place}/preprocess/rows.parquet", f"sha256:{'b41f07aa' * 8}")
    income = Subject(f"{rows.name}#income")
    return [
        Finding(
            quality.EXPECTATIONS_MET,
            income,
            Status.FAIL,
            "expect_column_values_to_be_between 0 and 1,000,000: not met by 312 of 48,211 rows",
        ),
        Finding(
            quality.EXPECTATIONS_MET,
            Subject(f"{rows.name}#age"),
            Status.FAIL,
            "expect_column_values_to_not_be_null: not met by 20 of 48,211 rows",
        ),
        Finding(quality.DATA_PRESENT, rows, Status.PASS, "48,211 rows", count=48_211),
        Finding(quality.COLUMNS_PRESENT, rows, Status.PASS, "31 columns are there", count=31),
    ]


def fill() -> None:
    """Write the world into the database and the evidence store of the environment, whose key was valid all the time."""
    from airflow_pipesec.guards.trust import configured_signer
    from airflow_pipesec.signing import entry_of
    from tests.airflow_world import Played, add_dag, add_run, guards_of, naked_pipeline, plain_pipeline

    now = datetime.now(UTC)
    signer = configured_signer()
    assert signer is not None
    entry = entry_of(signer.public_key, name="Airflow, production", valid_from=now - timedelta(days=RUNS + 30))
    Path(os.environ["AIRFLOW__PIPESEC__TRUSTED_KEYS"]).write_text(entry)
    chance = random.Random(7)
    for turn, one in enumerate(PIPELINES):
        make = naked_pipeline if one.naked else plain_pipeline
        dag = make(one.dag_id, tags=one.tags, **one.given)
        add_dag(dag)
        guards = [] if one.naked else guards_of(dag)
        for number in range(one.runs):
            last = number + 1 == one.runs
            when = now - timedelta(days=one.runs - 1 - number, minutes=4 + 7 * turn)
            run_id = f"manual__{when.isoformat(timespec='seconds')}"
            plays: dict[Any, Played] = {}
            findings: dict[Any, Sequence[Finding]] = {}
            waivers: dict[Any, Sequence[Waiver]] = {}
            if one.last.get(GUARD) == "waived":
                findings[GUARD] = found(one.dag_id, run_id, GUARD)
                why = "A late correction of the source; the model is insensitive to it."
                waivers[GUARD] = [Waiver("expectations-met", "*", why, "olga@example.org", (now + timedelta(days=5)).date())]
            elif last:
                plays = {name: Played(how) for name, how in one.last.items()}
                findings = {name: found(one.dag_id, run_id, name) for name in plays if plays[name] in _BAD}
            elif guards and chance.random() < 0.2:
                name = chance.choice([name for name in guards if name in ("verify_collect", "release_gate", "record_train")])
                plays = {name: chance.choice((Played.FAILED, Played.RETRIED, Played.RETRIED, Played.ERROR))}
            elif GUARD in one.last and one.last[GUARD] == "warned" and chance.random() < 0.3:
                plays = {GUARD: Played.WARNED}
            add_run(
                dag,
                run_id,
                when=when,
                plays=plays,
                findings=findings,
                waivers=waivers,
                user=chance.choice(("uma", "olga", "vera")),
                by="mallory",
            )


_BAD = ("failed", "overridden", "warned")


def take(stack: Stack, images: Path) -> None:
    """Look at each page, by day and by night, in a wide window and in a narrow one."""
    from tests.browser import Watched, chromium

    run = next(item["dag_run_id"] for item in stack.call("GET", f"/dags/{SHOWN}/dagRuns?order_by=-id&limit=1")["dag_runs"])
    pages = {
        "overview": "/plugin/pipesec",
        "dag": f"/dags/{SHOWN}/plugin/pipesec_dag",
        "run": f"/dags/{SHOWN}/runs/{run}/plugin/pipesec_run",
        "task": f"/dags/{SHOWN}/runs/{run}/tasks/{GUARD}/plugin/pipesec_task",
    }
    images.mkdir(parents=True, exist_ok=True)
    with chromium() as browser:
        with Watched.window(browser, stack.url, stack.token(USER)) as window:
            window.open(stack.url + pages["overview"], path="overview")  # so that what follows is what was verified
        for theme in ("light", "dark"):
            for size, (width, height) in WIDTHS.items():
                with Watched.window(
                    browser, stack.url, stack.token(USER), dark=theme == "dark", width=width, height=height
                ) as window:
                    for name, path in pages.items():
                        window.open(stack.url + path, path=name)
                        window.page.wait_for_timeout(1500)  # Airflow's own parts around it come later
                        target = images / f"ui-{name}-{theme}-{size}.png"
                        window.page.screenshot(path=target)
                        if (big := target.stat().st_size) > MOST_BYTES:
                            raise SystemExit(f"{target.name} has {big:,} bytes")
                        print(f"{target.name}: {target.stat().st_size:,} bytes")


def main() -> None:
    """Make the world and take the pictures; or only make it."""
    if sys.argv[1:] == ["fill"]:
        fill()
        return
    images = Path(sys.argv[1]) if sys.argv[1:] else IMAGES
    with tempfile.TemporaryDirectory(prefix="pipesec-") as folder:
        stack = Stack(Path(folder) / "home", Path(folder) / "dags", say=print, users={"olga": "op"}, runs_dags=False)
        with stack:
            print("filling it")
            command = [sys.executable, "-m", "tests.ui_pictures", "fill"]
            subprocess.run(command, env=stack.environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
            take(stack, images)


if __name__ == "__main__":
    main()
