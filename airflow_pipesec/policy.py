"""Policy: findings become a verdict, and only what was examined and found good passes."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from os import PathLike
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

from airflow_pipesec.documents import strict_yaml
from airflow_pipesec.errors import ConfigurationError, ObjectRefused, PolicyError
from airflow_pipesec.findings import Finding, Severity, Status, Subject, escaped

__all__ = ["Judged", "Outcome", "Policy", "Verdict", "Waiver", "described", "report"]

MAX_POLICY_BYTES = 1 << 20
_FAULTS_SHOWN = 5
LONG_FOLDER = 12
MOST_WAIVERS = 20  # in a summary
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class Outcome(StrEnum):
    """What a verdict says. ``ERROR`` is never judged: it marks a check that broke off with an exception."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Waiver:
    """A named person accepts one control's failure on some subjects, for a reason and until a day.

    ``subject`` is a glob over the subject's name (``*`` also matches ``/``). ``expires`` is the last day on which the waiver
    applies. Findings of status ``error`` (nobody could look) are covered only when ``include_errors`` says so.
    """

    control: str
    subject: str
    reason: str
    approver: str
    expires: date
    include_errors: bool = False

    def applies(self, today: date) -> bool:
        """Whether the waiver is still in force on ``today``."""
        return today <= self.expires

    def covers(self, finding: Finding) -> bool:
        """Whether this waiver speaks of that finding, its expiry aside."""
        if finding.status is not Status.FAIL and not (finding.status is Status.ERROR and self.include_errors):
            return False
        return finding.control.id == self.control and fnmatchcase(finding.subject.name, self.subject)


@dataclass(frozen=True, slots=True)
class Judged:
    """A finding beside what the policy made of it: whether it blocks, and the waiver that excused it, if any."""

    finding: Finding
    blocks: bool
    waiver: Waiver | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome, every finding with its judgement (none is dropped), and the waivers that did nothing."""

    outcome: Outcome
    judged: tuple[Judged, ...]
    reason: str
    unused_waivers: tuple[Waiver, ...] = ()
    expired_waivers: tuple[Waiver, ...] = ()

    @property
    def passed(self) -> bool:
        """True only for ``PASSED``."""
        return self.outcome is Outcome.PASSED

    @property
    def blocking(self) -> tuple[Finding, ...]:
        """The findings that made the verdict fail, worst first."""
        return tuple(item.finding for item in sorted(self.judged, key=_worst_first) if item.blocks)

    def summary(self) -> dict[str, Any]:
        """Counts, control ids and the days on which waivers end, as JSON types; no subject, no message, no data."""
        findings = [item.finding for item in self.judged]
        relied_on = {(str(item.waiver.expires), item.waiver.control) for item in self.judged if item.waiver is not None}
        return {
            "outcome": str(self.outcome),
            "findings": len(findings),
            "by_status": {str(status): sum(f.status is status for f in findings) for status in Status},
            "by_severity": {
                severity.label: sum(
                    item.finding.level is severity and item.finding.status in (Status.FAIL, Status.ERROR) and item.waiver is None
                    for item in self.judged
                )
                for severity in reversed(Severity)
            },
            "waived": sum(item.waiver is not None for item in self.judged),
            # Who waived what and why is in the signed evidence alone.
            "waivers": [{"control": control, "expires": day} for day, control in sorted(relied_on)[:MOST_WAIVERS]],
            "controls": sorted({f.control.id for f in findings}),
            "blocking_controls": sorted({f.control.id for f in self.blocking}),
        }

    def document(self) -> dict[str, Any]:
        """Return the summary with every finding and its waiver, as JSON types: the report for machines."""
        return self.summary() | {
            "reason": self.reason,
            "unused_waivers": [described(waiver) for waiver in self.unused_waivers],
            "expired_waivers": [described(waiver) for waiver in self.expired_waivers],
            "details": [
                {
                    "control": item.finding.control.id,
                    "status": str(item.finding.status),
                    "severity": item.finding.level.label,
                    "blocks": item.blocks,
                    "subject": item.finding.subject.name,
                    "digest": item.finding.subject.digest,
                    "version": item.finding.subject.version,
                    "message": item.finding.message,
                    "count": item.finding.count,
                    "waived": item.waiver and described(item.waiver),
                }
                for item in self.judged
            ],
        }


@dataclass(frozen=True, slots=True)
class Policy:
    """What blocks: failures at or above ``fail_on``, every ``error``, and nothing having been examined at all."""

    fail_on: Severity = Severity.MEDIUM
    waivers: tuple[Waiver, ...] = ()

    @classmethod
    def load(cls, source: str | PathLike[str] | Mapping[str, Any] | Policy | None) -> Policy:
        """Read a policy from a YAML file, a mapping, or nothing (the default policy).

        The form is strict: an unknown key, a key given twice, an unknown severity, an empty reason or approver, or a date that is
        none raises :class:`PolicyError` naming the place. A waiver without an expiry cannot be written.

        A file looks like this::

            fail_on: medium                  # info, low, medium, high, critical
            waivers:
              - control: no-extra-files
                subject: "/data/raw/*.tmp"   # glob over the subject's name
                reason: The collector leaves its scratch files until ticket 4711 is done.
                approver: vera@example.org
                expires: 2027-01-31          # the last day on which it applies
        """
        if source is None:
            return cls()
        if isinstance(source, Policy):
            return source
        if isinstance(source, Mapping):
            return _policy_from(source, "policy")
        if not isinstance(source, str | PathLike) or not source or "\0" in str(source):
            raise PolicyError(
                f"policy is a {type(source).__name__} that names no file. Give the path of a YAML file, or a mapping."
            )
        path = Path(source)
        return _policy_from(_read_yaml(path), f"policy {path}")

    def document(self) -> dict[str, Any]:
        """Return the policy as the mapping that :meth:`load` reads, as JSON types: for its digest, and for who reads evidence."""
        waivers = [described(waiver) | {"include_errors": waiver.include_errors} for waiver in self.waivers]
        return {"fail_on": self.fail_on.label, "waivers": waivers}

    def demand_only(self, control: str) -> None:
        """Raise :class:`ConfigurationError` where another control than this one is waived: what proves has no waiver."""
        for waiver in self.waivers:
            if waiver.control != control:
                raise ConfigurationError(
                    f"a gate takes no waiver for {escaped(waiver.control)}. Waive {control} on a guard, or give that guard the "
                    "waiver."
                )

    def judge(self, findings: Iterable[Finding], *, today: date, limit: int = 100) -> Verdict:
        """Turn findings into a verdict.

        ``FAILED`` when any finding blocks, or when nothing was found good: PASSED needs a finding that passes. A waiver excuses a
        failure, and is no evidence of anything. So adding a finding that fails never improves a verdict.

        Of each control at most ``limit`` findings of one status are kept by themselves; the rest is summed after each was judged,
        so that ten million bad files neither fill the log nor look like a hundred.
        """
        used: set[int] = set()
        judged = _Capped(limit)
        for finding in findings:
            judged.add(self._judge_one(finding, today, used))
        items = judged.items()
        if not items:
            reason = "nothing was examined: the check yielded no finding"
        elif all(item.finding.status is Status.SKIP for item in items):
            reason = "nothing was examined: every control was skipped"
        elif judged.blocking:
            reason = " and ".join(f"{number} {what}" for what, number in judged.blocking.items())
        elif not any(item.finding.status is Status.PASS for item in items):
            reason = "nothing was found good: what failed is waived or below the threshold, but nothing passed"
        else:
            reason = ""
        return Verdict(
            outcome=Outcome.FAILED if reason else Outcome.PASSED,
            judged=items,
            reason=reason or _nothing_blocks(items),
            unused_waivers=tuple(w for i, w in enumerate(self.waivers) if i not in used and w.applies(today)),
            expired_waivers=tuple(w for w in self.waivers if not w.applies(today)),
        )

    def _judge_one(self, finding: Finding, today: date, used: set[int]) -> Judged:
        if finding.status not in (Status.FAIL, Status.ERROR):
            return Judged(finding, blocks=False)
        covering = [i for i, waiver in enumerate(self.waivers) if waiver.applies(today) and waiver.covers(finding)]
        if covering:
            used.update(covering)
            return Judged(finding, blocks=False, waiver=self.waivers[covering[0]])
        return Judged(finding, blocks=finding.status is Status.ERROR or finding.level >= self.fail_on)


class _Capped:
    """Judged findings, the many alike among them summed into one that has the highest severity of those it speaks for."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.kept: list[Judged] = []
        self.blocking: Counter[str] = Counter()
        self.seen: Counter[Any] = Counter()
        self.totals: Counter[Any] = Counter()
        self.beyond: dict[Any, Judged] = {}

    def add(self, item: Judged) -> None:
        finding = item.finding
        if item.blocks:
            self.blocking["failed" if finding.status is Status.FAIL else "could not be decided"] += 1
        key = (finding.control.id, finding.status, item.blocks, item.waiver)
        self.seen[key] += 1
        if self.seen[key] <= self.limit:
            self.kept.append(item)
            return
        self.totals[key] += finding.count
        if key not in self.beyond or finding.level > self.beyond[key].finding.level:
            self.beyond[key] = item

    def items(self) -> tuple[Judged, ...]:
        return (*self.kept, *(self._summed(key, item) for key, item in self.beyond.items()))

    def _summed(self, key: Any, item: Judged) -> Judged:
        rest, finding = self.seen[key] - self.limit, item.finding
        if rest == 1:
            return item
        text = f"and {rest} more like these, {self.seen[key]} in all"
        subject = Subject(f"{rest} more subjects")
        summed = Finding(finding.control, subject, finding.status, text, count=self.totals[key], severity=finding.level)
        return Judged(summed, item.blocks, item.waiver)


def described(waiver: Waiver) -> dict[str, str]:
    """Return who accepted what, why and until when, as text."""
    return {name: str(getattr(waiver, name)) for name in ("control", "subject", "reason", "approver", "expires")}


def _nothing_blocks(judged: Iterable[Judged]) -> str:
    let_be = Counter(
        "waived" if item.waiver else "below the threshold"
        for item in judged
        if item.finding.status in (Status.FAIL, Status.ERROR)
    )
    if not let_be:
        return "every control held"
    return "nothing blocks: " + " and ".join(f"{number} {why}" for why, number in sorted(let_be.items()))


class Line(NamedTuple):
    """One line of a report, and whether it speaks of what made the verdict fail."""

    text: str
    alarming: bool = False


def report(verdict: Verdict, *, title: str, seconds: float | None = None) -> Iterator[Line]:
    """Yield the lines of a table of findings for people: worst first, the remedy under each finding that needs one."""
    duration = "" if seconds is None else f" in {seconds:.2f} s"
    yield Line(escaped(f"{verdict.outcome}  {title}: {verdict.reason}{duration}"), not verdict.passed)
    if verdict.judged:
        ordered = sorted(verdict.judged, key=_worst_first)
        width = max(len("control"), *(len(item.finding.control.id) for item in ordered))
        base = _common_folder([name for name in (item.finding.subject.name for item in ordered) if "/" in name])
        if base:
            yield Line(f"  subjects are under {base}")
        yield Line(f"  {'status':<7} {'severity':<9} {'control':<{width}}  subject: what was seen")
        remedies: set[str] = set()
        for item in ordered:
            finding = item.finding
            status = "WAIVED" if item.waiver else str(finding.status).upper()
            row = f"  {status:<7} {finding.level.label:<9} {finding.control.id:<{width}}  "
            yield Line(f"{row}{finding.subject.name.removeprefix(base)}: {finding.message}", item.blocks)
            indent = " " * (width + 22)
            if item.waiver:
                yield Line(escaped(f"{indent}waived until {item.waiver.expires} by {item.waiver.approver}: {item.waiver.reason}"))
            elif finding.status in (Status.FAIL, Status.ERROR) and finding.control.id not in remedies:
                remedies.add(finding.control.id)
                yield Line(f"{indent}remedy: {finding.control.remedy}", item.blocks)
    for waiver in verdict.expired_waivers:
        text = f"  waiver for {waiver.control} on {waiver.subject} expired on {waiver.expires} and no longer applies"
        yield Line(escaped(text))
    for waiver in verdict.unused_waivers:
        text = f"  waiver for {waiver.control} on {waiver.subject} matched nothing: remove it when it is not needed any more"
        yield Line(escaped(text))


def _common_folder(names: Sequence[str]) -> str:
    """Return the part of long names that need not be repeated on every line."""
    shared = commonprefix(names)  # noqa: RUF071 - cut at a slash below; commonpath() would fold the two of a URL
    folder = shared[: shared.rfind("/") + 1]
    return folder if len(names) > 1 and len(folder) >= LONG_FOLDER else ""


def _worst_first(item: Judged) -> tuple[bool, int, int]:
    rank = {Status.ERROR: 0, Status.FAIL: 0, Status.SKIP: 1, Status.PASS: 2}
    return not item.blocks, rank[item.finding.status], -item.finding.level


def _read_yaml(path: Path) -> Mapping[str, Any]:
    from airflow_pipesec.storage import plain_file

    where = escaped(str(path))
    try:
        with plain_file(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), str(path)) as file:
            raw = file.read(MAX_POLICY_BYTES + 1)
    except ObjectRefused:
        raise PolicyError(f"policy {where} is not a plain file. Give a YAML file or a mapping.") from None
    except OSError as error:
        raise PolicyError(
            f"policy {where} cannot be read: {error.strerror or error}. Give a readable YAML file or a mapping."
        ) from error
    if len(raw) > MAX_POLICY_BYTES:
        raise PolicyError(f"policy {where} is larger than {MAX_POLICY_BYTES} bytes. Split it, or give the file that was meant.")
    document = strict_yaml(raw, f"policy {where}", PolicyError)
    if not isinstance(document, Mapping):
        raise PolicyError(f"policy {where} holds no mapping. It starts with keys such as fail_on: and waivers:.")
    return document


def _policy_from(document: Mapping[Any, Any], where: str) -> Policy:
    from typing import Annotated

    from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

    def severity(value: object) -> object:
        by_label = {item.label: item for item in Severity}
        if isinstance(value, Severity):
            return value
        if not isinstance(value, str) or value not in by_label:
            raise ValueError(f"must be one of {', '.join(by_label)}")
        return by_label[value]

    def day(value: object) -> object:
        # A templated mapping brings dates as text; a bare number would be read as seconds since 1970.
        if isinstance(value, date) and not isinstance(value, datetime):
            return value
        with suppress(ValueError):  # whose message quotes the text
            if isinstance(value, str) and _DAY.fullmatch(value):
                return date.fromisoformat(value)
        raise ValueError("must be a day such as 2027-01-31")

    text = Annotated[str, Field(min_length=1, pattern=r"\S")]

    class WaiverModel(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        control: text
        subject: text
        reason: text
        approver: text
        expires: Annotated[date, BeforeValidator(day)]
        include_errors: bool = False

    class PolicyModel(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)
        fail_on: Annotated[Severity, BeforeValidator(severity)] = Severity.MEDIUM
        waivers: list[WaiverModel] = []

    try:
        model = PolicyModel.model_validate(dict(document))
    except ValidationError as error:
        shown = [f"{_place(fault['loc'])}: {_fault(fault)}" for fault in error.errors(include_input=False)[:_FAULTS_SHOWN]]
        if error.error_count() > len(shown):
            shown.append(f"and {error.error_count() - len(shown)} more")
        raise PolicyError(f"the {escaped(where)} is not valid: {'; '.join(shown)}. See docs/policies.md for the form.") from None
    return Policy(fail_on=model.fail_on, waivers=tuple(Waiver(**dict(waiver)) for waiver in model.waivers))


def _fault(fault: Mapping[str, Any]) -> str:
    return "unknown key" if fault["type"] == "extra_forbidden" else str(fault["msg"]).removeprefix("Value error, ")


def _place(parts: Sequence[int | str]) -> str:
    """Name the place of a fault. A key that is no word may be a line of a file that is no policy, and is not shown."""
    named = [str(part) if isinstance(part, int) or re.fullmatch(r"[A-Za-z_-]{1,40}", part) else "(a key)" for part in parts]
    return ".".join(named) or "policy"
