"""The example DAG through Airflow: clean it deploys a model, and under each attack the right guard stops it."""

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
from tests.demo import FORGERY, GUARD_AGAINST
from tests.stack import Stack

NEVER_RAN = (None, "upstream_failed")


@pytest.fixture(scope="module")
def dag(airflow_db: Path, api_server: Stack) -> Iterator[Any]:
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import DagBag, sync_bag_to_db
    from airflow.utils.session import create_session

    identity = new_identity()
    account = {"conn_type": "http", "host": "127.0.0.1", "port": api_server.port, "schema": "http", "login": "service"}
    needed = {
        "AIRFLOW_CONN_AIRFLOW_API": json.dumps(account | {"password": api_server.passwords["service"]}),
        "AIRFLOW_CONN_PIPESEC_EXAMPLE_KEY": json.dumps({"conn_type": "generic", "password": identity.reveal()}),
        "AIRFLOW_VAR_PIPESEC_EXAMPLE_RECIPIENT": str(identity.recipient),
        "PIPESEC_EXAMPLE_LOCAL_USER": "olga",
    }
    os.environ |= needed
    manager = DagBundlesManager()
    manager.sync_bundles_to_db()
    folder = str(PROJECT / "dags")
    sys.path.insert(0, folder)
    try:
        bag = DagBag(folder)
        assert bag.import_errors == {}
        assert set(bag.dags) == {"example_secure_training"}
        with create_session() as session:
            sync_bag_to_db(bag, "dags-folder", None, session=session)
        yield bag.dags["example_secure_training"]
    finally:
        sys.path.remove(folder)
        for name in needed:
            del os.environ[name]


# Nobody can set a state by hand in dag.test(): tests/integration/test_by_hand.py does, and the demonstration.
@pytest.mark.parametrize("attack", [attack for attack in GUARD_AGAINST if attack != FORGERY])
def test_each_attack_is_stopped_by_the_guard_made_for_it(dag: Any, attack: str) -> None:
    dag.get_task("may_deploy").local_test_user = "uma" if attack == "unauthorized_user" else "olga"
    run = dag.test(run_conf={"attack": "none" if attack == "unauthorized_user" else attack})
    states = {
        ti.task_id: None if ti.state is None else str(getattr(ti.state, "value", ti.state)) for ti in run.get_task_instances()
    }
    guard = GUARD_AGAINST[attack]
    below = {task.task_id for task in dag.get_task(guard).get_flat_relatives()} if guard else set()
    assert {task_id for task_id, state in states.items() if state == "failed"} == ({guard} if guard else set())
    assert {states[task_id] for task_id in below} <= set(NEVER_RAN)
    assert {state for task_id, state in states.items() if task_id not in below and task_id != guard} == {"success"}
    sealed = list(Path(dag_data(run.run_id)).rglob("sealed/model.joblib.age"))
    assert bool(sealed) == (states["seal_model"] == "success")
    assert not (sealed and list(Path(dag_data(run.run_id)).rglob("model/model.joblib"))), "the plain form is gone"
    deployed = list(Path(dag_data(run.run_id)).rglob("deployed/model.joblib"))
    assert len(deployed) == (0 if guard else 1)


def dag_data(run_id: str) -> str:
    return f"{os.environ['PIPESEC_EXAMPLE_DATA']}/run-{run_id}"
