"""A verifier written from docs/evidence.md alone says what ours says, of good evidence and of each kind of bad."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from airflow_pipesec.evidence import folder_of, part_of
from airflow_pipesec.findings import Status
from airflow_pipesec.signing import LocalSigner, TrustedKeys, entry_of, new_private_key
from tests import other_verifier
from tests.conftest import PROJECT
from tests.servers import missing
from tests.test_evidence import GATE, NOW, SUBJECT, Run, chain, stored

RUN_ID = "manual__2026-11-25T03:00:00+00:00/ü"
VECTORS = PROJECT / "tests" / "vectors" / "0.1.0"


def whole(run: Run) -> None:
    run.attest("gate", {"seal": chain(run)["seal"]}, guard=GATE)


def failed_guard(run: Run) -> None:
    verify = run.attest("verify", {"record": run.attest("record")}, outcome="FAILED", subjects=SUBJECT)
    run.attest("gate", {"verify": verify}, guard=GATE)


def without_evidence(run: Run) -> None:
    whole(run)
    next(run.root.rglob("record/*.json")).unlink()


def done_again(run: Run) -> None:
    whole(run)
    run.attest("record", number=2)


def later_failure(run: Run) -> None:
    whole(run)
    run.attest("seal", number=2, outcome="FAILED")


def flipped(run: Run) -> None:
    whole(run)
    path = next(run.root.rglob("verify/*.json"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def renamed(run: Run) -> None:
    whole(run)
    path = next(run.root.rglob("verify/*.json"))
    path.rename(path.with_name(path.name.replace("-1.1.", "-1.2.")))


def of_another_run(run: Run) -> None:
    other = Run(run.root, run.signer, run=RUN_ID + "2")
    whole(other)
    shutil.copytree(run.root / folder_of(other.dag, other.run), run.root / folder_of(run.dag, run.run))


def other_key(run: Run) -> None:
    whole(Run(run.root, new_private_key(run.root / "other.pem"), run=RUN_ID))


def unsigned(run: Run) -> None:
    whole(Run(run.root, None, run=RUN_ID))


def stray(run: Run) -> None:
    whole(run)
    (next(run.root.rglob("verify")) / "note").write_text("trust me")


def another_version(run: Run) -> None:
    record = run.attest("record", version=str(UUID(int=3)))
    run.attest("gate", {"record": record}, guard=GATE)


def tomorrow(run: Run) -> None:
    run.attest("gate", guard=GATE, finished=NOW + timedelta(hours=1))


def expired_waiver(run: Run) -> None:
    waiver = {"control": "c", "subject": "*", "reason": "r", "approver": "v", "expires": "2026-11-24"}
    run.attest("gate", guard=GATE, waivers=(waiver,))


def another_manifest(run: Run) -> None:
    recorder = "airflow_pipesec.guards.integrity.HashManifestOperator"
    record = run.attest("record", guard=recorder, subjects=(("/m.json", {"dirHash": "cd" * 32}),))
    verify = run.attest("verify", {"record": record}, subjects=(("/m.json", {"dirHash": "ab" * 32}), *SUBJECT))
    run.attest("gate", {"verify": verify}, guard=GATE)


def no_gate(run: Run) -> None:
    chain(run)


WAYS = [
    whole,
    failed_guard,
    without_evidence,
    done_again,
    later_failure,
    flipped,
    renamed,
    of_another_run,
    other_key,
    unsigned,
    stray,
    another_version,
    tomorrow,
    expired_waiver,
    another_manifest,
    no_gate,
]


@pytest.mark.parametrize("algorithm", ["ecdsa-p256", "ed25519"])
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_both_verifiers_say_the_same(tmp_path: Path, way: Callable[[Run], None], algorithm: str) -> None:
    signer = new_private_key(tmp_path / "key.pem", algorithm)  # type: ignore[arg-type] # one of the two
    run = Run(tmp_path / "store", signer, run=RUN_ID)
    run.root.mkdir()
    way(run)
    keys = tmp_path / "keys.yaml"
    keys.write_text(entry_of(signer.public_key, name="k", valid_from=NOW - timedelta(days=1)))
    ours = {item.control.id for item in stored(run, signer, artifacts={"m": "tree:sha256:" + "ab" * 32})}
    ours -= {i.control.id for i in stored(run, signer, artifacts={"m": "tree:sha256:" + "ab" * 32}) if i.status is Status.PASS}
    theirs = other_verifier.verify(run.root, run.dag, run.run, keys, now=NOW, ships={"dirHash": "ab" * 32})
    if way is whole:
        assert ours == theirs == set()
    else:
        assert theirs
        assert ours == theirs - ({"artifact-attested"} if "evidence-present" in ours and not run_has_gate(run, signer) else set())


def run_has_gate(run: Run, signer: LocalSigner) -> bool:
    """Whether there was anything to follow: without a gate, ours says so and stops."""
    return not any("no release gate left evidence" in item.message for item in stored(run, signer))


def test_the_other_verifier_names_files_as_ours_does() -> None:
    for text in ("", ".", "..", "a/b", "ü", "run+1:2", "x" * 300, "!", "~", "%"):
        assert other_verifier.part(text) == part_of(text)


@pytest.mark.parametrize("name", ["test-result.ed25519.json", "test-result.p256.json"])
def test_the_other_verifier_opens_the_vectors(name: str) -> None:
    statement = other_verifier.opened((VECTORS / name).read_bytes(), other_verifier.trusted(VECTORS / "trusted-keys.yaml"))
    assert statement["predicate"]["airflowPipesec"]["task"] == "verify"


@pytest.mark.parametrize(("name", "key"), [("test-result.ed25519.json", 0), ("test-result.p256.json", 1)])
def test_the_commands_of_the_document_verify_an_envelope(tmp_path: Path, name: str, key: int) -> None:
    if shutil.which("openssl") is None or shutil.which("jq") is None:
        missing("openssl or jq is not installed (apt-get install openssl jq, or tests/install-servers.sh as root)")
    text = (PROJECT / "docs" / "evidence.md").read_text(encoding="utf-8")
    commands = next(block for block in text.split("```text\n") if block.startswith("jq -rj")).partition("```")[0].splitlines()
    shutil.copy(VECTORS / name, tmp_path / "envelope.json")
    (tmp_path / "key.pem").write_text(yaml.safe_load((VECTORS / "trusted-keys.yaml").read_text())[key]["public_key"])
    script = "\n".join([*commands[:3], commands[3 + key]])
    done = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    payload = json.loads((tmp_path / "payload.json").read_bytes())
    assert payload["_type"] == "https://in-toto.io/Statement/v1"
    (tmp_path / "payload.json").write_bytes((tmp_path / "payload.json").read_bytes() + b" ")
    tampered = "\n".join([commands[1], commands[3 + key]])
    assert subprocess.run(["bash", "-euc", tampered], cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_the_trusted_keys_of_the_vectors_are_read_by_both() -> None:
    ours = TrustedKeys.load(VECTORS / "trusted-keys.yaml")
    assert set(ours.keys) == set(other_verifier.trusted(VECTORS / "trusted-keys.yaml"))
