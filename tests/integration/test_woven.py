"""Woven DAGs in Airflow: while the guards pass the same stages run as without them; nothing runs below one that failed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.checks.integrity import write_manifest
from airflow_pipesec.guards.trust import configured_signer
from airflow_pipesec.storage import open_store
from tests.conftest import PROJECT

FOLDER = PROJECT / "tests" / "dags_woven"
pytestmark = pytest.mark.usefixtures("no_rest")
NEVER_RAN = {"None", "upstream_failed", "skipped"}


@pytest.fixture(scope="module")
def dags(airflow_db: Path) -> Iterator[dict[str, Any]]:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    DagBundlesManager().sync_bundles_to_db()
    sys.path.insert(0, str(FOLDER))
    try:
        bag = DagBag(str(FOLDER))
        assert bag.import_errors == {}
        with create_session() as session:
            sync_bag_to_db(bag, "dags-folder", None, session=session)
        yield bag.dags
    finally:
        sys.path.remove(str(FOLDER))


def stages_of(dag: Any) -> set[str]:
    return {name.rpartition(".")[2] for name in dag.task_ids}


def ran(dag: Any, data: Path, *, choose: Any = "x", tampered: str = "", lazy: str = "") -> dict[str, list[str]]:
    """The states of each task's instances after a run."""
    for name in stages_of(dag):
        folder = data / "in" / name
        folder.mkdir(parents=True)
        (folder / "data.csv").write_text(f"1,2,{name}")
        assert list(write_manifest(open_store(folder), open_store(f"{folder}.json"), signer=configured_signer()))
    if tampered:
        (data / "in" / tampered / "data.csv").write_text("1,2,poison")
    run = dag.test(run_conf={"data": str(data), "choose": choose, "lazy": lazy})
    states: dict[str, list[str]] = {}
    for instance in run.get_task_instances():
        states.setdefault(instance.task_id, []).append(str(getattr(instance.state, "value", instance.state)))
    return {name: sorted(found) for name, found in states.items()}


def both(dags: Any, tmp_path: Path, shape: str, **given: Any) -> dict[str, list[str]]:
    """The states of the woven DAG's tasks, of which its stages ended as those of the other did."""
    plain = ran(dags[shape], tmp_path / "plain", **given)
    woven = ran(dags[f"{shape}_woven"], tmp_path / "woven", **given)
    assert {name: woven[name] for name in plain} == plain
    assert {state for states in woven.values() for state in states} <= {"success", "skipped"}
    assert set(woven) > set(plain)
    return woven


@pytest.mark.parametrize(("chosen", "other"), [("x", "y"), ("y", "x")])
def test_a_branch_chooses_as_before_and_the_join_runs(dags: Any, tmp_path: Path, chosen: str, other: str) -> None:
    states = both(dags, tmp_path, "branch_and_join", choose=chosen)
    assert states[chosen] == states["join"] == states["last"] == ["success"]
    assert states[other] == states[f"after_{other}.hash_manifest"] == ["skipped"]
    assert states[f"before_{chosen}.hash_verification"] == states[f"after_{chosen}.hash_manifest"] == ["success"]


@pytest.mark.parametrize("choose", ["group", "other"])
def test_a_branch_chooses_a_group_as_before(dags: Any, tmp_path: Path, choose: str) -> None:
    states = both(dags, tmp_path, "branch_to_a_group", choose=choose)
    assert states["group.b"] == (["success"] if choose == "group" else ["skipped"])
    assert states["join"] == ["success"]


def test_mapped_tasks_and_groups_run_as_often_as_before(dags: Any, tmp_path: Path) -> None:
    states = both(dags, tmp_path, "mapped")
    assert states["mapped"] == states["each.second"] == ["success", "success"]
    assert states["each.before_second.hash_verification"] == ["success", "success"]
    assert states["before_mapped.hash_verification"] == ["success"]


def test_setup_and_teardown_run_as_before(dags: Any, tmp_path: Path) -> None:
    states = both(dags, tmp_path, "setup_and_teardown")
    assert states["destroy"] == states["last"] == ["success"]


def test_a_stage_pulls_what_another_pushed_past_the_guards(dags: Any, tmp_path: Path) -> None:
    states = both(dags, tmp_path, "pulls")
    assert "source" not in dags["pulls_woven"].task_dict["reads"].upstream_task_ids
    assert states["reads"] == ["success"]


FAILING = [
    ("branch_and_join", {"tampered": "start"}, "before_start.hash_verification", set()),
    ("branch_and_join", {"tampered": "x"}, "before_x.hash_verification", {"start", "branch"}),
    ("branch_and_join", {"lazy": "x"}, "after_x.hash_manifest", {"start", "branch", "x"}),
    ("branch_and_join", {"tampered": "join"}, "before_join.hash_verification", {"start", "branch", "x"}),
    (
        "branch_to_a_group",
        {"choose": "group", "tampered": "b"},
        "group.before_b.hash_verification",
        {"start", "branch", "group.a"},
    ),
    ("mapped", {"tampered": "first"}, "each.before_first.hash_verification", {"numbers", "mapped"}),
    ("mapped", {"lazy": "mapped"}, "after_mapped.hash_manifest", {"numbers", "mapped", "each.first", "each.second"}),
    ("setup_and_teardown", {"tampered": "more"}, "before_more.hash_verification", {"create", "work", "destroy"}),
    ("setup_and_teardown", {"lazy": "work"}, "after_work.hash_manifest", {"create", "work", "destroy"}),
]


@pytest.mark.parametrize(("shape", "attack", "guard", "run"), FAILING, ids=lambda value: value if isinstance(value, str) else "")
def test_nothing_runs_below_a_guard_that_failed(
    dags: Any, tmp_path: Path, shape: str, attack: dict[str, Any], guard: str, run: set[str]
) -> None:
    dag = dags[f"{shape}_woven"]
    states = ran(dag, tmp_path, **attack)
    assert {name for name, found in states.items() if "failed" in found} == {guard}
    below = {one.task_id for one in dag.get_task(guard).get_flat_relatives() if not one.is_teardown}
    assert {state for name in below for state in states.get(name, [])} <= NEVER_RAN
    assert {name for name in dags[shape].task_ids if "success" in states[name]} == run
