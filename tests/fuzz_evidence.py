"""A fuzz target: any bytes where evidence and trusted keys are read. `python -m tests.fuzz_evidence` runs it under atheris.

Whatever comes in, the package's own errors come out, and nothing is believed that was not signed.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import importlib.util
import json
import random
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

ATHERIS = importlib.util.find_spec("atheris") is not None
if ATHERIS and __name__ == "__main__":
    import atheris

    _instrumented = atheris.instrument_imports(include=["airflow_pipesec", "yaml"])
else:
    _instrumented = contextlib.nullcontext()

with _instrumented:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    from airflow_pipesec.attestation import (
        PAYLOAD_TYPE,
        Attempt,
        Attestation,
        Link,
        pae,
        read_attestation,
        seal,
        statement,
        unseal,
        verification_summary,
    )
    from airflow_pipesec.documents import canonical
    from airflow_pipesec.errors import ConfigurationError, EvidenceError
    from airflow_pipesec.evidence import Entry, name_of
    from airflow_pipesec.signing import LocalSigner, Signer, TrustedKeys, entry_of

T = datetime(2026, 11, 25, 3, 0, 0, tzinfo=UTC)
ED25519, P256 = LocalSigner(ed25519.Ed25519PrivateKey.generate()), LocalSigner(ec.generate_private_key(ec.SECP256R1()))
KEYS = "".join(entry_of(signer.public_key, name=f"key {n}", valid_from=T) for n, signer in enumerate((ED25519, P256))).encode()
TRUSTED = TrustedKeys.parse(KEYS)


def attestation(**changes: Any) -> Attestation:
    """An attestation that has something of everything."""
    everything: dict[str, Any] = {
        "attempt": Attempt("train", "manual__2026-11-25T03:00:00+00:00", "verify", 3, 2, "019abcde-0000-7000-8000-000000000001"),
        "guard": "airflow_pipesec.guards.integrity.VerifyArtifactOperator",
        "outcome": "PASSED",
        "reason": "every control held, 1 waived",
        "started": T,
        "finished": T + timedelta(seconds=1, microseconds=5),
        "tests": (("digest-matches",), ("no-extra-files",), ()),
        "findings": ({"control": "digest-matches", "status": "pass", "count": 7, "blocks": False, "digest": None},),
        "more_findings": 2,
        "waivers": (
            {"control": "no-extra-files", "subject": "*", "reason": "é 😀", "approver": "vera", "expires": "2026-12-01"},
        ),
        "policy": {"fail_on": "medium", "waivers": []},
        "version": "0.1.0",
        "links": (Link("before", -1, "ab" * 32), Link("mapped", 0, None)),
        "dag_version": "01900000-0000-7000-8000-000000000000",
        "logical_date": "2026-11-25T03:00:00+00:00",
        "run_type": "manual",
        "triggered_by": "vera",
        "subjects": (("model.joblib", {"sha256": "cd" * 32}), ("data/", {"dirHash": "ef" * 32})),
        "controls": {
            "digest-matches": {"title": "é", "severity": "critical", "remedy": "Rebuild it.", "references": ["CWE-354", "x"]},
            "no-extra-files": {"title": "t", "severity": "low", "remedy": "Look.", "references": []},
        },
    }
    return Attestation(**everything | changes)


def summary(passed: bool = True) -> dict[str, Any]:
    """A verification summary."""
    return verification_summary(
        resource="s3://models/model.joblib",
        digest={"sha256": "cd" * 32},
        passed=passed,
        policy={"fail_on": "medium", "waivers": []},
        policy_uri="urn:airflow-pipesec:policy",
        inputs=[("verify/-1.1.019abcde-0000-7000-8000-000000000001.json", "ab" * 32)],
        verified=T,
    )


def sealed(payload: bytes, signer: Signer = ED25519, /, **changes: Any) -> bytes:
    """An envelope around any bytes at all, really signed."""
    one = {"keyid": signer.key_id, "sig": base64.b64encode(signer.sign(pae(payload))).decode()}
    envelope = {"payload": base64.b64encode(payload).decode(), "payloadType": PAYLOAD_TYPE, "signatures": [one]}
    return canonical(envelope | changes)


PLAIN = Attestation(Attempt("d", "r", "t", -1, 1, "0"), "g", "FAILED", "", T, T)
DOCUMENTS = [statement(attestation()), statement(PLAIN), summary(), {"predicateType": "x"}]
ENVELOPES = [seal(document, signer) for document in DOCUMENTS for signer in (ED25519, P256)] + [seal(DOCUMENTS[0], None)]
NAMES = [name_of(attestation().attempt).encode(), name_of(PLAIN.attempt).encode()]
SEEDS = [*map(canonical, DOCUMENTS), *ENVELOPES, KEYS, *NAMES]
_BELIEVED = frozenset(ENVELOPES)


def one_input(data: bytes) -> None:
    """Feed bytes to everything that reads some. Raises for what is a defect."""
    with contextlib.suppress(EvidenceError):
        unseal(data, TRUSTED)
        assert data in _BELIEVED, "a forgery"
    # The same bytes as what was signed, so that what lies behind the signature is reached.
    with contextlib.suppress(EvidenceError):
        opened = unseal(sealed(data), TRUSTED)
        assert canonical(opened.document) == data, "two forms of one statement"
        attested = read_attestation(opened.document)
        assert canonical(statement(attested)) == data, "a statement that was not understood"
        assert Entry.of(name_of(attested.attempt)) is not None, "a name that is not read back"
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(data)
        with contextlib.suppress(EvidenceError):
            read_attestation(document)
    with contextlib.suppress(ConfigurationError):
        TrustedKeys.parse(data)
    name = data.decode("utf-8", "surrogateescape")
    entry = Entry.of(name)
    assert entry is None or f"{entry.task}/{entry.map_index}.{entry.try_number}.{entry.attempt}.json" == name


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2**53 - 1, 2**53, 10**400, 1.5, float("nan"), float("inf"), "", "0", ".", "..", "/", "\0",
    "\ud800", "😀", "a" * 300, "../../etc/passwd", "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00.000000Z", "PASSED", "e30=",
    [], {}, [[]], [None], {"": {}}, [{}], {"sha256": "ab"}, ["a", "a"], [[[[[[[[1]]]]]]]],
]  # fmt: skip


def _places(part: Any) -> list[tuple[Any, Any]]:
    """Every place in a document: the list or object that holds it, and its index or key."""
    inner = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    return [place for key, value in inner for place in ((part, key), *_places(value))]


def mutated(chance: random.Random) -> bytes:
    """Bytes near what is read: a document of which a part was replaced, added or taken away, or a seed with other bytes in it."""
    kind = chance.random()
    if kind < 0.05:
        return chance.randbytes(chance.randrange(200))
    if kind < 0.6:
        document = json.loads(chance.choice([*map(canonical, DOCUMENTS), *[canonical(DOCUMENTS[0])] * 20, *ENVELOPES]))
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            if not (places := _places(document)):
                break
            holder, key = chance.choice(places)
            what = chance.random()
            if what < 0.7:
                holder[key] = copy.deepcopy(chance.choice(HOSTILE))
            elif what < 0.85:
                del holder[key]
            elif isinstance(holder, dict):
                holder["more"] = copy.deepcopy(chance.choice(HOSTILE))
            else:
                holder.append(copy.deepcopy(chance.choice(HOSTILE)))
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    data, other = bytearray(chance.choice(SEEDS)), chance.choice(SEEDS)
    for _ in range(chance.choice((1, 1, 2, 8))):
        start = chance.randrange(len(data) + 1)
        what = chance.randrange(4)
        if what == 0 and start < len(data):
            data[start] ^= 1 << chance.randrange(8)
        elif what == 1:
            del data[start : start + chance.randrange(1, 9)]
        elif what == 2:
            data[start:start] = chance.choice(
                (b"\0", b'"', b"[", b"{", b"\\ud800", b"9" * 40, b"\xff", b"*a", b"&a ", b"!!", b"- ")
            )
        else:
            data[start:] = other[chance.randrange(len(other)) :]
    return bytes(data)


def run(seconds: float, seed: int) -> int:
    """Feed it for some time without atheris, the same for the same seed. Returns how many inputs there were."""
    chance, end, number = random.Random(seed), time.monotonic() + seconds, 0
    for data in SEEDS:
        one_input(data)
    while time.monotonic() < end:
        one_input(mutated(chance))
        number += 1
    return number


def main() -> int:
    if not ATHERIS:
        print("atheris is not installed: pip install atheris", file=sys.stderr)
        return 2
    corpus = Path(sys.argv[1]) if len(sys.argv) > 1 and not sys.argv[1].startswith("-") else None
    if corpus is not None:
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(SEEDS):
            (corpus / f"seed-{number}").write_bytes(data)
        chance = random.Random(1)
        for number in range(300):
            (corpus / f"mutated-{number}").write_bytes(mutated(chance))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
