"""The release gate, and the evidence that real guards leave it, through Airflow's own task runner."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task, task_group
from airflow.sdk.bases.operator import BaseOperator

from airflow_pipesec.checks.release import WAIVABLE
from airflow_pipesec.cli import main
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.operators import GuardOperator, HashManifestOperator, HashVerificationOperator, ReleaseGateOperator
from airflow_pipesec.sensors import HashVerificationSensor
from tests.runner import RunTask

EVERY = Control("every-thing", "Every thing is as it should be", Severity.HIGH, "Mend it.")


class Checked(GuardOperator):
    """A guard whose check says what it is told to."""

    def __init__(self, *, status: str = "pass", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.status = status

    def findings(self, context: Any) -> Any:
        if self.status == "raise":
            raise OSError("a lost connection")
        return [Finding(EVERY, Subject("thing"), Status(self.status), "seen")]


class Other(BaseOperator):
    """A task that is no guard."""

    def execute(self, context: Any) -> None:
        """Do nothing."""


class Pipeline:
    """A small guarded DAG: record, a task between, verify, gate."""

    def __init__(self, folder: Path, **gate: Any) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_bytes(b"w" * 1000)
        self.model = folder / "model"
        with DAG("training", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as self.dag:
            manifest = str(folder / "manifest.json")
            self.record = HashManifestOperator(task_id="record", root=str(self.model), manifest=manifest)
            self.between = Other(task_id="between")
            self.verify = HashVerificationOperator(task_id="verify", root=str(self.model), manifest=manifest)
            self.gate = ReleaseGateOperator(
                task_id="gate",
                artifact=str(self.model),
                **{"airflow_conn_id": None, "vsa": str(folder / "model.vsa.json")} | gate,
            )
            self.record >> self.between >> self.verify >> self.gate


def statement(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(b64decode(json.loads(path.read_bytes())["payload"]))
    return document


def attestations(evidence: Path) -> dict[str, dict[str, Any]]:
    """The statements of a run by task; the last attempt of each."""
    found = sorted(path for path in evidence.rglob("*.json") if not path.name.endswith(".vsa.json"))
    return {path.parent.name: statement(path) for path in found}


def test_a_run_whose_guards_passed_is_released(run_task: RunTask, tmp_path: Path, evidence: Path) -> None:
    pipeline = Pipeline(tmp_path)
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        assert run_task(one).state == "success", one.task_id
    made = attestations(evidence)
    links = {name: [link["task"] for link in made[name]["predicate"]["airflowPipesec"]["links"]] for name in made}
    assert links == {"record": [], "verify": ["record"], "gate": ["verify"]}
    summary = statement(tmp_path / "model.vsa.json")
    assert summary["predicateType"] == "https://slsa.dev/verification_summary/v1"
    assert summary["predicate"]["verificationResult"] == "PASSED"
    inputs = [item["uri"] for item in summary["predicate"]["inputAttestations"]]
    assert [uri.split("/")[:3] for uri in inputs] == [["training", "test_run", name] for name in ("record", "verify", "gate")]
    assert summary["subject"][0]["digest"] == made["gate"]["subject"][1]["digest"]


def test_the_summary_xcom_names_the_attestation(run_task: RunTask, tmp_path: Path, evidence: Path) -> None:
    import hashlib

    ran = run_task(Pipeline(tmp_path).record)
    (path,) = evidence.rglob("*.json")
    assert ran.summary["attestation"] == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_guard_that_never_ran_stops_the_gate(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    ran = run_task(pipeline.gate)
    assert ran.state == "failed"
    assert "guard verify: left no evidence in this run" in str(ran.error)
    assert statement(tmp_path / "model.vsa.json")["predicate"]["verificationResult"] == "FAILED"


def test_an_artifact_that_was_swapped_after_the_last_guard_is_not_released(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    ran = run_task(pipeline.gate)
    assert ran.state == "failed"
    assert ran.summary["blocking_controls"] == ["artifact-attested"]


@pytest.mark.parametrize("algorithm", ["sha512", "blake3"])
def test_an_artifact_is_found_by_the_algorithm_of_its_manifest(run_task: RunTask, tmp_path: Path, algorithm: str) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.record.algorithm, pipeline.record.sign, pipeline.verify.allow_unsigned = algorithm, False, True
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        assert run_task(one).state == "success", one.task_id
    assert list(statement(tmp_path / "model.vsa.json")["subject"][0]["digest"]) == [f"tree{algorithm.capitalize()}"]
    (pipeline.model / "weights").write_bytes(b"x" * 1000)
    assert run_task(pipeline.gate, try_number=2).state == "failed"


def test_what_a_gate_asks_cannot_be_templated() -> None:
    assert "airflow_conn_id" not in ReleaseGateOperator.template_fields


def test_an_older_model_with_its_older_signed_manifest_is_not_released(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    old = (pipeline.model / "weights").read_bytes(), (tmp_path / "manifest.json").read_bytes()
    (pipeline.model / "weights").write_bytes(b"better" * 100)
    run_task(pipeline.record, try_number=2)
    (pipeline.model / "weights").write_bytes(old[0])  # both put back, and both as they were signed
    (tmp_path / "manifest.json").write_bytes(old[1])
    assert run_task(pipeline.verify).state == "success"
    ran = run_task(pipeline.gate)
    assert ran.summary["blocking_controls"] == ["evidence-linked"]
    assert "than was recorded there in this run before it" in str(ran.error)


def test_files_that_changed_names_are_another_artifact(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    (pipeline.model / "weights").rename(pipeline.model / "heights")
    assert run_task(pipeline.gate).summary["blocking_controls"] == ["artifact-attested"]


def test_an_artifact_that_is_not_there_is_not_released(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    (pipeline.model / "weights").unlink()
    assert run_task(pipeline.gate).state == "failed"


def test_evidence_of_a_failed_guard_stops_the_gate_until_it_is_waived_there(run_task: RunTask, tmp_path: Path) -> None:
    waiver = {"control": "guard-passed", "subject": "guard check", "reason": "r", "approver": "vera"}
    waiver["expires"] = (datetime.now(UTC).date() + timedelta(days=1)).isoformat()
    pipeline = Pipeline(tmp_path)
    with pipeline.dag:
        check = Checked(task_id="check", status="fail", on_failure="warn")
    pipeline.between >> check >> pipeline.gate
    for one in (pipeline.record, pipeline.verify, check):
        assert run_task(one).state == "success"
    assert run_task(pipeline.gate).summary["blocking_controls"] == ["guard-passed"]
    pipeline.gate.policy = {"waivers": [waiver]}
    assert run_task(pipeline.gate, try_number=2).state == "success"


@pytest.mark.parametrize("control", ["evidence-present", "evidence-authentic", "artifact-attested", "evidence-linked"])
def test_what_proves_has_no_waiver(run_task: RunTask, tmp_path: Path, control: str) -> None:
    waiver = {"control": control, "subject": "*", "reason": "r", "approver": "v", "expires": "2999-01-01"}
    ran = run_task(Pipeline(tmp_path, policy={"waivers": [waiver]}).gate)
    assert ran.state == "failed"
    assert f"a gate takes no waiver for {control}" in str(ran.error)


def test_a_summary_never_replaces_the_artifact_or_becomes_a_part_of_it(run_task: RunTask, tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    for place in (pipeline.model, pipeline.model / "vsa.json", pipeline.model / "weights"):
        pipeline.gate.vsa = str(place)
        assert "lies in the artifact" in str(run_task(pipeline.gate).error)
    assert [path.name for path in pipeline.model.iterdir()] == ["weights"]


def test_a_secret_in_the_artifacts_url_is_in_no_evidence(run_task: RunTask, tmp_path: Path, evidence: Path) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    run_task(pipeline.verify)
    pipeline.gate.artifact = "memory://bucket/model?X-Amz-Signature=TOPSECRET"
    run_task(pipeline.gate)
    assert not [
        path for path in [*evidence.rglob("*.json"), *tmp_path.glob("*.json")] if "TOPSECRET" in str(statement_or_none(path))
    ]


def statement_or_none(path: Path) -> Any:
    document = json.loads(path.read_bytes())
    return b64decode(document["payload"]) if "payload" in document else None


def test_an_airflow_that_cannot_be_reached_is_asked_again(
    run_task: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_AIRFLOW_API", "http://a:b@127.0.0.1:9/http")
    assert run_task(Pipeline(tmp_path, airflow_conn_id="airflow_api").gate).state == "up_for_retry"


def test_a_gate_that_only_warns_is_none(run_task: RunTask, tmp_path: Path) -> None:
    ran = run_task(Pipeline(tmp_path, on_failure="warn").gate)
    assert ran.state == "failed"
    assert "makes no gate" in str(ran.error)


def test_a_gate_with_no_guard_before_it_never_passes(run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("m")
    ran = run_task(ReleaseGateOperator(task_id="gate", artifact=str(tmp_path / "model"), airflow_conn_id=None))
    assert ran.state == "failed"
    assert "there is no guard whose evidence could be asked for" in str(ran.error)


def test_a_gate_whose_service_account_is_missing_fails(run_task: RunTask, tmp_path: Path) -> None:
    ran = run_task(Pipeline(tmp_path, airflow_conn_id="airflow_api").gate)
    assert ran.state == "failed"
    assert "airflow_conn_id= names connection airflow_api, which Airflow does not have" in str(ran.error)


@pytest.mark.parametrize(
    ("name", "words"), [("SIGNING_KEY", "signing_key is not set"), ("TRUSTED_KEYS", "trusted_keys is not set")]
)
def test_without_keys_there_is_no_gate(
    run_task: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.delenv(f"AIRFLOW__PIPESEC__{name}")
    ran = run_task(Pipeline(tmp_path).gate)
    assert ran.state == "failed"
    assert words in str(ran.error)


def test_a_guard_without_a_key_fails_before_its_check(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__PIPESEC__SIGNING_KEY")
    ran = run_task(Checked(task_id="c", status="raise"))
    assert ran.state == "failed"
    assert "pipesec keygen --signing" in str(ran.error)


def test_unsigned_evidence_is_written_when_dangerously_asked_for_and_no_gate_takes_it(
    run_task: RunTask, tmp_path: Path, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Pipeline(tmp_path)
    run_task(pipeline.record)
    with monkeypatch.context() as patch:
        patch.setenv("AIRFLOW__PIPESEC__SIGNING_KEY", "dangerously-unsigned")
        assert run_task(pipeline.verify).state == "success"
        ran = run_task(pipeline.gate)
        assert "a gate does not work unsigned" in str(ran.error)
    ran = run_task(pipeline.gate)
    assert ran.state == "failed"
    assert "evidence-authentic" in ran.summary["blocking_controls"]


@pytest.mark.parametrize(("status", "outcome", "result"), [("fail", "FAILED", "FAILED"), ("raise", "ERROR", "FAILED")])
def test_failures_and_errors_are_attested_as_well(
    run_task: RunTask, evidence: Path, status: str, outcome: str, result: str
) -> None:
    assert run_task(Checked(task_id="c", status=status)).state in ("failed", "up_for_retry")
    predicate = attestations(evidence)["c"]["predicate"]
    assert (predicate["airflowPipesec"]["outcome"], predicate["result"]) == (outcome, result)
    assert predicate["failedTests"] == (["every-thing"] if status == "fail" else [])


def test_each_try_is_attested_by_itself(run_task: RunTask, evidence: Path) -> None:
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        guard = Checked(task_id="c", status="raise")
    run_task(guard)
    guard.status = "pass"
    run_task(guard, try_number=2)
    names = sorted(path.name.split(".")[1] for path in evidence.rglob("*.json"))
    assert names == ["1", "2"]


def test_a_sensor_attests_when_it_is_done_and_not_at_each_poke(run_task: RunTask, tmp_path: Path, evidence: Path) -> None:
    sensor = HashVerificationSensor(task_id="s", root=str(tmp_path / "f"), expected="sha256:" + "0" * 64, timeout=60)
    assert run_task(sensor).state == "up_for_reschedule"
    assert list(evidence.rglob("*.json")) == []
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    ran = run_task(sensor, first_poke=long_ago)
    assert ran.state == "failed"
    assert attestations(evidence)["s"]["predicate"]["airflowPipesec"]["outcome"] == "FAILED"
    assert ran.summary["attestation"].startswith("sha256:")


def test_evidence_that_cannot_be_written_fails_the_guard(
    run_task: RunTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", str(tmp_path / "file"))
    ran = run_task(Checked(task_id="c"))
    assert ran.state == "up_for_retry"
    assert "return_value" not in ran.xcoms


def test_no_value_of_a_policy_or_a_key_is_in_an_attestation(run_task: RunTask, evidence: Path) -> None:
    run_task(Checked(task_id="c"))
    text = json.dumps(attestations(evidence)["c"])
    assert "PRIVATE" not in text
    assert "thing" in text


def test_mapped_guards_are_each_expected(run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "model").write_text("m")
    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        mapped = Checked.partial(task_id="c").expand(status=["pass", "pass", "pass"])
        verify = HashVerificationOperator(task_id="v", root=str(tmp_path / "model"), expected=digest(tmp_path / "model"))
        gate = ReleaseGateOperator(task_id="gate", artifact=str(tmp_path / "model"), airflow_conn_id=None)
        mapped >> verify >> gate
    run_task(verify, instances=3)
    ran = run_task(gate, instances=3)
    assert "guard c[0]: left no evidence" in str(ran.error)
    for index in range(3):
        one = dag.task_dict["c"].unmap({"status": "pass"})
        assert run_task(one, map_index=index).state == "success"
    assert run_task(verify, instances=3, try_number=2).state == "success"
    assert run_task(gate, instances=3, try_number=2).state == "success"
    # One that failed counts though Airflow shows it no more, as when somebody deletes it.
    run_task(dag.task_dict["c"].unmap({"status": "fail"}), map_index=3)
    assert "guard c[3]: signed FAILED" in str(run_task(gate, instances=3, try_number=3).error)


def digest(path: Path) -> str:
    import hashlib

    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_guard_links_its_own_instance_in_a_mapped_group() -> None:
    from airflow_pipesec.guards.evidence import edges_above

    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:

        @task
        def number(value: int) -> int:
            return value

        @task_group
        def group(value: int) -> None:
            number(value) >> Checked(task_id="a") >> Other(task_id="o") >> Checked(task_id="b")

        gate = ReleaseGateOperator(task_id="gate", artifact="x")
        group.expand(value=[1, 2]) >> gate
    context: Any = {"task": dag.task_dict["gate"]}
    assert edges_above(context) == {"group.a": {}, "group.b": {"group.a": True}}


def test_verify_run_says_the_same_offline(
    run_task: RunTask, tmp_path: Path, evidence: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import os

    pipeline = Pipeline(tmp_path)
    keys = os.environ["AIRFLOW__PIPESEC__TRUSTED_KEYS"]
    command = ["verify-run", str(evidence), "training", "test_run", "--trusted-keys", keys]
    assert main(command) == 1
    for one in (pipeline.record, pipeline.verify, pipeline.gate):
        run_task(one)
    capsys.readouterr()
    assert main([*command, "--artifact", str(pipeline.model)]) == 0
    assert "PASSED  verify-run test_run" in capsys.readouterr().out
    (pipeline.model / "weights").write_bytes(b"other")
    assert main([*command, "--artifact", str(pipeline.model)]) == 1
    assert main([*command[:-1], str(tmp_path / "none.yaml")]) == 2
    waived = tmp_path / "policy.yaml"
    waived.write_text("waivers: [{control: evidence-present, subject: '*', reason: r, approver: v, expires: 2999-01-01}]")
    assert main([*command, "--policy", str(waived)]) == 2
    assert "a gate takes no waiver for evidence-present" in capsys.readouterr().err
    next(evidence.rglob("record/*.json")).unlink()
    assert main(command) == 1
    assert "guard record: left no evidence in this run" in capsys.readouterr().out


def test_what_a_plan_leaves_to_a_gate_is_what_its_policy_may_waive() -> None:
    assert ReleaseGateOperator.waivable == WAIVABLE
