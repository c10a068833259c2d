"""The operators that a DAG author imports."""

from airflow_pipesec.guards.access import RBACAssertionOperator
from airflow_pipesec.guards.artifacts import ArtifactScanOperator
from airflow_pipesec.guards.base import GuardOperator
from airflow_pipesec.guards.encryption import DecryptArtifactOperator, EncryptArtifactOperator, EncryptionAtRestOperator
from airflow_pipesec.guards.integrity import HashManifestOperator, HashVerificationOperator
from airflow_pipesec.guards.quality import DataValidationOperator
from airflow_pipesec.guards.release import ReleaseGateOperator

__all__ = [
    "ArtifactScanOperator",
    "DataValidationOperator",
    "DecryptArtifactOperator",
    "EncryptArtifactOperator",
    "EncryptionAtRestOperator",
    "GuardOperator",
    "HashManifestOperator",
    "HashVerificationOperator",
    "RBACAssertionOperator",
    "ReleaseGateOperator",
]
