"""A training pipeline that has never heard of guards. The plan beside it says which ones stand between its stages."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG, Param, chain, task
from pendulum import datetime

# The villain of this demonstration. A DAG of your own has no such import, and no chain() at its end.
from example_attacks import ATTACKS, attack  # isort: skip

# Every run works in a folder of its own, below the one that Airflow's variable names.
RUN = "{{ var.value.get('pipesec_example_data', '/tmp/pipesec-example') }}/plain-run-{{ run_id }}"


@task
def collect(raw: str) -> str:
    """Fetch the measurements and write them as the raw data: 569 tumours, 30 features, malignant or benign."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer(as_frame=True).frame
    data.columns = [name.replace(" ", "_") for name in data.columns]
    Path(raw).mkdir(parents=True, exist_ok=True)
    data.to_csv(f"{raw}/measurements.csv", index=False)
    return raw


@task
def preprocess(raw: str, prepared: str) -> str:
    """Split the raw data into rows to train on and rows to test with."""
    import pandas as pd

    data = pd.read_csv(f"{raw}/measurements.csv")
    train_rows = data.sample(frac=0.75, random_state=0)
    test_rows = data.drop(train_rows.index)
    Path(prepared).mkdir(parents=True, exist_ok=True)
    train_rows.to_parquet(f"{prepared}/train.parquet", index=False)
    test_rows.to_parquet(f"{prepared}/test.parquet", index=False)
    return prepared


@task
def train(prepared: str, model: str) -> str:
    """Fit a logistic regression."""
    import joblib
    import pandas as pd
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = pd.read_parquet(f"{prepared}/train.parquet")
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    classifier.fit(rows.drop(columns="target"), rows["target"])
    Path(model).mkdir(parents=True, exist_ok=True)
    joblib.dump(classifier, f"{model}/model.joblib")
    return model


@task
def evaluate(prepared: str, model: str) -> float:
    """Measure the model on rows it has not seen; whoever looks at the run sees the number."""
    import joblib
    import pandas as pd

    rows = pd.read_parquet(f"{prepared}/test.parquet")
    classifier = joblib.load(f"{model}/model.joblib")
    return float(classifier.score(rows.drop(columns="target"), rows["target"]))


@task
def deploy(model: str, deployed: str) -> str:
    """Put the model where it is served from."""
    import shutil

    shutil.copytree(model, deployed, dirs_exist_ok=True)
    return deployed


with DAG(
    "example_plain_training",
    description="Collect, preprocess, train, evaluate, deploy: with nobody who looks.",
    doc_md="""
### A training pipeline without a guard

Five stages, each of which believes what the one before it left. This file knows nothing of guards. A plan does, which is
`example_plain_training.plan.yaml` beside this file: give it to Airflow as the organisation's plan (`[pipesec] plan_url`), or add
`secure(dag, "example_plain_training.plan.yaml")` at the end of this file, and the guards stand between the stages.

| attack | what it does | alone | with the plan |
|---|---|---|---|
| `none` | nothing | the model is deployed | the model is deployed |
| `tampered_data` | turns a label in the raw data | nobody sees it | `before_preprocess.verify` stops it |
| `invalid_rows` | plants rows with impossible values in the training data | nobody sees it | `before_train.validate` |
| `malicious_model` | saves the model so that loading it runs code | the code runs | `before_evaluate.scan` |
| `swapped_model` | puts another model in the place of the trained one | it is deployed | `before_evaluate.verify` |
| `swap_after_check` | the same, after the model was looked at | it is deployed | `before_deploy.release_gate` |
| `plaintext_storage` | leaves training data in the clear in the archive | nobody sees it | `before_deploy.encrypted_at_rest` |

With the plan, a run of somebody whose role may not deploy is stopped by `before_deploy.may_deploy`; and who marks that guard as a
success by hand is stopped by `before_deploy.release_gate`.

**Trigger** the DAG, choose an attack, and see whether there is anybody to stop it.
""",
    start_date=datetime(2026, 1, 1, tz="UTC"),
    schedule=None,
    catchup=False,
    tags=["example"],
    params={
        "attack": Param(
            "none",
            enum=["none", *ATTACKS],
            title="Attack",
            description_md="What the villain does between the stages. Choose one, and see whether anybody stops it.",
        )
    },
) as dag:
    raw = collect(f"{RUN}/raw")
    prepared = preprocess(raw, f"{RUN}/prepared")
    model = train(prepared, f"{RUN}/model")
    evaluated = evaluate(prepared, model)
    deployed = deploy(model, f"{RUN}/deployed")

    # The villain's opportunities: whatever lies between two stages.
    chain(
        raw,
        attack("tampered_data", RUN),
        prepared,
        attack("invalid_rows", RUN),
        model,
        attack("malicious_model", RUN),
        attack("swapped_model", RUN),
        evaluated,
        attack("swap_after_check", RUN),
        attack("plaintext_storage", RUN),
        deployed,
    )
