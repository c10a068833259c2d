"""Artifact guards: a model file is looked at before anybody loads it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor, open_location
from airflow_pipesec.guards.integrity import log_progress

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.policy import Verdict
    from airflow_pipesec.verified import Handle

__all__ = ["ArtifactScan", "ArtifactScanOperator", "ArtifactScanSensor"]


class ArtifactScan(Guard):
    """What the operator and the sensor share: loading the artifact uses only what is on the allow-list.

    Every file is looked at, by its bytes, whatever it is called; nothing of it is imported or executed. A file that nobody can
    judge (encrypted, broken, of a format that is not known here) fails as well, unless the policy waives ``artifact-scannable``
    for it.

    :param root: the artifact: a file, a folder, or a URL such as ``s3://bucket/prefix``. (templated)
    :param allow: what a file may use besides the lists that come with this package: the path of an allow-list, a mapping of the
        same form, or a list of names ``module:name``. ``shipped: false`` in it leaves those lists out. (templated)
    :param digest: read each file whole and name its SHA-256 in the evidence; a single file is handed on as a verified handle
        then. False reads only what has to be looked at, which matters for large files in object stores.
    :param second_opinion: other scanners that are asked as well: ``"picklescan"``, ``"modelscan=/opt/modelscan/bin/modelscan"``,
        ``"NAME=COMMAND"``, or a list of these. The stricter answer wins. (templated)
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("root", "allow", "second_opinion", "aws_conn_id", *Guard.template_fields)
    threats: Collection[str] = ("supply-chain", "tampered-artifacts")

    if TYPE_CHECKING:
        log: Any

    def __init__(
        self,
        *,
        root: str,
        allow: str | Mapping[str, Any] | Sequence[str] | None = None,
        digest: bool = True,
        second_opinion: str | Sequence[str] | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.allow = allow
        self.digest = digest
        self.second_opinion = second_opinion
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Look at every file of the artifact."""
        from airflow_pipesec.checks.artifacts import scan_artifact
        from airflow_pipesec.scan.allow import AllowList
        from airflow_pipesec.scan.opinions import opinions_from

        if not isinstance(self.digest, bool):
            raise ConfigurationError(f"digest is a {type(self.digest).__name__}. Give True or False; it is not a template.")
        return scan_artifact(
            open_location(self.root, self.aws_conn_id),
            AllowList.load(self.allow),
            digests=self.digest,
            opinions=opinions_from(self.second_opinion),
            progress=log_progress(self.log),
        )

    def _handle(self, verdict: Verdict) -> Handle | None:
        return self._handle_of(verdict, "artifact-allow-listed", self.root)


class ArtifactScanOperator(ArtifactScan, GuardOperator):
    """Stop the pipeline unless loading an artifact only builds a model. The parameters are those of :class:`ArtifactScan`."""


class ArtifactScanSensor(ArtifactScan, GuardSensor):
    """Wait until an artifact is there, and only builds a model. The parameters are those of :class:`ArtifactScan`."""
