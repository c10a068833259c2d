"""Calls: a pickle calls and makes only what the allow-list has, with what the allow-list says; all else it does is told."""

from __future__ import annotations

import _compat_pickle
import re
import sys
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_pipesec.scan.allow import AllowList, Entry
from airflow_pipesec.scan.dtypes import Dtypes
from airflow_pipesec.scan.scanner import Unscannable
from airflow_pipesec.scan.states import asks_for_memory, wrong_call
from airflow_pipesec.scan.values import UNKNOWN, Blob, Box, Made, Name, fits, is_value, names_in
from airflow_pipesec.scan.views import Memory

if TYPE_CHECKING:
    from airflow_pipesec.scan.scanner import Part

__all__ = ["MAKERS", "WRAPPERS", "Broken", "Caller", "of_python_3"]

WRAPPERS: Final = (("joblib.numpy_pickle", "NumpyArrayWrapper"), ("sklearn.externals.joblib.numpy_pickle", "NumpyArrayWrapper"))
"""What stands for an array in a file of joblib's; the array's bytes follow the opcode that gives it its state."""

MOST_NAMES = 1000  # kept of those that are refused
_NEWOBJ, _NEWOBJ_EX = ("copyreg", "__newobj__"), ("copyreg", "__newobj_ex__")
MAKERS: Final = (_NEWOBJ, _NEWOBJ_EX)
"""What is allowed without a list: opcodes of their own do the same."""
_LOAD_TYPE = ("dill._dill", "_load_type")
_RECONSTRUCTOR = ("copyreg", "_reconstructor")
# Each returns its first argument, so that what is done to the one is done to the other.
_GIVERS = frozenset(
    ("torch.jit._pickle", name)
    for name in ("build_boollist", "build_doublelist", "build_intlist", "build_tensorlist", "restore_type_tag")
)
_CLASSES = "__torch__.torch.classes"
_LATIN1 = frozenset(("latin1", "latin-1", "iso-8859-1"))
# Reading on takes what these make, allowed or not.
_FOLLOWED = frozenset((*WRAPPERS, ("numpy", "dtype")))


def of_python_3(module: str, name: str) -> tuple[str, str]:
    """Return the names of Python 3 for those of Python 2, as pickle's ``fix_imports`` has it."""
    return _compat_pickle.NAME_MAPPING.get((module, name), (_compat_pickle.IMPORT_MAPPING.get(module, module), name))


@lru_cache(1000)
def _is_there(module: str, name: str) -> bool:
    """Whether there may be such a name in a module of Python's, of the shipped lists' libraries, or one that is installed here.

    Nothing is imported.
    """
    top, dot, _ = module.partition(".")
    if not top.isidentifier() or not name:
        return False
    if top not in sys.stdlib_module_names and top in AllowList.shipped().packages:
        return True
    if dot:
        return top in sys.stdlib_module_names or PathFinder.find_spec(top) is not None
    if (loaded := sys.modules.get(top)) is not None:
        return name.partition(".")[0] in vars(loaded) or "__getattr__" in vars(loaded)
    found = PathFinder.find_spec(top)
    if found is None or not found.origin or not found.has_location:
        return top in sys.stdlib_module_names
    try:
        content = Path(found.origin).read_bytes()
    except OSError:
        return True
    return re.search(rb"\b%b\b" % re.escape(name.partition(".")[0].encode("utf-8", "surrogatepass")), content) is not None


def _is_empty(keywords: Any) -> bool:
    return keywords is None or (isinstance(keywords, Box) and keywords.whole and not keywords.entries)


class Broken(Unscannable):
    """No reader gets past this place."""


class Caller:
    """Judges what a pickle refers to, calls and makes. Offsets are those of the opcodes, in the part.

    ``flavour`` and ``shadow`` are those of :class:`~airflow_pipesec.scan.machine.Machine`. A ``lenient`` one follows bytes that
    are hardly opcodes, with objects on the stack that are none of theirs: it tells only of what is not allowed at all.
    """

    def __init__(self, part: Part, *, flavour: str = "", shadow: bool = False) -> None:
        self.part, self.scan, self.allow = part, part.scan, part.scan.allow
        self.flavour, self.shadow = flavour, shadow
        self.names: dict[tuple[str, str], Name] = {}
        self.told: set[str] = set()
        self.dtypes = Dtypes()
        self.lenient = False

    def tell(self, why: str, offset: int) -> None:
        """Tell of something unsafe, each only once."""
        if why not in self.told and len(self.told) < MOST_NAMES:
            self.told.add(why)
            self.part.unsafe(f"read as a pickle, {why}" if self.shadow else why, offset)

    def use(self, right: str, name: Name) -> None:
        """Note that a right was used."""
        self.scan.used[Entry(right, name.module, name.name)] += 1

    def find(self, module: str, name: str, protocol: int, offset: int) -> Name:
        """Return a name with the rights to it, as ``Unpickler.find_class`` would the thing itself."""
        if protocol < 3:
            module, name = of_python_3(module, name)
        found = self.names.get((module, name))
        if found is None:
            found = self.names[module, name] = Name(module, name, self._rights(module, name))
            if not found.rights and not self.shadow:
                if len(self.scan.refused) < MOST_NAMES:
                    self.scan.refused.add(f"{module}:{name}")
                self.tell(f"refers to {found}, which is not on the allow-list", offset)
            elif not self.shadow:
                self._refer(found)
        return found

    def _refer(self, name: Name) -> None:
        """Note by which right a name can be referred to; a call is noted when there is one."""
        held = self.allow.rights(name.module, name.name)
        for right in ("new", "name", "call"):
            if right in held:
                self.use(right, name)
                return

    def _rights(self, module: str, name: str) -> tuple[str, ...]:
        rights = self.allow.rights(module, name)
        if not rights and self.flavour == "torchscript" and module.partition(".")[0] == "__torch__":
            # Resolved by torch's own compiler, among the archive's code; below torch.classes are those of C++.
            known = not module.startswith(_CLASSES) or self.allow.lists_name("torchscript", f"{module}.{name}")
            return ("new", "call", "name") if known else ()
        if not rights and (module, name) in MAKERS:
            return ("call",)
        return rights

    def call(self, function: Any, args: Any, offset: int) -> Any:
        """Return what calling a function gives, and tell where that is not allowed."""
        if self.flavour == "torchscript" and isinstance(function, Name) and function.module.startswith("__torch__"):
            return Made(function, (args,)) if function.rights else UNKNOWN  # torch writes a value of an enumeration so
        if self.shadow and isinstance(args, Box | Blob | str | bytes):
            # Python's own unpickler, which joblib's is made of, takes any of these for arguments.
            args = (
                tuple(args.items or args.entries) if isinstance(args, Box) else (args,) if isinstance(args, Blob) else tuple(args)
            )
        if not isinstance(args, tuple):
            if isinstance(args, Made) or args is UNKNOWN:
                if self.lenient:
                    return UNKNOWN
                self.tell("calls a function with arguments that it works out", offset)
                return UNKNOWN
            raise Broken("is a broken pickle: what a function is called with is no tuple", offset)
        if not isinstance(function, Name):
            if function is not UNKNOWN and not self.lenient:
                self.tell("calls what is no name", offset)
            return UNKNOWN
        self.scan.work(len(args))
        pair = (function.module, function.name)
        if not function.rights:
            self._tell_of_shadow("calls", function, offset)
            if pair == _RECONSTRUCTOR and args and isinstance(args[0], Name) and (args[0].module, args[0].name) in _FOLLOWED:
                return Made(args[0])
            return Made(function, args) if pair in _FOLLOWED else UNKNOWN
        if pair == _NEWOBJ and args:
            return self.new(args[0], args[1:], offset)
        if pair == _NEWOBJ_EX and len(args) == 3:
            return self.new(args[0], args[1], offset, args[2])
        if self.lenient and any(
            isinstance(each, Name) and not each.rights and _is_there(each.module, each.name) for each in args
        ):
            self.tell(f"calls {function} with what is not on the allow-list", offset)
        if "call" not in function.rights:
            if self.lenient:
                return UNKNOWN
            self.tell(f"calls {function}, which the allow-list does not let it", offset)
            return UNKNOWN
        signature = self.allow.call.get(pair)
        wrong = None if signature is None else fits(args, signature, self.allow)
        if self.shadow and signature and any("torch" in argument.kinds for argument in signature):
            self.tell(f"calls {function}", offset)
        if wrong is not None and self.lenient:
            return UNKNOWN
        if pair != _RECONSTRUCTOR and any(isinstance(each, Name) and (each.module, each.name) in WRAPPERS for each in args):
            self.tell(f"calls {function} with the class of joblib's that reads arrays", offset)
            return UNKNOWN
        if wrong is not None:
            self.tell(f"calls {function} with other arguments than the allow-list has (argument {wrong + 1})", offset)
            return UNKNOWN
        for value in args:
            if isinstance(value, tuple) or (signature is None and isinstance(value, Name)):
                self.keep(value, offset)
        if (told := self.dtypes.wrong_call(pair, args) or wrong_call(pair, args)) and not self.lenient:
            self.tell(told, offset)
        self.use("call", function)
        if pair == ("_codecs", "encode") and len(args) == 2 and args[1] in _LATIN1:
            return self._encoded(args[0], offset)
        if pair == _LOAD_TYPE:
            return self.find("builtins", args[0] if type(args[0]) is str else "", 5, offset)
        if pair == ("collections", "OrderedDict") and args and isinstance(args[0], Box) and args[0].kind == "list":
            self._pairs(args[0], offset)
        if pair in _GIVERS and args:
            return args[0]
        if (pair == _RECONSTRUCTOR or pair[1] == "newObj" or pair[1].startswith("__pyx_unpickle_")) and isinstance(args[0], Name):
            return Made(args[0])
        for value, argument in zip(args, signature or (), strict=False):
            if "torch" in argument.kinds and not self.shadow:
                self._torch(value, offset)
        return Made(function, args)

    def _pairs(self, listed: Box, offset: int) -> None:
        """Look at the keys of a dictionary that is made of a list of pairs."""
        items = listed.items if listed.whole else listed.parts
        self.scan.opcodes += len(items)
        for pair in items:
            held = pair.items if isinstance(pair, Box) else pair
            if isinstance(held, list | tuple) and held and asks_for_memory(held[0]):
                self.tell("holds what numpy takes for the address of an array", offset)

    def keep(self, value: Any, offset: int) -> None:
        """Tell of names that a value holds and that may only be made or called: whoever uses it may call them with anything."""
        for name in names_in(value, self.scan) if not self.shadow else ():
            if not is_value(name, self.allow):
                self.tell(f"keeps {name} as a value, which the allow-list does not let it", offset)

    def new(self, cls: Any, args: Any, offset: int, keywords: Any = None) -> Any:
        """Return an instance of a class that is made without calling it, and tell where that is not allowed."""
        if not isinstance(cls, Name):
            if cls is not UNKNOWN and not self.lenient:
                self.tell("makes an instance of what is no name", offset)
            return UNKNOWN
        if "new" not in cls.rights:
            if not cls.rights:
                self._tell_of_shadow("makes an instance of", cls, offset)
            elif not self.lenient:
                self.tell(f"makes an instance of {cls}, which the allow-list does not let it", offset)
            return Made(cls) if (cls.module, cls.name) in _FOLLOWED else UNKNOWN
        if not self.lenient and (args != () or not _is_empty(keywords)):
            # What __new__ gets is what a call gets: a named tuple's items, but an array's memory as well.
            signature = self.allow.call.get((cls.module, cls.name), ())
            takes = isinstance(args, tuple) and (signature is None or fits(args, signature, self.allow) is None)
            if "call" not in cls.rights or not takes or not _is_empty(keywords):
                self.tell(f"makes an instance of {cls} with arguments, which the allow-list does not let it", offset)
            self.keep(args, offset)
        self.use("new", cls)
        return Made(cls, args if isinstance(args, tuple) else ())

    def _tell_of_shadow(self, deed: str, name: Name, offset: int) -> None:
        """Tell of a name that is not allowed when it is used; where it is no shadow it was told when it was referred to."""
        if self.lenient and not _is_there(name.module, name.name):
            raise Broken("refers to a module that there is not", offset)
        if self.shadow:
            self.tell(f"{deed} {name}, which is not on the allow-list", offset)

    def nested(self, blob: Blob, head: bytes) -> None:
        """Look at bytes that begin as a pickle does: somebody may load them later."""
        if self.shadow or not (len(head) > 3 and head[0] == 0x80 and head[1] <= 5):
            return
        from airflow_pipesec.scan.pickles import look_nested

        self.part.child(blob.content(self.scan.limits.text), f"bytes at {blob.start:,}").look(look_nested)

    def _encoded(self, text: Any, offset: int) -> Any:
        """Bytes, as protocols before 3 write them: as a text of the same numbers."""
        if type(text) is str:
            try:
                raw = text.encode("latin-1")
            except UnicodeEncodeError:
                raise Broken("is a broken pickle: a text has characters that are no bytes", offset) from None
            self.nested(Blob("bytes", Memory(raw), 0, len(raw)), raw)
            return raw
        if not isinstance(text, Blob) or text.kind != "str":
            return UNKNOWN
        made = Blob("bytes", text.view, text.start, text.length, latin1=True, encoding=text.encoding)
        head = text.view.read_at(text.start, 64).decode(text.encoding, "ignore")[:4].encode("latin-1", "replace")
        self.nested(made, head)
        return made

    def _torch(self, value: Any, offset: int) -> None:
        """Look at bytes that ``torch.load`` is to read."""
        if isinstance(value, bytes | Blob):
            view = Memory(value) if isinstance(value, bytes) else value.content(self.scan.limits.text)
            self.part.child(view, f"bytes before {offset:,}").look()
