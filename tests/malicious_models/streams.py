"""Pickles whose ends, frames and neighbours are not what they should be; the loader runs them all the same."""

from __future__ import annotations

import bz2
import gzip
import lzma
import pickle
import struct
import zlib
from collections.abc import Iterator

from tests.malicious_models.assembling import call, framed, new, opcodes_of, pickled
from tests.malicious_models.sample import Payload, Sample

GOOD = pickle.dumps({"weights": [1.0, 2.0]}, 4)


def frame(length: int) -> bytes:
    return b"\x95" + struct.pack("<Q", length)


def broken(p: Payload) -> Iterator[tuple[str, bytes, str]]:
    """Pickles that fail, after they have run."""
    body = opcodes_of(p.system)
    evil = p.pickle
    yield "truncated after the call", evil[:-1], "pickle"
    yield "STOP of an empty stack", b"\x80\x04" + body + b"0.", "pickle"
    yield "unknown opcode after the call", evil[:-1] + b"\xff.", "pickle"
    yield "opcode that lacks its argument after the call", evil[:-1] + b"B\xff\xff", "pickle"
    yield "stack underflow after the call", evil[:-1] + b"0000.", "pickle"
    yield "name that is not there after the call", evil[:-1] + b"cno_such_module\nx\n.", "pickle"
    yield "BINPERSID after the call", evil[:-1] + b"Q.", "pickle"
    yield "GET of an empty slot after the call", evil[:-1] + b"h\xff.", "pickle"
    yield "no PROTO", evil[2:], "pickle"
    yield "PROTO in the middle", b"N0" + b"\x80\x02" + b"N0" + evil, "pickle"
    yield "PROTO of another protocol", b"\x80\x00" + evil[2:], "pickle"
    yield "PROTO that is unknown, after the call", body + b"\x80\x09.", "pickle"
    yield "two PROTO", b"\x80\x02\x80\x05" + evil[2:], "pickle"
    yield "junk after STOP", evil + b"\x00" * 100, "pickle"
    yield "text after STOP", evil + b"not a pickle at all", "pickle"
    yield "NEXT_BUFFER after the call", evil[:-1] + b"\x97.", "pickle"
    yield "READONLY_BUFFER after the call", evil[:-1] + b"\x98.", "pickle"


def followed(p: Payload) -> Iterator[tuple[str, bytes, str]]:
    """Several pickles in one file, as whoever calls load again reads them."""
    evil = p.pickle
    yield "second pickle", GOOD + evil, "pickle-all"
    yield "second pickle, protocol 0", GOOD + pickled(p.system, 0), "pickle-all"
    yield "tenth pickle", GOOD * 9 + evil, "pickle-all"
    yield "hundredth pickle", pickle.dumps(1) * 99 + evil, "pickle-all"
    yield "pickle before a good one", evil + GOOD, "pickle-all"
    yield "pickle after an empty one", b"N." + evil, "pickle-all"


def frames(p: Payload) -> Iterator[tuple[str, bytes, str]]:
    """Frames that lie."""
    body = opcodes_of(p.system) + b"."
    yield "in a frame", framed(body), "pickle"
    yield "in a frame, by the pure reader", framed(body), "pickle-python"
    yield "frame too short", b"\x80\x04" + frame(3) + body, "pickle"
    yield "frame of nothing", b"\x80\x04" + frame(0) + body, "pickle"
    yield "frame in a frame", b"\x80\x04" + frame(len(body) + 9) + frame(len(body)) + body, "pickle"
    yield "frames that overlap", b"\x80\x04" + frame(10) + frame(len(body)) + body, "pickle"
    yield "two frames", b"\x80\x04" + frame(2) + b"N0" + frame(len(body)) + body, "pickle-python"
    yield "frame in protocol 2", b"\x80\x02" + frame(len(body)) + body, "pickle"
    yield "frame that ends after STOP", b"\x80\x04" + frame(len(body) + 4) + body + b"NNNN", "pickle"
    yield "frame before PROTO", frame(len(body) + 2) + b"\x80\x04" + body, "pickle"
    yield "call between frames", b"\x80\x04" + frame(2) + b"N0" + body[:-1] + b"0" + frame(2) + b"N.", "pickle"
    # CPython's issue 154848: the C reader reads ahead by a frame, and an argument that goes beyond it is read from another place.
    hidden = b"c" + b"os\nsystem\nV" + p.shell.encode() + b"\n\x85R"
    yield "argument beyond its frame", _beyond(hidden), "pickle"
    yield (
        "argument beyond its frame, names by STACK_GLOBAL",
        _beyond(b"Vos\nVsystem\n\x93V" + p.shell.encode() + b"\n\x85R"),
        "pickle",
    )


def _beyond(hidden: bytes) -> bytes:
    filler = b"NV" + b"a" * (8192 * 16 - 17) + b"\n0("
    body = (hidden + b"(").ljust(256 + 5, b"N") + b"1"
    return b"\x80\x05" + filler + frame(2) + b"B\x07\x01\x00\x00" + b"\x00\x00" + body + b"."


def disguised(p: Payload) -> Iterator[tuple[str, str, bytes, str]]:
    """Pickles by another name, and pickles that look like something else as well."""
    evil, text = p.pickle, pickled(p.system, 0)
    for name in ("weights.txt", "config.json", "data.csv", "model.onnx", "model.safetensors", "README.md", "model", "model.PNG"):
        yield f"called {name}", name, evil, "pickle"
    for name in ("model.joblib", "model.pt", "model.h5", "vocab.txt", "model.gguf", "model.zip", "model.npy", "model.dat"):
        yield f"protocol 0, called {name}", name, text, "pickle"
    tar = bytearray(10240)
    start = text[:-1] + b"0N."
    if len(start) <= 100:
        tar[: len(start)] = start
        tar[257:263] = b"ustar\x00"
        yield "name of a tar member", "model.tar", bytes(tar), "pickle"
    json = b'V{"a": 1}\n0' + text
    yield "text of JSON first", "config.json", json, "pickle"
    yield "pickle that is ASCII through and through", "notes.txt", text, "pickle"
    yield "pickle that begins with white space", "notes.txt", b"I 1\n0" + text, "pickle"
    header = b'{"__metadata__":{}}'
    yield "safetensors header after", "model.safetensors", evil + struct.pack("<Q", len(header)) + header, "pickle"
    yield "ZIP after the pickle", "model.zip", evil + _empty_zip(), "pickle"
    yield "GGUF after the pickle", "model.gguf", evil + b"GGUF" + struct.pack("<IQQ", 3, 0, 0), "pickle"
    yield "PDF after the pickle", "model.pdf", evil + b"%PDF-1.7\n", "pickle"
    yield "ELF as a constant", "model.pkl", pickled((b"\x7fELF" + bytes(60), p.system)), "pickle"


def _empty_zip() -> bytes:
    return b"PK\x05\x06" + bytes(18)


def compressed(p: Payload) -> Iterator[tuple[str, str, bytes, str, str]]:
    """Streams that pandas and joblib decompress by themselves."""
    evil = p.pickle
    lzma_old = lzma.compress(evil, format=lzma.FORMAT_ALONE)
    for name, file, data in (
        ("zlib", "model.pkl.z", zlib.compress(evil)),
        ("zlib, level 0", "model.z", zlib.compress(evil, 0)),
        ("gzip", "model.pkl.gz", gzip.compress(evil, mtime=0)),
        ("bz2", "model.pkl.bz2", bz2.compress(evil)),
        ("xz", "model.pkl.xz", lzma.compress(evil)),
        ("lzma", "model.pkl.lzma", lzma_old),
    ):
        yield f"joblib, {name}", file, data, "joblib", ""
    halves = gzip.compress(evil[:9], mtime=0) + gzip.compress(evil[9:], mtime=0)
    yield "pandas, gzip of two members", "model.pkl.gz", halves, "pandas", ""
    yield "joblib, bz2 of two streams", "model.pkl.bz2", bz2.compress(evil[:9]) + bz2.compress(evil[9:]), "joblib", ""
    yield "joblib, xz of two streams", "model.xz", lzma.compress(evil[:9]) + lzma.compress(evil[9:]), "joblib", ""
    lz4 = b"\x04\x22\x4d\x18\x60\x40\x82" + struct.pack("<I", len(evil) | 1 << 31) + evil + bytes(4)
    yield "joblib, lz4", "model.pkl.lz4", lz4, "joblib", "lz4"
    zfile = b"ZF" + hex(len(evil)).ljust(19).encode() + zlib.compress(evil)
    yield "joblib, ZFile of long ago", "model.pkl", zfile, "joblib", ""
    yield "pandas, gzip", "model.pkl.gz", gzip.compress(evil, mtime=0), "pandas", ""
    yield "pandas, bz2", "model.pkl.bz2", bz2.compress(evil), "pandas", ""
    yield "pandas, xz", "model.pkl.xz", lzma.compress(evil), "pandas", ""
    yield "gzip, wrong checksum at its end", "model.pkl.gz", gzip.compress(evil, mtime=0)[:-8] + bytes(8), "pandas", ""
    yield "zlib, truncated at its end", "model.z", zlib.compress(evil)[:-4], "joblib", ""
    yield "gzip with a name and a comment", "model.pkl.gz", _gzip_with_name(evil), "pandas", ""
    yield "gzip of gzip", "model.pkl.gz.gz", gzip.compress(gzip.compress(evil, mtime=0), mtime=0), "none", ""


def _gzip_with_name(data: bytes) -> bytes:
    plain = gzip.compress(data, mtime=0)
    return plain[:3] + b"\x18" + plain[4:10] + b"a.txt\x00comment\x00" + plain[10:]


def claims() -> Iterator[tuple[str, bytes]]:
    """Pickles that claim too much, so that the loader takes all memory or never ends."""
    yield "BINBYTES8 of an exbibyte", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"x."
    yield "BINUNICODE8 of an exbibyte", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x."
    yield "BYTEARRAY8 of an exbibyte", b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x."
    yield "FRAME of an exbibyte", b"\x80\x04" + frame(1 << 60) + b"N."
    yield "LONG4 below zero", b"\x80\x04\x8b\xff\xff\xff\xffN."
    yield "LONG_BINPUT far away", b"\x80\x04Nr\xff\xff\xff\xff."
    yield "PUT far away", b"Np99999999999\n."
    doubling = b"".join(b"h%ch%c\x86q%c0" % (n, n, n + 1) for n in range(60))
    yield "key whose hash takes for ever", b"\x80\x04)q\x000" + doubling + b"}h<Ns."
    yield "set of what has such a hash", b"\x80\x04)q\x000" + doubling + b"(h<\x91."
    deep = b"N" + b"\x85" * 200_000
    yield "key whose hash overflows the stack", b"\x80\x04}" + deep + b"Ns."
    yield "set of what has such a hash, too deep", b"\x80\x04\x8f(" + deep + b"\x90."
    yield "fraction of a number without end", pickled(call("fractions:Fraction", "1e99999999"))
    yield "text that is multiplied", pickled(call("operator:mul", "x", 10**12))
    yield "array without end", pickled(call("numpy:zeros", 1 << 60))
    yield "bytes without end", pickled(call("builtins:bytearray", 1 << 60))
    yield "range that is listed", pickled(call("builtins:list", call("builtins:range", 1 << 60)))
    yield "itertools.repeat without end", pickled(call("builtins:list", new("itertools:repeat", 0)))
    yield "power of a power", pickled(call("operator:pow", 10**9, 10**9))


def samples(p: Payload) -> Iterator[Sample]:
    for family in (broken, followed, frames):
        for name, data, loader in family(p):
            yield Sample(f"{family.__name__}: {name}", "model.pkl", data, loader, sure=name != "pickle after an empty one")
    for name, file, data, loader in disguised(p):
        yield Sample(f"disguised: {name}", file, data, loader)
    for name, file, data, loader, needs in compressed(p):
        sure = "checksum" not in name and "truncated" not in name
        yield Sample(f"compressed: {name}", file, data, loader, needs, sure=sure)
    for name, data in claims():
        yield Sample(
            f"claims: {name}", "model.pkl", data, "pickle", unproven="takes memory or time, and leaves no file", sure=False
        )
