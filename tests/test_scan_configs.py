"""JSON configurations: data passes, and what has code imported, called or rendered is found, whatever the file is called."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.configs import look_json
from airflow_pipesec.scan.scanner import Fault, Limits, Part, Scan
from airflow_pipesec.scan.views import Memory


def looked(value, name="config.json", allow=None, limits=None):
    scan = Scan(AllowList.load() if allow is None else allow, limits)
    part = Part(Memory(value if isinstance(value, bytes) else json.dumps(value).encode()), scan)
    part.known = f"file:{name}"
    part.look(look_json)
    return scan


def whys(value, **options):
    return [problem.why for problem in looked(value, **options).problems]


def keras(name, config=None, module="keras.layers", registered=None, **more):
    return {"module": module, "class_name": name, "config": config or {}, "registered_name": registered, **more}


def model(*layers):
    first = keras("InputLayer", {"batch_shape": [None, 4], "dtype": "float32", "name": "input"})
    node = keras("__keras_tensor__", {"shape": [None, 4], "dtype": "float32", "keras_history": ["input", 0, 0]})
    dense = keras(
        "Dense",
        {
            "name": "dense",
            "dtype": keras("DTypePolicy", {"name": "float32"}, "keras"),
            "units": 3,
            "activation": "relu",
            "kernel_initializer": keras("GlorotUniform", {"seed": None}, "keras.initializers"),
        },
        build_config={"input_shape": [None, 4]},
        inbound_nodes=[{"args": [{"class_name": "__keras_tensor__", "config": node["config"]}], "kwargs": {}}],
    )
    return keras(
        "Functional",
        {"name": "m", "layers": [first, dense, *layers], "input_layers": [["input", 0, 0]]},
        "keras.src.models.functional",
        "Functional",
        compile_config={"optimizer": keras("Adam", {}, "keras.optimizers"), "loss": "mse", "metrics": ["accuracy"]},
    )


def test_a_keras_model_has_no_problems():
    scan = looked(model())
    assert scan.problems == []
    assert scan.formats == {"keras": 1}
    assert scan.used[Entry("keras", "", "keras.layers:Dense")] == 1


def test_a_keras_2_model_has_no_problems():
    layers = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": {"class_name": "__tuple__", "items": [None, 4]}}},
        {"class_name": "Bidirectional", "config": {"layer": {"class_name": "LSTM", "config": {"units": 2}}}},
        {"class_name": "Dense", "config": {"kernel_initializer": {"class_name": "GlorotUniform", "config": {}}}},
        {"class_name": "TFOpLambda", "config": {"name": "tf.math.add", "function": "math.add"}},
    ]
    value = {
        "class_name": "Functional",
        "config": {"name": "m", "layers": layers},
        "keras_version": "2.15.0",
        "backend": "tensorflow",
    }
    assert whys(value) == []


def test_built_in_functions_may_be_named():
    for function in (
        keras("function", "relu", "keras.activations", "relu"),
        keras("function", "relu", "builtins", "function"),
        keras("function", "mean_squared_error", "keras.losses", "mean_squared_error"),
        keras("function", "gelu", "keras.ops", "gelu"),
    ):
        assert whys(model(keras("Activation", {"activation": function}))) == []


def test_names_of_tf_keras_are_those_of_keras():
    assert whys(model(keras("Dense", module="tf_keras.layers"))) == []


ATTACKS = {
    "CVE-2024-3660, a lambda as code": (
        keras(
            "Lambda", {"function": {"class_name": "__lambda__", "config": {"code": "4wEA", "defaults": None, "closure": None}}}
        ),
        "Lambda layer",
    ),
    "CVE-2024-3660, in Keras 2": ({"class_name": "Lambda", "config": {"function": ["4wEA", None, None]}}, "Lambda layer"),
    "a lambda without a layer": (keras("Activation", {"activation": {"class_name": "__lambda__", "config": {}}}), "as code"),
    "CVE-2025-1550, any function": (
        keras("Dense", {"activation": keras("function", "run", "subprocess", "run")}),
        "the function subprocess:run",
    ),
    "CVE-2025-1550, any class": (keras("Popen", {"args": ["id"]}, "subprocess"), "the class subprocess:Popen"),
    "CVE-2025-1550, a module of Keras that imports others": (
        keras("Dense", {"a": keras("function", "eval", "keras.src.utils.python_utils.builtins", "eval")}),
        "the function keras.src.utils.python_utils.builtins:eval",
    ),
    "CVE-2025-8747, a download": (
        keras(
            "Lambda", {"function": keras("function", "get_file", "keras.utils", "get_file"), "arguments": {"origin": "http://x"}}
        ),
        "the function keras.utils:get_file",
    ),
    "CVE-2025-9906, switching safe mode off": (
        keras("Dense", {"a": keras("function", "enable_unsafe_deserialization", "keras.config")}),
        "the function keras.config:enable_unsafe_deserialization",
    ),
    "CVE-2025-9906, loading another model": (
        keras("Dense", {"a": keras("function", "load_model", "keras.models", "function")}),
        "the function keras.models:load_model",
    ),
    "CVE-2025-12058, a vocabulary from a file": (
        keras("StringLookup", {"vocabulary": "/etc/passwd", "invert": False}),
        "reads its vocabulary from a file",
    ),
    "CVE-2025-12058, in a text vectorization": (keras("TextVectorization", {"vocabulary": "http://x"}), "from a file"),
    "CVE-2025-49655, a module of Torch": (keras("TorchModuleWrapper", {"module": "gASV"}), "which unpickles"),
    "CVE-2026-1462, another model": (keras("TFSMLayer", {"filepath": "/tmp/m"}), "TFSMLayer"),
    "a function of builtins": (keras("Dense", {"a": keras("function", "exec", "builtins", "exec")}), "builtins:exec"),
    "a type to import": (
        {"class_name": "__typespec__", "module": "os", "spec_name": "system", "config": [], "registered_name": ""},
        "os:system",
    ),
    "a class of one's own": (keras("Mine", {}, "my.layers", "Custom>Mine"), "the class my.layers:Mine"),
    "a registered object under a known name": (keras("Dense", {}, registered="Custom>Dense"), "registered object Custom>Dense"),
    "a function of one's own": (keras("Dense", {"a": keras("function", "mine", "builtins", "function")}), "builtins:mine"),
    "a file operation of TensorFlow": (
        {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}},
        "the TensorFlow function io.write_file",
    ),
    "a known class elsewhere": (keras("Dense", {}, "os"), "the class os:Dense"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_by_a_keras_configuration_is_unsafe(attack):
    config, why = ATTACKS[attack]
    for value in (config, model(config), model(keras("TimeDistributed", {"layer": config}))):
        scan = looked(value)
        assert set(scan.totals) == {Fault.UNSAFE}
        assert why in " ".join(problem.why for problem in scan.problems)


@pytest.mark.parametrize("where", ["compile_config", "build_config", "inbound_nodes"])
def test_an_attack_is_found_wherever_it_stands(where):
    value = model()
    value[where] = [{"kwargs": {"x": keras("function", "system", "os")}}]
    assert whys(value) == ["uses the function os:system, which is not allowed"]


def test_what_is_refused_is_told_once_and_noted():
    scan = looked(model(*[keras("Mine", {}, "my.layers")] * 50))
    assert len(scan.problems) == 1
    assert scan.refused == {"my.layers:Mine"}


def test_the_users_own_classes_can_be_allowed():
    allow = AllowList.load({"keras": ["my.layers:Mine", ":Custom>Mine"]})
    assert whys(model(keras("Mine", {}, "my.layers", "Custom>Mine")), allow=allow) == []


@pytest.mark.parametrize(
    "config", [{"class_name": 1}, {"class_name": "Dense", "module": 1}, {"class_name": "function", "config": {}}]
)
def test_a_keras_object_without_a_name_is_unscannable(config):
    assert set(looked(model(config)).totals) == {Fault.UNSCANNABLE}


def node(loader, module, name, content=None, **more):
    return {"__class__": name, "__module__": module, "__loader__": loader, "content": content, **more}


def schema(*contents):
    attributes = {f"a{number}": each for number, each in enumerate(contents)}
    return node("ObjectNode", "lib", "Model", node("DictNode", "builtins", "dict", attributes), protocol=2, _skops_version="0.14")


SKOPS = AllowList.load(
    {
        "shipped": False,
        "new": {"lib": ["Model", "Tree"]},
        "call": {"lib": {"make": "any"}},
        "name": {"lib": ["score", "Model.predict"]},
    }
)


def test_a_skops_schema_of_allowed_names_has_no_problems():
    scan = looked(
        schema(
            node("JsonNode", "builtins", "str", "[1, null]", is_json=True),
            node("NdArrayNode", "numpy", "ndarray", type="numpy", file="1.npy"),
            node("SparseMatrixNode", "scipy.sparse._csr", "csr_matrix", type="scipy", file="2.npz"),
            node("ListNode", "builtins", "list", [node("CachedNode", "builtins", "dict", __id__=1)]),
            node("TypeNode", "numpy", "float64"),
            node("FunctionNode", "lib", "score"),
            node("FunctionNode", "builtins", "function", {"module_path": "lib", "function": "make"}),
            node("PartialNode", "functools", "partial", {"func": node("FunctionNode", "lib", "make")}),
            node("TreeNode", "lib", "Tree", __reduce__={"args": node("TupleNode", "builtins", "tuple", [])}),
            node("MethodNode", "lib", "Model", {"func": "predict", "obj": node("ObjectNode", "lib", "Model")}),
        ),
        allow=SKOPS,
    )
    assert scan.problems == []
    assert scan.formats == {"skops": 1}
    assert scan.used[Entry("new", "lib", "Model")] == 2


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (node("ObjectNode", "os", "Popen"), "makes an object by os:Popen"),
        (node("ObjectNode", "lib", "make"), "makes an object by lib:make"),
        (node("ConstructorFromReduceNode", "lib", "Model"), "makes an object by lib:Model"),
        (node("FunctionNode", "os", "system"), "refers to os:system"),
        (node("FunctionNode", "lib", "make", {"module_path": "os", "function": "system"}), "refers to os:system"),
        (node("PartialNode", "functools", "partial", {"func": node("FunctionNode", "os", "system")}), "refers to os:system"),
        (node("TypeNode", "subprocess", "Popen"), "refers to subprocess:Popen"),
        (node("MethodNode", "lib", "Model", {"func": "fit", "obj": {}}), "refers to lib:Model.fit"),
        (node("OperatorFuncNode", "operator", "methodcaller"), "makes an object by operator:methodcaller"),
        (node("OperatorFuncNode", "builtins", "eval"), "makes an object by builtins:eval"),
        (node("DictNode", "os", "system", {}), "makes an object by os:system"),
        (node("TupleNode", "lib", "score", []), "makes an object by lib:score"),
        (node("LossNode", "os", "system"), "makes an object by os:system"),
        (node("JsonNode", "os", "system", "1"), "JsonNode that names os:system"),
        (node("RandomStateNode", "os", "system", {}), "RandomStateNode that names os:system"),
        (node("NdArrayNode", "numpy", "load"), "NdArrayNode that names numpy:load"),
        (node("RandomGeneratorNode", "numpy.random", "Generator", {}), "a bit generator that is not known"),
    ],
)
def test_a_skops_node_that_names_what_is_not_allowed_is_unsafe(bad, why):
    scan = looked(schema(bad), allow=SKOPS)
    assert [problem.fault for problem in scan.problems] == [Fault.UNSAFE]
    assert why in scan.problems[0].why


@pytest.mark.parametrize(
    "bad", [node("NewNode", "lib", "Model"), node(1, "lib", "Model"), node("JsonNode", "builtins", "str", "{")]
)
def test_a_skops_node_that_is_not_known_is_unscannable(bad):
    assert set(looked(schema(bad), allow=SKOPS).totals) == {Fault.UNSCANNABLE}


def test_data_is_data():
    for value in (
        {"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rope_theta": 1e6, "auto_map": None},
        {"activation_function": "gelu_new", "attn_implementation": "sdpa", "trust_remote_code": False},
        {"in_features": 1, "activation_function": "torch.nn.modules.activation.Tanh"},
        {"learner": {"version": [2, 0, 0]}, "version": [2, 0, 0]},
        [1, 2, {"a": float("nan")}],
        {"model": {"type": "BPE", "vocab": {"a": 0, "class_name": 1}, "merges": [["a", "b"]]}},
        [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}],
        {"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.30", "unet": ["diffusers", "UNet2DConditionModel"]},
        {"peft_type": "LORA", "auto_mapping": {"base_model_class": "X", "parent_library": "transformers.models.llama"}},
    ):
        scan = looked(value)
        assert scan.problems == []
        assert scan.formats == {"json": 1}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "names code that comes with the model (auto_map)"),
        ({"text_config": {"auto_map": {"AutoModel": "modeling.Mine"}}}, "names code that comes with the model (auto_map)"),
        ({"custom_pipelines": {"mine": {"impl": "x.Mine"}}}, "names code that comes with the model (custom_pipelines)"),
        ({"cells": [], "nbformat": 4}, "is a notebook, which is code"),
        ([{"idx": 0, "name": "0", "path": "", "type": "os.system"}], "has a module imported by the name os.system"),
        (
            {"_class_name": ["mine", "Mine"], "_diffusers_version": "0"},
            "is a Diffusers pipeline whose class comes with the model",
        ),
        ({"_class_name": "X", "unet": ["mine", "Unet"]}, "has unet imported from mine"),
        ({"model_args": {"trust_remote_code": True}}, "names code that comes with the model (trust_remote_code)"),
        ({"session_options": {"custom_ops_library": "x.so"}}, "names code that comes with the model (custom_ops_library)"),
        ({"activation_function": "os.abort", "in_features": 1}, "has os.abort imported (activation_function)"),
        ({"types": {"a": "os.abort"}, "structure": {}}, "has os.abort imported (types)"),
        ({"attn_implementation": "someone/kernel"}, "has code loaded from someone/kernel (attn_implementation)"),
        ({"a": [{"_target_": "os.system", "command": "id"}]}, "has os.system called (_target_)"),
        ({"auto_mapping": {"parent_library": "mine"}}, "has its base model imported from mine"),
        (
            {"chat_template": "{{ ''.__class__ }}"},
            "has a template under chat_template that uses the attribute __class__ (line 1)",
        ),
        (
            {"chat_template": [{"name": "default", "template": "x"}, {"name": "tools", "template": "{{ ''.__class__ }}"}]},
            "has a template under chat_template that uses the attribute __class__ (line 1)",
        ),
        (
            {"tokenizer": {"chat_template": {"default": "{{ ''.__class__ }}"}}},
            "has a template under chat_template that uses the attribute __class__ (line 1)",
        ),
    ],
)
def test_what_names_code_is_unsafe(value, why):
    scan = looked(value)
    assert [(problem.fault, problem.why) for problem in scan.problems] == [(Fault.UNSAFE, why)]


def test_what_may_be_called_may_be_called_by_hydra():
    assert whys({"x": {"_target_": "lib.make"}}, allow=SKOPS) == []


def test_a_template_that_cannot_be_read_is_unscannable():
    assert looked({"chat_template": "{% if %}"}).totals == {Fault.UNSCANNABLE: 1}


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": 1, "a": 2}', "has the key a twice"),
        (b'{"a": 1} x', "no valid JSON"),
        (b'{"a": 1,}', "no valid JSON"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too long"),
        (b"[" * 100_000, "too deep"),
        (b"[" * 300 + b"]" * 300, "nested more than 200 deep"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (json.dumps({"a": 1}).encode("utf-16-le"), "JSON"),
    ],
)
def test_json_that_has_no_single_reading_is_unscannable(data, why):
    scan = looked(data)
    assert [problem.fault for problem in scan.problems] == [Fault.UNSCANNABLE]
    assert why in scan.problems[0].why


def test_json_over_the_limit_is_not_read():
    assert "of more than 10 bytes" in whys({"a": "x" * 20}, limits=Limits(text=10))[0]


def test_json_of_too_many_values_is_not_read():
    for data in (b"[" + b"1," * 12_000_000 + b"1]", b"[" + b"[]," * 3_000_000 + b"1]", b'{"a":' * 1_600_000):
        assert "more values" in whys(data)[0]


def test_text_that_only_starts_as_json_does_is_text():
    for text, name in ((b"[PAD]\n[UNK]\nthe\n", "vocab.txt"), (b"[section]\nkey = 1\n", "setup.cfg")):
        assert looked(text, name=name).problems == []


KEYS = [
    *("class_name", "config", "module", "registered_name", "vocabulary"),
    *("__loader__", "__class__", "__module__", "content", "chat_template", "auto_map", "type"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(JSON)
def test_any_json_is_judged(value):
    assert "cannot be parsed" not in " ".join(whys(value))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_change_to_a_configuration_is_judged(data):
    raw = bytearray(json.dumps(model()).encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    assert "cannot be parsed" not in " ".join(whys(bytes(raw)))
