"""What earlier releases signed, recorded and encrypted is verified and read for ever."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_pipesec import __version__
from airflow_pipesec.age import Identity, decrypted
from airflow_pipesec.attestation import TEST_RESULT, VERIFICATION_SUMMARY, read_attestation, unseal
from airflow_pipesec.bundle import open_manifest
from airflow_pipesec.checks.integrity import take_stock, verify
from airflow_pipesec.errors import EncryptionError, EvidenceError, ManifestError
from airflow_pipesec.findings import Status
from airflow_pipesec.signing import TrustedKeys
from airflow_pipesec.storage import LocalStore
from tests.make_vectors import FOLDERS, VERSION, make, said

RELEASES = sorted(path for path in FOLDERS.iterdir() if path.is_dir() and VERSION.fullmatch(path.name))
ENVELOPES = ("test-result.ed25519.json", "test-result.p256.json", "verification-summary.json")


@pytest.fixture(params=RELEASES, ids=lambda path: path.name)
def vectors(request: pytest.FixtureRequest) -> Path:
    folder: Path = request.param
    return folder


def expected(folder: Path) -> Any:
    return json.loads((folder / "expected.json").read_bytes())


def trusted(folder: Path) -> TrustedKeys:
    return TrustedKeys.parse((folder / "trusted-keys.yaml").read_bytes())


def moment(folder: Path) -> datetime:
    return datetime.fromisoformat(expected(folder)["at"])


def test_there_are_vectors_of_a_release() -> None:
    assert "0.1.0" in {path.name for path in RELEASES}


def test_the_vectors_are_as_they_were_made(vectors: Path) -> None:
    listed = dict(reversed(line.split("  ", 1)) for line in (vectors / "SHA256SUMS").read_text().splitlines())
    there = {path.relative_to(vectors).as_posix(): path for path in vectors.rglob("*") if path.is_file()}
    del there["SHA256SUMS"]
    assert {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in there.items()} == listed
    assert not [name for name, path in there.items() if b"PRIVATE KEY" in path.read_bytes()]


def test_the_keys_are_those_that_signed(vectors: Path) -> None:
    assert {key.key_id for key in trusted(vectors)} == set(expected(vectors)["keys"].values())
    assert {key.algorithm for key in trusted(vectors)} == {"ed25519", "ecdsa-p256"}


@pytest.mark.parametrize("name", ENVELOPES)
def test_an_envelope_is_verified_and_says_what_it_said(vectors: Path, name: str) -> None:
    envelope, facts = (vectors / name).read_bytes(), expected(vectors)
    opened = unseal(envelope, trusted(vectors))
    assert opened.key.key_id == facts["keys"][facts[name]["key"]]
    assert opened.digest == facts[name]["sha256"] == hashlib.sha256(envelope).hexdigest()
    assert not opened.key.fault(moment(vectors))
    assert opened.key.fault(moment(vectors) - timedelta(days=2))
    if opened.document["predicateType"] == TEST_RESULT:
        says = said(read_attestation(opened.document))
        assert {part: says[part] for part in facts[name]["says"]} == facts[name]["says"], "later releases may say more"
    else:
        assert opened.document["predicateType"] == VERIFICATION_SUMMARY
        assert opened.document == facts[name]["says"]
    for place in range(0, len(envelope), 97):
        with pytest.raises(EvidenceError):
            unseal(envelope[:place] + bytes([envelope[place] ^ 1]) + envelope[place + 1 :], trusted(vectors))


def test_the_artifact_is_the_one_that_was_recorded(vectors: Path) -> None:
    manifest, problems = take_stock(LocalStore(vectors / "artifact"))
    assert not problems
    assert manifest is not None
    assert manifest.digest == expected(vectors)["artifact"]["digest"]
    assert len(manifest.resources) == expected(vectors)["artifact"]["files"]
    unsigned, nobody = open_manifest((vectors / "artifact.manifest.json").read_bytes(), None, now=moment(vectors))
    assert (unsigned, nobody) == (manifest, None)
    signed, key = open_manifest((vectors / "artifact.bundle.json").read_bytes(), trusted(vectors), now=moment(vectors))
    assert signed == manifest
    assert key is not None
    assert key.key_id == expected(vectors)["keys"]["p256"]
    (subject,) = expected(vectors)["verification-summary.json"]["says"]["subject"]
    assert f"tree:sha256:{subject['digest']['dirHash']}" == manifest.digest


@pytest.mark.parametrize("name", ["artifact.manifest.json", "artifact.bundle.json"])
def test_the_artifact_is_verified_by_either_manifest(vectors: Path, name: str, tmp_path: Path) -> None:
    keys = trusted(vectors) if "bundle" in name else None
    root, manifest = LocalStore(vectors / "artifact"), LocalStore(vectors / name)
    findings = list(verify(root, manifest=manifest, trusted=keys, now=moment(vectors)))
    assert findings
    assert {finding.status for finding in findings} <= {Status.PASS, Status.SKIP}
    assert Status.PASS in {finding.status for finding in findings}
    (tmp_path / "other").mkdir()
    (tmp_path / "other/model.bin").write_bytes(b"another")
    other = verify(LocalStore(tmp_path / "other"), manifest=manifest, trusted=keys, now=moment(vectors))
    assert Status.FAIL in {finding.status for finding in other}


def test_a_manifest_in_a_bundle_that_was_changed_is_refused(vectors: Path) -> None:
    bundle = (vectors / "artifact.bundle.json").read_bytes()
    document = json.loads(bundle)
    letters = set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")
    for part, holder in (("payload", document["dsseEnvelope"]), ("sig", document["dsseEnvelope"]["signatures"][0])):
        text = holder[part]
        for place in range(0, len(text) - 4, 41):
            holder[part] = text[:place] + min(letters - {text[place]}) + text[place + 1 :]
            with pytest.raises((EvidenceError, ManifestError)):
                open_manifest(json.dumps(document).encode(), trusted(vectors), now=moment(vectors))
        holder[part] = text
    open_manifest(json.dumps(document).encode(), trusted(vectors), now=moment(vectors))


def test_the_encrypted_file_is_decrypted(vectors: Path) -> None:
    lines = (vectors / "TEST-IDENTITY.txt").read_text().splitlines()
    (identity,) = (Identity.parse(line) for line in lines if not line.startswith("#"))
    sealed = (vectors / "secret.txt.age").read_bytes()
    plain = b"".join(bytes(piece) for piece in decrypted(io.BytesIO(sealed), [identity]))
    facts = expected(vectors)["secret"]
    assert (len(plain), hashlib.sha256(plain).hexdigest()) == (facts["bytes"], facts["sha256"])
    with pytest.raises(EncryptionError):
        list(decrypted(io.BytesIO(sealed[:-1] + bytes([sealed[-1] ^ 1])), [identity]))


def test_the_readme_names_every_file(vectors: Path) -> None:
    text = (vectors / "README.md").read_text()
    for path in vectors.iterdir():
        assert path.name == "README.md" or f"`{path.name}" in text, path.name


def test_vectors_of_what_is_written_now_would_be_verified(tmp_path: Path) -> None:
    """The script works, so that the next release has its vectors; and it never replaces any."""
    make("9.9.9", tmp_path / "9.9.9")
    test_the_vectors_are_as_they_were_made(tmp_path / "9.9.9")
    for name in ENVELOPES:
        test_an_envelope_is_verified_and_says_what_it_said(tmp_path / "9.9.9", name)
    test_the_artifact_is_the_one_that_was_recorded(tmp_path / "9.9.9")
    test_the_encrypted_file_is_decrypted(tmp_path / "9.9.9")
    if (FOLDERS / __version__).exists():
        for arguments, code in (([__version__], 1), (["0.0.0"], 2), ([], 2)):
            command = [sys.executable, "-m", "tests.make_vectors", *arguments]
            assert subprocess.run(command, capture_output=True, check=False).returncode == code
