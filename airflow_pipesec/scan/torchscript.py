"""TorchScript: the code of an archive calls operators that are on the allow-list, and its own classes and functions.

Torch compiles this code with a compiler of its own. No Python runs, and nothing is within reach but torch's operators: by the
names ``torch`` and ``ops``, as methods of values, and as classes under ``__torch__.torch.classes``. Some of them open files. The
code is parsed as Python here, so that what the two languages might take for different things is refused: all but plain ASCII, and
all syntax but what torch writes. Names are judged wherever they stand, for an operator may be given another name before its call.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.allow import Entry
from airflow_pipesec.scan.scanner import Unscannable, named

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["look_code"]

SECTION: Final = "torchscript"
LONGEST_CODE: Final = 32 << 20
LONGEST_PIECE: Final = 4 << 20  # a class; its syntax tree takes some hundred times that
LONGEST_CLASS: Final = 6  # torch, classes, a library, a class, and a method
OWN: Final = "__torch__"
OF_LIBRARIES: Final = "__torch__.torch.classes."

# What torch's compiler knows besides names that the code binds. None reaches out of the values that it is given.
_BUILTINS: Final = {
    *("annotate", "unchecked_cast", "uninitialized", "isinstance", "hasattr", "fork", "awaitable", "print", "CONSTANTS"),
    *("range", "zip", "enumerate", "rangelist", "len", "sorted", "index", "min", "max", "all", "any"),
    *("int", "float", "bool", "str", "complex", "tuple", "list", "dict"),
    *("abs", "round", "divmod", "pow", "ord", "chr", "hex", "oct", "bin", "hash", "inf", "nan", "infj", "nanj"),
}
_TYPED: Final = frozenset({"annotate", "unchecked_cast", "uninitialized", "isinstance"})
_ROOTS: Final = frozenset({"torch", "ops", OWN, "CONSTANTS"})
# Operators that are left out of the list, and that could be called as methods as well.
_METHODS_REFUSED: Final = frozenset({"save", "from_file", "to_here", "local_value", "data_ptr"})
_BASES: Final = frozenset({"Module", "NamedTuple", "Enum", "ModuleInterface", "Interface", "Exception"})

_NOT_PLAIN: Final = re.compile(rb"[^\n\x20-\x7e]")
_PIECES: Final = re.compile(r"(?m)^(?=class |def )")

# Syntax that torch writes; contexts and operators aside, which do nothing by themselves.
_STATEMENTS = (ast.Expr, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.Return, ast.Pass, ast.If, ast.While, ast.For, ast.With)
_STATEMENTS += (ast.Assert, ast.Break, ast.Continue, ast.FunctionDef, ast.ClassDef)  # type: ignore[assignment] # any length
_EXPRESSIONS = (ast.Call, ast.Attribute, ast.Name, ast.Constant, ast.Subscript, ast.Slice, ast.Tuple, ast.List, ast.Dict)
_EXPRESSIONS += (ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.Compare, ast.IfExp)  # type: ignore[assignment] # any length
_SYNTAX: Final = (
    *_STATEMENTS,
    *_EXPRESSIONS,
    *(ast.keyword, ast.arguments, ast.arg, ast.withitem, ast.expr_context, ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)


def look_code(part: Part) -> None:
    """Look at one file of TorchScript code: each name in it is the code's own, a value's, or that of an allowed operator."""
    part.saw("torchscript code")
    if part.size > LONGEST_CODE:
        raise Unscannable(f"is TorchScript code of more than {LONGEST_CODE:,} bytes")
    data = part.read(0, part.size) if part.size else b""
    if odd := _NOT_PLAIN.search(data):
        raise Unscannable("has a character that torch does not write into code", odd.start())
    place = 0
    judge = _Judge(part)
    # Line by line torch cannot be followed, but class by class: a text in quotes that went on over this would not end.
    for piece in _PIECES.split(data.decode("ascii")):
        if len(piece) > LONGEST_PIECE:
            raise Unscannable(f"has a class of more than {LONGEST_PIECE:,} bytes of TorchScript code", place)
        try:
            tree = ast.parse(piece)
        except (SyntaxError, ValueError):
            raise Unscannable("has code that is no TorchScript", place) from None
        except (RecursionError, MemoryError):
            raise Unscannable("has code that is nested too deep to be read", place) from None
        judge.module(tree, place)
        place += len(piece)


class _Judge:
    """What goes through the syntax of one file: its part, where the piece begins that is gone through, and what was told."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.place = 0
        self.told: set[str] = set()

    def module(self, tree: ast.Module, place: int) -> None:
        """Go through classes and functions. Versions before 1.5 also wrote imports of other classes, and a version."""
        self.place = place
        for each in tree.body:
            match each:
                case ast.ClassDef():
                    self.klass(each)
                case ast.FunctionDef():
                    self.function(each)
                case ast.Import(names=names) if all(alias.name.partition(".")[0] == OWN and not alias.asname for alias in names):
                    pass
                case ast.Assign(targets=[ast.Name(id="op_version_set")], value=ast.Constant(value=int())):
                    pass
                case _:
                    raise Unscannable("has code that torch does not write: " + type(each).__name__, place)

    def klass(self, tree: ast.ClassDef) -> None:
        if (
            tree.decorator_list
            or tree.keywords
            or not all(isinstance(base, ast.Name) and base.id in _BASES for base in tree.bases)
        ):
            raise Unscannable(f"has a class {named(tree.name)} of a kind that torch does not write", self.place)
        for each in tree.body:
            if isinstance(each, ast.FunctionDef):
                self.function(each)
            elif isinstance(each, ast.Assign) and all(isinstance(target, ast.Subscript) for target in each.targets):
                # The types of members whose names are none in Python: __annotations__["0"] = a type.
                for target in each.targets:
                    self.names(target, set())
                self.annotation(each.value)
            elif isinstance(each, ast.Assign | ast.AnnAssign | ast.Pass):
                self.names(each, set())
            else:
                raise Unscannable(f"has a class {named(tree.name)} with code that torch does not write", self.place)

    def function(self, tree: ast.FunctionDef, outer: frozenset[str] = frozenset()) -> None:
        """Go through a function, once it is known which names it binds."""
        if tree.decorator_list:
            raise Unscannable(f"has a function {named(tree.name)} with a decorator, which torch does not write", self.place)
        bound = set(outer)
        for each in ast.walk(tree):
            if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                bound.add(each.id)
            elif isinstance(each, ast.arg):
                bound.add(each.arg)
            elif isinstance(each, ast.FunctionDef) and each is not tree:
                bound.add(each.name)
            elif isinstance(each, ast.ClassDef):
                raise Unscannable(f"has a class within the function {named(tree.name)}", self.place)
        if taken := sorted(bound & (_ROOTS | _TYPED | {"getattr"})):
            raise Unscannable(f"has a variable of the name {taken[0]}, which means something else to torch", self.place)
        self.names(tree, bound)

    def names(self, tree: ast.AST, bound: set[str]) -> None:
        """Judge every name below a node. The nodes are few kinds; each is a step, so that no depth is too much."""
        open_nodes: list[ast.AST] = [tree]
        while open_nodes:
            node = open_nodes.pop()
            if not isinstance(node, _SYNTAX):
                raise Unscannable(f"has code that torch does not write: {type(node).__name__}", self.place)
            match node:
                case ast.Attribute():
                    root, chain = _chain(node)
                    if isinstance(root, ast.Name) and root.id in _ROOTS:
                        self.judge(root.id, chain)
                    else:
                        for name in chain:
                            self.attribute(name)
                        open_nodes.append(root)
                case ast.Name():
                    self.name(node, bound)
                case ast.Call(func=ast.Name(id="getattr")):
                    self.getattr(node)
                    open_nodes += node.args
                case ast.AnnAssign():
                    open_nodes += [node.target, *([node.value] if node.value else [])]
                    self.annotation(node.annotation)
                case ast.FunctionDef():
                    open_nodes += [*node.body, *node.args.defaults, *(each for each in node.args.kw_defaults if each)]
                    for each in (node.returns, *(arg.annotation for arg in _arguments(node.args))):
                        self.annotation(each)
                case ast.Call(func=ast.Name(id=name)) if name in _TYPED:
                    self.typed(node, open_nodes)
                case ast.Constant(value=bytes()):
                    raise Unscannable("has code that torch does not write: bytes", self.place)
                case _:
                    open_nodes += ast.iter_child_nodes(node)

    def typed(self, node: ast.Call, open_nodes: list[ast.AST]) -> None:
        """Part the type from the value that ``annotate(type, value)`` and the like have; ``isinstance`` has it last."""
        last = isinstance(node.func, ast.Name) and node.func.id == "isinstance"
        types = node.args[1:] if last else node.args[:1]
        for each in types:
            self.annotation(each)
        open_nodes += [each for each in node.args if each not in types]
        open_nodes += [each.value for each in node.keywords]

    def annotation(self, tree: ast.AST | None) -> None:
        """Judge a type, which is compiled to nothing that runs: only classes that libraries register are of interest."""
        open_nodes = [tree] if tree is not None else []
        while open_nodes:
            node = open_nodes.pop()
            if isinstance(node, ast.Attribute):
                root, chain = _chain(node)
                if isinstance(root, ast.Name):
                    if root.id == OWN:
                        self.judge(OWN, chain)
                    continue
            if not isinstance(
                node, ast.Attribute | ast.Name | ast.Constant | ast.Subscript | ast.Tuple | ast.List | ast.expr_context
            ):
                raise Unscannable("has a type that torch does not write", self.place)
            open_nodes += ast.iter_child_nodes(node)

    def name(self, node: ast.Name, bound: set[str]) -> None:
        if node.id in _ROOTS and node.id != "CONSTANTS":
            # As a value: it would be another name for all that is below it.
            self.refuse(node.id, f"gives {node.id} another name")
        elif isinstance(node.ctx, ast.Load) and node.id not in bound and node.id not in _BUILTINS and not _is_of_class(node.id):
            self.refuse(node.id, f"uses the name {named(node.id)}, which is not known")

    def attribute(self, name: str) -> None:
        if name in _METHODS_REFUSED:
            self.refuse(name, f"uses {named(name)} of a value, which is an operator that is not on the allow-list")

    def getattr(self, node: ast.Call) -> None:
        match node.args:
            case [_, ast.Constant(value=str(name))] if not node.keywords:
                self.attribute(name)
            case _:
                raise Unscannable("has an attribute whose name is not written out", self.place)

    def judge(self, root: str, chain: list[str]) -> None:
        """Judge a name below ``torch``, ``ops``, ``CONSTANTS`` or ``__torch__``."""
        scan = self.part.scan
        full = ".".join((root, *chain))
        if root == "CONSTANTS":
            return
        if root == OWN and not f"{full}.".startswith(OF_LIBRARIES) and not OF_LIBRARIES.startswith(f"{full}."):
            for each in chain:
                self.attribute(each)
            return
        if root == OWN:
            # The class, without the method of it that is called.
            candidates = [".".join((root, *chain[:length])) for length in range(3, min(len(chain), LONGEST_CLASS) + 1)]
        elif root == "ops" and chain[0] == "aten" and len(chain) == 2:
            candidates = [f"torch.{chain[1]}"]
        else:
            candidates = [full]
        for each in candidates:
            if scan.allow.lists_name(SECTION, each):
                scan.used[Entry(SECTION, "", each)] += 1
                return
        self.refuse(full, f"calls {named(full)}, which is not on the allow-list")

    def refuse(self, name: str, why: str) -> None:
        if name not in self.told:
            self.told.add(name)
            self.part.scan.refused.add(name)
            self.part.unsafe(why, self.place)


def _chain(node: ast.Attribute) -> tuple[ast.expr, list[str]]:
    """Return what a chain of attributes begins with, and their names."""
    names: list[str] = []
    inner: ast.expr = node
    while isinstance(inner, ast.Attribute):
        names.append(inner.attr)
        inner = inner.value
    return inner, names[::-1]


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    more = [each for each in (arguments.vararg, arguments.kwarg) if each]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *more]


def _is_of_class(name: str) -> bool:
    """Whether it is one of the lists that a class has of its own members."""
    return name in ("__annotations__", "__parameters__", "__buffers__", "__forward_hooks__", "__forward_pre_hooks__")
