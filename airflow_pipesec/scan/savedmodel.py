"""SavedModel: every operator of all graphs and functions is on the allow-list, and files are read and written by the saver alone.

saved_model.proto, meta_graph.proto, graph.proto and saved_object_graph.proto of TensorFlow 2.21 are the specification. A graph
runs when the model is called, and in part when it is loaded, with nothing between it and the file system. Each SavedModel has
operators that save and restore its variables; those are allowed where the name of the file comes from the loader.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, NamedTuple

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.onnx import relative_fault
from airflow_pipesec.scan.protobuf import Field, Wire, message
from airflow_pipesec.scan.saver import PATHS_OF, TEXT_OF, Graphs, Node
from airflow_pipesec.scan.scanner import Unscannable, named
from airflow_pipesec.scan.views import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow_pipesec.scan.protobuf import Message
    from airflow_pipesec.scan.scanner import Part
    from airflow_pipesec.scan.views import View

__all__ = ["is_savedmodel", "judge_metadata", "look_savedmodel"]

SECTION: Final = "tensorflow_ops"
VERSION: Final = 1
MOST_META_GRAPHS: Final = 100
MOST_INPUTS: Final = 4096  # of a node that are remembered; those of a saver that matter come first
LONGEST_TEXT: Final = 200
STREAMS: Final = frozenset({b"stderr", b"stdout", b"log(info)", b"log(warning)", b"log(error)"})
KERAS: Final = "_tf_keras_"
SPECS: Final = ("InputSpec", "TensorShape", "__tuple__")

SAVED_MODEL = message(ints="1", many="2")
META_GRAPH = message(data="1 2 3 7", many="4 5 6")
GRAPH = message(ints="3", data="2 4 5", many="1")
LIBRARY = message(many="1 2 3")
FUNCTION = message(data="1", many="3 4 5 6 7 8")
SIGNATURE = message(ints="16 17 18 19 21", data="1 5 6 8", many="2 3 4 20")
ARGUMENT = message(ints="3 16", data="1 2 4 5 6 17", many="7")
NODE = message(data="1 2 4 6 7", many="3 5")
MAP_ENTRY = message(data="1 2")
VALUE = message(ints="3 5 6", f32="4", data="1 2 7 8 9 10")
LIST = message(many="2 7 8 9", many_ints="3 5 6", many_f32="4")
NAMED_FUNCTION = message(data="1", many="2")
TENSOR = message(ints="1 3", data="2 4 18", many="8 14 15", many_ints="7 10 11 13 16 17", many_f32="5 9", many_f64="6 12")
GRADIENT = message(data="1 2")
SAVER = message(ints="4 5 7", f32="6", data="1 2 3")
ASSET = message(data="1 2")
TENSOR_INFO = message(ints="2", data="1 3 4 5")
COLLECTION = message(data="1 2 3 4 5")
ANY_LIST = message(many="1")
ANY = message(data="1 2")
OBJECTS = message(many="1 2")
OBJECT = message(data="4 5 6 7 8 9 10 12 13 14 16", many="1 3 11 15")
USER_OBJECT = message(data="1 2 3")
# Kinds of objects that refer to functions, and where in them the names are.
NAMES_OF_FUNCTIONS: Final = {
    6: (1, message(data="2", many="1")),
    8: (1, message(ints="3", data="1 4", many="2")),
    12: (2, message(data="1 2")),
}
ASSET_KIND: Final = 5
CONCRETE_FUNCTION = message(data="3 4", many_ints="2")
SIGNATURES = message(data="3", many="1 2 4")
SPARSE_INFO = message(data="1 2 3")
COMPOSITE_INFO = message(data="1", many="2")


def is_savedmodel(view: View) -> bool:
    """Whether a view is a SavedModel by its structure: a version and meta graphs, and nothing else."""
    wire, version, metas = Wire(view, 10_000), 0, []
    try:
        for field in wire.fields(0, view.size, SAVED_MODEL, "a model"):
            if field.number == 1:
                version = field.value
            else:
                metas.append(field)
        if not 0 < version < 1000 or not metas:
            return False
        first = Wire(view, 1_000_000)
        return any(field.number == 2 for field in first.fields(metas[0].start, metas[0].end, META_GRAPH, "a meta graph"))
    except Unscannable:
        return False


def look_savedmodel(part: Part) -> None:
    """Look at a SavedModel's main file: the operators of all its graphs, its assets' names, and its Keras objects."""
    part.saw("savedmodel")
    wire, metas = Wire(part.view), 0
    for field in wire.fields(0, part.size, SAVED_MODEL, "a model"):
        if field.number == 1:
            if field.value != VERSION:
                raise Unscannable(f"is of the version {field.value} of the format, which is not known here", field.place)
            continue
        metas += 1
        if metas > MOST_META_GRAPHS:
            raise Unscannable(f"has more than {MOST_META_GRAPHS} meta graphs", field.place)
        _MetaGraph(part, wire, field).look()


def judge_metadata(part: Part, wire: Wire, field: Field) -> None:
    """Judge the configuration that a Keras object of a SavedModel has as JSON."""
    from airflow_pipesec.scan.jsons import parsed, walked
    from airflow_pipesec.scan.keras import judge_config

    if field.value > part.scan.limits.text:
        raise Unscannable(f"has the configuration of a Keras object of more than {part.scan.limits.text:,} bytes", field.place)
    if not field.value:
        return
    config = parsed(wire.view.read_at(field.start, field.value), "the configuration of a Keras object")
    # Shapes of inputs are written as objects, which are no layers and stand at this one place.
    if isinstance(config, dict) and all(
        each.get("class_name", "InputSpec") in SPECS for each in walked(config.get("input_spec")) if isinstance(each, dict)
    ):
        config.pop("input_spec", None)
    judge_config(part, config)


class _Attribute(NamedTuple):
    """What matters of a node's attribute: functions that it names, and a text."""

    key: str
    functions: tuple[str, ...]
    text: bytes | None


class _MetaGraph:
    """One meta graph that is looked at: its functions by name, who calls them, and the nodes that have to do with files."""

    def __init__(self, part: Part, wire: Wire, field: Field) -> None:
        self.part, self.wire, self.field = part, wire, field
        self.graph: Field | None = None
        self.functions: dict[str, Field] = {}
        self.callers: defaultdict[str, set[str]] = defaultdict(set)
        self.with_files: dict[str, int] = {}
        self.filename = ""
        self.assets: set[str] = set()
        self.inputs: set[str] = set()
        self.bound: dict[str, list[bool]] = {}
        self.told: set[str] = set()

    def inside(self, field: Field, table: Message, what: str, depth: int = 0) -> Iterator[Field]:
        return self.wire.fields(field.start, field.end, table, what, depth)

    def look(self) -> None:
        for field in self.inside(self.field, META_GRAPH, "a meta graph"):
            match field.number:
                case 2:
                    self.graph = field
                case 3:
                    for inner in self.inside(field, SAVER, "a saver"):
                        if inner.number == 1:
                            self.filename = _node_name(self.wire.text(inner, "a tensor's name"))
                case 4:
                    self._collection(field)
                case 5:
                    self._inputs(field)
                case 6:
                    self._asset(self.wire, field)
                case 7:
                    self._objects(field)
        if self.graph is None:
            raise Unscannable("has a meta graph without a graph", self.field.place)
        self._library()
        for field in self.inside(self.graph, GRAPH, "a graph"):
            if field.number == 1:
                self._node(field, "")
        for name, function in self.functions.items():
            for field in self.inside(function, FUNCTION, "a function"):
                if field.number == 3:
                    self._node(field, name)
        filename = "" if self.filename in self.inputs else self.filename
        graphs = Graphs(self._nodes, self.callers, filename, self.assets - self.inputs, self.bound)
        for owner, place in self.with_files.items():
            for name, operator in graphs.faults(owner):
                self.part.unsafe(
                    f"has the operator {operator} in {named(name)} work on a file that is neither the loader's nor an asset",
                    place,
                )

    def _library(self) -> None:
        """Note which functions there are, before what is in them can be judged."""
        assert self.graph is not None  # noqa: S101 - narrows the type: look() saw to it
        library = next((each for each in self.inside(self.graph, GRAPH, "a graph") if each.number == 2), None)
        if library is None:
            return
        gradients: list[Field] = []
        for field in self.inside(library, LIBRARY, "a library of functions"):
            if field.number != 1:
                gradients.append(field)
                continue
            name = self._signature(field)[0]
            if name in self.functions or self.part.scan.allow.lists_name(SECTION, name) or name in PATHS_OF:
                raise Unscannable(f"defines the function {named(name)} twice, or by an operator's name", field.place)
            self.functions[name] = field
        for field in gradients:
            for inner in self.inside(field, GRADIENT, "a gradient"):
                # Of a registered gradient the second is the type of an operator: it is only a key.
                if (field.number, inner.number) != (3, 2):
                    self._operator(self.wire.text(inner, "a function's name"), inner.place, "")

    def _signature(self, function: Field) -> tuple[str, list[str]]:
        """Return a function's name and those of its arguments."""
        name, arguments = "", []
        for field in self.inside(function, FUNCTION, "a function"):
            if field.number != 1:
                continue
            for inner in self.inside(field, SIGNATURE, "a signature"):
                if inner.number == 1:
                    name = self.wire.text(inner, "a function's name")
                elif inner.number == 2:
                    argument = ""
                    for deeper in self.inside(inner, ARGUMENT, "an argument"):
                        if deeper.number == 1:
                            argument = self.wire.text(deeper, "an argument's name")
                    arguments.append(argument)
        return name, arguments

    def _node(self, field: Field, owner: str) -> None:
        """Judge one node: its operator, and the functions that its attributes name."""
        operator, stream = "", None
        keys: set[str] = set()
        for inner in self.inside(field, NODE, "a node"):
            if inner.number == 2:
                operator = self.wire.text(inner, "an operator's name")
            elif inner.number == 5:
                attribute = self._attribute(inner)
                if attribute.key in keys:
                    raise Unscannable(f"has a node with the attribute {named(attribute.key)} twice", inner.place)
                keys.add(attribute.key)
                for function in attribute.functions:
                    self._operator(function, inner.place, owner)
                if attribute.key == "output_stream":
                    stream = attribute.text
        self._operator(operator, field.place, owner)
        if operator in PATHS_OF:
            self.with_files.setdefault(owner, field.place)
        if stream is not None and stream not in STREAMS and "output_stream" not in self.told:
            self.told.add("output_stream")
            self.part.unsafe("prints to what is no standard stream, which may be any file", field.place)

    def _operator(self, name: str, place: int, owner: str) -> None:
        """Judge what a node is, or what one calls: an operator or one of the functions. Each is told once."""
        scan = self.part.scan
        if name in self.functions:
            self.callers[name].add(owner)
        elif scan.allow.lists_name(SECTION, name):
            scan.used[Entry(SECTION, "", name)] += 1
        elif name not in PATHS_OF and name and name not in self.told:
            self.told.add(name)
            scan.refused.add(name)
            self.part.unsafe(f"has the operator {named(name)}, which is not on the allow-list", place)

    def _attribute(self, field: Field) -> _Attribute:
        key, text = "", None
        functions: list[str] = []
        for inner in self.inside(field, MAP_ENTRY, "an attribute"):
            if inner.number == 1:
                key = self.wire.text(inner, "an attribute's name")
            else:
                functions, text = self._value(inner, 1)
        return _Attribute(key, tuple(functions), text)

    def _value(self, field: Field, depth: int) -> tuple[list[str], bytes | None]:
        """Return the functions that a value names, and its text where it is one, or a tensor of one."""
        functions: list[str] = []
        text: bytes | None = None
        for index, inner in enumerate(self.inside(field, VALUE, "a value", depth)):
            if index:
                raise Unscannable("has a value that is two things at once, which readers take in different ways", field.place)
            match inner.number:
                case 1:
                    for item in self.inside(inner, LIST, "a list", depth):
                        if item.number == 8:
                            self._tensor(item, depth + 1)
                        elif item.number == 9:
                            functions += self._named_function(item, depth + 1)
                case 2:
                    text = self.wire.bytes_of(inner, LONGEST_TEXT)
                case 8:
                    text = self._tensor(inner, depth + 1)
                case 10:
                    functions += self._named_function(inner, depth + 1)
        return functions, text

    def _named_function(self, field: Field, depth: int) -> list[str]:
        functions: list[str] = []
        for inner in self.inside(field, NAMED_FUNCTION, "a function's name", depth):
            if inner.number == 1:
                functions.append(self.wire.text(inner, "a function's name"))
            else:
                for deeper in self.inside(inner, MAP_ENTRY, "an attribute", depth + 1):
                    if deeper.number == 2:
                        functions += self._value(deeper, depth + 2)[0]
        return functions

    def _tensor(self, field: Field, depth: int) -> bytes | None:
        text: bytes | None = None
        for inner in self.inside(field, TENSOR, "a tensor", depth):
            if inner.number == 8 and text is None:
                text = self.wire.bytes_of(inner, LONGEST_TEXT)
            elif inner.number in (14, 15):
                raise Unscannable(
                    "has a constant that is a resource or of a type of its own, which is not read here", inner.place
                )
        return text

    def _nodes(self, owner: str) -> tuple[list[str], dict[str, Node]]:
        """Return the arguments of a function, or none for the graph, and its nodes by name."""
        holder = self.functions[owner] if owner else self.graph
        assert holder is not None  # noqa: S101 - narrows the type: look() saw to it
        table, number = (FUNCTION, 3) if owner else (GRAPH, 1)
        nodes: dict[str, Node] = {}
        for field in self.inside(holder, table, "a graph"):
            if field.number != number:
                continue
            name = operator = ""
            inputs: list[str] = []
            functions: list[str] = []
            texts: dict[str, bytes] = {}
            for inner in self.inside(field, NODE, "a node"):
                match inner.number:
                    case 1:
                        name = self.wire.text(inner, "a node's name")
                    case 2:
                        operator = self.wire.text(inner, "an operator's name")
                    case 3 if len(inputs) < MOST_INPUTS:
                        inputs.append(self.wire.text(inner, "a tensor's name"))
                    case 5:
                        attribute = self._attribute(inner)
                        functions += attribute.functions
                        if attribute.text is not None:
                            texts[attribute.key] = attribute.text
            if name in nodes:
                raise Unscannable(f"has two nodes of the name {named(name)}", field.place)
            nodes[name] = Node(operator, tuple(inputs), tuple(functions), texts.get(TEXT_OF.get(operator, "")))
        return (self._signature(holder)[1] if owner else []), nodes

    def _asset(self, wire: Wire, field: Field) -> None:
        """Judge the name of a file in the folder ``assets``, and note by which tensor the graph gets it."""
        for inner in wire.fields(field.start, field.end, ASSET, "an asset"):
            if inner.number == 1:
                for deeper in wire.fields(inner.start, inner.end, TENSOR_INFO, "an asset's tensor"):
                    if deeper.number == 1:
                        self.assets.add(_node_name(wire.text(deeper, "a tensor's name")))
            else:
                name = wire.text(inner, "an asset's name")
                if fault := relative_fault(name):
                    self.part.unsafe(f"has an asset whose name {fault}: {named(name)}")

    def _collection(self, field: Field) -> None:
        """Look for assets in the collections as well, where the first readers of the format have them."""
        value = None
        key = ""
        for inner in self.inside(field, MAP_ENTRY, "a collection"):
            if inner.number == 1:
                key = self.wire.text(inner, "a collection's name")
            else:
                value = inner
        if value is None or key != "saved_model_assets":
            return
        for inner in self.inside(value, COLLECTION, "a collection"):
            if inner.number != 5:
                raise Unscannable("has assets that are written in an unknown way", inner.place)
            for each in self.inside(inner, ANY_LIST, "a list of assets"):
                for deeper in self.inside(each, ANY, "an asset"):
                    if deeper.number == 2:
                        data = self.part.read(deeper.start, deeper.value) if 0 < deeper.value < 1 << 16 else b""
                        self._asset(Wire(Memory(data)), Field(0, 0, len(data), 0, 0))

    def _objects(self, field: Field) -> None:
        """Judge Keras objects among the model's objects, and note which functions a program can call.

        What other objects are is looked up among the reader's own classes.
        """
        assets: list[bool] = []
        functions: list[Field] = []
        for inner in self.inside(field, OBJECTS, "the graph of objects"):
            if inner.number == 2:
                functions.append(inner)
                continue
            assets.append(False)
            for each in self.inside(inner, OBJECT, "an object"):
                if each.number == ASSET_KIND:
                    assets[-1] = True
                elif each.number == 4:
                    self._user_object(each)
                elif each.number in NAMES_OF_FUNCTIONS:
                    number, table = NAMES_OF_FUNCTIONS[each.number]
                    for deeper in self.inside(each, table, "an object"):
                        if deeper.number == number:
                            self.bound.setdefault(self.wire.text(deeper, "a function's name"), [])
        for inner in functions:
            name, captures = "", []
            for each in self.inside(inner, MAP_ENTRY, "a function"):
                if each.number == 1:
                    name = self.wire.text(each, "a function's name")
                    continue
                for deeper in self.inside(each, CONCRETE_FUNCTION, "a function"):
                    if deeper.number == 2:
                        captures += self.wire.numbers(deeper)
            self.bound[name] = [number < len(assets) and assets[number] for number in captures]

    def _user_object(self, field: Field) -> None:
        identifier, metadata = "", None
        for inner in self.inside(field, USER_OBJECT, "an object"):
            if inner.number == 1:
                identifier = self.wire.text(inner, "an object's kind")
            elif inner.number == 3:
                metadata = inner
        if metadata is not None and identifier.startswith(KERAS):
            judge_metadata(self.part, self.wire, metadata)

    def _inputs(self, field: Field) -> None:
        """Note what whoever calls the model gives for it: none of that may be the name of a file."""
        for inner in self.inside(field, MAP_ENTRY, "a signature"):
            if inner.number != 2:
                continue
            for each in self.inside(inner, SIGNATURES, "a signature"):
                if each.number == 1:
                    for deeper in self.inside(each, MAP_ENTRY, "an input"):
                        if deeper.number == 2:
                            self._input(deeper, 1)

    def _input(self, field: Field, depth: int) -> None:
        for inner in self.inside(field, TENSOR_INFO, "an input", depth):
            names: list[Field] = []
            match inner.number:
                case 1:
                    names.append(inner)
                case 4:
                    names += self.inside(inner, SPARSE_INFO, "an input", depth + 1)
                case 5:
                    for deeper in self.inside(inner, COMPOSITE_INFO, "an input", depth + 1):
                        if deeper.number == 2:
                            self._input(deeper, depth + 2)
            self.inputs.update(_node_name(self.wire.text(each, "a tensor's name")) for each in names)


def _node_name(tensor: str) -> str:
    return tensor.partition(":")[0]
