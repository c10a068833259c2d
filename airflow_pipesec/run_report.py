"""Run reports: what the guards of a run attested and what its verification found, as documents for other programs.

One is JSON of our own, with everything; the other SARIF 2.1.0, with what failed or could not be decided. Both say just what the
evidence says: whether it is to be believed is for the verification, which stands in both.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from airflow_pipesec.evidence import Witness, part_of
from airflow_pipesec.findings import Finding, Severity, Status, escaped, printable
from airflow_pipesec.sarif import log_of, prints_of, rule_of, uri_of

__all__ = ["FORMAT", "FORMAT_VERSION", "findings_document", "findings_sarif"]

FORMAT = "airflow-pipesec/findings"
FORMAT_VERSION = 1
TELLING = 8  # characters of a run's id, from which on it stands in a path for no other reason
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MORE = re.compile(r"[0-9]+ more subjects")
_LEVELS = {
    Severity.CRITICAL: ("error", "9.5"),
    Severity.HIGH: ("error", "8.0"),
    Severity.MEDIUM: ("warning", "5.5"),
    Severity.LOW: ("note", "3.0"),
    Severity.INFO: ("note", "1.0"),
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """A finding, attested or of the verification, as both documents tell it."""

    control: str
    status: str
    severity: str
    blocks: bool
    subject: str
    digest: str | None
    version: str | None
    message: str
    count: int
    waived: dict[str, str] | None

    @classmethod
    def attested(cls, item: Mapping[str, Any]) -> _Seen:
        """Read what was attested. Its members are open: what is missing, or is another thing, is left empty and blocks."""

        def text(member: str) -> str | None:
            value = item.get(member)
            return value if isinstance(value, str) else None

        waived, count = item.get("waived"), item.get("count")
        return cls(
            control=text("control") or "unknown-control",
            status=next((str(status) for status in Status if status == text("status")), str(Status.ERROR)),
            severity=text("severity") or Severity.CRITICAL.label,
            blocks=item.get("blocks") is not False,
            subject=_without_secret(text("subject") or ""),
            digest=text("digest"),
            version=text("version"),
            message=text("message") or "",
            count=count if type(count) is int else 1,
            waived={str(name): str(value) for name, value in waived.items()} if isinstance(waived, dict) else None,
        )

    @classmethod
    def verified(cls, item: Finding) -> _Seen:
        """Take a finding of the verification, where every failure and every doubt counts."""
        return cls(
            control=item.control.id,
            status=str(item.status),
            severity=item.level.label,
            blocks=item.status in (Status.FAIL, Status.ERROR),
            subject=_without_secret(item.subject.name),
            digest=item.subject.digest,
            version=item.subject.version,
            message=item.message,
            count=item.count,
            waived=None,
        )

    @property
    def level(self) -> Severity:
        """The severity; of a word that is none the highest."""
        return next((severity for severity in Severity if severity.label == self.severity), Severity.CRITICAL)


def findings_document(
    dag_id: str, run_id: str, attestations: Iterable[Witness], verification: Iterable[Finding]
) -> dict[str, Any]:
    """Return all that was found of a run, as JSON types.

    ``attestations`` are the latest of each guard, ``verification`` what :func:`airflow_pipesec.checks.release.verify_run` yields.
    ``verdict`` is that of the verification: ``PASSED`` where it found something good and nothing else, ``FAILED`` otherwise.
    """
    witnesses, checked = _in_order(attestations), list(verification)
    controls = _controls(witnesses, checked)
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "run": {"dag_id": dag_id, "run_id": run_id},
        "verdict": _verdict(checked),
        "guards": [_guard(witness) for witness in witnesses],
        "findings": [
            {"task_id": witness.attested.attempt.task_id, "map_index": witness.attested.attempt.map_index} | _told(seen, controls)
            for witness, seen in _attested(witnesses)
        ],
        "verification": [_told(_Seen.verified(item), controls) for item in checked],
    }


def findings_sarif(dag_id: str, run_id: str, attestations: Iterable[Witness], verification: Iterable[Finding]) -> dict[str, Any]:
    """Return what failed or could not be decided in a run as a SARIF log, each with the guard that says so.

    What is waived is in it, and marked as such. The arguments are those of :func:`findings_document`.
    """
    witnesses, checked = _in_order(attestations), list(verification)
    controls = _controls(witnesses, checked)
    numbers = {name: number for number, name in enumerate(controls)}
    results, before = [], Counter[tuple[str, ...]]()
    for place, seen, more in _bad(dag_id, witnesses, checked):
        identity = (seen.control, place, _lasting(seen.subject, run_id))
        before[identity] += 1
        # The second of the same in a run is another alert than the first, in every run.
        prints = prints_of(*identity, *([str(before[identity])] if before[identity] > 1 else []))
        results.append(_result(place, seen, more) | {"ruleIndex": numbers[seen.control], "partialFingerprints": prints})
    return log_of(
        [_rule(name, told) for name, told in controls.items()],
        results,
        decided=all(item.status is not Status.ERROR for item in checked),
        automationDetails={"id": f"pipesec/{_of_uri(dag_id)}/{_of_uri(run_id)}"},  # what is before the last slash stays the same
        properties={"dag": escaped(dag_id), "run": escaped(run_id), "verdict": _verdict(checked)},
    )


def _in_order(attestations: Iterable[Witness]) -> list[Witness]:
    return sorted(attestations, key=lambda witness: witness.attested.attempt.instance)


def _attested(witnesses: Iterable[Witness]) -> Iterator[tuple[Witness, _Seen]]:
    for witness in witnesses:
        for item in witness.attested.findings:
            yield witness, _Seen.attested(item)


def _controls(witnesses: Iterable[Witness], checked: Iterable[Finding]) -> dict[str, Mapping[str, Any]]:
    """What every control is, by id: as the evidence says; evidence from before it did says no more than the finding does."""
    found: dict[str, Mapping[str, Any]] = {}
    for item in checked:
        control = item.control
        texts = {"title": control.title, "severity": control.severity.label, "remedy": control.remedy}
        found.setdefault(control.id, texts | {"references": [str(reference) for reference in control.refs]})
    witnesses = list(witnesses)
    for witness in witnesses:
        for name, told in witness.attested.controls.items():
            found.setdefault(name, told)
    for _, seen in _attested(witnesses):
        said = {"title": seen.control, "severity": seen.severity, "remedy": "Look at the log of the guard.", "references": []}
        found.setdefault(seen.control, said)
    return dict(sorted(found.items()))


def _verdict(checked: Iterable[Finding]) -> str:
    statuses = {item.status for item in checked}
    return "PASSED" if Status.PASS in statuses and not statuses & {Status.FAIL, Status.ERROR} else "FAILED"


def _guard(witness: Witness) -> dict[str, Any]:
    attested, attempt = witness.attested, witness.attested.attempt
    return {
        "task_id": attempt.task_id,
        "map_index": attempt.map_index,
        "try_number": attempt.try_number,
        "attempt": attempt.attempt,
        "guard": attested.guard,
        "outcome": attested.outcome,
        "reason": attested.reason,
        "started": attested.started.isoformat(),
        "finished": attested.finished.isoformat(),
        "findings": len(attested.findings),
        "more_findings": attested.more_findings,
        "attestation": f"sha256:{witness.sha256}",
        "key": {"id": witness.key.key_id, "name": witness.key.name},
    }


def _told(seen: _Seen, controls: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    told = controls[seen.control]
    control = {"title": told["title"], "remedy": told["remedy"], "references": list(told["references"])}
    return asdict(seen) | control


def _bad(dag_id: str, witnesses: Iterable[Witness], checked: Iterable[Finding]) -> Iterator[tuple[str, _Seen, Mapping[str, Any]]]:
    """Yield what failed or could not be decided: where in the DAG, what, and what else is to be told of it."""
    dag, witnesses = printable(dag_id), list(witnesses)
    for witness, seen in _attested(witnesses):
        attempt = witness.attested.attempt
        if seen.status in (Status.FAIL, Status.ERROR):
            index = f"[{attempt.map_index}]" if attempt.map_index >= 0 else ""
            more = {
                "guard": escaped(witness.attested.guard),
                "try": attempt.try_number,
                "attestation": f"sha256:{witness.sha256}",
            }
            yield f"{dag}.{printable(attempt.task_id)}{index}", seen, more
    by_part = {part_of(task): printable(task) for task in (witness.attested.attempt.task_id for witness in witnesses)}
    for item in checked:
        seen = _Seen.verified(item)
        if seen.blocks:
            kind, _, name = seen.subject.partition(" ")
            part = name.partition("/")[0]
            task = {"guard": name, "evidence": by_part.get(part, part)}.get(kind, "")
            yield f"{dag}.{task}" if task else dag, seen, {}


def _rule(name: str, told: Mapping[str, Any]) -> dict[str, Any]:
    severity = next((one for one in Severity if one.label == told["severity"]), Severity.CRITICAL)
    title, remedy = escaped(told["title"]), escaped(told["remedy"])
    references = [escaped(reference) for reference in told["references"]]
    return rule_of(escaped(name), title, f"{title}.", remedy, *_LEVELS[severity], "high", references)


def _result(place: str, seen: _Seen, more: Mapping[str, Any]) -> dict[str, Any]:
    doubt = "could not be decided: " if seen.status == Status.ERROR else ""
    location: dict[str, Any] = {"logicalLocations": [{"fullyQualifiedName": place}]}
    if seen.subject.startswith("/") or _URL.match(seen.subject):
        location["physicalLocation"] = {"artifactLocation": {"uri": uri_of(seen.subject)}}
    facts = {"digest": seen.digest, "version": seen.version}
    properties = {"status": seen.status, "severity": seen.severity, "blocks": seen.blocks, "count": seen.count, **more}
    result: dict[str, Any] = {
        "ruleId": escaped(seen.control),
        "level": _LEVELS[seen.level][0],
        "message": {"text": escaped(f"{seen.subject}: {doubt}{seen.message}")},
        "locations": [location],
        "properties": properties | {name: escaped(value) for name, value in facts.items() if value is not None},
    }
    if seen.waived is not None:
        who = {name: seen.waived.get(name, "unknown") for name in ("reason", "approver", "expires")}
        why = f"{who['reason']} Waived by {who['approver']} until {who['expires']}."
        result["suppressions"] = [{"kind": "external", "status": "accepted", "justification": escaped(why)}]
    return result


def _lasting(subject: str, run_id: str) -> str:
    """What a subject is called in every run: the run's own id in a path, and how many more there were, are another each time."""
    for own in (part_of(run_id), printable(run_id)):
        subject = subject.replace(own, "{run}") if len(run_id) >= TELLING else subject
    return _MORE.sub("more subjects", subject) if _MORE.fullmatch(subject) else subject


def _without_secret(subject: str) -> str:
    """A subject without what opens a URL to whoever reads it: a user's name and password, and a signature after a ``?``."""
    scheme = _URL.match(subject)
    if scheme is None:
        return subject
    host, slash, path = subject[scheme.end() :].partition("?")[0].partition("/")
    return f"{scheme[0]}{host.rpartition('@')[2]}{slash}{path}"


def _of_uri(text: str) -> str:
    return quote(text, safe="", errors="surrogatepass")
