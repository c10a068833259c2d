"""Allow: the exact names that a model file may use, and what each may be called with. All others are refused.

One readable file for each library lies in ``airflow_pipesec/scan/allow/``; a user's own file has the same form::

    shipped: true                        # false: only what stands here counts
    new:                                 # classes: instances may be made, without arguments, and given their state
      mylib.models: [Tree, Forest]
    call:                                # functions and classes that may be called
      mylib.models:
        make_tree: [int, "str?"]         # with just these arguments
        make_forest: any                 # with whatever the file can build
    name:                                # may be kept as a value: harmless, whatever they are called with later
      mylib.dtypes: [f32]

Names are exact: no pattern, and no dot inside of a name unless the attribute of a class is meant. What a file keeps as a value,
in a list or as an attribute, may be called by whoever uses the model with whatever the file says: only what stands under
``name``, or under ``call`` with ``any``, may be kept. Arguments are

* ``any``; ``data``: constants and tuples, lists, dicts and sets of such; ``none``, ``bool``, ``int``, ``float``, ``str``,
  ``bytes``, ``tuple``, ``list``, ``dict``, ``set``;
* ``type``: a name that stands under ``new``; ``function``: one under ``call`` with ``any``; ``name``: one that may be kept;
* ``made``: an instance of what is allowed; ``torch``: bytes that are looked at as a torch file; ``"=text"``: just this text,
  or the allowed name that is written so.

``|`` stands between alternatives, ``?`` after one that may be left out, ``...`` after the last for any number of them. Other
sections (``keras``, ``tensorflow_ops``, ``onnx_domains``, ``torchscript``) are lists of names for these formats.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from airflow_pipesec.errors import ConfigurationError, StorageError
from airflow_pipesec.findings import printable

__all__ = ["LISTS", "RIGHTS", "AllowList", "Argument", "Entry", "written"]

HERE = Path(__file__).parent / "allow"
MAX_BYTES = 4 << 20
RIGHTS = ("new", "call", "name")
LISTS = ("keras", "tensorflow_ops", "onnx_domains", "torchscript")
KINDS = frozenset(
    (
        "any",
        "data",
        "none",
        "bool",
        "int",
        "float",
        "str",
        "bytes",
        "tuple",
        "list",
        "dict",
        "set",
        "type",
        "function",
        "name",
        "made",
    )
) | {"torch"}
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Entry(NamedTuple):
    """One line of the allow-list: the right (``new``, ``call``, ``name``, or the list it stands in), and what it is to."""

    right: str
    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}:{self.name}" if self.module else self.name


@dataclass(frozen=True, slots=True)
class Argument:
    """What one argument of a call may be: one of some kinds, or one of some texts."""

    kinds: frozenset[str]
    texts: frozenset[str] = frozenset()
    optional: bool = False
    repeated: bool = False


Signature = tuple[Argument, ...] | None  # None: any arguments at all


@dataclass(frozen=True)
class AllowList:
    """What is allowed: the rights of each pair of module and name, how what may be called may be called, and the other lists.

    ``new`` and ``name`` hold ``(module, name)``; ``call`` maps such to a signature. ``lists`` has sets of names for some of
    :data:`LISTS`, and with ``shipped_lists`` those that come with this package count as well. ``origin`` tells where it is from.
    """

    new: frozenset[tuple[str, str]] = frozenset()
    call: Mapping[tuple[str, str], Signature] = field(default_factory=dict)
    name: frozenset[tuple[str, str]] = frozenset()
    lists: Mapping[str, frozenset[str]] = field(default_factory=dict)
    origin: str = "nothing"
    shipped_lists: bool = False

    @cached_property
    def packages(self) -> frozenset[str]:
        """The topmost packages of the modules of which anything is allowed."""
        return frozenset(module.partition(".")[0] for module, _ in (*self.new, *self.call, *self.name))

    def has(self, module: str, name: str) -> bool:
        """Whether a file may refer to a name at all."""
        pair = (module, name)
        return pair in self.new or pair in self.call or pair in self.name

    def rights(self, module: str, name: str) -> tuple[str, ...]:
        """The rights to a name: some of ``new``, ``call`` and ``name``."""
        pair = (module, name)
        held = (("new", pair in self.new), ("call", pair in self.call), ("name", pair in self.name))
        return tuple(right for right, has in held if has)

    def lists_name(self, section: str, name: str) -> bool:
        """Whether a name stands in one of the other lists."""
        return name in self.section(section)

    def section(self, section: str) -> frozenset[str]:
        """Return the names in one of the other lists."""
        own = self.lists.get(section, frozenset())
        return own | _shipped_section(section) if self.shipped_lists else own

    def plus(self, other: AllowList) -> AllowList:
        """Return what is allowed by either. Where both say how something may be called, the other's word counts."""
        sections = {*self.lists, *other.lists}
        return AllowList(
            self.new | other.new,
            {**self.call, **other.call},
            self.name | other.name,
            {each: self.lists.get(each, frozenset()) | other.lists.get(each, frozenset()) for each in sections},
            f"{self.origin} and {other.origin}",
            self.shipped_lists or other.shipped_lists,
        )

    @staticmethod
    @cache
    def shipped() -> AllowList:
        """Return the lists that come with this package."""
        found = AllowList()
        for path in sorted(HERE.glob("*.yaml")):
            if path.name not in _OF_LISTS.values():
                found = found.plus(_parsed(_quickly(path), path.name)[0])
        return AllowList(found.new, found.call, found.name, {}, "the shipped lists", shipped_lists=True)

    @classmethod
    def load(cls, source: str | os.PathLike[str] | Mapping[str, Any] | Iterable[str] | AllowList | None = None) -> AllowList:
        """Return the shipped lists together with the user's: a file, a mapping of the same form, or names ``module:name``.

        A bare name may be made, and called with anything. Raises :class:`ConfigurationError` naming the place for what has
        another form.
        """
        if source is None:
            return cls.shipped()
        if isinstance(source, AllowList):
            return source
        if isinstance(source, str | os.PathLike):
            document, where = _read(source), printable(os.fspath(source))
        elif isinstance(source, Mapping):
            document, where = source, "allow"
        elif isinstance(source, Iterable):
            document, where = _from_names(source), "allow"
        else:
            raise ConfigurationError(f"allow is a {type(source).__name__}. Give the path of a file, a mapping or names.")
        own, with_shipped = _parsed(document, where)
        return cls.shipped().plus(own) if with_shipped else own


# Each of the other lists in a file of its own, which is read when a file of that format is looked at.
_OF_LISTS = {
    "keras": "keras.yaml",
    "onnx_domains": "onnx.yaml",
    "tensorflow_ops": "tensorflow.yaml",
    "torchscript": "torchscript.yaml",
}


@cache
def _shipped_section(section: str) -> frozenset[str]:
    name = _OF_LISTS.get(section)
    return frozenset() if name is None else _parsed(_quickly(HERE / name), name)[0].lists[section]


def _quickly(path: Path) -> Any:
    """Read a list of our own: the quick reader will do. A test reads them by the strict one."""
    import yaml

    return yaml.load(path.read_bytes(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe loaders


def _read(source: str | os.PathLike[str]) -> Any:
    from airflow_pipesec.documents import strict_yaml
    from airflow_pipesec.storage import LocalStore

    where = printable(os.fspath(source))
    try:
        raw = LocalStore(source).read(limit=MAX_BYTES)
    except StorageError as error:
        raise ConfigurationError(f"the allow-list cannot be read: {error}") from None
    return strict_yaml(raw, where)


def _from_names(names: Iterable[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"new": {}, "call": {}}
    for text in names:
        module, colon, name = text.partition(":") if isinstance(text, str) else ("", "", "")
        if not (colon and module and name):
            raise ConfigurationError(
                f"allow: {printable(str(text))} is no name. Write module:name, such as sklearn.svm._classes:SVC."
            )
        found["new"].setdefault(module, []).append(name)
        found["call"].setdefault(module, {})[name] = "any"
    return found


def _parsed(document: Any, where: str) -> tuple[AllowList, bool]:
    """Read a document in the form that the module's docstring shows."""
    if not isinstance(document, Mapping):
        raise ConfigurationError(
            f"{where} is no allow-list. Write sections such as new: and call:, each a mapping of modules to names."
        )
    known = {*RIGHTS, *LISTS, "shipped", "library", "versions"}
    if unknown := sorted(str(key) for key in document if key not in known):
        raise ConfigurationError(
            f"{where}: {printable(unknown[0])} is no section of an allow-list. Use {', '.join((*RIGHTS, *LISTS))}."
        )
    shipped = document.get("shipped", True)
    if not isinstance(shipped, bool):
        raise ConfigurationError(f"{where}: shipped is a {type(shipped).__name__}. Write true or false.")
    pairs: dict[str, set[tuple[str, str]]] = {"new": set(), "name": set()}
    call: dict[tuple[str, str], Signature] = {}
    for right in RIGHTS:
        for module, name, how in _names(document.get(right), right, where):
            if right == "call":
                call[module, name] = _signature(how, f"{where}: call: {module}: {name}")
            else:
                pairs[right].add((module, name))
    lists = {section: _listed(document.get(section), section, where) for section in LISTS if section in document}
    return AllowList(frozenset(pairs["new"]), call, frozenset(pairs["name"]), lists, where), shipped


def _names(section: Any, right: str, where: str) -> Iterable[tuple[str, str, Any]]:
    if section is None:
        return
    if not isinstance(section, Mapping):
        raise ConfigurationError(f"{where}: {right} is a {type(section).__name__}. Write a mapping of modules to names.")
    for module, names in section.items():
        place = f"{where}: {right}: {printable(str(module))}"
        _demand_name(module, place)
        items: Iterable[tuple[Any, Any]]
        if isinstance(names, Mapping) and right == "call":
            items = names.items()
        elif isinstance(names, list | tuple):
            items = ((name, "any") for name in names)
        else:
            raise ConfigurationError(f"{place} is a {type(names).__name__}. Write a list of names.")
        for name, how in items:
            _demand_name(name, place)
            yield module, name, how


def _demand_name(name: Any, place: str) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{place}: {printable(str(name))} is no exact name. Patterns are not taken: write each name out."
        )


def _listed(section: Any, key: str, where: str) -> frozenset[str]:
    if not isinstance(section, list | tuple) or not all(isinstance(item, str) for item in section):
        raise ConfigurationError(f"{where}: {key} is no list of names.")
    return frozenset(section)


def _signature(how: Any, place: str) -> Signature:
    if how == "any" or how is None:
        return None
    if not isinstance(how, list | tuple):
        raise ConfigurationError(f"{place} says how it may be called, which is any, or a list of arguments such as [int, str].")
    return tuple(_argument(text, place) for text in how)


def written(signature: Signature) -> str | list[str]:
    """Return a signature as an allow-list has it."""
    if signature is None:
        return "any"
    found = []
    for argument in signature:
        parts = [*sorted(argument.kinds), *(f"={text}" for text in sorted(argument.texts))]
        found.append("|".join(parts) + ("..." if argument.repeated else "?" if argument.optional else ""))
    return found


def _argument(text: Any, place: str) -> Argument:
    if not isinstance(text, str):
        raise ConfigurationError(f"{place}: {printable(str(text))} is no argument. Write one of {', '.join(sorted(KINDS))}.")
    repeated, optional = text.endswith("..."), text.endswith("?")
    body = text[:-3] if repeated else text[:-1] if optional else text
    kinds, texts = set(), set()
    for part in body.split("|"):
        if part.startswith("="):
            texts.add(part[1:])
        elif part in KINDS:
            kinds.add(part)
        else:
            raise ConfigurationError(f"{place}: {printable(part)} is no argument. Write one of {', '.join(sorted(KINDS))}.")
    return Argument(frozenset(kinds), frozenset(texts), optional, repeated)
