"""The release gate: nothing ships unless the run's evidence proves that every guard before it passed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow_pipesec.acts import told
from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import Finding, Status, Subject, printable
from airflow_pipesec.guards.base import GuardOperator, open_location
from airflow_pipesec.guards.integrity import log_progress

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.checks.release import Known
    from airflow_pipesec.evidence import Witness
    from airflow_pipesec.manifest import Manifest
    from airflow_pipesec.policy import Policy
    from airflow_pipesec.storage import Store

__all__ = ["ReleaseGateOperator"]


class ReleaseGateOperator(GuardOperator):
    """Stop the deployment unless signed evidence proves that every guard upstream passed, in this run, over this artifact.

    States are not believed: anybody who may edit a task instance can call a failed guard a success. The gate reads what the
    guards signed (:mod:`airflow_pipesec.evidence`) and recomputes everything: each guard of the DAG that lies upstream has
    evidence of this run, of its latest try, under the DAG version that runs, signed by a key that the configuration trusts and
    that was valid then, linked to the evidence of the guards before it, and says PASSED; and the artifact is among what they
    examined, by digest. Its own attestation is one like theirs, and beside it lies a SLSA Verification Summary of the artifact
    for who deploys.

    :param artifact: what is about to ship: a file, a folder or a URL. (templated)
    :param vsa: where else to write the verification summary, such as beside the artifact. (templated)
    :param may_be_skipped: ids of guards that need no evidence when Airflow shows them as skipped, as those on the branch that was
        not taken. A guard named here can be skipped by hand as well, by whoever may.
    :param airflow_conn_id: connection of a service account, as for
        :class:`~airflow_pipesec.guards.access.RBACAssertionOperator`: Airflow is asked for the latest try of each guard, and what
        its audit log tells of who touched it. None does without: a guard that was cleared and then marked by hand before it ran
        again goes unnoticed, its earlier evidence stands. A local ``dag.test()`` has nobody to ask.
    :param workers: how many files to read at once; the storage decides unless given.
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` may waive a guard that did not pass (control ``guard-passed``, subject ``guard TASK_ID``), and nothing else:
    evidence that is missing, forged or not linked has no waiver. ``on_failure`` is ``"fail"`` or ``"skip_downstream"``.
    """

    # The one control that a policy may waive here; a plan leaves other waivers out of what it gives to a gate.
    waivable = "guard-passed"
    # Not airflow_conn_id: rendered from a param, it would be who triggers the run that decides whether Airflow is asked.
    template_fields: Collection[str] = ("artifact", "vsa", "aws_conn_id", *GuardOperator.template_fields)
    threats: Collection[str] = ("tampered-artifacts", "no-audit-trail")

    def __init__(
        self,
        *,
        artifact: str,
        vsa: str | None = None,
        may_be_skipped: Sequence[str] = (),
        airflow_conn_id: str | None = "airflow_api",
        workers: int | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.artifact = artifact
        self.vsa = vsa
        self.may_be_skipped = may_be_skipped
        self.airflow_conn_id = airflow_conn_id
        self.workers = workers
        self.aws_conn_id = aws_conn_id

    def _check_policy(self, policy: Policy) -> None:
        if self.on_failure == "warn":
            raise ConfigurationError('on_failure="warn" makes no gate. Use "fail" or "skip_downstream".')
        policy.demand_only(self.waivable)

    def findings(self, context: Context) -> Iterable[Finding]:
        """Read the run's evidence, ask Airflow, hash the artifact, and hold all of it against the DAG."""
        from airflow_pipesec.checks.release import Release, examined_of, inputs_of, stock_of, verify_run
        from airflow_pipesec.guards.evidence import all_instances, edges_above, expected_above
        from airflow_pipesec.guards.trust import configured_signer, configured_trusted_keys, run_evidence

        skippable = self.may_be_skipped
        if not isinstance(skippable, Collection) or isinstance(skippable, str):
            raise ConfigurationError("may_be_skipped= is not a list of task ids. Give a list, also for one.")
        trusted = configured_trusted_keys()
        if trusted is None:
            raise ConfigurationError(
                "[pipesec] trusted_keys is not set, so no evidence could be believed. Put what `pipesec keygen --signing` "
                "printed into a file, and set AIRFLOW__PIPESEC__TRUSTED_KEYS to its path."
            )
        if configured_signer() is None:
            raise ConfigurationError("a gate does not work unsigned. Set [pipesec] signing_key to a key.")
        ti: Any = context["ti"]
        dag_id, run_id = ti.dag_id, ti.run_id
        guards = expected_above(context)
        if unknown := sorted(set(skippable) - guards.keys()):
            raise ConfigurationError(
                f"may_be_skipped= names {printable(', '.join(unknown))}, which is no guard upstream of the gate."
            )
        known = None
        if problem := self._unasked():
            yield problem
        else:
            answer = self._ask(context, list(guards))
            if isinstance(answer, Finding):
                yield answer
                return
            known = answer
        evidence = run_evidence(dag_id, run_id).load(dag_id, run_id, trusted)
        demanded = all_instances(context, guards, known or (), evidence)
        version = getattr(ti, "dag_version_id", None)
        release = Release(
            guards=demanded,
            edges=edges_above(context),
            known=known,
            may_be_skipped=skippable,
            dag_version=None if version is None else str(version),
        )
        self._inputs: list[Witness] = inputs_of(evidence, release)
        store = open_location(self.artifact, self.aws_conn_id)
        self._apart(store)
        manifest, problems = stock_of(
            store,
            examined_of(self._inputs, printable(store.url)),
            workers=self.workers,
            progress=log_progress(self.log),
        )
        yield from problems
        self._shipped: Manifest | None = manifest
        if manifest is not None:
            release = replace(release, artifacts={store.url: manifest.digest})
        yield from verify_run(evidence, release, now=datetime.now(UTC))

    def _apart(self, artifact: Store) -> None:
        """Raise where the summary would replace the artifact, or become a part of it."""
        if self.vsa is None:
            return
        summary = open_location(self.vsa, self.aws_conn_id)
        if artifact.same_place(summary) or artifact.name_of(summary) is not None or summary.name_of(artifact) is not None:
            raise ConfigurationError(
                f"vsa={printable(summary.url)} lies in the artifact, which it would change. Give a place beside it."
            )

    def _unasked(self) -> Finding | None:
        from airflow_pipesec.checks.release import AIRFLOW_TELLS
        from airflow_pipesec.guards.airflow_api import is_local_test

        if is_local_test():
            text = "is not asked: a local test (dag.test()) is on no API server"
        elif self.airflow_conn_id is None:
            text = "is not asked, as airflow_conn_id=None says: which try is the latest is told by the evidence alone"
        else:
            return None
        return Finding(AIRFLOW_TELLS, Subject("Airflow"), Status.SKIP, text)

    def _ask(self, context: Context, guards: list[str]) -> dict[tuple[str, int], Known] | Finding:
        """Return what Airflow shows of the guards' instances, or the finding that it could not be asked."""
        from airflow_pipesec.checks.access import NotAnswered, Unreachable
        from airflow_pipesec.checks.release import AIRFLOW_TELLS, Known
        from airflow_pipesec.guards.airflow_api import AirflowAPI

        run: Any = context["dag_run"]
        api = AirflowAPI(str(self.airflow_conn_id))
        try:
            acts = api.acts(run.dag_id, run.run_id, run.run_after)
            instances = api.instances(run.dag_id, run.run_id, guards)
        except Unreachable as error:
            raise StorageError(f"Airflow: {error}") from None  # a retry may find it up again
        except NotAnswered as error:
            return Finding(AIRFLOW_TELLS, Subject("Airflow"), Status.ERROR, str(error))
        finally:
            api.close()
        return {
            (item.task_id, item.map_index): Known(
                item.id, item.try_number, item.state, told([act for act in acts if act.concerns(item.task_id, item.map_index)])
            )
            for item in instances
        }

    def _attested(self, context: Context) -> None:
        """Write the verification summary of what was hashed, whatever the verdict is."""
        super()._attested(context)
        from airflow_pipesec.attestation import digest_set, seal, verification_summary
        from airflow_pipesec.evidence import folder_of, name_of

        manifest, concluded = getattr(self, "_shipped", None), self._conclusion
        if manifest is None or concluded.notary is None:
            return
        notary = concluded.notary
        folder = folder_of(notary.attempt.dag_id, notary.attempt.run_id)
        inputs = [(witness.name, witness.sha256) for witness in getattr(self, "_inputs", ())]
        inputs.append((name_of(notary.attempt), str(concluded.attestation)))
        summary = verification_summary(
            resource=open_location(self.artifact, self.aws_conn_id).url,
            digest=digest_set(manifest.digest),
            passed=concluded.verdict.passed,
            policy=concluded.policy.document(),
            policy_uri=self.policy if isinstance(self.policy, str) else "urn:airflow-pipesec:policy",
            inputs=[(f"{folder}/{name}", sha256) for name, sha256 in inputs],
            verified=datetime.now(UTC),
        )
        envelope = seal(summary, notary.signer)
        notary.evidence.write_summary(notary.attempt, envelope)
        if self.vsa is not None:
            open_location(self.vsa, self.aws_conn_id).write(envelope)
