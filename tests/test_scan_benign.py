"""Benign models pass: what the libraries write has no problem at all, by the lists that come with the package."""

from __future__ import annotations

import pickle
import time

import pytest

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.scanner import Fault, Scan, scan_view
from airflow_pipesec.scan.views import Memory
from tests.benign_models import OBJECTS, VECTORS, Benign, files, vectors

FOLDERS = sorted(path.name for path in VECTORS.iterdir())


def scan(file: Benign) -> Scan:
    return scan_view(Memory(file.data), AllowList.shipped(), name=file.name)


def flagged(found: list[Benign]) -> str:
    """Say which files have problems, and which; nothing if none has."""
    return "\n".join(f"{file.library}/{file.name}: {problem}" for file in found for problem in scan(file).problems[:2])


@pytest.mark.parametrize("library", OBJECTS)
def test_what_the_library_pickles_has_no_problem(library):
    made = [file for file in files() if file.library == library]
    assert len(made) > 20
    assert flagged(made) == ""


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_the_library_saved_has_no_problem(folder):
    saved = [file for file in vectors() if file.library == folder]
    assert saved
    assert flagged(saved) == ""


def test_the_corpus_has_every_estimator_of_scikit_learn():
    from sklearn.utils import all_estimators

    made = {file.name.rsplit("-", 1)[0] for file in files() if file.name.endswith(".pkl")}
    assert {name for name, _ in all_estimators()} <= made


def test_the_corpus_has_every_compression_of_joblib_and_every_protocol():
    names = [file.name for file in files()]
    for kind in ("zlib", "gzip", "bz2", "xz", "lzma"):
        assert any(name.endswith(f".{kind}.joblib") for name in names)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert sum(name.endswith(f"-{protocol}.pkl") for name in names) > 20


def test_a_distribution_of_scipy_is_refused_for_its_state_is_executed():
    from scipy import stats

    # rv_generic.__setstate__ hands the text of _parse_arg_template, which stands in the state, to exec().
    problems = scan_view(Memory(pickle.dumps(stats.norm(0, 1))), AllowList.shipped()).problems
    assert {problem.fault for problem in problems} == {Fault.UNSAFE}


@pytest.mark.parametrize(
    "name",
    [
        ("builtins", "getattr"),
        ("builtins", "eval"),
        ("builtins", "type"),
        ("functools", "reduce"),
        ("operator", "attrgetter"),
        ("os", "system"),
        ("numpy", "load"),
        ("numpy", "memmap"),
        ("numpy", "vectorize"),
        ("numpy", "frombuffer"),
        ("numpy.testing._private.utils", "runstring"),
        ("scipy.stats._continuous_distns", "norm_gen"),
        ("sklearn.metrics._dist_metrics", "PyFuncDistance"),
        ("sklearn.utils._testing", "assert_run_python_script"),
        ("joblib.numpy_pickle_compat", "NDArrayWrapper"),
        ("joblib.memory", "Memory"),
        ("pandas.io.pickle", "read_pickle"),
        ("torch.serialization", "load"),
        ("torch.fx.graph_module", "reduce_graph_module"),
        ("torch", "ScriptObject"),
        ("xgboost.core", "DMatrix"),
        ("xgboost.callback", "TrainingCheckPoint"),
        ("lightgbm.basic", "Dataset"),
    ],
    ids=":".join,
)
def test_no_list_has_what_can_do_more_than_build_a_model(name):
    assert not AllowList.shipped().has(*name)


def test_what_takes_addresses_when_called_is_no_value_and_is_not_called():
    allow = AllowList.shipped()
    for name in (("numpy", "ndarray"), ("torch", "Tensor"), ("torch", "UntypedStorage"), ("torch.storage", "UntypedStorage")):
        assert allow.rights(*name) == ("new",)


def test_bytes_are_loaded_by_torch_only_where_they_are_looked_at():
    (argument,) = AllowList.shipped().call["torch.storage", "_load_from_bytes"]
    assert argument.kinds == {"torch"}


def test_what_may_be_called_with_anything_is_a_short_list():
    free = {f"{module}:{name}" for (module, name), signature in AllowList.shipped().call.items() if signature is None}
    assert free == {"torch._utils:_rebuild_tensor_v2"}


def test_the_lists_are_read_quickly():
    AllowList.shipped.cache_clear()
    start = time.process_time()
    AllowList.shipped()
    assert time.process_time() - start < 0.3  # 0.03 s here
