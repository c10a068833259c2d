"""ONNX: every operator of a model is on the allow-list or defined in the model, and every file it reads lies beside it.

onnx.proto of ONNX 1.23 (IR version 14) is the specification. The operators of the ONNX standard compute and do nothing else; what
an operator of another domain does is up to the library that registers it, so that those are listed one by one. Tensors may lie in
other files, which readers of several versions followed out of the model's folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.protobuf import LENGTH, Field, Wire, message
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_pipesec.scan.protobuf import Message
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["is_onnx", "look_onnx", "relative_fault"]

SECTION: Final = "onnx_domains"
NEWEST_IR: Final = 14
PLAUSIBLE_IR: Final = 1000
MOST_TOP_FIELDS: Final = 2_000_000
STANDARD: Final = "ai.onnx"  # what "" means

# Whoever lists a domain as a whole does not mean these: they hand over to Python, to another library, or to a compiled program.
CODE_OPERATORS: Final = frozenset(
    {"ATen", "ATenGrad", "ATenOp", "EPContext", "PyCustomOp", "PyOp", "PythonOp", "PythonOpGrad", "Snpe", "TritonOp"}
)
# ONNX Runtime imports them in every file that it writes, and no operator of them is on the list.
IMPORTED_IN_VAIN: Final = frozenset({"ai.onnx.training", "com.microsoft.experimental", "org.pytorch.aten"})

PRODUCER: Final = 2
EXTERNAL: Final = 1
IN_MEMORY: Final = "_ORT_MEM_ADDR_"  # ONNX Runtime takes the offset for an address in its own memory then
EXTERNAL_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})

# Files of raw numbers need no form of their own; one that other loaders would go by its name for is none of them.
OTHER_MODELS: Final = frozenset(
    {
        *("pkl", "pickle", "joblib", "dill", "pt", "pth", "ckpt", "h5", "hdf5", "keras", "npy", "npz", "pb", "tflite", "mlmodel"),
        *("gguf", "safetensors", "onnx", "zip", "tar", "gz", "json", "yaml", "yml", "so", "dll", "dylib", "py", "rds"),
    }
)

MODEL = message(ints="1 5", data="2 3 4 6 7", many="8 14 20 25 26")
OPSET = message(ints="2", data="1")
GRAPH = message(data="2 10", many="1 5 11 12 13 14 15 16")
NODE = message(data="3 4 6 7 8", many="1 2 5 9 10")
ATTRIBUTE = message(ints="3 20", f32="2", data="1 4 5 6 13 14 21 22", many="9 10 11 15 23", many_ints="8", many_f32="7")
TENSOR = message(ints="2 14", data="3 8 9 12", many="6 13 16", many_ints="1 5 7 11", many_f32="4", many_f64="10")
SPARSE = message(data="1 2", many_ints="3")
ENTRY = message(data="1 2")
TRAINING = message(data="1 2", many="3 4")
FUNCTION = message(data="1 8 10 13", many="4 5 6 7 9 11 12 14")

_Function = tuple[str, str, str]  # domain, name, overload


def is_onnx(view: View) -> bool:
    """Whether a view is an ONNX model by its structure: fields of one and no others, a version, and a graph that is not empty."""
    wire, version, graph = Wire(view, MOST_TOP_FIELDS), 0, None
    try:
        for field in wire.fields(0, view.size, MODEL, "a model"):
            if field.number == 1:
                version = field.value
            elif field.number == 7:
                graph = field
        if graph is None or not 0 < version < PLAUSIBLE_IR:
            return False
        for field in wire.fields(graph.start, graph.end, GRAPH, "a graph"):
            if field.number in (1, 5, 11) and field.value:
                table = {1: NODE, 5: TENSOR, 11: message(data="1 2 3", many="4")}[field.number]
                return all(True for _ in wire.fields(field.start, field.end, table, "a graph"))
    except Unscannable:
        return False
    return False


def look_onnx(part: Part) -> None:
    """Look at an ONNX model: operators in all graphs and functions, domains that it imports, files that its tensors lie in."""
    part.saw("onnx")
    _Model(part).look()


def relative_fault(name: str) -> str:
    """Return what is wrong with the name of a file that must stay in its folder: the rest of a sentence, or ``""``."""
    if "\0" in name:
        return "holds a NUL"
    if name.startswith("/"):
        return "is absolute"
    if "\\" in name or "://" in name or name[1:2] == ":":
        return "is a path on another system, or an address"
    if ".." in name.split("/"):
        return "leads out of the folder"
    if name.startswith("~"):
        return "stands for another folder"
    if IN_MEMORY in name:
        return "stands for a place in the reader's memory"
    return ""


class _Model:
    """One model that is looked at: its part, the functions that it defines, and the operators that were told already."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.wire = Wire(part.view)
        self.functions: set[_Function] = set()
        self.domains: set[str] = set()
        self.judged: dict[tuple[str, str], Entry | None] = {}
        self.locations: set[str] = set()
        listed = part.scan.allow.section(SECTION)
        self.listed_domains = {name.partition(":")[0] for name in listed} | IMPORTED_IN_VAIN

    def look(self) -> None:
        wire, end = self.wire, self.part.size
        # Nodes may name functions, and those come last.
        for field in wire.fields(0, end, MODEL, "a model"):
            if field.number == 1 and field.value > NEWEST_IR:
                raise Unscannable(
                    f"is of the IR version {field.value}; {NEWEST_IR} is the newest that is known here", field.place
                )
            if field.number == PRODUCER and not wire.text(field, "a producer's name").isprintable():
                # It is where a SavedModel has its graph, and whoever reads one passes over what it does not know.
                raise Unscannable("has a producer's name that is no plain text", field.place)
            if field.number == 25:
                identity = self._identity(field)
                if identity in self.functions:
                    what = named(":".join(identity[:2]))
                    raise Unscannable(f"defines the function {what} twice, which readers take in different ways", field.place)
                self.functions.add(identity)
                self.domains.add(identity[0])
        for field in wire.fields(0, end, MODEL, "a model"):
            match field.number:
                case 7:
                    self._graph(field, 1)
                case 8:
                    self._import(field)
                case 20:
                    for inner in self._in(field, TRAINING, "training information", 1):
                        if inner.number in (1, 2):
                            self._graph(inner, 2)
                case 25:
                    self._function(field)

    def _in(self, field: Field, table: Message, what: str, depth: int) -> Iterator[Field]:
        return self.wire.fields(field.start, field.end, table, what, depth)

    def _identity(self, field: Field) -> _Function:
        name = domain = overload = ""
        for inner in self._in(field, FUNCTION, "a function", 1):
            if inner.number == 1:
                name = self.wire.text(inner, "a function's name")
            elif inner.number == 10:
                domain = self.wire.text(inner, "a function's domain")
            elif inner.number == 13:
                overload = self.wire.text(inner, "a function's overload")
        return domain or STANDARD, name, overload

    def _function(self, field: Field) -> None:
        for inner in self._in(field, FUNCTION, "a function", 1):
            match inner.number:
                case 7:
                    self._node(inner, 2)
                case 9:
                    self._import(inner)
                case 11:
                    self._attribute(inner, 2)

    def _import(self, field: Field) -> None:
        domain = ""
        for inner in self._in(field, OPSET, "an import of operators", 1):
            if inner.number == 1:
                domain = self.wire.text(inner, "a domain")
        domain = domain or STANDARD
        if domain not in self.listed_domains and domain not in self.domains:
            self.part.scan.refused.add(domain)
            self.part.unsafe(f"imports operators of the domain {named(domain)}, which is not on the allow-list", field.place)

    def _graph(self, field: Field, depth: int) -> None:
        for inner in self._in(field, GRAPH, "a graph", depth):
            match inner.number:
                case 1:
                    self._node(inner, depth + 1)
                case 5:
                    self._tensor(inner, depth + 1)
                case 15:
                    self._sparse(inner, depth + 1)

    def _node(self, field: Field, depth: int) -> None:
        operator = domain = overload = ""
        for inner in self._in(field, NODE, "a node", depth):
            match inner.number:
                case 4:
                    operator = self.wire.text(inner, "an operator's name")
                case 7:
                    domain = self.wire.text(inner, "an operator's domain")
                case 8:
                    overload = self.wire.text(inner, "an operator's overload")
                case 5:
                    self._attribute(inner, depth + 1)
        domain = domain or STANDARD
        if (domain, operator, overload) not in self.functions:
            self._operator(domain, operator, field.place)

    def _operator(self, domain: str, operator: str, place: int) -> None:
        """Judge an operator that the model does not define; each is told once, where it comes first."""
        scan, pair = self.part.scan, (domain, operator)
        if pair not in self.judged:
            exact = f"{domain}:{operator}"
            entry = None
            if scan.allow.lists_name(SECTION, exact):
                entry = Entry(SECTION, "", exact)
            elif scan.allow.lists_name(SECTION, domain) and operator not in CODE_OPERATORS:
                entry = Entry(SECTION, "", domain)
            else:
                scan.refused.add(exact)
                why = "which runs code of another kind" if operator in CODE_OPERATORS else "which is not on the allow-list"
                self.part.unsafe(f"has a node of the operator {named(exact)}, {why}", place)
            self.judged[pair] = entry
        if (allowed := self.judged[pair]) is not None:
            scan.used[allowed] += 1

    def _attribute(self, field: Field, depth: int) -> None:
        for inner in self._in(field, ATTRIBUTE, "an attribute", depth):
            match inner.number:
                case 5 | 10:
                    self._tensor(inner, depth + 1)
                case 6 | 11:
                    self._graph(inner, depth + 1)
                case 22 | 23:
                    self._sparse(inner, depth + 1)

    def _sparse(self, field: Field, depth: int) -> None:
        for inner in self._in(field, SPARSE, "a sparse tensor", depth):
            if inner.number in (1, 2):
                self._tensor(inner, depth + 1)

    def _tensor(self, field: Field, depth: int) -> None:
        external = inside = False
        entries: dict[str, str] = {}
        for inner in self._in(field, TENSOR, "a tensor", depth):
            match inner.number:
                case 14:
                    if inner.value > EXTERNAL:
                        raise Unscannable(f"has a tensor of the data location {inner.value}, which is not known", inner.place)
                    external = inner.value == EXTERNAL
                case 13:
                    self._external_entry(inner, entries, depth + 1)
                case 3:
                    raise Unscannable("has a tensor that is stored in segments, which is not read here", inner.place)
                case 4 | 5 | 6 | 7 | 9 | 10 | 11:
                    # A packed list, or bytes, may be there and empty.
                    inside = inside or inner.wire != LENGTH or inner.value > 0
        if (external and inside) or (entries and not external):
            raise Unscannable("has a tensor whose numbers lie in the model and in another file at once", field.place)
        if external:
            self._external(entries, field.place)

    def _external_entry(self, field: Field, entries: dict[str, str], depth: int) -> None:
        pair = ["", ""]
        for inner in self._in(field, ENTRY, "a place of external data", depth):
            pair[inner.number - 1] = self.wire.text(inner, "a place of external data")
        key, value = pair
        if key in entries:
            raise Unscannable(f"has a tensor with {named(key)} of its external data given twice", field.place)
        # Readers have set whatever was given here as attributes of an object of theirs.
        if key not in EXTERNAL_KEYS:
            raise Unscannable(f"has a tensor with {named(key)} given for its external data, which is not known", field.place)
        if key in ("offset", "length") and not (value.isascii() and value.isdigit() and len(value) < 19):
            raise Unscannable(f"has a tensor whose external data have a {key} that is no number", field.place)
        entries[key] = value

    def _external(self, entries: dict[str, str], place: int) -> None:
        location = entries.get("location", "")
        if location in self.locations:
            return
        self.locations.add(location)
        part = self.part
        if fault := relative_fault(location):
            part.unsafe(f"has a tensor in another file whose name {fault}: {named(location)}", place)
        elif part.depth > 0:
            part.unscannable(f"has a tensor in another file, {named(location)}, though it lies in an archive itself", place)
        elif not all(piece not in ("", ".") for piece in location.split("/")):
            part.unscannable(f"has a tensor in another file whose name is no plain one: {named(location)}", place)
        elif location.rpartition(".")[2].lower() in OTHER_MODELS:
            part.unscannable(f"has a tensor in another file that is called like a model: {named(location)}", place)
        elif part.known == f"file:{location}":
            part.unscannable("has a tensor that is said to lie in the model's own file", place)
        elif location not in part.scan.siblings:
            part.unscannable(f"has a tensor in another file that is not there: {named(location)}", place)
        else:
            part.scan.references.add(location)
