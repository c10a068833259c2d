"""The guard stops the pipeline before a malicious model is loaded, and what it let pass is what can be loaded."""

from __future__ import annotations

import gzip
import io
import pickle
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier

from airflow_pipesec import load_pickle
from airflow_pipesec.errors import ArtifactRefused, ConfigurationError, ObjectMissing
from airflow_pipesec.operators import ArtifactScanOperator
from airflow_pipesec.sensors import ArtifactScanSensor
from airflow_pipesec.verified import Handle, verified_open
from tests.conftest import RunTask


class Gadget:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.joblib"
    joblib.dump(RandomForestClassifier(3).fit([[0.0], [1.0]] * 5, [0, 1] * 5), path, compress=3)
    return path


def test_a_model_that_passes_is_handed_on_with_its_digest(model: Path, run_task: RunTask) -> None:
    ran = run_task(ArtifactScanOperator(task_id="scan", root=str(model)))
    assert ran.state == "success", ran.error
    assert ran.summary["outcome"] == "PASSED"
    assert ran.summary["controls"] == ["artifact-allow-listed", "artifact-scannable"]
    with verified_open(Handle.from_xcom(ran.xcoms["handle"])) as file:
        assert load_pickle(file).predict([[1.0]]).tolist() == [1]


def test_a_malicious_model_stops_the_pipeline(
    tmp_path: Path, model: Path, run_task: RunTask, capfd: pytest.CaptureFixture[str]
) -> None:
    marker = tmp_path / "marker"
    joblib.dump([joblib.load(model), Gadget(marker)], model)
    ran = run_task(ArtifactScanOperator(task_id="scan", root=str(model)))
    assert ran.state == "failed"
    assert "refers to io:open, which is not on the allow-list" in str(ran.error)
    assert ran.summary["blocking_controls"] == ["artifact-allow-listed"]
    assert "handle" not in ran.xcoms
    assert not marker.exists()


def test_parameters_come_from_templates_and_a_second_opinion_is_asked(model: Path, tmp_path: Path, run_task: RunTask) -> None:
    allow = tmp_path / "allow.yaml"
    allow.write_text("shipped: false\nname:\n  builtins: [int]\n")
    guard = ArtifactScanOperator(task_id="scan", root="{{ dag_run.conf['model'] }}", allow="{{ dag_run.conf['allow'] }}")
    assert run_task(guard, conf={"model": str(model), "allow": str(allow)}).state == "failed"
    asked = ArtifactScanOperator(task_id="asked", root=str(model), second_opinion=["strict=false"])
    assert run_task(asked).summary["blocking_controls"] == ["artifact-second-opinion"]
    assert run_task(ArtifactScanOperator(task_id="fast", root=str(model), digest=False)).xcoms.keys() == {"return_value"}
    assert run_task(ArtifactScanOperator(task_id="odd", root=str(model), digest="no")).state == "failed"


def test_a_sensor_waits_for_a_model(model: Path, tmp_path: Path, run_task: RunTask) -> None:
    late = tmp_path / "late.joblib"
    sensor = ArtifactScanSensor(task_id="wait", root=str(late), poke_interval=0.01, timeout=60)
    assert run_task(sensor).state == "up_for_reschedule"
    late.write_bytes(model.read_bytes())
    assert run_task(ArtifactScanSensor(task_id="came", root=str(late), poke_interval=0.01, timeout=60)).state == "success"


@pytest.mark.parametrize("protocol", range(6))
def test_what_pickle_wrote_is_loaded_as_it_was(protocol: int, tmp_path: Path) -> None:
    value = {"a": np.arange(5), "b": [1.5, None, "text", b"bytes"], "c": (1, {2, 3})}
    path = tmp_path / "value.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    loaded = load_pickle(path)
    assert loaded["a"].tolist() == [0, 1, 2, 3, 4]
    assert (loaded["b"], loaded["c"]) == (value["b"], value["c"])


@pytest.mark.parametrize("compress", [0, 3, ("gzip", 3), ("bz2", 3), ("xz", 3), ("lzma", 3)])
def test_what_joblib_wrote_is_loaded_as_it_was(compress: Any, tmp_path: Path) -> None:
    path = tmp_path / "value.joblib"
    joblib.dump(
        {"a": np.arange(1000.0), "b": np.array(["x", None], dtype=object), "c": np.zeros((2, 3), order="F")}, path, compress
    )
    loaded = load_pickle(path)
    assert loaded["a"].sum() == 499_500
    assert loaded["b"].tolist() == ["x", None]
    assert loaded["c"].flags.f_contiguous


@pytest.mark.parametrize("wrap", [bytes, gzip.compress])
def test_nothing_that_was_not_scanned_is_loaded(wrap: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for data in (
        pickle.dumps(Gadget(marker)),
        pickle.dumps([1]) + pickle.dumps(Gadget(marker)),
        pickle.dumps(Gadget(marker))[:-1],
        b"c_io\nopen\n(S'" + str(marker).encode() + b"'\nS'w'\ntRjunk",
    ):
        with pytest.raises(ArtifactRefused, match="is not loaded: uns"):
            load_pickle(io.BytesIO(wrap(data)))
    assert not marker.exists()


def test_only_pickles_are_loaded(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ArtifactRefused, match="is no pickle but json"):
        load_pickle(tmp_path / "a.json")
    with pytest.raises(ArtifactRefused, match="is empty"):
        load_pickle(io.BytesIO(b""))
    with pytest.raises(ObjectMissing):
        load_pickle(tmp_path / "nothing.pkl")

    class Other(bytes):
        pass

    class File(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return Other(super().read(size))

    for source in (io.StringIO("text"), 7, File(pickle.dumps(1))):
        with pytest.raises(ConfigurationError):
            load_pickle(source)  # type: ignore[arg-type]


def test_a_list_of_ones_own_is_obeyed_when_loading(tmp_path: Path) -> None:
    path = tmp_path / "n.pkl"
    path.write_bytes(pickle.dumps(Own()))
    with pytest.raises(ArtifactRefused, match="test_scan_guard:Own"):
        load_pickle(path)
    assert isinstance(load_pickle(path, allow=[f"{__name__}:Own"]), Own)
    with pytest.raises(ArtifactRefused):
        load_pickle(path, allow={"shipped": False, "new": {"numpy": ["ndarray"]}})


class Own:
    pass


def test_the_unpickler_itself_looks_up_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from airflow_pipesec.scan import loading
    from airflow_pipesec.scan.allow import AllowList
    from airflow_pipesec.scan.scanner import Scan

    # As if the scan had missed something.
    monkeypatch.setattr(loading, "scan_view", lambda *_, **__: _clean(Scan(AllowList.shipped())))
    marker = tmp_path / "marker"
    for protocol in range(6):
        with pytest.raises(ArtifactRefused, match="it refers to"):
            load_pickle(io.BytesIO(pickle.dumps(Gadget(marker), protocol)))
    assert not marker.exists()
    assert load_pickle(io.BytesIO(pickle.dumps({1, 2}, 1))) == {1, 2}, "names of Python 2 are mapped"


def _clean(scan: Any) -> Any:
    scan.formats["pickle"] += 1
    return scan
