"""Plain: what is text is no program and no document that fetches or runs anything, and what is a program is said to be one.

Text is data for whoever loads a model, with exceptions that a file's name tells: programs, templates, YAML that makes Python
objects, markup that runs scripts or reads other files, and protocol buffers written as text.
"""

from __future__ import annotations

import codecs
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.boosters import look_catboost, look_xgboost
from airflow_pipesec.scan.onnx import relative_fault
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = [
    "DOTTED",
    "is_executable",
    "is_other_text",
    "is_text",
    "look_catboost",
    "look_executable",
    "look_text",
    "look_xgboost",
    "name_of",
]

WINDOW: Final = 1 << 20
READ_WHOLE: Final = 64 << 20
SAMPLES: Final = 64
SAMPLE: Final = 1 << 16
LONGEST_YAML: Final = 8 << 20
LONGEST_TEMPLATE: Final = 1 << 20

_CONTROL: Final = re.compile(rb"[\x00-\x08\x0e-\x1f\x7f]")

_EXECUTABLES: Final = (
    (b"\x7fELF", "an ELF executable or library"),
    (b"\xce\xfa\xed\xfe", "a Mach-O executable or library"),
    (b"\xcf\xfa\xed\xfe", "a Mach-O executable or library"),
    (b"\xfe\xed\xfa\xce", "a Mach-O executable or library"),
    (b"\xfe\xed\xfa\xcf", "a Mach-O executable or library"),
    (b"\xca\xfe\xba\xbe", "a Mach-O executable of several machines, or a Java class"),
    (b"\xca\xfe\xba\xbf", "a Mach-O executable of several machines"),
    (b"\x00asm", "a WebAssembly module"),
    (b"dex\n", "a Dalvik executable"),
    (b"BC\xc0\xde", "LLVM bitcode"),
    (b"\xde\xc0\x17\x0b", "LLVM bitcode"),
    (b"!<arch>\n", "an archive of compiled objects"),
    (b"!<thin>\n", "an archive of compiled objects"),
    (b"\x1bLua", "a compiled Lua program"),
    (b"\x1bLJ", "a compiled Lua program"),
    (b"\x50\xed\x55\xba", "a CUDA program"),
    (b"L\x00\x00\x00\x01\x14\x02\x00", "a Windows shortcut"),
)
_SCRIPT: Final = re.compile(rb"(?:\xef\xbb\xbf)?#![ \t]*/")
_PYTHON_2: Final = b"\x03\xf3\r\n"
_PYTHON_3: Final = range(3000, 3900)  # of magic numbers, 3.0 to well beyond 3.14

_PROGRAMS: Final = {
    **dict.fromkeys(("py", "pyw", "pyi", "pyx", "ipy", "pyc", "pyo"), "a Python program"),
    **dict.fromkeys(("sh", "bash", "zsh", "ksh", "csh", "fish", "command"), "a shell script"),
    **dict.fromkeys(("ps1", "psm1", "psd1"), "a PowerShell program"),
    **dict.fromkeys(("bat", "cmd"), "a Windows batch file"),
    **dict.fromkeys(("js", "mjs", "cjs", "jsx", "ts", "tsx"), "a JavaScript program"),
    **dict.fromkeys(("vbs", "vbe", "wsf", "wsh", "hta"), "a Windows script"),
    **dict.fromkeys(("pl", "pm"), "a Perl program"),
    **dict.fromkeys(("rb",), "a Ruby program"),
    **dict.fromkeys(("php", "phtml", "phar"), "a PHP program"),
    **dict.fromkeys(("lua",), "a Lua program"),
    **dict.fromkeys(("jl",), "a Julia program"),
    **dict.fromkeys(("r",), "an R program"),
    **dict.fromkeys(("applescript", "scpt"), "an AppleScript program"),
    **dict.fromkeys(("c", "cc", "cpp", "cxx", "cu", "cuh", "java", "go", "rs"), "a program's source"),
    **dict.fromkeys(("desktop", "url"), "a shortcut"),
}
_TEMPLATES: Final = ("jinja", "jinja2", "j2", "chat_template")
# Readers of ONNX and TensorFlow take these for models, by their names.
_PROTOBUF_TEXTS: Final = ("pbtxt", "prototxt", "textproto", "onnxtxt", "onnxtext")

_YAML_TAGS: Final = frozenset(
    f"tag:yaml.org,2002:{name}"
    for name in ("binary", "bool", "float", "int", "map", "null", "omap", "pairs", "seq", "set", "str", "timestamp")
)
# Under which of its keys MLflow has names of files in the model's folder that it loads.
_MLFLOW_PATHS: Final = frozenset(
    {
        *("data", "model_data", "model_path", "pickled_model", "python_model", "saved_model_dir", "model_binary", "path"),
        *("relative_path", "model_binary_path", "tokenizer", "feature_extractor", "image_processor", "processor"),
    }
)
DOTTED: Final = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_MLFLOW_LOADERS: Final = re.compile(r"mlflow(\.[a-z_]+)+")

_YAML_NAMES: Final = ("yaml", "yml")

_MARKUP_START: Final = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:\?xml|!doctype|!entity|html|svg|pmml|script)\b", re.IGNORECASE)
_MARKUP_NAMES: Final = ("htm", "html", "xhtml", "svg", "xml", "pmml", "xsl", "xslt", "mml")
_LFS: Final = b"version https://git-lfs.github.com/spec/"
_PLAIN_DOCTYPE: Final = re.compile(rb"<!doctype\s+html\s*>", re.IGNORECASE)
_MARKUP: Final = re.compile(
    rb"<!\s*(?:entity|doctype\b[^>]{0,1000}>?)"
    rb"|<\s*(?:[\w.-]{1,50}:)?(?:script|iframe|object|embed|applet|foreignobject|meta[^>]{0,200}refresh)\b"
    rb"|\bon[a-z]{3,30}\s{0,20}=|javascript:|vbscript:|data:text/html|<\?xml-stylesheet|<xi:include|<\?php",
    re.IGNORECASE,
)
_OVERLAP: Final = 2048


def is_executable(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a program or of compiled code."""
    return bool(_executable(head))


def look_executable(part: Part) -> None:
    """Say which kind of program a file is."""
    part.saw("executable")
    part.unsafe(f"is {_executable(part.view.read_at(0, 4096)) or 'a program'}, where a model is expected")


def _executable(head: bytes) -> str:
    for magic, what in _EXECUTABLES:
        if head.startswith(magic):
            return what
    if head.startswith(b"MZ") and b"\0" in head[:128]:
        return "a Windows executable or library"
    if _SCRIPT.match(head):
        return "a script that names its interpreter"
    if head.startswith(_PYTHON_2):
        return "a compiled Python program"
    # A magic number with a line end in it, so that a transfer as text is noticed; and flags of which two bits are known.
    number, flags = int.from_bytes(head[:2], "little"), int.from_bytes(head[4:8], "little")
    if number in _PYTHON_3 and head[2:4] == b"\r\n" and len(head) >= 16 and (flags <= 3 or number < 3390):
        return "a compiled Python program"
    return ""


def is_text(view: View) -> bool:
    """Whether a view is UTF-8 without control characters; of one of more than 64 MiB the ends, and samples between them."""
    if view.size <= READ_WHOLE:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for data in _windows(view, 0):
                if _CONTROL.search(data):
                    return False
                decoder.decode(data)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
        return True
    step = (view.size - SAMPLE) // SAMPLES
    return all(_is_piece_of_text(view.read_at(place, SAMPLE)) for place in (*range(0, SAMPLES * step, step), view.size - SAMPLE))


def _is_piece_of_text(data: bytes) -> bool:
    start = next((index for index, byte in enumerate(data[:4]) if byte & 0xC0 != 0x80), 4)
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data[start:])
    except UnicodeDecodeError:
        return False
    return not _CONTROL.search(data)


def _windows(view: View, overlap: int) -> Iterator[bytes]:
    """Yield a view in pieces; each begins with the end of the last, of some bytes."""
    last, place = b"", 0
    while data := view.read_at(place, WINDOW):
        yield last + data if overlap else data
        place += len(data)
        last = data[-overlap:] if overlap else b""


def is_other_text(part: Part) -> bool:
    """Whether a file's name says that it is a text of a kind that is looked at, whatever its content may be besides."""
    name = name_of(part).lower()
    suffix = name.rpartition(".")[2]
    others = (*_TEMPLATES, *_PROTOBUF_TEXTS, *_YAML_NAMES, *_MARKUP_NAMES)
    return (suffix in _PROGRAMS and "." in name) or suffix in others or name == "mlmodel"


def look_text(part: Part) -> None:
    """Look at a text by what its name says it is for, and by what it begins with."""
    name = name_of(part).lower()
    suffix = name.rpartition(".")[2]
    if name.endswith("…"):
        raise Unscannable("has a name that is too long to tell what it is for")
    head = part.view.read_at(0, 512)
    if head.startswith(_LFS):
        raise Unscannable("is a pointer of Git LFS, and the file that it stands for is not here")
    if suffix in _PROGRAMS and "." in name:
        part.saw("program")
        part.unsafe(f"is {_PROGRAMS[suffix]}, where a model is expected")
    elif suffix in _PROTOBUF_TEXTS:
        part.saw("protobuf text")
        part.unscannable("is a protocol buffer that is written as text, which is not read here")
    elif suffix in _TEMPLATES:
        part.saw("template")
        _template(part)
    elif name == "mlmodel" or suffix in _YAML_NAMES:
        part.saw("yaml")
        _yaml(part, is_mlflow=name == "mlmodel")
    elif _MARKUP_START.match(head) or suffix in _MARKUP_NAMES:
        part.saw("markup")
        _markup(part)
    elif head.startswith((b"tree\nversion=v", b"tree\r\nversion=v")):
        part.saw("lightgbm")
    elif name.endswith((".json", ".ipynb")):
        from airflow_pipesec.scan.configs import look_json

        look_json(part)
    else:
        part.saw("text")


def name_of(part: Part) -> str:
    """Return what a part is called, without its folders."""
    if part.known.startswith("file:"):
        return part.known.removeprefix("file:").replace("\\", "/").rpartition("/")[2]
    return part.name.rpartition("/")[2]


def _template(part: Part) -> None:
    from airflow_pipesec.scan.templates import judge_template

    if part.size > LONGEST_TEMPLATE:
        raise Unscannable(f"is a template of more than {LONGEST_TEMPLATE:,} bytes")
    for why in judge_template(part.read(0, part.size).decode()):
        part.unsafe(f"is a template that {why}")


def _yaml(part: Part, *, is_mlflow: bool) -> None:
    """Follow the events of YAML, which makes nothing: a tag of no plain value is what makes Python objects of it."""
    import yaml

    if part.size > LONGEST_YAML:
        raise Unscannable(f"is YAML of more than {LONGEST_YAML:,} bytes")
    texts: list[str] = []
    try:
        for event in yaml.parse(part.read(0, part.size), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            tag = getattr(event, "tag", None)
            if tag not in (None, "!") and tag not in _YAML_TAGS:
                part.unsafe(f"has a value with the tag {named(tag)}, which makes an object of it")
            if isinstance(event, yaml.ScalarEvent) and event.value == "_target_":
                part.unsafe("names what is to be called (_target_)")
            texts.append(event.value if isinstance(event, yaml.ScalarEvent) else "")
            if is_mlflow and isinstance(event, yaml.AliasEvent):
                raise Unscannable("has a value that stands at another place, which MLflow does not write")
    except yaml.YAMLError:
        raise Unscannable("is no valid YAML") from None
    # Keys and values follow each other; what is a key elsewhere and no text has "" in its place.
    has_params = "params" in texts
    for key, value in pairwise(texts):
        if key == "target" and has_params and DOTTED.fullmatch(value):
            part.unsafe(f"names what is to be called: {named(value)} (target, params)")
        elif is_mlflow:
            _mlflow(part, key, value)


def _mlflow(part: Part, key: str, value: str) -> None:
    if key == "loader_module" and not _MLFLOW_LOADERS.fullmatch(value):
        part.unsafe(f"has its model loaded by the module {named(value)}, which is none of MLflow's own")
    elif key in _MLFLOW_PATHS and (fault := relative_fault(value.replace("\\", "/"))):
        part.unsafe(f"has its model loaded from a file whose name {fault}: {named(value)}")
    elif key in ("code", "model_code_path") and value not in ("", "null", "~"):
        part.unsafe(f"has the code in {named(value)} run when its model is loaded")


def _markup(part: Part) -> None:
    told: set[str] = set()
    for data in _windows(part.view, _OVERLAP):
        for match in _MARKUP.finditer(data):
            found = match.group().lower()
            if found.startswith(b"<!"):
                if _PLAIN_DOCTYPE.fullmatch(found) or "doctype" in told:
                    continue
                told.add("doctype")
                part.unscannable("has a document type or entities of its own, by which other files are read")
            elif "script" not in told:
                told.add("script")
                part.unsafe("is a document with scripts, or that loads others")
