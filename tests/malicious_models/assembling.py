"""Pickles are put together by hand: an expression such as `call("os:system", "true")` becomes opcodes of a given protocol."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple


class Global(NamedTuple):
    """A name, as GLOBAL or STACK_GLOBAL finds it."""

    module: str
    name: str


class Call(NamedTuple):
    """REDUCE."""

    function: Any
    arguments: tuple[Any, ...]


class New(NamedTuple):
    """NEWOBJ, or NEWOBJ_EX where there are arguments by keyword."""

    cls: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any] | None = None


class Build(NamedTuple):
    """BUILD."""

    instance: Any
    state: Any


class Put(NamedTuple):
    """SETITEM."""

    mapping: Any
    key: Any
    value: Any


class Then(NamedTuple):
    """One after the other; the last is what remains."""

    steps: tuple[Any, ...]


class Raw(NamedTuple):
    """Opcodes as they are, that leave one object."""

    opcodes: bytes


def at(name: str) -> Global:
    module, _, rest = name.partition(":")
    return Global(module, rest)


def call(function: Any, *arguments: Any) -> Call:
    return Call(at(function) if isinstance(function, str) else function, arguments)


def attribute(thing: Any, name: str) -> Call:
    return call("builtins:getattr", thing, name)


def method(thing: Any, name: str, *arguments: Any) -> Call:
    return Call(attribute(thing, name), arguments)


def new(cls: str, *arguments: Any, **keywords: Any) -> New:
    return New(at(cls), arguments, keywords or None)


def then(*steps: Any) -> Then:
    return Then(steps)


def module(name: str) -> Call:
    return call("importlib:import_module", name)


def with_keywords(function: str, *arguments: Any, **keywords: Any) -> Call:
    return Call(New(at("functools:partial"), (at(function), *arguments), keywords), ())


def text_of(text: str, protocol: int) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    if protocol == 0:
        return b"V" + text.encode("raw-unicode-escape").replace(b"\\", b"\\u005c").replace(b"\n", b"\\u000a") + b"\n"
    if protocol >= 4 and len(data) < 256:
        return b"\x8c" + bytes([len(data)]) + data
    return b"X" + struct.pack("<I", len(data)) + data


def global_of(name: Global, protocol: int) -> bytes:
    if protocol >= 4:
        return text_of(name.module, protocol) + text_of(name.name, protocol) + b"\x93"
    return b"c" + f"{name.module}\n{name.name}\n".encode()


def opcodes_of(thing: Any, protocol: int = 4, memo: dict[int, int] | None = None) -> bytes:
    """Return the opcodes that build a thing. What occurs twice, the same object, is built once."""
    memo = {} if memo is None else memo
    if id(thing) in memo:
        return b"j" + struct.pack("<I", memo[id(thing)])

    def of(part: Any) -> bytes:
        return opcodes_of(part, protocol, memo)

    def tupled(parts: tuple[Any, ...]) -> bytes:
        if not parts and protocol:
            return b")"
        return b"(" + b"".join(map(of, parts)) + b"t"

    match thing:
        case Raw():
            return thing.opcodes
        case Global():
            return global_of(thing, protocol)
        case Then():
            return b"0".join(map(of, thing.steps))
        case Call():
            made = of(thing.function) + tupled(thing.arguments) + b"R"
        case New():
            made = of(thing.cls) + tupled(thing.arguments)
            made += b"\x81" if thing.keywords is None else of(thing.keywords) + b"\x92"
        case Build():
            made = of(thing.instance) + of(thing.state) + b"b"
        case Put():
            made = of(thing.mapping) + of(thing.key) + of(thing.value) + b"s"
        case _:
            return _plain(thing, protocol, of, tupled)
    memo[id(thing)] = len(memo)
    return made + b"r" + struct.pack("<I", memo[id(thing)])


def _plain(thing: Any, protocol: int, of: Any, tupled: Any) -> bytes:
    match thing:
        case None:
            return b"N"
        case bool():
            return (b"\x88" if thing else b"\x89") if protocol >= 2 else b"I01\n" if thing else b"I00\n"
        case int() if -(1 << 31) <= thing < 1 << 31 and protocol:
            return b"J" + struct.pack("<i", thing)
        case int():
            return f"L{thing}L\n".encode()
        case float():
            return b"G" + struct.pack(">d", thing)
        case str():
            return text_of(thing, protocol)
        case bytes() if protocol >= 3:
            return b"B" + struct.pack("<I", len(thing)) + thing
        case bytes():
            return of(call("_codecs:encode", thing.decode("latin-1"), "latin-1"))
        case tuple():
            return tupled(thing)
        case list():
            return b"(" + b"".join(map(of, thing)) + b"l"
        case dict():
            return b"(" + b"".join(of(key) + of(value) for key, value in thing.items()) + b"d"
    raise TypeError(type(thing))


def pickled(thing: Any, protocol: int = 4) -> bytes:
    """Return a whole pickle, without frames."""
    start = b"\x80" + bytes([protocol]) if protocol >= 2 else b""
    return start + opcodes_of(thing, protocol) + b"."


def framed(body: bytes, protocol: int = 4) -> bytes:
    """Return a pickle whose opcodes, the last one included, are in one frame."""
    return b"\x80" + bytes([protocol]) + b"\x95" + struct.pack("<Q", len(body)) + body
