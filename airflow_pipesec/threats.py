"""Threats: the catalogue of what an ML pipeline faces, read from ``threats.yaml``, so that guards can say what they answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from airflow_pipesec.documents import strict_yaml
from airflow_pipesec.errors import ConfigurationError
from airflow_pipesec.findings import printable

__all__ = ["STAGES", "Reference", "Threat", "catalogue", "demand_known", "read_catalogue"]

STAGES = ("collection", "preprocessing", "features", "training", "validation", "deployment")
LONGEST_SHORT = 12
_ID = re.compile(r"[a-z]+(-[a-z0-9]+)*")


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a threat is described: the identifier as one cites it (``OWASP ML02:2023``), its title there, and a page for it."""

    id: str
    title: str
    url: str


@dataclass(frozen=True, slots=True)
class Threat:
    """One threat of the catalogue.

    ``id`` is what a guard names it by, ``title`` a few words, ``short`` the head of a column (at most 12 characters), ``meaning``
    what an attacker or an accident does and what it costs. ``stages`` are those of :data:`STAGES` at which it strikes, in order.
    """

    id: str
    title: str
    short: str
    meaning: str
    stages: tuple[str, ...]
    references: tuple[Reference, ...]


@cache
def catalogue() -> Mapping[str, Threat]:
    """Return the threats by id, in the file's order. Raises :class:`ConfigurationError` where ``threats.yaml`` is broken."""
    return read_catalogue(files("airflow_pipesec").joinpath("threats.yaml").read_bytes(), "threats.yaml")


def demand_known(ids: Iterable[str], where: str) -> None:
    """Raise :class:`ConfigurationError`, naming ``where``, unless each id is one of the catalogue's.

    A threat with a typing error would otherwise count as one that is answered. One text is not a collection of ids.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ConfigurationError(f"threats of {where} is a {type(ids).__name__}. Give several ids, such as threats=('drift',).")
    known = catalogue()
    for one in ids:
        if not isinstance(one, str):
            raise ConfigurationError(f"threats of {where} holds a {type(one).__name__}. Give ids, such as threats=('drift',).")
        if one not in known:
            near = get_close_matches(one, known, n=1)
            hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(known)}."
            raise ConfigurationError(f"threats of {where} names {printable(one)}, which is not in the catalogue. {hint}")


def read_catalogue(raw: bytes, where: str) -> Mapping[str, Threat]:
    """Read a catalogue. Raises :class:`ConfigurationError`, naming ``where``, for anything that is not exactly one."""
    document = _object(strict_yaml(raw, where), ("threats",), where)
    found: dict[str, Threat] = {}
    for number, entry in enumerate(_list(document["threats"], f"threats of {where}"), 1):
        threat = _threat(entry, f"threat {number} of {where}")
        if threat.id in found:
            raise ConfigurationError(f"{where} has threat {threat.id} twice. Rename one.")
        if any(threat.short == other.short for other in found.values()):
            raise ConfigurationError(f"{where} has two threats with the short name {threat.short}. Rename one.")
        found[threat.id] = threat
    return MappingProxyType(found)


def _threat(entry: Any, where: str) -> Threat:
    given = _object(entry, _names(Threat), where)
    texts = {name: _text(given[name], f"{name} of {where}") for name in ("id", "title", "short", "meaning")}
    if not _ID.fullmatch(texts["id"]):
        raise ConfigurationError(f"id of {where} is not in kebab-case. Write it in lower case with hyphens.")
    if len(texts["short"]) > LONGEST_SHORT:
        raise ConfigurationError(f"short of {where} is longer than {LONGEST_SHORT} characters. Shorten it.")
    stages = _list(given["stages"], f"stages of {where}")
    if stages != [stage for stage in STAGES if stage in stages]:
        raise ConfigurationError(f"stages of {where} are not some of {', '.join(STAGES)}, each once and in that order.")
    references = _list(given["references"], f"references of {where}")
    cited = tuple(_reference(one, f"reference {number} of {where}") for number, one in enumerate(references, 1))
    if len({one.id for one in cited}) != len(cited):
        raise ConfigurationError(f"references of {where} have one id twice. Take one of them out.")
    return Threat(**texts, stages=tuple(stages), references=cited)


def _reference(entry: Any, where: str) -> Reference:
    given = _object(entry, _names(Reference), where)
    reference = Reference(**{name: _text(given[name], f"{name} of {where}") for name in given})
    if not reference.url.startswith("https://"):
        raise ConfigurationError(f"url of {where} does not begin with https://. Give the page's address.")
    return reference


def _names(cls: type[Threat | Reference]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


def _object(value: Any, keys: tuple[str, ...], where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigurationError(f"{where} is not an object. Give it {', '.join(keys)}.")
    for problem, names in (("lacks", set(keys) - set(value)), ("has unknown", set(value) - set(keys))):
        if names:
            listed = ", ".join(printable(name) for name in sorted(names))
            raise ConfigurationError(f"{where} {problem} {listed}. Give it {', '.join(keys)} and nothing else.")
    return value


def _list(value: Any, what: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise ConfigurationError(f"{what} is not a list with something in it. Write one.")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or value != value.strip():
        raise ConfigurationError(f"{what} is not one line of text. Write one, in quotes if it looks like something else.")
    return value
