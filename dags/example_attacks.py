"""The villain of the example: attacks on a training pipeline, each really carried out between two stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.sdk import task


def tampered_data(run: Path) -> str:
    """Turn the label of one tumour, in the bytes of the raw file, after its digest was recorded."""
    path = run / "raw" / "measurements.csv"
    content = bytearray(path.read_bytes())
    label = content.rindex(b",") + 1  # the last field of the last row
    content[label] = ord("0") if content[label] == ord("1") else ord("1")
    path.write_bytes(content)
    return "turned one label of the raw data, after it was recorded"


def invalid_rows(run: Path) -> str:
    """Plant tumours of negative size and unheard-of kinds in the training data; no digest speaks of it yet."""
    import pandas as pd

    path = run / "prepared" / "train.parquet"
    rows = pd.read_parquet(path)
    planted = rows.sample(20, random_state=0).assign(mean_radius=-40.0, target=7)
    pd.concat([rows, planted], ignore_index=True).to_parquet(path, index=False)
    return "planted 20 impossible rows in the training data"


def malicious_model(run: Path) -> str:
    """Save the trained model once more, as good as before, but loading it leaves a file: it could as well do anything else."""
    import joblib

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return open, (str(run / "owned.txt"), "w")  # what an unpickler calls, and with what

    path = run / "model" / "model.joblib"
    classifier = joblib.load(path)
    classifier.trap_ = Trap()
    joblib.dump(classifier, path)
    return "saved the trained model with something in it that runs when it is loaded"


def swapped_model(run: Path) -> str:
    """Put a model that calls every tumour benign in the place of the trained one."""
    import joblib
    import pandas as pd
    from sklearn.dummy import DummyClassifier

    rows = pd.read_parquet(run / "prepared" / "train.parquet")
    useless = DummyClassifier(strategy="constant", constant=1)
    useless.fit(rows.drop(columns="target"), rows["target"])
    joblib.dump(useless, run / "model" / "model.joblib")
    return "swapped the trained model for one that calls everything benign"


def plaintext_storage(run: Path) -> str:
    """Leave training data in the clear beside the encrypted model, as a stage that caches what it works on does."""
    import pandas as pd

    (run / "sealed").mkdir(exist_ok=True)  # where nobody encrypts anything there is none
    pd.read_parquet(run / "prepared" / "train.parquet").to_csv(run / "sealed" / "cache.csv", index=False)
    return "left training data in the clear among the encrypted files"


ATTACKS: dict[str, Callable[[Path], str]] = {
    "tampered_data": tampered_data,
    "invalid_rows": invalid_rows,
    "malicious_model": malicious_model,
    "swapped_model": swapped_model,
    "swap_after_check": swapped_model,  # the same deed, after the guard has looked
    "plaintext_storage": plaintext_storage,
}


def attack(name: str, run: str) -> Any:
    """Return a task that carries out the attack when the run's parameter names it, and does nothing otherwise."""

    @task(task_id=f"attack_{name}")
    def strike(folder: str, params: dict[str, Any] | None = None) -> str:
        if (params or {}).get("attack") != name:
            return "the villain sleeps"
        return ATTACKS[name](Path(folder))

    return strike(run)
