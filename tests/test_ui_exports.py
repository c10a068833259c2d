"""Exports: what is downloaded of a run stands by itself: its evidence verifies elsewhere, and nothing in a file asks for more."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from jsonschema import Draft4Validator

from airflow_pipesec import __version__
from airflow_pipesec.checks.integrity import DIGEST_MATCHES, NO_SYMLINKS
from airflow_pipesec.checks.quality import DATA_PRESENT, EXPECTATIONS_MET
from airflow_pipesec.cli import main
from airflow_pipesec.evidence import folder_of
from airflow_pipesec.findings import Finding, Status, Subject
from airflow_pipesec.policy import Waiver
from tests.airflow_world import MAPPED, Played, add_dag, add_run, naked_pipeline, plain_pipeline
from tests.conftest import PROJECT
from tests.separating import Server, serving

pytestmark = pytest.mark.usefixtures("airflow_db")
SCHEMA = json.loads((PROJECT / "tests" / "vectors" / "sarif-2.1.0.json").read_text(encoding="utf-8"))
DAG, NAKED, MAPPED_DAG = "exported", "exported_naked", "exported_mapped"
MIDDLE = "validate_preprocess"
HOSTILE = "\"'></style></title><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}"


@pytest.fixture(scope="module")
def server(airflow_db: Path) -> Iterator[Server]:
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def dag(airflow_db: Path) -> Any:
    made = plain_pipeline(DAG, on_failure={"record_train": "warn"})
    add_dag(made)
    return made


@pytest.fixture(scope="module")
def mapped(airflow_db: Path) -> Any:
    made = plain_pipeline(MAPPED_DAG, mapped=True)
    add_dag(made)
    return made


def get(server: Server, name: str, run_id: str, dag_id: str = DAG) -> Any:
    return server.reader(dag_id).get(f"/pipesec/{name}", params={"dag_id": dag_id, "run_id": run_id})


def downloaded(server: Server, name: str, run_id: str, dag_id: str = DAG) -> Any:
    answer = get(server, name, run_id, dag_id)
    assert answer.status_code == 200, answer.text
    return answer


def verified(archive: bytes, tmp_path: Path, run_id: str, dag_id: str = DAG, *more: str) -> int:
    """What `pipesec verify-run` says of an archive."""
    path = tmp_path / "evidence.zip"
    path.write_bytes(archive)
    keys = os.environ["AIRFLOW__PIPESEC__TRUSTED_KEYS"]
    return main(["verify-run", str(path), dag_id, run_id, "--trusted-keys", keys, *more])


# ---- evidence.zip


def test_the_evidence_of_a_good_run_verifies_elsewhere(
    server: Server, dag: Any, evidence: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_run(dag, "zip good", plays={"verify_collect": Played.RETRIED})
    answer = downloaded(server, "evidence.zip", "zip good")
    assert answer.headers["content-type"] == "application/zip"
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert verified(answer.content, tmp_path, "zip good") == 0
    assert "PASSED" in capsys.readouterr().out
    assert verified(answer.content, tmp_path, "another run") == 1, "it is the evidence of this run alone"


def test_the_evidence_of_a_mapped_guard_is_in_it(server: Server, mapped: Any, evidence: Path, tmp_path: Path) -> None:
    add_run(mapped, "zip mapped")
    content = downloaded(server, "evidence.zip", "zip mapped", MAPPED_DAG).content
    assert verified(content, tmp_path, "zip mapped", MAPPED_DAG) == 0
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert sum(f"/{MIDDLE}/" in name for name in archive.namelist()) == MAPPED


@pytest.mark.parametrize(
    "play", [Played.TAMPERED, Played.FORGED, Played.REMOVED, Played.RELINKED, Played.MARKED, Played.OVERRIDDEN]
)
def test_the_evidence_of_a_run_that_does_not_verify_does_not_verify_elsewhere(
    server: Server, dag: Any, evidence: Path, tmp_path: Path, play: Played
) -> None:
    run_id = f"zip {play}"
    add_run(dag, run_id, plays={MIDDLE: play})
    assert verified(downloaded(server, "evidence.zip", run_id).content, tmp_path, run_id) == 1


def test_an_archive_in_which_a_byte_was_changed_is_refused(server: Server, dag: Any, evidence: Path, tmp_path: Path) -> None:
    add_run(dag, "zip changed")
    content = bytearray(downloaded(server, "evidence.zip", "zip changed").content)
    place = content.index(b'"payload":"') + 400
    content[place] ^= 1
    assert verified(bytes(content), tmp_path, "zip changed") in (1, 2)
    # And so is one that was packed anew.
    out = io.BytesIO()
    whole = downloaded(server, "evidence.zip", "zip changed").content
    with zipfile.ZipFile(io.BytesIO(whole)) as there, zipfile.ZipFile(out, "w") as made:
        for name in there.namelist():
            data = bytearray(there.read(name))
            if f"/{MIDDLE}/" in name:
                data[data.index(b'"payload":"') + 400] ^= 1
            made.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), bytes(data))
    assert verified(out.getvalue(), tmp_path, "zip changed") == 1


def test_the_archive_is_the_runs_folder_byte_for_byte(server: Server, dag: Any, evidence: Path) -> None:
    add_run(dag, "zip bytes")
    place = evidence / folder_of(DAG, "zip bytes")
    there = {f"evidence/{path.relative_to(evidence)}": path.read_bytes() for path in place.rglob("*") if path.is_file()}
    with zipfile.ZipFile(io.BytesIO(downloaded(server, "evidence.zip", "zip bytes").content)) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    assert b"zip bytes" in found.pop("README.txt")
    assert found == there
    assert len(there) == 6, "one of each guard, and the gate's summary"


def test_a_large_archive_comes_whole(server: Server, dag: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_run(dag, "zip large")
    small = downloaded(server, "evidence.zip", "zip large").content
    monkeypatch.setattr("airflow_pipesec.ui.exports.IN_MEMORY", 1)
    monkeypatch.setattr("airflow_pipesec.ui.exports.PIECE", 1000)
    assert downloaded(server, "evidence.zip", "zip large").content == small


def test_a_run_that_left_no_evidence_has_none_to_download(server: Server, dag: Any, evidence: Path) -> None:
    add_run(dag, "zip none")
    shutil.rmtree(evidence / folder_of(DAG, "zip none"))
    answer = get(server, "evidence.zip", "zip none")
    assert (answer.status_code, answer.json()["detail"]) == (404, "This run has left no evidence.")
    naked = naked_pipeline(NAKED)
    add_dag(naked)
    add_run(naked, "zip naked")
    assert get(server, "evidence.zip", "zip naked", NAKED).status_code == 404
    assert get(server, "evidence.zip", "no such run").status_code == 404


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("{tmp}/file", "Give a path of plain folders."),
        ("file://{tmp}/file", "Give a path of plain folders."),
        ("nosuch://bucket/prefix", "nosuch:// URLs cannot be read here"),
        ("s3://no_such_connection@bucket/prefix", "names connection no_such_connection, which Airflow does not have"),
    ],
)
def test_evidence_that_cannot_be_read_is_told_as_that(
    server: Server, dag: Any, evidence: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    run_id = f"unread.{url.partition(':')[0].strip('{}/')}"
    add_run(dag, run_id)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", url.format(tmp=tmp_path))
    answer = get(server, "evidence.zip", run_id)
    assert answer.status_code == 502
    told = answer.json()["detail"]
    assert told.startswith("The evidence could not be read: ")
    assert said in told
    elsewhere = told.replace(f"{tmp_path}/file/{folder_of(DAG, run_id)}", "THERE")
    assert not re.search(r"(?<![:/\w])/\w", elsewhere), "no path of this machine but the one that is configured"


@pytest.mark.parametrize("scheme", ["ftp", "http"])
def test_a_store_that_does_not_answer_is_told_as_that_and_no_secret_of_its_url_is(
    server: Server, dag: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    add_run(dag, f"silent.{scheme}")
    monkeypatch.setenv("AIRFLOW__PIPESEC__EVIDENCE_URL", f"{scheme}://127.0.0.1:9/prefix?token=hunter2")
    for name in ("evidence.zip", "report.html", "findings.json"):
        answer = get(server, name, f"silent.{scheme}")
        assert "hunter2" not in answer.text
        assert answer.status_code == (502 if name == "evidence.zip" else 200)


# ---- documents


def test_the_findings_are_a_document_with_what_the_evidence_says(server: Server, dag: Any, evidence: Path) -> None:
    bad = Finding(NO_SYMLINKS, Subject("/data/link"), Status.FAIL, "is a symbolic link")
    good = Finding(DIGEST_MATCHES, Subject("/data/file", "sha256:" + "ab" * 32), Status.PASS, "1 file matches")
    waiver = Waiver("no-symlinks", "/data/*", "Ticket 4711.", "vera@example.org", date(2999, 1, 1))
    add_run(dag, "json", findings={"verify_collect": [bad, good]}, waivers={"verify_collect": [waiver]})
    answer = downloaded(server, "findings.json", "json")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert (document["run"], document["verdict"]) == ({"dag_id": DAG, "run_id": "json"}, "PASSED")
    assert {guard["task_id"] for guard in document["guards"]} == {
        *("record_collect", "verify_collect", "validate_preprocess", "record_train", "release_gate")
    }
    mine = [item for item in document["findings"] if item["task_id"] == "verify_collect"]
    assert {(item["control"], item["status"], item["blocks"]) for item in mine} == {
        ("no-symlinks", "fail", False),
        ("digest-matches", "pass", False),
    }
    (waived,) = [item for item in mine if item["waived"]]
    assert waived["waived"]["approver"] == "vera@example.org"
    assert {item["status"] for item in document["verification"]} == {"pass"}


@pytest.mark.parametrize("play", [Played.OVERRIDDEN, Played.TAMPERED, Played.REMOVED, Played.FAILED, Played.MARKED])
def test_the_verdict_of_a_run_that_did_not_pass_is_that_it_failed(server: Server, dag: Any, evidence: Path, play: Played) -> None:
    run_id = f"json {play}"
    add_run(dag, run_id, plays={MIDDLE: play})
    document = downloaded(server, "findings.json", run_id).json()
    assert document["verdict"] == "FAILED"
    assert any(item["subject"].startswith((f"guard {MIDDLE}", f"evidence {MIDDLE}")) for item in document["verification"])


def sarif(server: Server, run_id: str, dag_id: str = DAG) -> dict[str, Any]:
    log = downloaded(server, "findings.sarif", run_id, dag_id).json()
    assert list(Draft4Validator(SCHEMA).iter_errors(log)) == []
    (run,) = log["runs"]
    return dict(run)


def test_the_findings_are_sarif_and_of_a_good_run_there_is_none(server: Server, dag: Any, evidence: Path) -> None:
    add_run(dag, "sarif good")
    run = sarif(server, "sarif good")
    assert (run["results"], run["properties"]["verdict"]) == ([], "PASSED")


def test_what_failed_and_what_does_not_verify_are_results_of_sarif(server: Server, mapped: Any, evidence: Path) -> None:
    add_run(mapped, "sarif bad", plays={(MIDDLE, 1): Played.OVERRIDDEN, "verify_collect": Played.TAMPERED})
    run = sarif(server, "sarif bad", MAPPED_DAG)
    found = {(result["ruleId"], result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]) for result in run["results"]}
    assert ("expectations-met", f"{MAPPED_DAG}.{MIDDLE}[1]") in found
    assert ("guard-passed", f"{MAPPED_DAG}.{MIDDLE}[1]") in found
    assert ("evidence-authentic", f"{MAPPED_DAG}.verify_collect") in found
    assert run["properties"]["verdict"] == "FAILED"


def test_documents_of_a_run_whose_evidence_cannot_be_read_say_nothing_good(
    server: Server, dag: Any, evidence: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_run(dag, "unread")
    monkeypatch.delenv("AIRFLOW__PIPESEC__TRUSTED_KEYS")
    document = downloaded(server, "findings.json", "unread").json()
    assert (document["verdict"], document["guards"], document["findings"]) == ("FAILED", [], [])
    assert sarif(server, "unread")["properties"]["verdict"] == "FAILED"
    page = Report(downloaded(server, "report.html", "unread").text)
    assert "The evidence was not verified:" in page.text
    assert "Not verified." in page.text
    assert "Passed." not in page.text


# ---- the report


class Report(HTMLParser):
    """A report as a browser reads it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.style, self.inside = "", "", ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "style":
            self.style += data
        else:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


FETCHES = {"src", "href", "srcset", "action", "formaction", "poster", "data", "background", "xlink:href", "ping", "cite"}
LOADS = {"script", "link", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "source", "image", "use", "a"}


@pytest.mark.parametrize("play", [Played.PASSED, Played.OVERRIDDEN, Played.RUNNING])
def test_a_report_needs_nothing_else_and_its_style_is_the_one_that_it_allows(
    server: Server, dag: Any, evidence: Path, play: Played
) -> None:
    run_id = f"report {play}"
    add_run(dag, run_id, plays={MIDDLE: play})
    answer = downloaded(server, "report.html", run_id)
    page = Report(answer.text)
    assert not {tag for tag, _ in page.elements} & LOADS
    for tag, attributes in page.elements:
        assert not FETCHES & attributes.keys(), tag
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, tag
        assert not any(re.search(r"url\s*\((?!#)", str(value)) for value in attributes.values()), tag
    assert not re.search(r"url\s*\((?!#)|@import|expression|@font-face|image-set", page.style)
    assert "//" not in page.style
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    (policy,) = [
        told["content"] for tag, told in page.elements if tag == "meta" and told.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy == answer.headers["content-security-policy"]
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert [tag for tag, _ in page.elements].count("style") == 1


def test_a_report_says_what_the_run_came_to_who_signed_it_and_how_to_verify_it(server: Server, dag: Any, evidence: Path) -> None:
    add_run(dag, "report told", plays={MIDDLE: Played.OVERRIDDEN, "record_train": Played.WARNED}, user="uma")
    answer = downloaded(server, "report.html", "report told")
    words = Report(answer.text).words
    assert f"{DAG}, run report told, started " in words
    assert "triggered by uma" in words
    assert "Does not verify." in words
    assert "mallory" in words, "who may read the audit log is told who did it"
    assert "the tests" in words
    assert f"pipesec verify-run evidence.zip {DAG} 'report told' --trusted-keys trusted-keys.yaml" in words
    assert "expect_column_values_to_be_between" in words
    assert __version__ in words
    digests = {
        hashlib.sha256(path.read_bytes()).hexdigest() for path in evidence.rglob("*.json") if not path.name.endswith(".vsa.json")
    }
    assert len(digests) == 5
    assert all(digest in words for digest in digests)


def test_a_report_names_nobody_to_whom_the_audit_log_is_not_shown(server: Server, dag: Any, evidence: Path) -> None:
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity

    add_run(dag, "report discreet", plays={MIDDLE: Played.OVERRIDDEN}, by="mallory")
    client = server.reader(DAG, denied=[DagAccessEntity.AUDIT_LOG])
    for name in ("report.html", "findings.json", "findings.sarif"):
        answer = client.get(f"/pipesec/{name}", params={"dag_id": DAG, "run_id": "report discreet"})
        assert answer.status_code == 200
        assert "mallory" not in answer.text


def test_a_report_prints_hostile_names_as_text(server: Server, evidence: Path) -> None:
    with mock.patch("airflow.sdk.definitions.dag.validate_key"):
        dag = plain_pipeline(f"dag {HOSTILE}")
        add_dag(dag)
        seen = [Finding(EXPECTATIONS_MET, Subject(f"/data/{HOSTILE}"), Status.FAIL, f"is {HOSTILE}")]
        seen.append(Finding(DATA_PRESENT, Subject(HOSTILE), Status.PASS, HOSTILE))
        waiver = Waiver("expectations-met", "*", HOSTILE, HOSTILE, datetime.now(UTC).date() + timedelta(days=2))
        add_run(dag, f"run {HOSTILE}", findings={MIDDLE: seen}, waivers={MIDDLE: [waiver]}, user=HOSTILE)
    answer = downloaded(server, "report.html", f"run {HOSTILE}", dag.dag_id)
    page = Report(answer.text)
    assert not {tag for tag, _ in page.elements} & LOADS
    assert [tag for tag, _ in page.elements].count("title") >= 1
    assert page.text.count(HOSTILE) >= 8
    assert "alert(1)" not in page.style
    digest = base64.b64encode(hashlib.sha256(page.style.encode()).digest()).decode()
    assert f"'sha256-{digest}'" in answer.headers["content-security-policy"]


# ---- what they are called


@pytest.mark.parametrize(
    ("run_id", "part"),
    [
        ("manual__2026-11-25T03:00:00+00:00", "manual-2026-11-25T03-00-00-00-00"),
        ("../../etc/passwd", "etc-passwd"),
        ("a b;\"'\\", "a-b"),
        ("ü\r\nset-cookie: x=1", "set-cookie-x-1"),
        ("ééé", "x"),
        ("x" * 240, "x" * 60),
    ],
)
def test_a_file_is_called_by_what_it_is_of_and_nothing_else_is_in_its_name(
    server: Server, dag: Any, evidence: Path, run_id: str, part: str
) -> None:
    add_run(dag, run_id)
    whats = {"evidence.zip": "evidence", "report.html": "report", "findings.json": "findings", "findings.sarif": "findings"}
    for name, what in whats.items():
        answer = downloaded(server, name, run_id)
        kind = name.rpartition(".")[2]
        assert answer.headers["content-disposition"] == f'attachment; filename="{what}-{DAG}-{part}.{kind}"'
        assert answer.headers["cache-control"] == "no-store"
        assert "set-cookie" not in answer.headers
