"""Shared by all tests: one AIRFLOW_HOME for the run, a task runner in this process, and real servers."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
# Before anything imports Airflow, which reads its configuration then.
_HOME = Path(tempfile.mkdtemp(prefix="pipesec-airflow-"))
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "AWS_", "GX_"))]:
    if _name != "AWS_CA_BUNDLE":
        del os.environ[_name]
os.environ |= {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "PIPESEC_EXAMPLE_DATA": str(_HOME / "data"),
}

import pytest  # noqa: E402 - Airflow's settings come first
from hypothesis import settings  # noqa: E402 - as above
from hypothesis.internal.conjecture import providers  # noqa: E402 - as above

from airflow_pipesec.signing import entry_of, new_private_key  # noqa: E402 - as above
from tests.fab import add_person  # noqa: E402 - as above
from tests.runner import RunTask, run  # noqa: E402 - as above
from tests.servers import S3Server, postgresql, seaweedfs  # noqa: E402 - as above
from tests.stack import Stack  # noqa: E402 - as above

_SIGNER = new_private_key(_HOME / "signing.pem")
(_HOME / "trusted-keys.yaml").write_text(
    entry_of(_SIGNER.public_key, name="the tests", valid_from=datetime.now(UTC) - timedelta(minutes=1))
)
os.environ |= {
    "AIRFLOW__PIPESEC__EVIDENCE_URL": str(_HOME / "evidence"),
    "AIRFLOW__PIPESEC__SIGNING_KEY": f"file:{_HOME}/signing.pem",
    "AIRFLOW__PIPESEC__TRUSTED_KEYS": str(_HOME / "trusted-keys.yaml"),
}

settings.register_profile("default", deadline=None, database=None)
settings.register_profile("ci", deadline=None, database=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
if os.environ.get("CI"):
    # What is drawn is to be the same in each run. Hypothesis also draws the constants of whatever modules of ours are loaded by
    # then, and those depend on the tests that this process has run before.
    assert callable(providers.is_local_module_file)
    providers.is_local_module_file = lambda _: False


# Files that one process takes together, for they need the same costly server.
_TOGETHER = {"tests/integration/test_ui_fab.py": "tests/integration/test_rbac.py"}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which need not be there
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Together(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return _TOGETHER.get(file, file)

    return Together(config, log)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """The run's Airflow database, made when the first test asks for it."""
    import subprocess
    import sys

    command = [str(Path(sys.executable).with_name("airflow")), "db", "migrate"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return _HOME


@pytest.fixture
def session(airflow_db: Path) -> Iterator[Any]:
    """A session of the run's database, committed at the end."""
    from airflow.utils.session import create_session

    with create_session(scoped=False) as found:
        yield found


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_uri() -> Iterator[str]:
    with postgresql() as uri:
        yield uri


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API server with the SimpleAuthManager: vera may look, uma may trigger, olga and the service account are operators."""
    users = {"vera": "viewer", "uma": "user", "olga": "op", "service": "op"}
    with Stack(tmp_path_factory.mktemp("simple") / "home", PROJECT / "dags", users=users, runs_dags=False) as stack:
        yield stack


@pytest.fixture(scope="session")
def fab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """An API server with FAB's users and roles, Airflow's own."""
    users = {"vera": "Viewer", "uma": "User", "olga": "Op", "service": "Admin"}
    with Stack(tmp_path_factory.mktemp("fab") / "home", PROJECT / "dags", users=users, fab=True, runs_dags=False) as stack:
        for name, role in users.items():
            add_person(stack, name, role)
        yield stack


@pytest.fixture
def no_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``dag.test()`` look again at once: it rests for a second whenever nothing can be started yet."""
    import time

    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.02)))


@pytest.fixture
def evidence(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that evidence goes to: the test's own."""
    folder = tmp_path_factory.mktemp("evidence")
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", str(folder))
    return folder


@pytest.fixture
def run_task(monkeypatch: pytest.MonkeyPatch, evidence: Path) -> RunTask:
    """Run one operator through Airflow's own task runner, see :func:`tests.runner.run`."""
    from airflow.sdk.execution_time import task_runner

    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", None, raising=False)  # put back at the end
    return run


@pytest.fixture
def kms(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's KMS, which is taught what a digest is: by itself it hashes whatever it is given once more."""
    import base64
    import json

    import boto3
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
    from moto import mock_aws
    from moto.kms.responses import KmsResponse

    theirs = KmsResponse.sign

    def sign(self: Any) -> Any:
        if self._get_param("MessageType") != "DIGEST":
            return theirs(self)
        theirs(self)  # refuses what it refuses
        key = self.kms_backend.describe_key(self._get_param("KeyId"))
        digest = self._get_param("Message")
        signature = key.private_key.private_key.sign(digest, ec.ECDSA(Prehashed(hashes.SHA256())))
        answer = {"KeyId": key.arn, "SigningAlgorithm": "ECDSA_SHA_256", "Signature": base64.b64encode(signature).decode()}
        return json.dumps(answer)

    with mock_aws():
        monkeypatch.setattr(KmsResponse, "sign", sign)
        yield boto3.client("kms", region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test")
