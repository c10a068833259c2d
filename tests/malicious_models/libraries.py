"""What numpy, pandas, scikit-learn, joblib, torch and others have that a pickle may call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.malicious_models.assembling import Build, at, call, method, module, new, pickled, then, with_keywords
from tests.malicious_models.sample import Payload, Sample

Named = Iterator[tuple[str, Any]]
NO_FILE = "does its harm when the model is used, or leaves no file"


def of_numpy(p: Payload) -> Named:
    text, shell, system = p.python, p.shell, at("os:system")
    yield "numpy.testing._private.utils:runstring", call("numpy.testing._private.utils:runstring", text, {})
    yield "numpy.testing:runstring", call("numpy.testing:runstring", text, {})
    yield "numpy.testing:measure", call("numpy.testing:measure", text)
    yield "numpy.f2py.crackfortran:myeval", call("numpy.f2py.crackfortran:myeval", text, {}, {})
    yield "numpy.f2py.crackfortran:getlincoef", call("numpy.f2py.crackfortran:getlincoef", text, {})
    yield "numpy.f2py.crackfortran:_eval_scalar", call("numpy.f2py.crackfortran:_eval_scalar", text, {})
    yield "numpy.f2py.crackfortran:_eval_length", call("numpy.f2py.crackfortran:_eval_length", text, {})
    yield "numpy.f2py.crackfortran:param_eval", call("numpy.f2py.crackfortran:param_eval", text, {}, {}, None)
    yield "numpy.f2py.diagnose:os.system", call("numpy.f2py.diagnose:os.system", shell)
    written = call("pathlib:Path.write_text", call("pathlib:PosixPath", f"{p.marker}.map"), text)
    yield "numpy.f2py.capi_maps:load_f2cmap_file", then(written, call("numpy.f2py.capi_maps:load_f2cmap_file", f"{p.marker}.map"))
    yield "numpy.f2py:os.system", call("numpy.f2py:os.system", shell)
    yield "numpy.f2py.f2py2e:os.popen", call("numpy.f2py.f2py2e:os.popen", shell)
    yield "numpy.testing._private.utils:os.system", call("numpy.testing._private.utils:os.system", shell)
    yield "numpy.lib._datasource:os.system", call("numpy.lib._datasource:os.system", shell)
    yield "numpy:vectorize", call(call("numpy:vectorize", system), shell)
    yield "numpy:frompyfunc", call(call("numpy:frompyfunc", system, 1, 1), shell)
    yield "numpy:fromfunction", call("numpy:fromfunction", call("functools:partial", at("cProfile:run"), text), (1,))
    yield "numpy:apply_along_axis", call("numpy:apply_along_axis", call("functools:partial", at("cProfile:run"), text), 0, [1, 2])
    yield "numpy:piecewise", call("numpy:piecewise", [1.0], [True], [call("functools:partial", at("cProfile:run"), text)])
    yield "numpy:fromiter", call("numpy:fromiter", call("builtins:map", system, [shell]), "i4")
    yield "numpy:memmap", call("numpy:memmap", p.marker, "u1", "w+", 0, (1,))
    yield "numpy.lib.format:open_memmap", call("numpy.lib.format:open_memmap", p.marker, "w+", "u1", (1,))
    yield "numpy:savetxt", call("numpy:savetxt", p.marker, [1.0])
    yield "numpy:ndarray.tofile", call("numpy:ndarray.tofile", call("numpy:zeros", 1), p.marker)
    yield "numpy:ndarray.dump", call("numpy:ndarray.dump", call("numpy:zeros", 1), p.marker)
    stream = call("io:BytesIO", p.pickle)
    yield "numpy:load", with_keywords("numpy:load", stream, allow_pickle=True)
    yield "numpy._core._methods:_dump", call("numpy._core._methods:_dump", call("numpy:zeros", 1), p.marker)
    yield "numpy.ma.core:_frommethod, a module of it", call("numpy.ma.core:builtins.eval", text)
    yield "numpy._core.records:os.system", call("numpy._core.records:os.system", shell)
    yield "numpy.linalg, a module of it", call(call("numpy:linalg._linalg.functools.partial", system, shell))
    yield (
        "numpy.dtype whose metadata runs",
        then(call("numpy:dtype", [("x", "i4")], False, True), with_keywords("numpy:dtype", "i4", metadata={"x": p.system})),
    )


def of_pandas(p: Payload) -> Named:
    text, shell, system = p.python, p.shell, at("os:system")
    stream = call("io:BytesIO", p.pickle)
    yield "pandas:read_pickle", call("pandas:read_pickle", stream)
    yield "pandas.io.pickle:read_pickle", call("pandas.io.pickle:read_pickle", stream)
    yield "pandas.core.common:pipe", call("pandas.core.common:pipe", shell, system)
    yield "pandas.core.common:apply_if_callable", call("pandas.core.common:apply_if_callable", system, shell)
    handle = call("pandas.io.common:get_handle", p.marker, "w")
    yield "pandas.io.common:get_handle", handle
    frame = call("pandas:DataFrame", {"a": [shell]})
    yield "pandas:DataFrame.map", call("pandas:DataFrame.map", frame, system)
    yield "pandas:Series.map", call("pandas:Series.map", call("pandas:Series", [shell]), system)
    yield "pandas:Series.apply", call("pandas:Series.apply", call("pandas:Series", [shell]), system)
    yield "pandas:DataFrame.to_csv", call("pandas:DataFrame.to_csv", frame, p.marker)
    yield "pandas:DataFrame.to_pickle", call("pandas:DataFrame.to_pickle", frame, p.marker)
    yield "pandas:eval", call("pandas:eval", "f(c)", "pandas", "python", {"f": system, "c": shell})
    profile = call("functools:partial", at("cProfile:run"), text)
    yield "pandas:DataFrame.pipe", call("pandas:DataFrame.pipe", frame, profile)
    query = f"@f({shell!r}) == 0"
    yield (
        "pandas:DataFrame.query",
        with_keywords("pandas:DataFrame.query", frame, query, local_dict={"f": system}, engine="python"),
    )
    yield "pandas.util._decorators, a module of it", call("pandas.io.common:os.system", shell)


def of_sklearn(p: Payload) -> Named:
    shell, system = p.shell, at("os:system")
    transformer = call("sklearn.preprocessing._function_transformer:FunctionTransformer", system)
    yield "sklearn:FunctionTransformer", method(transformer, "transform", shell)
    yield (
        "sklearn.utils.parallel:_FuncWrapper",
        call(Build(call("sklearn.utils.parallel:_FuncWrapper", system), {"config": {}}), shell),
    )
    yield (
        "sklearn.pipeline:_transform_one",
        call(
            "sklearn.pipeline:_transform_one",
            transformer,
            shell,
            None,
            None,
            with_keywords("sklearn.utils:Bunch", transform={}),
        ),
    )
    yield "sklearn.utils._testing, a module of it", call("sklearn.utils._testing:os.system", shell)
    yield "sklearn.datasets._base:os.system", call("sklearn.datasets._base:os.system", shell)
    yield "sklearn.base:inspect.os.system", call("sklearn.base:inspect.os.system", shell)
    yield "sklearn.utils.validation:joblib.load", call("sklearn.utils.validation:joblib.load", call("io:BytesIO", p.pickle))


def of_joblib(p: Payload) -> Named:
    shell, system = p.shell, at("os:system")
    stream = call("io:BytesIO", p.pickle)
    yield "joblib:load", call("joblib:load", stream)
    yield "joblib.numpy_pickle:load", call("joblib.numpy_pickle:load", stream)
    yield "joblib.numpy_pickle:_unpickle", call("joblib.numpy_pickle:_unpickle", stream, True)
    yield "joblib.numpy_pickle:NumpyUnpickler", method(call("joblib.numpy_pickle:NumpyUnpickler", "x", stream, False), "load")
    yield (
        "joblib.parallel:BatchedCalls",
        call(
            call(
                "joblib.parallel:BatchedCalls", [(system, (shell,), {})], (call("joblib._parallel_backends:SequentialBackend"), 1)
            )
        ),
    )
    item = call("joblib.externals.loky.process_executor:_CallItem", 1, system, (shell,), {})
    yield "joblib loky _CallItem", call(item)
    yield "joblib loky _process_chunk", call("joblib.externals.loky.process_executor:_process_chunk", system, [(shell,)])
    yield "joblib loky wrapper", call(call("joblib.externals.loky.cloudpickle_wrapper:CallableObjectWrapper", system), shell)
    yield "joblib.memory, a module of it", call("joblib.memory:os.system", shell)
    yield "joblib.disk:memstr", call("joblib.disk:os.system", shell)
    yield "joblib:dump", call("joblib:dump", [1], p.marker)
    yield "joblib:Memory", call("joblib.memory:Memory", p.marker)
    yield "joblib's cloudpickle", method(call("joblib.externals.cloudpickle.cloudpickle:subimport", "os"), "system", shell)


def of_picklers(p: Payload) -> Named:
    """cloudpickle and dill make functions of code objects."""
    shell = p.shell
    code = call("marshal:loads", p.code)
    for name in ("cloudpickle.cloudpickle", "joblib.externals.cloudpickle.cloudpickle"):
        yield f"{name}:_make_function", call(call(f"{name}:_make_function", code, {}, "x", None, None))
        yield f"{name}:subimport, getattr", method(call(f"{name}:subimport", "posix"), "system", shell)
        made = call(call(f"{name}:_builtin_type", "FunctionType"), code, {})
        yield f"{name}:_builtin_type", call(made)
        names = {"evil": 1, "__builtins__": at("builtins:__dict__")}
        dynamic = call(f"{name}:dynamic_subimport", "x", {**names, "go": at("os:system")})
        yield f"{name}:dynamic_subimport", method(dynamic, "go", shell)
        class_of = call(
            f"{name}:_make_skeleton_class", at("builtins:type"), "X", (), {"__setstate__": at("os:system")}, None, None
        )
        yield f"{name}:_make_skeleton_class", Build(call(class_of), shell)
    yield "cloudpickle:loads", call("cloudpickle:loads", p.pickle)
    yield "cloudpickle:load", call("cloudpickle:load", call("io:BytesIO", p.pickle))


def of_dill(p: Payload) -> Named:
    shell = p.shell
    code = call("marshal:loads", p.code)
    yield "dill._dill:_create_function", call(call("dill._dill:_create_function", code, {}))
    yield "dill._dill:_import_module", method(call("dill._dill:_import_module", "os"), "system", shell)
    yield "dill._dill:_get_attr", call(call("dill._dill:_get_attr", module("os"), "system"), shell)
    yield (
        "dill._dill:_getattribute",
        call(call("operator:getitem", call("dill._dill:_getattribute", module("os"), "system"), 0), shell),
    )
    yield "dill._dill:_load_type", call(call(call("dill._dill:_load_type", "FunctionType"), code, {}))
    yield (
        "dill._dill:_create_type",
        Build(call(call("dill._dill:_create_type", at("builtins:type"), "X", (), {"__setstate__": at("os:system")})), shell),
    )
    yield "dill._dill:_eval_repr", call("dill._dill:_eval_repr", p.python)
    yield "dill:loads", call("dill:loads", p.pickle)
    yield "dill:load", call("dill:load", call("io:BytesIO", p.pickle))
    yield "dill.source, a module of it", call("dill.source:linecache.os.system", shell)
    yield (
        "dill._dill:_create_filehandle",
        call("dill._dill:_create_filehandle", p.marker, "w", 0, False, at("builtins:open"), False, 0, ""),
    )
    yield "dill._dill:__builtin__.exec", call("dill._dill:__builtin__.exec", p.python)


def of_torch(p: Payload) -> Named:
    text, shell, argv = p.python, p.shell, p.argv
    inner = p.pickle
    yield "torch:load", with_keywords("torch:load", call("io:BytesIO", inner), weights_only=False)
    yield "torch.serialization:load", with_keywords("torch.serialization:load", call("io:BytesIO", inner), weights_only=False)
    yield "torch.storage:_load_from_bytes", call("torch.storage:_load_from_bytes", inner)
    yield "torch.serialization:os.system", call("torch.serialization:os.system", shell)
    yield "torch.hub:os.system", call("torch.hub:os.system", shell)
    yield "torch._utils_internal:os.popen", call("torch._utils_internal:os.popen", shell)
    yield "torch:os.system", call("torch:os.system", shell)
    yield "torch.utils.collect_env:run", call("torch.utils.collect_env:run", shell)
    yield "torch.utils.collect_env:subprocess", call("torch.utils.collect_env:subprocess.getoutput", shell)
    yield (
        "torch.utils._config_module:ConfigModule.load_config",
        call("torch.utils._config_module:ConfigModule.load_config", Build(call("types:SimpleNamespace"), {}), inner),
    )
    yield (
        "torch.utils.bottleneck.__main__:run_cprofile",
        call("torch.utils.bottleneck.__main__:run_cprofile", call("builtins:compile", text, "x", "exec"), {}),
    )
    yield "torch.utils.bottleneck.__main__:run_autograd_prof", call("torch.utils.bottleneck.__main__:run_autograd_prof", text, {})
    yield "torch.jit.unsupported_tensor_ops:execWrapper", call("torch.jit.unsupported_tensor_ops:execWrapper", text, {}, {})
    yield (
        "torch.utils.data.datapipes.utils.decoder:basichandlers",
        call("torch.utils.data.datapipes.utils.decoder:basichandlers", "pickle", inner),
    )
    yield "torch.utils.data.datapipes.utils.decoder:Decoder", call("torch.utils.data.datapipes.utils.decoder:pickle.loads", inner)
    yield "torch.utils.cpp_extension:subprocess", call("torch.utils.cpp_extension:subprocess.call", argv)
    yield "torch._inductor.codecache:os.system", call("torch._inductor.codecache:os.system", shell)
    yield (
        "torch._inductor.runtime.compile_tasks",
        then(
            call("pathlib:Path.write_text", call("pathlib:PosixPath", f"{p.marker}.py"), text),
            call("torch._inductor.runtime.compile_tasks:_reload_python_module", "x", f"{p.marker}.py"),
        ),
    )
    shapes = call("torch.fx.experimental.symbolic_shapes:ShapeEnv")
    yield "torch.fx.experimental.symbolic_shapes", method(shapes, "evaluate_guards_expression", text, [])
    yield (
        "torch._dynamo.guards:GuardBuilder.get",
        call("torch._dynamo.guards:GuardBuilder.get", Build(call("types:SimpleNamespace"), {"scope": {}}), text),
    )
    yield "torch.fx.graph_module:_exec_with_source", call("torch.fx.graph_module:_exec_with_source", text, {})
    yield (
        "torch.fx.graph_module:_forward_from_src",
        call("torch.fx.graph_module:_forward_from_src", f"{text}\ndef forward(self): pass\n", {}),
    )
    yield (
        "torch.fx.graph_module:reduce_graph_module",
        call("torch.fx.graph_module:reduce_graph_module", {"_code": f"{text}\ndef forward(self): pass\n"}, ""),
    )
    yield "torch.package:os.system", call("torch.package.package_importer:os.system", shell)
    yield "torch.multiprocessing.reductions:os.system", call("torch.multiprocessing.reductions:os.system", shell)
    yield "torch.multiprocessing.spawn:os.system", call("torch.multiprocessing.spawn:os.system", shell)
    yield (
        "torch.nn.modules.module:functools.partial",
        call(call("torch.nn.modules.module:functools.partial", at("os:system"), shell)),
    )
    yield "torch.autograd:grad mode", call("torch.utils._contextlib:functools.reduce", at("builtins:eval"), [text, {}])
    yield "torch:save", call("torch:save", [1], p.marker)
    yield "torch:from_file", call("torch:from_file", p.marker, True, 4)
    yield "torch:UntypedStorage.from_file", call("torch:UntypedStorage.from_file", p.marker, True, 4)
    yield (
        "torch.utils.checkpoint:checkpoint",
        with_keywords("torch.utils.checkpoint:checkpoint", at("os:system"), shell, use_reentrant=False),
    )
    yield (
        "torch._tensor:_rebuild_from_type_v2",
        call("torch._tensor:_rebuild_from_type_v2", at("os:system"), at("builtins:object"), (shell,), None),
    )
    yield (
        "torch._utils:_rebuild_wrapper_subclass, a module of it",
        method(call("torch._utils:importlib.import_module", "os"), "system", shell),
    )
    module_of = call("torch.nn.modules.module:Module")
    yield "torch.nn:Module.apply", method(module_of, "apply", call("functools:partial", at("cProfile:run"), text))


def of_others(p: Payload) -> Named:
    text, shell = p.python, p.shell
    yield "sympy:sympify", call("sympy:sympify", text)
    yield "sympy.parsing.sympy_parser:parse_expr", call("sympy.parsing.sympy_parser:parse_expr", text)
    yield "yaml:unsafe_load", call("yaml:unsafe_load", f"!!python/object/apply:os.system [{shell!r}]")
    ssti = f"{{{{ cycler.__init__.__globals__.os.system({shell!r}) }}}}"
    yield "jinja2:Template", method(call("jinja2:Template", ssti), "render")
    yield "mako.template:Template", method(call("mako.template:Template", f"<% {text} %>"), "render")
    yield "werkzeug.utils:import_string", call(call("werkzeug.utils:import_string", "os:system"), shell)
    yield "six:exec_", call("six:exec_", text)
    yield "six:_import_module", method(call("six:_import_module", "os"), "system", shell)
    yield "attr._make", call("attr._make:linecache.os.system", shell)
    yield (
        "airflow._shared.module_loading:import_string",
        call(call("airflow._shared.module_loading:import_string", "os.system"), shell),
    )
    yield "click:edit", call("click:edit", "x", f"touch {p.marker}")
    yield "sqlalchemy.ext.serializer:loads", call("sqlalchemy.ext.serializer:loads", p.pickle)
    yield "networkx.lazy_imports:os.system", call("networkx.lazy_imports:os.system", shell)
    yield "scipy._lib, a module of it", call("scipy._lib._testutils:os.system", shell)
    yield "psutil:Popen", call("psutil:Popen", p.argv)
    yield "setuptools", call("setuptools.dist:os.system", shell)
    yield "cffi:FFI", call("cffi.ffiplatform:os.system", shell)


def later(p: Payload) -> Named:
    """Nothing happens on loading; the model that is loaded does it when it is used."""
    system = at("os:system")
    transformer = "sklearn.preprocessing._function_transformer:FunctionTransformer"
    yield "FunctionTransformer, held", Build(new(transformer), {"func": system, "inverse_func": None, "validate": False})
    yield (
        "Pipeline of a FunctionTransformer",
        Build(new("sklearn.pipeline:Pipeline"), {"steps": [("x", Build(new(transformer), {"func": at("builtins:eval")}))]}),
    )
    vectorizer = "sklearn.feature_extraction.text:CountVectorizer"
    yield "CountVectorizer with a tokenizer", Build(new(vectorizer), {"tokenizer": at("builtins:exec"), "analyzer": system})
    yield (
        "KNeighborsClassifier with a metric",
        Build(new("sklearn.neighbors._classification:KNeighborsClassifier"), {"metric": at("builtins:eval")}),
    )
    yield (
        "ColumnTransformer with a selector",
        Build(new("sklearn.compose._column_transformer:ColumnTransformer"), {"transformers": [("x", "drop", system)]}),
    )
    yield (
        "torch Module with hooks",
        Build(new("torch.nn.modules.linear:Linear"), {"_forward_hooks": {1: system}, "training": True}),
    )
    yield (
        "torch Module whose forward is another",
        Build(new("torch.nn.modules.container:Sequential"), {"forward": at("builtins:eval")}),
    )
    yield "XGBClassifier with an objective", Build(new("xgboost.sklearn:XGBClassifier"), {"objective": system})
    yield "defaultdict that waits", call("collections:defaultdict", call("functools:partial", system, p.shell))
    yield "map that waits", call("builtins:map", system, [p.shell])
    yield "partial that waits", call("functools:partial", system, p.shell)
    yield "class that waits", call("builtins:type", "Model", (), {"predict": system})
    yield "numpy.vectorize that waits", call("numpy:vectorize", system)


NEEDS = {
    "numpy": "numpy",
    "pandas": "pandas",
    "sklearn": "sklearn",
    "joblib": "joblib",
    "picklers": "cloudpickle joblib",
    "dill": "dill",
    "torch": "torch",
}

OTHER_VERSIONS = (
    "joblib.externals.cloudpickle",
    "joblib's cloudpickle",
    "torch.utils.bottleneck",
    "torch._dynamo.guards:GuardBuilder",
)


def samples(p: Payload) -> Iterator[Sample]:
    for family in (of_numpy, of_pandas, of_sklearn, of_joblib, of_picklers, of_dill, of_torch, of_others):
        library = family.__name__[3:]
        for name, thing in family(p):
            needs = NEEDS.get(library) or name.partition(":")[0].partition(".")[0].partition(",")[0]
            unproven = "in other versions of its library" if any(map(name.startswith, OTHER_VERSIONS)) else ""
            yield Sample(f"{library}: {name}", "model.pkl", pickled(thing), "pickle", needs, unproven)
    for name, thing in of_dill(p):
        yield Sample(f"dill.load: {name}", "session.pkl", pickled(thing, 5), "dill")
    for name, thing in later(p):
        yield Sample(f"later: {name}", "model.pkl", pickled(thing), "pickle", unproven=NO_FILE)
