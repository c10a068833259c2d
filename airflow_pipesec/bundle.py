"""Bundles: a manifest is signed as OpenSSF Model Signing v1.0 signs it, and believed only when a key that is trusted signed it.

A bundle is a Sigstore bundle v0.3: a DSSE envelope around the statement of :mod:`airflow_pipesec.manifest`, and the id of the key
(its "hint"). ``model_signing verify key`` verifies what is written here, and what ``model_signing sign key`` writes is read here.

Read is one form only. There is one signature, over the encoding that DSSE defines. Which key has to have made it, and by which
algorithm, say the trusted keys; a certificate in a bundle vouches for nothing. Nothing in the payload is looked at before its
signature was verified. There is no time in a bundle, so the key has to be valid now.

Sources: https://github.com/ossf/model-signing-spec (spec/v1.0.md), https://github.com/secure-systems-lab/dsse (protocol v1.0.2),
https://github.com/sigstore/protobuf-specs (sigstore_bundle.proto).
"""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec

from airflow_pipesec.attestation import PAYLOAD_TYPE, pae
from airflow_pipesec.documents import strict_base64
from airflow_pipesec.errors import ConfigurationError, EvidenceError, ManifestError
from airflow_pipesec.manifest import MAX_MANIFEST_BYTES, SIGNED_ALGORITHMS, Manifest, read_json
from airflow_pipesec.signing import Signer, TrustedKey, TrustedKeys

__all__ = ["MAX_BUNDLE_BYTES", "demand_signable", "open_manifest", "sign_manifest", "unverified_manifest"]

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
MAX_BUNDLE_BYTES = MAX_MANIFEST_BYTES // 3 * 4 + 4096
"""What a bundle around the largest manifest takes, in base64."""

_BUNDLE = {"mediaType", "verificationMaterial", "dsseEnvelope"}


def demand_signable(algorithm: str, signer: Signer) -> None:
    """Raise :class:`ConfigurationError` unless the signer can sign a manifest of an algorithm, as the format has it."""
    key = signer.public_key
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ConfigurationError(
            "the signing key is not ECDSA P-256, and OpenSSF Model Signing knows no Ed25519. Give a key that "
            "`pipesec keygen --signing --algorithm ecdsa-p256` made, or leave the manifest unsigned (sign=False)."
        )
    if algorithm not in SIGNED_ALGORITHMS:
        raise ConfigurationError(
            f"OpenSSF Model Signing knows no {algorithm}. Use {' or '.join(SIGNED_ALGORITHMS)}, "
            "or leave the manifest unsigned (sign=False)."
        )


def sign_manifest(manifest: Manifest, signer: Signer) -> bytes:
    """Return the bundle of a manifest, signed.

    Raises :class:`ConfigurationError` for a key or an algorithm that the format does not know (see :func:`demand_signable`),
    :class:`ManifestError` for a manifest of no file, and what the signer raises.
    """
    demand_signable(manifest.algorithm, signer)
    if not manifest.resources or not manifest.name:
        raise ManifestError("the manifest records no file, or has no name. Give an artifact that has both.")
    payload = manifest.to_json()
    signature = signer.sign(pae(payload))
    document = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": signer.key_id}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode("ascii"),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode("ascii"), "keyid": ""}],
        },
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii") + b"\n"


def open_manifest(data: bytes, trusted: TrustedKeys | None, *, now: datetime) -> tuple[Manifest, TrustedKey | None]:
    """Return a manifest and the trusted key that signed it; None for a bare statement, which nobody signed.

    Raises :class:`EvidenceError` for a bundle that no trusted key signed, or none that is valid ``now``, or that is in another
    form than the one; also without ``trusted``, since a signature that nobody verifies is none. Raises :class:`ManifestError` for
    what is neither a bundle nor a bare statement, and for a manifest that is malformed although it is signed.
    """
    document = read_json(data)
    if not _is_bundle(document):
        return Manifest.from_statement(document), None
    if trusted is None:
        raise EvidenceError(
            "it is signed, and no keys are configured to verify it with. Give those that you trust: [pipesec] trusted_keys, "
            "`--trusted-keys FILE` or trusted=."
        )
    signed = _unpack(document)
    named = trusted.keys.get(signed.hint)
    if named is not None and named.algorithm == "ed25519":
        raise EvidenceError("it names an Ed25519 key, and OpenSSF Model Signing knows no Ed25519")
    key = trusted.verify(signed.hint, pae(signed.payload), signed.signature)
    if fault := key.fault(now):
        raise EvidenceError(f"it is signed by a key that is not valid: {fault}")
    return Manifest.from_statement(read_json(signed.payload), signed=True), key


def unverified_manifest(data: bytes) -> Manifest:
    """Return the manifest in a bundle or a bare statement, whoever signed it: for callers who know its digest from elsewhere.

    Raises :class:`EvidenceError` and :class:`ManifestError` as :func:`open_manifest` does for what is malformed.
    """
    document = read_json(data)
    if not _is_bundle(document):
        return Manifest.from_statement(document)
    return Manifest.from_statement(read_json(_unpack(document).payload), signed=True)


class _Signed(NamedTuple):
    """What a bundle holds: the id of the key, what it signed, and the signature."""

    hint: str
    payload: bytes
    signature: bytes


def _is_bundle(document: Any) -> bool:
    return isinstance(document, dict) and not _BUNDLE.isdisjoint(document)


def _unpack(document: dict[str, Any]) -> _Signed:
    """Take a bundle apart. Raises :class:`EvidenceError` for any that is not in the one form that is read here."""
    _demand(document.keys() == _BUNDLE, f"the bundle has not just {', '.join(sorted(_BUNDLE))}")
    _demand(document["mediaType"] == MEDIA_TYPE, f"the bundle's media type is not {MEDIA_TYPE}")
    material = _members(document["verificationMaterial"], "the verification material")
    _demand(
        not material.keys() & {"certificate", "x509CertificateChain"},
        "it is signed with a certificate, and only keys that are configured are believed here. Have it signed with a key",
    )
    _demand("publicKey" in material, "the bundle names no key")
    # What follows is allowed by the format, is not covered by the signature, and would have to be verified by other means.
    _demand(
        material.keys() <= {"publicKey", "tlogEntries"} and material.get("tlogEntries", []) == [],
        "the bundle has entries of a transparency log, or timestamps, which are not verified here. Have it signed without them",
    )
    key = _members(material["publicKey"], "the bundle's key")
    _demand(key.keys() == {"hint"} and isinstance(key["hint"], str), "the bundle's key has not just a hint, which names it")
    envelope = _members(document["dsseEnvelope"], "the envelope")
    _demand(
        envelope.keys() == {"payload", "payloadType", "signatures"},
        "the envelope has not just payload, payloadType and signatures",
    )
    _demand(envelope["payloadType"] == PAYLOAD_TYPE, f"the payload's type is not {PAYLOAD_TYPE}")
    signatures = envelope["signatures"]
    _demand(isinstance(signatures, list) and len(signatures) == 1, "the envelope has not just one signature")
    one = _members(signatures[0], "the signature")
    _demand("sig" in one and one.keys() <= {"sig", "keyid"}, "the signature has not just sig and keyid")
    _demand(one.get("keyid") in (None, "", key["hint"]), "the signature names another key than the bundle")
    return _Signed(key["hint"], strict_base64(envelope["payload"], "the payload"), strict_base64(one["sig"], "the signature"))


def _demand(holds: bool, reason: str) -> None:
    if not holds:
        raise EvidenceError(reason)


def _members(part: Any, what: str) -> dict[str, Any]:
    _demand(isinstance(part, dict), f"{what} is not an object")
    return part  # type: ignore[no-any-return] # an object, as was demanded
