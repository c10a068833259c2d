"""The sensors that a DAG author imports: each repeats its operator's check until it passes or time is up."""

from airflow_pipesec.guards.access import RBACAssertionSensor
from airflow_pipesec.guards.artifacts import ArtifactScanSensor
from airflow_pipesec.guards.base import GuardSensor
from airflow_pipesec.guards.encryption import EncryptionAtRestSensor
from airflow_pipesec.guards.integrity import HashVerificationSensor
from airflow_pipesec.guards.quality import DataValidationSensor

__all__ = [
    "ArtifactScanSensor",
    "DataValidationSensor",
    "EncryptionAtRestSensor",
    "GuardSensor",
    "HashVerificationSensor",
    "RBACAssertionSensor",
]
