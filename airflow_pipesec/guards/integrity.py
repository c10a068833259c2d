"""Integrity guards: write a manifest of an artifact, verify it later, wait until it is there and verified."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from threading import Lock
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor, open_location
from airflow_pipesec.guards.trust import configured_signer, configured_trusted_keys
from airflow_pipesec.hashing import Progress

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.policy import Verdict
    from airflow_pipesec.signing import Signer, TrustedKeys
    from airflow_pipesec.verified import Handle

__all__ = ["HashManifestOperator", "HashVerification", "HashVerificationOperator", "HashVerificationSensor"]

LOG_EVERY = 30.0


class HashManifestOperator(GuardOperator):
    """Record the digest of every file of an artifact in a manifest, as the task that made it left them.

    Put it right after the stage that writes the artifact, and a :class:`HashVerificationOperator` before each that reads it.
    The manifest is only written when the artifact is without doubt: no symbolic link, no special file, nothing unreadable. It is
    signed with the key that Airflow's configuration names, see :mod:`airflow_pipesec.bundle`.

    :param root: the artifact: a file, a folder, or a URL such as ``s3://bucket/prefix``. (templated)
    :param manifest: where to write the manifest; best outside ``root``, where the artifact's writers cannot reach. (templated)
    :param algorithm: ``"sha256"``, ``"blake3"`` or, unsigned only, ``"sha512"``. (templated)
    :param sign: sign the manifest. Unsigned (False), whoever may write the manifest can make it agree with anything.
    :param workers: how many files to read at once; the storage decides unless given.
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("root", "manifest", "algorithm", "aws_conn_id", *Guard.template_fields)
    threats: Collection[str] = ("tampered-artifacts",)

    def __init__(
        self,
        *,
        root: str,
        manifest: str,
        algorithm: str = "sha256",
        sign: bool = True,
        workers: int | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.manifest = manifest
        self.algorithm = algorithm
        self.sign = sign
        self.workers = workers
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Hash what lies under ``root`` and write the manifest."""
        from airflow_pipesec.checks.integrity import write_manifest

        return write_manifest(
            open_location(self.root, self.aws_conn_id),
            open_location(self.manifest, self.aws_conn_id),
            algorithm=self.algorithm,
            workers=self.workers,
            progress=log_progress(self.log),
            signer=self._signer(),
        )

    def _signer(self) -> Signer | None:
        if not isinstance(self.sign, bool):
            raise ConfigurationError(f"sign is a {type(self.sign).__name__}. Give True or False; it is not a template.")
        if not self.sign:
            return None
        signer = configured_signer()
        if signer is None:
            raise ConfigurationError(
                "nothing signs here, for [pipesec] signing_key says so. Name a key there, or give sign=False for a manifest "
                "that is not signed."
            )
        return signer


class HashVerification(Guard):
    """What the operator and the sensor share: every file is what was recorded, by digest, and there is nothing beside them.

    :param root: the artifact: a file, a folder, or a URL such as ``s3://bucket/prefix``. (templated)
    :param manifest: the manifest that :class:`HashManifestOperator` or ``pipesec manifest`` wrote. (templated)
    :param expected: instead of a manifest, the digest itself: ``sha256:…`` of a file, ``tree:sha256:…`` of a tree, or a mapping
        of names under ``root`` to digests. (templated)
    :param allow_extra: let files be that were not recorded. Symbolic links and special files are never let be.
    :param allow_unsigned: take a manifest that nobody signed. One that is signed has to be signed by a trusted key all the same.
    :param workers: how many files to read at once; the storage decides unless given.
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("root", "manifest", "expected", "aws_conn_id", *Guard.template_fields)
    # What comes from outside is held to a digest or a signature; whether its maker meant well is another matter.
    threats: Collection[str] = ("supply-chain", "tampered-artifacts")

    if TYPE_CHECKING:
        log: Any

    def __init__(
        self,
        *,
        root: str,
        manifest: str | None = None,
        expected: str | Mapping[str, str] | None = None,
        allow_extra: bool = False,
        allow_unsigned: bool = False,
        workers: int | None = None,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = root
        self.manifest = manifest
        self.expected = expected
        self.allow_extra = allow_extra
        self.allow_unsigned = allow_unsigned
        self.workers = workers
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Hash what lies under ``root`` and compare."""
        from airflow_pipesec.checks.integrity import verify

        return verify(
            open_location(self.root, self.aws_conn_id),
            manifest=None if self.manifest is None else open_location(self.manifest, self.aws_conn_id),
            expected=self.expected,
            allow_extra=self.allow_extra,
            workers=self.workers,
            progress=log_progress(self.log),
            trusted=self._trusted(),
            allow_unsigned=self.allow_unsigned,
        )

    def _handle(self, verdict: Verdict) -> Handle | None:
        return self._handle_of(verdict, "digest-matches", self.root, self.manifest)

    def _trusted(self) -> TrustedKeys | None:
        """The keys that the manifest has to be signed by; a digest that the DAG's author gave is taken at its word."""
        if self.manifest is None:
            return None
        trusted = configured_trusted_keys()
        if trusted is None and not self.allow_unsigned:
            raise ConfigurationError(
                "no key is trusted here, so no manifest is believed. Set [pipesec] trusted_keys to a file of trusted keys, or "
                "give allow_unsigned=True to take a manifest that anybody may have written."
            )
        return trusted


class HashVerificationOperator(HashVerification, GuardOperator):
    """Stop the pipeline unless an artifact is what was recorded. The parameters are those of :class:`HashVerification`."""


class HashVerificationSensor(HashVerification, GuardSensor):
    """Wait until an artifact and its manifest are there and match. The parameters are those of :class:`HashVerification`."""


def log_progress(log: Any, *, every: float = LOG_EVERY) -> Progress:
    """Return a progress callback that writes a line to a task's log every ``every`` seconds."""
    lock = Lock()
    files = size = 0
    due = time.monotonic() + every

    def progress(more_files: int, more_bytes: int, total: int) -> None:
        nonlocal files, size, due
        with lock:
            files, size = files + more_files, size + more_bytes
            if time.monotonic() < due:
                return
            due = time.monotonic() + every
            log.info("read %s of %s files so far, %s bytes", f"{files:,}", f"{total:,}", f"{size:,}")

    return progress
