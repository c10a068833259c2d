"""Guards: a verdict becomes the right state of the right tasks, and what people read is all there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.bases.operator import BaseOperator

from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor
from tests.runner import RunTask

CONTROL = Control("is-good", "It is good", Severity.HIGH, remedy="Make it good.")
GOOD = Finding(CONTROL, Subject("thing"), Status.PASS, "is good")
BAD = Finding(CONTROL, Subject("thing\x1b[31m\nPASSED  forged"), Status.FAIL, "is bad")


class Says(Guard):
    template_fields = ("word", *Guard.template_fields)

    def __init__(self, *, says: Any = (), word: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.says = says
        self.word = word

    def findings(self, context: Any) -> Iterable[Finding]:
        if isinstance(self.says, BaseException):
            yield GOOD
            raise self.says
        yield from self.says


class SaysOperator(Says, GuardOperator):
    pass


class SaysSensor(Says, GuardSensor):
    pass


def test_a_pass_succeeds_and_pushes_the_summary(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[GOOD]))
    assert ran.state == "success"
    assert ran.summary["outcome"] == "PASSED"
    assert ran.summary["controls"] == ["is-good"]
    assert ran.summary["by_status"] == {"pass": 1, "fail": 0, "skip": 0, "error": 0}


def test_a_failure_fails_at_once_though_retries_are_left(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[GOOD, BAD]), retries_left=True)
    assert ran.state == "failed"
    assert "is-good on thing" in str(ran.error)
    assert ran.summary["outcome"] == "FAILED"
    assert ran.summary["by_severity"]["high"] == 1
    assert ran.summary["blocking_controls"] == ["is-good"]


def test_silence_is_a_failure(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[]))
    assert ran.state == "failed"
    assert "nothing was examined" in str(ran.error)


def test_ordinary_trouble_uses_the_retries(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=ConnectionError("reset")), retries_left=True)
    assert ran.state == "up_for_retry"
    assert ran.summary["outcome"] == "ERROR"
    assert ran.summary["findings"] == 1, "what was seen before is not lost"
    assert run_task(SaysOperator(task_id="h", says=ConnectionError("reset")), retries_left=False).state == "failed"


@pytest.mark.parametrize("wrong", [{"policy": "/no/such/policy.yaml"}, {"policy": {"fail": "on"}}, {"on_failure": "ignore"}])
def test_what_the_author_got_wrong_is_not_retried(run_task: RunTask, wrong: dict[str, Any]) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[GOOD], **wrong), retries_left=True)
    assert ran.state == "failed"
    assert ran.summary["outcome"] == "ERROR"


def test_something_that_is_no_finding_fails_and_says_so(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[GOOD, True]))
    assert ran.state == "failed"
    assert "gave a bool where a Finding belongs" in str(ran.error)


def test_the_summary_is_json_and_holds_no_subject_and_no_message(run_task: RunTask) -> None:
    text = json.dumps(run_task(SaysOperator(task_id="g", says=[GOOD, BAD])).summary)
    assert "thing" not in text
    assert "is bad" not in text


def test_no_xcom_is_pushed_where_the_author_wants_none(run_task: RunTask) -> None:
    assert run_task(SaysOperator(task_id="g", says=[GOOD], do_xcom_push=False)).xcoms == {}


def test_the_policy_is_a_templated_path_or_mapping(run_task: RunTask, tmp_path: Path) -> None:
    (tmp_path / "lax.yaml").write_text("fail_on: critical")
    by_path = SaysOperator(task_id="g", says=[GOOD, BAD], policy=str(tmp_path) + "/{{ dag_run.conf.which }}.yaml")
    assert run_task(by_path, conf={"which": "lax"}).state == "success"
    by_mapping = SaysOperator(task_id="h", says=[GOOD, BAD], policy={"fail_on": "{{ 'critical' }}"})
    assert run_task(by_mapping).state == "success"


def test_warn_lets_the_pipeline_go_on(run_task: RunTask) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[BAD], on_failure="warn"))
    assert ran.state == "success"
    assert ran.summary["outcome"] == "FAILED"


def above(guard: BaseOperator) -> None:
    with DAG("pipeline", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        dag.add_task(guard)
        after = BaseOperator(task_id="after")
        always = BaseOperator(task_id="always", trigger_rule="all_done")
        running = BaseOperator(task_id="running", trigger_rule="always")
        undo = BaseOperator(task_id="undo").as_teardown()
        guard >> after >> always >> running >> undo


def test_skip_downstream_skips_every_task_below_whatever_its_trigger_rule(run_task: RunTask) -> None:
    guard = SaysOperator(task_id="g", says=[BAD], on_failure="skip_downstream")
    above(guard)
    ran = run_task(guard)
    assert ran.skipped == ["after", "always"], "the teardown still cleans up, and what always runs may run by now"
    assert sorted(ran.xcoms["skipmixin_key"]["skipped"]) == ["after", "always"], "they stay skipped when cleared"


def test_skip_downstream_of_a_mapped_guard_skips_the_instance(run_task: RunTask) -> None:
    guard = SaysOperator(task_id="g", says=[BAD], on_failure="skip_downstream")
    above(guard)
    assert run_task(guard, map_index=2).state == "skipped"


def test_the_log_is_a_table_with_remedies_that_no_name_can_forge(run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    run_task(SaysOperator(task_id="g", says=[GOOD, BAD]))
    text = "".join(capfd.readouterr())
    assert "FAILED  g: 1 failed" in text
    assert r"thing\x1b[31m\nPASSED  forged: is bad" in text
    assert "remedy: Make it good." in text
    assert "\x1b[31m" not in text
    assert "\nPASSED" not in text


def test_a_sensor_reschedules_by_default_and_passes_later(run_task: RunTask) -> None:
    ran = run_task(SaysSensor(task_id="s", says=[BAD], poke_interval=30, timeout=600))
    assert type(ran.message).__name__ == "RescheduleTask"
    assert run_task(SaysSensor(task_id="t", says=[GOOD])).state == "success"


def long_ago() -> datetime:
    return datetime.now(UTC) - timedelta(hours=1)


def test_a_sensor_that_runs_out_of_time_fails_with_its_last_findings(run_task: RunTask) -> None:
    ran = run_task(SaysSensor(task_id="s", says=[BAD], timeout=60), first_poke=long_ago(), retries_left=True)
    assert ran.state == "failed"
    assert type(ran.error).__name__ == "AirflowSensorTimeout"
    assert "is-good on thing" in str(ran.error)
    assert "timed out" in str(ran.error)


def test_a_sensor_out_of_time_does_as_on_failure_says(run_task: RunTask) -> None:
    warned = run_task(SaysSensor(task_id="s", says=[BAD], timeout=60, on_failure="warn"), first_poke=long_ago())
    assert warned.state == "success"
    guard = SaysSensor(task_id="g", says=[BAD], timeout=60, on_failure="skip_downstream")
    above(guard)
    assert run_task(guard, first_poke=long_ago()).skipped == ["after", "always"]


def test_airflow_keeps_what_a_guard_skipped_skipped() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("pipeline", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        SaysOperator(task_id="g", says=[], on_failure="skip_downstream") >> BaseOperator(task_id="after")
        SaysOperator.partial(task_id="m", on_failure="skip_downstream").expand(word=["a", "b"])
    read = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert read.task_dict["g"].inherits_from_skipmixin
    assert read.task_dict["m"].inherits_from_skipmixin


def test_a_sensor_whose_checks_all_raised_still_says_so_on_time_out(run_task: RunTask) -> None:
    sensor = SaysSensor(task_id="s", says=RuntimeError("x"), timeout=60, silent_fail=True)
    ran = run_task(sensor, first_poke=long_ago(), retries_left=False)
    assert ran.state == "failed"
    assert "the last check did not come to its end" in str(ran.error)


def test_a_sensor_with_soft_fail_is_skipped(run_task: RunTask) -> None:
    assert run_task(SaysSensor(task_id="s", says=[BAD], timeout=60, soft_fail=True), first_poke=long_ago()).state == "skipped"


def test_what_cannot_work_is_not_skipped_softly(run_task: RunTask) -> None:
    for soft in ({"soft_fail": True}, {"never_fail": True}):
        ran = run_task(SaysSensor(task_id="s", says=[BAD], policy={"fail_onn": "low"}, **soft))
        assert ran.state == "failed"
        assert "fail_onn" in str(ran.error)


def test_a_report_that_cannot_be_made_is_no_summary(run_task: RunTask, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: Any, **__: Any) -> Any:
        raise AttributeError

    monkeypatch.setattr("airflow_pipesec.guards.base.report", breaks)
    ran = run_task(SaysOperator(task_id="g", says=[GOOD]))
    assert ran.state != "success"
    assert "return_value" not in ran.xcoms


def test_trouble_in_a_poke_uses_the_retries(run_task: RunTask) -> None:
    assert run_task(SaysSensor(task_id="s", says=OSError("gone")), retries_left=True).state == "up_for_retry"


def test_a_sensor_in_poke_mode_works_too(run_task: RunTask) -> None:
    ran = run_task(SaysSensor(task_id="s", says=[BAD], mode="poke", poke_interval=0.01, timeout=0.05))
    assert ran.state == "failed"


def test_a_misspelt_parameter_is_refused_when_the_dag_is_parsed() -> None:
    with pytest.raises(TypeError, match="worrd"):
        SaysOperator(task_id="g", worrd="x")


def test_constructors_take_default_args_and_report_what_is_missing() -> None:
    from airflow_pipesec.operators import HashVerificationOperator

    with DAG("d", schedule=None, default_args={"root": "/data", "policy": {"fail_on": "low"}}):
        guard = HashVerificationOperator(task_id="g", expected="0" * 64)
    assert (guard.root, guard.policy) == ("/data", {"fail_on": "low"})
    with pytest.raises(TypeError, match="root"):
        HashVerificationOperator(task_id="g")


def test_an_xcom_as_parameter_makes_the_dependency() -> None:
    from airflow_pipesec.operators import HashVerificationOperator

    with DAG("d", schedule=None):
        before = BaseOperator(task_id="before")
        guard = HashVerificationOperator(task_id="g", root="/data", expected=before.output)
    assert guard.upstream_task_ids == {"before"}


def test_guards_serialize_and_map_without_losing_a_parameter() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator
    from airflow_pipesec.sensors import HashVerificationSensor

    with DAG("d", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        HashVerificationOperator(task_id="one", root="/a", manifest="/m", policy={"fail_on": "high"})
        HashVerificationSensor(task_id="two", root="/a", expected={"x": "0" * 64})
        HashVerificationOperator.partial(task_id="many", manifest="/m").expand(root=["/a", "/b"])
        DataValidationOperator(task_id="rows", path="/a.csv", suite={"name": "s", "expectations": []})
    data = DagSerialization.to_dict(dag)
    text = json.dumps(data)
    assert "object at 0x" not in text
    again = DagSerialization.from_dict(json.loads(text))
    assert set(again.task_ids) == {"one", "two", "many", "rows"}
    assert again.get_task("one").policy == {"fail_on": "high"}
    assert again.get_task("many").expand_input.value == {"root": ["/a", "/b"]}


def test_a_connection_that_is_not_there_is_named_and_not_gone_without(run_task: RunTask) -> None:
    from airflow_pipesec.operators import DataValidationOperator, HashVerificationOperator, RBACAssertionOperator

    tasks = {
        "aws_conn_id": HashVerificationOperator(task_id="a", root="s3://b/x", expected="0" * 64, aws_conn_id="nobodys"),
        "conn_id": DataValidationOperator(
            task_id="b", table="t", conn_id="nobodys", checks={"enough": {"check_statement": "COUNT(*) > 1"}}
        ),
        "airflow_conn_id": RBACAssertionOperator(task_id="c", allowed_users=["vera"], airflow_conn_id="nobodys"),
    }
    for parameter, operator in tasks.items():
        ran = run_task(operator, user="vera")
        assert ran.state == "failed"
        assert f"{parameter}= names connection nobodys, which Airflow does not have" in str(ran.error)


def test_a_check_that_cannot_work_says_why_once(run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    ran = run_task(SaysOperator(task_id="g", says=[GOOD], policy={"fail_on": "loud"}))
    text = "".join(capfd.readouterr())
    assert ran.error is not None
    assert ran.error.__suppress_context__
    assert "ERROR  g: the check broke off because the policy is not valid: fail_on: must be one of" in text


def test_a_sensor_that_waits_does_not_cry(run_task: RunTask, capfd: pytest.CaptureFixture[str]) -> None:
    run_task(SaysSensor(task_id="s", says=[BAD]))
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "is-good" in line]
    assert lines
    assert all("[warning" in line for line in lines)
