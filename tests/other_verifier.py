"""Another verifier of a run's evidence, written from docs/evidence.md: it imports nothing of the package it checks on."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

TYPE = "application/vnd.in-toto+json"
GATE = "airflow_pipesec.guards.release.ReleaseGateOperator"
RECORDER = "airflow_pipesec.guards.integrity.HashManifestOperator"
NAME = re.compile(r"([^/]+)/(-1|0|[1-9]\d*)\.(0|[1-9]\d*)\.([0-9A-Za-z-]{1,64})\.json")
EXTENSION = {"format", "guard", "dag", "run", "task", "mapIndex", "try", "attempt", "dagVersion", "logicalDate", "runType"}
EXTENSION |= {"triggeredBy", "started", "finished", "outcome", "reason", "findings", "moreFindings", "waivers", "links"}


class No(Exception):
    """Not evidence, and why."""


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def parsed(data: bytes) -> Any:
    try:
        document = json.loads(data)
        if canonical(document) != data:
            raise No("not canonical")
    except (ValueError, RecursionError):
        raise No("not JSON") from None
    return document


def raw(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (ValueError, TypeError):
        raise No("not base64") from None
    if base64.b64encode(data).decode() != text:
        raise No("not canonical base64")
    return data


def part(text: str) -> str:
    encoded = quote(text, safe="-_.~+:=@,") or "%"
    encoded = f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded
    return encoded if len(encoded) <= 200 else f"{encoded[:135]}!{hashlib.sha256(text.encode()).hexdigest()}"


def moment(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)


def trusted(path: Path) -> dict[str, Any]:
    found = {}
    for entry in yaml.safe_load(path.read_text()):
        key = load_pem_public_key(entry["public_key"].encode())
        key_id = hashlib.sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
        found[key_id] = entry | {"key": key}
    return found


def opened(data: bytes, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the statement in an envelope that a trusted key signed when it was valid."""
    envelope = parsed(data)
    if not isinstance(envelope, dict) or envelope.keys() != {"payload", "payloadType", "signatures"}:
        raise No("no envelope")
    if envelope["payloadType"] != TYPE or len(envelope["signatures"]) != 1:
        raise No("another type, or not one signature")
    (signature,) = envelope["signatures"]
    payload, entry = raw(envelope["payload"]), keys.get(signature["keyid"])
    if entry is None:
        raise No("an unknown key")
    signed = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
    try:
        if isinstance(entry["key"], ed25519.Ed25519PublicKey):
            entry["key"].verify(raw(signature["sig"]), signed)
        else:
            entry["key"].verify(raw(signature["sig"]), signed, ec.ECDSA(SHA256()))
    except InvalidSignature:
        raise No("a wrong signature") from None
    statement: dict[str, Any] = parsed(payload)
    when = moment(statement["predicate"]["airflowPipesec"]["finished"])
    if entry.get("revoked") or when < entry["valid_from"] or when > entry.get("valid_until", when):
        raise No("a key that was not valid")
    return statement


def witness(name: str, data: bytes, dag: str, run: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the extension of an attestation that is in its place, with its digest and its subjects."""
    statement = opened(data, keys)
    ours: dict[str, Any] = statement["predicate"]["airflowPipesec"]
    if statement["predicateType"] != "https://in-toto.io/attestation/test-result/v0.1" or ours.keys() != EXTENSION:
        raise No("another statement")
    of_run = hashlib.sha256(canonical({"dag": dag, "run": run})).hexdigest()
    if (ours["dag"], ours["run"]) != (dag, run) or statement["subject"][0]["digest"] != {"sha256": of_run}:
        raise No("another run")
    attempt = UUID(ours["attempt"])
    made = datetime.fromtimestamp((attempt.int >> 80) / 1000, UTC) if attempt.version == 7 else None
    if made is not None and moment(ours["started"]) < made - timedelta(minutes=5):
        raise No("made before its attempt")
    if name != f"{part(ours['task'])}/{ours['mapIndex']}.{ours['try']}.{ours['attempt']}.json":
        raise No("another place")
    return ours | {"sha256": hashlib.sha256(data).hexdigest(), "subjects": statement["subject"][1:]}


def swapped(found: dict[str, Any], good: dict[tuple[str, int], dict[str, Any]]) -> bool:
    """Whether a guard read another manifest than a guard that it follows recorded at that place."""
    seen: set[tuple[str, int]] = set()
    waiting = [found]
    while waiting:
        for link in waiting.pop()["links"]:
            other = (link["task"], link["mapIndex"])
            if other in good and other not in seen:
                seen.add(other)
                waiting.append(good[other])
    recorded = [subject for other in seen if good[other]["guard"] == RECORDER for subject in good[other]["subjects"]]
    for subject in found["subjects"]:
        there = [each["digest"] for each in recorded if each["name"] == subject["name"]]
        if there and subject["digest"] not in there:
            return True
    return False


def verify(
    store: Path, dag: str, run: str, keys: Path, gate: str = "", *, now: datetime, ships: dict[str, str] | None = None
) -> set[str]:
    """Return the names of the controls that do not hold; none when the run is proved."""
    known, folder = trusted(keys), store / part(dag) / part(run)
    good: dict[tuple[str, int], dict[str, Any]] = {}
    refused: list[tuple[str, str, str]] = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or name.endswith(".vsa.json"):
            continue
        match = NAME.fullmatch(name)
        try:
            if match is None:
                raise No("another name")
            found = witness(name, path.read_bytes(), dag, run, known)
        except No:
            refused.append((name.partition("/")[0], match[2] if match else "", match[4] if match else "~"))
            continue
        instance = (found["task"], found["mapIndex"])
        if instance not in good or found["attempt"] > good[instance]["attempt"]:
            good[instance] = found
    waiting = [instance for instance, found in good.items() if (instance[0] == gate if gate else found["guard"] == GATE)]
    wanted: set[tuple[str, int]] = set()
    while waiting:
        instance = waiting.pop()
        if instance not in wanted:
            wanted.add(instance)
            waiting += [(link["task"], link["mapIndex"]) for link in good.get(instance, {"links": ()})["links"]]
    wanted |= {(task, index) for task, index in good if task in {name for name, _ in wanted}}
    failed: set[str] = set() if wanted else {"evidence-present"}
    for folder_name, index, attempt in refused:
        newest = max((f["attempt"] for (t, i), f in good.items() if part(t) == folder_name and str(i) == index), default="")
        if folder_name in {part(task) for task, _ in wanted} and attempt >= newest:
            failed.add("evidence-authentic")
    for instance in wanted:
        found = good.get(instance, {})
        if not found:
            failed.add("evidence-present")
            continue
        if len({good[other]["dagVersion"] for other in wanted if other in good}) > 1:
            failed.add("evidence-current")
        if moment(found["finished"]) > now + timedelta(minutes=5):
            failed.add("evidence-current")
        for link in found["links"]:
            if link["sha256"] is None or link["sha256"] != good.get((link["task"], link["mapIndex"]), {}).get("sha256"):
                failed.add("evidence-linked")
        if found["guard"] != RECORDER and swapped(found, good):
            failed.add("evidence-linked")
        if found["outcome"] != "PASSED" or any(waiver["expires"] < now.date().isoformat() for waiver in found["waivers"]):
            failed.add("guard-passed")
    if ships is not None:
        examined = [
            s["digest"]
            for i in wanted
            if i in good and good[i]["outcome"] == "PASSED" and good[i]["guard"] != RECORDER
            for s in good[i]["subjects"]
        ]
        if ships not in examined:
            failed.add("artifact-attested")
    return failed
