"""The one deep pair: GuardOperator and GuardSensor turn a check's findings into a task that passes or stops the pipeline.

A guard is written once. A mixin, here called a face's *check*, holds its parameters and its ``findings`` method; the operator and
the sensor are the same mixin on :class:`GuardOperator` and on :class:`GuardSensor`. Constructors only assign.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, cast

from airflow.sdk import BaseOperator, BaseSensorOperator
from airflow.sdk.bases.operator import BaseOperatorMeta
from airflow.sdk.bases.skipmixin import SkipMixin
from airflow.sdk.exceptions import (
    AirflowFailException,
    AirflowRescheduleException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_pipesec.errors import ConfigurationError, PipesecError, StorageError, place_of
from airflow_pipesec.findings import Finding, Status, amount, printable
from airflow_pipesec.guards.link import EvidenceLink
from airflow_pipesec.policy import Judged, Outcome, Policy, Verdict, report

if TYPE_CHECKING:
    from airflow.sdk import BaseOperatorLink, Connection, Context

    from airflow_pipesec.guards.evidence import Notary
    from airflow_pipesec.storage import Store
    from airflow_pipesec.verified import Handle

__all__ = ["Guard", "GuardOperator", "GuardSensor", "OnFailure", "get_connection", "open_location", "withheld"]

OnFailure = Literal["fail", "warn", "skip_downstream"]
ON_FAILURE: tuple[OnFailure, ...] = ("fail", "warn", "skip_downstream")
SUMMARY_KEY = "return_value"
HANDLE_KEY = "handle"
LINES_IN_MESSAGE = 5
REMEMBERED = 1000


class _Task(Protocol):
    """What a guard needs from the Airflow base class beside it."""

    task_id: str
    do_xcom_push: bool
    log: Any


@dataclass(slots=True)
class Conclusion:
    """What one examination came to, what it was judged by, who can attest it, and the attestation's SHA-256 once there is one."""

    verdict: Verdict
    policy: Policy
    notary: Notary | None
    started: datetime
    seconds: float
    attestation: str | None = None


class Guard(metaclass=BaseOperatorMeta):
    """What the operator and the sensor of a guard share: parameters, check, judgement and report.

    It has the operators' metaclass so that Airflow treats the constructor of a mixin as it treats an operator's own: it applies
    ``default_args``, reports a missing parameter and finds the XComs among the arguments.

    :param policy: path of a policy file or a mapping, read by :meth:`airflow_pipesec.policy.Policy.load` when the task runs;
        none is the default policy, which blocks on ``medium`` and above. (templated)
    :param on_failure: ``"fail"`` fails the task and no retry is made, since a retry cannot make bad data good. ``"warn"`` logs
        the findings and lets the pipeline go on. ``"skip_downstream"`` ends the guard and skips every task below it, except those
        with trigger rule ``always`` and mapped tasks whose number is not known yet; in a mapped guard that instance is skipped
        instead.

    What it concludes is attested, signed, in the evidence store, see :mod:`airflow_pipesec.evidence`. The task's XCom is a small
    summary, pushed for a pass and for a failure: outcome, counts, control ids, seconds and the attestation's digest, no data. A
    guard that verified a file or a tree pushes a handle of it as well, under the key ``handle``, when it passed: with it
    :mod:`airflow_pipesec.consume` gives out just the bytes that were verified.

    ``threats`` are the ids of the threats of the catalogue that this guard answers, for coverage, see
    :mod:`airflow_pipesec.threats`. They change nothing about what the guard does.
    """

    template_fields: Collection[str] = ("policy", "on_failure")
    # Set it on your own guard, too. A class that inherits from a guard of this package answers what that one does.
    threats: Collection[str] = ()
    # What put it there, as JSON: the plan's place, name and SHA-256, and the stages that the plan exempts. None for one by hand.
    woven: str | None = None
    operator_extra_links: Collection[BaseOperatorLink] = (EvidenceLink(),)
    ui_color = "#d8e8f0"
    ui_fgcolor = "#102a43"

    # Airflow looks here to keep what a guard skipped skipped, when one of those tasks is cleared; mapped guards at the second.
    inherits_from_skipmixin = True
    _can_skip_downstream = True

    policy: str | Mapping[str, Any] | None
    on_failure: str
    _conclusion: Conclusion

    @classmethod
    def get_serialized_fields(cls) -> frozenset[str]:
        """Add what the pages in Airflow's UI tell of a guard, so that the serialized DAG has it; of a mapped one it has less."""
        fields: frozenset[str] = cast("Any", super()).get_serialized_fields()
        return fields | {"threats", "woven", "soft_fail", "never_fail"}

    def findings(self, context: Context) -> Iterable[Finding]:
        """Yield what the check observes. Every guard defines this; it runs once per try, or once per poke of a sensor."""
        raise NotImplementedError(f"{type(self).__name__} does not define findings(context)")

    def _examine(self, context: Context) -> Verdict:
        """Run the check once, judge, attest what is final, push the summary and log the report.

        What was seen before an exception is attested and logged as well, and the exception goes on. A verdict that passes and
        cannot be attested raises: it would be one that nobody could prove.
        """
        from airflow_pipesec.guards.evidence import Notary

        task = cast("_Task", self)
        began, started = time.monotonic(), datetime.now(UTC)
        seen: list[Finding] = []
        broke_off = "with an exception"
        notary: Notary | None = None
        policy = Policy()
        try:
            notary = Notary(context)
            _known(self.on_failure)
            policy = Policy.load(self.policy)
            self._check_policy(policy)
            found = _kept(_findings_only(self.findings(context), task.task_id), seen)
            verdict = policy.judge(found, today=datetime.now(UTC).date())
            broke_off = ""
        except ConfigurationError as error:
            broke_off = f"because {error}"
            raise AirflowFailException(str(error)) from None
        finally:
            if broke_off:
                judged = tuple(Judged(finding, blocks=False) for finding in seen)
                verdict = Verdict(Outcome.ERROR, judged, f"the check broke off {broke_off}")
                self._conclusion = Conclusion(verdict, policy, notary, started, time.monotonic() - began)
                self._publish(context)
        self._conclusion = Conclusion(verdict, policy, notary, started, time.monotonic() - began)
        self._publish(context)
        return verdict

    def _check_policy(self, policy: Policy) -> None:
        """Raise :class:`ConfigurationError` for a policy that this guard does not accept."""

    def _is_final(self, verdict: Verdict) -> bool:
        """Whether the verdict is the guard's last word in this try, and not one of a poke that others follow."""
        return True

    def _publish(self, context: Context) -> None:
        """Attest a verdict that is final, push the summary and log the report."""
        task, concluded = cast("_Task", self), self._conclusion
        verdict = concluded.verdict
        # Before anything is told, for this may raise.
        lines = list(report(verdict, title=task.task_id, seconds=concluded.seconds))
        if self._is_final(verdict):
            self._attest(context)
        self._push(context)
        for line in lines:
            (self._alarm(task.log) if line.alarming else task.log.info)("%s", line.text)

    def _attest(self, context: Context) -> None:
        """Write the evidence. What can't be attested raises when it passes, and otherwise is said beside what it failed of."""
        task, concluded = cast("_Task", self), self._conclusion
        try:
            if concluded.notary is None:  # what broke off before there was one has said why
                return
            concluded.attestation = concluded.notary.attest(
                context, self, concluded.verdict, concluded.policy, concluded.started, datetime.now(UTC)
            )
            self._attested(context)
        except Exception as error:
            if concluded.verdict.passed and isinstance(error, ConfigurationError):
                raise AirflowFailException(f"Guard {task.task_id} passed, and left no evidence of it: {error}") from None
            if concluded.verdict.passed:
                raise
            why = str(error) if isinstance(error, PipesecError) else place_of(error)
            self._alarm(task.log)("Guard %s left no evidence: %s", task.task_id, why)

    def _attested(self, context: Context) -> None:
        """Do what a guard does when its attestation is written: hand on what passed."""
        verdict = self._conclusion.verdict
        if verdict.passed and (handle := self._handle(verdict)) is not None:
            context["ti"].xcom_push(key=HANDLE_KEY, value=handle.to_xcom())

    def _handle(self, verdict: Verdict) -> Handle | None:
        """Return the handle of what this guard found good, for the tasks that read it; None where that is no file or tree."""
        return None

    def _handle_of(self, verdict: Verdict, control: str, root: str, manifest: str | None = None) -> Handle | None:
        """Make a handle of the digest that a control was found to hold for."""
        from airflow_pipesec.verified import Handle

        for item in verdict.judged:
            finding, subject = item.finding, item.finding.subject
            if finding.control.id != control or finding.status is not Status.PASS or subject.digest is None:
                continue
            of_tree = subject.digest.startswith("tree:")
            # What follows a "?" of a URL may be a signature, which opens the file to whoever reads the XCom.
            if (of_tree and manifest is None) or ("://" in root and "?" in root):
                return None
            return Handle(root, subject.digest, manifest if of_tree else None, subject.version)
        return None

    def _push(self, context: Context) -> None:
        concluded = self._conclusion
        if cast("_Task", self).do_xcom_push:
            summary = concluded.verdict.summary() | {"seconds": round(concluded.seconds, 3)}
            if concluded.attestation is not None:
                summary["attestation"] = f"sha256:{concluded.attestation}"
            context["ti"].xcom_push(key=SUMMARY_KEY, value=summary)

    def _alarm(self, log: Any) -> Callable[..., None]:
        """The logger's method for what does not satisfy the policy."""
        return cast("Callable[..., None]", log.error)

    def _conclude(self, context: Context, message: str, failure: type[AirflowFailException | AirflowSensorTimeout]) -> None:
        """Act on a verdict that is not PASSED, as ``on_failure`` says. Returns only for ``"warn"``."""
        task = cast("_Task", self)
        if self.on_failure == "warn":
            task.log.warning("Guard %s: %s on_failure='warn': the pipeline goes on.", task.task_id, message)
        elif self.on_failure == "skip_downstream":
            self._skip_downstream(context, f"Guard {task.task_id}: {message}")
        else:
            raise failure(f"Guard {task.task_id} stopped the pipeline: {message}")

    def _skip_downstream(self, context: Context, message: str) -> NoReturn:
        task = cast("BaseOperator", self)
        # One with trigger rule "always" may run by now: marking it skipped would only break it off.
        below = sorted(
            (
                node
                for node in task.get_flat_relatives(upstream=False)
                if not node.is_teardown and str(getattr(node.trigger_rule, "value", node.trigger_rule)) != "always"
            ),
            key=lambda node: node.task_id,
        )
        if below and context["ti"].map_index in (-1, None):
            task.log.error("%s on_failure='skip_downstream': skipped below it: %s.", message, amount(len(below), "task"))
            # Raises, and leaves an XCom by which Airflow keeps the direct children skipped when one of them is cleared later.
            cast("SkipMixin", self).skip(context["ti"], below)
        # Mapped, or nothing to skip by name: skipping this instance itself is the refusal that cannot be lost.
        task.log.error("%s on_failure='skip_downstream': this instance is skipped.", message)
        raise AirflowSkipException(message)


class GuardOperator(Guard, BaseOperator, SkipMixin):
    """A task that runs a check once and stops the pipeline unless the policy is satisfied.

    Subclass it, define ``findings(context)``, and list your own fields before ``*GuardOperator.template_fields``. A verdict of
    FAILED raises :class:`~airflow.sdk.exceptions.AirflowFailException`; any other exception (a lost connection, throttling) is
    ordinary trouble and uses the task's retries.
    """

    def __init__(self, *, policy: str | Mapping[str, Any] | None = None, on_failure: OnFailure = "fail", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.policy = policy
        self.on_failure = on_failure

    def execute(self, context: Context) -> None:
        """Check, judge, report; raise unless the verdict is PASSED or ``on_failure`` says otherwise."""
        verdict = self._examine(context)
        if not verdict.passed:
            self._conclude(context, _message(verdict), AirflowFailException)


class GuardSensor(Guard, BaseSensorOperator, SkipMixin):
    """A task that repeats a check until the policy is satisfied, and fails with the last findings when its time is over.

    It reschedules by default: a check is real work, and between two of them it holds no worker. ``timeout`` counts from the
    first poke (a week, Airflow's ``[sensors] default_timeout``, unless given). A check that raises uses the task's retries.

    :param mode: ``"reschedule"``, which holds no worker between two looks, or ``"poke"``, which does.
    """

    def __init__(
        self,
        *,
        policy: str | Mapping[str, Any] | None = None,
        on_failure: OnFailure = "fail",
        mode: str = "reschedule",
        **kwargs: Any,
    ) -> None:
        super().__init__(mode=mode, **kwargs)
        self.policy = policy
        self.on_failure = on_failure

    def _alarm(self, log: Any) -> Callable[..., None]:
        """A warning: what is not there yet may still come."""
        return cast("Callable[..., None]", log.warning)

    def _is_final(self, verdict: Verdict) -> bool:
        """What passes ends the waiting."""
        return verdict.passed

    def poke(self, context: Context) -> bool:
        """Check once; true when the verdict is PASSED."""
        return self._examine(context).passed

    def execute(self, context: Context) -> None:
        """Wait for a verdict of PASSED; on time-out act as ``on_failure`` says, naming the last findings."""
        try:
            self._wait(context)
        except AirflowSkipException as error:
            # soft_fail and never_fail are for what did not come in time; what can't work as it is written is no reason to skip.
            if isinstance(error.__cause__, AirflowFailException):
                raise error.__cause__ from None
            raise
        except AirflowSensorTimeout as error:
            # With silent_fail the base class lets every poke raise, and there may be no findings at all.
            last = self._conclusion.verdict
            seen = _message(last) if last.outcome is not Outcome.ERROR else "the last check did not come to its end."
            message = f"{seen} {error}"
            self._conclude(context, message, AirflowSensorTimeout)

    def _wait(self, context: Context) -> None:
        """Poke until a verdict passes. What ends the waiting otherwise, and is not the end of one poke only, is attested."""
        try:
            super().execute(context)
        except (AirflowRescheduleException, TaskDeferred):
            raise
        except BaseException:
            if hasattr(self, "_conclusion") and not self._conclusion.verdict.passed:
                self._attest(context)
                self._push(context)
            raise


def _known(on_failure: str) -> None:
    if on_failure not in ON_FAILURE:
        raise ConfigurationError(f"on_failure={on_failure!r} is unknown. Use one of {', '.join(ON_FAILURE)}.")


def _kept(findings: Iterator[Finding], seen: list[Finding]) -> Iterator[Finding]:
    """Pass findings on, and remember the first of them for the report of a check that breaks off."""
    for finding in findings:
        if len(seen) < REMEMBERED:
            seen.append(finding)
        yield finding


def _findings_only(found: Iterable[Finding] | None, task_id: str) -> Iterator[Finding]:
    if found is None:
        return  # a function that returned nothing examined nothing; the policy fails it
    if isinstance(found, Finding):
        yield found
        return
    items = iter(found if isinstance(found, Iterable) else [found])
    with closing(items) if isinstance(items, Generator) else nullcontext():
        for item in items:
            if not isinstance(item, Finding):
                raise ConfigurationError(
                    f"the check of task {task_id} gave a {type(item).__name__} where a Finding belongs. "
                    "Yield airflow_pipesec.findings.Finding objects and nothing else."
                )
            yield item


def _message(verdict: Verdict) -> str:
    shown = verdict.blocking[:LINES_IN_MESSAGE]
    parts = [f"{finding.control.id} on {finding.subject}: {finding.message.rstrip('.')}" for finding in shown]
    if len(verdict.blocking) > len(shown):
        parts.append("and more in the task's log")
    detail = f" [{'; '.join(parts)}]" if parts else ""
    return f"{verdict.reason}{detail}."


def open_location(url: str, aws_conn_id: str | None = None) -> Store:
    """Return the store behind a path or URL, with credentials from Airflow's connections.

    ``s3://`` uses ``aws_conn_id`` (or the id in ``s3://conn_id@bucket/…``) through the Amazon provider, and boto3's own chain
    without one. Schemes that Airflow knows go through its ObjectStoragePath, which takes ``scheme://conn_id@…`` itself; any other
    scheme is fsspec's to open.
    """
    from airflow_pipesec.storage import open_store, split_url

    scheme, conn_id, _ = split_url(url)
    if scheme == "s3" and (wanted := conn_id or aws_conn_id):
        try:
            from airflow.providers.amazon.aws.hooks.s3 import S3Hook
        except ImportError as error:
            raise ConfigurationError(
                "aws_conn_id needs the Amazon provider. Install it with: pip install 'airflow-pipesec[amazon]'"
            ) from error
        get_connection(wanted, "aws_conn_id")  # the hook would go on without one, as whoever the worker is
        return open_store(url, client=S3Hook(aws_conn_id=wanted).get_conn())
    if scheme and scheme != "s3":
        from airflow.sdk import ObjectStoragePath
        from airflow.sdk.io import has_fs

        if conn_id or has_fs(scheme):
            try:
                path = ObjectStoragePath(url)
                return open_store(url, filesystem=(path.fs, path.path))
            except (ValueError, ImportError) as error:
                raise ConfigurationError(f"{scheme}:// URLs cannot be read here: {error}") from error
    return open_store(url)


def withheld(name: str, error: Exception) -> StorageError:
    """Tell of an exception in the author's function the type and the place: its message may quote the data."""
    return StorageError(f"{name} raised {place_of(error)}. Its message is left out, for it may quote the data.")


def get_connection(conn_id: str, parameter: str) -> Connection:
    """Return an Airflow connection. Raises :class:`ConfigurationError` naming the parameter where there is none."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        raise ConfigurationError(
            f"{parameter}= names connection {printable(str(conn_id))}, which Airflow does not have. Make it, or name another."
        ) from None
