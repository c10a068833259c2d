"""Skops: a schema makes objects of allowed classes only, and refers only to allowed functions.

A ``schema.json`` is a tree of nodes. Each names a loader, which is code of skops, and a class or function, which is looked up in
any module. Skops has its own list of what it trusts; this one does not rely on it (CVE-2024-37065, CVE-2025-54412,
CVE-2025-54413).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.jsons import parsed, walked
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["is_schema", "judge_schema"]

# Loaders that make what they are for, and no other class. What they must name all the same, so that nothing is mistaken.
FIXED: dict[str, frozenset[tuple[str, str]]] = {
    "JsonNode": frozenset(
        ("builtins", name) for name in ("str", "int", "float", "bool", "NoneType", "dict", "list", "tuple", "complex")
    ),
    "BytesNode": frozenset({("builtins", "bytes")}),
    "BytearrayNode": frozenset({("builtins", "bytearray")}),
    "SliceNode": frozenset({("builtins", "slice")}),
    "PartialNode": frozenset({("functools", "partial")}),
    "DefaultDictNode": frozenset({("collections", "defaultdict")}),
    "RandomStateNode": frozenset({("numpy.random.mtrand", "RandomState"), ("numpy.random", "RandomState")}),
    "RandomGeneratorNode": frozenset({("numpy.random._generator", "Generator"), ("numpy.random", "Generator")}),
    "DTypeNode": frozenset({("numpy", "dtype")}),
    "MaskedArrayNode": frozenset({("numpy.ma", "MaskedArray"), ("numpy.ma.core", "MaskedArray")}),
}
CONTAINERS = {
    "DictNode": frozenset({("builtins", "dict"), ("collections", "OrderedDict")}),
    "ListNode": frozenset({("builtins", "list")}),
    "SetNode": frozenset({("builtins", "set"), ("builtins", "frozenset")}),
    "TupleNode": frozenset({("builtins", "tuple")}),
}
# Loaders that call or make the class that a node names, with the rights that it takes; any of them will do.
RIGHTS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(CONTAINERS, ("call", "new")),
    "ObjectNode": ("new",),
    "ConstructorFromReduceNode": ("call",),
    "TreeNode": ("call", "new"),
    "LossNode": ("call", "new"),
    "QuantileForestNode": ("call", "new"),
    "TypeNode": ("new", "call", "name"),
    "FunctionNode": ("call", "name"),
    "OperatorFuncNode": ("call", "name"),
}
# Types that a model may refer to; skops trusts these as well.
TYPES = frozenset(
    ("builtins", name) for name in ("str", "int", "float", "bool", "complex", "bytes", "list", "dict", "tuple", "set", "object")
)
_SCALAR = re.compile(r"ndarray|(u?int|float|complex)\d+|bool_?|str_|bytes_|object_?|datetime64|timedelta64|matrix|generic")
_BIT_GENERATORS = frozenset(f'"{name}"' for name in ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"))


def is_schema(value: Any) -> bool:
    """Whether a JSON value is the schema of a skops file."""
    return isinstance(value, dict) and "__loader__" in value


def judge_schema(part: Part, schema: dict[str, Any]) -> None:
    """Judge every node of a skops schema."""
    told: set[str] = set()
    for each in walked(schema):
        if not isinstance(each, dict) or "__loader__" not in each:
            continue
        loader, module, name = (each.get(key) for key in ("__loader__", "__module__", "__class__"))
        if loader == "CachedNode":
            continue
        if not isinstance(loader, str) or not isinstance(module, str) or not isinstance(name, str):
            raise Unscannable("has a skops node whose loader, module or class is no text")
        why, full = _refused(part, each, loader, module, name)
        if why and why not in told:
            told.add(why)
            part.scan.refused.add(full)
            part.unsafe(why)


def _refused(part: Part, node: dict[str, Any], loader: str, module: str, name: str) -> tuple[str, str]:
    """Return why a node is refused, and the name that is; ``""`` for one that is not."""
    content = node.get("content")
    if loader == "JsonNode":
        if not isinstance(content, str):
            raise Unscannable("has a skops JsonNode without JSON")
        parsed(content.encode("utf-8", "surrogatepass"), "a skops JsonNode")
    if loader in ("FunctionNode", "MethodNode") and isinstance(content, dict):
        # The first protocol says what the function is in the content; later ones have the method there.
        module, name = _inner_name(content, module, name)
    full = f"{module}:{name}"
    if (module, name) in FIXED.get(loader, ()) or (module, name) in CONTAINERS.get(loader, ()):
        if loader == "RandomGeneratorNode" and not _known_generator(content):
            return "names a bit generator that is not known", full
        return "", full
    if loader == "NdArrayNode" and module == "numpy" and _SCALAR.fullmatch(name):
        return "", full
    if loader == "SparseMatrixNode" and (module == "scipy.sparse" or module.startswith("scipy.sparse.")):
        return "", full
    if loader == "TypeNode" and ((module, name) in TYPES or (module == "numpy" and _SCALAR.fullmatch(name))):
        return "", full
    if loader == "MethodNode":
        wanted: tuple[str, ...] = ("call", "name")
    elif loader in RIGHTS:
        wanted = RIGHTS[loader]
    elif loader in FIXED or loader in ("NdArrayNode", "SparseMatrixNode"):
        return f"has a skops {loader} that names {named(full)}", full
    else:
        raise Unscannable(f"has a skops node of the unknown loader {named(loader)}")
    held = part.scan.allow.rights(module, name)
    right = next((each for each in wanted if each in held), None)
    if right is None:
        verb = {"TypeNode": "refers to", "FunctionNode": "refers to", "MethodNode": "refers to"}.get(loader, "makes an object by")
        return f"{verb} {named(full)}, which is not allowed", full
    part.scan.used[Entry(right, module, name)] += 1
    return "", full


def _inner_name(content: dict[str, Any], module: str, name: str) -> tuple[str, str]:
    function, owner = content.get("function"), content.get("module_path")
    if isinstance(function, str) and isinstance(owner, str):
        return owner, function
    method = content.get("func")
    if isinstance(method, str):
        return module, f"{name}.{method}"
    raise Unscannable("has a skops node for a function that does not say which")


def _known_generator(content: Any) -> bool:
    """Whether the name of the bit generator, which skops looks up in ``numpy.random`` and calls, is one of NumPy's."""
    found = content
    for key in ("bit_generator", "content", "bit_generator", "content"):
        found = found.get(key) if isinstance(found, dict) else None
    return isinstance(found, str) and found in _BIT_GENERATORS
