"""Evidence: what a run leaves, linked, written once, and what becomes of it when somebody has been at it."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
from base64 import b64decode
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from airflow_pipesec.attestation import Attempt, Attestation, Link, seal, statement
from airflow_pipesec.checks.release import RECORDER, Known, Release, closure, roots_of, verify_run, verify_stored
from airflow_pipesec.errors import ObjectExists
from airflow_pipesec.evidence import Evidence, RunEvidence, folder_of, name_of
from airflow_pipesec.findings import Finding, Status
from airflow_pipesec.signing import LocalSigner, TrustedKeys, entry_of, new_private_key
from airflow_pipesec.storage import open_store
from tests.servers import S3Server

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
VERSION = "01900000-0000-7000-8000-000000000000"
DIGEST = "tree:sha256:" + "ab" * 32
SUBJECT = (("/data/model", {"dirHash": "ab" * 32}),)


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> LocalSigner:
    return new_private_key(tmp_path_factory.mktemp("keys") / "key.pem")


def trust(*signers: LocalSigner, extra: str = "", start: datetime = NOW - timedelta(days=1)) -> TrustedKeys:
    entries = "".join(entry_of(one.public_key, name=f"key {place}", valid_from=start) for place, one in enumerate(signers))
    return TrustedKeys.parse((entries + extra).encode())


_COUNTER = itertools.count()


def made_at(finished: datetime) -> str:
    """The id of an attempt as Airflow makes it: a UUID of version 7, a minute before the attempt ended."""
    milliseconds = int((finished - timedelta(minutes=1)).timestamp() * 1000) + next(_COUNTER)
    return str(UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62 | next(_COUNTER)))


class Run:
    """Writes the evidence of a run as its guards would."""

    def __init__(self, root: Path, signer: LocalSigner | None, dag: str = "training", run: str = "run_1") -> None:
        self.root, self.signer, self.dag, self.run = root, signer, dag, run
        self.evidence = RunEvidence(open_store(root / folder_of(dag, run)))

    def attest(
        self,
        task: str,
        links: dict[str, Attestation | str | None] | None = None,
        *,
        index: int = -1,
        number: int = 1,
        attempt: str | None = None,
        outcome: str = "PASSED",
        finished: datetime = NOW - timedelta(minutes=10),
        subjects: Any = (),
        version: str | None = VERSION,
        waivers: Any = (),
        guard: str = "a.Guard",
        change: Callable[[dict[str, Any]], None] | None = None,
        linked: tuple[Link, ...] = (),
    ) -> str:
        """Attest and return the digest; a link without one is looked up as a guard would."""
        made = linked or tuple(Link(name, -1, digest) for name, digest in (links or {}).items())
        attested = Attestation(
            Attempt(self.dag, self.run, task, index, number, attempt or made_at(finished)),
            guard,
            outcome,
            "every control held" if outcome == "PASSED" else "1 failed",
            finished - timedelta(seconds=1),
            finished,
            (("digest-matches",), (), ()),
            links=made,
            dag_version=version,
            run_type="manual",
            triggered_by="olga",
            subjects=subjects,
            waivers=waivers,
            version="0.1.0",
        )
        document = statement(attested)
        if change is not None:
            change(document)
        return self.evidence.write(attested.attempt, seal(document, self.signer))

    def load(self, trusted: TrustedKeys) -> Evidence:
        return self.evidence.load(self.dag, self.run, trusted)


CHAIN = {"record": {}, "verify": {"record": False}, "seal": {"verify": False}}


def release(**changes: Any) -> Release:
    fields: dict[str, Any] = {"guards": dict.fromkeys(CHAIN, (-1,)), "edges": CHAIN, "dag_version": VERSION}
    return Release(**fields | changes)


def chain(run: Run) -> dict[str, str]:
    record = run.attest("record")
    verify = run.attest("verify", {"record": record}, subjects=SUBJECT)
    return {"record": record, "verify": verify, "seal": run.attest("seal", {"verify": verify})}


def judged(findings: Any) -> dict[str, list[str]]:
    """The messages of what failed, by control."""
    failed: dict[str, list[str]] = {}
    for finding in findings:
        if finding.status in (Status.FAIL, Status.ERROR):
            failed.setdefault(finding.control.id, []).append(f"{finding.subject}: {finding.message}")
    return failed


def check(run: Run, signer: LocalSigner, **changes: Any) -> dict[str, list[str]]:
    return judged(verify_run(run.load(trust(signer)), release(**changes), now=NOW))


def test_a_whole_linked_chain_passes_with_one_finding_a_control(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    found = list(verify_run(run.load(trust(signer)), release(artifacts={"/data/model": DIGEST}), now=NOW))
    assert {finding.status for finding in found} == {Status.PASS}
    assert [finding.control.id for finding in found] == [
        "evidence-present",
        "evidence-authentic",
        "evidence-current",
        "evidence-linked",
        "guard-passed",
        "artifact-attested",
    ]
    assert {finding.count for finding in found[:-1]} == {3}


def test_no_guard_at_all_is_no_pass(tmp_path: Path, signer: LocalSigner) -> None:
    assert "evidence-present" in check(Run(tmp_path, signer), signer, guards={}, edges={})


def test_missing_evidence_fails_and_names_the_guard(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("verify", {"record": run.attest("record")})
    failed = check(run, signer)
    assert failed["evidence-present"] == ["guard seal: left no evidence in this run"]


def test_deleting_a_link_in_the_middle_breaks_what_follows(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    next(tmp_path.rglob("verify/*.json")).unlink()
    failed = check(run, signer)
    assert failed["evidence-present"] == ["guard verify: left no evidence in this run"]
    assert failed["evidence-linked"] == ["guard seal: guard verify is linked, and its evidence is not there, or not believed"]


def test_a_guard_that_failed_fails_the_gate_with_its_reason(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record")
    verify = run.attest("verify", {"record": record}, outcome="FAILED")
    run.attest("seal", {"verify": verify})
    known = {(name, -1): Known("", 1, "success", "; its audit log tells: admin set it to success") for name in CHAIN}
    failed = check(run, signer, known=known)
    (text,) = failed["guard-passed"]
    assert text.startswith("guard verify: signed FAILED: 1 failed. Airflow shows try 1 as success; its audit log tells: admin")


def test_evidence_that_was_errored_is_no_pass(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("record", outcome="ERROR")
    assert "guard-passed" in check(run, signer, guards={"record": (-1,)}, edges={"record": {}})


def test_a_forged_envelope_in_the_place_of_evidence_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    other = new_private_key(tmp_path / "other.pem")
    run = Run(tmp_path / "e", other)
    chain(run)
    failed = check(run, signer)
    assert len(failed["evidence-authentic"]) == 3
    assert "is not trusted" in failed["evidence-authentic"][0]
    assert len(failed["evidence-present"]) == 3


def test_unsigned_evidence_is_never_accepted(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, None)
    chain(run)
    failed = check(run, signer)
    assert all("it is not signed" in text for text in failed["evidence-authentic"])
    assert len(failed["evidence-present"]) == 3


def test_evidence_copied_from_another_run_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    good, bad = Run(tmp_path, signer, run="run_0"), Run(tmp_path, signer, run="run_1")
    chain(good)
    bad.attest("record")
    for path in (tmp_path / folder_of("training", "run_0")).rglob("*.json"):
        target = tmp_path / folder_of("training", "run_1") / path.parent.name / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(path.read_bytes())
    failed = check(bad, signer)
    assert all("it belongs to run run_0 of training" in text for text in failed["evidence-authentic"])
    assert len(failed["evidence-present"]) == 2


def test_evidence_moved_to_the_name_of_another_guard_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    source = next(tmp_path.rglob("record/*.json"))
    victim = next(tmp_path.rglob("verify/*.json"))
    victim.unlink()
    victim.write_bytes(source.read_bytes())
    failed = check(run, signer)
    assert "it belongs to another place: it attests record (try 1)" in failed["evidence-authentic"][0]


def test_an_earlier_pass_does_not_excuse_a_later_failure(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    run.attest("record", number=2, outcome="FAILED")
    failed = check(run, signer)
    assert failed["guard-passed"] == ["guard record: signed FAILED: 1 failed"]
    assert failed["evidence-linked"] == ["guard verify: guard record was linked in an attempt that is not its latest any more"]


def test_a_later_pass_excuses_an_earlier_failure_when_what_follows_ran_again(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("record", outcome="FAILED")
    record = run.attest("record", number=2)
    run.attest("seal", {"verify": run.attest("verify", {"record": record})})
    assert check(run, signer) == {}


def test_a_guard_done_again_upstream_makes_what_follows_stale(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    run.attest("record", number=2)
    assert list(check(run, signer)) == ["evidence-linked"]


def test_the_latest_try_is_the_one_that_airflow_shows(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    attempts = {name: made_at(NOW - timedelta(minutes=10)) for name in CHAIN}
    record = run.attest("record", attempt=attempts["record"])
    verify = run.attest("verify", {"record": record}, attempt=attempts["verify"])
    run.attest("seal", {"verify": verify}, attempt=attempts["seal"])
    known = {(name, -1): Known(attempt, 1, "success") for name, attempt in attempts.items()}
    assert check(run, signer, known=known) == {}
    cleared = known | {
        ("verify", -1): Known(made_at(NOW - timedelta(minutes=10)), 2, "success", "; its audit log tells: eve cleared it")
    }
    (text,) = check(run, signer, known=cleared)["evidence-current"]
    assert "guard verify: attested try 1, and that is not its latest attempt. Airflow shows try 2 as success" in text
    assert "eve cleared it" in text
    skipped = known | {("verify", -1): Known(attempts["verify"], 1, "skipped")}
    assert "Airflow shows try 1 as skipped, and not as success" in check(run, signer, known=skipped)["evidence-current"][0]
    gone = {key: value for key, value in known.items() if key[0] != "verify"}
    assert "does not know of such a task instance" in check(run, signer, known=gone)["evidence-current"][0]


def test_evidence_under_another_version_of_the_dag_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record", version=str(UUID(int=7)))
    run.attest("seal", {"verify": run.attest("verify", {"record": record})})
    assert check(run, signer)["evidence-current"] == [
        "guard record: ran under another version of the DAG than the one that runs now"
    ]


def test_an_old_key_cannot_date_back_evidence_of_an_attempt_of_today(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("record", attempt=made_at(NOW), finished=NOW - timedelta(hours=20))
    failed = check(run, signer, guards={"record": (-1,)}, edges={"record": {}})
    assert "made before the attempt that it attests" in failed["evidence-authentic"][0]


def test_an_instance_that_was_deleted_still_has_to_have_passed_offline(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    good = run.attest("check", index=0)
    run.attest("check", index=1, outcome="FAILED")
    run.attest("gate", guard=GATE, linked=(Link("check", 0, good),))
    assert judged(stored(run, signer))["guard-passed"] == ["guard check[1]: signed FAILED: 1 failed"]


def test_to_record_an_artifact_is_not_to_examine_it(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record", guard=RECORDER, subjects=SUBJECT)
    run.attest("seal", {"verify": run.attest("verify", {"record": record})})
    assert "artifact-attested" in check(run, signer, artifacts={"/data/model": DIGEST})


def test_what_was_looked_at_where_the_artifact_lies_is_what_counts(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record", subjects=(("/data/raw", {"dirHash": "ab" * 32}),))
    verify = run.attest("verify", {"record": record}, subjects=(("/data/model", {"dirHash": "cd" * 32}),))
    run.attest("seal", {"verify": verify})
    assert "artifact-attested" in check(run, signer, artifacts={"/data/model": DIGEST})
    assert check(run, signer, artifacts={"/elsewhere": DIGEST}) == {}


def test_evidence_from_the_future_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("record", finished=NOW + timedelta(hours=1))
    failed = check(run, signer, guards={"record": (-1,)}, edges={"record": {}})
    assert "attests a time that has not come yet" in failed["evidence-current"][0]


def test_links_have_to_be_those_of_the_dag(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record")
    verify = run.attest("verify")
    run.attest("seal", {"verify": verify, "record": record})
    assert check(run, signer)["evidence-linked"] == [
        "guard seal: guard record is linked, and not one that it follows in the DAG",
        "guard verify: guard record comes before it in the DAG, and is not linked",
    ]


def test_a_guard_that_ran_before_the_one_it_follows_says_so(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    verify = run.attest("verify", {"record": None})
    run.attest("record")
    run.attest("seal", {"verify": verify})
    assert check(run, signer)["evidence-linked"] == ["guard verify: guard record had left no evidence when it ran"]


def test_a_waiver_that_expired_between_the_guard_and_the_gate_no_longer_counts(tmp_path: Path, signer: LocalSigner) -> None:
    waiver = {"control": "no-extra-files", "subject": "*", "reason": "r", "approver": "v", "expires": "2026-11-24"}
    run = Run(tmp_path, signer)
    run.attest("record", waivers=(waiver,))
    failed = check(run, signer, guards={"record": (-1,)}, edges={"record": {}})
    assert failed["guard-passed"] == ["guard record: passed by a waiver for no-extra-files that expired on 2026-11-24"]


def test_a_key_that_was_not_valid_then_or_is_revoked_proves_nothing(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    late = trust(signer, start=NOW)
    failed = judged(verify_run(run.load(late), release(), now=NOW))
    assert "is valid from 2026-11-25 12:00:00 UTC on, and it was 2026-11-25 11:50:00 UTC" in failed["evidence-authentic"][0]
    revoked = trust(signer, extra="  revoked: its disk was stolen\n")
    failed = judged(verify_run(run.load(revoked), release(), now=NOW))
    assert "is revoked (its disk was stolen)" in failed["evidence-authentic"][0]


def test_old_evidence_that_is_refused_does_not_block_when_a_later_attempt_took_its_place(
    tmp_path: Path, signer: LocalSigner
) -> None:
    old = Run(tmp_path, new_private_key(tmp_path / "old.pem"))
    chain(old)
    run = Run(tmp_path, signer)
    chain(run)
    assert check(run, signer) == {}
    old.attest("record", number=3)  # and what comes after does block
    assert "evidence-authentic" in check(run, signer)


def test_what_is_no_attestation_by_its_name_is_refused(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    (tmp_path / folder_of("training", "run_1") / "verify" / "note.txt").write_text("trust me")
    assert "is no attestation by its name" in check(run, signer)["evidence-authentic"][0]


def test_the_artifact_must_be_a_subject_of_a_guard_that_passed(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record")
    verify = run.attest("verify", {"record": record}, outcome="FAILED", subjects=SUBJECT)
    run.attest("seal", {"verify": verify})
    failed = check(run, signer, artifacts={"/data/model": DIGEST})
    assert "no guard of this run examined it and passed" in failed["artifact-attested"][0]
    other = check(run, signer, artifacts={"/data/model": "sha256:" + "ab" * 32})
    assert "artifact-attested" in other  # the digest of a file is not that of a tree


def test_every_instance_of_a_mapped_guard_needs_evidence(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    digests = [run.attest("verify", index=index) for index in range(3)]
    run.attest("seal", linked=tuple(Link("verify", index, digest) for index, digest in enumerate(digests)))
    mapped = {"guards": {"verify": range(3), "seal": (-1,)}, "edges": {"verify": {}, "seal": {"verify": False}}}
    assert check(run, signer, **mapped) == {}
    failed = check(run, signer, **mapped | {"guards": {"verify": range(4), "seal": (-1,)}})
    assert failed["evidence-present"] == ["guard verify[3]: left no evidence in this run"]
    assert failed["evidence-linked"] == ["guard seal: guard verify[3] comes before it in the DAG, and is not linked"]


def test_in_a_mapped_group_each_instance_links_its_own(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    digests = [run.attest("g.a", index=index) for index in range(2)]
    for index in range(2):
        run.attest("g.b", index=index, linked=(Link("g.a", index, digests[index]),))
    grouped = {"guards": {"g.a": range(2), "g.b": range(2)}, "edges": {"g.a": {}, "g.b": {"g.a": True}}}
    assert check(run, signer, **grouped) == {}


def test_a_guard_may_be_skipped_only_where_that_is_said_and_airflow_shows_it(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record, attempt = run.attest("record"), made_at(NOW - timedelta(minutes=10))
    run.attest("seal", {"verify": None, "record": record})
    shape = {"guards": {"record": (-1,), "verify": (-1,), "seal": (-1,)}}
    shape["edges"] = {"record": {}, "verify": {}, "seal": {"verify": False, "record": False}}
    assert "evidence-present" in check(run, signer, **shape)
    assert check(run, signer, **shape, may_be_skipped=("verify",)) == {}
    entries = {entry.task: entry.attempt for entry in run.evidence.entries()[0]}
    known = {(name, -1): Known(entries.get(name, attempt), 1, "success") for name in ("record", "verify", "seal")}
    assert "evidence-present" in check(run, signer, **shape, may_be_skipped=("verify",), known=known)
    known["verify", -1] = Known(attempt, 0, "skipped")
    assert check(run, signer, **shape, may_be_skipped=("verify",), known=known) == {}


def test_evidence_is_written_once(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    attempt = made_at(NOW - timedelta(minutes=10))
    run.attest("record", attempt=attempt)
    with pytest.raises(ObjectExists):
        run.attest("record", attempt=attempt, outcome="FAILED")
    assert check(run, signer, guards={"record": (-1,)}, edges={"record": {}}) == {}


def _attest_many(root: Path, pem: bytes, index: int) -> None:
    run = Run(root, LocalSigner.from_pem(pem))
    for number in range(20):
        run.attest(f"guard_{index}", number=number + 1)


def test_guards_of_many_workers_attest_at_once(tmp_path: Path) -> None:
    signer = new_private_key(tmp_path / "key.pem")
    pem = (tmp_path / "key.pem").read_bytes()
    workers = [multiprocessing.Process(target=_attest_many, args=(tmp_path / "e", pem, index)) for index in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    evidence = Run(tmp_path / "e", signer).load(trust(signer))
    assert len(evidence.witnesses) == 160
    assert evidence.refused == []


def test_evidence_lives_in_s3_and_is_not_replaced_there(s3_server: S3Server, signer: LocalSigner) -> None:
    client = s3_server.client()
    client.create_bucket(Bucket="evidence")
    run = RunEvidence(open_store("s3://evidence/pipesec/" + folder_of("d", "r"), client=client))
    attempt = Attempt("d", "r", "record", -1, 1, made_at(NOW - timedelta(minutes=10)))
    attested = Attestation(attempt, "a.Guard", "PASSED", "held", NOW, NOW, version="0.1.0")
    envelope = seal(statement(attested), signer)
    assert run.write(attempt, envelope) == hashlib.sha256(envelope).hexdigest()
    with pytest.raises(ObjectExists):
        run.write(attempt, envelope + b" ")
    assert run.links([("record", (-1,)), ("other", (-1,))]) == [
        Link("record", -1, hashlib.sha256(envelope).hexdigest()),
        Link("other", -1, None),
    ]
    loaded = run.load("d", "r", trust(signer))
    assert list(loaded.witnesses) == [name_of(attempt)]


def test_who_may_not_look_gets_no_verdict_of_missing(s3_server: S3Server, signer: LocalSigner) -> None:
    from airflow_pipesec.errors import AccessDenied

    client = s3_server.client()
    client.create_bucket(Bucket="closed")
    client.put_object(Bucket="closed", Key="e/d/r/record/x", Body=b"x")
    run = RunEvidence(open_store("s3://closed/e/d/r", client=s3_server.client(s3_server.nobody)))
    with pytest.raises(AccessDenied):
        run.load("d", "r", trust(signer))


GATE = "airflow_pipesec.guards.release.ReleaseGateOperator"


def stored(run: Run, signer: LocalSigner, **options: Any) -> list[Finding]:
    return list(verify_stored(run.evidence, run.dag, run.run, trust(signer), now=NOW, **options))


def test_offline_everything_is_followed_from_the_gate(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    made = chain(run)
    run.attest("gate", {"seal": made["seal"]}, guard=GATE)
    assert judged(stored(run, signer, artifacts={"model": DIGEST})) == {}
    evidence = run.load(trust(signer))
    assert closure(evidence, roots_of(evidence)) == {name: {-1} for name in ("gate", "seal", "verify", "record")}
    next(tmp_path.rglob("record/*.json")).unlink()
    failed = judged(stored(run, signer))
    assert failed["evidence-present"] == ["guard record: left no evidence in this run"]


def test_offline_a_run_without_a_gate_is_not_believed_unless_the_guards_are_named(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    assert "no release gate left evidence in this run" in judged(stored(run, signer))["evidence-present"][0]
    assert judged(stored(run, signer, gates=("seal",))) == {}
    assert "guard deploy_check: left no evidence" in judged(stored(run, signer, gates=("deploy_check",)))["evidence-present"][0]


def test_offline_a_gate_that_failed_is_a_failure(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    run.attest("gate", {"seal": chain(run)["seal"]}, guard=GATE, outcome="FAILED")
    assert judged(stored(run, signer))["guard-passed"] == ["guard gate: signed FAILED: 1 failed"]


def test_offline_every_guard_ran_under_one_version_of_the_dag(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    record = run.attest("record", version=str(UUID(int=7)))
    run.attest("gate", {"record": record}, guard=GATE)
    assert "evidence-current" in judged(stored(run, signer))


def test_the_statement_says_who_triggered_which_try_of_what(tmp_path: Path, signer: LocalSigner) -> None:
    run = Run(tmp_path, signer)
    chain(run)
    payload = json.loads(b64decode(json.loads(next(tmp_path.rglob("verify/*.json")).read_bytes())["payload"]))
    ours = payload["predicate"]["airflowPipesec"]
    assert (ours["dag"], ours["run"], ours["task"], ours["mapIndex"], ours["try"]) == ("training", "run_1", "verify", -1, 1)
    assert ours["triggeredBy"] == "olga"
    assert [link["task"] for link in ours["links"]] == ["record"]
    assert payload["subject"][1] == {"name": "/data/model", "digest": {"dirHash": "ab" * 32}}
