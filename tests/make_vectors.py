"""Make the vectors of a release, once: `python -m tests.make_vectors VERSION` writes tests/vectors/VERSION.

tests/test_vectors.py verifies the vectors of every release with the code as it is now. The private keys that sign are made here
and kept nowhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from airflow_pipesec import __version__
from airflow_pipesec.age import encrypted, new_identity
from airflow_pipesec.attestation import Attempt, Attestation, Link, digest_set, seal, statement, verification_summary
from airflow_pipesec.bundle import sign_manifest
from airflow_pipesec.checks.integrity import take_stock
from airflow_pipesec.manifest import Manifest
from airflow_pipesec.policy import Policy
from airflow_pipesec.signing import LocalSigner, entry_of
from airflow_pipesec.storage import LocalStore

FOLDERS = Path(__file__).parent / "vectors"
VERSION = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+[0-9a-z.]*")
WHEN = datetime(2026, 11, 25, 3, 0, 0, tzinfo=UTC)
ARTIFACT = {
    "model.bin": bytes(range(256)) * 300,
    "deep/config.json": b'{"layers": 3}\n',
    "deep/empty": b"",
    "notes, é.txt": b"hello\n",
}
SECRET = b"".join(b"line %d\n" % number for number in range(9000))  # more than one chunk of age
WAIVER = {
    "control": "no-extra-files",
    "subject": "*/notes*",
    "reason": "They belong to the model.",
    "approver": "vera@example.org",
    "expires": "2026-12-24",
}
CONTROL = {
    "title": "Every file is the file that was recorded",
    "severity": "critical",
    "remedy": "Restore it from its source; é 😀.",
    "references": ["CWE-354", "NIST SP 800-53 SI-7"],
}
README = """\
# Vectors of release {version}

What airflow-pipesec {version} wrote. Every later release has to verify and read it, for ever: `tests/test_vectors.py` tests that.
These files are never made again and never changed: when a test fails over them, the code is wrong. `SHA256SUMS` pins them
(`sha256sum -c SHA256SUMS`), `expected.json` says what has to come out.

| file | what it is |
|---|---|
| `trusted-keys.yaml` | the public halves of the two keys that signed; the private halves were never kept |
| `test-result.ed25519.json`, `test-result.p256.json` | the attestation of one guard, signed with each |
| `verification-summary.json` | a release gate's verification summary, which names both |
| `artifact/` | a small artifact |
| `artifact.manifest.json` | its manifest, not signed |
| `artifact.bundle.json` | its manifest, signed with the P-256 key |
| `secret.txt.age` | a file encrypted with age |
| `TEST-IDENTITY.txt` | the identity that decrypts it: made for this test, it protects nothing |
"""


def make(version: str, folder: Path) -> None:
    """Write the vectors into a folder that does not exist yet."""
    folder.mkdir()
    signers = {"ed25519": LocalSigner(ed25519.Ed25519PrivateKey.generate())}
    signers["p256"] = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
    since = WHEN - timedelta(days=1)
    trusted = [entry_of(key.public_key, name=f"vectors {version}, {name}", valid_from=since) for name, key in signers.items()]
    (folder / "trusted-keys.yaml").write_text("".join(trusted))
    manifest = _artifact(folder / "artifact")
    expected: dict[str, Any] = {"artifact": {"digest": manifest.digest, "files": len(manifest.resources)}}
    expected |= {"at": WHEN.isoformat(), "keys": {name: key.key_id for name, key in signers.items()}}
    expected |= _evidence(folder, version, signers, manifest)
    (folder / "artifact.manifest.json").write_bytes(manifest.to_json())
    _bundle(folder, signers["p256"], manifest)
    _encrypted(folder)
    expected["secret"] = {"bytes": len(SECRET), "sha256": hashlib.sha256(SECRET).hexdigest()}
    (folder / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n")
    (folder / "README.md").write_text(README.format(version=version))
    (folder / "SHA256SUMS").write_text("".join(_sums(folder)))


def _artifact(root: Path) -> Manifest:
    for name, content in ARTIFACT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    manifest, problems = take_stock(LocalStore(root))
    if manifest is None:
        raise RuntimeError(problems)
    return manifest


def _evidence(folder: Path, version: str, signers: dict[str, LocalSigner], manifest: Manifest) -> dict[str, Any]:
    policy = Policy.load({"fail_on": "medium", "waivers": [WAIVER]}).document()
    run = "manual__2026-11-25T03:00:00+00:00"
    digests: dict[str, str] = {}
    expected = {}
    for number, (name, signer) in enumerate(signers.items()):
        attested = Attestation(
            attempt=Attempt("train", run, "verify", number, 2, f"019abcde-0000-7000-8000-{number:012d}"),
            guard="airflow_pipesec.guards.integrity.VerifyArtifactOperator",
            outcome="PASSED",
            reason="what fails is waived: 1",
            started=WHEN,
            finished=WHEN + timedelta(seconds=1, microseconds=5),
            tests=(("digest-matches", "no-symlinks"), ("no-extra-files",), ()),
            findings=({"control": "digest-matches", "status": "pass", "subject": "é 😀 \\x1b", "count": 4, "blocks": False},),
            more_findings=3,
            waivers=(WAIVER,),
            policy=policy,
            version=version,
            links=(Link("before", -1, "ab" * 32), Link("mapped.task", 0, None)),
            dag_version="01900000-0000-7000-8000-000000000000",
            logical_date=None,
            run_type="manual",
            triggered_by="vera",
            subjects=(("artifact", digest_set(manifest.digest)),),
            controls={"digest-matches": CONTROL},
        )
        envelope = seal(statement(attested), signer)
        (folder / f"test-result.{name}.json").write_bytes(envelope)
        digests[f"test-result.{name}.json"] = hashlib.sha256(envelope).hexdigest()
        expected[f"test-result.{name}.json"] = {
            "key": name,
            "sha256": digests[f"test-result.{name}.json"],
            "says": said(attested),
        }
    summary = verification_summary(
        resource="https://example.org/artifact",
        digest=digest_set(manifest.digest),
        passed=True,
        policy=policy,
        policy_uri="urn:airflow-pipesec:policy",
        inputs=digests.items(),
        verified=WHEN,
    )
    envelope = seal(summary, signers["p256"])
    (folder / "verification-summary.json").write_bytes(envelope)
    sha256 = hashlib.sha256(envelope).hexdigest()
    return expected | {"verification-summary.json": {"key": "p256", "sha256": sha256, "says": summary}}


def said(attested: Attestation) -> Any:
    """What an attestation says, as JSON that does not depend on the statement's form."""
    facts = {name: getattr(attested, name) for name in Attestation.__dataclass_fields__}
    return json.loads(json.dumps(facts, default=lambda value: value.isoformat()))


def _bundle(folder: Path, signer: LocalSigner, manifest: Manifest) -> None:
    (folder / "artifact.bundle.json").write_bytes(sign_manifest(manifest, signer))


def _encrypted(folder: Path) -> None:
    identity = new_identity()
    about = f"# An identity for tests: everybody has it, and it protects nothing.\n# public key: {identity.recipient}\n"
    (folder / "TEST-IDENTITY.txt").write_text(f"{about}{identity.reveal()}\n")
    with (folder / "secret.txt.age").open("wb") as file:
        for piece in encrypted(io.BytesIO(SECRET), [identity.recipient]):
            file.write(piece)


def _sums(folder: Path) -> Iterable[str]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "SHA256SUMS":
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}\n"


def main(arguments: list[str]) -> int:
    if arguments != [__version__] or VERSION.fullmatch(__version__) is None:
        print(f"usage: python -m tests.make_vectors VERSION; it has to be that of the package, {__version__}", file=sys.stderr)
        return 2
    folder = FOLDERS / __version__
    if folder.exists():
        print(f"{folder} exists, and vectors are never made again", file=sys.stderr)
        return 1
    unfinished = folder.with_name(f".{__version__}")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(__version__, unfinished)
    unfinished.rename(folder)
    print(f"wrote {folder}; commit it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
