"""Another verifier of a run's evidence, written to docs/evidence.md: it imports nothing of the package it checks on."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID

import yaml
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

TYPE = "application/vnd.in-toto+json"
GATE = "airflow_pipesec.guards.release.ReleaseGateOperator"
RECORDER = "airflow_pipesec.guards.integrity.HashManifestOperator"
HASHES = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}
NAME = re.compile(r"([^/]+)/(-1|0|[1-9][0-9]{0,15})\.(0|[1-9][0-9]{0,15})\.([0-9A-Za-z-]{1,64})\.json")
MINUTES, EPOCH, FORMAT = timedelta(minutes=5), datetime(1970, 1, 1, tzinfo=UTC), "%Y-%m-%dT%H:%M:%S.%fZ"
Instance = tuple[str, int]

# A form is a type, a pattern, an object of forms with just these members, a list of one form, alternatives, or a constant.
# {str: form} is an object of any members, at least one, that all have that form.
ID, HEX = re.compile("(?s).+"), re.compile("[0-9a-f]{64}")
TIME = re.compile(r"[1-9][0-9]{3}(-[0-9]{2}){2}T([0-9]{2}:){2}[0-9]{2}\.[0-9]{6}Z")
LINK = {"task": ID, "mapIndex": int, "sha256": (HEX, None)}
OURS = {"format": 1, "guard": str, "dag": ID, "run": ID, "task": ID, "mapIndex": int, "try": int}
OURS |= {"attempt": re.compile("[0-9A-Za-z-]{1,64}"), "dagVersion": (str, None), "logicalDate": (str, None), "runType": str}
OURS |= {"triggeredBy": (str, None), "started": TIME, "finished": TIME, "outcome": ("PASSED", "FAILED", "ERROR")}
OURS |= {"reason": str, "findings": [dict], "moreFindings": int, "waivers": [dict], "links": [LINK]}
EXPLAINED = {"controls": {str: {"title": str, "severity": str, "remedy": str, "references": [str]}}}
POLICY = {"name": "policy", "mediaType": "application/json", "content": str, "digest": {"sha256": HEX}}
PACKAGE = {"name": "airflow-pipesec", "uri": re.compile("(?s)pkg:pypi/airflow-pipesec@[^@]*")}
RESULT = {"result": ("PASSED", "WARNED", "FAILED"), "configuration": list, "airflowPipesec": (OURS, OURS | EXPLAINED)}
RESULT |= {"passedTests": [str], "warnedTests": [str], "failedTests": [str]}
STATEMENT: dict[str, Any] = {
    "_type": "https://in-toto.io/Statement/v1",
    "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
}
STATEMENT |= {"subject": [{"name": str, "digest": dict}], "predicate": RESULT}
ENVELOPE = {"payload": str, "payloadType": TYPE, "signatures": [{"keyid": str, "sig": str}]}


def demand(holds: bool) -> None:
    if not holds:
        raise ValueError


def fits(value: Any, form: Any) -> bool:
    if isinstance(form, dict) and str in form:
        return isinstance(value, dict) and bool(value) and all(fits(item, form[str]) for item in value.values())
    if isinstance(form, dict):
        return isinstance(value, dict) and value.keys() == form.keys() and all(fits(value[name], form[name]) for name in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(fits(item, form[0]) for item in value)
    if isinstance(form, tuple):
        return any(fits(value, one) for one in form)
    if isinstance(form, re.Pattern):
        return isinstance(value, str) and form.fullmatch(value) is not None
    return type(value) is form if isinstance(form, type) else type(value) is type(form) and value == form


def canonical(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def plain(value: Any, level: int = 0) -> bool:
    if isinstance(value, dict | list):
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return level < 64 and all(plain(item, level + 1) for item in inner)
    if isinstance(value, str):
        return bool(value.encode()) or True  # half a pair raises
    return value is None or (isinstance(value, int) and abs(value) < 2**53)


def parsed(data: bytes) -> Any:
    document = json.loads(data)
    demand(plain(document) and canonical(document) == data)
    return document


def raw(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    demand(base64.b64encode(data).decode() == text)
    return data


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def part(text: str) -> str:
    encoded = quote(text, safe="-_.~+:=@,") or "%"
    encoded = f"%2E{encoded[1:]}" if encoded.startswith(".") else encoded
    return encoded if len(encoded) <= 200 else f"{encoded[:135]}!{sha256(text.encode())}"


def trusted(path: Path) -> dict[str, Any]:
    """Return the entries by key id. Whether the file's own form is strict is left to who maintains it."""
    found = {}
    for entry in yaml.safe_load(path.read_text()):
        key = load_pem_public_key(entry["public_key"].encode())
        key_id = sha256(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        times = {name: datetime.fromisoformat(str(entry[name])) for name in ("valid_from", "valid_until") if entry.get(name)}
        found[key_id] = {"key": key, "revoked": entry.get("revoked") not in (None, False)} | times
    return found


def opened(data: bytes, keys: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return what is in an envelope that a trusted key signed, and that key's entry."""
    demand(len(data) <= 8 << 20)
    envelope = parsed(data)
    demand(fits(envelope, ENVELOPE) and len(envelope["signatures"]) == 1)
    (signature,) = envelope["signatures"]
    payload, sig, entry = raw(envelope["payload"]), raw(signature["sig"]), keys.get(signature["keyid"], {})
    demand(bool(entry))
    signed = b"DSSEv1 %d %s %d %s" % (len(TYPE), TYPE.encode(), len(payload), payload)
    curve = getattr(entry["key"], "curve", None)  # Ed25519 has none
    entry["key"].verify(sig, signed, *([ec.ECDSA(HASHES[curve.name])] if curve else []))
    return parsed(payload), entry


def witness(name: str, data: bytes, dag: str, run: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Return the extension of an attestation that is in its place, with its digest and its subjects."""
    statement, entry = opened(data, keys)
    demand(fits(statement, STATEMENT))
    predicate, (of_run, *subjects) = statement["predicate"], statement["subject"] or [None]
    ours: dict[str, Any] = predicate["airflowPipesec"]
    numbers = [(ours["mapIndex"], -1), (ours["try"], 0), (ours["moreFindings"], 0), *((x["mapIndex"], -1) for x in ours["links"])]
    texts = [*ours["waivers"], *(subject["digest"] for subject in subjects)]
    demand(all(number >= least for number, least in numbers))
    demand(all(isinstance(text, str) for each in texts for text in each.values()))
    passed = "WARNED" if predicate["warnedTests"] else "PASSED"
    demand(predicate["result"] == (passed if ours["outcome"] == "PASSED" else "FAILED"))
    settings = predicate["configuration"]
    demand(len(settings) == 2 and fits(settings[0], POLICY) and fits(settings[1], PACKAGE))
    policy = raw(settings[0]["content"])
    demand(isinstance(parsed(policy), dict) and settings[0]["digest"]["sha256"] == sha256(policy))
    digest = sha256(canonical({"dag": dag, "run": run}))
    demand((ours["dag"], ours["run"]) == (dag, run))
    demand(of_run == {"name": f"run {run} of {dag}", "digest": {"sha256": digest}})
    demand(name == f"{part(ours['task'])}/{ours['mapIndex']}.{ours['try']}.{ours['attempt']}.json")
    started, finished = (datetime.strptime(ours[which] + "+0000", f"{FORMAT}%z") for which in ("started", "finished"))
    demand(not entry["revoked"] and entry.get("valid_from", finished) <= finished <= entry.get("valid_until", finished))
    uuid = UUID(int=0)
    with suppress(ValueError):
        uuid = UUID(ours["attempt"])
    if uuid.version == 7 and (begun := uuid.int >> 80) < 253_402_300_800_000:  # the year 10000
        demand(started >= EPOCH + timedelta(milliseconds=begun) - MINUTES)
    return ours | {"digest": sha256(data), "subjects": subjects, "started": started, "finished": finished}


def under(good: dict[Instance, dict[str, Any]], start: list[Instance]) -> set[Instance]:
    """Return what links lead to, the start included."""
    found: set[Instance] = set()
    waiting = list(start)
    while waiting:
        instance = waiting.pop()
        if instance not in found:
            found.add(instance)
            waiting += [(link["task"], link["mapIndex"]) for link in good.get(instance, {"links": ()})["links"]]
    return found


def verify(
    store: Path, dag: str, run: str, keys: Path, gate: str = "", *, now: datetime, ships: tuple[str, dict[str, str]] | None = None
) -> list[str]:
    """Return what is wrong with a run, each as the name of the control and what it is about; nothing when the run is proved."""
    known, folder = trusted(keys), store / part(dag) / part(run)
    good: dict[Instance, dict[str, Any]] = {}
    refused: list[str] = []
    for path in sorted(folder.rglob("*")):
        name, is_plain = path.relative_to(folder).as_posix(), path.is_file() and not path.is_symlink()
        if (path.is_dir() and not path.is_symlink()) or (is_plain and name.endswith(".vsa.json")):
            continue
        try:
            demand(is_plain and NAME.fullmatch(name) is not None)
            found = witness(name, path.read_bytes(), dag, run, known)
        except (ValueError, RecursionError, InvalidSignature):
            refused.append(name)
            continue
        instance = (found["task"], found["mapIndex"])
        if instance not in good or (found["attempt"], found["try"]) > (good[instance]["attempt"], good[instance]["try"]):
            good[instance] = found
    start = [instance for instance, found in good.items() if (instance[0] == gate if gate else found["guard"] == GATE)]
    start = start or [(gate, -1)] * bool(gate)
    if not start:
        return ["evidence-present: release gate"]
    wanted = under(good, start)
    tasks = {task for task, _ in wanted}
    wanted |= {instance for instance in good if instance[0] in tasks}
    problems: list[str] = []
    for name in refused:
        match = NAME.fullmatch(name)
        newest = [f["attempt"] for (t, i), f in good.items() if match and (part(t), str(i)) == (match[1], match[2])]
        if name.partition("/")[0] in map(part, tasks) and not (match and newest and match[4] < newest[0]):
            problems.append(f"evidence-authentic: evidence {name}")
    present = [instance for instance in sorted(wanted) if instance in good]
    for instance in sorted(wanted):
        guard = f"guard {instance[0]}[{instance[1]}]" if instance[1] >= 0 else f"guard {instance[0]}"
        if instance not in good:
            problems.append(f"evidence-present: {guard}")
            continue
        found = good[instance]
        late = found["finished"] > now + MINUTES or found["started"] > found["finished"] + MINUTES
        if late or found["dagVersion"] != good[present[0]]["dagVersion"]:
            problems.append(f"evidence-current: {guard}")
        links = {(link["task"], link["mapIndex"]): link["sha256"] for link in found["links"]}
        above = [good[i] for i in under(good, list(links)) if i in good and good[i]["guard"] == RECORDER]
        swapped = False
        for subject in found["subjects"] if found["guard"] != RECORDER else ():
            there = [s["digest"] for w in above for s in w["subjects"] if s["name"] == subject["name"]]
            swapped = swapped or (bool(there) and subject["digest"] not in there)
        if swapped or any(digest is None or digest != good.get(i, {}).get("digest") for i, digest in links.items()):
            problems.append(f"evidence-linked: {guard}")
        expired = any(waiver.get("expires", "") < now.date().isoformat() for waiver in found["waivers"])
        if found["outcome"] != "PASSED" or expired:
            problems.append(f"guard-passed: {guard}")
    if ships is not None:
        by = [good[i] for i in present if good[i]["outcome"] == "PASSED" and good[i]["guard"] != RECORDER]
        seen = [subject for found in by for subject in found["subjects"]]
        if ships[1] not in [s["digest"] for s in [s for s in seen if s["name"] == ships[0]] or seen]:
            problems.append(f"artifact-attested: {ships[0]}")
    return problems
