"""Sniff: a part is what its bytes say, whatever it is called; and where a loader could read it as two things, it is both.

What could be a pickle as well is followed as one too: ``pickle.load`` executes what it comes upon before it finds that the rest
is none.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from airflow_pipesec.scan.scanner import Unscannable

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["HEAD", "STREAMS", "form_of", "look"]

HEAD = 4096
HDF5 = b"\x89HDF\r\n\x1a\n"

# Each form's module in this package, and the function in it that looks at a part.
FORMS: dict[str, tuple[str, str]] = {
    "pickle": ("pickles", "look_pickle"),
    "npy": ("arrays", "look_npy"),
    "zip": ("zips", "look_zip"),
    "tar": ("tars", "look_tar"),
    "7z": ("sevenzip", "look_7z"),
    "gzip": ("streams", "look_stream"),
    "zlib": ("streams", "look_stream"),
    "bzip2": ("streams", "look_stream"),
    "xz": ("streams", "look_stream"),
    "lzma": ("streams", "look_stream"),
    "lz4": ("streams", "look_stream"),
    "zfile": ("streams", "look_stream"),
    "hdf5": ("hdf5", "look_hdf5"),
    "gguf": ("gguf", "look_gguf"),
    "safetensors": ("safetensors", "look_safetensors"),
    "json": ("configs", "look_json"),
    "onnx": ("onnx", "look_onnx"),
    "savedmodel": ("savedmodel", "look_savedmodel"),
    "executable": ("plain", "look_executable"),
    "xgboost": ("plain", "look_xgboost"),
    "catboost": ("plain", "look_catboost"),
    "text": ("plain", "look_text"),
    "picture": ("beside", "look_picture"),
    "sentencepiece": ("beside", "look_sentencepiece"),
}

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"PK\x07\x08", "zip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"),
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x93NUMPY", "npy"),
    (HDF5, "hdf5"),
    (b"GGUF", "gguf"),
    (b"CBM1", "catboost"),
    (b"binf", "xgboost"),
    (b"{L\x00\x00\x00\x00\x00\x00\x00\x07learner", "xgboost"),
    (b"ZF", "zfile"),
)
STREAMS = frozenset(form for form, (module, _) in FORMS.items() if module == "streams")
# Readers of protocol buffers pass over what they do not know, and would find their model in almost any file: they get what is
# called so by its name.
_BY_NAME = {"onnx": "onnx", "pb": "savedmodel"}
_UNKNOWN_TO_US = (
    (b"\x28\xb5\x2f\xfd", "Zstandard"),
    (b"Rar!\x1a\x07", "RAR"),
    (b"MSCF", "cabinet"),
    (b"xar!", "xar"),
)


def look(part: Part) -> None:
    """Look at a part as what its bytes say it is, and as whatever else a loader could take it for."""
    if not part.size:
        raise Unscannable("is empty")
    head = part.view.read_at(0, HEAD)
    form = form_of(part.view, head)
    _other_readings(part, head, form)
    if part.companion:
        _look_companion(part)
    elif not form:
        what = next(
            (f"is a {name} archive, which is not read here" for magic, name in _UNKNOWN_TO_US if head.startswith(magic)), ""
        )
        part.scan.unknown += not what
        raise Unscannable(what or "is of no format that is known here")
    if form:
        _function(form)(part)


def _look_companion(part: Part) -> None:
    """Look at a part as what it is to those beside it, whatever its own bytes say it is besides."""
    from airflow_pipesec.scan.savedmodel_files import COMPANIONS

    if part.companion in COMPANIONS:
        COMPANIONS[part.companion](part)
    else:
        part.saw(part.companion)


def _function(form: str) -> Callable[[Part], None]:
    module, name = FORMS[form]
    found: Callable[[Part], None] = getattr(import_module(f"airflow_pipesec.scan.{module}"), name)
    return found


def form_of(view: View, head: bytes) -> str:
    """Return the format that bytes are of, by what they are; ``""`` for none that is known."""
    for magic, form in _MAGIC:
        if head.startswith(magic):
            return form
    from airflow_pipesec.scan import beside, onnx, pickles, plain, safetensors, savedmodel, streams, tars

    if head[:1] == b"\x80" and pickles.is_pickle(view):
        return "pickle"
    if plain.is_executable(head):
        return "executable"
    if safetensors.is_safetensors(view, head):
        return "safetensors"
    if tars.is_tar(head):
        return "tar"
    if onnx.is_onnx(view):
        return "onnx"
    if savedmodel.is_savedmodel(view):
        return "savedmodel"
    if pickles.is_pickle(view):
        return "pickle"
    if beside.is_picture(head):
        return "picture"
    if plain.is_text(view):
        return "json" if _first(view) in (b"{", b"[") else "text"
    if beside.is_sentencepiece(view):
        return "sentencepiece"
    # A compressed stream of these has hardly a magic number: whether they are one is found out by decompressing a little.
    return streams.bare_stream(head)


def _first(view: View) -> bytes:
    """Return the first byte of a text that readers of JSON do not pass over."""
    place = 0
    while piece := view.read_at(place, 1 << 20):
        if found := piece.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]:
            return found
        place += len(piece)
    return b""


def _other_readings(part: Part, head: bytes, form: str) -> None:
    """Tell of what a part is besides the format that it starts with."""
    from airflow_pipesec.scan import pickles, plain, streams, tars, zips

    if form != "pickle":
        pickles.shadow(part)
    if form and form not in STREAMS and (stream := streams.bare_stream(head)):
        part.unscannable(f"is {form} for some readers, and a compressed stream ({stream}) for others")
    wanted = _BY_NAME.get(plain.name_of(part).lower().rpartition(".")[2])
    if form and wanted not in (None, form) and not part.companion:
        part.unscannable(f"is called as a model of the format {wanted} is, and is {form}")
    # A program may be a pickle as well, of texts alone.
    if form not in ("text", "json") and plain.is_other_text(part) and plain.is_text(part.view):
        part.look(plain.look_text)
    # torch.load tries whatever is no ZIP archive as a tar first.
    if form != "tar" and tars.is_tar(head):
        part.unscannable("is a tar archive for some readers, and something else for others")
    # What a tar ends with may be a member that is a ZIP archive: look_tar sees to it.
    if form not in ("zip", "tar") and zips.ends_as_zip(part.view):
        part.unscannable("is a ZIP archive for readers that look at its end, and something else for others")
    if form != "hdf5":
        place = 512
        while place < part.size:
            if part.view.read_at(place, 8) == HDF5:
                part.unscannable("is an HDF5 file for readers that look further on, and something else for others", place)
            place *= 2
