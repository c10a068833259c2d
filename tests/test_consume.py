"""For the tasks between the guards: what was verified is read, what a gate let pass is shipped, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.bases.operator import BaseOperator

from airflow_pipesec import consume
from airflow_pipesec.attestation import unseal
from airflow_pipesec.checks.integrity import write_manifest
from airflow_pipesec.consume import materialize, released, verified_open
from airflow_pipesec.errors import ConfigurationError, EvidenceError, VerificationError
from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator
from airflow_pipesec.signing import KMSSigner, Signer, TrustedKeys, entry_of, signer_from
from airflow_pipesec.storage import open_store
from tests.runner import Ran, RunTask
from tests.test_release_gate import Checked, Pipeline, attestations


def record(folder: Path, *, signed: bool) -> tuple[Path, Path]:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(b"w" * 10)
    signer: Signer | None = signer_from(os.environ["AIRFLOW__PIPESEC__SIGNING_KEY"]) if signed else None
    list(write_manifest(open_store(folder / "model"), open_store(folder / "m.json"), signer=signer))
    return folder / "model", folder / "m.json"


def test_a_manifest_has_to_be_signed_by_a_trusted_key(tmp_path: Path) -> None:
    model, manifest = record(tmp_path, signed=True)
    with verified_open(model, manifest, name="weights") as file:
        assert file.read() == b"w" * 10
    with materialize(model, manifest) as folder:
        assert (folder / "weights").read_bytes() == b"w" * 10


def test_a_manifest_that_nobody_signed_is_taken_only_when_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, manifest = record(tmp_path, signed=False)
    with pytest.raises(EvidenceError, match="is not signed"):
        verified_open(model, manifest, name="weights")
    with verified_open(model, manifest, name="weights", allow_unsigned=True) as file:
        assert file.read() == b"w" * 10
    monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    with pytest.raises(ConfigurationError, match="no key is trusted here"):
        verified_open(model, manifest, name="weights")
    with verified_open(model / "weights", "sha256:" + hashlib.sha256(b"w" * 10).hexdigest()) as file:
        assert file.read() == b"w" * 10


def test_without_a_handle_nothing_is_read() -> None:
    with pytest.raises(ConfigurationError, match="there is no handle"):
        verified_open(None)
    with pytest.raises(ConfigurationError, match="is no handle"):
        verified_open({"root": "/etc/passwd"})


def test_a_guard_hands_on_what_it_verified_and_the_handle_sees_a_swap(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    handle = run_task(pipeline.verify).xcoms["handle"]
    assert json.loads(json.dumps(handle)) == handle
    with verified_open(handle, name="weights") as file:
        assert file.read() == b"w" * 1000
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    with pytest.raises(VerificationError, match="is not what was verified"):
        verified_open(handle, name="weights")
    with pytest.raises(VerificationError), materialize(handle):
        pass


def test_a_guard_that_failed_hands_on_nothing(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    assert "handle" not in run_task(pipeline.verify).xcoms


def test_validation_hands_on_the_very_bytes_that_were_validated(run_task: RunTask, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a\n1\n2\n")
    checks = {"rows": {"check_statement": "COUNT(*) = 2"}}
    handle = run_task(DataValidationOperator(task_id="v", path=str(rows), checks=checks)).xcoms["handle"]
    with verified_open(handle) as file:
        assert file.read() == b"a\n1\n2\n"
    rows.write_text("a\n1\n3\n")
    with pytest.raises(VerificationError):
        verified_open(handle)


def test_a_url_with_a_secret_is_not_handed_on(run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    digest = "sha256:" + hashlib.sha256(b"x").hexdigest()
    task = HashVerificationOperator(task_id="v", root=f"file://{tmp_path}/f", expected=digest)
    assert "handle" in run_task(task).xcoms
    os.link(tmp_path / "f", tmp_path / "f?token=s3cret")
    task = HashVerificationOperator(task_id="v", root=f"file://{tmp_path}/f?token=s3cret", expected=digest)
    assert "s3cret" not in str(run_task(task).xcoms.get("handle"))


class Deploy(BaseOperator):
    """Ships what the gate let pass."""

    def __init__(self, *, artifact: str, gate: str = "gate", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.artifact = artifact
        self.gate = gate

    def execute(self, context: Any) -> str:
        with released(self.artifact, gate=self.gate, airflow_conn_id=None) as copy:
            return (copy / "weights").read_text()


def deployed(run_task: RunTask, pipeline: Pipeline, **parameters: Any) -> Ran:
    with pipeline.dag:
        return run_task(Deploy(task_id=f"deploy_{len(pipeline.dag.task_dict)}", artifact=str(pipeline.model), **parameters))


def test_what_the_gate_let_pass_is_shipped_and_nothing_that_was_swapped_after_it(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        run_task(one)
    assert deployed(run_task, pipeline).xcoms["return_value"] == "w" * 1000
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    ran = deployed(run_task, pipeline)
    assert "is not what gate gate let pass" in str(ran.error)


def test_a_gate_that_did_not_run_or_did_not_pass_ships_nothing(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    assert "gate gate left no evidence in this run" in str(deployed(run_task, pipeline).error)
    run_task(pipeline.gate)
    assert "gate gate signed FAILED" in str(deployed(run_task, pipeline).error)


def test_a_guard_that_is_no_gate_ships_nothing(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    assert "task verify is no ReleaseGateOperator" in str(deployed(run_task, pipeline, gate="verify").error)


def test_the_latest_word_of_a_gate_counts(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        run_task(one)
    run_task(pipeline.verify, try_number=2)
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    run_task(pipeline.gate, try_number=2)
    (pipeline.model / "weights").write_bytes(b"w" * 1000)
    assert "gate gate signed FAILED" in str(deployed(run_task, pipeline).error)


def test_what_a_gate_rested_on_has_to_be_so_still(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        run_task(one)
    run_task(pipeline.verify, try_number=2)
    assert "what gate gate rested on is no longer so" in str(deployed(run_task, pipeline).error)


def test_who_ships_asks_airflow_for_the_latest_attempt_of_the_gate(run_task: RunTask, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="airflow_conn_id= names connection airflow_api"):
        consume._latest("airflow_api", SimpleNamespace(dag_id="d", run_id="r"), "gate", -1)


@pytest.mark.parametrize("kind", ["connection", "env"])
def test_a_key_comes_from_a_connection_or_the_environment(
    run_task: RunTask, evidence: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pem = Path(os.environ["AIRFLOW__PIPESEC__SIGNING_KEY"].removeprefix("file:")).read_text()
    monkeypatch.setenv("AIRFLOW_CONN_SIGNER", json.dumps({"conn_type": "generic", "password": pem}))
    monkeypatch.setenv("SIGNER", pem)
    monkeypatch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", {"connection": "connection:signer", "env": "env:SIGNER"}[kind])
    assert run_task(Checked(task_id="c")).state == "success"
    assert attestations(evidence)["c"]["predicate"]["result"] == "PASSED"


def test_a_key_of_kms_signs_what_a_guard_concludes(
    run_task: RunTask, evidence: Path, kms: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    key = kms.create_key(KeyUsage="SIGN_VERIFY", KeySpec="ECC_NIST_P256")["KeyMetadata"]["Arn"]
    monkeypatch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", f"awskms:{key}")
    assert run_task(Checked(task_id="c")).state == "success"
    entry = entry_of(KMSSigner(key).public_key, name="kms", valid_from=datetime(2026, 1, 1, tzinfo=UTC))
    (path,) = evidence.rglob("*.json")
    assert unseal(path.read_bytes(), TrustedKeys.parse(entry.encode())).key.name == "kms"
