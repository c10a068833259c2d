"""Run reports: both documents say what the evidence says, are valid, and know an alert again in the next run."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from airflow_pipesec.attestation import Attempt, Attestation
from airflow_pipesec.checks.release import EVIDENCE_PRESENT, GATE, verify_stored
from airflow_pipesec.evidence import Witness
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject
from airflow_pipesec.policy import Policy
from airflow_pipesec.run_report import findings_document, findings_sarif
from airflow_pipesec.signing import TrustedKeys, entry_of, new_private_key
from tests.conftest import PROJECT
from tests.fuzz_evidence import HOSTILE, TRUSTED
from tests.test_evidence import Run, chain

SCHEMA = json.loads((PROJECT / "tests" / "vectors" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
T = datetime(2026, 11, 25, 3, tzinfo=UTC)
RUN = "manual__2026-11-25T03:00:00+00:00"
DIGEST = "sha256:" + "ab" * 32
WAIVER = {"control": "no-extra", "subject": "*", "reason": "Ticket 4711.", "approver": "vera", "expires": "2026-12-01"}
TOLD = {
    "matches": {
        "title": "It is what was signed",
        "severity": "critical",
        "remedy": "Restore it.",
        "references": ["CWE-354", "AML"],
    },
    "no-extra": {"title": "Nothing is beside it", "severity": "low", "remedy": "Look.", "references": []},
}
GOOD = Finding(EVIDENCE_PRESENT, Subject("guards upstream"), Status.PASS, "2 guards: left evidence", count=2)


def found(control: str = "matches", status: str = "fail", subject: str = "/data/model.bin", **more: Any) -> dict[str, Any]:
    item: dict[str, Any] = {"control": control, "status": status, "severity": "high", "blocks": status in ("fail", "error")}
    item |= {"subject": subject, "digest": None, "version": None, "message": "is another one", "count": 1, "waived": None}
    return item | more


def witness(*findings: dict[str, Any], task: str = "verify", index: int = -1, run: str = RUN, **more: Any) -> Witness:
    attempt = Attempt("train", run, task, index, 2, f"019abcde-0000-7000-8000-00000000000{abs(index)}")
    attested = Attestation(attempt, "a.Guard", "FAILED", "1 failed", T, T, findings=findings, controls=TOLD)
    return Witness(replace(attested, **more), next(iter(TRUSTED)), "cd" * 32, "name")


def document(*witnesses: Witness, verification: Any = (GOOD,)) -> dict[str, Any]:
    made = findings_document("train", RUN, iter(witnesses), iter(verification))
    assert json.loads(json.dumps(made)) == made, "JSON types alone"
    return made


def log_of(*witnesses: Witness, verification: Any = (GOOD,), run: str = RUN) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(json.dumps(findings_sarif("train", run, iter(witnesses), iter(verification))))
    assert list(Draft4Validator(SCHEMA).iter_errors(log)) == []
    (one,) = log["runs"]
    for result in one["results"]:
        assert one["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
    return one  # type: ignore[no-any-return] # of a log


def results(*witnesses: Witness, verification: Any = (GOOD,), run: str = RUN) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = log_of(*witnesses, verification=verification, run=run)["results"]
    return listed


def prints(*witnesses: Witness, run: str = RUN) -> list[str]:
    return [result["partialFingerprints"]["pipesec/v1"] for result in results(*witnesses, run=run)]


# ---- the document


def test_the_document_has_every_finding_with_what_its_control_is() -> None:
    waived = found("no-extra", waived=WAIVER, blocks=False, severity="low")
    made = document(witness(found(digest=DIGEST, version="v1", count=3), waived, found(status="pass"), more_findings=7, index=3))
    assert (made["format"], made["version"]) == ("airflow-pipesec/findings", 1)
    assert made["run"] == {"dag_id": "train", "run_id": RUN}
    first, second, third = made["findings"]
    assert first == {
        "task_id": "verify",
        "map_index": 3,
        "control": "matches",
        "title": "It is what was signed",
        "remedy": "Restore it.",
        "references": ["CWE-354", "AML"],
        "status": "fail",
        "severity": "high",
        "blocks": True,
        "subject": "/data/model.bin",
        "digest": DIGEST,
        "version": "v1",
        "message": "is another one",
        "count": 3,
        "waived": None,
    }
    assert (second["waived"], second["title"]) == (WAIVER, "Nothing is beside it")
    assert third["status"] == "pass"
    (guard,) = made["guards"]
    assert (guard["task_id"], guard["map_index"], guard["outcome"], guard["findings"]) == ("verify", 3, "FAILED", 3)
    assert (guard["more_findings"], guard["attestation"], guard["key"]["name"]) == (7, "sha256:" + "cd" * 32, "key 0")
    (checked,) = made["verification"]
    assert (checked["control"], checked["title"]) == ("evidence-present", EVIDENCE_PRESENT.title)


def test_guards_are_in_order_whatever_order_they_come_in() -> None:
    there = [witness(task="b"), witness(task="a", index=1), witness(task="a", index=0)]
    assert [(one["task_id"], one["map_index"]) for one in document(*there)["guards"]] == [("a", 0), ("a", 1), ("b", -1)]
    assert document(*there) == document(*reversed(there))


@pytest.mark.parametrize("statuses", [(), ("pass",), ("skip",), ("pass", "skip"), ("pass", "fail"), ("pass", "error"), ("fail",)])
def test_the_verdict_is_what_the_policy_makes_of_the_verification(statuses: tuple[str, ...]) -> None:
    checked = [replace(GOOD, status=Status(status)) for status in statuses]
    assert document(verification=checked)["verdict"] == str(Policy().judge(checked, today=T.date()).outcome)
    assert log_of(verification=checked)["properties"]["verdict"] == document(verification=checked)["verdict"]
    assert log_of(verification=checked)["invocations"] == [{"executionSuccessful": "error" not in statuses}]


def test_evidence_that_does_not_explain_itself_is_reported_as_well() -> None:
    old = witness(found(), controls={})
    (item,) = document(old)["findings"]
    assert (item["title"], item["references"]) == ("matches", [])
    assert item["remedy"]
    (result,) = results(old)
    assert result["ruleId"] == "matches"


# ---- SARIF


def test_a_control_is_a_rule_with_its_remedy_and_references() -> None:
    rules = {rule["id"]: rule for rule in log_of(witness(found()))["tool"]["driver"]["rules"]}
    assert set(rules) == {"matches", "no-extra", "evidence-present"}
    rule = rules["matches"]
    assert rule["shortDescription"]["text"] == "It is what was signed"
    assert "Restore it." in rule["help"]["text"]
    assert "**Remedy:** Restore it." in rule["help"]["markdown"]
    assert "**References:** CWE-354, AML" in rule["help"]["markdown"]
    assert rule["properties"]["tags"] == ["security", "external/cwe/cwe-354"]
    severities = [float(rules[name]["properties"]["security-severity"]) for name in ("no-extra", "matches")]
    assert 0 < severities[0] < 4 < 9 < severities[1] <= 10
    assert rules["no-extra"]["defaultConfiguration"]["level"] == "note"


def test_what_passed_or_was_skipped_is_no_result() -> None:
    assert results(witness(found(status="pass"), found(status="skip"))) == []
    assert [one["properties"]["status"] for one in results(witness(found(), found(status="error")))] == ["fail", "error"]


@pytest.mark.parametrize(
    ("severity", "level"),
    [("critical", "error"), ("high", "error"), ("medium", "warning"), ("low", "note"), ("info", "note"), ("odd", "error")],
)
def test_the_level_is_that_of_the_finding(severity: str, level: str) -> None:
    (result,) = results(witness(found(severity=severity)))
    assert result["level"] == level


def test_a_waived_finding_is_suppressed_with_who_and_why() -> None:
    (result, open_one) = results(witness(found("no-extra", waived=WAIVER, blocks=False), found()))
    (suppression,) = result["suppressions"]
    assert suppression["kind"] == "external"
    assert suppression["status"] == "accepted"
    assert suppression["justification"] == "Ticket 4711. Waived by vera until 2026-12-01."
    assert "suppressions" not in open_one


@pytest.mark.parametrize(
    ("subject", "uri"),
    [
        ("/data/a b#c.bin", "file:///data/a%20b%23c.bin"),
        ("s3://bucket/model/ü.bin", "s3://bucket/model/%C3%BC.bin"),
        ("https://example.org/m?X-Amz-Signature=secret", "https://example.org/m"),
        ("https://me:secret@example.org/m@1", "https://example.org/m@1"),
        ("column price", None),
        ("public.users", None),
        ("data/model.bin", None),
        ("", None),
    ],
)
def test_a_path_or_a_url_is_a_place_and_nothing_else_is(subject: str, uri: str | None) -> None:
    made = log_of(witness(found(subject=subject)))
    (location,) = made["results"][0]["locations"]
    there = location.get("physicalLocation", {}).get("artifactLocation", {}).get("uri")
    assert there == uri
    assert "secret" not in json.dumps(made)
    assert "secret" not in json.dumps(document(witness(found(subject=subject))))


def test_a_result_says_which_guard_saw_it() -> None:
    made = results(witness(found(), index=3), witness(found(), task="group.check"))
    names = [result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] for result in made]
    assert names == ["train.group.check", "train.verify[3]"]
    assert made[0]["properties"]["guard"] == "a.Guard"
    assert made[0]["properties"]["attestation"] == "sha256:" + "cd" * 32


def test_digests_are_properties() -> None:
    (result,) = results(witness(found(digest=DIGEST, version="v1")))
    assert (result["properties"]["digest"], result["properties"]["version"]) == (DIGEST, "v1")
    (result,) = results(witness(found()))
    assert "digest" not in result["properties"]


@pytest.mark.parametrize(
    ("subject", "place"),
    [
        ("guard verify", "train.verify"),
        ("guard verify[3]", "train.verify[3]"),
        ("evidence a%2Fb/-1.1.0.json", "train.a/b"),
        ("evidence other/x", "train.other"),
        ("release gate", "train"),
        ("/data/model", "train"),
    ],
)
def test_what_the_verification_found_is_a_result_at_its_guard(subject: str, place: str) -> None:
    bad = Finding(EVIDENCE_PRESENT, Subject(subject), Status.FAIL, "left no evidence")
    (result,) = results(witness(task="a/b"), verification=(bad, GOOD))
    assert result["ruleId"] == "evidence-present"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == place
    doubt = replace(bad, status=Status.ERROR)
    assert "could not be decided" in results(verification=(doubt,))[0]["message"]["text"]


def test_an_alert_is_the_same_in_the_next_run_and_no_two_are_one() -> None:
    other = "manual__2026-11-26T03:00:00+00:00"

    def of(run: str, message: str, more: int) -> list[str]:
        items = [
            found(message=message),
            found(message="the same thing, seen twice"),
            found("no-extra"),
            found(subject=f"/data/{run}/part"),
            found(subject=f"{more} more subjects"),
        ]
        return prints(witness(*items, run=run), witness(*items, run=run, index=0), run=run)

    assert of(RUN, "is one", 12) == of(other, "is another", 345)
    assert len(set(of(RUN, "is one", 12))) == 10
    assert log_of(run=other)["automationDetails"]["id"] == "pipesec/train/manual__2026-11-26T03%3A00%3A00%2B00%3A00"


def test_no_finding_at_all_is_a_valid_log() -> None:
    assert results(verification=()) == []
    assert document(verification=())["verdict"] == "FAILED"


@pytest.mark.parametrize("member", found())
def test_whatever_a_finding_holds_it_is_reported(member: str) -> None:
    """A trusted key signed it, and its members are open all the same: nothing in one breaks the report of the others."""
    for hostile in HOSTILE:
        made = document(witness(found(**{member: hostile} if hostile == hostile else {}), found("no-extra")))
        assert len(made["findings"]) == 2
        log_of(witness(found(**{member: hostile} if hostile == hostile else {}), found("no-extra")))
    bare = found()
    del bare[member]
    assert document(witness(bare))["findings"]
    assert results(witness(bare)), "what is not told counts as bad"
    assert document(witness({}))["findings"][0]["blocks"]
    assert [one["properties"]["status"] for one in results(witness({}))] == ["error"]
    assert [one["properties"]["status"] for one in results(witness(found(status="PASSED")))] == ["error"]


@given(st.text(min_size=1))
def test_no_text_forges_a_line_or_steers_a_terminal(text: str) -> None:
    told = {text: {"title": text, "severity": text, "remedy": text, "references": [text]}}
    one = witness(found(text, subject=text, message=text, waived={**WAIVER, "reason": text}), task=text, controls=told)
    log = findings_sarif(text, text, [one], [])
    assert list(Draft4Validator(SCHEMA).iter_errors(json.loads(json.dumps(log)))) == []
    (result,) = log["runs"][0]["results"]
    texts = [result["ruleId"], result["message"]["text"], result["suppressions"][0]["justification"]]
    texts += [result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"], log["runs"][0]["automationDetails"]["id"]]
    assert all(shown.isprintable() for shown in texts)


def test_a_real_run_is_reported(tmp_path: Path) -> None:
    signer = new_private_key(tmp_path / "key.pem")
    keys = TrustedKeys.parse(entry_of(signer.public_key, name="k", valid_from=T - timedelta(days=1)).encode())
    run = Run(tmp_path / "store", signer, run=RUN)
    run.attest("gate", {"seal": chain(run)["seal"]}, guard=GATE)
    now = T + timedelta(days=1)
    witnesses = [found[-1] for found in run.load(keys).attempts().values()]
    good = list(verify_stored(run.evidence, run.dag, RUN, keys, now=now))
    assert findings_document(run.dag, RUN, witnesses, good)["verdict"] == "PASSED"
    assert findings_sarif(run.dag, RUN, witnesses, good)["runs"][0]["results"] == []
    next((run.root).rglob("verify/*.json")).unlink()
    bad = list(verify_stored(run.evidence, run.dag, RUN, keys, now=now))
    assert findings_document(run.dag, RUN, witnesses, bad)["verdict"] == "FAILED"
    log = findings_sarif(run.dag, RUN, witnesses, bad)
    assert {result["ruleId"] for result in log["runs"][0]["results"]} == {"evidence-present", "evidence-linked"}


def test_a_control_of_the_verification_is_told_as_it_is_now() -> None:
    mine = Control("matches", "It is mine", Severity.LOW, "Mend it.", ("CWE-1",))
    bad = Finding(mine, Subject("guard verify"), Status.FAIL, "is bad")
    assert {item["title"] for item in document(witness(found()), verification=(bad,))["findings"]} == {"It is mine"}
