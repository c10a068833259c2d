"""States: what an object of an allowed class is given is data to it, and calls nothing that the file chose.

``pickle`` looks up ``__setstate__``, ``append`` and ``extend`` on the object itself, whose attributes are the file's, and numpy
asks any object for ``__array_interface__``, which is an address. So an object gets no such attributes, items go only to what
is a list, a set or a dictionary, and what looks a method up by a name that it was given gets a name of one that predicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from airflow_pipesec.scan.allow import AllowList
from airflow_pipesec.scan.values import UNKNOWN, Blob, Box, Made, Name

__all__ = ["LISTS", "MAPPINGS", "MEMORY", "asks_for_memory", "wrong_call", "wrong_items", "wrong_state"]

LISTS: Final = (("builtins", "list"), ("builtins", "set"), ("collections", "deque"))
"""What may be given items."""
MAPPINGS: Final = (
    ("collections", "Counter"),
    ("collections", "OrderedDict"),
    ("collections", "defaultdict"),
    ("scipy.sparse._dok", "dok_array"),
    ("scipy.sparse._dok", "dok_matrix"),
    ("scipy.sparse.dok", "dok_matrix"),
    ("sklearn.covariance._graph_lasso", "_DictWithDeprecatedKeys"),
    ("sklearn.utils", "Bunch"),
    ("sklearn.utils._bunch", "Bunch"),
)
"""What may be given keys and values."""
MOST = 1000  # methods of one estimator, and parts of a state
_SETTERS: Final = (
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch._utils", "_rebuild_parameter_with_state"),
)
_INDEXES: Final = (
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.datetimes", "_new_DatetimeIndex"),
    ("pandas.core.indexes.interval", "_new_IntervalIndex"),
    ("pandas.core.indexes.timedeltas", "_new_TimedeltaIndex"),
)
MEMORY: Final = frozenset(("__array__", "__array_interface__", "__array_struct__", "__cuda_array_interface__"))
"""What numpy asks any object for, and takes for the address of an array's elements."""
_BY_NAME: Final = frozenset(("_response_method", "response_method", "stack_method", "stack_method_"))
_METHODS: Final = frozenset(("auto", "decision_function", "predict", "predict_log_proba", "predict_proba", "transform"))
_PARTIAL: Final = ("functools", "partial")
_FRAMES: Final = (
    ("pandas", "DataFrame"),
    ("pandas", "Series"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.series", "Series"),
)
_MANAGERS: Final = (
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.core.internals.managers", "SingleBlockManager"),
)
_FRAME_KEYS: Final = frozenset(("_data", "_flags", "_metadata", "_mgr", "_name", "_typ", "attrs", "name"))
# Of pandas, a slot may be a property, which does what it likes with what it is given.
_SLOTTED: Final = ("scipy.interpolate.",)
_BOOSTERS: Final = (("lightgbm.basic", "Booster"), ("xgboost.core", "Booster"))


def asks_for_memory(key: Any) -> bool:
    """Whether numpy takes what stands under a key for the address of an array's elements."""
    return type(key) is str and key in MEMORY


def wrong_items(target: Made, kinds: tuple[tuple[str, str], ...]) -> bool:
    """Whether an instance of one of the shipped lists' classes is given items that it has no place for."""
    return target.name is not None and AllowList.shipped().has(target.name.module, target.name.name) and not target.is_of(*kinds)


def wrong_state(target: Made, state: Any) -> str:
    """Return why an instance must not get a state, as the rest of a sentence; ``""`` if it may."""
    shipped = target.name is not None and AllowList.shipped().has(target.name.module, target.name.name)
    slots = state[1] if isinstance(state, tuple) and len(state) == 2 else None
    for box in (state, state[0] if slots is not None else None, slots):
        if isinstance(box, Box) and box.kind == "dict":
            if box.hidden and not _is_of(target, ("catboost.",)):
                return "sets attributes whose names begin with two underscores"
            if any(key in box.entries and not _is_method(box.entries[key]) for key in _BY_NAME):
                return "names a method that does more than predict"
    if isinstance(state, tuple) and any(isinstance(each, Box) and each.private for each in state[:MOST]):
        return "sets attributes whose names begin with two underscores"
    if isinstance(slots, Box) and slots.entries and shipped and not _is_of(target, _SLOTTED):
        return f"sets attributes of {target.name} that are not kept in a dictionary"
    if target.is_of(_PARTIAL) and not _is_partial(state):
        return "makes a functools.partial of what is no function of the allow-list"
    if isinstance(state, Made) and shipped and not state.is_of(*_MANAGERS):
        return f"gives {target.name} a state that is an object"
    check: Callable[[Any], bool] | None = _frame if target.is_of(*_FRAMES) else _booster if target.is_of(*_BOOSTERS) else None
    return "" if check is None or check(state) else f"gives {target.name} a state that its library does not write"


def wrong_call(pair: tuple[str, str], args: tuple[Any, ...]) -> str:
    """Return why something must not be called with these, though they are of its kinds of arguments; ``""`` if it may."""
    if (pair in _SETTERS or pair[1].startswith("__pyx_unpickle_")) and args:
        state = args[-1] if isinstance(args[-1], tuple) else (args[-1],)
        if any(isinstance(each, Box) and each.private for each in state[:MOST]):
            return "sets attributes whose names begin with two underscores"
    if pair in _INDEXES and len(args) > 1 and isinstance(args[1], Box):
        held = args[1]
        if not held.whole or any(isinstance(held.entries.get(key), str | Blob) for key in ("tz", "dtype")):
            return f"calls {pair[0]}:{pair[1]} with a time zone or a type by its name, which may be that of a file"
    return ""


def _is_of(target: Made, modules: tuple[str, ...]) -> bool:
    return target.name is not None and target.name.module.startswith(modules)


def _is_method(value: Any) -> bool:
    """Whether a value is the name of a method that predicts, or a few of them."""
    if isinstance(value, Box) and value.kind == "list" and value.whole:
        return len(value.items) < MOST and all(_is_method(item) for item in value.items)
    if isinstance(value, tuple):
        return len(value) < MOST and all(_is_method(item) for item in value)
    return value is None or (type(value) is str and value in _METHODS)


def _is_partial(state: Any) -> bool:
    return isinstance(state, tuple) and len(state) == 4 and (isinstance(state[0], Name) or state[0] is UNKNOWN)


def _frame(state: Any) -> bool:
    """Whether a table gets its blocks, and nothing that its own properties would take for something else."""
    if isinstance(state, Made):
        return state.is_of(*_MANAGERS)
    if not isinstance(state, Box) or not state.whole or state.kind != "dict" or not state.entries.keys() <= _FRAME_KEYS:
        return False
    held = [state.entries[key] for key in ("_data", "_mgr") if key in state.entries]
    return len(held) == 1 and isinstance(held[0], Made) and held[0].is_of(*_MANAGERS)


def _booster(state: Any) -> bool:
    """Whether a booster gets its model as bytes or text: an address would be taken for one of its own."""
    if not isinstance(state, Box) or state.kind != "dict" or not state.whole:
        return False
    handles = [state.entries[key] for key in ("_handle", "handle") if key in state.entries]
    return all(
        each is None
        or isinstance(each, str | bytes)
        or (isinstance(each, Blob) and each.kind in ("str", "bytes"))
        or (isinstance(each, Made) and each.is_of(("builtins", "bytearray"), ("builtins", "bytes")))
        for each in handles
    )
