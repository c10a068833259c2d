"""Saver: the operators of a SavedModel that touch files get the files' names from the loader, and from nowhere else.

``tf.train.Checkpoint`` and ``tf.train.Saver`` build these graphs: a placeholder that the loader fills, from which the names of
the files are made by a few operators on texts, over the arguments of functions. Whatever gets a name in another way is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import Final, NamedTuple

from airflow_pipesec.scan.scanner import Unscannable

__all__ = ["PATHS_OF", "TEXT_OF", "Graphs", "Node"]

# Which inputs of an operator are names of files, and whose these must be.
PATHS_OF: Final[Mapping[str, tuple[str, tuple[int, ...]]]] = {
    "SaveV2": ("saver", (0,)),
    "RestoreV2": ("saver", (0,)),
    "MergeV2Checkpoints": ("saver", (0, 1)),
    "InitializeTableFromTextFile": ("asset", (1,)),
    "InitializeTableFromTextFileV2": ("asset", (1,)),
}
TEXT_OF: Final[Mapping[str, str]] = {"Const": "value", "StringJoin": "separator"}
"""Which attribute of an operator is the text that matters here."""
CALLS: Final = frozenset({"PartitionedCall", "StatefulPartitionedCall"})
# What may be appended to the loader's name while a checkpoint is being written.
_SUFFIX: Final = re.compile(rb"\.part|_temp(_[0-9a-f]{32})?/part")
DEFAULT: Final = b"model"  # of the placeholder of TensorFlow 1, which the loader overrides
DEEPEST: Final = 64
MOST_NODES: Final = 5_000_000


class Node(NamedTuple):
    """One node: its operator, inputs, the functions that it names, and the text of :data:`TEXT_OF`."""

    operator: str
    inputs: tuple[str, ...]
    functions: tuple[str, ...]
    text: bytes | None


class Graphs:
    """The graph ``""`` and the functions of a model, by whose names they are read when they are needed.

    ``callers`` has, of each function, the names of those in which it is called. ``filename`` is the node through which the
    loader gives the name of a checkpoint, and ``assets`` are those through which it gives the names of assets: no inputs of the
    model. ``bound`` has the functions that a program can call as well, with what the loader gives for their last arguments:
    whether each is the name of an asset.
    """

    def __init__(
        self,
        read: Callable[[str], tuple[list[str], dict[str, Node]]],
        callers: Mapping[str, Set[str]],
        filename: str,
        assets: Set[str],
        bound: Mapping[str, Sequence[bool]],
    ) -> None:
        self.read, self.callers, self.bound = read, callers, bound
        self.sources = {"saver": {filename} - {""}, "asset": assets}
        self.held: dict[str, tuple[list[str], dict[str, Node]]] = {}
        self.count = 0

    def faults(self, owner: str) -> Iterator[tuple[str, str]]:
        """Yield the name and the operator of each node of a graph that works on a file it must not."""
        for name, node in self._graph(owner)[1].items():
            if node.operator in PATHS_OF:
                whose, places = PATHS_OF[node.operator]
                inputs = _data(node)
                if not all(place < len(inputs) and self._is_path(owner, inputs[place], whose, 0) for place in places):
                    yield name, node.operator

    def _graph(self, owner: str) -> tuple[list[str], dict[str, Node]]:
        if owner not in self.held:
            self.held[owner] = self.read(owner)
            self.count += len(self.held[owner][1])
            if self.count > MOST_NODES:
                raise Unscannable(f"has more than {MOST_NODES:,} nodes around its saver")
        return self.held[owner]

    def _is_path(self, owner: str, tensor: str, whose: str, depth: int) -> bool:
        """Whether a tensor is the name of a file as the loader gave it, or made of such."""
        if depth > DEEPEST:
            return False
        name = tensor.partition(":")[0]
        arguments, nodes = self._graph(owner)
        if name in arguments:
            return self._is_path_in_calls(owner, arguments.index(name), whose, depth + 1)
        node = nodes.get(name)
        if node is None:
            return False
        inputs = _data(node)

        def of(index: int) -> bool:
            return index < len(inputs) and self._is_path(owner, inputs[index], whose, depth + 1)

        match node.operator:
            case "Placeholder":
                return not owner and name in self.sources[whose]
            case "PlaceholderWithDefault":
                return not owner and whose == "saver" and name in self.sources[whose] and self._is_default(inputs)
            case "Const":
                return not owner and name in self.sources[whose] and (whose == "asset" or node.text == DEFAULT)
            case "Identity" | "ShardedFilename":
                return of(0)
            case "Pack":
                return bool(inputs) and all(of(index) for index in range(len(inputs)))
            case "StringJoin":
                return not node.text and of(0) and all(self._is_suffix(nodes, each) for each in inputs[1:])
            case "ReadVariableOp":
                return not owner and whose == "asset" and bool(inputs) and self._is_asset_variable(inputs[0], depth)
        return False

    def _is_path_in_calls(self, function: str, index: int, whose: str, depth: int) -> bool:
        """Whether whoever calls a function, and there is someone, gives such a name for one of its arguments."""
        found = False
        if function in self.bound:
            captures = self.bound[function]
            place = index - len(self._graph(function)[0]) + len(captures)
            if whose != "asset" or place < 0 or not captures[place]:
                return False
            found = True
        for caller in self.callers.get(function, ()):
            for node in self._graph(caller)[1].values():
                if node.operator == function or (function in node.functions and node.operator in CALLS):
                    inputs = _data(node)
                    if index >= len(inputs) or not self._is_path(caller, inputs[index], whose, depth):
                        return False
                    found = True
                elif function in node.functions:
                    return False
        return found

    def _is_default(self, inputs: list[str]) -> bool:
        """Whether the default of the saver's placeholder is the one of TensorFlow 1, perhaps through one more placeholder."""
        nodes = self._graph("")[1]
        for _ in range(3):
            node = nodes.get(inputs[0].partition(":")[0]) if len(inputs) == 1 else None
            if node is None or node.operator != "PlaceholderWithDefault":
                return node is not None and node.operator == "Const" and node.text == DEFAULT
            inputs = _data(node)
        return False

    def _is_suffix(self, nodes: Mapping[str, Node], tensor: str) -> bool:
        """Whether a tensor is one of the texts that are appended to a name, or a choice of two of them."""
        node = nodes.get(tensor.partition(":")[0])
        if node is None:
            return False
        if node.operator == "Select":
            choices = [nodes.get(each.partition(":")[0]) for each in _data(node)[1:]]
            return len(choices) == 2 and all(each is not None and _is_suffix_text(each) for each in choices)
        return _is_suffix_text(node)

    def _is_asset_variable(self, handle: str, depth: int) -> bool:
        """Whether a variable of the graph is assigned the name of an asset, and nothing else, and is handed to no function."""
        name = handle.partition(":")[0]
        nodes = self._graph("")[1]
        variable = nodes.get(name)
        if variable is None or variable.operator != "VarHandleOp":
            return False
        assigned = False
        for node in nodes.values():
            inputs = _data(node)
            if name not in (each.partition(":")[0] for each in inputs):
                continue
            if node.operator == "AssignVariableOp" and len(inputs) == 2:
                if not self._is_path("", inputs[1], "asset", depth + 1):
                    return False
                assigned = True
            elif node.operator not in ("ReadVariableOp", "VarIsInitializedOp"):
                return False
        return assigned


def _data(node: Node) -> list[str]:
    """Return the inputs that are tensors: those that only say what comes first begin with a circumflex."""
    return [each for each in node.inputs if not each.startswith("^")]


def _is_suffix_text(node: Node) -> bool:
    return node.operator == "Const" and node.text is not None and bool(_SUFFIX.fullmatch(node.text))
