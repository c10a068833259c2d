"""Signed plans: only what a trusted key signed as a plan, and is valid now, is read where a signature is demanded."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import PAYLOAD_TYPE, seal, sealed
from airflow_pipesec.errors import PlanError
from airflow_pipesec.plan import Plan
from airflow_pipesec.plan_form import SIGNED_TYPE, sealed_plan
from airflow_pipesec.signing import LocalSigner, TrustedKeys, entry_of
from tests.test_plan import RULE

TEXT = ("version: 1\nname: ours\n" + RULE).encode()
SIGNER = LocalSigner(ed25519.Ed25519PrivateKey.generate())
OTHER = LocalSigner(ec.generate_private_key(ec.SECP256R1()))
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def trusting(
    signer: LocalSigner = SIGNER, *, since: datetime = NOW - DAY, until: datetime | None = None, more: str = ""
) -> TrustedKeys:
    entry = entry_of(signer.public_key, name="who owns plans", valid_from=since, valid_until=until)
    return TrustedKeys.parse((entry + more).encode())


SIGNED = sealed_plan(TEXT, "plan.yaml", SIGNER)


def refused(raw: bytes, trusted: TrustedKeys | None) -> str:
    with pytest.raises(PlanError) as caught:
        Plan.read(raw, "plan.yaml", trusted=trusted)
    return str(caught.value)


def test_a_signed_plan_is_read_and_says_by_whom_it_is_signed() -> None:
    plan = Plan.read(SIGNED, "plan.yaml", trusted=trusting())
    assert plan.signed_by == "who owns plans"
    assert plan.name == "ours"
    assert plan.document == Plan.read(TEXT, "plan.yaml").document


def test_a_signature_that_nobody_demands_is_not_looked_at() -> None:
    plan = Plan.read(SIGNED, "plan.yaml")
    assert plan.signed_by is None
    assert plan.document == Plan.read(TEXT, "plan.yaml").document


def test_of_a_signed_plan_the_faults_have_the_places_of_its_yaml() -> None:
    raw = sealed(b"version: 1\nstge: []\n", SIGNED_TYPE, SIGNER)
    assert "plan.yaml: line 2, column 1, stge: unknown key. Did you mean stages?" in refused(raw, trusting())


def test_a_plan_without_a_signature_is_refused_where_one_is_demanded(tmp_path: Path) -> None:
    assert refused(TEXT, trusting()) == "plan.yaml is not signed, and has to be. Sign it with `pipesec plan --sign KEY`."
    (tmp_path / "plan.yaml").write_bytes(TEXT)
    with pytest.raises(PlanError, match="is not signed, and has to be"):
        Plan.load(tmp_path / "plan.yaml", trusted=trusting())
    with pytest.raises(PlanError, match="a plan that has to be signed is no mapping"):
        Plan.load(dict(Plan.read(TEXT, "plan.yaml").document), trusted=trusting())


def test_a_signed_plan_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "plan.dsse.json").write_bytes(SIGNED)
    assert Plan.load("plan.dsse.json", beside=str(tmp_path), trusted=trusting()).signed_by == "who owns plans"


def test_another_key_is_not_believed() -> None:
    assert "is not believed: " in refused(SIGNED, trusting(OTHER))
    assert "is not believed: " in refused(sealed_plan(TEXT, "plan.yaml", OTHER), trusting())


@pytest.mark.parametrize(
    "trusted",
    [
        trusting(since=NOW - 2 * DAY, until=NOW - DAY),
        trusting(since=NOW + DAY),
        trusting(more="  revoked: its disk was stolen\n"),
    ],
    ids=["expired", "not yet", "revoked"],
)
def test_a_key_that_is_not_valid_now_is_not_believed(trusted: TrustedKeys) -> None:
    told = refused(SIGNED, trusted)
    assert "plan.yaml is not believed: " in told
    assert told.endswith("Sign it again with a key that is trusted for plans.")


def test_an_envelope_of_another_type_is_not_believed() -> None:
    for payload_type in (PAYLOAD_TYPE, "application/json", SIGNED_TYPE + "2"):
        assert "is not believed" in refused(sealed(TEXT, payload_type, SIGNER), trusting())
    assert "is not believed" in refused(seal({"version": 1}, SIGNER), trusting())


def test_a_plan_under_the_signature_of_evidence_is_not_believed() -> None:
    evidence = json.loads(sealed(TEXT, PAYLOAD_TYPE, SIGNER))
    evidence["payloadType"] = SIGNED_TYPE
    raw = json.dumps(evidence, sort_keys=True, separators=(",", ":")).encode()
    assert "is not believed" in refused(raw, trusting())


def test_what_was_not_signed_is_not_believed() -> None:
    document = json.loads(SIGNED)
    document["payload"] = base64.b64encode(TEXT.replace(b"ours", b"mine")).decode()
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert "is not believed" in refused(raw, trusting())
    document["signatures"] = []
    raw = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    assert "is not believed" in refused(raw, trusting())


@given(st.integers(0, len(SIGNED) - 1), st.integers(1, 255))
def test_no_byte_of_a_signed_plan_can_be_another(place: int, by: int) -> None:
    changed = bytearray(SIGNED)
    changed[place] ^= by
    assert "plan.yaml is not " in refused(bytes(changed), trusting())


@given(st.binary(max_size=120))
def test_no_other_bytes_are_a_signed_plan(raw: bytes) -> None:
    for start in (b"", b'{"payload":', SIGNED[:200]):
        assert refused(start + raw, trusting())


def test_only_a_plan_is_signed() -> None:
    with pytest.raises(PlanError, match="unknown key"):
        sealed_plan(b"version: 1\nfoo: 1\n" + RULE.encode(), "plan.yaml", SIGNER)
