"""Encryption guards: what is stored is encrypted, and artifacts are encrypted and decrypted between stages."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import Finding
from airflow_pipesec.guards.base import Guard, GuardOperator, GuardSensor, open_location
from airflow_pipesec.guards.integrity import log_progress

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_pipesec.age import Identity

__all__ = [
    "DecryptArtifactOperator",
    "EncryptArtifactOperator",
    "EncryptionAtRest",
    "EncryptionAtRestOperator",
    "EncryptionAtRestSensor",
]


class EncryptionAtRest(Guard):
    """What the operator and the sensor share: everything under the targets is stored encrypted.

    :param targets: a location or a list of them: local paths, or ``s3://bucket[/prefix]``. (templated)

        A local file is encrypted when it is a whole file in age format, or lies on a device under dm-crypt (LUKS), fscrypt or an
        encrypted ZFS dataset. In S3 the bucket's settings are looked at, and the encryption of every object, old versions too.
    :param require: for S3: ``"any"``, ``"aws:kms"`` or ``"AES256"``. (templated)
    :param kms_key_arn: for S3: the ARN of the one key that is accepted (``arn:…:key/…``, not an alias). (templated)
    :param sample: for S3: look at so many current objects, chosen at random, instead of at every one. The finding says so.
    :param inventory: for S3: the ``manifest.json`` of an S3 Inventory report with the field EncryptionStatus, not older than 48
        hours, which is read instead of asking for each object. What it does not list is not looked at, nor are old versions. With
        it there is one S3 target. (templated)
    :param trust_device: for local files: whether the encryption of the disk below counts, or only that of the files themselves.
    :param probe: for S3: write a marker without asking for encryption, look at what became of it, and delete it.
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("targets", "require", "kms_key_arn", "inventory", "aws_conn_id", *Guard.template_fields)
    # Not transport: only of a bucket it asks whether plain HTTP is refused, and local files have no such thing.
    threats: Collection[str] = ("unsecured-storage",)

    if TYPE_CHECKING:
        log: Any

    def __init__(
        self,
        *,
        targets: str | Sequence[str],
        require: str = "any",
        kms_key_arn: str | None = None,
        sample: int | None = None,
        inventory: str | None = None,
        trust_device: bool = True,
        probe: bool = False,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.targets = targets
        self.require = require
        self.kms_key_arn = kms_key_arn
        self.sample = sample
        self.inventory = inventory
        self.trust_device = trust_device
        self.probe = probe
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Look at each target."""
        from airflow_pipesec.checks.buckets import Wanted, encrypted_bucket
        from airflow_pipesec.checks.encryption import encrypted_locally
        from airflow_pipesec.storage import LocalStore
        from airflow_pipesec.storage_remote import S3Store

        targets = [self.targets] if isinstance(self.targets, str) else list(self.targets)
        if not targets:
            raise ConfigurationError("targets= is empty. Name at least one location.")
        wanted = Wanted(self.require, self.kms_key_arn).checked()
        stores = [open_location(target, self.aws_conn_id) for target in targets]
        inventory = None if self.inventory is None else open_location(self.inventory, self.aws_conn_id)
        if inventory is not None and not (len(stores) == 1 and isinstance(stores[0], S3Store) and isinstance(inventory, S3Store)):
            raise ConfigurationError("inventory= is an s3:// location, and belongs to one s3:// target.")
        for store in stores:
            if isinstance(store, LocalStore):
                yield from encrypted_locally(store, trust_device=self.trust_device)
            elif isinstance(store, S3Store):
                yield from encrypted_bucket(
                    store,
                    wanted,
                    sample=self.sample,
                    inventory=inventory if isinstance(inventory, S3Store) else None,
                    probe=self.probe,
                    progress=log_progress(self.log),
                )
            else:
                raise ConfigurationError(f"targets={store.url}: only local paths and s3:// can be judged.")


class EncryptionAtRestOperator(EncryptionAtRest, GuardOperator):
    """Stop the pipeline unless what is stored is encrypted. The parameters are those of :class:`EncryptionAtRest`."""


class EncryptionAtRestSensor(EncryptionAtRest, GuardSensor):
    """Wait until what is stored is encrypted. The parameters are those of :class:`EncryptionAtRest`."""


class EncryptArtifactOperator(GuardOperator):
    """Encrypt a file or a tree, in age format, for the holders of some keys.

    Nothing is encrypted when anything under the root is doubtful (a link, a special file, something unreadable).

    :param source: a file, a folder, or a URL such as ``s3://bucket/prefix``. (templated)
    :param target: where the encrypted form goes: the file itself, or the root of a tree of the same names with ``.age``.
        (templated)
    :param recipients: public keys (``age1…``) or ``file:PATH`` with one a line; each of them can decrypt. (templated)
    :param remove_source: delete the plain files when every one of them is encrypted and none was changed, added or removed
        meanwhile. On a disk they may still be recovered, and a versioned bucket keeps them. A task that is run again after that
        finds nothing to encrypt, and fails.
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("source", "target", "recipients", "aws_conn_id", *Guard.template_fields)
    # What is encrypted for its recipients is so wherever it lies and by whatever way it goes.
    threats: Collection[str] = ("unsecured-storage", "unsecured-transport", "model-theft")

    def __init__(
        self,
        *,
        source: str,
        target: str,
        recipients: str | Sequence[str],
        remove_source: bool = False,
        aws_conn_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.target = target
        self.recipients = recipients
        self.remove_source = remove_source
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Encrypt what lies under ``source``."""
        from airflow_pipesec.checks.encryption import encrypt
        from airflow_pipesec.keys import recipients_from

        recipients = recipients_from(self.recipients if isinstance(self.recipients, str) else list(self.recipients))
        source, target = open_location(self.source, self.aws_conn_id), open_location(self.target, self.aws_conn_id)
        progress = log_progress(self.log)
        return encrypt(source, target, recipients, remove_source=self.remove_source, progress=progress)


class DecryptArtifactOperator(GuardOperator):
    """Decrypt a file or a tree in age format. A file comes into its place only when the whole of it was found authentic.

    Of a tree, the files beside one that fails are decrypted all the same: use nothing of it unless the guard passed.

    :param source: a file, or a tree of ``.age`` files, or a URL such as ``s3://bucket/prefix``. (templated)
    :param target: where the plain form goes: the file itself, or the root of a tree of the same names without ``.age``.
        (templated)
    :param identity: where the private key comes from: ``file:PATH``, ``env:NAME``, ``kms:PATH``, ``connection:ID`` (the
        connection's password) or ``variable:NAME``. Never the key itself. (templated)
    :param aws_conn_id: Airflow connection for ``s3://``; boto3's own credential chain without one. (templated)

    ``policy`` and ``on_failure`` are those of every guard, see :class:`airflow_pipesec.guards.base.Guard`.
    """

    template_fields: Collection[str] = ("source", "target", "identity", "aws_conn_id", *Guard.template_fields)
    # Not tampering: a changed byte fails, but whoever knows a recipient can encrypt another file for them.
    threats: Collection[str] = ("unsecured-storage", "unsecured-transport")

    def __init__(self, *, source: str, target: str, identity: str, aws_conn_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.source = source
        self.target = target
        self.identity = identity
        self.aws_conn_id = aws_conn_id

    def findings(self, context: Context) -> Iterable[Finding]:
        """Decrypt what lies under ``source``."""
        from airflow_pipesec.checks.encryption import decrypt

        identities = airflow_identities(self.identity)
        source, target = open_location(self.source, self.aws_conn_id), open_location(self.target, self.aws_conn_id)
        return decrypt(source, target, identities, progress=log_progress(self.log))


def airflow_identities(reference: str) -> list[Identity]:
    """Return the identities behind a reference, Airflow's connections and variables among the places they come from."""
    from airflow_pipesec.guards.trust import secret_sources
    from airflow_pipesec.keys import identities_from

    return identities_from(reference, secret_sources("identity"))
