"""A training pipeline whose stages are guarded, and which you can attack from Airflow's trigger form."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Param, chain, task
from pendulum import datetime

from airflow_pipesec import load_pickle
from airflow_pipesec.consume import released, verified_open
from airflow_pipesec.operators import (
    ArtifactScanOperator,
    DataValidationOperator,
    DecryptArtifactOperator,
    EncryptArtifactOperator,
    EncryptionAtRestOperator,
    HashManifestOperator,
    HashVerificationOperator,
    RBACAssertionOperator,
    ReleaseGateOperator,
)
from airflow_pipesec.sensors import HashVerificationSensor

# The villain of this demonstration. A DAG of your own has no such import, and its chain() is five lines shorter.
from example_attacks import ATTACKS, attack  # isort: skip

HERE = Path(__file__).parent
# Every run works in a folder of its own.
DATA = os.environ.get("PIPESEC_EXAMPLE_DATA", "/tmp/pipesec-example")  # noqa: S108 - an example that runs anywhere
RUN = DATA + "/run-{{ run_id }}"
RAW, PREPARED, MODEL, MANIFESTS = f"{RUN}/raw", f"{RUN}/prepared", f"{RUN}/model", f"{RUN}/manifests"
SEALED, RELEASE = f"{RUN}/sealed", f"{RUN}/release"
LEAST_ACCURACY = 0.9


@task
def collect(folder: str) -> str:
    """Fetch the measurements and write them as the raw data: 569 tumours, 30 features, malignant or benign."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True).frame
    data.columns = [name.replace(" ", "_") for name in data.columns]
    Path(folder).mkdir(parents=True, exist_ok=True)
    data.to_csv(f"{folder}/measurements.csv", index=False)
    return f"{len(data)} rows"


# What a guard verified goes to the next stage as a handle: the stage reads just those bytes, or fails.
@task
def preprocess(raw: dict[str, str], prepared: str) -> str:
    """Split the raw data into rows to train on and rows to test with."""
    import pandas as pd
    from sklearn.model_selection import train_test_split

    with verified_open(raw, name="measurements.csv") as file:
        data = pd.read_csv(file)
    train_rows, test_rows = train_test_split(data, test_size=0.25, stratify=data["target"], random_state=0)
    Path(prepared).mkdir(parents=True, exist_ok=True)
    train_rows.to_parquet(f"{prepared}/train.parquet", index=False)
    test_rows.to_parquet(f"{prepared}/test.parquet", index=False)
    return f"{len(train_rows)} rows to train, {len(test_rows)} to test"


@task
def train(rows_to_train: dict[str, str], model: str) -> str:
    """Fit a logistic regression."""
    import joblib
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    with verified_open(rows_to_train) as file:
        rows = pd.read_parquet(file)
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(rows.drop(columns="target"), rows["target"])
    Path(model).mkdir(parents=True, exist_ok=True)
    joblib.dump(classifier, f"{model}/model.joblib")
    return f"{model}/model.joblib"


@task
def evaluate(rows_to_test: dict[str, str], model: dict[str, str]) -> float:
    """Measure the model on rows it has not seen. Only the bytes that were verified are loaded, and only what was scanned runs."""
    import pandas as pd

    with verified_open(rows_to_test) as file:
        rows = pd.read_parquet(file)
    with verified_open(model, name="model.joblib") as file:
        classifier = load_pickle(file)
    accuracy = float(classifier.score(rows.drop(columns="target"), rows["target"]))
    if accuracy < LEAST_ACCURACY:
        raise ValueError(f"accuracy {accuracy:.3f} is below {LEAST_ACCURACY}")
    return accuracy


@task
def deploy(model: str, run: str) -> str:
    """Put the model where it is served from, if the release gate signed that it may."""
    import shutil

    target = Path(run) / "deployed"
    target.mkdir(exist_ok=True)
    with released(model, gate="release_gate") as copy:
        for file in copy.iterdir():
            shutil.copyfile(file, target / file.name)
    return str(target)


with DAG(
    "example_secure_training",
    description="Collect, preprocess, train, evaluate, deploy: with a guard between the stages.",
    doc_md="""
### A guarded training pipeline

Five stages, and between them guards: tasks that look at what one stage left before the next one reads it.

| attack | what it does | the guard that stops it |
|---|---|---|
| `none` | nothing; the model is deployed | |
| `tampered_data` | turns a label in the raw data, after it was recorded | `verify_raw` |
| `invalid_rows` | plants rows with impossible values in the training data | `validate_rows` |
| `malicious_model` | saves the model so that loading it runs code, before it is recorded | `scan_model` |
| `swapped_model` | puts another model in the place of the trained one | `verify_model` |
| `swap_after_check` | the same, after `verify_model` has looked | the stage that reads it: `evaluate` |
| `plaintext_storage` | leaves training data in the clear, among the encrypted files | `encrypted_at_rest` |

Triggered by somebody whose role may trigger but not deploy, the run is stopped by `may_deploy`. Who may do that may also mark
the failed guard as a success, in the UI: try it. The run goes on, and `release_gate` stops it: the guard signed that it failed.

It needs a key that signs the evidence and the file of keys that are trusted (`[pipesec] signing_key` and `trusted_keys`), a key
to encrypt the model for (variable `pipesec_example_recipient`), the key to decrypt it with (the password of
connection `pipesec_example_key`; `pipesec keygen` makes both), and a service account that asks Airflow about people (connection
`airflow_api`).

**Trigger** the DAG, choose an attack, and watch the guard fail and everything below it stay untouched. The log of the failed
guard says what it found and what to do about it.
""",
    start_date=datetime(2026, 1, 1, tz="UTC"),
    schedule=None,
    catchup=False,
    tags=["pipesec", "example"],
    default_args={"retries": 1, "retry_delay": timedelta(seconds=5)},
    params={
        "attack": Param(
            "none",
            enum=["none", *ATTACKS],
            title="Attack",
            description_md="What the villain does between the stages. Choose one, and see which guard stops it.",
        )
    },
) as dag:
    record_raw = HashManifestOperator(task_id="record_raw", root=RAW, manifest=f"{MANIFESTS}/raw.json")
    verify_raw = HashVerificationOperator(task_id="verify_raw", root=RAW, manifest=f"{MANIFESTS}/raw.json")
    validate_test = DataValidationOperator(
        task_id="validate_test", path=f"{PREPARED}/test.parquet", suite=str(HERE / "example_suite.json")
    )
    validate_rows = DataValidationOperator(
        task_id="validate_rows",
        path=f"{PREPARED}/train.parquet",
        suite=str(HERE / "example_suite.json"),
        quarantine_path=f"{RUN}/quarantine/train.parquet",
    )
    record_model = HashManifestOperator(task_id="record_model", root=MODEL, manifest=f"{MANIFESTS}/model.json")
    verify_model = HashVerificationOperator(task_id="verify_model", root=MODEL, manifest=f"{MANIFESTS}/model.json")
    # What was recorded is what was trained, or what somebody made of it before. Loading it would run what is in it.
    scan_model = ArtifactScanOperator(task_id="scan_model", root=MODEL)
    seal_model = EncryptArtifactOperator(
        task_id="seal_model",
        source=MODEL,
        target=SEALED,
        recipients="{{ var.value.pipesec_example_recipient }}",
        remove_source=True,
    )
    encrypted_at_rest = EncryptionAtRestOperator(task_id="encrypted_at_rest", targets=SEALED, trust_device=False)
    may_deploy = RBACAssertionOperator(
        task_id="may_deploy",
        allowed_roles=["op", "Op", "admin", "Admin"],
        required_permission=("PUT", "dag_run"),
        local_test_user=os.environ.get("PIPESEC_EXAMPLE_LOCAL_USER"),
    )
    open_model = DecryptArtifactOperator(
        task_id="open_model", source=SEALED, target=RELEASE, identity="connection:pipesec_example_key"
    )
    release_ready = HashVerificationSensor(
        task_id="release_ready", root=RELEASE, manifest=f"{MANIFESTS}/model.json", poke_interval=10, timeout=300
    )

    # Nothing ships unless the evidence of every guard above is there, signed, linked and good; whatever their states say.
    release_gate = ReleaseGateOperator(task_id="release_gate", artifact=RELEASE, vsa=f"{RUN}/release.vsa.json")

    prepared = preprocess(verify_raw.output["handle"], PREPARED)
    evaluated = evaluate(validate_test.output["handle"], verify_model.output["handle"])
    chain(
        collect(RAW),
        record_raw,
        attack("tampered_data", RUN),
        verify_raw,
        prepared,
        attack("invalid_rows", RUN),
        validate_rows,
        train(validate_rows.output["handle"], MODEL),
        attack("malicious_model", RUN),
        record_model,
        attack("swapped_model", RUN),
        verify_model,
        scan_model,
        attack("swap_after_check", RUN),
        evaluated,
        may_deploy,
        seal_model,
        attack("plaintext_storage", RUN),
        encrypted_at_rest,
        open_model,
        release_ready,
        release_gate,
        deploy(RELEASE, RUN),
    )
    chain(prepared, validate_test, evaluated)
