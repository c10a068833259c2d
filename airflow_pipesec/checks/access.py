"""Access: the person who set a run going is known, may do what it does, and is not the one who has to be somebody else.

Who triggered a run is a name that Airflow recorded; what that person may do is asked of Airflow when the check runs, so that a
role that was taken away meanwhile counts. A run without a person, a person whom nobody knows, and an answer that can't be had
never pass.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Control, Finding, Severity, Status, Subject, printable

__all__ = ["METHODS", "Answer", "Asked", "NotAnswered", "Run", "Touch", "Wanted", "assert_access"]

_ACCESS = ("NIST SP 800-53 AC-3", "NIST SP 800-53 AC-6")
METHODS = ("GET", "POST", "PUT", "DELETE")

TRIGGERED_BY_PERSON = Control(
    id="triggered-by-person",
    title="A person set the run going, and nobody set it going again",
    severity=Severity.HIGH,
    remedy="Trigger a new run by hand, as yourself; allow_scheduled=True accepts runs of the scheduler.",
    refs=_ACCESS,
)
USER_KNOWN = Control(
    id="user-known",
    title="Airflow knows the person who triggered the run",
    severity=Severity.CRITICAL,
    remedy="Find out who triggered the run: the name belongs to nobody whom Airflow knows now.",
    refs=_ACCESS,
)
USER_ALLOWED = Control(
    id="user-allowed",
    title="The person is among those who are allowed by name",
    severity=Severity.CRITICAL,
    remedy="Let somebody who is allowed trigger the run, or add the name to allowed_users.",
    refs=_ACCESS,
)
ROLE_HELD = Control(
    id="role-held",
    title="The person holds one of the roles that are allowed",
    severity=Severity.CRITICAL,
    remedy="Let somebody with one of the roles trigger the run, or have the role granted in Airflow.",
    refs=_ACCESS,
)
PERMISSION_HELD = Control(
    id="permission-held",
    title="Airflow permits the person what is required",
    severity=Severity.CRITICAL,
    remedy="Let somebody with the permission trigger the run, or have it granted in Airflow.",
    refs=_ACCESS,
)
DUTIES_SEPARATED = Control(
    id="duties-separated",
    title="The person is somebody else than the one who has to be",
    severity=Severity.CRITICAL,
    remedy="Let a second person trigger the run, or approve it: four eyes see what two do not.",
    refs=("NIST SP 800-53 AC-5",),
)
ACCESS_ASKED = Control(
    id="access-asked",
    title="Airflow could be asked who the person is and what they may do",
    severity=Severity.HIGH,
    remedy="Check the connection of the service account (airflow_conn_id), its role, and that the API server is up.",
    refs=_ACCESS,
)


class Run(NamedTuple):
    """What a task knows of its run: DAG, kind, the name of who triggered it, how often it was cleared, and whether it is a local
    test, ``dag.test()``, which no person triggered.
    """

    dag_id: str
    kind: str
    user: str | None
    cleared: int = 0
    local: bool = False


class Asked(NamedTuple):
    """What is asked about a person: the name, the DAG, and a permission as method and entity."""

    user: str
    dag_id: str
    permission: tuple[str, str] | None


class Answer(NamedTuple):
    """What Airflow says: whether it knows the person, the roles, and whether the permission is held (None: it was not asked)."""

    known: bool
    roles: tuple[str, ...] = ()
    permitted: bool | None = None


class Touch(NamedTuple):
    """What somebody did to a run after it began, as Airflow's audit log names it: the person and the event."""

    user: str
    event: str


class NotAnswered(Exception):
    """Airflow could not be asked, or did not say; carries the reason, and no secret."""


class Unreachable(NotAnswered):
    """Airflow could not be reached, or was not well: asked again later, it may answer."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is required of the person. ``apart_from`` names somebody, or is a function that finds out whom."""

    allowed_users: Collection[str] = ()
    allowed_roles: Collection[str] = ()
    permission: tuple[str, str] | None = None
    allow_scheduled: bool = False
    apart_from: Callable[[], str] | None = None
    local_user: str | None = None

    def checked(self) -> Wanted:
        """Return self. Raises :class:`ConfigurationError` for what requires nothing or can't be required."""
        for name in ("allowed_users", "allowed_roles"):
            values = getattr(self, name)
            if not isinstance(values, Collection) or isinstance(values, str) or not all(_is_name(value) for value in values):
                raise ConfigurationError(f"{name}= is not a list of names. Give a list, also for one.")
        if not (self.allowed_users or self.allowed_roles or self.permission or self.apart_from):
            raise ConfigurationError(
                "nothing is required. Give allowed_users=, allowed_roles=, required_permission= or separation_from=."
            )
        if self.permission is not None and not (
            isinstance(self.permission, tuple)
            and len(self.permission) == 2
            and all(map(_is_name, self.permission))
            and self.permission[0] in METHODS
        ):
            raise ConfigurationError(f'required_permission= is not such as ("PUT", "dag_run"). Methods are {", ".join(METHODS)}.')
        return self


def _is_name(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def assert_access(
    run: Run, wanted: Wanted, ask: Callable[[Asked], Answer], touched: Callable[[], Collection[Touch]] = tuple
) -> Iterator[Finding]:
    """Hold the person who triggered a run against what is required, and yield what was seen.

    ``ask`` asks Airflow about a person, ``touched`` what people did to the run after it began. Of a run that the scheduler began,
    and may begin, only the second is asked: there is nobody to hold against anything.
    """
    wanted = wanted.checked()
    subject = Subject(f"user {run.user}" if run.user else f"{run.kind} run of {run.dag_id}")
    user = run.user
    if run.local:
        user = wanted.local_user
        if not user:
            text = "is a local test (dag.test()), which has no person; local_test_user= names the one to test as"
            yield Finding(TRIGGERED_BY_PERSON, subject, Status.FAIL, text)
            return
        subject = Subject(f"user {user}")
    if run.cleared:
        text = f"the run was cleared {run.cleared} times since: who set it going again is not known. Trigger a new run"
        yield Finding(TRIGGERED_BY_PERSON, subject, Status.FAIL, text)
        return
    scheduled = not user and wanted.allow_scheduled and run.kind in ("scheduled", "asset_triggered")
    if not user and not scheduled:
        text = "was triggered by nobody. Trigger one by hand, or accept those of the scheduler with allow_scheduled=True"
        yield Finding(TRIGGERED_BY_PERSON, subject, Status.FAIL, text)
        return
    try:
        others = [touch for touch in touched() if touch.user != user]
    except NotAnswered as error:
        yield Finding(ACCESS_ASKED, subject, Status.ERROR, str(error))
        return
    if others:
        who = ", ".join(sorted({f"{printable(touch.user)} ({printable(touch.event)})" for touch in others}))
        text = f"somebody else touched the run, or tried to: {who}. Trigger a new run"
        yield Finding(TRIGGERED_BY_PERSON, subject, Status.FAIL, text)
        return
    if not user:  # which is so of a scheduled run alone, by now
        yield Finding(
            TRIGGERED_BY_PERSON, subject, Status.PASS, "was triggered by nobody, which allow_scheduled accepts, nor touched since"
        )
        return
    yield Finding(TRIGGERED_BY_PERSON, subject, Status.PASS, f"triggered the run ({run.kind})")
    try:
        answer = ask(Asked(user, run.dag_id, wanted.permission))
    except NotAnswered as error:
        yield Finding(ACCESS_ASKED, subject, Status.ERROR, str(error))
        return
    if not answer.known:
        yield Finding(USER_KNOWN, subject, Status.FAIL, "Airflow knows no such user, or not any more")
        return
    yield Finding(USER_KNOWN, subject, Status.PASS, "is known to Airflow")
    if wanted.allowed_users:
        yield _held(USER_ALLOWED, subject, user in wanted.allowed_users, "is allowed by name", "is not allowed by name")
    if wanted.allowed_roles:
        names = ", ".join(map(printable, sorted(wanted.allowed_roles)))
        held = [role for role in answer.roles if role in wanted.allowed_roles]
        has = ", ".join(map(printable, held or answer.roles)) or "none"
        yield _held(ROLE_HELD, subject, bool(held), f"holds {has}", f"holds {has}, and one of {names} is required")
    if wanted.permission:
        what = f"{wanted.permission[0]} {printable(wanted.permission[1])} of {printable(run.dag_id)}"
        if answer.permitted is None:
            yield Finding(ACCESS_ASKED, subject, Status.ERROR, f"Airflow did not say whether {what} is permitted")
        else:
            yield _held(PERMISSION_HELD, subject, answer.permitted, f"may {what}", f"may not {what}")
    if wanted.apart_from:
        yield from _apart(subject, user, wanted.apart_from)


def _apart(subject: Subject, user: str, apart_from: Callable[[], str]) -> Iterator[Finding]:
    try:
        other = apart_from()
    except NotAnswered as error:
        yield Finding(DUTIES_SEPARATED, subject, Status.ERROR, str(error))
        return
    apart = bool(other) and _folded(other) != _folded(user)
    yield _held(DUTIES_SEPARATED, subject, apart, f"is somebody else than {printable(other)}", "is the same person on both sides")


def _folded(name: str) -> str:
    """One form of a name: those that differ only in case or in how they are encoded are one person to most directories."""
    return unicodedata.normalize("NFC", name.strip()).casefold()


def _held(control: Control, subject: Subject, holds: bool, good: str, bad: str) -> Finding:
    return Finding(control, subject, Status.PASS if holds else Status.FAIL, good if holds else bad)
