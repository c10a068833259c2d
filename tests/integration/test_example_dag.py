"""The example DAGs through Airflow: clean they deploy a model, and under each attack the right guard stops the guarded one.

The plain one has guards when the organisation's plan says so, and none otherwise: its attacks succeed then.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec.age import new_identity
from tests.conftest import PROJECT
from tests.demo import FORGERY, GUARDED, PLAN, WOVEN, Example
from tests.stack import Stack

NEVER_RAN = (None, "upstream_failed")
pytestmark = pytest.mark.usefixtures("no_rest")
# Nobody can set a state by hand in dag.test(): tests/integration/test_by_hand.py does, and the demonstration.
ATTACKS = [attack for attack in GUARDED.guard_against if attack != FORGERY]


@pytest.fixture(scope="module", autouse=True)
def needed(airflow_db: Path, api_server: Stack) -> Iterator[None]:
    """What both examples find in a real Airflow: keys, connections, a place for their data, their folder on the path."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    identity = new_identity()
    account = {"conn_type": "http", "host": "127.0.0.1", "port": api_server.port, "schema": "http", "login": "service"}
    needed = {
        "AIRFLOW_CONN_AIRFLOW_API": json.dumps(account | {"password": api_server.passwords["service"]}),
        "AIRFLOW_CONN_PIPESEC_EXAMPLE_KEY": json.dumps({"conn_type": "generic", "password": identity.reveal()}),
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_DATA": os.environ["PIPESEC_EXAMPLE_DATA"],
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_RECIPIENT": str(identity.recipient),
        "PIPESEC_EXAMPLE_LOCAL_USER": "olga",
    }
    os.environ |= needed
    folder = str(PROJECT / "dags")
    sys.path.insert(0, folder)
    try:
        DagBundlesManager().sync_bundles_to_db()
        yield
    finally:
        sys.path.remove(folder)
        for name in needed:
            del os.environ[name]


@pytest.fixture
def with_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__PIPESEC__PLAN_URL", str(PLAN))


def parsed(dag_id: str) -> Any:
    """Parse the folder as Airflow does, its policies included, and return a DAG of it."""
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    bag = DagBag(str(PROJECT / "dags"))
    assert bag.import_errors == {}
    assert set(bag.dags) == {GUARDED.dag_id, WOVEN.dag_id}
    with create_session() as session:
        sync_bag_to_db(bag, "dags-folder", None, session=session)
    return bag.dags[dag_id]


def states_under(dag: Any, attack: str) -> tuple[Path, dict[str, str | None]]:
    """Run a DAG under an attack, and return the folder of its run, and the states of its tasks."""
    run = dag.test(run_conf={"attack": "none" if attack == "unauthorized_user" else attack})
    (folder,) = Path(os.environ["PIPESEC_EXAMPLE_DATA"]).glob(f"*run-{run.run_id}")
    states = {
        ti.task_id: None if ti.state is None else str(getattr(ti.state, "value", ti.state)) for ti in run.get_task_instances()
    }
    return folder, states


def assert_stopped(example: Example, dag: Any, attack: str) -> tuple[Path, dict[str, str | None]]:
    """Run an example under an attack: what is made for it fails, nothing below it runs, and everything else succeeds."""
    (may_deploy,) = (task for task in dag.tasks if task.task_id == example.forged)
    may_deploy.local_test_user = "uma" if attack == "unauthorized_user" else "olga"
    folder, states = states_under(dag, attack)
    guard = example.guard_against[attack]
    below = {task.task_id for task in dag.get_task(guard).get_flat_relatives()} if guard else set()
    assert {task_id for task_id, state in states.items() if state == "failed"} == ({guard} if guard else set())
    assert {states[task_id] for task_id in below} <= set(NEVER_RAN)
    assert not (folder / "owned.txt").exists(), "nobody loaded the malicious model"
    assert {state for task_id, state in states.items() if task_id not in below and task_id != guard} == {"success"}
    assert len(list(folder.rglob("deployed/model.joblib"))) == (0 if guard else 1)
    return folder, states


@pytest.mark.parametrize("attack", ATTACKS)
def test_each_attack_is_stopped_by_the_guard_made_for_it(attack: str) -> None:
    folder, states = assert_stopped(GUARDED, parsed(GUARDED.dag_id), attack)
    sealed = list(folder.rglob("sealed/model.joblib.age"))
    assert bool(sealed) == (states["seal_model"] == "success")
    assert not (sealed and list(folder.rglob("model/model.joblib"))), "the plain form is gone"


@pytest.mark.usefixtures("with_plan")
@pytest.mark.parametrize("attack", ATTACKS)
def test_with_the_plan_each_attack_on_the_plain_dag_is_stopped(attack: str) -> None:
    folder, states = assert_stopped(WOVEN, parsed(WOVEN.dag_id), attack)
    assert bool(list(folder.rglob("sealed/model.joblib.age"))) == (states["after_evaluate.seal"] == "success")


@pytest.mark.usefixtures("with_plan")
def test_the_organisations_plan_lets_the_guarded_dag_be() -> None:
    guarded = parsed(GUARDED.dag_id)
    assert not [name for name in guarded.task_dict if "." in name]


@pytest.mark.parametrize(
    "attack",
    ["none", "tampered_data", "invalid_rows", "malicious_model", "swapped_model", "swap_after_check", "plaintext_storage"],
)
def test_without_the_plan_each_attack_on_the_plain_dag_succeeds(attack: str) -> None:
    import joblib

    dag = parsed(WOVEN.dag_id)
    assert len(dag.task_dict) == 11, "the stages and the villain"
    folder, states = states_under(dag, attack)
    assert set(states.values()) == {"success"}
    deployed = joblib.load(folder / "deployed" / "model.joblib")
    assert (type(deployed).__name__ == "DummyClassifier") == (attack in ("swapped_model", "swap_after_check"))
    assert (folder / "sealed" / "cache.csv").exists() == (attack == "plaintext_storage")
    assert (folder / "owned.txt").exists() == (attack == "malicious_model"), "loading that model runs what is in it"
    assert (7 in deployed.classes_) == (attack == "invalid_rows"), "the planted kind of tumour is one that the model knows"


def test_the_plain_dag_and_its_villain_have_never_heard_of_the_package() -> None:
    for name in ("example_plain_training.py", "example_attacks.py"):
        text = (PROJECT / "dags" / name).read_text(encoding="utf-8")
        assert not [line for line in text.splitlines() if "import" in line and "pipesec" in line]
