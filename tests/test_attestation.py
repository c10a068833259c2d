"""Attestations: what was sealed comes back as it was, and nothing comes out of any other bytes."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from airflow_pipesec.attestation import (
    MAX_ENVELOPE,
    PAYLOAD_TYPE,
    Attempt,
    Attestation,
    Link,
    digest_set,
    pae,
    read_attestation,
    seal,
    statement,
    unseal,
)
from airflow_pipesec.checks.release import verify_stored
from airflow_pipesec.documents import DEEPEST, MOST, canonical, strict_json
from airflow_pipesec.errors import EvidenceError, ObjectExists
from airflow_pipesec.evidence import RunEvidence, folder_of
from airflow_pipesec.findings import Status
from airflow_pipesec.signing import LocalSigner, TrustedKeys
from airflow_pipesec.storage import LocalStore
from tests.fuzz_evidence import (
    ED25519,
    P256,
    PLAIN,
    TRUSTED,
    T,
    attestation,
    sealed,
    summary,
)

BOTH = pytest.mark.parametrize("signer", [ED25519, P256], ids=["ed25519", "p256"])
ORDER_P256 = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
STATEMENT = canonical(statement(attestation()))
ANY_TEXT = st.text(st.characters())  # halves of surrogate pairs among it
NUMBERS = st.integers(-MOST, MOST)
PLAIN_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=20,
)


def refused(envelope: bytes, reason: str | None = None, trusted: TrustedKeys = TRUSTED) -> str:
    """Why an envelope is refused, in one line that is fit to be printed."""
    with pytest.raises(EvidenceError, match=reason) as caught:
        unseal(envelope, trusted)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
    return str(caught.value)


# ---- what was sealed comes back


@BOTH
def test_what_was_attested_is_read_back_as_it_was(signer: LocalSigner) -> None:
    for attested in (attestation(), PLAIN, attestation(outcome="ERROR", triggered_by=None, logical_date=None, dag_version=None)):
        envelope = seal(statement(attested), signer)
        opened = unseal(envelope, TRUSTED)
        read = read_attestation(opened.document)
        assert dataclasses.replace(read, policy=read.policy or None) == attested
        assert opened.key.key_id == signer.key_id
        assert opened.digest == hashlib.sha256(envelope).hexdigest()


def texts() -> st.SearchStrategy[Attestation]:
    """Attestations with any text in all their places."""
    text, digest = st.text(), st.binary(min_size=32, max_size=32).map(bytes.hex)
    some, named = st.text(min_size=1), st.dictionaries(st.text(), st.text(), max_size=3)
    told = {"title": text, "severity": text, "remedy": text, "references": st.lists(text, max_size=2)}
    moment = st.datetimes(datetime(1000, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - gets its zone
    return st.builds(
        Attestation,
        attempt=st.builds(Attempt, some, some, some, st.integers(-1, MOST), st.integers(0, MOST), some),
        guard=text,
        outcome=st.sampled_from(["PASSED", "FAILED", "ERROR"]),
        reason=text,
        started=moment,
        finished=moment,
        tests=st.tuples(*[st.lists(text, max_size=2).map(tuple)] * 3),
        findings=st.lists(st.dictionaries(text, PLAIN_JSON, max_size=3), max_size=2).map(tuple),
        more_findings=st.integers(0, MOST),
        waivers=st.lists(named, max_size=2).map(tuple),
        policy=st.dictionaries(text, PLAIN_JSON, min_size=1, max_size=3),
        version=text.filter(lambda version: "@" not in version),
        links=st.lists(st.builds(Link, some, st.integers(-1, MOST), st.none() | digest), max_size=2).map(tuple),
        dag_version=st.none() | text,
        logical_date=st.none() | text,
        run_type=text,
        triggered_by=st.none() | text,
        subjects=st.lists(st.tuples(text, named), max_size=2).map(tuple),
        controls=st.dictionaries(text, st.fixed_dictionaries(told), max_size=2),
    )


@given(texts())
def test_whatever_the_texts_are_they_are_read_back(attested: Attestation) -> None:
    envelope = seal(statement(attested), ED25519)
    assert read_attestation(unseal(envelope, TRUSTED).document) == attested


def test_a_test_result_says_passed_warned_or_failed() -> None:
    said = {
        ("PASSED", ()): "PASSED",
        ("PASSED", ("let be",)): "WARNED",
        ("FAILED", ()): "FAILED",
        ("ERROR", ("let be",)): "FAILED",
    }
    for (outcome, warned), result in said.items():
        document = statement(attestation(outcome=outcome, tests=((), warned, ())))
        assert document["predicate"]["result"] == result
        document["predicate"]["result"] = next(other for other in said.values() if other != result)
        with pytest.raises(EvidenceError, match="is not a"):
            read_attestation(document)


def test_a_digest_is_written_as_in_toto_does() -> None:
    assert digest_set("sha256:ab") == {"sha256": "ab"}
    assert digest_set("tree:sha256:ab") == {"dirHash": "ab"}
    assert digest_set("tree:sha512:ab") == {"treeSha512": "ab"}
    assert digest_set("tree:blake3:ab") == {"treeBlake3": "ab"}


# ---- the envelope


def parts(signer: LocalSigner = ED25519, payload: bytes = STATEMENT) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(sealed(payload, signer))
    return read


def test_an_envelope_that_nobody_signed_is_refused() -> None:
    assert refused(seal(statement(attestation()), None)) == "it is not signed"


@BOTH
def test_an_envelope_of_any_other_form_is_refused(signer: LocalSigner) -> None:
    whole = parts(signer)
    (one,) = whole["signatures"]
    other = parts(P256 if signer is ED25519 else ED25519)["signatures"]
    unseal(canonical(whole), TRUSTED)
    for changes, reason in (
        ({"payloadType": "application/vnd.in-toto.test-result+json"}, "payload's type"),
        ({"payloadType": PAYLOAD_TYPE.upper()}, "payload's type"),
        ({"payloadType": ""}, "payload's type"),
        ({"payloadType": None}, "payload's type"),
        ({"payloadType": [PAYLOAD_TYPE]}, "payload's type"),
        ({"signatures": []}, "not signed"),
        ({"signatures": {}}, "not just one signature"),
        ({"signatures": None}, "not just one signature"),
        ({"signatures": "x"}, "not just one signature"),
        ({"signatures": [one, one]}, "not just one signature"),
        ({"signatures": [one, *other]}, "not just one signature"),
        ({"signatures": [one, {}]}, "not just one signature"),
        ({"signatures": [None]}, "not just keyid and sig"),
        ({"signatures": [[]]}, "not just keyid and sig"),
        ({"signatures": ["x"]}, "not just keyid and sig"),
        ({"signatures": [{}]}, "not just keyid and sig"),
        ({"signatures": [one | {"more": ""}]}, "not just keyid and sig"),
        ({"signatures": [{"sig": one["sig"]}]}, "not just keyid and sig"),
        ({"signatures": [one | {"keyid": None}]}, "not just keyid and sig"),
        ({"signatures": [one | {"keyid": [signer.key_id]}]}, "not just keyid and sig"),
        ({"signatures": [one | {"sig": None}]}, "not just keyid and sig"),
        ({"signatures": [one | {"sig": 7}]}, "not just keyid and sig"),
        ({"signatures": [one | {"sig": ""}]}, "not that of key"),
        ({"signatures": [one | {"keyid": ""}]}, "not trusted .it has no id"),
        ({"signatures": [one | {"keyid": signer.key_id.upper()}]}, "not trusted"),
        ({"signatures": [one | {"keyid": signer.key_id[:16]}]}, "not trusted"),
        ({"signatures": [one | {"keyid": other[0]["keyid"]}]}, "not that of key"),
        ({"signatures": [other[0] | {"keyid": one["keyid"]}]}, "not that of key"),
        ({"payload": None}, "the payload is not canonical base64"),
        ({"payload": 7}, "the payload is not canonical base64"),
        ({"payload": ["a"]}, "the payload is not canonical base64"),
        ({"payload": "é"}, "the payload is not canonical base64"),
        ({"payload": ""}, "not that of key"),
        ({"payload": base64.b64encode(canonical(summary())).decode()}, "not that of key"),
        ({"more": 1}, "not just payload, payloadType and signatures"),
    ):
        refused(canonical(whole | changes), reason)
    for name in whole:
        refused(canonical({key: value for key, value in whole.items() if key != name}), "not just payload, payloadType")
    for document in ([], [whole], "x", 7, None, True, {}):
        refused(canonical(document), "not just payload, payloadType")


def test_a_signature_over_the_bare_payload_or_another_type_is_none() -> None:
    """What DSSE signs is the type and the payload, each with its length, so that neither can be read as the other."""
    for said in (STATEMENT, pae(STATEMENT, "text/plain"), pae(STATEMENT)[1:], pae(b""), b"DSSEv1 " + STATEMENT):
        one = {"keyid": ED25519.key_id, "sig": base64.b64encode(ED25519.sign(said)).decode()}
        refused(sealed(STATEMENT, signatures=[one]), "not that of key")
    assert pae(b"hello world", "http://example.com/HelloWorld") == (
        b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"  # the example of the DSSE protocol
    )


def with_both_letters(signer: LocalSigner) -> bytes:
    """An envelope in whose Base64 there are + and /, and whose signature ends in padding."""
    for number in range(10_000):
        envelope = sealed(canonical({"n": number, "text": "?>?>~~~"}), signer)
        sig = json.loads(envelope)["signatures"][0]["sig"]
        if "+" in sig and "/" in sig and sig.endswith("="):
            return envelope
    raise AssertionError


@BOTH
def test_base64_is_read_in_the_one_standard_way(signer: LocalSigner) -> None:
    envelope = with_both_letters(signer)
    unseal(envelope, TRUSTED)
    whole = json.loads(envelope)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

    def variants(text: str) -> Iterator[str]:
        yield text.replace("+", "-").replace("/", "_")
        yield text.rstrip("=")
        yield text + "="
        yield text + "===="
        yield text + "\n"
        yield " " + text
        yield text[:4] + "\r\n" + text[4:]
        yield text[:5] + "\0" + text[5:]
        yield text[:8] + "=" + text[8:]
        yield text + "AA=="
        body = text.rstrip("=")
        if len(text) != len(body):  # the bits of the last letter that do not count
            yield body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]

    for variant in set(variants(whole["signatures"][0]["sig"])) - {whole["signatures"][0]["sig"]}:
        refused(
            canonical(whole | {"signatures": [whole["signatures"][0] | {"sig": variant}]}),
            "the signature is not canonical base64",
        )
    padded = json.loads(sealed(b"{}" if signer is ED25519 else b'{"a":1}', signer))
    for variant in set(variants(padded["payload"])) - {padded["payload"]}:
        refused(canonical(padded | {"payload": variant}), "the payload is not canonical base64")


@BOTH
def test_an_envelope_is_read_in_its_one_form(signer: LocalSigner) -> None:
    envelope = sealed(STATEMENT, signer)
    whole = json.loads(envelope)
    for other in (
        json.dumps(whole).encode(),
        json.dumps(whole, indent=1).encode(),
        json.dumps(dict(reversed(whole.items())), separators=(",", ":")).encode(),
        envelope + b"\n",
        b" " + envelope,
        envelope + b"\0",
        envelope + envelope,
        b"\xef\xbb\xbf" + envelope,
        envelope.decode().encode("utf-16"),
        envelope.decode().encode("utf-16-le"),
        envelope.decode().encode("utf-32"),
        envelope.replace(b"payload", rb"\u0070ayload"),
        envelope.replace(b"/", rb"\/"),
        envelope.replace(b"+json", b"+json", 1).replace(b'"payloadType"', b'"payloadType" '),
        envelope[:-1],
        envelope[1:],
        b"",
    ):
        refused(other, "the envelope is not")


@BOTH
def test_a_key_given_twice_is_refused_on_both_levels(signer: LocalSigner) -> None:
    envelope = sealed(STATEMENT, signer)
    for place in (b'"payload":', b'"payloadType":', b'"signatures":', b'"keyid":', b'"sig":'):
        refused(envelope.replace(place, place + b"null," + place, 1), "KeyGivenTwice")
        refused(envelope.replace(place, place + b'"",' + place, 1), "KeyGivenTwice")
    for place in (b'"outcome":', b'"predicate":', b'"_type":', b'"result":'):
        refused(sealed(STATEMENT.replace(place, place + b'"FAILED",' + place, 1), signer), "the statement.*KeyGivenTwice")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"NaN", "not a whole one"), (b"Infinity", "not a whole one"), (b"-Infinity", "not a whole one"),
        (b"1.0", "not a whole one"), (b"1e3", "not a whole one"), (b"1E400", "not a whole one"), (b"-0.0", "not a whole one"),
        (b"-0", "one form"), (b"01", "JSONDecodeError"), (b"+1", "JSONDecodeError"), (b"0x1", "JSONDecodeError"),
        (b"9007199254740992", "too large"), (b"-9007199254740992", "too large"), (b"9" * 10_000, "too large"),
        (b"-" + b"9" * 1_000_000, "too large"), (b"1" + b"0" * 20, "too large"), (b"\xd9\xa1", "UnicodeDecodeError"),
        (b"[" * 100_000, "Error"), (b"[" * 100_000 + b"]" * 100_000, "RecursionError"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "RecursionError"), (b"[" * DEEPEST + b"]" * DEEPEST, "nested deeper"),
        (b'"\xff"', "UnicodeDecodeError"), ('"é"'.encode(), "UnicodeDecodeError"), (b'"\xe9"', "UnicodeDecodeError"),
        (rb'"\ud800"', "surrogate"), (rb'"\udfff"', "surrogate"), (rb'"\ude00\ud83d"', "surrogate"),
        (rb'"\uD83D\uDE00"', "one form"),
        (rb'"\u0061"', "one form"), (rb'"\/"', "one form"), (rb'"\u00E9"', "one form"), (rb'"\x"', "JSONDecodeError"),
        (b'"\0"', "JSONDecodeError"), (b'"\n"', "JSONDecodeError"), (b'"\x7f"', "one form"),
        (rb'"\u007f"', None), (rb'"\u0000"', None),
        (rb'"\u00e9"', None), (rb'"\ud83d\ude00"', None), (b"9007199254740991", None), (b"-9007199254740991", None), (b"0", None),
        (b"[" * (DEEPEST - 1) + b"]" * (DEEPEST - 1), None), (b"true", None), (b"null", None), (b"True", "JSONDecodeError"),
        (b"", "JSONDecodeError"), (b" 1", "one form"), (b"1//", "JSONDecodeError"), (b'{"b":1,"a":2}', "one form"),
    ],
)  # fmt: skip
def test_a_value_is_read_where_all_readers_agree_on_it(value: bytes, reason: str | None) -> None:
    payload = b'{"a":' + value + b"}"
    if reason is None:
        assert unseal(sealed(payload), TRUSTED).document == json.loads(payload)
    else:
        refused(sealed(payload), f"the statement is not .*{reason}")
        refused(sealed(b"{}", payload=None).replace(b"null", value, 1), "the (envelope|payload) is not")


def test_what_is_signed_and_no_object_is_refused() -> None:
    for payload in (b"[]", b'"x"', b"7", b"null", b"true"):
        refused(sealed(payload), "the statement is not an object")
    refused(sealed(b""), "the statement is not JSON")


def test_an_envelope_larger_than_the_limit_is_neither_read_nor_written() -> None:
    refused(b"[" * (MAX_ENVELOPE + 1), "larger than")
    refused(b"[" * MAX_ENVELOPE, "not JSON")
    room = MAX_ENVELOPE // 4 * 3 - 1000
    assert unseal(seal({"a": "x" * room}, ED25519), TRUSTED).document["a"][5:7] == "xx"
    with pytest.raises(EvidenceError, match="nobody would read it"):
        seal({"a": "x" * (room + 1000)}, ED25519)


UNWRITABLE = [1.5, float("nan"), 2**53, -(2**53), 10**5000, "\ud800", {1: 2}, {"\ud800": 1}, b"x", {1}, object(), T]


@pytest.mark.parametrize("value", UNWRITABLE, ids=range(len(UNWRITABLE)))
def test_what_could_not_be_read_back_is_not_written(value: Any) -> None:
    for document in ({"a": value}, {"a": [{"b": value}]}):
        with pytest.raises(EvidenceError, match=r"cannot be written: .* Leave that out of it") as caught:
            seal(document, ED25519)
        str(caught.value).encode()
    with pytest.raises(EvidenceError, match="cannot be written"):
        statement(attestation(policy={"a": value}))
    cyclic: list[Any] = []
    cyclic.append(cyclic)
    with pytest.raises(EvidenceError, match="nested deeper"):
        canonical(cyclic)


@given(PLAIN_JSON)
def test_a_document_has_one_form_which_is_read_back(document: Any) -> None:
    data = canonical(document)
    assert strict_json(data, "it") == document
    assert canonical(json.loads(data)) == data
    assert data.isascii()


def same(one: Any, other: Any) -> bool:
    """Whether two documents are the same as JSON, where true is no number."""
    return type(one) is type(other) and (
        one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        if isinstance(one, dict)
        else len(one) == len(other) and all(map(same, one, other))
        if isinstance(one, list)
        else one == other
    )


@given(st.data())
def test_two_documents_have_the_same_form_only_when_they_are_the_same(data: st.DataObject) -> None:
    small = st.recursive(
        st.sampled_from([None, True, False, 0, 1, -1, "", "1", "a", "é", "😀", "null", '"', "\\"]),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["", "a", '"', "\\"]), inner, max_size=2),
        max_leaves=4,
    )
    one, other = data.draw(small), data.draw(small)
    assert (canonical(one) == canonical(other)) == same(one, other)


# ---- forgeries


@BOTH
def test_an_envelope_with_any_one_bit_flipped_is_refused(signer: LocalSigner) -> None:
    envelope = sealed(b'{"a":1}', signer)
    unseal(envelope, TRUSTED)
    for place in range(len(envelope)):
        for bit in range(8):
            changed = bytearray(envelope)
            changed[place] ^= 1 << bit
            with pytest.raises(EvidenceError):
                unseal(bytes(changed), TRUSTED)


@given(texts(), st.data(), st.sampled_from([ED25519, P256]))
def test_a_byte_that_is_changed_added_or_taken_away_anywhere_is_noticed(
    attested: Attestation, data: st.DataObject, signer: LocalSigner
) -> None:
    envelope = seal(statement(attested), signer)
    place = data.draw(st.integers(0, len(envelope) - 1))
    byte, kind = data.draw(st.binary(min_size=1, max_size=1)), data.draw(st.sampled_from([(0, 1), (1, 1), (1, 0)]))
    changed = envelope[:place] + byte * kind[1] + envelope[place + kind[0] :]
    if changed != envelope:
        refused(changed)


def malleated(envelope: bytes) -> bytes:
    """Another envelope of the same statement that the same key verifies, made without the private key: s → n - s."""
    whole = json.loads(envelope)
    r, s = decode_dss_signature(base64.b64decode(whole["signatures"][0]["sig"]))
    whole["signatures"][0]["sig"] = base64.b64encode(encode_dss_signature(r, ORDER_P256 - s)).decode()
    return canonical(whole)


def test_of_an_ecdsa_envelope_anybody_can_make_a_second_one_and_it_says_the_same() -> None:
    """Known of ECDSA, and let be: what it says and who signed it are the same, and by its digest it is another."""
    envelope = seal(statement(attestation()), P256)
    second = malleated(envelope)
    one, other = unseal(envelope, TRUSTED), unseal(second, TRUSTED)
    assert (one.document, one.key) == (other.document, other.key)
    assert one.digest != other.digest
    assert malleated(second) == envelope


def test_a_signature_of_ed25519_has_no_second_form() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    whole = parts(ED25519)
    raw = base64.b64decode(whole["signatures"][0]["sig"])
    second = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(32, "little")
    refused(
        sealed(STATEMENT, signatures=[{"keyid": ED25519.key_id, "sig": base64.b64encode(second).decode()}]), "not that of key"
    )


def test_a_signature_of_ecdsa_is_read_as_strict_der() -> None:
    raw = base64.b64decode(parts(P256)["signatures"][0]["sig"])
    r, s = decode_dss_signature(raw)
    numbers = [b"\x02" + bytes([len(part)]) + part for part in (n.to_bytes(33, "big").lstrip(b"\0") or b"\0" for n in (r, s))]
    for wrong in (
        raw + b"\0",
        b"\x30\x81" + raw[1:],  # a length in the long form
        b"\x30\x80" + raw[2:] + b"\0\0",  # and one without an end
        b"\x30" + bytes([len(raw)]) + b"\x02" + bytes([raw[3] + 1]) + b"\0" + raw[4:],  # a zero before the first number
        encode_dss_signature(r, s + ORDER_P256),
        encode_dss_signature(r + ORDER_P256, s),
        encode_dss_signature(0, 0),
        encode_dss_signature(0, s),
        encode_dss_signature(r, 0),
        encode_dss_signature(ORDER_P256, ORDER_P256),
        r.to_bytes(32, "big") + s.to_bytes(32, "big"),  # the other way to write one
        b"".join(numbers),
        b"",
        b"\x30\0",
    ):
        one = {"keyid": P256.key_id, "sig": base64.b64encode(wrong).decode()}
        refused(sealed(STATEMENT, signatures=[one]), "not that of key")


@pytest.fixture
def chain(tmp_path: Path) -> tuple[RunEvidence, Attempt, bytes]:
    """A guard and a gate that links to it, written as they would be; the guard's attempt and envelope."""
    run = RunEvidence(LocalStore(tmp_path / folder_of("d", "r")))
    first, gate = (Attempt("d", "r", task, -1, 1, f"0{n}") for n, task in enumerate(("verify", "gate")))
    one = attestation(attempt=first, links=(), waivers=())
    envelope = seal(statement(one), P256)
    run.write(first, envelope)
    guard = "airflow_pipesec.guards.release.ReleaseGateOperator"
    links = tuple(run.links([("verify", [-1])]))
    run.write(gate, seal(statement(dataclasses.replace(one, attempt=gate, guard=guard, links=links)), P256))
    return run, first, envelope


def test_a_second_envelope_of_the_same_statement_neither_gets_in_nor_goes_unnoticed(
    chain: tuple[RunEvidence, Attempt, bytes], tmp_path: Path
) -> None:
    run, first, envelope = chain

    def bad() -> list[str]:
        found = verify_stored(run, "d", "r", TRUSTED, now=T + timedelta(hours=1))
        return [f"{finding.control.id}: {finding.message}" for finding in found if finding.status is not Status.PASS]

    assert bad() == []
    with pytest.raises(ObjectExists):
        run.write(first, malleated(envelope))
    # Who can delete from the store as well can put it there. What it says is what the guard said; the links tell it apart.
    (place,) = tmp_path.rglob("-1.1.00.json")
    place.unlink()
    run.write(first, malleated(envelope))
    assert [line for line in bad() if not line.startswith("evidence-linked")] == []
    assert any("not its latest any more" in line for line in bad())
