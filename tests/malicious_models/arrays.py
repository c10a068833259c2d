"""Arrays of numpy that hold pickles, files of joblib whose arrays are opcodes, and headers that lie."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator

from tests.malicious_models.assembling import Build, Raw, at, call, new, opcodes_of, pickled, then
from tests.malicious_models.sample import Payload, Sample


def npy(header: str, body: bytes, version: tuple[int, int] = (1, 0)) -> bytes:
    size = 2 if version == (1, 0) else 4
    text = header.encode()
    text += b" " * (-(len(text) + 9 + size) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if size == 2 else "<I", len(text)) + text + body


def described(descr: str, shape: str = "(1,)") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return made.getvalue()


def numpy_files(p: Payload) -> Iterator[tuple[str, str, bytes]]:
    evil = p.pickle
    objects = npy(described("'|O'"), evil)
    good = npy(described("'<f8'"), bytes(8))
    yield "object array", "model.npy", objects
    yield "object array, version 2", "model.npy", npy(described("'|O'"), evil, (2, 0))
    yield "object array, version 3", "model.npy", npy(described("'|O'"), evil, (3, 0))
    yield "object array without elements", "model.npy", npy(described("'|O'", "(0,)"), evil)
    yield "object array without dimensions", "model.npy", npy(described("'|O'", "()"), evil)
    yield "descr O", "model.npy", npy(described("'O'"), evil)
    yield "descr O8", "model.npy", npy(described("'O8'"), evil)
    yield "descr object", "model.npy", npy(described("'object'"), evil)
    yield "field that is an object", "model.npy", npy(described("[('a', '<i4'), ('b', '|O')]"), evil)
    yield "field in a field that is an object", "model.npy", npy(described("[('a', [('b', '|O')])]"), evil)
    yield "subarray of objects", "model.npy", npy(described("[('a', '|O', (2,))]"), evil)
    yield "keys in another order", "model.npy", npy("{'shape': (1,), 'fortran_order': False, 'descr': '|O'}", evil)
    yield "header with double quotes", "model.npy", npy('{"descr": "|O", "fortran_order": False, "shape": (1,)}', evil)
    yield "header with an escape", "model.npy", npy("{'descr': '\\x7cO', 'fortran_order': False, 'shape': (1,)}", evil)
    yield "header with texts side by side", "model.npy", npy("{'descr': '|' 'O', 'fortran_order': False, 'shape': (1,)}", evil)
    yield "key given twice", "model.npy", npy("{'descr': '<f8', 'descr': '|O', 'fortran_order': False, 'shape': (1,)}", evil)
    yield "pickle called npy", "model.npy", evil
    yield "pickle called npz", "model.npz", evil
    yield "npz", "model.npz", zipped({"a.npy": objects})
    yield "npz, deflated", "model.npz", zipped({"a.npy": objects}, zipfile.ZIP_DEFLATED)
    yield "npz, the last of many", "model.npz", zipped({**{f"{each}.npy": good for each in "abcdefgh"}, "z.npy": objects})
    yield "npz, a member without .npy", "model.npz", zipped({"a": objects})
    yield "npz in a folder", "model.npz", zipped({"x/y/a.npy": objects})


def _array(body: bytes, dtype: str = "u1", shape: tuple[int, ...] | None = None) -> Raw:
    """Return opcodes of joblib's wrapper of an array, with the array's bytes after it."""
    state = (3, "|", None, None, None, -1, -1, 63 if dtype == "O8" else 0)
    kind = Build(call("numpy:dtype", dtype, False, True), state)
    wrapper = {
        "subclass": at("numpy:ndarray"),
        "shape": (len(body),) if shape is None else shape,
        "order": "C",
        "dtype": kind,
        "allow_mmap": False,
    }
    # The bytes follow BUILD at once: joblib reads them when it has executed that.
    return Raw(opcodes_of(Build(new("joblib.numpy_pickle:NumpyArrayWrapper"), wrapper))[:-5] + body)


def joblib_files(p: Payload) -> Iterator[tuple[str, str, bytes, str]]:
    evil, body = p.pickle, opcodes_of(p.system)
    yield "plain pickle", "model.joblib", evil, "joblib"
    yield "called pkl", "model.pkl", evil, "joblib"
    yield "array that is opcodes, for pickle.load", "model.joblib", b"\x80\x04" + _array(body + b".").opcodes + b".", "pickle"
    yield "payload after an array", "model.joblib", b"\x80\x04" + _array(bytes(8)).opcodes + b"0" + body + b".", "joblib"
    yield "payload before an array", "model.joblib", b"\x80\x04" + body + b"0" + _array(bytes(8)).opcodes + b".", "joblib"
    yield "array of objects", "model.joblib", b"\x80\x04" + _array(evil, "O8", (1,)).opcodes + b".", "joblib"
    yield (
        "array of objects, second",
        "model.joblib",
        b"\x80\x04" + _array(b"ab").opcodes + b"0" + _array(evil, "O8", (1,)).opcodes + b".",
        "joblib",
    )
    yield "array of opcodes, shape too small", "model.joblib", b"\x80\x04" + _array(body + b".", shape=(0,)).opcodes, "joblib"
    opcodes = _array(b"NNNN" + body + b".", shape=(4,)).opcodes
    yield "array that ends early", "model.joblib", b"\x80\x04" + opcodes, "joblib"
    subclass = {"subclass": at("os:system"), "shape": (1,), "order": "C", "allow_mmap": False}
    kind = Build(call("numpy:dtype", "u1", False, True), (3, "|", None, None, None, -1, -1, 0))
    forged = Build(new("joblib.numpy_pickle:NumpyArrayWrapper"), {**subclass, "dtype": kind})
    yield (
        "wrapper whose subclass is a function",
        "model.joblib",
        b"\x80\x04" + opcodes_of(then(p.system, forged)) + b"x.",
        "joblib",
    )
    old = Build(
        new("joblib.numpy_pickle_compat:NDArrayWrapper"), {"filename": "../../etc/passwd", "subclass": at("numpy:ndarray")}
    )
    yield "wrapper of long ago that names a file", "model.joblib", pickled(then(p.system, old)), "joblib"
    zfile = {"filename": "../x", "state": (1, "|", (1,), b"x"), "init_args": (p.system, (0,), b"b")}
    yield (
        "wrapper of long ago, of ZFile",
        "model.joblib",
        pickled(Build(new("joblib.numpy_pickle_compat:ZNDArrayWrapper"), zfile)),
        "joblib",
    )
    yield (
        "zlib of an array of objects",
        "model.joblib.z",
        zlib.compress(b"\x80\x04" + _array(evil, "O8", (1,)).opcodes + b"."),
        "joblib",
    )
    arrays = b"\x80\x04" + _array(bytes(1000)).opcodes + b"0" + body + b"."
    yield "gzip of a payload after an array", "model.joblib.gz", gzip.compress(arrays, mtime=0), "joblib"


def lies() -> Iterator[tuple[str, str, bytes, str]]:
    yield "npy of an exbibyte", "model.npy", npy(described("'|u1'", "(1152921504606846976,)"), bytes(8)), "numpy"
    yield "npy of a negative size", "model.npy", npy(described("'<f8'", "(-1,)"), bytes(8)), "numpy"
    yield (
        "npy whose header is a call",
        "model.npy",
        npy("{'descr': exit(), 'fortran_order': False, 'shape': (1,)}", bytes(8)),
        "numpy",
    )
    yield "npy whose header is deep", "model.npy", npy("(" * 9000, bytes(8)), "numpy"
    yield "npy of version 9", "model.npy", npy(described("'<f8'"), bytes(8), (9, 0)), "numpy"
    yield "npy with more than it says", "model.npy", npy(described("'<f8'"), bytes(800)), "numpy"


def samples(p: Payload) -> Iterator[Sample]:
    for name, file, data in numpy_files(p):
        yield Sample(f"numpy: {name}", file, data, "numpy", sure=name != "descr object")
    for name, file, data, loader in joblib_files(p):
        yield Sample(f"joblib: {name}", file, data, loader, "joblib numpy")
    for name, file, data, loader in lies():
        yield Sample(f"numpy, lies: {name}", file, data, loader, unproven="claims what is not so, and runs nothing", sure=False)
