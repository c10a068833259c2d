"""Trust: what signs here, whom a gate believes, and where evidence goes: from Airflow's configuration and nowhere else.

No parameter of a DAG names any of it: it is not for who uses a guard to choose whose word counts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.guards.base import get_connection, open_location

if TYPE_CHECKING:
    from airflow_pipesec.evidence import RunEvidence
    from airflow_pipesec.keys import Source
    from airflow_pipesec.signing import Signer, TrustedKeys

__all__ = ["UNSIGNED", "configured_signer", "configured_trusted_keys", "evidence_url", "run_evidence", "secret_sources"]

UNSIGNED = "dangerously-unsigned"


def _setting(name: str) -> str | None:
    from airflow.sdk.configuration import conf

    value = conf.get("pipesec", name, fallback=None)
    return str(value).strip() or None if value is not None else None


def configured_signer() -> Signer | None:
    """Return what signs (``[pipesec] signing_key``), None where the configuration says ``dangerously-unsigned``.

    Raises :class:`ConfigurationError` where it says nothing: no guard runs without leaving evidence.
    """
    from airflow_pipesec.signing import signer_from

    reference = _setting("signing_key")
    if reference is None:
        raise ConfigurationError(
            "[pipesec] signing_key is not set, so nothing could prove what this guard sees. Make a key with "
            "`pipesec keygen --signing -o FILE`, and set AIRFLOW__PIPESEC__SIGNING_KEY=file:FILE. "
            f"(The value {UNSIGNED} goes without, and no release gate accepts what comes of it.)"
        )
    return None if reference == UNSIGNED else signer_from(reference, secret_sources("signing_key"))


def configured_trusted_keys() -> TrustedKeys | None:
    """Return the keys that are believed (the file ``[pipesec] trusted_keys``), None where the configuration names none."""
    from airflow_pipesec.signing import TrustedKeys

    path = _setting("trusted_keys")
    return None if path is None else TrustedKeys.load(path)


def evidence_url() -> str:
    """Return where evidence goes (``[pipesec] evidence_url``): a folder of AIRFLOW_HOME unless the configuration says."""
    home = os.environ.get("AIRFLOW_HOME") or Path("~/airflow").expanduser()
    return _setting("evidence_url") or f"{home}/pipesec-evidence"


def run_evidence(dag_id: str, run_id: str) -> RunEvidence:
    """Return the place of a run's evidence. In ``s3://CONN_ID@bucket/prefix`` the URL names the connection to use."""
    from airflow_pipesec.evidence import RunEvidence, folder_of

    return RunEvidence(open_location(f"{evidence_url().rstrip('/')}/{folder_of(dag_id, run_id)}"))


def secret_sources(parameter: str) -> dict[str, Source]:
    """Return the places that Airflow adds to those a secret can come from: connections and variables."""

    def of_connection(conn_id: str) -> str:
        password = get_connection(conn_id, parameter).password
        if not password:
            raise ConfigurationError(f"connection {conn_id} has no password. Put the text of the key file there.")
        return password

    def of_variable(name: str) -> str:
        from airflow.sdk import Variable

        return str(Variable.get(name))

    return {"connection": of_connection, "variable": of_variable}
