"""SavedModel files: what lies beside ``saved_model.pb`` is what its name there says it is.

Variables are raw numbers and an index of them, a fingerprint is a few hashes, and the metadata of Keras 2 are configurations:
whoever loads the model with Keras builds its layers from these.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from airflow_pipesec.scan.protobuf import Wire, message
from airflow_pipesec.scan.savedmodel import judge_metadata
from airflow_pipesec.scan.scanner import Unscannable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow_pipesec.scan.scanner import Part

__all__ = ["COMPANIONS", "companion"]

_VARIABLES: Final = re.compile(r"(?P<root>(?:.*/)?)variables/variables\.(?:(?P<index>index)|data-\d{5}-of-\d{5})", re.DOTALL)
_BESIDE: Final = re.compile(r"(?P<root>(?:.*/)?)(?P<name>fingerprint|keras_metadata)\.pb", re.DOTALL)
MAIN: Final = "saved_model.pb"

TABLE_MAGIC: Final = (0xDB4775248B80FB57).to_bytes(8, "little")  # of LevelDB, whose table format the index is in
FOOTER: Final = 48

FINGERPRINT = message(ints="1 2 3 4 5", data="6 7")
METADATA = message(many="1")
METADATA_NODE = message(ints="2", data="3 4 5 6")


def companion(name: str, siblings: Collection[str]) -> str:
    """Return what a file is by its name where a SavedModel's main file lies in its place among the names; ``""`` for others.

    Variables have no form that their bytes would tell. They are read as numbers there, and as nothing else.
    """
    if found := _VARIABLES.fullmatch(name):
        form = "savedmodel index" if found["index"] else "savedmodel variables"
    elif found := _BESIDE.fullmatch(name):
        form = "savedmodel fingerprint" if found["name"] == "fingerprint" else "savedmodel keras metadata"
    else:
        return ""
    return form if found["root"] + MAIN in siblings else ""


def _look_variables(part: Part) -> None:
    part.saw("savedmodel variables")


def _look_index(part: Part) -> None:
    part.saw("savedmodel index")
    if part.size < FOOTER or part.view.read_at(part.size - len(TABLE_MAGIC), len(TABLE_MAGIC)) != TABLE_MAGIC:
        raise Unscannable("does not end as an index of variables")


def _look_fingerprint(part: Part) -> None:
    part.saw("savedmodel fingerprint")
    for _ in Wire(part.view, 1000).fields(0, part.size, FINGERPRINT, "a fingerprint"):
        pass


def _look_keras_metadata(part: Part) -> None:
    part.saw("savedmodel keras metadata")
    wire = Wire(part.view)
    for field in wire.fields(0, part.size, METADATA, "metadata"):
        for inner in wire.fields(field.start, field.end, METADATA_NODE, "metadata"):
            if inner.number == 5:
                judge_metadata(part, wire, inner)


COMPANIONS: Final[dict[str, Callable[[Part], None]]] = {
    "savedmodel variables": _look_variables,
    "savedmodel index": _look_index,
    "savedmodel fingerprint": _look_fingerprint,
    "savedmodel keras metadata": _look_keras_metadata,
}
"""How each form that :func:`companion` returns is looked at."""
