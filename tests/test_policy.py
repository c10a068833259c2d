"""Policy: what was examined and found good passes, and nothing else does."""

from __future__ import annotations

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.errors import PolicyError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.policy import Outcome, Policy, Verdict, report

TODAY = date(2026, 11, 24)
CONTROL = Control("is-good", "It is good", Severity.HIGH, remedy="Make it good.")
WAIVER = {"control": "is-good", "subject": "/data/*", "reason": "ticket 4711", "approver": "vera", "expires": "2026-11-24"}


def finding(status: Status = Status.FAIL, severity: Severity = Severity.HIGH, subject: str = "/data/a") -> Finding:
    return Finding(CONTROL, Subject(subject), status, "seen", severity=severity)


def judge(*findings: Finding, policy: Any = None) -> Verdict:
    return Policy.load(policy).judge(findings, today=TODAY)


def waiving(**changes: Any) -> dict[str, Any]:
    return {"waivers": [WAIVER | changes]}


def test_a_pass_passes() -> None:
    assert judge(finding(Status.PASS)).passed


def test_nothing_examined_fails() -> None:
    assert judge().outcome is Outcome.FAILED
    assert "nothing was examined" in judge().reason
    assert not judge(finding(Status.SKIP), finding(Status.SKIP)).passed


@pytest.mark.parametrize("fail_on", list(Severity))
@pytest.mark.parametrize("severity", list(Severity))
def test_a_failure_blocks_from_the_threshold_up(severity: Severity, fail_on: Severity) -> None:
    verdict = judge(finding(severity=severity), finding(Status.PASS), policy={"fail_on": fail_on.label})
    assert verdict.passed == (severity < fail_on)
    assert len(verdict.judged) == 2


def test_an_error_blocks_whatever_its_severity() -> None:
    assert not judge(finding(Status.ERROR, Severity.INFO), finding(Status.PASS), policy={"fail_on": "critical"}).passed


def test_the_summary_says_which_waivers_were_relied_on_and_until_when() -> None:
    other = Control("is-other", "It is other", Severity.HIGH, remedy="Make it so.")
    waivers = [
        WAIVER | {"expires": "2027-01-31"},
        WAIVER | {"subject": "/other/*", "expires": "2027-01-31"},  # beside the one above it tells nothing more
        WAIVER | {"control": "is-other"},
        WAIVER | {"control": "is-unused"},
        WAIVER | {"expires": "2026-11-23"},
    ]
    found = [
        finding(),
        finding(subject="/data/b"),
        finding(subject="/other/a"),
        Finding(other, Subject("/data/a"), Status.FAIL, ""),
    ]
    summary = judge(*found, finding(Status.PASS), policy={"waivers": waivers}).summary()
    assert summary["waived"] == 4
    assert summary["waivers"] == [
        {"control": "is-other", "expires": "2026-11-24"},
        {"control": "is-good", "expires": "2027-01-31"},
    ]
    text = json.dumps(summary)
    assert not [secret for secret in ("/data", "/other", "4711", "vera") if secret in text]
    assert judge(finding(Status.PASS), policy=waiving()).summary()["waivers"] == []


def test_the_summary_names_at_most_twenty_waivers_those_that_end_first() -> None:
    days = [date(2027, 1, 1 + number) for number in range(30)]
    waivers = [WAIVER | {"subject": f"/data/{day}", "expires": str(day)} for day in reversed(days)]
    found = [finding(subject=f"/data/{day}") for day in days]
    told = judge(*found, policy={"waivers": waivers}).summary()["waivers"]
    assert [waiver["expires"] for waiver in told] == [str(day) for day in days[:20]]


def test_a_waiver_excuses_its_control_on_its_subjects_and_stays_visible() -> None:
    verdict = judge(finding(), finding(Status.PASS), policy=waiving())
    assert verdict.passed
    item = verdict.judged[0]
    assert item.waiver is not None
    assert not item.blocks
    assert verdict.summary()["waived"] == 1
    assert "WAIVED" in "\n".join(line.text for line in report(verdict, title="t"))


@pytest.mark.parametrize("changes", [{"control": "is-other"}, {"subject": "/other/*"}, {"subject": "/DATA/*"}])
def test_a_waiver_for_something_else_does_nothing_and_is_reported(changes: dict[str, str]) -> None:
    verdict = judge(finding(), policy=waiving(**changes))
    assert not verdict.passed
    assert [w.reason for w in verdict.unused_waivers] == ["ticket 4711"]
    assert "matched nothing" in "\n".join(line.text for line in report(verdict, title="t"))


def test_a_waiver_applies_on_its_last_day_and_not_after() -> None:
    assert judge(finding(), finding(Status.PASS), policy=waiving(expires="2026-11-24")).passed
    late = judge(finding(), finding(Status.PASS), policy=waiving(expires="2026-11-23"))
    assert not late.passed
    assert len(late.expired_waivers) == 1
    assert late.unused_waivers == ()


def test_a_waiver_covers_errors_only_where_it_says_so() -> None:
    assert not judge(finding(Status.ERROR), finding(Status.PASS), policy=waiving()).passed
    assert judge(finding(Status.ERROR), finding(Status.PASS), policy=waiving(include_errors=True)).passed


def test_a_waiver_is_no_evidence() -> None:
    verdict = judge(finding(), policy=waiving())
    assert not verdict.passed
    assert "nothing passed" in verdict.reason


def test_a_waiver_behind_another_one_is_not_called_useless() -> None:
    both = {"waivers": [WAIVER, WAIVER | {"subject": "*", "reason": "ticket 4712"}]}
    assert judge(finding(), finding(Status.PASS), policy=both).unused_waivers == ()


def test_the_document_tells_of_every_waiver() -> None:
    late, idle = WAIVER | {"expires": "2026-11-23", "reason": "late"}, WAIVER | {"subject": "/nope", "reason": "idle"}
    document = judge(finding(), finding(Status.PASS), policy={"waivers": [WAIVER, late, idle]}).document()
    assert [waiver["reason"] for waiver in document["expired_waivers"]] == ["late"]
    assert [waiver["reason"] for waiver in document["unused_waivers"]] == ["idle"]
    assert document["details"][0]["waived"] == WAIVER


def test_what_passes_is_summed_as_well() -> None:
    verdict = judge(*[finding(Status.PASS, subject=f"/data/{number}") for number in range(100_000)])
    assert verdict.passed
    assert sum(item.finding.count for item in verdict.judged) == 100_000
    assert len(verdict.judged) <= 101


@pytest.mark.parametrize("day", ["2030-W01-1", "password=hunter2", "20300101", 20300101, "2030-02-31", "2030-01-01T00:00"])
def test_a_day_that_is_none_is_refused_without_quoting_it(day: Any) -> None:
    with pytest.raises(PolicyError, match=r"waivers.0.expires: .*must be a day such as") as raised:
        Policy.load(waiving(expires=day))
    assert str(day) not in str(raised.value)


findings = st.builds(
    finding, st.sampled_from(Status), st.sampled_from(Severity), st.sampled_from(["/data/a", "/data/b", "/other"])
)
policies = st.fixed_dictionaries(
    {"fail_on": st.sampled_from([s.label for s in Severity])},
    optional={"waivers": st.lists(st.sampled_from([WAIVER, WAIVER | {"subject": "*", "include_errors": True}]), max_size=2)},
)


@given(st.lists(findings, max_size=6), st.builds(finding, st.sampled_from([Status.FAIL, Status.ERROR])), policies)
def test_adding_a_failure_never_improves_a_verdict(items: list[Finding], more: Finding, policy: dict[str, Any]) -> None:
    before, after = judge(*items, policy=policy), judge(*items, more, policy=policy)
    assert before.passed or not after.passed


@given(st.lists(findings, max_size=40), st.integers(1, 5), policies)
def test_many_findings_alike_are_summed_after_each_was_judged(items: list[Finding], limit: int, policy: dict[str, Any]) -> None:
    whole = Policy.load(policy).judge(items, today=TODAY)
    capped = Policy.load(policy).judge(items, today=TODAY, limit=limit)
    assert (capped.outcome, capped.reason.partition(":")[0]) == (whole.outcome, whole.reason.partition(":")[0])
    for status in Status:
        for waiver in {None, *(item.waiver for item in whole.judged)}:
            before = [item for item in whole.judged if (item.finding.status, item.waiver) == (status, waiver)]
            after = [item for item in capped.judged if (item.finding.status, item.waiver) == (status, waiver)]
            assert sum(item.finding.count for item in before) == sum(item.finding.count for item in after)
            assert max((i.finding.level for i in before), default=None) == max((i.finding.level for i in after), default=None)
            if status in (Status.FAIL, Status.ERROR):
                assert len(after) <= 2 * (limit + 1)


def test_a_waiver_neither_misses_nor_takes_what_is_summed() -> None:
    many = [finding(subject=f"/data/{number}") for number in range(150)]
    assert judge(*many, finding(Status.PASS), policy=waiving()).passed
    assert not judge(*many, *[finding(subject=f"/other/{n}") for n in range(150)], policy=waiving(subject="*s")).passed


def test_a_failure_below_the_threshold_is_no_evidence() -> None:
    verdict = judge(finding(severity=Severity.LOW), finding(Status.SKIP))
    assert not verdict.passed
    assert "nothing was found good" in verdict.reason
    assert judge(finding(severity=Severity.LOW), finding(Status.PASS)).passed


@given(st.lists(findings, min_size=1, max_size=6), policies, st.randoms())
def test_the_order_of_findings_does_not_matter(items: list[Finding], policy: dict[str, Any], chance: Any) -> None:
    shuffled = list(items)
    chance.shuffle(shuffled)
    assert judge(*items, policy=policy).outcome is judge(*shuffled, policy=policy).outcome


@given(st.lists(findings, max_size=6), policies)
def test_no_finding_is_ever_dropped(items: list[Finding], policy: dict[str, Any]) -> None:
    assert [item.finding for item in judge(*items, policy=policy).judged] == items


@given(st.lists(findings, max_size=6))
def test_a_passed_verdict_has_no_blocking_finding_and_examined_something(items: list[Finding]) -> None:
    verdict = judge(*items)
    assert verdict.passed == (not verdict.blocking and any(item.status is Status.PASS for item in items))


def test_the_reason_of_a_pass_says_what_was_let_be() -> None:
    passing, low = finding(Status.PASS), finding(severity=Severity.LOW)
    assert judge(passing).reason == "every control held"
    assert judge(passing, low, low).reason == "nothing blocks: 2 below the threshold"
    assert judge(passing, low, finding(), policy=waiving()).reason == "nothing blocks: 2 waived"


def test_the_machine_report_is_json_with_every_finding() -> None:
    document = json.loads(json.dumps(judge(finding(), finding(Status.PASS), policy=waiving()).document()))
    assert [item["status"] for item in document["details"]] == ["fail", "pass"]
    assert document["details"][0]["waived"]["approver"] == "vera"


def test_a_policy_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        "fail_on: critical\nwaivers:\n  - control: is-good\n    subject: '*'\n"
        "    reason: r\n    approver: a\n    expires: 2027-01-31\n"
    )
    policy = Policy.load(path)
    assert policy.fail_on is Severity.CRITICAL
    assert policy.waivers[0].expires == date(2027, 1, 31)


ENTRY = "waivers:\n  - {control: c, subject: s, reason: r, approver: a, expires: 2027-01-31"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("fail_onn: high", "fail_onn"),
        ("fail_on: high\nfail_on: low", "given twice"),
        ("fail_on: High", "must be one of"),
        ("fail_on: 30", "must be one of"),
        ("fail_on:", "must be one of"),
        ("- high", "no mapping"),
        ("", "no mapping"),
        ("fail_on: [", "not valid YAML"),
        ("a: &x [1]\nb: *x", "aliases"),
        ("fail_on: !!python/object/apply:os.system [id]", "not valid YAML"),
        (ENTRY.replace("reason: r", "reason: ''") + "}", "waivers.0.reason"),
        (ENTRY.replace("approver: a", "approver: '  '") + "}", "waivers.0.approver"),
        (ENTRY.replace(", expires: 2027-01-31", "") + "}", "waivers.0.expires"),
        (ENTRY.replace("2027-01-31", "2027-01-31 10:00:00") + "}", "must be a day"),
        (ENTRY.replace("2027-01-31", "20") + "}", "must be a day"),
        (ENTRY.replace("2027-01-31", "never") + "}", "waivers.0.expires"),
        (ENTRY + ", include_errors: 'yes'}", "include_errors"),
        (ENTRY + ", extra: 1}", "waivers.0.extra"),
        ("[a, b]: c", "not valid YAML"),
        (ENTRY.replace("2027-01-31", "2027-02-31") + "}", "waivers.0.expires"),
        ("fail_on: !!int abc", "value cannot be read"),
        ("fail_on: !!bool foo", "value cannot be read"),
        ("1: 2", "not text"),
        ("\n".join(f"k{number}: 1" for number in range(20_000)), "and 19995 more"),
    ],
)
def test_a_policy_that_is_not_quite_right_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    with pytest.raises(PolicyError, match=reason):
        Policy.load(path)


@pytest.mark.parametrize("text", ["root:*:20228:0:99999:7:::\nbin:x: y\n", "secret line one: hunter2\n", "[ hunter2\n  : {"])
def test_what_is_refused_as_a_policy_is_not_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "policy.yaml").write_text(text)
    with pytest.raises(PolicyError) as caught:
        Policy.load(tmp_path / "policy.yaml")
    assert not {"hunter2", "20228", "secret"} & set(str(caught.value).replace(":", " ").split())


def test_a_pipe_is_no_policy_and_nobody_waits_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(PolicyError, match="plain file"):
        Policy.load(tmp_path / "pipe")


@pytest.mark.parametrize("source", [3, [], False, 0, "", "a\0b", b"x"])
def test_what_is_no_policy_is_refused(source: Any) -> None:
    with pytest.raises(PolicyError):
        Policy.load(source)


def test_no_waiver_forges_a_line_of_the_report() -> None:
    verdict = judge(finding(Status.PASS), policy=waiving(control="x\n  PASSED forged", reason="r\x1b[31m"))
    lines = [line.text for line in report(verdict, title="t\n\x1b[31mPASSED")]
    assert all(line.isprintable() for line in lines)


def test_a_policy_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x80")
    (tmp_path / "huge").write_bytes(b"#" * (1 << 21))
    for path in (tmp_path / "missing", tmp_path, tmp_path / "binary", tmp_path / "huge"):
        with pytest.raises(PolicyError, match=str(path)):
            Policy.load(path)


def test_the_report_shows_the_worst_first_with_its_remedy() -> None:
    verdict = judge(finding(Status.PASS), finding(severity=Severity.LOW), finding())
    reported = list(report(verdict, title="t", seconds=1.5))
    lines = [line.text for line in reported]
    assert lines[0].startswith("FAILED  t: 1 failed in 1.50 s")
    shown = [line.split()[:2] for line in lines[2:] if "remedy" not in line]
    assert shown == [["FAIL", "high"], ["FAIL", "low"], ["PASS", "high"]]
    assert sum("remedy: Make it good." in line for line in lines) == 1
    alarming = [line.text.split()[0] for line in reported if line.alarming]
    assert alarming == ["FAILED", "FAIL", "remedy:"], "what holds, or is below the threshold, alarms nobody"


def test_what_all_names_have_in_common_is_said_once() -> None:
    verdict = judge(finding(subject="s3://bucket/run-7/raw/a"), finding(Status.PASS, subject="s3://bucket/run-7/raw.json"))
    lines = [line.text for line in report(verdict, title="t")]
    assert lines[1] == "  subjects are under s3://bucket/run-7/"
    assert lines[3].endswith("  raw/a: seen")
    assert lines[-1].endswith("  raw.json: seen")


def test_what_is_waived_is_counted_as_waived_and_not_by_its_severity() -> None:
    found = judge(finding(), finding(subject="/other"), policy=waiving()).summary()
    assert (found["waived"], found["by_severity"]["high"], found["by_status"]["fail"]) == (1, 1, 2)
