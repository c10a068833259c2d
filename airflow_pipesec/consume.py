"""For the tasks between the guards: what a guard verified, and nothing else, is what a task reads and what is deployed.

Use these in a task of your own, in the place of ``open(path)``::

    @task
    def evaluate(model):
        with verified_open(model, name="model.joblib") as file:
            return joblib.load(file).score(...)


    evaluate(verify_model.output["handle"])

:mod:`airflow_pipesec.verified` does the work. Here Airflow's connections open URLs, and Airflow's configuration says which keys
have to have signed a manifest.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_pipesec import verified
from airflow_pipesec.errors import ConfigurationError, EvidenceError, StorageError
from airflow_pipesec.findings import printable
from airflow_pipesec.guards.airflow_api import AirflowAPI, is_local_test
from airflow_pipesec.guards.base import open_location
from airflow_pipesec.guards.trust import configured_trusted_keys, run_evidence

if TYPE_CHECKING:
    from airflow_pipesec.manifest import Digest, Manifest
    from airflow_pipesec.signing import TrustedKeys
    from airflow_pipesec.storage import Store

__all__ = ["materialize", "released", "verified_open"]

Location = str | os.PathLike[str]


def verified_open(
    source: Location | Mapping[str, str] | None,
    manifest: Location | Manifest | Digest | None = None,
    *,
    name: str | None = None,
    stream: bool = False,
    allow_unsigned: bool = False,
    aws_conn_id: str | None = None,
) -> io.BufferedReader:
    """Open a file for reading, and give out no byte of it that is not the one that was verified.

    ``source`` is the handle that a guard pushed (``verify.output["handle"]``), with ``name`` for a file of a tree; or a path or
    URL, with the ``manifest`` or the digest (``sha256:…``) to hold it against. A manifest has to be signed by a key that the
    configuration trusts, unless ``allow_unsigned`` takes one that anybody may have written. The whole file is verified before
    the first byte is given out; with ``stream`` it is verified while it is read, and a consumer of wrong bytes never sees a
    regular end of file. See :func:`airflow_pipesec.verified.verified_open` for the rest, and for what it raises.
    """
    return verified.verified_open(
        _meant(source),
        manifest,
        name=name,
        stream=stream,
        store_of=_opened(aws_conn_id),
        trusted=_trusted(manifest, allow_unsigned),
    )


@contextmanager
def materialize(
    source: Location | Mapping[str, str] | None,
    manifest: Location | Manifest | Digest | None = None,
    *,
    name: str | None = None,
    folder: Location | None = None,
    allow_unsigned: bool = False,
    aws_conn_id: str | None = None,
) -> Iterator[Path]:
    """Give the path of a verified copy of a file or a tree, private and read-only, and remove it at the end.

    The parameters are those of :func:`verified_open`; ``folder`` is where the copy goes, the temporary folder unless given. See
    :func:`airflow_pipesec.verified.materialize` for the rest, and for what it raises.
    """
    store_of, trusted = _opened(aws_conn_id), _trusted(manifest, allow_unsigned)
    with verified.materialize(_meant(source), manifest, name=name, folder=folder, store_of=store_of, trusted=trusted) as path:
        yield path


@contextmanager
def released(
    artifact: Location,
    *,
    gate: str = "release_gate",
    airflow_conn_id: str | None = "airflow_api",
    folder: Location | None = None,
    aws_conn_id: str | None = None,
) -> Iterator[Path]:
    """Give the path of a copy of an artifact, private and read-only, if a release gate of this run let just these bytes pass.

    The gate's state is not believed, and no XCom: what counts is the evidence that task ``gate`` signed in its latest attempt,
    and that what it rested on is still so. So neither calling the gate a success by hand nor swapping the artifact after it
    ships anything. Airflow is asked for that attempt by the connection ``airflow_conn_id``, as the gate asks; None does without,
    and then an earlier attempt's word stands. The copy is removed at the end.

    Raises :class:`~airflow_pipesec.errors.EvidenceError` where the gate left no evidence, did not pass or passed other bytes,
    :class:`~airflow_pipesec.errors.ConfigurationError` where the configuration trusts no key, and what :func:`materialize` does.
    """
    from airflow.sdk import get_current_context

    from airflow_pipesec.attestation import digest_set
    from airflow_pipesec.checks.release import released as let_pass
    from airflow_pipesec.checks.release import stock_of

    trusted = configured_trusted_keys()
    if trusted is None:
        raise ConfigurationError("[pipesec] trusted_keys is not set, so no release gate could be believed. Set it to their file.")
    ti: Any = get_current_context()["ti"]
    evidence = run_evidence(ti.dag_id, ti.run_id).load(ti.dag_id, ti.run_id, trusted)
    index = -1 if ti.map_index is None or (gate, ti.map_index) not in evidence.attempts() else ti.map_index
    attempt = None if airflow_conn_id is None or is_local_test() else _latest(airflow_conn_id, ti, gate, index)
    digests = let_pass(evidence, (gate, index), attempt=attempt, now=datetime.now(UTC))
    store = open_location(os.fspath(artifact), aws_conn_id)
    where = store.url
    manifest, problems = stock_of(store, digests)
    if manifest is None:
        raise StorageError(f"{printable(where)} cannot be released: {problems[0].subject}: {problems[0].message}")
    if digest_set(manifest.digest) not in [dict(each) for each in digests]:
        raise EvidenceError(
            f"{printable(where)} is not what gate {printable(gate)} let pass: it is {manifest.digest} now. Find who changed it."
        )
    with verified.materialize(store, manifest, folder=folder) as path:
        yield path


def _latest(conn_id: str, ti: Any, gate: str, index: int) -> str:
    """Return the id of a gate's latest attempt, as Airflow shows it; an id that no attempt has where it shows no such task."""
    from airflow_pipesec.checks.access import NotAnswered

    api = AirflowAPI(conn_id)
    try:
        found = [item.id for item in api.instances(ti.dag_id, ti.run_id, [gate]) if item.map_index == index]
    except NotAnswered as error:
        raise StorageError(f"Airflow could not be asked for gate {printable(gate)}: {error}") from None
    finally:
        api.close()
    return found[0] if found else "none"


def _meant(source: Location | Mapping[str, str] | None) -> Location | verified.Handle:
    if source is None:
        raise ConfigurationError("there is no handle: the guard that should have pushed one did not pass, or did not run.")
    return verified.Handle.from_xcom(dict(source)) if isinstance(source, Mapping) else source


def _trusted(manifest: Any, allow_unsigned: bool) -> TrustedKeys | None:
    """The keys that a manifest has to be signed by, if it is one that has yet to be read."""
    if not isinstance(manifest, str | os.PathLike) or verified.is_digest(manifest) or allow_unsigned:
        return None
    trusted = configured_trusted_keys()
    if trusted is None:
        raise ConfigurationError(
            "no key is trusted here, so no manifest is believed. Set [pipesec] trusted_keys to a file of trusted keys, or give "
            "allow_unsigned=True to take a manifest that anybody may have written."
        )
    return trusted


def _opened(aws_conn_id: str | None) -> verified.StoreOf:
    def store_of(url: str) -> Store:
        return open_location(url, aws_conn_id)

    return store_of
