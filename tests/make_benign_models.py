"""Make benign models of libraries that the tests do not install: `python -m tests.make_benign_models LIBRARY`, where it is.

The files lie in tests/vectors/models/LIBRARY-VERSION. Each of these environments is one of its own:

    torch           torch, numpy
    boosting        xgboost, lightgbm, catboost, scikit-learn, joblib: one folder each
    scikit-learn    scikit-learn, pandas, joblib, in a version older than the tests'
    onnx            onnx, skl2onnx, scikit-learn
    files           safetensors, gguf, skops, scikit-learn, h5py
    keras           keras, tensorflow: a SavedModel as well
"""

from __future__ import annotations

import pickle
import sys
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "vectors" / "models"


def folder(library: str, version: str) -> Path:
    """Return the folder of a library, made."""
    made = FOLDER / f"{library}-{version.split('+')[0]}"
    made.mkdir(parents=True, exist_ok=True)
    return made


def torch_models() -> None:
    """State dictionaries, whole modules, TorchScript, tensors of each type, in both of torch's formats."""
    import torch
    from torch import nn

    where = folder("torch", torch.__version__)
    torch.manual_seed(0)
    model = nn.Sequential(OrderedDict(first=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), act=nn.ReLU(), last=nn.Linear(4, 2)))
    convolution = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 1, 8), 1)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    kinds = [kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)]
    tensors = {}
    for kind in sorted(set(kinds), key=str):
        try:
            tensors[str(kind)] = torch.zeros(2, 2).to(kind)
        except (RuntimeError, NotImplementedError, TypeError):
            continue
    special = {
        "parameter": nn.Parameter(torch.ones(2)),
        "size": torch.Size([1, 2]),
        "device": torch.device("cpu"),
        "dtype": torch.float16,
        "sparse": torch.eye(3).to_sparse(),
        "sparse-rows": torch.eye(3).to_sparse_csr(),
        "quantized": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        "quantized-channels": torch.quantize_per_channel(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0, torch.quint8),
        "view": torch.arange(10)[2:5],
        "conjugate": torch.ones(2, dtype=torch.complex64).conj(),
        "meta": torch.ones(2, device="meta"),
    }
    lstm = nn.LSTM(2, 3, batch_first=True)
    whole = {"linear": model, "convolution": convolution, "encoder": encoder, "lstm": lstm, "embedding": nn.EmbeddingBag(4, 2)}
    whole["many"] = nn.ModuleDict(
        {"a": nn.ModuleList([nn.Identity(), nn.Dropout(), nn.LayerNorm(2)]), "p": nn.ParameterList([torch.ones(1)])}
    )
    tagged = torch.ones(2)
    tagged.tag = "a"
    checkpoint = {"epoch": 3, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "loss": 0.5, "args": {"lr": 1e-3}}
    objects: dict[str, Any] = {"state": model.state_dict(), "checkpoint": checkpoint, "special": special, "tagged": tagged}
    objects |= {f"module-{name}": module for name, module in whole.items()}
    for name, made in objects.items():
        torch.save(made, where / f"{name}.pt")
        with _no_source():
            torch.save(made, where / f"{name}-legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(tensors, where / "tensors.pt")
    plain = {
        name: tensor
        for name, tensor in tensors.items()
        if name in ("torch.float32", "torch.int64", "torch.bool", "torch.float16")
    }
    torch.save(plain, where / "tensors-legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(model.state_dict(), where / "state-protocol-4.pt", pickle_protocol=4)
    model.eval()
    _script(torch.jit.script(model), where / "scripted.pt")
    _script(torch.jit.trace(model, torch.ones(2, 3)), where / "traced.pt")
    _script(torch.jit.script(lstm), where / "scripted-lstm.pt")
    torch.jit.script(_own_module()()).save(str(where / "scripted-own.pt"))
    (where / "pickled-state.pkl").write_bytes(pickle.dumps(model.state_dict(), 4))


@contextmanager
def _no_source() -> Iterator[None]:
    """Let torch's old format, which keeps the source code of each module's class, keep a line that is ours."""
    import inspect

    kept = inspect.getsourcefile, inspect.getsourcelines
    inspect.getsourcefile = lambda thing: "module.py"
    inspect.getsourcelines = lambda thing: (["class Module: ...\n"], 0)
    try:
        yield
    finally:
        inspect.getsourcefile, inspect.getsourcelines = kept


def _script(module: Any, path: Path) -> None:
    """Save a module by torch's own writer, but without what it keeps for debugging: the source code of others, and paths."""
    import torch

    module.save(str(path))
    reader = torch._C.PyTorchFileReader(str(path))
    records = {name: reader.get_record(name) for name in reader.get_all_records()}
    left_out = (".debug_pkl", "version", "byteorder", ".data/serialization_id")
    writer = torch._C.PyTorchFileWriter(str(path))
    for name, data in records.items():
        if not name.endswith(left_out):
            writer.write_record(name, data, len(data))
    writer.write_end_of_file()


def _own_module() -> Any:
    """Return a class whose source code is ours, for a file that keeps what there is for debugging."""
    import linecache

    import torch
    from torch import nn

    source = "class Own(nn.Module):\n    def forward(self, x: torch.Tensor):\n        return x.relu() + self.weight\n"
    source += "    def __init__(self):\n        super().__init__()\n        self.weight = nn.Parameter(torch.ones(2))\n"
    linecache.cache["own.py"] = (len(source), None, source.splitlines(keepends=True), "own.py")
    module = types.ModuleType("own")
    vars(module).update(nn=nn, torch=torch, __file__="own.py")
    sys.modules["own"] = module
    exec(compile(source, "own.py", "exec"), vars(module))  # noqa: S102 - the text above
    return module.Own


def boosting() -> None:
    """Models of the boosting libraries, by each of their ways."""
    import catboost
    import joblib
    import lightgbm
    import numpy as np
    import xgboost

    random = np.random.RandomState(0)
    X = random.rand(40, 3)  # noqa: N806 - as the libraries call it
    y, three = (X[:, 0] > 0.5).astype(int), np.arange(40) % 3
    quiet = {"iterations": 2, "depth": 2, "verbose": 0, "allow_writing_files": False}
    leaves = {"n_estimators": 2, "num_leaves": 3, "verbose": -1}
    where = folder("xgboost", xgboost.__version__)
    fitted = {
        "classifier": xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(X, y),
        "classes": xgboost.XGBClassifier(n_estimators=2, max_depth=2).fit(X, three),
        "regressor": xgboost.XGBRegressor(n_estimators=2, max_depth=2).fit(X, y),
        "linear": xgboost.XGBRegressor(n_estimators=2, booster="gblinear").fit(X, y),
        "ranker": xgboost.XGBRanker(n_estimators=2, max_depth=2).fit(X, y, group=[20, 20]),
    }
    _pickled(where, fitted)
    booster = xgboost.train({"max_depth": 2}, xgboost.DMatrix(X, y, feature_names=["a", "b", "c"]), 2)
    _pickled(where, {"booster": booster})
    for suffix in ("json", "ubj", "deprecated"):
        try:
            (where / f"booster.{suffix}").write_bytes(booster.save_raw(raw_format=suffix))
        except ValueError:
            continue  # the old binary format is not written any more
    where = folder("lightgbm", lightgbm.__version__)
    trained = lightgbm.train({"num_leaves": 3, "verbose": -1}, lightgbm.Dataset(X, y), 2)
    _pickled(where, {"classifier": lightgbm.LGBMClassifier(**leaves).fit(X, y), "booster": trained})
    trained.save_model(str(where / "booster.txt"))
    where = folder("catboost", catboost.__version__)
    cats = {
        "classifier": catboost.CatBoostClassifier(**quiet).fit(X, y),
        "regressor": catboost.CatBoostRegressor(**quiet).fit(X, y),
    }
    _pickled(where, cats)
    for kind in ("cbm", "json"):
        cats["classifier"].save_model(str(where / f"classifier.{kind}"), format=kind)
    joblib.dump(cats["classifier"], where / "classifier.joblib", compress=3)


def _pickled(where: Path, objects: dict[str, Any]) -> None:
    import joblib

    for place, (name, made) in enumerate(objects.items()):
        (where / f"{name}.pkl").write_bytes(pickle.dumps(made, (2, 4, 5, 0)[place % 4]))
        joblib.dump(made, where / f"{name}.joblib", compress=("zlib", 3) if place % 2 else 0)


def scikit_learn() -> None:
    """What older versions write: the corpus of tests/benign_models.py in one file for each library and protocol."""
    import joblib
    import sklearn

    from tests import benign_models

    where = folder("scikit-learn", sklearn.__version__)
    for library, make in benign_models.OBJECTS.items():
        if library == "python":
            continue
        made = dict(make())
        # One file holds them all. Estimators in protocol 0 are many opcodes, and the others in one version are enough.
        for protocol in (0, 4) if sklearn.__version__.startswith("1.3.") and library != "scikit-learn" else (4,):
            kept = {name: each for name, each in made.items() if _can(each, protocol)}
            joblib.dump(kept, where / f"{library}-{protocol}.joblib.xz", compress=("xz", 9), protocol=protocol)
        small = {name: each for name, each in made.items() if _can(each, 4)}
        for name in list(small)[::20]:
            (where / f"{library}-{name}.pkl").write_bytes(pickle.dumps(small[name], 4))


def _can(made: Any, protocol: int) -> bool:
    try:
        raw = pickle.dumps(made, protocol)
    except (TypeError, AttributeError):
        return False
    # Bound methods, and tables of pandas before 1.4, call what they have made: such files are refused.
    return b"getattr" not in raw and b"new_block" not in raw


def onnx_models() -> None:
    """Models that skl2onnx writes, and one by hand."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    where = folder("onnx", onnx.__version__)
    X = np.random.RandomState(0).rand(30, 3).astype(np.float32)  # noqa: N806 - as the libraries call it
    y = (X[:, 0] > 0.5).astype(int)
    fitted = {"logistic": make_pipeline(StandardScaler(), LogisticRegression()), "forest": RandomForestClassifier(3, max_depth=3)}
    for name, model in fitted.items():
        (where / f"{name}.onnx").write_bytes(to_onnx(model.fit(X, y), X[:1]).SerializeToString())
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 2], X[:2].ravel().tolist())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "by-hand", ends[:1], ends[1:], [weights])
    model = helper.make_model(graph, producer_name="by hand")
    onnx.save(model, where / "by-hand.onnx")
    branch = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["r"])], "then", [], [helper.make_tensor_value_info("r", TensorProto.FLOAT, None)]
    )
    choice = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    inputs = [
        helper.make_tensor_value_info("c", TensorProto.BOOL, []),
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"]),
    ]
    graph = helper.make_graph([choice], "choice", inputs, [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n"])])
    onnx.save(helper.make_model(graph), where / "choice.onnx")


def files() -> None:
    """Safetensors, GGUF, skops and HDF5."""
    import gguf
    import h5py
    import numpy as np
    import safetensors
    import skops
    import skops.io
    from safetensors.numpy import save_file
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    random = np.random.RandomState(0)
    X, y = random.rand(30, 3), np.arange(30) % 2  # noqa: N806 - as the library calls it
    tensors = {
        "weight": random.rand(3, 4).astype(np.float32),
        "half": np.ones(3, np.float16),
        "count": np.array(3),
        "none": np.zeros((0, 2)),
    }
    where = folder("safetensors", safetensors.__version__)
    save_file(tensors, where / "model.safetensors", metadata={"format": "pt"})
    save_file(tensors, where / "plain.safetensors")
    where = folder("skops", skops.__version__)
    fitted = {"logistic": make_pipeline(StandardScaler(), LogisticRegression()), "forest": RandomForestClassifier(3, max_depth=3)}
    for name, model in fitted.items():
        skops.io.dump(model.fit(X, y), where / f"{name}.skops")
    from importlib.metadata import version

    where = folder("gguf", version("gguf"))
    writer = gguf.GGUFWriter(where / "model.gguf", "llama")
    writer.add_context_length(16)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "</s>"])
    writer.add_chat_template("{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}")
    for name, tensor in tensors.items():
        if tensor.ndim and tensor.size and tensor.dtype in (np.float32, np.float16):
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    where = folder("h5py", h5py.__version__)
    for name, options in {"plain": {}, "latest": {"libver": "latest"}}.items():
        with h5py.File(where / f"{name}.h5", "w", **options) as file:
            group = file.create_group("layer")
            group.create_dataset("weight", data=tensors["weight"], compression="gzip", shuffle=True)
            group.create_dataset("bias", data=tensors["half"])
            group.attrs["name"] = "layer"
            file.attrs["names"] = ["a", "b"]


def keras_models() -> None:
    """Keras' own formats, and TensorFlow's SavedModel, which is a folder; its graph lies beside it as well."""
    import keras
    import numpy as np

    where = folder("keras", keras.__version__)
    layers = keras.layers
    text = layers.TextVectorization(max_tokens=10, output_sequence_length=4, vocabulary=["a", "b"])
    whole: dict[str, Callable[[], Any]] = {
        "dense": lambda: keras.Sequential(
            [layers.Input((3,)), layers.Dense(4, activation="relu"), layers.BatchNormalization(), layers.Dense(2, "softmax")]
        ),
        "convolution": lambda: keras.Sequential(
            [
                layers.Input((8, 8, 1)),
                layers.Rescaling(1 / 255),
                layers.Conv2D(2, 3),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dropout(0.5),
                layers.Dense(2),
            ]
        ),
        "recurrent": lambda: keras.Sequential(
            [layers.Input((4,)), layers.Embedding(10, 3), layers.Bidirectional(layers.LSTM(2)), layers.Dense(1)]
        ),
        "text": lambda: keras.Sequential(
            [layers.Input((1,), dtype="string"), text, layers.Embedding(10, 2), layers.GlobalAveragePooling1D()]
        ),
        "functional": _functional,
    }
    for name, make in whole.items():
        model = make()
        if name != "text":
            model.compile("adam", "mse", metrics=["mae"])
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model.save(where / f"{name}.h5")
        model.save(where / f"{name}.keras")
    model = whole["dense"]()
    model.save_weights(where / "dense.weights.h5")
    (where / "dense.json").write_text(model.to_json(), encoding="utf-8")
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    where = folder("tensorflow", tf.__version__)
    for name in ("dense", "convolution"):
        whole[name]().export(where / name)
        (where / f"{name}-saved_model.pb").write_bytes((where / name / "saved_model.pb").read_bytes())
    module = tf.Module()
    module.v = tf.Variable(np.ones(3, np.float32))
    module.__call__ = tf.function(lambda x: x * module.v, input_signature=[tf.TensorSpec([None, 3])])
    tf.saved_model.save(module, where / "module")
    (where / "module-saved_model.pb").write_bytes((where / "module" / "saved_model.pb").read_bytes())


def _functional() -> Any:
    from keras import Input, Model, layers

    first, second = Input((3,), name="first"), Input((2,), name="second")
    joined = layers.Concatenate()([layers.Dense(2)(first), second])
    return Model([first, second], layers.Dense(1, name="score")(layers.LayerNormalization()(joined)))


MAKE = {
    "torch": torch_models,
    "boosting": boosting,
    "scikit-learn": scikit_learn,
    "onnx": onnx_models,
    "files": files,
    "keras": keras_models,
}

if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MAKE[sys.argv[1]]()
